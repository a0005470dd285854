"""The Triton kernels behind `model.network.Network.embed`: the Gaussian encoder, an MLP with a layer norm at its end.

One kernel takes a tile of Gaussians through all layers; in the backward pass one takes their gradients back through the
layers, and one makes the gradients of all weights. Every layer by itself would be a launch, or three, that is over
before it fills the GPU. Products of the forward pass round their operands to TF32 (10 bits), those of the backward pass
to bfloat16, in which the activations are kept; sums are in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaussianem_core.kernels.support import triton_interpreted

_ENCODE = {"ROWS": 64, "num_warps": 4}  # Gaussians of a tile
_ROW_GRADIENTS = {"ROWS": 64, "num_warps": 4}
_WEIGHT_GRADIENTS = {"ROWS": 64, "PARTS": 1, "STAGES": 3, "num_warps": 8}  # PARTS: programs for a layer's columns
_SPLITS = 24  # programs that share the sum over the Gaussians in the gradient of a layer's weights
COUNTS = ["count"]
"""Arguments whose values compile no kernel of their own: another number of Gaussians would."""


@triton.jit(do_not_specialize=COUNTS)
def _encode(
    features,  # (count, INPUTS)
    first_weight,  # (WIDTH, INPUTS)
    first_bias,
    weights,  # (LAYERS, WIDTH, WIDTH)
    biases,  # (LAYERS, WIDTH)
    last_weight,  # (DIM, WIDTH)
    last_bias,
    gain,  # (DIM,), of the layer norm, as shift
    shift,
    out,  # (count, DIM)
    hidden,  # (LAYERS + 1, count, WIDTH), activations, written where SAVE, as the following
    normal,  # (count, DIM), the normalised rows
    roots,  # (count,), 1 / standard deviation of the rows
    count,
    epsilon,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIM: tl.constexpr,
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    SAVE: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = n < count
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, DIM)
    h = tl.zeros((ROWS, WIDTH), tl.float32) + tl.load(first_bias + k)[None, :]
    for i in tl.static_range(INPUTS):
        x = tl.load(features + n * INPUTS + i, mask=inside, other=0.0)
        h += x[:, None] * tl.load(first_weight + k * INPUTS + i)[None, :]
    h = tl.maximum(h, 0.0)
    rows = n[:, None] * WIDTH + k[None, :]
    for layer in tl.static_range(LAYERS):
        if SAVE:
            tl.store(hidden + layer * count * WIDTH + rows, h, mask=inside[:, None])
        weight = tl.load(weights + layer * WIDTH * WIDTH + k[:, None] * WIDTH + k[None, :])
        h = tl.dot(h, tl.trans(weight)) + tl.load(biases + layer * WIDTH + k)[None, :]
        h = tl.maximum(h, 0.0)
    if SAVE:
        tl.store(hidden + LAYERS * count * WIDTH + rows, h, mask=inside[:, None])
    y = tl.dot(h, tl.trans(tl.load(last_weight + o[:, None] * WIDTH + k[None, :]))) + tl.load(last_bias + o)[None, :]
    y -= (tl.sum(y, 1) / DIM)[:, None]
    root = 1.0 / tl.sqrt(tl.sum(y * y, 1) / DIM + epsilon)
    y *= root[:, None]
    target = n[:, None] * DIM + o[None, :]
    if SAVE:
        tl.store(normal + target, y, mask=inside[:, None])
        tl.store(roots + n, root, mask=inside)
    tl.store(out + target, y * tl.load(gain + o)[None, :] + tl.load(shift + o)[None, :], mask=inside[:, None])


@triton.jit(do_not_specialize=COUNTS)
def _row_gradients(
    d_out,  # (count, DIM)
    weights,
    last_weight,
    gain,
    hidden,
    normal,
    roots,
    gradients,  # (LAYERS + 1, count, WIDTH), written: with respect to the input of each relu
    last_gradients,  # (count, DIM), written: with respect to the last layer's output
    d_gain,  # (DIM,), added to, as d_shift
    d_shift,
    count,
    WIDTH: tl.constexpr,
    DIM: tl.constexpr,
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = n[:, None] < count
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, DIM)
    place = n[:, None] * DIM + o[None, :]
    d = tl.load(d_out + place, mask=inside, other=0.0)
    y = tl.load(normal + place, mask=inside, other=0.0)
    root = tl.load(roots + n, mask=n < count, other=0.0)
    tl.atomic_add(d_gain + o, tl.sum(d * y, 0), sem="relaxed")
    tl.atomic_add(d_shift + o, tl.sum(d, 0), sem="relaxed")
    d *= tl.load(gain + o)[None, :]
    d = root[:, None] * (d - (tl.sum(d, 1) / DIM)[:, None] - y * (tl.sum(d * y, 1) / DIM)[:, None])
    tl.store(last_gradients + place, d, mask=inside)
    kind = hidden.dtype.element_ty
    weight = tl.load(last_weight + o[:, None] * WIDTH + k[None, :])
    d_h = tl.dot(d.to(kind), weight.to(kind))
    rows = n[:, None] * WIDTH + k[None, :]
    for step in tl.static_range(LAYERS + 1):
        layer = LAYERS - step
        h = tl.load(hidden + layer * count * WIDTH + rows, mask=inside, other=0.0)
        d_a = tl.where(h > 0.0, d_h, 0.0)
        tl.store(gradients + layer * count * WIDTH + rows, d_a, mask=inside)
        if step < LAYERS:
            weight = tl.load(weights + (layer - 1) * WIDTH * WIDTH + k[:, None] * WIDTH + k[None, :])
            d_h = tl.dot(d_a.to(kind), weight.to(kind))


@triton.jit(do_not_specialize=COUNTS)
def _weight_gradients(
    features,
    hidden,
    gradients,
    last_gradients,
    d_first_weight,  # these and the following are added to
    d_first_bias,
    d_weights,
    d_biases,
    d_last_weight,
    d_last_bias,
    count,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIM: tl.constexpr,
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    STAGES: tl.constexpr,
):
    # Programs: PARTS for each hidden layer, one for the last, one for the first.
    COLUMNS: tl.constexpr = WIDTH // PARTS
    layer = tl.program_id(0) // PARTS
    k = tl.arange(0, WIDTH)
    o = tl.arange(0, DIM)
    i = tl.arange(0, 16)
    begin, step = tl.program_id(1) * ROWS, tl.num_programs(1) * ROWS
    if layer < LAYERS:
        c = tl.program_id(0) % PARTS * COLUMNS + tl.arange(0, COLUMNS)
        total = tl.zeros((WIDTH, COLUMNS), tl.float32)
        bias = tl.zeros((WIDTH,), tl.float32)
        for start in tl.range(begin, count, step, num_stages=STAGES):
            n = start + tl.arange(0, ROWS)
            inside = n[:, None] < count
            row = n[:, None] * WIDTH
            d = tl.load(gradients + (layer + 1) * count * WIDTH + row + k[None, :], mask=inside, other=0.0)
            h = tl.load(hidden + layer * count * WIDTH + row + c[None, :], mask=inside, other=0.0)
            total = tl.dot(tl.trans(d), h, total)
            bias += tl.sum(d.to(tl.float32), 0)
        place = layer * WIDTH * WIDTH + k[:, None] * WIDTH + c[None, :]
        tl.atomic_add(d_weights + place, total, sem="relaxed")
        if tl.program_id(0) % PARTS == 0:
            tl.atomic_add(d_biases + layer * WIDTH + k, bias, sem="relaxed")
    elif tl.program_id(0) == LAYERS * PARTS:
        last = tl.zeros((DIM, WIDTH), tl.float32)
        last_bias = tl.zeros((DIM,), tl.float32)
        for start in tl.range(begin, count, step, num_stages=STAGES):
            n = start + tl.arange(0, ROWS)
            inside = n[:, None] < count
            d_y = tl.load(last_gradients + n[:, None] * DIM + o[None, :], mask=inside, other=0.0)
            h_L = tl.load(hidden + LAYERS * count * WIDTH + n[:, None] * WIDTH + k[None, :], mask=inside, other=0.0)
            last = tl.dot(tl.trans(d_y), h_L, last)
            last_bias += tl.sum(d_y.to(tl.float32), 0)
        tl.atomic_add(d_last_weight + o[:, None] * WIDTH + k[None, :], last, sem="relaxed")
        tl.atomic_add(d_last_bias + o, last_bias, sem="relaxed")
    else:
        first = tl.zeros((WIDTH, 16), tl.float32)
        first_bias = tl.zeros((WIDTH,), tl.float32)
        for start in tl.range(begin, count, step, num_stages=STAGES):
            n = start + tl.arange(0, ROWS)
            inside = n[:, None] < count
            d_0 = tl.load(gradients + n[:, None] * WIDTH + k[None, :], mask=inside, other=0.0)
            x = tl.load(features + n[:, None] * INPUTS + i[None, :], mask=inside & (i[None, :] < INPUTS), other=0.0)
            first = tl.dot(tl.trans(d_0), x.to(d_0.dtype), first)
            first_bias += tl.sum(d_0.to(tl.float32), 0)
        target = d_first_weight + k[:, None] * INPUTS + i[None, :]
        tl.atomic_add(target, first, mask=(k[:, None] >= 0) & (i[None, :] < INPUTS), sem="relaxed")
        tl.atomic_add(d_first_bias + k, first_bias, sem="relaxed")


class FusedEncoder(torch.autograd.Function):
    """The Gaussian encoder through the kernels: features (N, 5) -> embedding (N, E), float32.

    Arguments: whether a backward pass may follow, features (no gradient), the layer norm's epsilon, gain (E,) and shift
    (E,), the first layer's weight (k, 5) and bias (k,), the last one's (E, k) and (E,), then the L weights (k, k) and
    L biases (k,) between.
    """

    @staticmethod
    def forward(
        ctx: Any,
        save: bool,
        features: Tensor,
        epsilon: float,
        gain: Tensor,
        shift: Tensor,
        first_weight: Tensor,
        first_bias: Tensor,
        last_weight: Tensor,
        last_bias: Tensor,
        *between: Tensor,
    ) -> Tensor:
        """Embedding (N, E), see the class."""
        layers, (count, inputs), (dim, width) = len(between) // 2, features.shape, last_weight.shape
        weights, biases = torch.stack(between[:layers]), torch.stack(between[layers:])
        features, new = features.contiguous(), features.new_empty
        kind = torch.float32 if triton_interpreted() else torch.bfloat16  # the interpreter has no bfloat16
        rows = count if save else 0
        saved = (new(layers + 1, rows, width, dtype=kind), new(rows, dim), new(rows))
        out = new(count, dim)
        sizes = {"WIDTH": width, "DIM": dim, "LAYERS": layers}
        parameters = (first_weight, first_bias, weights, biases, last_weight, last_bias, gain, shift)
        _encode[(triton.cdiv(count, _ENCODE["ROWS"]),)](
            features, *parameters, out, *saved, count, epsilon, INPUTS=inputs, SAVE=save, **sizes, **_ENCODE
        )
        ctx.save_for_backward(features, gain, weights, last_weight, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:  # type: ignore[override]
        """Gradients of all parameters from that of the embedding (N, E)."""
        features, gain, weights, last_weight, hidden, normal, roots = ctx.saved_tensors
        (count, inputs), (layers, width, _), dim = features.shape, weights.shape, len(last_weight)
        shapes = [(dim,), (dim,), (width, inputs), (width,), (dim, width), (dim,), (layers, width, width)]
        shapes.append((layers, width))
        zeros = d_out.new_zeros(sum(torch.Size(shape).numel() for shape in shapes))  # one launch clears all
        parts = zeros.split([torch.Size(shape).numel() for shape in shapes])
        d_gain, d_shift, d_first, d_first_bias, d_last, d_last_bias, d_weights, d_biases = (
            part.view(shape) for part, shape in zip(parts, shapes)
        )
        gradients, last_gradients = torch.empty_like(hidden), hidden.new_empty(count, dim)
        sizes = {"WIDTH": width, "DIM": dim, "LAYERS": layers}
        made = (gradients, last_gradients)
        rows = (d_out.contiguous(), weights, last_weight, gain, hidden, normal, roots, *made, d_gain, d_shift)
        _row_gradients[(triton.cdiv(count, _ROW_GRADIENTS["ROWS"]),)](*rows, count, **sizes, **_ROW_GRADIENTS)
        sums = (d_first, d_first_bias, d_weights, d_biases, d_last, d_last_bias)
        _weight_gradients[(layers * _WEIGHT_GRADIENTS["PARTS"] + 2, _SPLITS)](
            features, hidden, *made, *sums, count, INPUTS=inputs, **sizes, **_WEIGHT_GRADIENTS
        )
        ends = (d_gain, d_shift, d_first, d_first_bias, d_last, d_last_bias)
        return None, None, None, *ends, *d_weights.unbind(), *d_biases.unbind()
