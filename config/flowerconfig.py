"""Settings -> Flower's options: login, bounds on its memory, and what a person sees of a task."""

import secrets
from ipaddress import ip_address
from textwrap import fill
from typing import Any

from pydantic import SecretStr

from config.errors import SettingsError
from config.settings import Settings

#: Tasks kept in memory. 60,000 with short arguments took 322 MB (measured); Flower's own bound is 100,000.
MAX_TASKS = 20_000

#: Workers kept in memory; the largest herd that pixelherd is made for.
MAX_WORKERS = 500

#: Seconds after which a worker that is gone leaves the page: spot machines come and go.
PURGE_OFFLINE_WORKERS_S = 300

#: Upper edges, in seconds, for chunks of 5 to 120 s. Floats, or Flower does not start.
RUNTIME_BUCKETS_S = (1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)

#: The columns of the page with the tasks. kwargs is where `format_task` says what a chunk is; uuid opens it.
TASKS_COLUMNS = "kwargs,state,received,runtime,worker,retries,uuid"

#: Of Flower's style: kwargs are cut after 400 pixels, and a uuid fills a quarter of the page.
STYLE = """
.tasks-table td.overflow-auto { max-width: none; white-space: pre !important; }
.tasks-table .task-uuid-full { display: none; }
.tasks-table .task-uuid-short { display: inline; }
"""

#: Characters and lines of a cell; a sender without pixelherd fills it with keys.
LINE_LENGTH = 60
MOST_LINES = 4


def with_login(settings: Settings) -> Settings:
    """The settings with a password for Flower; SettingsError where it would be open to others without one."""
    return settings.model_copy(update={"flower_password": _password(settings)})


def _password(settings: Settings) -> SecretStr:
    """The person's, or, where only this machine can connect, one made now."""
    given = settings.flower_password
    if given is not None and given.get_secret_value():
        return given
    if not is_loopback(settings.flower_address):
        raise SettingsError(
            f"Flower on {settings.flower_address} needs a password: set PIXELHERD_FLOWER_PASSWORD, "
            "or PIXELHERD_FLOWER_ADDRESS=127.0.0.1"
        )
    return SecretStr(secrets.token_urlsafe(12))


def flower_options(settings: Settings) -> dict[str, Any]:
    """Flower's options by name; SettingsError as `with_login`, or for a login that Flower cannot read."""
    login = f"{settings.flower_user}:{_password(settings).get_secret_value()}"
    if not login.isascii():
        raise SettingsError("PIXELHERD_FLOWER_USER and PIXELHERD_FLOWER_PASSWORD: Flower takes ASCII alone")
    return {
        "address": settings.flower_address,
        "port": settings.flower_port,
        "basic_auth": [login],
        "read_only": settings.flower_read_only,
        "max_tasks": MAX_TASKS,
        "max_workers": MAX_WORKERS,
        "purge_offline_workers": PURGE_OFFLINE_WORKERS_S,
        "natural_time": True,
        "tasks_columns": TASKS_COLUMNS,
        "task_runtime_metric_buckets": list(RUNTIME_BUCKETS_S),
        "format_task": format_task,
    }


def is_loopback(address: str) -> bool:
    """Whether only this machine can connect to an address; of names, `localhost` alone is known to be so."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def format_task(task: Any) -> Any:
    """What Flower shows of one task, from the copy that it hands over.

    The enqueuer sends `run=… mode=… model=… chunk=… images=…` as a chunk's kwargs; that becomes three lines.
    """
    for name in ("args", "kwargs", "result", "exception"):
        text = str(getattr(task, name, None) or "")
        if name == "kwargs" and text.startswith("run="):
            task.kwargs = text.replace(" mode=", "\nmode=").replace(" chunk=", "\nchunk=")
        elif len(text) > LINE_LENGTH:
            setattr(task, name, fill(text, LINE_LENGTH, max_lines=MOST_LINES, placeholder=" …"))
    return task
