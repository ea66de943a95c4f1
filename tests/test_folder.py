"""Reading a training folder: its layouts, what is skipped and why, and the cache of pictures."""

import json
import os
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from llm_gan.models.data import folder as module
from llm_gan.models.data.folder import Example, read_folder, read_pictures

COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan", "black", "gray")


def picture(path, colour="red", size=(24, 24), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def reasons(skipped, root):
    return {str(path.relative_to(root.resolve())): reason for path, reason in skipped}


@pytest.fixture
def examples(tmp_path):
    return [Example(picture(tmp_path / "data" / f"{i}.png", colour), (colour,)) for i, colour in enumerate(COLOURS)]


@pytest.fixture
def decoded(monkeypatch):
    """The names of the pictures that were opened."""
    opened, read = [], module._read

    def watched(path, resolution):
        opened.append(path.name)
        return read(path, resolution)

    monkeypatch.setattr(module, "_read", watched)
    return opened


# Layouts


def test_text_files_beside_pictures(tmp_path):
    picture(tmp_path / "deep" / "a.png", "black", (20, 40))
    (tmp_path / "deep" / "a.txt").write_text("\ufeffa black bar\n\n 一根黑条\n", encoding="utf-8")
    picture(tmp_path / "windows.png", "white")
    (tmp_path / "windows.txt").write_text("a white square\n白方块\n", encoding="utf-16")
    picture(tmp_path / "uncaptioned.png")
    picture(tmp_path / "empty.JPG", format="JPEG")
    (tmp_path / "empty.txt").write_text("\n")
    picture(tmp_path / "latin.png")
    (tmp_path / "latin.txt").write_bytes("une pêche".encode("latin-1"))
    picture(tmp_path / ".hidden" / "b.png")
    (example, windows), skipped = read_folder(tmp_path)
    assert example.captions == ("a black bar", "一根黑条") and windows.captions == ("a white square", "白方块")
    found = reasons(skipped, tmp_path)
    assert found.keys() == {"uncaptioned.png", "empty.JPG", "latin.png"}
    assert found["uncaptioned.png"] == found["empty.JPG"] == "has no caption in a .txt beside it"
    assert found["latin.png"].endswith("save them in UTF-8")
    pixels = read_pictures([example], 40).pixels
    assert pixels.shape == (1, 3, 40, 40) and pixels.dtype == torch.uint8
    assert pixels[0, :, 20, 0].tolist() == [255] * 3 and pixels[0, :, 20, 20].tolist() == [0] * 3


def test_metadata(tmp_path):
    for name in "abcdef":
        picture(tmp_path / f"{name}.png")
    lines = [
        {"file_name": "b.png", "text": "a square"},
        {
            "file_name": "a.png",
            "captions": {"en": ["red square", "edge"], "zh": ["红方块"], "fr": []},
            "style_captions": {"en": ["{caption}, flat style"], "fr": ["{caption}, plat"]},
            "concept": "red square", "style": "flat", "split": "test", "license": "MIT",
        },
        {"file_name": "c.png", "captions": ["one", "two"], "style": None},
        {"file_name": "c.png", "captions": "three"},
        {"file_name": "d.png", "captions": []},
        {"file_name": "e.png", "captions": [3]},
        {"file_name": "../a.png", "captions": ["x"]},
        {"file_name": "z.png", "captions": ["x"]},
        {"captions": ["x"]},
        ["a.png", "x"],
        {"file_name": "f.png", "captions": ["x"], "style": 3},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)).encode() + b"\n{\n\xff\n" + b"[" * 100_000
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + text)
    found, skipped = read_folder(tmp_path)
    root = tmp_path.resolve()
    assert found == [
        Example(root / "a.png", ("red square", "红方块"), ("edge",), ("red square, flat style",), "red square", "flat", "test",
                "MIT"),
        Example(root / "b.png", ("a square",)),
        Example(root / "c.png", ("one", "two", "three")),
    ]  # fmt: skip
    ours = [reason for path, reason in skipped if path.name == "metadata.jsonl"]
    expected = [
        ("line 6", "list of texts"), ("line 7", "outside the folder"), ("line 8", "no picture z.png"), ("line 9", "not an object"),
        ("line 10", "not an object"), ("line 11", "style should be text"), ("line 12", "not JSON"), ("line 13", ""), ("line 14", ""),
    ]  # fmt: skip
    assert len(ours) == len(expected)
    assert all(reason.startswith(line + ":") and why in reason for reason, (line, why) in zip(ours, expected))
    missing = "has no caption in metadata.jsonl"
    assert {path.name for path, reason in skipped if reason == missing} == {"d.png", "e.png", "f.png"}


@pytest.mark.parametrize("encoding, mark", [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8", "\t"), ("utf-16", "\t")])
def test_table(tmp_path, encoding, mark):
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
    rows = [
        ("File_Name", "caption", "text_zh", "style", "split", "remark"),
        ("images/b.png", "a square", "方块", "flat", "", "mine"),
        ("images/a.png", '"red, green; or\nblue"', "", "", "test", ""),
        ("images/b.png", "another", "", "", "", ""),
        ("images/missing.png", "x", "", "", "", ""),
        ("images/c.png",),
    ]
    (tmp_path / "captions.csv").write_bytes("\r\n".join(map(mark.join, rows)).encode(encoding))
    found, skipped = read_folder(tmp_path)
    images = tmp_path.resolve() / "images"
    assert found == [
        Example(images / "a.png", ("red, green; or\nblue",), split="test"),
        Example(images / "b.png", ("a square", "方块", "another"), style="flat"),
    ]
    assert reasons(skipped, tmp_path) == {
        "captions.csv": "line 6: there is no picture images/missing.png",
        os.path.join("images", "c.png"): "has no caption in captions.csv",
    }


def test_class_folders(tmp_path):
    picture(tmp_path / "red_apple" / "1.png")
    picture(tmp_path / "fruit" / "green pear" / "2.webp")
    picture(tmp_path / "stray.png")
    (tmp_path / "README.txt").write_text("A folder of fruit.")
    found, skipped = read_folder(tmp_path)
    assert [(e.path.name, e.captions, e.concept) for e in found] == [
        ("2.webp", ("green pear",), "green pear"),
        ("1.png", ("red apple",), "red apple"),
    ]
    assert reasons(skipped, tmp_path) == {"stray.png": "has no caption"}


def test_the_first_layout_wins(tmp_path):
    picture(tmp_path / "class" / "a.png")
    layouts = [("class/a.txt", "text"), ("captions.csv", "file_name,caption\nclass/a.png,table"),
               ("metadata.jsonl", '{"file_name": "class/a.png", "text": "metadata"}')]  # fmt: skip
    captions = [read_folder(tmp_path)[0][0].captions]
    for name, text in layouts:
        (tmp_path / name).write_text(text)
        captions.append(read_folder(tmp_path)[0][0].captions)
    assert captions == [("class",), ("text",), ("table",), ("metadata",)]


@pytest.mark.parametrize("name, text", [
    ("metadata.jsonl", '{"file_name": "a.png", "text": "apple"}'), ("captions.csv", "file_name,caption\na.png,apple\n"),
])  # fmt: skip
def test_captions_beside_a_file_that_lists_them_are_ignored_and_it_is_said(tmp_path, name, text):
    for letter in "abc":
        picture(tmp_path / f"{letter}.png")
    (tmp_path / name).write_text(text)
    for letter in "ab":
        (tmp_path / f"{letter}.txt").write_text("pear")
    (example,), skipped = read_folder(tmp_path)
    assert example.captions == ("apple",)
    assert reasons(skipped, tmp_path) == {
        "b.png": f"has no caption in {name}, which is used instead of the .txt beside it", "c.png": f"has no caption in {name}",
    }  # fmt: skip


@pytest.mark.parametrize("uncaptioned", [False, True])
def test_pictures_in_other_formats_are_reported(tmp_path, uncaptioned):
    picture(tmp_path / "a.png"), picture(tmp_path / "b.jfif", format="JPEG")
    for name in ("a.svg", "c.svg", "d.AVIF", "e.heic", ".f.avif", "notes.doc"):  # the first is what a.png was made from
        (tmp_path / name).write_text("x")
    for letter in "abcd":
        (tmp_path / f"{letter}.txt").write_text(f"apple {letter}")
    found, skipped = read_folder(tmp_path, uncaptioned)
    assert [example.captions for example in read_pictures(found, 16).examples] == [("apple a",), ("apple b",)]
    assert reasons(skipped, tmp_path) == {
        name: f"is in a format that is not read ({suffix}): save it as PNG or JPEG"
        for name, suffix in (("c.svg", ".svg"), ("d.AVIF", ".AVIF"), ("e.heic", ".heic"))
    }


BAD_FOLDERS = {
    "missing": (None, "", "no folder"),
    "empty": ("metadata.jsonl", "", "no captioned pictures"),
    "not JSON": ("metadata.jsonl", "{", "1 skipped: metadata.jsonl: line 1"),
    "no file_name": ("metadata.jsonl", '{"captions": ["x"]}', "line 1"),
    "outside": ("metadata.jsonl", '{"file_name": "../a.png", "captions": ["x"]}', "outside the folder"),
    "no such picture": ("metadata.jsonl", '{"file_name": "b.png", "captions": ["x"]}', "no picture b.png"),
    "many": ("metadata.jsonl", "{\n" * 5, "5 skipped: .*line 1.*line 2.*line 3.*…"),
    "no columns": ("captions.csv", "a.png,a cat\n", "file_name and caption"),
    "no text": ("captions.csv", "", "file_name and caption"),
    "not UTF-8": ("captions.csv", "file_name,caption\na.png,p\udceache", "save it as CSV in UTF-8"),
    "an empty table": ("captions.csv", "file_name,caption\n", "no captioned pictures"),
    "not CSV": ("captions.csv", "file_name,caption\na.png," + "x" * 200_000, "line 2: not CSV"),
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_bad_folders_say_so(tmp_path, kind):
    name, text, message = BAD_FOLDERS[kind]
    folder = tmp_path / "data"
    if name:
        folder.mkdir()
        (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_folder(folder)
    assert "\n" not in str(error.value)


def test_a_caption_that_a_delimiter_would_cut_is_reported(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text("file_name,caption\na.png,a red, round apple\nb.png,a pear,,\n\nc.png,a fig, \n")
    found, skipped = read_folder(tmp_path)
    assert [example.captions for example in found] == [("a pear",)]
    told = [reason for path, reason in skipped if path.name == "captions.csv"]
    assert [reason.partition(":")[0] for reason in told] == ["line 2", "line 5"] and "in quotes" in told[0]


def test_two_columns_of_one_name_are_two_captions(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file_name,caption,caption\na.png,an apple,ein Apfel\n")
    assert read_folder(tmp_path)[0][0].captions == ("an apple", "ein Apfel")


def test_style_captions_need_captions_by_language(tmp_path):
    picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    said = {"style_captions": {"en": ["{caption}, flat style"]}}
    entries = [{"file_name": "a.png", "captions": ["apple"]} | said, {"file_name": "b.png", "captions": {"en": ["pear"]}} | said]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (example,), skipped = read_folder(tmp_path)
    assert example.styled == ("pear, flat style",)
    assert reasons(skipped, tmp_path)["metadata.jsonl"] == "line 1: style_captions need captions by language"


def test_names_that_are_no_text_are_reported(tmp_path):
    picture(tmp_path / "pear" / "a.png")
    try:
        odd = picture(tmp_path / os.fsdecode(b"\xb9\xfb") / "b.png")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    found, skipped = read_folder(tmp_path)
    assert [example.captions for example in found] == [("pear",)]
    assert skipped == [(odd.resolve(), "the name of its folder cannot be read as UTF-8: give it another")]


def test_captions_of_files_in_capitals(tmp_path):
    picture(tmp_path / "a.png"), picture(tmp_path / "b.PNG", format="PNG")
    (tmp_path / "a.TXT").write_text("apple")
    (tmp_path / "b.txt").write_text("pear")
    assert [example.captions for example in read_folder(tmp_path)[0]] == [("apple",), ("pear",)]


@pytest.mark.parametrize("name, fits", [
    ("link.png", True), ("sub/../link.png", True), ("./link.png", True),
    ("../away/a.png", False), ("sub/../../away/a.png", False), ("{away}/a.png", False),
])  # fmt: skip
def test_a_link_in_the_folder_is_followed_and_a_way_out_is_not(tmp_path, name, fits):
    away, home = picture(tmp_path / "away" / "a.png").parent, tmp_path / "home"
    home.mkdir()
    (home / "link.png").symlink_to(away / "a.png")
    picture(home / "b.png")
    entries = [{"file_name": name.format(away=away), "text": "apple"}, {"file_name": "b.png", "text": "pear"}]
    (home / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    found, skipped = read_folder(home)
    assert [example.path.name for example in found] == (["b.png", "link.png"] if fits else ["b.png"])
    assert any("outside the folder" in reason for _, reason in skipped) != fits


def test_pictures_without_captions_on_request(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no pictures: give"):
        read_folder(tmp_path / "none", uncaptioned=True)
    for name in "abc":
        picture(tmp_path / "data" / f"{name}.png")
    assert len(read_folder(tmp_path / "data", uncaptioned=True)[0]) == 3
    entries = [{"file_name": "b.png", "split": "test"}, {"file_name": "c.png", "text": "pear"}]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    found, skipped = read_folder(tmp_path / "data", uncaptioned=True)
    assert [(example.captions, example.split) for example in found] == [((), "train"), ((), "test"), (("pear",), "train")]
    assert not skipped


# Pictures


def bomb(path):
    """A PNG of a few bytes that says it is 30 000 px wide and high."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def test_unusable_pictures_are_reported(tmp_path):
    picture(tmp_path / "good.png", "blue")
    for name, size in (("bomb.png", None), ("large.png", (8200, 8200)), ("tiny.png", (15, 40)), ("smallest.png", (16, 40))):
        bomb(tmp_path / name) if size is None else picture(tmp_path / name, 0, size, "1")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100)
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "vector.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    Image.effect_noise((300, 300), 90).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "float.tif")
    names = ["bomb.png", "broken.png", "float.tif", "gone.png", "good.png", "large.png", "smallest.png", "text.jpg", "tiny.png",
             "truncated.jpg", "vector.png"]  # fmt: skip
    pictures = read_pictures([Example(tmp_path / name, (name,)) for name in names], 16)
    assert [example.path.name for example in pictures.examples] == ["good.png", "smallest.png"]
    assert pictures.pixels[0, :, 8, 8].tolist() == [0, 0, 255] and pictures.pixels[1, 0, 8].tolist()[::7] == [255, 0, 255]
    found = reasons(pictures.skipped, tmp_path)
    assert found.keys() == set(names) - {"good.png", "smallest.png"}
    expected = {"bomb.png": "megapixels", "large.png": "64 megapixels", "tiny.png": "15 × 40", "text.jpg": "format", "gone.png": "be found",
                "vector.png": "format", "truncated.jpg": "truncated", "float.tif": "floating-point"}  # fmt: skip
    assert all(why in found[name] for name, why in expected.items())
    with pytest.raises(ValueError, match="None of the 2 .*2 skipped: bomb.png.*broken.png"):
        read_pictures([Example(tmp_path / name, (name,)) for name in names[:2]], 16, tmp_path / "cache")


def test_kinds_of_pixels(tmp_path):
    half = Image.new("L", (20, 20), 100)
    ramp = (np.arange(400).reshape(20, 20) * 160).astype(np.uint16)
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 10, 20))
    palette = clear.quantize(4)
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("lime", "red")]
    saved = {
        "gray.png": half, "gray-alpha.png": half.convert("LA"), "deep.png": Image.fromarray(ramp), "deep.tif": Image.fromarray(ramp),
        "cmyk.jpg": Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "palette.png": palette, "clear.png": clear,
        "clear.webp": clear, "bits.png": Image.new("1", (20, 20), 1),
    }  # fmt: skip
    for name, image in saved.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    for name in ("frames.gif", "frames.webp", "frames.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)

    def read(name):
        return read_pictures([Example(tmp_path / name, (name,))], 20).pixels[0].permute(1, 2, 0).numpy().astype(int)

    assert (read("gray.png") == 100).all() and (read("gray-alpha.png") == 100).all() and (read("bits.png") == 255).all()
    for name in ("deep.png", "deep.tif"):
        assert (read(name) == (ramp >> 8)[:, :, None]).all()
    assert abs(read("cmyk.jpg") - (255, 0, 0)).max() < 8
    for name in ("palette.png", "clear.png", "clear.webp"):
        assert (read(name)[:, :10] == (0, 0, 255)).all() and (read(name)[:, 10:] == 255).all()
    for name in ("frames.gif", "frames.webp", "frames.png"):
        assert abs(read(name) - (0, 255, 0)).max() < 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, suffix, orientation):
    upright = np.full((48, 32, 3), 255, np.uint8)
    upright[:16, :16] = (255, 0, 0)  # a red corner at the top left, and blue below
    upright[32:] = (0, 0, 255)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 100} if suffix in ("jpg", "webp") else {}
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif, **options)
    pixels = read_pictures([Example(path, ("a",))], 48).pixels[0].permute(1, 2, 0).numpy().astype(int)
    assert abs(pixels[8, 16] - (255, 0, 0)).max() < 40 and abs(pixels[40, 16] - (0, 0, 255)).max() < 40
    assert abs(pixels[8, 32] - 255).max() < 40 and (pixels[:, :6] == 255).all()


def test_large_pictures_are_averaged_down(tmp_path):
    x, y = np.meshgrid(np.arange(1024), np.arange(640))
    image = Image.fromarray(np.stack([x // 4, y // 3, (x + y) // 8], 2).astype(np.uint8))
    expected = Image.new("RGB", (1024, 1024), "white")
    expected.paste(image, (0, 192))
    expected = np.asarray(expected.resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    for name, options in (("a.png", {}), ("a.jpg", {"quality": 100}), ("b.jpg", {"quality": 100, "progressive": True})):
        image.save(tmp_path / name, **options)
        pixels = read_pictures([Example(tmp_path / name, ("a",))], 32).pixels[0].permute(1, 2, 0).numpy()
        assert abs(pixels - expected).mean() < 1.5
    image.save(tmp_path / "c.png")
    exact = read_pictures([Example(tmp_path / "c.png", ("a",))], 128).pixels[0].permute(1, 2, 0).numpy()
    canvas = Image.new("RGB", (1024, 1024), "white")
    canvas.paste(image, (0, 192))
    assert (exact == np.asarray(canvas.resize((128, 128), Image.Resampling.LANCZOS))).all()


def test_duplicates_lend_their_captions(tmp_path, decoded):
    a, b = picture(tmp_path / "a.png", "red"), picture(tmp_path / "b.png", "red")
    c = picture(tmp_path / "c.webp", (255, 0, 0, 255), mode="RGBA", lossless=True)
    d, e = picture(tmp_path / "d.png", "red"), picture(tmp_path / "e.png", "red", (25, 25))
    examples = [
        Example(a, ("red",), ("colour",), concept="red"), Example(b, ("red",)), Example(c, ("rot", "red"), styled=("flat red",)),
        Example(d, ("held out",), split="test"), Example(e, ("larger",)),
    ]  # fmt: skip
    expected = [Example(a, ("red", "rot"), ("colour",), ("flat red",), "red"), Example(e, ("larger",))]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        pictures = read_pictures(examples, 16, cache)
        assert pictures.examples == expected and len(pictures.pixels) == 2
        assert reasons(pictures.skipped, tmp_path) == dict.fromkeys(("b.png", "c.webp", "d.png"), "looks the same as a.png")
    assert len(decoded) == 2 * len(examples)


def test_the_first_pictures_are_opened_until_there_are_enough(tmp_path, decoded):
    examples = []
    for number in range(12):
        path = picture(tmp_path / f"{number:02}.png", (20 * number, 0, 0), (40, 24))
        if number in (0, 1, 4):
            path.write_bytes(path.read_bytes()[:60])
        examples.append(Example(path, (f"caption {number}",)))
    picture(examples[3].path, (40, 0, 0), (40, 24))  # as the one before
    first = module.read_first(examples, 4, 16)
    assert [example.path.name for example in first.examples] == ["02.png", "05.png", "06.png", "07.png"]
    assert first.examples[0].captions == ("caption 2", "caption 3")
    assert [path.name for path, _ in first.skipped] == ["00.png", "01.png", "03.png", "04.png"]
    whole = read_pictures(examples, 16)
    assert torch.equal(first.pixels, whole.pixels[:4]) and torch.equal(first.opacity, whole.opacity[:4])
    assert module.read_first(examples, 99, 16)[1:3] == whole[1:3]
    with pytest.raises(ValueError, match="None of the 2 pictures can be used .2 skipped: 00.png"):
        module.read_first(examples[:2], 4, 16)


# The cache


def test_the_cache_is_the_direct_reading(examples, tmp_path, decoded):
    direct = read_pictures(examples, 16)
    told = []
    first = read_pictures(examples, 16, tmp_path / "cache", lambda *done: told.append(done))
    assert sorted(decoded) == sorted(2 * [e.path.name for e in examples]) and told == [(i, 8) for i in range(1, 9)]
    decoded.clear()
    second = read_pictures(examples, 16, tmp_path / "cache")
    assert decoded == [] and [file.name for file in (tmp_path / "cache").iterdir()] == ["pictures-16.bin"]
    assert torch.equal(direct.pixels, first.pixels) and torch.equal(direct.pixels, second.pixels)
    assert direct.examples == first.examples == second.examples == examples
    second.pixels[:] = 0  # stays off the disk
    assert torch.equal(read_pictures(examples, 16, tmp_path / "cache").pixels, direct.pixels)
    assert len(read_pictures(examples[3:5], 32, tmp_path / "cache").pixels) == 2 and len(decoded) == 2


@pytest.mark.filterwarnings("error")
def test_order_is_that_of_the_examples(examples, tmp_path, decoded):
    read_pictures(examples, 16, tmp_path)
    decoded.clear()
    mixed = [examples[i] for i in (5, 2, 7, 0)]
    pictures = read_pictures(mixed, 16, tmp_path)
    assert decoded == [] and pictures.examples == mixed
    assert torch.equal(pictures.pixels, read_pictures(mixed, 16).pixels)


def test_only_what_changed_is_read_again(examples, tmp_path, decoded):
    old = read_pictures(examples, 16, tmp_path / "cache").pixels
    before = old.clone()
    decoded.clear()
    picture(examples[2].path, "white")
    os.utime(examples[2].path, ns=(1, 1))
    picture(examples[5].path, "brown", (40, 40))
    examples[6].path.unlink()
    added = Example(picture(tmp_path / "data" / "0b.png", "pink"), ("pink",))
    now = [examples[0], added, *examples[1:]]
    pictures = read_pictures(now, 16, tmp_path / "cache")
    assert sorted(decoded) == ["0b.png", "2.png", "5.png"]
    assert reasons(pictures.skipped, tmp_path).keys() == {os.path.join("data", "6.png")}
    assert pictures.pixels[:, 0, 8, 8].tolist() == [255, 255, 0, 255, 255, 255, 165, 128]
    assert torch.equal(pictures.pixels, read_pictures([e for e in now if e.path.exists()], 16).pixels)
    assert torch.equal(old, before)  # a tensor in use stays what it was
    decoded.clear()
    again = read_pictures(now, 16, tmp_path / "cache")
    assert decoded == [] and torch.equal(again.pixels, pictures.pixels)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["pictures-16.bin"]


class Stop(Exception):
    pass


def stop_at(number):
    def progress(done, total):
        if done == number:
            raise Stop

    return progress


def test_an_interrupted_reading_goes_on(examples, tmp_path, decoded):
    cache = tmp_path / "cache"
    with pytest.raises(Stop):
        read_pictures(examples, 16, cache, stop_at(3))
    (part,) = cache.iterdir()
    with part.open("ab") as file:
        file.write(b"half a record")  # as a process that is killed may leave it
    decoded.clear()
    with pytest.raises(Stop):
        read_pictures(examples, 16, cache, stop_at(5))
    told = []
    decoded.clear()
    pictures = read_pictures(examples, 16, cache, lambda *done: told.append(done))
    assert sorted(decoded) == ["5.png", "6.png", "7.png"] and told == [(6, 8), (7, 8), (8, 8)]
    assert torch.equal(pictures.pixels, read_pictures(examples, 16).pixels)
    assert len(list(cache.glob("*.part"))) == 2  # which others may be writing, for all one knows,
    for part in cache.glob("*.part"):
        os.utime(part, (0, 0))
    read_pictures(examples, 16, cache)
    assert [file.name for file in cache.iterdir()] == ["pictures-16.bin"]  # until they have not for a while


@pytest.mark.parametrize("size", [0, 10, 2500, -1])
def test_a_truncated_cache_recovers(examples, tmp_path, decoded, size):
    expected = read_pictures(examples, 16, tmp_path / "cache").pixels.clone()
    file = tmp_path / "cache" / "pictures-16.bin"
    whole, record = file.stat().st_size, 32 + 4 * 16 * 16
    assert whole == 8 * record
    os.truncate(file, size % whole)
    decoded.clear()
    assert torch.equal(read_pictures(examples, 16, tmp_path / "cache").pixels, expected)
    assert len(decoded) == 8 - size % whole // record and file.stat().st_size == whole


def test_two_processes_may_race(examples, tmp_path, monkeypatch):
    """The other call begins while this one is at work, with other examples, and ends before it, or its file is taken away."""
    others, taken = examples[4:], []

    def other(done, total):
        if done == 3:
            assert len(read_pictures(others, 16, tmp_path / "cache").pixels) == 4
        if done == 6 and not taken:
            taken.append(done)
            for part in (tmp_path / "cache").glob("*.part"):
                part.unlink()

    expected = read_pictures(examples, 16).pixels
    assert torch.equal(read_pictures(examples, 16, tmp_path / "cache", other).pixels, expected)

    settle, late = module._settle, [others]

    def overtaken(*arguments):
        path = settle(*arguments)
        if late:
            read_pictures(late.pop(), 16, tmp_path / "cache")
        return path

    monkeypatch.setattr(module, "_settle", overtaken)
    assert torch.equal(read_pictures(examples, 16, tmp_path / "cache").pixels, expected) and not late


def test_no_private_mapping_granted(examples, tmp_path, monkeypatch):
    """As where the file is larger than memory."""
    mapping = np.memmap

    def refusing(path, record, mode, **options):
        if mode == "c":
            raise OSError("Cannot allocate memory")
        return mapping(path, record, mode, **options)

    monkeypatch.setattr(module.np, "memmap", refusing)
    assert torch.equal(read_pictures(examples, 16, tmp_path).pixels, read_pictures(examples, 16).pixels)


def test_many_pictures_do_not_pile_up(tmp_path, monkeypatch):
    """However many pictures, few are decoded and not yet written: the threads wait for the disk."""
    path = picture(tmp_path / "a.png")
    ahead, most = 0, 0
    read = module._read

    def counted(path, resolution):
        nonlocal ahead, most
        ahead += 1
        most = max(most, ahead)
        return read(path, resolution)

    def progress(done, total):
        nonlocal ahead
        ahead -= 1
        if done == 1:
            time.sleep(0.2)

    monkeypatch.setattr(module, "_read", counted)
    examples = [Example(path, (str(i),)) for i in range(500)]
    (example,) = read_pictures(examples, 16, tmp_path / "cache", progress).examples
    assert len(example.captions) == 500 and most <= 8 * min(module.MAX_WORKERS, os.cpu_count())
    written = (tmp_path / "cache" / "pictures-16.bin").stat().st_mtime_ns
    read_pictures(examples, 16, tmp_path / "cache")
    assert (tmp_path / "cache" / "pictures-16.bin").stat().st_mtime_ns == written
