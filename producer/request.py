"""Request: from a mode, a source and some words to a RunRequest, refused where it cannot be."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from os import PathLike
from typing import TypedDict, TypeVar

from config.errors import UsageError
from config.messages import Engine, Mode, Precision, Weights
from config.models import ModelSpec, find_model
from config.settings import Settings
from producer.enqueuer import TASKS
from producer.source import Source, parse_source
from producer.weights import choose_weights

DEFAULT_MODEL = "efficientnet_lite0"
DEFAULT_TOP_K = 5

Choice = TypeVar("Choice", bound=StrEnum)


class Options(TypedDict, total=False):
    """What a run can be asked for beside mode and source; everything has a default.

    `bucket` is where the bare keys of a manifest lie. `weights` is `imagenet`, `random`, or an s3:// or file://
    URI; None stands for the model's own. `output` is the base of results; None for settings.output, or else
    pixelherd-results/ in the bucket of the images.
    """

    model: str
    weights: str | None
    output: str | None
    top_k: int
    engine: str
    precision: str
    bucket: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a person asks for, checked as far as no server is needed."""

    mode: Mode
    source: Source
    model: ModelSpec
    weights: Weights
    output: str | None
    top_k: int
    engine: Engine
    precision: Precision
    queue: str


def make_request(
    mode: str,
    source: str | PathLike[str] | Sequence[str],
    settings: Settings,
    queue: str,
    options: Options,
) -> RunRequest:
    """Everything about a run that can be refused without a server, and the weights."""
    chosen = _choose(Mode, mode, "mode")
    if chosen not in TASKS:
        raise UsageError(f"{chosen.value} cannot be run yet; there is {', '.join(TASKS)}")
    model = find_model(options.get("model", DEFAULT_MODEL))
    top_k = options.get("top_k", DEFAULT_TOP_K)
    if not 1 <= top_k <= model.classes:
        raise UsageError(f"top_k is {top_k}; {model.name} has 1 to {model.classes} classes to name")
    return RunRequest(
        mode=chosen,
        source=parse_source(source, options.get("bucket")),
        model=model,
        weights=choose_weights(options.get("weights"), model, settings),
        output=options.get("output") or settings.output,
        top_k=top_k,
        engine=_choose(Engine, options.get("engine", Engine.AUTO), "engine"),
        precision=_choose(Precision, options.get("precision", Precision.AUTO), "precision"),
        queue=queue,
    )


def _choose(among: type[Choice], name: str, what: str) -> Choice:
    names = [choice.value for choice in among]
    if name in names:
        return among(name)
    near = difflib.get_close_matches(name, names, n=1)
    offer = f"did you mean {near[0]}?" if near else f"there is {', '.join(names)}"
    raise UsageError(f"unknown {what} {name!r}: {offer}")
