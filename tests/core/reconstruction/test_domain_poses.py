"""Poses of a domain against the known motion of a swinging arm, and images with the rest subtracted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_data import simulate
from swinging import ARM, BOX, DEGREES, PIXEL, random_views, swinging_model

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.imaging.projection import project
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import read_particles
from gaussianem_core.reconstruction.domain_poses import (
    domain_motions,
    domain_poses,
    inside_mask,
    subtract_rest,
    write_domain_mask,
    write_domain_star,
)
from gaussianem_core.reconstruction.rigid_motion import fit_motions, part_weights
from gaussianem_core.reconstruction.states import Latents

LABELS = np.where(np.arange(250) < ARM, 0, 1)


def latents(count: int) -> np.ndarray:
    """Angles all over the range; every fourth arm is absent."""
    z = np.random.default_rng(5).uniform(-1, 1, (count, 2)).astype(np.float32)
    z[:, 1] = np.where(np.arange(count) % 4 == 3, -1, 1)
    return z


def certain(z: np.ndarray) -> Latents:
    """Latents that are known exactly."""
    return Latents(z, np.zeros_like(z))


def test_kabsch_finds_given_motions_and_never_a_reflection():
    generator = np.random.default_rng(0)
    reference = torch.from_numpy(generator.normal(size=(50, 3)))
    reference[30:, 2] = 0.0  # the second part is flat: a reflection would carry it as well
    turns = torch.from_numpy(Rotation.random(4, random_state=1).as_matrix())
    moved = reference @ turns.mT + torch.tensor([0.3, -0.2, 0.1])
    weights = torch.zeros(2, 50, dtype=torch.float64)
    weights[0, :30], weights[1, 30:] = 1.0, 2.0
    rotations, translations, centres, misfit = fit_motions(reference, moved, weights)
    assert torch.allclose(rotations, turns[:, None].expand(-1, 2, -1, -1), atol=1e-7)
    carried = rotations @ (reference[40] - centres)[..., None] + (centres + translations)[..., None]
    assert torch.allclose(carried[:, 1, :, 0], moved[:, 40], atol=1e-7)
    assert misfit.max() < 1e-12


@pytest.mark.parametrize("recentre", [False, True])
def test_the_domain_seen_in_its_own_pose_is_the_domain_in_the_particle(recentre):
    model = swinging_model()
    z, (rotations, shifts) = latents(12), random_views(12)
    motions = domain_motions(model, certain(z), LABELS)
    found = domain_poses(model, motions, rotations.numpy(), 1, recentre=recentre)
    turn = Rotation.from_euler("z", DEGREES * z[:, :1], degrees=True).as_matrix()
    assert np.allclose(found.rotations, rotations.double().numpy() @ turn, atol=1e-5)
    assert found.misfit_angstrom < 0.02
    assert np.allclose(found.occupancy, z[:, 1] > 0, atol=0.05)

    arm = torch.arange(250) >= ARM
    deformed, gaussians = model.deform(z), model.gaussians
    seen = project(deformed.positions, gaussians.densities * arm, gaussians.sigmas, rotations, shifts, BOX)
    moved = gaussians.positions.clone()
    if recentre:
        moved -= torch.from_numpy(found.centre_voxels - BOX // 2).float() * 2 / BOX
    own = shifts + torch.from_numpy(found.shift_angstrom / PIXEL).float()
    turned = torch.from_numpy(found.rotations).float()
    alone = project(moved, gaussians.densities * arm, gaussians.sigmas, turned, own, BOX)
    assert (alone - seen).abs().max() < 2e-3 * seen.max()


def test_angles_and_origins_of_the_file_are_the_domains(tmp_path):
    source = simulate(tmp_path) / "particles.star"
    text = source.read_text().replace("_rlnRandomSubset", "_someUnknownLabel")
    source.write_text(text)
    table, model = read_particles(source, find_stacks=False), swinging_model()
    z, rows = latents(len(table)), np.arange(3, len(table), 2)
    motions = domain_motions(model, certain(z[rows]), LABELS)
    poses = domain_poses(model, motions, rotations_from_angles(table.angles_deg[rows]), 1)
    assert write_domain_star(source, tmp_path / "arm.star", rows, poses) == len(rows)
    written = read_particles(tmp_path / "arm.star", find_stacks=False)
    assert np.allclose(rotations_from_angles(written.angles_deg), poses.rotations, atol=1e-6)
    assert np.allclose(written.shifts_angstrom, table.shifts_angstrom[rows] + poses.shift_angstrom, atol=1e-5)
    assert "_someUnknownLabel" in (tmp_path / "arm.star").read_text()


def test_the_mask_covers_the_domain_alone_and_moves_with_the_recentring(tmp_path):
    model = swinging_model()
    mask = write_domain_mask(model, LABELS, 1, tmp_path / "mask.mrc", BOX)
    stored = read_map(tmp_path / "mask.mrc")
    assert np.array_equal(stored.values, mask) and stored.pixel_size_angstrom == pytest.approx(PIXEL)
    assert (inside_mask(model, mask) == np.where(LABELS == 1, 0, -1)).mean() > 0.95
    motions = domain_motions(model, certain(latents(2)), LABELS)
    poses = domain_poses(model, motions, np.eye(3)[None].repeat(2, 0), 1, recentre=True)
    centred = write_domain_mask(model, LABELS, 1, tmp_path / "centred.mrc", BOX, recentre=poses)
    whole = (poses.centre_voxels - BOX // 2).astype(int)
    assert np.allclose(np.roll(mask, -whole[::-1], axis=(0, 1, 2)), centred, atol=1e-6)
    assert np.abs(np.argwhere(centred > 0.5).mean(axis=0) - BOX // 2).max() < 1.5


def test_only_the_domain_stays_after_subtraction():
    model = swinging_model()
    z, (rotations, shifts) = latents(6), random_views(6, seed=2)
    parameters = torch.tensor([[BOX, PIXEL, 12000.0, 11500, 30, 300, 2.7, 0.1, 0]]).repeat(6, 1)
    contrast = torch.linspace(0.8, 1.2, 6)
    images = -model.project(z, rotations, shifts, parameters) * contrast[:, None, None]
    batches = [
        (images[part], z[part], rotations[part], shifts[part], parameters[part], contrast[part])
        for part in (slice(0, 4), slice(4, 6))
    ]
    left = torch.cat(list(subtract_rest(model, LABELS == 1, batches)))
    deformed, gaussians = model.deform(z), model.gaussians
    arm = project(
        deformed.positions, deformed.densities * torch.from_numpy(LABELS == 1), gaussians.sigmas, rotations, shifts, BOX
    )
    arm = -apply_ctf(arm, ctf(parameters, BOX)) * contrast[:, None, None]
    assert (left - arm).abs().max() < 1e-3 * images.abs().max()
    finer = 2 * BOX  # images of the same length, with more pixels
    wide = -project(deformed.positions, deformed.densities, gaussians.sigmas, rotations, shifts * 2, finer)
    fine = parameters.clone()
    fine[:, 0], fine[:, 1] = finer, PIXEL / 2
    wide = apply_ctf(wide, ctf(fine, finer))
    nothing = next(subtract_rest(model, np.zeros(250), [(wide, z, rotations, shifts * 2, fine, None)]))
    assert nothing.abs().max() < 1e-3 * wide.abs().max()


def test_a_part_of_two_gaussians_is_refused():
    model = swinging_model()
    labels = np.zeros(250, int)
    labels[:2] = 1
    with pytest.raises(InputError, match="parts of 3 Gaussians"):
        part_weights(labels, model.gaussians.densities, model.gaussians.sigmas)
