"""Request: from a mode, a source and some words to a RunRequest, refused where it cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from config.classes import Label
from config.errors import UsageError
from config.messages import LABELLED, Engine, Mode, Precision, Weights
from config.models import ModelSpec
from config.settings import Settings
from config.training import TrainingOptions
from producer.choice import choose
from producer.enqueuer import TASKS
from producer.features import PART_BYTES, FeatureRequest, choose_features
from producer.labels import FOLDER, LabelRule, parse_labels
from producer.models import ModelOptions, choose_model
from producer.source import Source, parse_source
from producer.training import choose_training, frozen_bytes
from producer.validation import Validation, find_validation

DEFAULT_TOP_K = 5


class Options(ModelOptions, total=False):
    """What a run can be asked for beside mode and source; everything has a default.

    `bucket` is where the bare keys of a manifest lie. `output` is the base of results; None for settings.output, or
    else pixelherd-results/ in the bucket of the images. `top_k` is 5, or all where there are fewer classes. `labels`
    says where labels come from (producer/labels.py); None stands for the folder, where the mode takes labels.

    Of extract_features alone: `features` (names of layers; None: the one before the classifier), `pool` (none, avg,
    max or flat), `dtype` (float32 or float16), `with_top` (so many best classes too), and `even_large` (features may
    be larger than the images).

    Of fine_tune alone: `unfreeze` (names of layers or patterns, config/groups.py; None: the new head alone trains),
    `epochs` (of the head, or of the head and of both), `learning_rate` (of the last phase, or of each),
    `training_batch`, `validation` (a share of the images, or the s3:// prefix of others), `augment` (flip, crop,
    color; of the second phase, and with `augment_head` of the first) and `seed`.
    """

    output: str | None
    top_k: int | None
    engine: str
    precision: str
    bucket: str | None
    labels: str | None
    features: str | Sequence[str] | None
    pool: str | None
    dtype: str | None
    with_top: int | None
    even_large: bool
    unfreeze: str | Sequence[str] | None
    epochs: str | int | Sequence[int] | None
    learning_rate: str | float | Sequence[float] | None
    training_batch: int | None
    validation: str | float | None
    augment: str | Sequence[str] | None
    augment_head: bool
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a person asks for, checked as far as no server is needed."""

    mode: Mode
    source: Source
    model: ModelSpec
    weights: Weights
    classes: Sequence[Label]
    output: str | None
    top_k: int
    engine: Engine
    precision: Precision
    queue: str
    labels: LabelRule | None = None
    features: FeatureRequest | None = None
    training: TrainingOptions | None = None
    validation: Validation | None = None
    #: Bytes that the rows of a training hold for an image, about; None where that is not known.
    stored_bytes: int | None = None

    def chunk_size(self, largest: int) -> int:
        """Images of one chunk, so that a part with its features is not too large."""
        if self.features is not None:
            return self.features.chunk_size(largest)
        return max(1, min(largest, PART_BYTES // self.stored_bytes)) if self.stored_bytes else largest


def make_request(
    mode: str,
    source: str | PathLike[str] | Sequence[str],
    settings: Settings,
    queue: str,
    options: Options,
) -> RunRequest:
    """Everything about a run that can be refused without a server, and the weights."""
    chosen = choose(Mode, mode, "mode")
    if chosen not in TASKS:
        raise UsageError(f"{chosen.value} cannot be run yet; there is {', '.join(TASKS)}")
    found = parse_source(source, options.get("bucket"))
    asked = choose_model(options, settings)
    model = asked.spec
    if not model.include_top and chosen not in (Mode.EXTRACT_FEATURES, Mode.FINE_TUNE):
        raise UsageError(f"{model.name} without its top has no classes: only {Mode.EXTRACT_FEATURES.value} can use it")
    wanted = options.get("with_top") or options.get("top_k")
    top_k = min(DEFAULT_TOP_K, model.classes) if wanted is None else wanted
    if not 1 <= top_k <= model.classes:
        raise UsageError(f"top_k is {top_k}; {model.name} has 1 to {model.classes} classes to name")
    features = choose_features(chosen, options, model, asked.layers)
    training = choose_training(chosen, options, model, asked.layers)
    labels = _choose_labels(chosen, options.get("labels"), found)
    return RunRequest(
        mode=chosen,
        source=found,
        model=model,
        weights=asked.weights,
        classes=asked.classes,
        output=options.get("output") or settings.output,
        top_k=top_k,
        engine=choose(Engine, options.get("engine", Engine.AUTO), "engine"),
        precision=choose(Precision, options.get("precision", Precision.AUTO), "precision"),
        queue=queue,
        features=features,
        labels=labels,
        training=training,
        validation=find_validation(training, found, labels.text if labels else None),
        stored_bytes=frozen_bytes(training, asked.layers),
    )


def _choose_labels(mode: Mode, text: str | None, source: Source) -> LabelRule | None:
    if mode in LABELLED:
        return parse_labels(text or FOLDER, source)
    if text:
        raise UsageError(f"{mode.value} takes no labels; {' and '.join(other.value for other in LABELLED)} do")
    return None
