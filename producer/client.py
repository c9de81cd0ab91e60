"""Client: the Python face; from a mode and a source to a Run that can be watched, read, cancelled, resumed."""

import difflib
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Self, Unpack

import pyarrow as pa

from config.clients import make_store
from config.errors import PixelherdError, UnavailableError, UsageError
from config.messages import Mode
from config.results import RunAddress, RunRecord
from config.settings import Settings, read_settings
from producer.enqueuer import OnEvent
from producer.feed import Feed
from producer.progress import Show, showing_progress
from producer.recent import recent_runs, remember
from producer.reconcile import Reconciler
from producer.records import read_run, write_page
from producer.report import RunReport, make_report
from producer.request import Options, RunRequest, make_request
from producer.resume import cancel_run, resume_run
from producer.rows import count_rows, in_order, read_rows
from producer.run import OpenRun, submit_run
from producer.source import split_key
from producer.status import Phase, RunPoller, RunStatus
from producer.trained import read_history

logger = logging.getLogger(__name__)

#: Keys that `classify` takes at once; more are a run.
HANDFUL = 1_000

#: Seconds that `classify` waits: a worker that has just started loads its network first.
HANDFUL_TIMEOUT_S = 300.0

#: Seconds between two looks at a run: short at first, for a handful of keys, then longer.
FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 2.0
LOOK_GROWTH = 1.3

#: A look at a large run takes long; it is left alone for so many times as long.
LOOK_REST = 5.0

#: Seconds without one finished chunk after which a person is asked whether a worker runs.
NO_WORKER_S = 30.0


def submit(
    mode: str,
    source: str | PathLike[str] | Sequence[str],
    *,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
    **options: Unpack[Options],
) -> "Run":
    """Start a run over a prefix, a glob, a manifest, an S3 Inventory or a list of keys, and return at once.

    Listing and enqueueing go on in the background; `Run.wait` joins them and raises what goes wrong there.
    `on_event` is told one line for a person whenever the broker makes the run wait.
    """
    settings = settings or read_settings()
    request = make_request(mode, source, settings, settings.queue, options)
    return Run(*_submitted(request, settings, on_event))


def classify(
    keys: str | Sequence[str],
    *,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
    timeout_s: float = HANDFUL_TIMEOUT_S,
    **options: Unpack[Options],
) -> pa.Table:
    """Classify a handful of keys before all bulk work, and return a row for each, in the order asked."""
    return _do_now(Mode.CLASSIFY, keys, Now(settings or read_settings(), on_event, timeout_s), options)


def extract_features(
    keys: str | Sequence[str],
    *,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
    timeout_s: float = HANDFUL_TIMEOUT_S,
    **options: Unpack[Options],
) -> pa.Table:
    """Extract the features of a handful of keys, as `classify` does its work; a handful is never too large.

    `features_array` makes a NumPy array of a column.
    """
    options.setdefault("even_large", True)
    return _do_now(Mode.EXTRACT_FEATURES, keys, Now(settings or read_settings(), on_event, timeout_s), options)


def open_run(name: str, *, settings: Settings | None = None, on_event: OnEvent | None = None) -> "Run":
    """The run of this id, or at this s3:// address.

    A bare id is looked for among the runs that were submitted on this machine, then under settings.output.
    """
    settings = settings or read_settings()
    address = _find_address(name, settings)
    store = make_store(settings, address.bucket)
    return Run(OpenRun(address, read_run(store, address), store, settings, on_event or _log_event))


class Run:
    """One submission and all that it leaves."""

    def __init__(self, run: OpenRun, feed: Feed | None = None) -> None:
        self._run = run
        self._feed = feed
        self._poller = RunPoller(run)
        self._reconciler = Reconciler(run, self._poller)
        self._repair: Feed | None = None

    def __repr__(self) -> str:
        return f"<Run {self.address}>"

    @property
    def run_id(self) -> str:
        return self._run.address.run_id

    @property
    def address(self) -> RunAddress:
        """Where it lies in S3; str() of it is a URI."""
        return self._run.address

    @property
    def record(self) -> RunRecord:
        """What it was asked for."""
        return self._run.record

    def status(self) -> RunStatus:
        """How it stands now, from what S3 holds."""
        return self._poller.poll()

    def results(self, columns: Sequence[str] | None = None, limit: int | None = None) -> pa.Table:
        """The rows that are written so far, or the first of them, in the manifest's order; all of them in memory."""
        return read_rows(self._run, columns, limit)

    def count_rows(self) -> int:
        """How many rows `results` would give, without reading them."""
        return count_rows(self._run)

    def report(self, *, survey: bool = False) -> RunReport:
        """Its summary, for a person or a program; with a `survey` of its rows, also for a page."""
        return make_report(self._run, self.status(), survey=survey)

    def write_page(self, report: RunReport | None = None) -> None:
        """Write report.html into its folder, of now, or of a report with a survey that was made.

        A run has ended so or so: where the page cannot be written, `on_event` hears why.
        """
        from producer.page import make_page

        try:
            write_page(self._run.store, self.address, make_page(report or self.report(survey=True)))
        except PixelherdError as error:
            self._run.on_event(f"report.html could not be written: {error}")

    def history(self) -> pa.Table:
        """A row for each epoch of its training that is done; a run of mode fine_tune alone has some."""
        return read_history(self._run.store, self.address, self.record)

    def cancel(self) -> None:
        """Stop feeding, and have the workers leave its chunks alone; what is done stays."""
        self.stop_feeding()
        cancel_run(self._run)

    def resume(self, *, even_cancelled: bool = False) -> Self:
        """Enqueue what has no result, given-up chunks too, and go on listing where that was cut off."""
        self.stop_feeding()
        self._feed = resume_run(self._run, even_cancelled=even_cancelled)
        self._reconciler.queue = self._run.settings.queue
        return self

    def stop_feeding(self) -> None:
        """Enqueue no more; `resume` goes on."""
        for feed in self._feeds():
            feed.end()

    def wait_enqueued(self, timeout_s: float | None = None) -> bool:
        """Wait until the last chunk is in the queue, and raise what went wrong; False after `timeout_s`."""
        try:
            return self._feed is None or self._feed.join(timeout_s)
        except KeyboardInterrupt:
            self._say_how_to_go_on()
            raise

    def wait(
        self,
        *,
        progress: bool = False,
        show: Show | None = None,
        timeout_s: float | None = None,
        page: bool = True,
    ) -> RunStatus:
        """Wait until the run is done, failed or cancelled; raise what went wrong while it was fed.

        Chunks that got lost in a Redis that was wiped, or with a machine, are enqueued again meanwhile.
        `progress` draws a bar on stderr, or prints lines where that is no terminal; `show` is given each status.
        At the end report.html is written, unless there shall be no `page`.
        """
        try:
            with showing_progress() if progress and show is None else nullcontext(show or _show_nothing) as tell:
                status = self._watch(tell, timeout_s)
        except KeyboardInterrupt:
            self._say_how_to_go_on()
            raise
        except PixelherdError:
            self.stop_feeding()  # nobody would hear of what goes wrong from here on
            raise
        finally:
            self._reconciler.close()
        if not status.ended:
            raise UnavailableError(f"{self.run_id} is not done after {timeout_s:g} s; is a worker running?")
        if page:
            self.write_page()
        return status

    def _watch(self, show: Show, timeout_s: float | None) -> RunStatus:
        """Look until the run has ended or the time is over."""
        began, look_s, asked = time.monotonic(), FIRST_LOOK_S, False
        while True:
            looked = time.monotonic()
            feeding = self._feed is not None and self._feed.running  # before the look, or it may be an old one
            status = self._poller.poll()
            show(status)
            for feed in self._feeds():
                feed.check()
                if status.phase in (Phase.DONE, Phase.CANCELLED) or status.reason:
                    feed.stop()
            if not feeding and status.ended:
                return status
            if self._repair is None or not self._repair.running:
                self._repair = self._reconciler.look()
            now = time.monotonic()
            if timeout_s is not None and now - began >= timeout_s:
                return status
            if not asked and not status.chunks_done and now - began > NO_WORKER_S:
                asked = True
                self._run.on_event("no chunk is done yet; is a worker running? `pixelherd worker` starts one")
            time.sleep(max(look_s, LOOK_REST * (now - looked)))
            look_s = min(LONGEST_LOOK_S, LOOK_GROWTH * look_s)

    def _feeds(self) -> list[Feed]:
        """What is sending chunks, or was: the run's own feed, and one of chunks that had got lost."""
        return [feed for feed in (self._feed, self._repair) if feed is not None]

    def _say_how_to_go_on(self) -> None:
        feeding = self._feed is not None and self._feed.running
        for feed in self._feeds():
            feed.stop()
        if feeding:
            self._run.on_event(f"not all is enqueued; `pixelherd resume {self.run_id}` goes on")
        else:
            self._run.on_event(f"the run goes on; `pixelherd status {self.run_id}` tells, `pixelherd cancel` ends it")


@dataclass(frozen=True, slots=True)
class Now:
    """How a handful is done, and who waits for it."""

    settings: Settings
    on_event: OnEvent | None
    timeout_s: float


def _do_now(mode: Mode, keys: str | Sequence[str], now: Now, options: Options) -> pa.Table:
    asked = [keys] if isinstance(keys, str) else list(keys)
    if len(asked) > HANDFUL:
        raise UsageError(f"{len(asked)} keys are more than a handful ({HANDFUL}); submit them as a run")
    request = make_request(mode, asked, now.settings, now.settings.now_queue, options)
    run = Run(*_submitted(request, now.settings, now.on_event))
    status = run.wait(timeout_s=now.timeout_s, page=False)
    if status.phase is not Phase.DONE:
        reasons = {failure.error for failure in run.report().failures} or {status.phase.value}
        raise UnavailableError(f"{run.run_id} was given up: {'; '.join(sorted(reasons))}")
    return in_order(run.results(), [split_key(text, options.get("bucket"))[1] for text in asked])


def _submitted(request: RunRequest, settings: Settings, on_event: OnEvent | None) -> tuple[OpenRun, Feed]:
    run, feed = submit_run(request, settings, on_event or _log_event)
    remember(run.address)
    return run, feed


def start(request: RunRequest, settings: Settings, on_event: OnEvent | None) -> "Run":
    """Start a run that is checked already."""
    return Run(*_submitted(request, settings, on_event))


def _find_address(name: str, settings: Settings) -> RunAddress:
    if name.startswith("s3://"):
        return RunAddress.parse(name)
    known = {address.run_id: address for address in recent_runs()}
    if name in known:
        return known[name]
    if settings.output is not None:
        return RunAddress.of(settings.output, name)
    near = difflib.get_close_matches(name, known, n=1)
    offer = f"did you mean {near[0]}?" if near else "give its address, s3://…/<run id>"
    raise UsageError(f"no run {name!r} was submitted on this machine: {offer}")


def _log_event(text: str) -> None:
    logger.warning("%s", text)


def _show_nothing(status: RunStatus) -> None:
    """Nobody looks."""
