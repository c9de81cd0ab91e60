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
from config.layers import Layer, LayerLike, size_of
from config.models import ModelSpec
from config.results import Status

#: What a person is told below the catalogue.
OWN_MODELS = "and your own: --model s3://bucket/model.keras, with a model.json beside it (docs/models.md)"

#: Rows of a table that a person gets unasked.
ROWS_SHOWN = 20

#: Characters of a line that goes into a file or a pipe.
PIPED_WIDTH = 200

#: Numbers of an image's features that a person sees.
NUMBERS_SHOWN = 4

#: Rows that become Python values at once.
ROWS_AT_ONCE = 1_024


def rows_wanted(form: str, limit: int | None) -> int | None:
    """How many rows `write_rows` needs; None: all that there are."""
    return limit or (ROWS_SHOWN if form == "table" else None)


def write_rows(rows: pa.Table, form: str, to: Path | None, total: int) -> None:
    """Write rows, of `total` that there are, as `table`, `csv`, `json` (one object a line) or `parquet`, to a file or
    to stdout.
    """
    if form == "parquet" and to is None:
        raise UsageError("Parquet is no text: name a file, --to rows.parquet")
    try:
        _write_rows(rows, form, to, total)
    except OSError as error:
        raise UsageError(f"cannot write {to or 'to stdout'}: {error.strerror}") from error


def _write_rows(rows: pa.Table, form: str, to: Path | None, total: int) -> None:
    if form == "parquet":
        pq.write_table(rows, to)
        return
    with _opened(to) as file:
        if form == "table":
            print_rows(rows, make_console(file), total)
        elif form == "csv":
            _write_csv(rows, file)
        else:
            for row in _values(rows):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_console(file: TextIO) -> Console:
    """A console that cuts nothing where no terminal says how wide it is."""
    return Console(file=file, highlight=False, width=None if file.isatty() else PIPED_WIDTH)


def print_rows(rows: pa.Table, console: Console, total: int) -> None:
    """A table of key, class and score, and the first numbers of features, or of what went wrong with an image."""
    tensors = tensor_names(rows)
    columns = ["class", "score"] if "class_name" in rows.column_names else []
    columns += [name for name in ("label", "rank") if name in rows.column_names]
    columns += tensors
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("key", overflow="fold")
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in ("score", "rank") else "left")
    for row, *features in zip(_values(rows.drop_columns(tensors)), *(rows[name] for name in tensors), strict=True):
        if row["status"] == Status.OK:
            best: list[Text | str] = [_text(row["class_name"]), f"{row['score']:.2f}"] if "class_name" in row else []
            if "rank" in row:
                best += [_text(row["label"] or ""), str(row["rank"] or "")]
            table.add_row(_text(row["key"]), *best, *map(_short, features))
        else:
            table.add_row(_text(row["key"]), _text(f"{row['status']}: {row['error'] or ''}", "red"))
    console.print(table)
    if total > rows.num_rows:
        console.print(f"and {total - rows.num_rows:,} more rows")


def tensor_names(rows: pa.Table) -> list[str]:
    """The columns of features."""
    return [field.name for field in rows.schema if isinstance(field.type, pa.FixedShapeTensorType)]


def _short(features: pa.FixedShapeTensorScalar) -> str:
    """The shape of an image's features and their first numbers."""
    if not features.is_valid:
        return ""
    array = features.to_numpy()
    numbers = " ".join(f"{number:.3g}" for number in array.flat[:NUMBERS_SHOWN])
    return f"{' × '.join(map(str, array.shape))}: {numbers}{' …' if array.size > NUMBERS_SHOWN else ''}"


def print_models(specs: Iterable[ModelSpec]) -> None:
    """A table of the catalogue, and that it is not all."""
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
            str(spec.scaling),
            _percent(spec.top1),
            _percent(spec.top5),
            spec.default_weights,
        )
    console = make_console(sys.stdout)
    console.print(table)
    console.print(OWN_MODELS)


def print_layers(layers: Iterable[LayerLike]) -> None:
    """A table of a model's layers, and what their features would take, as far as that is known."""
    table = Table(box=None, pad_edge=False)
    for name in ("no.", "layer", "type", "output", "params", "bytes/image", "GB/million"):
        table.add_column(name, justify="left" if name in ("layer", "type") else "right", no_wrap=True)
    for number, layer in enumerate(layers):
        table.add_row(
            str(number),
            _text(layer.name),
            _text(layer.kind),
            _shape(layer.shape),
            *_figures(layer),
        )
    make_console(sys.stdout).print(table)


def _shape(shape: tuple[int | None, ...] | None) -> str:
    return "?" if shape is None else " × ".join("?" if side is None else str(side) for side in shape)


def _figures(layer: LayerLike) -> tuple[str, str, str]:
    """Parameters, bytes for an image and gigabytes for a million; nothing where only Keras could tell."""
    parameters = f"{layer.parameters:,}" if isinstance(layer, Layer) else ""
    size = size_of(layer)
    return (parameters, "", "") if size is None else (parameters, f"{size:,}", f"{size * 1e6 / 1e9:,.1f}")


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
    """Each row as Python values; features as lists inside lists, one row's at a time."""
    tensors = tensor_names(rows)
    for batch in rows.to_batches(ROWS_AT_ONCE):
        for number, row in enumerate(batch.drop_columns(tensors).to_pylist()):
            row |= {name: _nested(batch[name][number]) for name in tensors}
            yield {name: row[name] for name in rows.column_names}


def _nested(features: pa.FixedShapeTensorScalar) -> Any:
    return features.to_numpy().tolist() if features.is_valid else None


@contextmanager
def _opened(to: Path | None) -> Iterator[TextIO]:
    if to is None:
        yield sys.stdout
    else:
        with to.open("w", encoding="utf-8", newline="") as file:
            yield file
