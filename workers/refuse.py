"""Refuse: from a message that makes no sense to a line in the log and in Redis that says why it was dropped."""

import logging
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, bootsteps, signals
from kombu import Message

from config.clients import make_redis
from config.refusals import REASON_CHARACTERS, note_refusal
from config.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds for one answer of Redis.
ANSWER_TIMEOUT_S = 5.0


def trace_refusals(app: Celery, settings: Settings) -> Callable[[str], None]:
    """From now on what Celery drops in silence leaves a trace; returns the function that leaves one."""
    # Connects at its first use, in each process for itself; the event loop waits for it, so not for long.
    client = make_redis(settings, ANSWER_TIMEOUT_S, retries=0)

    def refuse(reason: str) -> None:
        reason = reason[:REASON_CHARACTERS]  # it may hold what a stranger sent
        logger.error("message=refused reason=%r", reason)
        try:
            note_refusal(client, reason)
        except redis.RedisError as error:  # the log has it
            logger.warning("refusal=not_noted error=%s", type(error).__name__)

    def on_unknown_task(name: str = "", **_: Any) -> None:
        refuse(f"no task is called {name!r}; this worker may be older than its sender")

    def on_rejected_message(message: Message, exc: Exception | None = None, **_: Any) -> None:
        why = f"{type(exc).__name__}: {exc}" if exc else "no task message"
        refuse(f"content type {message.content_type}: {why}")

    class Refusals(bootsteps.StartStopStep):  # type: ignore[misc]
        """For a body that cannot be unpacked Celery has no signal: it logs the beginning of it, and drops it."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            dropped = type(consumer).on_decode_error

            def on_decode_error(message: Message, exc: Exception) -> None:
                dropped(consumer, message, exc)
                refuse(f"a body that cannot be unpacked: {type(exc).__name__}")

            consumer.on_decode_error = consumer.task_consumer.on_decode_error = on_decode_error

    app.steps["consumer"].add(Refusals)
    signals.task_unknown.connect(on_unknown_task, weak=False)
    signals.task_rejected.connect(on_rejected_message, weak=False)
    return refuse
