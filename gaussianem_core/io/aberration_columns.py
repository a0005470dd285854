"""Aberrations, magnification and what was done to the images, from RELION's columns and cryoSPARC's fields."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import (
    FLOOR,
    Aberrations,
    State,
    beam_tilt_zernike,
    cryosparc_even_zernike,
    cryosparc_odd_zernike,
)
from gaussianem_core.ranges import refuse_outside, refuse_rows

Numbers = npt.NDArray[np.float64]
Texts = tuple[list[str], npt.NDArray[np.int32]]

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
ZERNIKE = ("rlnOddZernike", "rlnEvenZernike")
STATES = {
    "rlnCtfDataAreCtfCorrected": State.CORRECTED,
    "rlnCtfDataAreCtfPremultiplied": State.PREMULTIPLIED,
    "rlnCtfDataArePhaseFlipped": State.FLIPPED,
}
RELION_NUMBERS = (*MAGNIFICATION, *TILT, *STATES)
CRYOSPARC_FIELDS = ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")
MOST_TERMS = 30
"""Zernike coefficients at most: those up to degree 9."""

LARGEST_DISTORTION = 0.2
"""Of the entries of a magnification matrix from the identity; a matrix as near to 0 was written without it."""


def relion_aberrations(
    source: str | os.PathLike[str], numbers: Mapping[str, Numbers], texts: Mapping[str, Texts], n: int
) -> tuple[Aberrations, tuple[str, ...]]:
    """Aberrations of N particles from RELION's columns, and notes for the user.

    Parameters
    ----------
    numbers : RELION's columns, one value a particle, among them voltage and Cs where there is a beam tilt.
    texts : rlnOddZernike, rlnEvenZernike: unique texts and each particle's index into them.

    Raises
    ------
    InputError : malformed lists of coefficients, matrices farther than LARGEST_DISTORTION from the identity, beam tilts
        without voltage or spherical aberration, B-factors or scales outside of their range (see ``ranges``).
    """
    columns = [numbers[name] for name in (*RELION_NUMBERS, "rlnVoltage", "rlnSphericalAberration") if name in numbers]
    names = [name for name in (*RELION_NUMBERS, "rlnVoltage", "rlnSphericalAberration") if name in numbers]
    columns += [texts[name][1].astype(np.float64) for name in ZERNIKE if name in texts]
    names += [name for name in ZERNIKE if name in texts]
    if not any(name in names for name in (*RELION_NUMBERS, *ZERNIKE)):
        return _made(source, numbers, n), ()
    unique, group = _groups(np.stack(columns, axis=1))
    values = dict(zip(names, unique.T))
    size = len(unique)
    state = np.zeros(size, np.int8)
    for name, what in reversed(STATES.items()):
        state[values.get(name, np.zeros(size)) == 1] = what
    odd = _coefficients(source, "rlnOddZernike", texts, values, size)
    even = _coefficients(source, "rlnEvenZernike", texts, values, size)
    tilt = np.stack([np.nan_to_num(values.get(name, np.zeros(size))) for name in TILT], axis=1)
    if tilt.any():
        microscope = [values.get(name, np.full(size, np.nan)) for name in ("rlnSphericalAberration", "rlnVoltage")]
        if not np.isfinite(microscope).all():
            raise InputError(
                f"{source}, column rlnBeamTiltX",
                "needs the voltage and the spherical aberration",
                "a beam tilt without them",
                "Add rlnVoltage and rlnSphericalAberration to the optics table.",
            )
        odd = _sum(odd, beam_tilt_zernike(tilt, *microscope))
    notes: tuple[str, ...] = ()
    magnification = np.broadcast_to(np.eye(2), (size, 2, 2)).copy()
    if any(name in values for name in MAGNIFICATION):
        flat = np.stack([values.get(name, np.full(size, i in (0, 3))) for i, name in enumerate(MAGNIFICATION)], axis=1)
        magnification, notes = _matrices(source, "rlnMagMat00", flat.reshape(-1, 2, 2), group)
    return _made(source, numbers, n, group, magnification, odd, even, state), notes


def cryosparc_aberrations(
    source: str | os.PathLike[str], fields: Mapping[str, npt.NDArray[np.generic]], n: int
) -> tuple[Aberrations, tuple[str, ...]]:
    """Aberrations of N particles from cryoSPARC's ``fields``, (N,) or (N, k) each, and notes for the user.

    ``ctf/anisomag`` is the magnification matrix less the identity. Raises InputError where there are aberrations and no
    voltage, and for matrices and values as :func:`relion_aberrations`.
    """
    given = {name: np.nan_to_num(fields[name].astype(np.float64)) for name in CRYOSPARC_FIELDS if name in fields}
    numbers = {
        ours: fields[theirs].astype(np.float64)
        for ours, theirs in (("rlnCtfBfactor", "ctf/bfactor"), ("rlnCtfScalefactor", "ctf/scale"))
        if theirs in fields
    }
    if not any(values.any() for values in given.values()):
        return _made(source, numbers, n), ()
    sizes = {"ctf/tetra_A": 4, "ctf/anisomag": 4}
    given = {name: given.get(name, np.zeros((n, sizes.get(name, 2)))) for name in CRYOSPARC_FIELDS}
    if "ctf/accel_kv" not in fields:
        raise InputError(str(source), "must tell the voltage", "aberrations without ctf/accel_kv", "Give --voltage.")
    columns = [fields["ctf/accel_kv"].astype(np.float64)[:, None], *given.values()]
    unique, group = _groups(np.concatenate(columns, axis=1))
    voltage, shift, tilt, trefoil, tetra, distortion = np.split(unique, np.cumsum([1, 2, 2, 2, 4]), axis=1)
    odd = cryosparc_odd_zernike(shift, tilt, trefoil, voltage[:, 0])
    even = cryosparc_even_zernike(tetra, voltage[:, 0])
    magnification, notes = _matrices(source, "ctf/anisomag", np.eye(2) + distortion.reshape(-1, 2, 2), group)
    return _made(source, numbers, n, group, magnification, odd, even), notes


def _groups(rows: Numbers) -> tuple[Numbers, npt.NDArray[np.int32]]:  # (N, K) -> (G, K), (N,)
    if len(rows) and (rows == rows[0]).all():  # as most are, and sorting a million rows takes seconds
        return rows[:1].copy(), np.zeros(len(rows), np.int32)
    unique, group = np.unique(rows, axis=0, return_inverse=True, equal_nan=False)
    return unique, group.reshape(-1).astype(np.int32)


def _made(
    source: str | os.PathLike[str],
    numbers: Mapping[str, Numbers],
    n: int,
    group: npt.NDArray[np.int32] | None = None,
    magnification: Numbers | None = None,
    odd: Numbers | None = None,
    even: Numbers | None = None,
    state: npt.NDArray[np.int8] | None = None,
) -> Aberrations:
    none = Aberrations.none(n)
    bfactor = numbers.get("rlnCtfBfactor", none.bfactor_angstrom2)
    scale = numbers.get("rlnCtfScalefactor", none.scale)
    refuse_outside("B-factor", bfactor, source)
    refuse_outside("CTF scale", scale, source)
    size = 1 if magnification is None else len(magnification)
    state = np.zeros(size, np.int8) if state is None else state
    return Aberrations(
        none.group if group is None else group,
        none.magnification if magnification is None else magnification,
        np.zeros((size, 0)) if odd is None else odd,
        np.zeros((size, 0)) if even is None else even,
        state,
        # WarpTools writes what a dose blurs as a negative B-factor.
        np.abs(bfactor),
        scale,
        np.where(state == State.PREMULTIPLIED, FLOOR, 0.0),
        np.broadcast_to(numbers.get("dose", none.dose), n),
        np.broadcast_to(numbers.get("weighted", none.weighted), n),
    )


def _coefficients(
    source: str | os.PathLike[str], name: str, texts: Mapping[str, Texts], values: Mapping[str, Numbers], size: int
) -> Numbers:  # -> (G, T)
    """Zernike coefficients of each group from RELION's lists, ``[0.1,0.2,...]``."""
    if name not in texts:
        return np.zeros((size, 0))
    lists = [_parsed(source, name, text) for text in texts[name][0]]
    table = np.zeros((len(lists), max(map(len, lists), default=0)))
    for row, numbers in zip(table, lists):
        row[: len(numbers)] = numbers
    return table[values[name].astype(int)]


def _parsed(source: str | os.PathLike[str], name: str, text: str) -> list[float]:
    inside = text.strip().removeprefix("[").removesuffix("]")
    try:
        numbers = [float(word) for word in inside.replace(",", " ").split()] if text not in ("None", "none", "") else []
    except ValueError:
        numbers = [np.nan]
    if not np.isfinite(numbers).all() or len(numbers) > MOST_TERMS:
        raise InputError(
            f"{source}, column {name}",
            f"must be a list of at most {MOST_TERMS} numbers, as [0.1,0.2]",
            text[:80],
            "Mend it, or remove the column to leave these aberrations out.",
        )
    return numbers


def _sum(first: Numbers, second: Numbers) -> Numbers:
    total = np.zeros((len(first), max(first.shape[1], second.shape[1])))
    total[:, : first.shape[1]] += first
    total[:, : second.shape[1]] += second
    return total


def _matrices(
    source: str | os.PathLike[str], name: str, matrices: Numbers, group: npt.NDArray[np.int32]
) -> tuple[Numbers, tuple[str, ...]]:
    """Magnification matrices that are some; one that lacks the identity gets it."""
    matrices = matrices.copy()
    notes: tuple[str, ...] = ()
    bare = np.abs(matrices).max(axis=(1, 2)) < LARGEST_DISTORTION
    if bare.any():
        matrices[bare] += np.eye(2)
        if (matrices[bare] != np.eye(2)).any():
            notes = (f"{name}: the magnification matrix lacks the identity, as converters leave it: added",)
    far = ~(np.abs(matrices - np.eye(2)).max(axis=(1, 2)) <= LARGEST_DISTORTION)
    refuse_rows(
        far[group],
        source,
        name,
        f"must be a magnification matrix, within {LARGEST_DISTORTION} of the identity",
        np.array([str(matrix.round(4).tolist()) for matrix in matrices])[group],
        "Estimate the magnification again, or remove the matrix to leave it out.",
    )
    return matrices, notes
