"""What people say of things on a canvas, in English and Chinese: sentences without end, and what is meant by each.

People list things with commas, ask politely, add adjectives and words of praise, write in capitals, or have a language model
describe what they asked for. A reader learns what of all this says which things are there, where, and on what. What can
be said in few ways stands here; how else people put it, and why they ask, is collected in phrases.json.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

TERSE = 0.4  # share of the sentences that are as short as can be: no article, and nothing of what follows
ADJECTIVE = 0.12  # share of the things that have an adjective,
TINTED = 0.33  # and that are given a colour, neither of which says what they are; and of those that a description
REPEATED = 0.5  # names again with a colour, those that it gives the same one
TWO = 0.06  # of them those that have two, of which neither is the thing's,
PLAIN = 0.6  # and those whose colour has a name of one word, the first of its names
BARE = 0.3  # of the sentences that leave out articles,
PLACED = 0.3  # that name what is behind the things: a colour, or a place that has one,
ASKED = 0.2  # that say that a picture is asked for,
EXPLAINED = 0.08  # or that say what for,
DEPICTED = 0.25  # that say what kind of picture it is,
PRAISED = 0.2  # that have words of praise around them,
ADDRESSED = 0.08  # that begin by a word to whoever draws, and as many that end so,
DESCRIBED = 0.12  # that are followed by a description of the same things,
SPELT = 0.12  # and that are in capitals or end in a full stop
MEASURES = "个个个只只只条条辆朵朵座棵本根把把颗颗艘杯块瓶碗匹头架支件张片盒顶面位双副副串台"  # of Chinese, the more common the oftener
ARTICLE = re.compile("(an?|the) +|[一1][个只条辆朵座棵本根把颗艘](?=.)", re.IGNORECASE)  # 一片式 has none
RGB = tuple[int, int, int]
PHRASES = json.loads(Path(__file__).with_name("phrases.json").read_text("utf-8"))  # by language and what they say
WHITE = (255, 255, 255)
COLOURS = {  # English and Chinese name -> RGB
    ("red", "红色"): (229, 72, 77), ("orange", "橙色"): (247, 140, 50), ("yellow", "黄色"): (255, 214, 72),
    ("green", "绿色"): (92, 178, 92), ("light green", "浅绿色"): (190, 230, 180), ("blue", "蓝色"): (66, 133, 244),
    ("light blue", "浅蓝色"): (178, 216, 250), ("purple", "紫色"): (142, 95, 200), ("pink", "粉色"): (250, 180, 205),
    ("brown", "棕色"): (140, 95, 65), ("grey", "灰色"): (150, 150, 155), ("black", "黑色"): (25, 25, 28),
    ("white", "白色"): WHITE, ("dark blue", "深蓝色"): (30, 50, 110), ("cream", "米色"): (250, 240, 215),
}  # fmt: skip
# Words in English and in Chinese (before 色) -> RGB of things; what is white has to be seen on white, and in black a shape.
TINTS = {
    ("red", "bright red"): (("红", "大红", "鲜红"), (229, 72, 77)), ("dark red", "crimson"): (("深红", "暗红"), (150, 30, 45)),
    ("orange", "bright orange"): (("橙", "橘", "橘红"), (247, 140, 50)),
    ("yellow", "bright yellow"): (("黄", "亮黄"), (255, 214, 72)),
    ("golden", "gold"): (("金", "金黄"), (228, 176, 50)), ("green",): (("绿", "翠绿"), (92, 178, 92)),
    ("light green", "lime"): (("浅绿", "嫩绿"), (178, 224, 140)), ("dark green",): (("深绿", "墨绿"), (30, 98, 62)),
    ("turquoise", "teal", "cyan"): (("青", "青绿"), (50, 178, 178)), ("blue", "bright blue"): (("蓝",), (66, 133, 244)),
    ("light blue", "sky blue"): (("浅蓝", "天蓝"), (150, 205, 250)),
    ("dark blue", "navy blue", "navy"): (("深蓝",), (36, 58, 128)),
    ("purple", "violet"): (("紫", "紫罗兰"), (142, 95, 200)), ("pink", "light pink"): (("粉", "粉红"), (250, 165, 200)),
    ("brown",): (("棕", "褐", "咖啡"), (140, 95, 65)), ("beige", "cream"): (("米", "米黄"), (236, 220, 190)),
    ("grey", "gray"): (("灰",), (150, 150, 155)), ("silver",): (("银",), (196, 200, 208)),
    ("black",): (("黑",), (38, 38, 42)), ("white",): (("白", "雪白"), (238, 240, 244)),
}  # fmt: skip


class Box(NamedTuple):
    """A square on the canvas: its centre and its side, of a canvas of side 1, from the top left."""

    x: float
    y: float
    size: float


WHOLE = Box(0.5, 0.5, 1.0)
LEFT, RIGHT, TOP, BOTTOM = Box(0.25, 0.5, 0.5), Box(0.75, 0.5, 0.5), Box(0.5, 0.25, 0.5), Box(0.5, 0.75, 0.5)
TOP_LEFT, TOP_RIGHT = Box(0.25, 0.25, 0.5), Box(0.75, 0.25, 0.5)
BOTTOM_LEFT, BOTTOM_RIGHT = Box(0.25, 0.75, 0.5), Box(0.75, 0.75, 0.5)


class Kind(NamedTuple):
    """Sentences that mean the same: which thing stands in which box, in the order of mention. {0}, {1}, {2} are things, {0s} is
    the first in the plural and {0n} without an article, {other} is one that is not there; {tint} is the colour of the first;
    {colour} and {hue} are what a {part} of a thing has, which is not there for itself."""

    weight: int
    places: tuple[tuple[int, Box], ...]
    sentences: tuple[str, ...]


class Language(NamedTuple):
    """How one language says all this; {} is what is said without it."""

    kinds: tuple[Kind, ...]
    one: Callable[[str, random.Random], str]  # a thing as it stands in a sentence
    many: Callable[[str], str | None]  # its plural, None where no rule finds it
    adjectives: tuple[str, ...]
    tints: dict[str, RGB]  # colours of things,
    plain: set[str]  # those that are named most,
    tinted: tuple[str, ...]  # how one is said of a thing,
    two: tuple[str, ...]  # and how two are
    colours: dict[str, RGB]
    coloured: tuple[str, ...]  # {colour} is one of them
    grounds: dict[tuple[str, ...], RGB]  # places, and the colour of each
    elsewhere: tuple[str, ...]  # places that have none
    standing: tuple[str, ...]  # how a place is said of the things; {bare} is one without its preposition
    at: str  # that preposition, where there is but one
    media: tuple[str, ...]  # kinds of pictures
    asked: tuple[str, ...]
    praise: tuple[str, ...]
    described: tuple[str, ...]  # {things} are given a {tint}; {place} is a place or coloured surface, {other} is not there
    parts: tuple[str, ...]
    verbs: tuple[str, ...]
    surfaces: tuple[str, ...]
    on: str  # a {surface} of a {colour}
    together: str
    comma: str
    space: str
    stops: tuple[str, ...]  # between what is asked for and its description
    whole: Callable[[str], str]  # a description as a sentence of its own
    spelt: Callable[[str, random.Random], str]  # in capitals, or with a full stop
    words: frozenset[str] = frozenset()  # of which the usual sentences are made, or characters where none parts words
    clear: tuple[str, ...] = ()  # that there is no background
    explained: tuple[str, ...] = ()  # what a picture is for; {other} is not there
    heads: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()


def _english_one(name: str, pick: random.Random) -> str:
    kind = pick.random()
    if name.endswith("s") and not name.endswith("ss") or not name[0].isalpha():
        return f"{'a pair of' if kind < 0.3 else 'some'} {name}" if kind < 0.4 and name[0].isalpha() else name
    if kind < 0.15:
        return f"the {name}"
    if kind < 0.25:
        return f"{pick.choice(('one', '1'))} {name}"
    if kind < 0.28:
        return f"a {pick.choice(('cup', 'glass', 'bowl', 'plate', 'slice', 'piece'))} of {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _chinese_one(name: str, pick: random.Random) -> str:
    if pick.random() >= 0.55:
        return name
    return f"{'1' if pick.random() < 0.1 else '一'}{pick.choice(MEASURES)}{name}"


def _of(colour: str) -> tuple[str, ...]:
    """What may follow a Chinese colour: nothing, too, but of those with which names of things begin, as 青蛙 and 银行 do."""
    return ("色的", "色") if colour in ("青", "银", "金", "米") else ("色的", "色", "")


def _plural(name: str) -> str | None:
    if not name.replace(" ", "").isalpha() or name.count(" ") > 1 or name.endswith("s"):
        return None
    if name.endswith(("ch", "sh", "x", "z")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else f"{name}s"


def _mostly(usual: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """The usual ones, and others that together are picked no more often."""
    return (*usual * -(-len(others) // len(usual)), *others)


def _english_spelt(text: str, pick: random.Random) -> str:
    return pick.choice((str.capitalize, str.upper, str.title, lambda x: f"{x}.", _english_whole))(text)


def _english_whole(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


_SINGLE, _SIDE_BY_SIDE, _EXCHANGED = ((0, WHOLE),), ((0, LEFT), (1, RIGHT)), ((0, RIGHT), (1, LEFT))
_ABOVE, _BELOW = ((0, TOP), (1, BOTTOM)), ((0, BOTTOM), (1, TOP))
_THREE = ((0, TOP_LEFT), (1, TOP_RIGHT), (2, BOTTOM))
_TWICE, _THRICE = ((0, LEFT), (0, RIGHT)), ((0, TOP_LEFT), (0, TOP_RIGHT), (0, BOTTOM))
_TWO_ABOVE, _TWO_BELOW = ((0, TOP_LEFT), (0, TOP_RIGHT), (1, BOTTOM)), ((0, BOTTOM_LEFT), (0, BOTTOM_RIGHT), (1, TOP))
_ABOVE_TWO = ((0, TOP), (1, BOTTOM_LEFT), (1, BOTTOM_RIGHT))
_BELOW_TWO = ((0, BOTTOM), (1, TOP_LEFT), (1, TOP_RIGHT))
_BETWEEN, _AMIDST = ((0, TOP), (1, BOTTOM_LEFT), (2, BOTTOM_RIGHT)), ((0, BOTTOM_LEFT), (1, BOTTOM_RIGHT), (2, TOP))


def _enriched(name: str, language: Language) -> Language:
    """The language with what is collected of it in phrases.json, of which no more is said than of the usual."""
    phrases = {kind: tuple(said) for kind, said in PHRASES[name].items()}
    usual = " ".join(chain(language.media, *(kind.sentences for kind in language.kinds)))
    return language._replace(
        kinds=(*language.kinds, *_collected(phrases)),
        media=_mostly(language.media, phrases["media"]),
        asked=_mostly(language.asked, phrases["asked"]),
        coloured=_mostly(language.coloured, phrases["coloured"]),
        words=frozenset(usual.split() if language.space else usual),
        clear=phrases["clear"],
        explained=phrases["context"],
        heads=phrases["heads"],
        tails=phrases["tails"],
    )


def _collected(phrases: dict[str, tuple[str, ...]]) -> Iterator[Kind]:
    """What is said in these ways of one thing, or of several, whichever of them is mentioned first."""
    for name, weight, first, *other in (
        ("alone", 5, _SINGLE), ("tinted", 2, _SINGLE), ("without", 2, _SINGLE), ("two", 8, _SIDE_BY_SIDE, _SIDE_BY_SIDE),
        ("left_of", 2, _SIDE_BY_SIDE, _EXCHANGED), ("above", 3, _ABOVE, _BELOW), ("twice", 2, _TWICE), ("thrice", 2, _THRICE),
        ("three", 4, _THREE), ("two_and_one", 2, _TWO_ABOVE, _BELOW_TWO), ("one_and_two", 2, _ABOVE_TWO, _TWO_BELOW),
    ):  # fmt: skip
        ordered = [sentence for sentence in phrases[name] if re.search(r"{(\d)", sentence)[1] == "0"]
        yield Kind(weight, first, tuple(ordered))
        exchanged = [re.sub(r"{([01])", lambda slot: f"{{{1 - int(slot[1])}", x) for x in phrases[name] if x not in ordered]
        if exchanged:
            yield Kind(1, *other, tuple(exchanged))


ENGLISH = _enriched("en", Language(
    kinds=(
        Kind(10, _SINGLE, (*30 * ("{0}",), "(({0}))", "just {0}", "only {0}")),
        Kind(2, _SINGLE, ("{0} with a {colour} {part}", "{0} with {colour} {part}s",
                          "{0} with a {colour} {part} and {hue} {part}s", "{0} that has a {colour} {part}",
                          "{0} whose {part} is {colour}")),
        Kind(2, _SINGLE, ("{0} without {other}", "{0} with no {other}", "{0}, no {other}", "no {other}, just {0}",
                          "{0} but no {other}", "{0}, without {other}")),
        Kind(16, _SIDE_BY_SIDE, (*12 * ("{0} and {1}",), *6 * ("{0}, {1}",), *6 * ("{0} with {1}",), *4 * ("{0n} {1n}",),
                                 *4 * ("{0} holding {1}",), *3 * ("{0} eating {1}",), *3 * ("{0} next to {1}",), "{0},{1}",
                                 "{0} & {1}", "{0} + {1}", "{0} beside {1}", "{0} near {1}", "{0} by {1}", "{0} plus {1}",
                                 "{0} and {1} side by side", "{0} together with {1}", "{0} sitting next to {1}",
                                 "{0} standing beside {1}", "{0} playing with {1}", "both {0} and {1}", "{0} chasing {1}",
                                 "{0} looking at {1}", "{0} {1}", "{0s} and {1s}", "{0} and {1} together",
                                 "{0} flying to {1}", "{0} and a piece of {1}", "{0} is holding {1}", "{0} is eating {1}",
                                 "{0} drinking {1}", "{0} reading {1}", "{0} playing {1}", "{0} kicking {1}",
                                 "{0} hugging {1}", "{0} carrying {1}", "{0} is next to {1}", "{0} waiting for {1}",
                                 "{0} flying past {1}", "({0}), {1}", "{0}; {1}", "{0} / {1}")),
        Kind(4, _SIDE_BY_SIDE, ("{0} left of {1}", "{0} to the left of {1}", "{0} on the left, {1} on the right",
                                "{0} on the left and {1} on the right", "on the left {0}, on the right {1}",
                                "to the right of {0} is {1}", "to the right of {0} there is {1}", "right of {0}, {1}",
                                "to the right of {0} {verb} {1}", "{0} is to the left of {1}")),
        Kind(4, _EXCHANGED, ("{0} right of {1}", "{0} to the right of {1}", "{0} on the right, {1} on the left",
                             "{0} on the right and {1} on the left", "on the right {0}, on the left {1}",
                             "to the left of {0} is {1}", "to the left of {0} there is {1}", "left of {0}, {1}",
                             "to the left of {0} {verb} {1}", "{0} is to the right of {1}")),
        Kind(6, _ABOVE, ("{0} above {1}", "{0} over {1}", "{0} on top of {1}", "{0} at the top, {1} at the bottom",
                         "{0} sitting on {1}", "{0} behind {1}", "{0} flying over {1}", "{0} on {1}", "{0} in {1}",
                         "{0} and below it {1}", "{0} riding {1}", "{0} is riding {1}", "{0} sleeping on {1}",
                         "{0} standing on {1}", "{0} is on {1}", "under {0} is {1}", "under {0} there is {1}",
                         "below {0} is {1}", "below {0} {verb} {1}", "{0} {verb} at the top, {1} at the bottom")),
        Kind(6, _BELOW, ("{0} below {1}", "{0} under {1}", "{0} beneath {1}", "{0} in front of {1}", "{0} wearing {1}",
                         "{0} with {1} above", "{0} is under {1}", "{0} sitting under {1}", "{0} standing under {1}",
                         "{0} is sitting under {1}", "{0} is wearing {1}", "on {0} is {1}", "on {0} sits {1}",
                         "above {0} is {1}", "above {0} there is {1}", "on top of {0} {verb} {1}",
                         "{0} at the bottom, {1} at the top", "{0} {verb} at the bottom, {1} at the top")),
        Kind(3, _TWICE, ("two {0s}", "two {0s}", "a pair of {0s}", "2 {0s}", "2 {0s}", "a couple of {0s}")),
        Kind(3, _THRICE, ("three {0s}", "three {0s}", "3 {0s}", "3 {0s}", "many {0s}", "some {0s}", "several {0s}",
                          "four {0s}", "a few {0s}", "{0s}", "a group of {0s}")),
        Kind(5, _THREE, ("{0}, {1} and {2}", "{0}, {1} and {2}", "{0}, {1}, {2}", "{0}, {1}, {2}", "{0},{1},{2}",
                         "{0} and {1} above {2}", "{0}, {1}, and {2}", "{0} and {1} and {2}", "{0} + {1} + {2}",
                         "{0} & {1} & {2}", "{0n} {1n} {2n}", "{0n} {1n} {2n}", "{0} and {1} with {2}",
                         "{0} with {1} and {2}", "{0} and {1} next to {2}", "{0} and {1} eating {2}",
                         "{0} and {1} playing with {2}", "{0} holding {1} and {2}", "{0} wearing {1} and holding {2}")),
        Kind(3, _TWO_ABOVE, ("two {0s} above {1}", "two {0s} over {1}", "two {0s} and {1}", "two {0s} with {1}",
                             "two {0s}, {1}", "2 {0s} 1 {1n}", "2 {0s} and 1 {1n}", "2 {0s}, {1}", "two {0s} next to {1}",
                             "two {0s} and one {1n}", "two {0s} on {1}", "two {0s} eating {1}")),
        Kind(2, _TWO_BELOW, ("two {0s} below {1}", "two {0s} under {1}", "two {0s} in front of {1}",
                             "between two {0s} is {1}", "between two {0s} there is {1}", "between two {0s} {verb} {1}")),
        Kind(3, _ABOVE_TWO, ("{0} above two {1s}", "{0} and two {1s}", "{0} with two {1s}", "{0}, two {1s}", "{0} with {1s}",
                             "{0} and {1s}", "{0} between two {1s}", "{0} above {1s}", "1 {0n} and 2 {1s}",
                             "1 {0n}, 2 {1s}", "1 {0n} 2 {1s}", "{0} next to two {1s}", "one {0n} and two {1s}")),
        Kind(1, _BETWEEN, ("{0} between {1} and {2}", "{0} above {1} and {2}", "{0} over {1} and {2}")),
        Kind(1, _AMIDST, ("between {0} and {1} is {2}", "between {0} and {1} there is {2}", "between {0} and {1} {verb} {2}")),
    ),
    one=_english_one,
    many=_plural,
    adjectives=("cute", "little", "small", "big", "large", "tiny", "huge", "happy", "funny", "lovely", "beautiful", "old",
                "young", "pretty", "sleepy", "shiny", "cute little", "very big", "simple", "single", "nice", "round", "fluffy",
                "wooden", "adorable", "colorful", "bright", "fresh", "delicious", "cool", "modern", "elegant", "magical",
                "cartoon", "cyberpunk", "neon", "pixel", "kawaii", "realistic"),
    tints={word: rgb for words, (_, rgb) in TINTS.items() for word in words},
    plain={words[0] for words in TINTS if " " not in words[0]},
    tinted=(*12 * ("{tint} {}",), "{tint}-colored {}", "{tint} coloured {}", "{} in {tint}", "{} that is {tint}"),
    two=("{tint} and {hue} {}", "{tint} {hue} {}", "{} in {tint} and {hue}"),
    colours={english: rgb for (english, _), rgb in COLOURS.items()},
    coloured=("{} on a {colour} background", "{} on {colour} background", "{}, {colour} background",
              "{} with a {colour} background", "{} on {colour}", "{colour} background, {}", "background: {colour}, {}",
              "{}, background {colour}", "{} in front of a {colour} background"),
    grounds={
        ("on the grass", "on green grass", "in the grass", "in a green field", "on a meadow"): (150, 205, 110),
        ("in the sky", "in a blue sky", "in the air", "up in the sky"): (150, 205, 250),
        ("in the sea", "in the water", "in the ocean", "by the blue sea"): (60, 140, 215),
        ("at night", "in the night sky", "in the dark", "under a starry sky"): (25, 35, 80),
        ("in the snow", "on white snow", "on ice"): (232, 242, 250),
        ("on the beach", "in the desert", "on the sand", "on yellow sand"): (243, 222, 165),
        ("in the forest", "in the woods", "in the jungle"): (75, 140, 85),
        ("at sunset", "in the evening sun"): (250, 170, 110),
    },
    elsewhere=("on a table", "on a desk", "on a plate", "on a rock", "in a room", "in the kitchen",
               "behind a fence", "in the city", "on the floor", "on the ground", "in a garden", "in the park",
               "on a white background", "on the street"),
    standing=("{} {place}", "{} {place}", "{}, {place}", "{} sitting {place}", "{} standing {place}"),
    at="",
    media=(*3 * ("a picture of {}",), *2 * ("a photo of {}",), *2 * ("an image of {}",), *2 * ("a drawing of {}",),
           *2 * ("an icon of {}",), *2 * ("an emoji of {}",), *2 * ("a picture with {}",), "a drawing with {}",
           "a sticker of {}", "an illustration of {}", "a cartoon of {}", "a painting of {}", "a sketch of {}", "a logo of {}",
           "a watercolor of {}", "a close-up photo of {}", "a close-up of {}", "picture of {}", "photo of {}", "image of {}",
           "drawing of {}", "icon of {}", "a picture that shows {}", "{} icon", "{} emoji", "{} sticker", "app icon, {}",
           "icon: {}"),
    asked=("draw {}", "please draw {}", "draw me {}", "show me {}", "I want {}", "can you draw {}", "generate {}",
           "make {}", "give me {}", "we see {}", "this is {}", "there is {}", "I need {}", "need {}", "I'd like {}",
           "could you make {}", "please make {}", "create {}", "can I have {}"),
    praise=("masterpiece", "best quality", "high quality", "highly detailed", "cute", "4k", "simple", "beautiful", "minimalist",
            "vector art", "icon", "emoji", "clip art", "cartoon", "digital art", "colorful", "sharp", "sticker", "logo",
            "centered", "illustration", "no text", "clean lines", "8k", "award winning", "professional", "detailed",
            "ultra detailed", "solo", "trending on artstation", "vibrant colors", "soft lighting", "3d render", "flat design",
            "high resolution", "hd", "perfect", "sharp focus", "concept art", "hand drawn", "isolated", "glossy", "modern",
            "svg", "ui design", "app icon", "game asset", "pixel art", "low poly", "isometric", "watercolor", "kawaii",
            "cyberpunk", "steampunk", "vaporwave", "neon", "neon lights", "dramatic sky", "studio light", "cinematic lighting",
            "photorealistic", "realistic", "happy birthday", "merry christmas", "good morning", "--ar 1:1", "transparent",
            "trending", "pastel colors", "bold outline", "line art", "vintage", "retro", "anime", "fantasy", "cozy",
            "intricate details", "depth of field", "bokeh", "simple background", "seamless", "app logo",
            "dribbble", "material design", "unreal engine"),
    described=("{things} {verb} {place}", "{things} with a {colour} {part} {verb} {place}", "{things} is shown {place}",
               "{things} in {colour} and {hue} {verb} {place}", "The picture shows {things} {place}",
               "{things} is {adjective} and {tint}", "{things} is {tint}",
               "{things} that is usually {colour} and {hue}", "{things} and its {part} {verb} {place}, near a {other}",
               "{things} {verb} {place} with a {other}", "{things} has a {colour} {part} and a {hue} {part}"),
    parts=("tail", "handle", "neck", "roof", "border", "stripe", "top", "wing", "body", "face", "side", "shape", "ear", "eye",
           "nose", "spot", "collar", "lid", "stem", "beak"),
    verbs=("sits", "stands", "is", "lies", "is placed", "is set", "flies", "rests", "waits"),
    surfaces=("background", "carpet", "floor", "table", "wall", "surface", "rock", "ground"),
    on="on a {colour} {surface}",
    together=" and ",
    comma=", ",
    space=" ",
    stops=(". ",),
    whole=_english_whole,
    spelt=_english_spelt,
))  # fmt: skip
CHINESE = _enriched("zh", Language(
    kinds=(
        Kind(10, _SINGLE, (*20 * ("{0}",), "只有{0}")),
        Kind(2, _SINGLE, ("有{colour}{part}的{0}", "{0}有{colour}的{part}", "{colour}{part}的{0}", "带{colour}{part}的{0}",
                          "{part}是{colour}的{0}")),
        Kind(2, _SINGLE, ("没有{other}的{0}", "不带{other}的{0}", "没戴{other}的{0}", "{0}，没有{other}", "不要{other}，只要{0}")),
        Kind(16, _SIDE_BY_SIDE, (*12 * ("{0}和{1}",), *4 * ("{0}，{1}",), *3 * ("{0}、{1}",), *3 * ("{0}与{1}",), "{0}跟{1}",
                                 "{0}, {1}", "{0} {1}", "{0} {1}", "{0}+{1}", "{0}在{1}旁边", "{0}坐在{1}旁边", "{0}以及{1}",
                                 "有{0}和{1}", "{0}和{1}在一起", "{0}拿着{1}", "{0}追{1}", "{0}吃{1}", "{0}看着{1}",
                                 "{0}抱着{1}", "{0}带着{1}", "{0}{1}", "{0}旁边有{1}", "{0}旁边的{1}", "{0}飞向{1}",
                                 "有{0}的{1}", "{0}喝{1}", "{0}在吃{1}", "{0}读{1}", "{0}弹{1}", "{0}踢{1}", "{0}抱{1}",
                                 "正在吃{0n}的{1}", "拿着{0n}的{1}", "{0}旁边是{1}", "{0}旁边站着{1}", "{0}里有{1}")),
        Kind(4, _SIDE_BY_SIDE, ("{0}在{1}的左边", "{0}在{1}左侧", "左边是{0}，右边是{1}", "{0}在左边，{1}在右边",
                                "{0}的右边有{1}", "{0}右边有{1}", "{0}的右边是{1}", "{0}右边是{1}", "{0}右边站着{1}",
                                "{0}右边停着{1}", "{0}右边的{1}")),
        Kind(4, _EXCHANGED, ("{0}在{1}的右边", "{0}在{1}右侧", "右边是{0}，左边是{1}", "{0}在右边，{1}在左边",
                             "{0}的左边有{1}", "{0}左边有{1}", "{0}的左边是{1}", "{0}左边是{1}", "{0}左边站着{1}",
                             "{0}左边停着{1}", "{0}左边的{1}")),
        Kind(5, _ABOVE, ("{0}在{1}的上面", "{0}在{1}上方", "上面是{0}，下面是{1}", "{0}坐在{1}上", "{0}在{1}后面", "戴{0}的{1}",
                         "戴着{0}的{1}", "{0}下的{1}", "{0}下面的{1}", "{0}下面有{1}", "{0}在{1}上", "{0}骑着{1}", "{0}骑{1}",
                         "{0}的下面是{1}", "{0}的下面有{1}", "{0}的下方是{1}", "{0}站在{1}上")),
        Kind(5, _BELOW, ("{0}在{1}的下面", "{0}在{1}下方", "下面是{0}，上面是{1}", "{0}在{1}前面", "{0}戴着{1}", "{0}上的{1}",
                         "{0}上面的{1}", "{0}上有{1}", "{0}里的{1}", "{0}的上方是{1}", "{0}的上面是{1}", "{0}的上面有{1}",
                         "{0}坐在{1}下", "{0}上坐着{1}")),
        Kind(3, _TWICE, (*5 * ("两{measure}{0s}",), "2{measure}{0s}", "2{0s}", "一对{0s}", "两{measure}可爱的{0s}")),
        Kind(3, _THRICE, (*5 * ("三{measure}{0s}",), "3{measure}{0s}", "3{0s}", "很多{0s}", "几{measure}{0s}", "四{measure}{0s}",
                          "许多{0s}", "一些{0s}", "一群{0s}")),
        Kind(5, _THREE, ("{0}、{1}和{2}", "{0}、{1}和{2}", "{0}，{1}，{2}", "{0}、{1}、{2}", "{0}和{1}和{2}", "{0} {1} {2}",
                         "{0}，{1}和{2}", "{0}和{1}在{2}旁边")),
        Kind(3, _TWO_ABOVE, ("两{measure}{0s}在{1}上面", "两{measure}{0s}和{1}", "两{measure}{0s}和{1}", "两{measure}{0s}，{1}")),
        Kind(2, _TWO_BELOW, ("两{measure}{0s}在{1}下面", "两{measure}{0s}在{1}前面", "两{measure}{0s}之间有{1}",
                             "两{measure}{0s}中间是{1}")),
        Kind(3, _ABOVE_TWO, ("{0}在两{measure}{1s}上面", "{0}和两{measure}{1s}", "{0}和两{measure}{1s}", "{0}，两{measure}{1s}")),
        Kind(1, _BETWEEN, ("{0}在{1}和{2}之间", "{0}在{1}和{2}上面")),
        Kind(1, _AMIDST, ("{0}和{1}之间有{2}", "{0}和{1}中间有{2}", "{0}和{1}之间是{2}", "在{0}和{1}中间的{2}")),
    ),
    one=_chinese_one,
    many=lambda name: name,
    adjectives=("可爱的", "小", "大", "漂亮的", "美丽的", "老", "胖胖的", "有趣的", "圆圆的", "快乐的", "小小的", "巨大的",
                "毛茸茸的", "新鲜的", "美味的", "木头", "彩色的", "明亮的", "可爱的小"),
    tints={f"{word}{of}": rgb for words, rgb in TINTS.values() for word in words for of in _of(word)},
    plain={f"{words[0]}{of}" for words, _ in TINTS.values() if len(words[0]) == 1 for of in _of(words[0])},
    tinted=("{tint}{}",),
    two=("{tint}和{hue}{}", "{tint}{hue}{}", "{tint}{hue}相间的{}"),
    colours={chinese: rgb for (_, chinese), rgb in COLOURS.items()},
    coloured=("{}，{colour}背景", "{colour}背景上的{}", "{}在{colour}背景上", "{colour}背景，{}", "{}，背景是{colour}",
              "背景{colour}，{}"),
    grounds={
        ("在草地上", "在绿色的草地上", "在草坪上", "在田野里"): (150, 205, 110),
        ("在天空中", "在空中", "在蓝天上"): (150, 205, 250),
        ("在海里", "在水里", "在大海上", "在蓝色大海边"): (60, 140, 215),
        ("在夜里", "在夜空中", "在星空下"): (25, 35, 80),
        ("在雪地里", "在雪中", "在冰上"): (232, 242, 250),
        ("在沙滩上", "在沙漠里", "在沙子上"): (243, 222, 165),
        ("在森林里", "在树林里"): (75, 140, 85),
        ("在夕阳下", "在傍晚"): (250, 170, 110),
    },
    elsewhere=("在桌子上", "在盘子里", "在岩石上", "在房间里", "在厨房里", "在城市里", "在地上", "在花园里", "在街上",
               "在白色背景上"),
    standing=("{}{place}", "{}，{place}", "{place}的{}", "{bare}的{}", "{bare}的{}", "{}坐{place}"),
    at="在",
    media=(*3 * ("一张包含{}的图像",), *2 * ("一张{}的图片",), *2 * ("一张{}的图像",), *2 * ("一张{}的照片",), "一幅{}的图画",
           "一幅{}的画", "一张{}的插画", "一个{}的图标", "{}图标", "{}的图标", "{}的图片", "{}的照片", "{}的插画", "{}的表情", "{}的贴纸"),
    asked=("画{}", "请画{}", "给我画{}", "我想要{}", "生成{}", "请生成{}", "帮我画{}", "这里有{}", "这是{}", "来{}", "需要{}", "做{}",
           "请帮我生成{}", "我要{}"),
    praise=("高质量", "杰作", "可爱", "精美", "高清", "图标", "表情符号", "卡通", "插画", "简约", "矢量图", "最佳质量",
            "细节丰富", "色彩鲜艳", "超高清", "扁平化", "极简", "手绘", "贴纸", "标志", "8k", "大师作品", "清晰", "居中",
            "无文字", "专业", "可爱风", "国潮风", "赛博朋克", "霓虹", "像素风", "水彩", "写实", "新年快乐", "生日快乐", "电影感",
            "柔和光线", "中国风", "动漫", "复古", "治愈", "简笔画", "透明背景", "微信表情", "游戏素材"),
    described=("{things}{place}", "{things}，带着{colour}的{part}，{place}", "{things}有{colour}的{part}和{hue}的{part}",
               "{things}立{place}", "{things}是{tint}", "图片里有{things}，{place}", "{things}是{colour}和{hue}的",
               "{things}{place}，旁边有{other}", "{things}，{colour}的{part}，{place}", "{things}坐{place}",
               "{things}是{tint}"),
    parts=("尾巴", "把手", "屋顶", "边", "条纹", "翅膀", "身体", "脸", "外壳", "眼睛", "耳朵", "鼻子", "斑点", "毛"),
    verbs=(),
    surfaces=("背景", "地毯", "地板", "桌子", "墙", "地面"),
    on="在{colour}的{surface}上",
    together="和",
    comma="，",
    space="",
    stops=("。", ". "),
    whole=lambda text: text,
    spelt=lambda text, pick: f"{text}。",
))  # fmt: skip


def is_chinese(text: str) -> bool:
    """Whether there is a Chinese character in it."""
    return any("\u4e00" <= c <= "\u9fff" for c in text)


class Said(NamedTuple):
    """What is said, the RGB that it means to be behind the things, and the RGB that each of them is given,
    None where none is."""

    text: str
    background: RGB
    tints: tuple[RGB | None, ...]


class Painter:
    """Gives things colours by words of `language`, `often` (0..1), and keeps which each was given first. Those whose names
    begin with one have it."""

    def __init__(self, language: Language, things: list[str], never: dict[str, set[RGB]], often: float, pick: random.Random):
        self.language, self.often, self.pick = language, often, pick
        self.words = [[word for word, rgb in language.tints.items() if rgb not in never.get(thing, ())] for thing in things]
        self.plain = [[word for word in words if word in language.plain] for words in self.words]
        self.given: list[str | None] = [None] * len(things)
        self.own = [colour_in(thing, language) for thing in things]

    def named(self, thing: int, noun: str) -> str:
        """The thing's noun, with a colour or without. What has a colour is given no other."""
        pick, given = self.pick, self.given[thing]
        if pick.random() >= (self.often if given is None else REPEATED) or not self.words[thing]:
            return noun
        word = given or pick.choice(self.plain[thing] if self.plain[thing] and pick.random() < PLAIN else self.words[thing])
        if given is None and pick.random() < TWO:
            other = pick.choice(self.words[thing])
            return pick.choice(self.language.two).replace("{tint}", word).replace("{hue}", other).replace("{}", noun)
        self.given[thing] = word
        return pick.choice(self.language.tinted).replace("{tint}", word).replace("{}", noun)

    def apart(self) -> str | None:
        """A colour for the first thing, to be said apart from its noun; None where it cannot be given any, or none shall be."""
        words = [word for word in self.words[0] if self.language.space or word.endswith("色")]
        self.given[0] = self.pick.choice(words) if words and self.often else None
        return self.given[0]

    def word_for_all(self) -> str | None:
        """A colour for all things that have none yet, None where one of them cannot be given it, or none shall be given."""
        word = self.pick.choice(list(self.language.tints))
        if not self.often or not all(word in words for words in self.words):
            return None
        self.given = [given or word for given in self.given]
        return word

    def tints(self) -> tuple[RGB | None, ...]:
        return tuple(own or (given and self.language.tints[given]) for own, given in zip(self.own, self.given))


def without_article(name: str) -> str:
    """The name without the article, or in Chinese the measure word, that it begins with: sentences have their own."""
    article = ARTICLE.match(name)
    return name[article.end() :] if article else name


def colour_in(name: str, language: Language) -> RGB | None:
    """The colour with which a name begins, as "red heart" does; in Chinese only where it ends in 色, for a 黄瓜 is green."""
    name = without_article(name)
    words = (word for word in language.tints if name.startswith(word + language.space) and (language.space or "色" in word))
    return language.tints.get(max(words, key=len, default=""))


def colours_of_others(names: Iterable[str], language: Language) -> dict[str, set[RGB]]:
    """Of things the colours that they cannot be given, since others have those names: of a heart, where there is a red one,
    red; of what has a colour in its name, every one."""
    never: dict[str, set[RGB]] = {}
    for name in map(without_article, names):
        for word, rgb in language.tints.items():
            if name.startswith(word + language.space):
                never.setdefault(name, set()).update(language.tints.values())
                never.setdefault(name.removeprefix(word).strip(), set()).add(rgb)
    return never


def say(
    language: Language,
    sentence: str,
    things: list[str],
    manner: str,
    others: list[str],
    never: dict[str, set[RGB]],
    pick: random.Random,
    tinted: float = TINTED,
) -> Said | None:
    """`sentence` of a kind, about `things`, drawn in a `manner` ("", or what a caption adds to a name),
    as somebody might put it.

    A share `tinted` of the things is given a colour, but `never` one of those. A description may mention one of `others`, which
    is not there. None where a thing has no plural that a rule finds.
    """
    things = [without_article(thing) for thing in things]
    painter = Painter(language, things, never, tinted, pick)
    terse = pick.random() < TERSE
    text = _named(_with_other(sentence, things, others, language, pick), things, painter, terse, others)
    if text is None:
        return None
    if pick.random() < DEPICTED:
        text = pick.choice(language.media).replace("{}", text)
    if terse:
        return Said(text + manner, WHITE, painter.tints())
    background = WHITE
    if placed := pick.random() < PLACED:
        kind = pick.random()
        if kind < 0.4:
            name, background = pick.choice(list(language.colours.items()))
            text = pick.choice(language.coloured).replace("{colour}", name).replace("{}", text)
        elif kind < 0.6:
            text = pick.choice(language.clear).replace("{}", text)
        else:
            place, background = _ground(language, pick)
            standing = pick.choice(language.standing).replace("{bare}", place.removeprefix(language.at))
            text = standing.replace("{place}", place).replace("{}", text)
    text += manner
    if (kind := pick.random()) < ASKED:
        text = pick.choice(language.asked).replace("{}", text)
    elif kind < ASKED + EXPLAINED:
        text = _with_other(pick.choice(language.explained), things, others, language, pick).replace("{}", text)
    if pick.random() < PRAISED:
        words = pick.sample(language.praise, pick.randint(1, 4))
        before = pick.randint(0, len(words)) if pick.random() < 0.5 else 0
        text = language.comma.join([*words[:before], text, *words[before:]])
    if pick.random() < DESCRIBED:
        sentence, behind = _described(things, painter, without_article(pick.choice(others)), not placed)
        text += pick.choice(language.stops) + sentence
        background = background if placed else behind
    if pick.random() < ADDRESSED:
        text = f"{pick.choice(language.heads)}{language.space}{text}"
    if pick.random() < ADDRESSED:
        text = f"{text}{pick.choice((language.comma, *language.stops, ' '))}{pick.choice(language.tails)}"
    if pick.random() < SPELT:
        text = language.spelt(text, pick)
    return Said(text, background, painter.tints())


def _with_other(sentence: str, things: list[str], others: list[str], language: Language, pick: random.Random) -> str:
    """The sentence with a thing that is not there, if it speaks of one."""
    if "{other}" not in sentence:
        return sentence
    other = without_article(pick.choice([name for name in others if name not in things]))
    return sentence.replace("{other}", language.one(other, pick) if pick.random() < 0.5 else other)


def _named(sentence: str, things: list[str], painter: Painter, terse: bool, names: list[str]) -> str | None:
    """The sentence about the things; None where one of them has no plural that a rule finds, or one that is among `names`, as
    glasses are no two glasses, or cannot be given the colour that the sentence says."""
    language, pick = painter.language, painter.pick
    bare = terse or pick.random() < BARE
    if says_tint := "{tint}" in sentence:
        if (word := painter.apart()) is None:
            return None
        sentence = sentence.replace("{tint}", word)
    for i, thing in enumerate(things):
        words = [pick.choice(language.adjectives)] if not terse and pick.random() < ADJECTIVE else []
        for slot in sorted(set(re.findall(f"{{{i}[sn]?}}", sentence))):
            noun = language.many(thing) if slot.endswith("s}") else thing
            if noun is None or (noun != thing and noun in names):
                return None
            named = language.space.join([*words, noun if says_tint else painter.named(i, noun)])
            sentence = sentence.replace(slot, named if bare or slot != f"{{{i}}}" else language.one(named, pick))
    return _filled(sentence, language, pick)


def _filled(sentence: str, language: Language, pick: random.Random) -> str:
    """The sentence with the parts of things, and all else that says nothing of what is there, chosen."""
    words = {"part": language.parts, "adjective": language.adjectives, "verb": language.verbs}
    words |= dict.fromkeys(("colour", "hue"), tuple(language.colours)) | {"measure": MEASURES}
    return re.sub("{(part|adjective|verb|colour|hue|measure)}", lambda blank: pick.choice(words[blank[1]]), sentence)


def _described(things: list[str], painter: Painter, other: str, placing: bool) -> tuple[str, RGB]:
    """A sentence about things that were named already, and the colour behind them; only if `placing` may it give them one."""
    language, pick = painter.language, painter.pick
    sentence, background = pick.choice(language.described), WHITE
    if "{tint}" in sentence and (word := painter.word_for_all()) is not None:
        sentence = sentence.replace("{tint}", word)
    elif "{tint}" in sentence:
        sentence = "{things}"
    named = language.together.join(language.one(painter.named(i, thing), pick) for i, thing in enumerate(things))
    if "{place}" in sentence:
        place = pick.choice(language.elsewhere)
        if placing and (kind := pick.random()) < 0.6:
            if kind < 0.3:
                place, background = _ground(language, pick)
            else:
                name, background = pick.choice(list(language.colours.items()))
                place = language.on.replace("{colour}", name).replace("{surface}", pick.choice(language.surfaces))
        sentence = sentence.replace("{place}", place)
    sentence = _filled(sentence, language, pick).replace("{other}", other).replace("{things}", named)
    return language.whole(sentence), background


def _ground(language: Language, pick: random.Random) -> tuple[str, RGB]:
    places, colour = pick.choice(list(language.grounds.items()))
    return pick.choice(places), colour
