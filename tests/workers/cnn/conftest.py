"""Networks for the tests: a tiny one in a .keras file, and one directory of converted networks for the session."""

import warnings

import numpy as np
import pytest

from config.messages import Engine as EngineName
from config.messages import Precision
from config.models import MODELS, ModelSpec
from workers.cnn.engines import EngineOptions
from workers.cnn.recipe import LocalWeights, NetworkRecipe

#: Keras 3.15's variables do not yet know the `copy` argument that NumPy 2 passes; to save them is right all the same.
KERAS_ARRAY_WARNING = "__array__ implementation doesn't accept a copy keyword"

TINY = ModelSpec(name="tiny", input_size=16, scaling="tf", classes=5)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    import keras

    keras.utils.set_random_seed(7)
    network = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dropout(0.5, name="dropout"),
            keras.layers.Dense(5, activation="softmax", name="classes"),
        ]
    )
    file = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", KERAS_ARRAY_WARNING, DeprecationWarning)
        network.save(file)
    return NetworkRecipe(spec=TINY, weights=LocalWeights(kind="file", path=file))


@pytest.fixture(scope="session")
def recipes(tiny_recipe):
    return {
        "tiny": tiny_recipe.model_copy(update={"layers": ("classes", "conv", "pool")}),
        "efficientnet_lite0": NetworkRecipe(spec=MODELS["efficientnet_lite0"], weights=LocalWeights(kind="packaged")),
        "resnet50": NetworkRecipe(spec=MODELS["resnet50"], weights=LocalWeights(kind="random")),
    }


@pytest.fixture(scope="session")
def make_options(cache_dir):
    def make(engine=EngineName.OPENVINO, precision=Precision.FLOAT32, batch_size=4):
        return EngineOptions(engine, precision, batch_size, cache_dir)

    return make


@pytest.fixture
def draw_images():
    """Images that differ in structure, not only in noise: a network must tell them apart."""

    def draw(count, size, seed=0):
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        return np.ascontiguousarray(coarse.repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)[:, :size, :size])

    return draw
