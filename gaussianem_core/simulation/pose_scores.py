"""Errors of poses, offsets and defocus against the truth, less one rotation and displacement of the whole map.

A map that is turned and moved as a whole, with all poses to match, fits every image equally well. So one rotation and
one displacement for all particles are fitted first and do not count as errors; the fit is robust, as poses may follow a
part that moves. Junk has no pose and is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gaussianem_core.io.particle_table import ParticleTable
from gaussianem_core.simulation.ground_truth import Truth

ROUNDS = 10
"""Rounds of reweighting, by 1 / (1 + (error / median)^2)."""


def pose_figures(truth: Truth, corrected: ParticleTable | None) -> dict[str, Any]:
    """Errors of the particles file (``before``) and, where given, of the corrected particles (``after``); {} without
    true poses."""
    if truth.rotations is None or truth.shifts is None:
        return {}
    figures = {}
    if truth.given_rotations is not None and truth.given_shifts is not None:
        given = truth.given_rotations, truth.given_shifts, truth.given_defocus_angstrom
        figures["before"] = errors(truth, *given)
    if corrected is not None:
        rotations = corrected.rotations
        defocus = (corrected.defocus_u_angstrom + corrected.defocus_v_angstrom) / 2
        figures["after"] = errors(truth, rotations, corrected.shifts_angstrom / truth.apix, defocus)
    return figures


def errors(
    truth: Truth, rotations: np.ndarray, shifts: np.ndarray, defocus_angstrom: np.ndarray | None
) -> dict[str, float]:  # (N, 3, 3), (N, 2) pixels of the simulation, (N,)
    """Rms errors: rotation in degrees, in all, and per axis in plane and out of plane; shift in pixels per axis;
    defocus in Angstrom. The common rotation and displacement that were taken off are among the figures."""
    assert truth.rotations is not None and truth.shifts is not None
    real = truth.real_images
    true, found = truth.rotations[real].astype(np.float64), rotations[real].astype(np.float64)
    common = common_rotation(true, found)
    turns = Rotation.from_matrix(found @ (true @ common).transpose(0, 2, 1)).as_rotvec(degrees=True)
    moved = shifts[real] - truth.shifts[real]
    displacement = common_displacement(found, moved)
    moved = moved - (found @ displacement)[:, :2]
    angle = np.linalg.norm(turns, axis=1)
    figures = {
        "rotation_deg": rms(angle),
        "rotation_median_deg": float(np.median(angle)),
        "out_of_plane_deg": rms(turns[:, :2]),
        "in_plane_deg": rms(turns[:, 2]),
        "shift_px": rms(moved),
        "common_rotation_deg": float(np.degrees(Rotation.from_matrix(common).magnitude())),
        "common_displacement_px": float(np.linalg.norm(displacement)),
    }
    if defocus_angstrom is not None and truth.ctf is not None:
        figures["defocus_angstrom"] = rms(defocus_angstrom[real] - truth.ctf[real, 2:4].mean(axis=1))
    return figures


def common_rotation(true: np.ndarray, found: np.ndarray) -> np.ndarray:  # (N, 3, 3) x 2 -> (3, 3)
    """The rotation G for which ``true @ G`` is nearest to ``found`` (Kabsch, Acta Cryst. A32, 1976), robustly."""
    weights = np.ones(len(true))
    common = np.eye(3)
    for _ in range(ROUNDS):
        u, _, v = np.linalg.svd(np.einsum("n,nji,njk->ik", weights, true, found))
        common = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
        weights = robust_weights(np.linalg.norm(found - true @ common, axis=(1, 2)))
    return common


def common_displacement(rotations: np.ndarray, moved: np.ndarray) -> np.ndarray:  # (N, 3, 3), (N, 2) -> (3,)
    """The displacement u of the molecule (pixels) whose projections (A u)_xy are nearest to ``moved``."""
    rows, weights = rotations[:, :2], np.ones(len(moved))
    displacement = np.zeros(3)
    for _ in range(ROUNDS):
        normal = np.einsum("n,nai,naj->ij", weights, rows, rows)
        displacement = np.linalg.lstsq(normal, np.einsum("n,nai,na->i", weights, rows, moved), rcond=None)[0]
        weights = robust_weights(np.linalg.norm(moved - rows @ displacement, axis=1))
    return displacement


def robust_weights(error: np.ndarray) -> np.ndarray:  # (N,) -> (N,)
    """Cauchy weights 1 / (1 + (error / median)^2) of errors that are not negative."""
    return 1 / (1 + (error / max(float(np.median(error)), 1e-12)) ** 2)


def rms(values: np.ndarray) -> float:
    """Root of the mean square over all values."""
    return float(np.sqrt(np.mean(np.square(values))))
