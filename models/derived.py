"""What is computed from weights, and kept for as long as they stay what they are and where they are."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """`compute(*weights)`, computed anew only where the weights have changed. As part of a network it lets go of what it keeps
    whenever the network is moved or converted."""

    def __init__(self, compute: Callable[..., Any]):
        super().__init__()
        self.compute = compute
        self._known: tuple[tuple, Any] | None = None

    def forward(self, *weights: Tensor) -> Any:
        if any(weight.requires_grad for weight in weights):  # they may be learning: a fused optimiser counts no versions
            return self.compute(*weights)
        state = state_of(weights)
        if self._known is None or self._known[0] != state:
            # Of ordinary tensors, which serve within inference mode and outside of it.
            with torch.inference_mode(False), torch.no_grad():
                self._known = state, self.compute(*weights)
        return self._known[1]

    def _apply(self, *args, **kwargs) -> "Derived":
        self._known = None
        return super()._apply(*args, **kwargs)


class Weights:
    """The weights of some networks, looked at often. A weight may be exchanged for another, but no module."""

    def __init__(self, *networks: nn.Module):
        owners = [module for network in networks for module in network.modules()]
        self._places = [(own, name) for m in owners for own in (m._parameters, m._buffers) for name in own]

    def state(self) -> tuple | None:
        """Equal for as long as the weights stay what they are and where they are; None where one is learning."""
        weights = [weight for own, name in self._places if (weight := own[name]) is not None]
        return None if any(weight.requires_grad for weight in weights) else state_of(weights)


def state_of(weights: Iterable[Tensor]) -> tuple:
    """Equal for as long as the weights stay what they are and where they are. What inference mode made counts no versions."""
    return tuple((None if w.is_inference() else w._version, w.data_ptr(), w.device, w.dtype) for w in weights)
