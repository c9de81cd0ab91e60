"""A small Celery app with our delivery options, some of them changed; its one task does what a test wants of it.

`celery -A tests.integration.delivery worker` starts it. What its tasks did lies in the list TOLD of the broker.
"""

import json
import os
import signal
import time
from typing import Any

from celery import Celery, signals

from config.celeryconfig import celery_options
from config.clients import make_redis
from config.settings import Settings, read_settings

TASK = "delivery.do"

#: `start <name>` and `done <name>`, in the order in which it happened.
TOLD = "told"

#: Options that are taken away, and options that are given another value, both JSON.
REMOVED, CHANGED = "DELIVERY_REMOVED", "DELIVERY_CHANGED"

#: Seconds that a replacement process takes to start; Celery's own patience ends after 4.
SLOW_START_S = "DELIVERY_SLOW_START_S"


def make_app(settings: Settings, removed: list[str], changed: dict[str, Any]) -> Celery:
    """An app that differs from ours by so much."""
    options = {name: value for name, value in celery_options(settings).items() if name not in removed}
    app = Celery("delivery", set_as_current=False)
    app.conf.update({**options, **changed})
    return app


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wait() -> None:
    client.blpop(["go"], 60)


def _hang() -> None:
    time.sleep(3_600)


DEEDS = {"nothing": lambda: None, "die": _die, "wait": _wait, "hang": _hang}

if REMOVED in os.environ:  # in a worker; a test imports the names alone
    settings = read_settings()
    client = make_redis(settings)
    app = make_app(settings, json.loads(os.environ[REMOVED]), json.loads(os.environ[CHANGED]))

    @app.task(name=TASK)
    def do(name: str, deed: str) -> None:
        """Do it the first time only."""
        client.rpush(TOLD, f"start {name}")
        if client.incr(f"starts:{name}") == 1:
            DEEDS[deed]()
        client.rpush(TOLD, f"done {name}")

    @signals.worker_process_init.connect
    def _start_slowly(**_: Any) -> None:
        if SLOW_START_S in os.environ and int(client.incr("processes")) > 1:
            time.sleep(float(os.environ[SLOW_START_S]))
