"""Images of three kinds that nobody takes for one another, each drawn in colours and places of its own."""

from collections.abc import Callable

import numpy as np
import obstore
from numpy.typing import NDArray
from obstore.store import S3Store
from PIL import Image, ImageDraw

from tests.images import encoded

SIDE = 96


def _stripes(random: np.random.Generator) -> Image.Image:
    period, shift = random.integers(6, 14), random.integers(0, 14)
    wave = ((np.arange(SIDE) + shift) // (period // 2)) % 2
    return _two_colors(np.tile(wave, (SIDE, 1)), random)


def _discs(random: np.random.Generator) -> Image.Image:
    image = _two_colors(np.zeros((SIDE, SIDE), int), random)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, radius = *random.integers(10, SIDE - 10, 2), random.integers(8, 18)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(random.integers(0, 256, 3).tolist()))
    return image


def _noise(random: np.random.Generator) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))


KINDS: dict[str, Callable[[np.random.Generator], Image.Image]] = {"discs": _discs, "noise": _noise, "stripes": _stripes}


def draw(kind: str, seed: int) -> bytes:
    """One image as a file; the same seed gives the same."""
    return encoded(KINDS[kind](np.random.default_rng([seed, *kind.encode()])), quality=90)


def plant(store: S3Store, prefix: str, images: int, first: int = 0) -> dict[str, str]:
    """So many images of each kind under `prefix<kind>/`; key -> kind."""
    planted = {}
    for kind in KINDS:
        for seed in range(first, first + images):
            key = f"{prefix}{kind}/{seed:03d}.jpg"
            obstore.put(store, key, draw(kind, seed))
            planted[key] = kind
    return planted


def _two_colors(where: NDArray[np.int_], random: np.random.Generator) -> Image.Image:
    colors = random.integers(0, 256, (2, 3)).astype(np.uint8)
    colors[1] = 255 - colors[0] // 2
    return Image.fromarray(colors[where])
