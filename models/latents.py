"""Design with latents: mixing, walking, averaging, varying and moving along directions, as pure functions of `Latent`s.

Everything here works on what a generator draws from, never on pictures, and is deterministic. Edits of styles are written as
`style_shift`, so that an edited latent can be drawn with any prompt.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import ImageColor
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .checkpoint import NUMBERS
from .condition import Condition
from .data.scenes import MAX_THINGS
from .data.sentences import CHINESE, ENGLISH, RGB
from .gan import LATENT_DIMENSIONS, AnyGAN, Latent
from .tensors import save_tensors
from .tint import given

RANGES = {"coarse": (4, 8), "middle": (16, 32), "fine": (64, math.inf)}  # pixels of the convolutions, as StyleGAN divides them
EASINGS = ("linear", "smooth")
PER_THING = ("style_shift", "look_shift", "sketch_shift", "tints")  # parts of a latent that tell things apart
LATENT_FILE = ".latent.safetensors"
FORMAT_VERSIONS = ("1", "2")  # a file says the latter only where it holds a look_shift: older versions read others
MOST = 4096  # latents of one file or walk


def layers_of(generator: nn.Module, ranges: Sequence[str]) -> list[int]:
    """The style layers in some of RANGES; "all" is every one. ValueError for another name,
    and where the GAN has none of them."""
    if unknown := sorted(set(ranges) - {*RANGES, "all"}):
        raise ValueError(f"There is no range {unknown[0]!r} of layers: there are {', '.join(RANGES)} and all.")
    spans = [RANGES[name] if name != "all" else (0, math.inf) for name in ranges]
    found = [i for i, pixels in enumerate(generator.style_resolutions) if any(low <= pixels <= high for low, high in spans)]
    if ranges and not found:
        most = max(generator.style_resolutions)
        raise ValueError(
            f"This GAN has no {' and '.join(ranges)} layers, its finest are of {most} px: take coarser ones, or all."
        )
    return found


def mix(content: Latent, style: Latent, layers: Sequence[int], look: bool = True, strength: float = 1.0) -> Latent:
    """`content` [N] with the styles of `style` [N] or [1] in these layers (style mixing, StyleGAN, Karras et al. 2019, arXiv
    1812.04948, §3.1), and with `look` the sketch in its look; strength goes from content (0) to style (1), and beyond it.

    Both must have been drawn, since the styles are those that they were drawn with. ValueError where they were not. With the
    prompt and the truncation of `content` the mix is drawn as it says.
    """
    style = _fitted(style, len(content), "styles")
    if content.styles is None or style.styles is None:
        raise ValueError("Styles are mixed as they were drawn: draw both latents first, with the Conditional GAN Generator.")
    if not 0 <= strength <= 2:
        raise ValueError(f"A strength of {strength:g}: give from 0 to 2.")
    shift = torch.zeros_like(content.styles)
    shift[:, layers] = strength * (style.styles - content.styles)[:, layers]
    changed = {"style_shift": _added(content.style_shift, shift[:, None])}
    if look and content.looks is not None and style.looks is not None and content.looks.shape[1]:
        changed["look_shift"] = _added(content.look_shift, strength * (style.looks - content.looks)[:, None])
    return replace(content, **changed, styles=None, looks=None)


def _added(own: Tensor | None, shift: Tensor) -> Tensor:
    """What shifts a latent that may be shifted already."""
    return shift if own is None else own + shift


def join(latents: Sequence[Latent]) -> Latent:
    """Latents one after the other; edits that some lack are none there, and without a background they have their prompts'.
    ValueError where they are of different GANs."""
    _check_alike(latents)
    joined = {"z": torch.cat([latent.z for latent in latents])}
    for name in PER_THING:
        shifts = [getattr(latent, name) for latent in latents]
        if there := [shift for shift in shifts if shift is not None]:
            most, shape = _things_of(there), there[0].shape[2:]
            joined[name] = torch.cat([_of_things(shift, len(latent), most, shape) for shift, latent in zip(shifts, latents)])
    if any(latent.background is not None for latent in latents):
        behind = [torch.zeros(len(latent), 4) if latent.background is None else latent.background for latent in latents]
        joined["background"] = torch.cat(behind)
    return Latent(**joined)


def interpolate(keys: Latent, frames: int, spherical: bool = True, easing: str = "linear", loop: bool = False) -> Latent:
    """A walk of so many frames through keys [K], which it begins and (unless it is a loop, whose end joins its beginning)
    ends at.

    z goes along great circles where `spherical` (slerp, Shoemake 1985; White 2016, arXiv 1609.04468, for GANs), everything else
    straight. ValueError where there are fewer than two keys or frames.
    """
    first, last, share = _places(len(keys), frames, easing, loop)
    keys = replace(keys, styles=None, looks=None)
    parts = {name: _lerp(part[first], part[last], share) for name, part in keys.tensors().items()}
    if spherical:
        parts["z"] = _slerp(keys.z[first], keys.z[last], share)
    return Latent(**parts)


def travel(condition: Condition, frames: int, easing: str = "linear", loop: bool = False) -> Condition:
    """Conditions of so many frames along the prompts of condition [K], as `interpolate` walks along latents."""
    first, last, share = _places(len(condition), frames, easing, loop)
    return between(condition[first], condition[last], share)


def between(a: Condition, b: Condition, share: Tensor) -> Condition:
    """Conditions [N] from a [N] (share 0) to b [N] (share 1), of one recipe and padded alike; share [N]."""
    # A token that only one of the two has keeps its meaning, which a mean with nothing would not have.
    weight = torch.where(b.mask, torch.where(a.mask, share[:, None], 1.0), 0.0)[:, :, None]
    mask = a.mask & (share < 1)[:, None] | b.mask & (share > 0)[:, None]
    choice = torch.where((a.pooled == b.pooled).all(1), 1.0, (2 * share - 1).abs())  # on the way to itself a prompt is itself
    return Condition(_lerp(a.tokens, b.tokens, weight), _lerp(a.pooled, b.pooled, share), mask, a.recipe, choice)


def average(latents: Latent, weights: Tensor | None = None) -> Latent:
    """The weighted mean of latents [N], as one: z is brought back to the mean length, since a mean of directions is shorter."""
    weights = torch.ones(len(latents)) if weights is None else weights.float()
    if len(weights) != len(latents) or not weights.sum() > 0 or weights.min() < 0:
        raise ValueError(f"{len(latents)} latents need as many weights, none below 0 and not all 0.")
    weights = weights / weights.sum()
    parts = replace(latents, styles=None, looks=None).tensors()
    parts = {name: torch.tensordot(weights, part, 1)[None] for name, part in parts.items()}
    length = weights @ latents.z.norm(dim=1)
    parts["z"] = parts["z"] * (length / parts["z"].norm().clamp(min=1e-6))
    return Latent(**parts)


def indices(text: str, count: int) -> list[int]:
    """ "0, 3, 5-7" -> [0, 3, 5, 6, 7]; -1 is the last of `count`. ValueError for anything else, or beyond."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(-?\d{1,6})(?:\s*-\s*(\d{1,6}))?", part)
        if match is None:
            raise ValueError(f"{part!r} is no place in a batch: write numbers and spans, as 0, 3, 5-7.")
        low = int(match[1]) + (count if match[1].startswith("-") else 0)
        high = low if match[2] is None else int(match[2])
        if not 0 <= low <= high < count:
            raise ValueError(f"There is no {part} in a batch of {count}, which are numbered from 0 to {count - 1}.")
        found += range(low, high + 1)
    if not found:
        raise ValueError("Nothing is picked: write numbers and spans, as 0, 3, 5-7.")
    return found


def vary(latent: Latent, count: int, strength: float, seed: int) -> Latent:
    """`count` variations of each of latent [N]: z' = √(1 - s²) z + s ε, ε ~ N(0,I), which keeps z's distribution (pCN; Cotter
    et al. 2013, arXiv 1202.0709, eq. 4.7). strength s: 0 is the latent itself, 1 has nothing of its z left; edits stay."""
    if not 0 <= strength <= 1:
        raise ValueError(f"A strength of {strength:g}: give from 0 to 1.")
    if count < 1:
        raise ValueError(f"{count} variations of each: give 1 or more.")
    many = replace(latent, styles=None, looks=None)[torch.arange(len(latent)).repeat_interleave(count)]
    noise = torch.randn(many.z.shape, generator=torch.Generator().manual_seed(seed))
    return replace(many, z=(1 - strength**2) ** 0.5 * many.z + strength * noise, prompts=latent.prompts)


@torch.no_grad()
def directions(gan: AnyGAN, method: str, layers: Sequence[int], count: int) -> Tensor:
    """Directions [count,style_dim] of the style that change a picture most, found without training: "sefa", the first
    eigenvectors of AᵀA, A being the weights by which the layers read their style (closed-form factorisation, Shen & Zhou 2021,
    arXiv 2007.06600, eq. 5), or "pca", the principal components of MLP(z) (GANSpace, Härkönen et al. 2020, arXiv 2004.02546).

    Each is as long as MLP(z) deviates from its mean, so that a strength of 1 is a usual step, and points where its largest
    entry is positive.
    """
    generator = gan.generator
    z = torch.randn(2048, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).to(gan.device)
    w = generator.style_of(z).cpu().double()
    spread = (w - w.mean(0)).norm(dim=1).mean()
    if method == "pca":
        vectors = torch.linalg.svd(w - w.mean(0), full_matrices=False)[2]
        vectors = torch.cat([vectors, vectors.new_zeros(len(vectors), generator.style_dim - w.shape[1])], 1)
    elif method == "sefa":
        weights = torch.cat([generator.style_weights(i).cpu().double() for i in layers])
        vectors = torch.linalg.eigh(weights.t() @ weights)[1].flip(1).t()
    else:
        raise ValueError(f"There is no method {method!r} of finding directions: there are sefa and pca.")
    if not 1 <= count <= len(vectors):
        raise ValueError(f"{method} finds from 1 to {len(vectors)} directions, not {count}.")
    vectors = vectors[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign() * spread).float()


def slide(latent: Latent, directions: Tensor, strengths: Tensor, layers: Sequence[int], num_styles: int) -> Latent:
    """latent [N] moved along directions [K,style_dim] by strengths [K] or [N,K] in these layers."""
    moved = strengths.expand(len(latent), -1) @ directions
    shift = moved.new_zeros(len(latent), 1, num_styles, directions.shape[1])
    shift[:, :, layers] = moved[:, None, None]
    return replace(latent, style_shift=_added(latent.style_shift, shift), styles=None, looks=None)


def colour_of(text: str) -> RGB:
    """The RGB of a colour by its name, the one in which the prompt would paint it, or as CSS writes it, "#36c" say. ValueError
    for anything else."""
    name = text.strip().lower()
    try:
        return {**ENGLISH.tints, **CHINESE.tints}.get(name) or ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ValueError(f"{text.strip()!r:.40} is no colour: write a name, as dark red, or #rrggbb.") from None


def paint(latent: Latent, things: Sequence[RGB | None], background: RGB | None = None) -> Latent:
    """latent [N] with things in these colours, in the order in which a prompt names them, one for all that there are or one for
    each, and on this background. None leaves what the prompt says, or was painted before.
    Its styles stay as they were drawn."""
    changed = {}
    if any(rgb is not None for rgb in things):
        own = torch.tensor([given(rgb) for rgb in things]).expand(len(latent), -1, -1)
        if latent.tints is not None:
            most = _things_of([own, latent.tints])
            own, before = (_of_things(tints, len(latent), most, tints.shape[2:]) for tints in (own, latent.tints))
            own = torch.where(own[:, :, :1] > 0, own, before)
        changed["tints"] = own
    if background is not None:
        changed["background"] = torch.tensor([given(background)]).expand(len(latent), -1)
    return replace(latent, **changed)


def colours(text: str) -> list[RGB | None]:
    """"red, -, #36c" -> the colours of things in the order in which a prompt names them, None for a dash.
    ValueError for another."""
    return [None if part.strip() in ("-", "") else colour_of(part) for part in re.split("[,，、]", text)]


def save_latent(latent: Latent, path: Path, gan: AnyGAN, note: str = "") -> Path:
    """Write `latent` as safetensors, with the name of its GAN and the recipe of its prompts; `note` may say what it is."""
    if path.exists():
        raise FileExistsError(f"{path} is there already: choose another name, or move it away.")
    metadata = {
        "llm_gan_latent": FORMAT_VERSIONS[latent.look_shift is not None],
        "gan": gan.card.name,
        "recipe": json.dumps(gan.recipe.to_dict()),
        "note": note,
        "prompts": str(latent.prompts),
    }
    tensors = latent.tensors()
    if latent.background is not None and (latent.background[:, 0] == 1).all():
        tensors["background"] = latent.background[:, 1:]  # as versions read it that know no share of one
    save_tensors({name: part.contiguous() for name, part in tensors.items()}, path, metadata)
    return path


def load_latent(path: Path) -> tuple[Latent, dict[str, str]]:
    """The latent in `path`, and its metadata. ValueError or FileNotFoundError, in one sentence,
    for anything that is not one."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no latent {path}.")
    try:
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            version = metadata.get("llm_gan_latent", "")
            if version.isdecimal() and version not in FORMAT_VERSIONS:
                raise ValueError(f"{path.name} was written by a newer LLM-GAN: update it.")
            if version not in FORMAT_VERSIONS or not {"z"} <= names <= LATENT_DIMENSIONS.keys():
                raise ValueError(f"{path.name} is no latent saved by LLM-GAN: take one from Save GAN Latent.")
            count, *_ = file.get_slice("z").get_shape() or [0]
            if not 1 <= count <= MOST:
                raise ValueError(f"{path.name} holds {count} latents: 1 to {MOST} can be read.")
            if odd := {file.get_slice(name).get_dtype() for name in names}.difference(NUMBERS):
                raise ValueError(f"{path.name} holds {min(odd)} numbers, of which no latent is made: save the latent again.")
            values = {name: file.get_tensor(name) for name in names}
            prompts = metadata.get("prompts", "1")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged or not a safetensors file ({error}): save the latent again.") from None
    if not all(value.is_floating_point() and torch.isfinite(value).all() for value in values.values()):
        raise ValueError(f"{path.name} holds values that are not finite, so it is damaged: save the latent again.")
    prompts = int(prompts) if prompts.isdecimal() else prompts
    return Latent.from_dict({**values, "prompts": prompts}), metadata


def _places(keys: int, frames: int, easing: str, loop: bool) -> tuple[list[int], list[int], Tensor]:
    """Of each frame the key before, the key after, and how far it is between them [frames]."""
    if keys < 2:
        raise ValueError(f"A walk needs two stops or more, not {keys}.")
    if not 2 <= frames <= MOST:
        raise ValueError(f"A walk of {frames} frames: give from 2 to {MOST}.")
    if easing not in EASINGS:
        raise ValueError(f"There is no easing {easing!r}: there are {', '.join(EASINGS)}.")
    legs = keys if loop else keys - 1
    place = torch.arange(frames, dtype=torch.float64) * legs / (frames if loop else frames - 1)
    leg = place.long().clamp(max=legs - 1)
    share = place - leg
    if easing == "smooth":
        share = share * share * (3 - 2 * share)
    return leg.tolist(), ((leg + 1) % keys).tolist(), share.float()


def _check_alike(latents: Sequence[Latent]) -> None:
    """ValueError where a part of latents has rows of different shapes, but for how many things they tell apart."""
    for name in LATENT_DIMENSIONS:
        parts = [part for latent in latents if (part := getattr(latent, name)) is not None]
        if len({part.shape[2 if name in PER_THING else 1 :] for part in parts}) > 1:
            raise ValueError(f"These latents are of different GANs, their {name} differ in shape: take those of one.")


def _lerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(a, b, share.reshape(*share.shape, *[1] * (a.ndim - share.ndim)))


def _slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Along the great circle from a to b [N,D], and straight in length."""
    one, other = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-8) for x in (a, b))
    angle = (one * other).sum(1, keepdim=True).clamp(-1, 1).acos()
    share = share[:, None]
    # Of nearly equal or opposite ends the plane is not defined, nor needed.
    straight = angle.sin() < 1e-4
    sine = angle.sin().clamp(min=1e-4)
    direction = torch.where(
        straight, torch.lerp(one, other, share), ((1 - share) * angle).sin() / sine * one + (share * angle).sin() / sine * other
    )
    return direction * torch.lerp(a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), share)


def _things_of(shifts: Sequence[Tensor]) -> int:
    """How many things shifts [N,M,...] together tell apart: all that there may be,
    where one is for every thing and another not."""
    counts = {shift.shape[1] for shift in shifts}
    return max(*counts, MAX_THINGS) if len(counts) > 1 and 1 in counts else max(counts)


def _of_things(shift: Tensor | None, count: int, things: int, shape: torch.Size) -> Tensor:
    """A shift of every thing, or of some, as one of `things`; none where it is None."""
    if shift is None:
        return torch.zeros(count, things, *shape)
    if shift.shape[1] == 1:
        return shift.expand(-1, things, *shape)
    missing = shift.new_zeros(count, things - shift.shape[1], *shape)
    return torch.cat([shift, missing], 1)


def _fitted(latent: Latent, count: int, what: str) -> Latent:
    if len(latent) not in (1, count):
        raise ValueError(f"{count} latents and the {what} of {len(latent)}: give one, or one for each.")
    return latent if len(latent) == count else latent[[0] * count]
