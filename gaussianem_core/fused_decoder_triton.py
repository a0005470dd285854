"""The Triton kernels behind `fused_decoder.decode_pairs`.

Rows are pairs: a tile is one image b and `ROWS` consecutive Gaussians. Buffers of activations have
B x Np rows, Np = N rounded up to whole tiles; padded rows carry zero gradients.

Per pair, in multiply-adds (k = 128, 2F = 512, two hidden layers): forward 100k; `_input_gradients` 100k
again plus 99k; `_head_weight_gradients` 64k again plus 67k; `_hidden_weight_gradients` 33k.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaussianem_core.projection import triton_interpreted


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
def _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, column, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr, STRIDE: tl.constexpr):  # fmt: skip
    """Some columns of a tile's two summands in the first layer: (COLUMNS,) and (ROWS, COLUMNS)."""
    columns = column + tl.arange(0, COLUMNS)
    n = (tile % tiles_per_image) * ROWS + tl.arange(0, ROWS)
    g = tl.load(gaussian_part + n[:, None] * STRIDE + columns[None, :], mask=n[:, None] < count, other=0.0)
    return tl.load(z_part + (tile // tiles_per_image) * STRIDE + columns), g


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
    hidden_weights, head_weight, out_weight,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, LAYERS: tl.constexpr, CHUNK: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """All weights as tuples of tiles, loaded before the loop over tiles so that they stay in shared memory:
    the first matrix in two halves of its columns, as its input; the other layers; head and output chunks."""
    HALF: tl.constexpr = WIDTH // 2
    first = ()
    hidden = ()
    heads = ()
    outs = ()
    if RESIDENT:
        first = first + (_load_tile(hidden_weights, 0, 0, WIDTH, HALF, WIDTH),)
        first = first + (_load_tile(hidden_weights, 0, HALF, WIDTH, HALF, WIDTH),)
        for layer in tl.static_range(1, LAYERS):
            hidden = hidden + (_load_tile(hidden_weights, layer * WIDTH, 0, WIDTH, WIDTH, WIDTH),)
        for chunk in tl.static_range(HEADS // CHUNK):
            heads = heads + (_load_tile(head_weight, chunk * CHUNK, 0, CHUNK, WIDTH, WIDTH),)
            outs = outs + (_load_out_weight(out_weight, chunk * CHUNK, HEADS, CHUNK),)
    return first, hidden, heads, outs


@triton.jit
def _forward(
    z_part, gaussian_part, hidden_weights, hidden_biases, head_weight, head_bias, out_weight, out_bias, out,
    images, count, tiles_per_image,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, LAYERS: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
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


@triton.jit
def _input_gradients(
    z_part, gaussian_part, hidden_weights, hidden_biases, head_weight, head_bias, out_weight, out_gradient,
    activations,  # (LAYERS, images * padded, WIDTH), written: h_1 .. h_L
    gradients,  # (LAYERS + 1, images * padded, WIDTH), written: with respect to the inputs of relu 0 .. L
    images, count, tiles_per_image,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, LAYERS: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = WIDTH // 2
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, 16)
    total = images * tiles_per_image * ROWS  # rows of one layer's buffer
    first, hidden, heads, outs = _resident(
        hidden_weights, head_weight, out_weight, WIDTH, HEADS, LAYERS, CHUNK, RESIDENT
    )
    for tile in tl.range(tl.program_id(0), images * tiles_per_image, tl.num_programs(0)):
        image = tile // tiles_per_image
        n = (tile % tiles_per_image) * ROWS + tl.arange(0, ROWS)
        rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        z0, g0 = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, 0, ROWS, HALF, WIDTH)
        z1, g1 = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, HALF, ROWS, HALF, WIDTH)
        if RESIDENT:
            left = first[0]
            right = first[1]
        else:
            left = _load_tile(hidden_weights, 0, 0, WIDTH, HALF, WIDTH)
            right = _load_tile(hidden_weights, 0, HALF, WIDTH, HALF, WIDTH)
        a = _linear(_first_relu(z0, g0), left, tl.load(hidden_biases + k))
        a = tl.dot(_first_relu(z1, g1), tl.trans(right), a)
        h = tl.maximum(a, 0.0).to(gaussian_part.dtype.element_ty)
        _store_rows(activations, rows, h, ROWS, WIDTH)
        saved = (h,)
        for layer in tl.static_range(1, LAYERS):
            if RESIDENT:
                weight = hidden[layer - 1]
            else:
                weight = _load_tile(hidden_weights, layer * WIDTH, 0, WIDTH, WIDTH, WIDTH)
            a = _linear(h, weight, tl.load(hidden_biases + layer * WIDTH + k))
            h = tl.maximum(a, 0.0).to(gaussian_part.dtype.element_ty)
            _store_rows(activations, layer * total + rows, h, ROWS, WIDTH)
            saved = saved + (h,)
        inside = (n[:, None] < count) & (o[None, :] < 4)
        d_out = tl.load(out_gradient + (image * count + n)[:, None] * 4 + o[None, :], mask=inside, other=0.0)
        d_out = d_out.to(gaussian_part.dtype.element_ty)
        d_h = tl.zeros((ROWS, WIDTH), tl.float32)
        for chunk in tl.static_range(HEADS // CHUNK):
            if RESIDENT:
                weight = heads[chunk]
                last = outs[chunk]
            else:
                weight = _load_tile(head_weight, chunk * CHUNK, 0, CHUNK, WIDTH, WIDTH)
                last = _load_out_weight(out_weight, chunk * CHUNK, HEADS, CHUNK)
            u = _linear(h, weight, tl.load(head_bias + chunk * CHUNK + tl.arange(0, CHUNK)))
            d_u = tl.where(u > 0.0, tl.dot(d_out, last), 0.0).to(gaussian_part.dtype.element_ty)
            d_h = tl.dot(d_u, weight, d_h)
        for step in tl.static_range(LAYERS - 1):
            if RESIDENT:
                weight = hidden[LAYERS - 2 - step]
            else:
                weight = _load_tile(hidden_weights, (LAYERS - 1 - step) * WIDTH, 0, WIDTH, WIDTH, WIDTH)
            d_a = tl.where(saved[LAYERS - 1 - step] > 0.0, d_h, 0.0).to(gaussian_part.dtype.element_ty)
            _store_rows(gradients, (LAYERS - step) * total + rows, d_a, ROWS, WIDTH)
            d_h = tl.dot(d_a, weight)
        d_a = tl.where(saved[0] > 0.0, d_h, 0.0).to(gaussian_part.dtype.element_ty)
        _store_rows(gradients, total + rows, d_a, ROWS, WIDTH)
        if not RESIDENT:
            left = _load_tile(hidden_weights, 0, 0, WIDTH, HALF, WIDTH)
            right = _load_tile(hidden_weights, 0, HALF, WIDTH, HALF, WIDTH)
        offsets = rows[:, None] * WIDTH + tl.arange(0, HALF)[None, :]
        d_0 = tl.dot(d_a, left).to(gaussian_part.dtype.element_ty)
        z0, g0 = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, 0, ROWS, HALF, WIDTH)
        tl.store(gradients + offsets, tl.where(z0[None, :] + g0.to(tl.float32) > 0.0, d_0, 0.0))
        d_1 = tl.dot(d_a, right).to(gaussian_part.dtype.element_ty)
        z1, g1 = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, HALF, ROWS, HALF, WIDTH)
        tl.store(gradients + HALF + offsets, tl.where(z1[None, :] + g1.to(tl.float32) > 0.0, d_1, 0.0))


@triton.jit
def _head_weight_gradients(
    activations,  # (images * padded, WIDTH) bfloat16, h_L
    head_weight, head_bias, out_weight, out_gradient,
    d_head_weight,  # (splits, HEADS, WIDTH) float32, written
    d_head_bias,  # (splits, HEADS)
    d_out_weight,  # (splits, HEADS, 4)
    images, count, tiles_per_image,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    # Transposed throughout, (CHUNK, ROWS), so that each product's left operand is the previous one's result.
    first = tl.program_id(0) * CHUNK
    split = tl.program_id(1)
    c = first + tl.arange(0, CHUNK)
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, 16)
    weight = _load_tile(head_weight, first, 0, CHUNK, WIDTH, WIDTH)
    last = tl.load(out_weight + o[None, :] * HEADS + c[:, None], mask=o[None, :] < 4, other=0.0)
    bias = tl.load(head_bias + c).to(tl.float32)
    sum_weight = tl.zeros((CHUNK, WIDTH), tl.float32)
    sum_bias = tl.zeros((CHUNK,), tl.float32)
    sum_out = tl.zeros((CHUNK, 16), tl.float32)
    for tile in tl.range(split, images * tiles_per_image, tl.num_programs(1), num_stages=STAGES):
        image = tile // tiles_per_image
        n = (tile % tiles_per_image) * ROWS + tl.arange(0, ROWS)
        rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        h = tl.load(activations + rows[:, None] * WIDTH + k[None, :])
        inside = (n[:, None] < count) & (o[None, :] < 4)
        d_out = tl.load(out_gradient + (image * count + n)[:, None] * 4 + o[None, :], mask=inside, other=0.0)
        d_out = d_out.to(head_weight.dtype.element_ty)
        u = tl.dot(weight, tl.trans(h)) + bias[:, None]
        d_u = tl.where(u > 0.0, tl.dot(last, tl.trans(d_out)), 0.0)
        sum_bias += tl.sum(d_u, 1)
        sum_weight = tl.dot(d_u.to(head_weight.dtype.element_ty), h, sum_weight)
        sum_out = tl.dot(tl.maximum(u, 0.0).to(head_weight.dtype.element_ty), d_out, sum_out)
    tl.store(d_head_weight + (split * HEADS + c)[:, None] * WIDTH + k[None, :], sum_weight)
    tl.store(d_head_bias + split * HEADS + c, sum_bias)
    tl.store(d_out_weight + (split * HEADS + c)[:, None] * 4 + o[None, :], sum_out, mask=o[None, :] < 4)


@triton.jit
def _hidden_weight_gradients(
    z_part, gaussian_part,
    activations,  # (LAYERS, images * padded, WIDTH) bfloat16
    gradients,  # (LAYERS + 1, images * padded, WIDTH) bfloat16
    d_weights,  # (splits, LAYERS, WIDTH, WIDTH) float32, written
    d_biases,  # (splits, LAYERS, WIDTH)
    images, count, tiles_per_image,
    WIDTH: tl.constexpr, LAYERS: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    layer = tl.program_id(0)
    split = tl.program_id(1)
    k = tl.arange(0, WIDTH)
    total = images * tiles_per_image * ROWS  # rows of one layer's buffer
    sum_weight = tl.zeros((WIDTH, WIDTH), tl.float32)
    sum_bias = tl.zeros((WIDTH,), tl.float32)
    if layer == 0:
        for tile in tl.range(split, images * tiles_per_image, tl.num_programs(1), num_stages=STAGES):
            rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
            d_a = tl.load(gradients + ((layer + 1) * total + rows)[:, None] * WIDTH + k[None, :])
            z, g = _load_parts(z_part, gaussian_part, tile, tiles_per_image, count, 0, ROWS, WIDTH, WIDTH)
            h = _first_relu(z, g)
            sum_bias += tl.sum(d_a.to(tl.float32), 0)
            sum_weight = tl.dot(tl.trans(d_a), h, sum_weight)
    else:
        for tile in tl.range(split, images * tiles_per_image, tl.num_programs(1), num_stages=STAGES):
            rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
            d_a = tl.load(gradients + ((layer + 1) * total + rows)[:, None] * WIDTH + k[None, :])
            h = tl.load(activations + ((layer - 1) * total + rows)[:, None] * WIDTH + k[None, :])
            sum_bias += tl.sum(d_a.to(tl.float32), 0)
            sum_weight = tl.dot(tl.trans(d_a), h, sum_weight)
    block = split * tl.num_programs(0) + layer
    tl.store(d_weights + (block * WIDTH + k)[:, None] * WIDTH + k[None, :], sum_weight)
    tl.store(d_biases + block * WIDTH + k, sum_bias)


@triton.jit
def _part_gradients(
    gradients,  # (images * padded, WIDTH) bfloat16, of the first relu's input
    d_z_part,  # (images, WIDTH) float32, zero, added to
    d_gaussian_part,  # (count, WIDTH) float32, written
    images, count, padded,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    first = tl.program_id(1) * IMAGES
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for image in tl.range(first, tl.minimum(first + IMAGES, images), num_stages=3):
        rows = image * padded + n.to(tl.int64)
        d = tl.load(gradients + rows[:, None] * WIDTH + k[None, :]).to(tl.float32)
        total += d
        tl.atomic_add(d_z_part + image * WIDTH + k, tl.sum(d, 0), sem="relaxed")
    offsets = n[:, None] * WIDTH + k[None, :]
    tl.atomic_add(d_gaussian_part + offsets, total, mask=n[:, None] < count, sem="relaxed")


class FusedDecoder(torch.autograd.Function):
    """`decode_pairs` through the kernels; arguments as there, hidden weights then hidden biases last."""

    @staticmethod
    def forward(
        ctx: Any, z_part: Tensor, gaussian_part: Tensor, head_weight: Tensor, head_bias: Tensor,
        out_weight: Tensor, out_bias: Tensor, *hidden: Tensor,
    ) -> Tensor:  # fmt: skip
        layers = len(hidden) // 2
        operand = torch.float32 if triton_interpreted() else torch.bfloat16  # the interpreter has no bfloat16
        with torch.no_grad():
            # bfloat16 for what a matrix unit reads; float32 for what is added.
            weights = (
                z_part.float().contiguous(),
                gaussian_part.to(operand).contiguous(),
                torch.stack(hidden[:layers]).to(operand),
                torch.stack(hidden[layers:]).float(),
                head_weight.to(operand).contiguous(),
                head_bias.float().contiguous(),
                out_weight.to(operand).contiguous(),
            )
        out = launch_forward(*weights, out_bias.float(), layers)
        ctx.save_for_backward(*weights)
        ctx.layers = layers
        ctx.dtypes = [t.dtype for t in (z_part, gaussian_part, head_weight, head_bias, out_weight, out_bias)]
        ctx.dtypes += [t.dtype for t in hidden]
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:  # type: ignore[override]
        d_out = d_out.float().contiguous()
        results = launch_backward(*ctx.saved_tensors, d_out, ctx.layers)
        d_z, d_gaussian, d_head, d_head_bias, d_out_weight, d_hidden, d_hidden_bias = results
        grads = (d_z, d_gaussian, d_head, d_head_bias, d_out_weight, d_out.sum((0, 1)))
        grads += (*d_hidden.unbind(), *d_hidden_bias.unbind())
        return tuple(g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))


def launch_forward(
    z_part: Tensor, gaussian_part: Tensor, hidden_weights: Tensor, hidden_biases: Tensor,
    head_weight: Tensor, head_bias: Tensor, out_weight: Tensor, out_bias: Tensor, layers: int,
    **override: int,
) -> Tensor:  # fmt: skip
    """Forward kernel -> (B, N, 4) float32; `override` replaces block sizes, for benchmarks."""
    (images, width), count, heads = z_part.shape, gaussian_part.shape[0], head_weight.shape[0]
    out = z_part.new_empty(images, count, 4)
    if out.numel() == 0:
        return out
    blocks = forward_blocks(width, heads, layers) | override
    tiles = triton.cdiv(count, blocks["ROWS"])
    programs = min(images * tiles, multiprocessors(z_part.device) * blocks.pop("per_multiprocessor"))
    _forward[(programs,)](
        z_part, gaussian_part, hidden_weights, hidden_biases, head_weight, head_bias, out_weight, out_bias,
        out, images, count, tiles, WIDTH=width, HEADS=heads, LAYERS=layers, **blocks,
    )  # fmt: skip
    return out


def launch_backward(
    z_part: Tensor, gaussian_part: Tensor, hidden_weights: Tensor, hidden_biases: Tensor,
    head_weight: Tensor, head_bias: Tensor, out_weight: Tensor, d_out: Tensor, layers: int,
    **override: dict[str, int],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Backward kernels -> gradients of z_part, gaussian_part, head_weight, head_bias, out_weight,
    hidden_weights, hidden_biases, all float32; `override` replaces block sizes of a stage."""
    (images, width), count, heads = z_part.shape, gaussian_part.shape[0], head_weight.shape[0]
    device, new = z_part.device, z_part.new_empty
    d_z, d_gaussian = torch.zeros_like(z_part), torch.zeros(count, width, device=device)
    if images * count == 0:
        zeros = (head_weight.float(), head_bias, out_weight.float(), hidden_weights.float(), hidden_biases)
        return d_z, d_gaussian, *(torch.zeros_like(t) for t in zeros)
    blocks = backward_blocks(width, heads, layers)
    inputs, head, hidden, parts = (
        blocks[stage] | override.get(stage, {}) for stage in ("inputs", "head", "hidden", "parts")
    )
    padded = triton.cdiv(count, 128) * 128
    activations = new(layers, images * padded, width, dtype=head_weight.dtype)
    gradients = new(layers + 1, images * padded, width, dtype=head_weight.dtype)

    tiles = padded // inputs["ROWS"]
    programs = min(images * tiles, multiprocessors(device) * inputs.pop("per_multiprocessor"))
    _input_gradients[(programs,)](
        z_part, gaussian_part, hidden_weights, hidden_biases, head_weight, head_bias, out_weight, d_out,
        activations, gradients, images, count, tiles, WIDTH=width, HEADS=heads, LAYERS=layers, **inputs,
    )  # fmt: skip

    tiles = padded // head["ROWS"]
    chunks = heads // head["CHUNK"]
    splits = _splits(images * tiles, multiprocessors(device) * head.pop("per_multiprocessor") // chunks)
    d_head, d_head_bias = new(splits, heads, width), new(splits, heads)
    d_out_weight = new(splits, heads, 4)
    _head_weight_gradients[(chunks, splits)](
        activations[-1], head_weight, head_bias, out_weight, d_out, d_head, d_head_bias, d_out_weight,
        images, count, tiles, WIDTH=width, HEADS=heads, **head,
    )  # fmt: skip

    tiles = padded // hidden["ROWS"]
    splits = _splits(images * tiles, multiprocessors(device) * hidden.pop("per_multiprocessor") // layers)
    d_hidden, d_hidden_bias = new(splits, layers, width, width), new(splits, layers, width)
    _hidden_weight_gradients[(layers, splits)](
        z_part, gaussian_part, activations, gradients, d_hidden, d_hidden_bias,
        images, count, tiles, WIDTH=width, LAYERS=layers, **hidden,
    )  # fmt: skip

    _part_gradients[(triton.cdiv(count, parts["ROWS"]), triton.cdiv(images, parts["IMAGES"]))](
        gradients, d_z, d_gaussian, images, count, padded, WIDTH=width, **parts
    )
    return (
        d_z, d_gaussian, d_head.sum(0), d_head_bias.sum(0), d_out_weight.sum(0).T.contiguous(),
        d_hidden.sum(0), d_hidden_bias.sum(0),
    )  # fmt: skip


def _splits(tiles: int, wanted: int) -> int:
    return max(1, min(tiles, wanted))


def forward_blocks(width: int, heads: int, layers: int) -> dict[str, Any]:
    """Block sizes of the forward kernel."""
    resident = _weights_fit(width, heads, layers)
    return {
        "ROWS": 128 if resident else 64, "CHUNK": min(128, heads) if resident else 64, "RESIDENT": resident,
        "num_warps": 8 if resident else 4, "num_stages": 1, "per_multiprocessor": 1 if resident else 2,
    }  # fmt: skip


def backward_blocks(width: int, heads: int, layers: int) -> dict[str, dict[str, Any]]:
    """Block sizes of the backward kernels, by stage."""
    resident = _weights_fit(width, heads, layers)
    return {
        "inputs": {
            "ROWS": 128 if resident else 64, "CHUNK": 64, "RESIDENT": resident, "num_warps": 8,
            "num_stages": 1, "per_multiprocessor": 1,
        },
        "head": {
            "ROWS": 64, "CHUNK": min(128, heads), "num_warps": 8, "STAGES": 3, "per_multiprocessor": 1,
        },
        "hidden": {"ROWS": 64, "STAGES": 3, "num_warps": 8, "per_multiprocessor": 2},
        "parts": {"ROWS": 32, "IMAGES": 16, "num_warps": 4},
    }  # fmt: skip


def _weights_fit(width: int, heads: int, layers: int) -> bool:
    """Whether all weights fit in one multiprocessor's shared memory (227 KB on Hopper) with room to spare."""
    return 2 * (layers * width * width + heads * width + 16 * heads) <= 210 * 1024


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 2 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
