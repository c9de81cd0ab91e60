"""Redis is killed, wiped or full, and a worker dies with a message in its hand: no run loses a row."""

import time

import pytest

from benchmarks.herd import Herd
from config.clients import make_redis
from producer.held import held_places
from tests.integration.herds import herd_of, submit, wait_until, written

CHUNK = 8
IMAGES = 12 * CHUNK

#: Seconds for one image, so that there is a middle of a run.
SLOW_S = 0.02

SETTINGS = {"chunk_size": CHUNK, "visibility_timeout_s": 8, "engine_threads": 1, "decode_threads": 1}


servers_of_our_own, herd = herd_of(**SETTINGS)


def test_a_redis_that_is_killed_and_comes_back_loses_nothing(herd: Herd) -> None:
    worker = herd.add_worker()
    task = submit(herd, IMAGES, SLOW_S, queue_window=6)
    wait_until(lambda: task.run.status().chunks_done >= 2, "the second chunk", herd)
    herd.valkey.kill()
    time.sleep(2)  # that long Redis is away
    herd.valkey.start()
    task.finish()
    assert worker.child.process.poll() is None
    assert not [event for event in task.events if "got lost" in event]
    assert "raised unexpected" not in herd.logs()


def test_a_wiped_redis_costs_no_row_where_somebody_waits(herd: Herd) -> None:
    herd.add_worker()
    task = submit(herd, IMAGES, SLOW_S)
    assert task.run.wait_enqueued(60)
    wait_until(lambda: task.run.status().chunks_done >= 2, "the second chunk", herd)
    with make_redis(herd.settings) as client:
        client.flushall()
    began = time.monotonic()
    task.finish()
    assert time.monotonic() - began < 60
    assert [event for event in task.events if "got lost on the way; enqueued again" in event]
    assert written(herd).total() == IMAGES / CHUNK


def test_a_wiped_redis_costs_no_row_where_somebody_resumes(herd: Herd) -> None:
    task = submit(herd, IMAGES, SLOW_S)
    assert task.run.wait_enqueued(60)
    with make_redis(herd.settings) as client:
        client.flushall()
    herd.add_worker()
    task.run.resume()
    task.finish()
    assert task.events == []


def test_a_message_that_a_frozen_worker_took_with_it_comes_again(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.reconcile.LOOK_INTERVAL_S", 1.0)
    monkeypatch.setattr("producer.reconcile.SURE_S", 3.0)
    task = submit(herd, CHUNK, SLOW_S, chunk_size=CHUNK)
    assert task.run.wait_enqueued(60)
    with make_redis(herd.settings) as client:
        message = client.rpop(herd.settings.queue)
        frozen = herd.add_worker()
        frozen.child.wait()
        frozen.freeze()
        client.lpush(herd.settings.queue, message)  # while the worker's question still stands there
        assert held_places(client, herd.settings, task.run.run_id) == set()  # taken, and nowhere
    frozen.kill()
    herd.add_worker()
    task.finish()
    assert "1 chunk had got lost on the way; enqueued again" in task.events


def test_a_producer_backs_off_from_a_redis_that_is_nearly_full(herd: Herd) -> None:
    with make_redis(herd.settings) as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", int(1.3 * used))
        task = submit(herd, 32, SLOW_S)
        wait_until(lambda: task.events, "a word about the memory", herd)
        assert "its maxmemory is reached or near; trying again" in task.events[0]
        assert client.llen(herd.settings.queue) == 0
        client.config_set("maxmemory", 0)
    herd.add_worker()
    task.finish()


def test_a_machine_that_dies_without_a_word_gives_its_chunk_to_others(herd: Herd) -> None:
    dying = herd.add_worker()
    dying.child.wait()
    task = submit(herd, 2 * CHUNK, SLOW_S, chunk_size=CHUNK)
    with make_redis(herd.settings) as client:
        wait_until(lambda: client.hlen("unacked"), "a chunk in hand", herd)
    dying.kill()
    began = time.monotonic()
    herd.add_worker()
    task.finish()
    assert time.monotonic() - began < 60
    assert not [event for event in task.events if "got lost" in event]
