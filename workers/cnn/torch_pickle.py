"""Read PyTorch's old file format without PyTorch: a .pth file in, parameter name -> NumPy array out.

The format, as torch.save wrote it before version 1.6: three pickles (magic number, protocol version, sizes of the
writer's C types), the pickle of the state dict, the pickle of the list of storage keys, and then for each of those
keys the number of elements as an int64 and the raw little-endian elements. Tensors in the state dict are only
references into storages; they become arrays once the storages have been read.

A pickle can call anything, so the Unpickler here admits what a state dict of tensors needs and nothing else.
"""

import math
import os
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from config.errors import ContractError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

#: Storage classes of torch -> type of their elements.
STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}

#: What pickle, struct and NumPy raise on a file that is cut, garbled or hostile.
MALFORMED = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Storage:
    """One block of elements somewhere behind the pickles."""

    key: str
    dtype: np.dtype[Any]
    elements: int


@dataclass(frozen=True, slots=True)
class TensorReference:
    """Where in a storage the elements of a tensor are."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StorageType:
    """Stands for a class such as torch.FloatStorage, which a pickle names but must not import."""

    dtype: np.dtype[Any]


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Read name -> array from a .pth file; ContractError where it holds anything but tensors, or is cut."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except MALFORMED as error:
        raise ContractError(f"{path.name} is no PyTorch state dict of plain tensors: {error}") from error


def _read(file: BinaryIO) -> dict[str, NDArray[Any]]:
    if _load(file) != MAGIC_NUMBER or _load(file) != PROTOCOL_VERSION:
        raise ValueError("wrong magic number or protocol version")
    system = _load(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    references = _load(file)
    keys = _load(file)
    if not isinstance(references, dict) or not all(isinstance(r, TensorReference) for r in references.values()):
        raise ValueError("the state dict holds something other than tensors")
    expected = {reference.storage.key: reference.storage for reference in references.values()}
    if not isinstance(keys, list) or set(keys) != set(expected):
        raise ValueError("the key list does not name the storages of the tensors")
    blocks = {key: _read_block(file, expected[key]) for key in keys}
    if file.read(1):
        raise ValueError("something follows the last storage")
    return {name: _array(reference, blocks[reference.storage.key]) for name, reference in references.items()}


def _read_block(file: BinaryIO, storage: Storage) -> NDArray[Any]:
    elements = int.from_bytes(file.read(8), "little", signed=True)
    if elements != storage.elements or elements < 0:
        raise ValueError(f"a storage of {storage.elements} elements says it has {elements}")
    size = elements * storage.dtype.itemsize
    if size > os.fstat(file.fileno()).st_size - file.tell():  # before memory is taken for it
        raise ValueError(f"the file ends inside a storage of {elements} elements")
    return np.frombuffer(file.read(size), storage.dtype, elements)


def _array(reference: TensorReference, block: NDArray[Any]) -> NDArray[Any]:
    """The tensor's own copy of its elements; the bounds are checked, since as_strided reads wherever it is sent."""
    shape, strides = reference.shape, reference.strides
    if len(shape) != len(strides) or min((reference.offset, *shape, *strides), default=0) < 0:
        raise ValueError(f"impossible tensor: shape {shape}, strides {strides}, offset {reference.offset}")
    last = reference.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 in shape or last >= block.size or math.prod(shape) > block.size:
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {block.size} elements")
    view = np.lib.stride_tricks.as_strided(
        block[reference.offset :], shape, [stride * block.itemsize for stride in strides], writeable=False
    )
    return view.copy()


def _load(file: BinaryIO) -> Any:
    return _TensorUnpickler(file, encoding="utf-8").load()


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2; without attributes, so that a pickle can set none on it."""

    __slots__ = ()

    def __call__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_training: Any
    ) -> TensorReference:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return TensorReference(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _TensorUnpickler(pickle.Unpickler):
    """Admits tensors, storages and OrderedDict; anything else that a pickle names is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return StorageType(STORAGES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, key, _location, elements, view = pid
        if kind != "storage" or not isinstance(storage_type, StorageType) or view is not None:
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        return Storage(str(key), storage_type.dtype, int(elements))
