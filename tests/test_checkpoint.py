"""Checkpoints: what is saved comes back, and twenty kinds of broken file give one sentence each."""

import json
import pickle
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_gan.models.checkpoint import LATER, load_card, load_gan, note_metrics, preview, read_metadata, save_gan

from test_gan import SMALL, condition, small_gan


@pytest.fixture
def saved(tmp_path):
    return save_gan(small_gan(), tmp_path / "gan.safetensors", torch.float32, preview=b"\x89PNG\r\n")


def test_round_trip(saved):
    before, after = small_gan(), load_gan(saved)
    z = before.sample_z(3, 2)
    weights = after.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in before.state_dict().items())
    assert torch.allclose(before.generate(condition(2), z)[0], after.generate(condition(2), z)[0], atol=1e-6)
    images = torch.rand(2, 32, 32, 3)
    assert torch.allclose(before.score(images, condition(2)).total, after.score(images, condition(2)).total, atol=1e-5)
    assert after.recipe == before.recipe and preview(read_metadata(saved)) == b"\x89PNG\r\n"


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_figures_are_noted_and_nothing_else_changes(tmp_path, dtype):
    path = save_gan(small_gan(), tmp_path / "gan.safetensors", dtype, preview=b"\x89PNG\r\n")
    before, metadata, (card, recipe, _) = load_file(path), read_metadata(path), load_card(path)
    note_metrics(path, {"KID": 0.155})
    after, noted = load_file(path), load_card(path)
    assert noted[0] == replace(card, metrics={"KID": 0.155}) and noted[1] == recipe
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert {**read_metadata(path), "card": ""} == {**metadata, "card": ""}


def test_a_card_may_say_anything(saved):
    metrics = {"KID": "low", "R@1": 0.5, "FID": 10**400, "IS": 3}
    card = {"name": 3, "metrics": metrics, "prompts": ["a cat", 1, None], "licenses": [{}, "MIT"], "more": []}
    save_file(load_file(saved), saved, {**read_metadata(saved), "card": json.dumps(card)})
    card = load_card(saved)[0]
    assert (card.name, card.metrics, card.prompts, card.licenses) == ("untitled", {"R@1": 0.5, "IS": 3}, ["a cat"], ["MIT"])


def test_a_card_that_cannot_be_printed_is_refused(saved):
    rewritten(saved, lambda metadata: metadata.update(card=json.dumps({"name": "\ud800"})))
    with pytest.raises(ValueError, match="card cannot be read"):
        load_card(saved)


def test_without_discriminator(tmp_path):
    gan = small_gan()
    gan.discriminator = None
    loaded = load_gan(save_gan(gan, tmp_path / "g.safetensors"))
    assert loaded.generate(condition(1), loaded.sample_z(0, 1))[0].shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="without its discriminator"):
        loaded.score(torch.rand(1, 32, 32, 3))


def test_a_checkpoint_from_before_the_memory_draws_as_it_did(tmp_path):
    gan = small_gan(config=replace(SMALL, concepts=0))
    path = save_gan(gan, tmp_path / "gan.safetensors", torch.float32)

    def without_memory(metadata):
        config = json.loads(metadata["generator"])
        metadata["generator"] = json.dumps({k: v for k, v in config.items() if k not in LATER})

    rewritten(path, without_memory)
    assert not any("memory.keys" in name for name in load_file(path))
    z = gan.sample_z(3, 2)
    # Loaded weights lie in memory as convolutions like them, which may add in another order.
    assert torch.allclose(load_gan(path).generate(condition(2), z)[0], gan.generate(condition(2), z)[0], atol=1e-6)


def test_a_failed_save_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("llm_gan.models.tensors.save_file", full)
    with pytest.raises(OSError):
        save_gan(small_gan(1), saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def rewritten(path, change_metadata=None, change_tensors=None):
    """The checkpoint again, with its metadata and tensors changed in place by the two functions."""
    metadata, tensors = dict(read_metadata(path)), load_file(path)
    if change_metadata:
        change_metadata(metadata)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata)


def config_with(**values):
    def change(metadata):
        metadata["generator"] = json.dumps(json.loads(metadata["generator"]) | values)

    return change


def recipe_with(**values):
    def change(metadata):
        metadata["recipe"] = json.dumps(json.loads(metadata["recipe"]) | values)

    return change


def imaginary(tensors):
    tensors["generator.canvas.bias"] = tensors["generator.canvas.bias"].to(torch.complex64)


def poison(tensors):
    tensors["generator.canvas.bias"][0] = float("nan")


BROKEN = {
    "no version": (lambda m: m.pop("llm_gan"), None, "not a GAN saved by LLM-GAN"),
    "newer version": (lambda m: m.update(llm_gan="99"), None, "update LLM-GAN"),
    "version is text": (lambda m: m.update(llm_gan="x" * 5000), None, "update LLM-GAN"),
    "config missing": (lambda m: m.pop("generator"), None, "cannot be read"),
    "config not JSON": (lambda m: m.update(generator="{"), None, "cannot be read"),
    "config nested without end": (lambda m: m.update(generator="[" * 100_000), None, "cannot be read"),
    "config not an object": (lambda m: m.update(generator="[1]"), None, "cannot be read"),
    "config lacks a field": (lambda m: m.update(generator='{"resolution": 32}'), None, "fields of this version"),
    "config has a stranger": (config_with(evil=1), None, "evil"),
    "huge channels": (config_with(channels=[10**9, 24, 16]), None, "channels .* is not within"),
    "negative": (config_with(z_dim=-8), None, "z_dim .* is not within"),
    "float": (config_with(w_dim=16.5), None, "w_dim .* is not within"),
    "boolean": (config_with(heads=True), None, "heads .* is not within"),
    "text": (config_with(text_dim="32"), None, "text_dim .* is not within"),
    "odd resolution": (config_with(resolution=33), None, "is not a generator"),
    "resolution without scales": (config_with(resolution=512), None, "is not a generator"),
    "heads do not divide": (config_with(heads=3), None, "does not divide"),
    "heads that read do not divide": (
        config_with(text_dim=10, heads=1, concepts=2, things=2, sketch_resolution=8), None, "does not divide"),
    "more looks than z": (config_with(looks=9), None, "looks does not fit"),
    "sketch as large as the picture": (config_with(sketch_resolution=32), None, "sketch_resolution .* is not within"),
    "recipe missing": (lambda m: m.pop("recipe"), None, "recipe"),
    "recipe of another width": (recipe_with(width=33), None, "wide"),
    "recipe without prompt": (recipe_with(template="x"), None, "prompt"),
    "tensor missing": (None, lambda t: t.pop("generator.canvas.weight"), "canvas.weight is missing"),
    "tensor too many": (None, lambda t: t.update(evil=torch.zeros(1)), "evil is unknown"),
    "tensor of another shape": (None, lambda t: t.update({"generator.canvas.bias": torch.zeros(3)}), "has shape"),
    "not finite": (None, poison, "not finite"),
    "imaginary numbers": (None, imaginary, "holds C64 numbers"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoint_says_so_in_one_sentence(saved, kind):
    change_metadata, change_tensors, message = BROKEN[kind]
    rewritten(saved, change_metadata, change_tensors)
    with pytest.raises(ValueError, match=message) as error:
        load_gan(saved)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_numbers_that_torch_does_not_know_are_refused(saved):
    name = "generator.canvas.bias"
    rewritten(saved, None, lambda tensors: tensors.update({name: torch.zeros(len(tensors[name]) // 2, dtype=torch.uint8)}))
    data = saved.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header[name] |= {"dtype": "F4", "shape": [2 * header[name]["shape"][0]]}
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    saved.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
    with pytest.raises(ValueError, match="holds F4 numbers"):
        load_gan(saved)


BYTES = {
    "empty": b"",
    "text": b"hello, world",
    "header longer than the file": struct.pack("<Q", 2**60) + b"{}",
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("kind", BYTES)
def test_other_bytes_are_not_a_checkpoint(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    path.write_bytes(BYTES[kind])
    with pytest.raises(ValueError, match="damaged or not a safetensors"):
        load_gan(path)


def test_truncated(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_gan(saved)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_gan(tmp_path / "x.safetensors")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["gan.pt", "gan.pkl", "gan.pth", "gan.safetensors"])
def test_a_pickle_is_never_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="safetensors"):
        load_gan(path)
