"""Weights: from what a person asks for to the Weights that a job names, with their sha256, or a refusal."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore

from config.clients import make_store
from config.errors import UsageError
from config.messages import Weights
from config.models import ModelSpec
from config.results import split_uri
from config.settings import Settings
from producer.translate import s3_errors

#: Where Keras downloads `imagenet` from; any answer of it means that a worker will get an answer too.
KERAS_HOST = "https://storage.googleapis.com/tensorflow/keras-applications/"

#: Seconds that host may take; a person waits for it.
HOST_TIMEOUT_S = 4.0

#: Files that Keras loads without running code from them.
SUFFIXES = (".weights.h5", ".keras")

#: Bytes read at once while a file is hashed.
HASHED_AT_ONCE = 2**20

_OTHER_WAYS = "give --weights s3://… or file:///… with a .weights.h5 or .keras file, or --model efficientnet_lite0"


def choose_weights(asked: str | None, model: ModelSpec, settings: Settings) -> Weights:
    """The weights of a job (None: the model's own); UsageError, with the other ways, where nobody has them."""
    uri = asked or model.default_weights
    if uri == "random":
        return Weights(uri=uri)
    if uri == "packaged":
        if model.default_weights != "packaged":
            raise UsageError(f"no package brings weights of {model.name}; {_OTHER_WAYS}")
        return Weights(uri=uri)
    if uri == "imagenet":
        if model.default_weights == "packaged":
            return Weights(uri="packaged")  # these are its ImageNet weights
        check_keras_host(model.name)
        return Weights(uri=uri)
    if not uri.startswith(("s3://", "file:///")):
        raise UsageError(
            f"{uri!r} names no weights; write imagenet, random, or s3://… or file:///… of a file of "
            f"{' or '.join(SUFFIXES)}"
        )
    if not uri.endswith(SUFFIXES):
        raise UsageError(f"weights {uri} end with neither {' nor '.join(SUFFIXES)}")
    return Weights(uri=uri, sha256=hash_weights(uri, settings))


def check_keras_host(model: str, host: str = KERAS_HOST) -> None:
    """Raise where nobody could download `imagenet` weights, before anything is enqueued."""
    request = urllib.request.Request(host, method="HEAD")  # noqa: S310 - a constant of ours
    try:
        with urllib.request.urlopen(request, timeout=HOST_TIMEOUT_S):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return  # an answer, whatever it says of a folder
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UsageError(
            f"the imagenet weights of {model} cannot be downloaded here ({urlsplit(host).hostname}: {reason}); "
            f"{_OTHER_WAYS}"
        ) from error


def hash_weights(uri: str, settings: Settings) -> str:
    """The sha256 (hex) of an object or a file, read to its end."""
    if uri.startswith("s3://"):
        bucket, key = split_uri(uri)
        with s3_errors(f"read weights {uri}"):
            return hash_bytes(obstore.get(make_store(settings, bucket), key).stream())
    try:
        with local_path(uri).open("rb") as file:
            return hash_bytes(iter(lambda: file.read(HASHED_AT_ONCE), b""))
    except OSError as error:
        raise UsageError(f"cannot read weights {uri}: {error.strerror}") from error


def local_path(uri: str) -> Path:
    """The file of a file:// URI."""
    return Path(unquote(urlsplit(uri).path))


def hash_bytes(pieces: Iterable[object]) -> str:
    """The sha256 (hex) of bytes that come in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(memoryview(piece))  # type: ignore[arg-type]
    return digest.hexdigest()
