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
from typing import NamedTuple, Protocol, TypeVar

from config.errors import UsageError
from config.features import Shape
from config.keras_rules import named_layers
from config.messages import Job, job_spec
from config.models import MODELS, ModelSpec, find_model

#: The folder of the tables, beside this file.
TABLES = "layer_tables"

#: Bytes of one float32 element; features are float32 unless they are asked for as float16.
FLOAT32_BYTES = 4

#: Of an output that is not flat.
IMAGE_AXES = ("height", "width", "channels")

#: Classes of layers that make scores of features.
CLASSIFIERS = ("Dense", "Conv2D")

#: What of a spec decides the layers of its network; the rest is preprocessing, and what is said of the model.
STRUCTURE = ("input_shape", "include_top", "pooling", "classes", "default_weights")


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


class UnsizedLayer(NamedTuple):
    """A layer whose output's shape only Keras knows."""

    name: str
    kind: str
    shape: None = None


class LayerLike(Protocol):
    """What is needed of a layer to find features; its shape, or a side of it, may be unknown."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int | None, ...] | None: ...


Found = TypeVar("Found", bound=LayerLike)


@cache
def layers_of(model: str) -> tuple[Layer, ...]:
    """The layers of a known model, from its input to its scores."""
    table = resources.files("config") / TABLES / f"{find_model(model).name}.tsv"
    return tuple(parse_layer(line) for line in table.read_text(encoding="utf-8").splitlines())


def find_layers(model: str, names: Sequence[str]) -> tuple[Layer, ...]:
    """The layers of a known model of these names, in their order; UsageError, with the nearest names, for another."""
    return pick_layers(layers_of(model), names, model)


def pick_layers(layers: Sequence[Found], names: Sequence[str], model: str) -> tuple[Found, ...]:
    """The layers of these names, in their order; UsageError, with the nearest names of this model, for another."""
    known = {layer.name: layer for layer in layers}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            offer = f"did you mean {' or '.join(near)}?" if near else f"`pixelherd layers {model}` lists them"
            raise UsageError(f"{model} has no layer {name!r}: {offer}")
    return tuple(known[name] for name in names)


def features_layer(layers: Sequence[LayerLike]) -> str | None:
    """The layer that the classifier reads, dropout passed over: the features that are taken unasked.

    The classifier is the last layer with weights of its own, a Dense one or a convolution of one pixel.
    """
    ends = [number for number, layer in enumerate(layers) if layer.kind in CLASSIFIERS]
    before = reversed(layers[: ends[-1]]) if ends else ()
    return next((layer.name for layer in before if layer.kind != "Dropout"), None)


def layers_of_spec(spec: ModelSpec) -> Sequence[LayerLike] | None:
    """The layers of a network of a known architecture, without shapes where its spec was changed; else None."""
    if spec.name not in MODELS:
        return None
    table = layers_of(spec.name)
    if is_listed(spec):
        return table
    return [UnsizedLayer(*named) for named in named_layers(spec, [(layer.name, layer.kind) for layer in table])]


def size_of(layer: LayerLike) -> int | None:
    """Bytes of a layer's output for one image, in float32; None where its shape is not known."""
    shape = layer.shape or (None,)
    sides = [side for side in shape if side is not None]
    return math.prod(sides) * FLOAT32_BYTES if len(sides) == len(shape) else None


def estimate_shape(spec: ModelSpec, name: str) -> Shape | None:
    """About the shape of a layer of a changed spec: that of its table, grown with the input; None for an own model.

    What no table lists pools the deepest layer in place of the top.
    """
    listed = MODELS.get(spec.name)
    if listed is None:
        return None
    layer = next((layer for layer in layers_of(spec.name) if layer.name == name), None)
    tall, wide = spec.height / listed.height, spec.width / listed.width
    if layer is None:
        deepest = [layer for layer in layers_of(spec.name) if len(layer.shape) == len(IMAGE_AXES)][-1]
        return deepest.shape[-1:]
    if layer.kind == "Flatten":
        return (math.ceil(layer.elements * tall * wide),)
    if len(layer.shape) == len(IMAGE_AXES) and layer.shape[:2] != (1, 1):
        return math.ceil(layer.shape[0] * tall), math.ceil(layer.shape[1] * wide), layer.shape[2]
    return layer.shape


def is_listed(spec: ModelSpec) -> bool:
    """Whether a network of this spec has the layers of its table: names and shapes."""
    listed = MODELS.get(spec.name)
    return listed is not None and all(getattr(spec, name) == getattr(listed, name) for name in STRUCTURE)


def known_shapes(job: Job) -> tuple[Shape, ...] | None:
    """The shapes of what a job's layers put out, where no network is needed to know them; else None."""
    spec, weights = job_spec(job), job.weights
    own_network = weights is not None and weights.uri.endswith(".keras")
    if job.features is None or job.training is not None or own_network or not is_listed(spec):
        return None
    layers = layers_of(spec.name)
    return tuple(layer.shape for layer in pick_layers(layers, job.features.layers or [layers[-1].name], spec.name))


def format_layer(layer: Layer) -> str:
    """A line of a table: name, kind, shape (sides with `x` between them) and parameters, with tabs between them."""
    return "\t".join((layer.name, layer.kind, "x".join(map(str, layer.shape)), str(layer.parameters)))


def parse_layer(line: str) -> Layer:
    """The layer that `format_layer` wrote."""
    name, kind, shape, parameters = line.split("\t")
    return Layer(name, kind, tuple(int(side) for side in shape.split("x")), int(parameters))
