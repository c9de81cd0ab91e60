"""The infer stage pairs outputs with their batches, however far an engine looks ahead."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from workers.batch import in_batches
from workers.errors import ImageEmpty
from workers.infer import InferTimes, infer_batches
from workers.sample import Pixels, Sample


class Ahead:
    """An engine that draws some batches before it gives the first output."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead

    def run(self, batches: Iterable[Pixels]) -> Iterator[tuple[np.ndarray, ...]]:
        drawn: list[Pixels] = []
        for batch in batches:
            drawn.append(batch)
            if len(drawn) > self.ahead:
                yield (drawn.pop(0)[:, 0, 0, 0],)
        yield from ((batch[:, 0, 0, 0],) for batch in drawn)


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_outputs_meet_their_own_batch(ahead: int) -> None:
    given = [Sample(index, "k", pixels=np.full((1, 1, 3), index, np.uint8)) for index in range(11)]
    given[4].failed(ImageEmpty("empty"))
    given[10].failed(ImageEmpty("empty"))
    seen = []
    for batch, outputs in infer_batches(Ahead(ahead), in_batches(given, 2), InferTimes()):
        assert [sample.index for sample in batch.decoded] == outputs[0].tolist()
        seen += [sample.index for sample in batch.samples]
    assert sorted(seen) == list(range(11))


def test_time_without_images_is_told_from_time_in_the_network() -> None:
    times = InferTimes()
    given = [Sample(index, "k", pixels=np.zeros((1, 1, 3), np.uint8)) for index in range(4)]
    list(infer_batches(Ahead(1), in_batches(given, 2), times))
    assert times.infer_s >= 0
    assert times.starved_s >= 0
