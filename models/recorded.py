"""Telling a GPU at once what it was told before: CUDA graphs.

A GPU draws one picture in a fraction of the time that Python takes to ask for its few hundred kernels one by one. What is
asked for again with tensors of the same shapes is therefore recorded, and from then on replayed with new numbers in them.
"""

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .derived import Weights
from .tensors import each

log = logging.getLogger(__name__)

MOST = 16  # kinds of call that are kept, those that were made last
EQUAL = 0.01  # of the length of a result, by which a replay may differ from the call that it stands for
WARM = 4  # steps of a training before one is recorded
Tensors = tuple[Tensor | None, ...]
T = TypeVar("T")


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
        self._weights: Weights | None = None
        self._state: tuple | None = ()
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

    def follow(self, *networks: nn.Module) -> tuple | None:
        """To be called before `run`, always with the same networks, all that its work reads weights of: where these have changed or
        moved since the last time, the recordings are forgotten. Returns the state of the weights, None where they are learning:
        then nothing is recorded, for a fused optimiser's changes cannot be seen."""
        if self._weights is None:
            self._weights = Weights(*networks)
        if (state := self._weights.state()) != self._state:
            self.forget()
            self._state = state
        return state

    def run(self, work: Callable[..., Tensors], *inputs: Tensor | None, **settings: Hashable) -> Tensors:
        """`work(*inputs, **settings)`: tensors that depend on nothing but the tensors `inputs`, the `settings` and weights that
        are followed. `work` must not wait for the GPU. The next call of any kind may overwrite what this one returns, which it
        takes as input all the same.
        """
        if torch.is_grad_enabled() or self._state is None or not _on_gpu(inputs):
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


class RecordedSteps:
    """Steps of a training, each of which changes what it reads: weights, running means, what an optimiser remembers. On a CUDA
    GPU they run as they are WARM times, while libraries choose their kernels and optimisers make room; then they are recorded.

    `work(given)` -> a tensor. `given` is a tensor or None, or a NamedTuple of such; other shapes are another kind of step, for
    which the recording of the last is let go. `settle` waits for what other threads ask of the GPU meanwhile: while a recording
    is made there must be nothing.
    """

    def __init__(self, work: Callable[[T], Tensor], settle: Callable[[], None]):
        self.work, self.settle = work, settle
        self.forget()

    def forget(self) -> None:
        """To be called where the work is to change other tensors than before."""
        self._kind: Hashable = None
        self._warm = 0
        self._replay: Callable[[T], Tensor] | None = None

    def __call__(self, given: T) -> Tensor:
        kind = tuple((x.shape, x.dtype) for x in _leaves(given))
        if kind != self._kind:
            self.forget()
            self._kind = kind
        if self._replay is not None:
            return self._replay(given)
        device = _leaves(given)[0].device
        stream = _stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # all of it, for what a backward pass adds up belongs to the stream of its forward pass
            if self._warm < WARM:
                self._warm += 1
                if self._warm < WARM:
                    figures = self.work(given)
                else:
                    figures, waits = self._watched(given)
                    if waits:
                        log.warning("A step waits for the GPU, and cannot be recorded: %s", waits)
                        self._replay = self.work
            else:
                figures = self._begun(given, stream)
        torch.cuda.current_stream(device).wait_stream(stream)
        return figures

    def _watched(self, given: T) -> tuple[Tensor, str]:
        """The step as it is, and where it waits for the GPU: that would be the end of any recording."""
        self.settle()
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                figures = self.work(given)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = [str(warning.message) for warning in found if "synchronizing" in str(warning.message)]
        return figures, waits[0] if waits else ""

    def _begun(self, given: T, stream: torch.cuda.Stream) -> Tensor:
        """Records the step, and makes it; as it is where it cannot be recorded."""
        own, graph = each(torch.clone, given), torch.cuda.CUDAGraph()
        self.settle()
        torch.cuda.synchronize(stream.device)
        torch.cuda.empty_cache()
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                figures = self.work(own)
            finally:
                graph.capture_end()
        except RuntimeError as error:  # one of them is that memory ran out
            log.warning("This GPU's steps cannot be recorded, and stay slower than they could be: %s", error)
            self._replay = self.work
            return self.work(given)

        def replay(given: T) -> Tensor:
            each(lambda mine, new: mine.copy_(new, non_blocking=True), own, given)
            graph.replay()
            return figures

        self._replay = replay
        return replay(given)


def _leaves(given: Any) -> list[Tensor]:
    """The tensors of a NamedTuple of tensors, None and such."""
    found: list[Tensor] = []
    each(found.append, given)
    return found
