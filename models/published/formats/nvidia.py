"""StyleGAN2-ADA and StyleGAN3 in the pickles of NVIDIA's PyTorch code."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from ...pickles import Thing
from ..checkpoint import LONGEST
from ..stylegan2 import StyleGAN2Config, StyleGAN2Discriminator, StyleGAN2DiscriminatorConfig, StyleGAN2Generator
from ..stylegan3 import Layer, StyleGAN3Config, StyleGAN3Generator
from .parts import is_usual, loaded, require, under, unit, zeros


def stylegan(thing: Thing, judge: Any) -> tuple[nn.Module, StyleGAN2Discriminator | None]:
    synthesis = _part(thing, "synthesis")
    generator = _stylegan3(thing, synthesis) if "input" in _parts(synthesis) else _stylegan2(thing, synthesis)
    if not isinstance(judge, Thing) or judge.kind != "Discriminator" or "b4" not in _parts(judge):
        return generator, None
    return generator, _discriminator(judge)


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


def _mapping(thing: Thing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a mapping network, and the fields of a config that describe it."""
    layers = [_part(thing, f"fc{i}") for i in range(thing.state["num_layers"])]
    require(all(layer.state["activation"] == "lrelu" for layer in layers), "a mapping without leaky ReLUs")
    tensors = {}
    for i, layer in enumerate(layers):
        tensors |= under(f"layers.{i}", _dense(layer))
    widths = tuple(len(layer.state["_parameters"]["bias"]) for layer in layers)
    embedding = 1
    if classes := int(thing.state["c_dim"]):
        tensors |= under("embed", _dense(_part(thing, "embed")))
        embedding = len(tensors["embed.bias"])
    mean = thing.state["_buffers"].get("w_avg")
    tensors["mean"] = zeros(widths[-1]) if mean is None else mean.float()
    return tensors, {"classes": classes, "embedding": embedding, "mapping": widths}


def _clamp(value: Any) -> int:
    return 0 if value is None else int(value)


def _filter_is_usual(thing: Thing) -> bool:
    found = thing.state["_buffers"].get("resample_filter")
    return found is None or is_usual(found)


def _blocks(thing: Thing) -> list[tuple[int, Thing]]:
    """The blocks b4, b8, … with their resolutions, the smallest first."""
    found = [(int(name[1:]), part) for name, part in _parts(thing).items() if re.fullmatch(r"b\d+", name)]
    found.sort(key=lambda block: block[0])
    require([size for size, _ in found] == [4 << i for i in range(len(found))], "an odd row of resolutions")
    return found


def _stylegan2(thing: Thing, synthesis: Thing) -> StyleGAN2Generator:
    tensors, described = _mapping(_part(thing, "mapping"))
    tensors = under("mapping", tensors)
    blocks = _blocks(synthesis)
    require(all(block.state["architecture"] == "skip" for _, block in blocks), "a generator without skip connections")
    for i, (size, block) in enumerate(blocks):
        require(_filter_is_usual(block), "another low-pass filter")
        for name, conv in _parts(block).items():
            if name == "torgb":
                tensors |= under(f"scales.{i}.to_rgb", {"weight": _weight(conv)[:, :, 0, 0], "bias": _weight(conv, "bias")})
                name = "to_rgb"
            else:
                require(conv.state["activation"] == "lrelu", "layers without leaky ReLUs")
                noise = zeros(size, size)
                if conv.state["use_noise"]:
                    noise = _weight(conv, "noise_const") * _weight(conv, "noise_strength")
                tensors |= under(
                    f"scales.{i}.{name}", {"weight": unit(_weight(conv)), "bias": _weight(conv, "bias"), "noise": noise}
                )
            tensors |= under(f"scales.{i}.{name}.style", _dense(_part(conv, "affine")))
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
    return loaded(StyleGAN2Generator, config, tensors)


def _discriminator(thing: Thing) -> StyleGAN2Discriminator:
    *blocks, (_, last) = reversed(_blocks(thing))
    residual = blocks[0][1].state["architecture"] == "resnet"
    kind = "resnet" if residual else "orig"
    require(all(block.state["architecture"] == kind for _, block in blocks), "a discriminator with skip connections")
    tensors = under("from_rgb", _dense(_part(blocks[0][1], "fromrgb")))
    for i, (_, block) in enumerate(blocks):
        require(_filter_is_usual(block), "another low-pass filter")
        for name in ("conv0", "conv1"):
            require(_part(block, name).state["activation"] == "lrelu", "layers without leaky ReLUs")
            tensors |= under(f"scales.{i}.{name}", _dense(_part(block, name)))
        if "skip" in _parts(block):
            tensors[f"scales.{i}.skip.weight"] = _weight(_part(block, "skip"))
    for ours, theirs in (("conv", "conv"), ("hidden", "fc"), ("out", "out")):
        tensors |= under(ours, _dense(_part(last, theirs)))
    described = {"classes": 0, "embedding": 1, "mapping": ()}
    if "mapping" in _parts(thing):
        mapping, described = _mapping(_part(thing, "mapping"))
        tensors |= under("mapping", mapping)
    spread = _parts(last).get("mbstd")
    statistics = 0 if spread is None else int(spread.state["num_channels"])
    tensors["usual"] = zeros(statistics)
    config = StyleGAN2DiscriminatorConfig(
        resolution=blocks[0][0],
        colours=int(thing.state["img_channels"]),
        channels=tuple(len(_weight(_part(block, "conv0"), "bias")) for _, block in blocks) + (len(tensors["conv.bias"]),),
        residual=int(residual),
        hidden=len(tensors["hidden.bias"]),
        statistics=statistics,
        group=0 if spread is None or spread.state["group_size"] is None else int(spread.state["group_size"]),
        clamp=_clamp(_part(last, "conv").state["conv_clamp"]),
        **described,
    )
    return loaded(StyleGAN2Discriminator, config, tensors)


def _stylegan3(thing: Thing, synthesis: Thing) -> StyleGAN3Generator:
    tensors, described = _mapping(_part(thing, "mapping"))
    tensors = under("mapping", tensors)
    waves = _part(synthesis, "input")
    buffers, state = waves.state["_buffers"], waves.state
    size, rate, band = int(state["size"][0]), float(state["sampling_rate"]), float(state["bandwidth"])
    require(int(state["size"][1]) == size, "an input that is not square")
    frequencies = len(buffers["phases"])
    tensors |= under("input.affine", _dense(_part(waves, "affine"))) | under("input", {
        "weight": _weight(waves) * frequencies**-0.5,
        "frequencies": buffers["freqs"].float(),
        "phases": buffers["phases"].float(),
        "extent": torch.tensor(0.5 * size / rate),
        "bandwidth": torch.tensor(band),
        "fade": torch.tensor(1 / (rate / 2 - band)),
        "transform": buffers["transform"].float(),
    })  # fmt: skip
    names = synthesis.state["layer_names"]
    require(len(names) <= LONGEST and all(isinstance(name, str) for name in names), "layers without names, or too many")
    layers = []
    for i, name in enumerate(names):
        part = _part(synthesis, name)
        state, buffers, last = part.state, part.state["_buffers"], i == len(names) - 1
        require(bool(state["is_torgb"]) == last, "colours before its last layer")
        weight = _weight(part)
        before, after, *others = (int(number) for number in state["padding"])
        require([before, after] == others, "pictures that are not square")
        filters = {f"{kind}_filter": value for kind in ("up", "down") if (value := buffers.get(f"{kind}_filter")) is not None}
        radial = filters["down_filter"].ndim - 1 if "down_filter" in filters else 0
        layers.append(Layer(
            in_channels=weight.shape[1], out_channels=weight.shape[0], kernel=weight.shape[2],
            up=int(state["up_factor"]), down=int(state["down_factor"]),
            up_taps=len(filters.get("up_filter", ())), down_taps=len(filters.get("down_filter", ())), radial=radial,
            before=before, after=after, size=int(state["out_size"][0]),
            detail=round(2 * float(state["out_cutoff"])),
        ))  # fmt: skip
        tensors |= under(f"layers.{i}.style", _dense(_part(part, "affine"))) | under(f"layers.{i}", {
            "weight": weight * weight[0].numel() ** -0.5 if last else unit(weight),
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
    return loaded(StyleGAN3Generator, config, tensors)
