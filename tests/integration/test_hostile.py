"""What strangers send and store: 200 damaged files in one run, messages of every wrong kind, folders of others."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

import producer
from config.clients import make_celery, make_redis, make_s3
from config.messages import Chunk, Job, TaskName
from config.refusals import read_refusals
from config.results import ChunkFailure, RunAddress, RunRecord, Status
from config.settings import CONFIG_VARIABLE, Settings
from producer.local_stack import write_config
from producer.processes import Child
from tests.images import AWKWARD_KEYS, UNREADABLE, noise
from tests.integration.looks import PATIENCE_S, wait_for
from tests.mutants import mutant

StartWorker = Callable[..., Child]

#: Damaged files of the run, by the fuzzer's numbers.
MUTANTS = range(7_000_000, 7_000_000 + 200 - len(AWKWARD_KEYS) - len(UNREADABLE))

#: What a row may say of a file that is no good; a mutant may also still be an image.
FATES = {"ok", "undecodable", "too_large"}


def _plant(settings: Settings, store: S3Store, bucket: str, bodies: dict[str, bytes]) -> None:
    s3 = make_s3(settings)
    for key, body in bodies.items():
        if key.isprintable():
            obstore.put(store, key, body)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=body)


def test_two_hundred_faults_leave_two_hundred_rows_and_their_neighbours_alone(
    settings: Settings, store: S3Store, bucket: str, worker: StartWorker
) -> None:
    good = {f"{number:03d}-good.jpg": noise(number) for number in range(0, 200, 4)}
    faults = {f"{number % 200:03d}-mutant": body or b"\0" for number in MUTANTS for _, body in [mutant(number)]}
    faults |= {f"{number * 9:03d}-{kind}": body for number, (kind, (body, _)) in enumerate(UNREADABLE.items())}
    faults |= {f"{number * 11:03d}-{key}": noise(1) for number, key in enumerate(AWKWARD_KEYS)}
    assert len(faults) == 200
    _plant(settings, store, bucket, {f"quiet/{key}": body for key, body in good.items()})
    _plant(settings, store, bucket, {f"in/{key}": body for key, body in {**good, **faults}.items()})

    child = worker()
    alone, among = (
        producer.submit("classify", f"s3://{bucket}/{folder}/", output=f"s3://{bucket}/out/", settings=settings)
        for folder in ("quiet", "in")
    )
    for run in (alone, among):
        assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
    columns = ["key", "status", "error", "class_id", "score"]
    rows: dict[str, dict[str, Any]] = {}
    for row in among.results(columns).to_pylist():
        assert rows.setdefault(row["key"], row) is row
    assert rows.keys() == {f"in/{key}" for key in (*good, *faults)}
    assert {row["status"] for key, row in rows.items() if key.endswith("-mutant")} <= FATES
    assert all(
        (row["error"] is None) == (row["status"] == "ok") == (row["class_id"] is not None) for row in rows.values()
    )
    for number, (kind, (_, status)) in enumerate(UNREADABLE.items()):
        assert rows[f"in/{number * 9:03d}-{kind}"]["status"] == status
    for expected in alone.results(columns).to_pylist():
        found = rows[expected["key"].replace("quiet/", "in/")]
        assert (found["status"], found["class_id"]) == (Status.OK, expected["class_id"])
        assert found["score"] == pytest.approx(expected["score"], rel=1e-3)
    child.check()
    log = child.program.log.read_text()
    assert "Traceback" not in log
    assert "PIL" not in log


# --- Messages ----------------------------------------------------------------------------------------------------


@pytest.fixture
def make_chunk(store: S3Store, bucket: str) -> Callable[..., Chunk]:
    def make(**job: Any) -> Chunk:
        keys = tuple(f"in/{number}.jpg" for number in range(3))
        for number, key in enumerate(keys):
            obstore.put(store, key, noise(number))
        asked = {"run_id": "run-1", "model": "efficientnet_lite0", "output": f"s3://{bucket}/out", **job}
        return Chunk(job=Job(**asked), bucket=bucket, keys=keys)

    return make


def _summary_key(chunk: Chunk) -> str:
    return RunAddress.of(chunk.job.output, chunk.job.run_id).summary_key(chunk.chunk_id)


def _stands(store: S3Store, key: str) -> bool:
    try:
        return bool(obstore.head(store, key))
    except FileNotFoundError:
        return False


def _wrong(message: dict[str, Any]) -> dict[str, Any]:
    """Bodies that are JSON and no chunk, by what a refusal must say of them."""
    return {
        "version: Input should be 1": {**message, "version": 2},
        "surprise: Extra inputs are not permitted": {**message, "surprise": "x" * 100_000_000},
        "job.top_k: Input should be less than or equal to 1000": {**message, "job": {**message["job"], "top_k": 10**9}},
        "keys: Tuple should have at most 1000 items": {**message, "keys": ["k"] * 200_000},
        "job.weights.uri: String should match": {
            **message,
            "job": {**message["job"], "weights": {"uri": "http://169.254.169.254/latest/model.keras"}},
        },
        "job.run_id: String should match": {**message, "job": {**message["job"], "run_id": "../../other"}},
        "job.output: String should match": {**message, "job": {**message["job"], "output": "/etc"}},
        "a text in it is no Unicode": {**message, "keys": ["\ud800"]},
    }


def test_messages_of_every_wrong_kind_are_refused_once_and_the_next_chunk_is_done(
    settings: Settings, store: S3Store, worker: StartWorker, make_chunk: Any, tmp_path: Any
) -> None:
    child, chunk, client, app = worker(), make_chunk(), make_redis(settings), make_celery(settings)
    wrong = _wrong(chunk.to_message())
    for body in wrong.values():
        app.send_task(TaskName.CLASSIFY, kwargs={"chunk": body}, queue=settings.queue)
    app.send_task("no.such.task." + "x" * 10_000, queue=settings.queue)
    envelope = json.loads(_envelope(settings, app, chunk))
    deep = base64.b64encode(b"[" * 200_000).decode()
    garbage = (b"x" * 100_000_000, b"[" * 1_000_000, json.dumps({**envelope, "body": deep}).encode(), b'{"body":')
    for raw in garbage:
        client.lpush(settings.queue, raw)
    app.send_task(TaskName.CLASSIFY, kwargs={"chunk": chunk.to_message()}, queue=settings.queue)
    wait_for(lambda: _stands(store, _summary_key(chunk)), child)

    reasons = [refusal["reason"] for refusal in read_refusals(client)]
    assert len(reasons) == len(wrong) + 1 + len(garbage)
    assert {word: sum(word in reason for reason in reasons) for word in wrong} == dict.fromkeys(wrong, 1)
    log = child.program.log.read_text()
    assert log.count("message=refused") == len(reasons)
    assert len(log) < 200_000
    assert client.llen(settings.queue) == client.hlen("unacked") == 0
    assert "workers refused" in _status(settings, store, tmp_path)
    child.check()


def _envelope(settings: Settings, app: Any, chunk: Chunk) -> bytes:
    """A message as Celery packs it, from a queue that no worker reads."""
    app.send_task(TaskName.CLASSIFY, kwargs={"chunk": chunk.to_message()}, queue="a-shelf")
    with make_redis(settings) as client:
        found: Any = client.rpop("a-shelf")
        return bytes(found)


def _status(settings: Settings, store: S3Store, directory: Any) -> str:
    """What a person reads who asks how a run stands."""
    run = producer.submit("classify", f"s3://{store.config['bucket']}/in/", settings=settings)
    run.wait(timeout_s=PATIENCE_S)
    config = write_config(settings, directory / "person.toml")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIXELHERD_")}
    command = [sys.executable, "-m", "producer.cli", "status", str(run.address)]
    env |= {CONFIG_VARIABLE: str(config)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stderr


def test_a_job_that_names_code_or_another_machine_s_file_leaves_a_sentence(
    store: S3Store, bucket: str, settings: Settings, worker: StartWorker, make_chunk: Any
) -> None:
    refused = {
        "a pickle": (f"s3://{bucket}/models/code.pkl", "end with none of"),
        "a file of the worker": ("file:///etc/passwd.weights.h5", "takes no file:// weights"),
        "an object that is not there": (f"s3://{bucket}/models/none.keras", "no such object"),
    }
    child, app = worker(allow_file_weights=False), make_celery(settings)
    for number, (uri, _) in enumerate(refused.values()):
        chunk = make_chunk(run_id=f"run-{number}", weights={"uri": uri})
        app.send_task(TaskName.CLASSIFY, kwargs={"chunk": chunk.to_message()}, queue=settings.queue)
    for number, (_, sentence) in enumerate(refused.values()):
        failure_key = RunAddress.of(f"s3://{bucket}/out", f"run-{number}").failure_key(make_chunk().chunk_id)
        wait_for(partial(_stands, store, failure_key), child)
        error = ChunkFailure.from_json(bytes(obstore.get(store, failure_key).bytes())).error
        assert sentence in error
        assert "\n" not in error


# --- Folders of others -------------------------------------------------------------------------------------------


def _objects(store: S3Store, folder: str) -> set[str]:
    return {found["path"] for page in obstore.list(store, folder) for found in page}


def test_nobody_writes_into_another_run_s_folder(
    store: S3Store, bucket: str, settings: Settings, worker: StartWorker, make_chunk: Any
) -> None:
    make_chunk()
    mine = producer.submit("classify", f"s3://{bucket}/in/", output=f"s3://{bucket}/out", settings=settings)
    child, app = worker(), make_celery(settings)
    assert mine.wait(timeout_s=PATIENCE_S).counts == {"ok": 3}
    before = _objects(store, "out/")
    for output in (str(mine.address), f"{mine.address}/parts"):
        with pytest.raises(producer.UsageError, match="another run's folder"):
            producer.submit("classify", f"s3://{bucket}/in/", output=output, settings=settings)

    same_id = make_chunk(run_id=mine.run_id, top_k=2)
    inside = make_chunk(output=f"{mine.address}/parts")
    innocent = make_chunk(run_id="plain-celery")
    for chunk in (same_id, inside, same_id, innocent):
        app.send_task(TaskName.CLASSIFY, kwargs={"chunk": chunk.to_message()}, queue=settings.queue)
    wait_for(lambda: _stands(store, _summary_key(innocent)), child)
    after = {key for key in _objects(store, "out/") if "/plain-celery/" not in key}
    assert after == before
    with make_redis(settings) as client:
        reasons = [refusal["reason"] for refusal in read_refusals(client)]
    assert sum("another run's folder: its job.json asks for something else" in reason for reason in reasons) == 2
    assert sum("inside the folder of another run" in reason for reason in reasons) == 1


def test_a_file_that_is_called_job_json_and_is_none_harms_no_run(
    store: S3Store, bucket: str, settings: Settings
) -> None:
    obstore.put(store, "photos/job.json", b'{"cron": "0 0 * * *"}')
    obstore.put(store, "photos/a.jpg", noise(1))
    output = f"s3://{bucket}/photos/results"
    run = producer.submit("classify", [f"s3://{bucket}/photos/a.jpg"], output=output, settings=settings)
    run.cancel()
    record = RunRecord(
        job=run.record.job, source="-", bucket=bucket, chunk_size=1, created_at=datetime.now(UTC), versions={}
    )
    assert RunRecord.is_one(record.to_json())
    assert run.address.outer_job_keys == ("photos/job.json", "photos/results/job.json")
