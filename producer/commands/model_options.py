"""Model options: what can be asked for of a model, for every command that takes one."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.option(
    "--model",
    default="efficientnet_lite0",
    show_default=True,
    help="A name of `pixelherd models`, or s3://… or file:///… of a .keras file.",
)

RESIZE = click.option(
    "--resize", help="crop or squash: the centre, or the whole image. Default: the model's own, crop."
)
TOP_K = click.option(
    "--top", "top_k", type=int, help="Best classes kept for each image. Default: 5, or all that there are."
)

#: How a model may differ from its row of the catalogue; their names are those of producer.models.ModelOptions.
OPTIONS = (
    click.option("--weights", help="imagenet, random, or s3://… or file:///… of a file. Default: the model's own."),
    RESIZE,
    click.option("--input-shape", help="HEIGHTxWIDTH of the network's input, such as 150x150."),
    click.option("--no-top", "include_top", is_flag=True, flag_value=False, default=True, help="No classifier."),
    click.option("--classes", type=click.IntRange(1), help="Classes of the network, where its weights have others."),
    click.option("--pooling", help="avg or max: how a network without its top ends."),
)


def changes_of_model(command: Command) -> Command:
    """Give a command the options by which a model may differ from its row of the catalogue."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
