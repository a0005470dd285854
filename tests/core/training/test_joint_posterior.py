"""What an image says of nuisances and latents together, against dense linear algebra and against brute force."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.imaging.fourier import half_plane_weight
from gaussianem_core.imaging.projection import project_reference
from gaussianem_core.training import joint_posterior, nuisances
from gaussianem_core.training.forward_model import Views, spectrum
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import BROKEN_NATS, Junk
from gaussianem_core.training.nuisances import COUNT

IMAGES, LATENTS, PIXELS = 5, 2, 60
SIZE = COUNT + LATENTS


def linear_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives (B, n, P), and images (B, P) of a model linear in v, with white noise; float64."""
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(IMAGES, SIZE, PIXELS, generator=generator).double() * 0.4
    v = torch.randn(IMAGES, 1, SIZE, generator=generator).double()
    noise = torch.randn(IMAGES, PIXELS, generator=generator).double()
    return jacobian, (v @ jacobian)[:, 0] + noise


def test_evidence_is_that_of_a_normal_distribution() -> None:
    """Of a linear model it is known: y ~ N(0, J^T J + 1), for the first k numbers as for all."""
    jacobian, y = linear_images()
    at = torch.randn(IMAGES, SIZE, generator=torch.Generator().manual_seed(2)).double()  # wherever it is linearised
    found = joint_posterior.quadratic(jacobian, (at[:, None] @ jacobian)[:, 0] - y, at)
    p = joint_posterior.posterior(found)
    for count in range(SIZE + 1):
        part = jacobian[:, :count]
        covariance = part.mT @ part + torch.eye(PIXELS).double()
        normal = torch.distributions.MultivariateNormal(torch.zeros(PIXELS).double(), covariance)
        wanted = normal.log_prob(y) + 0.5 * PIXELS * np.log(2 * np.pi)
        torch.testing.assert_close(p.gain[:, :count].sum(1) - 0.5 * found.chi2, wanted)
    torch.testing.assert_close(-0.5 * p.chi2 - p.cost, wanted)
    precision = jacobian @ jacobian.mT + torch.eye(SIZE).double()
    torch.testing.assert_close(p.mean, torch.linalg.solve(precision, jacobian @ y[..., None])[..., 0])
    torch.testing.assert_close(p.spread @ p.spread.mT, torch.linalg.inv(precision))
    torch.testing.assert_close(p.chi2, (y - (p.mean[:, None] @ jacobian)[:, 0]).square().sum(1))


def test_what_is_left_for_the_latents_is_what_the_nuisances_cannot_explain() -> None:
    jacobian, y = linear_images()
    found = joint_posterior.quadratic(jacobian, -y, torch.zeros(IMAGES, SIZE).double())
    left = joint_posterior.marginal(found)
    of_q = jacobian[:, :COUNT]
    covariance = of_q.mT @ of_q + torch.eye(PIXELS).double()  # of an image without latents
    of_z = jacobian[:, COUNT:]
    torch.testing.assert_close(left.information, of_z @ torch.linalg.solve(covariance, of_z.mT))
    torch.testing.assert_close(left.linear, (of_z @ torch.linalg.solve(covariance, y[..., None]))[..., 0])
    z = torch.ones(IMAGES, LATENTS).double()
    rest = y - (z[:, None] @ of_z)[:, 0]
    wanted = torch.linalg.solve(of_q @ of_q.mT + torch.eye(COUNT).double(), of_q @ rest[..., None])[..., 0]
    torch.testing.assert_close(joint_posterior.given_latents(found, z), wanted)
    draws = torch.stack(
        [
            joint_posterior.given_latents(found, z, torch.randn(IMAGES, COUNT, generator=generator).double())
            for generator in [torch.Generator().manual_seed(3)]
            for _ in range(4000)
        ]
    )
    torch.testing.assert_close(draws.mean(0), wanted, atol=0.05, rtol=0.0)
    variance = torch.linalg.inv(of_q @ of_q.mT + torch.eye(COUNT).double()).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(draws.var(0), variance, rtol=0.15, atol=0.0)


def test_posterior_is_that_of_brute_force() -> None:
    """One image of Gaussians with one latent, in-plane turn and shift in x uncertain: the posterior on a grid."""
    box, noise = 16, 3.0
    generator = np.random.default_rng(0)
    positions = torch.from_numpy(generator.normal(0, 0.2, (20, 3)))
    field = torch.zeros(20, 3).double()
    field[positions[:, 0] > 0.1, 1] = 0.1  # a part that moves along y by 0.8 px
    sigmas, densities = torch.full((20,), 0.15).double(), torch.full((20,), 4.0).double()
    ctf = torch.tensor([[box, 6.0, 12000, 12000, 0, 300, 2.7, 0.1, 0]]).double()
    given = Views(torch.eye(3)[None].double(), torch.zeros(1, 2).double(), ctf)
    widths = torch.zeros(COUNT).double()
    widths[2], widths[3] = 0.05, 0.3
    weight = half_plane_weight(box).expand(box, -1).double() / noise**2

    def render(q: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, Views]:
        views = nuisances.corrected(Views(*(value.expand(len(q), *value.shape[1:]) for value in given)), q)
        moved = positions + z[:, :, None] * field
        return moved, views

    def spectra(q: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        moved, views = render(q, z)
        shape = moved.shape[:2]
        projected = project_reference(
            moved, densities.expand(shape), sigmas.expand(shape), views.rotations, views.shifts, box
        )
        return spectrum(projected)

    true = torch.zeros(1, COUNT).double()
    true[0, 2], true[0, 3] = 0.04, -0.2
    transfer = given.transfer(box).double()
    clean = spectra(true, torch.full((1, 1), 0.7).double()) * transfer
    image = clean + spectrum(noise * torch.from_numpy(generator.normal(size=(1, box, box))))
    turns, shifts, latents = (torch.linspace(-4, 4, n).double() for n in (41, 41, 41))
    grid = torch.stack(torch.meshgrid(turns, shifts, latents, indexing="ij"), dim=-1).reshape(-1, 3)
    q = torch.zeros(len(grid), COUNT).double()
    q[:, 2], q[:, 3] = grid[:, 0] * widths[2], grid[:, 1] * widths[3]
    apart = torch.cat([spectra(a, b) * transfer for a, b in zip(q.split(4096), grid[:, 2:].split(4096))]) - image
    log = -0.5 * (apart.abs().square() * weight).sum((1, 2)) - 0.5 * grid.square().sum(1)
    mass = (log - log.max()).exp()
    mean = (mass[:, None] * grid).sum(0) / mass.sum()
    deviation = ((mass[:, None] * (grid - mean).square()).sum(0) / mass.sum()).sqrt()

    at_q, at_z = torch.zeros(1, COUNT).double(), torch.zeros(1, 1).double()
    for _ in range(4):  # Gauss-Newton steps, as passes over the particles make them
        moved, views = render(at_q, at_z)
        deep = densities * nuisances.depths(moved, views.rotations, box)
        turned = project_reference(moved, deep, sigmas.expand(1, -1), views.rotations, views.shifts, box)
        both = torch.stack([spectra(at_q, at_z)[0], spectra(at_q, at_z + 0.1)[0]])[None]
        alone = (Grouping.of(np.zeros(1, np.int64)), torch.zeros(1, dtype=torch.bool))
        e = joint_posterior.linearise(both, spectrum(turned), views, at_q, at_z, widths, image, weight, 0.1, *alone)
        at_q, at_z = e.next[:, :COUNT] * widths, e.next[:, COUNT:]
    found = e.posterior.mean[0, [2, 3, 7]]
    spread = (e.posterior.spread @ e.posterior.spread.mT).diagonal(dim1=1, dim2=2)[0, [2, 3, 7]].sqrt()
    # The image is not quite linear in turn and latent: a tenth of a standard deviation.
    assert ((found - mean).abs() < 0.1 * deviation).all()
    torch.testing.assert_close(spread, deviation, rtol=0.1, atol=0.0)
    assert (e.posterior.mean[0, [0, 1, 4, 5, 6]] == 0).all(), "what is held stays as it is given"


def test_a_broken_image_says_nothing() -> None:
    """Its latent is the prior's, not a million standard deviations away, and the other images' stay what they were."""
    jacobian, y = linear_images()
    y[0] *= 1e6
    found = joint_posterior.quadratic(jacobian, -y, torch.zeros(IMAGES, SIZE).double())
    evidence = torch.tensor([-BROKEN_NATS, 5, -20, 5, 5])
    told = found.without_broken(Junk((evidence < 0).float(), evidence, torch.tensor(0.2)))
    p, before = joint_posterior.posterior(told), joint_posterior.posterior(found)
    assert before.mean[0].abs().max() > 1e4 and not p.mean[0].any()
    torch.testing.assert_close(p.spread[0], torch.eye(SIZE).double())
    torch.testing.assert_close(p.mean[1:], before.mean[1:])
