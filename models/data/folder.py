"""A folder of captioned pictures, read into tensors.

Two layouts: `metadata.jsonl` with one object a line (`file_name`; `captions`: a list, or by language lists of a name and the
keywords behind it; optionally `style`, `style_captions` and `split`, as `llm_gan.models.data.icons` writes them), or a `.txt`
file of captions, one a line, beside each picture.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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


def read_folder(folder: Path) -> list[Example]:
    """The examples of `folder`, sorted by path. Raises FileNotFoundError or ValueError where there is nothing to learn from."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give a folder of pictures with captions.")
    metadata = folder / "metadata.jsonl"
    examples = _from_metadata(metadata) if metadata.exists() else _from_text_files(folder)
    if not examples:
        raise ValueError(
            f"{folder} holds no captioned pictures: put a .txt file of the same name beside each picture, or a metadata.jsonl."
        )
    return sorted(examples, key=lambda example: example.path)


def _from_metadata(metadata: Path) -> list[Example]:
    examples = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            path = (metadata.parent / entry["file_name"]).resolve()
            captions = entry.get("captions") or [entry["text"]]
            by_language = captions if isinstance(captions, dict) else {"": captions}
            templates = entry.get("style_captions", {})
            style = entry.get("style", "")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{metadata}, line {number}: not an object with file_name and captions ({error}).") from None
        if metadata.parent.resolve() not in path.parents:
            raise ValueError(f"{metadata}, line {number}: {entry['file_name']} lies outside the folder.")
        if not path.is_file():
            raise FileNotFoundError(f"{metadata}, line {number}: there is no picture {entry['file_name']}.")
        examples.append(
            Example(
                path,
                tuple(text for texts in by_language.values() for text in (texts[:1] if by_language is captions else texts)),
                tuple(text for texts in by_language.values() for text in texts[1:] if by_language is captions),
                tuple(_styled(by_language, templates)),
                entry.get("concept", ""),
                style,
                entry.get("split", "train"),
                entry.get("license", ""),
            )
        )
    return examples


def _styled(by_language: dict[str, list[str]], templates: dict[str, list[str]]):
    """The name in every language with its style words; keywords go without, for every caption costs encoding time."""
    for language, texts in by_language.items():
        if texts and templates.get(language):
            yield templates[language][0].replace("{caption}", texts[0])


def _from_text_files(folder: Path) -> list[Example]:
    examples = []
    for path in sorted(folder.rglob("*")):
        text = path.with_suffix(".txt")
        if path.suffix.lower() in SUFFIXES and text.exists():
            captions = [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
            if captions:
                examples.append(Example(path.resolve(), tuple(captions)))
    return examples


def read_pictures(examples: list[Example], resolution: int) -> Tensor:
    """uint8 [N,3,R,R]: each picture on white, centred, padded to a square and resized with LANCZOS."""
    pictures = torch.empty(len(examples), 3, resolution, resolution, dtype=torch.uint8)
    for i, example in enumerate(examples):
        with Image.open(example.path) as image:
            image = image.convert("RGBA")
            side = max(image.size)
            canvas = Image.new("RGBA", (side, side), "white")
            canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
            square = canvas.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
        pictures[i] = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return pictures
