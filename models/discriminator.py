"""The discriminator D: is the picture real, and does it match the condition?

Two judges look at every picture. `ProjectedDiscriminator` sees it through a frozen ImageNet network (Projected GAN, Sauer et
al. 2021, arXiv 2111.01007), which trains fast on little data but is blind to exact colour and pixel range;
`PixelDiscriminator` sees the raw pixels. Each returns two numbers that are kept apart to the end, as SONA (arXiv 2510.04576)
argues they should be: *realism*, which never sees the condition, and *alignment*, an inner product of picture and text
(the projection discriminator, Miyato & Koyama 2018, arXiv 1802.05637, eq. 3), learnt by telling the caption of a real
picture from others.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import FEATURE_CHANNELS, EfficientNetLite


@dataclass(frozen=True)
class DiscriminatorConfig:
    resolution: int = 64
    pooled_dim: int = 256  # width of the normalised pooled vector
    mixed: tuple[int, ...] = (48, 64, 128, 192)  # channels of the randomly mixed features, stride 4 to 32
    hidden: int = 96  # channels inside each projected head
    embed: int = 128  # width of the picture–text inner product
    pixel_channels: tuple[int, ...] = (32, 64, 128)  # of the raw-pixel network, from resolution/4 down by halves


class Verdict(NamedTuple):
    """What the heads say of pictures: realism logits [B,heads], and picture embeddings [B,heads,embed] to align with texts."""

    realism: Tensor
    pictures: Tensor

    def alignment(self, texts: Tensor) -> Tensor:
        """texts [B,heads,embed] of the same heads -> the alignment of each picture with its own text [B], mean of the heads."""
        return (self.pictures * texts).sum(2).mean(1)

    def alignments(self, texts: Tensor) -> Tensor:
        """texts [K,heads,embed] -> that of every picture with every text [B,K]."""
        return torch.einsum("bhe,khe->bk", self.pictures, texts) / texts.shape[1]

    def split(self, size: int) -> list["Verdict"]:
        """The verdicts on each `size` pictures of the batch."""
        return [Verdict(*rows) for rows in zip(self.realism.split(size), self.pictures.split(size))]


class Judgement(nn.Module):
    """h [B,C] -> its realism logit and its embedding; text [B,P] -> the unit vector, times sqrt(embed), it aligns with."""

    def __init__(self, channels: int, embed: int, pooled_dim: int):
        super().__init__()
        self.realism = nn.Linear(channels, 1)
        self.picture = nn.Linear(channels, embed)
        self.text = nn.Linear(pooled_dim, embed)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.realism(h)[:, 0], self.picture(h)

    def embed_text(self, text: Tensor) -> Tensor:
        return F.normalize(self.text(text), dim=1) * self.text.out_features**0.5


class Head(nn.Module):
    """Feature map [B,C,H,W] -> its judgement, by way of a map of 4x4 or less."""

    def __init__(self, channels: int, size: int, config: DiscriminatorConfig):
        super().__init__()
        layers: list[nn.Module] = []
        while size > 4:
            layers += [nn.Conv2d(channels, config.hidden, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels, size = config.hidden, size // 2
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, config.hidden, 3, 1, 1), nn.LeakyReLU(0.2))
        self.judgement = Judgement(config.hidden, config.embed, config.pooled_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.judgement(self.body(features).mean((2, 3)))


class FeatureMixer(nn.Module):
    """Fixed random projections over the frozen features (Projected GAN §3.2): across channels, then top-down across scales.

    They are never trained, so that no head can learn to ignore the features that are hard to match.
    """

    def __init__(self, mixed: tuple[int, ...]):
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, m, 1, bias=False) for c, m in zip(FEATURE_CHANNELS, mixed))
        self.down = nn.ModuleList(nn.Conv2d(mixed[i + 1], mixed[i], 3, 1, 1, bias=False) for i in range(len(mixed) - 1))
        for conv in [*self.across, *self.down]:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        self.requires_grad_(False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        mixed = [conv(f) for conv, f in zip(self.across, features)]
        for i in reversed(range(len(self.down))):
            above = F.interpolate(self.down[i](mixed[i + 1]), size=mixed[i].shape[2:], mode="bilinear", align_corners=False)
            mixed[i] = (mixed[i] + above) * 0.5**0.5
        return mixed


class ProjectedDiscriminator(nn.Module):
    """Heads over frozen features. `look` and `judge` are apart, so that training runs the network once for both players."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.features = EfficientNetLite()
        self.mixer = FeatureMixer(config.mixed)
        self.heads = nn.ModuleList(Head(c, config.resolution >> (i + 2), config) for i, c in enumerate(config.mixed))

    def look(self, images: Tensor) -> list[Tensor]:
        """images [B,3,R,R] in -1..1 -> the four frozen feature maps."""
        return self.features(images)

    def judge(self, features: list[Tensor]) -> Verdict:
        """The maps of `look` -> the verdict of the four heads."""
        verdicts = [head(f) for head, f in zip(self.heads, self.mixer(features))]
        return Verdict(*(torch.stack(column, 1) for column in zip(*verdicts)))

    def embed_text(self, text: Tensor) -> Tensor:
        """Normalised pooled text [B,P] -> [B,heads,embed]."""
        return torch.stack([head.judgement.embed_text(text) for head in self.heads], 1)


class PixelDiscriminator(nn.Module):
    """A small convolutional network on the pixels themselves, 4x4 of them at a time; no normalisation (R3GAN)."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        size, widths, depth = config.resolution // 4, config.pixel_channels, 0
        channels = widths[0]
        layers: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(48, channels, 3, 1, 1), nn.LeakyReLU(0.2)]
        while size > 4:
            depth += 1
            wider = widths[min(depth, len(widths) - 1)]
            layers += [nn.Conv2d(channels, wider, 3, 1, 1), nn.LeakyReLU(0.2), nn.AvgPool2d(2)]
            channels, size = wider, size // 2
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, channels, 4), nn.LeakyReLU(0.2), nn.Flatten())
        self.judgement = Judgement(channels, config.embed, config.pooled_dim)

    def judge(self, images: Tensor) -> Verdict:
        """images [B,3,R,R] in -1..1 -> the verdict of its one head."""
        realism, pictures = self.judgement(self.body(images))
        return Verdict(realism[:, None], pictures[:, None])

    def embed_text(self, text: Tensor) -> Tensor:
        """Normalised pooled text [B,P] -> [B,1,embed]."""
        return self.judgement.embed_text(text)[:, None]


class Discriminator(nn.Module):
    """Both judges; its scores are the mean logit of the projected heads plus the logit of the pixel head."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.projected = ProjectedDiscriminator(config)
        self.pixel = PixelDiscriminator(config)

    def forward(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """images [B,3,R,R] in -1..1, normalised pooled text [B,P] -> realism [B], alignment [B]; more is better."""
        realism = alignment = 0
        for judge, verdict in (
            (self.projected, self.projected.judge(self.projected.look(images))),
            (self.pixel, self.pixel.judge(images)),
        ):
            realism = realism + verdict.realism.mean(1)
            alignment = alignment + verdict.alignment(judge.embed_text(text))
        return realism, alignment
