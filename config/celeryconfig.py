"""Settings -> Celery options, each with its reason; the same for a producer and a worker.

The figures in the reasons were measured with Celery 5.7.0 and kombu 5.7.0 on Valkey 9.1 and Redis 7.0.
"""

from typing import Any

from kombu import Queue

from config.broker import broker_address, tls_options
from config.settings import Settings

#: Seconds between two looks for chunks of silent workers. kombu's own is one sweep in 100 s.
RESTORE_INTERVAL_S = 5

#: Seconds after which another worker may sweep if the sweeping one died. kombu's own 300 s blocks all recovery.
RESTORE_MUTEX_EXPIRE_S = 30

#: Seconds a new child may take to say that it is up. It loads no network before, but imports on a busy machine
#: took 6 s, and Celery's own 4 s kills every replacement child, for ever.
CHILD_START_TIMEOUT_S = 120.0

#: Processes of a worker, whatever its cores: while one chunk's rows are written and the next one's images fetched,
#: the other process has all cores. Two made 85 images/s of efficientnet_lite0 on 2 cores, one 64, three 75.
PROCESSES = 2

#: Seconds without an answer after which a broker connection counts as dead. kombu's own is for ever; and a worker has
#: several connections, which its event loop finds dead one after the other: at 30 s it was away for 95 s (measured).
BROKER_TIMEOUT_S = 10.0


def celery_options(settings: Settings) -> dict[str, Any]:
    """The options of the Celery app; nothing else sets one."""
    return {
        "broker_url": broker_address(settings),
        # Without it kombu checks no certificate, and a transport of one's own speaks plain text to a TLS port.
        "broker_use_ssl": tls_options(settings) or False,
        # S3 is the truth. A dead result backend loses tasks (acked, body never run) or blocks producers for 19 s.
        "result_backend": None,
        "task_ignore_result": True,
        "task_track_started": False,
        # A chunk is acknowledged after its summary stands, so a crash in the middle gives it to another worker.
        "task_acks_late": True,
        # Without it a child that is killed acknowledges its chunk: lost.
        "task_reject_on_worker_lost": True,
        # The default acknowledges (loses) a chunk that hits the hard time limit.
        "task_acks_on_timeout": False,
        "task_time_limit": settings.task_time_limit_s,
        # An exception in the middle would end the task as failed, which acknowledges (loses) its chunk. The hard
        # limit gives it back, workers.custody counts it, and a chunk that is too long twice is halved.
        "task_soft_time_limit": None,
        # A handful of keys that a person waits for goes past the bulk: workers take from both queues in turn.
        "task_default_queue": settings.queue,
        "task_queues": [Queue(settings.queue), Queue(settings.now_queue)],
        # Nothing but JSON comes in: a pickle would run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        # 256 keys: 24 KB plain, 2.7 to 11 KB compressed; Redis holds a window of them.
        "task_compression": "zlib",
        # Flower's events. They cost a third of the enqueue rate, which is 1,000 chunks/s without.
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "task_publish_retry_policy": {
            "max_retries": 10,
            "interval_start": 0.2,
            "interval_step": 0.5,
            "interval_max": 5,
        },
        # Crash isolation, time limits and give-back at SIGQUIT: only prefork has all three.
        "worker_pool": "prefork",
        "worker_concurrency": settings.worker_processes or PROCESSES,
        # With late acks nothing beyond the chunk in hand is reserved, so an idle worker gets the next one.
        "worker_prefetch_multiplier": 1,
        "worker_proc_alive_timeout": CHILD_START_TIMEOUT_S,
        # True loses the running chunk when Redis restarts while a result backend is set; Celery 6 turns it on.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # It stops the event loop, and a SIGKILL meanwhile lost 3 of 3; SIGTERM then SIGQUIT is used instead.
        "worker_soft_shutdown_timeout": 0,
        "broker_connection_retry_on_startup": True,
        # The default gives up after 100 tries and the worker is gone.
        "broker_connection_max_retries": None,
        "broker_transport_options": transport_options(settings),
    }


def transport_options(settings: Settings) -> dict[str, Any]:
    """kombu's Redis options; the visibility timeout is short because workers.lease renews what a worker holds."""
    return {
        "visibility_timeout": settings.visibility_timeout_s,
        "unacked_restore_interval": RESTORE_INTERVAL_S,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": RESTORE_MUTEX_EXPIRE_S,
        "socket_timeout": BROKER_TIMEOUT_S,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        # So long an idle worker may wait for a broker that was to answer within a second. kombu's own is 25 s.
        "health_check_interval": 10,
    }
