"""Own networks and changed ones through real runs: rows say what Keras computes by hand, on both engines."""

import json
import os
import secrets
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
import obstore
import pytest
from keras import layers
from numpy.typing import NDArray
from obstore.store import S3Store
from PIL import Image

import producer
from config.clients import make_s3, make_store
from config.own_model import OwnClass, OwnModel, OwnScaling
from config.results import provenance_of
from config.settings import CONFIG_VARIABLE, Settings
from producer.local_stack import running_worker, write_config
from tests.images import encoded
from tests.workers.cnn.conftest import KERAS_ARRAY_WARNING

pytestmark = pytest.mark.timeout(600)

#: Seconds for a run, conversions and a busy machine included.
PATIENCE_S = 240.0

NAMES = ("bird", "dog", "vehicle")
CLASSES = ("bird", OwnClass(id="n02084071", name="dog"), "vehicle")
MEAN, STD = (90.0, 100.0, 130.0), (40.0, 60.0, 80.0)
OWN = OwnModel(
    classes=CLASSES,
    input_size=(24, 32),
    resize="squash",
    resize_filter="bicubic",
    color_order="BGR",
    scaling=OwnScaling(mean=MEAN, std=STD),
)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """Three classes from pictures of 24 × 32; it was never trained, and tells pictures apart all the same."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((24, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.BatchNormalization(name="bn")(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(x))


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    """Key -> picture; in colour and grey, lying and standing, JPEG and PNG; in order, below a folder for each class."""
    found = {}
    for number in range(6):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        picture = coarse.resize((90, 70) if number % 2 else (60, 80), Image.Resampling.BICUBIC)
        form = "PNG" if number < 3 else "JPEG"
        found[f"photos/{NAMES[number % 3]}/{number}.{form.lower()}"] = encoded(
            picture.convert("L") if number == 2 else picture, form
        )
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Herd:
    """A worker that takes chunks, and a bucket with the photos and the network, beside which its JSON lies."""

    settings: Settings
    store: S3Store
    directory: Path
    bucket: str

    @property
    def source(self) -> str:
        return f"s3://{self.bucket}/photos/"

    def model(self, name: str = "My birds") -> str:
        return f"s3://{self.bucket}/models/{name}.keras"

    def put(self, name: str, file: bytes, beside: OwnModel | bytes | None = OWN) -> None:
        """Store a file, and a JSON beside it."""
        obstore.put(self.store, f"models/{name}.keras", file)
        if beside is not None:
            body = beside if isinstance(beside, bytes) else beside.to_json()
            obstore.put(self.store, f"models/{name}.json", body)

    def run(self, mode: str = "classify", source: str | None = None, **options: Any) -> producer.Run:
        """A run over the photos, as a person's program starts it."""
        settings = self.settings.model_copy(update={"chunk_size": 2})
        return producer.submit(mode, source or self.source, settings=settings, **options)


@pytest.fixture(scope="module")
def herd(
    servers: dict[str, Any],
    cache_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    network: keras.Model,
    photos: dict[str, bytes],
) -> Iterator[Herd]:
    """One worker for all tests of this module: to start one takes longer than what it has to do here."""
    directory = tmp_path_factory.mktemp("own")
    settings = Settings(**servers, queue="test-own-models", cache_dir=cache_dir, worker_processes=1)
    bucket = f"own-{secrets.token_hex(4)}"
    with closing(make_s3(settings)) as s3:
        s3.create_bucket(Bucket=bucket)
    store = make_store(settings, bucket)
    for key, body in photos.items():
        obstore.put(store, key, body)
    found = Herd(settings, store, directory, bucket)
    found.put("My birds", saved(network, directory))
    with running_worker(settings, directory):
        yield found


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a test are not remembered among the person's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def saved(network: keras.Model, directory: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", KERAS_ARRAY_WARNING, DeprecationWarning)
        network.save(directory / "network.keras")
    return (directory / "network.keras").read_bytes()


def read_by_keras(photos: dict[str, bytes], size: tuple[int, int], interpolation: str) -> NDArray[np.float32]:
    """The photos as the paper read them: squashed to the input's size."""
    read = [
        keras.utils.load_img(BytesIO(body), target_size=size, interpolation=interpolation) for body in photos.values()
    ]
    return np.stack([np.asarray(image, np.float32) for image in read])


def typed(herd: Herd, *words: str) -> subprocess.CompletedProcess[str]:
    """What a person types, and what it says."""
    config = write_config(herd.settings, herd.directory / "cli.toml")
    env = os.environ | {CONFIG_VARIABLE: str(config), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "producer.cli", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_an_own_model_classifies_as_keras_does(herd: Herd, network: keras.Model, photos: dict[str, bytes]) -> None:
    """From Python with OpenVINO, from the command with TensorFlow."""
    images = read_by_keras(photos, (24, 32), "bicubic")
    wanted = network.predict((images[..., ::-1] - MEAN) / STD, verbose=0)
    assert np.ptp(wanted, axis=0).min() > 0.01  # or nothing would be compared

    uri = herd.model()
    first = herd.run(model=uri, engine="openvino", precision="float32")
    assert first.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
    words = ("submit", "classify", herd.source, "--model", uri, "--engine", "tensorflow", "--precision", "float32")
    done = typed(herd, *words, "--json")
    assert done.returncode == 0, done.stderr
    address = str(first.address).replace(first.run_id, json.loads(done.stdout)["run_id"])
    second = producer.open_run(address, settings=herd.settings)

    for run, engine in ((first, "openvino"), (second, "tensorflow")):
        table = run.results()
        footer = provenance_of(table.schema)
        assert (footer["engine"], footer["model"], footer["weights"]) == (engine, "my_birds", uri)
        assert footer["preprocess_digest"] == OWN.to_spec("my_birds").preprocess_digest
        for row, scores in zip(table.to_pylist(), wanted, strict=True):
            ours = {each["class_name"]: each["score"] for each in row["top_k"]}
            np.testing.assert_allclose([ours["bird"], ours["dog"], ours["vehicle"]], scores, rtol=0, atol=1e-4)
            assert (row["class_id"], row["class_name"]) == OWN.labels[int(np.argmax(scores))]

    judged = herd.run("evaluate", model=uri, engine="openvino", precision="float32")
    assert judged.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
    for row, scores in zip(judged.results().to_pylist(), wanted, strict=True):
        number = NAMES.index(row["key"].split("/")[1])
        assert row["label"] == OWN.labels[number].class_id
        assert row["rank"] == 1 + list(np.argsort(-scores)).index(number)
    obstore.put(herd.store, "cats/cat/0.png", next(iter(photos.values())))
    with pytest.raises(producer.UsageError, match="cat"):
        herd.run("evaluate", source=f"s3://{herd.bucket}/cats/", model=uri)


def test_a_run_that_no_worker_can_do_ends_with_the_reason(herd: Herd, network: keras.Model) -> None:
    """A layer of Keras's own that would read a file of the worker: only Keras sees what is wrong with it."""
    hostile = BytesIO()
    with zipfile.ZipFile(BytesIO(saved(network, herd.directory))) as old, zipfile.ZipFile(hostile, "w") as new:
        for name in old.namelist():
            new.writestr(name, with_vocabulary(old.read(name)) if name == "config.json" else old.read(name))
    herd.put("hostile", hostile.getvalue())
    run = herd.run(model=herd.model("hostile"))
    assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.FAILED
    failures = run.report().failures
    assert [failure.tries for failure in failures] == [1, 1, 1]
    for failure in failures:
        assert failure.error.startswith(f"weights {herd.model('hostile')}: ")
        assert "cannot be loaded as hostile" in failure.error


def with_vocabulary(config: bytes) -> str:
    network = json.loads(config)
    for layer in network["config"]["layers"]:
        if layer["class_name"] == "BatchNormalization":
            layer["class_name"] = "StringLookup"
            layer["config"] = {"name": "bn", "vocabulary": "/etc/passwd"}
    return json.dumps(network)


def test_what_the_command_refuses_is_one_line_and_exit_code_2(herd: Herd, network: keras.Model) -> None:
    """And where the JSON alone is missing, one to fill in stands below the line."""
    inputs = keras.Input((24, 32, 3))
    code = layers.Flatten()(layers.Lambda(lambda x: 2 * x, name="twice")(inputs))
    herd.put("code", saved(keras.Model(inputs, layers.Dense(3)(code)), herd.directory))
    herd.put(
        "typo", saved(network, herd.directory), OWN.to_json().replace(b"squash", b"squish").replace(b"BGR", b"GBR")
    )
    herd.put("bare", saved(network, herd.directory), None)
    for words, said in (
        (["--model", herd.model("code")], "layer 'twice' holds Python code"),
        (["--model", herd.model("typo")], "resize: Input should be 'crop' or 'squash'; color_order: Input should be"),
        (["--model", "inception_v3", "--input-shape", "150x150"], "`input_shape` should be (299, 299, 3)"),
    ):
        done = typed(herd, "submit", "classify", herd.source, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert said in done.stderr

    done = typed(herd, "submit", "classify", herd.source, "--model", herd.model("bare"))
    assert (done.returncode, done.stdout) == (2, "")
    sentence, _, template = done.stderr.partition("\n")
    assert sentence.endswith(f"put it at s3://{herd.bucket}/models/bare.json")
    filled = OwnModel.from_json(template.encode())
    assert (filled.input_size, filled.count) == ((24, 32), 3)


def test_features_of_an_own_model_and_of_one_without_its_top(
    herd: Herd, network: keras.Model, photos: dict[str, bytes]
) -> None:
    """A layer of the own one, and MobileNet of 64 × 96 that ends with pooling, as Keras builds and computes them."""
    keras.utils.set_random_seed(0)  # that of `--weights random`
    topless = keras.applications.MobileNet(weights=None, input_shape=(64, 96, 3), include_top=False, pooling="avg")
    pooled = keras.Model(network.inputs, network.get_layer("pool").output)
    preprocessed = keras.applications.mobilenet.preprocess_input(read_by_keras(photos, (64, 96), "bilinear"))
    wanted = {
        "mobilenet": topless.predict(preprocessed, verbose=0),
        herd.model(): pooled.predict((read_by_keras(photos, (24, 32), "bicubic")[..., ::-1] - MEAN) / STD, verbose=0),
    }
    changes: dict[str, Any] = {"input_shape": "64x96", "include_top": False, "pooling": "avg", "resize": "squash"}
    asked: dict[str, dict[str, Any]] = {
        "mobilenet": {"weights": "random", "even_large": True, **changes},
        herd.model(): {"features": "pool"},
    }
    runs = {
        model: herd.run("extract_features", model=model, precision="float32", **options)
        for model, options in asked.items()
    }
    for model, run in runs.items():
        assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
        assert run.record.job.spec is not None
        table = run.results()
        assert provenance_of(table.schema)["preprocess_digest"] == run.record.job.spec.preprocess_digest
        features = np.array(table["features"].to_pylist())
        apart = np.abs(wanted[model] - wanted[model].mean(axis=0)).max()
        np.testing.assert_allclose(features, wanted[model], rtol=0, atol=apart / 1_000)
