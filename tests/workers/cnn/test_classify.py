import numpy as np
import pytest

from config.errors import ContractError
from workers.cnn.classify import top_k


@pytest.mark.parametrize("k", [1, 5, 999, 1000])
def test_best_classes_are_those_of_a_full_stable_sort(k):
    random = np.random.default_rng(3)
    scores = random.random((16, 1000), dtype=np.float32)
    scores[:, 100:200] = scores[:, :100]  # ties, also across the edge of the k best
    numbers, best = top_k(scores, k)
    np.testing.assert_array_equal(numbers, np.argsort(-scores, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(best, np.take_along_axis(scores, numbers, axis=1))


def test_of_equal_scores_the_lower_class_number_is_first():
    numbers, _ = top_k(np.full((2, 1000), 0.001, np.float32), 3)
    assert numbers.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_never_more_classes_than_there_are():
    numbers, scores = top_k(np.array([[0.25, 0.75]], np.float32), 5)
    assert numbers.tolist() == [[1, 0]]
    assert scores.tolist() == [[0.75, 0.25]]


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ContractError, match="NaN"):
        top_k(np.array([[0.5, np.nan]], np.float32), 1)
