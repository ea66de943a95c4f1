"""What several commands do: find a device, open a GAN, read lists, say how far they are."""

import argparse
import os
import time
from contextlib import contextmanager
from pathlib import Path

LARGEST = 2**63 - 1  # of seeds, and of whatever is counted


def open_gan(options: argparse.Namespace, device):
    """The GAN in `options.gan`, or the bundled one, ours or a published one, in the precision of `options.dtype`."""
    import torch

    from ..checkpoint import DEFAULT_GAN
    from ..published.checkpoint import load

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    auto = torch.float16 if device.type == "cuda" else torch.float32
    return load(options.gan or DEFAULT_GAN, device, kinds.get(options.dtype, auto))


def is_number(text: str, least: int = 0) -> bool:
    """Whether it is a whole number from `least` to LARGEST."""
    return text.isdecimal() and least <= int(text[:20]) <= LARGEST  # more digits than Python takes for a number are no error


def find_device(name: str):
    """The device of that name, or for "auto" a GPU where there is one. ValueError where it cannot be used."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}).") from None
    return device


def own_device(name: str):
    """`find_device`, and of several GPUs the one that this process was given by `torchrun` or `accelerate launch`."""
    device = find_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = find_device(f"cuda:{os.environ['LOCAL_RANK']}")
    return device


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without white space around them. ValueError where it is none."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a text file in UTF-8 ({error}).") from None


@contextmanager
def stage(name: str):
    """Say what is done and how long it took."""
    start = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - start:.2f} s")


@contextmanager
def progress_bar(unit: str):
    """A progress bar as a callback `progress(done, total, …)`; on a terminal only."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=None, leave=False) as bar:

        def progress(done: int, total: int, figures: dict[str, float] | object = None) -> None:
            bar.total = total
            if isinstance(figures, dict):
                bar.set_postfix({k: f"{figures[k]:.2f}" for k in ("paired", "pixel") if k in figures}, refresh=False)
            bar.update(done - bar.n)

        yield progress


def count(number: int, noun: str) -> str:
    """(2, "picture") -> "2 pictures"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
