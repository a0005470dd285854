"""Motion undone on images of a molecule whose motion is known, against its true map; and the displacement's inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from swinging import ARM, BOX, DEGREES, HINGE, PIXEL, random_views, swinging_model

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.backprojection import accumulate, empty_sums, fine_shells, solve
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation, weight_shells
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.reconstruction.motion import (
    SEAM_PIXELS,
    accumulate_parts,
    blend,
    displacement_field,
    empty_part_sums,
    find_parts,
    part_windows,
    position_uncertainty,
    restored,
    round_trip,
    sample,
)
from gaussianem_core.reconstruction.rigid_motion import particle_motions

SEAM = SEAM_PIXELS * 2 / BOX


def latents(count: int, missing: int = 0) -> np.ndarray:
    """Angles all over the range; every ``missing``-th arm is absent."""
    z = np.random.default_rng(1).uniform(-1, 1, (count, 2)).astype(np.float32)
    z[:, 1] = 1
    if missing:
        z[::missing, 1] = -1
    return z


def observed(model: TrainedModel, z: np.ndarray, noise: float) -> tuple[torch.Tensor, ...]:
    """Images at latents ``z``, with ``noise`` times their contrast, their rotations, shifts and transfer functions."""
    rotations, shifts = random_views(len(z))
    generator = np.random.default_rng(7)
    parameters = torch.tensor([[BOX, PIXEL, 0, 0, 0, 300, 2.7, 0.1, 0]]).repeat(len(z), 1)
    parameters[:, 2:4] = torch.from_numpy(generator.uniform(8000, 20000, (len(z), 1))).float()
    clean = -model.project(z, rotations, shifts, parameters)
    images = clean + noise * clean.std() * torch.from_numpy(generator.normal(size=clean.shape)).float()
    return images, rotations, shifts, -ctf(parameters, BOX)


@pytest.fixture(scope="module")
def cut():
    """Model, labels of its parts, and their motions' ingredients in the reference with the arm at 15 degrees."""
    model = swinging_model()
    state = model.deform(np.array([[0.5, 1]]))
    parts = find_parts(model, latents(40), state.positions[0])
    return model, parts.labels, parts.weights, state.positions[0], state.densities[0]


def test_parts_are_those_that_move(cut):
    model, labels, weights, positions, densities = cut
    assert labels.max() == 1
    own = np.bincount(labels[ARM:]).argmax()
    assert (labels[ARM:] == own).mean() > 0.97 and (labels[:ARM] == own).mean() < 0.05
    motions = particle_motions(model, latents(5), weights, positions, densities)
    turn = Rotation.from_euler("z", DEGREES * (latents(5)[:, :1] - 0.5), degrees=True).as_matrix()
    assert np.allclose(motions.rotations[:, own], turn, atol=0.01)
    assert np.allclose(motions.rotations[:, 1 - own], np.eye(3), atol=0.01)  # few strays do not turn the body


def test_one_part_where_nothing_moves():
    model = swinging_model()
    assert not find_parts(model, np.zeros((5, 2), np.float32), model.gaussians.positions).labels.any()


def test_motion_undone_shows_the_arm_that_the_plain_map_has_lost(cut):
    model, labels, weights, positions, densities = cut
    count = 500
    z = latents(count, missing=5)
    images, rotations, shifts, transfer = observed(model, z, 2)
    motions = particle_motions(model, z, weights, positions, densities)
    sums = empty_part_sums(BOX, 2)
    for rows in torch.arange(count).split(200):
        accumulate_parts(sums, images[rows], rotations[rows], shifts[rows], transfer[rows], motions.rows(rows))
    windows = part_windows(positions.numpy(), labels, BOX, SEAM)
    undone = blend([solve(own) for own in sums], windows)
    plain = solve(accumulate(empty_sums(BOX), images, rotations, shifts, transfer))
    truth = model.volume(positions, densities, BOX)
    arm = np.bincount(labels[ARM:]).argmax()
    for part, least, gain in ((arm, 0.85, 0.2), (1 - arm, 0.85, -0.03)):
        window = windows[part] * (truth > 0.05 * truth.max())
        fsc = [fourier_shell_correlation(v * window, truth * window)[3:12].mean() for v in (undone, plain)]
        assert fsc[0] > least and fsc[0] > fsc[1] + gain, (part, fsc)
    amplitude = (undone * windows[arm] * truth).sum() / (windows[arm] * truth.square()).sum()
    assert 0.85 < amplitude * BOX / 2 < 1.15  # absent arms take nothing away: the map sums pixels along the beam


def test_a_part_whose_place_is_unknown_does_not_cover_the_others_with_noise(cut):
    """Hardly anything is left of its shells, and to divide by that makes noise. (What it lacks shows at the seam.)"""
    model, labels, weights, positions, densities = cut
    count = 200
    z = latents(count)
    images, rotations, shifts, transfer = observed(model, z, 1)
    motions = particle_motions(model, z, weights, positions, densities)
    windows = part_windows(positions.numpy(), labels, BOX, SEAM)
    truth = model.volume(positions, densities, BOX)
    arm = np.bincount(labels[ARM:]).argmax()
    body = windows[1 - arm] * (truth > 0.05 * truth.max())
    found = {}
    for unknown in (0.1, 6.0):
        blur = torch.full((count, 2), 0.1)
        blur[:, arm] = unknown
        sums = empty_part_sums(BOX, 2)
        accumulate_parts(sums, images, rotations, shifts, transfer, motions, blur=blur)
        solved = [solve(own) for own in sums]
        shown = [weight_shells(volume, factors) for volume, factors in zip(solved, restored(blur, BOX))]
        for name, volumes in (("all restored", solved), ("as shown", shown)):
            undone = blend(volumes, windows)
            fsc = fourier_shell_correlation(undone * body, truth * body)
            found[unknown, name] = float(fsc[3:12].mean())
    assert found[0.1, "as shown"] > 0.85, found
    assert found[6.0, "as shown"] > max(0.7, found[6.0, "all restored"] + 0.2), found


def test_a_state_without_the_arm_is_made_of_particles_that_lack_it(cut):
    model, labels, weights, positions, _ = cut
    z = latents(20, missing=4)
    without = model.deform(np.array([[0.5, -1]])).densities[0]
    motions = particle_motions(model, z, weights, positions, without)
    arm = np.bincount(labels[ARM:]).argmax()
    assert motions.present.tolist() == [arm != part for part in range(2)]
    images, (rotations, shifts) = torch.ones(20, BOX, BOX), random_views(20)
    sums = empty_part_sums(BOX, 2)
    accumulate_parts(sums, images, rotations, shifts, torch.ones(20, BOX, BOX // 2 + 1), motions)
    assert sums[arm][..., 2].sum() / sums[1 - arm][..., 2].sum() == pytest.approx(5 / 20, abs=0.02)


def test_there_and_back(cut):
    model, labels, weights, positions, densities = cut
    z = latents(12)
    motions = particle_motions(model, z, weights, positions, densities)
    windows = part_windows(positions.numpy(), labels, 48, SEAM)
    assert torch.allclose(windows.sum(0), torch.ones(48, 48, 48), atol=1e-5)
    turn = Rotation.from_euler("z", DEGREES * (z[:, 0] - 0.5)[:, None], degrees=True).as_matrix()
    tip = torch.tensor([[0.0, 0.6, 0.0]]) @ torch.from_numpy(turn_at(0.5)).float().T + hinge_shift(0.5)
    for particle in range(12):
        field = displacement_field(motions, windows, particle)
        assert round_trip(field, positions).max() < 0.1 * 2 / BOX
        moved = field.forward(positions)
        assert (moved - model.deform(z)[0][particle]).norm(dim=-1).median() < 0.05 * 2 / BOX
        there = field.forward(tip)[0].numpy()
        assert np.allclose(there, turn[particle] @ (tip[0].numpy() - HINGE) + HINGE, atol=0.01)
    with pytest.raises(InputError, match="of 2 parts"):
        displacement_field(motions, windows[:1], 0)


def turn_at(z: float) -> np.ndarray:
    """The arm's rotation at a latent."""
    return Rotation.from_euler("z", DEGREES * z, degrees=True).as_matrix()


def hinge_shift(z: float) -> torch.Tensor:
    """What a rotation about the hinge adds to one about the origin."""
    hinge = np.array(HINGE)
    return torch.from_numpy(hinge - turn_at(z) @ hinge).float()


def test_volumes_are_sampled_where_voxels_lie():
    values = torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    places = (torch.tensor([[5.0, 2, 6], [3, 4, 1]]) - 4) / 4  # x, y, z
    assert torch.allclose(sample(values, places), torch.stack([values[:, 6, 2, 5], values[:, 1, 4, 3]], 1), atol=1e-5)


def test_uncertain_latents_make_uncertain_places(cut):
    model, labels, weights, *_ = cut
    z = latents(200)
    variance = np.full((200, 2), [0.1**2, 0.3**2])
    blur = position_uncertainty(model, z, variance, weights)
    arm = np.bincount(labels[ARM:]).argmax()
    mass = weights[arm] / weights[arm].sum()
    rest = model.gaussians.positions
    lever = ((rest[:, :2] - torch.tensor(HINGE[:2])).square().sum(-1) * mass).sum().sqrt()
    expected = 0.1 * np.deg2rad(DEGREES) * float(lever) / 3**0.5  # the chord's slope is a little less than the arc's
    assert float(blur[0, arm]) == pytest.approx(expected, rel=0.1)
    assert float(blur[0, 1 - arm]) < 0.1 * expected
    # An encoder leaves a latent that it does not use near 0, as uncertain as the prior, and what it says there follows
    # from the others: it makes no place uncertain.
    unused = z.copy()
    unused[:, 1] = 0.03 * (z[:, 0] ** 2 - (z[:, 0] ** 2).mean())
    still = position_uncertainty(model, unused, np.full((200, 2), [0.1**2, 1.0]), weights)
    assert float(still[0, arm]) == pytest.approx(expected, rel=0.1)
    sharp, dim = empty_part_sums(BOX, 2), empty_part_sums(BOX, 2)
    state = model.deform(np.array([[0.5, 1]]))
    motions = particle_motions(model, z[:4], weights, state.positions[0], state.densities[0])
    images, (rotations, shifts) = torch.rand(4, BOX, BOX), random_views(4)
    transfer = torch.ones(4, BOX, BOX // 2 + 1)
    accumulate_parts(sharp, images, rotations, shifts, transfer, motions)
    accumulate_parts(dim, images, rotations, shifts, transfer, motions, blur=torch.full((4, 2), 0.5))
    shell = fine_shells(2 * BOX, "cpu") == 24  # 12 / 32 of a cycle a pixel
    fall = np.exp(-4 * np.pi**2 * 0.25 * (12 / 32) ** 2)
    ratio = dim[0][shell][:, 2].sum() / sharp[0][shell][:, 2].sum()
    assert float(ratio) == pytest.approx(fall, rel=0.1)
