"""Write: from finished samples to one Parquet part, then the summary that marks the chunk done; one PUT each."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from config.results import Record, Status, Tally
from workers.errors import BucketUnavailable, TransientError
from workers.sample import Sample

#: Rows are compressed by the codec that every reader of Parquet has and that costs least to write.
COMPRESSION = "zstd"


def rows_table(samples: Iterable[Sample], schema: pa.Schema) -> pa.Table:
    """One row for each sample, in the manifest's order; columns that a sample has no value for are null."""
    rows = [_row(sample) for sample in sorted(samples, key=lambda sample: sample.index)]
    return pa.Table.from_arrays([_column(rows, field) for field in schema], schema=schema)


def write_part(store: S3Store, key: str, table: pa.Table) -> int:
    """Put the rows as one object and return its bytes; the same rows make the same bytes."""
    sink = pa.BufferOutputStream()
    has_tensors = any(_is_tensor(field) for field in table.schema)
    # A dictionary of floats, and their smallest and largest, are of no use, and cost float16 half of its time.
    plain = {"use_dictionary": False, "write_statistics": False} if has_tensors else {}
    pq.write_table(table, sink, compression=COMPRESSION, **plain)
    body = memoryview(sink.getvalue()).cast("B")
    _put(store, key, body)
    return len(body)


def write_record(store: S3Store, key: str, record: Record) -> None:
    """Put a summary (the chunk is done), a failure (it was given up), a split (its halves go on) or the run's end."""
    _put(store, key, record.to_json())


def write_object(store: S3Store, key: str, body: bytes) -> None:
    """Put an object, over one that stands there already."""
    _put(store, key, body)


def create_object(store: S3Store, key: str, body: bytes) -> bool:
    """Put an object where there is none; False where one stands already, which stays."""
    try:
        obstore.put(store, key, body, use_multipart=False, mode="create")
    except AlreadyExistsError:
        return False
    except (BaseError, OSError) as error:
        raise TransientError(f"cannot write {key}: {str(error).partition(chr(10))[0]}") from error
    return True


def read_object(store: S3Store, key: str) -> bytes | None:
    """The whole of a small object; None where there is none."""
    try:
        return bytes(obstore.get(store, key).bytes())
    except FileNotFoundError:
        return None
    except (BaseError, OSError) as error:
        raise TransientError(f"cannot read {key}: {str(error).partition(chr(10))[0]}") from error


def list_names(store: S3Store, folder: str) -> list[str]:
    """The names in a folder, in their order, without folder and ending."""
    try:
        return [
            found["path"].rpartition("/")[2].partition(".")[0] for page in obstore.list(store, folder) for found in page
        ]
    except (BaseError, OSError) as error:
        raise TransientError(f"cannot list {folder}: {str(error).partition(chr(10))[0]}") from error


def erase(store: S3Store, key: str) -> None:
    """Delete an object; nothing happens where there is none."""
    try:
        obstore.delete(store, key)
    except FileNotFoundError:
        return
    except BaseError as error:
        raise TransientError(f"cannot delete {key}: {str(error).partition(chr(10))[0]}") from error


def stands(store: S3Store, key: str) -> bool:
    """Whether an object is there already, at the price of one HEAD."""
    try:
        obstore.head(store, key)
    except FileNotFoundError:
        return False
    except BaseError as error:
        raise TransientError(str(error).partition("\n")[0]) from error
    return True


def count_statuses(table: pa.Table) -> dict[Status, int]:
    """Counts of what was written, from what was written."""
    return {Status(status): count for status, count in sorted(Counter(table["status"].to_pylist()).items())}


def count_labels(table: pa.Table) -> dict[Tally, int]:
    """How many of the labels that were written are the best class, and so on; nothing where there are no ranks."""
    if "rank" not in table.column_names:
        return {}
    rank, is_ok, is_labelled = table["rank"], pc.equal(table["status"], Status.OK.value), pc.is_valid(table["label"])
    counted = {
        Tally.RANKED: pc.is_valid(rank),
        Tally.TOP1: pc.equal(rank, 1),
        Tally.TOP5: pc.less_equal(rank, 5),
        Tally.UNKNOWN: pc.and_(pc.and_(is_ok, is_labelled), pc.is_null(rank)),
        Tally.FAILED: pc.and_not(is_labelled, is_ok),
    }
    return {tally: pc.sum(chosen).as_py() or 0 for tally, chosen in counted.items()}


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "key": sample.key,
        "status": sample.status.value,
        "error": sample.error,
        "etag": sample.etag,
        "size_bytes": sample.size_bytes,
        "width": sample.width,
        "height": sample.height,
        "label": sample.label,
        **sample.result,
    }


def _column(rows: Sequence[dict[str, Any]], field: pa.Field) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    return _tensors(values, field.type) if _is_tensor(field) else pa.array(values, field.type)


def _is_tensor(field: pa.Field) -> bool:
    return isinstance(field.type, pa.FixedShapeTensorType)


def _tensors(values: Sequence[NDArray[Any] | None], kind: pa.FixedShapeTensorType) -> pa.Array:
    """Arrays side by side, copied once; where there is none stand zeros, which Parquet leaves out."""
    flat = np.zeros((len(values), math.prod(kind.shape)), kind.value_type.to_pandas_dtype())
    for row, value in zip(flat, values, strict=True):
        if value is not None:
            row[:] = value.reshape(-1)
    nulls = pa.array([value is None for value in values])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), type=kind.storage_type, mask=nulls)
    return pa.ExtensionArray.from_storage(kind, storage)


def _put(store: S3Store, key: str, body: bytes | memoryview) -> None:
    try:
        obstore.put(store, key, body, use_multipart=False)
    except FileNotFoundError as error:  # there is nothing that a PUT could miss but its bucket
        raise BucketUnavailable(f"cannot write {key}: the bucket does not exist") from error
    except (BaseError, OSError) as error:
        raise TransientError(f"cannot write {key}: {str(error).partition(chr(10))[0]}") from error
