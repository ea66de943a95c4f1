"""A conditional GAN as one object: the condition's normalisation, the generator F and its discriminator D.

`generate` is z = F(y) and `score` is D(z): pure functions of their arguments, on whatever device and dtype the weights have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .condition import Condition, Recipe
from .discriminator import Discriminator, DiscriminatorConfig
from .encoder import Encoder
from .generator import Generator, GeneratorConfig, Text
from .layout import Layout
from .linear import without_tf32
from .pictures import from_network, to_network, white_where_clear
from .recorded import Recordings
from .tuples import each

CACHED = 2**24  # bytes of one layer's activations that stay in a CPU's cache: pictures drawn by more at once take longer each
PINNED = 2**28  # bytes of results that a GPU may write to by itself: such memory is never given back to the system
RECORDED = 2**27  # bytes of them up to which a GPU draws a recording: with more, asking for its kernels is not what takes time
MOST_PSI = 2.0  # truncation, beyond which nothing is drawn that anybody would want
TOKENS = 8  # a GPU's prompts are padded to multiples of so many, which makes fewer kinds of recording
FITTED = 2**14  # tokens at a time of which the mean and deviation are taken
OTHERS = "it draws, walks, mixes and scores; for all else take a GAN that LLM-GAN trained."
FLAT = 1e-3  # a deviation, of standardised states, in which captions do not differ
STATE_BOUND = 8.0  # normalised states beyond this many deviations are outliers of single dimensions, not meaning


class ConditionNorm(nn.Module):
    """Raw language-model states -> what the networks read: z-scored tokens, whitened pooled vector.

    Hidden states need it: one dimension of Gemma's carries up to 93 % of the energy, and standardised pooled states tell
    concepts apart a third as well as whitened ones. The statistics are those of the training captions and travel with the
    weights, so that raw conditions can be cached and shared between GANs.
    """

    def __init__(self, token_dim: int, pooled_dim: int):
        super().__init__()
        self.register_buffer("token_mean", torch.zeros(token_dim))
        self.register_buffer("token_std", torch.ones(token_dim))
        self.register_buffer("pooled_mean", torch.zeros(token_dim))
        # Not torch.eye: on the meta device, where checkpoints build it, that imports the compiler, which takes seconds.
        self.register_buffer("whitening", torch.zeros(token_dim, pooled_dim).fill_diagonal_(1))

    @torch.no_grad()
    def fit(self, tokens: Tensor, pooled: Tensor) -> None:
        """Take the statistics of raw tokens [N,C] and pooled [B,C], which should be those of all the training captions."""
        parts = tokens.split(FITTED)  # all in double precision would be four times what they are
        mean = sum(part.double().sum(0) for part in parts) / len(tokens)
        variance = sum((part.double() - mean).square().sum(0) for part in parts) / len(tokens)
        self.token_mean.copy_(mean)
        self.token_std.copy_(variance.sqrt().clamp(min=1e-6))
        pooled = pooled.double()
        mean = pooled.mean(0)
        # PCA whitening after z-scoring: without it the loudest dimensions would be the only components.
        std = pooled.std(0, correction=0).clamp(min=1e-6)
        standard = (pooled - mean) / std
        _, values, vectors = torch.linalg.svd(standard, full_matrices=False)
        deviations = values / len(pooled) ** 0.5
        # Of few captions the last component is what rounding left: whitened, it would shout over all others in a new prompt.
        rank = min(self.whitening.shape[1], int((deviations > FLAT).sum()))
        self.pooled_mean.copy_(mean)
        self.whitening.zero_()
        self.whitening[:, :rank] = vectors[:rank].t() / std[:, None] / deviations[:rank]

    def forward(self, tokens: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B,T,C], pooled [B,C], raw -> tokens [B,T,C], pooled [B,P] in about -8..8, fp32."""
        tokens = (tokens.float() - self.token_mean.float()) / self.token_std.float()
        pooled = (pooled.float() - self.pooled_mean.float()) @ self.whitening.float()
        return tokens.clamp(-STATE_BOUND, STATE_BOUND), pooled.clamp(-STATE_BOUND, STATE_BOUND)


@dataclass
class Latent:
    """What N pictures are drawn from, with any prompt: z gives the picture, the shifts what is edited in it. fp32, on the CPU.

    z [N,z_dim]. styles [N,num_styles,style_dim] and looks [N,L], the logits of the looks (L = 0 without a memory of concepts),
    are those of the thing that the prompt names first, as drawn, shifts and all; None where nothing was drawn yet. style_shift
    [N,M,num_styles,style_dim], look_shift [N,M,L] and sketch_shift [N,M,C,R,R] are added to the styles, to the logits of the
    look that the sketch has, and to the sketch, that z and the prompt give; None where nothing is. M is 1, for every thing
    alike, or counts things. background [N,4] and tints [N,M,4] take the place of the prompt's where they are more than 0: how
    far the background, or a thing, is given a colour, 0..1, and which RGB, in -1..1 and times that, so that what lies between
    two latents is the sum of their shares.
    prompts: of how many they were drawn, prompt by prompt, as many of each; a choice among them is no longer of those.
    """

    z: Tensor
    styles: Tensor | None = None
    looks: Tensor | None = None
    style_shift: Tensor | None = None
    look_shift: Tensor | None = None
    sketch_shift: Tensor | None = None
    background: Tensor | None = None
    tints: Tensor | None = None
    prompts: int = 1

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Latent":
        """The rows at `index`: the batch stays a dimension."""
        return Latent(**{name: tensor[index] for name, tensor in self.tensors().items()})

    def prompt_of(self, row: int) -> int:
        """Of which of its prompts a row was drawn."""
        return row // (len(self) // self.prompts)

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {name: tensor for name in LATENT_DIMENSIONS if (tensor := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Tensor | int]:
        """All of it as plain data."""
        return {**self.tensors(), "prompts": self.prompts}

    @classmethod
    def from_dict(cls, values: dict[str, Tensor | int]) -> "Latent":
        """The inverse of `to_dict`; z alone is enough, and a background [N,3] is one of every latent. ValueError, in one
        sentence, for anything that is not a latent."""
        prompts = values.get("prompts", 1)
        values = {name: tensor for name, tensor in values.items() if name in LATENT_DIMENSIONS}
        if "z" not in values:
            raise ValueError("This latent holds no z: connect the latent output of a node of LLM-GAN.")
        for name, tensor in values.items():
            if tensor.ndim != LATENT_DIMENSIONS[name] or len(tensor) != len(values["z"]):
                raise ValueError(f"The {name} of this latent has shape {list(tensor.shape)}, which does not fit its z.")
        if not isinstance(prompts, int) or prompts < 1 or len(values["z"]) % prompts:
            raise ValueError(f"This latent says that it is of {prompts} prompts, which does not fit its z.")
        parts = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in values.items()}
        if "background" in parts and parts["background"].shape[1] == 3:
            parts["background"] = F.pad(parts["background"], (1, 0), value=1.0)
        return cls(**parts, prompts=prompts)


# Of each part of a latent.
LATENT_DIMENSIONS = {
    "z": 2, "styles": 3, "looks": 2, "style_shift": 4, "look_shift": 3, "sketch_shift": 5, "background": 2, "tints": 3,
}  # fmt: skip


class Scores(NamedTuple):
    """One number a picture, more is better: realism never sees the prompt, alignment is the match with it (zero without
    one), total is their sum. All [N], fp32 on the CPU."""

    realism: Tensor
    alignment: Tensor

    @property
    def total(self) -> Tensor:
        return self.realism + self.alignment

    def best(self, count: int) -> Tensor:
        """Indices of the `count` highest totals, best first."""
        return self.total.argsort(descending=True, stable=True)[:count]


@dataclass
class Card:
    """What a checkpoint says of itself; nothing here changes what the networks compute."""

    name: str = "untitled"
    data: str = ""  # what it was trained on
    licenses: list[str] = field(default_factory=list)
    images_seen: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)  # a few that show what it can do


class AnyGAN(nn.Module):
    """What all GANs have in common, our own and published ones: a generator, a discriminator (None in a checkpoint shipped
    without), an encoder of pictures where one was trained, and the recipe of the conditions that they read."""

    published = False  # whether others trained it

    def __init__(self, generator: nn.Module, discriminator: nn.Module | None, recipe: Recipe, card: Card | None = None):
        super().__init__()
        self.recipe = recipe
        self.card = card or Card()
        self.generator = generator
        self.discriminator = discriminator
        self.encoder: Encoder | None = None

    @property
    def resolution(self) -> int:
        return self.generator.config.resolution

    @property
    def dtype(self) -> torch.dtype:
        return self.generator.dtype

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    def rows_at_once(self, wish: int | None, drawing: bool = False) -> int:
        """How many rows to run at a time: as many as are wished for, or as a GPU or a CPU is fast with; a CPU draws no more
        than its cache holds."""
        if self.device.type != "cpu":
            return wish or 64
        return min(wish or 16, self.at_once) if drawing else wish or 16

    @property
    def at_once(self) -> int:
        """How many pictures a CPU draws at once and still holds in its cache."""
        return max(CACHED // (self.generator.widest * self.dtype.itemsize), 1)

    def check(self, condition: Condition) -> None:
        """ValueError, saying what to change, if this GAN cannot read `condition`."""
        width = condition.tokens.shape[-1]
        if condition.recipe is not None:
            difference = self.recipe.difference(condition.recipe)
            if difference:
                raise ValueError(difference)
        if width != self.recipe.width or condition.pooled.shape[-1] != self.recipe.width:
            raise ValueError(
                f"The GAN {self.card.name} reads conditions {self.recipe.width} wide, from {self.recipe.model}; this one is "
                f"{width} wide: encode the prompt with {self.recipe.model}."
            )

    def latent_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each part of a latent the shape of a row; () where this GAN has no such part."""
        styles = (self.generator.num_styles, self.generator.style_dim)
        shapes = {"z": (self.generator.config.z_dim,), "styles": styles, "style_shift": styles, "looks": (0,)}
        return dict.fromkeys(LATENT_DIMENSIONS, ()) | shapes

    def check_latent(self, latent: Latent) -> None:
        """ValueError, saying what to change, if this GAN cannot draw from `latent`."""
        expected = self.latent_shapes()
        for name, tensor in latent.tensors().items():
            own = tuple(tensor.shape[tensor.ndim - len(expected[name]) :])
            if name in ("background", "tints") and not expected[name]:
                raise ValueError(f"The GAN {self.card.name} cannot be told colours: take one trained with scenes.")
            if own != expected[name] or not expected[name]:
                raise ValueError(
                    f"This latent is of another GAN: its {name} has shape {list(tensor.shape)}, which {self.card.name} cannot "
                    "draw. Load the GAN that it was made with, or take a latent of this one."
                )

    def _check_drawing(self, condition: Condition, latent: Latent, psi: float) -> None:
        """ValueError, saying what to change, unless there are pictures to draw, and each has a prompt and a latent."""
        self.check(condition)
        self.check_latent(latent)
        if not 0 <= psi <= MOST_PSI:
            raise ValueError(f"A truncation of {psi:g}: give from 0, all alike, over 1 to {MOST_PSI:g}.")
        if len(condition) != len(latent):
            raise ValueError(f"{len(condition)} prompts and {len(latent)} latents: give one prompt for each latent.")
        if not len(latent):
            raise ValueError("There is nothing to draw: give one latent or more.")

    def _check_scoring(self, images: Tensor, condition: Condition | None) -> None:
        """ValueError, saying what to change, unless there is a discriminator, and a prompt for all images or for each."""
        if self.discriminator is None:
            raise ValueError(f"The GAN {self.card.name} was saved without its discriminator: score with one that has it.")
        if condition is not None:
            self.check(condition)
            if len(condition) not in (1, len(images)):
                raise ValueError(
                    f"{len(images)} images and {len(condition)} prompts: give one prompt, or one for each image."
                )

    def sample_z(self, seed: int, count: int) -> Tensor:
        """z [count,z_dim] ~ N(0,I), fp32 on the CPU: one seed gives the same row i on every machine, whatever `count`."""
        generator = torch.Generator("cpu").manual_seed(seed)
        z = torch.empty(count, self.generator.config.z_dim)
        for row in z:
            row.normal_(generator=generator)
        return z


def check_ours(gan: AnyGAN) -> None:
    """ValueError unless `gan` is one that LLM-GAN trained, whose prompts, looks and layouts the work goes on with."""
    if gan.published:
        raise ValueError(f"The GAN {gan.card.name} was published by others: {OTHERS}")


class GAN(AnyGAN):
    """Generator, discriminator and normalisation, built from their configs."""

    def __init__(
        self, generator: GeneratorConfig, discriminator: DiscriminatorConfig | None, recipe: Recipe, card: Card | None = None
    ):
        judge = None if discriminator is None else Discriminator(discriminator)
        super().__init__(Generator(generator), judge, recipe, card)
        self.condition_norm = ConditionNorm(generator.token_dim, generator.pooled_dim)
        self.recordings = Recordings()
        self._known: tuple | None = None  # the state of the weights, what was told, and what was read in it
        self.eval()

    def latent_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.generator.config
        channels, side = config.sketch_channels + config.look_channels, config.sketch_resolution
        return super().latent_shapes() | {
            "looks": (config.looks if config.concepts else 0,),
            "look_shift": (config.looks,) if config.concepts else (),
            "sketch_shift": (channels, side, side) if config.concepts else (),
            "background": (4,) if config.things else (),
            "tints": (4,) if config.things else (),
        }

    def read(self, condition: Condition) -> Text:
        """What the generator reads in `condition`, which must be on its device."""
        text = self.generator.read(*self.condition_norm(condition.tokens, condition.pooled), condition.mask)
        return text._replace(choice=condition.choice)

    def _run(self, work: Callable[..., tuple], *inputs: Tensor | None, **settings) -> tuple[Tensor, ...]:
        """`work` on the tensors, recorded where a GPU takes less time for it than Python to ask for its kernels."""
        small = len(inputs[0]) * self.generator.widest * self.dtype.itemsize <= RECORDED
        return self.recordings.run(work, *inputs, **settings) if small else work(*inputs, **settings)

    def _lay_out(self, tokens: Tensor, pooled: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Raw tokens [B,T,C], pooled [B,C], mask [B,T] -> tokens and pooled normalised, and the parts of the layout."""
        tokens, pooled = self.condition_norm(tokens, pooled)
        layout = self.generator.lay_out(tokens, pooled, mask)
        return tokens, pooled, *(x for x in layout if x is not None)

    def _understand(self, tokens: Tensor, pooled: Tensor, mask: Tensor, *layout: Tensor | None) -> tuple[Tensor, ...]:
        """What the generator reads in them, the layout apart."""
        return tuple(x for x in self.generator.read(tokens, pooled, mask, Layout(*layout))[:5] if x is not None)

    def _text(self, condition: Condition, state: tuple | None) -> Text:
        """What the generator reads in `condition`, without its choice. What was read last is kept, as long as the weights are
        in their `state`: of the same prompts another picture is drawn, most of the time."""
        told = condition.tokens, condition.pooled, condition.mask
        known = self._known
        if known is not None and state is not None and known[0] == state and all(map(torch.equal, known[1], told)):
            return known[2]
        placed = condition
        if self.device.type == "cuda":  # fewer lengths, fewer kinds of recording
            placed = condition.padded(-(-condition.tokens.shape[1] // TOKENS) * TOKENS)
        placed = placed.to(self.device)
        tokens, pooled, *layout = self._run(self._lay_out, placed.tokens, placed.pooled, placed.mask)
        with torch.inference_mode(False), torch.no_grad():  # ordinary tensors serve within inference mode and outside of it
            layout = each(torch.clone, Layout(*layout).trimmed())  # what a recording gave may be overwritten by the next one
            read = self._run(self._understand, tokens, pooled, placed.mask, *layout)
            text = Text(*map(torch.clone, read), *(None,) * (5 - len(read)), layout)
            self._known = state, tuple(x.clone() for x in told), text
        return text

    def _render(self, z, psi, tokens, mask, vector, concepts, looks, choice, *rest, transparent: bool) -> tuple[Tensor, ...]:
        """Images [B,R,R,3 or 4] in 0..1, and of the first thing the styles and the looks, fp32."""
        *layout, style_shift, look_shift, sketch_shift = rest
        text = Text(tokens, mask, vector, concepts, looks, Layout(*layout), choice)
        code = self.generator.code(z, text, psi, look_shift).shifted(style_shift, sketch_shift)
        if transparent:
            rgb, opacity = self.generator.render(code, text)
            images = white_where_clear(torch.cat([from_network(rgb), opacity.permute(0, 2, 3, 1)], 3))
        else:
            images = from_network(self.generator.synthesize(code, text))
        first = code.styles.new_zeros(len(images), 0) if code.looks is None else code.looks[:, 0]
        return images, code.styles[:, 0].float(), first.float()

    @torch.no_grad()
    @without_tf32()
    def generate(
        self,
        condition: Condition,
        latent: Latent | Tensor,
        truncation_psi: float = 1.0,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        transparent: bool = False,
    ) -> tuple[Tensor, Latent]:
        """condition [N], latent [N] or its z [N,z_dim] -> images [N,R,R,3] in 0..1, fp32 on the CPU, and the latent as drawn.

        `transparent` leaves the background out: the images are [N,R,R,4], colour, white where nothing shows, and opacity. Runs
        at most `batch_size` at a time (as many as are fast on the device), on a CPU no more than its cache holds; what does not
        fit the device's memory is tried again in halves. `progress(done, total)` is called after every part and may raise to
        stop. Raises ValueError where condition, latent, truncation or `transparent` does not fit, or there is nothing to draw.
        """
        if isinstance(latent, Tensor):
            latent = Latent(latent)
        self._check_drawing(condition, latent, truncation_psi)
        if transparent and not self.generator.config.things:
            raise ValueError(
                f"The GAN {self.card.name} draws its background too: for transparent pictures take one trained with scenes."
            )
        psi = torch.tensor(float(truncation_psi), device=self.device)  # as a tensor, for a recording to take any
        state = self.recordings.follow(self.condition_norm, self.generator)

        def draw(rows: slice) -> tuple[Tensor, ...]:
            part, source = condition[rows].to("cpu"), {n: x.to(self.device) for n, x in latent[rows].tensors().items()}
            read, where = part.distinct()
            text = self._text(read, state)
            if len(read) < len(part):
                where = where.to(self.device)
                text = each(lambda x: x[where], text)
            if "background" in source:
                share, colour = source["background"].split((1, 3), 1)
                text = text.on(colour + (1 - share) * text.layout.background)
            if "tints" in source:
                text = text.painted(source["tints"])
            choice = None if part.choice is None else part.choice.to(self.device)
            shifts = (source.get(f"{part}_shift") for part in ("style", "look", "sketch"))
            return self._run(self._render, source["z"], psi, *text[:5], choice, *text.layout, *shifts, transparent=transparent)

        size = self.rows_at_once(batch_size, drawing=True)
        images, styles, looks = in_parts(draw, len(latent), size, progress, self.recordings.forget)
        z = latent.z.float().cpu()
        return images, replace(latent, z=z, styles=styles, looks=looks)

    @torch.no_grad()
    @without_tf32()
    def score(
        self,
        images: Tensor,
        condition: Condition | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Scores:
        """images [N,H,W,3] in 0..1, any size, those that are not square centred on white; condition [N], [1] for all, or
        None for realism alone -> Scores [N].

        Raises ValueError if this GAN has no discriminator or the counts do not fit.
        """
        self._check_scoring(images, condition)

        def judge(rows: slice) -> tuple[Tensor, Tensor]:
            x = to_network(images[rows].to(self.device), self.resolution)
            if condition is None:
                text = x.new_zeros(len(x), self.generator.config.pooled_dim)
            else:
                part = (condition[rows] if len(condition) > 1 else condition).to(self.device)
                text = self.condition_norm(part.tokens, part.pooled)[1].expand(len(x), -1)
            realism, alignment = self.discriminator(x.to(self.dtype), text.to(self.dtype))
            if condition is None:
                alignment = torch.zeros_like(alignment)
            return realism.float(), alignment.float()

        return Scores(*in_parts(judge, len(images), self.rows_at_once(batch_size), progress, self.recordings.forget))


def in_parts(
    work: Callable[[slice], tuple[Tensor, ...]],
    total: int,
    size: int,
    progress: Callable[[int, int], None] | None,
    make_room: Callable[[], None],
) -> list[Tensor]:
    """`work` on at most `size` of `total` rows at a time, its results joined on the CPU; in halves, once there is room made,
    where memory runs out."""
    results, start = [], 0
    while start < total:
        stop = min(start + size, total)
        try:
            part = work(slice(start, stop))
            results = results or [_room(total, x) for x in part]
            for whole, x in zip(results, part):
                whole[start:stop].copy_(x)
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size = (stop - start + 1) // 2
            make_room()
            torch.cuda.empty_cache()
            continue
        start = stop
        if progress is not None:
            progress(stop, total)
    return results


def _room(total: int, like: Tensor) -> Tensor:
    """For `total` rows, on the CPU; where they come from a GPU in memory that it writes to by itself,
    unless they are very many."""
    shape = total, *like.shape[1:]
    pinned = like.device.type == "cuda" and like[:1].nbytes * total <= PINNED
    return torch.empty(shape, dtype=like.dtype, pin_memory=pinned)
