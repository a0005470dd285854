"""The Triton kernels behind `model.pair_decoder.decode_pairs`, whose symbols are used here.

Rows are pairs: a tile is one image b and `ROWS` consecutive Gaussians. Buffers of activations have
B x Np rows, Np = N rounded up to whole tiles; padded rows carry zero gradients.

Forward, one kernel; it saves h_L alone, in bfloat16. Backward: `_head_input_gradients` and
`_head_weight_gradients` each recompute u from h_L; then `_layer_gradients` once a hidden layer, from the
last to the first, recomputes the layer's input from the parts and gives its weight's gradient and its
input's, which the first layer's pass adds up into the parts' gradients. In multiply-adds per pair
(k = 128, 2F = 512, two hidden layers): 106k forward; 139k, 147k, 51k and 34k backward.
"""

# mypy: disable-error-code="assignment"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaussianem_core.kernels.support import multiprocessors, triton_interpreted

_PADDING = 128  # Gaussians of an activation buffer come in multiples of this: the largest ROWS
COUNTS = ["images", "count", "tiles_per_image"]
"""Arguments whose values compile no kernel of their own: another number of Gaussians would."""


@triton.jit
def _load_tile(pointer, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr):
    """(ROWS, COLUMNS) from a row and column on, of a row-major matrix whose rows are STRIDE apart."""
    rows = row + tl.arange(0, ROWS)
    return tl.load(pointer + rows[:, None] * STRIDE + (column + tl.arange(0, COLUMNS))[None, :])


@triton.jit
def _load_out_weight(pointer, first, HEADS: tl.constexpr, CHUNK: tl.constexpr):
    """(16, CHUNK) columns of the (4, HEADS) output weight, zero rows below: a matrix unit needs 16."""
    rows = tl.arange(0, 16)[:, None]
    columns = first + tl.arange(0, CHUNK)[None, :]
    return tl.load(pointer + rows * HEADS + columns, mask=rows < 4, other=0.0)


@triton.jit
def _load_parts(
    z_part,
    gaussian_part,
    tile,
    tiles_per_image,
    count,
    column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
):
    """Some columns of a tile's two summands in the first layer: (COLUMNS,) and (ROWS, COLUMNS)."""
    columns = column + tl.arange(0, COLUMNS)
    n = (tile % tiles_per_image) * ROWS + tl.arange(0, ROWS)
    g = tl.load(gaussian_part + n[:, None] * STRIDE + columns[None, :], mask=n[:, None] < count, other=0.0)
    return tl.load(z_part + (tile // tiles_per_image) * STRIDE + columns), g


@triton.jit
def _load_out_gradient(pointer, tile, tiles_per_image, count, ROWS: tl.constexpr):
    """(ROWS, 16) of the (images, count, 4) gradient of a tile's outputs, zero beyond it."""
    n = (tile % tiles_per_image) * ROWS + tl.arange(0, ROWS)
    o = tl.arange(0, 16)
    offsets = ((tile // tiles_per_image) * count + n)[:, None] * 4 + o[None, :]
    return tl.load(pointer + offsets, mask=(n[:, None] < count) & (o[None, :] < 4), other=0.0)


@triton.jit
def _first_relu(z, g):
    """relu(z + g), (COLUMNS,) and (ROWS, COLUMNS), in g's type."""
    return tl.maximum(z[None, :] + g.to(tl.float32), 0.0).to(g.dtype)


@triton.jit
def _linear(h, weight, bias):
    """h (ROWS, I) weight (O, I)^T + bias (O,) -> (ROWS, O) float32."""
    return tl.dot(h, tl.trans(weight)) + bias.to(tl.float32)[None, :]


@triton.jit
def _halves(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Left and right half of the columns: staged one after the other they need half the shared memory."""
    return tl.split(tl.permute(tl.reshape(x, (ROWS, 2, WIDTH // 2)), (0, 2, 1)))


@triton.jit
def _store_rows(pointer, rows, x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Store (ROWS, WIDTH) at 64-bit row numbers of a row-major buffer."""
    HALF: tl.constexpr = WIDTH // 2
    left, right = _halves(x, ROWS, WIDTH)
    offsets = rows[:, None] * WIDTH + tl.arange(0, HALF)[None, :]
    tl.store(pointer + offsets, left)
    tl.store(pointer + HALF + offsets, right)


@triton.jit
def _resident(
    hidden_weights,
    head_weight,
    out_weight,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LAYERS: tl.constexpr,
    CHUNK: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """All weights as tuples of tiles, loaded before the loop over tiles so that they stay in shared memory:
    the first matrix in two halves of its columns, as its input; the other layers; head and output chunks."""
    HALF: tl.constexpr = WIDTH // 2
    first = ()
    hidden = ()
    heads = ()
    outs = ()
    if RESIDENT:
        if LAYERS > 0:
            first = first + (_load_tile(hidden_weights, 0, 0, WIDTH, HALF, WIDTH),)
            first = first + (_load_tile(hidden_weights, 0, HALF, WIDTH, HALF, WIDTH),)
        for layer in tl.static_range(1, LAYERS):
            hidden = hidden + (_load_tile(hidden_weights, layer * WIDTH, 0, WIDTH, WIDTH, WIDTH),)
        for chunk in tl.static_range(HEADS // CHUNK):
            heads = heads + (_load_tile(head_weight, chunk * CHUNK, 0, CHUNK, WIDTH, WIDTH),)
            outs = outs + (_load_out_weight(out_weight, chunk * CHUNK, HEADS, CHUNK),)
    return first, hidden, heads, outs


@triton.jit(do_not_specialize=COUNTS)
def _forward(
    z_part,
    gaussian_part,
    hidden_weights,
    hidden_biases,
    head_weight,
    head_bias,
    out_weight,
    out_bias,
    out,
    activations,  # (images * padded, WIDTH), h_L written where SAVE
    images,
    count,
    tiles_per_image,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    RESIDENT: tl.constexpr,
    SAVE: tl.constexpr,
):
    HALF: tl.constexpr = WIDTH // 2
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, 16)
    first, hidden, heads, outs = _resident(
        hidden_weights, head_weight, out_weight, WIDTH, HEADS, LAYERS, CHUNK, RESIDENT
    )
    bias_out = tl.load(out_bias + o, mask=o < 4, other=0.0).to(tl.float32)
    tile = tl.program_id(0)
    z0, g0 = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, 0, ROWS, HALF, WIDTH)
    z1, g1 = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, HALF, ROWS, HALF, WIDTH)
    for tile in tl.range(tl.program_id(0), images * tiles_per_image, tl.num_programs(0)):
        image = tile // tiles_per_image
        n = (tile % tiles_per_image) * ROWS + tl.arange(0, ROWS)
        following = tl.minimum(tile + tl.num_programs(0), images * tiles_per_image - 1)
        if RESIDENT:
            left = first[0]
            right = first[1]
        else:
            left = _load_tile(hidden_weights, 0, 0, WIDTH, HALF, WIDTH)
            right = _load_tile(hidden_weights, 0, HALF, WIDTH, HALF, WIDTH)
        # The first activations come in two halves, each staged through shared memory on its own: all the
        # weights and one whole tile would not fit together. The next tile's are fetched meanwhile.
        a = _linear(_first_relu(z0, g0), left, tl.load(hidden_biases + k))
        z0, g0 = _load_parts(z_part, gaussian_part, following, tiles_per_image, count, 0, ROWS, HALF, WIDTH)
        a = tl.dot(_first_relu(z1, g1), tl.trans(right), a)
        z1, g1 = _load_parts(z_part, gaussian_part, following, tiles_per_image, count, HALF, ROWS, HALF, WIDTH)
        h = tl.maximum(a, 0.0).to(gaussian_part.dtype.element_ty)
        for layer in tl.static_range(1, LAYERS):
            if RESIDENT:
                weight = hidden[layer - 1]
            else:
                weight = _load_tile(hidden_weights, layer * WIDTH, 0, WIDTH, WIDTH, WIDTH)
            a = _linear(h, weight, tl.load(hidden_biases + layer * WIDTH + k))
            h = tl.maximum(a, 0.0).to(gaussian_part.dtype.element_ty)
        if SAVE:
            _store_rows(activations, tile * ROWS + tl.arange(0, ROWS).to(tl.int64), h, ROWS, WIDTH)
        result = tl.zeros((ROWS, 16), tl.float32) + bias_out[None, :]
        for chunk in tl.static_range(HEADS // CHUNK):
            if RESIDENT:
                weight = heads[chunk]
                last = outs[chunk]
            else:
                weight = _load_tile(head_weight, chunk * CHUNK, 0, CHUNK, WIDTH, WIDTH)
                last = _load_out_weight(out_weight, chunk * CHUNK, HEADS, CHUNK)
            u = _linear(h, weight, tl.load(head_bias + chunk * CHUNK + tl.arange(0, CHUNK)))
            u = tl.maximum(u, 0.0).to(gaussian_part.dtype.element_ty)
            result = tl.dot(u, tl.trans(last), result)
        offsets = (image * count + n)[:, None] * 4 + o[None, :]
        tl.store(out + offsets, result, mask=(n[:, None] < count) & (o[None, :] < 4))


@triton.jit(do_not_specialize=COUNTS)
def _head_input_gradients(
    activations,  # (images * padded, WIDTH), h_L
    head_weight,
    head_bias,
    out_weight,
    out_gradient,
    gradients,  # (images * padded, WIDTH), written: with respect to the input of the relu that made h_L
    images,
    count,
    tiles_per_image,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    k = tl.arange(0, WIDTH)
    _, _, heads, outs = _resident(head_weight, head_weight, out_weight, WIDTH, HEADS, 0, CHUNK, RESIDENT)
    tile = tl.program_id(0)
    rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
    following_h = tl.load(activations + rows[:, None] * WIDTH + k[None, :])
    following_d = _load_out_gradient(out_gradient, tile, tiles_per_image, count, ROWS)
    for tile in tl.range(tl.program_id(0), images * tiles_per_image, tl.num_programs(0)):
        # The maximum changes nothing; it brings the operand into registers.
        h = tl.maximum(following_h, 0.0).to(activations.dtype.element_ty)
        d_out = following_d.to(activations.dtype.element_ty)
        following = tl.minimum(tile + tl.num_programs(0), images * tiles_per_image - 1)
        rows = following * ROWS + tl.arange(0, ROWS).to(tl.int64)
        following_h = tl.load(activations + rows[:, None] * WIDTH + k[None, :])
        following_d = _load_out_gradient(out_gradient, following, tiles_per_image, count, ROWS)
        d_h = tl.zeros((ROWS, WIDTH), tl.float32)
        for chunk in tl.static_range(HEADS // CHUNK):
            if RESIDENT:
                weight = heads[chunk]
                last = outs[chunk]
            else:
                weight = _load_tile(head_weight, chunk * CHUNK, 0, CHUNK, WIDTH, WIDTH)
                last = _load_out_weight(out_weight, chunk * CHUNK, HEADS, CHUNK)
            u = _linear(h, weight, tl.load(head_bias + chunk * CHUNK + tl.arange(0, CHUNK)))
            d_u = tl.where(u > 0.0, tl.dot(d_out, last), 0.0).to(activations.dtype.element_ty)
            d_h = tl.dot(d_u, weight, d_h)
        d_a = tl.where(h > 0.0, d_h, 0.0).to(activations.dtype.element_ty)
        _store_rows(gradients, tile * ROWS + tl.arange(0, ROWS).to(tl.int64), d_a, ROWS, WIDTH)


@triton.jit(do_not_specialize=COUNTS)
def _head_weight_gradients(
    activations,  # (images * padded, WIDTH), h_L
    head_weight,
    head_bias,
    out_weight,
    out_gradient,
    d_head_weight,  # (HEADS, WIDTH) float32; this and the following are added to
    d_head_bias,  # (HEADS,)
    d_out_weight,  # (4, HEADS)
    d_out_bias,  # (4,)
    images,
    count,
    tiles_per_image,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    # Transposed throughout, (CHUNK, ROWS), so that each product's left operand is the previous one's result.
    first = tl.program_id(0) * CHUNK
    c = first + tl.arange(0, CHUNK)
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, 16)
    weight = _load_tile(head_weight, first, 0, CHUNK, WIDTH, WIDTH)
    last = tl.load(out_weight + o[None, :] * HEADS + c[:, None], mask=o[None, :] < 4, other=0.0)
    bias = tl.load(head_bias + c).to(tl.float32)
    sum_weight = tl.zeros((CHUNK, WIDTH), tl.float32)
    sum_bias = tl.zeros((CHUNK,), tl.float32)
    sum_out = tl.zeros((CHUNK, 16), tl.float32)
    sum_out_bias = tl.zeros((ROWS, 16), tl.float32)
    for tile in tl.range(tl.program_id(1), images * tiles_per_image, tl.num_programs(1), num_stages=STAGES):
        rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        h = tl.load(activations + rows[:, None] * WIDTH + k[None, :])
        d_out = _load_out_gradient(out_gradient, tile, tiles_per_image, count, ROWS)
        sum_out_bias += d_out
        d_out = d_out.to(head_weight.dtype.element_ty)
        u = tl.dot(weight, tl.trans(h)) + bias[:, None]
        d_u = tl.where(u > 0.0, tl.dot(last, tl.trans(d_out)), 0.0)
        sum_bias += tl.sum(d_u, 1)
        sum_weight = tl.dot(d_u.to(head_weight.dtype.element_ty), h, sum_weight)
        sum_out = tl.dot(tl.maximum(u, 0.0).to(head_weight.dtype.element_ty), d_out, sum_out)
    tl.atomic_add(d_head_weight + c[:, None] * WIDTH + k[None, :], sum_weight, sem="relaxed")
    tl.atomic_add(d_head_bias + c, sum_bias, sem="relaxed")
    inside = (o[None, :] < 4) & (c[:, None] < HEADS)
    tl.atomic_add(d_out_weight + o[None, :] * HEADS + c[:, None], sum_out, mask=inside, sem="relaxed")
    if first == 0:
        tl.atomic_add(d_out_bias + o, tl.sum(sum_out_bias, 0), mask=o < 4, sem="relaxed")


@triton.jit(do_not_specialize=["images", "count"])
def _layer_gradients(
    z_part,
    gaussian_part,
    hidden_weights,
    hidden_biases,
    gradients,  # (images * padded, WIDTH), with respect to the input of relu LAYER
    before,  # (images * padded, WIDTH), written where LAYER > 1: the same for relu LAYER - 1
    d_weights,  # (LAYERS, WIDTH, WIDTH) float32; this and the following are added to
    d_biases,  # (LAYERS, WIDTH)
    d_z_part,  # (images, WIDTH)
    d_gaussian_part,  # (count, WIDTH)
    images,
    count,
    padded,
    WIDTH: tl.constexpr,
    LAYER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    # A program makes COLUMNS of the layer's inputs. Its tiles come in the order of Gaussians, then images, so
    # that gradients of a Gaussian's part add up in registers.
    column = tl.program_id(1) * COLUMNS
    k = tl.arange(0, WIDTH)
    c = column + tl.arange(0, COLUMNS)
    tiles = padded // ROWS * images
    begin = tl.program_id(0) * tiles // tl.num_programs(0)
    end = (tl.program_id(0) + 1) * tiles // tl.num_programs(0)
    weight = _load_tile(hidden_weights, (LAYER - 1) * WIDTH, column, WIDTH, COLUMNS, WIDTH)
    earlier = ()
    for layer in tl.static_range(LAYER - 2):
        earlier = earlier + (_load_tile(hidden_weights, layer * WIDTH, 0, WIDTH, WIDTH, WIDTH),)
    if LAYER > 1:
        into = _load_tile(hidden_weights, (LAYER - 2) * WIDTH + column, 0, COLUMNS, WIDTH, WIDTH)
        into_bias = tl.load(hidden_biases + (LAYER - 2) * WIDTH + c)
    ones = tl.full((ROWS, 16), 1.0, gradients.dtype.element_ty)
    sum_weight = tl.zeros((WIDTH, COLUMNS), tl.float32)
    sum_bias = tl.zeros((WIDTH, 16), tl.float32)
    for block in range(begin // images, (end + images - 1) // images):
        n = block * ROWS + tl.arange(0, ROWS)
        inside = n[:, None] < count
        if LAYER == 1:
            g = tl.load(gaussian_part + n[:, None] * WIDTH + c[None, :], mask=inside, other=0.0)
        else:
            g = tl.load(gaussian_part + n[:, None] * WIDTH + k[None, :], mask=inside, other=0.0)
        sum_g = tl.zeros((ROWS, COLUMNS), tl.float32)
        first = tl.maximum(begin - block * images, 0)
        last = tl.minimum(end - block * images, images)
        for image in tl.range(first, last, num_stages=STAGES):
            rows = image * padded + n.to(tl.int64)
            d_a = tl.load(gradients + rows[:, None] * WIDTH + k[None, :])
            if LAYER == 1:
                h = _first_relu(tl.load(z_part + image * WIDTH + c), g)
            else:
                h = _first_relu(tl.load(z_part + image * WIDTH + k), g)
                for layer in tl.static_range(LAYER - 2):
                    a = _linear(h, earlier[layer], tl.load(hidden_biases + layer * WIDTH + k))
                    h = tl.maximum(a, 0.0).to(gradients.dtype.element_ty)
                h = tl.maximum(_linear(h, into, into_bias), 0.0).to(gradients.dtype.element_ty)
            d_h = tl.where(h > 0.0, tl.dot(d_a, weight), 0.0)
            sum_weight = tl.dot(tl.trans(d_a), h, sum_weight)
            sum_bias = tl.dot(tl.trans(d_a), ones, sum_bias)
            if LAYER == 1:
                sum_g += d_h
                tl.atomic_add(d_z_part + image * WIDTH + c, tl.sum(d_h, 0), sem="relaxed")
            else:
                tl.store(before + rows[:, None] * WIDTH + c[None, :], d_h.to(gradients.dtype.element_ty))
        if LAYER == 1:
            target = d_gaussian_part + n[:, None] * WIDTH + c[None, :]
            tl.atomic_add(target, sum_g, mask=inside, sem="relaxed")
    target = d_weights + ((LAYER - 1) * WIDTH + k)[:, None] * WIDTH + c[None, :]
    tl.atomic_add(target, sum_weight, sem="relaxed")
    if column == 0:
        tl.atomic_add(d_biases + (LAYER - 1) * WIDTH + k, tl.sum(sum_bias, 1) / 16, sem="relaxed")


class Rounded(NamedTuple):
    """The weights as the kernels take them, stacked by layer, rounded where a matrix unit reads them: hidden weights
    (L, k, k) and biases (L, k), head weight (2F, k) and bias (2F,), output weight (4, 2F)."""

    hidden_weights: Tensor
    hidden_biases: Tensor
    head_weight: Tensor
    head_bias: Tensor
    out_weight: Tensor


def operand_type() -> torch.dtype:
    """What matrix units read: bfloat16, or float32 in the interpreter, which has no bfloat16."""
    return torch.float32 if triton_interpreted() else torch.bfloat16


@torch.no_grad()
def rounded_weights(
    hidden_weights: Sequence[Tensor],
    hidden_biases: Sequence[Tensor],
    head_weight: Tensor,
    head_bias: Tensor,
    out_weight: Tensor,
) -> Rounded:
    """The weights of `model.pair_decoder.decode_pairs`, as there, as the kernels take them."""
    operand = operand_type()
    return Rounded(
        torch.stack(list(hidden_weights)).to(operand),
        torch.stack(list(hidden_biases)).float(),
        head_weight.to(operand).contiguous(),
        head_bias.float().contiguous(),
        out_weight.to(operand).contiguous(),
    )


class FusedDecoder(torch.autograd.Function):
    """`model.pair_decoder.decode_pairs` through the kernels, (B, N, 4) float32; arguments as there, with the hidden
    weights, then the hidden biases last. `save`: whether a backward pass may follow. `rounded`: the weights as the
    kernels take them, where they have been formed already."""

    @staticmethod
    def forward(
        ctx: Any,
        save: bool,
        rounded: Rounded | None,
        z_part: Tensor,
        gaussian_part: Tensor,
        head_weight: Tensor,
        head_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        *hidden: Tensor,
    ) -> Tensor:
        """Decoded pairs (B, N, 4), see the class."""
        layers = len(hidden) // 2
        if rounded is None:
            rounded = rounded_weights(hidden[:layers], hidden[layers:], head_weight, head_bias, out_weight)
        weights = (z_part.float().contiguous(), gaussian_part.to(operand_type()).contiguous(), *rounded)
        out, activations = launch_forward(*weights, out_bias.float(), save=save)
        ctx.save_for_backward(*weights, activations)
        ctx.dtypes = [t.dtype for t in (z_part, gaussian_part, head_weight, head_bias, out_weight, out_bias)]
        ctx.dtypes += [t.dtype for t in hidden]
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:  # type: ignore[override]
        """Gradients of all tensors from that of the pairs (B, N, 4), in the tensors' own precision."""
        results = launch_backward(ctx.saved_tensors, d_out.float().contiguous())
        grads = (*results[:6], *results[6].unbind(), *results[7].unbind())
        return None, None, *(g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))


def launch_forward(
    z_part: Tensor,
    gaussian_part: Tensor,
    hidden_weights: Tensor,
    hidden_biases: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    save: bool,
    **override: int,
) -> tuple[Tensor, Tensor]:
    """Run the forward kernel: (B, N, 4) float32 and, where `save`, the last hidden activations (B, Np, k) for the
    backward kernels (else B, 0, k).

    Shapes as in `model.pair_decoder.decode_pairs`, the hidden layers stacked: hidden_weights (L, k, k), hidden_biases
    (L, k). `override` replaces block sizes, for benchmarks."""
    (images, width), count, heads = z_part.shape, gaussian_part.shape[0], head_weight.shape[0]
    out = z_part.new_empty(images, count, 4)
    padded = triton.cdiv(count, _PADDING) * _PADDING
    activations = gaussian_part.new_empty(images, padded if save else 0, width)
    if out.numel():
        blocks = forward_blocks(width, heads, hidden_weights.shape[0], _on_hopper(z_part.device)) | override
        tiles = triton.cdiv(padded if save else count, blocks["ROWS"])
        programs = min(images * tiles, multiprocessors(z_part.device) * blocks.pop("per_multiprocessor"))
        _forward[(programs,)](
            z_part,
            gaussian_part,
            hidden_weights,
            hidden_biases,
            head_weight,
            head_bias,
            out_weight,
            out_bias,
            out,
            activations,
            images,
            count,
            tiles,
            WIDTH=width,
            HEADS=heads,
            LAYERS=hidden_weights.shape[0],
            SAVE=save,
            **blocks,
        )
    return out, activations


def launch_backward(saved: Sequence[Tensor], d_out: Tensor, **override: dict[str, int]) -> list[Tensor]:
    """Run the backward kernels: gradients of z_part, gaussian_part, head_weight, head_bias, out_weight, out_bias,
    hidden_weights, hidden_biases, all float32 and of their shapes.

    `saved`: the first seven arguments of `launch_forward` and the activations it returned. `d_out` (B, N, 4): gradient
    of its result. `override` replaces block sizes of a stage."""
    z_part, gaussian_part, hidden_weights, hidden_biases, head_weight, head_bias, out_weight, activations = saved
    (images, width), count, heads = z_part.shape, gaussian_part.shape[0], head_weight.shape[0]
    layers, padded = hidden_weights.shape[0], activations.shape[1]
    likes = (z_part, gaussian_part, head_weight, head_bias, out_weight, hidden_weights, hidden_biases)
    shapes = [t.shape for t in likes]
    shapes.insert(5, torch.Size([4]))
    zeros = z_part.new_zeros(sum(shape.numel() for shape in shapes))  # one launch clears all
    parts = zeros.split([shape.numel() for shape in shapes])
    results = [part.view(shape) for part, shape in zip(parts, shapes)]
    d_z, d_gaussian, d_head, d_head_bias, d_out_weight, d_out_bias, d_hidden, d_hidden_bias = results
    if d_out.numel() == 0:
        return results
    blocks = backward_blocks(width, heads, _on_hopper(z_part.device))
    inputs, head = (blocks[stage] | override.get(stage, {}) for stage in ("inputs", "head"))
    device = z_part.device

    gradients = torch.empty_like(activations)
    tiles = images * padded // inputs["ROWS"]
    programs = min(tiles, multiprocessors(device) * inputs.pop("per_multiprocessor"))
    _head_input_gradients[(programs,)](
        activations,
        head_weight,
        head_bias,
        out_weight,
        d_out,
        gradients,
        images,
        count,
        tiles // images,
        WIDTH=width,
        HEADS=heads,
        **inputs,
    )

    tiles = images * padded // head["ROWS"]
    chunks = heads // head["CHUNK"]
    programs = max(1, min(tiles, multiprocessors(device) * head.pop("per_multiprocessor") // chunks))
    _head_weight_gradients[(chunks, programs)](
        activations,
        head_weight,
        head_bias,
        out_weight,
        d_out,
        d_head,
        d_head_bias,
        d_out_weight,
        d_out_bias,
        images,
        count,
        tiles // images,
        WIDTH=width,
        HEADS=heads,
        **head,
    )

    for layer in range(layers, 0, -1):
        stage = "layer" if layer > 1 else "first"
        hidden = blocks[stage] | override.get(stage, {})
        before = torch.empty_like(gradients) if layer > 1 else gradients
        tiles = images * padded // hidden["ROWS"]
        columns = width // hidden["COLUMNS"]
        programs = max(1, min(tiles, multiprocessors(device) * hidden.pop("per_multiprocessor") // columns))
        _layer_gradients[(programs, columns)](
            z_part,
            gaussian_part,
            hidden_weights,
            hidden_biases,
            gradients,
            before,
            d_hidden,
            d_hidden_bias,
            d_z,
            d_gaussian,
            images,
            count,
            padded,
            WIDTH=width,
            LAYER=layer,
            **hidden,
        )
        gradients = before
    return results


def forward_blocks(width: int, heads: int, layers: int, hopper: bool = True) -> dict[str, Any]:
    """Block sizes of the forward kernel for hidden width k, 2F head units and L layers: measured on Hopper, elsewhere
    small enough for any GPU."""
    if hopper and _weights_fit(layers * width + heads, width, heads):
        return {
            "ROWS": 128,
            "CHUNK": min(128, heads),
            "RESIDENT": True,
            "num_warps": 8,
            "num_stages": 1,
            "per_multiprocessor": 1,
        }
    return {
        "ROWS": 64,
        "CHUNK": 64,
        "RESIDENT": False,
        "num_warps": 4,
        "num_stages": 1,
        "per_multiprocessor": 2,
    }


def backward_blocks(width: int, heads: int, hopper: bool = True) -> dict[str, dict[str, Any]]:
    """Block sizes of the backward kernels, by stage, for hidden width k and 2F head units: measured on Hopper,
    elsewhere small enough for any GPU."""
    columns = min(64, width)
    if not hopper:
        small = {"ROWS": 32, "COLUMNS": columns, "STAGES": 2, "num_warps": 4, "per_multiprocessor": 2}
        return {
            "inputs": {
                "ROWS": 64,
                "CHUNK": 64,
                "RESIDENT": False,
                "num_warps": 4,
                "num_stages": 1,
                "per_multiprocessor": 2,
            },
            "head": {"ROWS": 64, "CHUNK": 64, "STAGES": 2, "num_warps": 4, "per_multiprocessor": 2},
            "layer": small,
            "first": small,
        }
    return {
        "inputs": {
            "ROWS": 128,
            "CHUNK": 64,
            "RESIDENT": _weights_fit(heads, width, heads),
            "num_warps": 8,
            "num_stages": 1,
            "per_multiprocessor": 1,
        },
        "head": {"ROWS": 64, "CHUNK": min(128, heads), "STAGES": 3, "num_warps": 8, "per_multiprocessor": 1},
        "layer": {"ROWS": 64, "COLUMNS": columns, "STAGES": 3, "num_warps": 4, "per_multiprocessor": 2},
        "first": {"ROWS": 64, "COLUMNS": width, "STAGES": 3, "num_warps": 8, "per_multiprocessor": 1},
    }


def _on_hopper(device: torch.device) -> bool:
    """Whether the block sizes measured on Hopper hold: 227 KB of shared memory, wgmma. So in the interpreter."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == 9


def _weights_fit(rows: int, width: int, heads: int) -> bool:
    """Whether (rows, width) weights and the output weight fit in one multiprocessor's shared memory (227 KB
    on Hopper) with room to spare."""
    return 2 * (rows * width + 16 * heads) <= 210 * 1024
