"""Writing to a real S3 server: one row a sample, the same bytes twice, and a mark that says done."""

from datetime import UTC, datetime
from io import BytesIO

import obstore
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from config.clients import make_store
from config.messages import Job
from config.results import ChunkSummary, Status, provenance_of, row_schema, with_provenance
from config.settings import Settings
from workers.errors import ImageMissing, TransientError
from workers.sample import Sample
from workers.write import count_statuses, rows_table, stands, write_part, write_record

JOB = Job(run_id="r-1", model="resnet50", output="s3://out/")
SCHEMA = with_provenance(row_schema(JOB), {"run_id": "r-1", "model": "resnet50"})
RANKED = [
    {"class_id": "n1", "class_name": "cat", "score": 0.75},
    {"class_id": "n2", "class_name": "dog", "score": 0.25},
]


def samples() -> list[Sample]:
    good = Sample(1, "b.jpg", etag="e", size_bytes=9, width=4, height=3, result={**RANKED[0], "top_k": RANKED})
    return [good, Sample(0, "a.jpg").failed(ImageMissing("gone"))]


@pytest.fixture
def store(settings: Settings, bucket: str) -> S3Store:
    return make_store(settings, bucket)


def test_rows_are_in_the_manifest_s_order_and_failed_ones_say_why() -> None:
    rows = rows_table(samples(), SCHEMA).to_pylist()
    assert [row["key"] for row in rows] == ["a.jpg", "b.jpg"]
    assert (rows[0]["status"], rows[0]["error"], rows[0]["class_name"], rows[0]["top_k"]) == (
        "missing",
        "gone",
        None,
        None,
    )
    assert (rows[1]["class_name"], rows[1]["score"], rows[1]["top_k"]) == ("cat", 0.75, RANKED)


def test_a_part_reads_back_with_its_provenance_and_is_the_same_bytes_twice(store: S3Store) -> None:
    table = rows_table(samples(), SCHEMA)
    sizes = [write_part(store, key, table) for key in ("one.parquet", "two.parquet")]
    one, two = (bytes(obstore.get(store, key).bytes()) for key in ("one.parquet", "two.parquet"))
    assert one == two
    assert sizes == [len(one)] * 2
    read = pq.read_table(BytesIO(one))
    assert read.equals(table)
    assert provenance_of(read.schema) == {"run_id": "r-1", "model": "resnet50"}


def test_counts_come_from_the_rows() -> None:
    assert count_statuses(rows_table(samples(), SCHEMA)) == {Status.MISSING: 1, Status.OK: 1}


def test_a_summary_marks_its_chunk_done(store: S3Store) -> None:
    now = datetime.now(UTC)
    summary = ChunkSummary(
        chunk_id="00000-0000000-0002-00000000", counts={Status.OK: 2}, seconds={"chunk": 1.0}, size_bytes=1,
        part_bytes=1, worker="w", started_at=now, ended_at=now,
    )  # fmt: skip
    assert not stands(store, "s.json")
    write_record(store, "s.json", summary)
    assert stands(store, "s.json")
    assert ChunkSummary.from_json(bytes(obstore.get(store, "s.json").bytes())) == summary


def test_a_bucket_that_is_gone_is_tried_again_later(settings: Settings) -> None:
    with pytest.raises(TransientError, match="cannot write"):
        write_part(make_store(settings, "no-such-bucket"), "p.parquet", rows_table(samples(), SCHEMA))
