"""Catalogue: the commands that tell what there is to choose from; they need no server."""

import json

import click

from producer.commands.outcome import DONE, as_json


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

    Bytes are those of float32, uncompressed. Needs no worker, no bucket and no Keras.
    """
    from config.layers import layers_of

    if as_json:
        found = [{**layer._asdict(), "size_bytes": layer.size_bytes} for layer in layers_of(model)]
        click.echo(json.dumps(found, indent=1))
    else:
        from producer.tables import print_layers

        print_layers(layers_of(model))
    return DONE
