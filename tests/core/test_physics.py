"""Rooms together: projection, voxelization, poses and CTF describe one and the same microscope."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.pose import random_rotations, rotations_from_angles
from gaussianem_core.imaging.projection import project
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.image_stack import ImageStack, read_map
from gaussianem_core.io.particle_table import ParticleTable, read_particles

BOX = 32
ROTATIONS = random_rotations(6, np.random.default_rng(3))


def scattered(count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, densities and widths (2 pixels: smooth enough to interpolate), well inside the box."""
    generator = torch.Generator().manual_seed(5)
    positions = torch.rand(count, 3, generator=generator) - 0.5
    return positions, torch.rand(count, generator=generator) + 0.5, torch.full((count,), 2.0 * 2 / BOX)


def projected_volume(volume: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Sum along the beam of a volume [z, y, x] turned by A and moved by minus the shift: cubic interpolation."""
    box = len(volume)
    axis = np.arange(box) - box // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    in_image = np.stack([x + shift[0], y + shift[1], z]).reshape(3, -1)
    in_volume = rotation.T @ in_image + box // 2
    return map_coordinates(volume, in_volume[::-1], order=3).reshape(box, box, box).sum(axis=0)


def test_a_point_projects_where_relion_says() -> None:
    # One narrow Gaussian at whole pixels: the brightest pixel is D//2 + (A r) - origin.
    radius = np.array([6.0, -4.0, 3.0])
    for angles in ([0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90], [0, 180, 0], [90, 90, 90]):
        rotation = rotations_from_angles(angles)
        image = project(
            torch.tensor(radius * 2 / BOX, dtype=torch.float32)[None],
            torch.ones(1),
            torch.full((1,), 1.6 / BOX),
            torch.tensor(rotation, dtype=torch.float32)[None],
            torch.tensor([[2.0, -5.0]]),
            BOX,
        )[0]
        x, y = np.rint((rotation @ radius)[:2]).astype(int) + BOX // 2 - np.array([2, -5])
        assert np.unravel_index(int(image.argmax()), image.shape) == (y, x)


def test_half_pixel() -> None:
    # A point at the origin is centred on pixel D // 2 exactly, for even boxes of any size, and symmetric about it.
    for box in (8, 30, 32):
        image = project(
            torch.zeros(1, 3), torch.ones(1), torch.full((1,), 1.5 / box), torch.eye(3)[None], torch.zeros(1, 2), box
        )[0]
        axis = torch.arange(box, dtype=torch.float32)
        assert (image.sum(0) @ axis / image.sum()).item() == pytest.approx(box // 2, abs=1e-4)
        torch.testing.assert_close(image[1:, 1:], image[1:, 1:].flip(0, 1))
        volume = voxelize(torch.zeros(1, 3), torch.ones(1), torch.full((1,), 1.5 / box), box)
        assert volume[box // 2, box // 2, box // 2] == pytest.approx(1)


def test_amplitude_of_projection() -> None:
    # The line integral of density * exp(-r^2 / 2 sigma^2) in world units is density * sqrt(2 pi) * sigma.
    sigma = 0.11
    image = project(
        torch.zeros(1, 3), torch.tensor([3.0]), torch.tensor([sigma]), torch.eye(3)[None], torch.zeros(1, 2), BOX
    )
    assert image.max().item() == pytest.approx(3 * np.sqrt(2 * np.pi) * sigma, rel=1e-5)


def test_projection_and_voxelization_agree() -> None:
    # Projecting the voxelized volume gives the image (times the voxel's length in world units, 2 / D).
    positions, densities, sigmas = scattered()
    volume = voxelize(positions, densities, sigmas, BOX).numpy()
    shifts = np.random.default_rng(4).normal(0, 2, (len(ROTATIONS), 2))
    images = project(
        positions,
        densities,
        sigmas,
        torch.tensor(ROTATIONS, dtype=torch.float32),
        torch.tensor(shifts, dtype=torch.float32),
        BOX,
    ).numpy()
    for image, rotation, shift in zip(images, ROTATIONS, shifts):
        # 1 %: cubic interpolation of Gaussians two voxels wide
        np.testing.assert_allclose(projected_volume(volume, rotation, shift) * 2 / BOX, image, atol=0.01 * image.max())


def test_handedness() -> None:
    # The mirror image of the molecule does not give the images, whatever its place: hands are told apart.
    positions, densities, sigmas = scattered()
    volume = voxelize(positions, densities, sigmas, BOX).numpy()
    mirrored = np.roll(volume[::-1], 1, axis=0)
    image = project(
        positions, densities, sigmas, torch.tensor(ROTATIONS[:1], dtype=torch.float32), torch.zeros(1, 2), BOX
    )[0].numpy()
    right = np.corrcoef(projected_volume(volume, ROTATIONS[0], np.zeros(2)).ravel(), image.ravel())[0, 1]
    wrong = np.corrcoef(projected_volume(mirrored, ROTATIONS[0], np.zeros(2)).ravel(), image.ravel())[0, 1]
    assert right > 0.999 and wrong < 0.9


def test_moving_with_the_coordinates_changes_nothing() -> None:
    # Turning the molecule by R and the poses by R^T leaves every image as it was.
    positions, densities, sigmas = scattered()
    turn = torch.tensor(ROTATIONS[0], dtype=torch.float32)
    poses = torch.tensor(ROTATIONS[1:3], dtype=torch.float32)
    first = project(positions, densities, sigmas, poses, torch.zeros(2, 2), BOX)
    second = project(positions @ turn.T, densities, sigmas, poses @ turn.T, torch.zeros(2, 2), BOX)
    torch.testing.assert_close(first, second, atol=2e-5, rtol=1e-4)


def test_volume_of_a_reading_back_is_the_same(tmp_path: Path) -> None:
    from gaussianem_core.io.image_stack import write_map

    volume = voxelize(*scattered(), BOX)
    write_map(tmp_path / "v.mrc", volume.numpy(), 2.5)
    back = torch.from_numpy(read_map(tmp_path / "v.mrc").values)
    torch.testing.assert_close(fourier_shell_correlation(volume, back), torch.ones(BOX // 2))


def real_correlation(folder: Path, table: ParticleTable, images: np.ndarray, mirror: bool, sign: int) -> float:
    """Mean correlation of images with the projections of class D's map, CTF applied, by our conventions."""
    volume = read_map(folder / "10076_classD_32.mrc").values
    if mirror:
        volume = np.roll(volume[::-1], 1, axis=0)
    n, box = len(images), images.shape[-1]
    parameters = np.stack(
        [
            np.full(n, box),
            np.full(n, 13.1),
            table.defocus_u_angstrom[:n],
            table.defocus_v_angstrom[:n],
            table.defocus_angle_deg[:n],
            table.voltage_kv[:n],
            table.cs_mm[:n],
            table.amplitude_contrast[:n],
            table.phase_shift_deg[:n],
        ],
        axis=1,
    )
    rotations = rotations_from_angles(table.angles_deg[:n])
    shifts = sign * table.shifts_angstrom[:n] / 13.1
    clean = np.stack([projected_volume(volume, a, s) for a, s in zip(rotations, shifts)])
    seen = apply_ctf(torch.from_numpy(clean).float(), ctf(torch.from_numpy(parameters), box)).numpy()
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(seen, images)]))


def test_real_particles(shared_data: Path) -> None:
    # EMPIAR-10076 particles of class D, dark protein: correlation 0.29 by RELION's conventions.
    folder = shared_data / "empiar10076_two_state"
    table = read_particles(folder / "10076_both_32_sim.star", data_dir=folder)
    images = ImageStack.from_table(table).read(np.arange(200)).astype(np.float64)
    right = real_correlation(folder, table, images, mirror=False, sign=1)
    assert right == pytest.approx(0.29, abs=0.03)
    assert real_correlation(folder, table, images, mirror=True, sign=1) < right - 0.03
    assert real_correlation(folder, table, images, mirror=False, sign=-1) < right - 0.1
