"""On a CUDA GPU: recordings give what is computed without them, in every precision, and let go of their memory."""

import pytest
import torch

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.data.sentences import Box
from llm_gan.models.enlarger import enlarge, load_enlarger
from llm_gan.models.gan import GAN, Latent
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.recorded import Recordings
from llm_gan.models.training.dataset import Dataset, SceneRow
from llm_gan.models.training.trainer import FIGURES, Trainer, TrainingConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

PROMPTS = ["一张包含猫和狗的图像", "a red heart"]


@pytest.fixture(scope="module")
def here():
    """The bundled GAN, two conditions and their pictures, computed by the CPU."""
    gan = load_gan(DEFAULT_GAN)
    condition = LanguageModel.load("gemma-3-270m").encode(PROMPTS, gan.recipe)
    return gan, condition, gan.generate(condition, gan.sample_z(0, 2))[0]


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 0.5 / 255), (torch.float16, 2 / 255)])
@pytest.mark.parametrize("transparent", [False, True])
def test_pictures_are_the_cpus(here, dtype, bound, transparent, caplog):
    gan, condition, _ = here
    there = load_gan(DEFAULT_GAN, "cuda", dtype)
    for seed in range(4):  # as it is, recorded, replayed twice
        z = gan.sample_z(seed, 2)
        one, _ = gan.generate(condition, z, transparent=transparent)
        other, _ = there.generate(condition, z, transparent=transparent)
        assert (one - other).abs().max() <= bound
    assert any(there.recordings._kinds.values()) and not caplog.records


def test_each_prompt_and_edit_is_drawn_anew(here):
    gan, condition, _ = here
    there = load_gan(DEFAULT_GAN, "cuda")
    z = gan.sample_z(0, 1)
    for latent in (z, Latent(z, background=torch.tensor([[1.0, 1.0, -1.0, -1.0]]))):
        for row in (0, 1, 0, 1):
            one, other = (g.generate(condition[row], latent)[0] for g in (gan, there))
            assert (one - other).abs().max() <= 0.5 / 255


def test_pictures_are_enlarged_as_by_the_cpu():
    images = torch.rand(2, 64, 48, 4)
    one, other = (enlarge(load_enlarger(device=device), images, 4) for device in ("cpu", "cuda"))
    assert (one - other).abs().max() <= 0.5 / 255


def test_changed_weights_are_drawn_with(here):
    gan, condition, pictures = here
    there = load_gan(DEFAULT_GAN, "cuda")
    z = gan.sample_z(0, 2)
    for _ in range(3):
        there.generate(condition, z)
    with torch.no_grad():
        there.generator.canvas.weight.mul_(-1)
    assert (there.generate(condition, z)[0] - pictures).abs().max() > 0.1


def test_memory_is_given_back(here):
    gan, condition, _ = here

    def left():
        there = load_gan(DEFAULT_GAN, "cuda")
        for psi in (1.0, 1.0, 0.7):
            there.generate(condition, gan.sample_z(0, 2), psi)
        assert len(there.recordings._kinds) == 3  # any truncation is the same work, and the prompts are read once
        there.to("cpu")
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = left()  # from here on the libraries have memory of their own
    assert left() <= first + 2**21


def test_what_would_wait_for_the_gpu_is_not_begun_to_be_recorded():
    def work(x):
        return (x * float(x.sum()),)

    recordings, x = Recordings(), torch.ones(3, device="cuda")
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(recordings.run(work, x)[0], 3 * x)
    assert torch.cuda.get_sync_debug_mode() == 0 and torch.randn(2, device="cuda").shape == (2,)
    torch.cuda.empty_cache()


def test_prompts_are_read_as_the_cpu_reads_them(here, caplog):
    gan, _, _ = here
    one, other = (LanguageModel.load("gemma-3-270m", device=device, dtype=torch.float32) for device in ("cpu", "cuda"))
    for text in ("a cat", "a dog", "a cow", "一只猫", "three bananas above a house"):
        near, far = (model.encode([text], gan.recipe) for model in (one, other))
        scale = near.pooled.abs().max()
        assert (near.pooled - far.pooled).abs().max() <= 1e-3 * scale
        assert (near.tokens - far.tokens).abs().max() <= 1e-3 * near.tokens.abs().max()
    assert any(other._recordings._kinds.values()) and not caplog.records


def test_recorded_steps_of_training_are_those_that_it_makes_as_they_are(here):
    """With the discriminators from the second of three phases on: first without them, and on after going back to a state."""
    gan, _, _ = here
    random = torch.Generator().manual_seed(0)
    count, size = 40, gan.resolution
    opacity = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    opacity[:, :, 32:96, 32:96] = 255
    pictures = torch.randint(256, (count, 3, size, size), generator=random, dtype=torch.uint8).where(opacity > 0, 255)
    alone, layout = torch.arange(count), (Box(0.25, 0.5, 0.5), Box(0.75, 0.5, 0.5))
    shape = gan.generator.config
    config = TrainingConfig(
        images=160, batch_size=8, adversarial_from=0.4, warmup=1, lr_generator=1e-5, lr_memory=1e-4, lr_discriminator=1e-5
    )
    dataset = Dataset(
        pictures, torch.randn(count * 4, shape.token_dim, generator=random).half(), [4 * (i + 1) for i in range(count)],
        torch.randn(count, shape.pooled_dim, generator=random), [own[None] for own in alone], [alone[:0]] * count,
        [alone[:0]] * count, [own[None] for own in alone], torch.randn(count, shape.z_dim, generator=random),
        [str(i) for i in range(count)], [[i] for i in range(count)], list(range(count)), opacity,
        [SceneRow(i, [i, count - 1 - i], torch.tensor(layout), (255, 0, 0), torch.zeros(2, 4)) for i in range(10)],
    )  # fmt: skip

    def gan_that_learns() -> GAN:
        own = load_gan(DEFAULT_GAN).requires_grad_(True)
        for part in (own.discriminator.projected.features, own.discriminator.projected.mixer, own.generator.layout):
            part.requires_grad_(False)
        return own

    def figures(recorded: bool) -> tuple[list[dict], Trainer]:
        trainer = Trainer(gan_that_learns(), dataset, config, "cuda")
        if not recorded:
            trainer._run = trainer._learn
        rows = [trainer.step() for _ in range(12)]
        state = trainer.state()
        rows.append(trainer.step())
        trainer.load(state)
        return rows + [trainer.step() for _ in range(7)], trainer

    recorded, trainer = figures(True)
    plain, unrecorded = figures(False)
    assert trainer._run._run not in (None, trainer._run.work)
    assert set(recorded[-1]) == set(FIGURES)
    for step, (one, other) in enumerate(zip(recorded, plain)):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=0.05, abs=0.15 if name in ("overfit", "match") else 0.05), (step, name)
    assert recorded[12]["paired"] == pytest.approx(recorded[13]["paired"], rel=0.02)  # once more, from the state
    one, other, start = (
        torch.cat([value.cpu().flatten() for value in whole.generator.state_dict().values()])
        for whole in (trainer.gan, unrecorded.gan, gan)
    )
    assert (one - other).norm() <= 0.3 * (other - start).norm()
