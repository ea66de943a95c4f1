"""From a folder of captioned pictures to a checkpoint: what `llm-gan train` runs."""

import io
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL.Image import Image

from ..checkpoint import DEFAULT_GAN, load_gan, save_gan
from ..condition import Recipe
from ..data.folder import Example, Skipped, read_folder, read_pictures
from ..data.scenes import MAX_THINGS, compose
from ..data.sentences import TINTS
from ..discriminator import DiscriminatorConfig
from ..features import EfficientNetLite
from ..gan import GAN, Card, check_ours
from ..generator import Generator, GeneratorConfig
from ..language.catalogue import DEFAULT_LANGUAGE_MODEL
from ..language.model import LanguageModel, has_bf16
from .dataset import Dataset, build_dataset, concepts_of
from .log import check_tensorboard
from .probes import probed, sample_sheet
from .reader import fit_looks, fit_memory, fit_reader
from .state import check_run, read_settings
from .trainer import TrainingConfig, train

log = logging.getLogger(__name__)

PREVIEW = (4, 4)  # captions down, latents across
MANY = 20  # pictures of one caption: of icons it has five or so, one for each style


def train_folder(
    data: Path,
    out: Path,
    run: Path,
    *,
    resolution: int | None = None,
    preset: str | None = None,
    settings: dict[str, Any] | None = None,
    resume: bool = False,
    start_from: Path | GAN | None = None,
    llm: str | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 240.0,
    tensorboard: bool = False,
    progress: Callable[..., None] | None = None,
    show: Callable[[Image], None] | None = None,
) -> GAN:
    """Train on the captioned pictures of `data` and write the checkpoint `out`; `run` keeps log, samples and state.

    `settings` are fields of `TrainingConfig` that differ from the preset, or when resuming from the run's own. Where nothing is
    said, a new run has the preset "balanced", the resolution and the language model of `start_from`, or else 64 pixels and the
    default one; a resumed run has its own. See `training_config` for a preset when resuming.
    `start_from` is a GAN, or its checkpoint, of the same language model, of this resolution or a smaller one to grow from: a
    new run begins with its weights, licences and count of pictures, and with room for what is new to it; without scenes it
    draws each prompt as one picture, whatever that GAN did; where it shows no pictures (0 images, to learn to read alone) it
    keeps its encoder. Started by `torchrun` or `accelerate launch`, the
    processes share every batch. Where `progress` raises, `out` receives the model as it was then.
    Raises FileNotFoundError, FileExistsError, ModuleNotFoundError or ValueError, in one sentence, before any long work.
    """
    check_out(out, run, resume, data)
    if tensorboard:
        check_tensorboard()
    begin = run / "model.safetensors" if resume else start_from
    start = load_gan(begin) if isinstance(begin, Path) else begin
    if start is not None:
        check_ours(start)
    if resume:
        if resolution not in (None, start.resolution):
            raise ValueError(f"The run in {run} draws {start.resolution} px, not {resolution}: resume it with that.")
    own = device_settings(device) | (read_settings(run, TrainingConfig) if resume else {})
    if resolution is None:
        resolution = 64 if start is None else start.resolution
    shape = GeneratorConfig.at(resolution)  # refuses a resolution it cannot draw
    examples, skipped = read_training(data)
    config = training_config(preset, len(examples), own, settings or {})
    if config.scenes:
        compose(examples, 1)  # refuses names it cannot make sentences of
        if resolution < 64:
            raise ValueError(f"Scenes of several things need 64 px or more, not {resolution}.")
        if resume and not start.generator.config.things:
            raise ValueError(f"The run in {run} was begun without scenes: resume it without, or begin another from its model.")
    if start is not None and start.resolution > resolution:
        raise ValueError(
            f"The checkpoint to start from draws {start.resolution} px: a GAN can grow to more, not to {resolution}."
        )
    features = frozen_features()
    if config.scenes and start is not None and not start.generator.config.concepts:
        raise ValueError("The checkpoint to start from has no memory of concepts, which scenes are made of: train a new GAN.")
    model = language_model_for(None if start is None else start.recipe, llm, device)

    if "RANK" in os.environ and not dist.is_initialized():
        own = torch.device(device) if torch.device(device).type == "cuda" else None  # or every process would talk by the first
        # One prepares the data while the others wait: of many pictures for longer than the half hour that gloo would wait.
        dist.init_process_group("nccl" if own else "gloo", timeout=timedelta(days=1), device_id=own)
    first = not dist.is_initialized() or dist.get_rank() == 0
    if not first:
        dist.barrier()  # the first process prepares the data, the others find it in the cache
        progress = show = None
    pictures = read_pictures(examples, resolution, run / "cache", progress)
    if first:
        report_skipped(run, skipped + pictures.skipped)
        _report(pictures.examples, resolution, config)
    begins = config.images > 0 and not resume  # to draw: where it goes on, or learns to read alone, z picks as it did
    scenes = compose(pictures.examples, config.scenes) if config.scenes else []
    if start is None:
        generator = replace(shape, token_dim=model.width, concepts=len(concepts_of(pictures.examples)), chooses=1, shown=1)
    else:
        generator = _grown(start.generator.config, shape, begins)
    if scenes:
        generator = replace(generator, things=MAX_THINGS, tints=generator.tints if resume else len(TINTS))
    elif begins:  # by what other sentences taught it, a reader would find two things in a caption of one
        generator = replace(generator, things=0, tints=0)
    torch.manual_seed(config.seed)
    card = Card(
        name=out.stem,
        data=f"{len(pictures.examples)} pictures of {data.resolve().name}",
        licenses=sorted({e.license for e in pictures.examples if e.license} | set(start.card.licenses if start else ())),
        images_seen=0 if start is None else start.card.images_seen,
    )
    gan = GAN(generator, judge_for(generator, start), start.recipe if resume else model.recipe(), card)
    if start is not None:
        _take_over(gan, start)
    gan.discriminator.projected.features = features
    dataset = build_dataset(pictures, gan, model, run / "cache", scenes, start is None, progress)
    if start is None:
        gan.generator.memory.remember(dataset.pooled, dataset.concepts)
    elif generator.concepts:
        _make_room(gan.generator, dataset, begins)
    if first and dist.is_initialized():
        dist.barrier()
    del model
    if not resume:
        if first:
            _teach(gan.generator, dataset, config, begins, device, progress)
        if dist.is_initialized():
            for weight in gan.generator.to(device).parameters():
                dist.broadcast(weight.data, 0)
    if generator.shown and begins:
        gan.generator.memory.shown.copy_(dataset.looks_of(gan.generator.memory))

    try:
        trained = train(gan, dataset, config, run, resume, device, save_every, tensorboard, progress, show)
    except BaseException:
        if first:
            publish_saved(run, dataset, out)
        raise
    if start is not None and not config.images and start.resolution == resolution:
        trained.encoder = start.encoder  # what draws has not changed, and so what it sees has not
    if first:
        publish(trained, dataset, out)
    return trained


def language_model_for(recipe: Recipe | None, llm: str | None, device: torch.device | str) -> LanguageModel:
    """The language model `llm`, or where that is None the one of a GAN's `recipe`, or the default one. ValueError where it does
    not read as that recipe says."""
    model = LanguageModel.load(llm or (recipe.model if recipe else DEFAULT_LANGUAGE_MODEL), device=device)
    if difference := recipe and recipe.difference(model.recipe()):
        raise ValueError(difference)
    return model


def _grown(known: GeneratorConfig, shape: GeneratorConfig, begins: bool) -> GeneratorConfig:
    """A generator of `known`, with the scales of the larger `shape`. One that `begins` to draw knows in which looks each
    concept is shown."""
    channels = known.channels + shape.channels[len(known.channels) :]
    remembers = int(known.concepts > 0)
    shown = remembers if begins else known.shown
    return replace(known, resolution=shape.resolution, channels=channels, chooses=remembers, shown=shown)


def _make_room(generator: Generator, dataset: Dataset, begins: bool) -> None:
    """Give what is new in `dataset` places in the memory of a generator that begins with another's; say so where a run goes on,
    whose memory stays as it is."""
    memory = generator.memory
    if begins:
        memory.make_room(dataset.pooled, dataset.concepts)
        generator.config = replace(generator.config, concepts=len(memory.keys))
    elif len(dataset.concepts) > len(memory.keys):
        log.warning(
            "The captions tell %d things apart, and the GAN has room for the %d of its training: start another run from it, "
            "and it makes room.", len(dataset.concepts), len(memory.keys),
        )  # fmt: skip


def _teach(
    generator: Generator, dataset: Dataset, config: TrainingConfig, begins: bool, device: torch.device | str, progress
) -> None:
    """All that `generator` learns from captions alone; what they mean only where it `begins` to draw, or what draws would not
    know what its memory does now."""
    if begins and generator.config.concepts:
        fit_memory(generator, dataset, config.seed, device)
        fit_looks(generator, dataset)
    if dataset.scenes:
        fit_reader(generator, dataset, config.seed, device, progress, anyway=not begins)


def read_training(data: Path) -> tuple[list[Example], list[Skipped]]:
    """What `read_folder` finds in `data`, without the held-out splits; ValueError where that leaves nothing."""
    examples, skipped = read_folder(data)
    examples = [example for example in examples if example.split == "train"]
    if not examples:
        raise ValueError(f"No picture of {data} is left to train on: every one belongs to a held-out split.")
    return examples, skipped


def device_settings(device: torch.device | str) -> dict[str, Any]:
    """How a training is run on `device` where nothing else is said: in bf16 where there are units that multiply it."""
    device = torch.device(device)
    if device.type == "cuda":
        return {"bf16": has_bf16(device)}
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # which an older torch cannot tell
    return {"bf16": device.type == "cpu" and bool(capabilities.get("amx_bf16"))}


def training_config(preset: str | None, pictures: int, own: dict[str, Any], given: dict[str, Any]) -> TrainingConfig:
    """For a folder of so many pictures: what is given, the rest a run's `own`, or of `preset` ("balanced" where it is None).

    A preset makes a run that has its own number of images longer, never shorter: what it has learnt would be past its end.
    """
    config = TrainingConfig.preset(preset or "balanced", pictures, **own | given)
    if preset is None or "images" in given:
        return config
    return replace(config, images=max(config.images, TrainingConfig.preset(preset, pictures).images))


def _report(examples: list[Example], resolution: int, config: TrainingConfig) -> None:
    """Say what a training is made of; captions that many pictures share tell those apart by chance only."""
    captions = Counter(example.captions for example in examples)
    log.info("%d pictures of %d captions, %d to be shown at %d px", len(examples), len(captions), config.images, resolution)
    names, most = captions.most_common(1)[0]
    if len(examples) > MANY * len(captions):
        log.warning(
            "%d pictures have %d different captions (%r %d times): let captions say what tells pictures apart, as a text file "
            "beside each does.", len(examples), len(captions), names[0], most,
        )  # fmt: skip


def report_skipped(run: Path, skipped: list[Skipped]) -> None:
    """List what was skipped, and why, in the folder of the run."""
    if skipped:
        listed = "".join(f"{path}: {reason}\n" for path, reason in skipped)
        (run / "skipped.txt").write_text(listed, encoding="utf-8", errors="backslashreplace")
        log.warning("%d files were skipped, listed with the reasons in %s", len(skipped), run / "skipped.txt")


def check_out(out: Path, run: Path | None = None, resume: bool = False, data: Path | None = None) -> None:
    """Raise unless the checkpoint `out`, and a `run` where there is one, can be written without a loss, and not among the
    pictures in `data`."""
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} should end in .safetensors: that is the one format written.")
    if run is not None:
        check_run(run, resume, data)
    if out.exists() and not resume:
        raise FileExistsError(f"{out} is there already: choose another name, or move it away.")


def publish(gan: GAN, dataset: Dataset, out: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `gan` to `out` as `dtype`, with captions of `dataset` to try and a preview of what it draws from them."""
    gan.card.prompts = [dataset.texts[caption] for caption in probed(dataset, PREVIEW[0])]
    png = io.BytesIO()
    sample_sheet(gan, dataset, *PREVIEW).save(png, "PNG")
    save_gan(gan, out, dtype, png.getvalue())


def publish_saved(run: Path, dataset: Dataset, out: Path, dtype: torch.dtype = torch.float16) -> None:
    """The same of what `run` saved last, if it came so far."""
    if (run / "model.safetensors").exists():
        publish(load_gan(run / "model.safetensors"), dataset, out, dtype)


def frozen_features() -> EfficientNetLite:
    """The network that the projected discriminator looks through; without its package, as the bundled GAN carries it,
    in fp16."""
    try:
        return EfficientNetLite.pretrained()
    except ModuleNotFoundError:
        return load_gan(DEFAULT_GAN).discriminator.projected.features


def judge_for(generator: GeneratorConfig, start: GAN | None) -> DiscriminatorConfig:
    """A discriminator for this generator: that of what a training begins with, or where that has none, the default one."""
    if start is None or start.discriminator is None:
        return DiscriminatorConfig(generator.resolution, generator.pooled_dim)
    return replace(start.discriminator.config, resolution=generator.resolution)


def _take_over(gan: GAN, other: GAN) -> None:
    """Copy the weights of `other` that have a place in `gan`: all, or where it draws smaller pictures those of its scales."""
    own = gan.state_dict()
    gan.load_state_dict({k: v for k, v in other.state_dict().items() if k in own and v.shape == own[k].shape}, strict=False)
