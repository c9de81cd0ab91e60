"""Herd: a Redis, an S3 server and some workers that are started again whenever they end, as systemd would."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.proxy import Proxy, running_proxy
from config.clients import make_celery
from config.settings import Settings
from producer.local_stack import child_environment, worker_command, worker_name, write_config
from producer.processes import Child, Program, Stop, starting
from producer.servers import running_s3, running_valkey

#: A worker that is not wanted any more gives its chunk back and is gone.
WORKER_STOP = Stop(signal.SIGQUIT, patience_s=8.0)


#: Seconds to wait for a worker's answer before it is asked again.
PING_TIMEOUT_S = 0.3


class Supervised:
    """One program, started again (after `tend` has seen it dead) as often as it ends."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.starts = 1
        self._context: AbstractContextManager[Child] | None = None  # whoever started the first one ends it

    def start(self, command: Sequence[str] | None = None) -> None:
        """Start, perhaps with another command, after what is left of the last one is gone."""
        self.stop()
        self.starts += 1
        program = self.child.program
        self._context = starting(replace(program, command=command) if command else program)
        self.child = self._context.__enter__()

    def stop(self) -> None:
        """End it."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def tend(self) -> None:
        """Start it again if it has ended."""
        if self.child.process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """The whole tree, without a word."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.process.wait()

    def freeze(self) -> None:
        """The whole tree stands still, like a machine that hangs."""
        for process in (psutil.Process(self.child.pid), *self.children()):
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def signal(self, what: signal.Signals) -> None:
        """Tell the process itself."""
        self.child.process.send_signal(what)

    def children(self) -> list[psutil.Process]:
        """What it has forked."""
        try:
            found: list[psutil.Process] = psutil.Process(self.child.pid).children()
        except psutil.NoSuchProcess:
            found = []
        return found


@dataclass(slots=True)
class Herd:
    """Servers and workers, the proxies between them, and the settings of whoever joins."""

    directory: Path
    settings: Settings
    config: Path
    valkey: Supervised
    s3: Supervised
    redis_proxy: Proxy
    s3_proxy: Proxy
    workers: list[Supervised] = field(default_factory=list)
    closing: ExitStack = field(default_factory=ExitStack)

    def add_worker(self, app: str = "workers.app", **changes: Any) -> Supervised:
        """Start a worker; it, and all who follow it, have the herd's settings, changed as given, and one log."""
        name = worker_name()
        settings = self.settings.model_copy(update=changes)
        config = write_config(settings, self.directory / f"worker-{len(self.workers)}.toml")
        command, env = worker_command(settings, name), child_environment(config)
        command[command.index("workers.app")] = app
        log = self.directory / f"worker-{len(self.workers)}.log"
        program = Program("the worker", command, env, log, partial(_answers, settings, name), WORKER_STOP)
        worker = Supervised(self.closing.enter_context(starting(program)))
        self.closing.callback(worker.stop)
        self.workers.append(worker)
        return worker

    def dismiss(self) -> None:
        """End all workers, and forget what they wrote."""
        self.closing.close()
        for worker in self.workers:
            worker.child.program.log.unlink()
        self.workers.clear()

    def tend(self) -> None:
        """Start again which worker has ended."""
        for worker in self.workers:
            worker.tend()

    def logs(self) -> str:
        """What all workers wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("worker-*.log")))


@contextmanager
def running_herd(directory: Path, workers: int, **changes: Any) -> Iterator[Herd]:
    """Start everything; everybody reaches Redis and S3 through a proxy. `changes` are settings."""
    with ExitStack() as stack:
        valkey = stack.enter_context(running_valkey(directory))
        s3 = stack.enter_context(running_s3(directory))
        redis_proxy = stack.enter_context(running_proxy(_port(valkey.settings["broker_url"])))
        s3_proxy = stack.enter_context(running_proxy(_port(s3.settings["s3_endpoint_url"])))
        given = {
            **valkey.settings,
            **s3.settings,
            "broker_url": _through(redis_proxy, valkey.settings["broker_url"]),
            "s3_endpoint_url": _through(s3_proxy, s3.settings["s3_endpoint_url"]),
            "worker_processes": 1,
            **changes,
        }
        settings = Settings(**given)
        config = write_config(settings, directory / "pixelherd.toml")
        herd = Herd(directory, settings, config, Supervised(valkey.child), Supervised(s3.child), redis_proxy, s3_proxy)
        for server in (herd.valkey, herd.s3):
            stack.callback(server.stop)
        with herd.closing:
            for _ in range(workers):
                herd.add_worker()
            yield herd


def _answers(settings: Settings, name: str) -> bool:
    with make_celery(settings) as app:
        return bool(app.control.ping([name], timeout=PING_TIMEOUT_S, limit=1))


def _port(url: str) -> int:
    port = urlsplit(url).port
    if port is None:
        raise ValueError("the servers of a herd have ports")
    return port


def _through(proxy: Proxy, url: str) -> str:
    return url.replace(f":{_port(url)}", f":{proxy.port}")
