"""StyleGAN2 in the files of rosinality's code, in which many were trained and NVIDIA's first ones translated."""

import torch
from torch import Tensor

from ..stylegan2 import StyleGAN2Config, StyleGAN2Discriminator, StyleGAN2DiscriminatorConfig, StyleGAN2Generator
from .parts import count, is_usual, loaded, plain, require, under, unit, zeros

MAPPING_RATE = 0.01  # at which its mappings learn: the files do not say,
COMPANY = 4  # nor that its discriminators look at so many pictures together
MEANT = 2**14  # samples that find the mean of w, where a file has none


def stylegan2(
    state: dict[str, Tensor], judge: dict[str, Tensor] | None, mean: Tensor | None
) -> tuple[StyleGAN2Generator, StyleGAN2Discriminator | None]:
    """StyleGAN2 under the names of rosinality's code, in which many were trained and NVIDIA's first ones translated."""
    found = plain(state)
    depth, scales = count(found, "style.{}.weight", 1), 1 + count(found, "to_rgbs.{}.bias")
    widths = [len(found[f"style.{i + 1}.weight"]) for i in range(depth)]
    tensors = {"constant": found["input.input"][0].float(), "mapping.mean": zeros(widths[-1])}
    for i in range(depth):
        tensors |= under(f"mapping.layers.{i}", _scaled(found, f"style.{i + 1}", MAPPING_RATE))
    for i in range(scales):
        convs = {"conv0": f"convs.{2 * i - 2}", "conv1": f"convs.{2 * i - 1}"} if i else {"conv1": "conv1"}
        for j, (ours, theirs) in enumerate(convs.items(), 2 * i - len(convs) + 1):
            strength = found[f"{theirs}.noise.weight"].float()
            tensors |= under(f"scales.{i}.{ours}", {
                "weight": unit(found[f"{theirs}.conv.weight"][0].float()),
                "bias": found[f"{theirs}.activate.bias"].float(),
                "noise": found[f"noises.noise_{j}"][0, 0].float() * strength,
            })  # fmt: skip
            tensors |= under(f"scales.{i}.{ours}.style", _scaled(found, f"{theirs}.conv.modulation"))
            kernel = found.get(f"{theirs}.conv.blur.kernel")
            require(kernel is None or is_usual(kernel / 4), "another low-pass filter")
        theirs = f"to_rgbs.{i - 1}" if i else "to_rgb1"
        weight = found[f"{theirs}.conv.weight"][0, :, :, 0, 0].float()
        tensors |= under(f"scales.{i}.to_rgb", {
            "weight": weight * weight.shape[1] ** -0.5, "bias": found[f"{theirs}.bias"].float().flatten(),
        })  # fmt: skip
        tensors |= under(f"scales.{i}.to_rgb.style", _scaled(found, f"{theirs}.conv.modulation"))
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
    generator = loaded(StyleGAN2Generator, config, tensors)
    if mean is None:
        z = torch.randn(MEANT, config.z_dim, generator=torch.Generator().manual_seed(0))
        mean = generator.mapping(z, torch.zeros(MEANT, 0)).mean(0)
    generator.mapping.mean.copy_(mean.float().flatten())
    return generator, None if judge is None else _discriminator(plain(judge), config.resolution)


def _discriminator(found: dict[str, Tensor], resolution: int) -> StyleGAN2Discriminator:
    scales = count(found, "convs.{}.conv1.0.weight", 1)
    parts = {"from_rgb": "convs.0.0", "conv": "final_conv.0", "hidden": "final_linear.0", "out": "final_linear.1"}
    parts |= {f"scales.{i}.conv0": f"convs.{i + 1}.conv1.0" for i in range(scales)}
    parts |= {f"scales.{i}.conv1": f"convs.{i + 1}.conv2.1" for i in range(scales)}
    parts |= {f"scales.{i}.skip": f"convs.{i + 1}.skip.1" for i in range(scales)}
    tensors = {"usual": torch.zeros(1)}
    for ours, theirs in parts.items():
        tensors |= under(ours, _scaled(found, theirs))
        home, _, place = theirs.rpartition(".")
        if (bias := f"{home}.{int(place) + 1}.bias") in found and not ours.startswith(("hidden", "out")):
            tensors[f"{ours}.bias"] = found[bias].float()  # of the activation that follows
    for i in range(scales):
        require(is_usual(found[f"convs.{i + 1}.conv2.0.kernel"]), "another low-pass filter")
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
    return loaded(StyleGAN2Discriminator, config, tensors)


def _scaled(found: dict[str, Tensor], name: str, rate: float = 1.0) -> dict[str, Tensor]:
    """A layer whose weights are kept with unit variance, and learnt at a `rate` (Karras et al. 2018, arXiv 1710.10196,
    §4.1)."""
    weight = found[f"{name}.weight"].float()
    scaled = {"weight": weight * weight[0].numel() ** -0.5 * rate}
    return scaled | ({"bias": found[f"{name}.bias"].float() * rate} if f"{name}.bias" in found else {})
