"""The generator F: a latent z and a condition become a picture in one forward pass.

A style-based generator (StyleGAN2, Karras et al. 2020, arXiv 1912.04958) that follows StyleGAN-T (Sauer et al. 2023,
arXiv 2301.09515) in how it takes text: the text vector t bypasses the mapping network, w = [MLP(z), t], so that z cannot
drown it and truncation acts on z alone; masked cross-attention lets the low resolutions read the prompt's tokens. A memory
of concepts (`memory.py`) hands the middle resolution a sketch of what the prompt names, in the look that the prompt asks
for or, where it does not, that z picks. Where the prompt names several things (`layout.py`), each has a text vector, a look
and a sketch of its own, and its own part of the one canvas; the picture then has an opacity, and stands on any background.
What the prompt gives a colour is painted in it at last (`tint.py`).
There are no per-pixel noise inputs: the picture is a function of (z, condition) and nothing else.

Everything is written so that fp16 holds (StyleGAN2-ADA, Karras et al. 2020, arXiv 2006.06676, appendix): styles divided by
their largest entry, activations clamped, the RGB sum kept in fp32.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .derived import Derived
from .layout import Layout, LayoutReader
from .linear import Linear
from .memory import ConceptMemory, normal
from .tint import recolour

SQRT2 = 2**0.5
CLAMP = 256.0  # |activation| bound; far above what a healthy network makes, far below fp16's 65504
RGB_GAIN = 0.1  # with unit gain the pixel range runs away early in training
LOOK_SHARPNESS = 4.0  # makes one look of the prompt's of nearly every z
DECISION = 24.0  # times as sharply look and concept are chosen for a picture: a tenth of a second one is a ghost in it
LOUDNESS = 8.0  # of what the prompt asks for, or z, whose share is large from the start, would be louder for most of a training
USUAL_LOOK = 2.0  # standard deviations that full truncation puts the first look ahead
UNSHOWN = 24.0  # logits by which a look that a concept was never shown in falls behind: z seldom puts one so far ahead,
ASKED = 5.0  # unless the prompt gives it so many or more, as one that names a style does: what gives less asks for no look
FIRMNESS = 4.0  # by which that becomes louder than any z: what is asked for is drawn
OPAQUE = 2.0  # logit of the opacity at first: on white, where most pictures stand, it makes no difference


@dataclass(frozen=True)
class GeneratorConfig:
    resolution: int = 64  # pixels, a power of two, 16 to 512
    channels: tuple[int, ...] = (256, 256, 128, 64)  # at 4, 8, ... resolution/2 px; the last scale is sub-pixel
    z_dim: int = 64
    w_dim: int = 128  # width of MLP(z)
    text_dim: int = 256  # width of t and of the refined tokens
    token_dim: int = 640  # width of the condition's tokens
    pooled_dim: int = 256  # width of the normalised pooled vector
    memory: int = 512  # hidden units between the pooled vector and t, which remember much; not the memory of concepts
    attention: tuple[int, ...] = (8, 16)  # resolutions that attend to the tokens
    heads: int = 4
    concepts: int = 0  # that the concept memory holds, 0: no such memory,
    chooses: int = 0  # 1: where the prompt may mean several of them, z picks one; 0: they are drawn as a blend,
    looks: int = 5  # of each that it tells apart,
    shown: int = 0  # 1: it knows which of them each concept was shown in, and z picks one of those; 0: z picks any,
    sketch_resolution: int = 16  # pixels,
    sketch_channels: int = 6  # that all looks share,
    look_channels: int = 3  # and that each has of its own
    things: int = 0  # that a prompt may place on one canvas, 0: it is drawn as one, on the background it was trained on
    tints: int = 0  # colours in which a thing is painted where the prompt says so

    @classmethod
    def at(cls, resolution: int, **others) -> "GeneratorConfig":
        """The default generator for `resolution` pixels: 256 channels at 4 and 8 px, halved at every scale down to 32."""
        if resolution not in (16, 32, 64, 128, 256, 512):
            raise ValueError(f"A resolution of {resolution} px cannot be drawn: take 16, 32, 64, 128, 256 or 512.")
        scales = resolution.bit_length() - 3
        channels = tuple(min(max(512 >> i, 32), 256) for i in range(scales))
        return cls(resolution, channels, sketch_resolution=min(max(resolution // 4, 8), 16), **others)


class Text(NamedTuple):
    """What the generator reads in a prompt: the refined tokens [B,M+T,D] and their mask; of each of M things the text vector
    t [B,M,D], and of the memory, in fp32, the weights of the concepts [B,M,K] and how much the prompt itself asks for each
    look [B,M,L]; and where they stand."""

    tokens: Tensor
    mask: Tensor
    vector: Tensor
    concepts: Tensor | None
    looks: Tensor | None
    layout: Layout
    choice: Tensor | None = None  # of each prompt, how far z picks one of its concepts [B], as in a condition

    def on(self, background: Tensor) -> "Text":
        """The same, on a background [B,3] in -1..1."""
        return self._replace(layout=self.layout._replace(background=background))

    def painted(self, tints: Tensor) -> "Text":
        """The same, with things in the colours that tints [B,M,4] give them, as in a `Latent`."""
        own = _for_things(tints, self.layout.boxes).expand(-1, self.layout.boxes.shape[1], -1)
        own = torch.cat([own[:, :, :1], own[:, :, 1:] / own[:, :, :1].clamp(min=1e-6)], 2)
        said = torch.zeros_like(own) if self.layout.tints is None else self.layout.tints
        return self._replace(layout=self.layout._replace(tints=torch.where(own[:, :, :1] > 0, own, said)))


def weights_of_looks(logits: Tensor) -> Tensor:
    """How much of each look a picture has [...,L], of the logits in its `Code`."""
    return (DECISION * logits).softmax(-1)


class Code(NamedTuple):
    """All that tells one picture of a prompt from another: of each thing a style vector for each convolution, coarse to
    fine [B,M,num_styles,w_dim+text_dim], and the sketch [B,M,C,R,R] from the memory of concepts, in the look whose logits
    are `looks` [B,M,L]."""

    styles: Tensor
    sketch: Tensor | None
    looks: Tensor | None

    def shifted(self, style: Tensor | None, sketch: Tensor | None) -> "Code":
        """With `style` [B,M,num_styles,w_dim+text_dim] and `sketch` [B,M,C,R,R] added, each where it is not None.

        M is 1, for every thing alike, or counts things: those beyond stay as they are, and shifts of things that are not
        there are left out.
        """
        return self._replace(
            styles=self.styles if style is None else self.styles + _for_things(style, self.styles),
            sketch=self.sketch if sketch is None else self.sketch + _for_things(sketch, self.sketch),
        )


def _for_things(shift: Tensor, like: Tensor) -> Tensor:
    """shift [B,M,...], of one thing or of some, for as many things as `like` has."""
    if shift.shape[1] > 1:
        missing = max(like.shape[1] - shift.shape[1], 0)
        shift = torch.cat([shift[:, : like.shape[1]], shift.new_zeros(len(shift), missing, *shift.shape[2:])], 1)
    return shift.to(like)


def normalize_second_moment(x: Tensor) -> Tensor:
    """x [B,C,...] scaled to E[x²] = 1 over C (pixel norm, Karras et al. 2018, arXiv 1710.10196)."""
    return x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-8).to(x.dtype)


def bilinear(planes: Tensor, factor: int) -> Tensor:
    """planes [B,C,H,W] -> [B,C,factor·H,factor·W], bilinear."""
    if factor == 2 or planes.device.type != "cpu" or torch.is_grad_enabled():
        return F.interpolate(planes, scale_factor=factor, mode="bilinear", align_corners=False)
    # Along one axis after the other, each of the places between two pixels by itself: a sixth of the time of torch's own, which
    # is as quick for the few pixels that are doubled.
    for axis in (3, 2):
        count = planes.shape[axis]
        framed = torch.cat([planes.narrow(axis, 0, 1), planes, planes.narrow(axis, count - 1, 1)], axis)
        enlarged = planes.new_empty(*planes.shape[: axis + 1], factor, *planes.shape[axis + 1 :])
        for place in range(factor):
            offset = (place + 0.5) / factor - 0.5
            neighbour = framed.narrow(axis, 0 if offset < 0 else 2, count)
            torch.lerp(planes, neighbour, abs(offset), out=enlarged.select(axis + 1, place))
        planes = enlarged.flatten(axis, axis + 1)
    return planes


def energy(weight: Tensor) -> Tensor:
    """weight [O,I,H,W] -> of each input to each output channel the sum of squares [I,O], by which styles are demodulated."""
    return weight.float().square().sum((2, 3)).t()


class TextEncoder(nn.Module):
    """(tokens [B,T,token_dim], pooled [B,M,pooled_dim], mask [B,M+T]) -> (refined tokens [B,M+T,D], t [B,M,D]).

    One bidirectional transformer layer repairs what the causal mask of the language model hid from early tokens. The pooled
    vectors go in front as tokens of their own, so that an empty prompt still leaves something to attend to. Its own memory, an
    MLP, is wide, for there are more concepts than dimensions in the pooled vector: what is linear in it cannot learn one
    without unlearning others.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width = config.text_dim
        self.heads = config.heads
        self.from_tokens = Linear(config.token_dim, width)
        self.from_pooled = Linear(config.pooled_dim, width)
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(Linear(width, 2 * width), nn.GELU(), Linear(2 * width, width))
        self.norm_out = nn.LayerNorm(width)
        self.to_text = Linear(2 * width, width)
        read = config.pooled_dim + width
        self.memory = nn.Sequential(Linear(read, config.memory), nn.GELU(), Linear(config.memory, width))
        nn.init.normal_(self.memory[0].weight, std=read**-0.5)
        nn.init.zeros_(self.memory[2].weight)

    def forward(self, tokens: Tensor, pooled: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        raw, pooled = pooled, self.from_pooled(pooled)
        x = torch.cat([pooled, self.from_tokens(tokens)], 1)
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        x = self.norm_out(x + self.mlp(self.norm_mlp(x)))
        # The first tokens have attended to all the others: their states are attention poolings of the prompt.
        own = x[:, : raw.shape[1]]
        return x, self.to_text(torch.cat([pooled, own], 2)) + self.memory(torch.cat([raw, own], 2))


class MappingNetwork(nn.Module):
    """z [B,z_dim] -> MLP(z) [B,w_dim], truncated towards its running mean by psi, a number or a tensor (1 = not at all)."""

    def __init__(self, z_dim: int, w_dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            Linear(z_dim, w_dim), nn.LeakyReLU(0.2), Linear(w_dim, w_dim), nn.LeakyReLU(0.2), Linear(w_dim, w_dim)
        )
        # Quieter than t, for to a paired loss most of z is noise, but heard: torch's own initialisation would whisper.
        for layer, gain in zip(self.layers[::2], (SQRT2, SQRT2, 0.3)):
            nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        self.register_buffer("mean", torch.zeros(w_dim))

    def forward(self, z: Tensor, truncation_psi: float | Tensor = 1.0) -> Tensor:
        w = self.layers(normalize_second_moment(z))
        if self.training:
            self.mean.lerp_(w.detach().mean(0).to(self.mean.dtype), 0.005)
        return torch.lerp(self.mean.to(w.dtype).expand_as(w), w, truncation_psi)


def spread(values: Tensor, territories: Tensor | None) -> Tensor:
    """One value a thing [B,M,C] -> one a pixel [B,C,H,W], by what each thing has of it; of a single thing [B,C,1,1]."""
    if territories is None:
        return values[:, 0, :, None, None]
    # Channels last, as what it is multiplied with: across layouts the product takes several times as long.
    return torch.einsum("bmc,bmhw->bhwc", values, territories).permute(0, 3, 1, 2)


class ModulatedConv(nn.Module):
    """Convolution of style-scaled activations, demodulated (StyleGAN2 eqs. 1–3), as y = d(s) · (W * (s · x)).

    Scaling activations instead of weights keeps one plain convolution for the whole batch, and lets each pixel have the
    style of the thing that it shows. The styles are divided by their largest entry first: exact, since demodulation cancels
    any scale, and it keeps fp16 in range. The gain of the leaky ReLU, which is homogeneous, is taken before it, along with
    demodulation and bias: each pass over the activations costs about as much as the convolution of a few channels.

    Where no gradient is wanted, what is computed overwrites what it is computed from, x included: it is what nobody reads
    again, and the first touch of a fresh buffer's pages costs as much as the pass.
    """

    def __init__(self, in_channels: int, out_channels: int, style_dim: int):
        super().__init__()
        self.weight = normal(out_channels, in_channels, 3, 3, std=(9 * in_channels) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self._energy = Derived(energy)
        self.style = Linear(style_dim, in_channels)
        nn.init.normal_(self.style.weight, std=style_dim**-0.5)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor, territories: Tensor | None) -> Tensor:
        """x [B,I,H,W], w [B,M,style_dim], territories [B,M,H,W] (None: M = 1) -> [B,O,H,W], leaky-ReLU'd and clamped."""
        s = self.style(w).float()
        s = s / s.abs().amax(2, keepdim=True).clamp(min=1e-8)
        demodulation = SQRT2 * torch.rsqrt(s.square() @ self._energy(self.weight) + 1e-8)
        scale = spread(s.to(x.dtype), territories)
        if torch.is_grad_enabled():
            x = F.conv2d(x * scale, self.weight, padding=1)
            x = torch.addcmul(SQRT2 * self.bias[:, None, None], x, spread(demodulation.to(x.dtype), territories))
            return F.leaky_relu(x, 0.2).clamp(-CLAMP, CLAMP)
        x = F.conv2d(x.mul_(scale), self.weight, padding=1)
        x = torch.addcmul(SQRT2 * self.bias[:, None, None], x, spread(demodulation.to(x.dtype), territories), out=x)
        return F.leaky_relu_(x, 0.2).clamp_(-CLAMP, CLAMP)


class CrossAttention(nn.Module):
    """Every pixel of x [B,C,H,W] attends to the tokens [B,T,D]; residual, and silent at initialisation."""

    def __init__(self, channels: int, text_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        width = text_dim // 2
        self.query = Linear(channels, width)
        self.key_value = Linear(text_dim, 2 * width)
        self.out = Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = x.flatten(2).transpose(1, 2)
        q = self.query(F.layer_norm(pixels, (channels,))).view(batch, height * width, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(tokens.to(x.dtype)).view(batch, tokens.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        pixels = pixels + self.out(attended.transpose(1, 2).reshape(batch, height * width, -1))
        # What is added must not make activations grow: the convolutions are demodulated for inputs of unit size.
        return normalize_second_moment(pixels.unflatten(1, (height, width)).permute(0, 3, 1, 2))


class ToRGB(nn.Module):
    """x [B,C,H,W] -> this scale's share of the picture [B,N,H·up,W·up] in fp32; `up` > 1 by sub-pixel convolution.

    Not modulated: its input is already the style's, and of unit size, which keeps the pixels in range.
    """

    def __init__(self, channels: int, kernel: int = 1, up: int = 1, colours: int = 3):
        super().__init__()
        self.up = up
        fan_in = channels * kernel * kernel
        self.weight = normal(colours * up * up, channels, kernel, kernel, std=fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(colours * up * up))

    def forward(self, x: Tensor, *others: "ToRGB") -> Tensor:
        """The planes of `others`, alike but for their colours, follow: a convolution to a few channels costs what it reads."""
        weight, bias = (torch.cat(values) for values in zip(*((head.weight, head.bias) for head in (self, *others))))
        x = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2).float()
        # A pixel shuffle that leaves planes: of three channels they add up and blend in a fraction of the time.
        planes = x.unflatten(1, (-1, self.up, self.up)).permute(0, 1, 4, 2, 5, 3)
        return planes.reshape(len(x), -1, self.up * x.shape[2], self.up * x.shape[3]) * RGB_GAIN


class Scale(nn.Module):
    """One resolution: convolve at the lower resolution, double it, attend to the text, convolve again.

    The first convolution before the upsampling costs a quarter of what it would after it and computes the same family of
    functions, bilinear interpolation and a per-pixel non-linearity apart.
    """

    def __init__(self, resolution: int, in_channels: int, channels: int, style_dim: int, config: GeneratorConfig):
        super().__init__()
        first = resolution == 4
        last = resolution == config.resolution // 2
        self.conv0 = None if first else ModulatedConv(in_channels, channels, style_dim)
        attends = resolution in config.attention
        self.attention = CrossAttention(channels, config.text_dim, config.heads) if attends else None
        self.resolution = resolution
        # A thing of half the canvas has its sketch whole at the next resolution only.
        factors = (1, 2) if config.things else (1,)
        sketched = config.concepts and resolution in [config.sketch_resolution * factor for factor in factors]
        self.from_sketch = nn.Conv2d(config.sketch_channels + config.look_channels, channels, 1) if sketched else None
        if sketched and resolution > config.sketch_resolution:
            nn.init.zeros_(self.from_sketch.weight)
            nn.init.zeros_(self.from_sketch.bias)
        self.conv1 = ModulatedConv(channels, channels, style_dim)
        self.to_rgb = ToRGB(channels, kernel=3, up=2) if last else ToRGB(channels)

    def forward(self, x: Tensor, w: tuple[Tensor, Tensor], sketch: Tensor | None, text: Text) -> Tensor:
        layout = text.layout
        if self.conv0 is not None:
            x = self.conv0(x, w[0], self._territories(layout, x))
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if self.attention is not None:
            x = self.attention(x, text.tokens, text.mask)
        if self.from_sketch is not None:
            x = normalize_second_moment(x + self.from_sketch(compose(sketch, layout, self.resolution)))
        return self.conv1(x, w[1], self._territories(layout, x))

    @staticmethod
    def _territories(layout: Layout, x: Tensor) -> Tensor | None:
        return None if layout.single else layout.territories(x.shape[2]).to(x.dtype)


def compose(features: Tensor, layout: Layout, resolution: int) -> Tensor:
    """Features of each thing [B,M,C,H,W] -> of the canvas [B,C,R,R]."""
    if layout.single and features.shape[3] == resolution:
        return features[:, 0]
    return layout.place(features, resolution)


class Generator(nn.Module):
    """(z, condition) -> images [B,3,R,R], nominally -1..1 (not clamped: training penalises what lies outside).

    Four parts that can be called apart: `lay_out` what the prompt names, `read` it, make the `code` of one of its pictures,
    `synthesize` that picture. Style mixing and walks work on the code.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        style_dim = config.w_dim + config.text_dim
        self.text = TextEncoder(config)
        self.mapping = MappingNetwork(config.z_dim, config.w_dim)
        if config.concepts:
            self.memory = ConceptMemory(config)
            self.look_from_text = Linear(config.pooled_dim, config.looks)
            self.look_to_style = Linear(config.looks, config.w_dim, bias=False)
            nn.init.zeros_(self.look_from_text.weight)
            nn.init.zeros_(self.look_from_text.bias)
            nn.init.normal_(self.look_to_style.weight)
        # A 4x4 canvas written by the style itself: StyleGAN's learned constant is its bias.
        self.canvas = Linear(style_dim, config.channels[0] * 16)
        self.scales = nn.ModuleList()
        in_channels = config.channels[0]
        for i, channels in enumerate(config.channels):
            self.scales.append(Scale(4 << i, in_channels, channels, style_dim, config))
            in_channels = channels
        if config.things:
            self.layout = LayoutReader(config)
            self.size_to_style = Linear(1, config.w_dim, bias=False)
            self.to_opacity = ToRGB(in_channels, kernel=3, up=2, colours=1)

    @property
    def num_styles(self) -> int:
        return 2 * len(self.scales)

    @property
    def style_dim(self) -> int:
        return self.config.w_dim + self.config.text_dim

    @property
    def style_resolutions(self) -> list[int]:
        """Of each style the pixels of what it is for: the first convolution at each resolution runs before it is reached by
        interpolation, and belongs to it all the same."""
        return [4 << i // 2 for i in range(self.num_styles)]

    def style_of(self, z: Tensor) -> Tensor:
        """What z [B,z_dim] alone has in every style: its first entries [B,w_dim]."""
        return self.mapping(z)

    def style_weights(self, layer: int) -> Tensor:
        """By which this style is read [N,style_dim]; that at 4 px has one convolution."""
        scale = self.scales[layer // 2]
        return (scale.conv1 if layer % 2 or scale.conv0 is None else scale.conv0).style.weight

    @property
    def dtype(self) -> torch.dtype:
        """That of the convolutions, and of the activations between them; what is computed once a prompt is in fp32."""
        return self.scales[0].conv1.weight.dtype

    @property
    def widest(self) -> int:
        """How many numbers the largest activations of one picture are."""
        return max(channels * (4 << i) ** 2 for i, channels in enumerate(self.config.channels))

    def lay_out(self, tokens: Tensor, pooled: Tensor, mask: Tensor) -> Layout:
        """tokens [B,T,token_dim], pooled [B,pooled_dim] (both normalised), mask [B,T] bool -> the layout that each describes,
        with room for as many things as there may be."""
        return self.layout(tokens, pooled, mask).layout() if self.config.things else Layout.whole(pooled)

    def read(self, tokens: Tensor, pooled: Tensor, mask: Tensor, layout: Layout | None = None) -> Text:
        """tokens [B,T,token_dim], pooled [B,pooled_dim] (both normalised), mask [B,T] bool. A `layout`, trimmed, is taken
        instead of the one that the prompt describes."""
        if layout is None:
            layout = self.lay_out(tokens, pooled, mask).trimmed()
        mask = torch.cat([layout.there, mask], 1)
        tokens, vector = self.text(tokens, layout.pooled, mask)
        if not self.config.concepts:
            return Text(tokens, mask, vector, None, None, layout)
        looks = LOUDNESS * self.look_from_text(layout.pooled)
        if self.config.shown:  # a prompt that asks for none clearly leaves all to z, any other nothing
            looks = FIRMNESS * looks * (2 * (looks.amax(-1, keepdim=True) - ASKED)).sigmoid()
        return Text(tokens, mask, vector, self.memory(layout.pooled), looks, layout)

    def code(self, z: Tensor, text: Text, truncation_psi: float | Tensor = 1.0, look_shift: Tensor | None = None) -> Code:
        """z [B,z_dim], pulled towards the mean by psi (1 = not at all), and the text -> the code of one picture each.

        The look is a softmax over the first entries of z, as far as the concept was shown in it, and what the text asks for;
        psi draws it to the first look, not to a blend of all, which would be none. Of several concepts that the text may
        mean, the others of z choose. look_shift [B,M,L] is added to the logits of the look that the sketch has, M as in a
        `Latent`; the styles stay.
        """
        w, vector = self.mapping(z, truncation_psi)[:, None], text.vector
        sketch = logits = None
        if self.config.concepts:
            concepts = text.concepts
            if self.config.chooses:
                concepts = self.memory.choose(concepts, truncation_psi * z, text.choice, DECISION)
            vector = vector + concepts @ self.memory.codes
            shown = concepts @ self.memory.shown if self.config.shown else torch.ones_like(text.looks)
            first = shown * F.pad((1 - shown).cumprod(2), (1, -1), value=1.0)
            picked = truncation_psi * z[:, None, : self.config.looks] + (1 - truncation_psi) * USUAL_LOOK * first
            logits = LOOK_SHARPNESS * picked + text.looks - UNSHOWN * (1 - shown) * (FIRMNESS * ASKED - text.looks).sigmoid()
            w = w + self.look_to_style(weights_of_looks(logits))
            if look_shift is not None:
                logits = logits + _for_things(look_shift, logits)
            sketch = self.memory.sketch(concepts, weights_of_looks(logits))
        if self.config.things:
            w = w + self.size_to_style(text.layout.boxes[:, :, 2:].log2())
        w = torch.cat([w.expand(-1, vector.shape[1], -1), vector], 2)
        return Code(w[:, :, None].expand(-1, -1, self.num_styles, -1), sketch, logits)

    def render(self, code: Code, text: Text) -> tuple[Tensor, Tensor | None]:
        """Of each code the picture [B,3,R,R] and its opacity [B,1,R,R], 0..1 (None from a generator that has none), fp32; each
        thing in the colour that it is given."""
        ws, layout = code.styles, text.layout
        x = self.canvas(ws[:, :, 0]).unflatten(2, (-1, 4, 4))
        x = normalize_second_moment(compose(x, layout, 4)).to(self.dtype, memory_format=torch.channels_last)
        rgb = None
        for i, scale in enumerate(self.scales):
            x = scale(x, (ws[:, :, 2 * i], ws[:, :, 2 * i + 1]), code.sketch, text)
            last = i == len(self.scales) - 1
            planes = scale.to_rgb(x, self.to_opacity) if last and self.config.things else scale.to_rgb(x)
            share, opacity = planes[:, :3], planes[:, 3:]
            if rgb is not None:
                share = share + bilinear(rgb, share.shape[2] // rgb.shape[2])
            rgb = share
        if not self.config.things:
            return rgb, None
        opacity = (opacity / RGB_GAIN + OPAQUE).sigmoid()
        if layout.tints is not None:
            rgb = recolour(rgb, opacity, None if layout.single else layout.territories(rgb.shape[2]), layout.tints)
        return rgb, opacity

    def synthesize(self, code: Code, text: Text) -> Tensor:
        """The picture of each code on its background [B,3,R,R], fp32."""
        rgb, opacity = self.render(code, text)
        if opacity is None:
            return rgb
        return torch.lerp(text.layout.background.float()[:, :, None, None], rgb, opacity)

    def forward(self, z: Tensor, tokens: Tensor, pooled: Tensor, mask: Tensor, layout: Layout | None = None) -> Tensor:
        """z [B,z_dim]; tokens [B,T,token_dim], pooled [B,pooled_dim] (both normalised), mask [B,T] bool -> pictures
        [B,3,R,R]."""
        text = self.read(tokens, pooled, mask, layout)
        return self.synthesize(self.code(z, text), text)
