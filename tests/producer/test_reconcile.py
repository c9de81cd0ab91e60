"""Chunks that nobody holds are enqueued again, by one watcher of a run that nobody feeds; the others are left alone."""

import time
from collections.abc import Callable
from threading import Thread

import pytest

import producer
from config.clients import make_celery, make_redis
from config.custody import custody_key
from config.messages import Mode
from config.results import ChunkPlace
from producer.chunker import remaining
from producer.held import announced, fed_up_to, held_places
from producer.reconcile import MOST_SENDS, Reconciler
from producer.request import make_request
from producer.run import submit_run
from tests.producer.stand_in import StandIn, fail_chunk, finish_chunk, queued_chunks, take_chunks


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.reconcile.LOOK_INTERVAL_S", 0.0)
    monkeypatch.setattr("producer.reconcile.SURE_S", 0.05)


@pytest.fixture
def run(settings, bucket, put_keys) -> producer.Run:
    """Five chunks of 16 keys, and one of 2."""
    put_keys(f"in/{number:05d}.jpg" for number in range(82))
    found = producer.submit("classify", f"s3://{bucket}/in/", settings=settings)
    assert found.wait_enqueued(60)
    return found


def look(reconciler: Reconciler, times: int = 3) -> int:
    """Look so often, and say how many chunks were sent."""
    sent = 0
    for _ in range(times):
        feed = reconciler.look()
        if feed is not None:
            assert feed.join(30)
            sent += feed.sent or 0
        time.sleep(0.06)
    return sent


def places(chunks) -> set[ChunkPlace]:
    return {ChunkPlace.parse(chunk.chunk_id) for chunk in chunks}


def test_what_is_queued_delivered_or_in_hand_is_held(settings, run):
    with make_redis(settings) as client:
        chunks = queued_chunks(settings)
        assert held_places(client, settings, run.run_id) == places(chunks)
        assert held_places(client, settings, run.run_id[:-1]) == set()
        with make_celery(settings) as app, app.connection_for_write() as connection:
            broker = connection.default_channel
            delivered = [broker.basic_get(settings.queue) for _ in range(2)]  # unacked, as with a worker
            assert client.hlen("unacked") == 2
            assert held_places(client, settings, run.run_id) == places(chunks)
            for message in delivered:
                broker.basic_ack(message.delivery_tag)
        assert held_places(client, settings, run.run_id) == places(chunks[2:])
        client.hset(custody_key(run.run_id), chunks[0].chunk_id, "machine/1-2/x 0 99999999999")
        client.hset(custody_key(run.run_id), chunks[1].chunk_id, "machine/1-2/x 0 1")
        assert held_places(client, settings, run.run_id) == places([chunks[0], *chunks[2:]])


def test_what_nobody_holds_is_sent_again_and_nothing_else(settings, run):
    reconciler = Reconciler(run._run)
    assert look(reconciler) == 0
    done, failed, lost, halved, *_ = take_chunks(settings, 4)
    finish_chunk(settings, done)
    fail_chunk(settings, failed)
    left, right = halved.halves()
    finish_chunk(settings, left)
    assert look(reconciler, 1) == 0  # perhaps it was just popped
    assert look(reconciler) == 2
    assert queued_chunks(settings)[2:] == [lost, right]
    assert look(reconciler) == 0
    for chunk in take_chunks(settings):
        finish_chunk(settings, chunk)
    assert run.status().phase is producer.Phase.FAILED
    assert look(reconciler) == 0


def test_a_run_of_several_parts(settings, bucket, put_keys):
    small = settings.model_copy(update={"chunk_size": 1})
    put_keys(f"in/{number:05d}.jpg" for number in range(64 + 30))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=small)
    assert run.wait_enqueued(60)
    chunks = take_chunks(small)
    lost = [chunks[3], chunks[64], chunks[93]]
    for chunk in chunks:
        if chunk not in lost:
            finish_chunk(small, chunk)
    assert look(Reconciler(run._run)) == 3
    assert queued_chunks(small) == lost


def test_a_wiped_redis_is_filled_again(settings, run):
    before = queued_chunks(settings)
    with make_redis(settings) as client:
        client.flushall()
    assert look(Reconciler(run._run)) == 6
    assert queued_chunks(settings) == before


def test_a_run_that_another_one_watches_is_left_alone(settings, run):
    take_chunks(settings)
    first, second = Reconciler(run._run), Reconciler(run._run)
    assert first.look() is None
    assert look(second) == 0
    first.close()
    assert look(second) == 6


def test_what_gets_lost_of_a_run_that_is_fed_is_sent_again_and_what_is_not_sent_yet_is_not(settings, run):
    chunks = take_chunks(settings)
    with make_redis(settings) as client, announced(settings, run.run_id, lambda: (0, chunks[2].start)):
        wait_for(lambda: fed_up_to(client, run.run_id) == (0, 32))
        assert look(Reconciler(run._run)) == 2
        assert queued_chunks(settings) == chunks[:2]
    with make_redis(settings) as client:
        wait_for(lambda: fed_up_to(client, run.run_id) is None)


def test_a_chunk_that_gets_lost_comes_again_while_the_run_is_still_fed(settings, bucket, put_keys, monkeypatch):
    """The queue is full for as long as nobody takes from it, so the run is not sent to its end."""
    monkeypatch.setattr("producer.held.FEEDING_S", 3)
    narrow = settings.model_copy(update={"chunk_size": 1, "queue_window": 5})
    put_keys(f"in/{number:05d}.jpg" for number in range(90))
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=narrow)
    wait_for(lambda: len(queued_chunks(narrow)) == 5)
    lost, *others = take_chunks(narrow, 3)
    for chunk in others:
        finish_chunk(narrow, chunk)
    wait_for(lambda: len(queued_chunks(narrow)) == 5)
    watching = Thread(target=run.wait)
    watching.start()
    while lost not in (waiting := queued_chunks(narrow)):
        assert not run.wait_enqueued(0)
        if len(waiting) == 5:
            finish_chunk(narrow, take_chunks(narrow, 1)[0])
        time.sleep(0.05)
    with StandIn(narrow):
        watching.join(60)
    assert run.status().phase is producer.Phase.DONE


def test_a_watcher_with_another_queue_sees_and_sends_where_the_run_s_chunks_are(settings, run):
    elsewhere = settings.model_copy(update={"queue": "elsewhere"})
    watched = producer.open_run(str(run.address), settings=elsewhere)
    reconciler = Reconciler(watched._run)
    assert look(reconciler) == 0
    (lost,) = take_chunks(settings, 1)
    assert look(reconciler) == 1
    assert lost in queued_chunks(settings)
    watched.resume()
    assert watched.wait_enqueued(30)
    assert len(queued_chunks(elsewhere)) == 6  # where the person who resumes has workers
    assert watched._reconciler.queue == "elsewhere"


def test_a_handful_that_gets_lost_is_sent_where_a_person_waits_for_it(settings, bucket, put_keys):
    keys = [f"s3://{bucket}/{key}" for key in put_keys(f"in/{number}.jpg" for number in range(3))]
    request = make_request(Mode.CLASSIFY, keys, settings, settings.now_queue, {})
    run, feed = submit_run(request, settings, print)
    assert feed.join(30)
    lost = take_chunks(settings, queue=settings.now_queue)
    assert look(Reconciler(run)) == 1
    assert queued_chunks(settings, settings.now_queue) == lost


def test_a_broker_that_is_away_is_asked_again_later(settings, run, monkeypatch):
    reconciler = Reconciler(run._run)
    nowhere = settings.model_copy(update={"broker_url": type(settings.broker_url)("redis://127.0.0.1:1/0")})
    monkeypatch.setattr(reconciler, "_redis", make_redis(nowhere, 1, retries=0))
    take_chunks(settings)
    assert look(reconciler) == 0


def test_a_chunk_that_is_taken_away_again_and_again_is_given_up(settings, run):
    reconciler, lost = Reconciler(run._run), take_chunks(settings)
    for chunk in lost[1:]:
        finish_chunk(settings, chunk)
    for _ in range(MOST_SENDS):
        assert look(reconciler, 2) == 1
        assert take_chunks(settings) == lost[:1]
    assert look(reconciler, 2) == 0
    (failure,) = run.report().failures
    assert "do workers refuse it?" in failure.error
    assert run.status().phase is producer.Phase.FAILED


def test_the_rest_of_a_chunk_follows_from_what_is_settled():
    whole, left, right = ChunkPlace(3, 32, 15), ChunkPlace(3, 32, 7), ChunkPlace(3, 39, 8)
    quarter = ChunkPlace(3, 43, 4)
    assert list(remaining(whole, {left, quarter})) == [ChunkPlace(3, 39, 4)]
    assert list(remaining(whole, set())) == [whole]
    assert list(remaining(whole, {left, right})) == list(remaining(whole, {whole, left})) == []


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
