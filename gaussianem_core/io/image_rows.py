"""Which image of the stack, and which particle, each row of a prepared data set shows.

After a symmetry expansion an image has one row (pose, CTF, latent) for each way in which the molecule may sit in it.
``images.npy`` (N,) then holds the number of each row's image in the stack; without the file row i is image i. The rows
of one image are no independent observations: what counts particles counts images.

A tilt series shows one particle in several images. ``particles.npy`` (N,) then holds the number of each row's
particle, counted from 0 in the order of the particle file; without the file each row is a particle. Latents have a row
a particle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import read_npy

IMAGES = "images.npy"
PARTICLES = "particles.npy"

Numbers = npt.NDArray[np.int64]


def number_images(stack_index: npt.NDArray[np.integer], image_index: npt.NDArray[np.integer]) -> Numbers:
    """Number of each row's image (N,), from 0 in order of first appearance, given its stack and place in it, (N,)."""
    return count_in_order(stack_index.astype(np.int64) * (int(image_index.max(initial=0)) + 1) + image_index)


def first_rows(image: Numbers) -> Numbers:  # (N,) -> (M,)
    """The first row of each image."""
    return np.unique(image, return_index=True)[1]


def load_images(folder: Path, rows: int | None = None) -> Numbers | None:
    """``images.npy`` in a folder of prepared data; None where each row has an image of its own.

    Raises InputError if it cannot be read, or has another number of rows than ``rows``.
    """
    return _load_numbers(folder / IMAGES, "images", "image", rows)


def load_particles(folder: Path, rows: int | None = None) -> Numbers | None:
    """``particles.npy`` in a folder of prepared data; None where each row is a particle.

    Raises InputError if it cannot be read, leaves numbers out, or has another number of rows than ``rows``.
    """
    found = _load_numbers(folder / PARTICLES, "particles", "particle", rows)
    if found is not None and (not len(found) or len(np.unique(found)) != found.max() + 1):
        rule = "must number the particles from 0 and leave none out"
        raise InputError(str(folder / PARTICLES), rule, f"{len(np.unique(found))} numbers", "Run preprocess again.")
    return found


def rows_of_particles(values: np.ndarray, particle: Numbers | None, rows: int, source: object) -> np.ndarray:
    """Values (P, ...) of particles for the ``rows`` of a particle file, which has a row a particle, or an image.

    ``particle``: of ``particles.npy``, None where each row is a particle. Raises InputError for another number of rows.
    """
    if rows == len(values):
        return values
    if particle is not None and rows == len(particle) and len(values) == particle.max() + 1:
        return values[particle]
    rule = f"must have the {len(values)} rows of the latents"
    raise InputError(str(source), rule, rows, "Bring back the particle file that Preprocess was given.")


def _load_numbers(path: Path, argument: str, what: str, rows: int | None) -> Numbers | None:
    if not path.exists():
        return None
    found = read_npy(path, argument, "Run preprocess again.", "iu")
    if found.ndim != 1 or (len(found) and found.min() < 0):
        raise InputError(str(path), f"must hold one {what} number a row", found.shape, "Run preprocess again.")
    if rows is not None and len(found) != rows:
        raise InputError(str(path), f"must have {rows} rows", len(found), "Use the files of one preprocess run.")
    return found.astype(np.int64)


def count_in_order(keys: npt.NDArray[np.generic]) -> Numbers:  # (N,) -> (N,)
    """Numbers from 0 for keys of any kind, counted in order of first appearance."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]
