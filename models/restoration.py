"""Mending pictures and giving them another style: the applications of a GAN that sees."""

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .condition import Condition
from .damage import KINDS, blur, blur_widely, enlarged, grey
from .gan import GAN, Latent
from .inversion import Progress, approach, check_encoder, check_mask, check_steps, draw, for_images, invert, see
from .latents import between, layers_of, mix
from .linear import without_tf32
from .pictures import fitted, from_network, margins, on_white

CONTEXT = 2.0  # times the hole's side, and times the GAN's: the least that is looked at around a hole, where there is as much
FAR, SEAM = 0.1, 0.02  # of the square's side, over which a hole's new content takes on the colours at its rim
EDGE = 0.2  # a step of this much at the rim, of pixels in -1..1, is rather an edge than a seam
KEEP = 0.25  # of a picture that is restyled: with more, pieces of its own shape stand beside those of the other style
LARGEST = 2048  # pixels, of a side of what is restored: of a picture, or where it only has holes, of a hole and what is around


def restore(
    gan: GAN,
    images: Tensor,
    condition: Condition,
    undo: Collection[str] = (),
    mask: Tensor | None = None,
    zoom: float = 1.0,
    steps: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """images [N,H,W,3] or [N,H,W,4] in 0..1 of any size, mended -> [N,zoom·H,zoom·W,3] in 0..1, fp32 on the CPU.

    undo names what spoils them, of `damage.KINDS`: noise ("denoise"), blur ("deblur"), a small size ("enlarge", implied by a
    zoom above 1), missing colour ("colourise"), traces of JPEG ("unjpeg"). mask [N,H,W] or [1,H,W], any size, is 1 where they
    are lost ("inpaint", implied): where nothing else is undone, all other pixels stay exactly as they are. The GAN sees the
    picture back into itself, guided by condition [N] or [1], with `steps` of optimisation on top, and the encoder's refiner
    mends the picture with what was drawn beside it; a GAN without an encoder fills holes by optimisation and mends nothing
    else. `progress` is told how many steps of how many there are for all the pictures, and may return True to stop: the picture
    that is worked on is mended from what was found, and those after it stay as they are, but for their size.
    Raises ValueError, in one sentence, where that cannot be done, before any work.
    """
    check_encoder(gan)
    kinds = _check(gan, images, undo, mask, zoom, steps)
    condition = for_images(gan, condition, len(images))
    images = on_white(images).float().cpu()
    height, width = (round(side * zoom) for side in images.shape[1:3])
    x = images.permute(0, 3, 1, 2) * 2 - 1
    if zoom != 1:
        x = enlarged(x, (height, width))
    lost = torch.zeros(len(x), 1, height, width)
    if mask is not None:
        lost = fitted(mask.cpu(), height, width).expand(len(x), -1, -1, -1)
    only_holes, least = kinds <= {"inpaint"}, int(CONTEXT * gan.resolution)
    squares = [(0, 0, max(height, width))] * len(x)
    if only_holes:
        squares = [_around(hole, least) if hole.any() else (0, 0, 0) for hole in lost[:, 0]]
        if (widest := max(side for *_, side in squares)) > LARGEST:
            raise ValueError(
                f"A hole of this mask, with what is around it, is {widest} pixels wide, more than {LARGEST}: cover less"
                " at a time, or give smaller pictures."
            )
    results, stopped = [], False
    for row, (top, left, side) in enumerate(squares):
        picture, hole = x[row : row + 1], lost[row : row + 1]

        def report(done: int, total: int, shown: Tensor | None = None, row: int = row) -> bool:
            nonlocal stopped
            stopped = bool(progress and progress(row * total + done, len(x) * total, shown))
            return stopped

        own = kinds if hole.any() else kinds - {"inpaint"}
        if side and not stopped:  # something is lost
            square, seen, back = _square(picture, 1 - hole, top, left, side)
            # Holes are filled at no more pixels than a GAN knows what to do with; what else is undone, at all that there are.
            size = min(max(side, gan.resolution), least) if only_holes else side
            mended = _mend(gan, square, seen, condition[[row]], own, size, steps, progress and report)
            if only_holes:  # so the known pixels are the truth
                blended = _match_rim(*(part.to(gan.device) for part in (mended, square, seen)))
                mended = torch.lerp(blended.cpu(), square, seen)
            picture = back(mended)
        results.append(picture)
        if not stopped:
            report(max(steps, 1), max(steps, 1))
    return from_network(torch.cat(results))


def _check(gan: GAN, images: Tensor, undo: Collection[str], mask: Tensor | None, zoom: float, steps: int) -> set[str]:
    """All that is to be undone; ValueError where it cannot be."""
    if not len(images):
        raise ValueError("There is nothing to restore: give one picture or more.")
    if unknown := sorted(set(undo) - set(KINDS)):
        raise ValueError(f"There is no way to undo {unknown[0]!r}: there are {', '.join(KINDS)}.")
    if not 1 <= zoom <= 8:
        raise ValueError(f"A zoom of {zoom:g}: give from 1 to 8.")
    if mask is not None:
        check_mask(mask, len(images))
    kinds = set(undo) | ({"inpaint"} if mask is not None else set()) | ({"enlarge"} if zoom > 1 else set())
    if "inpaint" in undo and mask is None:
        raise ValueError("To inpaint, a mask must say what is lost.")
    if kinds - {"inpaint"} and max(images.shape[1:3]) * zoom > LARGEST:
        raise ValueError(
            f"{images.shape[2]} x {images.shape[1]} pixels times {zoom:g} are more than {LARGEST} to a side: give smaller"
            " pictures."
        )
    if not kinds:
        raise ValueError(f"There is nothing to undo: give a mask, a zoom above 1, or some of {', '.join(KINDS[1:])}.")
    if gan.encoder is None and kinds - {"inpaint"}:
        raise ValueError(f"The GAN {gan.card.name} has no encoder, so it can only fill holes: llm-gan train-encoder makes one.")
    check_steps(gan, steps)
    return kinds


def _around(hole: Tensor, least: int) -> tuple[int, int, int]:
    """The square around hole [H,W], with CONTEXT and of `least` pixels, as far as the picture reaches: top, left and side."""
    rows, columns = hole.any(1).nonzero()[:, 0].tolist(), hole.any(0).nonzero()[:, 0].tolist()
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = min(max(math.ceil(CONTEXT * max(bottom - top, right - left)), least), max(hole.shape))
    start = [(low + high - side) // 2 for low, high in ((top, bottom), (left, right))]
    start = [min(max(at, 0), max(size - side, 0)) for at, size in zip(start, hole.shape)]
    return start[0], start[1], side


def _square(
    picture: Tensor, known: Tensor, top: int, left: int, side: int
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """picture [1,3,H,W] and known [1,1,H,W], of which a square is cut, what it lacks of one being filled with the border; and a
    function that puts such a square back."""
    height, width = picture.shape[2:]
    rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    before, _, above, _ = around = margins(tall, wide, side)
    square, seen = (F.pad(part[:, :, rows, columns], around, mode="replicate") for part in (picture, known))

    def back(mended: Tensor) -> Tensor:
        result = picture.clone()
        result[:, :, rows, columns] = mended[:, :, above : above + tall, before : before + wide]
        return result

    return square, seen, back


def _mend(
    gan: GAN, square: Tensor, known: Tensor, condition: Condition, kinds: set[str], size: int, steps: int, progress
) -> Tensor:
    """square [1,3,S,S], known [1,1,S,S], mended at `size` pixels and brought back to S."""
    side = square.shape[2]
    small, seen = (part.to(gan.device) for part in _resized(square, known, gan.resolution))
    with torch.no_grad():
        latent, text = see(gan, small, gan.read(condition.to(gan.device)), seen)
    if steps:
        # Else it would learn to draw in grey what is to be given colours.
        latent = approach(gan, latent, text, small, seen, steps, progress, grey if "colourise" in kinds else nn.Identity())
    with torch.no_grad():
        drawn = draw(gan, latent, text).clamp(-1, 1)
        if gan.encoder is None:
            return enlarged(drawn.float().cpu(), (side, side))
        base, held = (part.to(gan.device) for part in _resized(square, known, size))
        drawn = enlarged(drawn.float(), (size, size))
        refiner = gan.encoder.refiner
        pad = -size % refiner.step
        flags = torch.tensor([[float(kind in kinds) for kind in KINDS]], device=gan.device)
        base, drawn, held = (
            F.pad(part.float(), (0, pad, 0, pad), mode="replicate").to(gan.dtype) for part in (base, drawn, held)
        )
        mended = refiner(torch.where(held > 0, base, drawn), drawn, held, flags.to(gan.dtype)).float()
        mended = mended[:, :, :size, :size].clamp(-1, 1).cpu()
    return mended if size == side else enlarged(mended, (side, side))


def _resized(square: Tensor, known: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """square [1,3,S,S] and where it is known at `size` pixels; what is lost is left out of every mean."""
    if square.shape[2] == size:
        return square * known, known
    share, x = (
        F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)
        for part in (known, square * known)
    )
    seen = (share > 0.5).to(x)
    return x / share.clamp(min=1e-3) * seen, seen


@without_tf32()
def _match_rim(mended: Tensor, square: Tensor, known: Tensor) -> Tensor:
    """mended [1,3,S,S] with what its holes are lighter or darker than the picture beside them taken off, fading inwards: no
    seam. A step that is large is an edge of what is drawn, and stays."""
    hole, pixel = 1 - known, torch.tensor([1.0])
    for share, least in ((FAR, 1e-6), (SEAM, 0.05)):  # all through the hole, then what is left along its rim
        beside, within = (blur(x * at, pixel) / blur(at, pixel).clamp(min=1e-3) for x, at in ((square, known), (mended, hole)))
        step = beside - within
        rim = blur(known, pixel) * blur(hole, pixel) * torch.exp(-(step.square().mean(1, keepdim=True)) / EDGE**2)
        sigma = max(share * square.shape[2], 1.0)
        mended = mended + hole * blur_widely(step * rim, sigma) / blur_widely(rim, sigma).clamp(min=least)
    return mended.clamp(-1, 1)


def restyle(
    gan: GAN,
    images: Tensor,
    condition: Condition,
    style: Condition | Latent,
    strength: float = 1.0,
    keep: float = KEEP,
    steps: int = 0,
    progress: Progress | None = None,
    batch_size: int = 16,
) -> tuple[Tensor, Latent]:
    """images [N,H,W,3] or [N,H,W,4] in 0..1, those that are not square centred on white, drawn anew in another style ->
    [N,R,R,3] in 0..1, fp32 on the CPU, and the latent.

    condition [N] or [1] says what they show. style is the condition [N] or [1] of a prompt that names the style too ("a dog,
    noto style"), or the latent [1] or [N] of pictures in that style, whose look and finer styles are taken, as they were
    drawn; what was not drawn yet is, with condition. strength goes from
    the own style (0) to the other (1); keep says how much of what the picture has beyond its prompt stays, from nothing but
    the prompt drawn anew (0) to all of its shapes and colours (1). Runs `batch_size` at a time.
    Raises ValueError, in one sentence, before any work.
    """
    check_encoder(gan)
    for name, value in (("strength", strength), ("keep", keep)):
        if not 0 <= value <= 1:
            raise ValueError(f"A {name} of {value:g}: give from 0 to 1.")
    check_steps(gan, steps)
    count = len(images)
    condition = for_images(gan, condition, count)
    if isinstance(style, Latent):
        gan.check_latent(style)
        if len(style) not in (1, count):
            raise ValueError(f"{count} pictures and the styles of {len(style)}: give one style, or one for each picture.")
        style = style if len(style) == count else style[[0] * count]
        layers = layers_of(gan.generator, ["middle", "fine"])
    else:
        style = for_images(gan, style, count)
    own = invert(gan, images, condition, steps=steps, progress=progress, batch_size=batch_size)
    kept = 1 - strength * (1 - keep)
    shifted = replace(
        own,
        # A prompt's style is that of every layer: of its own the picture keeps none. A latent's is mixed in, in some layers.
        style_shift=own.style_shift * (kept if isinstance(style, Latent) else 1 - strength),
        sketch_shift=None if own.sketch_shift is None else own.sketch_shift * kept,
    )
    if isinstance(style, Latent):
        if style.styles is None:
            style = gan.generate(condition, style, batch_size=batch_size, progress=progress)[1]
        drawn = gan.generate(condition, shifted, batch_size=batch_size, progress=progress)[1]
        shifted = mix(drawn, style, layers, strength=strength)
    else:
        both = Condition.cat([condition, style])
        condition = between(both[:count], both[count:], torch.full((count,), strength))
    return gan.generate(condition, shifted, batch_size=batch_size, progress=progress)
