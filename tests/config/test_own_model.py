"""The JSON beside a .keras file: what it says comes back, and what is wrong with it is told in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from config.classes import Label, imagenet_labels
from config.errors import ContractError
from config.messages import Job, job_spec
from config.models import MODELS, SCALINGS, ModelSpec, Scaling
from config.own_model import MAX_JSON_BYTES, OwnClass, OwnModel, OwnScaling, json_uri, own_name, template

BIRDS = OwnModel(
    classes=("bird", OwnClass(id="n02084071", name="dog")),
    input_size=(96, 128),
    resize="squash",
    resize_filter="bicubic",
    color_order="BGR",
    scaling=OwnScaling(mean=(1.5, 2, 3), std=(4, 5, 0.1)),
    exif="ignore",
    note="of the garden",
)


def test_a_model_comes_back_from_its_json():
    assert OwnModel.from_json(BIRDS.to_json()) == BIRDS
    assert BIRDS.labels == (Label("bird", "bird"), Label("n02084071", "dog"))


def test_a_model_becomes_a_spec_that_says_the_same():
    assert BIRDS.to_spec("birds") == ModelSpec(
        name="birds",
        input_size=96,
        input_width=128,
        scaling=Scaling(color_order="BGR", mean=(1.5, 2, 3), std=(4, 5, 0.1)),
        resize="squash",
        resize_filter="bicubic",
        exif="ignore",
        default_weights="file",
        classes=2,
    )


@pytest.mark.parametrize("name", ["vgg19", "inception_v3", "efficientnet_lite0"])
def test_a_model_trained_on_the_pixels_of_a_spec_is_preprocessed_as_it_is(name):
    """As fine_tune writes it; with a scaling by name, and by figures."""
    for changes in ({}, {"scaling": SCALINGS["torch"], "resize": "squash", "input_width": 150}):
        spec = MODELS[name].model_copy(update=changes)
        own = OwnModel.of(spec, [OwnClass(id="0", name="bird")], note=f"{name}, trained on birds")
        again = OwnModel.from_json(own.to_json()).to_spec("birds")
        assert again.preprocess_digest == spec.preprocess_digest
        assert (again.scaling, again.classes, again.input_shape) == (spec.scaling, 1, spec.input_shape)


def test_the_classes_may_be_those_of_imagenet():
    own = OwnModel(classes="imagenet", input_size=(8, 8), scaling="tf")
    assert OwnModel.from_json(own.to_json()).labels == imagenet_labels()
    assert own.to_spec("own").classes == 1_000


GOOD: dict[str, Any] = {"pixelherd_model": 1, "classes": ["a", "b"], "input_size": [16, 16], "scaling": "tf"}

#: What is wrong, and all that has to be said of it.
BAD: dict[str, tuple[str | dict[str, Any], list[str]]] = {
    "no JSON": ("{", ["Invalid JSON"]),
    "no object": ("[]", ["should be an object"]),
    "nothing": ("{}", ["classes: Field required", "input_size: Field required", "scaling: Field required"]),
    "no class": ({"classes": []}, ["classes: Tuple should have at least 1 item"]),
    "an empty class": ({"classes": ["a", "", {"id": "c"}]}, ["classes.1.id: String", "classes.2.name: Field required"]),
    "a class twice": ({"classes": ["a", "b", "a"]}, ["classes name 'a' twice"]),
    "other classes": ({"classes": "coco"}, ["classes: Input should be 'imagenet'"]),
    "sizes": (
        {"input_size": [0, 5_000]},
        ["input_size.0: Input should be greater", "input_size.1: Input should be less"],
    ),
    "one size": ({"input_size": 224}, ["input_size: Input should be a valid array"]),
    "words": (
        {"resize": "cut", "resize_filter": "box", "exif": "no", "color_order": "GBR"},
        ["resize: Input should be 'crop' or 'squash'", "resize_filter: Input", "exif: Input", "color_order: Input"],
    ),
    "a scaling": ({"scaling": "torc"}, ["scaling: Input should be 'caffe', 'tf', 'torch', 'lite' or 'none'"]),
    "figures": ({"scaling": {"mean": [1, 2], "std": [0, 1, 1]}}, ["scaling.mean.2: Field", "scaling.std.0: Input"]),
    "two orders": ({"color_order": "BGR"}, ["color_order BGR contradicts scaling tf, which is RGB: write the scaling"]),
    "a field more": ({"colour": "RGB"}, ["colour: Extra inputs are not permitted"]),
    "another version": ({"pixelherd_model": 2}, ["pixelherd_model: Input should be 1"]),
}


@pytest.mark.parametrize("what", BAD)
def test_all_that_is_wrong_is_told_in_one_line(what):
    given, complaints = BAD[what]
    body = given if isinstance(given, str) else json.dumps(GOOD | given)
    with pytest.raises(ContractError) as refused:
        OwnModel.from_json(body.encode())
    assert "\n" not in str(refused.value)
    for complaint in complaints:
        assert complaint in str(refused.value)


def test_a_json_without_end_is_not_read():
    with pytest.raises(ContractError, match="are allowed"):
        OwnModel.from_json(b" " * (MAX_JSON_BYTES + 1))


def test_a_template_is_a_json_that_can_be_read():
    assert OwnModel.from_json(template((32, 48), 5).encode()).to_spec("own").input_shape == (32, 48, 3)
    assert len(OwnModel.from_json(template(None, 5).encode()).labels) == 5
    assert OwnModel.from_json(template(None, 1_000).encode()).labels == imagenet_labels()
    assert len(OwnModel.from_json(template(None, None).encode()).labels) == 3


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/models/birds.keras", "birds"),
        ("file:///home/me/My%20Birds-v2.1.keras", "my_birds_v2_1"),
        ("s3://bucket/鳥.keras", "own_model"),
        (f"s3://bucket/_{'b' * 200}.keras", "b" * 80),
    ],
)
def test_a_model_is_named_after_its_file(uri, name):
    assert own_name(uri) == BIRDS.to_spec(own_name(uri)).name == name


def test_the_json_lies_beside_the_file():
    assert json_uri("s3://bucket/my.keras.d/birds.keras") == "s3://bucket/my.keras.d/birds.json"


DOCS = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_tells_every_field_and_shows_a_template():
    shown = re.search(r"^\{\n.*?^\}\n", DOCS, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert shown[0] == template((224, 224), 3)
    for name, field in OwnModel.model_fields.items():
        assert f"\n| `{field.alias or name}` |" in DOCS


def test_the_message_on_the_page_is_a_job():
    shown = re.search(r"```json\n(.*?)```", DOCS, re.DOTALL)
    assert shown is not None
    job = Job.model_validate(json.loads("{" + shown[1].replace("…", "0" * 64) + "}")["job"])
    assert job_spec(job).figures == SCALINGS["lite"]
    assert job.weights is not None
    assert job.weights.json_sha256
