"""Describe: from the network's outputs for a batch to the columns of each image's row; one function a mode."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from config.classes import ClassIndex
from config.errors import ContractError
from config.features import column_names
from config.messages import Job
from workers.cnn.classify import top_k
from workers.cnn.evaluate import ranks
from workers.cnn.features import pool_features
from workers.cnn.labels import Label
from workers.sample import Outputs, Sample

#: The network's outputs for some samples and those samples in, the columns of each out, in their order.
Describe = Callable[[Outputs, Sequence[Sample]], list[dict[str, Any]]]

#: A mode: what a job asks for and the network's classes in, its Describe out.
DescribeImages = Callable[[Job, Sequence[Label]], Describe]


def classify_images(job: Job, labels: Sequence[Label]) -> Describe:
    """The best class of each image and the `top_k` best, from a softmax over the classes."""

    def describe(outputs: Outputs, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        numbers, scores = top_k(outputs[0], job.top_k)
        return [_columns(*ranked, labels) for ranked in zip(numbers.tolist(), scores.tolist(), strict=True)]

    return describe


def evaluate_images(job: Job, labels: Sequence[Label]) -> Describe:
    """What classify says, and the rank of the class that the image's label names, where it names one."""
    classify, index = classify_images(job, labels), ClassIndex(labels)

    def describe(outputs: Outputs, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        numbers = [None if sample.label is None else index.find(sample.label) for sample in samples]
        rows, places = classify(outputs, samples), ranks(outputs[0], np.array([number or 0 for number in numbers]))
        return [
            row if number is None else {**row, "label": labels[number].class_id, "rank": place}
            for row, number, place in zip(rows, numbers, places.tolist(), strict=True)
        ]

    return describe


def extract_features(job: Job, labels: Sequence[Label]) -> Describe:
    """The features of each layer, an array for each image; and what classify says, where that is asked for too."""
    options = job.features
    if options is None:
        raise ContractError(f"{job.run_id} names no layers whose features it wants")
    names, best = column_names(options), classify_images(job, labels)

    def describe(outputs: Outputs, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        arrays = [pool_features(output, options.pool, options.dtype) for output in outputs[: len(names)]]
        rows = [dict(zip(names, features, strict=True)) for features in zip(*arrays, strict=True)]
        if options.with_top:
            rows = [row | columns for row, columns in zip(rows, best(outputs[len(names) :], samples), strict=True)]
        return rows

    return describe


def _columns(numbers: list[int], scores: list[float], labels: Sequence[Label]) -> dict[str, Any]:
    ranked = [
        {"class_id": labels[number].class_id, "class_name": labels[number].class_name, "score": score}
        for number, score in zip(numbers, scores, strict=True)
    ]
    return {**ranked[0], "top_k": ranked}
