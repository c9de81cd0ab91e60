"""A load and a policy -> when all images are done, what the machines cost, and how often the group changed its mind.

A discrete-event simulation: machines that start, take chunks, protect themselves meanwhile, are taken by spot, and
end; a publisher that looks each 30 s and computes with autoscale's own functions (producer.metrics); and AWS's side
of it (benchmarks.scaling_alarms). Nothing waits and nothing is random but by the seed.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

from benchmarks.scaling_alarms import DELAY_S, PERIOD_S, Alarms, Policy
from config.settings import Settings
from producer.alive import Look
from producer.backlog import RunBacklog
from producer.metrics import make_figures, metric_data
from producer.rates import Rates, Work
from workers.drain import SPOT_RESERVE_S
from workers.metadata import SPOT_NOTICE_S
from workers.protect import IDLE_S

#: Seconds between autoscale's looks, and images of a chunk: the defaults.
LOOK_S = Settings.model_fields["autoscale_interval_s"].default
CHUNK = Settings.model_fields["chunk_size"].default

#: How much one machine, and one chunk, differ from another.
MACHINE_SPREAD = 0.15
CHUNK_SPREAD = 0.1

#: Works that the publisher tells its Rates of at a look; more would say the same and take longer.
SAMPLED_WORKS = 20

#: A load that is not done after so long never is.
LONGEST_S = 14 * 24 * 3600.0

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Load:
    """What comes, and on what it runs."""

    name: str
    arrivals: tuple[tuple[float, int], ...]  # seconds, images
    largest: int  # the group's maximum
    images_per_s: float  # of one machine
    boot_s: float = 90.0
    spot_losses_per_h: float = 0.05

    @property
    def images(self) -> int:
        return sum(images for _, images in self.arrivals)


@dataclass(slots=True)
class Machine:
    """One instance; it bills from its launch to its end."""

    launched_at: float
    images_per_s: float
    works_at: float
    chunk: tuple[int, int] | None = None  # its number and images
    started_at: float = 0.0
    idle_since: float = 0.0
    busy_s: float = 0.0
    leaving: bool = False
    ended_at: float | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a load."""

    drained_s: float = 0.0
    zero_s: float = 0.0
    done: Counter[int] = field(default_factory=Counter)
    images_done: int = 0
    machine_s: float = 0.0
    busy_s: float = 0.0
    given_back: int = 0
    lost: int = 0  # machines that spot took
    peak: int = 0
    sizes: list[int] = field(default_factory=list)

    @property
    def wasted_s(self) -> float:
        """Seconds that machines were paid for and computed nothing that counts."""
        return self.machine_s - self.busy_s

    @property
    def turns(self) -> int:
        """How often the size that was asked for changed its direction."""
        steps = [after - before for before, after in pairwise(self.sizes) if after != before]
        return sum(one * other < 0 for one, other in pairwise(steps))


class World:
    """All of it, event by event."""

    def __init__(self, load: Load, policy: Policy, seed: int = 1, counts_warming: bool = False) -> None:
        self._load = load
        self._policy = policy
        self._random = random.Random(seed)
        self._alarms = Alarms(policy, self._resize, counts_warming)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._now = 0.0
        self._queue: deque[tuple[int, int]] = deque()
        self._numbers = count()
        self._to_come, self._arrived = len(load.arrivals), 0
        self._machines: list[Machine] = []
        self._desired = 0
        self._rates = Rates()
        self._worked: deque[Work] = deque(maxlen=SAMPLED_WORKS)
        self.outcome = Outcome(sizes=[0])

    def run(self) -> Outcome:
        """Until every image is done and the group is at zero again."""
        for at, images in self._load.arrivals:
            self._at(at, self._arriving(images))
        self._at(self._random.uniform(0, LOOK_S), self._look)
        self._at(PERIOD_S + DELAY_S, self._evaluate)
        while not self._is_over():
            self._now, _, event = heapq.heappop(self._events)
            if self._now > LONGEST_S:
                raise RuntimeError(f"{self._load.name} is not done after {LONGEST_S:.0f} s")
            event()
        self.outcome.zero_s = self._now
        return self.outcome

    def _is_over(self) -> bool:
        return not self._to_come and self.outcome.images_done == self._load.images and not self._machines

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    # Work

    def _arriving(self, images: int) -> Callable[[], None]:
        def arrive() -> None:
            self._to_come -= 1
            self._arrived += images
            chunks = [(next(self._numbers), min(CHUNK, images - start)) for start in range(0, images, CHUNK)]
            self._queue.extend(chunks)
            self._wake_idle()

        return arrive

    def _wake_idle(self) -> None:
        for machine in self._machines:
            if self._queue and machine.chunk is None and self._works(machine):
                self._take(machine)

    def _works(self, machine: Machine) -> bool:
        return machine.works_at <= self._now and not machine.leaving and machine.ended_at is None

    def _take(self, machine: Machine) -> None:
        if not self._works(machine):
            return
        if not self._queue:
            machine.chunk, machine.idle_since = None, self._now
            self._at(self._now + IDLE_S, self._shrink)  # when it gives its protection up
            return
        machine.chunk, machine.started_at = self._queue.popleft(), self._now
        speed = machine.images_per_s * self._random.uniform(1 - CHUNK_SPREAD, 1 + CHUNK_SPREAD)
        taken = machine.chunk
        self._at(self._now + taken[1] / speed, lambda: self._finish(machine, taken))

    def _finish(self, machine: Machine, chunk: tuple[int, int]) -> None:
        if machine.chunk is not chunk:  # given back meanwhile
            return
        number, images = chunk
        self.outcome.done[number] += 1
        self.outcome.images_done += images
        self.outcome.drained_s = self._now
        machine.busy_s += self._now - machine.started_at
        spent = timedelta(seconds=self._now - machine.started_at)
        ended = EPOCH + timedelta(seconds=self._now)
        self._worked.append(Work(f"{id(machine):x}", "model", images, ended - spent, ended))
        machine.chunk, machine.idle_since = None, self._now
        if machine.leaving:
            self._end(machine)
        else:
            self._take(machine)

    # Machines

    def _resize(self, size: int) -> None:
        self._desired = max(0, min(size, self._load.largest))
        if self._desired != self.outcome.sizes[-1]:
            self.outcome.sizes.append(self._desired)
        self._shrink()
        self._grow()

    def _staying(self) -> list[Machine]:
        return [machine for machine in self._machines if not machine.leaving]

    def _grow(self) -> None:
        for _ in range(self._desired - len(self._staying())):
            speed = self._load.images_per_s * self._random.uniform(1 - MACHINE_SPREAD, 1 + MACHINE_SPREAD)
            boot_s = self._load.boot_s * self._random.uniform(0.8, 1.5)
            machine = Machine(self._now, speed, self._now + boot_s, idle_since=self._now + boot_s)
            self._machines.append(machine)
            self.outcome.peak = max(self.outcome.peak, len(self._machines))
            self._at(machine.works_at, lambda machine=machine: self._take(machine))  # type: ignore[misc]
            if self._load.spot_losses_per_h:
                lost_s = self._random.expovariate(self._load.spot_losses_per_h / 3600)
                self._at(self._now + lost_s, lambda machine=machine: self._notice(machine))  # type: ignore[misc]

    def _shrink(self) -> None:
        """End machines that are too many, and not protected: those that have had no chunk for a while."""
        staying = self._staying()
        too_many = len(staying) - self._desired
        for machine in staying if too_many > 0 else ():
            idle = machine.chunk is None and self._now - machine.idle_since >= IDLE_S - 1e-6
            if too_many > 0 and (idle or machine.works_at > self._now):
                self._end(machine)
                too_many -= 1

    def _notice(self, machine: Machine) -> None:
        """Spot wants it back: it takes nothing new, and has until the notice's end for the chunk in hand."""
        if machine.ended_at is not None:
            return
        machine.leaving = True
        self.outcome.lost += 1
        self._at(self._now + SPOT_NOTICE_S - SPOT_RESERVE_S, lambda: self._give_back(machine))
        if machine.chunk is None:
            self._end(machine)

    def _give_back(self, machine: Machine) -> None:
        if machine.ended_at is not None:
            return
        if machine.chunk is not None:
            self.outcome.given_back += 1
            self._queue.append(machine.chunk)
            machine.chunk = None
        self._end(machine)
        self._wake_idle()

    def _end(self, machine: Machine) -> None:
        machine.ended_at = self._now
        self.outcome.machine_s += self._now - machine.launched_at
        self.outcome.busy_s += machine.busy_s
        self._machines.remove(machine)
        self._grow()

    # Looking

    def _look(self) -> None:
        self._rates.add(self._worked)
        self._worked.clear()
        runs = (RunBacklog("run", "model", self._arrived - self.outcome.images_done),)
        figures = make_figures(Look(runs, (), ()), True, self._rates, max(self._desired, len(self._staying())))
        known = {str(one["MetricName"]): float(one["Value"]) for one in metric_data(figures, "simulated")}
        self._alarms.put(self._now, known)
        self._at(self._now + LOOK_S, self._look)

    def _evaluate(self) -> None:
        warming = sum(self._now - machine.launched_at < self._policy.start_s for machine in self._staying())
        self._alarms.evaluate(self._now, self._desired, warming)
        self._at(self._now + PERIOD_S, self._evaluate)
