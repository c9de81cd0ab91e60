"""Features: a layer's outputs for a batch in, pooled features of the type asked for out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ContractError
from config.features import pooled_shape
from config.messages import FeatureType, Pool

#: From the axes of an output to the rest; of float32, so that the sum of a 224 × 224 plane keeps its digits.
REDUCTIONS: dict[Pool, Callable[..., NDArray[np.float32]]] = {Pool.AVG: np.mean, Pool.MAX: np.max}


def pool_features(outputs: NDArray[np.float32], pool: Pool, dtype: FeatureType) -> NDArray[Any]:
    """Features of each image, images first, contiguous.

    ContractError where a number is none, or too large for the type: to go on would write rows that are wrong.
    """
    axes = tuple(range(1, outputs.ndim - 1))
    pooled = REDUCTIONS[pool](outputs, axis=axes) if pool in REDUCTIONS and axes else outputs
    shaped = pooled.reshape(len(outputs), *pooled_shape(outputs.shape[1:], pool))
    with np.errstate(over="ignore"):  # looked for below
        features = np.ascontiguousarray(shaped, dtype.value)
    if not np.isfinite(features).all():
        raise ContractError(_complaint(shaped, dtype))
    return features


def _complaint(features: NDArray[np.float32], dtype: FeatureType) -> str:
    if not np.isfinite(features).all():
        return "the layer puts out NaN or infinity: its weights do not suit it or this precision"
    largest, limit = float(np.abs(features).max()), float(np.finfo(dtype.value).max)
    return f"the layer puts out {largest:,.0f}, and {dtype.value} holds {limit:,.0f} at most: take float32 features"
