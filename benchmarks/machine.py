"""Machine: from processes to the CPU seconds that they took, and from two moments to who kept the cores busy."""

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from workers.cnn.engines.options import usable_cores

#: Fields of psutil.cpu_times that are no work; `guest` is counted in `user` already.
IDLE_FIELDS = frozenset({"idle", "iowait", "guest", "guest_nice"})


@dataclass(frozen=True, slots=True)
class Moment:
    """CPU seconds since the start of each process and of the machine, at one time."""

    at: float
    machine_s: float
    processes_s: dict[str, float]

    @classmethod
    def now(cls, pids: dict[str, int]) -> "Moment":
        """Look at the processes of these names, their children included."""
        times = psutil.cpu_times()._asdict()
        machine_s = sum(spent for field, spent in times.items() if field not in IDLE_FIELDS)
        return cls(time.monotonic(), machine_s, {name: cpu_seconds(pid) for name, pid in pids.items()})


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds between two moments; `others_cores` are the cores that strangers kept busy meanwhile."""

    seconds: float
    cpu_s: dict[str, float]
    others_cores: float


def usage_between(began: Moment, ended: Moment, extra_s: Mapping[str, float] = MappingProxyType({})) -> Usage:
    """Who took how much; `extra_s` are processes that came and went in between."""
    seconds = ended.at - began.at
    spent = {name: ended.processes_s[name] - before for name, before in began.processes_s.items()}
    spent.update(extra_s)
    others_s = ended.machine_s - began.machine_s - sum(spent.values())
    return Usage(seconds, spent, max(0.0, others_s / seconds))


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process and its children, those that have ended included."""
    process = psutil.Process(pid)
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        try:
            total += sum(member.cpu_times()[:4])  # user, system, and both of its children that it waited for
        except psutil.NoSuchProcess:
            continue  # it ended just now; its parent has its seconds, or will
    return total


def describe_machine() -> dict[str, str | int | float]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
