"""From the files in which GANs were published to a `PublishedGAN`, reading data and running nothing.

Names and constants are those of NVIDIA's and of the BigGAN port's files; what they mean is in their papers. Gains are
multiplied into the weights here, and weights that are demodulated brought to unit length, which demodulation cancels.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..condition import Condition
from ..gan import Card
from ..language.catalogue import DEFAULT_LANGUAGE_MODEL
from ..language.model import LanguageModel
from ..pickles import Thing, read_pickle
from ..pictures import contact_sheet
from ..training.run import check_out
from .biggan import BigGANConfig, BigGANGenerator
from .checkpoint import architecture, save_published
from .galip import SEEN, GALIPConfig, GALIPDiscriminator, GALIPDiscriminatorConfig, GALIPGenerator
from .gan import Classes, PublishedDiscriminator, PublishedGAN
from .stylegan2 import (
    TAPS,
    StyleGAN2Config,
    StyleGAN2Discriminator,
    StyleGAN2DiscriminatorConfig,
    StyleGAN2Generator,
)
from .stylegan3 import Layer, StyleGAN3Config, StyleGAN3Generator

READ = (
    "StyleGAN2-ADA and StyleGAN3 (.pkl, as NVIDIA's PyTorch code saves them), StyleGAN2 (.pt, as rosinality's does), BigGAN-deep"
    " (pytorch_model.bin, config.json) and GALIP (.pth)"
)
MAPPING_RATE = 0.01  # at which rosinality's mappings learn: their files do not say,
COMPANY = 4  # nor that their discriminators look at so many pictures together
MEANT = 2**14  # samples that find the mean of w, where a file has none
CLIP = "clip-vit-base-patch32"  # the language model of GALIP, by the usual name of its folder
Progress = Callable[[int, int], None]
PREVIEW = 4  # pictures
SAMPLES = 8  # of the generator, by which its discriminator's usual company is measured
# What pictures usually show, to measure realism by where the discriminator wants a text; the first are drawn for the preview.
CAPTIONS = (
    "a red bus on a street", "a bowl of fruit on a wooden table", "a mountain lake at sunset", "a brown dog on the beach",
    "a man riding a wave", "a cat on a sofa", "a plate of food", "a train at a station", "flowers in a vase", "a city at night",
    "a bedroom with a window", "a group of people in a park", "a horse in a field", "a painting of a ship", "a close-up of a face",
    "a boat on a river",
)  # fmt: skip


def convert(
    source: Path,
    out: Path,
    names: Sequence[str] = (),
    *,
    llm: str | Path | None = None,
    models: Mapping[str, Path] = MappingProxyType({}),
    licenses: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    progress: Progress = lambda done, total: None,
) -> PublishedGAN:
    """Write the GAN in the file `source` to `out`, what works on pixels as `dtype`.

    `names` are those of its classes in their order, several of one with commas between. `llm` is the language model that finds a
    prompt's class by them, or the CLIP that GALIP reads with; None takes the one of the usual name, of `models` or else of the
    catalogue.
    ValueError, FileNotFoundError or FileExistsError, in one sentence, where there is nothing that can be read, the names are
    not those of its classes, or `out` is there already. `progress` is called for every picture that is drawn to know the
    discriminator's usual company and for the preview, and may raise to stop.
    """
    check_out(out)
    generator, judge = networks_of(source)
    rows = [[name.strip() for name in line.split(",") if name.strip()] for line in names if line.strip(" ,")]
    _check_names(rows, generator.config.classes, source)
    reads = isinstance(generator, GALIPGenerator)
    usual = CLIP if reads else DEFAULT_LANGUAGE_MODEL
    place = llm or models.get(usual, usual)
    model = _clip(generator, place) if reads else LanguageModel.load(place)
    recipe, classes = model.recipe(), None
    if rows:
        classes = Classes(rows, recipe.width)
        classes.learn(model.encode([name for row in rows for name in row], recipe))
    company = SAMPLES if judge is not None and judge.config.statistics else 0
    if company:
        _meet_company(judge, generator, lambda done, _: progress(done, company + PREVIEW))
    if reads and judge is not None:
        judge.usual.copy_(model.encode(CAPTIONS, recipe).pooled)
    prompts = list(CAPTIONS[:PREVIEW]) if reads else [row[0] for row in rows[:: -(-len(rows) // PREVIEW) or 1]]
    gan = PublishedGAN(generator, judge, recipe, classes, Card(out.stem, licenses=list(licenses), prompts=prompts))
    gan.card.data = f"converted from {source.name}, {architecture(gan)}"
    read = model.encode(prompts or [""], recipe)
    save_published(gan, out, dtype, _preview(gan, read, lambda done, _: progress(company + done, company + PREVIEW)))
    return gan


def _clip(generator: GALIPGenerator, place: str | Path) -> LanguageModel:
    """The language model that GALIP was trained with."""
    advice = f"GALIP reads with CLIP ViT-B/32: put the folder openai/{CLIP} of Hugging Face among the language models, or name it."
    try:
        model = LanguageModel.load(place)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no language model {str(place)!r}. {advice}") from None
    if model.width != generator.config.text:
        raise ValueError(f"{model.name} gives {model.width} numbers, and this GAN reads {generator.config.text}. {advice}")
    return model


def _check_names(rows: list[list[str]], classes: int, source: Path) -> None:
    if classes and not rows:
        raise ValueError(f"{source.name} draws {classes} classes: give a text of their names in their order, a class a line.")
    if len(rows) != classes:
        raise ValueError(f"{source.name} draws {classes or 'no'} classes, and {len(rows)} are named.")


def _preview(gan: PublishedGAN, condition: Condition, progress: Progress) -> bytes:
    """Pictures of the prompts as a PNG, to show what the GAN draws."""
    rows = [i * len(condition) // PREVIEW for i in range(PREVIEW)]
    pictures, _ = gan.generate(condition[rows], gan.sample_z(0, PREVIEW), 0.7, 1, progress)
    sheet, file = contact_sheet(pictures, 2), BytesIO()
    sheet.thumbnail((256, 256))
    sheet.save(file, "PNG")
    return file.getvalue()


def networks_of(path: Path) -> tuple[nn.Module, PublishedDiscriminator | None]:
    """The generator in `path`, and its discriminator where there is one that can be read. ValueError or FileNotFoundError, in
    one sentence, for what is none of READ."""
    found = read_pickle(path)
    try:
        if isinstance(found, dict) and isinstance(found.get("G_ema"), Thing):
            return _stylegan(found["G_ema"], found.get("D"))
        if isinstance(found, dict) and isinstance(state := found.get("g_ema", found.get("g")), dict):
            return _rosinality(state, found.get("d"), found.get("latent_avg"))
        if isinstance(found, dict) and isinstance(networks := found.get("model"), dict) and "netG" in networks:
            return _galip(networks)
    except (KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"{path.name} holds networks that are not built as {READ} are ({error}).") from None
    if isinstance(found, dict) and "generator.gen_z.weight_orig" in found:
        return _biggan(found, path.with_name("config.json")), None
    raise ValueError(f"{path.name} holds no GAN that can be converted: there are {READ}.")


def _stylegan(thing: Thing, judge: Any) -> tuple[nn.Module, StyleGAN2Discriminator | None]:
    synthesis = _part(thing, "synthesis")
    generator = _stylegan3(thing, synthesis) if "input" in _parts(synthesis) else _stylegan2(thing, synthesis)
    generator = generator.eval().requires_grad_(False)
    if not isinstance(judge, Thing) or judge.kind != "Discriminator" or "b4" not in _parts(judge):
        return generator, None
    return generator, _discriminator(judge).eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------ what things are made of


def _parts(thing: Thing) -> dict[str, Thing]:
    return thing.state["_modules"]


def _part(thing: Thing, *names: str) -> Thing:
    for name in names:
        thing = _parts(thing)[name]
    return thing


def _weight(thing: Thing, name: str = "weight") -> Tensor:
    """A weight with its gain, in fp32."""
    state = thing.state
    found = state["_parameters"] if name in state["_parameters"] else state["_buffers"]
    return found[name].float() * float(state.get(f"{name}_gain", 1))


def _dense(thing: Thing) -> dict[str, Tensor]:
    return {"weight": _weight(thing), "bias": _weight(thing, "bias")}


def _unit(weight: Tensor) -> Tensor:
    return weight / weight.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"This GAN has {what}, which is not among what can be converted: {READ}.")


def _mapping(thing: Thing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a mapping network, and the fields of a config that describe it."""
    layers = [_part(thing, f"fc{i}") for i in range(thing.state["num_layers"])]
    _require(all(layer.state["activation"] == "lrelu" for layer in layers), "a mapping without leaky ReLUs")
    tensors = {}
    for i, layer in enumerate(layers):
        tensors |= _under(f"layers.{i}", _dense(layer))
    widths = tuple(len(layer.state["_parameters"]["bias"]) for layer in layers)
    embedding = 1
    if classes := int(thing.state["c_dim"]):
        tensors |= _under("embed", _dense(_part(thing, "embed")))
        embedding = len(tensors["embed.bias"])
    mean = thing.state["_buffers"].get("w_avg")
    tensors["mean"] = torch.zeros(widths[-1]) if mean is None else mean.float()
    return tensors, {"classes": classes, "embedding": embedding, "mapping": widths}


def _clamp(value: Any) -> int:
    return 0 if value is None else int(value)


def _filter_is_usual(thing: Thing) -> bool:
    found = thing.state["_buffers"].get("resample_filter")
    return found is None or _is_usual(found)


def _is_usual(kernel: Tensor) -> bool:
    taps = torch.tensor(TAPS) / sum(TAPS)
    return kernel.shape == (4, 4) and torch.allclose(kernel.float(), torch.outer(taps, taps))


def _loaded(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    try:
        network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"The tensors of this GAN do not fit together ({str(error).splitlines()[-1].strip()}).") from None
    return network


# ------------------------------------------------------------------------------------------------------------ StyleGAN2


def _blocks(thing: Thing) -> list[tuple[int, Thing]]:
    """The blocks b4, b8, … with their resolutions, the smallest first."""
    found = [(int(name[1:]), part) for name, part in _parts(thing).items() if re.fullmatch(r"b\d+", name)]
    found.sort(key=lambda block: block[0])
    _require([size for size, _ in found] == [4 << i for i in range(len(found))], "an odd row of resolutions")
    return found


def _stylegan2(thing: Thing, synthesis: Thing) -> StyleGAN2Generator:
    tensors, described = _mapping(_part(thing, "mapping"))
    tensors = _under("mapping", tensors)
    blocks = _blocks(synthesis)
    _require(all(block.state["architecture"] == "skip" for _, block in blocks), "a generator without skip connections")
    for i, (_, block) in enumerate(blocks):
        _require(_filter_is_usual(block), "another low-pass filter")
        for name, conv in _parts(block).items():
            if name == "torgb":
                tensors |= _under(f"scales.{i}.to_rgb", {"weight": _weight(conv)[:, :, 0, 0], "bias": _weight(conv, "bias")})
                name = "to_rgb"
            else:
                _require(conv.state["activation"] == "lrelu", "layers without leaky ReLUs")
                size = conv.state["resolution"]
                noise = torch.zeros(size, size)
                if conv.state["use_noise"]:
                    noise = _weight(conv, "noise_const") * _weight(conv, "noise_strength")
                tensors |= _under(
                    f"scales.{i}.{name}", {"weight": _unit(_weight(conv)), "bias": _weight(conv, "bias"), "noise": noise}
                )
            tensors |= _under(f"scales.{i}.{name}.style", _dense(_part(conv, "affine")))
    tensors["constant"] = _weight(blocks[0][1], "const")
    first = _part(blocks[0][1], "conv1")
    config = StyleGAN2Config(
        resolution=blocks[-1][0],
        colours=int(synthesis.state["img_channels"]),
        z_dim=int(thing.state["z_dim"]),
        channels=tuple(len(_part(block, "conv1").state["_parameters"]["bias"]) for _, block in blocks),
        clamp=_clamp(first.state["conv_clamp"]),
        **described,
    )
    return _loaded(StyleGAN2Generator(config), tensors)


def _discriminator(thing: Thing) -> StyleGAN2Discriminator:
    *blocks, (_, last) = reversed(_blocks(thing))
    kinds = {block.state["architecture"] for _, block in blocks}
    _require(kinds <= {"resnet"} or kinds <= {"orig"}, "a discriminator with skip connections")
    tensors = _under("from_rgb", _dense(_part(blocks[0][1], "fromrgb")))
    for i, (_, block) in enumerate(blocks):
        _require(_filter_is_usual(block), "another low-pass filter")
        for name in ("conv0", "conv1"):
            _require(_part(block, name).state["activation"] == "lrelu", "layers without leaky ReLUs")
            tensors |= _under(f"scales.{i}.{name}", _dense(_part(block, name)))
        if "skip" in _parts(block):
            tensors[f"scales.{i}.skip.weight"] = _weight(_part(block, "skip"))
    for ours, theirs in (("conv", "conv"), ("hidden", "fc"), ("out", "out")):
        tensors |= _under(ours, _dense(_part(last, theirs)))
    described = {"classes": 0, "embedding": 1, "mapping": ()}
    if "mapping" in _parts(thing):
        mapping, described = _mapping(_part(thing, "mapping"))
        tensors |= _under("mapping", mapping)
    spread = _parts(last).get("mbstd")
    statistics = 0 if spread is None else int(spread.state["num_channels"])
    tensors["usual"] = torch.zeros(statistics)
    config = StyleGAN2DiscriminatorConfig(
        resolution=blocks[0][0],
        colours=int(thing.state["img_channels"]),
        channels=tuple(len(_weight(_part(block, "conv0"), "bias")) for _, block in blocks)
        + (len(tensors["conv.bias"]),),
        residual=int("resnet" in kinds),
        hidden=len(tensors["hidden.bias"]),
        statistics=statistics,
        group=0 if spread is None or spread.state["group_size"] is None else int(spread.state["group_size"]),
        clamp=_clamp(_part(last, "conv").state["conv_clamp"]),
        **described,
    )
    return _loaded(StyleGAN2Discriminator(config), tensors)


def _rosinality(
    state: dict[str, Tensor], judge: dict[str, Tensor] | None, mean: Tensor | None
) -> tuple[StyleGAN2Generator, StyleGAN2Discriminator | None]:
    """StyleGAN2 under the names of rosinality's code, in which many were trained and NVIDIA's first ones translated."""
    found = _plain(state)
    depth, scales = _count(found, "style.{}.weight", 1), 1 + _count(found, "to_rgbs.{}.bias")
    widths = [len(found[f"style.{i + 1}.weight"]) for i in range(depth)]
    tensors = {"constant": found["input.input"][0].float(), "mapping.mean": torch.zeros(widths[-1])}
    for i in range(depth):
        tensors |= _under(f"mapping.layers.{i}", _scaled(found, f"style.{i + 1}", MAPPING_RATE))
    for i in range(scales):
        convs = {"conv0": f"convs.{2 * i - 2}", "conv1": f"convs.{2 * i - 1}"} if i else {"conv1": "conv1"}
        for j, (ours, theirs) in enumerate(convs.items(), 2 * i - len(convs) + 1):
            strength = found[f"{theirs}.noise.weight"].float()
            tensors |= _under(f"scales.{i}.{ours}", {
                "weight": _unit(found[f"{theirs}.conv.weight"][0].float()),
                "bias": found[f"{theirs}.activate.bias"].float(),
                "noise": found[f"noises.noise_{j}"][0, 0].float() * strength,
            })  # fmt: skip
            tensors |= _under(f"scales.{i}.{ours}.style", _scaled(found, f"{theirs}.conv.modulation"))
            kernel = found.get(f"{theirs}.conv.blur.kernel")
            _require(kernel is None or _is_usual(kernel / 4), "another low-pass filter")
        theirs = f"to_rgbs.{i - 1}" if i else "to_rgb1"
        weight = found[f"{theirs}.conv.weight"][0, :, :, 0, 0].float()
        tensors |= _under(f"scales.{i}.to_rgb", {
            "weight": weight * weight.shape[1] ** -0.5, "bias": found[f"{theirs}.bias"].float().flatten(),
        })  # fmt: skip
        tensors |= _under(f"scales.{i}.to_rgb.style", _scaled(found, f"{theirs}.conv.modulation"))
    config = StyleGAN2Config(
        resolution=2 << scales,
        colours=3,
        z_dim=found["style.1.weight"].shape[1],
        classes=0,
        embedding=1,
        mapping=tuple(widths),
        channels=tuple(len(tensors[f"scales.{i}.conv1.bias"]) for i in range(scales)),
        clamp=0,
    )
    _require(config.fits(), "numbers that do not fit together")
    generator = _loaded(StyleGAN2Generator(config), tensors).eval().requires_grad_(False)
    if mean is None:
        z = torch.randn(MEANT, config.z_dim, generator=torch.Generator().manual_seed(0))
        mean = generator.mapping(z, torch.zeros(MEANT, 0)).mean(0)
    generator.mapping.mean.copy_(mean.float().flatten())
    return generator, None if judge is None else _rosinality_judge(_plain(judge), config.resolution)


def _rosinality_judge(found: dict[str, Tensor], resolution: int) -> StyleGAN2Discriminator:
    scales = _count(found, "convs.{}.conv1.0.weight", 1)
    parts = {"from_rgb": "convs.0.0", "conv": "final_conv.0", "hidden": "final_linear.0", "out": "final_linear.1"}
    parts |= {f"scales.{i}.conv0": f"convs.{i + 1}.conv1.0" for i in range(scales)}
    parts |= {f"scales.{i}.conv1": f"convs.{i + 1}.conv2.1" for i in range(scales)}
    parts |= {f"scales.{i}.skip": f"convs.{i + 1}.skip.1" for i in range(scales)}
    tensors = {"usual": torch.zeros(1)}
    for ours, theirs in parts.items():
        tensors |= _under(ours, _scaled(found, theirs))
        home, _, place = theirs.rpartition(".")
        if (bias := f"{home}.{int(place) + 1}.bias") in found and not ours.startswith(("hidden", "out")):
            tensors[f"{ours}.bias"] = found[bias].float()  # of the activation that follows
    for i in range(scales):
        _require(_is_usual(found[f"convs.{i + 1}.conv2.0.kernel"]), "another low-pass filter")
    config = StyleGAN2DiscriminatorConfig(
        resolution=resolution,
        colours=3,
        classes=0,
        embedding=1,
        mapping=(),
        channels=tuple(len(tensors[f"scales.{i}.conv0.bias"]) for i in range(scales)) + (len(tensors["conv.bias"]),),
        residual=1,
        hidden=len(tensors["hidden.bias"]),
        statistics=1,
        group=COMPANY,
        clamp=0,
    )
    _require(config.fits(), "a discriminator whose numbers do not fit together")
    return _loaded(StyleGAN2Discriminator(config), tensors).eval().requires_grad_(False)


def _scaled(found: dict[str, Tensor], name: str, rate: float = 1.0) -> dict[str, Tensor]:
    """A layer whose weights are kept with unit variance, and learnt at a `rate` (Karras et al. 2018, arXiv 1710.10196, §4.1)."""
    weight = found[f"{name}.weight"].float()
    scaled = {"weight": weight * weight[0].numel() ** -0.5 * rate}
    return scaled | ({"bias": found[f"{name}.bias"].float() * rate} if f"{name}.bias" in found else {})


@torch.no_grad()
def _meet_company(judge: StyleGAN2Discriminator, generator: nn.Module, progress: Progress) -> None:
    """Let the discriminator know how much the generator's pictures usually vary."""
    random, classes = torch.Generator().manual_seed(0), judge.config.classes
    z = torch.randn(SAMPLES, generator.config.z_dim, generator=random)
    label = torch.eye(classes)[torch.randint(classes, (SAMPLES,), generator=random)] if classes else torch.zeros(SAMPLES, 0)
    features, psi = [], torch.tensor(1.0)
    for i in range(SAMPLES):
        features.append(judge.features(generator.synthesize(generator.styles(z[[i]], label[[i]], psi), psi)))
        progress(i + 1, SAMPLES)
    groups = torch.cat(features).split(judge.config.group or SAMPLES)
    judge.usual.copy_(torch.stack([judge.spread(group) for group in groups]).mean(0))


# ------------------------------------------------------------------------------------------------------------ StyleGAN3


def _stylegan3(thing: Thing, synthesis: Thing) -> StyleGAN3Generator:
    tensors, described = _mapping(_part(thing, "mapping"))
    tensors = _under("mapping", tensors)
    waves = _part(synthesis, "input")
    buffers, state = waves.state["_buffers"], waves.state
    size, rate, band = int(state["size"][0]), float(state["sampling_rate"]), float(state["bandwidth"])
    _require(int(state["size"][1]) == size, "an input that is not square")
    frequencies = len(buffers["phases"])
    tensors |= _under("input.affine", _dense(_part(waves, "affine"))) | _under("input", {
        "weight": _weight(waves) * frequencies**-0.5,
        "frequencies": buffers["freqs"].float(),
        "phases": buffers["phases"].float(),
        "extent": torch.tensor(0.5 * size / rate),
        "bandwidth": torch.tensor(band),
        "fade": torch.tensor(1 / (rate / 2 - band)),
        "transform": buffers["transform"].float(),
    })  # fmt: skip
    names = synthesis.state["layer_names"]
    layers = []
    for i, name in enumerate(names):
        part = _part(synthesis, name)
        state, buffers, last = part.state, part.state["_buffers"], i == len(names) - 1
        _require(bool(state["is_torgb"]) == last, "colours before its last layer")
        weight = _weight(part)
        before, after, *others = (int(number) for number in state["padding"])
        _require([before, after] == others, "pictures that are not square")
        filters = {f"{kind}_filter": value for kind in ("up", "down") if (value := buffers.get(f"{kind}_filter")) is not None}
        radial = filters["down_filter"].ndim - 1 if "down_filter" in filters else 0
        layers.append(Layer(
            in_channels=weight.shape[1], out_channels=weight.shape[0], kernel=weight.shape[2],
            up=int(state["up_factor"]), down=int(state["down_factor"]),
            up_taps=len(filters.get("up_filter", ())), down_taps=len(filters.get("down_filter", ())), radial=radial,
            before=before, after=after, size=int(state["out_size"][0]),
            detail=round(2 * float(state["out_cutoff"])),
        ))  # fmt: skip
        tensors |= _under(f"layers.{i}.style", _dense(_part(part, "affine"))) | _under(f"layers.{i}", {
            "weight": weight * weight[0].numel() ** -0.5 if last else _unit(weight),
            "bias": _weight(part, "bias"),
            "gain": buffers["magnitude_ema"].float().rsqrt(),
            **{name: value.float() for name, value in filters.items()},
        })  # fmt: skip
    config = StyleGAN3Config(
        resolution=int(synthesis.state["img_resolution"]),
        colours=int(synthesis.state["img_channels"]),
        z_dim=int(thing.state["z_dim"]),
        frequencies=frequencies,
        size=size,
        detail=round(2 * band),
        layers=tuple(layers),
        clamp=_clamp(_part(synthesis, names[-1]).state["conv_clamp"]),
        **described,
    )
    tensors["scale"] = torch.tensor(float(synthesis.state["output_scale"]))
    return _loaded(StyleGAN3Generator(config), tensors)


# --------------------------------------------------------------------------------------------------------------- BigGAN


def _biggan(found: dict[str, Tensor], beside: Path) -> BigGANGenerator:
    try:
        settings = json.loads(beside.read_text(encoding="utf-8"))
        width, epsilon = int(settings["channel_width"]), float(settings["eps"])
        rows = [(int(bool(up)), int(before), int(after)) for up, before, after in settings["layers"]]
        attention, statistics = int(settings["attention_layer_position"]), int(settings["n_stats"])
        resolution, z_dim = int(settings["output_dim"]), int(settings["z_dim"])
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no {beside.name} beside the weights of this BigGAN: put it there too.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{beside} is not the config of a BigGAN ({type(error).__name__}: {error}).") from None

    def normal(name: str) -> Tensor:
        """The weight by its spectral norm (Miyato et al. 2018, arXiv 1802.05957, eq. 8)."""
        weight, u, v = (found[f"{name}.{part}"].float() for part in ("weight_orig", "weight_u", "weight_v"))
        return weight / (u @ weight.flatten(1) @ v)

    def conv(name: str) -> dict[str, Tensor]:
        return {"weight": normal(name), "bias": found[f"{name}.bias"].float()}

    def moments(name: str) -> dict[str, Tensor]:
        return {"means": found[f"{name}.running_means"].float(), "variances": found[f"{name}.running_vars"].float() + epsilon}

    try:
        tensors = {"embed.weight": found["embeddings.weight"].float()} | _under("seed", conv("generator.gen_z"))
        for i in range(len(rows)):
            theirs = f"generator.layers.{i + (i >= attention)}"
            for j in range(4):
                norm = f"{theirs}.bn_{j}"
                scale = normal(f"{norm}.scale")
                tensors |= _under(f"blocks.{i}.norms.{j}", moments(norm) | {
                    "scale.weight": scale, "scale.bias": torch.ones(len(scale)), "offset.weight": normal(f"{norm}.offset"),
                })  # fmt: skip
                tensors |= _under(f"blocks.{i}.convs.{j}", conv(f"{theirs}.conv_{j}"))
        theirs = f"generator.layers.{attention}"
        for ours, name in (("query", "theta"), ("key", "phi"), ("value", "g")):
            tensors[f"attention.{ours}.weight"] = normal(f"{theirs}.snconv1x1_{name}")
        tensors["attention.out.weight"] = normal(f"{theirs}.snconv1x1_o_conv") * found[f"{theirs}.gamma"].float()
        tensors |= moments("generator.bn")
        tensors |= {"scale": found["generator.bn.weight"].float(), "offset": found["generator.bn.bias"].float()}
        # It has as many output planes as channels, of which the first three are the picture.
        tensors |= _under("to_rgb", {name: tensor[:3] for name, tensor in conv("generator.conv_to_rgb").items()})
    except KeyError as error:
        raise ValueError(f"The weights of this BigGAN do not fit {beside.name}: {error.args[0]} is missing.") from None
    config = BigGANConfig(
        resolution=resolution,
        z_dim=z_dim,
        classes=tensors["embed.weight"].shape[1],
        embedding=tensors["embed.weight"].shape[0],
        channels=tuple(width * row[1] for row in rows) + (width * rows[-1][2],),
        up=tuple(row[0] for row in rows),
        attention=attention,
        statistics=statistics,
    )
    return _loaded(BigGANGenerator(config).eval(), tensors).requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------------- GALIP

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures


def _galip(networks: dict[str, dict[str, Tensor]]) -> tuple[GALIPGenerator, GALIPDiscriminator | None]:
    found = _plain(networks["netG"])
    _require("mapping.CLIP_ViT.conv1.weight" in found, "no eyes of CLIP")
    eyes, patch = found["mapping.CLIP_ViT.conv1.weight"].shape[0], found["mapping.CLIP_ViT.conv1.weight"].shape[2]
    grid = round((len(found["mapping.CLIP_ViT.positional_embedding"]) - 1) ** 0.5)
    fusions, scales = (_count(found, f"{name}.{{}}.fuse1.affine0.fc_beta.linear1.bias") for name in ("mapping.FBlocks", "GBlocks"))
    first, z_dim = found["mapping.FBlocks.0.conv1.weight"].shape[1], found["fc_code.weight"].shape[1]
    channels = [found["GBlocks.0.c1.weight"].shape[1], *(len(found[f"GBlocks.{i}.c1.bias"]) for i in range(scales))]
    config = GALIPConfig(
        resolution=patch * grid,
        z_dim=z_dim,
        text=found["mapping.fc_prompt.weight"].shape[1] - z_dim,
        first=first,
        inner=len(found["mapping.FBlocks.0.conv1.weight"]),
        fusions=fusions,
        channels=tuple(channels),
        eyes=eyes,
        layers=_count(found, "mapping.CLIP_ViT.transformer.resblocks.{}.ln_1.bias"),
        patch=patch,
        words=len(found["mapping.fc_prompt.bias"]) // eyes,
    )
    _require(config.fits(), "numbers that do not fit together")
    tensors = _under("eyes", _eyes(found, "mapping.CLIP_ViT", config.layers))
    for ours, theirs in (
        ("code", "fc_code"), ("words", "mapping.fc_prompt"), ("to_eyes", "mapping.conv_fuse"), ("from_eyes", "mapping.conv"),
        ("to_rgb", "to_rgb.1"),
    ):  # fmt: skip
        tensors |= _taken(found, theirs, ours)
    for kind, theirs, count, convs in (("fusions", "mapping.FBlocks", fusions, "conv1 conv2"), ("scales", "GBlocks", scales, "c1 c2")):
        for i in range(count):
            for j, conv in enumerate(convs.split()):
                tensors |= _taken(found, f"{theirs}.{i}.{conv}", f"{kind}.{i}.conv{j}")
                tensors |= _under(f"{kind}.{i}.fuse{j}", _fuse(found, f"{theirs}.{i}.fuse{j + 1}"))
            if f"{theirs}.{i}.c_sc.weight" in found:
                tensors |= _taken(found, f"{theirs}.{i}.c_sc", f"{kind}.{i}.skip")
    generator = _loaded(GALIPGenerator(config), tensors).eval().requires_grad_(False)
    judge = _galip_judge(networks, config) if networks.keys() >= {"netD", "netC"} else None
    return generator, judge


def _galip_judge(networks: dict[str, dict[str, Tensor]], config: GALIPConfig) -> GALIPDiscriminator:
    seeing, judging = _plain(networks["netD"]), _plain(networks["netC"])
    joint, out = judging["joint_conv.0.weight"].float(), judging["joint_conv.2.weight"].float()
    channels = joint.shape[1] - config.text
    # A text's vector stands at every place of a picture: its part of the convolution is the same everywhere.
    tensors = {"of_features.weight": joint[:, :channels], "of_text.weight": joint[:, channels:].sum((2, 3))}
    tensors |= {"out.weight": out.flatten(1), "usual": torch.zeros(len(CAPTIONS), config.text)}
    for ours, theirs in (*((f"blocks.{i}", f"DBlocks.{i}") for i in range(len(SEEN) - 1)), ("last", "main")):
        for i in range(2):
            tensors |= _taken(seeing, f"{theirs}.conv_r.{2 * i}", f"{ours}.conv{i}")
        tensors[f"{ours}.gain"] = seeing[f"{theirs}.gamma"].float()
        if f"{theirs}.beta" in seeing:
            tensors[f"{ours}.share"] = seeing[f"{theirs}.beta"].float()
    if channels != config.eyes:  # else the shortcut has no convolution
        tensors |= _taken(seeing, "main.conv_s", "last.skip")
    described = GALIPDiscriminatorConfig(
        config.eyes, config.grid, config.text, channels, len(joint), joint.shape[2], samples=len(CAPTIONS)
    )
    return _loaded(GALIPDiscriminator(described), tensors).eval().requires_grad_(False)


def _eyes(found: dict[str, Tensor], theirs: str, layers: int) -> dict[str, Tensor]:
    """Of CLIP's vision transformer, taking pictures in -1..1. Those are brought to 0..1 twice, as the discriminator learnt it."""
    patches = found[f"{theirs}.conv1.weight"].float()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    tensors = {
        "patches.weight": patches * 0.25 / deviation,
        "patches.bias": (patches * (0.75 - mean) / deviation).sum((1, 2, 3)),
        "first": found[f"{theirs}.class_embedding"].float(),
        "positions": found[f"{theirs}.positional_embedding"].float(),
    } | _taken(found, f"{theirs}.ln_pre", "norm")
    for i in range(layers):
        block = f"{theirs}.transformer.resblocks.{i}"
        tensors |= {f"layers.{i}.qkv.{kind}": found[f"{block}.attn.in_proj_{kind}"].float() for kind in ("weight", "bias")}
        for ours, name in (
            ("out", "attn.out_proj"), ("norm_attention", "ln_1"), ("norm_mlp", "ln_2"), ("inner", "mlp.c_fc"), ("outer", "mlp.c_proj"),
        ):  # fmt: skip
            tensors |= _taken(found, f"{block}.{name}", f"layers.{i}.{ours}")
    return tensors


def _fuse(found: dict[str, Tensor], theirs: str) -> dict[str, Tensor]:
    """Of two affine maps with two perceptrons each, all four side by side."""
    parts = [f"{theirs}.affine{i}.fc_{kind}.linear" for i in range(2) for kind in ("gamma", "beta")]
    return {
        "first.weight": torch.cat([found[f"{part}1.weight"].float() for part in parts]),
        "first.bias": torch.cat([found[f"{part}1.bias"].float() for part in parts]),
        "weight": torch.stack([found[f"{part}2.weight"].float().t() for part in parts]),
        "bias": torch.stack([found[f"{part}2.bias"].float()[None] for part in parts]),
    }


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As they are called where they were not trained on several GPUs."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _taken(found: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """The weight of a layer, and its bias where it has one, in fp32."""
    return {f"{ours}.{kind}": found[name].float() for kind in ("weight", "bias") if (name := f"{theirs}.{kind}") in found}


def _count(found: dict[str, Tensor], name: str, first: int = 0) -> int:
    """How many numbers from `first` on give the name of a tensor."""
    return next(i for i in count() if name.format(first + i) not in found)
