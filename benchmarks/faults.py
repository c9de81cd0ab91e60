"""Faults: from a random number to one thing that goes wrong in a herd, for as long as it takes to go wrong."""

import random
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import psutil
import redis
from botocore.exceptions import BotoCoreError, ClientError
from kombu.transport.redis import Channel

from benchmarks.herd import Herd, Supervised
from config.clients import make_redis, make_s3

#: Seconds that something is away, at least and at most; a person or a cloud takes longer, and learns no more.
OUTAGE_S = (0.5, 6.0)

#: Seconds after which a server that does not come back is left alone; the run will tell.
START_PATIENCE_S = 60.0

Fault = Callable[[Herd, Supervised, random.Random], bool]


def _pause(chance: random.Random) -> None:
    time.sleep(chance.uniform(*OUTAGE_S))


def kill_child(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """A pool process is killed, as by the kernel when memory is short."""
    children = [child for worker in herd.workers for child in worker.children()]
    if not children:
        return False
    with suppress(psutil.NoSuchProcess):
        chance.choice(children).kill()
    return True


def kill_tree(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """A worker with all its processes is gone, like its machine."""
    chance.choice(herd.workers).kill()
    return True


def terminate(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """A worker is asked to stop; at the end of its grace period it gives back what it has."""
    worker = chance.choice(herd.workers)
    if worker.child.process.poll() is not None:
        return False
    worker.signal(signal.SIGTERM)
    return True


def restart_redis(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """Redis is killed, is away for a while, and reads its file again."""
    herd.valkey.kill()
    _pause(chance)
    herd.valkey.start()
    herd.valkey.child.wait()
    return True


def wipe_redis(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """All that Redis holds is gone, messages, leases and notes."""
    with make_redis(herd.settings) as client:
        client.flushall()
    return True


def stop_and_go_redis(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """Redis hangs: it accepts, and does not answer."""
    return _stop_and_go(herd.valkey, chance)


def stop_and_go_s3(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """S3 hangs."""
    return _stop_and_go(herd.s3, chance)


def restart_s3(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """S3 is killed and comes back."""
    herd.s3.kill()
    _pause(chance)
    herd.s3.start()
    deadline = time.monotonic() + START_PATIENCE_S
    with closing(make_s3(herd.settings)) as s3:
        while not _lists(s3) and time.monotonic() < deadline:
            time.sleep(0.1)
    return True


def swallow_redis(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """Nothing comes through to Redis; after that connections go on, or are broken."""
    herd.redis_proxy.swallow(chance.uniform(*OUTAGE_S), then_drop=chance.random() < 0.5)
    return True


def swallow_s3(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """Nothing comes through to S3."""
    herd.s3_proxy.swallow(chance.uniform(*OUTAGE_S), then_drop=chance.random() < 0.5)
    return True


def expire_visibility(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """Every message that a worker has counts as not acknowledged in time, as by a clock that jumps."""
    with make_redis(herd.settings) as client:
        tags = client.zrange(Channel.unacked_index_key, 0, -1)
        if tags:
            client.zadd(Channel.unacked_index_key, dict.fromkeys(tags, 0.0), xx=True)
    return bool(tags)


def freeze_and_kill(herd: Herd, _: Supervised, chance: random.Random) -> bool:
    """A worker freezes, perhaps with a message on its way to it, and never wakes."""
    worker = chance.choice(herd.workers)
    if worker.child.process.poll() is not None:
        return False
    worker.freeze()
    _pause(chance)
    worker.kill()
    return True


def kill_producer(_: Herd, producer: Supervised, chance: random.Random) -> bool:
    """The producer is killed; whoever looks after it resumes the run."""
    producer.kill()
    return True


#: What may happen, and how often against the others.
FAULTS: dict[str, tuple[Fault, int]] = {
    "pool process SIGKILL": (kill_child, 3),
    "worker tree SIGKILL": (kill_tree, 3),
    "worker frozen, then SIGKILL": (freeze_and_kill, 1),
    "worker SIGTERM": (terminate, 2),
    "Redis SIGKILL and restart": (restart_redis, 2),
    "Redis FLUSHALL": (wipe_redis, 2),
    "Redis SIGSTOP and SIGCONT": (stop_and_go_redis, 1),
    "S3 SIGKILL and restart": (restart_s3, 1),
    "S3 SIGSTOP and SIGCONT": (stop_and_go_s3, 2),
    "black hole before Redis": (swallow_redis, 2),
    "black hole before S3": (swallow_s3, 2),
    "visibility timeout over": (expire_visibility, 2),
    "producer SIGKILL and resume": (kill_producer, 2),
}

#: What a wiped or unreachable Redis raises where a fault asks it.
FAULT_ERRORS = (redis.RedisError, psutil.Error)


def _lists(s3: Any) -> bool:
    try:
        s3.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def _stop_and_go(server: Supervised, chance: random.Random) -> bool:
    server.signal(signal.SIGSTOP)
    _pause(chance)
    server.signal(signal.SIGCONT)
    return True
