"""Decode: latents, or particles, -> volumes and Gaussians."""

from __future__ import annotations

import numpy as np

from gaussianem_core.commands.volume_series import contour_level, write_series
from gaussianem_core.io.chimerax import write_volumes_script
from gaussianem_core.io.latents import load_latents, read_latent_rows
from gaussianem_core.io.row_numbers import read_row_numbers
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.model.trained_model import check_latents, load_model_of
from gaussianem_core.options import DecodeOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import atomic_write, check_free_space

LISTED = 50
"""Up to this many volumes each is an output of its own; more are one series."""


def run(options: DecodeOptions, log: JobLog) -> None:
    """Write vol_NNN.mrc and gaussians_NNN.ply for each row of ``z`` or each particle, and z.txt, view.cxc.

    Raises InputError for files that cannot be read, latents of another dimension than the model's, or results that are
    there already (without ``overwrite``); ResourceError for too little disk or GPU memory.
    """
    device = choose_device(options.device, threads=options.threads)
    model = load_model_of(options, optional_input(options, "mask"), device, log)
    if options.z:
        z = check_latents(read_latent_rows(resolve_input(options, "z")), model, "z")
    else:
        latents = check_latents(load_latents(resolve_input(options, "latent"))["z_mu"], model, "latent")
        rows = read_row_numbers(resolve_input(options, "particle_indices"), len(latents), "particle_indices")
        z = latents[rows]
    box = options.box or model.configuration.box
    refuse_existing(log.directory, ["z.txt", "vol_001.mrc"], options.overwrite)
    check_free_space(log.directory, len(z) * (box**3 * 4 + len(model.gaussians) * 48))
    with memory_errors("Use a smaller --box"):
        written = write_series(model, z, log.directory, box, log, "decode")
    level = contour_level(model.consensus_volume(box))
    names = [volume.name for volume, _ in written]
    write_volumes_script(log.directory / "view.cxc", names, level, "Decoded volumes")
    if not options.z:
        with atomic_write(log.directory / "particles.txt") as file:
            np.savetxt(file, rows, fmt="%d")
    if len(written) <= LISTED:
        for (volume, gaussians), values in zip(written, z):
            log.artifact("volume", volume, f"volume {volume.stem[4:]}", level=level, z=values.tolist())
            log.artifact("gaussians", gaussians, f"Gaussians {volume.stem[4:]}")
    else:
        log.artifact("volume_series", log.directory, "decoded volumes", count=len(z), level=level, z="z.txt")
    log.artifact("trajectory", "z.txt", "latents of the volumes", points=len(z))
    log.artifact("script", "view.cxc", "ChimeraX: the volumes side by side")
    log.message(f"{len(z)} volumes of box {box}, {model.pixel_size(box):.4g} A/px; contour level {level:.4g}")
