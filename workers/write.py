"""Write: from finished samples to one Parquet part, then the summary that marks the chunk done; one PUT each."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import S3Store

from config.results import ChunkFailure, ChunkSplit, ChunkSummary, Status
from workers.errors import TransientError
from workers.sample import Sample

#: Rows are compressed by the codec that every reader of Parquet has and that costs least to write.
COMPRESSION = "zstd"


def rows_table(samples: Iterable[Sample], schema: pa.Schema) -> pa.Table:
    """One row for each sample, in the manifest's order; columns that a sample has no value for are null."""
    rows = [_row(sample) for sample in sorted(samples, key=lambda sample: sample.index)]
    return pa.Table.from_pylist(rows, schema=schema)


def write_part(store: S3Store, key: str, table: pa.Table) -> int:
    """Put the rows as one object and return its bytes; the same rows make the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=COMPRESSION)
    body = sink.getvalue().to_pybytes()
    _put(store, key, body)
    return len(body)


def write_record(store: S3Store, key: str, record: ChunkSummary | ChunkFailure | ChunkSplit) -> None:
    """Put a summary (the chunk is done), a failure (it was given up) or a split (its halves go on)."""
    _put(store, key, record.to_json())


def erase_part(store: S3Store, key: str) -> None:
    """Delete rows that no summary vouches for."""
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


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "key": sample.key,
        "status": sample.status.value,
        "error": sample.error,
        "etag": sample.etag,
        "size_bytes": sample.size_bytes,
        "width": sample.width,
        "height": sample.height,
        **sample.result,
    }


def _put(store: S3Store, key: str, body: bytes) -> None:
    try:
        obstore.put(store, key, body, use_multipart=False)
    except (BaseError, OSError) as error:
        raise TransientError(f"cannot write {key}: {str(error).partition(chr(10))[0]}") from error
