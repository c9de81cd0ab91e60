"""Machines that die, lose connections or have a wrong clock: a chunk goes to others when it must, and only then."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import pools

from benchmarks.herd import Herd, Supervised
from tests.integration.herds import PATIENCE_S, Task, hands, herd_of, serving, submit, wait_until, written

CHUNK = 16

#: Seconds for each answer of S3.
SLOW_S = 0.22

#: Seconds between two looks at who has the chunk of the machine that died; others are at work meanwhile.
LOOK_S = 0.5

SETTINGS = {"chunk_size": CHUNK, "engine_threads": 1, "decode_threads": 1, "fetch_threads": 1}

servers_of_our_own, herd = herd_of(**SETTINGS, visibility_timeout_s=6)


class Death:
    """A machine that died with a chunk in hand, and how long that chunk was in nobody's hand."""

    def __init__(self, herd: Herd) -> None:
        self.herd = herd
        self.task: Task = submit(herd, CHUNK, 3.0)
        wait_until(lambda: hands(herd), "a chunk in hand", herd)
        ((self.chunk, (holder, _)),) = hands(herd).items()
        worker_of(herd, holder).kill()
        self.seconds = 0.0
        self._dead = holder
        self._left = threading.Event()
        self._began = time.monotonic()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def end(self) -> None:
        self._watching.join()

    def leave(self) -> None:
        """Watch no longer, whatever came of it: its servers are about to end."""
        self._left.set()
        self._watching.join()

    def _watch(self) -> None:
        while hands(self.herd).get(self.chunk, (self._dead,))[0] == self._dead:
            if self._left.wait(LOOK_S) or time.monotonic() - self._began > PATIENCE_S:
                return
        self.seconds = time.monotonic() - self._began


def worker_of(herd: Herd, holder: str) -> Supervised:
    """The worker to whose processes a chunk's holder belongs."""
    pid = int(holder.partition("/")[2].partition("-")[0])
    (found,) = [worker for worker in herd.workers if pid in {child.pid for child in worker.children()}]
    return found


@pytest.fixture(scope="module", autouse=True)
def death(cache_dir: Path) -> Iterator[Death]:
    """At the default settings of all that delivers; it takes a minute, in which the other tests go on."""
    with serving(cache_dir, **SETTINGS) as herd:
        for _ in range(2):
            herd.add_worker()
        for worker in herd.workers:
            worker.child.wait()
        death = Death(herd)
        yield death
        death.leave()


def test_a_chunk_longer_than_the_visibility_timeout_runs_once_though_its_worker_loses_its_connections(
    herd: Herd,
) -> None:
    for _ in range(2):
        herd.add_worker().child.wait()
    task = submit(herd, CHUNK, SLOW_S)
    wait_until(lambda: hands(herd), "a chunk in hand", herd)
    first = hands(herd)
    began = time.monotonic()
    herd.redis_proxy.drop()
    pools.reset()  # of this process, for who talks to workers next
    wait_until(lambda: "onnection to broker lost" in herd.logs(), "a word of the loss", herd)
    task.finish()
    assert time.monotonic() - began > 1.5 * herd.settings.visibility_timeout_s
    assert written(herd) == dict.fromkeys(first, 1)
    assert "half_of" not in herd.logs()
    for worker in herd.workers:
        worker.child.check()


def test_machines_whose_clocks_are_an_hour_off_neither_lose_nor_repeat_a_chunk(herd: Herd) -> None:
    for app in ("ahead", "behind"):
        herd.add_worker(f"tests.integration.{app}").child.wait()
    task = submit(herd, 3 * CHUNK, SLOW_S / 2)
    task.finish()
    assert "held_elsewhere=yes" in herd.logs()  # the one took what the other one had
    assert set(written(herd).values()) == {1}
    assert "half_of" not in herd.logs()


def test_a_machine_that_dies_gives_its_chunk_to_others_within_90_s_at_default_settings(death: Death) -> None:
    death.end()
    assert os.environ.get("PIXELHERD_VISIBILITY_TIMEOUT_S") is None
    assert death.herd.settings.visibility_timeout_s == 60
    assert 0 < death.seconds < 90  # 61 s as a rule
    death.herd.s3_proxy.delay_s = 0.0
    death.task.finish()
    assert written(death.herd) == {death.chunk: 1}
