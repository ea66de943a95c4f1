"""On a CUDA GPU: recordings give what is computed without them, in every precision, and let go of their memory."""

import pytest
import torch

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.gan import Latent
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.recorded import Recordings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

PROMPTS = ["一张包含猫和狗的图像", "a red heart"]


@pytest.fixture(autouse=True)
def exact():
    """Without TF32, which rounds the numbers of an fp32 convolution to ten bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def here():
    """The bundled GAN, two conditions and their pictures, computed by the CPU."""
    gan = load_gan(DEFAULT_GAN)
    condition = LanguageModel.load("gemma-3-270m").encode(PROMPTS, gan.recipe)
    return gan, condition, gan.generate(condition, gan.sample_z(0, 2))[0]


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 0.5 / 255), (torch.float16, 2 / 255)])
@pytest.mark.parametrize("transparent", [False, True])
def test_pictures_are_the_cpus(here, dtype, bound, transparent):
    gan, condition, _ = here
    there = load_gan(DEFAULT_GAN, "cuda", dtype)
    for seed in range(4):  # as it is, recorded, replayed twice
        z = gan.sample_z(seed, 2)
        one, _ = gan.generate(condition, z, transparent=transparent)
        other, _ = there.generate(condition, z, transparent=transparent)
        assert (one - other).abs().max() <= bound
    assert any(there.recordings._kinds.values())


def test_each_prompt_and_edit_is_drawn_anew(here):
    gan, condition, _ = here
    there = load_gan(DEFAULT_GAN, "cuda")
    z = gan.sample_z(0, 1)
    for latent in (z, Latent(z, background=torch.tensor([[1.0, -1.0, -1.0]]))):
        for row in (0, 1, 0, 1):
            one, other = (g.generate(condition[row], latent)[0] for g in (gan, there))
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
        assert len(there.recordings._kinds) == 2  # any truncation is the same work
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


def test_prompts_are_read_as_the_cpu_reads_them(here):
    gan, _, _ = here
    one, other = (LanguageModel.load("gemma-3-270m", device=device, dtype=torch.float32) for device in ("cpu", "cuda"))
    for text in ("a cat", "a dog", "a cow", "一只猫", "three bananas above a house"):
        near, far = (model.encode([text], gan.recipe) for model in (one, other))
        scale = near.pooled.abs().max()
        assert (near.pooled - far.pooled).abs().max() <= 1e-3 * scale
        assert (near.tokens - far.tokens).abs().max() <= 1e-3 * near.tokens.abs().max()
    assert any(other._recordings._kinds.values())
