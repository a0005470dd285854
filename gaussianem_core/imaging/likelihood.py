"""Likelihood of images given projections of the Gaussians: CTF, scale and noise in one function.

For each image, with F the spectrum of its projection, C its CTF, Y its own spectrum and w the inverse noise power:

    data = 1/2 sum_k w |a C F - Y|^2,        a = (sum_k w Re(C F conj Y) + t) / (sum_k w |C F|^2 + t)

the negative log-likelihood under Gaussian noise in nats (without its constant) at the most likely scale a, whose
prior is N(1, 1/t). The gradient treats a as fixed, which by its optimality (t = 0) is exact.

`image_likelihood_reference` is the definition in plain torch; `kernels.likelihood_triton` is faster on CUDA.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from gaussianem_core.imaging.ctf import COLUMNS, ctf
from gaussianem_core.imaging.fourier import half_plane_weight, shell_sizes, shells
from gaussianem_core.kernels.support import triton_available

RESIDUAL_IMAGES = 4  # of each batch: over an epoch they are enough to measure the noise spectrum


class Likelihood(NamedTuple):
    """``data`` (B,) in nats; ``residual`` (C, D//2+1), whose sum over C is the mean power of a C F - Y by shell over
    the first RESIDUAL_IMAGES images."""

    data: torch.Tensor
    residual: torch.Tensor


def image_likelihood(
    projections: torch.Tensor,
    image: torch.Tensor,
    parameters: torch.Tensor,
    shell_weight: torch.Tensor,
    scale_prior: float,
    factors: torch.Tensor | None = None,
    fused: bool | None = None,
) -> Likelihood:
    """Negative log-likelihood of images; differentiable with respect to ``projections``.

    Parameters
    ----------
    projections : (B, D, D), before the CTF.
    image : (B, D, D//2+1) orthonormal ``rfft2`` of the images.
    parameters : (B, 9 or more) CTF parameters, see ``ctf``.
    shell_weight : (D//2+1,) inverse noise power of each shell; 0 leaves a shell out.
    scale_prior : width of the prior of the images' scales around 1; 0 keeps them at 1.
    factors : (B,), by which the projections are multiplied first; None for 1.
    fused : whether to take the Triton kernels, which know the plain CTF alone; None: on CUDA, where parameters have 9
        columns.
    """
    if fused is None:  # the kernels make the plain CTF alone
        fused = projections.is_cuda and triton_available() and parameters.shape[-1] == len(COLUMNS)
    if fused:
        from gaussianem_core.kernels.likelihood_triton import FusedLikelihood

        box, counted = projections.shape[-1], min(RESIDUAL_IMAGES, len(image))
        factors = torch.ones(len(image), device=image.device) if factors is None else factors
        shares = residual_shares(box, counted, image.device)
        given = (projections, image, parameters, shell_weight, factors, scale_prior, shares, counted)
        return Likelihood(*FusedLikelihood.apply(*given))
    return image_likelihood_reference(projections, image, parameters, shell_weight, scale_prior, factors)


@functools.cache  # for as long as the program runs: a captured step of a training goes on reading them
def residual_shares(box: int, counted: int, device: torch.device) -> torch.Tensor:  # (D//2+1,)
    """1 / number of components of each shell in ``counted`` images."""
    return 1 / (counted * shell_sizes(box, device))


def image_likelihood_reference(
    projections: torch.Tensor,
    image: torch.Tensor,
    parameters: torch.Tensor,
    shell_weight: torch.Tensor,
    scale_prior: float,
    factors: torch.Tensor | None = None,
) -> Likelihood:
    """:func:`image_likelihood` in plain torch, the definition; parameters as there."""
    box = projections.shape[-2]
    index = shells(box, projections.device)
    multiplicity = half_plane_weight(box, projections.device)
    weight = shell_weight[index] * multiplicity
    if factors is not None:
        projections = projections * factors[:, None, None]
    model = torch.fft.rfft2(projections, norm="ortho") * ctf(parameters, box)
    if scale_prior:
        model = model * image_scale(model.detach(), image, weight, scale_prior)[:, None, None]
    with torch.no_grad():
        power = (model - image)[:RESIDUAL_IMAGES].abs().square().mean(0) * multiplicity
        residual = torch.zeros_like(shell_weight).index_add_(0, index.flatten(), power.flatten())
    return Likelihood(squared_error(model, image, weight), (residual / shell_sizes(box, projections.device))[None])


def image_scale(
    model: torch.Tensor, image: torch.Tensor, weight: torch.Tensor, prior_width: float
) -> torch.Tensor:  # (B,)
    """Most likely scale of each image's model in closed form, with a normal prior of width ``prior_width`` around 1.

    ``model``, ``image``: (B, D, D//2+1) complex; ``weight``: (D, D//2+1), 1 / noise power times multiplicity.
    """
    precision = prior_width**-2
    cross = ((model.conj() * image).real * weight).sum((-2, -1))
    power = (model.abs().square() * weight).sum((-2, -1))
    return (cross + precision) / (power + precision)


def squared_error(
    model: torch.Tensor, image: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:  # (B, D, D//2+1) x 2 -> (B,)
    """Negative log-likelihood (nats) under Gaussian noise, without its constant: half the weighted squared residual.

    ``weight``: (D, D//2+1), 1 / noise power times multiplicity.
    """
    residual = torch.view_as_real(model - image)
    return 0.5 * (residual.square().sum(-1) * weight).sum((-2, -1))


def signal_fit(model: torch.Tensor, image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # (B,)
    """Signal found less signal expected, in standard deviations: (<m, i> - <m, m>) / sqrt(<m, m>), noise-weighted.

    About standard normal for an image of the model plus noise, and about -sqrt(<m, m>) for noise alone: it separates
    junk where the likelihood, which noise dominates, does not.

    Parameters
    ----------
    model, image : (B, D, D//2+1) spectra (orthonormal ``rfft2``), the model with its CTF, at scale 1.
    weight : (D, D//2+1), multiplicity in the half plane divided by the noise power.
    """
    cross = ((model * image.conj()).real * weight).sum(dim=(-2, -1))
    power = (model.abs().square() * weight).sum(dim=(-2, -1))
    return (cross - power) / power.clamp_min(torch.finfo(power.dtype).tiny).sqrt()
