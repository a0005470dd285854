"""Motions of parts put right by the images, where the model moves them too little."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from swinging import ARM, BOX, DEGREES, PIXEL, SwingingModel, random_views, swinging_model

from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.model.deformation import Deformed
from gaussianem_core.reconstruction.motion import find_parts
from gaussianem_core.reconstruction.part_calibration import ImageBatch, calibrate, rotation_vector
from gaussianem_core.reconstruction.rigid_motion import particle_motions
from gaussianem_core.training.nuisances import rotation_matrix


class SlowModel(SwingingModel):
    """Its arm turns by three quarters of what it should."""

    def deform(self, z: np.ndarray | torch.Tensor, precision: str = "float32") -> Deformed:
        return super().deform(np.asarray(z) * np.array([0.75, 1.0]))


def test_rotation_vectors_and_matrices_are_inverse():
    turns = Rotation.random(20, random_state=2)
    found = rotation_vector(torch.from_numpy(turns.as_matrix()))
    assert np.allclose(found, turns.as_rotvec(), atol=1e-6)
    small = torch.tensor([[0.0, 0, 0], [1e-8, 0, 0], [0, 2e-4, -1e-4]], dtype=torch.float64)
    assert torch.allclose(rotation_vector(rotation_matrix(small)), small, atol=1e-9)


@pytest.mark.parametrize("fineness", [1, 2])
def test_an_arm_that_moves_too_little_is_put_right(fineness):
    true, count = swinging_model(), 240
    slow = SlowModel(**{name: getattr(true, name) for name in true.__dataclass_fields__ if not name.startswith("_")})
    generator = np.random.default_rng(0)
    z = generator.uniform(-1, 1, (count, 2)).astype(np.float32)
    z[:, 1] = 1
    rotations, shifts = random_views(count, seed=1)
    parameters = torch.tensor([[BOX, PIXEL, 0, 0, 0, 300, 2.7, 0.1, 0]]).repeat(count, 1)
    parameters[:, 2:4] = torch.from_numpy(generator.uniform(8000, 20000, (count, 1))).float()
    images = -1.3 * true.project(z, rotations, shifts, parameters)  # of another scale than the model
    noise = float(images.std())
    images += noise * torch.from_numpy(generator.normal(size=images.shape)).float()
    box = BOX * fineness
    images = fourier_crop(images, box)
    parameters[:, 0], parameters[:, 1] = box, PIXEL / fineness
    parts = find_parts(slow, z, slow.gaussians.positions)
    arm = np.bincount(parts.labels[ARM:]).argmax()
    reference, densities = slow.gaussians.positions, slow.gaussians.densities
    motions = particle_motions(slow, z, parts.weights, reference, densities)

    def batches() -> Iterator[ImageBatch]:
        for rows in np.array_split(np.arange(count), 4):
            weights = torch.full((len(rows), box // 2 + 1), (fineness / noise) ** 2)
            transfer = -ctf(parameters[rows], box)
            yield ImageBatch(rows, images[rows], rotations[rows], shifts[rows] * fineness, transfer, weights)

    variance = np.zeros_like(z)
    found = calibrate(slow, z, variance, parts.labels, parts.weights, reference, motions, batches)
    angle = rotation_vector(motions.rotations)[:, arm, 2]
    put_right = found.apply(motions)
    after = rotation_vector(put_right.rotations)[:, arm, 2]
    wanted = torch.from_numpy(np.deg2rad(DEGREES) * z[:, 0])
    wanted = wanted - wanted.mean() + after.mean()
    assert float((angle - angle.mean() - wanted + wanted.mean()).square().mean().sqrt()) > np.deg2rad(3.5)
    assert float((after - wanted).square().mean().sqrt()) < np.deg2rad(1.0)
    assert found.gain > 0.5
    still = rotation_vector(put_right.rotations)[:, 1 - arm]
    assert float(still.norm(dim=-1).square().mean().sqrt()) < np.deg2rad(0.7)
