"""The losses, one function each, as their papers write them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (Lim & Ye 2017, arXiv 1705.02894; GAN hinge loss)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """-E[D(G(z))]."""
    return -fake.mean()


def relativistic(better: Tensor, worse: Tensor) -> Tensor:
    """E[softplus(-(D(better) - D(worse)))] over pairs (Jolicoeur-Martineau 2018, arXiv 1807.00734; R3GAN eq. 2)."""
    return F.softplus(worse - better).mean()


def contrast(own: Tensor, others: Tensor, wrong: Tensor) -> Tensor:
    """-E[log(eᵒʷⁿ / (eᵒʷⁿ + Σ eᵒᵗʰᵉʳ))], the sum over the captions that are `wrong` (InfoNCE, van den Oord et al. 2018, arXiv
    1807.03748, eq. 4; as a GAN's guidance XMC-GAN, Zhang et al. 2021, arXiv 2101.04702, eq. 7).

    own [B]: alignment of each picture with its caption; others [B,K]: with K captions; wrong [B,K] bool: those untrue of it.
    """
    logits = torch.cat([own[:, None], others.masked_fill(~wrong, -torch.inf)], 1)
    return F.cross_entropy(logits, torch.zeros(len(own), dtype=torch.long, device=own.device))


def finite_difference_penalty(
    judge: Callable[[Tensor], Tensor], images: Tensor, noise: Tensor, sigma: float = 0.01
) -> Tensor:
    """E[((D(x + σε) - D(x)) / σ)²], noise ε ~ N(0,I): R1 on real pictures and R2 on fake ones (R3GAN §3) without a second
    derivative, since its expectation is |∇D|² up to O(σ²)."""
    return ((judge(images + sigma * noise) - judge(images)) / sigma).square().mean()


def feature_distances(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Of each picture the mean over scales of |f - r|₁ / |r|₁ [B]: the perceptual distance to the drawing that its caption
    is paired with (feature matching, Salimans et al. 2016, arXiv 1606.03498; Wang et al. 2018, arXiv 1711.11585, eq. 4)."""
    return torch.stack([(f - r).abs().mean((1, 2, 3)) / r.abs().mean((1, 2, 3)) for f, r in zip(fake, real)]).mean(0)


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """The mean of `feature_distances`."""
    return feature_distances(fake, real).mean()


def out_of_range(images: Tensor) -> Tensor:
    """E[max(0, |x| - 1)²]: projected features do not punish pixels outside -1..1, so this must."""
    return F.relu(images.abs() - 1).square().mean()
