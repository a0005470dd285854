"""Rigid domains: Gaussians that move together over the conformations of a dataset. No torch.

Alternating least squares as in k-means, with rigid motions in place of centres: for each domain and conformation the
rotation and translation that fit its Gaussians best (Kabsch, Acta Cryst. A32, 1976), then each Gaussian is assigned to
the domain whose motions fit it best, with a vote of its neighbours so that domains are connected in space (iterated
conditional modes: Besag, J. R. Stat. Soc. B 48, 1986). F conformations, N Gaussians, K domains; positions in any unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.neighbours import neighbour_tree

ROUNDS = 40
STARTS = 4
NEIGHBOURS = 12
NEIGHBOUR_WEIGHT = 0.5
"""Cost of having no neighbour in the same domain, in units of the typical squared misfit."""
SIGNIFICANT = 0.3
"""Least share of the remaining motion that one more domain must explain."""
LEAST_SHARE = 0.02
"""Least share of the density of a domain; smaller ones are dissolved."""


@dataclass(frozen=True)
class Domains:
    """Rigid domains of N Gaussians.

    labels : (N,) domain of each Gaussian, from 0, heaviest first. shares : (K,) of the density.
    misfit : (N,) root mean square deviation over the conformations after the rigid motions, in the positions' unit.
    explained : share, 0 to 1, of the squared motion, the whole molecule's rigid motion left out.
    rotations, translations : of each conformation and domain: position = R rest + t, t in the positions' unit.
    """

    labels: np.ndarray
    shares: np.ndarray
    misfit: np.ndarray
    explained: float
    rotations: np.ndarray  # (F, K, 3, 3)
    translations: np.ndarray  # (F, K, 3)

    @property
    def count(self) -> int:
        """Number of domains."""
        return len(self.shares)


def find_domains(
    rest: np.ndarray, frames: np.ndarray, weights: np.ndarray, count: int = 0, *, most: int = 6, seed: int = 0
) -> Domains:  # (N, 3), (F, N, 3), (N,)
    """Divide Gaussians into ``count`` rigid domains, or, with 0, into as many as explain the motion, up to ``most``.

    Parameters
    ----------
    rest : (N, 3) reference positions.
    frames : (F, N, 3) positions in each conformation.
    weights : (N,) densities.
    seed : of the starts.

    Raises
    ------
    InputError : fewer than two conformations, fewer than four Gaussians a domain, or no motion.
    """
    rest, frames, weights = (np.asarray(a, np.float64) for a in (rest, frames, weights))
    if frames.ndim != 3 or frames.shape[1:] != rest.shape or len(frames) < 2:
        raise InputError("conformations", f"must be (F, {len(rest)}, 3), at least two", frames.shape, "Decode more.")
    if len(rest) < 4 * max(count, 1):
        raise InputError("Gaussians", f"must be at least {4 * max(count, 1)}", len(rest), "Ask for fewer domains.")
    if not (frames != rest).any():
        raise InputError("conformations", "must differ", "no motion", "Choose latents farther apart.")
    found = _fit(rest, frames, weights, 1, seed)
    if count:
        return found if count == 1 else _fit(rest, frames, weights, count, seed, found)
    base = _cost(found, weights)
    for number in range(2, most + 1):
        more = _fit(rest, frames, weights, number, seed, _fit(rest, frames, weights, 1, seed))
        if more.count < number or base <= 0 or 1 - _cost(more, weights) / base < SIGNIFICANT:
            break
        found, base = more, _cost(more, weights)
    return found


def _cost(found: Domains, weights: np.ndarray) -> float:
    return float((weights * np.square(found.misfit)).sum())


def _fit(
    rest: np.ndarray, frames: np.ndarray, weights: np.ndarray, count: int, seed: int, whole: Domains | None = None
) -> Domains:
    generator = np.random.default_rng(seed)
    near = neighbour_tree(rest).query(rest, k=min(NEIGHBOURS + 1, len(rest)))[1][:, 1:]
    best: tuple[float, np.ndarray] | None = None
    for _ in range(STARTS if count > 1 else 1):
        labels = _start(rest, frames, weights, count, generator, near)
        for _ in range(ROUNDS):
            square = _squares(rest, frames, *_motions(rest, frames, weights, labels, count))
            assigned = _assign(square, labels, near)
            if np.array_equal(assigned, labels):
                break
            labels = assigned
        square = _squares(rest, frames, *_motions(rest, frames, weights, labels, count))
        total = float((weights * square[np.arange(len(rest)), labels]).sum())
        if best is None or total < best[0]:
            best = (total, labels)
    assert best is not None
    labels = _tidy(best[1], _squares(rest, frames, *_motions(rest, frames, weights, best[1], count)), weights)
    kept = int(labels.max()) + 1
    rotations, translations = _motions(rest, frames, weights, labels, kept)
    misfit = np.sqrt(_squares(rest, frames, rotations, translations)[np.arange(len(rest)), labels])
    shares = np.bincount(labels, weights, minlength=kept) / weights.sum()
    all_of_it = (weights * np.square(misfit)).sum() if whole is None else _cost(whole, weights)
    explained = 1.0 - float((weights * np.square(misfit)).sum() / max(all_of_it, 1e-30)) if whole is not None else 0.0
    return Domains(labels, shares, misfit, explained, rotations, translations)


def _start(
    rest: np.ndarray,
    frames: np.ndarray,
    weights: np.ndarray,
    count: int,
    generator: np.random.Generator,
    near: np.ndarray,
) -> np.ndarray:
    """Seeds far apart in place and motion (k-means++), each Gaussian to the nearest."""
    if count == 1:
        return np.zeros(len(rest), np.int64)
    moved = (frames - rest).transpose(1, 0, 2).reshape(len(rest), -1)
    moved = moved[near].mean(axis=1)
    left, size, _ = np.linalg.svd(moved - moved.mean(axis=0), full_matrices=False)
    features = np.concatenate(
        [left[:, :6] * size[:6] / max(size[0], 1e-30) * np.sqrt(len(rest)), 0.5 * rest / max(rest.std(), 1e-30)], axis=1
    )
    probability = weights / weights.sum()
    seeds = [int(generator.choice(len(rest), p=probability))]
    distance = np.square(features - features[seeds[0]]).sum(axis=1)
    while len(seeds) < count:
        chance = distance * weights
        total = chance.sum()
        seeds.append(int(generator.choice(len(rest), p=chance / total if total > 0 else probability)))
        distance = np.minimum(distance, np.square(features - features[seeds[-1]]).sum(axis=1))
    return np.asarray(neighbour_tree(features[seeds]).query(features)[1], np.int64)


def _motions(
    rest: np.ndarray, frames: np.ndarray, weights: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:  # (F, K, 3, 3), (F, K, 3)
    rotations = np.broadcast_to(np.eye(3), (len(frames), count, 3, 3)).copy()
    translations = np.zeros((len(frames), count, 3))
    for domain in range(count):
        own = labels == domain
        if own.sum() < 3:
            continue
        w = weights[own] / weights[own].sum()
        p, q = rest[own], frames[:, own]
        p0, q0 = w @ p, np.einsum("n,fni->fi", w, q)
        u, _, vt = np.linalg.svd(np.einsum("n,fni,nj->fij", w, q - q0[:, None], p - p0))
        flip = np.linalg.det(u @ vt)
        u[:, :, 2] *= flip[:, None]
        rotations[:, domain] = u @ vt
        translations[:, domain] = q0 - rotations[:, domain] @ p0
    return rotations, translations


def _squares(rest: np.ndarray, frames: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
    """Mean square misfit of each Gaussian under each domain's motions, (N, K)."""
    moved = frames.transpose(1, 0, 2).reshape(len(rest), -1)  # (N, 3F): one product a domain, for it is all the time
    columns = []
    for domain in range(rotations.shape[1]):
        missed = rest @ rotations[:, domain].reshape(-1, 3).T
        missed += translations[:, domain].reshape(-1)
        missed -= moved
        columns.append(np.einsum("nf,nf->n", missed, missed) / len(frames))
    return np.stack(columns, axis=1)


def _assign(square: np.ndarray, labels: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The domain of least misfit, counting what the neighbours say (iterated conditional modes)."""
    count = square.shape[1]
    smooth = square[near].mean(axis=1) * 0.5 + square * 0.5
    typical = float(np.median(smooth.min(axis=1))) + 1e-30
    votes = np.stack([(labels[near] == k).mean(axis=1) for k in range(count)], axis=1)
    return np.asarray((smooth + NEIGHBOUR_WEIGHT * typical * (1 - votes)).argmin(axis=1))


def _tidy(labels: np.ndarray, square: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Domains that are too small dissolve into those whose motions fit best; numbers by weight, heaviest first."""
    count = square.shape[1]
    mass = np.bincount(labels, weights, minlength=count) / weights.sum()
    large = np.flatnonzero(mass >= LEAST_SHARE)
    labels = np.where(np.isin(labels, large), labels, large[square[:, large].argmin(axis=1)])
    mass = np.bincount(labels, weights, minlength=count)
    rank = np.empty(count, np.int64)
    rank[np.argsort(-mass, kind="stable")] = np.arange(count)
    return rank[labels]


def domain_mask(
    positions_voxels: np.ndarray,
    labels: np.ndarray,
    domain: int,
    box: int,
    *,
    reach_voxels: float = 3.0,
    edge_voxels: float = 4.0,
) -> np.ndarray:  # (N, 3) x, y, z in voxels, (N,) -> (box, box, box) float32
    """A soft mask [z, y, x] of one domain: 1 within ``reach_voxels`` of its Gaussians where no Gaussian of another
    domain is nearer, then a raised cosine of ``edge_voxels``."""
    axis = np.arange(box)
    own = positions_voxels[labels == domain]
    low = np.clip(np.floor(own.min(axis=0) - reach_voxels - edge_voxels).astype(int), 0, box - 1)
    high = np.clip(np.ceil(own.max(axis=0) + reach_voxels + edge_voxels).astype(int) + 1, 1, box)
    xs, ys, zs = (axis[low[i] : high[i]] for i in range(3))
    zz, yy, xx = np.meshgrid(zs, ys, xs, indexing="ij")
    grid = np.stack([xx, yy, zz], axis=-1).reshape(-1, 3)
    bound = reach_voxels + edge_voxels
    mine = neighbour_tree(own).query(grid, distance_upper_bound=bound)[0]
    others = positions_voxels[labels != domain]
    if len(others):
        theirs = np.minimum(neighbour_tree(others).query(grid, distance_upper_bound=bound)[0], 2 * bound)
        mine = np.minimum(mine, 2 * bound)
        mine = np.where(mine <= theirs, mine, np.maximum(mine, reach_voxels + (mine - theirs)))
    ramp = np.clip((np.minimum(mine, bound) - reach_voxels) / max(edge_voxels, 1e-9), 0, 1)
    mask = np.zeros((box, box, box), np.float32)
    mask[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = (0.5 + 0.5 * np.cos(np.pi * ramp)).reshape(zz.shape)
    return mask
