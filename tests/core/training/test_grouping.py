"""Particles of many images: what their images say together is the sum, exactly."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.training import joint_posterior
from gaussianem_core.training.grouping import Grouping, Members, placed
from gaussianem_core.training.nuisances import COUNT

LATENTS, PIXELS = 3, 20
PARTICLE = np.array([0, 1, 0, 2, 1, 0])  # not one after the other


def images() -> tuple[torch.Tensor, torch.Tensor, joint_posterior.Quadratic]:
    """Derivatives (N, 7 + K, P), images (N, P) and what they say, linearised anywhere."""
    generator = torch.Generator().manual_seed(0)
    count, size = len(PARTICLE), COUNT + LATENTS
    jacobian = 0.4 * torch.randn(count, size, PIXELS, generator=generator).double()
    y, at = torch.randn(count, PIXELS, generator=generator), torch.randn(count, size, generator=generator)
    y, at = y.double(), at.double()
    return jacobian, y, joint_posterior.quadratic(jacobian, (at[:, None] @ jacobian)[:, 0] - y, at)


def test_posterior_and_evidence_are_those_of_all_images_at_once() -> None:
    jacobian, y, found = images()
    group = Grouping.of(PARTICLE)
    p = joint_posterior.posterior(found, joint_posterior.other_images(found, group))
    evidence = group.total(-0.5 * p.chi2 - p.cost)
    for particle in range(group.count):
        own = np.flatnonzero(PARTICLE == particle)
        n = len(own)
        # One linear model of all the particle's pixels: nuisances of each image, one latent.
        design = torch.zeros(n * COUNT + LATENTS, n * PIXELS).double()
        for k, image in enumerate(own):
            pixels = slice(k * PIXELS, (k + 1) * PIXELS)
            design[k * COUNT : (k + 1) * COUNT, pixels] = jacobian[image, :COUNT]
            design[-LATENTS:, pixels] = jacobian[image, COUNT:]
        pixels_at_once = y[own].reshape(-1)
        covariance = design.mT @ design + torch.eye(n * PIXELS).double()
        normal = torch.distributions.MultivariateNormal(torch.zeros(n * PIXELS).double(), covariance)
        wanted = normal.log_prob(pixels_at_once) + 0.5 * n * PIXELS * np.log(2 * np.pi)
        torch.testing.assert_close(evidence[particle], wanted)
        precision = design @ design.mT + torch.eye(len(design)).double()
        mean, inverse = torch.linalg.solve(precision, design @ pixels_at_once), torch.linalg.inv(precision)
        for k, image in enumerate(own):
            mine = np.r_[k * COUNT : (k + 1) * COUNT, n * COUNT : n * COUNT + LATENTS]
            torch.testing.assert_close(p.mean[image], mean[mine])
            spread = p.spread[image]
            torch.testing.assert_close(spread @ spread.mT, inverse[np.ix_(mine, mine)])
        without = covariance - design[-LATENTS:].mT @ design[-LATENTS:]
        null = torch.distributions.MultivariateNormal(torch.zeros(n * PIXELS).double(), without)
        gained = normal.log_prob(pixels_at_once) - null.log_prob(pixels_at_once)
        torch.testing.assert_close(p.gain[own[0], COUNT:].sum(), gained)


def test_a_broken_image_tells_the_others_nothing() -> None:
    _, _, found = images()
    broken = torch.zeros(len(PARTICLE), dtype=torch.bool)
    broken[2] = True
    group, rest = Grouping.of(PARTICLE), np.delete(np.arange(len(PARTICLE)), 2)
    with_it = joint_posterior.among_others(found, group, broken)
    without = joint_posterior.among_others(
        found.rows(torch.from_numpy(rest)), Grouping.of(PARTICLE[rest]), broken[rest]
    )
    torch.testing.assert_close(with_it.mean[rest], without.mean)
    torch.testing.assert_close(with_it.mean[2, COUNT:], without.mean[0, COUNT:])


def test_single_images_stay_as_they_are_to_the_last_bit() -> None:
    _, _, found = images()
    group = Grouping.of(np.arange(len(PARTICLE)))
    assert group.single and joint_posterior.other_images(found, group) is None
    values = torch.randn(len(PARTICLE), 2)
    assert group.total(values) is values and group.images(values) is values and group.most(values[:, 0]) is not None
    assert not Grouping.of(np.array([1, 0])).single, "the order counts"


def test_batches_hold_whole_particles() -> None:
    group = Grouping.of(PARTICLE)
    members = Members.of(group)
    runs = members.batches(np.array([2, 0, 1]), 4)
    assert [run.tolist() for run in runs] == [[2, 0], [1]]
    assert members.rows(runs[0]).tolist() == [3, 0, 2, 5] and members.rows(runs[1]).tolist() == [1, 4]
    assert placed(members.sizes(runs[0]), torch.device("cpu")).particle.tolist() == [0, 1, 1, 1]
    assert group.first.tolist() == [0, 1, 3] and group.sizes.tolist() == [3, 2, 1]
    assert group.total(torch.arange(6.0)).tolist() == [7.0, 5.0, 3.0]
    assert group.most(torch.arange(6.0)).tolist() == [5.0, 4.0, 5.0, 3.0, 4.0, 5.0]
    part = group.rows(torch.tensor([1, 3, 4]))
    assert part.particle.tolist() == [0, 1, 0] and part.count == 2
