"""Train set: from the rows of a run to what each of its images is for: training, validation, or neither, and why.

The table is made once, by the first epoch, when all images have their rows, and stands in S3 for all others.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from obstore.store import S3Store

from config.results import ChunkPlace, RunAddress, Status, outermost, split_uri
from config.steps import TrainingStep
from config.trained import IMAGES_SCHEMA, TrainingAddress, Use
from config.training import check_classes, split_class
from workers.ahead import map_ahead
from workers.errors import RowsPending, TransientError
from workers.write import create_object, list_names, read_object

#: Parts whose few columns are read at once.
READ_THREADS = 16

#: What of a row says what its image is for.
COLUMNS = ("key", "status", "error", "label")


@dataclass(frozen=True, slots=True)
class TrainSet:
    """What each image is for, in the manifest's order, and the classes in the order of the new head's scores."""

    table: pa.Table
    classes: tuple[str, ...]

    @classmethod
    def of(cls, table: pa.Table) -> "TrainSet":
        used = pc.not_equal(table["use"], Use.LEFT_OUT.value)
        return cls(table, tuple(sorted(set(table["label"].filter(used).to_pylist()))))

    def numbers(self) -> NDArray[np.int64]:
        """The number of each image's class; -1 for those that are left out."""
        places = pc.index_in(self.table["label"], pa.array(self.classes, pa.string()))
        used = pc.not_equal(self.table["use"], Use.LEFT_OUT.value)
        numbers: NDArray[np.int64] = pc.fill_null(pc.if_else(used, places, None), -1).to_numpy().astype(np.int64)
        return numbers

    def counts(self) -> dict[Use, int]:
        """Images by what they are for."""
        return {Use(use): count for use, count in sorted(Counter(self.table["use"].to_pylist()).items())}


def find_train_set(step: TrainingStep, results: S3Store) -> TrainSet:
    """What the run's images are for; RowsPending where some have no row yet, UsageError where nothing can be learnt."""
    run = RunAddress.of(step.job.output, step.job.run_id)
    key = TrainingAddress(run).images_key
    stored = read_object(results, key)
    if stored is None:
        table = sort_out(read_rows(results, run, find_parts(step, results, run)), step)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        create_object(results, key, sink.getvalue().to_pybytes())
        stored = read_object(results, key)  # another worker may have been first
        if stored is None:
            raise TransientError(f"{key} was written and is not there")
    return TrainSet.of(pq.read_table(io.BytesIO(stored)))


def find_parts(step: TrainingStep, results: S3Store, run: RunAddress) -> list[str]:
    """The chunks whose rows make up the run, in its order; RowsPending where they are not all there."""
    done = {ChunkPlace.parse(name): name for name in list_names(results, run.summaries)}
    places = outermost(done)
    images = sum(place.count for place in places)
    if images < step.images:
        given_up = sum(place.count for place in outermost(map(ChunkPlace.parse, list_names(results, run.failures))))
        raise RowsPending(step.images - images, given_up)
    return [done[place] for place in places]


def read_rows(results: S3Store, run: RunAddress, chunks: Sequence[str]) -> pa.Table:
    """What COLUMNS say of each row, and the chunk that it is in."""

    def read(chunk_id: str) -> pa.Table:
        table = read_columns(results, run.part_key(chunk_id), COLUMNS)
        return table.append_column("chunk_id", pa.array([chunk_id] * table.num_rows, pa.string()))

    return pa.concat_tables(map_ahead(read, chunks, READ_THREADS, 2 * READ_THREADS)).replace_schema_metadata()


def read_columns(results: S3Store, key: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet object, of which no more than these are read; those that it lacks are left out."""
    try:
        with _Stored(results, key) as file, pq.ParquetFile(file) as parquet:
            found = [name for name in columns if name in parquet.schema_arrow.names]
            return parquet.read(columns=found)
    except FileNotFoundError as error:
        raise TransientError(f"{key} is gone") from error
    except (BaseError, OSError) as error:
        raise TransientError(f"cannot read {key}: {str(error).partition(chr(10))[0]}") from error


def sort_out(rows: pa.Table, step: TrainingStep) -> pa.Table:
    """The rows as IMAGES_SCHEMA has them; UsageError where nothing can be learnt from them."""
    reasons = [_why_left_out(*row) for row in zip(*(rows[name].to_pylist() for name in COLUMNS[1:]), strict=True)]
    keys, labels = rows["key"].to_pylist(), rows["label"].to_pylist()
    usable = [(key, label) for key, label, reason in zip(keys, labels, reasons, strict=True) if reason is None]
    share = step.training.validation
    if isinstance(share, str):
        prefix = split_uri(share)[1]
        named = (label for key, label in zip(keys, labels, strict=True) if label and not key.startswith(prefix))
        trained = Counter(dict.fromkeys(named, 0))
        trained.update(label for key, label in usable if not key.startswith(prefix))
        check_classes(trained, Counter(label for key, label in usable if key.startswith(prefix)))
        validating = frozenset(key for key, _ in usable if key.startswith(prefix))
    else:
        counts = Counter(dict.fromkeys(filter(None, labels), 0))
        counts.update(label for _, label in usable)
        check_classes(counts)
        validating = _split(usable, share)
    uses = [_use(key, reason, validating) for key, reason in zip(keys, reasons, strict=True)]
    columns = [rows["key"], rows["label"], uses, reasons, rows["chunk_id"]]
    return pa.table([_as(column, field) for column, field in zip(columns, IMAGES_SCHEMA, strict=True)], IMAGES_SCHEMA)


def _as(column: Any, field: pa.Field) -> Any:
    return column.cast(field.type) if isinstance(column, pa.ChunkedArray) else pa.array(column, field.type)


def _split(usable: Sequence[tuple[str, str]], share: float) -> frozenset[str]:
    by_class: dict[str, list[str]] = {}
    for key, label in usable:
        by_class.setdefault(label, []).append(key)
    return frozenset().union(*(split_class(keys, share) for keys in by_class.values()))


def _why_left_out(status: str, error: str | None, label: str | None) -> str | None:
    if status != Status.OK:
        return f"{status}: {error}" if error else status
    return None if label else "no label"


def _use(key: str, reason: str | None, validating: frozenset[str]) -> str:
    if reason is not None:
        return Use.LEFT_OUT.value
    return Use.VALIDATE.value if key in validating else Use.TRAIN.value


class _Stored(io.RawIOBase):
    """An object of S3 as a file that Parquet's reader may read anywhere: each of its reads is one ranged GET."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store, self._key, self._at = store, key, 0
        self._size = obstore.head(store, key)["size"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: Any) -> int:
        into = memoryview(target).cast("B")
        end = min(self._at + len(into), self._size)
        if end <= self._at:
            return 0
        piece = memoryview(obstore.get_range(self._store, self._key, start=self._at, end=end))
        into[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
