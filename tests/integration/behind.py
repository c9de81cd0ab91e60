"""A worker whose machine's clock is an hour behind; `celery -A tests.integration.behind worker` starts it."""

import time

from kombu.transport import redis

from tests.integration.ahead import HOUR_S
from workers.app import app

__all__ = ["app"]

redis.time = lambda: time.time() - HOUR_S
