"""The latent space: components, classes, neighbours, and paths. Plain NumPy; N rows, zdim columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from gaussianem_core.runtime.neighbours import neighbour_tree

LEAST_VARIANCE = 1e-6
"""Least share of the variance of a component that counts as used."""
LEAST_NATS = 0.01
"""Least information (nats a particle) in an active latent dimension; collapsed posteriors have less."""
SMALL = 50_000
"""Largest number of particles for which k-means uses all of them in each step; above it, batches."""


@dataclass(frozen=True)
class Components:
    """Principal components: ``mean`` (zdim,), ``axes`` (k, zdim) of unit length, ``variances`` (k,), and ``ratios``
    (k,), their shares of the total variance."""

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    ratios: np.ndarray

    @property
    def used(self) -> int:
        """Number of components along which the particles vary (at least 1): those with more than LEAST_VARIANCE of the
        variance."""
        return max(1, int((self.ratios > LEAST_VARIANCE).sum()))

    def scores(self, z: np.ndarray) -> np.ndarray:  # (N, zdim) -> (N, k)
        """Coordinates along the components."""
        return (z - self.mean) @ self.axes.T


def principal_components(z: np.ndarray) -> Components:  # (N, zdim)
    """All components, largest variance first; each axis has a positive largest entry, so that signs are stable."""
    mean = z.mean(axis=0, dtype=np.float64)
    centred = z - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / max(len(z) - 1, 1))
    variances, axes = np.clip(variances[::-1], 0, None), axes[:, ::-1].T
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    total = variances.sum()
    return Components(mean, axes, variances, variances / total if total > 0 else variances)


def active_dimensions(latents: Mapping[str, np.ndarray]) -> np.ndarray:  # -> (zdim,) bool
    """Latent dimensions in which the images distinguish the particles.

    ``latents`` are the arrays of a latents file. A dimension is not active where its array ``active`` is False, where
    all particles have the same value, and where their posteriors are the prior: the mean Kullback-Leibler divergence
    from N(0, 1) is at most LEAST_NATS. No dimension is active where ``log_likelihood_gain`` has no positive mean.
    """
    z = latents["z_mu"].astype(np.float64)
    active = np.ptp(z, axis=0) > 1e-6 * max(float(np.abs(z).max()), 1e-6)
    if (told := latents.get("active")) is not None and told.shape == active.shape:
        active &= told.astype(bool)
    if (spread := latents.get("z_logvar")) is not None:
        wide = np.clip(spread.astype(np.float64), -50, 50)
        active &= 0.5 * (np.square(z) + np.exp(wide) - 1 - wide).mean(axis=0) > LEAST_NATS
    gains = latents.get("log_likelihood_gain")
    if gains is not None and not gains.mean() > 0:
        active[:] = False
    return active


def k_means(z: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # -> (N,), (classes, zdim)
    """Class of each particle by k-means, and the centres, ordered along the first principal component of ``z``
    (N, zdim)."""
    method = KMeans if len(z) <= SMALL else MiniBatchKMeans
    more = {} if len(z) <= SMALL else {"batch_size": 16384}
    with warnings.catch_warnings():
        # fewer distinct points than classes: empty classes are seen in the counts
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        fit = method(n_clusters=classes, n_init=4, random_state=seed, **more).fit(z)
    centres = fit.cluster_centers_
    order = np.argsort(principal_components(z).scores(centres)[:, 0])
    rank = np.empty_like(order)
    rank[order] = np.arange(classes)
    return rank[fit.labels_], centres[order]


def nearest_particles(z: np.ndarray, points: np.ndarray) -> np.ndarray:  # (N, zdim), (P, zdim) -> (P,)
    """Row of the particle nearest to each point."""
    return np.asarray(neighbour_tree(z).query(points)[1])


def neighbour_distance(z: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:  # -> (P,)
    """Distance from each of ``points`` (P, zdim) to its k-th nearest particle of ``z`` (N, zdim), or to the farthest
    where N < k."""
    distance = neighbour_tree(z).query(points, k=[min(k, len(z))], workers=-1)[0]
    return np.asarray(distance)[:, 0]
