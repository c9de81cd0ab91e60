"""A worker whose machine's clock is an hour ahead; `celery -A tests.integration.ahead worker` starts it."""

import time

from kombu.transport import redis

from workers.app import app

__all__ = ["app"]

HOUR_S = 3_600

# As kombu reads it: what it marks messages with, and by what it tells which of them nobody has any more.
redis.time = lambda: time.time() + HOUR_S
