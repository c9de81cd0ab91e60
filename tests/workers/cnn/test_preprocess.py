import keras
import numpy as np
import pytest

from config.models import MODELS
from workers.cnn.preprocess import with_preprocessing

#: keras.applications' own modes; "none" is what its self-scaling networks do.
KERAS_MODES = ("caffe", "tf", "torch")


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def preprocessed(pixels, scaling):
    spec = MODELS["resnet50"].model_copy(update={"scaling": scaling})
    inputs = keras.Input((224, 224, 3))
    identity = keras.Model(inputs, keras.layers.Identity()(inputs))
    return np.asarray(with_preprocessing(identity, spec)(pixels))


@pytest.mark.parametrize("mode", KERAS_MODES)
def test_scaling_is_that_of_keras_applications(pixels, mode):
    wanted = keras.applications.imagenet_utils.preprocess_input(pixels.astype(np.float32), mode=mode)
    np.testing.assert_allclose(preprocessed(pixels, mode), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model", "function"), [("vgg19", "vgg19"), ("resnet50", "resnet"), ("inception_v3",) * 2])
def test_each_model_has_the_scaling_of_its_module(pixels, model, function):
    wanted = getattr(keras.applications, function).preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(preprocessed(pixels, MODELS[model].scaling), wanted, rtol=0, atol=1e-5)


def test_lite_and_none(pixels):
    floats = pixels.astype(np.float32)
    np.testing.assert_allclose(preprocessed(pixels, "lite"), (floats - 127) / 128, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(preprocessed(pixels, "none"), floats)
