"""StyleGAN2 and StyleGAN2-ADA as they were published: generator and discriminator.

Karras et al. 2020, arXiv 1912.04958 and arXiv 2006.06676. Of the training code's names and constants, the gains of weights,
biases and activations are multiplied into the weights when a file is converted (`convert.py`), so that a layer here is what
it computes. The noise is the constant one that every network carries: a picture is a function of z and label.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..derived import Derived
from ..generator import SQRT2, energy, normalize_second_moment

TAPS = (1, 3, 3, 1)  # of the low-pass filter, on each axis
LARGEST = 4096  # pixels of a picture on each axis, four times what was published


@dataclass(frozen=True)
class StyleGAN2Config:
    resolution: int  # pixels, a power of two
    colours: int  # 1 or 3
    z_dim: int
    classes: int  # 0: it takes no label
    embedding: int  # width of an embedded label
    mapping: tuple[int, ...]  # widths of the mapping's layers, the last that of w
    channels: tuple[int, ...]  # at 4, 8, ... resolution px
    clamp: int  # of activations, 0: none

    def fits(self) -> bool:
        """Whether these are the numbers of a network."""
        widths = (self.z_dim, self.embedding, *self.mapping, *self.channels)
        return 2 << len(self.channels) == self.resolution and self.colours in (1, 3) and bool(self.mapping) and min(widths) > 0


class Mapping(nn.Module):
    """(z [B,z_dim], label [B,classes]) -> w [B,w_dim], truncated towards its mean by psi (1: not at all)."""

    def __init__(self, z_dim: int, classes: int, embedding: int, widths: tuple[int, ...]):
        super().__init__()
        self.embed = nn.Linear(classes, embedding) if classes else None
        inputs = (z_dim + (embedding if classes else 0), *widths[:-1])
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip(inputs, widths))
        self.register_buffer("mean", torch.zeros(widths[-1]))

    def forward(self, z: Tensor | None, label: Tensor, psi: float | Tensor = 1.0) -> Tensor:
        parts = [] if z is None else [z]
        if self.embed is not None:
            parts.append(self.embed(label))
        x = torch.cat([normalize_second_moment(part) for part in parts], 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * SQRT2
        return torch.lerp(self.mean.expand_as(x), x, psi)


class StyledConv(nn.Module):
    """x [B,I,H,W], w [B,w_dim] -> [B,O,R,R]: modulated convolution, its noise, leaky ReLU and clamp (eqs. 1–3), the activations
    being scaled instead of the weights; with `up` by a transposed convolution of stride 2, low-pass filtered."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, up: bool, clamp: int):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.style = nn.Linear(w_dim, in_channels)
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise", torch.zeros(resolution, resolution))
        self._energy = Derived(energy)
        self._across = Derived(lambda weight: weight.transpose(0, 1).contiguous())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.style(w)
        s = s / s.abs().amax(1, keepdim=True).clamp(min=1e-8)  # cancelled by demodulation; keeps fp16 in range
        demodulation = SQRT2 * torch.rsqrt(s.square() @ self._energy(self.weight) + 1e-12)
        x = x * s[:, :, None, None].to(x.dtype)
        if self.up:
            x = low_pass(F.conv_transpose2d(x, self._across(self.weight), stride=2), gain=4)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = torch.addcmul(SQRT2 * self.bias[:, None, None], x, demodulation[:, :, None, None].to(x.dtype))
        x = F.leaky_relu_(x.add_(self.noise, alpha=SQRT2), 0.2)
        return x.clamp_(-self.clamp, self.clamp) if self.clamp else x


class ToRGB(nn.Module):
    """x [B,C,H,W], w [B,w_dim] -> this scale's share of the picture [B,N,H,W], fp32: modulated, not demodulated."""

    def __init__(self, channels: int, w_dim: int, colours: int, clamp: int):
        super().__init__()
        self.clamp = clamp
        self.style = nn.Linear(w_dim, channels)
        self.weight = nn.Parameter(torch.zeros(colours, channels))
        self.bias = nn.Parameter(torch.zeros(colours))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        # Of so few colours it is cheaper to scale the weights.
        weight = self.weight * self.style(w)[:, None].to(x.dtype)
        rgb = self.bias[:, None, None] + (weight @ x.flatten(2)).unflatten(2, x.shape[2:])
        return (rgb.clamp_(-self.clamp, self.clamp) if self.clamp else rgb).float()


class Scale(nn.Module):
    """One resolution: a convolution that doubles (not at 4 px), another, and the share of the picture."""

    def __init__(self, resolution: int, in_channels: int, channels: int, config: StyleGAN2Config):
        super().__init__()
        w_dim = config.mapping[-1]
        first = resolution == 4
        self.conv0 = None if first else StyledConv(in_channels, channels, w_dim, resolution, True, config.clamp)
        self.conv1 = StyledConv(channels, channels, w_dim, resolution, False, config.clamp)
        self.to_rgb = ToRGB(channels, w_dim, config.colours, config.clamp)


class StyleGenerator(nn.Module):
    """What StyleGANs have in common: z and label are mapped to w, which every layer takes as its style."""

    mapping: Mapping
    style_resolutions: list[int]

    @property
    def num_styles(self) -> int:
        return len(self.style_resolutions)

    @property
    def style_dim(self) -> int:
        return self.config.mapping[-1]

    def styles(self, z: Tensor, label: Tensor, psi: Tensor) -> Tensor:
        return self.mapping(z, label, psi)[:, None].expand(-1, self.num_styles, -1)

    def style_of(self, z: Tensor) -> Tensor:
        """What z [B,z_dim] alone has in every style, of no class more than of another [B,w_dim]."""
        classes = self.config.classes
        return self.mapping(z, z.new_full((len(z), classes), 1 / max(classes, 1)))


class StyleGAN2Generator(StyleGenerator):
    """(z [B,z_dim], label [B,classes]) -> styles [B,num_styles,w_dim] -> images [B,3,R,R], nominally -1..1."""

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        self.mapping = Mapping(config.z_dim, config.classes, config.embedding, config.mapping)
        self.constant = nn.Parameter(torch.zeros(config.channels[0], 4, 4))
        before = (0, *config.channels)
        self.scales = nn.ModuleList(Scale(4 << i, before[i], c, config) for i, c in enumerate(config.channels))

    @property
    def style_resolutions(self) -> list[int]:
        """Of each style the pixels of what it is for; the share of the picture takes the style of the next convolution."""
        return [4, *(resolution for i in range(1, len(self.scales)) for resolution in (4 << i, 4 << i)), self.config.resolution]

    @property
    def dtype(self) -> torch.dtype:
        return self.constant.dtype

    @property
    def widest(self) -> int:
        return max(channels * (4 << i) ** 2 for i, channels in enumerate(self.config.channels))

    def style_weights(self, layer: int) -> Tensor:
        """By which this style is read [N,style_dim]."""
        convs = [conv for scale in self.scales for conv in (scale.conv0, scale.conv1) if conv is not None]
        return [*convs, self.scales[-1].to_rgb][layer].style.weight

    def synthesize(self, styles: Tensor, psi: Tensor) -> Tensor:
        x = self.constant.expand(len(styles), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        rgb, i = None, 0
        for scale in self.scales:
            if scale.conv0 is not None:
                x, i = scale.conv0(x, styles[:, i]), i + 1
            x, i = scale.conv1(x, styles[:, i]), i + 1
            share = scale.to_rgb(x, styles[:, i])
            rgb = share if rgb is None else share + doubled(rgb)
        return rgb.expand(-1, 3, -1, -1)


def low_pass(x: Tensor, padding: int = 1, gain: float = 1, stride: int = 1) -> Tensor:
    """x [B,C,H,W], between `padding` zeros, filtered with TAPS on both axes."""
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS) * gain**0.5
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


def doubled(rgb: Tensor) -> Tensor:
    """rgb [B,N,H,W] at twice the size by the same filter, which is bilinear interpolation with zeros beyond the border."""
    around = F.interpolate(F.pad(rgb, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return around[:, :, 2:-2, 2:-2]


# ------------------------------------------------------------------------------------------------------ discriminator


@dataclass(frozen=True)
class StyleGAN2DiscriminatorConfig:
    resolution: int
    colours: int
    classes: int
    embedding: int
    mapping: tuple[int, ...]  # of the label, empty without
    channels: tuple[int, ...]  # at resolution, ... 8, 4 px
    residual: int  # 1: each scale adds a shortcut
    hidden: int  # width of the last layer but one
    statistics: int  # planes of the spread over pictures, 0: none
    group: int  # pictures over which it is taken, 0: all
    clamp: int

    def fits(self) -> bool:
        """Whether these are the numbers of a network."""
        widths = (self.hidden, self.embedding, *self.mapping, *self.channels)
        grouped = self.statistics == 0 or self.statistics > 0 and self.channels[-1] % self.statistics == 0
        whole = 2 << len(self.channels) == self.resolution and self.colours in (1, 3) and min(widths) > 0
        return whole and grouped and (self.classes == 0 or self.classes > 0 and bool(self.mapping))

    def suits(self, generator: Any) -> bool:
        """Whether it judges what a generator of this config draws."""
        return (self.resolution, self.classes) == (generator.resolution, generator.classes)


class Activated(nn.Module):
    """Convolution, leaky ReLU and clamp; with `down` of what is low-pass filtered, by stride 2. `gain` is that of a sum."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, clamp: int, down: bool = False, gain: float = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.down, self.gain, self.clamp = down, SQRT2 * gain, clamp * gain

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = F.conv2d(low_pass(x, padding=2), self.weight, self.bias, stride=2)
        else:
            x = F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[2] // 2)
        x = F.leaky_relu(x, 0.2) * self.gain
        return x.clamp(-self.clamp, self.clamp) if self.clamp else x


class DiscriminatorScale(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: StyleGAN2DiscriminatorConfig):
        super().__init__()
        gain = 0.5**0.5 if config.residual else 1.0
        self.conv0 = Activated(in_channels, in_channels, 3, config.clamp)
        self.conv1 = Activated(in_channels, out_channels, 3, config.clamp, True, gain)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False) if config.residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.conv0(x))
        return y if self.skip is None else y + self.skip(low_pass(x, stride=2)) * 0.5**0.5


class StyleGAN2Discriminator(nn.Module):
    """images [B,3,R,R] in -1..1 -> `features` -> `judge`, with label [B,classes]: logits [B]; more is more real.

    It was trained to see, beside each picture, how much those of its batch vary. A score must not depend on its company, so
    that the spread is what it is among the generator's own pictures (`usual`, measured when a file is converted).
    """

    def __init__(self, config: StyleGAN2DiscriminatorConfig):
        super().__init__()
        self.config = config
        last = config.channels[-1]
        self.from_rgb = Activated(config.colours, config.channels[0], 1, config.clamp)
        pairs = zip(config.channels, config.channels[1:])
        self.scales = nn.ModuleList(DiscriminatorScale(before, after, config) for before, after in pairs)
        self.register_buffer("usual", torch.zeros(config.statistics))
        self.conv = Activated(last + config.statistics, last, 3, config.clamp)
        self.hidden = nn.Linear(last * 16, config.hidden)
        self.out = nn.Linear(config.hidden, config.mapping[-1] if config.classes else 1)
        self.mapping = Mapping(0, config.classes, config.embedding, config.mapping) if config.classes else None

    def features(self, images: Tensor) -> Tensor:
        """images [B,3,R,R] -> features [B,C,4,4], fp32."""
        x = images if self.config.colours == 3 else images.mean(1, keepdim=True)
        x = self.from_rgb(x.to(self.from_rgb.weight.dtype))
        for scale in self.scales:
            x = scale(x)
        return x.float()

    def spread(self, features: Tensor) -> Tensor:
        """How much features [B,C,4,4] vary over the pictures [statistics] (Karras et al. 2018, arXiv 1710.10196, §3)."""
        groups = features.unflatten(1, (self.config.statistics, -1))
        return (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))

    def judge(self, features: Tensor, label: Tensor | None, spread: Tensor) -> Tensor:
        """features [B,C,4,4], label [B,classes] (None: the mean over all classes), spread [statistics] -> logits [B]."""
        planes = spread[:, None, None].expand(len(features), -1, 4, 4)
        x = self.conv(torch.cat([features, planes], 1))
        x = self.out(F.leaky_relu(self.hidden(x.flatten(1)), 0.2) * SQRT2)
        if self.mapping is None:
            return x[:, 0]
        if label is None:  # in what the label is mapped to, the logit is linear
            direction = self.mapping(None, torch.eye(self.config.classes, device=x.device)).mean(0)
        else:
            direction = self.mapping(None, label)
        return (x * direction).sum(1) * x.shape[1] ** -0.5
