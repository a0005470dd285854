"""Images that hold no such particle, or a piece of one: a probability for each.

An image is a particle, explained by the model at its latent and pose, or it is junk. Junk is either no particle at all,
noise alone or a random image whose power spectrum is that of such images; or a particle of which pieces are missing
beyond what the latents explain: the model with a density of its own in each of some regions (:func:`missing_pieces`).
Particle and random image have a noise level of their own (marginal over its logarithm, which leaves chi^2 to the power
of minus half the number of components), so that neither an image a million times too bright nor one with a little more
noise than others decides anything. A particle of many images is junk, or is none, in all of them. How many images are
junk, and the random ones' spectrum, are estimated from all (expectation maximisation).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.cluster.vq import kmeans2

from gaussianem_core.training.grouping import Grouping

FIRST_SHARE, FIRST_IMAGES = 0.02, 20.0
"""Share of junk before anything is known, and the number of images that this counts as."""

ROUNDS = 10

LEVELS = 4.0
"""An image whose power is more than so many times the median, or less than the inverse, is broken: normalised images
of one dataset differ by a fifth or so."""

BROKEN_NATS = 1e4
"""Evidence against a particle in a broken image, beyond all others'."""


PIECES, GAUSSIANS_EACH = 12, 10
"""Regions that may be missing, and Gaussians that each has at least."""
PIECE_WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.6)
"""Widths of the factors of regions' densities: the last of pieces that may be missing; the others, and none at all, are
what the model's errors may be."""


MISFIT = 3.0
"""Standard deviations above the median up to which evidence for missing pieces counts for nothing."""


class Junk(NamedTuple):
    """``probability`` (N,) that an image holds no such particle, and ``evidence`` (N,), the log-odds (nats) against it
    before the share of junk is counted; the ``share`` of junk."""

    probability: torch.Tensor
    evidence: torch.Tensor
    share: torch.Tensor


def find_regions(positions: torch.Tensor) -> list[torch.Tensor]:  # (M, 3)
    """Indices of the Gaussians of each region (k-means of the positions); none where there are too few Gaussians."""
    count = min(PIECES, len(positions) // GAUSSIANS_EACH)
    if count < 2:
        return []
    labels = kmeans2(positions.detach().cpu().double().numpy(), count, seed=0, minit="++")[1]
    found = [torch.from_numpy(labels == number).nonzero()[:, 0] for number in range(count)]
    return [members.to(positions.device) for members in found if len(members)]


def broken(power: torch.Tensor) -> torch.Tensor:  # (N,) -> (N,) bool
    """Images far brighter or darker than the others, by their power: no model of them says anything."""
    ratio = power / power.median().clamp_min(torch.finfo(power.dtype).tiny)
    return ~((ratio < LEVELS) & (ratio > 1 / LEVELS))


def beyond_others(pieces: torch.Tensor) -> torch.Tensor:  # (N,) -> (N,)
    """Evidence for missing pieces beyond what most images give, where that is any.

    Where the model does not fit the molecule's motion, a density of its own in each region helps most particles: that
    is the model's fault, and no junk. So nothing counts up to MISFIT standard deviations (robust) above the median.
    """
    known = torch.isfinite(pieces)
    if not known.any():
        return pieces
    middle = pieces[known].median()
    spread = 1.4826 * (pieces[known] - middle).abs().median()
    return pieces - (middle + MISFIT * spread).clamp_min(0)


def beyond_errors(pieces: torch.Tensor, group: Grouping) -> tuple[torch.Tensor, torch.Tensor]:  # (N, W) -> (N,) x 2
    """Log-evidence (nats) of each image's particle with the errors of the model, and with missing pieces over that.

    The model's density is a little wrong in each particle, and in all of its images alike: what they say against it
    adds up, and of enough images any error would seem to be a missing piece. So a particle that is whole may differ in
    each region, too, by as little as others do: its width is one of PIECE_WIDTHS but the last, or none at all, and how
    many particles have which is estimated from all (expectation maximisation). With many images both hypotheses know
    the difference alike, and its size alone decides. A single image tells no density so well that such errors matter:
    there the model is right.
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
    """Log-evidence of images of a power spectrum, each at a level of its own, without the particle model's constant."""
    return -0.5 * size.sum() * (power / spectrum @ size).clamp_min(1e-9).log() - 0.5 * (size * spectrum.log()).sum()


def find_junk(
    chi2: torch.Tensor,
    cost: torch.Tensor,
    noise_power: torch.Tensor,
    image_power: torch.Tensor,
    sizes: torch.Tensor,
    pieces: torch.Tensor,
    group: Grouping,
) -> Junk:  # (N,) x 2, (S,), (N, S), (S,), (N, W)
    """Junk among N images, whole particles of ``group``: each image has the verdict about its particle.

    ``chi2``, ``cost``: of the model's posterior (``nuisances.Posterior``), with noise of ``noise_power`` in each of S
    shells. ``image_power``: the images' own power, mean over a shell's ``sizes`` components. The first shell, the mean
    value, is left out of all. ``pieces``: log-evidence of each image's particle for regions whose densities differ by
    each of PIECE_WIDTHS, over one as the model has it; minus infinity where it is not known.
    Images that are :func:`broken` are junk in any case, and say nothing about the others of their particle.
    """
    noise, power, size = noise_power[1:].double(), image_power[:, 1:].double(), sizes[1:].double()
    half, faulty = 0.5 * size.sum(), broken(power @ size)
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
    """Log-evidence of all images of a particle but the ``faulty``, for each of its images; a faulty image keeps its
    own."""
    if group.single:
        return evidence
    return torch.where(faulty, evidence, group.images(group.total(evidence.masked_fill(faulty, 0.0))))
