"""How a run stands, from what S3 holds: the numbers add up, and nothing is read twice."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

import producer
from config.clients import make_store
from config.results import Status
from producer.progress import clock, showing_progress, status_line
from producer.status import Phase, RunPoller, RunStatus
from tests.producer.stand_in import fail_chunk, finish_chunk, take_chunks


def judge(key: str) -> Status:
    return {"0": Status.EMPTY, "5": Status.UNDECODABLE}.get(key[-5], Status.OK)


def run_over(settings, bucket, put_keys, count):
    put_keys(f"in/{number:05d}.jpg" for number in range(count))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings, on_event=pytest.fail)
    assert run.wait_enqueued(60)
    return run


def adds_up(status: RunStatus) -> bool:
    return (
        status.done + status.failed + (status.remaining or 0) == status.images
        and sum(status.counts.values()) == status.done
        and status.done == status.counts.get(Status.OK, 0) + status.errors
    )


def test_a_run_from_its_first_chunk_to_its_last(settings, bucket, put_keys):
    run = run_over(settings, bucket, put_keys, 100)
    status = run.status()
    assert (status.phase, status.images, status.listed, status.done) == (Phase.RUNNING, 100, 100, 0)
    assert (status.chunks, status.chunks_done, status.chunks_failed) == (7, 0, 0)
    assert (status.images_per_s, status.eta_s, status.started_at, status.ended_at) == (None, None, None, None)
    assert adds_up(status)

    chunks = take_chunks(settings)
    for number, chunk in enumerate(reversed(chunks), 1):
        finish_chunk(settings, chunk, judge)
        status = run.status()
        assert adds_up(status)
        assert status.chunks_done == number
        if not status.ended:
            assert status.images_per_s > 0
            assert status.eta_s == pytest.approx(status.remaining / status.images_per_s)
            assert status.ended_at is None

    assert (status.phase, status.done, status.failed) == (Phase.DONE, 100, 0)
    assert status.counts == {Status.EMPTY: 10, Status.OK: 80, Status.UNDECODABLE: 10}
    assert status.errors == 20
    assert status.eta_s == 0
    assert status.seconds == {"chunk": 14.0, "fetch": 3.5}
    assert status.size_bytes == 100 * 100
    span_s = (status.ended_at - status.started_at).total_seconds()
    assert status.images_per_s == pytest.approx(100 / span_s)
    assert producer.open_run(run.run_id, settings=settings).status() == status


def test_given_up_chunks_are_counted_once_and_end_the_run(settings, bucket, put_keys):
    run = run_over(settings, bucket, put_keys, 100)
    chunks = take_chunks(settings)
    fail_chunk(settings, chunks[0])
    status = run.status()
    assert (status.phase, status.failed, status.remaining) == (Phase.RUNNING, 16, 84)
    for chunk in chunks[2:]:
        finish_chunk(settings, chunk)
    fail_chunk(settings, chunks[1])
    status = run.status()
    assert (status.phase, status.done, status.failed, status.remaining) == (Phase.FAILED, 68, 32, 0)
    assert status.chunks_failed == 2
    assert adds_up(status)
    finish_chunk(settings, chunks[0])  # a second delivery went well after all
    status = run.status()
    assert (status.phase, status.done, status.failed) == (Phase.FAILED, 84, 16)
    finish_chunk(settings, chunks[1])
    assert run.status().phase is Phase.DONE


def test_a_summary_is_read_once_and_those_behind_are_not_listed_again(proxied, proxy, bucket, put_keys):
    run = run_over(proxied, bucket, put_keys, 100)
    chunks = take_chunks(proxied)
    for chunk in (*chunks[:3], chunks[5]):
        finish_chunk(proxied, chunk)
    proxy.seen.clear()
    assert run.status().chunks_done == 4
    assert proxy.count("GET", "/summaries/") == 4
    proxy.seen.clear()
    assert run.status().chunks_done == 4
    assert proxy.count("GET", "/summaries/") == 0
    assert proxy.count("list-type=2", "start-after", "00000-0000048-") == 1
    finish_chunk(proxied, chunks[4])
    finish_chunk(proxied, chunks[3])
    proxy.seen.clear()
    assert run.status().chunks_done == 6
    assert proxy.count("GET", "/summaries/") == 2
    run.status()
    assert proxy.count("list-type=2", "start-after", "00000-0000096-") == 1


def test_a_chunk_that_was_split_counts_as_its_halves_and_once(settings, bucket, put_keys):
    run = run_over(settings, bucket, put_keys, 40)
    first, second, third = take_chunks(settings)
    left, right = second.halves()
    finish_chunk(settings, right, judge)
    status = run.status()
    assert (status.done, status.chunks_done) == (8, 0)
    assert adds_up(status)

    fail_chunk(settings, second)
    assert run.status().failed == 8, "only what its half has not done"
    for chunk in (*left.halves(), first, third):
        finish_chunk(settings, chunk, judge)
    status = run.status()
    assert (status.phase, status.done, status.failed, status.chunks_done) == (Phase.DONE, 40, 0, 3)
    assert adds_up(status)

    finish_chunk(settings, second, judge)  # a copy of the whole chunk that was still somewhere
    for look in (run, producer.open_run(run.run_id, settings=settings)):
        assert look.status().counts == status.counts
        assert look.status().chunks_done == 3
        assert look.results()["key"].to_pylist() == [f"in/{number:05d}.jpg" for number in range(40)]


def test_a_run_of_several_parts(settings, bucket, put_keys):
    small = settings.model_copy(update={"chunk_size": 1})
    run = run_over(small, bucket, put_keys, 64 + 30)
    chunks = take_chunks(small)
    assert (run.status().chunks, len(chunks)) == (94, 94)
    for chunk in chunks[50:80]:
        finish_chunk(small, chunk)
    assert run.status().done == 30
    for chunk in (*chunks[80:], *chunks[:50]):
        finish_chunk(small, chunk)
    assert run.status().phase is Phase.DONE


def test_a_fleet_that_stopped_shows_no_speed(settings, bucket, put_keys, monkeypatch):
    run = run_over(settings, bucket, put_keys, 100)
    chunk = take_chunks(settings)[0]
    finish_chunk(settings, chunk)
    poller = RunPoller(run._run)
    assert poller.poll().images_per_s

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=61)

    monkeypatch.setattr("producer.status.datetime", Later)
    status = poller.poll()
    assert (status.images_per_s, status.eta_s) == (0, None)


def test_there_is_no_run(settings, bucket):
    with pytest.raises(producer.UsageError, match="there is no run at"):
        producer.open_run(f"s3://{bucket}/out/20261122-103000-classify-resnet50-3fa2", settings=settings)


def test_a_bucket_that_is_away_is_said_in_one_line(settings, bucket, put_keys):
    run = run_over(settings, bucket, put_keys, 10)
    away = settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9", "s3_retry_timeout_s": 0.5})
    poller = RunPoller(run._run)
    object.__setattr__(poller._run, "store", make_store(away, bucket))
    with pytest.raises(producer.UnavailableError) as refused:
        poller.poll()
    assert "\n" not in str(refused.value)


# --- Shown ---------------------------------------------------------------------------------------------------------


def status_at(**values) -> RunStatus:
    now = datetime.now(UTC)
    return RunStatus(
        **{
            "run_id": "run-1",
            "address": "s3://b/run-1",
            "phase": Phase.RUNNING,
            "images": 10_000,
            "listed": 10_000,
            "done": 1_280,
            "failed": 0,
            "counts": {Status.OK: 1_280},
            "chunks": 40,
            "chunks_done": 5,
            "chunks_failed": 0,
            "images_per_s": 96.1,
            "eta_s": 91.0,
            "started_at": now,
            "ended_at": None,
            "seconds": {},
            "size_bytes": 0,
            **values,
        }
    )


def test_a_status_in_one_line():
    assert status_line(status_at()) == "running   1,280 of 10,000 images (12.8 %), 96.1 images/s, 1:31 left"
    assert status_line(status_at(counts={Status.OK: 1_200, Status.EMPTY: 80}, failed=256)) == (
        "running   1,280 of 10,000 images (12.8 %), 256 given up, 80 with an error, 96.1 images/s, 1:31 left"
    )
    assert status_line(status_at(phase=Phase.LISTING, images=None, eta_s=None, images_per_s=None)) == (
        "listing   1,280 of 10,000 images or more"
    )
    assert status_line(status_at(phase=Phase.DONE, done=10_000, counts={Status.OK: 10_000})) == (
        "done      10,000 of 10,000 images (100.0 %), 96.1 images/s"
    )


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3_599, "59:59"), (36_061, "10:01:01")])
def test_a_clock(seconds, shown):
    assert clock(seconds) == shown


def test_a_status_as_json():
    values = json.loads(json.dumps(status_at().to_json()))
    assert values["phase"] == "running"
    assert values["counts"] == {"ok": 1_280}
    assert (values["remaining"], values["errors"]) == (8_720, 0)
    assert datetime.fromisoformat(values["started_at"]).tzinfo


def test_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with showing_progress(Console(file=out, width=40)) as show:
        for done in range(1_280, 1_300):
            show(status_at(done=done))
        show(status_at(phase=Phase.DONE, done=10_000))
        show(status_at(phase=Phase.DONE, done=10_000))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["running", "done"]


def test_a_bar_in_a_terminal():
    out = io.StringIO()
    with showing_progress(Console(file=out, width=140, force_terminal=True)) as show:
        show(status_at())
        show(status_at(phase=Phase.LISTING, images=None))
        show(status_at(phase=Phase.DONE, done=10_000))
    assert "10,000 of 10,000 images (100.0 %)" in out.getvalue()
    assert "━" in out.getvalue()
