"""Features: pooled as Keras does it, of a type that holds them, and from networks that put out several things."""

import keras
import numpy as np
import pytest

from config.errors import ContractError
from config.features import FeatureColumn, bytes_per_image, feature_columns
from config.layers import find_layers
from config.messages import Engine as EngineName
from config.messages import FeatureOptions, FeatureType, Pool
from config.models import MODELS
from workers.cnn.engines import make_engine
from workers.cnn.features import pool_features
from workers.cnn.recipe import LocalWeights, NetworkRecipe

OUTPUTS = np.random.default_rng(0).normal(size=(3, 5, 4, 6)).astype(np.float32)
FLAT = OUTPUTS[:, 0, 0]

POOLED = {
    Pool.NONE: OUTPUTS,
    Pool.FLAT: OUTPUTS.reshape(3, 120),
    Pool.AVG: np.asarray(keras.layers.GlobalAveragePooling2D()(OUTPUTS)),
    Pool.MAX: np.asarray(keras.layers.GlobalMaxPooling2D()(OUTPUTS)),
}


@pytest.mark.parametrize("dtype", FeatureType)
@pytest.mark.parametrize("pool", POOLED)
def test_outputs_are_pooled_as_keras_does(pool, dtype):
    features = pool_features(OUTPUTS, pool, dtype)
    [column] = feature_columns(FeatureOptions(layers=("a",), pool=pool, dtype=dtype), [(5, 4, 6)])
    assert (features.shape[1:], features.dtype) == (column.shape, dtype.value)
    assert features.nbytes == 3 * column.size_bytes
    assert features.flags.c_contiguous
    np.testing.assert_allclose(features, POOLED[pool], rtol=1e-6 if dtype is FeatureType.FLOAT32 else 1e-3, atol=1e-6)


@pytest.mark.parametrize("pool", Pool)
def test_a_flat_output_stays_as_it_is(pool):
    np.testing.assert_array_equal(pool_features(FLAT, pool, FeatureType.FLOAT32), FLAT)


def test_columns_are_named_after_their_layers_where_there_are_several():
    options = FeatureOptions(layers=("block4_pool", "fc2"), dtype=FeatureType.FLOAT16)
    assert feature_columns(options, [(14, 14, 512), (4096,)]) == (
        FeatureColumn("features_block4_pool", (14, 14, 512), FeatureType.FLOAT16),
        FeatureColumn("features_fc2", (4096,), FeatureType.FLOAT16),
    )
    assert bytes_per_image(options, [(14, 14, 512), (4096,)]) == 2 * (14 * 14 * 512 + 4096)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (np.nan, FeatureType.FLOAT32, "NaN or infinity"),
        (np.inf, FeatureType.FLOAT16, "NaN or infinity"),
        (-70_000, FeatureType.FLOAT16, r"70,000, and float16 holds 65,504 at most: take float32"),
    ],
)
def test_numbers_that_would_be_wrong_are_refused(value, dtype, said):
    spoilt = OUTPUTS.copy()
    spoilt[1, 2, 3, 4] = value
    with pytest.raises(ContractError, match=said):
        pool_features(spoilt, Pool.NONE, dtype)


#: One value twice (a dropout does nothing here), the input itself, and the scores, which the network's end is too.
SHARED = ("input_layer", "avg_pool", "top_dropout", "predictions")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [EngineName.OPENVINO, EngineName.TENSORFLOW])
def test_layers_that_share_a_value_each_have_it(kind, make_options):
    spec = MODELS["efficientnet_lite0"]
    packaged = LocalWeights(kind="packaged")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    engine = make_engine(NetworkRecipe(spec=spec, weights=packaged, layers=SHARED, with_end=True), make_options(kind))
    assert engine.output_names == (*SHARED, "predictions")
    assert engine.output_shapes == tuple(layer.shape for layer in find_layers(spec.name, engine.output_names))
    [(scaled, pooled, dropped, scores, end)] = engine.run([pixels])
    np.testing.assert_allclose(scaled, (pixels - 127.0) / 128, atol=1e-6)
    np.testing.assert_array_equal(pooled, dropped)
    np.testing.assert_array_equal(scores, end)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
