"""Training: from one TrainingStep to its checkpoint, its record, and the step behind it; the walk of an epoch.

The checkpoint stands before the record, and the record before the next step is sent. So an epoch that is delivered
twice is trained once, and a process that dies costs the epoch in its hand and no other.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from config.results import RunAddress
from config.steps import TrainingStep
from config.trained import EpochRecord, TrainingAddress, TrainingFailure
from workers.cnn.checkpoint import pack_checkpoint, unpack_checkpoint
from workers.cnn.finetune import Batch, State, full_precision
from workers.errors import TransientError
from workers.leave import leave_model
from workers.pipeline import worker_name
from workers.session import Session, open_session
from workers.workbench import Workbench
from workers.write import create_object, erase, read_object, stands, write_record

logger = logging.getLogger(__name__)

#: Seconds between two looks at whether a long epoch is still wanted.
LOOK_INTERVAL_S = 10.0

#: Whether the step is still this process's.
StillHeld = Callable[[], bool]

#: The records of all epochs so far, as JSON has them.
Story = list[dict[str, Any]]


class Unwanted(Exception):
    """The run was cancelled, or another process has the step: nothing is to be written."""


class Trainer:
    """Trains the steps that one process is given; what it needs for a phase it keeps for the next epoch."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._session: Session | None = None

    def train(self, step: TrainingStep, still_held: StillHeld) -> TrainingStep | None:
        """Do the epoch, unless it is done; returns the step to send next, None where there is none.

        Raises RowsPending where images have no row yet, TransientError when the epoch may succeed later.
        """
        place = TrainingAddress(RunAddress.of(step.job.output, step.job.run_id))
        results = self._bench.store(place.run.bucket)
        if is_settled(step, self._bench):
            self._session = None
            return None
        name = step.epoch.name
        try:
            if not stands(results, place.epoch_key(name)):
                _, story = unpack_checkpoint(self._checkpoint(step, place, still_held))
                write_record(results, place.epoch_key(name), EpochRecord.model_validate(story[-1]))
            following = step.following()
            if following is None:
                leave_model(step, self._open(step), self._bench)
                self._session = None
        except Unwanted:
            logger.info("chunk=%s run=%s unwanted=yes", step.chunk_id, step.job.run_id)
            return None
        if step.before is not None:
            erase(results, place.checkpoint_key(step.before.name))
        return following

    def _checkpoint(self, step: TrainingStep, place: TrainingAddress, still_held: StillHeld) -> bytes:
        """What stands of the epoch already, or else what training it gives, which stands then."""
        results, key = self._bench.store(place.run.bucket), place.checkpoint_key(step.epoch.name)
        stored = read_object(results, key)
        if stored is not None:
            return stored
        body = self._train(step, place, still_held)
        if not still_held():
            raise Unwanted
        if create_object(results, key, body):
            return body
        stored = read_object(results, key)
        if stored is None:
            raise TransientError(f"{key} was written and is not there")
        return stored

    def _train(self, step: TrainingStep, place: TrainingAddress, still_held: StillHeld) -> bytes:
        started_at, started = datetime.now(UTC), time.perf_counter()
        begins = step.before is None or step.before.phase != step.phase
        session = self._open(step, anew=begins)
        trainee, story = session.trainee, self._go_on(step, place, session)
        wanted = self._wanted(step, still_held)
        with full_precision():
            learnt = trainee.train(wanted(session.examples.train(step.epoch)))
            found = trainee.validate(wanted(session.examples.validate()))
        record = EpochRecord(
            phase=step.phase,
            epoch=step.number,
            loss=learnt.loss,
            accuracy=learnt.accuracy,
            val_loss=found.loss,
            val_accuracy=found.accuracy,
            learning_rate=step.training.learning_rates[step.phase - 1],
            images=learnt.images,
            val_images=found.images,
            seconds=time.perf_counter() - started,
            worker=worker_name(),
            started_at=started_at,
            ended_at=datetime.now(UTC),
        )
        _log(step, record)
        return pack_checkpoint(trainee.state(), [*story, record.model_dump(mode="json")])

    def _open(self, step: TrainingStep, *, anew: bool = False) -> Session:
        if anew or self._session is None or not self._session.suits(step):
            self._session = None  # before another one is built, or there would be two networks for a moment
            self._session = open_session(step, self._bench)
        return self._session

    def _go_on(self, step: TrainingStep, place: TrainingAddress, session: Session) -> Story:
        """Bring the network to where the epoch before has left it; returns what was told until then."""
        if step.before is None:
            return []
        state, story = read_checkpoint(place, step.before.name, self._bench)
        take = session.trainee.restore if step.before.phase == step.phase else session.trainee.adopt
        take(state)
        return story

    def _wanted(self, step: TrainingStep, still_held: StillHeld) -> Callable[[Iterable[Batch]], Iterator[Batch]]:
        """Passes batches on, and looks now and then whether anybody still wants them."""

        def pass_on(batches: Iterable[Batch]) -> Iterator[Batch]:
            looked = time.monotonic()
            for batch in batches:
                if time.monotonic() - looked > LOOK_INTERVAL_S:
                    if is_settled(step, self._bench) or not still_held():
                        raise Unwanted
                    looked = time.monotonic()
                yield batch

        return pass_on


def read_checkpoint(place: TrainingAddress, epoch: str, bench: Workbench) -> tuple[State, Story]:
    """What an epoch has left; TransientError where it is not there: a copy of its step is behind, or ahead."""
    key = place.checkpoint_key(epoch)
    body = read_object(bench.store(place.run.bucket), key)
    if body is None:
        raise TransientError(f"{key} is not there")
    return unpack_checkpoint(body)


def is_settled(step: TrainingStep, bench: Workbench) -> bool:
    """Whether the training is done, has failed, or its run was cancelled, at the price of three HEADs."""
    place = TrainingAddress(RunAddress.of(step.job.output, step.job.run_id))
    for key in (place.done_key, place.failure_key, place.run.cancelled_key):
        if stands(bench.store(place.run.bucket), key):
            logger.info("chunk=%s run=%s skipped=%s", step.chunk_id, step.job.run_id, key.rpartition("/")[2])
            return True
    return False


def give_up_training(step: TrainingStep, bench: Workbench, error: BaseException) -> None:
    """Leave a failure, which the report shows and `resume` removes."""
    place = TrainingAddress(RunAddress.of(step.job.output, step.job.run_id))
    failure = TrainingFailure(
        epoch=step.epoch.name,
        error=str(error).partition("\n")[0] or type(error).__name__,
        worker=worker_name(),
        failed_at=datetime.now(UTC),
    )
    write_record(bench.store(place.run.bucket), place.failure_key, failure)


def _log(step: TrainingStep, record: EpochRecord) -> None:
    figures = " ".join(
        f"{name}={getattr(record, name):.4g}" for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds")
    )
    logger.info("chunk=%s run=%s images=%d %s", step.chunk_id, step.job.run_id, record.images, figures)
