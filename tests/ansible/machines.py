"""Directories to start from -> machines with systemd as their first process, on one bridge.

A machine is a root directory that is never written (Debian, and the libraries that pip would have put there), an
overlay that takes what is written, a network namespace with an address on the bridge and no way out, and
systemd-nspawn.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.ansible.debian import run, unavailable
from tests.test_compose import ROOT, tool

METADATA_ADDRESS = "169.254.169.254"

BOOT_TIMEOUT_S = 60

#: Seconds after which a machine ends by itself, should the tests have been killed.
LIFE_S = 1_800


@dataclass
class Bridge:
    """A network that leads nowhere else; this machine has its first address."""

    name: str
    prefix: str
    machines: list["Machine"] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.prefix}.1"


@contextmanager
def bridged() -> Iterator[Bridge]:
    """A bridge with a name and a range that nobody else has here."""
    token = secrets.token_hex(3)
    bridge = Bridge(f"px{token}", f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}")
    made = subprocess.run(["ip", "link", "add", bridge.name, "type", "bridge"], capture_output=True, check=False)
    if made.returncode:
        unavailable(f"no bridge here: {made.stderr.decode()}")
    try:
        run("ip", "address", "add", f"{bridge.address}/24", "dev", bridge.name)
        run("ip", "link", "set", bridge.name, "up")
        yield bridge
    finally:
        run("ip", "link", "delete", bridge.name)


class Machine:
    """One machine; `layers` are the directories that its root is made of, the uppermost first.

    Where there are `metadata`, a directory of tests/aws.py, they are served on the machine's own 169.254.169.254.
    """

    def __init__(
        self, bridge: Bridge, name: str, layers: Sequence[Path], path: Path, metadata: Path | None = None
    ) -> None:
        self.name = name
        self.path = path
        self.metadata = metadata
        self.layers = layers
        self.namespace = f"{bridge.name}-{name}"
        self.address = f"{bridge.prefix}.{10 + len(bridge.machines)}"
        self.written = path / "written"
        self._root = path / "root"
        self._bridge = bridge
        self._nspawn: subprocess.Popen[bytes] | None = None
        bridge.machines.append(self)

    @contextmanager
    def running(self) -> Iterator["Machine"]:
        """Boot, and shut down in order."""
        for made in (self.written, self._root, self.path / "work"):
            made.mkdir(parents=True, mode=0o755)
            made.chmod(0o755)
        # mmdebstrap leaves the name of the machine that it ran on.
        for name, text in (("hostname", self.name), ("hosts", f"127.0.0.1 localhost {self.name}")):
            (self.written / "etc").mkdir(exist_ok=True, mode=0o755)
            (self.written / "etc" / name).write_text(f"{text}\n", encoding="utf-8")
        layers = f"lowerdir={':'.join(map(str, self.layers))},upperdir={self.written},workdir={self.path / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self._root)
        with ExitStack() as stack:
            stack.callback(run, "umount", self._root)
            run("ip", "netns", "add", self.namespace)
            stack.callback(run, "ip", "netns", "delete", self.namespace)
            self._connect()
            if self.metadata:
                stack.enter_context(self._serving_metadata(self.metadata))
            stack.callback(self._leave_groups)
            stack.callback(self.shut_down)
            self._boot()
            yield self

    def shut_down(self) -> None:
        """As `poweroff` does; killed, it would leave its processes behind."""
        if self._nspawn is not None:
            self._nspawn.send_signal(signal.SIGTERM)
            self._nspawn.wait(150)
            self._nspawn = None

    def inside(self, *command: str, timeout_s: float = 60) -> str:
        """Run as root inside, past SSH."""
        return run(*self._enter(), *command, timeout_s=timeout_s)

    def log(self) -> str:
        """What systemd and the kernel's console said."""
        return (self.path / "console").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _connect(self) -> None:
        inner, outer = "host0", f"v{secrets.token_hex(4)}"
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.namespace)
        run("ip", "link", "set", outer, "master", self._bridge.name, "up")
        run("ip", "-n", self.namespace, "address", "add", f"{self.address}/24", "dev", inner)
        run("ip", "-n", self.namespace, "link", "set", inner, "up")
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")

    @contextmanager
    def _serving_metadata(self, directory: Path) -> Iterator[None]:
        run("ip", "-n", self.namespace, "address", "add", f"{METADATA_ADDRESS}/32", "dev", "lo")
        service = [sys.executable, str(ROOT / "tests" / "aws.py"), METADATA_ADDRESS, "80", str(directory)]
        served = subprocess.Popen(["ip", "netns", "exec", self.namespace, *service])
        try:
            yield
        finally:
            served.terminate()
            served.wait(10)

    def _boot(self) -> None:
        for group in self._groups():
            group.mkdir()
        join = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups())
        boot = ["timeout", f"{LIFE_S}", tool("systemd-nspawn"), "--quiet", "--boot", "--register=no", "--keep-unit"]
        boot += [f"--directory={self._root}", f"--machine={self.namespace}", "--console=pipe"]
        boot += [f"--network-namespace-path=/run/netns/{self.namespace}", "--kill-signal=SIGRTMIN+3"]
        env = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        command = ["setsid", "sh", "-c", f'{join}exec "$@"', "boot", *boot]
        with (self.path / "console").open("ab") as log:
            self._nspawn = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while self._state() not in ("running", "degraded"):
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                unavailable(f"systemd does not boot here: {self.log()}")
            time.sleep(0.2)

    def _groups(self) -> list[Path]:
        """Control groups of its own: two machines in one would be ruled by neither systemd."""
        base = Path("/sys/fs/cgroup")
        split = [base / name for name in ("systemd", "unified") if (base / name).is_dir()]
        return [found / self.namespace for found in split or [base]]

    def _leave_groups(self) -> None:
        for group in self._groups():
            for one in (*sorted(group.rglob("*/"), reverse=True), group):
                with suppress(OSError):  # somebody is still ending
                    one.rmdir()

    def _enter(self) -> list[str]:
        first = self._first_process()
        return ["nsenter", f"--target={first}", "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd", "--"]

    def _first_process(self) -> str:
        """timeout -> nspawn -> the machine's systemd."""
        assert self._nspawn is not None
        found = str(self._nspawn.pid)
        for _ in range(2):
            found = Path(f"/proc/{found}/task/{found}/children").read_text(encoding="utf-8").split()[-1]
        return found

    def _state(self) -> str:
        try:
            command = [*self._enter(), "systemctl", "is-system-running"]
        except (OSError, IndexError):  # not that far
            return ""
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()
