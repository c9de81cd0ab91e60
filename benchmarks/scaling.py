"""The playbooks' scaling policy -> time to drain, machine time wasted and changes of mind, against two other policies.

`python -m benchmarks.scaling` prints the table that docs/fleet.md shows; nothing is started and nothing costs.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from rich.console import Console
from rich.table import Table

from benchmarks.scaling_alarms import Policy, role_numbers
from benchmarks.scaling_world import Load, World

#: Images per second of one machine of 4 vCPUs: ResNet50 in float32 made 21.7 on 2 cores (benchmarks/README.md).
IMAGES_PER_S = 43.0

MINUTE_S, HOUR_S = 60.0, 3600.0

#: Of the seeds, which are days of luck and of bad luck, the mean is shown.
SEEDS = (1, 2, 3)

FILE_WIDTH = 130


def loads() -> tuple[Load, ...]:
    """From one worker to 500, bursts and long runs, calm spot markets and bad ones."""
    largest = role_numbers()["worker_group_max"]
    boot_s = float(role_numbers()["worker_group_start_s"])
    small = Load("2,000 images", ((30.0, 2_000),), largest, IMAGES_PER_S, boot_s)
    bursts = tuple((30.0 + 20 * MINUTE_S * number, 60_000) for number in range(8))
    day = tuple((30.0 + 3 * HOUR_S * number, 300_000) for number in range(4))
    wide = replace(small, name="20 million, 500 at most", arrivals=((30.0, 20_000_000),), largest=500)
    return (
        small,
        replace(small, name="1 million", arrivals=((30.0, 1_000_000),)),
        replace(small, name="60,000 each 20 min, 8 times", arrivals=bursts),
        replace(small, name="300,000 each 3 h, 4 times", arrivals=day),
        wide,
        replace(wide, name="20 million; spot takes half an hour's", spot_losses_per_h=0.7),
        replace(wide, name="100 million, 500 at most", arrivals=((30.0, 100_000_000),)),
    )


def policies() -> tuple[Policy, ...]:
    """The chosen one, what one would write first, and one that hurries."""
    chosen = Policy.of_role()
    mean = replace(chosen, name="mean", statistic="Average", idle_minutes=10)
    return chosen, mean, replace(mean, name="hasty", drain_target_s=chosen.drain_target_s // 5, idle_minutes=1)


@dataclass(frozen=True, slots=True)
class Result:
    """One load under one policy, the mean of the seeds; drained counts from the last arrival."""

    load: str
    policy: str
    drained_min: float
    machine_h: float
    wasted_h: float
    peak: float
    turns: float
    given_back: float

    @property
    def wasted_share(self) -> float:
        return self.wasted_h / self.machine_h


def results(loads: Iterable[Load], policies: Iterable[Policy], counts_warming: bool = False) -> Iterator[Result]:
    """Every load under every policy."""
    policies = tuple(policies)
    for load in loads:
        for policy in policies:
            ran = [World(load, policy, seed, counts_warming).run() for seed in SEEDS]
            yield Result(
                load=load.name,
                policy=policy.name,
                drained_min=fmean(one.drained_s - load.arrivals[-1][0] for one in ran) / MINUTE_S,
                machine_h=fmean(one.machine_s for one in ran) / HOUR_S,
                wasted_h=fmean(one.wasted_s for one in ran) / HOUR_S,
                peak=fmean(one.peak for one in ran),
                turns=fmean(one.turns for one in ran),
                given_back=fmean(one.given_back for one in ran),
            )


def show(rows: Iterable[Result], title: str) -> Table:
    """A table of results."""
    table = Table(title=title)
    table.add_column("load")
    table.add_column("policy")
    for heading in ("drained in min", "machine h", "of it idle or booting", "most machines", "turns"):
        table.add_column(heading, justify="right")
    before = ""
    for row in rows:
        share = f"{row.wasted_h:,.1f} ({row.wasted_share:.0%})"
        figures = f"{row.drained_min:,.0f}", f"{row.machine_h:,.1f}", share, f"{row.peak:.0f}", f"{row.turns:.1f}"
        table.add_row(row.load if row.load != before else "", row.policy, *figures)
        before = row.load
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON for a program")
    json_wanted = parser.parse_args().json
    console = Console(width=FILE_WIDTH)
    for counts_warming in (False, True):
        found = list(results(loads(), policies(), counts_warming))
        if json_wanted:
            print(json.dumps({"counts_warming": counts_warming, "results": [asdict(row) for row in found]}))
        else:
            reading = "machines that warm up count in the size" if counts_warming else "as AWS's guide describes it"
            console.print(show(found, f"Target tracking {reading}"))
    if not json_wanted:
        for policy in policies():
            target = f"{policy.statistic.lower()} of a minute at {policy.drain_target_s} s"
            console.print(f"{policy.name}: {target}, to sleep after {policy.idle_minutes} min")


if __name__ == "__main__":
    main()
