"""The node that brings published GANs into the graph."""

import torch
from comfy_api.latest import io

from ..models.checkpoint import load_card
from ..models.published.convert import CLIP, READ, convert
from . import comfyui
from .gan import describe, shared
from .language import language_models
from .schema import CATEGORY, GAN, declare

_SUFFIXES = (".pkl", ".pt", ".pth", ".bin")
_NONE = f"no {', '.join(_SUFFIXES)} in ComfyUI/models/gan"


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
                    options=list(comfyui.files_beside_models("gan", _SUFFIXES)) or [_NONE],
                    tooltip=(
                        f"A {', '.join(_SUFFIXES)} in ComfyUI/models/gan. BigGAN's needs its config.json beside it; GALIP's the folder"
                        f" openai/{CLIP} of Hugging Face in ComfyUI/models/LLM."
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
    def execute(cls, file, classes, half) -> io.NodeOutput:
        source = comfyui.files_beside_models("gan", _SUFFIXES).get(file)
        if source is None:
            raise FileNotFoundError(
                f"There is no {file} in ComfyUI/models/gan: put a .pkl or .pt of StyleGAN, BigGAN's .bin or a .pth of GALIP there."
            )
        # BigGANs are all called pytorch_model.bin, each in a folder of its own.
        name = source.parent.name if source.suffix == ".bin" else source.stem
        out = source.with_name(f"{name}.safetensors")
        if out.exists() and source.name not in load_card(out)[0].data:
            raise FileExistsError(f"{out} is another GAN: give {file} another name, or move one of them away.")
        if not out.exists():
            models = {name.rpartition("/")[2]: place for name, place in language_models().items()}
            dtype = torch.float16 if half else torch.float32
            with torch.inference_mode(False):
                convert(source, out, classes.splitlines(), models=models, dtype=dtype, progress=comfyui.progress(1))
        loaded = shared(out, "auto")
        info = f"{describe(loaded.network)}\nin {out}"
        comfyui.show_text(cls, info)
        return io.NodeOutput(loaded, info)
