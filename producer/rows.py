"""Rows: from the Parquet parts of a run to one pyarrow Table in the manifest's order."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from config.results import ROW_SCHEMAS, ChunkPlace
from producer.chunker import outermost
from producer.records import list_names
from producer.run import OpenRun
from producer.translate import s3_errors

#: Parts that are fetched at once.
READ_THREADS = 16


def read_rows(run: OpenRun, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of chunks that are done; the footer of the first part stays the table's own.

    A chunk's name is its place, and its rows lie in its order: places in order give the manifest's order.
    """
    done = {ChunkPlace.parse(name): name for name in list_names(run.store, run.address.summaries)}
    names = [done[place] for place in outermost(done)]
    with ThreadPoolExecutor(READ_THREADS, "rows") as pool:
        tables = list(pool.map(lambda name: _read_part(run, name, columns), names))
    if not tables:
        schema = ROW_SCHEMAS[run.record.job.mode]
        return schema.empty_table().select(list(columns) if columns else schema.names)
    return pa.concat_tables(tables)


def _read_part(run: OpenRun, name: str, columns: Sequence[str] | None) -> pa.Table:
    key = run.address.part_key(name)
    with s3_errors(f"read {key}"):
        body = obstore.get(run.store, key).bytes()
    return pq.read_table(pa.BufferReader(memoryview(body)), columns=list(columns) if columns else None)


def in_order(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows of these keys, in the order asked, a key asked twice twice."""
    place = {key: number for number, key in enumerate(table["key"].to_pylist())}
    return table.take(pa.array([place[key] for key in keys], pa.int64()))
