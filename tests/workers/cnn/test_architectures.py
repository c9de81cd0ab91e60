"""The tables of models and layers against Keras; networks are built without values, so that all take a minute."""

import inspect
import sys
from importlib import resources

import keras
import numpy as np
import pytest

from config.layers import TABLES, layers_of
from config.models import MODELS
from workers.cnn.layer_tables import build_structure, list_layers
from workers.cnn.loader import end_at
from workers.cnn.preprocess import with_preprocessing
from workers.cnn.registry import KERAS_FUNCTIONS, OWN_BUILDERS

#: Layers with which a network scales its own pixels.
SCALERS = (keras.layers.Normalization, keras.layers.Rescaling)

#: Keras takes any size for these, with all weights; their docstrings say 224.
OF_ANY_SIZE = {"mobilenet_v3_large", "mobilenet_v3_small"}


def function_of(name):
    return getattr(keras.applications, KERAS_FUNCTIONS[name])


@pytest.fixture(scope="module")
def structure():
    """Structures by name, as our builder makes them, each made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = build_structure(MODELS[name])
        return made[name]

    return make


def test_every_architecture_of_keras_is_in_the_table():
    functions = {name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction)}
    assert len(functions) >= 40
    assert set(KERAS_FUNCTIONS.values()) == functions
    assert set(KERAS_FUNCTIONS) | set(OWN_BUILDERS) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_and_a_table_of_layers_say_what_keras_builds(name):
    spec = MODELS[name]
    network = build_structure(spec)
    assert network.input_shape == (None, spec.input_size, spec.input_size, 3)
    assert network.output_shape == (None, spec.classes)
    assert network.count_params() == spec.parameters
    if name in KERAS_FUNCTIONS:
        assert any(isinstance(layer, SCALERS) for layer in network.layers) == (spec.scaling == "none")
    assert layers_of(name) == tuple(list_layers(network))
    assert not [layer.name for layer in network.layers if layer.name.startswith("_")]  # such names cannot be exported


def test_no_table_of_layers_is_left_over():
    tables = (resources.files("config") / TABLES).iterdir()
    assert {table.name for table in tables} == {f"{name}.tsv" for name in MODELS}


@pytest.mark.parametrize("name", [name for name in KERAS_FUNCTIONS if name not in OF_ANY_SIZE])
def test_a_row_has_the_size_of_the_published_weights(name):
    """For them Keras refuses any other, before it builds or downloads anything."""
    size = MODELS[name].input_size
    with pytest.raises(ValueError, match=rf"should be \({size}, {size}, 3\)\."):
        function_of(name)(weights="imagenet", input_shape=(size + 32, size + 32, 3))


@pytest.mark.parametrize("name", KERAS_FUNCTIONS)
def test_a_row_scales_as_its_architecture_does(name):
    spec = MODELS[name].model_copy(update={"input_size": 4})
    pixels = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    pixels[0, 0, :2] = [[0] * 3, [255] * 3]
    inputs = keras.Input((4, 4, 3))
    ours = with_preprocessing(keras.Model(inputs, keras.layers.Identity()(inputs)), spec)(pixels)
    preprocess_input = sys.modules[function_of(name).__module__].preprocess_input
    np.testing.assert_allclose(ours, preprocess_input(pixels.astype(np.float32)), rtol=0, atol=1e-5)


def of_kind(network, kind):
    return [layer for layer in network.layers if type(layer) is kind]


def test_vgg19_is_that_of_the_paper(structure):
    """Simonyan and Zisserman, arXiv:1409.1556, table 1, column E."""
    network = structure("vgg19")
    convolutions, dense = of_kind(network, keras.layers.Conv2D), of_kind(network, keras.layers.Dense)
    assert network.input_shape[1:] == (224, 224, 3)
    assert (len(convolutions), len(dense)) == (16, 3)
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert [layer.units for layer in dense] == [4096, 4096, 1000]


def test_resnet50_is_that_of_the_paper(structure):
    """He et al., arXiv:1512.03385, table 1, the column of 50 layers."""
    network = structure("resnet50")
    blocks = [layer for layer in network.layers if layer.name.startswith("conv") and layer.name.endswith("_out")]
    stages = [[block for block in blocks if block.name.startswith(f"conv{stage}_")] for stage in (2, 3, 4, 5)]
    assert [len(stage) for stage in stages] == [3, 4, 6, 3]
    assert [{block.output.shape[-1] for block in stage} for stage in stages] == [{256}, {512}, {1024}, {2048}]
    for stage, filters in zip((2, 3, 4, 5), (256, 512, 1024, 2048), strict=True):
        found = [layer.filters for layer in of_kind(network, keras.layers.Conv2D) if f"conv{stage}_" in layer.name]
        assert max(found) == filters


def test_inception_v3_is_that_of_the_paper(structure):
    """Szegedy et al., arXiv:1512.00567, table 1: what the last block of each of the three kinds puts out."""
    network = structure("inception_v3")
    assert network.input_shape[1:] == (299, 299, 3)
    shapes = [network.get_layer(name).output.shape[1:] for name in ("mixed2", "mixed7", "mixed10")]
    assert shapes == [(35, 35, 288), (17, 17, 768), (8, 8, 2048)]
    assert MODELS["inception_v3"].parameters == network.count_params() < 25_000_000


def test_an_image_of_224_pixels_has_150_528_elements(structure):
    network = structure("vgg19")
    at_input = with_preprocessing(end_at(network, [network.inputs[0].name]), MODELS["vgg19"])
    features = at_input(np.zeros((1, 224, 224, 3), np.uint8))
    assert np.asarray(features[0] if isinstance(features, list) else features).size == 150_528
