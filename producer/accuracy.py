"""Accuracy: from a survey of labelled rows to shares with intervals, classes, confusions and calibration."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from config.results import Tally
from producer.survey import CONFIDENCE_BINS, Survey

#: Standard deviations of a 95 % interval.
Z_95 = 1.959963984540054

#: Confusions and classes that a report names one by one.
PAIRS_SHOWN = 10
CLASSES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, and what that says of all images like these."""

    hits: int
    images: int

    @property
    def value(self) -> float | None:
        """Between 0 and 1; None of no images."""
        return self.hits / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % score interval of E. B. Wilson, Probable Inference, JASA 22 (1927) 209-212.

        It holds where the usual ± fails: few images, and shares near 0 or 1.
        """
        if not self.images:
            return 0.0, 1.0
        share, weight = self.hits / self.images, Z_95**2 / self.images
        middle = share + weight / 2
        spread = Z_95 * math.sqrt(share * (1 - share) / self.images + weight / (4 * self.images))
        low, high = ((middle + sign * spread) / (1 + weight) for sign in (-1, 1))
        return (0.0 if self.hits == 0 else low), (1.0 if self.hits == self.images else high)

    def __str__(self) -> str:
        if self.value is None:
            return "no images"
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "value": self.value, "low": self.interval[0], "high": self.interval[1]}


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """How one class fared."""

    class_id: str
    class_name: str
    top1: Share
    top5: Share


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often one class was taken for another."""

    label: str
    taken_for: str
    share: Share


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """Images whose best score is in a range: its mean, and how often the best class was right."""

    low: float
    high: float
    images: int
    accuracy: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What labelled images say of a model. Accuracies are shares of the images that it saw.

    An image with an error says something of the image and not of the model, so it is counted apart, by `failed`;
    `top1_of_all` is the accuracy with those as wrong. Classes are in the order of their ids.
    """

    top1: Share
    top5: Share
    top1_of_all: Share
    failed: Mapping[str, int]
    unlabelled: int
    unknown: Mapping[str, int]
    classes: tuple[ClassAccuracy, ...]
    confusions: tuple[Confusion, ...]
    pairs: Mapping[tuple[str, str], int]
    names: Mapping[str, str]
    bins: tuple[ConfidenceBin, ...]
    outside: int

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error: mean distance of accuracy from confidence, each bin by its images.

        C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On Calibration of Modern Neural Networks, ICML 2017, with 15
        bins. None where the scores are no probabilities.
        """
        images = sum(found.images for found in self.bins)
        if not images or self.outside:
            return None
        return sum(found.images * abs(found.accuracy - found.confidence) for found in self.bins) / images

    def name(self, class_id: str) -> str:
        """The name of a class, or its id where it has none."""
        return self.names.get(class_id, class_id)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; of the confusions, all that happened."""
        return {
            "top1": self.top1.to_json(),
            "top5": self.top5.to_json(),
            "top1_errors_as_wrong": self.top1_of_all.to_json(),
            "failed": dict(self.failed),
            "unlabelled": self.unlabelled,
            "unknown_labels": dict(self.unknown),
            "calibration_error": self.calibration_error,
            "classes": [
                {**asdict(found), "top1": found.top1.to_json(), "top5": found.top5.to_json()} for found in self.classes
            ],
            "confusions": [
                {"label": found.label, "taken_for": found.taken_for, "images": found.share.hits}
                for found in self.confusions
            ],
            "reliability": [asdict(found) for found in self.bins],
        }


def evaluate_survey(survey: Survey, names: Mapping[str, str]) -> Evaluation:
    """What the rows of an evaluation say; `names` are those of the model's classes, as far as they are known."""
    names = {**survey.names, **names}
    images: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for (label, best), count in survey.pairs.items():
        images[label] += count
        right[label] += count if label == best else 0
    seen, hits = images.total(), right.total()
    return Evaluation(
        top1=Share(hits, seen),
        top5=Share(survey.top5.total(), seen),
        top1_of_all=Share(hits, seen + survey.failed.total()),
        failed=dict(survey.failed),
        unlabelled=survey.unlabelled.total(),
        unknown=dict(survey.unknown.most_common()),
        classes=tuple(
            ClassAccuracy(label, names.get(label, label), Share(right[label], count), Share(survey.top5[label], count))
            for label, count in sorted(images.items())
        ),
        confusions=tuple(
            Confusion(label, best, Share(count, images[label]))
            for (label, best), count in sorted(survey.pairs.items(), key=lambda pair: (-pair[1], pair[0]))
            if label != best
        ),
        pairs=survey.pairs,
        names=names,
        bins=_bins(survey),
        outside=survey.outside,
    )


def shares_of(tally: Mapping[Tally, int]) -> tuple[Share, Share]:
    """Top-1 and top-5 from the counts of summaries, without a look at any row."""
    ranked = tally.get(Tally.RANKED, 0)
    return Share(tally.get(Tally.TOP1, 0), ranked), Share(tally.get(Tally.TOP5, 0), ranked)


def _bins(survey: Survey) -> tuple[ConfidenceBin, ...]:
    return tuple(
        ConfidenceBin(
            low=number / CONFIDENCE_BINS,
            high=(number + 1) / CONFIDENCE_BINS,
            images=int(images),
            accuracy=right / images if images else 0.0,
            confidence=scores / images if images else 0.0,
        )
        for number, (images, right, scores) in enumerate(survey.binned.tolist())
    )
