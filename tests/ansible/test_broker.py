"""Redis as the role configures it: a real server with the rendered file, and the clients that our settings make."""

import re
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from config.clients import make_celery, make_redis
from config.settings import CONFIG_VARIABLE, ENV_PREFIX, read_settings
from tests.ansible.test_roles import rendered, root
from tests.test_compose import tool

__all__ = ["root"]  # pytest finds the fixture here

START_TIMEOUT_S = 30


def make_certificate(directory: Path, name: str) -> Path:
    """A self-signed certificate for loopback, like the one that the role makes on the broker's machine."""
    key, certificate = directory / f"{name}-key.pem", directory / f"{name}-cert.pem"
    command = [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=pixelherd broker"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def broker(root, tmp_path_factory):
    """The port of a server that runs with the rendered file; only its paths, port and address are this machine's."""
    path = tmp_path_factory.mktemp("redis")
    make_certificate(path, "broker")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = rendered(root, "redis").replace("/etc/redis/", f"{path}/").replace("/run/redis-pixelherd", str(path))
    text = re.sub(r"^dir .*$", f"dir {path}", text, flags=re.MULTILINE)
    text = text.replace("tls-port 6379", f"tls-port {port}").replace("bind 0.0.0.0", "bind 127.0.0.1")
    (path / "redis.conf").write_text(text, encoding="utf-8")
    with ExitStack() as stack:
        log = stack.enter_context((path / "log").open("wb"))
        server = subprocess.Popen([tool("redis-server"), path / "redis.conf"], stdout=log, stderr=log)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not listens(port):
            assert server.poll() is None, (path / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield path, port


@pytest.fixture
def settings(broker, root, tmp_path, monkeypatch):
    """What Flower and the queue metric read, with this machine's port and certificate."""
    path, port = broker
    text = rendered(root, "broker settings").replace(":6379/", f":{port}/")
    file = tmp_path / "settings.toml"
    file.write_text(text.replace("/etc/pixelherd/broker-ca.pem", str(path / "broker-cert.pem")), encoding="utf-8")
    for name in ("BROKER_URL", "OUTPUT", "S3_REGION", "FLOWER_PASSWORD"):
        monkeypatch.delenv(ENV_PREFIX + name, raising=False)
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    return read_settings()


def test_our_clients_speak_tls_with_it(settings):
    with make_redis(settings) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with make_celery(settings).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        assert connection.connected


def other_url(settings, old: str, new: str):
    url = settings.broker_url.get_secret_value()
    assert old in url
    return read_settings(broker_url=url.replace(old, new))


def test_another_certificate_is_not_trusted(settings, broker, tmp_path):
    other = make_certificate(tmp_path, "other")
    changed = other_url(settings, str(broker[0] / "broker-cert.pem"), str(other))
    with make_redis(changed) as client, pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        client.ping()


def test_another_password_is_refused(settings):
    with make_redis(other_url(settings, "planted-1", "planted-9")) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_nothing_is_said_in_the_clear(settings):
    clear = settings.broker_url.get_secret_value().partition("?")[0].replace("rediss://", "redis://")
    with make_redis(read_settings(broker_url=clear)) as client, pytest.raises(redis.ConnectionError):
        client.ping()
