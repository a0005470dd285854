"""Gaussians to a volume: density * exp(-r^2 / (2 sigma^2)) sampled at the voxels, indexed [z, y, x].

Voxel index = ``box // 2 + coordinate * box / 2`` (as in `pose`). `voxelize_reference` is the definition;
the fast kernels in `kernels` (Triton on CUDA, numba on the CPU) sum the same terms inside a window of
`WINDOW_SIGMAS` standard deviations.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.projection import Projector, choose_backend

_CHUNK_ELEMENTS = 2**25  # elements of one temporary of the reference; 128 MiB in float32


def voxelize(
    positions: Tensor,  # (..., N, 3)
    densities: Tensor,  # (..., N)
    sigmas: Tensor,  # (..., N)
    box: int,
    *,
    backend: Projector = "auto",
    sigma_max: float | None = None,
) -> Tensor:  # (..., box, box, box)
    """Sample the density of Gaussians on the voxels of a cubic box.

    Differentiable with respect to positions, densities and sigmas.

    Parameters
    ----------
    positions : (..., N, 3); x, y, z in world units, the box is [-1, 1].
    densities : (..., N); peak densities.
    sigmas : (..., N); standard deviations in world units (voxels * 2 / box).
    box : volume size in voxels.
    backend : as for `projection.project`, without "xray".
    sigma_max : upper bound of all sigmas in world units, where known (see `projection.project`).

    Returns
    -------
    (..., box, box, box) volumes indexed [z, y, x]; the leading dimensions are those of the arguments,
    broadcast.

    Raises
    ------
    InputError : shapes that do not fit, or a backend that cannot run here.
    """
    _check(positions, densities, sigmas, box)
    chosen = choose_backend(backend, positions)
    lead = np.broadcast_shapes(positions.shape[:-2], densities.shape[:-1], sigmas.shape[:-1])
    gaussians = positions.shape[-2]
    positions = positions.expand(*lead, gaussians, 3).reshape(-1, gaussians, 3)
    densities = densities.expand(*lead, gaussians).reshape(-1, gaussians)
    sigmas = sigmas.expand(*lead, gaussians).reshape(-1, gaussians)
    if chosen == "reference":
        volumes = voxelize_reference(positions, densities, sigmas, box)
    elif chosen == "triton":
        from gaussianem_core.kernels.voxelization_triton import voxelize_triton

        volumes = voxelize_triton(positions, densities, sigmas, box, sigma_max=sigma_max)
    elif chosen == "cpu":
        from gaussianem_core.kernels.voxelization_numba import voxelize_cpu

        volumes = voxelize_cpu(positions, densities, sigmas, box)
    else:
        raise InputError("backend", "must not be xray for volumes", backend, "Use auto.")
    return volumes.reshape(*lead, box, box, box)


def voxelize_reference(
    positions: Tensor,  # (B, N, 3)
    densities: Tensor,  # (B, N)
    sigmas: Tensor,  # (B, N)
    box: int,
) -> Tensor:  # (B, box, box, box)
    """Sample without truncation, as one matrix product of z profiles with the products of y and x profiles.

    Positions and sigmas in world units. The work grows with N box^3: for small boxes and for tests."""
    gaussians = positions.shape[1]
    chunk = max(1, _CHUNK_ELEMENTS // box**2)
    single = gaussians <= chunk
    volumes = [positions.new_zeros(0, box, box, box)]
    for centre, density, sigma in zip(positions, densities, sigmas):
        total = centre.new_zeros(box, box, box)
        for start in range(0, gaussians, chunk):
            part = slice(start, start + chunk)
            arguments = (centre[part], density[part], sigma[part], box)
            if torch.is_grad_enabled() and not single:  # keep one chunk's temporaries, not all of them
                total = total + cast(Tensor, checkpoint(_separable_sum, *arguments, use_reentrant=False))
            else:
                total = total + _separable_sum(*arguments)
        volumes.append(total[None])
    return torch.cat(volumes)


def _separable_sum(positions: Tensor, densities: Tensor, sigmas: Tensor, box: int) -> Tensor:
    """(N, 3), (N,), (N,) -> (box, box, box)."""
    axis = torch.arange(box, dtype=positions.dtype, device=positions.device)
    scale = (-0.5 / (sigmas * (box / 2)).square())[:, None]
    voxels = positions * (box / 2) + box // 2
    x, y, z = (torch.exp(scale * (axis - voxels[:, i, None]).square()) for i in range(3))  # (N, box) each
    plane = (y[:, :, None] * x[:, None, :]).reshape(-1, box * box)
    return ((z * densities[:, None]).T @ plane).reshape(box, box, box)


def _check(positions: Tensor, densities: Tensor, sigmas: Tensor, box: int) -> None:
    if box < 2:
        raise InputError("box", "must be at least 2 voxels", box, "Give the volume size.")
    if positions.ndim < 2 or positions.shape[-1] != 3:
        raise InputError("positions", "must have shape (..., N, 3)", tuple(positions.shape), "Give x, y, z last.")
    for name, value in (("densities", densities), ("sigmas", sigmas)):
        if value.ndim < 1 or value.shape[-1] != positions.shape[-2]:
            raise InputError(
                name,
                f"must have shape (..., {positions.shape[-2]})",
                tuple(value.shape),
                "Give one value per Gaussian.",
            )
