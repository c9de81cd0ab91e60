"""Repair: from the runs that go on to chunks that nobody holds, enqueued again, for as long as this process lives.

A person's `wait` does the same while it lasts; the runs that nobody watches have only this. One Reconciler for each
run, each with a look of its own in flight at most, because the first look at a large run reads all its summaries.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import redis

from config.errors import PixelherdError
from config.results import RunAddress
from producer.feed import Feed
from producer.reconcile import Reconciler
from producer.run import OpenRun

logger = logging.getLogger(__name__)

#: Runs that are looked at at once.
LOOK_THREADS = 8


class Repair:
    """Reconciles the runs that it is told of."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(LOOK_THREADS, "repair")
        self._tended: dict[RunAddress, _Tended] = {}

    def tend(self, runs: Iterable[OpenRun]) -> None:
        """Have each of the runs looked at, and let go of those that are no longer among them; returns at once."""
        alive = {run.address: run for run in runs}
        for address in self._tended.keys() - alive.keys():
            self._tended.pop(address).end()
        for address, run in alive.items():
            if address not in self._tended:
                self._tended[address] = _Tended(run)
            self._tended[address].look(self._pool)

    def close(self) -> None:
        """Send no more, and let another watcher go on."""
        for tended in self._tended.values():
            tended.end()
        self._tended.clear()
        self._pool.shutdown(cancel_futures=True)


class _Tended:
    """One run that is reconciled."""

    def __init__(self, run: OpenRun) -> None:
        self._run_id = run.address.run_id
        self._reconciler = Reconciler(run)
        self._look: Future[None] | None = None
        self._feed: Feed | None = None

    def look(self, pool: ThreadPoolExecutor) -> None:
        if self._look is None or self._look.done():
            self._look = pool.submit(self._look_once)

    def end(self) -> None:
        if self._feed is not None:
            self._feed.stop()
        self._reconciler.close()

    def _look_once(self) -> None:
        try:
            if self._feed is not None:
                self._feed.check()
            if self._feed is None or not self._feed.running:
                self._feed = self._reconciler.look()
        except (PixelherdError, redis.RedisError) as error:
            self._feed = None
            logger.warning("run=%s repair=skipped error=%r", self._run_id, str(error))
