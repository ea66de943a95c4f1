"""What is done for speed computes the same as the plain way, and the benchmark reports what it measured."""

import json
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llm_gan.models import gan as gan_module
from llm_gan.models.benchmark import benchmark as benchmark_module
from llm_gan.models.benchmark.benchmark import at_resolution, benchmark
from llm_gan.models.benchmark.measure import Spread, flops, interleaved, layers
from llm_gan.models.benchmark.rivals import RIVALS, Entry, Rival
from llm_gan.models.checkpoint import load_gan, save_gan
from llm_gan.models.cli import main
from llm_gan.models.gan import GAN
from llm_gan.models.generator import RGB_GAIN, GeneratorConfig, ToRGB
from llm_gan.models.language.model import LanguageModel

from test_gan import SMALL, condition, small_gan
from test_language import save_tiny


def with_scenes():
    """A small GAN whose pictures have an opacity."""
    return small_gan(config=replace(SMALL, things=2))


# ---------------------------------------------------------------------------------------------------- the fast paths


def test_colours_and_opacity_in_one_convolution_are_those_of_two():
    torch.manual_seed(0)
    colours, opacity = ToRGB(8, kernel=3, up=2), ToRGB(8, kernel=3, up=2, colours=1)
    torch.nn.init.normal_(colours.bias)
    x = torch.randn(2, 8, 16, 16)

    def plain(head):
        return F.pixel_shuffle(F.conv2d(x, head.weight, head.bias, padding=1), 2) * RGB_GAIN

    assert torch.allclose(colours(x, opacity), torch.cat([plain(colours), plain(opacity)], 1), atol=1e-6)
    assert torch.allclose(colours(x), plain(colours), atol=1e-6)


def test_a_loaded_generator_draws_as_the_one_that_was_saved(tmp_path):
    gan = with_scenes()
    loaded = load_gan(save_gan(gan, tmp_path / "gan.safetensors", dtype=torch.float32))
    for convolution in (loaded.generator.scales[1].conv0, loaded.discriminator.projected.features.stem):
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    z = gan.sample_z(0, 3)
    for transparent in (False, True):
        images, _ = gan.generate(condition(3), z, transparent=transparent)
        again, _ = loaded.generate(condition(3), z, transparent=transparent)
        assert torch.allclose(images, again, atol=1e-5)


def test_fewer_pictures_at_once_on_a_cpu_are_the_same_pictures(monkeypatch):
    gan, parts = small_gan(), []
    z = gan.sample_z(0, 5)
    whole, _ = gan.generate(condition(5), z)
    monkeypatch.setattr(gan_module, "CACHED", 2 * 4 * gan.generator.widest)
    cut, _ = gan.generate(condition(5), z, progress=lambda done, total: parts.append(done))
    assert parts == [2, 4, 5]
    assert torch.allclose(whole, cut, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- measuring


def test_a_spread_is_the_median_and_the_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0, 5)
    assert Spread.of([2.0]) == (2.0, 2.0, 2.0, 1)
    assert Spread(2.0, 1.0, 3.0, 5) + Spread(1.0, 1.0, 2.0, 4) == (3.0, 2.0, 5.0, 4)
    assert Spread(2.0, 1.0, 3.0, 5) / 2 == (1.0, 0.5, 1.5, 5)


def test_sides_take_turns():
    turns = []
    times = interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 1.0, least=3, most=3, share=0.0)
    assert "".join(turns) == "ab" + 3 * "ab"  # the first of each is not measured
    assert [spread.count for spread in times.values()] == [3, 3]


def test_operations_are_those_of_the_products():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_layers_add_up_to_the_whole():
    gan = small_gan()
    words = condition(2)

    def draw():
        return gan.generator(gan.sample_z(0, 2), *gan.condition_norm(words.tokens, words.pooled), words.mask)

    found = layers(gan.generator, ["text", "scales.1.conv0", "scales.2.to_rgb"], draw, 1)
    assert [layer.name for layer in found] == ["text", "scales.1.conv0", "scales.2.to_rgb", "between them"]
    assert sum(layer.flops for layer in found) == flops(draw)
    # 24 filters of 3 x 3 over 32 channels of 4 x 4 pixels, two pictures; style and demodulation are products too
    assert found[1].flops >= 2 * 2 * 24 * 9 * 32 * 16


# ------------------------------------------------------------------------------------------------------ the benchmark


class Reads(Rival):
    """A rival that reads a prompt, and takes its time for it."""

    reads = True

    def __init__(self, resolution):
        super().__init__(resolution)
        self.layer = torch.nn.Linear(8, 8)

    def prompt(self):
        return self.layer(self._noise(1, 8))

    def forward(self, batch, prompt):
        return self.layer(prompt).mean() + self._latent(batch).mean() + self._noise(batch, 3, self.resolution, self.resolution)


class DrawsOnly(Reads):
    reads = False

    def prompt(self):
        return None

    def forward(self, batch, prompt):
        return self.layer(self._noise(batch, 8)).mean() + self._noise(batch, 3, self.resolution, self.resolution)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A GAN that reads with a tiny random language model, that one, and all of its layers."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny(folder)
    model = LanguageModel.load(folder, write=True)
    config = GeneratorConfig(32, (32, 24, 16), z_dim=8, w_dim=16, text_dim=32, token_dim=model.width, pooled_dim=16)
    gan = GAN(config, None, model.recipe()).requires_grad_(False)
    return gan, LanguageModel.load(folder), model


@pytest.fixture(scope="module")
def report(models, tmp_path_factory):
    """A quick run against rivals of which one is not installed -> what it returned, and its folder."""
    out = tmp_path_factory.mktemp("benchmark")
    rivals = {
        "reads": Entry("Reads", Reads, {}, resolutions=(16, 32)),
        "draws": Entry("Draws", DrawsOnly, {}, resolutions=(32,)),
        "absent": Entry("Absent GAN", Reads, {"no_such_module": "no-such-package"}),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_module, "RIVALS", rivals)
        patch.setattr(benchmark_module, "BATCHES", (1, 2))
        patch.setattr(benchmark_module, "SIDE", 64)
        patch.setattr(benchmark_module, "start_and_memory", lambda *_: {
            "wall": Spread.of([2.0]), "ready": Spread.of([1.0]), "first": Spread.of([1.5]), "imports": Spread.of([0.5]), "generations": 20,
            "demo_peak": 2**30, "resident": [2**20, 2**21],
        })  # fmt: skip
        return benchmark(*models, out, (16, 32), ("reads", "draws", "absent"), quick=True), out


def test_a_quick_run_reports_every_part(report):
    result, out = report
    page = (out / "benchmark.md").read_text("utf-8")
    parts = ["From a prompt to a picture", "Many at once, 32 px", "Against what the machine can do", "A new prompt"]
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == [*parts, "Start and memory"]
    assert "A quick run" in page and torch.__version__.startswith(result["versions"]["torch"].split("+")[0])
    assert [(row["resolution"], row["title"]) for row in result["pictures"]] == [
        (16, "LLM-GAN"), (16, "Reads"), (32, "LLM-GAN"), (32, "Reads"), (32, "Draws"),
    ]  # fmt: skip
    assert json.loads((out / "benchmark.json").read_text("utf-8"))["threads"] == torch.get_num_threads()
    found = {layer.name: layer.flops for layer in result["limit"][-1]["layers"]}
    assert found["scales.1.conv0"] > 0 and all(count >= 0 for count in found.values())


def test_rivals_that_are_not_installed_are_named(report):
    result, out = report
    assert result["missing"] == {"Absent GAN": ["no-such-package"]}
    assert "Absent GAN (`pip install no-such-package`)" in (out / "benchmark.md").read_text("utf-8")


def test_ratios_are_those_of_the_medians(report):
    for row in report[0]["pictures"]:
        ours = next(other for other in report[0]["pictures"] if other["resolution"] == row["resolution"])
        assert row["ratio_known"] == pytest.approx(row["known"].median / ours["known"].median)
        if row["title"] == "Draws":
            assert row["new"] is row["ratio_new"] is None
        else:
            assert row["ratio_new"] == pytest.approx(row["new"].median / ours["new"].median)
            assert row["flops_new"] > row["flops_known"] > 0
    for at in report[0]["limit"]:
        assert at["share"] == pytest.approx(at["rates"]["generator"] / at["rates"]["matmul"])
    reading = report[0]["reading"]
    assert reading["ratio"] == pytest.approx(reading["everything"].median / reading["recipe"].median)
    assert (reading["layers"], reading["all_layers"]) == (4, 5)


def test_the_batches_are_divided_by_their_size(monkeypatch):
    monkeypatch.setattr(benchmark_module, "BATCHES", (1, 4))
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    found = benchmark_module.by_batch({"one": lambda batch: None}, 600.0, least=1, most=1)
    assert found["one"][4].median == found["one"][1].median / 4


def test_what_cannot_be_measured_is_said_before_any_work(models, tmp_path):
    with pytest.raises(ValueError, match="There is no rival dall-e: choose from sd-turbo"):
        benchmark(*models, tmp_path, (32,), ("dall-e",))
    with pytest.raises(ValueError, match="100 px cannot be drawn"):
        benchmark(*models, tmp_path, (100,), ())
    with pytest.raises(ValueError, match="There is no resolution to draw"):
        benchmark(*models, tmp_path, (), ())


def test_the_command_says_what_is_wrong_with_its_options(capsys):
    wrong = {("--resolutions", "64,big"): "give numbers of pixels", ("--threads", "0"): "one is the least"}
    for options, sentence in wrong.items():
        assert main(["benchmark", *options]) == 1
        assert sentence in capsys.readouterr().err


def test_another_resolution_keeps_the_weights_that_fit():
    gan = with_scenes()
    larger = at_resolution(gan, 64)
    assert larger.resolution == 64 and larger.discriminator is None
    assert torch.equal(larger.generator.text.qkv.weight, gan.generator.text.qkv.weight)
    assert larger.generate(condition(1), larger.sample_z(0, 1))[0].shape == (1, 64, 64, 3)


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_is_built_as_published(name):
    """Weights as counted in the papers and model cards, in millions."""
    entry = RIVALS[name]
    if entry.missing():
        pytest.skip(f"not installed: {', '.join(entry.missing())}")
    published = {"sd-turbo": (865.9, "unet"), "lcm": (859.6, "unet"), "biggan": (55.9, None), "lightweight-gan": (24.0, None)}
    millions, part = published[name]
    with torch.device("meta"):
        rival = entry.build(256)
    counted = sum(weight.numel() for weight in (rival if part is None else getattr(rival, part)).parameters()) / 1e6
    assert counted == pytest.approx(millions, rel=0.005)
