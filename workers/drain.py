"""Drain: from a notice or a signal to stop to a worker that ends in time, its chunk finished or given back.

SIGTERM (systemd, Docker, a person) and a notice of AWS's take one path: take nothing new, finish the chunk in hand.
At the end of the grace period SIGQUIT: the chunk goes back to the queue, where another worker has it within 2 s
(measured), and nothing waits for the visibility timeout. Then the group is told that the machine may go.

| who says it | how long a chunk may still run |
|---|---|
| a signal | shutdown_grace_s; the unit's TimeoutStopSec is longer |
| spot notice, 120 s before the end | the same, but SPOT_RESERVE_S less than is left |
| the group's scale-in | task_time_limit_s, which no chunk outlives; heartbeats keep the group waiting |

A rebalance recommendation is logged and changes nothing: it may come with no end behind it, and the group
(CapacityRebalance) starts a replacement first and then ends this machine by a scale-in of its own. A worker that
stopped at once would be paid for doing nothing in between.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from billiard import active_children
from celery import signals
from celery.exceptions import WorkerShutdown

from config.settings import Settings
from workers.lifecycle import LifeCycle
from workers.metadata import REBALANCE, Metadata, Notice, Why, read_notice

logger = logging.getLogger(__name__)

#: Seconds between two looks at the metadata; AWS asks for one every 5 s.
LOOK_INTERVAL_S = 5.0

#: Seconds of a spot notice that a chunk does not get: so much is kept to give it back, to tell the group and to end.
#: With the look's 5 s another worker has it at most 100 s after the notice.
SPOT_RESERVE_S = 27.0

#: Seconds between two heartbeats; a hook's timeout is 30 s at least.
HEARTBEAT_INTERVAL_S = 15.0

#: Exit status of a worker whose machine ends: systemd must not start another one (RestartPreventExitStatus).
DRAINED_EXIT_CODE = 75

GiveBack = Callable[[Settings, Iterable[int]], None]


class Drain:
    """The end of one worker. `give_back` is told the pool processes that end with a chunk in hand."""

    def __init__(self, settings: Settings, give_back: GiveBack) -> None:
        self._settings = settings
        self._give_back = give_back
        # Outside of AWS nothing is asked and nothing is said.
        self._metadata = Metadata(settings.metadata_url) if settings.autoscaling_group else None
        self._notice: Notice | None = None
        self._obeying = False
        self._away = False
        self._rebalance = False
        self._ended = threading.Event()

    def install(self) -> None:
        """From now on this process's worker drains."""
        signals.worker_shutting_down.connect(self._on_signal, weak=False)
        if self._metadata is not None:
            signals.celeryd_after_setup.connect(self._on_start, weak=False)
            signals.worker_ready.connect(self._on_ready, weak=False)
            signals.worker_shutdown.connect(self._on_stopped, weak=False)

    def _on_start(self, **_: Any) -> None:
        """A worker that is started (again) on a machine that ends takes nothing at all."""
        self._notice = self._look()
        if self._notice is not None:
            logger.info("drain=told why=%s worker=not_started", self._notice.why)
            raise WorkerShutdown(DRAINED_EXIT_CODE)

    def _on_ready(self, **_: Any) -> None:
        threading.Thread(target=self._watch, name="drain", daemon=True).start()

    def _watch(self) -> None:
        heartbeat_at = 0.0
        while not self._ended.wait(LOOK_INTERVAL_S):
            notice = self._look()
            if notice is not None and (self._notice is None or notice.why is not self._notice.why):
                self._obey(notice)
            scale_in = self._notice is not None and self._notice.why is Why.SCALE_IN
            if scale_in and time.monotonic() >= heartbeat_at:
                self._life_cycle().heartbeat()
                heartbeat_at = time.monotonic() + HEARTBEAT_INTERVAL_S

    def _obey(self, notice: Notice) -> None:
        """Stop as at a SIGTERM, but by this notice's clock; a spot notice may overtake a scale-in."""
        self._notice = notice
        grace_s = grace(self._settings, notice)
        left = "hook" if notice.left_s is None else f"{notice.left_s:.0f}"
        logger.info("drain=told why=%s left_s=%s grace_s=%.0f", notice.why, left, grace_s)
        self._end_after(grace_s)
        self._obeying = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _on_signal(self, how: str = "", **_: Any) -> None:
        if how != "Warm":
            return
        if self._obeying:  # our own, whose clock already runs
            self._obeying = False
            return
        logger.info("drain=started why=signal grace_s=%d", self._settings.shutdown_grace_s)
        self._end_after(self._settings.shutdown_grace_s)

    def _end_after(self, grace_s: float) -> None:
        """Where several clocks run, the shortest one counts."""
        deadline = threading.Timer(grace_s, self._end_now)
        deadline.daemon = True
        deadline.start()

    def _end_now(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        logger.info("drain=deadline")
        self._give_back(self._settings, [child.pid for child in active_children()])
        os.kill(os.getpid(), signal.SIGQUIT)

    def _on_stopped(self, sender: Any = None, **_: Any) -> None:
        """All processes have ended and what was not finished is in the queue again."""
        self._ended.set()
        self._notice = self._notice or self._look()  # systemd's stop may come before our next look
        if self._notice is not None:
            told = self._life_cycle().complete()  # at a spot notice the group may not wait at all, and says so
            logger.info("drain=ended why=%s completed=%s", self._notice.why, "yes" if told else "no")
            sender.exitcode = DRAINED_EXIT_CODE

    def _life_cycle(self) -> LifeCycle:
        assert self._metadata is not None  # noqa: S101 - there is a notice, so there is who gave it
        return LifeCycle(self._settings, self._metadata)

    def _look(self) -> Notice | None:
        """The notice, if there is one; a service that is away is logged once and asked again."""
        assert self._metadata is not None  # noqa: S101
        try:
            notice = read_notice(self._metadata)
            if notice is None and not self._rebalance and self._metadata.read(REBALANCE) is not None:
                self._rebalance = True
                logger.info("drain=not_yet why=rebalance_recommended")
        except OSError as error:
            if not self._away:
                logger.warning("metadata=away error=%r", str(error))
            self._away = True
            return None
        self._away = False
        return notice


def grace(settings: Settings, notice: Notice) -> float:
    """Seconds that the chunk in hand may still take after a notice."""
    if notice.left_s is None:
        return settings.task_time_limit_s
    return min(settings.shutdown_grace_s, max(notice.left_s - SPOT_RESERVE_S, 0.0))
