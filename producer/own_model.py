"""Own models: the address of a .keras file in, its spec, weights and layers out, or why a worker would not take it."""

import io
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

import obstore
from obstore.store import S3Store

from config.classes import Label
from config.clients import make_store
from config.errors import ContractError, UsageError
from config.keras_file import OpenShape, Structure, read_structure
from config.messages import Weights
from config.models import ModelSpec
from config.own_model import KERAS, MAX_JSON_BYTES, OwnModel, json_uri, own_name, template
from config.results import split_uri
from config.settings import Settings
from producer.translate import s3_errors
from producer.weights import hash_bytes, hash_weights, local_path

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Bytes of one ranged read of a stored file; config.json and the zip's directory take a few of them.
READ_AHEAD = 2**20


class OwnChoice(NamedTuple):
    """An own model that workers will take."""

    spec: ModelSpec
    weights: Weights
    classes: Sequence[Label]
    structure: Structure


def read_own_model(uri: str, settings: Settings) -> OwnChoice:
    """What a .keras file and the JSON beside it say; UsageError names all that is wrong with either.

    Of the file only its directory and its config.json are read, before it is hashed as a whole.
    """
    structure = read_own_structure(uri, settings)
    beside = json_uri(uri)
    body = _read(beside, settings)
    if body is None:
        size, count = _size_of(structure.input_shape), structure.classes
        raise UsageError(
            f"{uri} has no JSON beside it that names its classes and preprocessing: "
            f"fill this in and put it at {beside}\n{template(size, count)}"
        )
    try:
        own = OwnModel.from_json(body)
    except ContractError as error:
        raise UsageError(f"{beside}: {error}") from error
    disagreements = "; ".join(_disagreements(own, structure))
    if disagreements:
        raise UsageError(f"{beside} does not fit {uri}: {disagreements}")
    weights = Weights(uri=uri, sha256=hash_weights(uri, settings), json_sha256=hash_bytes([body]))
    return OwnChoice(own.to_spec(own_name(uri)), weights, own.labels, structure)


def read_own_structure(uri: str, settings: Settings) -> Structure:
    """The layers of a .keras file; UsageError where it is none, or holds code."""
    if not uri.startswith(("s3://", "file:///")) or not uri.endswith(KERAS):
        raise UsageError(
            f"{uri!r} is no model; write s3://… or file:///… of a {KERAS} file, or a name of the catalogue"
        )
    try:
        with _opened(uri, settings) as file:
            return read_structure(file)
    except FileNotFoundError as error:
        raise UsageError(f"there is no {uri}") from error
    except ContractError as error:
        raise UsageError(f"{uri} is refused: {error}") from error


def _disagreements(own: OwnModel, structure: Structure) -> list[str]:
    """Where the JSON and the network say different things, in words."""
    found = []
    if structure.input_shape is not None:
        wanted = (*own.input_size, 3)
        if len(structure.input_shape) != 3 or structure.input_shape[2] != 3:
            found.append(f"its network takes {_words(structure.input_shape)}, and images are height × width × 3, RGB")
        elif any(side not in (None, asked) for side, asked in zip(structure.input_shape, wanted, strict=True)):
            found.append(f"its network takes {_words(structure.input_shape)}, input_size says {_words(wanted)}")
    if structure.classes not in (None, own.count):
        found.append(f"its network puts out {structure.classes} numbers for an image, classes names {own.count}")
    elif structure.output_shape is not None and len(structure.output_shape) != 1:
        found.append(f"its network puts out {_words(structure.output_shape)} for an image, and not a number a class")
    return found


def _size_of(shape: OpenShape | None) -> tuple[int, int] | None:
    if shape is None or len(shape) != 3 or shape[0] is None or shape[1] is None:
        return None
    return shape[0], shape[1]


def _words(shape: OpenShape) -> str:
    return " × ".join("any" if side is None else str(side) for side in shape)


def _read(uri: str, settings: Settings) -> bytes | None:
    """The bytes of a small object or file, or more than are allowed; None where there is none."""
    try:
        with _opened(uri, settings) as file:
            return file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        return None


def _opened(uri: str, settings: Settings) -> IO[bytes]:
    """A stored or local file, to be read anywhere in it; FileNotFoundError where there is none."""
    if uri.startswith("s3:"):
        return io.BufferedReader(_Stored(uri, settings), READ_AHEAD)
    try:
        return local_path(uri).open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {uri}: {error.strerror}") from error


class _Stored(io.RawIOBase):
    """An object of S3 as a file that can be read from anywhere, by ranged GETs; errors are pixelherd's own."""

    def __init__(self, uri: str, settings: Settings) -> None:
        bucket, self._key = split_uri(uri)
        self._doing, self._at = f"read {uri}", 0
        self._store: S3Store = make_store(settings, bucket)
        with s3_errors(self._doing):
            try:
                self._size: int | None = obstore.head(self._store, self._key)["size"]
            except FileNotFoundError:
                self._size = None
        if self._size is None:
            raise FileNotFoundError(uri)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size or 0}[whence]
        return self._at

    def readinto(self, target: "Buffer") -> int:
        into = memoryview(target).cast("B")
        end = min(self._at + len(into), self._size or 0)
        if end <= self._at:
            return 0
        with s3_errors(self._doing):
            piece = memoryview(obstore.get_range(self._store, self._key, start=self._at, end=end))
        into[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
