"""What each term of the training brings: train without one at a time, judge all alike, print docs/ablation.md's table.

    python tests/make_ablation.py ICONS --out DIR [--seeds 3] [--images 4000]

ICONS is the data set that `llm-gan icons` builds. Sixty of its things are taken in five styles each; of every thing one
style is held out. DIR keeps `runs.jsonl`, a line a run: what is there is not trained again.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from llm_gan.models.data.folder import Example, read_folder, read_pictures
from llm_gan.models.discriminator import DiscriminatorConfig
from llm_gan.models.evaluation.judge import Standard, captions_to_learn, encode, look, train_judge
from llm_gan.models.evaluation.metrics import concept_ranks, kid, mean_difference, r_precision
from llm_gan.models.features import EfficientNetLite
from llm_gan.models.gan import GAN
from llm_gan.models.generator import GeneratorConfig
from llm_gan.models.language.catalogue import DEFAULT_LANGUAGE_MODEL
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.pictures import to_uint8
from llm_gan.models.training.dataset import build_dataset, concepts_of
from llm_gan.models.training.reader import fit_memory
from llm_gan.models.training.trainer import Trainer, TrainingConfig

RESOLUTION, CONCEPTS, STYLES = 32, 60, 5
LATENTS = 4  # pictures of one caption
BASE = {"adversarial_from": 0.3, "warmup": 50}  # in so short a run D must begin early to matter at all
ROWS = {
    "everything": {},
    "no matching: D never learns captions": {"matching": 0.0, "guidance": 0.0},
    "no guidance: D learns them, G is not told": {"guidance": 0.0},
    "no raw-pixel D": {"raw": (0.0, 0.0)},
    "no projected D": {"adversarial": (0.0, 0.0)},
    "no D at all": {"adversarial_from": 1.0},
    "no paired features": {"paired": 0.0},
    "no paired pixels": {"pixel": 0.0},
    "nothing paired: D alone": {"paired": 0.0, "pixel": 0.0, "adversarial_from": 0.0},
    "no R1 + R2": {"penalty": 0.0},
}
COLUMNS = {  # figure: (head, digits)
    "r_precision": ("R-precision ↑", 2),
    "r_precision_held_out": ("of held-out pairs ↑", 2),
    "r@1": ("R@1 ↑", 2),
    "kid": ("KID ↓", 2),
    "match": ("D's match ↑", 2),
    "diversity": ("diversity", 2),
}


def subset(folder: Path) -> list[Example]:
    """CONCEPTS things that there are in all STYLES styles, drawn by a fixed seed; of the i-th thing style i is held out."""
    things: dict[str, list[Example]] = {}
    for example in read_folder(folder)[0]:
        if example.split == "train":
            things.setdefault(example.concept, []).append(example)
    whole = sorted(name for name, examples in things.items() if len(examples) == STYLES)
    if len(whole) < CONCEPTS:
        raise SystemExit(f"{folder} has {len(whole)} things in {STYLES} styles, {CONCEPTS} are needed: build it with llm-gan icons.")
    drawn = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:CONCEPTS].tolist()
    return [
        replace(example, split="test" if style == number % STYLES else "train", keywords=())
        for number, i in enumerate(drawn)
        for style, example in enumerate(sorted(things[whole[i]], key=lambda example: example.style))
    ]


class Bench:
    """The data of all runs, and the judge that saw the training pictures only."""

    def __init__(self, folder: Path, out: Path):
        pixels, self.examples, *_ = read_pictures(subset(folder), RESOLUTION)
        self.model, self.cache = LanguageModel.load(DEFAULT_LANGUAGE_MODEL), out / "cache"
        self.pixels, self.recipe = pixels, self.model.recipe()
        self.held = [i for i, example in enumerate(self.examples) if example.split == "test"]
        self.train = [i for i, example in enumerate(self.examples) if example.split == "train"]
        self.training = read_pictures([self.examples[i] for i in self.train], RESOLUTION)
        self.network = EfficientNetLite.pretrained("lite1")
        self.frozen = EfficientNetLite.pretrained()
        raw = look(pixels, self.network, silent)
        self.standard = Standard(raw[self.train])
        self.real = self.standard(raw)
        names = sorted({example.concept for example in self.examples})
        self.concepts = torch.tensor([names.index(example.concept) for example in self.examples])
        # Asked for: each picture by its first (English) styled caption, each thing by its name, which leaves the style to z.
        self.styled = [example.styled[0] for example in self.examples]
        self.plain = list(dict.fromkeys(example.captions[0] for example in self.examples))
        self.asked = encode([*self.styled, *self.plain], self.model, self.recipe, self.cache, silent, tokens=True)
        learn = captions_to_learn([self.examples[i] for i in self.train], 0)
        texts = sorted({text for own in learn for text in own})
        number = {text: i for i, text in enumerate(texts)}
        true = [{number[t] for t in (*e.captions, *e.styled) if t in number} for e in self.training.examples]
        learnt = encode(texts, self.model, self.recipe, self.cache, silent, tokens=False)
        own = [[number[text] for text in own] for own in learn]
        self.judge = train_judge(self.real[self.train], learnt, own, true, 0, silent, 300)

    def gan(self, seed: int):
        """A new GAN and its data set, as `llm-gan train` begins."""
        torch.manual_seed(seed)
        concepts = len(concepts_of(self.training.examples))
        shape = GeneratorConfig.at(RESOLUTION, token_dim=self.model.width, concepts=concepts, chooses=1)
        gan = GAN(shape, DiscriminatorConfig(RESOLUTION), self.recipe)
        gan.discriminator.projected.features = self.frozen
        dataset = build_dataset(self.training, gan, self.model, self.cache)
        gan.generator.memory.remember(dataset.pooled, dataset.concepts)
        fit_memory(gan.generator, dataset, seed)
        dataset.choose_by(gan.generator.memory)
        return gan, dataset

    def figures(self, features: torch.Tensor) -> dict[str, float]:
        """Of pictures [N·L,D] that should show the N styled captions, L of each in a row."""
        first = features[:: len(features) // len(self.examples)]
        figures = {}
        for name, rows in (("r_precision", self.train), ("r_precision_held_out", self.held)):
            texts = [self.styled[i] for i in rows]
            similarity = self.judge.see(first[rows]) @ self.judge.read(self.asked.pooled[rows]).t()
            wrong = torch.tensor([[text != own for text in texts] for own in texts])
            figures[name] = r_precision(similarity, wrong).value
        everything = torch.arange(len(self.examples))
        ranks = concept_ranks(first, self.real, self.concepts, self.concepts, everything)
        return figures | {"r@1": (ranks == 1).double().mean().item(), "kid": kid(first, self.real)}

    def evaluate(self, gan: GAN) -> dict[str, float]:
        count, things = len(self.styled), len(self.plain)
        images, _ = gan.generate(self.asked[list(range(count))], gan.sample_z(0, count))
        figures = self.figures(self.standard(look(eight_bit(images), self.network, silent)))
        rows = [count + i for i in range(things) for _ in range(LATENTS)]
        several, _ = gan.generate(self.asked[rows], gan.sample_z(1, len(rows)))
        figures["diversity"] = self.spread(eight_bit(several).unflatten(0, (things, LATENTS)))
        held = self.asked[self.held]
        with torch.no_grad():
            text = gan.condition_norm(held.tokens, held.pooled)[1]
            pictures = self.pixels[self.held].float().div(127.5).sub(1)
            judges, alignment = gan.discriminator, 0
            for judge, seen in ((judges.projected, judges.projected.look(pictures)), (judges.pixel, pictures)):
                alignment = alignment + judge.judge(seen).alignments(judge.embed_text(text))
        figures["match"] = (alignment.argmax(1) == torch.arange(len(self.held))).double().mean().item()
        return figures

    def spread(self, sets: torch.Tensor) -> float:
        """Mean |Δ| of pictures of one name [things,L,3,R,R], as a share of that of its real pictures in five styles."""
        real = [self.pixels[self.concepts == number] for number in self.concepts.unique()]
        fake, real = ([mean_difference(own.float()) for own in each] for each in (sets, real))
        return statistics.fmean(fake) / statistics.fmean(real)


def eight_bit(images: torch.Tensor) -> torch.Tensor:
    """[N,R,R,3] in 0..1 -> uint8 [N,3,R,R], as a file would hold them."""
    return torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)


def silent(*_) -> None:
    pass


def table(runs: list[dict], bench: Bench) -> str:
    lines = ["| training | " + " | ".join(head for head, _ in COLUMNS.values()) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for row in dict.fromkeys(run["row"] for run in runs):
        cells = []
        for name, (_, digits) in COLUMNS.items():
            values = [run[name] for run in runs if run["row"] == row]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{spread}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    real = bench.figures(bench.real)
    halves = torch.randperm(len(bench.real), generator=torch.Generator().manual_seed(0)).chunk(2)
    real |= {"kid": kid(*(bench.real[half] for half in halves)), "diversity": 1.0}
    cells = [f"{real[name]:.{digits}f}" if name in real else "" for name, (_, digits) in COLUMNS.items()]
    return "\n".join([*lines, "| real drawings | " + " | ".join(cells) + " |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept, bench = options.out / "runs.jsonl", Bench(options.data, options.out)
    runs = [json.loads(line) for line in kept.read_text("utf-8").splitlines()] if kept.exists() else []
    for seed in range(options.seeds):
        for row, changes in ROWS.items():
            key = {"row": row, "seed": seed, "images": options.images}
            if any(key.items() <= run.items() for run in runs):
                continue
            config = TrainingConfig(**{"images": options.images, "seed": seed} | BASE | changes)
            trainer = Trainer(*bench.gan(seed), config)
            while trainer.images_seen < config.images:
                trainer.step()
            run = key | bench.evaluate(trainer.export())
            runs.append(run)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            print(run, flush=True)
    print(table([run for run in runs if run["images"] == options.images], bench))


if __name__ == "__main__":
    main()
