"""Smooth fields over the Gaussians: how each moves and changes when one latent grows by one.

A field is a weighted mean of values at control points spread over the molecule, so that neighbours move alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch
from torch import nn

from gaussianem_core.model.gauge import Gauge
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.runtime.neighbours import neighbour_tree
from gaussianem_core.runtime.streams import torch_stream

GAUSSIANS_PER_POINT, MOST_POINTS = 12, 400
FIRST_SIZE = 0.5  # the fields start as noise of this many UNITS
PIXELS, RAW_DENSITY = 1.0, 0.5  # one unit of a field: pixels of displacement, change of raw density
ALL, COMPOSITION = (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)  # parts of a field that are kept


@dataclass
class SmoothFields:
    """K fields over M Gaussians, from values at C control points.

    weights : (M, C), rows sum to 1, or to 0 for Gaussians that may not move.
    values : (K, C, 4), displacement x, y, z and change of raw density, in ``unit`` (4,) (world units, raw density).
    kept : (4,), 0 for parts that are left out, 1 for the others.
    gauge : removes rigid motion and a common factor of the densities, or None.
    """

    weights: torch.Tensor
    values: nn.Parameter
    unit: torch.Tensor
    kept: torch.Tensor
    gauge: Gauge | None = None

    def all(self) -> torch.Tensor:  # (K, M, 4)
        """Displacement x, y, z (world units) and change of raw density of every Gaussian at z_k = 1."""
        fields = torch.einsum("mc,kcd->kmd", self.weights, self.values * (self.unit * self.kept))
        if self.gauge is None:
            return fields
        moved, changed = self.gauge.remove(fields[..., :3], fields[..., 3])
        return torch.cat([moved, changed[..., None]], dim=-1)

    def part(self, count: int, kept: torch.Tensor) -> SmoothFields:
        """A copy of the first ``count`` fields with the parts that are 1 in ``kept`` (4,)."""
        return replace(self, values=nn.Parameter(self.values.detach()[:count].clone()), kept=kept)


def control_weights(positions: torch.Tensor, count: int) -> torch.Tensor:  # (M, 3) -> (M, C)
    """Weights of at most ``count`` control points (k-means of the positions) in each Gaussian: normal in the distance,
    with the points' mean nearest-neighbour distance as standard deviation; rows sum to 1."""
    points = positions.detach().cpu().double().numpy()
    centres, labels = scipy.cluster.vq.kmeans2(points, min(count, len(points)), seed=0, minit="points")
    centres = centres[np.bincount(labels, minlength=len(centres)) > 0]
    spacing = neighbour_tree(centres).query(centres, k=2)[0][:, 1].mean() if len(centres) > 1 else 1.0
    # Axis by axis and in place: with many Gaussians most of the time goes to making room for arrays of this size.
    x, y, z = ((points[:, None, axis] - centres[:, axis]) ** 2 for axis in range(3))
    weights = x + y + z
    weights *= -0.5
    weights /= spacing**2
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return torch.as_tensor(weights, dtype=torch.float32, device=positions.device)


def new_fields(gaussians: Gaussians, movable: torch.Tensor | None, zdim: int, box: int, seed: int) -> SmoothFields:
    """Random fields of FIRST_SIZE units, one for each latent dimension; where ``movable`` (M,) is False, nothing moves
    or changes. ``box`` in pixels."""
    device = gaussians.positions.device
    points = min(MOST_POINTS, max(8, len(gaussians) // GAUSSIANS_PER_POINT))
    weights = control_weights(gaussians.positions, points)
    if movable is not None:
        weights = weights * movable[:, None]
    generator = torch_stream(seed, "smooth fields")
    values = FIRST_SIZE * torch.randn(zdim, weights.shape[1], 4, generator=generator)
    pixel = PIXELS * 2 / box
    unit = torch.tensor([pixel, pixel, pixel, RAW_DENSITY], device=device)
    return SmoothFields(weights, nn.Parameter(values.to(device)), unit, torch.ones_like(unit))


def deform(
    gaussians: Gaussians, fields: torch.Tensor, z: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # (K, M, 4), (B, K)
    """Positions (B, M, 3), world units, and densities (B, M) of Gaussians at latents ``z``: raw values plus z times the
    fields."""
    change = torch.einsum("bk,kmd->bmd", z, fields)
    return gaussians.positions + change[..., :3], nn.functional.softplus(gaussians.raw_density + change[..., 3])
