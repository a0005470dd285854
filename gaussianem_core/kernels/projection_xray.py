"""Adapter for an installed `xray_gaussian_rasterization_voxelization`, the X-ray fork of the Gaussian
rasterizer that the published GaussianEM builds.

It draws one image at a time and leaves out small contributions (below 1e-5, beyond 3 sigma), so it is here
to compare with, not to be fast. Positions are rotated and shifted before they are handed over, in such a way
that its pixel centres, which lie half a pixel off, fall on ours.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from gaussianem_core.errors import InputError

PACKAGE = "xray_gaussian_rasterization_voxelization"
_DEPTH = 4.0  # in front of the rasterizer's camera; a parallel beam does not see it


def project_xray(
    positions: Tensor,  # (N, 3) or (B, N, 3)
    densities: Tensor,  # (N,) or (B, N)
    sigmas: Tensor,  # (N,) or (B, N)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    box: int,
) -> Tensor:  # (B, box, box) float32
    """`imaging.projection.project` through the installed rasterizer; positions and sigmas in world units, shifts in
    pixels.

    Raises
    ------
    InputError : the package is not installed, or the tensors are not on a CUDA device.
    """
    if find_spec(PACKAGE) is None:
        raise InputError(
            "projector",
            f"xray needs the package {PACKAGE}",
            "not installed",
            "Build it from the published GaussianEM: pip install -e "
            "submodules/xray-gaussian-rasterization-voxelization; or take auto.",
        )
    if positions.device.type != "cuda":
        raise InputError("projector", "xray needs a CUDA device", positions.device, "Take auto.")
    package = import_module(PACKAGE)
    images, count = rotations.shape[0], positions.shape[-2]
    rotated = positions.expand(images, count, 3).float() @ rotations.float().transpose(1, 2)
    # Its pixel index is (coordinate + 1) * box / 2 - 1/2.
    offset = (box // 2 + 0.5 - shifts.float()) * (2 / box) - 1.0  # (B, 2)
    depth = offset.new_full((images, 1), _DEPTH)
    points = rotated + torch.cat([offset, depth], 1)[:, None]
    identity = torch.eye(4, device=positions.device)
    settings = package.GaussianRasterizationSettings(
        image_height=box,
        image_width=box,
        tanfovx=1.0,
        tanfovy=1.0,
        scale_modifier=1.0,
        viewmatrix=identity,
        projmatrix=identity,
        campos=identity[3, :3],
        prefiltered=False,
        mode=0,
        debug=False,
    )
    rasterizer = package.GaussianRasterizer(raster_settings=settings)
    quaternions = identity[:1].expand(count, 4).contiguous()
    densities, sigmas = (t.expand(images, count).float() for t in (densities, sigmas))
    drawn = [
        rasterizer(
            means3D=points[b].contiguous(),
            means2D=torch.zeros_like(points[b]),
            cov3D_precomp=None,
            opacities=densities[b, :, None].contiguous(),
            rotations=quaternions,
            scales=sigmas[b, :, None].expand(count, 3).contiguous(),
        )[0]
        for b in range(images)
    ]
    return torch.cat(drawn).reshape(images, box, box) if drawn else points.new_zeros(0, box, box)
