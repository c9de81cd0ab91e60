"""Progress: from one RunStatus after another to a bar in a terminal, or to plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from config.results import Tally
from producer.status import Phase, RunStatus

Show = Callable[[RunStatus], None]

#: Seconds between two plain lines: a log of an hour has 720 of them.
LINE_INTERVAL_S = 5.0


@contextmanager
def showing_progress(console: Console | None = None) -> Iterator[Show]:
    """A function that shows each status it is given; on stderr, so that stdout is for results."""
    console = console or Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        with _bar(console) as progress:
            task = progress.add_task("", total=None, phase="", facts="")
            yield lambda status: _update_bar(progress, task, status)
    else:
        yield _Lines(console)


def status_line(status: RunStatus) -> str:
    """One line that says all: `running   1,280 of 10,000 images (12.8 %), 96.1 images/s, 1:31 left`."""
    if status.phase is Phase.TRAINING and status.training is not None:
        return f"{status.phase.value:<9} {_amount(status)}, {status.training.line()}"
    facts = [_amount(status)]
    if status.failed:
        facts.append(f"{status.failed:,} given up")
    if status.errors:
        facts.append(f"{status.errors:,} with an error")
    if ranked := status.tally.get(Tally.RANKED):
        facts.append(f"top-1 {100 * status.tally[Tally.TOP1] / ranked:.1f} %")
    if status.images_per_s:
        facts.append(f"{status.images_per_s:,.1f} images/s")
    if status.eta_s is not None and not status.ended:
        facts.append(f"{clock(status.eta_s)} left")
    if status.training is not None and status.training.last is not None:
        facts.append(status.training.line())
    return f"{status.phase.value:<9} {', '.join(facts)}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _amount(status: RunStatus) -> str:
    if status.images is None:
        return f"{status.done:,} of {status.listed:,} images or more"
    percent = 100 * status.done / status.images if status.images else 100.0
    return f"{status.done:,} of {status.images:,} images ({percent:.1f} %)"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[phase]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[facts]}"),
        console=console,
        expand=True,
    )


def _update_bar(progress: Progress, task: TaskID, status: RunStatus) -> None:
    phase, _, facts = status_line(status).partition(" ")
    total = status.images if status.images is not None else None
    progress.update(task, total=total, completed=status.done + status.failed, phase=phase, facts=facts.strip())


class _Lines:
    """Prints a line when something changed and some seconds are over, and the last one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed_at = float("-inf")
        self._last = ""

    def __call__(self, status: RunStatus) -> None:
        line, now = status_line(status), time.monotonic()
        due = now - self._printed_at >= LINE_INTERVAL_S or status.phase is Phase.DONE or status.ended
        if due and line != self._last:
            self._printed_at, self._last = now, line
            self._console.print(line, highlight=False, soft_wrap=True)
