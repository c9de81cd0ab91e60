"""A cage: from a limit in bytes to a cgroup that holds a worker to it and says how near it came."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The file of each version of cgroups that sets the limit, tells the peak, and counts kills.
VERSIONS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak", "memory.events"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
)


@dataclass(frozen=True)
class Cage:
    """A cgroup of its own; whoever writes its number into `door` is in it, with all that it starts."""

    home: Path
    peak_file: str
    kills_file: str

    @property
    def door(self) -> Path:
        return self.home / "cgroup.procs"

    def peak_bytes(self) -> int:
        """The most memory that all in it have had together, file cache included."""
        return int((self.home / self.peak_file).read_text())

    def kills(self) -> int:
        """Processes that the kernel ended because the memory was full."""
        found = re.search(r"^oom_kill (\d+)$", (self.home / self.kills_file).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def command(self, command: list[str]) -> list[str]:
        """The command, which enters the cage before it is started."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.door), *command]


@contextmanager
def caged(limit_bytes: int) -> Iterator[Cage | None]:
    """A cage, or None where this user may make none; whoever was in it must be gone at the end."""
    cage = None
    for root, limit, peak, kills in VERSIONS:
        home = root / f"pixelherd-test-{os.getpid()}"
        if not (root / "cgroup.procs").exists():
            continue
        try:
            home.mkdir()
            (home / limit).write_text(str(limit_bytes))
            (home / peak).read_text()
        except OSError:
            if home.is_dir():
                home.rmdir()
            continue
        cage = Cage(home, peak, kills)
        break
    try:
        yield cage
    finally:
        if cage is not None:
            cage.home.rmdir()
