"""Rates: from the summaries of the last chunks to images per second of one worker machine, by kind of work."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from config.messages import Job
from config.results import ChunkSummary

#: Chunks that count as the last ones: those that ended so shortly before the newest.
WINDOW = timedelta(minutes=10)


def kind_of(job: Job) -> str:
    """What makes chunks alike: features of a layer take longer than classes of the same network."""
    return f"{job.mode} {job.model}"


@dataclass(frozen=True, slots=True)
class Work:
    """One chunk that a machine was busy with."""

    machine: str
    kind: str
    images: int
    started_at: datetime
    ended_at: datetime

    @classmethod
    def of(cls, summary: ChunkSummary, kind: str) -> "Work":
        """The work that a summary tells of; its worker is a machine's name and a process."""
        machine = summary.worker.rpartition(":")[0] or summary.worker
        return cls(machine, kind, summary.images, summary.started_at, summary.ended_at)


class Rates:
    """Images per second that a machine makes of each kind of work while it is busy."""

    def __init__(self) -> None:
        self._work: list[Work] = []
        self._known: dict[str, float] = {}

    def add(self, work: Iterable[Work]) -> None:
        """Take what was done since the last call."""
        new = list(work)
        if not new:
            return
        self._work += new
        newest = max(one.ended_at for one in self._work)
        self._work = [one for one in self._work if newest - one.ended_at <= WINDOW]
        seconds, images = machine_seconds(self._work), defaultdict[str, int](int)
        for one in self._work:
            images[one.kind] += one.images
        # A kind that nobody has asked for lately keeps the rate that it had.
        self._known |= {kind: images[kind] / spent for kind, spent in seconds.items() if spent > 0}

    def of(self, kind: str | None) -> float | None:
        """The kind's rate; for one that was never measured that of the others, None where there is none."""
        if kind in self._known:
            return self._known[kind]
        return sum(self._known.values()) / len(self._known) if self._known else None

    @property
    def machines(self) -> int:
        """Machines that ended a chunk lately."""
        return len({one.machine for one in self._work})


def machine_seconds(work: Iterable[Work]) -> dict[str, float]:
    """Seconds of whole machines that each kind took.

    A machine works on several chunks at once, so that each has its share of it: while k chunks run, a k-th. Their
    own seconds, added up, would count a second k times.
    """
    spent: defaultdict[str, float] = defaultdict(float)
    by_machine: defaultdict[str, list[Work]] = defaultdict(list)
    for one in work:
        by_machine[one.machine].append(one)
    for chunks in by_machine.values():
        for kind, seconds in _shares(chunks):
            spent[kind] += seconds
    return dict(spent)


def _shares(chunks: Iterable[Work]) -> Iterator[tuple[str, float]]:
    """One machine's time, cut where a chunk starts or ends, as shares of the chunks that run meanwhile."""
    edges = sorted(
        (moment, step, number, one.kind)
        for number, one in enumerate(chunks)
        for moment, step in ((one.started_at, 1), (one.ended_at, -1))
    )
    running: dict[int, str] = {}
    for (moment, step, number, kind), (following, *_) in pairwise(edges):
        if step > 0:
            running[number] = kind
        else:
            running.pop(number, None)
        for busy in running.values():
            yield busy, (following - moment).total_seconds() / len(running)
