"""Back-projection on the CPU: components of images spread over a Fourier volume, by numba on all cores.

Of T threads each owns every T-th plane of the volume and goes through all components, so that no two threads write to
the same place and the sums do not depend on the order in which threads run. See ``imaging.backprojection``.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

from gaussianem_core.kernels.projection_numba import call, parallel_kernel


@parallel_kernel
def _insert(sums, values, weight, rotations, row, column, padding, threads):  # type: ignore[no-untyped-def]
    size, box = sums.shape[0], values.shape[1]
    for thread in numba.prange(threads):
        for b in range(values.shape[0]):
            a = rotations[b]
            for m in range(row.shape[0]):
                y, x = padding * row[m], padding * column[m]
                px, py, pz = x * a[0, 0] + y * a[1, 0], x * a[0, 1] + y * a[1, 1], x * a[0, 2] + y * a[1, 2]
                sign = np.float32(1.0)
                if px < 0:  # only the half x >= 0 is kept: elsewhere the conjugate stands for the component
                    px, py, pz, sign = -px, -py, -pz, np.float32(-1.0)
                k0 = math.floor(pz)
                first, second = (k0 % size) % threads == thread, ((k0 + 1) % size) % threads == thread
                if not (first or second):
                    continue
                i0, j0 = math.floor(px), math.floor(py)
                r = row[m] % box
                real, imaginary = values[b, r, column[m], 0], sign * values[b, r, column[m], 1]
                w = weight[b, r, column[m]]
                for dk in range(2):
                    if not (second if dk else first):
                        continue
                    oz = np.float32(pz - k0 - dk)
                    k = (k0 + dk) % size
                    for dj in range(2):
                        oy = np.float32(py - j0 - dj)
                        j = (j0 + dj) % size
                        for di in range(2):
                            ox = np.float32(px - i0 - di)
                            share = (1 - abs(ox)) * (1 - abs(oy)) * (1 - abs(oz))
                            target = sums[k, j, i0 + di]
                            target[0] += share * real
                            target[1] += share * imaginary
                            target[2] += share * w
                            target[3] += share * w * ox
                            target[4] += share * w * oy
                            target[5] += share * w * oz


def insert_cpu(
    sums: Tensor,  # (P, P, P//2+1, 6) float32
    values: Tensor,  # (B, D, D//2+1) complex
    weight: Tensor,  # (B, D, D//2+1)
    rotations: Tensor,  # (B, 3, 3)
    row: Tensor,  # (M,) frequency y of the components to insert
    column: Tensor,  # (M,) frequency x
    padding: int,
) -> None:
    """`imaging.backprojection.insert_reference` in float32, on as many threads as torch uses.

    ``sums`` is changed in place. ``row``, ``column``: frequencies in units of 1 / box, see `inside_circle` there;
    ``padding``: fineness of the grid of ``sums``.
    """
    arrays = [
        torch.view_as_real(values.to(torch.complex64)).contiguous().numpy(),
        weight.float().contiguous().numpy(),
        rotations.float().contiguous().numpy(),
        row.contiguous().numpy(),
        column.contiguous().numpy(),
    ]
    call(_insert, sums.numpy(), *arrays, padding, torch.get_num_threads())
