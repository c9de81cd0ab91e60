"""Inventory: from the manifest.json of an S3 Inventory to its bucket and its keys, without ListObjectsV2."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import IO, Any, cast
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import PixelherdError, SourceError
from config.results import split_uri
from config.settings import Settings
from producer.manifest import PAGE_ROWS, open_file
from producer.pages import ListedKey, Pages
from producer.source import InventorySource
from producer.translate import s3_errors

Row = dict[str, Any]

#: An inventory's column names: as its CSV schema spells them, and as its Parquet files do.
COLUMNS = {
    "Key": "key",
    "Size": "size",
    "ETag": "e_tag",
    "LastModifiedDate": "last_modified_date",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}


def open_inventory(source: InventorySource, settings: Settings) -> tuple[str, Pages]:
    """The bucket that was inventoried, and pages of its current keys."""
    with open_file(source.text, settings) as file, s3_errors(f"read {source.text}", SourceError):
        try:
            manifest = json.load(file)
            # The data files lie beside the manifest; the manifest may be a copy on this machine.
            store = split_uri(source.text)[0] if source.text.startswith("s3://") else _bucket_of(manifest)
            read = _FORMATS[manifest["fileFormat"].lower()]
            files = [f"s3://{store}/{found['key']}" for found in manifest["files"]]
            return manifest["sourceBucket"], _pages(files, manifest["fileSchema"], read, settings)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{source.text} is no S3 Inventory in CSV or Parquet: {type(error).__name__} {error}"
            ) from error


def _bucket_of(manifest: Row) -> str:
    return cast("str", manifest["destinationBucket"]).removeprefix("arn:aws:s3:::")


def _csv_rows(file: IO[bytes], schema: str) -> Iterator[Row]:
    """Rows of a data file, which has no header and whose keys are URL-encoded."""
    names = [COLUMNS.get(name.strip(), name.strip()) for name in schema.split(",")]
    with io.TextIOWrapper(file, "utf-8", newline="") as text:
        for row in csv.reader(text):
            named = dict(zip(names, row, strict=False))
            yield named | {"key": unquote_plus(named["key"])}


def _parquet_rows(file: IO[bytes], schema: str) -> Iterator[Row]:
    parquet = pq.ParquetFile(file)
    columns = [name for name in COLUMNS.values() if name in parquet.schema_arrow.names]
    for batch in parquet.iter_batches(PAGE_ROWS, columns=columns):
        yield from batch.to_pylist()


_FORMATS: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {"csv": _csv_rows, "parquet": _parquet_rows}


def _pages(files: list[str], schema: str, read: Callable[[IO[bytes], str], Iterator[Row]], settings: Settings) -> Pages:
    for uri in files:
        try:
            with open_file(uri, settings) as file, s3_errors(f"read {uri}", SourceError):
                rows = (_listed_key(row) for row in read(file, schema) if _is_current(row))
                while page := list(islice(rows, PAGE_ROWS)):
                    yield page
        except PixelherdError:
            raise
        except (ValueError, KeyError, OSError, EOFError, csv.Error, pa.ArrowException) as error:
            raise SourceError(f"cannot read the inventory's file {uri}: {type(error).__name__} {error}") from error


def _is_current(row: Row) -> bool:
    """Whether a GET without a version would find it; inventories of versioned buckets list all versions."""
    return _flag(row.get("is_latest"), absent=True) and not _flag(row.get("is_delete_marker"), absent=False)


def _flag(value: Any, *, absent: bool) -> bool:
    return absent if value in (None, "") else str(value).lower() == "true"


def _listed_key(row: Row) -> ListedKey:
    size, etag, modified = row.get("size"), row.get("e_tag"), row.get("last_modified_date")
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified) if modified else None
    if modified is not None and modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    return ListedKey(
        row["key"],
        size=int(size) if size not in (None, "") else None,
        etag=f'"{etag.strip(chr(34))}"' if etag else None,  # as every other answer of S3 writes it
        last_modified=modified,
    )
