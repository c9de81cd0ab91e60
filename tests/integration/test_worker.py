"""A real worker process on real servers, driven by plain Celery messages, as any application can send them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from config.clients import make_celery, make_redis
from config.messages import Chunk, Job, TaskName
from config.refusals import read_refusals
from config.results import ChunkFailure, ChunkSummary, RunAddress
from config.settings import Settings
from producer.processes import Child
from tests.images import READABLE, noise

#: Seconds for a chunk, a network's conversion and a busy machine included.
PATIENCE_S = 120.0

StartWorker = Callable[..., Child]


def wait_for(store: S3Store, key: str, child: Child) -> bytes:
    """The object, as soon as it stands."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            return bytes(obstore.get(store, key).bytes())
        except FileNotFoundError:
            child.check()
            time.sleep(0.05)
    pytest.fail(f"{key} did not come; the worker's log ends with {child.program.log.read_text()[-2000:]}")


def rows_of(store: S3Store, chunk: Chunk) -> pa.Table:
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    return pq.read_table(BytesIO(bytes(obstore.get(store, run.part_key(chunk.chunk_id)).bytes())))


@pytest.fixture
def make_chunk(store: S3Store, bucket: str) -> Callable[..., Chunk]:
    def make(number: int = 0, **job: Any) -> Chunk:
        keys = tuple(f"in/{number}-{index}.jpg" for index in range(6))
        for index, key in enumerate(keys):
            obstore.put(store, key, noise(index))
        asked = {"run_id": "run-1", "model": "efficientnet_lite0", "output": f"s3://{bucket}/out", **job}
        return Chunk(job=Job(**asked), bucket=bucket, keys=keys, start=6 * number)

    return make


@pytest.fixture
def send(settings: Settings) -> Callable[..., None]:
    app = make_celery(settings)

    def send(message: Any, **options: Any) -> None:
        app.send_task(TaskName.CLASSIFY, kwargs={"chunk": message}, queue=options.get("queue", settings.queue))

    return send


def summary_key(chunk: Chunk) -> str:
    return RunAddress.of(chunk.job.output, chunk.job.run_id).summary_key(chunk.chunk_id)


def test_a_chunk_becomes_rows_then_a_summary(
    worker: StartWorker, store: S3Store, send: Any, make_chunk: Any, settings: Settings
) -> None:
    child, chunk, urgent = worker(), make_chunk(), make_chunk(1)
    send(chunk.to_message())
    send(urgent.to_message(), queue=settings.now_queue)
    summary = ChunkSummary.from_json(wait_for(store, summary_key(chunk), child))
    assert (summary.counts, summary.chunk_id) == ({"ok": 6}, chunk.chunk_id)
    assert summary.seconds.keys() == {"fetch", "decode", "infer", "starved", "write", "chunk"}
    table = rows_of(store, chunk)
    assert table["key"].to_pylist() == list(chunk.keys)
    assert all(len(top) == 5 for top in table["top_k"].to_pylist())
    assert all(row["top_k"][0]["score"] == row["score"] for row in table.to_pylist())
    wait_for(store, summary_key(urgent), child)


def test_what_no_worker_understands_is_refused_once_and_the_worker_goes_on(
    worker: StartWorker, store: S3Store, send: Any, make_chunk: Any, settings: Settings
) -> None:
    child, chunk = worker(), make_chunk()
    for message in ({**chunk.to_message(), "version": 99}, {"keys": "no"}, "text", None, {}):
        send(message)
    app = make_celery(settings)
    app.send_task(TaskName.CLASSIFY, args=[chunk.to_message()], queue=settings.queue)
    app.send_task(TaskName.CLASSIFY, kwargs={"chunk": chunk.to_message(), "more": 1}, queue=settings.queue)
    app.send_task("pixelherd.classify_v9", queue=settings.queue)
    send(chunk.to_message())
    wait_for(store, summary_key(chunk), child)
    reasons = [refusal["reason"] for refusal in read_refusals(make_redis(settings))]
    assert len(reasons) == child.program.log.read_text().count("message=refused") == 8
    assert sum("no task is called 'pixelherd.classify_v9'" in reason for reason in reasons) == 1
    assert sum("version: Input should be 1" in reason for reason in reasons) == 1


UNREADABLE = (b"\xff\xfe no text", b"no json", b"null", b'"text"', b"[1, 2]", b"{}", b'{"body": 7, "headers": {}}')


def test_what_is_no_message_does_not_stop_the_worker(
    worker: StartWorker, store: S3Store, send: Any, make_chunk: Any, settings: Settings
) -> None:
    child, chunk, client = worker(), make_chunk(), make_redis(settings)
    for garbage in (*UNREADABLE, b"x" * 50_000_000):
        client.lpush(settings.queue, garbage)
    send(chunk.to_message())
    wait_for(store, summary_key(chunk), child)
    assert len(read_refusals(client)) == len(UNREADABLE) + 1


UNDOABLE = {
    "unknown model": {"model": "resnet5000"},
    "preprocessed otherwise": {"preprocess_digest": "0" * 64},
    "no such object": {"weights": {"uri": "s3://{bucket}/none.weights.h5"}},
}


@pytest.mark.parametrize("reason", UNDOABLE)
def test_a_job_that_no_worker_can_do_leaves_a_failure(
    reason: str, worker: StartWorker, store: S3Store, send: Any, make_chunk: Any, bucket: str
) -> None:
    asked = json.loads(json.dumps(UNDOABLE[reason]).replace("{bucket}", bucket))
    child, chunk = worker(), make_chunk(**asked)
    send(chunk.to_message())
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    failure = ChunkFailure.from_json(wait_for(store, run.failure_key(chunk.chunk_id), child))
    assert reason in failure.error


def test_a_chunk_that_cannot_be_read_now_is_tried_again_and_then_given_up(
    worker: StartWorker, store: S3Store, send: Any, make_chunk: Any
) -> None:
    child = worker(chunk_retries=1)
    chunk = make_chunk().model_copy(update={"bucket": "no-such-bucket"})
    send(chunk.to_message())
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    failure = ChunkFailure.from_json(wait_for(store, run.failure_key(chunk.chunk_id), child))
    assert (failure.tries, "NoSuchBucket" in failure.error) == (2, True)


def test_a_cancelled_run_is_left_alone_and_a_done_chunk_is_skipped(
    worker: StartWorker, store: S3Store, send: Any, make_chunk: Any
) -> None:
    child, done, cancelled, last = (
        worker(),
        make_chunk(0),
        make_chunk(1, run_id="run-2"),
        make_chunk(2, run_id="run-3"),
    )
    obstore.put(store, RunAddress.of(cancelled.job.output, "run-2").cancelled_key, b"{}")
    obstore.put(store, summary_key(done), b"{}")
    for chunk in (done, cancelled, last):
        send(chunk.to_message())
    wait_for(store, summary_key(last), child)
    left = {found["path"] for page in obstore.list(store, "out/") for found in page}
    assert not [path for path in left if "/parts/" in path and "run-3" not in path]
    assert child.program.log.read_text().count("skipped=") == 2


def test_two_deliveries_leave_the_same_bytes(worker: StartWorker, store: S3Store, send: Any, make_chunk: Any) -> None:
    child, chunk = worker(), make_chunk()
    run = RunAddress.of(chunk.job.output, chunk.job.run_id)
    bodies = []
    for _ in range(2):
        send(chunk.to_message())
        wait_for(store, summary_key(chunk), child)
        bodies.append(bytes(obstore.get(store, run.part_key(chunk.chunk_id)).bytes()))
        obstore.delete(store, [summary_key(chunk), run.part_key(chunk.chunk_id)])
    assert bodies[0] == bodies[1]


def test_the_process_that_forks_loads_no_network_and_children_no_tensorflow(
    worker: StartWorker, store: S3Store, send: Any, make_chunk: Any
) -> None:
    child, chunk = worker(), make_chunk()
    send(chunk.to_message())
    wait_for(store, summary_key(chunk), child)
    parent = psutil.Process(child.pid)
    loaded = {
        process.pid: {Path(m.path).name for m in process.memory_maps()} for process in [parent, *parent.children()]
    }
    libraries = ("libopenvino", "libtensorflow")
    assert not [name for name in loaded.pop(parent.pid) if name.startswith(libraries)]
    assert loaded
    assert all(any(name.startswith("libopenvino") for name in names) for names in loaded.values())
    assert not [name for names in loaded.values() for name in names if name.startswith("libtensorflow")]


def test_the_worker_listens_nowhere_and_hides_its_secrets(worker: StartWorker, settings: Settings) -> None:
    child = worker()
    parent = psutil.Process(child.pid)
    secret = settings.broker_url.get_secret_value().split(":")[2].split("@")[0]
    for process in [parent, *parent.children(recursive=True)]:
        assert not [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert secret not in " ".join(process.cmdline())
    assert secret not in child.program.log.read_text()


def test_a_bad_setting_stops_the_worker_with_one_line() -> None:
    env = {**os.environ, "PIXELHERD_BATCH_SIZE": "many", "PIXELHERD_NO_SUCH": "1"}
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "PIXELHERD_BATCH_SIZE" in done.stderr
    assert "PIXELHERD_NO_SUCH is no setting" in done.stderr


def test_readable_images_of_every_kind_have_a_class(
    worker: StartWorker, store: S3Store, send: Any, bucket: str, make_chunk: Any
) -> None:
    for kind, body in READABLE.items():
        obstore.put(store, f"kinds/{kind}", body)
    child = worker()
    chunk = make_chunk().model_copy(update={"keys": tuple(f"kinds/{kind}" for kind in READABLE)})
    send(chunk.to_message())
    wait_for(store, summary_key(chunk), child)
    rows = rows_of(store, chunk).to_pylist()
    assert {row["key"]: row["status"] for row in rows} == dict.fromkeys(chunk.keys, "ok")
    assert all(row["class_name"] for row in rows)
