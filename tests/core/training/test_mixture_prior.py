"""The population of latents: against scipy's normal distributions, scikit-learn's mixtures, and known truths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from gaussianem_core.training import mixture_prior
from gaussianem_core.training.mixture_prior import Measured, Population


def two() -> Population:
    """Two Gaussians in three dimensions."""
    generator = np.random.default_rng(1)
    root = generator.normal(size=(2, 3, 3)) * 0.4
    arrays = ([0.3, 0.7], generator.normal(size=(2, 3)), root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3))
    return Population(*(torch.tensor(a, dtype=torch.float32) for a in arrays))


def measure(z: np.ndarray, noise: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, Measured]:
    """Latents (N, A) seen with noise of covariances (N, A, A): places, and the same as quadratics."""
    places = z + np.einsum("nab,nb->na", np.linalg.cholesky(noise), generator.normal(size=z.shape))
    information = np.linalg.inv(noise)
    linear = np.einsum("nab,nb->na", information, places)
    return places, Measured(*(torch.tensor(a, dtype=torch.float32) for a in (linear, information)))


def some_noise(count: int, latents: int, generator: np.random.Generator, scale: float = 0.3) -> np.ndarray:
    root = generator.normal(size=(count, latents, latents)) * scale
    return root @ root.transpose(0, 2, 1) + 0.05 * np.eye(latents)


def test_evidence_and_posterior_are_those_of_normal_distributions() -> None:
    generator = np.random.default_rng(0)
    people = two()
    share, mean, covariance = (part.double().numpy() for part in people)
    noise = some_noise(20, 3, generator)
    places, measured = measure(generator.normal(size=(20, 3)), noise, generator)
    parts = np.array(
        [
            [w * multivariate_normal.pdf(x, m, s + c) for w, m, s in zip(share, mean, covariance)]
            for x, c in zip(places, noise)
        ]
    )
    # b . z - 1/2 z^T J z is log N(x; z, C) without its constant
    constant = np.array([multivariate_normal.logpdf(np.zeros(3), x, c) for x, c in zip(places, noise)])
    found = mixture_prior.evidence(people, measured).numpy() + constant
    # the constant of N(0; x, C) is what the quadratic leaves out
    np.testing.assert_allclose(found, np.log(parts.sum(1)), atol=2e-3)
    means, variances = mixture_prior.summary(people, measured)
    responsibility = parts / parts.sum(1, keepdims=True)
    expected, second = np.zeros((20, 3)), np.zeros((20, 3))
    for k in range(2):
        for n in range(20):
            gain = covariance[k] @ np.linalg.inv(covariance[k] + noise[n])
            one = mean[k] + gain @ (places[n] - mean[k])
            expected[n] += responsibility[n, k] * one
            second[n] += responsibility[n, k] * (np.diag(covariance[k] - gain @ covariance[k]) + one**2)
    np.testing.assert_allclose(means, expected, atol=1e-3)
    np.testing.assert_allclose(variances, second - expected**2, atol=2e-3)
    drawn = mixture_prior.sample(people, measured, 4000)
    np.testing.assert_allclose(drawn.mean(0), expected, atol=0.06)
    np.testing.assert_allclose(drawn.var(0), second - expected**2, atol=0.06)


def test_log_density_is_that_of_a_mixture() -> None:
    people = two()
    z = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    expected = sum(float(w) * multivariate_normal.pdf(z, m, s) for w, m, s in zip(*people))
    found = people.log_density(z).numpy()  # the constant of all Gaussians is left out
    np.testing.assert_allclose(found - 1.5 * np.log(2 * np.pi), np.log(expected), atol=1e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # forty steps are wanted, no more
def test_without_noise_it_is_expectation_maximisation() -> None:
    """Exactly known latents: the same steps as scikit-learn's mixture, but for the floor of a few particles' worth."""
    generator = np.random.default_rng(2)
    z = np.concatenate([generator.normal([0, 0], [1, 0.3], (2000, 2)), generator.normal([2, 1], 0.5, (1000, 2))])
    measured = measure(z, np.broadcast_to(1e-4 * np.eye(2), (3000, 2, 2)), generator)[1]
    begin = mixture_prior.split(mixture_prior.standard_normal(2, torch.device("cpu")))
    found = mixture_prior.improve(begin, measured, 40)
    share, mean, covariance = (part.double().numpy() for part in begin)
    authority = GaussianMixture(
        2,
        weights_init=share / share.sum(),
        means_init=mean,
        max_iter=40,
        tol=0,
        precisions_init=np.linalg.inv(covariance),
    ).fit(z)
    np.testing.assert_allclose(found.share, authority.weights_, atol=0.01)
    np.testing.assert_allclose(found.mean, authority.means_, atol=0.02)
    np.testing.assert_allclose(found.covariance, authority.covariances_, atol=0.02)


def test_finds_a_curve_in_noise() -> None:
    """Latents on a circle in four dimensions: posterior means lie nearer to it than with one Gaussian."""
    generator = np.random.default_rng(3)
    angle = generator.uniform(0, 2 * np.pi, 4000)
    z = np.stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], axis=1)
    _, measured = measure(z, some_noise(4000, 4, generator, 0.4), generator)
    people, gain = mixture_prior.fit(measured, 0)
    assert len(people.share) >= 4 and gain > 0.5
    alone = mixture_prior.summary(mixture_prior.standard_normal(4, torch.device("cpu")), measured)[0].numpy()
    together = mixture_prior.summary(people, measured)[0].numpy()
    assert np.square(together - z).sum(1).mean() < 0.5 * np.square(alone - z).sum(1).mean()


def test_two_clusters_are_two() -> None:
    """With the moments of a standard normal, so that one Gaussian gains nothing."""
    generator = np.random.default_rng(5)
    z = np.where(generator.random((2000, 1)) < 0.5, 0.95, -0.95) + 0.3 * generator.normal(size=(2000, 1))
    _, measured = measure(z, np.broadcast_to(0.01 * np.eye(1), (2000, 1, 1)), generator)
    people, gain = mixture_prior.fit(measured, 0)
    assert len(people.share) == 2 and gain > 0.2
    np.testing.assert_allclose(sorted(people.mean[:, 0].tolist()), [-0.95, 0.95], atol=0.05)


def test_one_normal_population_is_found_as_one() -> None:
    generator = np.random.default_rng(4)
    _, measured = measure(generator.normal(size=(3000, 2)), some_noise(3000, 2, generator), generator)
    people, gain = mixture_prior.fit(measured, 0)
    assert len(people.share) == 1 and abs(gain) < 0.02
    np.testing.assert_allclose(people.covariance[0], np.eye(2), atol=0.12)


def test_of_no_particle_the_population_is_the_prior() -> None:
    """Where every image is junk, say: the report tells, and nothing breaks before."""
    found, gain = mixture_prior.fit(Measured(torch.zeros(0, 3), torch.zeros(0, 3, 3)), 0)
    assert gain == 0 and torch.equal(found.mean, torch.zeros(1, 3)) and torch.equal(found.covariance[0], torch.eye(3))
