"""Back-projection of the images into the sums of the half sets, for one map or several, and half maps from the sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
"""FSC assumed in every shell at first: as much signal as noise in a component of a half map."""


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
    rings: Sequence[npt.NDArray[np.int64]],
    operators: npt.NDArray[np.float64],
    found: Background,
    device: torch.device,
    backend: Projector,
    report: Callable[[int], None],
) -> tuple[list[list[list[Tensor]]], int]:  # -> [map][ring][half set] (P, P, P//2+1, 6), number of images left out
    """Insert each image into the sums of its half set, in its ring of every map, in one pass over the images.

    Parameters
    ----------
    weights : (N,) of each row.
    rings : for each map (N,) the ring, from 0, that a row belongs to; -1 leaves it out. See `latent_kernel.Rings`; a
        plain map has one ring.
    operators : (n, 3, 3) of the point group (see ``symmetry_operators``); an image is inserted in each mate's pose.
    found : background and noise of the images.
    report : called with the number of images inserted so far.
    """
    box = particles.box
    sums = [[[empty_sums(box, device) for _ in range(2)] for _ in range(int(ring.max()) + 1)] for ring in rings]
    turns = torch.from_numpy(operators).to(device, torch.float32)
    wanted = np.asarray((weights > 0) & np.any([ring >= 0 for ring in rings], axis=0))
    left_out = 0
    for batch in image_batches(particles, wanted, weights, found, device, report):
        left_out += batch.left_out
        values, weight = weighted_spectra(batch.images, batch.shifts, batch.transfer, batch.weights)
        for ring, of_map in zip(rings, sums):
            for number, of_ring in enumerate(of_map):
                for half, own in enumerate(of_ring, start=1):
                    chosen = np.flatnonzero((ring[batch.rows] == number) & (particles.half[batch.rows] == half))
                    if len(chosen):
                        index = torch.from_numpy(chosen).to(device)
                        for turn in turns:
                            insert_spectra(own, values[index], weight[index], batch.rotations[index] @ turn, backend)
    return sums, left_out


class Batch(NamedTuple):
    """B images on the device: ``rows`` (B,), ``images`` (B, D, D), ``rotations`` (B, 3, 3), ``shifts`` (B, 2) px,
    ``transfer`` (B, D, D//2+1), ``weights`` (B, D//2+1) inverse noise power times the particles' weights; and how many
    broken images were ``left_out`` beside them."""

    rows: npt.NDArray[np.int64]
    images: Tensor
    rotations: Tensor
    shifts: Tensor
    transfer: Tensor
    weights: Tensor
    left_out: int


def image_batches(
    particles: ParticleImages,
    wanted: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float32],
    found: Background,
    device: torch.device,
    report: Callable[[int], None],
) -> Iterator[Batch]:
    """The ``wanted`` (N,) images in batches, normalised, with their CTFs and noise weights; broken ones are left out.

    ``weights`` (N,) of the particles; ``report`` is called with the number of images read so far.
    """
    noise = found.noise_weights.to(device)
    sign = -1.0 if particles.white else 1.0
    for rows, read in read_ahead(particles, wanted, report):
        images, whole = normalised(read.to(device), found)
        kept = whole.cpu().numpy()
        rows, images = rows[kept], images[whole]
        yield Batch(
            rows,
            images,
            torch.from_numpy(particles.rotations[rows]).to(device, torch.float32),
            torch.from_numpy(particles.shifts[rows]).to(device, torch.float32),
            sign * ctf(torch.from_numpy(particles.parameters[rows]).to(device), particles.box),
            noise[torch.from_numpy(found.group[rows])] * torch.from_numpy(weights[rows]).to(device)[:, None],
            int((~kept).sum()),
        )


def solve_halves(sums: Sequence[Tensor]) -> HalfVolumes:  # 2 x (P, P, P//2+1, 6)
    """Half maps and whole map of the sums of two half sets; ``sums[0]`` is changed to the sums of both.

    Within a shell, components are weighted by what the images say of them, as far as the FSC goes (``own_share`` of
    `solve`): a Wiener filter whose prior follows from the FSC (Scheres, J. Struct. Biol. 180, 2012), each shell scaled
    back to what it would be without.
    """
    first, second, fsc = half_maps(sums[0], sums[1])
    return HalfVolumes(first, second, whole_map(sums[0], sums[1], fsc), fsc)


def half_maps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # sums -> 2 x (D, D, D), (D/2,)
    """Maps of the sums of two half sets, and their FSC."""
    fsc = first.new_full((first.shape[0] // 4,), FIRST_FSC)
    for _ in range(2):
        share = own_share(fsc)
        one, two = solve(first, own_share=share), solve(second, own_share=share)
        fsc = fourier_shell_correlation(one, two)
    return one, two, fsc


def whole_map(first: Tensor, second: Tensor, fsc: Tensor) -> Tensor:  # sums, (D/2,) -> (D, D, D)
    """The map of both half sets, given the FSC of their maps; ``first`` is changed to the sums of both."""
    first += second
    share = own_share(fsc)
    return solve(first, own_share=2 * share / (1 + share))


def own_share(fsc: Tensor) -> Tensor:  # (D/2,) -> (D/2+1,)
    """``own_share`` of `solve`: the FSC clamped to 0..1; Nyquist has the last shell's value, shell 0 that of 1."""
    share = torch.cat([fsc, fsc[-1:]]).clamp(0, 1)
    share[0] = share[1]
    return share


def cut_volumes(volumes: HalfVolumes, box: int) -> HalfVolumes:
    """The maps cut about their centre to ``box`` voxels a side, or padded with their faces' mean, and their FSC."""
    if volumes.first.shape[-1] == box:
        return volumes
    first, second, whole = (cut_volume(volume, box) for volume in (volumes.first, volumes.second, volumes.whole))
    return HalfVolumes(first, second, whole, fourier_shell_correlation(first, second))


def cut_volume(volume: Tensor, box: int) -> Tensor:  # (D, D, D) -> (box, box, box)
    """A map cut about its centre to ``box`` voxels a side, or padded with the mean of its faces."""
    old = volume.shape[-1]
    if box == old:
        return volume
    start = abs(box // 2 - old // 2)
    if box < old:
        return volume[(slice(start, start + box),) * 3].contiguous()
    level = torch.stack([volume.select(axis, i).mean() for axis in range(3) for i in (0, -1)]).mean()
    filled = volume.new_zeros(box, box, box) + level
    filled[(slice(start, start + old),) * 3] = volume
    return filled
