"""Preprocessing inside the graph: a network of floats in, the same network of uint8 RGB pixels out.

Pixels are cut to the input size before (workers/decode.py); here they only change order and scale, so that a batch
travels as bytes and every engine does the same arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.models import ModelSpec

if TYPE_CHECKING:
    import keras

PIXELS = "pixels"


def with_preprocessing(network: keras.Model, spec: ModelSpec) -> keras.Model:
    """Put the spec's preprocessing before a network; the new one takes uint8 NHWC RGB of the spec's input size."""
    import keras

    pixels = keras.Input(spec.input_shape, dtype="uint8", name=PIXELS)
    outputs = network(scale_pixels(pixels, spec))
    return keras.Model(pixels, outputs, name=f"{network.name}_of_pixels")


def scale_pixels(pixels: keras.KerasTensor, spec: ModelSpec) -> keras.KerasTensor:
    """Bring RGB pixels 0..255 into the colour order and scale that the spec's network was trained with (float32)."""
    from keras import layers, ops

    scaling = spec.figures
    order = ["RGB".index(color) for color in scaling.color_order]
    factors, offsets = [0.0] * 3, [0.0] * 3
    for channel, mean, std in zip(order, scaling.mean, scaling.std, strict=True):
        factors[channel], offsets[channel] = 1 / std, -mean / std
    scaled = layers.Rescaling(factors, offsets, name="scale")(ops.cast(pixels, "float32"))
    if scaling.color_order == "RGB":
        return scaled
    # Last, and as a gather: OpenVINO then turns the first kernel round instead. A flip took 2.5 % of
    # ResNet50's time.
    return ops.take(scaled, order, axis=-1)
