"""Features: from the layers that a job names, and their shapes, to the columns of its rows, their shapes and bytes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from config.messages import FeatureOptions, FeatureType, Pool

#: The shape of a layer's output, or of a feature, for one image.
Shape = tuple[int, ...]

ELEMENT_BYTES = {FeatureType.FLOAT32: 4, FeatureType.FLOAT16: 2}


class FeatureColumn(NamedTuple):
    """What a row holds of one layer."""

    name: str
    shape: Shape
    dtype: FeatureType

    @property
    def size_bytes(self) -> int:
        """Bytes for one image, uncompressed."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


def feature_columns(options: FeatureOptions, shapes: Sequence[Shape]) -> tuple[FeatureColumn, ...]:
    """A column for each layer, whose outputs have these shapes: `features`, or `features_<layer>` where several."""
    pooled = [pooled_shape(shape, options.pool) for shape in shapes]
    return tuple(FeatureColumn(*column, options.dtype) for column in zip(column_names(options), pooled, strict=True))


def bytes_per_image(options: FeatureOptions, shapes: Sequence[Shape]) -> int:
    """Bytes of all features of one image, uncompressed."""
    return sum(column.size_bytes for column in feature_columns(options, shapes))


def column_names(options: FeatureOptions) -> tuple[str, ...]:
    """The name of each layer's column."""
    return ("features",) if len(options.layers) <= 1 else tuple(f"features_{layer}" for layer in options.layers)


def pooled_shape(shape: Shape, pool: Pool) -> Shape:
    """What is left of an output: all axes are pooled but the last, the channels; a flat output stays as it is."""
    if pool is Pool.NONE:
        return shape
    return (math.prod(shape),) if pool is Pool.FLAT else shape[-1:]
