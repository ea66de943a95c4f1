"""Published GANs in small, as their files hold them: modules with the names and attributes of NVIDIA's, computed as the papers
write it, without a thought for speed. What they are pickled into carries source code that must not be run."""

import json
import pickle
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT2 = 2**0.5
TAPS = torch.tensor([1.0, 3, 3, 1]) / 8
BLUR = torch.outer(TAPS, TAPS)

_persistence = types.ModuleType("torch_utils.persistence")


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a pickle was run")


_reconstruct_persistent_obj.__module__ = _persistence.__name__
_persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj


class Persistent(nn.Module):
    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": type(self).__name__}
        return _reconstruct_persistent_obj, (meta | {"state": dict(self.__dict__)},)


def write(path: Path, **networks: nn.Module | None) -> Path:
    names = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": _persistence}
    sys.modules |= names
    try:
        path.write_bytes(pickle.dumps(networks | {"training_set_kwargs": None}))
    finally:
        for name in names:
            del sys.modules[name]
    return path


def some(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape), requires_grad=False)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * SQRT2


def filtered(x: Tensor, taps: Tensor, padding: tuple[int, int] = (0, 0), up: int = 1, down: int = 1) -> Tensor:
    """Zeros between the pixels of x [B,C,H,W] and around them, taps [T] or [T,T], and every `down`th pixel."""
    batch, channels, size, _ = x.shape
    sparse = x.new_zeros(batch, channels, size * up, size * up)
    sparse[:, :, ::up, ::up] = x * up**2
    kernel = (torch.outer(taps, taps) if taps.ndim == 1 else taps).flip((0, 1)).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(sparse, (*padding, *padding)), kernel, groups=channels)[:, :, ::down, ::down]


class FullyConnectedLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, activation: str = "linear", rate: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.activation = activation
        self.weight, self.bias = some(outputs, inputs), some(outputs)
        self.weight.div_(rate), self.bias.add_(bias).div_(rate)
        self.weight_gain, self.bias_gain = rate * inputs**-0.5, rate

    def forward(self, x: Tensor) -> Tensor:
        x = x @ (self.weight * self.weight_gain).t() + self.bias * self.bias_gain
        return leaky(x) if self.activation == "lrelu" else x


class MappingNetwork(Persistent):
    def __init__(self, z_dim: int, classes: int, w_dim: int, layers: int = 2):
        super().__init__()
        self.num_layers, self.c_dim = layers, classes
        if classes:
            self.embed = FullyConnectedLayer(classes, w_dim)
        for i in range(layers):
            inputs = z_dim + (w_dim if classes else 0) if i == 0 else w_dim
            setattr(self, f"fc{i}", FullyConnectedLayer(inputs, w_dim, "lrelu", 0.01))
        if z_dim:
            self.register_buffer("w_avg", torch.randn(w_dim))

    def forward(self, z: Tensor | None, label: Tensor, psi: float = 1.0) -> Tensor:
        parts = ([] if z is None else [z]) + ([self.embed(label)] if self.c_dim else [])
        x = torch.cat([part * (part.square().mean(1, keepdim=True) + 1e-8).rsqrt() for part in parts], 1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x if z is None else self.w_avg + psi * (x - self.w_avg)


def modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, padding: int, transposed: bool = False) -> Tensor:
    """A convolution for each picture, its weights scaled by the style and brought back to unit length (StyleGAN2 eqs. 1–3)."""
    pictures = []
    for row, s in zip(x, style):
        own = weight * s[:, None, None]
        if demodulate:
            own = own * (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if transposed:
            pictures.append(F.conv_transpose2d(row[None], own.transpose(0, 1), stride=2))
        else:
            pictures.append(F.conv2d(row[None], own, padding=padding))
    return torch.cat(pictures)


class SynthesisLayer(Persistent):
    """Of StyleGAN2."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: int = 1):
        super().__init__()
        self.resolution, self.up, self.activation, self.use_noise, self.conv_clamp = resolution, up, "lrelu", True, 256
        self.affine = FullyConnectedLayer(w_dim, inputs, bias=1.0)
        self.weight, self.bias, self.noise_strength = some(outputs, inputs, 3, 3), some(outputs), some()
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", BLUR.clone())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated(x, self.weight, self.affine(w), True, 1, self.up == 2)
        if self.up == 2:
            x = filtered(x, BLUR, (1, 1)) * 4
        return leaky(x + self.noise_const * self.noise_strength + self.bias[:, None, None]).clamp(-256, 256)


class ToRGBLayer(Persistent):
    def __init__(self, channels: int, w_dim: int):
        super().__init__()
        self.conv_clamp, self.weight_gain = 256, channels**-0.5
        self.affine = FullyConnectedLayer(w_dim, channels, bias=1.0)
        self.weight, self.bias = some(3, channels, 1, 1), some(3)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated(x, self.weight, self.affine(w) * self.weight_gain, False, 0) + self.bias[:, None, None]


class SynthesisBlock(Persistent):
    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int):
        super().__init__()
        self.architecture = "skip"
        self.register_buffer("resample_filter", BLUR.clone())
        if inputs:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, resolution, 2)
        else:
            self.const = some(outputs, resolution, resolution)
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, resolution)
        self.torgb = ToRGBLayer(outputs, w_dim)


class SynthesisNetwork(Persistent):
    def __init__(self, w_dim: int, channels: list[int]):
        super().__init__()
        self.img_channels, self.channels = 3, channels
        for i, (inputs, outputs) in enumerate(zip([0, *channels], channels)):
            setattr(self, f"b{4 << i}", SynthesisBlock(inputs, outputs, w_dim, 4 << i))

    def forward(self, ws: Tensor) -> Tensor:
        x, rgb, i = self.b4.const.expand(len(ws), -1, -1, -1), 0, 0
        for scale in range(len(self.channels)):
            block = getattr(self, f"b{4 << scale}")
            if scale:
                x, i = block.conv0(x, ws[:, i]), i + 1
                rgb = filtered(rgb, TAPS, (2, 1), up=2)
            x, i = block.conv1(x, ws[:, i]), i + 1
            rgb = rgb + block.torgb(x, ws[:, i])
        return rgb


class Generator(Persistent):
    def __init__(self, synthesis: nn.Module, classes: int, z_dim: int = 8, w_dim: int = 8):
        super().__init__()
        self.z_dim = z_dim
        self.synthesis = synthesis
        self.mapping = MappingNetwork(z_dim, classes, w_dim)


class Conv2dLayer(Persistent):
    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True, activation: str = "lrelu"):
        super().__init__()
        self.activation, self.conv_clamp, self.weight_gain = activation, 256, (inputs * kernel**2) ** -0.5
        self.weight, self.bias = some(outputs, inputs, kernel, kernel), some(outputs) if bias else None

    def forward(self, x: Tensor, down: bool = False, gain: float = 1.0) -> Tensor:
        weight = self.weight * self.weight_gain
        if down and self.bias is None:
            return F.conv2d(filtered(x, BLUR, (1, 1), down=2), weight) * gain
        if down:
            x = F.conv2d(filtered(x, BLUR, (2, 2)), weight, self.bias, 2)
        else:
            x = F.conv2d(x, weight, self.bias, padding=weight.shape[2] // 2)
        return (leaky(x) * gain).clamp(-256 * gain, 256 * gain)


class DiscriminatorBlock(Persistent):
    def __init__(self, inputs: int, outputs: int, first: bool, residual: bool):
        super().__init__()
        self.architecture = "resnet" if residual else "orig"
        self.register_buffer("resample_filter", BLUR.clone())
        if first:
            self.fromrgb = Conv2dLayer(3, inputs, 1)
        self.conv0, self.conv1 = Conv2dLayer(inputs, inputs, 3), Conv2dLayer(inputs, outputs, 3)
        if residual:
            self.skip = Conv2dLayer(inputs, outputs, 1, False, "linear")

    def forward(self, x: Tensor) -> Tensor:
        gain = 0.5**0.5 if self.architecture == "resnet" else 1.0
        y = self.conv1(self.conv0(x), True, gain)
        return y + self.skip(x, True, gain) if self.architecture == "resnet" else y


class MinibatchStdLayer(Persistent):
    def __init__(self):
        super().__init__()
        self.group_size, self.num_channels = 4, 1


class DiscriminatorEpilogue(Persistent):
    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.mbstd = MinibatchStdLayer()
        self.conv = Conv2dLayer(channels + 1, channels, 3)
        self.fc, self.out = FullyConnectedLayer(channels * 16, channels, "lrelu"), FullyConnectedLayer(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        spread = (x.var(0, correction=0) + 1e-8).sqrt().mean().expand(len(x), 1, 4, 4)
        return self.out(self.fc(self.conv(torch.cat([x, spread], 1)).flatten(1)))


class Discriminator(Persistent):
    def __init__(self, channels: list[int], classes: int, residual: bool = True):
        super().__init__()
        self.img_channels, self.channels, self.c_dim = 3, channels, classes
        for i, (inputs, outputs) in enumerate(zip(channels, channels[1:])):
            size = 2 << len(channels) >> i
            setattr(self, f"b{size}", DiscriminatorBlock(inputs, outputs, i == 0, residual))
        self.b4 = DiscriminatorEpilogue(channels[-1], 8 if classes else 1)
        if classes:
            self.mapping = MappingNetwork(0, classes, 8)

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """Of one group of pictures, at most four."""
        size = 2 << len(self.channels)
        x = getattr(self, f"b{size}").fromrgb(images)
        while size > 4:
            x, size = getattr(self, f"b{size}")(x), size // 2
        x = self.b4(x)
        return (x * self.mapping(None, label)).sum(1) * 8**-0.5 if self.c_dim else x[:, 0]


class FourierInput(Persistent):
    def __init__(self, w_dim: int, channels: int, size: int, rate: int):
        super().__init__()
        self.size, self.sampling_rate, self.bandwidth = torch.tensor([size, size]).numpy(), float(rate), 2.0
        self.weight, self.affine = some(channels, channels), FullyConnectedLayer(w_dim, 4, bias=1.0)
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.randn(channels, 2))
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        pictures, size = [], int(self.size[0])
        place = ((torch.arange(size) + 0.5) / size - 0.5) * size / self.sampling_rate
        for t in self.affine(w):
            cos, sin, x, y = t / t[:2].norm()
            turn = torch.tensor([[cos, -sin], [sin, cos]])
            # A picture moved by (x, y) and turned: its waves start elsewhere, and run in another direction.
            phases, freqs = self.phases + self.freqs @ turn @ -torch.stack([x, y]), self.freqs @ turn
            fade = (1 - (freqs.norm(dim=1) - self.bandwidth) / (self.sampling_rate / 2 - self.bandwidth)).clamp(0, 1)
            waves = place[None, :, None] * freqs[:, 0] + place[:, None, None] * freqs[:, 1] + phases
            waves = (waves * 2 * torch.pi).sin() * fade
            pictures.append((waves @ self.weight.t() * len(phases) ** -0.5).permute(2, 0, 1))
        return torch.stack(pictures)


class AliasFreeLayer(Persistent):
    """Of StyleGAN3."""

    def __init__(self, w_dim, inputs, outputs, kernel, up, down, in_size, out_size, cutoff, radial=False, last=False):
        super().__init__()
        self.is_torgb, self.conv_clamp, self.up_factor, self.down_factor = last, 256, up, down
        self.out_size, self.out_cutoff = torch.tensor([out_size, out_size]).numpy(), cutoff
        self.affine = FullyConnectedLayer(w_dim, inputs, bias=1.0)
        self.weight, self.bias = some(outputs, inputs, kernel, kernel), some(outputs)
        self.register_buffer("magnitude_ema", torch.rand(()) + 0.5)
        taps = (6 * up, 6 * down)
        self.register_buffer("up_filter", None if last else torch.rand(taps[0]) / taps[0])
        shape = (taps[1], taps[1]) if radial else (taps[1],)
        self.register_buffer("down_filter", None if last else torch.rand(shape) / taps[1] ** len(shape))
        total = (out_size - 1) * down + 1 - (in_size + kernel - 1) * up + (0 if last else sum(taps) - 2)
        before = (total + up) // 2
        self.padding = [before, total - before] * 2

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        kernel, style = self.weight.shape[2], self.affine(w)
        if self.is_torgb:
            style = style * self.weight.shape[1] ** -0.5
        x = modulated(x, self.weight, style, not self.is_torgb, kernel - 1) * self.magnitude_ema.rsqrt()
        x = x + self.bias[:, None, None]
        if self.is_torgb:
            return x
        x = filtered(x, self.up_filter, tuple(self.padding[:2]), up=self.up_factor)
        return filtered(leaky(x).clamp(-256, 256), self.down_filter, down=self.down_factor)


class AliasFreeSynthesis(Persistent):
    """16 px in three layers, the second of which doubles the density, and the colours."""

    def __init__(self, w_dim: int, radial: bool):
        super().__init__()
        self.img_channels, self.img_resolution, self.output_scale = 3, 16, 0.25
        self.input = FourierInput(w_dim, 6, 14, 8)
        kernel = 1 if radial else 3
        layers = [
            AliasFreeLayer(w_dim, 6, 7, kernel, 2, 2, 14, 14, 3.0, radial),
            AliasFreeLayer(w_dim, 7, 5, kernel, 4, 2, 14, 22, 5.7, radial),
            AliasFreeLayer(w_dim, 5, 4, kernel, 2, 2, 22, 16, 8.0),
            AliasFreeLayer(w_dim, 4, 3, 1, 1, 1, 16, 16, 8.0, last=True),
        ]
        self.layer_names = [f"L{i}" for i in range(len(layers))]
        for name, layer in zip(self.layer_names, layers):
            setattr(self, name, layer)

    def forward(self, ws: Tensor) -> Tensor:
        x = self.input(ws[:, 0])
        for i, name in enumerate(self.layer_names, 1):
            x = getattr(self, name)(x, ws[:, i])
        return x * self.output_scale


def stylegan2(classes: int = 0, seed: int = 0) -> tuple[Generator, Discriminator]:
    """Of 16 px."""
    torch.manual_seed(seed)
    return Generator(SynthesisNetwork(8, [8, 6, 5]), classes), Discriminator([5, 6, 8], classes, residual=not classes)


def as_rosinality(generator: Generator, judge: Discriminator) -> dict[str, Any]:
    """The same StyleGAN2 as rosinality's training saves it: weights of unit variance, whose gains its layers know."""
    g, d = {}, {}

    def dense(into: dict, name: str, layer: FullyConnectedLayer, rate: float = 1.0) -> None:
        into[f"{name}.weight"] = layer.weight * (layer.weight_gain / rate * layer.weight.shape[1] ** 0.5)
        into[f"{name}.bias"] = layer.bias * (layer.bias_gain / rate)

    for i in range(2):
        dense(g, f"style.{i + 1}", getattr(generator.mapping, f"fc{i}"), 0.01)
    synthesis, convs, noises = generator.synthesis, 0, 0
    g["input.input"] = synthesis.b4.const[None]
    for scale in range(len(synthesis.channels)):
        block = getattr(synthesis, f"b{4 << scale}")
        for kind in ("conv0", "conv1") if scale else ("conv1",):
            layer, name = getattr(block, kind), f"convs.{convs}" if scale else "conv1"
            convs += bool(scale)
            g |= {f"{name}.conv.weight": layer.weight[None], f"{name}.activate.bias": layer.bias}
            g |= {f"{name}.noise.weight": layer.noise_strength[None], f"noises.noise_{noises}": layer.noise_const[None, None]}
            noises += 1
            dense(g, f"{name}.conv.modulation", layer.affine)
            if kind == "conv0":
                g[f"{name}.conv.blur.kernel"] = BLUR * 4
        name = f"to_rgbs.{scale - 1}" if scale else "to_rgb1"
        g |= {f"{name}.conv.weight": block.torgb.weight[None], f"{name}.bias": block.torgb.bias[None, :, None, None]}
        dense(g, f"{name}.conv.modulation", block.torgb.affine)
    sizes = [2 << len(judge.channels) >> i for i in range(len(judge.channels) - 1)]
    first = getattr(judge, f"b{sizes[0]}").fromrgb
    d |= {"convs.0.0.weight": first.weight, "convs.0.1.bias": first.bias}
    for i, size in enumerate(sizes, 1):
        block, name = getattr(judge, f"b{size}"), f"convs.{i}"
        d |= {f"{name}.conv1.0.weight": block.conv0.weight, f"{name}.conv1.1.bias": block.conv0.bias}
        d |= {f"{name}.conv2.1.weight": block.conv1.weight, f"{name}.conv2.2.bias": block.conv1.bias}
        d |= {f"{name}.skip.1.weight": block.skip.weight, f"{name}.conv2.0.kernel": BLUR, f"{name}.skip.0.kernel": BLUR}
    d |= {"final_conv.0.weight": judge.b4.conv.weight, "final_conv.1.bias": judge.b4.conv.bias}
    dense(d, "final_linear.0", judge.b4.fc), dense(d, "final_linear.1", judge.b4.out)
    training = {"args": Namespace(size=16), "g_optim": {"state": {}, "param_groups": [{"lr": 0.002}]}, "ada_aug_p": 0.0}
    return {"g_ema": g, "d": d, "latent_avg": generator.mapping.w_avg} | training


def stylegan3(radial: bool = False, classes: int = 0) -> tuple[Generator, Discriminator]:
    """Of 16 px."""
    torch.manual_seed(1)
    return Generator(AliasFreeSynthesis(8, radial), classes), Discriminator([5, 6, 8], classes)


BIGGAN = {  # 16 px
    "output_dim": 16, "z_dim": 6, "class_embed_dim": 6, "channel_width": 4, "num_classes": 5, "eps": 1e-4, "n_stats": 51,
    "layers": [[False, 16, 8], [True, 8, 4], [True, 4, 2]], "attention_layer_position": 2,
}  # fmt: skip


def biggan() -> dict[str, Tensor]:
    """The weights of such a BigGAN, as its PyTorch version names them."""
    torch.manual_seed(2)
    width, state = BIGGAN["channel_width"], {"embeddings.weight": torch.randn(6, 5)}

    def normalised(name: str, *shape: int, bias: bool = False) -> None:
        weight = torch.randn(shape)
        u, v = F.normalize(torch.randn(shape[0]), dim=0), F.normalize(torch.randn(weight[0].numel()), dim=0)
        state.update({f"{name}.weight_orig": weight, f"{name}.weight_u": u, f"{name}.weight_v": v})
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0])

    def norm(name: str, channels: int) -> None:
        state.update({f"{name}.running_means": torch.randn(51, channels), f"{name}.running_vars": torch.rand(51, channels) + 0.5})

    normalised("generator.gen_z", 4 * 4 * 16 * width, 12, bias=True)
    for i, (_, before, after) in enumerate(BIGGAN["layers"]):
        name, before, after = f"generator.layers.{i + (i >= 2)}", before * width, after * width
        inner = before // 4
        for j, (into, out, kernel) in enumerate(((before, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, after, 1))):
            norm(f"{name}.bn_{j}", into)
            normalised(f"{name}.bn_{j}.scale", into, 12)
            normalised(f"{name}.bn_{j}.offset", into, 12)
            normalised(f"{name}.conv_{j}", out, into, kernel, kernel, bias=True)
    channels = 4 * width
    for name, inputs, outputs in (("theta", channels, 2), ("phi", channels, 2), ("g", channels, 8), ("o_conv", 8, channels)):
        normalised(f"generator.layers.2.snconv1x1_{name}", outputs, inputs, 1, 1)
    state["generator.layers.2.gamma"] = torch.tensor([0.7])
    norm("generator.bn", 2 * width)
    state |= {"generator.bn.weight": torch.randn(2 * width), "generator.bn.bias": torch.randn(2 * width)}
    normalised("generator.conv_to_rgb", 2 * width, 2 * width, 3, 3, bias=True)
    return state


def draw_biggan(state: dict[str, Tensor], z: Tensor, label: Tensor, step: int) -> Tensor:
    """What it draws of truncated z [B,6] and label [B,5] at the truncation of statistics `step`."""

    def weight(name: str) -> Tensor:
        w, u, v = (state[f"{name}.weight_{part}"] for part in ("orig", "u", "v"))
        return w / (u @ (w.flatten(1) @ v))

    def normal(name: str, x: Tensor) -> Tensor:
        mean, variance = state[f"{name}.running_means"][step], state[f"{name}.running_vars"][step]
        return (x - mean[:, None, None]) / (variance[:, None, None] + BIGGAN["eps"]).sqrt()

    def conv(name: str, x: Tensor) -> Tensor:
        w = weight(name)
        return F.conv2d(x, w, state.get(f"{name}.bias"), padding=w.shape[2] // 2)

    condition = torch.cat([z, label @ state["embeddings.weight"].t()], 1)
    x = condition @ weight("generator.gen_z").t() + state["generator.gen_z.bias"]
    x = x.view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    for i, (up, _, after) in enumerate(BIGGAN["layers"]):
        if i == BIGGAN["attention_layer_position"]:
            size, part = x.shape[2], "generator.layers.2.snconv1x1_"
            theta = conv(part + "theta", x).flatten(2)
            phi, g = (F.max_pool2d(conv(part + name, x), 2).flatten(2) for name in ("phi", "g"))
            attended = g @ (theta.transpose(1, 2) @ phi).softmax(2).transpose(1, 2)
            x = x + state["generator.layers.2.gamma"] * conv(part + "o_conv", attended.unflatten(2, (size, size)))
        name, y = f"generator.layers.{i + (i >= 2)}", x
        for j in range(4):
            scale, offset = (condition @ weight(f"{name}.bn_{j}.{kind}").t() for kind in ("scale", "offset"))
            y = (normal(f"{name}.bn_{j}", y) * (1 + scale[:, :, None, None]) + offset[:, :, None, None]).relu()
            if up and j == 1:
                y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
            y = conv(f"{name}.conv_{j}", y)
        x = x[:, : after * BIGGAN["channel_width"]]
        x = y + (x.repeat_interleave(2, 2).repeat_interleave(2, 3) if up else x)
    x = normal("generator.bn", x) * state["generator.bn.weight"][:, None, None] + state["generator.bn.bias"][:, None, None]
    return conv("generator.conv_to_rgb", x.relu())[:, :3].tanh()


# ---------------------------------------------------------------------------------------------------------------- GALIP

WIDTH, HEADS, PATCH, GRID, TEXT, Z, WORDS = 128, 2, 8, 5, 64, 6, 3
SIZES, CHANNELS = (8, 16, 40), (12, 10, 6, 4)


def save_clip(folder: Path, pickled: bool = False, **changes) -> Path:
    """A random CLIP as a Hugging Face folder, whose words are letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

    letters = [chr(i) for i in range(33, 127)] + ["Ġ"]
    folder.mkdir(parents=True, exist_ok=True)
    words = {token: i for i, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    words |= {"<|startoftext|>": len(words), "<|endoftext|>": len(words) + 1}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    words |= {"ca": len(words), "cat</w>": len(words) + 1}
    (folder / "vocab.json").write_text(json.dumps(words))
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"num_hidden_layers": 2, "intermediate_size": 4 * WIDTH, "hidden_size": WIDTH, "num_attention_heads": HEADS}
    text = size | {"vocab_size": len(words), "max_position_embeddings": 20, "eos_token_id": words["<|endoftext|>"]}
    text |= {"bos_token_id": words["<|startoftext|>"], "pad_token_id": words["<|endoftext|>"]} | changes
    config = CLIPConfig(text_config=text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=TEXT)
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    for name, weight in model.named_parameters():
        if not name.endswith("logit_scale"):
            weight.data.normal_(std=0.1).add_(float("norm" in name and name.endswith("weight")))
    model.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def galip(judged: bool = True) -> dict[str, dict[str, dict[str, Tensor]]]:
    """What GALIP's training saves, in small and with random numbers."""
    torch.manual_seed(0)
    g, style = {}, Z + TEXT

    def dense(into: dict, name: str, inputs: int, outputs: int) -> None:
        into[f"{name}.weight"], into[f"{name}.bias"] = torch.randn(outputs, inputs) * inputs**-0.5, torch.randn(outputs) * 0.1

    def conv(into: dict, name: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        into[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (inputs * kernel**2) ** -0.5
        if bias:
            into[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def fuse(name: str, channels: int) -> None:
        for kind in ("affine0.fc_gamma", "affine0.fc_beta", "affine1.fc_gamma", "affine1.fc_beta"):
            dense(g, f"{name}.{kind}.linear1", style, channels)
            dense(g, f"{name}.{kind}.linear2", channels, channels)

    dense(g, "fc_code", Z, 8 * GRID**2)
    for i in range(2):
        block = f"mapping.FBlocks.{i}"
        conv(g, f"{block}.conv1", 8, 6, 3), fuse(f"{block}.fuse1", 6), conv(g, f"{block}.conv2", 6, 8, 3), fuse(f"{block}.fuse2", 8)
    conv(g, "mapping.conv_fuse", 8, WIDTH, 5), conv(g, "mapping.conv", WIDTH, CHANNELS[0], 5)
    eyes = "mapping.CLIP_ViT"
    g[f"{eyes}.class_embedding"], g[f"{eyes}.positional_embedding"] = torch.randn(WIDTH), torch.randn(1 + GRID**2, WIDTH)
    conv(g, f"{eyes}.conv1", 3, WIDTH, PATCH, bias=False)
    norms = [f"{eyes}.ln_pre"]
    for i in range(9):
        block = f"{eyes}.transformer.resblocks.{i}"
        dense(g, f"{block}.attn.in_proj", WIDTH, 3 * WIDTH), dense(g, f"{block}.attn.out_proj", WIDTH, WIDTH)
        g |= {f"{block}.attn.in_proj_{kind}": g.pop(f"{block}.attn.in_proj.{kind}") for kind in ("weight", "bias")}
        dense(g, f"{block}.mlp.c_fc", WIDTH, 4 * WIDTH), dense(g, f"{block}.mlp.c_proj", 4 * WIDTH, WIDTH)
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
    for norm in norms:
        g[f"{norm}.weight"], g[f"{norm}.bias"] = 1 + 0.1 * torch.randn(WIDTH), 0.1 * torch.randn(WIDTH)
    dense(g, "mapping.fc_prompt", style, WORDS * WIDTH)
    for i, (before, after) in enumerate(zip(CHANNELS, CHANNELS[1:])):
        block = f"GBlocks.{i}"
        conv(g, f"{block}.c1", before, after, 3), conv(g, f"{block}.c2", after, after, 3), conv(g, f"{block}.c_sc", before, after, 1)
        fuse(f"{block}.fuse1", before), fuse(f"{block}.fuse2", after)
    conv(g, "to_rgb.1", CHANNELS[-1], 3, 3)
    d, c = {}, {}
    for block, outputs in (("DBlocks.0", WIDTH), ("DBlocks.1", WIDTH), ("main", 10)):
        conv(d, f"{block}.conv_r.0", WIDTH, outputs, 3, bias=False), conv(d, f"{block}.conv_r.2", outputs, outputs, 3, bias=False)
        conv(d, f"{block}.conv_s", WIDTH, outputs, 1)
        d[f"{block}.gamma"] = torch.randn(1)
        if block != "main":
            d[f"{block}.beta"] = torch.randn(1)
    conv(c, "joint_conv.0", 10 + TEXT, 7, 4, bias=False), conv(c, "joint_conv.2", 7, 1, 2, bias=False)
    return {"model": {"netG": g} | ({"netD": d, "netC": c} if judged else {})}


def _dense(tensors: dict, name: str, x: Tensor, joint: str = ".") -> Tensor:
    return x @ tensors[f"{name}{joint}weight"].t() + tensors[f"{name}{joint}bias"]


def _conv(tensors: dict, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
    return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), stride, padding)


def _fused(g: dict, name: str, x: Tensor, style: Tensor) -> Tensor:
    for affine in ("affine0", "affine1"):
        scale, offset = (
            _dense(g, f"{name}.{affine}.{kind}.linear2", _dense(g, f"{name}.{affine}.{kind}.linear1", style).relu())
            for kind in ("fc_gamma", "fc_beta")
        )
        x = F.leaky_relu(scale[:, :, None, None] * x + offset[:, :, None, None], 0.2)
    return x


def _normed(g: dict, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), g[f"{name}.weight"], g[f"{name}.bias"])


def _seen(g: dict, x: Tensor, words: Tensor | None, after: tuple[int, ...]) -> list[Tensor]:
    """Of features [B,C,G,G] what CLIP's eyes make of them after some layers; words are told from the second layer on."""
    eyes = "mapping.CLIP_ViT"
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([g[f"{eyes}.class_embedding"].expand(len(x), 1, -1), x], 1) + g[f"{eyes}.positional_embedding"]
    x, found = _normed(g, f"{eyes}.ln_pre", x), []
    for i in range(9):
        block, told = f"{eyes}.transformer.resblocks.{i}", words is not None and 1 <= i <= WORDS
        if told:
            x = torch.cat([x, words[:, i - 1 : i]], 1)
        qkv = _dense(g, f"{block}.attn.in_proj", _normed(g, f"{block}.ln_1", x), "_").chunk(3, 2)
        heads = []
        for q, k, v in zip(*(part.split(WIDTH // HEADS, 2) for part in qkv)):
            heads.append((q @ k.transpose(1, 2) * (WIDTH // HEADS) ** -0.5).softmax(2) @ v)
        x = x + _dense(g, f"{block}.attn.out_proj", torch.cat(heads, 2))
        inner = _dense(g, f"{block}.mlp.c_fc", _normed(g, f"{block}.ln_2", x))
        x = x + _dense(g, f"{block}.mlp.c_proj", inner * (1.702 * inner).sigmoid())
        x = x[:, :-1] if told else x
        if i in after:
            found.append(x[:, 1:].transpose(1, 2).reshape(len(x), WIDTH, GRID, GRID))
    return found


def draw_galip(networks: dict, z: Tensor, text: Tensor) -> Tensor:
    """z [B,Z], text [B,TEXT] -> images [B,3,40,40], as the paper's figure 4 has it."""
    g, style = networks["netG"], torch.cat([z, text], 1)
    x = _dense(g, "fc_code", z).view(-1, 8, GRID, GRID)
    for i in range(2):
        block = f"mapping.FBlocks.{i}"
        y = _fused(g, f"{block}.fuse1", _conv(g, f"{block}.conv1", x), style)
        x = x + _fused(g, f"{block}.fuse2", _conv(g, f"{block}.conv2", y), style)
    x = _conv(g, "mapping.conv_fuse", x, 2)
    words = _dense(g, "mapping.fc_prompt", style).view(-1, WORDS, WIDTH)
    x = _conv(g, "mapping.conv", x + 0.1 * _seen(g, x, words, (8,))[0], 2)
    for i, size in enumerate(SIZES):
        block = f"GBlocks.{i}"
        x = F.interpolate(x, size=(size, size))
        y = _conv(g, f"{block}.c1", _fused(g, f"{block}.fuse1", x, style))
        x = _conv(g, f"{block}.c_sc", x, 0) + _conv(g, f"{block}.c2", _fused(g, f"{block}.fuse2", y, style))
    return _conv(g, "to_rgb.1", F.leaky_relu(x, 0.2))


def judge_galip(networks: dict, images: Tensor, text: Tensor) -> Tensor:
    """images [B,3,40,40] in -1..1, text [B,TEXT] -> logits [B]."""
    g, d, c = networks["netG"], networks["netD"], networks["netC"]
    mean, deviation = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    once = images * 0.5 + 0.5
    pixels = ((once + 1) * 0.5 - mean[:, None, None]) / deviation[:, None, None]
    x, *others = _seen(g, _conv(g, "mapping.CLIP_ViT.conv1", pixels, 0, PATCH), None, (1, 4, 8))
    for block, deeper in (("DBlocks.0", others[0]), ("DBlocks.1", others[1]), ("main", 0)):
        y = F.leaky_relu(_conv(d, f"{block}.conv_r.2", F.leaky_relu(_conv(d, f"{block}.conv_r.0", x), 0.2)), 0.2)
        shortcut = _conv(d, f"{block}.conv_s", x, 0) if block == "main" else x
        x = shortcut + d[f"{block}.gamma"] * y + d.get(f"{block}.beta", 0) * deeper
    joint = torch.cat([x, text[:, :, None, None].expand(-1, -1, GRID, GRID)], 1)
    return _conv(c, "joint_conv.2", F.leaky_relu(_conv(c, "joint_conv.0", joint, 0), 0.2), 0).flatten()
