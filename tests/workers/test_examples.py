"""What an epoch sees: each image once, in an order that the seed says, with bounded memory and the right class."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from config.errors import UsageError
from config.messages import Job
from config.steps import TrainingStep, first_step
from config.trained import IMAGES_SCHEMA, Use
from config.training import Epoch, TrainingOptions
from workers.examples import Drawing, StoredExamples
from workers.session import to_features
from workers.trainset import TrainSet, sort_out

CHUNKS, ROWS, WIDTH = 7, 40, 4


def stored() -> TrainSet:
    """CHUNKS chunks of ROWS images, of two classes, some of them without a result."""
    rows = []
    for number in range(CHUNKS * ROWS):
        use = Use.LEFT_OUT if number % 10 == 0 else Use.VALIDATE if number % 10 == 1 else Use.TRAIN
        label = ("cat", "dog")[number % 2]
        rows.append((str(number), label, use.value, None, f"chunk-{number // ROWS}"))
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), IMAGES_SCHEMA, strict=True)
    ]
    return TrainSet.of(pa.table(columns, IMAGES_SCHEMA))


def reader(reads: list[str]) -> Callable[[str], tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Features that say which image they are of."""

    def read(chunk_id: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        reads.append(chunk_id)
        numbers = int(chunk_id.partition("-")[2]) * ROWS + np.arange(ROWS)
        present = numbers % 10 != 0
        return np.repeat(numbers[present, np.newaxis], WIDTH, axis=1).astype(np.float32), present

    return read


@pytest.mark.parametrize("limit", [2**20, 3 * ROWS * WIDTH * 4, 1], ids=["in memory", "three chunks", "one chunk"])
def test_each_image_is_seen_once_in_an_order_of_its_own(limit: int) -> None:
    reads: list[str] = []
    examples = StoredExamples(stored(), reader(reads), Drawing(seed=7, batch_size=16), limit)
    orders = []
    for epoch in (Epoch(1, 1), Epoch(1, 1), Epoch(1, 2)):
        batches = list(examples.train(epoch))
        assert {len(classes) for _, classes in batches[:-1]} == {16}
        seen = np.concatenate([features[:, 0] for features, _ in batches]).astype(int)
        assert np.array_equal(np.concatenate([classes for _, classes in batches]), seen % 2)
        orders.append(seen.tolist())
    wanted = [number for number in range(CHUNKS * ROWS) if number % 10 > 1]
    assert sorted(orders[0]) == wanted
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != wanted
    validating = np.concatenate([features[:, 0] for features, _ in examples.validate()]).astype(int).tolist()
    assert validating == [number for number in range(CHUNKS * ROWS) if number % 10 == 1]
    assert len(reads) == CHUNKS if limit == 2**20 else len(reads) > CHUNKS


def test_rows_without_features_are_passed_over() -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3))
    values = pa.array([[1.0] * 6, None, [3.0] * 6], kind.storage_type)
    table = pa.table({"features": pa.ExtensionArray.from_storage(kind, values)})
    features, present = to_features(table, "features")
    assert features.shape == (2, 2, 3)
    assert features[:, 0, 0].tolist() == [1.0, 3.0]
    assert present.tolist() == [True, False, True]
    nothing, absent = to_features(table, "features_frozen")
    assert (len(nothing), absent.tolist()) == (0, [False] * 3)


def step(**options: Any) -> TrainingStep:
    training = TrainingOptions(**options)
    job = Job(run_id="r", mode="fine_tune", model="efficientnet_lite0", output="s3://b/", training=training)
    return first_step(job, "b", 8)


def rows(*found: tuple[str, str, str | None, str | None]) -> pa.Table:
    names = ("key", "status", "error", "label")
    columns = {
        name: pa.array(column, pa.string()) for name, column in zip(names, zip(*found, strict=True), strict=True)
    }
    return pa.table({**columns, "chunk_id": pa.array(["c"] * len(found))})


GOOD = [(f"{label}/{number}.jpg", "ok", None, label) for label in ("cat", "dog") for number in range(10)]


def test_every_image_is_used_or_has_a_reason() -> None:
    table = sort_out(rows(*GOOD, ("cat/x.jpg", "empty", "0 bytes", "cat"), ("y.jpg", "ok", None, None)), step())
    images = TrainSet.of(table)
    assert images.classes == ("cat", "dog")
    assert images.counts()[Use.LEFT_OUT] == 2
    reasons = [row["reason"] for row in table.to_pylist() if row["use"] == "left_out"]
    assert reasons == ["empty: 0 bytes", "no label"]
    assert images.numbers().tolist() == [0] * 10 + [1] * 10 + [-1, -1]
    for label in ("cat", "dog"):
        uses = {row["use"] for row in table.to_pylist() if row["label"] == label}
        assert {"train", "validate"} <= uses


def test_a_prefix_of_validation_images_validates() -> None:
    held_out = [(f"val/{label}/{number}.jpg", "ok", None, label) for label in ("cat", "dog") for number in range(2)]
    table = sort_out(rows(*GOOD, *held_out), step(validation="s3://b/val/"))
    assert TrainSet.of(table).counts() == {Use.TRAIN: 20, Use.VALIDATE: 4}
    stranger = ("val/cow/1.jpg", "ok", None, "cow")
    with pytest.raises(UsageError, match="'cow' is to be validated with"):
        sort_out(rows(*GOOD, stranger), step(validation="s3://b/val/"))


def test_a_class_whose_images_are_all_torn_is_named() -> None:
    torn = [(f"cow/{number}.jpg", "undecodable", "torn", "cow") for number in range(3)]
    with pytest.raises(UsageError, match="class 'cow' has 0 images that can be read"):
        sort_out(rows(*GOOD, *torn), step())
