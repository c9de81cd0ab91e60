"""Redis that speaks TLS with a CA of its own and wants a password: all our clients, and none that trusts another."""

import base64
import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
import redis
from pydantic import SecretStr

import producer
from config.clients import make_celery, make_redis
from config.errors import SettingsError
from config.settings import Settings, read_settings
from producer import reconcile
from producer.local_stack import child_environment, running_flower, worker_command, worker_name, write_config
from producer.ports import LOOPBACK, free_ports, is_open
from producer.processes import Program, running, starting
from tests.conftest import require
from tests.images import noise
from tests.integration.looks import wait_for

LOGIN = "let me in"


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


def _make_ca(directory: Path, name: str) -> Path:
    """A certificate authority that nobody knows, as somebody makes one for a single broker."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    made = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    _openssl("req", *made, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate))
    return certificate


def _make_certificate(directory: Path, ca: Path, address: str) -> tuple[Path, Path]:
    """A server's certificate for one address, signed by a CA, and its key."""
    key, request, certificate = (directory / f"server.{kind}" for kind in ("key", "csr", "pem"))
    names = directory / "names.txt"
    names.write_text(f"subjectAltName={address}\n", encoding="ascii")
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=broker")
    _openssl("req", *made, "-keyout", str(key), "-out", str(request))
    signed = ("-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")), "-CAcreateserial", "-days", "2")
    _openssl("x509", "-req", "-in", str(request), *signed, "-extfile", str(names), "-out", str(certificate))
    return certificate, key


@contextmanager
def running_tls(directory: Path, ca: Path, address: str) -> Iterator[str]:
    """The URL of a Redis that speaks nothing but TLS."""
    certificate, key = _make_certificate(directory, ca, address)
    port, password = free_ports(1)[0], secrets.token_urlsafe(16)
    options = {"port": 0, "tls-port": port, "bind": LOOPBACK, "requirepass": password, "save": '""', "dir": directory}
    tls = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": ca, "tls-auth-clients": "no"}
    config = directory / "redis.conf"
    config.write_text("".join(f"{name} {value}\n" for name, value in {**options, **tls}.items()), encoding="utf-8")
    command, log = [str(shutil.which("redis-server")), str(config)], directory / "redis.log"
    with running(Program("Redis", command, {}, log, lambda: is_open(port))):
        yield f"rediss://:{password}@{LOOPBACK}:{port}/0"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """The settings of a broker with a certificate for 127.0.0.1."""
    require(shutil.which("redis-server") and shutil.which("openssl"), "redis-server with openssl")
    directory = tmp_path_factory.mktemp("tls")
    ca = _make_ca(directory, "own-ca")
    with running_tls(directory, ca, f"IP:{LOOPBACK}") as url:
        yield {"broker_url": SecretStr(url), "broker_ca_file": ca}


@pytest.fixture
def secured(settings: Settings, tls: dict[str, object]) -> Settings:
    """The test's settings, with that broker."""
    flower = {"flower_port": free_ports(1)[0], "flower_password": SecretStr(LOGIN)}
    return settings.model_copy(update={**tls, **flower})


def _page(settings: Settings, page: str) -> str:
    login = base64.b64encode(f"{settings.flower_user}:{LOGIN}".encode()).decode()
    url = f"http://{LOOPBACK}:{settings.flower_port}{page}"
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(answer.read().decode())


def test_a_run_walks_over_tls_and_what_got_lost_comes_back(secured, tls, worker, store, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(reconcile, "LOOK_INTERVAL_S", 0.5)
    monkeypatch.setattr(reconcile, "SURE_S", 1.0)
    keys = [f"in/{number}.jpg" for number in range(4)]
    for number, key in enumerate(keys):
        obstore.put(store, key, noise(number))
    told: list[str] = []
    run = producer.submit("classify", f"s3://{bucket}/in/", settings=secured, on_event=told.append)
    assert run.wait_enqueued(60)
    with make_redis(secured) as client, running_flower(secured, tmp_path):
        assert client.delete(secured.queue)  # a message that nobody holds
        child = worker(**tls)
        assert run.wait(timeout_s=150).counts == {"ok": 4}
        assert client.get("pixelherd:visibility_timeout") == b"60"  # the lease's
        assert _page(secured, "/broker").count(secured.queue)
        wait_for(lambda: '"broker_use_ssl"' in _page(secured, "/api/workers?refresh=1"), child)
    assert any("enqueued again" in text for text in told)
    log = child.program.log.read_text()
    assert not [word for word in ("custody=unknown", "lease=not_renewed", "not_noted", "Traceback") if word in log]


def _refuse(settings: Settings) -> None:
    """Producers say so in one line, and no other client goes on."""
    with pytest.raises(SettingsError, match="PIXELHERD_BROKER_CA_FILE") as refused:
        producer.submit("classify", ["s3://b/k"], settings=settings)
    assert "\n" not in str(refused.value)
    with make_redis(settings, retries=0) as client, pytest.raises(redis.ConnectionError, match="CERTIFICATE"):
        client.ping()
    with make_celery(settings).connection_for_write() as connection, pytest.raises(redis.ConnectionError):
        connection.connect()


def test_a_broker_of_another_ca_is_not_told_the_password(secured, tmp_path):
    _refuse(secured.model_copy(update={"broker_ca_file": None}))  # the system's CAs
    another = secured.model_copy(update={"broker_ca_file": _make_ca(tmp_path, "another-ca")})
    _refuse(another)
    config = write_config(another, tmp_path / "worker.toml")
    command, log = worker_command(another, worker_name()), tmp_path / "worker.log"
    with starting(Program("the worker", command, child_environment(config), log)) as child:
        wait_for(lambda: "Trying again" in log.read_text(), child)
    lines = [line for line in log.read_text().splitlines() if "CERTIFICATE_VERIFY_FAILED" in line]
    assert lines
    assert "Traceback" not in log.read_text()
    assert another.broker_url.get_secret_value().split(":")[2].partition("@")[0] not in log.read_text()


def test_a_broker_with_the_certificate_of_another_host_is_refused(secured, tmp_path):
    ca = _make_ca(tmp_path, "own-ca")
    with running_tls(tmp_path, ca, "DNS:broker.example") as url:
        _refuse(secured.model_copy(update={"broker_url": SecretStr(url), "broker_ca_file": ca}))


def test_what_a_url_says_of_tls_holds_for_every_client(secured):
    url = f"{secured.broker_url.get_secret_value()}?ssl_ca_certs={secured.broker_ca_file}"
    settings = secured.model_copy(update={"broker_url": SecretStr(url), "broker_ca_file": None})
    with make_redis(settings) as client, make_celery(settings).connection_for_write() as connection:
        assert client.ping()
        connection.connect()
    _refuse(settings.model_copy(update={"broker_url": SecretStr(url.partition("?")[0])}))


def test_plain_text_is_not_spoken_with_a_server_of_tls(secured):
    plain = SecretStr(secured.broker_url.get_secret_value().replace("rediss://", "redis://"))
    with pytest.raises(producer.PixelherdError, match="cannot reach the broker"):
        producer.submit("classify", ["s3://b/k"], settings=secured.model_copy(update={"broker_url": plain}))


def test_a_ca_file_that_is_not_there_is_a_bad_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("PIXELHERD_BROKER_CA_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(SettingsError, match=r"none\.pem is no file"):
        read_settings()
