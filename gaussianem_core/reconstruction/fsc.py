"""Agreement of two half maps: FSC without mask, with it, and corrected for the correlation that the mask adds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.imaging.fourier import centred_irfftn, centred_rfftn, fourier_shell_correlation, shell_index

THRESHOLD = 0.143
"""FSC of half maps at which the whole map correlates with the truth by 0.5 (Rosenthal and Henderson, J. Mol. Biol. 333,
2003)."""
RANDOMISE_BELOW = 0.8
"""Phases are randomised from the first shell on whose unmasked FSC is below this."""
GUARD_SHELLS = 2
"""Shells behind the first randomised one that the mask mixes with those before it: left uncorrected."""


@dataclass(frozen=True)
class HalfMapAgreement:
    """FSC of two half maps by shell, 0 .. D/2 - 1; shell i lies at D x pixel size / i Angstrom.

    Attributes
    ----------
    unmasked, masked, randomised, corrected : (D/2,); ``randomised`` is the masked FSC once the phases are random from
        shell ``randomised_from`` on.
    box, pixel_size_angstrom : of the maps.
    """

    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    randomised_from: int
    box: int
    pixel_size_angstrom: float

    def resolution(self, curve: Tensor, threshold: float = THRESHOLD) -> float:
        """Resolution (A) at which a curve (D/2,) first falls below the threshold."""
        return resolution(curve, self.box, self.pixel_size_angstrom, threshold)


def compare_half_maps(
    first: Tensor, second: Tensor, mask: Tensor, pixel_size_angstrom: float, seed: int
) -> HalfMapAgreement:  # 3 x (D, D, D)
    """FSC of half maps: unmasked, masked, masked with random phases, and corrected.

    With T the masked FSC and N the masked FSC of maps with random phases, the corrected one is (T - N) / (1 - N) (Chen
    et al., Ultramicroscopy 135, 2013, eq. 4); up to GUARD_SHELLS behind the first randomised shell it is T.

    ``mask`` holds values from 0 to 1. ``seed`` is that of the random phases.
    """
    box = first.shape[-1]
    unmasked = fourier_shell_correlation(first, second)
    masked = fourier_shell_correlation(first * mask, second * mask)
    start = first_below(unmasked, RANDOMISE_BELOW)
    generator = np.random.default_rng([seed, 41])
    random = [randomise_phases(volume, start, generator) * mask for volume in (first, second)]
    randomised = fourier_shell_correlation(*random)
    corrected = masked.clone()
    beyond = start + GUARD_SHELLS
    noise = randomised[beyond:].clamp(max=1 - 1e-6)
    corrected[beyond:] = (masked[beyond:] - noise) / (1 - noise)
    return HalfMapAgreement(unmasked, masked, randomised, corrected, start, box, pixel_size_angstrom)


def randomise_phases(volume: Tensor, start: int, generator: np.random.Generator) -> Tensor:  # (D, D, D)
    """The volume with its own amplitudes and, from shell ``start`` on, random phases."""
    box = volume.shape[-1]
    noise = torch.from_numpy(generator.standard_normal(tuple(volume.shape), np.float32)).to(volume)
    spectrum, random = centred_rfftn(volume, 3), centred_rfftn(noise, 3)  # of a real volume: Hermitian by itself
    turned = random * (spectrum.abs() / random.abs().clamp_min(torch.finfo(volume.dtype).tiny))
    beyond = shell_index(box, 3, volume.device) >= start
    return centred_irfftn(torch.where(beyond, turned, spectrum), 3, box)


def first_below(curve: Tensor, threshold: float) -> int:  # (D/2,)
    """First shell from 1 on whose value is below the threshold; D/2 where none is."""
    below = torch.nonzero(curve[1:] < threshold)
    return int(below[0]) + 1 if len(below) else len(curve)


def resolution(curve: Tensor, box: int, pixel_size_angstrom: float, threshold: float = THRESHOLD) -> float:
    """Resolution (A) at which the curve (D/2,) first falls to the threshold, linear between shells; twice the pixel
    size where it never does. ``box`` : D, in pixels."""
    shell = first_below(curve, threshold)
    if shell == len(curve):
        return 2 * pixel_size_angstrom
    before, after = float(curve[shell - 1]), float(curve[shell])
    part = (before - threshold) / (before - after) if shell > 1 and before > threshold else 1.0
    return box * pixel_size_angstrom / (shell - 1 + part)
