"""A slimmer GAN that draws as a trained one does: its student (knowledge distillation, Hinton et al. 2015, arXiv 1503.02531;
of a conditional GAN, Li et al. 2020, arXiv 2003.08936).

What reads (text encoder, mapping, memory of concepts, layouts) the student has from its teacher, as it is. What draws has fewer
channels, begins with those of the teacher's that count most, and is trained as any generator is (`trainer.py`), but that the
picture it is paired with is the teacher's of the same z and prompt: pixels and features can be matched exactly, and the
discriminator tells the student's pictures from the teacher's.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_gan
from ..data.folder import read_pictures
from ..data.scenes import compose
from ..gan import GAN, Card
from ..generator import Generator, GeneratorConfig
from .dataset import Batch, Dataset, build_dataset
from .run import (
    check_out,
    device_settings,
    frozen_features,
    judge_for,
    language_model_for,
    publish,
    publish_saved,
    read_training,
    report_skipped,
    training_config,
)
from .state import read_settings
from .trainer import TrainingConfig, train

DRAWS = ("canvas.", "scales.", "to_opacity.")  # the parameters that depend on the channels, all the others are the teacher's
FEWEST = 8  # channels of a scale, and what they are a multiple of
SHARE = 0.5  # of the channels, if nothing else is asked for
ADVERSARIAL_FROM = 0.7  # of the run, if nothing else is asked for: the student has the teacher's pictures to match until then


@dataclass(kw_only=True)
class Lessons(Dataset):
    """The captions of a `Dataset` with the teacher's pictures of them, drawn on the device that it is on."""

    teacher: Generator

    def draw(
        self, batch: int, generator: torch.Generator, rows: slice = slice(None), device: torch.device | str = "cpu"
    ) -> Batch:
        drawn = super().draw(batch, generator, rows, device)
        with torch.no_grad():
            images = self.teacher(drawn.z, drawn.tokens, drawn.pooled, drawn.mask, drawn.layout)
        return drawn._replace(images=images.clamp(-1, 1))


def slimmer(config: GeneratorConfig, share: float) -> GeneratorConfig:
    """With this share of the channels at every scale, rounded to a multiple of FEWEST."""
    if not 0 < share < 1:
        raise ValueError(f"A share of {share:g} of the channels makes no slimmer GAN: take one between 0 and 1, such as 0.5.")
    channels = tuple(min(max(round(share * c / FEWEST), 1) * FEWEST, c) for c in config.channels)
    if channels == config.channels:
        raise ValueError(f"A share of {share:g} leaves all of the channels {list(channels)}: take a smaller one.")
    return replace(config, channels=channels)


def prune(teacher: Generator, config: GeneratorConfig) -> Generator:
    """The generator of `config`, with those channels of `teacher` that the convolution after them weights most (Li et al. 2017,
    arXiv 1608.08710, §3.1, from the side of the reader: the writer's weights have no size, since they are demodulated)."""
    weights = teacher.state_dict()

    def keep(name: str, rows: Tensor | None, columns: Tensor | None = None) -> None:
        for choice, dimension in ((rows, 0), (columns, 1)):
            if name in weights and choice is not None:
                weights[name] = weights[name].index_select(dimension, choice)

    readers = [scale.conv0.weight for scale in teacher.scales[1:]] + [teacher.scales[-1].to_rgb.weight]
    before = None  # the channels that the scale before hands on
    for i, (scale, count, reader) in enumerate(zip(teacher.scales, config.channels, readers)):
        inner, outer = _strongest(scale.conv1.weight, count), _strongest(reader, count)
        if i == 0:  # each channel of the canvas is 16 rows
            keep("canvas.weight", (16 * inner[:, None] + torch.arange(16, device=inner.device)).flatten())
            keep("canvas.bias", (16 * inner[:, None] + torch.arange(16, device=inner.device)).flatten())
        for name in ("conv0.bias", "attention.out.weight", "attention.out.bias", "from_sketch.weight", "from_sketch.bias"):
            keep(f"scales.{i}.{name}", inner)
        keep(f"scales.{i}.conv0.weight", inner, before)
        keep(f"scales.{i}.attention.query.weight", None, inner)
        keep(f"scales.{i}.conv1.weight", outer, inner)
        keep(f"scales.{i}.conv1.bias", outer)
        keep(f"scales.{i}.to_rgb.weight", None, outer)
        for name in ("style.weight", "style.bias"):
            keep(f"scales.{i}.conv0.{name}", before)
            keep(f"scales.{i}.conv1.{name}", inner)
        before = outer
    keep("to_opacity.weight", None, before)
    student = Generator(config)
    student.load_state_dict(weights)
    return student


def _strongest(reader: Tensor, count: int) -> Tensor:
    """Of the input channels of a convolution [O,I,k,k] the `count` with the largest weights, in their order."""
    return reader.float().square().sum((0, 2, 3)).topk(count).indices.sort().values


def make_student(teacher: GAN, config: GeneratorConfig, name: str) -> GAN:
    """A GAN of `config` that begins with what `teacher` has; only what draws, and its discriminator, are to be trained."""
    card = Card(name, f"{teacher.card.data}, as {teacher.card.name} draws them", teacher.card.licenses)
    student = GAN(config, judge_for(config, teacher), teacher.recipe, card)
    student.condition_norm.load_state_dict(teacher.condition_norm.state_dict())
    student.generator = prune(teacher.generator, config)
    for parameter_name, parameter in student.generator.named_parameters():
        parameter.requires_grad_(parameter_name.startswith(DRAWS))
    if teacher.discriminator is None:
        student.discriminator.projected.features = frozen_features()
    else:
        student.discriminator.load_state_dict(teacher.discriminator.state_dict())
    return student


def distill_folder(
    teacher: Path,
    data: Path,
    out: Path,
    run: Path,
    *,
    share: float | None = None,
    dtype: torch.dtype = torch.float16,
    preset: str | None = None,
    settings: dict[str, Any] | None = None,
    resume: bool = False,
    llm: str | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 240.0,
    progress: Callable[..., None] | None = None,
) -> GAN:
    """Train a student of the checkpoint `teacher`, with this share of its channels (SHARE, or when resuming the run's own), on
    the captions of `data` and write it to `out` as `dtype` (int8: see `save_gan`).

    The rest is as in `train_folder`.
    Raises FileNotFoundError, FileExistsError or ValueError, in one sentence, before any long work.
    """
    check_out(out, run, resume, data)
    master = load_gan(teacher, device)
    if resume:
        shape = load_gan(run / "model.safetensors").generator.config
        if replace(shape, channels=master.generator.config.channels) != master.generator.config:
            raise ValueError(f"The run in {run} has another teacher than {teacher.name}: resume with that one.")
        if share is not None and slimmer(master.generator.config, share) != shape:
            raise ValueError(
                f"The student in {run} has the channels {list(shape.channels)}, not a share of {share:g}: resume it with its"
                " own."
            )
    else:
        shape = slimmer(master.generator.config, SHARE if share is None else share)
    examples, skipped = read_training(data)
    own = {"adversarial_from": ADVERSARIAL_FROM} | device_settings(device)
    own |= read_settings(run, TrainingConfig) if resume else {}
    config = training_config(preset, len(examples), own, settings or {})
    if config.scenes and not shape.things:
        raise ValueError(f"{teacher.name} draws no scenes: leave --scenes out.")
    model = language_model_for(master.recipe, llm, device)

    pictures = read_pictures(examples, master.resolution, run / "cache", progress)
    report_skipped(run, skipped + pictures.skipped)
    scenes = compose(pictures.examples, config.scenes) if config.scenes else []
    torch.manual_seed(config.seed)
    student = make_student(master, shape, out.stem)
    dataset = build_dataset(pictures, student, model, run / "cache", scenes, False, progress)
    del model
    lessons = Lessons(**{field.name: getattr(dataset, field.name) for field in fields(dataset)}, teacher=master.generator)
    try:
        trained = train(student, lessons, config, run, resume, device, save_every, progress=progress)
    except BaseException:
        publish_saved(run, dataset, out, dtype)
        raise
    publish(trained, dataset, out, dtype)
    return trained
