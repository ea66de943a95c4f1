"""Pictures at twice the size, and twice again: with the crisp edges of the drawings that the enlarger learnt from.

A convolutional network looks at the small picture and gives four pixels in the place of each (Shi et al. 2016, arXiv
1609.05158, §3.2), as what bilinear interpolation lacks. It takes what a GAN draws, or any other drawing, of any size.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import check_finite, file_metadata, fill, json_object, read_card, unfilled
from .gan import CACHED, Card
from .generator import bilinear
from .linear import without_tf32
from .pictures import HIDDEN, from_network, on_white, to_network, white_where_clear
from .tensors import save_tensors

VERSION = "1"
SUFFIX = ".enlarger.safetensors"
DEFAULT_ENLARGER = Path(__file__).parent / "weights" / f"drawings{SUFFIX}"  # the bundled one
TIMES = (2, 4, 8)
LARGEST = 16_384  # pixels to a side
MOST = 512  # channels or layers that a file may ask for
SLOPE = 0.2  # of leaky ReLUs


@dataclass(frozen=True)
class EnlargerConfig:
    channels: int = 24
    layers: int = 5  # between the first and the last


class Enlarger(nn.Module):
    """x [B,3,H,W] in -1..1 -> [B,3,2H,2W], about in -1..1."""

    def __init__(self, config: EnlargerConfig):
        super().__init__()
        self.config, width = config, config.channels
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.layers))
        self.last = nn.Conv2d(width, 4 * 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # it begins as bilinear interpolation
        nn.init.zeros_(self.last.bias)
        self.card = Card()

    @property
    def reach(self) -> int:
        """How many pixels around a pixel have a part in what becomes of it."""
        return len(self.layers) + 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), SLOPE)
        for layer in self.layers:
            y = y + F.leaky_relu(layer(y), SLOPE)
        return F.pixel_shuffle(self.last(y), 2) + bilinear(x, 2)


@torch.no_grad()
@without_tf32()
def enlarge(enlarger: Enlarger, images: Tensor, times: int, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """images [N,H,W,3] in 0..1, or [N,H,W,4] with opacity -> [N,times·H,times·W,3 or 4] in 0..1, fp32 on the CPU.

    `times` is 2, 4 or 8. Pictures are computed in strips, to the same numbers as at once, and beside the result there is at
    most one of them at half its size: most of the memory is the result's. `progress(done, total)` is told after every strip how
    many pixels were looked at, of how many, and may raise to stop. ValueError where the result would be too large, or `times`
    is another.
    """
    check_times(times, max(images.shape[1:3]))
    device, doublings = enlarger.first.weight.device, times.bit_length() - 1
    count, height, width, channels = images.shape
    result = torch.empty(count, times * height, times * width, channels)
    done, total = 0, count * (2 if channels == 4 else 1) * height * width * sum(4**n for n in range(doublings))

    def report(pixels: int) -> None:
        nonlocal done
        done += pixels
        if progress is not None:
            progress(done, total)

    def large(plane: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """plane [1,H,W,3] in 0..1, enlarged: rows, and what is there [1,rows,times·W,3], on the CPU."""
        x = to_network(plane).to(device)
        for _ in range(doublings - 1):
            x = _doubled(enlarger, x, report)
        for rows, strip in _strips(enlarger, x, report):
            yield rows, from_network(strip).cpu()

    for image, whole in zip(images.split(1), result.split(1)):
        for rows, colours in large(on_white(image)):
            whole[:, rows, :, :3] = colours
        if channels == 4:
            for rows, opacity in large(image[..., 3:].expand(-1, -1, -1, 3)):
                whole[:, rows] = _seen_through(whole[:, rows, :, :3], opacity.mean(3, keepdim=True))
    return result


def check_times(times: int, side: int) -> None:
    """ValueError, saying what to change, unless a picture of so many pixels to a side can be made `times` as large."""
    if times not in TIMES:
        raise ValueError(f"Pictures are made {', '.join(map(str, TIMES[:-1]))} or {TIMES[-1]} times as large, not {times}.")
    if side * times > LARGEST:
        raise ValueError(f"That would be {side * times} pixels to a side, more than {LARGEST}: enlarge less.")


def _seen_through(on_white: Tensor, opacity: Tensor) -> Tensor:
    """[1,H,W,4], colours and opacity of what looks like `on_white` [1,H,W,3] on white and is so opaque, [1,H,W,1]."""
    # Where next to nothing shows, this enlarges the errors of both to colours that were never there: they are made white.
    colours = (on_white - (1 - opacity)) / opacity.clamp(min=HIDDEN)
    return white_where_clear(torch.cat([colours.clamp(0, 1), opacity], 3))


def _doubled(enlarger: Enlarger, x: Tensor, report: Callable[[int], None]) -> Tensor:
    """[1,3,H,W] -> [1,3,2H,2W], as `enlarger` does, in strips."""
    doubled = x.new_empty(1, 3, 2 * x.shape[2], 2 * x.shape[3])
    for rows, strip in _strips(enlarger, x, report):
        doubled[:, :, rows] = strip
    return doubled


def _strips(enlarger: Enlarger, x: Tensor, report: Callable[[int], None]) -> Iterator[tuple[slice, Tensor]]:
    """What `enlarger` makes of [1,3,H,W], from as many rows at a time as a CPU's cache holds the features of: the rows of each
    strip at the double size, and it. `report` is told the pixels that were looked at, once a strip was taken."""
    height, width, reach = *x.shape[2:], enlarger.reach
    rows = max(CACHED // (4 * enlarger.config.channels * width), 4 * reach)
    for top in range(0, height, rows):
        above, below = max(top - reach, 0), min(top + rows + reach, height)
        strip = enlarger(x[:, :, above:below])
        bottom = min(top + rows, height)
        yield slice(2 * top, 2 * bottom), strip[:, :, 2 * (top - above) : 2 * (bottom - above)].clamp(-1, 1)
        report((bottom - top) * width)


def save_enlarger(enlarger: Enlarger, path: Path) -> Path:
    """Write it to `path`, as fp16, with its card. Complete or not at all; ValueError where its numbers are not finite."""
    tensors = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in enlarger.state_dict().items()}
    check_finite(tensors, path)
    described = {"enlarger": asdict(enlarger.config), "card": asdict(enlarger.card)}
    save_tensors(
        tensors, path, {"llm_gan_enlarger": VERSION} | {k: json.dumps(v, ensure_ascii=False) for k, v in described.items()}
    )
    return path


def load_enlarger(path: Path = DEFAULT_ENLARGER, device: torch.device | str = "cpu") -> Enlarger:
    """The enlarger in `path`, in fp32. ValueError or FileNotFoundError, in one sentence, for anything that is not one."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no enlarger {path}.")
    metadata = file_metadata(path)
    if metadata.get("llm_gan_enlarger") != VERSION:
        raise ValueError(f"{path.name} is no enlarger that this version of LLM-GAN can read.")
    values = json_object(metadata.get("enlarger"), "enlarger", path)
    if values.keys() != {field.name for field in fields(EnlargerConfig)}:
        raise ValueError(f"{path.name}: its config does not have the fields of this version.")
    if not all(type(value) is int and 0 < value <= MOST for value in values.values()):
        raise ValueError(f"{path.name}: its config holds numbers that cannot be.")
    with unfilled():
        enlarger = Enlarger(EnlargerConfig(**values))
    fill(enlarger, path, device, lambda _, tensor: tensor.float())
    enlarger.card = read_card(metadata, path)
    return enlarger.requires_grad_(False).eval()
