"""What a pickle holds, read without running it.

A pickle is a program: it names functions and has them called. Here only those are there that put tensors, arrays and
containers together, each written below; whatever else it names becomes an inert `Thing`, which remembers what it was given.
The source code that NVIDIA's pickles carry (`torch_utils.persistence`) is so never executed, nor even looked at.
"""

import io
import math
import mmap
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor


class Thing:
    """An object of a class that is not here: `kind`, its name, and `state`, its attributes by name."""

    kind = ""

    def __new__(cls, *args, **kwargs):
        thing = super().__new__(cls)
        thing.state = {}
        return thing

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.state = state

    def append(self, item: Any) -> None:
        """Things may have been lists, of which nothing is needed."""

    def extend(self, items: Any) -> None:
        pass


def read_pickle(path: Path) -> Any:
    """The containers, numbers, texts, tensors and arrays in a file of `pickle.dump` or of `torch.save`, other objects as
    `Thing`s. ValueError, in one sentence, for a file that is neither. The numbers of an archive's tensors are read when they
    are used."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _from_archive(file)
            file.seek(0)
            found = _Reader(file).load()
            return _from_old_file(file) if type(found) is int and found == _OLD_FILE else found
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except MemoryError:
        raise ValueError(f"{path.name} asks for more memory than there is: it is damaged, or not what it says.") from None
    # A damaged pickle fails in whatever way its bytes happen to say.
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read as a pickle of networks ({reason(error)}).") from None


def reason(error: Exception) -> str:
    """What an error says, in a line: a KeyError, for one, says nothing but the key."""
    said, kind = str(error).strip().partition("\n")[0], type(error).__name__
    return (said if isinstance(error, pickle.UnpicklingError) else f"{kind}: {said}" if said else kind)[:200]


def _from_archive(file: BinaryIO) -> Any:
    """What torch 1.6 and later save: a zip file of a pickle and of the numbers of its tensors, uncompressed."""
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED}
    pickled = next((name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if pickled is None:
        raise pickle.UnpicklingError("it is a zip file of something else")
    home = pickled.removesuffix("data.pkl")
    # Read by entry: of two of one name, the name would give the last, however it is packed.
    if (order := entries.get(f"{home}byteorder")) is not None and archive.read(order) != b"little":
        raise pickle.UnpicklingError("its numbers are in another order of bytes")
    # Copied where it is written to, which nobody does: torch warns of what cannot be.
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def numbers(key: str, kind: torch.dtype, count: int) -> Tensor:
        if not count:
            return torch.empty(0, dtype=kind)
        start = entries[f"{home}data/{key}"].header_offset
        start += 30 + sum(int.from_bytes(whole[start + at : start + at + 2], "little") for at in (26, 28))  # past its names
        return torch.frombuffer(whole, dtype=kind, count=count, offset=start)

    return _Reader(io.BytesIO(archive.read(entries[pickled])), numbers).load()


def _from_old_file(file: BinaryIO) -> Any:
    """What earlier ones save, behind the number that says so: pickles, and at the end the numbers of their tensors."""
    _Reader(file).load(), _Reader(file).load()  # of the format and of the machine
    rooms: dict[str, Tensor] = {}
    place = file.tell()
    left = file.seek(0, io.SEEK_END)
    file.seek(place)

    def numbers(key: str, kind: torch.dtype, count: int) -> Tensor:
        nonlocal left
        left -= count * kind.itemsize
        if count < 0 or left < 0:
            raise pickle.UnpicklingError("it is shorter than it says")
        rooms[key] = torch.empty(count, dtype=kind)
        return rooms[key]

    found = _Reader(file, numbers).load()
    for key in _Reader(file).load():
        if not isinstance(key, str):
            raise pickle.UnpicklingError("it names its numbers by none")
        room = rooms[key]
        if int.from_bytes(file.read(8), "little") != len(room) or file.readinto(room.view(torch.uint8).numpy()) != room.nbytes:
            raise pickle.UnpicklingError("it was cut short")
    return found


class _Reader(pickle._Unpickler):
    """Reads one pickle; `numbers` gives those of a tensor that lie outside of it, by their key, kind and count.

    It is Python's own reader and not the one in C, which takes as much memory as a pickle says. What a pickle may change is
    written below: dictionaries, and what restores itself.
    """

    def __init__(self, file: BinaryIO, numbers: Callable[[str, torch.dtype, int], Tensor] | None = None):
        super().__init__(file)
        self.numbers, self.known, self.copies = numbers, {}, {}

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # numpy 2 moved it
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if name == "EasyDict":  # dnnlib's dictionary, wherever it lay
            return dict
        # Not by getattr, which has torch import what it names.
        if module == "torch" and isinstance(found := vars(torch).get(name), torch.dtype):
            return found
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _class(name)

    def persistent_load(self, key: Any) -> Tensor:
        if self.numbers is None or key[0] != "storage" or not isinstance(key[1], torch.dtype):
            raise pickle.UnpicklingError("it refers to data outside of the file")
        _, kind, name, _, count, *_ = key
        if not isinstance(name, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("it names its numbers by none")
        if name not in self.known:
            self.known[name] = self.numbers(name, kind, count)
        return self.known[name]

    def load_reduce(self) -> None:
        given, call = self.stack.pop(), self.stack.pop()
        self._instantiate(call, given)

    def _instantiate(self, call: Any, given: Any) -> None:
        """What a call gives; old opcodes come here too."""
        if call in (dict, OrderedDict) and given:
            raise pickle.UnpicklingError("it copies its dictionaries")
        if call not in (_storage, _encode):
            self.append(call(*given))
            return
        # A few bytes can name the same data again: it is copied once.
        if id(given[0]) not in self.copies:
            self.copies[id(given[0])] = given[0], call(*given)
        self.append(self.copies[id(given[0])][1])

    def load_build(self) -> None:
        state, whole = self.stack.pop(), self.stack[-1]
        if isinstance(whole, (Thing, _Kind)):
            whole.__setstate__(state)
        elif not isinstance(whole, dict):  # of whose attributes nothing is needed
            raise pickle.UnpicklingError("it changes what it may not")

    def load_bytearray8(self) -> None:
        """Bytes, as many as there are: Python would make room for as many as are said."""
        count = int.from_bytes(self.read(8), "little")
        data = self.read(count)
        if len(data) < count:
            raise pickle.UnpicklingError("it is shorter than it says")
        self.append(data)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        self._fill(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def _fill(self, items: list) -> None:
        """Keys and values, in turn, into the dictionary that is read."""
        whole, keys = self.stack[-1], items[::2]
        # A hash goes into tuples however deep they are, and as often as one holds another.
        if not isinstance(whole, (dict, Thing)) or any(isinstance(key, tuple) for key in keys):
            raise pickle.UnpicklingError("it has odd keys")
        if isinstance(whole, dict):
            whole.update(zip(keys, items[1::2]))

    def load_empty_set(self) -> None:
        """Of sets nothing is needed."""
        self.append(_class("set")())

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.load_empty_set()

    def load_additems(self) -> None:
        self.pop_mark()

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_SET[0]: load_empty_set,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.ADDITEMS[0]: load_additems,
    }


def _class(name: str) -> type[Thing]:
    return type(name, (Thing,), {"kind": name})


def _persistent(meta: dict) -> Thing:
    """What NVIDIA's `persistent_class` wrote: {class_name, state, module_src, …}."""
    if not isinstance(meta, dict) or not isinstance(name := meta.get("class_name"), str):
        raise pickle.UnpicklingError("it describes an object by none")
    thing = _class(name)()
    thing.__setstate__(meta.get("state"))
    return thing


def _storage(data: bytes) -> Tensor:
    file = io.BytesIO(data)
    if _Reader(file).load() != _OLD_FILE or not isinstance(numbers := _from_old_file(file), Tensor):
        raise pickle.UnpicklingError("it holds numbers that are none")
    return numbers


def _tensor(numbers: Tensor, offset: int, size: tuple, stride: tuple, *others: Any) -> Tensor:
    if not all(type(number) is int for number in (offset, *size, *stride)) or math.prod(size) > numbers.numel():
        raise pickle.UnpicklingError("it holds tensors that are larger than their numbers")
    # as_strided refuses what lies beyond the data, where set_ would take memory.
    return numbers.as_strided(size, stride, numbers.storage_offset() + offset)


def _given(first: Any, *others: Any) -> Any:
    return first


class _Kind:
    """Of numpy's numbers: their letter and size, and once it is restored in which order their bytes are."""

    def __init__(self, code: Any, *others: Any):
        if not isinstance(code, str) or not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError("it holds numbers that are none")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code[-2:]


class _Array(Thing):
    """A numpy array: `numbers`, as they lie in the file."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, columns_first, data = state
        self.numbers = np.frombuffer(data, kind.code).reshape(shape, order="F" if columns_first else "C")

    def __getitem__(self, index: int) -> Any:
        return self.numbers[index]


def _new_array(*others: Any) -> _Array:
    """Its shape and numbers follow."""
    return _Array()


def _from_buffer(data: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _encode(text: str, coding: str) -> bytes:
    """Bytes, as old pickles write them."""
    return text.encode("latin1")


def _scalar(kind: _Kind, data: bytes) -> int | float:
    return np.frombuffer(data, kind.code, 1)[0].item()


_OLD_FILE = 0x1950A86A20F9469CFC6C  # what begins it
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "dict"): dict,
    ("torch", "Size"): _given,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _given,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}
