"""Steps: from a training's job to one frozen, versioned TrainingStep for each of its epochs, and to the next one."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from config.messages import Job, Message
from config.results import ChunkPlace
from config.training import Epoch, TrainingOptions, all_epochs

#: What the names of steps begin with, where names of chunks stand beside them.
STEP_PREFIX = "epoch-"

#: Where a training stands among the places of its run's chunks: behind them all, in a part that no manifest has.
TRAINING_PLACE = ChunkPlace(-1, 0, 1)


class TrainingStep(Message):
    """One epoch of a training: all that a worker needs to know, beside what the run holds in S3.

    It waits until `images` images have their rows, trains what the checkpoint before it left, and sends the next.
    """

    version: Literal[1] = 1
    job: Job
    bucket: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    images: Annotated[int, Field(ge=1)]
    phase: Annotated[int, Field(ge=1, le=2)]
    number: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _epoch_is_one_of_the_job(self) -> Self:
        if self.job.training is None:
            raise ValueError(f"a job of mode {self.job.mode} has no epochs")
        if self.epoch not in all_epochs(self.job.training):
            raise ValueError(f"the job has no epoch {self.epoch.name}")
        return self

    @property
    def training(self) -> TrainingOptions:
        """What the job asks for."""
        assert self.job.training is not None  # noqa: S101 - the validator has seen to it
        return self.job.training

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.phase, self.number)

    @property
    def chunk_id(self) -> str:
        """The name under which workers hold it, and watchers look for it: the place of a chunk's name."""
        return STEP_PREFIX + self.epoch.name

    @property
    def before(self) -> Epoch | None:
        """The epoch whose checkpoint it goes on from; None: it is the first."""
        epochs = all_epochs(self.training)
        place = epochs.index(self.epoch)
        return epochs[place - 1] if place else None

    def following(self) -> "TrainingStep | None":
        """The step of the next epoch; None behind the last one."""
        epochs = all_epochs(self.training)
        place = epochs.index(self.epoch) + 1
        return self.at(epochs[place]) if place < len(epochs) else None

    def at(self, epoch: Epoch) -> "TrainingStep":
        """The step of another epoch of the same training."""
        return self.model_copy(update={"phase": epoch.phase, "number": epoch.number})

    def describe(self) -> str:
        """What Flower and the log show of it."""
        job = self.job
        return f"run={job.run_id} mode={job.mode} model={job.model} chunk={self.chunk_id} images={self.images}"


def first_step(job: Job, bucket: str, images: int) -> TrainingStep:
    """The step that a training begins with; the job is one of mode fine_tune."""
    if job.training is None:
        raise ValueError(f"a job of mode {job.mode} has no epochs")
    epoch = all_epochs(job.training)[0]
    return TrainingStep(job=job, bucket=bucket, images=images, phase=epoch.phase, number=epoch.number)
