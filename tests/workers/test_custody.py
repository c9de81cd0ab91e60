"""Custody of chunks in a real Redis: one holder at a time, deaths counted, and nothing left behind."""

import os
import subprocess
import sys
import time

import pytest
import redis
from pydantic import SecretStr

from config.clients import make_redis
from config.custody import CUSTODY_PREFIX
from config.messages import Chunk, Job
from config.settings import Settings
from workers.custody import Custody, give_back

CHUNK = Chunk(job=Job(run_id="run-1", model="resnet50", output="s3://b/o"), bucket="b", keys=("a", "b", "c"))


@pytest.fixture
def short(settings: Settings) -> Settings:
    """A holder counts as alive for 2 s."""
    return settings.model_copy(update={"visibility_timeout_s": 4})


def test_a_chunk_has_one_holder_and_then_none(settings: Settings) -> None:
    custody = Custody(settings)
    hold = custody.take(CHUNK)
    assert hold is not None
    assert hold.deaths == 0
    with custody.keeping(hold):
        assert Custody(settings).take(CHUNK) is None
        assert custody.still_held(hold)
    assert make_redis(settings).keys(f"{CUSTODY_PREFIX}*") == []


def test_a_copy_that_runs_beside_is_no_crash_however_long_it_takes(short: Settings) -> None:
    custody = Custody(short)
    hold = custody.take(CHUNK)
    assert hold is not None
    with custody.keeping(hold):
        ended = time.monotonic() + 3.5  # longer than a holder counts as alive without a renewal
        while time.monotonic() < ended:
            assert custody.take(CHUNK) is None
            time.sleep(0.2)
    again = custody.take(CHUNK)
    assert again is not None
    assert again.deaths == 0


HOLD_AND_DIE = """
import os, sys
from config.messages import Chunk
from config.settings import Settings
from workers.custody import Custody, give_back
Custody(Settings.model_validate_json(sys.argv[1])).take(Chunk.model_validate_json(sys.argv[2]))
os.kill(os.getpid(), 9)
"""


def die_holding(settings: Settings) -> None:
    """Another process of this machine takes the chunk and is killed."""
    plain = settings.model_dump(mode="json") | {"broker_url": settings.broker_url.get_secret_value()}
    given = Settings.model_validate({k: v for k, v in plain.items() if v is not None and "secret" not in k})
    text = given.model_dump_json().replace("**********", settings.broker_url.get_secret_value())
    command = [sys.executable, "-c", HOLD_AND_DIE, text, CHUNK.model_dump_json()]
    assert subprocess.run(command, check=False, timeout=60, env={**os.environ, "PYTHONPATH": "."}).returncode == -9


def test_the_deaths_of_this_machine_s_processes_are_known_at_once(settings: Settings) -> None:
    die_holding(settings)
    die_holding(settings)
    hold = Custody(settings).take(CHUNK)
    assert hold is not None
    assert hold.deaths == 2


def test_a_holder_of_another_machine_is_dead_when_its_time_is_over(
    short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("workers.custody._machine", lambda: "other-machine")
        assert Custody(short).take(CHUNK) is not None
    custody = Custody(short)
    assert custody.take(CHUNK) is None
    deadline = time.monotonic() + 10
    while (hold := custody.take(CHUNK)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert hold.deaths == 1


def test_a_holder_that_was_thought_dead_may_not_write(short: Settings) -> None:
    custody = Custody(short)
    frozen = custody.take(CHUNK)
    assert frozen is not None
    client = make_redis(short)
    client.hset(CUSTODY_PREFIX + "run-1", CHUNK.chunk_id, "somebody-else 1 99999999999")
    assert not custody.still_held(frozen)
    with custody.keeping(frozen):
        pass
    assert client.hget(CUSTODY_PREFIX + "run-1", CHUNK.chunk_id) == b"somebody-else 1 99999999999"


def test_a_wiped_redis_takes_no_chunk_from_its_holder(settings: Settings) -> None:
    custody = Custody(settings)
    hold = custody.take(CHUNK)
    assert hold is not None
    make_redis(settings).flushall()
    assert custody.still_held(hold)
    client = make_redis(settings)
    assert client.hexists(CUSTODY_PREFIX + "run-1", CHUNK.chunk_id)
    with custody.keeping(hold):
        pass
    assert client.keys(f"{CUSTODY_PREFIX}*") == []


def test_without_redis_a_chunk_is_worked_on_all_the_same(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")})
    custody = Custody(nowhere)
    hold = custody.take(CHUNK)
    assert hold is not None
    with custody.keeping(hold), pytest.raises(redis.RedisError):
        custody.still_held(hold)


def test_what_is_given_back_on_purpose_is_free_at_once_and_counts_no_death(settings: Settings) -> None:
    custody = Custody(settings)
    assert custody.take(CHUNK) is not None
    give_back(settings, [os.getpid() + 1])
    assert custody.take(CHUNK) is None
    for deaths in (0, 1):
        give_back(settings, [os.getpid()])
        hold = custody.take(CHUNK)
        assert hold is not None
        assert hold.deaths == deaths
        make_redis(settings).hset(hold.key, CHUNK.chunk_id, f"{hold.holder} 1 99999999999")
