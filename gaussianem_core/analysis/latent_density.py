"""Density of the particles in latent space: which points are populated, and by how many particles. No Qt, no torch.

N particles, zdim columns, P points.
"""

from __future__ import annotations

import numpy as np

from gaussianem_core.runtime.neighbours import neighbour_tree


class LatentDensity:
    """Density of the particles ``z`` (N, zdim) around points of the latent space.

    A point is unpopulated if its distance to the 20th nearest particle exceeds that of 95 % of the particles
    themselves. (With 99 % the outliers set the limit, and the void between two states passed for populated.) Of fewer
    than 200 particles the neighbour is that of rank N / 10.
    """

    NEIGHBOURS, PERCENTILE, SAMPLE = 20, 95.0, 5000
    FEW_SHARE = 0.1  # of the typical number of nearest particles along a path

    def __init__(self, z: np.ndarray) -> None:
        self.z = np.asarray(z, np.float32)
        self._tree = neighbour_tree(self.z, balanced=False)
        self._k = min(self.NEIGHBOURS, max(1, len(z) // 10))
        own = self._tree.query(self.z[:: max(1, len(z) // self.SAMPLE)], k=[self._k + 1])[0]
        self._own = np.sort(own[:, 0])
        self._limit = max(float(np.percentile(self._own, self.PERCENTILE)), 1e-12)

    def sparsity(self, places: np.ndarray) -> np.ndarray:  # (P, zdim) -> (P,)
        """Distance to the 20th nearest particle, in units of the limit; above 1 a point is unpopulated."""
        return self._reach(places) / self._limit

    def rank(self, places: np.ndarray) -> np.ndarray:  # (P, zdim) -> (P,)
        """Share, 0 to 1, of the particles whose 20th nearest neighbour is farther than that of a point."""
        return 1.0 - np.searchsorted(self._own, self._reach(places)) / len(self._own)

    def _reach(self, places: np.ndarray) -> np.ndarray:
        return np.asarray(self._tree.query(np.atleast_2d(places), k=[self._k])[0][:, 0])

    def unpopulated(self, path: np.ndarray, counts: np.ndarray) -> np.ndarray:  # (P, zdim), (P,) -> (P,) bool
        """Points of a path that are unpopulated, or whose number of nearest particles (``counts``) is less than
        FEW_SHARE of the median."""
        return np.asarray((self.sparsity(path) > 1.0) | (counts < self.FEW_SHARE * np.median(counts)))

    def nearest(self, place: np.ndarray, count: int = 1) -> np.ndarray:  # (zdim,) -> (count,)
        """Rows of the ``count`` particles nearest to a point, nearest first; all particles where there are fewer."""
        found = self._tree.query(place, k=list(range(1, min(count, len(self.z)) + 1)))[1]
        return np.atleast_1d(found)

    def counts(self, path: np.ndarray) -> np.ndarray:  # (P, zdim) -> (P,)
        """Number of particles that are nearest to each point of a path."""
        total = np.zeros(len(path), np.int64)
        for start in range(0, len(self.z), 200_000):
            part = self.z[start : start + 200_000]
            nearest = (-2 * part @ path.T.astype(np.float32) + np.square(path).sum(axis=1)).argmin(axis=1)
            total += np.bincount(nearest, minlength=len(path))
        return total
