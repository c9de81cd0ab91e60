"""Runs: the commands that start a run, watch it, read it, end it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from producer.commands.evaluation import labels_option
from producer.commands.model_options import MODEL, TOP_K, changes_of_model
from producer.commands.outcome import DONE, as_json, exit_code, follow, say, show
from producer.commands.training_options import changes_of_training

if TYPE_CHECKING:  # a person who asks for help does not wait for boto3, Celery and pyarrow
    from producer.client import Run

FORMATS = ("table", "csv", "json", "parquet")

no_wait = click.option("--no-wait", is_flag=True, help="Return when all chunks are enqueued; the run goes on.")


@click.command(short_help="Start a run and watch it.")
@click.argument("mode")
@click.argument("source", nargs=-1, required=True)
@MODEL
@changes_of_model
@TOP_K
@click.option("--features", help="Layers, with commas between them. Default: the one before the classifier.")
@click.option("--pool", help="avg, max, flat or none: what becomes of height and width. Default: none.")
@click.option("--dtype", help="float32 or float16. Default: float32.")
@click.option("--with-top", type=click.IntRange(1), help="So many best classes beside the features.")
@click.option("--yes", "even_large", is_flag=True, help="Features may be larger than the images.")
@labels_option
@changes_of_training
@click.option("--output", help="s3:// base of results. Default: pixelherd-results/ in the bucket of the images.")
@click.option("--engine", default="auto", show_default=True, help="auto, openvino or tensorflow.")
@click.option("--precision", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--chunk-size", type=click.IntRange(1, 1000), help="Images of one task. Default: the settings'.")
@click.option("--bucket", help="Bucket of the bare keys of a manifest.")
@no_wait
@as_json
def submit(
    mode: str, source: tuple[str, ...], chunk_size: int | None, no_wait: bool, as_json: bool, **options: Any
) -> int:
    """Start a run of MODE (classify, extract_features, evaluate, fine_tune) over SOURCE and show its progress.

    SOURCE is a prefix (s3://bucket/photos/), a glob (s3://bucket/**/*.jpg), a manifest (.csv, .jsonl, .parquet
    or .txt, here or in S3), the manifest.json of an S3 Inventory, or several s3:// keys.
    """
    from config.settings import read_settings
    from producer.client import submit as submit_run

    settings = read_settings(**({"chunk_size": chunk_size} if chunk_size else {}))
    keys = source[0] if len(source) == 1 else source
    return follow(submit_run(mode, keys, settings=settings, on_event=say, **options), no_wait, as_json)


@click.command()
@click.argument("run")
@click.option("--wait", is_flag=True, help="Show progress until the run has ended.")
@as_json
def status(run: str, wait: bool, as_json: bool) -> int:
    """How RUN stands now, or until it has ended."""
    code = follow(find(run), not wait, as_json)
    tell_refusals()
    return code


@click.command()
@click.argument("run")
@click.option("--limit", type=click.IntRange(1), help="Rows at most. Default: 20 of a table, else all.")
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="File to write; Parquet needs one.")
@as_json
def results(run: str, limit: int | None, form: str, to: Path | None, as_json: bool) -> int:
    """The rows of RUN that are written so far.

    JSON is one object a line; in CSV the best classes, and features, are JSON inside their cell.
    """
    from producer.tables import rows_wanted, write_rows

    found, form = find(run), "json" if as_json else form
    write_rows(found.results(limit=rows_wanted(form, limit)), form, to, found.count_rows())
    return DONE


@click.command()
@click.argument("run")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write it as a page to this file, too.")
@as_json
def report(run: str, html: Path | None, as_json: bool) -> int:
    """What RUN was asked for, how it went, how fast.

    Where RUN has ended, the page report.html in its folder is written anew.
    """
    found = find(run)
    made = found.report(survey=html is not None or found.status().ended)
    if made.status.ended:
        found.write_page(made)
    if html is not None:
        from producer.page import make_page

        write_text(html, make_page(made))
    text = made.to_json() if as_json else made.to_text()
    if made.warning and not as_json:
        text = text.replace(made.warning, click.style(made.warning, fg="red", bold=True), 1)
    click.echo(text)
    return exit_code(made.status)


@click.command()
@click.argument("run")
@as_json
def cancel(run: str, as_json: bool) -> int:
    """End RUN; what is done stays."""
    found = find(run)
    found.cancel()
    show(found.status(), as_json)
    return DONE


@click.command()
@click.argument("run")
@click.option("--even-cancelled", is_flag=True, help="Go on with a run that was cancelled.")
@no_wait
@as_json
def resume(run: str, even_cancelled: bool, no_wait: bool, as_json: bool) -> int:
    """Enqueue what RUN still lacks.

    Chunks that were given up are tried again. Shows the progress, as submit does.
    """
    return follow(find(run).resume(even_cancelled=even_cancelled), no_wait, as_json)


def write_text(to: Path, text: str) -> None:
    """Write a file; a path that cannot be written is the person's."""
    from config.errors import UsageError

    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {to}: {error.strerror}") from error


def find(name: str) -> "Run":
    """A run that exists already."""
    from producer.client import open_run

    return open_run(name, on_event=say)


def tell_refusals() -> None:
    """Say that workers refused messages lately: they name no run, so a run may wait for them in vain."""
    import redis

    from config.refusals import read_refusals
    from config.settings import read_settings
    from producer.held import make_asker

    try:
        with make_asker(read_settings()) as client:
            refusals = read_refusals(client)
    except redis.RedisError:  # how a run stands is known from S3 alone
        return
    if refusals:
        last = refusals[0]
        say(f"workers refused {len(refusals)} messages, the last at {last['at']}: {last['reason']}")
