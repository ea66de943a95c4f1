"""Enlarging drawings: the same in strips as at once, crisper than interpolation, trained as it says, and no file is trusted."""

import json
from itertools import accumulate

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llm_gan.models import enlarger as module
from llm_gan.models.checkpoint import DEFAULT_GAN
from llm_gan.models.cli import main
from llm_gan.models.enlarger import Enlarger, EnlargerConfig, enlarge, load_enlarger, save_enlarger
from llm_gan.models.generator import bilinear
from llm_gan.models.pictures import on_white
from llm_gan.models.training.enlarger import EnlargerTraining, judge, spoilt, train_enlarger
from llm_gan.models.training.state import read_state


@pytest.fixture
def untrained():
    """One that changes what it is given, in ways that nobody wants."""
    torch.manual_seed(0)
    enlarger = Enlarger(EnlargerConfig(8, 2)).requires_grad_(False).eval()
    torch.nn.init.normal_(enlarger.last.weight, std=0.1)
    return enlarger


def drawing(size: int, number: int = 0) -> Image.Image:
    """Discs and bars on nothing, antialiased, the same at every size."""
    random, large = np.random.RandomState(number), Image.new("RGBA", (512, 512), (255, 255, 255, 0))
    draw = ImageDraw.Draw(large)
    for _ in range(6):
        x, y, r = random.randint(80, 430, 2).tolist() + [int(random.randint(30, 150))]
        colour = (*random.randint(0, 255, 3).tolist(), 255)
        if random.rand() < 0.5:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        else:
            draw.line((x - r, y - r, x + r, y + r // 2), fill=colour, width=int(random.randint(8, 50)))
    return large.resize((size, size), Image.BOX)


def pixels(image: Image.Image) -> torch.Tensor:
    """[1,H,W,C] in 0..1."""
    return torch.from_numpy(np.array(image)).float().div(255)[None]


def test_it_begins_as_bilinear_interpolation():
    x = torch.rand(2, 3, 7, 5) * 2 - 1
    with torch.no_grad():
        assert torch.equal(Enlarger(EnlargerConfig())(x), bilinear(x, 2))


@pytest.mark.parametrize("times", [2, 4, 8])
def test_strips_are_the_picture(untrained, times, monkeypatch):
    images = torch.rand(2, 50, 23, 3)
    whole = enlarge(untrained, images, times)
    monkeypatch.setattr(module, "CACHED", 1)
    strips = enlarge(untrained, images, times)
    assert whole.shape == (2, 50 * times, 23 * times, 3) and torch.allclose(whole, strips, atol=1e-6)
    assert 0 <= whole.min() and whole.max() <= 1 and (whole - torch.nn.functional.interpolate(
        images.permute(0, 3, 1, 2), scale_factor=times, mode="bilinear").permute(0, 2, 3, 1)).abs().mean() > 0.01  # fmt: skip
    one = enlarge(untrained, images[1:], times)
    assert torch.allclose(one, whole[1:], atol=1e-6)


def test_a_transparent_picture_looks_on_white_as_its_look_on_white():
    enlarger, image = load_enlarger(), pixels(drawing(64))
    large = enlarge(enlarger, image, 2)
    assert large.shape == (1, 128, 128, 4) and large[0, 0, 0, 3] < 0.02 and large[..., 3].max() > 0.98
    assert (on_white(large) - enlarge(enlarger, on_white(image), 2)).abs().mean() < 0.003
    opacity = enlarge(enlarger, image[..., 3:].expand(-1, -1, -1, 3), 2).mean(3)
    assert torch.allclose(large[..., 3], opacity, atol=1e-5)


def test_the_bundled_one_is_crisper_than_interpolation():
    enlarger = load_enlarger()
    for number in range(4):
        small, large = (on_white(pixels(drawing(size, number))) for size in (64, 256))
        planes = small.permute(0, 3, 1, 2)
        bicubic = torch.nn.functional.interpolate(planes, scale_factor=4, mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
        ours, theirs = ((drawn - large).square().mean() for drawn in (enlarge(enlarger, small, 4), bicubic))
        assert ours < 0.6 * theirs  # 2.2 dB
    assert enlarger.card.metrics["PSNR"] > enlarger.card.metrics["PSNR of bicubic"] + 2 and enlarger.card.licenses


def test_what_cannot_be_enlarged_is_said(untrained):
    with pytest.raises(ValueError, match="2, 4 or 8 times as large, not 3"):
        enlarge(untrained, torch.zeros(1, 8, 8, 3), 3)
    with pytest.raises(ValueError, match="16392 pixels to a side, more than 16384: enlarge less"):
        enlarge(untrained, torch.zeros(1, 1, 2049, 3), 8)


def test_progress_is_told_after_every_strip_and_may_stop_it(untrained, monkeypatch):
    told = []
    monkeypatch.setattr(module, "CACHED", 1)  # strips of 16 rows
    enlarge(untrained, torch.zeros(2, 20, 5, 4), 4, lambda done, total: told.append((done, total)))
    picture = [80, 20, 160, 160, 80] * 2  # it, then at twice the size, and its opacity
    assert told == [(done, 2000) for done in accumulate(picture * 2)]

    def stop(done, total):
        raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match="80 of 300"):
        enlarge(untrained, torch.zeros(3, 20, 5, 3), 2, stop)


class Rooms(TorchDispatchMode):
    """Of all that is computed within, the sizes of tensors in memory of their own."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        known = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        new = [x for x in tree_leaves(made) if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in known]
        self.sizes += [x.untyped_storage().nbytes() for x in new]
        return made


@pytest.mark.parametrize("channels", [3, 4])
def test_beside_the_result_there_is_nothing_of_its_size(untrained, monkeypatch, channels):
    monkeypatch.setattr(module, "CACHED", 1)  # strips of 16 rows
    with Rooms() as rooms:
        large = enlarge(untrained, torch.rand(1, 200, 30, channels), 4)
    assert sorted(rooms.sizes)[-1] == large.nbytes and sorted(rooms.sizes)[-2] < 0.3 * large.nbytes


# ---------------------------------------------------------------------------------------------------------------- files


def test_what_is_saved_comes_back(untrained, tmp_path):
    untrained.card.name, untrained.card.licenses = "shapes", ["CC0"]
    again = load_enlarger(save_enlarger(untrained, tmp_path / "a.enlarger.safetensors"))
    assert again.card == untrained.card and again.config == untrained.config
    images = torch.rand(1, 9, 9, 3)
    assert torch.allclose(enlarge(again, images, 2), enlarge(untrained, images, 2), atol=2e-3)


HOSTILE = {
    "no enlarger": lambda tensors, metadata: metadata.pop("llm_gan_enlarger"),
    "a newer one": lambda tensors, metadata: metadata.update(llm_gan_enlarger="2"),
    "no config": lambda tensors, metadata: metadata.pop("enlarger"),
    "many layers": lambda tensors, metadata: metadata.update(enlarger='{"channels": 8, "layers": 1000000}'),
    "no channels": lambda tensors, metadata: metadata.update(enlarger='{"channels": 0, "layers": 2}'),
    "a text for a number": lambda tensors, metadata: metadata.update(enlarger='{"channels": "8", "layers": 2}'),
    "another field": lambda tensors, metadata: metadata.update(enlarger='{"channels": 8, "layers": 2, "more": 1}'),
    "a tensor less": lambda tensors, metadata: tensors.pop("last.bias"),
    "another shape": lambda tensors, metadata: tensors.update({"last.bias": torch.zeros(13)}),
    "numbers that are none": lambda tensors, metadata: tensors.update({"last.bias": torch.full((12,), torch.nan)}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(kind, untrained, tmp_path):
    path = save_enlarger(untrained, tmp_path / "a.enlarger.safetensors")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    HOSTILE[kind](tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError) as refusal:
        load_enlarger(path)
    assert "\n" not in str(refusal.value)


def test_a_damaged_or_absent_file_is_refused(tmp_path):
    (tmp_path / "a.enlarger.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="fetch it again"):
        load_enlarger(tmp_path / "a.enlarger.safetensors")
    with pytest.raises(FileNotFoundError, match="no enlarger"):
        load_enlarger(tmp_path / "b.enlarger.safetensors")
    with pytest.raises(ValueError, match="no enlarger that this version"):
        load_enlarger(DEFAULT_GAN)


# ------------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of 30 drawings, two of them of a held-out split."""
    home = tmp_path_factory.mktemp("shapes")
    lines = []
    for number in range(30):
        drawing(96, number).save(home / f"{number:02d}.png")
        entry = {"file_name": f"{number:02d}.png", "text": "a drawing", "license": "CC0"}
        lines.append(json.dumps(entry | ({"split": "test"} if number % 15 == 0 else {})))
    (home / "metadata.jsonl").write_text("\n".join(lines))
    return home


def test_it_learns_from_some_and_is_judged_by_others(shapes, tmp_path):
    out, run = tmp_path / "a.enlarger.safetensors", tmp_path / "run"
    trained = train_enlarger(shapes, out, run, resolution=96, images=3200)
    metrics, card = load_enlarger(out).card.metrics, trained.card
    assert metrics["PSNR"] > metrics["PSNR of bicubic"] + 1
    assert (card.data, card.licenses, card.images_seen, card.name) == ("28 pictures", ["CC0"], 3200, "a.enlarger")
    assert (run / "log.csv").read_text().startswith("images,images_per_s,error,bilinear") and (
        run / "samples-00003200.png"
    ).is_file()
    held_out = on_white(pixels(drawing(96, 15))).permute(0, 3, 1, 2) * 2 - 1
    assert judge(trained, held_out)["PSNR"] > judge(Enlarger(EnlargerConfig()), held_out)["PSNR"] + 1


def test_a_run_goes_on_exactly_where_it_stopped(shapes, tmp_path):
    def stop(done, total, figures=None):
        if figures is not None and done == 48:
            raise KeyboardInterrupt

    whole = train_enlarger(shapes, tmp_path / "a.enlarger.safetensors", tmp_path / "a", resolution=96, images=96)
    out, run = tmp_path / "b.enlarger.safetensors", tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        train_enlarger(shapes, out, run, resolution=96, images=96, progress=stop)
    assert load_enlarger(out).card.images_seen == 48
    again = train_enlarger(shapes, out, run, resolution=96, resume=True)
    assert all(torch.equal(x, y) for x, y in zip(whole.state_dict().values(), again.state_dict().values()))


def test_a_training_whose_numbers_are_no_longer_finite_is_given_up(shapes, tmp_path, monkeypatch):
    step, out, run = torch.optim.Adam.step, tmp_path / "a.enlarger.safetensors", tmp_path / "run"
    backward, calls = torch.Tensor.backward, []

    def spoilt(loss):
        backward(loss)
        calls.append(loss)
        if len(calls) == 3:
            learnt[0].grad.view(-1)[0] = torch.nan

    def noted(optimizer):
        learnt[:] = optimizer.param_groups[0]["params"]
        return step(optimizer)

    learnt = []
    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    monkeypatch.setattr(torch.Tensor, "backward", spoilt)
    with pytest.raises(ArithmeticError, match="no longer finite; resume from the last good state, in .*run, with another seed"):
        train_enlarger(shapes, out, run, resolution=96, images=96, save_every=0)
    kept = read_state(run)
    assert kept["count.images"] == 32 and all(torch.isfinite(value).all() for value in kept.values())
    assert load_enlarger(out).card.images_seen == 32


def test_an_enlarger_that_is_not_finite_replaces_none(untrained, tmp_path):
    path = save_enlarger(untrained, tmp_path / "a.enlarger.safetensors")
    before = path.read_bytes()
    untrained.last.bias[0] = 1e6  # more than fp16 holds
    with pytest.raises(ValueError, match="a.enlarger.safetensors is not written: last.bias holds values that are not finite"):
        save_enlarger(untrained, path)
    assert path.read_bytes() == before


def test_what_was_learnt_is_kept_before_it_is_shown(shapes, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("llm_gan.models.training.enlarger.contact_sheet", full)
    with pytest.raises(OSError, match="No space left"):
        train_enlarger(shapes, tmp_path / "a.enlarger.safetensors", tmp_path / "run", resolution=96, images=16)
    assert read_state(tmp_path / "run")["count.images"] == 16


def test_a_run_goes_on_at_its_own_resolution(shapes, tmp_path):
    out, run = tmp_path / "a.enlarger.safetensors", tmp_path / "run"
    train_enlarger(shapes, out, run, resolution=96, images=16)
    train_enlarger(shapes, out, run, images=32, resume=True)
    assert [path.name for path in (run / "cache").iterdir()] == ["pictures-96.bin"]
    settings = json.loads((run / "config.json").read_text())
    assert (settings.pop("resolution"), settings["images"]) == (96, 32)
    (run / "config.json").write_text(json.dumps(settings))  # as of a run from before the resolution was kept
    assert train_enlarger(shapes, out, run, images=48, resume=True).card.images_seen == 48
    assert json.loads((run / "config.json").read_text())["resolution"] == 128
    (run / "config.json").write_text(json.dumps(settings | {"warmup": 200}))
    with pytest.raises(ValueError, match="another kind, with a setting warmup"):
        train_enlarger(shapes, out, run, resume=True)


def test_it_learns_from_a_folder_without_captions_whose_first_picture_is_broken(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for number in range(1, 5):
        drawing(96, number).save(data / f"{number}.png")
    (data / "0.png").write_text("junk")
    trained = train_enlarger(data, tmp_path / "a.enlarger.safetensors", run, resolution=96, images=16)
    assert trained.card.data == "3 pictures" and trained.card.metrics.keys() == {"PSNR", "PSNR of bicubic"}
    assert "0.png: is not a picture" in (run / "skipped.txt").read_text()
    for number in range(2, 5):
        (data / f"{number}.png").unlink()
    with pytest.raises(ValueError, match="too few pictures"):
        train_enlarger(data, tmp_path / "b.enlarger.safetensors", tmp_path / "other", resolution=96)


def test_what_is_spoilt_is_a_little_blurred_and_noisy():
    small = torch.zeros(64, 3, 16, 16)
    small[:, :, 8:] = 1
    found = spoilt(small, torch.Generator().manual_seed(0))
    noise, edge = found[:, :, 2:6].std((1, 2, 3)), found[:, :, 8].mean((1, 2))
    assert noise.min() < 0.003 < 0.02 < noise.max() < 0.035
    assert edge.max() > 0.98 and 0.6 < edge.min() < 0.8


@pytest.mark.parametrize(
    "given, message",
    [
        ({"resolution": 64}, "96 or more"),
        ({"resolution": 97}, "even number"),
        ({"images": 0}, "learns nothing from 0"),
        ({"seed": -1}, "should be from 0"),
        ({"resume": True}, "nothing to resume"),
    ],
)
def test_what_cannot_be_trained_is_said_before_any_work(given, message, shapes, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_enlarger(shapes, tmp_path / "a.enlarger.safetensors", tmp_path / "run", **{"resolution": 96} | given)
    assert not (tmp_path / "run").exists() and EnlargerTraining().images == 100_000


# ----------------------------------------------------------------------------------------------------- the command line


def test_pictures_are_enlarged_from_the_command_line(shapes, tmp_path, capsys):
    own = tmp_path / "own.enlarger.safetensors"
    asked = ["train-enlarger", str(shapes), "--resolution", "96", "--images", "32"]
    assert (
        main([*asked, "--out", str(tmp_path / "own.safetensors")]) == 1 and "should end in .enlarger" in capsys.readouterr().err
    )
    assert main([*asked, "--out", str(own)]) == 0 and "PSNR of bicubic" in capsys.readouterr().out
    drawing(20, 1).save(tmp_path / "a.png")
    drawing(20, 2).convert("RGB").save(tmp_path / "b.png")
    pictures, out = [str(tmp_path / name) for name in ("a.png", "b.png")], tmp_path / "large"
    assert main(["enlarge", *pictures, "--out", str(out)]) == 0
    assert main(["enlarge", pictures[1], "--times", "2", "--enlarger", str(own), "--out", str(out)]) == 0
    modes = {path.name: (Image.open(path).size, Image.open(path).mode) for path in out.iterdir()}
    assert modes == {"a.png": ((80, 80), "RGBA"), "b.png": ((80, 80), "RGB"), "b-2.png": ((40, 40), "RGB")}
    assert main(["enlarge", pictures[0], "--times", "5", "--out", str(out)]) == 1
    assert "2, 4 or 8 times" in capsys.readouterr().err


def test_drawn_pictures_are_written_larger(tmp_path, capsys):
    if not DEFAULT_GAN.is_file():
        pytest.skip("the bundled model is not there")
    asked = ["generate", "a red heart", "-n", "1", "--enlarge", "2", "--out", str(tmp_path)]
    assert main([*asked, "--transparent"]) == 0
    (picture,) = tmp_path.glob("0*.png")
    assert Image.open(picture).size == (256, 256) and Image.open(picture).mode == "RGBA"
    walk = ["walk", "a dog", "--seeds", "1,2", "--frames", "3", "--enlarge", "2", "--out", str(tmp_path / "walk")]
    assert main(walk) == 0 and Image.open(tmp_path / "walk" / "0001.png").size == (256, 256)
    assert main([*asked, "--enlarge", "3"]) == 1 and "2, 4 or 8 times" in capsys.readouterr().err
