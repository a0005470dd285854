"""Decode: latents, or particles, -> volumes and Gaussians."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gaussianem_core.commands.volume_series import contour_level, write_series
from gaussianem_core.errors import InputError
from gaussianem_core.io.chimerax import write_volumes_script
from gaussianem_core.io.latents import load_latents, read_latent_rows
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.model.trained_model import check_latents, load_model_of
from gaussianem_core.options import DecodeOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import atomic_write, check_free_space
from gaussianem_core.runtime.readers import read_text

LISTED = 50
"""Up to this many volumes each is an output of its own; more are one series."""


def run(options: DecodeOptions, log: JobLog) -> None:
    """Write vol_NNN.mrc and gaussians_NNN.ply for each row of ``z`` or each particle, and z.txt, view.cxc."""
    device = choose_device(options.device)
    model = load_model_of(options, optional_input(options, "mask"), device, log)
    if options.z:
        z = check_latents(read_latent_rows(resolve_input(options, "z")), model, "z")
    else:
        latents = check_latents(load_latents(resolve_input(options, "latent"))["z_mu"], model, "latent")
        rows = read_particle_indices(resolve_input(options, "particle_indices"), len(latents))
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


def read_particle_indices(path: Path, count: int) -> np.ndarray:  # -> (B,) int64
    """Particle numbers from 0 in a text file: numbers or ranges such as 10-20 (both ends), blanks or commas between.

    Raises InputError for other text, numbers at or above ``count``, or an empty file.
    """
    lines = read_text(path, "particle_indices", "Write numbers such as 7 or ranges such as 10-20.").splitlines()
    rows: list[int] = []
    for number, line in enumerate(lines, start=1):
        for word in line.partition("#")[0].replace(",", " ").split():
            match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", word)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if match is None or first > last or last >= count:
                raise InputError(
                    f"particle_indices, line {number}",
                    f"must be numbers or ranges from 0 to {count - 1}",
                    word,
                    "Write numbers such as 7 or ranges such as 10-20.",
                )
            rows.extend(range(first, last + 1))
    if not rows:
        raise InputError("particle_indices", "must name at least one particle", path, "Write numbers or ranges.")
    return np.array(rows, dtype=np.int64)
