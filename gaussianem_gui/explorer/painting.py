"""Colouring of a volume's surface by quantities of the Gaussians near it, or by another map. No Qt, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RAMP_END = 0.96  # of the range of colours; above it is the colour of the caps of a cut
NEIGHBOURS = 6  # Gaussians whose mean a place of the surface shows
MIDDLE = (2, 98)  # percentiles that get the darkest and the brightest colour


@dataclass(frozen=True, eq=False)
class Paint:
    """A quantity on a surface: ``at`` gives its values (V,) at vertices (V, 3), z, y, x in A from the box's centre.

    ``low`` and ``high`` are the ends of the ramp. With ``classes`` the values are codes 0 to classes - 1, and -1 for
    none.
    """

    name: str
    unit: str
    low: float
    high: float
    at: Callable[[np.ndarray], np.ndarray]
    classes: int = 0

    def shades(self, vertices: np.ndarray) -> np.ndarray:  # (V, 3) -> (V,) float32
        """Positions on the colour ramp, 0 to RAMP_END."""
        if not len(vertices):
            return np.zeros(0, np.float32)
        values = self.at(vertices)
        if self.classes:
            codes = np.where(values < 0, self.classes, values)  # the last colour is that of none
            share = (codes + 0.5) / (self.classes + 1)
        else:
            share = np.clip((np.nan_to_num(values, nan=self.low) - self.low) / max(self.high - self.low, 1e-12), 0, 1)
        return (RAMP_END * share).astype(np.float32)


def paint_by_gaussians(
    name: str, unit: str, positions: np.ndarray, values: np.ndarray, *, low: float = 0.0, high: float = 0.0
) -> Paint:  # (N, 3) z, y, x in A; (N,)
    """Colouring by values of the Gaussians: the mean of the NEIGHBOURS nearest, weighted by inverse distance.

    Unless ``high`` exceeds ``low``, the ramp spans the percentiles MIDDLE of the values.
    """
    if high <= low:
        low, high = (float(end) for end in np.percentile(values, MIDDLE))

    def at(vertices: np.ndarray) -> np.ndarray:
        away, near = _tree(positions).query(vertices, k=min(NEIGHBOURS, len(positions)))
        away, near = away.reshape(len(vertices), -1), near.reshape(len(vertices), -1)
        weight = 1.0 / (away + 1e-3 * max(float(away.mean()), 1e-9))
        return (values[near] * weight).sum(axis=1) / weight.sum(axis=1)

    return Paint(name, unit, low, high, at)


def paint_by_domains(positions: np.ndarray, domains: np.ndarray) -> Paint:  # (N, 3) z, y, x in A; (N,) from 0, -1 none
    """Colouring by the rigid domain of the nearest Gaussian."""
    return Paint("Domain", "", 0, 0, lambda at: domains[_tree(positions).query(at)[1]], int(domains.max(initial=0)) + 1)


def _tree(positions: np.ndarray) -> Any:
    """Made where it is used: in a worker."""
    from scipy.spatial import KDTree

    return KDTree(positions)
