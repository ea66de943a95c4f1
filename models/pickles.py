"""What a pickle holds, read without running it.

A pickle is a program: it names functions and has them called. Here only those are there that put tensors, arrays and
containers together, each written below; whatever else it names becomes an inert `Thing`, which remembers what it was given.
The source code that NVIDIA's pickles carry (`torch_utils.persistence`) is so never executed, nor even looked at.
"""

import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

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
        """Things may have been lists or dictionaries, of which nothing is needed."""

    def extend(self, items: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def read_pickle(path: Path) -> Any:
    """The containers, numbers, texts, tensors and arrays in a file of `pickle.dump`, other objects as `Thing`s; or, of a file of
    `torch.save`, what it holds. ValueError, in one sentence, for a file that is neither."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return torch.load(path, map_location="cpu", weights_only=True)
            file.seek(0)
            return _Reader(file).load()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except MemoryError:
        raise ValueError(f"{path.name} asks for more memory than there is: it is damaged, or not what it says.") from None
    # A damaged pickle fails in whatever way its bytes happen to say.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{path.name} cannot be read as a pickle of networks ({reason}).") from None


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # numpy 2 moved it
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if name == "EasyDict":  # dnnlib's dictionary, wherever it lay
            return dict
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        return _class(name)

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside of the file")


def _class(name: str) -> type[Thing]:
    return type(name, (Thing,), {"kind": name})


def _persistent(meta: dict) -> Thing:
    """What NVIDIA's `persistent_class` wrote: {class_name, state, module_src, …}."""
    if not isinstance(meta, dict):
        raise pickle.UnpicklingError("it describes an object by none")
    thing = _class(str(meta.get("class_name")))()
    thing.__setstate__(meta.get("state"))
    return thing


def _storage(data: bytes) -> torch.storage.TypedStorage:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: torch.storage.TypedStorage, offset: int, size: tuple, stride: tuple, *others: Any) -> Tensor:
    # as_strided refuses what lies beyond the data, where set_ would take memory.
    return torch.empty(0, dtype=storage.dtype).set_(storage).as_strided(size, stride, offset)


def _parameter(tensor: Tensor, *others: Any) -> Tensor:
    return tensor


class _Kind:
    """Of numpy's numbers: their letter and size, and once it is restored in which order their bytes are."""

    def __init__(self, code: Any, *others: Any):
        if not isinstance(code, str) or not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError("it holds numbers that are none")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code


class _Array(Thing):
    """A numpy array: `numbers`, as lists in one another."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, columns_first, data = state
        self.numbers = np.frombuffer(data, kind.code).reshape(shape, order="F" if columns_first else "C").tolist()

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


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "dict"): dict,
    ("builtins", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}
