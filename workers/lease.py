"""Lease: from the messages that this worker holds to fresh marks in Redis that say so.

kombu has no heartbeat for a message: one that is not acknowledged within the visibility timeout goes to another
worker, and a chunk that takes longer then runs for ever, again and again (measured: starts at 1, 10, 26, 35, 51 s …
for a task of 25 s at a timeout of 8 s). So the timeout is short, and a thread of the worker's main process renews
the marks; when the machine dies the marks go stale and the chunks go to others. A thread, because the event
loop stands still in a warm shutdown; the main process, because children come and go.
"""

import logging
import threading
from typing import Any

import redis
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.worker import state

from config.clients import make_redis
from config.errors import SettingsError
from config.settings import Settings

logger = logging.getLogger(__name__)

#: Renewals in one visibility timeout: three may fail before another worker takes the chunk.
RENEWALS = 4

#: What the workers of a Redis database have agreed on; it is forgotten after so many timeouts without a worker.
TIMEOUT_KEY = "pixelherd:visibility_timeout"
NOTE_TIMEOUTS = 3

#: Bad settings, as the command has it.
REFUSED_EXIT_CODE = 2

#: Tries to read kombu's tables while the event loop changes them; one is nearly always enough.
SNAPSHOT_TRIES = 10


class Renewer:
    """Renews the marks of whatever the current channel holds, until the process ends."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.visibility_timeout_s
        self._interval_s = settings.visibility_timeout_s / RENEWALS
        # A connection that leads nowhere any more is left while there is still time for a renewal over a new one.
        self._redis = make_redis(settings, self._interval_s, retries=0)
        self._qos: Any = None
        self._index_key = ""
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def watch(self, channel: Any) -> None:
        """Look at this channel from now on (a reconnect makes a new one), and start if not yet started."""
        self._qos = channel.qos
        self._index_key = f"{channel.global_keyprefix}{channel.unacked_index_key}"
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; what is still held goes stale after the visibility timeout."""
        self._stopped.set()

    def agree(self) -> None:
        """Raise SettingsError where the workers of this Redis database have another visibility timeout.

        Whoever has the shortest one takes everybody's chunks (measured: at 4 s from a worker that said 3,600 s).
        The note goes with the last worker, so that a whole fleet can be given another timeout.
        """
        ours = self._timeout_s
        self._redis.set(TIMEOUT_KEY, ours, nx=True, ex=NOTE_TIMEOUTS * ours)
        theirs = int(self._redis.get(TIMEOUT_KEY) or ours)
        if theirs != ours:
            raise SettingsError(
                f"PIXELHERD_VISIBILITY_TIMEOUT_S is {ours} here and {theirs} in other workers of this Redis database: "
                "give all the same, or this one a database of its own"
            )

    def renew(self) -> int:
        """Renew once; returns how many messages are held. XX: what was acknowledged meanwhile stays gone."""
        self._redis.set(TIMEOUT_KEY, self._timeout_s, xx=True, ex=NOTE_TIMEOUTS * self._timeout_s)
        tags = self._held()
        if tags:
            # The server's clock: a worker whose own is slow would hand its chunks away while it works on them.
            seconds, micros = self._redis.time()
            now = seconds + micros / 1e6
            self._redis.zadd(self._index_key, dict.fromkeys(tags, now), xx=True)
        return len(tags)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self.renew()
            except redis.RedisError as error:
                logger.warning("lease=not_renewed error=%s", type(error).__name__)

    def _held(self) -> set[str]:
        for _ in range(SNAPSHOT_TRIES):
            try:
                delivered = set(self._qos._delivered) - set(self._qos._dirty)
                return delivered | {request.message.delivery_tag for request in set(state.reserved_requests)}
            except RuntimeError:  # a table changed its size while it was read
                continue
        return set()


def make_lease_step(settings: Settings) -> type[bootsteps.StartStopStep]:
    """The part of Celery's worker that hands each new channel to the renewer."""
    renewer = Renewer(settings)

    class Lease(bootsteps.StartStopStep):  # type: ignore[misc]
        """Starts with the consumer, after each reconnect too."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            try:
                renewer.agree()
            except SettingsError as error:
                logger.critical("worker=refused error=%s", error)
                raise WorkerShutdown(REFUSED_EXIT_CODE) from error
            renewer.watch(consumer.task_consumer.channel)

    return Lease
