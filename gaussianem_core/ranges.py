"""Ranges of the values of microscope, image and pose: one table for every file that holds them, and for the options.

A value outside is a mistake of units (volts for kilovolts, per cent for a share, micrometres for Angstrom) or of a
damaged file; computed with, it turns into NaN, for which every later comparison is false. So each reader calls
:func:`refuse_outside` once, where the value enters. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included, in ``unit``; ``remedy``: what to do about a value outside."""

    low: float
    high: float
    unit: str
    remedy: str

    @property
    def rule(self) -> str:
        """The range as a clause for a message ("must be a finite number from ...")."""
        kind = "positive" if self.low > 0 else "finite"
        return (
            f"must be a {kind} number from {self.low:,.10g} to {self.high:,.10g}{f' {self.unit}' if self.unit else ''}"
        )


_EXTRACT = "Repair it, or extract the particles again."
_REFINE = "Remove the rows, or refine again."
_CTF = "Remove the rows, or estimate the CTF again; defocus is in Angstrom (15000 for 1.5 micrometres)."

RANGES = {
    "box": Range(8, 16384, "px", _EXTRACT),
    "image number": Range(1, 2**31, "", "Write the row's image as number@stack, counted from 1."),
    # Scanning and light microscopes see less; crystals of materials are sampled at 0.1 A.
    "pixel size": Range(0.05, 200, "A", "Give it in Angstrom, with --apix or in the optics table."),
    "voltage": Range(10, 1500, "kV", "Give it in kilovolts: 300, not 300000."),
    # Correctors bring it to 0 and a little below.
    "spherical aberration": Range(-1, 20, "mm", "Give it in millimetres: 2.7, not 2700."),
    "amplitude contrast": Range(0, 1, "", "Give a share: 0.1, not 10 per cent."),
    "defocus U": Range(-100_000, 500_000, "A", _CTF),
    "defocus V": Range(-100_000, 500_000, "A", _CTF),
    "defocus angle": Range(-3600, 3600, "degrees", _CTF),
    "phase shift": Range(-360, 360, "degrees", "Give it in degrees, 0 without a phase plate."),
    "B-factor": Range(-10_000, 10_000, "A^2", _CTF),
    "CTF scale": Range(-1000, 1000, "", _CTF),
    "angle": Range(-3600, 3600, "degrees", _REFINE),
    "rotation vector": Range(-100, 100, "radians", "Export the particles again, with alignments3D/pose in radians."),
    # Farther out the particle lies outside its image; readers that know the box ask for less.
    "shift": Range(-16384, 16384, "px", "Remove the rows, or refine again; shifts are in pixels of the images."),
    "group number": Range(-(2**31), 2**31, "", "Number the groups 1, 2, 3, ..."),
    "coordinate": Range(-1e7, 1e7, "", "Remove the rows, or export the particles again."),
    "dose": Range(0, 10_000, "e/A^2", "Give the electrons per square Angstrom before each image."),
    "tomogram size": Range(1, 1_000_000, "px", "Reconstruct the tomograms again."),
    "hand": Range(-1, 1, "", "Give 1 or -1: which way the defocus changes with the tilt."),
    "defocus slope": Range(-100, 100, "", "Estimate the CTF again."),
    "std": Range(1e-20, 1e20, "", "Run preprocess again."),
    "width": Range(1e-6, 1, "of the box", "Use the cfg.json that preprocess wrote."),
    "origin": Range(-1e7, 1e7, "A", "Use the cfg.json that preprocess wrote."),
}
TINY_DEFOCUS = 20.0
"""Angstrom: images whose median defocus is less, but not 0, have it in micrometres."""
ROTATION_TOLERANCE = 1e-2
"""Entries of A A^T may differ from the identity by this: matrices are written with 3 digits and more."""


def refuse_outside(name: str, values: npt.ArrayLike, source: object, column: str = "") -> None:
    """Raise InputError if one of ``values`` (N,) or (N, k) lies outside RANGES[name], naming the first rows from 1.

    ``source``: the file; ``column``: what the value is called there. NaN lies outside.
    """
    allowed, numbers = RANGES[name], np.asarray(values)
    numbers = numbers.reshape(len(numbers), -1) if numbers.size else np.zeros((0, 1))
    outside = ~((numbers >= allowed.low) & (numbers <= allowed.high))
    worst = numbers[np.arange(len(numbers)), outside.argmax(axis=1)]
    refuse_rows(outside.any(axis=1), source, column or name, allowed.rule, worst, allowed.remedy)


def refuse_rows(
    bad: npt.ArrayLike, source: object, column: str, rule: str, values: Sequence[Any] | npt.NDArray[Any], remedy: str
) -> None:
    """Raise InputError naming the column and the first bad rows, counted from 1; do nothing if there are none."""
    rows = np.flatnonzero(bad)
    if len(rows):
        shown = ", ".join(str(row + 1) for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        value = values[rows[0]]
        found = f"{value:.10g}" if isinstance(value, float | np.floating) else str(value)
        raise InputError(f"{source}, column {column}", rule, f"{found} in row{'s' * (len(rows) > 1)} {shown}", remedy)


def refuse_defocus_in_micrometres(defocus_angstrom: npt.ArrayLike, source: object, column: str) -> None:
    """Raise InputError if the defocus (N,) of most images is too small to be in Angstrom; 0 stands for no CTF."""
    size = np.abs(np.asarray(defocus_angstrom, np.float64))
    told = size[size > 0]
    if len(told) and np.median(told) < TINY_DEFOCUS:
        raise InputError(
            f"{source}, column {column}",
            "must be in Angstrom",
            f"a median of {np.median(told):.4g}",
            "Multiply micrometres by 10,000 and nanometres by 10.",
        )


def refuse_improper(rotations: npt.NDArray[np.floating], source: object) -> None:  # (N, 3, 3)
    """Raise InputError for matrices that are no rotations: not orthogonal, or mirrored (determinant -1)."""
    a = np.asarray(rotations, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(a @ a.swapaxes(-1, -2) - np.eye(3)).max(axis=(1, 2))
        # a rotation's third row is the cross product of the first two; a mirrored one's is its negative
        handedness = np.einsum("ni,ni->n", np.cross(a[:, 0], a[:, 1]), a[:, 2])
    refuse_rows(
        ~(error <= ROTATION_TOLERANCE),
        source,
        "rotation",
        "must be an orthogonal matrix (A times its transpose is the identity)",
        error,
        "The number is how far it is from that. Run preprocess again.",
    )
    refuse_rows(
        ~(handedness > 0),
        source,
        "rotation",
        "must turn and not mirror (a determinant of +1)",
        handedness,
        "Change the handedness in the refinement, not in the matrices; then run preprocess again.",
    )
