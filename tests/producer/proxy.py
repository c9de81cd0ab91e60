"""A proxy on the loopback before the S3 server: counts what passes, and answers in its place where a test says so."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What S3 says when it does not want to."""

    status: int
    code: str

    @property
    def body(self) -> bytes:
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{self.code}</Code><Message>no</Message></Error>'
        ).encode()


@dataclass
class Proxy:
    """Its address, the requests that came (method and target), and the rule by which some are answered at once."""

    url: str
    seen: list[str] = field(default_factory=list)
    answer: Callable[[str], Answer | None] = lambda request: None

    def count(self, *parts: str) -> int:
        """Requests that hold all these parts."""
        return sum(all(part in request for part in parts) for request in self.seen)


@contextmanager
def running_proxy(upstream: str) -> Iterator[Proxy]:
    """Forward every request as it is: the signature covers the Host header, which stays the proxy's."""
    behind = urlsplit(upstream).netloc

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            request = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.seen.append(request)
            if (refusal := proxy.answer(request)) is not None:
                self._send(refusal.status, {"Content-Type": "application/xml"}, refusal.body)
                return
            connection = http.client.HTTPConnection(behind, timeout=30)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                headers = dict(response.getheaders())
                self._send(response.status, headers, response.read())
            finally:
                connection.close()

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    server.daemon_threads = True
    server.block_on_close = False
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
