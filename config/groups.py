"""Groups: from the layers of a network, and the names that a person would unfreeze, to the layers that train.

A name is read so:

- a layer that has parameters stands for itself;
- a layer that has none (where branches meet, or a block is pooled or activated) stands for its block: all layers
  behind the one before it whose name differs in its numbers alone, up to it (`mixed9`: what comes behind `mixed8`;
  `conv5_block3_out`: behind `conv5_block2_out`; `block5_pool`: behind `block4_pool`);
- a pattern (`block7a_*`, or `*` for the whole network) stands for all layers that it matches.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol

from config.errors import UsageError

#: Classes of layers that have no parameters, or none that training changes.
UNTRAINED = {
    *("Activation", "ELU", "LeakyReLU", "ReLU", "Softmax"),
    *("Add", "Average", "Concatenate", "CustomScaleLayer", "Maximum", "Minimum", "Multiply", "Subtract"),
    *("AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "MaxPooling2D", "UpSampling2D"),
    *("Cropping2D", "Flatten", "Identity", "InputLayer", "Permute", "Reshape", "ZeroPadding2D"),
    *("Dropout", "GaussianNoise", "SpatialDropout2D", "Normalization", "Rescaling"),
}

#: Layers that end the part of a network which sees: what lies behind them is the old head, and goes.
GLOBAL_POOLS = ("GlobalAveragePooling2D", "GlobalMaxPooling2D")
FLATTEN = "Flatten"

#: Names that are offered for one that is unknown.
OFFERED = 3

_NUMBER = re.compile(r"\d+[a-z]?(?![a-z])")


class Named(Protocol):
    """What is needed of a layer: its name and its class in Keras."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


class NamedLayer(NamedTuple):
    """One layer, as a network tells of it."""

    name: str
    kind: str


def find_group(layers: Sequence[Named], wanted: str) -> tuple[str, ...]:
    """The names of the layers that a name or a pattern stands for; UsageError, with near names, for neither."""
    names = [layer.name for layer in layers]
    if any(mark in wanted for mark in "*?["):
        found = tuple(name for name in names if fnmatchcase(name, wanted))
        if not found:
            raise UsageError(f"no layer matches {wanted!r}")
        return found
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, n=OFFERED)
        offer = f"did you mean {' or '.join(near)}?" if near else "`pixelherd layers` lists them"
        raise UsageError(f"there is no layer {wanted!r}: {offer}")
    end = names.index(wanted)
    family = _family(wanted)
    before = [place for place in range(end) if _family(names[place]) == family]
    if layers[end].kind not in UNTRAINED or not before:
        return (wanted,)
    return tuple(names[before[-1] + 1 : end + 1])


def trained_layers(layers: Sequence[Named], unfreeze: Sequence[str]) -> tuple[str, ...]:
    """The layers of all groups that have something to train, in the network's order.

    UsageError where a group has nothing to train, or is part of the head that goes.
    """
    head = {layer.name for layer in layers[head_start(layers) :]}
    wanted: set[str] = set()
    learning = {layer.name for layer in layers if layer.kind not in UNTRAINED}
    for name in unfreeze:
        group = set(find_group(layers, name))
        if group <= head:
            raise UsageError(f"{name!r} is part of the head, which a new one replaces; unfreeze layers before it")
        if not learning & (group - head):
            raise UsageError(f"{name!r} has nothing to train: name a layer with parameters, a block's end or a pattern")
        wanted |= group - head
    return tuple(layer.name for layer in layers if layer.name in wanted)


def head_start(layers: Sequence[Named]) -> int:
    """Where the head begins that a new one replaces: at the last global pooling, else the first flattening."""
    return next(head_starts(layers), len(layers))


def head_starts(layers: Sequence[Named]) -> Iterator[int]:
    """Where a head may begin, the likeliest place first; a block inside the network may pool globally too."""
    yield from (place for place in reversed(range(len(layers))) if layers[place].kind in GLOBAL_POOLS)
    yield from (place for place in range(len(layers)) if layers[place].kind == FLATTEN)


def _family(name: str) -> str:
    """What a name is without its numbers: `block6b_add` and `block5c_add` are one family."""
    return _NUMBER.sub("#", name)
