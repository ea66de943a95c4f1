"""What spoils a picture, so that a network can learn to undo it: each kind of damage as a function of pictures in -1..1.

Everything is drawn from a `torch.Generator`, picture by picture, so that a training sees the same damage again when it is
resumed.
"""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

KINDS = ("inpaint", "denoise", "deblur", "enlarge", "colourise", "unjpeg")  # what undoes each of them

# How strong the damage is that is trained on: least and most.
NOISE = (0.1, 0.6)  # standard deviation, of pixels in -1..1
BLUR = (0.7, 3.0)  # standard deviation in pixels
SHRINK = (2, 8)  # times
QUALITY = (5, 40)  # of JPEG
FAINT = 0.03  # deviation of noise that can just be seen


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """images [B,C,H,W] blurred by a Gaussian of `sigmas` [B] pixels each; the border is repeated."""
    batch, channels, height, width = images.shape
    reach = max(1, int(3 * float(sigmas.max()) + 0.5))
    place = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (place / sigmas.to(images.device)[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0).to(images.dtype)
    x = F.pad(images.reshape(1, batch * channels, height, width), (reach,) * 4, mode="replicate")
    x = F.conv2d(x, kernel[:, None, None, :], groups=batch * channels)
    x = F.conv2d(x, kernel[:, None, :, None], groups=batch * channels)
    return x.view_as(images)


def blur_widely(images: Tensor, sigma: float) -> Tensor:
    """images [B,C,S,S] blurred by a Gaussian of `sigma` pixels; what is so smooth is computed at fewer pixels, 6 to 12 to a
    deviation, where there are more."""
    side = images.shape[3]
    small = math.ceil(side / max(int(sigma / 6), 1))
    x = blur(F.adaptive_avg_pool2d(images, small), torch.tensor([sigma * (small / side)]))
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def shrink(images: Tensor, times: float) -> Tensor:
    """images [B,3,H,W] as they are once made so many times smaller by averaging, and larger again by bicubic interpolation."""
    size = images.shape[2:]
    small = [max(2, round(side / times)) for side in size]
    x = F.interpolate(images, small, mode="bilinear", antialias=True, align_corners=False)
    return enlarged(x, size)


def enlarged(images: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """images [B,3,h,w] -> [B,3,*size] by bicubic interpolation, in range."""
    return F.interpolate(images, tuple(size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def grey(images: Tensor) -> Tensor:
    """images [B,3,H,W] without colour: the luma of ITU-R BT.601, three times."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """image [3,H,W] written as a JPEG file and read again."""
    pixels = image.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    read = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return read.to(image.device, image.dtype).div(127.5).sub(1)


def spoil(images: Tensor, noise: Tensor, kind: Tensor, strength: Tensor) -> Tensor:
    """images [B,3,R,R] -> what nobody would take for one of them: noisy, by noise [B,3,R,R] ~ N(0,I), blurred, or with a ghost
    of the next one, as kind [B] says, more or less as strength [B] does, both ~ U(0,1) and on the CPU."""
    kind, strength = kind[:, None, None, None].to(images.device), strength.to(images.device)[:, None, None, None]
    noisy = (images + FAINT * (NOISE[1] / FAINT) ** strength * noise).clamp(-1, 1)
    blurred = blur(images, BLUR[0] + (BLUR[1] - BLUR[0]) * strength[:, 0, 0, 0])
    ghostly = torch.lerp(images, images.roll(1, 0), 0.2 + 0.3 * strength)
    ghosts = 0.75 if len(images) > 1 else 1.0
    return torch.where(kind < 0.5, noisy, torch.where(kind < ghosts, blurred, ghostly))


def hole(size: int, generator: torch.Generator) -> Tensor:
    """Where one picture is lost, bool [size,size]: a few boxes, a stroke, or all but a part of it."""
    kind, *numbers = torch.rand(9, generator=generator).tolist()
    place = (torch.arange(size) + 0.5) / size
    lost = torch.zeros(size, size, dtype=torch.bool)

    def box(x: float, y: float, width: float, height: float) -> Tensor:
        return ((place - y).abs() < height / 2)[:, None] & ((place - x).abs() < width / 2)

    if kind < 0.5:
        for x, y in torch.rand(1 + int(3 * numbers[0]), 2, generator=generator).tolist():
            lost |= box(x, y, 0.1 + 0.4 * numbers[1], 0.1 + 0.4 * numbers[2])
    elif kind < 0.8:  # what a brush leaves
        x0, y0, x1, y1, thick = numbers[:5]
        along = torch.linspace(0, 1, 2 * size)
        for t in along.tolist():
            bend = (numbers[5] - 0.5) * 4 * t * (1 - t)
            lost |= box(x0 + (x1 - x0) * t + bend, y0 + (y1 - y0) * t - bend, *[0.04 + 0.12 * thick] * 2)
    else:  # what lies beyond the edge
        lost = ~box(0.5 + (numbers[0] - 0.5) * 0.4, 0.5 + (numbers[1] - 0.5) * 0.4, *[0.5 + 0.4 * numbers[2]] * 2)
    return lost


def damage(images: Tensor, kinds: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """images [B,3,R,R] in -1..1, damaged by the `kinds` bool [B,6] that each has -> the same, and where they are known
    [B,1,R,R] (1; 0 in holes, where the picture is set to 0)."""

    def between(ends: tuple[float, float]) -> float:
        return ends[0] + (ends[1] - ends[0]) * float(torch.rand(1, generator=generator))

    results, known = [], torch.ones(len(images), 1, *images.shape[2:], device=images.device)
    for row, (image, own) in enumerate(zip(images, kinds.tolist())):
        own = dict(zip(KINDS, own))
        x = image[None]
        if own["deblur"]:
            x = blur(x, torch.tensor([between(BLUR)]))
        if own["enlarge"]:
            x = shrink(x, between(SHRINK))
        if own["colourise"]:
            x = grey(x)
        if own["denoise"]:
            noise = torch.randn(image.shape, generator=generator).to(x.device)
            x = (x + between(NOISE) * noise).clamp(-1, 1)
        if own["unjpeg"]:
            x = jpeg(x[0], int(between(QUALITY)))[None]
        if own["inpaint"]:
            known[row, 0] = (~hole(images.shape[2], generator)).to(known)
        results.append(x[0] * known[row])
    return torch.stack(results), known
