"""Latents turned onto others of the same particles, against scipy's Procrustes analysis and known rotations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.stats import special_ortho_group

from gaussianem_core.analysis.latent_alignment import align
from gaussianem_core.errors import InputError


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(400, 3)) * [3, 2, 1] + 5


def test_a_rotation_a_mirror_image_and_a_scale_are_undone(z: np.ndarray) -> None:
    rotation = special_ortho_group.rvs(3, random_state=1) @ np.diag([1, 1, -1])
    found = align(z, 0.01 * z @ rotation - 7)
    assert found.explained == pytest.approx(1) and found.correlations == pytest.approx([1, 1, 1])
    assert np.allclose(found.turned, found.scores)


def test_a_stretched_landscape_is_the_same_by_a_linear_map_and_not_by_a_turn(z: np.ndarray) -> None:
    stretched = z * [1, 1, 20]
    found = align(z, stretched)
    assert found.correlations == pytest.approx([1, 1, 1]) and found.explained < 0.5
    _, _, disparity = procrustes(z, stretched)
    assert found.explained == pytest.approx(1 - disparity)


def test_noise_agrees_with_scipy_too(z: np.ndarray) -> None:
    noisy = z + np.random.default_rng(2).normal(size=z.shape)
    found = align(z, noisy)
    _, second, disparity = procrustes(z, noisy)
    assert found.explained == pytest.approx(1 - disparity)
    distances = [np.linalg.norm(points[:50, None] - points[None, :50], axis=-1) for points in (found.turned, second)]
    assert np.corrcoef(*(each.ravel() for each in distances))[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_numbers_of_dimensions_may_differ(z: np.ndarray, width: int) -> None:
    other = np.pad(z, ((0, 0), (0, 2)))[:, :width]
    found = align(z, other)
    assert found.turned.shape == (400, max(3, width)) and len(found.correlations) == min(3, width)
    kept = z.var(axis=0)[:width].sum() / z.var(axis=0).sum()
    assert found.explained == pytest.approx(kept, abs=0.03)


def test_other_particles_are_refused(z: np.ndarray) -> None:
    with pytest.raises(InputError, match="400 particles"):
        align(z, z[:10])


def test_latents_that_do_not_vary_explain_nothing(z: np.ndarray) -> None:
    assert align(z, np.ones((400, 2))).explained == 0
