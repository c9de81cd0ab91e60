"""Rows of a run or of the catalogue -> what a person sees in a terminal, or a file that a program reads."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.errors import UsageError
from config.layers import Layer
from config.models import ModelSpec
from config.results import Status

#: Rows of a table that a person gets unasked.
ROWS_SHOWN = 20

#: Characters of a line that goes into a file or a pipe.
PIPED_WIDTH = 200

#: Rows that become Python values at once.
ROWS_AT_ONCE = 1_024


def write_rows(rows: pa.Table, form: str, to: Path | None, limit: int | None) -> None:
    """Write rows as `table`, `csv`, `json` (one object a line) or `parquet`, to a file or to stdout."""
    if form == "parquet" and to is None:
        raise UsageError("Parquet is no text: name a file, --to rows.parquet")
    try:
        _write_rows(rows, form, to, limit)
    except OSError as error:
        raise UsageError(f"cannot write {to or 'to stdout'}: {error.strerror}") from error


def _write_rows(rows: pa.Table, form: str, to: Path | None, limit: int | None) -> None:
    if form == "parquet":
        pq.write_table(rows.slice(0, limit), to)
        return
    with _opened(to) as file:
        if form == "table":
            print_rows(rows, make_console(file), limit or ROWS_SHOWN)
        elif form == "csv":
            _write_csv(rows.slice(0, limit), file)
        else:
            for row in _values(rows.slice(0, limit)):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_console(file: TextIO) -> Console:
    """A console that cuts nothing where no terminal says how wide it is."""
    return Console(file=file, highlight=False, width=None if file.isatty() else PIPED_WIDTH)


def print_rows(rows: pa.Table, console: Console, limit: int) -> None:
    """A table of key, class and score, or of what went wrong with an image."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("key", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("score", justify="right")
    for row in _values(rows.slice(0, limit)):
        if row["status"] == Status.OK:
            table.add_row(_text(row["key"]), _text(row["class_name"]), f"{row['score']:.2f}")
        else:
            table.add_row(_text(row["key"]), _text(f"{row['status']}: {row['error'] or ''}", "red"), "")
    console.print(table)
    if rows.num_rows > limit:
        console.print(f"and {rows.num_rows - limit:,} more rows")


def print_models(specs: Iterable[ModelSpec]) -> None:
    """A table of the catalogue."""
    table = Table(box=None, pad_edge=False)
    for name in ("model", "params", "input", "resize", "scaling", "top-1 %", "top-5 %", "weights"):
        is_number = name in ("params", "input", "top-1 %", "top-5 %")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for spec in specs:
        table.add_row(
            spec.name,
            f"{spec.parameters / 1e6:.1f} M" if spec.parameters else "",
            str(spec.input_size),
            f"{spec.resize} {spec.resize_filter}",
            spec.scaling,
            _percent(spec.top1),
            _percent(spec.top5),
            spec.default_weights,
        )
    make_console(sys.stdout).print(table)


def print_layers(layers: Iterable[Layer]) -> None:
    """A table of a model's layers, and what their features would take."""
    table = Table(box=None, pad_edge=False)
    for name in ("no.", "layer", "type", "output", "params", "bytes/image", "GB/million"):
        table.add_column(name, justify="left" if name in ("layer", "type") else "right", no_wrap=True)
    for number, layer in enumerate(layers):
        table.add_row(
            str(number),
            layer.name,
            layer.kind,
            " × ".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
            f"{layer.size_bytes:,}",
            f"{layer.size_bytes * 1e6 / 1e9:,.1f}",
        )
    make_console(sys.stdout).print(table)


def _text(value: str, style: str = "") -> Text:
    """Somebody else's text as it is: no markup, and no control character that would move the cursor."""
    return Text(value if value.isprintable() else ascii(value)[1:-1], style)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _write_csv(rows: pa.Table, file: TextIO) -> None:
    """Lists and structs as JSON inside their cell."""
    writer = csv.writer(file)
    writer.writerow(rows.column_names)
    for row in _values(rows):
        writer.writerow(
            json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value for value in row.values()
        )


def _values(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(ROWS_AT_ONCE):
        yield from batch.to_pylist()


@contextmanager
def _opened(to: Path | None) -> Iterator[TextIO]:
    if to is None:
        yield sys.stdout
    else:
        with to.open("w", encoding="utf-8", newline="") as file:
            yield file
