"""Augment: images of one batch in, the same images flipped, cropped and coloured at random out, from one seed."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from config.training import Augmentation

#: uint8, height × width × 3, RGB.
Image = NDArray[np.uint8]

#: The smallest share of each side that a crop leaves; Keras's own examples zoom by as much.
SMALLEST_CROP = 0.75

#: Brightness, contrast and saturation change by such a factor at most.
COLOR_RANGE = 0.2

#: What red, green and blue add to how light a pixel looks (ITU-R BT.601).
LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def augment(image: Image, kinds: Sequence[Augmentation], seed: Sequence[int]) -> Image:
    """The image, changed at random in these ways; the same seed changes it in the same way, on any machine."""
    random = np.random.default_rng(list(seed))
    for kind in Augmentation:  # in one order, whatever the order they were asked for in
        if kind in kinds:
            image = CHANGES[kind](image, random)
    return np.ascontiguousarray(image)


def _flip(image: Image, random: np.random.Generator) -> Image:
    return image[:, ::-1] if random.random() < 0.5 else image


def _crop(image: Image, random: np.random.Generator) -> Image:
    """A part of the image, between SMALLEST_CROP of its sides and all of it, brought back to its size."""
    share = random.uniform(SMALLEST_CROP, 1.0)
    across, down = random.random(2)
    rows = _places(image.shape[0], share, down)
    columns = _places(image.shape[1], share, across)
    return _sample(_sample(image, rows, axis=0), columns, axis=1).round().astype(np.uint8)


def _color(image: Image, random: np.random.Generator) -> Image:
    brightness, contrast, saturation = random.uniform(1 - COLOR_RANGE, 1 + COLOR_RANGE, 3).astype(np.float32)
    pixels = image.astype(np.float32) * brightness
    grey = pixels @ LUMA
    pixels = grey[..., np.newaxis] + (pixels - grey[..., np.newaxis]) * saturation
    pixels = grey.mean() + (pixels - grey.mean()) * contrast
    coloured: Image = np.clip(pixels.round(), 0, 255).astype(np.uint8)
    return coloured


CHANGES: dict[Augmentation, Callable[[Image, np.random.Generator], Image]] = {
    Augmentation.FLIP: _flip,
    Augmentation.CROP: _crop,
    Augmentation.COLOR: _color,
}


def _places(side: int, share: float, where: float) -> NDArray[np.float64]:
    """For each new pixel of a side, where it lies in the old side, in old pixels."""
    kept = side * share
    places = (side - kept) * where + (np.arange(side) + 0.5) * share - 0.5
    return places.clip(0, side - 1)


def _sample(values: NDArray[np.generic], places: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Values between those of an axis, by linear interpolation."""
    low = np.floor(places).astype(np.intp)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = len(places)
    weight = (places - low).astype(np.float32).reshape(shape)
    below = values.take(low, axis).astype(np.float32)
    between: NDArray[np.float32] = below + (values.take(high, axis).astype(np.float32) - below) * weight
    return between
