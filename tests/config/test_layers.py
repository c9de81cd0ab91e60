import pytest

from config.errors import UnknownModel, UsageError
from config.layers import Layer, find_layers, format_layer, layers_of, parse_layer


@pytest.mark.parametrize("layer", [Layer("conv", "Conv2D", (14, 14, 512), 1_792), Layer("fc2", "Dense", (4096,), 0)])
def test_a_line_comes_back_as_its_layer(layer):
    assert parse_layer(format_layer(layer)) == layer


def test_sizes_are_right_for_the_two_that_people_know():
    first, pool = layers_of("vgg19")[0], find_layers("vgg19", ["block4_pool"])[0]
    assert (first.kind, first.elements) == ("InputLayer", 150_528)  # 224 * 224 * 3
    assert (pool.kind, pool.shape, pool.size_bytes) == ("MaxPooling2D", (14, 14, 512), 401_408)


def test_layers_come_in_the_order_asked_for():
    assert [layer.name for layer in find_layers("vgg19", ["fc2", "block4_pool"])] == ["fc2", "block4_pool"]


def test_a_near_miss_is_offered_the_right_name():
    with pytest.raises(UsageError, match="vgg19 has no layer 'block4_poll': did you mean block4_pool"):
        find_layers("vgg19", ["fc2", "block4_poll"])


def test_a_far_miss_is_told_where_the_names_are():
    with pytest.raises(UsageError, match="vgg19 has no layer 'xyz': `pixelherd layers vgg19` lists them"):
        find_layers("vgg19", ["xyz"])


def test_an_unknown_model_is_offered_a_name():
    with pytest.raises(UnknownModel, match="did you mean vgg19"):
        layers_of("vgg_19")
