"""Designing with latents, on the bundled model: what changes, what stays, and by how much."""

import pytest
import torch
from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.condition import Recipe
from llm_gan.models.data.sentences import ENGLISH
from llm_gan.models.gan import GAN, Latent
from llm_gan.models.generator import Generator, GeneratorConfig
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.latents import (
    average,
    colour_of,
    colours,
    directions,
    indices,
    interpolate,
    join,
    layers_of,
    load_latent,
    mix,
    paint,
    save_latent,
    slide,
    travel,
    vary,
)
from llm_gan.models.tint import main_colour


@pytest.fixture(scope="module")
def gan():
    return load_gan(DEFAULT_GAN)


@pytest.fixture(scope="module")
def conditions(gan):
    return LanguageModel.load("gemma-3-270m").encode(["a red apple", "a yellow star", "a house with a very red roof"], gan.recipe)


@pytest.fixture(scope="module")
def apples(gan, conditions):
    """Four drawings of one prompt, and their latents as drawn."""
    return gan.generate(conditions[0].repeat(4), gan.sample_z(3, 4))


def apart(one, other):
    return (one - other).abs().mean().item()


# ------------------------------------------------------------------------------------------------------- mixing


def test_mixed_at_every_layer_and_look_it_is_the_other_drawing(gan, conditions, apples):
    pictures, latent = apples
    everything = layers_of(gan.generator, ["all"])
    mixed = gan.generate(conditions[0], mix(latent[[0]], latent[[1]], everything))[0]
    assert apart(mixed, pictures[[1]]) < 1e-4


def test_strength_nothing_is_the_content(gan, conditions, apples):
    pictures, latent = apples
    mixed = mix(latent[[0]], latent[[1]], layers_of(gan.generator, ["all"]), strength=0)
    assert apart(gan.generate(conditions[0], mixed)[0], pictures[[0]]) < 1e-5


def test_fine_layers_change_less_than_all(gan, conditions, apples):
    star, drawn = gan.generate(conditions[1], gan.sample_z(0, 1))
    pictures, latent = apples
    changes = []
    for ranges in (["fine"], ["middle", "fine"], ["all"]):
        mixed = mix(latent[[0]], drawn, layers_of(gan.generator, ranges), look=False)
        changes.append(apart(gan.generate(conditions[0], mixed)[0], pictures[[0]]))
    assert 0 < changes[0] < min(changes[1:])  # the coarse ones, which make the difference of the others, are hardly seen


@pytest.mark.parametrize("psi", [0.4, 0.7, 1.3])
def test_what_was_drawn_with_a_truncation_is_mixed_with_it(gan, conditions, tmp_path, psi):
    condition = conditions[0].repeat(2)
    pictures, latent = gan.generate(conditions[0].repeat(4), gan.sample_z(3, 4), psi)
    everything = layers_of(gan.generator, ["all"])
    kept = load_latent(save_latent(latent, tmp_path / "apples.latent.safetensors", gan))[0]
    for latent in (latent, kept, Latent.from_dict(kept.to_dict())):
        mixed = mix(latent[[0, 2]], latent[[1, 3]], everything)
        assert apart(gan.generate(condition, mixed, psi)[0], pictures[[1, 3]]) < 1e-4


def test_a_look_is_mixed_in_where_the_truncation_leaves_z_no_say(gan, conditions, apples):
    pictures, latent = apples
    average, drawn = gan.generate(conditions[0], gan.sample_z(3, 1), 0)
    everything = layers_of(gan.generator, ["all"])
    mixed = mix(drawn, latent[[1]], everything, strength=0.0)
    assert apart(gan.generate(conditions[0], mixed, 0)[0], average) < 1e-6
    mixed = mix(drawn, latent[[1]], everything)
    assert apart(average, pictures[[1]]) > 0.01 and apart(gan.generate(conditions[0], mixed, 0)[0], pictures[[1]]) < 1e-4


def test_a_mix_keeps_its_z_and_walks_on_from_it(gan, conditions, apples):
    pictures, latent = apples
    asked = gan.generate(conditions[0], latent[[0]])[1]
    asked.looks = torch.roll(200 * torch.nn.functional.one_hot(asked.looks.argmax(1), asked.looks.shape[1]).float(), 1, 1)
    mixed = mix(latent[[0]], asked, layers_of(gan.generator, ["fine"]))  # of a look that outshouts every z
    assert torch.equal(mixed.z, latent[[0]].z)
    for other in (vary(mixed, 3, 0.8, 5), interpolate(join([mixed, mix(latent[[2]], asked, [])]), 4)):
        drawn = gan.generate(conditions[0].repeat(len(other)), other)[1]
        assert torch.equal(drawn.looks.argmax(1), asked.looks.argmax(1).expand(len(other)))


def test_the_ranges_share_out_the_layers(gan):
    parts = [layers_of(gan.generator, [name]) for name in ("coarse", "middle", "fine")]
    assert sum(parts, []) == layers_of(gan.generator, ["all"]) == list(range(gan.generator.num_styles))
    with pytest.raises(ValueError, match="no range 'huge'"):
        layers_of(gan.generator, ["huge"])
    with pytest.raises(ValueError, match="no fine layers, its finest are of 32 px"):
        layers_of(Generator(GeneratorConfig.at(64)), ["fine"])


def test_what_was_not_drawn_cannot_be_mixed(gan, apples):
    with pytest.raises(ValueError, match="draw both latents first"):
        mix(Latent(gan.sample_z(0, 1)), apples[1][[0]], [0])
    with pytest.raises(ValueError, match="4 latents and the styles of 2"):
        mix(apples[1], apples[1][[0, 1]], [0])


# ------------------------------------------------------------------------------------------------------ walking


def test_a_walk_goes_through_its_stops_at_their_length(gan):
    keys = Latent(gan.sample_z(1, 3))
    walk = interpolate(keys, 9)
    assert torch.allclose(walk.z[[0, 4, 8]], keys.z, atol=1e-5)
    lengths = walk.z.norm(dim=1)
    assert lengths.min() >= keys.z.norm(dim=1).min() - 1e-4 and lengths.max() <= keys.z.norm(dim=1).max() + 1e-4
    straight = interpolate(keys, 9, spherical=False)
    assert torch.allclose(straight.z[2], (keys.z[0] + keys.z[1]) / 2, atol=1e-5) and straight.z[2].norm() < lengths[2]


def test_a_loop_has_no_end(gan):
    keys = Latent(gan.sample_z(1, 3))
    loop = interpolate(keys, 12, loop=True)
    steps = torch.cat([loop.z, loop.z[:1]]).diff(dim=0).norm(dim=1)
    assert torch.allclose(loop.z[[0, 4, 8]], keys.z, atol=1e-5) and steps.max() < 2 * steps.min()


def test_smooth_slows_down_at_the_stops(gan):
    steps = interpolate(Latent(gan.sample_z(1, 2)), 11, easing="smooth").z.diff(dim=0).norm(dim=1)
    assert steps[0] < 0.5 * steps[5] and steps[9] < 0.5 * steps[5]


def test_equal_stops_are_walked_without_moving(gan):
    z = gan.sample_z(1, 1)
    assert torch.allclose(interpolate(Latent(z.repeat(2, 1)), 5).z, z.expand(5, -1), atol=1e-5)


def test_edits_are_walked_too():
    plain = Latent(torch.ones(1, 4))
    edited = Latent(torch.ones(1, 4), style_shift=torch.full((1, 2, 3, 5), 2.0))
    walk = interpolate(join([plain, edited]), 3)
    assert walk.style_shift.shape == (3, 2, 3, 5) and torch.allclose(walk.style_shift[1], torch.tensor(1.0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((1, 5), "two stops"), ((2, 1), "from 2 to"), ((2, 5, True, "wild"), "no easing 'wild'")],
)
def test_walks_that_lead_nowhere_are_refused(gan, arguments, words):
    stops, *others = arguments
    with pytest.raises(ValueError, match=words):
        interpolate(Latent(gan.sample_z(0, stops)), *others)


def test_prompts_are_travelled_from_end_to_end(gan, conditions):
    z = gan.sample_z(2, 1)
    frames = gan.generate(travelled := travel(conditions, 9), z.expand(9, -1))[0]
    stops = gan.generate(conditions, z.expand(3, -1))[0]
    assert travelled.recipe == conditions.recipe
    assert apart(frames[[0, 4, 8]], stops) < 1e-4
    assert apart(frames[2], stops[0]) > 0.01 and apart(frames[2], stops[1]) > 0.01


def test_a_prompt_that_is_the_next_stop_too_stands_still(gan):
    fruit = LanguageModel.load("gemma-3-270m").encode(["a fruit"], gan.recipe)  # of which z chooses one
    frames = gan.generate(travel(fruit.repeat(2), 5), gan.sample_z(0, 1).expand(5, -1))[0]
    assert (frames - frames[:1]).abs().max() < 1e-4


# ------------------------------------------------------------------------------------- averaging, picking, varying


def test_an_average_lies_between_and_is_as_long(gan):
    latents = Latent(gan.sample_z(4, 2))
    mean = average(latents)
    assert torch.allclose(mean.z.norm(), latents.z.norm(dim=1).mean(), rtol=1e-4)
    assert torch.cosine_similarity(mean.z, latents.z).min() > 0.5
    assert torch.allclose(average(latents, torch.tensor([1.0, 0.0])).z, latents.z[:1], atol=1e-5)
    with pytest.raises(ValueError, match="as many weights"):
        average(latents, torch.ones(3))


@pytest.mark.parametrize(("text", "wanted"), [("0", [0]), ("0, 3, 5-7", [0, 3, 5, 6, 7]), (" -1,1 - 2 ", [7, 1, 2])])
def test_places_are_numbers_and_spans(text, wanted):
    assert indices(text, 8) == wanted


@pytest.mark.parametrize(("text", "words"), [("", "Nothing is picked"), ("8", "no 8 in a batch of 8"), ("one", "'one' is no")])
def test_places_that_are_not_there_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        indices(text, 8)


def test_variations_go_further_the_stronger_they_are(gan):
    latent = Latent(gan.sample_z(6, 2), style_shift=torch.ones(2, 1, 3, 5))
    assert torch.equal(vary(latent, 3, 0, seed=1).z, latent.z.repeat_interleave(3, 0))
    angles = [torch.cosine_similarity(vary(latent, 50, s, seed=1).z, latent.z.repeat_interleave(50, 0)).mean() for s in (0.2, 0.6, 1.0)]
    assert angles[0] > 0.9 > angles[1] > 0.5 > angles[2]
    varied = vary(latent, 200, 0.6, seed=1)
    assert varied.style_shift.shape[0] == 400 and varied.z.std() == pytest.approx(latent.z.std().item(), abs=0.15)
    assert torch.equal(vary(latent, 3, 0.5, seed=1).z, vary(latent, 3, 0.5, seed=1).z)


# -------------------------------------------------------------------------------------------------- directions


@pytest.mark.parametrize("method", ["sefa", "pca"])
def test_directions_change_the_picture_and_strength_says_how_far(gan, conditions, apples, method):
    pictures, latent = apples
    layers = layers_of(gan.generator, ["all"])
    found = directions(gan, method, layers, 4)
    assert torch.equal(found, directions(gan, method, layers, 4))
    assert torch.allclose(found @ found.t(), torch.diag((found @ found.t()).diagonal()), atol=1e-4)
    moved = {
        s: gan.generate(conditions[0], slide(latent[[0]], found, torch.tensor([s, 0, 0, 0]), layers, gan.generator.num_styles))[0]
        for s in (0.0, 0.25, 1.0, -1.0)
    }
    assert apart(moved[0.0], pictures[[0]]) < 1e-5
    assert 0 < apart(moved[0.25], moved[0.0]) < apart(moved[1.0], moved[0.0])
    assert apart(moved[1.0], moved[-1.0]) > apart(moved[1.0], moved[0.0]) / 2


def test_changes_that_make_nothing_are_refused(gan, apples):
    with pytest.raises(ValueError, match="0 variations"):
        vary(apples[1], 0, 0.5, 0)
    for strength in (float("nan"), -1.0, 3.0):
        with pytest.raises(ValueError, match="from 0 to 2"):
            mix(apples[1], apples[1], [0], strength=strength)


def test_directions_that_are_not_there_are_refused(gan):
    with pytest.raises(ValueError, match="no method 'luck'"):
        directions(gan, "luck", [0], 1)
    with pytest.raises(ValueError, match="finds from 1 to"):
        directions(gan, "sefa", [0], 5000)


# ------------------------------------------------------------------------------------------------------- colours


def shown(gan, condition, latent):
    """What most of the left and of the right half has for a colour, 0..255."""
    picture = gan.generate(condition, latent, transparent=True)[0].permute(0, 3, 1, 2)
    return [main_colour(half[:, :3], half[:, 3:])[0, :, 0, 0] * 255 for half in picture.tensor_split(2, 3)]


def test_things_are_painted_in_their_order(gan, apples):
    condition = LanguageModel.load("gemma-3-270m").encode(["a house and a balloon"], gan.recipe)
    latent = Latent(apples[1].z[[0]])
    house, balloon = shown(gan, condition, latent)
    red, blue = (colour_of(text) for text in ("red", "#3366cc"))
    left, right = shown(gan, condition, paint(latent, [red, None]))
    assert (left - torch.tensor(red)).abs().max() < 30 and (right - balloon).abs().max() < 5
    left, right = shown(gan, condition, paint(paint(latent, [red, None]), [None, blue]))
    assert (left - torch.tensor(red)).abs().max() < 30 and (right - torch.tensor(blue)).abs().max() < 30
    left, right = shown(gan, condition, paint(latent, [blue]))
    assert (left - torch.tensor(blue)).abs().max() < 30 and (right - torch.tensor(blue)).abs().max() < 30
    left, right = shown(gan, condition, paint(paint(paint(latent, [red]), [None, None, blue]), [blue]))
    assert (left - torch.tensor(blue)).abs().max() < 30 and (right - torch.tensor(blue)).abs().max() < 30
    third = paint(paint(latent, [red]), [None, blue]).tints[0, 2]  # what was painted for all stays on those not named since
    assert torch.equal(third, paint(latent, [red]).tints[0, 0])
    every, first = paint(latent, [red]), paint(latent, [blue, None])  # and so it does beside others, and over what was painted
    assert torch.equal(join([every, first]).tints[0, 2], third) and not join([every, first]).tints[1, 2].any()
    assert torch.equal(paint(first, [red]).tints[0, 2], third)
    assert torch.equal(gan.generate(condition, paint(latent, [None, None]))[0], gan.generate(condition, latent)[0])


def test_colours_are_walked(gan, apples):
    plain, red, blue = (paint(Latent(apples[1].z[[0]]), [rgb]) for rgb in (None, (220, 40, 40), (20, 40, 240)))
    walk = interpolate(join([plain, red, blue]), 5)
    assert walk.tints[:, 0, 0].tolist() == [0, 0.5, 1, 1, 1]
    half = walk.tints[1, 0]
    assert torch.allclose(half[1:] / half[0], red.tints[0, 0, 1:])  # a paler red, not another colour
    assert torch.allclose(walk.tints[3], (red.tints[0] + blue.tints[0]) / 2)
    assert average(join([red, blue])).tints.shape == (1, 1, 4) and vary(red, 2, 0.1, 0).tints.shape == (2, 1, 4)


def test_beside_a_painted_background_the_others_stay_as_their_prompts_say(gan, apples):
    condition = LanguageModel.load("gemma-3-270m").encode(["a star, yellow background"], gan.recipe)
    plain = Latent(apples[1].z[[0]])
    blue = paint(plain, [None], (0, 0, 255))
    both = join([plain, blue])
    pictures = gan.generate(condition.repeat(2), both)[0]
    alone = [gan.generate(condition, latent)[0] for latent in (plain, blue)]
    assert apart(pictures, torch.cat(alone)) < 1e-5 and apart(*alone) > 0.1
    corners = gan.generate(condition.repeat(3), interpolate(both, 3))[0][:, 0, 0]
    assert (corners[1] - (corners[0] + corners[2]) / 2).abs().max() < 1e-3 and (corners[0] - corners[2]).abs().max() > 0.5
    assert (gan.generate(condition, average(both))[0][0, 0, 0] - corners[1]).abs().max() < 1e-3
    assert join([plain, plain]).background is None


def test_colours_are_names_or_codes():
    assert colours("red, -, #36c,") == [ENGLISH.tints["red"], None, (51, 102, 204), None]
    assert colours("深红、dark red") == [ENGLISH.tints["dark red"]] * 2 and colour_of("Tomato") == (255, 99, 71)
    assert colours("") == [None]
    for text in ("reddish", "#12", "rgb(1"):
        with pytest.raises(ValueError, match="is no colour"):
            colour_of(text)


def test_a_gan_that_draws_its_background_is_not_told_colours():
    config = GeneratorConfig(16, (8, 8), z_dim=64, text_dim=8, token_dim=8, attention=(8,), heads=1)
    plain = GAN(config, None, Recipe("words", "0", 8))
    with pytest.raises(ValueError, match="cannot be told colours"):
        plain.check_latent(paint(Latent(torch.zeros(1, 64)), [(1, 2, 3)]))


# ------------------------------------------------------------------------------------------------------- files


def test_a_latent_is_saved_whole_and_never_over_another(gan, conditions, apples, tmp_path):
    latent = paint(apples[1], [(255, 0, 0), None], (0, 128, 0))
    path = save_latent(latent, tmp_path / "apples.latent.safetensors", gan, "four apples")
    loaded, metadata = load_latent(path)
    assert metadata["note"] == "four apples" and metadata["gan"] == gan.card.name
    assert all(torch.equal(value, loaded.tensors()[name]) for name, value in latent.tensors().items())
    with pytest.raises(FileExistsError):
        save_latent(latent, path, gan)


def test_a_background_of_every_latent_is_saved_as_ever(gan, apples, tmp_path):
    from safetensors.torch import load_file, save_file

    whole = paint(Latent(apples[1].z), [None], (0, 128, 255))
    paths = [tmp_path / f"{name}.latent.safetensors" for name in ("whole", "some", "before")]
    assert load_file(save_latent(whole, paths[0], gan))["background"].shape == (4, 3)
    some = join([whole, Latent(apples[1].z)])
    assert torch.equal(load_latent(save_latent(some, paths[1], gan))[0].background, some.background)
    tensors = {"z": apples[1].z, "background": whole.background[:, 1:].contiguous()}
    save_file(tensors, paths[2], {"llm_gan_latent": "1", "prompts": "1", "truncation_psi": "0.7"})  # which is not read any more
    before = load_latent(paths[2])[0]
    assert torch.equal(before.background, whole.background)


def test_a_file_says_the_version_that_it_needs(gan, apples, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    mixed = mix(apples[1][[0]], apples[1][[1]], [0])
    for version, latent in (("1", apples[1]), ("2", mixed)):
        path = save_latent(latent, tmp_path / f"{version}.latent.safetensors", gan)
        with safe_open(path, "pt") as file:
            assert file.metadata()["llm_gan_latent"] == version
        assert load_latent(path)[0].tensors().keys() == latent.tensors().keys()
    before = tmp_path / "before.latent.safetensors"  # as looks were shifted for a time
    save_file({"z": mixed.z, "look_shift": mixed.look_shift}, before, {"llm_gan_latent": "1"})
    assert torch.equal(load_latent(before)[0].look_shift, mixed.look_shift)
    save_file({"z": mixed.z, "smell": mixed.z.clone()}, tmp_path / "new.latent.safetensors", {"llm_gan_latent": "3"})
    with pytest.raises(ValueError, match="written by a newer LLM-GAN: update it"):
        load_latent(tmp_path / "new.latent.safetensors")


def test_latents_of_two_gans_are_not_joined(apples):
    with pytest.raises(ValueError, match="of different GANs, their z differ"):
        join([apples[1], Latent(torch.zeros(1, 3))])
    one, other = (Latent(torch.zeros(1, 4), style_shift=torch.zeros(1, 2, 3, n)) for n in (5, 6))
    with pytest.raises(ValueError, match="their style_shift differ"):
        join([one, other])


def test_files_that_are_no_latents_are_refused(gan, apples, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError):
        load_latent(tmp_path / "none.latent.safetensors")
    (tmp_path / "a.latent.safetensors").write_bytes(b"no")
    save_file({"z": torch.zeros(1, 64)}, tmp_path / "b.latent.safetensors")
    meta = {"llm_gan_latent": "1"}
    save_file({"z": torch.zeros(1, 64), "code": torch.zeros(1)}, tmp_path / "c.latent.safetensors", meta)
    save_file({"z": torch.full((1, 64), torch.inf)}, tmp_path / "d.latent.safetensors", meta)
    save_file({"z": torch.zeros(2, 64), "looks": torch.zeros(1, 5)}, tmp_path / "e.latent.safetensors", meta)
    save_file({"z": torch.tensor(0.5)}, tmp_path / "f.latent.safetensors", meta)
    said = ("is damaged", "is no latent", "is no latent", "not finite", "does not fit its z", "holds 0 latents")
    for name, words in zip("abcdef", said):
        with pytest.raises(ValueError, match=words):
            load_latent(tmp_path / f"{name}.latent.safetensors")
