"""CTFs, views taken from a real data set, noise, and errors in the metadata of a simulation.

Each kind of error is drawn from a stream of its own, so that adding one leaves everything else of the data unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import half_plane_weight, shells
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.aberration_columns import RELION_NUMBERS, ZERNIKE
from gaussianem_core.io.relion import read_alignments
from gaussianem_core.io.star import EMPTY_VALUES, read_columns, scan_star
from gaussianem_core.options import SimulateOptions
from gaussianem_core.runtime.readers import read_rows
from gaussianem_core.runtime.streams import stream
from gaussianem_core.simulation.ground_truth import Truth

COLOURED_EXCESS, COLOURED_FALL = 4.0, 0.03
"""Noise power 1 + excess exp(-k / fall), k in 1/A: about what images of EMPIAR-10204 have around their particles."""

CTF_COLUMNS = (
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_deg",
    "voltage_kv",
    "cs_mm",
    "amplitude_contrast",
)


def draw_ctf(options: SimulateOptions, generator: np.random.Generator) -> np.ndarray:  # -> (N, 9)
    """CTF parameters in the layout of ``ctf.npy``: defocus, astigmatism and its angle are drawn uniformly."""
    n = options.particles
    defocus = generator.uniform(options.defocus_min, options.defocus_max, n)
    half = generator.uniform(0, options.astigmatism / 2, n)
    angle = generator.uniform(0, 180, n)
    cs, contrast = options.cs, options.amplitude_contrast
    if options.no_ctf:
        defocus, half, angle, cs, contrast = defocus * 0, half * 0, angle * 0, 0.0, 1.0
    columns: list[Any] = [
        options.box,
        options.apix,
        defocus + half,
        defocus - half,
        angle,
        options.voltage,
        cs,
        contrast,
        0.0,
    ]
    return np.stack([np.broadcast_to(column, n) for column in columns], axis=1).astype(np.float32)


def take_views(path: Path, options: SimulateOptions) -> tuple[np.ndarray, np.ndarray | None]:  # -> (N, 3, 3), (N, 9)
    """Orientations and CTF parameters of particles drawn from a RELION file, without repeats while there are enough.

    The CTFs are None where ``no_ctf`` leaves them out. Shifts, box and pixel size stay the simulation's own.
    Raises InputError for a file without angles or CTF, or with values that are not finite.
    """
    found = read_alignments(path, require_ctf=not options.no_ctf)
    angles = found["angles_deg"]
    generator, count = stream(options.seed, "views"), len(angles)
    rows = generator.permutation(count)[: options.particles]
    if options.particles > count:
        rows = np.concatenate([rows, generator.integers(0, count, options.particles - count)])
    columns = [] if options.no_ctf else [found[name][rows] for name in CTF_COLUMNS]
    phase = np.nan_to_num(found.get("phase_shift_deg", np.zeros(count)))[rows]
    for name, values in zip(("angles_deg", *CTF_COLUMNS), (angles[rows], *columns)):
        if not np.isfinite(values).all():
            bad = int(rows[np.argwhere(~np.isfinite(values))[0][0]]) + 1
            raise InputError(f"{path}, row {bad}", f"must have a finite {name}", "none", "Remove the row.")
    rotations = rotations_from_angles(angles[rows]).astype(np.float32)
    if options.no_ctf:
        return rotations, None
    constant = np.ones(len(rows))
    table = [constant * options.box, constant * options.apix, *columns, phase]
    return rotations, np.stack(table, axis=1).astype(np.float32)


def not_simulated(path: Path) -> list[str]:
    """Columns of a RELION file that would change its images and are not simulated, where their values are not neutral.

    Raises InputError for a file that cannot be read.
    """
    found: list[str] = []

    def changes(word: str, plain: float) -> bool:
        try:
            return float(word) != plain
        except ValueError:
            return word.encode(errors="surrogateescape") not in EMPTY_VALUES

    for table in scan_star(path):
        for name in (*RELION_NUMBERS, *ZERNIKE, "rlnCtfBfactor", "rlnCtfScalefactor"):
            if name in table:
                texts = read_columns(table, text=[name])[1][name][0]
                words = " ".join(texts).translate(str.maketrans("[],", "   ")).split()
                plain = 1.0 if name in ("rlnMagMat00", "rlnMagMat11", "rlnCtfScalefactor") else 0.0
                if any(changes(word, plain) for word in words):
                    found.append(name)
    return found


def misinform(truth: Truth, options: SimulateOptions) -> tuple[Truth, np.ndarray]:  # -> truth, (N, 9)
    """Draw the errors of the particles file: the truth with the poses and defocus given there, and its CTF parameters.

    The rotation error is a turn about a random axis, ``pose_error`` degrees rms in all; errors of shift are
    ``shift_error`` pixels rms in each axis; errors of defocus add to both defocus values.
    """
    assert truth.rotations is not None and truth.shifts is not None and truth.ctf is not None
    n, rotations, shifts, ctf = len(truth.rotations), truth.rotations, truth.shifts, truth.ctf.copy()
    if options.pose_error:
        turns = stream(options.seed, "pose error").normal(0, options.pose_error / np.sqrt(3), (n, 3))
        rotations = (Rotation.from_rotvec(turns, degrees=True).as_matrix() @ rotations).astype(np.float32)
    if options.shift_error:
        shifts = shifts + stream(options.seed, "shift error").normal(0, options.shift_error, (n, 2)).astype(np.float32)
    if options.defocus_error:
        ctf[:, 2:4] += stream(options.seed, "defocus error").normal(0, options.defocus_error, (n, 1))
    defocus = ctf[:, 2:4].mean(axis=1)
    return replace(truth, given_rotations=rotations, given_shifts=shifts, given_defocus_angstrom=defocus), ctf


def noise_spectrum(options: SimulateOptions) -> np.ndarray:  # -> (D//2+1,)
    """Power of the noise by shell, with a mean of 1 over the plane, so that a pixel's variance is 1.

    Raises InputError for a file that is no table of frequencies and powers.
    """
    box = options.box
    frequency = np.arange(box // 2 + 1) / (box * options.apix)  # 1/A
    if options.noise == "white":
        power = np.ones_like(frequency)
    elif options.noise == "coloured":
        power = 1 + COLOURED_EXCESS * np.exp(-frequency / COLOURED_FALL)
    else:
        given = read_spectrum(Path(options.noise).expanduser())
        power = np.interp(frequency, *given)
    places = shells(box, "cpu").numpy()
    weight = np.broadcast_to(half_plane_weight(box).numpy(), places.shape)
    return (power / np.average(power[places], weights=weight)).astype(np.float32)


def read_spectrum(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (n,) (1/A, rising) and relative powers (n,) from two columns of text.

    Raises InputError for another table, negative powers, or frequencies that do not rise.
    """
    table = read_rows(path, "option noise", "Give white, coloured or a table of the noise's power.")
    if table.shape[1] != 2 or not np.isfinite(table).all() or (table[:, 1] < 0).any() or not table[:, 1].any():
        raise InputError("option noise", "must hold two columns: frequency (1/A), power", path, "Mend the table.")
    if (np.diff(table[:, 0]) <= 0).any():
        raise InputError("option noise", "must list rising frequencies", path, "Sort the rows.")
    return table[:, 0], table[:, 1]


def add_background(
    images: torch.Tensor, power: np.ndarray, gradient: float, generator: torch.Generator
) -> torch.Tensor:  # (B, D, D), (D//2+1,) -> (B, D, D)
    """Images with noise of the power spectrum ``power`` and, in each, a linear ramp of random slope.

    The ramp's rise from centre to edge has the standard deviation ``gradient`` in x and in y.
    """
    count, box = len(images), images.shape[-1]
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    if np.ptp(power):
        shape = torch.as_tensor(power, device=images.device).sqrt()[shells(box, images.device)]
        noise = torch.fft.irfft2(torch.fft.rfft2(noise) * shape, s=(box, box))
    if gradient:
        axis = (torch.arange(box, device=images.device) - box // 2) / (box / 2)
        slope = gradient * torch.randn(count, 2, generator=generator, device=images.device)
        noise = noise + slope[:, :1, None] * axis + slope[:, 1:, None] * axis[:, None]
    return images + noise
