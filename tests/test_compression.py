"""Smaller checkpoints: int8 files draw what fp16 ones do, and a slim student learns to draw as its teacher."""

import pytest
import torch
from safetensors.torch import load_file

from llm_gan.models.checkpoint import DEFAULT_GAN, dequantise, load_gan, preview, quantise, read_metadata, save_gan

from test_checkpoint import rewritten
from test_gan import condition, small_gan

SMALLER = "generator.memory.shared"


@pytest.fixture
def small_file(tmp_path):
    return save_gan(small_gan(), tmp_path / "gan.safetensors", torch.int8, preview=b"\x89PNG\r\n")


def test_a_row_is_rounded_to_half_a_step():
    weight = torch.randn(5, 3, 4, 4) * torch.tensor([1e-4, 1e-2, 1.0, 100.0, 0.0])[:, None, None, None]
    integers, scale = quantise(weight)
    assert integers.dtype == torch.int8 and scale.shape == (5,)
    error = (dequantise(integers, scale) - weight).abs().flatten(1).amax(1)
    assert (error <= weight.abs().flatten(1).amax(1) / 127 / 2 * 1.001 + 1e-12).all()
    assert integers.flatten(1).abs().amax(1).tolist() == [127, 127, 127, 127, 0]


def test_int8_draws_and_scores_nearly_as_before(small_file):
    before, after = small_gan(), load_gan(small_file)
    z = before.sample_z(3, 4)
    pictures, again = before.generate(condition(4), z)[0], after.generate(condition(4), z)[0]
    assert 0 < (pictures - again).abs().mean() < 1 / 255
    scores, scores_again = (gan.score(pictures, condition(4)).total for gan in (before, after))
    assert (scores - scores_again).abs().max() < 0.1 * scores.abs().max()
    assert read_metadata(small_file)["llm_gan"] == "2" and preview(read_metadata(small_file)) == b"\x89PNG\r\n"


def test_vectors_norms_and_what_runs_in_full_are_not_rounded(small_file, tmp_path):
    gan, tensors = small_gan(), load_file(small_file)
    whole = {name for name in gan.state_dict() if tensors[name].dtype != torch.int8}
    assert {"generator.memory.keys", "generator.canvas.bias", "condition_norm.whitening", "generator.text.norm_out.weight"} <= whole
    assert all(tensors[name].is_floating_point() and name + ".scale" not in tensors for name in whole)
    loaded = load_gan(small_file, dtype=torch.float16)
    assert torch.equal(loaded.condition_norm.whitening, gan.condition_norm.whitening)
    assert loaded.generator.memory.shared.dtype == torch.float16 and loaded.generator.memory.keys.dtype == torch.float32


def test_only_a_file_with_int8_needs_a_new_reader(small_file, tmp_path):
    assert read_metadata(save_gan(small_gan(), tmp_path / "half.safetensors"))["llm_gan"] == "1"
    # What is read from int8 may be saved again, to the same integers.
    again = save_gan(load_gan(small_file), tmp_path / "again.safetensors", torch.int8)
    assert torch.equal(load_file(again)[SMALLER], load_file(small_file)[SMALLER])


@pytest.mark.skipif(not DEFAULT_GAN.exists(), reason="the default checkpoint is not here")
def test_the_bundled_model_in_int8(tmp_path):
    gan = load_gan(DEFAULT_GAN)
    path = save_gan(gan, tmp_path / "gan.safetensors", torch.int8)
    assert path.stat().st_size < 0.6 * DEFAULT_GAN.stat().st_size
    small, z = load_gan(path), gan.sample_z(0, 4)
    condition = states(gan, 4)
    difference = (gan.generate(condition, z)[0] - small.generate(condition, z)[0]).abs()
    assert difference.mean() < 0.5 / 255  # measured with real prompts: 0.12 / 255


def states(gan, count):
    """Conditions as real ones are distributed: with the mean and deviation of the training captions."""
    from llm_gan.models.condition import Condition

    random, norm = torch.Generator().manual_seed(0), gan.condition_norm
    tokens = norm.token_mean + norm.token_std * torch.randn(count, 3, gan.recipe.width, generator=random)
    axes = torch.linalg.pinv(norm.whitening)
    pooled = norm.pooled_mean + torch.randn(count, norm.whitening.shape[1], generator=random) @ axes
    return Condition(tokens, pooled, torch.ones(count, 3, dtype=torch.bool), gan.recipe)


def changed(name, change):
    def apply(tensors):
        tensors[name] = change(tensors[name])

    return apply


def poison(scale):
    scale[0] = float("nan")
    return scale


BROKEN = {
    "a scale is missing": (lambda t: t.pop(SMALLER + ".scale"), "memory.shared.scale is missing"),
    "a scale too many": (lambda t: t.update({"generator.canvas.bias.scale": torch.ones(1)}), "bias.scale is unknown"),
    "scales of another shape": (changed(SMALLER + ".scale", lambda s: s[:-1].clone()), "scale has shape"),
    "one scale for all rows": (changed(SMALLER + ".scale", lambda s: s[:1].clone()), "scale has shape"),
    "a scale below zero": (changed(SMALLER + ".scale", lambda s: -s), "not above zero"),
    "a scale that is no number": (changed(SMALLER + ".scale", poison), "not above zero"),
    "a scale without end": (changed(SMALLER + ".scale", lambda s: s / 0), "not finite"),
    "scales that are integers": (changed(SMALLER + ".scale", lambda s: s.ceil().int()), "not above zero"),
    "integers of another shape": (changed(SMALLER, lambda w: w[:, :-1].clone()), "has shape"),
    "a vector in int8": (
        lambda t: t.update({"generator.canvas.bias": torch.ones(512, dtype=torch.int8), "generator.canvas.bias.scale": torch.ones(512)}),
        "large matrices only",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_int8_file_says_so_in_one_sentence(small_file, kind):
    change, message = BROKEN[kind]
    rewritten(small_file, change_tensors=change)
    with pytest.raises(ValueError, match=message) as error:
        load_gan(small_file)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
