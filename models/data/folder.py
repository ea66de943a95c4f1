"""A folder of captioned pictures, read into tensors.

`read_folder` reads what is written about the pictures, `read_pictures` the pictures themselves. What cannot be used is never
fatal: both hand back a list of what they skipped and why. The layout is found by itself; the first of these that is there is
that of the whole folder, and the others are ignored:

`metadata.jsonl`    one object a line: `file_name`; `captions`: a list, or by language lists of a name and the keywords behind
                    it (or `text`: one caption); optionally `concept`, `style`, `style_captions`, `split` and `license`, as
                    `llm_gan.models.data.icons` writes them
`captions.csv`      a column `file_name`, one or more whose name begins with `caption` or `text`, and optionally `concept`,
                    `style`, `split` and `license`; several rows may name one picture
`.txt` files        captions, one a line, in a file of the same name beside each picture; in sub-folders too
sub-folders         named after what the pictures in them show, with spaces or underscores
"""

import codecs
import csv
import hashlib
import io
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..pictures import FORMATS, rgba

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNREAD = {".avif", ".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".xcf", ".tga", ".ico"}  # pictures too
MIN_SIDE = 16  # px; what is smaller holds nothing to learn
MAX_PIXELS = 1 << 26  # of one picture; what is larger is refused before it is decoded
LARGE = 1 << 24  # pixels; of larger pictures one at a time is decoded
MAX_WORKERS = 8
OVERSAMPLED = 8  # times the resolution: what is larger still is first averaged down, which LANCZOS would not show
VERSION = 2  # of the rules by which a picture becomes a square; another makes every cached picture stale
ABANDONED = 60  # seconds without a write, after which an unfinished file of the cache belongs to nobody
_TURNS = {  # by the EXIF tag Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_one_large_picture = threading.Lock()


@dataclass(frozen=True)
class Example:
    """A picture and what may be said of it: what it shows, words that only hint at it, and what it shows in which style.

    Several pictures may share a caption, and many a keyword; a styled caption should be one picture's own.
    """

    path: Path
    captions: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    styled: tuple[str, ...] = ()
    concept: str = ""
    style: str = ""
    split: str = "train"
    license: str = ""

    def taking_captions_of(self, other: "Example") -> "Example":
        kinds = ("captions", "keywords", "styled")
        return replace(self, **{kind: tuple(dict.fromkeys(getattr(self, kind) + getattr(other, kind))) for kind in kinds})


class Skipped(NamedTuple):
    """A file that was not used, or one line of it, and why."""

    path: Path
    reason: str

    def __str__(self):
        return f"{self.path.name}: {self.reason}"


class Pictures(NamedTuple):
    """N pictures on white, uint8 [N,3,R,R], the example of each, what was skipped, and how opaque each pixel is [N,1,R,R]."""

    pixels: Tensor
    examples: list[Example]
    skipped: list[Skipped]
    opacity: Tensor


def read_folder(folder: Path, uncaptioned: bool = False) -> tuple[list[Example], list[Skipped]]:
    """The examples of `folder`, sorted by path, and what was skipped, unless asked for pictures without a caption among it. No
    picture is opened; hidden files are passed over.

    Raises FileNotFoundError where there is no folder, and ValueError where nothing in it can be learnt from.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give a folder of pictures with captions.")
    root = folder.resolve()
    files = [path for path in sorted(root.rglob("*")) if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()]
    skipped: list[Skipped] = []
    where, ignored = "", texts
    if (metadata := root / "metadata.jsonl").is_file():
        where, found = f" in {metadata.name}", _from_metadata(metadata, skipped)
    elif (table := root / "captions.csv").is_file():
        where, found = f" in {table.name}", _from_table(table, skipped)
    elif captioned := {path: texts[path.with_suffix("")] for path in pictures if path.with_suffix("") in texts}:
        where, ignored, found = " in a .txt beside it", {}, _from_text_files(captioned, skipped)
    else:
        found = _from_classes([path for path in pictures if path.parent != root], skipped)
    examples: dict[Path, Example] = {}
    for example in found:
        if example.captions or uncaptioned:
            known = examples.get(example.path)
            examples[example.path] = known.taking_captions_of(example) if known else example
    accounted = examples.keys() | {path for path, _ in skipped}
    left = [path for path in pictures if path not in accounted]
    if uncaptioned:
        examples |= {path: Example(path, ()) for path in left}
    else:
        instead = {path: ", which is used instead of the .txt beside it" for path in left if path.with_suffix("") in ignored}
        skipped += [Skipped(path, f"has no caption{where}{instead.get(path, '')}") for path in left]
    skipped += [skip for skip in _unread(files) if skip.path not in accounted]
    if uncaptioned and not examples:
        raise ValueError(f"{folder} holds no pictures{_summary(skipped)}: give a folder of pictures.")
    if not examples:
        raise ValueError(
            f"{folder} holds no captioned pictures{_summary(skipped)}: put a .txt file of captions beside each picture, sort "
            "them into folders named after what they show, or write a captions.csv or metadata.jsonl."
        )
    return sorted(examples.values(), key=lambda example: example.path), skipped


def _unread(files: list[Path]) -> list[Skipped]:
    """Pictures that nobody should think are learnt; not those beside which one lies that is read, as an icon beside its SVG."""
    read = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    unread = [path for path in files if path.suffix.lower() in UNREAD and path.with_suffix("") not in read and path.is_file()]
    return [Skipped(path, f"is in a format that is not read ({path.suffix}): save it as PNG or JPEG") for path in unread]


def _summary(skipped: list[Skipped]) -> str:
    first = "; ".join(str(s) for s in skipped[:3])
    return f" ({len(skipped)} skipped: {first}{'; …' if len(skipped) > 3 else ''})" if skipped else ""


def _from_metadata(metadata: Path, skipped: list[Skipped]) -> Iterator[Example]:
    for number, line in enumerate(metadata.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                yield _from_entry(metadata.parent, json.loads(line))
            except json.JSONDecodeError as error:
                skipped.append(Skipped(metadata, f"line {number}: not JSON ({error.msg}, column {error.colno})"))
            except (ValueError, OSError, RuntimeError) as error:  # a RecursionError is a RuntimeError
                skipped.append(Skipped(metadata, f"line {number}: {error}"))


def _from_table(table: Path, skipped: list[Skipped]) -> Iterator[Example]:
    try:
        text = _text(table)
    except UnicodeDecodeError:
        raise ValueError(f"{table} is not UTF-8: save it as CSV in UTF-8.") from None
    header = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = [name.strip().lower() for name in next(rows, [])]
    if "file_name" not in columns or not any(map(_is_caption, columns)):
        raise ValueError(f"{table} should begin with a line that names its columns, file_name and caption among them.")
    try:
        for row in filter(None, rows):
            cells = list(zip(columns, row))  # two columns may have one name
            captions = [cell for name, cell in cells if _is_caption(name)]
            try:
                if any(row[len(columns) :]):
                    raise ValueError("more fields than columns: put captions that hold the delimiter in quotes")
                entry = {name: cell for name, cell in cells if name in ("file_name", "concept", "style", "split", "license")}
                yield _from_entry(table.parent, {**entry, "captions": captions})
            except (ValueError, OSError, RuntimeError) as error:
                skipped.append(Skipped(table, f"line {rows.line_num}: {error}"))
    except csv.Error as error:
        raise ValueError(f"{table}, line {rows.line_num}: not CSV ({error}).") from None


def _is_caption(column: str) -> bool:
    return column.startswith(("caption", "text"))


def _from_entry(root: Path, entry: object) -> Example:
    """What a line says of a picture; captions may be missing. ValueError, with the reason alone, where it cannot be used."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not entry["file_name"].strip():
        raise ValueError("not an object with file_name and captions")
    name = entry["file_name"].strip()
    inside = Path(os.path.normpath(name))  # by its name: what a link in the folder leads to is its owner's choice
    if inside.anchor or ".." in inside.parts:
        raise ValueError(f"{name} lies outside the folder")
    path = root / inside
    if not path.is_file():
        raise ValueError(f"there is no picture {name}")
    said = entry.get("captions") or entry.get("caption") or entry.get("text") or []
    templates = entry.get("style_captions") or {}
    if not isinstance(templates, dict):
        raise ValueError("style_captions should be lists by language")
    if templates and not isinstance(said, dict):
        raise ValueError("style_captions need captions by language")
    if isinstance(said, dict):
        languages = {language: texts for language in said if (texts := _texts(said[language]))}
        captions = tuple(texts[0] for texts in languages.values())
        keywords = tuple(text for texts in languages.values() for text in texts[1:])
    else:
        languages, captions, keywords = {}, _texts(said), ()
    # Keywords go without the style: every caption costs encoding time.
    styled = [
        template.replace("{caption}", texts[0])
        for language, texts in languages.items()
        for template in _texts(templates.get(language) or [])[:1]
    ]
    fields = {field: entry[field] for field in ("concept", "style", "split", "license") if entry.get(field)}
    if wrong := [field for field, value in fields.items() if not isinstance(value, str)]:
        raise ValueError(f"{wrong[0]} should be text")
    return Example(path, captions, keywords, tuple(styled), **{field: value.strip() for field, value in fields.items()})


def _texts(said: object) -> tuple[str, ...]:
    texts = [said] if isinstance(said, str) else said
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("captions should be a list of texts, or such lists by language")
    "".join(texts).encode()  # half a surrogate pair, which JSON can hold, is text to no language model
    return tuple(text.strip() for text in texts if text.strip())


def _text(path: Path) -> str:
    """What a file says in UTF-8, or in UTF-16 as Windows may write it, which begins with a mark."""
    raw = path.read_bytes()
    kind = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return raw.decode(kind).replace("\r\n", "\n")


def _from_text_files(captioned: dict[Path, Path], skipped: list[Skipped]) -> Iterator[Example]:
    for path, text in captioned.items():
        try:
            lines = _text(text).splitlines()
        except (ValueError, OSError) as error:
            skipped.append(Skipped(path, f"its captions cannot be read ({error}): save them in UTF-8"))
        else:
            yield Example(path, _texts(lines))


def _from_classes(pictures: list[Path], skipped: list[Skipped]) -> Iterator[Example]:
    for path in pictures:
        name = path.parent.name.replace("_", " ").strip() or path.parent.name
        try:
            yield Example(path, _texts(name), concept=name)
        except ValueError:
            skipped.append(Skipped(path, "the name of its folder cannot be read as UTF-8: give it another"))


def read_pictures(
    examples: list[Example],
    resolution: int,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Each picture on white, turned upright, centred, padded to a square and resized to `resolution` with LANCZOS.

    The order is that of `examples`. Of pictures that look the same on white the first stays and the others are skipped: a
    picture that is there twice would be drawn twice as often. It takes over their captions, except from another split, for
    then a held-out caption would be trained on.

    With a folder `cache` the squares are kept in a file there: an interrupted call is gone on with by the next, and a picture
    is decoded again only when its size or time of change is another, or the resolution. The tensor is then that file, mapped
    and not loaded; what is written to it stays off the disk. Pictures that are not asked for are dropped, so give each list of
    examples a folder of its own. Several processes may use it at once.

    `progress` is told how many of the examples are done and of how many. Decoding takes at most 3 GiB (16 bytes for each of
    MAX_PIXELS and, by each of MAX_WORKERS, of LARGE pixels; seldom a tenth of it), however many pictures there are; without
    `cache` come the 4·N·R² bytes of the result, up to three times while it is put together.

    Raises ValueError where no picture can be used.
    """
    # A record is all there is to know of a picture: which state of which file, what it shows, and the square.
    record = np.dtype([("key", "V16"), ("shown", "V16"), ("pixels", "u1", (4, resolution, resolution))])
    keys = [_key(example.path) for example in examples]
    paths: list[Path] = []  # of the finished file, there or not, and of what interrupted calls left beside it
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        paths = [cache / f"pictures-{resolution}.bin", *sorted(cache.glob(f"pictures-{resolution}-*.part"))]
    found = len(paths)
    sources = [_map(path, record) for path in paths]
    places: dict[bytes, tuple[int, int]] = {}  # by key, the source and the row in it
    _note(places, sources)

    def write(rows: Iterable[bytes]) -> None:
        if cache is None:
            sources.append(np.frombuffer(bytearray().join(rows), record))
        else:
            paths.append(cache / f"pictures-{resolution}-{uuid.uuid4().hex}.part")
            sources.append(_write(rows, paths[-1], record))

    missing = [i for i, key in enumerate(keys) if key and key not in places]
    shown: list[bytes | str] = ["" if key else "cannot be found" for key in keys]  # a digest, or why there is none

    def decode() -> Iterator[bytes]:
        decoded = _decode([examples[i].path for i in missing], resolution)
        for done, (i, result) in enumerate(zip(missing, decoded), len(examples) - len(missing) + 1):
            if isinstance(result, str):
                shown[i] = result
            else:
                yield keys[i] + result
            if progress is not None:
                progress(done, len(examples))

    if missing:
        write(decode())
        _note(places, sources)
    for i, key in enumerate(keys):
        if key in places:
            source, row = places[key]
            shown[i] = sources[source]["shown"][row].tobytes()
    if "" in shown:  # this call was suspended so long that another took its file for abandoned
        return read_pictures(examples, resolution, cache, progress)
    kept, merged, skipped = _distinct(examples, shown)
    order = [places[keys[i]] for i in kept]
    chosen = order[0][0]
    if order != [(chosen, row) for row in range(len(kept))]:
        repeated = [places[keys[i]] for i in sorted(set(range(len(keys))) - set(kept)) if keys[i] in places]
        chosen = len(sources)
        write(sources[source][row].tobytes() for source, row in order + repeated)
    records = sources[chosen]
    if cache is not None:
        del records
        sources.clear()  # Windows does not move files that are mapped
        records = _map(_settle(paths, found, chosen), record, writable=True)
        if records["key"][: len(kept)].tobytes() != b"".join(keys[i] for i in kept):  # another process put its file there
            return read_pictures(examples, resolution, cache, progress)
    pixels = torch.from_numpy(records["pixels"][: len(kept)])
    return Pictures(pixels[:, :3], merged, skipped, pixels[:, 3:])


def read_first(examples: list[Example], count: int, resolution: int) -> Pictures:
    """`read_pictures` of as many of the first examples as it takes to find `count` pictures, or of all; none is kept.

    Raises ValueError where no picture can be used.
    """
    shown: list[bytes | str] = []  # a digest of each, or why it cannot be used
    squares: dict[bytes, bytes] = {}
    for result in _decode([example.path for example in examples], resolution):
        if isinstance(result, str):
            shown.append(result)
        else:
            shown.append(result[:16])
            squares.setdefault(result[:16], result[16:])
        if len(squares) == count:
            break
    _, merged, skipped = _distinct(examples[: len(shown)], shown)
    pixels = torch.frombuffer(bytearray().join(squares.values()), dtype=torch.uint8).view(-1, 4, resolution, resolution)
    return Pictures(pixels[:, :3], merged, skipped, pixels[:, 3:])


def _distinct(examples: list[Example], shown: list[bytes | str]) -> tuple[list[int], list[Example], list[Skipped]]:
    """Which examples stay, those with the captions of their duplicates, and what is skipped: text in `shown` is the reason.
    ValueError where none stays."""
    kept: dict[bytes, int] = {}
    merged: dict[bytes, Example] = {}
    skipped: list[Skipped] = []
    for i, (example, digest) in enumerate(zip(examples, shown)):
        if isinstance(digest, str):
            skipped.append(Skipped(example.path, digest))
        elif digest in kept:
            first = merged[digest]
            skipped.append(Skipped(example.path, f"looks the same as {first.path.name}"))
            if example.split == first.split:
                merged[digest] = first.taking_captions_of(example)
        else:
            kept[digest], merged[digest] = i, example
    if not kept:
        raise ValueError(f"None of the {len(examples)} pictures can be used{_summary(skipped)}: give others.")
    return list(kept.values()), list(merged.values()), skipped


def _key(path: Path) -> bytes:
    """16 bytes for the state of a file, as far as it can be known without opening it; none where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return b""
    state = f"{VERSION}\n{path}\n{stat.st_size}\n{stat.st_mtime_ns}"
    return hashlib.blake2b(state.encode(errors="surrogateescape"), digest_size=16).digest()


def _map(path: Path, record: np.dtype, writable: bool = False) -> np.ndarray:
    """The whole records in a file: none where there is no file, and without the last where it was cut off in the midst."""
    try:
        rows = path.stat().st_size // record.itemsize
        if not rows:
            return np.empty(0, record)
        return np.memmap(path, record, "c" if writable else "r", shape=(rows,))
    except FileNotFoundError:
        return np.empty(0, record)
    except OSError:
        # Copies on write are not granted beyond what memory could hold of them; a shared mapping of any size is.
        return np.memmap(path, record, "r+", shape=(rows,))


def _note(places: dict[bytes, tuple[int, int]], sources: list[np.ndarray]) -> None:
    for number, records in enumerate(sources):
        keys = records["key"].tobytes()
        for row in range(len(records)):
            places.setdefault(keys[16 * row : 16 * row + 16], (number, row))


def _write(rows: Iterable[bytes], path: Path, record: np.dtype) -> np.ndarray:
    with path.open("xb") as file:
        for row in rows:
            file.write(row)
        file.flush()
        os.fsync(file.fileno())
    return _map(path, record)


def _settle(paths: list[Path], found: int, chosen: int) -> Path:
    """Puts the chosen file in place of the finished one, at once, and removes the others but what another may be writing."""
    finished = paths[0]
    if chosen:
        try:
            paths[chosen].replace(finished)
        except (PermissionError, FileNotFoundError):  # Windows, while an earlier tensor is alive; or as above
            finished = paths[chosen]
    for number, path in enumerate(paths[1:], 1):
        with suppress(OSError):
            ours = number >= found
            if path != finished and (ours or time.time() - path.stat().st_mtime > ABANDONED):
                path.unlink()
    return finished


def _decode(paths: list[Path], resolution: int) -> Iterator[bytes | str]:
    """`_read` of every path, in order, by several threads; few at a time, so that results do not pile up."""
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), 8 * workers):
            yield from pool.map(lambda path: _read(path, resolution), paths[start : start + 8 * workers])


def _read(path: Path, resolution: int) -> bytes | str:
    """A digest of what a picture shows (16 bytes) and its square with its opacity (4·R²), or why it cannot be used."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if min(image.size) < MIN_SIDE:
                return f"is {width} × {height} px, and the shorter side should have {MIN_SIDE} at least"
            if width * height > MAX_PIXELS:
                return f"is {width} × {height} px, and more than {MAX_PIXELS >> 20} megapixels are not read"
            image.draft(None, (OVERSAMPLED * resolution,) * 2)  # a JPEG can be decoded at 1/2, 1/4 or 1/8
            # A progressive JPEG is held at full size whatever the draft, and a square is as large as the longer side.
            held = width * height if "progressive" in image.info else math.prod(image.size)
            held = max(held, min(max(image.size), 2 * OVERSAMPLED * resolution) ** 2)
            with _one_large_picture if held > LARGE else nullcontext():
                square, opacity = _upright_on_white(image, resolution)
        shown = hashlib.blake2b(f"{square.size}".encode() + square.tobytes(), digest_size=16)
        # Apart: together the colours would be weighted by the opacity, which is done already.
        pixels, opacity = (np.asarray(x.resize((resolution, resolution), Image.Resampling.LANCZOS)) for x in (square, opacity))
        return shown.digest() + pixels.transpose(2, 0, 1).tobytes() + opacity.tobytes()
    except UnidentifiedImageError:
        return f"is not a picture in a format that is read ({', '.join(FORMATS)})"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has more than {MAX_PIXELS >> 20} megapixels, which are not read"
    except Exception as error:  # a decoder may raise anything over a broken file
        return f"cannot be read ({error})"


def _upright_on_white(image: Image.Image, resolution: int) -> tuple[Image.Image, Image.Image]:
    """The first frame as a square, RGB on white and its opacity L, that is less than 2 × OVERSAMPLED times as large as asked
    for, or as large as it was."""
    image.load()
    turn = _TURNS.get(image.getexif().get(0x0112))
    image = rgba(image)
    if (factor := max(image.size) // (OVERSAMPLED * resolution)) > 1:
        image = image.reduce(factor)
    if turn is not None:
        image = image.transpose(turn)
    side = max(image.size)
    place = (side - image.width) // 2, (side - image.height) // 2
    canvas, opacity = Image.new("RGBA", (side, side), "white"), Image.new("L", (side, side))
    canvas.alpha_composite(image, place)
    opacity.paste(image.getchannel("A"), place)
    return canvas.convert("RGB"), opacity
