"""Draw docs/typing.webp: the picture that follows a prompt as it is typed, as in the workflow `live_canvas`; a frame a key.

    python tests/make_typing.py
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.enlarger import enlarge, load_enlarger
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.pictures import to_uint8

PROMPTS = ("a red car and a blue house on green grass", "two cats under a golden rocket at night")
SEED, SIDE, BAR = 4, 256, 34  # pixels: of the picture, and of what was typed above it
KEY, READ = 110, 1600  # milliseconds that a key and a finished prompt are shown
OUT = Path(__file__).absolute().parent.parent / "docs" / "typing.webp"


def frame(text: str, picture: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (SIDE + 120, SIDE + BAR), "white")
    pen = ImageDraw.Draw(whole)
    pen.rectangle((0, 0, whole.width, BAR - 4), "#22252b")
    pen.text((10, 6), f"{text}|", "#e8e8e8", ImageFont.load_default(16))
    whole.paste(picture, ((whole.width - SIDE) // 2, BAR))
    return whole


def main() -> None:
    gan, enlarger = load_gan(DEFAULT_GAN), load_enlarger()
    typed = [prompt[:end] for prompt in PROMPTS for end in range(1, len(prompt) + 1)]
    condition = LanguageModel.load(gan.recipe.model).encode(typed, gan.recipe)
    images, _ = gan.generate(condition, gan.sample_z(SEED, 1).repeat(len(typed), 1))
    pictures = to_uint8(enlarge(enlarger, images, SIDE // gan.resolution))
    frames = [frame(text, Image.fromarray(picture)) for text, picture in zip(typed, pictures)]
    times = [READ if text in PROMPTS else KEY for text in typed]
    frames[0].save(OUT, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=80, method=6)


if __name__ == "__main__":
    main()
