"""The icon data set, built from small packages made here."""

import gzip
import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from llm_gan.models.data import icons

pytest.importorskip("resvg_py", reason="rendering SVG needs resvg-py (pip install resvg-py)")

RED = '<rect x="2" y="8" width="8" height="4" fill="#f00"/>'
GREEN = '<circle cx="8" cy="8" r="6" fill="#0a0"/>'
HALF = '<path d="M0 0H8V16H0z" fill="#00f"/><path d="M8 0H16V16H8z" fill="#ff0"/>'
READS_A_FILE = '<image href="file:///etc/passwd" width="16" height="16"/><rect width="9" height="9"/>'
MESSAGES = {
    "groups": [{"key": "things", "order": 0}, {"key": "component", "order": 1}],
    "subgroups": [{"key": "thing", "order": 0}, {"key": "country-flag", "order": 1}],
}


def entry(code, label, tags=(), subgroup=0, **more):
    return {"hexcode": code, "label": label, "tags": list(tags), "group": 0, "subgroup": subgroup, **more}


ENGLISH = [
    entry("2764-FE0F", "red heart", ["love", "emotion"]),
    entry("1F34F", "Green apple", ["apple", "fruit"]),
    entry("1F436", "dog face", ["dog", "puppy", "pet", "fur", "bark"]),
    entry("1F415", "dog", ["pet", "red heart"]),
    entry("1F1E6", "flag: Andorra", ["AD"], subgroup=1),
    entry("1F468-200D-1F33E", "man farmer"), entry("1F9D1-200D-1F33E", "farmer"),
    {"hexcode": "1F1E7", "label": "regional indicator B"},
]
CHINESE = [entry("2764-FE0F", "红心", ["心", "爱", "情"]), entry("1F34F", "GREEN"), entry("1F436", "狗脸", ["狗"]),
           entry("1F415", "狗")]
NOTO = {"red-heart": RED, "green-apple": GREEN, "dog-face": HALF, "man-farmer": RED, "flag-for-andorra": GREEN}
NOTO_CODES = {"2764": "red-heart", "1f34f": "green-apple", "1f436": "dog-face", "1f1e6": "flag-for-andorra",
              "1f468-200d-1f33e": "man-farmer"}
BLOB = {"red-heart": RED, "dog-face": READS_A_FILE}  # the same heart as noto's; the dog may not be drawn
BLOB_ALIASES = {"green-apple": {"parent": "dog"}, "dog": {"parent": "half", "hFlip": True}}


def tarball(folder, source, members, links=()):
    """An npm package: JSON for what is not bytes, and symbolic links."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / icons.tarball_name(source), "w:gz") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)


def iconify(bodies, aliases=None):
    return {"icons": {name: {"body": body} for name, body in bodies.items()}, "aliases": aliases or {},
            "width": 16, "height": 16}


def style(name):
    return next(style for style in icons.STYLES if style.name == name)


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "npm"
    tarball(folder, icons.NAMES, {"package/en/data.json": ENGLISH, "package/zh/data.json": CHINESE,
                                  "package/en/messages.json": MESSAGES, "package/LICENSE": b"Names: be kind."})
    tarball(folder, style("noto").source, {"package/icons.json": iconify(NOTO), "package/chars.json": NOTO_CODES})
    tarball(folder, style("blob").source, {"package/icons.json": iconify(BLOB | {"half": HALF}, BLOB_ALIASES),
                                           "package/chars.json": []})
    return folder


def build(packages, out, **options):
    return icons.build(packages, out, **{"size": 64, "sets": ("apache",), "workers": 1} | options)


def records(out):
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path):
    """The picture on white, RGB; around the drawing it is clear."""
    image = Image.open(path)
    assert image.mode == "RGBA" and image.getpixel((0, 0))[3] == 0
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return np.asarray(canvas.convert("RGB")).astype(int)


def test_pictures_and_records(packages, tmp_path):
    summary = build(packages, tmp_path / "out")
    found = {record["file_name"]: record for record in records(tmp_path / "out")}
    assert set(found) == {"images/noto/red-heart.png", "images/noto/green-apple.png", "images/noto/dog-face.png",
                          "images/blob/green-apple.png"}
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")} == set(found)
    assert found["images/noto/red-heart.png"] == {
        "file_name": "images/noto/red-heart.png", "concept": "red heart", "style": "noto", "split": "train",
        "captions": {"en": ["red heart", "emotion", "love"], "zh": ["红心", "心", "情"]},
        "style_captions": {"en": ["{caption}, noto style"], "zh": ["{caption}，noto风格"]},
        "license": "Apache-2.0", "source": "@iconify-json/noto@1.2.9"}
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["drawings"] == 4 and summary["concepts"] == 3 and summary["splits"] == {"train": 4}
    assert summary["duplicates"] == 2  # the heart drawn twice, and the mirrored half through two aliases
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_drawing_fills_the_canvas(packages, tmp_path):
    build(packages, tmp_path / "out")
    heart = pixels(tmp_path / "out/images/noto/red-heart.png")
    assert heart.shape == (64, 64, 3)
    rows, columns = np.nonzero((heart != 255).any(2))
    assert abs(np.ptp(columns) + 1 - 0.92 * 64) <= 1 and abs(np.ptp(rows) + 1 - 0.46 * 64) <= 1
    assert abs(columns.min() + columns.max() - 63) <= 1 and abs(rows.min() + rows.max() - 63) <= 1
    assert heart[32, 32].tolist() == [255, 0, 0] and heart[0, 0].tolist() == [255, 255, 255]


def test_alias_is_mirrored(packages, tmp_path):
    build(packages, tmp_path / "out")
    plain = pixels(tmp_path / "out/images/noto/dog-face.png")
    mirrored = pixels(tmp_path / "out/images/blob/green-apple.png")
    assert plain[32, 16].tolist() == [0, 0, 255] and plain[32, 48].tolist() == [255, 255, 0]
    assert mirrored[32, 16].tolist() == [255, 255, 0] and mirrored[32, 48].tolist() == [0, 0, 255]


def test_processes_and_repetition_give_the_same_files(packages, tmp_path):
    build(packages, tmp_path / "one")
    build(packages, tmp_path / "two", workers=2)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*")
                           if path.is_file())
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_webp_set_and_trademarks(packages, tmp_path):
    red = io.BytesIO()
    Image.new("RGBA", (8, 8), "red").save(red, "WEBP", lossless=True)
    blue = io.BytesIO()
    Image.new("RGBA", (8, 8), "blue").save(blue, "WEBP", lossless=True)
    tarball(packages, icons.NAMES, {
        "package/en/data.json": [entry("1F4CE", "paperclip"), entry("2764", "red heart")],
        "package/zh/data.json": [], "package/en/messages.json": MESSAGES})
    tarball(packages, style("3d").source, {"package/assets/2764-fe0f.webp": red.getvalue(),
                                           "package/assets/1f4ce.webp": blue.getvalue()})
    for name in ("gradient", "flat"):
        tarball(packages, style(name).source, {"package/icons.json": iconify({"paperclip": HALF}),
                                               "package/chars.json": {}})
    summary = build(packages, tmp_path / "out", sets=("mit",))
    assert [record["file_name"] for record in records(tmp_path / "out")] == ["images/3d/red-heart.png"]
    assert summary["captions"] == {"en": 1, "zh": 0}
    assert pixels(tmp_path / "out/images/3d/red-heart.png")[32, 32].tolist() == [255, 0, 0]


def test_captions():
    en = icons.captions_of(ENGLISH[:4], 4)
    assert en["1f34f"] == ["green apple", "apple", "fruit"]
    assert en["1f436"] == ["dog face", "dog", "bark", "fur", "puppy"]  # "pet" is shared, and four are enough
    assert en["1f415"] == ["dog", "pet"]  # "red heart" is another concept
    crowd = [entry(f"{number:x}", f"thing {number}", ["vague"]) for number in range(icons.VAGUE)]
    assert icons.captions_of(crowd, 4)["0"] == ["thing 0", "vague"]
    assert icons.captions_of([*crowd, entry("ff", "another", ["vague"])], 4)["0"] == ["thing 0"]


def test_selection():
    names = [chosen["label"] for chosen in icons.select_entries(ENGLISH, MESSAGES)]
    assert names == ["red heart", "Green apple", "dog face", "dog", "farmer"]
    duplicates = {label for label in ("man", "woman: bald", "man dancing", "snowman", "pregnant woman")
                  if icons.is_gender_duplicate({"label": label}, {"person", "person: bald", "pregnant person"})}
    assert duplicates == {"woman: bald", "pregnant woman"}


def test_slugs_differ():
    assert icons.slugify("keycap: #") == "keycap-hash" != icons.slugify("keycap: *")
    assert icons.slugify("Piñata") == "pinata"


def test_splits_depend_on_names_alone():
    names = [f"thing {number}" for number in range(2000)]
    styles = ["noto", "blob", "gradient", "flat", "3d"]
    splits = {name: icons.split_styles(name, styles) for name in names}
    assert splits == {name: icons.split_styles(name, styles[::-1]) for name in reversed(names)}
    held_concepts = [split for split in splits.values() if "test_concept" in split.values()]
    assert all(set(split.values()) == {"test_concept"} for split in held_concepts)
    assert 0.01 < len(held_concepts) / len(names) < 0.03
    pairs = [kind for split in splits.values() for kind in split.values() if kind != "test_concept"]
    assert 0.03 < pairs.count("test_pair") / len(pairs) < 0.05
    for split in splits.values():
        assert "test_pair" not in split.values() or list(split.values()).count("train") >= 2
    assert not any("test_pair" in icons.split_styles(name, styles[:2]).values() for name in names)
    assert all(set(icons.split_styles(name, styles).values()) == {"train"} for name in icons.NEVER_HELD_OUT)


def test_licenses(packages, tmp_path):
    build(packages, tmp_path / "out")
    text = (tmp_path / "out/LICENSES.txt").read_text(encoding="utf-8")
    for part in ("@iconify-json/noto@1.2.9", "@iconify-json/noto-v1@1.2.5", "TERMS AND CONDITIONS FOR USE",
                 "9. Accepting", "Copyright Google Inc.", icons.NAMES, "Names: be kind."):
        assert part in text
    assert "Microsoft" not in text and "Creative Commons" not in text
    text = icons.license_text(icons.STYLES, "Names.")
    for part in ("Copyright (c) Microsoft Corporation.", 'THE SOFTWARE IS PROVIDED "AS IS"', "Mozilla",
                 "https://creativecommons.org/licenses/by/4.0/legalcode"):
        assert part in text


def test_missing_package_names_the_command(packages, tmp_path):
    (packages / icons.tarball_name(style("blob").source)).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 package.*npm pack @iconify-json/noto-v1@1\.2\.5"):
        build(packages, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="npm pack emojibase-data@17.0.0 @iconify-json/noto@1.2.9"):
        build(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_fetched_unasked(packages, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(icons.subprocess, "run", lambda command, **options: calls.append(command))
    monkeypatch.setattr(icons.shutil, "which", lambda name: "npm")
    (packages / icons.tarball_name(style("noto").source)).unlink()
    with pytest.raises(FileNotFoundError):
        build(packages, tmp_path / "out")
    assert calls == []
    with pytest.raises(FileNotFoundError):
        build(packages, tmp_path / "out", fetch=True)
    assert calls == [["npm", "pack", "--loglevel=error", "@iconify-json/noto@1.2.9"]]


@pytest.mark.parametrize("options, message", [
    ({"size": 4}, "size must be 16 to 1024"), ({"sets": ("gpl",)}, "Choose sets"), ({"sets": ()}, "Choose sets")])
def test_bad_arguments(packages, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(packages, tmp_path / "out", **options)


def test_a_full_folder_is_left_alone(packages, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="already holds something"):
        build(packages, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_hostile_members_are_passed_over(packages, tmp_path):
    tarball(packages, style("blob").source,
            {"../../evil.txt": b"evil", str(tmp_path / "evil.txt"): b"evil", "package/icons.json": iconify(BLOB),
             "package/chars.json": {}, "package/assets/../../evil.webp": b"evil"},
            links=[("package/LICENSE", "/etc/passwd")])
    before = {path for path in tmp_path.parent.rglob("*")}
    build(packages, tmp_path / "out")
    created = {path for path in tmp_path.parent.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in created)
    assert not any("evil" in path.name for path in created)


@pytest.mark.parametrize("damage", ["link", "truncated", "no json", "missing", "text"])
def test_broken_packages_get_one_sentence(packages, tmp_path, damage):
    source = style("blob").source
    path = packages / icons.tarball_name(source)
    good = path.read_bytes()
    if damage == "link":
        tarball(packages, source, {"package/chars.json": []}, links=[("package/icons.json", "/etc/passwd")])
    elif damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "no json":
        tarball(packages, source, {"package/icons.json": b"{", "package/chars.json": []})
    elif damage == "missing":
        tarball(packages, source, {"package/chars.json": []})
    else:
        path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=f"{path.name} is not .*: fetch it again") as error:
        build(packages, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def replaced(packages, source, name, content):
    """The package `source` with another `name`, and its path."""
    path = packages / icons.tarball_name(source)
    members = icons.read_members(path, lambda name: True)
    tarball(packages, source, members | {f"package/{name}": content})
    return path


def test_a_code_does_not_lead_out_of_the_folder(packages, tmp_path):
    code = "1F415/../../../../../escaped"
    replaced(packages, icons.NAMES, "en/data.json", [*ENGLISH, entry(code, "dog")])  # of two dogs one is told by its code
    replaced(packages, style("noto").source, "chars.json", NOTO_CODES | {code: "second-dog"})
    replaced(packages, style("noto").source, "icons.json", iconify(NOTO | {"second-dog": RED + GREEN}))
    assert build(packages, tmp_path / "out")["concepts"] == 4
    assert not list(tmp_path.rglob("escaped*"))
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "out/images" / name for name in ("noto", "blob")}


@pytest.mark.parametrize("key, start", [("left", "0 0 16 16"), ("top", "0 16 16"), ("width", "16 16"), ("height", "16")])
def test_a_size_does_not_smuggle_in_a_picture(packages, key, start):
    icon = {"body": "</g>", key: f'{start}"><image href="/etc/picture.png" width="16" height="16"/><g id="'}
    path = replaced(packages, style("noto").source, "icons.json", {"icons": {"red-heart": icon}})
    with pytest.raises(ValueError, match=f"{path.name} is not the expected package .*a size that is no number"):
        icons.load_drawings(path, icons.load_concepts(packages / icons.tarball_name(icons.NAMES)), {})


def test_a_package_is_bounded_as_a_whole(packages, monkeypatch):
    monkeypatch.setattr(icons, "MAX_PACKAGE_BYTES", 2**20)
    source = style("blob").source
    path = packages / icons.tarball_name(source)
    tarball(packages, source, {f"package/assets/{number}.webp": bytes(2**18) for number in range(3)})
    assert len(icons.read_members(path, lambda name: True)) == 3
    tarball(packages, source, {f"package/assets/{number}.webp": bytes(2**18) for number in range(4)})
    with pytest.raises(ValueError, match="unpacks to more than 1,048,576 bytes"):
        icons.read_members(path, lambda name: True)
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:  # a terabyte of which the file holds one block
        info = tarfile.TarInfo("package/assets/0.webp")
        info.size, info.pax_headers = 512, {"GNU.sparse.map": "0,512", "GNU.sparse.size": str(2**40)}
        tar.addfile(info, io.BytesIO(bytes(512)))
    assert icons.read_members(path, lambda name: True) == {}


@pytest.mark.parametrize("damage", ["huge", "cut"])
def test_a_picture_that_cannot_be_drawn_is_passed_over(damage):
    png = io.BytesIO()
    Image.new("1", (8, 8)).save(png, "PNG")
    data = bytearray(png.getvalue())
    if damage == "huge":
        data[16:24] = struct.pack(">II", 40_000, 40_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        data[33:37] = struct.pack(">I", 1)  # of the pixels' chunk, so that the next one begins amid it
    assert icons.render((icons.Drawing(png.getvalue()), 64)) and icons.render((icons.Drawing(bytes(data)), 64)) is None


@pytest.mark.parametrize("source, name, content", [
    (icons.NAMES, "en/messages.json", []), (icons.NAMES, "en/data.json", [1]), (icons.NAMES, "en/data.json", 3),
    (icons.NAMES, "en/data.json", [entry("1F415", 3)]), (icons.NAMES, "en/data.json", [entry(3, "dog")]),
    (icons.NAMES, "zh/data.json", {"a": "b"}), (icons.NAMES, "en/data.json", [entry("1F415", "dog", subgroup=9)]),
    (icons.NAMES, "en/data.json", b"[" * 200_000), (style("noto").source, "chars.json", [3]),
    (style("noto").source, "chars.json", 3), (style("noto").source, "chars.json", {"2764": ["red-heart"]}),
    (style("noto").source, "icons.json", b"[" * 200_000), (style("noto").source, "icons.json", []),
    (style("noto").source, "icons.json", {"icons": ["red-heart"]}), (style("noto").source, "icons.json", {}),
    (style("noto").source, "icons.json", {"icons": {"red-heart": {}}}),
    (style("noto").source, "icons.json", {"icons": {"red-heart": {"body": 3}}}),
    (style("noto").source, "icons.json", {"icons": {}, "aliases": {"red-heart": {}}}),
    (style("noto").source, "icons.json", {"icons": {"a": {"body": RED}},
                                          "aliases": {"red-heart": {"parent": "a", "rotate": "left"}}}),
])
def test_json_of_other_types_gets_one_sentence(packages, tmp_path, source, name, content):
    path = replaced(packages, source, name, content)
    with pytest.raises(ValueError, match=f"{path.name} is not the expected package .*: fetch it again") as error:
        build(packages, tmp_path / "out")
    assert "\n" not in str(error.value) and len(str(error.value)) < 250 and not (tmp_path / "out").exists()


def test_headers_upon_headers_get_one_sentence(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        file.write((header.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 2_000)
    with pytest.raises(ValueError, match="a.tgz is not a readable npm package"):
        icons.read_members(tmp_path / "a.tgz", lambda name: True)
