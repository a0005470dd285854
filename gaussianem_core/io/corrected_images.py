"""Original particle images, read from their stacks and corrected: magnification, odd aberrations, box, pixel size.

Preprocess writes its stack from these images, and reconstruct inserts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gaussianem_core.imaging.aberrations import Aberrations
from gaussianem_core.imaging.correction import Correction, correct_images
from gaussianem_core.imaging.resampling import check_sampling
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.particle_table import ParticleTable


@dataclass(frozen=True)
class Source:
    """Rows (n,) whose images are corrected alike."""

    rows: npt.NDArray[np.int64]
    correction: Correction


class CorrectedImages:
    """Images of N particles in one box and pixel size.

    Parameters
    ----------
    images : the originals.
    aberrations : of the N particles.
    parameters : (N, 9 or more) CTFs of the corrected images, see ``imaging.ctf``.
    box, pixel : of the corrected images, px and A.

    Raises
    ------
    InputError : images that are too small or too coarse for the new box.
    """

    def __init__(
        self,
        images: ImageStack,
        aberrations: Aberrations,
        parameters: npt.NDArray[np.float32],
        box: int,
        pixel: float,
    ) -> None:
        self.images, self.box, self.pixel = images, box, pixel
        self._parameters = torch.from_numpy(parameters)
        self.sources: list[Source] = []
        for group in images.groups():
            own = aberrations.group[group.rows]
            for number in np.unique(own):
                size, step = group.box_size, group.pixel_size_angstrom
                correction = Correction.of_group(aberrations, int(number), size, step, box, pixel)
                check_sampling(correction.sampling)
                self.sources.append(Source(group.rows[own == number], correction))

    def __len__(self) -> int:
        return len(self.images)

    def blocks(self, most: int, most_bytes: int, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[Source]:
        """Parts of the sources (of rows ``wanted`` (N,)), at most ``most`` images or ``most_bytes`` of originals."""
        for source in self.sources:
            rows = source.rows if wanted is None else source.rows[wanted[source.rows]]
            size = max(1, min(most, most_bytes // (4 * source.correction.sampling.box**2)))
            for start in range(0, len(rows), size):
                yield Source(rows[start : start + size], source.correction)

    def read_block(self, block: Source) -> torch.Tensor:  # -> (n, D, D)
        """Corrected images of a block. Safe to call from several threads.

        Raises InputError for images that cannot be read or hold NaN or infinite pixels.
        """
        originals = torch.from_numpy(self.images.read(block.rows))
        return correct_images(originals, self._parameters[block.rows], block.correction)

    def read(self, rows: npt.NDArray[np.integer]) -> torch.Tensor:  # (n,) -> (n, D, D)
        """Corrected images in the order of ``rows``, which are all different. Raises as :meth:`read_block`."""
        found = torch.empty(len(rows), self.box, self.box)
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        for block in self.blocks(64, 1 << 26, place >= 0):
            found[torch.from_numpy(place[block.rows])] = self.read_block(block)
        return found


def ctf_parameters(table: ParticleTable, aberrations: Aberrations, box: int, pixel: float) -> npt.NDArray[np.float32]:
    """CTFs (N, 9 or more) of corrected images of ``box`` px of ``pixel`` A: columns of ``ctf.npy``, then aberrations'.

    Images that were corrected for their CTF have none left: defocus 0, Cs 0 and amplitude contrast 1.
    """
    columns = [
        np.full(len(table), box),
        np.full(len(table), pixel),
        table.defocus_u_angstrom,
        table.defocus_v_angstrom,
        table.defocus_angle_deg,
        table.voltage_kv,
        table.cs_mm,
        table.amplitude_contrast,
        table.phase_shift_deg,
    ]
    found = np.stack(columns, axis=1).astype(np.float32)
    corrected = aberrations.corrected[aberrations.group]
    for column in (2, 3, 4, 6, 8):
        found[corrected, column] = 0.0
    found[corrected, 7] = 1.0
    return np.concatenate([found, aberrations.extra_columns()], axis=1)
