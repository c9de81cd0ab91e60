"""Accuracies from rows: intervals of the literature, counts of a direct computation, sums over parts."""

import math

import numpy as np
import pyarrow as pa
import pytest

from config.messages import Mode
from config.results import Tally, row_schema
from producer.accuracy import Share, evaluate_survey, shares_of
from producer.survey import CONFIDENCE_BINS, UNKNOWN_LABELS, Survey
from tests.producer.pages import HOSTILE, job_of, labelled_rows


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_an_interval_is_wilson_s(hits, images, low, high):
    assert Share(hits, images).interval == pytest.approx((low, high), abs=5e-5)
    mirrored = Share(images - hits, images).interval
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_of_no_images_nothing_is_known():
    assert (Share(0, 0).value, Share(0, 0).interval, str(Share(0, 0))) == (None, (0.0, 1.0), "no images")


def counted(rows, parts=1):
    """The survey of rows that lie in so many parts."""
    survey = Survey()
    size = math.ceil(rows.num_rows / parts)
    for start in range(0, rows.num_rows, size):
        survey.add(rows.slice(start, size))
    return survey


@pytest.mark.parametrize("parts", [1, 7])
def test_counts_are_those_of_a_direct_computation(parts):
    rows = labelled_rows(20, 500)
    found = evaluate_survey(counted(rows, parts), {"c0019": "the nineteenth"})
    ranked = [row for row in rows.to_pylist() if row["rank"] is not None]
    right = [row for row in ranked if row["label"] == row["class_id"]]
    assert (found.top1, found.top1_of_all) == (Share(len(right), 500), Share(len(right), 501))
    assert found.top5 == Share(sum(row["rank"] <= 5 for row in ranked), 500)
    assert (found.failed, found.unlabelled, found.unknown) == ({"undecodable": 1}, 1, {"<i>cta</i>": 1})
    for fared in found.classes:
        own = [row for row in ranked if row["label"] == fared.class_id]
        assert fared.top1 == Share(sum(row["rank"] == 1 for row in own), len(own))
        assert fared.top5 == Share(sum(row["rank"] <= 5 for row in own), len(own))
    worst = found.confusions[0]
    confused = [row for row in ranked if (row["label"], row["class_id"]) == (worst.label, worst.taken_for)]
    assert worst.share.hits == len(confused) == max(one.share.hits for one in found.confusions)
    assert sum(one.share.hits for one in found.confusions) == 500 - len(right)
    assert found.name("c0019") == "the nineteenth"
    assert found.name("c0003") == "kind 3"


def test_the_calibration_error_is_that_of_guo():
    rows = labelled_rows(5, 2_000).to_pylist()
    scores = np.array([row["score"] for row in rows if row["rank"] is not None])
    right = np.array([row["rank"] == 1 for row in rows if row["rank"] is not None])
    error = 0.0
    for number in range(CONFIDENCE_BINS):
        inside = (scores > number / CONFIDENCE_BINS) & (scores <= (number + 1) / CONFIDENCE_BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - scores[inside].mean())
    found = evaluate_survey(counted(labelled_rows(5, 2_000), 3), {})
    assert found.calibration_error == pytest.approx(error, abs=1e-6)
    assert sum(one.images for one in found.bins) == 2_000


def rows_of(**columns):
    schema = row_schema(job_of(Mode.EVALUATE))
    length = len(next(iter(columns.values())))
    given = {"key": [str(number) for number in range(length)], "status": ["ok"] * length, **columns}
    return pa.table(
        [pa.array(given.get(name, [None] * length), schema.field(name).type) for name in schema.names], schema
    )


def test_scores_that_are_no_shares_have_no_calibration():
    found = evaluate_survey(counted(rows_of(label=["a", "a"], class_id=["a", "b"], rank=[1, 2], score=[7.5, 0.5])), {})
    assert (found.calibration_error, found.outside, found.top1) == (None, 1, Share(1, 2))


def test_a_sure_score_belongs_to_the_last_bin():
    found = evaluate_survey(counted(rows_of(label=["a", "a"], class_id=["a"] * 2, rank=[1, 1], score=[1.0, 0.0])), {})
    assert [one.images for one in found.bins] == [1, *[0] * (CONFIDENCE_BINS - 2), 1]


def test_labels_without_a_class_do_not_fill_the_memory():
    labels = [f"x{number}" for number in range(3 * UNKNOWN_LABELS)]
    survey = counted(rows_of(label=labels, class_id=["a"] * len(labels), score=[0.5] * len(labels)), 30)
    assert len(survey.unknown) == UNKNOWN_LABELS + 1
    assert survey.unknown.total() == len(labels)


def test_nothing_was_ranked():
    found = evaluate_survey(counted(rows_of(label=[None], class_id=["a"], score=[0.5])), {})
    assert (found.top1.value, found.classes, found.calibration_error, found.unlabelled) == (None, (), None, 1)
    assert found.to_json()["top1"] == {"hits": 0, "images": 0, "value": None, "low": 0.0, "high": 1.0}


def test_a_share_of_summaries_is_that_of_the_rows():
    assert shares_of({Tally.RANKED: 10, Tally.TOP1: 4, Tally.TOP5: 7}) == (Share(4, 10), Share(7, 10))
    assert shares_of({}) == (Share(0, 0), Share(0, 0))


def test_of_each_kind_of_error_the_first_keys_are_kept():
    survey = counted(labelled_rows(3, 10))
    assert survey.examples == {"undecodable": [(HOSTILE, "<b>no image</b>")]}
