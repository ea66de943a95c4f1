"""What the generator remembers of its training captions: for each concept a code and a sketch, found by content."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .derived import Derived
from .linear import Linear, few, product, unrounded

CERTAINTY = 6.0  # times a concept's logarithmic weight,
CHOICE = 3.0  # and times z's word for it, which is as loud as N(0,1): a name stays what it is, equals are told apart
KNOWN = 0.5  # of the weight on one concept: its own captions find it with 0.6 to 1, most other names with less
SHOWN_BEFORE = 1e-3  # of a look that another folder taught: z does not pick it any more, and a prompt still may
VALUES = ("codes", "shared", "looks")  # of each concept
SHARPNESS = 16.0  # β: one concept's own captions find it with nine tenths of the weight, among a thousand others


def normal(*shape: int, std: float) -> nn.Parameter:
    """A weight ~ N(0, std²)."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape), std=std))


class ConceptMemory(nn.Module):
    """K concepts, each with a key [P], a code [D], a sketch [C,R,R] that its looks share and one [C',R,R] for each look.

    Read by softmax(β cos(W·pooled, keys)) · values, the retrieval of a modern Hopfield network (Ramsauer et al. 2020,
    arXiv 2008.02217, eq. 3). A decoder alone must write every concept over all the others in the same weights, which takes
    hundreds of exposures; a row of the memory belongs to one concept, and learns its shapes in a dozen. A prompt that
    was never trained on reads a blend of the concepts nearest to it.
    """

    def __init__(self, config):
        super().__init__()
        size = config.sketch_resolution
        self.query = Linear(config.pooled_dim, config.pooled_dim, bias=False)
        self.keys = normal(config.concepts, config.pooled_dim, std=1)
        self.codes = normal(config.concepts, config.text_dim, std=0.5)
        self.shared = normal(config.concepts, config.sketch_channels, size, size, std=0.5)
        # Zero, so that a look never seen for a concept adds nothing to what its other looks share.
        self.looks = nn.Parameter(torch.zeros(config.concepts, config.looks, config.look_channels, size, size))
        if config.shown:  # which looks each concept was shown in: 1, or SHOWN_BEFORE, or 0
            self.register_buffer("shown", torch.ones(config.concepts, config.looks))
        self._choices = Derived(lambda keys: choices(len(keys), config.z_dim, config.looks).to(keys.device))
        self._directions = Derived(lambda keys: F.normalize(keys.float(), dim=1).t())
        self._read = Derived(lambda *rows: [product(part.flatten(1).t()) for part in rows])

    @unrounded
    def forward(self, pooled: Tensor) -> Tensor:
        """pooled [...,P] -> the weight of every concept [...,K], summing to 1."""
        similarity = F.normalize(self.query(pooled.to(self.keys.dtype)).float(), dim=-1) @ self._directions(self.keys)
        return (SHARPNESS * similarity).softmax(-1)

    @unrounded
    def choose(self, concepts: Tensor, z: Tensor, choice: Tensor | None = None, decision: float = 1.0) -> Tensor:
        """Weights of concepts [B,M,K] and z [B,z_dim] -> weights [B,M,K] that lie for the most part on one of those concepts,
        or as far as `choice` [B] says: at 0 they stay as they are.

        softmax(d (6 log w + 3 z·r)) with a random direction r for each concept and the `decision` d: close to the Gumbel-max
        trick (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030), d the inverse of its temperature, but smooth in z, so that a
        walk through z glides from one to the next.
        """
        word = z.float() @ self._choices(self.keys).t()
        far = torch.ones(len(z), device=z.device) if choice is None else choice
        certainty, loud = (1 + (decision * CERTAINTY - 1) * far)[:, None, None], (decision * CHOICE * far)[:, None, None]
        return (certainty * concepts.clamp(min=1e-12).log() + loud * word[:, None]).softmax(-1)

    @torch.no_grad()
    def chances(self, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What `choose` makes of some `rows` [n] for a pooled vector [P]: logits a [n] and directions b [n,z_dim], on the CPU.
        The row of the largest a + b·z is the one that it chooses among them."""
        weights = self(pooled.to(self.keys.device)).cpu()[rows]
        return CERTAINTY * weights.clamp(min=1e-12).log(), CHOICE * self._choices(self.keys).cpu()[rows]

    @torch.no_grad()
    def rows_of(self, pooled: Tensor, groups: list[list[int]]) -> list[int]:
        """Which row the captions of each group (rows of pooled [M,P]) find."""
        return [int(self(pooled[captions].to(self.keys.device)).sum(0).argmax()) for captions in groups]

    @torch.no_grad()
    def make_room(self, pooled: Tensor, groups: list[list[int]]) -> int:
        """Add a row for every group of captions (rows of pooled [M,P]) that has none -> how many. A group has the row that it
        finds with more than KNOWN of the weight, unless another group finds that more surely.

        A new row begins as the blend that its captions found, so that they are drawn as before until they learn.
        """
        pooled = pooled.to(self.keys.device)
        found = torch.stack([self(pooled[captions]).mean(0) for captions in groups])
        weight, row = found.max(1)
        surest: dict[int, int] = {}  # of each row the group that finds it so; one, also where two find it alike
        for group in weight.argsort(descending=True, stable=True).tolist():
            surest.setdefault(int(row[group]), group)
        known = {group for group in surest.values() if weight[group] > KNOWN}
        unknown = [group for group in range(len(groups)) if group not in known]
        new, blends = [groups[group] for group in unknown], found[unknown]
        if not new:
            return 0
        keys = torch.stack([F.normalize(self.query(pooled[captions]), dim=1).mean(0) for captions in new])
        added = {"keys": keys} | {name: blends @ getattr(self, name).flatten(1) for name in VALUES}
        for name, rows in added.items():
            weight = getattr(self, name)
            setattr(self, name, nn.Parameter(torch.cat([weight, rows.view(-1, *weight.shape[1:])])))
        if hasattr(self, "shown"):
            self.shown = torch.cat([self.shown, self.shown.new_zeros(len(new), self.shown.shape[1])])
        return len(new)

    @torch.no_grad()
    def lend_looks(self) -> None:
        """Give each concept, in the looks that it was never shown in, the sketch of the one it was shown in that is most like
        each: over the concepts shown in both, of the least mean squared difference. A prompt that asks for such a look is then
        drawn in shapes which pictures have taught, and has the asked look's style all the same."""
        shown, looks = (self.shown > 0).float(), self.looks.flatten(2).float()
        seen, both = looks * shown[:, :, None], shown.t() @ shown
        energy = seen.square().sum(2).t() @ shown
        apart = (energy + energy.t() - 2 * torch.einsum("kax,kbx->ab", seen, seen)) / both.clamp(min=1)
        apart = apart.masked_fill(both == 0, torch.finfo(apart.dtype).max)  # as far as can be, and still there
        lender = torch.where(shown[:, None] > 0, apart, torch.inf).argmin(2)  # for each concept and look [K,L]
        own = (shown > 0) | ~shown.any(1, keepdim=True)
        lender = torch.where(own, torch.arange(shown.shape[1], device=shown.device), lender)
        self.looks.copy_(self.looks.gather(1, lender[:, :, None, None, None].expand_as(self.looks)))

    def sketch(self, concepts: Tensor, looks: Tensor) -> Tensor:
        """Weights of concepts [...,K] and of looks [...,L] -> features [...,C,R,R], the shared ones first."""
        concepts, looks = concepts.to(self.shared.dtype), looks.to(self.shared.dtype)
        shared, own = self._blend(concepts, self.shared, self.looks)
        own = torch.einsum("...l,...lx->...x", looks, own.unflatten(-1, (looks.shape[-1], -1)))
        return torch.cat([shared, own], -1).unflatten(-1, (-1, *self.shared.shape[2:]))

    def _blend(self, concepts: Tensor, *rows: Tensor) -> list[Tensor]:
        """Weights of concepts [...,K] and the rows [K,...] of each -> their sums [...,·], flat."""
        if few(concepts, rows[0]) and None not in (fast := self._read(*rows)):
            return [read(concepts) for read in fast]
        return [concepts @ part.flatten(1) for part in rows]

    @torch.no_grad()
    def remember(self, pooled: Tensor, groups: list[list[int]]) -> None:
        """Set the keys: one for each group of captions (rows of pooled [M,P]) that mean the same, and was shown in no look yet.

        The query is the linear map that brings the captions of a group together, against how they scatter within it
        (Fisher's discriminant, shrunk): languages and style words then count for less than what is drawn.
        """
        pooled = pooled.double()
        apart = torch.cat([pooled[rows] - pooled[rows].mean(0) for rows in groups])
        scatter = apart.t() @ apart / len(apart)
        level = scatter.diagonal().mean().clamp(min=1e-3)
        values, vectors = torch.linalg.eigh(0.8 * scatter + 0.2 * level * torch.eye(len(scatter), dtype=torch.float64))
        query = (vectors * values.rsqrt()).t()
        self.query.weight.copy_(query / query.norm(dim=1).mean())
        self.keys.copy_(torch.stack([F.normalize(pooled[rows] @ query.t(), dim=1).mean(0) for rows in groups]))
        if hasattr(self, "shown"):
            self.shown.zero_()


def choices(concepts: int, z_dim: int, looks: int) -> Tensor:
    """For each concept a unit vector [K,z_dim] across the entries of z that pick no look; the same on every machine."""
    # A seed that nobody draws z from: z would lie in the very direction of a concept.
    found = torch.randn(concepts, z_dim, generator=torch.Generator().manual_seed(int.from_bytes(b"concepts", "big")))
    found[:, :looks] = 0
    return F.normalize(found, dim=1)
