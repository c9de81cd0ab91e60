import pytest

from config.errors import UnknownModel
from config.models import MODELS, SCALINGS, ModelSpec, find_model

#: One other value for each field that decides what a network sees.
DECISIVE = {
    "input_size": 225,
    "scaling": "torch",
    "resize": "squash",
    "resize_filter": "bicubic",
    "exif": "ignore",
}
INDIFFERENT = {"name", "default_weights", "classes", "parameters", "top1", "top5"}


def test_every_field_is_decisive_or_known_not_to_be():
    assert set(ModelSpec.model_fields) == set(DECISIVE) | INDIFFERENT


@pytest.mark.parametrize("field", DECISIVE)
def test_digest_changes_with_each_decisive_field(field):
    spec = MODELS["resnet50"]
    assert spec.model_copy(update={field: DECISIVE[field]}).preprocess_digest != spec.preprocess_digest


def test_digest_is_of_the_preprocessing_alone():
    assert MODELS["vgg19"].preprocess_digest == MODELS["resnet50"].preprocess_digest
    assert MODELS["vgg19"].preprocess_digest != MODELS["inception_v3"].preprocess_digest


def test_digest_stays_what_it_is_between_releases():
    digest = MODELS["resnet50"].preprocess_digest
    assert digest == "dd00fc687ce27cda3078e6e9bc3932b7e1a61823cf8861a77d0e86f630bfecfa"


def test_each_scaling_has_its_own_digest():
    digests = {MODELS["vgg19"].model_copy(update={"scaling": name}).preprocess_digest for name in SCALINGS}
    assert len(digests) == len(SCALINGS)


@pytest.mark.parametrize(("size", "side"), [(224, 256), (299, 342), (150, 171)])
def test_shorter_side_is_a_seventh_longer_than_the_crop(size, side):
    assert ModelSpec(name="any", input_size=size, scaling="tf").resize_side == side


def test_table_is_keyed_by_name():
    assert all(find_model(name).name == name for name in MODELS)


@pytest.mark.parametrize(
    ("asked", "offered"), [("resnet_50", "resnet50"), ("VGG19", "vgg19"), ("InceptionV3", "inception_v3")]
)
def test_a_near_miss_is_offered_the_right_name(asked, offered):
    with pytest.raises(UnknownModel, match=f"unknown model '{asked}': did you mean {offered}"):
        find_model(asked)


def test_a_far_miss_is_told_where_all_names_are():
    with pytest.raises(UnknownModel, match=f"unknown model 'xyz': `pixelherd models` lists all {len(MODELS)}$"):
        find_model("xyz")


@pytest.mark.parametrize("name", ["", "../resnet50", "ResNet50", "a b", "resnet50\n"])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(ValueError, match="name"):
        ModelSpec(name=name, input_size=224, scaling="tf")
