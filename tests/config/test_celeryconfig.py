"""The delivery settings: each was measured, and each that is wrong loses or repeats work in silence."""

import pytest
from celery.app.defaults import NAMESPACES, flatten

from config.celeryconfig import celery_options, transport_options
from config.clients import make_celery
from config.settings import Settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("result_backend", None),
        ("task_track_started", False),
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("task_acks_on_timeout", False),
        ("task_soft_time_limit", None),
        ("worker_cancel_long_running_tasks_on_connection_loss", False),
        ("worker_soft_shutdown_timeout", 0),
        ("worker_pool", "prefork"),
        ("broker_connection_max_retries", None),
        ("accept_content", ["json"]),
    ],
)
def test_what_loses_chunks_is_off(option, value):
    """Seen on the app itself: a name that Celery does not know would change nothing there."""
    with make_celery(Settings()) as app:
        assert getattr(app.conf, option) == value


def test_every_option_is_one_that_celery_knows():
    """A misspelt one would change nothing in silence."""
    assert set(celery_options(Settings())) <= {name for name, _ in flatten(NAMESPACES)}


def test_workers_take_from_the_bulk_and_from_a_persons_few_keys():
    options = celery_options(Settings(queue="herd"))
    assert [queue.name for queue in options["task_queues"]] == ["herd", "herd.now"]
    assert options["task_default_queue"] == "herd"


def test_a_chunk_that_hangs_is_killed():
    assert celery_options(Settings(task_time_limit_s=7))["task_time_limit"] == 7


def test_the_mutex_of_a_sweeper_that_died_is_gone_within_a_visibility_timeout():
    options = transport_options(Settings())
    assert options["unacked_mutex_expire"] <= options["visibility_timeout"]
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= options["visibility_timeout"]


def test_the_broker_is_the_one_of_the_settings():
    with make_celery(Settings(broker_url="redis://:hidden@host:7/3")) as app:
        assert app.conf.broker_url == "redis://:hidden@host:7/3"
