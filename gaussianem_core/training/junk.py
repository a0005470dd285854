"""Images that hold no such particle: a probability for each.

An image is a particle, explained by the model at its latent and pose, or it is none: a random image whose power
spectrum is that of such images. Both have a noise level of their own (marginal over its logarithm, which leaves
chi^2 to the power of minus half the number of components), so that neither an image a million times too bright nor one
with a little more noise than others decides anything. How many images are junk, and their spectrum, are estimated from
all (expectation maximisation).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

FIRST_SHARE, FIRST_IMAGES = 0.02, 20.0
"""Share of junk before anything is known, and the number of images that this counts as."""

ROUNDS = 10

LEVELS = 4.0
"""An image whose power is more than so many times the median, or less than the inverse, is broken: normalised images
of one dataset differ by a fifth or so."""

BROKEN_NATS = 1e4
"""Evidence against a particle in a broken image, beyond all others'."""


class Junk(NamedTuple):
    """``probability`` (N,) that an image holds no such particle, and ``evidence`` (N,), the log-odds (nats) against it
    before the share of junk is counted; the ``share`` of junk."""

    probability: torch.Tensor
    evidence: torch.Tensor
    share: torch.Tensor


def broken(power: torch.Tensor) -> torch.Tensor:  # (N,) -> (N,) bool
    """Images far brighter or darker than the others, by their power: no model of them says anything."""
    ratio = power / power.median().clamp_min(torch.finfo(power.dtype).tiny)
    return ~((ratio < LEVELS) & (ratio > 1 / LEVELS))


def find_junk(
    chi2: torch.Tensor,
    cost: torch.Tensor,
    noise_power: torch.Tensor,
    image_power: torch.Tensor,
    sizes: torch.Tensor,
) -> Junk:  # (N,) x 2, (S,), (N, S), (S,)
    """Junk among N images.

    ``chi2``, ``cost``: of the model's posterior (``nuisances.Posterior``), with noise of ``noise_power`` in each of S
    shells. ``image_power``: the images' own power, mean over a shell's ``sizes`` components. The first shell, the mean
    value, is left out of all. Images that are :func:`broken` are junk in any case.
    """
    noise, power, size = noise_power[1:].double(), image_power[:, 1:].double(), sizes[1:].double()
    half, faulty = 0.5 * size.sum(), broken(power @ size)
    particle = -half * chi2.double().clamp_min(1e-9).log() - cost.double() - 0.5 * (size * noise.log()).sum()
    particle = torch.where(faulty, -torch.inf, particle.nan_to_num(nan=-torch.inf))
    typical = power.median(0).values
    spectrum, share = typical, torch.as_tensor(FIRST_SHARE, device=power.device, dtype=power.dtype)
    for _ in range(ROUNDS):
        none = -half * (power / spectrum @ size).clamp_min(1e-9).log() - 0.5 * (size * spectrum.log()).sum()
        evidence = particle - none
        probability = torch.sigmoid((share / (1 - share)).log() - evidence)
        # Each at its own level: an image a million times too bright is one image more.
        level = (power / spectrum @ size) / size.sum()
        weight = probability[:, None] / level[:, None].clamp_min(1e-9)
        spectrum = ((weight * power).sum(0) + FIRST_IMAGES * typical) / (probability.sum() + FIRST_IMAGES)
        share = (probability.sum() + FIRST_SHARE * FIRST_IMAGES) / (len(power) + FIRST_IMAGES)
    evidence = evidence.clamp_min(-BROKEN_NATS)
    return Junk(probability.float(), evidence.float(), share.float())
