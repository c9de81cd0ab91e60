"""Labels on their way to a row: with their key, whatever becomes of the image, and counted from what was written."""

import numpy as np
import pyarrow as pa

from config.classes import Label
from config.messages import Job, Mode
from config.results import row_schema
from workers.describe import evaluate_images
from workers.errors import ImagePoison
from workers.pipeline import with_labels
from workers.sample import Sample
from workers.write import count_labels, rows_table

JOB = Job(run_id="run-1", mode=Mode.EVALUATE, model="efficientnet_lite0", output="s3://bucket/out", top_k=2)
CLASSES = [Label(f"c{number}", f"kind {number}") for number in range(8)]
GIVEN = ("c2", "kind 1", "7", None, "no class", "c3", None)


def table() -> pa.Table:
    """Seven samples: five that the network saw, whose scores fall with the class's number, and two poisonous ones."""
    samples = list(with_labels([Sample(number, f"k{number}") for number in range(7)], GIVEN))
    scores = np.tile(np.linspace(0.3, 0.05, 8, dtype=np.float32), (5, 1))
    for sample, columns in zip(samples[:5], evaluate_images(JOB, CLASSES)((scores,), samples[:5]), strict=True):
        sample.result = columns
    for sample in samples[5:]:
        sample.failed(ImagePoison("2 processes ended"))
    return rows_table(samples, row_schema(JOB))


def test_a_label_is_ranked_where_it_can_be_and_kept_where_it_cannot():
    rows = table().to_pylist()
    assert [(row["label"], row["rank"]) for row in rows] == [
        ("c2", 3),
        ("c1", 2),
        ("c7", 8),
        (None, None),
        ("no class", None),
        ("c3", None),
        (None, None),
    ]
    assert [row["class_id"] for row in rows] == ["c0"] * 5 + [None] * 2
    assert [row["status"] for row in rows] == ["ok"] * 5 + ["poison"] * 2


def test_counts_come_from_the_rows():
    assert count_labels(table()) == {"ranked": 3, "top1": 0, "top5": 2, "unknown": 1, "failed": 1}
    assert count_labels(table().slice(0, 0)) == {"ranked": 0, "top1": 0, "top5": 0, "unknown": 0, "failed": 0}
    assert count_labels(table().drop_columns(["label", "rank"])) == {}


def test_a_run_without_labels_has_none():
    assert [sample.label for sample in with_labels([Sample(0, "k")], None)] == [None]
