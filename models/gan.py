"""A conditional GAN as one object: the condition's normalisation, the generator F and its discriminator D.

`generate` is z = F(y) and `score` is D(z): pure functions of their arguments, on whatever device and dtype the weights have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .condition import Condition, Recipe
from .discriminator import Discriminator, DiscriminatorConfig
from .generator import Generator, GeneratorConfig
from .pictures import from_network, to_network

STATE_BOUND = 8.0  # normalised states beyond this many deviations are outliers of single dimensions, not meaning


class ConditionNorm(nn.Module):
    """Raw language-model states -> what the networks read: z-scored tokens, whitened pooled vector.

    Hidden states need it: one dimension of Gemma's carries up to 93 % of the energy, and standardised pooled states tell
    concepts apart a third as well as whitened ones. The statistics are those of the training captions and travel with the
    weights, so that raw conditions can be cached and shared between GANs.
    """

    def __init__(self, token_dim: int, pooled_dim: int):
        super().__init__()
        self.register_buffer("token_mean", torch.zeros(token_dim))
        self.register_buffer("token_std", torch.ones(token_dim))
        self.register_buffer("pooled_mean", torch.zeros(token_dim))
        # Not torch.eye: on the meta device, where checkpoints build it, that imports the compiler, which takes seconds.
        self.register_buffer("whitening", torch.zeros(token_dim, pooled_dim).fill_diagonal_(1))

    @torch.no_grad()
    def fit(self, tokens: Tensor, pooled: Tensor) -> None:
        """Take the statistics of raw tokens [N,C] and pooled [B,C], which should be those of all the training captions."""
        tokens, pooled = tokens.double(), pooled.double()
        self.token_mean.copy_(tokens.mean(0))
        self.token_std.copy_(tokens.std(0).clamp(min=1e-6))
        mean = pooled.mean(0)
        # PCA whitening after z-scoring: without it the loudest dimensions would be the only components.
        std = pooled.std(0).clamp(min=1e-6)
        standard = (pooled - mean) / std
        _, values, vectors = torch.linalg.svd(standard, full_matrices=False)
        rank = min(self.whitening.shape[1], len(values))
        deviations = (values[:rank] / max(len(pooled) - 1, 1) ** 0.5).clamp(min=1e-3)
        self.pooled_mean.copy_(mean)
        self.whitening.zero_()
        self.whitening[:, :rank] = vectors[:rank].t() / std[:, None] / deviations

    def forward(self, tokens: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B,T,C], pooled [B,C], raw -> tokens [B,T,C], pooled [B,P] in about -8..8, fp32."""
        tokens = (tokens.float() - self.token_mean.float()) / self.token_std.float()
        pooled = (pooled.float() - self.pooled_mean.float()) @ self.whitening.float()
        return tokens.clamp(-STATE_BOUND, STATE_BOUND), pooled.clamp(-STATE_BOUND, STATE_BOUND)


class Latent(NamedTuple):
    """What a picture was drawn from: z [N,z_dim] and the styles [N,num_styles,style_dim] of the thing that its prompt names
    first, fp32 on the CPU."""

    z: Tensor
    styles: Tensor


class Scores(NamedTuple):
    """One number a picture, more is better: realism never sees the prompt, alignment is the match with it (zero without
    one), total is their sum. All [N], fp32 on the CPU."""

    realism: Tensor
    alignment: Tensor

    @property
    def total(self) -> Tensor:
        return self.realism + self.alignment

    def best(self, count: int) -> Tensor:
        """Indices of the `count` highest totals, best first."""
        return self.total.argsort(descending=True, stable=True)[:count]


@dataclass
class Card:
    """What a checkpoint says of itself; nothing here changes what the networks compute."""

    name: str = "untitled"
    data: str = ""  # what it was trained on
    licenses: list[str] = field(default_factory=list)
    images_seen: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)  # a few that show what it can do


class GAN(nn.Module):
    """Generator, discriminator (None in a checkpoint shipped without) and normalisation, built from their configs."""

    def __init__(
        self, generator: GeneratorConfig, discriminator: DiscriminatorConfig | None, recipe: Recipe, card: Card | None = None
    ):
        super().__init__()
        self.recipe = recipe
        self.card = card or Card()
        self.condition_norm = ConditionNorm(generator.token_dim, generator.pooled_dim)
        self.generator = Generator(generator)
        self.discriminator = None if discriminator is None else Discriminator(discriminator)
        self.eval()

    @property
    def resolution(self) -> int:
        return self.generator.config.resolution

    @property
    def dtype(self) -> torch.dtype:
        return self.generator.canvas.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.generator.canvas.weight.device

    def check(self, condition: Condition) -> None:
        """ValueError, saying what to change, if this GAN cannot read `condition`."""
        width = condition.tokens.shape[-1]
        if condition.recipe is not None:
            difference = self.recipe.difference(condition.recipe)
            if difference:
                raise ValueError(difference)
        if width != self.recipe.width or condition.pooled.shape[-1] != self.recipe.width:
            raise ValueError(
                f"The GAN {self.card.name} reads conditions {self.recipe.width} wide, from {self.recipe.model}; this one is "
                f"{width} wide: encode the prompt with {self.recipe.model}."
            )

    def sample_z(self, seed: int, count: int) -> Tensor:
        """z [count,z_dim] ~ N(0,I), fp32 on the CPU: one seed gives the same row i on every machine, whatever `count`."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.stack([torch.randn(self.generator.config.z_dim, generator=generator) for _ in range(count)])

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        z: Tensor,
        truncation_psi: float = 1.0,
        batch_size: int = 16,
        progress: Callable[[int, int], None] | None = None,
        transparent: bool = False,
    ) -> tuple[Tensor, Latent]:
        """condition [N], z [N,z_dim] -> images [N,R,R,3] in 0..1, fp32 on the CPU, and the latent they were drawn from.

        `transparent` leaves the background out: the images are [N,R,R,4], colour and opacity. Runs `batch_size` at a time; what does not fit the device's memory is tried again in halves. `progress(done, total)`
        is called after every part and may raise to stop. Raises ValueError where the condition or `transparent` does not fit.
        """
        self.check(condition)
        if transparent and not self.generator.config.things:
            raise ValueError(
                f"The GAN {self.card.name} draws its background too: for transparent pictures take one trained with scenes."
            )

        def draw(rows: slice) -> tuple[Tensor, Tensor]:
            part = condition[rows].to(self.device)
            text = self.generator.read(*self.condition_norm(part.tokens, part.pooled), part.mask)
            code = self.generator.code(z[rows].to(self.device), text, truncation_psi)
            if transparent:
                rgb, opacity = self.generator.paint(code, text)
                images = torch.cat([from_network(rgb), opacity.permute(0, 2, 3, 1)], 3)
            else:
                images = from_network(self.generator.synthesize(code, text))
            return images.cpu(), code.styles[:, 0].float().cpu()

        images, styles = in_parts(draw, len(z), batch_size, progress)
        return images, Latent(z.float().cpu(), styles)

    @torch.no_grad()
    def score(
        self,
        images: Tensor,
        condition: Condition | None = None,
        batch_size: int = 16,
        progress: Callable[[int, int], None] | None = None,
    ) -> Scores:
        """images [N,H,W,3] in 0..1, any size; condition [N], [1] for all, or None for realism alone -> Scores [N].

        Raises ValueError if this GAN has no discriminator or the counts do not fit.
        """
        if self.discriminator is None:
            raise ValueError(f"The GAN {self.card.name} was saved without its discriminator: score with one that has it.")
        if condition is not None:
            self.check(condition)
            if len(condition) not in (1, len(images)):
                raise ValueError(
                    f"{len(images)} images and {len(condition)} prompts: give one prompt, or one for each image."
                )

        def judge(rows: slice) -> tuple[Tensor, Tensor]:
            x = to_network(images[rows].to(self.device), self.resolution)
            if condition is None:
                text = x.new_zeros(len(x), self.generator.config.pooled_dim)
            else:
                part = (condition[rows] if len(condition) > 1 else condition).to(self.device)
                text = self.condition_norm(part.tokens, part.pooled)[1].expand(len(x), -1)
            realism, alignment = self.discriminator(x.to(self.dtype), text.to(self.dtype))
            if condition is None:
                alignment = torch.zeros_like(alignment)
            return realism.float().cpu(), alignment.float().cpu()

        return Scores(*in_parts(judge, len(images), batch_size, progress))


def in_parts(
    work: Callable[[slice], tuple[Tensor, ...]], total: int, size: int, progress: Callable[[int, int], None] | None
) -> list[Tensor]:
    """`work` on at most `size` of `total` rows at a time, its results joined; in halves where memory runs out."""
    results, start = [], 0
    while start < total:
        stop = min(start + size, total)
        try:
            results.append(work(slice(start, stop)))
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size = (stop - start + 1) // 2
            torch.cuda.empty_cache()
            continue
        start = stop
        if progress is not None:
            progress(stop, total)
    return [torch.cat(column) for column in zip(*results)]
