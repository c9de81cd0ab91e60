"""Anatomy: a network and the layers to unfreeze in, the tensors at which training cuts it out.

`pooled` is what the new head sees: the values before the old head, averaged over height and width. `frozen` is the
deepest value that no trained layer has touched and through which all goes: behind it a training may begin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from config.errors import ContractError, UsageError
from config.groups import NamedLayer, head_starts, trained_layers
from config.training import FROZEN, POOLED

if TYPE_CHECKING:
    import keras

#: Axes of images, height, width, channels.
IMAGE_RANK = 4


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where a network is cut: two of its tensors, and the names of the layers between them that train."""

    pooled: keras.KerasTensor
    frozen: keras.KerasTensor
    trained: tuple[str, ...]

    @property
    def ends(self) -> dict[str, keras.KerasTensor]:
        return {POOLED: self.pooled, FROZEN: self.frozen}


def dissect(network: keras.Model, unfreeze: Sequence[str]) -> Anatomy:
    """Find the cuts; ContractError where a name is unknown, or where the network has no place for a new head."""
    try:
        trained = trained_layers(name_layers(network), unfreeze)
    except UsageError as error:
        raise ContractError(f"{network.name}: {error}") from error
    seen = _before_head(network)
    between = _ancestors(network, seen)
    return Anatomy(_pool(network, seen), _deepest_frozen(network, between, trained), trained)


def end_for_training(network: keras.Model, layers: Sequence[str], unfreeze: Sequence[str]) -> keras.Model:
    """The part of a network that puts out what training reads, under the names POOLED and FROZEN."""
    import keras

    network = as_graph(network)
    ends = dissect(network, unfreeze).ends
    return keras.Model(network.inputs[0], [ends[layer] for layer in layers], name=network.name)


def as_graph(network: keras.Model) -> keras.Model:
    """The same layers as a graph whose tensors can be named; a Sequential network hides them."""
    import keras

    if isinstance(network, keras.Sequential):
        return keras.Model(network.inputs, network.outputs, name=network.name)
    return network


def name_layers(network: keras.Model) -> list[NamedLayer]:
    """The layers of a network as the rules of groups read them."""
    return [NamedLayer(layer.name, type(layer).__name__) for layer in network.layers]


def _before_head(network: keras.Model) -> keras.KerasTensor:
    """The tensor that the old head begins with; where there is no such head, the last images, or the output."""
    cuts = {id(tensor) for tensor in _cuts(network, network.operations)}
    for start in head_starts(name_layers(network)):
        tensor = network.layers[start].input
        if id(tensor) in cuts and len(tensor.shape) == IMAGE_RANK:
            return tensor
    seen = [tensor for tensor in _cuts(network, network.operations) if len(tensor.shape) == IMAGE_RANK]
    if len(network.outputs[0].shape) == IMAGE_RANK:
        return network.outputs[0]
    if not seen:
        raise ContractError(f"{network.name} has no layer of height, width and channels for a new head to look at")
    return seen[-1]


def _pool(network: keras.Model, seen: keras.KerasTensor) -> keras.KerasTensor:
    from keras import layers

    taken = {layer.name for layer in network.layers}
    name = POOLED if POOLED not in taken else f"{POOLED}_for_head"
    return layers.GlobalAveragePooling2D(name=name)(seen)


def _deepest_frozen(network: keras.Model, between: list[Any], trained: Collection[str]) -> keras.KerasTensor:
    """The last tensor before the first trained layer through which all goes; the input where there is none."""
    first = next((place for place, made in enumerate(between) if made.name in trained), len(between))
    return _last(_cuts(network, between, until=first), network.inputs[0])


def _last(tensors: Iterator[keras.KerasTensor], default: keras.KerasTensor) -> keras.KerasTensor:
    for tensor in tensors:
        default = tensor
    return default


def _ancestors(network: keras.Model, end: keras.KerasTensor) -> list[Any]:
    """The operations that lead to a tensor, in an order in which they can run."""
    needed, kept = {id(end)}, []
    for made in reversed(network.operations):
        if any(id(tensor) in needed for tensor in _flat(made.output)):
            kept.append(made)
            needed.update(id(tensor) for tensor in _inputs(made))
    return kept[::-1]


def _cuts(network: keras.Model, operations: Sequence[Any], until: int | None = None) -> Iterator[keras.KerasTensor]:
    """The tensors through which all goes, in their order: each is alone in being made and still needed.

    `until` is where to end among the operations, which are in an order in which they can run.
    """
    last_use = {id(tensor): place for place, made in enumerate(operations) for tensor in _inputs(made)}
    waiting: set[int] = set()
    for place, made in enumerate(operations[:until]):
        outputs = _flat(made.output)
        waiting = {tensor for tensor in waiting if last_use.get(tensor, -1) > place}
        waiting.update(id(tensor) for tensor in outputs)
        if len(outputs) == 1 and waiting == {id(outputs[0])}:
            yield outputs[0]


def _inputs(made: Any) -> list[Any]:
    from keras.layers import InputLayer

    return [] if isinstance(made, InputLayer) else _flat(made.input)


def _flat(tensors: Any) -> list[Any]:
    import keras

    flat: list[Any] = keras.tree.flatten(tensors)
    return flat
