"""A GAN that others trained and published, with the methods of our own: it draws, is scored, mixed and walked.

It takes a prompt as far as it can: GALIP draws what CLIP reads in it; where a GAN draws classes, the language model finds the
one that the prompt names; where it draws one kind of thing only, the prompt says nothing to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..condition import Condition, Recipe
from ..gan import AnyGAN, Card, ConditionNorm, Latent, Scores, in_parts
from ..pictures import from_network, to_network
from .biggan import BigGANGenerator
from .galip import GALIPDiscriminator, GALIPGenerator
from .stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from .stylegan3 import StyleGAN3Generator

WHITENED = 128  # dimensions, in which of ImageNet's names the most are found by sentences with them
SHARP = 100.0  # likenesses, as cosines, are told apart that differ by a few hundredths
SOFT = 10.0  # between two prompts, where both are meant

PublishedGenerator = StyleGAN2Generator | StyleGAN3Generator | BigGANGenerator | GALIPGenerator
PublishedDiscriminator = StyleGAN2Discriminator | GALIPDiscriminator


class Classes(nn.Module):
    """Prompt -> label: which of the classes that a GAN was trained on the prompt names, by how the language model reads both.

    `names` [K] are the names of each class, in any languages.
    """

    def __init__(self, names: Sequence[Sequence[str]], width: int):
        super().__init__()
        self.names = [list(row) for row in names]
        count = sum(map(len, self.names))
        whitened = max(min(WHITENED, count - 1), 1)
        self.norm = ConditionNorm(width, whitened)
        self.register_buffer("vectors", torch.zeros(count, whitened))

    def learn(self, condition: Condition) -> None:
        """Take what the names, one after the other, mean; `condition` has a row for each."""
        self.norm.fit(condition.tokens[condition.mask], condition.pooled)
        self.vectors.copy_(self._read(condition))

    def _read(self, condition: Condition) -> Tensor:
        return F.normalize(self.norm(condition.tokens[:, :1], condition.pooled)[1], dim=1)

    def forward(self, condition: Condition) -> Tensor:
        """condition [B] -> label [B,K], nearly all of it one class, or two where it lies between two prompts."""
        likeness = self._read(condition) @ self.vectors.t()
        owners = torch.tensor([i for i, row in enumerate(self.names) for _ in row], device=likeness.device).expand_as(likeness)
        best = likeness.new_full((len(likeness), len(self.names)), -1.0).scatter_reduce(1, owners, likeness, "amax")
        choice = best.new_ones(len(best)) if condition.choice is None else condition.choice
        return (best * torch.lerp(torch.full_like(choice, SOFT), torch.full_like(choice, SHARP), choice)[:, None]).softmax(1)


class PublishedGAN(AnyGAN):
    """Generator, discriminator where one was published, and the names of its classes where it has some."""

    published = True

    def __init__(
        self,
        generator: PublishedGenerator,
        discriminator: PublishedDiscriminator | None,
        recipe: Recipe,
        classes: Classes | None = None,
        card: Card | None = None,
    ):
        super().__init__(generator, discriminator, recipe, card)
        self.classes = classes
        if isinstance(discriminator, GALIPDiscriminator):
            discriminator.look_through(generator.eyes)
        self.eval()

    @property
    def reads(self) -> bool:
        """Whether a prompt says anything to it."""
        return self.classes is not None or isinstance(self.generator, GALIPGenerator)

    def check(self, condition: Condition) -> None:
        if self.reads:  # else it takes any
            super().check(condition)

    def _label(self, condition: Condition) -> Tensor:
        """What the prompts [B] say, as label [B,K]: the class of each, or its vector; K = 0 where the GAN takes none."""
        condition = condition.to(self.device)
        if self.classes is not None:
            return self.classes(condition)
        return condition.pooled if self.reads else condition.pooled.new_zeros(len(condition), 0)

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        latent: Latent | Tensor,
        truncation_psi: float = 1.0,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        transparent: bool = False,
    ) -> tuple[Tensor, Latent]:
        """As `GAN.generate`: condition [N], latent [N] or z [N,z_dim] -> images [N,R,R,3] in 0..1, fp32 on the CPU, and the
        latent as drawn. Raises ValueError where something does not fit, as `transparent` never does."""
        latent = Latent(latent) if isinstance(latent, Tensor) else latent
        self._check_drawing(condition, latent, truncation_psi)
        if transparent:
            raise ValueError(f"The GAN {self.card.name} draws its background too: for transparent pictures take one of ours.")
        psi = torch.tensor(float(truncation_psi), device=self.device)

        def draw(rows: slice) -> tuple[Tensor, Tensor]:
            part = latent[rows]
            styles = self.generator.styles(part.z.to(self.device), self._label(condition[rows]), psi)
            if part.style_shift is not None:
                styles = styles + part.style_shift[:, 0].to(self.device)
            return from_network(self.generator.synthesize(styles, psi)), styles

        size = self.rows_at_once(batch_size, drawing=True)
        images, styles = in_parts(draw, len(latent), size, progress, lambda: None)
        looks = styles.new_zeros(len(styles), 0)
        return images, replace(latent, styles=styles, looks=looks)

    @torch.no_grad()
    def score(
        self,
        images: Tensor,
        condition: Condition | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Scores:
        """As `GAN.score`. A discriminator that reads gives one logit for both: realism is its mean over all classes, or over
        some texts; alignment what the class of the prompt, or the prompt, has more."""
        self._check_scoring(images, condition)
        judge = self.discriminator

        def score(rows: slice) -> tuple[Tensor, Tensor]:
            features = judge.features(to_network(images[rows].to(self.device), self.resolution))
            realism = judge.judge(features, None, judge.usual)
            if condition is None or not self.reads:
                return realism, torch.zeros_like(realism)
            label = self._label(condition[rows] if len(condition) > 1 else condition).expand(len(realism), -1)
            return realism, judge.judge(features, label, judge.usual) - realism

        return Scores(*in_parts(score, len(images), self.rows_at_once(batch_size), progress, lambda: None))
