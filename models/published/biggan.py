"""The generator of BigGAN-deep as it was published, in the PyTorch version of its weights: Brock et al. 2019, arXiv 1809.11096.

It draws the classes that it was trained on. Spectral norms are divided out when a file is converted (`convert.py`).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stylegan2 import LARGEST

NARROWER = 4  # times: a block's inner convolutions than what goes in


@dataclass(frozen=True)
class BigGANConfig:
    resolution: int
    z_dim: int
    classes: int
    embedding: int  # width of an embedded class
    channels: tuple[int, ...]  # before, between and after the blocks
    up: tuple[int, ...]  # 1: the block doubles the resolution
    attention: int  # the block before which pixels attend to one another
    statistics: int  # truncations from 0 to 1 for which the means and variances of activations are kept

    def fits(self) -> bool:
        """Whether these are the numbers of a network."""
        whole = len(self.channels) == len(self.up) + 1 and 0 <= self.attention < len(self.up) and {*self.up} <= {0, 1}
        wide = min(self.z_dim, self.classes, self.embedding) > 0 and min(self.channels) >= 2 * NARROWER
        return whole and wide and self.statistics > 1 and 4 << sum(self.up) == self.resolution <= LARGEST


class ConditionalNorm(nn.Module):
    """Batch norm by the statistics of a truncation, its scale and offset read from the style; then ReLU."""

    def __init__(self, channels: int, style_dim: int, statistics: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(statistics, channels))
        self.register_buffer("variances", torch.ones(statistics, channels))  # with what keeps them from 0
        self.scale = nn.Linear(style_dim, channels)
        self.offset = nn.Linear(style_dim, channels, bias=False)

    def forward(self, x: Tensor, style: Tensor, psi: Tensor) -> Tensor:
        mean, variance = at(self.means, psi), at(self.variances, psi)
        scale = self.scale(style) * torch.rsqrt(variance)
        offset = self.offset(style) - mean * scale
        scale, offset = (values[:, :, None, None].to(x.dtype) for values in (scale, offset))
        return F.relu_(torch.addcmul(offset, x, scale))


def at(table: Tensor, psi: Tensor) -> Tensor:
    """table [S,C], of truncations from 0 to 1, at psi [C]: between two of them in proportion."""
    place = psi.clamp(0, 1) * (len(table) - 1)
    below = place.floor().clamp(max=len(table) - 2).long()
    return torch.lerp(table[below], table[below + 1], place - below)


class Block(nn.Module):
    """Four convolutions at a quarter of the width, around them a shortcut that drops the channels that are too many (appendix
    B)."""

    def __init__(self, in_channels: int, out_channels: int, up: bool, style_dim: int, statistics: int):
        super().__init__()
        inner = in_channels // NARROWER
        widths = (in_channels, inner, inner, inner, out_channels)
        self.up, self.out_channels = up, out_channels
        self.norms = nn.ModuleList(ConditionalNorm(width, style_dim, statistics) for width in widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=kernel // 2)
            for before, after, kernel in zip(widths, widths[1:], (1, 3, 3, 1))
        )

    def forward(self, x: Tensor, style: Tensor, psi: Tensor) -> Tensor:
        y = x
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs)):
            y = norm(y, style, psi)
            if i == 1 and self.up:
                y = F.interpolate(y, scale_factor=2)
            y = conv(y)
        shortcut = x[:, : self.out_channels]
        return y + (F.interpolate(shortcut, scale_factor=2) if self.up else shortcut)


class SelfAttention(nn.Module):
    """Every pixel of x [B,C,H,W] attends to every other, at half the resolution (SAGAN, Zhang et al. 2019, arXiv
    1805.08318)."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2).transpose(1, 2)
        key, value = (F.max_pool2d(conv(x), 2).flatten(2).transpose(1, 2) for conv in (self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))


class BigGANGenerator(nn.Module):
    """(z [B,z_dim], label [B,classes]) -> styles [B,num_styles,z_dim+embedding] -> images [B,3,R,R] in -1..1.

    A style here is what a block reads: z, truncated, and the embedded class.
    """

    def __init__(self, config: BigGANConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.classes, config.embedding, bias=False)
        self.seed = nn.Linear(self.style_dim, 16 * config.channels[0])
        pairs = zip(config.channels, config.channels[1:], config.up)
        self.blocks = nn.ModuleList(
            Block(before, after, bool(up), self.style_dim, config.statistics) for before, after, up in pairs
        )
        self.attention = SelfAttention(config.channels[config.attention])
        last = config.channels[-1]
        self.register_buffer("means", torch.zeros(config.statistics, last))
        self.register_buffer("variances", torch.ones(config.statistics, last))
        self.scale = nn.Parameter(torch.zeros(last))
        self.offset = nn.Parameter(torch.zeros(last))
        self.to_rgb = nn.Conv2d(last, 3, 3, padding=1)

    @property
    def style_resolutions(self) -> list[int]:
        """Of each style the pixels of what it is for."""
        sizes = [4]
        for up in self.config.up:
            sizes.append(sizes[-1] << up)
        return sizes

    @property
    def num_styles(self) -> int:
        return len(self.style_resolutions)

    @property
    def style_dim(self) -> int:
        return self.config.z_dim + self.config.embedding

    @property
    def dtype(self) -> torch.dtype:
        return self.to_rgb.weight.dtype

    @property
    def widest(self) -> int:
        sizes = self.style_resolutions
        return max(channels * size**2 for channels, size in zip(self.config.channels, (*sizes[1:], sizes[-1])))

    def styles(self, z: Tensor, label: Tensor, psi: Tensor) -> Tensor:
        style = torch.cat([self.style_of(z) * psi, self.embed(label)], 1)
        return style[:, None].expand(-1, self.num_styles, -1)

    def style_of(self, z: Tensor) -> Tensor:
        """What z [B,z_dim] alone has in every style: its first entries [B,z_dim]."""
        return within_two(z)

    def style_weights(self, layer: int) -> Tensor:
        """By which this style is read [N,style_dim]."""
        if layer == 0:
            return self.seed.weight
        return torch.cat([linear.weight for norm in self.blocks[layer - 1].norms for linear in (norm.scale, norm.offset)])

    def synthesize(self, styles: Tensor, psi: Tensor) -> Tensor:
        x = self.seed(styles[:, 0]).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2).to(self.dtype)
        for i, block in enumerate(self.blocks):
            if i == self.config.attention:
                x = self.attention(x)
            x = block(x, styles[:, i + 1], psi)
        scale = self.scale * torch.rsqrt(at(self.variances, psi))
        offset = self.offset - at(self.means, psi) * scale
        x = F.relu_(torch.addcmul(offset[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype)))
        return self.to_rgb(x).float().tanh()


def within_two(z: Tensor) -> Tensor:
    """z ~ N(0,1) -> the same quantile of a normal distribution cut off at -2 and 2, which BigGAN was truncated with (§3.1)."""
    return 2**0.5 * torch.erfinv(math.erf(2**0.5) * torch.erf(z / 2**0.5))
