"""A soft mask around the molecule, made from its map alone."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from torch import Tensor

from gaussianem_core.analysis.masks import dilate, largest_part, soft_edge
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import lowpass

LOWPASS_ANGSTROM = 20.0
"""Resolution at which the smoothed map has lost half its amplitude, at the finest."""
LEVEL = 0.3
"""Threshold between the means of solvent (0) and molecule (1): a part present in a third of the particles is inside."""
DILATE_ANGSTROM, EDGE_ANGSTROM = 4.0, 10.0
LEAST_EDGE_PIXELS = 4.0
"""A steeper edge would mix shells of the FSC."""


def automatic_mask(volume: Tensor, pixel_size_angstrom: float, resolution_angstrom: float) -> np.ndarray:
    """Mask (D, D, D) float32 from 0 to 1 of an unfiltered map (D, D, D) [z, y, x].

    The map is smoothed to 20 A (or 1.5 times its resolution, if that is coarser); its voxels within the sphere that
    the box holds fall into solvent and molecule by Otsu's threshold (IEEE Trans. SMC 9, 1979). What lies above 0.3 of
    the way between the means of both, widened by 4 A, its largest connected part without holes, gets a soft edge.

    Raises InputError where no voxel stands out.
    """
    smooth = lowpass(volume, pixel_size_angstrom, max(LOWPASS_ANGSTROM, 1.5 * resolution_angstrom)).cpu().numpy()
    box = len(smooth)
    axis = np.arange(box) - box // 2
    radius2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    inside = radius2 < (box // 2) ** 2
    values = smooth[inside]
    if not np.ptp(values) > 0:
        raise InputError("map", "must show a molecule for a mask to be made", "a constant map", "Give --mask.")
    threshold = otsu(values)
    solvent, molecule = values[values <= threshold].mean(), values[values > threshold].mean()
    solid = dilate(inside & (smooth > solvent + LEVEL * (molecule - solvent)), DILATE_ANGSTROM / pixel_size_angstrom)
    solid = ndimage.binary_fill_holes(largest_part(solid))
    return soft_edge(solid, max(LEAST_EDGE_PIXELS, EDGE_ANGSTROM / pixel_size_angstrom))


def otsu(values: np.ndarray, bins: int = 512) -> float:
    """The threshold that divides values (n,) into two classes with the largest variance between their means.

    Otsu, IEEE Trans. SMC 9, 1979, on a histogram of ``bins``.
    """
    counts, edges = np.histogram(values, bins)
    centres = 0.5 * (edges[1:] + edges[:-1])
    below = counts.cumsum()[:-1]
    above = counts.sum() - below
    first = (counts * centres).cumsum()[:-1]
    rest = (counts * centres).sum() - first
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * np.square(first / below - rest / above)
    return float(edges[1:-1][int(np.nanargmax(between))])
