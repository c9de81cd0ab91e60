"""Keras files: a .keras file in, its layers, its input and its number of classes out, or why it is refused; no Keras.

A .keras file is a zip that holds the network as JSON (config.json) and its weights. What the JSON names tells before
anything is loaded whether the file would have a worker run code.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, Any, NamedTuple

from config.errors import ContractError

CONFIG_FILE = "config.json"

#: Bytes of config.json at most, whatever the zip says of itself; NASNet-Large's is 1.4 MB.
MAX_CONFIG_BYTES = 32 * 2**20

#: Keras's own modules; what is of any other would be imported.
KERAS_MODULE = "keras"
BUILTINS = "builtins"

#: Operations of a network that are no layers, so that nothing can end at them.
OPERATIONS_MODULE = "keras.src.ops"

#: Layers that keep the shape of what they get.
SHAPE_KEEPERS = {"Activation", "Dropout", "Identity", "LeakyReLU", "ReLU", "Rescaling", "Softmax"}
SHAPE_KEEPERS |= {"BatchNormalization", "LayerNormalization", "GaussianNoise", "SpatialDropout2D", "UnitNormalization"}
GLOBAL_POOLS = {"GlobalAveragePooling2D", "GlobalMaxPooling2D"}

#: A shape for one image; None stands for a side that only the image decides.
OpenShape = tuple[int | None, ...]


class FileLayer(NamedTuple):
    """One layer of a file: name, class, and the shape of its output for one image, where the file tells it."""

    name: str
    kind: str
    shape: OpenShape | None


class Structure(NamedTuple):
    """What a file says of its network; None where it does not say it."""

    layers: tuple[FileLayer, ...]
    input_shape: OpenShape | None
    output_shape: OpenShape | None

    @property
    def classes(self) -> int | None:
        """How many numbers it puts out for an image, where that is known."""
        shape = self.output_shape
        return shape[0] if shape is not None and len(shape) == 1 else None


def read_structure(file: IO[bytes]) -> Structure:
    """The network of a .keras file; ContractError for what is none, and for one with code or objects of others."""
    config = _read_config(file)
    try:
        stranger = next(_strangers(config, None), None)
        if stranger:
            raise ContractError(stranger)
        return _network(config)
    except RecursionError as error:
        raise ContractError("its config.json is nested too deep for any network") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"its config.json is not as Keras writes it ({type(error).__name__}: {error})") from error


def _read_config(file: IO[bytes]) -> Any:
    try:
        with zipfile.ZipFile(file) as archive, archive.open(CONFIG_FILE) as entry:
            body = entry.read(MAX_CONFIG_BYTES + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ContractError(f"it is no .keras file ({error}); save it with model.save('….keras')") from error
    except KeyError as error:
        raise ContractError("it is a zip without config.json, so no .keras file") from error
    if len(body) > MAX_CONFIG_BYTES:
        raise ContractError(f"its config.json is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ContractError("its config.json is no JSON") from error


def _strangers(value: Any, layer: str | None) -> Iterator[str]:
    """A sentence for each thing in a config that Keras's own classes cannot make, the first found first."""
    if isinstance(value, list):
        for item in value:
            yield from _strangers(item, layer)
    if not isinstance(value, dict):
        return
    kind, config = value.get("class_name"), value.get("config")
    if isinstance(kind, str):
        if isinstance(config, dict) and isinstance(config.get("name"), str):
            layer = config["name"]
        where = f"layer {layer!r}" if layer else "it"
        if kind == "__lambda__":
            yield (
                f"{where} holds Python code (a lambda), and workers run no code from files: "
                "use one of Keras's own layers for it, Rescaling for instance, and save the network again"
            )
        elif "module" in value and not _is_of_keras(value["module"]):
            known_as = value.get("registered_name") or kind
            what = f"function {config}" if kind == "function" else f"class {known_as}"
            yield (
                f"{where} needs the {what}, which is not Keras's own, and workers run no code of others: "
                "build the network from Keras's own layers and save it again"
            )
    for name, item in value.items():
        if name != "compile_config":  # loss and optimizer are not loaded
            yield from _strangers(item, layer)


def _is_of_keras(module: Any) -> bool:
    return isinstance(module, str) and (module in (KERAS_MODULE, BUILTINS) or module.startswith(f"{KERAS_MODULE}."))


def _network(model: dict[str, Any]) -> Structure:
    """A Sequential or Functional model, nested ones too."""
    config = model["config"]
    entries = config["layers"]
    shapes = _known_shapes(entries)
    for before, entry in zip([None, *entries], entries, strict=False):
        name = _name(entry)
        came_in = shapes.get(_name(before)) if before and "inbound_nodes" not in entry else _shape_in(entry)
        if name not in shapes or shapes[name] is None:
            shapes[name] = _shape_out(entry, came_in)
    layers = [entry for entry in entries if not str(entry.get("module")).startswith(OPERATIONS_MODULE)]
    listed = tuple(FileLayer(_name(entry), entry["class_name"], shapes[_name(entry)]) for entry in layers)
    ends = [_ends(config[end]) if end in config else None for end in ("input_layers", "output_layers")]
    first, last = (ends[0] or [_name(entries[0])]), (ends[1] or [_name(entries[-1])])
    if len(first) != 1 or len(last) != 1:
        raise ContractError(f"its network has {len(first)} inputs and {len(last)} outputs, and must have one of each")
    return Structure(listed, shapes.get(first[0]), shapes.get(last[0]))


def _known_shapes(entries: list[dict[str, Any]]) -> dict[str, OpenShape | None]:
    """What each layer puts out, as those that take it in have written down."""
    shapes: dict[str, OpenShape | None] = {}
    for entry in entries:
        for tensor in _tensors(entry.get("inbound_nodes", [])):
            shapes[tensor["keras_history"][0]] = tuple(tensor["shape"][1:])
    for before, entry in pairwise(entries):  # of a Sequential, in which each takes what the one before puts out
        if "inbound_nodes" not in entry:
            shape = (entry.get("build_config") or {}).get("input_shape")
            if isinstance(shape, list) and not any(isinstance(side, list) for side in shape):
                shapes[_name(before)] = tuple(shape[1:])
    return shapes


def _tensors(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]
        else:
            for item in value.values():
                yield from _tensors(item)


def _shape_in(entry: dict[str, Any]) -> OpenShape | None:
    shapes = [tuple(tensor["shape"][1:]) for tensor in _tensors(entry.get("inbound_nodes", []))]
    return shapes[0] if len(shapes) == 1 else None


def _shape_out(entry: dict[str, Any], came_in: OpenShape | None) -> OpenShape | None:
    """What a layer puts out, by its own settings; None where that takes Keras to know."""
    kind, config = entry["class_name"], entry["config"]
    if kind == "InputLayer":
        return tuple(config["batch_shape"][1:])
    if "layers" in config:
        return _network(entry).output_shape
    if kind == "Reshape" and -1 not in config["target_shape"]:
        return tuple(config["target_shape"])
    if came_in is None:
        return None
    if kind == "Dense":
        return (*came_in[:-1], config["units"])
    if kind in GLOBAL_POOLS and not config.get("keepdims") and config.get("data_format") != "channels_first":
        return came_in[-1:]
    if kind == "Flatten" and None not in came_in:
        return (math.prod(side for side in came_in if side is not None),)
    return came_in if kind in SHAPE_KEEPERS else None


def _name(entry: dict[str, Any]) -> str:
    name: str = entry["config"]["name"]
    return name


def _ends(value: Any) -> list[str]:
    """The layers at one end: Keras writes ["name", 0, 0], or a list or dict of such."""
    if isinstance(value, dict):
        value = list(value.values())
    if len(value) == 3 and isinstance(value[0], str):
        return [value[0]]
    return [name for item in value for name in _ends(item)]
