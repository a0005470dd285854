"""Import of another program's latents, joined to their particles, for the latent explorer (without a network)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import pack_poses, rotations_from_angles
from gaussianem_core.io.latents import save_latents
from gaussianem_core.io.other_latents import read_other_latents, rows_of_latents
from gaussianem_core.io.particle_rows import write_cs_rows, write_star_rows
from gaussianem_core.io.particle_table import read_particles, row_count
from gaussianem_core.io.result_group import particle_files
from gaussianem_core.job.events import JobLog
from gaussianem_core.options import ImportOptions
from gaussianem_core.runtime.files import atomic_write, write_json

LATENTS = "latents.pkl"
ORIGIN = "latents.json"
"""File that names the latents' program, source, particles and zdim."""
RESULTS = (LATENTS, ORIGIN, "particles.star", "particles.cs", "poses.npy", "ctf.npy")


def import_latents(options: ImportOptions, log: JobLog) -> None:
    """Write ``latents.pkl`` and, row by row with it, the particles, and their poses and CTF for plots and checks.

    Particles keep the order of their file; those without a latent, and latents without a particle, are left out and
    counted.

    Raises
    ------
    InputError : not one particle file is given, or latents and particles do not fit.
    """
    if len(options.files) != 1:
        raise InputError(
            "option files", "must be the one particle file that the latents are of", len(options.files), "Give one."
        )
    particles, passthrough = particle_files(options.files[0], options.passthrough)
    found = read_other_latents(Path(options.latents), options.columns)
    count = row_count(particles)
    rows = rows_of_latents(found, particles, count, Path(options.indices) if options.indices else None)
    order = np.argsort(rows, kind="stable")[int((rows < 0).sum()) :]
    rows = rows[order]
    target = log.directory / f"particles{particles.suffix.lower()}"
    if particles.suffix.lower() == ".cs":
        write_cs_rows(particles, target, rows)
    else:
        write_star_rows(particles, target, rows)
    log.artifact("particles", target, "particles of the latents", particles=len(rows), source=str(particles))
    variances = found.log_variance[order] if found.log_variance is not None else None
    save_latents(log.directory / LATENTS, found.z[order], variances)
    note = {
        "program": found.program,
        "source": os.path.abspath(options.latents),
        "particles": os.path.abspath(particles),
        "passthrough": [os.path.abspath(path) for path in passthrough],
        "zdim": found.z.shape[1],
    }
    write_json(log.directory / ORIGIN, note)
    log.artifact("latents", LATENTS, f"latents of {found.program}", particles=len(rows), zdim=found.z.shape[1])
    _write_geometry(target, passthrough, log)
    log.message(f"{len(rows):,} latents of {found.program} in {found.z.shape[1]} dimensions")
    for lacking, noun in ((count - len(rows), "particles without a latent"), (len(found.z) - len(rows), "latents")):
        if lacking:
            log.message(f"{lacking:,} {noun}{'' if 'without' in noun else ' without a particle'} were left out")


def _write_geometry(particles: Path, passthrough: tuple[Path, ...], log: JobLog) -> None:
    """poses.npy and ctf.npy beside the latents, where the particle file holds both."""
    try:
        table = read_particles(particles, passthrough=passthrough, find_stacks=False)
    except InputError as error:
        log.message(f"Whether the latents follow pose or defocus cannot be told: {error}")
        return
    pixel = table.pixel_size_angstrom
    poses = pack_poses(rotations_from_angles(table.angles_deg), table.shifts_angstrom / pixel[:, None])
    defocus = [table.defocus_u_angstrom, table.defocus_v_angstrom, table.defocus_angle_deg]
    optics = [table.voltage_kv, table.cs_mm, table.amplitude_contrast, table.phase_shift_deg]
    ctf = np.stack([table.box_size, pixel, *defocus, *optics], axis=1).astype(np.float32)
    for name, array in (("poses.npy", poses), ("ctf.npy", ctf)):
        with atomic_write(log.directory / name) as file:
            np.save(file, array)
