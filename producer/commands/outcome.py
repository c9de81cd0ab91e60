"""Outcome: from how a run stands to what a person or a program reads, and to the exit code."""

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # a person who asks for help does not wait for boto3, Celery and pyarrow
    from producer.client import Run
    from producer.status import RunStatus

DONE, FAILED, BAD_USAGE, IMAGE_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program, nothing else.")


def complain(text: str) -> None:
    """One line for a person, where it does not mix with results."""
    click.echo(f"{click.style('pixelherd:', fg='red', bold=True)} {text}", err=True)


def say(text: str) -> None:
    """One line for a person who watches."""
    click.echo(text, err=True)


def follow(run: "Run", no_wait: bool, as_json: bool) -> int:
    """Wait for a run, or only until it is enqueued, print how it stands, and give the exit code."""
    if no_wait:
        run.wait_enqueued()
        found = run.status()
    else:
        found = run.wait(progress=not as_json)
    show(found, as_json)
    if found.ended and not as_json:
        click.echo(f"page      {found.address}/report.html")
    return exit_code(found)


def show(found: "RunStatus", as_json: bool) -> None:
    """Print how a run stands."""
    from producer.progress import status_line

    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    click.echo(f"{found.run_id}\n{status_line(found)}\nresults   {found.address}/parts/*.parquet")
    if found.training is not None and found.training.summary is not None:
        click.echo(f"model     {found.address}/model.keras")
    if found.reason:
        click.echo(f"stopped   {found.reason}")
    if found.chunks_failed or found.reason:
        click.echo(f"try again pixelherd resume {found.run_id}")
    if found.chunks_done:
        click.echo(f"rows      pixelherd results {found.run_id}\nreport    pixelherd report {found.run_id}")


def exit_code(found: "RunStatus") -> int:
    """The exit code for a run as it stands."""
    if found.phase in ("failed", "cancelled"):
        return FAILED
    return IMAGE_ERRORS if found.phase == "done" and found.errors else DONE
