import pytest

from config.errors import UnknownModel
from config.models import MODELS, SCALINGS, ModelSpec, Scaling, find_model

#: One other value for each field that decides what a network sees.
DECISIVE = {
    "input_size": 225,
    "input_width": 225,
    "scaling": "torch",
    "resize": "squash",
    "resize_filter": "bicubic",
    "exif": "ignore",
}
INDIFFERENT = {"name", "default_weights", "include_top", "pooling", "classes", "parameters", "top1", "top5"}


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


def test_a_scaling_is_what_its_figures_are_and_not_what_it_is_called():
    spec = MODELS["vgg19"]
    by_figures = ModelSpec.model_validate_json(spec.model_copy(update={"scaling": SCALINGS["caffe"]}).model_dump_json())
    assert isinstance(by_figures.scaling, Scaling)
    assert by_figures.preprocess_digest == spec.preprocess_digest
    darker = SCALINGS["caffe"].model_copy(update={"mean": (103.939, 116.779, 124.0)})
    turned = SCALINGS["caffe"].model_copy(update={"color_order": "RGB"})
    digests = {spec.model_copy(update={"scaling": scaling}).preprocess_digest for scaling in (darker, turned)}
    assert len(digests | {spec.preprocess_digest}) == 3


def test_a_width_that_is_the_height_changes_nothing():
    spec = MODELS["vgg19"]
    assert spec.model_copy(update={"input_width": 224}).preprocess_digest == spec.preprocess_digest
    wide = spec.model_copy(update={"input_size": 112, "input_width": 224})
    assert (wide.input_shape, wide.covered) == ((112, 224, 3), (128, 256))


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
