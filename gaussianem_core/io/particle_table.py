"""Particle files of RELION (.star) and cryoSPARC (.cs) as one table, and back again.

Everything is in Angstrom and degrees with RELION's meaning; rows stay in the order of the file, so that row i here is
particle i of the source, and a selection can be written back as the source's own rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import Aberrations
from gaussianem_core.imaging.pose import angles_from_rotations, rotations_from_angles
from gaussianem_core.imaging.symmetry import symmetry_mates
from gaussianem_core.io.cryosparc import load_cs, read_cryosparc
from gaussianem_core.io.image_rows import Numbers, count_in_order, first_rows, number_images, rows_of_particles
from gaussianem_core.io.mrc import MrcHeader, read_header
from gaussianem_core.io.particle_rows import (
    selection_mask,
    write_cs_rows,
    write_star,
    write_star_copies,
    write_star_rows,
)
from gaussianem_core.io.relion import POSE_COLUMNS, read_relion, read_relion_tilts
from gaussianem_core.io.result_group import particle_files
from gaussianem_core.io.stack_paths import resolve_stacks
from gaussianem_core.io.star import find_particle_table, quote, read_column, scan_star
from gaussianem_core.io.tilt_series import SET, SET_COLUMNS, files_of_set, holds_tilt_particles, is_set, set_beside
from gaussianem_core.options import GroupBy
from gaussianem_core.ranges import RANGES, refuse_defocus_in_micrometres, refuse_outside, refuse_rows
from gaussianem_core.runtime.files import write_atomically

__all__ = [
    "ParticleTable",
    "column_names",
    "read_particle_column",
    "read_particles",
    "selection_mask",
    "table_to_star",
    "write_cs_subset",
    "write_particles_star",
    "write_star",
    "write_star_subset",
]

Floats = npt.NDArray[np.float64]
DOSE = "rlnMicrographPreExposure"
"""Dose before an image, in files whose rows are grouped and have no B-factor for it."""

SAME_POSE = 1e-3  # largest difference of entries of rotation matrices that are one pose
MOST_TILTS = 300
"""Images of one particle at most: tilt series have up to 120 or so."""

_HEADER_THREADS = 8  # headers of many stacks on a network disk wait for the disk, not for the processor
_DEFAULTS = {
    "defocus_u_angstrom": np.nan,
    "defocus_v_angstrom": np.nan,
    "defocus_angle_deg": np.nan,
    "voltage_kv": np.nan,
    "cs_mm": np.nan,
    "amplitude_contrast": np.nan,
    "phase_shift_deg": 0.0,
}

_CTF_RANGES = {
    "defocus_u_angstrom": "defocus U",
    "defocus_v_angstrom": "defocus V",
    "defocus_angle_deg": "defocus angle",
    "voltage_kv": "voltage",
    "cs_mm": "spherical aberration",
    "amplitude_contrast": "amplitude contrast",
    "phase_shift_deg": "phase shift",
}
"""Columns of the CTF and their names in ``ranges.RANGES``."""


@dataclass(frozen=True)
class ParticleTable:
    """N images in the order of their file: each a particle, or several a particle in tilt series.

    Attributes
    ----------
    source : the .star or .cs file.
    stacks : files of images (as written in the source when they were not looked for).
    stack_names : the same as the source writes them.
    stack_index, image_index : (N,) which stack, which image in it (from 0).
    pixel_size_angstrom, box_size : (N,) of the images; NaN and 0 where nothing tells.
    angles_deg : (N, 3) rot, tilt, psi (RELION's ZYZ); NaN without poses.
    shifts_angstrom : (N, 2) x, y, RELION's rlnOrigin: the particle sits at minus this from the image centre.
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg, voltage_kv, cs_mm, amplitude_contrast : (N,); NaN
        without CTF.
    phase_shift_deg : (N,), 0 where the source has none.
    aberrations : what lies between projections and images beside the plain CTF, and what was done to the images.
    optics_group : (N,) number of the group as written; 1 without groups.
    random_subset : (N,) half set 1 or 2; 0 without.
    data_sign : (N,) +1 white protein, -1 dark, 0 unknown (cryoSPARC's blob/sign).
    micrographs, micrograph_index : unique names, and (N,) index into them, -1 without.
    uid : (N,) cryoSPARC's uid, or None.
    source_row : (N,) row of the source that each is a copy of, where rows were added to it (see ``expand``), or an
        image of, where a row of the source is a particle of many images; None: the same row.
    tomograms : the file with the geometry of tilt series, where a row of the source is a particle of many images.
    particle : (N,) number of each image's particle, counted in the order of the file; None: each image is a particle.
    stack_headers : header of each stack, or () when they were not looked for.
    notes : what the user should know of how the file was read.
    """

    source: Path
    stacks: tuple[Path, ...]
    stack_names: tuple[str, ...]
    stack_index: npt.NDArray[np.int32]
    image_index: npt.NDArray[np.int64]
    pixel_size_angstrom: Floats
    box_size: npt.NDArray[np.int64]
    angles_deg: Floats
    shifts_angstrom: Floats
    defocus_u_angstrom: Floats
    defocus_v_angstrom: Floats
    defocus_angle_deg: Floats
    voltage_kv: Floats
    cs_mm: Floats
    amplitude_contrast: Floats
    phase_shift_deg: Floats
    aberrations: Aberrations
    optics_group: npt.NDArray[np.int64]
    random_subset: npt.NDArray[np.int64]
    data_sign: npt.NDArray[np.int8]
    micrographs: tuple[str, ...]
    micrograph_index: npt.NDArray[np.int32]
    uid: npt.NDArray[np.uint64] | None = None
    stack_headers: tuple[MrcHeader, ...] = ()
    notes: tuple[str, ...] = ()
    source_row: npt.NDArray[np.int64] | None = None
    particle: npt.NDArray[np.int64] | None = None
    tomograms: Path | None = None

    def __len__(self) -> int:
        return len(self.stack_index)

    @property
    def rotations(self) -> npt.NDArray[np.float64]:
        """Rotation matrices (N, 3, 3) of the angles, see ``imaging.pose``; NaN without poses."""
        return rotations_from_angles(self.angles_deg)

    def images_of_expansion(self) -> npt.NDArray[np.int64] | None:
        """Number of each row's image (N,), if rows show one image in several poses, as after a symmetry expansion;
        None otherwise."""
        image = number_images(self.stack_index, self.image_index)
        if int(image.max(initial=-1)) + 1 == len(self) or np.isnan(self.angles_deg).any():
            return None
        rotations = self.rotations
        apart = np.abs(rotations - rotations[first_rows(image)][image]).max(axis=(1, 2))
        return image if (apart > SAME_POSE).any() else None


def read_particles(
    path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    project_dir: str | os.PathLike[str] | None = None,
    passthrough: Sequence[str | os.PathLike[str]] = (),
    *,
    require_pose: bool = True,
    require_ctf: bool = True,
    find_stacks: bool = True,
    pixel_size_angstrom: float | None = None,
    voltage_kv: float | None = None,
    cs_mm: float | None = None,
    amplitude_contrast: float | None = None,
    pixel_size_option: str = "--apix",
    group_by: GroupBy = "auto",
) -> ParticleTable:
    """Read a RELION or cryoSPARC particle file, find its stacks and check everything that can be checked cheaply.

    Parameters
    ----------
    path : .star, .cs or .csg file.
    data_dir, project_dir : where to look for stacks (see ``stack_paths.resolve_stacks``).
    passthrough : cryoSPARC passthrough files, joined on uid.
    require_pose, require_ctf : refuse files without; otherwise NaN stands for what is missing.
    find_stacks : look for the stacks and check their headers (size, length, number of images).
    pixel_size_angstrom, voltage_kv, cs_mm, amplitude_contrast : of all images, used where the file has none; a file
        that has one must agree.
    pixel_size_option : what the user gives the pixel size by, for messages.
    group_by : what tells which images show one particle (see :func:`particles_of_groups`).

    Raises
    ------
    InputError : columns missing, values missing or impossible (see ``ranges``; rows counted from 1), faulty optics
        groups, stacks missing, truncated, of another box or with too few images, unknown pixel size.
    """
    path, passthrough = particle_files(path, passthrough)
    uid, tomograms = None, None
    constants = {"voltage_kv": voltage_kv, "cs_mm": cs_mm, "amplitude_contrast": amplitude_contrast}
    given = {name: value for name, value in constants.items() if value is not None}
    if path.suffix.lower() == ".cs":
        columns, stacks, micrographs, aberrations, notes, uid = read_cryosparc(
            path, passthrough, require_pose, require_ctf, given
        )
    elif passthrough:
        raise InputError("passthrough", "must come with a cryoSPARC .cs file", path, "Leave it out for STAR files.")
    elif (geometry := tilt_geometry(path, project_dir, group_by)) is not None:
        path, tomograms = geometry
        columns, stacks, micrographs, aberrations, notes = read_relion_tilts(path, tomograms, project_dir)
    else:
        columns, stacks, micrographs, aberrations, notes = read_relion(path, require_pose, require_ctf, given)
    n = len(stacks[1])
    if group_by == "rlnGroupName" and not aberrations.bfactor_angstrom2.any() and DOSE in column_names(path):
        aberrations = replace(aberrations, dose=np.asarray(read_particle_column(path, DOSE), np.float64))
    columns["pixel_size_angstrom"] = _pixel_size(
        path,
        columns.get("pixel_size_angstrom"),
        pixel_size_angstrom,
        n,
        required=require_pose or require_ctf,
        option=pixel_size_option,
    )
    for name, value in given.items():
        columns[name] = _constant(path, name, columns.get(name), value, n)
    if "shifts_angstrom" not in columns:
        pixels = columns.pop("shifts_pixels", np.zeros((n, 2)))
        columns["shifts_angstrom"] = np.where(pixels == 0, 0.0, pixels * columns["pixel_size_angstrom"][:, None])
    full = {name: columns.get(name, np.full(n, value)) for name, value in _DEFAULTS.items()}
    full["phase_shift_deg"] = np.where(np.isnan(full["phase_shift_deg"]), 0.0, full["phase_shift_deg"])
    angles = columns.get("angles_deg", np.full((n, 3), np.nan))
    refuse_outside("image number", columns["image_index"] + 1, path)
    if "box_size" in columns:
        refuse_outside("box", np.where(np.isnan(columns["box_size"]), RANGES["box"].low, columns["box_size"]), path)
    _refuse_impossible(path, full, angles, require_pose, require_ctf)
    names, index = stacks
    image_index = columns["image_index"].astype(np.int64)
    box = np.nan_to_num(columns.get("box_size", np.zeros(n)), nan=0.0).astype(np.int64)
    files: tuple[Path, ...] = tuple(Path(name.lstrip(">")) for name in names)
    headers: tuple[MrcHeader, ...] = ()
    if find_stacks:
        files = resolve_stacks(names, path, data_dir, project_dir)
        with ThreadPoolExecutor(_HEADER_THREADS) as pool:
            headers = tuple(pool.map(read_header, files))
        if tomograms is not None:
            image_index = _places_in_stacks(path, headers, index, image_index, columns)
        unnumbered = columns.get("unnumbered", np.zeros(n)) > 0
        box = _check_stacks(path, headers, index, image_index, unnumbered, box)
    if require_pose:
        _refuse_far(path, columns["shifts_angstrom"], columns["pixel_size_angstrom"], box)
    return ParticleTable(
        source=path,
        stacks=files,
        stack_names=tuple(names),
        stack_index=index,
        image_index=image_index,
        pixel_size_angstrom=columns["pixel_size_angstrom"],
        box_size=box,
        angles_deg=angles,
        shifts_angstrom=columns["shifts_angstrom"],
        optics_group=_whole(path, columns, "optics_group", n, 1),
        random_subset=_whole(path, columns, "random_subset", n, 0),
        data_sign=_whole(path, columns, "data_sign", n, 0).astype(np.int8),
        micrographs=tuple(micrographs[0]) if micrographs else (),
        micrograph_index=micrographs[1] if micrographs else np.full(n, -1, np.int32),
        particle=particles_of_groups(path, group_by) if tomograms is None else columns["particle"].astype(np.int64),
        source_row=None if tomograms is None else columns["particle"].astype(np.int64),
        tomograms=tomograms,
        uid=uid,
        stack_headers=headers,
        aberrations=aberrations,
        notes=notes if tomograms is not None else (*notes, *seen_groups(path, group_by)),
        **full,
    )


def particles_of_groups(path: Path, group_by: GroupBy) -> Numbers | None:
    """Particle of each row (N,), where the rows of one share a value of the column ``group_by``; None: each row is one.

    A single-particle file's rlnGroupName names groups of micrographs, which cannot be told from tilt series: so rows
    are grouped only where that is asked for. Raises InputError without the column, or for groups too large to be
    particles.
    """
    if group_by in ("auto", "none"):
        return None
    if group_by not in column_names(path):
        raise InputError("--group_by", f"must be a column of {path}", group_by, "Leave it out, or add the column.")
    particle = count_in_order(read_particle_column(path, group_by).astype(str))
    sizes = np.bincount(particle)
    if sizes.max() > MOST_TILTS:
        raise InputError(
            "--group_by",
            f"must name particles, of at most {MOST_TILTS} images each",
            f"{len(sizes)} groups of up to {sizes.max()} rows of one {group_by} in {path}",
            "In single-particle files this column names groups of micrographs: leave --group_by out.",
        )
    return None if len(sizes) == len(particle) else particle


def seen_groups(path: Path, group_by: GroupBy) -> tuple[str, ...]:
    """A note for a file whose rows look like the images of tilt series and are taken as particles; () otherwise.

    Exports of WarpTools and M give each row the B-factor of its dose and the cosine of its tilt as scale, so that both
    change from row to row of one group, and repeat from group to group.
    """
    names = ("rlnGroupName", "rlnCtfBfactor", "rlnCtfScalefactor")
    if group_by != "auto" or path.suffix == ".cs" or not set(names) <= set(column_names(path)):
        return ()
    group, dose, scale = (read_particle_column(path, name) for name in names)
    number = count_in_order(group.astype(str))
    sizes = np.bincount(number)
    pairs = len(np.unique(np.stack([number, *(count_in_order(v) for v in (dose, scale))]), axis=1).T)
    if sizes.max() > MOST_TILTS or sizes.min() < 2 or len(np.unique(dose)) > MOST_TILTS or pairs < 0.9 * len(number):
        return ()
    return (
        f"each row is taken as a particle, but rows of one rlnGroupName ({len(sizes)} groups of {sizes.min()} to "
        f"{sizes.max()}) differ in dose and tilt as the images of one tilted particle do; if a group is one particle, "
        "give --group_by rlnGroupName",
    )


def expand(table: ParticleTable, operators: Floats) -> ParticleTable:  # (n, 3, 3)
    """The table with a row for each symmetry mate of each particle, its own pose first, then the others.

    ``operators`` are the rotations of the point group, the identity first.
    """
    n = len(operators)
    rows = np.repeat(np.arange(len(table)), n)
    mates = symmetry_mates(table.rotations, operators)
    angles = angles_from_rotations(mates)
    angles[:, 0] = table.angles_deg
    same = ("source", "stacks", "stack_names", "micrographs", "stack_headers", "notes", "aberrations", "source_row")
    arrays = {
        field.name: getattr(table, field.name)[rows]
        for field in fields(table)
        if field.name not in same and getattr(table, field.name) is not None
    }
    arrays["angles_deg"] = angles.reshape(-1, 3)
    return replace(table, **arrays, aberrations=table.aberrations.rows(rows), source_row=rows)


def _constant(path: Path, name: str, found: Floats | None, given: float, n: int) -> Floats:
    """One number for all particles, which what the file says must agree with."""
    if found is None or np.isnan(found).all():
        return np.full(n, float(given))
    refuse_rows(
        abs(found - given) > 1e-3 * max(abs(given), 1e-9),
        path,
        _CTF_RANGES[name],
        f"must agree with the {given:g} given",
        found,
        f"Leave --{name.removesuffix('_kv').removesuffix('_mm')} out to use the file's.",
    )
    return found


def _pixel_size(path: Path, found: Floats | None, given: float | None, n: int, required: bool, option: str) -> Floats:
    """Pixel size of each particle, from the file or as given; NaN only where not required."""
    if found is None or np.isnan(found).all():
        if given is not None:
            return np.full(n, float(given))
        if required:
            raise InputError(
                str(path),
                "must tell the pixel size",
                "none of rlnImagePixelSize, rlnDetectorPixelSize, rlnPixelSize",
                f"Give it with {option}.",
            )
        return np.full(n, np.nan)
    refuse_outside("pixel size", found, path)
    if given is not None:
        # files round pixel sizes to 3-6 digits
        refuse_rows(
            abs(found / given - 1) > 1e-3,
            path,
            "pixel size",
            f"must agree with the {given} A/px given",
            found,
            f"Leave {option} out to use the file's.",
        )
    return found


def _refuse_impossible(
    path: Path, ctf: Mapping[str, Floats], angles: Floats, require_pose: bool, require_ctf: bool
) -> None:
    if require_ctf:
        for name, allowed in _CTF_RANGES.items():
            refuse_outside(allowed, ctf[name], path)
        defocus = 0.5 * (ctf["defocus_u_angstrom"] + ctf["defocus_v_angstrom"])
        refuse_defocus_in_micrometres(defocus, path, "defocus U and V")
    if require_pose:
        refuse_outside("angle", angles, path, "rot, tilt, psi")


def _refuse_far(path: Path, shifts: Floats, pixel_size: Floats, box: npt.NDArray[np.int64]) -> None:
    """Refuse origins that place the particle outside its image."""
    pixels = shifts / pixel_size[:, None]
    refuse_outside("shift", pixels, path, "origins")
    refuse_rows(
        (box > 0) & (np.abs(pixels).max(axis=1) > 2 * box),
        path,
        "origins",
        "must leave the particle in its image, not two boxes and more outside",
        pixels.round(2),
        "Shifts in Angstrom and in pixels may be mixed up: refine or extract again.",
    )


def tilt_geometry(
    path: Path, project_dir: str | os.PathLike[str] | None, group_by: GroupBy
) -> tuple[Path, Path] | None:
    """Particles and tomograms of RELION 5's tilt series, where ``path`` is their optimisation set or such particles
    with a set beside them; None for other files. Raises InputError where a set is missing."""
    tables = scan_star(path)
    if not is_set(tables) and not holds_tilt_particles(tables):
        return None
    if group_by != "auto":
        raise InputError(
            "--group_by",
            "must be auto for RELION 5's tilt series, in which a row is a particle",
            group_by,
            "Leave it out.",
        )
    return files_of_set(path if is_set(tables) else set_beside(path, project_dir), project_dir)


def _places_in_stacks(
    path: Path,
    headers: Sequence[MrcHeader],
    index: npt.NDArray[np.int32],
    image_index: npt.NDArray[np.int64],
    columns: Mapping[str, Floats],
) -> npt.NDArray[np.int64]:
    """Number of each tilt image in its stack: RELION's hold a particle's visible images alone, WarpTools' all."""
    held = np.array([header.shape[0] for header in headers])[index]
    own = np.bincount(columns["particle"].astype(np.int64))[columns["particle"].astype(np.int64)]
    whole = held == columns["frames"]
    refuse_rows(
        ~whole & (held != own),
        path,
        "rlnImageName",
        "must be a stack of the visible images of the series, or of all",
        [f"{h} images for {o} visible of {f:.0f}" for h, o, f in zip(held, own, columns["frames"])],
        "Particles and stacks belong to different jobs: extract the particles again.",
    )
    return np.where(whole, columns["frame"], image_index).astype(np.int64)


def _check_stacks(
    path: Path,
    headers: Sequence[MrcHeader],
    index: npt.NDArray[np.int32],
    image_index: npt.NDArray[np.int64],
    unnumbered: npt.NDArray[np.bool_],
    box: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Check boxes and numbers of images against the headers; return the boxes (N,)."""
    for header in headers:
        if header.shape[1] != header.shape[2]:
            raise InputError(
                str(header.path), "must hold square images", f"{header.shape[2]} x {header.shape[1]}", "Extract again."
            )
    counts = np.array([header.shape[0] for header in headers])[index]
    nameless = unnumbered & (counts > 1)
    if nameless.any():
        first = headers[index[np.flatnonzero(nameless)[0]]]
        refuse_rows(
            nameless,
            path,
            "rlnImageName",
            f"must be number@stack where the stack holds several images, as {first.path} with its {first.shape[0]}",
            [first.path.name] * len(index),
            "Write which image each row means; of RELION 5's stacks of tilt images, give the optimisation_set.star.",
        )
    real = np.array([header.shape[1] for header in headers], np.int64)[index]
    bad = image_index >= counts
    if bad.any():
        first = headers[index[np.flatnonzero(bad)[0]]]
        refuse_rows(
            bad,
            path,
            "image number",
            f"must not exceed the {first.shape[0]} images of {first.path}",
            image_index + 1,
            "The stack and the particle file belong to different jobs, or the stack is incomplete.",
        )
    wrong = (box > 0) & (box != real)
    if wrong.any():
        first = headers[index[np.flatnonzero(wrong)[0]]]
        refuse_rows(
            wrong,
            path,
            "image size",
            f"must be the {first.shape[1]} pixels of {first.path}",
            box,
            "The stack and the particle file belong to different jobs: check --data_dir.",
        )
    return real


def _whole(path: Path, columns: Mapping[str, Floats], name: str, n: int, default: int) -> npt.NDArray[np.int64]:
    """A column of group numbers, or ``default`` where there is none."""
    values = columns.get(name, np.full(n, np.nan))
    values = np.where(np.isnan(values), default, values)
    refuse_outside("group number", values, path, name.replace("_", " "))
    return values.astype(np.int64)


# ---- single columns and writing ----------------------------------------------------------------------------------


def row_count(path: Path) -> int:
    """Number of particles in a .star or .cs file. Raises InputError if it cannot be read or holds none."""
    if path.suffix.lower() == ".cs":
        return len(load_cs(path, mmap=True))
    return find_particle_table(scan_star(path)).n_rows


def column_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of every column (STAR) or field (.cs) of a particle file. Raises InputError if it cannot be read."""
    path = particle_files(path)[0]
    if Path(path).suffix.lower() == ".cs":
        return tuple(load_cs(path, mmap=True).dtype.names or ())
    return find_particle_table(scan_star(path)).columns


def read_particle_column(path: str | os.PathLike[str], name: str) -> npt.NDArray[np.generic]:
    """One column of a particle file, numbers where all values are numbers, else text (N,) (a .cs field: (N, ...)).

    Raises InputError if the file has no such column.
    """
    path = particle_files(path)[0]
    if name not in column_names(path):
        raise InputError(f"column {name}", f"must be a column of {path}", "none", f"One of {column_names(path)}.")
    if Path(path).suffix.lower() == ".cs":
        values = load_cs(path)[name]
        return np.char.decode(values, "utf-8", "backslashreplace") if values.dtype.kind == "S" else values
    return read_column(find_particle_table(scan_star(path)), name)


def write_star_subset(source: str | os.PathLike[str], rows: npt.ArrayLike, target: str | os.PathLike[str]) -> int:
    """Copy the chosen rows of a STAR file; returns their number. See :func:`write_star_rows`, errors too."""
    return write_star_rows(source, target, rows)


def write_cs_subset(source: str | os.PathLike[str], rows: npt.ArrayLike, target: str | os.PathLike[str]) -> int:
    """Copy the chosen rows of a .cs file; returns their number. See :func:`write_cs_rows`, errors too."""
    return write_cs_rows(source, target, rows)


def write_particles_star(
    table: ParticleTable,
    target: str | os.PathLike[str],
    columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic]] | None = None,
    rows: npt.ArrayLike | None = None,
) -> int:
    """Write particles as STAR: a STAR source's own rows with columns appended, or a table made from a .cs source.

    Of a table that was expanded all rows are written, each copy of a source's row with its own angles.

    Parameters
    ----------
    columns : name -> one value per particle of the source (N,).
    rows : row numbers or mask; None writes all. Rows keep the order of the source.

    Returns
    -------
    Number of rows written.

    Raises
    ------
    InputError : empty selection, row out of range, column of the wrong length.
    """
    if table.tomograms is not None:
        write_optimisation_set(Path(target), table.tomograms)
        return write_star_rows(table.source, target, rows, columns)
    if table.uid is None and table.source_row is not None:
        angles = dict(zip(POSE_COLUMNS, table.angles_deg.T.round(6)))
        return write_star_copies(table.source, target, table.source_row, angles)
    if table.uid is None:
        return write_star_rows(table.source, target, rows, columns)
    return table_to_star(table, target, columns, rows)


def write_optimisation_set(particles: Path, tomograms: Path) -> Path:
    """Write ``NAME_optimisation_set.star`` beside the tilt particles ``NAME.star``; returns its path.

    RELION needs it to read such particles: it names them and their ``tomograms``.
    """
    target = particles.with_name(f"{particles.stem}_{SET}")
    lines = [f"_{name} {quote(str(value))}" for name, value in zip(SET_COLUMNS, (particles.name, tomograms.resolve()))]
    write_atomically(target, ("\ndata_\n\n" + "\n".join(lines) + "\n").encode())
    return target


def write_chosen_particles(source: Path, target: Path, chosen: npt.NDArray[np.bool_], particle: Numbers | None) -> None:
    """Copy a STAR file's rows of the ``chosen`` particles (P,), and the optimisation set that tilt series need.

    ``particle`` (N,): particle of each row, where one has several rows; None: each row is a particle. Raises InputError
    where the numbers do not fit or nothing is chosen.
    """
    rows = find_particle_table(scan_star(source)).n_rows
    write_star_rows(source, target, rows_of_particles(chosen, particle, rows, source))
    copy_optimisation_set(source, target)


def copy_optimisation_set(source: Path, target: Path) -> None:
    """Write the optimisation set for ``target``, a copy of rows of ``source``, where these are tilt particles.

    Raises InputError where ``source`` has no optimisation set beside it.
    """
    if holds_tilt_particles(scan_star(source)):
        write_optimisation_set(target, files_of_set(set_beside(source, None), None)[1])


def table_to_star(
    table: ParticleTable,
    target: str | os.PathLike[str],
    columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic]] | None = None,
    rows: npt.ArrayLike | None = None,
) -> int:
    """Write a RELION 3.1 STAR file (optics and particles) from a table; returns the number of rows written.

    Optics groups that hold several pixel sizes or boxes are split and renumbered.

    Raises InputError for a column of another length.
    """
    keep = np.flatnonzero(selection_mask(rows, len(table), str(table.source)))
    constants = {
        "rlnVoltage": table.voltage_kv,
        "rlnSphericalAberration": table.cs_mm,
        "rlnAmplitudeContrast": table.amplitude_contrast,
        "rlnImagePixelSize": table.pixel_size_angstrom,
        "rlnImageSize": table.box_size,
    }
    key = np.stack([values[keep].astype(np.float64) for values in (table.optics_group, *constants.values())], axis=1)
    _, first, group = np.unique(key, axis=0, return_index=True, return_inverse=True)
    optics: dict[str, Sequence[object] | npt.NDArray[np.generic]] = {
        "rlnOpticsGroupName": [f"opticsGroup{i + 1}" for i in range(len(first))],
        "rlnOpticsGroup": np.arange(1, len(first) + 1),
    }
    optics.update({name: values[keep[first]] for name, values in constants.items()})
    optics["rlnImageDimensionality"] = np.full(len(first), 2)
    images = [f"{table.image_index[i] + 1:06d}@{table.stack_names[table.stack_index[i]].lstrip('>')}" for i in keep]
    particles: dict[str, Sequence[object] | npt.NDArray[np.generic]] = {"rlnImageName": images}
    if table.micrographs:
        particles["rlnMicrographName"] = [table.micrographs[table.micrograph_index[i]] for i in keep]
    numbers = {
        "rlnAngleRot": table.angles_deg[:, 0],
        "rlnAngleTilt": table.angles_deg[:, 1],
        "rlnAnglePsi": table.angles_deg[:, 2],
        "rlnOriginXAngst": table.shifts_angstrom[:, 0],
        "rlnOriginYAngst": table.shifts_angstrom[:, 1],
        "rlnDefocusU": table.defocus_u_angstrom,
        "rlnDefocusV": table.defocus_v_angstrom,
        "rlnDefocusAngle": table.defocus_angle_deg,
        "rlnPhaseShift": table.phase_shift_deg,
    }
    particles.update({name: values[keep] for name, values in numbers.items() if np.isfinite(values).all()})
    particles["rlnOpticsGroup"] = group.reshape(-1) + 1
    if table.random_subset.any():
        particles["rlnRandomSubset"] = table.random_subset[keep]
    for name, values in (columns or {}).items():
        if len(values) != len(table):
            raise InputError(f"column {name}", f"must hold {len(table)} values", len(values), "One per particle.")
        particles[name.removeprefix("_")] = np.asarray(values)[keep]
    write_star(target, {"optics": optics, "particles": particles})
    return len(keep)
