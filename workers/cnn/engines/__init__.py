"""Engines: a network's recipe in, a function from uint8 batches to outputs out; one row for each engine."""

from collections.abc import Callable

from config.messages import Engine as EngineName
from workers.cnn.engines.capabilities import resolve_engine
from workers.cnn.engines.options import Engine, EngineOptions, Outputs, Pixels
from workers.cnn.recipe import NetworkRecipe

__all__ = ["Engine", "EngineOptions", "Outputs", "Pixels", "make_engine", "resolve_engine"]


def make_engine(recipe: NetworkRecipe, options: EngineOptions) -> Engine:
    """Load a network into the engine that the options name.

    Raises SettingsError for a precision that this machine does not have, ContractError for unfit weights.
    """
    return ENGINES[resolve_engine(options.engine)](recipe, options)


def _make_openvino(recipe: NetworkRecipe, options: EngineOptions) -> Engine:
    from workers.cnn.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(recipe, options)


def _make_tensorflow(recipe: NetworkRecipe, options: EngineOptions) -> Engine:
    from workers.cnn.engines.tensorflow import TensorFlowEngine

    return TensorFlowEngine(recipe, options)


#: Each loads its own library, and no other: a child that runs OpenVINO holds no TensorFlow.
ENGINES: dict[EngineName, Callable[[NetworkRecipe, EngineOptions], Engine]] = {
    EngineName.OPENVINO: _make_openvino,
    EngineName.TENSORFLOW: _make_tensorflow,
}
