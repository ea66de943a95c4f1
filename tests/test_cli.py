"""The command line, run as a user runs it but in this process."""

import pytest
from PIL import Image, ImageChops

from llm_gan.models import cli
from llm_gan.models.checkpoint import DEFAULT_GAN, save_gan
from llm_gan.models.cli import main

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

    before = [f.read_bytes() for f in files]
    assert main(command) == 0
    assert [f.read_bytes() for f in files] == before

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
    monkeypatch.setattr(cli, "AT_ONCE", 3)
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
    "odd resolution": (["train", "nowhere", "--out", "x.safetensors", "--resolution", "100"], "cannot be drawn"),
    "nothing to resume": (["train", "nowhere", "--out", "x.safetensors", "--resume"], "nothing to resume"),
    "nothing to compress by": (["compress", "x.safetensors", "--out", "y.safetensors"], "--int8, for a student with --share"),
    "a student without captions": (["compress", "x.safetensors", "--out", "y.safetensors", "--share", "0.5"], "with --data"),
    "a compressed pickle": (["compress", "x.safetensors", "--out", "y.pt", "--int8"], "end in .safetensors"),
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
