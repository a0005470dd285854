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
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(str(path), "must be a readable .npy file", error, "Run preprocess again.") from error
    if found.ndim != 1 or found.dtype.kind not in "iu" or (len(found) and found.min() < 0):
        raise InputError(str(path), "must hold one image number a row", f"{found.dtype} {found.shape}", "Make it anew.")
    if rows is not None and len(found) != rows:
        raise InputError(str(path), f"must have {rows} rows", len(found), "Use the files of one preprocess run.")
    return found.astype(np.int64)
