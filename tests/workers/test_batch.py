"""Batches: as many decoded images as asked, failed samples beside them, nobody left out."""

import numpy as np

from config.results import Status
from workers.batch import in_batches
from workers.errors import ImageEmpty
from workers.sample import Sample


def samples(pattern: str) -> list[Sample]:
    """`o` is a decoded sample, `x` a failed one."""
    made = []
    for index, kind in enumerate(pattern):
        sample = Sample(index, f"k{index}", pixels=np.full((2, 2, 3), index, np.uint8))
        made.append(sample if kind == "o" else sample.failed(ImageEmpty("empty")))
    return made


def test_every_sample_is_in_one_batch_and_in_order() -> None:
    batches = list(in_batches(samples("ooxoooxx"), 2))
    assert [sample.index for batch in batches for sample in batch.samples] == list(range(8))
    assert [len(batch.decoded) for batch in batches] == [2, 2, 1]
    assert [batch.pixels[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [3, 4], [5]]


def test_a_batch_of_failures_alone_has_no_pixels() -> None:
    (batch,) = in_batches(samples("xx"), 4)
    assert len(batch.pixels) == 0
    assert [sample.status for sample in batch.samples] == [Status.EMPTY] * 2


def test_nothing_makes_no_batch() -> None:
    assert list(in_batches([], 4)) == []
