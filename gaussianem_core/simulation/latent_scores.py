"""Scores of the latents against the truth: motions, composition, junk.

The latent error is the mean difference of state between a particle and its 100 nearest in the latent space, relative
to that of random pairs: 0 perfect, 1 nothing learned. Below 2,000 particles the nearest twentieth is taken. The R2 of a
motion and the ROC of a part's presence are those of the mean over the 60 nearest others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from gaussianem_core.errors import InputError
from gaussianem_core.simulation.ground_truth import Truth

NEIGHBOURS = 100
READERS = 60
"""Nearest others over which the truth is averaged to predict a particle's."""
QUERIES = 5000
PAIRS = 1_000_000
PROBE_FOLDS = 5


def latent_figures(z: np.ndarray, truth: Truth, generator: np.random.Generator, seed: int) -> dict[str, Any]:
    """The scores that the truth allows, by name: latent error, R2 of motions, ROC of presence, probe accuracies.

    ``z`` (N, zdim) latents. Junk is left out. Raises InputError if a label has fewer than two particles.
    """
    figures: dict[str, Any] = {}
    real = truth.real
    z, label, present = z[real], *(None if v is None else v[real] for v in (truth.label, truth.present))
    if truth.state is not None and truth.state.ndim == 1 and np.ptp(truth.state[real]) > 0:
        figures["latent_error"] = latent_error(z, truth.state[real], truth.periodic, generator)
    values = motion_values(truth)
    if values:
        figures["motion_r2"] = {name: neighbour_r2(z, columns[real]) for name, columns in values.items()}
    if present is not None and 0 < present.mean() < 1:
        figures["occupancy_roc"] = roc_area(neighbour_mean(z, present[:, None].astype(float))[:, 0], present)
        figures["occupancy_accuracy"] = probe_accuracy(z, present.astype(int), seed)
        figures["occupancy_chance"] = float(max(present.mean(), 1 - present.mean()))
    same = (
        present is not None
        and label is not None
        and len(np.unique(label)) == 2
        and (np.array_equal(label > 0, ~present) or np.array_equal(label > 0, present))
    )
    if label is not None and len(np.unique(label)) > 1 and not same:
        figures["label_accuracy"] = probe_accuracy(z, label, seed)
        figures["label_chance"] = float(np.bincount(label).max() / len(label))
    return figures


def motion_values(truth: Truth) -> dict[str, np.ndarray]:  # name -> (N, 1) or (N, 2)
    """Values of each motion for every particle; of a periodic motion cosine and sine of its phase.

    Motions that do not vary among the real particles are left out.
    """
    values: dict[str, np.ndarray] = {}
    if truth.periodic and truth.state is not None:
        names = ["motion"] if truth.state.ndim == 1 or truth.motion_names is None else truth.motion_names
        phases = 2 * np.pi * truth.state.reshape(len(truth.state), -1).T
        values = {str(n): np.stack([np.cos(p), np.sin(p)], axis=1) for n, p in zip(names, phases)}
    elif truth.motions is not None and truth.motion_names is not None:
        values = {str(n): column[:, None].astype(float) for n, column in zip(truth.motion_names, truth.motions.T)}
    elif truth.state is not None:
        values = {"motion": truth.state.reshape(len(truth.state), -1).astype(float)}
    known = {name: v[np.isfinite(v).all(axis=1) & truth.real] for name, v in values.items()}
    return {name: v for name, v in values.items() if len(known[name]) and np.ptp(known[name], axis=0).max() > 0}


def neighbour_r2(z: np.ndarray, values: np.ndarray) -> float:  # (N, zdim), (N, k)
    """Share of the variance of ``values`` that the mean over the nearest others explains; NaN rows are left out."""
    known = np.isfinite(values).all(axis=1)
    values = values[known]
    missed = ((values - neighbour_mean(z[known], values)) ** 2).sum()
    return float(1 - missed / ((values - values.mean(axis=0)) ** 2).sum())


def neighbour_mean(z: np.ndarray, values: np.ndarray) -> np.ndarray:  # (N, zdim), (N, k) -> (N, k)
    """Mean of ``values`` over each particle's nearest others: 60, and a twentieth of all below 1,200 particles."""
    nearest = nearest_others(z, np.arange(len(z)), min(READERS, max(1, len(z) // 20)))
    return values[nearest].mean(axis=1)


def nearest_others(z: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:  # (N, zdim), (Q,) -> (Q, count)
    """The ``count`` nearest of all other particles to each of ``rows``."""
    nearest = np.asarray(cKDTree(z).query(z[rows], k=count + 1, workers=-1)[1])
    itself = nearest == rows[:, None]
    itself[~itself.any(axis=1), -1] = True  # among equal latents the particle itself may not be listed
    return nearest[~itself].reshape(len(rows), count)


def roc_area(score: np.ndarray, positive: np.ndarray) -> float:  # (N,), (N,) bool
    """Area under the receiver operating characteristic: how often a positive has the higher score."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score))


def junk_figures(latents: dict[str, np.ndarray], truth: Truth) -> dict[str, float]:
    """ROC area of each array (N,) of the latents file that tells junk: ``signal_fit`` (low) and ``junk...`` (high)."""
    if truth.junk is None or not 0 < np.count_nonzero(truth.junk) < len(truth.junk):
        return {}
    found = {}
    for name, column in latents.items():
        if column.shape == truth.junk.shape and np.isfinite(column).all():
            if name == "signal_fit":
                found[name] = roc_area(-column, truth.junk > 0)
            elif name.startswith("junk"):
                found[name] = roc_area(column, truth.junk > 0)
    return found


def state_difference(a: np.ndarray, b: np.ndarray, periodic: bool) -> np.ndarray:
    """|a - b| of states from 0 to 1 (arrays that broadcast); ``periodic``: the shorter way round, as 1 is 0 again."""
    difference = np.abs(a.astype(np.float64) - b)
    return np.minimum(difference, 1 - difference) if periodic else difference


def latent_error(
    z: np.ndarray, state: np.ndarray, periodic: bool, generator: np.random.Generator, neighbours: int = NEIGHBOURS
) -> float:  # (N, zdim), (N,)
    """Mean state difference to the nearest latents relative to random pairs, over at most QUERIES random particles."""
    count = min(neighbours, max(1, len(z) // 20))
    rows = generator.choice(len(z), min(QUERIES, len(z)), replace=False)
    others = nearest_others(z, rows, count)
    near = state_difference(state[others], state[rows][:, None], periodic).mean()
    first, second = generator.integers(0, len(z), (2, PAIRS))
    different = first != second
    random = state_difference(state[first[different]], state[second[different]], periodic).mean()
    return float(near / random)


def probe_accuracy(z: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Accuracy of a logistic regression of ``labels`` (N,) on latents (N, zdim), five-fold cross-validated, stratified.

    Raises InputError if a label has fewer than two particles.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    smallest = int(np.unique(labels, return_counts=True)[1].min())
    if smallest < 2:
        raise InputError("truth", "must have two particles of each label", smallest, "Simulate more particles.")
    folds = StratifiedKFold(min(PROBE_FOLDS, smallest), shuffle=True, random_state=seed)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(cross_val_score(probe, z, labels, cv=folds).mean())
