"""From a folder of captioned pictures to a checkpoint: what `llm-gan train` runs."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from ..checkpoint import load_gan, save_gan
from ..data.folder import read_folder
from ..discriminator import DiscriminatorConfig
from ..features import EfficientNetLite
from ..gan import GAN, Card
from ..generator import GeneratorConfig
from ..language.catalogue import DEFAULT_LANGUAGE_MODEL
from ..language.model import LanguageModel
from ..pictures import contact_sheet, from_network
from .dataset import build_dataset, concepts_of
from .trainer import TrainingConfig, check_run, probe, read_state, train, under

PREVIEW = (4, 4)  # captions down, latents across


def train_folder(
    data: Path,
    out: Path,
    run: Path,
    *,
    resolution: int = 64,
    images: int = 300_000,
    batch_size: int = 8,
    seed: int = 0,
    resume: bool = False,
    start_from: Path | None = None,
    llm: str | None = None,
    progress: Callable[..., None] | None = None,
) -> GAN:
    """Train on the captioned pictures of `data` and write the checkpoint `out`; `run` keeps log, samples and state.

    `start_from` is a checkpoint of the same resolution and language model whose weights a new run begins with.
    Started by `torchrun`, the processes share the work: each draws its own batches and all average their gradients.
    Raises FileNotFoundError, FileExistsError or ValueError, in one sentence, before any long work.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} should end in .safetensors: that is the one format written.")
    check_run(run, resume)
    GeneratorConfig.at(resolution)  # refuses a resolution it cannot draw
    examples = read_folder(data)
    features = EfficientNetLite.pretrained()
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.manual_seed(seed)

    model = LanguageModel.load(llm or DEFAULT_LANGUAGE_MODEL)
    card = Card(
        name=out.stem,
        data=f"{sum(e.split == 'train' for e in examples)} pictures of {data.name}",
        licenses=sorted({e.license for e in examples if e.license}),
    )
    start = None if resume or start_from is None else load_gan(start_from)
    generator = GeneratorConfig.at(resolution, token_dim=model.width, concepts=len(concepts_of(examples)))
    if start is not None:
        generator = start.generator.config
    gan = GAN(generator, DiscriminatorConfig(resolution), model.recipe(), card)
    gan.discriminator.projected.features = features
    if resume:
        gan.condition_norm.load_state_dict(under("condition_norm.", read_state(run)))
    elif start is not None:
        _begin_with(gan, start, resolution)

    first = not dist.is_initialized() or dist.get_rank() == 0
    if not first:
        dist.barrier()  # the first process encodes the captions, the others find them in the cache
    dataset = build_dataset(
        examples,
        generator,
        model,
        gan.condition_norm,
        run / "cache",
        fit=not resume and start is None,
        progress=progress if first else None,
    )
    if not resume and start is None:
        gan.generator.memory.remember(dataset.pooled, dataset.concepts)
    if first and dist.is_initialized():
        dist.barrier()
    del model

    config = TrainingConfig(images=images, batch_size=batch_size, seed=seed)
    trained = train(gan, dataset, config, run, resume, progress=progress if first else None)
    if first:
        png = io.BytesIO()
        contact_sheet(from_network(probe(trained, dataset, *PREVIEW)), PREVIEW[1]).save(png, "PNG")
        save_gan(trained, out, preview=png.getvalue())
    return trained


def _begin_with(gan: GAN, other: GAN, resolution: int) -> None:
    """Copy the weights of `other` into `gan`. ValueError, in one sentence, where they are not of one kind."""
    difference = gan.recipe.difference(other.recipe)
    if difference:
        raise ValueError(f"The checkpoint to start from was trained with another language model. {difference}")
    if other.resolution != resolution or other.discriminator is None:
        raise ValueError(
            f"The checkpoint to start from draws {other.resolution} px and this run {resolution} px, or it was saved without "
            "its discriminator: start from one that fits, or from nothing."
        )
    gan.load_state_dict(other.state_dict())
