"""Preprocess: refinement results -> written stack, poses, CTF, configuration and consensus Gaussians."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gaussianem_core import consensus
from gaussianem_core.device import choose_device, gpu_memory_advice
from gaussianem_core.errors import InputError
from gaussianem_core.events import JobLog, refuse_existing
from gaussianem_core.files import atomic_write
from gaussianem_core.fourier import fourier_crop, fourier_shell_correlation, fsc_area
from gaussianem_core.gaussians import (
    NETWORK_KEYS,
    WORLD,
    Configuration,
    Gaussians,
    write_configuration,
    write_gaussians,
)
from gaussianem_core.metadata import ParticleTable, read_particles, write_particles_star
from gaussianem_core.options import PreprocessOptions
from gaussianem_core.paths import optional_input, resolve_input
from gaussianem_core.pose import pack_poses, rotations_from_angles
from gaussianem_core.stack import ImageStack, StackWriter, Volume, read_map
from gaussianem_core.voxelize import voxelize

STACK, POSES, CTF, GAUSSIANS, CFG, STAR = (
    "img_stack.mrcs", "poses.npy", "ctf.npy", "point_cloud.ply", "cfg.json", "particles.star",
)  # fmt: skip
DEFAULT_BOX = 128
MEASURED_IMAGES = 1000
CONSENSUS_BYTES = 4 << 30
"""Images held in memory for the consensus fit; of more particles a random part is used."""

BLOCK_BYTES = 256 << 20
SIZE_TOLERANCE = 2e-3
CONTRAST_SIGMAS = 5.0


def run(options: PreprocessOptions, log: JobLog) -> None:
    """Prepare the data as ``options`` say; results and events go to the log's directory."""
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    out = log.directory
    refuse_existing(out, [STACK, POSES, CTF, GAUSSIANS, CFG, STAR], options.overwrite)
    table = read_table(options)
    images = ImageStack.from_table(table)
    raw_box, raw_pixel = reference_sampling(images, options)
    box = options.downsample_size or min(DEFAULT_BOX, raw_box)
    check_box(box, raw_box)
    pixel = raw_pixel * raw_box / box
    volume = read_consensus(options, raw_box, raw_pixel, log)
    plans = [resample_plan(g.box_size, g.pixel_size_angstrom, box, pixel) for g in images.groups()]
    bounds = (options.scale_min / box * WORLD, options.scale_max / box * WORLD)
    gaussians, level, spacing = consensus.place_gaussians(
        volume.values, options.map_thres, sample_interval(options, raw_box), options.max_gaussians, box, *bounds
    )
    log.message(
        f"{len(table)} particles of {raw_box} px at {raw_pixel:.4g} A/px, written as {box} px at {pixel:.4g} A/px; "
        f"contour level {level:.4g} of the consensus map gives {len(gaussians)} Gaussians, {spacing:.3g} voxels apart"
    )
    factor = 1.0 / measure_std(images, plans, box, options.seed)
    std = write_stack(images, plans, box, pixel, factor, options, log)
    rotations = rotations_from_angles(table.angles_deg)
    shifts = table.shifts_angstrom / pixel
    parameters = ctf_parameters(table, images, plans, box, pixel)
    for name, array in ((POSES, pack_poses(rotations, shifts)), (CTF, parameters)):
        with atomic_write(out / name) as file:
            np.save(file, array)
    write_particles_star(table, out / STAR)
    data = consensus_data(out / STACK, rotations, shifts, parameters, not options.no_invert, device, options.seed)
    with gpu_memory_advice(options.batch_size):
        gaussians = gaussians.to(device)
        amplitude, sigmas = consensus.fit_amplitude(gaussians, data, options.projector)
        check_contrast(amplitude, sigmas, options)
        gaussians = consensus.scale_densities(gaussians, amplitude)
        gaussians = consensus.fit(
            gaussians, data, log, epochs=options.epoch, batch=options.batch_size, recipe=options.consensus_recipe,
            backend=options.projector, seed=options.seed,
        )  # fmt: skip
        report_fsc(gaussians, volume, box, pixel, device, log)
    write_gaussians(gaussians, out / GAUSSIANS)
    network = {key: getattr(options, key) for key in NETWORK_KEYS}
    extra = {"stack_scale": factor, "map_level": level, "origin_angstrom": list(volume.origin_angstrom)}
    write_configuration(
        Configuration(box, pixel, *bounds, std, not options.no_invert, not options.no_window, network, extra), out / CFG
    )
    labels = {
        "stack": (STACK, "particle images"), "poses": (POSES, "orientations"), "ctf": (CTF, "CTF parameters"),
        "gaussians": (GAUSSIANS, "consensus Gaussians"), "configuration": (CFG, "configuration"),
        "particles": (STAR, "input particles, in order"),
    }  # fmt: skip
    for kind, (name, label) in labels.items():
        log.artifact(kind, out / name, label)
    log.artifact("preprocessed", CFG, "prepared data", particles=len(table), gaussians=len(gaussians), box=box)


# -- reading ---------------------------------------------------------------------------------------------------


def read_table(options: PreprocessOptions) -> ParticleTable:
    """The particles with poses and CTF, their stacks found and checked."""
    given = resolve_input(options, "star_file")
    data_dir = optional_input(options, "data_dir")
    passthrough = [resolve_input(options.model_copy(update={"star_file": p}), "star_file") for p in options.passthrough]
    table = read_particles(given, data_dir, options.source_dir, passthrough, pixel_size_angstrom=options.apix)
    if len(table) < 2:
        raise InputError("star_file", "must list at least two particles", len(table), "Give more particles.")
    if table.ctf_premultiplied.any():
        raise InputError("star_file", "must not hold CTF-premultiplied images", given,
                         "Extract the particles again without premultiplying them by the CTF.")  # fmt: skip
    sign = 1 if options.no_invert else -1
    known = table.data_sign[table.data_sign != 0]
    if len(known) and (known == sign).mean() > 0.5:
        raise InputError("--no_invert", "must match the images' contrast, given as blob/sign",
                         "white protein" if sign > 0 else "dark protein",
                         "Leave --no_invert out." if sign > 0 else "Give --no_invert.")  # fmt: skip
    return table


def reference_sampling(images: ImageStack, options: PreprocessOptions) -> tuple[int, float]:
    """Box and pixel size of the largest group of images, checked against what was given."""
    group = images.groups()[0]
    box, pixel = group.box_size, group.pixel_size_angstrom
    if box % 2:
        raise InputError("particle images", "must have an even box", box, "Extract them again with an even box.")
    if options.size is not None and options.size != box:
        raise InputError("--size", f"must be the images' box, {box}", options.size, "Leave it out or correct it.")
    if options.apix is not None and abs(options.apix - pixel) > SIZE_TOLERANCE * pixel:
        raise InputError("--apix", f"must be the images' pixel size, {pixel:.4g} A", options.apix,
                         "Leave it out or correct it.")  # fmt: skip
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
    if not np.isfinite(pixel) or abs(shape[0] * pixel / (raw_box * raw_pixel) - 1) > SIZE_TOLERANCE:
        raise InputError(
            "consensus_map", f"must span the images' {raw_box} x {raw_pixel:.4g} A = {raw_box * raw_pixel:.1f} A",
            f"{shape[0]} x {pixel:.4g} A", "Give the map of this refinement, or resample it to the images' box.",
        )  # fmt: skip
    return volume


def sample_interval(options: PreprocessOptions, raw_box: int) -> int | None:
    """The grid spacing given; None lets the training pixel decide (the manual's 1, or 2 above a box of 256)."""
    return options.sample_interval


# -- resampling ------------------------------------------------------------------------------------------------


class Plan(tuple[int, int, float]):
    """How one group of images comes to the common box: pad to ``padded``, Fourier-crop to ``cropped``, cut out."""

    @property
    def padded(self) -> int:
        return self[0]

    @property
    def cropped(self) -> int:
        return self[1]

    @property
    def pixel(self) -> float:
        return self[2]


def resample_plan(group_box: int, group_pixel: float, box: int, pixel: float) -> Plan:
    """Even padded and cropped boxes whose ratio brings ``group_pixel`` nearest to the common ``pixel``.

    Raises InputError if no padding up to twice the box comes within 0.05 %, or the images are too small.
    """
    if group_box % 2:
        raise InputError("particle images", "must have an even box", group_box, "Extract them again with an even box.")
    exact = group_box * group_pixel / pixel
    if abs(exact - box) < 1e-4 * box:
        return Plan((group_box, box, pixel))
    padded = np.arange(group_box, 2 * group_box + 1, 2)
    cropped = (padded * group_pixel / pixel / 2).round().astype(int) * 2
    error = np.abs(padded * group_pixel / cropped / pixel - 1)
    usable = np.flatnonzero((error < 5e-4) & (cropped <= padded))
    if len(usable) == 0 or exact < 0.9 * box:
        raise InputError(
            "optics groups", f"must be rescalable to {pixel:.4g} A/px in a box of {box}",
            f"{group_box} px at {group_pixel:.4g} A/px",
            "Extract all particles at one pixel size and box, or choose another --downsample_size.",
        )  # fmt: skip
    best = usable[0]
    return Plan((int(padded[best]), int(cropped[best]), float(padded[best] * group_pixel / cropped[best])))


def resample(images: torch.Tensor, plan: Plan, box: int) -> torch.Tensor:  # (n, d, d) -> (n, box, box)
    """Bring images to the common box; the centre stays at D // 2, the border is filled with the images' mean."""
    old = images.shape[-1]
    mean = images.mean((-2, -1), keepdim=True)
    if plan.padded > old:
        left = plan.padded // 2 - old // 2
        right = plan.padded - old - left
        images = torch.nn.functional.pad(images - mean, (left, right, left, right)) + mean
    images = fourier_crop(images, plan.cropped)
    if plan.cropped > box:
        start = plan.cropped // 2 - box // 2
        images = images[..., start : start + box, start : start + box]
    elif plan.cropped < box:
        left = box // 2 - plan.cropped // 2
        right = box - plan.cropped - left
        images = torch.nn.functional.pad(images - mean, (left, right, left, right)) + mean
    return images


def measure_std(images: ImageStack, plans: list[Plan], box: int, seed: int) -> float:
    """Standard deviation of resampled pixels over a random sample: the written stack is divided by it."""
    generator = np.random.default_rng(seed)
    total = square = count = 0.0
    for group, plan in zip(images.groups(), plans):
        share = max(1, round(MEASURED_IMAGES * len(group.rows) / len(images)))
        rows = np.sort(generator.permutation(group.rows)[:share])
        for block in np.array_split(rows, -(-len(rows) // 64)):
            small = resample(torch.from_numpy(images.read(block)), plan, box).double()
            total, square = total + float(small.sum()), square + float(small.square().sum())
            count += small.numel()
    variance = square / count - (total / count) ** 2
    if variance <= 0:
        raise InputError("particle images", "must not be constant", "a standard deviation of 0", "Check the stacks.")
    return float(np.sqrt(variance))


def write_stack(
    images: ImageStack, plans: list[Plan], box: int, pixel: float, factor: float, options: PreprocessOptions,
    log: JobLog,
) -> float:  # fmt: skip
    """Write the resampled images times ``factor`` in the input's order; returns their standard deviation."""
    done = 0
    total = square = 0.0
    with StackWriter(log.directory / STACK, len(images), box, pixel, options.float16) as writer:
        for group, plan in zip(images.groups(), plans):
            block = max(1, min(options.downsample_batch, BLOCK_BYTES // (16 * plan.padded**2)))
            for rows, raw in images.iter_batches(block, group.rows, workers=2):
                small = resample(torch.from_numpy(raw), plan, box) * factor
                writer.write(rows, small.numpy())
                wide = small.double()
                total, square = total + float(wide.sum()), square + float(wide.square().sum())
                done += len(rows)
                log.progress("crop images", done, len(images))
    pixels = len(images) * box**2
    return float(np.sqrt(max(square / pixels - (total / pixels) ** 2, 0.0)))


def ctf_parameters(
    table: ParticleTable, images: ImageStack, plans: list[Plan], box: int, pixel: float
) -> np.ndarray:  # -> (N, 9)
    """Rows of ``ctf.npy``: box and pixel size after resampling, the pixel size that each group really came to."""
    sizes = np.full(len(table), pixel)
    for group, plan in zip(images.groups(), plans):
        sizes[group.rows] = plan.pixel
    columns = [
        np.full(len(table), box), sizes, table.defocus_u_angstrom, table.defocus_v_angstrom, table.defocus_angle_deg,
        table.voltage_kv, table.cs_mm, table.amplitude_contrast, table.phase_shift_deg,
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


# -- consensus -------------------------------------------------------------------------------------------------


def consensus_data(
    stack: Path, rotations: np.ndarray, shifts: np.ndarray, parameters: np.ndarray, invert: bool, device: torch.device,
    seed: int,
) -> consensus.ConsensusData:  # fmt: skip
    """Images for the consensus fit with what projects to them, on the device; a random part of a large dataset."""
    images = ImageStack.from_file(stack)
    box = int(images.box_size[0])
    most = max(2, CONSENSUS_BYTES // (box * box * 4))
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:most])
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    held = torch.empty(len(rows), box, box, dtype=dtype, device=device)
    done = 0
    for part, block in images.iter_batches(2048, rows):
        held[done : done + len(part)] = torch.from_numpy(-block if invert else block).to(dtype)
        done += len(part)
    # The fit takes the leading images for its amplitude: their order must be random.
    shuffle = np.random.default_rng([seed, 1]).permutation(len(rows))
    held = held[torch.from_numpy(shuffle).to(device)]
    arrays = (a[rows][shuffle].astype(np.float32) for a in (rotations, shifts, parameters))
    return consensus.ConsensusData(held, *(torch.from_numpy(a).to(device) for a in arrays))


def check_contrast(amplitude: float, sigmas: float, options: PreprocessOptions) -> None:
    """Raise InputError if the map does not show in the images, or with the wrong sign."""
    if sigmas < -CONTRAST_SIGMAS:
        raise InputError(
            "--no_invert", "must match the images' contrast",
            f"the map correlates with the images at {sigmas:.0f} standard deviations",
            "Leave --no_invert out." if options.no_invert else "Give --no_invert: the protein is dark in these images.",
        )  # fmt: skip
    if sigmas < CONTRAST_SIGMAS:
        raise InputError(
            "consensus_map", "must show in the images when projected with their poses",
            f"a correlation of {sigmas:.1f} standard deviations",
            "Check that map, poses and particles come from one refinement, and the handedness and origin of the map.",
        )  # fmt: skip


def report_fsc(
    gaussians: Gaussians, volume: Volume, box: int, pixel: float, device: torch.device, log: JobLog
) -> None:
    """Say how well the Gaussians stand for the consensus map."""
    target = torch.from_numpy(volume.values).to(device)
    if target.shape[-1] >= box:
        target = fourier_crop(target, box, dims=3)
    else:
        box = target.shape[-1]
    with torch.no_grad():
        made = voxelize(gaussians.positions, gaussians.densities, gaussians.sigmas, box)
    fsc = fourier_shell_correlation(made, target).cpu()
    below = np.flatnonzero(fsc.numpy()[1:] < 0.5)
    resolution = volume.values.shape[0] * volume.pixel_size_angstrom / (below[0] + 1) if len(below) else 2 * pixel
    area = float(fsc_area(fsc, box))
    log.message(
        f"consensus Gaussians against the consensus map: FSC 0.5 at {resolution:.1f} A, "
        f"area {area:.3f} of {(box / 2 - 1) / box:.3f}"
    )
    log.metric("consensus fsc", 0, 0.0, area=area, resolution_angstrom=float(resolution))
