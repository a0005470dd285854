"""The voxelizer on the CPU: numba kernels over all cores, one slab of planes a task (see `projection_numba`)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from gaussianem_core.kernels.projection_numba import call, parallel_kernel, profile, window_of
from gaussianem_core.kernels.support import WINDOW_SIGMAS

_SLABS = 16  # tasks per volume; each reads all Gaussians and writes only its own planes
_BLOCKS = 64  # tasks per volume of the backward pass, over Gaussians


@parallel_kernel
def _scatter(positions, densities, sigmas, volumes, reach_sigmas, slabs):  # type: ignore[no-untyped-def]
    box = volumes.shape[1]
    half = 0.5 * box
    for task in numba.prange(volumes.shape[0] * slabs):
        b, slab = task // slabs, task % slabs
        begin, end = box * slab // slabs, box * (slab + 1) // slabs
        row = np.empty(box, np.float32)
        column = np.empty(box, np.float32)
        depth = np.empty(box, np.float32)
        for n in range(positions.shape[1]):
            sigma = float(sigmas[b, n]) * half
            reach = reach_sigmas * sigma
            z = positions[b, n, 2] * half + box // 2
            near, planes = window_of(z, reach, box)
            first = max(near, begin)
            last = min(near + planes, end)
            if first >= last:
                continue
            x = positions[b, n, 0] * half + box // 2
            y = positions[b, n, 1] * half + box // 2
            left, width = window_of(x, reach, box)
            top, height = window_of(y, reach, box)
            if width <= 0 or height <= 0:
                continue
            scale = 0.5 / (sigma * sigma)
            profile(left, x, scale, row, width)
            profile(top, y, scale, column, height)
            profile(near, z, scale, depth, planes)
            for r in range(first, last):
                plane = densities[b, n] * depth[r - near]
                for q in range(height):
                    factor = np.float32(plane * column[q])
                    target = volumes[b, r, top + q, left : left + width]
                    for p in range(width):
                        target[p] += factor * row[p]


@parallel_kernel
def _gather(  # type: ignore[no-untyped-def]
    positions, densities, sigmas, d_volumes, d_positions, d_densities, d_sigmas, reach_sigmas, blocks
):
    box = d_volumes.shape[1]
    half = 0.5 * box
    count = positions.shape[1]
    for task in numba.prange(d_volumes.shape[0] * blocks):
        b, block = task // blocks, task % blocks
        row = np.empty(box, np.float32)
        column = np.empty(box, np.float32)
        depth = np.empty(box, np.float32)
        for n in range(count * block // blocks, count * (block + 1) // blocks):
            sigma = float(sigmas[b, n]) * half
            reach = reach_sigmas * sigma
            x = positions[b, n, 0] * half + box // 2
            y = positions[b, n, 1] * half + box // 2
            z = positions[b, n, 2] * half + box // 2
            left, width = window_of(x, reach, box)
            top, height = window_of(y, reach, box)
            near, planes = window_of(z, reach, box)
            total, total_x, total_y, total_z, total_r = 0.0, 0.0, 0.0, 0.0, 0.0
            if width > 0 and height > 0 and planes > 0:
                scale = 0.5 / (sigma * sigma)
                profile(left, x, scale, row, width)
                profile(top, y, scale, column, height)
                profile(near, z, scale, depth, planes)
                offset = np.float32(left - x)
                for r in range(planes):
                    dz = near + r - z
                    for q in range(height):
                        dy = top + q - y
                        source = d_volumes[b, near + r, top + q, left : left + width]
                        s0, s1, s2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                        for p in range(width):
                            dx = offset + np.float32(p)
                            weighted = source[p] * row[p]
                            s0 += weighted
                            s1 += weighted * dx
                            s2 += weighted * dx * dx
                        factor = depth[r] * column[q]
                        total += factor * s0
                        total_x += factor * s1
                        total_y += factor * s0 * dy
                        total_z += factor * s0 * dz
                        total_r += factor * (s2 + s0 * (dy * dy + dz * dz))
            gain = half * densities[b, n] / (sigma * sigma)
            d_positions[b, n, 0] = gain * total_x
            d_positions[b, n, 1] = gain * total_y
            d_positions[b, n, 2] = gain * total_z
            d_densities[b, n] = total
            d_sigmas[b, n] = gain * total_r / sigma


class _Voxelize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, densities: Tensor, sigmas: Tensor, box: int) -> Tensor:
        ctx.save_for_backward(positions, densities, sigmas)
        volumes = torch.zeros(positions.shape[0], box, box, box)
        if densities.numel():
            call(_scatter, *_arrays(positions, densities, sigmas), volumes.numpy(), WINDOW_SIGMAS, _SLABS)
        return volumes

    @staticmethod
    def backward(ctx: Any, d_volumes: Tensor) -> Any:  # type: ignore[override]
        tensors = ctx.saved_tensors
        outputs = [torch.zeros(*t.shape) for t in tensors]
        if tensors[1].numel():
            arrays = (*_arrays(*tensors), *_arrays(d_volumes))
            call(_gather, *arrays, *(t.numpy() for t in outputs), WINDOW_SIGMAS, _BLOCKS)
        return (*(g.to(t.dtype) for g, t in zip(outputs, tensors)), None)


def voxelize_cpu(
    positions: Tensor,  # (B, N, 3)
    densities: Tensor,  # (B, N)
    sigmas: Tensor,  # (B, N)
    box: int,
) -> Tensor:  # (B, box, box, box) float32
    """`imaging.voxelization.voxelize` through the numba kernels, in float32, on as many threads as torch uses.

    Positions and sigmas in world units.
    """
    return _Voxelize.apply(positions, densities, sigmas, box)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().float().contiguous().numpy() for t in tensors]
