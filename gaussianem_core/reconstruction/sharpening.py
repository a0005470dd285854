"""Sharpening of a map: B-factor from Guinier's plot, and weights by FSC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.imaging.fourier import centred_rfftn, fsc_weight, shell_sum, weight_shells
from gaussianem_core.reconstruction.fsc import THRESHOLD, first_below

GUINIER_FROM_ANGSTROM = 10.0
"""Shells coarser than this are left out of the fit: they follow the molecule's shape."""
LEAST_SHELLS = 4
LARGEST_BFACTOR = 1000.0


@dataclass(frozen=True)
class Guinier:
    """Logarithm of the mean amplitude against squared frequency, and the line through it.

    Attributes
    ----------
    squared_frequency : (n,) 1/A^2. log_amplitude : (n,) of the FSC-weighted map.
    bfactor_angstrom2 : 4 times the slope, negative where amplitudes fall; None for fewer than LEAST_SHELLS shells.
    intercept : of the line.
    """

    squared_frequency: np.ndarray
    log_amplitude: np.ndarray
    bfactor_angstrom2: float | None
    intercept: float


def guinier(volume: Tensor, fsc: Tensor, pixel_size_angstrom: float) -> Guinier:  # (D, D, D), (D/2,)
    """B-factor of a map from the fall of its amplitudes between 10 A and its resolution.

    ln of the mean amplitude of a shell, times the FSC's weight, is fitted by a line over 1/d^2; B is 4 times its slope
    (Rosenthal and Henderson, J. Mol. Biol. 333, 2003, eq. 13 and fig. 8).
    """
    box = volume.shape[-1]
    power = shell_sum(centred_rfftn(volume, 3).abs().square(), box, 3)
    count = shell_sum(torch.ones(box, box, box // 2 + 1, device=volume.device, dtype=volume.dtype), box, 3)
    amplitude = ((power / count).sqrt() * fsc_weight(fsc)).double().cpu().numpy()
    squared = (np.arange(box // 2) / (box * pixel_size_angstrom)) ** 2
    last = first_below(fsc, THRESHOLD)
    fitted = np.arange(box // 2) < last
    fitted &= (squared >= GUINIER_FROM_ANGSTROM**-2) & (amplitude > 0)
    shown = (amplitude > 0) & (np.arange(box // 2) < last)
    logarithm = np.log(amplitude, where=shown, out=np.full(len(amplitude), np.nan))
    if fitted.sum() < LEAST_SHELLS:
        return Guinier(squared[shown], logarithm[shown], None, 0.0)
    slope, intercept = np.polyfit(squared[fitted], logarithm[fitted], 1)
    return Guinier(squared[shown], logarithm[shown], float(4 * slope), float(intercept))


def sharpen(volume: Tensor, fsc: Tensor, bfactor_angstrom2: float, pixel_size_angstrom: float) -> Tensor:
    """The map (D, D, D) times exp(-B / (4 d^2)) and the FSC's weight sqrt(2 FSC / (1 + FSC)), cut at its resolution.

    A negative B sharpens. ``fsc`` (D/2,) is that of the half maps, corrected for the mask.
    """
    return weight_shells(volume, sharpening(fsc, bfactor_angstrom2, volume.shape[-1], pixel_size_angstrom))


def sharpening(fsc: Tensor, bfactor_angstrom2: float, box: int, pixel_size_angstrom: float) -> Tensor:  # -> (D/2,)
    """Factor of each shell in :func:`sharpen`; shell 0 has that of shell 1."""
    shell = torch.arange(box // 2, device=fsc.device)
    squared = (shell / (box * pixel_size_angstrom)).square().to(fsc)
    factor = fsc_weight(fsc) * torch.exp(-bfactor_angstrom2 / 4 * squared)
    factor[0] = factor[1]  # the mean value: its FSC says nothing
    return torch.where(shell < first_below(fsc, THRESHOLD), factor, 0.0)
