"""What the trainer draws batches from: pictures, the conditions of their captions, which caption may mean which picture,
and the scenes that are composed of them."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..condition import Recipe
from ..data.folder import Example, Pictures
from ..data.scenes import MAX_THINGS, Scene, paste
from ..data.sentences import RGB, WHITE, WHOLE
from ..gan import GAN
from ..language.model import LanguageModel
from ..layout import Layout
from ..memory import SHOWN_BEFORE, ConceptMemory
from ..tensors import cache_path, save_tensors
from ..tint import given

log = logging.getLogger(__name__)

STYLED = 0.5  # share of draws that use a caption naming the style, where a picture has one
KEYWORD = 0.12  # and a keyword: enough to learn what they hint at, but they mean too many pictures to learn drawing from
SCENES = 0.5  # share of draws that are scenes, where there are any
COLOURED = 0.5  # share of the pictures whose caption names no background that stand on one of any colour
LOOK_WEIGHT = 0.98  # of an anchor's energy, what pictures of one look share
PART = 2048  # captions that are encoded and kept at once: what an interrupted encoding loses at most
OTHERS = 64  # captions that the discriminator tells from a picture's own
AHEAD = 4  # batches that are made while a GPU works on one
MAX_CONCEPTS = 2048  # that a generator is given memory for

ALONE = torch.tensor([WHOLE])  # the boxes of a picture by itself,
UNTINTED = torch.zeros(1, 4)  # and the colours that it is given: none
HELD = 0.25  # of a GPU's free memory, that pictures may take which are kept there

T = TypeVar("T")


class Batch(NamedTuple):
    """B pairs: images [B,3,R,R] in -1..1, normalised tokens [B,T,C], pooled [B,P], mask [B,T], the z [B,z_dim] to use, the
    pooled vectors of other captions [K,P] and which of them are wrong of which picture [B,K], and where there are scenes the
    layout of the images."""

    images: Tensor
    tokens: Tensor
    pooled: Tensor
    mask: Tensor
    z: Tensor
    others: Tensor
    wrong: Tensor
    layout: Layout | None

    def to(self, device: torch.device | str) -> "Batch":
        *tensors, layout = self
        return Batch(*(x.to(device, non_blocking=True) for x in tensors), layout and layout.to(device))


class Ahead(Generic[T]):
    """`work(n)` for n, n+1, ...: where a GPU takes the next one, the following ones are made by threads meanwhile."""

    def __init__(self, work: Callable[[int], T], device: torch.device | str):
        self.work = work
        self.pool = None if torch.device(device).type == "cpu" else ThreadPoolExecutor(AHEAD)  # a CPU is busy as it is
        self._coming: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        if self.pool is None:
            return self.work(number)
        wanted = range(number, number + AHEAD + 1)
        self._coming = {n: self._coming.get(n) or self.pool.submit(self.work, n) for n in wanted}
        return self._coming.pop(number).result()

    def settle(self) -> None:
        """Wait for all that has been begun."""
        wait(self._coming.values())


class SceneRow(NamedTuple):
    """A scene by numbers: its caption, the captions of its things alone, their boxes [M,3], the RGB of its background, and the
    colours that its things are given, as in `Layout` [M,4]. Pictures are not painted in them: what a generator draws is only
    painted at last, exactly."""

    caption: int
    things: list[int]
    boxes: Tensor
    background: RGB
    tints: Tensor


@dataclass
class Dataset:
    pictures: Tensor  # uint8 [N,3,R,R]
    tokens: Tensor  # fp16 [tokens of all M captions,C], normalised
    ends: list[int]  # for each caption, where its tokens end
    pooled: Tensor  # fp32 [M,P], normalised
    plain: list[Tensor]  # for each picture, the captions that do not name its style,
    keywords: list[Tensor]  # its keywords,
    styled: list[Tensor]  # and the captions that name its style
    meant: list[Tensor]  # for each caption, the pictures it may mean
    anchors: Tensor  # [N,z_dim], unit vectors: where in z each picture lies
    texts: list[str]  # for each caption
    concepts: list[list[int]]  # captions that mean the same, named in every language and style,
    shows: list[int]  # and for each picture which of those it shows, -1: none
    opacity: Tensor  # uint8 [N,1,R,R]
    scenes: list[SceneRow]
    # Where z chooses among the concepts that a caption may mean: for each such caption a and b of every concept
    # (`ConceptMemory.chances`), and for each picture in `meant` which of those it shows.
    choices: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def choose_by(self, memory: ConceptMemory) -> None:
        """Let z choose among the concepts that a caption may mean as the generator with this memory does."""
        own = torch.tensor([*memory.rows_of(self.pooled, self.concepts), -1])
        for caption, meant in enumerate(self.meant):
            rows, shown = own[[self.shows[picture] for picture in meant.tolist()]].unique(return_inverse=True)
            if len(rows) > 1:
                logits, directions = memory.chances(self.pooled[caption], rows)
                self.choices[caption] = logits.masked_fill(rows < 0, -torch.inf), directions, shown

    def looks_of(self, memory: ConceptMemory) -> Tensor:
        """Which looks each concept of this memory is shown in [K,L]: 1 in these pictures, SHOWN_BEFORE where the memory has it
        from others; one without a picture as the memory has it."""
        own, shown = torch.tensor(self.shows), memory.shown.cpu().clone()
        rows, looks = torch.tensor(memory.rows_of(self.pooled, self.concepts)), self.anchors[:, : shown.shape[1]].argmax(1)
        shown[rows] = SHOWN_BEFORE * (shown[rows] > 0)
        shown[rows[own[own >= 0]], looks[own >= 0]] = 1
        return shown

    def hold(self, device: torch.device) -> None:
        """Keep the pictures on a GPU, if they take but a small part of its memory:
        to send them there takes as long as a step."""
        if device.type == "cuda" and self.pictures.nbytes + self.opacity.nbytes <= HELD * torch.cuda.mem_get_info(device)[0]:
            self.pictures, self.opacity = self.pictures.to(device), self.opacity.to(device)

    def draw(
        self, batch: int, generator: torch.Generator, rows: slice = slice(None), device: torch.device | str = "cpu"
    ) -> Batch:
        """These rows of a batch, on `device`; for a GPU padded to the same shapes, whatever is drawn. Where a caption may mean
        several pictures, z decides which is drawn: of the concept that the memory chooses by it, the one whose anchor it lies
        nearest.

        A paired loss teaches a generator to ignore z. Pairing z with a picture *before* the loss is taken, as conditional
        IMLE (Li et al. 2020, arXiv 2004.03590) does after, gives z something to say at no cost: since z ~ N(0,I) and the
        anchors are unit vectors, every picture has its share of the latent space, and pictures of one look share a region.
        """
        z = torch.randn(batch, self.anchors.shape[1], generator=generator)
        colours = torch.rand(batch, 3, generator=generator) * 2 - 1
        coloured = torch.rand(batch, generator=generator).tolist()
        subjects = self._subjects(batch, generator)
        others = [subject.caption for subject in self._subjects(OTHERS, generator)]
        backgrounds = torch.tensor([subject.background for subject in subjects]).div(127.5).sub(1)
        if self.scenes:
            anew = [i for i in range(batch) if subjects[i].background == WHITE and coloured[i] < COLOURED]
            backgrounds[anew] = colours[anew]
        captions, shown, layouts, wrong = [], [], [], []
        for i in range(batch)[rows]:
            subject = subjects[i]
            captions.append(subject.caption)
            pictures = [self._picture(caption, z[i]) for caption in subject.things]
            shown.append(pictures)
            layouts.append((self.pooled[subject.things], subject.boxes, backgrounds[i]))
            true = {subject.caption} | (self._captions(pictures[0]) if len(pictures) == 1 else set())
            wrong.append([other not in true for other in others])
        fixed = torch.device(device).type == "cuda"
        layout = Layout.stack(layouts, MAX_THINGS if fixed else 1) if self.scenes else None
        images = self._images(shown, layout, device)
        contrast = self.pooled[others], torch.tensor(wrong)
        condition = self.condition(captions, self.longest if fixed else 1)
        return Batch(images, *condition, z[rows], *contrast, layout).to(device)

    def _images(self, shown: list[list[int]], layout: Layout | None, device: torch.device | str) -> Tensor:
        """These pictures, or what they make where there are scenes; made on `device`,
        to which they pass as the bytes they are."""
        if layout is None:
            return self.pictures[[own for own, in shown]].to(device).float().div(127.5).sub(1)
        most = layout.boxes.shape[1]
        places = [pictures[i] if i < len(pictures) else 0 for pictures in shown for i in range(most)]
        return paste(*(x[places].to(device).unflatten(0, (-1, most)) for x in (self.pictures, self.opacity)), layout)

    def _picture(self, caption: int, z: Tensor) -> int:
        meant = self.meant[caption]
        if caption in self.choices:
            logits, directions, shown = self.choices[caption]
            meant = meant[shown == (logits + directions @ z).argmax()]
        return int(meant[(self.anchors[meant] @ z).argmax()])

    def _subjects(self, count: int, generator: torch.Generator) -> list[SceneRow]:
        """What is drawn of the captions of single pictures, or the scenes."""
        pictures = torch.randint(len(self.pictures), (count,), generator=generator).tolist()
        composed, kind, which = torch.rand(3, count, generator=generator).tolist()
        subjects = []
        for i in range(count):
            if self.scenes and composed[i] < SCENES:
                subjects.append(self.scenes[int(which[i] * len(self.scenes))])
            else:
                caption = self._caption(pictures[i], kind[i], which[i])
                subjects.append(SceneRow(caption, [caption], ALONE, WHITE, UNTINTED))
        return subjects

    def _captions(self, picture: int) -> set[int]:
        """All that may mean it."""
        return {caption for kind in (self.plain, self.keywords, self.styled) for caption in kind[picture].tolist()}

    def span(self, caption: int) -> slice:
        """The caption's rows of `tokens`."""
        return slice(self.ends[caption - 1] if caption else 0, self.ends[caption])

    @cached_property
    def longest(self) -> int:
        """Tokens of any caption."""
        return max(end - start for start, end in zip([0, *self.ends], self.ends))

    def condition(self, captions: list[int], least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised tokens [B,T,C], with T as many as the longest has, and at the `least` so many, pooled [B,P] and mask [B,T]
        of the captions."""
        own = [self.tokens[self.span(i)] for i in captions]
        tokens = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).float()
        tokens = F.pad(tokens, (0, 0, 0, max(least - tokens.shape[1], 0)))
        mask = torch.arange(tokens.shape[1]) < torch.tensor([[len(states)] for states in own])
        return tokens, self.pooled[captions], mask

    def _caption(self, picture: int, kind: float, which: float) -> int:
        options = self.plain[picture]
        if kind < STYLED and len(self.styled[picture]):
            options = self.styled[picture]
        elif kind > 1 - KEYWORD and len(self.keywords[picture]):
            options = self.keywords[picture]
        return int(options[int(which * len(options))])


def build_dataset(
    read: Pictures,
    gan: GAN,
    model: LanguageModel,
    cache: Path,
    scenes: Sequence[Scene] = (),
    fit: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The pictures, and scenes of them, with every caption encoded once as `gan` reads it (kept in `cache`), and its condition
    norm fitted to those of the pictures. A scene of which it would not read all is left out.

    `fit` is False where the norm comes from a run that goes on: whitening is unique up to a rotation only, and the networks
    have learnt that one.
    """
    examples = read.examples
    kinds = [[getattr(example, kind) for example in examples] for kind in ("captions", "keywords", "styled")]
    texts = sorted({text for kind in kinds for captions in kind for text in captions})
    alone = len(texts)
    index = {text: i for i, text in enumerate(texts)}
    said = {text for scene in scenes for text in (scene.text, *(thing.caption for thing in scene.things))}
    texts += sorted(said - index.keys())
    index |= {text: i for i, text in enumerate(texts)}
    recipe, config, norm = gan.recipe, gan.generator.config, gan.condition_norm
    tokens, lengths, pooled = _conditions(texts, model, recipe, cache, progress)
    longest = [text for text, length in zip(texts, lengths) if length == recipe.max_tokens]
    unread = {text: rest for text in longest if (rest := model.unread(text, recipe))}
    _warn_of_unread({text: rest for text, rest in unread.items() if index[text] < alone}, recipe)
    ends = lengths.cumsum(0).tolist()
    if fit:
        norm.fit(tokens[: ends[alone - 1]], pooled[:alone])
    states = torch.empty(tokens.shape, dtype=torch.float16)
    for part in range(0, len(tokens), PART):  # in fp32 they would take twice the room
        states[part : part + PART] = norm(tokens[part : part + PART], pooled[:1])[0]
    concepts = concepts_of(examples)
    number = {names: i for i, names in enumerate(concepts)}
    numbered = [[torch.tensor([index[text] for text in captions], dtype=torch.long) for captions in kind] for kind in kinds]
    meant: list[list[int]] = [[] for _ in texts]
    for picture, captions in enumerate(zip(*numbered)):
        for caption in torch.cat(captions).unique().tolist():
            meant[caption].append(picture)
    # Words with which names end, and which are no keyword, are none of the captions: a "moon" may be any of the moons.
    endings = {thing.caption for scene in scenes for thing in scene.things if not meant[index[thing.caption]]}
    for ending in endings:
        meant[index[ending]] = [
            i for i, own in enumerate(examples) if any(name.endswith(f" {ending}") for name in own.captions)
        ]
    return Dataset(
        read.pixels,
        states,
        ends,
        norm(tokens[:0], pooled)[1],
        *numbered,
        [torch.tensor(pictures) for pictures in meant],
        _anchors(examples, config.z_dim, config.looks),
        texts,
        [[index[text] for text in group] for group in concepts.values()],
        [number.get(example.captions, -1) for example in examples],
        read.opacity,
        [_row(scene, index) for scene in scenes if scene.text not in unread],
    )


def _warn_of_unread(ends: dict[str, str], recipe: Recipe) -> None:
    """Say of captions which ends of them are not read."""
    if ends:
        log.warning(
            "%d captions are longer than the %d tokens that are read, as %r, without its %r: let what tells pictures apart "
            "come first.",
            len(ends), recipe.max_tokens, *next(iter(ends.items())),
        )  # fmt: skip


def _row(scene: Scene, index: dict[str, int]) -> SceneRow:
    captions, boxes, tints = zip(*scene.things)
    tints = torch.tensor([given(tint) for tint in tints])
    return SceneRow(index[scene.text], [index[text] for text in captions], torch.tensor(boxes), scene.background, tints)


def concepts_of(examples: list[Example]) -> dict[tuple[str, ...], list[str]]:
    """The captions of every concept, by its plain ones: of all pictures that share them, those and the styled ones.

    A sample of MAX_CONCEPTS where there are more.
    """
    groups: dict[tuple[str, ...], set[str]] = {}
    for example in examples:
        groups.setdefault(example.captions, set()).update(example.captions, example.styled)
    kept = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))[:MAX_CONCEPTS].sort().values.tolist()
    found = [(names, sorted(texts)) for names, texts in groups.items()]
    return dict(found[i] for i in kept)


def _conditions(
    texts: list[str], model: LanguageModel, recipe: Recipe, cache: Path, progress
) -> tuple[Tensor, Tensor, Tensor]:
    """The raw states of `texts`, which differ: tokens [all,C] in bf16, how many each text has [M], pooled [M,C]; from `cache`
    as far as any file there holds them, read by this recipe, whatever other captions they were encoded with."""
    known = _known(cache, recipe)
    missing = [text for text in texts if text not in known]
    for start in range(0, len(missing), PART):
        part, before = missing[start : start + PART], len(texts) - len(missing) + start
        report = progress and (lambda done, _: progress(before + done, len(texts)))
        condition = model.encode(part, recipe, batch_size=32, progress=report)
        # fp16 would overflow on raw states; bf16 keeps the range and normalised training data need no more digits.
        tokens = condition.tokens[condition.mask].bfloat16()
        states = {"tokens": tokens, "lengths": condition.mask.sum(1), "pooled": condition.pooled}
        metadata = {"recipe": repr(recipe), "texts": json.dumps(part)}
        save_tensors(states, path := cache_path(cache / "conditions", [repr(recipe), *part]), metadata)
        known |= {text: (path, row) for row, text in enumerate(part)}
    return _gathered([known[text] for text in texts], recipe.width)


def _known(cache: Path, recipe: Recipe) -> dict[str, tuple[Path, int]]:
    """Of which texts the files in `cache` hold the states, read by this recipe: in which one, and at which place. Those that
    are damaged, or from before they named their texts, hold none."""
    known = {}
    for path in sorted(cache.glob("conditions-*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("recipe") != repr(recipe):
                    continue
                texts, total = json.loads(metadata["texts"]), int(file.get_tensor("lengths").sum())
                shapes = [file.get_slice(name).get_shape() for name in ("tokens", "lengths", "pooled")]
            if shapes == [[total, recipe.width], [len(texts)], [len(texts), recipe.width]]:
                known |= {text: (path, row) for row, text in enumerate(texts)}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            continue
    return known


def _gathered(places: list[tuple[Path, int]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The states of texts that lie in these files, at these places, as `_conditions` gives them."""
    wanted: dict[Path, tuple[list[int], list[int]]] = {}
    for number, (path, row) in enumerate(places):
        numbers, rows = wanted.setdefault(path, ([], []))
        numbers.append(number)
        rows.append(row)
    lengths, pooled = torch.empty(len(places), dtype=torch.long), torch.empty(len(places), width)
    for path, (numbers, rows) in wanted.items():
        with safe_open(path, "pt") as file:
            lengths[numbers], pooled[numbers] = file.get_tensor("lengths")[rows], file.get_tensor("pooled")[rows]
    tokens = torch.empty(int(lengths.sum()), width, dtype=torch.bfloat16)
    for path, (numbers, rows) in wanted.items():  # one after the other: at once they would take twice the room
        with safe_open(path, "pt") as file:
            tokens[_spans(lengths, numbers)] = file.get_tensor("tokens")[_spans(file.get_tensor("lengths"), rows)]
    return tokens, lengths, pooled


def _spans(lengths: Tensor, texts: list[int]) -> Tensor:
    """The rows of these texts' tokens, where those of all texts, of such lengths [M], lie one after the other."""
    own, starts = lengths[texts], (lengths.cumsum(0) - lengths)[texts]
    return torch.arange(int(own.sum())) + (starts - own.cumsum(0) + own).repeat_interleave(own)


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
        seed = int.from_bytes(hashlib.sha256(os.fsencode(example.path.name)).digest()[:6], "big")
        own = torch.randn(z_dim, generator=torch.Generator().manual_seed(seed))
        axis = torch.eye(z_dim)[look % looks]
        anchor.copy_(LOOK_WEIGHT**0.5 * axis + (1 - LOOK_WEIGHT) ** 0.5 * F.normalize(own, dim=0))
    return F.normalize(anchors, dim=1)
