"""Redis hangs for longer than anybody waits for it, is replaced by an empty one, or is full: each run ends whole."""

import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
import redis
from kombu import pools

import producer
from benchmarks.herd import Herd
from config.clients import make_redis
from producer.reconcile import LOOK_INTERVAL_S, Reconciler
from tests.integration.herds import PATIENCE_S, hands, herd_of, submit, wait_until

CHUNK = 8

#: Seconds for one image, so that there is a middle of a run.
SLOW_S = 0.02

#: Seconds that Redis hangs: longer than any client but a worker's event loop waits for an answer.
HANG_S = 16.0

SETTINGS = {"chunk_size": CHUNK, "visibility_timeout_s": 8, "engine_threads": 1, "decode_threads": 1}

servers_of_our_own, herd = herd_of(**SETTINGS)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.reconcile.LOOK_INTERVAL_S", 1.0)
    monkeypatch.setattr("producer.reconcile.SURE_S", 4.0)


@contextmanager
def hanging(herd: Herd) -> Iterator[None]:
    """It accepts, and does not answer."""
    herd.valkey.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        herd.valkey.signal(signal.SIGCONT)


def test_a_redis_that_hangs_counts_as_down_for_each_of_its_clients_and_all_go_on_later(herd: Herd) -> None:
    worker = herd.add_worker()
    task = submit(herd, 8 * CHUNK, SLOW_S, queue_window=4)
    wait_until(lambda: task.run.status().chunks_done >= 2, "the second chunk", herd)
    herd.s3_proxy.delay_s = 0.5
    wait_until(lambda: hands(herd), "a chunk in hand", herd)
    with hanging(herd):
        began, done = time.monotonic(), task.run.status().chunks_done
        # The lease, the producer that feeds, and whoever reconciles: each says so in its way.
        wait_until(lambda: "lease=not_renewed" in herd.logs(), "the lease's word", herd)
        wait_until(lambda: "cannot reach the broker" in "".join(task.events), "the producer's word", herd)
        reconciler = Reconciler(task.run._run)
        reconciler._looked_at -= LOOK_INTERVAL_S
        looked = time.monotonic()
        assert reconciler.look() is None
        assert time.monotonic() - looked < 15
        asked = time.monotonic()
        with pytest.raises(producer.UnavailableError, match="cannot reach the broker"):
            producer.submit("classify", "s3://any/", settings=herd.settings)
        assert time.monotonic() - asked < 30
        # What the worker has in hand does not need Redis: it is written all the same.
        wait_until(lambda: task.run.status().chunks_done > done, "the chunk in hand", herd)
        time.sleep(max(0.0, HANG_S - (time.monotonic() - began)))
    herd.s3_proxy.delay_s = SLOW_S
    task.finish()
    assert worker.child.process.poll() is None
    assert "raised unexpected" not in herd.logs()


def test_connections_that_lead_nowhere_any_more_are_given_up_after_a_while(herd: Herd) -> None:
    """No end of them is told; without a limit the worker's event loop would wait for its answer for ever."""
    worker = herd.add_worker()
    worker.child.wait()
    herd.redis_proxy.forget()
    pools.reset()  # of this process, which has talked to the worker
    submit(herd, CHUNK, SLOW_S).finish()
    assert worker.child.process.poll() is None


@pytest.mark.parametrize("resumed", [False, True], ids=["watched", "resumed"])
def test_another_empty_redis_in_its_place_costs_no_row(herd: Herd, resumed: bool) -> None:
    worker = herd.add_worker()
    task = submit(herd, 12 * CHUNK, SLOW_S)
    assert task.run.wait_enqueued(60)
    wait_until(lambda: task.run.status().chunks_done >= 2, "the second chunk", herd)
    herd.valkey.kill()
    for left in herd.directory.glob("appendonlydir*"):
        shutil.rmtree(left)
    herd.valkey.start()
    herd.valkey.child.wait()
    with make_redis(herd.settings) as client:
        assert client.llen(herd.settings.queue) == 0
    if resumed:
        task.run.resume()
    task.finish()
    assert worker.child.process.poll() is None


def test_a_redis_that_others_fill_up_in_mid_run_stops_the_run_for_as_long_and_loses_nothing(herd: Herd) -> None:
    herd.add_worker()
    task = submit(herd, 12 * CHUNK, 10 * SLOW_S, queue_window=2)
    wait_until(lambda: task.run.status().chunks_done, "the first chunk", herd)
    watching = Thread(target=lambda: task.run.wait(timeout_s=PATIENCE_S))
    watching.start()
    with make_redis(herd.settings) as client:
        client.set("others", secrets.token_bytes(4_000_000))
        client.config_set("maxmemory", client.info("memory")["used_memory"])  # every write is refused from now on
        with pytest.raises(redis.ResponseError):
            client.set("ours", 1)
        wait_until(lambda: any("maxmemory is reached" in event for event in task.events), "a word", herd)
        # A worker that meets a full Redis may die with a message in its hand, and its supervisor starts it again.
        time.sleep(3)
        with suppress(redis.RedisError):
            client.delete("others")
        client.config_set("maxmemory", 0)
        herd.s3_proxy.delay_s = SLOW_S
    while watching.is_alive():
        herd.tend()
        watching.join(0.5)
    assert task.run.status().phase is producer.Phase.DONE
    task.check()
