"""A group's policy and the metrics of each minute -> how many workers CloudWatch and Auto Scaling would ask for.

The policy's numbers are those of the playbooks (ansible/roles/worker_group/defaults/main.yml), read from there. What
AWS does with them, and where that is written:

- A target tracking policy's alarms want 3 datapoints of a minute above the target before it adds, and 15 below
  before it removes, of which the metric is "usually more than 10% lower" than the target then:
  https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-scaling-target-tracking.html and, for the numbers,
  https://cloudandclear.uk/aws-auto-scaling-assumptions-production/
- The new size is the size times metric / target. Machines that warm up do not count in it, so that an alarm that goes
  on asks for the same again and not for more; nothing is removed while one warms up:
  https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-default-instance-warmup.html and
  https://repost.aws/questions/QUqlW8K90FR82nPrKX7lLDoA/slow-down-asg-target-tracking-scale-out
  `counts_warming` is the other reading: the size counts them, so that a minute's mean from before and after a
  step asks for too many. A setting has to be good under both.
- A simple policy waits until its group's cooldown is over:
  https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-scaling-simple-step.html
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Self

DEFAULTS = Path(__file__).parent.parent / "ansible" / "roles" / "worker_group" / "defaults" / "main.yml"

#: Seconds of a datapoint, and until it is there to be evaluated (assumed: no page of AWS's says it).
PERIOD_S = 60.0
DELAY_S = 30.0

#: Datapoints above the target, and below it, of a target tracking policy's own alarms; and how far below.
HIGH_DATAPOINTS = 3
LOW_DATAPOINTS = 15
LOW_SHARE = 0.9


#: How CloudWatch makes one value of a minute's.
STATISTICS: dict[str, Callable[[list[float]], float]] = {"Average": fmean, "Minimum": min}


@dataclass(frozen=True, slots=True)
class Policy:
    """The knobs of the role worker_group that scaling depends on."""

    name: str
    drain_target_s: int
    start_s: int
    wake: int
    idle_minutes: int
    statistic: str = "Minimum"

    @classmethod
    def of_role(cls, defaults: Path = DEFAULTS) -> Self:
        """What the playbooks make where nobody says otherwise."""
        found = role_numbers(defaults)
        return cls(
            "chosen",
            drain_target_s=found["worker_group_drain_target_s"],
            start_s=found["worker_group_start_s"],
            wake=found["worker_group_wake"],
            idle_minutes=found["worker_group_idle_minutes"],
        )


def role_numbers(defaults: Path = DEFAULTS) -> dict[str, int]:
    """The role's defaults that are whole numbers."""
    text = defaults.read_text(encoding="utf-8")
    return {name: int(value) for name, value in re.findall(r"^(\w+): (\d+)$", text, re.MULTILINE)}


class Alarms:
    """Keeps the datapoints of each minute, and asks for a size when a minute is over."""

    def __init__(self, policy: Policy, ask: Callable[[int], None], counts_warming: bool) -> None:
        self._policy = policy
        self._ask = ask
        self._counts_warming = counts_warming
        self._minutes: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._cooldown_until = 0.0

    def put(self, now: float, figures: Mapping[str, float]) -> None:
        """What the publisher sends."""
        for name, value in figures.items():
            self._minutes[name][int(now // PERIOD_S)].append(value)

    def evaluate(self, now: float, desired: int, warming: int) -> None:
        """What the alarms say of the minutes that are over and known by now."""
        last = int((now - DELAY_S) // PERIOD_S) - 1
        self._follow(last, desired, warming)
        if now >= self._cooldown_until:
            self._wake_or_sleep(last, now, desired)

    def _follow(self, last: int, desired: int, warming: int) -> None:
        target = self._policy.drain_target_s
        points = [self._point("BacklogSecondsPerWorker", last - back) for back in range(LOW_DATAPOINTS)]
        newest = points[0]
        if newest is None or not desired:
            return
        if all(point is not None and point > target for point in points[:HIGH_DATAPOINTS]):
            size = desired if self._counts_warming else desired - warming
            if ceil(size * newest / target) > desired:
                self._ask(ceil(size * newest / target))
        elif not warming and all(point is not None and point < LOW_SHARE * target for point in points):
            self._ask(min(desired, ceil(desired * newest / target)))

    def _wake_or_sleep(self, last: int, now: float, desired: int) -> None:
        waiting = self._largest("ImagesWithoutWorker", last)
        left = [self._largest("ImagesToDo", last - back) for back in range(self._policy.idle_minutes)]
        if waiting is not None and waiting >= 1:
            self._cooldown_until = now + 2 * self._policy.start_s
            self._ask(desired + self._policy.wake)
        elif desired and all(most is not None and most < 1 for most in left):
            self._cooldown_until = now + PERIOD_S
            self._ask(0)

    def _point(self, name: str, minute: int) -> float | None:
        points = self._minutes[name].get(minute)
        return STATISTICS[self._policy.statistic](points) if points else None

    def _largest(self, name: str, minute: int) -> float | None:
        return max(self._minutes[name].get(minute, ()), default=None)
