"""Looking at a GAN while it learns: what it draws from captions of its training, and whether it is well."""

import torch
from PIL.Image import Image
from torch import Tensor

from ..gan import GAN, in_parts
from ..pictures import contact_sheet, from_network
from .dataset import Dataset


def probed(dataset: Dataset, count: int) -> list[int]:
    """The captions that show what a GAN of `dataset` can do: names, and where there are scenes as many of those."""
    scenes = [scene.caption for scene in dataset.scenes[: count // 2]]
    pictures = torch.randperm(len(dataset.pictures), generator=torch.Generator().manual_seed(0))[: count - len(scenes)]
    return [int(dataset.plain[i][0]) for i in pictures.tolist()] + scenes


def probe(gan: GAN, dataset: Dataset, captions: int, latents: int) -> Tensor:
    """Pictures [captions·latents,3,R,R] in about -1..1: captions from the training data, each with the same few z."""
    rows = [row for row in probed(dataset, captions) for _ in range(latents)]
    random = torch.Generator().manual_seed(1)
    z = torch.randn(latents, gan.generator.config.z_dim, generator=random).repeat(len(rows) // latents, 1)
    z, *condition = (x.to(gan.device) for x in (z, *dataset.condition(rows)))

    def draw(part: slice) -> tuple[Tensor]:
        text = gan.generator.read(*(x[part] for x in condition))
        return (gan.generator.synthesize(gan.generator.code(z[part], text), text),)

    with torch.no_grad():  # a sheet at once would take more memory than the training that it is of
        size = gan.rows_at_once(None, drawing=True)
        return in_parts(draw, len(rows), size, None, gan.recordings.forget)[0]


def sample_sheet(gan: GAN, dataset: Dataset, captions: int, latents: int) -> Image:
    """Those pictures, one caption a row and one z a column."""
    return contact_sheet(from_network(probe(gan, dataset, captions, latents)), latents)


def vitals(gan: GAN, dataset: Dataset) -> dict[str, float]:
    """What dies first when training goes wrong: diversity over z (mean |Δ| between two z of one caption) and pixel range."""
    pairs = probe(gan, dataset, 16, 2)
    return {
        "diversity": (pairs[0::2].clamp(-1, 1) - pairs[1::2].clamp(-1, 1)).abs().mean().item(),
        "lowest": pairs.min().item(),
        "highest": pairs.max().item(),
    }
