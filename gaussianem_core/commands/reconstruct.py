"""Reconstruct: particle images and poses -> half maps, FSC, sharpened map, local resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from gaussianem_core.analysis.report import half_models
from gaussianem_core.commands.volume_series import contour_level
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.backprojection import PADDING
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.symmetry import symmetry_operators
from gaussianem_core.io.image_rows import first_rows, number_images
from gaussianem_core.io.image_stack import ImageStack, StackWriter
from gaussianem_core.io.latents import load_latents, read_latent_rows, write_latent_rows
from gaussianem_core.io.mrc import read_map, write_map
from gaussianem_core.io.particle_rows import write_star_rows
from gaussianem_core.io.particle_table import ParticleTable, copy_optimisation_set, table_to_star
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.model.configuration import LENGTH_TOLERANCE, Configuration
from gaussianem_core.model.trained_model import TrainedModel, check_latents, load_model, load_model_of
from gaussianem_core.options import ReconstructOptions
from gaussianem_core.reconstruction.deposition import write_deposition
from gaussianem_core.reconstruction.domain_poses import (
    domain_motions,
    domain_poses,
    inside_mask,
    subtract_rest,
    write_domain_mask,
    write_domain_star,
)
from gaussianem_core.reconstruction.fsc import resolution
from gaussianem_core.reconstruction.half_volumes import (
    HalfVolumes,
    cut_volume,
    cut_volumes,
    insert_images,
    solve_halves,
)
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
    particle_of_rows,
    particle_weights,
    read_chosen,
)
from gaussianem_core.reconstruction.particle_images import (
    Background,
    ParticleImages,
    half_sets,
    measure_background,
    particle_images,
    read_ahead,
)
from gaussianem_core.reconstruction.plots import plot_result
from gaussianem_core.reconstruction.report import report, states_report
from gaussianem_core.reconstruction.rigid_motion import LEAST_GAUSSIANS
from gaussianem_core.reconstruction.sharpening import sharpen
from gaussianem_core.reconstruction.states import (
    HalfModel,
    Latents,
    StateVolumes,
    calibration_images,
    read_latents,
    solve_state,
    state_rings,
    undo_motion,
)
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import check_free_space, remove_replaced, write_atomically, write_json

RESULTS, REPORT, PLOT, SPLIT = "results.json", "report.md", "reconstruction.png", "half_sets.star"
STATE_MAP, DOMAIN_STAR, DOMAIN_MASK = "map_state.mrc", "domain_particles.star", "domain_mask.mrc"
SUBTRACTED, SUBTRACTED_STAR = "subtracted.mrcs", "subtracted.star"
OF_A_MAP = (*HALF_MAPS, WHOLE, SHARPENED, LOCAL, LOCAL_RESOLUTION, MASK, STATE_MAP, RESULTS, REPORT, PLOT)
"""Files written for each map."""
OF_A_DOMAIN = (DOMAIN_STAR, DOMAIN_MASK, SUBTRACTED, SUBTRACTED_STAR)


def run(options: ReconstructOptions, log: JobLog) -> None:
    """Write half maps, maps, mask, FSC and local resolution, results.json and report.md, for each state.

    Raises InputError for particles, latents, masks or a network that cannot be used together; ResourceError for too
    little disk or GPU memory.
    """
    device = choose_device(options.device, threads=options.threads)
    symmetry_operators(options.symmetry)  # refused before anything is read
    refuse_existing(log.directory, [SHARPENED, RESULTS], options.overwrite)
    chosen = read_chosen(options)
    for note in chosen.table.notes:
        log.message(note, "warning")
    weights = particle_weights(options, chosen.table)
    with ImageStack.from_table(chosen.table) as stack:
        sampling = map_sampling(stack, options.box, options.apix)
    model = load_model_of(options, None, device, log) if options.model_weight else None
    count = int(particle_of_rows(chosen.table).max()) + 1
    latents = read_latents(resolve_input(options, "latent"), count) if options.latent else None
    points = read_points(options, latents, model)
    check_free_space(log.directory, (8 * max(1, len(points)) + 1) * 4 * sampling.map_box**3)
    mask = read_mask(options, sampling)
    particles = with_half_sets(chosen, sampling, options, log)
    check_half_sets(particles, weights)
    found = measure_background(particles, options.seed, weights > 0)
    tell(particles, weights, found, sampling, options, log)
    work = Work(
        options, log, device, chosen, particles, weights, found, sampling, None if mask is None else mask.to(device)
    )
    of_states = [f"state_[0-9]*/{name}" for name in OF_A_MAP]  # of which there may have been more
    remove_replaced(log.directory, *OF_A_MAP, *OF_A_DOMAIN, "vol_[0-9]*.mrc", "z.txt", *of_states)
    with memory_errors("Use a larger --apix, or a smaller --box"):
        if options.undo_motion:
            assert latents is not None and model is not None
            motion_undone(work, latents, model, points[0] if len(points) else None)
        elif len(points):
            assert latents is not None
            around_states(work, latents, model, points)
        else:
            plain_map(work)
    if options.domain_poses:
        assert latents is not None and model is not None
        write_domain(work, latents, model)


@dataclass(frozen=True)
class Work:
    """What every kind of reconstruction here needs.

    Attributes
    ----------
    weights : (N,) of each row, 0 where it is not used. found : background of the images.
    mask : (D, D, D) in the map's box, or None where one is to be made.
    """

    options: ReconstructOptions
    log: JobLog
    device: torch.device
    chosen: Chosen
    particles: ParticleImages
    weights: npt.NDArray[np.float32]
    found: Background
    sampling: MapSampling
    mask: Tensor | None

    def report(self, total: int) -> Callable[[int], None]:
        """A function that reports how many of ``total`` images of a pass are done."""
        return lambda done: self.log.progress("images", done, total)

    def result(self, halves: HalfVolumes) -> MapResult:
        """Mask, FSC, sharpened map and local resolution from half maps, cut to the map's box."""
        return map_result(
            cut_volumes(halves, self.sampling.map_box),
            self.sampling.pixel_size_angstrom,
            self.mask,
            self.options.bfactor,
            not self.options.no_local,
            self.options.seed,
        )

    def tell_left_out(self, count: int) -> None:
        """Warn of ``count`` images that were left out as broken."""
        if count:
            self.log.message(
                f"{count:,} images whose noise is far from the others' are not used: broken, or not normalised",
                "warning",
            )


def plain_map(work: Work) -> None:
    """Reconstruct one map of all chosen particles, and write its results."""
    ring = np.where(work.weights > 0, 0, -1)
    sums, left_out = insert_images(
        work.particles,
        work.weights,
        [ring],
        symmetry_operators(work.options.symmetry),
        work.found,
        work.device,
        work.options.projector,
        work.report(int(np.count_nonzero(work.weights))),
    )
    work.tell_left_out(left_out)
    result = work.result(solve_halves(sums[0][0]))
    entry = particle_figures(work.particles, work.weights, left_out)
    write_results(work, result, {"particles": entry}, work.log.directory)


def around_states(work: Work, latents: Latents, model: TrainedModel | None, points: npt.NDArray[np.float64]) -> None:
    """Reconstruct a map for each of ``points`` (S, zdim), of the particles around it, and write the results.

    The images are read once, or several times where the sums of all states do not fit into memory together.
    """
    options, log, particle = work.options, work.log, work.particles.particle
    used = work.weights > 0
    half, chosen = work.particles.half[work.particles.first], used[work.particles.first]
    rings = [state_rings(latents, p, half, chosen, model, options.width) for p in points]
    size = 24 * (PADDING * work.sampling.box) ** 2 * (PADDING * work.sampling.box // 2 + 1)
    at_once = max(1, int(memory_for_sums(work.device) // (2 * size * max(len(r.counts) for r in rings))))
    if at_once < len(points):
        log.message(
            f"{at_once} states at a time, for the memory: the images are read {-(-len(points) // at_once)} times"
        )
    several = len(points) > 1
    entries = []
    for start in range(0, len(points), at_once):
        part = rings[start : start + at_once]
        everyone = np.any([r.ring >= 0 for r in part], axis=0)[particle]
        sums, left_out = insert_images(
            work.particles,
            work.weights,
            [r.ring[particle] for r in part],
            symmetry_operators(options.symmetry),
            work.found,
            work.device,
            options.projector,
            work.report(int(np.count_nonzero(everyone & used))),
        )
        work.tell_left_out(left_out)
        for number, (own, ring) in enumerate(zip(sums, part), start=start):
            state = solve_state(own, ring.counts, work.sampling.pixel_size_angstrom)
            own.clear()
            directory = log.directory / f"state_{number + 1:03d}" if several else log.directory
            directory.mkdir(exist_ok=True)
            inside = np.where(((ring.ring >= 0) & (ring.ring <= state.chosen))[particle], work.weights, 0)
            entry = {
                "particles": particle_figures(work.particles, inside, 0),
                "state": state_figures(state, points[number]),
            }
            result = work.result(state.halves)
            if model is not None:
                entry["decoded"] = compare_with_decoded(work, result, model, points[number])
            shown = write_state_map(work, result, state, directory)
            entries.append(write_results(work, result, entry, directory, f"state {number + 1}: " if several else ""))
            if several:
                write_map(log.directory / f"vol_{number + 1:03d}.mrc", shown, result.agreement.pixel_size_angstrom)
            log.progress("states", number + 1, len(points), "maps")
    if several:
        write_latent_rows(points, log.directory / "z.txt")
        write_json(log.directory / RESULTS, {"states": entries})
        write_atomically(log.directory / REPORT, states_report(entries))
        log.artifact("volume_series", log.directory, "maps along the states", count=len(points), z="z.txt")
        log.artifact("trajectory", "z.txt", "latents of the maps", points=len(points))
        log.artifact("summary", RESULTS, "figures")


def memory_for_sums(device: torch.device) -> float:
    """Bytes that sums may take: half of the device's free memory."""
    if device.type == "cuda":
        return 0.5 * torch.cuda.mem_get_info(device)[0]
    return 0.5 * psutil.virtual_memory().available


def write_state_map(work: Work, result: MapResult, state: StateVolumes, directory: Path) -> npt.NDArray[np.float32]:
    """Write the combined map of a state (see `latent_kernel.combine_widths`); returns the map (D, D, D) to show.

    Where there is one width, nothing is written and the sharpened map is returned.
    """
    found = result.agreement
    if state.combined is None:
        return result.sharpened.cpu().numpy()
    combined = cut_volume(state.combined, work.sampling.map_box)
    origin = map_origin(work.chosen.configuration, work.sampling)
    shown = sharpen(combined, found.corrected, result.bfactor_angstrom2, found.pixel_size_angstrom).cpu().numpy()
    write_map(directory / STATE_MAP, shown, found.pixel_size_angstrom, origin)
    level = contour_level(torch.from_numpy(shown) * result.mask.cpu())
    work.log.artifact("volume", directory / STATE_MAP, "map of the state, region by region", level=level)
    return np.asarray(shown)


def compare_with_decoded(
    work: Work, result: MapResult, model: TrainedModel, point: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """FSC of the map and the volume decoded at ``point`` (zdim,), within the mask; {} for another pixel size."""
    box = work.sampling.map_box
    if abs(model.pixel_size(box) / work.sampling.pixel_size_angstrom - 1) > LENGTH_TOLERANCE:
        return {}
    decoded = next(model.volumes(point[None], box)) * result.mask
    curve = fourier_shell_correlation(result.halves.whole * result.mask, decoded)
    return {
        "fsc": [round(float(value), 6) for value in curve],
        "resolution_half_angstrom": resolution(curve, box, work.sampling.pixel_size_angstrom, 0.5),
    }


def motion_undone(work: Work, latents: Latents, model: TrainedModel, state: npt.NDArray[np.float64] | None) -> None:
    """Reconstruct one map of all chosen particles, each brought to ``state`` (zdim,) or, with None, the consensus."""
    halves = own_models(work, model) if state is None else ()
    undone = undo_motion(
        work.particles,
        work.weights,
        latents,
        model,
        state,
        halves,
        work.found,
        work.options.projector,
        work.options.seed,
        lambda done, total: work.log.progress("motions", done, total, "particles"),
        work.report(int(np.count_nonzero(work.weights))),
    )
    work.tell_left_out(undone.left_out)
    where = "the consensus" if state is None else "the state of --around"
    work.log.message(
        f"motion undone: {undone.parts} parts brought to {where}; within them Gaussians are "
        f"{undone.misfit_pixels:.2f} px (root mean square, pixels of the training) from where rigid motions take them; "
        f"put right by the images, the motions are {undone.gain:.2f} nats an image more likely"
    )
    if halves:
        work.log.message("the motion of each half set is told by a network that saw no other particles")
    else:
        work.log.message(
            "one network, trained on all particles, tells the motion of both half sets: what it took for motion in "
            "their noise is in both half maps, and their FSC may be too good. Train with --half_sets, and bring the "
            "particles to the consensus, for half sets of their own",
            "warning",
        )
    entry = {
        "particles": particle_figures(work.particles, work.weights, undone.left_out),
        "motion_undone": {
            "parts": undone.parts,
            "misfit_pixels": undone.misfit_pixels,
            "state": None if state is None else state.tolist(),
            "half_sets_independent": bool(halves),
        },
    }
    write_results(work, work.result(undone.halves), entry, work.log.directory)


def own_models(work: Work, model: TrainedModel) -> tuple[HalfModel, ...]:
    """The models of both half sets beside the network; () unless they were trained on the half sets of these maps."""
    weights = resolve_input(work.options, "model_weight")
    pair = half_models(weights)
    if pair is None:
        return ()
    found, known = [], work.particles.half[work.particles.first]
    for half, path in enumerate(pair, start=1):
        stored = path.with_name(path.name.replace(".pkl", ".output.pkl"))
        if not stored.is_file():
            return ()
        rows = load_latents(stored)["ind"].reshape(-1).astype(np.int64)
        fits = len(rows) and rows.max() < len(known) and (known[rows] == half).all()
        own = load_model(resolve_input(work.options, "cfg"), path, None, None, work.device, work.options.projector)
        if not fits or len(own.gaussians) != len(model.gaussians):
            return ()
        found.append(HalfModel(own, rows, read_latents(stored, len(rows))))
    return tuple(found)


def write_domain(work: Work, latents: Latents, model: TrainedModel) -> None:
    """Write a domain's own poses as a particles file, its mask, and on request the images with the rest subtracted.

    Raises InputError unless the particle file is a STAR file with a row for each image.
    """
    options, log, table = work.options, work.log, work.chosen.table
    if table.uid is not None:
        raise InputError(
            "--domain_poses",
            "must be asked for with a STAR file",
            table.source,
            "Give particles.star of the preprocess job.",
        )
    if table.tomograms is not None:
        raise InputError(
            "--domain_poses",
            "must be asked for where the particle file has a row an image",
            f"{table.source}, which has a row for all images of a particle",
            "Leave it out.",
        )
    particle = work.particles.particle
    mask = read_map(resolve_input(options, "domain_poses")).values
    labels = inside_mask(model, mask)
    parts, sample = labels, None
    if (labels != 0).sum() >= LEAST_GAUSSIANS:  # else too little is left for a motion of its own
        parts = np.where(labels == 0, 0, 1)  # the domain, and all the rest
        sample = calibration_images(work.particles, work.weights, particle, work.found, work.device, options.seed)
    motions = domain_motions(
        model,
        latents,
        parts,
        sample,
        report=lambda done: log.progress("motions", done, len(latents.mean), "particles"),
    )
    poses = domain_poses(model, motions.rows(torch.from_numpy(particle)), work.particles.rotations, 0)
    source = optional_input(options, "poses") or table.source
    written = write_domain_star(source, log.directory / DOMAIN_STAR, None, poses)
    write_domain_mask(model, labels, 0, log.directory / DOMAIN_MASK, work.sampling.map_box)
    log.artifact("particles", DOMAIN_STAR, "particles in the domain's own poses", particles=written)
    log.artifact("mask", DOMAIN_MASK, "mask of the domain")
    absent = int((poses.occupancy < 0.5).sum())
    log.message(
        f"poses of the domain of {int((labels == 0).sum())} Gaussians, which move rigidly to "
        f"{poses.misfit_angstrom:.2f} A; {absent:,} of {len(table):,} particles lack it"
    )
    if options.subtract:
        subtract_domain(work, latents, model, labels)


def subtract_domain(work: Work, latents: Latents, model: TrainedModel, labels: npt.NDArray[np.integer]) -> None:
    """Write the images with all but the domain subtracted, and the particles file that lists them.

    ``labels`` (M,): 0 for the domain's Gaussians.
    """
    particles, log = work.particles, work.log
    rows_done: list[npt.NDArray[np.int64]] = []
    everyone = np.ones(len(particles), bool)

    def batches() -> Iterator[tuple[Tensor, np.ndarray, Tensor, Tensor, Tensor, Tensor | None]]:
        sign = 1.0 if particles.white else -1.0
        for rows, images in read_ahead(
            particles, everyone, lambda done: log.progress("subtract", done, len(particles))
        ):
            rows_done.append(rows)
            tensors = [
                torch.from_numpy(a[rows]).to(work.device, torch.float32)
                for a in (particles.rotations, particles.shifts, particles.parameters)
            ]
            z = latents.mean[particles.particle[rows]]
            yield sign * images.to(work.device), z, tensors[0], tensors[1], tensors[2], None

    with StackWriter(
        log.directory / SUBTRACTED, len(particles), particles.box, particles.pixel_size_angstrom
    ) as writer:
        for number, images in enumerate(subtract_rest(model, labels == 0, batches())):
            writer.write(rows_done[number], images.cpu().numpy())
    names = [f"{i + 1:06d}@{log.directory / SUBTRACTED}" for i in range(len(particles))]
    source = log.directory / DOMAIN_STAR
    write_star_rows(source, log.directory / SUBTRACTED_STAR, None, {"rlnImageName": names}, renew=True)
    log.artifact("stack", SUBTRACTED, "images with all but the domain subtracted")
    log.artifact("particles", SUBTRACTED_STAR, "particles of these images", particles=len(particles))


def read_points(
    options: ReconstructOptions, latents: Latents | None, model: TrainedModel | None
) -> npt.NDArray[np.float64]:  # -> (S, zdim)
    """Latents of the states asked for; (0, 0) without ``around``.

    Raises InputError for another number of latents, values that are not finite, or several states with
    ``undo_motion``.
    """
    path = optional_input(options, "around")
    if path is None or latents is None:
        return np.zeros((0, 0))
    points = read_latent_rows(path)
    wanted = latents.mean.shape[1]
    if points.shape[1] != wanted or not np.isfinite(points).all():
        raise InputError(
            "around", f"must hold {wanted} finite values a row", points.shape, "Use latents of this model."
        )
    if model is not None:
        check_latents(latents.mean, model, "latent")
    if options.undo_motion and len(points) > 1:
        raise InputError("around", "must be one row where motion is undone", len(points), "Give one state.")
    return points


def with_half_sets(chosen: Chosen, sampling: MapSampling, options: ReconstructOptions, log: JobLog) -> ParticleImages:
    """The particles with their half sets; a split that is drawn at random is written as ``half_sets.star``."""
    table = chosen.table
    image = number_images(table.stack_index, table.image_index)
    half, own = half_sets(table, image, options.seed)
    if own:
        log.message("half sets as the particle file has them (rlnRandomSubset)")
    else:
        write_split(table, half, log)
    return particle_images(table, chosen.aberrations, half, sampling.box, sampling.pixel_size_angstrom, chosen.white)


def write_split(table: ParticleTable, half: npt.NDArray[np.int64], log: JobLog) -> None:
    """Write the particles with their half sets ``half`` (N,), 1 or 2, as rlnRandomSubset."""
    target = log.directory / SPLIT
    if table.uid is None:
        own = half if table.tomograms is None else half[first_rows(particle_of_rows(table))]
        written = write_star_rows(table.source, target, None, {"rlnRandomSubset": own}, renew=True)
        copy_optimisation_set(table.source, target)
    else:
        written = table_to_star(replace(table, random_subset=half), target)
    log.artifact("particles", SPLIT, "particles with their half sets", particles=written)
    parted = table.particle is not None and table.random_subset.any()
    lacks = "parts images of one particle by its half sets" if parted else "has no half sets"
    log.message(
        f"the particle file {lacks} (rlnRandomSubset): they are drawn at random, see half_sets.star. Poses "
        "that were refined against one map know it in both halves: their FSC may be too good",
        "warning",
    )


def check_half_sets(particles: ParticleImages, weights: npt.NDArray[np.float32]) -> None:
    """Raise InputError unless both half sets hold a particle of a weight (N,) above 0."""
    for half in (1, 2):
        if not ((particles.half == half) & (weights > 0)).any():
            raise InputError(
                "half sets",
                "must both hold particles",
                f"none of the chosen particles is in half set {half}",
                "Choose particles of both, or take rlnRandomSubset out of the file.",
            )


def read_mask(options: ReconstructOptions, sampling: MapSampling) -> Tensor | None:  # -> (D, D, D)
    """The mask that was given, from 0 to 1; None without. Raises InputError for another box or values beyond these."""
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
    """Place x, y, z (A) of the first voxel, so that the map overlays the volumes of a training on the same data."""
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
    """Report what is reconstructed, and how the images are normalised first; ``weights`` (N,)."""
    used, half = (weights > 0)[particles.first], particles.half[particles.first]
    counts = [int(np.count_nonzero(used & (half == value))) for value in (1, 2)]
    words = f"{counts[0] + counts[1]:,} of {len(used):,} particles" if not used.all() else f"{len(used):,} particles"
    if len(used) < len(weights):
        words += f", {np.count_nonzero(weights)} tilt images"
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
    work: Work, result: MapResult, entry: dict[str, Any], directory: Path, prefix: str = ""
) -> dict[str, Any]:
    """Write maps, plot, results.json and report.md; report the result in a line. Returns what results.json holds."""
    options, log = work.options, work.log
    write_maps(result, directory, map_origin(work.chosen.configuration, work.sampling))
    plot_result(result, directory / PLOT)
    entry = {**entry, "symmetry": options.symmetry, **figures(result)}
    write_json(directory / RESULTS, entry)
    write_atomically(directory / REPORT, report(entry, in_words(result)))
    level = contour_level(result.sharpened * result.mask)
    log.artifact("map", directory / SHARPENED, f"{prefix}map, sharpened", level=level)
    for number, name in enumerate(HALF_MAPS, start=1):
        log.artifact("half_map", directory / name, f"{prefix}half map {number}, not filtered")
    raw = contour_level(result.halves.whole * result.mask)
    log.artifact("volume", directory / WHOLE, f"{prefix}map, not sharpened", level=raw)
    if result.local is not None:
        log.artifact("volume", directory / LOCAL, f"{prefix}map, filtered by local resolution", level=level)
        log.artifact("volume", directory / LOCAL_RESOLUTION, f"{prefix}local resolution (A)")
    log.artifact("mask", directory / MASK, f"{prefix}mask")
    if options.deposit:
        folder = write_deposition(result, entry, level, directory)
        log.message(f"{folder.relative_to(log.directory)}/ holds what EMDB asks for")
    log.artifact("plot", directory / PLOT, f"{prefix}FSC, Guinier plot, local resolution")
    log.artifact("summary", directory / RESULTS, f"{prefix}figures")
    log.metric("reconstruct", 0, 0.0, resolution_angstrom=result.resolution_angstrom, bfactor=result.bfactor_angstrom2)
    log.message(f"{prefix}{in_words(result)}")
    return entry


def state_figures(state: StateVolumes, point: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Figures of a state's map for results.json: widths tried, the one chosen, cross-validation; ``point`` (zdim,)."""
    return {
        "z": point.tolist(),
        "widths_particles": state.counts.tolist(),
        "chosen_particles": int(state.counts[state.chosen]),
        "cross_validation_errors": state.errors.tolist(),
        "effective_particles_by_band": state.effective.tolist(),
    }


def particle_figures(particles: ParticleImages, weights: npt.NDArray[np.float32], left_out: int) -> dict[str, Any]:
    """Numbers of particles for results.json.

    ``effective`` is (sum w)^2 / sum w^2 of the weights (Kish, Survey Sampling, 1965). Of tilt series also the number of
    images; ``broken`` counts images. ``weights`` (N,) of each row, ``left_out`` images of them broken.
    """
    images, several = int(np.count_nonzero(weights)) - left_out, len(particles.first) < len(weights)
    weights, half = weights[particles.first], particles.half[particles.first]
    used = weights > 0
    own = weights[used].astype(np.float64)
    figures = {
        "rows": len(weights),
        "used": int(used.sum()) - (0 if several else left_out),
        "broken": left_out,
        "effective": float(own.sum() ** 2 / np.square(own).sum()),
        "half_1": int(np.count_nonzero(used & (half == 1))),
        "half_2": int(np.count_nonzero(used & (half == 2))),
    }
    return figures | ({"images": images} if several else {})
