"""Maps of states from the particles around them: what counts how much, and what it gains against the true map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from swinging import ARM, BOX, PIXEL, random_views, swinging_model

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.backprojection import accumulate, empty_sums, solve
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.reconstruction.latent_kernel import (
    combine_widths,
    cross_validated_width,
    effective_number,
    expected_distances,
    latent_metric,
    nested_sets,
    volume_metric,
)


def test_the_distance_is_that_expected_under_the_posterior():
    generator = np.random.default_rng(0)
    root, spread = generator.normal(size=(2, 2)), generator.normal(size=(1, 2, 2))
    metric, covariance = root @ root.T, spread @ spread.transpose(0, 2, 1)
    mean, point = np.array([[0.3, -0.5]]), np.array([1.0, 0.2])
    drawn = mean + generator.normal(size=(200_000, 2)) @ spread[0].T - point
    expected = ((drawn @ metric) * drawn).sum(1).mean()
    assert expected_distances(mean, covariance, point, metric)[0] == pytest.approx(expected, rel=0.02)
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    own = expected_distances(mean, variance, point, np.eye(2))
    assert own[0] == pytest.approx(np.square(mean - point).sum() + variance.sum())
    sure, unsure = expected_distances(np.zeros((2, 2)), np.array([[0.1, 0.1], [1.0, 0.1]]), point, np.eye(2))
    assert unsure > sure
    assert latent_metric(np.array([[0.5, 1.0], [1.5, 3.0]])).tolist() == [[1.0, 0.0], [0.0, 0.5]]
    with pytest.raises(InputError, match="2 finite latents"):
        expected_distances(mean, covariance, np.zeros(3), metric)


def test_sets_are_nested_and_halved_in_both_half_sets():
    generator = np.random.default_rng(1)
    distances, half, used = generator.random(1000), np.arange(1000) % 2, np.arange(1000) >= 100
    rings = nested_sets(distances, half, used)
    assert rings.counts.tolist() == [226, 450, 900] and (rings.ring[:100] == -1).all()
    for number, count in enumerate(rings.counts):
        inside = (rings.ring >= 0) & (rings.ring <= number)
        assert inside.sum() == count and inside[half == 0].sum() == count // 2
        for value in (0, 1):
            rest = (half == value) & used & ~inside
            assert distances[inside & (half == value)].max() <= distances[rest].min(initial=np.inf)
    assert len(nested_sets(distances[:150], half[:150]).counts) == 1  # too few for another width
    with pytest.raises(InputError, match="half sets"):
        nested_sets(distances, np.zeros(1000))


def test_effective_number_of_whole_sets_and_of_a_mean():
    counts = np.array([100, 200, 400])
    assert effective_number(np.array([0.0, 0, 1]), counts) == pytest.approx(400)
    assert effective_number(np.array([0.0, 1, 1]), counts) == pytest.approx(200)
    assert effective_number(np.array([1.0, 1, 1]), counts) == pytest.approx(100)
    weight = np.repeat([0.5 / 200 + 0.5 / 400, 0.5 / 400], 200)
    assert effective_number(np.array([0.0, 0.5, 1]), counts) == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_steps_on_which_the_half_sets_agree_are_taken_and_others_not():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(16, 16, 16, generator=generator)
    step = torch.randn(16, 16, 16, generator=generator)
    counts = np.array([100, 200])
    agreed = combine_widths([wide + step, wide], [wide + step, wide], counts)
    inner = fourier_shell_correlation(agreed.first, wide + step)[:7]
    assert inner.min() > 0.999 and np.allclose(agreed.effective, 100, rtol=0.01)
    opposed = combine_widths([wide + step, wide], [wide - step, wide], counts)
    assert fourier_shell_correlation(opposed.first, wide)[:7].min() > 0.98
    assert (opposed.effective > 180).all()


@pytest.fixture(scope="module")
def swing():
    """Noisy images of the swinging molecule, their latents, and the map of the arm at 20 degrees as it is."""
    model, count = swinging_model(), 1200
    generator = np.random.default_rng(3)
    z = generator.uniform(-1, 1, (count, 2)).astype(np.float32)
    z[:, 1] = 1
    rotations, shifts = random_views(count, seed=4)
    parameters = torch.tensor([[BOX, PIXEL, 0, 0, 0, 300, 2.7, 0.1, 0]]).repeat(count, 1)
    parameters[:, 2:4] = torch.from_numpy(generator.uniform(8000, 20000, (count, 1))).float()
    images = -model.project(z, rotations, shifts, parameters)
    images += 2.5 * images.std() * torch.from_numpy(generator.normal(size=images.shape)).float()
    point = np.array([0.67, 1.0])
    truth = next(iter(model.volumes(point[None].astype(np.float32))))
    return model, z, (images, rotations, shifts, -ctf(parameters, BOX)), point, truth


def test_the_state_beats_every_single_width(swing):
    model, z, views, point, truth = swing
    variance = np.full(z.shape, 0.01)
    metric = volume_metric(model, point, z.std(0))
    assert metric[0, 0] > 0 and np.linalg.eigvalsh(metric).min() > -1e-9
    half = np.arange(len(z)) % 2
    rings = nested_sets(expected_distances(z, variance, point, metric), half)
    assert np.abs(z[rings.ring == 0, 0] - point[0]).max() < 0.35
    first, second = (
        [
            solve(accumulate(empty_sums(BOX), *(values[(half == h) & (rings.ring <= width)] for values in views)))
            for width in range(len(rings.counts))
        ]
        for h in (0, 1)
    )
    mask = (truth > 0.05 * truth.max()).float()
    found = combine_widths(first, second, rings.counts, mask)

    def area(volume: torch.Tensor) -> float:
        return float(fourier_shell_correlation(volume * mask, truth * mask)[:12].mean())

    single = [area(one + two) for one, two in zip(first, second)]
    assert area(found.first + found.second) > max(single) + 0.003, single
    chosen, errors = cross_validated_width(first, second, mask)
    assert single[chosen] >= max(single) - 0.01 and errors.shape == (len(single),)
    assert (found.effective >= rings.counts[0] - 1).all() and (found.effective <= len(z)).all()
    arm = model.deform(point[None]).positions[0][ARM:].mean(0)
    body = torch.zeros_like(mask)
    body[:, : BOX // 2] = 1  # the half of the box, in y, in which nothing moves
    still = combine_widths(first, second, rings.counts, mask * body)
    moving = combine_widths(first, second, rings.counts, mask * (1 - body))
    assert arm[1] > 0.2 and still.effective[:3].mean() > 1.2 * moving.effective[:3].mean()


def test_latents_count_as_far_as_they_change_the_volume(swing):
    """Against differences of decoded volumes."""
    model, *_ = swing
    point, spread = np.array([0.67, 0.8]), np.array([0.6, 0.2])  # near the edge of presence: both change the arm
    metric = volume_metric(model, point, spread)
    assert np.diag(metric) @ spread**2 == pytest.approx(1)
    slopes = []
    for step in np.diag(0.5 * spread):
        upper, lower = model.volumes(np.stack([point + step, point - step]).astype(np.float32))
        slopes.append(((upper - lower).double().flatten() / (2 * step.sum())).numpy())
    expected = np.inner(slopes, slopes)
    np.testing.assert_allclose(metric, expected / (np.diag(expected) @ spread**2), rtol=1e-3)
