"""The projector's Triton kernels.

Forward, small boxes: an image is a matrix product, column^T row (see `projection.project_reference`), and
the matrix units do that in float16 with float32 sums, without truncation (`_multiply`). Forward, large
boxes: each Gaussian adds its window with relaxed atomics (`_scatter`). Backward: each Gaussian gathers its
window of the images' gradient, without atomics (`_gather`).

Rotation, shift and scaling happen inside, so a position is read once. A window, `WINDOW` pixels square, is
flattened into lanes: its rows are contiguous in the image, so neighbouring lanes touch neighbouring
addresses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaussianem_core.kernels.support import WINDOW_SIGMAS, multiprocessors

_SCATTER = {"LANES": 128, "GAUSSIANS": 2, "num_warps": 1}  # window pixels at once, Gaussians per program
_GATHER = {"LANES": 128, "GAUSSIANS": 8, "num_warps": 1}
_DENSE = {"CHUNK": 16, "num_warps": 4}  # Gaussians per matrix product
_DENSE_PROGRAMS = 2  # per multiprocessor
_DENSE_WORTH = 400  # pixels of a matrix product in the time of one pixel added atomically
COUNTS = ["count", "position_stride", "density_stride", "sigma_stride"]
"""Arguments whose values compile no kernel of their own: another number of Gaussians would."""


@triton.jit
def _pixels(positions, rotations, shifts, image, n, inside, position_stride, half_box, centre):  # -> x, y (GAUSSIANS,)
    """Pixel coordinates of Gaussians n in an image: A r, scaled, from the centre, minus the shift."""
    row = positions + image.to(tl.int64) * position_stride + n * 3
    x = tl.load(row, mask=inside, other=0.0)
    y = tl.load(row + 1, mask=inside, other=0.0)
    z = tl.load(row + 2, mask=inside, other=0.0)
    a = rotations + image * 9
    u = tl.load(a) * x + tl.load(a + 1) * y + tl.load(a + 2) * z
    v = tl.load(a + 3) * x + tl.load(a + 4) * y + tl.load(a + 5) * z
    u = u * half_box + centre - tl.load(shifts + image * 2)
    v = v * half_box + centre - tl.load(shifts + image * 2 + 1)
    return u, v


@triton.jit
def _window(u, v, inside, lane, box, WINDOW: tl.constexpr):
    """Distances to the pixels of a lane of the window, their offsets in the image, and which count."""
    pixel_x = tl.floor(tl.clamp(u, -1e6, 1e6) + 0.5).to(tl.int32)[:, None] + (lane % WINDOW - WINDOW // 2)
    pixel_y = tl.floor(tl.clamp(v, -1e6, 1e6) + 0.5).to(tl.int32)[:, None] + (lane // WINDOW - WINDOW // 2)
    counts = inside[:, None] & (lane < WINDOW * WINDOW)
    counts &= (pixel_x >= 0) & (pixel_x < box) & (pixel_y >= 0) & (pixel_y < box)
    return pixel_x - u[:, None], pixel_y - v[:, None], pixel_y * box + pixel_x, counts


@triton.jit(do_not_specialize=COUNTS)
def _scatter(
    positions,
    densities,
    sigmas,
    rotations,
    shifts,
    images,
    count,
    box,
    half_box,
    centre,
    position_stride,
    density_stride,
    sigma_stride,
    WINDOW: tl.constexpr,
    LANES: tl.constexpr,
    GAUSSIANS: tl.constexpr,
):
    image = tl.program_id(1)
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    u, v = _pixels(positions, rotations, shifts, image, n, inside, position_stride, half_box, centre)
    density = tl.load(densities + image.to(tl.int64) * density_stride + n, mask=inside, other=0.0)
    sigma = tl.load(sigmas + image.to(tl.int64) * sigma_stride + n, mask=inside, other=1.0)
    amplitude = density * sigma * 2.5066282746310002  # sqrt(2 pi)
    scale = -0.7213475204444817 / (sigma * sigma * half_box * half_box)  # -log2(e) / (2 sigma^2), pixels
    for start in tl.static_range(0, WINDOW * WINDOW, LANES):
        lane = start + tl.arange(0, LANES)[None, :]
        dx, dy, offset, counts = _window(u, v, inside, lane, box, WINDOW)
        value = amplitude[:, None] * tl.exp2(scale[:, None] * (dx * dx + dy * dy))
        target = images + image.to(tl.int64) * box * box + offset
        tl.atomic_add(target, value, mask=counts, sem="relaxed")


@triton.jit(do_not_specialize=COUNTS)
def _multiply(
    positions,
    densities,
    sigmas,
    rotations,
    shifts,
    images,
    count,
    box,
    half_box,
    centre,
    position_stride,
    density_stride,
    sigma_stride,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    split = tl.program_id(0)
    image = tl.program_id(1)
    top = tl.program_id(2) // TILES * TILE
    left = tl.program_id(2) % TILES * TILE
    axis_y = (top + tl.arange(0, TILE)).to(tl.float32)
    axis_x = (left + tl.arange(0, TILE)).to(tl.float32)
    total = tl.zeros((TILE, TILE), tl.float32)
    for start in tl.range(split * CHUNK, count, tl.num_programs(0) * CHUNK):
        n = start + tl.arange(0, CHUNK)
        inside = n < count
        u, v = _pixels(positions, rotations, shifts, image, n, inside, position_stride, half_box, centre)
        density = tl.load(densities + image.to(tl.int64) * density_stride + n, mask=inside, other=0.0)
        sigma = tl.load(sigmas + image.to(tl.int64) * sigma_stride + n, mask=inside, other=1.0) * half_box
        if TILES > 1:  # most Gaussians miss most tiles: beyond 6 sigma a profile is zero in float16
            reach = 6.0 * sigma + TILE / 2
            near = inside & (tl.abs(u - left - TILE / 2) < reach) & (tl.abs(v - top - TILE / 2) < reach)
            hits = tl.max(near.to(tl.int32), 0)
        else:
            hits = 1
        if hits > 0:
            amplitude = density * sigma
            root = tl.sqrt(tl.abs(amplitude))  # half in each factor: float16 then holds 4e-9 .. 4e9
            signed = tl.where(amplitude < 0.0, -root, root)
            scale = -0.7213475204444817 / (sigma * sigma)  # -log2(e) / (2 sigma^2)
            dy = axis_y[:, None] - v[None, :]
            dx = axis_x[:, None] - u[None, :]
            column = signed[None, :] * tl.exp2(scale[None, :] * dy * dy)
            row = root[None, :] * tl.exp2(scale[None, :] * dx * dx)
            total = tl.dot(column.to(tl.float16), tl.trans(row.to(tl.float16)), total)
    y = top + tl.arange(0, TILE)[:, None]
    x = left + tl.arange(0, TILE)[None, :]
    target = images + image.to(tl.int64) * box * box + y * box + x
    total *= 2.5066282746310002 / half_box  # sqrt(2 pi); back to world units
    tl.atomic_add(target, total, mask=(y < box) & (x < box), sem="relaxed")


@triton.jit(do_not_specialize=COUNTS)
def _gather(
    positions,
    densities,
    sigmas,
    rotations,
    shifts,
    d_images,
    d_positions,  # (B, N, 3)
    d_densities,  # (B, N)
    d_sigmas,  # (B, N)
    d_shifts,  # (B, 2), added to
    count,
    box,
    half_box,
    centre,
    position_stride,
    density_stride,
    sigma_stride,
    WINDOW: tl.constexpr,
    LANES: tl.constexpr,
    GAUSSIANS: tl.constexpr,
    SHIFTS: tl.constexpr,
):
    image = tl.program_id(1)
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    u, v = _pixels(positions, rotations, shifts, image, n, inside, position_stride, half_box, centre)
    density = tl.load(densities + image.to(tl.int64) * density_stride + n, mask=inside, other=0.0)
    sigma = tl.load(sigmas + image.to(tl.int64) * sigma_stride + n, mask=inside, other=1.0)
    variance = sigma * sigma * half_box * half_box  # pixels
    scale = -0.7213475204444817 / variance
    total = tl.zeros((GAUSSIANS,), tl.float32)
    total_x = tl.zeros((GAUSSIANS,), tl.float32)
    total_y = tl.zeros((GAUSSIANS,), tl.float32)
    total_r = tl.zeros((GAUSSIANS,), tl.float32)
    for start in tl.static_range(0, WINDOW * WINDOW, LANES):
        lane = start + tl.arange(0, LANES)[None, :]
        dx, dy, offset, counts = _window(u, v, inside, lane, box, WINDOW)
        gradient = tl.load(d_images + image.to(tl.int64) * box * box + offset, mask=counts, other=0.0)
        squared = dx * dx + dy * dy
        weighted = gradient * tl.exp2(scale[:, None] * squared)
        total += tl.sum(weighted, 1)
        total_x += tl.sum(weighted * dx, 1)
        total_y += tl.sum(weighted * dy, 1)
        total_r += tl.sum(weighted * squared, 1)
    root = 2.5066282746310002  # sqrt(2 pi)
    row = image.to(tl.int64) * count + n
    tl.store(d_densities + row, root * sigma * total, mask=inside)
    # amplitude = root density sigma, and d exp / d sigma = r^2 / (sigma variance) exp
    tl.store(d_sigmas + row, root * density * (total + total_r / variance), mask=inside)
    d_u = root * density * sigma * total_x / variance
    d_v = root * density * sigma * total_y / variance
    a = rotations + image * 9
    tl.store(d_positions + row * 3, half_box * (tl.load(a) * d_u + tl.load(a + 3) * d_v), mask=inside)
    tl.store(d_positions + row * 3 + 1, half_box * (tl.load(a + 1) * d_u + tl.load(a + 4) * d_v), mask=inside)
    tl.store(d_positions + row * 3 + 2, half_box * (tl.load(a + 2) * d_u + tl.load(a + 5) * d_v), mask=inside)
    if SHIFTS:
        tl.atomic_add(d_shifts + image * 2, -tl.sum(d_u, 0), sem="relaxed")
        tl.atomic_add(d_shifts + image * 2 + 1, -tl.sum(d_v, 0), sem="relaxed")


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
        window: int,
    ) -> Tensor:
        given = (positions, densities, sigmas, rotations, shifts)
        tensors = [(t[:1] if t.stride(0) == 0 else t).float().contiguous() for t in given]  # one row, where expanded
        images = rotations.new_zeros(rotations.shape[0], box, box, dtype=torch.float32)
        ctx.save_for_backward(*tensors)
        ctx.box, ctx.window = box, window
        ctx.shapes = [t.shape for t in (positions, densities, sigmas, shifts)]
        ctx.dtypes = [t.dtype for t in (positions, densities, sigmas, shifts)]
        if images.numel() and positions.numel():
            if dense_is_faster(box, window):
                launch_dense(tensors, images, box)
            else:
                _launch(_scatter, tensors, (images,), box, WINDOW=window, **_SCATTER)
        return images

    @staticmethod
    def backward(ctx: Any, d_images: Tensor) -> Any:  # type: ignore[override]
        tensors = list(ctx.saved_tensors)
        batch, count = tensors[3].shape[0], tensors[0].shape[-2]
        new = d_images.new_empty
        d_positions, d_densities, d_sigmas = new(batch, count, 3), new(batch, count), new(batch, count)
        d_shifts = d_images.new_zeros(batch, 2)
        outputs = (d_images.float().contiguous(), d_positions, d_densities, d_sigmas, d_shifts)
        if batch * count:
            constants = {"WINDOW": ctx.window, "SHIFTS": ctx.needs_input_grad[4], **_GATHER}
            _launch(_gather, tensors, outputs, ctx.box, **constants)
        gradients = [
            _sum_to(gradient, shape).to(dtype)
            for gradient, shape, dtype in zip((d_positions, d_densities, d_sigmas, d_shifts), ctx.shapes, ctx.dtypes)
        ]
        return (*gradients[:3], None, gradients[3], None, None)


def project_triton(
    positions: Tensor,  # (N, 3) or (B, N, 3)
    densities: Tensor,  # (N,) or (B, N)
    sigmas: Tensor,  # (N,) or (B, N)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    box: int,
    *,
    sigma_max: float | None = None,
) -> Tensor:  # (B, box, box)
    """`imaging.projection.project` through the kernels; no host synchronisation where sigma_max is given.

    Positions, sigmas and sigma_max in world units, shifts in pixels.
    """
    window = window_pixels(sigmas, box, sigma_max)
    return _Project.apply(positions, densities, sigmas, rotations, shifts, box, window)


def window_pixels(sigmas: Tensor, box: int, sigma_max: float | None) -> int:
    """Width of the window in pixels: odd, `WINDOW_SIGMAS` of the largest sigma each way, at most 2 box + 1.

    `sigma_max`: bound of the sigmas, of any shape (both in world units); None reads the largest from the device.
    """
    if sigma_max is None:
        sigma_max = float(sigmas.detach().max()) if sigmas.numel() else 0.0
    return 2 * min(max(1, math.ceil(WINDOW_SIGMAS * sigma_max * box / 2 - 1e-6)), box) + 1


def dense_is_faster(box: int, window: int) -> bool:
    """Whether the matrix products are faster than the atomics, by the pixels that a Gaussian costs: those of the whole
    image, or of its window (``window`` pixels wide)."""
    tile, tiles = _dense_tiles(box)
    return (tile * tiles) ** 2 < _DENSE_WORTH * window**2


def launch_dense(tensors: list[Tensor], images: Tensor, box: int) -> None:
    """Add to images (B, box, box), in place, float16 matrix products column^T row over chunks of Gaussians.

    `tensors`: positions, densities, sigmas, rotations and shifts as in `project_triton`, float32 and contiguous."""
    batch, count = tensors[3].shape[0], tensors[0].shape[-2]
    tile, tiles = _dense_tiles(box)
    programs = _DENSE_PROGRAMS * multiprocessors(images.device)
    splits = max(1, min(programs // (batch * tiles**2), triton.cdiv(count, _DENSE["CHUNK"])))
    _multiply[(splits, batch, tiles**2)](
        *tensors,
        images,
        count,
        box,
        box / 2,
        float(box // 2),
        *_strides(tensors),
        TILE=tile,
        TILES=tiles,
        **_DENSE,
    )


def _dense_tiles(box: int) -> tuple[int, int]:
    """Tile size and tiles along an axis that cover the box with the least waste."""
    return min(((tile, triton.cdiv(box, tile)) for tile in (128, 64)), key=lambda pair: pair[0] * pair[1])


def _launch(kernel: Any, tensors: list[Tensor], outputs: tuple[Tensor, ...], box: int, **constants: Any) -> None:
    batch, count = tensors[3].shape[0], tensors[0].shape[-2]
    kernel[(triton.cdiv(count, constants["GAUSSIANS"]), batch)](
        *tensors, *outputs, count, box, box / 2, float(box // 2), *_strides(tensors), **constants
    )


def _strides(tensors: list[Tensor]) -> list[int]:
    """Elements from one image's positions, densities and sigmas to the next's: 0 where images share them."""
    return [t.stride(0) if t.ndim == n and t.shape[0] > 1 else 0 for t, n in zip(tensors, (3, 2, 2))]


def _sum_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Sum a gradient per image into the shape of an argument that images share."""
    if gradient.ndim > len(shape):
        return gradient.sum(0)
    return gradient.sum(0, keepdim=True) if shape[0] == 1 < gradient.shape[0] else gradient
