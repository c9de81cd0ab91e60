"""The TensorFlow engine: a recipe in, its network as one frozen graph on the GPU or the CPU out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from config.messages import Engine as EngineName
from config.messages import Precision
from workers.cnn.engines.capabilities import cpu_precisions, resolve_precision
from workers.cnn.engines.in_order import pad, run_in_order
from workers.cnn.engines.options import EngineOptions, Outputs, Pixels
from workers.cnn.loader import import_keras, load_recipe
from workers.cnn.recipe import NetworkRecipe

if TYPE_CHECKING:
    import keras

GPU_PRECISIONS = {Precision.FLOAT32, Precision.FLOAT16}

#: Precision -> the rewrite of the graph that TensorFlow's optimizer is allowed.
REWRITES = {
    Precision.BFLOAT16: "auto_mixed_precision_onednn_bfloat16",
    Precision.FLOAT16: "auto_mixed_precision",
}


class TensorFlowEngine:
    """A network in this process's TensorFlow. Its precision is the process's: one network at a time."""

    name = EngineName.TENSORFLOW

    def __init__(self, recipe: NetworkRecipe, options: EngineOptions) -> None:
        gpus = start_tensorflow(options.cores)
        import tensorflow as tf

        possible = GPU_PRECISIONS if gpus else cpu_precisions()
        self.precision = resolve_precision(options.precision, possible, "the GPU" if gpus else "this CPU")
        tf.config.optimizer.set_experimental_options(
            {rewrite: precision is self.precision for precision, rewrite in REWRITES.items()}
        )
        self.batch_size = options.batch_size
        network, self.output_names = load_recipe(recipe)
        self.output_shapes = tuple(tuple(output.shape)[1:] for output in network.outputs)
        self._input_shape = (options.batch_size, *network.inputs[0].shape[1:])
        self._compute = freeze(network, self._input_shape)
        # One batch at a time uses all cores; the thread lets the caller make the next batch meanwhile.
        self._streams = options.streams or 1
        self._pool = ThreadPoolExecutor(self._streams, "tensorflow")

    def run(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Outputs of each batch, in order; one batch waits ready while another is computed."""
        return run_in_order(batches, self._start, Future.result, self._streams + 1)

    def _start(self, batch: Pixels) -> Future[Outputs]:
        return self._pool.submit(self._run_one, pad(batch, self._input_shape), len(batch))

    def _run_one(self, padded: Pixels, images: int) -> Outputs:
        return tuple(np.array(output)[:images] for output in self._compute(padded))


def start_tensorflow(cores: int) -> list[Any]:
    """Have TensorFlow compute with so many cores, if it has not begun yet; returns the GPUs."""
    import_keras()
    import tensorflow as tf

    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    with suppress(RuntimeError):  # TensorFlow has begun already, with the threads and memory it has
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def freeze(network: keras.Model, shape: tuple[int, ...]) -> Callable[[Pixels], list[Any]]:
    """The network as a graph of one fixed input shape whose weights are constants, which TensorFlow can fold."""
    import tensorflow as tf

    trainable = [variable.numpy() for variable in network.trainable_variables]
    others = [variable.numpy() for variable in network.non_trainable_variables]

    def call(pixels: Any) -> list[Any]:
        weights = [[tf.constant(array) for array in arrays] for arrays in (trainable, others)]
        outputs, _ = network.stateless_call(*weights, pixels, training=False)
        return [tf.cast(output, tf.float32) for output in tf.nest.flatten(outputs)]

    traced = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.uint8))
    return lambda pixels: traced(tf.constant(pixels))
