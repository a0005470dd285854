"""Latent-space tools against scikit-learn and against data whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from gaussianem_core.analysis import diagnostics, latent_paths, latent_space
from gaussianem_core.imaging.likelihood import signal_fit
from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.options import SimulateOptions
from gaussianem_core.simulation import acquisition, population, rendering
from gaussianem_core.simulation.trajectory import read_trajectory


def gaussian(count: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5)) * [3, 2, 1, 0.5, 0.1] + [1, 2, 3, 4, 5]


def test_components_are_scikit_learns() -> None:
    z = gaussian()
    ours, theirs = latent_space.principal_components(z), PCA().fit(z)
    np.testing.assert_allclose(ours.ratios, theirs.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(np.sum(ours.axes * theirs.components_, axis=1)), 1)
    np.testing.assert_allclose(np.abs(ours.scores(z)), np.abs(theirs.transform(z)), atol=1e-9)
    assert (ours.axes[np.arange(5), np.abs(ours.axes).argmax(axis=1)] > 0).all()


def test_dimensions_that_training_left_alone_are_no_components() -> None:
    z = gaussian()
    assert latent_space.principal_components(z).used == 5
    z[:, 1:3] = 0.25
    assert latent_space.principal_components(z).used == 3


def test_collapsed_latents() -> None:
    # Nothing learned: every latent the same. No division by zero, all figures finite.
    components = latent_space.principal_components(np.ones((30, 4)))
    assert np.isfinite(components.ratios).all() and components.used == 1
    line = latent_paths.component_line(np.ones((30, 4)), components, 0, 5, 95, 3)
    np.testing.assert_allclose(line, 1)
    classes, centres = latent_space.k_means(np.ones((30, 4)), 3, 0)
    assert classes.shape == (30,) and np.isfinite(centres).all()
    assert np.isfinite(diagnostics.isolation(np.ones((30, 4)), line)).all()


def test_k_means_finds_clusters_in_order() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 500)
    z = generator.normal(size=(500, 3)) * 0.2 + np.array([[-9, 0, 0], [-3, 5, 0], [3, 0, 0], [9, 0, 5]])[truth]
    classes, centres = latent_space.k_means(z, 4, 0)
    assert all(len(set(classes[truth == i])) == 1 for i in range(4))
    first = latent_space.principal_components(z).scores(centres)[:, 0]
    assert (np.diff(first) > 0).all()
    again, _ = latent_space.k_means(z, 4, 0)
    np.testing.assert_array_equal(classes, again)


def test_nearest_particles() -> None:
    z, points = gaussian(), gaussian(7, 1)
    expected = np.linalg.norm(z[None] - points[:, None], axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(latent_space.nearest_particles(z, points), expected)
    distance = np.sort(np.linalg.norm(z[None] - points[:, None], axis=-1), axis=1)
    np.testing.assert_allclose(latent_space.neighbour_distance(z, points, 5), distance[:, 4])


def test_populated_path_follows_a_curve() -> None:
    generator = np.random.default_rng(0)
    t = generator.uniform(-2, 2, 3000)
    z = np.stack([t, t**2, 0 * t], axis=1) + 0.1 * generator.normal(size=(3000, 3))
    components = latent_space.principal_components(z)
    along = int(np.abs(components.axes[:2, 0]).argmax())
    path = latent_paths.populated_path(z, components, along, 5, 95, 9)
    np.testing.assert_allclose(path[:, 1], path[:, 0] ** 2, atol=0.25)
    # along the component it stands where the straight line stands
    line = latent_paths.component_line(z, components, along, 5, 95, 9)
    np.testing.assert_allclose(components.scores(path)[:, along], components.scores(line)[:, along], atol=1e-9)


def test_dependence_on_the_view() -> None:
    generator = np.random.default_rng(0)
    rotations = random_rotations(2000, generator)
    free = generator.normal(size=(2000, 4))
    features = diagnostics.view_features(rotations)
    assert diagnostics.dependence(free, features, "view", 0).level == "fine"
    follows = free.copy()
    follows[:, 0] = 4 * rotations[:, 2, 2]
    found = diagnostics.dependence(follows, features, "viewing direction", 0)
    # variance 16/3 of the latents' 16/3 + 3 in all
    assert found.level == "warning" and found.explained == pytest.approx(16 / 25, abs=0.03)
    assert "viewing direction" in found.sentence
    # the mirrored view of a thin molecule is the same: second degree
    follows[:, 0] = 4 * rotations[:, 2, 0] * rotations[:, 2, 1]
    assert diagnostics.dependence(follows, features, "view", 0).level != "fine"


def test_dependence_without_variation() -> None:
    z = np.random.default_rng(0).normal(size=(100, 3))
    assert diagnostics.dependence(z, np.ones((100, 2)), "defocus", 0).level == "fine"
    assert diagnostics.dependence(0 * z, z, "defocus", 0).explained == 0


def test_false_alarms_are_rare() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        z, features = generator.normal(size=(200, 8)), generator.normal(size=(200, 8))
        assert diagnostics.dependence(z, features, "defocus", 0).level == "fine"


def test_few_particles_are_not_made_to_speak() -> None:
    """Eight functions of six views explain everything, of shuffled particles too: that is no finding."""
    generator = np.random.default_rng(5)
    features = diagnostics.view_features(random_rotations(6, generator))
    found = diagnostics.dependence(generator.normal(size=(6, 2)), features, "viewing direction", 0)
    assert found.explained > 0.9 and found.level == "unknown"
    assert (
        "cannot be told from 6 particles" in found.sentence and "follows the viewing direction (" not in found.sentence
    )


def test_false_alarms_are_as_rare_with_few_particles() -> None:
    """Of 100 sets of 40 particles with random views, four questions each, a few are told of a link at the most."""
    generator = np.random.default_rng(6)
    alarms = 0
    for _ in range(100):
        features = diagnostics.shift_features(generator.normal(size=(40, 2)))
        alarms += diagnostics.dependence(generator.normal(size=(40, 2)), features, "offset", 0).level != "fine"
    assert alarms <= 5  # 1.25 % each: P(more than 5 of 100) is 0.002


def test_dimensions_at_rest_are_not_active() -> None:
    generator = np.random.default_rng(7)
    z = generator.normal(size=(200, 4)).astype(np.float32)
    sharp, prior = np.full_like(z, -2.0), np.zeros_like(z)
    active = latent_space.active_dimensions
    assert active({"z_mu": z}).all() and active({"z_mu": z, "z_logvar": sharp}).all()
    assert not active({"z_mu": 0 * z, "z_logvar": prior}).any() and not active({"z_mu": 0 * z + 3}).any()
    collapsed = z * [1, 0.01, 0.01, 1]
    widths = np.where([True, False, False, True], sharp, prior)
    assert active({"z_mu": collapsed, "z_logvar": widths}).tolist() == [True, False, False, True]
    assert active({"z_mu": z, "active": np.array([True, False, False, False])}).sum() == 1
    assert not active({"z_mu": z, "log_likelihood_gain": np.full(200, -0.06)}).any()


def test_outliers_of_one_population_are_few() -> None:
    generator = np.random.default_rng(0)
    flagged, _ = diagnostics.outliers(generator.normal(-500, 20, 5000))
    assert flagged.mean() < 0.002
    skewed = -500 - generator.gamma(4, 10, 5000)  # defocus makes likelihoods skew
    assert diagnostics.outliers(skewed)[0].mean() < 0.02
    assert not diagnostics.outliers(np.full(100, 3.0))[0].any()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_outliers_of_another_population_are_found(share: float) -> None:
    generator = np.random.default_rng(1)
    junk = generator.random(5000) < share
    values = np.where(junk, generator.normal(-700, 25, 5000), generator.normal(-500, 25, 5000))
    flagged, _ = diagnostics.outliers(values)
    assert flagged[junk].mean() > 0.98 and flagged[~junk].mean() < 0.005


def test_unpopulated_places() -> None:
    z = np.random.default_rng(0).normal(size=(5000, 3))
    points = np.array([[0, 0, 0], [1.0, 0, 0], [8.0, 0, 0]])
    assert diagnostics.unpopulated(z, points).tolist() == [False, False, True]
    assert diagnostics.stretch_counts(z, points).sum() == 5000


@pytest.mark.parametrize("snr", [0.1, 0.03])
def test_junk_images_are_found(shared_data: Path, snr: float) -> None:
    # Pure noise and images of another molecule among true particles, each compared with what its state, pose and CTF
    # predict. The likelihood, ruled by the noise, finds none of them at SNR 0.03; the signal's fit does.
    options = SimulateOptions(
        model=str(shared_data / "adk_tmd.npz"), particles=400, box=64, apix=2.25, snr=snr, resolution=4.5
    )
    generator = np.random.default_rng(0)
    truth = population.draw_truth(read_trajectory(options.model), options, generator)
    parameters = acquisition.draw_ctf(options, generator)
    factor = rendering.signal_scale(truth, parameters, snr, torch.device("cpu"), "auto")
    truth = rendering.scale_densities(truth, factor)
    assert truth.positions is not None
    table, rows = torch.from_numpy(parameters), torch.arange(400)
    clean = torch.cat([rendering.clean_images(truth, table, part) for part in rows.split(50)])
    scattered = generator.normal(size=truth.positions[0].shape) * truth.positions[0].std(axis=0)
    other = replace(truth, positions=np.broadcast_to(scattered.astype(np.float32), truth.positions.shape).copy())
    kind = generator.permutation(np.repeat([0, 1, 2], [360, 20, 20]))
    images = clean.clone()
    images[kind == 1] = 0
    images[kind == 2] = rendering.clean_images(other, table, rows[kind == 2])
    images += torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    weight = torch.full((64, 33), 2.0)
    weight[:, [0, -1]] = 1
    fit = signal_fit(torch.fft.rfft2(clean, norm="ortho"), torch.fft.rfft2(images, norm="ortho"), weight).numpy()
    assert fit[kind == 0].mean() == pytest.approx(0, abs=0.2) and fit[kind == 0].std() == pytest.approx(1, abs=0.15)
    flagged, _ = diagnostics.outliers(fit, 4.0)
    found = 0.95 if snr == 0.1 else 0.7  # the other molecule has the same mass and size
    assert flagged[kind == 1].all() and flagged[kind == 2].mean() > found and flagged[kind == 0].mean() < 0.01
