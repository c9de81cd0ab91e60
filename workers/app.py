"""The Celery app of a worker process: the environment is read here, once; `celery -A workers.app worker` starts it."""

import logging
import os
import sys
from typing import Any

from celery import signals

from config.clients import make_celery
from config.errors import SettingsError
from config.settings import Settings, read_settings
from workers.custody import give_back
from workers.drain import Drain
from workers.gpus import give_each_process_a_gpu
from workers.lease import make_lease_step
from workers.protect import protect_while_busy
from workers.refuse import trace_refusals
from workers.transport import transport_that_tells

LOG_FORMAT = "%(asctime)s %(levelname)s %(processName)s %(name)s %(message)s"


def _read_settings_or_exit() -> Settings:
    try:
        return read_settings()
    except SettingsError as error:
        sys.exit(f"worker: {error}")


@signals.setup_logging.connect
def _set_up_logging(loglevel: int | str = logging.INFO, **_: Any) -> None:
    """One format for Celery's lines and ours, to stderr; what is printed there is for a person or a log shipper."""
    logging.basicConfig(level=loglevel, format=LOG_FORMAT)


# Celery lets these go before every option, at each use; in a worker Settings alone decide.
for _variable in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
    os.environ.pop(_variable, None)

settings = _read_settings_or_exit()
app = make_celery(settings)
app.conf.include = ["workers.tasks", "workers.steps"]
app.steps["consumer"].add(make_lease_step(settings))
give_each_process_a_gpu(app, settings)
protect_while_busy(settings)
Drain(settings, give_back).install()  # last: when the group has been told, nothing more can be said to it
refuse = trace_refusals(app, settings)
app.conf.broker_transport = transport_that_tells(refuse)
