"""A particles file with corrected poses and defocus: everything else stays as it was, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaussianem_core.imaging.pose import angles_from_rotations
from gaussianem_core.io.particle_rows import write_star_rows
from gaussianem_core.io.particle_table import column_names, read_particles

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS_ANGSTROM, ORIGINS_PIXELS = ("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV")


def write_corrected_star(
    source: Path,
    target: Path,
    rows: np.ndarray | None,
    rotations: np.ndarray | None,
    shift_angstrom: np.ndarray | None,
    defocus_angstrom: np.ndarray | None,
) -> int:
    """Copy a STAR file with other angles, origins and defocus values; returns the number of rows written.

    Raises InputError where :func:`read_particles` or :func:`write_star_rows` does.

    Parameters
    ----------
    rows : (n,) numbers of the rows to keep, None for all; the arrays have a row for each of the n.
    rotations : (n, 3, 3) the poses, None to keep the file's angles.
    shift_angstrom : (n, 2) Angstrom, added to the origins, which stay in the file's unit; None keeps them.
    defocus_angstrom : (n,) Angstrom, added to both defocus values; None keeps them.
    """
    names, table = column_names(source), read_particles(source, find_stacks=False)
    kept = np.arange(len(table)) if rows is None else rows
    columns: dict[str, np.ndarray] = {}

    def renew(name: str, values: np.ndarray, given: np.ndarray) -> None:
        whole = np.array(given, dtype=np.float64)
        whole[kept] = values
        columns[name] = np.round(whole, 6)

    if rotations is not None:
        for i, (name, values) in enumerate(zip(ANGLES, angles_from_rotations(rotations).T)):
            renew(name, values, table.angles_deg[:, i])
    if shift_angstrom is not None:
        found = [pair for pair in (ORIGINS_ANGSTROM, ORIGINS_PIXELS) if all(name in names for name in pair)]
        for pair in found or [ORIGINS_ANGSTROM]:
            unit = table.pixel_size_angstrom if pair == ORIGINS_PIXELS else np.ones(len(table))
            for i, name in enumerate(pair):
                given = table.shifts_angstrom[:, i]
                renew(name, (given[kept] + shift_angstrom[:, i]) / unit[kept], given / unit)
    if defocus_angstrom is not None:
        for name, given in zip(DEFOCUS, (table.defocus_u_angstrom, table.defocus_v_angstrom)):
            renew(name, given[kept] + defocus_angstrom, given)
    return write_star_rows(source, target, rows, columns, renew=True)
