"""What autoscale counts, over real servers: all runs, the last rates, and never a 0 because nobody could look."""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from threading import Event

import obstore
import pytest

import producer
from config.clients import make_celery, make_redis, make_store
from config.messages import Chunk, Job
from config.results import FrozenManifest, RunAddress, RunRecord
from config.trained import TrainingAddress, TrainingFailure
from config.training import TrainingOptions
from producer.alive import AliveRuns, InRedis
from producer.autoscale import Autoscaler, look_once, to_text
from producer.frozen import Totals
from producer.held import announced
from producer.local_stack import child_environment, write_config
from producer.metrics import make_figures, metric_data
from producer.pages import ListedKey
from producer.queued import queued_runs, restless_runs
from producer.rates import Rates, Work, machine_seconds
from producer.records import write_frozen, write_run
from producer.run import OpenRun, freeze_rest
from tests.producer.stand_in import fail_chunk, finish_chunk, take_chunks

KIND = "classify efficientnet_lite0"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def based(settings, bucket):
    """Settings with an output base, and AWS where nobody answers."""
    return settings.model_copy(
        update={"output": f"s3://{bucket}/out/", "aws_endpoint_url": "http://127.0.0.1:1", "s3_retry_timeout_s": 0.3}
    )


@pytest.fixture
def aws_keys(monkeypatch):
    """An AWS account beside the S3 server's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


def submitted(settings, bucket, put_keys, keys=82):
    put_keys(f"in/{number:05d}.jpg" for number in range(keys))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings, output=settings.output)
    assert run.wait_enqueued(60)
    return run


def in_redis(settings):
    with make_redis(settings) as client:
        return InRedis(queued_runs(client, settings), restless_runs(client))


def looked(alive, settings):
    return alive.look(in_redis(settings))


def test_images_to_do_are_those_of_all_runs_that_go_on(based, bucket, put_keys):
    alive = AliveRuns(based, pytest.fail)
    assert looked(alive, based).to_do == 0
    first = submitted(based, bucket, put_keys)  # five chunks of 16 keys, and one of 2
    done, failed, halved, *_, last = take_chunks(based)
    finish_chunk(based, done)
    look = looked(alive, based)
    assert look.to_do == 66
    assert [work.images for work in look.work] == [16]
    fail_chunk(based, failed)
    left, _ = halved.halves()
    finish_chunk(based, left)
    finish_chunk(based, last)
    second = submitted(based, bucket, put_keys, keys=20)  # the same keys and no more: 82
    look = looked(alive, based)
    assert {run.run_id: run.to_do for run in look.runs} == {first.run_id: 66 - 16 - 8 - 2, second.run_id: 82}
    assert sorted(work.images for work in look.work) == [2, 8], "only what is new is read"
    assert all(run.waiting_since and run.waiting_since <= datetime.now(UTC) for run in look.runs)
    second.cancel()
    assert looked(alive, based).to_do == 40
    assert not looked(alive, based).work


def test_a_run_that_ended_is_not_looked_at_again_until_somebody_resumes_it(based, bucket, put_keys, proxy):
    proxied = based.model_copy(update={"s3_endpoint_url": proxy.url})
    run = submitted(based, bucket, put_keys, keys=40)
    chunks = take_chunks(based)
    lost, last, *others = chunks
    for chunk in others:
        finish_chunk(based, chunk)
    fail_chunk(based, lost)
    alive = AliveRuns(proxied, pytest.fail)
    assert looked(alive, based).to_do == len(last.keys)
    resumed_at_work(run, based)
    assert looked(alive, based).to_do == len(last.keys) + len(lost.keys)
    finish_chunk(based, last)
    fail_chunk(based, lost)
    assert looked(alive, based).to_do == 0
    before = len(proxy.seen)
    assert looked(alive, based).to_do == 0
    assert len(proxy.seen) == before + 1, "the base is listed, and nothing else is asked"
    run.resume()
    assert run.wait_enqueued(60)
    assert looked(alive, based).to_do == len(lost.keys)
    assert take_chunks(based) == [lost]
    assert looked(alive, based).to_do == len(lost.keys), "in a hand that Redis does not know of"
    finish_chunk(based, lost)
    assert looked(alive, based).to_do == 0


def resumed_at_work(run, settings):
    """Somebody tries again what was given up while the run goes on, and workers take it at once."""
    run.resume()
    assert run.wait_enqueued(60)
    take_chunks(settings)


def test_old_runs_cost_one_listing(based, bucket, proxy):
    store, old = make_store(based, bucket), 120
    for number in range(old):
        address = RunAddress.of(based.output, f"20260101-{number:06d}-old")
        job = Job(run_id=address.run_id, model="resnet50", output=based.output)
        record = RunRecord(job=job, source="keys", bucket=bucket, chunk_size=16, created_at=NOON, versions={})
        write_run(store, address, record)
        write_frozen(store, address, FrozenManifest(parts=0, keys=0, size_bytes=0, frozen_at=NOON))
    obstore.put(store, "out/20260101-notes/read.me", b"no run")
    alive = AliveRuns(based.model_copy(update={"s3_endpoint_url": proxy.url}), pytest.fail)
    assert looked(alive, based).to_do == 0
    first = len(proxy.seen)
    assert first < 6 * old
    assert looked(alive, based).to_do == 0
    assert len(proxy.seen) == first + 1


def test_a_run_that_is_not_below_the_base_is_known_by_its_messages(based, bucket, put_keys):
    elsewhere = based.model_copy(update={"output": f"s3://{bucket}/elsewhere/"})
    run = submitted(elsewhere, bucket, put_keys)
    alive = AliveRuns(based, pytest.fail)
    look = looked(alive, based)
    assert [(found.run_id, found.to_do) for found in look.runs] == [(run.run_id, 82)]
    take_chunks(based)
    with make_redis(based) as client:
        client.flushall()
    assert looked(alive, based).to_do == 82, "once known, Redis may forget it"


def test_chunks_of_a_sender_without_pixelherd_count_as_long_as_they_are_in_redis(based, bucket):
    job = {"run_id": "my-run-1", "model": "resnet50", "output": f"s3://{bucket}/out/"}
    with make_celery(based) as app:
        for start in (0, 2, 4):
            chunk = {"version": 1, "job": job, "bucket": bucket, "keys": ["a.jpg", "b.jpg"], "start": start}
            app.send_task("pixelherd.classify", queue=based.queue, kwargs={"chunk": chunk})
        app.send_task("pixelherd.classify", queue=based.queue, kwargs={"chunk": "nonsense"})
        alive = AliveRuns(based, pytest.fail)
        (run,) = looked(alive, based).runs
        assert (run.run_id, run.kind, run.to_do) == ("my-run-1", "classify resnet50", 6)
        with app.connection_for_write() as connection:
            delivered = connection.default_channel.basic_get(based.queue)
            assert looked(alive, based).to_do == 6
            connection.default_channel.basic_ack(delivered.delivery_tag)
            assert looked(alive, based).to_do == 4


def test_nobody_waits_for_the_rest_of_a_listing_that_was_cut_off(based, bucket, put_keys):
    run = submitted(based, bucket, put_keys)
    obstore.delete(make_store(based, bucket), run.address.frozen_key)
    alive = AliveRuns(based, pytest.fail)
    assert looked(alive, based).to_do == 82
    take_chunks(based)
    assert looked(alive, based).to_do == 0
    with announced(based, run.run_id):
        wait_for(lambda: run.run_id in in_redis(based).restless)
        assert looked(alive, based).to_do == 82


def test_what_cannot_be_seen_is_not_published_as_nothing(based, bucket, put_keys, aws_keys):
    nowhere = based.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    blind = AliveRuns(nowhere, pytest.fail)
    figures = make_figures(looked(blind, based), True, Rates(), workers=0)
    assert (figures.images_to_do, figures.images_without_worker, figures.backlog_s_per_worker) == (None, None, None)
    run = submitted(based, bucket, put_keys)
    figures = make_figures(looked(blind, based), True, Rates(), workers=0)
    assert figures.images_to_do == figures.images_without_worker == 82, "Redis alone knows of these"
    alive = AliveRuns(based, pytest.fail)
    assert looked(alive, based).to_do == 82
    take_chunks(based)
    alive._stores.clear()
    alive._settings = nowhere
    for watch in alive._watches.values():
        object.__setattr__(watch.run, "store", make_store(nowhere, bucket))
    look = looked(alive, based)
    assert look.blind
    assert look.to_do == 82, "the last that was seen"
    run.cancel()
    look = AliveRuns(based, pytest.fail).look(None)  # Redis is away: another sender may have chunks there
    assert make_figures(look, False, Rates(), workers=3).images_to_do is None
    assert {one["MetricName"] for one in metric_data(make_figures(look, False, Rates(), 3), "demo")} == {"Workers"}


def test_seconds_of_backlog_follow_from_each_models_own_rate(based, bucket, put_keys):
    submitted(based, bucket, put_keys)
    rates, alive = Rates(), AliveRuns(based, pytest.fail)
    look = looked(alive, based)
    assert make_figures(look, True, rates, 2).backlog_s_per_worker is None, "nobody knows yet how fast they are"
    rates.add([Work("m1", KIND, 100, NOON, NOON + timedelta(seconds=10))])
    figures = make_figures(look, True, rates, 2)
    assert figures.backlog_s_per_worker == pytest.approx(82 / 10 / 2)
    assert figures.images_per_s_per_worker == pytest.approx(10)
    assert make_figures(look, True, rates, 0).images_without_worker == 82
    assert make_figures(look, True, rates, 0).backlog_s_per_worker == pytest.approx(8.2)
    rates.add(
        [Work("m1", "classify vgg19", 10, NOON, NOON + timedelta(seconds=10))]
    )  # beside the other: half the machine
    assert rates.of(KIND) == pytest.approx(20)
    assert rates.of("classify vgg19") == pytest.approx(2)
    assert rates.of("another") == pytest.approx(11)


def test_a_training_keeps_one_worker_and_asks_for_no_other(based, bucket):
    address = RunAddress.of(based.output, "20260101-000000-fine-tune")
    training = TrainingOptions(epochs=(2, 0))
    job = Job(run_id=address.run_id, mode="fine_tune", model="resnet50", output=based.output, training=training)
    record = RunRecord(job=job, source="keys", bucket=bucket, chunk_size=16, created_at=NOON, versions={})
    store, keys = make_store(based, bucket), ["a.jpg", "b.jpg"]
    write_run(store, address, record)
    chunk = Chunk(job=job, bucket=bucket, keys=keys, labels=["x", "y"])
    run = OpenRun(address, record, store, based, pytest.fail)
    listed = iter([ListedKey(key, label="x") for key in keys])
    assert list(freeze_rest(run, listed, 0, Totals(), Event())) == [0]
    alive, rates = AliveRuns(based, pytest.fail), Rates()
    rates.add([Work("m1", "fine_tune resnet50", 10, NOON, NOON + timedelta(seconds=10))])
    assert make_figures(looked(alive, based), True, rates, 1).backlog_s_per_worker == pytest.approx(2)
    finish_chunk(based, chunk)
    figures = make_figures(looked(alive, based), True, rates, 1)
    assert (figures.images_to_do, figures.backlog_s_per_worker) == (2, None)
    assert make_figures(looked(alive, based), True, rates, 0).images_without_worker == 2
    obstore.put(store, TrainingAddress(address).failure_key, failure())
    assert looked(alive, based).to_do == 0


def failure() -> bytes:
    return TrainingFailure(epoch="1-001", error="no memory", worker="m1:1", failed_at=NOON).to_json()


def test_machines_that_overlap_and_idle_are_measured_by_their_busy_time():
    def work(machine, start, end, images=10):
        return Work(machine, "m", images, NOON + timedelta(seconds=start), NOON + timedelta(seconds=end))

    assert machine_seconds([work("a", 0, 10), work("a", 5, 15), work("b", 0, 10)]) == {"m": pytest.approx(25)}
    assert machine_seconds([work("a", 0, 10), work("a", 100, 110)]) == {"m": pytest.approx(20)}
    assert machine_seconds([]) == {}
    rates = Rates()
    rates.add([work("a", 0, 10), work("b", 0, 10)])
    rates.add([work("a", 10_000, 10_001)])
    assert rates.of("m") == pytest.approx(10), "the last ten minutes count"


def test_a_person_sees_the_figures_once(based, bucket, put_keys, aws_keys):
    submitted(based, bucket, put_keys)
    figures, problems = look_once(based, pytest.fail, publish=True)  # where nobody answers: a line in the log
    assert figures.images_to_do == 82
    assert problems == ()
    assert "images_to_do             82" in to_text(figures)


def test_redis_away_is_a_problem_and_no_end(based, bucket, put_keys, aws_keys):
    submitted(based, bucket, put_keys)
    nowhere = based.model_copy(update={"broker_url": type(based.broker_url)("redis://127.0.0.1:1/0")})
    seen = Autoscaler(nowhere, pytest.fail).look()
    assert seen.figures.images_to_do == 82
    assert seen.figures.backlog_s_per_worker is None
    assert "cannot ask the broker" in seen.problems[0]


def test_lost_chunks_are_sent_again_and_sigterm_ends_it(based, bucket, put_keys, aws_keys, tmp_path, monkeypatch):
    submitted(based, bucket, put_keys)
    lost = take_chunks(based)
    config = write_config(based.model_copy(update={"autoscale_interval_s": 0.2}), tmp_path / "autoscale.toml")
    program = """
import logging, producer.autoscale, producer.reconcile
from config.settings import read_settings
logging.basicConfig(level=logging.INFO)
producer.autoscale.REPAIR_INTERVAL_S = producer.reconcile.LOOK_INTERVAL_S = producer.reconcile.SURE_S = 0.1
producer.autoscale.run_autoscale(read_settings(), print)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=child_environment(config), stderr=subprocess.PIPE, text=True
    )
    try:
        with make_redis(based) as client:
            wait_for(lambda: client.llen(based.queue) == len(lost) or child.poll() is not None)
        child.send_signal(signal.SIGTERM)
        _, log = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0, log
    assert "Traceback" not in log
    assert "published=no images_to_do=82" in log
    assert "autoscale=not_published" in log
    assert "reconcile=sent chunks=6" in log
    assert take_chunks(based) == lost


def wait_for(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
