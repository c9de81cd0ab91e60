"""Frozen: from listed keys to the manifest parts of a run in S3, and from those parts back to keys.

A part holds exactly `chunker.part_size` keys, but the last, which holds what is left. A key that stands twice
in one part is kept once. Prefixes and inventories hold none twice; a person's manifest is not compared with
itself beyond a part, because a billion keys do not fit into memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from config.errors import UsageError
from config.results import (
    MANIFEST_SCHEMA,
    RunAddress,
    manifest_part_number,
    provenance_of,
    with_provenance,
)
from producer.pages import ListedKey
from producer.records import list_names
from producer.translate import s3_errors

#: Rows turned into Arrow at once: the Python objects of a whole part would take five times the memory.
_ROWS_AT_ONCE = 8_192


@dataclass(frozen=True, slots=True)
class Totals:
    """Keys of a manifest up to and with some part, and their bytes as far as the listing says."""

    keys: int = 0
    size_bytes: int = 0


def take_part(keys: Iterator[ListedKey], size: int) -> pa.Table:
    """The next `size` different keys as a table; fewer only where the listing ends."""
    seen: set[str] = set()
    batches: list[pa.RecordBatch] = []
    while wanted := min(_ROWS_AT_ONCE, size - len(seen)):
        taken = list(islice(keys, wanted))
        if not taken:
            break
        fresh = []
        for listed in taken:
            if listed.key not in seen:
                seen.add(listed.key)
                fresh.append(listed)
        columns = zip(*fresh, strict=True) if fresh else ((), (), (), ())
        arrays = [pa.array(column, field.type) for column, field in zip(columns, MANIFEST_SCHEMA, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=MANIFEST_SCHEMA))
    return pa.Table.from_batches(batches, MANIFEST_SCHEMA)


def freeze_part(store: S3Store, run: RunAddress, part: int, table: pa.Table, before: Totals) -> Totals:
    """Put one part, once and for all, and say how much the manifest holds with it.

    A part that stands already must hold the same keys: S3 did what it was asked before its answer got lost.
    """
    sizes = sum(size or 0 for size in table["size"].to_pylist())
    totals = Totals(before.keys + table.num_rows, before.size_bytes + sizes)
    sink = pa.BufferOutputStream()
    footer = {"keys": totals.keys, "size_bytes": totals.size_bytes}
    pq.write_table(table.cast(with_provenance(MANIFEST_SCHEMA, footer)), sink, compression="zstd")
    with s3_errors(f"write {run}"):
        try:
            obstore.put(store, run.manifest_key(part), sink.getvalue().to_pybytes(), mode="create")
        except AlreadyExistsError:
            if not is_same_list(read_part(store, run, part), table):
                raise UsageError(
                    f"another producer lists {run.run_id} at this moment; let one of the two do it"
                ) from None
    return totals


def read_part(store: S3Store, run: RunAddress, part: int) -> pa.Table:
    """One part as it was frozen."""
    with s3_errors(f"read the manifest of {run}"):
        body = obstore.get(store, run.manifest_key(part)).bytes()
    return pq.read_table(pa.BufferReader(memoryview(body)))


def read_keys(store: S3Store, run: RunAddress, part: int) -> list[str]:
    """The keys of one part, in their order."""
    keys: list[str] = read_part(store, run, part)["key"].to_pylist()
    return keys


def is_same_list(table: pa.Table, other: pa.Table) -> bool:
    """Whether two parts hold the same keys with the same labels."""
    return all(labelled(table)[name].equals(labelled(other)[name]) for name in ("key", "label"))


def labelled(table: pa.Table) -> pa.Table:
    """A part with its column of labels, which parts of earlier versions lack."""
    if "label" in table.column_names:
        return table
    return table.append_column(MANIFEST_SCHEMA.field("label"), pa.nulls(table.num_rows, pa.string()))


def totals_of(table: pa.Table) -> Totals:
    """How much the manifest held when this part was frozen."""
    footer = provenance_of(table.schema)
    return Totals(int(footer["keys"]), int(footer["size_bytes"]))


def count_parts(store: S3Store, run: RunAddress) -> int:
    """Parts that stand; they are written in order, so their number says which."""
    keys = (f"{run.manifests}{name}.parquet" for name in list_names(store, run.manifests) if name != "frozen")
    return sum(manifest_part_number(key) is not None for key in keys)
