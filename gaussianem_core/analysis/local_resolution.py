"""Local resolution of a map, and the map filtered by it.

Half maps are divided into overlapping bands of frequencies that add up to the map. In each band the correlation of the
half maps is computed within a Gaussian window around each voxel: a local FSC, as of windowed half maps (Cardone et al.,
J. Struct. Biol. 184, 2013), for all voxels at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussianem_core.imaging.fourier import centred_irfftn, centred_rfftn, frequency_grid, fsc_weight

THRESHOLD = 0.143
BANDS = 32
"""Largest number of bands up to the Nyquist frequency; none is narrower than a shell."""
WINDOW_RESOLUTIONS = 5.0
"""Width (FWHM) of the window in units of the map's resolution, wide enough to average the noise."""
FWHM = 2.3548
"""Full width at half maximum of a Gaussian over its standard deviation."""


@dataclass(frozen=True)
class LocalResolution:
    """``resolution_angstrom`` (D, D, D); ``filtered`` (D, D, D), the map filtered by it; ``window_angstrom``: FWHM of
    the window."""

    resolution_angstrom: Tensor
    filtered: Tensor
    window_angstrom: float


def local_resolution(
    first: Tensor,  # (D, D, D)
    second: Tensor,  # (D, D, D)
    volume: Tensor,  # (D, D, D)
    pixel_size_angstrom: float,
    global_resolution_angstrom: float,
) -> LocalResolution:
    """Local resolution of two half maps at FSC 0.143, and ``volume`` filtered by it.

    Parameters
    ----------
    first, second : (D, D, D) half maps, unfiltered. Their mean level around the molecule does not matter.
    volume : (D, D, D) map to be filtered: each band is weighted by sqrt(2 FSC / (1 + FSC)) of its local FSC (Rosenthal
        and Henderson, J. Mol. Biol. 333, 2003), and bands beyond the local resolution are left out.
    pixel_size_angstrom : of the maps.
    global_resolution_angstrom : of the whole map, which sets the window's width.
    """
    box = first.shape[-1]
    frequency = frequency_grid(box, 3, first.device)
    count = min(BANDS, box // 2)
    step = 0.5 / count  # cycles per pixel
    window = WINDOW_RESOLUTIONS * global_resolution_angstrom / pixel_size_angstrom
    smooth = torch.exp(-2 * (torch.pi * window / FWHM * frequency).square()).to(first)

    def averaged(values: Tensor) -> Tensor:
        return centred_irfftn(centred_rfftn(values, 3) * smooth, 3, box)

    spectra = [centred_rfftn(v, 3) for v in (first, second, volume)]
    last = torch.zeros_like(first)
    resolved = torch.ones_like(first, dtype=torch.bool)
    filtered = torch.zeros_like(first)
    for number in range(count + 1):
        band = (1 - (frequency / step - number).abs()).clamp_min(0).to(first)  # triangles: they add up to 1
        a, b, c = (centred_irfftn(spectrum * band, 3, box) for spectrum in spectra)
        if number == 0:  # the mean value and what the window cannot tell from it
            filtered += c
            continue
        power = (averaged(a.square()).clamp_min(0) * averaged(b.square()).clamp_min(0)).sqrt()
        fsc = averaged(a * b) / power.clamp_min(torch.finfo(power.dtype).tiny)
        if number * step * window >= 1:  # a wave longer than the window is not told from a level
            resolved &= fsc > THRESHOLD
        filtered += torch.where(resolved, fsc_weight(fsc), 0) * c
        last = torch.where(resolved, torch.full_like(last, number * step), last)
    # Where nothing is resolved, that of the bands that the window cannot judge.
    return LocalResolution(pixel_size_angstrom / last.clamp_min(step / 2), filtered, window * pixel_size_angstrom)
