"""Describe: from the network's outputs for a batch to the columns of each image's row; one function a mode."""

from collections.abc import Callable, Sequence
from typing import Any

from config.messages import Job
from workers.cnn.classify import top_k
from workers.cnn.labels import Label
from workers.sample import Outputs

#: Columns of each image of a batch, in the batch's order.
Describe = Callable[[Outputs], list[dict[str, Any]]]

#: A mode: what a job asks for and the network's classes in, its Describe out.
DescribeImages = Callable[[Job, Sequence[Label]], Describe]


def classify_images(job: Job, labels: Sequence[Label]) -> Describe:
    """The best class of each image and the `top_k` best, from a softmax over the classes."""

    def describe(outputs: Outputs) -> list[dict[str, Any]]:
        numbers, scores = top_k(outputs[0], job.top_k)
        return [_columns(*ranked, labels) for ranked in zip(numbers.tolist(), scores.tolist(), strict=True)]

    return describe


def _columns(numbers: list[int], scores: list[float], labels: Sequence[Label]) -> dict[str, Any]:
    ranked = [
        {"class_id": labels[number].class_id, "class_name": labels[number].class_name, "score": score}
        for number, score in zip(numbers, scores, strict=True)
    ]
    return {**ranked[0], "top_k": ranked}
