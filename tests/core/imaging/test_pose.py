"""Poses against SciPy's rotations and RELION's convention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import (
    angles_from_rotations,
    load_poses,
    pack_poses,
    random_rotations,
    rotations_from_angles,
)

ANGLES = np.random.default_rng(0).uniform([-180, 0, -180], [180, 180, 180], (200, 3))


def test_matrices_are_scipys() -> None:
    # RELION turns the coordinate system (passive): the transpose of SciPy's active intrinsic ZYZ rotation.
    expected = Rotation.from_euler("ZYZ", ANGLES, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(rotations_from_angles(ANGLES), expected, atol=1e-12)


def test_handedness() -> None:
    a = rotations_from_angles(ANGLES)
    np.testing.assert_allclose(np.linalg.det(a), 1, atol=1e-12)
    # psi = 90 degrees carries x to -y, as in RELION; tilt = 90 carries z to -x
    np.testing.assert_allclose(rotations_from_angles([0, 0, 90]) @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rotations_from_angles([0, 90, 0]) @ [0, 0, 1], [-1, 0, 0], atol=1e-12)


def test_angles_come_back() -> None:
    np.testing.assert_allclose(angles_from_rotations(rotations_from_angles(ANGLES)), ANGLES, atol=1e-9)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_poles_give_the_same_matrix(tilt: float) -> None:
    angles = np.array([[37.0, tilt, -61.0], [170.0, tilt, 100.0], [0.0, tilt, 0.0]])
    a = rotations_from_angles(angles)
    back = angles_from_rotations(a)
    assert (back[:, 0] == 0).all()
    np.testing.assert_allclose(rotations_from_angles(back), a, atol=1e-9)


def test_random_rotations_are_uniform() -> None:
    a = random_rotations(20000, np.random.default_rng(1))
    np.testing.assert_allclose(a @ a.transpose(0, 2, 1), np.broadcast_to(np.eye(3), a.shape), atol=1e-9)
    # every entry of a uniform rotation has mean 0 and variance 1/3; 0.02 is five standard errors
    np.testing.assert_allclose(a.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(a.var(axis=0), 1 / 3, atol=0.02)


def test_both_file_layouts(tmp_path: Path) -> None:
    rotations, shifts = rotations_from_angles(ANGLES), np.random.default_rng(2).normal(size=(200, 2))
    np.save(tmp_path / "new.npy", pack_poses(rotations, shifts))
    np.save(tmp_path / "old.npy", np.concatenate([ANGLES, shifts], axis=1))
    for name in ("new.npy", "old.npy"):
        a, s = load_poses(tmp_path / name)
        assert a.dtype == s.dtype == np.float32
        np.testing.assert_allclose(a, rotations, atol=1e-6)
        np.testing.assert_allclose(s, shifts, atol=1e-6)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "poses.npy"
    with pytest.raises(InputError, match=r"readable \.npy"):
        load_poses(path)
    np.save(path, np.zeros((4, 7)))
    with pytest.raises(InputError, match=r"\(N, 11\) or \(N, 5\)"):
        load_poses(path)
    values = pack_poses(random_rotations(4, np.random.default_rng(0)), np.zeros((4, 2)))
    values[2, 5] = np.nan
    np.save(path, values)
    with pytest.raises(InputError, match="row 3"):
        load_poses(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"readable \.npy"):
        load_poses(path)
