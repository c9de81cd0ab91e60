"""A proxy on the loopback before the S3 server: counts what passes, and answers in its place where a test says so."""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What S3 says when it does not want to; without a code it is something on the way that says it."""

    status: int
    code: str

    @property
    def body(self) -> bytes:
        if not self.code:
            return b"<html><body>gateway</body></html>"
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{self.code}</Code><Message>no</Message></Error>'
        ).encode()


class Trouble(Enum):
    """What S3, or the way to it, does without saying anything."""

    HANG = auto()  # nothing comes for HANG_S
    RESET = auto()  # the connection breaks before an answer
    CUT = auto()  # it ends in the middle of the body


#: Seconds that a request hangs; longer than a client of these tests waits.
HANG_S = 8.0


@dataclass
class Proxy:
    """Its address, the requests that came (method and target), and the rule by which some meet something else."""

    url: str
    seen: list[str] = field(default_factory=list)
    answer: Callable[[str], Answer | Trouble | None] = lambda request: None
    closed: threading.Event = field(default_factory=threading.Event)

    def count(self, *parts: str) -> int:
        """Requests that hold all these parts."""
        return sum(all(part in request for part in parts) for request in self.seen)


class Forward(BaseHTTPRequestHandler):
    """Forwards every request as it is: the signature covers the Host header, which stays the proxy's."""

    protocol_version = "HTTP/1.1"
    proxy: ClassVar[Proxy]
    behind: ClassVar[str]

    def _forward(self) -> None:
        request = f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.proxy.seen.append(request)
        met = self.proxy.answer(request)
        if isinstance(met, Answer):
            self._send(met.status, {"Content-Type": "application/xml"}, met.body)
        elif met is Trouble.HANG:
            self.proxy.closed.wait(HANG_S)
            self._reset()
        elif met is Trouble.RESET:
            self._reset()
        else:
            self._ask(body, cut=met is Trouble.CUT)

    def _ask(self, body: bytes, cut: bool) -> None:
        connection = http.client.HTTPConnection(self.behind, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            headers, answered = dict(response.getheaders()), response.read()
            self._send(response.status, headers, answered[: len(answered) // 2] if cut else answered, len(answered))
            self.close_connection = self.close_connection or cut
        finally:
            connection.close()

    def _reset(self) -> None:
        """End the connection by a TCP reset, once what was written is on its way."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _send(self, status: int, headers: dict[str, str], body: bytes, whole: int | None = None) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else whole
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def running_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before this URL."""

    class Bound(Forward):
        behind = urlsplit(upstream).netloc

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    server.block_on_close = False
    proxy = Bound.proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
