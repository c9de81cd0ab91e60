"""Models: from what a person asks for to the model of a job, its weights and layers, refused where Keras would refuse.

A known model can be changed as Keras lets it be; an own one is as its .keras file and the JSON beside it say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, get_args

from pydantic import ValidationError

from config.classes import Label, find_labels
from config.errors import UsageError
from config.keras_rules import check_spec
from config.layers import LayerLike, layers_of_spec
from config.messages import Weights, describe
from config.models import ModelSpec, Pooling, Resize, find_model
from config.own_model import KERAS, is_own_model
from config.settings import Settings
from producer.own_model import read_own_model
from producer.weights import choose_weights

DEFAULT_MODEL = "efficientnet_lite0"

#: Channels of an image as the network sees it.
CHANNELS = 3

_SHAPE = re.compile(r"^(\d+)x(\d+)(?:x(\d+))?$")


class ModelOptions(TypedDict, total=False):
    """What can be asked for of a model.

    `model` is a name of the catalogue, or the s3:// or file:// URI of a .keras file. `weights` is `imagenet`,
    `random`, or such a URI; None stands for the model's own. `resize` is `crop` or `squash`. The others are Keras's:
    `input_shape` ("150x150" or a tuple), `include_top`, `classes`, `pooling` ("avg" or "max"); None stands for
    Keras's own default.
    """

    model: str
    weights: str | None
    resize: str | None
    input_shape: str | Sequence[int] | None
    include_top: bool
    classes: int | None
    pooling: str | None


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model that a worker can make; `layers` is None where only a worker knows them."""

    spec: ModelSpec
    weights: Weights
    classes: Sequence[Label]
    layers: Sequence[LayerLike] | None


def choose_model(options: ModelOptions, settings: Settings) -> ChosenModel:
    """The model that is asked for; UsageError where nobody could make it."""
    name, weights = options.get("model") or DEFAULT_MODEL, options.get("weights")
    if is_own_model(name) or name.endswith(KERAS):
        return _choose_own(name, options, settings)
    spec = _changed(find_model(name), options)
    check_spec(spec, weights or spec.default_weights)
    found = choose_weights(weights, spec, settings)
    layers = None if found.uri.endswith(KERAS) else layers_of_spec(spec)
    return ChosenModel(spec, found, find_labels(spec) if spec.include_top else (), layers)


def _choose_own(uri: str, options: ModelOptions, settings: Settings) -> ChosenModel:
    strange = [name for name in ("weights", "input_shape", "classes", "pooling") if options.get(name) is not None]
    strange += [] if options.get("include_top", True) else ["include_top"]
    if strange:
        raise UsageError(f"{uri} brings its own network and weights: {' and '.join(strange)} cannot be chosen for it")
    own = read_own_model(uri, settings)
    resized = own.spec.model_copy(update=_resize(options))
    return ChosenModel(resized, own.weights, own.classes, own.structure.layers)


def _changed(spec: ModelSpec, options: ModelOptions) -> ModelSpec:
    """The row of the catalogue with what is asked for in place of its own; what Keras says of it comes later."""
    include_top, pooling, classes = options.get("include_top", True), options.get("pooling"), options.get("classes")
    if include_top and pooling is not None:
        raise UsageError("pooling is how a network without its top ends: say --no-top (include_top=False) too")
    if not include_top and classes is not None:
        raise UsageError("classes are those of a network's top: it has none with --no-top (include_top=False)")
    changes: dict[str, Any] = _shape(spec, options.get("input_shape"))
    changes |= {} if include_top else {"include_top": False}
    changes |= {} if pooling is None else {"pooling": _one_of(Pooling, pooling, "pooling")}
    changes |= {} if classes in (None, spec.classes) else {"classes": classes}
    if changes:  # another network: what was published of it does not hold
        changes |= {"parameters": None, "top1": None, "top5": None}
    try:
        return ModelSpec.model_validate(spec.model_dump() | changes | _resize(options))
    except ValidationError as error:
        raise UsageError(describe(error)) from error


def _resize(options: ModelOptions) -> dict[str, Any]:
    asked = options.get("resize")
    return {} if asked is None else {"resize": _one_of(Resize, asked, "resize")}


def _shape(spec: ModelSpec, asked: str | Sequence[int] | None) -> dict[str, Any]:
    """Height and width of an input_shape, where it is not the model's own."""
    if asked is None:
        return {}
    sides: Sequence[int]
    if isinstance(asked, str):
        found = _SHAPE.match(asked.lower().replace("×", "x").replace(" ", ""))
        sides = [int(side) for side in found.groups() if side] if found else []
    else:
        sides = asked
    if len(sides) not in (2, 3) or not all(isinstance(side, int) for side in sides):
        raise UsageError(f"input_shape {asked!r}: write height × width, 150x150 for instance")
    if len(sides) == 3 and sides[2] != CHANNELS:
        raise UsageError(
            f"input_shape {asked!r}: images come as {CHANNELS} channels, red, green and blue, and no others"
        )
    height, width = sides[:2]
    if (height, width) == (spec.height, spec.width):
        return {}
    return {"input_size": height, "input_width": None if width == height else width}


def _one_of(literal: Any, word: str, what: str) -> str:
    known = get_args(literal)
    if word not in known:
        raise UsageError(f"unknown {what} {word!r}: there is {' and '.join(known)}")
    return word
