"""Simulated half maps of a refinement: the noisy images back-projected with the particles file's poses and CTFs."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.imaging.backprojection import accumulate, empty_sums, solve
from gaussianem_core.imaging.ctf import ctf


class HalfMaps:
    """Back-projections of the two half sets of a simulation, accumulated while its images are written.

    Parameters
    ----------
    rotations : (N, 3, 3), shifts : (N, 2) pixels, parameters : (N, 9) CTF, as the particles file gives them.
    half_sets : (N,) 1 or 2.
    box : of the images, and of the maps.
    """

    def __init__(
        self,
        rotations: np.ndarray,
        shifts: np.ndarray,
        parameters: np.ndarray,
        half_sets: np.ndarray,
        box: int,
        device: torch.device,
    ) -> None:
        self._given = (rotations, shifts, parameters)
        self._half_sets = half_sets
        self._sums = [empty_sums(box, device) for _ in range(2)]

    def add(self, images: torch.Tensor, rows: np.ndarray) -> None:
        """Add images (B, D, D) with white protein, of rows (B,) of the particles file."""
        for half, sums in enumerate(self._sums, start=1):
            mine = self._half_sets[rows] == half
            device, chosen = images.device, rows[mine]
            rotations, shifts, parameters = (torch.as_tensor(values[chosen], device=device) for values in self._given)
            transfer = -ctf(parameters, images.shape[-1])  # white protein
            accumulate(sums, images[torch.as_tensor(mine, device=device)], rotations, shifts, transfer)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two half maps, (D, D, D) each, [z, y, x]."""
        first, second = (solve(sums) for sums in self._sums)
        return first, second
