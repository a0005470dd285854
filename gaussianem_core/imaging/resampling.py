"""Resampling of images of any box, pixel size and magnification to one box and pixel size.

An image is the trigonometric polynomial through its pixels; the new pixels are its values at their places. Frequencies
that the new pixels cannot hold are left out. Where both boxes span one length, this is Fourier cropping.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop

SAME_LENGTH = 1e-4  # relative difference below which two lengths count as one
LEAST_LENGTH = 0.9  # of the new box: more than the rest is not filled up with solvent
COARSEST = 1.02
"""Largest pixel size, over the new one, that is accepted: the last frequencies of the new box, which such images lack,
stay empty."""


class Sampling(NamedTuple):
    """Sizes of a resampling, from images of ``box`` pixels of ``pixel`` A to ``new_box`` pixels of ``new_pixel`` A.

    ``magnification``: rows of the matrix M from image frequencies to true ones: a true point X (A from the centre) is
    seen at M^T X.
    """

    box: int
    pixel: float
    new_box: int
    new_pixel: float
    magnification: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))

    @property
    def crops(self) -> bool:
        """Whether cropping in Fourier space is all there is to do."""
        length = self.new_box * self.new_pixel
        same = abs(self.box * self.pixel / length - 1) < SAME_LENGTH and self.box >= self.new_box
        return same and self.box % 2 == 0 and self.magnification == ((1.0, 0.0), (0.0, 1.0))


def check_sampling(sampling: Sampling) -> None:
    """Raise InputError if the images are too small or too coarse for the new box."""
    s = sampling
    if s.box * s.pixel < LEAST_LENGTH * s.new_box * s.new_pixel or s.pixel > COARSEST * s.new_pixel:
        fits = largest_box(s.pixel, s.new_box * s.new_pixel)
        raise InputError(
            "optics groups",
            f"must be rescalable to {s.new_pixel:.4g} A/px in a box of {s.new_box}",
            f"{s.box} px at {s.pixel:.4g} A/px",
            "Extract all particles at one pixel size and box"
            + (f", or choose --downsample_size {fits} or less." if s.pixel > COARSEST * s.new_pixel else "."),
        )


def largest_box(pixel: float, length: float) -> int:
    """The largest even box (pixels) of ``length`` A whose frequencies images of pixel size ``pixel`` A hold."""
    return int(length / pixel * COARSEST * (1 + 1e-9)) // 2 * 2


def resample(images: torch.Tensor, sampling: Sampling) -> torch.Tensor:  # (n, d, d) -> (n, D, D)
    """Images in the new box, at the scale of the old pixel values; the centre is at D // 2.

    The new pixel U lies in old pixels at u = (new_pixel / pixel) M^T U, both from the centres: u_x = a U_x + b U_y and
    u_y = c U_x + e U_y. Images are resampled first along x, to (a - b c / e) U_x + (b / e) u_y, then along y (Catmull
    and Smith, SIGGRAPH 1980). This is exact for frequencies that neither step moves beyond a Nyquist frequency: with
    matrices near 1, all but the last.
    """
    s = sampling
    if s.crops:
        return fourier_crop(images, s.new_box)
    (a, c), (b, e) = (np.array(s.magnification) * s.new_pixel / s.pixel).tolist()  # the transpose's columns
    reach = max(abs(a) + abs(b), abs(c) + abs(e)) * s.new_box / 2
    if reach > s.box / 2:
        images = fit_box(images, s.box + 2 * int(np.ceil(reach - s.box / 2) + 1))
    along_x = _along_rows(images, a - b * c / e, b / e * _places(images.shape[-1]), s.new_box)
    return _along_rows(along_x.mT, e, c * _places(s.new_box), s.new_box).mT.contiguous()


def _places(box: int) -> np.ndarray:
    return np.arange(box) - box // 2


def _along_rows(
    images: torch.Tensor, scale: float, offsets: np.ndarray, box: int
) -> torch.Tensor:  # (n, r, d), (r,) -> (n, r, box)
    """Each row at the places ``scale * U + offset`` from its centre, by its Fourier series."""
    old = images.shape[-1]
    k = np.arange((old + 1) // 2)  # an even box's Nyquist frequency has no phase: it is left out
    k = k[k * abs(scale) < old / 2]
    turn = 2j * np.pi * k / old
    basis = np.exp(turn[:, None] * (scale * _places(box) + old // 2)) * np.where(k == 0, 1, 2)[:, None] / old
    spectrum = torch.fft.rfft(images, dim=-1)[..., : len(k)]
    if offsets.any():
        spectrum = spectrum * torch.from_numpy(np.exp(turn * offsets[:, None])).to(spectrum)
    return (spectrum @ torch.from_numpy(basis).to(spectrum)).real


def fit_box(images: torch.Tensor, box: int) -> torch.Tensor:  # (n, d, d) -> (n, box, box)
    """Images cut to ``box`` pixels about their centre, or padded with the mean of each one's edge, which is solvent."""
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
