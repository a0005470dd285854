"""Conventions of poses: where a point of the molecule appears in a particle image.

World coordinates x, y, z lie in [-1, 1]; a voxel's index is ``D // 2 + coordinate * D / 2`` (RELION's centre, D // 2).
Volumes on disk are indexed [z, y, x], images [y, x].

A pose is RELION's: angles rot, tilt, psi (ZYZ, degrees) give the rotation ``A`` with ``r_image = A r_volume``; the
beam runs along z, so that x and y of ``r_image`` are the image's. The origin (``rlnOriginX/Y``) is what must be added
to the particle to centre it: the particle sits at *minus* the origin. Hence

    pixel x = D // 2 + (A r)_x * D / 2 - shift_x          (shift = origin in pixels; the same for y).

On disk ``poses.npy`` is (N, 11): nine entries of A, row by row, and the two shifts in pixels of the written stack;
older files are (N, 5): rot, tilt, psi, shifts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.ranges import refuse_improper, refuse_outside
from gaussianem_core.runtime.readers import read_npy


def rotations_from_angles(angles_deg: np.ndarray) -> np.ndarray:  # (..., 3) -> (..., 3, 3)
    """RELION's rotation matrix A = Rz(psi) Ry(tilt) Rz(rot) in its passive sense, from (rot, tilt, psi) in degrees."""
    rot, tilt, psi = np.moveaxis(np.deg2rad(np.asarray(angles_deg, dtype=np.float64)), -1, 0)
    ca, sa, cb, sb, cg, sg = np.cos(rot), np.sin(rot), np.cos(tilt), np.sin(tilt), np.cos(psi), np.sin(psi)
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def angles_from_rotations(rotations: np.ndarray) -> np.ndarray:  # (..., 3, 3) -> (..., 3)
    """The (rot, tilt, psi) in degrees of rotation matrices; at tilt 0 or 180, rot is 0."""
    a = np.asarray(rotations, dtype=np.float64)
    sine = np.hypot(a[..., 2, 0], a[..., 2, 1])
    tilt = np.arctan2(sine, a[..., 2, 2])
    regular = sine > 1e-8
    rot = np.where(regular, np.arctan2(a[..., 2, 1], a[..., 2, 0]), 0.0)
    # At the poles only psi +- rot is defined: put it all into psi.
    polar = np.arctan2(a[..., 0, 1], a[..., 1, 1])
    psi = np.where(regular, np.arctan2(a[..., 1, 2], -a[..., 0, 2]), polar)
    return np.rad2deg(np.stack([rot, tilt, psi], axis=-1))


def random_rotations(count: int, generator: np.random.Generator) -> np.ndarray:  # -> (count, 3, 3)
    """Rotation matrices drawn uniformly: rot and psi uniform, cos(tilt) uniform."""
    rot, psi = generator.uniform(-180, 180, (2, count))
    tilt = np.rad2deg(np.arccos(generator.uniform(-1, 1, count)))
    return rotations_from_angles(np.stack([rot, tilt, psi], axis=-1))


def pack_poses(rotations: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:  # (N, 3, 3), (N, 2) -> (N, 11)
    """The array of ``poses.npy``: rotation matrices row by row, then shifts in pixels."""
    return np.concatenate([rotations.reshape(-1, 9), shifts_px], axis=1).astype(np.float32)


def load_poses(path: Path | str) -> tuple[np.ndarray, np.ndarray]:  # -> (N, 3, 3), (N, 2) float32
    """Rotations and shifts (pixels) of ``poses.npy``, either (N, 11) or the older (N, 5).

    Raises InputError if the file cannot be read, has another shape, or holds matrices that are no rotations, angles
    or shifts that are not finite or far outside any image.
    """
    poses = read_npy(path, "pose", "Run preprocess again.")
    if poses.ndim != 2 or poses.shape[1] not in (5, 11) or not len(poses):
        raise InputError("pose", "must have shape (N, 11) or (N, 5)", poses.shape, "Run preprocess again.")
    poses = poses.astype(np.float64)
    refuse_outside("shift", poses[:, -2:], path)
    if poses.shape[1] == 5:
        refuse_outside("angle", poses[:, :3], path, "rot, tilt, psi")
        rotations = rotations_from_angles(poses[:, :3])
    else:
        rotations = poses[:, :9].reshape(-1, 3, 3)
        refuse_improper(rotations, path)
    return rotations.astype(np.float32), poses[:, -2:].astype(np.float32)
