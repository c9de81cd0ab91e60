"""The Python face: submit, wait, results, report, a handful of keys at once, and a run found again."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

import producer
from config.messages import Weights
from config.models import MODELS
from config.results import RunAddress, Status, row_schema
from config.settings import Settings, write_settings
from producer.local_stack import plain_settings
from producer.ports import free_ports
from producer.progress import showing_progress
from producer.recent import REMEMBERED, recent_file, recent_runs, remember
from producer.weights import check_keras_host, choose_weights
from tests.producer.stand_in import StandIn, fail_chunk, queued_chunks, take_chunks


def judge(key: str) -> Status:
    return Status.MISSING if "gone" in key else Status.OK


@pytest.fixture
def photos(bucket, put_keys):
    put_keys([*(f"in/{number:03d}.jpg" for number in range(98)), "in/gone.jpg", "in/zoo +ü.jpg"])
    return f"s3://{bucket}/in/"


def test_a_run_from_submit_to_results(settings, photos):
    out = io.StringIO()
    with StandIn(settings, judge=judge), showing_progress(Console(file=out)) as show:
        run = producer.submit("classify", photos, settings=settings, model="resnet50", weights="random")
        status = run.wait(show=show, timeout_s=60)
    assert (status.phase, status.done, status.errors) == (producer.Phase.DONE, 100, 1)
    assert out.getvalue().splitlines()[-1].startswith("done      100 of 100 images (100.0 %), 1 with an error")

    table = run.results()
    keys = [f"in/{number:03d}.jpg" for number in range(98)] + ["in/gone.jpg", "in/zoo +ü.jpg"]
    assert table["key"].to_pylist() == keys
    assert table.schema.equals(row_schema(run.record.job))
    assert table.schema.metadata[b"pixelherd.run_id"] == run.run_id.encode()
    failed = [row for row in run.results(["key", "status"]).to_pylist() if row["status"] != "ok"]
    assert failed == [{"key": "in/gone.jpg", "status": "missing"}]
    assert repr(run) == f"<Run {run.address}>"


def test_results_before_the_first_row(settings, photos):
    run = producer.submit("classify", photos, settings=settings)
    assert run.results().num_rows == 0
    assert run.results().schema.equals(row_schema(run.record.job))
    assert run.results(["key"]).schema.names == ["key"]
    run.wait_enqueued(30)


def test_the_report_in_words_and_as_json(settings, photos):
    run = producer.submit("classify", photos, settings=settings, model="resnet50", weights="random")
    run.wait_enqueued(30)
    fail_chunk(settings, take_chunks(settings, 1)[0], "throttled: SlowDown")
    with StandIn(settings, judge=judge):
        status = run.wait(timeout_s=60)
    assert status.phase is producer.Phase.FAILED
    report = run.report()
    text = report.to_text()
    assert text.splitlines()[0] == report.warning
    for words in (
        "RANDOM WEIGHTS",
        f"{run.run_id}: failed",
        "classify with resnet50, weights random",
        photos,
        f"{run.address}/parts/*.parquet",
        "84 of 100 done, 16 given up",
        "83 ok",
        "1 missing",
        "6 tries): throttled: SlowDown",
        f"pixelherd resume {run.run_id}",
        "WHERE status <> 'ok'",
    ):
        assert words in text
    values = json.loads(report.to_json())
    assert values["record"]["job"]["run_id"] == run.run_id
    assert values["status"]["counts"] == {"missing": 1, "ok": 83}
    assert values["failures"][0]["error"] == "throttled: SlowDown"


def test_a_handful_goes_before_the_bulk_and_comes_in_the_order_asked(settings, bucket, photos):
    bulk = producer.submit("classify", photos, settings=settings)
    assert bulk.wait_enqueued(30)
    asked = [f"s3://{bucket}/in/{name}" for name in ("005.jpg", "gone.jpg", "001.jpg", "005.jpg", "zoo +ü.jpg")]
    with StandIn(settings, settings.now_queue, judge) as worker:
        table = producer.classify(asked, settings=settings)
    assert [f"s3://{bucket}/{key}" for key in table["key"].to_pylist()] == asked
    assert table["status"].to_pylist() == ["ok", "missing", "ok", "ok", "ok"]
    assert [len(chunk.keys) for chunk in worker.chunks] == [4]
    assert len(queued_chunks(settings)) == 7
    with StandIn(settings, settings.now_queue):
        assert producer.classify("in/005.jpg", settings=settings, bucket=bucket).num_rows == 1


def test_a_handful_that_nobody_takes_or_that_fails(settings, bucket, photos):
    with pytest.raises(producer.UnavailableError, match="is a worker running"):
        producer.classify(f"{photos}005.jpg", settings=settings, timeout_s=0.2)
    with pytest.raises(producer.UsageError, match="more than a handful"):
        producer.classify([f"s3://{bucket}/{number}" for number in range(1_001)], settings=settings)
    take_chunks(settings, queue=settings.now_queue)

    def give_up() -> None:
        while not (chunks := take_chunks(settings, queue=settings.now_queue)):
            pass
        fail_chunk(settings, chunks[0], "connection lost")

    thread = threading.Thread(target=give_up)
    thread.start()
    with pytest.raises(producer.UnavailableError, match="given up: connection lost"):
        producer.classify(f"{photos}005.jpg", settings=settings)
    thread.join()


def test_a_run_is_found_again(settings, bucket, photos, tmp_path, monkeypatch):
    run = producer.submit("classify", photos, settings=settings)
    run.wait_enqueued(30)
    assert producer.open_run(run.run_id, settings=settings).record == run.record
    assert producer.open_run(str(run.address), settings=settings).record == run.record
    assert producer.recent_runs() == [run.address]
    with pytest.raises(producer.UsageError, match=f"did you mean {run.run_id}"):
        producer.open_run(run.run_id[:-1], settings=settings)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    with pytest.raises(producer.UsageError, match="give its address"):
        producer.open_run(run.run_id, settings=settings)
    there = settings.model_copy(update={"output": f"s3://{bucket}/pixelherd-results"})
    assert producer.open_run(run.run_id, settings=there).record == run.record
    with pytest.raises(producer.UsageError, match="there is no run at"):
        producer.open_run("20261122-103000-classify-resnet50-3fa2", settings=there)


def test_a_home_that_cannot_be_written_stops_nothing(settings, photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = producer.submit("classify", photos, settings=settings)
    assert run.wait_enqueued(30)
    assert recent_runs() == []


def test_only_the_newest_runs_are_remembered():
    for number in range(2 * REMEMBERED + 2):
        remember(RunAddress("bucket", f"out/run-{number}"))
    runs = recent_runs()
    assert runs[0].run_id == f"run-{2 * REMEMBERED + 1}"
    assert len(runs) <= REMEMBERED + 2
    assert len(recent_file().read_text().splitlines()) == len(runs)


@contextmanager
def script(settings: Settings, directory: Path, program: str, source: str) -> Iterator[subprocess.Popen[str]]:
    """A person's own program, in its own process."""
    config = directory / "pixelherd.toml"
    write_settings(config, **plain_settings(settings))
    env = os.environ | {"PIXELHERD_CONFIG": str(config), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", f"import producer, sys; source = sys.argv[1]; {program}", source]
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def test_a_script_that_ends_without_waiting_leaves_a_whole_run(settings, photos, tmp_path):
    """It ends when all is enqueued: at first there is room for 20 of its 100 chunks."""
    narrow = settings.model_copy(update={"chunk_size": 1, "queue_window": 20})
    with script(narrow, tmp_path, "producer.submit('classify', source)", photos) as child:
        taken = []
        while child.poll() is None:
            taken += take_chunks(narrow)
            time.sleep(0.01)
        assert child.returncode == 0, child.stderr and child.stderr.read()
    taken += take_chunks(narrow)
    assert len({chunk.chunk_id for chunk in taken}) == 100


@pytest.mark.parametrize(("window", "words"), [(1_000, "pixelherd status"), (2, "pixelherd resume")])
def test_ctrl_c_says_how_to_go_on(window, words, settings, photos, tmp_path):
    own = settings.model_copy(update={"chunk_size": 1, "queue_window": window})
    program = "run = producer.submit('classify', source); print(run.run_id, flush=True); run.wait()"
    with script(own, tmp_path, program, photos) as child:
        assert child.stdout
        run_id = child.stdout.readline().strip()
        run = producer.open_run(f"{photos.removesuffix('in/')}pixelherd-results/{run_id}", settings=own)
        while run.status().images is None or len(queued_chunks(own)) < min(window, 100):
            time.sleep(0.05)
        time.sleep(0.5)  # the last batch is in Redis a moment before its sender has ended
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert f"{words} {run_id}" in said
    assert child.returncode == -signal.SIGINT


# --- Weights -------------------------------------------------------------------------------------------------------


def test_weights_that_a_job_names(settings, bucket, put_keys, tmp_path):
    body = b"weights" * 1_000
    sha256 = hashlib.sha256(body).hexdigest()
    put_keys(["models/mine.keras"], body)
    (tmp_path / "my own.weights.h5").write_bytes(body)
    lite, vgg = MODELS["efficientnet_lite0"], MODELS["vgg19"]
    stored, local = f"s3://{bucket}/models/mine.keras", (tmp_path / "my own.weights.h5").as_uri()
    for asked, model, chosen in (
        (None, lite, Weights(uri="packaged")),
        ("imagenet", lite, Weights(uri="packaged")),
        ("random", vgg, Weights(uri="random")),
        (stored, vgg, Weights(uri=stored, sha256=sha256)),
        (local, vgg, Weights(uri=local, sha256=sha256)),
    ):
        assert choose_weights(asked, model, settings) == chosen


def test_imagenet_weights_are_refused_where_their_host_is_away():
    with pytest.raises(producer.UsageError, match=r"cannot be downloaded here .*--weights s3://") as refused:
        check_keras_host("vgg19", f"http://127.0.0.1:{free_ports(1)[0]}/")
    assert "\n" not in str(refused.value)


def test_imagenet_weights_are_taken_where_their_host_answers(proxy):
    check_keras_host("vgg19", proxy.url)
