"""Training an enlarger on a folder of pictures: what `llm-gan train-enlarger` runs.

Parts of the pictures are shrunk, blurred a little and made noisy, as what a GAN draws may be, and the enlarger learns what they
were. Captions are not needed.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.folder import Pictures, read_folder, read_pictures
from ..enlarger import Enlarger, EnlargerConfig, save_enlarger
from ..generator import bilinear
from ..pictures import contact_sheet, from_network
from ..tensors import save_tensors
from .dataset import Ahead
from .log import RunLog
from .loop import give_up, learn
from .run import check_out, report_skipped
from .state import learner_tensors, load_learner, read_settings, read_state, write_settings
from .trainer import settings_of

log = logging.getLogger(__name__)
CROP = 96  # pixels to a side of what is to be drawn, of half as many
TRIES = 8  # to find a part of a picture where there is something:
SOMETHING = 8  # levels of 255 that it deviates by at the least
COLOURED = 0.5  # share of the parts on another colour than white,
SHAPES = 0.1  # and of those that show how opaque a picture is, in grey, for transparent ones
BLUR, NOISE = 0.8, 0.03  # at most, of the small one: deviation in pixels, and in -1..1
HELD_OUT = 50  # every so manieth picture, where the folder has no other split, is kept to judge by
JUDGED = 64  # pictures at most
SHOWN = 6  # in a sheet
WARMUP = 100  # steps


@dataclass(frozen=True)
class EnlargerTraining:
    images: int = 100_000  # parts of pictures
    resolution: int = 128  # of the pictures
    batch_size: int = 16
    lr: float = 2e-3
    seed: int = 0


class EnlargerTrainer:
    """Everything a step changes. `state`/`load` carry it all."""

    def __init__(
        self,
        enlarger: Enlarger,
        pictures: Pictures,
        rows: list[int],
        config: EnlargerTraining,
        device: torch.device | str = "cpu",
    ):
        self.enlarger, self.config, self.device = enlarger.to(device), config, device
        self.pictures, self.rows = pictures, rows  # which of them are learnt from: to pick them out would load them all
        self.optimizer = torch.optim.Adam(enlarger.parameters(), config.lr, (0.9, 0.99))
        self._drawn = Ahead(self._draw, device)
        self.step_number = self.images_seen = 0

    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Of a step small parts [B,3,CROP/2,CROP/2], spoilt, and what they were [B,3,CROP,CROP], in -1..1."""
        random = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        parts = torch.stack([self._part(random) for _ in range(self.config.batch_size)])
        return spoilt(F.avg_pool2d(parts, 2), random).to(self.device), parts.to(self.device)

    def _part(self, random: torch.Generator) -> Tensor:
        """[3,CROP,CROP] in -1..1, in one of eight positions, in any order of its colours or in their opposites."""
        pixels, opacity = self.pictures.pixels, self.pictures.opacity
        for _ in range(TRIES):
            sizes = len(self.rows), *(pixels.shape[2] - CROP + 1,) * 2
            at = [int(torch.randint(size, (), generator=random)) for size in sizes]
            there = self.rows[at[0]], slice(None), slice(at[1], at[1] + CROP), slice(at[2], at[2] + CROP)
            part = pixels[there].float()
            if part.std() > SOMETHING:
                break
        kind, ground = torch.rand(2, generator=random), torch.rand(3, 1, 1, generator=random) * 255
        if kind[0] < SHAPES:
            part = opacity[there].float().expand(3, -1, -1)
        elif kind[1] < COLOURED:
            part = part + (255 - opacity[there].float()) / 255 * (ground - 255)
        turn, mirror, opposite = (torch.rand(3, generator=random) < 0.5).tolist()
        part = part[torch.randperm(3, generator=random)].div(127.5).sub(1)
        part = part.transpose(1, 2) if turn else part
        return (part.flip(2) if mirror else part) * (-1 if opposite else 1)

    def step(self) -> dict[str, float]:
        """One update; its figures. Depends on the state and the step's number only."""
        small, parts = self._drawn(self.step_number)
        done = self.images_seen / self.config.images
        for group in self.optimizer.param_groups:
            falling = 0.5 + 0.5 * math.cos(math.pi * done)
            group["lr"] = self.config.lr * min(1.0, (self.step_number + 1) / WARMUP) * max(falling, 0.01)
        loss = (self.enlarger(small) - parts).abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.stack([parameter.grad.norm() for parameter in self.enlarger.parameters()]).norm()
        self.optimizer.step()
        self.step_number += 1
        self.images_seen += self.config.batch_size
        loss = loss + 0 * norm  # NaN where a gradient is not finite
        return {"error": loss.item(), "bilinear": (bilinear(small, 2) - parts).abs().mean().item()}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        return learner_tensors(self, "enlarger.", self.enlarger)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        load_learner(self, "enlarger.", self.enlarger, tensors)


def spoilt(small: Tensor, random: torch.Generator) -> Tensor:
    """small [B,3,H,W] in -1..1, each a little blurred and a little noisy, from not at all to `BLUR` and `NOISE`."""
    batch = len(small)
    deviation, noise = torch.rand(2, batch, generator=random)
    distance = torch.arange(-2, 3.0)
    taps = torch.exp(-(distance**2) / (2 * (deviation * BLUR).clamp(min=0.05)[:, None] ** 2))
    taps = taps / taps.sum(1, keepdim=True)
    kernels = (taps[:, :, None] * taps[:, None]).repeat_interleave(3, 0)[:, None]
    around = F.pad(small, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]
    blurred = F.conv2d(around, kernels, groups=3 * batch)[0].unflatten(0, (batch, 3))
    return blurred + torch.randn(small.shape, generator=random) * (noise * NOISE)[:, None, None, None]


@torch.no_grad()
def judge(enlarger: Enlarger, pictures: Tensor) -> dict[str, float]:
    """How near half the size, doubled, comes to pictures [N,3,R,R] in -1..1: PSNR in dB, the mean over the pictures, beside
    that of bicubic interpolation. Enlarged one at a time, as `enlarge` does."""
    found: dict[str, list[Tensor]] = {"PSNR": [], "PSNR of bicubic": []}
    for picture in pictures.split(1):
        small = F.avg_pool2d(picture, 2)
        bicubic = F.interpolate(small, scale_factor=2, mode="bicubic", align_corners=False)
        for name, drawn in zip(found, (enlarger(small), bicubic)):
            found[name].append(-10 * ((drawn.clamp(-1, 1) - picture) / 2).square().mean().clamp(min=1e-10).log10())
    return {name: torch.stack(values).mean().item() for name, values in found.items()}


def train_enlarger(
    data: Path,
    out: Path,
    run: Path,
    *,
    resolution: int | None = None,
    images: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    save_every: float = 240.0,
    progress: Callable[..., None] | None = None,
) -> Enlarger:
    """Train an enlarger on the pictures of `data`, at `resolution`, and write it to `out`; `run` keeps log, samples and state.

    Captions are not needed. Pictures of held-out splits, or some of all where there are none, are judged by and not learnt
    from. What is not said is as in `EnlargerTraining`, or when resuming the run's own. Where `progress` raises, `out` receives
    the enlarger as it was then. FileNotFoundError, FileExistsError or ValueError, in one sentence, before any long work;
    ArithmeticError where numbers are no longer finite, and `out` then receives the last good state.
    """
    check_out(out, run, resume, data)
    given = {"resolution": resolution, "images": images, "seed": seed}
    settings = read_settings(run, EnlargerTraining) if resume else {}
    config = settings_of(EnlargerTraining, settings | {name: value for name, value in given.items() if value is not None})
    if config.resolution < CROP or config.resolution % 2:
        raise ValueError(f"An enlarger learns from pictures of an even number of pixels, {CROP} or more to a side.")
    if not config.images:
        raise ValueError("An enlarger learns nothing from 0 pictures: give more.")
    examples, skipped = read_folder(data, uncaptioned=True)
    pictures = read_pictures(examples, config.resolution, run / "cache", progress)
    report_skipped(run, skipped + pictures.skipped)
    rows = list(range(len(pictures.examples)))
    others = [row for row in rows if pictures.examples[row].split != "train"] or rows[::HELD_OUT]
    kept = sorted({*rows} - {*others})
    if not kept:
        raise ValueError(f"{data} holds too few pictures to learn from some and to be judged by others.")
    judged = pictures.pixels[others[:: -(-len(others) // JUDGED)]].float().div(127.5).sub(1)
    torch.manual_seed(config.seed)
    enlarger = Enlarger(EnlargerConfig())
    trainer = EnlargerTrainer(enlarger, pictures, kept, config, device)
    run.mkdir(parents=True, exist_ok=True)
    if resume:
        trainer.load(read_state(run))
    write_settings(config, run)
    licenses = sorted({license for row in kept if (license := pictures.examples[row].license)})

    def save() -> None:
        save_tensors(trainer.state(), run / "state.safetensors")
        sheet = _sheet(enlarger, judged.to(device))  # after what was learnt is safe
        sheet.save(run / f"samples-{trainer.images_seen:08d}.png")
        log.info("saved %s at %d parts of pictures", run, trainer.images_seen)

    def publish() -> None:
        if trainer.images_seen:
            enlarger.card.name, enlarger.card.data = out.name.removesuffix(".safetensors"), f"{len(kept)} pictures"
            enlarger.card.licenses, enlarger.card.images_seen = licenses, trainer.images_seen
            enlarger.card.metrics = judge(enlarger, judged.to(device))
            save_enlarger(enlarger, out)

    try:
        learn(trainer, RunLog(run, trainer.images_seen), save, save_every, progress, lost=partial(give_up, run=run))
    except BaseException:
        if (run / "state.safetensors").exists():  # which is whole and finite, as the weights need not be
            trainer.load(read_state(run))
            publish()
        raise
    publish()
    return enlarger.requires_grad_(False).eval()


@torch.no_grad()
def _sheet(enlarger: Enlarger, pictures: Tensor):
    """Of some pictures a row each: the small one, bilinear, enlarged, as it was."""
    rows = []
    for picture in pictures[:SHOWN].split(1):
        small = F.avg_pool2d(picture, 2)
        rows += [F.interpolate(small, scale_factor=2), bilinear(small, 2), enlarger(small), picture]
    return contact_sheet(from_network(torch.cat(rows)), 4)
