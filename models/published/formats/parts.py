"""What all formats take: tensors renamed, networks filled, and a sentence where something is built otherwise."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint import unfilled
from ..stylegan2 import TAPS

READ = (
    "StyleGAN2-ADA and StyleGAN3 (.pkl, as NVIDIA's PyTorch code saves them), StyleGAN2 (.pt, as rosinality's does),"
    " BigGAN-deep (pytorch_model.bin, config.json) and GALIP (.pth)"
)


def require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"This GAN has {what}, which is not among what can be converted: {READ}.")


def loaded(kind: Callable[[Any], nn.Module], config: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of `config` with copies of `tensors`, in eval mode. ValueError where they do not fit,
    before memory is taken."""
    require(config.fits(), "numbers that do not fit together")
    with unfilled():
        network = kind(config)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"The tensors of this GAN do not fit together ({str(error).splitlines()[-1].strip()}).") from None
    copies = {name: tensor.float().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    network.load_state_dict(copies, assign=True)
    return network.eval().requires_grad_(False)


def zeros(*shape: int) -> Tensor:
    """Take no memory before they are `loaded`: a file says how many."""
    return torch.zeros(()).expand(shape)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As they are called where they were not trained on several GPUs."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def taken(found: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """The weight of a layer, and its bias where it has one, in fp32."""
    return {f"{ours}.{kind}": found[name].float() for kind in ("weight", "bias") if (name := f"{theirs}.{kind}") in found}


def count(found: dict[str, Tensor], name: str, first: int = 0) -> int:
    """How many numbers from `first` on give the name of a tensor."""
    return next(i for i in itertools.count() if name.format(first + i) not in found)


def unit(weight: Tensor) -> Tensor:
    return weight / weight.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)


def is_usual(kernel: Tensor) -> bool:
    taps = torch.tensor(TAPS) / sum(TAPS)
    return kernel.shape == (4, 4) and torch.allclose(kernel.float(), torch.outer(taps, taps))
