"""The commands that make GANs, and list, judge and measure them."""

import argparse
import os
import signal
from contextlib import contextmanager
from pathlib import Path

from .shared import find_device, open_gan, own_device, progress_bar, read_lines


def models(options: argparse.Namespace) -> None:
    from ..checkpoint import DEFAULT_GAN, load_card
    from ..language.catalogue import default_home, find_language_models

    for folder in options.folder:
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder}.")
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


def train(options: argparse.Namespace) -> None:
    from ..training.run import train_folder

    run = options.run_dir or _run_of(options.out)
    settings = _training_settings(options)
    device = own_device(options.device)
    with progress_bar("pictures") as bar, _stop_between_steps(bar) as progress:
        train_folder(
            options.data, options.out, run, resolution=options.resolution, preset=options.preset, settings=settings,
            resume=options.resume, start_from=options.start_from, llm=options.llm, device=device,
            tensorboard=options.tensorboard, progress=progress,
        )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(f"{options.out}, with its log and samples in {run}{os.sep}")


def train_encoder(options: argparse.Namespace) -> None:
    from ..training.encoder import train_encoder_folder

    run = options.run_dir or options.gan.with_name(f"{options.gan.stem}-encoder")
    device = find_device(options.device)
    with progress_bar("pictures") as bar, _stop_between_steps(bar) as progress:
        written = train_encoder_folder(
            options.gan, options.data, run, images=options.images, seed=options.seed, resume=options.resume,
            start_from=options.start_from, llm=options.llm, device=device, progress=progress,
        )  # fmt: skip
    print(f"{written}, with its log and samples in {run}{os.sep}")


def train_enlarger(options: argparse.Namespace) -> None:
    from ..enlarger import SUFFIX
    from ..training.enlarger import train_enlarger

    if not options.out.name.endswith(SUFFIX):
        raise ValueError(f"{options.out} should end in {SUFFIX}, by which enlargers are found.")
    run, device = options.run_dir or _run_of(options.out), find_device(options.device)
    with progress_bar("pictures") as bar, _stop_between_steps(bar) as progress:
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
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} should hold one JSON object, as a run's config.json does.")
    return settings


@contextmanager
def _stop_between_steps(progress):
    """`progress`, raising KeyboardInterrupt at the end of the step in which Ctrl-C was pressed; a second one does at once. Of
    several processes the others report a connection that breaks then as the same."""
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
    except RuntimeError:
        if pressed and os.environ.get("RANK", "0") != "0":  # it waited for the first process, which has stopped
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def evaluate(options: argparse.Namespace) -> None:
    from ..checkpoint import note_metrics
    from ..evaluation.evaluate import evaluate, open_folder
    from ..evaluation.report import in_short
    from ..language.model import LanguageModel

    out = options.out or options.gan.with_name(f"{options.gan.stem}-evaluation")
    examples = open_folder(options.data, out, options.captions)
    device = find_device(options.device)
    gan = open_gan(options, device)
    model = LanguageModel.load(options.llm or gan.recipe.model, device=device)
    with progress_bar("captions and pictures") as bar:
        result = evaluate(
            gan, model, examples, out, data=options.data.resolve().name, seed=options.seed, captions=options.captions,
            progress=bar,
        )  # fmt: skip
    if options.note:
        note_metrics(options.gan, in_short(result))
    print(f"evaluation.md, evaluation.json and the sheets in {out}{os.sep}")


def convert(options: argparse.Namespace) -> None:
    import torch

    from ..published.convert import convert

    names = [] if options.classes is None else read_lines(options.classes)
    dtype = torch.float16 if options.half else torch.float32
    with progress_bar("pictures") as bar:
        gan = convert(options.source, options.out, names, llm=options.llm, licenses=options.license, dtype=dtype, progress=bar)
    judged = "with" if gan.discriminator else "without"
    print(f"{options.out}: {gan.resolution} px, {judged} its discriminator, {options.out.stat().st_size / 1e6:.1f} MB")


def compress(options: argparse.Namespace) -> None:
    import torch

    from ..checkpoint import load_gan, preview, read_metadata, save_gan
    from ..training.distill import distill_folder
    from ..training.run import check_out

    if options.share is None:
        if not options.int8:
            raise ValueError("There is nothing to do: ask for --int8, for a student with --share, or for both.")
        check_out(options.out)
        save_gan(load_gan(options.gan), options.out, torch.int8, preview(read_metadata(options.gan)))
    else:
        if options.data is None:
            raise ValueError("A student learns from captions: give the folder that the GAN was trained on with --data.")
        run, dtype = options.run_dir or _run_of(options.out), torch.int8 if options.int8 else torch.float16
        settings, device = _training_settings(options), find_device(options.device)
        with progress_bar("pictures") as bar, _stop_between_steps(bar) as progress:
            distill_folder(
                options.gan, options.data, options.out, run, share=options.share, dtype=dtype, preset=options.preset,
                settings=settings, resume=options.resume, llm=options.llm, device=device, progress=progress,
            )  # fmt: skip
    before, after = (path.stat().st_size / 1e6 for path in (options.gan, options.out))
    print(f"{options.gan} {before:.1f} MB, {options.out} {after:.1f} MB")


def icons(options: argparse.Namespace) -> None:
    from ..data.icons import build

    sets = ("mit", "apache", "cc-by") if options.cc_by else ("mit", "apache")
    with progress_bar("drawings") as bar:
        summary = build(options.packages, options.out, size=options.size, sets=sets, fetch=options.fetch, progress=bar)
    print(f"{summary['drawings']} drawings of {summary['concepts']} concepts in {options.out}{os.sep}")


def benchmark(options: argparse.Namespace) -> None:
    import torch

    from ..benchmark.benchmark import RIVALS, benchmark, check_choice
    from ..language.model import LanguageModel

    try:
        resolutions = tuple(int(text) for text in options.resolutions.split(","))
    except ValueError:
        raise ValueError(f"--resolutions {options.resolutions}: give numbers of pixels, such as 128,256.") from None
    if options.threads < 1:
        raise ValueError(f"--threads {options.threads}: one is the least.")
    rivals = tuple(RIVALS) if options.rivals is None else tuple(filter(None, options.rivals.split(",")))
    check_choice(resolutions, rivals)
    torch.set_num_threads(options.threads)
    device = find_device(options.device)
    gan = open_gan(options, device)
    name = options.llm or gan.recipe.model
    model = LanguageModel.load(name, device=device)
    whole = LanguageModel.load(name, device=device, dtype=torch.bfloat16, write=True)
    benchmark(gan, model, whole, options.out, resolutions, rivals, options.quick, lambda what: print(f"{what} …", flush=True))
    print(f"benchmark.md, benchmark.json and benchmark.png in {options.out}{os.sep}")
