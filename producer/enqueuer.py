"""Enqueuer: from Chunks to messages in Redis, by task name, in batches; a window of them waits at most."""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from threading import Event
from types import TracebackType
from typing import Self

from kombu import Connection, Producer
from redis.exceptions import OutOfMemoryError

from config.broker import broker_address
from config.clients import make_celery, make_redis
from config.errors import SettingsError
from config.messages import Chunk, Mode, TaskName
from config.settings import Settings
from config.steps import TrainingStep
from producer.translate import BROKER_ERRORS, broker_errors, from_broker

logger = logging.getLogger(__name__)

#: Says one line to a person.
OnEvent = Callable[[str], None]

#: The task of each mode that can be asked for.
TASKS = {
    Mode.CLASSIFY: TaskName.CLASSIFY,
    Mode.EXTRACT_FEATURES: TaskName.EXTRACT_FEATURES,
    Mode.EVALUATE: TaskName.EVALUATE,
    Mode.FINE_TUNE: TaskName.FINE_TUNE,
}

#: Chunks of one pipeline to Redis: one round trip; the window may be passed by no more than this.
BATCH_CHUNKS = 100

#: Seconds between two looks at a full window; a worker takes seconds for a chunk.
WINDOW_POLL_S = 0.5

#: Share of the broker's memory in use from which nothing is sent: a worker that meets a full Redis dies, and loses the
#: message in its hand (measured: 2 of 2).
FULL_ENOUGH = 0.6

#: Seconds of the first wait for a broker that is full or away; doubled each time up to the next.
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 15.0

#: Seconds that a broker may take for one answer; a person waits for it.
ANSWER_TIMEOUT_S = 5.0


def check_broker(settings: Settings) -> None:
    """Raise, within seconds, where the broker does not answer or does not know us."""
    with broker_errors(settings), make_redis(settings, ANSWER_TIMEOUT_S, retries=1) as client:
        client.ping()


class Enqueuer:
    """Sends chunks to one queue, from one thread, until `stopped` is set by any other.

    Sending a chunk twice is harmless: its names follow from its content, and the second copy is skipped.
    """

    def __init__(self, settings: Settings, queue: str, on_event: OnEvent, stopped: Event) -> None:
        self._settings = settings
        self._queue = queue
        self._on_event = on_event
        self._app = make_celery(settings)
        self._redis = make_redis(settings, ANSWER_TIMEOUT_S, retries=0)  # `_patiently` tries again, and says so
        self._connection: Connection | None = None
        self._stopped = stopped
        self._depth = 0
        self._last: Chunk | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._disconnect()
        self._app.close()
        self._redis.close()

    def send(self, chunks: Iterable[Chunk | TrainingStep]) -> int:
        """Send all chunks, waiting for room and for the broker, and say how many; a stop leaves the rest."""
        coming, sent = iter(chunks), 0
        while not self._stopped.is_set():
            batch = list(islice(coming, self._room()))
            if not batch or not self._patiently(partial(self._publish, batch)):
                break
            sent += len(batch)
            self._last = next((one for one in reversed(batch) if isinstance(one, Chunk)), self._last)
        return sent

    def reached(self) -> tuple[int, int]:
        """Part and first row of the last chunk that was sent; those of the first one before that."""
        return (self._last.part, self._last.start) if self._last else (0, 0)

    def _room(self) -> int:
        """Chunks that may be sent now, after waiting for at least one; a stop ends the waiting."""
        held = False
        while not self._stopped.is_set():
            if self._patiently(self._measure) and self._depth < self._settings.queue_window:
                return min(self._settings.queue_window - self._depth, BATCH_CHUNKS)
            if not held:
                held = True
                logger.info("queue=%s window=%d holding_back=yes", self._queue, self._settings.queue_window)
            self._stopped.wait(WINDOW_POLL_S)
        return 0

    def _measure(self) -> None:
        """How many chunks wait; OutOfMemoryError where the broker is nearly full, if it may be asked."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.llen(self._queue)
            pipe.info("memory")
            depth, memory = pipe.execute(raise_on_error=False)
        if isinstance(depth, Exception):
            raise depth
        limit = 0 if isinstance(memory, Exception) else memory.get("maxmemory", 0)
        if limit and memory["used_memory"] >= FULL_ENOUGH * limit:
            raise OutOfMemoryError(f"{memory['used_memory']} bytes of {limit} are in use")
        self._depth = depth

    def _patiently(self, act: Callable[[], object]) -> bool:
        """Act until the broker takes it, saying once why it does not; False after a stop."""
        wait_s, told = FIRST_BACKOFF_S, ""
        while not self._stopped.is_set():
            try:
                act()
            except BROKER_ERRORS as error:
                self._disconnect()
                refusal = from_broker(error, self._settings)
                if isinstance(refusal, SettingsError):
                    raise refusal from error
                if told != (told := str(refusal)):
                    self._on_event(f"{refusal}; trying again")
                self._stopped.wait(wait_s)
                wait_s = min(LONGEST_BACKOFF_S, 2 * wait_s)
            else:
                if told:
                    self._on_event("the broker takes chunks again")
                return True
        return False

    def _publish(self, chunks: list[Chunk | TrainingStep]) -> None:
        """One pipeline; a failed one may have arrived in part, and is sent again as a whole."""
        if self._connection is None:
            # By its URL: without one, Celery lets CELERY_BROKER_URL go before our Settings.
            self._connection = self._app.connection_for_write(broker_address(self._settings))
        producer = Producer(self._connection, auto_declare=False)
        with producer.batch(max_size=2 * BATCH_CHUNKS):  # a message and its event for Flower
            for chunk in chunks:
                task, argument = _door(chunk)
                self._app.send_task(
                    task,
                    kwargs={argument: chunk.to_message()},
                    producer=producer,
                    queue=self._queue,
                    ignore_result=True,
                    retry=False,  # `_patiently` tries again, and says so
                    argsrepr="",
                    kwargsrepr=chunk.describe(),
                )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.release()
            self._connection = None


def _door(message: Chunk | TrainingStep) -> tuple[TaskName, str]:
    """The task that takes a message, and the name under which it does."""
    return (TaskName.TRAIN, "step") if isinstance(message, TrainingStep) else (TASKS[message.job.mode], "chunk")
