"""The OpenVINO engine: a recipe in, its converted network compiled for this CPU out; no TensorFlow in this process."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from config.messages import Engine as EngineName
from config.messages import Precision
from workers.cnn.engines.capabilities import resolve_precision
from workers.cnn.engines.converted import IR_FILE, OUTPUTS_FILE, find_or_convert
from workers.cnn.engines.in_order import pad, run_in_order
from workers.cnn.engines.options import EngineOptions, Outputs, Pixels
from workers.cnn.recipe import NetworkRecipe

#: What OpenVINO calls a precision among a device's capabilities, and as a hint.
CAPABILITIES = {"FP32": Precision.FLOAT32, "BF16": Precision.BFLOAT16, "FP16": Precision.FLOAT16}
HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "f16"}

#: A request and how many of its rows are images.
Ticket = tuple[Any, int]


class OpenVinoEngine:
    """A network on this machine's CPU. `streams` batches are computed at once, each by threads of its own."""

    name = EngineName.OPENVINO

    def __init__(self, recipe: NetworkRecipe, options: EngineOptions) -> None:
        core = import_openvino().Core()
        possible = {CAPABILITIES[c] for c in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") if c in CAPABILITIES}
        device = core.get_property("CPU", "FULL_DEVICE_NAME")
        self.precision = resolve_precision(options.precision, possible, device)
        self.batch_size = options.batch_size
        # One stream for each core waits at no barrier, which matters most when fetching and decoding take their
        # share: ResNet50 at batch 8 cost 65 ms of CPU for an image on 2 streams, 77 on one stream of 2 threads.
        self._streams = options.streams or options.cores
        converted = find_or_convert(recipe, options.cache_dir)
        self._input_shape = (options.batch_size, *recipe.spec.input_shape)
        self._network = self._compile(core, converted / IR_FILE, options.cores)
        outputs = json.loads((converted / OUTPUTS_FILE).read_text(encoding="utf-8"))
        self.output_names = tuple(outputs)
        self.output_shapes = tuple(tuple(output.shape)[1:] for output in self._network.outputs)
        self._idle: deque[Any] = deque()

    def run(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Outputs of each batch, in order; one batch waits ready while every stream computes another."""
        return run_in_order(batches, self._start, self._finish, self._streams + 1)

    def _compile(self, core: Any, file: Path, cores: int) -> Any:
        model = core.read_model(file)
        model.reshape(list(self._input_shape))
        properties = {
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
            "NUM_STREAMS": self._streams,
            # Pinned, two worker processes of one machine would both sit on its first cores.
            "ENABLE_CPU_PINNING": False,
        }
        return core.compile_model(model, "CPU", properties)

    def _start(self, batch: Pixels) -> Ticket:
        # Requests hold only inputs and outputs; each `run` takes its own, so none can starve another.
        request = self._idle.pop() if self._idle else self._network.create_infer_request()
        request.get_input_tensor().data[:] = pad(batch, self._input_shape)
        request.start_async()
        return request, len(batch)

    def _finish(self, ticket: Ticket) -> Outputs:
        request, images = ticket
        request.wait()
        outputs = tuple(np.array(tensor.data[:images], np.float32) for tensor in request.output_tensors)
        self._idle.append(request)
        return outputs


def import_openvino() -> Any:
    """OpenVINO without its telemetry: on import it would report each use to its makers' analytics."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
