"""Scenes made of a folder's own pictures: one to three things on one canvas, and the sentence that says where each is.

A folder of single things teaches no composition. Where each picture shows one thing and says so in a word or two, sentences
over several of them can be written without end, and the pictures pasted together as they say: copy-paste (Ghiasi et al.
2021, arXiv 2012.07177) with captions. English and Chinese names are understood.
"""

import hashlib
import random
from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import Layout
from .folder import Example
from .sentences import CHINESE, ENGLISH, RGB, TINTED, WHITE, Box, Language, colours_of_others, is_chinese, say

MAX_THINGS = 3
HELD_OUT = 0.05  # share of all pairs of things that never meet in a scene to train on
STYLED = 0.25  # share of the scenes that name a style
COMMON = 0.5  # that are of common things: of the tenth with the shortest names, and kinds whose names are as short,
RELATED = 0.3  # and of things that have a keyword in common, which are named together and seldom are one
KIND = 0.15  # share of the things that are of a kind: named by a word with which names end, as "evergreen tree" does
FEWEST = 10  # names to compose of
MOST_WORDS = 8  # of a name in English,
MOST_CHARACTERS = 14  # and of one in Chinese: what is longer describes a picture


class Thing(NamedTuple):
    """`caption` is a caption of the thing alone; `box` is where it stands; `tint` the RGB that it is given, None: its own."""

    caption: str
    box: Box
    tint: RGB | None = None


class Scene(NamedTuple):
    """What is said, the things in the order in which they are named, and the RGB of the background."""

    text: str
    things: tuple[Thing, ...]
    background: RGB = WHITE


def compose(
    examples: list[Example], count: int, seed: int = 0, held_out: bool = False, tinted: float = TINTED
) -> list[Scene]:
    """`count` scenes of the things in `examples`, half of them in Chinese where there are Chinese names; none twice.

    Pairs of things that `is_held_out` appear in no scene, or with `held_out` make up all of them, in two-thing scenes. A share
    `tinted` of the things is given a colour. Captions that are no names are left out. The same for the same arguments. Raises
    ValueError where there are fewer than ten things with names to compose.
    """
    pick = random.Random(seed)
    vocabularies = _vocabularies(examples)
    if not vocabularies:
        raise ValueError(
            "Scenes need ten things or more, each with a short English or Chinese name as a caption: at most"
            f" {MOST_WORDS} words or {MOST_CHARACTERS} Chinese characters, without a comma or a full stop."
        )
    if held_out:  # any two, but of things that have pictures of their own to compare with
        vocabularies = [
            known._replace(common=[name for name in known.common if name in known.styled], groups=[], kinds=[])
            for known in vocabularies
        ]
    scenes: dict[str, Scene] = {}
    for attempt in range(50 * count):
        if len(scenes) == count:
            break
        known = vocabularies[attempt % len(vocabularies)]
        weights = [kind.weight if not held_out or len(kind.places) == 2 else 0 for kind in known.language.kinds]
        _, places, sentences = pick.choices(known.language.kinds, weights)[0]
        needed = 1 + max(place for place, _ in places)
        among = known.common if pick.random() < COMMON else known.names
        if known.groups and pick.random() < RELATED:
            among = pick.choice(known.groups)
        things = pick.sample(among, min(needed, len(among)))
        if known.kinds:
            things = [pick.choice(known.kinds) if pick.random() < KIND else thing for thing in things]
        if len(set(things)) < needed:
            continue
        apart = [is_held_out(a, b) for i, a in enumerate(things) for b in things[:i]]
        if any(apart) != held_out or (held_out and needed < 2):
            continue
        styles = sorted(set.intersection(*(set(known.styled.get(thing, {})) for thing in things)))
        captions, manner = things, ""
        if styles and pick.random() < STYLED:
            style = pick.choice(styles)
            captions = [known.styled[thing][style] for thing in things]
            manner = captions[0].removeprefix(things[0])
        said = say(known.language, pick.choice(sentences), things, manner, known.names, known.never, pick, tinted)
        if said is not None:
            shown = tuple(Thing(captions[i], box, said.tints[i]) for i, box in places)
            scenes[said.text] = Scene(said.text, shown, said.background)
    return list(scenes.values())


class Vocabulary(NamedTuple):
    """What the names in a folder say in one language."""

    language: Language
    styled: dict[str, dict[str, str]]  # of each name the captions that name a style, by style
    names: list[str]
    common: list[str]  # those of common things, and kinds whose names are as short
    groups: list[list[str]]  # names that have a keyword in common
    kinds: list[str]  # what names end with
    never: dict[str, set[RGB]]  # colours that things cannot be given, for they would be others


def _vocabularies(examples: list[Example]) -> list[Vocabulary]:
    """Those in English and in Chinese, as far as there are names enough."""
    found = []
    for language in (ENGLISH, CHINESE):
        styled: dict[str, dict[str, str]] = {}
        related: dict[str, set[str]] = {}
        for example in examples:
            for name in example.captions:
                if is_chinese(name) == (language is CHINESE) and is_name(name):
                    looks = {example.style: text for text in example.styled if text.startswith(name) and example.style}
                    styled.setdefault(name, {}).update(looks)
                    for keyword in example.keywords:
                        related.setdefault(keyword, set()).add(name)
        names = sorted(styled)
        if len(names) >= FEWEST:
            common = sorted(names, key=len)[: max(len(names) // 10, FEWEST)]
            groups = [sorted(group) for _, group in sorted(related.items()) if len(group) > 1]
            # What names end with: keywords, and where the language parts words by spaces those with which several do.
            endings = Counter(name[i:] for name in names for i in range(1, len(name)) if name[:i].endswith(language.space))
            words = {word for word, count in endings.items() if language.space and count > 1 and word.isalpha()}
            made_of = language.words | language.tints.keys()  # "left" is none of them
            kinds = sorted(endings.keys() & (related.keys() | words) - styled.keys() - made_of)
            common += [kind for kind in kinds if len(kind) <= len(common[-1]) and kind.isalpha()]
            found.append(Vocabulary(language, styled, names, common, groups, kinds, colours_of_others(names, language)))
    return found


def is_name(caption: str) -> bool:
    """Whether it is short enough to be named in a sentence, and none itself: "a shiny car, by night." would spoil any other."""
    if any(mark in caption for mark in ",;，、；。") or caption.endswith("."):  # "mrs. claus" is a name
        return False
    return len(caption) <= MOST_CHARACTERS if is_chinese(caption) else len(caption.split()) <= MOST_WORDS


def paste(pictures: Tensor, opacity: Tensor, layout: Layout) -> Tensor:
    """Pictures on white, uint8 [B,M,3,R,R], and their opacity, uint8 [B,M,1,R,R], where `layout` has them: scenes [B,3,R,R] in
    -1..1, on the device of the pictures. Later pictures cover earlier ones."""
    size, device = pictures.shape[-1], pictures.device
    ink = torch.cat([255 - pictures, opacity], 2)  # nothing around a picture is none of it
    placed = torch.zeros(ink.shape, device=device)
    x, y, side = layout.boxes.mul(size).unbind(2)
    side = side.round().clamp(min=1)
    left, top = (torch.minimum((centre - side / 2).round().clamp(min=0), size - side).long() for centre in (x, y))
    for length in side[layout.there].unique().int().tolist():
        found = ((side == length) & layout.there).nonzero(as_tuple=True)
        rows, columns, own = (v.to(device) for v in (top[found], left[found], torch.stack(found)))
        shrunk = ink[own[0], own[1]].float() / 255
        if length != size:
            shrunk = F.interpolate(shrunk, size=(length, length), mode="bilinear", antialias=True, align_corners=False)
        reach = torch.arange(length, device=device)
        rows, columns = (rows[:, None] + reach)[:, :, None], (columns[:, None] + reach)[:, None]
        placed[own[0][:, None, None], own[1][:, None, None], :, rows, columns] = shrunk.permute(0, 2, 3, 1)
    dark = 1 - layout.background.to(device)[:, :, None, None]
    for thing in placed.unbind(1):  # 1 - p on white is 1 - p + (1 - a)(1 - c) on c
        dark = 2 * thing[:, :3] + (1 - thing[:, 3:]) * dark
    return 1 - dark


def is_held_out(one: str, other: str) -> bool:
    """Whether two things are kept from meeting in training; a hash of their names decides."""
    pair = "/".join(sorted((one, other)))
    return int.from_bytes(hashlib.sha256(f"scene/{pair}".encode()).digest()[:7], "big") < HELD_OUT * 2**56
