"""The gauge of the model: a rigid motion of the whole molecule and a common factor of its densities, left undetermined
by the images.

A turn of the molecule with the inverse turn of its pose gives the same image, and so does a factor of all densities
with its inverse in the contrast. Of all displacements that explain the images alike, those are taken that keep the
largest part of constant shape in place. This part is found robustly, with one weight for each Gaussian: the mean of all
Gaussians would follow a large moving domain.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from gaussianem_core.model.gaussians import Gaussians

ROUNDS = 50
SHARE = 0.7
"""Scale of Geman and McClure's weights 1 / (1 + (r / s)^2)^2, as a share of the residuals' median."""


class Gauge(NamedTuple):
    """Removes the rigid motion and the common factor of densities of M Gaussians, fitted with weights.

    weight : (M,). centre : (3,), weighted mean position in world units.
    motion : (M * 3, 6), displacements by three turns about the centre (radians) and three shifts.
    fit : (6, M * 3), its weighted pseudo-inverse.
    factor : (M,), change of raw density that multiplies every density alike (to first order).
    level : (M,), its weighted inverse.
    """

    weight: torch.Tensor
    centre: torch.Tensor
    motion: torch.Tensor
    fit: torch.Tensor
    factor: torch.Tensor
    level: torch.Tensor

    def rigid(self, displacement: torch.Tensor) -> torch.Tensor:  # (..., M, 3) -> (..., 6)
        """Turn (radians, about the centre) and shift (world units) that fit a displacement best (weighted least
        squares)."""
        return displacement.flatten(-2) @ self.fit.T

    def remove(self, displacement: torch.Tensor, density: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Displacements (..., M, 3) without their rigid motion, and changes of raw density (..., M) without their
        common factor."""
        moved = displacement - (self.rigid(displacement) @ self.motion.T).unflatten(-1, (-1, 3))
        return moved, density - (density @ self.level)[..., None] * self.factor

    def remove_from_change(self, change: torch.Tensor) -> torch.Tensor:  # (B, M, 4)
        """:meth:`remove` of changes of raw density and of position side by side, by two products of matrices."""
        fit, motion = _side_by_side(self)
        flat = change.flatten(1)
        return torch.addmm(flat, flat @ fit, motion).view_as(change)


@functools.cache  # for as long as the program runs: a captured step of a training goes on reading them
def _side_by_side(gauge: Gauge) -> tuple[torch.Tensor, torch.Tensor]:  # -> (M * 4, 7), (7, M * 4)
    """``fit`` and ``level``, and minus ``motion`` and ``factor``, for changes of raw density, x, y, z side by side."""
    fit, motion = (t.new_zeros(len(gauge.weight), 4, 7) for t in (gauge.fit, gauge.motion))
    fit[:, 1:, :6], fit[:, 0, 6] = gauge.fit.T.unflatten(0, (-1, 3)), gauge.level
    motion[:, 1:, :6], motion[:, 0, 6] = gauge.motion.unflatten(0, (-1, 3)), gauge.factor
    return fit.flatten(0, 1), -motion.flatten(0, 1).T.contiguous()


def make_gauge(gaussians: Gaussians, weight: torch.Tensor) -> Gauge:  # (M,)
    """The gauge of ``gaussians`` with a ``weight`` for each."""
    positions, raw = gaussians.positions.detach(), gaussians.raw_density.detach()
    share = weight / weight.sum()
    centre = share @ positions
    r = positions - centre
    zero = torch.zeros_like(r[:, 0])
    turns = [(zero, -r[:, 2], r[:, 1]), (r[:, 2], zero, -r[:, 0]), (-r[:, 1], r[:, 0], zero)]  # e_i x r
    eye = torch.eye(3, device=r.device)
    columns = [torch.stack(turn, dim=1) for turn in turns] + [eye[i].expand_as(r) for i in range(3)]
    motion = torch.stack([column.flatten() for column in columns], dim=1)  # (M * 3, 6)
    weighted = motion * share.repeat_interleave(3)[:, None]
    # One Gaussian, or several on a line, do not determine all turns: the pseudo-inverse takes the smallest.
    fit = torch.linalg.pinv((motion.T @ weighted).double(), rtol=1e-6, hermitian=True).float() @ weighted.T
    factor = torch.nn.functional.softplus(raw) / torch.sigmoid(raw)
    return Gauge(weight, centre, motion, fit, factor, share / factor)


def find_gauge(
    gaussians: Gaussians, displacement: torch.Tensor, density: torch.Tensor, pixel: float
) -> Gauge:  # (K, M, 3), (K, M)
    """The gauge of the largest part that K displacements and K changes of raw density leave as it is.

    Iteratively reweighted least squares with Geman and McClure's weights. ``pixel``: size of a pixel in world units;
    the scale of the weights is at least 0.05 pixels of displacement, and 0.02 in the logarithm of the density.
    """
    mass = gaussians.densities.detach() * gaussians.sigmas.detach() ** 3
    weight = mass
    for _ in range(ROUNDS if len(displacement) else 1):
        gauge = make_gauge(gaussians, weight)
        moved, changed = gauge.remove(displacement, density)
        weight = mass
        for rest, least in (
            (moved.square().sum((0, 2)).sqrt(), 0.05 * pixel),
            ((changed / gauge.factor).norm(dim=0), 0.02),
        ):
            scale = (SHARE * rest.median()).clamp_min(least)
            weight = weight / (1 + (rest / scale).square()).square()
    return make_gauge(gaussians, weight)
