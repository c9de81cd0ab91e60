"""Features: from words to what a run takes of each image, refused where a name is unknown or it would be too large."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from config.errors import UsageError
from config.features import Shape, bytes_per_image
from config.layers import LayerLike, estimate_shape, features_layer, pick_layers
from config.messages import FeatureOptions, FeatureType, Mode, Pool
from config.models import ModelSpec
from producer.choice import choose

#: What of the options belongs to extract_features alone.
OPTIONS = ("features", "pool", "dtype", "with_top", "even_large")

#: Bytes of features in one part at most. A worker process holds them about three times while it writes.
PART_BYTES = 64 * 2**20

#: How a person says that features may be larger than the images.
CONSENT = "--yes (even_large=True in Python)"

#: Objects that are asked for their size, or up to twice as many, where no listing told the sizes.
SAMPLED = 16

#: Bytes below which an amount is told in megabytes.
LITTLE_BYTES = 10**8

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """What a run takes of each image; `shapes` are those of the layers' outputs, or about so where they are not
    exact, and None where only a worker can tell.
    """

    options: FeatureOptions
    shapes: tuple[Shape, ...] | None
    exact: bool = True
    even_large: bool = False

    @property
    def size_bytes(self) -> int | None:
        """Bytes of one image's features, uncompressed."""
        return None if self.shapes is None else bytes_per_image(self.options, self.shapes)

    def chunk_size(self, largest: int) -> int:
        """Images of one chunk, so that a part stays below PART_BYTES where one image does."""
        return max(1, min(largest, PART_BYTES // self.size_bytes)) if self.size_bytes else largest


def choose_features(
    mode: Mode, given: Mapping[str, Any], model: ModelSpec, layers: Sequence[LayerLike] | None
) -> FeatureRequest | None:
    """What was asked for, of a network with these layers (None: nobody here knows them); None in another mode."""
    if mode is not Mode.EXTRACT_FEATURES:
        strange = [name for name in OPTIONS if given.get(name)]
        if strange:
            raise UsageError(f"{mode.value} takes no {' and no '.join(strange)}; {Mode.EXTRACT_FEATURES.value} does")
        return None
    if given.get("with_top") and not model.include_top:
        raise UsageError(f"{model.name} without its top has no classes that with_top could add")
    names = _names(given.get("features"), model, layers)
    options = FeatureOptions(
        layers=names,
        pool=choose(Pool, given.get("pool") or Pool.NONE, "pool"),
        dtype=choose(FeatureType, given.get("dtype") or FeatureType.FLOAT32, "dtype"),
        with_top=bool(given.get("with_top")),
    )
    found = pick_layers(layers, names, model.name) if layers else ()
    exact = all(layer.shape is not None for layer in found)
    return FeatureRequest(options, _shapes(found, model), exact, bool(given.get("even_large")))


def check_size(
    request: FeatureRequest, keys: pa.Table, is_all: bool, head: Callable[[Sequence[str]], list[int]]
) -> None:
    """UsageError where features would be larger than the images, unless a person wants that.

    `keys` are the first of the run, or all, with their sizes where a listing told them; `head` asks for some.
    """
    each = request.size_bytes
    if request.even_large or each is None:
        return
    sizes = [size for size in keys["size"].to_pylist() if size is not None]
    if not sizes:
        sizes = head(keys["key"].to_pylist()[:: max(1, keys.num_rows // SAMPLED)])
    if each * len(sizes) <= sum(sizes):
        return
    image = sum(sizes) / len(sizes)
    count, images = (keys.num_rows, f"these {keys.num_rows:,}") if is_all else (MILLION, "a million")
    raise UsageError(
        f"features of {', '.join(request.options.layers)} are {'' if request.exact else 'about '}{each:,} bytes for "
        f"each image, {_amount(each * count)} "
        f"for {images} images, whose files are {_amount(image * count)}: {_smaller(request, each)}"
        f"{CONSENT} takes them as they are"
    )


def _names(given: str | Sequence[str] | None, model: ModelSpec, layers: Sequence[LayerLike] | None) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else list(given or ())
    names = tuple(word.strip() for word in words)
    if not names:
        return _default(model, layers)
    if "" in names or len(set(names)) < len(names):
        raise UsageError(f"features {', '.join(names)!r}: write each layer once, with commas between them")
    if layers is not None:
        pick_layers(layers, names, model.name)
    return names


def _default(model: ModelSpec, layers: Sequence[LayerLike] | None) -> tuple[str, ...]:
    """The layer that the classifier reads; a network without one ends with its features."""
    if not model.include_top:
        return (layers[-1].name,) if layers else ()
    name = features_layer(layers or ())
    if name is None:
        raise UsageError(f"which layer of {model.name} comes before its classifier is not known: name it, --features …")
    return (name,)


def _shapes(layers: Sequence[LayerLike], model: ModelSpec) -> tuple[Shape, ...] | None:
    """The shapes of what these layers put out, or about these; None where one of them, or a side, is not known."""
    found = [layer.shape or estimate_shape(model, layer.name) for layer in layers]
    if not found or any(shape is None or None in shape for shape in found):
        return None
    return tuple(cast("Shape", shape) for shape in found)


def _smaller(request: FeatureRequest, each: int) -> str:
    """What would help, in words."""
    pooled = FeatureRequest(request.options.model_copy(update={"pool": Pool.AVG}), request.shapes).size_bytes
    if pooled is None or pooled >= each:
        return ""
    return f"--pool avg or max leaves {pooled:,} bytes of them, "


def _amount(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= LITTLE_BYTES else f"{size_bytes / 1e6:,.1f} MB"
