"""Training: what a person asks of fine_tune, which images are kept for validation, and which epoch comes next.

A training has two phases. In the first a new head (a dense layer with softmax) learns on the features of the frozen
network; in the second the layers of `unfreeze` learn with it, slowly. An epoch of a phase is one task.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from config.errors import UsageError

#: Epochs of one phase at most: each leaves a record, and thousands of them are a slip of the finger.
MAX_EPOCHS = 1_000

#: The names of the features that a training reads, in place of layers' names: what the new head sees, and the
#: deepest values that no trained layer has touched.
POOLED, FROZEN = "pooled", "frozen"

#: Classes of a training, and images of a class, at least.
SMALLEST = 2

HEAD, GROUPS = 1, 2
PHASES = {HEAD: "head", GROUPS: "groups"}

Rate = Annotated[float, Field(gt=0, lt=10)]
Epochs = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
Share = Annotated[float, Field(gt=0, lt=1)]
Prefix = Annotated[str, StringConstraints(pattern=r"^s3://[^/]+/.+/$")]


class Augmentation(StrEnum):
    """What is done at random to the images that a phase trains on, never to those that it is validated with."""

    FLIP = "flip"
    CROP = "crop"
    COLOR = "color"


class TrainingOptions(BaseModel):
    """How a run of mode fine_tune trains; the same value in each of its messages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unfreeze: tuple[str, ...] = Field(default=(), description="layer names or patterns; config.groups has the rules")
    epochs: tuple[Epochs, Epochs] = Field(default=(5, 0), description="of the head alone, and with the groups")
    learning_rates: tuple[Rate, Rate] = Field(default=(1e-3, 1e-4), description="Adam's for the head, then SGD's")
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    validation: Share | Prefix = Field(default=0.2, description="a share of the images, or the prefix of others")
    augment: tuple[Augmentation, ...] = Field(default=(), description="of the second phase")
    augment_head: bool = Field(default=False, description="the first phase too; it then reads images in each epoch")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _phases_have_what_they_need(self) -> Self:
        if not sum(self.epochs):
            raise ValueError("no epochs: there is nothing to train")
        if self.epochs[1] and not self.unfreeze:
            raise ValueError("epochs of a second phase, and no layers to unfreeze in it")
        if self.unfreeze and not self.epochs[1]:
            raise ValueError("layers to unfreeze, and no epochs of a second phase")
        if self.augment_head and not self.augment:
            raise ValueError("the first phase is to be augmented, and nothing says how")
        return self

    def augmentations(self, phase: int) -> tuple[Augmentation, ...]:
        """Those of a phase; where there are none, it trains from stored features and not from images."""
        return self.augment if phase == GROUPS or self.augment_head else ()

    @property
    def stores_frozen(self) -> bool:
        """Whether the second phase begins at stored outputs of the deepest frozen layer."""
        return bool(self.epochs[1]) and not self.augment


class Epoch(NamedTuple):
    """One epoch of a training; epochs count from 1 in each phase."""

    phase: int
    number: int

    @property
    def name(self) -> str:
        """Part of its objects' names; they sort as the training goes."""
        return f"{self.phase}-{self.number:04d}"


def all_epochs(options: TrainingOptions) -> list[Epoch]:
    """The epochs of a training, first to last."""
    return [Epoch(phase, number + 1) for phase in PHASES for number in range(options.epochs[phase - 1])]


def hash_share(key: str) -> float:
    """Where a key falls between 0 and 1: the first 8 bytes of the sha256 of its UTF-8, as a share of 2**64.

    A key below the share that is kept for validation is validated with, whichever other keys there are.
    """
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def check_classes(counts: Mapping[str, int], validation: Mapping[str, int] | None = None) -> None:
    """Refuse what cannot be learnt; `counts` are images by class, `validation` those of a prefix of their own.

    UsageError says in one line what is missing. A class with no image at all counts 0.
    """
    if len(counts) < SMALLEST:
        found = f"all {sum(counts.values()):,} images are labelled {next(iter(counts))!r}" if counts else "no label"
        raise UsageError(f"a training needs two classes at least, and here is {found}: where do the labels come from?")
    least = SMALLEST if validation is None else 1
    few = sorted(name for name, images in counts.items() if images < least)
    if few:
        need = "one to train on and one to validate with are" if least > 1 else "one is"
        others = f" (and {len(few) - 1} other classes)" if len(few) > 1 else ""
        raise UsageError(f"class {few[0]!r}{others} has {counts[few[0]]} images that can be read; {need} needed")
    if validation is None:
        return
    strange = sorted(validation.keys() - counts.keys())
    if strange:
        raise UsageError(f"class {strange[0]!r} is to be validated with, and no image of it is to be trained on")
    if not sum(validation.values()):
        raise UsageError("no image that can be read is left to validate with")


def split_class(keys: Iterable[str], share: float) -> frozenset[str]:
    """Which keys of one class validate: those that hash_share puts below the share, of two keys or more.

    One validates and one trains at least; where the hash would have it otherwise, the lowest or highest gives way.
    """
    ranked = sorted(set(keys), key=lambda key: (hash_share(key), key))
    below = sum(hash_share(key) < share for key in ranked)
    return frozenset(ranked[: min(max(below, 1), len(ranked) - 1)])
