"""RELION's particle tables, versions 2 to 5, read into plain columns.

Where the versions differ (Zivanov et al., IUCrJ 7, 253 (2020) introduced optics groups with 3.1):

- CTF constants stand in the particle rows or in ``data_optics``; a value in the row wins, as in RELION.
- Pixel size: rlnImagePixelSize of the optics group, else of the row; else rlnDetectorPixelSize (um) x 10000 /
  rlnMagnification; else rlnDetectorPixelSize alone, taken in Angstrom; else rlnPixelSize.
- Origins: rlnOriginXAngst, else rlnOriginX in pixels, else 0 as in RELION.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import Aberrations
from gaussianem_core.io.aberration_columns import RELION_NUMBERS, ZERNIKE, relion_aberrations
from gaussianem_core.io.columns import check_star_columns
from gaussianem_core.io.star import (
    StarTable,
    find_optics_table,
    find_particle_table,
    read_columns,
    scan_star,
)
from gaussianem_core.io.star_kinds import name_kind, refuse_tomography
from gaussianem_core.io.tilt_series import read_tilt_particles
from gaussianem_core.ranges import refuse_rows

Numbers = npt.NDArray[np.float64]
Texts = tuple[list[str], npt.NDArray[np.int32]]

POSE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
GIVEN_OPTIONS = {
    "voltage": "rlnVoltage",
    "cs": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
"""Options that stand in for columns which a file lacks."""

RELION_NAMES = {
    "voltage_kv": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
CTF_COLUMNS = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
)
_OPTICS_NUMBERS = (
    *CTF_COLUMNS[3:],
    "rlnOpticsGroup",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnPhaseShift",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
    *RELION_NUMBERS,
)
_PARTICLE_NUMBERS = (
    *_OPTICS_NUMBERS,
    *POSE_COLUMNS,
    *CTF_COLUMNS[:3],
    "rlnOriginX",
    "rlnOriginY",
    "rlnOriginXAngst",
    "rlnOriginYAngst",
    "rlnRandomSubset",
    "rlnPixelSize",
)
_ALONE = ("rlnImagePixelSize", "rlnImageSize", *RELION_NUMBERS)
"""What RELION takes from the optics group alone; CTF constants from the row first."""

_NOTHING: Mapping[str, float] = {}


def read_relion(
    path: str | os.PathLike[str], require_pose: bool, require_ctf: bool, given: Mapping[str, float] = _NOTHING
) -> tuple[dict[str, Numbers], Texts, Texts | None, Aberrations, tuple[str, ...]]:
    """Read a RELION particle file; ``given`` holds columns of a ``ParticleTable`` that it may lack.

    Returns
    -------
    columns : name of a ``ParticleTable`` column -> (N,) or (N, k); absent where the file has no such thing. Shifts
        stand under ``shifts_angstrom`` or, where the file gives pixels, ``shifts_pixels``.
    stacks, micrographs : unique names and each row's index (N,) into them; micrographs None without.
    aberrations : of the N particles. notes : sentences for the user.

    Raises
    ------
    InputError : missing columns (all named), columns that are not supported, faulty optics groups, malformed rows.
    """
    tables = scan_star(path)
    refuse_tomography(tables)
    particles, optics = find_particle_table(tables, name_kind(tables)), find_optics_table(tables)
    texts = [name for name in ("rlnMicrographName", *ZERNIKE) if name in particles]
    known = list(dict.fromkeys(name for name in _PARTICLE_NUMBERS if name in particles))
    _require(particles, optics, require_pose, require_ctf, given)
    numbers, names = read_columns(particles, known, texts, ["rlnImageName"])
    if optics is not None:
        numbers, more = _with_optics(numbers, particles, optics)
        names.update(more)
    for name, value in given.items():
        numbers.setdefault(RELION_NAMES[name], np.full(particles.n_rows, float(value)))
    _refuse_subtomograms(path, numbers)
    notes = check_star_columns([particles, *([optics] if optics else [])])
    aberrations, more_notes = relion_aberrations(path, numbers, names, particles.n_rows)
    notes += more_notes
    return _columns(numbers, particles), names["rlnImageName"], names.get("rlnMicrographName"), aberrations, notes


def _refuse_subtomograms(path: str | os.PathLike[str], numbers: Mapping[str, Numbers]) -> None:
    if (numbers.get("rlnImageDimensionality", np.array(2.0)) == 3).any():
        rule, remedy = "must hold 2D images (rlnImageDimensionality 2)", "Extract 2D images, or 2D stacks in RELION 5."
        raise InputError(str(path), rule, "3D subtomograms", remedy)


def read_relion_tilts(
    path: str | os.PathLike[str], tomograms: Path, project: str | os.PathLike[str] | None
) -> tuple[dict[str, Numbers], Texts, Texts, Aberrations, tuple[str, ...]]:
    """Read the images of RELION 5's tilt series, those of each particle in ``path`` one after the other.

    Returns what :func:`read_relion` does, with an entry for each image, and in ``columns`` also ``particle``, ``frame``
    and ``frames`` (see ``tilt_series``). Raises InputError as that and :func:`read_tilt_particles`.
    """
    tables = scan_star(path)
    refuse_tomography(tables)
    numbers, names, particles = read_tilt_particles(Path(path), tomograms, project)
    optics = find_optics_table(tables)
    if optics is None:
        raise InputError(str(path), "must have the table of optics groups", "no data_optics", "Export it again.")
    notes = check_star_columns([particles, optics], tilts=True)
    constants = {name: numbers[name] for name in RELION_NAMES.values()}
    numbers, more = _with_optics(numbers, particles, optics)
    numbers |= constants  # the tomogram's, as in RELION
    _refuse_subtomograms(path, numbers)
    # What multiplied by the CTF multiplied by dose and scale too.
    numbers["weighted"] = (numbers.get("rlnCtfDataAreCtfPremultiplied", np.zeros(1)) == 1).astype(np.float64)
    count = len(numbers["particle"])
    numbers["weighted"] = np.broadcast_to(numbers["weighted"], count)
    aberrations, more_notes = relion_aberrations(path, numbers, {**names, **more}, count)
    columns = _columns(numbers, particles) | {name: numbers[name] for name in ("particle", "frame", "frames")}
    return columns, names["rlnImageName"], names["rlnMicrographName"], aberrations, notes + more_notes


def read_alignments(path: str | os.PathLike[str], require_ctf: bool = True) -> dict[str, Numbers]:
    """Angles and CTFs of a RELION particle file, which need not name any images.

    Returns the columns of :func:`read_relion`, among them ``angles_deg`` (N, 3). Raises InputError for missing columns
    (all named), faulty optics groups, malformed rows.
    """
    tables = scan_star(path)
    particles = next((table for table in tables if POSE_COLUMNS[0] in table), None) or find_particle_table(tables)
    optics = find_optics_table(tables)
    _require(particles, optics, True, require_ctf, ())
    numbers, _ = read_columns(particles, list(dict.fromkeys(name for name in _PARTICLE_NUMBERS if name in particles)))
    return _columns(numbers if optics is None else _with_optics(numbers, particles, optics)[0], particles)


def _require(
    particles: StarTable, optics: StarTable | None, require_pose: bool, require_ctf: bool, given: Collection[str]
) -> None:
    groups = [("poses", POSE_COLUMNS, require_pose), ("the CTF", CTF_COLUMNS, require_ctf)]
    known = {*particles.columns, *(optics.columns if optics else ()), *(RELION_NAMES[name] for name in given)}
    for what, needed, required in groups:
        missing = [name for name in needed if name not in known]
        if missing and required:
            raise InputError(
                f"{particles.path}, table data_{particles.name}",
                f"must have the columns of {what}",
                f"no {', '.join(missing)}",
                _source_of(missing),
            )
    for pair in (("rlnOriginX", "rlnOriginY"), ("rlnOriginXAngst", "rlnOriginYAngst")):
        present = [name for name in pair if name in particles]
        if len(present) == 1 and require_pose:
            raise InputError(
                f"{particles.path}, table data_{particles.name}",
                f"must have both or neither of {' and '.join(pair)}",
                f"only {present[0]}",
                "Add the missing column.",
            )


def _source_of(missing: Sequence[str]) -> str:
    """Where missing columns come from."""
    options = [f"--{option}" for option, name in GIVEN_OPTIONS.items() if name in missing]
    rest = [name for name in missing if name not in GIVEN_OPTIONS.values()]
    if any(name in POSE_COLUMNS for name in rest):
        return "These particles have no orientations yet: refine them in 3D, and give what that writes."
    if rest:
        return "Estimate the CTF of the micrographs, extract the particles again and refine them."
    return f"Give {' and '.join(options)}."


def _with_optics(
    numbers: dict[str, Numbers], particles: StarTable, optics: StarTable
) -> tuple[dict[str, Numbers], dict[str, Texts]]:
    """Spread each optics group's constants, and lists of coefficients, over its particles."""
    where = f"{optics.path}, table data_optics"
    known = [name for name in dict.fromkeys(_OPTICS_NUMBERS) if name in optics]
    groups, lists = read_columns(optics, known, [name for name in ZERNIKE if name in optics])
    if "rlnOpticsGroup" not in groups:
        raise InputError(where, "must have the column rlnOpticsGroup", "none", "Add it.")
    ids = groups["rlnOpticsGroup"]
    if not len(ids):
        raise InputError(where, "must hold at least one optics group", "0 rows", "Add the group's row.")
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            where,
            "must list each optics group once",
            f"group {unique[counts > 1][0]:g} {counts.max()} times",
            "Remove or renumber the repeated groups.",
        )
    if "rlnOpticsGroup" in numbers:
        of_row = numbers["rlnOpticsGroup"]
    elif len(ids) == 1:
        of_row = np.full(len(next(iter(numbers.values()), np.zeros(particles.n_rows))), ids[0])
    else:
        raise InputError(
            f"{particles.path}, table data_{particles.name}",
            f"must have the column rlnOpticsGroup, as there are {len(ids)} optics groups",
            "none",
            "Add the column.",
        )
    order = np.argsort(ids)
    place = order[np.minimum(np.searchsorted(ids, of_row, sorter=order), len(ids) - 1)]
    refuse_rows(
        ids[place] != of_row,
        particles.path,
        "rlnOpticsGroup",
        f"must be one of the groups in data_optics ({', '.join(f'{i:g}' for i in unique)})",
        of_row,
        "Add the group to data_optics.",
    )
    spread = {name: values[place] for name, values in groups.items()}
    first: dict[str, Numbers] = {name: spread[name] for name in _ALONE if name in spread}
    texts = {name: (strings, index[place]) for name, (strings, index) in lists.items()}
    return {**spread, **numbers, **first, "rlnOpticsGroup": of_row}, texts


def _columns(numbers: Mapping[str, Numbers], particles: StarTable) -> dict[str, Numbers]:
    """Rename RELION's columns and work out pixel sizes and shifts."""
    names = {
        "rlnDefocusU": "defocus_u_angstrom",
        "rlnDefocusV": "defocus_v_angstrom",
        "rlnDefocusAngle": "defocus_angle_deg",
        "rlnVoltage": "voltage_kv",
        "rlnSphericalAberration": "cs_mm",
        "rlnAmplitudeContrast": "amplitude_contrast",
        "rlnPhaseShift": "phase_shift_deg",
        "rlnOpticsGroup": "optics_group",
        "rlnRandomSubset": "random_subset",
        "rlnImageSize": "box_size",
    }
    columns = {ours: numbers[theirs] for theirs, ours in names.items() if theirs in numbers}
    if "rlnImageName" in numbers:
        columns["unnumbered"] = np.isnan(numbers["rlnImageName"]).astype(np.float64)
        columns["image_index"] = np.nan_to_num(numbers["rlnImageName"], nan=1.0) - 1
        refuse_rows(
            ~(columns["image_index"] >= 0),
            particles.path,
            "rlnImageName",
            "must number images from 1",
            columns["image_index"] + 1,
            "Write the row's image as number@stack.",
        )
    if all(name in numbers for name in POSE_COLUMNS):
        columns["angles_deg"] = np.stack([numbers[name] for name in POSE_COLUMNS], axis=-1)
    pixel_size = _pixel_size(numbers)
    if pixel_size is not None:
        columns["pixel_size_angstrom"] = pixel_size
    for name, pair in (
        ("shifts_angstrom", ("rlnOriginXAngst", "rlnOriginYAngst")),
        ("shifts_pixels", ("rlnOriginX", "rlnOriginY")),
    ):
        if all(axis in numbers for axis in pair):
            columns[name] = np.stack([numbers[axis] for axis in pair], axis=-1)
            break
    return columns


def _pixel_size(numbers: Mapping[str, Numbers]) -> Numbers | None:
    if "rlnImagePixelSize" in numbers:
        return numbers["rlnImagePixelSize"]
    if "rlnDetectorPixelSize" in numbers:
        if "rlnMagnification" in numbers:
            with np.errstate(divide="ignore", invalid="ignore"):  # refused as not positive or not finite
                return numbers["rlnDetectorPixelSize"] * 1e4 / numbers["rlnMagnification"]
        return numbers["rlnDetectorPixelSize"]
    return numbers.get("rlnPixelSize")
