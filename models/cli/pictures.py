"""The commands that draw pictures, score, mend and change them."""

import argparse
import os
import sys
import time
from io import BytesIO
from pathlib import Path

from .shared import LARGEST, count, find_device, is_number, open_gan, own_device, progress_bar, read_lines, stage

AT_ONCE = 64  # pictures that `generate` reads, draws and writes before it turns to the next: a list may be of any length
SHOWN = 1024  # of them that its contact sheet holds at most
PICTURES = (".png", ".webp", ".jpg", ".jpeg")  # what a sheet is written as


def generate(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from ..language.model import LanguageModel
    from ..pictures import contact_sheet, save_new

    if not 1 <= options.n <= 100_000:
        raise ValueError(f"-n {options.n}: draw from 1 to 100000 pictures a prompt.")
    prompts = options.prompts + ([] if options.file is None else read_lines(options.file))
    if not prompts:
        raise ValueError("There is nothing to draw: give prompts, or a file of them with --prompts.")
    _check_folder(options.out)
    # Of several processes each draws its share of the parts.
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = own_device(options.device)
    with stage("load the GAN"):
        gan = open_gan(options, device)
    enlarger = _enlarger_for(options.enlarge, gan.resolution, device)
    with stage("load the language model"):
        model = LanguageModel.load(options.llm or gan.recipe.model, device=device, write=options.expand)
    for number, prompt in enumerate(prompts):
        if rest := model.unread(prompt, gan.recipe):
            print(f"prompt {number} has more than {gan.recipe.max_tokens} tokens: not read is {rest!r:.80}", file=sys.stderr)
    texts = prompts
    if options.expand:
        with stage("write descriptions"):
            texts = [model.expand(prompt, seed=options.seed) for prompt in prompts]
        print(*(f"  {text}" for text in texts), sep="\n")

    z, total, shown = gan.sample_z(options.seed, options.n), len(prompts) * options.n, []
    reading = drawing = 0.0
    with progress_bar("pictures") as bar:
        for start in range(rank * AT_ONCE, total, world * AT_ONCE):
            # Picture i is the (i mod n)th of prompt i / n.
            rows = range(start, min(start + AT_ONCE, total))
            first, last = rows[0] // options.n, rows[-1] // options.n
            began = time.perf_counter()
            condition = model.encode(texts[first : last + 1], gan.recipe)[[i // options.n - first for i in rows]]
            read = time.perf_counter()
            images, _ = gan.generate(
                condition, z[[i % options.n for i in rows]], options.truncation, transparent=options.transparent
            )
            reading, drawing = reading + read - began, drawing + time.perf_counter() - read
            for i, picture in zip(rows, _as_written(images, options.enlarge, enlarger)):
                number, index = divmod(i, options.n)
                info = PngInfo()
                settings = {
                    "prompt": texts[number],
                    "seed": options.seed,
                    "index": index,
                    "truncation": options.truncation,
                    "gan": gan.card.name,
                    "llm": model.name,
                }
                for key, value in settings.items():
                    info.add_itxt(key, str(value))
                name = f"{number:03d}-{_slug(prompts[number])}-{options.seed}-{index:02d}.png"
                save_new(Image.fromarray(picture), options.out / name, pnginfo=info)
            shown += images[: SHOWN - len(shown)]
            bar(rows[-1] + 1, total)
    if rank:
        return
    print(f"read {count(len(prompts), 'prompt')}: {reading:.2f} s")
    print(f"draw {count(total, 'picture')}: {drawing:.2f} s")
    columns = min(options.columns or options.n, len(shown))
    sheet = save_new(contact_sheet(torch.stack(shown), columns), options.out / "sheet.png")
    some = "" if len(shown) == total else f" of {len(shown)} of them"
    print(f"{count(total, 'picture')} and {sheet.name}{some} in {options.out}{os.sep}")


def score(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from ..gan import Scores
    from ..language.model import LanguageModel
    from ..pictures import FORMATS, from_network, on_white, read_picture, to_network

    device = find_device(options.device)
    images, prompts = [], []
    gan = open_gan(options, device)
    for path in options.images:
        images.append(from_network(to_network(on_white(read_picture(path)), gan.resolution)))
        with Image.open(path, formats=FORMATS) as image:
            prompts.append(options.prompt if options.prompt is not None else _said_prompt(image.info))
    stack = torch.cat(images)
    told = torch.tensor([prompt is not None for prompt in prompts])
    condition = None
    if told.any():
        model = LanguageModel.load(options.llm or gan.recipe.model, device=device)
        condition = model.encode([prompt or "" for prompt in prompts], gan.recipe)
    realism, alignment = gan.score(stack, condition)
    scores = Scores(realism, alignment * told)
    print("  total  realism  alignment  picture")
    for i in scores.best(len(images)).tolist():
        match = f"{scores.alignment[i]:9.2f}" if told[i] else "        –"
        print(f"{scores.total[i]:7.2f}  {scores.realism[i]:7.2f}  {match}  {options.images[i]}")


def _said_prompt(info: dict) -> str | None:
    """The prompt that `generate` wrote into a picture; ComfyUI writes its graph under the same name."""
    import json

    text = info.get("prompt")
    try:
        return None if isinstance(json.loads(text or ""), dict) else text
    except (ValueError, RecursionError):
        return text


def walk(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from ..gan import Latent
    from ..language.model import LanguageModel
    from ..latents import interpolate, travel

    if len(options.prompts) == len(options.seeds) == 1:
        raise ValueError("A walk needs two stops or more: give several prompts, several --seeds, or both.")
    if not 0.1 <= options.fps <= 100:
        raise ValueError(f"--fps {options.fps:g}: give from 0.1 to 100 frames a second.")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"{options.out} is there already and not an empty folder: name another with --out.")
    device, frames = find_device(options.device), options.frames
    gan = open_gan(options, device)
    enlarger = _enlarger_for(options.enlarge, gan.resolution, device)
    latent = Latent(torch.cat([gan.sample_z(seed, 1) for seed in options.seeds]))
    if len(latent) > 1:
        latent = interpolate(latent, frames, easing=options.easing, loop=options.loop)
    condition = LanguageModel.load(options.llm or gan.recipe.model, device=device).encode(options.prompts, gan.recipe)
    if len(condition) > 1:
        condition = travel(condition, frames, options.easing, options.loop)

    options.out.mkdir(parents=True, exist_ok=True)
    files = [options.out / f"{i:04d}.png" for i in range(frames)]
    with progress_bar("frames") as bar:
        for start in range(0, frames, AT_ONCE):
            rows = list(range(start, min(start + AT_ONCE, frames)))
            images, _ = gan.generate(
                condition[rows if len(condition) > 1 else [0] * len(rows)],
                latent[rows if len(latent) > 1 else [0] * len(rows)],
                options.truncation,
            )
            for i, picture in zip(rows, _as_written(images, options.enlarge, enlarger)):
                Image.fromarray(picture).save(files[i])
            bar(rows[-1] + 1, frames)
    animation = options.out / f"walk.{options.format}"
    with Image.open(files[0]) as first:
        others = (Image.open(BytesIO(file.read_bytes())) for file in files[1:])  # so many files cannot be open at once
        quality = {"quality": 90} if options.format == "webp" else {}
        first.save(animation, save_all=True, append_images=others, duration=round(1000 / options.fps), loop=0, **quality)
    print(f"{count(frames, 'frame')} and {animation.name} in {options.out}{os.sep}")


def explore(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from ..language.model import LanguageModel
    from ..pictures import labelled_sheet, save_new, to_uint8

    if options.out.suffix.lower() not in PICTURES:
        raise ValueError(f"{options.out} should end in {', '.join(PICTURES)}: a kind of picture.")

    rows, columns = [(i, psi) for i in range(len(options.prompts)) for psi in options.truncation], options.n
    if not 1 <= columns * len(rows) <= SHOWN:
        raise ValueError(f"{columns} columns of {len(rows)} pictures: a sheet holds from 1 to {SHOWN}.")
    device, seeds = find_device(options.device), range(options.seed, options.seed + columns)
    gan = open_gan(options, device)
    condition = LanguageModel.load(options.llm or gan.recipe.model, device=device).encode(options.prompts, gan.recipe)
    z = torch.cat([gan.sample_z(seed, 1) for seed in seeds])
    pictures = []
    with progress_bar("rows") as bar:
        for prompt, psi in rows:
            pictures.append(gan.generate(condition[[prompt] * columns], z, psi)[0])
            bar(len(pictures), len(rows))
    names = [f"{_label(options.prompts, i)}psi {psi:g}" for i, psi in rows]
    sheet = to_uint8(labelled_sheet(torch.cat(pictures), [str(seed) for seed in seeds], names))[0]
    print(f"{count(columns * len(rows), 'picture')} on {save_new(Image.fromarray(sheet), options.out)}")


def _label(prompts: list[str], i: int) -> str:
    """What tells the rows of one prompt from those of others: its text where the font has it, else its number."""
    if len(prompts) == 1:
        return ""
    return f"{prompts[i][:30] if prompts[i].isascii() else f'prompt {i + 1}'}, "


def restore(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from ..language.model import LanguageModel
    from ..pictures import read_picture, save_new, size_of, to_uint8
    from ..restoration import KEEP, restore, restyle

    if options.style is None and options.keep is not None:
        raise ValueError("--keep says how much stays of a picture that is drawn in another style: give --style too.")
    if options.style is not None and (options.undo or options.mask or options.zoom != 1):
        raise ValueError(
            "A picture is either mended (--undo, --mask, --zoom) or drawn in another style (--style): one at a time."
        )
    _check_folder(options.out)
    keep = KEEP if options.keep is None else options.keep
    device = find_device(options.device)
    for path in options.images:
        size_of(path)  # refuses what is no picture before any long work
    mask = None
    if options.mask is not None:
        layer = read_picture(options.mask)
        mask = layer[..., :3].mean(3) * layer[..., 3]  # what is clear in it is not lost, whatever its colour
    undo = [kind.strip() for kind in options.undo.split(",") if kind.strip()]
    gan = open_gan(options, device)
    model = LanguageModel.load(options.llm or gan.recipe.model, device=device)
    condition = model.encode([options.prompt], gan.recipe)
    style = None if options.style is None else model.encode([options.style], gan.recipe)
    with progress_bar("steps") as bar, torch.inference_mode():
        for path in options.images:
            picture = read_picture(path)
            if style is None:
                result = restore(gan, picture, condition, undo, mask, options.zoom, options.steps, bar)
            else:
                result = restyle(gan, picture, condition, style, keep=keep, steps=options.steps, progress=bar)[0]
            written = save_new(Image.fromarray(to_uint8(result)[0]), options.out / f"{path.stem}.png")
    print(f"{written}" if len(options.images) == 1 else f"{len(options.images)} pictures in {options.out}{os.sep}")


def enlarge(options: argparse.Namespace) -> None:
    from PIL import Image

    from ..pictures import read_picture, save_new, size_of

    _check_folder(options.out)
    largest = max(side for path in options.images for side in size_of(path))
    enlarger = _enlarger_for(options.times, largest, find_device(options.device), options.enlarger)
    with progress_bar("pictures") as bar:
        for done, path in enumerate(options.images, 1):
            picture = read_picture(path)
            opaque = picture[..., 3].min() == 1
            (large,) = _as_written(picture[..., :3] if opaque else picture, options.times, enlarger)
            place = save_new(Image.fromarray(large), options.out / f"{path.stem}.png")
            bar(done, len(options.images))
    print(f"{count(len(options.images), 'picture')} in {options.out}{os.sep}, {place.name} the last")


def edit(options: argparse.Namespace) -> None:
    from .. import latents
    from ..gan import Latent
    from ..inversion import invert
    from ..language.model import LanguageModel
    from ..pictures import contact_sheet, read_picture, save_new

    if not options.out.name.endswith(latents.LATENT_FILE):
        raise ValueError(f"{options.out} should end in {latents.LATENT_FILE}: that is the one format written.")
    if options.out.exists():
        raise FileExistsError(f"{options.out} is there already: choose another name, or move it away.")
    seeds = {text: _seed(text) for text in [*options.sources, *([] if options.style is None else [options.style])]}
    slides, things = _slides(options.slide), latents.colours(options.paint)
    background = None if options.background is None else latents.colour_of(options.background)
    device = find_device(options.device)
    gan = open_gan(options, device)
    layers = latents.layers_of(gan.generator, options.layers.split(" and "))
    condition = LanguageModel.load(options.llm or gan.recipe.model, device=device).encode([options.prompt], gan.recipe)

    def source(text: str) -> Latent:
        if seeds[text] is not None:
            return Latent(gan.sample_z(seeds[text], 1))
        if text.endswith(latents.LATENT_FILE):
            found = latents.load_latent(Path(text))[0]
            gan.check_latent(found)
            return found
        with progress_bar("steps") as bar:
            return invert(gan, read_picture(Path(text)), condition, steps=options.steps, progress=bar)

    def drawn(latent: Latent):
        return gan.generate(condition.repeat(len(latent)), latent)

    latent = latents.join([source(text) for text in options.sources])
    if options.pick is not None:
        latent = latent[latents.indices(options.pick, len(latent))]
    if options.average:
        latent = latents.average(latent)
    if options.style is not None:
        style = source(options.style)
        style = drawn(style)[1] if style.styles is None else style
        latent = latents.mix(drawn(latent)[1], style, layers, strength=options.strength)
    for number, far in slides:
        direction = latents.directions(gan, options.method, layers, number)[number - 1 :]
        latent = latents.slide(latent, direction, direction.new_tensor([far]), layers, gan.generator.num_styles)
    latent = latents.paint(latent, things, background)
    if options.vary is not None:
        latent = latents.vary(latent, options.vary, options.variation, options.seed)
    pictures, latent = drawn(latent)
    latents.save_latent(latent, options.out, gan, options.prompt)
    sheet = options.out.with_name(options.out.name.removesuffix(latents.LATENT_FILE) + ".png")
    sheet = save_new(contact_sheet(pictures, min(len(pictures), 8)), sheet)
    print(f"{count(len(latent), 'latent')} in {options.out}, drawn on {sheet}")


def _seed(source: str) -> int | None:
    """What a source of latents says as a seed, None where it names a file. ValueError where it is neither."""
    if not source.isdecimal():
        if not Path(source).is_file():
            raise ValueError(f"{source:.200} is no seed, and no file: give a number, a picture, or a saved latent.")
        return None
    if not is_number(source):
        raise ValueError(f"{source:.40} is no number from 0 to {LARGEST}.")
    return int(source)


def _slides(text: str) -> list[tuple[int, float]]:
    """"1=4,3=-2.5" -> [(1, 4.0), (3, -2.5)]."""
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        found = [(int(number), float(far)) for number, far in pairs]
    except ValueError:
        found = [(0, 0.0)]
    if not all(number > 0 and abs(far) <= 1000 for number, far in found):
        raise ValueError(f"--slide {text:.60}: write numbers of directions, from 1, and how far, as 1=4,3=-2.5.")
    return found


def _enlarger_for(times: int | None, side: int, device, place: Path | None = None):
    """The enlarger in `place` (None: the bundled one), once it is sure that it can make pictures `times` as large; None where
    that is None."""
    from ..enlarger import DEFAULT_ENLARGER, check_times, load_enlarger

    if times is None:
        return None
    check_times(times, side)
    return load_enlarger(place or DEFAULT_ENLARGER, device)


def _as_written(images, times: int | None, enlarger):
    """Each picture as bytes, `times` as large: one after the other, for large ones are not held together."""
    from ..enlarger import enlarge
    from ..pictures import to_uint8

    for image in images.split(1):
        yield to_uint8(image if enlarger is None else enlarge(enlarger, image, times))[0]


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder to write the pictures to.")


def _slug(text: str) -> str:
    """A file name that keeps letters of every script."""
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:40] or "empty"
