"""The command line, run as a user runs it but in this process."""

import os
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageFilter, ImageStat

from llm_gan.models import cli
from llm_gan.models.checkpoint import DEFAULT_GAN, save_gan
from llm_gan.models.cli import main
from llm_gan.models.gan import MOST_PSI
from llm_gan.models.pictures import read_picture

from test_gan import small_gan

needs_default = pytest.mark.skipif(not DEFAULT_GAN.exists(), reason="the default checkpoint is not here")


@needs_default
def test_generate_then_score(tmp_path, capsys):
    out = tmp_path / "pictures"
    command = ["generate", "a red heart", "狗脸", "-n", "2", "--seed", "5", "--out", str(out)]
    assert main(command) == 0
    files = sorted(out.glob("0*.png"))
    assert [f.name for f in files] == [
        "000-a-red-heart-5-00.png", "000-a-red-heart-5-01.png", "001-狗脸-5-00.png", "001-狗脸-5-01.png",
    ]  # fmt: skip
    with Image.open(files[2]) as picture:
        assert picture.size == (128, 128)
        assert (picture.info["prompt"], picture.info["seed"], picture.info["index"]) == ("狗脸", "5", "0")
        assert len(picture.getcolors(1 << 16)) > 50  # something is drawn
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (256, 256)
    stages = capsys.readouterr().out
    assert "load the language model: " in stages and "draw 4 pictures: " in stages

    before = {f: f.read_bytes() for f in out.iterdir()}
    assert main(command) == 0
    assert {f: f.read_bytes() for f in out.iterdir()} == before
    assert main([*command, "--truncation", "0.5"]) == 0 and "sheet-2.png" in capsys.readouterr().out
    assert all(f.read_bytes() == content for f, content in before.items()) and (out / "000-a-red-heart-5-00-2.png").exists()

    capsys.readouterr()
    assert main(["score", *map(str, files)]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    totals = [float(row.split()[0]) for row in rows]
    assert len(rows) == 4 and totals == sorted(totals, reverse=True)


@needs_default
def test_a_list_of_prompts_is_drawn_part_by_part(tmp_path, monkeypatch, capsys):
    (tmp_path / "list.txt").write_text("dog\n\n红心\nrocket on a blue background\n", encoding="utf-8")
    command = ["generate", "pizza", "--prompts", str(tmp_path / "list.txt"), "-n", "2", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(cli.pictures, "AT_ONCE", 3)
    assert main([*command, str(tmp_path / "parts")]) == 0
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main([*command, str(tmp_path / "shared")]) == 0
    names = sorted(file.name for file in (tmp_path / "whole").glob("0*.png"))
    assert len(names) == 8 and names[2].startswith("001-dog-0-00")
    for folder in ("parts", "shared"):
        assert sorted(file.name for file in (tmp_path / folder).glob("0*.png")) == names
        for name in names:
            with Image.open(tmp_path / "whole" / name) as one, Image.open(tmp_path / folder / name) as other:
                # Pictures drawn in another company are rounded differently.
                assert max(high for _, high in ImageChops.difference(one, other).getextrema()) <= 1
                assert one.info == other.info


@needs_default
def test_a_walk_is_frames_and_an_animation(tmp_path, monkeypatch, capsys):
    out = tmp_path / "walk"
    monkeypatch.setattr(cli.pictures, "AT_ONCE", 3)  # drawn in parts
    command = ["walk", "a red heart", "狗脸", "--seeds", "1,2", "--frames", "5", "--fps", "10", "--out", str(out)]
    assert main(command) == 0 and "5 frames and walk.webp" in capsys.readouterr().out
    frames = sorted(out.glob("*.png"))
    assert [frame.name for frame in frames] == [f"000{i}.png" for i in range(5)]
    with Image.open(out / "walk.webp") as animation:
        assert (animation.n_frames, animation.info["loop"], animation.size) == (5, 0, (128, 128))

    for prompt, seed, frame in (("a red heart", "1", frames[0]), ("狗脸", "2", frames[-1])):
        drawn = tmp_path / seed
        assert main(["generate", prompt, "-n", "1", "--seed", seed, "--out", str(drawn)]) == 0
        with Image.open(frame) as end, Image.open(drawn / "sheet.png") as stop:
            assert furthest(end, stop) <= 1
    with Image.open(frames[0]) as first, Image.open(frames[2]) as middle, Image.open(frames[4]) as last:
        assert furthest(first, middle) > 50 and furthest(middle, last) > 50

    assert main(command) == 1 and "not an empty folder" in capsys.readouterr().err


@needs_default
def test_a_walk_may_have_more_frames_than_files_may_be_open(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 40, before[1]))
    try:
        assert main(["walk", "a red heart", "--seeds", "1,2", "--frames", "60", "--out", str(tmp_path / "walk")]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@needs_default
def test_a_walk_along_seeds_alone_or_prompts_alone(tmp_path):
    for name, words in (("seeds", ["a dog", "--seeds", "1,2"]), ("prompts", ["a dog", "pizza"])):
        assert main(["walk", *words, "--loop", "--frames", "4", "--format", "gif", "--out", str(tmp_path / name)]) == 0
        frames = [Image.open(frame) for frame in sorted((tmp_path / name).glob("*.png"))]
        # There and back again, and the two ends differ.
        assert furthest(frames[1], frames[3]) <= 1 < 50 < furthest(frames[0], frames[2])
        with Image.open(tmp_path / name / "walk.gif") as animation:
            assert animation.n_frames > 2  # equal neighbours are one frame of a gif


@needs_default
def test_explore_shows_what_generate_draws(tmp_path, capsys):
    sheet = tmp_path / "new folder" / "sheet.png"
    assert main(["explore", "a dog", "红心", "--seed", "5", "-n", "3", "--truncation", "0.5,1", "--out", str(sheet)]) == 0
    assert "12 pictures" in capsys.readouterr().out
    assert main(["generate", "a dog", "-n", "1", "--seed", "6", "--out", str(tmp_path)]) == 0
    with Image.open(sheet) as grid, Image.open(tmp_path / "sheet.png") as drawn:
        right, bottom = grid.size
        assert bottom > 4 * 128 and right > 3 * 128
        # Rows: dog at 0.5 and 1, heart at 0.5 and 1; columns: seeds 5, 6 and 7; the names are over and before them.
        second = grid.crop((right - 256, bottom - 384, right - 128, bottom - 256))
        assert furthest(second, drawn) <= 1
        for top in range(bottom - 512, bottom, 128):
            assert grid.crop((0, top, right - 384, top + 128)).getextrema()[0][0] < 100  # something is written


def furthest(one: Image.Image, other: Image.Image) -> int:
    """How far two pictures are apart where they differ most, in 0 to 255."""
    return max(high for _, high in ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema())


def test_numbers_that_are_none_are_refused(capsys):
    for words in (["walk", "x", "--seeds", "1,two"], ["walk", "x", "--seeds", "-1"], ["explore", "x", "--truncation", "9"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "with commas between" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "walk"])
@pytest.mark.parametrize("psi", ["nan", "5", "-1", "much"])
def test_a_wild_truncation_is_refused_before_anything_is_loaded(command, psi, capsys):
    with pytest.raises(SystemExit):
        main([command, "x", "--gan", "none.safetensors", f"--truncation={psi}"])
    assert f"'{psi}' is no truncation: write a number from 0 to {MOST_PSI:g}." in capsys.readouterr().err


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"llm-gan {metadata.version('llm-gan')}\n"


@needs_default
def test_a_spoilt_picture_is_restored_or_restyled(tmp_path, capsys):
    assert main(["generate", "a red apple", "-n", "1", "--seed", "3", "--out", str(tmp_path)]) == 0
    (drawn,) = tmp_path.glob("0*.png")
    with Image.open(drawn) as picture:
        whole = picture.convert("RGB")
    spoilt = whole.filter(ImageFilter.GaussianBlur(1.5))
    spoilt.save(tmp_path / "soft.png")
    restore = ["restore", str(tmp_path / "soft.png"), "--prompt", "a red apple", "--out", str(tmp_path / "out")]
    assert main([*restore, "--undo", "deblur"]) == 0

    def error(picture):
        # Of all colours: in red alone, a red apple on white has no edge.
        return sum(ImageStat.Stat(ImageChops.difference(whole, picture)).rms)

    with Image.open(tmp_path / "out" / "soft.png") as sharp:
        assert sharp.size == whole.size and error(sharp) < error(spoilt)
    assert main([*restore, "--style", "a red apple, noto style", "--keep", "0"]) == 0
    with Image.open(tmp_path / "out" / "soft-2.png") as restyled:
        assert error(restyled) > error(spoilt)
    square = Image.new("L", (128, 128))
    square.paste(255, (40, 40, 80, 80))
    Image.merge("RGB", [square] * 3).save(tmp_path / "on-black.png")
    Image.merge("RGBA", [*[Image.new("L", (128, 128), 255)] * 3, square]).save(tmp_path / "on-nothing.png")
    for mask in ("on-black", "on-nothing"):
        command = ["restore", str(tmp_path / "soft.png"), "--prompt", "a red heart", "--mask", str(tmp_path / f"{mask}.png")]
        assert main([*command, "--out", str(tmp_path / mask)]) == 0
    assert (tmp_path / "on-black" / "soft.png").read_bytes() == (tmp_path / "on-nothing" / "soft.png").read_bytes()
    assert main([*restore[:-1], str(tmp_path / "none")]) == 1
    assert "nothing to undo" in capsys.readouterr().err and not (tmp_path / "none").exists()


@needs_default
def test_latents_are_made_and_changed(tmp_path, capsys):
    def edit(*words, name):
        file = tmp_path / f"{name}.latent.safetensors"
        assert main(["edit", *words, "--prompt", "a red apple", "--out", str(file)]) == 0, capsys.readouterr().err
        with Image.open(tmp_path / f"{name}.png") as sheet:
            return file, sheet.copy()

    two, sheet = edit("1", "2", name="two")
    assert sheet.size == (256, 128)
    _, again = edit(str(two), name="again")
    assert ImageChops.difference(sheet, again).getbbox() is None
    _, second = edit(str(two), "--pick", "1", name="second")
    assert max(high for _, high in ImageChops.difference(second, sheet.crop((128, 0, 256, 128))).getextrema()) <= 1
    _, others = edit(str(two), "--average", "--style", "7", "--slide", "1=4", "--vary", "3", name="others")
    assert others.size == (384, 128)
    again_seen, seen = edit(str(tmp_path / "second.png"), "--steps", "0", name="seen")
    assert ImageStat.Stat(ImageChops.difference(seen, second)).rms[0] < 40
    assert main(["edit", "1", "--prompt", "x", "--out", str(again_seen)]) == 1
    assert "is there already" in capsys.readouterr().err


def picture(path, mode="RGB", size=(40, 30)):
    path.parent.mkdir(exist_ok=True)
    Image.linear_gradient("L").resize(size).convert(mode).save(path)
    return path.read_bytes()


@needs_default
def test_no_picture_is_overwritten(tmp_path, capsys):
    dog, old = picture(tmp_path / "dog.png"), picture(tmp_path / "old.png")
    edit, out = ["edit", str(tmp_path / "dog.png"), "--prompt", "a dog", "--steps", "0"], tmp_path / "dog.latent.safetensors"
    assert main([*edit, "--out", str(out)]) == 0 and "dog-2.png" in capsys.readouterr().out
    assert main(["restore", str(tmp_path / "old.png"), "--undo", "denoise", "--out", str(tmp_path)]) == 0
    assert "old-2.png" in capsys.readouterr().out
    assert main(["explore", "a dog", "-n", "1", "--truncation", "1", "--out", str(tmp_path / "old.png")]) == 0
    assert "old-3.png" in capsys.readouterr().out
    assert (tmp_path / "dog.png").read_bytes() == dog and (tmp_path / "old.png").read_bytes() == old


@needs_default
def test_what_comfyui_wrote_into_a_picture_is_no_prompt(tmp_path, capsys):
    from PIL.PngImagePlugin import PngInfo

    for name, text in (("plain", "a dog"), ("comfyui", '{"3": {"class_type": "KSampler"}}')):
        info = PngInfo()
        info.add_text("prompt", text)
        Image.new("RGB", (128, 128), "brown").save(tmp_path / f"{name}.png", pnginfo=info)
    assert main(["score", str(tmp_path / "plain.png"), str(tmp_path / "comfyui.png")]) == 0
    rows = {row.split("/")[-1]: row.split() for row in capsys.readouterr().out.splitlines()[1:]}
    assert rows["comfyui.png"][2] == "–" and float(rows["plain.png"][2]) != 0


def test_pictures_of_any_depth_are_read(tmp_path):
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "8.png")
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(shades.astype(np.int32) * 257).save(tmp_path / "32.tif")
    expected = read_picture(tmp_path / "8.png")
    assert expected[0, 0, 1, 0] == pytest.approx(1 / 255)
    assert all(torch.equal(read_picture(tmp_path / name), expected) for name in ("16.png", "32.tif"))
    Image.fromarray(shades.astype(np.float32) / 255).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point"):
        read_picture(tmp_path / "float.tif")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png cannot be read"):
        read_picture(tmp_path / "bomb.png")
    Image.effect_noise((300, 300), 99).save(tmp_path / "chunk.png")
    first, *others = (tmp_path / "chunk.png").read_bytes().split(b"IDAT")
    (tmp_path / "chunk.png").write_bytes(first + b"IDAT" + b"\x9cDAT".join(others))
    with pytest.raises(ValueError, match="chunk.png is not a picture"):
        read_picture(tmp_path / "chunk.png")


@pytest.mark.parametrize("words", [
    ["generate", "x", "--seed", "9" * 30], ["generate", "x", "--columns", "-3"], ["restore", "x.png", "--steps", "-1"],
    ["edit", "1", "--prompt", "x", "--out", "x.latent.safetensors", "--vary", "0"],
])  # fmt: skip
def test_numbers_that_nothing_can_be_done_with_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert "is no number from" in capsys.readouterr().err


def test_models_lists_gans_in_a_folder(tmp_path, capsys):
    save_gan(small_gan(), tmp_path / "mine.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"not a checkpoint")
    assert main(["models", "--folder", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "mine.safetensors" in listed and "32 px, reads test" in listed and "other.safetensors" not in listed


ERRORS = {
    "no prompt": (["generate"], "nothing to draw"),
    "no such list": (["generate", "--prompts", "none.txt"], "cannot be read as a text file"),
    "no such GAN": (["generate", "x", "--gan", "none.safetensors"], "There is no checkpoint"),
    "a pickle": (["generate", "x", "--gan", "none.pkl"], "only those are read"),
    "no pictures": (["generate", "x", "-n", "0"], "from 1 to 100000"),
    "no such device": (["generate", "x", "--device", "abacus"], "cannot be used here"),
    "no folder to train on": (["train", "nowhere", "--out", "x.safetensors"], "There is no folder"),
    "no checkpoint name": (["train", "nowhere", "--out", "x.pt"], "should end in .safetensors"),
    "a file for a folder": (["generate", "x", "--out", cli.__file__], "is a file: give a folder"),
    "bytes that are no text": (["generate", "caf\udce9"], "no text in UTF-8"),
    "odd resolution": (["train", "nowhere", "--out", "x.safetensors", "--resolution", "100"], "cannot be drawn"),
    "nothing to resume": (["train", "nowhere", "--out", "x.safetensors", "--resume"], "nothing to resume"),
    "a walk without a way": (["walk", "x"], "two stops or more"),
    "no frames": (["walk", "x", "--seeds", "1,2", "--frames", "0"], "from 2 to 4096"),
    "a crawl": (["walk", "x", "--seeds", "1,2", "--fps", "0"], "from 0.1 to 100"),
    "a run among the pictures": (["train", "x", "--out", "y.safetensors", "--run-dir", "x/y"], "lies among the pictures"),
    "a sheet of no kind": (["explore", "x", "--out", "sheet"], "should end in .png"),
    "a style and a mask": (["restore", "x.png", "--style", "x", "--mask", "x.png"], "either mended"),
    "kept of no style": (["restore", "x.png", "--undo", "denoise", "--keep", "1"], "give --style too"),
    "no columns": (["explore", "x", "-n", "0"], "from 1 to 1024"),
    "nothing to compress by": (["compress", "x.safetensors", "--out", "y.safetensors"], "--int8, for a student with --share"),
    "a student without captions": (["compress", "x.safetensors", "--out", "y.safetensors", "--share", "0.5"], "with --data"),
    "a compressed pickle": (["compress", "x.safetensors", "--out", "y.pt", "--int8"], "end in .safetensors"),
    "a latent by another name": (["edit", "1", "--prompt", "x", "--out", "x.pt"], "should end in .latent.safetensors"),
    "a slide to nowhere": (["edit", "1", "--prompt", "x", "--out", "x.latent.safetensors", "--slide", "up"], "as 1=4,3=-2.5"),
    "a seed beyond all": (["edit", "9" * 30, "--prompt", "x", "--out", "x.latent.safetensors"], "is no number from 0"),
    "no source": (["edit", "²", "--prompt", "x", "--out", "x.latent.safetensors"], "is no seed, and no file"),
    "no folder to look in": (["models", "--folder", "nowhere"], "There is no folder nowhere"),
    "a rival that is none": (["benchmark", "--gan", "none.safetensors", "--rivals", "dall-e"], "There is no rival dall-e"),
    "no such size": (["benchmark", "--gan", "none.safetensors", "--resolutions", "100"], "100 px cannot be drawn"),
    "no picture to restore": (["restore", "none.png", "--undo", "denoise"], "not a picture that can be read"),
    "no GAN to see with": (["train-encoder", "none.safetensors", "--data", "nowhere"], "There is no checkpoint"),
    "no packages": (["icons", "--packages", "nowhere", "--out", "there"], "npm pack"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_one_sentence_on_stderr(kind, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, message = ERRORS[kind]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("llm-gan: ") and "Traceback" not in error
    assert not list(tmp_path.iterdir())


@needs_default
def test_a_file_that_is_no_picture(tmp_path, capsys):
    (tmp_path / "x.png").write_text("not a picture")
    assert main(["score", str(tmp_path / "x.png")]) == 1
    assert "not a picture that can be read" in capsys.readouterr().err


def test_galip_is_converted_and_drawn_with(tmp_path, capsys, monkeypatch):
    import published
    import torch

    monkeypatch.setenv("LLM_GAN_HOME", str(tmp_path / "home"))
    torch.save(published.galip(), tmp_path / "galip.pth")
    out = tmp_path / "galip.safetensors"
    asked = ["convert", str(tmp_path / "galip.pth"), "--out", str(out), "--half"]
    assert main(asked) == 1 and "put the folder openai/clip-vit-base-patch32" in capsys.readouterr().err
    published.save_clip(tmp_path / "home" / "clip-vit-base-patch32")
    assert main(asked) == 0 and "40 px, with its discriminator" in capsys.readouterr().out
    assert main(["generate", "a cat", "a dog", "-n", "2", "--gan", str(out), "--out", str(tmp_path / "drawn")]) == 0
    pictures = sorted(str(path) for path in (tmp_path / "drawn").glob("0*.png"))
    assert len(pictures) == 4 and main(["score", *pictures, "--gan", str(out)]) == 0


def test_a_published_gan_is_converted_and_drawn_with(tmp_path, capsys):
    import published

    generator, judge = published.stylegan2(2)
    source = published.write(tmp_path / "animals.pkl", G=None, D=judge, G_ema=generator)
    (tmp_path / "names.txt").write_text("cat, 猫\n\ndog, 狗\n", encoding="utf-8")
    out = tmp_path / "animals.safetensors"
    asked = ["convert", str(source), "--out", str(out)]
    assert main(asked) == 1 and "draws 2 classes: give" in capsys.readouterr().err
    assert main([*asked, "--classes", str(tmp_path / "names.txt"), "--license", "CC0", "--half"]) == 0
    assert "16 px, with its discriminator" in capsys.readouterr().out
    assert main([*asked, "--classes", str(tmp_path / "names.txt")]) == 1 and "there already" in capsys.readouterr().err
    assert main(["models", "--folder", str(tmp_path)]) == 0
    assert "animals  16 px, reads gemma-3-270m, CC0" in capsys.readouterr().out
    drawn = tmp_path / "drawn"
    assert main(["generate", "a cat", "一只狗", "-n", "2", "--gan", str(out), "--out", str(drawn)]) == 0
    pictures = sorted(str(path) for path in drawn.glob("0*.png"))
    assert len(pictures) == 4
    assert main(["score", *pictures, "--gan", str(out)]) == 0
    walked = ["walk", "cat", "dog", "--frames", "3", "--gan", str(out), "--out", str(tmp_path / "walk")]
    edited = ["edit", "1", "--prompt", "cat", "--vary", "2", "--gan", str(out), "--out", str(tmp_path / "a.latent.safetensors")]
    assert main(walked) == main(edited) == 0
    capsys.readouterr()
    assert main(["restore", pictures[0], "--undo", "denoise", "--gan", str(out), "--out", str(drawn)]) == 1
    assert "take a GAN that LLM-GAN trained" in capsys.readouterr().err


def test_what_was_stopped_says_how_it_goes_on(monkeypatch, capsys):
    def stopped(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_gan.models.cli.gans.train", stopped)
    monkeypatch.setattr("llm_gan.models.cli.pictures.generate", stopped)
    assert main(["train", "icons", "--out", "a.safetensors"]) == main(["generate", "a cat"]) == 130
    assert capsys.readouterr().err == "llm-gan: stopped; --resume goes on from what was saved\nllm-gan: stopped\n"
