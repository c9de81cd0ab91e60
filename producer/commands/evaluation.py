"""Evaluation: the command that runs models over labelled images and compares them."""

from typing import Any

import click

from producer.commands.model_options import RESIZE, TOP_K
from producer.commands.outcome import DONE, FAILED, IMAGE_ERRORS, as_json, exit_code, say

#: How labels are given; `submit` takes it too.
labels_option = click.option(
    "--labels",
    "--classes-from",
    "labels",
    help="Where labels come from: folder, column:NAME, '{label}_*.jpg' or pattern:REGEX. Default: folder.",
)


@click.command(short_help="Compare models on labelled images.")
@click.argument("source", nargs=-1, required=True)
@click.option("--models", required=True, help="Of `pixelherd models`, or s3://….keras; commas between them.")
@labels_option
@click.option("--weights", help="As of submit; {model} stands for each model's name.")
@click.option("--price-per-hour", type=click.FloatRange(0), help="Dollars for an hour of one machine.")
@RESIZE
@TOP_K
@click.option("--output", help="s3:// base of results. Default: pixelherd-results/ in the bucket of the images.")
@click.option("--engine", default="auto", show_default=True, help="auto, openvino or tensorflow.")
@click.option("--precision", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--chunk-size", type=click.IntRange(1, 1000), help="Images of one task. Default: the settings'.")
@click.option("--bucket", help="Bucket of the bare keys of a manifest.")
@as_json
def evaluate(
    source: tuple[str, ...],
    models: str,
    price_per_hour: float | None,
    chunk_size: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run each model over the labelled images of SOURCE, one after the other, and print one table.

    SOURCE is what submit takes. A label is a class id (n01443537), a name (goldfish) or a number of the model's.
    Each run leaves its own report.html with classes, confusions and pictures.
    """
    from config.settings import read_settings
    from producer.comparison import evaluate as compare

    found = compare(
        source[0] if len(source) == 1 else source,
        [name.strip() for name in models.split(",") if name.strip()],
        settings=read_settings(**({"chunk_size": chunk_size} if chunk_size else {})),
        on_event=say,
        progress=not as_json,
        **options,
    )
    if price_per_hour is not None:
        found = found.at(price_per_hour)
    if as_json:
        click.echo(found.to_json())
    else:
        found.print()
    codes = {exit_code(line.report.status) for line in found.lines}
    return next((code for code in (FAILED, IMAGE_ERRORS) if code in codes), DONE)
