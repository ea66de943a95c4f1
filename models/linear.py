"""Products of a few rows with a fixed matrix: of a prompt's dozen tokens, of one picture's style.

Such a product takes as long as the matrix takes to come from memory. On a CPU, W in fp16 and x in fp32 meet in FBGEMM, which
widens W in the registers, so that half the bytes are half the time. It is done only where fp16 holds W exactly, as it does
weights that were quantised, or stored in fp16; the sums are those of fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 32  # rows; with more, the arithmetic takes longer than the memory, and ordinary kernels are as fast


class Derived:
    """What is computed from weights, kept for as long as they stay as they are."""

    def __init__(self, compute: Callable[..., Any]):
        self.compute = compute
        self._known: tuple[tuple, Any] | None = None

    def __call__(self, *weights: Tensor) -> Any:
        if any(weight.requires_grad for weight in weights):
            return self.compute(*weights)
        state = state_of(weights)
        if self._known is None or self._known[0] != state:
            # Of ordinary tensors, which serve within inference mode and outside of it.
            with torch.inference_mode(False), torch.no_grad():
                self._known = state, self.compute(*weights)
        return self._known[1]


def state_of(weights: Iterable[Tensor]) -> tuple:
    """Equal for as long as the weights stay what they are and where they are. What inference mode made counts no versions."""
    return tuple((None if w.is_inference() else w._version, w.data_ptr(), w.device, w.dtype) for w in weights)


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
