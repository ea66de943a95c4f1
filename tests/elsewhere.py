"""A second device, for machines that have none, and what the pack does on it: `test_device.py` runs it in a process of its own.

Tensors of `elsewhere:0` are computed on the CPU. What mixes devices fails here as it would on a GPU, and what does not gives
the numbers of the CPU. Like Apple's, it has no 64-bit floating-point numbers. It says nothing of a GPU's own arithmetic.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from llm_gan.models import checkpoint, tensors
from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.enlarger import enlarge, load_enlarger
from llm_gan.models.evaluation.evaluate import evaluate, open_folder
from llm_gan.models.features import EfficientNetLite
from llm_gan.models.gan import Latent
from llm_gan.models.generator import GeneratorConfig
from llm_gan.models.inversion import invert
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.latents import directions, layers_of, slide
from llm_gan.models.published.checkpoint import load
from llm_gan.models.published.convert import convert
from llm_gan.models.recorded import Recordings
from llm_gan.models.restoration import restore, restyle
from llm_gan.models.training import dataset, reader
from llm_gan.models.training.distill import distill_folder
from llm_gan.models.training.encoder import train_encoder_folder
from llm_gan.models.training.run import train_folder
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import published
from test_compression import states
from test_scenes import WIDTH, Words, folder  # noqa: F401 (a fixture)

NAME = "elsewhere"
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}  # what waits for numbers
WAITS = []  # what so far would have waited for a GPU
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}  # by either's


class There(torch.Tensor):
    """A tensor of the other device; `here` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor, requires_grad: bool = False):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=torch.device(NAME, 0), requires_grad=requires_grad,
        )  # fmt: skip

    def __init__(self, here: torch.Tensor, requires_grad: bool = False):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    """`function` on the CPU; its results lie where its tensors, or its device, say."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, There) for x in tensors)
    if there and function not in MOVES:
        alike = tensors[:1] if function in INDEXED else tensors
        if any(not isinstance(x, There) and x.ndim for x in alike):
            raise RuntimeError(f"{function} of tensors of two devices: {[(str(x.device), *x.shape) for x in tensors]}")
    before = there
    if function is torch.ops.aten.copy_.default:
        there, before = isinstance(args[0], There), isinstance(args[1], There)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu")}
    if (function in MOVES and there != before) or (function in READS and before):
        WAITS.append(str(function))
    same = {id(x.here): x for x in tensors if isinstance(x, There)}
    args, kwargs = tree_map(lambda x: x.here if isinstance(x, There) else x, (args, kwargs))
    results = function(*args, **kwargs)
    if not there:
        return results

    def wrap(x):
        if not isinstance(x, torch.Tensor):
            return x
        if x.dtype == torch.float64:
            raise TypeError(f"{function} gives 64-bit numbers, which not every device has")
        return same[id(x)] if id(x) in same else There(x)

    return tree_map(wrap, results)


class Dispatch(TorchDispatchMode):
    """Sees what begins without a tensor, as zeros do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Functions(TorchFunctionMode):
    """Attention asks a device for its kernels before it can be seen."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention and isinstance(args[0], There):
            return attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def attention(q, k, v, attn_mask=None, is_causal=False, scale=None):
    logits = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    return logits.softmax(-1) @ v


class Module(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


def begin() -> torch.device:
    """From here on, until the process ends."""
    _setup_privateuseone_for_python_backend(NAME, Module())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes a copy then, which can be seen
    enter()
    return torch.device(NAME, 0)


def enter():
    """In every thread of its own."""
    Functions().__enter__()
    Dispatch().__enter__()


ELSEWHERE = begin()


@pytest.fixture(autouse=True)
def files(monkeypatch):
    """safetensors reads to and writes from the devices that it knows."""
    fill = checkpoint.fill
    monkeypatch.setattr(checkpoint, "fill", lambda network, path, device, convert: fill(
        network, path, "cpu", lambda name, tensor: convert(name, tensor).to(device)))  # fmt: skip

    def save(content, *others):
        safetensors.torch.save_file({name: tensor.cpu() for name, tensor in content.items()}, *others)

    monkeypatch.setattr(tensors, "save_file", save)


# Drawing


@pytest.fixture(scope="module")
def gans():
    """The bundled one here and there."""
    return load_gan(DEFAULT_GAN), load_gan(DEFAULT_GAN).to(ELSEWHERE)


def test_a_prompt_is_read_drawn_scored_and_edited(gans):
    prompts, outcomes = ["一张包含猫和狗的图像", "a red heart"], []
    for gan in gans:
        model = LanguageModel.load("gemma-3-270m", device=gan.device, dtype=torch.float32)
        condition = model.encode(prompts, gan.recipe)
        pictures, latent = gan.generate(condition, gan.sample_z(0, 2), truncation_psi=0.8)
        layers = layers_of(gan.generator, ["all"])
        moved = slide(latent, directions(gan, "pca", layers, 2), torch.tensor([2.0, 0.0]), layers, gan.generator.num_styles)
        clear, _ = gan.generate(condition, moved, transparent=True)
        outcomes.append((pictures, clear, *gan.score(pictures, condition)))
    assert gans[1].device == ELSEWHERE and all(x.device.type == "cpu" for x in outcomes[1])
    assert all(torch.allclose(one, other, atol=1e-3) for one, other in zip(*outcomes))
    assert (outcomes[0][0] - outcomes[0][1][..., :3]).abs().mean() > 0.01


def test_what_a_gpu_would_record_does_not_wait(gans, monkeypatch):
    waits = {}

    def watched(self, work, *inputs, **settings):
        before = len(WAITS)
        results = work(*inputs, **settings)
        waits[work.__name__] = WAITS[before:]  # of its last call: what is computed once is there by then
        return results

    monkeypatch.setattr(Recordings, "run", watched)
    for prompt in ("a cat and a dog", "two red apples"):
        gans[1].generate(LanguageModel.load("gemma-3-270m").encode([prompt], gans[1].recipe), gans[1].sample_z(0, 1))
    assert {"_lay_out", "_understand", "_render"} <= waits.keys() and not any(waits.values()), waits


@pytest.mark.parametrize("kind", ["StyleGAN2", "StyleGAN3", "BigGAN", "GALIP"])
def test_a_published_gan_draws_and_scores(kind, tmp_path):
    names, llm = ["cat", "dog", "volcano", "pizza", "guitar"], None
    if kind == "GALIP":
        torch.save(published.galip(), tmp_path / "galip.pth")
        source, names, llm = tmp_path / "galip.pth", [], published.save_clip(tmp_path / "clip")
    elif kind == "BigGAN":
        torch.save(published.biggan(), tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text(json.dumps(published.BIGGAN))
        source = tmp_path / "pytorch_model.bin"
    else:
        generator, judge = published.stylegan2(5) if kind == "StyleGAN2" else published.stylegan3(True, 5)
        source = published.write(tmp_path / "gan.pkl", G=None, D=judge, G_ema=generator)
    here = convert(source, tmp_path / "gan.safetensors", names, llm=llm)
    there = load(tmp_path / "gan.safetensors").to(ELSEWHERE)
    prompts, outcomes = ["a cat", "pizza"], []
    for gan in (here, there):
        condition = LanguageModel.load(llm or gan.recipe.model).encode(prompts, gan.recipe)
        pictures, latent = gan.generate(condition, gan.sample_z(0, 2), 0.7)
        layers = layers_of(gan.generator, ["all"])
        moved = slide(latent, directions(gan, "sefa", layers, 1), torch.tensor([2.0]), layers, gan.generator.num_styles)
        scores = () if gan.discriminator is None else gan.score(pictures, condition)
        outcomes.append((pictures, gan.generate(condition, moved)[0], *scores))
    assert there.device == ELSEWHERE and all(x.device.type == "cpu" for x in outcomes[1])
    assert all(torch.allclose(one, other, atol=1e-3) for one, other in zip(*outcomes))


def test_pictures_are_enlarged():
    images = torch.rand(2, 8, 9, 4)
    large = [enlarge(load_enlarger().to(device), images, 4) for device in ("cpu", ELSEWHERE)]
    assert large[1].device.type == "cpu" and torch.allclose(*large, atol=1e-5)


def test_a_picture_is_found_restored_and_restyled(gans):
    condition, outcomes = states(gans[0], 2), []
    pictures = gans[0].generate(condition, gans[0].sample_z(0, 2))[0]
    for gan in gans:
        near = gan.generate(condition, invert(gan, pictures, condition, steps=2))[0]
        mended = restore(gan, pictures, condition, {"denoise"})
        outcomes.append((near, mended, restyle(gan, pictures, condition, Latent(gan.sample_z(9, 1)))[0]))
    assert all(torch.allclose(one, other, atol=2e-3) for one, other in zip(*outcomes))


# Training


class Model(Words):
    width = WIDTH


@pytest.fixture
def teachable(monkeypatch):
    """What trainings load: words for a language model, features of random weights, and a generator of few channels; and the
    threads that draw batches see the device too."""
    monkeypatch.setattr(LanguageModel, "load", lambda name, device: Model())
    monkeypatch.setattr(EfficientNetLite, "pretrained", lambda name="lite0": torch.manual_seed(0) and EfficientNetLite(name))
    for name, few in (("ROUNDS", 1), ("FINDS", 4), ("CAPTIONS", 64)):
        monkeypatch.setattr(reader, name, few)
    monkeypatch.setattr("llm_gan.models.evaluation.evaluate.STEPS", 4)
    monkeypatch.setattr(GeneratorConfig, "at", lambda resolution: GeneratorConfig(
        resolution, (16,) * 4, z_dim=16, w_dim=16, text_dim=32, memory=32))  # fmt: skip
    monkeypatch.setattr(dataset, "ThreadPoolExecutor", partial(ThreadPoolExecutor, initializer=enter))


def alike(one, other):
    """Whether two GANs have the weights of one training: Adam makes much of what rounding makes of small gradients."""
    pairs = [(one.state_dict()[name].cpu(), weight.cpu()) for name, weight in other.state_dict().items()]
    return all(torch.allclose(p, q, atol=0.02, rtol=0.02) for p, q in pairs)


def test_a_gan_is_trained_given_an_encoder_and_compressed(folder, tmp_path, teachable):  # noqa: F811
    settings = {"images": 24, "scenes": 64, "adversarial_from": 0.3}
    results = []
    for device in ("cpu", ELSEWHERE):
        place = tmp_path / str(device)
        out, slim = place / "gan.safetensors", place / "slim.safetensors"
        begun = train_folder(folder, out, place / "run", resolution=64, settings=settings, device=device)
        gone_on = train_folder(
            folder, place / "on.safetensors", place / "on", resolution=64, settings=settings, device=device, start_from=out
        )
        train_encoder_folder(out, folder, place / "encoder", images=16, device=device)
        student = distill_folder(
            out, folder, slim, place / "slim", share=0.5, settings=settings, device=device
        )
        results.append((begun, gone_on, load_gan(out), student))
    assert all(alike(one, other) for one, other in zip(*results))


def test_a_gan_is_evaluated(folder, tmp_path, teachable):  # noqa: F811
    gan = train_folder(folder, tmp_path / "gan.safetensors", tmp_path / "run", resolution=64, settings={"images": 8})
    figures = []
    for device in ("cpu", ELSEWHERE):
        out = tmp_path / str(device)
        examples = open_folder(folder, out, 4)
        figures.append(evaluate(gan.to(device), Model(), examples, out, captions=4))
        del figures[-1]["speed"]
    (one, shape), (other, same_shape) = map(tree_flatten, figures)
    assert shape == same_shape and len(one) > 100
    for p, q in zip(one, other):
        assert p == (q if isinstance(q, str | None) else pytest.approx(q, rel=0.01, abs=1e-3))
