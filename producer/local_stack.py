"""Settings -> a running Valkey, S3 server, worker and Flower on the loopback, and the settings that reach them."""

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from signal import SIGQUIT
from typing import Any, NoReturn

from pydantic import SecretStr

from config.clients import make_celery
from config.errors import SettingsError
from config.settings import CONFIG_VARIABLE, ENV_PREFIX, Settings, read_settings, write_settings
from producer.ports import LOOPBACK, free_ports, is_open
from producer.processes import Child, Program, Stop, import_root, running, starting
from producer.servers import running_valkey, starting_s3

#: Seconds to wait for a worker's answer before it is asked again; a ping sent before it listens is lost.
PING_TIMEOUT_S = 0.3

#: A cold stop: the worker gives its chunk back and is gone in 2 s; nobody waits for a stack that ends.
WORKER_STOP = Stop(SIGQUIT, patience_s=8.0)
FLOWER_STOP = Stop(patience_s=3.0)

#: Variables by which Celery's own command line takes a broker or an app from elsewhere, past our Settings.
_CELERY_VARIABLES = frozenset({"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE"})
_CELERY_PREFIX = "CELERY_"


@dataclass(frozen=True, slots=True)
class Stack:
    """A running local stack; all that it holds is in `directory`, which goes when it ends."""

    directory: Path
    config: Path
    settings: Settings
    children: tuple[Child, ...]

    @property
    def flower_url(self) -> str:
        return f"http://{self.settings.flower_address}:{self.settings.flower_port}"

    def check(self) -> None:
        """Raise UnavailableError where one of the processes has ended by itself."""
        for child in self.children:
            child.check()


@contextmanager
def running_stack(**changes: Any) -> Iterator[Stack]:
    """Start everything on free ports with passwords made for this run, and end it on the way out.

    The person's own settings hold (batch size, engine, …), but for what makes the stack local; `changes` go
    before both.
    """
    for name in os.environ.keys() - without_celery(os.environ).keys():
        del os.environ[name]  # Celery would read them in this process too
    given = plain_settings(read_settings())
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pixelherd-")))
        valkey = stack.enter_context(running_valkey(directory))
        s3 = stack.enter_context(starting_s3(directory))
        local = {
            "output": None,  # theirs is a bucket that the local S3 server does not have
            **valkey.settings,
            **s3.settings,
            "flower_address": LOOPBACK,
            "flower_port": free_ports(1)[0],
            "flower_password": secrets.token_urlsafe(12),
        }
        settings = Settings(**{**given, **local, **changes})
        config = write_config(settings, directory / "pixelherd.toml")
        worker = stack.enter_context(starting(_worker_program(settings, config)))
        flower = stack.enter_context(starting(_flower_program(settings, config)))
        children = (valkey.child, s3.child, worker, flower)
        for child in children:
            child.wait()
        yield Stack(directory, config, settings, children)


def running_worker(settings: Settings, directory: Path) -> AbstractContextManager[Child]:
    """Start one worker that has these settings and no others; yields when it takes chunks."""
    config = write_config(settings, directory / f"worker-{secrets.token_hex(4)}.toml")
    return running(_worker_program(settings, config))


def running_flower(settings: Settings, directory: Path) -> AbstractContextManager[Child]:
    """Start Flower with these settings and no others; yields when it answers."""
    return running(_flower_program(settings, write_config(settings, directory / "flower.toml")))


def _worker_program(settings: Settings, config: Path) -> Program:
    name = worker_name()

    def answers() -> bool:
        with make_celery(settings) as app:
            return bool(app.control.ping([name], timeout=PING_TIMEOUT_S, limit=1))

    command, log = worker_command(settings, name), config.with_name(f"{name.partition('@')[0]}.log")
    return Program("the worker", command, child_environment(config), log, answers, WORKER_STOP)


def _flower_program(settings: Settings, config: Path) -> Program:
    command, log = [sys.executable, "-m", "producer.flower_server"], config.with_name("flower.log")

    def answers() -> bool:
        return is_open(settings.flower_port)

    return Program("Flower", command, child_environment(config), log, answers, FLOWER_STOP)


def worker_name() -> str:
    """Celery's name of a new worker; two on one machine must not share one, or each answers for both."""
    return f"pixelherd-{secrets.token_hex(4)}@{socket.gethostname()}"


def worker_command(settings: Settings, name: str) -> list[str]:
    """The command that becomes a worker. Its module is a string: the producer never imports the workers.

    What is secret (the broker's URL) travels in the environment, never here, where `ps` shows it to all.
    """
    processes = settings.worker_processes
    return [
        *(sys.executable, "-m", "celery", "-A", "workers.app", "worker"),
        "--without-gossip",  # after a lost broker it logs errors, and nothing here asks other workers
        "--without-mingle",
        "--task-events",
        "--loglevel=INFO",
        f"--hostname={name}",
        *([f"--concurrency={processes}"] if processes else []),
    ]


def become_worker(settings: Settings) -> NoReturn:
    """Turn this process into a worker, so that a signal from systemd or a terminal reaches Celery itself."""
    for package in ("keras", "openvino", "PIL"):
        if find_spec(package) is None:
            raise SettingsError(f"no worker here ({package} is missing): pip install 'pixelherd[worker]'")
    environment = without_celery(os.environ)
    if CONFIG_VARIABLE in environment:
        environment[CONFIG_VARIABLE] = str(Path(environment[CONFIG_VARIABLE]).absolute())
    if settings.worker_processes:
        environment[f"{ENV_PREFIX}WORKER_PROCESSES"] = str(settings.worker_processes)
    environment[f"{ENV_PREFIX}CACHE_DIR"] = str(settings.cache_dir.absolute())
    command = worker_command(settings, worker_name())
    os.chdir(import_root())
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted


def child_environment(config: Path) -> dict[str, str]:
    """The environment of a process whose settings are this file's and no others'."""
    inherited = without_celery(os.environ)
    ours = {name: value for name, value in inherited.items() if not name.startswith(ENV_PREFIX)}
    return {**ours, CONFIG_VARIABLE: str(config), "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}


def without_celery(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would turn Celery to another broker or app than our Settings say."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _CELERY_VARIABLES and not name.startswith(_CELERY_PREFIX)
    }


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Those settings that somebody gave, secrets as plain text: for a file that only its owner can read."""
    given = {name: getattr(settings, name) for name in Settings.model_fields if name in settings.model_fields_set}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in given.items()
        if value is not None
    }


def write_config(settings: Settings, path: Path) -> Path:
    """Write a TOML file that PIXELHERD_CONFIG can name."""
    write_settings(path, **plain_settings(settings))
    return path
