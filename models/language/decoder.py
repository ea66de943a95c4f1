"""The decoders of Gemma 3 and Llama, as far as reading takes them: states of a text's tokens up to a layer.

transformers has both and is what writing uses. Reading is what every new prompt waits for, and here it is quicker: weights
stay in the file's own precision and multiply through the fastest kernel that is exact (see `Matrix`), the vocabulary stays
on disk until a word of it is asked for, and nothing is imported that takes longer than the reading itself. The numbers are
transformers', up to rounding; a folder with any setting that is not known here is left to it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..derived import Derived
from ..linear import product


@dataclass(frozen=True)
class DecoderConfig:
    gemma: bool  # norms before and after each part and of queries and keys, a gated GELU; Llama: norms before, a gated SiLU
    width: int  # of a hidden state,
    inner: int  # within an MLP,
    size: int  # and of a head
    heads: int
    key_heads: int  # each serves heads / key_heads queries (Ainslie et al. 2023, arXiv 2305.13245)
    eps: float
    scale: float  # of q·k
    thetas: tuple[float, ...]  # of each layer, the base of its rotary frequencies
    windows: tuple[int | None, ...]  # of each layer, how far it looks back

    @classmethod
    def of(cls, config: dict[str, Any]) -> DecoderConfig | None:
        """Of a config.json as transformers 4 and `gguf.convert_gguf` write them; None where it asks for anything else."""
        kind = config.get("model_type"), config.get("hidden_activation"), config.get("hidden_act")
        if kind not in (("gemma3_text", "gelu_pytorch_tanh", None), ("llama", None, "silu")):
            return None
        gemma = kind[0] == "gemma3_text"
        absent = ("attention_bias", "mlp_bias", "use_bidirectional_attention", "attn_logit_softcapping", "rope_scaling",
                  "rope_parameters", "quantization_config")
        needed = ("rope_theta", "head_dim", "intermediate_size") + (("layer_types", "query_pre_attn_scalar") if gemma else ())
        if any(map(config.get, absent)) or not all(map(config.get, needed)):
            return None
        layers = config["layer_types"] if gemma else ["full_attention"] * config["num_hidden_layers"]
        if set(layers) - {"full_attention", "sliding_attention"}:
            return None
        near = [kind == "sliding_attention" for kind in layers]
        return cls(
            gemma,
            config["hidden_size"],
            config["intermediate_size"],
            config["head_dim"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["rms_norm_eps"],
            (config["query_pre_attn_scalar"] if gemma else config["head_dim"]) ** -0.5,
            tuple(config["rope_local_base_freq"] if local else config["rope_theta"] for local in near),
            tuple(config["sliding_window"] if local else None for local in near),
        )

    @property
    def layers(self) -> int:
        return len(self.windows)


class Kept(NamedTuple):
    """Of one layer the keys and values [B,key heads,T,D] of what was read."""

    keys: Tensor
    values: Tensor


class Matrix(nn.Module):
    """x [...,I] -> x Wᵀ [...,O] in x's precision, W [O,I] being kept in the file's; x in fp32 is multiplied exactly."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._widened = Derived(_widened)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) if x.dtype == self.weight.dtype else self._widened(self.weight)(x)


def _widened(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """x -> x Wᵀ in fp32."""
    if (fast := product(weight)) is not None:
        return fast
    full = weight.float()
    return lambda x: F.linear(x, full)


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4), computed in fp32; Gemma's weights are kept less one."""

    def __init__(self, weight: Tensor, config: DecoderConfig):
        super().__init__()
        self.weight = nn.Parameter(weight.float() + config.gemma, requires_grad=False)
        self.eps = config.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


class Layer(nn.Module):
    """x [B,T,C] -> [B,T,C]; `before` is what the layer kept of the text before, `place` its rotary factors and mask."""

    def __init__(self, config: DecoderConfig, take: Callable[[str], Tensor]):
        super().__init__()
        self.config = config
        queries, keys = config.heads * config.size, config.key_heads * config.size
        for name, rows, columns in (
            ("self_attn.q", queries, config.width), ("self_attn.k", keys, config.width), ("self_attn.v", keys, config.width),
            ("self_attn.o", config.width, queries), ("mlp.gate", config.inner, config.width),
            ("mlp.up", config.inner, config.width), ("mlp.down", config.width, config.inner),
        ):  # fmt: skip
            weight = take(f"{name}_proj")
            if weight.shape != (rows, columns):
                raise ValueError(f"its {name}_proj has the shape {list(weight.shape)} instead of {[rows, columns]}")
            setattr(self, name.partition(".")[2], Matrix(weight))
        self.norm_attention, after = Norm(take("input_layernorm"), config), Norm(take("post_attention_layernorm"), config)
        if config.gemma:
            self.norm_q, self.norm_k = (Norm(take(f"self_attn.{name}_norm"), config) for name in ("q", "k"))
            self.norm_mlp, self.after_attention = Norm(take("pre_feedforward_layernorm"), config), after
            self.after_mlp = Norm(take("post_feedforward_layernorm"), config)
        else:
            self.norm_mlp, self.norm_q, self.norm_k = after, nn.Identity(), nn.Identity()
            self.after_attention = self.after_mlp = nn.Identity()

    def forward(self, x: Tensor, place: Place, before: Kept | None) -> tuple[Tensor, Kept]:
        attended, kept = self._attend(self.norm_attention(x), place, before)
        x = x + self.after_attention(attended)
        inner = self.norm_mlp(x)
        gate = F.gelu(self.gate(inner), approximate="tanh") if self.config.gemma else F.silu(self.gate(inner))
        return x + self.after_mlp(self.down(gate * self.up(inner))), kept

    def _attend(self, x: Tensor, place: Place, before: Kept | None) -> tuple[Tensor, Kept]:
        batch, length, _ = x.shape
        heads, key_heads = self.config.heads, self.config.key_heads
        q, k, v = (
            projected.view(batch, length, count, -1).transpose(1, 2)
            for projected, count in ((self.q(x), heads), (self.k(x), key_heads), (self.v(x), key_heads))
        )
        kept = Kept(place.turn(self.norm_k(k)), v)
        if before is not None:
            kept = Kept(*(torch.cat([old.expand(batch, -1, -1, -1), new], 2) for old, new in zip(before, kept)))
        # The queries that share a key head stand one after the other.
        q = place.turn(self.norm_q(q)).reshape(batch, key_heads, -1, kept.keys.shape[3])
        attended = F.scaled_dot_product_attention(q, *kept, attn_mask=place.mask, scale=self.config.scale)
        return self.o(attended.reshape(batch, heads, length, -1).transpose(1, 2).reshape(batch, length, -1)), kept


class Place(NamedTuple):
    """Where T tokens stand among S: their rotary factors [T,D/2] and which of the S each may look at [G·T,S], for each of the G
    queries that share a key head."""

    cos: Tensor
    sin: Tensor
    mask: Tensor

    @classmethod
    def after(cls, before: int, length: int, theta: float, window: int | None, shared: int, size: int, like: Tensor) -> Place:
        """Of `length` tokens behind `before` others, in heads of `size`, `shared` of which have one key."""
        frequencies = 1 / theta ** (torch.arange(0, size, 2, dtype=torch.float32, device=like.device) / size)
        seen = torch.arange(before + length, device=like.device)
        own = seen[before:, None]
        angles = own * frequencies
        mask = seen <= own
        if window is not None:
            mask = mask & (seen > own - window)
        return cls(angles.cos().to(like.dtype), angles.sin().to(like.dtype), mask.repeat(shared, 1))

    def turn(self, x: Tensor) -> Tensor:
        """x [B,heads,T,D] at its place: RoPE (Su et al. 2021, arXiv 2104.09864, eq. 34), the pairs being the halves of D."""
        one, other = x.chunk(2, 3)
        return torch.cat([one * self.cos - other * self.sin, other * self.cos + one * self.sin], 3)


class Decoder(nn.Module):
    """Token ids, once they are `placed` -> hidden states after some of the layers, before any final norm."""

    keeps = True  # keys and values, so that a text which others begin with is read once
    recordable = True  # as a CUDA graph

    def __init__(self, config: DecoderConfig, vocabulary: Tensor, layers: list[Layer], dtype: torch.dtype):
        super().__init__()
        self.config = config
        self.dtype = dtype  # that it computes in
        self._vocabulary = vocabulary  # no parameter: more than half of all bytes, of which a prompt takes a few rows
        self.layers = nn.ModuleList(layers)

    @classmethod
    def load(cls, folder: Path, config: DecoderConfig, dtype: torch.dtype, layers: int) -> Decoder:
        """The first `layers` of the model in a folder, on the CPU.

        In fp32 the weights stay in memory, or on disk, as they are stored; in another `dtype` they are converted to it.
        Raises whatever safetensors does, and ValueError where a weight is missing or has another shape.
        """
        from safetensors import safe_open

        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(str(path), "pt")) for path in sorted(folder.glob("*.safetensors"))]
            places = {name: file for file in files for name in file.keys()}

            def take(name: str) -> Tensor:
                if (whole := f"model.{name}.weight") not in places:
                    raise ValueError(f"{whole} is missing")
                weight = places[whole].get_tensor(whole)
                return weight if dtype == torch.float32 else weight.to(dtype)

            parts = [Layer(config, lambda name: take(f"layers.{i}.{name}")) for i in range(layers)]
            return cls(config, take("embed_tokens"), parts, dtype)

    @property
    def width(self) -> int:
        return self.config.width

    @property
    def device(self) -> torch.device:
        return self.layers[0].norm_attention.weight.device

    def placed(self, ids: Tensor) -> Tensor:
        """Of token ids [B,T] on the CPU, where the vocabulary stays, what `forward` reads: their rows [B,T,C] on its device."""
        return self._vocabulary[ids].to(self.device)

    def forward(self, x: Tensor, layers: int, before: list[Kept] | None = None) -> tuple[Tensor, list[Kept]]:
        """x [B,T,C], behind a text of which `before` was kept ([1] for all rows) -> states after so many layers [B,T,C], and
        what to keep of this text and the one before it."""
        x = x.to(self.dtype)
        if self.config.gemma:
            x = x * torch.tensor(self.config.width**0.5, dtype=self.dtype)
        known = before[0].keys.shape[2] if before else 0
        kinds = list(zip(self.config.thetas, self.config.windows))
        shared = self.config.heads // self.config.key_heads
        places = {kind: Place.after(known, x.shape[1], *kind, shared, self.config.size, x) for kind in set(kinds[:layers])}
        kept = []
        for i, layer in enumerate(self.layers[:layers]):
            x, own = layer(x, places[kinds[i]], before[i] if before else None)
            kept.append(own)
        return x, kept
