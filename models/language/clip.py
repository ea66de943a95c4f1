"""CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020), read as the decoders are; and the layers that it shares with
CLIP's eyes.

GANs that were published with CLIP read with it (`..published.galip`). It writes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pickles import read_pickle

MODEL_TYPES = ("clip", "clip_text_model")
PICKLED = "pytorch_model.bin"  # as which OpenAI's were published; read as data
END = "<|endoftext|>"  # whose state is the text's
HEAD = 64  # numbers of a head of attention, in all that OpenAI published
SPARE = 3  # tokens that no prompt takes: a beginning, an end, and one that makes the length even
ENOUGH = 512  # layers


class Block(nn.Module):
    """x [B,T,C] -> [B,T,C]: attention and an MLP, each behind a layer norm and beside a shortcut. `causal`:
    no token looks ahead."""

    def __init__(self, width: int, causal: bool = False):
        super().__init__()
        self.causal = causal
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm_attention(x)).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        inner = self.inner(self.norm_mlp(x))
        return x + self.outer(inner * torch.sigmoid(1.702 * inner))  # nearly GELU


class ClipText(nn.Module):
    """Token ids [B,T] -> states [B,T,C] after all layers, where CLIP's pictures lie; that of `END` is the text's (§2.4)."""

    keeps = False  # nothing: there is no text that prompts begin with
    recordable = True

    def __init__(self, words: int, longest: int, width: int, layers: int, projected: int):
        super().__init__()
        self.vocabulary = nn.Parameter(torch.empty(words, width))
        self.positions = nn.Parameter(torch.empty(longest, width))
        self.layers = nn.ModuleList(Block(width, causal=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, projected, bias=False)

    @classmethod
    def of(cls, tensors: dict[str, Tensor], config: dict[str, Any]) -> ClipText:
        """Of the tensors of a folder (`text_tensors`). ValueError, in a few words, where they are no such encoder's."""
        text = config.get("text_config", config)
        if text.get("hidden_act", "quick_gelu") != "quick_gelu":
            raise ValueError("it is not one of OpenAI's, its activation is another")
        named = _named(tensors)
        try:
            (words, width), longest = named["vocabulary"].shape, len(named["positions"])
            projected = len(named["projection.weight"])
        except KeyError as error:
            raise ValueError(f"its {error.args[0]} is missing, fetch the folder of the whole CLIP") from None
        layers = next(i for i in range(ENOUGH) if f"layers.{i}.norm_mlp.weight" not in named)
        if width % HEAD or text.get("num_attention_heads", width // HEAD) != width // HEAD:
            raise ValueError("it is not one of OpenAI's, its heads have another size")
        with torch.device("meta"):
            encoder = cls(words, longest, width, layers, projected)
        encoder.load_state_dict(named, assign=True)
        return encoder

    @property
    def template(self) -> str:
        return "{prompt}" + END

    @property
    def max_tokens(self) -> int:
        return len(self.positions) - SPARE

    @property
    def width(self) -> int:
        return self.projection.out_features

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        return self.positions.dtype

    def placed(self, ids: Tensor) -> Tensor:
        """Token ids [B,T] on its device, to be read by `forward`."""
        return ids.to(self.device)

    def forward(self, ids: Tensor, layers: int, before: None = None) -> tuple[Tensor, None]:
        """As `Decoder.forward`. ValueError where not all `layers` are asked for:
        only what they lead to was trained to say much."""
        if layers != len(self.layers):
            raise ValueError(f"CLIP is read after all of its {len(self.layers)} layers, not after {layers}.")
        if ids.shape[1] > len(self.positions):
            raise ValueError(f"CLIP reads {len(self.positions)} tokens at most, not {ids.shape[1]}.")
        x = self.vocabulary[ids] + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.projection(self.norm(x)), None


def text_tensors(folder: Path) -> dict[str, Tensor]:
    """All that the text encoder in a Hugging Face folder has learnt, by name, fp32, in the order of the names."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with safe_open(str(path), "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys() if _of_text(name)}
    if not files:
        held = read_pickle(folder / PICKLED)
        found = {name: tensor for name, tensor in held.items() if _of_text(name)} if isinstance(held, dict) else {}
    return {name: found[name].float() for name in sorted(found) if not name.endswith("position_ids")}


def _of_text(name: str) -> bool:
    return name.startswith(("text_model.", "text_projection."))


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of transformers' text encoder under the names of this one."""
    plain = {
        "text_model.embeddings.token_embedding.weight": "vocabulary",
        "text_model.embeddings.position_embedding.weight": "positions",
        "text_projection.weight": "projection.weight",
    }
    parts = {"layer_norm1": "norm_attention", "layer_norm2": "norm_mlp", "self_attn.out_proj": "out", "mlp.fc1": "inner",
             "mlp.fc2": "outer"}  # fmt: skip
    named = {}
    for name, tensor in tensors.items():
        if name in plain:
            named[plain[name]] = tensor
        elif name.startswith("text_model.final_layer_norm."):
            named[f"norm.{name.rpartition('.')[2]}"] = tensor
        elif name.startswith("text_model.encoder.layers."):
            number, _, rest = name.removeprefix("text_model.encoder.layers.").partition(".")
            part, _, kind = rest.rpartition(".")
            if part == "self_attn.q_proj":
                several = [tensors[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
                named[f"layers.{number}.qkv.{kind}"] = torch.cat(several)
            elif part in parts:
                named[f"layers.{number}.{parts[part]}.{kind}"] = tensor
    return named
