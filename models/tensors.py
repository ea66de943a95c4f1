"""Files of tensors, complete or not there at all."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write `path`, as safetensors; what was there before stays until the new file is whole. OSError where it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this writer alone: another process may be writing the same file, of one cache.
    partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        save_file(tensors, partial, metadata)
        partial.chmod(0o644)  # the writer leaves files that no other user may read
        partial.replace(path)
    except SafetensorError as error:  # what its writer makes of a full disk
        raise OSError(f"{path} cannot be written ({error}): make room, or choose another folder.") from None
    finally:
        partial.unlink(missing_ok=True)


def cache_path(path: Path, key: list[str]) -> Path:
    """Where what is made of this `key` is kept: `path` with the key's hash and suffix added."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return path.with_name(f"{path.name}-{digest}.safetensors")


def cached_tensors(path: Path, key: list[str], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """`make()`, or what it made before from the same `key`, in `cache_path`."""
    path = cache_path(path, key)
    if not path.exists():
        save_tensors({name: tensor.contiguous() for name, tensor in make().items()}, path)
    return load_file(path)
