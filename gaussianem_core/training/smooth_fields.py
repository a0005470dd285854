"""Smooth fields over the Gaussians: how each moves and changes when one latent grows by one.

A field is a weighted mean of values at control points spread over the molecule, so that neighbours move alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
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
    """K fields over M Gaussians. ``weights`` (M, C), rows sum to 1; ``values`` (K, C, 4) in ``unit`` (4,); ``kept``
    (4,) is 0 for what is left out, and 1 for the rest; ``gauge`` removes what no image tells."""

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
        """A copy of the first ``count`` with those parts of each that ``kept`` (4,) names."""
        return replace(self, values=nn.Parameter(self.values.detach()[:count].clone()), kept=kept)


def control_weights(positions: torch.Tensor, count: int) -> torch.Tensor:  # (M, 3) -> (M, C)
    """Shares of ``count`` control points (k-means of the positions) in each Gaussian, as wide as they are apart."""
    points = positions.detach().cpu().double().numpy()
    centres, labels = kmeans2(points, min(count, len(points)), seed=0, minit="points")
    centres = centres[np.bincount(labels, minlength=len(centres)) > 0]
    spacing = neighbour_tree(centres).query(centres, k=2)[0][:, 1].mean() if len(centres) > 1 else 1.0
    squared = ((points[:, None] - centres[None]) ** 2).sum(-1)
    exponent = -0.5 * squared / spacing**2
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return torch.as_tensor(weights / weights.sum(axis=1, keepdims=True), dtype=torch.float32, device=positions.device)


def new_fields(gaussians: Gaussians, movable: torch.Tensor | None, zdim: int, box: int, seed: int) -> SmoothFields:
    """Fields of small noise, one a latent dimension; where ``movable`` (M,) is false, nothing moves or changes."""
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
    """Positions (B, M, 3) and densities (B, M) of Gaussians at latents ``z``."""
    change = torch.einsum("bk,kmd->bmd", z, fields)
    return gaussians.positions + change[..., :3], nn.functional.softplus(gaussians.raw_density + change[..., 3])
