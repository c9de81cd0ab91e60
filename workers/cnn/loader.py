"""Loader: a model and its weights in, a Keras network out; and networks that end at any layers of another."""

from __future__ import annotations

import difflib
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import ContractError, UnavailableError, UsageError
from config.models import ModelSpec
from workers.cnn.anatomy import end_for_training
from workers.cnn.efficientnet_lite import load_packaged_weights
from workers.cnn.preprocess import with_preprocessing
from workers.cnn.recipe import LocalWeights, NetworkRecipe
from workers.cnn.registry import build_network

if TYPE_CHECKING:
    import keras

#: What Keras raises on a file that does not fit the network, is damaged, or would run code.
UNFIT_FILE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    UserWarning,
    zipfile.BadZipFile,
)


def load_recipe(recipe: NetworkRecipe) -> tuple[keras.Model, tuple[str, ...]]:
    """The whole network of a recipe, uint8 NHWC RGB pixels in, and the names of the layers that it puts out."""
    network = load_network(recipe.spec, recipe.weights)
    if recipe.unfreeze is not None:
        return with_preprocessing(end_for_training(network, recipe.layers, recipe.unfreeze), recipe.spec), recipe.layers
    own_end = (network.layers[-1].name,) if recipe.with_end or not recipe.layers else ()
    if recipe.layers:
        network = end_at(network, recipe.layers, recipe.with_end)
    return with_preprocessing(network, recipe.spec), recipe.layers + own_end


def load_network(spec: ModelSpec, weights: LocalWeights) -> keras.Model:
    """Build a model with weights: scaled float images in, softmax probabilities, or what is below the top, out.

    Its layers have the names that Keras gives in a fresh process, however many networks were built before.
    Raises ContractError where the weights do not fit or hold code, UnavailableError where Keras cannot download.
    """
    keras = import_keras()
    # Keras counts unnamed layers over the whole process: 15 of InceptionV3's 313 names survive a second build.
    keras.backend.clear_session()
    network = LOADERS[weights.kind](spec, weights)
    _check_shapes(network, spec)
    return network


def end_at(network: keras.Model, layers: Sequence[str], with_end: bool = False) -> keras.Model:
    """The part of a network that puts out the values of these layers, in their order, and then its own, if asked."""
    import keras

    inputs = network.inputs[0]
    # A Sequential network hides its input layer, whose values are the preprocessed pixels.
    tensors = {inputs.name: inputs, **{layer.name: layer.output for layer in network.layers}}
    for layer in layers:
        if layer not in tensors:
            near = difflib.get_close_matches(layer, tensors, n=3)
            offer = f": did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"{network.name} has no layer {layer!r}{offer}")
    if len(set(layers)) < len(layers):
        raise UsageError(f"a layer is asked for twice: {', '.join(layers)}")
    ends = network.outputs if with_end else []
    return keras.Model(inputs, [*(tensors[layer] for layer in layers), *ends], name=network.name)


def import_keras() -> keras:
    """Keras on TensorFlow, with channels last: a person's own keras.json or environment may say otherwise."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    return keras


def _load_file(spec: ModelSpec, weights: LocalWeights) -> keras.Model:
    """From a `.keras` file (architecture and weights) or a file of weights alone; code in it is never run."""
    import keras

    file = weights.file
    try:
        with warnings.catch_warnings():
            # Keras only warns when a file lacks some layers, and leaves those at random: wrong rows in silence.
            warnings.simplefilter("error", UserWarning)
            if file.suffix == ".keras":
                return keras.saving.load_model(file, compile=False, safe_mode=True)
            network = build_network(spec)
            network.load_weights(file)
            _check_layers(network, file)
    except UNFIT_FILE_ERRORS as error:
        raise ContractError(f"weights {file.name} cannot be loaded as {spec.name}: {_first_line(error)}") from error
    return network


def _load_packaged(spec: ModelSpec, weights: LocalWeights) -> keras.Model:
    if spec.default_weights != "packaged":
        raise ContractError(f"no package holds weights of {spec.name}")
    network = build_network(spec)
    load_packaged_weights(network)
    return network


def _load_imagenet(spec: ModelSpec, weights: LocalWeights) -> keras.Model:
    try:
        return build_network(spec, "imagenet")
    except Exception as error:
        if type(error) is not Exception:  # Keras raises just that when its download fails
            raise
        raise UnavailableError(f"Keras could not download the weights of {spec.name}: {_first_line(error)}") from error


def _make_random(spec: ModelSpec, weights: LocalWeights) -> keras.Model:
    import keras

    keras.utils.set_random_seed(weights.seed)
    return build_network(spec)


LOADERS: dict[str, Callable[[ModelSpec, LocalWeights], keras.Model]] = {
    "file": _load_file,
    "packaged": _load_packaged,
    "imagenet": _load_imagenet,
    "random": _make_random,
}


def _check_shapes(network: keras.Model, spec: ModelSpec) -> None:
    """A file may hold any network; the ones built here fit by construction."""
    wanted = spec.input_shape
    shapes = [tuple(tensor.shape) for tensor in (*network.inputs, *network.outputs)]
    fits = len(shapes) == 2 and len(shapes[0]) == 4 and (shapes[1] == (None, spec.classes) or not spec.include_top)
    if not fits or any(size not in (None, asked) for size, asked in zip(shapes[0][1:], wanted, strict=True)):
        raise ContractError(f"network of shapes {shapes}, {spec.name} is {wanted} in and {spec.classes} classes out")


def _check_layers(network: keras.Model, file: Path) -> None:
    """Keras passes over layers of a file that have no weights, but they compute: ValueError where there are more.

    It builds efficientnet_b0 to b7 with one more Rescaling for their ImageNet weights, and without it for all others.
    """
    import h5py

    with h5py.File(file) as stored:
        found = len(stored.get("layers", ()))
    if found > len(network.layers):
        raise ValueError(
            f"saved from a network of {found} layers, and this one has {len(network.layers)}; "
            "give a .keras file, which holds the network too"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
