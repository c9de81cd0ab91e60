"""The names of classes: a network's class numbers in, (class id, class name) out, from data beside this file.

Source: the lists in the Python package timm 1.0.31 (Apache-2.0), first lemma of each synset, as the head of
imagenet_classes.txt says. All 1,000 pairs are those of Keras's imagenet_class_index.json (compared once by hand).
"""

from functools import cache
from importlib import resources
from typing import NamedTuple

from config.errors import ContractError
from config.models import ModelSpec

IMAGENET_CLASSES = 1_000


class Label(NamedTuple):
    """One class: its id (ImageNet: the WordNet synset, n02504013) and its name (Indian_elephant)."""

    class_id: str
    class_name: str


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """The 1,000 classes of ImageNet in the order of a network's scores; crane and maillot are names of two each."""
    text = resources.files("workers.cnn").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    labels = tuple(Label(*line.split(" ", maxsplit=1)) for line in lines)
    if len(labels) != IMAGENET_CLASSES:
        raise ContractError(f"imagenet_classes.txt names {len(labels)} classes, not {IMAGENET_CLASSES}")
    return labels


def find_labels(spec: ModelSpec) -> tuple[Label, ...]:
    """The classes of a model in the order of its scores: ImageNet's, or numbers where it has other classes."""
    if spec.classes == IMAGENET_CLASSES:
        return imagenet_labels()
    return tuple(Label(str(number), f"class_{number}") for number in range(spec.classes))
