"""Parts of features: one schema in all of a run, whatever became of an image, and no more of them than fit."""

import warnings
from pathlib import Path

import keras
import numpy as np
import obstore
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

import producer
from config.errors import ContractError
from config.messages import Chunk, FeatureOptions, FeatureType, Job, Mode
from config.own_model import OwnModel
from config.results import provenance_of, row_schema, with_provenance
from config.settings import Settings
from tests.images import noise
from tests.producer.stand_in import take_chunks
from tests.workers.cnn.conftest import KERAS_ARRAY_WARNING
from workers.describe import extract_features
from workers.pipeline import DEATHS_BEFORE_NO_NETWORK, MAX_FEATURE_BYTES, check_room, process_chunk, write_poison
from workers.sample import Sample
from workers.workbench import Workbench
from workers.write import rows_table, write_part

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a network that no table lists; of its convolution not even its file knows the height and width."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="classes")(x))
    file = tmp_path_factory.mktemp("own") / "own.keras"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", KERAS_ARRAY_WARNING, DeprecationWarning)
        network.save(file)
    file.with_suffix(".json").write_bytes(OwnModel(classes=("a", "b"), input_size=(16, 16), scaling="tf").to_json())
    return file.as_uri()


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "efficientnet_lite0": {"avg_pool": (1280,)},
    "own": {"conv": (14, 14, 4), "pool": (4,)},
}


@pytest.mark.parametrize("model", SHAPES)
def test_poison_among_features_leaves_the_schema_as_it_is(
    model: str, own_model: str, settings: Settings, store: S3Store, bucket: str
) -> None:
    for number in range(3):
        obstore.put(store, f"in/{number}.jpg", noise(number))
    run = producer.submit(
        "extract_features",
        f"s3://{bucket}/in/",
        settings=settings.model_copy(update={"chunk_size": 1}),
        model=own_model if model == "own" else model,
        features=list(SHAPES[model]),
        even_large=True,
    )
    assert run.wait_enqueued(60)
    poison, good, late_poison = take_chunks(settings)
    bench = Workbench(settings)
    write_poison(poison, bench, 2)
    process_chunk(good, bench, extract_features, lambda: True)

    schema = row_schema(run.record.job, list(SHAPES[model].values()))
    parts = [run.address.part_key(chunk.chunk_id) for chunk in (poison, good)]
    for key in parts:
        part = pq.read_table(pa.BufferReader(obstore.get(store, key).bytes()))
        assert part.schema.equals(schema)
        footer = provenance_of(part.schema)
        assert (footer["layers"], footer["pool"], footer["dtype"]) == (",".join(SHAPES[model]), "none", "float32")
    write_poison(late_poison, bench, DEATHS_BEFORE_NO_NETWORK + 1)
    rows = run.results()
    assert rows.schema.equals(schema)
    assert rows["status"].to_pylist() == ["poison", "ok", "poison"]
    for name in schema.names[-len(SHAPES[model]) :]:
        assert [value is None for value in rows[name].to_pylist()] == [True, False, True]


def test_a_chunk_takes_no_more_than_fits() -> None:
    options = FeatureOptions(layers=("block2a_expand_conv",))
    job = Job(run_id="r-1", mode=Mode.EXTRACT_FEATURES, model="m", output="s3://o/", features=options)
    shape = (112, 112, 96)
    most = MAX_FEATURE_BYTES // (112 * 112 * 96 * 4)
    chunk = Chunk(job=job, bucket="b", keys=tuple(map(str, range(most))))
    check_room(chunk, [shape])
    check_room(chunk.model_copy(update={"keys": ("one",)}), [(10_000, 10_000, 100)])
    with pytest.raises(ContractError, match=f"send {most} keys at most"):
        check_room(chunk.model_copy(update={"keys": (*chunk.keys, "one more")}), [shape])


@pytest.mark.parametrize("dtype", FeatureType)
def test_features_come_back_from_parquet(dtype: FeatureType, settings: Settings, bucket: str, store: S3Store) -> None:
    """As arrays of their shape; to a reader that knows no tensors, as lists."""
    options = FeatureOptions(layers=("a",), dtype=dtype)
    job = Job(run_id="r-1", mode=Mode.EXTRACT_FEATURES, model="m", output=f"s3://{bucket}/", features=options)
    schema = with_provenance(row_schema(job, [(2, 3)]), {"run_id": "r-1"})
    arrays = [np.arange(6, dtype=dtype.value).reshape(2, 3) / 8 + number for number in range(2)]
    samples = [Sample(2, "c", result={"features": arrays[1]}), Sample(0, "a", result={"features": arrays[0]})]
    table = rows_table([*samples, Sample(1, "b")], schema)
    size = write_part(store, "part.parquet", table)
    body = bytes(obstore.get(store, "part.parquet").bytes())
    read = pq.read_table(pa.BufferReader(body))
    assert (size, read.equals(table), read.schema.equals(schema, check_metadata=True)) == (len(body), True, True)
    assert read.schema.field("features").type == pa.fixed_shape_tensor(pa.from_numpy_dtype(dtype.value), (2, 3))
    array = producer.features_array(read["features"])
    assert array.dtype == dtype.value
    np.testing.assert_array_equal(array, [arrays[0], np.full((2, 3), np.nan), arrays[1]])


def test_readers_that_know_no_tensors_see_lists(tmp_path: Path) -> None:
    options = FeatureOptions(layers=("a",))
    job = Job(run_id="r-1", mode=Mode.EXTRACT_FEATURES, model="m", output="s3://o/", features=options)
    samples = [Sample(0, "a.jpg", result={"features": np.ones((2, 3), np.float32)}), Sample(1, "b.jpg")]
    pq.write_table(rows_table(samples, row_schema(job, [(2, 3)])), tmp_path / "part.parquet", store_schema=False)
    read = ds.dataset(tmp_path).to_table()
    assert pa.types.is_list(read.schema.field("features").type)
    assert read["features"].to_pylist() == [[1.0] * 6, None]
