"""Networks by name and from files; what a file may not do to the process that loads it."""

import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest

from config.errors import ContractError, UsageError
from config.messages import Weights
from config.models import MODELS
from tests.workers.cnn.conftest import KERAS_ARRAY_WARNING
from workers.cnn.efficientnet_lite import blocks, packaged_weights
from workers.cnn.loader import end_at, load_network, load_recipe
from workers.cnn.recipe import LocalWeights, NetworkRecipe, sha256_of
from workers.cnn.registry import KERAS_FUNCTIONS, OWN_BUILDERS

LITE = MODELS["efficientnet_lite0"]
RANDOM = LocalWeights(kind="random")


def layer_names(network):
    return [layer.name for layer in network.layers]


def test_every_model_has_a_builder():
    assert set(KERAS_FUNCTIONS) | set(OWN_BUILDERS) == set(MODELS)


def test_a_second_load_has_the_same_layer_names():
    """Keras counts unnamed layers over the whole process: of 313 names 15 would survive."""
    first, second = (layer_names(load_network(MODELS["inception_v3"], RANDOM)) for _ in range(2))
    assert first == second
    assert len(first) == 313
    assert {"input_layer", "conv2d", "batch_normalization", "activation"} <= set(first)


@pytest.fixture(scope="module")
def lite():
    return load_network(LITE, RANDOM)


@pytest.fixture
def lite_file(lite, tmp_path):
    file = tmp_path / "lite.weights.h5"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", KERAS_ARRAY_WARNING, DeprecationWarning)
        lite.save_weights(file)
    return file


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_random_weights_follow_from_the_seed(lite, seed, same):
    again = load_network(LITE, LocalWeights(kind="random", seed=seed))
    kernels = [network.get_layer("head_conv").get_weights()[0] for network in (lite, again)]
    assert np.array_equal(*kernels) == same


def test_efficientnet_lite0_is_a_network_of_sixteen_blocks_without_squeeze(lite):
    kinds = [type(layer).__name__ for layer in lite.layers]
    assert len(list(blocks())) == kinds.count("DepthwiseConv2D") == 16
    assert kinds.count("Conv2D") == 1 + 15 + 16 + 1  # stem, expansions, projections, head
    assert kinds.count("GlobalAveragePooling2D") == 1
    assert kinds.count("Add") == 9
    assert {layer.max_value for layer in lite.layers if isinstance(layer, keras.layers.ReLU)} == {6.0}


def test_weights_of_the_package_are_the_file_that_was_published():
    """The name that PyTorch gave the file ends in the first digits of its sha256."""
    file = packaged_weights()
    assert LocalWeights(kind="packaged").sha256 == sha256_of(file)
    assert sha256_of(file).startswith(file.stem.rpartition("-")[2])


def test_layers_can_be_ends_in_any_order(tiny_recipe, draw_images):
    images = draw_images(3, 16).astype(np.float32)
    network = load_network(tiny_recipe.spec, tiny_recipe.weights)
    ended = end_at(network, ("classes", "conv", "pool"))
    classes, conv, pool = ended(images)
    assert [value.shape for value in (classes, conv, pool)] == [(3, 5), (3, 14, 14, 4), (3, 4)]
    np.testing.assert_array_equal(classes, network(images))
    np.testing.assert_array_equal(conv, network.get_layer("conv")(images))


def test_an_unknown_layer_is_refused_with_the_nearest_names(tiny_recipe):
    network = load_network(tiny_recipe.spec, tiny_recipe.weights)
    with pytest.raises(UsageError, match=r"has no layer 'class': did you mean classes\?"):
        end_at(network, ["class"])


def test_a_layer_asked_for_twice_is_refused(tiny_recipe):
    with pytest.raises(UsageError, match="twice"):
        end_at(load_network(tiny_recipe.spec, tiny_recipe.weights), ["conv", "conv"])


def test_the_input_is_a_layer_too(tiny_recipe, draw_images):
    images = draw_images(2, 16)
    name = load_network(tiny_recipe.spec, tiny_recipe.weights).inputs[0].name
    recipe = tiny_recipe.model_copy(update={"layers": (name, "classes")})
    network, names = load_recipe(recipe)
    assert names == (name, "classes")
    scaled, classes = network(images)
    np.testing.assert_allclose(scaled, images / 127.5 - 1, atol=1e-6)
    assert classes.shape == (2, 5)


def test_weights_come_back_from_a_weights_file(lite, lite_file):
    loaded = load_network(LITE, LocalWeights(kind="file", path=lite_file))
    for ours, theirs in zip(loaded.get_weights(), lite.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_recipe_is_named_by_what_decides_its_numbers(tiny_recipe, tmp_path):
    copy = tmp_path / "elsewhere.keras"
    copy.write_bytes(tiny_recipe.weights.path.read_bytes())
    elsewhere = LocalWeights(kind="file", path=copy)
    assert tiny_recipe.model_copy(update={"weights": elsewhere}).digest == tiny_recipe.digest
    others = [
        {"weights": RANDOM},
        {"weights": LocalWeights(kind="random", seed=1)},
        {"layers": ("conv",)},
        {"spec": tiny_recipe.spec.model_copy(update={"scaling": "torch"})},
        {"spec": tiny_recipe.spec.model_copy(update={"name": "other"})},
    ]
    digests = {tiny_recipe.model_copy(update=other).digest for other in others}
    assert len(digests | {tiny_recipe.digest}) == len(others) + 1


def test_a_recipe_survives_its_journey(tiny_recipe):
    assert NetworkRecipe.model_validate_json(tiny_recipe.model_dump_json()) == tiny_recipe


def test_weights_of_a_job_become_local_ones(tmp_path):
    assert LocalWeights.of(Weights(uri="packaged"), None).kind == "packaged"
    assert LocalWeights.of(Weights(uri="random"), None).sha256 is None
    file = tmp_path / "net.keras"
    file.write_bytes(b"abc")
    assert sha256_of(file).startswith("ba7816bf")  # FIPS 180-2, appendix B.1
    assert LocalWeights.of(Weights(uri="s3://bucket/net.keras"), file).sha256 == sha256_of(file)
    with pytest.raises(ContractError, match="no such file"):
        _ = LocalWeights(kind="file", path=tmp_path / "gone.keras").sha256


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("resnet50", "packaged", "no package"), ("efficientnet_lite0", "imagenet", "Keras has no")],
)
def test_weights_that_do_not_exist_are_refused(name, kind, said):
    with pytest.raises(ContractError, match=said):
        load_network(MODELS[name], LocalWeights(kind=kind))


def with_config(source, target, change):
    """A copy of a .keras file whose config.json went through `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(json.loads(data)) if name == "config.json" else data)
    return target


def lambda_layer(config):
    """A Lambda layer as Keras saves one: marshalled code."""
    code = {"class_name": "__lambda__", "config": {"code": "4wAA\n", "defaults": None, "closure": None}}
    layers = config["config"]["layers"]
    layers.insert(
        -1,
        {
            "module": "keras.layers",
            "class_name": "Lambda",
            "config": {"name": "code", "function": code, "arguments": {}},
            "registered_name": None,
        },
    )
    return json.dumps(config)


def call_of_os_system(config):
    """A Keras object that is a function of another module."""
    target = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    config["config"]["layers"][1]["config"]["kernel_initializer"] = target
    return json.dumps(config)


def file_of_the_worker(config):
    """A layer that reads its vocabulary from a file of the machine."""
    config["config"]["layers"][1] = {
        "module": "keras.layers",
        "class_name": "StringLookup",
        "config": {"vocabulary": "/etc/passwd"},
        "registered_name": None,
    }
    return json.dumps(config)


@pytest.mark.parametrize("change", [lambda_layer, call_of_os_system, file_of_the_worker, lambda _: "not JSON"])
def test_a_keras_file_with_code_in_it_is_refused(tiny_recipe, tmp_path, change):
    file = with_config(tiny_recipe.weights.path, tmp_path / "hostile.keras", change)
    with pytest.raises(ContractError, match=r"hostile\.keras cannot be loaded as tiny"):
        load_network(tiny_recipe.spec, LocalWeights(kind="file", path=file))


def test_weights_that_point_into_other_files_are_refused(tmp_path):
    file = tmp_path / "pointing.weights.h5"
    with h5py.File(file, "w") as h5:
        h5["layers"] = h5py.ExternalLink("/etc/hostname", "/")
    with pytest.raises(ContractError, match="cannot be loaded"):
        load_network(LITE, LocalWeights(kind="file", path=file))


@pytest.mark.parametrize("name", ["cut.keras", "cut.weights.h5"])
def test_a_damaged_file_is_refused(tiny_recipe, tmp_path, name):
    file = tmp_path / name
    file.write_bytes(tiny_recipe.weights.path.read_bytes()[:3000])
    with pytest.raises(ContractError, match="cannot be loaded"):
        load_network(LITE, LocalWeights(kind="file", path=file))


def test_a_file_that_lacks_layers_is_refused(lite_file):
    """Keras itself would only warn, and leave those layers at random."""
    with h5py.File(lite_file, "a") as h5:
        del h5["layers/conv2d"]
    with pytest.raises(ContractError, match="cannot be loaded"):
        load_network(LITE, LocalWeights(kind="file", path=lite_file))


def test_a_file_of_another_network_is_refused(tiny_recipe):
    with pytest.raises(ContractError, match="shapes"):
        load_network(MODELS["resnet50"], tiny_recipe.weights)
