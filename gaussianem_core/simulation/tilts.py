"""Tilt series of a simulation: many images of each particle, with the dose rising from image to image.

The stage tilts about the image's y axis, in equal steps, and images are taken in the order of their tilt, so that the
least tilted have the least dose (dose-symmetric: Hagen, Wan and Briggs, J. Struct. Biol. 197, 2017). The dose before an
image weakens its fine detail (``ctf.envelope``); the path through the specimen, longer by 1 / cos(tilt), weakens all of
it by exp(-path / mean free path).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.ctf import EXTRA
from gaussianem_core.options import SimulateOptions
from gaussianem_core.simulation.ground_truth import Truth

MEAN_FREE_PATH = 3000.0
"""Angstrom, of inelastic scattering in ice at 300 kV, approximately; electrons scattered so carry no contrast."""


def tilt_angles(options: SimulateOptions) -> np.ndarray:  # -> (T,) degrees
    """Tilt angles in the order in which the T images are taken."""
    angles = np.linspace(-options.tilt_range, options.tilt_range, options.tilts) if options.tilts > 1 else np.zeros(1)
    return angles[np.argsort(np.abs(angles), kind="stable")]


def tilt_particles(truth: Truth, transfer: np.ndarray, options: SimulateOptions) -> tuple[Truth, np.ndarray]:
    """Truth and CTF parameters (I, 9) of the tilt images of all particles, those of a particle one after the other.

    Arrays of particles stay (N,); rotations, shifts and CTF parameters get a row for each image.
    """
    assert truth.rotations is not None and truth.shifts is not None
    angles = tilt_angles(options)
    particle = np.repeat(np.arange(len(truth.rotations)), len(angles))
    stage = Rotation.from_rotvec(angles[:, None] * [0.0, 1.0, 0.0], degrees=True).as_matrix()
    rotations = (stage[None] @ truth.rotations[:, None]).reshape(-1, 3, 3)
    # The offset lies in the plane of the untilted specimen, and shrinks along x with it.
    shrunk = np.stack([np.cos(np.deg2rad(angles)), np.ones(len(angles))], axis=1)
    offset = (truth.shifts[:, None] * shrunk).reshape(-1, 2)
    path = options.thickness * (1 / np.cos(np.deg2rad(angles)) - 1)
    extra = np.zeros((len(angles), len(EXTRA)), np.float32)
    extra[:, EXTRA.index("scale")] = np.exp(-path / MEAN_FREE_PATH)
    extra[:, EXTRA.index("dose (e/A^2)")] = options.tilt_dose * np.arange(len(angles))
    found = replace(
        truth,
        rotations=rotations.astype(np.float32),
        shifts=offset.astype(np.float32),
        particle=particle,
        ctf_extra=np.tile(extra, (len(truth.rotations), 1)),
    )
    return found, transfer[particle]


def star_columns(truth: Truth) -> dict[str, list[str]]:
    """STAR columns of tilt images: particle (rlnGroupName), CTF scale by the tilt, dose before the image (e/A^2)."""
    assert truth.particle is not None and truth.ctf_extra is not None
    return {
        "rlnGroupName": [f"particle_{number + 1:06d}" for number in truth.particle],
        "rlnCtfScalefactor": [f"{value:.6f}" for value in truth.ctf_extra[:, EXTRA.index("scale")]],
        "rlnMicrographPreExposure": [f"{value:.4f}" for value in truth.ctf_extra[:, EXTRA.index("dose (e/A^2)")]],
    }
