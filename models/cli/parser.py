"""What `llm-gan` is told: its commands and their options."""

import argparse
from importlib import metadata
from pathlib import Path

from . import gans, pictures
from .shared import LARGEST, is_number

DTYPES = ("auto", "fp32", "fp16", "bf16")
MOST_PSI = 2  # as models.gan has it, which takes long to import


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llm-gan", description="A prompt becomes a picture in one forward pass.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=function)
        return added

    def add_device(to: argparse.ArgumentParser) -> None:
        to.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps … (auto)")

    def add_run(to: argparse.ArgumentParser, place: str) -> None:
        to.add_argument("--run-dir", type=Path, metavar="DIR", help=f"log, samples, state to resume from ({place})")
        to.add_argument("--seed", type=int, help="(0)")
        to.add_argument("--resume", action="store_true", help="go on with the run in --run-dir, exactly where it stopped")
        add_device(to)

    def add_models(to: argparse.ArgumentParser, gan: bool = True) -> None:
        if gan:
            to.add_argument("--gan", type=Path, metavar="FILE", help="GAN checkpoint (the bundled icons model)")
        to.add_argument("--llm", metavar="MODEL", help="language model: a name of `llm-gan models`, a folder or a .gguf")
        add_device(to)
        to.add_argument("--dtype", default="auto", choices=DTYPES, help="precision of the GAN (auto: fp16 on a GPU, else fp32)")

    generate = command("generate", pictures.generate, "Draw pictures from prompts.")
    generate.add_argument("prompts", nargs="*", metavar="PROMPT")
    generate.add_argument("--prompts", dest="file", type=Path, metavar="FILE", help="a text file of more of them, one a line")
    generate.add_argument("-n", type=int, default=4, help="pictures for each prompt (4)")
    generate.add_argument("--seed", type=_from_zero, default=0, help="the same seed draws the same pictures (0)")
    generate.add_argument("--truncation", type=_psi, default=1.0, metavar="PSI", help="below 1: less varied (1.0)")
    generate.add_argument("--expand", action="store_true", help="let the language model describe the picture first")
    generate.add_argument("--transparent", action="store_true", help="leave the background out (a GAN trained with scenes)")
    generate.add_argument("--enlarge", type=int, metavar="TIMES", help="write the pictures 2, 4 or 8 times as large")
    generate.add_argument("--columns", type=_from_one, help="width of the contact sheet in pictures (N)")
    generate.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the pictures (out)")
    add_models(generate)

    score = command("score", pictures.score, "Score pictures with the discriminator, best first.")
    score.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    score.add_argument("--prompt", help="what they should show (default: the prompt that each picture carries, if any)")
    add_models(score)

    walk = command("walk", pictures.walk, "Walk along prompts, seeds or both: frames, and an animation of them.")
    walk.add_argument("prompts", nargs="+", metavar="PROMPT", help="one, or several to travel along")
    walk.add_argument("--seeds", type=_seeds, default=[0], metavar="SEED,SEED", help="one, or several to walk along (0)")
    walk.add_argument("--frames", type=int, default=48, help="of the whole walk (48)")
    walk.add_argument("--loop", action="store_true", help="go back to the beginning, so that the animation has no end")
    walk.add_argument("--easing", default="linear", help="linear, or smooth, which slows down at every stop (linear)")
    walk.add_argument("--truncation", type=_psi, default=1.0, metavar="PSI", help="below 1: less varied (1.0)")
    walk.add_argument("--enlarge", type=int, metavar="TIMES", help="write the frames 2, 4 or 8 times as large")
    walk.add_argument("--fps", type=float, default=12, help="frames a second (12)")
    walk.add_argument("--format", default="webp", choices=("webp", "gif"), help="of the animation (webp)")
    walk.add_argument("--out", type=Path, default=Path("walk"), metavar="DIR", help="new or empty folder for them (walk)")
    add_models(walk)

    explore = command("explore", pictures.explore, "Show what prompts give: a column for each seed, a row for each truncation.")
    explore.add_argument("prompts", nargs="+", metavar="PROMPT", help="each has rows of its own")
    explore.add_argument("--seed", type=_from_zero, default=0, help="of the first column; the next is one more (0)")
    explore.add_argument("-n", type=int, default=8, help="columns (8)")
    explore.add_argument("--truncation", type=_psis, default=[0.4, 0.7, 1.0], metavar="PSI,PSI", help="(0.4,0.7,1.0)")
    explore.add_argument("--out", type=Path, default=Path("explore.png"), metavar="FILE", help="picture to write (explore.png)")
    add_models(explore)

    restore = command("restore", pictures.restore, "Mend pictures, or give them another style.")
    restore.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    restore.add_argument("--prompt", default="", help="what they show (nothing said)")
    restore.add_argument("--undo", default="", metavar="KINDS", help="what spoils them: denoise,deblur,colourise,unjpeg")
    restore.add_argument("--mask", type=Path, metavar="IMAGE", help="white where they are lost, of any size")
    restore.add_argument("--zoom", type=float, default=1.0, help="times larger (1)")
    restore.add_argument("--style", metavar="PROMPT", help="draw them anew by this prompt, which names a style, instead")
    restore.add_argument("--keep", type=float, help="with --style: how much of the picture stays, 0 to 1 (0.25)")
    restore.add_argument("--steps", type=_from_zero, default=0, help="of optimisation; 0 is one pass (0)")
    restore.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the pictures (out)")
    add_models(restore)

    enlarge = command("enlarge", pictures.enlarge, "Make drawings 2, 4 or 8 times as large, with crisp edges.")
    enlarge.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    enlarge.add_argument("--times", type=int, default=4, help="as large: 2, 4 or 8 (4)")
    enlarge.add_argument("--enlarger", type=Path, metavar="FILE", help="of `llm-gan train-enlarger` (the bundled one)")
    add_device(enlarge)
    enlarge.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the pictures (out)")

    edit = command(
        "edit",
        pictures.edit,
        "Make latents of seeds, pictures or latents, change them, and draw them: in this order of options.",
    )
    edit.add_argument("sources", nargs="+", metavar="SOURCE", help="a seed, a picture, or a .latent.safetensors file")
    edit.add_argument("--prompt", required=True, help="what they show, and what is drawn")
    edit.add_argument("--steps", type=_from_zero, default=100, help="of optimisation, to see a picture (100)")
    edit.add_argument("--pick", metavar="PLACES", help="take some of them: 0, 3, 5-7 (--pick=-1: the last)")
    edit.add_argument("--average", action="store_true", help="take what they have in common")
    edit.add_argument("--style", metavar="SOURCE", help="take the styles of this one")
    edit.add_argument(
        "--layers", default="middle and fine", help="of the style and of the slides: coarse, middle, fine, all, or two"
    )
    edit.add_argument("--strength", type=float, default=1.0, help="of the style: 0 to 2 (1)")
    edit.add_argument("--slide", default="", metavar="N=FAR,N=FAR", help="move along the Nth direction: 1=4,3=-2.5")
    edit.add_argument("--method", default="sefa", help="of finding directions: sefa or pca (sefa)")
    edit.add_argument(
        "--paint",
        metavar="COLOURS",
        default="",
        help="things, in the order of the prompt: red, -, #3366cc; - leaves one (--paint=-,red)",
    )
    edit.add_argument("--background", metavar="COLOUR", help="put them on this colour")
    edit.add_argument("--vary", type=_from_one, metavar="N", help="make N variations of each")
    edit.add_argument("--variation", type=float, default=0.3, help="how far they go, 0 to 1 (0.3)")
    edit.add_argument("--seed", type=_from_zero, default=0, help="of the variations (0)")
    edit.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file.latent.safetensors to write; a .png goes beside it"
    )
    add_models(edit)

    command("models", gans.models, "List the language models and GANs at hand.").add_argument(
        "--folder", type=Path, action="append", default=[], metavar="DIR", help="look here too"
    )

    train = command("train", gans.train, "Train a GAN on a folder of captioned pictures.")
    train.add_argument("data", type=Path, metavar="DIR")
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    train.add_argument("--resolution", type=int, help="pixels, a power of two from 16 to 512 (64, or those of --start-from)")
    train.add_argument("--preset", help="quick, balanced or best: how often each picture is shown (balanced, or the run's)")
    train.add_argument("--images", type=int, help="pictures to show in all (the preset's)")
    train.add_argument("--batch-size", type=int, help="of each process (8)")
    train.add_argument(
        "--scenes", type=int, metavar="N", help="learn from N sentences over up to three of the pictures too (0)"
    )
    train.add_argument("--config", type=Path, metavar="FILE", help="JSON with any other setting, as a run's config.json")
    train.add_argument("--start-from", type=Path, metavar="FILE", help="begin with this checkpoint, of this resolution or less")
    train.add_argument("--llm", metavar="MODEL", help="language model that reads the captions")
    train.add_argument("--tensorboard", action="store_true", help="write the figures for TensorBoard too")
    add_run(train, "FILE-run")

    encoder = command(
        "train-encoder", gans.train_encoder, "Train what lets a GAN see pictures: to restore, restyle and edit them."
    )
    encoder.add_argument("gan", type=Path, metavar="FILE", help="GAN checkpoint; the encoder is written beside it")
    encoder.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that it was trained on")
    encoder.add_argument("--images", type=int, help="pictures to show in all (60000)")
    encoder.add_argument(
        "--start-from", type=Path, metavar="FILE", help="begin with the encoder of this GAN, of the same shape"
    )
    encoder.add_argument("--llm", metavar="MODEL", help="language model that reads the captions")
    add_run(encoder, "FILE-encoder")

    enlarger = command("train-enlarger", gans.train_enlarger, "Train what makes pictures of a kind larger.")
    enlarger.add_argument("data", type=Path, metavar="DIR", help="the folder that the GAN was trained on")
    enlarger.add_argument("--out", type=Path, required=True, metavar="FILE", help="NAME.enlarger.safetensors, to write")
    enlarger.add_argument("--resolution", type=int, help="of the pictures that it learns to draw (128, or the resumed run's)")
    enlarger.add_argument("--images", type=int, help="parts of pictures to show in all (100000)")
    add_run(enlarger, "FILE-run")

    evaluate = command(
        "evaluate", gans.evaluate, "Judge a GAN on a folder of captioned pictures: figures, and pictures to look at."
    )
    evaluate.add_argument("gan", type=Path, metavar="FILE", help="GAN checkpoint")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that it was trained on")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="folder for the report and its cache (FILE-evaluation)")
    evaluate.add_argument("--captions", type=int, default=200, help="captions of each kind to draw (200)")
    evaluate.add_argument("--seed", type=int, default=0, help="the same seed gives the same figures (0)")
    evaluate.add_argument("--note", action="store_true", help="write the figures into FILE too, for whoever loads it")
    add_models(evaluate, gan=False)

    convert = command("convert", gans.convert, "Make a published GAN, StyleGAN2 or 3, BigGAN or GALIP, one of these files.")
    convert.add_argument(
        "source", type=Path, metavar="FILE", help="a .pkl or .pt of StyleGAN, BigGAN's pytorch_model.bin, GALIP's .pth"
    )
    convert.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    convert.add_argument(
        "--classes", type=Path, metavar="FILE", help="names of its classes, a class a line, commas between names"
    )
    convert.add_argument("--license", action="append", default=[], metavar="TEXT", help="that it was published under")
    convert.add_argument("--half", action="store_true", help="store what works on pixels as fp16: half the size")
    convert.add_argument(
        "--llm", metavar="MODEL", help="language model that finds the classes (the default one), or CLIP's folder"
    )

    compress = command("compress", gans.compress, "Make a GAN smaller: int8 weights, or a student with fewer channels.")
    compress.add_argument("gan", type=Path, metavar="FILE", help="GAN checkpoint")
    compress.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    compress.add_argument("--int8", action="store_true", help="store matrices as int8: near half the size, the same pictures")
    compress.add_argument(
        "--share", type=float, metavar="S", help="train a student with this share of the channels, such as 0.5"
    )
    compress.add_argument(
        "--data", type=Path, metavar="DIR", help="for a student: the folder of captions that it is trained on"
    )
    compress.add_argument("--preset", help="quick, balanced or best, as of train (balanced, or the run's)")
    compress.add_argument("--images", type=int, help="pictures to show in all (the preset's)")
    compress.add_argument("--batch-size", type=int, help="(8)")
    compress.add_argument("--scenes", type=int, metavar="N", help="show N scenes of several things too (0)")
    compress.add_argument("--config", type=Path, metavar="FILE", help="JSON with any other setting, as a run's config.json")
    compress.add_argument("--llm", metavar="MODEL", help="language model that reads the captions (the GAN's)")
    add_run(compress, "--out's FILE-run")

    icons = command("icons", gans.icons, "Build the icon data set that the bundled model was trained on.")
    icons.add_argument("--packages", type=Path, required=True, metavar="DIR", help="tarballs made by `npm pack`")
    icons.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder for the data set")
    icons.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (128)")
    icons.add_argument("--cc-by", action="store_true", help="use the CC-BY-4.0 sets too, which ask for attribution")
    icons.add_argument("--fetch", action="store_true", help="fetch missing packages with npm (uses the network)")

    benchmark = command("benchmark", gans.benchmark, "Measure how fast it is, beside rivals and what the machine can do.")
    benchmark.add_argument("--quick", action="store_true", help="few measurements: does all of it work?")
    benchmark.add_argument("--out", type=Path, default=Path("benchmark"), metavar="DIR", help="for the report (benchmark)")
    benchmark.add_argument("--resolutions", default="64,128,256,512", metavar="PX,…", help="(64,128,256,512)")
    benchmark.add_argument("--rivals", metavar="NAME,…", help="sd-turbo,lcm,biggan,lightweight-gan (all that are installed)")
    benchmark.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    add_models(benchmark)
    return parser


def _version() -> str:
    try:
        return metadata.version("llm-gan")
    except metadata.PackageNotFoundError:  # as a folder of custom_nodes
        return "(not installed)"


def _from_zero(text: str) -> int:
    """An argparse type: a number from 0."""
    return _number(text, 0)


def _from_one(text: str) -> int:
    """An argparse type: a number from 1."""
    return _number(text, 1)


def _number(text: str, least: int) -> int:
    if not is_number(text, least):
        raise argparse.ArgumentTypeError(f"{text!r:.30} is no number from {least} to {LARGEST}.")
    return int(text)


def _seeds(text: str) -> list[int]:
    """An argparse type: "1,2,5" -> [1, 2, 5]."""
    return _numbers(text, int, LARGEST, "seeds")


def _psis(text: str) -> list[float]:
    """An argparse type: "0.4,1" -> [0.4, 1.0]."""
    return _numbers(text, float, MOST_PSI, "truncations")


def _psi(text: str) -> float:
    """An argparse type: "0.7" -> 0.7."""
    if not (found := _within([text], float, MOST_PSI)):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no truncation: write a number from 0 to {MOST_PSI}.")
    return found[0]


def _numbers(text: str, kind: type, most: float, what: str) -> list:
    if not (numbers := _within(text.split(","), kind, most)):
        raise argparse.ArgumentTypeError(f"{text!r:.60} are no {what}: write numbers from 0 to {most}, with commas between.")
    return numbers


def _within(parts: list[str], kind: type, most: float) -> list:
    """The numbers that all parts are; none where one is no number from 0 to `most`."""
    try:
        numbers = [kind(part) for part in parts]
    except ValueError:
        return []
    return numbers if all(0 <= number <= most for number in numbers) else []
