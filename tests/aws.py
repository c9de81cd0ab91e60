"""A directory -> a metadata service as AWS has it (version 2); and an Auto Scaling endpoint that notes what it is told.

Run as `python tests/aws.py HOST PORT DIRECTORY` it is the metadata service alone, for a machine of its own.
"""

import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl

TOKEN_HEADER = "X-aws-ec2-metadata-token"
LONGEST_TTL_S = 21_600

#: Keys of a role, as the metadata service hands them out.
ROLE_KEYS = (
    '{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "AKIDROLE", "SecretAccessKey": "secret", "Token": "token",'
    ' "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2036-01-01T00:00:00Z"}'
)


class MetadataService(ThreadingHTTPServer):
    """Answers with the files of a directory: spot/instance-action is a file of that name, and absent a 404."""

    daemon_threads = True

    def __init__(self, place: tuple[str, int], directory: Path) -> None:
        self.directory = directory
        self.tokens: dict[str, float] = {}
        self.asked: list[str] = []
        super().__init__(place, _MetadataRequest)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, name: str, value: str) -> None:
        """From now on the machine is told this, whole from its first byte on."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = self.directory / ".new"
        new.write_text(value, encoding="utf-8")
        new.replace(path)


class _MetadataRequest(BaseHTTPRequestHandler):
    server: MetadataService

    def do_PUT(self) -> None:
        ttl = self.headers.get(f"{TOKEN_HEADER}-ttl-seconds", "")
        if self.path != "/latest/api/token" or not ttl.isdigit() or not 1 <= int(ttl) <= LONGEST_TTL_S:
            return self._answer(400)
        token = secrets.token_urlsafe(16)
        self.server.tokens[token] = time.monotonic() + int(ttl)
        return self._answer(200, token)

    def do_GET(self) -> None:
        if self.server.tokens.get(self.headers.get(TOKEN_HEADER, ""), 0.0) < time.monotonic():
            return self._answer(401)
        name = self.path.removeprefix("/latest/meta-data/")
        self.server.asked.append(name)
        path = self.server.directory / name
        if path.is_dir():
            return self._answer(200, "\n".join(sorted(found.name for found in path.iterdir())))
        return self._answer(200, path.read_text(encoding="utf-8")) if path.is_file() else self._answer(404)

    def _answer(self, status: int, text: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class ScalingEndpoint(ThreadingHTTPServer):
    """Takes each call of the Auto Scaling API, or refuses it as AWS does where nobody waits."""

    daemon_threads = True

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.protections: list[dict[str, str]] = []
        self.refuses = False
        super().__init__(("127.0.0.1", 0), _ScalingRequest)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def hook_calls(self) -> list[dict[str, str]]:
        """What was said to a hook, in order."""
        return [call for call in self.calls if "LifecycleHookName" in call]

    def hook_actions(self) -> list[str]:
        """The same, by name."""
        return [call["Action"] for call in self.hook_calls()]


class _ScalingRequest(BaseHTTPRequestHandler):
    server: ScalingEndpoint

    def do_POST(self) -> None:
        call = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        call["key"] = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        protection = call["Action"] == "SetInstanceProtection"  # which a worker says when it likes
        (self.server.protections if protection else self.server.calls).append(call)
        name = call["Action"]
        body = f"<{name}Response><{name}Result/><ResponseMetadata/></{name}Response>"
        if self.server.refuses:
            body = "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code>"
            body += "<Message>No active Lifecycle Action found</Message></Error></ErrorResponse>"
        self.send_response(400 if self.server.refuses else 200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving_forever(server: ThreadingHTTPServer) -> Iterator[None]:
    """Answer until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def metadata_service(directory: Path) -> Iterator[MetadataService]:
    """The metadata service of a machine in a group, with a role and no notice, on a free port of the loopback."""
    service = MetadataService(("127.0.0.1", 0), directory)
    service.put("instance-id", "i-0123456789abcdef0")
    service.put("placement/region", "eu-west-1")
    service.put("autoscaling/target-lifecycle-state", "InService")
    service.put("iam/security-credentials/worker", ROLE_KEYS)
    with serving_forever(service):
        yield service


if __name__ == "__main__":
    MetadataService((sys.argv[1], int(sys.argv[2])), Path(sys.argv[3])).serve_forever()
