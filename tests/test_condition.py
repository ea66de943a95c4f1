"""Recipes, conditions and their cache: no language model needed."""

import json
from dataclasses import replace

import pytest
import torch

from llm_gan.models.condition import Condition, ConditionCache, Recipe

RECIPE = Recipe(model="gemma-3-270m", fingerprint="0123456789abcdef", width=6)


def condition(lengths, recipe=RECIPE, width=6):
    tokens = torch.randn(len(lengths), max(lengths), width)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Condition(tokens * mask[..., None], torch.randn(len(lengths), width), mask, recipe)


def test_recipe_survives_json():
    assert Recipe.from_dict(json.loads(json.dumps(RECIPE.to_dict()))) == RECIPE


@pytest.mark.parametrize("change, words", [
    ({"width": 0}, "width must lie between"),
    ({"width": 10**9}, "width must lie between"),
    ({"width": 6.0}, "width must be of type int"),
    ({"layer": 0}, "layer must lie between"),
    ({"layer": True}, "layer must be of type int"),
    ({"max_tokens": 10**6}, "max_tokens must lie between"),
    ({"bos": 1}, "bos must be of type bool"),
    ({"template": "a picture"}, "must contain {prompt} exactly once"),
    ({"template": "{prompt} {prompt}"}, "must contain {prompt} exactly once"),
    ({"template": "{prompt}" + "x" * 5000}, "template must hold 1 to 2000 characters"),
    ({"pooling": "mean"}, "pooling must be"),
    ({"model": None}, "model must be of type str"),
    ({"model": "\\\\host\\share\\model"}, "names no language model, but a path"),
    ({"model": "/home/someone/model"}, "names no language model, but a path"),
    ({"colour": "red"}, "unknown entries: colour"),
])
def test_recipe_refuses_what_is_out_of_bounds(change, words):
    with pytest.raises(ValueError) as error:
        Recipe.from_dict(RECIPE.to_dict() | change)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_recipe_refuses_what_is_no_recipe():
    with pytest.raises(ValueError, match="must be a dictionary, not list"):
        Recipe.from_dict([])
    with pytest.raises(ValueError, match="lacks: bos, dtype"):
        Recipe.from_dict({key: value for key, value in RECIPE.to_dict().items() if key not in ("bos", "dtype")})


def test_difference_says_what_to_change():
    assert RECIPE.difference(replace(RECIPE, dtype="bfloat16", model="renamed", max_tokens=8)) is None
    other = RECIPE.difference(replace(RECIPE, model="smollm2", fingerprint="ff", width=5))
    assert "gemma-3-270m, layer 14" in other and "encoded by smollm2" in other and "Load LLM" in other
    assert "another gemma-3-270m (ff)" in RECIPE.difference(replace(RECIPE, fingerprint="ff"))
    for change in ({"layer": 15}, {"template": "of {prompt}"}, {"bos": False}):
        sentence = RECIPE.difference(replace(RECIPE, **change))
        assert next(iter(change)) in sentence and repr(next(iter(change.values()))) in sentence


def test_condition_takes_and_repeats_prompts():
    c = condition([2, 4, 3])
    assert len(c) == 3 and len(list(c)) == 3
    assert torch.equal(c[1].tokens, c.tokens[1:2]) and torch.equal(c[-1].pooled, c.pooled[2:]) and c[0].recipe is RECIPE
    assert torch.equal(c[1:].mask, c.mask[1:]) and torch.equal(c[[2, 0]].pooled, c.pooled[[2, 0]])
    with pytest.raises(IndexError):
        c[3]
    twice = c.repeat(2)
    assert torch.equal(twice.pooled, c.pooled[[0, 0, 1, 1, 2, 2]]) and torch.equal(twice.mask[1], c.mask[0])


def test_a_prompt_that_repeats_the_one_before_it_is_told_once():
    a, b = (Condition(torch.full((1, 2, 3), x), torch.full((1, 3), x), torch.ones(1, 2, dtype=torch.bool)) for x in (1.0, 2.0))
    other = Condition(a.tokens + 1, a.pooled, a.mask)  # alike in its pooled state alone
    shorter = Condition(a.tokens, a.pooled, torch.tensor([[True, False]]))
    told, which = Condition.cat([a, a, b, a, other, other, a, shorter]).distinct()
    assert which.tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
    assert told.tokens[:, 0, 0].tolist() == [1, 2, 1, 2, 1, 1] and told.mask[:, 1].tolist() == [True] * 5 + [False]
    alone, which = a.distinct()
    assert len(alone) == 1 and which.tolist() == [0]


def test_conditions_of_different_lengths_are_joined_with_zeros():
    a, b = condition([2]), condition([4, 3])
    c = Condition.cat([a, b])
    assert c.tokens.shape == (3, 4, 6) and c.mask.sum(1).tolist() == [2, 4, 3]
    assert torch.equal(c.tokens[0, :2], a.tokens[0]) and not c.tokens[0, 2:].any()
    assert torch.equal(c.pooled[1:], b.pooled)


@pytest.mark.parametrize("other, words", [
    (condition([2], replace(RECIPE, layer=3)), "cannot be joined. This GAN reads"),
    (condition([2], None), "unknown recipe"),
])
def test_conditions_that_differ_are_not_joined(other, words):
    with pytest.raises(ValueError, match=words):
        Condition.cat([condition([2]), other])


def test_unknown_conditions_must_have_one_width():
    with pytest.raises(ValueError, match="width 6 and 5"):
        Condition.cat([condition([2], None), condition([2], None, width=5)])
    with pytest.raises(ValueError, match="no condition"):
        Condition.cat([])


def test_cache_holds_the_latest_within_its_bytes():
    cache = ConditionCache(max_bytes=3 * (2 + 1) * 6 * 4)
    states = {text: (torch.randn(2, 6), torch.randn(6)) for text in "abcd"}
    for text in "abc":
        cache.put(RECIPE, text, *states[text])
    assert cache.get(RECIPE, "a") is not None  # now "b" is the oldest
    cache.put(RECIPE, "d", *states["d"])
    assert len(cache) == 3 and cache.bytes == cache.max_bytes
    assert cache.get(RECIPE, "b") is None and torch.equal(cache.get(RECIPE, "d")[0], states["d"][0])
    assert cache.get(replace(RECIPE, layer=3), "d") is None
    assert (cache.hits, cache.misses) == (2, 2)
    cache.put(RECIPE, "d", *states["d"])
    assert cache.bytes == cache.max_bytes and len(cache) == 3
    cache.put(RECIPE, "large", torch.randn(100, 6), torch.randn(6))
    assert cache.get(RECIPE, "large") is None and cache.bytes <= cache.max_bytes


def test_cache_does_not_share_memory_with_its_batch():
    cache, batch = ConditionCache(), torch.ones(1000, 6)
    cache.put(RECIPE, "a", batch[:2], batch[2])
    batch.zero_()
    tokens, pooled = cache.get(RECIPE, "a")
    assert tokens.all() and pooled.all() and tokens.untyped_storage().nbytes() == 2 * 6 * 4
