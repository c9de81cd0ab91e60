"""Fetch: from keys to samples that hold an image's bytes, or the reason why they do not."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import obstore
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from obstore.store import S3Store

from workers.ahead import Budget, map_ahead
from workers.errors import (
    BucketUnavailable,
    ImageEmpty,
    ImageError,
    ImageForbidden,
    ImageMissing,
    ImageTooLarge,
    TransientError,
)
from workers.sample import Sample

#: What S3's error codes mean for one key; every other code may pass, so the chunk is tried again. A 403 or 404 without
#: a code is not S3's: a gateway on the way would say it of every key.
PERMANENT_S3_CODES: dict[str, type[ImageError]] = {
    "NoSuchKey": ImageMissing,
    "AccessDenied": ImageForbidden,
    "InvalidObjectState": ImageForbidden,  # archived: must be restored before it can be read
    "KMS.DisabledException": ImageForbidden,
    "KeyTooLongError": ImageMissing,
}

#: S3's error codes that blame the bucket, not the key.
BUCKET_S3_CODES = {"NoSuchBucket", "AllAccessDisabled", "AccountProblem"}

#: Keys that obstore's path rules cannot spell: control characters, empty or dot segments, a slash at an end.
_BEYOND_OBSTORE = re.compile(r"[\x00-\x1f\x7f]|^/|/$|//|(^|/)\.{1,2}(/|$)")


class Opened(NamedTuple):
    """An answered GET whose body is still to be read."""

    size_bytes: int
    etag: str | None
    read: Callable[[], bytes]


#: Opens one key; raises ImageError (a row) or TransientError (the chunk again).
OpenKey = Callable[[str], Opened]


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How hard one chunk may pull on the object store."""

    threads: int
    max_image_bytes: int


def fetch_images(open_key: OpenKey, keys: Iterable[str], limits: FetchLimits, bodies: Budget) -> Iterator[Sample]:
    """Samples in the order of the keys; `bodies` bounds the bytes fetched and not decoded.

    Whoever lets a sample's body go releases its index there.
    """

    def fetch(numbered: tuple[int, str]) -> Sample:
        sample = Sample(*numbered)
        started = time.perf_counter()
        try:
            opened = open_key(sample.key)
            sample.etag, sample.size_bytes = opened.etag, opened.size_bytes
            if opened.size_bytes == 0:
                raise ImageEmpty("the object has 0 bytes")
            if opened.size_bytes > limits.max_image_bytes:
                raise ImageTooLarge(f"{opened.size_bytes} bytes, {limits.max_image_bytes} are allowed")
            bodies.acquire(sample.index, opened.size_bytes)
            sample.body = opened.read()
        except ImageError as error:
            sample.failed(error)
        sample.fetch_s = time.perf_counter() - started
        return sample

    return map_ahead(fetch, enumerate(keys), limits.threads, 2 * limits.threads)


def make_opener(store: S3Store, s3: Any, bucket: str) -> OpenKey:
    """Opens keys through obstore; boto3 takes those that obstore cannot spell, and its refusals.

    obstore tells a vanished bucket from a vanished key, or an expired credential from a forbidden key, only
    in its message; boto3 gives a code. Both are rare, so asking twice costs nothing and a wrong row never stands.
    """

    def open_key(key: str) -> Opened:
        if _BEYOND_OBSTORE.search(key):
            return open_by_boto3(s3, bucket, key)
        try:
            found = obstore.get(store, key)
        except (FileNotFoundError, PermissionError, BaseError) as error:
            if isinstance(error, REFUSALS):
                return open_by_boto3(s3, bucket, key)
            raise TransientError(_first_line(error)) from error
        return Opened(found.meta["size"], _unquoted(found.meta["e_tag"]), lambda: _read_whole(found))

    return open_key


#: What obstore raises for a 404, a 403 and a 401.
REFUSALS = (
    FileNotFoundError,
    PermissionError,
    obstore.exceptions.PermissionDeniedError,
    obstore.exceptions.UnauthenticatedError,
)


def open_by_boto3(s3: Any, bucket: str, key: str) -> Opened:
    """The slow way (2.5 ms of CPU against 0.29), which knows every key and names every refusal."""
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in BUCKET_S3_CODES:
            raise BucketUnavailable(f"bucket {bucket}: {code}") from error
        if code in PERMANENT_S3_CODES:
            raise PERMANENT_S3_CODES[code](f"the object store says {code}") from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise TransientError(f"the object store says {code or 'nothing'} (HTTP {status})") from error
    except BotoCoreError as error:
        raise TransientError(_first_line(error)) from error

    def read() -> bytes:
        try:
            return bytes(answer["Body"].read())  # botocore refuses a body shorter than announced
        except (BotoCoreError, OSError) as error:
            raise TransientError(_first_line(error)) from error

    return Opened(answer["ContentLength"], _unquoted(answer.get("ETag")), read)


def _read_whole(found: Any) -> bytes:
    try:
        body = bytes(found.bytes())
    except BaseError as error:
        raise TransientError(_first_line(error)) from error
    if len(body) != found.meta["size"]:
        raise TransientError(f"{len(body)} of {found.meta['size']} bytes came")
    return body


def _unquoted(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
