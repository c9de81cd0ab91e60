"""Autoscale: from the runs in S3, Redis and the Auto Scaling group to the metrics that the group follows, each 30 s.

A small process beside the broker. Whatever cannot be seen for a while is a line in the log: what is known is
published, and nothing is published as 0 because nobody could look. On the way it sends again what got lost of runs
that nobody watches.
"""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType

import redis

from config.errors import PixelherdError
from config.settings import Settings
from producer.alive import AliveRuns, InRedis, Look
from producer.enqueuer import OnEvent
from producer.held import make_asker
from producer.metrics import Figures, Fleet, make_figures
from producer.queued import queued_runs, restless_runs
from producer.rates import Rates
from producer.repair import Repair

logger = logging.getLogger(__name__)

#: Of a process whose log is all that anybody sees of it.
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

#: Seconds between two rounds of looking for lost chunks; a Reconciler looks no more often.
REPAIR_INTERVAL_S = 10.0

#: Seconds for one request to S3, and of its retries: the next look comes soon.
S3_TIMEOUT_S = 10.0
S3_RETRY_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at everything: what was seen, and what follows from it."""

    look: Look
    figures: Figures
    problems: tuple[str, ...]


class Autoscaler:
    """Looks at the runs, the broker and the group."""

    def __init__(self, settings: Settings, on_event: OnEvent) -> None:
        self._settings = settings.model_copy(
            update={
                "s3_timeout_s": min(S3_TIMEOUT_S, settings.s3_timeout_s),
                "s3_retry_timeout_s": min(S3_RETRY_TIMEOUT_S, settings.s3_retry_timeout_s),
            }
        )
        self._redis = make_asker(self._settings)
        self._rates = Rates()
        self._fleet = Fleet(self._settings)
        self.alive = AliveRuns(self._settings, on_event)

    def look(self) -> Seen:
        """Look now; raises nothing that may be over in a while."""
        problems: list[str] = []
        in_redis = self._ask_redis(problems)
        look = self.alive.look(in_redis)
        self._rates.add(look.work)
        workers = self._fleet.count_workers()
        figures = make_figures(look, in_redis is not None, self._rates, workers)
        return Seen(look, figures, (*look.blind, *problems))

    def publish(self, figures: Figures) -> bool:
        """Tell CloudWatch; False where it did not take it."""
        return self._fleet.publish(figures)

    def close(self) -> None:
        """Leave the broker."""
        self._redis.close()

    def _ask_redis(self, problems: list[str]) -> InRedis | None:
        try:
            queues = {run.record.queue for run in self.alive.open_runs if run.record.queue}
            return InRedis(queued_runs(self._redis, self._settings, queues), restless_runs(self._redis))
        except redis.RedisError as error:
            problems.append(f"cannot ask the broker: {type(error).__name__}")
            return None


def run_autoscale(settings: Settings, on_event: OnEvent, *, dry_run: bool = False) -> None:
    """Look and publish until SIGTERM or SIGINT; with `dry_run` say what would be published, and repair nothing."""
    with _stopping() as stopped, closing(Autoscaler(settings, on_event)) as autoscaler:
        repairing = None if dry_run else _start_repair(autoscaler, stopped)
        try:
            while not stopped.is_set():
                began = time.monotonic()
                seen = autoscaler.look()
                published = not dry_run and autoscaler.publish(seen.figures)
                _log(seen, published)
                stopped.wait(max(0.0, settings.autoscale_interval_s - (time.monotonic() - began)))
        finally:
            stopped.set()
            if repairing is not None:
                repairing.join()


def look_once(settings: Settings, on_event: OnEvent, *, publish: bool) -> tuple[Figures, tuple[str, ...]]:
    """The figures of this moment, and what could not be seen; for a person who asks."""
    with closing(Autoscaler(settings, on_event)) as autoscaler:
        seen = autoscaler.look()
        if publish:
            autoscaler.publish(seen.figures)
        return seen.figures, seen.problems


def to_text(figures: Figures) -> str:
    """A line for each figure."""
    shown = {name: "unknown" if value is None else f"{value:,.4g}" for name, value in figures.to_json().items()}
    return "\n".join(f"{name:<24} {value}" for name, value in shown.items())


def to_json(figures: Figures, problems: tuple[str, ...]) -> str:
    """The same for a program."""
    return json.dumps({**figures.to_json(), "problems": problems})


def _start_repair(autoscaler: Autoscaler, stopped: threading.Event) -> threading.Thread:
    """Look for lost chunks in a thread, so that the metrics come on time."""

    def repair() -> None:
        with closing(Repair()) as repair:
            while not stopped.wait(REPAIR_INTERVAL_S):
                try:
                    repair.tend(autoscaler.alive.open_runs)
                except PixelherdError as error:
                    logger.warning("autoscale=not_repaired error=%r", str(error))

    thread = threading.Thread(target=repair, name="repair")
    thread.start()
    return thread


def _log(seen: Seen, published: bool) -> None:
    known = " ".join(f"{name}={value:.6g}" for name, value in seen.figures.to_json().items() if value is not None)
    logger.info("autoscale=look published=%s %s", "yes" if published else "no", known)
    for problem in seen.problems:
        logger.warning("autoscale=blind problem=%r", problem)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of ending the process in the middle of something."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before: dict[int, Callable[..., object] | int | None] = {
        number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
