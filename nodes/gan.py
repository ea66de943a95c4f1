"""The nodes of the GAN: Load, Generate, Score, Save."""

from dataclasses import replace
from pathlib import Path

import torch
from comfy_api.latest import io
from torch import Tensor

from ..models.checkpoint import DEFAULT_GAN, ENCODER, encoder_path, preview, read_metadata, save_gan
from ..models.condition import Condition
from ..models.enlarger import SUFFIX as ENLARGER
from ..models.gan import AnyGAN, Latent, Scores
from ..models.inversion import for_images
from ..models.pictures import on_white
from ..models.published.checkpoint import load
from . import comfyui
from .comfyui import Managed
from .conditioning import from_conditioning
from .schema import CATEGORY, GAN, LATENT, TRAINING, declare, options, precision_input, seed_input, truncation_input

_LINES = 64  # of a report, on the node
_BUNDLED = "icons (bundled)"
_FORMERLY = "icons-64 (bundled)"  # in workflows saved with the first versions


def _files() -> dict[str, Path]:
    """Name and place of every GAN that there is to choose."""
    others = (ENCODER, ENLARGER)
    files = {name: path for name, path in comfyui.model_files("gan", ".safetensors").items() if not name.endswith(others)}
    return {_BUNDLED: DEFAULT_GAN, **files}


def _path(name: str | None) -> Path | None:
    """Where the GAN of this name is; None where there is none, or the name comes from another node."""
    return DEFAULT_GAN if name == _FORMERLY else _files().get(name)


def _missing(name: str) -> str:
    return f"There is no GAN {name} in ComfyUI/models/gan: put it there, or choose another."


def _stamp(path: Path) -> tuple[str | int, ...] | None:
    """Changes whenever the checkpoint does, or the encoder beside it."""
    return sum((comfyui.stamp(file) for file in (path, encoder_path(path)) if file.is_file()), ()) or None


class Loaded(Managed):
    """The GAN in `path`, in ComfyUI's care; `stamp` is that of the file."""

    def __init__(self, path: Path, stamp: tuple[str | int, ...] | None, dtype: torch.dtype):
        self.path, self._loaded = path, stamp
        device, waiting = comfyui.generator_devices()
        super().__init__(load(path, waiting, dtype), device, waiting)

    def _unchanged(self) -> bool:
        return _stamp(self.path) == self._loaded

    def preview(self) -> bytes | None:
        """The PNG in the file, if it holds one and still is what was loaded."""
        return preview(read_metadata(self.path)) if self._unchanged() else None

    def unrounded(self) -> AnyGAN:
        """The GAN with the digits of its file: fp16, as files are written, keeps them, bf16 does not. ValueError where the file
        is another by now."""
        if self.network.dtype != torch.bfloat16:
            return self.network
        if not self._unchanged():
            raise ValueError(f"{self.path} is another file by now, or gone: load the GAN again.")
        with torch.inference_mode(False):
            return load(self.path)


def shared(path: Path, precision: str) -> Loaded:
    """The GAN in `path`, or what a graph still holds of it."""
    stamp, dtype = _stamp(path), comfyui.generator_dtype(precision, comfyui.generator_devices()[0])
    return comfyui.shared(("GAN", path, stamp, dtype), lambda: Loaded(path, stamp, dtype))


def describe(gan: AnyGAN) -> str:
    """The card in lines that anyone can read."""
    card, recipe = gan.card, gan.recipe
    reads = f"reads prompts with {recipe.model}, layer {recipe.layer}, up to {recipe.max_tokens} tokens"
    if gan.published and gan.classes is not None:
        reads = f"draws {len(gan.classes.names)} classes, and finds that of a prompt with {recipe.model}"
    elif gan.published and not gan.reads:
        reads = "draws one kind of thing, whatever the prompt"
    memory = getattr(gan.generator, "memory", None)
    lines = [
        (
            f"{card.name}: {gan.resolution} x {gan.resolution} pixels, {'with' if gan.discriminator else 'without'}"
            f" discriminator, {'with' if gan.encoder else 'without'} encoder"
        ),
        reads,
        memory is not None and f"knows {len(memory.keys):,} concepts, each in up to {gan.generator.config.looks} looks",
        card.data and (card.data if gan.published else f"trained on {card.data}"),
        card.images_seen and f"images seen in training: {card.images_seen:,}",
        card.licenses and f"licences: {', '.join(card.licenses)}",
        *(f"{name}: {value:.4g}" for name, value in card.metrics.items()),
        card.prompts and f"try: {', '.join(card.prompts)}",
    ]
    return "\n".join(line for line in lines if line)


class LoadGAN(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_LoadGAN",
            display_name="Load Conditional GAN",
            category=CATEGORY,
            description=(
                "Loads a generator and its discriminator, trained together to draw what a language model reads."
            ),
            search_aliases=["load gan", "stylegan", "generator", "discriminator"],
            inputs=[
                io.Combo.Input(
                    "gan",
                    options=options(_files, _BUNDLED),
                    tooltip=(
                        "GANs in ComfyUI/models/gan, published ones among them once converted, and the bundled one, which draws"
                        " icons."
                    ),
                ),
                precision_input(),
            ],
            outputs=[
                GAN.Output(
                    "loaded",
                    display_name="GAN",
                    tooltip="Generator and discriminator, with the recipe of their prompts.",
                ),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="What the file says of itself: size, language model, training data, licences, figures.",
                ),
                io.Int.Output(
                    "resolution", display_name="resolution", tooltip="Of its pictures, which are square: pixels to a side."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, gan, precision):
        path = _path(gan)
        return None if path is None else _stamp(path)

    @classmethod
    def validate_inputs(cls, gan):
        return gan is None or _path(gan) is not None or _missing(gan)  # also of a name that is no longer offered

    @classmethod
    def execute(cls, gan, precision) -> io.NodeOutput:
        path = _path(gan)
        if path is None:
            raise FileNotFoundError(_missing(gan))
        loaded = shared(path, precision)
        return io.NodeOutput(loaded, describe(loaded.network), loaded.network.resolution)


class Generate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_Generator",
            display_name="Conditional GAN Generator",
            category=CATEGORY,
            description=(
                "Draws pictures of the prompt, each in one forward pass. Several prompts are drawn one after the other,"
                " each batch_size times and all from the same seeds, so that the pictures differ by their prompt alone."
            ),
            search_aliases=["generate", "sampler", "gan", "text to image"],
            inputs=[
                GAN.Input("gan", tooltip="From Load Conditional GAN."),
                io.Conditioning.Input("conditioning", tooltip="The prompt, or several, from the LLM Prompt Encoder."),
                seed_input(
                    "The same seed gives the same pictures; picture n of a seed does not depend on the batch size."
                ),
                io.Int.Input("batch_size", default=4, min=1, max=4096, tooltip="Pictures for each prompt."),
                truncation_input(
                    "Truncation psi: below 1 the pictures come closer to the typical one, safer and more alike; at 0 all are"
                    " the same. Above 1 they grow wilder."
                ),
                LATENT.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "Draw from this again, with this prompt, edits and all: seed and batch_size are then not used."
                        " Latents of the same number of prompts are drawn with theirs, others with every prompt; what is the"
                        " same for all of those prompts only once."
                    ),
                ),
                io.Boolean.Input(
                    "transparent",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Leave the background out, for pictures to place on others; Save Image keeps it so. Off: the background"
                        " that the prompt names, or white. Needs a GAN trained with scenes, as the bundled one."
                    ),
                ),
                io.Boolean.Input(
                    "pair",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Draw the first latents with the first prompt, the next with the next: frames of"
                        " Interpolate GAN Latents and of Travel Prompts at once."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="IMAGE", tooltip="The pictures, prompt by prompt."),
                LATENT.Output(
                    "drawn",
                    display_name="latent",
                    tooltip="What each picture was drawn from: its z, its style vectors, and what was edited.",
                ),
                io.Mask.Output(
                    "opacity",
                    display_name="MASK",
                    tooltip=(
                        "1 where something is drawn, 0 where nothing is, as ImageCompositeMasked takes it. InvertMask makes it"
                        " what Join Image with Alpha takes. All 1 unless transparent."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(
        cls, gan, conditioning, seed, batch_size, truncation, latent=None, transparent=False, pair=False
    ) -> io.NodeOutput:
        condition = from_conditioning(conditioning)
        gan.network.check(condition)
        if latent is None:
            source = Latent(gan.network.sample_z(seed, batch_size))
        else:
            source = Latent.from_dict(latent)
            gan.network.check_latent(source)
        source = _prompt_by_prompt(source, len(condition), pair and latent is not None)
        images, drawn = draw(gan, condition.repeat(len(source) // len(condition)), source, truncation, transparent)
        images = comfyui.image(images)
        return io.NodeOutput(images, drawn.to_dict(), comfyui.opacity(images))


def _prompt_by_prompt(latent: Latent, prompts: int, pair: bool) -> Latent:
    """What to draw of each prompt, one after the other: its own latents, or all. Of latents of other prompts those of the
    first, where the others' are the same: as the generator draws them, and not once they were varied or seen in pictures."""
    if pair and len(latent) % prompts:
        raise ValueError(f"{len(latent)} latents and {prompts} prompts: to pair them give one for each, or as many for each.")
    if not pair and latent.prompts != prompts:
        each = len(latent) // latent.prompts if _repeat(latent) else len(latent)
        latent = latent[list(range(each)) * prompts]
    return replace(latent, prompts=prompts)


def _repeat(latent: Latent) -> bool:
    """Whether the latents of every prompt are those of the first, but for what was drawn of them."""
    parts = (part.unflatten(0, (latent.prompts, -1)) for part in replace(latent, styles=None, looks=None).tensors().values())
    return all(torch.equal(part, part[:1].expand_as(part)) for part in parts)


def draw(
    gan: Managed, condition: Condition, latent: Latent, truncation: float, transparent: bool = False
) -> tuple[Tensor, Latent]:
    return gan.run(
        lambda size, progress: gan.network.generate(condition, latent, truncation, size, progress, transparent),
        len(latent),
        drawing_bytes(gan),
    )


def drawing_bytes(gan: Managed) -> int:
    """Of one picture, measured at 64 to 256 px in fp32: some twenty times the widest feature map, and it a few times over."""
    return 80 * gan.network.generator.widest + 48 * gan.network.resolution**2


class DiscriminatorScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_DiscriminatorScore",
            display_name="Discriminator Score",
            category=CATEGORY,
            description=(
                "The discriminator that the generator learnt from judges pictures: are they real, do they match the"
                " prompt? Draw many, keep the best. Scores are logits, and compare pictures under one GAN, not across"
                " GANs."
            ),
            search_aliases=["rank images", "best of", "score", "critic", "discriminator"],
            inputs=[
                GAN.Input("gan", tooltip="From Load Conditional GAN; it must have been saved with its discriminator."),
                io.Image.Input(
                    "images",
                    tooltip=(
                        "Pictures of any size, of the kind that the GAN draws: of others it says little. They are centred on"
                        " a white square and scaled to the GAN's size."
                    ),
                ),
                io.Int.Input("keep", default=8, min=1, max=4096, tooltip="How many of the best to give out."),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip=(
                        "One prompt for all pictures, one for each, or the prompts that the generator drew from, in its"
                        " order. Without it the pictures are judged on realism alone."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("ranked", display_name="ranked", tooltip="All pictures, the best first."),
                io.Image.Output("best", display_name="best", tooltip="The best `keep` of them."),
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip="The total of each ranked picture: realism plus alignment.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Realism, alignment and total of every picture, as text."
                ),
                io.String.Output(
                    "places",
                    display_name="places",
                    tooltip="The numbers of the best in the batch, from 0, for Pick from GAN Latents.",
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, gan, images, keep, conditioning=None) -> io.NodeOutput:
        condition = None if conditioning is None else for_images(gan.network, from_conditioning(conditioning), len(images))
        scores = _judge(gan, on_white(images), condition)
        order = scores.best(len(images))
        ranked, report = images[order], _report(scores, order)
        shown = "\n".join(report[:_LINES] + [f"... and {len(report) - _LINES} more"] * (len(report) > _LINES))
        comfyui.show_text(cls, shown)
        places = ", ".join(map(str, order[:keep].tolist()))
        return io.NodeOutput(
            ranked, ranked[:keep], scores.total[order].tolist(), "\n".join(report), places, ui={"text": [shown]}
        )


def _judge(gan: Managed, images: Tensor, condition: Condition | None) -> Scores:
    return gan.run(
        lambda size, progress: gan.network.score(images, condition, size, progress),
        len(images),
        # The features at half the resolution, 144 channels wide, or those of a published one; and the picture as a square.
        max(400 * gan.network.resolution**2, 16 * gan.network.generator.widest) + 72 * max(images.shape[1:3]) ** 2,
    )


def _report(scores: Scores, order: Tensor) -> list[str]:
    columns = zip(
        order.tolist(), scores.total[order].tolist(), scores.realism[order].tolist(), scores.alignment[order].tolist()
    )
    return [
        f"{rank}. picture {i}: total {total:.2f} = realism {realism:.2f} + alignment {alignment:.2f}"
        for rank, (i, total, realism, alignment) in enumerate(columns, 1)
    ]


class SaveGAN(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_SaveGAN",
            display_name="Save GAN",
            category=TRAINING,
            description=(
                "Saves a GAN to ComfyUI/models/gan as one .safetensors file that others can load. Nothing is"
                " overwritten."
            ),
            search_aliases=["save gan", "export"],
            inputs=[
                GAN.Input("gan", tooltip="The GAN to save."),
                io.String.Input(
                    "filename_prefix",
                    default="llm-gan",
                    tooltip=(
                        "Start of the file's name, which a number follows; with a / it names a folder in models/gan."
                    ),
                ),
                io.Boolean.Input(
                    "include_discriminator",
                    default=True,
                    tooltip=(
                        "Off makes a smaller file that draws, but neither scores pictures nor can be trained further."
                    ),
                ),
                io.Image.Input(
                    "preview",
                    optional=True,
                    tooltip="A picture to keep in the file, the first of several. Without one the GAN's own is kept.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Where the file is.")],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, gan, filename_prefix, include_discriminator, preview=None) -> io.NodeOutput:
        path = comfyui.new_model_file("gan", filename_prefix.strip() or "llm-gan", ".safetensors")
        picture = gan.preview() if preview is None else comfyui.thumbnail(preview)
        save_gan(gan.unrounded(), path, preview=picture, include_discriminator=include_discriminator)
        comfyui.show_text(cls, f"saved {path}")
        return io.NodeOutput(str(path), ui={"text": [str(path)]})
