"""Published GANs: converted they draw and judge what the papers' formulas give, and no file gets anything run."""

import codecs
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_gan.models import latents
from llm_gan.models.checkpoint import load_card, load_gan, preview, read_metadata, save_gan
from llm_gan.models.gan import Latent
from llm_gan.models.inversion import invert
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.published.biggan import within_two
from llm_gan.models.published.checkpoint import load, save_published
from llm_gan.models.published.convert import CAPTIONS, CLIP, convert, networks_of
from llm_gan.models.published.galip import conv_of_doubled, corners
from llm_gan.models.published.gan import PublishedGAN
from llm_gan.models.pickles import Thing, read_pickle

import published
from test_gan import condition

NAMES = ["cat, 猫", "dog, 狗", "volcano, 火山", "pizza, 披萨", "guitar, 吉他"]


@pytest.fixture
def files(tmp_path):
    """Writes a GAN, as it was published, to a file."""

    def files(generator, discriminator=None) -> Path:
        return published.write(tmp_path / "published.pkl", G=generator, D=discriminator, G_ema=generator)

    return files


@pytest.fixture(scope="module")
def biggan_file(tmp_path_factory):
    home = tmp_path_factory.mktemp("biggan")
    torch.save(published.biggan(), home / "pytorch_model.bin")
    (home / "config.json").write_text(json.dumps(published.BIGGAN))
    return home / "pytorch_model.bin"


def _drawn(generator, z: torch.Tensor, label: torch.Tensor, psi: float = 0.7):
    with torch.inference_mode():
        styles = generator.styles(z, label, torch.tensor(psi))
        return styles, generator.synthesize(styles, torch.tensor(psi))


KINDS = {
    "StyleGAN2": lambda: published.stylegan2(),
    "StyleGAN2 of classes": lambda: published.stylegan2(5),
    "StyleGAN3-T": lambda: published.stylegan3(),
    "StyleGAN3-R of classes": lambda: published.stylegan3(True, 5),
}


# ------------------------------------------------------------------------------------------------- the same pictures


@pytest.mark.parametrize("kind", KINDS)
def test_a_stylegan_draws_and_judges_as_published(kind, files):
    theirs, judge = KINDS[kind]()
    ours, our_judge = networks_of(files(theirs, judge))
    z, label = torch.randn(3, 8), torch.eye(5)[[0, 3, 3]][:, : ours.config.classes]
    w = theirs.mapping(z, label, 0.7)
    expected = theirs.synthesis(w[:, None].expand(-1, ours.num_styles, -1))
    styles, images = _drawn(ours, z, label)
    assert torch.allclose(styles[:, 0], w, atol=1e-5)
    assert expected.std() > 0.03 and torch.allclose(images, expected, atol=1e-4 * expected.abs().max())
    features = our_judge.features(expected)
    scores = our_judge.judge(features, label, our_judge.spread(features))
    assert torch.allclose(scores, judge(expected, label), atol=1e-4)


@pytest.mark.parametrize("archive", [True, False])
def test_a_stylegan_of_rosinality_is_the_same_in_any_file(archive, files, tmp_path):
    theirs, judge = published.stylegan2()
    saved = published.as_rosinality(theirs, judge)
    torch.save(saved, tmp_path / "network.pt", _use_new_zipfile_serialization=archive)
    ours, our_judge = networks_of(tmp_path / "network.pt")
    expected, expected_judge = networks_of(files(theirs, judge))
    for one, other in ((ours, expected), (our_judge, expected_judge)):
        assert one.state_dict().keys() == other.state_dict().keys()
        for name, tensor in other.state_dict().items():
            assert torch.allclose(one.state_dict()[name], tensor, atol=1e-5), name
    assert (ours.config.clamp, our_judge.config.group) == (0, 4)
    # Where no mean of w was saved, it is that of many samples; a training's file may hold several GPUs' names, and no average.
    torch.save({"g": {f"module.{name}": tensor for name, tensor in saved["g_ema"].items()}}, tmp_path / "other.pt")
    other, nothing = networks_of(tmp_path / "other.pt")
    w = theirs.mapping(torch.randn(20_000, 8), torch.zeros(20_000, 0), 1.0)
    assert nothing is None and torch.allclose(other.mapping.mean, w.mean(0), atol=0.05 * w.std())


@pytest.mark.skipif("ROSINALITY_DIR" not in os.environ, reason="ROSINALITY_DIR names no checkout of rosinality/stylegan2-pytorch")
def test_a_stylegan_of_rosinality_draws_as_its_own_code_does(tmp_path):
    written = subprocess.run(
        [sys.executable, "-c", _ROSINALITYS_CODE, str(tmp_path)], capture_output=True, text=True, cwd=os.environ["ROSINALITY_DIR"]
    )
    assert written.returncode == 0, written.stderr
    expected = torch.load(tmp_path / "drawn.pt", weights_only=True)
    ours, judge = networks_of(tmp_path / "network.pt")
    images = _drawn(ours, expected["z"], torch.zeros(4, 0), 0.7)[1]
    assert torch.allclose(images, expected["images"], atol=1e-4 * expected["images"].abs().max())
    features = judge.features(expected["images"])
    assert torch.allclose(judge.judge(features, None, judge.spread(features)), expected["scores"], atol=1e-4)


_ROSINALITYS_CODE = """
import sys
import torch
import torch.utils.cpp_extension

torch.utils.cpp_extension.load = lambda *args, **kwargs: None  # its kernels, which a CPU does without
sys.path.insert(0, "")
from model import Discriminator, Generator

torch.manual_seed(0)
generator, judge = Generator(64, 512, 8, 1).eval(), Discriminator(64, 1).eval()
for network in (generator, judge):
    for name, weight in network.named_parameters():
        if name.endswith("bias"):
            weight.data.add_(torch.randn_like(weight) * (10 if name.startswith("style") else 0.2))
        if name.endswith("noise.weight"):
            weight.data.fill_(0.3)
with torch.no_grad():
    mean, z = generator.mean_latent(4096)[0], torch.randn(4, 512)
    images = generator([z], truncation=0.7, truncation_latent=mean[None], randomize_noise=False)[0]
    scores = judge(images).flatten()
torch.save({"g_ema": generator.state_dict(), "d": judge.state_dict(), "latent_avg": mean}, sys.argv[1] + "/network.pt")
torch.save({"z": z, "images": images, "scores": scores}, sys.argv[1] + "/drawn.pt")
"""


def test_a_style_of_each_layer_is_its_own(files):
    theirs, _ = published.stylegan2()
    ours, _ = networks_of(files(theirs))
    ws = torch.randn(2, ours.num_styles, 8)
    with torch.inference_mode():
        assert torch.allclose(ours.synthesize(ws, torch.tensor(1.0)), theirs.synthesis(ws), atol=1e-4)
    assert ours.style_resolutions == [4, 8, 8, 16, 16, 16]


@pytest.mark.parametrize("step", [0, 20, 50])
def test_biggan_draws_as_published(biggan_file, step):
    ours, judge = networks_of(biggan_file)
    z, label = torch.randn(2, 6), torch.eye(5)[[1, 4]]
    expected = published.draw_biggan(published.biggan(), within_two(z) * step / 50, label, step)
    images = _drawn(ours, z, label, step / 50)[1]
    assert judge is None and expected.std() > 0.1 and torch.allclose(images, expected, atol=1e-4)


def test_z_is_cut_off_at_two():
    z = within_two(torch.randn(100_000, generator=torch.Generator().manual_seed(0)))
    assert z.abs().max() <= 2 and abs(z.std() - 0.8796) < 0.01  # that of the normal distribution between -2 and 2


def test_biggan_draws_as_its_package_does(tmp_path):
    model = pytest.importorskip("pytorch_pretrained_biggan.model", reason="BigGAN's package: pip install '.[bench]'")
    config = pytest.importorskip("pytorch_pretrained_biggan.config").BigGANConfig(
        output_dim=16, z_dim=32, channel_width=8, num_classes=5,
        layers=[(False, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)], attention_layer_position=2,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = model.BigGAN(config).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("gamma", "running_means", "generator.bn.weight", "bias")):
            tensor.normal_(std=0.3)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(config.to_json_string())
    ours, _ = networks_of(tmp_path / "pytorch_model.bin")
    z, label = torch.randn(2, 32), torch.eye(5)[[0, 4]]
    with torch.no_grad():
        assert torch.allclose(_drawn(ours, z, label, 0.4)[1], theirs(within_two(z) * 0.4, label, 0.4), atol=1e-4)


@pytest.fixture(scope="module")
def galip_file(tmp_path_factory):
    """A GALIP as its training saves it; beside it a CLIP that it reads with."""
    home = tmp_path_factory.mktemp("galip")
    torch.save(published.galip(), home / "galip.pth")
    published.save_clip(home / "clip-vit-base-patch32")
    return home / "galip.pth"


def test_galip_draws_and_judges_as_published(galip_file):
    theirs = published.galip()["model"]
    ours, judge = networks_of(galip_file)
    judge.look_through(ours.eyes)
    z, text = torch.randn(3, 6), torch.randn(3, 64)
    expected = published.draw_galip(theirs, z, text)
    images = _drawn(ours, z, text, 1.0)[1]
    assert expected.std() > 0.5 and torch.allclose(images, expected, atol=1e-4)
    assert torch.allclose(_drawn(ours, z, text, 0.5)[1], published.draw_galip(theirs, z / 2, text), atol=1e-4)
    pictures = expected.clamp(-1, 1)
    features, logits = judge.features(pictures), published.judge_galip(theirs, pictures, text)
    assert logits.std() > 0.1 and torch.allclose(judge.judge(features, text, judge.usual), logits, atol=1e-4)
    # Without a text: what it says with several, on average.
    several = torch.stack([published.judge_galip(theirs, pictures, one.expand(3, -1)) for one in text]).mean(0)
    assert torch.allclose(judge.judge(features, None, text), several, atol=1e-4)


def test_a_convolution_of_doubled_pixels_is_as_of_the_pixels():
    x, weight, bias = torch.randn(2, 5, 3, 4), torch.randn(6, 5, 3, 3), torch.randn(6)
    expected = torch.nn.functional.conv2d(torch.nn.functional.interpolate(x, scale_factor=2), weight, bias, padding=1)
    assert torch.allclose(conv_of_doubled(x, corners(weight), bias), expected, atol=1e-5)


def test_a_galip_of_several_gpus_is_read_too(galip_file, tmp_path):
    saved = published.galip(judged=False)["model"]["netG"]
    torch.save({"model": {"netG": {f"module.{name}": tensor for name, tensor in saved.items()}}}, tmp_path / "x.pth")
    ours, judge = networks_of(tmp_path / "x.pth")
    expected = networks_of(galip_file)[0].state_dict()
    assert judge is None and all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.skipif("GALIP_DIR" not in os.environ, reason="GALIP_DIR names no checkout of tobran/GALIP")
def test_galip_draws_as_its_own_code_does(tmp_path):
    pytest.importorskip("clip", reason="CLIP's package: pip install clip-anytorch")
    written = subprocess.run(
        [sys.executable, "-c", _GALIPS_CODE, str(tmp_path)], capture_output=True, text=True, cwd=f"{os.environ['GALIP_DIR']}/code"
    )
    assert written.returncode == 0, written.stderr
    expected = torch.load(tmp_path / "drawn.pt", weights_only=True)
    ours, judge = networks_of(tmp_path / "galip.pth")
    judge.look_through(ours.eyes)
    images = _drawn(ours, expected["z"], expected["text"], 1.0)[1]
    assert torch.allclose(images, expected["images"], atol=1e-4 * expected["images"].abs().max())
    scores = judge.judge(judge.features(expected["images"]), expected["text"], judge.usual)
    assert torch.allclose(scores, expected["scores"], atol=1e-4)


_GALIPS_CODE = """
import contextlib, importlib.util, sys, types
import torch
from clip.model import CLIP

sys.modules["lib"], sys.modules["lib.utils"] = types.ModuleType("lib"), types.ModuleType("lib.utils")  # which want more packages
sys.modules["lib.utils"].dummy_context_mgr = contextlib.nullcontext
spec = importlib.util.spec_from_file_location("GALIP", "models/GALIP.py")
theirs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(theirs)
torch.manual_seed(0)
clip = CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).eval()
networks = {"netG": theirs.NetG(64, 100, 512, 256, 3, False, clip), "netD": theirs.NetD(64, 256, 3, False),
            "netC": theirs.NetC(64, 512, False)}
for network in networks.values():
    for name, weight in network.eval().named_parameters():
        if "linear2" in name:
            weight.data.normal_(std=0.05).add_(float(name.endswith("gamma.linear2.bias")))
        if name.endswith((".gamma", ".beta")):
            weight.data.fill_(0.3)
torch.save({"model": {name: network.state_dict() for name, network in networks.items()}}, sys.argv[1] + "/galip.pth")
z, text = torch.randn(2, 100), torch.randn(2, 512)
with torch.no_grad():
    images = networks["netG"](z, text, eval=True)
    scores = networks["netC"](networks["netD"](theirs.CLIP_IMG_ENCODER(clip)(images)[0]), text).flatten()
torch.save({"z": z, "text": text, "images": images, "scores": scores}, sys.argv[1] + "/drawn.pt")
"""


@pytest.mark.skipif("STYLEGAN3_DIR" not in os.environ, reason="STYLEGAN3_DIR names no checkout of NVlabs/stylegan3")
@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3-t", "stylegan3-r"])
def test_a_stylegan_draws_as_its_own_code_does(kind, tmp_path):
    written = subprocess.run(
        [sys.executable, "-c", _THEIR_CODE, kind, str(tmp_path)], capture_output=True, text=True, cwd=os.environ["STYLEGAN3_DIR"]
    )
    assert written.returncode == 0, written.stderr
    expected = torch.load(tmp_path / "drawn.pt", weights_only=True)
    ours, judge = networks_of(tmp_path / "network.pkl")
    images = _drawn(ours, expected["z"], torch.zeros(4, 0))[1]
    assert torch.allclose(images, expected["images"], atol=1e-4 * expected["images"].abs().max())
    features = judge.features(expected["images"])
    assert torch.allclose(judge.judge(features, None, judge.spread(features)), expected["scores"], atol=1e-4)


_THEIR_CODE = """
import pickle, sys
sys.path.insert(0, ".")
import torch
from training import networks_stylegan2, networks_stylegan3
kind, out = sys.argv[1:]
torch.manual_seed(0)
small = dict(channel_base=2048, channel_max=64)
if kind == "stylegan2":
    G = networks_stylegan2.Generator(64, 0, 64, 64, 3, **small)
else:
    turned = dict(conv_kernel=1, use_radial_filters=True) if kind == "stylegan3-r" else {}
    G = networks_stylegan3.Generator(64, 0, 64, 64, 3, **small, **turned)
D = networks_stylegan2.Discriminator(0, 64, 3, **small)
for name, tensor in [*G.named_parameters(), *G.named_buffers()]:
    if name.endswith(("noise_strength", "magnitude_ema")):
        tensor.data.fill_(0.3)
    elif name.endswith(("bias", "w_avg", "input.affine.weight")):
        tensor.data.add_(torch.randn_like(tensor) * 0.3)
G, D = G.eval().requires_grad_(False), D.eval().requires_grad_(False)
with open(out + "/network.pkl", "wb") as file:
    pickle.dump(dict(G=G, D=D, G_ema=G, augment_pipe=None, training_set_kwargs=None), file)
z = torch.randn(4, 64)
still = dict(noise_mode="const") if kind == "stylegan2" else {}
images = G(z, torch.zeros(4, 0), truncation_psi=0.7, force_fp32=True, **still)
torch.save(dict(z=z, images=images, scores=D(images, torch.zeros(4, 0), force_fp32=True)[:, 0]), out + "/drawn.pt")
"""


# ------------------------------------------------------------------------------------------- nothing of a file is run


class Evil:
    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(os.system, "touch {}"), (eval, "open('{}', 'w')"), (exec, "open('{}', 'w')")])
def test_nothing_that_a_pickle_calls_is_run(call, tmp_path, files):
    function, text = call
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Evil(function, text.format(canary))}))
    with pytest.raises(ValueError):
        networks_of(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # by itself it would be
    assert canary.exists()


def test_the_code_that_a_pickle_carries_is_not_run(files):
    theirs, judge = published.stylegan2()
    path = files(theirs, judge)
    before = set(sys.modules)
    found = read_pickle(path)
    assert isinstance(found["G_ema"], Thing) and found["G_ema"].kind == "Generator" and set(sys.modules) == before
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        pickle.loads(path.read_bytes())


def test_a_storage_in_a_pickle_may_hold_data_only(tmp_path):
    canary = tmp_path / "canary"
    inner = pickle.dumps(Evil(os.system, f"touch {canary}"), protocol=2)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Evil(torch.storage._load_from_bytes, inner)}))
    with pytest.raises(ValueError, match="cannot be read"):
        networks_of(path)
    assert not canary.exists()


@pytest.mark.parametrize("archive", [True, False])
def test_all_that_torch_saves_is_read_and_what_else_is_there_is_not_run(archive, tmp_path):
    whole, ran = torch.randn(6, 4), tmp_path / "ran"
    saved = {
        "a part": whole[2:, 1:].t(), "whole": whole, "half": torch.randn(5).half(), "wide": torch.randn(3).bfloat16(),
        "numbers": torch.arange(4), "truth": torch.tensor([True, False]), "one": torch.tensor(3.5), "none": torch.empty(0, 2),
        "learnt": torch.nn.Parameter(torch.randn(3)), "more": [{"in": torch.ones(2)}],
    }  # fmt: skip
    torch.save(saved | {"evil": Evil(open, str(ran), "w")}, tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    found = read_pickle(tmp_path / "x.pt")
    for name, tensor in saved.items():
        if name != "more":
            assert torch.equal(found[name], tensor.detach()) and found[name].dtype == tensor.dtype
    assert torch.equal(found["more"][0]["in"], torch.ones(2)) and isinstance(found["evil"], Thing) and not ran.exists()


DAMAGED = {
    "cut in its numbers": (False, lambda data: data[:-3]),
    "a length that is not": (False, lambda data: data.replace((300).to_bytes(8, "little"), (301).to_bytes(8, "little"))),
    "an archive cut short": (True, lambda data: data[:-40]),
    "an archive of other bytes": (True, lambda data: data.replace(b"little", b"bigger")),
    "an archive of something else": (True, lambda data: data.replace(b"data.pkl", b"data.xml")),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_of_torch_is_refused_in_a_sentence(kind, tmp_path):
    archive, damage = DAMAGED[kind]
    torch.save({"g_ema": torch.ones(300)}, tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    data = (tmp_path / "x.pt").read_bytes()
    assert damage(data) != data
    (tmp_path / "x.pt").write_bytes(damage(data))
    with pytest.raises(ValueError, match="cannot be read") as refusal:
        networks_of(tmp_path / "x.pt")
    assert "\n" not in str(refusal.value)


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    torch.save({"g_ema": torch.zeros(300)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="a zip file of something else"):
        networks_of(tmp_path / "y.pt")


def test_numbers_of_numpy_are_read(tmp_path):
    import numpy as np

    path = tmp_path / "numbers.pkl"
    table = np.arange(6, dtype=">i4").reshape(2, 3)
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"a": table, "b": np.asfortranarray(table), "c": np.float64(2.5), "d": np.bool_(True)}, protocol))
        found = read_pickle(path)
        assert (found["a"].numbers == table).all() and (found["b"].numbers == table).all()
        assert (found["c"], found["d"]) == (2.5, True)
    path.write_bytes(pickle.dumps(np.empty((10**6, 0), "u1"), 5))
    assert read_pickle(path).numbers.nbytes == 0  # and not a million lists
    path.write_bytes(pickle.dumps(np.array([{}], dtype=object)))
    with pytest.raises(ValueError, match="numbers that are none"):
        read_pickle(path)


DEEP, WIDE = b")" + b"\x85" * 200_000, b")" + b"2\x86" * 20  # a tuple in a tuple in …, and one twice in one twice in …


@pytest.mark.parametrize("key", [DEEP, WIDE], ids=["deep", "wide"])
@pytest.mark.parametrize("form", [b"}%sNs.", b"}(%sNu.", b"(%sNd."], ids=["a key", "one of several", "one of old"])
def test_a_key_takes_neither_time_nor_the_stack(key, form, tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + form % key)
    with pytest.raises(ValueError, match="odd keys"):
        read_pickle(tmp_path / "x.pkl")


SETS = {"a set": b"\x8f(%s\x90.", "a frozen one": b"(%s\x91.", "one of old": b"cbuiltins\nset\n(%s\x85tR."}


@pytest.mark.parametrize("form", SETS.values(), ids=SETS)
def test_what_is_in_a_set_takes_none_either(form, tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + form % WIDE)
    assert isinstance(read_pickle(tmp_path / "x.pkl"), Thing)


def test_a_pickle_says_how_many_objects_it_remembers_and_takes_no_memory_for_it(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02\x88r" + (2**31).to_bytes(4, "little") + b".")
    assert read_pickle(tmp_path / "x.pkl") is True


def _tensor(size, stride=(1,), state=None) -> bytes:
    """A tensor of four numbers that says it has others."""
    numbers = torch.ones(4).storage()
    state = state and (numbers, *state)
    return pickle.dumps({"G_ema": Evil(torch._utils._rebuild_tensor_v2, numbers, 0, size, stride, False, None, state=state)})


def _named(name) -> bytes:
    """Numbers in an old file of torch, under this name."""
    first = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    refers = b"\x80\x02(\x8c\x07storagectorch\nFloatStorage\n%s\x8c\x03cpuK\x01tQ." % pickle.dumps(name, 2)[2:-1]
    return first + refers + pickle.dumps([name], 2) + (1).to_bytes(8, "little") + bytes(4)


HOSTILE_PICKLES = {
    "a number again and again": (lambda: _tensor((30_000, 30_000), (0, 0)), "larger than their numbers"),
    "a size of tuples": (lambda: _tensor((4, (1,))), "larger than their numbers"),
    "a tensor set anew": (lambda: _tensor((4,), state=(0, (400_000_000,), (1,))), "changes what it may not"),
    "the reader's own functions": (
        lambda: b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}\x8c\x0c__defaults__K\x01\x85s\x86b.", "changes what it may"),
    "numbers set in a tensor": (lambda: _tensor((4,))[:-2] + b"K\x00K\x01ss.", "odd keys"),
    "a copy of a dictionary": (lambda: pickle.dumps(Evil(dict, {"a": 1})), "copies its dictionaries"),
    "a dictionary of pairs": (lambda: pickle.dumps(Evil(OrderedDict, [("a", 1)])), "copies its dictionaries"),
    "an old copy": (lambda: b"(cbuiltins\ndict\n(I1\nI2\ndo.", "copies its dictionaries"),
    "a class named by a list": (
        lambda: b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n}\x8c\nclass_name]s\x85R.", "by none"),
    "numbers named by a tuple": (lambda: _named(("a",)), "names its numbers by none"),
    "more bytes than there are": (lambda: b"\x80\x05\x96" + (2**31).to_bytes(8, "little") + b".", "shorter than it says"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("kind", HOSTILE_PICKLES)
def test_a_hostile_pickle_is_refused_in_a_sentence(kind, tmp_path):
    make, message = HOSTILE_PICKLES[kind]
    (tmp_path / "x.pkl").write_bytes(make())
    with pytest.raises(ValueError, match=message) as refusal:
        read_pickle(tmp_path / "x.pkl")
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_entries_of_one_name_the_one_that_is_stored_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps("stored"))
        archive.writestr("x/data.pkl", pickle.dumps("packed"), zipfile.ZIP_DEFLATED)
    assert read_pickle(tmp_path / "x.pt") == "stored"


def test_what_a_pickle_names_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__getattr__", pytest.fail)  # by which torch imports some of its modules
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02ctorch\n_anything\n.")
    assert issubclass(read_pickle(tmp_path / "x.pkl"), Thing)


def test_what_is_named_again_is_not_copied_again(tmp_path):
    text, saved = "four", io.BytesIO()
    torch.save(torch.ones(4), saved, _use_new_zipfile_serialization=False)
    numbers = saved.getvalue()
    calls = [(codecs.encode, text, "latin1")] * 2 + [(torch.storage._load_from_bytes, numbers)] * 2
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([Evil(*call) for call in calls]))
    first, second, third, fourth = read_pickle(tmp_path / "x.pkl")
    assert first == b"four" and first is second and third.tolist() == [1, 1, 1, 1] and third is fourth


def _beyond(tmp_path) -> bytes:
    """A tensor that says it is larger than its data."""
    return _tensor((2**40,))


BROKEN = {
    "a text": (lambda path: b"not a pickle", "cannot be read"),
    "half of it": (lambda path: path.read_bytes()[: path.stat().st_size // 2], "cannot be read"),
    "nothing": (lambda path: b"", "cannot be read"),
    "a tensor beyond its data": (_beyond, "cannot be read"),
    "another pickle": (lambda path: pickle.dumps({"G": 1}), "no GAN that can be converted"),
    "a network of another kind": (lambda path: pickle.dumps({"G_ema": Evil(dict)}), "no GAN that can be converted"),
}


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_in_a_sentence(kind, files, tmp_path):
    make, message = BROKEN[kind]
    path = files(*published.stylegan2())
    path.write_bytes(make(path))
    with pytest.raises(ValueError, match=message) as refusal:
        networks_of(path)
    assert "\n" not in str(refusal.value)


def test_an_error_that_says_little_is_named(tmp_path):
    (tmp_path / "wf.py").write_text("# no pickle")  # its first byte, 35, is looked up as what to do
    with pytest.raises(ValueError, match=r"wf.py cannot be read as a pickle of networks \(KeyError: 35\)"):
        networks_of(tmp_path / "wf.py")


ODD = {
    "layers without leaky ReLUs": lambda g, d: setattr(g.synthesis.b8.conv0, "activation", "relu"),
    "without skip connections": lambda g, d: setattr(g.synthesis.b8, "architecture", "resnet"),
    "another low-pass filter": lambda g, d: g.synthesis.b8.resample_filter.fill_(1),
    "not built as": lambda g, d: delattr(g.synthesis.b8, "conv1"),
    "do not fit together": lambda g, d: setattr(g.synthesis.b8.conv1, "bias", published.some(3)),
    "discriminator with skip connections": lambda g, d: setattr(d.b16, "architecture", "skip"),
    # Where networks were built before they are compared with their tensors, these would take terabytes.
    "size mismatch for mapping.layers.0.weight": lambda g, d: setattr(g, "z_dim", 2 * 10**12),
    "numbers that do not fit together": lambda g, d: setattr(d.b4.mbstd, "num_channels", 10**12),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_built_otherwise_is_refused_in_a_sentence(what, files):
    generator, judge = published.stylegan2()
    ODD[what](generator, judge)
    with pytest.raises(ValueError, match=what):
        networks_of(files(generator, judge))


def test_the_layers_of_a_stylegan3_have_names(files):
    generator, _ = published.stylegan3()
    generator.synthesis.layer_names *= 20
    with pytest.raises(ValueError, match="without names, or too many"):
        networks_of(files(generator))


def test_without_noise_there_is_none_of_a_pictures_size(files):
    generator, _ = published.stylegan2()
    generator.synthesis.b8.conv0.use_noise, generator.synthesis.b8.conv0.resolution = False, 10**7
    noise = networks_of(files(generator))[0].scales[1].conv0.noise
    assert noise.shape == (8, 8) and not noise.any()


def test_a_discriminator_of_another_kind_is_left_out(files):
    generator, _ = published.stylegan2()
    assert networks_of(files(generator, published.FullyConnectedLayer(2, 1)))[1] is None
    assert networks_of(files(generator))[1] is None


@pytest.mark.parametrize(
    "config, message", [(None, "config.json"), ("[]", "not the config"), ('{"channel_width": 4}', "not the config")]
)
def test_a_biggan_needs_its_config(config, message, tmp_path):
    torch.save(published.biggan(), tmp_path / "pytorch_model.bin")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        networks_of(tmp_path / "pytorch_model.bin")


ODD_BIGGAN = {
    "statistics that take terabytes": ({"n_stats": 3 * 10**12}, {}, "size mismatch for .*variances"),
    "fewer statistics than none": ({"n_stats": -5}, {}, "numbers that do not fit together"),
    "a huge picture": ({"output_dim": 65_536}, {}, "numbers that do not fit together"),
    "no layers": ({"layers": []}, {}, "no layers"),
    "no end of layers": ("[" * 100_000, {}, "not the config"),
    "a number without end": ({"z_dim": float("inf")}, {}, "not the config"),
    "a norm of another size": ({}, {"generator.gen_z.weight_u": torch.zeros(3)}, "not built as"),
    "a number for a weight": ({}, {"embeddings.weight": 3}, "not built as"),
}


@pytest.mark.parametrize("kind", ODD_BIGGAN)
def test_a_biggan_built_otherwise_is_refused_in_a_sentence(kind, tmp_path):
    config, weights, message = ODD_BIGGAN[kind]
    torch.save(published.biggan() | weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(published.BIGGAN | config))
    with pytest.raises(ValueError, match=message) as refusal:
        networks_of(tmp_path / "pytorch_model.bin")
    assert "\n" not in str(refusal.value)


# ------------------------------------------------------------------------------------------------ as a GAN among GANs


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A StyleGAN2 of one kind of thing, in a file."""
    home = tmp_path_factory.mktemp("converted")
    generator, judge = published.stylegan2()
    source = published.write(home / "things.pkl", G=None, D=judge, G_ema=generator)
    convert(source, home / "things.safetensors", licenses=["a licence"])
    return home / "things.safetensors"


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    home = tmp_path_factory.mktemp("classes")
    generator, judge = published.stylegan2(5)
    source = published.write(home / "classes.pkl", G=None, D=judge, G_ema=generator)
    convert(source, home / "classes.safetensors", NAMES)
    return load(home / "classes.safetensors")


@pytest.fixture(scope="module")
def read():
    from llm_gan.models.language.catalogue import DEFAULT_LANGUAGE_MODEL
    from llm_gan.models.language.model import LanguageModel

    model = LanguageModel.load(DEFAULT_LANGUAGE_MODEL)
    return lambda *prompts: model.encode(prompts)


def test_a_converted_file_says_what_it_is(converted):
    card, recipe, resolution = load_card(converted)
    assert (card.name, card.data, card.licenses) == ("things", "converted from things.pkl, StyleGAN2", ["a licence"])
    assert resolution == 16 and recipe.model == "gemma-3-270m" and preview(read_metadata(converted))


def test_what_is_saved_comes_back(converted, tmp_path):
    before = load(converted)
    after = load(save_published(before, tmp_path / "again.safetensors"))
    weights = after.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in before.state_dict().items())
    z = before.sample_z(1, 2)
    assert torch.equal(after.generate(condition(2), z)[0], before.generate(condition(2), z)[0])


def test_in_half_precision_pictures_stay_the_same_within_rounding(converted, tmp_path):
    whole = load(converted)
    path = save_published(whole, tmp_path / "half.safetensors", torch.float16)
    z = whole.sample_z(1, 4)
    expected = whole.generate(condition(4), z)[0]
    for half in (load(path), load(converted, dtype=torch.float16)):
        assert (half.generate(condition(4), z)[0] - expected).abs().max() < 4 / 255
    assert load(converted, dtype=torch.float16).dtype == torch.float16


def test_a_network_without_a_clamp_stays_in_fp32(biggan_file, tmp_path, read):
    convert(biggan_file, tmp_path / "big.safetensors", NAMES)
    gan = load(tmp_path / "big.safetensors", dtype=torch.float16)
    assert gan.dtype == torch.float32
    images, latent = gan.generate(read("a pizza").repeat(2), gan.sample_z(0, 2), 0.5)
    assert images.shape == (2, 16, 16, 3) and latent.styles.shape == (2, 4, 12)


def test_a_picture_depends_on_its_seed_alone(converted):
    gan = load(converted)
    z = gan.sample_z(3, 5)
    images, _ = gan.generate(condition(5), z)
    assert torch.allclose(gan.generate(condition(5), z, batch_size=2)[0], images, atol=1e-5)
    assert torch.allclose(gan.generate(condition(1), z[[4]])[0], images[4:], atol=1e-5)
    assert (images[0] - images[1]).abs().mean() > 0.01
    alike, _ = gan.generate(condition(2), z[:2], 0.0)
    assert torch.allclose(alike[0], alike[1], atol=1e-5)


def test_a_score_does_not_depend_on_its_company(converted):
    gan = load(converted)
    images, _ = gan.generate(condition(5), gan.sample_z(0, 5))
    scores = gan.score(images, condition(1))
    assert torch.allclose(gan.score(images[3:4]).realism, scores.realism[3:4], atol=1e-5)
    assert scores.alignment.eq(0).all() and scores.realism.std() > 0


def test_latents_are_mixed_moved_walked_and_kept(converted, tmp_path):
    gan = load(converted)
    images, drawn = gan.generate(condition(2), gan.sample_z(0, 2))
    everywhere = latents.layers_of(gan.generator, ["all"])
    mixed = latents.mix(drawn[[0]], drawn[[1]], everywhere)
    assert torch.allclose(gan.generate(condition(1), mixed)[0], images[1:], atol=1e-4)
    half = latents.mix(drawn[[0]], drawn[[1]], latents.layers_of(gan.generator, ["middle"]))
    half, _ = gan.generate(condition(1), half)
    assert (half - images[0]).abs().mean() > 0.01 and (half - images[1]).abs().mean() > 0.01
    for method in ("sefa", "pca"):
        directions = latents.directions(gan, method, everywhere, 3)
        moved = latents.slide(drawn, directions, torch.tensor([2.0, 0, 0]), everywhere, gan.generator.num_styles)
        assert (gan.generate(condition(2), moved)[0] - images).abs().mean() > 0.01
    walk = latents.interpolate(drawn, 3)
    assert torch.allclose(gan.generate(condition(3), walk)[0][[0, 2]], images, atol=1e-4)
    latents.save_latent(mixed, tmp_path / "a.latent.safetensors", gan)
    kept, _ = latents.load_latent(tmp_path / "a.latent.safetensors")
    gan.check_latent(kept)
    with pytest.raises(ValueError, match="of another GAN"):
        gan.check_latent(Latent(torch.zeros(1, 64)))


def test_prompts_find_their_class(of_classes, read):
    prompts = ["a photo of a cat", "一张狗的照片", "a volcano at night", "pizza", "一把吉他"]
    label = of_classes._label(read(*prompts))
    assert label.argmax(1).tolist() == [0, 1, 2, 3, 4] and label.max(1).values.min() > 0.9
    drawn, _ = of_classes.generate(read(*prompts), of_classes.sample_z(0, 1)[[0] * 5])
    assert (drawn[0] - drawn[1]).abs().max() > 0.1


def test_between_two_prompts_lie_both_classes(of_classes, read):
    label = of_classes._label(latents.travel(read("cat", "pizza"), 3))
    assert label[0, 0] > 0.99 and label[2, 3] > 0.99 and 0.2 < label[1, 0] < 0.8 and label[1, [0, 3]].sum() > 0.9


def test_a_discriminator_of_classes_tells_realism_from_match(of_classes, read):
    images, _ = of_classes.generate(read("cat").repeat(3), of_classes.sample_z(0, 3))
    scores = [of_classes.score(images, read(name.split(",")[0])) for name in NAMES]
    assert all(torch.allclose(score.realism, scores[0].realism) for score in scores)
    # Realism is the mean over the classes, so that what they have more adds up to nothing.
    assert torch.stack([score.alignment for score in scores]).mean(0).abs().max() < 0.05 * scores[0].total.abs().max()


def test_a_prompt_of_another_model_is_refused_where_it_counts(of_classes, converted):
    foreign = condition(1)
    with pytest.raises(ValueError, match="load gemma-3-270m"):
        of_classes.check(foreign)
    load(converted).check(foreign)


@pytest.fixture(scope="module")
def galip(galip_file, tmp_path_factory):
    """GALIP in a converted file, and what its CLIP reads."""
    from llm_gan.models.language.model import LanguageModel

    out = tmp_path_factory.mktemp("converted") / "galip.safetensors"
    convert(galip_file, out, models={CLIP: galip_file.parent / CLIP}, dtype=torch.float16)
    return out, LanguageModel.load(galip_file.parent / CLIP)


def test_a_galip_draws_and_scores_what_its_clip_reads(galip, read):
    out, clip = galip
    gan, prompts = load(out), ["a cat", "a dog at night"]
    condition = clip.encode(prompts)
    images, latent = gan.generate(condition, gan.sample_z(0, 2), 0.8)
    assert images.shape == (2, 40, 40, 3) and latent.styles.shape == (2, 4, 70)
    assert torch.equal(latent.styles[:, 0, 6:], condition.pooled)
    other, _ = gan.generate(clip.encode(prompts[::-1]), gan.sample_z(0, 2), 0.8)
    assert (images - other).abs().mean() > 0.01
    scores = gan.score(images, condition)
    with torch.no_grad():
        features = gan.discriminator.features(images.permute(0, 3, 1, 2) * 2 - 1)
        logits = torch.stack([gan.discriminator.judge(features, said[None], None) for said in clip.encode(CAPTIONS).pooled])
    assert torch.allclose(scores.realism, logits.mean(0), atol=1e-3) and scores.alignment.abs().min() > 0
    assert torch.equal(gan.score(images).realism, scores.realism) and gan.score(images).alignment.eq(0).all()
    halfway = latents.travel(condition, 3)
    between, _ = gan.generate(halfway, gan.sample_z(0, 1)[[0] * 3])
    assert torch.allclose(halfway.pooled[1], condition.pooled.mean(0), atol=1e-5) and (between[0] - between[1]).abs().mean() > 0.01
    with pytest.raises(ValueError, match=f"load {CLIP}"):
        gan.check(read("a cat"))


def test_a_galip_is_stored_in_half_and_draws_nearly_the_same(galip, galip_file, tmp_path):
    out, clip = galip
    whole = convert(galip_file, tmp_path / "whole.safetensors", llm=galip_file.parent / CLIP)
    half = load(out, dtype=torch.float16)
    assert half.dtype == torch.float32 and out.stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    z, condition = whole.sample_z(0, 4), clip.encode(["a cat"]).repeat(4)
    pictures = [gan.generate(condition, z)[0] for gan in (whole, half, load(tmp_path / "whole.safetensors"))]
    assert (pictures[0] - pictures[1]).abs().mean() < 1 / 255 and torch.allclose(pictures[0], pictures[2], atol=1e-5)
    names = load_file(out).keys()
    assert any(name.startswith("generator.eyes.") for name in names) and not any("discriminator.eyes" in name for name in names)


def test_a_galip_is_mixed_and_moved(galip):
    out, clip = galip
    gan, condition = load(out), clip.encode(["a cat", "a dog"])
    images, drawn = gan.generate(condition, gan.sample_z(0, 2))
    everywhere = latents.layers_of(gan.generator, ["all"])
    mixed = latents.mix(drawn[[0]], drawn[[1]], everywhere)
    assert torch.allclose(gan.generate(condition[0], mixed)[0], images[1:], atol=1e-4)
    for method in ("sefa", "pca"):
        directions = latents.directions(gan, method, everywhere, 2)
        moved = latents.slide(drawn, directions, torch.tensor([2.0, 0]), everywhere, gan.generator.num_styles)
        assert (gan.generate(condition, moved)[0] - images).abs().mean() > 0.01


def test_a_galip_needs_its_clip(galip_file, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_GAN_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"put the folder openai/{CLIP}"):
        convert(galip_file, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="gives 640 numbers, and this GAN reads 64. GALIP reads with CLIP"):
        convert(galip_file, tmp_path / "x.safetensors", llm="gemma-3-270m")
    assert not (tmp_path / "x.safetensors").exists()


ODD_GALIP = {
    "no eyes": lambda networks: [networks["netG"].pop(name) for name in list(networks["netG"]) if "CLIP_ViT" in name],
    "a layer less": lambda networks: networks["netG"].pop("GBlocks.1.c2.weight"),
    "a layer of another size": lambda networks: networks["netG"].update({"GBlocks.1.c2.weight": torch.zeros(6, 5, 3, 3)}),
    "few layers of eyes": lambda networks: networks["netG"].pop("mapping.CLIP_ViT.transformer.resblocks.8.ln_1.bias"),
    "no judgement": lambda networks: networks["netC"].clear(),
    "another thing": lambda networks: networks.update(netG=[]),
}


@pytest.mark.parametrize("what", ODD_GALIP)
def test_a_galip_built_otherwise_is_refused_in_a_sentence(what, tmp_path):
    saved = published.galip()
    ODD_GALIP[what](saved["model"])
    torch.save(saved, tmp_path / "x.pth")
    with pytest.raises(ValueError) as refusal:
        networks_of(tmp_path / "x.pth")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600


HOSTILE_GALIP = {
    "a patch of none": ("generator", {"patch": 0}),
    "eyes of another width": ("generator", {"eyes": 64}),
    "many words": ("generator", {"words": 60}),
    "a text of another width": ("generator", {"text": 65}),
    "many layers": ("generator", {"layers": 60_000}),
    "a judge of other eyes": ("discriminator", {"grid": 7}),
    "a kernel that is too large": ("discriminator", {"kernel": 6}),
    "a judge of another kind": ("discriminator", {"resolution": 40}),
    "one channel": ("generator", {"channels": [12]}),
}


@pytest.mark.parametrize("kind", HOSTILE_GALIP)
def test_a_hostile_galip_is_refused_in_a_sentence(kind, galip, tmp_path):
    part, change = HOSTILE_GALIP[kind]
    metadata = read_metadata(galip[0])
    metadata[part] = json.dumps(json.loads(metadata[part]) | change)
    save_file(load_file(galip[0]), tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError) as refusal:
        load(tmp_path / "x.safetensors")
    assert "\n" not in str(refusal.value)


def test_what_a_published_gan_cannot_do_is_said(converted, tmp_path):
    gan = load(converted)
    assert isinstance(gan, PublishedGAN)
    images, _ = gan.generate(condition(1), gan.sample_z(0, 1))
    for work in (
        lambda: invert(gan, images, condition(1)),
        lambda: save_gan(gan, tmp_path / "x.safetensors"),
        lambda: load_gan(converted),
    ):
        with pytest.raises(ValueError, match="take a GAN that LLM-GAN trained"):
            work()
    with pytest.raises(ValueError, match="draws its background too"):
        gan.generate(condition(1), gan.sample_z(0, 1), transparent=True)


@pytest.mark.parametrize("names, message", [((), "5 classes: give"), (NAMES[:4], "5 classes, and 4 are named")])
def test_classes_must_be_named(names, message, files, tmp_path):
    source = files(*published.stylegan2(5))
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "x.safetensors", names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_discriminator_lies_in_memory_as_its_activations_do(converted, dtype):
    judge = load(converted, dtype=dtype).discriminator
    assert judge.scales[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        scores = judge.judge(judge.features(images), None, judge.usual)
        other = judge.to(memory_format=torch.contiguous_format)
        assert torch.allclose(scores, other.judge(other.features(images), None, other.usual), atol=1e-6 if dtype.itemsize == 4 else 0.02)


def test_a_discriminator_without_statistics_comes_back(converted, files, tmp_path):
    generator, judge = published.stylegan2()
    del judge.b4.mbstd
    judge.b4.conv = published.Conv2dLayer(8, 8, 3)
    gan = PublishedGAN(*networks_of(files(generator, judge)), load(converted).recipe)
    again = load(save_published(gan, tmp_path / "x.safetensors"))
    images = torch.rand(2, 16, 16, 3)
    assert torch.equal(again.score(images).realism, gan.score(images).realism)


UNSTORABLE = {"not finite": (float("nan"), torch.float32), "without --half": (1e5, torch.float16)}


@pytest.mark.parametrize("message", UNSTORABLE)
def test_what_could_not_be_read_again_is_not_written(message, files, tmp_path, monkeypatch):
    number, dtype = UNSTORABLE[message]
    generator, judge = published.stylegan2()
    generator.synthesis.b4.const[0, 0, 0] = number
    monkeypatch.setattr(LanguageModel, "load", lambda *_: pytest.fail("it takes long to say so"))
    with pytest.raises(ValueError, match=message):
        convert(files(generator, judge), tmp_path / "x.safetensors", dtype=dtype)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_file_with_an_old_name_is_converted(tmp_path):
    theirs = published.write(tmp_path / "x.pkl", G=None, D=None, G_ema=published.stylegan2()[0])
    try:
        source = theirs.rename(tmp_path / os.fsdecode(b"caf\xe9.pkl"))
    except OSError:
        pytest.skip("this system's names are all Unicode")
    with pytest.raises(ValueError, match="caf\ufffd.safetensors is not Unicode"):
        convert(source, source.with_suffix(".safetensors"))
    convert(source, tmp_path / "x.safetensors")
    assert load_card(tmp_path / "x.safetensors")[0].data == "converted from caf\ufffd.pkl, StyleGAN2"


def test_nothing_is_overwritten(files, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        convert(files(*published.stylegan2()), tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"


def _config(name, value):
    def change(metadata):
        metadata["generator"] = json.dumps(json.loads(metadata["generator"]) | {name: value})

    return change


HOSTILE = {
    "no number": _config("z_dim", "8"),
    "a huge number": _config("z_dim", 10**12),
    "a long list": _config("channels", [8] * 1000),
    "a list for a number": _config("resolution", [16]),
    "numbers that do not fit": _config("resolution", 32),
    "a width of none": _config("z_dim", 0),
    "another field": _config("more", 1),
    "no generator": lambda metadata: metadata.pop("generator"),
    "another kind": lambda metadata: metadata.update(published="VQGAN"),
    "odd names": lambda metadata: metadata.update(classes='{"names": [3]}'),
    "names of no class": lambda metadata: metadata.update(classes='{"names": [["cat"]]}'),
    "a newer format": lambda metadata: metadata.update(llm_gan="4"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(kind, converted, tmp_path):
    metadata = read_metadata(converted)
    HOSTILE[kind](metadata)
    save_file(load_file(converted), tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError) as refusal:
        load(tmp_path / "x.safetensors")
    assert "\n" not in str(refusal.value)


HOSTILE_LAYERS = {
    "a dense signal": {"up": 2000},
    "few samples": {"down": 2000},
    "much around it": {"before": 8000, "after": 8000},
    "much on one side": {"before": 8000, "after": -8000},
    "a size that does not come out": {"size": 9000},
    "many taps": {"up_taps": 60_000},
}


@pytest.mark.parametrize("kind", HOSTILE_LAYERS)
def test_a_small_file_does_not_ask_for_large_signals(kind, files):
    config = networks_of(files(published.stylegan3()[0]))[0].config
    first, layer, *others = config.layers
    assert config.fits() and not replace(config, layers=(first, layer._replace(**HOSTILE_LAYERS[kind]), *others)).fits()


def test_nor_for_large_pictures(files, biggan_file, galip_file):
    assert not replace(networks_of(galip_file)[0].config, resolution=8192).fits()
    config = networks_of(biggan_file)[0].config
    large = replace(config, resolution=65_536, channels=(8,) * 15, up=(1,) * 14)
    assert not large.fits() and replace(large, resolution=4096, channels=(8,) * 11, up=(1,) * 10).fits()
    config = networks_of(files(published.stylegan3()[0]))[0].config
    first, *others = config.layers
    total = first.before + first.after - first.up * (9000 - config.size)  # by which the next one's size stays
    first = first._replace(before=(total + 1) // 2, after=total // 2)
    assert first.size_of(9000) == first.size and not replace(config, size=9000, layers=(first, *others)).fits()


def test_a_tensor_of_another_shape_is_refused(converted, tmp_path):
    tensors = load_file(converted) | {"generator.constant": torch.zeros(8, 4, 5)}
    save_file(tensors, tmp_path / "x.safetensors", read_metadata(converted))
    with pytest.raises(ValueError, match="its config says"):
        load(tmp_path / "x.safetensors")
