"""A worker's app with one more image format, whose images do to the process what their bytes say.

A real decoder that dies of real bytes is a security hole somebody mends; this one stays. `celery -A
tests.integration.deadly worker` starts it. Each death is a line of the file that DEADLY_LOG names.
"""

import os
import signal
import time
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile

from workers.app import app

__all__ = ["MAGIC", "app"]  # the same worker, with one more format

#: What the bytes of a deadly image begin with; the name of a deed follows.
MAGIC = b"DEADLY "


def _die_alone() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _die_with_the_whole_worker() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(3_600)


def _run_out_of_memory() -> None:
    raise MemoryError


def _allocate_without_end() -> None:
    hoard = []
    while True:
        hoard.append(b"\1" * (64 << 20))  # written to: memory that nobody touches is not there yet


class UnforeseenError(Exception):
    """What nobody thought of."""


def _surprise() -> None:
    raise UnforeseenError("a bug")


DEEDS = {
    "sigkill": _die_alone,
    "sigsegv": _crash,
    "tree": _die_with_the_whole_worker,
    "hang": _hang,
    "allocate": _allocate_without_end,
    "memory": _run_out_of_memory,
    "bug": _surprise,
}


def _open(file: IO[bytes], _: str | bytes) -> ImageFile.ImageFile:
    deed = file.read()[len(MAGIC) :].decode()
    with Path(os.environ["DEADLY_LOG"]).open("a", encoding="ascii") as log:
        log.write(f"{deed}\n")
    DEEDS[deed]()
    raise OSError(deed)


if "DEADLY_LOG" in os.environ:  # a worker, and not the test that asks for MAGIC and goes on to decode a real TGA
    # Under the name of a format that is tried anyway: the pipeline itself stays as it is.
    Image.init()
    Image.register_open("TGA", _open, lambda prefix: prefix.startswith(MAGIC[:6]))
