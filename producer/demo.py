"""A directory of pictures, or sample photographs -> a whole run on this machine, shown to a person."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import obstore
from rich.console import Console

from config.clients import make_s3, make_store
from config.errors import UnavailableError, UsageError
from config.settings import CONFIG_VARIABLE
from producer.client import Run, submit
from producer.local_stack import Stack, running_stack
from producer.ports import LOOPBACK
from producer.progress import showing_progress
from producer.status import RunStatus
from producer.tables import ROWS_SHOWN, make_console, print_rows

#: Photographs inside the package scikit-image whose labels a person can check at a glance.
SAMPLES = ("camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")

BUCKET = "demo"
PHOTOS = f"s3://{BUCKET}/photos/"
RESULTS = f"s3://{BUCKET}/results/"

#: Endings of pictures in a person's directory.
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

#: Seconds between two looks at whether all of the stack is still there.
LOOK_INTERVAL_S = 1.0

#: What ends a stack: Ctrl-C, a service manager, a terminal that is closed.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(images: Path | None, leave: bool) -> RunStatus:
    """Start a stack, classify the pictures, show the results, and stay up until Ctrl-C unless told to leave."""
    pictures, console = find_pictures(images), make_console(sys.stdout)
    with started_stack(console) as stack:
        upload(stack, pictures)
        console.print(f"Classifying {len(pictures)} pictures of {PHOTOS}")
        run = submit("classify", PHOTOS, settings=stack.settings, output=RESULTS, on_event=_ignore)
        with showing_progress() as show_bar:

            def show(status: RunStatus) -> None:
                stack.check()
                show_bar(status)

            status = run.wait(show=show)
        print_rows(run.results(limit=ROWS_SHOWN), console, run.count_rows())
        tell_where(console, stack, run)
        if not leave:
            tell_next(console, stack, run)
            stay_up(console, stack)
    return status


def run_up(images: Path | None) -> None:
    """Start a stack that holds some pictures, say how to use it, and stay up until Ctrl-C."""
    pictures, console = find_pictures(images), make_console(sys.stdout)
    with started_stack(console) as stack:
        upload(stack, pictures)
        tell_where(console, stack, None)
        tell_next(console, stack, None)
        stay_up(console, stack)


def find_pictures(directory: Path | None) -> dict[str, Path]:
    """Name -> file: of a person's directory, or of the sample photographs."""
    if directory is not None:
        files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            raise UsageError(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {directory}")
        return {path.relative_to(directory).as_posix(): path for path in files}
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise UnavailableError("no sample photographs here: pip install 'pixelherd[local]', or give --images DIR")
    return {name: Path(package.origin).parent / "data" / name for name in SAMPLES}


@contextmanager
def started_stack(console: Console) -> Iterator[Stack]:
    """A stack, with something to look at while it starts, that ends in order however it is ended."""
    no_proxy = ",".join(filter(None, (os.environ.get("NO_PROXY"), LOOPBACK)))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = no_proxy  # no proxy in between knows our loopback
    with ending_in_order(), ExitStack() as opened:
        began = time.monotonic()
        what = f"Valkey, an S3 server, a worker and Flower on {LOOPBACK}"
        with console.status(f"Starting {what}"):
            stack = opened.enter_context(running_stack())
        console.print(f"Started {what} in {time.monotonic() - began:.1f} s")
        yield stack


@contextmanager
def ending_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end as Ctrl-C does, and a second one does not cut the ending short."""

    def end(*_: object) -> None:
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def upload(stack: Stack, pictures: dict[str, Path]) -> None:
    """Put the pictures into a new bucket of the stack."""
    make_s3(stack.settings).create_bucket(Bucket=BUCKET)
    store = make_store(stack.settings, BUCKET)
    for name, path in pictures.items():
        obstore.put(store, PHOTOS.removeprefix(f"s3://{BUCKET}/") + name, path)


def tell_where(console: Console, stack: Stack, run: Run | None) -> None:
    """Say where everything is."""
    settings = stack.settings
    password = settings.flower_password.get_secret_value() if settings.flower_password else ""
    places = {
        "Photos": PHOTOS,
        "Parquet": f"{run.address}/parts/*.parquet" if run else "",
        "Report": f"{command_name()} report {run.run_id}" if run else "",
        "S3": f"{settings.s3_endpoint_url}, keys in {stack.config}",
        "Flower": f"{stack.flower_url}, user {settings.flower_user}, password {password}",
    }
    for name, place in places.items():
        if place:
            console.print(f"{name:<8} {place}", soft_wrap=True)


def tell_next(console: Console, stack: Stack, run: Run | None) -> None:
    """Say what a person may type now."""
    lines = [f"export {CONFIG_VARIABLE}={stack.config}", f"{command_name()} submit classify {PHOTOS}"]
    if run is not None:
        lines[1:] = [
            f"{command_name()} report {run.run_id}",
            f"{command_name()} results {run.run_id} --format parquet --to rows.parquet",
        ]
    console.print("\nIn another shell:")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


def command_name() -> str:
    """How a person calls us: by name where the shell finds it, else by path."""
    here = Path(sys.argv[0])
    return "pixelherd" if shutil.which("pixelherd") or here.name != "pixelherd" else str(here)


def stay_up(console: Console, stack: Stack) -> None:
    """Return at Ctrl-C; UnavailableError where a process of the stack ends by itself."""
    try:  # from the first letter on: who reads that Ctrl-C ends it may type it before we come back from printing
        console.print("\nCtrl-C ends all of it and removes its data.")
        while True:
            stack.check()
            time.sleep(LOOK_INTERVAL_S)
    except KeyboardInterrupt:
        console.print("Ending")


def _ignore(_: str) -> None:
    """A stack that is about to end needs no advice on how its run goes on."""
