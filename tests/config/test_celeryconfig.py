"""The delivery settings: each was measured, and each that is wrong loses or repeats work in silence."""

import pytest
from celery.app.defaults import NAMESPACES, flatten

from config.celeryconfig import celery_options, transport_options
from config.clients import make_celery
from config.settings import Settings
from tests.integration.test_delivery import CASES

#: Options whose work is seen on real workers, with and without them (tests/integration/test_delivery.py), and those
#: that are shown beside another one there, or elsewhere.
SHOWN_ELSEWHERE = {
    "broker_url",  # below
    "broker_use_ssl",  # tests/integration/test_tls.py
    "broker_transport_options",  # one by one, below
    "task_default_queue",  # below, and in tests/integration/test_worker.py
    "task_queues",
    "task_time_limit",  # test_delivery.a_task_that_hangs would not end
    "task_track_started",  # with result_backend
    "task_ignore_result",
}

#: Options of which only the value is held, and why no more than that.
VALUES = {
    # Celery's default of today; without it nothing changes before Celery 6. True loses the running chunk only where
    # there is a result backend. What it protects is shown by tests/integration/test_redis_dies.py.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Celery's default of today. tests/integration/test_stopping.py shows that a chunk is given back at once.
    "worker_soft_shutdown_timeout": 0,
    # Celery's default. A solo or threaded worker would die with its child in test_delivery.a_process_that_dies.
    "worker_pool": "prefork",
    # Celery's default; what else may come in is shown by accept_content.
    "task_serializer": "json",
}

TRANSPORT_SHOWN = {
    "visibility_timeout",  # a_machine_that_dies: kombu's own is an hour
    "unacked_restore_interval",  # a_message_of_a_silent_worker: kombu's own sweep comes after 100 s
    "unacked_restore_throttle",
    "unacked_mutex_expire",
    "socket_keepalive",
    "socket_timeout",  # tests/integration/test_redis_hangs.py
}

TRANSPORT_VALUES = {
    # A broker that does not even accept: the kernel gives up after two minutes, which is too long for a test.
    "socket_connect_timeout": 5.0,
    # Without it an idle worker notices a broker that hangs some 15 s later, too little to tell (test_redis_hangs.py).
    "health_check_interval": 10,
}


@pytest.mark.parametrize("option", VALUES)
def test_options_that_are_held_by_their_value(option):
    """Seen on the app itself: a name that Celery does not know would change nothing there."""
    with make_celery(Settings()) as app:
        assert getattr(app.conf, option) == VALUES[option]


def test_transport_options_that_are_held_by_their_value():
    assert TRANSPORT_VALUES.items() <= transport_options(Settings()).items()


def test_every_option_has_a_test():
    assert set(celery_options(Settings())) == (CASES.keys() & celery_options(Settings())) | SHOWN_ELSEWHERE | {*VALUES}
    assert set(transport_options(Settings())) == TRANSPORT_SHOWN | {*TRANSPORT_VALUES}


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
