"""What an image says about its nuisances and latents together, and the posterior that follows.

To first order about the present estimate, the image is linear in v = (q / widths, z): its log-likelihood is a quadratic
(:func:`linearise`), and under the standard normal prior of v the posterior is a normal distribution, whose evidence one
Cholesky factor gives for all nested models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gaussianem_core.job.events import JobLog
from gaussianem_core.training import nuisances
from gaussianem_core.training.corrections import Corrections, real_particles
from gaussianem_core.training.forward_model import Views
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import BROKEN_NATS, PIECE_WIDTHS, Junk
from gaussianem_core.training.latent_posterior import flat
from gaussianem_core.training.mixture_prior import Latents, Measured, estimate_latents, inverse_root
from gaussianem_core.training.noise_model import NoiseModel, shell_mean
from gaussianem_core.training.nuisances import COUNT, ROTATION, SHIFT


class Quadratic(NamedTuple):
    """What B images say about v = (q / widths, z), n = 7 + K numbers, to second order: ``linear`` b (B, n),
    ``information`` J (B, n, n), and ``chi2`` (B,), the squared residual at v = 0."""

    linear: torch.Tensor
    information: torch.Tensor
    chi2: torch.Tensor

    def rows(self, chosen: torch.Tensor | slice) -> Quadratic:
        """Those of some images."""
        return Quadratic(*(value[chosen] for value in self))

    def first(self, count: int) -> Quadratic:
        """With the first ``count`` numbers alone, the others at 0."""
        return Quadratic(self.linear[:, :count], self.information[:, :count, :count], self.chi2)

    def without(self, broken: torch.Tensor) -> Quadratic:  # (B,) bool
        """The same, but images that are broken say nothing: their posterior is the prior."""
        whole = ~broken
        return Quadratic(self.linear * whole[:, None], self.information * whole[:, None, None], self.chi2)

    def without_broken(self, junk: Junk) -> Quadratic:
        """The same without images of which no model says anything."""
        return self.without(junk.evidence <= -BROKEN_NATS)


class Others(NamedTuple):
    """What the other images of its particle say about the numbers that each of B images shares with them, the last of
    v: ``linear`` (B, S) and ``information`` (B, S, S), with the images' own numbers integrated out; and ``share`` (B,),
    1 over the particle's number of images."""

    linear: torch.Tensor
    information: torch.Tensor
    share: torch.Tensor


def other_images(found: Quadratic, group: Grouping) -> Others | None:
    """The others of each image in whole particles: the sum over the particle, less the image's own part (nuisances are
    each image's own, what follows is shared). None where each image is a particle."""
    if group.single:
        return None
    alone = marginal(found)
    linear, information = (group.images(group.total(value)) - value for value in alone)
    return Others(linear, information, 1 / group.images(group.sizes))


def joined(found: Quadratic, others: Others | None) -> Quadratic:
    """What each image says together with the others of its particle; ``chi2`` stays its own."""
    if others is None:
        return found
    own = found.linear.shape[1] - others.linear.shape[1]
    linear = torch.nn.functional.pad(others.linear, (own, 0))
    information = torch.nn.functional.pad(others.information, (own, 0, own, 0))
    return Quadratic(found.linear + linear, found.information + information, found.chi2)


def quadratic(jacobian: torch.Tensor, residual: torch.Tensor, v: torch.Tensor) -> Quadratic:
    """From the derivatives (B, n, P), real and whitened, and the residual model - image (B, P) at ``v`` (B, n)."""
    information = jacobian @ jacobian.transpose(1, 2)
    slope = (jacobian @ residual[..., None])[..., 0]
    along = (information @ v[..., None])[..., 0]
    chi2 = residual.square().sum(-1) - 2 * (slope * v).sum(-1) + (along * v).sum(-1)
    return Quadratic(along - slope, information, chi2)


class Posterior(NamedTuple):
    """Of B vectors v: ``mean`` (B, n); ``spread`` L (B, n, n) with covariance L L^T; ``gain`` (B, n), what each number
    adds to the log-evidence when it joins those before it; ``chi2`` (B,), the squared residual at the mean; and
    ``cost`` (B,), which the log-evidence lacks beside - chi^2 / 2: of values far from their prior, and of widths."""

    mean: torch.Tensor
    spread: torch.Tensor
    gain: torch.Tensor
    chi2: torch.Tensor
    cost: torch.Tensor


def posterior(found: Quadratic, others: Others | None = None) -> Posterior:
    """Under the standard normal prior of v: precision J + 1, mean (J + 1)^-1 b.

    The first k numbers are the leading blocks, so that one Cholesky factor gives the evidence of all nested models:
    nuisances come first, and a component gains what it explains beyond them.

    With ``others`` it is the posterior given all images of the particle: of the image's own numbers and of those
    shared. The gains of these are then the particle's, the same for each of its images; what the shared numbers cost is
    divided among the images, so that log-evidences sum to the particle's.
    """
    eye = torch.eye(found.linear.shape[1], device=found.linear.device)
    told = joined(found, others)
    lower = torch.linalg.cholesky_ex(told.information + eye)[0]
    white = torch.linalg.solve_triangular(lower, told.linear[..., None], upper=False)
    mean = torch.linalg.solve_triangular(lower.mT, white, upper=True)[..., 0]
    spread = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).mT
    volume = lower.diagonal(dim1=1, dim2=2).log()
    curved = ((found.information @ mean[..., None])[..., 0] * mean).sum(-1)
    chi2 = found.chi2 - 2 * (found.linear * mean).sum(-1) + curved
    cost = 0.5 * mean.square().sum(1) + volume.sum(1)
    if others is not None:
        own = mean.shape[1] - others.linear.shape[1]
        shared = 0.5 * mean[:, own:].square().sum(1) + volume[:, own:].sum(1)
        cost = cost - (1 - others.share) * shared
    return Posterior(mean, spread, 0.5 * white[..., 0].square() - volume, chi2, cost)


def limited(step: torch.Tensor, widths: torch.Tensor, group: Grouping) -> torch.Tensor:  # (B, n), (7,) -> (B, n)
    """A Gauss-Newton step of v, shortened to where the derivatives hold: in degrees, pixels and units of z, not in
    widths, which may have shrunk since the last visit. Images of one particle go the same part of their step."""
    q = step[:, :COUNT] * widths
    lengths = [q[:, ROTATION].norm(dim=1) / nuisances.LARGEST_TURN, q[:, SHIFT].norm(dim=1) / nuisances.LARGEST_SHIFT]
    lengths.append(step[:, COUNT:].norm(dim=1) / nuisances.LARGEST_LATENT)
    return step / group.most(torch.stack(lengths).amax(0)).clamp_min(1.0)[:, None]


def marginal(found: Quadratic, own: int = COUNT) -> Measured:  # -> (B, K), (B, K, K)
    """What is said of z alone, or of all but the first ``own`` numbers, with q, or these, integrated out under their
    prior: the Schur complement."""
    j, b = found.information, found.linear
    root, _ = inverse_root(j[:, :own, :own] + torch.eye(own, device=b.device))
    half = root.mT @ j[:, :own, own:]
    rest = root.mT @ b[:, :own, None]
    return Measured(b[:, own:] - (half.mT @ rest)[..., 0], j[:, own:, own:] - half.mT @ half)


def by_particle(measured: Quadratic, group: Grouping) -> Measured:
    """What all images of each particle say of its latent: the sum over them, nuisances integrated out."""
    return Measured(*(group.total(value) for value in marginal(measured)))


def estimate(
    measured: Quadratic,
    widths: torch.Tensor,
    junk: Junk,
    active: torch.Tensor,
    group: Grouping,
    seed: int,
    turn: int,
    log: JobLog,
) -> tuple[Latents, Corrections]:
    """Latents of all particles with their population, and nuisances of all images, from what the images say about
    q / ``widths`` and the ``active`` latents; other arguments as :func:`mixture_prior.estimate_latents`. What is junk
    says nothing about the population."""
    measured = measured.without_broken(junk)
    real = junk.probability < 0.5
    latents = estimate_latents(by_particle(measured, group), active, seed, turn, log, real_particles(junk, group))
    # Nothing can be said of a particle that is not there: its pose stays as it is given.
    known, z = real[:, None], group.images(latents.values[:, : len(active)][:, active])
    mean = torch.where(known, given_latents(measured, z) * widths, 0.0)
    samples = [
        torch.where(known, given_latents(measured, group.images(draw[:, active]), torch.randn_like(mean)) * widths, 0.0)
        for draw in latents.samples
    ]
    return latents, Corrections(mean, torch.stack(samples), widths, junk)


def given_latents(found: Quadratic, z: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of q / widths (B, 7) where z (B, K) is known, or, with standard normal ``noise`` (B, 7), a draw of it."""
    j, b = found.information, found.linear
    root, _ = inverse_root(j[:, :COUNT, :COUNT] + torch.eye(COUNT, device=b.device))
    pull = b[:, :COUNT] - (j[:, :COUNT, COUNT:] @ z[..., None])[..., 0]
    white = (root.mT @ pull[..., None])[..., 0]
    return (root @ (white if noise is None else white + noise)[..., None])[..., 0]


class Expectation(NamedTuple):
    """Of B images, whole particles of a ``group``: what each says about v = (q / widths, z), its ``posterior`` given
    all images of its particle, the value ``next`` (B, 7 + K) that a limited step leads to; and ``jacobian`` (B, n, P)
    and ``residual`` (B, P) at the posterior mean, whitened; which images are ``broken`` (B,); their CTF, ``transfer``
    (B, D, D//2+1), and the same times the contrast, ``scaled``."""

    measured: Quadratic
    posterior: Posterior
    next: torch.Tensor
    jacobian: torch.Tensor
    residual: torch.Tensor
    group: Grouping
    broken: torch.Tensor
    transfer: torch.Tensor
    scaled: torch.Tensor


def linearise(
    projected: torch.Tensor,
    deep: torch.Tensor,
    views: Views,
    q: torch.Tensor,
    z: torch.Tensor,
    widths: torch.Tensor,
    image: torch.Tensor,
    weight: torch.Tensor,
    difference: float,
    group: Grouping,
    broken: torch.Tensor,
) -> Expectation:
    """From the spectra ``projected`` (B, 1 + K, D, D//2+1), before the CTF, at z and ``difference`` along each latent,
    and ``deep`` (B, D, D//2+1), see :func:`nuisances.derivatives`. ``broken`` (B,) bool: images that tell their
    particle's others nothing."""
    contrast, transfer = 1 + q[:, nuisances.CONTRAST], views.transfer(image.shape[-2])
    scaled = transfer * contrast[:, None, None]
    root = weight.sqrt()
    by_q = nuisances.derivatives(projected[:, 0], deep, views, contrast, transfer) * widths[:, None, None]
    by_z = (projected[:, 1:] - projected[:, :1]) * (scaled / difference)[:, None]
    jacobian = flat(torch.cat([by_q, by_z], dim=1) * root)
    residual = flat((projected[:, 0] * scaled - image) * root)
    v = torch.cat([nuisances.in_widths(q, widths), z], dim=1)
    measured = quadratic(jacobian, residual, v)
    found = among_others(measured, group, broken)
    residual = residual + ((found.mean - v)[:, None] @ jacobian)[:, 0]
    after = v + limited(found.mean - v, widths, group)
    return Expectation(measured, found, after, jacobian, residual, group, broken, transfer, scaled)


def among_others(measured: Quadratic, group: Grouping, broken: torch.Tensor) -> Posterior:
    """:func:`posterior` given all images of each image's particle, of which the broken say nothing."""
    if group.single:
        return posterior(measured)
    told = measured.without(broken)
    return posterior(told, other_images(told, group))


def missing_pieces(e: Expectation, pieces: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # -> (B, W)
    """Log-evidence (nats) for a particle whose regions have densities of their own, over one as the model has it.

    ``pieces`` (B, R, D, D//2+1): the spectrum that each region adds to the image. The factors of the regions' densities
    are normal about 1, of each of ``junk.PIECE_WIDTHS``, and join v last; a particle's images share them.
    """
    jacobian = torch.cat([e.jacobian, flat(pieces * weight.sqrt())], dim=1)
    count = pieces.shape[1]
    v = torch.nn.functional.pad(e.posterior.mean, (0, count))
    told = quadratic(jacobian, e.residual, v)
    if not e.group.single:
        told = told.without(e.broken)
        told = joined(told, other_images(told, e.group))
    return piece_evidence(marginal(told, v.shape[1] - count))


def piece_evidence(told: Measured) -> torch.Tensor:  # (B, R), (B, R, R) -> (B, W)
    """Log-evidence that R numbers are normal about 0, of each of ``junk.PIECE_WIDTHS``, over their being 0."""
    found, eye = [], torch.eye(told.linear.shape[1], device=told.linear.device)
    for width in PIECE_WIDTHS:
        root, volume = inverse_root(width**2 * told.information + eye)
        white = width * (root.mT @ told.linear[..., None])[..., 0]
        found.append(0.5 * white.square().sum(1) - volume)
    return torch.stack(found, dim=1)


def residual_power(e: Expectation, weight: torch.Tensor, noise: NoiseModel) -> torch.Tensor:  # -> (B, S)
    """Expected power by shell of the images less their model, over the posterior: the residual at its mean, and what
    the model varies. Where images do not count, 0."""
    varied = e.posterior.spread.mT @ e.jacobian
    squared = e.residual.square() + varied.square().sum(1)
    box = noise.box
    squared = squared.unflatten(-1, (box, box // 2 + 1, 2)).sum(-1)
    back = torch.where(weight > 0, noise.multiplicity / weight.clamp_min(1e-30), 0.0)
    return shell_mean(squared * back)
