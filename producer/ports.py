"""How many ports a server wants -> free ones on the loopback, and others where somebody was quicker."""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

from config.errors import UnavailableError

LOOPBACK = "127.0.0.1"

#: Below those that Linux (32768) and macOS (49152) give to outgoing connections: a server that binds a second
#: after we looked would find one of those taken.
PORTS = range(15_000, 32_768)

#: Times that a server is started on other ports, when somebody took one between our look and its start.
START_TRIES = 5

T = TypeVar("T")


@contextmanager
def on_free_ports(count: int, start: Callable[[list[int]], AbstractContextManager[T]]) -> Iterator[T]:
    """Start a server on free ports, and on others where somebody was quicker."""
    with ExitStack() as stack:
        for left in reversed(range(START_TRIES)):
            ports = free_ports(count)
            try:
                value = stack.enter_context(start(ports))
                break
            except UnavailableError:
                if not left or all(map(_is_free, ports)):
                    raise
        yield value


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment, all different."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def is_open(port: int) -> bool:
    """Whether somebody listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
