"""Seeing a picture back into the model: the latent from which a GAN draws it, by its encoder and by optimisation from there."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .condition import Condition
from .encoder import find
from .gan import GAN, Latent, check_ours, in_parts
from .generator import Text
from .pictures import fitted, from_network, masks, on_white, square, to_network
from .training.losses import feature_distances
from .tuples import each

# Adam's step of each part: one of the sketch's entries moves a few pixels, one of a style all of them.
RATES = {"z": 0.02, "style_shift": 0.01, "sketch_shift": 0.04}
FEATURES = 0.25  # weight of the feature distance beside the mean pixel error
LOUD = 2.0**10  # on the loss: Adam does not hear it, and gradients in fp16 do not vanish
Progress = Callable[[int, int, Tensor | None], bool | None]  # (done, total, pictures so far [B,H,W,3]); True stops


def check_encoder(gan: GAN) -> None:
    """ValueError, saying what to do, where `gan` cannot see pictures."""
    check_ours(gan)
    if gan.discriminator is None:
        raise ValueError(
            f"The GAN {gan.card.name} was saved without its discriminator, through which it sees: load one with it."
        )


def check_steps(gan: GAN, steps: int) -> None:
    """ValueError, saying what to do, where `gan` sees pictures by optimisation alone and is given no steps of it."""
    if gan.encoder is None and not steps:
        raise ValueError(
            f"The GAN {gan.card.name} has no encoder, so it sees pictures by optimisation: give steps, 100 or more."
        )


def see(gan: GAN, images: Tensor, text: Text, known: Tensor) -> tuple[Latent, Text]:
    """The latent that the encoder finds for images [N,3,R,R] in -1..1, in one pass, and `text`, what their prompts say, on the
    pictures' own backgrounds; all on the GAN's device. known [N,1,R,R] is 0 where a picture is lost.

    From a GAN without an encoder, the latent that the prompt gives with z = 0.
    """
    images = images * known
    if gan.encoder is not None:
        images, known = images.to(gan.dtype), known.to(gan.dtype)
        look = gan.discriminator.projected.look
        z, styles, sketch, text = find(gan.encoder.picture, gan.generator, look, images, known, text)
    else:
        config, things = gan.generator.config, text.vector.shape[1]
        z = torch.zeros(len(images), config.z_dim, device=gan.device)
        styles = z.new_zeros(len(z), things, gan.generator.num_styles, config.w_dim + config.text_dim)
        sketch = None
        if config.concepts:
            side = config.sketch_resolution
            sketch = z.new_zeros(len(z), things, config.sketch_channels + config.look_channels, side, side)
    background = F.pad(text.layout.background.float(), (1, 0), value=1.0) if gan.generator.config.things else None
    sketch = None if sketch is None else sketch.float()
    return Latent(z.float(), style_shift=styles.float(), sketch_shift=sketch, background=background), text


def draw(gan: GAN, latent: Latent, text: Text) -> Tensor:
    """Pictures [N,3,R,R] in about -1..1 of a latent on the GAN's device, on the background of `text`."""
    code = gan.generator.code(latent.z, text).shifted(latent.style_shift, latent.sketch_shift)
    return gan.generator.synthesize(code, text)


def invert(
    gan: GAN,
    images: Tensor,
    condition: Condition,
    mask: Tensor | None = None,
    steps: int = 0,
    progress: Progress | None = None,
    batch_size: int = 16,
) -> Latent:
    """The latent [N] from which `gan` draws images [N,H,W,1, 3 or 4] in 0..1, any size, those that are not square centred on
    white, given condition [N] or [1].

    The encoder finds it in one pass; `steps` of optimisation bring it nearer (minimising pixel and feature distance over z,
    style and sketch offsets, as Image2StyleGAN does, Abdal et al. 2019, arXiv 1904.03189, eq. 1). mask [N,H,W] or [1,H,W], of
    any size, is 1 where the picture is not to be looked at (`pictures.fitted` says what counts). Of every picture the best that
    was seen is kept.
    Runs `batch_size` at a time, in halves where memory runs out. `progress` is told how many steps of how many there are for
    all the pictures, and may return True to stop there; without steps, how many pictures of how many are seen.
    Raises ValueError where the GAN was saved without its discriminator, or has no encoder and is given no steps, or condition
    and images do not fit.
    """
    check_encoder(gan)
    check_steps(gan, steps)
    condition = for_images(gan, condition, len(images))
    target = to_network(on_white(images), gan.resolution).to(gan.device)
    known = torch.ones_like(target[:, :1])
    if mask is not None:
        check_mask(mask, len(images))
        lost = square(fitted(mask, *images.shape[1:3]).permute(0, 2, 3, 1), around=0.0)
        known = (to_network(lost, gan.resolution) == -1).to(target).expand_as(known)  # a pixel with no part in what is lost
    with torch.no_grad():
        text = gan.read(condition.to(gan.device))
    stopped, names = False, []

    def find_part(rows: slice) -> tuple[Tensor, ...]:
        nonlocal names

        def report(step: int, _: int, shown: Tensor | None) -> bool:
            nonlocal stopped
            count = rows.stop - rows.start
            stopped = bool(progress and progress(rows.start * steps + step * count, len(images) * steps, shown))
            return stopped

        with torch.no_grad():
            latent, own = see(gan, target[rows], each(lambda part: part[rows], text), known[rows])
        if steps and not stopped:
            latent = approach(gan, latent, own, target[rows], known[rows], steps, report)
        names = list(latent.tensors())
        return tuple(latent.tensors().values())

    found = in_parts(find_part, len(images), batch_size, None if steps else progress, gan.recordings.forget)
    return Latent.from_dict(dict(zip(names, found)))


def check_mask(mask: Tensor, count: int) -> None:
    """ValueError where `mask` is none as `masks` takes it, or neither one for all of `count` pictures nor one for each."""
    if (given := len(masks(mask))) not in (1, count):
        raise ValueError(f"{count} pictures and {given} masks: give one mask, or one for each picture.")


def for_images(gan: GAN, condition: Condition, count: int) -> Condition:
    """The condition of each of `count` pictures: prompt by prompt, as many of each, as several prompts are drawn. ValueError
    where they do not divide so."""
    gan.check(condition)
    if count % len(condition):
        raise ValueError(
            f"{count} pictures and {len(condition)} prompts: give one prompt, one for each picture, or as many pictures of"
            " each."
        )
    return condition.repeat(count // len(condition))


@torch.inference_mode(False)
@torch.enable_grad()
def approach(
    gan: GAN,
    latent: Latent,
    text: Text,
    target: Tensor,
    known: Tensor,
    steps: int,
    progress: Progress | None = None,
    observe: Callable[[Tensor], Tensor] = nn.Identity(),
) -> Latent:
    """`latent` brought nearer to target [N,3,R,R] where it is known [N,1,R,R], by `steps` of Adam; the best of each picture.

    `observe` makes of what is drawn, differentiably, what is seen of it: both are compared so.
    """
    # What inference mode made can take no part in a gradient: copies can.
    text, target, known = each(torch.clone, text), observe(target).clone(), known.clone()
    look = gan.discriminator.projected.look
    parts = {name: getattr(latent, name).clone().requires_grad_() for name in RATES if getattr(latent, name) is not None}
    optimizer = torch.optim.Adam([{"params": [part], "lr": RATES[name]} for name, part in parts.items()], betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    least = torch.full((len(target),), torch.inf, device=target.device)
    best = {name: part.detach().clone() for name, part in parts.items()}
    for step in range(steps + 1):  # the last only judges
        drawn = draw(gan, replace(latent, **parts), text)
        seen = observe(drawn)
        # What is not known is as drawn: no feature can tell it from the target.
        wanted = torch.lerp(seen.detach(), target, known)
        pixels = ((seen - target).abs() * known).mean((1, 2, 3)) / known.mean((1, 2, 3)).clamp(min=1e-3)
        with torch.no_grad():
            real = look(wanted.to(gan.dtype))
        fake = look(seen.to(gan.dtype))
        losses = pixels + FEATURES * feature_distances(fake, real).float()
        better = losses.detach() < least
        least = torch.where(better, losses.detach(), least)
        for name, part in parts.items():
            best[name][better] = part.detach()[better]
        if progress is not None:
            shown = from_network(drawn.detach()).cpu() if step % 10 == 0 or step == steps else None
            if progress(step, steps, shown):
                break
        if step == steps:
            break
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * (1 - 0.9 * step / steps)
        optimizer.zero_grad(set_to_none=True)
        (LOUD * losses.sum()).backward()
        optimizer.step()
    return replace(latent, **best)
