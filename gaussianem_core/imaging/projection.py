"""Gaussians to images: the parallel-beam projection of a sum of isotropic 3D Gaussians.

The convention is that of `pose`: r_image = A r_volume, and the pixel of a Gaussian is
``box // 2 + coordinate * box / 2 - shift``, so a particle sits at minus its shift. Each Gaussian adds
``density * sqrt(2 pi) * sigma * exp(-d^2 / (2 sigma^2))``, the integral of
``density * exp(-r^2 / (2 sigma^2))`` along the beam with r and sigma in world units (box = [-1, 1]).
Nothing occludes, so the sum needs no sorting.

`project_reference` is the definition, in plain torch and without truncation. The fast kernels in
`kernels.projection_triton` (CUDA) and `kernels.projection_numba` (CPU) sum the same terms inside a window of
`WINDOW_SIGMAS` standard deviations.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gaussianem_core.errors import InputError
from gaussianem_core.kernels.support import triton_available, triton_interpreted

Projector = Literal["auto", "reference", "triton", "cpu", "xray"]

"""Names of the backends, see :func:`project`."""

_CHUNK_ELEMENTS = 2**24  # elements of one temporary of the reference; 64 MiB in float32


def project(
    positions: Tensor,  # (N, 3) or (B, N, 3)
    densities: Tensor,  # (N,) or (B, N)
    sigmas: Tensor,  # (N,) or (B, N)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    box: int,
    *,
    backend: Projector = "auto",
    sigma_max: float | None = None,
) -> Tensor:  # (B, box, box)
    """Project Gaussians into images, one image per pose.

    Differentiable with respect to positions, densities, sigmas and shifts (with respect to rotations in
    the reference alone).

    Parameters
    ----------
    positions : (N, 3) shared by all images, or (B, N, 3); x, y, z in world units, the box is [-1, 1].
    densities : (N,) or (B, N); peak densities, already positive.
    sigmas : (N,) or (B, N); standard deviations in world units (pixels * 2 / box).
    rotations : (B, 3, 3); r_image = A r_volume.
    shifts : (B, 2); x, y in pixels, subtracted from the pixel coordinates.
    box : image size in pixels.
    backend : "auto" takes "triton" on CUDA, "cpu" for float32 on the CPU, else "reference". "xray" needs
        the package xray_gaussian_rasterization_voxelization.
    sigma_max : upper bound of all sigmas in world units, where known. Without it the Triton kernels read
        the largest sigma back from the device, which a CUDA graph cannot capture.

    Returns
    -------
    (B, box, box) images indexed [y, x]; float32, or float64 from the reference with float64 input.

    Raises
    ------
    InputError : shapes that do not fit, an unknown backend or one that cannot run here.
    """
    _check(positions, densities, sigmas, rotations, shifts, box)
    chosen = choose_backend(backend, positions)
    if chosen == "reference":
        return project_reference(positions, densities, sigmas, rotations, shifts, box)
    if chosen == "triton":
        from gaussianem_core.kernels.projection_triton import project_triton

        return project_triton(positions, densities, sigmas, rotations, shifts, box, sigma_max=sigma_max)
    if chosen == "cpu":
        from gaussianem_core.kernels.projection_numba import project_cpu

        return project_cpu(positions, densities, sigmas, rotations, shifts, box)
    from gaussianem_core.kernels.projection_xray import project_xray

    return project_xray(positions, densities, sigmas, rotations, shifts, box)


def project_reference(
    positions: Tensor,  # (N, 3) or (B, N, 3)
    densities: Tensor,  # (N,) or (B, N)
    sigmas: Tensor,  # (N,) or (B, N)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    box: int,
) -> Tensor:  # (B, box, box)
    """Project exactly: an isotropic Gaussian is a product of one row and one column, so the sum over
    Gaussians is one matrix product, image = column^T diag(amplitude) row. Parameters as for `project`."""
    images, gaussians = rotations.shape[0], positions.shape[-2]
    positions = positions.expand(images, gaussians, 3)
    amplitudes = (densities * sigmas * math.sqrt(2 * math.pi)).expand(images, gaussians)
    sigma_pixels = (sigmas * (box / 2)).expand(images, gaussians)
    pixels = image_pixels(positions, rotations, shifts, box)  # (B, N, 2)
    gaussians_per_chunk = max(1, min(gaussians, 2048))
    images_per_chunk = max(1, _CHUNK_ELEMENTS // (gaussians_per_chunk * box))
    single = images <= images_per_chunk and gaussians <= gaussians_per_chunk
    rows = []
    for first in range(0, images, images_per_chunk):
        batch = slice(first, first + images_per_chunk)
        total = pixels.new_zeros(pixels[batch].shape[0], box, box)
        for start in range(0, gaussians, gaussians_per_chunk):
            part = slice(start, start + gaussians_per_chunk)
            arguments = (pixels[batch, part], amplitudes[batch, part], sigma_pixels[batch, part], box)
            if torch.is_grad_enabled() and not single:  # keep one chunk's temporaries, not all of them
                total = total + cast(Tensor, checkpoint(_separable_sum, *arguments, use_reentrant=False))
            else:
                total = total + _separable_sum(*arguments)
        rows.append(total)
    return torch.cat(rows) if rows else pixels.new_zeros(0, box, box)


def image_pixels(
    positions: Tensor,  # (B, N, 3)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    box: int,
) -> Tensor:  # (B, N, 2)
    """Pixel coordinates x, y of positions (world units) after rotation and shift (pixels)."""
    rotated = positions @ rotations[:, :2].transpose(1, 2)
    return rotated * (box / 2) + (box // 2) - shifts[:, None]


def choose_backend(backend: str, positions: Tensor) -> str:
    """Name of the backend that runs for tensors like ``positions``: "auto" is resolved, others are checked.

    Raises
    ------
    InputError : an unknown name, "triton" without CUDA or Triton, "cpu" for tensors on a GPU.
    """
    if backend not in get_args(Projector):
        raise InputError("projector", f"must be one of {', '.join(get_args(Projector))}", backend, "Take one of these.")
    on_gpu = positions.device.type == "cuda"
    if backend == "auto":
        if positions.dtype == torch.float64:
            return "reference"
        return ("triton" if triton_available() else "reference") if on_gpu else "cpu"
    if backend == "triton" and not (triton_available() and (on_gpu or triton_interpreted())):
        raise InputError(
            "projector", "triton needs the package triton and a CUDA device", positions.device, "Use auto."
        )
    if backend == "cpu" and on_gpu:
        raise InputError("projector", "cpu needs tensors on the CPU", positions.device, "Use auto.")
    return backend


def _separable_sum(pixels: Tensor, amplitudes: Tensor, sigma_pixels: Tensor, box: int) -> Tensor:
    """(B, N, 2), (B, N), (B, N) -> (B, box, box)."""
    axis = torch.arange(box, dtype=pixels.dtype, device=pixels.device)
    scale = (-0.5 / sigma_pixels.square())[..., None]  # (B, N, 1)
    row = torch.exp(scale * (axis - pixels[..., :1]).square())  # (B, N, box), along x
    column = torch.exp(scale * (axis - pixels[..., 1:]).square())  # (B, N, box), along y
    return (column * amplitudes[..., None]).transpose(1, 2) @ row


def _check(positions: Tensor, densities: Tensor, sigmas: Tensor, rotations: Tensor, shifts: Tensor, box: int) -> None:
    if box < 2:
        raise InputError("box", "must be at least 2 pixels", box, "Give the image size.")
    if rotations.ndim != 3 or rotations.shape[1:] != (3, 3):
        raise InputError("rotations", "must have shape (B, 3, 3)", tuple(rotations.shape), "Give one matrix per image.")
    images = rotations.shape[0]
    if shifts.shape != (images, 2):
        raise InputError(
            "shifts", f"must have shape ({images}, 2)", tuple(shifts.shape), "Give x, y per image, in pixels."
        )
    if positions.ndim not in (2, 3) or positions.shape[-1] != 3:
        raise InputError(
            "positions", "must have shape (N, 3) or (B, N, 3)", tuple(positions.shape), "Give x, y, z last."
        )
    if positions.ndim == 3 and positions.shape[0] not in (1, images):
        raise InputError(
            "positions",
            f"must have {images} batches, as rotations",
            tuple(positions.shape),
            "Give one set per image, or one for all.",
        )
    gaussians = positions.shape[-2]
    for name, value in (("densities", densities), ("sigmas", sigmas)):
        if (
            value.ndim not in (1, 2)
            or value.shape[-1] != gaussians
            or (value.ndim == 2 and value.shape[0] not in (1, images))
        ):
            raise InputError(
                name,
                f"must have shape ({gaussians},) or ({images}, {gaussians})",
                tuple(value.shape),
                "Give one value per Gaussian.",
            )
