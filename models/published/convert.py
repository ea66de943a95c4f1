"""From the files in which GANs were published to a `PublishedGAN`, reading data and running nothing."""

import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from ..condition import Condition
from ..gan import Card
from ..language.catalogue import DEFAULT_LANGUAGE_MODEL
from ..language.model import LanguageModel
from ..pickles import Thing, read_pickle, reason
from ..pictures import contact_sheet
from ..training.run import check_out
from .checkpoint import architecture, as_stored, save_published
from .formats.biggan import biggan
from .formats.galip import TEXTS, galip
from .formats.nvidia import stylegan
from .formats.parts import READ
from .formats.rosinality import stylegan2
from .galip import GALIPGenerator
from .gan import Classes, PublishedDiscriminator, PublishedGAN
from .stylegan2 import StyleGAN2Discriminator

CLIP = "clip-vit-base-patch32"  # the language model of GALIP, by the usual name of its folder
Progress = Callable[[int, int], None]
PREVIEW = 4  # pictures
SAMPLES = 8  # of the generator, by which its discriminator's usual company is measured
# What pictures usually show, to measure realism by where the discriminator wants a text; the first are drawn for the preview.
CAPTIONS = (
    "a red bus on a street", "a bowl of fruit on a wooden table", "a mountain lake at sunset", "a brown dog on the beach",
    "a man riding a wave", "a cat on a sofa", "a plate of food", "a train at a station", "flowers in a vase", "a city at night",
    "a bedroom with a window", "a group of people in a park", "a horse in a field", "a painting of a ship",
    "a close-up of a face", "a boat on a river",
)  # fmt: skip


def convert(
    source: Path,
    out: Path,
    names: Sequence[str] = (),
    *,
    llm: str | Path | None = None,
    models: Mapping[str, Path] = MappingProxyType({}),
    licenses: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    progress: Progress = lambda done, total: None,
) -> PublishedGAN:
    """Write the GAN in the file `source` to `out`, what works on pixels as `dtype`.

    `names` are those of its classes in their order, several of one with commas between. `llm` is the language model that finds
    a prompt's class by them, or the CLIP that GALIP reads with; None takes the one of the usual name, of `models` or else of
    the catalogue.
    ValueError, FileNotFoundError or FileExistsError, in one sentence, where there is nothing that can be read, the names are
    not those of its classes, `dtype` cannot hold it, or `out` is there already or could not be opened by its name. `progress`
    is called for every picture that is drawn to know the discriminator's usual company and for the preview,
    and may raise to stop.
    """
    check_out(out)
    if (written := _text(str(out))) != str(out):
        raise ValueError(f"The name {written} is not Unicode, and its file could not be read again: choose another.")
    generator, judge = networks_of(source)
    rows = class_names(names)
    _check_names(rows, generator.config.classes, source)
    networks = {"generator": generator} | ({"discriminator": judge} if judge is not None else {})
    for name, tensor in nn.ModuleDict(networks).state_dict().items():
        as_stored(name, tensor, dtype)  # refused now, and not when all is done
    reads = isinstance(generator, GALIPGenerator)
    usual = CLIP if reads else DEFAULT_LANGUAGE_MODEL
    place = llm or models.get(usual, usual)
    model = _clip(generator, place) if reads else LanguageModel.load(place)
    recipe, classes = model.recipe(), None
    if rows:
        classes = Classes(rows, recipe.width)
        classes.learn(model.encode([name for row in rows for name in row], recipe))
    company = SAMPLES if judge is not None and judge.config.statistics else 0
    if company:
        _meet_company(judge, generator, lambda done, _: progress(done, company + PREVIEW))
    if reads and judge is not None:
        judge.usual.copy_(model.encode(CAPTIONS[:TEXTS], recipe).pooled)
    prompts = list(CAPTIONS[:PREVIEW]) if reads else [row[0] for row in rows[:: -(-len(rows) // PREVIEW) or 1]]
    gan = PublishedGAN(generator, judge, recipe, classes, Card(out.stem, licenses=list(licenses), prompts=prompts))
    gan.card.data = f"converted from {_text(source.name)}, {architecture(gan)}"
    read = model.encode(prompts or [""], recipe)
    save_published(gan, out, dtype, _preview(gan, read, lambda done, _: progress(company + done, company + PREVIEW)))
    return gan


def _text(name: str) -> str:
    """The name of a file in Unicode, which names from other systems may not be."""
    return os.fsencode(name).decode("utf-8", "replace")


def class_names(lines: Sequence[str]) -> list[list[str]]:
    """The names of each class, from a line each with commas between; lines without a name are none."""
    rows = ([name.strip() for name in line.split(",") if name.strip()] for line in lines)
    return [row for row in rows if row]


def _clip(generator: GALIPGenerator, place: str | Path) -> LanguageModel:
    """The language model that GALIP was trained with."""
    advice = (
        f"GALIP reads with CLIP ViT-B/32: put the folder openai/{CLIP} of Hugging Face among the language models, or name it."
    )
    try:
        model = LanguageModel.load(place)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no language model {str(place)!r}. {advice}") from None
    if model.width != generator.config.text:
        raise ValueError(f"{model.name} gives {model.width} numbers, and this GAN reads {generator.config.text}. {advice}")
    return model


def _check_names(rows: list[list[str]], classes: int, source: Path) -> None:
    if classes and not rows:
        raise ValueError(f"{source.name} draws {classes} classes: give a text of their names in their order, a class a line.")
    if len(rows) != classes:
        raise ValueError(f"{source.name} draws {classes or 'no'} classes, and {len(rows)} are named.")


@torch.no_grad()
def _meet_company(judge: StyleGAN2Discriminator, generator: nn.Module, progress: Progress) -> None:
    """Let the discriminator know how much the generator's pictures usually vary."""
    random, classes = torch.Generator().manual_seed(0), judge.config.classes
    z = torch.randn(SAMPLES, generator.config.z_dim, generator=random)
    label = torch.eye(classes)[torch.randint(classes, (SAMPLES,), generator=random)] if classes else torch.zeros(SAMPLES, 0)
    features, psi = [], torch.tensor(1.0)
    for i in range(SAMPLES):
        features.append(judge.features(generator.synthesize(generator.styles(z[[i]], label[[i]], psi), psi)))
        progress(i + 1, SAMPLES)
    groups = torch.cat(features).split(judge.config.group or SAMPLES)
    judge.usual.copy_(torch.stack([judge.spread(group) for group in groups]).mean(0))


def _preview(gan: PublishedGAN, condition: Condition, progress: Progress) -> bytes:
    """Pictures of the prompts as a PNG, to show what the GAN draws."""
    rows = [i * len(condition) // PREVIEW for i in range(PREVIEW)]
    pictures, _ = gan.generate(condition[rows], gan.sample_z(0, PREVIEW), 0.7, 1, progress)
    sheet, file = contact_sheet(pictures, 2), BytesIO()
    sheet.thumbnail((256, 256))
    sheet.save(file, "PNG")
    return file.getvalue()


def networks_of(path: Path) -> tuple[nn.Module, PublishedDiscriminator | None]:
    """The generator in `path`, and its discriminator where there is one that can be read. ValueError or FileNotFoundError, in
    one sentence, for what is none of READ."""
    found = read_pickle(path)
    try:
        if isinstance(found, dict) and isinstance(found.get("G_ema"), Thing):
            return stylegan(found["G_ema"], found.get("D"))
        if isinstance(found, dict) and isinstance(state := found.get("g_ema", found.get("g")), dict):
            return stylegan2(state, found.get("d"), found.get("latent_avg"))
        if isinstance(found, dict) and isinstance(networks := found.get("model"), dict) and "netG" in networks:
            return galip(networks)
        if isinstance(found, dict) and "generator.gen_z.weight_orig" in found:
            return biggan(found, path.with_name("config.json")), None
    except (KeyError, AttributeError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path.name} holds networks that are not built as {READ} are ({reason(error)}).") from None
    raise ValueError(f"{path.name} holds no GAN that can be converted: there are {READ}.")
