"""What is done for speed computes the same as the plain way, and the benchmark reports what it measured."""

import torch
import torch.nn.functional as F

from llm_gan.models import gan as gan_module
from llm_gan.models.checkpoint import load_gan, save_gan
from llm_gan.models.generator import RGB_GAIN, GeneratorConfig, ToRGB

from test_gan import WIDTH, condition, small_gan


def with_scenes():
    """A small GAN whose pictures have an opacity."""
    config = GeneratorConfig(
        32, (32, 24, 16), z_dim=8, w_dim=16, text_dim=32, token_dim=WIDTH, pooled_dim=16, concepts=6, sketch_resolution=8, things=2
    )
    return small_gan(config=config)


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
    assert loaded.generator.scales[1].conv0.weight.is_contiguous(memory_format=torch.channels_last)
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
