"""Rows: from the Parquet parts of a run to one pyarrow Table in the manifest's order."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, cast

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from config.layers import known_shapes
from config.results import ChunkPlace, outermost, row_schema
from producer.records import list_names
from producer.run import OpenRun
from producer.translate import s3_errors

#: Parts that are fetched at once.
READ_THREADS = 16


def read_rows(run: OpenRun, columns: Sequence[str] | None = None, limit: int | None = None) -> pa.Table:
    """All rows of chunks that are done, or the first `limit`; the footer of the first part stays the table's own.

    A chunk's name is its place, and its rows lie in its order: places in order give the manifest's order.
    """
    done = {ChunkPlace.parse(name): name for name in list_names(run.store, run.address.summaries)}
    places = outermost(done)
    if limit is not None:
        before = accumulate((place.count for place in places), initial=0)
        places = [place for place, rows in zip(places, before, strict=False) if rows < limit]
    names = [done[place] for place in places]
    with ThreadPoolExecutor(READ_THREADS, "rows") as pool:
        tables = list(pool.map(lambda name: _read_part(run, name, columns), names))
    if not tables:
        schema = row_schema(run.record.job, known_shapes(run.record.job))
        return schema.empty_table().select(list(columns) if columns else schema.names)
    # A part whose one image is poison may lack the columns of features that its worker could not know.
    return pa.concat_tables(tables, promote_options="default").slice(0, limit)


def count_rows(run: OpenRun) -> int:
    """The rows of chunks that are done."""
    return sum(place.count for place in outermost(map(ChunkPlace.parse, list_names(run.store, run.address.summaries))))


def features_array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of features as one array, images first; NaN where an image has none."""
    there = column.drop_null().combine_chunks().to_numpy_ndarray()
    if not column.null_count:
        return cast("NDArray[Any]", there)
    features = np.full((len(column), *there.shape[1:]), np.nan, there.dtype)
    features[column.is_valid().to_numpy()] = there
    return features


def _read_part(run: OpenRun, name: str, columns: Sequence[str] | None) -> pa.Table:
    key = run.address.part_key(name)
    with s3_errors(f"read {key}"):
        body = obstore.get(run.store, key).bytes()
    return pq.read_table(pa.BufferReader(memoryview(body)), columns=list(columns) if columns else None)


def in_order(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows of these keys, in the order asked, a key asked twice twice."""
    place = {key: number for number, key in enumerate(table["key"].to_pylist())}
    return table.take(pa.array([place[key] for key in keys], pa.int64()))
