"""The very commands and health checks of docker-compose.yml, as processes in a network namespace of their own.

Inside it every port is free and the services' names lead to loopback, so nothing in a command has to be changed.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.test_compose import ROOT, services, tool

__all__ = ["services"]  # pytest finds the fixture here

#: Seconds that a service may take until its own health check passes; a worker imports on a busy machine.
START_TIMEOUT_S = 90

#: Commands of the images, and the programs that stand for them here, in order of preference.
PROGRAMS = {
    "pixelherd": ("pixelherd",),
    "valkey-server": ("valkey-server", "redis-server"),
    "valkey-cli": ("valkey-cli", "redis-cli"),
    "weed": ("weed",),
    "wget": ("wget",),
    "hostname": ("hostname",),
}


class Machine:
    """Runs what docker-compose.yml says, each service in a directory of its own."""

    def __init__(self, services: dict[str, Any], directory: Path) -> None:
        self.services = services
        self.directory = directory
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.namespace: Any = None

    def enter(self, stack):
        hosts = self.directory / "hosts"
        hosts.write_text("127.0.0.1 localhost redis s3 flower\n", encoding="utf-8")
        script = f"ip link set lo up && mount --bind {shlex.quote(str(hosts))} /etc/hosts && echo up && exec sleep 1000"
        command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", script]
        self.namespace = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stack.callback(self._end, self.namespace)
        if self.namespace.stdout.readline() != "up\n":
            _, reason = self.namespace.communicate(timeout=10)
            (pytest.fail if os.getenv("CI") else pytest.skip)(f"no network namespace here: {reason}")
        stack.callback(self._end_services)
        self.path = self.directory / "bin"
        self.path.mkdir()
        (self.path / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
        (self.path / "python").chmod(0o755)
        for name, candidates in PROGRAMS.items():
            (self.path / name).symlink_to(program(candidates))

    def command(self, name, arguments):
        """What starts the arguments inside the namespace, with the service's variables and no others."""
        service = self.services[name]
        place = self.directory / name
        place.mkdir(exist_ok=True)
        given = {key: value for key, value in service.get("environment", {}).items() if value is not None}
        env = {"PATH": f"{self.path}:/usr/bin:/bin", "HOME": str(place), "PYTHONPATH": str(ROOT), **given}
        if name not in ("redis", "s3"):
            env["PIXELHERD_CACHE_DIR"] = str(place)
        enter = ["nsenter", "--user", "--net", "--mount", "--preserve-credentials", "--wd=" + str(place)]
        return {"args": [*enter, f"--target={self.namespace.pid}", "--", *arguments], "env": env}

    def start(self, name):
        service = self.services[name]
        entrypoint = service.get("entrypoint") or ["pixelherd"]
        command = [argument.replace("$$", "$") for argument in [*entrypoint, *service["command"]]]
        with (self.directory / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(**self.command(name, command), stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (checked := self.check(name)).returncode != 0:
            assert self.started[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, f"{checked.stdout}{checked.stderr}\n{self.log(name)}"
            time.sleep(0.2)

    def check(self, name):
        """Run the service's health check once."""
        kind, *arguments = self.services[name]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            arguments = ["sh", "-c", *arguments]
        return self.run(name, *(argument.replace("$$", "$") for argument in arguments))

    def run(self, name, *arguments):
        return subprocess.run(
            **self.command(name, arguments), capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S
        )

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _end_services(self):
        for name in reversed(self.started):
            self._end(self.started[name])

    @staticmethod
    def _end(process):
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def program(candidates):
    """The first of the programs that is here; the Redis-compatible server may come out of its package."""
    if "valkey-server" in candidates:
        from producer.servers import find_valkey

        if found := find_valkey():
            return found
    for name in candidates[:-1]:
        if found := shutil.which(name):
            return found
    return tool(candidates[-1])


@pytest.fixture(scope="module")
def machine(services, tmp_path_factory):
    with ExitStack() as stack:
        machine = Machine(services, tmp_path_factory.mktemp("compose"))
        machine.enter(stack)
        for name in ("redis", "s3"):
            machine.start(name)
        yield machine


def test_the_broker_asks_for_the_password_of_the_url_and_keeps_its_options(machine):
    refused = machine.run("redis", "valkey-cli", "ping")
    assert "NOAUTH" in refused.stdout
    shown = machine.run("redis", "env", "REDISCLI_AUTH=planted-1", "valkey-cli", "config", "get", "maxmemory-policy")
    assert shown.stdout.split() == ["maxmemory-policy", "noeviction"]
    assert (machine.directory / "redis" / "appendonlydir").is_dir()


def test_the_health_check_of_a_full_broker_fails(machine):
    limit = ["env", "REDISCLI_AUTH=planted-1", "valkey-cli", "config", "set", "maxmemory"]
    machine.run("redis", *limit, "1")
    assert machine.check("redis").returncode != 0
    machine.run("redis", *limit, "512mb")
    assert machine.check("redis").returncode == 0


def test_no_secret_is_in_an_argument_list(machine):
    for name in ("redis", "s3"):
        arguments = Path(f"/proc/{machine.started[name].pid}/cmdline").read_bytes()
        assert b"planted" not in arguments


def test_the_s3_server_refuses_strangers_and_hides_its_parts(machine):
    listed = machine.run("producer", "python", "-c", LIST_BUCKETS)
    assert listed.returncode == 0, listed.stderr
    refused = machine.run("producer", "env", "PIXELHERD_S3_SECRET_ACCESS_KEY=wrong", "python", "-c", LIST_BUCKETS)
    assert "SignatureDoesNotMatch" in refused.stderr
    sockets = machine.run("s3", "ss", "--tcp", "--listening", "--numeric", "--no-header").stdout.splitlines()
    beyond = {line.split()[3] for line in sockets if "127.0.0.1:" not in line and "[::1]:" not in line}
    assert {address.rpartition(":")[2] for address in beyond} <= {"8333", "18333", "6379"}


LIST_BUCKETS = """
from config.clients import make_s3
from config.settings import read_settings
make_s3(read_settings()).list_buckets()
"""


@pytest.mark.parametrize("name", ["worker", "flower"])
def test_a_service_of_ours_starts_and_answers_its_health_check(machine, name):
    machine.start(name)
    assert "planted" not in machine.log(name)


def test_a_stopped_worker_is_not_healthy(machine):
    if "worker" not in machine.started:
        pytest.skip("the worker did not start")
    machine._end(machine.started.pop("worker"))
    assert machine.check("worker").returncode != 0
