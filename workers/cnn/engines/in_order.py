"""In order: batches in, outputs in the same order out, with a bounded number of batches being computed meanwhile."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import numpy as np

from workers.cnn.engines.options import Outputs, Pixels

Ticket = TypeVar("Ticket")


def run_in_order(
    batches: Iterable[Pixels], start: Callable[[Pixels], Ticket], finish: Callable[[Ticket], Outputs], depth: int
) -> Generator[Outputs]:
    """Start each batch, and finish the oldest as soon as `depth` are under way.

    A batch is drawn only when there is room for it, so that whoever makes batches is held back. When the caller
    stops early or drawing fails, what is under way is finished and thrown away: its memory is the engine's.
    """
    under_way: deque[Ticket] = deque()
    try:
        for batch in batches:
            under_way.append(start(batch))
            if len(under_way) == depth:
                yield finish(under_way.popleft())
        while under_way:
            yield finish(under_way.popleft())
    finally:
        while under_way:
            finish(under_way.popleft())


def pad(batch: Pixels, shape: tuple[int, ...]) -> Pixels:
    """The batch at the network's own shape (black images at the end); ValueError where it cannot be."""
    if batch.dtype != np.uint8 or batch.shape[1:] != shape[1:] or not 1 <= len(batch) <= shape[0]:
        raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the network takes uint8 {shape}")
    if len(batch) == shape[0]:
        return batch
    # Always the same shape: the arithmetic of a row must not depend on how many neighbours it has.
    padded = np.zeros(shape, np.uint8)
    padded[: len(batch)] = batch
    return padded
