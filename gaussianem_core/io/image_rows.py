"""Which image of the stack each row of a prepared data set shows, where several rows show one.

After a symmetry expansion an image has one row (pose, CTF, latent) for each way in which the molecule may sit in it.
``images.npy`` (N,) then holds the number of each row's image in the stack; without the file row i is image i. The rows
of one image are no independent observations: what counts particles counts images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import read_npy

IMAGES = "images.npy"

Numbers = npt.NDArray[np.int64]


def number_images(stack_index: npt.NDArray[np.integer], image_index: npt.NDArray[np.integer]) -> Numbers:
    """Number of each row's image (N,), counted in order of first appearance."""
    key = stack_index.astype(np.int64) * (int(image_index.max(initial=0)) + 1) + image_index
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def first_rows(image: Numbers) -> Numbers:  # (N,) -> (M,)
    """The first row of each image."""
    return np.unique(image, return_index=True)[1]


def load_images(folder: Path, rows: int | None = None) -> Numbers | None:
    """``images.npy`` in a folder of prepared data; None where each row has an image of its own.

    Raises InputError if it cannot be read, or has another number of rows than ``rows``.
    """
    path = folder / IMAGES
    if not path.exists():
        return None
    found = read_npy(path, "images", "Run preprocess again.", "iu")
    if found.ndim != 1 or (len(found) and found.min() < 0):
        raise InputError(str(path), "must hold one image number a row", found.shape, "Run preprocess again.")
    if rows is not None and len(found) != rows:
        raise InputError(str(path), f"must have {rows} rows", len(found), "Use the files of one preprocess run.")
    return found.astype(np.int64)
