"""The command `pixelherd`: parses what a person typed, calls the producer, prints, and answers with an exit code."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.errors import PixelherdError, SettingsError, UsageError

if TYPE_CHECKING:  # a person who asks for help does not wait for boto3, Celery and pyarrow
    from producer.client import Run
    from producer.status import RunStatus

DONE, FAILED, BAD_USAGE, IMAGE_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\b
Exit codes: 0 done (or still going on, for `status` and with --no-wait),
3 done, but some images have an error in their row, 1 failed or cancelled,
2 bad usage or bad settings, 130 interrupted.

\b
Settings come from PIXELHERD_… variables and from the TOML file that
PIXELHERD_CONFIG names. RUN is a run's id or its s3:// address.
"""

FORMATS = ("table", "csv", "json", "parquet")
IMAGES = click.Path(exists=True, file_okay=False, path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program, nothing else.")
no_wait = click.option("--no-wait", is_flag=True, help="Return when all chunks are enqueued; the run goes on.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.version_option(package_name="pixelherd", prog_name="pixelherd")
def cli() -> None:
    """Run a convolutional network over every image of an S3 bucket."""


def main() -> None:
    """Run the command; every error that pixelherd raises on purpose is one line and an exit code."""
    try:
        sys.exit(cli.main(prog_name="pixelherd", standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(BAD_USAGE)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        complain(f"{error.format_message()} (see {context.command_path if context else 'pixelherd'} --help)")
        sys.exit(BAD_USAGE)
    except PixelherdError as error:
        complain(str(error))
        sys.exit(BAD_USAGE if isinstance(error, UsageError | SettingsError) else FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


def complain(text: str) -> None:
    """One line for a person, where it does not mix with results."""
    click.echo(f"{click.style('pixelherd:', fg='red', bold=True)} {text}", err=True)


def say(text: str) -> None:
    """One line for a person who watches."""
    click.echo(text, err=True)


# --- Runs --------------------------------------------------------------------------------------------------------


@cli.command(short_help="Start a run and watch it.")
@click.argument("mode")
@click.argument("source", nargs=-1, required=True)
@click.option("--model", default="efficientnet_lite0", show_default=True, help="`pixelherd models` lists them.")
@click.option("--top", "top_k", default=5, show_default=True, help="Best classes kept for each image.")
@click.option("--output", help="s3:// base of results. Default: pixelherd-results/ in the bucket of the images.")
@click.option("--weights", help="imagenet, random, or s3://… or file:///… of a file. Default: the model's own.")
@click.option("--engine", default="auto", show_default=True, help="auto, openvino or tensorflow.")
@click.option("--precision", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--chunk-size", type=click.IntRange(1, 1000), help="Images of one task. Default: the settings'.")
@click.option("--bucket", help="Bucket of the bare keys of a manifest.")
@no_wait
@as_json
def submit(
    mode: str, source: tuple[str, ...], chunk_size: int | None, no_wait: bool, as_json: bool, **options: Any
) -> int:
    """Start a run of MODE (classify) over SOURCE and show its progress.

    SOURCE is a prefix (s3://bucket/photos/), a glob (s3://bucket/**/*.jpg), a manifest (.csv, .jsonl, .parquet
    or .txt, here or in S3), the manifest.json of an S3 Inventory, or several s3:// keys.
    """
    from config.settings import read_settings
    from producer.client import submit as submit_run

    settings = read_settings(**({"chunk_size": chunk_size} if chunk_size else {}))
    keys = source[0] if len(source) == 1 else source
    return follow(submit_run(mode, keys, settings=settings, on_event=say, **options), no_wait, as_json)


@cli.command()
@click.argument("run")
@click.option("--wait", is_flag=True, help="Show progress until the run has ended.")
@as_json
def status(run: str, wait: bool, as_json: bool) -> int:
    """How RUN stands now, or until it has ended."""
    code = follow(find(run), not wait, as_json)
    tell_refusals()
    return code


@cli.command()
@click.argument("run")
@click.option("--limit", type=click.IntRange(1), help="Rows at most. Default: 20 of a table, else all.")
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="File to write; Parquet needs one.")
@as_json
def results(run: str, limit: int | None, form: str, to: Path | None, as_json: bool) -> int:
    """The rows of RUN that are written so far.

    JSON is one object a line; in CSV the best classes are JSON inside their cell.
    """
    from producer.tables import write_rows

    write_rows(find(run).results(), "json" if as_json else form, to, limit)
    return DONE


@cli.command()
@click.argument("run")
@as_json
def report(run: str, as_json: bool) -> int:
    """What RUN was asked for, how it went, how fast."""
    made = find(run).report()
    text = made.to_json() if as_json else made.to_text()
    if made.warning and not as_json:
        text = text.replace(made.warning, click.style(made.warning, fg="red", bold=True), 1)
    click.echo(text)
    return exit_code(made.status)


@cli.command()
@click.argument("run")
@as_json
def cancel(run: str, as_json: bool) -> int:
    """End RUN; what is done stays."""
    found = find(run)
    found.cancel()
    show(found.status(), as_json)
    return DONE


@cli.command()
@click.argument("run")
@click.option("--even-cancelled", is_flag=True, help="Go on with a run that was cancelled.")
@no_wait
@as_json
def resume(run: str, even_cancelled: bool, no_wait: bool, as_json: bool) -> int:
    """Enqueue what RUN still lacks.

    Chunks that were given up are tried again. Shows the progress, as submit does.
    """
    return follow(find(run).resume(even_cancelled=even_cancelled), no_wait, as_json)


@cli.command()
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


@cli.command()
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


def follow(run: "Run", no_wait: bool, as_json: bool) -> int:
    """Wait for a run, or only until it is enqueued, print how it stands, and give the exit code."""
    if no_wait:
        run.wait_enqueued()
        found = run.status()
    else:
        found = run.wait(progress=not as_json)
    show(found, as_json)
    return exit_code(found)


def show(found: "RunStatus", as_json: bool) -> None:
    """Print how a run stands."""
    from producer.progress import status_line

    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    click.echo(f"{found.run_id}\n{status_line(found)}\nresults   {found.address}/parts/*.parquet")
    if found.chunks_failed:
        click.echo(f"try again pixelherd resume {found.run_id}")
    if found.chunks_done:
        click.echo(f"rows      pixelherd results {found.run_id}\nreport    pixelherd report {found.run_id}")


def exit_code(found: "RunStatus") -> int:
    """The exit code for a run as it stands."""
    if found.phase in ("failed", "cancelled"):
        return FAILED
    return IMAGE_ERRORS if found.phase == "done" and found.errors else DONE


# --- This machine ------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--images", type=IMAGES, help="Upload this directory's pictures, not the sample photographs.")
def up(images: Path | None) -> int:
    """Start Redis, S3, a worker and Flower here.

    Real servers, on free ports of this machine's loopback, with passwords made for this run. They stay up until
    Ctrl-C, and their data goes with them.
    """
    from producer.demo import run_up

    run_up(images)
    return DONE


@cli.command()
@click.option("--exit", "leave", is_flag=True, help="End when the results are shown.")
@click.option("--images", type=IMAGES, help="Classify this directory's pictures, not the sample photographs.")
def demo(leave: bool, images: Path | None) -> int:
    """From photographs to Parquet, all of it here.

    Starts what `up` starts, classifies photographs, shows the result, and stays up until Ctrl-C.
    """
    from producer.demo import run_demo

    return exit_code(run_demo(images, leave))


@cli.command()
@click.option("--processes", type=click.IntRange(1), help="Processes that compute. Default: the settings'.")
def worker(processes: int | None) -> None:
    """Become a worker that takes chunks."""
    from config.settings import read_settings
    from producer.local_stack import become_worker

    become_worker(read_settings(**({"worker_processes": processes} if processes else {})))


@cli.command()
def flower() -> int:
    """Serve Flower: workers and tasks in a browser."""
    from config.flowerconfig import with_login
    from config.settings import read_settings

    given = read_settings()
    settings = with_login(given)
    try:
        from producer.flower_server import serve_flower
    except ModuleNotFoundError as error:
        raise SettingsError(f"no Flower here ({error}): pip install 'pixelherd[flower]'") from error
    text = f"Flower at http://{settings.flower_address}:{settings.flower_port}, user {settings.flower_user}"
    if settings.flower_password and settings.flower_password != given.flower_password:
        text += f", password {settings.flower_password.get_secret_value()} (made for this run)"
    say(text)
    serve_flower(settings)
    return DONE


if __name__ == "__main__":
    main()
