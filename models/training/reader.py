"""Teaching a generator to read, from captions alone, before a picture is drawn: what they mean, and layouts in sentences."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.sentences import CHINESE, ENGLISH, TINTS, WHITE, colour_in, is_chinese
from ..generator import LOUDNESS, Generator
from ..layout import Layout, LayoutReader, Reading
from ..tint import given
from .dataset import ALONE, Dataset, SceneRow

FINDS = 400  # batches of captions that the memory learns to find its concepts by: seconds
CAPTIONS = 1024  # in each, of which equal shares name the thing, its style too, or are keywords
NOISE = 0.5  # of the deviation of a caption's vector, so that what was not said in training is found as well,
UNSURE = 0.25  # and so that a style is
WISH = 14.0  # logit of the look that a caption asks for: louder than z says any
BATCH = 64
SORTED = 16  # batches whose sentences are drawn together, to be parted by length
ROUNDS = 6  # times that every scene is read: on one CPU core some minutes for ten thousand
TRIALS = 8  # batches that show whether a reader needs lessons at all:
UNDERSTOOD = 0.25  # not where its loss is below this, unless it is asked for nothing else
LEARNING_RATE = 1e-3
RIDGE = 0.01  # of the variance of a token's state
MEANING = 0.5  # weight of finding a thing's concepts in memory, beside the error of its pooled vector


def fit_memory(generator: Generator, dataset: Dataset, seed: int = 0, device: torch.device | str = "cpu") -> None:
    """Fit the query and the keys of `generator.memory` so that every caption finds what it may mean, a keyword all of that.

    Minimises the cross entropy between the weights of the concepts and the caption's own concepts, in equal parts. `remember`
    alone tells names well and finds half of the keywords; learnt along with pictures, each of them is met too rarely. The rows
    of the memory keep their places: a concept's row is the one that its captions find already.
    """
    memory = generator.to(device).memory
    pooled = dataset.pooled.to(device)
    rows = memory.rows_of(pooled, dataset.concepts)
    meant = [{rows[dataset.shows[picture]] for picture in own.tolist() if dataset.shows[picture] >= 0} for own in dataset.meant]
    kinds = (dataset.plain, dataset.styled, dataset.keywords)
    kinds = [sorted({caption for own in kind for caption in own.tolist() if meant[caption]}) for kind in kinds]
    kinds = [torch.tensor(kind) for kind in kinds if kind]
    if not kinds:
        return
    random = torch.Generator().manual_seed(seed)
    learnt = [memory.query.weight, memory.keys]
    optimizer = torch.optim.Adam(learnt, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, FINDS, pct_start=0.1)
    for _ in range(FINDS):
        size = CAPTIONS // len(kinds)
        captions = torch.cat([kind[torch.randint(len(kind), (size,), generator=random)] for kind in kinds])
        target = torch.zeros(len(captions), len(memory.keys))
        for row, caption in zip(target, captions.tolist()):
            row[list(meant[caption])] = 1 / len(meant[caption])
        noise = NOISE * torch.randn(len(captions), pooled.shape[1], generator=random)
        weights = memory(pooled[captions.to(device)] + noise.to(device))
        loss = -(target.to(device) * (weights + 1e-8).log()).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=learnt)
        optimizer.step()
        schedule.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def fit_looks(generator: Generator, dataset: Dataset) -> None:
    """Fit `generator.look_from_text` so that captions which name a style ask for its look, and all the others for none.

    Ridge regression, as if captions were disturbed. Learnt along with pictures, it overrules z in a quarter of the captions
    that name no style: they are then drawn in one look, and taught the picture of another.
    """
    look = dataset.anchors[:, : generator.config.looks].argmax(1).tolist()
    asking = {caption: look[i] for i, captions in enumerate(dataset.styled) for caption in captions.tolist()}
    others = {caption for kind in (dataset.plain, dataset.keywords) for captions in kind for caption in captions.tolist()}
    captions = [*asking, *sorted(others - asking.keys())]
    target = torch.zeros(len(captions), generator.config.looks, dtype=torch.float64)
    target[range(len(asking)), list(asking.values())] = WISH
    share = torch.ones(len(captions), 1, dtype=torch.float64)
    share[: len(asking)] = (len(captions) - len(asking)) / max(len(asking), 1)  # so that neither kind drowns the other
    layer = generator.look_from_text
    ridge = (UNSURE**2 * share.sum()).repeat(layer.in_features + 1)
    ridge[-1] = 1e-6
    _regress(layer, dataset.pooled[captions], target / LOUDNESS, ridge, share)


def _regress(layer: nn.Linear, inputs: Tensor, target: Tensor, ridge: Tensor, share: Tensor | float = 1.0) -> None:
    """Ridge regression: set `layer` so that it makes `target` [N,O] of `inputs` [N,I], rows counting as `share` [N,1] says and
    the weight of every input, and the bias, being held back by `ridge` [I+1]."""
    inputs = F.pad(inputs.double(), (0, 1), value=1.0)
    weighed = (share * inputs).t()
    solution = torch.linalg.solve(weighed @ inputs + ridge.diag(), weighed @ target.double())
    layer.weight.copy_(solution[:-1].t())
    layer.bias.copy_(solution[-1])


def fit_reader(
    generator: Generator,
    dataset: Dataset,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    anyway: bool = False,
) -> None:
    """Fit `generator.layout` to the scenes of `dataset`, and to as many captions of single pictures: `anyway`, or only where it
    does not understand them. `progress` is told how many sentences are read, of how many.

    Of every thing it learns the pooled vector that the language model gives to the caption of that thing alone, so that the
    rest of the generator reads each thing of a scene as it reads a prompt of one. The memory must have its keys.
    """
    reader = generator.to(device).layout
    singles = _singles(dataset)
    batches = _batches(dataset, (dataset.scenes, singles), torch.Generator().manual_seed(seed))

    def lesson() -> Tensor:
        """The loss of a batch, half of it scenes."""
        rows = next(batches)
        backgrounds = torch.tensor([row.background for row in rows]).div(127.5).sub(1)
        meant = [(dataset.pooled[row.things], row.boxes, colour, row.tints) for row, colour in zip(rows, backgrounds)]
        target = Layout.stack(meant)
        reading = reader(*(x.to(device) for x in dataset.condition([row.caption for row in rows])))
        return reading_loss(reading, target.to(device), generator)

    if reader.tints:
        reader.palette.copy_(torch.tensor([given(rgb)[1:] for _, rgb in TINTS.values()]))
    reader.eval()
    with torch.no_grad():
        if not anyway and sum(lesson().item() for _ in range(TRIALS)) < TRIALS * UNDERSTOOD:
            return
    _begin(reader, dataset, [row.caption for row in singles])
    optimizer = torch.optim.AdamW(reader.parameters(), LEARNING_RATE, (0.9, 0.98), weight_decay=0.01)
    steps = max(ROUNDS * len(dataset.scenes) // (BATCH // 2), 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.05)
    reader.train()
    for step in range(steps):
        loss = lesson()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(reader.parameters()))  # the memory, through which meaning is told, learns nothing here
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress((step + 1) * BATCH, steps * BATCH)
    reader.eval()


def _batches(dataset: Dataset, pools: Sequence[list[SceneRow]], random: torch.Generator) -> Iterator[list[SceneRow]]:
    """Batches without end, as much of each pool in every one, and within them captions of similar length: all are read at the
    width of the longest, which without it is three times the mean."""
    share = BATCH // len(pools)
    while True:
        drawn = [[pool[i] for i in torch.randint(len(pool), (SORTED * share,), generator=random).tolist()] for pool in pools]
        for own in drawn:
            own.sort(key=lambda row: len(dataset.tokens[dataset.span(row.caption)]))
        for start in (torch.randperm(SORTED, generator=random) * share).tolist():
            yield [row for own in drawn for row in own[start : start + share]]


def _singles(dataset: Dataset) -> list[SceneRow]:
    """The captions of single pictures as scenes; names that begin with a colour give it,
    for so does all else that begins so."""
    named = {caption for kind in (dataset.plain, dataset.styled) for captions in kind for caption in captions.tolist()}
    rows = []
    for i, meant in enumerate(dataset.meant):
        if len(meant):
            language = CHINESE if is_chinese(dataset.texts[i]) else ENGLISH
            rgb = colour_in(dataset.texts[i], language) if i in named else None
            rows.append(SceneRow(i, [i], ALONE, WHITE, torch.tensor([given(rgb)])))
    return rows


@torch.no_grad()
def _begin(reader: LayoutReader, dataset: Dataset, captions: list[int]) -> None:
    """Let words mean at first what linear regression finds: the pooled vector of a caption from the mean of its tokens.

    Pointing at the right words then pays from the first step; gradient descent alone takes ten times as many.
    """
    means = torch.stack([dataset.tokens[dataset.span(i)].float().mean(0) for i in captions])
    ridge = torch.full((means.shape[1] + 1,), RIDGE * len(means), dtype=torch.float64)
    _regress(reader.words_to_pooled, means, dataset.pooled[captions], ridge)
    reader.to_pooled[-1].weight.zero_()


def reading_loss(reading: Reading, layout: Layout, generator: Generator) -> Tensor:
    """How far a reading is from the layout that it should give."""
    there = layout.there
    most = there.shape[1]
    boxes = reading.boxes[torch.arange(len(there), device=there.device), there.sum(1) - 1, :most]
    found, meant = reading.pooled[:, :most][there], layout.pooled[there]
    weights = generator.memory(found).clamp(min=1e-8).log()
    meaning = F.kl_div(weights, generator.memory(meant), reduction="batchmean")
    coloured = (layout.background < 1).any(1)
    colour = (reading.colour - layout.background).abs().mean(1)
    tints = 0.0
    if reading.tints is not None:
        tinted, tint = layout.tints[there].tensor_split([1], 1)
        which = torch.where(tinted[:, 0] > 0, 1 + torch.cdist(tint, reading.palette).argmin(1), 0)
        tints = F.cross_entropy(reading.tints[:, :most][there], which)
    return (
        F.mse_loss(found, meant)
        + MEANING * meaning
        + 8 * F.smooth_l1_loss(boxes[there], layout.boxes[there], beta=0.1)
        + F.cross_entropy(reading.counts, there.sum(1) - 1)
        + F.binary_cross_entropy_with_logits(reading.coloured, coloured.float())
        + (colour * coloured).mean()
        + tints
    )
