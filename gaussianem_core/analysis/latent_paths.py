"""Paths through the latent space for trajectories. No Qt, no torch. N particles, zdim columns, P points."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from gaussianem_core.analysis.latent_space import Components, principal_components
from gaussianem_core.errors import InputError
from gaussianem_core.runtime.neighbours import neighbour_tree

GRAPH_POINTS = 12_000
GRAPH_NEIGHBOURS = 12


def along_component(z: np.ndarray, number: int, points: int, low: float = 5.0, high: float = 95.0) -> np.ndarray:
    """From percentile ``low`` to ``high`` of component ``number`` (from 0), straight through the mean: (P, zdim)."""
    return component_line(z, principal_components(z), number, low, high, points)


def along_populated(z: np.ndarray, number: int, points: int, low: float = 5.0, high: float = 95.0) -> np.ndarray:
    """As :func:`along_component`, but by a :func:`geodesic` between the populated middles of its two ends: where there
    are several populations the path keeps to one as long as it can, and does not jump between them."""
    ends = populated_path(z, principal_components(z), number, low, high, 2)
    return geodesic(z, ends, points)


def through(anchors: np.ndarray, points: int) -> np.ndarray:  # (A, zdim) -> (P, zdim)
    """Straight pieces through ``anchors``, evenly spaced along their length. Raises InputError for fewer than two."""
    anchors = np.asarray(anchors, np.float64)
    if len(anchors) < 2:
        raise InputError("path", "must have at least two anchors", len(anchors), "Click two places in a plot.")
    steps = np.linalg.norm(np.diff(anchors, axis=0), axis=1)
    place = np.concatenate([[0.0], np.cumsum(steps)])
    if place[-1] == 0:
        raise InputError("path", "must lead somewhere", "equal anchors", "Click two different places.")
    wanted = np.linspace(0, place[-1], points)
    return np.stack([np.interp(wanted, place, column) for column in anchors.T], axis=1)


def class_order(centres: np.ndarray) -> np.ndarray:  # (K, zdim) -> (K,)
    """An order of class centres in which neighbours are near: the shortest open tour found by 2-opt."""
    count = len(centres)
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    order = list(np.argsort(principal_components(centres).scores(centres)[:, 0]))
    improved = count > 3
    while improved:
        improved = False
        for i in range(count - 1):
            for j in range(i + 1, count):
                before = (distance[order[i - 1], order[i]] if i else 0.0) + (
                    distance[order[j], order[j + 1]] if j + 1 < count else 0.0
                )
                after = (distance[order[i - 1], order[j]] if i else 0.0) + (
                    distance[order[i], order[j + 1]] if j + 1 < count else 0.0
                )
                if after < before - 1e-12:
                    order[i : j + 1] = order[i : j + 1][::-1]
                    improved = True
    return np.array(order)


def geodesic(z: np.ndarray, anchors: np.ndarray, points: int, seed: int = 0) -> np.ndarray:  # -> (P, zdim)
    """The way through populated latent space: the cheapest chain of neighbouring particles, smoothed.

    A step costs the square of its length, so that the chain takes many short steps where particles are dense rather
    than one leap across a void. Large data are thinned to ``GRAPH_POINTS``; the anchors are always on the path.
    """
    anchors = np.asarray(anchors, np.float64)
    if len(anchors) < 2:
        raise InputError("path", "must have at least two anchors", len(anchors), "Click two places in a plot.")
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(z), GRAPH_POINTS, replace=False) if len(z) > GRAPH_POINTS else np.arange(len(z))
    nodes = np.concatenate([anchors, z[rows]])
    count = min(GRAPH_NEIGHBOURS + 1, len(nodes))
    while True:
        distance, index = neighbour_tree(nodes).query(nodes, k=count)
        start = np.repeat(np.arange(len(nodes)), count - 1)
        cost = np.square(distance[:, 1:]).reshape(-1) + 1e-12
        graph = csr_matrix((cost, (start, index[:, 1:].reshape(-1))), shape=(len(nodes), len(nodes)))
        total, before = dijkstra(graph, directed=False, indices=np.arange(len(anchors) - 1), return_predecessors=True)
        reached = [np.isfinite(total[i, i + 1]) for i in range(len(anchors) - 1)]
        if all(reached) or count >= len(nodes):
            break
        count = min(2 * count, len(nodes))  # islands: let the neighbours reach farther
    chain: list[int] = [0]
    for i in range(len(anchors) - 1):
        leg, node = [], i + 1
        while node != i and node >= 0:
            leg.append(node)
            node = int(before[i, node])
        chain += leg[::-1]
    way = through(_without_repeats(nodes[chain]), max(4 * points, 64))
    return through(_smooth(way), points)


def _without_repeats(path: np.ndarray) -> np.ndarray:
    keep = np.concatenate([[True], np.any(np.diff(path, axis=0) != 0, axis=1)])
    return path[keep]


def _smooth(path: np.ndarray) -> np.ndarray:
    """A moving mean over an eighth of the path; the ends stay."""
    reach = max(1, len(path) // 16)
    padded = np.concatenate([2 * path[0] - path[reach:0:-1], path, 2 * path[-1] - path[-2 : -reach - 2 : -1]])
    kernel = np.hanning(2 * reach + 3)[1:-1]
    return np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T], axis=1)


class Crowd:
    """How densely particles lie around places of the latent space; the limits are worked out once.

    ``loneliness`` is the distance to the 20th nearest particle relative to the one that 95 % of the particles do not
    exceed: above 1 a place is unpopulated. (With 99 % the outliers set the limit, and the void between two states
    passed for populated.)
    """

    NEIGHBOURS, PERCENTILE, SAMPLE = 20, 95.0, 5000
    DESERTED = 0.1  # of the typical number of nearest particles along a path

    def __init__(self, z: np.ndarray) -> None:
        self.z = np.asarray(z, np.float32)
        self._tree = neighbour_tree(self.z, balanced=False)
        self._k = min(self.NEIGHBOURS, max(1, len(z) // 10))
        own = self._tree.query(self.z[:: max(1, len(z) // self.SAMPLE)], k=[self._k + 1])[0]
        self._own = np.sort(own[:, 0])
        self._limit = max(float(np.percentile(self._own, self.PERCENTILE)), 1e-12)

    def loneliness(self, places: np.ndarray) -> np.ndarray:  # (P, zdim) -> (P,)
        """See the class."""
        return self._reach(places) / self._limit

    def standing(self, places: np.ndarray) -> np.ndarray:  # (P, zdim) -> (P,)
        """Share of the particles around which it is emptier than around a place."""
        return 1.0 - np.searchsorted(self._own, self._reach(places)) / len(self._own)

    def _reach(self, places: np.ndarray) -> np.ndarray:
        return np.asarray(self._tree.query(np.atleast_2d(places), k=[self._k])[0][:, 0])

    def deserted(self, path: np.ndarray, counts: np.ndarray) -> np.ndarray:  # (P, zdim), (P,) -> (P,) bool
        """Points of a path that are unpopulated, or nearest to hardly any particle (``counts``) next to the others."""
        return np.asarray((self.loneliness(path) > 1.0) | (counts < self.DESERTED * np.median(counts)))

    def nearest(self, place: np.ndarray, count: int = 1) -> np.ndarray:  # (zdim,) -> (count,)
        """Rows of the nearest particles."""
        found = self._tree.query(place, k=list(range(1, min(count, len(self.z)) + 1)))[1]
        return np.atleast_1d(found)

    def counts(self, path: np.ndarray) -> np.ndarray:  # (P, zdim) -> (P,)
        """How many particles are nearest to each point of a path."""
        total = np.zeros(len(path), np.int64)
        for start in range(0, len(self.z), 200_000):
            part = self.z[start : start + 200_000]
            nearest = (-2 * part @ path.T.astype(np.float32) + np.square(path).sum(axis=1)).argmin(axis=1)
            total += np.bincount(nearest, minlength=len(path))
        return total


def component_line(
    z: np.ndarray, components: Components, number: int, low: float, high: float, points: int
) -> np.ndarray:  # -> (points, zdim)
    """Points along component ``number`` through the mean, from percentile ``low`` to ``high`` of the particles."""
    scores = (z - components.mean) @ components.axes[number]
    first, last = np.percentile(scores, [low, high])
    return components.mean + np.linspace(first, last, points)[:, None] * components.axes[number]


def populated_path(
    z: np.ndarray, components: Components, number: int, low: float, high: float, points: int, share: float = 0.02
) -> np.ndarray:  # -> (points, zdim)
    """As :func:`component_line`, but following the particles: at each place along the component, their dense middle.

    The other components take the mean of the particles in a slab across the component (``share`` of all, at least
    20), drawn three times to the half of them that is nearest.
    """
    along = (z - components.mean) @ components.axes[number]
    order = np.argsort(along)
    size = min(len(z), max(20, int(share * len(z))))
    path = []
    first, last = np.percentile(along, [low, high])
    for place in np.linspace(first, last, points):
        middle = np.searchsorted(along[order], place)
        start = int(np.clip(middle - size // 2, 0, len(z) - size))
        slab = z[order[start : start + size]]
        across = slab - np.outer((slab - components.mean) @ components.axes[number], components.axes[number])
        centre = across.mean(axis=0)
        for _ in range(3):
            distance = np.linalg.norm(across - centre, axis=1)
            centre = across[distance <= np.median(distance)].mean(axis=0)
        path.append(centre + place * components.axes[number])
    return np.array(path)
