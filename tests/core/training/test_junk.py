"""Junk among images: told by the evidence, whatever its brightness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import Junk, broken, explained_by_densities, find_junk, find_regions, unknown
from gaussianem_core.training.mixture_prior import Measured

SHELLS, PARTICLES, JUNK = 24, 900, 100


def dataset(
    strength: float, cost_of_none: float = 20.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """chi^2 at the best fit, cost, noise power, image power (N, S) and sizes: the first images hold a particle whose
    signal has ``strength`` times the noise's power at low frequencies, the rest noise alone."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.arange(SHELLS) * 6.0 + 1
    noise = 1 + torch.exp(-torch.arange(SHELLS) / 4)
    signal = strength * torch.exp(-torch.arange(SHELLS) / 3)
    count = PARTICLES + JUNK
    # Mean of n squared normal numbers, near enough normal itself.
    left = noise * (1 + (2 / sizes).sqrt() * torch.randn(count, SHELLS, generator=generator)).clamp_min(0.05)
    present = (torch.arange(count) < PARTICLES)[:, None]
    power = left + present * signal
    chi2 = (left / noise)[:, 1:] @ sizes[1:]
    cost = torch.where(present[:, 0], 8.0, cost_of_none)  # a fit of no contrast is far from the prior
    return chi2, cost, noise, power, sizes


def alone(values: torch.Tensor) -> Grouping:
    """Each image is a particle."""
    return Grouping.of(np.arange(len(values)))


def evidence(like: torch.Tensor, nats: float) -> torch.Tensor:
    """For missing pieces, the same for all images, and none for errors of the model."""
    return torch.tensor([0.0, nats]).repeat(len(like), 1)


@pytest.mark.parametrize("strength, cost_of_none", [(0.8, 20.0), (8.0, 7.0)])
def test_noise_is_told_from_particles(strength: float, cost_of_none: float) -> None:
    """Also where the spectrum of all images is far from that of noise, and a wide prior of contrast costs little."""
    chi2, cost, noise, power, sizes = dataset(strength, cost_of_none)
    found = find_junk(chi2, cost, noise, power, sizes, evidence(cost, -5.0), alone(chi2))
    real = torch.arange(len(chi2)) < PARTICLES
    higher = (found.evidence[real][:, None] > found.evidence[~real]).float().mean()
    assert higher > 0.99, "area under the ROC"
    assert found.probability[real].mean() < 0.01 and found.probability[~real].mean() > 0.9
    assert abs(float(found.share) - JUNK / len(chi2)) < 0.02


def test_shells_that_do_not_count_say_nothing() -> None:
    """The verdict of the first shells is the same whatever the others hold."""
    chi2, cost, noise, power, sizes = dataset(0.8)
    few = SHELLS // 2
    share = (torch.arange(SHELLS) < few).float()
    chi2 = (chi2 - chi2.mean()) + 2 * few**2  # of fewer components
    whole = find_junk(chi2, cost, noise[:few], power[:, :few], sizes[:few], evidence(cost, -5.0), alone(chi2))
    some = find_junk(chi2, cost, noise, power, sizes, evidence(cost, -5.0), alone(chi2), share)
    torch.testing.assert_close(some.evidence, whole.evidence)
    torch.testing.assert_close(some.probability, whole.probability)


def test_clean_data_have_none() -> None:
    chi2, cost, noise, power, sizes = (value[:PARTICLES] if len(value) > SHELLS else value for value in dataset(0.8))
    found = find_junk(chi2, cost, noise, power, sizes, evidence(cost, -5.0), alone(chi2))
    assert (found.probability < 0.5).all() and found.share < 2e-3


def test_an_image_a_million_times_too_bright_is_junk_and_changes_nothing_for_the_others() -> None:
    chi2, cost, noise, power, sizes = dataset(0.8)
    before = find_junk(chi2, cost, noise, power, sizes, evidence(cost, -5.0), alone(chi2))
    chi2[0], power[0], cost[0] = chi2[0] * 1e12, power[0] * 1e12, 1e13
    chi2[1], cost[1] = torch.nan, torch.nan  # what arithmetic may leave of such an image
    found = find_junk(chi2, cost, noise, power, sizes, evidence(cost, -5.0), alone(chi2))
    assert (found.probability[:2] == 1).all() and torch.isfinite(found.evidence).all()
    torch.testing.assert_close(found.probability[2:], before.probability[2:], atol=0.02, rtol=0.0)
    assert broken(power.sum(1)).nonzero()[:, 0].tolist() == [0]
    assert broken(torch.zeros(3)).all(), "images without power show nothing"


def test_missing_pieces_are_junk_where_the_evidence_says_so() -> None:
    chi2, cost, noise, power, sizes = dataset(0.8)
    pieces = evidence(cost, -5.0)
    pieces[:30, -1] = 12.0
    found = find_junk(chi2, cost, noise, power, sizes, pieces, alone(chi2))
    assert (found.probability[:30] > 0.9).all() and (found.probability[30:PARTICLES] < 0.5).all()
    pieces[:30, 0] = 12.0  # the model's errors explain as much
    assert (find_junk(chi2, cost, noise, power, sizes, pieces, alone(chi2)).probability[:PARTICLES] < 0.5).all()
    before = find_junk(chi2, cost, noise, power, sizes, unknown(len(chi2), chi2.device), alone(chi2))
    assert (before.probability[:PARTICLES] < 0.5).all() and (before.probability[PARTICLES:] > 0.5).float().mean() > 0.9


def test_regions_share_out_the_gaussians() -> None:
    positions = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    regions = find_regions(positions)
    assert torch.cat(regions).sort().values.tolist() == list(range(300)) and 8 <= len(regions) <= 12
    assert find_regions(positions[:15]) == [], "too few Gaussians to tell regions apart"


def test_images_of_a_particle_tell_together_what_each_does_not() -> None:
    """Ten images of each particle, of which single ones are not told apart; one of them is broken."""
    chi2, _, noise, power, sizes = dataset(0.1)
    count = len(chi2)
    real = torch.arange(count) < PARTICLES
    cost = torch.where(real, 8.0, 9.5) + 2 * torch.randn(count, generator=torch.Generator().manual_seed(1))
    power[::10] *= 1e6
    pieces, particle = evidence(cost, -5.0), np.arange(count) // 10
    single = find_junk(chi2, cost, noise, power, sizes, pieces, alone(chi2))
    found = find_junk(chi2, cost, noise, power, sizes, pieces, Grouping.of(particle))
    whole = torch.arange(count) % 10 > 0
    assert (found.probability[~whole] == 1).all(), "broken images are junk themselves"
    by_particle = found.evidence[whole].view(-1, 9)
    assert (by_particle == by_particle[:, :1]).all(), "one verdict a particle"

    def roc(evidence: torch.Tensor) -> float:
        return float((evidence[real & whole][:, None] > evidence[~real & whole]).float().mean())

    assert roc(found.evidence) > 0.95 > 0.9 > roc(single.evidence)


REGIONS = 12


def looked_at(differences: torch.Tensor, information: float, images: int = 1, seed: int = 0) -> Measured:
    """What ``images`` of each particle say of the ``differences`` (P, REGIONS) of its regions' factors, when one tells
    each factor with a variance of about 1 / ``information``."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(len(differences), images, REGIONS, 3 * REGIONS, generator=generator)
    told = information / (3 * REGIONS) * (half @ half.mT).sum(1)
    noise = torch.linalg.cholesky(told) @ torch.randn(len(differences), REGIONS, 1, generator=generator)
    return Measured((told @ differences[..., None] + noise)[..., 0], told)


def verdict(told: Measured) -> Junk:
    """Of particles that look alike but for their densities, with two images each, for both of which ``told`` holds."""
    twice = Measured(*(value.repeat_interleave(2, 0) for value in told))
    count = len(twice.linear)
    group = Grouping.of(np.arange(count) // 2)
    pieces = explained_by_densities(twice, group, torch.zeros(count, dtype=torch.bool))
    chi2, cost, sizes = torch.full((count,), 140.0), torch.full((count,), 8.0), torch.full((8,), 20.0)
    return find_junk(chi2, cost, torch.ones(8), torch.ones(count, 8) * 1.5, sizes, pieces, group)


def without_pieces(differences: torch.Tensor, particles: int) -> torch.Tensor:
    """Four regions of the first ``particles`` are not there at all."""
    generator = torch.Generator().manual_seed(1)
    for number in range(particles):
        differences[number, torch.randperm(REGIONS, generator=generator)[:4]] = -1.0
    return differences


@pytest.mark.parametrize("images", [10, 41, 100])
def test_errors_of_the_model_are_no_missing_pieces_however_many_images_show_them(images: int) -> None:
    """Densities of twelve regions are wrong by a tenth or so in each particle; of some, four are not there at all."""
    lacking = 15
    wrong = 0.12 * torch.randn(300, REGIONS, generator=torch.Generator().manual_seed(images))
    found = verdict(looked_at(without_pieces(wrong, lacking), 30.0, images))
    assert (found.probability[: 2 * lacking] > 0.5).all()
    assert (found.probability[2 * lacking :] > 0.5).sum() <= 2


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_state_that_the_model_describes_badly_is_no_junk(share: float) -> None:
    """Where the model has no component for a motion, the densities of several regions stand in for it, in the same
    pattern in all particles of that state, the more the further it goes; one in thirty particles is a fragment."""
    generator = torch.Generator().manual_seed(0)
    count, lacking = 900, 30
    pattern = torch.tensor([0.9, -0.9, 0.7, -0.5] + [0.0] * (REGIONS - 4))
    far = (torch.rand(count, generator=generator) < share) * torch.rand(count, generator=generator)
    wrong = 0.05 * torch.randn(count, REGIONS, generator=generator) + far[:, None] * pattern
    wrong[:lacking] = 0.05 * torch.randn(lacking, REGIONS, generator=generator)
    found = verdict(looked_at(without_pieces(wrong, lacking), 20.0)).probability[::2]
    assert (found[:lacking] > 0.5).float().mean() > 0.9
    assert (found[lacking:] > 0.5).sum() <= 4


def test_what_images_say_nothing_of_is_not_missing() -> None:
    """Images that tell nothing of any region, or broken ones, leave the verdict to the rest, and disturb no other."""
    wrong = without_pieces(0.05 * torch.randn(300, REGIONS, generator=torch.Generator().manual_seed(0)), 15)
    told = looked_at(wrong, 30.0)
    expected = explained_by_densities(told, alone(wrong), torch.zeros(300, dtype=torch.bool))
    told.linear[-1], told.information[-1] = 0.0, 0.0
    told.linear[-2] *= 1e6
    told.linear[-3] = torch.nan  # what arithmetic may leave of an image far too bright
    faulty = torch.arange(300) == 298
    found = explained_by_densities(told, alone(wrong), faulty)
    assert torch.equal(found[-3:], unknown(3, found.device))
    torch.testing.assert_close(found[:-3], expected[:-3], atol=0.3, rtol=0.05)
    nothing = Measured(torch.zeros(5, REGIONS), torch.zeros(5, REGIONS, REGIONS))
    assert torch.equal(explained_by_densities(nothing, alone(wrong[:5]), faulty[:5]), unknown(5, found.device))
