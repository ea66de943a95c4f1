"""The command `llm-gan`: the library from a shell. Every command answers --help."""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

DTYPES = ("auto", "fp32", "fp16", "bf16")
AT_ONCE = 64  # pictures that `generate` reads, draws and writes before it turns to the next: a list may be of any length
SHOWN = 1024  # of them that its contact sheet holds at most
PICTURES = (".png", ".webp", ".jpg", ".jpeg")  # what a sheet is written as


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it did its work, 1 with one sentence on stderr if it could not, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)  # and not what other libraries note down
    try:
        options.command(options)
    except (ValueError, OSError, ModuleNotFoundError, subprocess.CalledProcessError, ArithmeticError, MemoryError) as error:
        print(f"llm-gan: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llm-gan: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llm-gan", description="A prompt becomes a picture in one forward pass.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=function)
        return added

    def add_models(to: argparse.ArgumentParser, gan: bool = True) -> None:
        if gan:
            to.add_argument("--gan", type=Path, metavar="FILE", help="GAN checkpoint (the bundled icons model)")
        to.add_argument("--llm", metavar="MODEL", help="language model: a name of `llm-gan models`, a folder or a .gguf")
        to.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")
        to.add_argument("--dtype", default="auto", choices=DTYPES, help="precision of the GAN (auto: fp16 on a GPU, else fp32)")

    generate = command("generate", _generate, "Draw pictures from prompts.")
    generate.add_argument("prompts", nargs="*", metavar="PROMPT")
    generate.add_argument("--prompts", dest="file", type=Path, metavar="FILE", help="a text file of more of them, one a line")
    generate.add_argument("-n", type=int, default=4, help="pictures for each prompt (4)")
    generate.add_argument("--seed", type=_from_zero, default=0, help="the same seed draws the same pictures (0)")
    generate.add_argument("--truncation", type=float, default=1.0, metavar="PSI", help="below 1: less varied (1.0)")
    generate.add_argument("--expand", action="store_true", help="let the language model describe the picture first")
    generate.add_argument("--transparent", action="store_true", help="leave the background out (a GAN trained with scenes)")
    generate.add_argument("--enlarge", type=int, metavar="TIMES", help="write the pictures 2, 4 or 8 times as large")
    generate.add_argument("--columns", type=_from_one, help="width of the contact sheet in pictures (N)")
    generate.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the pictures (out)")
    add_models(generate)

    score = command("score", _score, "Score pictures with the discriminator, best first.")
    score.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    score.add_argument("--prompt", help="what they should show (default: the prompt that each picture carries, if any)")
    add_models(score)

    walk = command("walk", _walk, "Walk along prompts, seeds or both: frames, and an animation of them.")
    walk.add_argument("prompts", nargs="+", metavar="PROMPT", help="one, or several to travel along")
    walk.add_argument("--seeds", type=_seeds, default=[0], metavar="SEED,SEED", help="one, or several to walk along (0)")
    walk.add_argument("--frames", type=int, default=48, help="of the whole walk (48)")
    walk.add_argument("--loop", action="store_true", help="go back to the beginning, so that the animation has no end")
    walk.add_argument("--easing", default="linear", help="linear, or smooth, which slows down at every stop (linear)")
    walk.add_argument("--truncation", type=float, default=1.0, metavar="PSI", help="below 1: less varied (1.0)")
    walk.add_argument("--enlarge", type=int, metavar="TIMES", help="write the frames 2, 4 or 8 times as large")
    walk.add_argument("--fps", type=float, default=12, help="frames a second (12)")
    walk.add_argument("--format", default="webp", choices=("webp", "gif"), help="of the animation (webp)")
    walk.add_argument("--out", type=Path, default=Path("walk"), metavar="DIR", help="new or empty folder for them (walk)")
    add_models(walk)

    explore = command("explore", _explore, "Show what prompts give: a column for each seed, a row for each truncation.")
    explore.add_argument("prompts", nargs="+", metavar="PROMPT", help="each has rows of its own")
    explore.add_argument("--seed", type=_from_zero, default=0, help="of the first column; the next is one more (0)")
    explore.add_argument("-n", type=int, default=8, help="columns (8)")
    explore.add_argument("--truncation", type=_psis, default=[0.4, 0.7, 1.0], metavar="PSI,PSI", help="(0.4,0.7,1.0)")
    explore.add_argument("--out", type=Path, default=Path("explore.png"), metavar="FILE", help="picture to write (explore.png)")
    add_models(explore)

    restore = command("restore", _restore, "Mend pictures, or give them another style.")
    restore.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    restore.add_argument("--prompt", default="", help="what they show (nothing said)")
    restore.add_argument("--undo", default="", metavar="KINDS", help="what spoils them: denoise,deblur,colourise,unjpeg")
    restore.add_argument("--mask", type=Path, metavar="IMAGE", help="white where they are lost, of any size")
    restore.add_argument("--zoom", type=float, default=1.0, help="times larger (1)")
    restore.add_argument("--style", metavar="PROMPT", help="draw them anew by this prompt, which names a style, instead")
    restore.add_argument("--keep", type=float, help="with --style: how much of the picture stays, 0 to 1 (0.5)")
    restore.add_argument("--steps", type=_from_zero, default=0, help="of optimisation; 0 is one pass (0)")
    restore.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the pictures (out)")
    add_models(restore)

    enlarge = command("enlarge", _enlarge, "Make drawings 2, 4 or 8 times as large, with crisp edges.")
    enlarge.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    enlarge.add_argument("--times", type=int, default=4, help="as large: 2, 4 or 8 (4)")
    enlarge.add_argument("--enlarger", type=Path, metavar="FILE", help="of `llm-gan train-enlarger` (the bundled one)")
    enlarge.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")
    enlarge.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the pictures (out)")

    edit = command("edit", _edit, "Make latents of seeds, pictures or latents, change them, and draw them: in this order of options.")
    edit.add_argument("sources", nargs="+", metavar="SOURCE", help="a seed, a picture, or a .latent.safetensors file")
    edit.add_argument("--prompt", required=True, help="what they show, and what is drawn")
    edit.add_argument("--steps", type=_from_zero, default=100, help="of optimisation, to see a picture (100)")
    edit.add_argument("--pick", metavar="PLACES", help="take some of them: 0, 3, 5-7")
    edit.add_argument("--average", action="store_true", help="take what they have in common")
    edit.add_argument("--style", metavar="SOURCE", help="take the styles of this one")
    edit.add_argument("--layers", default="middle and fine", help="of the style and of the slides: coarse, middle, fine, all, or two")
    edit.add_argument("--strength", type=float, default=1.0, help="of the style: 0 to 2 (1)")
    edit.add_argument("--slide", default="", metavar="N=FAR,N=FAR", help="move along the Nth direction: 1=4,3=-2.5")
    edit.add_argument("--method", default="sefa", help="of finding directions: sefa or pca (sefa)")
    edit.add_argument("--paint", metavar="COLOURS", default="", help="things, in the order of the prompt: red, -, #3366cc; - leaves one")
    edit.add_argument("--background", metavar="COLOUR", help="put them on this colour")
    edit.add_argument("--vary", type=_from_one, metavar="N", help="make N variations of each")
    edit.add_argument("--variation", type=float, default=0.3, help="how far they go, 0 to 1 (0.3)")
    edit.add_argument("--seed", type=_from_zero, default=0, help="of the variations (0)")
    edit.add_argument("--out", type=Path, required=True, metavar="FILE", help="file.latent.safetensors to write; a .png goes beside it")
    add_models(edit)

    command("models", _models, "List the language models and GANs at hand.").add_argument(
        "--folder", type=Path, action="append", default=[], metavar="DIR", help="look here too"
    )

    train = command("train", _train, "Train a GAN on a folder of captioned pictures.")
    train.add_argument("data", type=Path, metavar="DIR")
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="log, samples, state to resume from (FILE-run)")
    train.add_argument("--resolution", type=int, help="pixels, a power of two from 16 to 512 (64, or the resumed run's)")
    train.add_argument("--preset", default="balanced", help="quick, balanced or best: how often each picture is shown (balanced)")
    train.add_argument("--images", type=int, help="pictures to show in all (the preset's)")
    train.add_argument("--batch-size", type=int, help="of each process (8)")
    train.add_argument("--scenes", type=int, metavar="N", help="learn from N sentences over up to three of the pictures too (0)")
    train.add_argument("--seed", type=int, help="(0)")
    train.add_argument("--config", type=Path, metavar="FILE", help="JSON with any other setting, as a run's config.json")
    train.add_argument("--resume", action="store_true", help="go on with the run in --run-dir, exactly where it stopped")
    train.add_argument("--start-from", type=Path, metavar="FILE", help="begin with this checkpoint, of this resolution or less")
    train.add_argument("--llm", metavar="MODEL", help="language model that reads the captions")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")
    train.add_argument("--tensorboard", action="store_true", help="write the figures for TensorBoard too")

    encoder = command("train-encoder", _train_encoder, "Train what lets a GAN see pictures: to restore, restyle and edit them.")
    encoder.add_argument("gan", type=Path, metavar="FILE", help="GAN checkpoint; the encoder is written beside it")
    encoder.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that it was trained on")
    encoder.add_argument("--run-dir", type=Path, metavar="DIR", help="log, samples, state to resume from (FILE-encoder)")
    encoder.add_argument("--images", type=int, help="pictures to show in all (60000)")
    encoder.add_argument("--seed", type=int, help="(0)")
    encoder.add_argument("--resume", action="store_true", help="go on with the run in --run-dir, exactly where it stopped")
    encoder.add_argument("--start-from", type=Path, metavar="FILE", help="begin with the encoder of this GAN, of the same shape")
    encoder.add_argument("--llm", metavar="MODEL", help="language model that reads the captions")
    encoder.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")

    enlarger = command("train-enlarger", _train_enlarger, "Train what makes pictures of a kind larger.")
    enlarger.add_argument("data", type=Path, metavar="DIR", help="the folder that the GAN was trained on")
    enlarger.add_argument("--out", type=Path, required=True, metavar="FILE", help="NAME.enlarger.safetensors, to write")
    enlarger.add_argument("--run-dir", type=Path, metavar="DIR", help="log, samples, state to resume from (FILE-run)")
    enlarger.add_argument("--resolution", type=int, default=128, help="of the pictures that it learns to draw from half of it (128)")
    enlarger.add_argument("--images", type=int, help="parts of pictures to show in all (100000)")
    enlarger.add_argument("--seed", type=int, help="(0)")
    enlarger.add_argument("--resume", action="store_true", help="go on with the run in --run-dir, exactly where it stopped")
    enlarger.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")

    evaluate = command("evaluate", _evaluate, "Judge a GAN on a folder of captioned pictures: figures, and pictures to look at.")
    evaluate.add_argument("gan", type=Path, metavar="FILE", help="GAN checkpoint")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that it was trained on")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="folder for the report and its cache (FILE-evaluation)")
    evaluate.add_argument("--captions", type=int, default=200, help="captions of each kind to draw (200)")
    evaluate.add_argument("--seed", type=int, default=0, help="the same seed gives the same figures (0)")
    evaluate.add_argument("--note", action="store_true", help="write the figures into FILE too, for whoever loads it")
    add_models(evaluate, gan=False)

    convert = command("convert", _convert, "Make a published GAN, StyleGAN2 or 3, BigGAN or GALIP, one of these files.")
    convert.add_argument("source", type=Path, metavar="FILE", help="a .pkl or .pt of StyleGAN, BigGAN's pytorch_model.bin, GALIP's .pth")
    convert.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    convert.add_argument("--classes", type=Path, metavar="FILE", help="names of its classes, a class a line, commas between names")
    convert.add_argument("--license", action="append", default=[], metavar="TEXT", help="that it was published under")
    convert.add_argument("--half", action="store_true", help="store what works on pixels as fp16: half the size")
    convert.add_argument("--llm", metavar="MODEL", help="language model that finds the classes (the default one), or CLIP's folder")

    compress = command("compress", _compress, "Make a GAN smaller: int8 weights, or a student with fewer channels.")
    compress.add_argument("gan", type=Path, metavar="FILE", help="GAN checkpoint")
    compress.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    compress.add_argument("--int8", action="store_true", help="store matrices as int8: near half the size, the same pictures")
    compress.add_argument("--share", type=float, metavar="S", help="train a student with this share of the channels, such as 0.5")
    compress.add_argument("--data", type=Path, metavar="DIR", help="for a student: the folder of captions that it is trained on")
    compress.add_argument("--run-dir", type=Path, metavar="DIR", help="log, samples, state to resume from (--out's FILE-run)")
    compress.add_argument("--preset", default="balanced", help="quick, balanced or best, as of train (balanced)")
    compress.add_argument("--images", type=int, help="pictures to show in all (the preset's)")
    compress.add_argument("--batch-size", type=int, help="(8)")
    compress.add_argument("--scenes", type=int, metavar="N", help="show N scenes of several things too (0)")
    compress.add_argument("--seed", type=int, help="(0)")
    compress.add_argument("--config", type=Path, metavar="FILE", help="JSON with any other setting, as a run's config.json")
    compress.add_argument("--resume", action="store_true", help="go on with the run in --run-dir, exactly where it stopped")
    compress.add_argument("--llm", metavar="MODEL", help="language model that reads the captions (the GAN's)")
    compress.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")

    icons = command("icons", _icons, "Build the icon data set that the bundled model was trained on.")
    icons.add_argument("--packages", type=Path, required=True, metavar="DIR", help="tarballs made by `npm pack`")
    icons.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder for the data set")
    icons.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (128)")
    icons.add_argument("--cc-by", action="store_true", help="use the CC-BY-4.0 sets too, which ask for attribution")
    icons.add_argument("--fetch", action="store_true", help="fetch missing packages with npm (uses the network)")

    benchmark = command("benchmark", _benchmark, "Measure how fast it is, beside rivals and what the machine can do.")
    benchmark.add_argument("--quick", action="store_true", help="few measurements: does all of it work?")
    benchmark.add_argument("--out", type=Path, default=Path("benchmark"), metavar="DIR", help="for the report (benchmark)")
    benchmark.add_argument("--resolutions", default="64,128,256,512", metavar="PX,…", help="(64,128,256,512)")
    benchmark.add_argument("--rivals", metavar="NAME,…", help="sd-turbo,lcm,biggan,lightweight-gan (all that are installed)")
    benchmark.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    add_models(benchmark)
    return parser


def _generate(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from .language.model import LanguageModel
    from .pictures import contact_sheet, save_new

    if not 1 <= options.n <= 100_000:
        raise ValueError(f"-n {options.n}: draw from 1 to 100000 pictures a prompt.")
    prompts = options.prompts + ([] if options.file is None else _lines(options.file))
    if not prompts:
        raise ValueError("There is nothing to draw: give prompts, or a file of them with --prompts.")
    _check_folder(options.out)
    # Of several processes each draws its share of the parts.
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _own_device(options.device)
    with _stage("load the GAN"):
        gan = _load_gan(options, device)
    enlarger = _enlarger_for(options.enlarge, gan.resolution, device)
    with _stage("load the language model"):
        model = LanguageModel.load(options.llm or gan.recipe.model, device=device, write=options.expand)
    texts = prompts
    if options.expand:
        with _stage("write descriptions"):
            texts = [model.expand(prompt, seed=options.seed) for prompt in prompts]
        print(*(f"  {text}" for text in texts), sep="\n")

    z, total, shown = gan.sample_z(options.seed, options.n), len(prompts) * options.n, []
    reading = drawing = 0.0
    with _bar("pictures") as bar:
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
    print(f"read {_count(len(prompts), 'prompt')}: {reading:.2f} s")
    print(f"draw {_count(total, 'picture')}: {drawing:.2f} s")
    columns = min(options.columns or options.n, len(shown))
    sheet = save_new(contact_sheet(torch.stack(shown), columns), options.out / "sheet.png")
    some = "" if len(shown) == total else f" of {len(shown)} of them"
    print(f"{_count(total, 'picture')} and {sheet.name}{some} in {options.out}{os.sep}")


def _enlarger_for(times: int | None, side: int, device, place: Path | None = None):
    """The enlarger in `place` (None: the bundled one), once it is sure that it can make pictures `times` as large; None where that
    is None."""
    from .enlarger import DEFAULT_ENLARGER, check_times, load_enlarger

    if times is None:
        return None
    check_times(times, side)
    return load_enlarger(place or DEFAULT_ENLARGER, device)


def _as_written(images, times: int | None, enlarger):
    """Each picture as bytes, `times` as large: one after the other, for large ones are not held together."""
    from .enlarger import enlarge
    from .pictures import to_uint8

    for image in images.split(1):
        yield to_uint8(image if enlarger is None else enlarge(enlarger, image, times))[0]


def _enlarge(options: argparse.Namespace) -> None:
    from PIL import Image

    from .pictures import read_picture, save_new

    _check_folder(options.out)
    pictures = [read_picture(path) for path in options.images]
    largest = max(side for picture in pictures for side in picture.shape[1:3])
    enlarger = _enlarger_for(options.times, largest, _device(options.device), options.enlarger)
    with _bar("pictures") as bar:
        for done, (path, picture) in enumerate(zip(options.images, pictures), 1):
            opaque = picture[..., 3].min() == 1
            (large,) = _as_written(picture[..., :3] if opaque else picture, options.times, enlarger)
            place = save_new(Image.fromarray(large), options.out / f"{path.stem}.png")
            bar(done, len(pictures))
    print(f"{_count(len(pictures), 'picture')} in {options.out}{os.sep}, {place.name} the last")


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder to write the pictures to.")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a text file in UTF-8 ({error}).") from None


def _score(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from .gan import Scores
    from .language.model import LanguageModel
    from .pictures import from_network, on_white, read_picture, to_network

    device = _device(options.device)
    images, prompts = [], []
    gan = _load_gan(options, device)
    for path in options.images:
        images.append(from_network(to_network(on_white(read_picture(path)), gan.resolution)))
        with Image.open(path) as image:
            prompts.append(options.prompt if options.prompt is not None else _said_prompt(image.info))
    stack = torch.cat(images)
    scores = gan.score(stack)
    told = [i for i, prompt in enumerate(prompts) if prompt is not None]
    if told:
        model = LanguageModel.load(options.llm or gan.recipe.model, device=device)
        condition = model.encode([prompts[i] for i in told], gan.recipe)
        alignment = scores.alignment.clone()
        alignment[told] = gan.score(stack[told], condition).alignment
        scores = Scores(scores.realism, alignment)
    print("  total  realism  alignment  picture")
    for i in scores.best(len(images)).tolist():
        alignment = f"{scores.alignment[i]:9.2f}" if prompts[i] is not None else "        –"
        print(f"{scores.total[i]:7.2f}  {scores.realism[i]:7.2f}  {alignment}  {options.images[i]}")


def _said_prompt(info: dict) -> str | None:
    """The prompt that `generate` wrote into a picture; ComfyUI writes its graph under the same name."""
    import json

    text = info.get("prompt")
    try:
        return None if isinstance(json.loads(text or ""), dict) else text
    except ValueError:
        return text


def _walk(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from .gan import Latent
    from .language.model import LanguageModel
    from .latents import interpolate, travel

    if len(options.prompts) == len(options.seeds) == 1:
        raise ValueError("A walk needs two stops or more: give several prompts, several --seeds, or both.")
    if not 0.1 <= options.fps <= 100:
        raise ValueError(f"--fps {options.fps:g}: give from 0.1 to 100 frames a second.")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"{options.out} is there already and not an empty folder: name another with --out.")
    device, frames = _device(options.device), options.frames
    gan = _load_gan(options, device)
    enlarger = _enlarger_for(options.enlarge, gan.resolution, device)
    latent = Latent(torch.cat([gan.sample_z(seed, 1) for seed in options.seeds]))
    if len(latent) > 1:
        latent = interpolate(latent, frames, easing=options.easing, loop=options.loop)
    condition = LanguageModel.load(options.llm or gan.recipe.model, device=device).encode(options.prompts, gan.recipe)
    if len(condition) > 1:
        condition = travel(condition, frames, options.easing, options.loop)

    options.out.mkdir(parents=True, exist_ok=True)
    files = [options.out / f"{i:04d}.png" for i in range(frames)]
    with _bar("frames") as bar:
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
        others = (Image.open(file) for file in files[1:])
        quality = {"quality": 90} if options.format == "webp" else {}
        first.save(animation, save_all=True, append_images=others, duration=round(1000 / options.fps), loop=0, **quality)
    print(f"{_count(frames, 'frame')} and {animation.name} in {options.out}{os.sep}")


def _explore(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from .language.model import LanguageModel
    from .pictures import labelled_sheet, save_new, to_uint8

    if options.out.suffix.lower() not in PICTURES:
        raise ValueError(f"{options.out} should end in {', '.join(PICTURES)}: a kind of picture.")

    rows, columns = [(i, psi) for i in range(len(options.prompts)) for psi in options.truncation], options.n
    if not 1 <= columns * len(rows) <= SHOWN:
        raise ValueError(f"{columns} columns of {len(rows)} pictures: a sheet holds from 1 to {SHOWN}.")
    device, seeds = _device(options.device), range(options.seed, options.seed + columns)
    gan = _load_gan(options, device)
    condition = LanguageModel.load(options.llm or gan.recipe.model, device=device).encode(options.prompts, gan.recipe)
    z = torch.cat([gan.sample_z(seed, 1) for seed in seeds])
    pictures = []
    with _bar("rows") as bar:
        for prompt, psi in rows:
            pictures.append(gan.generate(condition[[prompt] * columns], z, psi)[0])
            bar(len(pictures), len(rows))
    names = [f"{_label(options.prompts, i)}psi {psi:g}" for i, psi in rows]
    sheet = to_uint8(labelled_sheet(torch.cat(pictures), [str(seed) for seed in seeds], names))[0]
    print(f"{_count(columns * len(rows), 'picture')} on {save_new(Image.fromarray(sheet), options.out)}")


def _label(prompts: list[str], i: int) -> str:
    """What tells the rows of one prompt from those of others: its text where the font has it, else its number."""
    if len(prompts) == 1:
        return ""
    return f"{prompts[i][:30] if prompts[i].isascii() else f'prompt {i + 1}'}, "


def _from_zero(text: str) -> int:
    """An argparse type: a number from 0."""
    return _number(text, 0)


def _from_one(text: str) -> int:
    """An argparse type: a number from 1."""
    return _number(text, 1)


def _number(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text[:20]) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r:.30} is no number from {least} to {2**63 - 1}.")
    return int(text)


def _seeds(text: str) -> list[int]:
    """An argparse type: "1,2,5" -> [1, 2, 5]."""
    return _numbers(text, int, 2**63 - 1, "seeds")


def _psis(text: str) -> list[float]:
    """An argparse type: "0.4,1" -> [0.4, 1.0]."""
    return _numbers(text, float, 2, "truncations")


def _numbers(text: str, kind: type, most: float, what: str) -> list:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if not all(0 <= number <= most for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r:.60} are no {what}: write numbers from 0 to {most}, with commas between.")
    return numbers


def _restore(options: argparse.Namespace) -> None:
    import torch
    from PIL import Image

    from .language.model import LanguageModel
    from .pictures import read_picture, save_new, to_uint8
    from .restoration import restore, restyle

    if options.style is None and options.keep is not None:
        raise ValueError("--keep says how much stays of a picture that is drawn in another style: give --style too.")
    if options.style is not None and (options.undo or options.mask or options.zoom != 1):
        raise ValueError("A picture is either mended (--undo, --mask, --zoom) or drawn in another style (--style): one at a time.")
    _check_folder(options.out)
    keep = 0.5 if options.keep is None else options.keep
    device = _device(options.device)
    pictures = [read_picture(path) for path in options.images]
    mask = None if options.mask is None else read_picture(options.mask)[..., :3].mean(3)
    undo = [kind.strip() for kind in options.undo.split(",") if kind.strip()]
    gan = _load_gan(options, device)
    model = LanguageModel.load(options.llm or gan.recipe.model, device=device)
    condition = model.encode([options.prompt], gan.recipe)
    style = None if options.style is None else model.encode([options.style], gan.recipe)
    with _bar("steps") as bar, torch.inference_mode():
        for path, picture in zip(options.images, pictures):
            if style is None:
                result = restore(gan, picture, condition, undo, mask, options.zoom, options.steps, bar)
            else:
                result = restyle(gan, picture, condition, style, keep=keep, steps=options.steps, progress=bar)[0]
            written = save_new(Image.fromarray(to_uint8(result)[0]), options.out / f"{path.stem}.png")
    print(f"{written}" if len(pictures) == 1 else f"{len(pictures)} pictures in {options.out}{os.sep}")


def _edit(options: argparse.Namespace) -> None:
    from . import latents
    from .gan import Latent
    from .inversion import invert
    from .language.model import LanguageModel
    from .pictures import contact_sheet, read_picture, save_new

    if not options.out.name.endswith(latents.LATENT_FILE):
        raise ValueError(f"{options.out} should end in {latents.LATENT_FILE}: that is the one format written.")
    if options.out.exists():
        raise FileExistsError(f"{options.out} is there already: choose another name, or move it away.")
    slides, things = _slides(options.slide), latents.colours(options.paint)
    background = None if options.background is None else latents.colour_of(options.background)
    device = _device(options.device)
    gan = _load_gan(options, device)
    layers = latents.layers_of(gan.generator, options.layers.split(" and "))
    condition = LanguageModel.load(options.llm or gan.recipe.model, device=device).encode([options.prompt], gan.recipe)

    def source(text: str) -> Latent:
        if text.isdigit():
            return Latent(gan.sample_z(int(text), 1))
        if text.endswith(latents.LATENT_FILE):
            found = latents.load_latent(Path(text))[0]
            gan.check_latent(found)
            return found
        with _bar("steps") as bar:
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
        latent = latents.mix(gan.generator, drawn(latent)[1], style, layers, strength=options.strength)
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
    print(f"{_count(len(latent), 'latent')} in {options.out}, drawn on {sheet}")


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


def _models(options: argparse.Namespace) -> None:
    from .checkpoint import DEFAULT_GAN, load_card
    from .language.catalogue import default_home, find_language_models

    print("Language models:")
    for name, path in find_language_models([default_home(), *options.folder]).items():
        print(f"  {name}  {path}")
    print("GANs:")
    for path in [DEFAULT_GAN, *(p for folder in options.folder for p in sorted(folder.rglob("*.safetensors")))]:
        try:
            card, recipe, resolution = load_card(path)
        except (ValueError, FileNotFoundError):
            continue
        print(f"  {card.name}  {resolution} px, reads {recipe.model}, {', '.join(card.licenses) or 'no licence given'}  {path}")


def _train(options: argparse.Namespace) -> None:
    from .training.run import train_folder

    run = options.run_dir or _run_of(options.out)
    settings = _training_settings(options)
    device = _own_device(options.device)
    with _bar("pictures") as bar, _stop_between_steps(bar) as progress:
        train_folder(
            options.data, options.out, run, resolution=options.resolution, preset=options.preset, settings=settings,
            resume=options.resume, start_from=options.start_from, llm=options.llm, device=device,
            tensorboard=options.tensorboard, progress=progress,
        )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(f"{options.out}, with its log and samples in {run}{os.sep}")


def _train_encoder(options: argparse.Namespace) -> None:
    from .training.encoder import train_encoder_folder

    run = options.run_dir or options.gan.with_name(f"{options.gan.stem}-encoder")
    device = _device(options.device)
    with _bar("pictures") as bar, _stop_between_steps(bar) as progress:
        written = train_encoder_folder(
            options.gan, options.data, run, images=options.images, seed=options.seed, resume=options.resume,
            start_from=options.start_from, llm=options.llm, device=device, progress=progress,
        )  # fmt: skip
    print(f"{written}, with its log and samples in {run}{os.sep}")


def _train_enlarger(options: argparse.Namespace) -> None:
    from .enlarger import SUFFIX
    from .training.enlarger import train_enlarger

    if not options.out.name.endswith(SUFFIX):
        raise ValueError(f"{options.out} should end in {SUFFIX}, by which enlargers are found.")
    run, device = options.run_dir or _run_of(options.out), _device(options.device)
    with _bar("pictures") as bar, _stop_between_steps(bar) as progress:
        enlarger = train_enlarger(
            options.data, options.out, run, resolution=options.resolution, images=options.images, seed=options.seed,
            resume=options.resume, device=device, progress=progress,
        )  # fmt: skip
    print(f"{options.out}: {', '.join(f'{name} {value:.1f} dB' for name, value in enlarger.card.metrics.items())}")


def _run_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}-run")


def _training_settings(options: argparse.Namespace) -> dict:
    settings = {} if options.config is None else _settings(options.config)
    given = {name: getattr(options, name) for name in ("images", "batch_size", "scenes", "seed")}
    return settings | {name: value for name, value in given.items() if value is not None}


def _settings(path: Path) -> dict:
    import json

    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} should hold one JSON object, as a run's config.json does.")
    return settings


@contextmanager
def _stop_between_steps(progress):
    """`progress`, raising KeyboardInterrupt at the end of the step in which Ctrl-C was pressed; a second one does at once."""
    pressed = False

    def press(*_):
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    def step(*report):
        progress(*report)
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield step
    finally:
        signal.signal(signal.SIGINT, before)


def _evaluate(options: argparse.Namespace) -> None:
    from .checkpoint import note_metrics
    from .evaluation.evaluate import evaluate, open_folder
    from .evaluation.report import in_short
    from .language.model import LanguageModel

    out = options.out or options.gan.with_name(f"{options.gan.stem}-evaluation")
    examples = open_folder(options.data, out, options.captions)
    device = _device(options.device)
    gan = _load_gan(options, device)
    model = LanguageModel.load(options.llm or gan.recipe.model, device=device)
    with _bar("captions and pictures") as bar:
        result = evaluate(
            gan, model, examples, out, data=options.data.resolve().name, seed=options.seed, captions=options.captions, progress=bar
        )
    if options.note:
        note_metrics(options.gan, in_short(result))
    print(f"evaluation.md, evaluation.json and the sheets in {out}{os.sep}")


def _convert(options: argparse.Namespace) -> None:
    import torch

    from .published.convert import convert

    names = [] if options.classes is None else _lines(options.classes)
    dtype = torch.float16 if options.half else torch.float32
    with _bar("pictures") as bar:
        gan = convert(options.source, options.out, names, llm=options.llm, licenses=options.license, dtype=dtype, progress=bar)
    judged = "with" if gan.discriminator else "without"
    print(f"{options.out}: {gan.resolution} px, {judged} its discriminator, {options.out.stat().st_size / 1e6:.1f} MB")


def _compress(options: argparse.Namespace) -> None:
    import torch

    from .checkpoint import load_gan, preview, read_metadata, save_gan
    from .training.distill import distill_folder
    from .training.run import check_out

    if options.share is None:
        if not options.int8:
            raise ValueError("There is nothing to do: ask for --int8, for a student with --share, or for both.")
        check_out(options.out)
        save_gan(load_gan(options.gan), options.out, torch.int8, preview(read_metadata(options.gan)))
    else:
        if options.data is None:
            raise ValueError("A student learns from captions: give the folder that the GAN was trained on with --data.")
        run, dtype = options.run_dir or _run_of(options.out), torch.int8 if options.int8 else torch.float16
        settings, device = _training_settings(options), _device(options.device)
        with _bar("pictures") as bar, _stop_between_steps(bar) as progress:
            distill_folder(
                options.gan, options.data, options.out, run, share=options.share, dtype=dtype, preset=options.preset,
                settings=settings, resume=options.resume, llm=options.llm, device=device, progress=progress,
            )  # fmt: skip
    before, after = (path.stat().st_size / 1e6 for path in (options.gan, options.out))
    print(f"{options.gan} {before:.1f} MB, {options.out} {after:.1f} MB")


def _icons(options: argparse.Namespace) -> None:
    from .data.icons import build

    sets = ("mit", "apache", "cc-by") if options.cc_by else ("mit", "apache")
    with _bar("drawings") as bar:
        summary = build(options.packages, options.out, size=options.size, sets=sets, fetch=options.fetch, progress=bar)
    print(f"{summary['drawings']} drawings of {summary['concepts']} concepts in {options.out}{os.sep}")


def _benchmark(options: argparse.Namespace) -> None:
    import torch

    from .benchmark.benchmark import RIVALS, benchmark
    from .language.model import LanguageModel

    try:
        resolutions = tuple(int(text) for text in options.resolutions.split(","))
    except ValueError:
        raise ValueError(f"--resolutions {options.resolutions}: give numbers of pixels, such as 128,256.") from None
    if options.threads < 1:
        raise ValueError(f"--threads {options.threads}: one is the least.")
    rivals = tuple(RIVALS) if options.rivals is None else tuple(filter(None, options.rivals.split(",")))
    torch.set_num_threads(options.threads)
    device = _device(options.device)
    gan = _load_gan(options, device)
    name = options.llm or gan.recipe.model
    model = LanguageModel.load(name, device=device)
    whole = LanguageModel.load(name, device=device, dtype=torch.bfloat16, write=True)
    benchmark(gan, model, whole, options.out, resolutions, rivals, options.quick, lambda what: print(f"{what} …", flush=True))
    print(f"benchmark.md, benchmark.json and benchmark.png in {options.out}{os.sep}")


def _load_gan(options: argparse.Namespace, device):
    import torch

    from .checkpoint import DEFAULT_GAN
    from .published.checkpoint import load

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    auto = torch.float16 if device.type == "cuda" else torch.float32
    return load(options.gan or DEFAULT_GAN, device, kinds.get(options.dtype, auto))


def _device(name: str):
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}).") from None
    return device


def _own_device(name: str):
    """`_device`, and of several GPUs the one that this process was given by `torchrun` or `accelerate launch`."""
    device = _device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = _device(f"cuda:{os.environ['LOCAL_RANK']}")
    return device


@contextmanager
def _stage(name: str):
    """Say what is done and how long it took."""
    start = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - start:.2f} s")


@contextmanager
def _bar(unit: str):
    """A progress bar as a callback `progress(done, total, …)`; on a terminal only."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=None, leave=False) as bar:

        def progress(done: int, total: int, figures: dict[str, float] | object = None) -> None:
            bar.total = total
            if isinstance(figures, dict):
                bar.set_postfix({k: f"{figures[k]:.2f}" for k in ("paired", "pixel") if k in figures}, refresh=False)
            bar.update(done - bar.n)

        yield progress


def _slug(text: str) -> str:
    """A file name that keeps letters of every script."""
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:40] or "empty"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
