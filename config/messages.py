"""What travels on the queue: from a run's job and some keys to one frozen, versioned Chunk, and back."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from config.errors import ContractError
from config.models import ModelSpec, find_model
from config.training import FROZEN, POOLED, TrainingOptions

#: Keys of one chunk at most: a message stays under 1 MB even with 1,024-byte keys (S3's longest).
MAX_CHUNK_KEYS = 1_000

#: Characters of a label at most; a class's name, not a caption.
MAX_LABEL = 255

RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$")]
LabelText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
S3Uri = Annotated[str, StringConstraints(pattern=r"^s3://[^/]+(/.*)?$")]


class Mode(StrEnum):
    """What a run does with each image."""

    CLASSIFY = "classify"
    EXTRACT_FEATURES = "extract_features"
    EVALUATE = "evaluate"
    FINE_TUNE = "fine_tune"


#: Modes that know what each image shows; the others have no use for labels.
LABELLED = (Mode.EVALUATE, Mode.FINE_TUNE)


class TaskName(StrEnum):
    """Names under which Celery routes; part of the contract with senders that have no pixelherd."""

    CLASSIFY = "pixelherd.classify"
    EXTRACT_FEATURES = "pixelherd.extract_features"
    EVALUATE = "pixelherd.evaluate"
    FINE_TUNE = "pixelherd.fine_tune"
    TRAIN = "pixelherd.train"


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


class Pool(StrEnum):
    """What becomes of a layer's height and width; the channels stay. FLAT keeps all numbers, in one row."""

    NONE = "none"
    AVG = "avg"
    MAX = "max"
    FLAT = "flat"


class FeatureType(StrEnum):
    """Type of the numbers of features."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class _Value(BaseModel):
    """Frozen, and closed to fields that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Value):
    """What travels on the queue."""

    @classmethod
    def from_message(cls, message: Any) -> Self:
        """Read a message body; ContractError says in one line what is wrong with it."""
        try:
            read = cls.model_validate(message)
            read.model_dump_json()  # JSON can spell half a character, which no row, log line or key can hold
        except ValidationError as error:
            raise ContractError(describe(error)) from error
        except PydanticSerializationError as error:
            raise ContractError("a text in it is no Unicode") from error
        return read

    def to_message(self) -> dict[str, Any]:
        """The body to send: plain JSON types."""
        return self.model_dump(mode="json", exclude_none=True)


class Weights(_Value):
    """Where a network's weights come from, and the sha256 a worker must find in them.

    `uri` is `packaged` (inside an installed package), `imagenet` (Keras downloads them), `random`
    (seeded; benchmarks only) or an `s3://` or `file://` URI of a `.weights.h5` or `.keras` file. `json_sha256` is
    that of the JSON beside an own `.keras` file, which names its classes (config/own_model.py); None: it has none.
    """

    uri: Annotated[str, StringConstraints(pattern=r"^(packaged|imagenet|random|s3://[^/]+/.+|file:///.+)$")]
    sha256: Sha256 | None = None
    json_sha256: Sha256 | None = None


class FeatureOptions(_Value):
    """Which layers extract_features takes (none: the network's own end, where it has no top), and in which form.

    `with_top` adds the columns of classify, with the job's `top_k`.
    """

    layers: tuple[Annotated[str, StringConstraints(min_length=1)], ...]
    pool: Pool = Pool.NONE
    dtype: FeatureType = FeatureType.FLOAT32
    with_top: bool = False

    @field_validator("layers")
    @classmethod
    def _once_each(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(layers)) < len(layers):
            raise ValueError("a layer is named twice")
        return layers


class Job(_Value):
    """What a run asks for; the same value in every chunk of the run and in its job.json."""

    version: Literal[1] = 1
    run_id: RunId
    mode: Mode = Mode.CLASSIFY
    model: str
    spec: ModelSpec | None = Field(default=None, description="None: the catalogue's row of `model`, unchanged")
    weights: Weights | None = Field(default=None, description="None: the model's own (packaged or imagenet)")
    preprocess_digest: str | None = Field(default=None, description="None: the worker's own is taken")
    output: S3Uri = Field(description="base under which <run_id>/ is written")
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    engine: Engine = Engine.AUTO
    precision: Precision = Precision.AUTO
    features: FeatureOptions | None = Field(default=None, description="of extract_features; those of a training follow")
    training: TrainingOptions | None = Field(default=None, description="of fine_tune, and only there")

    @model_validator(mode="after")
    def _mode_has_its_options(self) -> Self:
        if (self.mode is Mode.FINE_TUNE) != (self.training is not None):
            raise ValueError("mode fine_tune and training go together")
        if (self.mode in (Mode.EXTRACT_FEATURES, Mode.FINE_TUNE)) != (self.features is not None):
            raise ValueError("mode extract_features and features go together")
        return self

    @model_validator(mode="before")
    @classmethod
    def _training_says_which_features(cls, values: Any) -> Any:
        """A training reads stored features, so its images' rows hold them, whatever else the message says."""
        if not isinstance(values, dict) or values.get("training") is None:
            return values
        try:
            training = TrainingOptions.model_validate(values["training"])
        except ValidationError:  # which the field itself will say
            return values
        layers = (POOLED, FROZEN) if training.stores_frozen else (POOLED,)
        return {**values, "features": FeatureOptions(layers=layers)}


def job_spec(job: Job) -> ModelSpec:
    """The model of a job: its own spec, or the catalogue's row; UnknownModel where there is neither."""
    return job.spec or find_model(job.model)


class Chunk(Message):
    """The keys of one task and the job they belong to: all that a worker needs to know.

    `labels` has one for each key, None where a key has none; as a whole it is None in runs without labels.
    """

    version: Literal[1] = 1
    job: Job
    bucket: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    keys: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CHUNK_KEYS)]
    labels: tuple[LabelText | None, ...] | None = None
    part: Annotated[int, Field(ge=0)] = 0
    start: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _every_key_has_its_label(self) -> Self:
        if self.labels is not None and len(self.labels) != len(self.keys):
            raise ValueError(f"{len(self.labels)} labels for {len(self.keys)} keys")
        return self

    @classmethod
    def from_message(cls, message: Any) -> Self:
        """Read a message body; ContractError says in one line what is wrong with it."""
        chunk = super().from_message(message)
        if chunk.labels is None and chunk.job.mode in LABELLED:
            raise ContractError(f"labels: {chunk.job.mode} needs one for each key, null where a key has none")
        return chunk

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
        return self.cut(self.start, middle), self.cut(self.start + middle, len(self.keys) - middle)

    def cut(self, start: int, count: int) -> "Chunk":
        """The `count` keys of the chunk from this place of the manifest part on, with their labels."""
        kept = slice(start - self.start, start - self.start + count)
        labels = None if self.labels is None else self.labels[kept]
        return self.model_copy(update={"keys": self.keys[kept], "labels": labels, "start": start})

    def describe(self) -> str:
        """What Flower and the log show of a chunk, rather than its keys."""
        job, images = self.job, len(self.keys)
        return f"run={job.run_id} mode={job.mode} model={job.model} chunk={self.chunk_id} images={images}"


def describe(error: ValidationError) -> str:
    """All complaints of a validation in one line, without the values (they may be secret or large)."""
    return "; ".join(
        f"{'.'.join(str(place) for place in found['loc']) or 'message'}: {found['msg']}"
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    )
