"""Training options: what can be asked for of a training, for the command that starts one."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

#: Their names are those of producer.request.Options.
OPTIONS = (
    click.option("--unfreeze", help="Layers or patterns to train behind the new head, with commas between them."),
    click.option(
        "--epochs", help="Of the head alone, and of both phases: 5,10. Default: 5, and 10 where layers are named."
    ),
    click.option("--learning-rate", help="Of the last phase, or of each. Default: 0.001,0.0001."),
    click.option("--training-batch", type=click.IntRange(1), help="Images of one step. Default: 32."),
    click.option("--validation", help="A share of the images, or the s3:// prefix of others. Default: 0.2."),
    click.option("--augment", help="flip, crop, color: changes at random in the second phase. Default: none."),
    click.option("--augment-head", is_flag=True, help="The same in the first phase."),
    click.option("--seed", type=click.IntRange(0), help="Of all that is drawn at random. Default: 0."),
)


def changes_of_training(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
