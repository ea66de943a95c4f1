"""Painting a thing in the colour that the prompt gives it: shapes, shading, outlines and its other colours stay.

What a generator learns of a thing is learnt together with its usual colours, and to see every thing in every colour it would
need a training many times as long. That a colour is exchanged is exact, instead, and costs a fraction of a convolution: as in
colour transfer (Reinhard et al. 2001, "Color transfer between images"), but of the one colour that is most of the thing,
which mean shift finds (Fukunaga and Hostetler 1975), and by hue, so that the wheels of a red car stay black. It is
differentiable, and part of the generator: restoring and inverting see through it.
"""

import torch
from torch import Tensor

AT_ONCE = 8192  # pixels that a CPU paints at a time
SAMPLED = 32  # pixels to a side at which the colour of a thing is sought
STEPS, REACH = 6, 0.25  # of the mean shift, whose kernel has this deviation; colours are 0..1 here
VIVID = 0.09  # the chroma that counts twice as much as none: outlines and highlights are of no colour
COLOURED = (0.025, 0.07)  # chroma of a thing that is grey, and of one that has a colour
GREY = 0.07  # the chroma of what is painted in a thing that is grey
HUES = (0.5, 0.85)  # cosines between hues that differ, and that are the same
PALE = (0.02, 0.5)  # share of the thing's chroma that a pixel of no colour has, and one that is of its colour
DARKEST = 0.05  # luma that is told from black, and from white


def recolour(rgb: Tensor, opacity: Tensor, territories: Tensor | None, tints: Tensor) -> Tensor:
    """rgb [B,3,R,R] in -1..1 and its opacity [B,1,R,R]; how much of every pixel each of M things has, territories [B,M,R,R]
    (None: M = 1, all of it); for each thing how far it is given a colour, 0..1, and which, in -1..1, tints [B,M,4] -> rgb with
    those things in their colours. The others stay as they are, bit by bit."""
    if territories is None:
        territories = torch.ones_like(opacity)
    apart = max(rgb.shape[2] // SAMPLED, 1)
    sampled, seen = _unit(rgb[:, :, ::apart, ::apart]), opacity[:, :, ::apart, ::apart]
    things = []
    for i, tint in enumerate(tints[:, :, :, None, None].unbind(1)):
        share = tint[:, :1] * territories[:, i, None]
        own = main_colour(sampled, seen * share[:, :, ::apart, ::apart])
        things.append((share, luma_chroma(own), _unit(tint[:, 1:])))
    # A CPU's cache, and what it has of memory that was touched already, hold the steps between of some pixels, not of all.
    rows = rgb.shape[2] if rgb.device.type != "cpu" else max(AT_ONCE // (len(rgb) * rgb.shape[3]), 1)
    parts = []
    for top in range(0, rgb.shape[2], rows):
        part = rgb[:, :, top : top + rows]
        colours = _unit(part)
        luma, *chroma = luma_chroma(colours)
        vivid = length(*chroma)
        for share, (own_luma, *own_chroma), tint in things:
            share = share[:, :, top : top + rows] * belonging(*chroma, vivid, *own_chroma)
            part = torch.addcmul(part, share, painted(luma, own_luma, tint) - colours, value=2)
        parts.append(part)
    return torch.cat(parts, 2)


def given(rgb: tuple[int, int, int] | None) -> list[float]:
    """A row of tints: this colour, 0..255; or none."""
    return [0.0] * 4 if rgb is None else [1.0, *(value / 127.5 - 1 for value in rgb)]


def main_colour(colours: Tensor, share: Tensor) -> Tensor:
    """colours [B,3,R,R] of a thing that has this share of each pixel [B,1,R,R] -> the colour of most of it [B,3,1,1], grey
    counting for less."""
    near = weight = share * (length(*luma_chroma(colours)[1:]) + VIVID)
    for step in range(STEPS):
        found = (near * colours).sum((2, 3), keepdim=True) / near.sum((2, 3), keepdim=True).clamp(min=1e-6)
        near = weight * ((colours - found).square().sum(1, keepdim=True) / (-2 * REACH**2)).exp()
    return found


def belonging(cb: Tensor, cr: Tensor, vivid: Tensor, own_cb: Tensor, own_cr: Tensor) -> Tensor:
    """How far pixels of this chroma [B,1,R,R], and its length, are of a thing's main colour, whose chroma is [B,1,1,1], in any
    shade: 0..1 [B,1,R,R]."""
    own_vivid = length(own_cb, own_cr)
    along = (cb * own_cb + cr * own_cr) / own_vivid
    of_its_hue = _step(along / vivid, *HUES) * _step(along / own_vivid, *PALE)
    return torch.lerp((-(vivid / GREY).square()).exp(), of_its_hue, _step(own_vivid, *COLOURED))


def painted(luma: Tensor, own: Tensor, tint: Tensor) -> Tensor:
    """luma [B,1,R,R], that of a thing's main colour [B,1,1,1] and its tint [B,3,1,1] -> pixels [B,3,R,R] that go from black
    over the tint to white as the thing goes from black over its main colour to white."""
    own = own.clamp(DARKEST, 1 - DARKEST)
    return torch.minimum(luma, own) * (tint / own) + (luma - own).relu() * ((1 - tint) / (1 - own))


def luma_chroma(colours: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [B,3,H,W] -> Y in 0..1, Cb and Cr in -0.5..0.5 (ITU-R BT.601), [B,1,H,W] each."""
    red, green, blue = colours.split(1, 1)
    luma = torch.add(0.299 * red, green, alpha=0.587).add(blue, alpha=0.114)
    return luma, (blue - luma) / 1.772, (red - luma) / 1.402


def length(cb: Tensor, cr: Tensor) -> Tensor:
    """That of chroma, not quite 0; its gradient at grey is 0."""
    return torch.addcmul(cb * cb, cr, cr).clamp(min=1e-10).sqrt()


def _unit(rgb: Tensor) -> Tensor:
    return rgb.clamp(-1, 1).add(1).div(2)


def _step(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    x = ((x - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)
