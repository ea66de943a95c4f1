"""GALIP as it was published: Tao et al. 2023, arXiv 2301.12959. It draws whatever the text of CLIP that it is given says.

Generator and discriminator look through CLIP's frozen eyes, a vision transformer: the discriminator at pictures (§3.2), the
generator at features of its own, beside words that it has learnt to whisper to them (§3.3).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..derived import Derived
from ..language.clip import HEAD, Block
from .stylegan2 import LARGEST

SEEN = (2, 5, 9)  # after so many of the layers the discriminator takes what CLIP sees,
WHISPERED = 1  # and after so many the generator begins to add a word for each
BLENDED = 0.1  # of what is seen in the generator's features, beside these
SLOPE = 0.2  # of leaky ReLUs
DEEPEST = 64  # layers that a file may ask for


@dataclass(frozen=True)
class GALIPConfig:
    resolution: int
    z_dim: int
    text: int  # width of the text's vector
    first: int  # channels of z's own features,
    inner: int  # within what fuses them with the text,
    fusions: int  # and how often that is done
    channels: tuple[int, ...]  # before, between and after the scales
    eyes: int  # width of CLIP's vision transformer,
    layers: int  # its depth,
    patch: int  # the side of what it sees as one,
    words: int  # and how many words are whispered to it

    classes = 0  # it takes a text instead

    def fits(self) -> bool:
        """Whether these are the numbers of a network."""
        widths = (self.z_dim, self.text, self.first, self.inner, self.eyes, self.patch, self.words, *self.channels)
        if min(widths) <= 0 or self.eyes % HEAD or self.resolution % self.patch or self.resolution > LARGEST:
            return False
        deep = max(SEEN[-1], WHISPERED + self.words) <= self.layers <= DEEPEST and 0 < self.fusions <= DEEPEST
        return deep and len(self.channels) > 1 and self.sizes[-1] > self.sizes[-2]

    @property
    def grid(self) -> int:
        """How many patches the eyes see in a row."""
        return self.resolution // self.patch

    @property
    def sizes(self) -> list[int]:
        """Pixels before and after each scale: they double from 8 on, and the last is what the eyes see."""
        return [self.grid, *(8 << i for i in range(len(self.channels) - 2)), self.resolution]


class Fuse(nn.Module):
    """x [B,C,H,W], style [B,S] -> [B,C,H,W]: twice scaled and moved by what the style says, each time before a leaky ReLU
    (DF-GAN, Tao et al. 2022, arXiv 2008.05865, eq. 5)."""

    def __init__(self, style_dim: int, channels: int):
        super().__init__()
        self.first = nn.Linear(style_dim, 4 * channels)  # of four perceptrons in one
        self.weight = nn.Parameter(torch.zeros(4, channels, channels))
        self.bias = nn.Parameter(torch.zeros(4, 1, channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        hidden = self.first(style).relu().unflatten(1, (4, -1)).transpose(0, 1)
        scale, offset, again, further = torch.baddbmm(self.bias, hidden, self.weight)[..., None, None]
        x = F.leaky_relu_(torch.addcmul(offset, x, scale), SLOPE)
        return F.leaky_relu_(torch.addcmul(further, x, again), SLOPE)


class Fusion(nn.Module):
    """Two convolutions, each followed by what the style says, beside a shortcut."""

    def __init__(self, channels: int, inner: int, style_dim: int):
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 3, padding=1)
        self.fuse0, self.fuse1 = Fuse(style_dim, inner), Fuse(style_dim, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return x + self.fuse1(self.conv1(self.fuse0(self.conv0(x), style)), style)


class Scale(nn.Module):
    """To `size` pixels, by repeating them, and two convolutions, each behind what the style says, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, size: int, style_dim: int):
        super().__init__()
        self.size = size
        self._corners = Derived(corners)
        self.fuse0, self.fuse1 = Fuse(style_dim, in_channels), Fuse(style_dim, out_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        # Pixels are repeated after what is done to each of them by itself, and not before: the same, at a quarter of the cost.
        return self._enlarged(self.skip(x)) + self.conv1(self.fuse1(self._enlarge(self.fuse0(x, style)), style))

    def _enlarged(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(self.size, self.size))

    def _enlarge(self, x: Tensor) -> Tensor:
        """The first convolution of x, enlarged."""
        if 2 * x.shape[2] != self.size:
            return self.conv0(self._enlarged(x))
        return conv_of_doubled(x, self._corners(self.conv0.weight), self.conv0.bias)


def corners(weight: Tensor) -> Tensor:
    """Of a convolution of pixels that are repeated twice, [O,I,3,3], what each of the four copies of a pixel sees of those that
    were not: [4O,I,2,2]. Two of three taps on an axis fall on the same pixel."""
    taps = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # copy, pixel, tap
    seen = torch.einsum("apt,bqu,oitu->aboipq", taps, taps, weight).flatten(0, 2)
    return seen.contiguous(memory_format=torch.channels_last)


def conv_of_doubled(x: Tensor, seen: Tensor, bias: Tensor) -> Tensor:
    """x [B,I,H,W], `corners` [4O,I,2,2] and bias [O] -> [B,O,2H,2W], with 4/9 of the products that repeated pixels take."""
    height, width = x.shape[2:]
    y = F.conv2d(x, seen, bias.repeat(4), padding=1).unflatten(1, (2, 2, -1))
    copies = [y[:, a, b, :, a : a + height, b : b + width] for a in range(2) for b in range(2)]
    whole = torch.stack(copies, 4).unflatten(4, (2, 2)).permute(0, 1, 2, 4, 3, 5)
    return whole.reshape(len(x), -1, 2 * height, 2 * width)


class Eyes(nn.Module):
    """CLIP's vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), which looks at pictures and at features."""

    def __init__(self, config: GALIPConfig):
        super().__init__()
        width = config.eyes
        self.patches = nn.Conv2d(3, width, config.patch, stride=config.patch)  # of pictures in -1..1
        self.first = nn.Parameter(torch.zeros(width))  # a token that stands for all of them
        self.positions = nn.Parameter(torch.zeros(1 + config.grid**2, width))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Block(width) for _ in range(config.layers))

    def _begin(self, x: Tensor) -> Tensor:
        """Of features [B,C,G,G] the tokens [B,1+G²,C]."""
        x = x.flatten(2).transpose(1, 2)
        return self.norm(torch.cat([self.first.expand(len(x), 1, -1), x], 1) + self.positions)

    def _features(self, x: Tensor) -> Tensor:
        side = round((x.shape[1] - 1) ** 0.5)
        return x[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    def dream(self, features: Tensor, words: Tensor) -> Tensor:
        """What is seen in features [B,C,G,G] by who is told words [B,W,C], one for each layer from the second on."""
        x = self._begin(features)
        for i, layer in enumerate(self.layers):
            if 0 <= (word := i - WHISPERED) < words.shape[1]:
                x = layer(torch.cat([x, words[:, word : word + 1]], 1))[:, :-1]
            else:
                x = layer(x)
        return self._features(x)

    def see(self, images: Tensor) -> Iterable[Tensor]:
        """What is seen in images [B,3,R,R] in -1..1 after the layers `SEEN`: [B,C,G,G] each."""
        x = self._begin(self.patches(images))
        for i, layer in enumerate(self.layers[: SEEN[-1]], 1):
            x = layer(x)
            if i in SEEN:
                yield self._features(x)


class GALIPGenerator(nn.Module):
    """(z [B,z_dim], text [B,text]) -> styles [B,num_styles,z_dim+text] -> images [B,3,R,R] in about -1..1.

    A style here is what a scale reads: z, truncated, and the text's vector as CLIP gives it.
    """

    def __init__(self, config: GALIPConfig):
        super().__init__()
        self.config = config
        self.code = nn.Linear(config.z_dim, config.first * config.grid**2)
        self.fusions = nn.ModuleList(Fusion(config.first, config.inner, self.style_dim) for _ in range(config.fusions))
        self.words = nn.Linear(self.style_dim, config.eyes * config.words)
        self.eyes = Eyes(config)
        self.to_eyes = nn.Conv2d(config.first, config.eyes, 5, padding=2)
        self.from_eyes = nn.Conv2d(config.eyes, config.channels[0], 5, padding=2)
        scales = zip(config.channels, config.channels[1:], config.sizes[1:])
        self.scales = nn.ModuleList(Scale(before, after, size, self.style_dim) for before, after, size in scales)
        self.to_rgb = nn.Conv2d(config.channels[-1], 3, 3, padding=1)

    @property
    def style_resolutions(self) -> list[int]:
        """Of each style the pixels of what it is for."""
        return self.config.sizes

    @property
    def num_styles(self) -> int:
        return len(self.style_resolutions)

    @property
    def style_dim(self) -> int:
        return self.config.z_dim + self.config.text

    @property
    def dtype(self) -> torch.dtype:
        return self.to_rgb.weight.dtype

    @property
    def widest(self) -> int:
        return max(channels * size**2 for channels, size in zip(self.config.channels, self.config.sizes[1:]))

    def styles(self, z: Tensor, text: Tensor, psi: Tensor) -> Tensor:
        return torch.cat([z * psi, text], 1)[:, None].expand(-1, self.num_styles, -1)

    def style_of(self, z: Tensor) -> Tensor:
        """What z [B,z_dim] alone has in every style: its first entries [B,z_dim]."""
        return z

    def style_weights(self, layer: int) -> Tensor:
        """By which this style is read [N,style_dim]."""
        if layer:
            readers = [self.scales[layer - 1].fuse0.first, self.scales[layer - 1].fuse1.first]
        else:
            readers = [self.words, *(fuse.first for fusion in self.fusions for fuse in (fusion.fuse0, fusion.fuse1))]
        return torch.cat([linear.weight for linear in readers])

    def synthesize(self, styles: Tensor, psi: Tensor) -> Tensor:
        first, *others = styles.unbind(1)
        grid = (self.config.grid, self.config.grid)
        x = self.code(first[:, : self.config.z_dim]).unflatten(1, (self.config.first, *grid))
        for fusion in self.fusions:
            x = fusion(x, first)
        x = self.to_eyes(x)
        dreamt = self.eyes.dream(x, self.words(first).unflatten(1, (self.config.words, -1)))
        x = self.from_eyes(torch.add(x, dreamt, alpha=BLENDED))
        for scale, style in zip(self.scales, others):
            x = scale(x, style)
        return self.to_rgb(F.leaky_relu(x, SLOPE))


# ------------------------------------------------------------------------------------------------------ discriminator


@dataclass(frozen=True)
class GALIPDiscriminatorConfig:
    eyes: int  # width of what CLIP's eyes see,
    grid: int  # and how many patches in a row
    text: int
    channels: int  # of the features that are judged
    inner: int  # within the judgement
    kernel: int  # of its convolution
    samples: int  # texts by which realism is measured

    classes = statistics = 0  # it takes a text instead, and no company

    def fits(self) -> bool:
        """Whether these are the numbers of a network."""
        return min(self.eyes, self.text, self.channels, self.inner, self.samples) > 0 and 0 < self.kernel <= self.grid

    def suits(self, generator: GALIPConfig) -> bool:
        """Whether it judges what a generator of this config draws."""
        return (self.eyes, self.grid, self.text) == (generator.eyes, generator.grid, generator.text)


class Residual(nn.Module):
    """x [B,C,H,W] -> [B,D,H,W]: two convolutions beside a shortcut; what is seen in deeper layers is added."""

    def __init__(self, in_channels: int, out_channels: int, deeper: bool):
        super().__init__()
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.gain = nn.Parameter(torch.zeros(1))
        self.share = nn.Parameter(torch.zeros(1)) if deeper else None

    def forward(self, x: Tensor, deeper: Tensor | None = None) -> Tensor:
        y = F.leaky_relu(self.conv1(F.leaky_relu(self.conv0(x), SLOPE)), SLOPE)
        x = self.skip(x) + self.gain * y
        return x if deeper is None else x + self.share * deeper


class GALIPDiscriminator(nn.Module):
    """images [B,3,R,R] in -1..1 -> `features` -> `judge`, with a text's vector [B,text]: logits [B]; more is more real.

    It has one logit for both, whether a picture is real and whether the text says what it shows. `usual` are the vectors of
    some texts: what it says of a picture with each of them, on average, is how real that is.
    """

    def __init__(self, config: GALIPDiscriminatorConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Residual(config.eyes, config.eyes, True) for _ in SEEN[1:])
        self.last = Residual(config.eyes, config.channels, False)
        self.of_features = nn.Conv2d(config.channels, config.inner, config.kernel, bias=False)
        self.of_text = nn.Linear(config.text, config.inner, bias=False)
        self.out = nn.Linear(config.inner * (config.grid - config.kernel + 1) ** 2, 1, bias=False)
        self.register_buffer("usual", torch.zeros(config.samples, config.text))

    def look_through(self, eyes: Eyes) -> None:
        """Take the generator's `eyes`, which are moved and saved with it: in a tuple,
        so that they are no part of this module."""
        self._eyes = (eyes,)

    def features(self, images: Tensor) -> Tensor:
        """images [B,3,R,R] -> features [B,C,G,G]."""
        x, *others = self._eyes[0].see(images)
        for block, deeper in zip(self.blocks, others):
            x = block(x, deeper)
        return self.last(x)

    def judge(self, features: Tensor, text: Tensor | None, usual: Tensor) -> Tensor:
        """features [B,C,G,G], text [B,text] (None: the mean over the texts `usual` [S,text]) -> logits [B]."""
        said = usual[None] if text is None else text[:, None]
        hidden = self.of_features(features)[:, None] + self.of_text(said)[..., None, None]
        return self.out(F.leaky_relu(hidden, SLOPE).flatten(2)).mean((1, 2))
