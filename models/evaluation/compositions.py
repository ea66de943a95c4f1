"""Does a scene show both things that the prompt names, each where it says, and in the colour that it says? Asked of pairs that
training kept apart."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.folder import Example
from ..data.scenes import Scene, paste
from ..data.sentences import TINTS
from ..layout import Layout
from ..tint import main_colour
from .metrics import concept_ranks
from .questions import script_of

NEAR = 0.125  # of the canvas: a thing's centre so far from where it should be still stands in its place
SAME = 0.2  # in -1..1: a background whose channels differ so much still has the colour that was named


def pictures_of(scenes: list[Scene], examples: list[Example]) -> list[list[int]]:
    """For every scene a training picture of each of its things: those whose caption the thing has, in turn."""
    meant: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        if example.split == "train":
            for text in {*example.captions, *example.styled}:
                meant.setdefault(text, []).append(i)
    return [[meant[t.caption][k % len(meant[t.caption])] for t in scene.things] for k, scene in enumerate(scenes)]


def real_scenes(scenes: list[Scene], members: list[list[int]], pictures: Tensor, opacity: Tensor) -> Tensor:
    """The scenes as real pictures show them, uint8 [N,3,R,R]."""
    drawn = []
    for scene, shown in zip(scenes, members):
        boxes = torch.tensor([thing.box for thing in scene.things])
        layout = Layout.stack([(boxes[:, :0], boxes, torch.tensor(scene.background).div(127.5).sub(1))])
        drawn.append(paste(pictures[shown][None], opacity[shown][None], layout))
    return torch.cat(drawn).add(1).mul(127.5).round().clamp(0, 255).byte()


def crops(scenes: list[Scene], drawn: Tensor) -> Tensor:
    """What stands in each box of the scenes drawn, uint8 [N,C,R,R], at full size: uint8 [all things,C,R,R]."""
    size, parts = drawn.shape[-1], []
    for scene, picture in zip(scenes, drawn):
        for x, y, side in (t.box for t in scene.things):
            left, top, side = (round(value * size) for value in (x - side / 2, y - side / 2, side))
            part = picture[None, :, top : top + side, left : left + side].float()
            parts.append(F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False).round().byte())
    return torch.cat(parts)


def read_right(scenes: list[Scene], layout: Layout) -> dict[str, float]:
    """For each script the share of the sentences in which as many things are read as there are, each where it stands, and the
    colour behind them. `layout` [N] is what was read in them."""
    right: dict[str, list[bool]] = {}
    for scene, boxes, there, background in zip(scenes, layout.boxes.cpu(), layout.there.cpu(), layout.background.cpu()):
        said = torch.tensor([thing.box for thing in scene.things])
        colour = torch.tensor(scene.background).div(127.5).sub(1)
        right.setdefault(script_of(scene.text), []).append(
            int(there.sum()) == len(said)
            and bool((boxes[: len(said)] - said).abs().max() <= NEAR)
            and bool((background - colour).abs().max() <= SAME)
        )
    return {script: sum(own) / len(own) for script, own in right.items()}


def judge_scenes(
    scenes: list[Scene], members: list[list[int]], found: Tensor, real: Tensor, concepts: Tensor
) -> dict[str, dict[str, float]]:
    """Figures of two-thing scenes for each script: how often both things are the concept nearest to their crop (`both@1`), or
    among the ten nearest (`both@10`), and how often the crops fit their own places better than exchanged (`relation`).

    found [2N,D] are the features of the crops; real [P,D] and concepts [P] those of the real pictures.
    """
    wanted, asked = concepts[torch.tensor(members)], torch.tensor(members)
    known = concepts >= 0
    position = torch.cumsum(known, 0) - 1
    ranks = concept_ranks(found, real[known], concepts[known], wanted.flatten(), position[asked.flatten()]).view(-1, 2)
    centres = torch.stack([real[concepts == c].mean(0) for c in wanted.flatten().tolist()])
    own, others = (F.normalize(x, dim=1).unflatten(0, (-1, 2)) for x in (found, centres))
    similar = own @ others.transpose(1, 2)
    placed = similar[:, 0, 0] + similar[:, 1, 1] > similar[:, 0, 1] + similar[:, 1, 0]
    figures = {}
    told = (ranks > 0).all(1) & (wanted[:, 0] != wanted[:, 1])
    scripts = [script_of(scene.text) for scene in scenes]
    for script in sorted(set(scripts), key=lambda s: (s != "Latin", s)):
        rows = told & torch.tensor([s == script for s in scripts])
        if rows.any():
            figures[script] = {
                "both@1": (ranks[rows] == 1).all(1).double().mean().item(),
                "both@10": (ranks[rows] <= 10).all(1).double().mean().item(),
                "relation": placed[rows].double().mean().item(),
                "n": int(rows.sum()),
            }
    return figures


def judge_colours(scenes: list[Scene], things: Tensor) -> dict[str, dict[str, float]]:
    """Figures of the things that are given a colour, for each script: how often that is the one, of all of TINTS, that is
    nearest to most of the thing (`right`), and of how many. things are uint8 [all things,4,R,R], colour and opacity,
    scene by scene."""
    palette = torch.tensor([rgb for _, rgb in TINTS.values()]) / 255
    found = main_colour(things[:, :3] / 255, things[:, 3:] / 255)[:, :, 0, 0]
    nearest = torch.cdist(found, palette).argmin(1)
    right: dict[str, list[bool]] = {}
    said = ((script_of(scene.text), thing.tint) for scene in scenes for thing in scene.things)
    for (script, tint), own in zip(said, palette[nearest]):
        if tint is not None:
            right.setdefault(script, []).append(torch.equal(own, torch.tensor(tint) / 255))
    return {script: {"right": sum(own) / len(own), "n": len(own)} for script, own in right.items()}
