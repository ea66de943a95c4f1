"""Scenes made of a folder's own pictures: one to three things on one canvas, and the sentence that says where each is.

A folder of single things teaches no composition. Where each picture shows one thing and says so in a word or two, sentences
over several of them can be written without end, and the pictures pasted together as they say: copy-paste (Ghiasi et al.
2021, arXiv 2012.07177) with captions. English and Chinese names are understood.
"""

import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .folder import Example

MAX_THINGS = 3
HELD_OUT = 0.05  # share of all pairs of things that never meet in a scene to train on
STYLED = 0.25  # share of the scenes that name a style,
COLOURED = 0.3  # and of those that name the background's colour
WHITE = (255, 255, 255)
COLOURS = {  # English and Chinese name -> RGB
    ("red", "红色"): (229, 72, 77), ("orange", "橙色"): (247, 140, 50), ("yellow", "黄色"): (255, 214, 72),
    ("green", "绿色"): (92, 178, 92), ("light green", "浅绿色"): (190, 230, 180), ("blue", "蓝色"): (66, 133, 244),
    ("light blue", "浅蓝色"): (178, 216, 250), ("purple", "紫色"): (142, 95, 200), ("pink", "粉色"): (250, 180, 205),
    ("brown", "棕色"): (140, 95, 65), ("grey", "灰色"): (150, 150, 155), ("black", "黑色"): (25, 25, 28),
    ("white", "白色"): WHITE, ("dark blue", "深蓝色"): (30, 50, 110), ("cream", "米色"): (250, 240, 215),
}  # fmt: skip


class Box(NamedTuple):
    """A square on the canvas: its centre and its side, of a canvas of side 1, from the top left."""

    x: float
    y: float
    size: float


class Thing(NamedTuple):
    """`caption` is a training caption of the thing alone; `box` is where it stands."""

    caption: str
    box: Box


class Scene(NamedTuple):
    """What is said, the things in the order in which they are named, and the RGB of the background."""

    text: str
    things: tuple[Thing, ...]
    background: tuple[int, int, int] = WHITE


WHOLE = Box(0.5, 0.5, 1.0)
LEFT, RIGHT, TOP, BOTTOM = Box(0.25, 0.5, 0.5), Box(0.75, 0.5, 0.5), Box(0.5, 0.25, 0.5), Box(0.5, 0.75, 0.5)
TOP_LEFT, TOP_RIGHT = Box(0.25, 0.25, 0.5), Box(0.75, 0.25, 0.5)
BOTTOM_LEFT, BOTTOM_RIGHT = Box(0.25, 0.75, 0.5), Box(0.75, 0.75, 0.5)

# {0}, {1}, {2} are things, {0s} is the first in the plural; the boxes are in the order of mention.
_ENGLISH = (
    (4, ((0, WHOLE),), ("{0}", "a picture of {0}", "an image of {0}", "a drawing with {0}")),
    (6, ((0, LEFT), (1, RIGHT)), ("{0} and {1}", "{0} with {1}", "{0} next to {1}", "{0} beside {1}", "a picture with {0} and {1}",
                                  "a picture of {0} and {1}", "{0} and {1} side by side")),
    (3, ((0, LEFT), (1, RIGHT)), ("{0} left of {1}", "{0} to the left of {1}", "{0} on the left, {1} on the right")),
    (3, ((0, RIGHT), (1, LEFT)), ("{0} right of {1}", "{0} to the right of {1}", "{0} on the right, {1} on the left")),
    (4, ((0, TOP), (1, BOTTOM)), ("{0} above {1}", "{0} over {1}", "{0} on top of {1}", "{0} at the top, {1} at the bottom")),
    (4, ((0, BOTTOM), (1, TOP)), ("{0} below {1}", "{0} under {1}", "{0} beneath {1}")),
    (2, ((0, LEFT), (0, RIGHT)), ("two {0s}", "a pair of {0s}", "a picture of two {0s}")),
    (2, ((0, TOP_LEFT), (0, TOP_RIGHT), (0, BOTTOM)), ("three {0s}", "a picture of three {0s}")),
    (3, ((0, TOP_LEFT), (1, TOP_RIGHT), (2, BOTTOM)), ("{0}, {1} and {2}", "{0}, {1}, {2}", "{0} and {1} above {2}",
                                                       "a picture with {0}, {1} and {2}")),
    (2, ((0, TOP_LEFT), (0, TOP_RIGHT), (1, BOTTOM)), ("two {0s} above {1}", "two {0s} over {1}", "two {0s} and {1}")),
    (2, ((0, BOTTOM_LEFT), (0, BOTTOM_RIGHT), (1, TOP)), ("two {0s} below {1}", "two {0s} under {1}")),
    (2, ((0, TOP), (1, BOTTOM_LEFT), (1, BOTTOM_RIGHT)), ("{0} above two {1s}", "{0} and two {1s}")),
)  # fmt: skip
_CHINESE = (
    (4, ((0, WHOLE),), ("{0}", "一张{0}的图像", "一张包含{0}的图像", "一幅{0}的图画")),
    (6, ((0, LEFT), (1, RIGHT)), ("{0}和{1}", "{0}与{1}", "{0}跟{1}", "一张包含{0}和{1}的图像", "{0}在{1}旁边", "一张{0}和{1}的图片")),
    (3, ((0, LEFT), (1, RIGHT)), ("{0}在{1}的左边", "{0}在{1}左侧", "左边是{0}，右边是{1}")),
    (3, ((0, RIGHT), (1, LEFT)), ("{0}在{1}的右边", "{0}在{1}右侧", "右边是{0}，左边是{1}")),
    (4, ((0, TOP), (1, BOTTOM)), ("{0}在{1}的上面", "{0}在{1}上方", "上面是{0}，下面是{1}")),
    (4, ((0, BOTTOM), (1, TOP)), ("{0}在{1}的下面", "{0}在{1}下方", "下面是{0}，上面是{1}")),
    (2, ((0, LEFT), (0, RIGHT)), ("两个{0s}", "一张包含两个{0s}的图像")),
    (2, ((0, TOP_LEFT), (0, TOP_RIGHT), (0, BOTTOM)), ("三个{0s}", "一张包含三个{0s}的图像")),
    (3, ((0, TOP_LEFT), (1, TOP_RIGHT), (2, BOTTOM)), ("{0}、{1}和{2}", "{0}，{1}，{2}", "一张包含{0}、{1}和{2}的图像")),
    (2, ((0, TOP_LEFT), (0, TOP_RIGHT), (1, BOTTOM)), ("两个{0s}在{1}上面", "两个{0s}和{1}")),
    (2, ((0, BOTTOM_LEFT), (0, BOTTOM_RIGHT), (1, TOP)), ("两个{0s}在{1}下面",)),
    (2, ((0, TOP), (1, BOTTOM_LEFT), (1, BOTTOM_RIGHT)), ("{0}在两个{1s}上面", "{0}和两个{1s}")),
)  # fmt: skip


def compose(examples: list[Example], count: int, seed: int = 0, held_out: bool = False) -> list[Scene]:
    """`count` scenes of the things in `examples`, half of them in Chinese where there are Chinese names; none twice.

    Pairs of things that `is_held_out` appear in no scene, or with `held_out` make up all of them, in two-thing scenes. The
    same for the same examples and seed. Raises ValueError where there are fewer than ten things with names to compose.
    """
    pick = random.Random(seed)
    names: dict[bool, dict[str, dict[str, str]]] = {False: {}, True: {}}  # by language: name -> style -> styled caption
    for example in examples:
        for name in example.captions:
            known = names[_is_chinese(name)].setdefault(name, {})
            known.update({example.style: text for text in example.styled if text.startswith(name) and example.style})
    languages = [language for language in names if len(names[language]) >= 10]
    if not languages:
        raise ValueError("Scenes need ten things or more, each with a short English or Chinese name as its caption.")
    ordered = {language: sorted(names[language]) for language in languages}
    kinds = {language: _CHINESE if language else _ENGLISH for language in languages}
    scenes: dict[str, Scene] = {}
    for attempt in range(50 * count):
        if len(scenes) == count:
            break
        chinese = languages[attempt % len(languages)]
        weights = [weight if not held_out or len(places) == 2 else 0 for weight, places, _ in kinds[chinese]]
        _, places, sentences = pick.choices(kinds[chinese], weights)[0]
        things = pick.sample(ordered[chinese], 1 + max(place for place, _ in places))
        styles = sorted(set.intersection(*(set(names[chinese][thing]) for thing in things)))
        apart = [is_held_out(a, b) for i, a in enumerate(things) for b in things[:i]]
        if any(apart) != held_out or (held_out and len(things) < 2):
            continue
        sentence = pick.choice(sentences)
        text, captions = _say(sentence, things, chinese, pick), things
        if text is None:
            continue
        background = WHITE
        if pick.random() < COLOURED:
            (english, name), background = pick.choice(list(COLOURS.items()))
            text = pick.choice((f"{text}，{name}背景", f"{name}背景上的{text}") if chinese else
                               (f"{text} on a {english} background", f"{text}, {english} background"))  # fmt: skip
        if styles and pick.random() < STYLED:
            style = pick.choice(styles)
            captions = [names[chinese][thing][style] for thing in things]
            text += captions[0].removeprefix(things[0])
        scenes[text] = Scene(text, tuple(Thing(captions[i], box) for i, box in places), background)
    return list(scenes.values())


def paste(pictures: Tensor, opacity: Tensor, boxes: Tensor, background: Tensor) -> Tensor:
    """Pictures on white, uint8 [M,3,R,R], and their opacity, uint8 [M,1,R,R], in boxes [M,3] on a background [3] in -1..1:
    the scene [3,R,R] in -1..1. Later pictures cover earlier ones."""
    size = pictures.shape[-1]
    scene = background[:, None, None].repeat(1, size, size)
    for picture, (x, y, side) in zip(torch.cat([pictures, opacity], 1)[:, None], boxes.mul(size).tolist()):
        side = max(round(side), 1)
        picture = picture.float().div(127.5).sub(1)
        if side != size:
            picture = F.interpolate(picture, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        left, top = (min(max(round(centre - side / 2), 0), size - side) for centre in (x, y))
        under = scene[:, top : top + side, left : left + side]
        # What is p on white is p - (1 - a)(1 - c) on c; the opacity, too, is in -1..1 here.
        under.copy_(picture[0, :3] - (1 - picture[0, 3:]) / 2 * (1 - under))
    return scene


def is_held_out(one: str, other: str) -> bool:
    """Whether two things are kept from meeting in training; a hash of their names decides."""
    pair = "/".join(sorted((one, other)))
    return int.from_bytes(hashlib.sha256(f"scene/{pair}".encode()).digest()[:7], "big") < HELD_OUT * 2**56


def _is_chinese(text: str) -> bool:
    return any("\u4e00" <= c <= "\u9fff" for c in text)


def _say(sentence: str, things: list[str], chinese: bool, pick: random.Random) -> str | None:
    """The sentence about the things; None where one of them has no plural that a rule finds."""
    bare = pick.random() < 0.3  # people leave articles out
    one: Callable[[str], str] = _chinese_one(pick) if chinese else _english_one
    for i, thing in enumerate(things):
        if f"{{{i}s}}" in sentence:
            plural = thing if chinese else _plural(thing)
            if plural is None:
                return None
            sentence = sentence.replace(f"{{{i}s}}", plural)
        sentence = sentence.replace(f"{{{i}}}", thing if bare else one(thing))
    return sentence


def _english_one(name: str) -> str:
    if name.endswith("s") and not name.endswith("ss") or not name[0].isalpha():
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _chinese_one(pick: random.Random) -> Callable[[str], str]:
    measure = pick.choice(("一个", "一只", "", ""))
    return lambda name: measure + name


def _plural(name: str) -> str | None:
    if not name.replace(" ", "").isalpha() or name.count(" ") > 1 or name.endswith("s"):
        return None
    if name.endswith(("ch", "sh", "x", "z")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2] not in "aeiou" else f"{name}s"
