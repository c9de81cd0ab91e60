"""The layers of the known models: a model's name in, its layers out, as Keras builds them, without Keras.

The producer answers from these tables what features a layer gives. `python -m workers.cnn.layer_tables` writes them,
and a test holds each to the network that Keras builds. Where weights are `imagenet`, Keras puts one more layer into
efficientnet_b0 to b7 (rescaling_1, which corrects their scaling); it is not listed.
"""

import difflib
import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

from config.errors import UsageError
from config.models import find_model

#: The folder of the tables, beside this file.
TABLES = "layer_tables"

#: Bytes of one float32 element; features are float32 unless they are asked for as float16.
FLOAT32_BYTES = 4


class Layer(NamedTuple):
    """One layer: its name, its class in Keras, the shape of its output for one image, and its parameters."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its output for one image, in float32."""
        return self.elements * FLOAT32_BYTES


@cache
def layers_of(model: str) -> tuple[Layer, ...]:
    """The layers of a known model, from its input to its scores."""
    table = resources.files("config") / TABLES / f"{find_model(model).name}.tsv"
    return tuple(parse_layer(line) for line in table.read_text(encoding="utf-8").splitlines())


def find_layers(model: str, names: Sequence[str]) -> tuple[Layer, ...]:
    """The layers of these names, in their order; UsageError, with the nearest names, where there is none."""
    known = {layer.name: layer for layer in layers_of(model)}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            offer = f"did you mean {' or '.join(near)}?" if near else f"`pixelherd layers {model}` lists them"
            raise UsageError(f"{model} has no layer {name!r}: {offer}")
    return tuple(known[name] for name in names)


def format_layer(layer: Layer) -> str:
    """A line of a table: name, kind, shape (sides with `x` between them) and parameters, with tabs between them."""
    return "\t".join((layer.name, layer.kind, "x".join(map(str, layer.shape)), str(layer.parameters)))


def parse_layer(line: str) -> Layer:
    """The layer that `format_layer` wrote."""
    name, kind, shape, parameters = line.split("\t")
    return Layer(name, kind, tuple(int(side) for side in shape.split("x")), int(parameters))
