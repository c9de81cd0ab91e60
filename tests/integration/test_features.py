"""Features through a real worker, from Python, from the command and from plain Celery: what Keras itself puts out."""

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from obstore.store import S3Store

import producer
from config.clients import make_celery
from config.messages import Chunk, TaskName
from config.models import MODELS
from config.results import ChunkSummary, RunAddress, provenance_of
from config.settings import CONFIG_VARIABLE, Settings
from producer import cli
from producer.local_stack import write_config
from producer.processes import Child
from producer.request import Options
from tests.images import noise
from tests.integration.test_worker import wait_for
from workers.ahead import Budget
from workers.cnn.loader import end_at, load_network
from workers.cnn.recipe import LocalWeights
from workers.decode import DecodeLimits, decode_images
from workers.sample import Sample

pytestmark = pytest.mark.timeout(900)

SPEC = MODELS["efficientnet_lite0"]

#: A pooling layer and a convolution, not in the network's order, and small enough for a test's disk.
LAYERS = ("avg_pool", "block6a_project_conv")

IMAGES = 5
BROKEN, GONE = "in/broken.jpg", "in/gone.jpg"

#: Seconds for a run of a few images, a network's conversion and a busy machine included.
PATIENCE_S = 400.0

Outputs = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def wanted() -> Outputs:
    """Each layer, and the scores, of every image, from Keras itself."""
    bodies = [Sample(number, str(number), body=noise(number, 300, 260)) for number in range(IMAGES)]
    decoded = decode_images(bodies, SPEC, DecodeLimits.of(Settings(), 1), Budget(10**9))
    pixels = np.stack([sample.pixels for sample in decoded if sample.pixels is not None]).astype(np.float32)
    network = end_at(load_network(SPEC, LocalWeights(kind="packaged")), (*LAYERS, "predictions"))
    outputs = network((pixels - 127.0) / 128, training=False)
    return {name: np.asarray(output) for name, output in zip((*LAYERS, "predictions"), outputs, strict=True)}


@pytest.fixture
def photos(store: S3Store, bucket: str) -> str:
    for number in range(IMAGES):
        obstore.put(store, f"in/{number}.jpg", noise(number, 300, 260))
    obstore.put(store, BROKEN, b"\xff\xd8 no")
    return f"s3://{bucket}/in/"


def check(array: NDArray[Any], wanted: NDArray[np.float32], tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance * float(wanted.std()))


def test_from_python(
    photos: str, bucket: str, settings: Settings, wanted: Outputs, worker: Callable[..., Child]
) -> None:
    """Several layers and the classes from one pass; the same model with other layers; a handful."""
    worker()
    asked: Options = {"features": LAYERS, "with_top": 2, "even_large": True}
    run = producer.submit("extract_features", photos, settings=settings, **asked)
    other = producer.submit("extract_features", photos, settings=settings, pool="flat", dtype="float16")
    classes = producer.submit("classify", photos, settings=settings, top_k=2)
    for each in (run, other, classes):
        assert each.wait(timeout_s=PATIENCE_S).counts == {"ok": IMAGES, "undecodable": 1}

    table = run.results()
    good = table.filter(pc.equal(table["status"], "ok"))
    assert table.num_rows == IMAGES + 1
    for layer in LAYERS:
        column = good[f"features_{layer}"]
        assert column.combine_chunks().to_numpy_ndarray().shape == wanted[layer].shape
        check(producer.features_array(column), wanted[layer])
        assert table[f"features_{layer}"].null_count == 1
    classified = classes.results()
    ranked = [[found["class_id"] for found in top or ()] for top in table["top_k"].to_pylist()]
    assert ranked == [[found["class_id"] for found in top or ()] for top in classified["top_k"].to_pylist()]
    assert table["class_name"].equals(classified["class_name"])
    check(good["score"].to_numpy(), classified["score"].drop_null().to_numpy())
    assert [len(top) for top in good["top_k"].to_pylist()] == [2] * IMAGES
    check(good["score"].to_numpy(), wanted["predictions"].max(axis=1))

    footer = provenance_of(table.schema)
    assert (footer["mode"], footer["layers"], footer["pool"], footer["dtype"]) == (
        "extract_features",
        ",".join(LAYERS),
        "none",
        "float32",
    )
    pooled = other.results()
    assert pooled.schema.names[-1] == "features"
    assert pooled.schema.field("features").type == pa.fixed_shape_tensor(pa.float16(), (1280,))
    check(producer.features_array(pooled["features"].drop_null()), wanted["avg_pool"], 1e-3)

    keys = [f"s3://{bucket}/{key}" for key in ("in/3.jpg", GONE, "in/0.jpg", "in/3.jpg")]
    asked = {"features": LAYERS, "with_top": 1, "pool": "max"}  # the network of the first run
    handful = producer.extract_features(keys, settings=settings, timeout_s=PATIENCE_S, **asked)
    assert handful["status"].to_pylist() == ["ok", "missing", "ok", "ok"]
    maxima = wanted[LAYERS[1]].max(axis=(1, 2))
    array = producer.features_array(handful[f"features_{LAYERS[1]}"])
    check(array[[0, 2, 3]], maxima[[3, 0, 3]])
    assert np.isnan(array[1]).all()


def test_from_the_command(
    photos: str,
    settings: Settings,
    wanted: Outputs,
    worker: Callable[..., Child],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(write_config(settings, tmp_path / "cli.toml")))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def pixelherd(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pixelherd", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    submit = ("submit", "extract_features", photos, "--features", ",".join(LAYERS))
    code, _, error = pixelherd(*submit)
    assert (code, "--pool avg or max leaves" in error, "--yes" in error) == (2, True, True)
    worker()
    code, out, _ = pixelherd(*submit, "--pool", "avg", "--dtype", "float16", "--with-top", "1", "--yes", "--json")
    assert code == 3
    run_id = json.loads(out)["run_id"]
    code, out, _ = pixelherd("results", run_id)
    assert (code, "features_avg_pool" in out, "1280: " in out) == (0, True, True)
    rows = [json.loads(line) for line in pixelherd("results", run_id, "--json")[1].splitlines()]
    assert [row["key"] for row in rows] == [*(f"in/{number}.jpg" for number in range(IMAGES)), BROKEN]
    check(np.array([row[f"features_{LAYERS[1]}"] for row in rows[:-1]]), wanted[LAYERS[1]].mean(axis=(1, 2)), 1e-3)
    assert rows[-1]["features_avg_pool"] is None


def test_from_plain_celery(
    photos: str, settings: Settings, store: S3Store, bucket: str, wanted: Outputs, worker: Callable[..., Child]
) -> None:
    """A dictionary is enough; another mode's task refuses it, and of a layer that is not there a failure tells."""
    child = worker()
    job: dict[str, Any] = {
        "run_id": "my-run-1",
        "mode": "extract_features",
        "model": "efficientnet_lite0",
        "features": {"layers": ["avg_pool"]},
        "output": f"s3://{bucket}/out/",
    }
    keys = [f"in/{number}.jpg" for number in range(IMAGES)]
    message = {"version": 1, "job": job, "bucket": bucket, "keys": keys}
    app = make_celery(settings)
    app.send_task(TaskName.CLASSIFY, kwargs={"chunk": message}, queue=settings.queue)
    misspelt = {**message, "job": job | {"run_id": "my-run-2", "features": {"layers": ["avg_pol"]}}}
    for body in (misspelt, message):
        app.send_task("pixelherd.extract_features", kwargs={"chunk": body}, queue=settings.queue)

    run = RunAddress.of(job["output"], job["run_id"])
    chunk = Chunk.from_message(message)
    summary = ChunkSummary.from_json(wait_for(store, run.summary_key(chunk.chunk_id), child))
    assert summary.counts == {"ok": IMAGES}
    rows = pq.read_table(BytesIO(bytes(obstore.get(store, run.part_key(chunk.chunk_id)).bytes())))
    check(producer.features_array(rows["features"]), wanted["avg_pool"])
    other = RunAddress.of(job["output"], "my-run-2")
    failure = wait_for(store, other.failure_key(chunk.chunk_id), child).decode()
    assert "has no layer 'avg_pol': did you mean avg_pool" in failure
    assert "this task does no job of mode extract_features" in child.program.log.read_text()
