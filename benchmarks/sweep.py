"""Sweep: from values of some settings to the images per second of each combination, end to end."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.end_to_end import Request, RunFigures, measure_run, started_worker
from benchmarks.memory import MemoryFigures, MemoryWatch
from config.errors import UsageError
from config.settings import Settings
from producer.local_stack import plain_settings
from producer.servers import Server


@dataclass(frozen=True, slots=True)
class SweepFigures:
    """One combination: a warm run, and the worker's memory meanwhile."""

    values: dict[str, str]
    run: RunFigures
    memory: MemoryFigures | None


def parse_varied(texts: Sequence[str]) -> dict[str, list[str]]:
    """`worker_processes=1,2` -> the values of a setting; UsageError for what is no setting."""
    varied = {}
    for text in texts:
        name, _, values = text.partition("=")
        if name not in Settings.model_fields or not values:
            raise UsageError(f"{text!r}: write the name of a setting, = and values with commas between")
        varied[name] = values.split(",")
    return varied


def sweep(
    varied: Mapping[str, Sequence[str]],
    requests: tuple[Request, Request],
    settings: Settings,
    place: tuple[Server, Path],
) -> Iterator[SweepFigures]:
    """Measure each combination with a worker of its own; the first request only loads the networks.

    `place` is the S3 server and a directory for what the brokers and workers leave.
    """
    s3, directory = place
    for number, combination in enumerate(itertools.product(*varied.values())):
        values = dict(zip(varied, combination, strict=True))
        changed = Settings(**{**plain_settings(settings), **values})
        with started_worker(changed, s3, directory / f"sweep-{number}") as worker:
            measure_run(requests[0], worker)
            with MemoryWatch(worker.pids["worker"]) as memory:
                run = measure_run(requests[1], worker)
        yield SweepFigures(values, run, memory.figures())
