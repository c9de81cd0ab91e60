"""Manifest: from a person's file of keys (CSV, JSON lines, Parquet, text) to its bucket and rows, streamed."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from config.clients import make_store
from config.errors import SourceError, UnavailableError
from config.results import split_uri
from config.settings import Settings
from producer.pages import ListedKey, Pages
from producer.source import ManifestSource, split_key
from producer.translate import s3_errors

#: Rows handled at once: as many as a page of ListObjectsV2.
PAGE_ROWS = 1_000

#: Bytes of one read from S3.
READ_BYTES = 2**20

#: Columns that are looked at; the rest are the person's own.
COLUMNS = ("key", "uri", "bucket", "size", "etag", "last_modified")

Row = dict[str, Any]


def open_manifest(source: ManifestSource, settings: Settings, label: str | None = None) -> tuple[str, Pages]:
    """The bucket that a manifest's keys lie in, and pages of them; SourceError names the row that is wrong.

    `label` is the column that holds the labels, where there is one.
    """
    rows = _addressed(source, settings, label)
    first = next(rows, None)
    if first is None:
        raise SourceError(f"there are no keys in {source.text}")
    return first[0], _pages(source, first[0], chain([first], rows))


@contextmanager
def open_file(uri: str, settings: Settings) -> Iterator[IO[bytes]]:
    """A file in S3 or on this machine, unpacked where its name ends with .gz, until it is left."""
    with ExitStack() as stack:
        if uri.startswith("s3://"):
            bucket, key = split_uri(uri)
            with s3_errors(f"read {uri}", SourceError):
                stored = StoredFile(make_store(settings, bucket), key)
            file = cast("IO[bytes]", stack.enter_context(io.BufferedReader(stored, READ_BYTES)))
        else:
            try:
                file = stack.enter_context(Path(uri).open("rb"))
            except OSError as error:
                raise SourceError(f"cannot read {uri}: {error.strerror}") from error
        if uri.lower().endswith(".gz"):
            file = cast("IO[bytes]", stack.enter_context(gzip.open(file)))
        yield file


#: Bytes of an object that are fetched at once.
STORED_BUFFER = 2**20


class StoredFile(io.RawIOBase):
    """An object of S3 as a file that can seek: what csv, gzip and Parquet readers want."""

    def __init__(self, store: Any, key: str, buffer_size: int = STORED_BUFFER) -> None:
        self._reader = obstore.open_reader(store, key, buffer_size=buffer_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: Any) -> int:
        read = self._reader.read(len(buffer))
        buffer[: len(read)] = memoryview(read)
        return len(read)


# --- Formats: a file in, rows as dicts out -------------------------------------------------------------------------


def _csv_rows(file: IO[bytes], name: str, label: str | None) -> Iterator[Row]:
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        _check_columns(reader.fieldnames or (), name, label)
        yield from reader


def _json_rows(file: IO[bytes], name: str, label: str | None) -> Iterator[Row]:
    for line in _lines(file):
        row = json.loads(line)
        if not isinstance(row, dict):
            raise SourceError(f"{name}: {line[:80]!r} is no JSON object with `key` or `uri`")
        yield row


def _parquet_rows(file: IO[bytes], name: str, label: str | None) -> Iterator[Row]:
    parquet = pq.ParquetFile(file)
    names = parquet.schema_arrow.names
    _check_columns(names, name, label)
    wanted = {*COLUMNS, label}
    for batch in parquet.iter_batches(PAGE_ROWS, columns=[column for column in names if column in wanted]):
        yield from batch.to_pylist()


def _text_rows(file: IO[bytes], name: str, label: str | None) -> Iterator[Row]:
    for line in _lines(file):
        yield {"key": line}


def _lines(file: IO[bytes]) -> Iterator[str]:
    with io.TextIOWrapper(file, "utf-8-sig") as text:
        for line in text:
            if found := line.rstrip("\r\n"):
                yield found


_FORMATS: dict[str, Callable[[IO[bytes], str, str | None], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
}


def _check_columns(names: Iterable[str], name: str, label: str | None) -> None:
    wanted = "key` or `uri" if not {"key", "uri"} & set(names) else label
    if wanted is not None and wanted not in names:
        raise SourceError(f"{name} has no column `{wanted}`; its columns are {', '.join(names) or 'none'}")


# --- Rows -> keys --------------------------------------------------------------------------------------------------


def _addressed(source: ManifestSource, settings: Settings, label: str | None) -> Iterator[tuple[str, ListedKey]]:
    suffix = Path(source.text.lower().removesuffix(".gz")).suffix
    number = 0
    try:
        with open_file(source.text, settings) as file, s3_errors(f"read {source.text}", SourceError):
            for row in _FORMATS[suffix](file, source.text, label):
                number += 1
                yield _address(row, source.bucket, label)
    except UnavailableError:
        raise
    except SourceError as error:
        raise SourceError(f"{source.text}, row {number}: {error}" if number else str(error)) from error
    except (ValueError, TypeError, OSError, EOFError, csv.Error, pa.ArrowException) as error:
        # What the readers of four formats raise for a file that is not what its name says.
        reason = str(error).partition("\n")[0]
        raise SourceError(f"cannot read {source.text} behind row {number}: {reason}") from error


def _address(row: Row, bucket: str | None, label: str | None) -> tuple[str, ListedKey]:
    text = row.get("uri") or row.get("key") or ""
    found, key = split_key(text, row.get("bucket") or bucket)
    size = row.get("size")
    return found, ListedKey(
        key,
        size=int(size) if size not in (None, "") else None,
        etag=row.get("etag") or None,
        last_modified=_time(row.get("last_modified")),
        label=_label(row.get(label)) if label else None,
    )


def _label(value: Any) -> str | None:
    """A cell as a label: text without the spaces around it, a whole number as such, nothing where it is empty."""
    if value is None or value != value:  # NaN: how pandas writes that there is none
        return None
    if isinstance(value, float) and value.is_integer():  # how pandas writes numbers beside empty cells
        value = int(value)
    return str(value).strip() or None


def _time(value: Any) -> datetime | None:
    if value in (None, ""):
        return None
    time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _pages(source: ManifestSource, bucket: str, rows: Iterator[tuple[str, ListedKey]]) -> Pages:
    while page := list(islice(rows, PAGE_ROWS)):
        for found, listed in page:
            if found != bucket:
                raise SourceError(
                    f"{source.text} names several buckets ({bucket}, and {found} for {listed.key!r}); "
                    "write one manifest for each bucket"
                )
        yield [listed for _, listed in page]
