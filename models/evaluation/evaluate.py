"""A GAN and a folder of captioned pictures -> every figure, beside its floor and its chance level."""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..condition import Condition
from ..data.folder import Example, read_folder, read_pictures
from ..data.scenes import compose
from ..features import EfficientNetLite
from ..gan import GAN, check_ours
from ..pictures import on_white, to_uint8
from ..tensors import cached_tensors
from .compositions import crops, judge_colours, judge_scenes, pictures_of, read_right, real_scenes
from .judge import VARIANT, Judge, Standard, captions_to_learn, counted, encode, look, train_judge
from .metrics import NEIGHBOURS, concept_ranks, kid, mean_difference, nearest, precision_recall, r_precision, sliced_wasserstein
from .questions import Row, questions
from .report import SHOWN, Group, write_report

STEPS = 500  # of the judge's training
MAX_PICTURES = 10_000  # of a split that are looked at
MOST_CAPTIONS = 2_000  # of a kind: their states are held in memory
REPEATS = 5  # random halves of the training pictures that those figures are averaged over
FEWEST = NEIGHBOURS + 2  # samples on each side
LATENTS = 4  # pictures of one caption, for diversity
LOOK_ALIKES = 3  # nearest training pictures shown


def open_folder(folder: Path, out: Path, captions: int) -> list[Example]:
    """The examples of `folder`, where they can be evaluated with these settings.

    Else FileNotFoundError or ValueError in one sentence, before anything is loaded.
    """
    if not 2 <= captions <= MOST_CAPTIONS:
        raise ValueError(f"{captions} captions of each kind: take from 2 to {MOST_CAPTIONS}.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder to write the evaluation to.")
    return _enough(read_folder(folder)[0])


def _enough(examples: list[Example]) -> list[Example]:
    if sum(example.split == "train" for example in examples) < 2:
        raise ValueError("There are fewer than two training pictures to judge by: give the folder that the GAN was trained on.")
    return examples


class _Meter:
    """Adds up what was done, for a progress bar."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int):
        self.progress, self.done, self.total = progress, 0, total

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def reach(self, done: int) -> None:
        """At least so much is done: what a cache held took no steps."""
        self(max(done - self.done, 0))


def evaluate(
    gan: GAN,
    model,
    examples: list[Example],
    out: Path,
    *,
    data: str = "",
    seed: int = 0,
    captions: int = 200,
    network: EfficientNetLite | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Judge `gan`, whose prompts the language model `model` reads, on `examples` (see `open_folder`), called `data`.

    Writes `evaluation.json`, `evaluation.md` and its sheets of pictures into `out`, keeps there what is slow to compute
    again (`cache`), and returns what the JSON holds. `captions` is how many of each kind are drawn. One seed gives the
    same figures on every run, speed apart; every draw is made on the CPU. `network` looks at the pictures
    (EfficientNet-lite1 with its ImageNet weights).
    Raises ModuleNotFoundError or ValueError, in one sentence, before any long work. Pictures that cannot be used are skipped.
    """
    check_ours(gan)
    network = (network or EfficientNetLite.pretrained(VARIANT)).to(gan.device)
    model.encode([""], gan.recipe, batch_size=1, progress=None)  # refuses a recipe that is not its own
    pictures, examples, skipped, opacity = read_pictures(_limit(examples, seed), gan.resolution)
    _enough(examples)
    rows = questions(examples, captions, seed)
    train = [i for i, example in enumerate(examples) if example.split == "train"]
    learn = captions_to_learn([examples[i] for i in train], seed)
    to_learn = sorted({text for texts in learn for text in texts})
    scenes, coloured = [], []
    if gan.generator.config.things > 1 and all(example.concept for example in examples):
        with suppress(ValueError):  # a folder without names to compose
            known = [examples[i] for i in train]
            # What is painted is no longer what a thing looks like: whether it is right is asked of things in their own colours.
            scenes = compose(known, 2 * captions, seed, held_out=True, tinted=0)
            coloured = compose(known, captions, seed, held_out=True, tinted=1) if gan.generator.config.tints else []
    to_ask = sorted({text for row in rows for _, text in row.pairs + row.real} | {scene.text for scene in scenes + coloured})
    drawn = sum(len(row.pairs) for row in rows) + 3 * len(scenes) + len(coloured)
    meter = _Meter(progress, len(to_learn) + len(to_ask) + len(examples) + STEPS + 2 * drawn)
    cache = out / "cache"

    asked = encode(to_ask, model, gan.recipe, cache, meter, tokens=True)
    learnt = encode(to_learn, model, gan.recipe, cache, meter, tokens=False)
    weights = torch.stack([w.cpu().double().sum() for w in network.parameters()]).sum().item()
    key = [VARIANT, repr(weights), str(gan.resolution), *(_stamp(e.path) for e in examples)]
    meter.reach(len(to_learn) + len(to_ask))
    raw = cached_tensors(cache / "features", key, lambda: {"features": look(pictures, network, meter)})["features"]
    meter.reach(len(to_learn) + len(to_ask) + len(examples))
    standard = Standard(raw[train])
    real = standard(raw)
    taught = {text: i for i, text in enumerate(to_learn)}
    own = [[taught[text] for text in texts] for texts in learn]
    true = [{taught[t] for t in _all_captions(examples[i]) if t in taught} for i in train]
    judge = train_judge(real[train], learnt, own, true, seed, meter, STEPS)

    place = {text: i for i, text in enumerate(to_ask)}

    def draw(texts: list[str], z: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pictures [N,3,R,R] and their standardised features [N,D]."""
        images, _ = gan.generate(asked[[place[text] for text in texts]], z, progress=counted(meter))
        made = _as_files(images)
        return made, standard(look(made, network, meter))

    made = [draw([text for _, text in row.pairs], gan.sample_z(seed, len(row.pairs))) for row in rows]

    concepts = _numbers([example.concept for example in examples])
    compositions, composed, colours, painted = {}, [], {}, []
    if scenes:
        members = pictures_of(scenes, examples)
        sentences = asked[[place[scene.text] for scene in scenes]]
        compositions["read"] = read_right(scenes, gan.read(sentences.to(gan.device)).layout)
        images, _ = gan.generate(sentences, gan.sample_z(seed, len(scenes)), progress=counted(meter))
        composed = [_as_files(images), real_scenes(scenes, members, pictures, opacity)]
        for kind, shown in zip(("generated", "real"), composed):
            found = standard(look(crops(scenes, shown), network, meter))
            compositions[kind] = judge_scenes(scenes, members, found, real, concepts)
    if coloured:
        sentences = asked[[place[scene.text] for scene in coloured]]
        images, _ = gan.generate(sentences, gan.sample_z(seed, len(coloured)), progress=counted(meter), transparent=True)
        painted = [_as_files(on_white(images))]
        members = torch.tensor(pictures_of(coloured, examples)).flatten()
        colours = {
            "generated": judge_colours(coloured, crops(coloured, _as_files(images))),
            "real": judge_colours(coloured, torch.cat([pictures[members], opacity[members]], 1)),
        }
    alignment = []
    means: dict[str, set[int]] = {}
    for example, concept in zip(examples, concepts.tolist()):
        for text in _all_captions(example) if concept >= 0 else ():
            means.setdefault(text, set()).add(concept)
    for row, (_, features) in zip(rows, made):
        n = min(len(row.pairs), captions)
        alignment.append({
            "captions": row.title, "script": row.script,
            "generated": _align(judge, examples, concepts, real, row.pairs[:n], features[:n], asked, place, means),
            "real": _align(judge, examples, concepts, real, row.real, real[[i for i, _ in row.real]], asked, place, means),
            "real_pictures": "held out" if row.unseen else "training",
            "shuffled": _align(judge, examples, concepts, real, row.pairs[:n], features[:n].roll(1, 0), asked, place, means),
        })  # fmt: skip
    held_out = [i for i, example in enumerate(examples) if example.split != "train"]
    diversity, diverse = _diversity(rows, examples, train, pictures, real, draw, gan, seed)
    groups = [Group("generated from training captions", *made[0])]
    held = next((k for k, row in enumerate(rows) if row.split != "train"), None)
    if held is not None:
        chosen = [i for i, _ in rows[held].pairs]
        groups.append(Group("generated from held-out captions", *made[held]))
        groups.append(Group("real pictures, held out", pictures[chosen], real[chosen]))

    result = {
        "model": {"name": gan.card.name, "resolution": gan.resolution, "images_seen": gan.card.images_seen,
                  "language_model": gan.recipe.model, "data": gan.card.data},
        "settings": {"seed": seed, "captions": captions, "features": f"EfficientNet-{VARIANT}", "data": data,
                     "training_pictures": len(train), "held_out_pictures": len(held_out), "skipped": len(skipped),
                     "concepts": len(set(concepts.tolist()) - {-1})},
        "distribution": _distribution(made[0][1], real, pictures, train, held_out, standard, network, seed),
        "alignment": alignment,
        "compositions": compositions,
        "colours": colours,
        "diversity": diversity,
        "memorisation": [_nearest(group, pictures[train], real[train]) for group in groups],
        "speed": _speed(gan, model, asked, rows[0].pairs[0][1], place),
    }  # fmt: skip
    meter.reach(meter.total)
    write_report(result, out, rows, made, pictures, diverse, groups, (scenes, composed), (coloured, painted))
    return result


def _as_files(images: Tensor) -> Tensor:
    """images [N,R,R,C] in 0..1 -> uint8 [N,C,R,R], as files would hold them."""
    return torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)


def _limit(examples: list[Example], seed: int) -> list[Example]:
    """At most MAX_PICTURES of each split, in their order."""
    kept = []
    for split in {example.split: None for example in examples}:
        members = [i for i, example in enumerate(examples) if example.split == split]
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))[:MAX_PICTURES]
        kept += [members[i] for i in order.tolist()]
    return [examples[i] for i in sorted(kept)]


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _all_captions(example: Example) -> set[str]:
    return {*example.captions, *example.keywords, *example.styled}


def _numbers(names: list[str]) -> Tensor:
    """A number for each name, -1 for none."""
    numbers = {name: i for i, name in enumerate(sorted(set(names) - {""}))}
    return torch.tensor([numbers.get(name, -1) for name in names])


def _align(
    judge: Judge, examples: list[Example], concepts: Tensor, real: Tensor, pairs: list[tuple[int, str]], features: Tensor,
    asked: Condition, place: dict[str, int], means: dict[str, set[int]],
) -> dict[str, float]:  # fmt: skip
    """R-precision and concept retrieval of pictures (their features [N,D]) that should show `pairs`; `means` says of every
    caption which concepts it is true of."""
    indices, texts = torch.tensor([i for i, _ in pairs]), [text for _, text in pairs]
    own = [_all_captions(examples[i]) for i in indices.tolist()]
    wrong = torch.tensor([[text not in captions for text in texts] for captions in own])
    concept = concepts[indices]
    wrong &= (concept[:, None] != concept[None]) | (concept < 0)[:, None]
    similarity = judge.see(features) @ judge.read(asked.pooled[[place[text] for text in texts]]).t()
    figures = {}
    if found := r_precision(similarity, wrong):
        figures |= {"r_precision": found.value, "distractors": found.distractors, "n": found.n}
    known = concepts >= 0
    if (concept >= 0).any():
        position = torch.cumsum(known, 0) - 1  # of a picture among those with a concept
        told = concept >= 0
        ranks = concept_ranks(features[told], real[known], concepts[known], concept[told], position[indices[told]])
        ranks = ranks[ranks > 0]
        if len(ranks):
            figures |= {"r@1": (ranks == 1).double().mean().item(), "r@10": (ranks <= 10).double().mean().item(),
                        "n_concept": len(ranks)}  # fmt: skip
            # A caption may mean several concepts, and a picture of any of them is right.
            asked_for = [(k, other) for k, text in enumerate(texts) if told[k] for other in sorted(means[text])]
            rows, wanted = torch.tensor(asked_for).t()
            each = concept_ranks(features[rows], real[known], concepts[known], wanted, position[indices[rows]])
            best = torch.full((len(texts),), len(concepts) + 1).scatter_reduce_(0, rows[each > 0], each[each > 0], "amin")
            figures["any@10"] = (best[best <= len(concepts)] <= 10).double().mean().item()
    return figures


def _distribution(
    fake: Tensor, real: Tensor, pictures: Tensor, train: list[int], held_out: list[int], standard: Standard,
    network: EfficientNetLite, seed: int,
) -> dict | None:  # fmt: skip
    """Each figure against training pictures, as (mean, deviation) over random halves of them: of generated pictures, of
    other training pictures (the floor), of held-out ones, and of blurred ones (known to be bad)."""
    n = min(len(fake), len(train) // 2)
    if n < FEWEST:
        return None
    random = torch.Generator().manual_seed(seed)
    figures: dict[str, dict[str, list[float]]] = {}
    for repeat in range(REPEATS):
        order = torch.tensor(train)[torch.randperm(len(train), generator=random)]
        reference, other = real[order[:n]], order[n : 2 * n]
        candidates = {"generated": fake[:n], "floor": real[other]}
        if len(held_out) >= FEWEST:
            rows = torch.tensor(held_out)[torch.randperm(len(held_out), generator=random)][:n]
            candidates["held_out"] = real[rows]
        if repeat == 0:
            blurred = standard(look(_blur(pictures[other]), network, lambda count: None))
        candidates["blurred"] = blurred
        for name, features in candidates.items():
            against = reference[: len(features)]
            values = figures.setdefault(name, {})
            values.setdefault("kid", []).append(kid(features, against))
            values.setdefault("sliced_wasserstein", []).append(sliced_wasserstein(features, against))
            precision, recall = precision_recall(features, against)
            values.setdefault("precision", []).append(precision)
            values.setdefault("recall", []).append(recall)
            values["n"] = len(features)
    return {
        name: {key: v if key == "n" else [statistics.fmean(v), statistics.stdev(v)] for key, v in values.items()}
        for name, values in figures.items()
    }


def _blur(pictures: Tensor) -> Tensor:
    """uint8 [N,3,R,R], of a quarter of the resolution."""
    small = F.avg_pool2d(pictures.float(), 4)
    return F.interpolate(small, scale_factor=4, mode="bilinear", align_corners=False).round().byte()


def _diversity(
    rows: list[Row], examples: list[Example], train: list[int], pictures: Tensor, real: Tensor,
    draw: Callable[[list[str], Tensor], tuple[Tensor, Tensor]], gan: GAN, seed: int,
) -> tuple[dict | None, list]:  # fmt: skip
    """Mean |Δ| between pictures of one plain caption, generated from several z and real ones that share the caption, in
    pixels (0..1) and features; and [(caption, generated, real)] to show."""
    row = next((row for row in rows if row.split == "train" and row.kind == "captions"), None)
    if row is None:
        return None, []
    sharing: dict[str, list[int]] = {}
    for i in train:
        for text in examples[i].captions:
            sharing.setdefault(text, []).append(i)
    texts = list(dict.fromkeys(text for _, text in row.pairs))
    shared = [text for text in texts if len(sharing[text]) > 1]
    texts = (shared or texts)[:50]
    made, features = draw([text for text in texts for _ in range(LATENTS)], gan.sample_z(seed + 1, LATENTS * len(texts)))
    made, features = made.unflatten(0, (-1, LATENTS)), features.unflatten(0, (-1, LATENTS))
    groups = [sharing[text][: LATENTS * 2] for text in texts]

    def mean(sets: list[Tensor]) -> float:
        return statistics.fmean(mean_difference(x) for x in sets)

    def pixels(x: Tensor) -> Tensor:
        return x.float().div(255)

    figures = {"captions": len(texts), "latents": LATENTS,
               "generated": {"pixels": mean(list(pixels(made))), "features": mean(list(features))}}  # fmt: skip
    if shared:
        figures["real"] = {"pixels": mean([pixels(pictures[g]) for g in groups]), "features": mean([real[g] for g in groups])}
    if len(texts) > 1:
        first = [g[0] for g in groups]
        figures["real_of_other_captions"] = {
            "pixels": mean_difference(pixels(pictures[first])), "features": mean_difference(real[first])
        }  # fmt: skip
    return figures, [(text, m, pictures[g[:LATENTS]]) for text, m, g in zip(texts, made, groups)]


def _nearest(group: Group, pictures: Tensor, real: Tensor) -> dict:
    """How far the nearest training pictures are; gives the group its neighbours to show."""
    distances, found = nearest(group.features, real, LOOK_ALIKES)
    group.neighbours = pictures[found[:SHOWN]]
    return {"pictures": group.title, "distance": distances[:, 0].mean().item(), "median": distances[:, 0].median().item(),
            "n": len(distances)}  # fmt: skip


def _speed(gan: GAN, model, asked: Condition, text: str, place: dict[str, int]) -> dict:
    """Milliseconds a picture of the generator alone, and for one prompt to be encoded; medians."""

    def median(work: Callable[[], object], repeats: int) -> float:
        times = []
        for _ in range(repeats + 2):  # the first ones warm up
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times[2:])

    condition = asked[place[text]].repeat(16)
    z = gan.sample_z(0, 16)
    return {
        "device": str(gan.device), "dtype": str(gan.dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
        "batch_1": median(lambda: gan.generate(condition[:1], z[:1]), 9),
        "batch_16": median(lambda: gan.generate(condition, z), 5) / 16,
        "encode": median(lambda: model.encode([text], gan.recipe, batch_size=1, progress=None), 5),
    }  # fmt: skip
