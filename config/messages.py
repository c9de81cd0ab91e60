"""What travels on the queue: from a run's job and some keys to one frozen, versioned Chunk, and back."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from config.errors import ContractError

#: Keys of one chunk at most: a message stays under 1 MB even with 1,024-byte keys (S3's longest).
MAX_CHUNK_KEYS = 1_000

RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$")]
S3Uri = Annotated[str, StringConstraints(pattern=r"^s3://[^/]+(/.*)?$")]


class Mode(StrEnum):
    """What a run does with each image."""

    CLASSIFY = "classify"
    EXTRACT_FEATURES = "extract_features"
    EVALUATE = "evaluate"
    FINE_TUNE = "fine_tune"


class TaskName(StrEnum):
    """Names under which Celery routes; part of the contract with senders that have no pixelherd."""

    CLASSIFY = "pixelherd.classify"


class Engine(StrEnum):
    """What computes the network."""

    AUTO = "auto"
    OPENVINO = "openvino"
    TENSORFLOW = "tensorflow"


class Precision(StrEnum):
    """Arithmetic of the network; AUTO is bfloat16 where the CPU has it, float16 on a GPU, else float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class _Value(BaseModel):
    """Frozen, and closed to fields that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Weights(_Value):
    """Where a network's weights come from, and the sha256 a worker must find in them.

    `uri` is `packaged` (inside an installed package), `imagenet` (Keras downloads them), `random`
    (seeded; benchmarks only) or an `s3://` or `file://` URI of a `.weights.h5` or `.keras` file.
    """

    uri: Annotated[str, StringConstraints(pattern=r"^(packaged|imagenet|random|s3://[^/]+/.+|file:///.+)$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class Job(_Value):
    """What a run asks for; the same value in every chunk of the run and in its job.json."""

    version: Literal[1] = 1
    run_id: RunId
    mode: Mode = Mode.CLASSIFY
    model: str
    weights: Weights | None = Field(default=None, description="None: the model's own (packaged or imagenet)")
    preprocess_digest: str | None = Field(default=None, description="None: the worker's own is taken")
    output: S3Uri = Field(description="base under which <run_id>/ is written")
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    engine: Engine = Engine.AUTO
    precision: Precision = Precision.AUTO


class Chunk(_Value):
    """The keys of one task and the job they belong to: all that a worker needs to know."""

    version: Literal[1] = 1
    job: Job
    bucket: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    keys: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CHUNK_KEYS)]
    part: Annotated[int, Field(ge=0)] = 0
    start: Annotated[int, Field(ge=0)] = 0

    @property
    def chunk_id(self) -> str:
        """Name of the chunk: its place in the frozen manifest, its length and a digest of its keys.

        The same keys at the same place give the same name, so a chunk delivered twice is written once,
        and a listing of names alone says how many images are done.
        """
        digest = hashlib.sha256(json.dumps([self.bucket, *self.keys]).encode()).hexdigest()[:8]
        return f"{self.part:05d}-{self.start:07d}-{len(self.keys):04d}-{digest}"

    def halves(self) -> tuple["Chunk", "Chunk"]:
        """The chunk as two, each with its own place in the manifest; it must have two keys at least."""
        middle = len(self.keys) // 2
        first = self.model_copy(update={"keys": self.keys[:middle]})
        return first, self.model_copy(update={"keys": self.keys[middle:], "start": self.start + middle})

    def describe(self) -> str:
        """What Flower and the log show of a chunk, rather than its keys."""
        job, images = self.job, len(self.keys)
        return f"run={job.run_id} mode={job.mode} model={job.model} chunk={self.chunk_id} images={images}"

    @classmethod
    def from_message(cls, message: Any) -> Self:
        """Read a message body; ContractError says in one line what is wrong with it."""
        try:
            return cls.model_validate(message)
        except ValidationError as error:
            raise ContractError(describe(error)) from error

    def to_message(self) -> dict[str, Any]:
        """The body to send: plain JSON types."""
        return self.model_dump(mode="json", exclude_none=True)


def describe(error: ValidationError) -> str:
    """All complaints of a validation in one line, without the values (they may be secret or large)."""
    return "; ".join(
        f"{'.'.join(str(place) for place in found['loc']) or 'message'}: {found['msg']}"
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    )
