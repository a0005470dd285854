"""The particles of a reconstruction, from a particle file or a preprocess job, their weights, box and pixel size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import ABERRATIONS, Aberrations, load_aberrations
from gaussianem_core.imaging.resampling import COARSEST, largest_box
from gaussianem_core.io.image_rows import count_in_order, load_particles
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.particle_rows import selection_mask
from gaussianem_core.io.particle_table import ParticleTable, read_particles
from gaussianem_core.io.row_numbers import read_row_numbers
from gaussianem_core.job.events import OPTIONS
from gaussianem_core.job.input_paths import optional_input, resolve_input, resolve_inputs
from gaussianem_core.model.configuration import Configuration, load_configuration
from gaussianem_core.options import ReconstructOptions
from gaussianem_core.runtime.readers import is_file, read_json_object, read_npy

PARTICLES, CFG = "particles.star", "cfg.json"


class Chosen(NamedTuple):
    """``table`` of N particles, their ``aberrations``, whether the protein is ``white`` in the images, and the
    ``configuration`` where a preprocess job prepared them."""

    table: ParticleTable
    aberrations: Aberrations
    white: bool
    configuration: Configuration | None


def read_chosen(options: ReconstructOptions) -> Chosen:
    """The particles that the options name, with poses and defocus of ``poses`` in place of their own.

    Where ``source_dir`` is a preprocess job and all particles of the file are among its own, the job's findings on
    aberrations and contrast are used.

    Raises InputError for files that cannot be used, or rows that do not match.
    """
    folder = Path(options.source_dir).expanduser()
    prepared = _prepared(options, folder) if is_file(folder / PARTICLES) and is_file(folder / CFG) else None
    if options.star_file:
        chosen = _given(options, prepared)
    elif prepared is not None:
        chosen = prepared
    else:
        raise InputError(
            "--star_file",
            "must be given where source_dir is no preprocess job's directory",
            f"no {PARTICLES} and {CFG} in {folder}",
            "Give --star_file, or the preprocess job's directory as --source_dir.",
        )
    poses = optional_input(options, "poses")
    return chosen if poses is None else chosen._replace(table=_with_poses(chosen.table, poses))


def _given(options: ReconstructOptions, prepared: Chosen | None) -> Chosen:
    """The particles of ``star_file``."""
    data_dir = optional_input(options, "data_dir")
    if data_dir is None and prepared is not None:
        data_dir = _place(_said(Path(options.source_dir).expanduser()).get("data_dir"))
    table = read_particles(
        resolve_input(options, "star_file"),
        data_dir,
        options.source_dir,
        resolve_inputs(options, "passthrough"),
        pixel_size_angstrom=options.image_apix,
        voltage_kv=options.voltage,
        cs_mm=options.cs,
        amplitude_contrast=options.amplitude_contrast,
        pixel_size_option="--image_apix",
        group_by=options.group_by,
    )
    plain = Chosen(table, table.aberrations, not options.no_invert, None)
    if prepared is None:
        return plain
    row = {name: number for number, name in reversed(list(enumerate(_images(prepared.table))))}
    rows = [row.get(name) for name in _images(table)]
    if None in rows:
        return plain
    known = np.array(rows, np.int64)
    aberrations = prepared.aberrations.rows(known)
    if prepared.table.particle is not None and table.particle is None and options.group_by == "auto":
        table = replace(table, particle=count_in_order(prepared.table.particle[known]))
    return Chosen(table, aberrations, prepared.white and not options.no_invert, prepared.configuration)


def _prepared(options: ReconstructOptions, folder: Path) -> Chosen:
    """What a preprocess job found out of its particles: they go by the original images that it read."""
    configuration = load_configuration(folder / CFG)
    said = _said(folder)
    given = configuration.extra.get("given")
    constants = given if isinstance(given, dict) else {}
    table = read_particles(
        folder / PARTICLES,
        optional_input(options, "data_dir") or _place(said.get("data_dir")),
        _place(said.get("source_dir")),
        pixel_size_angstrom=constants.get("apix"),
        voltage_kv=constants.get("voltage"),
        cs_mm=constants.get("cs"),
        amplitude_contrast=constants.get("amplitude_contrast"),
        group_by=options.group_by,
    )
    if table.particle is None and options.group_by == "auto":
        table = replace(table, particle=load_particles(folder, len(table)))
    beside = folder / ABERRATIONS
    aberrations = load_aberrations(beside, len(table)) if is_file(beside) else Aberrations.none(len(table))
    return Chosen(table, aberrations, configuration.invert_contrast, configuration)


def _said(folder: Path) -> dict[str, Any]:
    """The options of the job in ``folder``; none where it does not say."""
    return read_json_object(folder / OPTIONS, OPTIONS, "Run preprocess again.") if is_file(folder / OPTIONS) else {}


def _place(said: object) -> Path | None:
    """A directory that an earlier job was given, if it is still there."""
    folder = Path(said).expanduser() if isinstance(said, str) and said else None
    return folder if folder is not None and folder.is_dir() else None


def _with_poses(table: ParticleTable, path: Path) -> ParticleTable:
    """The table with angles, origins and defocus of another particle file that has the same rows."""
    other = read_particles(path, find_stacks=False)
    rule = f"must have a row for each of the {len(table)} particles"
    if len(other) != len(table):
        raise InputError("poses", rule, len(other), "Give particles.star of a training on these particles.")
    differs = np.flatnonzero(other.image_index != table.image_index)
    if len(differs):
        raise InputError(
            "poses",
            "must list the same images in the same order",
            f"another image in row {differs[0] + 1}",
            "Give particles.star of a training on these particles.",
        )
    return replace(
        table,
        angles_deg=other.angles_deg,
        shifts_angstrom=other.shifts_angstrom,
        defocus_u_angstrom=other.defocus_u_angstrom,
        defocus_v_angstrom=other.defocus_v_angstrom,
        defocus_angle_deg=other.defocus_angle_deg,
    )


# ---- a part of them ----------------------------------------------------------------------------------------------


def particle_weights(options: ReconstructOptions, table: ParticleTable) -> npt.NDArray[np.float32]:  # -> (N,)
    """Weight of each row, 0 where it is not selected; all images of a particle have one weight.

    Raises InputError for weights of another number or below 0, and if fewer than two particles are left.
    """
    particle = particle_of_rows(table)
    count = int(particle.max()) + 1
    weights = np.ones(len(table), np.float32)
    path = optional_input(options, "weights")
    if path is not None:
        remedy = "Save one number from 0 on for each particle."
        given = read_npy(path, "weights", remedy).astype(np.float64)
        if given.shape != (count,):
            raise InputError("weights", f"must hold {count} numbers, one a particle", given.shape, remedy)
        if not (np.isfinite(given).all() and (given >= 0).all()):
            bad = int(np.flatnonzero(~(np.isfinite(given) & (given >= 0)))[0])
            value = f"{given[bad]} of particle {bad + 1}"
            raise InputError("weights", "must be finite and not negative", value, remedy)
        weights *= given.astype(np.float32)[particle]
    selected = optional_input(options, "select")
    if selected is not None:
        weights[~read_selection(selected, table)] = 0
    left = len(np.unique(particle[weights > 0]))
    if left < 2:
        raise InputError("particles", "must be at least two", left, "Select more, or weigh more above 0.")
    return weights


def read_selection(path: Path, table: ParticleTable) -> npt.NDArray[np.bool_]:  # -> (N,)
    """The rows that a selection names: numbers of particles, a mask of them, or a particle file with the same images.

    A particle of which an image is named is there with all of its images.

    Raises InputError if it names what is none of the particles.
    """
    particle = particle_of_rows(table)
    count = int(particle.max()) + 1
    if path.suffix == ".npy":
        given = read_npy(path, "select", "Save row numbers or a mask.", "iub")
        return selection_mask(given, count, str(path))[particle]
    if path.suffix not in (".star", ".cs", ".csg"):
        return selection_mask(read_row_numbers(path, count, "select"), count, str(path))[particle]
    other = read_particles(path, find_stacks=False, require_pose=False, require_ctf=False)
    own, named = _images(table), _images(other)
    known, wanted = set(own), set(named)
    missing = [name for name in named if name not in known]
    if missing:
        raise InputError(
            "select",
            "must name images of the particles",
            f"{missing[0][1] + 1}@{missing[0][0]} and {len(missing) - 1} more are none of theirs",
            "Give a part of the same particle file.",
        )
    return np.isin(particle, particle[[name in wanted for name in own]])


def particle_of_rows(table: ParticleTable) -> npt.NDArray[np.int64]:  # -> (N,)
    """Number of the particle that each row shows, from 0; its own where no particle has several images."""
    return np.arange(len(table)) if table.particle is None else table.particle


def _images(table: ParticleTable) -> list[tuple[str, int]]:
    return [(table.stack_names[s].lstrip(">"), int(i)) for s, i in zip(table.stack_index, table.image_index)]


# ---- box and pixel size ------------------------------------------------------------------------------------------


class MapSampling(NamedTuple):
    """``box`` and ``pixel_size_angstrom`` in which the images are inserted, and ``map_box``, to which maps are cut."""

    box: int
    pixel_size_angstrom: float
    map_box: int


def map_sampling(images: ImageStack, box: int | None, pixel_size_angstrom: float | None) -> MapSampling:
    """Sampling of the map by the options ``box`` (px) and ``apix`` (A) of ``ReconstructOptions``.

    Raises InputError for a pixel size or box finer than the images'.
    """
    groups = images.groups()
    length = groups[0].box_size * groups[0].pixel_size_angstrom
    coarsest = max(group.pixel_size_angstrom for group in groups)
    fits = min(largest_box(group.pixel_size_angstrom, length) for group in groups)
    if pixel_size_angstrom is not None:
        if pixel_size_angstrom * COARSEST < coarsest:
            raise InputError(
                "--apix",
                f"must not be finer than the images' {coarsest:.4g} A",
                pixel_size_angstrom,
                "Give a larger one, or leave it out.",
            )
        inner = max(8, 2 * round(length / pixel_size_angstrom / 2))
        return MapSampling(inner, pixel_size_angstrom, box or inner)
    if box is not None:
        if box > fits:
            raise InputError(
                "--box",
                f"must not exceed {fits}, the finest sampling that the images hold",
                box,
                "Give a smaller one; with --apix a map is filled up to a larger box.",
            )
        return MapSampling(box, length / box, box)
    own = min(groups[0].box_size // 2 * 2, fits)
    pixel = groups[0].pixel_size_angstrom if own >= groups[0].box_size // 2 * 2 else length / own
    return MapSampling(own, pixel, own)
