"""Alignment of two sets of latents of the same particles, and how far two trainings or programs agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes

from gaussianem_core.analysis.latent_space import principal_components
from gaussianem_core.errors import InputError


@dataclass(frozen=True)
class Alignment:
    """Other latents in the principal components of a first set, for N particles and k components, in the first's units.

    scores (N, k): by the least-squares linear map, which may stretch each direction by itself.
    turned (N, max(k, b)): by a rotation or mirror image and one scale alone (b dimensions of the other latents).
    explained: share of the first set's variance, 0 to 1, that ``turned`` explains.
    correlations (min(k, b),): canonical correlations, 0 to 1, largest first.
    """

    scores: np.ndarray
    turned: np.ndarray
    explained: float
    correlations: np.ndarray


def align(mine: np.ndarray, other: np.ndarray) -> Alignment:  # (N, a), (N, b)
    """Other latents of the same particles, mapped onto the principal components of ``mine``.

    The linear map shows whether one set can be predicted from the other, whatever the scale of each latent. Orthogonal
    Procrustes shows whether they have the same shape: distances between particles keep their proportions.

    Raises
    ------
    InputError : they are not of the same number of particles.

    References
    ----------
    Canonical correlations: Hotelling, Biometrika 28 (1936) 321. Orthogonal Procrustes: Schoenemann, Psychometrika 31
    (1966) 1.
    """
    if len(mine) != len(other):
        raise InputError("job", f"must be of the same {len(mine)} particles", len(other), "Choose another training.")
    scores = principal_components(mine).scores(mine)
    a, b = scores - scores.mean(axis=0, dtype=np.float64), other - other.mean(axis=0, dtype=np.float64)
    left, right = _whitened(a), _whitened(b)
    correlations = np.linalg.svd(left.T @ right, compute_uv=False)
    width = max(a.shape[1], b.shape[1])
    first, second = (np.pad(values, ((0, 0), (0, width - values.shape[1]))) for values in (a, b))
    rotation, overlap = orthogonal_procrustes(second, first)
    squares = max(float((second**2).sum()), np.finfo(float).tiny)
    variance = max(float((first**2).sum()), np.finfo(float).tiny)
    turned = (overlap / squares) * (second @ rotation)
    explained = min(1.0, overlap / squares * overlap / variance)
    return Alignment(right @ (right.T @ a), turned, explained, np.clip(correlations, 0, 1))


def _whitened(centred: np.ndarray) -> np.ndarray:
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(u[:, s > 1e-6 * max(float(s.max()), 1e-30)])
