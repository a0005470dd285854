"""The voxelizer's Triton kernels: scatter forward with relaxed atomics, gather backward without.

One program takes `GAUSSIANS` Gaussians of one volume and walks the planes of their windows; a plane of
the window is flattened into lanes, as in `projection_triton`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaussianem_core.kernels.projection_triton import window_pixels

_LANES = 128  # window voxels of one plane handled at once
_GAUSSIANS = 4  # Gaussians per program


@triton.jit
def _plane(x, y, z, inside, lane, step, box, WINDOW: tl.constexpr):
    """Distances to the voxels of a lane of one plane, their offsets in the volume, and which count."""
    half: tl.constexpr = WINDOW // 2
    voxel_x = tl.floor(tl.clamp(x, -1e6, 1e6) + 0.5).to(tl.int32)[:, None] + (lane % WINDOW - half)
    voxel_y = tl.floor(tl.clamp(y, -1e6, 1e6) + 0.5).to(tl.int32)[:, None] + (lane // WINDOW - half)
    voxel_z = tl.floor(tl.clamp(z, -1e6, 1e6) + 0.5).to(tl.int32)[:, None] + (step - half)
    counts = inside[:, None] & (lane < WINDOW * WINDOW) & (voxel_z >= 0) & (voxel_z < box)
    counts &= (voxel_x >= 0) & (voxel_x < box) & (voxel_y >= 0) & (voxel_y < box)
    offset = (voxel_z.to(tl.int64) * box + voxel_y) * box + voxel_x
    return voxel_x - x[:, None], voxel_y - y[:, None], voxel_z - z[:, None], offset, counts


@triton.jit(do_not_specialize=["count"])
def _scatter(
    positions,
    densities,
    sigmas,
    volumes,
    count,
    box,
    half_box,
    centre,
    WINDOW: tl.constexpr,
    LANES: tl.constexpr,
    GAUSSIANS: tl.constexpr,
):
    volume = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    row = volume * count + n
    x = tl.load(positions + row * 3, mask=inside, other=0.0) * half_box + centre
    y = tl.load(positions + row * 3 + 1, mask=inside, other=0.0) * half_box + centre
    z = tl.load(positions + row * 3 + 2, mask=inside, other=0.0) * half_box + centre
    density = tl.load(densities + row, mask=inside, other=0.0)
    sigma = tl.load(sigmas + row, mask=inside, other=1.0) * half_box
    scale = (-0.7213475204444817 / (sigma * sigma))[:, None]  # -log2(e) / (2 sigma^2)
    for step in range(WINDOW):
        for start in tl.static_range(0, WINDOW * WINDOW, LANES):
            lane = start + tl.arange(0, LANES)[None, :]
            dx, dy, dz, offset, counts = _plane(x, y, z, inside, lane, step, box, WINDOW)
            value = density[:, None] * tl.exp2(scale * (dx * dx + dy * dy + dz * dz))
            target = volumes + volume * box * box * box + offset
            tl.atomic_add(target, value, mask=counts, sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _gather(
    positions,
    densities,
    sigmas,
    d_volumes,
    d_positions,
    d_densities,
    d_sigmas,
    count,
    box,
    half_box,
    centre,
    WINDOW: tl.constexpr,
    LANES: tl.constexpr,
    GAUSSIANS: tl.constexpr,
):
    volume = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    row = volume * count + n
    x = tl.load(positions + row * 3, mask=inside, other=0.0) * half_box + centre
    y = tl.load(positions + row * 3 + 1, mask=inside, other=0.0) * half_box + centre
    z = tl.load(positions + row * 3 + 2, mask=inside, other=0.0) * half_box + centre
    density = tl.load(densities + row, mask=inside, other=0.0)
    sigma = tl.load(sigmas + row, mask=inside, other=1.0) * half_box
    scale = (-0.7213475204444817 / (sigma * sigma))[:, None]
    total = tl.zeros((GAUSSIANS,), tl.float32)
    total_x = tl.zeros((GAUSSIANS,), tl.float32)
    total_y = tl.zeros((GAUSSIANS,), tl.float32)
    total_z = tl.zeros((GAUSSIANS,), tl.float32)
    total_r = tl.zeros((GAUSSIANS,), tl.float32)
    for step in range(WINDOW):
        for start in tl.static_range(0, WINDOW * WINDOW, LANES):
            lane = start + tl.arange(0, LANES)[None, :]
            dx, dy, dz, offset, counts = _plane(x, y, z, inside, lane, step, box, WINDOW)
            source = d_volumes + volume * box * box * box + offset
            squared = dx * dx + dy * dy + dz * dz
            weighted = tl.load(source, mask=counts, other=0.0) * tl.exp2(scale * squared)
            total += tl.sum(weighted, 1)
            total_x += tl.sum(weighted * dx, 1)
            total_y += tl.sum(weighted * dy, 1)
            total_z += tl.sum(weighted * dz, 1)
            total_r += tl.sum(weighted * squared, 1)
    factor = half_box * density / (sigma * sigma)
    tl.store(d_positions + row * 3, factor * total_x, mask=inside)
    tl.store(d_positions + row * 3 + 1, factor * total_y, mask=inside)
    tl.store(d_positions + row * 3 + 2, factor * total_z, mask=inside)
    tl.store(d_densities + row, total, mask=inside)
    tl.store(d_sigmas + row, factor * total_r / sigma, mask=inside)


class _Voxelize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, densities: Tensor, sigmas: Tensor, box: int, window: int) -> Tensor:
        tensors = [t.float().contiguous() for t in (positions, densities, sigmas)]
        volumes = positions.new_zeros(positions.shape[0], box, box, box, dtype=torch.float32)
        ctx.save_for_backward(*tensors)
        ctx.box, ctx.window = box, window
        ctx.dtypes = [t.dtype for t in (positions, densities, sigmas)]
        _launch(_scatter, tensors, (volumes,), box, window)
        return volumes

    @staticmethod
    def backward(ctx: Any, d_volumes: Tensor) -> Any:  # type: ignore[override]
        tensors = list(ctx.saved_tensors)
        gradients = [torch.empty_like(t) for t in tensors]
        _launch(_gather, tensors, (d_volumes.float().contiguous(), *gradients), ctx.box, ctx.window)
        return (*(g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes)), None, None)


def voxelize_triton(
    positions: Tensor,  # (B, N, 3)
    densities: Tensor,  # (B, N)
    sigmas: Tensor,  # (B, N)
    box: int,
    *,
    sigma_max: float | None = None,
) -> Tensor:  # (B, box, box, box)
    """`imaging.voxelization.voxelize` through the kernels; no host synchronisation where sigma_max is given.

    Positions, sigmas and sigma_max in world units.
    """
    return _Voxelize.apply(positions, densities, sigmas, box, window_pixels(sigmas, box, sigma_max))


def _launch(kernel: Any, tensors: list[Tensor], outputs: tuple[Tensor, ...], box: int, window: int) -> None:
    batch, count = tensors[1].shape
    if batch * count == 0:
        return
    kernel[(triton.cdiv(count, _GAUSSIANS), batch)](
        *tensors,
        *outputs,
        count,
        box,
        box / 2,
        float(box // 2),
        WINDOW=window,
        LANES=_LANES,
        GAUSSIANS=_GAUSSIANS,
        num_warps=4,
    )
