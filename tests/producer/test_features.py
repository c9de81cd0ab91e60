"""Features at submit: layers by name, what is too large refused with its size, and what a person sees of the rows."""

import csv
import io
import json

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import producer
from config.features import feature_columns
from config.layers import features_layer, known_shapes, layers_of
from config.messages import FeatureOptions, FeatureType, Job, Mode, Pool
from config.models import MODELS
from config.results import row_schema
from producer.features import PART_BYTES
from producer.request import Options
from producer.tables import make_console, print_rows, write_rows
from tests.producer.stand_in import StandIn, queued_chunks, take_chunks

#: Bytes of VGG-19's block4_pool for one image: 14 × 14 × 512 in float32.
BLOCK4_POOL = 401_408


def submit(source, settings, **options):
    return producer.submit("extract_features", source, settings=settings, **{"weights": "random", **options})


# --- Names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": "block4_pol,fc2"}, "vgg19 has no layer 'block4_pol': did you mean block4_pool"),
        ({"features": ["fc2", "xyz"]}, "vgg19 has no layer 'xyz': `pixelherd layers vgg19` lists them"),
        ({"features": "fc2,fc2"}, "write each layer once"),
        ({"features": "fc2,"}, "write each layer once"),
        ({"features": "fc2", "pool": "average"}, "unknown pool 'average': did you mean avg"),
        ({"features": "fc2", "dtype": "float61"}, "unknown dtype 'float61': did you mean float16"),
        ({"features": "fc2", "with_top": 1_001}, "1 to 1000 classes"),
        ({"features": "fc2", "with_top": 5, "include_top": False}, "without its top has no"),
    ],
)
def test_what_makes_no_sense_is_refused_without_a_server(options, said, settings):
    with pytest.raises(producer.UsageError, match=said):
        submit("s3://no-such-bucket/", settings, model="vgg19", **options)


def test_other_modes_take_no_features(settings):
    with pytest.raises(producer.UsageError, match="classify takes no features and no pool; extract_features does"):
        producer.submit("classify", "s3://bucket/", settings=settings, features="fc2", pool="avg")


@pytest.mark.parametrize(
    ("model", "layer"),
    {
        "vgg19": "fc2",
        "resnet50": "avg_pool",
        "inception_v3": "avg_pool",
        "efficientnet_lite0": "avg_pool",
        "mobilenet": "global_average_pooling2d",
        "mobilenet_v3_small": "activation_18",
        "convnext_tiny": "convnext_tiny_head_layernorm",
    }.items(),
)
def test_unasked_the_layer_before_the_classifier_is_taken(model, layer):
    assert features_layer(layers_of(model)) == layer


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_such_a_layer(model):
    taken = features_layer(layers_of(model))
    assert taken is not None
    found = {layer.name: layer for layer in layers_of(model)}[taken]
    assert found.kind != "Dropout"
    assert 500 < found.elements < 5_000
    assert found.elements == found.shape[-1]


# --- Size ----------------------------------------------------------------------------------------------------------


def test_features_larger_than_the_images_need_a_word(settings, bucket, store, put_keys):
    """VGG-19's block4_pool is 401,408 bytes for each image; here these have 113,000."""
    put_keys([f"in/{number}.jpg" for number in range(10)], b"x" * 113_000)
    asked = {"model": "vgg19", "features": "block4_pool"}
    with pytest.raises(producer.UsageError) as refused:
        submit(f"s3://{bucket}/in/", settings, **asked)
    assert str(refused.value) == (
        "features of block4_pool are 401,408 bytes for each image, 4.0 MB for these 10 images, whose files are 1.1 MB: "
        "--pool avg or max leaves 2,048 bytes of them, --yes (even_large=True in Python) takes them as they are"
    )
    assert [found for page in obstore.list(store, "pixelherd-results/") for found in page] == []
    assert queued_chunks(settings) == []
    for enough in ({"even_large": True}, {"pool": "max"}, {"pool": "avg", "dtype": "float16"}):
        run = submit(f"s3://{bucket}/in/", settings, **asked, **enough)
        assert run.wait_enqueued(30)
    job = run.record.job
    assert job.features == FeatureOptions(layers=("block4_pool",), pool=Pool.AVG, dtype=FeatureType.FLOAT16)
    assert (job.mode, {chunk.job for chunk in take_chunks(settings)} >= {job}) == (Mode.EXTRACT_FEATURES, True)


def test_of_a_long_listing_a_million_is_told(settings, bucket, put_keys):
    put_keys([f"in/{number}.jpg" for number in range(70)], b"x" * 1_000)
    with pytest.raises(producer.UsageError, match=r"401\.4 GB for a million images, whose files are 1\.0 GB"):
        submit(
            f"s3://{bucket}/in/",
            settings.model_copy(update={"chunk_size": 1}),
            model="vgg19",
            features="block4_pool",
        )


def test_keys_without_sizes_are_asked_for_them(settings, bucket, put_keys):
    put_keys(["small.jpg"], b"x" * 9_000)
    put_keys(["large.jpg"], b"x" * 900_000)
    uris = {name: f"s3://{bucket}/{name}.jpg" for name in ("small", "large", "gone")}
    with pytest.raises(producer.UsageError, match="16,384 bytes for each image"):
        submit([uris["small"], uris["gone"]], settings, model="vgg19", features="fc2")
    for source in ([uris["small"], uris["large"]], [uris["gone"]]):
        assert submit(source, settings, model="vgg19", features="fc2").wait_enqueued(30)


def test_a_changed_input_changes_what_is_too_large(settings, bucket, put_keys):
    """mixed10 of 150 × 150 pixels is smaller than of 299 × 299, but only a worker knows it exactly."""
    put_keys(["a.jpg"], b"x" * 300_000)
    asked: Options = {"model": "inception_v3", "features": "mixed10"}
    with pytest.raises(producer.UsageError, match=" 524,288 bytes"):
        submit(f"s3://{bucket}/", settings, **asked)
    asked |= {"include_top": False}
    with pytest.raises(producer.UsageError, match=r"about 1,\d\d\d,\d\d\d bytes"):
        submit(f"s3://{bucket}/", settings, **asked, input_shape=(450, 450))
    run = submit(f"s3://{bucket}/", settings, **asked, input_shape="150x150")
    assert run.wait_enqueued(30)
    ends = []
    for end in ({}, {"pooling": "max"}):
        pooled = submit(f"s3://{bucket}/", settings, model="vgg19", include_top=False, **end)
        assert pooled.wait_enqueued(30)
        ends += pooled.record.job.features.layers
    assert ends == ["block5_pool", "global_max_pooling2d"]
    assert known_shapes(run.record.job) is None
    assert run.results().column_names == row_schema(run.record.job).names


def test_large_features_make_small_chunks(settings, bucket, put_keys):
    put_keys([f"in/{number:04d}.jpg" for number in range(200)], b"x" * 10)
    sizes = {}
    for features in ("block1_conv1", "block4_pool", "fc2"):
        run = submit(f"s3://{bucket}/in/", settings, model="vgg19", features=features, even_large=True)
        assert run.wait_enqueued(60)
        shapes = known_shapes(run.record.job)
        assert shapes is not None
        [column] = feature_columns(run.record.job.features, shapes)
        chunks = take_chunks(settings)
        assert sum(len(chunk.keys) for chunk in chunks) == 200
        assert run.record.chunk_size * column.size_bytes <= PART_BYTES
        sizes[features] = max(len(chunk.keys) for chunk in chunks)
    assert sizes == {"block1_conv1": 5, "block4_pool": 16, "fc2": 16}


# --- Rows ----------------------------------------------------------------------------------------------------------

JOB = Job(
    run_id="r-1",
    mode=Mode.EXTRACT_FEATURES,
    model="efficientnet_lite0",
    output="s3://out/",
    features=FeatureOptions(layers=("conv", "pool"), with_top=True),
)


@pytest.fixture
def rows():
    """One image with features, one without."""
    good = {"key": "a.jpg", "status": "ok", "class_name": "cat", "score": 0.5}
    tensors = {"features_conv": [float(number) for number in range(12)], "features_pool": [0.5, 0.25]}
    bad = {"key": "b.jpg", "status": "missing", "error": "gone"}
    return pa.Table.from_pylist([good | tensors, bad], row_schema(JOB, [(2, 3, 2), (2,)]))


def test_a_person_sees_the_shape_and_the_first_numbers(rows):
    file = io.StringIO()
    print_rows(rows, make_console(file), 5)
    header, _, good, bad, more = (line.split() for line in file.getvalue().splitlines())
    assert header == ["key", "class", "score", "features_conv", "features_pool"]
    assert " ".join(good) == "a.jpg cat 0.50 2 × 3 × 2: 0 1 2 3 … 2: 0.5 0.25"
    assert " ".join(bad) == "b.jpg missing: gone"
    assert more == ["and", "3", "more", "rows"]


def test_a_program_gets_lists_of_the_shape(rows, tmp_path):
    for form in ("json", "csv", "parquet"):
        write_rows(rows, form, tmp_path / form, 2)
    good, bad = map(json.loads, (tmp_path / "json").read_text().splitlines())
    assert good["features_conv"] == np.arange(12.0).reshape(2, 3, 2).tolist()
    assert list(good) == rows.column_names
    assert (bad["features_conv"], bad["features_pool"]) == (None, None)
    cells = list(csv.DictReader((tmp_path / "csv").read_text().splitlines()))
    assert json.loads(cells[0]["features_conv"]) == good["features_conv"]
    assert cells[1]["features_conv"] == ""
    assert pq.read_table(tmp_path / "parquet").equals(rows)


def test_a_column_becomes_an_array_with_nan_where_an_image_failed(rows):
    array = producer.features_array(rows["features_conv"])
    assert (array.shape, array.dtype) == ((2, 2, 3, 2), np.dtype(np.float32))
    assert array[0].ravel().tolist() == list(range(12))
    assert np.isnan(array[1]).all()
    assert producer.features_array(rows.slice(0, 1)["features_pool"]).tolist() == [[0.5, 0.25]]
    assert producer.features_array(rows.slice(0, 0)["features_conv"]).shape == (0, 2, 3, 2)
    assert np.isnan(producer.features_array(rows.slice(1)["features_conv"])).all()


def test_an_empty_run_has_the_columns_and_few_rows_cost_few_reads(settings, bucket, put_keys):
    put_keys([f"in/{number:03d}.jpg" for number in range(40)], b"x" * 9_000)
    run = submit(f"s3://{bucket}/in/", settings, features="avg_pool")
    schema = row_schema(run.record.job, [(1280,)])
    assert run.results().schema.equals(schema)
    with StandIn(settings):
        run.wait(timeout_s=60)
    assert run.results().schema.equals(schema)
    first = run.results(limit=3)
    assert first["key"].to_pylist() == ["in/000.jpg", "in/001.jpg", "in/002.jpg"]
    assert run.results(["key"], limit=20).num_rows == 20
    assert run.count_rows() == 40
    assert "features  of avg_pool, pool none, float32" in run.report().to_text()
