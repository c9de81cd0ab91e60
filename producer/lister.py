"""Lister: from a Source to its bucket and its keys, streamed page by page, one page fetched ahead."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from config.errors import SourceError
from config.results import split_uri
from config.settings import Settings
from producer.inventory import open_inventory
from producer.labels import LabelRule
from producer.manifest import open_manifest
from producer.objects import Bucket
from producer.pages import ListedKey, Pages, one_ahead
from producer.source import GlobSource, InventorySource, KeysSource, ManifestSource, PrefixSource, Source
from producer.translate import s3_errors

#: The folder of a run, wherever it lies: nobody means to classify what is in it.
_RUN_FOLDER = re.compile(r"\d{8}-\d{6}-[a-z0-9-]+-[0-9a-f]{4}/")


@dataclass(frozen=True, slots=True)
class Listing:
    """The bucket that a source lies in, and its keys."""

    bucket: str
    keys: Iterator[ListedKey]


def default_output(bucket: str) -> str:
    """Where results go when nobody says: beside the images."""
    return f"s3://{bucket}/pixelherd-results/"


def open_listing(
    source: Source,
    settings: Settings,
    output: str | None,
    after: str | None = None,
    labels: LabelRule | None = None,
) -> Listing:
    """Begin to list a source; SourceError, here or while it is read, says why there are no keys.

    Nothing under `output`, the base of results (None: the default one), is listed. `after` goes on behind that
    key where the source is a prefix or a glob; every other source is read from its beginning.
    """
    if labels is None:
        return _open(source, settings, output, after, None)
    listing = _open(source, settings, output, after, labels.column)
    return Listing(listing.bucket, labels.apply(listing.keys))


def _open(source: Source, settings: Settings, output: str | None, after: str | None, column: str | None) -> Listing:
    match source:
        case PrefixSource() | GlobSource():
            pages = one_ahead(_list_pages(source, settings, after))
            wanted = _wanted(source.bucket, source.prefix, output)
            if isinstance(source, GlobSource):
                wanted = _matching(source.pattern, wanted)
            return Listing(source.bucket, _flatten(source, pages, wanted, resumed=after is not None))
        case KeysSource():
            return Listing(source.bucket, iter([ListedKey(key) for key in source.keys]))
        case ManifestSource():
            bucket, pages = open_manifest(source, settings, column)
            return Listing(bucket, _flatten(source, one_ahead(pages)))
        case InventorySource():
            bucket, pages = open_inventory(source, settings)
            return Listing(bucket, _flatten(source, one_ahead(pages), _wanted(bucket, "", output)))


Wanted = Callable[[ListedKey], bool]


def _flatten(
    source: Source, pages: Pages, wanted: Wanted = lambda _: True, *, resumed: bool = False
) -> Iterator[ListedKey]:
    seen = kept = 0
    for page in pages:
        for listed in page:
            seen += 1
            if wanted(listed):
                kept += 1
                yield listed
    if not kept and not resumed:
        raise SourceError(_emptiness(source, seen))


def _emptiness(source: Source, seen: int) -> str:
    if not seen:
        return f"there are no keys in {source.text}"
    if isinstance(source, GlobSource):
        return f"none of the {seen} keys under s3://{source.bucket}/{source.prefix} matches {source.text}"
    return f"there are no images in {source.text}: its {seen} keys are folder marks or results"


def _wanted(bucket: str, prefix: str, output: str | None) -> Wanted:
    """Neither a folder's mark nor a result.

    Where the source itself lies inside the output base, only folders that are named like a run are results.
    """
    output_bucket, base = split_uri(output or default_output(bucket))
    base = f"{base.strip('/')}/".lstrip("/")
    shared, inside = bucket == output_bucket, prefix.startswith(base)

    def wanted(listed: ListedKey) -> bool:
        if listed.size == 0 and listed.key.endswith("/"):
            return False
        if not shared or not listed.key.startswith(base):
            return True
        return inside and not _RUN_FOLDER.match(listed.key, len(base))

    return wanted


def _matching(pattern: re.Pattern[str], wanted: Wanted) -> Wanted:
    return lambda listed: pattern.fullmatch(listed.key) is not None and wanted(listed)


def _list_pages(source: PrefixSource | GlobSource, settings: Settings, after: str | None) -> Pages:
    with s3_errors(f"list {source.text}", SourceError), closing(Bucket(settings, source.bucket)) as bucket:
        if isinstance(source, GlobSource) or not source.prefix or source.prefix.endswith("/"):
            yield from bucket.list_pages(source.prefix, after)
            return
        found = False
        for page in bucket.list_pages(f"{source.prefix}/", after):
            found = True
            yield page
        if not found and after is None:
            yield [_the_key_itself(bucket, source)]


def _the_key_itself(bucket: Bucket, source: PrefixSource) -> ListedKey:
    """The one key that the source names, where no folder has that name."""
    nearest = bucket.first_key(source.prefix)
    if nearest is None:
        raise SourceError(f"there are no keys under {source.text}")
    if nearest.key != source.prefix:
        raise SourceError(
            f"there is no {source.text} and nothing under {source.text}/; write {source.text}** for all keys "
            f"that begin so, such as s3://{source.bucket}/{nearest.key}"
        )
    return nearest
