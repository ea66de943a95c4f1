"""Training: batches, augmentation, losses, a run that learns, and one that is stopped and resumed."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm_gan.models.checkpoint import DEFAULT_GAN, encoder_path, load_gan, save_encoder, save_gan
from llm_gan.models.cli.gans import _stop_between_steps, _training_settings
from llm_gan.models.cli.parser import parser
from llm_gan.models.condition import Condition, Recipe
from llm_gan.models.data.folder import read_folder, read_pictures
from llm_gan.models.discriminator import DiscriminatorConfig
from llm_gan.models.encoder import Encoder, EncoderConfig
from llm_gan.models.gan import GAN
from llm_gan.models.generator import GeneratorConfig
from llm_gan.models.memory import SHOWN_BEFORE
from llm_gan.models.training import dataset as dataset_module, loop, run as run_module
from llm_gan.models.training.augment import Augmentation
from llm_gan.models.training.dataset import Dataset, build_dataset
from llm_gan.models.training.encoder import EncoderTraining, draw_kinds, train_encoder, train_encoder_folder
from llm_gan.models.training.log import RunLog
from llm_gan.models.training.loop import learn
from llm_gan.models.training.losses import contrast, finite_difference_penalty, hinge_discriminator, relativistic
from llm_gan.models.training.probes import probe
from llm_gan.models.training.state import load_optimizer, optimizer_tensors, read_state
from llm_gan.models.training.trainer import Trainer, TrainingConfig, train

WIDTH, RESOLUTION = 24, 16
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}


class Reader:
    """Stands in for a language model: a fixed random state for each text."""

    def recipe(self):
        return Recipe("reader", "0", WIDTH)

    def encode(self, texts, recipe, batch_size, progress):
        def state(text):
            return torch.randn(WIDTH, generator=torch.Generator().manual_seed(sum(text.encode()) * 7919 + len(text)))

        states = torch.stack([state(text) for text in texts])
        return Condition(states[:, None].repeat(1, 2, 1), states, torch.ones(len(texts), 2, dtype=torch.bool), recipe)


@pytest.fixture
def folder(tmp_path):
    """Squares of three colours on white, in two styles of darkness; one of them is held out."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for name, colour in COLOURS.items():
        for style, factor in (("light", 1.0), ("dark", 0.4)):
            image = Image.new("RGB", (24, 24), "white")
            image.paste(tuple(int(c * factor) for c in colour), (4, 4, 20, 20))
            image.save(folder / f"{name}-{style}.png")
            lines.append({
                "file_name": f"{name}-{style}.png",
                "captions": {"en": [f"{name} square"], "zh": []},
                "style": style,
                "style_captions": {"en": ["{caption}, " + style]},
                "split": "test" if (name, style) == ("blue", "dark") else "train",
            })  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def setup(folder, cache, seed=0):
    torch.manual_seed(seed)
    generator = GeneratorConfig(
        RESOLUTION, (32, 24), z_dim=8, w_dim=16, text_dim=32, token_dim=WIDTH, pooled_dim=16, concepts=3, sketch_resolution=8
    )
    discriminator = DiscriminatorConfig(RESOLUTION, 16, mixed=(8, 8, 8, 8), hidden=16, embed=8, pixel_channels=(16, 16))
    gan = GAN(generator, discriminator, Reader().recipe())
    examples = [example for example in read_folder(folder)[0] if example.split == "train"]
    dataset = build_dataset(read_pictures(examples, RESOLUTION), gan, Reader(), cache)
    gan.generator.memory.remember(dataset.pooled, dataset.concepts)
    return gan, dataset


class Noting(Reader):
    """Notes of every call what it is to read; ends in the call of this number."""

    def __init__(self, until=99):
        self.asked, self.until = [], until

    def encode(self, texts, recipe, batch_size, progress):
        if len(self.asked) == self.until:
            raise KeyboardInterrupt
        self.asked.append(list(texts))
        condition = super().encode(texts, recipe, batch_size, progress)
        condition.mask[:, 1] = torch.tensor([len(text) % 2 for text in texts], dtype=torch.bool)  # of one token or of two
        if progress is not None:
            progress(len(texts), len(texts))
        return condition


def test_only_captions_that_no_file_holds_are_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "PART", 2)
    recipe, first = Reader().recipe(), ["a cat", "a dog", "红心", "the sea"]

    def states(texts, model, own=recipe):
        told = []
        found = dataset_module._conditions(texts, model, own, tmp_path, lambda *numbers: told.append(numbers))
        fresh = Noting().encode(texts, own, 0, None)
        assert torch.equal(found[0], fresh.tokens[fresh.mask].bfloat16())
        assert torch.equal(found[1], fresh.mask.sum(1)) and torch.equal(found[2], fresh.pooled)
        return model.asked, told

    with pytest.raises(KeyboardInterrupt):
        states(first, Noting(until=1))
    assert states(first, Noting()) == ([["红心", "the sea"]], [(4, 4)])  # the others were kept
    assert states(["a bird", *first[::-1]], Noting()) == ([["a bird"]], [(5, 5)])
    assert states(first[1:], Noting()) == ([], [])
    other = replace(recipe, layer=3)
    assert states(first, Noting(), other)[0] == [first[:2], first[2:]]
    # Of files that are damaged, from elsewhere or from before they named their texts nothing is taken.
    held = next(path for path in tmp_path.glob("*.safetensors") if "bird" in path.read_bytes().decode(errors="ignore"))
    for junk in (b"", held.read_bytes()[:-5]):
        held.write_bytes(junk)
        assert states(["a bird"], Noting())[0] == [["a bird"]]
    whole, metadata = load_file(held), {"recipe": repr(recipe), "texts": '["a bird"]'}
    save_file(whole, held)
    assert states(["a bird"], Noting())[0] == [["a bird"]]
    for wrong in ({"texts": "7"}, {"texts": "["}, {"texts": '["a bird", "a fish"]'}, {"recipe": "?"}):
        save_file(whole, held, metadata | wrong)
        assert states(["a bird"], Noting())[0] == [["a bird"]]


def test_a_judge_learns_what_is_spoilt(folder, tmp_path, monkeypatch):
    """As fake as what its generator draws: here negatives, which without it are half as far from real pictures."""
    monkeypatch.setattr("llm_gan.models.training.trainer.spoil", lambda images, *_: -images)
    gan, dataset = setup(folder, tmp_path)
    trainer = Trainer(gan, dataset, TrainingConfig(images=800, batch_size=8, adversarial_from=0.0, augment=0.0))
    for _ in range(60):
        trainer.step()
    judge, real = trainer.export().discriminator, dataset.pictures.float().div(127.5).sub(1)
    with torch.no_grad():
        (known, _), (spoilt, _) = (judge(x, torch.zeros(len(real), 16)) for x in (real, -real))
    assert (known - spoilt).mean() > 1.1


def test_z_decides_which_picture_an_ambiguous_caption_means(folder, tmp_path):
    _, dataset = setup(folder, tmp_path)
    batch = dataset.draw(4000, torch.Generator().manual_seed(0))
    # White apart, a dark square's centre is darker than a light one's.
    centre = batch.images[:, :, RESOLUTION // 2, RESOLUTION // 2]
    red = dataset.texts.index("red square")
    asked = torch.tensor([torch.equal(p, dataset.pooled[red]) for p in batch.pooled])
    dark = centre.amax(1) < 0
    share = dark[asked].float().mean().item()
    assert asked.sum() > 200 and 0.3 < share < 0.7
    pictures = dataset.meant[red]
    nearest = (batch.z[asked] @ dataset.anchors[pictures].t()).argmax(1)
    assert torch.equal(nearest == 0, dark[asked])  # pictures are sorted by path: the dark one first
    named = torch.tensor([torch.equal(p, dataset.pooled[dataset.texts.index("red square, dark")]) for p in batch.pooled])
    assert named.any() and dark[named].all()


def test_augmentation_treats_real_and_fake_alike():
    augment = Augmentation.draw(6, 32, 1.0, torch.Generator().manual_seed(0))
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    assert torch.equal(augment(images), augment(images.clone()))
    assert (augment(images) - images).abs().mean() > 0.05
    none = Augmentation.draw(6, 32, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(none(images), images, atol=1e-6)
    leaf = images.clone().requires_grad_()
    augment(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_finite_difference_is_the_squared_gradient():
    slope = torch.randn(3, 8, 8)
    torch.manual_seed(0)
    penalty = finite_difference_penalty(
        lambda x: (x * slope).sum((1, 2, 3)), torch.randn(4000, 3, 8, 8), torch.randn(4000, 3, 8, 8)
    )
    assert penalty.item() == pytest.approx(slope.square().sum().item(), rel=0.1)


def test_losses_prefer_what_they_should():
    good, bad = torch.full((4,), 2.0), torch.full((4,), -2.0)
    assert hinge_discriminator(good, bad) == 0 < hinge_discriminator(bad, good)
    assert relativistic(good, bad) < relativistic(bad, good)
    others, wrong = torch.zeros(4, 3), torch.tensor([[True, True, False]] * 4)
    assert contrast(good, others, wrong) < contrast(bad, others, wrong)
    assert contrast(torch.zeros(4), others, wrong).item() == pytest.approx(math.log(3))  # chance among the own and two
    others[:, 2] = 99  # what may be true of the picture does not count
    assert contrast(torch.zeros(4), others, wrong).item() == pytest.approx(math.log(3))


def test_captions_that_may_mean_a_picture_are_not_wrong(folder, tmp_path):
    _, dataset = setup(folder, tmp_path)
    batch = dataset.draw(64, torch.Generator().manual_seed(0))
    own = [next(i for i, p in enumerate(dataset.pooled) if torch.equal(p, row)) for row in batch.pooled]
    others = [next(i for i, p in enumerate(dataset.pooled) if torch.equal(p, row)) for row in batch.others]
    for caption, wrong in zip(own, batch.wrong):
        # Of a red square, light or dark: neither its own caption nor "red square", but "green square, light" is wrong.
        for other, counts in zip(others, wrong.tolist()):
            colour, other_colour = dataset.texts[caption].split()[0], dataset.texts[other].split()[0]
            if colour != other_colour:
                assert counts
            elif other == caption or "," not in dataset.texts[other]:
                assert not counts
    assert batch.wrong.any(1).all()


def test_the_discriminator_learns_to_tell_captions(folder, tmp_path):
    gan, dataset = setup(folder, tmp_path)
    gan.discriminator.projected.features = load_gan(DEFAULT_GAN).discriminator.projected.features
    config = TrainingConfig(images=8 * 60, adversarial_from=0.0, warmup=10, augment=0.0, overfit=1.1, lr_discriminator=3e-3)
    trainer = Trainer(gan, dataset, config)
    matches = [trainer.step()["match"] for _ in range(60)]
    assert sum(matches[:10]) / 10 < 0.4 < 0.8 < sum(matches[-10:]) / 10


def test_a_short_run_learns_colours(folder, tmp_path):
    gan, dataset = setup(folder, tmp_path)
    config = TrainingConfig(images=8 * 250, batch_size=8, warmup=10, lr_generator=2e-3, augment=0.3)
    trained = train(gan, dataset, config, tmp_path / "run")
    texts = [f"{name} square, light" for name in COLOURS]
    condition = Reader().encode(texts, Reader().recipe(), 0, None)
    images, _ = trained.generate(condition, trained.sample_z(0, 3))
    centres = images[:, 6:10, 6:10].mean((1, 2))
    assert centres.argmax(1).tolist() == [0, 1, 2]
    assert images[:, 0, 0].min() > 0.7  # the corner stays white
    sheets = list((tmp_path / "run").glob("samples-*.png"))
    assert sheets and (tmp_path / "run" / "log.csv").read_text().startswith("images,")


def test_augmentation_adapts_to_the_discriminator(folder, tmp_path):
    def strengths(target):
        trainer = Trainer(*setup(folder, tmp_path), TrainingConfig(images=80, adversarial_from=0.0, overfit=target))
        return [trainer.step()["augment"] for _ in range(3)]

    known, unknown = strengths(-1.1), strengths(1.1)
    assert 0.7 < known[0] < known[1] < known[2] and 0.7 > unknown[0] > unknown[1] > unknown[2]


def test_bfloat16_makes_nearly_the_same_step(folder, tmp_path):
    def after(bf16):
        trainer = Trainer(*setup(folder, tmp_path), TrainingConfig(images=80, adversarial_from=0.0, warmup=1, bf16=bf16))
        figures = trainer.step()
        assert all(p.dtype == torch.float32 for p in trainer.generator.parameters())
        return figures

    full, half = after(False), after(True)
    assert half["paired"] != full["paired"]
    for name in ("paired", "pixel", "d", "d_raw"):
        assert half[name] == pytest.approx(full[name], rel=0.05, abs=0.02), name


def test_a_training_is_in_bfloat16_where_a_processor_multiplies_it(monkeypatch):
    for known, amx in (({"amx_bf16": True}, True), ({"amx_bf16": False}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
        assert run_module.device_settings("cpu") == {"bf16": amx}
        assert run_module.device_settings("mps") == {"bf16": False}
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert run_module.device_settings("cpu") == {"bf16": False}


def test_a_log_takes_on_new_columns(tmp_path):
    (tmp_path / "log.csv").write_text("images,paired\n8,0.5\n")
    log = RunLog(tmp_path, 8)
    log.add(16, {"paired": 0.25, "overfit": 0.1})
    log.add(24, {"paired": 0.125, "overfit": 0.2})
    assert (tmp_path / "log.csv").read_text().split() == ["images,paired,overfit", "8,0.5,0.0", "16,0.25,0.1", "24,0.125,0.2"]


TORN = {
    "a row": "images,paired\n8,0.5\n16,0.25\n24,0.1",
    "a row, and the next one behind it": "images,paired\n8,0.5\n24,0.16,0.25\n16,0.25\n",
    "the header": "images,pai",
    "all of it": "",
}


@pytest.mark.parametrize("torn", TORN)
def test_a_log_that_a_full_disk_has_torn_is_mended(tmp_path, torn):
    (tmp_path / "log.csv").write_text(TORN[torn])
    log = RunLog(tmp_path, 24)
    rows = ["8,0.5", "16,0.25"] if "row" in torn else []
    assert (tmp_path / "log.csv").exists() == bool(rows)
    log.add(32, {"paired": 0.125})
    log.plot()
    assert (tmp_path / "log.csv").read_text().split() == ["images,paired", *rows, "32,0.125"]


def test_a_log_that_could_not_be_written_is_made_up_for(tmp_path, monkeypatch):
    log = RunLog(tmp_path, 0)
    log.add(8, {"paired": 0.5})

    def full(path, *args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(type(tmp_path), "open", full)
        log.add(16, {"paired": 0.25})
    log.add(24, {"paired": 0.125})
    assert (tmp_path / "log.csv").read_text().split() == ["images,paired", "8,0.5", "16,0.25", "24,0.125"]


def test_a_row_is_appended_without_reading_the_log(tmp_path, monkeypatch):
    log = RunLog(tmp_path, 0)
    log.add(8, {"paired": 0.5})
    opened, open_file = [], type(tmp_path).open

    def watched(path, mode="r", *rest, **named):
        opened.append(mode)
        return open_file(path, mode, *rest, **named)

    monkeypatch.setattr(type(tmp_path), "open", watched)
    log.add(16, {"paired": 0.25})
    assert opened == ["a"]


class Counting:
    """Stands in for a trainer: its steps take no time."""

    config, images_seen, step_number = TrainingConfig(images=8 * 4, batch_size=8), 0, 0

    def step(self):
        self.images_seen, self.step_number = self.images_seen + 8, self.step_number + 1
        return {"paired": 0.5}


def test_a_full_disk_costs_rows_and_not_the_run(tmp_path, monkeypatch, caplog):
    add, calls = RunLog.add, []

    def full(log, images, figures):
        calls.append(images)
        if len(calls) < 3:
            raise OSError("No space left on device")
        add(log, images, figures)

    monkeypatch.setattr(loop, "LOGGED", 1)
    monkeypatch.setattr(RunLog, "add", full)
    learn(Counting(), RunLog(tmp_path, 0), lambda: None, 240.0, None)
    assert calls == [8, 16, 24, 32] and caplog.text.count("No space left on device") == 2
    assert [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().split()] == ["images", "24", "32"]


def test_rows_of_undone_steps_leave_the_log(tmp_path, monkeypatch):
    trainer, undone = Counting(), []

    def lost(figures):
        if trainer.images_seen == 24 and not undone:
            undone.append(trainer.images_seen)
            trainer.images_seen = trainer.step_number = 0
        return trainer.images_seen == 0

    monkeypatch.setattr(loop, "LOGGED", 1)
    learn(trainer, RunLog(tmp_path, 0), lambda: None, 240.0, None, lost=lost)
    rows = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().split()]
    assert undone == [24] and rows == ["images", "8", "16", "24", "32"]


def test_resume_is_bit_exact(folder, tmp_path):
    config = TrainingConfig(images=48, batch_size=8, warmup=2, adversarial_from=0.3)
    whole = Trainer(*setup(folder, tmp_path), config)
    for _ in range(6):
        whole.step()

    class Stop(Exception):
        pass

    def stop(done, total, figures):
        if done == 24:
            raise Stop

    with pytest.raises(Stop):
        train(*setup(folder, tmp_path), config, tmp_path / "run", progress=stop)
    losses = []
    train(*setup(folder, tmp_path, seed=99), config, tmp_path / "run", resume=True, progress=lambda *a: losses.append(a))
    assert len(losses) == 3
    resumed = Trainer(*setup(folder, tmp_path, seed=5), config)
    resumed.load(load_file(tmp_path / "run" / "state.safetensors"))
    ours, theirs = whole.state(), resumed.state()
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def test_a_resumed_run_chooses_by_the_numbers_that_it_drew_with(folder, read, monkeypatch):
    trained, _ = read
    lines = (folder / "metadata.jsonl").read_text().replace(' square"]', ' square", "shape"]')
    (folder / "metadata.jsonl").write_text(lines)
    choose, chances = Dataset.choose_by, []

    def noted(dataset, memory):
        choose(dataset, memory)
        chances.append([logits for logits, _, _ in dataset.choices.values()])

    monkeypatch.setattr(Dataset, "choose_by", noted)
    trained()
    trained(resume=True, settings={"images": 16})
    first, then = chances
    assert len(first) == len(then) > 0 and all(map(torch.equal, first, then))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc/self/maps here to see what is mapped")
def test_no_file_that_will_be_replaced_stays_mapped(read, tmp_path):
    trained, _ = read
    trained()
    kept = load_gan(tmp_path / "run" / "model.safetensors"), read_state(tmp_path / "run")  # Windows replaces none that is
    mapped = Path("/proc/self/maps").read_text()
    assert all(kept) and not any(f"{tmp_path}/run/{name}.safetensors" in mapped for name in ("model", "state"))


def test_killed_within_a_step_a_run_resumes_from_its_last_state(folder, tmp_path, monkeypatch):
    config = TrainingConfig(images=48, batch_size=8, warmup=2, adversarial_from=0.3)
    whole = Trainer(*setup(folder, tmp_path), config)
    for _ in range(6):
        whole.step()
    update, calls = Trainer._update, []

    def stop(trainer, name, *rest):
        calls.append(name)
        if len(calls) == 6:  # D has learnt from the fourth batch, G has not
            raise KeyboardInterrupt
        return update(trainer, name, *rest)

    monkeypatch.setattr(Trainer, "_update", stop)
    with pytest.raises(KeyboardInterrupt):
        train(*setup(folder, tmp_path), config, tmp_path / "run", save_every=0)
    monkeypatch.setattr(Trainer, "_update", update)
    assert calls[-2:] == ["discriminator", "generator"]
    train(*setup(folder, tmp_path, seed=3), config, tmp_path / "run", resume=True)
    resumed = read_state(tmp_path / "run")
    assert not [name for name, value in whole.state().items() if not torch.equal(value, resumed[name])]


def poisoned(monkeypatch, at: set[int]):
    """Let the steps with these numbers, counted over the whole test, end in a loss that is not a number."""
    step, made = Trainer.step, []

    def poisoned_step(trainer):
        figures = step(trainer)
        made.append(trainer.step_number)
        if len(made) in at:
            next(trainer.generator.parameters()).data.fill_(float("nan"))
            figures["pixel"] = float("nan")
        return figures

    monkeypatch.setattr(Trainer, "step", poisoned_step)
    return made


def test_a_diverging_run_rolls_back_and_says_so(folder, tmp_path, monkeypatch, caplog):
    made = poisoned(monkeypatch, {4})
    trained = train(*setup(folder, tmp_path), TrainingConfig(images=48, batch_size=8), tmp_path / "run", save_every=0)
    assert made == [1, 2, 3, 4, 4, 5, 6]  # the fourth again, from the state after the third
    assert "diverged at 32 pictures: back to 24, with 0.5" in caplog.text
    assert trained.card.images_seen == 48 and torch.isfinite(trained.generator.canvas.weight).all()


def test_a_run_that_always_diverges_gives_up_and_keeps_the_last_good_state(folder, tmp_path, monkeypatch):
    poisoned(monkeypatch, set(range(3, 100)))
    with pytest.raises(ArithmeticError, match="Training diverges even at 0.0625"):
        train(*setup(folder, tmp_path), TrainingConfig(images=48, batch_size=8), tmp_path / "run", save_every=0)
    assert load_gan(tmp_path / "run" / "model.safetensors").card.images_seen == 16


@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_a_gradient_that_is_not_finite_is_seen_in_its_step_and_never_saved(folder, tmp_path, monkeypatch, caplog, which):
    """In the last step of a run, all of whose figures are taken before the weights are spoilt."""
    update, calls = Trainer._update, []

    def spoilt(trainer, name, parameters, backward):
        def spoiling():
            backward()
            calls.append(name)
            if name == which and calls.count(name) == 3:
                parameters[0].grad.view(-1)[0] = math.inf

        return update(trainer, name, parameters, spoiling)

    monkeypatch.setattr(Trainer, "_update", spoilt)
    config = TrainingConfig(images=24, batch_size=8, adversarial_from=0.0)
    trained = train(*setup(folder, tmp_path), config, tmp_path / "run", save_every=0)
    assert caplog.text.count("diverged at 24 pictures: back to 16, with 0.5") == caplog.text.count("diverged") == 1
    kept = read_state(tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in (*kept.values(), *trained.state_dict().values()))
    assert trained.card.images_seen == 24 and calls.count(which) == 4


def test_a_full_disk_stops_no_run_and_spoils_no_file(folder, tmp_path, monkeypatch, caplog):
    written = []

    def full(tensors, path, *rest):
        if path.name.startswith("state"):
            written.append(path)
        if path.name.startswith("state") and 1 < len(written) < 4:
            path.write_bytes(b"half")
            raise SafetensorError("No space left on device")
        save_file(tensors, path, *rest)

    monkeypatch.setattr("llm_gan.models.tensors.save_file", full)
    train(*setup(folder, tmp_path), TrainingConfig(images=40, batch_size=8), tmp_path / "run", save_every=0)
    assert caplog.text.count("make room") == 2
    assert Trainer(*setup(folder, tmp_path), TrainingConfig()).load(read_state(tmp_path / "run")) is None
    assert not list((tmp_path / "run").glob("*.partial"))


def test_two_processes_make_the_steps_of_one(folder, tmp_path):
    """Two processes with 4 pictures each against one with 8: the same weights but for rounding."""
    config = TrainingConfig(images=48, batch_size=8, warmup=2, adversarial_from=0.3)
    gan, dataset = setup(folder, tmp_path)
    start = {k: v.clone() for k, v in gan.state_dict().items()}
    one = Trainer(gan, dataset, config)
    for _ in range(4):
        one.step()
    context = torch.multiprocessing.start_processes(
        share_of_a_run, (folder, tmp_path, replace(config, batch_size=4)), nprocs=2, start_method="fork"
    )
    assert context is None
    two = load_file(tmp_path / "two.safetensors")
    ours = one.gan.state_dict()
    for name in ("generator.canvas.weight", "generator.memory.shared", "generator.mapping.mean"):
        moved = (ours[name] - start[name]).abs().mean()
        assert moved > 1e-5 and (ours[name] - two[name]).abs().mean() < 0.01 * moved, name


def share_of_a_run(rank, folder, cache, config):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{cache / 'meet'}", rank=rank, world_size=2)
    trainer = Trainer(*setup(folder, cache), config)
    for _ in range(4):
        trainer.step()
    if rank == 0:
        save_file({k: v.contiguous() for k, v in trainer.generator.state_dict(prefix="generator.").items()}, cache / "two.safetensors")
    torch.distributed.destroy_process_group()


def test_an_interrupted_run_ends_in_every_process(folder, tmp_path):
    setup(folder, tmp_path)  # so that both find the captions in the cache, as in a run, and neither writes them
    torch.multiprocessing.start_processes(stopped_run, (folder, tmp_path), nprocs=2, start_method="fork")
    assert load_gan(tmp_path / "run" / "model.safetensors").card.images_seen == 16


@pytest.mark.parametrize(("rank", "pressed", "ends"), [(1, True, KeyboardInterrupt), (1, False, RuntimeError), (0, True, RuntimeError)])
def test_a_process_that_waits_for_an_interrupted_one_is_interrupted(monkeypatch, rank, pressed, ends):
    monkeypatch.setenv("RANK", str(rank))
    with pytest.raises(ends), _stop_between_steps(print):
        if pressed:
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("Connection closed by peer")


def stopped_run(rank, folder, cache):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{cache / 'meet'}", rank=rank, world_size=2)

    def interrupt(done, total, figures):
        if done == 16:
            raise KeyboardInterrupt

    learner = *setup(folder, cache), TrainingConfig(images=80, batch_size=4), cache / "run"
    torch.distributed.barrier()
    with pytest.raises(KeyboardInterrupt):
        train(*learner, progress=interrupt if rank == 0 else None)
    os._exit(0)  # as a process does that was interrupted: it leaves the group without a word


def test_what_an_optimiser_remembers_lies_in_memory_as_its_weights_do():
    weights = [torch.nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)) for _ in range(2)]
    before, after = (torch.optim.Adam([weight], fused=True) for weight in weights)
    weights[0].grad = torch.randn(4, 3, 2, 2)
    before.step()
    load_optimizer(after, {name: value.contiguous() for name, value in optimizer_tensors("", before).items()})
    for name, value in after.state[weights[1]].items():
        assert torch.equal(value, before.state[weights[0]][name])
        assert value.ndim == 0 or value.stride() == weights[1].stride()


def test_presets_follow_the_size_of_the_folder():
    quick, best = (TrainingConfig.preset(name, 50_000) for name in ("quick", "best"))
    assert quick.images == 500_000 and best.images == 7_500_000
    assert TrainingConfig.preset("quick", 500).images == 8_000
    changed = TrainingConfig.preset("best", 500, images=7, adversarial=[0.1, 0.2], penalty=2)
    assert (changed.images, changed.adversarial, changed.penalty) == (7, (0.1, 0.2), 2)
    for name, changes, message in (("fast", {}, "quick, balanced, best"), ("quick", {"lr": 1}, "no setting lr"),
                                   ("quick", {"images": "7"}, "should be like"), ("quick", {"raw": [1]}, "should be like")):
        with pytest.raises(ValueError, match=message):
            TrainingConfig.preset(name, 500, **changes)


def test_export_draws_and_scores_as_the_trainer_does(folder, tmp_path):
    trainer = Trainer(*setup(folder, tmp_path), TrainingConfig(images=100, batch_size=8, warmup=2, adversarial_from=0.0))
    for _ in range(3):
        trainer.step()
    gan = trainer.export()
    trainer.discriminator.eval()
    images, text = torch.rand(2, 3, RESOLUTION, RESOLUTION), torch.randn(2, 16)
    for ours, theirs in zip(gan.discriminator(images, text), trainer.discriminator(images, text)):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert not any("parametrizations" in name for name in gan.state_dict())


def test_an_interrupted_run_leaves_a_checkpoint(folder, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    gan, dataset = setup(folder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(gan, dataset, TrainingConfig(images=80, batch_size=8), tmp_path / "run", progress=interrupt)
    assert load_gan(tmp_path / "run" / "model.safetensors").card.images_seen == 8
    with pytest.raises(FileExistsError, match="already holds a run: resume it, or choose another name"):
        train(gan, dataset, TrainingConfig(images=80, batch_size=8), tmp_path / "run")


def test_a_run_may_start_from_a_checkpoint(folder, tmp_path, monkeypatch):
    from llm_gan.models.training import run

    class Model(Reader):
        width = WIDTH

    monkeypatch.setattr(run.LanguageModel, "load", lambda name, device: Model())
    monkeypatch.setattr(run.EfficientNetLite, "pretrained", lambda: run.EfficientNetLite())
    def trained(name, resolution=16, start=None, **settings):
        out = tmp_path / f"{name}.safetensors"
        return run.train_folder(
            folder, out, tmp_path / name, resolution=resolution, settings={"images": 8} | settings, start_from=start
        )

    first = trained("a", images=16)
    first.encoder = Encoder(EncoderConfig(16, (8, 16)), first.generator.config)
    save_encoder(first, tmp_path / "a.safetensors")
    second = trained("b", start=tmp_path / "a.safetensors")
    other = trained("c", seed=1)
    condition = Reader().encode(["red square"], Reader().recipe(), 0, None)
    pictures = [gan.generate(condition, gan.sample_z(0, 1))[0] for gan in (first, second, other)]
    near, far = ((pictures[0] - picture).abs().mean().item() for picture in pictures[1:])
    assert near < far / 3
    assert torch.equal(first.condition_norm.whitening, second.condition_norm.whitening)
    larger = trained("d", resolution=32, start=tmp_path / "a.safetensors")
    assert torch.allclose(larger.generator.scales[0].conv1.weight, first.generator.scales[0].conv1.weight, atol=0.01)
    assert larger.generate(condition, larger.sample_z(0, 1))[0].shape == (1, 32, 32, 3)
    saved = load_gan(tmp_path / "a.safetensors")
    assert len(saved.card.prompts) == 4 and all(any(name in prompt for name in COLOURS) for prompt in saved.card.prompts)
    shown_nothing = trained("f", start=tmp_path / "a.safetensors", images=0)
    before, after = saved.generator.state_dict(), shown_nothing.generator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in ("scales.0.conv1.weight", "memory.keys", "memory.query.weight"))
    assert load_gan(tmp_path / "f.safetensors").encoder is not None  # which sees what draws as before
    assert load_gan(tmp_path / "b.safetensors").encoder is None and larger.encoder is None
    assert [gan.card.images_seen for gan in (first, second, shown_nothing)] == [16, 24, 16]
    with pytest.raises(ValueError, match="draws 32 px: a GAN can grow"):
        trained("e", start=tmp_path / "d.safetensors")

    def resumed(**resolution):
        return run.train_folder(
            folder, tmp_path / "d.safetensors", tmp_path / "d", settings={"images": 16}, resume=True, **resolution
        )

    assert resumed().resolution == 32 and load_gan(tmp_path / "d.safetensors").card.images_seen == 16 + 16
    with pytest.raises(ValueError, match="draws 32 px, not 64: resume it with that"):
        resumed(resolution=64)
    with pytest.raises(ValueError, match="among the pictures"):
        run.train_folder(folder, tmp_path / "g.safetensors", folder / "run")
    (tmp_path / "d" / "state.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged"):
        resumed()
    (tmp_path / "d" / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json in .* is missing"):
        resumed()


@pytest.fixture
def read(folder, tmp_path, monkeypatch):
    """`train_folder` on the folder with a run "run", a small one whose language model is called "reader".

    Returns it as a function of what differs, and the names of the language models that it loads.
    """

    class Model(Reader):
        width = WIDTH

    loaded = []
    monkeypatch.setattr(run_module.LanguageModel, "load", lambda name, device: loaded.append(name) or Model())
    monkeypatch.setattr(run_module.EfficientNetLite, "pretrained", lambda: run_module.EfficientNetLite())
    monkeypatch.setattr(run_module, "fit_memory", lambda *args: None)

    def trained(name="run", **given):
        given = {"settings": {"images": 8}} | ({} if given.get("resume") else {"resolution": 16}) | given
        return run_module.train_folder(folder, tmp_path / f"{name}.safetensors", tmp_path / name, **given)

    return trained, loaded


def test_a_run_goes_on_with_its_own_language_model(read, tmp_path, monkeypatch):
    trained, loaded = read
    trained()
    trained(settings={"images": 16}, resume=True)
    trained("other", start_from=tmp_path / "run.safetensors")
    assert loaded == [run_module.DEFAULT_LANGUAGE_MODEL, "reader", "reader"]
    other = Recipe("another", "1", WIDTH)
    monkeypatch.setattr(Reader, "recipe", lambda self: other)
    with pytest.raises(ValueError, match="reads conditions of reader, .* encoded by another: load reader"):
        trained(settings={"images": 24}, resume=True, llm="another")


def test_a_gan_knows_in_which_looks_it_was_shown_what(read, tmp_path):
    trained, _ = read
    gan = trained()
    light_and_dark, light = [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]  # of blue the dark one is held out
    memory = gan.generator.memory
    assert sorted(memory.shown.tolist()) == [light, light_and_dark, light_and_dark]
    lent = [torch.equal(*own[:2]) for own in memory.looks]
    assert lent == [own == light for own in memory.shown.tolist()]

    def without(tensors):
        return {name: tensor for name, tensor in tensors.items() if not name.endswith("memory.shown")}

    old = GAN(replace(gan.generator.config, shown=0), gan.discriminator.config, gan.recipe, gan.card)  # as all were once
    old.load_state_dict(without(gan.state_dict()))
    following = trained("next", start_from=old).generator.memory.shown  # what it was shown before nobody knows
    assert torch.equal(following.round(), gan.generator.memory.shown) and following.all()
    assert trained("read", start_from=old, settings={"images": 0}).generator.config.shown == 0  # what draws stays as it is
    save_gan(old, tmp_path / "run" / "model.safetensors")
    state = tmp_path / "run" / "state.safetensors"
    save_file(without(load_file(state)), state)
    assert trained(resume=True, settings={"images": 16}).generator.config.shown == 0


def test_looks_that_another_folder_taught_are_kept(folder, read):
    trained, _ = read
    first = trained()
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    light = [json.dumps(line) for line in lines if line["style"] == "light"]
    (folder / "metadata.jsonl").write_text("\n".join(light), encoding="utf-8")
    before, after = first.generator.memory, trained("light", start_from=first).generator.memory
    dark = (before.shown[:, 1] == 1).nonzero()[:, 0]
    assert len(dark) == 2 and (after.shown[dark, 1] == SHOWN_BEFORE).all() and (after.shown[:, 0] == 1).all()
    assert torch.allclose(after.looks[dark, 1], before.looks[dark, 1], atol=0.01)
    assert not any(torch.equal(*after.looks[row, :2]) for row in dark)


def test_captions_that_are_not_read_to_their_ends_are_named(folder, tmp_path, caplog):
    class Short(Reader):
        def unread(self, caption, recipe):
            return caption.partition(", ")[2]

    gan, _ = setup(folder, tmp_path / "whole")
    assert not caplog.records
    gan.recipe = replace(gan.recipe, max_tokens=2)  # as many as it gives to every caption
    examples = [example for example in read_folder(folder)[0] if example.split == "train"]
    build_dataset(read_pictures(examples, RESOLUTION), gan, Short(), tmp_path / "cut")
    assert caplog.messages[0].startswith("5 captions are longer than the 2 tokens that are read, as 'blue square, light', without")


def test_only_captions_that_name_a_style_ask_for_a_look(read):
    trained, _ = read
    gan = trained()

    def asked(*captions):
        condition = Reader().encode(captions, Reader().recipe(), 0, None)
        return gan.generator.read(*gan.condition_norm(condition.tokens, condition.pooled), condition.mask).looks[:, 0]

    with torch.no_grad():
        light, dark, plain = (asked(*(f"{name} square{style}" for name in COLOURS)) for style in (", light", ", dark", ""))
    assert light[:, 0].min() > 8 and dark[:2, 1].min() > 8  # the third of which is held out
    assert plain.abs().max() < 1 and light[:, 1:].abs().max() < 2


def test_a_gan_makes_room_for_what_a_folder_adds_to_it(folder, read, caplog):
    trained, _ = read
    first = trained()
    more = {"orange": (240, 150, 30), "purple": (120, 30, 200)}
    for name, colour in more.items():
        Image.new("RGB", (24, 24), colour).save(folder / f"{name}.png")
    with open(folder / "metadata.jsonl", "a") as lines:
        for name in more:
            lines.write("\n" + json.dumps({"file_name": f"{name}.png", "captions": {"en": [f"{name} square"]}, "license": "CC0"}))

    assert "has room for" not in caplog.text
    assert trained(resume=True, settings={"images": 16}).generator.config.concepts == 3
    assert "tell 5 things apart, and the GAN has room for the 3" in caplog.text
    first.card.licenses = ["MIT"]
    second = trained("more", start_from=first)
    memory = second.generator.memory
    assert second.generator.config.concepts == 5 == len(memory.keys) and second.card.licenses == ["CC0", "MIT"]
    assert sorted(memory.shown.round().sum(1).tolist()) == [1, 1, 1, 2, 2] and len(first.generator.memory.keys) == 3
    assert trained("more", resume=True, settings={"images": 16}).generator.config.concepts == 5


def test_a_run_goes_on_with_the_discriminator_that_it_begins_with(folder, read, tmp_path):
    trained, _ = read
    start = setup(folder, tmp_path / "own")[0]  # narrower than the default, and of narrower texts
    judge = trained(start_from=start, settings={"images": 8, "lr_discriminator": 0.0}).discriminator
    assert judge.config == start.discriminator.config
    for name, weight in start.discriminator.pixel.state_dict().items():
        assert torch.allclose(judge.pixel.state_dict()[name], weight, atol=0.01), name


def test_scenes_cannot_be_begun_on_the_way(read, monkeypatch):
    trained, _ = read
    monkeypatch.setattr(run_module, "compose", lambda examples, count: [])
    trained(resolution=64)
    with pytest.raises(ValueError, match="was begun without scenes"):
        trained(settings={"images": 16, "scenes": 9}, resume=True)


def test_tensorboard_that_is_not_there_is_said_before_any_work(read, tmp_path, monkeypatch):
    trained, loaded = read
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        trained(tensorboard=True)
    assert not loaded and not (tmp_path / "run").exists()


def test_file_names_that_are_no_text_stop_no_training(read, folder, tmp_path):
    trained, _ = read
    try:
        (folder / os.fsdecode(b"\xc6\xff.png")).write_bytes((folder / "red-light.png").read_bytes())
        Image.new("RGB", (24, 24), "gray").save(folder / os.fsdecode(b"\xb9\xfb.png"))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"file_name": os.fsdecode(b"\xb9\xfb.png"), "text": "gray square"}))
    trained()
    assert "\\udcc6\\udcff.png: has no caption" in (tmp_path / "run" / "skipped.txt").read_text(encoding="utf-8")


def test_a_card_names_the_folder_however_it_is_given(folder, read, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    gan = run_module.train_folder(
        type(folder)("."), tmp_path / "a.safetensors", tmp_path / "a", resolution=16, settings={"images": 8}
    )
    assert gan.card.data == "5 pictures of data"


@pytest.mark.parametrize("preset, own, given, images", [
    (None, {}, {}, 60_000), ("quick", {}, {}, 8_000), ("quick", {}, {"images": 7}, 7),
    (None, {"images": 100}, {}, 100), (None, {"images": 100}, {"images": 7}, 7),
    ("quick", {"images": 100}, {}, 8_000),  # made longer,
    ("quick", {"images": 60_000}, {}, 60_000),  # but not shorter
    ("best", {"images": 100}, {"images": 7}, 7),
])  # fmt: skip
def test_a_preset_makes_a_run_that_is_resumed_longer_but_not_shorter(preset, own, given, images):
    config = run_module.training_config(preset, 100, {"seed": 3} | own, given)
    assert (config.images, config.seed) == (images, 3)


def test_a_preset_reaches_a_run_that_is_resumed(read, monkeypatch):
    trained, _ = read
    trained()
    seen = []
    monkeypatch.setattr(run_module, "train", lambda gan, dataset, config, *rest: seen.append(config.images) or gan)
    monkeypatch.setattr(run_module, "publish", lambda *args: None)
    for preset in (None, "quick"):
        trained(settings={}, resume=True, preset=preset)
    assert seen == [8, 8_000]
    with pytest.raises(ValueError, match="no preset fast"):
        trained(settings={}, resume=True, preset="fast")


def test_what_fails_before_the_first_state_is_what_is_said(folder, tmp_path, monkeypatch):
    from llm_gan.models.training import run

    class Model(Reader):
        width = WIDTH

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(run.LanguageModel, "load", lambda name, device: Model())
    monkeypatch.setattr(run.EfficientNetLite, "pretrained", lambda: run.EfficientNetLite())
    monkeypatch.setattr("llm_gan.models.training.trainer._save", full)
    with pytest.raises(OSError, match="No space left"):
        run.train_folder(folder, tmp_path / "a.safetensors", tmp_path / "a", resolution=16, settings={"images": 8})


def test_scenes_cannot_be_learnt_by_a_gan_without_a_memory(folder, tmp_path, monkeypatch):
    from llm_gan.models.training import run

    class Model(Reader):
        width = WIDTH

    monkeypatch.setattr(run.LanguageModel, "load", lambda name, device: Model())
    monkeypatch.setattr(run, "compose", lambda examples, count: [])
    plain = GAN(GeneratorConfig(64, (16,) * 4, token_dim=WIDTH), DiscriminatorConfig(64), Model().recipe())
    with pytest.raises(ValueError, match="no memory of concepts"):
        run.train_folder(
            folder, tmp_path / "a.safetensors", tmp_path / "a", resolution=64, settings={"scenes": 9}, start_from=plain
        )


@pytest.mark.parametrize("settings", [
    {"batch_size": 0}, {"images": -5}, {"lr_generator": math.nan}, {"betas": [2, 2]}, {"ema_half_life": 0}, {"decay": 0},
    {"warmup": 0}, {"seed": -1}, {"paired": -1.0},
])  # fmt: skip
def test_settings_that_no_training_can_be_run_with_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} = .* should be from"):
        TrainingConfig.preset("quick", 100, **settings)


def test_no_more_pictures_of_a_sheet_are_drawn_at_once_than_elsewhere(folder, tmp_path, monkeypatch):
    gan, dataset = setup(folder, tmp_path)
    whole, draw, sizes = probe(gan, dataset, 3, 4), gan.generator.synthesize, []
    monkeypatch.setattr(GAN, "at_once", 5)
    monkeypatch.setattr(gan.generator, "synthesize", lambda code, text: sizes.append(len(code.styles)) or draw(code, text))
    parts = probe(gan, dataset, 3, 4)
    assert sizes == [5, 5, 2] and torch.allclose(whole, parts, atol=1e-5)


def test_nothing_to_resume(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(*setup(folder, tmp_path), TrainingConfig(), tmp_path / "run", resume=True)


# ------------------------------------------------------------------------------------------------------ encoders


def trained_encoder(folder, tmp_path, run, images, stop=None, resume=False):
    """The state of a small encoder's training of a small GAN, and its figures, step by step."""
    gan, dataset = setup(folder, tmp_path)
    torch.manual_seed(1)
    gan.encoder = Encoder(EncoderConfig(16, (8, 16)), gan.generator.config)
    figures = []

    def progress(done, total, step):
        figures.append(step)
        if done == stop:
            raise KeyboardInterrupt

    config = EncoderTraining(images=images, lr=3e-3, warmup=5)
    try:
        train_encoder(gan, dataset, config, tmp_path / run, resume, progress=progress)
    except KeyboardInterrupt:
        pass
    return read_state(tmp_path / run), figures


def test_an_encoder_learns_to_see_and_to_mend(folder, tmp_path):
    figures = trained_encoder(folder, tmp_path, "run", 800)[1]
    for name in ("found_pixel", "restored_pixel", "restored"):
        first, last = (sum(step[name] for step in part) for part in (figures[:20], figures[-20:]))
        assert last < 0.9 * first, name
    assert (tmp_path / "run" / "log.csv").exists() and list((tmp_path / "run").glob("samples-*.png"))


def test_an_encoder_resumed_is_bit_for_bit_the_same(folder, tmp_path):
    whole, steps = trained_encoder(folder, tmp_path, "whole", 160)
    trained_encoder(folder, tmp_path, "part", 160, stop=80)
    resumed, rest = trained_encoder(folder, tmp_path, "part", 160, resume=True)
    assert rest == steps[10:] and whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_an_encoder_whose_numbers_are_no_longer_finite_is_given_up(folder, tmp_path, monkeypatch):
    from llm_gan.models.training import encoder

    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def spoilt(parameters, most):
        parameters = [*parameters]
        calls.append(most)
        if len(calls) == 3:
            parameters[0].grad.view(-1)[0] = math.nan
        return clip(parameters, most)

    monkeypatch.setattr(encoder.nn.utils, "clip_grad_norm_", spoilt)
    gan, dataset = setup(folder, tmp_path)
    gan.encoder = Encoder(EncoderConfig(16, (8, 16)), gan.generator.config)
    with pytest.raises(ArithmeticError, match="no longer finite; resume from the last good state, in .*run, with another seed"):
        train_encoder(gan, dataset, EncoderTraining(images=80), tmp_path / "run", save_every=0)
    kept = read_state(tmp_path / "run")
    assert kept["count.images"] == 16 and all(torch.isfinite(value).all() for value in kept.values())
    calls[:] = [1.0, 1.0]
    with pytest.raises(ArithmeticError, match="no longer finite; start again with another seed"):
        train_encoder(gan, dataset, EncoderTraining(images=80), tmp_path / "other")
    assert not (tmp_path / "other" / "state.safetensors").exists()


def test_an_encoder_that_is_not_finite_replaces_none(folder, tmp_path):
    gan, _ = setup(folder, tmp_path)
    gan.encoder = Encoder(EncoderConfig(16, (8, 16)), gan.generator.config).requires_grad_(False)
    path = save_gan(gan, tmp_path / "gan.safetensors")
    before = {file.name: file.read_bytes() for file in (path, encoder_path(path))}
    next(gan.encoder.parameters()).view(-1)[0] = 1e6  # more than fp16 holds
    gan.generator.canvas.bias.data += 1
    for save in (save_encoder, save_gan):
        with pytest.raises(ValueError, match="gan.encoder.safetensors is not written: .* not finite"):
            save(gan, path)
    assert before == {file.name: file.read_bytes() for file in (path, encoder_path(path))}


def test_what_an_encoder_has_learnt_is_kept_before_it_is_shown(folder, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("llm_gan.models.training.encoder.contact_sheet", full)
    gan, dataset = setup(folder, tmp_path)
    gan.encoder = Encoder(EncoderConfig(16, (8, 16)), gan.generator.config)
    with pytest.raises(OSError, match="No space left"):
        train_encoder(gan, dataset, EncoderTraining(images=8), tmp_path / "run")
    assert read_state(tmp_path / "run")["count.images"] == 8


def test_most_damage_comes_alone_and_some_pictures_are_whole():
    counts = draw_kinds(4000, torch.Generator().manual_seed(0)).sum(1)
    assert 0.55 < (counts == 1).float().mean() < 0.75 and 0.12 < (counts == 0).float().mean() < 0.22 and counts.max() >= 4


def test_an_encoder_needs_a_gan_that_sees(folder, tmp_path):
    gan, _ = setup(folder, tmp_path)
    path = save_gan(gan, tmp_path / "blind.safetensors", include_discriminator=False)
    with pytest.raises(ValueError, match="without its discriminator, through which an encoder looks"):
        train_encoder_folder(path, folder, tmp_path / "run")
    path = save_gan(gan, tmp_path / "seeing.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train_encoder_folder(path, folder, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="resumed goes on with its own encoder: leave --start-from out"):
        train_encoder_folder(path, folder, tmp_path / "run", resume=True, start_from=path)
    with pytest.raises(ValueError, match="nothing from 0 pictures"):
        train_encoder_folder(path, folder, tmp_path / "run", images=0)
    with pytest.raises(ValueError, match="seed = .* should be from 0"):
        train_encoder_folder(path, folder, tmp_path / "run", seed=10**23)


def test_an_encoder_goes_on_with_no_run_of_another_kind_or_language_model(folder, tmp_path, monkeypatch):
    path = save_gan(setup(folder, tmp_path)[0], tmp_path / "gan.safetensors")
    run = tmp_path / "run"
    run.mkdir()
    (run / "state.safetensors").touch()
    (run / "config.json").write_text(json.dumps({"images": 8, "paired": 1.0}))
    with pytest.raises(ValueError, match="another kind, with a setting paired"):
        train_encoder_folder(path, folder, run, resume=True)
    monkeypatch.setattr(Reader, "recipe", lambda self: Recipe("another", "1", WIDTH))
    monkeypatch.setattr("llm_gan.models.language.model.LanguageModel.load", lambda name, device: Reader())
    with pytest.raises(ValueError, match="reads conditions of reader, .* encoded by another: load reader"):
        train_encoder_folder(path, folder, tmp_path / "other")


def test_settings_are_read_as_windows_writes_them(tmp_path):
    (tmp_path / "settings.json").write_text('{"seed": 3}', encoding="utf-8-sig")
    options = parser().parse_args(["train", "data", "--out", "a.safetensors", "--config", str(tmp_path / "settings.json")])
    assert _training_settings(options) == {"seed": 3} and options.preset is None


def test_an_encoder_may_begin_with_that_of_another_gan(folder, tmp_path, monkeypatch):
    from llm_gan.models.training import encoder

    class Model(Reader):
        width = WIDTH

    monkeypatch.setattr(run_module.LanguageModel, "load", lambda name, device: Model())

    def trained(name, seed, images, start=None):
        path = save_gan(setup(folder, tmp_path, seed)[0], tmp_path / f"{name}.safetensors")
        train_encoder_folder(path, folder, tmp_path / name, images=images, start_from=start)
        return load_gan(path).encoder.state_dict()

    first = trained("a", 0, 16)
    near, far = trained("b", 1, 8, tmp_path / "a.safetensors"), trained("c", 1, 8)
    apart = [sum((first[name] - other[name]).float().abs().mean().item() for name in first) for other in (near, far)]
    assert apart[0] < apart[1]
    path = save_gan(setup(folder, tmp_path)[0], tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="none.safetensors has no encoder to start from"):
        train_encoder_folder(path, folder, tmp_path / "d", start_from=path)

    def fail(self):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(encoder.EncoderTrainer, "step", fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        train_encoder_folder(tmp_path / "a.safetensors", folder, tmp_path / "e", images=16)
    kept = load_gan(tmp_path / "a.safetensors").encoder.state_dict()
    assert all(torch.equal(first[name], kept[name]) for name in first)
