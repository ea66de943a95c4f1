"""GALIP in the files of its training code."""

import torch
from torch import Tensor

from ..galip import SEEN, GALIPConfig, GALIPDiscriminator, GALIPDiscriminatorConfig, GALIPGenerator
from .parts import count, loaded, plain, require, taken, under, zeros

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures
TEXTS = 16  # by which its discriminator measures realism


def galip(networks: dict[str, dict[str, Tensor]]) -> tuple[GALIPGenerator, GALIPDiscriminator | None]:
    found = plain(networks["netG"])
    require("mapping.CLIP_ViT.conv1.weight" in found, "no eyes of CLIP")
    eyes, patch = found["mapping.CLIP_ViT.conv1.weight"].shape[0], found["mapping.CLIP_ViT.conv1.weight"].shape[2]
    grid = round((len(found["mapping.CLIP_ViT.positional_embedding"]) - 1) ** 0.5)
    fusions, scales = (
        count(found, f"{name}.{{}}.fuse1.affine0.fc_beta.linear1.bias") for name in ("mapping.FBlocks", "GBlocks")
    )
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
        layers=count(found, "mapping.CLIP_ViT.transformer.resblocks.{}.ln_1.bias"),
        patch=patch,
        words=len(found["mapping.fc_prompt.bias"]) // eyes,
    )
    require(config.fits(), "numbers that do not fit together")
    tensors = under("eyes", _eyes(found, "mapping.CLIP_ViT", config.layers))
    for ours, theirs in (
        ("code", "fc_code"), ("words", "mapping.fc_prompt"), ("to_eyes", "mapping.conv_fuse"), ("from_eyes", "mapping.conv"),
        ("to_rgb", "to_rgb.1"),
    ):  # fmt: skip
        tensors |= taken(found, theirs, ours)
    for kind, theirs, number, convs in (
        ("fusions", "mapping.FBlocks", fusions, "conv1 conv2"),
        ("scales", "GBlocks", scales, "c1 c2"),
    ):
        for i in range(number):
            for j, conv in enumerate(convs.split()):
                tensors |= taken(found, f"{theirs}.{i}.{conv}", f"{kind}.{i}.conv{j}")
                tensors |= under(f"{kind}.{i}.fuse{j}", _fuse(found, f"{theirs}.{i}.fuse{j + 1}"))
            if f"{theirs}.{i}.c_sc.weight" in found:
                tensors |= taken(found, f"{theirs}.{i}.c_sc", f"{kind}.{i}.skip")
    generator = loaded(GALIPGenerator, config, tensors)
    judge = _discriminator(networks, config) if networks.keys() >= {"netD", "netC"} else None
    return generator, judge


def _discriminator(networks: dict[str, dict[str, Tensor]], config: GALIPConfig) -> GALIPDiscriminator:
    seeing, judging = plain(networks["netD"]), plain(networks["netC"])
    joint, out = judging["joint_conv.0.weight"].float(), judging["joint_conv.2.weight"].float()
    channels = joint.shape[1] - config.text
    # A text's vector stands at every place of a picture: its part of the convolution is the same everywhere.
    tensors = {"of_features.weight": joint[:, :channels], "of_text.weight": joint[:, channels:].sum((2, 3))}
    tensors |= {"out.weight": out.flatten(1), "usual": zeros(TEXTS, config.text)}
    for ours, theirs in (*((f"blocks.{i}", f"DBlocks.{i}") for i in range(len(SEEN) - 1)), ("last", "main")):
        for i in range(2):
            tensors |= taken(seeing, f"{theirs}.conv_r.{2 * i}", f"{ours}.conv{i}")
        tensors[f"{ours}.gain"] = seeing[f"{theirs}.gamma"].float()
        if f"{theirs}.beta" in seeing:
            tensors[f"{ours}.share"] = seeing[f"{theirs}.beta"].float()
    if channels != config.eyes:  # else the shortcut has no convolution
        tensors |= taken(seeing, "main.conv_s", "last.skip")
    described = GALIPDiscriminatorConfig(
        config.eyes, config.grid, config.text, channels, len(joint), joint.shape[2], samples=TEXTS
    )
    return loaded(GALIPDiscriminator, described, tensors)


def _eyes(found: dict[str, Tensor], theirs: str, layers: int) -> dict[str, Tensor]:
    """Of CLIP's vision transformer, taking pictures in -1..1. Those are brought to 0..1 twice,
    as the discriminator learnt it."""
    patches = found[f"{theirs}.conv1.weight"].float()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    tensors = {
        "patches.weight": patches * 0.25 / deviation,
        "patches.bias": (patches * (0.75 - mean) / deviation).sum((1, 2, 3)),
        "first": found[f"{theirs}.class_embedding"].float(),
        "positions": found[f"{theirs}.positional_embedding"].float(),
    } | taken(found, f"{theirs}.ln_pre", "norm")
    for i in range(layers):
        block = f"{theirs}.transformer.resblocks.{i}"
        tensors |= {f"layers.{i}.qkv.{kind}": found[f"{block}.attn.in_proj_{kind}"].float() for kind in ("weight", "bias")}
        for ours, name in (
            ("out", "attn.out_proj"), ("norm_attention", "ln_1"), ("norm_mlp", "ln_2"), ("inner", "mlp.c_fc"),
            ("outer", "mlp.c_proj"),
        ):  # fmt: skip
            tensors |= taken(found, f"{block}.{name}", f"layers.{i}.{ours}")
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
