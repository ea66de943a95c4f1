"""Conditions to and from ComfyUI's CONDITIONING, so that its own nodes can combine, average and concatenate them."""

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..models.condition import Condition, Recipe

log = logging.getLogger(__name__)

Conditioning = list[list[Any]]  # of [tokens [B,T,C], {"pooled_output": [B,C], ...}]

RECIPE = "llm_gan_recipe"
CHOICE = "llm_gan_choice"
READ = "llm_gan_read"
_UNHEARD = ("control", "gligen", "area", "mask", "start_percent", "end_percent")  # what other nodes ask for besides the prompt


def to_conditioning(condition: Condition) -> Conditioning:
    """One entry for the whole batch. The recipe goes along as plain data, and any node may copy it; so does the pooled vector,
    a second time, by which `from_conditioning` sees whether a node has mixed others into it."""
    extras: dict[str, Any] = {"pooled_output": condition.pooled, "attention_mask": condition.mask, READ: condition.pooled}
    if condition.recipe is not None:
        extras[RECIPE] = condition.recipe.to_dict()
    if condition.choice is not None:
        extras[CHOICE] = condition.choice
    return [[condition.tokens, extras]]


def from_conditioning(conditioning: Conditioning) -> Condition:
    """All entries as one batch of prompts: what ConditioningCombine lists are several prompts.

    CONDITIONING that does not come from an LLM Prompt Encoder has no recipe. Tokens beyond the mask, as
    ConditioningConcat leaves them, count as real unless they are zero, as padding is. Where the pooled vector is no longer
    the one that was read, as ConditioningAverage leaves it at any strength below 1, all that is in it is meant, and z picks
    none of it.
    Raises ValueError where the pooled vector is missing or the entries do not fit together.
    """
    return Condition.cat([_condition(tokens, extras) for tokens, extras in conditioning])


def _condition(tokens: Tensor, extras: dict[str, Any]) -> Condition:
    pooled = extras.get("pooled_output")
    if pooled is None:
        raise ValueError(
            "This conditioning has no pooled_output, which a GAN reads first of all: encode the prompt with "
            "an LLM in the LLM Prompt Encoder."
        )
    if len(pooled) != len(tokens):
        raise ValueError(
            f"This conditioning holds the tokens of {len(tokens)} prompts and the pooled_output of "
            f"{len(pooled)}: encode the prompts together, in one LLM Prompt Encoder."
        )
    if unheard := tuple(name for name in _UNHEARD if name in extras):
        _say_unheard(unheard)
    tokens, pooled = (x.detach().to("cpu", torch.float32) for x in (tokens, pooled))
    mask = tokens.abs().amax(2) > 0
    if (given := extras.get("attention_mask")) is not None:
        given = given.to("cpu").bool().reshape(len(given), -1)[:, : mask.shape[1]].expand(len(mask), -1)
        mask = torch.cat([given, mask[:, given.shape[1] :]], 1)
    recipe, choice, read = extras.get(RECIPE), extras.get(CHOICE), extras.get(READ)
    if choice is not None and len(choice) != len(tokens):  # a node repeated the prompts
        choice = None
    if read is not None and read.shape in (pooled.shape, pooled[:1].shape):
        mixed = ~torch.isclose(pooled, read.to(pooled)).all(1) & pooled.any(1)  # zeroed out, nothing is in it
        if mixed.any():
            choice = torch.where(mixed, 0.0, 1.0 if choice is None else choice.to(pooled))
    return Condition(tokens, pooled, mask, None if recipe is None else Recipe.from_dict(recipe), choice)


@cache  # once, and not with every picture
def _say_unheard(names: tuple[str, ...]) -> None:
    log.warning("A GAN draws what the prompt says, in one pass: it ignores %s of this conditioning.", ", ".join(names))
