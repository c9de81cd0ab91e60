"""Fine-tune: a network and what trains in it, and one epoch's batches in, better weights and how good they are out."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import ContractError
from config.models import ModelSpec
from config.training import FROZEN, GROUPS, HEAD, POOLED, TrainingOptions
from workers.cnn.anatomy import Anatomy, as_graph, dissect
from workers.cnn.preprocess import PIXELS, scale_pixels

if TYPE_CHECKING:
    import keras

#: Name of the new head's layer.
PREDICTIONS = "predictions"

#: Of the second phase; the first takes Adam, which needs no search for its rate.
MOMENTUM = 0.9

#: Examples and the number of each one's class: what one step of training sees.
Batch = tuple[NDArray[Any], NDArray[np.int64]]

#: Name -> values: of all that training changes, the optimizer's memory among it.
State = dict[str, NDArray[Any]]


class Score(NamedTuple):
    """How well some images are told apart: mean cross entropy, and the share whose best class is the right one."""

    loss: float
    accuracy: float
    images: int


@dataclass(frozen=True, slots=True)
class Trainee:
    """What trains in one phase: examples (stored features, or uint8 pixels) in, softmax over the classes out.

    `layers` are those that training changes; everything else stays as it was loaded. `whole` is the network from
    scaled images to classes, which shares them.
    """

    model: keras.Model
    layers: tuple[keras.layers.Layer, ...]
    whole: keras.Model
    anatomy: Anatomy

    def train(self, batches: Iterable[Batch]) -> Score:
        """One epoch; ContractError where the loss is no number any more, since no further epoch would help."""
        return self._go_through(batches, self.model.train_on_batch)

    def validate(self, batches: Iterable[Batch]) -> Score:
        """How good it is, with nothing changed."""
        return self._go_through(batches, self.model.test_on_batch)

    def state(self) -> State:
        """A copy of all that training has changed so far."""
        return {name: np.array(variable.numpy()) for name, variable in self._variables()}

    def restore(self, state: State) -> None:
        """Go on where `state` was taken; ContractError where it was taken from something else."""
        variables = dict(self._variables())
        if variables.keys() != state.keys():
            raise ContractError("the checkpoint is one of other layers")
        for name, variable in variables.items():
            if tuple(variable.shape) != state[name].shape:
                raise ContractError(f"the checkpoint has another shape of {name}")
            variable.assign(state[name])

    def adopt(self, state: State) -> None:
        """Take over the head that another phase has trained; the optimizer begins anew."""
        for name, variable in self._variables():
            if name.startswith(f"{PREDICTIONS}/"):
                variable.assign(state[name])

    def _go_through(self, batches: Iterable[Batch], step: Any) -> Score:
        """Means over all images: what Keras says of a batch may or may not hold the batches before it."""
        images, loss, hits = 0, 0.0, 0.0
        for examples, classes in batches:
            self.model.reset_metrics()
            found = step(examples, classes, return_dict=True)
            images += len(classes)
            loss += len(classes) * float(found["loss"])
            hits += len(classes) * float(found["accuracy"])
        if not images:
            raise ContractError("no image that can be read is left")
        if not np.isfinite(loss):
            raise ContractError("the loss is no number any more; a lower learning rate may help")
        return Score(loss / images, round(hits) / images, images)

    def _variables(self) -> Iterator[tuple[str, Any]]:
        for layer in self.layers:
            for number, variable in enumerate(layer.variables):
                yield f"{layer.name}/{number}", variable
        for number, variable in enumerate(self.model.optimizer.variables):
            yield f"optimizer/{number}", variable


def make_trainee(network: keras.Model, spec: ModelSpec, classes: int, options: TrainingOptions, phase: int) -> Trainee:
    """What trains in a phase of a network (scaled images in), with a new head whose first weights follow the seed."""
    import keras

    # Of the process: dropout in trained layers draws from it when it is built.
    keras.utils.set_random_seed(options.seed)
    network = as_graph(network)
    anatomy = dissect(network, options.unfreeze if phase == GROUPS else ())
    head = keras.layers.Dense(
        classes,
        activation="softmax",
        name=PREDICTIONS,
        kernel_initializer=keras.initializers.GlorotUniform(options.seed),
    )
    whole = keras.Model(network.inputs, head(anatomy.pooled), name=network.name)
    trained = set(anatomy.trained)
    for layer in network.layers:
        layer.trainable = layer.name in trained
    values = _values(network, spec, anatomy, options, phase)
    model = keras.Model(values.examples, head(values.pooled))
    model.compile(
        optimizer=_make_optimizer(options, phase),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # compiling takes longer than a small training
    )
    model.optimizer.build(model.trainable_variables)
    layers = tuple(layer for layer in network.layers if layer.name in trained)
    return Trainee(model, (*layers, head), whole, anatomy)


class _Values(NamedTuple):
    """What a phase begins with, and what the head sees of it."""

    examples: keras.KerasTensor
    pooled: keras.KerasTensor


def _values(network: keras.Model, spec: ModelSpec, anatomy: Anatomy, options: TrainingOptions, phase: int) -> _Values:
    import keras

    if options.augmentations(phase):
        images = keras.Input(spec.input_shape, dtype="uint8", name=PIXELS)
        part = _frozen_at_rest(keras.Model(network.inputs, anatomy.pooled), anatomy)
        return _Values(images, part(scale_pixels(images, spec)))
    if phase == HEAD:
        pooled = keras.Input(anatomy.pooled.shape[1:], name=POOLED)
        return _Values(pooled, pooled)
    frozen = keras.Input(anatomy.frozen.shape[1:], name=FROZEN)
    part = _frozen_at_rest(keras.Model(anatomy.frozen, anatomy.pooled), anatomy)
    return _Values(frozen, part(frozen))


def _frozen_at_rest(part: keras.Model, anatomy: Anatomy) -> keras.Model:
    """The same layers, of which the frozen ones always work as in inference: batch normalisation, dropout.

    To call them with training=False does not do: a Keras model tells its layers again, each time that it runs.
    """
    import keras

    trained = set(anatomy.trained)

    class AtRest(keras.layers.Layer):  # type: ignore[misc]
        """A layer that does not hear of training."""

        def __init__(self, layer: keras.layers.Layer) -> None:
            super().__init__(name=f"{layer.name}_at_rest")
            self.layer = layer

        def call(self, *args: Any, **kwargs: Any) -> Any:
            return self.layer(*args, **kwargs, training=False)

    def at_rest(layer: keras.layers.Layer) -> keras.layers.Layer:
        hears = "training" in inspect.signature(layer.call).parameters
        return AtRest(layer) if hears and layer.name not in trained else layer

    return keras.models.clone_model(part, clone_function=at_rest)


def _make_optimizer(options: TrainingOptions, phase: int) -> keras.optimizers.Optimizer:
    import keras

    rate = options.learning_rates[phase - 1]
    if phase == HEAD:
        return keras.optimizers.Adam(rate)
    return keras.optimizers.SGD(rate, momentum=MOMENTUM)


@contextmanager
def full_precision() -> Iterator[None]:
    """Whatever an engine of this process has allowed TensorFlow to round, training does not, until the block ends."""
    import tensorflow as tf

    allowed = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(
        {name: False for name in allowed if name.startswith("auto_mixed_precision")}
    )
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(
            {name: value for name, value in allowed.items() if name.startswith("auto_mixed_precision")}
        )
