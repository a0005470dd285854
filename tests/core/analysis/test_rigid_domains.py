"""Rigid domains of a molecule whose parts move as told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussianem_core.analysis.rigid_domains import domain_mask, find_domains
from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import write_map
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.model.gaussians import Gaussians, load_mask


def arm_and_core(frames: int = 12, noise: float = 0.0, lid: bool = False):
    """A ball, a ball beside it that swings about their joint, and (with ``lid``) a third that slides."""
    generator = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])[: 3 if lid else 2]
    sizes = [500, 300, 200]
    truth = np.repeat(np.arange(len(centres)), sizes[: len(centres)])
    rest = centres[truth] + 0.2 * generator.uniform(-1, 1, (len(truth), 3))
    moved = np.repeat(rest[None], frames, axis=0)
    hinge = np.array([0.25, 0, 0])
    for f in range(frames):
        turn = Rotation.from_rotvec([0, 0, 0.6 * np.sin(2 * np.pi * f / frames)])
        moved[f, truth == 1] = turn.apply(rest[truth == 1] - hinge) + hinge
        moved[f, truth == 2] += [0, 0.15 * np.cos(2 * np.pi * f / frames), 0]
        whole = Rotation.from_rotvec([0.05 * np.cos(f), 0, 0])  # the molecule as a whole wobbles: no domain of its own
        moved[f] = whole.apply(moved[f]) + 0.02 * np.sin(f)
    return rest, moved + noise * generator.normal(size=moved.shape), truth


@pytest.mark.parametrize("lid", [False, True])
def test_the_parts_are_found_and_counted(lid):
    rest, moved, truth = arm_and_core(noise=0.01, lid=lid)
    found = find_domains(rest, moved, np.ones(len(rest)))
    assert found.count == (3 if lid else 2)
    assert (found.labels == truth).mean() > 0.97
    assert found.explained > 0.8
    assert found.shares.sum() == pytest.approx(1) and (np.diff(found.shares) <= 0).all()


def test_without_noise_the_motions_are_exact():
    rest, moved, truth = arm_and_core()
    found = find_domains(rest, moved, np.ones(len(rest)), 2)
    assert np.array_equal(found.labels, truth)
    assert found.misfit.max() < 1e-12
    assert np.allclose(np.linalg.det(found.rotations), 1)


def test_a_rigid_molecule_is_one_domain():
    rest, _, _ = arm_and_core()
    generator = np.random.default_rng(2)
    turns = Rotation.from_rotvec(0.2 * generator.normal(size=(8, 3)))
    moved = np.stack([turn.apply(rest) for turn in turns]) + 0.005 * generator.normal(size=(8, *rest.shape))
    assert find_domains(rest, moved, np.ones(len(rest))).count == 1


def test_faults_are_named():
    rest, moved, _ = arm_and_core()
    for bad, words in ((moved[:1], "at least two"), (np.stack([rest, rest]), "differ")):
        with pytest.raises(InputError, match=words):
            find_domains(rest, bad, np.ones(len(rest)))


def test_masks_of_domains_choose_their_gaussians_as_the_training_reads_them(tmp_path):
    rest, moved, _ = arm_and_core()
    found = find_domains(rest, moved, np.ones(len(rest)), 2)
    box = 48
    voxels = box // 2 + rest * box / 2
    gaussians = Gaussians(torch.tensor(rest), torch.zeros(len(rest)), torch.zeros(len(rest)), 0.01, 0.1)
    configuration = Configuration(box, 2.0, 0.01, 0.1, 1.0, True, True, {}, {})
    masks = [domain_mask(voxels, found.labels, k, box, reach_voxels=1.5, edge_voxels=2.0) for k in range(2)]
    for k, mask in enumerate(masks):
        assert mask.min() >= 0 and mask.max() == 1
        write_map(tmp_path / f"{k}.mrc", mask, 2.0)
        chosen = load_mask(tmp_path / f"{k}.mrc", gaussians, configuration).numpy()
        # Gaussians of the border may fall on a voxel of the neighbour
        assert (chosen == (found.labels == k)).mean() > 0.97
        np.save(tmp_path / f"{k}.npy", (found.labels == k).astype(np.uint8))
        again = load_mask(tmp_path / f"{k}.npy", gaussians, configuration).numpy()
        assert np.array_equal(again, found.labels == k)
    assert (np.minimum(*masks) > 0.5).mean() < 0.01
