"""The roles, as far as they can be judged on this machine alone: style, refused arguments, units, settings, TLS."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.settings import CONFIG_VARIABLE, ENV_PREFIX, Settings
from tests.test_compose import ROOT, needed, present, tool
from workers.drain import DRAINED_EXIT_CODE

yaml = needed("yaml")

ANSIBLE = ROOT / "ansible"
ROLES = sorted(path.parent.parent for path in (ANSIBLE / "roles").glob("*/tasks/main.yml"))

#: Variables that roles get from group_vars, with harmless values.
VARIABLES = {
    "aws_region": "eu-west-1",
    "account_id": "123456789012",
    "broker_private_address": "10.73.0.10",
    "broker__password": "planted-1",
    "broker__flower_password": "planted-2",
    "broker_machine__password": "planted-1",
    "broker_machine_private_address": "10.73.0.10",
    "broker_maxmemory_mib": 512,
    "worker__libraries": "worker",
}

#: What a person has to say.
WHO = {"fleet": "demo", "admin_cidr": "203.0.113.7/32"}

#: A role, what is wrong in its arguments, and what is said about it before anything was done.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "fleet with capitals": ("account", {"fleet": "My_Fleet"}, "small letters, digits and hyphens"),
    "no fleet": ("account", {"fleet": None}, "fleet"),
    "the world as administrator": ("network", {"admin_cidr": "0.0.0.0/0"}, "no wider than /16"),
    "half a continent as administrator": ("network", {"admin_cidr": "16.0.0.0/4"}, "no wider than /16"),
    "no administrator": ("network", {"admin_cidr": None}, "admin_cidr"),
    "a VPC without subnets": ("network", {"vpc_id": "vpc-1"}, "given together or not at all"),
    "a prefix without slash": ("access", {"input_uris": ["s3://photos/2024"]}, "slash at the end"),
    "a prefix with a star": ("access", {"input_uris": ["s3://photos/*/"]}, "slash at the end"),
    "days that are no number": ("storage", {"storage_delete_after_days": "many"}, "storage_delete_after_days"),
    "unknown libraries": ("software", {"software_libraries": "everything"}, "software_libraries"),
    "a grace that is no number": ("worker", {"shutdown_grace_s": "long"}, "shutdown_grace_s"),
    "unknown image": ("worker_image", {"worker_image_libraries": "tpu"}, "worker_image_libraries"),
    "workers that are no number": ("worker_group", {"worker_group_max": "all"}, "worker_group_max"),
}


def play(path: Path, tasks: list[dict], **variables) -> None:
    """Run tasks on this machine, with the variables of the playbooks and these."""
    book = path / "play.yml"
    given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **VARIABLES, **variables}
    plays = [{"hosts": "localhost", "gather_facts": False, "vars": given, "tasks": tasks}]
    book.write_text(yaml.safe_dump(plays, sort_keys=False), encoding="utf-8")
    for name in ("group_vars", "roles"):
        (path / name).symlink_to(ANSIBLE / name)
    command = [tool("ansible-playbook"), "-i", "localhost,", str(book)]
    env = {**os.environ, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "AWS_EC2_METADATA_DISABLED": "true"}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


@pytest.mark.timeout(900)  # 12 s on a machine that does nothing else
def test_ansible_lint_finds_nothing():
    command = [tool("ansible-lint"), "--offline", "--nocolor", "--profile", "production"]
    env = {**os.environ, "PATH": f"{Path(tool('ansible-lint')).parent}:{os.environ['PATH']}"}
    linted = subprocess.run(command, cwd=ANSIBLE, env=env, capture_output=True, text=True, check=False, timeout=880)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_says_what_it_takes(role):
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    assert {"main"} <= set(specs)
    for entry, spec in specs.items():
        assert spec["short_description"], entry
        assert (role / "tasks" / f"{entry}.yml").exists(), entry
        assert all(option["description"] for option in spec["options"].values())
    defaults = role / "defaults" / "main.yml"
    if defaults.exists():
        own = yaml.safe_load(defaults.read_text(encoding="utf-8"))
        assert set(own) <= set(specs["main"]["options"])
        assert all(name.startswith(role.name + "_") for name in own)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each role says to bad arguments; one run for all of them."""
    path = tmp_path_factory.mktemp("refusals")
    tasks = []
    for case, (role, wrong, _) in REFUSED.items():
        given: dict[str, Any] = {
            **WHO,
            "network_subnet_ids": ["subnet-1"],
            "network_security_groups": {"admin": "sg-1", "worker": "sg-2", "broker": "sg-3"},
            "worker_image_id": "ami-1",
            **wrong,
        }
        said = {"dest": str(path / f"{case}.json"), "content": "{{ ansible_failed_result | to_json }}", "mode": "0600"}
        tasks.append(
            {
                "name": case,
                "vars": {name: value for name, value in given.items() if value is not None},
                "block": [{"ansible.builtin.include_role": {"name": role}}],
                "rescue": [{"ansible.builtin.copy": said}],
            }
        )
    play(path, tasks)
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_before_anything_is_done(case, refusals):
    said = refusals / f"{case}.json"
    assert said.exists(), "it was not refused"
    failed = json.loads(said.read_text(encoding="utf-8"))
    assert REFUSED[case][2] in json.dumps(failed)


#: Each rendered file: its role, its template, where it lies on a machine.
RENDERED = {
    "flower": ("flower", "pixelherd-flower.service.j2", "etc/systemd/system/pixelherd-flower.service"),
    "autoscale": ("queue_metric", "pixelherd-autoscale.service.j2", "etc/systemd/system/pixelherd-autoscale.service"),
    "worker": ("worker", "pixelherd-worker.service.j2", "etc/systemd/system/pixelherd-worker.service"),
    "worker with a GPU": ("worker", "pixelherd-worker.service.j2", "etc/systemd/system/pixelherd-gpu-worker.service"),
    "redis": ("broker", "redis.conf.j2", "etc/redis/redis-pixelherd.conf"),
    "broker settings": ("broker", "settings.toml.j2", "etc/pixelherd/settings.toml"),
    "worker settings": ("broker_machine", "worker_settings.toml.j2", "run/pixelherd/settings.toml"),
}
UNITS = ("flower", "autoscale", "worker", "worker with a GPU")

#: Where a template is rendered with other variables than the rest.
OTHERWISE = {"worker with a GPU": {"worker__libraries": "gpu"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A machine's directories with every template rendered, and stand-ins for the programs that units name."""
    path = tmp_path_factory.mktemp("root")
    tasks = []
    for name, (role, template, place) in RENDERED.items():
        (path / place).parent.mkdir(parents=True, exist_ok=True)
        source = str(ANSIBLE / "roles" / role / "templates" / template)
        given = {"src": source, "dest": str(path / place), "mode": "0644"}
        tasks.append({"name": place, "ansible.builtin.template": given, "vars": OTHERWISE.get(name, {})})
    play(path, tasks, playbook_dir=str(ANSIBLE), **WHO)
    for program in ("opt/pixelherd/venv/bin/pixelherd", "opt/pixelherd/venv/bin/python"):
        (path / program).parent.mkdir(parents=True, exist_ok=True)
        (path / program).write_text("#!/bin/sh\n", encoding="utf-8")
        (path / program).chmod(0o755)
    units = path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for target in ("basic", "sysinit", "network-online", "multi-user", "shutdown"):
        (units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n", encoding="utf-8")
    return path


def rendered(root: Path, name: str) -> str:
    return (root / RENDERED[name][2]).read_text(encoding="utf-8")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line_of_a_unit(root, unit):
    name = Path(RENDERED[unit][2]).name
    command = [tool("systemd-analyze"), "verify", "--man=no", f"--root={root}", name]
    verified = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_do_little_on_its_machine(root, unit):
    command = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=40", root / RENDERED[unit][2]]
    judged = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert judged.returncode == 0, judged.stdout[-300:]


def lines_of(root: Path, name: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in rendered(root, name).splitlines() if "=" in line)


def test_a_worker_is_stopped_gently(root):
    unit = lines_of(root, "worker")
    assert unit["KillMode"] == "mixed"
    assert unit["KillSignal"] == "SIGTERM"
    assert int(unit["TimeoutStopSec"]) >= 100 + 20
    assert unit["User"] == "pixelherd"


def test_a_worker_whose_machine_ends_is_not_started_again(root):
    unit = lines_of(root, "worker")
    assert unit["Restart"] == "always"
    assert unit["RestartPreventExitStatus"] == unit["SuccessExitStatus"] == str(DRAINED_EXIT_CODE)


def test_only_a_worker_with_a_gpu_sees_devices(root):
    for unit in UNITS:
        seen = {lines_of(root, unit)[name] for name in ("PrivateDevices", "ProtectClock")}
        assert seen == {"no" if "GPU" in unit else "yes"}, unit


def test_every_variable_of_a_unit_is_a_setting(root):
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    for unit in UNITS:
        assert set(re.findall(r"\b(PIXELHERD_\w+)=", rendered(root, unit))) <= known


@pytest.mark.parametrize("name", ["broker settings", "worker settings"])
def test_a_settings_file_holds_settings(root, name, monkeypatch):
    monkeypatch.setenv(CONFIG_VARIABLE, str(root / RENDERED[name][2]))
    for variable in [key for key in os.environ if key.startswith(ENV_PREFIX) and key != CONFIG_VARIABLE]:
        monkeypatch.delenv(variable)
    from config.settings import read_settings

    settings = read_settings()
    assert settings.broker_url.get_secret_value().startswith("rediss://:planted-1@")
    assert settings.output == "s3://pixelherd-eu-west-1-123456789012/results/"
    assert settings.autoscaling_group == "pixelherd-demo-workers"


def test_redis_forgets_nothing_evicts_nothing_and_speaks_tls_alone(root):
    options = dict(line.split(" ", 1) for line in rendered(root, "redis").splitlines() if line and line[0] != "#")
    assert options["port"] == "0"
    assert options["appendonly"] == "yes"
    assert options["maxmemory-policy"] == "noeviction"
    assert options["requirepass"] == "planted-1"


def test_the_worker_classifies_an_image_before_it_is_baked(tmp_path):
    present("openvino")
    script = ANSIBLE / "roles/worker/files/verify_worker.py"
    env = {**os.environ, "PIXELHERD_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stderr
    assert "1 image classified as envelope" in ran.stdout
