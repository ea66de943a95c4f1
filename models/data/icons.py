"""Builds the icon data set: drawings of some 1 400 things in several styles, captioned in English and Chinese.

The drawings come from npm packages of openly licensed emoji artwork, the names and keywords from `emojibase-data`. By
default only MIT and Apache-2.0 artwork is used; the CC-BY-4.0 sets are an option, for they ask for attribution. The
tarballs are those that `npm pack NAME@VERSION` writes; they are read in place and nothing is unpacked from them.

    llm-gan icons --packages DIR --out DIR

`out` receives `images/<style>/<slug>.png`, `metadata.jsonl` (one line a drawing), `LICENSES.txt` and `summary.json`.
"""

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

from PIL import Image, ImageOps

from .sentences import is_chinese


@dataclass(frozen=True)
class Style:
    """One set of drawings: `en` and `zh` are the templates that put the style's name into a caption."""

    name: str
    package: str
    version: str
    set: str
    license: str
    copyright: str
    url: str
    en: str
    zh: str

    @property
    def source(self) -> str:
        return f"{self.package}@{self.version}"


FLUENT_URL, NOTO_URL = "https://github.com/microsoft/fluentui-emoji", "https://github.com/googlefonts/noto-emoji"
STYLES = (
    Style("noto", "@iconify-json/noto", "1.2.9", "apache", "Apache-2.0", "Copyright Google Inc.",
          NOTO_URL, "{caption}, noto style", "{caption}，noto风格"),
    Style("blob", "@iconify-json/noto-v1", "1.2.5", "apache", "Apache-2.0", "Copyright Google Inc.",
          NOTO_URL, "{caption}, blob style", "{caption}，圆团风格"),
    Style("gradient", "@iconify-json/fluent-emoji", "1.2.7", "mit", "MIT", "Copyright (c) Microsoft Corporation.",
          FLUENT_URL, "{caption}, gradient style", "{caption}，渐变风格"),
    Style("flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "mit", "MIT", "Copyright (c) Microsoft Corporation.",
          FLUENT_URL, "{caption}, flat style", "{caption}，扁平风格"),
    Style("3d", "@lobehub/fluent-emoji-3d", "1.1.0", "mit", "MIT",
          "Copyright (c) Microsoft Corporation (artwork). Copyright (c) LobeHub (package).",
          FLUENT_URL, "{caption}, 3d style", "{caption}，3D风格"),
    Style("twemoji", "@iconify-json/twemoji", "1.2.5", "cc-by", "CC-BY-4.0",
          "Copyright Twitter, Inc. and contributors.", "https://github.com/twitter/twemoji",
          "{caption}, twemoji style", "{caption}，推特风格"),
    Style("emojione", "@iconify-json/emojione", "1.2.3", "cc-by", "CC-BY-4.0", "Copyright Ranks.com Inc. (EmojiOne 2).",
          "https://github.com/EmojiTwo/emojitwo", "{caption}, emojione style", "{caption}，emojione风格"),
    Style("fxemoji", "@iconify-json/fxemoji", "1.2.2", "cc-by", "CC-BY-4.0", "Copyright Mozilla Foundation.",
          "https://github.com/mozilla/fxemoji", "{caption}, firefox style", "{caption}，火狐风格"),
)
NAMES = "emojibase-data@17.0.0"

TEST_CONCEPTS, TEST_PAIRS = 0.02, 0.04  # fractions held out
MIN_TRAIN_STYLES = 2  # a held-out (concept, style) pair leaves its concept at least as many styles to train on
NEVER_HELD_OUT = {"red heart", "green apple", "dog face", "pizza", "rocket", "house", "smiling face with sunglasses",
                  "snowman", "cat", "dog", "cat face"}
# Fluent draws these with its maker's own characters and trademarks, or with the flag of a nation.
FLUENT_TRADEMARKS = {"paperclip", "linked paperclips", "technologist", "video game", "crossed flags"}
LEFT_OUT_GROUPS = {"component"}
LEFT_OUT_SUBGROUPS = {"country-flag", "subdivision-flag", "family"}
VAGUE = 12  # a keyword shared by more concepts than this says too little
FILL = 0.92  # share of the canvas that a drawing takes
MAX_PACKAGE_BYTES = 256 * 2**20  # unpacked; the largest package has 99 MB

APACHE_TEXT = Path(__file__).with_name("apache-2.0.txt")
MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


# ---------------------------------------------------------------------------------------------------- packages
def tarball_name(source: str) -> str:
    """The file name that `npm pack` gives `@scope/name@version`: `scope-name-version.tgz`."""
    name, _, version = source.rpartition("@")
    return f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"


def locate_packages(folder: Path, sources: Iterable[str], fetch: bool = False) -> dict[str, Path]:
    """Paths of the tarballs of `sources` in `folder`; those missing are fetched by npm only where `fetch` says so."""
    paths = {source: folder / tarball_name(source) for source in sources}
    missing = [source for source, path in paths.items() if not path.is_file()]
    if missing and fetch:
        if not shutil.which("npm"):
            raise FileNotFoundError("Fetching packages needs npm, which was not found: install Node.js.")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([shutil.which("npm"), "pack", "--loglevel=error", *missing], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)
        missing = [source for source in missing if not paths[source].is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} package(s): run there `npm pack {' '.join(missing)}` "
                                "(or pass --fetch).")
    return paths


def read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the regular files of a tarball whose member names are `wanted`. Nothing is written, so a member's
    path can do no harm; links, devices and files with holes are passed over. ValueError for one damaged or too large."""
    contents = {}
    try:
        with gzip.open(path) as file:
            unpacked = file.read(MAX_PACKAGE_BYTES + 1)
        if len(unpacked) > MAX_PACKAGE_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_PACKAGE_BYTES:,} bytes")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            for member in tar:
                if member.isfile() and not member.issparse() and wanted(member.name):  # a hole of any size takes no bytes
                    contents[member.name] = tar.extractfile(member).read()
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a readable npm package ({error}): fetch it again.") from error
    return contents


@contextmanager
def expected(path: Path) -> Iterator[None]:
    """Turns what the unexpected contents of a package bring about into one ValueError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not the expected package ({error!s:.100}): fetch it again.") from error


def read_json(path: Path, *names: str) -> list:
    """The JSON members `package/<name>` of a tarball, in the order asked for."""
    contents = read_members(path, {f"package/{name}" for name in names}.__contains__)
    with expected(path):
        return [json.loads(contents[f"package/{name}"]) for name in names]


# ---------------------------------------------------------------------------------------------------- concepts
@dataclass(frozen=True)
class Concept:
    name: str
    slug: str
    code: str  # normalised code points, as in "1f436"
    captions: dict[str, list[str]]


def normalise_code(code: str) -> str:
    """Lower case and without variation selectors, which sets write or leave out at will; nothing but digits, for a code
    may become part of a file's name."""
    return "-".join(part for part in re.sub("[^0-9a-f-]", "", code.lower()).split("-") if part != "fe0f")


def slugify(name: str) -> str:
    """`Red heart` → `red-heart`; the two keycaps without a word get one."""
    name = name.replace("#", "hash").replace("*", "asterisk").replace("’", "").replace("'", "")
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")


def is_gender_duplicate(entry: dict, labels: set[str]) -> bool:
    """Whether the thing exists without a gender too: "woman farmer" and "farmer", "man: bald" and "person: bald"."""
    label = entry["label"]
    neutral = re.sub(r"\b(man|woman)\b", "person", label)
    return "gender" in entry or (
        " " in label and neutral != label and (neutral in labels or neutral.removeprefix("person ") in labels))


def select_entries(entries: list[dict], messages: dict) -> list[dict]:
    """The emojibase entries that become concepts: one drawing a thing, no flags of countries, no families."""
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    labels = {entry["label"] for entry in entries}
    return [
        entry for entry in entries
        if "group" in entry  # single letters of flags have none
        and groups[entry["group"]] not in LEFT_OUT_GROUPS
        and subgroups[entry["subgroup"]] not in LEFT_OUT_SUBGROUPS
        and not entry["label"].startswith("family")
        and not entry["label"].endswith(("-thirty", ": facing right"))
        and not is_gender_duplicate(entry, labels)
    ]


def captions_of(entries: list[dict], keywords: int) -> dict[str, list[str]]:
    """For each code, the name and then up to `keywords` keywords.

    A keyword shared by many concepts is too vague, and one that is another concept's name would draw the wrong thing
    unless this one's name begins with it ("dog" for "dog face"). Words of the name come first, then the rarest.
    """
    names = {normalise_code(entry["hexcode"]): entry["label"].lower() for entry in entries}
    tags = {normalise_code(entry["hexcode"]): {tag.lower() for tag in entry.get("tags", ())} for entry in entries}
    shared, taken = Counter(tag for concept in tags.values() for tag in concept), set(names.values())
    captions = {}
    for code, name in names.items():
        good = [tag for tag in tags[code] - {name}
                if shared[tag] <= VAGUE and (tag not in taken or name.startswith(tag))]
        good.sort(key=lambda tag: (tag not in name, shared[tag], tag))
        captions[code] = [name, *good[:keywords]]
    return captions


def load_concepts(path: Path) -> list[Concept]:
    """The concepts and their captions without style, from the `emojibase-data` tarball."""
    english, chinese, messages = read_json(path, "en/data.json", "zh/data.json", "en/messages.json")
    concepts, slugs = [], set()
    with expected(path):
        entries = select_entries(english, messages)
        codes = {normalise_code(entry["hexcode"]) for entry in entries}
        en = captions_of(entries, 4)
        zh = captions_of([entry for entry in chinese
                          if normalise_code(entry["hexcode"]) in codes and is_chinese(entry["label"])], 2)
        for entry in entries:
            code, name = normalise_code(entry["hexcode"]), entry["label"].lower()
            slug = slugify(name) if slugify(name) not in slugs else f"{slugify(name)}-{code}"
            slugs.add(slug)
            concepts.append(Concept(name, slug, code, {"en": en[code], "zh": zh.get(code, [])}))
    return concepts


# ---------------------------------------------------------------------------------------------------- drawings
class Drawing(NamedTuple):
    """SVG text or the bytes of a raster image, and the turn and mirrors that an alias asks for."""

    source: str | bytes
    rotate: int = 0
    h_flip: bool = False
    v_flip: bool = False


def icon_drawing(icons: dict, name: str) -> Drawing | None:
    """The SVG of an iconify icon or alias (https://iconify.design/docs/types/iconify-json.html), None where absent."""
    rotate, h_flip, v_flip = 0, False, False
    for _ in range(8):  # an alias may name an alias
        if name in icons["icons"]:
            break
        alias = icons.get("aliases", {}).get(name)
        if alias is None:
            return None
        rotate, h_flip, v_flip = (rotate + alias.get("rotate", 0), h_flip ^ alias.get("hFlip", False),
                                  v_flip ^ alias.get("vFlip", False))
        name = alias["parent"]
    icon = icons["icons"].get(name)
    if icon is None or re.search(r"href\s*=\s*[\"'](?!#|data:)", icon["body"]):  # a drawing may not read other files
        return None
    box = [icon.get(key, icons.get(key, default)) for key, default in
           (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
    if not all(isinstance(length, (int, float)) for length in box):
        raise TypeError("icons.json has a size that is no number")
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
           f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>')
    return Drawing(svg, rotate % 4, h_flip, v_flip)


def load_drawings(path: Path, concepts: list[Concept], icon_names: dict[str, str]) -> dict[str, Drawing]:
    """Drawings of one package by concept code. `icon_names` maps codes to names for sets that carry no such table."""
    webp = read_members(path, re.compile(r"package/assets/[0-9a-f-]+\.webp").fullmatch)
    if webp:
        by_code = {normalise_code(Path(name).stem): Drawing(data) for name, data in webp.items()}
        return {concept.code: by_code[concept.code] for concept in concepts if concept.code in by_code}
    icons, own_names = read_json(path, "icons.json", "chars.json")
    drawings = {}
    with expected(path):
        icon_names = icon_names | {normalise_code(code): name for code, name in dict(own_names).items()}
        for concept in concepts:
            joined = concept.slug.replace("-", "")  # as fxemoji writes it
            names = filter(None, (icon_names.get(concept.code), concept.slug, joined))
            found = next(filter(None, (icon_drawing(icons, name) for name in names)), None)
            if found:
                drawings[concept.code] = found
    return drawings


def rasterise(drawing: Drawing, size: int) -> Image.Image:
    """The drawing, `size` × `size` RGBA: cropped to what is drawn, which takes `FILL` of the canvas; the rest is clear."""
    if isinstance(drawing.source, str):
        from resvg_py import svg_to_bytes

        side = max(256, 2 * size)
        data = svg_to_bytes(svg_string=drawing.source, width=side, height=side, skip_system_fonts=True)
    else:
        data = drawing.source
    image = Image.open(io.BytesIO(data), formats=("PNG", "WEBP")).convert("RGBA")
    if drawing.rotate:
        image = image.rotate(-90 * drawing.rotate, expand=True)
    image = ImageOps.mirror(image) if drawing.h_flip else image
    image = ImageOps.flip(image) if drawing.v_flip else image
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise ValueError("nothing is drawn")
    image = image.crop(box)
    scale = FILL * size / max(image.size)
    # Premultiplied alpha keeps the colour of transparent pixels out of the edges.
    image = image.convert("RGBa").resize([max(1, round(scale * length)) for length in image.size],
                                         Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def render(job: tuple[Drawing, int]) -> tuple[str, bytes] | None:
    """Digest of the pixels and the PNG of one drawing, or None if it cannot be drawn (the work of one process)."""
    try:
        image = rasterise(*job)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):  # a PNG may be a SyntaxError to Pillow
        return None
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    shown = Image.new("RGBA", image.size, "white")  # of what is clear the colour is arbitrary
    shown.alpha_composite(image)
    return hashlib.sha256(shown.tobytes()).hexdigest(), buffer.getvalue()


def render_all(jobs: list, workers: int) -> Iterable:
    """`render` of every job, in order."""
    if workers <= 1:
        yield from map(render, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(render, jobs, chunksize=16)


# ---------------------------------------------------------------------------------------------------- splits
def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def split_styles(concept: str, styles: Iterable[str]) -> dict[str, str]:
    """Style → "train", "test_concept" or "test_pair" for one concept; a hash of the names decides, never an order."""
    styles = sorted(styles, key=lambda style: fraction(f"pair/{concept}/{style}"))
    if concept in NEVER_HELD_OUT:
        return dict.fromkeys(styles, "train")
    if fraction(f"concept/{concept}") < TEST_CONCEPTS:
        return dict.fromkeys(styles, "test_concept")
    spare = len(styles) - MIN_TRAIN_STYLES
    return {style: "test_pair" if rank < spare and fraction(f"pair/{concept}/{style}") < TEST_PAIRS else "train"
            for rank, style in enumerate(styles)}


# ---------------------------------------------------------------------------------------------------- build
def license_text(styles: Iterable[Style], names_license: str) -> str:
    """Attribution of every package used, followed by the text of every licence named."""
    styles = list(styles)
    lines = ["The pictures were rendered from SVG or WebP drawings of these packages, cropped and put on white:", ""]
    for style in styles:
        lines += [f"{style.name}: {style.source}, {style.license}", f"    {style.copyright}", f"    {style.url}"]
    lines += ["", f"Names and keywords: {NAMES}, MIT", "    Copyright (c) Miles Johnson", "    https://emojibase.dev"]
    sections = [("emojibase-data", names_license)]
    used = {style.license for style in styles}
    if "MIT" in used:
        holders = sorted({style.copyright for style in styles if style.license == "MIT"})
        sections.append(("MIT License", "\n".join(holders) + "\n\n" + MIT_TEXT))
    if "Apache-2.0" in used:
        sections.append(("Apache License 2.0", APACHE_TEXT.read_text(encoding="utf-8")))
    if "CC-BY-4.0" in used:
        sections.append(("Creative Commons Attribution 4.0 International",
                         "https://creativecommons.org/licenses/by/4.0/legalcode"))
    for title, text in sections:
        lines += ["", "=" * 100, title, "=" * 100, text.strip("\n")]
    return "\n".join(lines) + "\n"


def build(folder: Path, out: Path, *, size: int = 128, sets: Iterable[str] = ("mit", "apache"), fetch: bool = False,
          workers: int = 0, progress: Callable[[int, int], None] | None = None) -> dict:
    """Builds the data set from the tarballs in `folder` into `out`, a new or empty folder, and returns its summary.

    Args:
        size: side of the pictures in pixels, 16 to 1024.
        sets: which licences' drawings to use, of "mit", "apache" and "cc-by".
        fetch: let `npm pack` fetch the tarballs that are missing.
        workers: processes that render; 0 takes every core, 1 stays in this process.
        progress: called with (done, total) drawings.

    Raises:
        ValueError: a bad argument or package, or `out` is not empty. FileNotFoundError: a package is missing.
        ModuleNotFoundError: resvg-py is not installed.
    """
    folder, out, sets = Path(folder), Path(out), set(sets)
    styles = [style for style in STYLES if style.set in sets]
    if not styles or sets - {style.set for style in STYLES}:
        raise ValueError(f"Choose sets of mit, apache and cc-by, not {', '.join(sorted(sets)) or 'none'}.")
    if not 16 <= size <= 1024:
        raise ValueError(f"The size must be 16 to 1024 pixels, not {size}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already holds something: name a new or empty folder.")
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise ModuleNotFoundError("Rendering SVG needs resvg-py: run `pip install resvg-py`.") from None
    packages = locate_packages(folder, [NAMES, *(style.source for style in styles)], fetch)

    concepts = load_concepts(packages[NAMES])
    by_code = {concept.code: concept for concept in concepts}
    icon_names = {}  # noto's and fluent's names, for the sets that carry no table of codes
    drawings = {}
    for style in styles:
        if "@iconify-json" in style.package:
            (table,) = read_json(packages[style.source], "chars.json")
            with expected(packages[style.source]):
                icon_names = {normalise_code(code): name for code, name in dict(table).items()} | icon_names
    for style in styles:
        for code, drawing in load_drawings(packages[style.source], concepts, icon_names).items():
            if not ("fluent" in style.package and by_code[code].name in FLUENT_TRADEMARKS):
                drawings[style, code] = drawing
    # Of two equal drawings the first is kept: Fluent's grinning cat is its cat face.
    drawings = dict(sorted(drawings.items(), key=lambda item: by_code[item[0][1]].name not in NEVER_HELD_OUT))

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:  # all of it or nothing
        building = Path(temporary) / "data"
        kept, seen, skipped = {}, set(), Counter()
        rendered = render_all([(drawing, size) for drawing in drawings.values()], workers or os.cpu_count() or 1)
        for done, ((style, code), result) in enumerate(zip(drawings, rendered), 1):
            if progress:
                progress(done, len(drawings))
            if result is None or result[0] in seen:
                skipped["unreadable" if result is None else "duplicate"] += 1
                continue
            seen.add(result[0])
            file = building / "images" / style.name / f"{by_code[code].slug}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(result[1])
            kept.setdefault(code, []).append(style)
        if not kept:
            raise ValueError(f"The packages in {folder} hold no drawing of a known concept: fetch them again.")
        summary = write_records(building, [(by_code[code], used) for code, used in kept.items()])
        summary |= {"size": size, "duplicates": skipped["duplicate"], "unreadable": skipped["unreadable"]}
        (building / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (names_license,) = read_members(packages[NAMES], "package/LICENSE".__eq__).values() or (MIT_TEXT.encode(),)
        (building / "LICENSES.txt").write_text(license_text(styles, names_license.decode()), encoding="utf-8")
        if out.exists():
            out.rmdir()
        building.rename(out)
    return summary


def write_records(folder: Path, kept: list[tuple[Concept, list[Style]]]) -> dict:
    """Writes `metadata.jsonl` for the drawings kept and returns the counts."""
    splits, per_style = Counter(), {}
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as lines:
        for concept, styles in sorted(kept, key=lambda item: item[0].name):
            split = split_styles(concept.name, [style.name for style in styles])
            for style in styles:
                record = {
                    "file_name": f"images/{style.name}/{concept.slug}.png", "concept": concept.name,
                    "style": style.name, "split": split[style.name], "captions": concept.captions,
                    "style_captions": {"en": [style.en], "zh": [style.zh]},
                    "license": style.license, "source": style.source,
                }
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                splits[record["split"]] += 1
                per_style.setdefault(style.name, Counter())[record["split"]] += 1
    captions = {language: {caption for concept, _ in kept for caption in concept.captions[language]}
                for language in ("en", "zh")}
    return {
        "concepts": len(kept), "drawings": splits.total(), "splits": dict(splits),
        "styles": {name: dict(counter) for name, counter in per_style.items()},
        "captions": {language: len(strings) for language, strings in captions.items()},
    }
