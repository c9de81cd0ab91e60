"""Source: what a person gives (a prefix, a glob, a manifest, an inventory, some keys) as one parsed value."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import SourceError, UsageError
from config.results import split_uri

#: Endings of a list of keys, before an optional .gz.
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".txt")

#: What S3 Inventory calls the file that names its data files.
INVENTORY_NAME = "manifest.json"

#: What job.json remembers of keys that were given one by one.
KEYS_TEXT = "keys"

_GLOB_CHARACTERS = "*?[{"


@dataclass(frozen=True, slots=True)
class PrefixSource:
    """All keys below a prefix; `s3://bucket/photos` means the key of that name, or what lies in `photos/`."""

    text: str
    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class GlobSource:
    """The keys below a prefix whose whole name matches a pattern."""

    text: str
    bucket: str
    prefix: str
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """A file of keys, in S3 or on this machine; bare keys belong to `bucket`."""

    text: str
    bucket: str | None


@dataclass(frozen=True, slots=True)
class InventorySource:
    """The manifest.json of an S3 Inventory."""

    text: str


@dataclass(frozen=True, slots=True)
class KeysSource:
    """Keys that were given one by one."""

    bucket: str
    keys: tuple[str, ...]
    text: str = KEYS_TEXT


Source = PrefixSource | GlobSource | ManifestSource | InventorySource | KeysSource


def parse_source(given: str | os.PathLike[str] | Sequence[str], bucket: str | None = None) -> Source:
    """The source that a person means; SourceError says in one line why it can be none.

    `bucket` is where the bare keys of a manifest or a list lie; URIs name their own.
    """
    if not isinstance(given, str | os.PathLike):
        return _keys_source(given, bucket)
    text = os.fspath(given)
    if text.startswith("s3://"):
        return _s3_source(text, bucket)
    path = Path(text.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise SourceError(f"{text!r} is no file on this machine; a source in S3 begins with s3://")
    if path.name == INVENTORY_NAME:
        return InventorySource(str(path.absolute()))
    if not is_manifest(path.name):
        raise SourceError(f"{text!r} is no list of keys; its name must end with one of {', '.join(MANIFEST_SUFFIXES)}")
    return ManifestSource(str(path.absolute()), bucket)


def is_manifest(name: str) -> bool:
    """Whether a name has the ending of a list of keys."""
    return name.lower().removesuffix(".gz").endswith(MANIFEST_SUFFIXES)


def split_key(text: str, bucket: str | None) -> tuple[str, str]:
    """A key's URI, or a bare key of `bucket`, as (bucket, key)."""
    if text.startswith("s3://"):
        found, key = split_uri(text)
        if not key:
            raise SourceError(f"{text!r} names a bucket, not an image")
        return found, key
    if not bucket:
        raise SourceError(f"{text!r} names no bucket; write s3://bucket/{text.lstrip('/')}, or say the bucket")
    if not text:
        raise SourceError("an empty key cannot be read")
    return bucket, text


def _s3_source(text: str, bucket: str | None) -> Source:
    try:
        found, key = split_uri(text)
    except UsageError as error:
        raise SourceError(str(error)) from error
    if any(character in key for character in _GLOB_CHARACTERS):
        return GlobSource(text, found, literal_prefix(key), glob_pattern(key))
    if key.rpartition("/")[2] == INVENTORY_NAME:
        return InventorySource(text)
    if is_manifest(key):
        return ManifestSource(text, bucket or found)
    return PrefixSource(text, found, key)


def _keys_source(given: Sequence[str], bucket: str | None) -> KeysSource:
    addresses = [split_key(text, bucket) for text in given]
    buckets = sorted({found for found, _ in addresses})
    if not addresses:
        raise SourceError("no keys were given")
    if len(buckets) > 1:
        raise SourceError(f"the keys lie in several buckets ({', '.join(buckets)}); start one run for each")
    return KeysSource(buckets[0], tuple(dict.fromkeys(key for _, key in addresses)))


# --- Globs: * and ? stop at a slash, ** does not; [abc] and [!abc] are one character, {jpg,png} is a choice -------


def literal_prefix(pattern: str) -> str:
    """What every match begins with, so that S3 lists no more than that."""
    heads = [re.split(r"[*?\[]", choice, maxsplit=1)[0] for choice in _choices(pattern)]
    return os.path.commonprefix(heads)  # noqa: RUF071 - character by character is what S3 does


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for a whole key."""
    try:
        return re.compile("|".join(f"(?:{translate_glob(choice)})" for choice in _choices(pattern)), re.DOTALL)
    except re.error as error:
        raise SourceError(f"{pattern!r} is no pattern: {error.msg}") from error


def _choices(pattern: str) -> list[str]:
    """`a.{jpg,png}` -> `a.jpg`, `a.png`; the innermost braces first."""
    found = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    return [
        whole
        for choice in found[1].split(",")
        for whole in _choices(pattern[: found.start()] + choice + pattern[found.end() :])
    ]


#: Tried in this order at each place of a glob.
_GLOB_TOKENS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![^/])\*\*/"), r"(?:.*/)?"),
    (re.compile(r"\*\*"), r".*"),
    (re.compile(r"\*"), r"[^/]*"),
    (re.compile(r"\?"), r"[^/]"),
)
_GLOB_CLASS = re.compile(r"\[(!?)([^\]]+)\]")


def translate_glob(pattern: str) -> str:
    """A glob without choices as a regular expression."""
    place, regex = 0, ""
    while place < len(pattern):
        token = next(((found, to) for token, to in _GLOB_TOKENS if (found := token.match(pattern, place))), None)
        if token is not None:
            regex, place = regex + token[1], token[0].end()
        elif found := _GLOB_CLASS.match(pattern, place):
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", found[2])
            regex, place = regex + f"[{'^' if found[1] else ''}{members}]", found.end()
        else:
            regex, place = regex + re.escape(pattern[place]), place + 1
    return regex
