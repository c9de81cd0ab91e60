"""Debian's packages and this Python's own libraries -> directories that machines with systemd can start from.

What needs root and cannot be had here is a skip, and a failure in CI.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NoReturn

import pytest
from packaging.markers import Marker

from tests.test_compose import ROOT, tool

#: What AWS's own Debian image brings, as far as it matters, and after it what the roles install: a machine here has
#: no way to Debian's mirrors, so a role that asks for anything else fails.
IMAGE = ("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "python3", "python3-apt", "iproute2", "procps")
ASKED_FOR = ("python3-venv", "redis-server", "python3-cryptography")

#: Debian's release by its Python: libraries are those of the Python that runs the tests.
RELEASES = {(3, 11): "bookworm", (3, 13): "trixie"}

#: Who may log in, as on AWS's image.
USER = "admin"


def unavailable(reason: str) -> NoReturn:
    """Skip on a person's machine, and fail in CI."""
    (pytest.fail if os.getenv("CI") else pytest.skip)(reason)


def run(*command: str | Path, timeout_s: float = 60) -> str:
    """A command that has to succeed."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert ran.returncode == 0, f"{command}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
    return ran.stdout


def bake_root(path: Path, public_key: str) -> Path:
    """A root directory of Debian that lets the owner of a key in; nothing in it has been started."""
    if os.geteuid() != 0:
        unavailable("machines with systemd need root")
    release = RELEASES.get(sys.version_info[:2]) or unavailable(f"no Debian has Python {sys.version_info[:2]}")
    for name in ("systemd-nspawn", "ip"):
        tool(name)
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    login = f'useradd --root "$1" --create-home --shell /bin/bash {USER}'
    options = ["--variant=minbase", f"--include={','.join(IMAGE + ASKED_FOR)}", f"--customize-hook={login}"]
    # Nobody reads it, and nobody minds if a power cut breaks it.
    options += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
    options += ["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=force-unsafe-io"]
    made = subprocess.run([tool("mmdebstrap"), *options, release, path], capture_output=True, text=True, check=False)
    if made.returncode:
        unavailable(f"no Debian here: {made.stderr[-1000:]}")
    keys = path / "home" / USER / ".ssh"
    keys.mkdir(mode=0o700)
    (keys / "authorized_keys").write_text(public_key, encoding="utf-8")
    owner = (path / "home" / USER).stat()
    for one in (keys, keys / "authorized_keys"):
        os.chown(one, owner.st_uid, owner.st_gid)
    (path / "etc/sudoers.d/admin").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n", encoding="utf-8")
    return path


def lay_out_libraries(root: Path, path: Path, *locks: str) -> Path:
    """The libraries of lock files where pip would put them on a machine with this root, as links to our own.

    The role's pip finds each of them installed in the version that its file names, and downloads nothing: 400 MB
    and a minute for each machine. A library that the lock files lack is not there.
    """
    version = run("chroot", root, "python3", "--version").split()[1]
    its = {"python_full_version": version, "python_version": version.rpartition(".")[0]}
    site = path / f"opt/pixelherd/venv/lib/python{its['python_version']}/site-packages"
    site.mkdir(parents=True)
    text = "\n".join((ROOT / "config" / "locks" / f"{lock}.txt").read_text(encoding="utf-8") for lock in locks)
    for name, pinned, marker in re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; (.+?))? *\\?$", text, flags=re.MULTILINE):
        if marker and not Marker(marker).evaluate(its):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # needed by that Python and not by this one, which are not of one day
            pip = [sys.executable, "-m", "pip", "--quiet", "install", "--target", str(site), "--no-deps"]
            run(*pip, "--ignore-requires-python", f"{name}=={pinned}", timeout_s=300)
            continue
        for file in found.files or ():
            if file.parts[0] != ".." and Path(str(file.locate())).is_file():
                _link(Path(str(file.locate())), site / file)
    return path


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:  # two distributions of one namespace
        pass
    except OSError:  # another disk
        shutil.copy2(source, target)
