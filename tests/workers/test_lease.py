"""The lease on real messages in a real Redis: what is held stays held, what is let go stays gone."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from kombu import Message
from kombu.transport.redis import Channel
from obstore.store import S3Store

from config.clients import make_celery, make_redis
from config.errors import SettingsError
from config.settings import Settings
from producer.processes import Child
from workers.lease import TIMEOUT_KEY, Renewer


@contextmanager
def delivered(
    settings: Settings, messages: int = 1, options: dict[str, Any] | None = None
) -> Iterator[tuple[Channel, list[Message]]]:
    """A channel of kombu's with so many messages that nobody has acknowledged; their marks are a year old."""
    changed = make_celery(settings)
    changed.conf.broker_transport_options |= options or {}
    with changed as app, app.connection_for_write() as connection:
        channel = connection.default_channel
        for _ in range(messages):
            app.send_task("any", queue=settings.queue, connection=connection)
        taken = [channel.basic_get(settings.queue) for _ in range(messages)]
        channel.client.zadd(channel.unacked_index_key, {message.delivery_tag: 1.0 for message in taken})
        yield channel, taken


def renewer_of(settings: Settings, channel: Channel) -> Renewer:
    """A renewer that renews when it is told to."""
    renewer = Renewer(settings)
    renewer.stop()
    renewer.watch(channel)
    return renewer


def marks(settings: Settings, key: str = Channel.unacked_index_key) -> dict[str, float]:
    found: Any = make_redis(settings).zrange(key, 0, -1, withscores=True)
    return {tag.decode(): score for tag, score in found}


def test_marks_of_held_messages_are_fresh_and_others_are_not_touched(settings: Settings) -> None:
    client = make_redis(settings)
    client.zadd("unacked_index", {"another's": 1.0})
    with delivered(settings, 3) as (channel, (held, restored, acknowledged)):
        client.zrem("unacked_index", restored.delivery_tag)
        acknowledged.ack()
        assert renewer_of(settings, channel).renew() == 2
        found = marks(settings)
        assert found.pop(held.delivery_tag) == pytest.approx(time.time(), abs=60)
        assert found == {"another's": 1.0}  # and none for what was restored meanwhile


def test_the_server_s_clock_is_used(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with delivered(settings) as (channel, (held,)):
        monkeypatch.setattr(time, "time", lambda: 1_000.0)  # this machine's clock is decades behind
        renewer_of(settings, channel).renew()
        assert marks(settings)[held.delivery_tag] > 1_700_000_000


def test_what_lies_under_a_prefix_or_another_name_is_renewed_there(settings: Settings) -> None:
    names = {"global_keyprefix": "herd:", "unacked_index_key": "marks"}
    with delivered(settings, options=names) as (channel, (held,)):
        assert renewer_of(settings, channel).renew() == 1
        assert marks(settings, "herd:marks")[held.delivery_tag] > 1_700_000_000
        assert marks(settings) == {}


def test_after_a_reconnect_the_new_channel_s_messages_are_renewed(settings: Settings) -> None:
    with delivered(settings) as (lost, _):
        renewer = renewer_of(settings, lost)
    with delivered(settings) as (channel, (held,)):
        renewer.watch(channel)
        assert renewer.renew() == 1
        assert marks(settings)[held.delivery_tag] > 1_700_000_000


def test_a_lost_connection_costs_one_renewal(settings: Settings) -> None:
    with delivered(settings) as (channel, (held,)):
        renewer = renewer_of(settings, channel)
        renewer.renew()
        renewer._redis.connection_pool.disconnect()
        make_redis(settings).zadd("unacked_index", {held.delivery_tag: 1.0})
        with suppress(redis.ConnectionError):
            renewer.renew()
        renewer.renew()
        assert marks(settings)[held.delivery_tag] > 1_700_000_000


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
