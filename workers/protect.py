"""Protect: from whether this machine has a chunk in hand to whether its Auto Scaling group may choose it to end.

A group that shrinks picks machines without a look at what they do; those that are protected from scale-in it leaves
alone. So a machine protects itself when it takes a chunk and gives that up when it has had none for a while. One
call at each change, none for a chunk: 500 machines share one account's rate of calls. A call that fails is made
again, later each time, and never hinders the work: where it never succeeds, workers.drain ends the chunk in peace.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from celery import signals
from celery.worker import state

from config.clients import make_aws
from config.errors import SettingsError
from config.settings import Settings
from workers.metadata import Metadata

logger = logging.getLogger(__name__)

#: Seconds between two looks at what the worker holds; no chunk waits for it.
LOOK_INTERVAL_S = 1.0

#: Seconds without a chunk after which protection is given up: longer than the gap between two chunks, even of a
#: producer that waits for room, and short beside the ten minutes for which the group waits to go to sleep.
IDLE_S = 60.0

#: Seconds before a call that failed is made again: doubled each time, with half of it at random, since what AWS
#: refuses to one machine (throttled, not yet in service) it refuses to the whole herd in the same second.
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 120.0


class Protection:
    """Follows what one worker holds, in a thread of its main process."""

    def __init__(self, settings: Settings, holds: Callable[[], bool]) -> None:
        self._settings = settings
        self._holds = holds
        self._metadata = Metadata(settings.metadata_url)
        self._protected: bool | None = None  # unknown: the worker before us may have died of its chunk
        self._idle_since = time.monotonic()
        self._failures = 0
        self._retry_at = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="protect", daemon=True)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def end(self) -> None:
        """Give protection up, once, without a second try: nobody works on this machine any more."""
        self._ended.set()
        if self._protected:
            self._protect(False)

    def look(self) -> None:
        """Look at what is held, and tell the group where that has changed."""
        now = time.monotonic()
        if self._holds():
            self._idle_since = now
            wanted = True
        elif now - self._idle_since >= IDLE_S:
            wanted = False
        else:
            return
        if wanted is not self._protected and now >= self._retry_at:
            self._protect(wanted)

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_INTERVAL_S):
            self.look()

    def _protect(self, protected: bool) -> None:
        try:
            instance = self._metadata.read("instance-id")
            # Made for each call, of which there are few: it reads the role's newest keys.
            make_aws(self._settings, "autoscaling").set_instance_protection(
                AutoScalingGroupName=self._settings.autoscaling_group,
                InstanceIds=[instance],
                ProtectedFromScaleIn=protected,
            )
        except (BotoCoreError, ClientError, SettingsError, OSError) as error:
            wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**self._failures)
            self._failures += 1
            self._retry_at = time.monotonic() + wait_s / 2 + random.uniform(0, wait_s / 2)
            logger.warning("protected=%s told=no error=%r", "yes" if protected else "no", str(error))
            return
        self._protected, self._failures = protected, 0
        logger.info("protected=%s told=yes instance=%s", "yes" if protected else "no", instance)


def protect_while_busy(settings: Settings) -> None:
    """From now on this process's worker is protected while it has a chunk; outside of AWS nothing is said."""
    if not settings.autoscaling_group:
        return
    protection = Protection(settings, holds_chunk)

    def on_ready(**_: Any) -> None:
        protection.start()

    def on_stopped(**_: Any) -> None:
        protection.end()

    signals.worker_ready.connect(on_ready, weak=False)
    signals.worker_shutdown.connect(on_stopped, weak=False)


def holds_chunk() -> bool:
    """Whether a chunk is worked on or about to be; one that waits for its next try holds no machine up."""
    return bool(state.reserved_requests)
