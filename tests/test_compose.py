"""docker-compose.yml and the Dockerfile, as far as they can be judged without Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from config.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
SETTINGS = {ENV_PREFIX + name.upper() for name in Settings.model_fields}

SECRETS = {
    "PIXELHERD_BROKER_URL": "redis://:planted-1@redis:6379/0",
    "PIXELHERD_S3_ACCESS_KEY_ID": "planted-2",
    "PIXELHERD_S3_SECRET_ACCESS_KEY": "planted-3",
    "PIXELHERD_FLOWER_PASSWORD": "planted-4",
}

#: Services that run our own package.
OURS = {"worker", "worker-gpu", "flower", "producer"}


def tool(name: str) -> str:
    """The program beside this Python, else on the PATH: absent is a skip here and a failure in CI."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        (pytest.fail if os.getenv("CI") else pytest.skip)(f"{name} is not installed")
    return found


def present(module: str) -> None:
    """Skip where a module is not installed, and fail in CI."""
    if find_spec(module) is None:
        if os.getenv("CI"):
            pytest.fail(f"{module} is not installed")
        pytest.skip(f"{module} is not installed", allow_module_level=True)


def needed(module: str) -> Any:
    """The module that the tests need, or as `present`."""
    present(module)
    return import_module(module)


def compose(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the compose binary, which needs no Docker to read its file; no .env of this machine is read."""
    command = [tool("docker-compose"), "--env-file", os.devnull, "--profile", "*", "--file", str(COMPOSE), *arguments]
    clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | env
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def services():
    shown = compose("config", "--format", "json", env=SECRETS)
    assert shown.stdout, shown.stderr
    return json.loads(shown.stdout)["services"]


def test_the_services_of_the_system_are_there(services):
    assert set(services) == OURS | {"redis", "s3"}
    assert services["producer"]["profiles"] == ["producer"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert "container_name" not in services["worker"], "a name of its own would forbid --scale worker=2"
    assert "ports" not in services["worker"]


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_is_refused_by_its_name(name):
    shown = compose("config", env={key: value for key, value in SECRETS.items() if key != name})
    assert f"required variable {name} is missing" in shown.stderr  # the package's wrapper loses the exit status
    assert not shown.stdout


def test_every_variable_is_a_setting(services):
    interpolated = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    assert interpolated <= SETTINGS
    given = {name for service in OURS for name in services[service].get("environment", {})}
    assert given <= SETTINGS
    assert set(services["redis"]["environment"]) <= SETTINGS
    missing = SETTINGS - given - image_variables()
    assert not missing, f"a user of docker-compose.yml cannot set {sorted(missing)}"


def test_what_the_user_leaves_unset_stays_unset(services):
    environment = services["worker"]["environment"]
    assert environment["PIXELHERD_CHUNK_SIZE"] is None
    assert environment["PIXELHERD_S3_ENDPOINT_URL"] == "http://s3:8333"
    shown = compose("config", "--format", "json", env={**SECRETS, "PIXELHERD_CHUNK_SIZE": "99"})
    assert json.loads(shown.stdout)["services"]["producer"]["environment"]["PIXELHERD_CHUNK_SIZE"] == "99"


def test_every_secret_stays_out_of_every_argument_list(services):
    for service in services.values():
        said = json.dumps([service.get("entrypoint"), service.get("command"), service.get("healthcheck")])
        assert "planted" not in said


def test_only_loopback_of_the_host_is_published(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["target"] for port in published} == {8333, 5555}
    assert all(port["host_ip"] == "127.0.0.1" for port in published)


def test_every_service_has_a_health_check_and_no_needless_rights(services):
    for name, service in services.items():
        assert service["read_only"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "producer" or service["healthcheck"]["test"], name
        assert "privileged" not in service, name
        assert name not in OURS or service["cap_drop"] == ["ALL"], name


def test_a_worker_may_finish_or_give_back_its_chunk_before_it_is_killed(services):
    period = re.fullmatch(r"(?:(\d+)m)?(\d+)s", services["worker"]["stop_grace_period"])
    assert period
    minutes, seconds = period.groups()
    grace = Settings.model_fields["shutdown_grace_s"].default
    assert int(minutes or 0) * 60 + int(seconds) >= grace + 20


def test_the_broker_forgets_nothing_and_evicts_nothing(services):
    (script,) = services["redis"]["command"]
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(script.splitlines())


def instructions() -> list[str]:
    """The Dockerfile's instructions, continued lines joined, comments gone."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def image_variables() -> set[str]:
    """Settings that the image itself sets."""
    return {name for line in instructions() if line.startswith("ENV") for name in re.findall(r"(PIXELHERD_\w+)=", line)}


def stages() -> dict[str, list[str]]:
    """The Dockerfile's stages by name, each with its own instructions."""
    found: dict[str, list[str]] = {}
    for line in instructions():
        if line.startswith("FROM "):
            name = line.split(" AS ")[1]
            found[name] = []
        if found:
            found[name].append(line)
    return found


def test_every_image_that_compose_builds_is_a_stage_and_runs_without_rights(services):
    for name in OURS:
        stage = stages()[services[name]["build"]["target"]]
        assert stage[0].startswith("FROM machine "), "a final image carries no build tools"
        assert [line for line in stage if line.startswith("USER")] == ["USER 10001:10001"]
        assert 'ENTRYPOINT ["pixelherd"]' in stage
        assert stage[-1].startswith("CMD [")
    assert list(stages())[-1] == "worker", "docker build . without a target makes the worker"


def test_every_image_variable_is_a_setting():
    assert image_variables() <= SETTINGS


def test_libraries_come_only_from_lock_files_with_hashes():
    for line in instructions():
        if "pip " in line and "install" in line:
            assert "--require-hashes" in line or "--no-index" in line, line
        assert "ADD " not in line


def test_what_the_dockerfile_copies_exists_and_is_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    admitted = [line[1:].rstrip("/") for line in ignored if line.startswith("!")]
    for line in instructions():
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, name) or source.startswith(name + "/") for name in admitted), source


def test_hadolint_finds_nothing():
    linted = subprocess.run([tool("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)
    assert linted.returncode == 0, linted.stdout
