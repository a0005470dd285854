"""The decoder's inner part for all pairs of a particle's latent and a Gaussian, fused.

For every pair (b, n) the network computes (see `network` for how its layers lead here)::

    h_0 = relu(z_part[b] + gaussian_part[n])             the first layer, split in two
    h_l = relu(hidden_weights[l] h_{l-1} + hidden_biases[l])
    u   = relu(head_weight h_L + head_bias)              both heads' first layers, feature layer merged
    out = out_weight u + out_bias                        density change, x, y, z change

`decode_pairs_reference` writes that down in plain torch. `decode_pairs` runs it in one Triton kernel on
CUDA: bfloat16 operands, float32 sums, weights resident in shared memory. Of the activations only h_L is
kept for the backward pass, in bfloat16; the rest is computed again there (see `kernels.pair_decoder_triton`).
On the CPU `decode_in_blocks` keeps the activations in the processor's caches, where no gradient is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gaussianem_core.kernels.support import triton_runs

FUSED_WIDTHS = (32, 64, 128)  # hidden widths k whose weight gradients fit in registers
BLOCK_PAIRS = 512  # of a block on the CPU, for each thread that torch uses


def decode_pairs(
    z_part: Tensor,  # (B, k)
    gaussian_part: Tensor,  # (N, k)
    hidden_weights: Sequence[Tensor],  # L of (k, k)
    hidden_biases: Sequence[Tensor],  # L of (k,)
    head_weight: Tensor,  # (2F, k)
    head_bias: Tensor,  # (2F,)
    out_weight: Tensor,  # (4, 2F)
    out_bias: Tensor,  # (4,)
    *,
    fused: bool | None = None,
    rounded: Sequence[Tensor] | None = None,
) -> Tensor:  # (B, N, 4)
    """Decode every pair of a latent and a Gaussian.

    Parameters
    ----------
    z_part, gaussian_part : (B, k), (N, k); the first layer's product with z and with the Gaussian's
        embedding; its bias is in one of them.
    hidden_weights, hidden_biases : the following k -> k layers, as torch.nn.Linear stores them.
    head_weight, head_bias : (2F, k), (2F,); the heads' first layers, stacked.
    out_weight, out_bias : (4, 2F), (4,); rows: density change, x, y, z change.
    fused : None takes the Triton kernels on CUDA where the sizes allow (k and 2F powers of two), else
        plain torch. False: plain torch. True: the kernels, also for the interpreter's tests.
    rounded : the weights as the kernels take them (`kernels.pair_decoder_triton.rounded_weights`), where they have been
        formed already.

    Returns
    -------
    (B, N, 4) float32. The kernels round operands to bfloat16 (relative error about 4e-3 of the output).
    """
    weights = (head_weight, head_bias, out_weight, out_bias)
    tensors = (z_part, gaussian_part, *weights, *hidden_weights, *hidden_biases)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if fused is None:
        fused = fused_available(z_part, head_weight, len(hidden_weights))
    if fused:
        from gaussianem_core.kernels.pair_decoder_triton import FusedDecoder

        return FusedDecoder.apply(save, rounded, *tensors)
    if save or z_part.is_cuda:
        return decode_pairs_reference(z_part, gaussian_part, hidden_weights, hidden_biases, *weights)
    hidden = zip(hidden_weights, hidden_biases, strict=True)
    return decode_in_blocks(z_part, gaussian_part, [*hidden, (head_weight, head_bias), (out_weight, out_bias)])


def decode_pairs_reference(
    z_part: Tensor,  # (B, k)
    gaussian_part: Tensor,  # (N, k)
    hidden_weights: Sequence[Tensor],  # L of (k, k)
    hidden_biases: Sequence[Tensor],  # L of (k,)
    head_weight: Tensor,  # (2F, k)
    head_bias: Tensor,  # (2F,)
    out_weight: Tensor,  # (4, 2F)
    out_bias: Tensor,  # (4,)
) -> Tensor:  # (B, N, 4)
    """`decode_pairs` in plain torch, in the arguments' own precision; float32, or float64 with float64 arguments.
    Parameters as for `decode_pairs`."""
    hidden = F.relu(z_part[:, None] + gaussian_part)
    for weight, bias in zip(hidden_weights, hidden_biases, strict=True):
        hidden = F.relu(F.linear(hidden, weight, bias))
    heads = F.relu(F.linear(hidden, head_weight, head_bias))
    out = F.linear(heads, out_weight, out_bias)
    return out if out.dtype == torch.float64 else out.float()


def decode_in_blocks(
    z_part: Tensor, gaussian_part: Tensor, layers: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:  # (B, k), (N, k) -> (B, N, 4)
    """`decode_pairs_reference` without gradients, a block of pairs after the other, in the same memory.

    ``layers``: weight and bias of each layer after the first; the last one, ``out``, has no activation.

    The widest layer of all pairs takes 1.6 MB for each latent of 800 Gaussians: on a CPU, to fetch that memory from the
    system and to go through it takes as long as the products.
    """
    images, count = len(z_part), len(gaussian_part)
    most = BLOCK_PAIRS * torch.get_num_threads()
    each = max(1, most // max(1, count))  # several latents with all Gaussians, or one with a part of them
    *inner, (out_weight, out_bias) = layers
    first = z_part.new_empty(most, gaussian_part.shape[1])
    buffers = [z_part.new_empty(most, len(weight)) for weight, _ in inner]
    out = z_part.new_empty(images * count, 4)
    for image in range(0, images, each):
        some = z_part[image : image + each, None]
        for begin in range(0, count, most):
            rows = gaussian_part[begin : begin + most]
            pairs = len(some) * len(rows)
            made = torch.add(some, rows, out=first[:pairs].view(len(some), *rows.shape)).relu_().flatten(0, 1)
            for (weight, bias), buffer in zip(inner, buffers):
                made = torch.addmm(bias, made, weight.T, out=buffer[:pairs]).relu_()
            place = image * count + begin
            torch.addmm(out_bias, made, out_weight.T, out=out[place : place + pairs])
    return (out if out.dtype == torch.float64 else out.float()).view(images, count, 4)


def fused_available(z_part: Tensor, head_weight: Tensor, hidden_layers: int) -> bool:
    """Whether the Triton kernels can run: CUDA with bfloat16 (or Triton's interpreter), k in FUSED_WIDTHS, 2F a power
    of two of at least 64, and a hidden layer or more. ``head_weight``: (2F, k)."""
    heads, width = head_weight.shape
    sizes = width in FUSED_WIDTHS and hidden_layers >= 1 and heads >= 64 and heads & (heads - 1) == 0
    return sizes and z_part.dtype != torch.float64 and triton_runs(z_part.device)
