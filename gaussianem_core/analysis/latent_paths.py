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
    """A straight path (P, zdim) along principal component ``number`` (from 0) through the mean, from percentile ``low``
    to ``high`` of the particles ``z`` (N, zdim)."""
    return component_line(z, principal_components(z), number, low, high, points)


def along_populated(z: np.ndarray, number: int, points: int, low: float = 5.0, high: float = 95.0) -> np.ndarray:
    """A path (P, zdim) as :func:`along_component`, but a :func:`geodesic` between the populated middles of its ends:
    where there are several populations it keeps to one as long as it can, and does not jump between them."""
    ends = populated_path(z, principal_components(z), number, low, high, 2)
    return geodesic(z, ends, points)


def through(anchors: np.ndarray, points: int) -> np.ndarray:  # (A, zdim) -> (P, zdim)
    """A path of straight pieces through ``anchors``, its points evenly spaced along its length.

    Raises InputError for fewer than two anchors, or if all are equal.
    """
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
    """Numbers of the class centres in an order with near neighbours: the shortest open tour that 2-opt finds
    (Croes, Oper. Res. 6, 1958), starting from the order along the first component."""
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
    """A path through populated latent space: the cheapest chain of neighbouring particles between anchors, smoothed.

    ``z`` (N, zdim), ``anchors`` (A, zdim). The chain is Dijkstra's shortest path in the graph of nearest neighbours,
    where a step costs the square of its length: many short steps where particles are dense cost less than one across a
    void. Of more than GRAPH_POINTS particles a random sample is used. The path begins and ends at the outer anchors;
    smoothing may move it off the inner ones.

    Raises InputError for fewer than two anchors, or if all are equal.
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


def component_line(
    z: np.ndarray, components: Components, number: int, low: float, high: float, points: int
) -> np.ndarray:  # -> (points, zdim)
    """A straight path along component ``number`` (from 0) through the mean, from percentile ``low`` to ``high`` of the
    particles ``z`` (N, zdim)."""
    scores = (z - components.mean) @ components.axes[number]
    first, last = np.percentile(scores, [low, high])
    return components.mean + np.linspace(first, last, points)[:, None] * components.axes[number]


def populated_path(
    z: np.ndarray, components: Components, number: int, low: float, high: float, points: int, share: float = 0.02
) -> np.ndarray:  # -> (points, zdim)
    """A path as :func:`component_line`, but through the dense middle of the particles at each point of the component.

    The other components take the mean of the particles in a slab across the component (``share`` of all, at least
    20); three times it is replaced by the mean of the half of them that is nearest to it.
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
