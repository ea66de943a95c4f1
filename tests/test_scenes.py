"""Scenes: sentences over several things, pictures pasted as they say, reading a layout, drawing by it, judging the result."""

import colorsys
import json
import random
import re
import shutil
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan, save_gan
from llm_gan.models.condition import Condition, Recipe
from llm_gan.models.data.folder import Example, Pictures, read_folder, read_pictures
from llm_gan.models.data.scenes import Scene, Thing, compose, is_held_out, is_name, paste
from llm_gan.models.data.sentences import BOTTOM, CHINESE, COLOURS, ENGLISH, LEFT, RIGHT, TINTS, TOP, WHITE, is_chinese
from llm_gan.models.discriminator import DiscriminatorConfig
from llm_gan.models.evaluation.compositions import crops, judge_colours, judge_scenes, pictures_of, read_right, real_scenes
from llm_gan.models.gan import GAN
from llm_gan.models.generator import GeneratorConfig
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.layout import Layout
from llm_gan.models.pictures import on_white
from llm_gan.models.tint import given, recolour
from llm_gan.models.training import reader
from llm_gan.models.training.dataset import build_dataset
from llm_gan.models.training.trainer import Trainer, TrainingConfig

WIDTH, RESOLUTION = 48, 64
NAMES = {
    "cat": "猫", "dog": "狗", "apple": "苹果", "house": "房子", "star": "星", "red car": "红车", "ship": "船", "tree": "树",
    "fish": "鱼", "key": "钥匙", "hat": "帽", "egg": "蛋",
}  # fmt: skip


def examples():
    return [
        Example(f"{name}-{style}.png", (name, zh), (), (f"{name}, {style} style", f"{zh}，{style}风格"), name, style)
        for name, zh in NAMES.items()
        for style in ("flat", "round")
    ]


class Words:
    """Stands in for a language model: a fixed random state for each word, with a trace of the words before it."""

    def recipe(self):
        return Recipe("words", "0", WIDTH)

    def encode(self, texts, recipe=None, batch_size=16, progress=None):
        def states(text):
            words = re.findall(r"[a-z]+|[\u4e00-\u9fff]", text) or [""]
            own = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(sum(w.encode()) * 7919)) for w in words])
            return own + 0.2 * own.cumsum(0)

        tokens = [states(text) for text in texts]
        mask = torch.arange(max(map(len, tokens))) < torch.tensor([[len(t)] for t in tokens])
        pooled = torch.stack([t.mean(0) for t in tokens])
        return Condition(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True), pooled, mask, self.recipe())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A disc or square of its own colour for every name, on nothing, in two styles."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number, example in enumerate(examples()):
        image = Image.new("RGBA", (64, 64))
        colour = tuple(int(255 * x) for x in colorsys.hsv_to_rgb(number // 2 / len(NAMES), 1, 0.9))
        image.paste((*colour, 255), (8, 8, 56, 56) if example.style == "flat" else (16, 16, 48, 48))
        image.save(folder / example.path)
        lines.append({
            "file_name": example.path, "concept": example.concept, "style": example.style,
            "captions": {"en": [example.captions[0]], "zh": [example.captions[1]]},
            "style_captions": {"en": [f"{{caption}}, {example.style} style"], "zh": [f"{{caption}}，{example.style}风格"]},
        })  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return folder


def tiny_gan():
    torch.manual_seed(0)
    config = GeneratorConfig(
        RESOLUTION, (32, 32, 24, 16), z_dim=8, w_dim=16, text_dim=128, token_dim=WIDTH, pooled_dim=24, concepts=12, looks=2,
        sketch_resolution=16, sketch_channels=2, look_channels=1, things=3, tints=len(TINTS),
    )  # fmt: skip
    discriminator = DiscriminatorConfig(RESOLUTION, 24, mixed=(8, 8, 8, 8), hidden=16, embed=8, pixel_channels=(16, 16))
    return GAN(config, discriminator, Words().recipe())


def setup(folder, tmp_path, count=400):
    gan = tiny_gan()
    pictures = read_pictures(read_folder(folder)[0], RESOLUTION)
    scenes = compose(pictures.examples, count)
    dataset = build_dataset(pictures, gan, Words(), tmp_path, scenes)
    gan.generator.memory.remember(dataset.pooled, dataset.concepts)
    return gan, dataset, pictures


# Sentences


def name_of(thing):
    return re.sub(r"(, \w+ style|，\w+风格)$", "", thing.caption)


@pytest.mark.parametrize("language", [ENGLISH, CHINESE])
def test_things_are_mentioned_in_the_order_of_their_boxes(language):
    for _, places, sentences in language.kinds:
        for sentence in sentences:
            mentioned = [int(number) for number in re.findall(r"\{(\d)[sn]?\}", sentence)]
            assert list(dict.fromkeys(mentioned)) == list(dict.fromkeys(place for place, _ in places))
            many = {int(number) for number in re.findall(r"\{(\d)s\}", sentence)}
            several = {place for place, _ in places if [p for p, _ in places].count(place) > 1}
            assert many <= several or many == set(mentioned)  # or all of them are of a kind: "cats and dogs"


def test_scenes_say_what_they_show():
    scenes = {scene.text: scene for scene in compose(examples(), 4000)}
    assert len(scenes) == 4000 and list(scenes.values()) == compose(examples(), 4000)
    assert list(scenes.values())[:500] == compose(examples(), 500)
    checked, plain = 0, {scene.text: scene for scene in compose(examples(), 4000, tinted=0)}
    for text, scene in (scenes | plain).items():
        assert all(name_of(thing) in text.lower() for thing in scene.things) and 1 <= len(scene.things) <= 3
        assert "{" not in text and "  " not in text
        found = re.fullmatch(r"(?:an? )?([\w ]+?) (?:to the left of|above|to the right of) (?:an? )?([\w ]+)", text)
        if found and {found[1], found[2]} <= NAMES.keys() - {"red car"}:  # which is given its own colour
            checked += 1
            expected = (LEFT, RIGHT) if "left of" in text else (TOP, BOTTOM) if "above" in text else (RIGHT, LEFT)
            assert scene == Scene(text, (Thing(found[1], expected[0]), Thing(found[2], expected[1])), WHITE)
    assert checked > 3
    assert 0.4 < sum(map(is_chinese, scenes)) / len(scenes) < 0.6


def test_what_is_behind_the_things_is_what_was_said_first():
    seen = set()
    for text, _, background in compose(examples(), 4000):
        first, *described = re.split(r"[.。](?!\d) ?(?=.)", text)
        said = r"(?<!light )(?<!dark )\b{0} background|(?:\bon|background:?) {0}(?=[.]?$|,)"
        colours = [rgb for names, rgb in COLOURS.items() if re.search(said.format(names[0]), first.lower())]
        places = [rgb for language in (ENGLISH, CHINESE) for phrases, rgb in language.grounds.items()
                  if any(phrase in first.lower() for phrase in phrases)]  # fmt: skip
        if colours and not places:
            assert background == colours[0]
        elif places and not colours and not is_chinese(first):
            assert background in places
        elif not described and not is_chinese(text):
            assert background == WHITE or any(rgb == background and names[0] in text.lower() for names, rgb in COLOURS.items())
        seen.add((bool(colours), bool(places), bool(described), background == WHITE))
    assert {(True, False, True, False), (False, True, False, False), (False, False, True, False), (False, False, True, True)} <= seen


def test_letters_can_be_named():
    letters = [Example(f"{name}.png", (name,), concept=name) for name in "abcdefghxyz"]
    assert len(compose(letters, 200)) == 200


def test_a_name_with_an_article_is_given_no_other():
    """No "a a red car", "two a cat" or "blue the egg", and what is red in it stays red; the captions are the folder's own."""
    english = {f"{'the' if name in 'egg fish' else 'An' if name[0] == 'a' else 'a'} {name}" for name in NAMES}
    names = english | {f"一只{name}" for name in NAMES.values()}
    named = [Example(f"{i}.png", (name,), concept=name) for i, name in enumerate(sorted(names))]
    scenes = compose(named, 3000)
    words = "|".join({*ENGLISH.tints, *ENGLISH.adjectives, "an?", "the", "one", "1", "2", "two", "three", "few", "some", "many"})
    for text, things, _ in scenes:
        assert {thing.caption for thing in things} <= names
        assert not re.search(rf"\b({words}) (an?|the) ({'|'.join(NAMES)})", text.lower()), text
        assert not re.search(r"(个|只|条|辆|朵|座|棵|本|根|把|颗|艘|两)一只", text), text
        assert all(thing.tint == ENGLISH.tints["red"] for thing in things if thing.caption == "a red car"), text
    text = " ".join(scene.text for scene in scenes)
    assert {"two cats", "the cat", "blue cat", "an apple", "an egg", "a red car", "cat and"} <= {
        found for found in ("two cats", "the cat", "blue cat", "an apple", "an egg", "a red car", "cat and") if found in text
    }


def test_held_out_pairs_never_meet():
    for held_out in (False, True):
        for scene in compose(examples(), 60 if held_out else 2000, 1, held_out):
            names = set(map(name_of, scene.things))
            assert any(is_held_out(a, b) for a in names for b in names if a != b) == held_out
            assert not held_out or len(scene.things) == len(names) == 2


def test_things_go_together_bear_colours_and_are_of_a_kind():
    names = {"evergreen tree": "tree", "palm tree": "tree", "sun": "sky", "full moon": "sky", "红心": "心", "蓝心": "心"}
    names |= dict.fromkeys(("hand left", "arrow left"), "")  # "left" ends two as well, but sentences are made of it
    names |= dict.fromkeys(("blue heart", "red heart", *NAMES.keys() - {"tree", "red car"}, *NAMES.values()), "")
    pictures = [Example(f"{name}.png", (name,), (word, "simple") if word else (), concept=name) for name, word in names.items()]
    scenes = compose(pictures, 4000)
    pairs = [{thing.caption for thing in scene.things} for scene in scenes]
    named = set().union(*pairs)
    kinds = {"tree", "heart", "心"}  # "sky" ends no name, and is not a kind of thing; "heart" ends two
    assert kinds <= named <= names.keys() | kinds
    beside_the_sun = Counter(frozenset(pair - {"sun"}) for pair in pairs if len(pair) == 2 and "sun" in pair)
    assert beside_the_sun[frozenset(["full moon"])] > 3 * beside_the_sun[frozenset(["cat"])] > 0
    said = {(scene.text.lower(), thing) for scene in scenes for thing in scene.things if thing.tint}
    assert any("purple cat" in text for text, _ in said) and any(re.search("蓝色的?狗", text) for text, _ in said)
    # A red heart is another thing than a heart that is given a colour, and has its own.
    hearts = {(thing.caption, thing.tint) for _, thing in said if "heart" in thing.caption}
    red, blue = (ENGLISH.tints[word] for word in ("red", "blue"))
    assert ("heart", ENGLISH.tints["purple"]) in hearts and not {("heart", red), ("heart", blue)} & hearts
    assert {tint for caption, tint in hearts if caption == "red heart"} == {red}
    alone = compose(pictures, 200, 1, held_out=True)
    assert alone and {thing.caption for scene in alone for thing in scene.things} <= names.keys()


def test_a_word_with_which_names_end_may_mean_any_of_them(tmp_path):
    names = ("red heart", "blue heart", "sweetheart", *NAMES)
    things = [Example(Path(f"{name}.png"), (name,), concept=name) for name in names]
    pictures = Pictures(torch.zeros(len(names), 3, 8, 8, dtype=torch.uint8), things, [], torch.zeros(len(names), 1, 8, 8))
    gan = tiny_gan()
    scenes = compose(things, 400)
    dataset = build_dataset(pictures, gan, Words(), tmp_path, scenes)
    assert dataset.meant[dataset.texts.index("heart")].tolist() == [0, 1]  # which is no caption, and was of no picture
    for scene in dataset.scenes:
        assert all(len(dataset.meant[caption]) for caption in scene.things)
    dataset.draw(64, torch.Generator())


def test_a_thing_is_given_the_colour_that_is_said_of_it():
    scenes, some = compose(examples(), 4000), Counter()
    for text, things, _ in scenes:
        language = CHINESE if is_chinese(text) else ENGLISH
        word, apart = "|".join(sorted(language.tints, key=len, reverse=True)), " " if language is ENGLISH else ""
        for thing in things:
            name = name_of(thing)
            if any(name in other for other in (*language.parts, *language.surfaces)):
                continue  # its "white hat" may be a part of it
            # In 尾巴是红色的猫 the tail is red, in "a fish that is red dog" the fish.
            others = rf"(?<![左右])({'|'.join(language.parts)})是({word})|(that is|in) ({word})(?: and ({word}))?"
            before = re.findall(rf"(?:({word}) ?(?:and |和)?)?(?<![a-z])({word}){apart}{name}", re.sub(others, "", text.lower()))
            before = [colour for other, colour in before if not other]  # of two colours neither is the thing's
            if thing.tint is None:
                assert not before, text
            else:
                assert any(language.tints[colour] == thing.tint for colour in language.tints if colour in text.lower()), text
                assert all(language.tints[colour] == thing.tint for colour in before), text
            some[thing.tint is None, bool(before)] += 1
    assert some[False, True] > 500 and some[False, False] > 50 and some[True, False] > 500
    plain = {name_of(thing): thing.tint for scene in compose(examples(), 300, tinted=0) for thing in scene.things}
    assert {name for name, tint in plain.items() if tint is not None} == {"red car"}  # 红车 may be no more red than 黄瓜 is yellow
    tints = [thing.tint for scene in compose(examples(), 300, tinted=1) for thing in scene.things if name_of(thing) == "cat"]
    assert sum(tint is not None for tint in tints) > 0.8 * len(tints)


def test_too_few_names_are_refused():
    with pytest.raises(ValueError, match="ten things or more"):
        compose(examples()[:8], 10)


@pytest.mark.parametrize("description", [
    "a very shiny drawing of my {}, flat colours", "A {} stands on the table.", "a {} that somebody drew for me on a long evening",
    "一张可爱的{}的图像，扁平风格", "桌子上有一只{}。", "有人在一个漫长的夜晚为我画的一只{}",
])  # fmt: skip
def test_captions_that_describe_are_no_names(description):
    plain = [Example(f"{name}.png", (name, zh)) for name, zh in NAMES.items()]
    chinese = is_chinese(description)
    described = [Example(e.path, (*e.captions, description.format(e.captions[chinese]))) for e in plain]
    assert compose(described, 300) == compose(plain, 300)
    with pytest.raises(ValueError, match="at most 8 words or 14 Chinese characters, without a comma"):
        compose([Example(e.path, e.captions[2:]) for e in described], 10)


def test_long_names_are_names():
    assert all(map(is_name, ("mrs. claus", "face with open eyes and hand over mouth", "on! 箭头", "趋势向上且带有日元符号的图表")))


# Pictures


def test_paste_puts_pictures_where_they_belong():
    pictures = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    opacity = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    for i, colour in enumerate(((200, 0, 0), (0, 200, 0))):
        pictures[i, :, 8:24, 8:24] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
        opacity[i, :, 8:24, 8:24] = 255
    layout = Layout.stack([(torch.zeros(2, 3), torch.tensor([LEFT, RIGHT]), torch.tensor([-1.0, -1.0, 1.0]))])
    scene = paste(pictures[None], opacity[None], layout)[0].add(1).mul(127.5).round()
    assert scene[:, 16, 8].tolist() == [200, 0, 0] and scene[:, 16, 24].tolist() == [0, 200, 0]
    assert scene[:, 0, 0].tolist() == scene[:, 16, 16].tolist() == [0, 0, 255]


def test_batches_hold_scenes(folder, tmp_path):
    _, dataset, _ = setup(folder, tmp_path)
    batch = dataset.draw(64, torch.Generator().manual_seed(0))
    assert batch.images.shape == (64, 3, RESOLUTION, RESOLUTION) and batch.images.abs().max() <= 1
    counts = batch.layout.there.sum(1)
    assert set(counts.tolist()) == {1, 2, 3}
    assert (batch.layout.background != 1).any(1).float().mean() > 0.3
    assert batch.layout.tints is None  # what is drawn is painted at last, and not to be learnt
    for image, _, boxes, there, background in zip(batch.images, *batch.layout[:4]):
        assert torch.allclose(image[:, 0, 0], background, atol=0.02)
        for x, y, _ in boxes[there].tolist():
            assert (image[:, int(y * RESOLUTION), int(x * RESOLUTION)] - background).abs().max() > 0.02


# Layouts


def test_features_are_placed():
    features = torch.arange(16.0).view(1, 1, 1, 4, 4).repeat(1, 2, 1, 1, 1)
    features[:, 1] += 100
    layout = Layout.stack([(torch.zeros(2, 3), torch.tensor([LEFT, RIGHT]), torch.ones(3))])
    placed = layout.place(features, 8)[0, 0]
    assert torch.allclose(placed[2:6, :4], features[0, 0, 0], atol=1e-3)
    assert torch.allclose(placed[2:6, 4:], features[0, 1, 0], atol=1e-3)
    assert placed[:2].abs().max() < 1e-3 and placed[6:].abs().max() < 1e-3
    territories = layout.territories(8)[0]
    assert torch.allclose(territories.sum(0), torch.ones(8, 8))
    assert territories[0, 4, 1] > 0.99 and territories[1, 4, 6] > 0.99
    whole = Layout.whole(torch.zeros(1, 3))
    assert torch.allclose(whole.place(features[:, :1], 4), features[:, 0], atol=1e-5)


def test_a_prompt_is_drawn_the_same_beside_scenes(folder, tmp_path):
    gan, dataset, _ = setup(folder, tmp_path)
    generator = gan.generator.eval()
    condition, z = dataset.condition([0, 1]), gan.sample_z(0, 2)
    alone = Layout.whole(dataset.pooled[[0]])
    two = (dataset.pooled[[1, 2]], torch.tensor([LEFT, RIGHT]), torch.tensor([0.2, 0.4, 0.6]))
    both = Layout.stack([(alone.pooled[0], alone.boxes[0], torch.ones(3)), two])
    with torch.no_grad():
        single = generator(z[:1], *(x[:1] for x in condition), layout=alone)
        batch = generator(z, *condition, layout=both)
        exchanged = generator(z, *condition, layout=both._replace(boxes=both.boxes[:, [1, 0]].where(both.there[..., None], both.boxes)))
    assert torch.allclose(single[0], batch[0], atol=1e-4)
    assert (batch[1] - exchanged[1]).abs().mean() > 1e-3


def test_layouts_are_read_from_sentences(folder, tmp_path, monkeypatch):
    gan, dataset, pictures = setup(folder, tmp_path, count=1500)
    monkeypatch.setattr(reader, "ROUNDS", 10)
    monkeypatch.setattr(reader, "BATCH", 32)
    held_out = compose(pictures.examples, 100, 5, held_out=True, tinted=0.5)
    condition = Words().encode([scene.text for scene in held_out])
    tokens, pooled = gan.condition_norm(condition.tokens, condition.pooled)
    alone = [Words().encode([thing.caption for thing in scene.things]).pooled for scene in held_out]
    alone = gan.condition_norm(condition.tokens[:0], torch.stack(alone))[1]

    def read():
        with torch.no_grad():
            reading = gan.generator.layout(tokens, pooled, condition.mask)
            boxes = torch.tensor([[thing.box for thing in scene.things] for scene in held_out])
            same = gan.generator.memory(reading.pooled[:, :2]).argmax(2) == gan.generator.memory(alone).argmax(2)
            placed = (reading.boxes[:, 1, :2] - boxes).abs().amax(2) < 0.1
            layout = reading.layout()
            asked = torch.tensor([[given(thing.tint) for thing in scene.things] for scene in held_out])
            tinted = (layout.tints[:, :2] * layout.tints[:, :2, :1] - asked).abs().amax(2) < 0.01
            assert not (layout.tints[:, :, 0] * ~layout.there).any()
            return layout.there.sum(1) == 2, same, placed, tinted

    before = [x.float().mean().item() for x in read()]
    reader.fit_reader(gan.generator, dataset)
    two, same, placed, tinted = (x.float().mean().item() for x in read())
    assert two > 0.65 and same > 0.65 and placed > 0.25 and tinted > 0.55, (before, two, same, placed, tinted)
    assert same > before[1] + 0.3 and placed > before[2] + 0.2
    with torch.no_grad():  # a name alone stays what it was
        names = [dataset.texts.index(name) for name in NAMES]
        layout = gan.generator.layout(*dataset.condition(names)).layout()
    assert layout.there.sum(1).tolist() == [1] * len(names) and (layout.background == 1).all()
    assert (layout.pooled[:, 0] - dataset.pooled[names]).abs().mean() < 0.15


TYPED = {  # a prompt, how many things it names, and whether on a colour
    "cat": (1, False), "cat, dog": (2, False), "CAT AND DOG": (2, False), "cat + dog": (2, False), "dog, cat, bird": (3, False),
    "2 cats": (2, False), "a dog wearing a hat": (2, False), "please draw a rocket": (1, False),
    "masterpiece, best quality, 1 cat, highly detailed": (1, False), "a cute little cat and a big dog": (2, False),
    "a rocket flying in the sky": (1, True), "a cat. A cat with a red tail sits on green grass.": (1, True),
    "猫": (1, False), "猫和狗": (2, False), "猫，狗": (2, False), "猫、狗、鸟": (3, False), "请画一张猫和狗的图片": (2, False),
    "一张包含猫和狗的图像": (2, False), "一只猫在草地上": (1, True), "猫。一只橙色的猫坐在绿色的草地上。": (1, True),
}  # fmt: skip


def test_the_bundled_model_reads_what_people_type():
    gan = load_gan(DEFAULT_GAN)
    layout = gan.read(LanguageModel.load("gemma-3-270m").encode(list(TYPED), gan.recipe)).layout
    things, coloured = layout.there.sum(1).tolist(), (layout.background < 0.95).any(1).tolist()
    assert dict(zip(TYPED, zip(things, coloured))) == TYPED


def test_a_thing_is_drawn_alone_as_in_a_batch_with_scenes():
    gan = load_gan(DEFAULT_GAN)
    condition, z = LanguageModel.load("gemma-3-270m").encode(["猫", "a dog and a house"], gan.recipe), gan.sample_z(5, 1)
    alone, both = gan.generate(condition[[0]], z)[0], gan.generate(condition, z.repeat(2, 1))[0]
    assert (alone - both[:1]).abs().max() < 1.5 / 255


@pytest.mark.parametrize("prompts, least", [("typed.json", 0.85), ("typed_later.json", 0.85), ("typed_unseen.json", 0.83)])
def test_the_bundled_model_finds_the_things_that_people_name(prompts, least):
    """In prompts written by hand: a thing is found if the memory gives it of all words most of that one, and a third."""
    typed = json.loads((Path(__file__).parent / prompts).read_text("utf-8"))
    gan, model = load_gan(DEFAULT_GAN), LanguageModel.load("gemma-3-270m")
    memory = gan.generator.memory
    for chinese in (False, True):
        own = {prompt: things for prompt, things in typed.items() if is_chinese(prompt) == chinese}
        words = sorted(set(chain.from_iterable(own.values())))
        with torch.no_grad():
            alone = model.encode(words, gan.recipe)
            alone = memory(gan.condition_norm(alone.tokens[:0], alone.pooled)[1])
            layout = gan.read(model.encode(list(own), gan.recipe)).layout
            shared = torch.stack([torch.minimum(memory(layout.pooled), word).sum(2) for word in alone], 2)
        words.append("")
        shared = torch.cat([shared, torch.full_like(shared[:, :, :1], 1 / 3)], 2)
        found = [[words[i] for i in row[there].argmax(1).tolist()] for row, there in zip(shared, layout.there)]
        missed = [(prompt, things) for (prompt, named), things in zip(own.items(), found) if sorted(named) != sorted(things)]
        right = 1 - len(missed) / len(own)
        print(f"{'Chinese' if chinese else 'English'}: {right:.3f} of {len(own)} prompts read right")
        assert right > least, missed  # two prompts less than on the machine where it was measured


def test_the_bundled_model_passes_over_praise():
    """One thing, or two, among three words of praise: so many are found."""
    pick = random.Random(0)
    nouns = "cat dog apple house car tree rocket flower fish bird guitar pizza star robot dragon castle boat banana".split()
    gan, model = load_gan(DEFAULT_GAN), LanguageModel.load("gemma-3-270m")
    for named, count in (("{}", 1), ("a {}", 1), ("1 {}", 1), ("{} and {}", 2)):
        prompts = []
        for _ in range(100):
            words = pick.sample(ENGLISH.praise, 3)
            words.insert(pick.randint(0, 3), named.format(*pick.sample(nouns, 2)))
            prompts.append(", ".join(words))
        right = (gan.read(model.encode(prompts, gan.recipe)).layout.there.sum(1) == count).float().mean()
        print(f"“{named}”: {right:.2f}")
        assert right > 0.7, named


def test_the_bundled_model_reads_the_colours_that_people_name():
    """In prompts written by hand (typed_colours.json): of each thing the colour that it is given, or that it is given none."""
    typed = json.loads((Path(__file__).parent / "typed_colours.json").read_text("utf-8"))
    gan, model = load_gan(DEFAULT_GAN), LanguageModel.load("gemma-3-270m")
    known = {**ENGLISH.tints, **CHINESE.tints}
    palette = sorted(set(known.values()))
    for chinese in (False, True):
        own = {prompt: tints for prompt, tints in typed.items() if is_chinese(prompt) == chinese}
        with torch.no_grad():
            layout = gan.read(model.encode(list(own), gan.recipe)).layout
        nearest = torch.cdist(layout.tints[:, :, 1:].add(1).mul(127.5), torch.tensor(palette).float()[None]).argmin(2)
        missed = []
        for (prompt, said), there, coloured, near in zip(own.items(), layout.there, layout.tints[:, :, 0] > 0, nearest):
            found = [palette[i] if tinted else None for i, tinted in zip(near[there].tolist(), coloured[there].tolist())]
            if found != [tint and known[tint] for tint in said]:
                missed.append((prompt, found))
        right = 1 - len(missed) / len(own)
        print(f"{'Chinese' if chinese else 'English'}: the colours of {right:.3f} of {len(own)} prompts read right")
        assert right > 0.9, missed


def test_a_reader_that_understands_is_not_taught_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "UNDERSTOOD", 4.0)  # what this one learns in one lesson of seconds
    gan, dataset, _ = setup(folder, tmp_path)

    def teach(**how):
        before, lessons = [p.clone() for p in gan.generator.layout.parameters()], []
        reader.fit_reader(gan.generator, dataset, progress=lambda done, total: lessons.append(done), **how)
        return lessons, any(not torch.equal(p, q) for p, q in zip(before, gan.generator.layout.parameters()))

    lessons, moved = teach()
    assert lessons and moved
    assert teach() == ([], False)
    monkeypatch.setattr(reader, "ROUNDS", 1)
    lessons, moved = teach(anyway=True)
    assert lessons and moved


def test_lessons_in_reading_leave_the_memory_as_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "ROUNDS", 1)
    gan, dataset, _ = setup(folder, tmp_path, count=32)
    reader.fit_reader(gan.generator, dataset, anyway=True)
    learnt = {name.partition(".")[0] for name, weight in gan.generator.named_parameters() if weight.grad is not None}
    assert learnt == {"layout"}


def test_captions_of_similar_length_are_read_together(folder, tmp_path, monkeypatch):
    _, dataset, _ = setup(folder, tmp_path)
    pools = dataset.scenes, reader._singles(dataset)

    def width(rows):
        return max(len(dataset.tokens[dataset.span(row.caption)]) for row in rows)

    def widths(together):
        monkeypatch.setattr(reader, "SORTED", together)
        batches = list(islice(reader._batches(dataset, pools, torch.Generator().manual_seed(0)), 64))
        half = reader.BATCH // 2
        assert all(any(row is own for own in pools[i >= half]) for rows in batches for i, row in enumerate(rows))
        assert {len(rows) for rows in batches} == {2 * half}
        return sum(map(width, batches)) / len(batches)

    assert widths(16) < 0.7 * widths(1)


def test_keywords_find_what_they_may_mean(folder, tmp_path):
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        shutil.copy(folder / line["file_name"], tmp_path)
        line["captions"]["en"] += {"cat": ["fluffy", "whiskers"], "dog": ["fluffy"]}.get(line["concept"], [])
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    gan, dataset, _ = setup(tmp_path, tmp_path)
    memory, order = gan.generator.memory, torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for rows in (memory.keys, memory.codes, memory.shared, memory.looks):  # as from another run, whose rows are others
        rows.data = rows.data[order]

    def found(text):
        with torch.no_grad():
            return memory(dataset.pooled[dataset.texts.index(text)])

    before = {text: found(text) for text in dataset.texts}
    cat, dog = (int(before[name].argmax()) for name in ("cat", "dog"))
    reader.fit_memory(gan.generator, dataset)
    assert before["whiskers"][cat] < 0.5 < 0.8 < found("whiskers")[cat]
    assert found("fluffy")[[cat, dog]].min() > 0.35 and before["fluffy"][[cat, dog]].sum() < 0.7
    rows = [int(sum(before[dataset.texts[i]] for i in group).argmax()) for group in dataset.concepts]
    assert sorted(rows) == list(range(12))
    for picture, concept in enumerate(dataset.shows):
        assert all(found(dataset.texts[i]).argmax() == rows[concept] for i in dataset.plain[picture].tolist())
    # What z makes of a word that means both is what it is trained to draw.
    dataset.choose_by(memory)
    dataset.scenes.clear()
    batch = dataset.draw(2000, torch.Generator().manual_seed(0))
    asked = [i for i, pooled in enumerate(batch.pooled) if torch.equal(pooled, dataset.pooled[dataset.texts.index("fluffy")])]
    with torch.no_grad():
        drawn = memory.choose(found("fluffy").expand(len(asked), 1, -1), batch.z[asked])[:, 0, [cat, dog]].argmax(1)
    assert len(asked) > 20 and 0.2 < drawn.float().mean() < 0.8
    middle = batch.images[asked][:, :, RESOLUTION // 2, RESOLUTION // 2]
    colours = [dataset.pictures[dataset.shows.index(rows.index(row))].float()[:, RESOLUTION // 2, RESOLUTION // 2] for row in (cat, dog)]
    assert torch.equal(middle, torch.stack(colours).div(127.5).sub(1)[drawn])


# Training, checkpoints, pictures without a background


def test_training_learns_from_scenes_and_leaves_the_reader_alone(folder, tmp_path):
    gan, dataset, _ = setup(folder, tmp_path)
    before = {name: p.clone() for name, p in gan.generator.named_parameters()}
    trainer = Trainer(gan, dataset, TrainingConfig(images=64, batch_size=4, adversarial_from=0.5))
    figures = [trainer.step() for _ in range(9)]
    assert not trainer.diverged(figures[-1]) and "match" in figures[-1]
    moved = {name for name, p in gan.generator.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith(("layout.", "memory.query", "memory.keys")) for name in moved)
    assert {"to_opacity.weight", "size_to_style.weight", "scales.3.from_sketch.weight"} <= moved


@pytest.mark.parametrize("bf16", [False, True])
def test_what_composes_is_trained_on_without_scenes(folder, tmp_path, bf16):
    """Then the reader says what there is, in the precision that users have it in."""
    gan, dataset, _ = setup(folder, tmp_path)
    dataset.scenes = []
    gan.generator.layout.to_count.bias.data[0] = 100.0
    words = [x[:4] for x in dataset.condition(list(range(4)))]
    with torch.no_grad():
        plain = gan.generator.lay_out(*words)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            assert all(torch.equal(*pair) for pair in zip(plain, gan.generator.lay_out(*words)))
    trainer = Trainer(gan, dataset, TrainingConfig(images=32, batch_size=4, adversarial_from=0.5, bf16=bf16))
    figures = [trainer.step() for _ in range(6)]
    assert not trainer.diverged(figures[-1]) and "match" in figures[-1]


def test_begun_from_a_gan_that_composes_a_folder_without_scenes_is_drawn_as_it_is(folder, tmp_path, monkeypatch, caplog):
    """A reader of other sentences would find several things in captions of one."""
    from llm_gan.models.training import run

    class Model(Words):
        width = WIDTH

    monkeypatch.setattr(run.LanguageModel, "load", lambda name, device: Model())
    start = tiny_gan()
    start.generator.memory.remember(torch.randn(12, 24), [[i] for i in range(12)])
    start.generator.layout.to_count.bias.data[1] = 100.0
    caplog.set_level("INFO")
    trained = run.train_folder(
        folder, tmp_path / "gan.safetensors", tmp_path / "run", settings={"images": 8, "batch_size": 4}, start_from=start
    )
    assert trained.generator.config.things == trained.generator.config.tints == 0
    assert torch.allclose(trained.generator.scales[3].conv1.weight, start.generator.scales[3].conv1.weight, atol=0.02)
    assert "24 pictures of 12 captions, 8 to be shown at 64 px" in caplog.text
    assert len((tmp_path / "run" / "samples.txt").read_text("utf-8").splitlines()) == 12


def test_a_checkpoint_keeps_what_scenes_need(folder, tmp_path):
    gan, dataset, _ = setup(folder, tmp_path)
    save_gan(gan, tmp_path / "gan.safetensors", torch.float32)
    loaded = load_gan(tmp_path / "gan.safetensors")
    condition = Words().encode(["a cat and a dog", "猫"])
    z = gan.sample_z(0, 2)
    assert torch.allclose(gan.generate(condition, z)[0], loaded.generate(condition, z)[0], atol=1e-5)


def test_pictures_without_background(folder, tmp_path):
    gan, _, _ = setup(folder, tmp_path)
    condition, z = Words().encode(["a cat", "a dog"]), gan.sample_z(0, 2)
    with torch.no_grad():
        gan.generator.layout.to_background.bias[0] = -100  # none is named, so white it is
    clear, _ = gan.generate(condition, z, transparent=True)
    assert clear.shape == (2, RESOLUTION, RESOLUTION, 4) and 0 <= clear.min() and clear.max() <= 1
    inside = gan.generate(condition, z)[0]
    # The network's pixels may lie out of range before they are mixed with white, and are clamped after.
    assert (on_white(clear) - inside).abs().mean() < 0.05
    plain = GAN(GeneratorConfig(16, (8, 8), text_dim=8, token_dim=WIDTH, attention=(8,), heads=1), None, Words().recipe())
    with pytest.raises(ValueError, match="trained with scenes"):
        plain.generate(condition, plain.sample_z(0, 2), transparent=True)


# Judging


def test_compositions_are_judged(folder):
    pictures = read_pictures(read_folder(folder)[0], RESOLUTION)
    scenes = [scene for scene in compose(pictures.examples, 40, 3, held_out=True)]
    members = pictures_of(scenes, pictures.examples)
    drawn = real_scenes(scenes, members, pictures.pixels, pictures.opacity)
    assert drawn.shape == (40, 3, RESOLUTION, RESOLUTION)
    colours = pictures.pixels[:, :, 32, 32].float() - 100  # the middle tells each concept
    names = sorted({example.concept for example in pictures.examples})
    concepts = torch.tensor([names.index(example.concept) for example in pictures.examples])

    def judged(images):
        return judge_scenes(scenes, members, crops(scenes, images)[:, :, 32, 32].float() - 100, colours, concepts)

    right = judged(drawn)
    assert right.keys() == {"Latin", "Chinese"} and sum(own["n"] for own in right.values()) == 40
    exchanged = [scene._replace(things=scene.things[::-1]) for scene in scenes]
    layout = Layout.stack([
        (torch.zeros(2, 3), torch.tensor([thing.box for thing in scene.things]), torch.tensor(scene.background) / 127.5 - 1)
        for scene in scenes
    ])  # fmt: skip
    assert read_right(scenes, layout) == {"Latin": 1, "Chinese": 1}
    assert read_right(exchanged, layout) == {"Latin": 0, "Chinese": 0}
    assert read_right(scenes, layout._replace(there=layout.there & torch.tensor([True, False]))) == {"Latin": 0, "Chinese": 0}
    coloured = sum(scene.background != WHITE for scene in scenes) / len(scenes)
    shares = read_right(scenes, layout._replace(background=torch.ones(40, 3)))
    assert 0 < coloured and sum(shares.values()) / 2 == pytest.approx(1 - coloured, abs=0.1)
    wrong = judged(real_scenes(exchanged, members, pictures.pixels, pictures.opacity))
    for script in right:
        assert right[script]["both@1"] == right[script]["relation"] == 1
        assert wrong[script]["both@1"] == wrong[script]["relation"] == 0


def test_colours_are_judged(folder):
    pictures = read_pictures(read_folder(folder)[0], RESOLUTION)
    scenes = compose(pictures.examples, 40, 3, held_out=True, tinted=1)
    things = [thing for scene in scenes for thing in scene.things]
    members = torch.tensor(pictures_of(scenes, pictures.examples)).flatten()
    shown = torch.cat([pictures.pixels[members], pictures.opacity[members]], 1)
    tints = torch.tensor([[given(thing.tint)] for thing in things])
    rgb, opacity = shown[:, :3] / 127.5 - 1, shown[:, 3:] / 255
    painted = torch.cat([recolour(rgb, opacity, None, tints).add(1).mul(127.5).round().byte(), shown[:, 3:]], 1)
    right, wrong = judge_colours(scenes, painted), judge_colours(scenes, shown)
    assert right.keys() == {"Latin", "Chinese"}
    assert sum(own["n"] for own in right.values()) == sum(thing.tint is not None for thing in things) > 40
    assert all(own["right"] > 0.95 for own in right.values()) and all(own["right"] < 0.4 for own in wrong.values())
