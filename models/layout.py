"""What a prompt says of several things: what each of them is, where it stands, and on which background.

Everything that draws one thing (memory, style, sketch) then draws each of them in its own box, and the convolutions of the
generator see one canvas. BlobGAN (Epstein et al. 2022, arXiv 2205.02837) composes a scene from blobs with styles of their
own in this way; there the layout comes from noise, here from the prompt, and is learnt from prompts alone.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, unrounded
from .memory import normal
from .tuples import each

TERRITORY = 4.0  # how steeply a thing's influence falls: at its neighbour's centre nothing is left of it
WHITE = 1.0
READER_LAYERS, READER_HEADS = 2, 4


class Layout(NamedTuple):
    """Of M things the pooled vectors [B,M,P], as of prompts of each alone, and the boxes [B,M,3] (centre x and y, side, on a
    canvas of side 1, y downwards); which of them are there [B,M]; the background's colour [B,3] in -1..1; and how far each
    thing is given a colour, 0..1, and which, in -1..1 [B,M,4], None where none is."""

    pooled: Tensor
    boxes: Tensor
    there: Tensor
    background: Tensor
    tints: Tensor | None = None

    @classmethod
    def whole(cls, pooled: Tensor) -> "Layout":
        """Of each prompt [B,P] one thing that fills the canvas, on white."""
        boxes = torch.full((len(pooled), 1, 3), 0.5, device=pooled.device)
        boxes[:, :, 2] = 1
        there = torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device)
        return cls(pooled[:, None], boxes, there, torch.full((len(pooled), 3), WHITE, device=pooled.device))

    @classmethod
    def stack(cls, rows: Sequence[tuple[Tensor, ...]], least: int = 1) -> "Layout":
        """Pooled vectors [M,P] and boxes [M,3] of things, a background [3], and where things are given colours those [M,4], for
        each row: one layout, with room for the most things, and at the `least` for so many."""
        pooled, boxes, backgrounds, *tints = zip(*rows)
        there = torch.arange(max(least, *map(len, boxes))) < torch.tensor([[len(own)] for own in boxes])
        pooled, boxes = (torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=0.5) for own in (pooled, boxes))
        pooled, boxes = (F.pad(x, (0, 0, 0, there.shape[1] - x.shape[1]), value=0.5) for x in (pooled, boxes))
        tints = [F.pad(own, (0, 0, 0, there.shape[1] - len(own))) for own in chain.from_iterable(tints)]
        return cls(pooled, boxes, there, torch.stack(backgrounds), torch.stack(tints) if tints else None)

    def to(self, device: torch.device | str) -> "Layout":
        return each(lambda x: x.to(device, non_blocking=True), self)

    def trimmed(self) -> "Layout":
        """Without the places that are empty in every row, and the colours if no row gives any."""
        most = 1 if self.single else int(self.there.sum(1).max())
        tints = None if self.tints is None or not self.tints[:, :, 0].any() else self.tints[:, :most]
        return Layout(self.pooled[:, :most], self.boxes[:, :most], self.there[:, :most], self.background, tints)

    @property
    def single(self) -> bool:
        return self.boxes.shape[1] == 1

    def territories(self, resolution: int) -> Tensor:
        """How much each thing has of each pixel [B,M,R,R], summing to 1 over the things: its nearest box has a pixel."""
        centres = (torch.arange(resolution, device=self.boxes.device) + 0.5) / resolution
        x, y, size = self.boxes.float().unbind(2)
        across = ((centres - x[..., None]) / size[..., None].clamp(min=1e-3) * 2).square()
        down = ((centres - y[..., None]) / size[..., None].clamp(min=1e-3) * 2).square()
        distance = across[:, :, None, :] + down[:, :, :, None]
        return (-TERRITORY * distance).masked_fill(~self.there[:, :, None, None], -torch.inf).softmax(1)

    @unrounded
    def place(self, features: Tensor, resolution: int) -> Tensor:
        """Each thing's features [B,M,C,H,W], as if it filled the canvas -> those of the scene [B,C,R,R]; zero around boxes."""
        batch, things, channels = features.shape[:3]
        x, y, size = self.boxes.float().unbind(2)
        zoom = 1 / size.clamp(min=1e-3)
        zero = torch.zeros_like(zoom)
        rows = torch.stack([zoom, zero, (1 - 2 * x) * zoom, zero, zoom, (1 - 2 * y) * zoom], 2).view(-1, 2, 3)
        grid = F.affine_grid(rows, [batch * things, channels, resolution, resolution], align_corners=False)
        # In fp32: in fp16 the places themselves would be rounded, as autocast would round the grid.
        placed = F.grid_sample(features.flatten(0, 1).float(), grid, align_corners=False).unflatten(0, (batch, things))
        return (placed * self.there[:, :, None, None, None]).sum(1).to(features.dtype)

    @unrounded
    def cut(self, images: Tensor, resolution: int) -> Tensor:
        """The inverse of `place`: of images [B,C,H,W] what stands in each box [B,M,C,R,R], the border repeated around them."""
        x, y, size = self.boxes.float().unbind(2)
        zero = torch.zeros_like(size)
        rows = torch.stack([size, zero, 2 * x - 1, zero, size, 2 * y - 1], 2).view(-1, 2, 3)
        batch, things = size.shape
        grid = F.affine_grid(rows, [batch * things, images.shape[1], resolution, resolution], align_corners=False)
        repeated = images.float().repeat_interleave(things, 0)
        found = F.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
        return found.unflatten(0, (batch, things)).to(images.dtype)


class LayoutReader(nn.Module):
    """(tokens [B,T,token_dim], pooled [B,pooled_dim], mask [B,T]) -> what is said of each thing.

    M + 1 learned queries stand among the tokens of a small transformer, one for each thing in the order of mention and one
    for the scene, as DETR's object queries do (Carion et al. 2020, arXiv 2005.12872). Each thing's query then points at the
    words that name it (pointer networks, Vinyals et al. 2015, arXiv 1506.03134): from their states comes the pooled vector
    that a prompt of that thing alone would have, or where it is all that the prompt names the prompt's own. It points at the
    words that give it a colour in the same way.
    """

    def __init__(self, config):
        super().__init__()
        width = config.text_dim
        self.things = config.things
        self.from_tokens = Linear(config.token_dim, width)
        self.from_pooled = Linear(config.pooled_dim, width)
        self.queries = normal(config.things + 1, width, std=1)
        layer = nn.TransformerEncoderLayer(width, READER_HEADS, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, READER_LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)
        self.point = Linear(width, width)
        read = config.token_dim + width
        self.to_pooled = nn.Sequential(Linear(read, 2 * width), nn.GELU(), Linear(2 * width, config.pooled_dim))
        self.words_to_pooled = Linear(config.token_dim, config.pooled_dim)
        self.to_own = Linear(width, 1)
        self.to_boxes = Linear(width, 3 * config.things)  # one for each number of things that there may be
        self.to_count = Linear(width, config.things)
        self.to_background = Linear(width, 4)  # whether it has a colour, and which
        self.tints = config.tints
        if self.tints:
            self.point_at_tint = Linear(width, width)
            self.to_tint = nn.Sequential(Linear(read, width), nn.GELU(), Linear(width, 1 + self.tints))  # none, or which of
            self.register_buffer("palette", torch.zeros(self.tints, 3))  # RGB in -1..1

    @unrounded
    def forward(self, tokens: Tensor, pooled: Tensor, mask: Tensor) -> "Reading":
        batch, length = mask.shape
        x = self.from_tokens(tokens) + _positions(length, self.queries.shape[1], tokens)
        x = torch.cat([self.queries.expand(batch, -1, -1), self.from_pooled(pooled)[:, None], x], 1)
        before = x.shape[1] - length
        for layer in self.layers.layers:  # on a GPU without torch's fused layer, whose tanh GELU would move every thing
            layer.activation_relu_or_gelu = 2 if x.device.type == "cpu" else 0
        x = self.layers(x, src_key_padding_mask=~F.pad(mask, (before, 0), value=True))
        things, scene, words = x[:, : self.things], x[:, self.things], x[:, before:]

        def pointed_at(point: Linear) -> Tensor:
            pointer = point(things) @ words.transpose(1, 2) * words.shape[2] ** -0.5
            return torch.cat([pointer.masked_fill(~mask[:, None], -torch.inf).softmax(2) @ tokens, things], 2)

        named = pointed_at(self.point)
        found = self.words_to_pooled(named[:, :, : tokens.shape[2]]) + self.to_pooled(named)
        coloured, colour = self.to_background(scene).float().split((1, 3), 1)
        return Reading(
            torch.lerp(pooled[:, None].expand_as(found), found, self.to_own(things).sigmoid()),
            self.to_boxes(things).float().sigmoid().unflatten(2, (self.things, 3)).transpose(1, 2),
            self.to_count(scene).float(),
            coloured[:, 0],
            colour.tanh(),
            self.to_tint(pointed_at(self.point_at_tint)).float() if self.tints else None,
            self.palette.float() if self.tints else None,
        )


class Reading(NamedTuple):
    """What `LayoutReader` reads: of each thing the pooled vector [B,M,P] and the box if there are 1 to M things [B,M,M,3],
    logits of those numbers [B,M] and of the background's being coloured [B], and in which colour [B,3]; and of each thing the
    logits of being given no colour or one of K [B,M,1+K], which are the palette [K,3] (None from a reader that looks for
    none)."""

    pooled: Tensor
    boxes: Tensor
    counts: Tensor
    coloured: Tensor
    colour: Tensor
    tints: Tensor | None
    palette: Tensor | None

    def layout(self) -> Layout:
        """The likeliest."""
        rows, last = torch.arange(len(self.counts), device=self.counts.device), self.counts.argmax(1)
        there = torch.arange(self.counts.shape[1], device=self.counts.device) <= last[:, None]
        background = torch.where(self.coloured[:, None] > 0, self.colour, WHITE)
        tints = None
        if self.tints is not None:
            likeliest = self.tints.argmax(2)
            given = there & (likeliest > 0)
            tints = torch.cat([given[:, :, None], self.palette[(likeliest - 1).clamp(min=0)]], 2)
        centre, side = self.boxes[rows, last].split((2, 1), 2)
        alone = (last == 0)[:, None, None]  # which has the whole canvas, as where all things are
        boxes = torch.cat([torch.where(alone, 0.5, centre), torch.where(alone, 1.0, side)], 2)
        return Layout(self.pooled, boxes, there, background, tints)


def _positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions [T,D] (Vaswani et al. 2017, arXiv 1706.03762, §3.5)."""
    place = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float32) * (-9.21 / width))
    return torch.cat([(place * rate).sin(), (place * rate).cos()], 1).to(like.dtype)
