"""The alias-free generator of StyleGAN3, configurations T and R, as it was published (Karras et al. 2021, arXiv 2106.12423).

Its filters lie in the file, so that none is designed here. As in `stylegan2.py` all gains are in the weights.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..derived import Derived
from ..generator import SQRT2, energy
from .stylegan2 import LARGEST, Mapping, StyleGenerator

DENSEST = 8  # times as densely a layer may sample its signal; those published do it 4 times,
LONGEST_FILTER = 128  # with 24 taps,
MARGIN = 64  # and their signals are 20 pixels larger than pictures


class Layer(NamedTuple):
    """One layer's numbers: channels, size of the kernel, factor by which its signal is sampled more densely for the leaky ReLU
    and then less, taps of both filters (0: none), whether the second is radial, zeros around the signal before and after it
    (fewer than none: cropped), the size of what comes out, and the pixels of a picture that could hold its finest waves."""

    in_channels: int
    out_channels: int
    kernel: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    radial: int
    before: int
    after: int
    size: int
    detail: int

    def size_of(self, size: int) -> int:
        """The size of what comes out where this much goes in."""
        raised = (size + self.kernel - 1) * self.up + self.before + self.after - max(self.up_taps, 1) + 1
        return (raised - max(self.down_taps, 1)) // self.down + 1

    def fits(self, size: int, largest: int) -> bool:
        """Whether these are the numbers of a layer that takes what has this size, and gives no more than the largest."""
        factors, taps = (self.up, self.down), (self.up_taps, self.down_taps)
        if min(self.in_channels, self.out_channels, self.kernel, self.detail, *factors) <= 0 or min(*taps, self.radial) < 0:
            return False
        bounded = max(factors) <= DENSEST and max(taps) <= LONGEST_FILTER and 0 < self.size <= largest
        # So its padding is bounded too.
        return bounded and self.size_of(size) == self.size and 0 <= self.before - self.after <= self.up


@dataclass(frozen=True)
class StyleGAN3Config:
    resolution: int
    colours: int
    z_dim: int
    classes: int
    embedding: int
    mapping: tuple[int, ...]
    frequencies: int  # channels of the input
    size: int  # of the input
    detail: int  # pixels of a picture that could hold its finest waves
    layers: tuple[Layer, ...]  # the last one gives the colours
    clamp: int

    def fits(self) -> bool:
        """Whether these are the numbers of a network."""
        if not (self.layers and self.mapping and self.layers[-1].size == self.resolution and self.colours in (1, 3)):
            return False
        given = [self.frequencies, *(layer.out_channels for layer in self.layers)]
        wanted = [*(layer.in_channels for layer in self.layers), self.colours]
        sizes, largest = [self.size, *(layer.size for layer in self.layers)], self.resolution + MARGIN
        if min(self.z_dim, self.embedding, self.frequencies, self.detail, self.size, *self.mapping) <= 0:
            return False
        whole = given == wanted and self.resolution <= LARGEST and self.size <= largest
        return whole and all(layer.fits(size, largest) for layer, size in zip(self.layers, sizes))


class FourierFeatures(nn.Module):
    """w [B,w_dim] -> the input signal [B,C,S,S]: waves, moved and turned as w says (§3.2, appendix F)."""

    def __init__(self, w_dim: int, channels: int, size: int):
        super().__init__()
        self.size = size
        self.affine = nn.Linear(w_dim, 4)
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        self.register_buffer("frequencies", torch.zeros(channels, 2))
        self.register_buffer("phases", torch.zeros(channels))
        # Half the width of the signal, the band of its waves, and how fast they fade beyond it.
        self.register_buffer("extent", torch.ones(()))
        self.register_buffer("bandwidth", torch.ones(()))
        self.register_buffer("fade", torch.ones(()))
        self.register_buffer("transform", torch.zeros(3, 3))

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        move = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).view(-1, 3, 3)
        moved = turn @ move @ self.transform
        phases = self.phases + (self.frequencies @ moved[:, :2, 2:])[:, :, 0]
        frequencies = self.frequencies @ moved[:, :2, :2]
        amplitudes = (1 - (frequencies.norm(dim=2) - self.bandwidth) * self.fade).clamp(0, 1)
        place = ((torch.arange(self.size, device=w.device) + 0.5) / self.size * 2 - 1) * self.extent
        grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), 2)
        waves = grid @ frequencies.transpose(1, 2)[:, None] + phases[:, None, None]
        waves = (2 * torch.pi * waves).sin() * amplitudes[:, None, None]
        return (waves @ self.weight.t()).permute(0, 3, 1, 2)


class FilteredConv(nn.Module):
    """x [B,I,H,W], w [B,w_dim] -> [B,O,S,S]: modulated convolution and a leaky ReLU between a filter up and a filter down, so
    that it makes no frequencies that the sampling cannot hold (§2.2, figure 4b). The last layer has neither non-linearity nor
    demodulation."""

    def __init__(self, layer: Layer, w_dim: int, clamp: int, last: bool):
        super().__init__()
        self.layer, self.clamp, self.last = layer, clamp, last
        self.style = nn.Linear(w_dim, layer.in_channels)
        self.weight = nn.Parameter(torch.zeros(layer.out_channels, layer.in_channels, layer.kernel, layer.kernel))
        self.bias = nn.Parameter(torch.zeros(layer.out_channels))
        self.register_buffer("gain", torch.ones(()))  # by which the input's usual size is made 1
        self.register_buffer("up_filter", torch.zeros(layer.up_taps) if layer.up_taps else None)
        shape = (layer.down_taps, layer.down_taps) if layer.radial else (layer.down_taps,)
        self.register_buffer("down_filter", torch.zeros(shape) if layer.down_taps else None)
        self._energy = Derived(energy)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        layer, s = self.layer, self.style(w)
        scale = self.gain.expand(len(x), layer.out_channels)
        if not self.last:
            s = s / s.abs().amax(1, keepdim=True).clamp(min=1e-8)
            scale = scale * torch.rsqrt(s.square() @ self._energy(self.weight) + 1e-12)
        x = x.to(self.weight.dtype) * s[:, :, None, None].to(self.weight.dtype)
        x = F.conv2d(x, self.weight, padding=layer.kernel - 1)
        x = torch.addcmul(self.bias[:, None, None], x, scale[:, :, None, None].to(x.dtype))
        x = raised(x, self.up_filter, layer.up, layer.before, layer.after)
        if not self.last:
            x = F.leaky_relu_(x, 0.2).mul_(SQRT2)
        x = x.clamp_(-self.clamp, self.clamp) if self.clamp else x
        return lowered(x, self.down_filter, layer.down)


def raised(x: Tensor, taps: Tensor | None, up: int, before: int, after: int) -> Tensor:
    """x [B,C,H,W] between zeros (of the dense signal), `up` times as densely sampled, filtered with `taps` on both axes."""
    if taps is None:
        return F.pad(x, (before, after, before, after))
    taps, channels, size = taps.to(x.dtype) * up, x.shape[1], up * x.shape[2]
    wide, high = (taps.view(shape).expand(channels, 1, -1, -1) for shape in ((1, 1, 1, -1), (1, 1, -1, 1)))
    x = F.conv_transpose2d(x, wide, stride=(1, up), groups=channels)
    x = F.conv_transpose2d(x, high, stride=(up, 1), groups=channels)
    # All that the filter reaches: of it the part that zeros before and after leave.
    start = before - (len(taps) - 1)
    stop = size + before + after - (len(taps) - 1) - start - x.shape[2]
    return F.pad(x, (start, stop, start, stop))


def lowered(x: Tensor, taps: Tensor | None, down: int) -> Tensor:
    """x [B,C,H,W] filtered with `taps` [T] on both axes or [T,T], and every `down`th sample of it."""
    if taps is None:
        return x[:, :, ::down, ::down]
    channels, taps = x.shape[1], taps.to(x.dtype).flip(tuple(range(taps.ndim)))
    if taps.ndim == 2:
        return F.conv2d(x, taps.expand(channels, 1, -1, -1), stride=down, groups=channels)
    x = F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, -1, -1), stride=(1, down), groups=channels)
    return F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, -1), stride=(down, 1), groups=channels)


class StyleGAN3Generator(StyleGenerator):
    """(z [B,z_dim], label [B,classes]) -> styles [B,num_styles,w_dim] -> images [B,3,R,R], nominally -1..1."""

    def __init__(self, config: StyleGAN3Config):
        super().__init__()
        self.config = config
        w_dim = config.mapping[-1]
        self.mapping = Mapping(config.z_dim, config.classes, config.embedding, config.mapping)
        self.input = FourierFeatures(w_dim, config.frequencies, config.size)
        last = len(config.layers) - 1
        self.layers = nn.ModuleList(
            FilteredConv(layer, w_dim, config.clamp, i == last) for i, layer in enumerate(config.layers)
        )
        self.register_buffer("scale", torch.ones(()))  # of the picture

    @property
    def style_resolutions(self) -> list[int]:
        """Of each style the pixels, as a power of two, of a picture that could hold the waves that it is for."""
        details = self.config.detail, *(layer.detail for layer in self.config.layers)
        return [1 << detail.bit_length() - 1 for detail in details]

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].weight.dtype

    @property
    def widest(self) -> int:
        return max(layer.out_channels * (layer.size * layer.down) ** 2 for layer in self.config.layers)

    def style_weights(self, layer: int) -> Tensor:
        """By which this style is read [N,style_dim]."""
        return [self.input.affine, *(conv.style for conv in self.layers)][layer].weight

    def synthesize(self, styles: Tensor, psi: Tensor) -> Tensor:
        x = self.input(styles[:, 0])
        for i, layer in enumerate(self.layers, 1):
            x = layer(x, styles[:, i])
        return (x.float() * self.scale).expand(-1, 3, -1, -1)
