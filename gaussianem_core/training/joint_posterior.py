"""Joint posterior of an image's nuisances q (see ``nuisances``) and its particle's latent z.

To first order about the present estimate, the image is linear in v = (q / widths, z): its log-likelihood is a quadratic
(:func:`linearise`), and under the standard normal prior of v the posterior is a normal distribution. One Cholesky
factor gives its evidence for all nested models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gaussianem_core.job.events import JobLog
from gaussianem_core.training import nuisances
from gaussianem_core.training.corrections import Corrections, real_particles
from gaussianem_core.training.forward_model import Views
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import BROKEN_NATS, Junk
from gaussianem_core.training.latent_posterior import flat
from gaussianem_core.training.mixture_prior import Latents, Measured, estimate_latents, inverse_root
from gaussianem_core.training.noise_model import LEAST_WEIGHT, NoiseModel, shell_mean
from gaussianem_core.training.nuisances import COUNT, ROTATION, SHIFT


class Quadratic(NamedTuple):
    """Log-likelihood of B images to second order, b . v - 1/2 v^T J v - 1/2 chi2, in nats and without its constant.

    v = (q / widths, z) has n = 7 + K numbers. ``linear``: b (B, n); ``information``: J (B, n, n); ``chi2`` (B,): the
    squared residual, whitened by the noise, at v = 0.
    """

    linear: torch.Tensor
    information: torch.Tensor
    chi2: torch.Tensor

    def rows(self, chosen: torch.Tensor | slice) -> Quadratic:
        """The quadratics of the images ``chosen``: indices (b,), a mask (B,) or a slice."""
        return Quadratic(*(value[chosen] for value in self))

    def first(self, count: int) -> Quadratic:
        """The quadratics in the first ``count`` numbers of v, with the others at 0."""
        return Quadratic(self.linear[:, :count], self.information[:, :count, :count], self.chi2)

    def without(self, broken: torch.Tensor) -> Quadratic:  # (B,) bool
        """The quadratics with zeros for ``broken`` images, so that their posterior is the prior."""
        whole = ~broken
        return Quadratic(self.linear * whole[:, None], self.information * whole[:, None, None], self.chi2)

    def without_broken(self, junk: Junk) -> Quadratic:
        """:meth:`without` the images that ``junk`` found broken."""
        return self.without(junk.evidence <= -BROKEN_NATS)


class Others(NamedTuple):
    """Quadratics in the S last numbers of v, which images of one particle share, from its other images.

    ``linear`` (B, S) and ``information`` (B, S, S) for each of B images, with the other images' own numbers integrated
    out; ``share`` (B,): 1 over the particle's number of images.
    """

    linear: torch.Tensor
    information: torch.Tensor
    share: torch.Tensor


def other_images(found: Quadratic, group: Grouping) -> Others | None:
    """For each image of whole particles the sum over its particle's other images; None where each image is a particle.

    The first 7 numbers of v, the nuisances, are each image's own; the rest is shared.
    """
    if group.single:
        return None
    alone = marginal(found)
    linear, information = (group.images(group.total(value)) - value for value in alone)
    return Others(linear, information, 1 / group.images(group.sizes))


def joined(found: Quadratic, others: Others | None) -> Quadratic:
    """Each image's quadratic plus those of the other images of its particle; ``chi2`` stays its own."""
    if others is None:
        return found
    own = found.linear.shape[1] - others.linear.shape[1]
    linear = torch.nn.functional.pad(others.linear, (own, 0))
    information = torch.nn.functional.pad(others.information, (own, 0, own, 0))
    return Quadratic(found.linear + linear, found.information + information, found.chi2)


def quadratic(jacobian: torch.Tensor, residual: torch.Tensor, v: torch.Tensor) -> Quadratic:
    """The quadratic from derivatives of the model (B, n, P) and residuals model - image (B, P), both real and whitened
    by the noise, at ``v`` (B, n)."""
    information = jacobian @ jacobian.transpose(1, 2)
    slope = (jacobian @ residual[..., None])[..., 0]
    along = (information @ v[..., None])[..., 0]
    chi2 = residual.square().sum(-1) - 2 * (slope * v).sum(-1) + (along * v).sum(-1)
    return Quadratic(along - slope, information, chi2)


class Posterior(NamedTuple):
    """Normal posteriors of B vectors v, and their log-evidence -chi2 / 2 - cost, in nats and without its constant.

    mean : (B, n).
    spread : L (B, n, n), the covariance is L L^T.
    gain : (B, n), what each number adds to the log-evidence of the model with the numbers before it.
    chi2 : (B,), whitened squared residual of the image at the mean.
    cost : (B,), half the squared mean plus half the log-determinant of the precision.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    gain: torch.Tensor
    chi2: torch.Tensor
    cost: torch.Tensor


def posterior(found: Quadratic, others: Others | None = None) -> Posterior:
    """Posterior under the standard normal prior of v: precision J + 1, mean (J + 1)^-1 b.

    The Cholesky factor of the first k numbers is the leading block of that of all, so that one factor gives the
    evidence of all nested models: nuisances come first, and a component gains what it explains beyond them.

    With ``others`` it is the posterior given all images of the particle. The gains of the shared numbers are then the
    particle's, the same for each of its images; their cost is divided among the images, so that the images'
    log-evidences sum to the particle's.
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
    """Gauss-Newton steps of v, shortened to LARGEST_TURN, LARGEST_SHIFT and LARGEST_LATENT of ``nuisances``.

    The limits are in radians, pixels and units of z, not in ``widths``, which may have shrunk since the last pass.
    Images of one particle are shortened by the same factor.
    """
    q = step[:, :COUNT] * widths
    lengths = [q[:, ROTATION].norm(dim=1) / nuisances.LARGEST_TURN, q[:, SHIFT].norm(dim=1) / nuisances.LARGEST_SHIFT]
    lengths.append(step[:, COUNT:].norm(dim=1) / nuisances.LARGEST_LATENT)
    return step / group.most(torch.stack(lengths).amax(0)).clamp_min(1.0)[:, None]


def marginal(found: Quadratic, own: int = COUNT) -> Measured:  # -> (B, K), (B, K, K)
    """Quadratic in all but the first ``own`` numbers, by default in z, with those integrated out under their standard
    normal prior: the Schur complement."""
    j, b = found.information, found.linear
    root, _ = inverse_root(j[:, :own, :own] + torch.eye(own, device=b.device))
    half = root.mT @ j[:, :own, own:]
    rest = root.mT @ b[:, :own, None]
    return Measured(b[:, own:] - (half.mT @ rest)[..., 0], j[:, own:, own:] - half.mT @ half)


def by_particle(measured: Quadratic, group: Grouping) -> Measured:
    """Quadratic in the latent of each particle (P, K): the sum over its images, nuisances integrated out."""
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
    """Latents of all particles with their population, and nuisances of all images.

    ``measured``: quadratics of all N images in q / ``widths`` and the ``active`` (zdim,) latents. Other arguments as
    for :func:`mixture_prior.estimate_latents`. The population is estimated without junk; junk images keep their given
    poses, contrast and defocus.
    """
    measured = measured.without_broken(junk)
    real = junk.probability < 0.5
    latents = estimate_latents(by_particle(measured, group), active, seed, turn, log, real_particles(junk, group))
    # Junk has no pose to correct: it stays as it is given.
    known, z = real[:, None], group.images(latents.values[:, : len(active)][:, active])
    mean = torch.where(known, given_latents(measured, z) * widths, 0.0)
    samples = [
        torch.where(known, given_latents(measured, group.images(draw[:, active]), torch.randn_like(mean)) * widths, 0.0)
        for draw in latents.samples
    ]
    return latents, Corrections(mean, torch.stack(samples), widths, junk)


def given_latents(found: Quadratic, z: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Posterior mean of q / widths (B, 7) given z (B, K), or, with standard normal ``noise`` (B, 7), a draw of it."""
    j, b = found.information, found.linear
    root, _ = inverse_root(j[:, :COUNT, :COUNT] + torch.eye(COUNT, device=b.device))
    pull = b[:, :COUNT] - (j[:, :COUNT, COUNT:] @ z[..., None])[..., 0]
    white = (root.mT @ pull[..., None])[..., 0]
    return (root @ (white if noise is None else white + noise)[..., None])[..., 0]


class Expectation(NamedTuple):
    """E step of B images, whole particles of ``group``, with v = (q / widths, z).

    measured : quadratic of each image by itself.
    posterior : given all images of the particle.
    next : (B, 7 + K), v after a limited Gauss-Newton step.
    jacobian, residual : (B, 7 + K, P) and (B, P), whitened, the residual at the posterior mean.
    broken : (B,) bool.
    transfer, scaled : (B, D, D//2+1), the CTF, and the CTF times the contrast.
    misfit : (B, D, D//2+1) complex, the model at v less the image.
    """

    measured: Quadratic
    posterior: Posterior
    next: torch.Tensor
    jacobian: torch.Tensor
    residual: torch.Tensor
    group: Grouping
    broken: torch.Tensor
    transfer: torch.Tensor
    scaled: torch.Tensor
    misfit: torch.Tensor


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
    """The E step of B images from projections about the present estimate.

    Parameters
    ----------
    projected : (B, 1 + K, D, D//2+1) spectra before the CTF, at z and at steps of ``difference`` along each latent.
    deep : (B, D, D//2+1), see :func:`nuisances.derivatives`.
    views : poses and CTFs corrected by q.
    q, z, widths : (B, 7), (B, K), (7,), the present estimate and the prior's standard deviations.
    image : (B, D, D//2+1) spectra of the images.
    weight : (D, D//2+1), multiplicity / noise power.
    broken : (B,) bool, images that are left out of what their particle's other images learn.
    """
    contrast, transfer = 1 + q[:, nuisances.CONTRAST], views.transfer(image.shape[-2])
    scaled = transfer * contrast[:, None, None]
    root = weight.sqrt()
    by_q = nuisances.derivatives(projected[:, 0], deep, views, contrast, transfer) * widths[:, None, None]
    by_z = (projected[:, 1:] - projected[:, :1]) * (scaled / difference)[:, None]
    jacobian = flat(torch.cat([by_q, by_z], dim=1) * root)
    misfit = projected[:, 0] * scaled - image
    residual = flat(misfit * root)
    v = torch.cat([nuisances.in_widths(q, widths), z], dim=1)
    measured = quadratic(jacobian, residual, v)
    found = among_others(measured, group, broken)
    residual = residual + ((found.mean - v)[:, None] @ jacobian)[:, 0]
    after = v + limited(found.mean - v, widths, group)
    return Expectation(measured, found, after, jacobian, residual, group, broken, transfer, scaled, misfit)


def among_others(measured: Quadratic, group: Grouping, broken: torch.Tensor) -> Posterior:
    """:func:`posterior` given all images of each image's particle but the ``broken`` (B,) ones."""
    if group.single:
        return posterior(measured)
    told = measured.without(broken)
    return posterior(told, other_images(told, group))


def missing_pieces(e: Expectation, pieces: torch.Tensor, weight: torch.Tensor) -> Measured:  # -> (B, R), (B, R, R)
    """Log-likelihood of each image's particle to second order in the densities of its R regions, as differences of
    their factors from 1, which all its images share; nuisances and latent are integrated out.

    ``pieces`` (B, R, D, D//2+1): the spectrum that each region adds to the image.
    """
    jacobian = torch.cat([e.jacobian, flat(pieces * weight.sqrt())], dim=1)
    count = pieces.shape[1]
    v = torch.nn.functional.pad(e.posterior.mean, (0, count))
    told = quadratic(jacobian, e.residual, v)
    if not e.group.single:
        told = told.without(e.broken)
        told = joined(told, other_images(told, e.group))
    return marginal(told, v.shape[1] - count)


def residual_power(e: Expectation, weight: torch.Tensor, noise: NoiseModel) -> torch.Tensor:  # -> (B, S)
    """Expected residual power of each image in each of S shells over the posterior.

    The sum of the squared residual at the posterior mean and of the model's variance; in shells whose ``weight``
    (D, D//2+1) is no larger than LEAST_WEIGHT, of which the posterior knows nothing, the residual before it.
    """
    varied = e.posterior.spread.mT @ e.jacobian
    squared = e.residual.square() + varied.square().sum(1)
    box = noise.box
    squared = squared.unflatten(-1, (box, box // 2 + 1, 2)).sum(-1)
    back = noise.multiplicity / weight.clamp_min(LEAST_WEIGHT)
    before = e.misfit.abs().square() * noise.multiplicity
    return shell_mean(torch.where(weight > LEAST_WEIGHT, squared * back, before))
