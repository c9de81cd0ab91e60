"""The tasks: from a message to a call of the pipeline, and from an error to its fate."""

import functools
import logging
import time
from typing import Any, NoReturn

import redis
from celery import Task
from celery.exceptions import Reject, Retry, TaskPredicate
from kombu.exceptions import OperationalError

from config.errors import ContractError, PixelherdError
from config.messages import Chunk, TaskName
from workers.app import app, refuse, settings
from workers.custody import Custody, Hold
from workers.describe import DescribeImages, classify_images, evaluate_images, extract_features
from workers.errors import TransientError
from workers.fate import Again, Fates
from workers.owner import Owners
from workers.pipeline import is_split, process_chunk, split_chunk, write_poison
from workers.workbench import Workbench

logger = logging.getLogger(__name__)

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
def owners() -> Owners:
    """Whose folders this process has seen; made in the child, like its workbench."""
    return Owners(workbench().store)


@functools.cache
def custody() -> Custody:
    """This process's claims on chunks; made in the child, like its workbench."""
    return Custody(settings)


@functools.cache
def fates() -> Fates:
    """What follows from this process's errors."""
    return Fates(workbench())


@app.task(name=TaskName.CLASSIFY, bind=True)
def classify(task: Task, *args: Any, **kwargs: Any) -> None:
    """Classify the images of one chunk. Any arguments come in: Celery would drop wrong ones in silence."""
    _receive(task, args, kwargs, classify_images)


@app.task(name=TaskName.EXTRACT_FEATURES, bind=True)
def features(task: Task, *args: Any, **kwargs: Any) -> None:
    """Extract the features of the images of one chunk."""
    _receive(task, args, kwargs, extract_features)


@app.task(name=TaskName.EVALUATE, bind=True)
def evaluate(task: Task, *args: Any, **kwargs: Any) -> None:
    """Classify the images of one chunk and rank their labels."""
    _receive(task, args, kwargs, evaluate_images)


@app.task(name=TaskName.FINE_TUNE, bind=True)
def fine_tune(task: Task, *args: Any, **kwargs: Any) -> None:
    """Extract the features of one chunk that a training will read; the training itself is workers.steps."""
    _receive(task, args, kwargs, extract_features)


def _receive(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], describe: DescribeImages) -> None:
    """A message that makes sense, and that nobody works on, is held while it is worked on."""
    try:
        if args or kwargs.keys() != {"chunk"}:
            raise ContractError("a task takes kwargs={'chunk': {...}} and nothing else")
        chunk = Chunk.from_message(kwargs["chunk"])
        if task.name != f"pixelherd.{chunk.job.mode}":
            raise ContractError(f"this task does no job of mode {chunk.job.mode}; pixelherd.{chunk.job.mode} does")
    except ContractError as error:
        refuse(f"{task.name}: {error}")
        return  # acknowledged: no worker of this version will ever understand it
    hold = custody().take(chunk)
    if hold is None:
        logger.info("chunk=%s run=%s held_elsewhere=yes", chunk.chunk_id, chunk.job.run_id)
        _try_again(task, chunk, HELD_RETRY_S, task.request.retries)
    with custody().keeping(hold):
        again = _process(task, chunk, hold, describe)
    if again is not None:
        # With the message in hand: where S3 is away, no more chunks leave the queue than there are processes.
        time.sleep(again.after_s)
        _try_again(task, chunk, None, again.retries)


def _process(task: Task, chunk: Chunk, hold: Hold, describe: DescribeImages) -> Again | None:
    """Work on the chunk, or halve it; an error's type is its fate."""
    tries = task.request.retries + 1
    try:
        if (not_ours := owners().why_not(chunk.job)) is not None:
            refuse(f"{task.name}: {not_ours}")  # and leave no failure there either: it would be the other run's
            return None
        if hold.deaths >= DEATHS_BEFORE_SPLIT or is_split(chunk, workbench()):
            _isolate(task, chunk, hold)
        else:
            process_chunk(chunk, workbench(), describe, functools.partial(_may_write, chunk, hold))
    except TaskPredicate:  # Celery's word for what becomes of the message
        raise
    except (PixelherdError, MemoryError) as error:  # a MemoryError that leaves a task kills the whole worker
        return fates().decide(chunk, error, tries)
    except Exception as error:  # nobody foresaw it: Celery would acknowledge the chunk, again each time it is missed
        logger.exception("chunk=%s error=%s", chunk.chunk_id, type(error).__name__)
        return fates().decide(chunk, TransientError(f"{type(error).__name__}: {error}"), tries)
    fates().went_well(chunk)
    return None


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


def _try_again(task: Task, chunk: Chunk, countdown_s: float | None, retries: int) -> NoReturn:
    """Send the chunk again, perhaps for later, and end this try; Celery and Flower call that a retry."""
    _send(task, chunk, countdown=countdown_s, retries=retries, task_id=task.request.id)
    raise Retry(when=countdown_s or 0)


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
