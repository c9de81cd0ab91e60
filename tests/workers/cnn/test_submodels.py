"""Several layers of a real network in one pass, on both engines, against Keras sub-models that end there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from config.layers import find_layers
from config.messages import Engine as EngineName
from config.models import MODELS
from workers.cnn.engines import make_engine
from workers.cnn.recipe import LocalWeights, NetworkRecipe

#: Seconds; a network is built three times, converted and run, possibly on one busy core.
pytestmark = pytest.mark.timeout(900)

SEED = 5


class Network(NamedTuple):
    """What Keras calls a network and its preprocessing, and layers of it, not in the network's order."""

    name: str
    build: Callable[..., Any]
    preprocess: Callable[..., Any]
    layers: tuple[str, ...]


#: A convolution, a pooling layer, a dense layer, and a mixed block where there is one.
NETWORKS = {
    "inception_v3": Network(
        "inception_v3",
        keras.applications.InceptionV3,
        keras.applications.inception_v3.preprocess_input,
        ("mixed5", "conv2d_3", "predictions", "max_pooling2d_1"),
    ),
    "vgg19": Network(
        "vgg19",
        keras.applications.VGG19,
        keras.applications.vgg19.preprocess_input,
        ("fc2", "block4_pool", "block3_conv4"),
    ),
}


#: VGG-19 on one engine: building its 143 million parameters again for the other takes longer than all else here.
CASES = [
    ("inception_v3", EngineName.OPENVINO),
    ("inception_v3", EngineName.TENSORFLOW),
    ("vgg19", EngineName.OPENVINO),
]


@pytest.fixture(scope="module")
def network(request):
    return NETWORKS[request.param]


@pytest.fixture(scope="module")
def images(network):
    size = MODELS[network.name].input_size
    coarse = np.random.default_rng(3).integers(0, 256, (2, 14, 14, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(23, 1).repeat(23, 2)[:, :size, :size])


@pytest.fixture(scope="module")
def keras_outputs(network, images):
    """Each layer from a sub-model of its own."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    whole = network.build(weights=None)
    inputs = network.preprocess(images.astype(np.float32))
    ends = [whole.get_layer(name).output for name in network.layers]
    return [np.asarray(keras.Model(whole.inputs[0], end)(inputs, training=False)) for end in ends]


@pytest.mark.parametrize(("network", "kind"), CASES, indirect=["network"])
def test_layers_put_out_what_keras_sub_models_do(network, images, keras_outputs, make_options, kind):
    spec = MODELS[network.name]
    recipe = NetworkRecipe(spec=spec, weights=LocalWeights(kind="random", seed=SEED), layers=network.layers)
    engine = make_engine(recipe, make_options(kind, batch_size=len(images)))
    assert engine.output_names == network.layers
    assert engine.output_shapes == tuple(layer.shape for layer in find_layers(network.name, network.layers))
    [outputs] = engine.run([images])
    for ours, wanted in zip(outputs, keras_outputs, strict=True):
        assert ours.shape == wanted.shape
        assert wanted.std() > 0
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4 * wanted.std())
