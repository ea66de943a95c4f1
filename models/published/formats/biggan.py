"""BigGAN-deep in the files of its PyTorch version."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ..biggan import BigGANConfig, BigGANGenerator
from .parts import loaded, require, under


def biggan(found: dict[str, Tensor], beside: Path) -> BigGANGenerator:
    try:
        settings = json.loads(beside.read_text(encoding="utf-8"))
        width, epsilon = int(settings["channel_width"]), float(settings["eps"])
        rows = [(int(bool(up)), int(before), int(after)) for up, before, after in settings["layers"]]
        attention, statistics = int(settings["attention_layer_position"]), int(settings["n_stats"])
        resolution, z_dim = int(settings["output_dim"]), int(settings["z_dim"])
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no {beside.name} beside the weights of this BigGAN: put it there too.") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{beside} is not the config of a BigGAN ({type(error).__name__}: {error}).") from None
    require(bool(rows), "no layers")

    def normal(name: str) -> Tensor:
        """The weight by its spectral norm (Miyato et al. 2018, arXiv 1802.05957, eq. 8)."""
        weight, u, v = (found[f"{name}.{part}"].float() for part in ("weight_orig", "weight_u", "weight_v"))
        return weight / (u @ weight.flatten(1) @ v)

    def conv(name: str) -> dict[str, Tensor]:
        return {"weight": normal(name), "bias": found[f"{name}.bias"].float()}

    def moments(name: str) -> dict[str, Tensor]:
        return {"means": found[f"{name}.running_means"].float(), "variances": found[f"{name}.running_vars"].float() + epsilon}

    try:
        tensors = {"embed.weight": found["embeddings.weight"].float()} | under("seed", conv("generator.gen_z"))
        for i in range(len(rows)):
            theirs = f"generator.layers.{i + (i >= attention)}"
            for j in range(4):
                norm = f"{theirs}.bn_{j}"
                scale = normal(f"{norm}.scale")
                tensors |= under(f"blocks.{i}.norms.{j}", moments(norm) | {
                    "scale.weight": scale, "scale.bias": torch.ones(len(scale)), "offset.weight": normal(f"{norm}.offset"),
                })  # fmt: skip
                tensors |= under(f"blocks.{i}.convs.{j}", conv(f"{theirs}.conv_{j}"))
        theirs = f"generator.layers.{attention}"
        for ours, name in (("query", "theta"), ("key", "phi"), ("value", "g")):
            tensors[f"attention.{ours}.weight"] = normal(f"{theirs}.snconv1x1_{name}")
        tensors["attention.out.weight"] = normal(f"{theirs}.snconv1x1_o_conv") * found[f"{theirs}.gamma"].float()
        tensors |= moments("generator.bn")
        tensors |= {"scale": found["generator.bn.weight"].float(), "offset": found["generator.bn.bias"].float()}
        # It has as many output planes as channels, of which the first three are the picture.
        tensors |= under("to_rgb", {name: tensor[:3] for name, tensor in conv("generator.conv_to_rgb").items()})
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
    return loaded(BigGANGenerator, config, tensors)
