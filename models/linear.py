"""Products of a few rows with a fixed matrix: of a prompt's dozen tokens, of one picture's style.

Such a product takes as long as the matrix takes to come from memory. On a CPU, W in fp16 and x in fp32 meet in FBGEMM, which
widens W in the registers, so that half the bytes are half the time. It is done only where fp16 holds W exactly, as it does
weights that were quantised, or stored in fp16; the sums are those of fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .derived import Derived

FEW = 32  # rows; with more, the arithmetic takes longer than the memory, and ordinary kernels are as fast


def product(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor] | None:
    """weight [O,I], bias [O] -> the function x [...,I] -> x Wᵀ + b [...,O] of fp32, without a gradient; None where it would
    not be exact, or not be FBGEMM's."""
    if weight.device.type != "cpu" or torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return None
    full = weight.detach().float()
    if not full.half().equal(full):
        return None
    packed = torch.ops.quantized.linear_prepack_fp16(full, None if bias is None else bias.detach().float())
    return lambda x: torch.ops.quantized.linear_dynamic_fp16(x, packed)


def few(x: Tensor, weight: Tensor) -> bool:
    """Whether x [...,I] is a case for `product`: a few rows in fp32 on a CPU, and no gradient wanted."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.ndim > 1
        and x.numel() <= FEW * x.shape[-1]
        and not weight.requires_grad
        and not (x.requires_grad and torch.is_grad_enabled())
    )


@contextmanager
def without_tf32() -> Iterator[None]:
    """Here fp32 is multiplied as such: not with the ten bits of TF32, which a GPU takes by default for convolutions, nor
    rounded in any other way that a process has asked for (`torch.set_float32_matmul_precision`)."""
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):  # torch 2.9, which may refuse to tell the switches of before once these were set
        places = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul
        before, exact = [place.fp32_precision for place in places], ["ieee"] * len(places)

        def ask(values):
            for place, value in zip(places, values):
                place.fp32_precision = value
    else:
        before, exact = (backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()), (False, "highest")

        def ask(values):
            backends.cudnn.allow_tf32 = values[0]
            torch.set_float32_matmul_precision(values[1])

    ask(exact)
    try:
        yield
    finally:
        ask(before)


Work = TypeVar("Work", bound=Callable)


def unrounded(work: Work) -> Work:
    """A method whose products are computed in the precision of its first tensor, where autocast would round them."""

    @wraps(work)
    def method(self, x: Tensor, *args, **kwargs):
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return work(self, x, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return work(self, x, *args, **kwargs)

    return method


class Linear(nn.Linear):
    """nn.Linear that takes a few rows through `product`, where its weights are frozen and exact in it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._product = Derived(product)

    def forward(self, x: Tensor) -> Tensor:
        if few(x, self.weight):
            weights = (self.weight,) if self.bias is None else (self.weight, self.bias)
            if (fast := self._product(*weights)) is not None:
                return fast(x)
        return F.linear(x, self.weight, self.bias)
