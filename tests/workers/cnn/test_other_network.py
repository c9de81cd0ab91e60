"""A file of weights whose network had a layer more: Keras would load it and compute something else."""

import warnings

import h5py
import pytest

from config.errors import ContractError
from config.models import MODELS
from tests.workers.cnn.conftest import KERAS_ARRAY_WARNING
from workers.cnn.loader import load_network
from workers.cnn.recipe import LocalWeights


def test_a_file_of_another_network_is_refused_though_all_weights_fit(tmp_path):
    """What Keras's ImageNet network of EfficientNet-B0 leaves: the same variables, and one Rescaling more."""
    spec, file = MODELS["efficientnet_b0"], tmp_path / "b0.weights.h5"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", KERAS_ARRAY_WARNING, DeprecationWarning)
        load_network(spec, LocalWeights(kind="random")).save_weights(file)
    weights = LocalWeights(kind="file", path=file)
    assert load_network(spec, weights).count_params() == spec.parameters
    with h5py.File(file, "a") as stored:
        stored.create_group("layers/rescaling_1/vars")
    with pytest.raises(
        ContractError, match=r"b0\.weights\.h5 .* of 241 layers, and this one has 240; give a \.keras file"
    ):
        load_network(spec, weights)
