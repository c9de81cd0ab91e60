"""Keras's rules as the producer knows them, against Keras itself: the same refusals, word for word, for every model."""

import itertools

import keras
import pytest
from keras.src import layers as keras_layers

from config.errors import UsageError
from config.keras_rules import check_spec, named_layers, rules_of
from config.layers import layers_of, layers_of_spec
from config.models import MODELS
from workers.cnn.layer_tables import build_structure
from workers.cnn.registry import KERAS_FUNCTIONS

#: A model of each family, the smallest; together they take a few seconds.
SMALLEST = (
    "efficientnet_lite0",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "inception_v3",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "nasnet_mobile",
    "resnet50",
    "vgg19",
    "xception",
)


class AcceptedError(Exception):
    """Keras has checked everything, and begins to build."""


@pytest.fixture
def _checks_only(monkeypatch):
    """Keras stops where it has nothing more to say, before it builds a network of seconds or downloads weights."""

    def accept(*args, **kwargs):
        raise AcceptedError

    monkeypatch.setattr(keras_layers, "Input", accept)


def sizes_for(name):
    """Sizes round every rule: the default, the least and one below it, oblong ones, those of other weights."""
    size, least = MODELS[name].input_size, rules_of(name).min_size
    squares = [(side, side) for side in (size, least, 96, 128, 150, 160, 192, 224)]
    return [*squares, (least - 1, size), (size, least - 1), (size, size + 32), (128, 160)]


@pytest.mark.parametrize("name", KERAS_FUNCTIONS)
@pytest.mark.usefixtures("_checks_only")
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")  # MobileNets' weights are those of 224 then
def test_what_keras_refuses_is_refused_in_the_same_words(name):
    refusals = set()
    for weights, top, classes, size in itertools.product(
        ("imagenet", "random"), (True, False), (1_000, 10), sizes_for(name)
    ):
        spec = MODELS[name].model_copy(
            update={"include_top": top, "classes": classes, "input_size": size[0], "input_width": size[1]}
        )
        keras_said = said_by_keras(spec, weights)
        assert said_by_us(spec, weights) == keras_said
        refusals.add(keras_said[:12])  # silence, If using, When setting, Input size
    assert len(refusals) == (3 if rules_of(name).any_size else 4)


def said_by_keras(spec, weights):
    """Keras's words against it; none where it has none."""
    build = getattr(keras.applications, KERAS_FUNCTIONS[spec.name])
    chosen = {"include_top": spec.include_top, "classes": spec.classes, "input_shape": spec.input_shape}
    with pytest.raises((AcceptedError, ValueError)) as said:
        build(weights=None if weights == "random" else weights, **chosen)
    return str(said.value)


def said_by_us(spec, weights):
    """Our words against it; none where we have none."""
    try:
        check_spec(spec, weights)
    except UsageError as error:
        return str(error)
    return ""


def test_the_named_case_is_allowed_and_what_is_near_it_is_not():
    spec = MODELS["inception_v3"].model_copy(update={"input_size": 150, "include_top": False})
    check_spec(spec, "imagenet")
    with pytest.raises(UsageError, match=r"`input_shape` should be \(299, 299, 3\)"):
        check_spec(spec.model_copy(update={"include_top": True}), "imagenet")
    with pytest.raises(UsageError, match="at least 75x75"):
        check_spec(spec.model_copy(update={"input_size": 74}), "s3://bucket/own.weights.h5")


def test_packaged_weights_have_a_thousand_classes_and_take_any_size():
    lite = MODELS["efficientnet_lite0"]
    check_spec(lite.model_copy(update={"input_size": 96}), "packaged")
    check_spec(lite.model_copy(update={"classes": 10}), "random")
    with pytest.raises(UsageError, match="`classes` should be 1000"):
        check_spec(lite.model_copy(update={"classes": 10}), "packaged")


@pytest.mark.parametrize("name", SMALLEST)
def test_names_without_a_top_are_known_and_the_least_size_can_be_built(name):
    """Names do not depend on the size: the table is that of the default one."""
    pooling = {"vgg19": "max", "resnet50": None, "xception": None}.get(name, "avg")
    changes = {"input_size": rules_of(name).min_size, "include_top": False, "pooling": pooling}
    spec = MODELS[name].model_copy(update=changes)
    built = [(layer.name, type(layer).__name__) for layer in build_structure(spec).layers]
    assert named_layers(spec, [(layer.name, layer.kind) for layer in layers_of(name)]) == built
    known = layers_of_spec(spec)
    assert known is not None
    assert [(layer.name, layer.kind) for layer in known] == built


def test_a_network_has_as_many_classes_as_are_asked_for():
    spec = MODELS["mobilenet"].model_copy(update={"input_size": 64, "input_width": 96, "classes": 4})
    network = build_structure(spec)
    assert (network.input_shape, network.output_shape) == ((None, 64, 96, 3), (None, 4))
