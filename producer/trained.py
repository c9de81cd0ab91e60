"""Trained: from what S3 holds of a run's training to how it stands, to its next step, and to its history."""

import io
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import S3Store

from config.results import RunAddress, RunRecord
from config.steps import TrainingStep, first_step
from config.trained import HISTORY_SCHEMA, EpochRecord, TrainingAddress, TrainingFailure, TrainingSummary
from config.training import PHASES, Epoch, all_epochs
from producer.records import delete, list_names, read_frozen
from producer.translate import s3_errors


@dataclass(frozen=True, slots=True)
class TrainingStatus:
    """A training at one moment: the epochs that are done, of how many, and how it ended, if it has."""

    epochs: int
    done: tuple[EpochRecord, ...]
    failure: TrainingFailure | None = None
    summary: TrainingSummary | None = None

    @property
    def last(self) -> EpochRecord | None:
        return self.done[-1] if self.done else None

    def line(self) -> str:
        """In a few words: `epoch 3 of 15 (head), loss 0.41, val_accuracy 92.0 %`."""
        words = f"{len(self.done)} of {self.epochs} epochs"
        if self.last is None:
            return words
        last = self.last
        return (
            f"{words}, phase {last.phase} ({PHASES[last.phase]}), loss {last.loss:.3f}, "
            f"val_loss {last.val_loss:.3f}, val_accuracy {100 * last.val_accuracy:.1f} %"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for a program."""
        return {
            "epochs": self.epochs,
            "done": [record.model_dump(mode="json") for record in self.done],
            "failure": self.failure.model_dump(mode="json") if self.failure else None,
            "summary": self.summary.model_dump(mode="json") if self.summary else None,
        }


class TrainingPoller:
    """Looks at a training again and again; reads only the epochs that it has not seen."""

    def __init__(self, store: S3Store, run: RunAddress, record: RunRecord) -> None:
        self._store, self._place = store, TrainingAddress(run)
        self._epochs = len(all_epochs(record.job.training)) if record.job.training else 0
        self._done: dict[str, EpochRecord] = {}

    def poll(self) -> TrainingStatus:
        """Look now. How it ended is asked for first: what is written before that is then seen, too."""
        summary = self._read(self._place.done_key)
        failure = self._read(self._place.failure_key) if summary is None else None
        for name in list_names(self._store, self._place.epochs, max(self._done, default=None)):
            body = None if name in self._done else self._read(self._place.epoch_key(name))
            if body is not None:
                self._done[name] = EpochRecord.from_json(body)
        return TrainingStatus(
            epochs=self._epochs,
            done=tuple(self._done[name] for name in sorted(self._done)),
            failure=None if failure is None else TrainingFailure.from_json(failure),
            summary=None if summary is None else TrainingSummary.from_json(summary),
        )

    def _read(self, key: str) -> bytes | None:
        with s3_errors(f"read {key}"):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None


def next_step(store: S3Store, run: RunAddress, record: RunRecord) -> TrainingStep | None:
    """The step that a run's training wants next; None where it is done, and while the run's keys are being listed."""
    frozen = read_frozen(store, run)
    if record.job.training is None or frozen is None:
        return None
    status = TrainingPoller(store, run, record).poll()
    if status.summary is not None:
        return None
    step = first_step(record.job, record.bucket, frozen.keys)
    done = {(found.phase, found.epoch) for found in status.done}
    epochs = all_epochs(record.job.training)
    # Behind the last epoch the model is still to be written, which its step does.
    return step.at(next((epoch for epoch in epochs if epoch not in done), epochs[-1]))


def forget_failure(store: S3Store, run: RunAddress) -> None:
    """Let a training that was given up be tried again."""
    delete(store, run, TrainingAddress(run).failure_key)


def write_training_failure(store: S3Store, run: RunAddress, step: TrainingStep, error: str) -> None:
    """Give a training up, as a worker does after its last try."""
    failure = TrainingFailure(epoch=step.epoch.name, error=error, worker=platform.node(), failed_at=datetime.now(UTC))
    with s3_errors(f"write {run}"):
        obstore.put(store, TrainingAddress(run).failure_key, failure.to_json())


def read_history(store: S3Store, run: RunAddress, record: RunRecord) -> pa.Table:
    """A row for each epoch that is done; that of history.parquet, once it is there."""
    key = TrainingAddress(run).history_key
    with s3_errors(f"read {key}"):
        try:
            return pq.read_table(io.BytesIO(bytes(obstore.get(store, key).bytes())))
        except FileNotFoundError:
            pass
    return pa.Table.from_pylist(list(_rows(TrainingPoller(store, run, record).poll())), HISTORY_SCHEMA)


def _rows(status: TrainingStatus) -> Iterator[dict[str, Any]]:
    for record in status.done:
        yield record.model_dump(include=set(HISTORY_SCHEMA.names))


def best_epoch(status: TrainingStatus) -> Epoch | None:
    """The epoch of the highest val_accuracy, the first of equal ones."""
    if not status.done:
        return None
    best = max(status.done, key=lambda record: record.val_accuracy)
    return Epoch(best.phase, best.epoch)
