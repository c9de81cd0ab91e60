"""Infer: from batches to the same batches with what the network says of each image, several in flight."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from workers.sample import Batch, Outputs, Pixels


class Runs(Protocol):
    """What is needed of an engine: outputs in the order of the batches, drawing batches as it has room."""

    def run(self, batches: Iterable[Pixels]) -> Iterator[Outputs]: ...


@dataclass(slots=True)
class InferTimes:
    """Where the wall time of the loop went: the network, or waiting for images."""

    infer_s: float = 0.0
    starved_s: float = 0.0


def infer_batches(engine: Runs, batches: Iterable[Batch], times: InferTimes) -> Iterator[tuple[Batch, Outputs]]:
    """Each batch with its outputs; a batch in which nothing was decoded comes with none."""
    waiting: deque[Batch] = deque()
    undecoded: list[Batch] = []

    def pixels() -> Iterator[Pixels]:
        asked = time.perf_counter()
        for batch in batches:
            times.starved_s += time.perf_counter() - asked
            if len(batch.decoded):
                waiting.append(batch)
                yield batch.pixels
            else:
                undecoded.append(batch)
            asked = time.perf_counter()

    started = time.perf_counter()
    for outputs in engine.run(pixels()):
        yield waiting.popleft(), outputs
    times.infer_s = time.perf_counter() - started - times.starved_s
    yield from ((batch, (np.empty(0),)) for batch in undecoded)
