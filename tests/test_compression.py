"""Smaller checkpoints: int8 files draw what fp16 ones do, and a slim student learns to draw as its teacher."""

import pytest
import torch
from safetensors.torch import load_file

from llm_gan.models import cli
from llm_gan.models.checkpoint import DEFAULT_GAN, dequantise, load_gan, preview, quantise, read_metadata, save_gan
from llm_gan.models.condition import Condition
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.training import distill
from llm_gan.models.training.losses import feature_distance
from llm_gan.models.training.state import read_state
from llm_gan.models.training.trainer import TrainingConfig, train

from test_checkpoint import rewritten
from test_gan import condition, small_gan
from test_training import COLOURS, Reader, folder, setup  # noqa: F401 (a fixture)

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


def test_a_student_as_wide_as_its_teacher_is_its_teacher():
    teacher = small_gan().generator
    with torch.no_grad():  # a channel that nobody reads, and an order that must be kept
        teacher.scales[1].conv1.weight[:, 3] = 0
    student = distill.prune(teacher, teacher.config)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in teacher.state_dict().items())


def test_pruning_drops_channels_that_nobody_reads():
    teacher = small_gan().generator
    config = distill.slimmer(teacher.config, 0.67)
    assert config.channels == (24, 16, 8)
    readers = [*(scale.conv0 for scale in teacher.scales[1:]), teacher.scales[-1].to_rgb]
    with torch.no_grad():
        for scale, reader, wide, slim in zip(teacher.scales, readers, teacher.config.channels, config.channels):
            unread, between = torch.randperm(wide)[slim:], torch.randperm(wide)[slim:]
            scale.conv1.weight[:, between] = 0
            reader.weight[:, unread] = scale.to_rgb.weight[:, unread] = 0
    gan = small_gan()
    conditions, z = condition(3), gan.sample_z(0, 3)
    gan.generator = teacher
    pictures = gan.generate(conditions, z)[0]
    gan.generator = distill.prune(teacher, config).requires_grad_(False).eval()
    slim = gan.generate(conditions, z)[0]
    # Not quite equal: the dropped channels took part in scaling activations and styles to unit size.
    assert (pictures - slim).abs().mean() < 0.3 * (pictures - pictures.roll(1, 0)).abs().mean()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.0, 0.99, float("nan")])
def test_a_share_that_makes_nothing_slimmer_is_refused(share):
    with pytest.raises(ValueError, match="take"):
        distill.slimmer(small_gan().generator.config, share)


@pytest.fixture
def teacher(folder, tmp_path, monkeypatch):  # noqa: F811
    """A tiny GAN that has learnt a little, and the stand-in for its language model."""

    class Model(Reader):
        width = 24

    monkeypatch.setattr(LanguageModel, "load", lambda name, device: Model())
    gan, dataset = setup(folder, tmp_path)
    gan = train(gan, dataset, TrainingConfig(images=8 * 60, warmup=10, lr_generator=2e-3), tmp_path / "teacher")
    return save_gan(gan, tmp_path / "teacher.safetensors", torch.float32)


def distances(teacher, student, look):
    """In pixels and in features, of the same z and captions."""
    condition = Reader().encode([f"{name} square" for name in COLOURS] * 4, Reader().recipe(), 0, None)
    pictures = [gan.generate(condition, teacher.sample_z(5, 12))[0].permute(0, 3, 1, 2) * 2 - 1 for gan in (student, teacher)]
    features = feature_distance(*(look(x) for x in pictures)).item()
    return (pictures[0] - pictures[1]).abs().mean().item(), features


def test_a_short_distillation_brings_the_student_nearer(folder, teacher, tmp_path):  # noqa: F811
    out, master = tmp_path / "slim.safetensors", load_gan(teacher)
    settings = {"images": 8 * 80, "warmup": 10, "lr_generator": 2e-3}
    student = distill.distill_folder(teacher, folder, out, tmp_path / "slim", share=0.4, settings=settings)
    shape = distill.slimmer(master.generator.config, 0.4)
    assert shape.channels == (16, 8) == load_gan(out).generator.config.channels
    look = master.discriminator.projected.look
    before = distances(master, distill.make_student(master, shape, "pruned"), look)
    after = distances(master, student, look)
    assert after[0] < 0.5 * before[0] and after[1] < 0.5 * before[1]
    assert sum(p.numel() for p in student.generator.scales.parameters()) < sum(p.numel() for p in master.generator.scales.parameters())
    for name, value in master.generator.state_dict().items():  # what reads is the teacher's
        if not name.startswith(distill.DRAWS):
            assert torch.equal(value, student.generator.state_dict()[name]), name
    assert "as untitled draws them" in student.card.data and student.card.images_seen == 640


def test_a_distillation_says_what_it_skips_and_trains_as_a_training_does(folder, teacher, tmp_path, monkeypatch):  # noqa: F811
    (folder / "broken.png").write_text("junk")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('\n{"file_name": "broken.png", "text": "a square"}\n{"file_name": "gone.png", "text": "a square"}')

    class Stop(Exception):
        pass

    def stop(student, lessons, config, *rest, **named):
        raise Stop(config.bf16)

    def measured(*given):
        dataset = build_dataset(*given)
        assert dataset.longest == 2  # kept from then on, and no field
        return dataset

    build_dataset = distill.build_dataset
    monkeypatch.setattr(distill, "build_dataset", measured)
    monkeypatch.setattr(distill, "train", stop)
    monkeypatch.setattr(distill, "device_settings", lambda device: {"bf16": device == "cpu"})
    with pytest.raises(Stop, match="True"):
        distill.distill_folder(teacher, folder, tmp_path / "slim.safetensors", tmp_path / "slim")
    told = (tmp_path / "slim" / "skipped.txt").read_text()
    assert "broken.png: is not a picture" in told and "there is no picture gone.png" in told


def test_a_stopped_distillation_resumes_exactly(folder, teacher, tmp_path):  # noqa: F811
    settings = {"images": 64, "warmup": 2, "adversarial_from": 0.3}

    def run(name, **others):
        return distill.distill_folder(teacher, folder, tmp_path / f"{name}.safetensors", tmp_path / name, share=0.6, **others)

    def stop(done, total, figures=None):
        if figures and done >= 40:
            raise KeyboardInterrupt

    run("whole", settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run("parts", settings=settings, progress=stop)
    assert load_gan(tmp_path / "parts.safetensors").card.images_seen == 40
    run("parts", resume=True)
    whole, parts = read_state(tmp_path / "whole"), read_state(tmp_path / "parts")
    assert not [name for name, value in whole.items() if not torch.equal(value, parts[name])]
    other = save_gan(small_gan(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has another teacher"):
        distill.distill_folder(other, folder, tmp_path / "parts.safetensors", tmp_path / "parts", resume=True)
    channels = r"has the channels \[16, 16\], not a share of 0.4: resume it with its own"
    with pytest.raises(ValueError, match=channels):
        distill.distill_folder(teacher, folder, tmp_path / "parts.safetensors", tmp_path / "parts", share=0.4, resume=True)
    own = distill.distill_folder(teacher, folder, tmp_path / "parts.safetensors", tmp_path / "parts", resume=True)
    assert own.generator.config.channels == (16, 16)


def test_compress_from_the_command_line(folder, teacher, tmp_path, capsys):  # noqa: F811
    def compress(name, *options):
        return cli.main(["compress", str(teacher), "--out", str(tmp_path / name), *options])

    assert compress("small.safetensors", "--int8") == 0
    assert "small.safetensors 3." in capsys.readouterr().out
    student = ["--share", "0.4", "--int8", "--data", str(folder), "--images", "16", "--device", "cpu"]
    assert compress("slim.safetensors", *student) == 0
    assert read_metadata(tmp_path / "slim.safetensors")["llm_gan"] == "2"
    assert load_gan(tmp_path / "slim.safetensors").generator.config.channels == (16, 8)
    capsys.readouterr()
    for name, options, message in (
        ("x.safetensors", [], "nothing to do"),
        ("x.safetensors", ["--share", "0.5"], "with --data"),
        ("x.safetensors", ["--share", "2", "--data", str(folder)], "between 0 and 1"),
        ("x.pt", ["--int8"], "should end in .safetensors"),
        ("small.safetensors", ["--int8"], "is there already"),
        ("slim.safetensors", student, "already holds a run"),
        ("x.safetensors", [*student, "--scenes", "9"], "leave --scenes out"),
    ):
        assert compress(name, *options) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
