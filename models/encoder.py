"""From a picture back into the model: what the generator would have to be told to draw it, and how to mend what is spoilt.

`PictureEncoder` is an encoder for GAN inversion (pSp, Richardson et al. 2021, arXiv 2008.00951): one forward pass gives z and,
as offsets from what the prompt alone gives (e4e, Tov et al. 2021, arXiv 2102.02766, §4), styles and sketch. It reads the
frozen features that the discriminator looks through. `Refiner` sees the damaged picture beside what was drawn in its place,
and paints what is missing or spoilt: a U-Net (Ronneberger et al. 2015, arXiv 1505.04597) without normalisation (EDSR, Lim et
al. 2017, arXiv 1707.02921, §3.1), which adds to the picture and runs at any size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .damage import KINDS
from .features import FEATURE_CHANNELS
from .generator import Generator, GeneratorConfig, Text, normalize_second_moment

GRID = 16  # pixels of the map on which the encoder works
UNSHUFFLE = 2  # the refiner works at half the resolution
SMOOTHED = (3, 7)  # pixels of the squares over which the refiner is offered means
TRUST = 3.0  # logit by which its pixels are the picture's own at first
QUIET = 0.1  # gain of the last layers: an untrained encoder says nearly what the prompt says
BORDER = 2  # pixels along the edge whose median is the background


@dataclass(frozen=True)
class EncoderConfig:
    encoder_channels: int = 128
    refiner_channels: tuple[int, ...] = (32, 64, 96, 128)  # from half the resolution down by halves


class Residual(nn.Module):
    """x + conv(relu(conv(x))), [B,C,H,W]."""

    def __init__(self, channels: int, norm: bool = False):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(QUIET)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(self.norm(x))))


class PictureEncoder(nn.Module):
    """What fills each box -> z, and the offsets of styles and sketch from what the prompt gives."""

    def __init__(self, config: EncoderConfig, generator: GeneratorConfig):
        super().__init__()
        width = config.encoder_channels
        self.sketched = generator.sketch_channels + generator.look_channels if generator.concepts else 0
        self.num_styles = 2 * len(generator.channels)
        self.style_dim = generator.w_dim + generator.text_dim
        self.sketch_resolution = generator.sketch_resolution
        self.fine = max(generator.resolution // GRID, 1)
        read = sum(FEATURE_CHANNELS) + 4 * self.fine**2 + self.sketched
        self.begin = nn.Conv2d(read, width, 1)
        self.body = nn.Sequential(*[Residual(width, norm=True) for _ in range(4)])
        self.down = nn.Sequential(
            nn.Conv2d(width, width, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 2 * width), nn.ReLU()
        )
        self.to_z = nn.Linear(2 * width, generator.z_dim)
        self.to_styles = nn.Linear(2 * width, self.num_styles * self.style_dim)
        self.to_sketch = nn.Conv2d(width, self.sketched, 3, padding=1) if self.sketched else None
        for head in (self.to_styles, self.to_sketch):
            if head is not None:
                nn.init.zeros_(head.bias)
                with torch.no_grad():
                    head.weight.mul_(QUIET)

    def forward(self, images: Tensor, known: Tensor, features: list[Tensor], sketch: Tensor | None):
        """images [N,3,R,R] in -1..1, known [N,1,R,R], their frozen features, the prompt's sketch [N,C,S,S] ->
        z [N,z_dim] of unit size, style_shift [N,num_styles,style_dim], sketch_shift [N,C,S,S] or None."""
        maps = [_resized(f, GRID) for f in features]
        maps.append(_resized(F.pixel_unshuffle(torch.cat([images, known], 1), self.fine), GRID))
        if sketch is not None:
            maps.append(_resized(sketch, GRID))
        x = self.body(self.begin(torch.cat(maps, 1)))
        pooled = self.down(x)
        z = normalize_second_moment(self.to_z(pooled))
        styles = self.to_styles(pooled).unflatten(1, (self.num_styles, self.style_dim))
        if self.to_sketch is None:
            return z, styles, None
        return z, styles, _resized(self.to_sketch(F.relu(x)), self.sketch_resolution)


class Refiner(nn.Module):
    """(base [B,3,H,W], drawn [B,3,H,W], known [B,1,H,W], kinds [B,6]) -> the restored picture [B,3,H,W].

    base is the damaged picture, in its holes what was drawn; kinds says which of `damage.KINDS` is to be undone. H and W are
    multiples of `step`. Every pixel is a mean of what there is to take it from (base, drawn, and base smoothed, in weights that
    the network gives), and what the network adds to that.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        widths = config.refiner_channels
        self.step = UNSHUFFLE << (len(widths) - 1)
        self.begin = nn.Conv2d(7 * UNSHUFFLE**2, widths[0], 3, padding=1)
        self.from_kinds = nn.ModuleList(nn.Linear(len(KINDS), width) for width in widths)
        self.down = nn.ModuleList(nn.Sequential(Residual(width), Residual(width)) for width in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in zip(widths, widths[1:]))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(nn.Sequential(Residual(width), Residual(width)) for width in widths[:-1])
        self.end = nn.Conv2d(widths[0], 3 * UNSHUFFLE**2, 3, padding=1)
        self.weigh = nn.Conv2d(widths[0], (2 + len(SMOOTHED)) * UNSHUFFLE**2, 3, padding=1)
        for head in (self.end, self.weigh):
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.weight.mul_(QUIET)

    def forward(self, base: Tensor, drawn: Tensor, known: Tensor, kinds: Tensor) -> Tensor:
        x = self.begin(F.pixel_unshuffle(torch.cat([base, drawn, known], 1), UNSHUFFLE))
        x = x.contiguous(memory_format=torch.channels_last)
        skipped = []
        for i, (blocks, from_kinds) in enumerate(zip(self.down, self.from_kinds)):
            x = blocks(x + from_kinds(kinds)[:, :, None, None])
            if i < len(self.shrink):
                skipped.append(x)
                x = self.shrink[i](x)
        for i in reversed(range(len(self.up))):
            x = self.up[i](F.pixel_shuffle(self.grow[i](x), 2) + skipped[i])
        sources = [base, drawn, *(F.avg_pool2d(base, n, 1, n // 2, count_include_pad=False) for n in SMOOTHED)]
        own, *others = F.pixel_shuffle(self.weigh(x), UNSHUFFLE).split(1, 1)
        weights = torch.cat([own + TRUST, *others], 1).softmax(1)
        mean = sum(weights[:, i : i + 1] * source for i, source in enumerate(sources))
        return mean + F.pixel_shuffle(self.end(x), UNSHUFFLE)


class Encoder(nn.Module):
    """Both, of one generator."""

    def __init__(self, config: EncoderConfig, generator: GeneratorConfig):
        super().__init__()
        self.config = config
        self.picture = PictureEncoder(config, generator)
        self.refiner = Refiner(config)


def find(
    encoder: PictureEncoder, generator: Generator, look, images: Tensor, known: Tensor, text: Text
) -> tuple[Tensor, Tensor, Tensor | None, Text]:
    """images [B,3,R,R] in -1..1, 0 where they are not known [B,1,R,R]; `look` gives frozen features of pictures ->
    z [B,z_dim], style_shift [B,M,…], sketch_shift [B,M,…] or None, and the text on the picture's own background."""
    layout = text.layout
    if generator.config.things:
        text = text.on(background_of(images, known, layout.background))
    things = layout.boxes.shape[1]
    x, seen = images, known
    if not layout.single:
        x, seen = (layout.cut(part, images.shape[2]).flatten(0, 1) for part in (images, known))
    sketch = None
    if generator.config.concepts:
        sketch = generator.memory.sketch(text.concepts, text.looks.softmax(2)).flatten(0, 1)
    with torch.no_grad():
        features = look(x)
    z, styles, sketch = encoder(x, seen, features, sketch)
    z, styles = z.unflatten(0, (-1, things))[:, 0], styles.unflatten(0, (-1, things))
    return z, styles, None if sketch is None else sketch.unflatten(0, (-1, things)), text


def background_of(images: Tensor, known: Tensor, otherwise: Tensor) -> Tensor:
    """The median colour [B,3] along the known edge of images [B,3,H,W]; `otherwise` [B,3] where none of it is known."""
    edge = torch.zeros(images.shape[2:], dtype=torch.bool, device=images.device)
    edge[:BORDER] = edge[-BORDER:] = True
    edge[:, :BORDER] = edge[:, -BORDER:] = True
    colours = []
    for image, seen, fallback in zip(images[:, :, edge], known[:, 0, edge] > 0.5, otherwise):
        colours.append(image[:, seen].float().median(1).values.to(fallback) if seen.any() else fallback)
    return torch.stack(colours)


def _resized(features: Tensor, size: int) -> Tensor:
    """features [B,C,H,H] -> [B,C,size,size], by means where they shrink."""
    if features.shape[2] > size:
        return F.adaptive_avg_pool2d(features, size)
    if features.shape[2] < size:
        return F.interpolate(features, (size, size), mode="bilinear", align_corners=False)
    return features
