"""The nodes of the language model: Load LLM and LLM Prompt Encoder."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..models.condition import Condition, ConditionCache, Recipe
from ..models.language.catalogue import DEFAULT_LANGUAGE_MODEL, find_language_models, resolve
from ..models.language.expand import INSTRUCTION, accept, writing_prompt
from ..models.language.model import LanguageModel, choose_dtype
from . import comfyui
from .comfyui import Managed
from .conditioning import Conditioning, from_conditioning, to_conditioning
from .schema import CATEGORY, GAN, LLM, declare, options, precision_input, seed_input

_TEMPLATE_TOKENS = 32  # about as many as a template adds to a prompt
_BYTES_PER_STATE = 256  # memory for each number of a hidden state, all of a layer's intermediate results together
_BYTES_TO_WRITE = 256 * 2**20  # keys and values of a few hundred tokens, logits


class _Unread(LookupError):
    pass


class _Kept:
    """A cache that ends the reading of prompts at the first which it does not hold, before the model is asked."""

    def __init__(self, cache: ConditionCache):
        self._cache = cache

    def get(self, recipe: Recipe, text: str) -> tuple[Tensor, Tensor]:
        if (entry := self._cache.get(recipe, text)) is None:
            raise _Unread
        return entry


class Language:
    """What the LLM socket carries: a language model that is loaded when it is first used, with the layers that needs.

    Reading takes the first three quarters of the layers; from the first expansion on, all of them stay. What was read
    is kept in `cache` for as long as the model.
    """

    def __init__(self, folder: Path, dtype: torch.dtype):
        self.folder = folder
        self.dtype = dtype
        self.cache = ConditionCache()
        self._managed: Managed | None = None

    @property
    def patcher(self):
        return None if self._managed is None else self._managed.patcher

    def expand(
        self, prompts: list[str], instruction: str | None, seed: int, temperature: float, max_tokens: int
    ) -> list[str]:
        """Each prompt with the description that the model writes after it, or the prompt alone: see `expand.accept`."""
        writing_prompt("", instruction)  # raises before the model is loaded, not after
        managed = self._load(write=True)

        def write(_, progress):
            total, tokens = len(prompts) * max_tokens, count(1)
            return [
                managed.network.expand(
                    prompt,
                    instruction=instruction,
                    seed=seed,
                    temperature=temperature,
                    max_tokens=max_tokens,
                    on_token=lambda text: progress(next(tokens), total),
                )
                for prompt in prompts
            ]

        return managed.run(write, len(prompts), _BYTES_TO_WRITE)

    def encode(self, prompts: list[str], recipe: Recipe | None) -> Condition:
        """The prompts read by `recipe`, or by the model's own; on its device only where one was not read before. ValueError
        where the recipe is another model's."""
        managed = self._load()
        if recipe is not None and recipe.layer > len(managed.network.reader.layers):
            managed = self._load(write=True)
        recipe = recipe or managed.network.recipe()
        try:
            return managed.network.encode(prompts, recipe, _Kept(self.cache))
        except _Unread:
            pass
        bytes_each = (recipe.max_tokens + _TEMPLATE_TOKENS) * managed.network.width * _BYTES_PER_STATE
        return managed.run(
            lambda size, progress: managed.network.encode(prompts, recipe, self.cache, size, progress),
            len(prompts),
            bytes_each,
        )

    def unread(self, prompts: list[str], recipe: Recipe | None) -> list[str]:
        """What `encode` leaves out at the end of prompts that are too long."""
        return [rest for prompt in prompts if (rest := self._load().network.unread(prompt, recipe))]

    def _load(self, write: bool = False) -> Managed:
        if self._managed is None or write and not self._managed.network.write:
            self._managed = None  # its memory is free before the larger one takes more
            device, waiting = comfyui.language_devices()
            model = LanguageModel.load(self.folder, device=waiting, dtype=self.dtype, write=write)
            self._managed = Managed(model, device, waiting)
        return self._managed


def _dtype(folder: Path, precision: str) -> torch.dtype:
    """What the model in `folder` is loaded in, where the node asks for this precision."""
    device = comfyui.language_devices()[0]
    return choose_dtype(_model_type(folder), device, comfyui.language_dtype(precision, device))


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text("utf-8"))["model_type"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # what is wrong with the folder is said where it is loaded


def language_models() -> dict[str, Path]:
    """Name and place of every language model that ComfyUI has."""
    return find_language_models(comfyui.model_folders("LLM"))


class LoadLLM(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_LoadLLM",
            display_name="Load LLM",
            category=CATEGORY,
            description=(
                "Loads the language model that reads prompts for a conditional GAN, and may first write more to them."
            ),
            search_aliases=["load language model", "gemma", "gguf", "qwen", "llama", "smollm"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=options(language_models, DEFAULT_LANGUAGE_MODEL),
                    tooltip=(
                        "Language models in ComfyUI/models/LLM (a GGUF file, or a Hugging Face folder with"
                        " safetensors) and in installed packages. A GAN needs the model it was trained with:"
                        f" {DEFAULT_LANGUAGE_MODEL} for the bundled one, CLIP for GALIP. A GGUF file is converted at its"
                        " first use, which takes some seconds."
                    ),
                ),
                precision_input(),
            ],
            outputs=[
                LLM.Output(
                    "llm",
                    display_name="LLM",
                    tooltip="The language model, for the LLM Prompt Encoder. Loaded when first used.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model, precision):
        place = language_models().get(model)
        return None if place is None else comfyui.stamp(place)

    @classmethod
    def execute(cls, model, precision) -> io.NodeOutput:
        folder = resolve(language_models().get(model, model), convert_to=comfyui.model_folders("LLM")[0])
        dtype = _dtype(folder, precision)
        key = ("LLM", folder, comfyui.stamp(folder), dtype)
        return io.NodeOutput(comfyui.shared(key, lambda: Language(folder, dtype)))


class PromptEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return declare(
            io.Schema,
            node_id="LLMGAN_PromptEncoder",
            display_name="LLM Prompt Encoder",
            category=CATEGORY,
            description=(
                "A language model reads the prompt, in English, Chinese or whatever it knows, and its thoughts become"
                " the conditioning that a conditional GAN draws from. It can write a description first and read that"
                " with it."
            ),
            search_aliases=["text encode", "prompt", "expand prompt", "prompt enhancer"],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a red heart",
                    tooltip="What the picture shows. Left empty, it is the unconditional prompt.",
                ),
                io.Boolean.Input(
                    "one_per_line",
                    default=False,
                    tooltip=(
                        "On: every line that is not empty is a prompt of its own, and they make one batch. Off: all"
                        " lines are one prompt."
                    ),
                ),
                io.Boolean.Input(
                    "expand",
                    default=False,
                    tooltip=(
                        "The language model first writes what a picture of the prompt shows; prompt and description are"
                        " then read together. Where the description lost the subject, the prompt is read alone. An"
                        " instruct model of some billion parameters writes better than the small default."
                    ),
                ),
                declare(
                    io.String.Input,
                    "instruction",
                    multiline=True,
                    default=INSTRUCTION,
                    advanced=True,
                    tooltip=(
                        "What the language model is asked when expanding; {prompt} stands for the prompt. As it is, a"
                        " Chinese prompt is asked about in Chinese."
                    ),
                ),
                # Another seed would have all that follows done anew, with an expansion or without.
                seed_input("Decides the words of the expansion, and nothing without one.", kept=True),
                declare(
                    io.Float.Input,
                    "temperature",
                    default=0.3,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How freely the expansion is worded. 0 takes the likeliest word each time.",
                ),
                declare(
                    io.Int.Input,
                    "max_tokens",
                    default=48,
                    min=8,
                    max=256,
                    advanced=True,
                    tooltip="The longest expansion, in tokens. A GAN reads the first 64 or so of the whole text; what it"
                    " leaves out of the prompt stands on the node.",
                ),
                LLM.Input("llm", optional=True, tooltip="The language model that reads the prompt, from Load LLM."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip=(
                        "A text encoder of ComfyUI. Without an LLM it reads the prompt, for a GAN trained on it; beside"
                        " an LLM it writes the expansion, if it can write."
                    ),
                ),
                GAN.Input(
                    "gan",
                    optional=True,
                    tooltip=(
                        "The prompt is read by this GAN's recipe: its template, layer and length. Needed only if they"
                        " are not the usual ones."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="CONDITIONING",
                    tooltip=(
                        "What was read. ComfyUI's conditioning nodes work on it: Average mixes two prompts, Combine"
                        " lists prompts for one batch, Concat adds what the second says of colours and background. For several"
                        " things on one picture write one prompt."
                    ),
                ),
                io.String.Output(
                    "text",
                    display_name="text",
                    tooltip="The text that was read, the expansion included; one line for each prompt.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, prompt, one_per_line, expand, instruction, seed, temperature, max_tokens, llm=None, clip=None, gan=None
    ) -> io.NodeOutput:
        if llm is None and clip is None:
            raise ValueError("Nothing can read the prompt: connect Load LLM to the LLM Prompt Encoder, or a CLIP.")
        asked = [line for line in prompt.splitlines() if line.strip()] or [""] if one_per_line else [prompt]
        recipe, prompts, written = None if gan is None else gan.network.recipe, asked, []
        if expand:  # before anything is read: writing takes all layers, and reading would load some of them first
            own_words = None if instruction.strip() == INSTRUCTION else instruction
            write = _writer(llm, clip)
            prompts = written = write(asked, own_words, seed, temperature, max_tokens)
        unread = [] if llm is None else llm.unread(prompts, recipe)
        _note(cls, "\n".join([*(f"too long, not read: {rest}" for rest in unread), *written]))
        if llm is None:
            conditioning = _read_by_clip(clip, prompts)
            if gan is not None:  # here, where the wrong one is connected
                gan.network.check(from_conditioning(conditioning))
        else:
            conditioning = to_conditioning(llm.encode(prompts, recipe))
        return io.NodeOutput(conditioning, "\n".join(prompts))


_noted: set[str] = set()  # the nodes that have a note on them


def _note(node: Any, text: str) -> None:
    """Write on the node what is to be said of its prompts; where nothing is, only what was said before goes."""
    if node.hidden is not None and (text or node.hidden.unique_id in _noted):
        comfyui.show_text(node, text)
        _noted.add(node.hidden.unique_id)


def _writer(llm: Language | None, clip: Any):
    """What expands prompts: the CLIP if it writes, else the LLM."""
    if clip is not None and _writes(clip):
        return lambda *request: _expand_by_clip(clip, *request)
    if llm is None:
        raise ValueError("This CLIP cannot write an expansion: connect Load LLM, or turn expand off.")
    return llm.expand


def _writes(clip: Any) -> bool:
    # Since ComfyUI 0.15 every CLIP has `generate`, but only a language model has something behind it.
    parts = clip.cond_stage_model.modules() if hasattr(clip, "generate") else ()
    return any(hasattr(getattr(part, "transformer", None), "generate") for part in parts)


def _expand_by_clip(
    clip: Any, prompts: list[str], instruction: str | None, seed: int, temperature: float, max_tokens: int
) -> list[str]:
    expanded = []
    for prompt in prompts:
        # The tokenizer of a CLIP puts the instruction into the turns of its model by itself.
        tokens = clip.tokenize(writing_prompt(prompt, instruction, chat=str), skip_template=False, min_length=1)
        written = clip.generate(
            tokens, do_sample=temperature > 0, max_length=max_tokens, temperature=max(temperature, 0.01), seed=seed
        )
        expanded.append(accept(prompt, clip.decode(written)))
    return expanded


def _read_by_clip(clip: Any, prompts: list[str]) -> Conditioning:
    conditioning = [entry for prompt in prompts for entry in clip.encode_from_tokens_scheduled(clip.tokenize(prompt))]
    from_conditioning(conditioning)  # says now, and not in the generator, if a GAN cannot read it
    return conditioning
