"""Weights: from what a job names to a verified local file, fetched once for the machine."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from config.errors import ContractError
from config.keras_file import read_structure
from config.messages import Weights
from config.own_model import JSON, KERAS, OwnModel, json_uri
from config.results import split_uri
from workers.cnn.recipe import sha256_of
from workers.errors import TransientError
from workers.turns import locked

#: Files that Keras loads without running code from them.
SUFFIXES = (".weights.h5", ".keras")

#: Bytes of a file at most: any bucket may hold an object that fills this machine's disk. ConvNeXtXLarge has 1.4 GB.
MOST_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class WeightsCache:
    """Where this machine keeps weights, how a bucket is opened, and whether file:// URIs are obeyed."""

    directory: Path
    open_store: Callable[[str], S3Store]
    allow_files: bool


def fetch_weights(weights: Weights, cache: WeightsCache) -> Path | None:
    """The local file of these weights; None for those that need none (packaged, imagenet, random).

    Raises ContractError where the file is not the one that the job names, TransientError where S3 does not answer.
    """
    if "://" not in weights.uri:
        return None
    suffix = next((suffix for suffix in SUFFIXES if weights.uri.endswith(suffix)), None)
    if suffix is None:
        raise ContractError(f"weights {weights.uri} end with none of {', '.join(SUFFIXES)}")
    if weights.uri.startswith("file://"):
        return _local(weights, cache)
    return _downloaded(weights, suffix, cache)


def fetch_own_model(weights: Weights, cache: WeightsCache) -> OwnModel | None:
    """What the JSON beside an own .keras file says; None where the job names none."""
    if weights.json_sha256 is None:
        return None
    beside = Weights(uri=json_uri(weights.uri), sha256=weights.json_sha256)
    file = _local(beside, cache) if beside.uri.startswith("file://") else _downloaded(beside, JSON, cache)
    try:
        return OwnModel.from_json(file.read_bytes())
    except ContractError as error:
        raise ContractError(f"{beside.uri}: {error}") from error


def check_keras_file(weights: Weights, file: Path | None) -> None:
    """ContractError, with a reason that a person understands, before Keras is asked to load code."""
    if file is None or file.suffix != KERAS:
        return
    try:
        with file.open("rb") as opened:
            read_structure(opened)
    except ContractError as error:
        raise ContractError(f"{weights.uri} is refused: {error}") from error


def _local(weights: Weights, cache: WeightsCache) -> Path:
    if not cache.allow_files:
        raise ContractError(f"weights {weights.uri}: this worker takes no file:// weights")
    path = Path(unquote(urlsplit(weights.uri).path))
    if not path.is_file():
        raise ContractError(f"weights {weights.uri}: no such file on this worker")
    _verify(weights, sha256_of(path))
    return path


def _downloaded(weights: Weights, suffix: str, cache: WeightsCache) -> Path:
    name = weights.sha256 or hashlib.sha256(weights.uri.encode()).hexdigest()
    target = cache.directory / "weights" / f"{name}{suffix}"
    with locked(target.with_name(f"{name}.lock")):
        # Only a verified file is ever moved here, so one whose name is its digest needs no second look.
        if weights.sha256 is None or not target.is_file():
            _download(weights, target, cache)
    return target


def _download(weights: Weights, target: Path, cache: WeightsCache) -> None:
    bucket, key = split_uri(weights.uri)
    digest = hashlib.sha256()
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            found = obstore.get(cache.open_store(bucket), key)
            if found.meta["size"] > MOST_BYTES:
                raise ContractError(f"weights {weights.uri}: {found.meta['size']} bytes, {MOST_BYTES} are allowed")
            for piece in found.stream():
                digest.update(piece)
                file.write(piece)
        _verify(weights, digest.hexdigest())
        Path(temporary).replace(target)
    except FileNotFoundError as error:
        raise ContractError(f"weights {weights.uri}: no such object") from error
    except BaseError as error:
        raise TransientError(f"weights {weights.uri}: {str(error).partition(chr(10))[0]}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _verify(weights: Weights, found: str) -> None:
    if weights.sha256 not in (None, found):
        raise ContractError(f"weights {weights.uri}: sha256 {found}, the job names {weights.sha256}")
