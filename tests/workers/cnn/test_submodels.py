"""Several layers of a real network in one pass, on both engines, against Keras sub-models that end there."""

import keras
import numpy as np
import pytest

from config.layers import find_layers
from config.messages import Engine as EngineName
from config.models import MODELS
from workers.cnn.engines import make_engine
from workers.cnn.recipe import LocalWeights, NetworkRecipe

#: Seconds; a network is built three times, converted and run, possibly on one busy core.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("inception_v3")]

SPEC = MODELS["inception_v3"]
SEED = 5

#: A convolution, a pooling layer, a mixed block and a dense layer, not in the network's order.
LAYERS = ("mixed5", "conv2d_3", "predictions", "max_pooling2d_1")


@pytest.fixture(scope="module")
def images():
    coarse = np.random.default_rng(3).integers(0, 256, (2, 13, 13, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(23, 1).repeat(23, 2))


@pytest.fixture(scope="module")
def keras_outputs(images):
    """Each layer from a sub-model of its own."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    network = keras.applications.InceptionV3(weights=None)
    inputs = keras.applications.inception_v3.preprocess_input(images.astype(np.float32))
    ends = [network.get_layer(name).output for name in LAYERS]
    return [np.asarray(keras.Model(network.inputs[0], end)(inputs, training=False)) for end in ends]


@pytest.mark.parametrize("kind", [EngineName.OPENVINO, EngineName.TENSORFLOW])
def test_layers_put_out_what_keras_sub_models_do(images, keras_outputs, make_options, kind):
    recipe = NetworkRecipe(spec=SPEC, weights=LocalWeights(kind="random", seed=SEED), layers=LAYERS)
    engine = make_engine(recipe, make_options(kind))
    assert engine.output_names == LAYERS
    assert engine.output_shapes == tuple(layer.shape for layer in find_layers("inception_v3", LAYERS))
    [outputs] = engine.run([images])
    for ours, wanted in zip(outputs, keras_outputs, strict=True):
        assert ours.shape == wanted.shape
        assert wanted.std() > 0
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4 * wanted.std())
