"""The lease on real messages in a real Redis: what is held stays held, what is let go stays gone."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from obstore.store import S3Store

from config.clients import make_redis
from config.errors import SettingsError
from config.settings import Settings
from producer.processes import Child
from workers.lease import TIMEOUT_KEY, Renewer


def qos(*tags: str, acknowledged: tuple[str, ...] = ()) -> SimpleNamespace:
    """As much of a kombu channel's books as the lease reads."""
    return SimpleNamespace(_delivered=dict.fromkeys(tags), _dirty=set(acknowledged))


def test_marks_of_held_messages_are_fresh_and_others_are_not_touched(settings: Settings) -> None:
    client = make_redis(settings)
    client.zadd("unacked_index", {"held": 1.0, "acknowledged": 1.0, "another's": 1.0})
    renewer = Renewer(settings)
    renewer._qos = qos("held", "restored", "acknowledged", acknowledged=("acknowledged",))
    before = time.time()
    assert renewer.renew() == 2
    listed: Any = client.zrange("unacked_index", 0, -1, withscores=True)
    marks: dict[bytes, float] = dict(listed)
    assert marks.pop(b"held") == pytest.approx(before, abs=5)
    assert marks == {b"acknowledged": 1.0, b"another's": 1.0}  # and none for what was restored meanwhile


def test_the_server_s_clock_is_used(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_redis(settings)
    client.zadd("unacked_index", {"held": 1.0})
    monkeypatch.setattr(time, "time", lambda: 1_000.0)  # this machine's clock is decades behind
    renewer = Renewer(settings)
    renewer._qos = qos("held")
    renewer.renew()
    assert (client.zscore("unacked_index", "held") or 0) > 1_700_000_000


def test_workers_of_one_database_agree_on_the_timeout(settings: Settings) -> None:
    Renewer(settings).agree()
    Renewer(settings).agree()
    other = settings.model_copy(update={"visibility_timeout_s": 31})
    with pytest.raises(SettingsError, match=r"is 31 here and 60 in other workers"):
        Renewer(other).agree()
    assert 0 < make_redis(settings).ttl(TIMEOUT_KEY) <= 180


def test_a_worker_with_another_timeout_does_not_start(
    settings: Settings, worker: Callable[..., Any], store: S3Store
) -> None:
    first: Child = worker()
    with pytest.raises(Exception, match=r"31 here and 60 in other workers"):
        worker(visibility_timeout_s=31)
    first.check()
