"""Reconstruct: particle images and poses -> half maps, FSC, sharpened map, local resolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gaussianem_core.commands.volume_series import contour_level
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.symmetry import symmetry_operators
from gaussianem_core.io.image_rows import number_images
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_rows import write_star_rows
from gaussianem_core.io.particle_table import ParticleTable, table_to_star
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.options import ReconstructOptions
from gaussianem_core.reconstruction.deposition import write_deposition
from gaussianem_core.reconstruction.half_volumes import cut_volumes, insert_images, solve_halves
from gaussianem_core.reconstruction.map_results import (
    HALF_MAPS,
    LOCAL,
    LOCAL_RESOLUTION,
    MASK,
    SHARPENED,
    WHOLE,
    MapResult,
    figures,
    in_words,
    map_result,
    write_maps,
)
from gaussianem_core.reconstruction.particle_choice import (
    Chosen,
    MapSampling,
    map_sampling,
    particle_weights,
    read_chosen,
)
from gaussianem_core.reconstruction.particle_images import (
    Background,
    ParticleImages,
    half_sets,
    measure_background,
    particle_images,
)
from gaussianem_core.reconstruction.plots import plot_result
from gaussianem_core.reconstruction.report import report
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import check_free_space, write_atomically, write_json

RESULTS, REPORT, PLOT, SPLIT = "results.json", "report.md", "reconstruction.png", "half_sets.star"


def run(options: ReconstructOptions, log: JobLog) -> None:
    """Write half maps, maps, mask, FSC and local resolution, results.json and report.md."""
    device = choose_device(options.device, threads=options.threads)
    operators = symmetry_operators(options.symmetry)
    refuse_existing(log.directory, [SHARPENED, RESULTS], options.overwrite)
    chosen = read_chosen(options)
    for note in chosen.table.notes:
        log.message(note, "warning")
    weights = particle_weights(options, chosen.table)
    with ImageStack.from_table(chosen.table) as stack:
        sampling = map_sampling(stack, options.box, options.apix)
    check_free_space(log.directory, 7 * 4 * sampling.map_box**3)
    mask = read_mask(options, sampling)
    particles = with_half_sets(chosen, sampling, options, log)
    check_half_sets(particles, weights)
    found = measure_background(particles, options.seed, weights > 0)
    tell(particles, weights, found, sampling, options, log)
    total = int(np.count_nonzero(weights))
    with memory_errors("Use a larger --apix, or a smaller --box"):
        sums, left_out = insert_images(
            particles,
            weights[:, None],
            operators,
            found,
            device,
            options.projector,
            lambda done: log.progress("images", done, total),
        )
        if left_out:
            log.message(
                f"{left_out} images whose noise is far from the others' are not used: broken, or not normalised",
                "warning",
            )
        halves = cut_volumes(solve_halves(sums[0]), sampling.map_box)
        del sums
        result = map_result(
            halves,
            sampling.pixel_size_angstrom,
            None if mask is None else mask.to(device),
            options.bfactor,
            not options.no_local,
            options.seed,
        )
    origin = map_origin(chosen.configuration, sampling)
    write_results(result, particles, weights, left_out, origin, options, log)


def with_half_sets(chosen: Chosen, sampling: MapSampling, options: ReconstructOptions, log: JobLog) -> ParticleImages:
    """The particles with their half sets; a split that is drawn here is written down as ``half_sets.star``."""
    table = chosen.table
    image = number_images(table.stack_index, table.image_index)
    half, own = half_sets(table, image, options.seed)
    if own:
        log.message("half sets as the particle file has them (rlnRandomSubset)")
    else:
        write_split(table, half, log)
    return particle_images(table, chosen.aberrations, half, sampling.box, sampling.pixel_size_angstrom, chosen.white)


def write_split(table: ParticleTable, half: npt.NDArray[np.int64], log: JobLog) -> None:
    """Write the particles with the half set that each was put in."""
    target = log.directory / SPLIT
    if table.uid is None:
        written = write_star_rows(table.source, target, None, {"rlnRandomSubset": half}, renew=True)
    else:
        written = table_to_star(replace(table, random_subset=half), target)
    log.artifact("particles", SPLIT, "particles with their half sets", particles=written)
    log.message(
        "the particle file has no half sets (rlnRandomSubset): they are drawn at random, see half_sets.star. Poses "
        "that were refined against one map know it in both halves: their FSC may be too good",
        "warning",
    )


def check_half_sets(particles: ParticleImages, weights: npt.NDArray[np.float32]) -> None:
    """Raise InputError unless both half sets hold a particle that counts."""
    for half in (1, 2):
        if not ((particles.half == half) & (weights > 0)).any():
            raise InputError(
                "half sets",
                "must both hold particles",
                f"none of the chosen particles is in half set {half}",
                "Choose particles of both, or take rlnRandomSubset out of the file.",
            )


def read_mask(options: ReconstructOptions, sampling: MapSampling) -> Tensor | None:  # -> (D, D, D)
    """The mask that was given. Raises InputError for another box or pixel size, or values outside 0 to 1."""
    path = optional_input(options, "mask")
    if path is None:
        return None
    volume = read_map(path)
    wanted = (sampling.map_box,) * 3
    if volume.values.shape != wanted:
        raise InputError("mask", f"must have the map's box, {wanted[0]}", volume.values.shape, "Resample the mask.")
    low, high = float(volume.values.min()), float(volume.values.max())
    if low < -1e-3 or high > 1 + 1e-3 or not high > 0:
        raise InputError("mask", "must hold values from 0 to 1", f"{low:.3g} to {high:.3g}", "Make a mask of the map.")
    return torch.from_numpy(volume.values).clamp(0, 1)


def map_origin(configuration: Configuration | None, sampling: MapSampling) -> tuple[float, float, float]:
    """Place (A) of the first voxel, so that the map lies over the volumes of a training on the same data."""
    if configuration is None:
        return (0.0, 0.0, 0.0)
    given = configuration.extra.get("origin_angstrom", (0.0, 0.0, 0.0))
    centre = configuration.box // 2 * configuration.pixel_size_angstrom
    shift = centre - sampling.map_box // 2 * sampling.pixel_size_angstrom
    x, y, z = (float(value) + shift for value in given)
    return (x, y, z)


def tell(
    particles: ParticleImages,
    weights: npt.NDArray[np.float32],
    found: Background,
    sampling: MapSampling,
    options: ReconstructOptions,
    log: JobLog,
) -> None:
    """Say what is reconstructed, and what is done to the images first."""
    used = weights > 0
    counts = [int(np.count_nonzero(used & (particles.half == half))) for half in (1, 2)]
    words = f"{counts[0] + counts[1]} of {len(used)} particles" if not used.all() else f"{len(used)} particles"
    symmetry = "" if options.symmetry.upper() == "C1" else f", symmetry {options.symmetry}"
    log.message(
        f"{words} ({counts[0]} and {counts[1]} in the half sets) in a box of {sampling.box} px at "
        f"{sampling.pixel_size_angstrom:.4g} A/px{symmetry}"
        + (f"; maps of {sampling.map_box} px" if sampling.map_box != sampling.box else "")
    )
    if found.subtract:
        log.message("the images' backgrounds are not at 0: each image's own is taken off")
    if found.scale:
        log.message(
            f"the images' noise differs by {100 * found.spread:.0f} %: each is scaled so that its background has a "
            "standard deviation of 1"
        )


def write_results(
    result: MapResult,
    particles: ParticleImages,
    weights: npt.NDArray[np.float32],
    left_out: int,
    origin: tuple[float, float, float],
    options: ReconstructOptions,
    log: JobLog,
) -> None:
    """Write maps, plot, results.json and report.md; say the result in a line."""
    directory = log.directory
    write_maps(result, directory, origin)
    plot_result(result, directory / PLOT)
    entry = {"particles": particle_figures(particles, weights, left_out), "symmetry": options.symmetry}
    entry |= figures(result)
    write_json(directory / RESULTS, entry)
    write_atomically(directory / REPORT, report(entry, in_words(result)))
    level = contour_level(result.sharpened * result.mask)
    log.artifact("map", SHARPENED, "map, sharpened", level=level)
    for number, name in enumerate(HALF_MAPS, start=1):
        log.artifact("half_map", name, f"half map {number}, not filtered")
    log.artifact("volume", WHOLE, "map, not sharpened", level=contour_level(result.halves.whole * result.mask))
    if result.local is not None:
        log.artifact("volume", LOCAL, "map, filtered by local resolution", level=level)
        log.artifact("volume", LOCAL_RESOLUTION, "local resolution (A)")
    log.artifact("mask", MASK, "mask")
    if options.deposit:
        folder = write_deposition(result, entry, level, directory)
        log.message(f"{folder.name}/ holds what EMDB asks for")
    log.artifact("plot", PLOT, "FSC, Guinier plot, local resolution")
    log.artifact("summary", RESULTS, "figures")
    log.metric("reconstruct", 0, 0.0, resolution_angstrom=result.resolution_angstrom, bfactor=result.bfactor_angstrom2)
    log.message(in_words(result))


def particle_figures(particles: ParticleImages, weights: npt.NDArray[np.float32], left_out: int) -> dict[str, Any]:
    """How many particles made the map; with weights, how many of weight 1 they amount to."""
    used = weights > 0
    own = weights[used].astype(np.float64)
    return {
        "rows": len(weights),
        "used": int(used.sum()) - left_out,
        "broken": left_out,
        "effective": float(own.sum() ** 2 / np.square(own).sum()),
        "half_1": int(np.count_nonzero(used & (particles.half == 1))),
        "half_2": int(np.count_nonzero(used & (particles.half == 2))),
    }
