"""Tilt series of RELION 5 and of what writes its files (WarpTools, M), read into a row for each image of each particle.

An ``optimisation_set.star`` names the particles and the tomograms. A particle has one row: its stack of 2D images
(``rlnTomoSubTomosAre2DStacks``), its place in the tomogram, its orientation there, and which images of the series it
has (``rlnTomoVisibleFrames``). A tomogram has a row for each image of its series: how the specimen is projected
(``rlnTomoXTilt`` ... or the matrix ``rlnTomoProjX`` ... of RELION 4 and WarpTools), defocus at the tomogram's centre,
and the dose before the image. With P the projection's rotation, S that of the subtomogram (``rlnTomoSubtomogramRot``
...) and A the particle's, all as RELION has them (r_image = A r_volume):

    rotation of the image  = P S A
    origin in the image    = first two of P S o,           o = rlnOriginX/Y/ZAngst
    place in the tomogram  = x = c - S o / pixel,          c = rlnCenteredCoordinateX/Y/ZAngst / pixel + centre
    defocus of the image   = defocus + hand * slope * pixel * (P (x - centre))_z

Images that were multiplied by their CTF were multiplied by the weight of dose and scale too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import angles_from_rotations, rotations_from_angles
from gaussianem_core.io.star import StarTable, read_columns, scan_star
from gaussianem_core.ranges import refuse_improper, refuse_outside, refuse_rows
from gaussianem_core.runtime.readers import is_file

Numbers = npt.NDArray[np.float64]

SET = "optimisation_set.star"
SET_COLUMNS = ("rlnTomoParticlesFile", "rlnTomoTomogramsFile")
MATRIX = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
TILTS = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
CENTERED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
ORIGINS = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
SIZES = tuple(f"rlnTomoSize{axis}" for axis in "XYZ")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
OTHER = ("rlnCtfScalefactor", "rlnPhaseShift", "rlnMicrographPreExposure")
DEFORMATIONS = ("rlnTomoDeformationGridSizeX", "rlnTomoDeformationCoefficients")
CONSTANTS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
TOMOGRAM = (*SIZES, *CONSTANTS, "rlnTomoTiltSeriesPixelSize", "rlnTomoHand")
VISIBLE = "rlnTomoVisibleFrames"
TOMOGRAM_RANGES = {
    "tomogram size": SIZES,
    "pixel size": ("rlnTomoTiltSeriesPixelSize",),
    "hand": ("rlnTomoHand",),
    "defocus slope": ("rlnTomoDefocusSlope",),
    "B-factor": ("rlnCtfBfactorPerElectronDose",),
}
IMAGE_RANGES = {
    "angle": TILTS,
    "defocus U": DEFOCUS[:1],
    "defocus V": DEFOCUS[1:2],
    "defocus angle": DEFOCUS[2:],
    "CTF scale": OTHER[:1],
    "phase shift": OTHER[1:2],
    "dose": OTHER[2:],
}
"""Columns by their names in ``ranges.RANGES``; the microscope's constants are checked as those of single particles."""


@dataclass(frozen=True)
class Series:
    """One tilt series of F images, and its tomogram.

    Attributes
    ----------
    projection : (F, 3, 3) P of the module's formulas.
    defocus : (F, 3) U, V in A, angle in degrees, at the tomogram's centre.
    scale : (F,) factor of the CTF. phase : (F,) phase shift in degrees. dose : (F,) e/A^2 before each image.
    centre : (3,) of the tomogram, in pixels of ``pixel`` A.
    hand, slope : sign and factor of the change of defocus along the beam.
    bfactor_per_dose : B-factor (A^2) of a dose of 1 e/A^2; 0 where damage follows the critical dose.
    constants : the microscope's, by RELION's column names.
    """

    projection: Numbers
    defocus: Numbers
    scale: Numbers
    phase: Numbers
    dose: Numbers
    centre: Numbers
    pixel: float
    hand: float
    slope: float
    bfactor_per_dose: float
    constants: Mapping[str, float]


def is_set(tables: tuple[StarTable, ...]) -> bool:
    """Whether a file is an optimisation set."""
    return any(SET_COLUMNS[0] in table for table in tables)


def holds_tilt_particles(tables: tuple[StarTable, ...]) -> bool:
    """Whether a file lists particles whose 2D images of a tilt series lie in stacks."""
    return any(VISIBLE in table for table in tables)


def files_of_set(path: Path, project: str | os.PathLike[str] | None) -> tuple[Path, Path]:
    """Particles and tomograms that the optimisation set ``path`` names. Raises InputError if one is not there."""
    table = next(table for table in scan_star(path) if SET_COLUMNS[0] in table)
    found = []
    for name in SET_COLUMNS:
        if name not in table or table.n_rows != 1:
            raise InputError(str(path), "must name one file of particles and one of tomograms", f"no {name}", "Add it.")
        value = read_columns(table, text=[name])[1][name][0][0]
        found.append(_resolved(value, path, project, name))
    return found[0], found[1]


def set_beside(particles: Path, project: str | os.PathLike[str] | None) -> Path:
    """The optimisation set in the particles' folder that names them. Raises InputError if there is none."""
    for path in sorted(particles.parent.glob(f"*{SET}")):
        tables = scan_star(path)
        if is_set(tables) and files_of_set(path, project)[0].resolve() == particles.resolve():
            return path
    raise InputError(
        f"{particles}, column {VISIBLE}",
        "must come with the geometry of its tilt series",
        f"no *{SET} beside it that names it",
        f"Give the {SET} that names these particles and their tomograms.",
    )


def _resolved(name: str, source: Path, project: str | os.PathLike[str] | None, what: str) -> Path:
    """A file that ``source`` names: from the project's folder, or beside ``source``."""
    places = [Path(project or "."), source.parent]
    if Path(name).name == name:  # a bare name is that of a neighbour first
        places.reverse()
    for folder in places:
        if is_file(folder / name):
            return folder / name
    beside = source.parent / Path(name).name
    if is_file(beside):
        return beside
    raise InputError(
        f"{source}, {what}", "must be a file of the project, or beside it", name, "Give the project's folder as -s."
    )


def read_tilt_particles(
    particles_path: Path, tomograms_path: Path, project: str | os.PathLike[str] | None
) -> tuple[dict[str, Numbers], dict[str, tuple[list[str], npt.NDArray[np.int32]]], StarTable]:
    """Columns of N images: the visible ones of each particle, in the order of its series.

    Returns
    -------
    numbers : RELION's columns as a single-particle file would have them (one value an image; ``rlnImageName`` the
        number in a stack that holds visible images alone), and ``particle`` (row of the particles file), ``frame``
        (number in the series, from 0), ``frames`` (their number) and ``dose``.
    texts : rlnImageName, rlnMicrographName (the tomogram).
    particles : the table of the particles file.

    Raises
    ------
    InputError : missing columns, tomograms that are not there, lists of frames of another length than the series,
        deformed projections.
    """
    tables = scan_star(particles_path)
    table = next((table for table in tables if VISIBLE in table), None)
    if table is None:
        rule = f"must say which images of its tilt series each particle has ({VISIBLE})"
        raise InputError(str(particles_path), rule, "no such column", f"Give the particles of the {SET}.")
    place = [names for names in (CENTERED, COORDINATES) if all(name in table for name in names)]
    needed = ("rlnTomoName", "rlnImageName", *ANGLES)
    missing = [name for name in needed if name not in table] + ([] if place else [CENTERED[0]])
    if missing:
        raise InputError(
            f"{particles_path}, table data_{table.name}",
            "must have names, places and orientations of the particles",
            f"no {', '.join(missing)}",
            "Refine the particles in RELION 5, or export them again.",
        )
    known = [
        name
        for name in (*SUBTOMOGRAM, *ANGLES, *place[0], *ORIGINS, "rlnOpticsGroup", "rlnRandomSubset")
        if name in table
    ]
    if not table.n_rows:
        raise InputError(
            f"{particles_path}, table data_{table.name}", "must list particles", "none", "Export it again."
        )
    values, names = read_columns(table, known, ["rlnTomoName", VISIBLE, "rlnImageName"])
    _refuse("angle", values, (*ANGLES, *SUBTOMOGRAM), particles_path)
    _refuse("coordinate", values, (*place[0], *ORIGINS), particles_path)
    series = read_series(tomograms_path, set(names["rlnTomoName"][0]), project)
    count = table.n_rows
    tomogram = np.array(names["rlnTomoName"][0])[names["rlnTomoName"][1]]
    visible = _visible(particles_path, names[VISIBLE], tomogram, series)
    sizes = np.array([len(frames) for frames in visible])
    refuse_rows(sizes == 0, particles_path, VISIBLE, "must leave each particle an image", sizes, "Remove it.")
    particle = np.repeat(np.arange(count), sizes)
    own = rotations_from_angles(np.stack([values[name] for name in ANGLES], axis=1))
    sub = np.broadcast_to(np.eye(3), (count, 3, 3))
    if all(name in values for name in SUBTOMOGRAM):
        sub = rotations_from_angles(np.stack([values[name] for name in SUBTOMOGRAM], axis=1))
    origin = np.stack([values.get(name, np.zeros(count)) for name in ORIGINS], axis=1)
    where = np.stack([values[name] for name in place[0]], axis=1)
    turned = np.einsum("nij,nj->ni", sub, origin)
    rows: dict[str, list[Numbers]] = {}
    for p in range(count):
        s, frames = series[tomogram[p]], visible[p]
        # From the tomogram's centre, in A.
        apart = (where[p] if place[0] == CENTERED else (where[p] - s.centre) * s.pixel) - turned[p]
        projection = s.projection[frames]
        depth = s.hand * s.slope * (projection @ apart)[:, 2]
        columns = {
            "rotation": projection @ sub[p] @ own[p],
            "origin": (projection @ turned[p])[:, :2],
            "rlnDefocusU": s.defocus[frames, 0] + depth,
            "rlnDefocusV": s.defocus[frames, 1] + depth,
            "rlnDefocusAngle": s.defocus[frames, 2],
            "rlnCtfScalefactor": s.scale[frames],
            "rlnPhaseShift": s.phase[frames],
            "frame": frames.astype(np.float64),
            "frames": np.full(len(frames), float(len(s.dose))),
            "rlnImageName": np.arange(1.0, len(frames) + 1),
            "dose": s.dose[frames] if not s.bfactor_per_dose else np.zeros(len(frames)),
            "rlnCtfBfactor": s.bfactor_per_dose * s.dose[frames],
            **{name: np.full(len(frames), value) for name, value in s.constants.items()},
        }
        for name, column in columns.items():
            rows.setdefault(name, []).append(column)
    numbers = {name: np.concatenate(parts) for name, parts in rows.items()}
    angles = angles_from_rotations(numbers.pop("rotation"))
    numbers |= dict(zip(ANGLES, angles.T)) | dict(zip(ORIGINS[:2], numbers.pop("origin").T))
    numbers |= {name: values[name][particle] for name in ("rlnOpticsGroup", "rlnRandomSubset") if name in values}
    numbers["particle"] = particle.astype(np.float64)
    texts = {
        "rlnImageName": (names["rlnImageName"][0], names["rlnImageName"][1][particle]),
        "rlnMicrographName": (names["rlnTomoName"][0], names["rlnTomoName"][1][particle]),
    }
    return numbers, texts, table


def _visible(
    path: Path,
    found: tuple[list[str], npt.NDArray[np.int32]],
    tomogram: npt.NDArray[np.str_],
    series: Mapping[str, Series],
) -> list[npt.NDArray[np.int64]]:
    """Numbers of the images that each particle has."""
    lists = []
    for text in found[0]:
        lists.append(_list(text).reshape(-1))
    lengths = np.array([len(values) for values in lists])[found[1]]
    expected = np.array([len(series[name].dose) for name in tomogram])
    refuse_rows(
        lengths != expected,
        path,
        VISIBLE,
        "must list a 0 or 1 for each image of the tilt series",
        [f"{a} values for {b} images" for a, b in zip(lengths, expected)],
        "The particles and the tomograms belong to different jobs: give those of one optimisation set.",
    )
    return [np.flatnonzero(lists[place] > 0) for place in found[1]]


# ---- tomograms ---------------------------------------------------------------------------------------------------


def read_series(path: Path, wanted: set[str], project: str | os.PathLike[str] | None) -> dict[str, Series]:
    """The ``wanted`` tilt series, by the name of their tomogram.

    Raises InputError for missing columns or tomograms, values out of range (see ``ranges``), matrices that are no
    rotations, and deformations.
    """
    tables = scan_star(path)
    general = next((table for table in tables if "rlnTomoName" in table), None)
    if general is None:
        raise InputError(str(path), "must be a list of tomograms", "no rlnTomoName", f"Give the file of the {SET}.")
    optional = ("rlnTomoDefocusSlope", "rlnCtfBfactorPerElectronDose")
    numeric = [name for name in (*TOMOGRAM, *optional) if name in general]
    if missing := [name for name in TOMOGRAM if name not in general]:
        raise InputError(
            f"{path}, table data_{general.name}",
            "must tell size, hand, pixel size and microscope of each tomogram",
            f"no {', '.join(missing)}",
            "Reconstruct the tomograms in RELION first, or export again.",
        )
    if DEFORMATIONS[0] in general:
        raise InputError(
            f"{path}, column {DEFORMATIONS[0]}",
            "must be absent: particles move in deformed images, which is not supported",
            "2D deformations",
            "Align the series without deformations.",
        )
    own_file = "rlnTomoTiltSeriesStarFile"
    values, names = read_columns(general, numeric, ["rlnTomoName", *([own_file] if own_file in general else [])])
    order = [names["rlnTomoName"][0][i] for i in names["rlnTomoName"][1]]
    if lacking := wanted - set(order):
        raise InputError(
            str(path), "must list the particles' tomograms", f"no {sorted(lacking)[0]}", f"Give those of one {SET}."
        )
    for kind, columns in TOMOGRAM_RANGES.items():
        _refuse(kind, values, columns, path)
    found = {}
    for row, name in enumerate(order):
        if name not in wanted:
            continue
        if own_file in names:
            source = _resolved(names[own_file][0][names[own_file][1][row]], path, project, own_file)
            # A series whose CTF is not estimated yet has its one table too: what it lacks is said of that.
            images = max(scan_star(source), key=lambda table: DEFOCUS[0] in table, default=None)
        else:
            source, images = path, next((table for table in tables if table.name == name), None)
        if images is None or not images.n_rows:
            rule = f"must hold the images of {name}"
            raise InputError(str(source), rule, "no such table", f"Give those of one {SET}.")
        found[name] = _series(images, {key: column[row] for key, column in values.items()})
    return found


def _series(images: StarTable, tomogram: Mapping[str, float]) -> Series:
    """The series of one tomogram from the table of its images and the tomogram's own values."""
    where = f"{images.path}, table data_{images.name}"
    matrices = all(name in images for name in MATRIX)
    geometry = MATRIX if matrices else TILTS
    missing = [name for name in (*geometry, *DEFOCUS, OTHER[2]) if name not in images and name != TILTS[0]]
    if missing:
        raise InputError(
            where,
            "must tell how each image is projected, its defocus and its dose",
            f"no {', '.join(missing)}",
            "Align the tilt series and estimate their CTF, and give the tomograms that this writes.",
        )
    numeric = [name for name in (*(() if matrices else TILTS), *DEFOCUS, *OTHER) if name in images]
    values, names = read_columns(images, numeric, MATRIX if matrices else ())
    for kind, columns in IMAGE_RANGES.items():
        _refuse(kind, values, columns, images.path)
    count = images.n_rows
    if matrices:
        projection = np.stack([_rows(where, name, *names[name]) for name in MATRIX], axis=1)
    else:
        angles = [np.deg2rad(values.get(name, np.zeros(count))) for name in TILTS]
        projection = _about(2, angles[2]) @ _about(1, angles[1]) @ _about(0, angles[0])
    refuse_improper(projection, where)
    return Series(
        projection,
        np.stack([values[name] for name in DEFOCUS], axis=1),
        values.get(OTHER[0], np.ones(count)),
        values.get(OTHER[1], np.zeros(count)),
        values[OTHER[2]],
        np.array([tomogram[name] for name in SIZES]) / 2,
        tomogram["rlnTomoTiltSeriesPixelSize"],
        tomogram["rlnTomoHand"],
        tomogram.get("rlnTomoDefocusSlope", 1.0),
        max(tomogram.get("rlnCtfBfactorPerElectronDose", 0.0), 0.0),
        {name: tomogram[name] for name in CONSTANTS},
    )


def _refuse(kind: str, values: Mapping[str, Numbers], columns: Sequence[str], source: Path) -> None:
    """Refuse values outside of their range in those of the ``columns`` that there are."""
    for name in columns:
        if name in values:
            refuse_outside(kind, values[name], source, name)


def _list(text: str) -> Numbers:
    """Numbers as RELION writes them, [a,b,...]; none if that is not what ``text`` is."""
    try:
        return np.array(json.loads(text), dtype=np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return np.zeros(0)


def _rows(where: str, name: str, texts: list[str], index: npt.NDArray[np.int32]) -> Numbers:  # -> (F, 3)
    """The first three of each row of a projection matrix, written as [a,b,c,d]."""
    rows = []
    for text in texts:
        row = _list(text)
        if row.shape != (4,) or not np.isfinite(row).all():
            raise InputError(f"{where}, column {name}", "must hold four numbers, as [1,0,0,0]", text[:60], "Mend it.")
        rows.append(row[:3])
    return np.array(rows)[index]


def _about(axis: int, angle: Numbers) -> Numbers:  # (F,) -> (F, 3, 3)
    """Right-handed rotations about an axis."""
    turn = np.broadcast_to(np.eye(3), (len(angle), 3, 3)).copy()
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn[:, a, a] = turn[:, b, b] = np.cos(angle)
    turn[:, b, a], turn[:, a, b] = np.sin(angle), -np.sin(angle)
    return turn
