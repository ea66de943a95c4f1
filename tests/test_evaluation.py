"""The evaluation: each figure against a direct computation or a known value, and the whole of it on tiny data."""

import json
import math

import pytest
import torch
from PIL import Image

from llm_gan.models.checkpoint import load_card, save_gan
from llm_gan.models.cli import main
from llm_gan.models.condition import Condition, Recipe
from llm_gan.models.data.folder import Example
from llm_gan.models.discriminator import DiscriminatorConfig
from llm_gan.models.evaluation import evaluate as evaluation
from llm_gan.models.evaluation.evaluate import evaluate, open_folder
from llm_gan.models.evaluation.judge import captions_to_learn, encode, look, train_judge
from llm_gan.models.evaluation.metrics import (
    concept_ranks, kid, mean_difference, nearest, precision_recall, r_precision, sliced_wasserstein,
)  # fmt: skip
from llm_gan.models.evaluation.questions import questions, script_of
from llm_gan.models.features import FEATURE_CHANNELS, EfficientNetLite
from llm_gan.models.gan import GAN
from llm_gan.models.generator import GeneratorConfig

WIDTH, RESOLUTION = 24, 16


class Reader:
    """Stands in for a language model: a fixed random state for each text. Counts what it reads."""

    name, width = "reader", WIDTH

    def __init__(self):
        self.texts = []

    def recipe(self):
        return Recipe("reader", "0", WIDTH)

    def encode(self, texts, recipe=None, batch_size=16, progress=None):
        if recipe is not None and (reason := recipe.difference(self.recipe())):
            raise ValueError(reason)
        self.texts += texts

        def state(text):
            return torch.randn(WIDTH, generator=torch.Generator().manual_seed(sum(text.encode()) * 7919 + len(text)))

        states = torch.stack([state(text) for text in texts])
        return Condition(states[:, None].repeat(1, 2, 1), states, torch.ones(len(texts), 2, dtype=torch.bool), self.recipe())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_gan(fingerprint="0"):
    torch.manual_seed(0)
    generator = GeneratorConfig(
        RESOLUTION, (16, 16), z_dim=8, w_dim=16, text_dim=32, token_dim=WIDTH, pooled_dim=16, concepts=3, sketch_resolution=8
    )
    discriminator = DiscriminatorConfig(RESOLUTION, 16, mixed=(8, 8, 8, 8), hidden=16, embed=8, pixel_channels=(16, 16))
    return GAN(generator, discriminator, Recipe("reader", fingerprint, WIDTH)).requires_grad_(False)


def network():
    torch.manual_seed(1)
    return EfficientNetLite("lite1").eval()


# The figures


def test_kid_is_the_unbiased_estimate():
    a, b = noise(5, 3, seed=1), noise(4, 3, seed=2) + 1

    def k(x, y):
        return (x.double() @ y.double() / 3 + 1).item() ** 3

    within = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(k(x, y) for x in a for y in b) / 20
    assert kid(a, b) == pytest.approx(within - 2 * between)


def test_kid_of_one_distribution_is_zero_on_average():
    values = torch.tensor([kid(noise(20, 8, seed=2 * s), noise(20, 8, seed=2 * s + 1)) for s in range(300)])
    standard_error = values.std() / len(values) ** 0.5
    assert values.mean().abs() < 3 * standard_error
    assert (values < 0).any()  # a biased estimate, with the diagonal, never is
    assert kid(noise(20, 8), noise(20, 8, seed=1) + 1) > 10 * values.std()


def test_sliced_wasserstein_of_a_shift():
    a, shift = noise(200, 3), torch.tensor([0.0, 3.0, 4.0])
    assert sliced_wasserstein(a, a[torch.randperm(200)]) == pytest.approx(0, abs=1e-9)
    # A unit vector's component along a fixed direction is 1/2 on average in three dimensions.
    assert sliced_wasserstein(a, a + shift, projections=20_000) == pytest.approx(2.5, rel=0.02)
    assert sliced_wasserstein(a, a + shift) == sliced_wasserstein(a, a + shift)


def test_precision_and_recall():
    real = noise(60, 4)
    assert precision_recall(real + 100, real) == (0.0, 0.0)
    assert precision_recall(real, real) == (1.0, 1.0)
    one_mode = real[:1] + 0.01 * noise(60, 4, seed=1)
    precision, recall = precision_recall(one_mode, real)
    assert precision == 1.0 and recall < 0.1  # good samples, of one kind
    # On a line with k = 1: balls of 0 and 1 reach 1 wide, of 5 reach 4.
    real, fake = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[-0.5], [9.5], [2.5]])
    assert precision_recall(fake, real, k=1)[0] == pytest.approx(2 / 3)


def test_r_precision_is_the_mean_over_draws():
    similarity = noise(12, 12)
    everything = torch.ones(12, 12, dtype=torch.bool)
    exact = r_precision(similarity, everything, distractors=3)
    assert (exact.distractors, exact.n) == (3, 12)
    random = torch.Generator().manual_seed(0)
    wins = 0
    for _ in range(2000):
        for i in range(12):
            others = [j for j in range(12) if j != i]
            drawn = [others[j] for j in torch.randperm(11, generator=random)[:3].tolist()]
            wins += all(similarity[i, i] > similarity[i, j] for j in drawn)
    assert exact.value == pytest.approx(wins / 24_000, abs=0.01)


def test_r_precision_of_known_mappings():
    everything = torch.ones(200, 200, dtype=torch.bool)
    assert r_precision(torch.eye(200), everything)[:2] == (pytest.approx(1.0), 99)
    assert r_precision(torch.eye(200).roll(1, 0), everything).value == 0
    assert r_precision(torch.zeros(200, 200), everything).value == 0  # a tie is lost
    assert r_precision(noise(2000, 2000), torch.ones(2000, 2000, dtype=torch.bool)).value == pytest.approx(0.01, abs=0.007)
    alike = torch.tensor([[0.5, 0.9], [0.1, 0.5]])
    assert r_precision(alike, torch.ones(2, 2, dtype=torch.bool))[:2] == (pytest.approx(0.5), 1)
    assert r_precision(alike, torch.tensor([[True, False], [True, True]])) == (pytest.approx(1.0), 1, 1)  # both are true of 0
    assert r_precision(alike, torch.zeros(2, 2, dtype=torch.bool)) is None


def test_concepts_are_found_by_other_pictures_than_the_one_asked_for():
    gallery = torch.eye(4).repeat_interleave(2, 0) + 0.05 * noise(8, 4)
    concepts = torch.arange(4).repeat_interleave(2)
    asked = torch.arange(8)
    perfect = concept_ranks(gallery, gallery, concepts, concepts, asked)
    assert perfect.tolist() == [1] * 8
    assert concept_ranks(gallery.roll(2, 0), gallery, concepts, concepts, asked).min() > 1
    # The one picture that is alike is the one asked for, which is no evidence.
    odd = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.9, 0.1, 0]])
    numbers = torch.tensor([0, 0, 1, 2])
    assert concept_ranks(odd[:1], odd, numbers, torch.tensor([0]), torch.tensor([0])).item() == 3
    assert concept_ranks(odd[2:3], odd, numbers, torch.tensor([1]), torch.tensor([2])).item() == 0  # has no other picture


def test_differences_and_neighbours():
    x = torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 0.5]])
    assert mean_difference(x) == pytest.approx((2 + 1.25 + 1.75) / 3)
    distances, found = nearest(x[1:2], x, 2)
    assert found.tolist() == [[1, 2]]
    assert distances[0].tolist() == pytest.approx([0, math.sqrt((1 + 2.5**2) / 2)], abs=1e-3)


# The judge


def test_features_are_quadrants():
    pictures = torch.randint(0, 256, (5, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    seen = []
    features = look(pictures, network(), seen.append, batch_size=2)
    assert features.shape == (5, 4 * sum(FEATURE_CHANNELS)) and seen == [2, 2, 1]
    with torch.no_grad():
        first = network()(pictures[:1].float() / 127.5 - 1)[0]  # 16 x 16
    assert features[0, 1].item() == pytest.approx(first[0, 0, :8, 8:].mean().item(), rel=1e-4, abs=1e-6)


def test_the_judge_learns_which_captions_are_true():
    kinds, each = 6, 20
    states, looks = noise(2 * kinds, WIDTH, seed=1), noise(kinds, 40, seed=2)
    texts = Condition(states[:, None], states, torch.ones(2 * kinds, 1, dtype=torch.bool))  # two names for each kind
    kind = torch.arange(kinds).repeat(each)
    features = looks[kind] + 0.5 * noise(len(kind), 40, seed=3)
    own = [[k, k + kinds] for k in kind.tolist()]
    state = torch.get_rng_state()
    judge = train_judge(features, texts, own, [set(o) for o in own], 0, lambda count: None, steps=60, batch_size=64)
    assert torch.equal(torch.get_rng_state(), state)
    unseen = looks + 0.5 * noise(kinds, 40, seed=9)
    names = judge.read(states)
    similarity = judge.see(unseen) @ names.t()
    assert similarity[:, :kinds].argmax(1).tolist() == similarity[:, kinds:].argmax(1).tolist() == list(range(kinds))
    again = train_judge(features, texts, own, [set(o) for o in own], 0, lambda count: None, steps=60, batch_size=64)
    assert torch.equal(again.see(unseen), judge.see(unseen))


def test_captions_are_read_once(tmp_path):
    model = Reader()
    done = []
    first = encode(["b", "a"], model, model.recipe(), tmp_path, done.append, tokens=True)
    again = encode(["b", "a"], model, model.recipe(), tmp_path, done.append, tokens=True)
    assert model.texts == ["b", "a"] and torch.equal(first.tokens, again.tokens) and torch.equal(first.mask, again.mask)
    assert torch.equal(first.pooled, Reader().encode(["b", "a"]).pooled)
    encode(["b", "c"], model, model.recipe(), tmp_path, done.append, tokens=True)
    assert model.texts == ["b", "a", "b", "c"]


def test_the_judge_learns_two_captions_a_picture(tmp_path):
    examples = [Example(tmp_path, ("cat", "猫"), ("pet",), ("cat, flat style",)), Example(tmp_path, ("dog",))]
    first, second = captions_to_learn(examples, 0)
    assert first[0] in ("cat", "猫") and first[1] in ("pet", "cat, flat style") and second == ["dog"]


# What is asked


def example(tmp_path, name, style, split="train", **others):
    captions = {
        "captions": (name, "中" + name),
        "keywords": (f"hint {name}",),
        "styled": (f"{name}, {style}", f"中{name}，{style}"),
    }
    return Example(tmp_path / f"{name}-{style}.png", concept=name, style=style, split=split, **(captions | others))


def test_rows_by_split_kind_and_script(tmp_path):
    examples = [example(tmp_path, name, style) for name in "abcd" for style in ("x", "y")]
    examples += [example(tmp_path, "a", "z", "test_pair"), example(tmp_path, "e", "x", "test_concept")]
    rows = questions(examples, 2, 0)
    assert [(r.split, r.kind, r.script) for r in rows] == [
        ("train", "styled", "Latin"), ("train", "styled", "Chinese"), ("train", "captions", "Latin"),
        ("train", "captions", "Chinese"), ("train", "keywords", "Latin"),
        ("test_pair", "styled", "Latin"), ("test_pair", "styled", "Chinese"),
        ("test_concept", "styled", "Latin"), ("test_concept", "styled", "Chinese"),
    ]  # fmt: skip
    assert len(rows[0].pairs) == 8 and len(rows[1].pairs) == 2
    for row in rows:
        assert all(examples[i].split == row.split and text in getattr(examples[i], row.kind) for i, text in row.pairs)
    # Beside captions of training pictures stand held-out drawings of concepts that were trained on, and no others.
    assert [examples[i].path.name for i, _ in rows[2].real] == ["a-z.png"] and rows[2].unseen
    assert rows[2].real[0][1] == "a" and rows[3].real[0][1] == "中a"
    assert [i for i, _ in rows[0].pairs[:2]] == [i for i, _ in rows[1].pairs]  # one script draws what the other does
    assert [r.pairs for r in questions(examples, 2, 0)] == [r.pairs for r in rows]


def test_scripts():
    texts = ["a cat", "猫和狗", "ねこ", "кот", "1, 2", "猫 in flat style"]
    assert [script_of(t) for t in texts] == ["Latin", "Chinese", "Japanese", "Cyrillic", "", "Chinese"]


# The whole


COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 60),
    "blue": (40, 60, 220),
    "grey": (120, 120, 120),
    "pink": (250, 150, 190),
}


def write(folder, entries):
    folder.mkdir(exist_ok=True)
    for number, entry in enumerate(entries):
        image = Image.new("RGB", (24, 24), "white")
        image.paste(entry.pop("colour"), (4, 4 + number % 3, 20, 20 - number % 5))
        image.save(folder / entry["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return folder


def squares(folder, held_out=True):
    entries = []
    for name, colour in COLOURS.items():
        for style, factor in (("light", 1.0), ("dim", 0.7), ("dark", 0.4), ("darkest", 0.2)):
            split = "test_concept" if name == "pink" else "test_pair" if style == "darkest" and name != "red" else "train"
            entries.append({
                "file_name": f"{name}-{style}.png", "colour": tuple(int(c * factor) for c in colour), "concept": name,
                "captions": {"en": [f"{name} square", "square"], "zh": ["方" + name]}, "style": style,
                "style_captions": {"en": ["{caption}, " + style], "zh": []}, "split": split if held_out else "train",
            })  # fmt: skip
    return write(folder, entries)


def judged(folder, out, **options):
    model = Reader()
    examples = open_folder(folder, out, 6)
    result = evaluate(small_gan(), model, examples, out, data="squares", captions=6, network=network(), **options)
    return result, model


def lasting(out):
    """What an evaluation wrote, but for how fast it was."""
    result = json.loads((out / "evaluation.json").read_text())
    assert result.pop("speed")["batch_1"] > 0
    return result, {path.name: path.read_bytes() for path in out.glob("*.png")}


def test_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "STEPS", 20)
    folder, seen = squares(tmp_path / "data"), []
    _, first = judged(folder, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] > 0 and all(done <= total for done, total in seen) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    figures, sheets = lasting(tmp_path / "out")
    assert figures["settings"] == {
        "seed": 0, "captions": 6, "features": "EfficientNet-lite1", "data": "squares", "training_pictures": 13,
        "held_out_pictures": 7, "skipped": 0, "concepts": 5,
    }  # fmt: skip
    rows = {(row["captions"], row["script"]): row for row in figures["alignment"]}
    assert len(rows) == 6
    row = rows["training, captions naming a style", "Latin"]
    assert row["real_pictures"] == "held out" and row["real"]["n_concept"] == 3 and 0 <= row["generated"]["r@1"] <= 1
    assert row["generated"]["n"] == row["shuffled"]["n"] == 6
    assert all(row[kind]["r@10"] <= row[kind]["any@10"] <= 1 for row in rows.values() for kind in ("generated", "real"))
    assert set(figures["distribution"]) == {"generated", "floor", "held_out", "blurred"}
    assert figures["distribution"]["floor"]["n"] == 6 and figures["distribution"]["floor"]["kid"][1] > 0
    assert figures["diversity"]["real"]["pixels"] > 0 and figures["diversity"]["captions"] <= 6
    assert [m["n"] for m in figures["memorisation"]] == [13, 3, 3]
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "FID" not in page and all(f"]({name})" in page for name in sheets) and len(sheets) == 6 + 1 + 3

    _, second = judged(folder, tmp_path / "out")  # from its cache
    assert len(first.texts) > 30 and len(set(second.texts)) == 2  # to check the recipe, and to take the time
    assert lasting(tmp_path / "out") == (figures, sheets)
    judged(folder, tmp_path / "elsewhere")  # without
    assert lasting(tmp_path / "elsewhere") == (figures, sheets)
    judged(folder, tmp_path / "other", seed=1)
    assert lasting(tmp_path / "other")[0]["distribution"] != figures["distribution"]


def test_without_held_out_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "STEPS", 5)
    judged(squares(tmp_path / "data", held_out=False), tmp_path / "out")
    figures, _ = lasting(tmp_path / "out")
    assert {row["real_pictures"] for row in figures["alignment"]} == {"training"}
    assert set(figures["distribution"]) == {"generated", "floor", "blurred"} and len(figures["memorisation"]) == 1
    assert "no held-out split" in (tmp_path / "out" / "evaluation.md").read_text()


def test_a_folder_of_text_files(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "STEPS", 5)
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a {name} | square\n")
    judged(tmp_path, tmp_path / "out")
    figures, sheets = lasting(tmp_path / "out")
    (row,) = figures["alignment"]
    assert row["captions"] == "training, plain captions" and "r@1" not in row["generated"]
    assert row["generated"]["distractors"] == 4
    assert figures["distribution"] is None and "real" not in figures["diversity"]
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "a red \\| square" in page and len(sheets) == 3


def test_another_language_model_is_refused_before_any_work(tmp_path):
    examples = open_folder(squares(tmp_path / "data"), tmp_path / "out", 6)
    with pytest.raises(ValueError, match="reader"):
        evaluate(small_gan("1"), Reader(), examples, tmp_path / "out", captions=6, network=network())
    assert not (tmp_path / "out").exists()


BAD = {
    "no folder": (["--data", "nowhere"], "There is no folder"),
    "no pictures": (["--data", "empty"], "no captioned pictures"),
    "one picture": (["--data", "one"], "fewer than two training pictures"),
    "no captions": (["--data", "data", "--captions", "0"], "take from 2 to 2000"),
    "out is a file": (["--data", "data", "--out", "a.safetensors"], "is a file"),
    "no such device": (["--data", "data", "--device", "abacus"], "cannot be used here"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_gan(small_gan(), tmp_path / "a.safetensors")
    squares(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "one", [{"file_name": "a.png", "captions": ["a"], "colour": (1, 2, 3)}])
    before = sorted(tmp_path.iterdir())
    arguments, message = BAD[kind]
    assert main(["evaluate", "a.safetensors", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("llm-gan: ") and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_that_is_none(tmp_path, capsys):
    squares(tmp_path / "data")
    assert main(["evaluate", str(tmp_path / "none.safetensors"), "--data", str(tmp_path / "data")]) == 1
    assert "There is no checkpoint" in capsys.readouterr().err


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "STEPS", 5)
    from llm_gan.models.language.model import LanguageModel

    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: Reader())
    monkeypatch.setattr(EfficientNetLite, "pretrained", lambda variant: EfficientNetLite(variant).eval())
    path = save_gan(small_gan(), tmp_path / "a.safetensors")
    assert main(["evaluate", str(path), "--data", str(squares(tmp_path / "data")), "--captions", "6"]) == 0
    assert "evaluation.md" in capsys.readouterr().out
    report = tmp_path / "a-evaluation" / "evaluation.json"
    assert json.loads(report.read_text())["settings"]["data"] == "data" and load_card(path)[0].metrics == {}
    assert main(["evaluate", str(path), "--data", str(tmp_path / "data"), "--captions", "6", "--note"]) == 0
    figures, noted = json.loads(report.read_text()), load_card(path)[0].metrics
    assert noted["KID"] == pytest.approx(figures["distribution"]["generated"]["kid"][0], abs=1e-3)
    assert "R@1, captions naming a style (Latin)" in noted and not any("held-out" in name for name in noted)
