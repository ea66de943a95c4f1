"""Other people's ways from a prompt, or a latent, to a picture: their architectures as published, with random weights.

What a network computes takes as long with random weights as with learnt ones, so nothing is downloaded. Tokenising a prompt
is left out, in the rivals' favour.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn

CLIP_TOKENS = 77  # every prompt is padded to so many
# The last entry of its noise schedule, scaled linearly from 0.00085 to 0.012: all noise.
LAST_SIGMA = 14.6146


class Rival(nn.Module):
    """A way to pictures of `resolution` px."""

    reads = False  # a prompt, and draws any resolution; else it draws the one that it was built for, from a latent

    def __init__(self, resolution: int):
        super().__init__()
        self.resolution = resolution

    def prompt(self) -> Tensor | None:
        """What a prompt is read to, [1,T,C]; None where no prompt is read."""
        return None

    def forward(self, batch: int, prompt: Tensor | None) -> Tensor:
        """What was read, or None -> images [batch,3,R,R]."""
        raise NotImplementedError

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape).to(next(self.parameters()))

    def _latent(self, batch: int) -> Tensor:
        """Noise of an eighth of the resolution, as autoencoders of the Stable Diffusion kind decode."""
        return self._noise(batch, 4, self.resolution // 8, self.resolution // 8)


class SDTurbo(Rival):
    """Stable Diffusion Turbo (Sauer et al. 2023, arXiv 2311.17042) in one step, decoded by the tiny autoencoder."""

    reads = True

    def __init__(self, resolution: int):
        super().__init__(resolution)
        from diffusers import AutoencoderTiny

        self.text = _clip(1024, 23, 16, "gelu")
        self.unet = _unet(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True)
        self.decoder = AutoencoderTiny().decoder

    def prompt(self) -> Tensor:
        return _read(self.text)

    def forward(self, batch: int, prompt: Tensor) -> Tensor:
        noise = self._latent(batch)
        step = self.unet(noise, 999, prompt.expand(batch, -1, -1), return_dict=False)[0]
        # One Euler step from the last sigma to none.
        return self.decoder(LAST_SIGMA * (noise - step))


class LatentConsistency(Rival):
    """A latent consistency model (Luo et al. 2023, arXiv 2310.04378) of Stable Diffusion 1.5, four steps, the full decoder."""

    reads = True
    steps = (999, 759, 499, 259)

    def __init__(self, resolution: int):
        super().__init__(resolution)
        from diffusers import AutoencoderKL

        self.text = _clip(768, 12, 12, "quick_gelu")
        self.unet = _unet(attention_head_dim=8, cross_attention_dim=768, time_cond_proj_dim=256)
        blocks = 4
        self.decoder = AutoencoderKL(
            latent_channels=4, layers_per_block=2, block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        )  # fmt: skip
        self.decoder.encoder = nn.Identity()

    def prompt(self) -> Tensor:
        return _read(self.text)

    def forward(self, batch: int, prompt: Tensor) -> Tensor:
        prompt = prompt.expand(batch, -1, -1)
        x = self._latent(batch)
        guidance = self._noise(batch, 256)
        for step in self.steps:
            out = self.unet(x, step, prompt, timestep_cond=guidance, return_dict=False)[0]
            x = 0.5 * (x - out) + 0.5 * torch.randn_like(x)  # the schedule's own weights, which cost the same
        return self.decoder.decode(x, return_dict=False)[0]


class BigGANDeep(Rival):
    """BigGAN-deep (Brock et al. 2019, arXiv 1809.11096, appendix B), the generator alone: from z and a class."""

    # (doubles the resolution, input and output channels in units of 128)
    start = [(False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8)]
    layers = {
        128: [*start[:3], (True, 16, 8), (False, 8, 8), (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1)],
        256: [
            *start, (False, 8, 8), (True, 8, 8), (False, 8, 8), (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2),
            (True, 2, 1),
        ],
        512: [
            *start, (False, 8, 8), (True, 8, 8), (False, 8, 8), (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2),
            (True, 2, 1), (False, 1, 1), (True, 1, 1),
        ],
    }  # fmt: skip

    def __init__(self, resolution: int):
        super().__init__(resolution)
        from pytorch_pretrained_biggan import BigGAN, BigGANConfig

        self.gan = BigGAN(BigGANConfig(output_dim=resolution, layers=self.layers[resolution], attention_layer_position=8))
        for module in self.gan.modules():
            if hasattr(module, "running_vars"):
                module.running_vars.fill_(1)
            with contextlib.suppress(ValueError):  # it has none
                nn.utils.remove_spectral_norm(module)  # which a trained network need not compute again

    def forward(self, batch: int, prompt: None) -> Tensor:
        label = torch.zeros(batch, 1000).to(next(self.parameters()))
        label[:, 0] = 1
        return self.gan(self._noise(batch, 128), label, 1.0)


class LightweightGAN(Rival):
    """lightweight-gan, the "FastGAN" generator (Liu et al. 2021, arXiv 2101.04775) with its default attention: from z alone."""

    def __init__(self, resolution: int):
        super().__init__(resolution)
        # It insists on a GPU and on packages that its training uses; its generator needs neither.
        training = {name: mock.MagicMock() for name in ("torchvision", "adabelief_pytorch")}
        with mock.patch("torch.cuda.is_available", return_value=True), mock.patch.dict(sys.modules, training):
            from lightweight_gan.lightweight_gan import Generator

        self.gan = Generator(image_size=resolution, attn_res_layers=[32])

    def forward(self, batch: int, prompt: None) -> Tensor:
        z, usual = self._noise(batch, 256), torch.get_default_dtype()
        torch.set_default_dtype(z.dtype)  # that of the noise which it adds at every scale
        try:
            return self.gan(z)
        finally:
            torch.set_default_dtype(usual)


@dataclass(frozen=True)
class Entry:
    """A rival by name: how it is built, what has to be installed for it, and what it draws."""

    title: str
    build: Callable[[int], Rival]
    packages: dict[str, str]  # module: distribution
    resolutions: tuple[int, ...] = (64, 128, 256, 512)

    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [package for module, package in self.packages.items() if importlib.util.find_spec(module) is None]


RIVALS = {
    "sd-turbo": Entry("SD-Turbo, 1 step", SDTurbo, {"diffusers": "diffusers"}),
    "lcm": Entry("LCM, 4 steps", LatentConsistency, {"diffusers": "diffusers"}),
    "biggan": Entry(
        "BigGAN-deep", BigGANDeep, {"pytorch_pretrained_biggan": "pytorch-pretrained-biggan"}, tuple(BigGANDeep.layers)
    ),
    "lightweight-gan": Entry(
        "lightweight-gan", LightweightGAN, {"lightweight_gan": "lightweight-gan", "kornia": "kornia", "einops": "einops"}
    ),
}


def _clip(width: int, layers: int, heads: int, activation: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=width, hidden_act=activation, max_position_embeddings=CLIP_TOKENS,
        )  # fmt: skip
    )


def _read(text: nn.Module) -> Tensor:
    ids = torch.randint(0, 49_000, (1, CLIP_TOKENS), device=next(text.parameters()).device)
    return text(input_ids=ids)[0]


def _unet(**settings) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), **settings)
