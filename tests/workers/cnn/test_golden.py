"""Our scores against Keras's own preprocess_input and predict, from an image file to the probabilities, in float32."""

import sys
from io import BytesIO

import keras
import numpy as np
import pytest
from PIL import Image

from config.messages import Engine as EngineName
from config.models import MODELS
from tests.images import encoded
from workers.cnn.engines import make_engine
from workers.cnn.recipe import LocalWeights, NetworkRecipe
from workers.cnn.registry import KERAS_FUNCTIONS
from workers.decode import open_image, to_pixels

#: Seconds; VGG-19 is built twice, converted and run, possibly on one busy core.
pytestmark = pytest.mark.timeout(900)

SEED = 11

#: The paper's three networks, each with another side and most with another scaling.
GOLDEN = ("vgg19", "resnet50", "inception_v3")


def drawn(seed, mode="RGB"):
    """A picture with large and small structure, in colour or grey."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((400, 300), Image.Resampling.BICUBIC)
    grain = random.integers(-20, 20, (300, 400, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).convert(mode)


FILES = {
    "jpeg": encoded(drawn(1)),
    "png": encoded(drawn(2), "PNG"),
    "grey jpeg": encoded(drawn(3, "L")),
    "grey png": encoded(drawn(4, "L"), "PNG"),
}


@pytest.fixture(scope="module", params=GOLDEN)
def golden(request):
    """A model's recipe and what Keras alone computes for the files, resized as the paper did."""
    name = request.param
    function = getattr(keras.applications, KERAS_FUNCTIONS[name])
    size = MODELS[name].input_size
    options = {"target_size": (size, size), "interpolation": "bilinear"}
    images = [keras.utils.load_img(BytesIO(file), **options) for file in FILES.values()]
    arrays = np.stack([keras.utils.img_to_array(image) for image in images])
    keras.utils.set_random_seed(SEED)
    network = function(weights=None)
    scores = network.predict(sys.modules[function.__module__].preprocess_input(arrays), verbose=0)
    return NetworkRecipe(spec=MODELS[name], weights=LocalWeights(kind="random", seed=SEED)), scores


@pytest.mark.parametrize("kind", [EngineName.OPENVINO, EngineName.TENSORFLOW])
def test_scores_are_those_of_keras(golden, make_options, kind):
    recipe, wanted = golden
    squash = recipe.spec.model_copy(update={"resize": "squash"})
    pixels = np.stack([to_pixels(open_image(file), squash) for file in FILES.values()])
    [(scores,)] = make_engine(recipe, make_options(kind)).run([pixels])
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4)
    # Untrained networks find all classes nearly alike, so what sets the images apart has to be right as well.
    apart = np.abs(wanted - wanted.mean(axis=0)).max()
    assert np.abs(scores - wanted).max() < apart / 100
