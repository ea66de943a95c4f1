"""Measure what the bundled GAN makes of held-out pictures, as tables in Markdown: seen back into the GAN, restored beside
classical methods, and restyled.

    pip install opencv-python-headless
    python tests/compare_restoration.py DATA [--pictures 48] [--out docs]

DATA is the icon data set. Every picture is damaged as in training, by seed 1, restored by each method, and compared with the
picture as it was: PSNR, and the mean relative distance of EfficientNet-lite1 features, a network that nothing was trained with.
Restyled pictures are asked what they show (among the mean features of each concept's training drawings) and in which style (a
linear classifier of the features of training drawings).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.damage import KINDS, damage
from llm_gan.models.data.folder import read_folder, read_pictures
from llm_gan.models.evaluation.judge import Standard, look
from llm_gan.models.evaluation.metrics import concept_ranks
from llm_gan.models.features import EfficientNetLite
from llm_gan.models.gan import Latent
from llm_gan.models.inversion import invert
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.pictures import contact_sheet, to_uint8
from llm_gan.models.restoration import restore, restyle
from llm_gan.models.training.losses import feature_distances

SHOWN = 6
STYLED = 6  # times as many pictures are restyled, which is quick


def each(work):
    """A function of one picture, uint8 [H,W,3], as one of pictures [N,H,W,3] in 0..1 and holes [N,H,W]."""

    def method(pictures, lost):
        return torch.from_numpy(np.stack([work(x, m) for x, m in zip(to_uint8(pictures), to_uint8(lost))])).float() / 255

    return method


def unsharp(picture, _):
    return cv2.addWeighted(picture, 2.0, cv2.GaussianBlur(picture, (0, 0), 1.5), -1.0, 0)


def denoised(strength):
    return each(lambda x, _: cv2.fastNlMeansDenoisingColored(x, None, strength, strength, 7, 21))


CLASSICAL = {
    "inpaint": {
        "OpenCV, Telea": each(lambda x, lost: cv2.inpaint(x, lost, 3, cv2.INPAINT_TELEA)),
        "OpenCV, Navier–Stokes": each(lambda x, lost: cv2.inpaint(x, lost, 3, cv2.INPAINT_NS)),
    },
    "denoise": {f"non-local means, h = {h}": denoised(h) for h in (10, 20, 40)},
    "deblur": {"unsharp mask": each(unsharp)},
    "enlarge": {"bicubic, unsharp mask": each(unsharp)},
    "colourise": {},
    "unjpeg": {"non-local means, h = 5": denoised(5), "bilateral filter": each(lambda x, _: cv2.bilateralFilter(x, 5, 30, 5))},
}
AS_IT_IS = {"enlarge": "bicubic"}  # what the damage leaves


def psnr(one, other):
    return (-10 * (one - other).square().mean((1, 2, 3)).clamp(min=1e-6).log10()).mean().item()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    gan, judge = load_gan(DEFAULT_GAN), EfficientNetLite.pretrained("lite1")
    model = LanguageModel.load(gan.recipe.model)
    training, held_out = [], []
    for example in read_folder(options.data)[0]:
        (training if example.split == "train" else held_out).append(example)
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(1)).tolist()
    found = read_pictures([held_out[i] for i in order[: options.pictures]], gan.resolution)
    pictures = found.pixels.permute(0, 2, 3, 1).float() / 255
    condition = model.encode([(example.styled or example.captions)[0] for example in found.examples], gan.recipe)

    def apart(restored):
        parts = []
        for a, b in zip(restored.split(16), pictures.split(16)):
            parts.append(feature_distances(*(judge(x.permute(0, 3, 1, 2) * 2 - 1) for x in (a, b))))
        return torch.cat(parts).mean().item()

    print(f"{len(pictures)} held-out pictures\n\n| drawn from | feature distance | PSNR |\n|---|---|---|")
    seen = {"the prompt alone": Latent(gan.sample_z(0, len(pictures))), "the encoder, one pass": invert(gan, pictures, condition)}
    seen["and 100 steps"] = invert(gan, pictures, condition, steps=100)
    drawn = {name: gan.generate(condition, latent)[0] for name, latent in seen.items()}
    for name, result in drawn.items():
        print(f"| {name} | {apart(result):.3f} | {psnr(result, pictures):.1f} |", flush=True)
    rows = [pictures[:SHOWN], *(result[:SHOWN] for result in drawn.values())]
    options.out.mkdir(parents=True, exist_ok=True)
    contact_sheet(torch.cat(rows), SHOWN).save(options.out / "inversion.png")

    print("\n| to undo | method | feature distance | PSNR |\n|---|---|---|---|")
    shown = []
    for kind in KINDS:
        kinds = torch.tensor([[kind == other for other in KINDS]] * len(pictures))
        damaged, known = damage(pictures.permute(0, 3, 1, 2) * 2 - 1, kinds, torch.Generator().manual_seed(1))
        damaged, lost = damaged.permute(0, 2, 3, 1) / 2 + 0.5, 1 - known[:, 0]
        results = {AS_IT_IS.get(kind, "nothing"): damaged}
        results |= {name: method(damaged, lost) for name, method in CLASSICAL[kind].items()}
        results["**GAN, one pass**"] = restore(gan, damaged, condition, {kind}, lost if kind == "inpaint" else None)
        if kind == "inpaint":
            results["GAN, 100 steps"] = restore(gan, damaged, condition, {kind}, lost, steps=100)
        for name, result in results.items():
            print(f"| {kind} | {name} | {apart(result):.3f} | {psnr(result, pictures):.1f} |", flush=True)
        best = min((name for name in results if name in CLASSICAL[kind]), key=lambda name: apart(results[name]), default=None)
        columns = [pictures, damaged, results[best] if best else damaged, results["**GAN, one pass**"]]
        shown += [column[i] for i in (0, 1) for column in columns]
    contact_sheet(torch.stack(shown), 8).save(options.out / "restoration.png")
    restyled(gan, judge, model, [held_out[i] for i in order[: STYLED * options.pictures]], training, options.out)


def restyled(gan, judge, model, examples, training, out):
    """Each picture in the style that comes after its own."""
    gallery = read_pictures(training, gan.resolution)
    seen = look(gallery.pixels, judge, lambda _: None)
    standard = Standard(seen)
    seen = standard(seen)
    concepts, styles = (sorted({getattr(e, kind) for e in gallery.examples}) for kind in ("concept", "style"))
    number = torch.tensor([concepts.index(e.concept) for e in gallery.examples])
    own = torch.nn.functional.one_hot(torch.tensor([styles.index(e.style) for e in gallery.examples])).float()
    ridge = 0.1 * len(seen) * torch.eye(seen.shape[1])
    classifier = torch.linalg.solve(seen.t() @ seen + ridge, seen.t() @ (own - own.mean(0)))
    found = read_pictures([e for e in examples if e.concept in concepts], gan.resolution)  # the others' concepts were held out
    pictures, examples = found.pixels.permute(0, 2, 3, 1).float() / 255, found.examples
    wanted = torch.tensor([concepts.index(e.concept) for e in examples])
    other = torch.where(wanted == number[0], len(number) - 1, 0)

    def row(name, result, style):
        features = standard(look(torch.from_numpy(to_uint8(result)).permute(0, 3, 1, 2), judge, lambda _: None))
        ranks = concept_ranks(features, seen, number, wanted, other)
        reached = ((features @ classifier).argmax(1) == style).float().mean()
        shares = [(ranks == 1).float().mean(), (ranks <= 10).float().mean(), reached]
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + " |", flush=True)

    print(f"\n{len(pictures)} pictures\n\n| restyled | R@1 of its concept | R@10 | in the style |\n|---|---|---|---|")
    before = torch.tensor([styles.index(e.style) for e in examples])
    after = (before + 1) % len(styles)
    captions = [e.captions[0] for e in examples]
    condition = model.encode(captions, gan.recipe)
    style = model.encode([f"{c}, {styles[i]} style" for c, i in zip(captions, after.tolist())], gan.recipe)
    row("the real picture, and its own style", pictures, before)
    row("the real picture, and the other style", pictures, after)
    row("the prompt with the other style, drawn", gan.generate(style, gan.sample_z(0, len(pictures)))[0], after)
    shown = [pictures[:SHOWN]]
    for keep in (0.0, 0.25, 0.5, 0.75, 1.0):
        result = restyle(gan, pictures, condition, style, keep=keep)[0]
        row(f"keep {keep:g}", result, after)
        shown.append(result[:SHOWN])
    contact_sheet(torch.cat(shown), SHOWN).save(out / "restyle.png")


if __name__ == "__main__":
    main()
