"""Images inserted into the sums of the half sets, for one map or several, and the sums solved for half maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gaussianem_core.imaging.backprojection import empty_sums, insert_spectra, solve, weighted_spectra
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.options import Projector
from gaussianem_core.reconstruction.particle_images import Background, ParticleImages, normalised, read_ahead

FIRST_FSC = 0.5
"""Of all shells, before anything is known: as much signal as noise in a component."""


@dataclass(frozen=True)
class HalfVolumes:
    """The maps of two half sets, of all images, and their FSC.

    Attributes
    ----------
    first, second, whole : (D, D, D) [z, y, x], no shell attenuated.
    fsc : (D/2,) of the first and the second.
    """

    first: Tensor
    second: Tensor
    whole: Tensor
    fsc: Tensor


def insert_images(
    particles: ParticleImages,
    weights: npt.NDArray[np.float32],
    operators: npt.NDArray[np.float64],
    found: Background,
    device: torch.device,
    backend: Projector,
    report: Callable[[int], None],
) -> tuple[list[list[Tensor]], int]:  # -> [map][half set] (P, P, P//2+1, 6), number of images left out
    """One pass over the images, each inserted into the sums of its half set of every map in which it has weight.

    Parameters
    ----------
    weights : (N, S) of each row in each of S maps.
    operators : (n, 3, 3) of the point group (see ``symmetry_operators``); an image is inserted in each mate's pose.
    found : what the images' background says.
    report : hears how many images have been inserted.
    """
    box, maps = particles.box, weights.shape[1]
    sums = [[empty_sums(box, device) for _ in range(2)] for _ in range(maps)]
    turns = torch.from_numpy(operators).to(device, torch.float32)
    noise = found.noise_weights.to(device)
    sign = -1.0 if particles.white else 1.0
    left_out = 0
    for rows, images in read_ahead(particles, np.asarray(weights.any(axis=1)), report):
        images, whole = normalised(images.to(device), found)
        left_out += int((~whole).sum())
        transfer = sign * ctf(torch.from_numpy(particles.parameters[rows]).to(device), box)
        shifts = torch.from_numpy(particles.shifts[rows]).to(device, torch.float32)
        values, weight = weighted_spectra(images, shifts, transfer, noise[torch.from_numpy(found.group[rows])])
        rotations = torch.from_numpy(particles.rotations[rows]).to(device, torch.float32)
        whole_rows = whole.cpu().numpy()
        for number in range(maps):
            for half in (1, 2):
                own = weights[rows, number]
                chosen = np.flatnonzero((own != 0) & (particles.half[rows] == half) & whole_rows)
                if not len(chosen):
                    continue
                index = torch.from_numpy(chosen).to(device)
                share = torch.from_numpy(own[chosen]).to(device, torch.float32)[:, None, None]
                parts = (values[index] * share, weight[index] * share)
                for turn in turns:
                    insert_spectra(sums[number][half - 1], *parts, rotations[index] @ turn, backend)
    return sums, left_out


def solve_halves(sums: Sequence[Tensor]) -> HalfVolumes:  # 2 x (P, P, P//2+1, 6)
    """Half maps and whole map of the sums of two half sets; the first sums become those of all.

    Within a shell, components are weighted by what the images say of them, as far as the FSC goes (``own_share`` of
    `solve`): a Wiener filter whose prior follows from the FSC (Scheres, J. Struct. Biol. 180, 2012), each shell scaled
    back to what it would be without.
    """
    first, second = sums
    fsc = first.new_full((first.shape[0] // 4,), FIRST_FSC)
    for _ in range(2):
        share = own_share(fsc)
        halves = [solve(one, own_share=share) for one in (first, second)]
        fsc = fourier_shell_correlation(*halves)
    first += second
    share = own_share(fsc)
    return HalfVolumes(halves[0], halves[1], solve(first, own_share=2 * share / (1 + share)), fsc)


def own_share(fsc: Tensor) -> Tensor:  # (D/2,) -> (D/2+1,)
    """The FSC from 0 to 1, that of Nyquist as the last; the mean value's, of which it says nothing, as the next."""
    share = torch.cat([fsc, fsc[-1:]]).clamp(0, 1)
    share[0] = share[1]
    return share


def cut_volumes(volumes: HalfVolumes, box: int) -> HalfVolumes:
    """The maps cut about their centre to ``box`` voxels, or filled up with the mean of their faces, and their FSC."""
    if volumes.first.shape[-1] == box:
        return volumes
    first, second, whole = (_in_box(volume, box) for volume in (volumes.first, volumes.second, volumes.whole))
    return HalfVolumes(first, second, whole, fourier_shell_correlation(first, second))


def _in_box(volume: Tensor, box: int) -> Tensor:  # (D, D, D) -> (box, box, box)
    old = volume.shape[-1]
    start = abs(box // 2 - old // 2)
    if box < old:
        return volume[(slice(start, start + box),) * 3].contiguous()
    level = torch.stack([volume.select(axis, i).mean() for axis in range(3) for i in (0, -1)]).mean()
    filled = volume.new_zeros(box, box, box) + level
    filled[(slice(start, start + old),) * 3] = volume
    return filled
