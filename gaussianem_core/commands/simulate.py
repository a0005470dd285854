"""Simulate: a structure in motion -> particle images with known truth, as RELION would write them.

Each particle has a frame of the trajectory, a composition, a pose and a CTF, all drawn at random. Atoms are Gaussians
of the width that ``resolution`` asks for. Images are white protein: minus our CTF (RELION's sign) times the
projection, plus white noise of variance 1, as in RELION's normalised particles; the signal is scaled to give the
SNR, the variance of the CTF-applied signal over the whole image divided by the variance of the noise.

``consensus.mrc`` is the mean of the true maps over the particles, in RELION's scale: the sum of its voxels along the
beam gives the image. Without CTF the metadata hold defocus 0, Cs 0 and amplitude contrast 1, which is a CTF of 1.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.imaging.pose import angles_from_rotations, random_rotations
from gaussianem_core.imaging.projection import project
from gaussianem_core.io.image_stack import StackWriter, write_map
from gaussianem_core.io.particle_table import write_star
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.options import Projector, SimulateOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import check_free_space
from gaussianem_core.simulation.ground_truth import Truth, frame_densities, mean_volume, oversampling, save_truth
from gaussianem_core.simulation.trajectory import Trajectory, read_trajectory, select_part, sigma_of_resolution

RESULTS = ["particles.star", "particles.mrcs", "consensus.mrc", "truth.npz"]
SIGNAL_SAMPLE = 512
"""Images whose clean signal sets the scale of all."""
BATCH = {"cpu": 32, "cuda": 512}
BATCH_PIXELS = 2**26
"""No more pixels (of the finer grid) in a batch than this: 256 MiB in float32."""


def run(options: SimulateOptions, log: JobLog) -> None:
    """Write particles.star, particles.mrcs, consensus.mrc and truth.npz into the job directory."""
    if options.box % 2:
        raise InputError("option box", "must be even", options.box, f"Give {options.box + 1}.")
    if options.defocus_min > options.defocus_max:
        raise InputError("option defocus_min", "must not exceed defocus_max", options.defocus_min, "Swap them.")
    trajectory = read_trajectory(resolve_input(options, "model"))
    refuse_existing(log.directory, RESULTS, options.overwrite)
    device = choose_device(options.device)
    images_bytes = options.particles * options.box**2 * 4
    check_free_space(log.directory, images_bytes + options.box**3 * 4)

    generator = np.random.default_rng(options.seed)
    truth = draw_truth(trajectory, options, generator)
    transfer = draw_ctf(options, generator)
    truth = scale_signal(truth, transfer, options.snr, device, options.projector)
    log.message(
        f"{options.particles} particles of box {options.box}, {len(trajectory.positions_angstrom)} frames of "
        f"{len(trajectory.weights)} points, SNR {options.snr:g} (signal variance over the whole image)"
    )
    consensus = mean_volume(truth, device, options.projector).cpu().numpy() * (2 / options.box)
    write_map(log.directory / "consensus.mrc", consensus, options.apix)
    save_truth(truth, log.directory / "truth.npz")
    write_images(truth, transfer, options, device, log)
    write_star(log.directory / "particles.star", star_tables(truth, transfer, options, generator))
    log.artifact("particles", "particles.star", "simulated particles", particles=options.particles, box=options.box)
    log.artifact("stack", "particles.mrcs", "particle images")
    log.artifact("map", "consensus.mrc", "mean of the true maps")
    log.artifact("truth", "truth.npz", "true states, poses and volumes")


def draw_truth(trajectory: Trajectory, options: SimulateOptions, generator: np.random.Generator) -> Truth:
    """Draw states, composition, poses and shifts; centre the molecule and turn Angstrom into world units.

    Raises InputError if the molecule does not fit the box.
    """
    n, xyz, mass = options.particles, trajectory.positions_angstrom, trajectory.weights
    frames = len(xyz)
    if options.states == "endpoints":
        frame = generator.integers(0, 2, n) * (frames - 1)
    else:
        frame = generator.integers(0, frames, n)
    present = np.ones(n, bool)
    removable = None
    if options.missing:
        removable = select_part(trajectory, options.missing)
        present = generator.random(n) >= options.missing_fraction
    centre = np.average(xyz.mean(axis=0), axis=0, weights=mass)
    positions = (xyz - centre) * (2 / (options.box * options.apix))
    reach = float(np.linalg.norm(positions, axis=-1).max())
    if reach >= 1:
        needed = 2 * int(np.ceil(reach * options.box / 2))
        raise InputError(
            "option box",
            f"must hold the molecule, {reach * options.box * options.apix:.0f} A across",
            f"{options.box * options.apix:.0f} A",
            f"Give --box {needed} or more.",
        )
    sigma = trajectory.sigmas_angstrom
    if options.resolution is not None or sigma is None:
        sigma = np.full(len(mass), sigma_of_resolution(options.resolution or 2 * options.apix))
    sigma = np.asarray(sigma) * (2 / (options.box * options.apix))
    steps = frames if trajectory.periodic else max(frames - 1, 1)
    label = (~present).astype(np.int32) + (2 * (frame > 0) if options.states == "endpoints" else 0)
    return Truth(
        label=np.unique(label, return_inverse=True)[1].astype(np.int32),
        state=(frame / steps).astype(np.float32),
        frame=frame.astype(np.int32),
        present=present,
        positions=positions.astype(np.float32),
        densities=(mass / mass.mean() / (sigma / sigma.mean()) ** 3).astype(np.float32),
        sigmas=sigma.astype(np.float32),
        removable=removable,
        rotations=random_rotations(n, generator).astype(np.float32),
        shifts=generator.normal(0, options.shift, (n, 2)).astype(np.float32),
        offset_angstrom=centre,
        box=options.box,
        apix=options.apix,
        snr=options.snr,
        periodic=trajectory.periodic,
    )


def draw_ctf(options: SimulateOptions, generator: np.random.Generator) -> np.ndarray:  # -> (N, 9)
    """CTF parameters in the layout of ``ctf.npy``."""
    n = options.particles
    defocus = generator.uniform(options.defocus_min, options.defocus_max, n)
    half = generator.uniform(0, options.astigmatism / 2, n)
    angle = generator.uniform(0, 180, n)
    cs, contrast = options.cs, options.amplitude_contrast
    if options.no_ctf:
        defocus, half, angle, cs, contrast = defocus * 0, half * 0, angle * 0, 0.0, 1.0
    columns: list[Any] = [
        options.box,
        options.apix,
        defocus + half,
        defocus - half,
        angle,
        options.voltage,
        cs,
        contrast,
        0.0,
    ]
    return np.stack([np.broadcast_to(column, n) for column in columns], axis=1).astype(np.float32)


def clean_images(
    truth: Truth, transfer: torch.Tensor, rows: torch.Tensor, backend: Projector = "auto"
) -> torch.Tensor:  # (N, 9), (B,) -> (B, D, D)
    """Images without noise, white protein, on the device of ``rows``.

    Narrow Gaussians are drawn on a finer grid and cropped in Fourier space, so that nothing is aliased.
    """
    device, index = rows.device, rows.cpu().numpy()
    assert truth.positions is not None and truth.frame is not None and truth.sigmas is not None
    assert truth.present is not None and truth.rotations is not None and truth.shifts is not None
    positions = torch.as_tensor(truth.positions, device=device)[torch.as_tensor(truth.frame[index], device=device)]
    densities = frame_densities(truth, torch.as_tensor(truth.present[index], device=device))
    sigmas = torch.as_tensor(truth.sigmas, device=device)
    largest = float(truth.sigmas.max())
    factor = oversampling(float(truth.sigmas.min()) * truth.box / 2)
    images = project(
        positions,
        densities,
        sigmas.expand_as(densities),
        torch.as_tensor(truth.rotations[index], device=device),
        torch.as_tensor(truth.shifts[index], device=device) * factor,
        truth.box * factor,
        backend=backend,
        sigma_max=largest,
    )
    return -apply_ctf(fourier_crop(images, truth.box), ctf(transfer[rows.to(transfer.device)].to(device), truth.box))


def batch_size(truth: Truth, device: torch.device) -> int:
    """Images rendered at once."""
    assert truth.sigmas is not None
    pixels = (truth.box * oversampling(float(truth.sigmas.min()) * truth.box / 2)) ** 2
    return max(1, min(BATCH[device.type], BATCH_PIXELS // pixels))


def scale_signal(truth: Truth, transfer: np.ndarray, snr: float, device: torch.device, backend: Projector) -> Truth:
    """Scale the densities so that the clean images' variance is ``snr`` (the noise has variance 1)."""
    assert truth.frame is not None and truth.densities is not None
    sample = torch.arange(min(len(truth.frame), SIGNAL_SAMPLE), device=device)
    table = torch.as_tensor(transfer, device=device)
    variances = [
        clean_images(truth, table, rows, backend).var(dim=(1, 2)) for rows in sample.split(batch_size(truth, device))
    ]
    variance = float(torch.cat(variances).mean())
    return replace(truth, densities=(truth.densities * np.sqrt(snr / variance)).astype(np.float32))


def write_images(
    truth: Truth, transfer: np.ndarray, options: SimulateOptions, device: torch.device, log: JobLog
) -> None:
    """Render all particles in batches, add noise made on the device, and stream them to particles.mrcs."""
    noise = torch.Generator(device).manual_seed(options.seed)
    table = torch.as_tensor(transfer, device=device)
    path = log.directory / "particles.mrcs"
    with StackWriter(path, options.particles, options.box, options.apix) as writer, memory_errors("Use a smaller box"):
        done, written = 0, None
        with ThreadPoolExecutor(1) as disk:  # the next batch is rendered while this one is written
            for rows in torch.arange(options.particles, device=device).split(batch_size(truth, device)):
                images = clean_images(truth, table, rows, options.projector)
                images += torch.randn(images.shape, generator=noise, device=device)
                ready = images.cpu().numpy()
                if written is not None:
                    written.result()
                written = disk.submit(writer.append, ready)
                done += len(rows)
                log.progress("simulate", done, options.particles)
            if written is not None:
                written.result()


def star_tables(
    truth: Truth, transfer: np.ndarray, options: SimulateOptions, generator: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """The optics and particles tables of RELION 3.1 and later."""
    n = options.particles
    assert truth.rotations is not None and truth.shifts is not None
    rot, tilt, psi = angles_from_rotations(truth.rotations).T
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnVoltage": [options.voltage],
        "rlnSphericalAberration": [round(float(transfer[0, 6]), 6)],
        "rlnAmplitudeContrast": [round(float(transfer[0, 7]), 6)],
        "rlnImagePixelSize": [options.apix],
        "rlnMicrographOriginalPixelSize": [options.apix],
        "rlnImageSize": [options.box],
        "rlnImageDimensionality": [2],
        "rlnCtfDataAreCtfPremultiplied": [0],
    }
    half_sets = generator.permutation(np.arange(n) % 2 + 1)
    decimals = {
        "rlnDefocusU": transfer[:, 2],
        "rlnDefocusV": transfer[:, 3],
        "rlnDefocusAngle": transfer[:, 4],
        "rlnPhaseShift": transfer[:, 8],
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": truth.shifts[:, 0] * options.apix,
        "rlnOriginYAngst": truth.shifts[:, 1] * options.apix,
    }
    particles: dict[str, Any] = {
        "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(n)],
        "rlnMicrographName": [f"micrographs/simulated_{i // 200 + 1:05d}.mrc" for i in range(n)],
        "rlnOpticsGroup": [1] * n,
        **{name: [f"{value:.6f}" for value in column] for name, column in decimals.items()},
        "rlnRandomSubset": half_sets,
    }
    return {"optics": optics, "particles": particles}
