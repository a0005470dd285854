"""The landscape against populations that are known: what blur hides comes back, and errors are honest."""

from __future__ import annotations

import numpy as np
import pytest

from gaussianem_core.analysis import landscape
from gaussianem_core.errors import InputError


def posteriors(truth: np.ndarray, sigma: np.ndarray, generator) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and log-variances under the prior N(0, 1) of measurements with errors ``sigma``."""
    measured = truth + sigma * generator.normal(size=truth.shape)
    precision = 1 / sigma**2
    return measured * precision / (precision + 1), -np.log(precision + 1)


def two_states(count: int = 6000, seed: int = 0, share: float = 0.7):
    """Two narrow states at -1 and +1 along the first latent, seen with errors of about half their distance."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((count, 2))
    truth[:, 0] = np.where(generator.random(count) < share, -1.0, 1.0) + 0.1 * generator.normal(size=count)
    truth[:, 1] = 0.3 * generator.normal(size=count)
    sigma = generator.uniform(0.4, 0.9, size=(count, 2))
    return (*posteriors(truth, sigma, generator), truth)


def plain(mean: np.ndarray, log_variance: np.ndarray, **options):
    axes = np.eye(2)[: options.pop("d", 1)]
    return landscape.estimate(landscape.measurements(mean, log_variance, axes, np.zeros(2)), **options)


def test_two_states_that_blur_hides_come_back_with_their_shares():
    mean, log_variance, truth = two_states()
    blurred = np.histogram(mean[:, 0], 40)[0]
    # the plain histogram of posterior means has no valley worth the name
    assert blurred[15:25].min() > 0.5 * blurred[25:].max()
    found = plain(mean, log_variance)
    states, basins = landscape.states(found)
    assert len(states) == 2 and basins.max() == 1
    places = sorted(float(s.place[0]) for s in states)
    assert places == pytest.approx([-1, 1], abs=0.15)
    # the larger state's share is 0.7; its own error says how well it is known, with room for what the method misses
    assert states[0].share == pytest.approx((truth[:, 0] < 0).mean(), abs=max(4 * states[0].share_error, 0.03))
    assert states[0].barrier == np.inf and states[1].barrier > 2 * states[1].barrier_error > 0
    assert found.density.sum() == pytest.approx(1)


def test_the_error_covers_what_another_dataset_would_give():
    estimates = [plain(*two_states(2500, seed)[:2], resampled=12) for seed in range(6)]
    shares = [landscape.states(e)[0][0] for e in estimates]
    spread = np.std([s.share for s in shares])
    claimed = np.mean([s.share_error for s in shares])
    # six draws tell a standard deviation to about 30 %
    assert 0.3 * spread < claimed < 4 * spread


def test_one_state_is_not_split_by_noise():
    for seed in range(4):
        generator = np.random.default_rng(seed)
        truth = generator.normal(size=(3000, 2)) * 0.5
        mean, log_variance = posteriors(truth, np.full((3000, 2), 0.4), generator)
        found = plain(mean, log_variance, d=2, grid=48)
        states = landscape.states(found)[0]
        strong = [s for s in states if s.share > 0.1]
        assert len(strong) == 1
        sentences = landscape.statement(found, states)
        assert any("resampling" in s for s in sentences)


def test_error_bars_that_are_too_wide_are_found_out_and_make_no_states():
    generator = np.random.default_rng(3)
    truth = np.where(generator.random(4000) < 0.3, 1.2, -1.2) + 0.3 * generator.normal(size=4000)
    said = generator.uniform(0.5, 0.9, 4000)
    for real, low, high in ((said, 0.85, 1.0), (said / 1.5, 0.5, 0.7)):
        data = landscape.Measurements((truth + real * generator.normal(size=4000))[:, None], said[:, None])
        found = landscape.estimate(data)
        assert low <= found.scale <= high
        states = landscape.states(found)[0]
        assert [s.share for s in states] == pytest.approx([0.7, 0.3], abs=0.05)
        assert any("too wide" in text for text in landscape.statement(found, states)) == (found.scale < 1)


def test_a_plane_has_its_three_states():
    generator = np.random.default_rng(3)
    centres = np.array([[-1, -1], [1, -1], [0, 1.2]])
    member = generator.choice(3, 6000, p=[0.5, 0.3, 0.2])
    truth = centres[member] + 0.12 * generator.normal(size=(6000, 2))
    mean, log_variance = posteriors(truth, generator.uniform(0.3, 0.5, (6000, 2)), generator)
    states, basins = landscape.states(plain(mean, log_variance, d=2, grid=64))
    big = [s for s in states if s.share > 0.05]
    assert len(big) == 3
    assert [s.share for s in big] == pytest.approx([0.5, 0.3, 0.2], abs=0.05)
    for state, centre in zip(big, centres):
        assert np.linalg.norm(state.place - centre) < 0.25
    assert basins.shape == (64, 64)


def test_the_profile_along_a_path_is_the_known_energy():
    generator = np.random.default_rng(1)
    # a density exp(-2 sin^2) along a line: barriers of 2 kT between wells
    s = np.linspace(-2.5, 2.5, 2001)
    weight = np.exp(-2 * np.square(np.sin(np.pi * s / 2.5)))
    along = generator.choice(s, 20_000, p=weight / weight.sum())
    direction = np.array([0.6, 0.8])
    truth = along[:, None] * direction
    mean, log_variance = posteriors(truth, np.full(truth.shape, 0.25), generator)
    path = np.array([-1.5, 0.0, 1.5])[:, None] * direction
    profile = landscape.along_path(mean, log_variance, path)
    wanted = 2 * np.square(np.sin(np.pi * (profile.position - 1.5) / 2.5))
    inside = (profile.position > 0.1) & (profile.position < 2.9)
    # 4 standard errors, and the smoothing that stopping early leaves
    assert (np.abs(profile.energy - wanted)[inside] < 4 * profile.error[inside] + 0.35).all()
    assert profile.length == pytest.approx(3.0)
    assert profile.energy.min() == 0 and (profile.error >= 0).all()


def test_faults_are_named():
    with pytest.raises(InputError, match="at least 50"):
        plain(np.zeros((10, 2)), None)
    with pytest.raises(InputError, match="one or two"):
        landscape.estimate(landscape.Measurements(np.zeros((99, 3)), np.ones((99, 3))))
    with pytest.raises(InputError, match="length"):
        landscape.along_path(np.random.default_rng(0).normal(size=(99, 2)), None, np.zeros((2, 2)))
