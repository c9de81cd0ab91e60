"""What a person asks for of a model becomes a spec, or a sentence; own models come from S3 and from files, unloaded."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from config.errors import UsageError
from config.messages import Weights
from config.models import MODELS
from config.own_model import OwnModel
from config.settings import Settings
from producer.models import ModelOptions, choose_model
from producer.request import Options, make_request
from producer.run import make_job
from producer.weights import hash_bytes

DECLARED: dict[str, Any] = {
    "pixelherd_model": 1,
    "classes": ["bird", "dog", "vehicle"],
    "input_size": [24, 32],
    "resize": "squash",
    "color_order": "BGR",
    "scaling": {"mean": [100, 110, 120], "std": [50, 60, 70]},
}


def layer(kind: str, name: str, *, build: list[int | None] | None = None, **config: Any) -> dict[str, Any]:
    """A layer as Keras writes it, as far as matters here."""
    built = {} if build is None else {"build_config": {"input_shape": build}}
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, **built}


def keras_file(*more: dict[str, Any], size: tuple[int | None, ...] = (24, 32, 3), units: int = 3) -> bytes:
    """A .keras file of a small network, without its weights: only workers load those."""
    layers = [
        layer("InputLayer", "in", batch_shape=[None, *size]),
        layer("Flatten", "flat"),
        *more,
        layer("Dense", "top", build=[None, 2304], units=units),
    ]
    network = {"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(zipfile.ZipInfo("config.json"), json.dumps(network))  # without a time: always the same bytes
    return body.getvalue()


@pytest.fixture
def put(store: S3Store, bucket: str) -> Any:
    """Store a .keras file and a JSON (None: none) beside it, and give the file's address."""

    def put(file: bytes, declared: object = DECLARED, name: str = "models/My birds") -> str:
        obstore.put(store, f"{name}.keras", file)
        if declared is not None:
            body = declared if isinstance(declared, str) else json.dumps(declared)
            obstore.put(store, f"{name}.json", body.encode())
        return f"s3://{bucket}/{name}.keras"

    return put


def test_an_own_model_is_what_its_json_says(settings: Settings, put: Any, tmp_path: Path) -> None:
    """In S3 or in a file; its spec and both digests go into the job, and nothing has to be named twice."""
    uri = put(keras_file())
    (tmp_path / "My birds.keras").write_bytes(keras_file())
    (tmp_path / "My birds.json").write_text(json.dumps(DECLARED))
    own = OwnModel.from_json(json.dumps(DECLARED).encode())
    for address in (uri, (tmp_path / "My birds.keras").as_uri()):
        chosen = choose_model({"model": address}, settings)
        assert chosen.spec == own.to_spec("my_birds")
        assert chosen.weights == Weights(
            uri=address, sha256=hash_bytes([keras_file()]), json_sha256=hash_bytes([json.dumps(DECLARED).encode()])
        )
        assert [label.class_name for label in chosen.classes] == ["bird", "dog", "vehicle"]
        assert chosen.layers is not None
        assert [(each.name, each.shape) for each in chosen.layers] == [
            ("in", (24, 32, 3)),
            ("flat", (2304,)),
            ("top", (3,)),
        ]

    request = make_request("classify", ["s3://b/a.jpg"], settings, "q", {"model": uri, "resize": "crop"})
    assert request.top_k == 3
    job = make_job(request, "b")
    assert (job.model, job.spec) == ("my_birds", own.to_spec("my_birds").model_copy(update={"resize": "crop"}))
    assert job.run_id.count("-classify-my-birds-") == 1
    assert job.preprocess_digest != own.to_spec("my_birds").preprocess_digest


def test_a_file_without_a_json_is_refused_with_one_to_fill_in(settings: Settings, put: Any) -> None:
    uri = put(keras_file(), None)
    with pytest.raises(UsageError) as refused:
        choose_model({"model": uri}, settings)
    sentence, _, template = str(refused.value).partition("\n")
    assert sentence.startswith(f"{uri} has no JSON beside it")
    assert sentence.endswith(f"put it at {uri.removesuffix('.keras')}.json")
    filled = template.replace("name of class 1", "dog")
    assert choose_model({"model": put(keras_file(), filled)}, settings).spec.input_shape == (24, 32, 3)


LAMBDA = layer("Lambda", "twice", function={"class_name": "__lambda__", "config": {"code": "4wEA"}})

#: What is refused, the options beside the model, and what is said of it.
REFUSED: dict[str, tuple[bytes, object, dict[str, Any], str]] = {
    "bad JSON": (keras_file(), DECLARED | {"resize": "cut", "exif": 1}, {}, "resize: Input should .*; exif: Input"),
    "code": (keras_file(LAMBDA), DECLARED, {}, r"is refused: layer 'twice' holds Python code"),
    "code, no JSON": (keras_file(LAMBDA), None, {}, r"is refused: layer 'twice' holds Python code"),
    "classes": (keras_file(units=5), DECLARED, {}, "puts out 5 numbers for an image, classes names 3"),
    "size": (keras_file(size=(8, None, 3)), DECLARED, {}, "takes 8 × any × 3, input_size says 24 × 32 × 3"),
    "channels": (keras_file(size=(24, 32, 1)), DECLARED, {}, "takes 24 × 32 × 1, and images are height × width × 3"),
    "no network": (b"no zip", DECLARED, {}, r"is refused: it is no \.keras file"),
    "weights": (keras_file(), DECLARED, {"weights": "random"}, "brings its own network and weights: weights cannot"),
    "changes": (keras_file(), DECLARED, {"include_top": False, "classes": 2}, "classes and include_top cannot be"),
    "top": (keras_file(), DECLARED, {"top_k": 4}, "top_k is 4; my_birds has 1 to 3 classes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_worker_could_use_is_refused_in_one_line(what: str, settings: Settings, put: Any) -> None:
    file, declared, options, said = REFUSED[what]
    asked: Any = {"model": put(file, declared), **options}
    with pytest.raises(UsageError, match=said) as refused:
        make_request("classify", ["s3://b/a.jpg"], settings, "q", asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://{bucket}/none.keras", "there is no s3://"),
        ("file:///none.keras", "there is no file:///none.keras"),
        ("s3://{bucket}x/none.keras", "the bucket does not exist|there is no s3://"),
        ("s3://{bucket}/model.h5", r"is no model; write s3://… or file:///… of a \.keras file"),
        ("birds.keras", "'birds.keras' is no model; write s3://"),
        ("https://host/birds.keras", "is no model; write s3://"),
    ],
)
def test_what_is_not_there_is_refused(uri: str, said: str, settings: Settings, bucket: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_model({"model": uri.format(bucket=bucket)}, settings)


def test_a_known_model_unchanged_travels_by_its_name_alone(settings: Settings) -> None:
    same: ModelOptions = {"input_shape": "224x224x3", "include_top": True, "classes": 1_000, "resize": "crop"}
    chosen = choose_model({"model": "vgg19", "weights": "random", "pooling": None, **same}, settings)
    assert chosen.spec == MODELS["vgg19"]
    request = make_request("classify", ["s3://b/a.jpg"], settings, "q", {"model": "vgg19", "weights": "random"})
    assert make_job(request, "b").spec is None


def test_a_known_model_changed_travels_as_its_spec(settings: Settings) -> None:
    options: Options = {"model": "inception_v3", "weights": "random", "input_shape": "150x150", "resize": "squash"}
    headless: Options = {**options, "include_top": False, "pooling": "avg"}
    chosen = choose_model(headless, settings)
    spec = chosen.spec
    assert (spec.input_shape, spec.include_top, spec.pooling, spec.resize) == ((150, 150, 3), False, "avg", "squash")
    assert (spec.top1, spec.parameters) == (None, None)
    assert not chosen.classes
    assert chosen.layers is not None
    assert [each.name for each in chosen.layers][-2:] == ["mixed10", "global_average_pooling2d"]
    request = make_request("classify", ["s3://b/a.jpg"], settings, "q", {**options, "classes": 7})
    job = make_job(request, "b")
    assert job.spec == request.model
    assert (request.model.classes, request.top_k) == (7, 5)
    assert job.preprocess_digest == request.model.preprocess_digest != MODELS["inception_v3"].preprocess_digest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_shape": "150x150", "weights": "imagenet"}, r"`input_shape` should be \(299, 299, 3\)"),
        ({"classes": 10, "weights": "imagenet"}, "`classes` should be 1000"),
        ({"input_shape": (74, 299), "weights": "random"}, "Input size must be at least 75x75"),
        ({"input_shape": "150x150x1"}, "images come as 3 channels, red, green and blue, and no others"),
        ({"input_shape": "150"}, "write height × width, 150x150 for instance"),
        ({"input_shape": (9_999, 150)}, "input_size: Input should be less than or equal to 4096"),
        ({"classes": 0, "weights": "random"}, "classes: Input should be greater than 0"),
        ({"pooling": "avg"}, "pooling is how a network without its top ends"),
        ({"pooling": "sum", "include_top": False}, "unknown pooling 'sum': there is avg and max"),
        ({"classes": 10, "include_top": False}, "classes are those of a network's top"),
        ({"resize": "stretch"}, "unknown resize 'stretch': there is crop and squash"),
        ({"include_top": False, "weights": "random"}, "has no classes: only extract_features can use it"),
    ],
)
def test_what_keras_or_a_mode_does_not_allow_is_refused(options: Options, said: str, settings: Settings) -> None:
    with pytest.raises(UsageError, match=said):
        make_request("classify", ["s3://b/a.jpg"], settings, "q", {"model": "inception_v3", **options})
