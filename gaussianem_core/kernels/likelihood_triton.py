"""The Triton kernels of `imaging.likelihood`: one pass over the spectra, and one before it where the images' scales are
free, with the CTF computed in each."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = {"BLOCK": 1024, "num_warps": 4}
_COPIES = 16  # of the residual's sums
_PI = tl.constexpr(3.141592653589793)


@triton.jit
def _component(parameters, shell_weight, batch, offset, box, half):  # -> ctf, weight, multiplicity, shell
    """CTF (see `ctf.ctf`), inverse noise power, multiplicity and shell of components ``offset`` of an image."""
    row, column = offset // half, offset % half
    j = tl.where(row < (box + 1) // 2, row, row - box).to(tl.float32)
    i = column.to(tl.float32)
    radius = tl.sqrt(i * i + j * j)
    # torch.round goes to even; a radius that is exactly half-way cannot be (its square is an integer).
    shell = tl.minimum(tl.floor(radius + 0.5).to(tl.int32), box // 2)
    p = parameters + batch * 9
    pixel, angle = tl.load(p + 1), tl.load(p + 4) * (_PI / 180)
    mean, difference = 0.5 * (tl.load(p + 2) + tl.load(p + 3)), 0.5 * (tl.load(p + 2) - tl.load(p + 3))
    volts, cs = tl.load(p + 5) * 1e3, tl.load(p + 6) * 1e7
    contrast, phase = tl.load(p + 7), tl.load(p + 8) * (_PI / 180)
    wavelength = 12.2643247 / tl.sqrt(volts * (1 + 0.978466e-6 * volts))
    scale = 1.0 / (box * pixel)
    kx, ky = i * scale, j * scale
    k2 = kx * kx + ky * ky
    # cos 2(a - b) k2 = (kx^2 - ky^2) cos 2b + 2 kx ky sin 2b: no arc tangent
    turned = (kx * kx - ky * ky) * tl.cos(2 * angle) + 2 * kx * ky * tl.sin(2 * angle)
    chi = _PI * wavelength * (mean * k2 + difference * turned - 0.5 * wavelength * wavelength * k2 * k2 * cs)
    # -sin(chi + phase + asin(w)) with sin asin w = w
    transfer = -(tl.sin(chi + phase) * tl.sqrt(1 - contrast * contrast) + tl.cos(chi + phase) * contrast)
    multiplicity = tl.where((column == 0) | (column == half - 1), 1.0, 2.0)
    return transfer, tl.load(shell_weight + shell), multiplicity, shell


@triton.jit
def _sums(projection, image, parameters, shell_weight, factors, sums, box, half, BLOCK: tl.constexpr):
    """Per image: sum w Re(m conj y), sum w |m|^2, for the model m = factor * ctf * projection."""
    batch = tl.program_id(0)
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < box * half
    place = (batch.to(tl.int64) * box * half + offset) * 2
    transfer, weight, multiplicity, _ = _component(parameters, shell_weight, batch, offset, box, half)
    transfer = transfer * (tl.load(factors + batch) / box)  # of the orthonormal transform
    weight = tl.where(inside, weight * multiplicity, 0.0)
    f_re = tl.load(projection + place, mask=inside, other=0.0) * transfer
    f_im = tl.load(projection + place + 1, mask=inside, other=0.0) * transfer
    y_re = tl.load(image + place, mask=inside, other=0.0)
    y_im = tl.load(image + place + 1, mask=inside, other=0.0)
    tl.atomic_add(sums + batch * 2, tl.sum(weight * (f_re * y_re + f_im * y_im)), sem="relaxed")
    tl.atomic_add(sums + batch * 2 + 1, tl.sum(weight * (f_re * f_re + f_im * f_im)), sem="relaxed")


@triton.jit
def _gradient(
    projection,
    image,
    parameters,
    shell_weight,
    factors,
    shares,
    gradient,
    data,  # (B,), added to
    residual,  # (COPIES, half), added to
    box,
    half,
    counted,
    COPIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """With r = factor * ctf * projection - image: the data term sum w |r|^2 / 2, the spectrum w ctf factor r, whose
    inverse transform is the gradient, and the residual's power by shell, |r|^2 times ``shares`` (half,).

    Programs add the residual to several copies: the shells are few, and additions to one address wait for each other.
    """
    batch = tl.program_id(0)
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < box * half
    place = (batch.to(tl.int64) * box * half + offset) * 2
    transfer, weight, multiplicity, shell = _component(parameters, shell_weight, batch, offset, box, half)
    transfer = transfer * (tl.load(factors + batch) / box)  # of the orthonormal transform
    r_re = tl.load(projection + place, mask=inside, other=0.0) * transfer
    r_im = tl.load(projection + place + 1, mask=inside, other=0.0) * transfer
    r_re -= tl.load(image + place, mask=inside, other=0.0)
    r_im -= tl.load(image + place + 1, mask=inside, other=0.0)
    tl.store(gradient + place, transfer * weight * r_re, mask=inside)
    tl.store(gradient + place + 1, transfer * weight * r_im, mask=inside)
    power = tl.where(inside, multiplicity * (r_re * r_re + r_im * r_im), 0.0)
    tl.atomic_add(data + batch, 0.5 * tl.sum(weight * power), sem="relaxed")
    if batch < counted:
        target = residual + (batch + counted * tl.program_id(1)) % COPIES * half + shell
        tl.atomic_add(target, power * tl.load(shares + shell), mask=inside, sem="relaxed")


class FusedLikelihood(torch.autograd.Function):
    """`imaging.likelihood.image_likelihood` on Triton; the gradient is computed in the forward pass with the residual.

    Arguments: projections (B, D, D), image (B, D, D//2+1) complex, parameters (B, 9), shell_weight (D//2+1,), factors
    (B,) of the projections, width of the prior of the scales (0: none), shares (D//2+1,), by which the residual's power
    is multiplied, and ``counted``. Returns the data term (B,) in nats, and parts (C, D//2+1) of the residual's power
    summed over each shell of the first ``counted`` images, times the shares.
    """

    @staticmethod
    def forward(
        ctx: Any,
        projections: Tensor,
        image: Tensor,
        parameters: Tensor,
        shell_weight: Tensor,
        factors: Tensor,
        scale_prior: float,
        shares: Tensor,
        counted: int,
    ) -> tuple[Tensor, Tensor]:
        """Data term (B,) and parts of the residual's power (C, D//2+1); the latter are not differentiable."""
        batch, box, half = image.shape
        f = torch.view_as_real(torch.fft.rfft2(projections))
        y = torch.view_as_real(image.resolve_conj().contiguous())
        p, w = parameters.float().contiguous(), shell_weight.contiguous()
        grid = (batch, triton.cdiv(box * half, _BLOCK["BLOCK"]))
        if scale_prior:
            sums = torch.zeros(batch, 2, device=f.device)
            _sums[grid](f, y, p, w, factors, sums, box, half, **_BLOCK)
            cross, power = sums.unbind(1)
            factors = factors * ((cross + scale_prior**-2) / (power + scale_prior**-2))
        gradient = torch.empty_like(f)
        zeros = torch.zeros(batch + _COPIES * half, device=f.device)
        data, residual = zeros.split([batch, _COPIES * half])
        _gradient[grid](
            f, y, p, w, factors, shares, gradient, data, residual, box, half, counted, COPIES=_COPIES, **_BLOCK
        )
        slope = torch.fft.irfft2(torch.view_as_complex(gradient), s=(box, box), norm="forward")
        ctx.save_for_backward(slope)
        residual = residual.view(_COPIES, half)
        ctx.mark_non_differentiable(residual)
        return data, residual

    @staticmethod
    def backward(ctx: Any, grad_data: Tensor, grad_residual: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradient with respect to the projections (B, D, D) alone."""
        (slope,) = ctx.saved_tensors
        return slope * grad_data[:, None, None], *[None] * 7
