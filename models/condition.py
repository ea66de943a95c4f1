"""Conditions: what a generator is told about the picture, and the recipe by which it was read from a prompt.

Torch only: a generator, a checkpoint or a node handles conditions without a language model at hand.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

DEFAULT_TEMPLATE = 'This picture of "{prompt}" means in one word: "'
DEFAULT_MAX_TOKENS = 64

_USE_RECIPE = "connect the GAN to the LLM Prompt Encoder so that it uses the GAN's recipe"

_TYPES = {"model": str, "fingerprint": str, "width": int, "template": str, "layer": int, "pooling": str,
          "max_tokens": int, "bos": bool, "dtype": str}
_BOUNDS = {"width": (1, 65_536), "layer": (1, 1_024), "max_tokens": (1, 4_096)}


@dataclass(frozen=True)
class Recipe:
    """How a condition is read from a prompt: two conditions of one recipe may be mixed, compared and swapped.

    The prompt is put into the template and read once, up to decoder layer `layer`. `pooled` is the hidden state at the
    template's last token (the "prompt with explicit one word limitation" of Jiang et al. 2023, arXiv:2307.16645);
    `tokens` are the states of the prompt's own tokens. The states travel raw, in float32: z-scoring of the tokens and
    whitening of the pooled vector belong to the generator, whose checkpoint holds the statistics it was trained with.

    model: name of the language model, for people ("gemma-3-270m").
    fingerprint: short sha256 of all that determines the states: architecture, a sample of the weights, tokenizer.
    width: size C of a hidden state.
    template: text around the prompt; contains `{prompt}` once.
    layer: number of decoder layers read, counted from the embeddings (14 of 18 for Gemma 3 270M).
    pooling: "last", the state at the template's last token.
    max_tokens: the prompt is cut after so many of its own tokens; the template is never cut.
    bos: whether a beginning-of-sequence token stands in front; its state, an attention sink, is part of no condition.
    dtype: the precision the states were computed in; recorded, not compared.
    """

    model: str
    fingerprint: str
    width: int
    template: str = DEFAULT_TEMPLATE
    layer: int = 14
    pooling: str = "last"
    max_tokens: int = DEFAULT_MAX_TOKENS
    bos: bool = True
    dtype: str = "float32"

    def __post_init__(self):
        for name, kind in _TYPES.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise ValueError(f"The condition recipe's {name} must be of type {kind.__name__}, not {value!r:.80}.")
            if kind is str and not 0 < len(value) <= 2_000:
                raise ValueError(f"The condition recipe's {name} must hold 1 to 2000 characters, not {len(value)}.")
            low, high = _BOUNDS.get(name, (None, None))
            if low is not None and not low <= value <= high:
                raise ValueError(f"The condition recipe's {name} must lie between {low} and {high}, not {value}.")
        if set(self.model) & set("/\\:"):  # a file that brings a recipe does not say what is opened
            raise ValueError(f"The condition recipe names no language model, but a path: {self.model!r:.200}")
        if self.template.count("{prompt}") != 1:
            raise ValueError(f"The template must contain {{prompt}} exactly once, but is: {self.template!r:.200}")
        if self.pooling != "last":
            raise ValueError(f'The condition recipe\'s pooling must be "last", not {self.pooling!r:.80}.')

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain strings and numbers, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`. Raises ValueError, in one sentence, for anything that is not a recipe."""
        if not isinstance(values, dict):
            raise ValueError(f"A condition recipe must be a dictionary, not {type(values).__name__}.")
        names = {field.name for field in fields(cls)}
        if missing := sorted(names - values.keys()):
            raise ValueError(f"The condition recipe lacks: {', '.join(missing)}.")
        if unknown := sorted(str(name) for name in values.keys() - names):
            raise ValueError(f"The condition recipe holds unknown entries: {', '.join(unknown)[:200]}.")
        return cls(**values)

    def difference(self, other: Recipe) -> str | None:
        """None where conditions of `other` serve a GAN that reads `self`, else a sentence: what differs, what to do.

        How long prompts may be is no difference: those that fit are read alike.
        """
        if self.fingerprint != other.fingerprint or self.width != other.width:
            mine, theirs = self.model, other.model
            if mine == theirs:
                mine, theirs = f"{mine} ({self.fingerprint})", f"another {theirs} ({other.fingerprint})"
            return (f"This GAN reads conditions of {mine}, layer {self.layer}; the prompt was encoded by {theirs}: "
                    f"load {mine} in Load LLM, or {_USE_RECIPE}.")
        for name in ("layer", "template", "pooling", "bos"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return (f"This GAN reads conditions of {self.model} with {name} {mine!r}; the prompt was encoded with "
                        f"{name} {theirs!r}: {_USE_RECIPE}.")
        return None


@dataclass
class Condition:
    """A batch of B prompts as a generator receives them.

    tokens [B, T, C] float32: states of the prompts' own tokens, zero where padded. pooled [B, C] float32. mask [B, T]
    bool: True at a real token; every row has one. recipe: how it was made, None where that is not known. choice [B]: how far, 0
    to 1, z picks one of the concepts that a row may mean; 0 between two prompts, where both are meant. None is 1 everywhere.
    """

    tokens: Tensor
    pooled: Tensor
    mask: Tensor
    recipe: Recipe | None = None
    choice: Tensor | None = None

    def __len__(self) -> int:
        return self.pooled.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Condition:
        """The prompts at `index` as a Condition: the batch stays a dimension, for a single number too."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"prompt {index} of a condition of {len(self)}")
            index = slice(index, index + 1 or None)
        return self._each(lambda x: x[index])

    def to(self, device: torch.device | str) -> Condition:
        return self._each(lambda x: x.to(device))

    def padded(self, length: int) -> Condition:
        """With tokens for `length` at least."""
        more = max(length - self.tokens.shape[1], 0)
        pad = torch.nn.functional.pad
        return replace(self, tokens=pad(self.tokens, (0, 0, 0, more)), mask=pad(self.mask, (0, more)))

    def repeat(self, n: int) -> Condition:
        """Each prompt n times, its copies side by side: a, b -> a, a, b, b."""
        return self._each(lambda x: x.repeat_interleave(n, dim=0))

    def distinct(self) -> tuple[Condition, Tensor]:
        """The prompts without those that repeat the one before them, choice apart, and for each of all of them which it is
        [B]."""
        new = torch.ones(len(self), dtype=torch.bool)
        if len(self) > 1:
            new[1:] = (self.pooled[1:] != self.pooled[:-1]).any(1)
            if not new[1:].all():
                new[1:] |= (self.tokens[1:] != self.tokens[:-1]).flatten(1).any(1) | (self.mask[1:] != self.mask[:-1]).any(1)
        return (self if new.all() else self[new]), new.cumsum(0) - 1

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        choice = None if self.choice is None else change(self.choice)
        return Condition(change(self.tokens), change(self.pooled), change(self.mask), self.recipe, choice)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Conditions of one recipe as one batch, the shorter ones padded. Raises ValueError if they do not fit."""
        if not conditions:
            raise ValueError("There is no condition to join.")
        first = conditions[0]
        for other in conditions[1:]:
            if (first.recipe is None) != (other.recipe is None):
                raise ValueError("A condition of known recipe cannot be joined with one of unknown recipe: encode both "
                                 "prompts with the LLM Prompt Encoder.")
            if first.recipe is not None and (reason := first.recipe.difference(other.recipe)):
                raise ValueError(f"These conditions cannot be joined. {reason}")
            if first.pooled.shape[1:] != other.pooled.shape[1:]:
                raise ValueError(f"Conditions of width {first.pooled.shape[-1]} and {other.pooled.shape[-1]} cannot be "
                                 "joined: encode both prompts with the same language model.")
        choice = None
        if any(c.choice is not None for c in conditions):
            choice = torch.cat([torch.ones(len(c)) if c.choice is None else c.choice for c in conditions])
        length = max(c.tokens.shape[1] for c in conditions)
        padded = [c.padded(length) for c in conditions]
        return Condition(torch.cat([c.tokens for c in padded]), torch.cat([c.pooled for c in padded]),
                         torch.cat([c.mask for c in padded]), first.recipe, choice)


class ConditionCache:
    """The conditions last read, one per recipe and text, on the CPU, least recently used dropped first.

    max_bytes bounds the states held (default 64 MB, some 3 000 prompts of Gemma 3 270M). `hits` and `misses` count the
    look-ups.
    """

    def __init__(self, max_bytes: int = 64 * 2**20):
        self.max_bytes, self.bytes, self.hits, self.misses = max_bytes, 0, 0, 0
        self._entries: OrderedDict[tuple[Recipe, str], tuple[Tensor, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, recipe: Recipe, text: str) -> tuple[Tensor, Tensor] | None:
        """Tokens [T, C] and pooled [C] of `text`, or None."""
        entry = self._entries.get((recipe, text))
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end((recipe, text))
        return entry

    def put(self, recipe: Recipe, text: str, tokens: Tensor, pooled: Tensor) -> None:
        # Clones: a view would keep the whole batch alive that it was cut from.
        entry = tokens.detach().to("cpu", copy=True).contiguous(), pooled.detach().to("cpu", copy=True).contiguous()
        old = self._entries.pop((recipe, text), None)
        self.bytes += _size(entry) - (_size(old) if old else 0)
        self._entries[recipe, text] = entry
        while self.bytes > self.max_bytes:
            self.bytes -= _size(self._entries.popitem(last=False)[1])


def _size(entry: tuple[Tensor, Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in entry)
