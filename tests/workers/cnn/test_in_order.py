"""The loop that every engine shares, with plain functions in the engine's place."""

from contextlib import closing
from itertools import count

import numpy as np
import pytest

from workers.cnn.engines.in_order import pad, run_in_order


def batches_counted(drawn):
    for number in count():
        drawn.append(number)
        yield np.full((1, 2, 2, 3), number % 256, np.uint8)


def outputs(batch):
    return (batch[:, 0, 0, 0],)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("batches", [0, 1, 4, 11])
def test_outputs_come_in_the_order_of_the_batches(depth, batches):
    drawn = [np.full((1, 2, 2, 3), number, np.uint8) for number in range(batches)]
    found = [int(output[0][0]) for output in run_in_order(drawn, lambda batch: batch, outputs, depth)]
    assert found == list(range(batches))


def test_no_more_batches_are_drawn_than_there_is_room_for():
    drawn: list[int] = []
    running = run_in_order(batches_counted(drawn), lambda batch: batch, outputs, 3)
    assert not drawn
    for taken in range(1, 6):
        next(running)
        assert len(drawn) == taken + 2


@pytest.fixture
def finished():
    return []


@pytest.fixture
def finish(finished):
    def finish(batch):
        finished.append(int(batch[0, 0, 0, 0]))
        return outputs(batch)

    return finish


def test_what_is_under_way_is_finished_when_the_caller_stops(finish, finished):
    drawn: list[int] = []
    with closing(run_in_order(batches_counted(drawn), lambda batch: batch, finish, 3)) as running:
        next(running)
    assert drawn == finished == [0, 1, 2]


def test_what_is_under_way_is_finished_when_drawing_fails(finish, finished):
    def broken():
        yield from (np.full((1, 2, 2, 3), number, np.uint8) for number in range(2))
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        list(run_in_order(broken(), lambda batch: batch, finish, 4))
    assert finished == [0, 1]


def test_a_full_batch_is_not_copied_and_a_short_one_ends_black():
    full = np.ones((4, 2, 2, 3), np.uint8)
    assert pad(full, full.shape) is full
    short = pad(full[:3], full.shape)
    assert short[:3].all()
    assert not short[3].any()


@pytest.mark.parametrize(
    "batch",
    [
        np.ones((5, 2, 2, 3), np.uint8),
        np.ones((0, 2, 2, 3), np.uint8),
        np.ones((4, 2, 3, 3), np.uint8),
        np.ones((2, 2, 3), np.uint8),
        np.ones((4, 2, 2, 3), np.float32),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch):
    with pytest.raises(ValueError, match="the network takes uint8"):
        pad(batch, (4, 2, 2, 3))
