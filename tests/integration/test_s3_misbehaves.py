"""S3 throttles, breaks off, refuses everybody or is gone: no row is wrong, and each run ends and can be resumed."""

import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import obstore
import pytest

import producer
from config.clients import make_redis, make_s3, make_store
from config.settings import Settings
from producer.local_stack import running_worker
from producer.processes import Child
from tests.images import noise
from tests.integration.herds import PATIENCE_S
from tests.producer.proxy import Answer, Proxy, Trouble, running_proxy

#: So many a small run has in any case.
CHUNK = 16

PROCESSES, RETRIES = 3, 2

#: What a key's first requests meet, and how many of them: obstore asks, then boto3 for a code where it was refused.
PASSING: list[tuple[Answer | Trouble, int]] = [
    (Answer(503, "SlowDown"), 3),
    (Answer(500, "InternalError"), 2),
    (Trouble.RESET, 2),
    (Trouble.CUT, 1),
    (Trouble.HANG, 1),
    (Answer(400, "ExpiredToken"), 1),
    (Answer(403, "ExpiredToken"), 2),
    (Answer(403, "InvalidAccessKeyId"), 2),
    (Answer(403, "SignatureDoesNotMatch"), 2),
    (Answer(403, ""), 2),
    (Answer(404, ""), 2),
]

#: What does not pass until somebody has mended it.
LASTING: dict[str, Answer | Trouble] = {
    "throttled": Answer(503, "SlowDown"),
    "expired": Answer(400, "ExpiredToken"),
    "expired-403": Answer(403, "ExpiredToken"),
    "unknown-key": Answer(403, "InvalidAccessKeyId"),
    "gateway": Answer(404, ""),
    "truncated": Trouble.CUT,
}


@pytest.fixture(scope="module")
def proxy(servers: dict[str, Any]) -> Iterator[Proxy]:
    """Between the worker and S3; the producer is not troubled."""
    with running_proxy(servers["s3_endpoint_url"]) as found:
        yield found


@pytest.fixture(scope="module")
def own(servers: dict[str, Any], cache_dir: Path) -> Settings:
    """The settings of these tests."""
    return Settings(**servers, queue=f"test-{secrets.token_hex(4)}", cache_dir=cache_dir, engine_threads=1)


@pytest.fixture(scope="module")
def behind(own: Settings, proxy: Proxy) -> Iterator[Child]:
    """One worker for all tests, behind the proxy."""
    changes = {
        "s3_endpoint_url": proxy.url,
        "s3_timeout_s": 2.0,
        "s3_retry_timeout_s": 3.0,
        "chunk_retries": RETRIES,
        "worker_processes": PROCESSES,
    }
    with tempfile.TemporaryDirectory() as name, running_worker(own.model_copy(update=changes), Path(name)) as child:
        yield child


@pytest.fixture
def make_bucket(own: Settings) -> Iterator[Any]:
    """Make a bucket with so many images under in/."""
    with closing(make_s3(own)) as s3:

        def make(images: int, name: str = "") -> str:
            bucket = name or f"test-{secrets.token_hex(4)}"
            s3.create_bucket(Bucket=bucket)
            store = make_store(own, bucket)
            for number in range(images):
                obstore.put(store, f"in/{number:03d}.jpg", noise(number))
            return bucket

        yield make


def submit(own: Settings, bucket: str, **options: Any) -> producer.Run:
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=own, **options)
    assert run.wait_enqueued(60)
    return run


def check(own: Settings, run: producer.Run, images: int) -> None:
    """Every key has one row, and every row is right, in what any reader of the parts sees."""
    rows = run.results(["key", "status", "class_id"]).to_pylist()
    assert Counter(row["key"] for row in rows) == Counter(f"in/{number:03d}.jpg" for number in range(images))
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["class_id"] for row in rows)
    parts = [found for page in obstore.list(make_store(own, run.address.bucket), run.address.parts) for found in page]
    assert len(parts) == run.status().chunks_done


def test_what_passes_costs_no_row_and_makes_none_wrong(
    own: Settings, proxy: Proxy, behind: Child, make_bucket: Any
) -> None:
    bucket = make_bucket(3 * CHUNK)
    asked: Counter[str] = Counter()

    def answer(request: str) -> Answer | Trouble | None:
        if not request.partition(" ")[2].startswith(f"/{bucket}/"):
            return None
        asked[request] += 1
        image = re.match(r"GET .*/in/(\d+)\.jpg$", request)
        met, times = PASSING[int(image[1]) % len(PASSING)] if image else PASSING[0]
        return met if asked[request] <= times else None

    proxy.answer = answer
    run = submit(own, bucket)
    assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE, behind.program.log.read_text()[-3000:]
    check(own, run, 3 * CHUNK)
    assert any(request.startswith("PUT") and "/parts/" in request and times > 3 for request, times in asked.items())
    assert max(asked.values()) < 20  # whoever is told to slow down does


def test_what_lasts_leaves_failures_and_no_rows_until_it_is_mended(
    own: Settings, proxy: Proxy, behind: Child, make_bucket: Any
) -> None:
    buckets = {make_bucket(2): met for met in LASTING.values()}

    def answer(request: str) -> Answer | Trouble | None:
        bucket, _, key = request.partition(" /")[2].partition("/")
        return buckets.get(bucket) if key.startswith("in/") else None

    proxy.answer = answer
    runs = [submit(own, bucket) for bucket in buckets]
    for run in runs:
        status = run.wait(timeout_s=PATIENCE_S)
        assert (status.phase, status.done, status.failed) == (producer.Phase.FAILED, 0, 2)
        (failure,) = run.report().failures
        assert failure.tries == RETRIES + 1
        assert run.results().num_rows == 0
        assert status.reason is None  # somebody else's credentials may be good
    proxy.answer = lambda request: None
    for run in runs:
        assert run.resume().wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
        check(own, run, 2)


def test_a_bucket_that_vanishes_stops_the_run_with_a_reason_and_resume_goes_on(
    own: Settings, proxy: Proxy, behind: Child, make_bucket: Any
) -> None:
    proxy.answer = lambda request: None
    images = 10 * CHUNK
    source, output, wholly = make_bucket(images), make_bucket(0), make_bucket(CHUNK)
    idle = own.model_copy(update={"queue": f"test-{secrets.token_hex(4)}"})  # nobody listens there
    run = submit(idle, source, output=f"s3://{output}/runs")
    gone = submit(idle, wholly)
    with closing(make_s3(own)) as s3:
        for bucket in (source, wholly):
            empty(own, bucket)
            s3.delete_bucket(Bucket=bucket)
    with make_redis(own) as client:
        while client.lmove(idle.queue, own.queue):
            pass
        status = run.wait(timeout_s=PATIENCE_S)
        assert status.phase is producer.Phase.FAILED
        assert "NoSuchBucket" in (status.reason or "")
        assert f"{RETRIES + 1} tries in a row" in (status.reason or "")
        assert "NoSuchBucket" in run.report().to_text()
        assert status.chunks_failed <= PROCESSES  # of ten
        with pytest.raises(producer.PixelherdError, match="404 Not Found"):
            gone.wait(timeout_s=PATIENCE_S)
        # Nobody tries for ever what nobody can be told of.
        wait_until_empty(client, own.queue)
    behind.check()
    make_bucket(images, source)
    again = producer.open_run(str(run.address), settings=own)
    assert again.resume().wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
    check(own, again, images)


def empty(own: Settings, bucket: str) -> None:
    store = make_store(own, bucket)
    paths = [found["path"] for page in obstore.list(store) for found in page]
    obstore.delete(store, paths)


def wait_until_empty(client: Any, queue: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while client.llen(queue) + client.hlen("unacked"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
