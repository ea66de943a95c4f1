"""The figures, as pure functions of features [N,D], embeddings and similarities. Nothing here is random unless seeded."""

from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DISTRACTORS = 99  # of R-precision
NEIGHBOURS = 3  # k of improved precision and recall


def kid(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of a [N,D] and b [M,D] under the kernel (x·y/D + 1)³, the unbiased estimate.

    Bińkowski et al. 2018, arXiv 1801.01401, eq. 4. Its mean is 0 where both have one distribution, so that it may be negative.
    """
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.t() / x.shape[1] + 1) ** 3

    def apart(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return (apart(a) + apart(b) - 2 * kernel(a, b).mean()).item()


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> float:
    """Mean 1-Wasserstein distance of a [N,D] and b [N,D] along random directions (Rabin et al. 2012; Bonneel et al. 2015)."""
    directions = torch.randn(a.shape[1], projections, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions = F.normalize(directions, dim=0)
    return (((a.double() @ directions).sort(0).values - (b.double() @ directions).sort(0).values).abs().mean()).item()


def precision_recall(fake: Tensor, real: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of fake [N,D] within the real manifold, and of real [M,D] within the fake one.

    A manifold is the union of balls around its samples, each reaching its k-th nearest neighbour
    (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1-2).
    """

    def radii(x: Tensor) -> Tensor:
        return _distances(x, x).kthvalue(k + 1, dim=1).values  # the nearest one is the sample itself

    between = _distances(fake, real)
    precision = (between <= radii(real)[None]).any(1).double().mean()
    recall = (between <= radii(fake)[:, None]).any(0).double().mean()
    return precision.item(), recall.item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="use_mm_for_euclid_dist")


class RPrecision(NamedTuple):
    value: float
    distractors: int  # the fewest that a picture had
    n: int


def r_precision(similarity: Tensor, rivals: Tensor, distractors: int = DISTRACTORS) -> RPrecision | None:
    """Probability that a picture's own caption beats `distractors` others, drawn without replacement from its rivals.

    similarity [N,N] of pictures (rows) and captions, the own one on the diagonal; rivals bool [N,N], the captions that
    would be wrong. The mean over all draws in closed form, rather than one draw (Xu et al. 2018, arXiv 1711.10485, draw
    once); a tie is lost. A picture with fewer rivals meets them all; one without any is left out. None if all are.
    """
    rivals = rivals.clone().fill_diagonal_(False)
    own = similarity.diagonal()[:, None]
    have = rivals.sum(1)
    better = ((similarity >= own) & rivals).sum(1)
    better, have = better[have > 0].double(), have[have > 0].double()
    if not len(have):
        return None
    drawn = have.clamp(max=distractors)
    # C(have - better, drawn) / C(have, drawn); zero where fewer than `drawn` are worse than the own caption.
    possible = have - better >= drawn
    spare = (have - better).where(possible, drawn)
    log = torch.lgamma(spare + 1) - torch.lgamma(spare - drawn + 1) - torch.lgamma(have + 1) + torch.lgamma(have - drawn + 1)
    value = log.exp().where(possible, torch.zeros_like(log))
    return RPrecision(value.mean().item(), int(drawn.min()), len(have))


def concept_ranks(queries: Tensor, gallery: Tensor, concepts: Tensor, wanted: Tensor, asked: Tensor) -> Tensor:
    """For each query [N,D] the rank of its concept among all concepts, 1 being the best, or 0 where it cannot be told.

    A concept is the mean of the gallery [G,D] pictures with that number (concepts [G], wanted [N]), by cosine. The gallery
    picture that a query was asked to show, asked [N], is left out of its own concept: a copy of it is no evidence, and a
    real picture would find itself. A concept that has no other picture is not told.
    """
    unit = F.normalize(gallery.double(), dim=1)
    count = int(concepts.max()) + 1
    sums = torch.zeros(count, unit.shape[1], dtype=torch.float64).index_add_(0, concepts, unit)
    sizes = torch.zeros(count, dtype=torch.float64).index_add_(0, concepts, torch.ones(len(concepts), dtype=torch.float64))
    queries = F.normalize(queries.double(), dim=1)
    similarity = queries @ F.normalize(sums, dim=1).t()
    own = sums[wanted] - unit[asked] * (concepts[asked] == wanted)[:, None]
    told = sizes[wanted] - (concepts[asked] == wanted).double() > 0
    similarity[:, sizes == 0] = -torch.inf
    mine = (queries * F.normalize(own, dim=1)).sum(1)
    similarity.scatter_(1, wanted[:, None], -torch.inf)
    return ((similarity >= mine[:, None]).sum(1) + 1) * told


def mean_difference(x: Tensor) -> float:
    """Mean |Δ| over all pairs of x [N,...] and over all entries."""
    return torch.stack([(x[i] - x[j]).abs().mean() for i, j in combinations(range(len(x)), 2)]).mean().item()


def nearest(queries: Tensor, gallery: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Root mean square distances [N,count] and indices of the gallery [G,D] rows nearest to each query [N,D]."""
    distances = torch.cdist(queries, gallery) / queries.shape[1] ** 0.5
    found = distances.topk(min(count, len(gallery)), largest=False)
    return found.values, found.indices
