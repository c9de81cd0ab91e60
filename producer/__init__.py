"""The producer: from a bucket to a queue, and back to a table; what `import producer` offers.

A name is fetched when it is first used: `pixelherd --help` does not wait for boto3, Celery and pyarrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from config.errors import (
    ContractError,
    PixelherdError,
    SettingsError,
    SourceError,
    UnavailableError,
    UnknownModel,
    UsageError,
)

if TYPE_CHECKING:
    from producer.client import Run, classify, extract_features, open_run, submit
    from producer.comparison import Comparison, evaluate
    from producer.recent import recent_runs
    from producer.report import RunReport
    from producer.rows import features_array
    from producer.status import Phase, RunStatus

__all__ = [
    "Comparison",
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
    "evaluate",
    "extract_features",
    "features_array",
    "open_run",
    "recent_runs",
    "submit",
]

_HOMES = {
    "Phase": "status",
    "Run": "client",
    "RunReport": "report",
    "RunStatus": "status",
    "Comparison": "comparison",
    "classify": "client",
    "evaluate": "comparison",
    "extract_features": "client",
    "features_array": "rows",
    "open_run": "client",
    "recent_runs": "recent",
    "submit": "client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
