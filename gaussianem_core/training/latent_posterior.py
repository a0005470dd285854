"""Latents of the particles: a table of posteriors, and their refinement against the images.

Each particle has a mean and a log-variance. Latents that are free in training (an auto-decoder with a prior) follow the
gradient of the evidence lower bound (Kingma and Welling, ICLR 2014) with Adam (Kingma and Ba, ICLR 2015), row by row,
when their particle is in the batch. Gauss-Newton steps bring a latent to its maximum a posteriori; the quadratic of the
log-likelihood there is all that :mod:`mixture_prior` needs for the posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

LOG_VARIANCE_RANGE = (-12.0, 0.5)
BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8  # a row sees one step an epoch: a short second-moment memory


@dataclass
class LatentTable:
    """Latent posteriors of N particles, and the state of Adam for each row.

    values : (N, 2 * zdim), means, then log-variances.
    first, second : (N, 2 * zdim), Adam's moments. visits : (N, 1), steps of each row. These three have no rows where
        latents do not follow a gradient.
    """

    values: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    visits: torch.Tensor

    @property
    def zdim(self) -> int:
        """Dimensions of the latent space."""
        return self.values.shape[1] // 2

    @property
    def mean(self) -> torch.Tensor:  # (N, zdim)
        """Posterior means of the latents."""
        return self.values[:, : self.zdim]

    @property
    def log_variance(self) -> torch.Tensor:  # (N, zdim)
        """Natural logarithms of their variances."""
        return self.values[:, self.zdim :]

    def state(self) -> dict[str, torch.Tensor]:
        """The four tensors by name, for a checkpoint."""
        return {"values": self.values, "first": self.first, "second": self.second, "visits": self.visits}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Copy the tensors of a :meth:`state` in place."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def step(self, rows: torch.Tensor, gradient: torch.Tensor, rate: torch.Tensor | float) -> None:
        """One Adam step of the distinct ``rows`` (B,) with ``gradient`` (B, 2 * zdim). No host synchronisation."""
        visits = self.visits[rows] + 1
        first = torch.lerp(gradient, self.first[rows], BETA1)
        second = torch.lerp(gradient.square(), self.second[rows], BETA2)
        update = (first / (1 - BETA1**visits)) / ((second / (1 - BETA2**visits)).sqrt() + EPSILON)
        values = self.values[rows] - rate * update
        mean, log_variance = values.split(self.zdim, dim=1)
        values = torch.cat([mean, log_variance.clamp(*LOG_VARIANCE_RANGE)], dim=1)
        self.values.index_copy_(0, rows, values)
        self.first.index_copy_(0, rows, first)
        self.second.index_copy_(0, rows, second)
        self.visits.index_copy_(0, rows, visits)


def new_table(
    count: int,
    zdim: int,
    generator: torch.Generator,
    device: torch.device,
    spread: float,
    width: float,
    free: bool = True,
) -> LatentTable:
    """A table of ``count`` rows whose means are drawn from N(0, spread^2), on the CPU for reproducibility, and whose
    posteriors have the standard deviation ``width``. ``free``: whether Adam steps will follow."""
    mean = torch.randn(count, zdim, generator=generator) * spread
    log_variance = torch.full((count, zdim), 2 * torch.tensor(width).log().item())
    values = torch.cat([mean, log_variance], dim=1).to(device)
    moments = values[: count if free else 0]
    visits = torch.zeros(len(moments), 1, device=device)
    return LatentTable(values, torch.zeros_like(moments), torch.zeros_like(moments), visits)


# (B, zdim) latents of the batch's particles, M latents each as (B, M, zdim) -> (B, M, D, D//2+1) model spectra
Render = Callable[[torch.Tensor], torch.Tensor]


class Refined(NamedTuple):
    """Latents ``z`` (B, zdim) at their maximum a posteriori, and the log-likelihood there.

    ``linear`` (B, A) and ``information`` (B, A, A): its quadratic in the active latents, see :mod:`mixture_prior`;
    ``log_likelihood`` (B,): its value in nats, without the constant; ``spectrum`` (B, D, D//2+1): of the model.
    """

    z: torch.Tensor
    linear: torch.Tensor
    information: torch.Tensor
    log_likelihood: torch.Tensor
    spectrum: torch.Tensor


def gauss_newton(
    render: Render,
    image: torch.Tensor,
    weight: torch.Tensor,
    z: torch.Tensor,
    active: torch.Tensor,
    prior_precision: float = 1.0,
    iterations: int = 3,
    difference: float = 0.1,
    largest_step: float = 1.0,
) -> Refined:
    """Bring latents to the maximum a posteriori of their images, by Gauss-Newton steps with Levenberg and Marquardt's
    damping (Marquardt, J. Soc. Ind. Appl. Math. 11, 1963).

    Parameters
    ----------
    render : latents (B, M, zdim) -> model spectra (B, M, D, D//2+1), scaled as the images are.
    image : (B, D, D//2+1) complex spectra. weight : (D, D//2+1), multiplicity / noise power.
    z : (B, zdim) start. active : (A,) indices of the dimensions that say anything; the others are left at 0.
    prior_precision : of the normal prior about 0.
    iterations, difference, largest_step : Gauss-Newton steps, finite-difference step and trust radius in z.
    """
    batch, zdim = z.shape
    count = len(active)
    offsets = torch.zeros(count + 1, zdim, device=z.device)
    offsets[torch.arange(1, count + 1, device=z.device), active] = difference
    passive = torch.ones(zdim, dtype=torch.bool, device=z.device)
    passive[active] = False
    z = z.masked_fill(passive, 0.0)
    root = weight.sqrt()
    best_z, best_energy = z, torch.full((batch,), torch.inf, device=z.device)
    best_data, best_information = best_energy, torch.zeros(batch, count, count, device=z.device)
    best_gradient = torch.zeros(batch, count, device=z.device)  # of the log-likelihood
    best_spectrum = image
    damping = torch.full((batch, 1, 1), 1e-3, device=z.device)
    for iteration in range(iterations + 1):
        spectra = render(z[:, None] + offsets)
        residual = flat((image - spectra[:, 0]) * root)
        jacobian = flat((spectra[:, 1:] - spectra[:, :1]) * (root / difference))
        data = 0.5 * residual.square().sum(-1)
        energy = data + 0.5 * prior_precision * z.square().sum(-1)
        better = energy < best_energy
        # A step that failed is undone and tried again, shorter (Levenberg-Marquardt).
        damping = torch.where(better[:, None, None], damping * 0.3, damping * 30)
        best_z = torch.where(better[:, None], z, best_z)
        best_data, best_energy = torch.where(better, data, best_data), torch.where(better, energy, best_energy)
        best_spectrum = torch.where(better[:, None, None], spectra[:, 0], best_spectrum)
        information = torch.einsum("bip,bjp->bij", jacobian, jacobian)
        best_information = torch.where(better[:, None, None], information, best_information)
        gradient = torch.einsum("bip,bp->bi", jacobian, residual)
        best_gradient = torch.where(better[:, None], gradient, best_gradient)
        if iteration == iterations or count == 0:
            break
        pull = prior_precision * best_z[:, active]
        curvature = best_information + prior_precision * torch.eye(count, device=z.device)
        diagonal = torch.diag_embed(curvature.diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(curvature + damping * diagonal, best_gradient - pull)
        step = step * (largest_step / step.norm(dim=1, keepdim=True).clamp_min(largest_step))
        z = best_z.clone()
        z[:, active] += step
    linear = torch.einsum("bij,bj->bi", best_information, best_z[:, active]) + best_gradient
    return Refined(best_z, linear, best_information, -best_data, best_spectrum)


def flat(spectrum: torch.Tensor) -> torch.Tensor:  # (..., D, D//2+1) complex -> (..., 2 * D * (D//2+1)) real
    """Real and imaginary parts of a half plane in one row."""
    return torch.view_as_real(spectrum).flatten(-3)


def active_dimensions(mean: torch.Tensor, log_variance: torch.Tensor, least: float = 0.05) -> torch.Tensor:  # (A,)
    """Indices of the dimensions whose posterior differs from the prior: mean KL divergence over particles above
    ``least`` nats. At least one is returned, that of the greatest divergence."""
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
    active = torch.nonzero(kl > least)[:, 0]
    return active if len(active) else kl.argmax()[None]
