"""Outcome: from a run that faults went through to what became of its rows, and from many of them to a table."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import S3Store
from rich.console import Console
from rich.table import Table

from config.results import RunAddress

#: A row, without what may differ: key -> (status, class_id, size in bytes).
Rows = dict[str, tuple[str, str | None, int | None]]


@dataclass(slots=True)
class Outcome:
    """One run and what it went through."""

    run_id: str = ""
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    again: int = 0
    reconciled: int = 0
    resumed: int = 0
    note: str = ""

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.note)


def check_rows(store: S3Store, address: RunAddress, expected: Rows, outcome: Outcome) -> Rows:
    """Read every Parquet part that lies there, as any reader would, and compare with the quiet run."""
    parts = [found["path"] for page in obstore.list(store, address.parts) for found in page]
    rows: Rows = {}
    seen: Counter[str] = Counter()
    for path in parts:
        table = pq.read_table(pa.BufferReader(bytes(obstore.get(store, path).bytes())))
        for row in table.select(["key", "status", "class_id", "size_bytes"]).to_pylist():
            seen[row["key"]] += 1
            rows[row["key"]] = (row["status"], row["class_id"], row["size_bytes"])
    outcome.rows = seen.total()
    outcome.doubled = sum(count - 1 for count in seen.values())
    outcome.lost = len(expected.keys() - rows.keys())
    outcome.wrong = sum(found != expected.get(key) for key, found in rows.items()) if expected else 0
    return rows


def report(outcome: Outcome) -> None:
    """One line for a run, as soon as it is over."""
    print(
        f"run={outcome.run_id} seconds={outcome.seconds:.0f} faults={outcome.faults.total()} rows={outcome.rows} "
        f"lost={outcome.lost} doubled={outcome.doubled} wrong={outcome.wrong} again={outcome.again} "
        f"reconciled={outcome.reconciled} resumed={outcome.resumed} {outcome.note}",
        flush=True,
    )


def print_tables(seed: int, outcomes: list[Outcome], kinds: Iterable[str]) -> int:
    """Faults by kind, then what became of the rows; the exit code: 1 where one was lost, doubled or wrong."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    faults: Counter[str] = sum((outcome.faults for outcome in outcomes), Counter())
    struck = Table("fault", "times", title=f"Faults survived, seed {seed}", title_justify="left", box=None)
    for name in kinds:
        struck.add_row(name, str(faults[name]))
    struck.add_row("all", str(faults.total()))
    totals = Table("runs", "images", "rows", "lost", "doubled", "wrong", "chunks done again", "reconciled", box=None)
    numbers = ("rows", "lost", "doubled", "wrong", "again", "reconciled")
    sums = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in numbers}
    totals.add_row(str(len(outcomes)), str(len(outcomes) * outcomes[0].rows), *(str(sums[name]) for name in numbers))
    console.print(struck)
    console.print(totals)
    return 0 if all(outcome.good for outcome in outcomes) else 1
