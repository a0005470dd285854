"""Simulate: a structure in motion -> particle images with known truth, as RELION would write them.

Each particle has a frame of the trajectory, a composition, a pose and a CTF, all drawn at random. Atoms are Gaussians
of the width that ``resolution`` asks for. Images are white protein: minus our CTF (RELION's sign) times the
projection, plus noise of variance 1, as in RELION's normalised particles; the signal is scaled to give the SNR, the
variance of the CTF-applied signal over the whole image divided by the variance of the noise.

Where errors are asked for, the particles file gives wrong poses, offsets and defocus, the contrast varies, and some
images are junk. With tilts each particle has many images (see ``tilts``), and the rows of one share a rlnGroupName; the
SNR is then that of untilted, undamaged images. What is true of every particle, and what the file says of it, stands in
``truth.npz``.

``consensus.mrc`` is the mean of the true maps over the particles, in RELION's scale: the sum of its voxels along the
beam gives the image. A ``reconstructed`` consensus is what a refinement would have left: back-projection of the noisy
images, junk too, with what the particles file says; two half maps, and their mean weighted by their FSC. Without CTF
the metadata hold defocus 0, Cs 0 and amplitude contrast 1, which is a CTF of 1.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_shell_correlation, fsc_weight, weight_shells
from gaussianem_core.imaging.pose import angles_from_rotations
from gaussianem_core.io.image_stack import StackWriter, write_map
from gaussianem_core.io.particle_table import write_star
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.options import SimulateOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import check_free_space
from gaussianem_core.runtime.streams import stream
from gaussianem_core.simulation.acquisition import (
    add_background,
    draw_ctf,
    misinform,
    noise_spectrum,
    not_simulated,
    take_views,
)
from gaussianem_core.simulation.ground_truth import Truth, mean_volume, save_truth
from gaussianem_core.simulation.half_maps import HalfMaps
from gaussianem_core.simulation.junk import Junk, draw_junk, replace_junk
from gaussianem_core.simulation.population import draw_truth
from gaussianem_core.simulation.rendering import batch_size, clean_images, scale_densities, signal_scale
from gaussianem_core.simulation.tilts import star_columns, tilt_particles
from gaussianem_core.simulation.trajectory import read_trajectory

RESULTS = ["particles.star", "particles.mrcs", "consensus.mrc", "truth.npz"]
HALF_MAPS = ["consensus_half1.mrc", "consensus_half2.mrc"]


def run(options: SimulateOptions, log: JobLog) -> None:
    """Write particles.star, particles.mrcs, consensus.mrc, its half maps and truth.npz into the job directory.

    Raises InputError for options that contradict each other or the model, and results that are there already;
    ResourceError for too little disk or GPU memory.
    """
    if options.box % 2:
        raise InputError("option box", "must be even", options.box, f"Give {options.box + 1}.")
    if options.defocus_min > options.defocus_max:
        raise InputError("option defocus_min", "must not exceed defocus_max", options.defocus_min, "Swap them.")
    trajectory = read_trajectory(resolve_input(options, "model"))
    views, other = optional_input(options, "poses"), optional_input(options, "junk_model")
    reconstruct = options.consensus == "reconstructed"
    refuse_existing(log.directory, RESULTS + HALF_MAPS * reconstruct, options.overwrite)
    device = choose_device(options.device, threads=options.threads)
    images_bytes = options.particles * max(options.tilts, 1) * options.box**2 * (2 if options.float16 else 4)
    check_free_space(log.directory, images_bytes + options.box**3 * 4)

    generator = np.random.default_rng(options.seed)
    truth = draw_truth(trajectory, options, generator)
    transfer = draw_ctf(options, generator)
    if views is not None:
        rotations, transfers = take_views(views, options)
        truth, transfer = replace(truth, rotations=rotations), transfer if transfers is None else transfers
        if left_out := not_simulated(views):
            log.message(f"not simulated, and not written: {', '.join(left_out)} of {views}", "warning")
    half_sets = generator.permutation(np.arange(options.particles) % 2 + 1)
    if options.tilts:
        truth, transfer = tilt_particles(truth, transfer, options)
        half_sets = half_sets[truth.particle]
    junk = draw_junk(options, trajectory, None if other is None else read_trajectory(other))
    contrast = np.exp(options.contrast_spread * stream(options.seed, "contrast").normal(size=len(transfer)))
    truth = replace(
        truth,
        ctf=transfer,
        contrast=contrast.astype(np.float32),
        junk=None if junk is None else junk.kind,
        noise_power=noise_spectrum(options),
    )
    truth, given = misinform(truth, options)
    shown = with_extra(truth, given)
    factor = signal_scale(truth, transfer, options.snr, device, options.projector)
    truth = scale_densities(truth, factor)
    log.message(
        f"{options.particles:,} particles of box {options.box}, {len(trajectory.positions_angstrom)} frames of "
        f"{len(trajectory.weights)} points, SNR {options.snr:g} (signal variance over the whole image)"
    )
    if options.tilts:
        dose = options.tilt_dose * options.tilts
        log.message(f"{options.tilts} images of each, tilted to {options.tilt_range:g} degrees, {dose:g} e/A^2 in all")
    for line in describe_errors(truth, options):
        log.message(line)
    save_truth(truth, log.directory / "truth.npz")
    half_maps = None
    if reconstruct:
        assert truth.given_rotations is not None and truth.given_shifts is not None
        half_maps = HalfMaps(truth.given_rotations, truth.given_shifts, shown, half_sets, options.box, device)
    write_images(truth, junk, factor, half_maps, options, device, log)
    with memory_errors("Use a smaller box"):
        if half_maps is not None:
            consensus = write_half_maps(half_maps, options, log)
        else:
            consensus = mean_volume(truth, device, options.projector) * (2 / options.box)
    write_map(log.directory / "consensus.mrc", consensus.cpu().numpy(), options.apix)
    stack = stack_name(log.directory)
    write_star(log.directory / "particles.star", star_tables(truth, given, half_sets, options, stack))
    log.artifact("particles", "particles.star", "simulated particles", particles=options.particles, box=options.box)
    log.artifact("stack", "particles.mrcs", "particle images")
    log.artifact("map", "consensus.mrc", "FSC-weighted consensus map" if reconstruct else "mean of the true maps")
    log.artifact("truth", "truth.npz", "true states, poses and volumes")


def with_extra(truth: Truth, parameters: np.ndarray) -> np.ndarray:  # (I, 9) -> (I, 9 or 15)
    """CTF parameters with the truth's further columns (``imaging.ctf.EXTRA``) behind them, where it has them."""
    return parameters if truth.ctf_extra is None else np.concatenate([parameters, truth.ctf_extra], axis=1)


def describe_errors(truth: Truth, options: SimulateOptions) -> list[str]:
    """A line for each kind of simulated error: poses and defocus in particles.star, junk; [] without errors."""
    errors = [
        f"{value:g} {unit} of {name}"
        for name, unit, value in (
            ("orientation", "degrees", options.pose_error),
            ("offset", "px", options.shift_error),
            ("defocus", "A", options.defocus_error),
        )
        if value
    ]
    lines = [f"errors in particles.star, rms: {', '.join(errors)}"] if errors else []
    if truth.junk is not None:
        lines.append(f"{np.count_nonzero(truth.junk)} images are junk ({options.junk_kinds})")
    return lines


def write_images(
    truth: Truth,
    junk: Junk | None,
    factor: float,
    half_maps: HalfMaps | None,
    options: SimulateOptions,
    device: torch.device,
    log: JobLog,
) -> None:
    """Render all images in batches, add noise made on the device, and stream them to particles.mrcs.

    ``factor`` scales the density of another molecule among the junk. Images are added to ``half_maps`` where given.
    """
    assert truth.ctf is not None and truth.contrast is not None and truth.noise_power is not None
    noise = torch.Generator(device).manual_seed(options.seed)
    table, contrast = (
        torch.as_tensor(values, device=device) for values in (with_extra(truth, truth.ctf), truth.contrast)
    )
    count, precision = len(table), torch.float16 if options.float16 else torch.float32
    path = log.directory / "particles.mrcs"
    stack = StackWriter(path, count, options.box, options.apix, options.float16)
    with stack as writer, memory_errors("Use a smaller box"):
        done, written = 0, None
        with ThreadPoolExecutor(1) as disk:  # the next batch is rendered while this one is written
            for rows in torch.arange(count, device=device).split(batch_size(truth, device)):
                images = clean_images(truth, table, rows, options.projector)
                if junk is not None:
                    images = replace_junk(images, junk, truth, table, rows, factor, options.projector)
                images = add_background(images * contrast[rows, None, None], truth.noise_power, options.gradient, noise)
                if half_maps is not None:
                    half_maps.add(images, rows.cpu().numpy())
                ready = images.to(precision).cpu().numpy()
                if written is not None:
                    written.result()
                written = disk.submit(writer.append, ready)
                done += len(rows)
                log.progress("simulate", done, count)
            if written is not None:
                written.result()


def write_half_maps(half_maps: HalfMaps, options: SimulateOptions, log: JobLog) -> torch.Tensor:
    """Write the two half maps; returns their mean (D, D, D), each shell weighted by sqrt(2 FSC / (1 + FSC))."""
    maps = half_maps.solve()
    for name, half_map in zip(HALF_MAPS, maps):
        write_map(log.directory / name, half_map.cpu().numpy(), options.apix)
        log.artifact("map", name, "half map")
    fsc = fourier_shell_correlation(*maps)
    below = torch.nonzero(fsc < 0.143).flatten()
    shell = int(below[0]) if len(below) else options.box // 2
    log.message(f"half maps agree to {options.box * options.apix / max(shell, 1):.1f} A (FSC 0.143, no mask)")
    return weight_shells((maps[0] + maps[1]) / 2, fsc_weight(fsc))


def stack_name(directory: Path) -> str:
    """The image stack as the particle file names it: relative to the project for a job of one, where RELION looks for
    images, else beside the particle file."""
    place = directory.resolve()
    project = place.parent.parent
    inside = (project / "default_pipeline.star").is_file()
    return (place.relative_to(project) / "particles.mrcs").as_posix() if inside else "particles.mrcs"


def star_tables(
    truth: Truth,
    transfer: np.ndarray,
    half_sets: np.ndarray,
    options: SimulateOptions,
    stack: str = "particles.mrcs",
) -> dict[str, dict[str, Any]]:
    """The optics and particles tables of RELION 3.1 and later, with the simulated errors of poses and defocus.

    Parameters
    ----------
    transfer : (I, 9 or more) CTF parameters as the file gives them. half_sets : (I,) 1 or 2.
    stack : name of the image stack.
    """
    assert truth.given_rotations is not None and truth.given_shifts is not None
    n = len(truth.given_rotations)
    rot, tilt, psi = angles_from_rotations(truth.given_rotations).T
    optics, group = np.unique(np.round(transfer[:, 5:8].astype(np.float64), 6), axis=0, return_inverse=True)
    count = len(optics)
    optics_table = {
        "rlnOpticsGroup": list(range(1, count + 1)),
        "rlnOpticsGroupName": [f"opticsGroup{i + 1}" for i in range(count)],
        "rlnVoltage": optics[:, 0].tolist(),
        "rlnSphericalAberration": optics[:, 1].tolist(),
        "rlnAmplitudeContrast": optics[:, 2].tolist(),
        "rlnImagePixelSize": [options.apix] * count,
        "rlnMicrographOriginalPixelSize": [options.apix] * count,
        "rlnImageSize": [options.box] * count,
        "rlnImageDimensionality": [2] * count,
        "rlnCtfDataAreCtfPremultiplied": [0] * count,
    }
    decimals = {
        "rlnDefocusU": transfer[:, 2],
        "rlnDefocusV": transfer[:, 3],
        "rlnDefocusAngle": transfer[:, 4],
        "rlnPhaseShift": transfer[:, 8],
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": truth.given_shifts[:, 0] * options.apix,
        "rlnOriginYAngst": truth.given_shifts[:, 1] * options.apix,
    }
    particles: dict[str, Any] = {
        "rlnImageName": [f"{i + 1:06d}@{stack}" for i in range(n)],
        "rlnMicrographName": [f"micrographs/simulated_{i // 200 + 1:05d}.mrc" for i in range(n)],
        "rlnOpticsGroup": (group.reshape(-1) + 1).tolist(),
        **{name: [f"{value:.6f}" for value in column] for name, column in decimals.items()},
        "rlnRandomSubset": half_sets,
        **(star_columns(truth) if truth.particle is not None else {}),
    }
    return {"optics": optics_table, "particles": particles}
