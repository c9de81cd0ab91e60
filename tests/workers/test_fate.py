"""What follows from errors, on a real S3 server: again, given up, or the whole run stopped; and never in silence."""

import socket
from collections.abc import Iterator

import obstore
import pytest
from obstore.store import S3Store

from config.errors import ContractError
from config.messages import Chunk, Job
from config.results import Cancellation, ChunkFailure, RunAddress
from config.settings import Settings
from workers.errors import BucketUnavailable, TransientError
from workers.fate import FIRST_RETRY_S, LONGEST_RETRY_S, Fates, backoff_s
from workers.workbench import Workbench

RETRIES = 2


@pytest.fixture
def patient(settings: Settings) -> Settings:
    return settings.model_copy(update={"chunk_retries": RETRIES, "s3_retry_timeout_s": 0.5})


@pytest.fixture
def chunks(bucket: str) -> list[Chunk]:
    job = Job(run_id="run-1", model="efficientnet_lite0", output=f"s3://{bucket}/out")
    return [Chunk(job=job, bucket=bucket, keys=("a",), start=start) for start in range(10)]


@pytest.fixture
def run(chunks: list[Chunk]) -> RunAddress:
    return RunAddress.of(chunks[0].job.output, chunks[0].job.run_id)


def names(store: S3Store, prefix: str) -> int:
    return sum(len(page) for page in obstore.list(store, prefix))


def test_waiting_doubles_and_no_two_wait_alike() -> None:
    waits = [[backoff_s(tries) for _ in range(50)] for tries in range(1, 8)]
    for tries, found in enumerate(waits):
        whole = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**tries)
        assert all(whole / 2 <= wait <= whole for wait in found)
        assert len(set(found)) == len(found)


def test_what_may_pass_is_tried_again_and_given_up_after_its_last_try(
    patient: Settings, chunks: list[Chunk], run: RunAddress, store: S3Store
) -> None:
    fates = Fates(Workbench(patient))
    for chunk in chunks:  # of ten chunks in a row, each for a reason of its own: the run goes on
        for tries in range(1, RETRIES + 1):
            again = fates.decide(chunk, TransientError("throttled"), tries)
            assert again is not None
            assert again.retries == tries
        assert fates.decide(chunk, TransientError("throttled"), RETRIES + 1) is None
    assert names(store, run.failures) == len(chunks)
    failure = ChunkFailure.from_json(bytes(obstore.get(store, run.failure_key(chunks[0].chunk_id)).bytes()))
    assert (failure.tries, failure.error) == (RETRIES + 1, "throttled")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, run.cancelled_key)


@pytest.mark.parametrize("error", [BucketUnavailable("bucket b: NoSuchBucket"), ContractError("no such model")])
def test_what_every_chunk_will_meet_stops_the_run(
    error: Exception, patient: Settings, chunks: list[Chunk], run: RunAddress, store: S3Store
) -> None:
    fates = Fates(Workbench(patient))
    for chunk in chunks[:RETRIES]:
        fates.decide(chunk, error, 1)  # type: ignore[arg-type]
    fates.went_well(chunks[0])  # one of them was not in vain
    for chunk in chunks[: RETRIES + 1]:
        with pytest.raises(FileNotFoundError):
            obstore.head(store, run.cancelled_key)
        fates.decide(chunk, error, 1)  # type: ignore[arg-type]
    stopped = Cancellation.from_json(bytes(obstore.get(store, run.cancelled_key).bytes()))
    assert stopped.reason is not None
    assert f"{RETRIES + 1} tries in a row" in stopped.reason
    assert str(error) in stopped.reason


def test_a_person_s_cancellation_is_not_written_over(
    patient: Settings, chunks: list[Chunk], run: RunAddress, store: S3Store
) -> None:
    obstore.put(store, run.cancelled_key, b'{"cancelled_at": "2026-11-22T10:00:00Z"}')
    fates = Fates(Workbench(patient))
    for chunk in chunks[: RETRIES + 1]:
        fates.decide(chunk, BucketUnavailable("gone"), 1)
    assert Cancellation.from_json(bytes(obstore.get(store, run.cancelled_key).bytes())).reason is None


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]  # bound, not listening: every connection is refused


def test_a_failure_that_cannot_be_written_is_tried_again_and_not_forgotten(
    patient: Settings, chunks: list[Chunk], closed_port: int
) -> None:
    away = patient.model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{closed_port}"})
    again = Fates(Workbench(away)).decide(chunks[0], TransientError("S3 is away"), RETRIES + 1)
    assert again is not None
    assert again.retries == RETRIES  # the next try is the last one once more


def test_where_the_run_itself_is_gone_nobody_tries_for_ever(patient: Settings) -> None:
    job = Job(run_id="run-1", model="efficientnet_lite0", output="s3://no-such-bucket/out")
    chunk = Chunk(job=job, bucket="no-such-bucket", keys=("a",))
    assert Fates(Workbench(patient)).decide(chunk, BucketUnavailable("gone"), RETRIES + 1) is None
