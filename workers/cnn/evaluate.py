"""Evaluate: the scores of a batch and the class each image shows in, the place of that class among all out."""

import numpy as np
from numpy.typing import NDArray


def ranks(scores: NDArray[np.float32], numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """1 where class `numbers[i]` has the best score of image i, 2 where one class is better, and so on.

    `scores` is images × classes. Of equal scores the lower class number goes first, as in `top_k`.
    """
    own = np.take_along_axis(scores, numbers[:, np.newaxis], axis=1)
    classes = np.arange(scores.shape[1])
    before = (scores > own) | ((scores == own) & (classes < numbers[:, np.newaxis]))
    places: NDArray[np.intp] = 1 + before.sum(axis=1)
    return places
