"""The clean images of a simulation: projections of its points, times their CTF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.imaging.projection import project
from gaussianem_core.options import Projector
from gaussianem_core.simulation.ground_truth import Truth, frame_densities, oversampling, point_positions

SIGNAL_SAMPLE = 512
"""Images whose clean signal sets the scale of all."""
BATCH = {"cpu": 32, "cuda": 512}
BATCH_PIXELS = 2**26
"""No more pixels (of the finer grid) in a batch than this: 256 MiB in float32."""


def clean_images(
    truth: Truth, transfer: torch.Tensor, rows: torch.Tensor, backend: Projector = "auto"
) -> torch.Tensor:  # (N, 9), (B,) -> (B, D, D)
    """Images ``rows`` without noise, white protein, on the device of ``rows``; ``transfer``: CTFs of all images."""
    device, index = rows.device, rows.cpu().numpy()
    particle = truth.particles_of(index)
    assert truth.present is not None and truth.rotations is not None and truth.shifts is not None
    assert truth.sigmas is not None
    return project_points(
        point_positions(truth, particle, device),
        frame_densities(truth, torch.as_tensor(truth.present[particle], device=device)),
        truth.sigmas,
        torch.as_tensor(truth.rotations[index], device=device),
        torch.as_tensor(truth.shifts[index], device=device),
        transfer[rows.to(transfer.device)].to(device),
        truth.box,
        backend,
    )


def project_points(
    positions: torch.Tensor,
    densities: torch.Tensor,
    sigmas: np.ndarray,
    rotations: torch.Tensor,
    shifts: torch.Tensor,
    transfer: torch.Tensor,
    box: int,
    backend: Projector = "auto",
) -> torch.Tensor:  # (B, A, 3), (B, A), (A,), (B, 3, 3), (B, 2), (B, 9) -> (B, box, box)
    """Images of Gaussian points with their CTF, white protein.

    Positions and sigmas are in world units, shifts in pixels of ``box``. Narrow Gaussians are drawn on a finer grid and
    cropped in Fourier space, so that nothing is aliased.
    """
    factor = oversampling(float(sigmas.min()) * box / 2)
    images = project(
        positions,
        densities,
        torch.as_tensor(sigmas, device=positions.device).expand_as(densities),
        rotations,
        shifts * factor,
        box * factor,
        backend=backend,
        sigma_max=float(sigmas.max()),
    )
    return -apply_ctf(fourier_crop(images, box), ctf(transfer, box))


def batch_size(truth: Truth, device: torch.device) -> int:
    """Number of images rendered at once."""
    assert truth.sigmas is not None
    pixels = (truth.box * oversampling(float(truth.sigmas.min()) * truth.box / 2)) ** 2
    return max(1, min(BATCH[device.type], BATCH_PIXELS // pixels))


def signal_scale(
    truth: Truth, transfer: np.ndarray, snr: float, device: torch.device, backend: Projector
) -> float:  # (N, 9)
    """Factor of the densities for which the clean images' mean variance is ``snr`` (the noise has variance 1).

    Measured on the first SIGNAL_SAMPLE images.
    """
    assert truth.rotations is not None
    sample = torch.arange(min(len(truth.rotations), SIGNAL_SAMPLE), device=device)
    table = torch.as_tensor(transfer, device=device)
    variances = [
        clean_images(truth, table, rows, backend).var(dim=(1, 2)) for rows in sample.split(batch_size(truth, device))
    ]
    return float(np.sqrt(snr / float(torch.cat(variances).mean())))


def scale_densities(truth: Truth, factor: float) -> Truth:
    """The truth with all densities multiplied by ``factor``."""
    assert truth.densities is not None
    return replace(truth, densities=(truth.densities.astype(np.float64) * factor).astype(np.float32))
