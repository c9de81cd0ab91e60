"""Metrics: from the runs' backlogs and the group's size to the figures that the group follows, and to CloudWatch."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from config.clients import make_aws
from config.settings import Settings
from producer.alive import Look
from producer.backlog import RunBacklog
from producer.rates import Rates

logger = logging.getLogger(__name__)

#: The role worker_group of the playbooks names it, and the broker's rights end at it.
NAMESPACE = "pixelherd"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known at one moment; None is what cannot be said, which is never published as 0."""

    images_to_do: int | None = None
    workers: int | None = None
    images_per_s_per_worker: float | None = None
    backlog_s_per_worker: float | None = None
    oldest_chunk_s: float | None = None
    images_without_worker: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for a program."""
        return asdict(self)


#: How the states begin of a machine that works or will; one that drains takes nothing new.
ALIVE = ("Pending", "InService")

#: Each figure's name and unit in CloudWatch.
METRICS = {
    "images_to_do": ("ImagesToDo", "Count"),
    "workers": ("Workers", "Count"),
    "images_per_s_per_worker": ("ImagesPerSecondPerWorker", "Count/Second"),
    "backlog_s_per_worker": ("BacklogSecondsPerWorker", "Seconds"),
    "oldest_chunk_s": ("OldestChunkSeconds", "Seconds"),
    "images_without_worker": ("ImagesWithoutWorker", "Count"),
}


def make_figures(look: Look, redis_answers: bool, rates: Rates, workers: int | None) -> Figures:
    """What follows from a look; where something could not be seen, a sum is published only as far as it is no zero.

    `workers` is the size that the group is meant to have: those that start count, or a second one would be asked
    for while the first one boots.
    """
    seen_all = redis_answers and not look.blind
    to_do = look.to_do if look.to_do or seen_all else None
    seconds = worker_seconds(look.runs, rates) if seen_all else None
    shared = sum(run.to_do for run in look.runs if not run.trains)
    waiting = [run.waiting_since for run in look.runs if run.waiting_since is not None]
    oldest_s = (datetime.now(UTC) - min(waiting)).total_seconds() if waiting else 0.0
    return Figures(
        images_to_do=to_do,
        workers=workers,
        images_per_s_per_worker=shared / seconds if seconds else rates.of(None),
        backlog_s_per_worker=None if seconds is None or workers is None else seconds / max(1, workers),
        oldest_chunk_s=max(0.0, oldest_s) if waiting or to_do == 0 else None,
        images_without_worker=None if workers is None or to_do is None else 0 if workers else to_do,
    )


def worker_seconds(runs: Iterable[RunBacklog], rates: Rates) -> float | None:
    """Seconds that one worker would need for all that can be shared; None where no rate is known yet.

    A training is one machine's. Where there is nothing else, the size of the group shall not change for it.
    """
    going_on = [run for run in runs if run.to_do]
    shared = [(run.to_do, rates.of(run.kind)) for run in going_on if not run.trains]
    if going_on and not shared:
        return None
    if any(rate is None for _, rate in shared):
        return None
    return sum(images / rate for images, rate in shared if rate is not None)


def metric_data(figures: Figures, fleet: str) -> list[dict[str, Any]]:
    """CloudWatch's form of the figures that are known."""
    values = figures.to_json()
    return [
        {
            "MetricName": name,
            "Dimensions": [{"Name": "Fleet", "Value": fleet}],
            "Value": float(values[figure]),
            "Unit": unit,
        }
        for figure, (name, unit) in METRICS.items()
        if values[figure] is not None
    ]


class Fleet:
    """The Auto Scaling group and its metrics; whatever AWS refuses is a line in the log."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cloudwatch = make_aws(settings, "cloudwatch")
        self._autoscaling = make_aws(settings, "autoscaling") if settings.autoscaling_group else None

    def count_workers(self) -> int | None:
        """The size that the group is meant to have; None where that cannot be said."""
        if self._autoscaling is None:
            return None
        try:
            found = self._autoscaling.describe_auto_scaling_groups(
                AutoScalingGroupNames=[self._settings.autoscaling_group]
            )["AutoScalingGroups"]
        except (BotoCoreError, ClientError) as error:
            logger.warning("autoscale=no_group group=%s error=%r", self._settings.autoscaling_group, str(error))
            return None
        if not found:
            logger.warning("autoscale=no_group group=%s error=none", self._settings.autoscaling_group)
            return None
        desired: int = found[0]["DesiredCapacity"]
        alive: int = sum(instance["LifecycleState"].startswith(ALIVE) for instance in found[0]["Instances"])
        return max(desired, alive)

    def publish(self, figures: Figures) -> bool:
        """Put what is known; False where CloudWatch did not take it."""
        data = metric_data(figures, self._settings.fleet)
        try:
            if data:
                self._cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data)
        except (BotoCoreError, ClientError) as error:
            logger.warning("autoscale=not_published error=%r", str(error))
            return False
        return True
