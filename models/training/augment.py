"""Differentiable augmentation (DiffAugment, Zhao et al. 2020, arXiv 2006.10738): what the discriminator sees is shifted,
recoloured and partly covered, so that it cannot learn a small training set by heart.

The parameters are drawn once and applied to real and fake alike, picture by picture: a paired loss needs them equal.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SHIFT = 1 / 8  # of the picture's width, to each side
CUTOUT = 0.4  # of the picture's width


class Augmentation(NamedTuple):
    """One draw for B pictures: colour factors [B,1,1,1], shifts and holes in pixels [B]."""

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    shift: Tensor
    hole: Tensor

    @classmethod
    def draw(cls, batch: int, resolution: int, strength: float, generator: torch.Generator) -> "Augmentation":
        """Each picture is left alone with probability 1 - strength, independently for brightness, saturation, contrast,
        shift and hole: at 1/2 one in 32 is left alone in all of them."""

        def uniform(*shape):
            return torch.rand(*shape, generator=generator)

        def used():
            return uniform(batch, 1, 1, 1) < strength

        span = int(resolution * SHIFT)
        shift = torch.randint(-span, span + 1, (batch, 2), generator=generator) * used()[:, :, 0, 0]
        hole = torch.randint(0, resolution + 1, (batch, 2), generator=generator)
        hole = torch.where(used()[:, :, 0, 0], hole, torch.tensor(-resolution))
        return cls(
            (uniform(batch, 1, 1, 1) - 0.5) * 0.6 * used(),
            1 + (uniform(batch, 1, 1, 1) * 2 - 1) * 0.6 * used(),
            1 + (uniform(batch, 1, 1, 1) - 0.5) * 0.6 * used(),
            shift,
            hole,
        )

    def part(self, rows: slice, device: torch.device | str) -> "Augmentation":
        """That of some of the pictures, on `device`."""
        return Augmentation(*(x[rows].to(device) for x in self))

    def __call__(self, images: Tensor) -> Tensor:
        """images [B,3,R,R] -> the same, augmented; differentiable in the images. Shifts repeat the border."""
        x = images + self.brightness
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * self.saturation
        middle = x.mean((1, 2, 3), keepdim=True)
        x = middle + (x - middle) * self.contrast
        size = x.shape[-1]
        place = torch.arange(size, device=x.device)
        rows = (place + self.shift[:, :1]).clamp(0, size - 1)
        columns = (place + self.shift[:, 1:]).clamp(0, size - 1)
        x = x.gather(2, rows[:, None, :, None].expand_as(x)).gather(3, columns[:, None, None, :].expand_as(x))
        half = size * CUTOUT / 2
        covered_rows = (place - self.hole[:, :1]).abs() < half
        covered_columns = (place - self.hole[:, 1:]).abs() < half
        return x.masked_fill((covered_rows[:, None, :, None] & covered_columns[:, None, None, :]), 0.0)
