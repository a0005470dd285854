"""From the decoder's change of each Gaussian at each latent to the deformed Gaussians.

`deform_gaussians_reference` is the definition in plain torch; `kernels.deformation_triton` is faster on CUDA.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn.functional import softplus

from gaussianem_core.kernels.support import triton_takes
from gaussianem_core.model.gauge import Gauge
from gaussianem_core.model.gaussians import Gaussians


class Deformed(NamedTuple):
    """Gaussians at B latents: positions and displacement (B, N, 3) in world units, densities and change of raw density
    (B, N).

    centre : the Gaussians at the centre of the latent space, where they are asked for.
    """

    positions: torch.Tensor
    densities: torch.Tensor
    displacement: torch.Tensor
    density_change: torch.Tensor
    centre: Gaussians | None = None


def split_change(change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # (B, N, 4) -> (B, N), (B, N, 3)
    """Change of raw density and of position (world units) of the decoder's change."""
    density, position = change.split([1, 3], dim=-1)  # one copy in the backward pass, where slices take three
    return density[..., 0], position


def deform_gaussians(
    gaussians: Gaussians,
    change: torch.Tensor,
    movable: torch.Tensor | None = None,
    gauge: Gauge | None = None,
    centre: bool = False,
    fused: bool | None = None,
) -> Deformed:
    """The Gaussians with the decoder's changes; differentiable.

    Parameters
    ----------
    gaussians : the N consensus Gaussians.
    change : (B, N, 4), of raw density, then of x, y, z in world units.
    movable : (N,) bool, None for all; the others stay as in the consensus.
    gauge : removes rigid motion and a common factor of the densities.
    centre : whether ``change`` has one row more, (B + 1, N, 4), the last one for the centre of the latent space.
    fused : whether to take the Triton kernels, in float32; None: on CUDA.
    """
    if fused is None:
        fused = triton_takes(change)
    if not fused:
        return deform_gaussians_reference(gaussians, change, movable, gauge, centre)
    from gaussianem_core.kernels.deformation_triton import FusedDeform

    if gauge is not None:
        change = gauge.remove_from_change(change)
    if movable is not None:
        change = change * movable[:, None]
    found = FusedDeform.apply(gaussians.positions, gaussians.raw_density, change, centre)
    positions, densities, displacement, density_change, middle_positions, middle_density = found
    middle = replace(gaussians, positions=middle_positions, raw_density=middle_density) if centre else None
    return Deformed(positions, densities, displacement, density_change, middle)


def deform_gaussians_reference(
    gaussians: Gaussians,
    change: torch.Tensor,
    movable: torch.Tensor | None = None,
    gauge: Gauge | None = None,
    centre: bool = False,
) -> Deformed:
    """:func:`deform_gaussians` in plain torch, the definition; parameters as there."""
    density_change, displacement = split_change(change)
    if gauge is not None:
        displacement, density_change = gauge.remove(displacement, density_change)
    if movable is not None:
        density_change = density_change * movable
        displacement = displacement * movable[:, None]
    positions = gaussians.positions + displacement
    densities = softplus(gaussians.raw_density + density_change)
    if not centre:
        return Deformed(positions, densities, displacement, density_change)
    middle = replace(gaussians, positions=positions[-1], raw_density=gaussians.raw_density + density_change[-1])
    return Deformed(positions[:-1], densities[:-1], displacement[:-1], density_change[:-1], middle)
