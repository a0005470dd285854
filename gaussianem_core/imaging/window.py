"""Soft round windows in real space, and statistics of the background outside a circle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError

Images = npt.NDArray[np.float32]
WINDOW_INNER, WINDOW_OUTER = 0.85, 0.99  # of half the box, as the published code has it


def radius_grid(box_size: int) -> npt.NDArray[np.float64]:  # -> (D, D)
    """Distance of each pixel from the centre D//2, in units of half the box."""
    axis = (np.arange(box_size) - box_size // 2) / (box_size / 2)
    return np.hypot(axis[:, None], axis[None, :])


def window_mask(
    box_size: int, inner: float = WINDOW_INNER, outer: float = WINDOW_OUTER, edge: str = "linear"
) -> Images:  # -> (D, D)
    """Soft round window: 1 inside ``inner``, 0 outside ``outer``, falling between them.

    Parameters
    ----------
    inner, outer : radii in units of half the box, about the centre D//2. The defaults and the linear edge are those
        the published networks were trained with.
    edge : "linear", or "cosine" for a raised cosine.

    Raises
    ------
    InputError : radii that are not 0 < inner < outer, or another edge.
    """
    if edge not in ("linear", "cosine") or not 0 < inner < outer:
        raise InputError("window", "needs 0 < inner < outer, edge linear or cosine", (inner, outer, edge), "Mend it.")
    fall = np.clip((outer - radius_grid(box_size)) / (outer - inner), 0.0, 1.0)
    if edge == "cosine":
        fall = 0.5 - 0.5 * np.cos(np.pi * fall)
    return fall.astype(np.float32)


def background_statistics(images: npt.NDArray[np.floating], radius: float = 0.85) -> tuple[Images, Images]:
    """Mean and standard deviation of each image's pixels outside a circle.

    Parameters
    ----------
    images : (..., D, D)
    radius : of the circle about D//2, in units of half the box.

    Returns
    -------
    mean, std : (...) each
    """
    outside = radius_grid(images.shape[-1]) > radius
    pixels = images[..., outside].astype(np.float64)
    return pixels.mean(-1).astype(np.float32), pixels.std(-1).astype(np.float32)
