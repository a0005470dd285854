"""The Triton kernels of `model.deformation`, and of rigidity, composition and anchor in `training.regularisers`.

A change of a Gaussian is four numbers: of raw density, then of x, y, z in world units.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_DEFORM = {"GAUSSIANS": 128, "num_warps": 4}
_GRADIENTS = {"GAUSSIANS": 64, "IMAGES": 8, "num_warps": 4}  # images of a tile: their sum stays in one program
_NEIGHBOURS = {"PAIRS": 128, "IMAGES": 4, "num_warps": 4}  # images of a program, whose values it sums
_ANCHOR = {"GAUSSIANS": 128, "num_warps": 4}
_SCALE = {"GAUSSIANS": 256, "num_warps": 4}
COUNTS = ["count", "images", "pairs"]
"""Arguments whose values compile no kernel of their own: another number of Gaussians would."""


@triton.jit(do_not_specialize=COUNTS)
def _deform(
    base,
    raw_density,
    change,  # (B', N, 4)
    positions,  # (B', N, 3)
    densities,  # (B', N), after the softplus for the first ``images``, before it for the rest
    displacement,  # (B', N, 3)
    density_change,  # (B', N)
    count,
    images,
    GAUSSIANS: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    row = image * count + n
    changed = tl.load(change + row * 4, mask=inside, other=0.0)
    raw = tl.load(raw_density + n, mask=inside, other=0.0) + changed
    # torch's softplus is linear above 20; log(1 + e) for a small e is e log(u) / (u - 1), u = 1 + e rounded.
    small = tl.exp(tl.minimum(raw, 20.0))
    u = 1.0 + small
    soft = tl.where(u == 1.0, small, tl.log(u) * (small / tl.where(u == 1.0, 1.0, u - 1.0)))
    soft = tl.where(raw > 20.0, raw, soft)
    tl.store(densities + row, tl.where(image < images, soft, raw), mask=inside)
    tl.store(density_change + row, changed, mask=inside)
    for axis in tl.static_range(3):
        moved = tl.load(change + row * 4 + 1 + axis, mask=inside, other=0.0)
        tl.store(displacement + row * 3 + axis, moved, mask=inside)
        moved += tl.load(base + n * 3 + axis, mask=inside, other=0.0)
        tl.store(positions + row * 3 + axis, moved, mask=inside)


@triton.jit
def _axis(d_positions, d_displacement, d_change, row, inside, axis: tl.constexpr):  # -> (GAUSSIANS,)
    """Write one axis of the change's gradient, and return that of the base positions, summed over a tile's images."""
    by_position = tl.zeros(row.shape, tl.float32)
    if d_positions is not None:
        by_position += tl.load(d_positions + row * 3 + axis, mask=inside, other=0.0)
    total = by_position
    if d_displacement is not None:
        total += tl.load(d_displacement + row * 3 + axis, mask=inside, other=0.0)
    tl.store(d_change + row * 4 + 1 + axis, total, mask=inside)
    return tl.sum(by_position, 0)


@triton.jit(do_not_specialize=COUNTS)
def _gradients(
    raw_density,
    density_change,
    d_positions,  # (B, N, 3) or None, as the following
    d_densities,  # (B, N)
    d_displacement,  # (B, N, 3)
    d_density_change,  # (B, N)
    d_centre_positions,  # (N, 3)
    d_centre_density,  # (N,)
    d_base,  # (N, 3)
    d_raw_density,  # (N,)
    d_change,  # (B', N, 4)
    count,
    images,
    CENTRE: tl.constexpr,
    GAUSSIANS: tl.constexpr,
    IMAGES: tl.constexpr,
):
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    own = n < count
    raw = tl.load(raw_density + n, mask=own, other=0.0)
    sum_raw = tl.zeros((GAUSSIANS,), tl.float32)
    sum_x = tl.zeros((GAUSSIANS,), tl.float32)
    sum_y = tl.zeros((GAUSSIANS,), tl.float32)
    sum_z = tl.zeros((GAUSSIANS,), tl.float32)
    for start in tl.range(0, images, IMAGES):
        image = (start + tl.arange(0, IMAGES)).to(tl.int64)[:, None]
        inside = (image < images) & own[None, :]
        row = image * count + n[None, :]
        by_raw = tl.zeros((IMAGES, GAUSSIANS), tl.float32)
        if d_densities is not None:
            x = raw[None, :] + tl.load(density_change + row, mask=inside, other=0.0)
            slope = tl.where(x > 20.0, 1.0, 1.0 / (1.0 + tl.exp(-x)))
            by_raw += slope * tl.load(d_densities + row, mask=inside, other=0.0)
        sum_raw += tl.sum(by_raw, 0)
        if d_density_change is not None:
            by_raw += tl.load(d_density_change + row, mask=inside, other=0.0)
        tl.store(d_change + row * 4, by_raw, mask=inside)
        sum_x += _axis(d_positions, d_displacement, d_change, row, inside, 0)
        sum_y += _axis(d_positions, d_displacement, d_change, row, inside, 1)
        sum_z += _axis(d_positions, d_displacement, d_change, row, inside, 2)
    if CENTRE:
        inside, row = own[None, :], tl.cast(images, tl.int64) * count + n[None, :]
        by_raw = tl.zeros((GAUSSIANS,), tl.float32)
        if d_centre_density is not None:
            by_raw += tl.load(d_centre_density + n, mask=own, other=0.0)
        sum_raw += by_raw
        tl.store(d_change + row * 4, by_raw[None, :], mask=inside)
        sum_x += _axis(d_centre_positions, None, d_change + images.to(tl.int64) * count * 4, n[None, :], inside, 0)
        sum_y += _axis(d_centre_positions, None, d_change + images.to(tl.int64) * count * 4, n[None, :], inside, 1)
        sum_z += _axis(d_centre_positions, None, d_change + images.to(tl.int64) * count * 4, n[None, :], inside, 2)
    tl.store(d_raw_density + n, sum_raw, mask=own)
    tl.store(d_base + n * 3, sum_x, mask=own)
    tl.store(d_base + n * 3 + 1, sum_y, mask=own)
    tl.store(d_base + n * 3 + 2, sum_z, mask=own)


class FusedDeform(torch.autograd.Function):
    """`model.deformation.deform_gaussians` on Triton, for a change that has its final form.

    Arguments: base positions (N, 3), raw density (N,), change (B', N, 4), all float32, and ``centre``: whether the last
    row is that of the centre, B' = B + 1. Returns positions (B, N, 3), densities (B, N), displacement (B, N, 3) and
    change of raw density (B, N), then the centre's positions (N, 3) and raw density (N,), or None twice.
    """

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, raw_density: Tensor, change: Tensor, centre: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The deformed Gaussians."""
        ctx.set_materialize_grads(False)
        base, raw_density, change = (t.contiguous() for t in (base, raw_density, change))
        rows, count, _ = change.shape
        images = rows - centre
        new = change.new_empty
        positions, densities = new(rows, count, 3), new(rows, count)
        displacement, density_change = new(rows, count, 3), new(rows, count)
        outputs = (positions, densities, displacement, density_change)
        grid = (triton.cdiv(count, _DEFORM["GAUSSIANS"]), rows)
        if change.numel():
            _deform[grid](base, raw_density, change, *outputs, count, images, **_DEFORM)
        positions, densities, displacement, density_change = (output[:images] for output in outputs)
        ctx.save_for_backward(raw_density, density_change)
        ctx.centre = centre
        middle = (outputs[0][images], outputs[1][images]) if centre else (None, None)
        return positions, densities, displacement, density_change, *middle

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients with respect to base positions, raw density and change."""
        raw_density, density_change = ctx.saved_tensors
        images, count = density_change.shape
        new = raw_density.new_empty
        d_base, d_raw, d_change = new(count, 3), new(count), new(images + ctx.centre, count, 4)
        given = (None if gradient is None else gradient.contiguous() for gradient in gradients)
        _gradients[(triton.cdiv(count, _GRADIENTS["GAUSSIANS"]),)](
            raw_density,
            density_change,
            *given,
            d_base,
            d_raw,
            d_change,
            count,
            images,
            CENTRE=ctx.centre,
            **_GRADIENTS,
        )
        return d_base, d_raw, d_change, None


@triton.jit
def _change(displacement, density_change, place, column, inside):  # -> (PAIRS, 4)
    """Changes of the Gaussians ``place`` (PAIRS, 1): of raw density in column 0, of position in 1 to 3."""
    density = tl.load(density_change + place, mask=inside & (column == 0), other=0.0)
    return density + tl.load(displacement + place * 3 + column - 1, mask=inside & (column > 0), other=0.0)


@triton.jit(do_not_specialize=COUNTS)
def _neighbours(
    displacement,
    density_change,
    first,
    second,
    distance,
    weight,
    drawn,  # (p,) or None: all
    gradient,  # (B, N, 4), added to; where a Gaussian's four values lie together, one atomic adds them
    values,  # (2,), added to: rigidity, composition
    count,
    pairs,
    share,
    width,
    images,
    PAIRS: tl.constexpr,
    IMAGES: tl.constexpr,
):
    p = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    own = p < pairs
    if drawn is not None:
        p = tl.load(drawn + p, mask=own, other=0)
    own, p = own[:, None], p[:, None]
    column = tl.arange(0, 4)[None, :]
    left, right = tl.load(first + p, mask=own, other=0), tl.load(second + p, mask=own, other=0)
    factor = tl.load(weight + p, mask=own, other=0.0) * share
    length = tl.load(distance + p, mask=own, other=1.0)
    stiffness = factor / (length * length)
    total = tl.zeros((PAIRS, 4), tl.float32)
    # Additions to one address wait for each other: a program adds up the values of several images first.
    for step in tl.static_range(IMAGES):
        image = (tl.program_id(1) * IMAGES + step).to(tl.int64)
        inside = own & (p * 0 + image < images)
        here, there = image * count + left, image * count + right
        difference = _change(displacement, density_change, here, column, inside)
        difference -= _change(displacement, density_change, there, column, inside)
        scaled = difference / width
        squared = scaled * scaled
        u = 1.0 + squared  # log(1 + s) for a small s is s log(u) / (u - 1), u = 1 + s rounded
        logarithm = tl.where(u == 1.0, squared, tl.log(u) * (squared / tl.where(u == 1.0, 1.0, u - 1.0)))
        total += tl.where(column == 0, factor * logarithm, stiffness * difference * difference)
        slope = 2 * tl.where(column == 0, factor * scaled / (u * width), stiffness * difference)
        tl.atomic_add(gradient + here * 4 + column, slope, mask=inside, sem="relaxed")
        tl.atomic_add(gradient + there * 4 + column, -slope, mask=inside, sem="relaxed")
    tl.atomic_add(values + (tl.arange(0, 4) == 0).to(tl.int32), tl.sum(total, 0), sem="relaxed")


@triton.jit(do_not_specialize=COUNTS)
def _scale(
    gradient,  # (B, N, 4)
    d_rigidity,  # () or None
    d_composition,  # () or None
    d_displacement,  # (B, N, 3), where there is d_rigidity
    d_density_change,  # (B, N), where there is d_composition
    count,
    GAUSSIANS: tl.constexpr,
):
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    row = tl.program_id(1).to(tl.int64) * count + n
    if d_composition is not None:
        by_density = tl.load(gradient + row * 4, mask=inside, other=0.0)
        tl.store(d_density_change + row, by_density * tl.load(d_composition), mask=inside)
    if d_rigidity is not None:
        for axis in tl.static_range(3):
            by_position = tl.load(gradient + row * 4 + 1 + axis, mask=inside, other=0.0)
            tl.store(d_displacement + row * 3 + axis, by_position * tl.load(d_rigidity), mask=inside)


@triton.jit
def _feature(positions, raw_density, raw_scale, n, inside, number: tl.constexpr):  # -> (GAUSSIANS,)
    """One of the five features of Gaussians n: raw density, raw scale, x, y, z."""
    if number == 0:
        x = tl.load(raw_density + n, mask=inside, other=0.0)
    elif number == 1:
        x = tl.load(raw_scale + n, mask=inside, other=0.0)
    else:
        x = tl.load(positions + n * 3 + (number - 2), mask=inside, other=0.0)
    return x


@triton.jit(do_not_specialize=COUNTS)
def _anchor(positions, raw_density, raw_scale, middle, width, value, count, GAUSSIANS: tl.constexpr):
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    total = tl.zeros((GAUSSIANS,), tl.float32)
    for number in tl.static_range(5):
        x = _feature(positions, raw_density, raw_scale, n, inside, number)
        x = (x - tl.load(middle + n * 5 + number, mask=inside, other=0.0)) / tl.load(width + number)
        total += tl.where(inside, x * x, 0.0)
    tl.atomic_add(value, 0.5 * tl.sum(total, 0), sem="relaxed")


@triton.jit(do_not_specialize=COUNTS)
def _anchor_gradients(
    positions,
    raw_density,
    raw_scale,
    middle,
    width,
    d_value,
    d_positions,
    d_raw_density,
    d_raw_scale,
    count,
    GAUSSIANS: tl.constexpr,
):
    n = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    inside = n < count
    for number in tl.static_range(5):
        x = _feature(positions, raw_density, raw_scale, n, inside, number)
        w = tl.load(width + number)
        x = (x - tl.load(middle + n * 5 + number, mask=inside, other=0.0)) / (w * w) * tl.load(d_value)
        if number == 0:
            tl.store(d_raw_density + n, x, mask=inside)
        elif number == 1:
            tl.store(d_raw_scale + n, x, mask=inside)
        else:
            tl.store(d_positions + n * 3 + (number - 2), x, mask=inside)


class FusedAnchor(torch.autograd.Function):
    """`training.regularisers.anchor_term` on Triton, one kernel each way.

    Arguments: positions (M, 3), raw density and raw scale (M,) of the Gaussians, middle (M, 5) and width (5,) of the
    prior. Returns the term ().
    """

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, raw_density: Tensor, raw_scale: Tensor, middle: Tensor, width: Tensor
    ) -> Tensor:
        """Minus the logarithm of the prior, nats."""
        inputs = [t.contiguous() for t in (positions, raw_density, raw_scale, middle, width)]
        value, count = positions.new_zeros(()), len(positions)
        _anchor[(triton.cdiv(count, _ANCHOR["GAUSSIANS"]),)](*inputs, value, count, **_ANCHOR)
        ctx.save_for_backward(*inputs)
        return value

    @staticmethod
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients with respect to the Gaussians."""
        inputs = ctx.saved_tensors
        gradients = [torch.empty_like(t) for t in inputs[:3]]
        count = len(inputs[0])
        grid = (triton.cdiv(count, _ANCHOR["GAUSSIANS"]),)
        _anchor_gradients[grid](*inputs, d_value, *gradients, count, **_ANCHOR)
        return *gradients, None, None


class FusedNeighbours(torch.autograd.Function):
    """`training.regularisers.rigidity_and_composition` on Triton; the gradients are computed in the forward pass.

    Arguments: displacement (B, N, 3) and change of raw density (B, N), float32; of P pairs first and second (P,),
    int64, distance and weight (P,); indices of those that count (p,), or None for all; and the width of the
    composition term. Returns the two terms, () each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        displacement: Tensor,
        density_change: Tensor,
        first: Tensor,
        second: Tensor,
        distance: Tensor,
        weight: Tensor,
        drawn: Tensor | None,
        width: float,
    ) -> tuple[Tensor, Tensor]:
        """Rigidity and composition."""
        ctx.set_materialize_grads(False)
        images, count = density_change.shape
        pairs = len(first if drawn is None else drawn)
        zeros = displacement.new_zeros(images * count * 4 + 2)
        gradient, values = zeros[:-2], zeros[-2:]
        inputs = [t.contiguous() for t in (displacement, density_change, first, second, distance, weight)]
        share = 1 / max(1, images * pairs)
        grid = (triton.cdiv(pairs, _NEIGHBOURS["PAIRS"]), triton.cdiv(images, _NEIGHBOURS["IMAGES"]))
        if images * pairs:
            _neighbours[grid](*inputs, drawn, gradient, values, count, pairs, share, width, images, **_NEIGHBOURS)
        ctx.save_for_backward(gradient.view(images, count, 4))
        return values[0], values[1]

    @staticmethod
    def backward(ctx: Any, d_rigidity: Tensor | None, d_composition: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients with respect to ``displacement`` and ``density_change``."""
        (gradient,) = ctx.saved_tensors
        images, count, _ = gradient.shape
        d_displacement = None if d_rigidity is None else gradient.new_empty(images, count, 3)
        d_density_change = None if d_composition is None else gradient.new_empty(images, count)
        grid = (triton.cdiv(count, _SCALE["GAUSSIANS"]), images)
        _scale[grid](gradient, d_rigidity, d_composition, d_displacement, d_density_change, count, **_SCALE)
        return d_displacement, d_density_change, None, None, None, None, None, None
