"""Run every shipped workflow in ComfyUI and write its thumbnail, for ComfyUI's template browser, from its pictures.

    COMFYUI_DIR=/path/to/ComfyUI python tests/make_thumbnails.py [WORKFLOW ...]

Names of workflows restrict it to those. Needs Chromium and playwright, as the tests with ComfyUI do.
"""

import sys
from math import isqrt

from PIL import Image

from comfyui import WORKFLOWS, Page, Server, workflow

SIDE = 384  # pixels


def thumbnail(pictures: list[Image.Image]) -> Image.Image:
    """The first 1, 4, 9, 16 ... pictures, as many as there are, in a square."""
    rows = isqrt(len(pictures))
    side = SIDE // rows
    sheet = Image.new("RGB", (rows * side, rows * side), "white")
    for i, picture in enumerate(pictures[: rows * rows]):
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (i % rows * side, i // rows * side))
    return sheet


def main(names: list[str]) -> None:
    with Server() as server, Page(server) as page:
        for file in WORKFLOWS:
            if not names or file.stem in names:
                history = server.run(page.load(workflow(file.stem)), timeout=3600)
                pictures = [picture for picture in server.images(history) if picture.width == picture.height]  # no plots
                thumbnail(pictures).save(file.with_suffix(".jpg"), quality=88)
                print(f"{file.with_suffix('.jpg').name}: of {len(pictures)} pictures")


if __name__ == "__main__":
    main(sys.argv[1:])
