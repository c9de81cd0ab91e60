"""What the tests of the house's doors share: waiting for something to become true, and who listens where."""

import time
from collections.abc import Callable, Iterable

import psutil

from producer.processes import Child

#: Seconds for anything that a test waits for, on a machine that does other things too.
PATIENCE_S = 240.0


def wait_for(true: Callable[[], object], child: Child) -> None:
    """Return as soon as something is true; fail with the end of the child's log where it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, child.program.log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def doors(processes: Iterable[psutil.Process]) -> set[str]:
    """The addresses on which these processes wait for others, TCP and UDP."""
    sockets = [at for process in processes for at in process.net_connections("inet")]
    return {at.laddr.ip for at in sockets if at.status == psutil.CONN_LISTEN or (at.laddr and not at.raddr)}
