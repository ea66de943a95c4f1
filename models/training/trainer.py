"""Training F and D together: the method's third stage.

One step runs each network once. The frozen features of a real and a fake batch are computed together; the discriminator's
heads learn from them detached; then every gradient that the generator is owed (adversarial, paired, pixel) is taken where
it arises, brought to unit length by its running norm, weighted, and sent back through the features and the generator in
one pass. Weights are therefore shares of the step, whatever the scale of the losses.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ..checkpoint import save_gan, unfilled
from ..damage import spoil
from ..discriminator import PixelDiscriminator, ProjectedDiscriminator, Verdict
from ..gan import GAN
from ..linear import without_tf32
from ..recorded import RecordedSteps
from ..tensors import save_tensors
from .augment import Augmentation
from .dataset import Ahead, Batch, Dataset
from .log import RunLog
from .loop import learn, means, rate
from .losses import (
    contrast,
    feature_distance,
    finite_difference_penalty,
    hinge_discriminator,
    hinge_generator,
    out_of_range,
    relativistic,
)
from .probes import probed, sample_sheet, vitals
from .state import check_run, load_optimizer, optimizer_tensors, read_state, under, write_settings

log = logging.getLogger(__name__)
T = TypeVar("T")

# Of a step, in the log.
FIGURES = (
    "paired", "pixel", "g_adversarial", "d", "d_raw", "r1r2", "d_real", "d_fake", "matching", "match", "overfit", "augment",
)  # fmt: skip
ROWS = ("memory.codes", "memory.shared", "memory.looks")  # parameters of which a step concerns a few rows
SAMPLES = (12, 8)  # captions down a sheet of samples, latents across
ADAPT = 30_000  # pictures that the discriminator sees while the strength of the augmentation goes from 0 to 1, at most
AUGMENT_MOST = 0.85  # beyond it a generator begins to draw the augmentations
CALMEST = 1 / 16  # of the learning rates: a run that diverges even then is given up
CLIP = 2.0  # a gradient longer than this many times its running norm is cut: one bad batch must not throw Adam off


@dataclass(frozen=True)
class TrainingConfig:
    images: int = 300_000  # real pictures shown in all, over every process
    batch_size: int = 8  # of one process
    lr_generator: float = 6e-4  # some 2 % of a weight a step: far above it the weights wander, and their average blurs
    lr_memory: float = 3e-2  # of the rows of the concept memory: each is seen once in hundreds of steps
    lr_discriminator: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)  # of the generator's Adam; the discriminator's has the (0.5, 0.99) of a game
    warmup: int = 100  # steps
    decay: float = 0.2  # last part of the run over which the learning rates fall to a twentieth
    ema_half_life: int = 5_000  # images, at most a tenth of those seen
    augment: float = 0.7  # probability of each augmentation at first
    overfit: float = 0.6  # it rises while more than this share of real pictures, less the others, are known for real, or falls
    paired: float = 1.0  # shares of the generator's step: features of the paired drawing,
    pixel: float = 1.2  # its pixels,
    adversarial: tuple[float, float] = (0.15, 0.6)  # the projected discriminator, from its first step to the last,
    raw: tuple[float, float] = (0.05, 0.25)  # and the raw-pixel discriminator
    adversarial_from: float = 0.9  # of the run: a discriminator that meets blurs wins at once, and teaches nothing
    matching: float = 1.0  # the discriminator's second task, to tell a picture's caption from others, beside real from fake,
    guidance: float = 1.0  # and the generator's share in it
    penalty: float = 1.0  # R1 + R2 on the raw-pixel discriminator
    bf16: bool = False  # matrix products in bfloat16, weights and sums in fp32: for GPUs, and CPUs with AMX
    scenes: int = 0  # sentences over one to three of the pictures on one canvas, to learn composition from
    seed: int = 0

    @classmethod
    def preset(cls, name: str, pictures: int, /, **changes) -> "TrainingConfig":
        """`quick`, `balanced` or `best` for a folder of so many pictures, with `changes` to single fields.

        Raises ValueError, naming what there is, for an unknown preset or field, a value of another type or beyond its limits.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name}: take {', '.join(PRESETS)}.")
        exposures, least = PRESETS[name]
        return settings_of(cls, {"images": max(exposures * pictures, least)} | changes)


def settings_of(kind: type[T], given: dict[str, Any]) -> T:
    """The settings of this kind of training, a dataclass, with those that are given.

    Raises ValueError, naming what there is, for an unknown one, a value of another type or beyond what it can be run with.
    """
    known = {f.name: type(f.default) for f in fields(kind)}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"The training has no setting {name}: it has {', '.join(known)}.")
        wanted = known[name]
        if wanted is tuple:
            fits = type(value) is tuple and len(value) == 2 and all(type(x) in (int, float) for x in value)
        else:
            fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise ValueError(f"The setting {name} = {value!r:.40} should be like {getattr(kind, name)!r}.")
        low, high = LIMITS.get(name, (0, 1e6))
        if not all(low <= number <= high for number in (value if wanted is tuple else (value,))):
            raise ValueError(f"The setting {name} = {value!r:.40} should be from {low:g} to {high:g}.")
    return kind(**settings)


LIMITS = {  # of settings; a share of the generator's step may be anything from 0
    "images": (0, 1e12),
    "batch_size": (1, 1e5),
    "lr_generator": (0, 1),
    "lr_memory": (0, 1),
    "lr_discriminator": (0, 1),
    "lr": (0, 1),
    "betas": (0, 1 - 1e-6),
    "warmup": (1, 1e9),
    "decay": (1e-6, 1),
    "ema_half_life": (1, 1e9),
    "augment": (0, 1),
    "overfit": (-1, 1),
    "adversarial_from": (0, 1),
    "seed": (0, 2**40),
}

# How often each picture is shown, and how many are in all at the least: a small folder needs as many steps to draw at all.
PRESETS = {"quick": (10, 8_000), "balanced": (40, 60_000), "best": (150, 300_000)}


class Given(NamedTuple):
    """All that a step takes from outside: the batch, and once the discriminator plays how both of its pictures are augmented,
    every fourth picture spoilt [B/4,3,R,R], the noise [2,B/4,3,R,R] of its penalty, which the same ones bear, and the shares
    [2] that the two discriminators have in the generator's step."""

    batch: Batch
    augment: Augmentation | None
    spoilt: Tensor | None
    noise: Tensor | None
    shares: Tensor | None


class RunningNorm:
    """Gradients brought to unit length by the running mean of their norm over the batch of all processes."""

    def __init__(self, momentum: float = 0.98):
        self.momentum = momentum
        self.value: Tensor | None = None  # stays on the device: to read it would be to wait for the device

    def update(self, norm: Tensor) -> None:
        if self.value is None:
            self.value = norm.detach().clone()
        else:
            self.value.lerp_(norm.detach(), 1 - self.momentum)

    def __call__(self, gradients: Sequence[Tensor], share: float | Tensor) -> list[Tensor]:
        self.update(norm_of(gradients))
        return [g * (share / (self.value + 1e-12)) for g in gradients]


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The length of the gradients at a batch that the processes share: each holds its part, of a mean over its part."""
    square = torch.stack([g.float().square().sum() for g in gradients]).sum()
    if not dist.is_initialized():
        return square.sqrt()
    dist.all_reduce(square)
    return square.sqrt() / dist.get_world_size()


def matching(judge: ProjectedDiscriminator | PixelDiscriminator, verdict: Verdict, batch: Batch) -> tuple[Tensor, Tensor]:
    """How badly the pictures that `verdict` is of are told to show their captions rather than others -> the loss, and the
    share of pictures whose own caption comes first."""
    own, others = verdict.alignment(judge.embed_text(batch.pooled)), verdict.alignments(judge.embed_text(batch.others))
    best = others.masked_fill(~batch.wrong, -torch.inf).amax(1)
    return contrast(own, others, batch.wrong), (own > best).float().mean()


class Trainer:
    """Everything a step changes: networks, optimisers, running norms and the count of images. `state`/`load` carry it all.

    Of several processes each takes its rows of one batch, so that two with 8 pictures make the step of one with 16.
    """

    def __init__(self, gan: GAN, dataset: Dataset, config: TrainingConfig, device: torch.device | str = "cpu"):
        self.gan, self.dataset, self.config, self.device = gan.to(device), dataset, config, device
        self.generator, self.discriminator = gan.generator, gan.discriminator
        if self.generator.config.things:
            self.generator.layout.requires_grad_(False)  # sentences have taught it, pictures would not
        self.ema = {name: p.detach().clone() for name, p in self.generator.state_dict().items()}
        for module in self.discriminator.projected.heads.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                parametrizations.spectral_norm(module)
        self.trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        recordable = torch.device(device).type == "cuda" and self.world == 1
        self.optimizers = {
            "generator": torch.optim.Adam(
                [
                    {"params": [p for n, p in self.generator.named_parameters() if n not in ROWS and p.requires_grad]},
                    {"params": [p for n, p in self.generator.named_parameters() if n in ROWS], "base_lr": config.lr_memory},
                ],
                config.lr_generator,
                config.betas,
                fused=True,
                capturable=recordable,
            ),
            "discriminator": torch.optim.Adam(
                self.trained, config.lr_discriminator, (0.5, 0.99), fused=True, capturable=recordable
            ),
        }
        self.discriminator.to(memory_format=torch.channels_last)  # which its convolutions are made for
        if recordable:
            for group in chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers.values()):
                group["lr"] = torch.tensor(float(group["lr"]), device=device)  # which a recording reads anew
        if self.generator.config.concepts:
            # Nor would pictures teach what captions mean, and while that stays, z chooses alike from first to last.
            self.generator.memory.query.requires_grad_(False)
            self.generator.memory.keys.requires_grad_(False)
            if self.generator.config.shown:  # nor in what looks it is asked for, where that was learnt before the first picture
                self.generator.look_from_text.requires_grad_(False)
        self.norms = {name: RunningNorm() for name in ("paired", "pixel", "adversarial", "raw", *self.optimizers)}
        dataset.hold(torch.device(device))
        self._drawn = Ahead(self._draw, device)
        self._run = RecordedSteps(self._learn, self._moving, self._drawn.settle) if recordable else self._learn
        self.step_number = 0
        self.images_seen = 0
        self.images_before = gan.card.images_seen  # by what it begins from
        self.augment = config.augment
        self.calm = 1.0  # factor on the learning rates, halved whenever the run has diverged

    @property
    def progress(self) -> float:
        return min(self.images_seen / self.config.images, 1.0)

    def step(self) -> dict[str, float]:
        """One update of G, and of D once it plays; returns its figures. Depends on the state and the step's number only."""
        given = self._given()
        self._schedule()
        # All at once, and last: a GPU that is asked for a number between has nothing to do until the next work arrives.
        numbers = self._run(given).cpu().tolist()
        self.step_number += 1
        self.images_seen += self.config.batch_size * self.world
        self._average()
        figures = dict(zip(FIGURES, numbers))
        if given.augment is not None:
            self._adapt(figures)
        return figures

    def _given(self) -> Given:
        """What the next step is made of."""
        batch, random = self._drawn(self.step_number)
        if self.generator.config.things and batch.layout is None and isinstance(self._run, RecordedSteps):
            with torch.no_grad():  # with room for all that there may be: to see how much is needed, a step would wait
                batch = batch._replace(layout=self.generator.lay_out(batch.tokens, batch.pooled, batch.mask))
        if self.progress < self.config.adversarial_from:
            return Given(batch, None, None, None, None)
        size, rows, shape = self.config.batch_size * self.world, self._rows, batch.images.shape[1:]
        augment = Augmentation.draw(size, self.gan.resolution, self.augment, random).part(rows, self.device)
        shares = torch.tensor([self._ramp(self.config.adversarial), self._ramp(self.config.raw)]).to(self.device)
        noise = self._noise(random, 3, size, *shape)[:, rows][:, ::4]
        spoilt = spoil(batch.images[::4], noise[2], *torch.rand(2, size, generator=random)[:, rows][:, ::4])
        return Given(batch, augment, spoilt, noise[:2], shares)

    def _moving(self) -> list[Tensor]:
        """All that `_learn` changes, the averaged generator not among it."""
        tensors = [x.detach() for network in (self.generator, self.discriminator) for x in network.state_dict().values()]
        for optimizer in self.optimizers.values():
            tensors += [x for own in optimizer.state.values() for x in own.values()]
        return tensors + [norm.value for norm in self.norms.values() if norm.value is not None]

    def _learn(self, given: Given) -> Tensor:
        """The work of a step on the device, which nothing in it waits for -> the first of FIGURES; NaN among them where a
        gradient was not finite, and so the weights no longer are."""
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bf16):
            figures = self._play(given)
        return torch.stack([value.detach().float() for value in figures])

    def _play(self, given: Given) -> list[Tensor]:
        config, projected = self.config, self.discriminator.projected
        batch, augment = given.batch, given.augment
        self.gan.train()
        mapping = self.generator.mapping  # where it does not learn, as in a student, its mean is to stay as well
        mapping.train(any(p.requires_grad for p in mapping.parameters()))
        fake = self.generator(batch.z, batch.tokens, batch.pooled, batch.mask, batch.layout)
        seen = fake.detach().requires_grad_()
        real_view, fake_view = batch.images, seen
        if augment is not None:  # only a discriminator needs its pictures varied
            real_view, fake_view = augment(batch.images), augment(seen)
        with torch.no_grad():
            real_features = projected.look(real_view)
        fake_features = projected.look(fake_view)
        leaves = [f.detach().requires_grad_() for f in fake_features]

        # Gradients at the features, brought to the picture in one pass.
        paired = feature_distance(leaves, real_features)
        total = self.norms["paired"](torch.autograd.grad(paired, leaves), config.paired)
        share, figures = config.paired, []
        if augment is not None:
            with without_tf32():  # which would drown a finite difference, and its gradient
                figures = self._train_discriminator(given, real_view, fake_view.detach(), real_features, leaves)
            with parametrize.cached():
                verdict = projected.judge(leaves)
                loss = hinge_generator(verdict.realism) + config.guidance * matching(projected, verdict, batch)[0]
            gradients = torch.autograd.grad(loss, leaves)
            total = [t + g for t, g in zip(total, self.norms["adversarial"](gradients, given.shares[0]))]
            share = share + given.shares[0]
            figures = [loss, *figures]
        at_image = torch.autograd.grad(fake_features, seen, total, retain_graph=augment is not None)[0]
        # Both terms have passed through the same features: one norm brings their sum to the size of the direct terms.
        at_image = at_image * (share / (norm_of([at_image]) + 1e-12))

        # Gradients at the picture itself, then through the generator, once.
        pixel = (seen - batch.images).abs().mean()
        at_image += self.norms["pixel"](torch.autograd.grad(pixel, seen), config.pixel)[0]
        if augment is not None:
            raw = self.discriminator.pixel
            with torch.no_grad():
                real = raw.judge(real_view)
            verdict = raw.judge(fake_view)
            against = relativistic(verdict.realism, real.realism) + config.guidance * matching(raw, verdict, batch)[0]
            at_image += self.norms["raw"](torch.autograd.grad(against, seen), given.shares[1])[0]
        outside = torch.autograd.grad(100 * config.batch_size * out_of_range(seen), seen)[0]
        at_image += outside / norm_of([outside]).clamp(min=1)

        learning = [p for p in self.generator.parameters() if p.requires_grad]
        lost = self._update("generator", learning, lambda: fake.backward(at_image))
        if self.world > 1:
            dist.all_reduce(self.generator.mapping.mean)
            self.generator.mapping.mean /= self.world
        return [paired + lost, pixel, *figures]

    @property
    def _rows(self) -> slice:
        """Of the batch that all processes share, those of this one."""
        return slice(self.rank * self.config.batch_size, (self.rank + 1) * self.config.batch_size)

    def _draw(self, step: int) -> tuple[Batch, torch.Generator]:
        """The batch of a step, and the generator of what else is random in it."""
        random = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        return self.dataset.draw(self.config.batch_size * self.world, random, self._rows, self.device), random

    def _noise(self, random: torch.Generator, *shape: int) -> Tensor:
        """N(0,I) of this shape; by a GPU, since millions of numbers take a CPU longer than a GPU takes for the step."""
        if torch.device(self.device).type == "cuda":
            random = torch.Generator(self.device).manual_seed(random.initial_seed())
        return torch.randn(shape, generator=random, device=random.device).to(self.device)

    def _train_discriminator(self, given: Given, real_view, fake_view, real_features, fake_features) -> list[Tensor]:
        """One step of the discriminator. Every fourth real picture, spoilt, is a fake one too (negative data augmentation,
        Sinha et al. 2021, arXiv 2102.05113): a judge that has seen none but its generator's takes noise for real."""
        config, projected, raw = self.config, self.discriminator.projected, self.discriminator.pixel
        batch, size = given.batch, config.batch_size
        spoilt_view = given.augment.part(slice(None, None, 4), self.device)(given.spoilt)
        with torch.no_grad():
            spoilt_features = projected.look(spoilt_view)
        with parametrize.cached():
            looks = [torch.cat([r, f.detach(), s]) for r, f, s in zip(real_features, fake_features, spoilt_features)]
            real, fake, spoilt = projected.judge(looks).split(size)
            matched, correct = matching(projected, real, batch)
        loss = hinge_discriminator(real.realism, torch.cat([fake.realism, spoilt.realism]))
        real_raw, fake_raw, spoilt_raw = raw.judge(torch.cat([real_view, fake_view, spoilt_view])).split(size)
        raw_loss = relativistic(real_raw.realism, fake_raw.realism) + relativistic(real_raw.realism[::4], spoilt_raw.realism)
        # Alignment is learnt from real pictures alone: what a picture shows does not depend on who drew it.
        matched = matched + matching(raw, real_raw, batch)[0]
        views = torch.cat([real_view[::4], fake_view[::4]])
        text = batch.pooled[::4].repeat(2, 1)
        with torch.autocast(views.device.type, enabled=False):  # bf16 would swallow the difference
            penalty = finite_difference_penalty(lambda x: self._raw_logit(x, text), views, torch.cat([*given.noise]))
        lost = self._update(
            "discriminator",
            self.trained,
            lambda: (loss + raw_loss + config.matching * matched + config.penalty * penalty).backward(),
        )
        known = real.realism.sign().mean()
        return [loss + lost, raw_loss, penalty, real.realism.mean(), fake.realism.mean(), matched, correct, known]

    def _adapt(self, figures: dict[str, float]) -> None:
        """Augment more while the discriminator knows its real pictures too well: r_t = E[sign D(x)] against its target
        (StyleGAN2-ADA, Karras et al. 2020, arXiv 2006.06676, §3)."""
        overfit = figures["overfit"]
        if self.world > 1:
            mean = torch.tensor(overfit, device=self.device)
            dist.all_reduce(mean)
            overfit = mean.item() / self.world
        step = self.config.batch_size * self.world / ADAPT
        self.augment = min(max(self.augment + math.copysign(step, overfit - self.config.overfit), 0.0), AUGMENT_MOST)
        figures["augment"] = self.augment

    def _raw_logit(self, images: Tensor, text: Tensor) -> Tensor:
        raw = self.discriminator.pixel
        verdict = raw.judge(images)
        return verdict.realism.mean(1) + verdict.alignment(raw.embed_text(text))

    def _ramp(self, ends: tuple[float, float]) -> float:
        """From the first value to the second over the adversarial part of the run."""
        start = self.config.adversarial_from
        return ends[0] + (ends[1] - ends[0]) * (self.progress - start) / max(1 - start, 1e-8)

    def _schedule(self) -> None:
        factor = rate(self.config, self.step_number, self.progress) * self.calm
        for name, lr in (("generator", self.config.lr_generator), ("discriminator", self.config.lr_discriminator)):
            for group in self.optimizers[name].param_groups:
                new = group.get("base_lr", lr) * factor
                group["lr"] = group["lr"].fill_(new) if isinstance(group["lr"], Tensor) else new

    def _update(self, name: str, parameters: list[nn.Parameter], backward: Callable[[], None]) -> Tensor:
        """A step of this optimiser -> 0, or NaN where its gradients are not finite: figures, which are taken before it, would
        show that in the next step only, after the weights were saved."""
        self.optimizers[name].zero_grad(set_to_none=True)
        backward()
        if self.world > 1:  # one all-reduce for all the gradients
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            for p, g in zip(parameters, flat.split([g.numel() for g in gradients])):
                p.grad = g.view_as(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm, usual = torch.stack(torch._foreach_norm(gradients)).norm(), self.norms[name].value
        lost = 0 * norm
        if usual is not None:
            torch._foreach_mul_(gradients, (CLIP * usual / (norm + 1e-6)).clamp(max=1))
            norm = torch.minimum(norm, CLIP * usual)
        self.norms[name].update(norm)
        self.optimizers[name].step()
        return lost

    @torch.no_grad()
    def _average(self) -> None:
        half_life = min(self.config.ema_half_life, self.images_seen / 10)
        weight = 1 - 0.5 ** (self.config.batch_size * self.world / max(half_life, 1e-8))
        state = self.generator.state_dict()
        torch._foreach_lerp_([self.ema[name] for name in state], list(state.values()), weight)

    def export(self) -> GAN:
        """A GAN with the averaged generator, whose concepts have all looks, and plain (already normalised) discriminator
        weights, on the same device; shares no tensor, learns no more."""
        with unfilled():
            gan = GAN(self.generator.config, self.discriminator.config, self.gan.recipe, self.gan.card)
        gan.card.images_seen = self.images_before + self.images_seen
        self.discriminator.eval()  # or reading a weight would advance its power iteration
        modules = dict(self.discriminator.named_modules())
        weights = {f"generator.{name}": value for name, value in self.ema.items()}
        weights |= {f"condition_norm.{name}": value for name, value in self.gan.condition_norm.state_dict().items()}
        for name in gan.discriminator.state_dict():
            owner, _, attribute = name.rpartition(".")
            weights[f"discriminator.{name}"] = getattr(modules[owner], attribute)
        copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
        gan.load_state_dict(copies, assign=True)
        if gan.generator.config.shown and self.images_seen:  # or what draws would change where pictures taught nothing
            gan.generator.memory.lend_looks()
        return gan.requires_grad_(False)

    def diverged(self, figures: dict[str, float]) -> bool:
        """Whether a step's figures show, in any process, that the run is lost: not finite, or pixels far out of range."""
        lost = not all(map(math.isfinite, figures.values())) or figures["pixel"] > 2
        if self.world == 1:
            return lost
        votes = torch.tensor(float(lost), device=self.device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        tensors = {f"generator.{k}": v for k, v in self.generator.state_dict().items()}
        tensors |= {f"discriminator.{k}": v for k, v in self.discriminator.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        tensors |= {f"condition_norm.{k}": v for k, v in self.gan.condition_norm.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(f"optimizer.{name}.", optimizer)
        counts = {"step": self.step_number, "images": self.images_seen, "before": self.images_before}
        counts |= {"calm": self.calm, "augment": self.augment}
        counts |= {f"norm.{name}": norm.value.item() for name, norm in self.norms.items() if norm.value is not None}
        tensors |= {f"count.{name}": torch.tensor(value, dtype=torch.float64) for name, value in counts.items()}
        return {k: v.detach().clone().contiguous() for k, v in tensors.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`: training goes on as if it had not stopped."""
        self.generator.load_state_dict(under("generator.", tensors))
        self.discriminator.load_state_dict(under("discriminator.", tensors))
        self.gan.condition_norm.load_state_dict(under("condition_norm.", tensors))
        self.ema = {name: value.to(self.device) for name, value in under("ema.", tensors).items()}
        if isinstance(self._run, RecordedSteps):
            self._run.forget()
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, under(f"optimizer.{name}.", tensors))
        counts = {k: v.item() for k, v in under("count.", tensors).items()}
        self.step_number, self.images_seen = int(counts.pop("step")), int(counts.pop("images"))
        self.images_before = int(counts.pop("before", 0))
        self.calm, self.augment = counts.pop("calm", 1.0), counts.pop("augment", self.config.augment)
        for norm in self.norms.values():
            norm.value = None
        for name, value in counts.items():
            self.norms[name.removeprefix("norm.")].value = torch.tensor(value, device=self.device)


def train(
    gan: GAN,
    dataset: Dataset,
    config: TrainingConfig,
    run: Path,
    resume: bool = False,
    device: torch.device | str = "cpu",
    save_every: float = 240.0,
    tensorboard: bool = False,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
    show: Callable[[Image], None] | None = None,
) -> GAN:
    """Train `gan` on `dataset` until `config.images` have been shown, or `progress` raises; returns the averaged GAN.

    `run` receives `log.csv` and its `curves.png`, `samples-*.png` (also given to `show`) and in `samples.txt` the caption of
    each of their rows, `state.safetensors` to resume from and `model.safetensors` to use, every `save_every` seconds and at the
    end, whatever ends it. `resume` goes on from there, on a CPU bit for bit as if it had not stopped. A step that diverges
    takes the run back to its last state, with half the learning rates; ArithmeticError if that does not help, MemoryError where
    the batch is too large for the device. A disk that is full is reported, and the files written before it was stay.
    """
    check_run(run, resume)
    run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(gan, dataset, config, device)
    if resume:
        trainer.load(read_state(run))
    if trainer.generator.config.chooses:  # by the very numbers that it draws with, which a checkpoint rounds
        dataset.choose_by(trainer.generator.memory)
    figures_log = None
    if trainer.rank == 0:
        write_settings(config, run)
        captions = "".join(f"{dataset.texts[caption]}\n" for caption in probed(dataset, SAMPLES[0]))
        (run / "samples.txt").write_text(captions, encoding="utf-8", errors="backslashreplace")
        figures_log = RunLog(run, trainer.images_seen, tensorboard)
        if not resume:
            _save(trainer, run, show)  # where to go back to

    def summary(rows: list[dict[str, float]]) -> dict[str, float]:
        return means(rows, FIGURES) | vitals(trainer.export(), dataset)

    def lost(figures: dict[str, float]) -> bool:
        diverged = trainer.diverged(figures)
        if diverged:
            _roll_back(trainer, run)
        return diverged

    if trainer.world > 1:
        progress = _heard_by_all(progress, device)
    learn(trainer, figures_log, lambda: _save(trainer, run, show), save_every, progress, summary, lost)
    return trainer.export().cpu()


def _heard_by_all(progress: Callable[..., None] | None, device: torch.device | str) -> Callable[..., None]:
    """`progress` of one of several processes: where it raises in any, it does in all, or the others would wait for that one."""

    def step(*report) -> None:
        going = torch.zeros((), device=device)
        try:
            if progress is not None:
                progress(*report)
            going += 1
        finally:
            dist.all_reduce(going, dist.ReduceOp.MIN)
        if not going:
            raise KeyboardInterrupt

    return step


def _roll_back(trainer: Trainer, run: Path) -> None:
    calm = trainer.calm / 2
    if calm < CALMEST:
        raise ArithmeticError(
            f"Training diverges even at {2 * calm:g} of its learning rate. The last good state, at an earlier picture, is in "
            f"{run}: look at its samples, and start again with a lower lr_generator."
        )
    lost = trainer.images_seen
    trainer.load(read_state(run))
    trainer.calm = calm
    log.warning("diverged at %d pictures: back to %d, with %g of the learning rate", lost, trainer.images_seen, calm)


def _save(trainer: Trainer, run: Path, show: Callable[[Image], None] | None) -> None:
    gan = trainer.export()
    save_tensors(trainer.state(), run / "state.safetensors")
    save_gan(gan, run / "model.safetensors")
    sheet = sample_sheet(gan, trainer.dataset, *SAMPLES)  # after what was learnt is safe
    sheet.save(run / f"samples-{trainer.images_seen:08d}.png")
    if show is not None:
        show(sheet)
    log.info("saved %s at %d images", run, trainer.images_seen)
