"""Alive: from an output base in S3, and what Redis holds, to the runs that go on and what each of them needs.

The names below the base are listed at each look, a thousand runs for a request, so that a new run is seen at once. A
run that has ended is never looked at again, unless Redis knows of somebody who works on it.
"""

import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import obstore
from obstore.store import S3Store

from config.clients import make_store
from config.errors import ContractError, PixelherdError
from config.results import RunAddress
from config.settings import Settings
from producer.backlog import RunBacklog, RunWatch
from producer.enqueuer import OnEvent
from producer.queued import QueuedRun
from producer.rates import Work, kind_of
from producer.records import find_run
from producer.run import OpenRun
from producer.translate import s3_errors

#: Runs that are looked at at once: 500 old ones take seconds at the start.
LOOK_THREADS = 16

#: What a run's folder is called (config.messages.RunId); others below the base are none of ours.
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")


What = TypeVar("What")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class InRedis:
    """What Redis knows: messages by run, and the ids of runs that somebody feeds or works on."""

    queued: Mapping[str, QueuedRun]
    restless: Collection[str]

    def knows(self, run_id: str) -> bool:
        """Whether somebody has to do with the run."""
        return run_id in self.queued or run_id in self.restless


@dataclass(frozen=True, slots=True)
class Look:
    """All runs at one moment. `blind` says what could not be seen: there may be more to do than this."""

    runs: tuple[RunBacklog, ...]
    work: tuple[Work, ...]
    blind: tuple[str, ...]

    @property
    def to_do(self) -> int:
        """Images that nobody has written or given up."""
        return sum(run.to_do for run in self.runs)


class AliveRuns:
    """Knows the runs that go on: those below the output base, and those that have messages in Redis."""

    def __init__(self, settings: Settings, on_event: OnEvent) -> None:
        self._settings = settings
        self._on_event = on_event
        self._stores: dict[str, S3Store] = {}
        self._watches: dict[RunAddress, RunWatch] = {}
        self._last: dict[RunAddress, RunBacklog] = {}
        self._settled: set[RunAddress] = set()  # runs that have ended, and what is no run
        self._told: set[RunAddress] = set()

    def look(self, redis: InRedis | None) -> Look:
        """Look at all runs that may have something to do; None where Redis is away."""
        blind: list[str] = []
        expected = self._below_base(blind) | self._watches.keys()
        if redis is not None:
            self._settled -= {address for address in self._settled if redis.knows(address.run_id)}
        found = (expected | self._queued(redis)) - self._settled

        def look_at(address: RunAddress) -> RunBacklog | None:
            # Anybody may put a chunk into the queue whose output we must not read; that makes nobody blind.
            seen = tried(self._look_at, address, blind if address in expected else [])
            return seen or self._last.get(address)

        with ThreadPoolExecutor(LOOK_THREADS, "alive") as pool:
            runs = [backlog for backlog in pool.map(look_at, sorted(found, key=str)) if backlog is not None]
            work = pool.map(lambda watch: tried(RunWatch.take_work, watch, []) or (), list(self._watches.values()))
            done = tuple(one for some in work for one in some)
        if redis is not None:
            runs = [run for run in runs if not _is_stalled(run, redis)]
            runs += _strangers(redis, {run.run_id for run in runs})
        return Look(tuple(runs), done, tuple(sorted(set(blind))))

    @property
    def open_runs(self) -> list[OpenRun]:
        """The runs that had not ended at the last look."""
        return [watch.run for watch in list(self._watches.values())]

    # Which runs there are

    def _below_base(self, blind: list[str]) -> set[RunAddress]:
        return set(tried(self._list, self._settings.output, blind) or ()) if self._settings.output else set()

    def _list(self, output: str) -> list[RunAddress]:
        base = RunAddress.of(output, "x")
        with s3_errors(f"list {output}"):
            listed = obstore.list_with_delimiter(self._store(base.bucket), base.prefix.removesuffix("x") or None)
        names = (folder.rstrip("/").rpartition("/")[2] for folder in listed["common_prefixes"])
        return [RunAddress.of(output, name) for name in names if RUN_ID.fullmatch(name)]

    def _queued(self, redis: InRedis | None) -> set[RunAddress]:
        """Where the runs lie that have messages in Redis, perhaps not below the base."""
        chunks = (queued.chunk for queued in redis.queued.values()) if redis else ()
        return {RunAddress.of(chunk.job.output, chunk.job.run_id) for chunk in chunks if chunk is not None}

    # How one run stands

    def _look_at(self, address: RunAddress) -> RunBacklog | None:
        try:
            watch = self._watches.get(address) or self._open(address)
            if watch is None:
                self._settled.add(address)
                return None
            backlog = watch.look()
        except ContractError as error:  # of another version, or a stranger's file among ours: looking again is no use
            self._tell(address, f"{address} is left out: {error}")
            self._forget(address)
            return None
        self._last[address] = backlog
        if backlog.ended:
            self._forget(address)
        return backlog

    def _open(self, address: RunAddress) -> RunWatch | None:
        store = self._store(address.bucket)
        record = find_run(store, address)
        if record is None:  # somebody else's folder, or a sender without pixelherd
            return None
        watch = RunWatch(OpenRun(address, record, store, self._settings, self._on_event))
        self._watches[address] = watch
        return watch

    def _forget(self, address: RunAddress) -> None:
        self._settled.add(address)
        self._watches.pop(address, None)
        self._last.pop(address, None)

    def _tell(self, address: RunAddress, text: str) -> None:
        if address not in self._told:
            self._told.add(address)
            self._on_event(text)

    def _store(self, bucket: str) -> S3Store:
        if bucket not in self._stores:
            self._stores[bucket] = make_store(self._settings, bucket)
        return self._stores[bucket]


def tried(act: Callable[[What], Answer], what: What, blind: list[str]) -> Answer | None:
    """The answer, or None and a line that says why there is none."""
    try:
        return act(what)
    except PixelherdError as error:
        blind.append(str(error))
        return None


def _is_stalled(run: RunBacklog, redis: InRedis) -> bool:
    """Whether a run's listing was cut off: nobody will enqueue the rest, so no worker shall wait for it."""
    return run.listing and not redis.knows(run.run_id)


def _strangers(redis: InRedis, seen: Collection[str]) -> list[RunBacklog]:
    """Runs without job.json, or that S3 does not show: what Redis holds of them is all that is known."""
    return [
        RunBacklog(queued.run_id, kind_of(queued.chunk.job) if queued.chunk else None, queued.images)
        for queued in redis.queued.values()
        if queued.run_id not in seen
    ]
