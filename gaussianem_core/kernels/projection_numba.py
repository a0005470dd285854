"""The projector on the CPU: numba kernels over all cores, one image a task.

Both passes use that a Gaussian is a product of a row and a column, so a window of W x W pixels needs 2 W
profile values, and those come from one recurrence: exp(-h (d + 1)^2) / exp(-h d^2) is itself a geometric
sequence in d.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from gaussianem_core.kernels.support import WINDOW_SIGMAS

_ROOT = math.sqrt(2 * math.pi)
_LOCK = threading.Lock()  # numba's simplest threading layer must not be entered twice at a time


def parallel_kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile for all cores; keep the compiled code on disk where a folder for it can be written.

    Sums may be reordered and contracted, but NaN and infinity keep their meaning: indices depend on it.
    """
    options: Any = {
        "parallel": True,
        "fastmath": {"contract", "reassoc", "arcp", "nsz"},
        "error_model": "numpy",
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder
        return numba.njit(**options)(function)


@numba.njit(inline="always", error_model="numpy")
def profile(first, centre, scale, values, count):  # type: ignore[no-untyped-def]
    """Write values[i] = exp(-scale (first + i - centre)^2) for i < count; positions in pixels."""
    distance = first - centre
    value = math.exp(-scale * distance * distance)
    ratio = math.exp(-scale * (2.0 * distance + 1.0))
    step = math.exp(-2.0 * scale)
    for i in range(count):
        values[i] = value
        value *= ratio
        ratio *= step


@numba.njit(inline="always", error_model="numpy")
def window_of(centre, reach, box):  # type: ignore[no-untyped-def]
    """First pixel and number of pixels that lie within ``reach`` pixels of ``centre`` and inside the box."""
    if not (centre + reach >= 0.0 and centre - reach <= box - 1.0):  # also for NaN
        return 0, 0
    first = math.ceil(max(0.0, centre - reach))
    last = math.floor(min(box - 1.0, centre + reach))
    return first, last - first + 1


@parallel_kernel
def _scatter(positions, densities, sigmas, rotations, shifts, images, reach_sigmas):  # type: ignore[no-untyped-def]
    box = images.shape[1]
    half = 0.5 * box
    for b in numba.prange(images.shape[0]):
        a = rotations[b]
        row = np.empty(box, np.float32)
        column = np.empty(box, np.float32)
        i, j, k = b % positions.shape[0], b % densities.shape[0], b % sigmas.shape[0]
        for n in range(positions.shape[1]):
            x, y, z = positions[i, n, 0], positions[i, n, 1], positions[i, n, 2]
            u = (a[0, 0] * x + a[0, 1] * y + a[0, 2] * z) * half + box // 2 - shifts[b, 0]
            v = (a[1, 0] * x + a[1, 1] * y + a[1, 2] * z) * half + box // 2 - shifts[b, 1]
            sigma = float(sigmas[k, n])
            pixels = sigma * half
            left, width = window_of(u, reach_sigmas * pixels, box)
            top, height = window_of(v, reach_sigmas * pixels, box)
            if width <= 0 or height <= 0:
                continue
            scale = 0.5 / (pixels * pixels)
            profile(left, u, scale, row, width)
            profile(top, v, scale, column, height)
            amplitude = densities[j, n] * sigma * _ROOT
            for q in range(height):
                factor = np.float32(amplitude * column[q])
                target = images[b, top + q, left : left + width]
                for p in range(width):
                    target[p] += factor * row[p]


@parallel_kernel
def _gather(  # type: ignore[no-untyped-def]
    positions,
    densities,
    sigmas,
    rotations,
    shifts,
    d_images,
    d_positions,
    d_densities,
    d_sigmas,
    d_shifts,
    reach_sigmas,
):
    box = d_images.shape[1]
    half = 0.5 * box
    for b in numba.prange(d_images.shape[0]):
        a = rotations[b]
        row = np.empty(box, np.float32)
        column = np.empty(box, np.float32)
        i, j, k = b % positions.shape[0], b % densities.shape[0], b % sigmas.shape[0]
        sum_u, sum_v = 0.0, 0.0
        for n in range(positions.shape[1]):
            x, y, z = positions[i, n, 0], positions[i, n, 1], positions[i, n, 2]
            u = (a[0, 0] * x + a[0, 1] * y + a[0, 2] * z) * half + box // 2 - shifts[b, 0]
            v = (a[1, 0] * x + a[1, 1] * y + a[1, 2] * z) * half + box // 2 - shifts[b, 1]
            sigma = float(sigmas[k, n])
            pixels = sigma * half
            left, width = window_of(u, reach_sigmas * pixels, box)
            top, height = window_of(v, reach_sigmas * pixels, box)
            total, total_x, total_y, total_r = 0.0, 0.0, 0.0, 0.0
            if width > 0 and height > 0:
                scale = 0.5 / (pixels * pixels)
                profile(left, u, scale, row, width)
                profile(top, v, scale, column, height)
                for q in range(height):
                    dy = top + q - v
                    source = d_images[b, top + q, left : left + width]
                    s0, s1, s2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                    offset = np.float32(left - u)
                    for p in range(width):
                        dx = offset + np.float32(p)
                        weighted = source[p] * row[p]
                        s0 += weighted
                        s1 += weighted * dx
                        s2 += weighted * dx * dx
                    total += column[q] * s0
                    total_x += column[q] * s1
                    total_y += column[q] * s0 * dy
                    total_r += column[q] * (s2 + s0 * dy * dy)
            variance = pixels * pixels
            root_density = _ROOT * densities[j, n]
            d_densities[b, n] = _ROOT * sigma * total
            # amplitude = root density sigma, and d exp / d sigma = r^2 / (sigma variance) exp
            d_sigmas[b, n] = root_density * (total + total_r / variance)
            d_u = root_density * sigma * total_x / variance
            d_v = root_density * sigma * total_y / variance
            for c in range(3):
                d_positions[b, n, c] = half * (a[0, c] * d_u + a[1, c] * d_v)
            sum_u += d_u
            sum_v += d_v
        d_shifts[b, 0] = -sum_u
        d_shifts[b, 1] = -sum_v


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        densities: Tensor,
        sigmas: Tensor,
        rotations: Tensor,
        shifts: Tensor,
        box: int,
    ) -> Tensor:
        ctx.save_for_backward(positions, densities, sigmas, rotations, shifts)
        images = torch.zeros(rotations.shape[0], box, box)
        if images.numel() and positions.numel():
            call(_scatter, *_arrays(positions, densities, sigmas, rotations, shifts), images.numpy(), WINDOW_SIGMAS)
        return images

    @staticmethod
    def backward(ctx: Any, d_images: Tensor) -> Any:  # type: ignore[override]
        tensors = ctx.saved_tensors
        batch, count = tensors[3].shape[0], tensors[0].shape[-2]
        outputs = [torch.zeros(*shape) for shape in ((batch, count, 3), (batch, count), (batch, count), (batch, 2))]
        if batch * count:
            arrays = (*_arrays(*tensors), d_images.detach().float().contiguous().numpy())
            call(_gather, *arrays, *(t.numpy() for t in outputs), WINDOW_SIGMAS)
        d_positions, d_densities, d_sigmas, d_shifts = (
            gradient.sum_to_size(tensor.shape).to(tensor.dtype)
            for gradient, tensor in zip(outputs, (*tensors[:3], tensors[4]))
        )
        return d_positions, d_densities, d_sigmas, None, d_shifts, None


def project_cpu(
    positions: Tensor,  # (N, 3) or (B, N, 3)
    densities: Tensor,  # (N,) or (B, N)
    sigmas: Tensor,  # (N,) or (B, N)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    box: int,
) -> Tensor:  # (B, box, box) float32
    """`imaging.projection.project` through the numba kernels, in float32, on as many threads as torch uses.

    Positions and sigmas in world units, shifts in pixels.
    """
    return _Project.apply(positions, densities, sigmas, rotations, shifts, box)


def call(kernel: Any, *arguments: Any) -> None:
    """Run a parallel numba kernel on as many threads as torch uses, one kernel at a time."""
    with _LOCK:
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        # Numba starts its threads, one for each core, at the first call, and sets OpenMP's number to theirs, which is
        # torch's, too.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        kernel(*arguments)


def _arrays(
    positions: Tensor, densities: Tensor, sigmas: Tensor, rotations: Tensor, shifts: Tensor
) -> list[np.ndarray]:
    """Contiguous float32 arrays, the first three with a leading dimension of 1 or B."""
    lead = [positions.reshape(-1, *positions.shape[-2:]), *(t.reshape(-1, t.shape[-1]) for t in (densities, sigmas))]
    return [t.detach().float().contiguous().numpy() for t in (*lead, rotations, shifts)]
