"""The terms of the training loss, each one pure function of tensors.

The data terms compare spectra, where CTF, noise spectrum and resolution are diagonal; by Parseval's theorem the
squared error is the same as over pixels. Spectra are orthonormal ``rfft2`` layouts (..., D, D//2+1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.kernels.support import triton_takes
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.runtime.neighbours import neighbour_tree

ANCHOR_DENSITY, ANCHOR_SCALE, ANCHOR_POSITION = 0.2, 0.5, 0.5
COMPOSITION_WIDTH = 0.1  # of raw density: differences of neighbours' changes below it cost their square


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:  # (B, zdim) x 2 -> (B, zdim)
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent dimension (Kingma and Welling, 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class NeighbourPairs(NamedTuple):
    """Pairs of neighbouring consensus Gaussians.

    first, second : (P,) indices. distance : (P,) consensus distance d in world units.
    weight : (P,) exp(1 - d / mean_distance). close : (P,) 1 for pairs within 1.5 mean distances, else 0.
    mean_distance : mean nearest-neighbour distance in world units.
    """

    first: torch.Tensor
    second: torch.Tensor
    distance: torch.Tensor
    weight: torch.Tensor
    close: torch.Tensor
    mean_distance: float

    def subset(self, chosen: torch.Tensor | None) -> NeighbourPairs:
        """The pairs with indices ``chosen`` (p,), None for all."""
        if chosen is None:
            return self
        first, second, distance, weight, close = (value[chosen] for value in self[:5])
        return NeighbourPairs(first, second, distance, weight, close, self.mean_distance)


def find_pairs(positions: torch.Tensor, reach: float = 2.0) -> NeighbourPairs:  # (N, 3)
    """Pairs of Gaussians closer than ``reach`` mean nearest-neighbour distances (2 as published: He et al., arXiv
    2512.21599). ``positions`` in world units."""
    points = positions.detach().cpu().double().numpy()
    tree = neighbour_tree(points)
    mean_distance = float(tree.query(points, k=2)[0][:, 1].mean()) if len(points) > 1 else 1.0
    index = tree.query_pairs(reach * mean_distance, output_type="ndarray")
    distance = np.linalg.norm(points[index[:, 0]] - points[index[:, 1]], axis=1)
    device = positions.device
    d = torch.as_tensor(distance, dtype=torch.float32, device=device)
    first, second = torch.as_tensor(index, device=device, dtype=torch.long).T.contiguous()
    return NeighbourPairs(
        first, second, d, torch.exp(1 - d / mean_distance), (d < 1.5 * mean_distance).float(), mean_distance
    )


def embedding_term(embedding: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Published term of similar embeddings of neighbours: mean weighted norm of their difference. ``embedding``:
    (N, E)."""
    difference = embedding.index_select(0, pairs.first) - embedding.index_select(0, pairs.second)
    return ((difference.square().sum(-1) + 1e-12).sqrt() * pairs.weight).mean()


def distance_term(positions: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Published term of kept distances of neighbours: mean weighted squared change from the consensus, in squared world
    units. ``positions``: (B, N, 3)."""
    return ((pair_distances(positions, pairs) - pairs.distance).square() * pairs.weight).mean()


def direction_term(displacement: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Published term of common directions of neighbours: minus the mean weighted cosine of their displacements.
    ``displacement``: (B, N, 3)."""
    first, second = displacement.index_select(1, pairs.first), displacement.index_select(1, pairs.second)
    cosine = (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1) + 1e-16).sqrt()
    return -(cosine * pairs.weight).mean()


def spacing_term(positions: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Published term of even spacing: mean absolute deviation of close neighbours from the mean distance, in world
    units. ``positions``: (B, N, 3)."""
    deviation = (pair_distances(positions, pairs) - pairs.mean_distance).abs() * pairs.close
    return deviation.sum() / (pairs.close.sum() * positions.shape[0]).clamp_min(1)


def rigidity_and_composition(
    displacement: torch.Tensor,
    density_change: torch.Tensor,
    pairs: NeighbourPairs,
    drawn: torch.Tensor | None = None,
    fused: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`rigidity_term` of ``displacement`` (B, N, 3) and :func:`composition_term` of ``density_change`` (B, N).

    ``drawn``: indices (p,) of the pairs that count, None for all. ``fused``: whether to take the Triton kernels
    (``kernels.deformation_triton``), in float32; None: on CUDA.
    """
    if fused is None:
        fused = triton_takes(displacement)
    if not fused:
        return rigidity_and_composition_reference(displacement, density_change, pairs, drawn)
    from gaussianem_core.kernels.deformation_triton import FusedNeighbours

    rigidity, composition = FusedNeighbours.apply(displacement, density_change, *pairs[:4], drawn, COMPOSITION_WIDTH)
    return rigidity, composition


def rigidity_and_composition_reference(
    displacement: torch.Tensor,
    density_change: torch.Tensor,
    pairs: NeighbourPairs,
    drawn: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`rigidity_and_composition` in plain torch, the definition; parameters as there."""
    pairs = pairs.subset(drawn)
    return rigidity_term(displacement, pairs), composition_term(density_change, pairs)


def rigidity_term(displacement: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Mean weighted squared strain of neighbours: difference of their displacements over their distance.

    ``displacement``: (B, N, 3) in world units. A common shift costs nothing; the cost does not depend on the spacing.
    """
    difference = displacement.index_select(1, pairs.first) - displacement.index_select(1, pairs.second)
    return (difference.square().sum(-1) * (pairs.weight / pairs.distance.square())).mean()


def composition_term(density_change: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:
    """Mean weighted log(1 + d^2) of neighbours, d being the difference of their changes of raw density in units of
    COMPOSITION_WIDTH.

    ``density_change``: (B, N). The logarithm lets a domain leave as a whole: only pairs at its border cost, and little.
    """
    first, second = density_change.index_select(1, pairs.first), density_change.index_select(1, pairs.second)
    return (((first - second) / COMPOSITION_WIDTH).square().log1p() * pairs.weight).mean()


class Anchor(NamedTuple):
    """Normal prior of the features of M Gaussians (``Gaussians.features``): ``middle`` (M, 5) and ``width`` (5,),
    standard deviations."""

    middle: torch.Tensor
    width: torch.Tensor


def find_anchor(first: Gaussians) -> Anchor:
    """The prior about the Gaussians ``first``. Its widths: ANCHOR_DENSITY of the mean density in raw density,
    ANCHOR_SCALE in raw scale, and ANCHOR_POSITION of the least sigma in each coordinate."""
    density, position = ANCHOR_DENSITY * float(first.densities.mean()), ANCHOR_POSITION * first.scale_min
    width = torch.tensor([density, ANCHOR_SCALE, *[position] * 3], device=first.positions.device)
    return Anchor(first.features.detach(), width)


def anchor_term(gaussians: Gaussians, anchor: Anchor, fused: bool | None = None) -> torch.Tensor:
    """Minus the logarithm of the prior of ``gaussians``, in nats and without its constant.

    The consensus map holds more than these images show, above all at high resolution: where they say little, its
    Gaussians stay as they are. ``fused``: whether to take the Triton kernels, in float32; None: on CUDA.
    """
    if fused is None:
        fused = triton_takes(gaussians.positions)
    if not fused:
        return 0.5 * ((gaussians.features - anchor.middle) / anchor.width).square().sum()
    from gaussianem_core.kernels.deformation_triton import FusedAnchor

    return FusedAnchor.apply(gaussians.positions, gaussians.raw_density, gaussians.raw_scale, *anchor)


def pair_distances(positions: torch.Tensor, pairs: NeighbourPairs) -> torch.Tensor:  # (B, N, 3) -> (B, P)
    """Distances of the pairs in world units; a small constant keeps the gradient finite where Gaussians coincide."""
    difference = positions.index_select(1, pairs.first) - positions.index_select(1, pairs.second)
    return (difference.square().sum(-1) + 1e-12).sqrt()


def latent_neighbour_term(
    z: torch.Tensor, bank: torch.Tensor, near: int = 128, far: int = 640, share: float = 0.8
) -> torch.Tensor:
    """Published term that lets latents cluster: near ones of a bank attract, far ones repel (from the third epoch).

    ``z``: (B, zdim); ``bank``: (M, zdim), earlier latents. The mean of log(1 + d^2) over the ``near`` nearest plus 5
    times that of log(1 + 1 / d^2) over the ``far`` farthest, each mixed ``share`` : 1 - ``share`` with the same over as
    many drawn uniformly (He et al., arXiv 2512.21599).
    """
    squared = torch.cdist(z, bank).square()
    near, far = min(near, bank.shape[0]), min(far, bank.shape[0])

    def drawn(count: int) -> torch.Tensor:
        chosen = torch.randint(bank.shape[0], (z.shape[0], count), device=z.device)
        return squared.gather(1, chosen)

    def attract(d2: torch.Tensor) -> torch.Tensor:
        return torch.log1p(d2).mean()

    def repel(d2: torch.Tensor) -> torch.Tensor:
        return torch.log1p(1 / d2.clamp_min(1e-6)).mean()

    nearest = squared.topk(near, largest=False).values
    farthest = squared.topk(far, largest=True).values
    attraction = share * attract(nearest) + (1 - share) * attract(drawn(near))
    repulsion = share * repel(farthest) + (1 - share) * repel(drawn(far))
    return attraction + 5 * repulsion
