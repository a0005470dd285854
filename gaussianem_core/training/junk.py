"""Probability that an image is junk: that it shows no such particle, or one with missing pieces.

An image is a particle, explained by the model at its latent and pose, or it is junk. Junk is either no particle at all
(noise alone, or a random image with a power spectrum of its own), or a particle of which pieces are missing beyond what
the latents explain: the model with a density of its own in each of some regions (``joint_posterior.missing_pieces``).
Particle and random image each have an unknown noise level, integrated over its logarithm, which leaves chi^2 to the
power of minus half the number of components: so an image that is a million times too bright, or a little noisier than
others, does not decide the result. All images of a particle get the same verdict. The share of junk and the spectrum
of random images are estimated from all images by expectation maximisation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import scipy
import torch

from gaussianem_core.training.grouping import Grouping

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
PIECE_WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.6)
"""Standard deviations of the factors of the regions' densities. The last describes missing pieces; the others, and 0,
are tried for the model's errors."""


MISFIT = 3.0
"""Standard deviations above the median up to which evidence for missing pieces counts for nothing."""


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


def beyond_others(pieces: torch.Tensor) -> torch.Tensor:  # (N,) -> (N,)
    """Evidence (nats) for missing pieces, less MISFIT robust standard deviations above the median, if that is positive.

    Where the model does not fit the molecule's motion, a density of its own in each region helps most particles: that
    is an error of the model and no junk.
    """
    known = torch.isfinite(pieces)
    if not known.any():
        return pieces
    middle = pieces[known].median()
    spread = 1.4826 * (pieces[known] - middle).abs().median()
    return pieces - (middle + MISFIT * spread).clamp_min(0)


def beyond_errors(pieces: torch.Tensor, group: Grouping) -> tuple[torch.Tensor, torch.Tensor]:  # (N, W) -> (N,) x 2
    """Log-evidence (nats) of each image's particle with the errors of the model, and with missing pieces over that.

    The model's density is a little wrong in each particle, and alike in all of its images: their evidence against it
    adds up, and with enough images any error would pass for a missing piece. So the regions of a whole particle may
    differ too, with a width of one of PIECE_WIDTHS but the last, or 0; the shares of these widths are estimated from
    all particles by expectation maximisation. Where each image is a particle the model is taken as right (zeros):
    single images do not determine densities so well that its errors matter.
    """
    if group.single:
        return torch.zeros_like(pieces[:, -1]), pieces[:, -1]
    known = torch.isfinite(pieces[:, -1])
    told = torch.nn.functional.pad(torch.where(known[:, None], pieces, 0.0), (1, 0))
    some = told[group.first][known[group.first]]
    first = torch.full_like(told[0], (1 - FIRST_SHARE) / (told.shape[1] - 1))
    first[-1] = FIRST_SHARE
    share = first
    for _ in range(ROUNDS):
        amount = torch.softmax(some + share.log(), dim=1).sum(0) + FIRST_IMAGES * first
        share = amount / amount.sum()
    whole = torch.logsumexp(told[:, :-1] + (share[:-1] / share[:-1].sum()).log(), dim=1)
    return whole * known, pieces[:, -1] - whole


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
) -> Junk:  # (N,) x 2, (S,), (N, S), (S,), (N, W), (S,)
    """Junk among N images, whole particles of ``group``: each image has the verdict about its particle.

    Parameters
    ----------
    chi2, cost : (N,) of the model's posterior, see ``joint_posterior.Posterior``.
    noise_power : (S,) of the noise in each shell.
    image_power : (N, S) of the images, mean over the components of each shell.
    sizes : (S,) components of each shell.
    pieces : (N, W) log-evidence (nats) for regions whose densities differ by each of PIECE_WIDTHS, see
        ``joint_posterior.missing_pieces``; minus infinity where it is not known.
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
    whole, pieces = beyond_errors(pieces.double(), group)
    particle, pieces = particle + whole, beyond_others(pieces)
    spectrum, share = typical, torch.as_tensor(FIRST_SHARE, device=power.device, dtype=power.dtype)
    # Noise alone stands beside the spectrum that is estimated: that starts from all images, most of which hold
    # particles, and would not find its way to images of noise where signals are strong.
    empty = together(random_image(power, noise, size), faulty, group)
    for _ in range(ROUNDS):
        other = together(random_image(power, spectrum, size), faulty, group)
        none = torch.logaddexp(empty, other) - math.log(2)
        either = torch.logaddexp(none, particle + pieces) - math.log(2)
        evidence = torch.where(faulty, -torch.inf, particle - either)
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
