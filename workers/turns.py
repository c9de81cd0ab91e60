"""Turns: from a lock file to a block that one process or thread of this machine runs at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.errors import TransientError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets it go even when its holder is killed.

    Raises TransientError where the file cannot be made: that is no fault of what is done under the lock.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise TransientError(f"cannot lock {path}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
