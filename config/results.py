"""What a run leaves in S3: from a run's address to the names, schemas and records of all its objects, and back."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import ContractError, UsageError
from config.features import FeatureColumn, Shape, feature_columns
from config.messages import FeatureType, Job, Mode, describe


class Status(StrEnum):
    """How one image ended; the fixed list of a row's `status`."""

    OK = "ok"
    MISSING = "missing"
    FORBIDDEN = "forbidden"
    EMPTY = "empty"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    POISON = "poison"


# --- Addresses ---------------------------------------------------------------------------------------------------

_CHUNK_ID = re.compile(r"^(\d{5,})-(\d{7,})-(\d{4,})-([0-9a-f]{8})$")


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/key` -> (`bucket`, `some/key`); the key may be empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise UsageError(f"{uri!r} is no S3 URI; write s3://bucket/prefix/")
    return bucket, key


@dataclass(frozen=True, slots=True)
class RunAddress:
    """Where one run lies: `s3://<bucket>/<prefix>`, whose last segment is the run's id."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, output: str, run_id: str) -> Self:
        """The address of a run under an output base URI."""
        bucket, base = split_uri(output)
        base = base.strip("/")
        return cls(bucket, f"{base}/{run_id}" if base else run_id)

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The address that `str(address)` wrote."""
        bucket, prefix = split_uri(uri)
        if not prefix.strip("/"):
            raise UsageError(f"{uri!r} names a bucket, not a run; write s3://bucket/…/<run id>")
        return cls(bucket, prefix.strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def run_id(self) -> str:
        return self.prefix.rpartition("/")[2]

    @property
    def job_key(self) -> str:
        return f"{self.prefix}/job.json"

    @property
    def outer_job_keys(self) -> tuple[str, ...]:
        """Where another run's job.json would stand if this one lay inside of its folder."""
        above = self.prefix.split("/")[:-1]
        return tuple("/".join([*above[:depth], "job.json"]) for depth in range(1, len(above) + 1))

    @property
    def manifests(self) -> str:
        return f"{self.prefix}/manifest/"

    def manifest_key(self, part: int) -> str:
        return f"{self.manifests}{part:05d}.parquet"

    @property
    def frozen_key(self) -> str:
        return f"{self.manifests}frozen.json"

    @property
    def parts(self) -> str:
        return f"{self.prefix}/parts/"

    def part_key(self, chunk_id: str) -> str:
        return f"{self.parts}{chunk_id}.parquet"

    @property
    def summaries(self) -> str:
        return f"{self.prefix}/summaries/"

    def summary_key(self, chunk_id: str) -> str:
        return f"{self.summaries}{chunk_id}.json"

    @property
    def failures(self) -> str:
        return f"{self.prefix}/failures/"

    def failure_key(self, chunk_id: str) -> str:
        return f"{self.failures}{chunk_id}.json"

    def split_key(self, chunk_id: str) -> str:
        return f"{self.prefix}/splits/{chunk_id}.json"

    @property
    def cancelled_key(self) -> str:
        return f"{self.prefix}/cancelled.json"

    @property
    def report_key(self) -> str:
        return f"{self.prefix}/report.html"


@dataclass(frozen=True, slots=True, order=True)
class ChunkPlace:
    """What a chunk's id says of it: its manifest part, first row, and number of keys."""

    part: int
    start: int
    count: int

    @classmethod
    def parse(cls, key: str) -> Self:
        """The place of a chunk from its id, or from the key of its part, summary or failure."""
        chunk_id = key.rpartition("/")[2].partition(".")[0]
        found = _CHUNK_ID.match(chunk_id)
        if found is None:
            raise ContractError(f"{key!r} is not named after a chunk")
        part, start, count = (int(number) for number in found.groups()[:3])
        return cls(part, start, count)


def outermost(places: Iterable[ChunkPlace]) -> list[ChunkPlace]:
    """The places in their order, without those that lie inside another: a chunk may be done whole and in halves."""
    kept: list[ChunkPlace] = []
    for place in sorted(places, key=lambda place: (place.part, place.start, -place.count)):
        if not kept or not is_inside(place, kept[-1]):
            kept.append(place)
    return kept


def is_inside(place: ChunkPlace, other: ChunkPlace) -> bool:
    """Whether the rows of a place are among those of another."""
    return (
        place.part == other.part
        and other.start <= place.start
        and place.start + place.count <= other.start + other.count
    )


def manifest_part_number(key: str) -> int | None:
    """The number of a manifest part from its key; None for any other object."""
    found = re.search(r"/manifest/(\d{5,})\.parquet$", key)
    return int(found[1]) if found else None


# --- Records (JSON) ----------------------------------------------------------------------------------------------


class Record(BaseModel):
    """A frozen, versioned JSON object in S3."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read a stored record; ContractError where its version or shape is unknown."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise ContractError(f"{cls.__name__}: {describe(error)}") from error

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class RunRecord(Record):
    """job.json: what was asked, and what is needed to go on with it."""

    job: Job
    source: str = Field(description="what the person gave: a prefix, a glob, a manifest, or `keys`")
    bucket: str
    labels: str | None = Field(default=None, description="rule by which keys get labels, as the person gave it")
    queue: str | None = Field(None, description="where its chunks were sent to; None: an older producer's settings say")
    chunk_size: Annotated[int, Field(ge=1)]
    created_at: datetime
    versions: dict[str, str]

    @classmethod
    def is_one(cls, body: bytes) -> bool:
        """Whether this is a run's job.json, and not some file of that name."""
        try:
            return bool(cls.from_json(body))
        except ContractError:
            return False


class FrozenManifest(Record):
    """manifest/frozen.json: written last; from here on the number of keys of the run is known."""

    parts: int
    keys: int
    size_bytes: int
    frozen_at: datetime


class Tally(StrEnum):
    """What an evaluation counts of a chunk's rows; the counts of chunks add up."""

    RANKED = "ranked"  # the label names a class, and has a rank: what an accuracy is a share of
    TOP1 = "top1"  # of those: the label is the best class
    TOP5 = "top5"  # of those: it is among the five best
    UNKNOWN = "unknown"  # the label names no class
    FAILED = "failed"  # there is a label, and an error in place of a result


class ChunkSummary(Record):
    """summaries/<chunk_id>.json: written after the rows; where it stands, the chunk is done."""

    chunk_id: str
    counts: dict[Status, int]
    tally: dict[Tally, int] = Field(default_factory=dict, description="of evaluate; nothing in other modes")
    seconds: dict[str, float] = Field(description="wall seconds by stage; `chunk` is the whole")
    size_bytes: int = Field(description="bytes of images read")
    part_bytes: int = Field(description="bytes of the Parquet part")
    worker: str
    started_at: datetime
    ended_at: datetime

    @property
    def images(self) -> int:
        return sum(self.counts.values())


class ChunkFailure(Record):
    """failures/<chunk_id>.json: the chunk was given up after its last try; `resume` tries it again."""

    chunk_id: str
    error: str
    tries: int
    worker: str
    failed_at: datetime


class ChunkSplit(Record):
    """splits/<chunk_id>.json: the chunk killed its workers and goes on as halves; nobody does it whole any more."""

    chunk_id: str
    halves: tuple[str, str]
    deaths: int
    split_at: datetime


class Cancellation(Record):
    """cancelled.json: workers leave this run's chunks alone, as a person wants it, or for a worker's reason."""

    cancelled_at: datetime
    reason: str | None = Field(None, description="why a worker stopped the run; None: a person did")


# --- Tables (Parquet) --------------------------------------------------------------------------------------------

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.timestamp("us", tz="UTC")),
        pa.field("label", pa.string()),
    ]
)

_ALWAYS = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("etag", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
]

_CLASS = [
    pa.field("class_id", pa.string()),
    pa.field("class_name", pa.string()),
    pa.field("score", pa.float32()),
]

#: `rank` is the place of the label's class among all by score, 1 for the best; null where the image has an error, no
#: label, or one that names no class. `label` is the class id where there is a rank, else the label as it was given.
_LABEL = [pa.field("label", pa.string()), pa.field("rank", pa.int32())]

_TYPES = {FeatureType.FLOAT32: pa.float32(), FeatureType.FLOAT16: pa.float16()}

_BEST = [*_CLASS, pa.field("top_k", pa.list_(pa.struct(_CLASS)))]


def row_schema(job: Job, shapes: Sequence[Shape] | None = None) -> pa.Schema:
    """The columns of a job's rows. `shapes` are those of the outputs of its layers, where it asks for features;
    where nobody knows them (None), the columns of features are left out.
    """
    columns = list(_ALWAYS)
    if job.features is not None and shapes is not None:
        columns += [_tensor(column) for column in feature_columns(job.features, shapes)]
    if job.features is None or job.features.with_top:
        columns += _BEST
    if job.mode is Mode.FINE_TUNE:
        columns.append(_LABEL[0])
    if job.mode is Mode.EVALUATE:
        columns += _LABEL
    return pa.schema(columns)


def _tensor(column: FeatureColumn) -> pa.Field:
    """NumPy makes an array of the column's shape of it, other readers a list; null where the image failed."""
    return pa.field(column.name, pa.fixed_shape_tensor(_TYPES[column.dtype], column.shape))


def with_provenance(schema: pa.Schema, provenance: dict[str, Any]) -> pa.Schema:
    """The schema with its footer: how the rows came about (run_id, model, weights_sha256, engine, …)."""
    return schema.with_metadata({f"pixelherd.{name}": str(value) for name, value in sorted(provenance.items())})


def provenance_of(schema: pa.Schema) -> dict[str, str]:
    """What `with_provenance` wrote."""
    found = schema.metadata or {}
    return {
        name.decode().removeprefix("pixelherd."): value.decode()
        for name, value in found.items()
        if name.startswith(b"pixelherd.")
    }
