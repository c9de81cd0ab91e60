"""Batch: from samples to batches of as many decoded images as the network takes at once."""

from collections.abc import Iterable, Iterator

import numpy as np

from workers.sample import Batch, Sample


def in_batches(samples: Iterable[Sample], size: int) -> Iterator[Batch]:
    """Batches of `size` decoded images, the last one smaller; failed samples ride along with their neighbours."""
    taken: list[Sample] = []
    decoded: list[Sample] = []
    for sample in samples:
        taken.append(sample)
        if sample.pixels is not None:
            decoded.append(sample)
        if len(decoded) == size:
            yield _batch(taken, decoded)
            taken, decoded = [], []
    if taken:
        yield _batch(taken, decoded)


def _batch(samples: list[Sample], decoded: list[Sample]) -> Batch:
    pixels = [sample.pixels for sample in decoded if sample.pixels is not None]
    for sample in decoded:
        sample.pixels = None
    return Batch(samples, decoded, np.stack(pixels) if pixels else np.empty((0, 0, 0, 3), np.uint8))
