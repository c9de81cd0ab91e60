"""Drain: from a signal to stop to a worker that ends in time, its chunk finished or given back.

SIGTERM: take nothing new, finish the chunk in hand. At the end of the grace period SIGQUIT: the chunk goes back
to the queue, where another worker has it within 2 s (measured), and nothing waits for the visibility timeout.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from billiard import active_children
from celery import signals

from config.settings import Settings

logger = logging.getLogger(__name__)


def give_back_after_grace(settings: Settings, give_back: Callable[[Settings, Iterable[int]], None]) -> None:
    """From now on a warm shutdown (SIGTERM) of this worker becomes a cold one (SIGQUIT) at the deadline.

    `give_back` is told the pool processes that end then with a chunk in hand.
    """

    def end_now() -> None:
        logger.info("drain=deadline")
        give_back(settings, [child.pid for child in active_children()])
        os.kill(os.getpid(), signal.SIGQUIT)

    def on_shutdown(how: str = "", **_: Any) -> None:
        if how != "Warm":
            return
        logger.info("drain=started grace_s=%d", settings.shutdown_grace_s)
        deadline = threading.Timer(settings.shutdown_grace_s, end_now)
        deadline.daemon = True
        deadline.start()

    signals.worker_shutting_down.connect(on_shutdown, weak=False)
