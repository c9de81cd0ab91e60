"""Proxy: from a server's address to another port that leads there, until it is told to swallow all."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOPBACK = "127.0.0.1"

#: Bytes that are passed on at once.
PIECE_BYTES = 65_536


class Proxy:
    """Passes bytes on in both directions. Closed for a while, it still accepts, and nothing comes through."""

    def __init__(self, port: int, address: str = LOOPBACK) -> None:
        self._target = (LOOPBACK, port)
        self._open = threading.Event()
        self._open.set()
        self._sockets: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._listener = socket.create_server((address, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        #: Seconds that each piece of an answer takes.
        self.delay_s = 0.0

    def swallow(self, seconds: float, *, then_drop: bool) -> None:
        """Let nothing through for a while; then deliver it late, as TCP does, or break all connections."""
        self._open.clear()
        time.sleep(seconds)
        if then_drop:
            self.drop()
        self._open.set()

    def drop(self) -> None:
        """Break all connections."""
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Let nothing through any more of what is connected now, and tell neither end, like a gateway that restarts."""
        self._forgotten |= self._sockets

    def serve(self) -> None:
        """Accept until closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def close(self) -> None:
        """Accept no more, and break what there is."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.set()
        self.drop()

    def _join(self, client: socket.socket) -> None:
        self._open.wait()
        with client:
            try:
                server = socket.create_connection(self._target)
            except OSError:
                return
            with server:
                pair = {client, server}
                self._sockets |= pair
                back = threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True)
                back.start()
                self._pass_on(client, server, False)
                back.join()
                self._sockets -= pair
                self._forgotten -= pair

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                self._open.wait()
                if source in self._forgotten:
                    continue
                if answers and self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(piece)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_proxy(port: int, address: str = LOOPBACK) -> Iterator[Proxy]:
    """A proxy before this port of the loopback; other machines reach it where the address is one of a network."""
    proxy = Proxy(port, address)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
