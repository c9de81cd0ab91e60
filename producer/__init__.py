"""The producer: from a bucket to a queue, and back to a table; what `import producer` offers."""

from config.errors import (
    ContractError,
    PixelherdError,
    SettingsError,
    SourceError,
    UnavailableError,
    UnknownModel,
    UsageError,
)
from producer.client import Run, classify, open_run, submit
from producer.recent import recent_runs
from producer.report import RunReport
from producer.status import Phase, RunStatus

__all__ = [
    "ContractError",
    "Phase",
    "PixelherdError",
    "Run",
    "RunReport",
    "RunStatus",
    "SettingsError",
    "SourceError",
    "UnavailableError",
    "UnknownModel",
    "UsageError",
    "classify",
    "open_run",
    "recent_runs",
    "submit",
]
