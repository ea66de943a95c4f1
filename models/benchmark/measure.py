"""Times, floating-point operations and memory, measured so that they compare on a machine that does other things too."""

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Spread(NamedTuple):
    """Median and quartiles of some measurements, and how many they were."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def __add__(self, other: "Spread") -> "Spread":
        """What takes place one after the other."""
        return Spread(*(a + b for a, b in zip(self[:3], other[:3])), min(self.count, other.count))

    def __truediv__(self, number: float) -> "Spread":
        return Spread(*(value / number for value in self[:3]), self.count)


def interleaved(
    sides: dict[str, Callable[[], object]], budget: float, least: int = 3, most: int = 30, share: float = 0.2
) -> dict[str, Spread]:
    """Seconds that each side takes, over `least` to `most` rounds, as many as fit `budget` seconds; all run once before.

    Each round runs every side, once at least and until `share` seconds are over, so that what else the machine does falls on
    all of them alike.
    """
    times = {name: [] for name in sides}
    once = sum(max(seconds(side), share) for side in sides.values())
    for _ in range(min(max(int(budget / once), least), most)):
        for name, side in sides.items():
            end = time.perf_counter() + share
            while True:
                times[name].append(seconds(side))
                if time.perf_counter() >= end:
                    break
    return {name: Spread.of(values) for name, values in times.items()}


def seconds(work: Callable[[], object]) -> float:
    """That `work` takes, once: processor time where one thread works, which others on the machine do not add to, else wall."""
    clock = time.process_time if processor_time() else time.perf_counter
    synchronise()
    start = clock()
    work()
    synchronise()
    return clock() - start


def processor_time() -> bool:
    """Whether `seconds` are those of the processor: Windows counts them too coarsely."""
    return torch.get_num_threads() == 1 and not torch.cuda.is_available() and sys.platform != "win32"


def synchronise() -> None:
    """Wait for the GPU, where there is one at work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in `work`, two for a multiplication and addition."""
    with _counter() as counter:
        work()
    return counter.get_total_flops()


def _counter() -> FlopCounterMode:
    """torch's counter, which does not know FBGEMM's products (see `models.linear`)."""

    def packed(x: torch.Size, _, *, out_shape: torch.Size, **__) -> int:
        return 2 * math.prod(x) * out_shape[-1]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.quantized.linear_dynamic_fp16: packed})


class Layer(NamedTuple):
    """Of one layer the seconds and the operations that a batch takes."""

    name: str
    seconds: float
    flops: int


def layers(network: nn.Module, names: list[str], work: Callable[[], object], rounds: int) -> list[Layer]:
    """What each of the modules `names` of `network`, none within another, takes of `work`; last what is in none of them."""
    clock = time.process_time if processor_time() else time.perf_counter

    def now() -> float:
        synchronise()
        return clock()

    work()
    with _metered(network, names, now) as spent:
        total = sum(seconds(work) for _ in range(rounds)) / rounds
    with _counter() as counter, _metered(network, names, counter.get_total_flops) as counts:
        work()
    found = [Layer(name, spent[name] / rounds, counts[name]) for name in names]
    rest = total - sum(layer.seconds for layer in found)
    return [*found, Layer("between them", rest, counter.get_total_flops() - sum(layer.flops for layer in found))]


@contextmanager
def _metered(network: nn.Module, names: list[str], meter: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Of each of the modules `names`, how far `meter` goes on while it runs."""
    passed = dict.fromkeys(names, 0)

    def add(name: str, sign: int) -> Callable:
        def note(*_) -> None:
            passed[name] += sign * meter()

        return note

    hooks = [network.get_submodule(name).register_forward_pre_hook(add(name, -1)) for name in names]
    hooks += [network.get_submodule(name).register_forward_hook(add(name, 1)) for name in names]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


def child(code: str, *arguments: str, threads: int) -> tuple[float, list[str]]:
    """Run Python `code` in a process of its own -> seconds from its start to its end, and the lines it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    start = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"A process of the benchmark failed: {ended.stderr.strip()[-500:]}")
    return time.perf_counter() - start, ended.stdout.splitlines()


# Prints the most memory that the process ever held, in bytes; nothing where the system does not tell. (`getrusage` counts what
# the process that started it held, too.)
PRINT_PEAK = """
import pathlib
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
print(*["peak %d" % (1024 * int(line.split()[1])) for line in lines if line.startswith("VmHWM")])
"""


def machine() -> str:
    """Processor and system in words."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), {os.cpu_count()} cores, {platform.system()}"
