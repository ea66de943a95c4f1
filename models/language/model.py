"""The language model: reads prompts into conditions, and writes descriptions."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import math
import re
import warnings
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

import torch
from torch import Tensor, nn

from ..condition import DEFAULT_MAX_TOKENS, DEFAULT_TEMPLATE, Condition, ConditionCache, Recipe
from ..recorded import Recordings
from . import clip
from .clip import ClipText
from .decoder import Decoder, DecoderConfig
from .expand import accept, generate, keeping, writing_prompt
from .gguf import conversion_record
from .prompt import as_read
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import DynamicCache

# The fraction of the decoder layers after which the states say most about the picture (layer 14 of 18 in Gemma 3 270M).
LAYER_FRACTION = 0.78

# Text whose token ids tell tokenizers apart: words, Chinese, digits, spaces, an accent, an emoji, brackets.
_PROBE = 'This picture of "a red apple, 一只猫和狗 1234" means: naïve  🍎 {x}\n<b>'

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "num_experts", "num_local_experts")
_MAX_SIZE, _MAX_COUNT = 2**22, 2**11

# A GPU's prompts are padded to multiples of so many tokens, and read from a recording up to so many in all.
LENGTHS, RECORDED = 4, 512

_LONGEST_TOKEN = 64  # characters; Gemma's has 31

# Residuals of these reach beyond the range of fp16.
_NEVER_FP16 = ("gemma",)


class LanguageModel(nn.Module):
    """A causal language model, of which as many layers are kept as its use needs; or a text encoder of CLIP, which reads only.

    `reader` gives the states of tokens after a layer. `model` is transformers' whole causal model where this one writes too,
    else None. `name` is for people; `fingerprint` tells models apart, whatever their folder or precision.
    """

    def __init__(
        self,
        reader: Decoder | TransformersDecoder | ClipText,
        tokenizer: Any,
        *,
        name: str,
        fingerprint: str,
        layers: int,
        model: nn.Module | None = None,
    ):
        super().__init__()
        self.reader = reader
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.layers = layers
        self._recordings = Recordings()
        self._before: tuple[tuple, Any] | None = None  # the beginning of the template, as it was last read
        self._special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, source: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None,
             write: bool = False, convert_to: Path | None = None) -> LanguageModel:
        """Loads a Hugging Face folder, a .gguf file, or a model by its name in the catalogue; never from the network.

        dtype None takes the fastest that is exact enough: on CUDA bf16 for Gemma (fp32 where the GPU lacks it) and fp16
        for others, on a CPU fp32, since in bf16 what a prompt means there would depend on its batch. Gemma overflows in
        fp16: asked for it, bf16 or fp32 is used, with a warning. write=True keeps all layers, for `expand`. convert_to is where
        GGUF models are converted to (see `catalogue.resolve`).
        Raises FileNotFoundError or ValueError, in one sentence, where there is no model that can be used.
        """
        from .catalogue import resolve

        folder = resolve(source, convert_to)
        config = _check_folder(folder)
        device = torch.device(device)
        dtype = choose_dtype(config.get("model_type", ""), device, dtype)
        if config["model_type"] in clip.MODEL_TYPES:
            if write:
                raise ValueError(f"{folder.name} reads and cannot write: have another language model expand the prompt.")
            return cls._load_clip(folder, config, dtype).to(device)
        samples = _sample(folder, config)
        # Made under inference mode, weights could neither be moved outside of it nor patched.
        with torch.inference_mode(False):
            record = conversion_record(folder)
            tokenizer = _load_tokenizer(folder, record is not None, write)
            model, reader = None, None if write else _load_decoder(folder, config, dtype)
            if reader is not None:
                layers = reader.config.layers
            else:
                model = _load_weights(folder, dtype, sum(math.prod(shape) for _, shape, _ in samples))
                decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
                if not isinstance(getattr(decoder, "layers", None), nn.ModuleList) or not hasattr(decoder, "norm"):
                    raise ValueError(f"The model in {folder} is not built as Llama, Gemma, Qwen and Mistral are (decoder "
                                     "layers and a final norm), so it cannot be read: use one of those.")
                layers = len(decoder.layers)
                reader = TransformersDecoder(decoder if write else _shallow(decoder, default_layer(layers)))
            language_model = cls(reader, tokenizer, name=str((record or {}).get("name") or folder.name), layers=layers,
                                 fingerprint=_fingerprint(config, samples, tokenizer), model=model if write else None)
            return language_model.to(device)

    @classmethod
    @torch.inference_mode(False)
    def _load_clip(cls, folder: Path, config: dict[str, Any], dtype: torch.dtype) -> LanguageModel:
        try:
            tensors = clip.text_tensors(folder)
            reader = ClipText.of(tensors, config).to(dtype)
        except Exception as error:  # as many kinds as there are ways to tamper with a folder
            raise ValueError(f"The CLIP in {folder} cannot be read: {_sentence(error)}") from error
        tokenizer = _load_tokenizer(folder, converted=False, write=False)
        samples = [_beginning(name, list(tensor.shape), tensor) for name, tensor in tensors.items()]
        fingerprint = _fingerprint({"model_type": clip.MODEL_TYPES[0]}, samples, tokenizer)
        return cls(reader, tokenizer, name=folder.name, fingerprint=fingerprint, layers=len(reader.layers))

    @property
    def write(self) -> bool:
        """Whether it can write, too."""
        return self.model is not None

    @property
    def width(self) -> int:
        return self.reader.width

    @property
    def bos(self) -> int | None:
        """The token put in front of every text, where the model has one."""
        return _bos(self.tokenizer)

    def recipe(self, template: str | None = None, layer: int | None = None, max_tokens: int | None = None) -> Recipe:
        """The recipe by which this model reads, unless a generator brings its own."""
        usual = DEFAULT_TEMPLATE, default_layer(self.layers), DEFAULT_MAX_TOKENS
        if isinstance(self.reader, ClipText):
            usual = self.reader.template, self.layers, self.reader.max_tokens
        return Recipe(model=self.name, fingerprint=self.fingerprint, width=self.width,
                      template=usual[0] if template is None else template,
                      layer=usual[1] if layer is None else layer,
                      max_tokens=usual[2] if max_tokens is None else max_tokens,
                      bos=self.bos is not None, dtype=_dtype_name(self.reader.dtype))

    @torch.inference_mode(False)  # else the states could not be used to train a generator
    @torch.no_grad()
    def encode(self, prompts: Sequence[str], recipe: Recipe | None = None, cache: ConditionCache | None = None,
               batch_size: int = 16, progress: Callable[[int, int], None] | None = None) -> Condition:
        """Reads the prompts, in batches of similar length, into one Condition of len(prompts) rows on the CPU.

        White space is collapsed, tags and weights for diffusion models are left out (`prompt.as_read`); a prompt is
        tokenised by itself, apart from the template, cut after recipe.max_tokens tokens, and special tokens in it are
        dropped. The empty prompt (the unconditional condition) has one token, a copy of its pooled state. A prompt's
        states do not depend on its batch, up to rounding. What the cache holds is not read again. progress(done, total)
        is called after every batch, counting prompts; it may raise to cancel.
        Raises ValueError where the recipe is another model's, and where there are no prompts.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("The prompts must be a list of texts.")
        if not prompts:
            raise ValueError("There is no prompt to encode: give at least one, which may be empty.")
        recipe = self._own(recipe)
        texts = [as_read(prompt) for prompt in prompts]
        states: dict[str, tuple[Tensor, Tensor]] = {}
        for text in dict.fromkeys(texts):
            if cache is not None and (entry := cache.get(recipe, text)) is not None:
                states[text] = entry
        tokens = {text: self._prompt_tokens(text, recipe) for text in dict.fromkeys(texts) if text not in states}
        order = sorted(tokens, key=lambda text: len(tokens[text]))
        done = len(texts) - len(order)
        for start in range(0, len(order), batch_size):
            batch = order[start:start + batch_size]
            for text, state in zip(batch, self._read([tokens[text] for text in batch], recipe)):
                states[text] = state
                if cache is not None:
                    cache.put(recipe, text, *state)
            done += len(batch)
            if progress is not None:
                progress(done, len(texts))
        length = max(len(states[text][0]) for text in texts)
        condition = Condition(torch.zeros(len(texts), length, recipe.width), torch.zeros(len(texts), recipe.width),
                              torch.zeros(len(texts), length, dtype=torch.bool), recipe)
        for i, text in enumerate(texts):
            own, pooled = states[text]
            condition.tokens[i, :len(own)] = own
            condition.mask[i, :len(own)] = True
            condition.pooled[i] = pooled
        return condition

    def unread(self, prompt: str, recipe: Recipe | None = None) -> str:
        """The end of the prompt that `encode` leaves out, since it has more than recipe.max_tokens tokens;
        "" where it has not."""
        recipe, text = self._own(recipe), as_read(prompt)
        more = replace(recipe, max_tokens=recipe.max_tokens + 1)
        if len(self._prompt_tokens(text, more)) <= recipe.max_tokens:
            return ""
        places = range(min(len(text), _LONGEST_TOKEN * more.max_tokens))  # where the first token too many may end
        return text[bisect_left(places, more.max_tokens, key=lambda i: len(self._prompt_tokens(text[:i + 1], more))):]

    def expand(self, prompt: str, *, instruction: str | None = None, seed: int = 0, temperature: float = 0.3,
               max_tokens: int = 48, on_token: Callable[[str], None] | None = None) -> str:
        """Writes what a picture of the prompt shows, and returns what is read of the prompt + ". " + description.

        Returns the prompt alone where the description is empty, a repetition, or lost the prompt's nouns (see
        `expand.accept`). instruction contains `{prompt}`; a model without a chat template sees it with examples.
        temperature 0 is greedy; otherwise the seed decides. on_token(text so far) is called after every token of at
        most max_tokens; it may raise to cancel. Raises ValueError where the model was loaded without write=True.
        """
        if not self.write:
            raise ValueError(f"{self.name} was loaded for reading only: load it with write=True to expand prompts.")
        if not 0 <= temperature <= 5 or not 1 <= max_tokens <= 1_024:
            raise ValueError("Expansion takes a temperature from 0 to 5 and 1 to 1024 tokens.")
        prompt, chat = as_read(prompt), self._chat if self.tokenizer.chat_template else None
        ids = self._tokens(writing_prompt(prompt, instruction, chat))
        if self.bos is not None and chat is None:
            ids = [self.bos, *ids]
        return accept(prompt, generate(self.model, self.tokenizer, ids, seed=seed, temperature=temperature,
                                       max_tokens=max_tokens, on_token=on_token))

    def _chat(self, message: str) -> str:
        # Models that think aloud are asked not to: the few tokens would be spent before the description begins.
        return self.tokenizer.apply_chat_template([{"role": "user", "content": message}], tokenize=False,
                                                  add_generation_prompt=True, enable_thinking=False)

    def _own(self, recipe: Recipe | None) -> Recipe:
        """The recipe with this model's name and precision; ValueError where this model cannot follow it."""
        if recipe is None:
            return self.recipe()
        mine = replace(recipe, model=self.name, fingerprint=self.fingerprint, width=self.width,
                       dtype=_dtype_name(self.reader.dtype))
        if reason := recipe.difference(mine):
            raise ValueError(reason)
        if recipe.layer > len(self.reader.layers):
            raise ValueError(f"The recipe reads layer {recipe.layer}, but {self.name} has {self.layers} layers, of "
                             f"which {len(self.reader.layers)} are loaded: load it with all its layers, as for expansion.")
        return mine

    def _prompt_tokens(self, text: str, recipe: Recipe) -> list[int]:
        return [token for token in self._tokens(text) if token not in self._special][:recipe.max_tokens]

    def _tokens(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("A prompt holds bytes that are no text in UTF-8: write it anew.") from None
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def _read(self, prompts: list[list[int]], recipe: Recipe) -> list[tuple[Tensor, Tensor]]:
        """For each prompt its tokens' states [T, C] and the pooled state [C], float32 on the CPU."""
        before, after = (self._tokens(part) for part in recipe.template.split("{prompt}"))
        if recipe.bos and self.bos is not None:
            before = [self.bos, *before]
        if not after and not before and not all(prompts):
            raise ValueError("An empty prompt needs a template with words of its own.")
        # What stands before every prompt is read once; its last word again where an empty prompt ends with it.
        known, before = (before, []) if after else (before[:-1], before[-1:])
        if not self.reader.keeps:
            known, before = [], known + before
        rows = [before + prompt + after for prompt in prompts]
        length = max(len(row) for row in rows)
        if self.reader.device.type == "cuda":  # fewer lengths, fewer kinds of recording
            length = -(-length // LENGTHS) * LENGTHS
            self._recordings.follow(self.reader)
        # Attention is causal: what is padded on the right changes nothing on its left, and needs no mask.
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        x, settings = self.reader.placed(ids), {"layer": recipe.layer, "known": tuple(known)}
        if self.reader.recordable and ids.numel() <= RECORDED:
            states, = self._recordings.run(self._states, x, **settings)
        else:
            states, = self._states(x, **settings)
        states = states.to("cpu", torch.float32)
        if not torch.isfinite(states).all():
            raise ValueError(f"{self.name} gave numbers that are not finite in {recipe.dtype}: load it in float32.")
        result = []
        for prompt, row, state in zip(prompts, rows, states):
            pooled = state[len(row) - 1]
            result.append((state[len(before):len(before) + len(prompt)] if prompt else pooled[None], pooled))
        return result

    def _states(self, x: Tensor, *, layer: int, known: tuple[int, ...]) -> tuple[Tensor]:
        """The states [B,T,C] of what was `placed` and stands behind the tokens `known`."""
        return self.reader(x, layer, self._read_before(known, layer) if known else None)[:1]

    def _read_before(self, tokens: tuple[int, ...], layer: int) -> Any:
        """What the reader keeps of the text that stands before every prompt; read once, while the model stays in its place."""
        key = (tokens, layer, self.reader.device, self.reader.dtype)
        if self._before is None or self._before[0] != key:
            if self._before is not None:
                self._recordings.forget()  # they read what was kept before
            self._before = key, self.reader(self.reader.placed(torch.tensor([tokens])), layer)[1]
        return self._before[1]


class TransformersDecoder(nn.Module):
    """The decoder of any model of transformers, read as `Decoder` is."""

    recordable = False  # transformers looks at what it reads on the way

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        # Whether transformers masks keys that are there already, whatever the cache: before 4.53 Gemma knew its own kind only.
        self.keeps = importlib.util.find_spec("transformers.masking_utils") is not None

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers

    @property
    def width(self) -> int:
        return self.decoder.get_input_embeddings().weight.shape[1]

    @property
    def device(self) -> torch.device:
        return self.decoder.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.get_input_embeddings().weight.dtype

    def placed(self, ids: Tensor) -> Tensor:
        """Token ids [B,T] on its device, to be read by `forward`."""
        return ids.to(self.device)

    def forward(self, ids: Tensor, layers: int, before: DynamicCache | None = None) -> tuple[Tensor, DynamicCache | None]:
        """As `Decoder.forward`; nothing is kept where `keeps` is False."""
        from transformers import DynamicCache

        cache = None
        if self.keeps:
            cache = DynamicCache() if before is None else copy.deepcopy(before)  # reading appends to it
            if before is not None and len(ids) > 1:
                cache.batch_repeat_interleave(len(ids))
        decoder = _shallow(self.decoder, layers)
        return decoder(input_ids=ids, **keeping(decoder, cache)).last_hidden_state, cache


def default_layer(layers: int) -> int:
    return max(1, round(LAYER_FRACTION * layers))


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shallow(decoder: nn.Module, layer: int) -> nn.Module:
    """The decoder up to `layer`, without the final norm: shares all modules with `decoder`, which stays as it is."""
    reader = copy.copy(decoder)
    reader._modules = dict(decoder._modules, layers=nn.ModuleList(decoder.layers[:layer]), norm=nn.Identity())
    return reader


def choose_dtype(model_type: str, device: torch.device, wish: torch.dtype | None = None) -> torch.dtype:
    """The precision to load a model of `model_type` in; `wish` is followed, but for fp16 where the model overflows."""
    overflows = any(kind in model_type for kind in _NEVER_FP16)
    cuda = device.type == "cuda"
    exact = torch.bfloat16 if cuda and has_bf16(device) else torch.float32
    if wish == torch.float16 and overflows:
        warnings.warn(f"{model_type} overflows in float16 and is loaded in {_dtype_name(exact)}.", stacklevel=3)
        return exact
    if wish is not None:
        if wish not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"A language model runs in float32, bfloat16 or float16, not in {_dtype_name(wish)}.")
        return wish
    if overflows:
        return exact
    return torch.float16 if cuda else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself: an NVIDIA one before Ampere would emulate it, slower than fp32."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _check_folder(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder, once it is sure that there are weights to load safely."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no config.json, so it is no model folder.") from None
    except (OSError, ValueError):
        raise ValueError(f"The config.json in {folder} is damaged: fetch the model again.") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"The config.json in {folder} names no model_type, so it is not a language model's.")
    # A hostile number would have transformers build modules without end; what the files really hold is compared later.
    for key, value in [*config.items(), *_text_config(config).items()]:
        bound = _MAX_COUNT if key.startswith("num_") else _MAX_SIZE
        if key in _SIZES and value is not None and (type(value) is not int or not 1 <= value <= bound):
            raise ValueError(f"The config.json in {folder} is damaged, its {key} is {value!r:.60}: fetch the model "
                             "again.")
    pickled = config["model_type"] in clip.MODEL_TYPES and (folder / clip.PICKLED).is_file()
    if not any(folder.glob("*.safetensors")) and not pickled:
        raise ValueError(f"{folder} holds no .safetensors weights (pickled weights are never opened): fetch the model "
                         "in the safetensors format.")
    return config


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that describes the language model: all of it, but for models that see as well."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _load_tokenizer(folder: Path, converted: bool, write: bool) -> Any:
    try:
        if converted and not write:
            return Tokenizer(folder)
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        # The file as it stands: the model's own tokenizer class rebuilds it in some versions of transformers, and differs.
        kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
        if converted:  # two files hold all of it, which `from_pretrained` would read several times over
            settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **settings)
        else:
            tokenizer = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        # Some versions of transformers make an empty tokenizer where its files are missing.
        if len(set(tokenizer(_PROBE, add_special_tokens=False).input_ids)) < 10:
            raise ValueError("its files are missing or empty")
        return tokenizer
    except Exception as error:  # transformers raises whatever a library beneath it raised
        raise ValueError(f"The tokenizer in {folder} cannot be read: {_sentence(error)}") from error


def _load_decoder(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Decoder | None:
    """The layers that reading takes; None where they are left to transformers."""
    try:
        known = DecoderConfig.of(config)
        return known and Decoder.load(folder, known, dtype, default_layer(known.layers))
    except Exception as error:  # as many kinds as there are ways to tamper with a folder
        raise ValueError(f"The weights in {folder} do not fit its config.json, fetch the model again: "
                         f"{_sentence(error)}") from error


def _load_weights(folder: Path, dtype: torch.dtype, held: int) -> nn.Module:
    """The causal model in `folder`, whose files hold `held` numbers; refuses what the files do not fill."""
    from packaging.version import Version
    from transformers import AutoConfig, AutoModelForCausalLM, __version__

    safely = {"local_files_only": True, "trust_remote_code": False}
    precision = {"dtype" if Version(__version__) >= Version("4.56") else "torch_dtype": dtype}
    try:
        # transformers would fill with random numbers whatever a hostile config asks for. Packed weights count 8-fold.
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder), **safely),
                                                     trust_remote_code=False)
        if (wanted := sum(weight.numel() for weight in empty.parameters())) > 10 * held:
            raise ValueError(f"its config.json asks for {wanted} numbers and its files hold {held}.")
        model, info = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True,
                                                           **safely, **precision)
    except Exception as error:
        raise ValueError(f"The model in {folder} cannot be loaded: {_sentence(error)}") from error
    if missing := sorted(info["missing_keys"]) or sorted(str(key) for key in info["mismatched_keys"]):
        raise ValueError(f"The weights in {folder} are incomplete, {missing[0]} and {len(missing) - 1} more are "
                         "missing: fetch the model again.")
    return model


def _sentence(error: Exception) -> str:
    """The first sentence of an error, so that a message stays one sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?:]) ", text)[0].rstrip(".:")[:200]


def _bos(tokenizer: Any) -> int | None:
    # Chat models of the Qwen and SmolLM kind name a marker of turns; the token that began their documents is this one.
    if tokenizer.bos_token in (None, "<|im_start|>"):
        token = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        if token is not None and token != tokenizer.unk_token_id:
            return token
    return tokenizer.bos_token_id


def _sample(folder: Path, config: dict[str, Any]) -> list[list]:
    """Of every tensor in the folder: its name, shape and first eight numbers, rounded to bf16, as integers.

    Raises ValueError where the weights are cut short, or are too few for the config: before a model is built that size.
    """
    from safetensors import SafetensorError, safe_open

    samples = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), "pt") as file:
                for name in file.keys():
                    part = file.get_slice(name)
                    shape = part.get_shape()
                    samples[name] = _beginning(name, shape, part[:1] if shape else file.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} was cut short or is damaged: fetch it again ({_sentence(error)}).") from error
    text = _text_config(config)
    layers = text.get("num_hidden_layers")
    if isinstance(layers, int) and not any(f"layers.{layers - 1}." in name for name in samples):
        raise ValueError(f"The weights in {folder} are incomplete, layer {layers} of {layers} is missing: fetch the "
                         "model again.")
    embedding = [text.get("vocab_size"), text.get("hidden_size")]
    for name, shape, _ in samples.values():
        if name.endswith("embed_tokens.weight") and None not in embedding and shape != embedding:
            raise ValueError(f"The weights in {folder} do not fit its config.json, {name} has the shape {shape} instead "
                             f"of {embedding}: fetch the model again.")
    return [samples[name] for name in sorted(samples)]


def _beginning(name: str, shape: list[int], values: Tensor) -> list:
    return [name, list(shape), values.flatten()[:8].to(torch.bfloat16).view(torch.int16).tolist()]


def _fingerprint(config: dict[str, Any], samples: list[list], tokenizer: Any) -> str:
    """sha256 of the architecture, of numbers of every tensor (see `_sample`), and of a probe's token ids.

    Nothing in it depends on the version of transformers, on the folder's name, or on the precision it is stored in.
    """
    text = _text_config(config)
    digest = hashlib.sha256(json.dumps([text.get(key) for key in (
        "model_type", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "hidden_size")]).encode())
    for sample in samples:
        digest.update(json.dumps(sample).encode())
    digest.update(json.dumps([_bos(tokenizer), tokenizer(_PROBE, add_special_tokens=False).input_ids]).encode())
    return digest.hexdigest()[:16]
