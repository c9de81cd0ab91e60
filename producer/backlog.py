"""Backlog: from one run in S3 to the images of it that are still to do, how long they have waited, and the last work.

S3 is asked, not the queue: the queue holds a window of a run. A look costs a few listings, from the first chunk that
is not done; only the newest summaries are read.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import obstore

from config.results import ChunkPlace, ChunkSummary, FrozenManifest
from producer.frozen import read_part, totals_of
from producer.ledger import Ledger
from producer.rates import Work, kind_of
from producer.records import is_cancelled, list_names, list_written, read_frozen
from producer.run import OpenRun
from producer.trained import TrainingPoller
from producer.translate import s3_errors

#: New summaries that are read at a look, the newest first, and how many at once. 500 machines of 4 cores end four
#: each meanwhile, with the fastest network.
READ_SUMMARIES = 2_000
READ_THREADS = 16


@dataclass(frozen=True, slots=True)
class RunBacklog:
    """What a run still needs. `waiting_since`: when the first chunk that is not done was frozen.

    One that `trains` has all its rows; its images are then those of an epoch, which one machine reads alone.
    """

    run_id: str
    kind: str | None
    to_do: int
    listing: bool = False
    trains: bool = False
    waiting_since: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more, unless somebody resumes the run."""
        return not self.to_do and not self.listing


class RunWatch:
    """Looks at one run again and again, by names alone."""

    def __init__(self, run: OpenRun) -> None:
        self.run = run
        self._frozen: FrozenManifest | None = None
        self._listed = (0, 0)  # parts, and the keys in them
        self._ledger = Ledger(run.record.chunk_size)
        trains = run.record.job.training is not None
        self._trainer = TrainingPoller(run.store, run.address, run.record) if trains else None
        self._failed: set[str] = set()
        self._written: dict[str, datetime] = {}  # when each manifest part was
        self._new: dict[str, datetime] = {}

    def look(self) -> RunBacklog:
        """Look now."""
        run, job = self.run, self.run.record.job
        if is_cancelled(run.store, run.address):
            return RunBacklog(job.run_id, kind_of(job), 0)
        self._frozen = self._frozen or read_frozen(run.store, run.address)
        self._see_given_up()
        self._see_summaries()
        self._ledger.settle(self._frozen)
        to_do = self._count_keys() - self._ledger.rows
        if not to_do and self._is_training():
            return RunBacklog(job.run_id, kind_of(job), self._count_keys(), trains=True)
        since = self._waiting_since() if to_do else None
        return RunBacklog(job.run_id, kind_of(job), to_do, listing=self._frozen is None, waiting_since=since)

    def take_work(self) -> tuple[Work, ...]:
        """What was done since the last call, or the newest of it."""
        names = sorted(self._new, key=lambda name: self._new[name])[-READ_SUMMARIES:]
        if not names:
            return ()
        with ThreadPoolExecutor(READ_THREADS, "rates") as pool:
            read = [summary for summary in pool.map(self._read, names) if summary is not None]
        self._new.clear()
        return tuple(Work.of(summary, kind_of(self.run.record.job)) for summary in read)

    def _is_training(self) -> bool:
        """Whether an epoch is still to come, when all images have their rows; without them it never begins."""
        if self._trainer is None or self._frozen is None or self._failed:
            return False
        training = self._trainer.poll()
        return training.summary is None and training.failure is None

    def _see_given_up(self) -> None:
        """A chunk that was given up is not to do, until somebody resumes the run."""
        failed = set(list_names(self.run.store, self.run.address.failures))
        if self._failed - failed:
            self._ledger = Ledger(self.run.record.chunk_size)
        self._failed = failed
        for name in failed:
            if not self._ledger.knows(place := ChunkPlace.parse(name)):
                self._ledger.fill(place, {})

    def _see_summaries(self) -> None:
        summaries = self.run.address.summaries
        for name, written_at in list_written(self.run.store, summaries, self._ledger.offset):
            if not self._ledger.knows(place := ChunkPlace.parse(name)):
                self._ledger.fill(place, {})
                self._new[name] = written_at

    def _count_keys(self) -> int:
        if self._frozen is not None:
            return self._frozen.keys
        self._see_parts()
        parts = len(self._written)
        if parts != self._listed[0]:
            last = read_part(self.run.store, self.run.address, parts - 1)
            self._listed = (parts, totals_of(last).keys)
        return self._listed[1]

    def _waiting_since(self) -> datetime | None:
        part = self._ledger.offset.partition("-")[0]
        if part not in self._written:
            self._see_parts()
        return self._written.get(part)

    def _see_parts(self) -> None:
        known = max(self._written, default=None)
        for name, written_at in list_written(self.run.store, self.run.address.manifests, known):
            if name != "frozen":
                self._written[name] = written_at

    def _read(self, name: str) -> ChunkSummary | None:
        """None where it was withdrawn since it was listed."""
        key = self.run.address.summary_key(name)
        with s3_errors(f"read {key}"):
            try:
                return ChunkSummary.from_json(bytes(obstore.get(self.run.store, key).bytes()))
            except FileNotFoundError:
                return None
