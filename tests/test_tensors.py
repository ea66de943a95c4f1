"""Files of tensors that were made before are those of the same key, whatever it is made of."""

import os

import torch
from safetensors.torch import load_file, save_file

from llm_gan.models.tensors import cached_tensors, save_tensors

KEYS = [["r", "a\nb", "c"], ["r", "a", "b\nc"], ["r", "a", "b", "c"], ["r", os.fsdecode(b"\xb9\xfb.png")], ["r", "红心"]]


def test_each_key_has_a_file_of_its_own(tmp_path):
    for number, key in enumerate(KEYS):
        cached_tensors(tmp_path / "states", key, lambda: {"number": torch.tensor(number)})
    for number, key in enumerate(KEYS):
        assert cached_tensors(tmp_path / "states", key, dict)["number"] == number


def test_two_writers_of_one_file_do_not_take_each_others(tmp_path, monkeypatch):
    path, partials = tmp_path / "states.safetensors", []

    def write(content, place, metadata):
        partials.append(place)
        if len(partials) == 1:  # another process writes the same file meanwhile
            save_tensors({"number": torch.tensor(2)}, path)
        save_file(content, place, metadata)

    monkeypatch.setattr("llm_gan.models.tensors.save_file", write)
    save_tensors({"number": torch.tensor(1)}, path)
    assert load_file(path)["number"] == 1 and list(tmp_path.iterdir()) == [path]
    assert len(set(partials)) == 2 and all(place.name.endswith(".partial") for place in partials)
