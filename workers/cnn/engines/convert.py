"""A recipe on standard input, a directory with its OpenVINO IR out: `python -m workers.cnn.engines.convert TARGET`.

The network's graph is traced with its weights as inputs, which are filled in on OpenVINO's side: a graph that holds
them would pass through TensorFlow's protocol buffers several times (VGG-19: 25 s against 8 s, and 2 GB at most).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from config.errors import PixelherdError
from workers.cnn.engines.converted import IR_FILE, OUTPUTS_FILE
from workers.cnn.engines.openvino import import_openvino
from workers.cnn.engines.rewrite import fold_padding_into_pools
from workers.cnn.loader import load_recipe
from workers.cnn.preprocess import PIXELS
from workers.cnn.recipe import NetworkRecipe

if TYPE_CHECKING:
    import keras


def main() -> int:
    """Convert; an error of pixelherd's own goes to standard output as one line of JSON."""
    # A GPU would be of no use and would lose memory to this process.
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    recipe = NetworkRecipe.model_validate_json(sys.stdin.read())
    try:
        write_ir(recipe, Path(sys.argv[1]))
    except PixelherdError as error:
        sys.stdout.write("\n" + json.dumps({"error": type(error).__name__, "text": str(error)}) + "\n")
        return 1
    return 0


def write_ir(recipe: NetworkRecipe, target: Path) -> None:
    """Convert a network and move it to its place as a whole, so that nobody ever sees a half of it."""
    network, names = load_recipe(recipe)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    import_openvino().save_model(to_openvino(network), temporary / IR_FILE, compress_to_fp16=False)
    (temporary / OUTPUTS_FILE).write_text(json.dumps(names), encoding="utf-8")
    for file in temporary.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    temporary.rename(target)


def to_openvino(network: keras.Model) -> Any:
    """A Keras network as an OpenVINO model with the same input, any batch size, and outputs in the same order."""
    openvino = import_openvino()
    from openvino import opset14, passes

    variables = [*network.trainable_variables, *network.non_trainable_variables]
    with tempfile.TemporaryDirectory() as directory:
        graph = Path(directory) / "graph.pb"
        graph.write_bytes(_trace(network, variables))
        model = openvino.Core().read_model(graph)
    inputs = {name: node for node in model.get_parameters() for name in _names(node.output(0))}
    # One value may be several outputs: what a dropout puts out is what goes into it.
    outputs = {name: node.input_value(0) for node in model.get_results() for name in _names(node.input_value(0))}
    for number, variable in enumerate(variables):
        node = inputs.pop(f"weight_{number}", None)
        if node is not None:  # TensorFlow drops what nothing reads, the seeds of dropout for instance
            constant = openvino.op.Constant(openvino.Tensor(np.ascontiguousarray(variable.numpy())))
            node.output(0).replace(constant.output(0))
    ordered = [opset14.result(outputs[f"output_{number}"]) for number in range(len(network.outputs))]
    filled = openvino.Model(ordered, [inputs[PIXELS]], network.name)
    fold_padding_into_pools(filled)
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())  # turns the kernels here, once, and not at every start
    manager.run_passes(filled)
    return filled


def _trace(network: keras.Model, variables: list[Any]) -> bytes:
    """The network's graph as a serialized GraphDef with inputs pixels and weight_0 …, and outputs output_0 …"""
    import tensorflow as tf

    trainable = len(network.trainable_variables)

    def call(pixels: Any, *weights: Any) -> list[Any]:
        outputs, _ = network.stateless_call(weights[:trainable], weights[trainable:], pixels, training=False)
        floats = [tf.cast(output, tf.float32) for output in tf.nest.flatten(outputs)]
        return [tf.identity(output, name=f"output_{number}") for number, output in enumerate(floats)]

    specs = [tf.TensorSpec(v.shape, v.dtype, name=f"weight_{number}") for number, v in enumerate(variables)]
    pixels = tf.TensorSpec(network.inputs[0].shape, tf.uint8, name=PIXELS)
    traced = tf.function(call, autograph=False).get_concrete_function(pixels, *specs)
    data: bytes = traced.graph.as_graph_def().SerializeToString()
    return data


def _names(port: Any) -> set[str]:
    """The names that _trace gave; OpenVINO keeps them as a tensor's names, beside others and with a port number."""
    names = {name.partition(":")[0] for name in port.get_names()}
    return {name for name in names if name == PIXELS or name.startswith(("weight_", "output_"))}


if __name__ == "__main__":
    sys.exit(main())
