"""Stopping: a signal lets the chunk in hand end, or gives it back in time; a cancelled run frees its workers."""

import signal
import time

import producer
from benchmarks.herd import Herd
from config.clients import make_redis
from tests.integration.herds import hands, herd_of, submit, wait_until, written

#: So many a small run has in any case.
CHUNK = 16

SETTINGS = {
    "chunk_size": CHUNK,
    "engine_threads": 1,
    "decode_threads": 1,
    "fetch_threads": 1,
}

#: Seconds for one image, so that a chunk takes that many times CHUNK.
SLOW_S = 0.15


servers_of_our_own, herd = herd_of(**SETTINGS)


def test_the_chunk_in_hand_ends_after_a_sigterm_and_no_other_begins(herd: Herd) -> None:
    worker = herd.add_worker()
    task = submit(herd, 2 * CHUNK, SLOW_S)
    wait_until(lambda: hands(herd), "a chunk in hand", herd)
    (in_hand,) = hands(herd)
    worker.signal(signal.SIGTERM)
    assert worker.child.process.wait(60) == 0
    assert written(herd) == {in_hand: 1}
    assert hands(herd) == {}
    with make_redis(herd.settings) as client:
        assert (client.llen(herd.settings.queue), client.hlen("unacked")) == (1, 0)
    herd.s3_proxy.delay_s = 0.0
    herd.add_worker()
    task.finish()


def test_a_chunk_that_outlives_the_grace_period_starts_elsewhere_within_5_s(herd: Herd) -> None:
    leaving = herd.add_worker(shutdown_grace_s=1)
    task = submit(herd, CHUNK, SLOW_S)
    wait_until(lambda: hands(herd), "a chunk in hand", herd)
    ((chunk, first),) = hands(herd).items()
    herd.s3_proxy.delay_s = 10 * SLOW_S  # for as long as it takes to start another worker, and longer
    other = herd.add_worker()
    other.child.wait()
    leaving.signal(signal.SIGTERM)
    told = time.monotonic()
    wait_until(lambda: hands(herd).get(chunk, first) != first, "another holder", herd)
    assert time.monotonic() - told < 1 + 5
    assert hands(herd)[chunk][1] == 0  # nobody died of it
    leaving.child.process.wait(20)
    herd.s3_proxy.delay_s = 0.0
    task.finish()
    assert written(herd) == {chunk: 1}


def test_a_cancelled_run_frees_its_workers_within_a_chunk_and_keeps_what_is_done(herd: Herd) -> None:
    herd.add_worker()
    task = submit(herd, 6 * CHUNK, SLOW_S)
    assert task.run.wait_enqueued(60)
    wait_until(lambda: task.run.status().chunks_done, "the first chunk", herd)
    wait_until(lambda: hands(herd), "the next chunk in hand", herd)
    before = task.run.status().chunks_done
    task.run.cancel()
    began = time.monotonic()
    with make_redis(herd.settings) as client:
        wait_until(lambda: not client.llen(herd.settings.queue) + client.hlen("unacked"), "an empty queue", herd)
    assert time.monotonic() - began < 3 * CHUNK * SLOW_S
    status = task.run.wait(timeout_s=30)
    assert status.phase is producer.Phase.CANCELLED
    assert before <= status.chunks_done <= before + 1
    assert task.run.results().num_rows == status.done
