"""What an engine is asked to be and what it then is: the two values that every engine shares."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from config.messages import Engine as EngineName
from config.messages import Precision

#: A batch: uint8, images × height × width × 3, RGB.
Pixels = NDArray[np.uint8]

#: The outputs of one batch: a float32 array for each output of the network, images first.
Outputs = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a network is to be run on this machine."""

    engine: EngineName
    precision: Precision
    batch_size: int
    #: Where converted networks of this machine are kept.
    cache_dir: Path
    #: Cores to compute with; None: all that this process may use.
    threads: int | None = None
    #: Batches computed side by side; None: the engine's own choice.
    streams: int | None = None

    @property
    def cores(self) -> int:
        return self.threads or usable_cores()


class Engine(Protocol):
    """A loaded network: batches in, outputs out, in order; several threads may each have a `run` going."""

    @property
    def name(self) -> EngineName: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def output_names(self) -> tuple[str, ...]:
        """A layer's name for each output."""

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each output for one image."""

    def run(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Outputs of each batch of 1 to batch_size images; draws a few batches ahead, while others are computed."""


def usable_cores() -> int:
    """Cores that this process may run on, which a container may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
