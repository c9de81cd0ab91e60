"""Status: from what S3 holds of a run to what is done, failed and still to do; each summary is read once."""

from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import obstore

from config.results import ChunkPlace, ChunkSummary, FrozenManifest, Status, Tally, outermost
from producer.chunker import count_chunks
from producer.frozen import count_parts, read_part, totals_of
from producer.ledger import Ledger, Slot
from producer.records import list_names, read_cancellation, read_frozen
from producer.run import OpenRun
from producer.speed import MOMENT_S, WarmSpeed
from producer.trained import TrainingPoller, TrainingStatus
from producer.translate import s3_errors

#: GETs of summaries in flight; a thousand are read in about a second.
READ_THREADS = 16

#: Seconds that count as "now" for images per second: enough for two chunks, and still following a fleet.
RATE_WINDOW_S = 60.0


#: A window holds so many chunks of a worker at least; a slow network takes minutes for one.
RATE_CHUNKS = 3


class Phase(StrEnum):
    """Where a run is."""

    LISTING = "listing"
    RUNNING = "running"
    TRAINING = "training"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: Nothing more happens by itself.
ENDED = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED})


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run at one moment; done + failed + remaining = images, once the listing has ended.

    `warm_images_per_s` leaves out the first chunk of each process, in which it loads the network.
    """

    run_id: str
    address: str
    phase: Phase
    images: int | None
    listed: int
    done: int
    failed: int
    counts: dict[Status, int]
    chunks: int | None
    chunks_done: int
    chunks_failed: int
    images_per_s: float | None
    eta_s: float | None
    started_at: datetime | None
    ended_at: datetime | None
    seconds: dict[str, float]
    size_bytes: int
    reason: str | None = None
    tally: dict[Tally, int] = field(default_factory=dict)
    machines: int = 0
    warm_images_per_s: float | None = None
    training: TrainingStatus | None = None

    @property
    def remaining(self) -> int | None:
        """Images that nobody has written or given up; None while keys are being listed."""
        return None if self.images is None else self.images - self.done - self.failed

    @property
    def errors(self) -> int:
        """Images that are done and have a status other than ok."""
        return self.done - self.counts.get(Status.OK, 0)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.phase in ENDED

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for a program."""
        values = asdict(self) | {"remaining": self.remaining, "errors": self.errors}
        values["training"] = self.training.to_json() if self.training else None
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


class RunPoller:
    """Looks at a run again and again; reads only the summaries that it has not seen.

    Chunks before the first one that is not done are not listed again either, so that a look costs by what is in
    flight and not by what is done.
    """

    def __init__(self, run: OpenRun) -> None:
        self._run = run
        self._frozen: FrozenManifest | None = None
        self._listed = (0, 0)  # parts, and the keys in them
        self._ledger = Ledger(run.record.chunk_size)
        self._failures: list[ChunkPlace] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._summaries = self._size_bytes = 0
        self._started_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._recent: deque[tuple[datetime, int]] = deque()
        self._machines: set[str] = set()
        self._warm = WarmSpeed()
        self._reason: str | None = None  # of a worker that stopped the run
        trains = run.record.job.training is not None
        self._trainer = TrainingPoller(run.store, run.address, run.record) if trains else None
        self._training: TrainingStatus | None = None

    def poll(self) -> RunStatus:
        """Look now."""
        run = self._run
        self._frozen = self._frozen or read_frozen(run.store, run.address)
        self._absorb_summaries()
        given_up = self._given_up()
        counts, failed = self._ledger.counts, sum(given_up)
        done, images = counts.total(), self._frozen.keys if self._frozen else None
        phase = self._phase(images, done, failed)
        rate = self._rate(phase, done)
        return RunStatus(
            run_id=run.address.run_id,
            address=str(run.address),
            phase=phase,
            images=images,
            listed=self._count_listed(),
            done=done,
            failed=failed,
            counts=dict(sorted(counts.items())),
            chunks=self._count_chunks(),
            chunks_done=self._ledger.chunks_done,
            chunks_failed=len(given_up),
            images_per_s=rate,
            eta_s=(images - done - failed) / rate if images is not None and rate else None,
            started_at=self._started_at,
            ended_at=self._ended_at if phase in ENDED else None,
            seconds={stage: round(spent, 3) for stage, spent in sorted(self._seconds.items())},
            size_bytes=self._size_bytes,
            reason=self._reason,
            tally=dict(self._ledger.tally),
            machines=len(self._machines),
            warm_images_per_s=self._warm.images_per_s,
            training=self._training,
        )

    def unsettled(self, before: Slot | None = None) -> Iterator[tuple[ChunkPlace, set[ChunkPlace]]]:
        """Chunks that were not done at the last poll, each with the places inside it that are done or given up.

        Those before a slot only, where one is given; nothing while keys are being listed and none is given.
        """
        size = self._run.record.chunk_size
        given_up: defaultdict[tuple[int, int], set[ChunkPlace]] = defaultdict(set)
        for place in self._failures:
            given_up[place.part, place.start - place.start % size].add(place)
        if self._frozen is None and before is None:
            return
        for whole, done in self._ledger.unfilled(self._frozen, before):
            yield whole, done | given_up[whole.part, whole.start]

    def _phase(self, images: int | None, done: int, failed: int) -> Phase:
        self._reason = None
        if images is not None and done == images:
            learnt = self._learning()
            if learnt is not Phase.TRAINING:
                return learnt
        ended = read_cancellation(self._run.store, self._run.address)
        if ended:
            self._reason = ended.reason
            return Phase.FAILED if ended.reason else Phase.CANCELLED
        if images is None:
            return Phase.LISTING
        if done == images:
            return Phase.TRAINING
        return Phase.FAILED if done + failed == images else Phase.RUNNING

    def _learning(self) -> Phase:
        """Where the training is, when all images are done; DONE where there is none."""
        if self._trainer is None:
            return Phase.DONE
        self._training = self._trainer.poll()
        failure = self._training.failure
        if failure is not None:
            self._reason = f"the training was given up in epoch {failure.epoch}: {failure.error}"
            return Phase.FAILED
        return Phase.TRAINING if self._training.summary is None else Phase.DONE

    # What S3 holds

    def _absorb_summaries(self) -> None:
        names = list_names(self._run.store, self._run.address.summaries, self._ledger.offset)
        new = [name for name in names if not self._ledger.knows(ChunkPlace.parse(name))]
        with ThreadPoolExecutor(READ_THREADS, "status") as pool:
            for summary in pool.map(self._read_summary, new):
                if summary is not None:
                    self._absorb(summary)
        self._ledger.settle(self._frozen)
        self._recent = deque(sorted(self._recent))

    def _read_summary(self, name: str) -> ChunkSummary | None:
        """None where it was withdrawn since it was listed: the chunk goes on as halves."""
        key = self._run.address.summary_key(name)
        with s3_errors(f"read {key}"):
            try:
                return ChunkSummary.from_json(bytes(obstore.get(self._run.store, key).bytes()))
            except FileNotFoundError:
                return None

    def _absorb(self, summary: ChunkSummary) -> None:
        self._ledger.add(summary)
        for stage, spent in summary.seconds.items():
            self._seconds[stage] += spent
        self._summaries += 1
        self._size_bytes += summary.size_bytes
        self._started_at = min(self._started_at or summary.started_at, summary.started_at)
        self._ended_at = max(self._ended_at or summary.ended_at, summary.ended_at)
        self._recent.append((summary.ended_at, summary.images))
        self._machines.add(summary.worker.rpartition(":")[0])
        self._warm.add(summary)

    def _given_up(self) -> list[int]:
        """Images of each chunk that was given up; what a second delivery did after all is done, not given up."""
        names = list_names(self._run.store, self._run.address.failures)
        self._failures = outermost(ChunkPlace.parse(name) for name in names)
        return [lost for place in self._failures if (lost := place.count - self._ledger.done_in(place))]

    def _count_listed(self) -> int:
        if self._frozen is not None:
            return self._frozen.keys
        parts = count_parts(self._run.store, self._run.address)
        if parts != self._listed[0]:
            last = read_part(self._run.store, self._run.address, parts - 1)
            self._listed = (parts, totals_of(last).keys)
        return self._listed[1]

    def _count_chunks(self) -> int | None:
        if self._frozen is None:
            return None
        return count_chunks(self._frozen.keys, self._frozen.parts, self._run.record.chunk_size)

    # How fast it goes

    def _rate(self, phase: Phase, done: int) -> float | None:
        """Images per second: now while the run goes on, over the whole run when it has ended."""
        if self._started_at is None or self._ended_at is None:
            return None
        if phase in ENDED:
            return done / max(MOMENT_S, (self._ended_at - self._started_at).total_seconds())
        now = datetime.now(UTC)
        window_s = max(RATE_WINDOW_S, RATE_CHUNKS * self._seconds["chunk"] / self._summaries)
        while self._recent and (now - self._recent[0][0]).total_seconds() > window_s:
            self._recent.popleft()
        span_s = min(window_s, (now - self._started_at).total_seconds())
        return sum(images for _, images in self._recent) / max(MOMENT_S, span_s)
