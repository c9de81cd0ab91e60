"""Classes: a network's class numbers in, (class id, class name) out; and back from what a person calls a class.

Source: the lists in the Python package timm 1.0.31 (Apache-2.0), first lemma of each synset, as the head of
imagenet_classes.txt says. All 1,000 pairs are those of Keras's imagenet_class_index.json (compared once by hand).
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

from config.errors import ContractError, UsageError
from config.models import ModelSpec

IMAGENET_CLASSES = 1_000

#: A name that is not close to the label is no help as a suggestion.
SUGGESTION_CUTOFF = 0.6


class Label(NamedTuple):
    """One class: its id (ImageNet: the WordNet synset, n02504013) and its name (Indian_elephant)."""

    class_id: str
    class_name: str


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """The 1,000 classes of ImageNet in the order of a network's scores; crane and maillot are names of two each."""
    text = resources.files("config").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
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


class ClassIndex:
    """From what a person calls a class to its number: a class id, else a name, else the number itself.

    In names case does not matter where they differ without it (a Cardigan is a dog), nor do hyphens, spaces and
    underscores. Numbers are those of the network's outputs, from 0; ImageNet's own kit counts otherwise.
    """

    def __init__(self, classes: Sequence[Label]) -> None:
        self._classes = classes
        self._by_id = {label.class_id: number for number, label in enumerate(classes)}
        self._by_name: defaultdict[str, list[int]] = defaultdict(list)
        self._by_folded: defaultdict[str, list[int]] = defaultdict(list)
        for number, label in enumerate(classes):
            self._by_name[label.class_name].append(number)
            self._by_folded[_folded(label.class_name)].append(number)

    def find(self, text: str) -> int | None:
        """The number of the class; None where there is none, or where two have that name."""
        if text in self._by_id:
            return self._by_id[text]
        named = self._named(text)
        if named:
            return named[0] if len(named) == 1 else None
        # isascii: other scripts' digits are digits to Python, too.
        number = int(text) if text.isascii() and text.isdecimal() else len(self._classes)
        return number if number < len(self._classes) else None

    def check(self, text: str) -> int:
        """The number of the class; UsageError says in one line why there is none."""
        found = self.find(text)
        if found is not None:
            return found
        named = self._named(text)
        if named:
            ids = " and ".join(self._classes[number].class_id for number in named)
            raise UsageError(f"the label {text!r} names {len(named)} classes: write {ids}")
        words = [] if text.isdecimal() else [*self._by_folded, *self._by_id]
        near = difflib.get_close_matches(_folded(text), words, 1, SUGGESTION_CUTOFF)
        last = f"a number from 0 to {len(self._classes) - 1}"
        example = f"such as {self._classes[0].class_id} or {self._classes[0].class_name}, or {last}"
        offer = f"did you mean {near[0]}?" if near else f"write a class's id or name, {example}"
        raise UsageError(f"the label {text!r} names no class of the model: {offer}")

    def _named(self, text: str) -> Sequence[int]:
        return self._by_name.get(text, ()) or self._by_folded.get(_folded(text), ())


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())
