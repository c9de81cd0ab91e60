"""Recent: from the runs that were submitted on this machine to their addresses by bare id, newest first."""

import json
import logging
import os
from pathlib import Path

from config.results import RunAddress

logger = logging.getLogger(__name__)

#: Runs that are remembered: a few hundred bytes each.
REMEMBERED = 500


def remember(address: RunAddress) -> None:
    """Add a run; a home that cannot be written must not stop a submit."""
    path = recent_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(str(address)) + "\n")
        _trim(path)
    except OSError as error:
        logger.warning("recent=%s error=%r", path, error.strerror)


def recent_runs() -> list[RunAddress]:
    """The runs of this machine, newest first."""
    try:
        lines = recent_file().read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [RunAddress.parse(json.loads(line)) for line in reversed(lines) if line.startswith('"s3://')]


def recent_file() -> Path:
    """Where programs keep such things: the XDG convention, which is the desktop's and no setting of ours."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "pixelherd" / "runs.jsonl"


def _trim(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) > 2 * REMEMBERED:
        kept = path.with_suffix(".new")
        kept.write_text("".join(lines[-REMEMBERED:]), encoding="utf-8")
        kept.replace(path)
