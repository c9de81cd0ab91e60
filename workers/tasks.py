"""The tasks: from a message to a call of the pipeline, and from an error to its fate."""

import functools
import logging
import random
from typing import Any, NoReturn

import redis
from celery import Task
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from config.errors import ContractError, PixelherdError
from config.messages import Chunk, TaskName
from workers.app import app, refuse, settings
from workers.custody import Custody, Hold
from workers.describe import DescribeImages, classify_images
from workers.errors import TransientError
from workers.pipeline import give_up, is_split, process_chunk, split_chunk, write_poison
from workers.workbench import Workbench

logger = logging.getLogger(__name__)

#: Seconds before the second try; doubled for each further one, with half of it at random so that a herd spreads.
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 60.0

#: Seconds before a copy of a chunk that somebody else works on looks again whether that one is done or dead.
HELD_RETRY_S = 5.0

#: Processes that may die of a chunk before it is split: one may have been unlucky, two have a reason. A chunk of n
#: keys with one poison image then costs 2 deaths at each of its log2(n) + 1 sizes.
DEATHS_BEFORE_SPLIT = 2


@functools.cache
def workbench() -> Workbench:
    """What a worker process keeps from chunk to chunk; made in the child, never in the process that forks."""
    return Workbench(settings)


@functools.cache
def custody() -> Custody:
    """This process's claims on chunks; made in the child, like its workbench."""
    return Custody(settings)


@app.task(name=TaskName.CLASSIFY, bind=True)
def classify(task: Task, *args: Any, **kwargs: Any) -> None:
    """Classify the images of one chunk. Any arguments come in: Celery would drop wrong ones in silence."""
    _receive(task, args, kwargs, classify_images)


def _receive(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], describe: DescribeImages) -> None:
    """A message that makes sense, and that nobody works on, is held while it is worked on."""
    try:
        if args or kwargs.keys() != {"chunk"}:
            raise ContractError("a task takes kwargs={'chunk': {...}} and nothing else")
        chunk = Chunk.from_message(kwargs["chunk"])
    except ContractError as error:
        refuse(f"{task.name}: {error}")
        return  # acknowledged: no worker of this version will ever understand it
    hold = custody().take(chunk)
    if hold is None:
        logger.info("chunk=%s run=%s held_elsewhere=yes", chunk.chunk_id, chunk.job.run_id)
        _try_again(task, chunk, HELD_RETRY_S, task.request.retries)
    with custody().keeping(hold):
        _process(task, chunk, hold, describe)


def _process(task: Task, chunk: Chunk, hold: Hold, describe: DescribeImages) -> None:
    """Work on the chunk, or halve it; an error's type is its fate."""
    tries = task.request.retries + 1
    try:
        if hold.deaths >= DEATHS_BEFORE_SPLIT or is_split(chunk, workbench()):
            _isolate(task, chunk, hold)
        else:
            process_chunk(chunk, workbench(), describe, functools.partial(_may_write, chunk, hold))
    except (TransientError, MemoryError) as error:  # a MemoryError that leaves a task kills the whole worker
        logger.warning("chunk=%s try=%d error=%r", chunk.chunk_id, tries, str(error) or type(error).__name__)
        if tries <= settings.chunk_retries:
            _try_again(task, chunk, backoff_s(tries), tries)
        give_up(chunk, workbench(), error, tries)
    except PixelherdError as error:  # no worker of this version can do it: trying again would not help
        logger.error("chunk=%s given_up=%r", chunk.chunk_id, str(error))
        give_up(chunk, workbench(), error, tries)


def _may_write(chunk: Chunk, hold: Hold) -> bool:
    """Whether nobody took the chunk meanwhile. Without Redis S3 is asked whether it goes on as halves: rows of a
    whole and of its halves would stand side by side, while rows of two wholes are the same object.
    """
    try:
        return custody().still_held(hold)
    except redis.RedisError:
        return not is_split(chunk, workbench())


def _isolate(task: Task, chunk: Chunk, hold: Hold) -> None:
    """Halve a chunk that killed its processes, until the one image that does it is alone and has its row."""
    if len(chunk.keys) == 1:
        logger.error("chunk=%s run=%s poison=yes deaths=%d", chunk.chunk_id, chunk.job.run_id, hold.deaths)
        write_poison(chunk, workbench(), hold.deaths)
        return
    for half in split_chunk(chunk, workbench(), hold.deaths):
        logger.warning("chunk=%s run=%s half_of=%s", half.chunk_id, chunk.job.run_id, chunk.chunk_id)
        _send(task, half)


def _try_again(task: Task, chunk: Chunk, countdown_s: float, retries: int) -> NoReturn:
    """Send the chunk again, later, and end this try; Celery and Flower call that a retry."""
    _send(task, chunk, countdown=countdown_s, retries=retries, task_id=task.request.id)
    raise Retry(when=countdown_s)


def _send(task: Task, chunk: Chunk, **options: Any) -> None:
    """Put a chunk into the queue that this one came from; only when that is done is this one acknowledged.

    Celery's own `retry` drops the message where the broker does not take the new one; here it goes back.
    """
    try:
        task.app.send_task(
            task.name,
            kwargs={"chunk": chunk.to_message()},
            queue=task.request.delivery_info["routing_key"],
            argsrepr="",
            kwargsrepr=chunk.describe(),
            **options,
        )
    except OperationalError as error:
        raise Reject(error, requeue=True) from error


def backoff_s(tries: int) -> float:
    """Seconds to wait after so many tries."""
    whole: float = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (tries - 1))
    return whole / 2 + random.uniform(0, whole / 2)
