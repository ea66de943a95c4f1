"""Tensors that belong together, in NamedTuples, which may hold others."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def each(work: Callable[..., Any], *given: Any) -> Any:
    """The NamedTuple of what `work` makes of the tensors in one, or of those in the same places of several; None stays."""
    if given[0] is None:
        return None
    if isinstance(given[0], Tensor):
        return work(*given)
    return type(given[0])(*(each(work, *parts) for parts in zip(*given)))
