"""Every known model in, a table of its layers in config/ out: `python -m workers.cnn.layer_tables`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import config.layers
from config.layers import TABLES, Layer, format_layer
from config.models import MODELS, ModelSpec
from workers.cnn.loader import import_keras
from workers.cnn.registry import build_network

if TYPE_CHECKING:
    import keras


def main() -> int:
    """Write the tables; a model that has left the catalogue leaves its table behind, and the test names it."""
    folder = Path(config.layers.__file__).parent / TABLES
    folder.mkdir(exist_ok=True)
    for spec in MODELS.values():
        lines = [format_layer(layer) for layer in list_layers(build_structure(spec))]
        (folder / f"{spec.name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def build_structure(spec: ModelSpec) -> keras.Model:
    """A network whose variables have shapes and no values: it can be looked at, in little time and memory, not run."""
    keras = import_keras()
    keras.backend.clear_session()  # unnamed layers are counted over the whole process
    with keras.StatelessScope(initialize_variables=False):
        return build_network(spec)


def list_layers(network: keras.Model) -> list[Layer]:
    """The layers of a network, from its input to its scores."""
    return [
        Layer(layer.name, type(layer).__name__, tuple(layer.output.shape[1:]), layer.count_params())
        for layer in network.layers
    ]


if __name__ == "__main__":
    sys.exit(main())
