"""A published GAN in a `.safetensors` file, beside those of our own: written once, by `llm-gan convert`, and read like them.

The metadata hold `published` (its architecture), `generator` and `discriminator` (their configs), `classes` (their names) and,
as in `..checkpoint`, `recipe`, `card` and `preview`. Every number is checked against a bound before a network is built, and
every tensor against the network.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from ..checkpoint import (
    PUBLISHED,
    fill,
    is_finite,
    json_object,
    laid_out,
    load_gan,
    metadata_of,
    read_card,
    read_metadata,
    unfilled,
)
from ..condition import Recipe
from ..gan import AnyGAN
from ..tensors import save_tensors
from .biggan import BigGANConfig, BigGANGenerator
from .galip import GALIPConfig, GALIPDiscriminator, GALIPDiscriminatorConfig, GALIPGenerator
from .gan import Classes, PublishedGAN
from .stylegan2 import StyleGAN2Config, StyleGAN2Discriminator, StyleGAN2DiscriminatorConfig, StyleGAN2Generator
from .stylegan3 import Layer, StyleGAN3Config, StyleGAN3Generator

FORMAT = "3"


class Architecture(NamedTuple):
    """What a GAN is built of; those whose discriminators were not published have none."""

    config: type
    generator: type
    judge_config: type | None = None
    judge: type | None = None


_STYLEGAN2_JUDGE = StyleGAN2DiscriminatorConfig, StyleGAN2Discriminator
ARCHITECTURES = {
    "StyleGAN2": Architecture(StyleGAN2Config, StyleGAN2Generator, *_STYLEGAN2_JUDGE),
    "StyleGAN3": Architecture(StyleGAN3Config, StyleGAN3Generator, *_STYLEGAN2_JUDGE),
    "BigGAN": Architecture(BigGANConfig, BigGANGenerator),
    "GALIP": Architecture(GALIPConfig, GALIPGenerator, GALIPDiscriminatorConfig, GALIPDiscriminator),
}
MOST = 65_536  # that any number of a config may be
LONGEST = 64  # entries of a list in it
# Of networks whose activations are clamped these run in the precision asked for, but for the styles within.
ON_PIXELS = ("generator.constant", "generator.scales.", "generator.layers.", "discriminator.from_rgb.", "discriminator.scales.")
# GALIP was trained in fp16 as a whole, and CLIP's eyes published in it: all its matrices are stored so, and run in fp32.
TRAINED_SO = (
    "generator.eyes.layers.",
    "generator.fusions.",
    "generator.words.",
    "discriminator.blocks.",
    "discriminator.last.",
)


def architecture(gan: PublishedGAN) -> str:
    return next(name for name, kind in ARCHITECTURES.items() if isinstance(gan.generator, kind.generator))


def save_published(gan: PublishedGAN, path: Path, dtype: torch.dtype = torch.float32, preview: bytes | None = None) -> Path:
    """Write `gan` to `path`, what works on pixels as `dtype`; `preview` is a PNG. Complete or not at all. ValueError, in one
    sentence, where `dtype` cannot hold it."""
    tensors = {name: as_stored(name, tensor, dtype) for name, tensor in gan.state_dict().items()}
    metadata = metadata_of(gan, FORMAT, gan.discriminator is not None, preview) | {PUBLISHED: architecture(gan)}
    if gan.classes is not None:
        metadata["classes"] = json.dumps({"names": gan.classes.names}, ensure_ascii=False)
    save_tensors(tensors, path, metadata)
    return path


def as_stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor `name` of a published GAN as a file of this `dtype` holds it. ValueError, in one sentence, where none can, so
    that it could not be read again."""
    kept = dtype if _on_pixels(name) or name.startswith(TRAINED_SO) else torch.float32
    stored = tensor.detach().to("cpu", kept).contiguous()
    if is_finite(stored):
        return stored
    if is_finite(tensor):
        raise ValueError(f"{name} of this GAN holds values beyond fp16: convert it without --half (node: half off).")
    raise ValueError(f"{name} of this GAN holds values that are not finite: fetch its file again, or take another GAN.")


def load(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> AnyGAN:
    """The GAN in `path`, ours or a published one, in eval mode. ValueError or FileNotFoundError, in one sentence, for anything
    that is not one."""
    metadata = read_metadata(path)
    if PUBLISHED not in metadata:
        return load_gan(path, device, dtype)
    if metadata[PUBLISHED] not in ARCHITECTURES:
        raise ValueError(f"{path.name} holds a GAN of another kind, {metadata[PUBLISHED]!r:.30}: update LLM-GAN.")
    kind = ARCHITECTURES[metadata[PUBLISHED]]
    config = _config(kind.config, metadata.get("generator"), path)
    judge = metadata.get("discriminator")
    if judge is not None:
        judge = None if kind.judge_config is None else _config(kind.judge_config, judge, path)
        if judge is None or not judge.suits(config):
            raise ValueError(f"{path.name}: its discriminator does not fit its generator.")
    recipe = Recipe.from_dict(json_object(metadata.get("recipe"), "recipe", path))
    if getattr(config, "text", recipe.width) != recipe.width:
        raise ValueError(f"{path.name} draws what {config.text} numbers say, and its recipe gives {recipe.width}.")
    names = _names(metadata, config.classes, path)
    with unfilled():
        classes = Classes(names, recipe.width) if names else None
        gan = PublishedGAN(kind.generator(config), judge and kind.judge(judge), recipe, classes, read_card(metadata, path))
    bounded = getattr(config, "clamp", 0) > 0

    def as_it_runs(name: str, tensor: Tensor) -> Tensor:
        return laid_out(name, tensor, dtype if bounded and _on_pixels(name) else torch.float32)

    fill(gan, path, device, as_it_runs)
    return gan.requires_grad_(False).eval()


def _on_pixels(name: str) -> bool:
    return name.startswith(ON_PIXELS) and ".style." not in name and not name.endswith(".gain")


def _names(metadata: dict[str, str], classes: int, path: Path) -> list[list[str]]:
    names = json_object(metadata.get("classes", '{"names": []}'), "classes", path).get("names")
    rows = names if isinstance(names, list) else [None]
    if not all(isinstance(row, list) and row and all(isinstance(name, str) for name in row) for row in rows):
        raise ValueError(f"{path.name}: the names of its classes are no lists of texts.")
    if len(rows) != classes:
        raise ValueError(f"{path.name} draws {classes} classes and names {len(rows)}.")
    return rows


def _config(kind: type, text: str | None, path: Path) -> Any:
    values = json_object(text, kind.__name__, path)
    if values.keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"{path.name}: its {kind.__name__} does not have the fields of this version.")
    try:
        config = kind(**{field.name: _value(values[field.name], field.type) for field in fields(kind)})
    except ValueError as error:
        raise ValueError(f"{path.name}: its {kind.__name__} holds {error}.") from None
    if not config.fits():
        raise ValueError(f"{path.name}: the numbers of its {kind.__name__} do not fit together.")
    return config


def _value(value: Any, kind: Any) -> Any:
    """The value of a field of this type: a number, or a list of numbers or of layers."""
    if kind is int:
        if type(value) is not int or abs(value) > MOST:
            raise ValueError(f"{str(value)[:60]} for a number")
        return value
    if not isinstance(value, list) or len(value) > LONGEST:
        raise ValueError(f"{str(value)[:60]} for a list")
    if kind is Layer:
        if len(value) != len(Layer._fields):
            raise ValueError(f"{str(value)[:60]} for a layer")
        return Layer(*(_value(number, int) for number in value))
    return tuple(_value(entry, get_args(kind)[0]) for entry in value)
