"""A process that stands still in the middle of its writing, is taken for dead and wakes up: no row stands twice."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from config.messages import Chunk, Job
from config.results import RunAddress
from config.settings import Settings
from tests.images import noise
from tests.producer.proxy import Proxy, running_proxy
from workers.describe import classify_images
from workers.pipeline import process_chunk, split_chunk
from workers.workbench import Workbench

KEYS = tuple(f"in/{number}.jpg" for number in range(6))


@pytest.fixture
def chunk(bucket: str, store: S3Store) -> Chunk:
    for number, key in enumerate(KEYS):
        obstore.put(store, key, noise(number))
    job = Job(run_id="run-1", model="efficientnet_lite0", output=f"s3://{bucket}/out")
    return Chunk(job=job, bucket=bucket, keys=KEYS)


@pytest.fixture
def run(chunk: Chunk) -> RunAddress:
    return RunAddress.of(chunk.job.output, chunk.job.run_id)


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    """Between the process that stalls and S3."""
    with running_proxy(str(settings.s3_endpoint_url)) as found:
        yield found


def rows(store: S3Store, run: RunAddress) -> Counter[str]:
    """How often each key stands in what any reader of the parts sees."""
    parts = [found["path"] for page in obstore.list(store, run.parts) for found in page]
    tables = [pq.read_table(pa.BufferReader(bytes(obstore.get(store, part).bytes()))) for part in parts]
    return Counter(key for table in tables for key in table["key"].to_pylist())


def summaries(store: S3Store, run: RunAddress) -> set[str]:
    return {found["path"].rpartition("/")[2] for page in obstore.list(store, run.summaries) for found in page}


@pytest.mark.parametrize("stalls_before", ["parts", "summaries"])
def test_what_it_writes_late_of_a_chunk_that_went_on_as_halves_it_takes_back(
    stalls_before: str, chunk: Chunk, run: RunAddress, settings: Settings, store: S3Store, proxy: Proxy
) -> None:
    """Whatever it was about to PUT reaches S3 only after others have split the chunk and done its halves."""
    others = Workbench(settings)
    stalled: list[str] = []

    def answer(request: str) -> Any:
        if request.startswith("PUT") and f"/{stalls_before}/{chunk.chunk_id}" in request and not stalled:
            stalled.append(request)
            for half in split_chunk(chunk, others, 2):
                process_chunk(half, others, classify_images, lambda: True)

    proxy.answer = answer
    process_chunk(
        chunk,
        Workbench(settings.model_copy(update={"s3_endpoint_url": proxy.url})),
        classify_images,
        lambda: True,  # nobody had taken it when it asked
    )
    assert stalled
    assert rows(store, run) == dict.fromkeys(KEYS, 1)
    assert summaries(store, run) == {f"{half.chunk_id}.json" for half in chunk.halves()}


def test_what_ends_while_others_split_it_goes_on_as_halves(
    chunk: Chunk, run: RunAddress, settings: Settings, store: S3Store, proxy: Proxy
) -> None:
    """It was done between their look for a summary and their mark: the mark stands, so nothing of the whole may."""
    proxied = Workbench(settings.model_copy(update={"s3_endpoint_url": proxy.url}))

    def answer(request: str) -> Any:
        if request.startswith("PUT") and "/splits/" in request:
            process_chunk(chunk, Workbench(settings), classify_images, lambda: True)

    proxy.answer = answer
    halves = split_chunk(chunk, proxied, 2)
    assert halves == chunk.halves()
    assert rows(store, run) == Counter()
    assert summaries(store, run) == set()
