"""GGUF files turned, once, into ordinary Hugging Face folders.

The header is read here (bounded, a third of a second for 262 144 tokens), the blocks are dequantised by the `gguf`
package, row by row, straight into the safetensors file. Architectures: "gemma3" (text) and "llama" (SmolLM2, Llama).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import struct
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import torch

from .tokenizer import PIECES

log = logging.getLogger(__name__)

# Raised whenever the folders written here change, so that older ones are made anew.
CONVERTER = 2
RECORD = "conversion.json"

_CHUNK = 4 * 2**20  # numbers dequantised at a time
_MAX_LAYERS, _MAX_WIDTH, _MAX_VOCABULARY, _MAX_TENSORS = 512, 65_536, 2**21, 16_384
_MAX_PIECE, _MAX_MERGES = 128, 4  # characters of a piece, and merges for each token; Gemma's are at most 16, and 2

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_USE_FOLDER = "use the model's Hugging Face folder instead"
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6  # token types


def convert_gguf(source: Path, folder: Path, *, name: str | None = None, origin: str | None = None) -> Path:
    """Writes the model of the GGUF file `source` to `folder` as a Hugging Face folder, and returns `folder`.

    Gemma is stored in bf16, llama-like models in fp16. The folder appears complete or not at all: it is written beside
    its place and then renamed; where another process was faster, its folder is kept. `name` (default: the folder's
    name) and `origin` (default: `source_digest`) go into `conversion.json`.
    Raises FileNotFoundError or ValueError, in one sentence, for a file that is missing, broken or not supported.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_file():
        raise FileNotFoundError(f"There is no GGUF file at {source}.")
    if source.stat().st_size < 24:
        raise ValueError(f"{source.name} is not a GGUF file, or was cut short: fetch it again.")
    start = time.monotonic()
    log.info("Converting %s to %s (once; takes some seconds) ...", source.name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.converting")
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            header = _read_header(data)
            config, tensors = _plan(header, data)
            files = {"config.json": config} | _tokenizer(header.metadata, config)
        except (struct.error, IndexError, UnicodeDecodeError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"{source.name} is not a GGUF file, or was cut short or is damaged: fetch it "
                             "again.") from error
        except ValueError as error:
            raise ValueError(f"{source.name} cannot be used: {error}") from error
        partial.mkdir()
        try:
            files[RECORD] = {"converter": CONVERTER, "origin": origin or source_digest(source), "name": name or folder.name}
            for file_name, value in files.items():
                _write_json(partial / file_name, value)
            _write_safetensors(partial / "model.safetensors", tensors, config["torch_dtype"], data)
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    log.info("Converted %s in %.1f s.", source.name, time.monotonic() - start)
    return folder


def conversion_record(folder: Path) -> dict[str, Any] | None:
    """What `convert_gguf` noted about `folder`; None for a folder that did not come from it."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def source_digest(path: Path) -> str:
    """Short sha256 of a file's size, beginning, middle and end: tells large files apart without reading them."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for position in (0, size // 2, max(size - 2**20, 0)):
            file.seek(position)
            digest.update(file.read(2**20))
    return digest.hexdigest()[:16]


def _publish(partial: Path, folder: Path) -> None:
    """Renames `partial` to `folder`, replacing an older conversion, and giving way to an equal one made meanwhile."""
    if folder.exists() and conversion_record(folder) != conversion_record(partial):
        if conversion_record(folder) is None:
            raise ValueError(f"{folder} exists and was not made by a conversion: move it away, or choose another place.")
        old = partial.with_name(partial.name + ".old")
        with contextlib.suppress(FileNotFoundError):  # another process moved it first
            os.rename(folder, old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        os.rename(partial, folder)
    except OSError:
        if conversion_record(folder) != conversion_record(partial):
            raise


def _sweep(folder: Path) -> None:
    """Removes what conversions to `folder` left that were killed more than an hour ago."""
    for left in folder.parent.glob(f".{folder.name}.*.converting*"):
        with contextlib.suppress(FileNotFoundError):  # another process finished it, or swept it, first
            if time.time() - left.stat().st_mtime > 3_600:
                shutil.rmtree(left, ignore_errors=True)


def _write_json(path: Path, value: Any) -> None:
    indent = None if path.name in ("tokenizer.json", PIECES) else 2
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent), "utf-8")


# ---------------------------------------------------------------------------------------------------------- header


@dataclass
class _Tensor:
    shape: tuple[int, ...]  # outermost first, as torch has it
    kind: int
    offset: int  # in bytes, from the start of the file
    size: int


@dataclass
class _Header:
    metadata: dict[str, Any]
    tensors: dict[str, _Tensor]

    def number(self, key: str, low: float, high: float, default: float | None = None) -> Any:
        """The entry `key`, a whole number where `low` is one; ValueError where it is none from `low` to `high`."""
        value = self.metadata.get(key, default)
        kinds, words = ((int, float), "number") if isinstance(low, float) else (int, "whole number")
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise ValueError(f"its entry {key} should be a {words} from {low:g} to {high:g}, but is {value!r:.60}.")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        """The entry `key`; ValueError where it is no text."""
        value = self.metadata.get(key, default)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"its entry {key} should be a text, but is {value!r:.60}.")
        return value


class _Reader:
    """Reads forward through a mapped file, and never past its end."""

    def __init__(self, data: mmap.mmap, position: int):
        self.data, self.position = data, position

    def scalar(self, kind: str) -> Any:
        value, = struct.unpack_from("<" + kind, self.data, self.position)
        self.position += struct.calcsize("<" + kind)
        return value

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise IndexError("past the end")
        self.position += size
        return self.data[self.position - size:self.position]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            if count > (len(self.data) - self.position) // 8:
                raise IndexError("past the end")
            return [self.string() for _ in range(count)]
        item = np.dtype("<" + _SCALARS[kind])
        return np.frombuffer(self.take(count * item.itemsize), item)


def _read_header(data: mmap.mmap) -> _Header:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if data[:4] != b"GGUF":
        raise ValueError("it is not a GGUF file.")
    reader = _Reader(data, 4)
    version, tensor_count, entry_count = reader.scalar("I"), reader.scalar("Q"), reader.scalar("Q")
    if version not in (2, 3):
        raise ValueError(f"it is of GGUF version {version}, and versions 2 and 3 are supported.")
    if tensor_count > _MAX_TENSORS or entry_count > _MAX_TENSORS:
        raise ValueError(f"its header claims {tensor_count} tensors and {entry_count} entries, more than a model has.")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        key, kind = reader.string(), reader.scalar("I")
        if kind not in _SCALARS and kind not in (_STRING, _ARRAY):
            raise ValueError(f"its entry {key[:80]} is of an unknown type.")
        try:
            metadata[key] = reader.value(kind)
        except KeyError:
            raise ValueError(f"its entry {key[:80]} is of an unknown type.") from None
    found = []
    for _ in range(tensor_count):
        name, dimensions = reader.string(), reader.scalar("I")
        if dimensions > 4:
            raise ValueError(f"its tensor {name[:80]} has {dimensions} dimensions.")
        shape = tuple(reader.scalar("Q") for _ in range(dimensions))[::-1]
        found.append((name, shape, reader.scalar("I"), reader.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise ValueError(f"its alignment is {alignment!r:.60}.")
    start = -(-reader.position // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in found:
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise ValueError(f"its tensor {name[:80]} has the unknown number format {kind}: update the gguf "
                             "package.") from None
        if not shape or min(shape) < 1 or shape[-1] % block:
            raise ValueError(f"its tensor {name[:80]} has the impossible shape {shape}.")
        tensors[name] = _Tensor(shape, kind, start + offset, math.prod(shape) // block * size)
        if start + offset + tensors[name].size > len(data):
            raise ValueError("it was cut short: fetch it again.")
    if sum(tensor.size for tensor in tensors.values()) > len(data):
        raise ValueError("its tensors overlap: fetch it again.")
    return _Header(metadata, tensors)


# ------------------------------------------------------------------------------------------------ config and weights


@dataclass
class _Weight:
    """Where a tensor of the folder comes from: a tensor of the GGUF, its rows in another order, less a constant."""

    tensor: _Tensor
    rows: np.ndarray | None = None
    minus: float = 0.0


def _plan(header: _Header, data: mmap.mmap) -> tuple[dict[str, Any], dict[str, _Weight]]:
    """The config.json, and for every tensor of the folder where it comes from."""
    if (parts := header.number("split.count", 0, 2**16, 1)) > 1:  # of which one alone lacks tensors, and most all entries
        raise ValueError(f"it is one of {parts} parts of a model: join them with llama-gguf-split --merge, or {_USE_FOLDER}.")
    architecture = header.text("general.architecture")
    if architecture == "gemma3":
        config, names, norms = _gemma_config(header), _GEMMA_NAMES, 1.0
    elif architecture == "llama":
        config, names, norms = _llama_config(header, data), _LLAMA_NAMES, 0.0
    else:
        raise ValueError(f"its architecture is {architecture!r:.60}, and of GGUF files gemma3 and llama are supported: "
                         f"{_USE_FOLDER}.")
    width, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"attn_q": (queries, width), "attn_k": (keys, width), "attn_v": (keys, width),
              "attn_output": (width, queries), "ffn_gate": (inner, width), "ffn_up": (inner, width),
              "ffn_down": (width, inner), "attn_q_norm": (config["head_dim"],), "attn_k_norm": (config["head_dim"],)}
    vocabulary = (config["vocab_size"], width)

    left = dict(header.tensors)
    left.pop("rope_freqs.weight", None)  # read by _llama_config

    def take(name: str, shape: tuple[int, ...], rows: np.ndarray | None = None) -> _Weight:
        tensor = left.pop(name, None)
        if tensor is None:
            raise ValueError(f"it lacks the tensor {name}.")
        if tensor.shape != shape:
            raise ValueError(f"its tensor {name} has the shape {tensor.shape} instead of {shape}.")
        return _Weight(tensor, rows, norms if "norm" in name else 0.0)

    weights = {"model.embed_tokens.weight": take("token_embd.weight", vocabulary)}
    for layer in range(config["num_hidden_layers"]):
        for old, new in names.items():
            rows = None
            if architecture == "llama" and old in ("attn_q", "attn_k"):
                rows = _rotary_rows(shapes[old][0], config["head_dim"])
            shape = shapes.get(old, (width,))
            weights[f"model.layers.{layer}.{new}.weight"] = take(f"blk.{layer}.{old}.weight", shape, rows)
    weights["model.norm.weight"] = take("output_norm.weight", (width,))
    config["tie_word_embeddings"] = "output.weight" not in left
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = take("output.weight", vocabulary)
    if left:
        raise ValueError(f"it holds tensors that a {architecture} model of this kind lacks, such as {min(left)[:80]}.")
    return config, weights


_LLAMA_NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
                "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_GEMMA_NAMES = _LLAMA_NAMES | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
                               "post_attention_norm": "post_attention_layernorm",
                               "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}


def _rotary_rows(count: int, head: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each head's rotary pairs; these rows put them one after the other."""
    return np.arange(count).reshape(-1, head // 2, 2).swapaxes(1, 2).reshape(-1)


def _common_config(header: _Header, architecture: str) -> dict[str, Any]:
    def number(key: str, low: float, high: float, default: float | None = None) -> Any:
        return header.number(f"{architecture}.{key}", low, high, default)

    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not 0 < len(tokens) <= _MAX_VOCABULARY:
        raise ValueError("it holds no vocabulary.")
    width = number("embedding_length", 1, _MAX_WIDTH)
    heads = number("attention.head_count", 1, 1_024)
    config = {
        "vocab_size": len(tokens),
        "hidden_size": width,
        "num_hidden_layers": number("block_count", 1, _MAX_LAYERS),
        "intermediate_size": number("feed_forward_length", 1, 16 * _MAX_WIDTH),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", 1, heads, heads),
        "head_dim": number("attention.key_length", 2, 4_096, width // heads),
        "rms_norm_eps": float(f"{number('attention.layer_norm_rms_epsilon', 0.0, 1):.6g}"),  # stored as float32
        "max_position_embeddings": number("context_length", 1, 2**24),
        "rope_theta": float(number("rope.freq_base", 1.0, 1e12, 10_000.0)),
        "attention_bias": False,
        "use_cache": True,
    }
    for key in ("bos", "eos", "padding"):
        if (token := header.metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            header.number(f"tokenizer.ggml.{key}_token_id", 0, len(tokens) - 1)
            config["pad_token_id" if key == "padding" else f"{key}_token_id"] = token
    if config["head_dim"] % 2:
        raise ValueError(f"its heads have the odd size {config['head_dim']}, and they rotate in pairs: fetch it again.")
    return config


def _gemma_config(header: _Header) -> dict[str, Any]:
    config = _common_config(header, "gemma3")
    # What GGUF does not say, every Gemma 3 shares; the old keys of transformers 4 are read by all versions.
    config |= {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "torch_dtype": "bfloat16",
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": 10_000.0,
        "sliding_window": header.number("gemma3.attention.sliding_window", 1, 2**24),
        "sliding_window_pattern": 6,
        "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention"
                        for layer in range(config["num_hidden_layers"])],
        # Attention is scaled by the head's size, in the 27B model (62 layers) by the width over the heads.
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"]
        if config["num_hidden_layers"] == 62 else config["head_dim"],
        "attn_logit_softcapping": None, "final_logit_softcapping": None,
    }
    factor = header.number("gemma3.rope.scaling.factor", 0.0, 1e6, 1.0)
    if factor > 1:
        config["rope_scaling"] = {"rope_type": "linear", "factor": float(factor)}
    return config


def _llama_config(header: _Header, data: mmap.mmap) -> dict[str, Any]:
    config = _common_config(header, "llama")
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
               "hidden_act": "silu", "mlp_bias": False}
    if header.number("llama.rope.dimension_count", 0, 4_096, config["head_dim"]) != config["head_dim"]:
        raise ValueError("it rotates only a part of each head, which is not supported.")
    if header.text("llama.rope.scaling.type", "none") != "none":
        raise ValueError(f"it scales its rotary positions, which is not supported from GGUF: {_USE_FOLDER}.")
    if (factors := header.tensors.get("rope_freqs.weight")) is not None:
        config["rope_scaling"] = _llama3_scaling(factors, data, config)
    return config


def _llama3_scaling(factors: _Tensor, data: mmap.mmap, config: dict[str, Any]) -> dict[str, Any]:
    """Llama 3.1's scaling of frequencies, which GGUF holds as a divisor for each, as transformers describes it."""
    if factors.kind != 0 or factors.shape != (config["head_dim"] // 2,):
        raise ValueError("its rotary frequencies are of an unknown form.")
    divisors = np.frombuffer(data[factors.offset:factors.offset + factors.size], np.float32)
    scaling = {"rope_type": "llama3", "factor": float(divisors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8_192}
    turns = 8_192 * config["rope_theta"] ** -(np.arange(0, config["head_dim"], 2) / config["head_dim"]) / (2 * math.pi)
    kept = np.clip((turns - 1) / 3, 0, 1)  # 1 where a frequency stays, 0 where it is divided by the whole factor
    if not np.allclose(divisors, 1 / ((1 - kept) / scaling["factor"] + kept), rtol=1e-3):
        raise ValueError("it scales its rotary frequencies otherwise than Llama 3.1 does, which is not supported from "
                         f"GGUF: {_USE_FOLDER}.")
    return scaling


def _dequantised(weight: _Weight, data: mmap.mmap) -> Iterator[np.ndarray]:
    """The weight in float32, a few rows at a time."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    tensor, kind = weight.tensor, GGMLQuantizationType(weight.tensor.kind)
    count, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    width = tensor.size // count
    step = count if weight.rows is not None else max(_CHUNK // columns, 1)
    for start in range(0, count, step):
        stop = min(start + step, count)
        raw = data[tensor.offset + start * width:tensor.offset + stop * width]
        rows = np.frombuffer(raw, np.uint8).reshape(stop - start, width)
        if weight.rows is not None:
            rows = rows[weight.rows]
        try:
            numbers = dequantize(rows, kind)
        except NotImplementedError:
            raise ValueError(f"The GGUF file holds numbers in the format {kind.name}, which the gguf package cannot read: "
                             f"update it, or {_USE_FOLDER}.") from None
        yield numbers - np.float32(weight.minus)


def _write_safetensors(path: Path, weights: dict[str, _Weight], dtype: str, data: mmap.mmap) -> None:
    """Streams the weights, converted to bf16 or fp16, into a safetensors file."""
    kind, code = {"bfloat16": (torch.bfloat16, "BF16"), "float16": (torch.float16, "F16")}[dtype]
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, weight in weights.items():
        size = 2 * math.prod(weight.tensor.shape)
        entries[name] = {"dtype": code, "shape": weight.tensor.shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, weight in weights.items():
            for rows in _dequantised(weight, data):
                converted = torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(kind)
                if not torch.isfinite(converted).all():
                    raise ValueError(f"The GGUF file's {name} holds numbers that are not finite: fetch it again.")
                file.write(converted.view(torch.int16).numpy().tobytes())


# -------------------------------------------------------------------------------------------------------- tokenizer


def _tokenizer(metadata: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json (as the `tokenizers` library reads it), tokenizer_config.json and what `SentencePieces` are made of."""
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, np.ndarray) or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ValueError("its vocabulary is damaged: fetch it again.")
    kind = metadata.get("tokenizer.ggml.model")
    build: dict[str, Callable] = {"llama": _sentencepiece, "gpt2": _byte_level}
    if kind not in build:
        raise ValueError(f"its tokenizer is of the kind {kind!r:.60}, and llama (SentencePiece) and gpt2 (byte-level) "
                         f"are supported: {_USE_FOLDER}.")
    # Control tokens are never part of a text; tokens defined by the user are found before anything else is looked at.
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": bool(types[i] == _CONTROL)}
             for i in np.flatnonzero((types == _CONTROL) | (types == _USER_DEFINED)).tolist()]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": None, "post_processor": None, "decoder": None} | build[kind](metadata, tokens, types)
    special = {f"{name}_token": tokens[config[f"{name}_token_id"]]
               for name in ("bos", "eos", "pad") if f"{name}_token_id" in config}
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                        "add_bos_token": False, "add_eos_token": False, "model_max_length": 10**6} | special
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer_config["chat_template"] = template
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config}
    if kind == "llama" and all(f"<0x{byte:02X}>" in tokenizer["model"]["vocab"] for byte in range(256)):
        files[PIECES] = {"tokens": tokens, "order": _order(metadata, tokens, types),
                         "added": [(token["id"], token["special"]) for token in added], "prefix": _prefix(metadata)}
    return files


def _order(metadata: dict[str, Any], tokens: list[str], types: np.ndarray) -> list[int]:
    """The ids of the pieces that others may be joined to, by falling score."""
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise ValueError("its vocabulary has no scores: fetch it again.")
    joins = ~np.isin(types, (_CONTROL, _USER_DEFINED, _BYTE))
    order = np.argsort(-scores, kind="stable")
    return order[joins[order]].tolist()


def _prefix(metadata: dict[str, Any]) -> str:
    return "" if metadata.get("tokenizer.ggml.add_space_prefix") is False else "▁"


def _sentencepiece(metadata: dict[str, Any], tokens: list[str], types: np.ndarray) -> dict[str, Any]:
    """SentencePiece BPE: pieces joined by falling score, unknown characters as bytes.

    Raises ValueError for pieces too long, or joining in too many ways, for any model.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    order = _order(metadata, tokens, types)
    pieces = {tokens[i] for i in order}
    if (longest := max(map(len, pieces), default=0)) > _MAX_PIECE:
        raise ValueError(f"its vocabulary holds a piece of {longest} characters, more than a model has: fetch it again.")
    merges = []
    for piece in (tokens[i] for i in order):
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += sorted((pair for pair in splits if pair[0] in pieces and pair[1] in pieces),
                         key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        if len(merges) > _MAX_MERGES * len(tokens):
            raise ValueError("its vocabulary's pieces join in more ways than a model's do: fetch it again.")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}]
    if prefix := _prefix(metadata):
        spaces = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": prefix}, spaces]}
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(tokens):
        raise ValueError("its vocabulary is damaged: fetch it again.")
    return {"normalizer": spaces, "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": None, "unk_token": tokens[unknown], "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocabulary, "merges": merges}}


# By llama.cpp's name of the pre-tokenizer: what precedes the byte level, and whether that splits words itself.
_LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                 r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_PRE_TOKENIZERS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "smollm": ([{"type": "Digits", "individual_digits": True}], True),
    "gpt-2": ([], True),
    "llama-bpe": ([{"type": "Split", "pattern": {"Regex": _LLAMA3_WORDS}, "behavior": "Isolated", "invert": False}],
                  False),
}


def _byte_level(metadata: dict[str, Any], tokens: list[str], types: np.ndarray) -> dict[str, Any]:
    """GPT-2's byte-level BPE, with the merges that the file holds."""
    merges = metadata.get("tokenizer.ggml.merges")
    name = metadata.get("tokenizer.ggml.pre")
    if not isinstance(merges, list) or not all(isinstance(m, str) and len(m.split(" ")) == 2 for m in merges):
        raise ValueError("its vocabulary has no merges: fetch it again.")
    if name not in _PRE_TOKENIZERS:
        raise ValueError(f"its text is split into words in the manner {name!r:.60}, and {', '.join(_PRE_TOKENIZERS)} "
                         f"are supported: {_USE_FOLDER}.")
    first, gpt2_words = _PRE_TOKENIZERS[name]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": gpt2_words}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, bytes_]}, "decoder": bytes_,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": name == "llama-bpe",
                      "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [m.split(" ") for m in merges]}}
