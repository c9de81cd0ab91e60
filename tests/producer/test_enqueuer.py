"""Chunks on their way into a real Redis: what a message holds, the window, and a broker that is away or full."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from pydantic import SecretStr

from config.clients import make_redis
from config.errors import SettingsError, UnavailableError
from config.messages import Chunk, Job, TaskName
from producer.chunker import pack_chunks
from producer.enqueuer import TASKS, Enqueuer, check_broker
from producer.ports import free_ports
from producer.servers import find_valkey
from tests.producer.stand_in import queued_chunks, read_message, take_chunks

JOB = Job(run_id="run-1", model="efficientnet_lite0", output="s3://bucket/out")


def some_chunks(count, size=2):
    return list(pack_chunks(JOB, "bucket", 0, [f"in/{number}.jpg" for number in range(count * size)], size))


def wait_until(true: Callable[[], Any], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def sending(settings, chunks, events) -> Iterator[tuple[Thread, Event]]:
    """Send in a thread, and stop it at the end."""
    stopped, queue = Event(), settings.queue

    def send() -> None:
        with Enqueuer(settings, queue, events.append, stopped) as enqueuer:
            enqueuer.send(chunks)

    thread = Thread(target=send)
    thread.start()
    try:
        yield thread, stopped
    finally:
        stopped.set()
        thread.join()


def depth(settings) -> int:
    with make_redis(settings) as client:
        found: Any = client.llen(settings.queue)
        return int(found)


def test_each_chunk_is_one_message_in_order(settings):
    chunks = some_chunks(250)
    with Enqueuer(settings, settings.queue, pytest.fail, Event()) as enqueuer:
        assert enqueuer.send(iter(chunks)) == 250
    assert queued_chunks(settings) == chunks


def test_a_message_names_the_task_and_shows_no_keys(settings):
    chunk = some_chunks(1)[0]
    with Enqueuer(settings, settings.now_queue, pytest.fail, Event()) as enqueuer:
        enqueuer.send([chunk])
    with make_redis(settings) as client:
        message: Any = client.lindex(settings.now_queue, 0)
    headers, found = read_message(message)
    assert found == chunk
    assert headers["task"] == TaskName.CLASSIFY
    assert headers["argsrepr"] == ""
    assert headers["kwargsrepr"] == (
        f"run=run-1 mode=classify model=efficientnet_lite0 chunk={chunk.chunk_id} images=2"
    )
    assert headers["ignore_result"] is True


def test_celerys_own_variables_lead_nowhere_else(settings, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:9/0")
    with Enqueuer(settings, settings.queue, pytest.fail, Event()) as enqueuer:
        enqueuer.send(some_chunks(1))
    assert depth(settings) == 1


def test_no_more_than_a_window_waits(settings):
    narrow = settings.model_copy(update={"queue_window": 3})
    chunks = some_chunks(10)
    taken: list[Chunk] = []
    with sending(narrow, chunks, []) as (thread, _):
        while len(taken) < 10:
            wait_until(lambda: depth(narrow))
            assert depth(narrow) <= 3
            taken += take_chunks(narrow, 1)
        thread.join(30)
        assert not thread.is_alive()
    assert taken == chunks


def test_a_stop_ends_a_sender_that_is_held_back(settings):
    narrow = settings.model_copy(update={"queue_window": 3})
    with sending(narrow, some_chunks(10), []) as (thread, stopped):
        wait_until(lambda: depth(narrow) == 3)
        stopped.set()
        thread.join(10)
        assert not thread.is_alive()
    assert depth(narrow) == 3


def test_a_broker_that_is_not_there_is_told_in_seconds_and_without_its_password(settings):
    away = settings.model_copy(update={"broker_url": SecretStr("redis://me:planted-secret@127.0.0.1:9/0")})
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"redis://127\.0\.0\.1:9/0") as refused:
        check_broker(away)
    assert time.monotonic() - began < 8
    assert "planted-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_broker_with_another_password(settings):
    url = settings.broker_url.get_secret_value()
    wrong = url.replace(url.split(":")[2].partition("@")[0], "planted-secret")
    with pytest.raises(SettingsError, match="refuses user or password") as refused:
        check_broker(settings.model_copy(update={"broker_url": SecretStr(wrong)}))
    assert "planted-secret" not in str(refused.value)


def test_a_full_broker_is_waited_for_and_said(settings):
    chunks = some_chunks(5)
    events: list[str] = []
    with make_redis(settings) as client:
        client.config_set("maxmemory", "1")
        try:
            with sending(settings, chunks, events) as (thread, _):
                wait_until(lambda: events)
                client.config_set("maxmemory", "0")
                thread.join(30)
        finally:
            client.config_set("maxmemory", "0")
    assert "is full: its maxmemory is reached or near; trying again" in events[0]
    assert events[1:] == ["the broker takes chunks again"]
    assert queued_chunks(settings) == chunks


@contextmanager
def valkey_process(directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A broker on a port of our choice, so that it can come back where it was."""
    options = {"port": port, "bind": "127.0.0.1", "dir": directory, "appendonly": "yes", "save": ""}
    command = [str(find_valkey()), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_broker_that_is_killed_is_waited_for(settings, tmp_path):
    """What it had on disk comes back with it; a batch in flight may arrive twice, which is harmless."""
    port, chunks, taken = free_ports(1)[0], some_chunks(400), []
    events: list[str] = []
    own = settings.model_copy(update={"broker_url": SecretStr(f"redis://127.0.0.1:{port}/0"), "queue_window": 100})
    with valkey_process(tmp_path, port) as process:
        wait_until(lambda: answers(own))
        with sending(own, chunks, events) as (thread, _):
            wait_until(lambda: depth(own) >= 100)
            taken += take_chunks(own, 50)
            process.kill()
            process.wait()
            wait_until(lambda: events)
            with valkey_process(tmp_path, port):
                while thread.is_alive():
                    taken += take_chunks(own) if answers(own) else []
                    thread.join(0.01)
                taken += take_chunks(own)
    assert f"cannot reach the broker redis://127.0.0.1:{port}/0" in events[0]
    assert events[-1] == "the broker takes chunks again"
    assert {chunk.chunk_id for chunk in taken} == {chunk.chunk_id for chunk in chunks}


def answers(settings) -> bool:
    try:
        check_broker(settings)
    except UnavailableError:
        return False
    return True


def test_every_task_has_a_mode_that_asks_for_it():
    assert set(TASKS.values()) == set(TaskName) - {TaskName.TRAIN}  # which workers send themselves


@pytest.mark.parametrize(("share", "sent"), [(0.55, True), (0.65, False)])
def test_nothing_is_sent_to_a_broker_of_which_60_percent_are_in_use(settings, share, sent):
    """A worker that meets a full Redis loses what it has in its hand, so the rest is left free."""
    events: list[str] = []
    with make_redis(settings) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / share))
        try:
            with sending(settings, some_chunks(1), events) as (thread, _):
                wait_until(lambda: events or not thread.is_alive())
                assert depth(settings) == sent
                assert not [event for event in events if "maxmemory is reached or near" not in event]
        finally:
            client.config_set("maxmemory", 0)
    assert bool(events) is not sent
