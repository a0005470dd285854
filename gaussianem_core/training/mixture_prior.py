"""The population of latents: a mixture of Gaussians, estimated from all particles, as the prior of each.

One image says little about its particle, but 10^5 of them show how latents are distributed: along a curve, say, or in
two clusters. To second order the log-likelihood of an image is a quadratic in the latent,

    log L(z) = b . z - 1/2 z^T J z  (+ a constant),

with the information J, which may be singular, and b = J z_0 + gradient at z_0. For a prior sum_k w_k N(m_k, S_k) the
posterior is a mixture again, of precision J + S_k^-1 and of mean (J + S_k^-1)^-1 (b + S_k^-1 m_k), and the evidence is
known; so EM finds the prior under which all images together are most likely: extreme deconvolution (Bovy, Hogg and
Roweis, Ann. Appl. Stat. 5, 2011). The number of Gaussians is chosen by held-out particles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.device import distributed
from gaussianem_core.runtime.streams import stream, torch_seed
from gaussianem_core.training.latent_posterior import LOG_VARIANCE_RANGE

MOST, SIGNIFICANT = 32, 2.0  # Gaussians; standard errors of evidence that twice as many must gain
SAMPLE, HELD_OUT = 10_000, 0.2  # particles that the population is estimated from, and their share kept aside
TRIED = 4  # Gaussians are tried in any case: a few clusters may look like one Gaussian until they are told apart
ITERATIONS = (40, 400)  # of EM: at least, and times Gaussians; widths that images say little about settle slowly
SAMPLES = 4  # sets of latents drawn from the posteriors each time these are known anew; epochs take them in turn
FLOOR, FLOOR_PARTICLES = 0.005, 5.0  # every Gaussian also sees so many particles of this variance
CHUNK = {"cuda": 1 << 18, "cpu": 1 << 14}  # pairs of a particle and a Gaussian at once


class Measured(NamedTuple):
    """Log-likelihood of N particles to second order in A latents, b . z - 1/2 z^T J z: ``linear`` b (N, A) and
    ``information`` J (N, A, A)."""

    linear: torch.Tensor
    information: torch.Tensor

    def rows(self, chosen: torch.Tensor | slice) -> Measured:
        """The quadratics of the particles ``chosen`` (indices, a slice or a mask)."""
        return Measured(self.linear[chosen], self.information[chosen])


class Population(NamedTuple):
    """A mixture of K Gaussians over A latents: ``share`` (K,), ``mean`` (K, A), ``covariance`` (K, A, A)."""

    share: torch.Tensor
    mean: torch.Tensor
    covariance: torch.Tensor

    def log_density(self, z: torch.Tensor) -> torch.Tensor:  # (N, A) -> (N,)
        """Logarithm (nats) of the density at latents, without the constant -A/2 log(2 pi)."""
        spread, log_root = inverse_root(self.covariance)
        white = torch.einsum("kab,nka->nkb", spread, z[:, None] - self.mean)
        return torch.logsumexp(self.share.log() - log_root - 0.5 * white.square().sum(-1), dim=1)


def standard_normal(latents: int, device: torch.device, precision: float = 1.0) -> Population:
    """One Gaussian about 0, of variance 1 / ``precision``."""
    eye = torch.eye(latents, device=device)[None] / precision
    return Population(torch.ones(1, device=device), torch.zeros(1, latents, device=device), eye)


def empty(count: int, latents: int, device: torch.device) -> Population:
    """Uninitialised tensors for ``count`` Gaussians over A = ``latents`` dimensions."""
    sizes = ((count,), (count, latents), (count, latents, latents))
    return Population(*(torch.empty(size, device=device) for size in sizes))


class Latents(NamedTuple):
    """Latent posteriors of N particles under a population.

    values : (N, 2 * zdim), means, then log-variances. samples : (SAMPLES, N, zdim) from the posteriors.
    active : (zdim,) bool, the A dimensions of the ``population``. The others stay at their prior: mean and log-variance
        0, samples 0.
    """

    values: torch.Tensor
    samples: torch.Tensor
    active: torch.Tensor
    population: Population


def estimate_latents(
    measured: Measured, active: torch.Tensor, seed: int, turn: int, log: JobLog, counted: torch.Tensor | None = None
) -> Latents:
    """Estimate the population of the ``active`` (zdim,) latents from all particles, and the particles' posteriors.

    ``turn``: number of the estimate, which names the stream of random numbers. ``counted`` (N,) bool: particles that
    the population is estimated from; None for all. Every process gets the same.
    """
    ranks, device = distributed(), active.device
    torch.manual_seed(torch_seed(seed, "mixture prior", turn))
    size = torch.zeros(1, dtype=torch.long, device=device)
    if not active.any():
        values = torch.zeros(len(measured.linear), 2 * len(active), device=device)
        samples = torch.zeros(SAMPLES, len(values), len(active), device=device)
        return Latents(values, samples, active, standard_normal(0, device))
    if ranks.rank == 0:
        population, gain = fit(measured if counted is None else measured.rows(counted), seed)
        size.fill_(len(population.share))
        log.message(f"population of latents: {len(population.share)} Gaussians, {gain:.2f} nats a held-out particle")
    ranks.broadcast([size])
    if ranks.rank != 0:
        population = empty(int(size), measured.linear.shape[1], device)
    ranks.broadcast(list(population))
    values = all_dimensions(*summary(population, measured), active)
    samples = torch.zeros(SAMPLES, len(values), len(active), device=device)
    samples[:, :, active] = sample(population, measured, SAMPLES)
    return Latents(values, samples, active, population)


def all_dimensions(
    mean: torch.Tensor, variance: torch.Tensor, active: torch.Tensor
) -> torch.Tensor:  # (N, A) x 2, (zdim,) -> (N, 2 * zdim)
    """Means and log-variances of all latents from means and variances of the ``active`` ones; the others are 0."""
    values = torch.zeros(len(mean), 2, len(active), device=active.device)
    values[:, :, active] = torch.stack([mean, variance.log().clamp(*LOG_VARIANCE_RANGE)], dim=1)
    return values.flatten(1)


class Posterior(NamedTuple):
    """Posteriors of N particles under a population of K Gaussians.

    responsibility : (N, K). mean : (N, K, A). spread : L (N, K, A, A), the covariance is L L^T.
    evidence : (N,), log-evidence in nats, up to a constant of each particle.
    """

    responsibility: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor
    evidence: torch.Tensor


def posterior(population: Population, measured: Measured) -> Posterior:
    """Posteriors of the particles' latents given the population (Bovy et al., 2011; see the module)."""
    root, log_prior = inverse_root(population.covariance)
    precision = root @ root.mT
    pull = (precision @ population.mean[..., None])[..., 0]
    spread, log_root = inverse_root(measured.information[:, None] + precision)
    white = spread.mT @ (measured.linear[:, None] + pull)[..., None]
    log_part = 0.5 * white[..., 0].square().sum(-1) - log_root - log_prior
    log_part = log_part - 0.5 * (population.mean * pull).sum(-1) + population.share.log()
    evidence = torch.logsumexp(log_part, dim=1)
    return Posterior((log_part - evidence[:, None]).exp(), (spread @ white)[..., 0], spread, evidence)


def posteriors(population: Population, measured: Measured) -> Iterator[tuple[slice, Posterior]]:
    """Yield rows and their :func:`posterior`, as many particles at a time as CHUNK allows."""
    each = max(1, CHUNK[measured.linear.device.type] // len(population.share))
    for begin in range(0, len(measured.linear), each):
        rows = slice(begin, begin + each)
        yield rows, posterior(population, measured.rows(rows))


def summary(population: Population, measured: Measured) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (N, A) and variance (N, A) of each particle's posterior."""
    means, variances = torch.empty_like(measured.linear), torch.empty_like(measured.linear)
    for rows, p in posteriors(population, measured):
        means[rows] = mean = (p.responsibility[..., None] * p.mean).sum(1)
        variance = p.spread.square().sum(-1) + (p.mean - mean[:, None]).square()
        variances[rows] = (p.responsibility[..., None] * variance).sum(1)
    return means, variances


def sample(population: Population, measured: Measured, times: int) -> torch.Tensor:  # -> (times, N, A)
    """Latents drawn from each particle's posterior, ``times`` times."""
    drawn = measured.linear.new_empty(times, *measured.linear.shape)
    for rows, p in posteriors(population, measured):
        for number in range(times):
            chosen = torch.multinomial(p.responsibility, 1)[:, 0]
            each = torch.arange(len(chosen), device=chosen.device)
            noise = torch.randn_like(p.mean[:, 0])[..., None]
            drawn[number, rows] = p.mean[each, chosen] + (p.spread[each, chosen] @ noise)[..., 0]
    return drawn


def improve(population: Population, measured: Measured, iterations: int) -> Population:
    """The population after ``iterations`` of EM on the measured particles (Bovy et al., 2011).

    Each covariance is regularised by FLOOR_PARTICLES particles of variance FLOOR.
    """
    count, latents = population.mean.shape
    floor = FLOOR_PARTICLES * FLOOR * torch.eye(latents, device=population.mean.device)
    for _ in range(iterations):
        amount = torch.zeros_like(population.share)
        first, second = torch.zeros_like(population.mean), torch.zeros_like(population.covariance)
        for _, p in posteriors(population, measured):
            r = p.responsibility
            amount += r.sum(0)
            first += torch.einsum("nk,nka->ka", r, p.mean)
            square = p.spread @ p.spread.mT + p.mean[..., :, None] * p.mean[..., None, :]
            second += torch.einsum("nk,nkab->kab", r, square)
        mean = first / amount[:, None].clamp_min(1e-6)
        scatter = second - amount[:, None, None] * mean[:, :, None] * mean[:, None, :]
        covariance = (scatter + floor) / (amount + FLOOR_PARTICLES)[:, None, None]
        share = (amount + 1e-3) / (amount.sum() + count * 1e-3)
        population = Population(share, mean, covariance)
    return population


def evidence(population: Population, measured: Measured) -> torch.Tensor:  # (N,)
    """Log-evidence (nats) of each particle, up to a constant of its own."""
    return torch.cat([p.evidence for _, p in posteriors(population, measured)])


def fit(measured: Measured, seed: int) -> tuple[Population, float]:
    """The population of the measured particles, and its gain over a standard normal in nats a held-out particle.

    The number of Gaussians is doubled, up to MOST, while the held-out particles' mean log-evidence grows by SIGNIFICANT
    standard errors or more; up to TRIED Gaussians are tried in any case. Of no particles it is a standard normal.
    """
    count, latents = measured.linear.shape
    device = measured.linear.device
    if not count:
        return standard_normal(latents, device), 0.0
    chosen = torch.from_numpy(stream(seed, "held out of the mixture").permutation(count)[:SAMPLE]).to(device)
    aside = max(1, int(HELD_OUT * len(chosen)))
    held, used = measured.rows(chosen[:aside]), measured.rows(chosen[aside:])
    plain = standard_normal(latents, device)
    best, gain = plain, evidence(plain, held)
    first, found = gain, plain
    while len(found.share) <= MOST and len(found.share) * 20 <= len(used.linear):
        found = improve(found, used, max(ITERATIONS[0], ITERATIONS[1] // len(found.share)))
        now = evidence(found, held)
        step = now - gain
        if step.mean() > SIGNIFICANT * step.std() / len(step) ** 0.5:
            best, gain = found, now
        elif len(found.share) >= TRIED:
            break
        found = split(found)
    return best, float((gain - first).mean())


def split(population: Population) -> Population:
    """The population with each Gaussian cut in two halves across its longest axis."""
    values, axes = torch.linalg.eigh(population.covariance)
    long = axes[..., -1] * values[..., -1:].sqrt()
    # Halves of a normal distribution have their means at +-sqrt(2/pi) of its width, and 1 - 2/pi of its variance.
    apart, rest = (2 / np.pi) ** 0.5 * long, 2 / np.pi * long[:, :, None] * long[:, None, :]
    mean = torch.cat([population.mean - apart, population.mean + apart])
    return Population(population.share.repeat(2) / 2, mean, (population.covariance - rest).repeat(2, 1, 1))


def inverse_root(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # (..., A, A) -> (..., A, A), (...)
    """R with R R^T the inverse of a positive definite matrix, and half the logarithm of its determinant.

    Of many small matrices CUDA makes these two steps at once, and no check for which the host would wait.
    """
    lower = torch.linalg.cholesky_ex(matrix)[0]
    eye = torch.eye(matrix.shape[-1], device=matrix.device).expand_as(lower)
    root = torch.linalg.solve_triangular(lower, eye, upper=False).mT
    return root, lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
