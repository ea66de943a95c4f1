"""The nodes that design with latents: mix, walk, average, pick, vary, slide, explore, save and load."""

from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from comfy_api.latest import io
from torch import Tensor

from ..models import latents as work
from ..models.condition import Condition
from ..models.gan import Latent
from ..models.pictures import labelled_sheet
from . import comfyui
from .conditioning import from_conditioning, to_conditioning
from .gan import draw
from .schema import GAN, LATENT, LATENTS, MOST_PSI, MOST_SEED, declare, options, seed_input, truncation_input

_RANGES = ["all", *work.RANGES, "coarse and middle", "middle and fine"]
_RANGE_TOOLTIP = (
    "The layers of the generator by their size: coarse (4 and 8 px), middle (16 and 32), fine (64 and more). Coarse ones"
    " move large parts, fine ones edges; the bundled GAN has its colours in the middle, and its shapes in the look."
)
_SLIDERS = 5
_SHEET = (-8.0, -4.0, 0.0, 4.0, 8.0)  # strengths that a sheet of directions shows


def _layers(gan: comfyui.Managed, name: str) -> list[int]:
    return work.layers_of(gan.network.generator, name.split(" and "))


def _range_input(default: str) -> io.Combo.Input:
    return io.Combo.Input("layers", options=_RANGES, default=default, tooltip=_RANGE_TOOLTIP)


def _easing_input() -> io.Combo.Input:
    return io.Combo.Input(
        "easing", options=list(work.EASINGS), default="linear", tooltip="smooth slows down at every stop of the walk."
    )


def _frames_input() -> io.Int.Input:
    return io.Int.Input("frames", default=24, min=2, max=work.MOST, tooltip="Of the whole walk, over all its stops.")


def _loop_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "loop", default=False, tooltip="Go back from the last stop to the first, so that the animation has no end."
    )


def _node(id: str, name: str, description: str, aliases: list[str], inputs: list, outputs: list, **fields) -> io.Schema:
    return declare(
        io.Schema,
        node_id=f"LLMGAN_{id}",
        display_name=name,
        category=LATENTS,
        description=description,
        search_aliases=aliases,
        inputs=inputs,
        outputs=outputs,
        **fields,
    )


def _latent_output(tooltip: str) -> io.Output:
    return LATENT.Output("changed", display_name="latent", tooltip=tooltip)


class MixStyles(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "MixStyles",
            "Mix GAN Styles",
            (
                "Gives one drawing the style of another: what it shows stays, its look and the styles of some layers"
                " are the other's."
            ),
            ["style mixing", "style transfer", "blend"],
            [
                GAN.Input("gan", tooltip="From Load Conditional GAN, the one that both latents were drawn with."),
                LATENT.Input("content", tooltip="As drawn: from the Conditional GAN Generator or Image to GAN Latent."),
                LATENT.Input("style", tooltip="As drawn, one for all or one for each; of another prompt, seed or picture."),
                _range_input("middle and fine"),
                io.Boolean.Input("look", default=True, tooltip="Take its look too, which says how the thing itself is drawn."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="0 is the content, 1 the style, 2 beyond it."
                ),
            ],
            [_latent_output("To draw with the prompt and the truncation of the content.")],
        )

    @classmethod
    def execute(cls, gan, content, style, layers, look, strength) -> io.NodeOutput:
        content, style = Latent.from_dict(content), Latent.from_dict(style)
        gan.network.check_latent(content)
        gan.network.check_latent(style)
        return io.NodeOutput(work.mix(content, style, _layers(gan, layers), look, strength).to_dict())


class Interpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "Interpolate",
            "Interpolate GAN Latents",
            (
                "Walks from latent to latent, edits and all. Draw the frames with the generator, and hand them to a node"
                " that saves video."
            ),
            ["latent walk", "animation", "slerp", "morph"],
            [
                LATENT.Input("latent", tooltip="The stops of the walk: a batch of two or more, or the first of two."),
                _frames_input(),
                io.Combo.Input(
                    "method",
                    options=["slerp", "lerp"],
                    default="slerp",
                    tooltip="slerp keeps z at its usual length on the way; lerp is straight, through paler pictures.",
                ),
                _easing_input(),
                _loop_input(),
                LATENT.Input("to", optional=True, tooltip="More stops, after those of the first."),
            ],
            [_latent_output("One latent for each frame.")],
        )

    @classmethod
    def execute(cls, latent, frames, method, easing, loop, to=None) -> io.NodeOutput:
        keys = Latent.from_dict(latent)
        if to is not None:
            keys = work.join([keys, Latent.from_dict(to)])
        return io.NodeOutput(work.interpolate(keys, frames, method == "slerp", easing, loop).to_dict())


class TravelPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "TravelPrompts",
            "Travel Prompts",
            "Walks from prompt to prompt: one condition for each frame. Draw them from one latent, with batch_size 1.",
            ["prompt travel", "prompt interpolation", "animation", "morph"],
            [
                io.Conditioning.Input(
                    "conditioning", tooltip="The stops: several prompts, as the LLM Prompt Encoder reads with one_per_line."
                ),
                _frames_input(),
                _easing_input(),
                _loop_input(),
            ],
            [io.Conditioning.Output("travelled", display_name="CONDITIONING", tooltip="One prompt for each frame.")],
        )

    @classmethod
    def execute(cls, conditioning, frames, easing, loop) -> io.NodeOutput:
        return io.NodeOutput(to_conditioning(work.travel(from_conditioning(conditioning), frames, easing, loop)))


class Average(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "Average",
            "Average GAN Latents",
            "The mean of several latents, as one: what they have in common.",
            ["mean", "blend", "merge latents"],
            [
                LATENT.Input("latent", tooltip="A batch, all of it alike."),
                io.Float.Input(
                    "weight",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "The share of the other, where there is one: 0 is the mean of the first batch, 1 that of the other."
                    ),
                ),
                LATENT.Input("other", optional=True, tooltip="Another batch to average with."),
            ],
            [_latent_output("One latent.")],
        )

    @classmethod
    def execute(cls, latent, weight, other=None) -> io.NodeOutput:
        mean = work.average(Latent.from_dict(latent))
        if other is not None:
            both = work.join([mean, work.average(Latent.from_dict(other))])
            mean = work.average(both, torch.tensor([1 - weight, weight]))
        return io.NodeOutput(mean.to_dict())


class JoinLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "JoinLatents",
            "Join GAN Latents",
            "Makes one batch of several, edits and all: stops of a walk, or what was picked here and there.",
            ["batch", "combine", "concatenate", "merge latents"],
            [
                LATENT.Input("a", tooltip="The first of the batch."),
                LATENT.Input("b", tooltip="Those after it, of the same GAN."),
                LATENT.Input("c", optional=True, tooltip="More of them."),
                LATENT.Input("d", optional=True, tooltip="And more."),
            ],
            [_latent_output("All of them, to draw each with every prompt, or with `pair` each with its own.")],
        )

    @classmethod
    def execute(cls, a, b, c=None, d=None) -> io.NodeOutput:
        given = [Latent.from_dict(latent) for latent in (a, b, c, d) if latent is not None]
        return io.NodeOutput(work.join(given).to_dict())


class Pick(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "Pick",
            "Pick from GAN Latents",
            (
                "Takes some latents out of a batch, in the order given: those of the drawings that you like. Of several prompts"
                " it takes their own along, so that the generator draws each with that."
            ),
            ["select", "latent from batch", "choose"],
            [
                LATENT.Input("latent", tooltip="A batch, as the generator drew it."),
                io.String.Input(
                    "places",
                    default="0",
                    tooltip=(
                        "Numbers and spans from 0, as 0, 3, 5-7; -1 is the last. Discriminator Score gives those of the best."
                    ),
                ),
                io.Image.Input("images", optional=True, tooltip="The drawings of the batch, to pick along."),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The prompts of the batch, to pick along; needed where there are several.",
                ),
            ],
            [
                _latent_output("Those latents."),
                io.Image.Output("picked", display_name="IMAGE", tooltip="Their drawings, where they are connected."),
                io.Conditioning.Output(
                    "prompts",
                    display_name="CONDITIONING",
                    tooltip="Their prompts, where they are connected: with these the generator draws each once.",
                ),
            ],
        )

    @classmethod
    def execute(cls, latent, places, images=None, conditioning=None) -> io.NodeOutput:
        latent = Latent.from_dict(latent)
        rows = work.indices(places, len(latent))
        picked = latent[rows]
        if images is not None and len(images) != len(latent):
            raise ValueError(
                f"{len(latent)} latents and {len(images)} pictures: connect the pictures drawn from these latents."
            )
        if conditioning is not None:
            condition = from_conditioning(conditioning)
            if len(condition) != latent.prompts:
                raise ValueError(
                    f"{len(condition)} prompts and latents of {latent.prompts}: connect the prompts that they were drawn from."
                )
            if latent.prompts > 1:
                conditioning = to_conditioning(condition[[latent.prompt_of(row) for row in rows]])
                picked = replace(picked, prompts=len(rows))
        return io.NodeOutput(
            picked.to_dict(),
            comfyui.nothing() if images is None else images[rows],
            comfyui.nothing() if conditioning is None else conditioning,
        )


class Vary(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "Vary",
            "Vary GAN Latent",
            "Draws others like this one: so many variations around each latent, its edits kept.",
            ["variations", "mutate", "subseed"],
            [
                LATENT.Input("latent", tooltip="To vary; of a batch each."),
                io.Int.Input("count", default=8, min=1, max=1024, tooltip="Variations of each."),
                io.Float.Input(
                    "strength", default=0.3, min=0.0, max=1.0, step=0.05, tooltip="0 changes nothing, 1 keeps its edits only."
                ),
                seed_input("Another seed, other variations."),
            ],
            [_latent_output("The variations of the first, then those of the next.")],
        )

    @classmethod
    def execute(cls, latent, count, strength, seed) -> io.NodeOutput:
        return io.NodeOutput(work.vary(Latent.from_dict(latent), count, strength, seed).to_dict())


class Paint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "Paint",
            "Paint GAN Latent",
            (
                "Gives the things of a drawing exact colours, and its background one. Shapes, shading, outlines and"
                " other colours stay. Colours that the prompt names need no such node."
            ),
            ["recolor", "recolour", "tint", "palette", "background colour"],
            [
                LATENT.Input("latent", tooltip="To paint; of a batch each alike."),
                io.String.Input(
                    "colours",
                    default="red",
                    tooltip=(
                        "One for all things, or one for each in the order of the prompt, with commas between,"
                        " as red, -, #3366cc; - leaves a thing as it is."
                    ),
                ),
                io.String.Input(
                    "background", default="", tooltip="Its colour, as light blue or #eef; empty: as the prompt says."
                ),
            ],
            [_latent_output("Painted, to draw with the generator.")],
        )

    @classmethod
    def execute(cls, latent, colours, background) -> io.NodeOutput:
        behind = work.colour_of(background) if background.strip() else None
        return io.NodeOutput(work.paint(Latent.from_dict(latent), work.colours(colours), behind).to_dict())


class Sliders(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "Sliders",
            "Latent Sliders",
            (
                "Moves latents along the directions that change a picture most, found in the GAN's weights without"
                " training. The sheet shows what each does to the first latent: a row for each slider, from -8 to 8."
            ),
            ["sefa", "ganspace", "latent directions", "edit"],
            [
                GAN.Input("gan", tooltip="From Load Conditional GAN."),
                io.Conditioning.Input("conditioning", tooltip="The prompt that the sheet is drawn with; its first one."),
                LATENT.Input("latent", tooltip="To move; of a batch each alike."),
                io.Combo.Input(
                    "method",
                    options=["sefa", "pca"],
                    default="sefa",
                    tooltip="sefa: what the weights of the layers hear best. pca: how pictures of one prompt differ most.",
                ),
                _range_input("all"),
                io.Int.Input(
                    "first", default=1, min=1, max=64, tooltip="The direction of the first slider, the strongest is 1."
                ),
                *(
                    io.Float.Input(
                        f"slider_{i}",
                        default=0.0,
                        min=-20.0,
                        max=20.0,
                        step=0.1,
                        tooltip=f"How far along direction first + {i - 1}.",
                    )
                    for i in range(1, _SLIDERS + 1)
                ),
                io.String.Input(
                    "names",
                    default="",
                    optional=True,
                    tooltip="What you call the five, with commas between: it stands on the sheet, and stays with the workflow.",
                ),
                truncation_input("That of the generator, for the sheet to show what it will draw.", optional=True),
            ],
            [
                _latent_output("Moved, to draw with the generator."),
                io.Image.Output("sheet", display_name="sheet", tooltip="What each slider does to the first latent."),
            ],
        )

    @classmethod
    def execute(
        cls, gan, conditioning, latent, method, layers, first, names="", truncation=1.0, **sliders
    ) -> io.NodeOutput:
        latent, condition = Latent.from_dict(latent), from_conditioning(conditioning)
        gan.network.check(condition)
        gan.network.check_latent(latent)
        chosen, num_styles = _layers(gan, layers), gan.network.generator.num_styles
        found = work.directions(gan.network, method, chosen, first - 1 + _SLIDERS)[first - 1 :]
        strengths = torch.tensor([sliders[f"slider_{i}"] for i in range(1, _SLIDERS + 1)])
        moved = work.slide(latent, found, strengths, chosen, num_styles)
        tries = (torch.eye(_SLIDERS)[:, None] * torch.tensor(_SHEET)[:, None]).flatten(0, 1)
        shown = work.slide(latent[[0] * len(tries)], found, tries, chosen, num_styles)
        pictures = _as_drawn_before(gan, condition[0], shown, truncation)
        called = [name.strip() for name in names.split(",")] + [""] * _SLIDERS
        rows = [called[i] or f"{first + i}" for i in range(_SLIDERS)]
        sheet = labelled_sheet(pictures, [f"{at:g}" for at in _SHEET], rows)
        return io.NodeOutput(moved.to_dict(), comfyui.image(sheet))


_sheets: WeakKeyDictionary[comfyui.Managed, tuple[list[Tensor], Tensor]] = WeakKeyDictionary()  # of each GAN the last one


def _as_drawn_before(gan: comfyui.Managed, condition: Condition, latent: Latent, truncation: float) -> Tensor:
    """The pictures of a sheet: of latent [N] with condition [1]. They stay the same while sliders move, and are drawn once."""
    choice = [] if condition.choice is None else [condition.choice]
    psi = torch.tensor(truncation)
    told = [condition.tokens, condition.pooled, condition.mask, *choice, *latent.tensors().values(), psi]
    before, pictures = _sheets.get(gan, ([], None))
    if len(told) != len(before) or not all(map(torch.equal, told, before)):
        pictures, _ = draw(gan, condition.repeat(len(latent)), latent, truncation)
        _sheets[gan] = told, pictures
    return pictures


class SeedExplorer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "SeedExplorer",
            "Seed Explorer",
            (
                "A labelled grid of what a prompt gives: a column for each seed; a row for each truncation, or"
                " with several prompts for each of them. What you like is drawn by the generator from the seed above it."
            ),
            ["grid", "xy plot", "contact sheet", "explore seeds"],
            [
                GAN.Input("gan", tooltip="From Load Conditional GAN."),
                io.Conditioning.Input("conditioning", tooltip="One prompt, or several for a row each."),
                io.Int.Input(
                    "first_seed", default=0, min=0, max=MOST_SEED, tooltip="Of the first column; the next is one more."
                ),
                io.Int.Input("seeds", default=8, min=1, max=64, tooltip="How many columns."),
                io.String.Input(
                    "truncations",
                    default="0.4, 0.7, 1.0",
                    tooltip="A row for each; of several prompts the last is used for all.",
                ),
            ],
            [
                io.Image.Output("grid", display_name="grid", tooltip="The labelled grid."),
                io.Image.Output("pictures", display_name="IMAGE", tooltip="Its pictures, row by row."),
            ],
        )

    @classmethod
    def execute(cls, gan, conditioning, first_seed, seeds, truncations) -> io.NodeOutput:
        condition = from_conditioning(conditioning)
        gan.network.check(condition)
        rows = _numbers(truncations)
        columns = [(first_seed + i) % (MOST_SEED + 1) for i in range(seeds)]  # after the last seed comes the first
        z = torch.cat([gan.network.sample_z(seed, 1) for seed in columns])
        if len(condition) > 1:
            latent = Latent(z.repeat(len(condition), 1))
            pictures, _ = draw(gan, condition.repeat(seeds), latent, rows[-1])
            names = [f"prompt {i + 1}" for i in range(len(condition))]
        else:
            parts = [draw(gan, condition.repeat(seeds), Latent(z), psi)[0] for psi in rows]
            pictures, names = torch.cat(parts), [f"psi {psi:g}" for psi in rows]
        sheet = labelled_sheet(pictures, [str(seed) for seed in columns], names)
        return io.NodeOutput(comfyui.image(sheet), comfyui.image(pictures))


class SaveLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "SaveLatent",
            "Save GAN Latent",
            (
                "Saves latents to ComfyUI/output/latents as one .latent.safetensors file, with the recipe of their GAN."
                " Nothing is overwritten."
            ),
            ["save latent", "export"],
            [
                GAN.Input("gan", tooltip="The GAN that they are of."),
                LATENT.Input("latent", tooltip="A batch of any size."),
                io.String.Input(
                    "filename_prefix", default="latent", tooltip="Start of the file's name, which a number follows."
                ),
                io.String.Input("note", default="", tooltip="What it is, for whoever loads it: prompt and seed, say."),
            ],
            [io.String.Output("path", display_name="path", tooltip="Where the file is.")],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, gan, latent, filename_prefix, note) -> io.NodeOutput:
        latent = Latent.from_dict(latent)
        gan.network.check_latent(latent)
        path = comfyui.new_output_file("latents", filename_prefix.strip() or "latent", work.LATENT_FILE)
        work.save_latent(latent, path, gan.network, note)
        comfyui.show_text(cls, f"saved {path}")
        return io.NodeOutput(str(path), ui={"text": [str(path)]})


class LoadLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _node(
            "LoadLatent",
            "Load GAN Latent",
            "Loads latents that Save GAN Latent wrote to ComfyUI/output/latents, or that somebody shared, from ComfyUI/input.",
            ["load latent", "import"],
            [io.Combo.Input("latent", options=options(_files), tooltip="Files in output/latents and input.")],
            [
                _latent_output("To draw with the GAN that it was saved with."),
                io.String.Output("note", display_name="note", tooltip="The GAN that it is of, and what its file says it is."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, latent):
        path = _files().get(latent)
        return None if path is None else comfyui.stamp(path)

    @classmethod
    def validate_inputs(cls, latent):
        return True  # what was saved since the page was loaded is there all the same

    @classmethod
    def execute(cls, latent) -> io.NodeOutput:
        path = _files().get(latent)
        if path is None:
            raise FileNotFoundError(f"There is no latent {latent} in ComfyUI/output/latents or ComfyUI/input.")
        loaded, metadata = work.load_latent(path)
        lines = [f"of the GAN {metadata.get('gan', '')}", metadata.get("note", "")]
        return io.NodeOutput(loaded.to_dict(), "\n".join(filter(None, lines)))


def _files() -> dict[str, Path]:
    return comfyui.files_of_a_user("latents", work.LATENT_FILE)


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not all(0 <= number <= MOST_PSI for number in found) or len(found) > 16:
        raise ValueError(
            f"{text!r:.60} are no truncations: write up to 16 numbers from 0 to {MOST_PSI:g}, as 0.4, 0.7, 1.0."
        )
    return found
