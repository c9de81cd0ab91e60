"""Trained: what a training leaves in its run's folder, beside what config.results names: addresses, records, tables.

::

    training/images.parquet     which image is trained on, which validates, which was left out, and why
    checkpoints/<epoch>.npz     what training has changed up to this epoch; the last one stays
    epochs/<epoch>.json         how the epoch went: its mark, written after its checkpoint
    training/failure.json       why no further epoch can be trained
    model.keras, model.json     the trained network, and its classes and preprocessing (config.own_model)
    history.parquet             a row for each epoch
    layers.parquet              a row for each layer, and in which phase it was trained
    training/done.json          written last: the training is done
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from config.results import Record, RunAddress


class Use(StrEnum):
    """What an image of a training is for."""

    TRAIN = "train"
    VALIDATE = "validate"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class TrainingAddress:
    """Where the objects of a run's training lie."""

    run: RunAddress

    @property
    def images_key(self) -> str:
        return f"{self.run.prefix}/training/images.parquet"

    @property
    def failure_key(self) -> str:
        return f"{self.run.prefix}/training/failure.json"

    @property
    def done_key(self) -> str:
        return f"{self.run.prefix}/training/done.json"

    def checkpoint_key(self, epoch: str) -> str:
        return f"{self.run.prefix}/checkpoints/{epoch}.npz"

    @property
    def epochs(self) -> str:
        return f"{self.run.prefix}/epochs/"

    def epoch_key(self, epoch: str) -> str:
        return f"{self.epochs}{epoch}.json"

    @property
    def model_key(self) -> str:
        return f"{self.run.prefix}/model.keras"

    @property
    def model_json_key(self) -> str:
        return f"{self.run.prefix}/model.json"

    @property
    def history_key(self) -> str:
        return f"{self.run.prefix}/history.parquet"

    @property
    def layers_key(self) -> str:
        return f"{self.run.prefix}/layers.parquet"


class EpochRecord(Record):
    """epochs/<epoch>.json: how one epoch went; the same stands in its checkpoint's story."""

    phase: Annotated[int, Field(ge=1, le=2)]
    epoch: Annotated[int, Field(ge=1)]
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images: int = Field(description="that were trained on")
    val_images: int
    seconds: float
    worker: str
    started_at: datetime
    ended_at: datetime


class TrainingFailure(Record):
    """training/failure.json: no further epoch is tried, until `resume` removes this."""

    epoch: str
    error: str
    worker: str
    failed_at: datetime


class TrainingSummary(Record):
    """training/done.json: what was learnt from how many images; where it stands, the model does."""

    classes: tuple[str, ...]
    counts: dict[Use, int]
    epochs: int
    val_accuracy: float = Field(description="of the last epoch, whose weights are the model's")
    best: str = Field(description="the epoch of the best val_accuracy")
    model_sha256: str
    trained_layers: tuple[str, ...]
    seconds: float = Field(description="of all epochs")
    ended_at: datetime


IMAGES_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("use", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("chunk_id", pa.string(), nullable=False),
    ]
)

HISTORY_SCHEMA = pa.schema(
    [
        pa.field("phase", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")),
        pa.field("images", pa.int64()),
        pa.field("val_images", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("worker", pa.string()),
        pa.field("ended_at", pa.timestamp("us", tz="UTC")),
    ]
)

LAYERS_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("parameters", pa.int64(), nullable=False),
        pa.field("trained_in", pa.string()),
    ]
)
