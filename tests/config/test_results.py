"""What a run leaves in S3: names that read back as they were built, and records that refuse what they do not know."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ContractError, UsageError
from config.messages import Chunk, FeatureOptions, Job, Mode
from config.results import (
    ChunkPlace,
    ChunkSummary,
    RunAddress,
    RunRecord,
    Status,
    manifest_part_number,
    provenance_of,
    row_schema,
    split_uri,
    with_provenance,
)

JOB = Job(run_id="run-1", model="vgg19", output="s3://out")
FEATURES = JOB.model_copy(
    update={"mode": Mode.EXTRACT_FEATURES, "features": FeatureOptions(layers=("block4_pool", "fc2"))}
)
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
ADDRESS = RunAddress.of("s3://out/results/", "run-1")
SUMMARY = ChunkSummary(
    chunk_id="00000-0000000-0003-0123abcd",
    counts={Status.OK: 2, Status.EMPTY: 1},
    seconds={"chunk": 1.5},
    size_bytes=10,
    part_bytes=20,
    worker="host:1",
    started_at=NOW,
    ended_at=NOW,
)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a//b c+%2F.jpg", ("bucket", "a//b c+%2F.jpg")),
        ("s3://bucket//a", ("bucket", "/a")),
    ],
)
def test_a_uri_is_a_bucket_and_a_key(uri, parts):
    assert split_uri(uri) == parts


@pytest.mark.parametrize("uri", ["", "bucket/key", "s3://", "s3:///key", "https://bucket/key", "S3://bucket/key"])
def test_what_is_no_uri_is_refused_with_an_example(uri):
    with pytest.raises(UsageError, match="write s3://bucket/prefix/"):
        split_uri(uri)


@pytest.mark.parametrize("output", ["s3://out", "s3://out/", "s3://out/a", "s3://out/a/b/"])
def test_a_runs_address_reads_back(output):
    address = RunAddress.of(output, "run-1")
    assert RunAddress.parse(str(address)) == address
    assert RunAddress.parse(f"{address}/") == address
    assert address.run_id == "run-1"
    assert "//" not in address.prefix


def test_a_bucket_is_no_run():
    with pytest.raises(UsageError, match="names a bucket, not a run"):
        RunAddress.parse("s3://out/")


def test_every_object_of_a_run_lies_below_its_address_under_a_name_of_its_own():
    keys = [
        ADDRESS.job_key,
        ADDRESS.frozen_key,
        ADDRESS.cancelled_key,
        ADDRESS.report_key,
        ADDRESS.manifest_key(0),
        ADDRESS.part_key(SUMMARY.chunk_id),
        ADDRESS.summary_key(SUMMARY.chunk_id),
        ADDRESS.failure_key(SUMMARY.chunk_id),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("results/run-1/") for key in keys)


@given(part=st.integers(0, 10**6), start=st.integers(0, 10**8), count=st.integers(1, 1_000))
def test_a_chunks_place_is_read_from_each_of_its_names(part, start, count):
    job = Job(run_id="run-1", model="resnet50", output="s3://out")
    chunk = Chunk(job=job, bucket="b", keys=tuple(map(str, range(count))), part=part, start=start)
    place = ChunkPlace(part, start, count)
    for key in (ADDRESS.part_key, ADDRESS.summary_key, ADDRESS.failure_key):
        assert ChunkPlace.parse(key(chunk.chunk_id)) == place


@given(part=st.integers(0, 10**7))
def test_a_manifest_part_has_its_number_in_its_name(part):
    assert manifest_part_number(ADDRESS.manifest_key(part)) == part


def test_names_sort_as_the_manifest_does():
    places = [ChunkPlace(part, start, 256) for part in (0, 1, 11) for start in (0, 256, 25_600)]
    names = [f"{place.part:05d}-{place.start:07d}-{place.count:04d}-{9 - n:08d}" for n, place in enumerate(places)]
    assert sorted(names) == names
    assert sorted(places) == places


@pytest.mark.parametrize("key", ["", "job.json", "results/run-1/manifest/frozen.json", "parts/x-0-0-0.parquet"])
def test_other_objects_are_no_chunks(key):
    assert manifest_part_number(key) is None
    with pytest.raises(ContractError):
        ChunkPlace.parse(key)


def test_records_read_back():
    job = Job(run_id="run-1", model="resnet50", output="s3://out")
    record = RunRecord(job=job, source="s3://b/p/", bucket="b", chunk_size=256, created_at=NOW, versions={"a": "1"})
    assert RunRecord.from_json(record.to_json()) == record
    assert ChunkSummary.from_json(SUMMARY.to_json()) == SUMMARY
    assert SUMMARY.images == 3


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", SUMMARY.to_json().replace(b'"version": 1', b'"version": 2')])
def test_a_record_that_is_not_known_is_refused(body):
    with pytest.raises(ContractError, match="ChunkSummary"):
        ChunkSummary.from_json(body)


def test_rows_keep_their_footer_through_parquet(tmp_path):
    schema = with_provenance(row_schema(JOB), {"run_id": "run-1", "engine": "openvino"})
    row = {
        "key": "a.jpg",
        "status": "ok",
        "class_id": "n01443537",
        "class_name": "goldfish",
        "score": 0.5,
        "top_k": [{"class_id": "n01443537", "class_name": "goldfish", "score": 0.5}],
    }
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "part.parquet")
    back = pq.read_table(tmp_path / "part.parquet")
    assert provenance_of(back.schema) == {"run_id": "run-1", "engine": "openvino"}
    assert {name: value for name, value in back.to_pylist()[0].items() if value is not None} == row


def test_every_row_says_which_key_and_how_it_ended():
    for schema in (row_schema(JOB), row_schema(FEATURES), row_schema(FEATURES, [(14, 14, 512), (4096,)])):
        assert not schema.field("key").nullable
        assert not schema.field("status").nullable
