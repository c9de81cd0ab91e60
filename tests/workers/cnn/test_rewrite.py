"""Padded pools, as small OpenVINO models: what may be folded is, what may not is left, and the values stay."""

import numpy as np
import pytest

from workers.cnn.engines.openvino import import_openvino
from workers.cnn.engines.rewrite import fold_padding_into_pools

ov = import_openvino()


def padded_pool(activation="relu", value=0.0, widths=(1, 1, 1, 1), kernel=3):
    """Activation, padding by (top, left, bottom, right), max pooling with stride 2; 2 channels of 9 × 9."""
    from openvino import opset14 as op

    top, left, bottom, right = widths
    pixels = op.parameter([1, 2, 9, 9], np.float32)
    active = op.relu(pixels) if activation == "relu" else op.tanh(pixels)
    padded = op.pad(active, [0, 0, top, left], [0, 0, bottom, right], "constant", np.float32(value))
    pooled = op.max_pool(padded, [2, 2], [1, 1], [0, 0], [0, 0], [kernel, kernel], "floor", "valid")
    return ov.Model([op.result(pooled.output(0))], [pixels], "pool")


def kinds(model):
    return [node.get_type_name() for node in model.get_ops()]


def values(model):
    pixels = np.random.default_rng(4).normal(size=(1, 2, 9, 9)).astype(np.float32)
    return ov.Core().compile_model(model, "CPU")(pixels)[0]


@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 1, 2)])
def test_zeros_round_a_relu_become_the_pools_own(widths):
    model = padded_pool(widths=widths)
    before = values(model)
    fold_padding_into_pools(model)
    assert "Pad" not in kinds(model)
    np.testing.assert_array_equal(values(model), before)


@pytest.mark.parametrize(
    "different",
    [{"activation": "tanh"}, {"value": 0.5}, {"widths": (3, 3, 3, 3)}, {"kernel": 1}, {"widths": (-1, 0, 0, 0)}],
    ids=str,
)
def test_other_padding_is_left_alone(different):
    model = padded_pool(**different)
    before = values(model)
    fold_padding_into_pools(model)
    assert "Pad" in kinds(model)
    np.testing.assert_array_equal(values(model), before)
