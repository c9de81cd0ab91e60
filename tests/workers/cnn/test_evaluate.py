"""The rank of a label is its place in the same order that top_k has."""

import numpy as np

from workers.cnn.classify import top_k
from workers.cnn.evaluate import ranks


def test_a_rank_is_the_place_in_the_sorted_scores():
    scores = np.random.default_rng(7).random((50, 20)).astype(np.float32)
    numbers = np.random.default_rng(8).integers(0, 20, 50)
    order, _ = top_k(scores, 20)
    assert ranks(scores, numbers).tolist() == [
        row.tolist().index(number) + 1 for row, number in zip(order, numbers, strict=True)
    ]


def test_of_equal_scores_the_lower_number_goes_first():
    scores = np.array([[0.2, 0.2, 0.2, 0.4]] * 4, np.float32)
    assert ranks(scores, np.arange(4)).tolist() == [2, 3, 4, 1]
