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
from .tuples import each

log = logging.getLogger(__name__)

MOST = 16  # kinds of call that are kept, those that were made last
EQUAL = 0.01  # of the length of a result, by which a replay may differ from the call that it stands for
WARM = 4  # steps of a training before one is recorded,
ALIKE = 0.5  # of the way that a step goes, by which its recording's may differ: where a gradient is none, rounding decides
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
        """To be called before `run`, always with the same networks, all that its work reads weights of: where these have
        changed or moved since the last time, the recordings are forgotten. Returns the state of the weights, None where they
        are learning: then nothing is recorded, for a fused optimiser's changes cannot be seen."""
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
def _noticing_waits(mode: str) -> Iterator[None]:
    """A RuntimeError ("error") or a warning ("warn") for what would wait for the GPU, as a copy from ordinary memory does: the
    end of any recording, after which torch before 2.12 could neither give memory back nor draw random numbers."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
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
            with _noticing_waits("error"):
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

    `work(given)` -> a tensor of figures. `given` is a NamedTuple of tensors, None and such; of other shapes it is another kind
    of step, for which the last recording is let go. `state()` is all that the work changes in place: the first step is made as
    it is and again by the recording, which is used only if both change it alike. `settle` waits for what other threads ask of
    the GPU, since while a recording is made there must be nothing.
    """

    def __init__(self, work: Callable[[T], Tensor], state: Callable[[], list[Tensor]], settle: Callable[[], None]):
        self.work, self.state, self.settle = work, state, settle
        self.forget()

    def forget(self) -> None:
        """To be called where the work is to change other tensors than before."""
        self._kind: Hashable = None
        self._warm = 0
        self._run: Callable[[T], Tensor] | None = None

    def __call__(self, given: T) -> Tensor:
        kind = tuple((x.shape, x.dtype) for x in _leaves(given))
        if kind != self._kind:
            self.forget()
            self._kind = kind
        if self._run is not None:
            return self._run(given)
        with _aside(_leaves(given)[0].device):
            self._warm += 1
            if self._warm < WARM:
                return self.work(given)
            self.settle()
            if self._warm > WARM:
                return self._recorded(given)
            figures, wait = waiting(self.work, given)
            if wait:
                log.warning("A step waits for the GPU, and cannot be recorded: %s", wait)
                self._run = self.work
            return figures

    @torch.no_grad()
    def _recorded(self, given: T) -> Tensor:
        state = self.state()
        before = [x.clone() for x in state]
        with torch.enable_grad():
            expected = self.work(given)
        after = [x.clone() for x in state]
        torch._foreach_copy_(state, before)
        try:
            with torch.enable_grad():
                run = capture(self.work, given)
            figures = run(given)
            told = _apart([figures], [expected]) <= ALIKE * expected.norm()
            if not (told and _apart(state, after) <= ALIKE * _apart(before, after)):
                raise RuntimeError("replayed, a step changes other weights")
            self._run = run
            return figures
        except RuntimeError as error:  # one of them is that memory ran out
            log.warning("This GPU's steps cannot be recorded, and stay slower than they could be: %s", error)
            torch._foreach_copy_(state, after)
            self._run = self.work
            return expected


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Work on the stream of recordings, all of it: what a backward pass adds up belongs to the stream of its forward pass."""
    stream, usual = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        yield
    usual.wait_stream(stream)


def waiting(work: Callable[[T], Tensor], given: T) -> tuple[Tensor, str]:
    """`work(given)`, and where it waits for the GPU, if it does: that would be the end of any recording."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with _noticing_waits("warn"):
            figures = work(given)
    waits = [str(warning.message) for warning in found if "called a synchronizing" in str(warning.message)]
    return figures, waits[0] if waits else ""


def capture(work: Callable[[T], Tensor], given: T) -> Callable[[T], Tensor]:
    """`work` on what is like `given`, as a CUDA graph; nothing is computed yet."""
    own, graph = each(torch.clone, given), torch.cuda.CUDAGraph()
    torch.cuda.synchronize(_leaves(given)[0].device)
    torch.cuda.empty_cache()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        figures = work(own)
    finally:
        graph.capture_end()

    def replay(given: T) -> Tensor:
        each(lambda mine, new: mine.copy_(new, non_blocking=True), own, given)
        graph.replay()
        return figures

    return replay


def _apart(some: list[Tensor], others: list[Tensor]) -> Tensor:
    """The distance between them."""
    return torch.stack(torch._foreach_norm([(x - y).double() for x, y in zip(some, others)])).norm()


def _leaves(given: Any) -> list[Tensor]:
    """The tensors of a NamedTuple of tensors, None and such."""
    found: list[Tensor] = []
    each(found.append, given)
    return found
