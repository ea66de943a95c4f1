"""The eyes of the evaluation: EfficientNet-lite1 features, and a judge of image and text trained apart from any GAN.

The discriminator looks through lite0 and is trained against the generator, so it may judge neither itself nor its pupil.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..condition import Condition, Recipe
from ..data.folder import Example
from ..features import EfficientNetLite
from ..gan import ConditionNorm
from ..tensors import cached_tensors

VARIANT = "lite1"
BOUND = 8.0  # standardised features beyond it are outliers of single channels
RATE = 2e-3  # of the judge's training, at its highest
POOLED_DIM = 256  # of the whitened captions that the judge reads
HIDDEN, EMBED = 512, 128  # its width, and that of the space in which pictures and captions meet


def look(pictures: Tensor, network: EfficientNetLite, progress: Callable[[int], None], batch_size: int = 32) -> Tensor:
    """uint8 pictures [N,3,R,R] -> features [N,D] on the CPU, at their own resolution.

    Each of the network's four maps (strides 4 to 32) is averaged in its four quadrants and all are joined: what is drawn
    and about where, from strokes to objects.
    """
    device = network.stem.weight.device
    parts = []
    with torch.no_grad():
        for part in pictures.split(batch_size):
            maps = network(part.to(device).float().div(127.5).sub(1))
            parts.append(torch.cat([F.adaptive_avg_pool2d(x, 2).flatten(1) for x in maps], 1).cpu())
            progress(len(part))
    return torch.cat(parts)


class Standard:
    """Features with the mean 0 and deviation 1 that they have over the training pictures: every channel counts alike."""

    def __init__(self, features: Tensor):
        self.mean, self.std = features.mean(0), features.std(0).clamp(min=1e-6)

    def __call__(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std).clamp(-BOUND, BOUND)


def counted(progress: Callable[[int], None]) -> Callable[[int, int], None]:
    """A callback of (done, total) that tells `progress` how many are newly done."""
    last = 0

    def report(done: int, _: int) -> None:
        nonlocal last
        progress(done - last)
        last = done

    return report


def encode(texts: list[str], model, recipe: Recipe, cache: Path, progress: Callable[[int], None], tokens: bool) -> Condition:
    """The conditions of `texts`, from `cache` if the same texts were read by the same recipe; without their tokens, where
    those are not asked for, the pooled states stand in."""

    def make() -> dict[str, Tensor]:
        condition = model.encode(texts, recipe, batch_size=32, progress=counted(progress))
        states = {"pooled": condition.pooled}
        return states | {"tokens": condition.tokens, "mask": condition.mask} if tokens else states

    found = cached_tensors(cache / ("prompts" if tokens else "captions"), [repr(recipe), *texts], make)
    pooled = found["pooled"]
    if not tokens:
        found |= {"tokens": pooled[:, None], "mask": torch.ones(len(pooled), 1, dtype=torch.bool)}
    return Condition(found["tokens"], pooled, found["mask"], recipe)


def captions_to_learn(examples: list[Example], seed: int) -> list[list[str]]:
    """For each example two captions: a plain one, and one that names its style or a keyword, where it has any."""
    random = torch.Generator().manual_seed(seed)

    def one(options: tuple[str, ...]) -> list[str]:
        return [options[int(torch.randint(len(options), (), generator=random))]] if options else []

    found = []
    for example in examples:
        kinds = [kind for kind in (example.styled, example.keywords) if kind]
        other = kinds[int(torch.randint(len(kinds), (), generator=random))] if kinds else ()
        found.append(one(example.captions) + one(other))
    return found


class Judge(nn.Module):
    """Pictures and captions in one space, where a picture lies near what may be said of it (CLIP: Radford et al. 2021,
    arXiv 2103.00020), as unit vectors [N,EMBED]."""

    def __init__(self, feature_dim: int, texts: Condition):
        super().__init__()
        self.whiten = ConditionNorm(texts.pooled.shape[1], min(POOLED_DIM, texts.pooled.shape[1]))
        self.whiten.fit(texts.tokens[texts.mask], texts.pooled)
        pooled_dim = self.whiten.whitening.shape[1]
        self.image = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(feature_dim, HIDDEN), nn.GELU(), nn.Dropout(0.3), nn.Linear(HIDDEN, EMBED)
        )
        self.text = nn.Sequential(nn.Dropout(0.2), nn.Linear(pooled_dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, EMBED))
        self.scale = nn.Parameter(torch.tensor(2.5))

    def see(self, features: Tensor) -> Tensor:
        return F.normalize(self.image(features), dim=1)

    def read(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.text(self.whiten(pooled[:, None], pooled)[1]), dim=1)


def train_judge(
    features: Tensor, texts: Condition, own: list[list[int]], true: list[set[int]], seed: int,
    progress: Callable[[int], None], steps: int, batch_size: int = 512,
) -> Judge:  # fmt: skip
    """A judge of standardised features [N,D] and captions: `own` are those of each picture to learn, `true` all of
    `texts` that may be said of it.

    Symmetric InfoNCE; a caption that is true of several pictures in the batch has as many positives, each with an equal
    share (SupCon: Khosla et al. 2020, arXiv 2004.11362, eq. 2). Runs on the CPU, so that it is the same on every run.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global generator
        torch.manual_seed(seed)
        judge = Judge(features.shape[1], texts)
        optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
        for _ in range(steps):
            rows = torch.randint(len(features), (min(batch_size, len(features)),), generator=random)
            which = torch.rand(len(rows), generator=random).tolist()
            captions = [own[i][int(u * len(own[i]))] for i, u in zip(rows.tolist(), which)]
            similarity = judge.see(features[rows]) @ judge.read(texts.pooled[captions]).t() * judge.scale.exp()
            match = _match([true[i] for i in rows.tolist()], captions)
            loss = -(match * similarity.log_softmax(1)).sum(1) / match.sum(1)
            loss = loss - (match * similarity.log_softmax(0)).sum(0) / match.sum(0)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            schedule.step()
            progress(1)
    return judge.requires_grad_(False).eval()


def _match(true: list[set[int]], captions: list[int]) -> Tensor:
    """1 where a caption (column) is true of a picture (row), else 0: [N,N]."""
    columns: dict[int, list[int]] = {}
    for column, caption in enumerate(captions):
        columns.setdefault(caption, []).append(column)
    match = torch.zeros(len(true), len(captions))
    for row, known in enumerate(true):
        match[row, [column for caption in known if caption in columns for column in columns[caption]]] = 1
    return match
