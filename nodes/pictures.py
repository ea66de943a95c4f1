"""The nodes that see pictures: find their latent, mend them, give them another style, make them larger."""

from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..models.enlarger import DEFAULT_ENLARGER, SUFFIX, TIMES, check_times, enlarge, load_enlarger
from ..models.gan import CACHED, Latent
from ..models.inversion import for_images, invert
from ..models.pictures import coloured
from ..models.restoration import KEEP, LARGEST, restore, restyle
from . import comfyui
from .conditioning import from_conditioning
from .gan import draw, drawing_bytes
from .schema import GAN, LATENT, PICTURES, declare, options

_UNDO = {  # of each kind of damage, what a switch says that undoes it; holes come with a mask, a small size with a zoom
    "denoise": "Remove noise and grain.",
    "deblur": "Sharpen what is out of focus.",
    "colourise": "Give colours to a picture in black and white.",
    "unjpeg": "Remove the blocks and rings of strong JPEG compression.",
}
_SQUARE = "Pictures of any size; they are centred on a white square and scaled to the GAN's size."
_DRAWINGS = "drawings (bundled)"
_held: dict[str, comfyui.Managed] = {}  # enlargers, which no node gives to others, and which are small enough to stay


def _steps(default: int, tooltip: str) -> io.Int.Input:
    return io.Int.Input("steps", default=default, min=0, max=2000, tooltip=tooltip)


class ImageToLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_ImageToLatent",
            display_name="Image to GAN Latent",
            category=PICTURES,
            description=(
                "Finds the latent from which the GAN draws a picture like this one, to vary, mix or walk from: its encoder sees"
                " it in one pass, and steps of optimisation bring it nearer."
            ),
            search_aliases=["inversion", "encode image", "projector", "invert gan"],
            inputs=[
                GAN.Input("gan", tooltip="From Load Conditional GAN; it must have been saved with its discriminator."),
                io.Image.Input("images", tooltip=_SQUARE),
                io.Conditioning.Input("conditioning", tooltip="What they show: one prompt for all, or one for each."),
                _steps(
                    100,
                    "Of optimisation, from what the encoder saw: 0 takes that as it is, 100 is near, 300 nearer. A GAN without"
                    " an encoder needs some.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where not to look, of any size: one for all pictures, or one for each."
                ),
            ],
            outputs=[
                LATENT.Output(
                    "latent", display_name="latent", tooltip="To draw from, with the same prompt or another, at truncation 1."
                ),
                io.Image.Output("drawn", display_name="IMAGE", tooltip="What the GAN draws from it."),
            ],
        )

    @classmethod
    def execute(cls, gan, images, conditioning, steps, mask=None) -> io.NodeOutput:
        given = from_conditioning(conditioning)
        condition = for_images(gan.network, given, len(images))
        latent = gan.run(
            lambda size, progress: invert(gan.network, images, condition, mask, steps, progress, size),
            len(images),
            _seeing_bytes(gan),
        )
        pictures, drawn = draw(gan, condition, replace(latent, prompts=len(given)), 1.0)
        return io.NodeOutput(drawn.to_dict(), comfyui.image(pictures))


class Restore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Restore",
            display_name="Restore with GAN",
            category=PICTURES,
            description=(
                "Mends pictures: fills what a mask covers, removes noise, blur and JPEG traces, enlarges, gives colours. The"
                " prompt says what they show. Where only a mask is given, every other pixel stays exactly as it is."
            ),
            search_aliases=["inpaint", "outpaint", "denoise", "deblur", "upscale", "super resolution", "colorize", "repair"],
            inputs=[
                GAN.Input("gan", tooltip="From Load Conditional GAN, with an encoder, as the bundled one has."),
                io.Image.Input(
                    "images", tooltip="Of any size where holes are filled, up to 2048 pixels to a side for all else."
                ),
                io.Conditioning.Input("conditioning", tooltip="What they show: one prompt for all, or one for each."),
                *(io.Boolean.Input(kind, default=False, tooltip=tooltip) for kind, tooltip in _UNDO.items()),
                io.Float.Input(
                    "zoom", default=1.0, min=1.0, max=8.0, step=0.5, tooltip="Times larger, with the detail that is missing."
                ),
                _steps(
                    0,
                    "Of optimisation, to guess what is lost from what is not; 100 for large holes. 0 is one pass. A GAN without"
                    " an encoder needs some, and fills holes alone.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "What is lost, of any size: one for all pictures, or one for each. To outpaint, pad the picture first"
                        " with Pad Image for Outpainting, which makes the mask. An empty mask leaves a picture as it is."
                    ),
                ),
            ],
            outputs=[io.Image.Output("restored", display_name="IMAGE", tooltip="The pictures, mended.")],
        )

    @classmethod
    def execute(cls, gan, images, conditioning, zoom, steps, mask=None, **undo) -> io.NodeOutput:
        condition, kinds = from_conditioning(conditioning), {kind for kind, wanted in undo.items() if wanted}
        side = min(max(images.shape[1:3]) * zoom, LARGEST)  # of the square that is worked on
        restored = gan.run(
            lambda _, progress: restore(gan.network, images, condition, kinds, mask, zoom, steps, progress),
            1,  # at a time
            _seeing_bytes(gan) + int(800 * side**2),
        )
        return io.NodeOutput(comfyui.image(restored))


class Restyle(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Restyle",
            display_name="Restyle Image",
            category=PICTURES,
            description=(
                "Draws a picture anew in another style: that of a prompt which names it ('a dog, noto style'), or of a latent,"
                " from a seed or another picture. Needs one of the two."
            ),
            search_aliases=["style transfer", "image to image", "img2img"],
            inputs=[
                GAN.Input("gan", tooltip="From Load Conditional GAN, with an encoder, as the bundled one has."),
                io.Image.Input("images", tooltip=_SQUARE),
                io.Conditioning.Input(
                    "conditioning", tooltip="What they show, without the style: one prompt, or one for each."
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip="From its own style (0) to the other (1)."
                ),
                io.Float.Input(
                    "keep",
                    default=KEEP,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "How much stays of what the picture has beyond its prompt: 0 draws the prompt anew in the style,"
                        " 1 keeps all of its shapes and colours."
                    ),
                ),
                _steps(
                    0,
                    "Of optimisation, to see the picture more exactly before it is restyled. A GAN without an encoder needs"
                    " some.",
                ),
                io.Conditioning.Input("style", optional=True, tooltip="A prompt with the style: one for all, or one for each."),
                LATENT.Input(
                    "style_latent",
                    optional=True,
                    tooltip=(
                        "Of a picture in the style: from the generator, or from Image to GAN Latent for a reference"
                        " picture. One for all, or one for each."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("restyled", display_name="IMAGE", tooltip="The pictures in the other style."),
                LATENT.Output("drawn", display_name="latent", tooltip="What they were drawn from."),
            ],
        )

    @classmethod
    def execute(cls, gan, images, conditioning, strength, keep, steps, style=None, style_latent=None) -> io.NodeOutput:
        if (style is None) == (style_latent is None):
            raise ValueError("Restyle Image needs one style: connect a prompt that names it, or a latent, and not both.")
        condition = from_conditioning(conditioning)
        wanted = Latent.from_dict(style_latent) if style is None else from_conditioning(style)
        pictures, drawn = gan.run(
            lambda size, progress: restyle(gan.network, images, condition, wanted, strength, keep, steps, progress, size),
            len(images),
            _seeing_bytes(gan),
        )
        return io.NodeOutput(comfyui.image(pictures), replace(drawn, prompts=len(condition)).to_dict())


class Enlarge(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Enlarge",
            display_name="Enlarge Picture",
            category=PICTURES,
            description=(
                "Makes drawings larger with crisp edges, at once: what a GAN draws, with a background or without, or any"
                " other icon, sprite or flat drawing."
            ),
            search_aliases=["upscale", "super resolution", "sharpen", "esrgan", "bigger"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of any size."),
                io.Combo.Input("times", options=[f"{n}x" for n in TIMES], default="4x", tooltip="How many times as large."),
                io.Combo.Input(
                    "enlarger",
                    options=options(_enlargers, _DRAWINGS),
                    tooltip=f"The bundled one, or what llm-gan train-enlarger made in ComfyUI/models/gan (NAME{SUFFIX}).",
                ),
            ],
            outputs=[
                io.Image.Output("enlarged", display_name="IMAGE", tooltip="The pictures, enlarged."),
                io.Mask.Output(
                    "opacity",
                    display_name="MASK",
                    tooltip="1 where something is drawn, 0 where nothing is. All 1 for pictures without transparency.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, images, times, enlarger):
        path = _enlargers().get(enlarger)
        return None if path is None else comfyui.stamp(path)

    @classmethod
    def execute(cls, images, times, enlarger) -> io.NodeOutput:
        path, factor = _enlargers().get(enlarger), int(times.removesuffix("x"))
        if path is None:
            raise FileNotFoundError(f"There is no {enlarger} in ComfyUI/models/gan.")
        images = coloured(images)
        check_times(factor, max(images.shape[1:3]))
        loaded = comfyui.shared(("enlarger", path, comfyui.stamp(path)), lambda: _managed_enlarger(path))
        _held[enlarger] = loaded
        large = loaded.run(
            lambda _, progress: enlarge(loaded.network, images, factor, progress),
            1,  # at a time
            8 * CACHED + 40 * images[0].numel() * factor**2,
        )
        large = comfyui.image(large)
        return io.NodeOutput(large, comfyui.opacity(large))


def _enlargers() -> dict[str, Path]:
    return {_DRAWINGS: DEFAULT_ENLARGER, **comfyui.model_files("gan", SUFFIX)}


def _managed_enlarger(path: Path) -> comfyui.Managed:
    device, waiting = comfyui.generator_devices()
    return comfyui.Managed(load_enlarger(path, waiting), device, waiting)


def _seeing_bytes(gan: comfyui.Managed) -> int:
    """Of one picture: drawing it and looking at it, with what the gradient needs of both."""
    return 4 * drawing_bytes(gan) + 1200 * gan.network.resolution**2
