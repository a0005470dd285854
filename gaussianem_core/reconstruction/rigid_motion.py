"""Rigid motions of parts of the molecule, particle by particle: from the trained model's Gaussians to turns and shifts.

A part is a weight of each Gaussian, (K, M). Its motion from a reference (the Gaussians at one chosen state) to a
particle's own state takes a point x to

    y = R (x - c) + c + t

with c the part's centre in the reference, in world units. Where the particle is seen in a pose (A, s), the part by
itself is seen in the pose (A R, s') of :func:`part_poses`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.model.trained_model import TrainedModel

LEAST_GAUSSIANS = 3
"""A part of fewer has no orientation."""
WHOLE = 0.9
"""A part is whole at this quantile of its mass over the particles, or at its mass in the reference if larger."""


class RigidMotions(NamedTuple):
    """Motions of K parts in N particles (R, t and c of the module's formula).

    Attributes
    ----------
    rotations : (N, K, 3, 3). translations : (N, K, 3), centres : (K, 3) world units.
    occupancy : (N, K) 0 where the part is absent, 1 where it is whole.
    present : (K,) bool, whether the part is there in the reference.
    misfit : (K,) root mean square distance of the Gaussians from where the motions take them, world units.
    """

    rotations: Tensor
    translations: Tensor
    centres: Tensor
    occupancy: Tensor
    present: Tensor
    misfit: Tensor

    def rows(self, chosen: Tensor | slice) -> RigidMotions:
        """The motions of some particles, by their numbers."""
        return self._replace(
            rotations=self.rotations[chosen],
            translations=self.translations[chosen],
            occupancy=self.occupancy[chosen],
        )


def part_weights(labels: np.ndarray, densities: Tensor, sigmas: Tensor) -> Tensor:  # (M,), (M,), (M,) -> (K, M)
    """Weights of Gaussians in the parts 0 .. K-1 that ``labels`` name: density times sigma^3; -1 is in no part.

    Raises InputError for a part of fewer than three Gaussians.
    """
    count = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    if not count or sizes.min() < LEAST_GAUSSIANS:
        least = int(sizes.min()) if count else 0
        raise InputError("labels", f"must name parts of {LEAST_GAUSSIANS} Gaussians or more", least, "Join small ones.")
    label = torch.as_tensor(labels, device=densities.device)
    own = label == torch.arange(count, device=densities.device)[:, None]
    return own * (densities * sigmas**3)


def fit_motions(reference: Tensor, moved: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rotations (B, K, 3, 3) and translations (B, K, 3) of least squares (Kabsch, Acta Cryst. A32, 1976).

    Parameters
    ----------
    reference : (M, 3), moved : (B, M, 3), in one unit. weights : (K, M), not negative.

    Returns
    -------
    Rotations, translations, the parts' centres (K, 3), and weighted mean square misfits (B, K).
    """
    share = weights / weights.sum(1, keepdim=True)
    centres = share @ reference
    rest = share[..., None] * (reference - centres[:, None])  # (K, M, 3)
    towards = moved.mT @ rest.permute(1, 0, 2).flatten(1)  # (B, 3, K * 3)
    towards = towards.unflatten(-1, (len(weights), 3)).transpose(1, 2)  # (B, K, 3, 3)
    u, size, v = torch.linalg.svd(towards)
    flip = torch.linalg.det(u @ v).sign()  # a reflection is no motion
    signs = torch.stack([torch.ones_like(flip), torch.ones_like(flip), flip], dim=-1)
    rotations = (u * signs[..., None, :]) @ v
    at = share @ moved  # (B, K, 3)
    spread = (share @ moved.square().sum(-1).mT).mT - at.square().sum(-1)
    extent = (rest * (reference - centres[:, None])).sum((1, 2))
    misfit = (spread + extent - 2 * (size * signs).sum(-1)).clamp_min(0)
    return rotations, at - centres, centres, misfit


@torch.no_grad()
def particle_motions(
    model: TrainedModel,
    z: np.ndarray,
    weights: Tensor,
    reference: Tensor,
    densities: Tensor,
    report: Callable[[int], None] = lambda done: None,
) -> RigidMotions:  # (N, zdim), (K, M), (M, 3), (M,)
    """Motions of parts from the reference to each particle's own state.

    Parameters
    ----------
    z : latents of the particles. weights : of the Gaussians in each part (see :func:`part_weights`).
    reference, densities : Gaussians at the chosen state, world units, on the model's device.
    report : called with the number of particles done so far.

    Returns
    -------
    Motions on the model's device; memory grows with particles by 13 numbers a part alone.
    """
    parts = []
    for rows, deformed in model.chunks(z, quick=True):
        *motion, misfit = fit_motions(reference, deformed.positions, weights)
        parts.append((motion[0], motion[1], deformed.densities @ weights.T, misfit))
        centres = motion[2]
        report(rows.stop)
    rotations, translations, mass, misfits = (torch.cat(several) for several in zip(*parts))
    here = weights @ densities
    whole = torch.maximum(here, mass.sort(0).values[int(WHOLE * (len(mass) - 1))])
    present = here >= 0.5 * whole
    return RigidMotions(rotations, translations, centres, (mass / whole).clamp(0, 1), present, misfits.mean(0).sqrt())


def part_poses(
    rotations: Tensor, shifts: Tensor, motions: RigidMotions, box: int
) -> tuple[Tensor, Tensor]:  # (B, 3, 3), (B, 2) -> (B, K, 3, 3), (B, K, 2)
    """Poses of the parts, as they stand in the reference, in images of ``box`` pixels.

    A voxel of the reference within a part appears in the image of particle i where ``imaging.pose`` says for the pose
    that is returned: A R (x) - s' with s' = s - D/2 (A (c + t - R c)).
    """
    turned = rotations[:, None] @ motions.rotations
    moved = motions.centres + motions.translations - (motions.rotations @ motions.centres[..., None])[..., 0]
    return turned, shifts[:, None] - box / 2 * (rotations[:, None, :2] @ moved[..., None])[..., 0]
