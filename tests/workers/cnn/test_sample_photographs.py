"""The demo's default model sees what is on the demo's photographs: real weights, on the default path of a worker."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.messages import Precision
from workers.cnn.classify import top_k
from workers.cnn.engines import make_engine
from workers.cnn.labels import imagenet_labels

#: Photograph -> classes one of which must be the first, and the score that it has at least.
EXPECTED = {
    "chelsea.png": ({"tiger_cat", "Egyptian_cat"}, 0.3),
    "coffee.png": ({"espresso"}, 0.9),
    "camera.png": ({"tripod"}, 0.9),
    "motorcycle_left.png": ({"moped"}, 0.4),
    "rocket.jpg": ({"missile"}, 0.25),
}


@pytest.fixture(scope="module")
def photographs():
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("scikit-image is not installed")
    return Path(found.origin).parent / "data"


def cut(file, spec):
    """The shorter side to 256, the middle 224: written out here, so that decode.py is not its own judge."""
    image = Image.open(file).convert("RGB")
    factor = spec.resize_side / min(image.size)
    image = image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - spec.input_size) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + spec.input_size, top + spec.input_size)))


def test_photographs_are_seen_as_what_they_show(recipes, make_options, photographs):
    recipe = recipes["efficientnet_lite0"]
    images = np.stack([cut(photographs / name, recipe.spec) for name in EXPECTED])
    engine = make_engine(recipe, make_options(precision=Precision.AUTO, batch_size=8))
    [(scores,)] = engine.run([images])
    numbers, best = top_k(scores, 5)
    for (name, (classes, least)), number, score in zip(EXPECTED.items(), numbers[:, 0], best[:, 0], strict=True):
        assert imagenet_labels()[number].class_name in classes, name
        assert score >= least, name
