"""Probability that an image is junk: that it shows no such particle, or one with missing pieces.

An image is a particle, explained by the model at its latent and pose, or it is junk. Junk is either no particle at all
(noise alone, or a random image with a power spectrum of its own), or a particle of which pieces are missing beyond what
the latents explain: the model with a density of its own in each of some regions (``joint_posterior.missing_pieces``),
farther from the model's than its errors, which are estimated beside them. All images of a particle get the same
verdict. Particle and random image each have an unknown noise level, integrated over its logarithm, which leaves chi^2
to the power of minus half the number of components: so an image that is a million times too bright, or a little noisier
than others, does not decide the result. The share of junk and the spectrum of random images are estimated from all
images by expectation maximisation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import scipy
import torch

from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.mixture_prior import Measured, inverse_root

FIRST_SHARE, FIRST_IMAGES = 0.02, 20.0
"""Share of junk before anything is known, and the number of images that this counts as."""

ROUNDS = 10

LEVELS = 4.0
"""An image whose power is more than so many times the median, or less than the inverse, is broken: normalised images
of one dataset differ by a fifth or so."""

BROKEN_NATS = 1e4
"""Evidence (nats) against a particle that a broken image is given; no other image has more."""


PIECES, GAUSSIANS_EACH = 12, 10
"""Number of regions that may be missing, and Gaussians to each of them on average, at least."""
MISSING_WIDTH = 0.6
"""Standard deviation of the factors of the regions' densities where pieces are missing."""

ERROR_WIDTH, ERROR_FIRST = 0.1, 2.0
"""Standard deviation of these factors by errors of the model before anything is known, and the number of particles that
this counts as."""

ERROR_SCALES = (0.25, 1.0, 4.0)
"""Factors of the covariance of the model's errors: they are larger in some particles than in others."""

ERROR_PARTICLES, ERROR_ROUNDS = 4000, 30
"""Particles that the model's errors are estimated from, and rounds of expectation maximisation."""

BLOCK = 1 << 16
"""Images whose evidence is computed at once."""


class Junk(NamedTuple):
    """Junk among N images.

    ``probability`` (N,) that an image is junk; ``evidence`` (N,), log-odds (nats) of a particle over junk, without the
    prior share of junk; ``share`` (), the share of junk.
    """

    probability: torch.Tensor
    evidence: torch.Tensor
    share: torch.Tensor


def find_regions(positions: torch.Tensor) -> list[torch.Tensor]:  # (M, 3)
    """Indices (M_r,) of the Gaussians of each region, by k-means of the positions; no region where there are fewer than
    2 GAUSSIANS_EACH Gaussians."""
    count = min(PIECES, len(positions) // GAUSSIANS_EACH)
    if count < 2:
        return []
    labels = scipy.cluster.vq.kmeans2(positions.detach().cpu().double().numpy(), count, seed=0, minit="++")[1]
    found = [torch.from_numpy(labels == number).nonzero()[:, 0] for number in range(count)]
    return [members.to(positions.device) for members in found if len(members)]


def broken(power: torch.Tensor) -> torch.Tensor:  # (N,) -> (N,) bool
    """Images whose power, in any unit, is LEVELS times the median or more, or 1 / LEVELS of it or less, or NaN."""
    ratio = power / power.median().clamp_min(torch.finfo(power.dtype).tiny)
    return ~((ratio < LEVELS) & (ratio > 1 / LEVELS))


class Errors(NamedTuple):
    """Errors of the model, as factors of the densities of R regions: normal about 1 with the covariance ``root`` root^T
    (R, R) times one of ERROR_SCALES, which have a ``share`` (S,) each of the particles."""

    share: torch.Tensor
    root: torch.Tensor


def find_errors(told: Measured) -> Errors:  # (P, R), (P, R, R)
    """Errors of the model from particles, some of which lack pieces. For ``told`` see :func:`explained_by_densities`.

    Expectation maximisation: extreme deconvolution (Bovy, Hogg and Roweis, Ann. Appl. Stat. 5, 2011) with covariances
    that are multiples of one, and a last one that is known.
    """
    eye = torch.eye(told.linear.shape[1], dtype=told.linear.dtype, device=told.linear.device)
    scales = told.linear.new_tensor(ERROR_SCALES)
    first = torch.cat([(1 - FIRST_SHARE) / len(scales) * torch.ones_like(scales), scales.new_tensor([FIRST_SHARE])])
    covariance, share = ERROR_WIDTH**2 * eye, first
    missing = density_posterior(told, MISSING_WIDTH * eye)[0]
    for _ in range(ERROR_ROUNDS):
        root = torch.linalg.cholesky(covariance)
        evidence, means, spreads = zip(*(density_posterior(told, scale.sqrt() * root) for scale in scales))
        weight = torch.softmax(torch.stack([*evidence, missing], dim=1) + share.log(), dim=1)
        amount = weight.sum(0) + FIRST_IMAGES * first
        share = amount / amount.sum()
        covariance = ERROR_FIRST * ERROR_WIDTH**2 * eye
        for each, mean, spread in zip((weight[:, :-1] / scales).T, means, spreads):
            columns = torch.cat([mean[..., None], spread], dim=2) * each.sqrt()[:, None, None]
            columns = columns.transpose(0, 1).flatten(1)  # their products are the expected products of the factors
            covariance = covariance + columns @ columns.T
        covariance = covariance / (weight[:, :-1].sum() + ERROR_FIRST)
    return Errors(share[:-1] / share[:-1].sum(), torch.linalg.cholesky(covariance))


def explained_by_densities(
    told: Measured, group: Grouping, broken: torch.Tensor
) -> torch.Tensor:  # (N, R), (N, R, R), (N,) -> (N, 2)
    """Log-evidence (nats) of each image's particle that densities of regions differ by errors of the model, and that
    they differ because pieces are missing, both over no difference.

    ``told``: log-likelihood to second order in the differences of R regions' factors from 1, the particle's for each of
    its images, see ``joint_posterior.missing_pieces``; of ``broken`` images nothing is known.

    The network is not exact, least in states that few particles show, and the densities of regions make good for that
    too. What many particles need in the same pattern is then no missing piece of any.
    """
    amount = told.information.diagonal(dim1=1, dim2=2).sum(1)
    known = (amount > 0) & (amount + told.linear.sum(1)).isfinite() & ~broken
    seen = group.first[known[group.first]]
    some = torch.linspace(0, len(seen) - 1, min(len(seen), ERROR_PARTICLES), device=seen.device)
    share, root = find_errors(Measured(*(value.double() for value in told.rows(seen[some.round().long()]))))
    missing = MISSING_WIDTH * torch.eye(len(root), dtype=root.dtype, device=root.device)
    found = []
    for rows in torch.arange(len(known), device=known.device).split(BLOCK):
        here = Measured(*(value.double() for value in told.rows(rows)))
        errors = [density_posterior(here, scale**0.5 * root)[0] for scale in ERROR_SCALES]
        whole = torch.logsumexp(torch.stack(errors, dim=1) + share.log(), dim=1)
        found.append(torch.stack([whole, density_posterior(here, missing)[0]], dim=1))
    return torch.where(known[:, None], torch.cat(found).float(), unknown(len(known), known.device))


def unknown(count: int, device: torch.device) -> torch.Tensor:  # -> (N, 2)
    """Log-evidences as of :func:`explained_by_densities`, before anything is known: no error, and nothing missing."""
    return torch.tensor([0.0, -math.inf], device=device).repeat(count, 1)


def density_posterior(told: Measured, root: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Posterior of R numbers that are normal about 0 with the covariance ``root`` root^T (R, R).

    Log-evidence (nats) relative to all being 0 (N,), mean (N, R), and S (N, R, R), the covariance being S S^T.
    """
    eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
    inner, volume = inverse_root(root.T @ told.information @ root + eye)
    spread = root @ inner
    white = (spread.mT @ told.linear[..., None])[..., 0]
    return 0.5 * white.square().sum(1) - volume, (spread @ white[..., None])[..., 0], spread


def random_image(
    power: torch.Tensor, spectrum: torch.Tensor, size: torch.Tensor
) -> torch.Tensor:  # (N, S), (S,), (S,) -> (N,)
    """Log-evidence (nats) that images have a given power ``spectrum`` up to a factor of their own each.

    ``power`` (N, S), mean over the ``size`` (S,) components of each shell. Without the constant of the particle model.
    """
    return -0.5 * size.sum() * (power / spectrum @ size).clamp_min(1e-9).log() - 0.5 * (size * spectrum.log()).sum()


def find_junk(
    chi2: torch.Tensor,
    cost: torch.Tensor,
    noise_power: torch.Tensor,
    image_power: torch.Tensor,
    sizes: torch.Tensor,
    pieces: torch.Tensor,
    group: Grouping,
    counted: torch.Tensor | float = 1.0,
) -> Junk:  # (N,) x 2, (S,), (N, S), (S,), (N, 2), (S,)
    """Junk among N images, whole particles of ``group``: each image has the verdict about its particle.

    Parameters
    ----------
    chi2, cost : (N,) of the model's posterior, see ``joint_posterior.Posterior``.
    noise_power : (S,) of the noise in each shell.
    image_power : (N, S) of the images, mean over the components of each shell.
    sizes : (S,) components of each shell.
    pieces : (N, 2) log-evidences (nats) of densities that differ, see :func:`explained_by_densities`; 0 and minus
        infinity where they are not known.
    counted : (S,) share to which each shell counts in chi2, see ``NoiseModel.share``.

    The first shell, the mean value, is left out. Images that are :func:`broken` are junk in any case, and do not count
    for the other images of their particle.
    """
    noise, power, size = noise_power[1:].double(), image_power[:, 1:].double(), sizes[1:].double()
    faulty, size = broken(power @ size), (sizes * counted)[1:].double()
    half = 0.5 * size.sum()
    particle = -half * chi2.double().clamp_min(1e-9).log() - cost.double() - 0.5 * (size * noise.log()).sum()
    particle = together(torch.where(faulty, -torch.inf, particle.nan_to_num(nan=-torch.inf)), faulty, group)
    typical = power.median(0).values
    errors, missing = pieces.double().unbind(1)
    spectrum, share = typical, torch.as_tensor(FIRST_SHARE, device=power.device, dtype=power.dtype)
    # Noise alone stands beside the spectrum that is estimated: that starts from all images, most of which hold
    # particles, and would not find its way to images of noise where signals are strong.
    empty = together(random_image(power, noise, size), faulty, group)
    for _ in range(ROUNDS):
        other = together(random_image(power, spectrum, size), faulty, group)
        none = torch.logaddexp(empty, other) - math.log(2)
        either = torch.logaddexp(none, particle + missing) - math.log(2)
        evidence = torch.where(faulty, -torch.inf, particle + errors - either)
        probability = torch.sigmoid((share / (1 - share)).log() - evidence)
        random = probability * torch.where(faulty, 1.0, 0.25 * (other - either).exp())
        # Each at its own level: an image a million times too bright is one image more.
        level = (power / spectrum @ size) / size.sum()
        weight = random[:, None] / level[:, None].clamp_min(1e-9)
        spectrum = ((weight * power).sum(0) + FIRST_IMAGES * typical) / (random.sum() + FIRST_IMAGES)
        share = (probability.sum() + FIRST_SHARE * FIRST_IMAGES) / (len(power) + FIRST_IMAGES)
    evidence = evidence.clamp_min(-BROKEN_NATS)
    return Junk(probability.float(), evidence.float(), share.float())


def together(evidence: torch.Tensor, faulty: torch.Tensor, group: Grouping) -> torch.Tensor:  # (N,), (N,) -> (N,)
    """For each image the sum of its particle's log-evidences but those of ``faulty`` images, which keep their own."""
    if group.single:
        return evidence
    return torch.where(faulty, evidence, group.images(group.total(evidence.masked_fill(faulty, 0.0))))
