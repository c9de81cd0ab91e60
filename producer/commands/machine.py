"""Machine: the commands that turn this machine into a part of the herd, or into all of it."""

from pathlib import Path

import click

from config.errors import SettingsError
from producer.commands.outcome import DONE, as_json, exit_code, say

IMAGES = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--images", type=IMAGES, help="Upload this directory's pictures, not the sample photographs.")
def up(images: Path | None) -> int:
    """Start Redis, S3, a worker and Flower here.

    Real servers, on free ports of this machine's loopback, with passwords made for this run. They stay up until
    Ctrl-C, and their data goes with them.
    """
    from producer.demo import run_up

    run_up(images)
    return DONE


@click.command()
@click.option("--exit", "leave", is_flag=True, help="End when the results are shown.")
@click.option("--images", type=IMAGES, help="Classify this directory's pictures, not the sample photographs.")
def demo(leave: bool, images: Path | None) -> int:
    """From photographs to Parquet, all of it here.

    Starts what `up` starts, classifies photographs, shows the result, and stays up until Ctrl-C.
    """
    from producer.demo import run_demo

    return exit_code(run_demo(images, leave))


@click.command()
@click.option("--processes", type=click.IntRange(1), help="Processes that compute. Default: the settings'.")
def worker(processes: int | None) -> None:
    """Become a worker that takes chunks."""
    from config.settings import read_settings
    from producer.local_stack import become_worker

    become_worker(read_settings(**({"worker_processes": processes} if processes else {})))


@click.command()
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


@click.command()
@click.option("--fleet", help="Name under which the metrics are published. Default: the settings'.")
@click.option("--once", is_flag=True, help="Publish once, print the figures, and end.")
@click.option("--dry-run", is_flag=True, help="Publish nothing and repair nothing.")
@as_json
def autoscale(fleet: str | None, once: bool, dry_run: bool, as_json: bool) -> int:
    """Publish the backlog that a worker group follows.

    Each 30 s the images that are still to do over all runs, and the seconds that the workers need for them, go to
    CloudWatch; chunks that got lost are enqueued again. Until SIGTERM, or --once.
    """
    import logging

    from config.settings import read_settings
    from producer.autoscale import LOG_FORMAT, look_once, run_autoscale, to_json, to_text

    if as_json and not once:
        raise click.UsageError("--json goes with --once; without it the figures are lines of the log")
    settings = read_settings(**({"fleet": fleet} if fleet else {}))
    logging.basicConfig(level=logging.WARNING if once else logging.INFO, format=LOG_FORMAT)
    if not once:
        run_autoscale(settings, say, dry_run=dry_run)
        return DONE
    figures, problems = look_once(settings, say, publish=not dry_run)
    click.echo(to_json(figures, problems) if as_json else to_text(figures))
    for problem in () if as_json else problems:
        say(f"could not look: {problem}")
    return DONE
