"""Fourier cropping and padding of images to one box and pixel size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop


class Resampling(NamedTuple):
    """How one group of images comes to the common box: pad to ``padded``, Fourier-crop to ``cropped``, cut out; pixels
    of ``pixel`` Angstrom result."""

    padded: int
    cropped: int
    pixel: float


def resample_plan(group_box: int, group_pixel: float, box: int, pixel: float) -> Resampling:
    """Even padded and cropped boxes whose ratio brings ``group_pixel`` nearest to the common ``pixel``.

    Raises InputError if no padding up to twice the box comes within 0.05 %, or the images are too small or too coarse
    (there is nothing to put at the frequencies that they lack).
    """
    if group_box % 2:
        raise InputError("particle images", "must have an even box", group_box, "Extract them again with an even box.")
    exact = group_box * group_pixel / pixel
    if abs(exact - box) < 1e-4 * box and group_box >= box:
        return Resampling(group_box, box, pixel)
    padded = np.arange(group_box, 2 * group_box + 1, 2)
    cropped = (padded * group_pixel / pixel / 2).round().astype(int) * 2
    error = np.abs(padded * group_pixel / cropped / pixel - 1)
    usable = np.flatnonzero((error < 5e-4) & (cropped <= padded))
    if len(usable) == 0 or exact < 0.9 * box:
        raise InputError(
            "optics groups",
            f"must be rescalable to {pixel:.4g} A/px in a box of {box}",
            f"{group_box} px at {group_pixel:.4g} A/px",
            "Extract all particles at one pixel size and box, or choose another --downsample_size"
            + (f", {int(box * pixel / group_pixel) // 2 * 2} or less." if group_pixel > pixel else "."),
        )
    best = usable[0]
    return Resampling(int(padded[best]), int(cropped[best]), float(padded[best] * group_pixel / cropped[best]))


def resample(images: torch.Tensor, plan: Resampling, box: int) -> torch.Tensor:  # (n, d, d) -> (n, box, box)
    """Bring images to the common box; the centre stays at D // 2."""
    return fit_box(fourier_crop(fit_box(images, plan.padded), plan.cropped), box)


def fit_box(images: torch.Tensor, box: int) -> torch.Tensor:  # (n, d, d) -> (n, box, box)
    """Cut images to ``box`` about their centre, or fill up with the mean of each one's edge, which is solvent."""
    old = images.shape[-1]
    start = abs(box // 2 - old // 2)
    if box < old:
        return images[..., start : start + box, start : start + box]
    if box == old:
        return images
    sides = (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1])
    level = torch.cat(sides, dim=-1).mean(-1)[..., None, None]
    rest = box - old - start
    return torch.nn.functional.pad(images - level, (start, rest, start, rest)) + level
