"""What a .keras file tells without Keras, against the network that Keras makes of it; and what is refused of it."""

import io
import json
import warnings
import zipfile

import keras
import pytest
from keras import layers

from config.errors import ContractError
from config.keras_file import CONFIG_FILE, MAX_CONFIG_BYTES, read_structure
from tests.workers.cnn.conftest import KERAS_ARRAY_WARNING


def convolved(size=(16, 16, 3), **options):
    inputs = keras.Input(size)
    return inputs, layers.Conv2D(4, 3, **options)(inputs)


def functional():
    inputs, x = convolved()
    x = layers.Add()([x, layers.Conv2D(4, 3)(inputs)])
    x = layers.GlobalMaxPooling2D()(keras.ops.relu(x))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(5)(x)))


def sequential():
    pooled = [layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((16, 12, 3)), *pooled, layers.Dense(3), layers.Activation("softmax")])


def nested():
    inputs, x = convolved()
    base = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="base")
    return keras.Sequential([base, layers.Dense(2, activation="softmax")])


def of_any_size():
    inputs, x = convolved((None, None, 3))
    return keras.Model(inputs, layers.Reshape((4,))(layers.GlobalAveragePooling2D()(x)))


def without_top():
    inputs, x = convolved()
    return keras.Model(inputs, layers.ReLU()(x))


@pytest.fixture
def saved(tmp_path):
    """A network as a .keras file."""

    def save(network):
        file = tmp_path / "own.keras"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", KERAS_ARRAY_WARNING, DeprecationWarning)
            network.save(file)
        return file

    return save


def structure_of(file):
    with file.open("rb") as opened:
        return read_structure(opened)


@pytest.mark.parametrize("make", [functional, sequential, nested, of_any_size, without_top])
def test_a_file_tells_what_keras_makes_of_it(make, saved):
    """Of a Sequential Keras hides the input layer, at which features can end all the same."""
    network = make()
    structure = structure_of(saved(network))
    assert structure.input_shape == network.input_shape[1:]
    assert structure.output_shape == network.output_shape[1:]
    assert structure.classes == (network.output_shape[1] if len(network.output_shape) == 2 else None)
    told = [layer for layer in structure.layers if layer.kind != "InputLayer"]
    built = [layer for layer in network.layers if not isinstance(layer, layers.InputLayer)]
    assert [(layer.name, layer.kind) for layer in told] == [(layer.name, type(layer).__name__) for layer in built]
    for ours, layer in zip(told, built, strict=True):
        assert ours.shape in (None, layer.output.shape[1:])
    if make is not sequential:  # in which nobody has written down what a layer without weights gets
        assert None not in [layer.shape for layer in told]


def test_a_large_network_is_told_in_every_shape(saved):
    network = keras.applications.MobileNet(input_shape=(96, 96, 3), weights=None, classes=7, alpha=0.25)
    structure = structure_of(saved(network))
    assert [(layer.name, layer.shape) for layer in structure.layers] == [
        (layer.name, tuple(layer.output.shape[1:])) for layer in network.layers
    ]
    assert structure.classes == 7


class Doubled(layers.Layer):  # type: ignore[misc]  # Keras brings no types
    """A layer of somebody's own."""

    def call(self, x):
        return 2 * x


def with_lambda():
    inputs, x = convolved()
    return keras.Model(inputs, layers.Lambda(lambda t: 2 * t, name="twice")(x))


def with_own_layer():
    inputs, x = convolved()
    return keras.Model(inputs, Doubled(name="mine")(x))


def with_two_inputs():
    first, x = convolved()
    second, y = convolved()
    return keras.Model([first, second], layers.Add()([x, y]))


REFUSED = {
    with_lambda: r"layer 'twice' holds Python code \(a lambda\), and workers run no code from files: use one of",
    with_own_layer: "layer 'mine' needs the class Doubled, which is not Keras's own, and workers run no code of others",
    with_two_inputs: "its network has 2 inputs and 1 outputs, and must have one of each",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_workers_would_not_load_is_refused_with_a_reason(make, saved):
    with pytest.raises(ContractError, match=REFUSED[make]):
        structure_of(saved(make()))


def archive(config, name=CONFIG_FILE):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, config)
    return body


def hidden(where):
    """A function of another module, deep inside a layer that is Keras's own."""
    target = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    dense = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "top", "units": 3, where: target}}
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [dense]}})


DAMAGED = {
    "no zip": (io.BytesIO(b"PK no zip at all"), r"no \.keras file"),
    "cut off": (io.BytesIO(archive("{}").getvalue()[:60]), r"no \.keras file"),
    "another zip": (archive("{}", "word/document.xml"), r"without config\.json"),
    "no JSON": (archive("{"), r"config\.json is no JSON"),
    "no network": (archive("[1, 2]"), r"is not as Keras writes it"),
    "no layers": (
        archive('{"module": "keras", "class_name": "Sequential", "config": {}}'),
        "is not as Keras writes it",
    ),
    "a bomb": (archive(" " * (MAX_CONFIG_BYTES + 1)), "is larger than"),
    "too deep": (archive("[" * 500_000), r"config\.json is no JSON"),
    "a function": (
        archive(hidden("kernel_initializer")),
        "layer 'top' needs the function system, which is not Keras's",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_no_network_is_refused(what):
    file, said = DAMAGED[what]
    with pytest.raises(ContractError, match=said) as refused:
        read_structure(file)
    assert "\n" not in str(refused.value)
