"""The reader of PyTorch's old format, on files that the tests write pickle by pickle."""

import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from config.errors import ContractError
from workers.cnn.torch_pickle import MAGIC_NUMBER, PROTOCOL_VERSION, read_state_dict


class Named:
    """Pickles as a reference to any global, without having it."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as the result of a call of any global."""

    def __init__(self, module, name, *arguments):
        self.called = (Named(module, name), arguments)


class Stored:
    """Pickles as a persistent id."""

    def __init__(self, *pid):
        self.pid = pid


PythonPickler: Any = pickle._Pickler


class Pickler(PythonPickler):  # type: ignore[misc]
    """Python's pickler in Python, which can be told to write names of things that are not installed."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Stored) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            function, arguments = obj.called
            self.save(function)
            self.save(arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def dump(obj):
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(obj)
    return buffer.getvalue()


def tensor(key="1", elements=6, shape=(2, 3), strides=(3, 1), offset=0):
    storage = Stored("storage", Named("torch", "FloatStorage"), key, "cpu", elements, None)
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, OrderedDict())


def write(path, **parts):
    """A file of one 2 × 3 tensor, except for the parts that are given."""
    usual = {
        "magic": dump(MAGIC_NUMBER),
        "protocol": dump(PROTOCOL_VERSION),
        "system": dump({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}),
        "state": dump(OrderedDict(weight=tensor())),
        "keys": dump(["1"]),
        "storages": (6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes(),
    }
    path.write_bytes(b"".join((usual | parts).values()))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state.pth"


def test_a_tensor_comes_back_with_its_elements(file):
    state = read_state_dict(write(file))
    assert list(state) == ["weight"]
    np.testing.assert_array_equal(state["weight"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_strides_and_offsets_are_followed(file):
    views = OrderedDict(turned=tensor(shape=(3, 2), strides=(1, 3)), tail=tensor(shape=(2,), strides=(1,), offset=4))
    state = read_state_dict(write(file, state=dump(views)))
    np.testing.assert_array_equal(state["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(state["tail"], [4, 5])


def test_arrays_own_their_elements(file):
    state = read_state_dict(write(file))
    state["weight"][:] = 7
    assert state["weight"].sum() == 42


HOSTILE = {
    "runs a command": {"state": dump(Call("os", "system", "true"))},
    "evaluates": {"state": dump(OrderedDict(weight=Call("builtins", "eval", "1")))},
    "reads attributes": {"state": dump(Call("builtins", "getattr", Named("torch", "FloatStorage"), "dtype"))},
    "runs a command in the first pickle": {"magic": dump(Call("os", "system", "true"))},
    "runs a command in the key list": {"keys": dump([Call("posix", "system", "true")])},
    "takes another function of torch": {"state": dump(Call("torch._utils", "_rebuild_parameter", 1))},
    "takes another class of torch": {"state": dump(Named("torch", "load"))},
    "dotted name": {"state": dump(Named("collections", "OrderedDict.__init__.__globals__"))},
    "NumPy's own unpickler": {"state": dump(Call("numpy", "load", "x"))},
    "holds no tensor": {"state": dump(OrderedDict(weight=1))},
    "is no dict": {"state": dump([1])},
    "persistent id of another kind": {"state": dump(Stored("module", 1, 2, 3, 4, 5))},
    "persistent id without a type": {"state": dump(Stored("storage", "FloatStorage", "1", "cpu", 6, None))},
    "tensor of no storage": {"state": dump(OrderedDict(w=Call("torch._utils", "_rebuild_tensor_v2", 1, 0, (), ())))},
    "reaches behind its storage": {"state": dump(OrderedDict(w=tensor(shape=(2, 4), strides=(4, 1))))},
    "begins behind its storage": {"state": dump(OrderedDict(w=tensor(offset=6)))},
    "negative offset": {"state": dump(OrderedDict(w=tensor(offset=-1)))},
    "negative stride": {"state": dump(OrderedDict(w=tensor(strides=(-3, 1))))},
    "more axes than strides": {"state": dump(OrderedDict(w=tensor(strides=(1,))))},
    "repeats itself without end": {"state": dump(OrderedDict(w=tensor(shape=(10**6, 10**6), strides=(0, 0))))},
    "storage larger than the file": {
        "state": dump(OrderedDict(w=tensor(elements=10**15))),
        "storages": (10**15).to_bytes(8, "little"),
    },
    "storage of another size": {"storages": (5).to_bytes(8, "little") + bytes(24)},
    "storage of negative size": {"storages": (-6).to_bytes(8, "little", signed=True) + bytes(24)},
    "key list of others": {"keys": dump(["2"])},
    "big-endian": {"system": dump({"little_endian": False})},
    "wrong magic number": {"magic": dump(1)},
    "wrong protocol": {"protocol": dump(1002)},
    "ends in its storage": {"storages": (6).to_bytes(8, "little") + bytes(20)},
    "ends in a pickle": {"state": dump(OrderedDict(weight=tensor()))[:20], "keys": b"", "storages": b""},
    "goes on": {"storages": (6).to_bytes(8, "little") + bytes(25)},
    "is empty": dict.fromkeys(("magic", "protocol", "system", "state", "keys", "storages"), b""),
    "is a zip": {"magic": b"PK\x03\x04"},
}


@pytest.mark.parametrize("parts", HOSTILE.values(), ids=HOSTILE)
def test_anything_else_is_refused(file, parts):
    with pytest.raises(ContractError, match=r"state\.pth is no PyTorch state dict"):
        read_state_dict(write(file, **parts))


def test_nothing_named_is_even_imported(file, tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ContractError, match=r"never_imported\.call is not admitted"):
        read_state_dict(write(file, state=dump(Call("never_imported", "call"))))


def test_attributes_cannot_be_set_on_what_is_admitted(file):
    """BUILD sets them on whatever lies on the pickle's stack, here the stand-in for torch's function."""
    name = b"__doc__"
    state = pickle.NONE + pickle.EMPTY_DICT + pickle.SHORT_BINUNICODE + bytes([len(name)]) + name + pickle.NONE
    build = b"ctorch._utils\n_rebuild_tensor_v2\n" + state + pickle.SETITEM + pickle.TUPLE2 + pickle.BUILD
    with pytest.raises(ContractError, match="attribute"):
        read_state_dict(write(file, state=pickle.PROTO + b"\x04" + build + pickle.STOP))
