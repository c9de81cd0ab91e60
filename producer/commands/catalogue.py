"""Catalogue: the commands that tell what there is to choose from; they need no server."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from producer.commands.outcome import DONE, as_json

if TYPE_CHECKING:  # a person who asks for help does not wait for pydantic
    from config.layers import LayerLike


@click.command()
@as_json
def models(as_json: bool) -> int:
    """The models: size, preprocessing, accuracy, weights.

    Accuracy is top-1 and top-5 on ImageNet as published.
    """
    from config.models import MODELS

    if as_json:
        click.echo(json.dumps([spec.model_dump(mode="json") for spec in MODELS.values()], indent=1))
    else:
        from producer.tables import print_models

        print_models(MODELS.values())
    return DONE


@click.command()
@click.argument("model")
@as_json
def layers(model: str, as_json: bool) -> int:
    """The layers of MODEL, and how much their features take.

    MODEL is a name of `pixelherd models`, or s3://… or file:///… of a .keras file, of which shapes are told as far as
    it tells them. Bytes are those of float32, uncompressed. Needs no worker and no Keras, and for a name no bucket.
    """
    from config.layers import size_of

    found = find_layers(model)
    if as_json:
        rows = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "shape": layer.shape,
                "parameters": getattr(layer, "parameters", None),
                "size_bytes": size_of(layer),
            }
            for layer in found
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        from producer.tables import print_layers

        print_layers(found)
    return DONE


def find_layers(model: str) -> "Sequence[LayerLike]":
    """The layers of a known model, or of a file."""
    from config.own_model import is_own_model

    if not is_own_model(model):
        from config.layers import layers_of

        return layers_of(model)
    from config.settings import read_settings
    from producer.own_model import read_own_structure

    return read_own_structure(model, read_settings()).layers
