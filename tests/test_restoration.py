"""Pictures seen back into the bundled model, mended, and given another style."""

import pytest
import torch
from llm_gan.models.checkpoint import DEFAULT_GAN, encoder_path, load_gan, save_encoder, save_gan
from llm_gan.models.damage import KINDS, blur, blur_widely, damage, enlarged, grey, hole, jpeg, shrink, spoil
from llm_gan.models.features import EfficientNetLite
from llm_gan.models.gan import Latent
from llm_gan.models.inversion import invert
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.latents import layers_of
from llm_gan.models.layout import Layout
from llm_gan.models.restoration import restore, restyle
from llm_gan.models.training.losses import feature_distances

PROMPTS = ["a red apple", "a yellow star", "a house", "一只猫"]


@pytest.fixture(scope="module")
def gan():
    return load_gan(DEFAULT_GAN)


@pytest.fixture(scope="module")
def blind(gan):
    """The same without its encoder."""
    blind = load_gan(DEFAULT_GAN)
    blind.encoder = None
    return blind


@pytest.fixture(scope="module")
def condition(gan):
    return LanguageModel.load("gemma-3-270m").encode(PROMPTS, gan.recipe)


@pytest.fixture(scope="module")
def pictures(gan, condition):
    """Pictures [4,128,128,3] in 0..1 that the model drew, and so can draw."""
    return gan.generate(condition, gan.sample_z(5, 4))[0]


@pytest.fixture(scope="module")
def apart():
    """How far apart two pictures look to a network that nothing here was trained with: lite1's features."""
    network = EfficientNetLite.pretrained("lite1")

    def distance(one, other):
        with torch.no_grad():
            look = [network(x.permute(0, 3, 1, 2) * 2 - 1) for x in (one, other)]
        return feature_distances(*look).mean().item()

    return distance


def error(one, other):
    return (one - other).abs().mean().item()


def spoilt(pictures, undo, seed=0):
    """pictures as they are once `undo` is needed."""
    kinds = torch.tensor([[kind == undo for kind in KINDS]] * len(pictures))
    x, known = damage(pictures.permute(0, 3, 1, 2) * 2 - 1, kinds, torch.Generator().manual_seed(seed))
    return x.permute(0, 2, 3, 1) / 2 + 0.5, 1 - known[:, 0]


# ------------------------------------------------------------------------------------------------------ damage


def test_each_damage_is_what_it_says(pictures):
    x = pictures.permute(0, 3, 1, 2) * 2 - 1
    assert torch.equal(grey(x)[:, 0], grey(x)[:, 2])
    blurred = blur(x, torch.tensor([0.01, 1.0, 2.0, 4.0]))
    assert torch.allclose(blurred[0], x[0], atol=1e-5)
    sharpness = [(b.diff(dim=2).abs().mean() / own.diff(dim=2).abs().mean()).item() for b, own in zip(blurred, x)]
    assert sharpness[0] > sharpness[1] > sharpness[2] > sharpness[3]
    assert blurred.mean((2, 3)).sub(x.mean((2, 3))).abs().max() < 0.03
    assert shrink(x, 4).shape == x.shape and error(shrink(x, 8), x) > error(shrink(x, 2), x) > 0
    assert error(jpeg(x[0], 5), x[0]) > error(jpeg(x[0], 80), x[0]) > 0


def test_a_hole_is_part_of_the_picture():
    holes = torch.stack([hole(64, torch.Generator().manual_seed(seed)) for seed in range(64)]).float().mean((1, 2))
    assert 0.005 < holes.min() and holes.max() < 0.95 and 0.1 < holes.mean() < 0.6


def test_what_is_spoilt_is_noisy_blurred_or_bears_a_ghost(pictures):
    x = pictures.permute(0, 3, 1, 2)[:2] * 2 - 1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def made(kind, strength, x=x):
        return spoil(x, noise[: len(x)], torch.full((len(x),), kind), torch.full((len(x),), strength))

    def rough(x):
        return x.diff(dim=3).abs().mean()

    faint, strong = made(0.2, 0.0), made(0.2, 1.0)
    assert rough(x) < rough(faint) < rough(strong) and strong.abs().max() <= 1
    assert torch.allclose(made(0.6, 0.5), blur(x, torch.full((2,), 1.85)), atol=1e-5)
    assert torch.allclose(made(0.9, 1.0), (x + x.roll(1, 0)) / 2, atol=1e-6)
    assert torch.allclose(made(0.9, 0.5, x[:1]), made(0.6, 0.5, x[:1]))  # alone it has nothing to bear a ghost of


def test_damage_is_the_same_for_the_same_seed_and_none_is_none(pictures):
    x = pictures.permute(0, 3, 1, 2) * 2 - 1
    none, known = damage(x, torch.zeros(4, 6, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert torch.equal(none, x) and known.all()
    every = torch.ones(4, 6, dtype=torch.bool)
    one, two = (damage(x, every, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_cutting_is_the_inverse_of_placing():
    features = blur(torch.rand(2, 3, 32, 32), torch.full((2,), 3.0))[None]
    boxes = torch.tensor([[[0.3, 0.3, 0.5], [0.75, 0.7, 0.4]]])
    layout = Layout(torch.zeros(1, 2, 4), boxes, torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3))
    found = layout.cut(layout.place(features, 128), 32)
    assert error(found[..., 2:-2, 2:-2], features[..., 2:-2, 2:-2]) < 0.02


# --------------------------------------------------------------------------------------------------- inversion


def test_a_picture_is_seen_back_into_the_model(gan, condition, pictures):
    prompt_alone = gan.generate(condition, torch.zeros(4, gan.generator.config.z_dim))[0]
    latent = invert(gan, pictures, condition)
    seen = gan.generate(condition, latent)[0]
    assert error(seen, pictures) < 0.5 * error(prompt_alone, pictures)


def test_steps_bring_it_nearer_and_the_best_is_kept(gan, condition, pictures):
    once = gan.generate(condition, invert(gan, pictures, condition))[0]
    nearer = gan.generate(condition, invert(gan, pictures, condition, steps=20))[0]
    assert error(nearer, pictures) < error(once, pictures)


def test_without_an_encoder_steps_find_it(blind, condition, pictures):
    begin = blind.generate(condition, torch.zeros(4, blind.generator.config.z_dim))[0]
    found = blind.generate(condition, invert(blind, pictures, condition, steps=20))[0]
    assert error(found, pictures) < error(begin, pictures)


def test_stopping_keeps_what_was_found(gan, condition, pictures):
    told = []

    def stop(done, total, shown):
        told.append((done, total, shown is not None))
        return done == 12

    latent = invert(gan, pictures, condition, steps=50, progress=stop)
    assert len(latent) == 4 and told == [(0, 200, True), (4, 200, False), (8, 200, False), (12, 200, False)]


def test_without_steps_progress_is_told_of_every_part(gan, condition, pictures):
    told = []
    invert(gan, pictures, condition, progress=lambda *calls: told.append(calls[:2]), batch_size=3)
    assert told == [(3, 4), (4, 4)]
    for style, drawings in ((condition, 1), (Latent(gan.sample_z(9, 1)), 3)):
        told.clear()
        restyle(gan, pictures, condition, style, progress=lambda *calls: told.append(calls[:2]), batch_size=3)
        assert told == [(3, 4), (4, 4)] * (1 + drawings)


def test_many_pictures_are_seen_in_parts(gan, condition, pictures):
    told = []
    whole, parts = (invert(gan, pictures, condition, batch_size=size) for size in (16, 3))
    assert all(torch.allclose(x, parts.tensors()[name], atol=1e-3) for name, x in whole.tensors().items())
    nearer = invert(gan, pictures, condition, steps=2, progress=lambda *calls: told.append(calls[:2]), batch_size=3)
    assert error(gan.generate(condition, nearer)[0], pictures) < error(gan.generate(condition, whole)[0], pictures)
    assert told == [(0, 8), (3, 8), (6, 8), (6, 8), (7, 8), (8, 8)]
    told.clear()
    stopped = invert(gan, pictures, condition, steps=2, progress=lambda *calls: told.append(calls[:2]) or True, batch_size=3)
    assert len(stopped) == 4 and told == [(0, 8)]


def test_what_is_masked_is_not_looked_at(gan, condition, pictures):
    mask = torch.zeros(4, 128, 128)
    mask[:, 40:90, 40:90] = 1
    other = pictures.clone()
    other[:, 40:90, 40:90] = torch.rand(4, 50, 50, 3)
    one, two = (invert(gan, x, condition, mask) for x in (pictures, other))
    assert torch.equal(one.sketch_shift, two.sketch_shift) and torch.equal(one.z, two.z)


def test_a_hole_is_filled_in_a_picture_of_any_size(gan, condition):
    large, mask = torch.rand(1, 2300, 2300, 3), torch.zeros(1, 2300, 2300)
    mask[:, 1000:1200, 1000:1200] = 1
    filled = restore(gan, large, condition[:1], mask=mask)
    changed = (filled != large).any(3)[0].nonzero()
    assert len(changed) and changed.min() >= 1000 and changed.max() < 1200
    with pytest.raises(ValueError, match="2048 to a side"):
        restore(gan, large, condition[:1], {"denoise"}, mask)
    mask[:, 100:1500, 100:1500] = 1
    with pytest.raises(ValueError, match="with what is around it, is 2300 pixels wide"):
        restore(gan, large, condition[:1], mask=mask)


def test_it_works_under_inference_mode(gan, condition, pictures):
    with torch.inference_mode():
        plain = gan.generate(condition, gan.sample_z(0, 4))[0]  # fills every cache with what inference mode made
        latent = invert(gan, pictures + 0 * plain, condition, steps=2)
    assert latent.z.shape == (4, gan.generator.config.z_dim)


# -------------------------------------------------------------------------------------------------- restoration


@pytest.mark.parametrize("undo", KINDS)
def test_mended_pictures_look_more_like_the_picture(gan, condition, pictures, apart, undo):
    damaged, lost = spoilt(pictures, undo, seed=2)
    mended = restore(gan, damaged, condition, {undo}, lost if undo == "inpaint" else None)
    assert mended.shape == pictures.shape and 0 <= mended.min() and mended.max() <= 1
    assert apart(mended, pictures) < apart(damaged, pictures)
    assert error(mended, pictures) < 1.1 * error(damaged, pictures)


def test_known_pixels_stay_exactly_as_they_are(gan, condition):
    picture = torch.rand(1, 200, 330, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 200, 330)
    mask[:, 50:90, 250:300] = 1
    mended = restore(gan, picture, condition[0], mask=mask)
    assert torch.allclose(mended[mask == 0], picture[mask == 0], atol=1e-6)
    assert error(mended[mask == 1], picture[mask == 1]) > 0.01


def test_a_hole_has_no_seam(gan, condition):
    """In a plain picture, what fills a hole is as plain: its rim shows nowhere."""
    picture = torch.full((1, 160, 160, 3), 1.0)
    mask = torch.zeros(1, 160, 160)
    mask[:, 10:30, 10:30] = 1
    mended = restore(gan, picture, condition[1], mask=mask)
    steps = (mended.diff(dim=1).abs() * (mask.diff(dim=1) != 0)[..., None]).amax()
    assert steps < 0.1


def test_a_wide_blur_is_that_of_fewer_pixels():
    generator = torch.Generator().manual_seed(0)
    small, large = (enlarged(torch.rand(1, 3, 16, 16, generator=generator), (side, side)) for side in (97, 500))
    assert torch.equal(blur_widely(small, 9.7), blur(small, torch.tensor([9.7])))
    assert error(blur_widely(large, 50.0), blur(large, torch.tensor([50.0]))) < 0.002


def test_steps_give_a_grey_picture_its_colours(gan, condition, pictures):
    """What is drawn is observed in grey, or steps would make it grey."""
    grey, _ = spoilt(pictures, "colourise")
    without, steps = (restore(gan, grey, condition, {"colourise"}, steps=steps) for steps in (0, 20))
    assert error(steps, pictures) < error(without, pictures)


def test_progress_ends_with_the_last_picture(gan, condition, pictures):
    """Though nothing of it is lost."""
    told, mask = [], torch.zeros(2, 128, 128)
    mask[0, 50:60, 50:60] = 1
    restore(gan, pictures[:2], condition[[0, 1]], mask=mask, progress=lambda *report: told.append(report[:2]))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("steps, last", [(0, 0), (3, 1)])
def test_once_it_is_stopped_no_other_picture_is_worked_on(gan, condition, pictures, steps, last):
    told, mask = [], torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:40] = 1

    def stop(done, total, shown):
        told.append((done, total))
        return len(told) > last

    mended = restore(gan, pictures[:3], condition[:3], mask=mask, steps=steps, progress=stop)
    assert told == ([(1, 3)] if not steps else [(0, 9), (1, 9)])
    apart = [error(*pair) for pair in zip(mended, pictures)]
    assert apart[0] > 1e-3 and max(apart[1:]) < 1e-6
    assert restore(gan, pictures[:3], condition[:3], zoom=2, progress=stop).shape == (3, 256, 256, 3)


def test_any_size_and_several_pictures(gan, condition, pictures):
    wide = torch.nn.functional.pad(pictures, (0, 0, 13, 20), value=1.0)
    told = []
    mended = restore(gan, wide[:2], condition[[0, 1]], {"denoise"}, progress=lambda *report: told.append(report[:2]))
    assert mended.shape == wide[:2].shape and told[-1][0] == told[-1][1]
    assert restore(gan, wide[:2], condition[0], zoom=2.5).shape == (2, 320, round(161 * 2.5), 3)


def test_an_empty_mask_changes_nothing_and_a_full_one_draws_anew(gan, condition, pictures):
    empty, full = torch.zeros(1, 64, 64), torch.ones(1, 64, 64)
    assert torch.allclose(restore(gan, pictures, condition, mask=empty), pictures, atol=1e-6)
    assert torch.isfinite(restore(gan, pictures, condition, mask=full)).all()


def test_opacity_is_on_white(gan, condition, pictures):
    clear = torch.cat([pictures, torch.zeros(4, 128, 128, 1)], 3)
    assert restore(gan, clear, condition, {"unjpeg"}).min() > 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "nothing to undo"),
        ({"undo": ["scratches"]}, "no way to undo 'scratches': there are inpaint"),
        ({"undo": ["inpaint"]}, "a mask must say"),
        ({"zoom": 9.0}, "from 1 to 8"),
        ({"mask": torch.ones(3, 8, 8)}, "4 pictures and 3 masks"),
        ({"images": torch.zeros(0, 8, 8, 3), "undo": ["denoise"]}, "nothing to restore: give one picture"),
    ],
)
def test_what_cannot_be_restored_is_said(gan, condition, pictures, arguments, words):
    with pytest.raises(ValueError, match=words):
        restore(**{"gan": gan, "images": pictures, "condition": condition} | arguments)


def test_who_cannot_see_is_told_how(blind, gan, condition, pictures):
    with pytest.raises(ValueError, match="no encoder, so it can only fill holes: llm-gan train-encoder"):
        restore(blind, pictures, condition, {"denoise"})
    with pytest.raises(ValueError, match="give steps"):
        restore(blind, pictures, condition, mask=torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match="give steps"):
        restyle(blind, pictures, condition, condition)
    with pytest.raises(ValueError, match="give steps"):
        invert(blind, pictures, condition)
    with pytest.raises(ValueError, match="4 pictures and 3 prompts"):
        restore(gan, pictures, condition[:3], {"denoise"})
    with pytest.raises(ValueError, match="more than 2048 to a side"):
        restore(gan, torch.zeros(4, 300, 300, 3), condition, zoom=8)


# -------------------------------------------------------------------------------------------------------- style


def test_strength_nothing_and_keep_everything_is_the_picture_as_seen(gan, condition, pictures):
    seen = gan.generate(condition, invert(gan, pictures, condition))[0]
    same, _ = restyle(gan, pictures, condition, Latent(gan.sample_z(0, 1)), strength=0)
    assert error(same, seen) < 1e-5


def test_a_style_changes_the_picture_by_its_strength(gan, condition, pictures):
    seen = gan.generate(condition, invert(gan, pictures, condition))[0]
    other = LanguageModel.load("gemma-3-270m").encode([f"{prompt}, blob style" for prompt in PROMPTS], gan.recipe)
    by_prompt = restyle(gan, pictures, condition, other, keep=0)[0]
    slight, strong = (restyle(gan, pictures, condition, Latent(gan.sample_z(9, 1)), strength=s, keep=0)[0] for s in (0.3, 1.0))
    assert error(by_prompt, seen) > 0.02 and error(strong, seen) > error(slight, seen) > 0


def test_the_style_of_a_latent_is_the_one_that_it_was_drawn_in(gan, condition, pictures):
    prompts = [f"a house, {name} style" for name in ("noto", "blob")]
    styled = gan.generate(LanguageModel.load("gemma-3-270m").encode(prompts, gan.recipe), gan.sample_z(5, 2))[1]
    noto, blob = (restyle(gan, pictures, condition, styled[[row]])[1] for row in (0, 1))
    assert noto.looks.argmax(1).tolist() == styled.looks[:1].argmax(1).tolist() * 4
    assert blob.looks.argmax(1).tolist() == styled.looks[1:].argmax(1).tolist() * 4
    layers = layers_of(gan.generator, ["middle", "fine"])
    assert torch.allclose(noto.styles[:, layers], styled.styles[:1, layers].expand(4, -1, -1), atol=1e-3)
    half = restyle(gan, pictures, condition, styled[[0]], strength=0.5, keep=1)[1]
    own = gan.generate(condition, invert(gan, pictures, condition))[1]
    between = torch.lerp(own.styles, styled.styles[:1], 0.5)
    assert torch.allclose(half.styles[:, layers], between[:, layers], atol=1e-3)


def test_styles_that_do_not_fit_are_refused(gan, condition, pictures):
    with pytest.raises(ValueError, match="of another GAN"):
        restyle(gan, pictures, condition, Latent(torch.zeros(1, 7)))
    with pytest.raises(ValueError, match="from 0 to 1"):
        restyle(gan, pictures, condition, condition, keep=2)
    with pytest.raises(ValueError, match="the styles of 3"):
        restyle(gan, pictures, condition, Latent(gan.sample_z(0, 3)))


# --------------------------------------------------------------------------------------------------- the files


def test_an_encoder_lies_beside_its_gan(gan, tmp_path, condition, pictures):
    path = save_gan(gan, tmp_path / "other.safetensors")
    assert encoder_path(path).name == "other.encoder.safetensors" and encoder_path(path).is_file()
    again = load_gan(path)
    assert torch.equal(invert(again, pictures, condition).z, invert(gan, pictures, condition).z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
def test_an_encoder_is_told_by_the_weights_as_they_are_stored(gan, tmp_path, caplog, dtype):
    learnt = load_gan(DEFAULT_GAN)
    learnt.generator.canvas.bias += 1e-5 * torch.randn(len(learnt.generator.canvas.bias))  # in fp32, as after a training
    path = save_gan(learnt, tmp_path / "other.safetensors", dtype)
    again = load_gan(path)
    assert again.encoder is not None and not caplog.records
    save_encoder(again, path)
    assert load_gan(path).encoder is not None


def test_an_encoder_of_other_weights_is_left_out(gan, tmp_path, caplog):
    path = save_gan(gan, tmp_path / "other.safetensors")
    stranger = load_gan(path)
    stranger.generator.canvas.bias += 1
    stranger.encoder = None
    save_gan(stranger, path)
    assert load_gan(path).encoder is None and "was trained for other weights" in caplog.text


def test_a_broken_encoder_is_refused(gan, tmp_path):
    path = save_gan(gan, tmp_path / "other.safetensors")
    encoder_path(path).write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="other.encoder.safetensors is damaged"):
        load_gan(path)
