"""Preprocess: refinement results -> written stack, poses, CTF, configuration and consensus Gaussians."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop, fourier_shell_correlation, fsc_area
from gaussianem_core.imaging.pose import pack_poses, rotations_from_angles
from gaussianem_core.imaging.resampling import Resampling, resample, resample_plan
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.image_stack import ImageStack, StackWriter, Volume, read_map
from gaussianem_core.io.mrc import write_map
from gaussianem_core.io.particle_table import ParticleTable, read_particles, write_particles_star
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
from gaussianem_core.runtime.sources import refuse_source
from gaussianem_core.training import consensus_fit
from gaussianem_core.training.forward_model import Views

STACK, POSES, CTF, GAUSSIANS, CFG, STAR = (
    "img_stack.mrcs",
    "poses.npy",
    "ctf.npy",
    "point_cloud.ply",
    "cfg.json",
    "particles.star",
)
DEFAULT_BOX = 128
STAGE = ".preprocess"
SAMPLED_IMAGES = 1000
"""Images whose deviation scales the stack, and that tell amplitude and contrast before anything is written."""

SAMPLE_BYTES = 256 << 20
CONSENSUS_BYTES = 2 << 30
"""Images held in memory for the sample and for the consensus fit, at most."""

BLOCK_BYTES = 32 << 20
"""Images that one thread reads, crops and writes at once."""

OTHER_BYTES = 1024
"""Of a particle, beside its image: poses, CTF and its row in the STAR file."""

CONTRAST_SIGMAS = 5.0


def stages(options: PreprocessOptions) -> dict[str, float]:
    """What follows, with the usual shares of the time."""
    if not options.epoch:
        return {"crop images": 1}
    first = {} if options.consensus_recipe == "published" else {"fit to the map": 25.0}
    return {**first, "crop images": 45, "fit consensus": 30}


def run(options: PreprocessOptions, log: JobLog) -> None:
    """Prepare the data as ``options`` say; results and events go to the log's directory.

    Nothing is written before the input has been checked, and results appear together at the end: a run that fails or
    is stopped leaves those of an earlier one as they were.
    """
    device = choose_device(options.device, threads=options.threads)
    out = log.directory
    log.plan(stages(options), repeated=["fit consensus"])
    refuse_existing(out, [STACK, POSES, CTF, GAUSSIANS, CFG, STAR, CONSENSUS_MAP], options.overwrite)
    table = read_table(options)
    images = ImageStack.from_table(table)
    raw_box, raw_pixel = reference_sampling(images, options)
    box = options.downsample_size or min(DEFAULT_BOX, raw_box)
    check_box(box, raw_box)
    pixel = raw_pixel * raw_box / box
    volume = read_consensus(options, raw_box, raw_pixel, log)
    plans = [resample_plan(g.box_size, g.pixel_size_angstrom, box, pixel) for g in images.groups()]
    check_free_space(out, len(table) * (box * box * (2 if options.float16 else 4) + OTHER_BYTES) + 4 * box**3)
    bounds = (options.scale_min / box * WORLD, options.scale_max / box * WORLD)
    gaussians, level, spacing = consensus_fit.place_gaussians(
        volume.values, options.map_thres, options.sample_interval, options.max_gaussians, box, *bounds
    )
    log.message(
        f"{len(table)} particles of {raw_box} px at {raw_pixel:.4g} A/px, written as {box} px at {pixel:.4g} A/px; "
        f"contour level {level:.4g} of the consensus map gives {len(gaussians)} Gaussians, {spacing:.3g} voxels apart"
    )
    geometry = Geometry(
        rotations_from_angles(table.angles_deg),
        table.shifts_angstrom / pixel,
        ctf_parameters(table, images, plans, box, pixel),
        not options.no_invert,
    )
    rows, sample = read_sample(images, plans, box, options.seed)
    factor = 1.0 / measure_std(sample)
    gaussians = gaussians.to(device)
    with gpu_memory_advice(options.batch_size, "--batch_size", "--device cpu"):
        density = map_in_box(volume, box, device)
        data = consensus_data(geometry, sample * np.float32(factor), rows, device)
        amplitude, sigmas = consensus_fit.fit_amplitude(gaussians, data, options.projector)
        check_contrast(amplitude, sigmas, options)
        if options.epoch and options.consensus_recipe != "published":
            gaussians = consensus_fit.fit_to_map(gaussians, density, log)
            amplitude, _ = consensus_fit.fit_amplitude(gaussians, data, options.projector)
    gaussians = consensus_fit.scale_densities(gaussians, amplitude)
    del sample, data
    with staged(out) as stage:
        std = write_stack(images, plans, box, pixel, factor, stage / STACK, options, log)
        for name, array in ((POSES, pack_poses(geometry.rotations, geometry.shifts)), (CTF, geometry.ctf)):
            with atomic_write(stage / name) as file:
                np.save(file, array)
        write_particles_star(table, stage / STAR)
        with gpu_memory_advice(options.batch_size, "--batch_size", "--device cpu"):
            gaussians = fit_consensus(gaussians, geometry, stage / STACK, options, device, log)
            report_fsc(gaussians, density, volume.values.shape[0] * volume.pixel_size_angstrom, pixel, log)
        write_gaussians(gaussians, stage / GAUSSIANS)
        write_map(stage / CONSENSUS_MAP, density.cpu().numpy(), pixel * box / len(density), map_origin(volume))
        network = {key: getattr(options, key) for key in NETWORK_KEYS}
        extra = {"stack_scale": factor, "map_level": level, "origin_angstrom": map_origin(volume)}
        configuration = Configuration(
            box, pixel, *bounds, std, not options.no_invert, not options.no_window, network, extra
        )
        write_configuration(configuration, stage / CFG)
    labels = {
        "stack": (STACK, "particle images"),
        "poses": (POSES, "orientations"),
        "ctf": (CTF, "CTF parameters"),
        "gaussians": (GAUSSIANS, "consensus Gaussians"),
        "configuration": (CFG, "configuration"),
        "particles": (STAR, "input particles, in order"),
        "map": (CONSENSUS_MAP, "consensus map in the box of the images"),
    }
    for kind, (name, label) in labels.items():
        log.artifact(kind, out / name, label)
    log.artifact("preprocessed", CFG, "prepared data", particles=len(table), gaussians=len(gaussians), box=box)


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden directory in ``out`` whose files move there when the block ends well, and vanish when it does not."""
    stage = out / STAGE
    shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed
    with disk_errors(stage):
        stage.mkdir()
    try:
        yield stage
        with disk_errors(out):
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
    """What projects the molecule into N images: rotations (N, 3, 3), shifts (N, 2) px, ctf (N, 9), white protein."""

    rotations: np.ndarray
    shifts: np.ndarray
    ctf: np.ndarray
    invert: bool


# -- reading ---------------------------------------------------------------------------------------------------


def read_table(options: PreprocessOptions) -> ParticleTable:
    """The particles with poses and CTF, their stacks found and checked."""
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
    )
    if len(table) < 2:
        raise InputError("star_file", "must list at least two particles", len(table), "Give more particles.")
    if table.ctf_premultiplied.any():
        raise InputError(
            "star_file",
            "must not hold CTF-premultiplied images",
            given,
            "Extract the particles again without premultiplying them by the CTF.",
        )
    sign = 1 if options.no_invert else -1
    known = table.data_sign[table.data_sign != 0]
    if len(known) and (known == sign).mean() > 0.5:
        raise InputError(
            "--no_invert",
            "must match the images' contrast, given as blob/sign",
            "white protein" if sign > 0 else "dark protein",
            "Leave --no_invert out." if sign > 0 else "Give --no_invert.",
        )
    return table


def reference_sampling(images: ImageStack, options: PreprocessOptions) -> tuple[int, float]:
    """Box and pixel size of the largest group of images, checked against what was given."""
    group = images.groups()[0]
    box, pixel = group.box_size, group.pixel_size_angstrom
    if box % 2:
        raise InputError("particle images", "must have an even box", box, "Extract them again with an even box.")
    if options.size is not None and options.size != box:
        raise InputError("--size", f"must be the images' box, {box}", options.size, "Leave it out or correct it.")
    if options.apix is not None and abs(options.apix - pixel) > LENGTH_TOLERANCE * pixel:
        raise InputError(
            "--apix", f"must be the images' pixel size, {pixel:.4g} A", options.apix, "Leave it out or correct it."
        )
    return box, pixel


def check_box(box: int, raw_box: int) -> None:
    """Raise InputError for an odd box or one larger than the images."""
    if box % 2:
        raise InputError("--downsample_size", "must be even", box, f"Give {box + 1} or {box - 1}.")
    if box > raw_box:
        raise InputError("--downsample_size", f"must not exceed the images' box, {raw_box}", box, "Give a smaller one.")


def read_consensus(options: PreprocessOptions, raw_box: int, raw_pixel: float, log: JobLog) -> Volume:
    """The consensus map; it must span the same length as the images."""
    path = resolve_input(options, "consensus_map")
    volume = read_map(path)
    shape = volume.values.shape
    if len(set(shape)) != 1 or shape[0] % 2:
        raise InputError("consensus_map", "must be a cube of even size", shape, "Give the map of the refinement.")
    pixel = volume.pixel_size_angstrom
    if shape[0] == raw_box and (not np.isfinite(pixel) or abs(pixel - 1.0) < 1e-3 < abs(raw_pixel - 1.0)):
        log.message(f"{path.name} has no real pixel size in its header: taken as {raw_pixel:.4g} A", "warning")
        return replace(volume, pixel_size_angstrom=raw_pixel)
    if not np.isfinite(pixel) or abs(shape[0] * pixel / (raw_box * raw_pixel) - 1) > LENGTH_TOLERANCE:
        raise InputError(
            "consensus_map",
            f"must span the images' {raw_box} x {raw_pixel:.4g} A = {raw_box * raw_pixel:.1f} A",
            f"{shape[0]} x {pixel:.4g} A",
            "Give the map of this refinement, or resample it to the images' box.",
        )
    return volume


def map_origin(volume: Volume) -> tuple[float, float, float]:
    """Place (x, y, z, Angstrom) of the map's first voxel.

    A header tells it as an origin or as start voxels. Where it has both, the origin counts, as in map viewers.
    """
    if any(volume.origin_angstrom):
        return volume.origin_angstrom
    x, y, z = (start * volume.pixel_size_angstrom for start in volume.start_voxels)
    return x, y, z


# -- resampling ------------------------------------------------------------------------------------------------


def read_sample(
    images: ImageStack, plans: list[Resampling], box: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # -> (n,), (n, box, box)
    """A random sample of rows, in random order, and their resampled images."""
    generator = np.random.default_rng(seed)
    chosen, sample = [], []
    most = min(SAMPLED_IMAGES, SAMPLE_BYTES // (4 * box * box))
    for group, plan in zip(images.groups(), plans):
        share = max(1, round(most * len(group.rows) / len(images)))
        rows = np.sort(generator.permutation(group.rows)[:share])
        for block in np.array_split(rows, -(-len(rows) // 64)):
            chosen.append(block)
            sample.append(resample(torch.from_numpy(images.read(block)), plan, box).numpy())
    order = generator.permutation(sum(map(len, chosen)))
    return np.concatenate(chosen)[order], np.concatenate(sample)[order]


def measure_std(sample: np.ndarray) -> float:  # (n, D, D)
    """Standard deviation of a sample's pixels: the written stack is divided by it. Refuses constant images."""
    std = float(sample.std(dtype=np.float64))
    if not std > 1e-6 * float(np.abs(sample).max()):  # rounding alone
        raise InputError(
            "particle images", "must not be constant", f"a standard deviation of {std:.3g}", "Check the stacks."
        )
    return std


def write_stack(
    images: ImageStack,
    plans: list[Resampling],
    box: int,
    pixel: float,
    factor: float,
    target: Path,
    options: PreprocessOptions,
    log: JobLog,
) -> float:
    """Write the resampled images times ``factor`` in the input's order; returns their standard deviation.

    Each of as many threads as there are cores reads, crops and writes a block at a time, so that disk and cores are
    busy together; memory is bounded by the blocks.
    """
    threads = torch.get_num_threads()
    workers = options.threads or max(2, len(os.sched_getaffinity(0)))
    done = 0
    torch.set_num_threads(1)  # the blocks are what runs in parallel; threads started from here on inherit it
    pool = ThreadPoolExecutor(workers, thread_name_prefix="crop-images")
    try:
        with StackWriter(target, len(images), box, pixel, options.float16) as writer:

            def crop(rows: np.ndarray, plan: Resampling) -> int:
                small = resample(torch.from_numpy(images.read(rows)), plan, box) * factor
                writer.write(rows, small.numpy())
                return len(rows)

            try:
                waiting: deque[Future[int]] = deque()
                for rows, plan in blocks_of(images, plans, options.downsample_batch):
                    waiting.append(pool.submit(crop, rows, plan))
                    if len(waiting) > 2 * workers:
                        done += waiting.popleft().result()
                        log.progress("crop images", done, len(images))
                while waiting:
                    done += waiting.popleft().result()
                    log.progress("crop images", done, len(images))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)  # before the writer closes its file
        return writer.std
    finally:
        torch.set_num_threads(threads)


def blocks_of(images: ImageStack, plans: list[Resampling], most: int) -> Iterator[tuple[np.ndarray, Resampling]]:
    """Rows of one group at a time, no more of them than BLOCK_BYTES hold, or ``most``."""
    for group, plan in zip(images.groups(), plans):
        size = max(1, min(most, BLOCK_BYTES // (4 * plan.padded**2)))
        for start in range(0, len(group.rows), size):
            yield group.rows[start : start + size], plan


def ctf_parameters(
    table: ParticleTable, images: ImageStack, plans: list[Resampling], box: int, pixel: float
) -> np.ndarray:  # -> (N, 9)
    """Rows of ``ctf.npy``: box and pixel size after resampling, the pixel size that each group really came to."""
    sizes = np.full(len(table), pixel)
    for group, plan in zip(images.groups(), plans):
        sizes[group.rows] = plan.pixel
    columns = [
        np.full(len(table), box),
        sizes,
        table.defocus_u_angstrom,
        table.defocus_v_angstrom,
        table.defocus_angle_deg,
        table.voltage_kv,
        table.cs_mm,
        table.amplitude_contrast,
        table.phase_shift_deg,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


# -- consensus -------------------------------------------------------------------------------------------------


def consensus_data(
    geometry: Geometry, images: np.ndarray, rows: np.ndarray, device: torch.device
) -> consensus_fit.ConsensusData:  # (n, D, D), (n,)
    """Images of ``rows`` (turned, in place, to dark protein) with what projects to them, on the device."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if geometry.invert:
        np.negative(images, out=images)
    held = torch.from_numpy(images).to(device, dtype)
    arrays = (a[rows].astype(np.float32) for a in (geometry.rotations, geometry.shifts, geometry.ctf))
    return consensus_fit.ConsensusData(held, Views(*(torch.from_numpy(a).to(device) for a in arrays)))


def fit_consensus(
    gaussians: Gaussians, geometry: Geometry, stack: Path, options: PreprocessOptions, device: torch.device, log: JobLog
) -> Gaussians:
    """Fit the Gaussians to the written images, to a random part of a large dataset."""
    if not options.epoch:
        return gaussians
    with ImageStack.from_file(stack) as images:
        box = int(images.box_size[0])
        most = max(2, min(consensus_fit.FIT_IMAGES, CONSENSUS_BYTES // (box * box * 4)))
        rows = np.sort(np.random.default_rng(options.seed).permutation(len(images))[:most])
        data = consensus_data(geometry, images.read(rows), rows, device)
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


def check_contrast(amplitude: float, sigmas: float, options: PreprocessOptions) -> None:
    """Raise InputError if the map does not show in the images, or with the wrong sign."""
    if sigmas < -CONTRAST_SIGMAS:
        raise InputError(
            "--no_invert",
            "must match the images' contrast",
            f"the map correlates with the images at {sigmas:.0f} standard deviations",
            "Leave --no_invert out." if options.no_invert else "Give --no_invert: the protein is dark in these images.",
        )
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
    """Say how well the Gaussians stand for the consensus map ``density`` (D, D, D), ``length`` Angstrom wide."""
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
