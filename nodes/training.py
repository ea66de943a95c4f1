"""The nodes that train: a folder of captioned pictures, and the GAN that learns them."""

import hashlib
from pathlib import Path

import torch
from comfy_api.latest import io

from ..models.data.folder import read_first, read_folder
from ..models.gan import AnyGAN
from ..models.language.catalogue import DEFAULT_LANGUAGE_MODEL
from ..models.training.run import train_folder
from ..models.training.state import is_finished, note_finished
from ..models.training.trainer import PRESETS
from . import comfyui
from .gan import shared
from .language import language_models
from .schema import DATASET, GAN, TRAINING, declare, options

_SHOWN = 16  # pictures of a data set
_LINES = 64  # of a report, on the node
_SAVE_EVERY = 60.0  # seconds; each time the node shows new samples


class Dataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Dataset",
            display_name="Captioned Pictures",
            category=TRAINING,
            description=(
                "Reads a folder of captioned pictures to train on: a .txt file of captions beside each picture, a"
                " metadata.jsonl or captions.csv, or a sub-folder for each class."
            ),
            search_aliases=["dataset", "training data", "load images", "captions"],
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="Full path, or the name of a folder in ComfyUI/input.",
                ),
            ],
            outputs=[
                DATASET.Output("dataset", display_name="dataset", tooltip="For Train Conditional GAN."),
                io.Image.Output("pictures", display_name="IMAGE", tooltip="The first few, as the training sees them."),
                io.String.Output(
                    "report", display_name="report", tooltip="What was found, and every file that is skipped, with why."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder):
        if folder is None:  # linked: what the other node gives is compared
            return None
        place = comfyui.input_folder(folder)
        return comfyui.stamp(place) if place.is_dir() else None

    @classmethod
    def execute(cls, folder) -> io.NodeOutput:
        place = comfyui.input_folder(folder)
        examples, skipped = read_folder(place)
        first = read_first(examples, _SHOWN, 128)
        unusable, skipped = {path for path, _ in first.skipped}, skipped + first.skipped
        splits = [example.split for example in examples if example.path not in unusable]
        lines = [f"{len(splits)} pictures, {splits.count('train')} of them to train on, {len(skipped)} files skipped"]
        if unopened := len(examples) - len(first.examples) - len(first.skipped):
            listed = "output/llm-gan/<name>/skipped.txt"
            lines.append(f"{unopened} of the pictures are opened when training begins; {listed} will say which cannot be used")
        lines += [f"{path}: {reason}" for path, reason in skipped]
        comfyui.show_text(cls, "\n".join(lines[:_LINES]))
        return io.NodeOutput(place, comfyui.image(first.pixels.permute(0, 2, 3, 1).float() / 255), "\n".join(lines))


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Train",
            display_name="Train Conditional GAN",
            category=TRAINING,
            description=(
                "Trains generator and discriminator together on captioned pictures, and shows what they draw as they"
                " learn. The GAN is written to ComfyUI/models/gan; Cancel keeps what was learnt, and resume goes on."
            ),
            search_aliases=["train", "fine-tune", "finetune", "gan training"],
            inputs=[
                DATASET.Input("dataset", tooltip="From Captioned Pictures."),
                io.String.Input(
                    "name", default="my-gan", tooltip="Of the file in ComfyUI/models/gan, and of the run's folder in output."
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="quick",
                    tooltip="How often each picture is shown: " + ", ".join(
                        f"{name} {times} times, at least {least:,} in all" for name, (times, least) in PRESETS.items()
                    ) + ". A run that is resumed may be made longer by it, not shorter.",
                ),
                io.Combo.Input(
                    "resolution",
                    options=["32", "64", "128", "256", "512"],
                    default="64",
                    tooltip="Side of the pictures in pixels. 64 learns on a CPU; more wants a GPU.",
                ),
                io.Int.Input(
                    "images", default=0, min=0, max=2**31 - 1, tooltip="Pictures to show in all; 0 leaves it to the preset."
                ),
                io.Int.Input("batch_size", default=8, min=2, max=1024, tooltip="Pictures in a step."),
                # Without a control that draws another seed after each run, which would train anew.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="The same seed trains the same GAN.",
                ),
                io.Boolean.Input(
                    "resume", default=False, tooltip="Go on with the run of this name where it was stopped, exactly."
                ),
                io.Combo.Input(
                    "llm",
                    options=options(language_models, DEFAULT_LANGUAGE_MODEL),
                    tooltip="The language model that reads the captions, once; prompts must be read by the same.",
                ),
                GAN.Input(
                    "start_from",
                    optional=True,
                    tooltip="Begin with the weights of this GAN, of this resolution or smaller, and add what is new to it.",
                ),
                io.Int.Input(
                    "scenes",
                    default=0,
                    min=0,
                    max=100_000,
                    optional=True,
                    tooltip=(
                        "Sentences such as 'a cat left of a dog' to write about the pictures and learn from, 10000 for some"
                        " thousand pictures of single things on nothing; 0 for none. Needs short names as captions, and 64 px."
                    ),
                ),
            ],
            outputs=[
                GAN.Output("trained", display_name="GAN", tooltip="The trained GAN, as Load Conditional GAN gives it."),
                io.Custom("LOSS_MAP").Output(
                    "losses", display_name="loss", tooltip="Distance from the pictures, for ComfyUI's Plot Loss Graph."
                ),
                io.String.Output("file", display_name="file", tooltip="Where the GAN was written."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, dataset, name, preset, resolution, images, batch_size, seed, resume, llm, start_from=None, scenes=0
    ) -> io.NodeOutput:
        out, run = comfyui.training_paths(name)
        settings = {"batch_size": batch_size, "seed": seed}
        settings |= {name: value for name, value in (("images", images), ("scenes", scenes)) if value}  # or the run's own
        asked = settings | {"preset": preset, "resolution": resolution, "llm": llm}
        start = None if start_from is None else start_from.unrounded()
        asked |= {"pictures": _files_of(dataset), "start_from": None if start is None else _weights_of(start)}
        if not resume and out.exists() and is_finished(run, asked):
            comfyui.show_text(cls, "Trained before, from the same pictures with the same settings. Another name trains anew.")
            return io.NodeOutput(shared(out, "auto"), comfyui.nothing(), str(out))
        report = comfyui.TrainingReport(cls)
        comfyui.make_room()
        # The executor runs nodes under inference mode, whose tensors cannot be trained.
        with torch.inference_mode(False), torch.enable_grad():
            train_folder(
                dataset,
                out,
                run,
                resolution=int(resolution),
                preset=preset,
                settings=settings,
                resume=resume,
                start_from=start,
                llm=language_models().get(llm, llm),
                device=comfyui.generator_devices()[0],
                save_every=_SAVE_EVERY,
                progress=report.step,
                show=report.show,
            )
            note_finished(run, asked)
        # Plot Loss Graph cannot draw less; the rest of the graph goes on without it.
        losses = {"loss": report.losses} if len(set(report.losses)) > 1 else comfyui.nothing()
        return io.NodeOutput(shared(out, "auto"), losses, str(out))


def _files_of(folder: Path) -> str:
    """Another text whenever a file in the folder is another, which may be tens of thousands."""
    return hashlib.sha256(repr(comfyui.stamp(folder)).encode(errors="surrogateescape")).hexdigest()


def _weights_of(gan: AnyGAN) -> float:
    """Another number for another generator."""
    return sum(float(weights.double().sum()) for weights in gan.generator.parameters())
