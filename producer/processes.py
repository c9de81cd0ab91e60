"""A Program -> a child process that tells why it died, and that never outlives us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from config.errors import UnavailableError

#: Seconds between two looks at a child that is starting.
LOOK_INTERVAL_S = 0.05

#: Seconds that a program may take to be ready, on a machine that does other things too.
START_TIMEOUT_S = 120.0

#: Lines of a dead child's log that go into the error.
LAST_LINES = 3

#: PR_SET_PDEATHSIG (1) with SIGKILL (9): the kernel ends the child when the thread that started it is gone, even
#: killed. Done in a tiny interpreter that becomes the command, because code between fork and exec (preexec_fn)
#: is unsafe, and warned of, in a process with threads. Linux only.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True, slots=True)
class Stop:
    """How a child is asked to end, and how long it may take before it is killed."""

    ask: signal.Signals = signal.SIGTERM
    patience_s: float = 10.0


def _at_once() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: a name for a person, a command, its environment, its log, and how to tell that it is ready."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool] = _at_once
    stop: Stop = Stop()


@dataclass(frozen=True, slots=True)
class Child:
    """One process that we started."""

    program: Program
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise UnavailableError with the end of the log where the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise UnavailableError(f"{self.program.name} ended with code {code}: {self._last_lines()}")

    def wait(self) -> None:
        """Return once the program is ready; UnavailableError where the process ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.program.is_ready():
            self.check()
            if time.monotonic() > deadline:
                name, last = self.program.name, self._last_lines()
                raise UnavailableError(f"{name} was not ready in {START_TIMEOUT_S:.0f} s: {last}")
            time.sleep(LOOK_INTERVAL_S)

    def stop(self) -> None:
        """Ask the process to end, wait, and kill whatever of its session is left."""
        how = self.program.stop
        if self.process.poll() is None:
            self.process.send_signal(how.ask)
            try:
                self.process.wait(how.patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError, PermissionError):  # nobody left (macOS: PermissionError for zombies)
            os.killpg(self.pid, signal.SIGKILL)  # what it forked; the child leads a session of its own

    def _last_lines(self) -> str:
        text = self.program.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-LAST_LINES:]) or "it wrote nothing"


@contextmanager
def starting(program: Program) -> Iterator[Child]:
    """Start a program in a session of its own, so that Ctrl-C reaches us alone; end it on the way out."""
    with program.log.open("ab") as output:
        process = subprocess.Popen(
            _dying_with_us(program.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(program.env),
            cwd=import_root(),
            umask=0o077,
            start_new_session=True,
        )
    child = Child(program, process)
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def running(program: Program) -> Iterator[Child]:
    """Start a program, and yield when it is ready."""
    with starting(program) as child:
        child.wait()
        yield child


def import_root() -> Path:
    """The directory that our packages are imported from.

    Children run there: Celery puts the working directory first in the import path, and a stranger's `config/`
    or `workers/` in the directory of the person who typed the command must not go before ours.
    """
    return Path(__file__).resolve().parent.parent


def _dying_with_us(command: Sequence[str]) -> list[str]:
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
