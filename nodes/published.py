"""The node that brings published GANs into the graph."""

from pathlib import Path

import torch
from comfy_api.latest import io

from ..models.checkpoint import load_card
from ..models.published.convert import CLIP, READ, class_names, convert
from . import comfyui
from .gan import describe, shared
from .language import language_models
from .schema import CATEGORY, GAN, declare, options

_SUFFIXES = (".pkl", ".pt", ".pth", ".bin")
_NONE = f"no {', '.join(_SUFFIXES)} in ComfyUI/models/gan"


def _source(file: str) -> Path | None:
    return comfyui.files_beside_models("gan", _SUFFIXES).get(file)


def _place(source: Path) -> Path:
    """Where it is written to. BigGANs are all called pytorch_model.bin, each in a folder of its own."""
    return source.with_name(f"{source.parent.name if source.suffix == '.bin' else source.stem}.safetensors")


class ConvertGAN(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Convert",
            display_name="Convert Published GAN",
            category=CATEGORY,
            description=(
                f"Makes a .safetensors file of a GAN that others published: {READ}. The file is read as data, and nothing in it"
                " is run. From then on Load Conditional GAN lists it."
            ),
            search_aliases=["stylegan", "stylegan2", "stylegan3", "biggan", "galip", "pkl", "pt", "pth", "import gan"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=options(lambda: comfyui.files_beside_models("gan", _SUFFIXES), _NONE),
                    tooltip=(
                        f"A {', '.join(_SUFFIXES)} in ComfyUI/models/gan. BigGAN's needs its config.json beside it; GALIP's"
                        f" the folder openai/{CLIP} of Hugging Face in ComfyUI/models/LLM."
                    ),
                ),
                io.String.Input(
                    "classes",
                    default="",
                    multiline=True,
                    tooltip=(
                        "Of a GAN that draws classes their names, a class a line in their order, several names with commas"
                        " between: a prompt finds its class by them."
                    ),
                ),
                io.Boolean.Input("half", default=True, tooltip="Store what works on pixels as fp16: half the size."),
            ],
            outputs=[
                GAN.Output("converted", display_name="GAN", tooltip="As Load Conditional GAN gives it."),
                io.String.Output("info", display_name="info", tooltip="What it is, and where it was written."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file, classes, half):
        source = _source(file)
        return None if source is None else [comfyui.stamp(path) for path in (source, _place(source)) if path.exists()]

    @classmethod
    def execute(cls, file, classes, half) -> io.NodeOutput:
        source = _source(file)
        if source is None:
            missing = _NONE if file == _NONE else f"no {file} in ComfyUI/models/gan"
            raise FileNotFoundError(
                f"There is {missing}: put a .pkl or .pt of StyleGAN, BigGAN's .bin or a .pth of GALIP there."
            )
        out = _place(source)
        if out.exists() and source.name not in load_card(out)[0].data:
            raise FileExistsError(f"{out} is another GAN: give {file} another name, or move one of them away.")
        if not out.exists():
            models = {name.rpartition("/")[2]: place for name, place in language_models().items()}
            dtype = torch.float16 if half else torch.float32
            with torch.inference_mode(False):
                convert(source, out, classes.splitlines(), models=models, dtype=dtype, progress=comfyui.progress(1))
        loaded, names = shared(out, "auto"), class_names(classes.splitlines())
        if names and (loaded.network.classes is None or loaded.network.classes.names != names):
            raise ValueError(f"{out} was converted with other class names: delete it to convert {file} anew.")
        info = f"{describe(loaded.network)}\nin {out}"
        comfyui.show_text(cls, info)
        return io.NodeOutput(loaded, info)
