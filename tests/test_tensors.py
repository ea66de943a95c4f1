"""Files of tensors that were made before are those of the same key, whatever it is made of."""

import os

import torch

from llm_gan.models.tensors import cached_tensors

KEYS = [["r", "a\nb", "c"], ["r", "a", "b\nc"], ["r", "a", "b", "c"], ["r", os.fsdecode(b"\xb9\xfb.png")], ["r", "红心"]]


def test_each_key_has_a_file_of_its_own(tmp_path):
    for number, key in enumerate(KEYS):
        cached_tensors(tmp_path / "states", key, lambda: {"number": torch.tensor(number)})
    for number, key in enumerate(KEYS):
        assert cached_tensors(tmp_path / "states", key, dict)["number"] == number
