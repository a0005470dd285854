"""Back-projection on CUDA: components of images spread over a Fourier volume, one thread a component, atomic sums."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = {"BLOCK": 128, "num_warps": 4}


@triton.jit
def _insert(
    sums, values, weight, rotations, row, column, count, box, half, size, PADDING: tl.constexpr, BLOCK: tl.constexpr
):
    """``sums`` (P, P, P//2+1, 6), ``values`` (B, D, D//2+1, 2), ``weight`` (B, D, D//2+1), ``row``, ``column`` (M,)."""
    image = tl.program_id(1)
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = m < count
    y, x = tl.load(row + m, mask=inside, other=0), tl.load(column + m, mask=inside, other=0)
    source = (image.to(tl.int64) * box + tl.where(y < 0, y + box, y)) * half + x
    real = tl.load(values + 2 * source, mask=inside, other=0.0)
    imaginary = tl.load(values + 2 * source + 1, mask=inside, other=0.0)
    w = tl.load(weight + source, mask=inside, other=0.0)
    a = rotations + image * 9
    fx, fy = PADDING * x.to(tl.float32), PADDING * y.to(tl.float32)
    px = fx * tl.load(a) + fy * tl.load(a + 3)
    py = fx * tl.load(a + 1) + fy * tl.load(a + 4)
    pz = fx * tl.load(a + 2) + fy * tl.load(a + 5)
    sign = tl.where(px < 0, -1.0, 1.0)  # only the half x >= 0 is kept: elsewhere the conjugate stands for it
    px, py, pz, imaginary = px * sign, py * sign, pz * sign, imaginary * sign
    i0, j0, k0 = tl.floor(px), tl.floor(py), tl.floor(pz)
    for corner in tl.static_range(8):
        ox, oy, oz = px - i0 - (corner & 1), py - j0 - ((corner >> 1) & 1), pz - k0 - (corner >> 2)
        share = (1 - tl.abs(ox)) * (1 - tl.abs(oy)) * (1 - tl.abs(oz))
        i = i0.to(tl.int32) + (corner & 1)
        j = j0.to(tl.int32) + ((corner >> 1) & 1)
        k = k0.to(tl.int32) + (corner >> 2)
        j, k = tl.where(j < 0, j + size, j), tl.where(k < 0, k + size, k)
        j, k = tl.where(j >= size, j - size, j), tl.where(k >= size, k - size, k)
        target = sums + ((k.to(tl.int64) * size + j) * (size // 2 + 1) + i) * 6
        worth = inside & (share > 0) & (w != 0)
        share_w = share * w
        tl.atomic_add(target, share * real, mask=worth, sem="relaxed")
        tl.atomic_add(target + 1, share * imaginary, mask=worth, sem="relaxed")
        tl.atomic_add(target + 2, share_w, mask=worth, sem="relaxed")
        tl.atomic_add(target + 3, share_w * ox, mask=worth, sem="relaxed")
        tl.atomic_add(target + 4, share_w * oy, mask=worth, sem="relaxed")
        tl.atomic_add(target + 5, share_w * oz, mask=worth, sem="relaxed")


def insert_triton(
    sums: Tensor,  # (P, P, P//2+1, 6) float32
    values: Tensor,  # (B, D, D//2+1) complex
    weight: Tensor,  # (B, D, D//2+1)
    rotations: Tensor,  # (B, 3, 3)
    row: Tensor,  # (M,) frequency y of the components to insert
    column: Tensor,  # (M,) frequency x
    padding: int,
) -> None:
    """`imaging.backprojection.insert_reference` in float32.

    ``sums`` is changed in place. ``row``, ``column``: frequencies in units of 1 / box, see `inside_circle` there;
    ``padding``: fineness of the grid of ``sums``. The order of the atomic sums, and so their rounding, varies.
    """
    batch, box, half = values.shape
    if not batch:
        return
    spectra = torch.view_as_real(values.to(torch.complex64).resolve_conj().contiguous())
    _insert[(triton.cdiv(len(row), _BLOCK["BLOCK"]), batch)](
        sums,
        spectra,
        weight.float().contiguous(),
        rotations.float().contiguous(),
        row.to(torch.int32),
        column.to(torch.int32),
        len(row),
        box,
        half,
        sums.shape[0],
        PADDING=padding,
        **_BLOCK,
    )
