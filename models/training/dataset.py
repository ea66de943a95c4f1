"""What the trainer draws batches from: pictures, the conditions of their captions, and which caption may mean which picture."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..condition import Condition
from ..data.folder import Example, Pictures
from ..gan import ConditionNorm
from ..generator import GeneratorConfig
from ..language.model import LanguageModel
from ..tensors import cached_tensors

STYLED = 0.5  # share of draws that use a caption naming the style, where a picture has one
KEYWORD = 0.08  # and a keyword: enough to learn what they hint at, but they mean too many pictures to learn drawing from
LOOK_WEIGHT = 0.98  # of an anchor's energy, what pictures of one look share
MAX_CONCEPTS = 2048  # that a generator is given memory for


class Batch(NamedTuple):
    """B pairs: images [B,3,R,R] in -1..1, normalised tokens [B,T,C], pooled [B,P], mask [B,T], and the z [B,z_dim] to use."""

    images: Tensor
    tokens: Tensor
    pooled: Tensor
    mask: Tensor
    z: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(x.to(device, non_blocking=True) for x in self))


@dataclass
class Dataset:
    pictures: Tensor  # uint8 [N,3,R,R]
    tokens: Tensor  # fp16 [M,T,C], normalised
    pooled: Tensor  # fp32 [M,P], normalised
    mask: Tensor  # bool [M,T]
    plain: list[Tensor]  # for each picture, the captions that do not name its style,
    keywords: list[Tensor]  # its keywords,
    styled: list[Tensor]  # and the captions that name its style
    meant: list[Tensor]  # for each caption, the pictures it may mean
    anchors: Tensor  # [N,z_dim], unit vectors: where in z each picture lies
    texts: list[str]  # for each caption
    concepts: list[list[int]]  # captions that mean the same, named in every language and style

    def draw(self, batch: int, generator: torch.Generator, rows: slice = slice(None)) -> Batch:
        """These rows of a batch. Where a caption may mean several pictures, z decides which is drawn: the one whose anchor
        it lies nearest.

        A paired loss teaches a generator to ignore z. Pairing z with a picture *before* the loss is taken, as conditional
        IMLE (Li et al. 2020, arXiv 2004.03590) does after, gives z something to say at no cost: since z ~ N(0,I) and the
        anchors are unit vectors, every picture has its share of the latent space, and pictures of one look share a region.
        """
        chosen = torch.randint(len(self.pictures), (batch,), generator=generator).tolist()
        kind = torch.rand(batch, generator=generator).tolist()
        which = torch.rand(batch, generator=generator).tolist()
        z = torch.randn(batch, self.anchors.shape[1], generator=generator)
        captions, pictures = [], []
        for i in range(batch)[rows]:
            picture = chosen[i]
            options = self.plain[picture]
            if kind[i] < STYLED and len(self.styled[picture]):
                options = self.styled[picture]
            elif kind[i] > 1 - KEYWORD and len(self.keywords[picture]):
                options = self.keywords[picture]
            caption = int(options[int(which[i] * len(options))])
            meant = self.meant[caption]
            captions.append(caption)
            pictures.append(int(meant[(self.anchors[meant] @ z[i]).argmax()]))
        images = self.pictures[pictures].float().div(127.5).sub(1)
        return Batch(images, self.tokens[captions].float(), self.pooled[captions], self.mask[captions], z[rows])


def build_dataset(
    read: Pictures,
    config: GeneratorConfig,
    model: LanguageModel,
    norm: ConditionNorm,
    cache: Path,
    fit: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The pictures with every caption encoded once (kept in `cache`), and `norm` fitted to them.

    `fit` is False where `norm` comes from a run that goes on: whitening is unique up to a rotation only, and the networks
    have learnt that one.
    """
    examples = read.examples
    kinds = [[getattr(example, kind) for example in examples] for kind in ("captions", "keywords", "styled")]
    texts = sorted({text for kind in kinds for captions in kind for text in captions})
    index = {text: i for i, text in enumerate(texts)}
    condition = _conditions(texts, model, cache, progress)
    if fit:
        norm.fit(condition)
    tokens, pooled = norm(condition.tokens, condition.pooled)
    numbered = [[torch.tensor([index[text] for text in captions], dtype=torch.long) for captions in kind] for kind in kinds]
    meant: list[list[int]] = [[] for _ in texts]
    for picture, captions in enumerate(zip(*numbered)):
        for caption in torch.cat(captions).unique().tolist():
            meant[caption].append(picture)
    return Dataset(
        read.pixels,
        tokens.mul(condition.mask[:, :, None]).half(),
        pooled,
        condition.mask,
        *numbered,
        [torch.tensor(pictures) for pictures in meant],
        _anchors(examples, config.z_dim, config.looks),
        texts,
        [[index[text] for text in group] for group in concepts_of(examples)],
    )


def concepts_of(examples: list[Example]) -> list[list[str]]:
    """The captions of every concept: of all pictures with the same plain captions, those and the styled ones.

    A sample of MAX_CONCEPTS where there are more.
    """
    groups: dict[tuple[str, ...], set[str]] = {}
    for example in examples:
        groups.setdefault(example.captions, set()).update(example.captions, example.styled)
    kept = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))[:MAX_CONCEPTS].sort().values.tolist()
    found = [sorted(texts) for texts in groups.values()]
    return [found[i] for i in kept]


def _conditions(texts: list[str], model: LanguageModel, cache: Path, progress) -> Condition:
    """The raw conditions of `texts`, from `cache` if it holds exactly these texts read by this recipe."""
    recipe = model.recipe()

    def read() -> dict[str, Tensor]:
        condition = model.encode(texts, recipe, batch_size=32, progress=progress)
        # fp16 would overflow on raw states; bf16 keeps the range and normalised training data need no more digits.
        return {"tokens": condition.tokens.bfloat16(), "pooled": condition.pooled, "mask": condition.mask}

    stored = cached_tensors(cache / "conditions", [repr(recipe), *texts], read)
    return Condition(stored["tokens"].float(), stored["pooled"], stored["mask"], recipe)


def _anchors(examples: list[Example], z_dim: int, looks: int) -> Tensor:
    """A unit vector for each picture, for the most part the axis of its look; the rest tells pictures of one look apart.

    A look is a style, the most frequent first, or without styles the picture's place among those of the same captions.
    """
    counts = Counter(example.style for example in examples)
    styles = sorted(counts, key=lambda style: (-counts[style], style))
    places: Counter[tuple[str, ...]] = Counter()
    anchors = torch.empty(len(examples), z_dim)
    for anchor, example in zip(anchors, examples):
        look = styles.index(example.style) if example.style else places[example.captions]
        places[example.captions] += 1
        seed = int.from_bytes(hashlib.sha256(example.path.name.encode()).digest()[:6], "big")
        own = torch.randn(z_dim, generator=torch.Generator().manual_seed(seed))
        axis = torch.eye(z_dim)[look % looks]
        anchor.copy_(LOOK_WEIGHT**0.5 * axis + (1 - LOOK_WEIGHT) ** 0.5 * F.normalize(own, dim=0))
    return F.normalize(anchors, dim=1)
