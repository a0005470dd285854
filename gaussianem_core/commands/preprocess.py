"""Preprocess: refinement results -> written stack, poses, CTF, configuration and consensus Gaussians."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.commands.image_treatment import Treatment, decide
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import ABERRATIONS, Aberrations, save_aberrations
from gaussianem_core.imaging.correction import corrected_shifts
from gaussianem_core.imaging.fourier import fourier_crop, fourier_shell_correlation, fsc_area
from gaussianem_core.imaging.optics import zernike_sum
from gaussianem_core.imaging.pose import pack_poses
from gaussianem_core.imaging.resampling import largest_box
from gaussianem_core.imaging.symmetry import symmetry_operators
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.corrected_images import CorrectedImages, Source, ctf_parameters
from gaussianem_core.io.image_rows import IMAGES, PARTICLES, first_rows
from gaussianem_core.io.image_stack import ImageGroup, ImageStack, StackWriter, Volume, read_map
from gaussianem_core.io.mrc import write_map
from gaussianem_core.io.particle_table import ParticleTable, expand, read_particles, write_particles_star
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input, resolve_inputs
from gaussianem_core.model.configuration import (
    LENGTH_TOLERANCE,
    NETWORK_KEYS,
    WORLD,
    Configuration,
    write_configuration,
)
from gaussianem_core.model.detail import CONSENSUS_MAP
from gaussianem_core.model.gaussians import Gaussians, write_gaussians
from gaussianem_core.options import PreprocessOptions
from gaussianem_core.runtime.device import choose_device, gpu_memory_advice
from gaussianem_core.runtime.files import atomic_write, check_free_space, disk_errors, sync_directory
from gaussianem_core.runtime.sources import refuse_source, sources_kept
from gaussianem_core.training import consensus_fit
from gaussianem_core.training.forward_model import Views
from gaussianem_core.training.junk import broken

STACK, POSES, CTF, GAUSSIANS, CFG, STAR = (
    "img_stack.mrcs",
    "poses.npy",
    "ctf.npy",
    "point_cloud.ply",
    "cfg.json",
    "particles.star",
)
LABELS = {
    "stack": (STACK, "particle images"),
    "poses": (POSES, "orientations"),
    "ctf": (CTF, "CTF parameters"),
    "gaussians": (GAUSSIANS, "consensus Gaussians"),
    "configuration": (CFG, "configuration"),
    "particles": (STAR, "input particles, in order"),
    "map": (CONSENSUS_MAP, "consensus map in the box of the images"),
}
SOMETIMES = (ABERRATIONS, IMAGES, PARTICLES, "particles_optimisation_set.star")
"""Files that only some data need: those of an earlier run must not stay behind."""

DEFAULT_BOX = 128
STAGE = ".preprocess"
SAMPLED_IMAGES = 1000
"""Images whose deviation scales the stack, and that tell amplitude and contrast before anything is written."""

SAMPLE_BYTES = 256 << 20
CONSENSUS_BYTES = 2 << 30
"""Images held in memory for the sample and for the consensus fit, at most."""

BLOCK_BYTES = 8 << 20
"""Images (float32) that one thread reads, crops and writes at once. The memory of larger blocks goes back to the system
each time, and the threads wait for new pages."""

OTHER_BYTES = 1024
"""Of a particle, beside its image: poses, CTF and its row in the STAR file."""

CONTRAST_SIGMAS = 5.0


def stages(options: PreprocessOptions) -> dict[str, float]:
    """Stages of the job, in order, and their usual shares of its time (in any unit)."""
    if not options.epoch:
        return {"crop images": 1}
    first = {} if options.consensus_recipe == "published" else {"fit to the map": 25.0}
    return {**first, "crop images": 45, "fit consensus": 30}


def run(options: PreprocessOptions, log: JobLog) -> None:
    """Prepare the data as ``options`` say; results and events go to the log's directory.

    Nothing is written before the input has been checked, and results appear together at the end: a run that fails or
    is stopped leaves those of an earlier one as they were.

    Raises InputError for particles, images or a map that cannot be used together; ResourceError for too little disk or
    GPU memory.
    """
    device = choose_device(options.device, threads=options.threads)
    out = log.directory
    log.plan(stages(options), repeated=["fit consensus"])
    refuse_existing(out, [STACK, POSES, CTF, GAUSSIANS, CFG, STAR, CONSENSUS_MAP], options.overwrite)
    table, image = read_table(options, log)
    with sources_kept(table.stacks):  # the options do not name them
        for name in (*(name for name, _ in LABELS.values()), *SOMETIMES):
            refuse_source(out / name)
    images = ImageStack.from_table(table)
    volume = read_map(resolve_input(options, "consensus_map"))
    raw_box, raw_pixel, volume = reference_sampling(images, volume, options, log)
    box = choose_box(images.groups(), raw_box, raw_pixel, options, log)
    pixel = raw_pixel * raw_box / box
    count = int(image.max()) + 1
    check_free_space(out, count * box * box * (2 if options.float16 else 4) + len(table) * OTHER_BYTES + 4 * box**3)
    bounds = (options.scale_min / box * WORLD, options.scale_max / box * WORLD)
    place = partial(
        consensus_fit.place_gaussians,
        threshold=options.map_thres,
        interval=options.sample_interval,
        cap=options.max_gaussians,
        target_box=box,
        scale_min=bounds[0],
        scale_max=bounds[1],
        pixel_size_angstrom=volume.pixel_size_angstrom,
    )
    gaussians, contour, spacing = place(volume.values)
    what = "particles" if table.particle is None else "images"
    fine = contour.resolution_angstrom
    smoothed = "" if fine is None else f", smoothed to {fine:.3g} A to see faint parts in its noise,"
    log.message(
        f"{len(table):,} {what} of {raw_box} px at {raw_pixel:.4g} A/px, written as {box} px at {pixel:.4g} A/px; "
        f"contour level {contour.level:.4g} of the consensus map{smoothed} gives {len(gaussians):,} Gaussians, "
        f"{spacing:.3g} voxels apart"
    )
    rotations = table.rotations
    treatment = decide(
        table,
        images,
        gaussians.to(device),
        rotations,
        lambda aberrations: corrected_shifts(table.shifts_angstrom, aberrations) / pixel,
        box,
        pixel,
        not options.no_invert,
        options.projector,
        options.seed,
        log,
    )
    if treatment.mirror:
        volume = mirrored(volume, treatment)
        gaussians, contour, spacing = place(volume.values)
    aberrations = treatment.aberrations
    geometry = Geometry(
        rotations,
        corrected_shifts(table.shifts_angstrom, aberrations) / pixel,
        ctf_parameters(table, aberrations, box, pixel),
        treatment.white,
    )
    corrected = CorrectedImages(images, aberrations, geometry.ctf, box, pixel)
    tell_corrections(aberrations, table, pixel, log)
    rows, sample = read_sample(corrected, options.seed)
    factor = 1.0 / measure_std(sample)
    gaussians = gaussians.to(device)
    with gpu_memory_advice(options.batch_size, "--batch_size", "--device cpu"):
        density = map_in_box(volume, box, device)
        data = consensus_data(geometry, sample * np.float32(factor), rows, device)
        amplitude, sigmas = consensus_fit.fit_amplitude(gaussians, data, options.projector)
        check_contrast(sigmas)
        if options.epoch and options.consensus_recipe != "published":
            gaussians = consensus_fit.fit_to_map(gaussians, density, log)
            amplitude, _ = consensus_fit.fit_amplitude(gaussians, data, options.projector)
    gaussians = consensus_fit.scale_densities(gaussians, amplitude)
    del sample, data
    with staged(out) as stage:
        std = write_stack(corrected, image, factor, stage / STACK, options, log)
        arrays = {POSES: pack_poses(geometry.rotations, geometry.shifts), CTF: geometry.ctf[:, :9]}
        if count < len(table):
            arrays[IMAGES] = image
        if table.particle is not None:
            arrays[PARTICLES] = table.particle
        for name, array in arrays.items():
            with atomic_write(stage / name) as file:
                np.save(file, array)
        if not aberrations.plain:
            save_aberrations(stage / ABERRATIONS, aberrations)
        write_particles_star(table, stage / STAR)
        with gpu_memory_advice(options.batch_size, "--batch_size", "--device cpu"):
            gaussians = fit_consensus(gaussians, geometry, image, stage / STACK, options, device, log)
            report_fsc(gaussians, density, volume.values.shape[0] * volume.pixel_size_angstrom, pixel, log)
        write_gaussians(gaussians, stage / GAUSSIANS)
        write_map(stage / CONSENSUS_MAP, density.cpu().numpy(), pixel * box / len(density), map_origin(volume))
        network = {key: getattr(options, key) for key in NETWORK_KEYS}
        extra = {"stack_scale": factor, "map_level": contour.level, "origin_angstrom": map_origin(volume)}
        extra |= {"given": given} if (given := given_constants(options)) else {}
        extra |= {"symmetry": options.symmetry} if len(symmetry_operators(options.symmetry)) > 1 else {}
        configuration = Configuration(box, pixel, *bounds, std, treatment.white, not options.no_window, network, extra)
        write_configuration(configuration, stage / CFG)
    for kind, (name, label) in LABELS.items():
        log.artifact(kind, out / name, label)
    particles = len(table) if table.particle is None else int(table.particle.max()) + 1
    log.artifact("preprocessed", CFG, "prepared data", particles=particles, gaussians=len(gaussians), box=box)


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden directory in ``out`` whose files are moved to ``out`` when the block ends well, else removed.

    Raises InputError or ResourceError where the disk cannot be written (see ``runtime.files.disk_errors``).
    """
    stage = out / STAGE
    shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed
    with disk_errors(stage):
        stage.mkdir()
    try:
        yield stage
        with disk_errors(out):
            for name in SOMETIMES:
                if not (stage / name).exists():
                    (out / name).unlink(missing_ok=True)
            results = sorted(stage.iterdir(), key=lambda p: p.name == CFG)  # the configuration last
            for path in results:
                refuse_source(out / path.name)
            for path in results:
                os.replace(path, out / path.name)
            sync_directory(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@dataclass(frozen=True)
class Geometry:
    """What projects the molecule into N images.

    Attributes
    ----------
    rotations : (N, 3, 3). shifts : (N, 2) px of the written box.
    ctf : (N, 9 or more) parameters (see ``imaging.ctf``). invert : whether the protein is white.
    """

    rotations: np.ndarray
    shifts: np.ndarray
    ctf: np.ndarray
    invert: bool


# -- reading ---------------------------------------------------------------------------------------------------


def read_table(options: PreprocessOptions, log: JobLog) -> tuple[ParticleTable, np.ndarray]:
    """The particles with poses and CTF, their stacks found and checked, and which image of the stack each row shows
    (N,); one row for each symmetry mate, where symmetry is asked for.

    Raises InputError for fewer than two particles, for particles that are expanded already where symmetry is asked
    for, and where :func:`read_particles` does.
    """
    given = resolve_input(options, "star_file")
    data_dir = optional_input(options, "data_dir")
    table = read_particles(
        given,
        data_dir,
        options.source_dir,
        resolve_inputs(options, "passthrough"),
        pixel_size_angstrom=options.apix,
        voltage_kv=options.voltage,
        cs_mm=options.cs,
        amplitude_contrast=options.amplitude_contrast,
        group_by=options.group_by,
    )
    if table.particle is not None:
        tell_tilts(table.particle, options, log)
    if len(table) < 2:
        raise InputError("star_file", "must list at least two particles", len(table), "Give more particles.")
    for note in table.notes:
        log.message(note, "warning")
    for name, value in given_constants(options).items():
        log.message(f"{name} {value:g}, as given")
    operators = symmetry_operators(options.symmetry)
    image = table.images_of_expansion()
    if image is not None:
        count = int(image.max()) + 1
        if len(operators) > 1:
            raise InputError(
                "--symmetry",
                "must be left out for particles that are expanded already",
                f"{len(table)} rows of {count} images",
                "Leave it out: the rows are taken as they are.",
            )
        log.message(
            f"{len(table):,} rows show {count:,} images in several poses: they are symmetry-expanded, and taken so; "
            "what counts particles counts images"
        )
        return table, image
    if len(operators) == 1:
        return table, np.arange(len(table))
    log.message(f"symmetry {options.symmetry}: {len(operators)} rows for each of {len(table):,} images")
    return expand(table, operators), np.repeat(np.arange(len(table)), len(operators))


def tell_tilts(particle: np.ndarray, options: PreprocessOptions, log: JobLog) -> None:
    """Report that particles have several images each; ``particle`` (N,) is that of each image.

    Raises InputError where symmetry is asked for.
    """
    sizes = np.bincount(particle)
    if len(symmetry_operators(options.symmetry)) > 1:
        raise InputError(
            "--symmetry",
            "must be left out for tilt series",
            options.symmetry,
            "Expand the particles in RELION (relion_particle_symmetry_expand), and give the file that it writes.",
        )
    each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    log.message(f"{len(sizes):,} particles with {each} images each: a latent for each particle")


def given_constants(options: PreprocessOptions) -> dict[str, float]:
    """The constants that the user gave for all images, by option: A/px, kV, mm and a share."""
    values = {name: getattr(options, name) for name in ("apix", "voltage", "cs", "amplitude_contrast")}
    return {name: value for name, value in values.items() if value is not None}


def reference_sampling(
    images: ImageStack, volume: Volume, options: PreprocessOptions, log: JobLog
) -> tuple[int, float, Volume]:
    """Box (px) and pixel size (A) that all images are brought to, and the map with its pixel size.

    Those of the images that span the map's length (of the largest group where several do), checked against the options.

    Raises InputError for a map that is no cube of even size or spans another length, for images of an odd box, and
    for a box or pixel size that the files contradict.
    """
    groups = images.groups()
    shape = volume.values.shape
    if len(set(shape)) != 1 or shape[0] % 2:
        raise InputError("consensus_map", "must be a cube of even size", shape, "Give the map of the refinement.")
    length = shape[0] * volume.pixel_size_angstrom
    fits = [g for g in groups if abs(length / (g.box_size * g.pixel_size_angstrom) - 1) <= LENGTH_TOLERANCE]
    group = fits[0] if fits else groups[0]
    box, pixel = group.box_size, group.pixel_size_angstrom
    if box % 2:
        raise InputError("particle images", "must have an even box", box, "Extract them again with an even box.")
    if options.size is not None and options.size != box:
        raise InputError("--size", f"must be the images' box, {box}", options.size, "Leave it out or correct it.")
    if options.apix is not None and abs(options.apix - pixel) > LENGTH_TOLERANCE * pixel:
        raise InputError(
            "--apix", f"must be the images' pixel size, {pixel:.4g} A", options.apix, "Leave it out or correct it."
        )
    if not fits and shape[0] == box and no_pixel_size(volume, pixel):
        log.message(f"the consensus map has no real pixel size in its header: taken as {pixel:.4g} A", "warning")
        return box, pixel, replace(volume, pixel_size_angstrom=pixel)
    if not fits:
        raise InputError(
            "consensus_map",
            f"must span the images' {box} x {pixel:.4g} A = {box * pixel:.1f} A",
            f"{shape[0]} x {volume.pixel_size_angstrom:.4g} A",
            "Give the map of this refinement, or resample it to the images' box.",
        )
    if len(groups) > 1:
        sizes = ", ".join(
            f"{g.box_size} px at {g.pixel_size_angstrom:.4g} A ({len(g.rows):,} particles)" for g in groups[:4]
        )
        log.message(f"images of {len(groups)} boxes or pixel sizes: {sizes}; all come to the map's, {pixel:.4g} A")
    return box, pixel, volume


def no_pixel_size(volume: Volume, pixel: float) -> bool:
    """Whether a map's header holds no real pixel size: none, or 1 A where the images' ``pixel`` (A) is not 1."""
    size = volume.pixel_size_angstrom
    return not np.isfinite(size) or abs(size - 1.0) < 1e-3 < abs(pixel - 1.0)


def choose_box(
    groups: list[ImageGroup], raw_box: int, raw_pixel: float, options: PreprocessOptions, log: JobLog
) -> int:
    """Box (px) of the written images: as given, or the smallest of DEFAULT_BOX, the images' and what the coarsest fill.

    Raises InputError for an odd box, or one beyond the images'.
    """
    length = raw_box * raw_pixel
    box = options.downsample_size
    if box is None:
        fits = min(largest_box(g.pixel_size_angstrom, length) for g in groups)
        box = min(DEFAULT_BOX, raw_box, fits)
        if fits < min(DEFAULT_BOX, raw_box):
            log.message(f"written in a box of {box} px: the coarsest images hold no finer detail")
    if box % 2:
        raise InputError("--downsample_size", "must be even", box, f"Give {box + 1} or {box - 1}.")
    if box > raw_box:
        raise InputError("--downsample_size", f"must not exceed the images' box, {raw_box}", box, "Give a smaller one.")
    return box


def mirrored(volume: Volume, treatment: Treatment) -> Volume:
    """The map with the other hand (see ``Treatment``)."""
    axes = tuple(2 - axis for axis in treatment.mirror)  # [z, y, x]
    values = np.flip(volume.values, axes)
    if not treatment.middle:  # about the voxel D // 2
        values = np.roll(values, 1, axes)
    return replace(volume, values=np.ascontiguousarray(values))


def map_origin(volume: Volume) -> tuple[float, float, float]:
    """Place (x, y, z, Angstrom) of the map's first voxel.

    A header tells it as an origin or as start voxels. Where it has both, the origin counts, as in map viewers.
    """
    if any(volume.origin_angstrom):
        return volume.origin_angstrom
    x, y, z = (start * volume.pixel_size_angstrom for start in volume.start_voxels)
    return x, y, z


# -- images ----------------------------------------------------------------------------------------------------


def tell_corrections(aberrations: Aberrations, table: ParticleTable, pixel: float, log: JobLog) -> None:
    """Report which aberrations of the particle file are corrected, and how large they are; ``pixel`` in A."""
    if aberrations.magnified.any():
        largest = max(np.linalg.svd(m, compute_uv=False).max() for m in aberrations.magnification)
        least = min(np.linalg.svd(m, compute_uv=False).min() for m in aberrations.magnification)
        log.message(
            f"anisotropic magnification of {100 * (largest - 1):+.2g} to {100 * (least - 1):+.2g} % is taken off the "
            "images"
        )
    if aberrations.odd_zernike.any():
        reach = resolution_of_phase(aberrations, pixel)
        log.message(f"beam tilt and odd aberrations (45 degrees of phase at {reach}) are taken off the images")
    if aberrations.even_zernike.any():
        log.message("even aberrations are part of the CTF")
    if aberrations.bfactor_angstrom2.any() or (np.abs(aberrations.scale) != 1).any():
        log.message("B-factors and scales of the CTF are part of it")
    if aberrations.dose.any():
        log.message(f"radiation damage of up to {aberrations.dose.max():.0f} e/A^2 is part of the CTF")


def resolution_of_phase(aberrations: Aberrations, pixel: float) -> str:
    """The resolution at which odd aberrations turn phases by 45 degrees, as text; ``pixel`` in A."""
    k = np.linspace(0, 0.5 / pixel, 200)[1:]
    angles = np.linspace(0, np.pi, 72, endpoint=False)
    phases = zernike_sum(aberrations.odd_zernike, k * np.cos(angles)[:, None], k * np.sin(angles)[:, None], odd=True)
    beyond = np.flatnonzero(np.abs(phases).max(axis=(0, 1)) > np.pi / 4)
    return f"{1 / k[beyond[0]]:.1f} A" if len(beyond) else f"less than {2 * pixel:.1f} A, beyond these images"


def read_sample(images: CorrectedImages, seed: int) -> tuple[np.ndarray, np.ndarray]:  # -> (n,), (n, D, D)
    """A random sample of rows, in random order, and their corrected images."""
    generator = np.random.default_rng(seed)
    most = min(SAMPLED_IMAGES, SAMPLE_BYTES // (4 * images.box**2))
    chosen = [
        np.sort(generator.permutation(source.rows)[: max(1, round(most * len(source.rows) / len(images)))])
        for source in images.sources
    ]
    rows = np.concatenate(chosen)
    rows = rows[generator.permutation(len(rows))]
    return rows, images.read(rows).numpy()


def measure_std(sample: np.ndarray) -> float:  # (n, D, D)
    """Standard deviation of a sample's pixels: the written stack is divided by it.

    Images that `training.junk.broken` finds far from the others count only where all are such. Raises InputError for
    constant images.
    """
    power = np.square(sample, dtype=np.float64).mean(axis=(1, 2))
    whole = ~broken(torch.from_numpy(power)).numpy()
    sample = sample[whole] if whole.any() else sample
    std = float(sample.std(dtype=np.float64))
    if not std > 1e-6 * float(np.abs(sample).max()):  # rounding alone
        raise InputError(
            "particle images", "must not be constant", f"a standard deviation of {std:.3g}", "Check the stacks."
        )
    return std


def write_stack(
    images: CorrectedImages, image: np.ndarray, factor: float, target: Path, options: PreprocessOptions, log: JobLog
) -> float:
    """Write the corrected images times ``factor``, each once, in the order of ``image`` (N,); returns their standard
    deviation.

    Each of as many threads as there are cores reads, corrects and writes a block at a time, so that disk and cores are
    busy together; memory is bounded by the blocks. Raises InputError for images with pixels that are not finite.
    """
    precision = torch.float16 if options.float16 else torch.float32  # torch rounds as NumPy does, twenty times faster
    threads = torch.get_num_threads()
    workers = options.threads or max(2, len(os.sched_getaffinity(0)))
    first = first_rows(image)
    wanted = np.zeros(len(image), bool)
    wanted[first] = True
    done = 0
    torch.set_num_threads(1)  # the blocks are what runs in parallel; threads started from here on inherit it
    pool = ThreadPoolExecutor(workers, thread_name_prefix="crop-images")
    try:
        with StackWriter(target, len(first), images.box, images.pixel, options.float16) as writer:

            def crop(block: Source) -> int:
                scaled = images.read_block(block).mul_(factor).to(precision)
                writer.write(image[block.rows], scaled.numpy())
                return len(block.rows)

            try:
                waiting: deque[Future[int]] = deque()
                for block in images.blocks(options.downsample_batch, BLOCK_BYTES, wanted):
                    waiting.append(pool.submit(crop, block))
                    if len(waiting) > 2 * workers:
                        done += waiting.popleft().result()
                        log.progress("crop images", done, len(first))
                while waiting:
                    done += waiting.popleft().result()
                    log.progress("crop images", done, len(first))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)  # before the writer closes its file
        return writer.std
    finally:
        torch.set_num_threads(threads)


# -- consensus -------------------------------------------------------------------------------------------------


def consensus_data(
    geometry: Geometry, images: np.ndarray, rows: np.ndarray, device: torch.device
) -> consensus_fit.ConsensusData:  # (n, D, D), (n,)
    """Images of ``rows`` (inverted in place where the protein is white) with what projects to them, on the device."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if geometry.invert:
        np.negative(images, out=images)
    held = torch.from_numpy(images).to(device, dtype)
    arrays = (a[rows].astype(np.float32) for a in (geometry.rotations, geometry.shifts, geometry.ctf))
    return consensus_fit.ConsensusData(held, Views(*(torch.from_numpy(a).to(device) for a in arrays)))


def fit_consensus(
    gaussians: Gaussians,
    geometry: Geometry,
    image: np.ndarray,
    stack: Path,
    options: PreprocessOptions,
    device: torch.device,
    log: JobLog,
) -> Gaussians:
    """Fit the Gaussians to the written images, or to a random part of a large dataset; returns them.

    ``image`` (N,): number of the image in ``stack`` that each row shows.
    """
    if not options.epoch:
        return gaussians
    with ImageStack.from_file(stack) as images:
        box = int(images.box_size[0])
        most = max(2, min(consensus_fit.FIT_IMAGES, CONSENSUS_BYTES // (box * box * 4)))
        shown = np.sort(np.random.default_rng(options.seed).permutation(len(images))[:most])
        rows = first_rows(image)[shown]
        data = consensus_data(geometry, images.read(shown), rows, device)
    return consensus_fit.fit(
        gaussians,
        data,
        log,
        epochs=options.epoch,
        batch=options.batch_size,
        recipe=options.consensus_recipe,
        backend=options.projector,
        seed=options.seed,
    )


def check_contrast(sigmas: float) -> None:
    """Raise InputError if the map correlates with the images by fewer than CONTRAST_SIGMAS standard deviations."""
    if not sigmas >= CONTRAST_SIGMAS:  # NaN too
        raise InputError(
            "consensus_map",
            "must show in the images when projected with their poses",
            f"a correlation of {sigmas:.1f} standard deviations",
            "Check that map, poses and particles come from one refinement, and the handedness and origin of the map.",
        )


def map_in_box(volume: Volume, box: int, device: torch.device) -> torch.Tensor:  # -> (D, D, D)
    """The consensus map cropped in Fourier space to ``box`` voxels, or as it is where it has fewer."""
    density = torch.from_numpy(volume.values).to(device)
    return fourier_crop(density, box, dims=3) if density.shape[-1] > box else density


def report_fsc(gaussians: Gaussians, density: torch.Tensor, length: float, pixel: float, log: JobLog) -> None:
    """Report the FSC of the Gaussians and the consensus map ``density`` (D, D, D), ``length`` Angstrom wide.

    ``pixel`` : pixel size (A) of the written images.
    """
    box = density.shape[-1]
    with torch.no_grad():
        made = voxelize(gaussians.positions, gaussians.densities, gaussians.sigmas, box, sigma_max=gaussians.scale_max)
    fsc = fourier_shell_correlation(made, density).cpu()
    below = np.flatnonzero(fsc.numpy()[1:] < 0.5)
    resolution = length / (below[0] + 1) if len(below) else 2 * pixel
    area = float(fsc_area(fsc, box))
    log.message(
        f"consensus Gaussians against the consensus map: FSC 0.5 at {resolution:.1f} A, "
        f"area {area:.3f} of {(box / 2 - 1) / box:.3f}"
    )
    log.metric("consensus fsc", 0, 0.0, area=area, resolution_angstrom=float(resolution))
