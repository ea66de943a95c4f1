"""Draw docs/latents-mix.jpg and docs/latents-walk.jpg, and print the table of docs/latents.md: how much of what lies between two
drawings changes when one takes the styles of the other.

    python tests/make_latents.py
"""

from itertools import permutations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.gan import Latent
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.latents import interpolate, layers_of, mix, travel
from llm_gan.models.pictures import contact_sheet, labelled_sheet, to_uint8

CONTENT, CONTENT_SEED = ("a dog face", "a rocket", "a snowman"), 2
STYLES = (("a red heart", 5), ("a green apple", 3), ("a slice of pizza", 8), ("a purple square", 7))
THINGS = (*CONTENT, "a red heart", "a green apple", "a house", "a guitar", "a fish")
PARTS = {  # the ranges of layers, and whether the look is taken
    "coarse": (["coarse"], False),
    "middle": (["middle"], False),
    "fine": (["fine"], False),
    "all layers": (["all"], False),
    "look": ([], True),
    "middle, fine and look": (["middle", "fine"], True),
}
STOPS, STOP_SEEDS, FRAMES, FRAME = ("a red apple", "a red heart", "a dog face"), (3, 2), 12, 96
DOCS = Path(__file__).absolute().parent.parent / "docs"


def main() -> None:
    gan = load_gan(DEFAULT_GAN)
    model = LanguageModel.load(gan.recipe.model)

    def draw(prompts: list[str], latent: Tensor | Latent) -> tuple[Tensor, Latent]:
        return gan.generate(model.encode(prompts, gan.recipe), latent)

    def mixed(prompts: list[str], content: Latent, style: Latent, part: str) -> Tensor:
        ranges, look = PARTS[part]
        return draw(prompts, mix(content, style, layers_of(gan.generator, ranges), look))[0]

    def save(picture: Image.Image, name: str) -> None:
        picture.save(DOCS / f"latents-{name}.jpg", quality=90)

    prompts, seeds = zip(*STYLES)
    styles, style = draw(list(prompts), torch.cat([gan.sample_z(seed, 1) for seed in seeds]))
    rows = [torch.ones(1, *styles.shape[1:]), styles]
    for prompt in CONTENT:
        own, content = draw([prompt], gan.sample_z(CONTENT_SEED, 1))
        rows += [own, mixed([prompt] * len(STYLES), content[[0] * len(STYLES)], style, "middle, fine and look")]
    names = ["", *(f"style {letter}" for letter in "abcd")], ["", *["content"] * len(CONTENT)]
    save(Image.fromarray(to_uint8(labelled_sheet(torch.cat(rows), *names))[0]), "mix")

    first, second = (list(side) for side in zip(*permutations(range(len(THINGS)), 2)))
    pictures, latents = draw(list(THINGS), gan.sample_z(0, len(THINGS)))
    apart = (pictures[first] - pictures[second]).abs().mean()
    print(f"| {' | '.join(PARTS)} |\n|{'---|' * len(PARTS)}")
    changes = [mixed([THINGS[i] for i in first], latents[first], latents[second], part) - pictures[first] for part in PARTS]
    print("".join(f"| {change.abs().mean() / apart:.0%} " for change in changes) + "|")

    z = torch.cat([gan.sample_z(seed, 1) for seed in STOP_SEEDS])
    way = travel(model.encode(list(STOPS), gan.recipe), FRAMES)
    walk, _ = gan.generate(way, interpolate(Latent(z), FRAMES))
    save(contact_sheet(walk, FRAMES).resize((FRAMES * FRAME, FRAME), Image.Resampling.LANCZOS), "walk")


if __name__ == "__main__":
    main()
