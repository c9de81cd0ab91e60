"""The pipeline's own decisions, on a real S3 server: what is settled stays, and a split chunk goes on as halves."""

from io import BytesIO

import obstore
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from config.messages import Chunk, Job
from config.results import ChunkSplit, ChunkSummary, RunAddress
from config.settings import Settings
from workers.pipeline import is_settled, is_split, split_chunk, write_poison
from workers.workbench import Workbench


@pytest.fixture
def bench(settings: Settings) -> Workbench:
    return Workbench(settings)


@pytest.fixture
def chunk(bucket: str) -> Chunk:
    job = Job(run_id="run-1", model="efficientnet_lite0", output=f"s3://{bucket}/out")
    return Chunk(job=job, bucket=bucket, keys=tuple("abcde"), start=10)


@pytest.fixture
def run(chunk: Chunk) -> RunAddress:
    return RunAddress.of(chunk.job.output, chunk.job.run_id)


def test_a_split_leaves_a_mark_and_no_rows_and_is_the_same_twice(
    chunk: Chunk, run: RunAddress, bench: Workbench, store: S3Store
) -> None:
    obstore.put(store, run.part_key(chunk.chunk_id), b"rows of a process that died before its summary")
    assert not is_split(chunk, bench)
    halves = split_chunk(chunk, bench, 2)
    assert [half.keys for half in halves] == [("a", "b"), ("c", "d", "e")]
    assert [half.start for half in halves] == [10, 12]
    mark = ChunkSplit.from_json(bytes(obstore.get(store, run.split_key(chunk.chunk_id)).bytes()))
    assert mark.halves == (halves[0].chunk_id, halves[1].chunk_id)
    with pytest.raises(FileNotFoundError):
        obstore.head(store, run.part_key(chunk.chunk_id))
    assert is_split(chunk, bench)
    assert split_chunk(chunk, bench, 2) == halves


@pytest.mark.parametrize("settled", ["summary_key", "cancelled_key"])
def test_what_is_done_or_cancelled_is_not_split(
    settled: str, chunk: Chunk, run: RunAddress, bench: Workbench, store: S3Store
) -> None:
    assert not is_settled(chunk, bench)
    key = run.cancelled_key if settled == "cancelled_key" else run.summary_key(chunk.chunk_id)
    obstore.put(store, key, b"{}")
    assert is_settled(chunk, bench)
    assert split_chunk(chunk, bench, 2) == ()
    assert not is_split(chunk, bench)


def test_a_poison_image_has_a_row_and_its_chunk_a_summary(
    chunk: Chunk, run: RunAddress, bench: Workbench, store: S3Store
) -> None:
    alone = chunk.halves()[1].halves()[0]
    write_poison(alone, bench, 2)
    rows = pq.read_table(BytesIO(bytes(obstore.get(store, run.part_key(alone.chunk_id)).bytes()))).to_pylist()
    assert [(row["key"], row["status"], row["class_name"]) for row in rows] == [("c", "poison", None)]
    assert "2 processes ended" in rows[0]["error"]
    summary = ChunkSummary.from_json(bytes(obstore.get(store, run.summary_key(alone.chunk_id)).bytes()))
    assert summary.counts == {"poison": 1}
