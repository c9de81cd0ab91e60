"""Training: from words to what a run of fine_tune trains, refused where layers or figures cannot be."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from config.errors import UsageError
from config.groups import trained_layers
from config.layers import FLOAT32_BYTES, LayerLike
from config.messages import Mode, describe
from config.models import ModelSpec
from config.results import split_uri
from config.training import Augmentation, TrainingOptions, check_classes
from producer.choice import choose

#: What of the options belongs to fine_tune alone.
OPTIONS = (
    "unfreeze",
    "epochs",
    "learning_rate",
    "training_batch",
    "validation",
    "augment",
    "augment_head",
    "seed",
)

#: Epochs where nobody says: of the head alone, and of both phases where layers are named.
EPOCHS = {False: (5, 0), True: (5, 10)}


def choose_training(
    mode: Mode, given: Mapping[str, Any], model: ModelSpec, layers: Sequence[LayerLike] | None
) -> TrainingOptions | None:
    """What was asked for, of a network with these layers (None: nobody here knows them); None in another mode."""
    if mode is not Mode.FINE_TUNE:
        strange = [name for name in OPTIONS if given.get(name)]
        if strange:
            raise UsageError(f"{mode.value} takes no {' and no '.join(strange)}; {Mode.FINE_TUNE.value} does")
        return None
    unfreeze = _words(given.get("unfreeze"))
    if layers is not None:
        try:
            trained_layers(layers, unfreeze)
        except UsageError as error:
            raise UsageError(f"{model.name}: {error}") from error
    values: dict[str, Any] = {
        "unfreeze": unfreeze,
        "epochs": _epochs(given.get("epochs"), bool(unfreeze)),
        "augment": tuple(choose(Augmentation, word, "augmentation") for word in _words(given.get("augment"))),
        "augment_head": bool(given.get("augment_head")),
    }
    if (share := given.get("validation")) is not None:
        values["validation"] = _validation(share)
    if (rate := given.get("learning_rate")) is not None:
        values["learning_rates"] = _rates(rate, bool(unfreeze))
    for name, field in (("training_batch", "batch_size"), ("seed", "seed")):
        if given.get(name) is not None:
            values[field] = given[name]
    try:
        return TrainingOptions(**values)
    except ValidationError as error:
        raise UsageError(describe(error).replace("message: ", "").replace("Value error, ", "")) from error


def check_images(first: pa.Table, options: TrainingOptions) -> None:
    """Refuse what cannot be learnt, where `first` are all images of a run with their labels.

    What is not readable, a worker finds; it looks once more, before it trains.
    """
    labelled = first.filter(pc.is_valid(first["label"]))
    counts = _count(labelled)
    if isinstance(options.validation, float):
        check_classes(counts)
        return
    inside = pc.starts_with(labelled["key"], split_uri(options.validation)[1])
    check_classes(_count(labelled.filter(pc.invert(inside))), _count(labelled.filter(inside)))


def frozen_bytes(options: TrainingOptions | None, layers: Sequence[LayerLike] | None) -> int | None:
    """About the bytes that a run stores of an image for its second phase; None where there is no such thing."""
    if options is None or layers is None or not options.stores_frozen:
        return None
    names = [layer.name for layer in layers]
    first = names.index(trained_layers(layers, options.unfreeze)[0])
    shape = layers[max(0, first - 1)].shape
    sides = [side for side in shape or (None,) if side is not None]
    return None if len(sides) < len(shape or (None,)) else FLOAT32_BYTES * math.prod(sides)


def _count(rows: pa.Table) -> Counter[str]:
    return Counter(rows["label"].to_pylist())


def _words(given: str | Sequence[str] | None) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else list(given or ())
    return tuple(word.strip() for word in words if word.strip())


def _epochs(given: Any, both: bool) -> tuple[Any, ...]:
    """One number for the head alone, or for both phases; `5,10` for each."""
    if given is None:
        return EPOCHS[both]
    numbers = _numbers(given, int, "epochs", "5 or 5,10")
    if len(numbers) == 1:
        return (numbers[0], numbers[0] if both else 0)
    return numbers


def _rates(given: Any, both: bool) -> tuple[Any, ...]:
    """One rate is that of the second phase, where there is one; `0.001,0.0001` is for each."""
    numbers = _numbers(given, float, "learning_rate", "0.0001 or 0.001,0.0001")
    first, second = TrainingOptions.model_fields["learning_rates"].default
    if len(numbers) == 1:
        return (first, numbers[0]) if both else (numbers[0], second)
    return numbers


def _numbers(given: Any, kind: type, what: str, example: str) -> tuple[Any, ...]:
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    try:
        numbers = tuple(kind(word) for word in words)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} {given!r}: write {example}") from error
    if len(numbers) not in (1, 2):
        raise UsageError(f"{what} {given!r}: write {example}")
    return numbers


def _validation(given: str | float) -> str | float:
    """A share of the images, or a prefix with its slash."""
    if isinstance(given, str) and given.startswith("s3://"):
        return given.rstrip("/") + "/"
    try:
        return float(given)
    except ValueError as error:
        raise UsageError(f"validation {given!r}: write a share such as 0.2, or s3://bucket/prefix/") from error
