"""Telling a GPU at once what it was told before: CUDA graphs.

A GPU draws one picture in a fraction of the time that Python takes to ask for its few hundred kernels one by one. What is
asked for again with tensors of the same shapes is therefore recorded, and from then on replayed with new numbers in them.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from torch import Tensor, nn

from .derived import state_of

log = logging.getLogger(__name__)

MOST = 16  # kinds of call that are kept, those that were made last
EQUAL = 0.01  # of the length of a result, by which a replay may differ from the call that it stands for
Tensors = tuple[Tensor | None, ...]


class Recordings(nn.Module):
    """Runs functions of tensors; on a CUDA GPU, where no gradient is wanted, from recordings.

    The first call of a kind (function, shapes and settings) runs as it is, so that nothing is spent on what does not come
    again; the second is recorded, which takes as long as three; those after it are replayed. What cannot be recorded, or gives
    other numbers then, goes on running as it is. All recordings compute in the same memory: that of graphs of which one runs at
    a time, each of its results being read before the next one runs.

    As part of a network they are forgotten whenever it is moved or converted.
    """

    def __init__(self):
        super().__init__()
        self._state: tuple | None = None
        self._learning = False
        self._pool: tuple | None = None
        # How each is run; None: seen once.
        self._kinds: OrderedDict[Hashable, Callable[[Tensors], Tensors] | None] = OrderedDict()

    def forget(self) -> None:
        """Let go of the recordings, and of the memory in which they compute."""
        self._kinds.clear()
        self._pool = None  # it goes with the last of them, and cannot be begun again

    def _apply(self, *args, **kwargs) -> "Recordings":
        self.forget()  # or, once the weights have left a GPU, they would keep its memory
        return super()._apply(*args, **kwargs)

    def follow(self, weights: Iterable[Tensor]) -> None:
        """To be called before `run`, with all weights that its work reads: where they have changed or moved since the last time,
        the recordings are forgotten. What is still learning is not recorded: a fused optimiser's changes cannot be seen."""
        weights = list(weights)
        self._learning = any(weight.requires_grad for weight in weights)
        if (state := state_of(weights)) != self._state:
            self.forget()
            self._state = state

    def run(self, work: Callable[..., Tensors], *inputs: Tensor | None, **settings: Hashable) -> Tensors:
        """`work(*inputs, **settings)`: tensors that depend on nothing but the tensors `inputs`, the `settings` and weights that
        are followed. `work` must not wait for the GPU. The next call of any kind may overwrite what this one returns, which it
        takes as input all the same.
        """
        if torch.is_grad_enabled() or self._learning or not _on_gpu(inputs):
            return work(*inputs, **settings)
        kind = work.__name__, *(x if x is None else (x.shape, x.dtype) for x in inputs), *settings.items()
        known = kind in self._kinds
        run = self._kinds.pop(kind, None)
        if known and run is None:
            run = self._recorded(partial(work, **settings), inputs)
        self._kinds[kind] = run  # as the latest
        if len(self._kinds) > MOST:
            self._kinds.popitem(last=False)
        return work(*inputs, **settings) if run is None else run(inputs)

    def _recorded(self, work: Callable[..., Tensors], inputs: Tensors) -> Callable[[Tensors], Tensors]:
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            return record(work, inputs, self._pool)
        except RuntimeError as error:  # one of them is that memory ran out
            log.warning("This GPU's work cannot be recorded, and stays slower than it could be: %s", error)
            self._pool = None  # that of a recording which failed may be of no more use
            return lambda inputs: work(*inputs)


def _on_gpu(inputs: Tensors) -> bool:
    return inputs[0].device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: cuBLAS keeps memory of its own for every stream that it has met."""
    return torch.cuda.Stream(device)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """RuntimeError for what would wait for the GPU, as a copy from ordinary memory does: the end of any recording, after which
    torch before 2.12 could neither give memory back nor draw random numbers."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@torch.inference_mode()
def record(work: Callable[..., Tensors], inputs: Tensors, pool: tuple) -> Callable[[Tensors], Tensors]:
    """`work(*inputs)` as a CUDA graph with memory from `pool` -> the function of such inputs that replays it. RuntimeError
    where it cannot be one, or its replay gives other numbers than `work` gave."""
    with torch.cuda.device(inputs[0].device):
        own = [None if x is None else x.clone() for x in inputs]
        stream, graph = _stream(inputs[0].device), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            with _without_waiting():
                expected = work(*own)  # here the libraries choose their kernels, which they could not while recording
            stream.synchronize()
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                results = work(*own)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        graph.replay()
        if not all(map(near, results, expected)):
            raise RuntimeError("replayed, it gives other numbers")

    @torch.inference_mode()
    def replay(inputs: Tensors) -> Tensors:
        for x, value in zip(own, inputs):
            if x is not None:
                x.copy_(value, non_blocking=True)
        graph.replay()
        return results

    return replay


def near(result: Tensor, expected: Tensor) -> bool:
    """Whether they differ by EQUAL at most, and are finite."""
    result, expected = result.double(), expected.double()
    return bool((result - expected).norm() <= EQUAL * expected.norm())
