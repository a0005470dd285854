"""Points of a plot: which lie inside a shape, which is nearest, how many fall in each cell. No Qt.

All functions work on every point, not on a sample.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

CELLS = 256  # of the grid that sorts points into inside, outside and near the outline


def inside_rectangle(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:  # (N, 2) -> (N,) bool
    """Points of the rectangle between two corners, its border included."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    x, y = points[:, 0], points[:, 1]
    return (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])


def inside_polygon(points: np.ndarray, outline: np.ndarray) -> np.ndarray:  # (N, 2), (V, 2) -> (N,) bool
    """Points inside a closed outline by the even-odd rule, exactly; points that are not finite are outside.

    Only points in cells that the outline passes through are tested one by one: the others are decided with their
    cell's centre.
    """
    outline = np.asarray(outline, np.float64)
    inside = np.zeros(len(points), bool)
    if len(outline) < 3:
        return inside
    low, high = outline.min(axis=0), outline.max(axis=0)
    near = np.flatnonzero(inside_rectangle(points, low, high))
    if not len(near):
        return inside
    chosen = np.asarray(points[near], np.float64)
    if len(near) < 4 * CELLS:
        inside[near] = _even_odd(chosen, outline)
        return inside
    size = np.maximum((high - low) / CELLS, 1e-300)
    crossed = _crossed_cells((outline - low) / size)
    centres = low + (np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"), -1) + 0.5) * size
    wholly = np.zeros((CELLS, CELLS), bool)
    wholly[~crossed] = _even_odd(centres[~crossed], outline)
    cell = np.minimum(((chosen - low) / size).astype(np.int32), CELLS - 1)
    flat = cell[:, 0] * CELLS + cell[:, 1]
    answer = wholly.reshape(-1)[flat]
    doubtful = np.flatnonzero(crossed.reshape(-1)[flat])
    answer[doubtful] = _even_odd(chosen[doubtful], outline)
    inside[near] = answer
    return inside


def _crossed_cells(outline: np.ndarray) -> np.ndarray:  # in cells -> (CELLS, CELLS) bool
    """Cells that the outline may pass through: all within one cell of points taken every half cell along it."""
    following = np.roll(outline, -1, axis=0)
    steps = np.maximum(1, np.ceil(np.abs(following - outline).max(axis=1) * 2).astype(int))
    start = np.repeat(np.arange(len(outline)), steps)
    share = np.concatenate([np.arange(n) / n for n in steps])[:, None]
    places = (outline[start] * (1 - share) + following[start] * share).astype(int)
    marked = np.zeros((CELLS + 2, CELLS + 2), bool)
    x, y = np.clip(places + 1, 1, CELLS).T
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            marked[x + i, y + j] = True
    return marked[1:-1, 1:-1]


def _even_odd(points: np.ndarray, outline: np.ndarray) -> np.ndarray:  # (n, 2), (V, 2) -> (n,) bool
    """Crossings of a ray to the right, counted edge by edge over the points between an edge's ends."""
    order = np.argsort(points[:, 1], kind="stable")
    x, y = points[order, 0], points[order, 1]
    inside = np.zeros(len(points), bool)
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0)):
        if y1 == y2:
            continue
        first, last = np.searchsorted(y, [min(y1, y2), max(y1, y2)])  # ends counted once: [low, high)
        part = slice(first, last)
        inside[part] ^= x[part] < x1 + (y[part] - y1) * ((x2 - x1) / (y2 - y1))
    answer = np.empty(len(points), bool)
    answer[order] = inside
    return answer


class Nearest:
    """Finds the point of ``points`` (N, 2) nearest to a place, distances in units of the points' ranges.

    By a k-d tree once ``build`` was called, else by all distances.
    """

    def __init__(self, points: np.ndarray) -> None:
        good = np.flatnonzero(np.isfinite(points).all(axis=1))
        self._rows = good
        kept = np.asarray(points[good], np.float32)
        self._scale = np.maximum(np.ptp(kept, axis=0), 1e-9) if len(kept) else np.ones(2, np.float32)
        self._points = kept / self._scale
        self._tree: cKDTree | None = None

    def build(self) -> None:
        """Make the k-d tree; call it in a worker, as it takes long for many points."""
        if len(self._points):
            self._tree = cKDTree(self._points, balanced_tree=False, compact_nodes=False)

    def find(self, x: float, y: float) -> int:
        """Row of the nearest point, -1 if there are none."""
        if not len(self._rows):
            return -1
        place = np.array([x, y]) / self._scale
        if self._tree is not None:
            return int(self._rows[self._tree.query(place)[1]])
        distance = np.square(self._points - place.astype(np.float32)).sum(axis=1)
        return int(self._rows[distance.argmin()])


def bin_points(
    points: np.ndarray, low: np.ndarray, high: np.ndarray, bins: tuple[int, int]
) -> np.ndarray:  # (N, 2) -> (N,) int32 flat cell by x, y; bins[0] * bins[1] for points outside
    """Cell of each point on a grid of ``bins`` from ``low`` (2,) to ``high`` (2,)."""
    scale = (np.array(bins) / np.maximum(high - low, 1e-300)).astype(np.float32)
    nowhere = bins[0] * bins[1]
    x = (points[:, 0] - np.float32(low[0])) * scale[0]
    y = (points[:, 1] - np.float32(low[1])) * scale[1]
    with np.errstate(invalid="ignore"):
        outside = ~((x >= 0) & (x <= bins[0]) & (y >= 0) & (y <= bins[1]))
        cell = np.minimum(x, bins[0] - 1).astype(np.int32)
        cell *= bins[1]
        cell += np.minimum(y, bins[1] - 1).astype(np.int32)
    cell[outside] = nowhere
    return cell


def count_cells(cells: np.ndarray, bins: tuple[int, int], weights: np.ndarray | None = None) -> np.ndarray:
    """Number of points, or sum of ``weights`` (N,), in each cell (bins[0], bins[1]); ``cells`` by ``bin_points``."""
    total = np.bincount(cells, weights, minlength=bins[0] * bins[1] + 1)[:-1]
    return total.reshape(bins)
