"""Steps: the door for messages of training: from a message to an epoch, and from an error to its fate."""

import functools
import logging
from typing import Any, NoReturn

import redis
from celery import Task
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from config.errors import ContractError, PixelherdError
from config.messages import TaskName
from config.steps import TrainingStep
from workers.app import app, refuse, settings
from workers.custody import Hold
from workers.errors import RowsPending, TransientError
from workers.fate import backoff_s
from workers.tasks import HELD_RETRY_S, custody, owners, workbench
from workers.training import Trainer, give_up_training

logger = logging.getLogger(__name__)

#: Images that a herd may do in a second: how soon a step looks again whether all have their rows, in seconds at least
#: and at most.
IMAGES_PER_S = 200
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.5, 10.0

#: Processes that may die of one epoch: it is as likely to be its memory as bad luck, and nothing can be halved.
MOST_DEATHS = 3


@functools.cache
def trainer() -> Trainer:
    """What a worker process keeps from epoch to epoch."""
    return Trainer(workbench())


@app.task(name=TaskName.TRAIN, bind=True, time_limit=settings.epoch_time_limit_s)
def train(task: Task, *args: Any, **kwargs: Any) -> None:
    """Train one epoch. Any arguments come in: Celery would drop wrong ones in silence."""
    try:
        if args or kwargs.keys() != {"step"}:
            raise ContractError("this task takes kwargs={'step': {...}} and nothing else")
        step = TrainingStep.from_message(kwargs["step"])
    except ContractError as error:
        refuse(f"{task.name}: {error}")
        return
    hold = custody().take(step)
    if hold is None:
        logger.info("chunk=%s run=%s held_elsewhere=yes", step.chunk_id, step.job.run_id)
        _try_again(task, step, HELD_RETRY_S, task.request.retries)
    with custody().keeping(hold):
        _train(task, step, hold)


def _train(task: Task, step: TrainingStep, hold: Hold) -> None:
    """Do the epoch and send the next one; an error's type is its fate."""
    tries = task.request.retries + 1
    try:
        if (not_ours := owners().why_not(step.job)) is not None:
            refuse(f"{task.name}: {not_ours}")
            return
        _check_deaths(step, hold)
        following = trainer().train(step, functools.partial(_still_held, hold))
        if following is not None:
            _send(task, following)
    except (Retry, Reject):
        raise
    except RowsPending as pending:
        if pending.images <= pending.given_up:
            logger.info("chunk=%s run=%s ended=%r", step.chunk_id, step.job.run_id, str(pending))
            return  # `resume` sends it again, when it has sent the chunks
        look_s = min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, pending.images / IMAGES_PER_S))
        _try_again(task, step, look_s, task.request.retries)
    except (TransientError, MemoryError) as error:  # a MemoryError that leaves a task kills the whole worker
        logger.warning("chunk=%s try=%d error=%r", step.chunk_id, tries, str(error) or type(error).__name__)
        if tries <= settings.chunk_retries:
            _try_again(task, step, backoff_s(tries), tries)
        _give_up(task, step, error)
    except PixelherdError as error:  # no worker of this version can do it: trying again would not help
        _give_up(task, step, error)
    except Exception as error:  # what Keras or TensorFlow says must not vanish with the message
        logger.exception("chunk=%s error=%s", step.chunk_id, type(error).__name__)
        _give_up(task, step, error)


def _check_deaths(step: TrainingStep, hold: Hold) -> None:
    if hold.deaths >= MOST_DEATHS:
        raise ContractError(
            f"{hold.deaths} processes ended while they trained epoch {step.epoch.name}: "
            "a smaller batch takes less memory, and PIXELHERD_EPOCH_TIME_LIMIT_S allows more time"
        )


def _give_up(task: Task, step: TrainingStep, error: Exception) -> None:
    """Leave a failure, which must not be lost in silence where S3 is away."""
    logger.error("chunk=%s run=%s given_up=%r", step.chunk_id, step.job.run_id, str(error))
    try:
        give_up_training(step, workbench(), error)
    except TransientError:
        _try_again(task, step, LONGEST_LOOK_S, task.request.retries)


def _still_held(hold: Hold) -> bool:
    """Whether nobody took the step meanwhile; without Redis the checkpoint's own PUT decides who was first."""
    try:
        return custody().still_held(hold)
    except redis.RedisError:
        return True


def _try_again(task: Task, step: TrainingStep, countdown_s: float, retries: int) -> NoReturn:
    """Send the step again, later, and end this try; Celery and Flower call that a retry."""
    _send(task, step, countdown=countdown_s, retries=retries, task_id=task.request.id)
    raise Retry(when=countdown_s)


def _send(task: Task, step: TrainingStep, **options: Any) -> None:
    """Put a step into the queue that this one came from; only when that is done is this one acknowledged."""
    try:
        task.app.send_task(
            TaskName.TRAIN,
            kwargs={"step": step.to_message()},
            queue=task.request.delivery_info["routing_key"],
            argsrepr="",
            kwargsrepr=step.describe(),
            **options,
        )
    except OperationalError as error:
        raise Reject(error, requeue=True) from error
