"""The particles of a reconstruction: their original images, poses, CTFs and half sets, and how the images are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import Aberrations
from gaussianem_core.imaging.correction import corrected_shifts
from gaussianem_core.imaging.fourier import radial_power
from gaussianem_core.io.corrected_images import CorrectedImages, ctf_parameters
from gaussianem_core.io.image_rows import first_rows, number_images
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.particle_table import ParticleTable

READERS = 2
"""Threads that read ahead while images are inserted: one reads from the disk while another corrects."""
BLOCK_IMAGES, BLOCK_BYTES = 512, 64 << 20
"""Images that are read and inserted at once, at most."""
SAMPLED = 400
"""Images of each group that tell its noise."""
LARGEST_NOISE = 1e3
"""Ratio of a group's noise power to the mean, up or down, at which the weights are cut off."""
UNEVEN = 0.2
"""Spread (of the logarithm) of the images' noise from which each is scaled to 1."""
OFFSET = 0.05
"""Median level of the backgrounds, in standard deviations of an image, from which each image's is subtracted."""
BROKEN = 4.0
"""An image whose noise is so many times that of the others, or less than the inverse, is not used."""


@dataclass(frozen=True)
class ParticleImages:
    """N particles (rows) and how to read their images; a row is an image in one pose.

    Attributes
    ----------
    images : the originals, corrected for what can be taken off, in one box and pixel size.
    rotations : (N, 3, 3). shifts : (N, 2) px of ``images``.
    parameters : (N, 9 or more) CTFs of ``images``.
    half : (N,) half set, 1 or 2.
    image : (N,) number of the image that each row shows.
    particle : (N,) number, from 0, of the particle whose image it is; latents and selections have a row a particle.
    white : whether the protein is white in the images.
    """

    images: CorrectedImages
    rotations: npt.NDArray[np.float64]
    shifts: npt.NDArray[np.float64]
    parameters: npt.NDArray[np.float32]
    half: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    particle: npt.NDArray[np.int64]
    white: bool

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def first(self) -> npt.NDArray[np.int64]:  # -> (P,)
        """The first row of each particle."""
        return first_rows(self.particle)

    @property
    def box(self) -> int:
        """Side of the images in pixels."""
        return self.images.box

    @property
    def pixel_size_angstrom(self) -> float:
        """Side of a pixel in Angstrom."""
        return self.images.pixel


def particle_images(
    table: ParticleTable,
    aberrations: Aberrations,
    half: npt.NDArray[np.int64],
    box: int,
    pixel_size_angstrom: float,
    white: bool,
) -> ParticleImages:
    """Particles of a table, their images in a new box (px) and pixel size; ``half`` (N,) is 1 or 2.

    Raises InputError for images that cannot fill the box.
    """
    parameters = ctf_parameters(table, aberrations, box, pixel_size_angstrom)
    return ParticleImages(
        CorrectedImages(ImageStack.from_table(table), aberrations, parameters, box, pixel_size_angstrom),
        table.rotations,
        corrected_shifts(table.shifts_angstrom, aberrations) / pixel_size_angstrom,
        parameters,
        half,
        number_images(table.stack_index, table.image_index),
        np.arange(len(table)) if table.particle is None else table.particle,
        white,
    )


def with_poses(particles: ParticleImages, rotations: npt.NDArray[np.float64]) -> ParticleImages:
    """The same images, seen in other orientations (N, 3, 3)."""
    return replace(particles, rotations=rotations)


def half_sets(
    table: ParticleTable, image: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.int64], bool]:  # -> (N,), whether they are the file's
    """Half set of each row: rlnRandomSubset where the file has two, else a random half of the images is 1.

    Rows that show one image come to one half, else its noise would be in both; so do all images of a particle of a tilt
    series, whose errors of pose and state are one. A file that parts them is not followed.
    """
    unit = image if table.particle is None else table.particle
    subset = table.random_subset
    parted = table.particle is not None and (subset != subset[first_rows(unit)][unit]).any()
    if set(np.unique(subset)) == {1, 2} and not parted:
        return subset.astype(np.int64), True
    count = int(unit.max()) + 1
    drawn = np.ones(count, np.int64)
    drawn[np.random.default_rng([seed, 43]).permutation(count)[: count // 2]] = 2
    return drawn[unit], False


# ---- the noise of the images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Background:
    """Noise and level of the images' backgrounds.

    Attributes
    ----------
    noise_weights : (G, D/2+1) inverse noise power of each group of images by shell, relative to all.
    group : (N,) the group of each row.
    subtract, scale : whether each image's background is brought to mean 0, to deviation 1.
    typical : deviation of the background, in the median; 0 where the images are not noisy.
    spread : of the logarithm of the images' own, 1.48 median absolute deviations (a Gaussian's standard deviation).
    """

    noise_weights: Tensor
    group: npt.NDArray[np.int64]
    subtract: bool
    scale: bool
    typical: float
    spread: float


def measure_background(particles: ParticleImages, seed: int, wanted: npt.NDArray[np.bool_]) -> Background:
    """Measure the background on a sample of the images of rows ``wanted`` (N,).

    Raises InputError for constant images.
    """
    generator = np.random.default_rng([seed, 47])
    group = np.zeros(len(particles), np.int64)
    powers, levels, deviations, centres = [], [], [], []
    used = [(s, rows) for s in particles.images.sources if len(rows := s.rows[wanted[s.rows]])]
    for number, (source, rows) in enumerate(used):
        group[source.rows] = number
        images = particles.images.read(np.sort(generator.permutation(rows)[:SAMPLED]))
        powers.append(radial_power(images).mean(0))
        level, deviation = background(images)
        levels.append(level)
        deviations.append(deviation)
        centres.append(images.std((1, 2)))
    level, deviation, whole = torch.cat(levels), torch.cat(deviations), torch.cat(centres)
    if not float(whole.median()) > 0:
        raise InputError("particle images", "must not be constant", "a standard deviation of 0", "Check the stacks.")
    noisy = float(deviation.median()) > 0.5 * float(whole.median())
    known = deviation[deviation > 0]
    spread = 0.0
    if noisy and len(known) > 1:  # of most: a broken image or two do not count
        logarithm = known.log()
        spread = float(1.4826 * (logarithm - logarithm.median()).abs().median())
    power = torch.stack(powers)
    sizes = torch.tensor([float(len(rows)) for _, rows in used])
    mean = (power * sizes[:, None]).sum(0) / sizes.sum()
    least = torch.finfo(power.dtype).tiny
    weights = (mean / power.clamp_min(least)).nan_to_num(1.0).clamp(1 / LARGEST_NOISE, LARGEST_NOISE)
    return Background(
        torch.cat([weights, weights[:, -1:]], dim=1),
        group,
        bool(level.abs().median() > OFFSET * whole.median()),
        spread > UNEVEN,
        float(deviation.median()) if noisy else 0.0,
        spread,
    )


def background(images: Tensor) -> tuple[Tensor, Tensor]:  # (n, D, D) -> (n,), (n,)
    """Mean and standard deviation of the pixels outside the circle that the box holds."""
    box = images.shape[-1]
    axis = torch.arange(box, device=images.device) - box // 2
    outside = axis.square()[:, None] + axis.square() > (box // 2) ** 2
    pixels = images[:, outside]
    return pixels.mean(1), pixels.std(1)


def normalised(images: Tensor, found: Background) -> tuple[Tensor, Tensor]:  # (n, D, D) -> same, (n,) bool
    """Images with level and scale corrected as ``found`` says, and which of them are not broken (see BROKEN)."""
    if not (found.subtract or found.scale or found.typical):
        return images, torch.ones(len(images), dtype=torch.bool, device=images.device)
    level, deviation = background(images)
    if found.subtract:
        images = images - level[:, None, None]
    whole = torch.ones_like(deviation, dtype=torch.bool)
    if found.scale:
        whole = deviation > 0
        images = images / torch.where(whole, deviation, 1)[:, None, None]
    elif found.typical:
        ratio = deviation / found.typical
        whole = (ratio < BROKEN) & (ratio > 1 / BROKEN)
    return images, whole


# ---- reading -----------------------------------------------------------------------------------------------------


def read_ahead(
    particles: ParticleImages, wanted: npt.NDArray[np.bool_], report: Callable[[int], None]
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """Yield (rows (n,), images (n, D, D) on the CPU) of the ``wanted`` (N,), in blocks, read ahead in threads.

    Memory is bounded by ``READERS`` + 1 blocks. ``report`` is called with the number of images yielded so far. Raises
    InputError for images that cannot be read or hold NaN or infinite pixels.
    """
    images = particles.images
    waiting: deque[tuple[npt.NDArray[np.int64], Future[Tensor]]] = deque()
    done = 0
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="read-particles")
    try:
        blocks = images.blocks(BLOCK_IMAGES, BLOCK_BYTES, wanted)
        while True:
            while len(waiting) < READERS and (block := next(blocks, None)) is not None:
                waiting.append((block.rows, pool.submit(images.read_block, block)))
            if not waiting:
                return
            rows, future = waiting.popleft()
            read = future.result()
            del future
            yield rows, read
            done += len(rows)
            report(done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
