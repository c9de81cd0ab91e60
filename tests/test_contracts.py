"""The rules of the house: who imports whom, what files are called, and what the lock files promise."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("config", "producer", "workers")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK_FOLDER = ROOT / "config" / "locks"
LOCKS = sorted(LOCK_FOLDER.glob("*.txt"))

#: Each lock file and the extras of pyproject.toml that it pins beside the core.
LOCKED_EXTRAS = {
    "core": (),
    "flower": ("flower",),
    "worker": ("worker",),
    "gpu": ("gpu",),
    "demo": ("worker", "flower", "local"),
    "dev": ("worker", "flower", "local", "dev"),
}

#: Lock files of the dependency groups, each under its group's name.
LOCKED_GROUPS = ("build", "ci", "fleet")

DEEP_LEARNING = {"keras", "openvino", "tensorflow", "torch"}

#: Names that say nothing of what is inside.
EMPTY_NAMES = {"utils", "util", "helpers", "common", "misc", "manager", "handler", "processor", "base"}

#: A line in a module that breaks one rule, and the words by which the rule is known.
FORBIDDEN_IMPORTS = [
    ("producer/cli.py", "import workers.tasks", "never import each other"),
    ("workers/tasks.py", "import producer.cli", "never import each other"),
    ("config/settings.py", "import workers.errors", "never import each other"),
    ("workers/fetch.py", "import workers.decode", "calls run one way"),
    ("workers/write.py", "import workers.pipeline", "calls run one way"),
    ("workers/errors.py", "import workers.sample", "calls run one way"),
    ("workers/pipeline.py", "import workers.tasks", "calls run one way"),
    ("workers/cnn/labels.py", "import pyarrow", "know no queue"),
    ("workers/cnn/labels.py", "import config.clients", "know no queue"),
    ("producer/cli.py", "import keras", "load no deep-learning library"),
    ("config/clients.py", "def late():\n    import tensorflow", "load no deep-learning library"),
    ("config/errors.py", "import config.settings", "No import circle"),
]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)


def test_imports_keep_the_contracts():
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(("module", "line", "rule"), FORBIDDEN_IMPORTS)
def test_a_forbidden_import_is_noticed(module, line, rule, tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    linted = lint_imports(tmp_path)
    assert linted.returncode != 0
    assert any(rule in said and said.endswith("BROKEN") for said in linted.stdout.splitlines()), linted.stdout


def test_producer_and_config_load_only_what_the_core_installs():
    program = """
import importlib, importlib.metadata, pkgutil, sys
for name in ("config", "producer"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
loaded = {name.partition(".")[0] for name in sys.modules}
print(*loaded)
owners = importlib.metadata.packages_distributions()
print(*(owner for name in loaded for owner in owners.get(name, ())))
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    modules, distributions = (set(line.split()) for line in run.stdout.splitlines())
    assert {"config", "producer", "celery", "pydantic"} <= modules
    assert not modules & (DEEP_LEARNING | {"workers"})
    # Taken where they are found: NumPy by pyarrow, certifi by botocore, PyYAML by kombu, cryptography by redis-py;
    # setuptools hooks into every process
    found = {"numpy", "certifi", "pyyaml", "cryptography", "cffi", "setuptools", "pixelherd"}
    core = locked_versions("flower").keys() | found
    assert {canonicalize_name(name) for name in distributions} <= core


def test_file_names_say_what_is_inside():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > len(PACKAGES)
    assert not [str(file) for file in files if EMPTY_NAMES & set(file.stem.split("_"))]


def pins(lock: Path) -> Iterator[tuple[str, str, int]]:
    """Each requirement of a lock file: its name, its version, and how many hashes it admits."""
    text = re.sub(r"^ *#.*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s--hash=sha256:(?=[0-9a-f]{64}\b)", entry)
        pinned = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ; .+)?", requirement.strip())
        assert pinned, f"{lock.name}: {requirement!r} is no pin"
        yield pinned[1], pinned[2], len(hashes)


def test_every_lock_file_is_known():
    assert {lock.stem for lock in LOCKS} == {*LOCKED_EXTRAS, *LOCKED_GROUPS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_file_has_hashes_and_no_address(lock):
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ |\bfile:", text)
    assert not re.search(r"(?<![\w.])/\w", text), "an absolute path"
    assert not [name for name, _, hashes in pins(lock) if not hashes]


def locked_versions(lock: str) -> dict[str, set[str]]:
    """Name -> version; more than one where a package has no version for every Python."""
    versions: dict[str, set[str]] = {}
    for name, version, _ in pins(LOCK_FOLDER / f"{lock}.txt"):
        versions.setdefault(name, set()).add(version)
    return versions


def test_lock_files_agree_on_every_version():
    agreed: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, versions in locked_versions(lock.stem).items():
            assert agreed.setdefault(name, versions) == versions, f"{lock.name}: {name}"


@pytest.mark.parametrize("lock", [*LOCKED_EXTRAS, *LOCKED_GROUPS])
def test_a_lock_file_holds_what_pyproject_asks_for(lock):
    if lock in LOCKED_GROUPS:
        asked = PROJECT["dependency-groups"][lock]
    else:
        extras = [PROJECT["project"]["optional-dependencies"][extra] for extra in LOCKED_EXTRAS[lock]]
        asked = [*PROJECT["project"]["dependencies"], *chain.from_iterable(extras)]
    locked = locked_versions(lock)
    for requirement in map(Requirement, asked):
        found = locked.get(requirement.name, set())
        assert any(map(requirement.specifier.contains, found)), f"make lock: {requirement}"


def test_the_core_is_light():
    for lock in ("core", "flower"):
        assert not {name for name in locked_versions(lock) if name.partition("-")[0] in DEEP_LEARNING}


def test_gpu_is_worker_with_another_tensorflow():
    extras = PROJECT["project"]["optional-dependencies"]
    for line in set(extras["worker"]) ^ set(extras["gpu"]):
        assert line.startswith("tensorflow")


def test_the_locked_build_is_the_one_of_pyproject():
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]
