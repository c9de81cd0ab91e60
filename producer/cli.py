"""The command `pixelherd`: parses what a person typed, calls the producer, prints, and answers with an exit code."""

import sys

import click

from config.errors import PixelherdError, SettingsError, UsageError
from producer.commands import catalogue, evaluation, machine, runs
from producer.commands.outcome import BAD_USAGE, DONE, FAILED, INTERRUPTED, complain

EXIT_CODES = """\b
Exit codes: 0 done (or still going on, for `status` and with --no-wait),
3 done, but some images have an error in their row, 1 failed or cancelled,
2 bad usage or bad settings, 130 interrupted.

\b
Settings come from PIXELHERD_… variables and from the TOML file that
PIXELHERD_CONFIG names. RUN is a run's id or its s3:// address.
"""

COMMANDS = (
    runs.submit,
    evaluation.evaluate,
    runs.status,
    runs.results,
    runs.report,
    runs.cancel,
    runs.resume,
    catalogue.models,
    catalogue.layers,
    machine.up,
    machine.demo,
    machine.worker,
    machine.flower,
    machine.autoscale,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.version_option(package_name="pixelherd", prog_name="pixelherd")
def cli() -> None:
    """Run a convolutional network over every image of an S3 bucket."""


for command in COMMANDS:
    cli.add_command(command)


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


if __name__ == "__main__":
    main()
