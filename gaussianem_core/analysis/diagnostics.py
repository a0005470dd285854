"""Diagnostics of a latent space: dependence on pose and CTF, populated regions, outliers, agreement of half sets.

Dependences come with a sentence for readers who look at maps, not at statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gaussianem_core.analysis.latent_space import neighbour_distance
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.pose import angles_from_rotations

PERMUTATIONS = 199
SIGNIFICANT = 0.05 / 4
"""Largest p-value of a dependence that counts: 5 % over the four that are tested."""
CHANCE_TELLS = 0.5
"""Share of the variance explained by chance above which the particles are too few for a statement."""
SAMPLE = 50_000
WEAK, STRONG = 0.05, 0.2
"""Share of the latents' variance that a nuisance explains beyond chance: worth a look, and a warning."""

NEAREST = 20
ISOLATED_PERCENTILE = 99.0
"""A place is unpopulated when its 20th nearest particle is farther than for 99 % of the particles themselves."""

OUTLIER_SIGMA = 5.0
"""Robust standard deviations below the median beyond which an image is flagged (``report`` takes 4 for signal_fit,
which is about standard normal)."""


@dataclass(frozen=True)
class Dependence:
    """Share of the latents' variance that follows something it should not follow, by a permutation test.

    what : name of what was tested ("defocus").
    explained : share of the variance, 0 to 1, that a linear regression on functions of ``what`` explains.
    chance : the 95th percentile of the same after shuffling the particles.
    p_value : share of the shuffles that explain as much, the particles' own order counted as one of them.
    count : particles used.
    """

    what: str
    explained: float
    chance: float
    p_value: float
    count: int

    @property
    def excess(self) -> float:
        """Share of the variance explained beyond chance, 0 to 1."""
        return max(0.0, self.explained - self.chance)

    @property
    def level(self) -> str:
        """Verdict: "unknown" (too few particles to tell), "fine", "look" or "warning"."""
        if self.chance > CHANCE_TELLS:
            return "unknown"
        if self.p_value > SIGNIFICANT or self.excess < WEAK:
            return "fine"
        return "look" if self.excess < STRONG else "warning"

    @property
    def sentence(self) -> str:
        """The verdict in a sentence for the report."""
        if self.level == "unknown":
            return (
                f"Whether the variation follows the {self.what} cannot be told from {self.count} particles: "
                f"by chance alone it seems to, by up to {100 * self.chance:.0f} %."
            )
        explained, chance = f"{100 * self.explained:.1f} %", f"{100 * self.chance:.1f} %"
        share = f"{explained} of the variation follows the {self.what} (chance: {chance})"
        meaning = {
            "fine": "no reason for concern.",
            "look": "a weak link. Check that classes differ in the molecule and not only in how it was seen.",
            "warning": f"a strong link. The latents may describe the {self.what} and not the molecule's states; "
            "check poses, CTF and normalisation before believing the classes.",
        }[self.level]
        return f"{share}: {meaning}"


def view_features(rotations: np.ndarray) -> np.ndarray:  # (N, 3, 3) -> (N, 8)
    """Spherical harmonics of degree 1 and 2 of the viewing direction in the molecule's frame, A^T z."""
    x, y, z = rotations[:, 2].T.astype(np.float64)
    return np.stack([x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], axis=1)


def in_plane_features(rotations: np.ndarray) -> np.ndarray:  # (N, 3, 3) -> (N, 4)
    """Cosine and sine of once and twice the in-plane angle psi."""
    psi = np.deg2rad(angles_from_rotations(rotations)[:, 2])
    return np.stack([np.cos(psi), np.sin(psi), np.cos(2 * psi), np.sin(2 * psi)], axis=1)


def defocus_features(ctf: np.ndarray) -> np.ndarray:  # (N, 9) -> (N, 3)
    """Standardised mean defocus, its square, and astigmatism (A), from CTF parameters (see ``imaging.ctf``)."""
    mean = 0.5 * (ctf[:, 2] + ctf[:, 3]).astype(np.float64)
    scaled = (mean - mean.mean()) / max(mean.std(), 1e-9)
    return np.stack([scaled, scaled**2, np.abs(ctf[:, 2] - ctf[:, 3])], axis=1)


def shift_features(shifts: np.ndarray) -> np.ndarray:  # (N, 2) -> (N, 3)
    """The shift (pixels) and its squared length."""
    return np.concatenate([shifts, np.square(shifts).sum(axis=1, keepdims=True)], axis=1).astype(np.float64)


def dependence(z: np.ndarray, features: np.ndarray, what: str, seed: int) -> Dependence:  # (N, zdim), (N, F)
    """Share of the latents' variance that ``features`` explain linearly, compared with PERMUTATIONS shuffles.

    Of more than SAMPLE particles a random SAMPLE is used. ``what``: name of the features; ``seed``: of the shuffles.
    """
    generator = np.random.default_rng(seed)
    if len(z) > SAMPLE:
        rows = generator.choice(len(z), SAMPLE, replace=False)
        z, features = z[rows], features[rows]
    z = z - z.mean(axis=0, dtype=np.float64)
    centred = features - features.mean(axis=0)
    left, size, _ = np.linalg.svd(centred / np.maximum(centred.std(axis=0), 1e-12), full_matrices=False)
    basis = left[:, size > 1e-6 * max(size.max(), 1e-12)]
    total = np.square(z).sum()
    if not basis.shape[1] or total == 0:
        return Dependence(what, 0.0, 0.0, 1.0, len(z))
    explained = np.square(basis.T @ z).sum() / total
    shuffled = [np.square(basis.T @ z[generator.permutation(len(z))]).sum() / total for _ in range(PERMUTATIONS)]
    as_much = 1 + int(np.count_nonzero(np.array(shuffled) >= explained))
    p_value = as_much / (1 + PERMUTATIONS)
    return Dependence(what, float(explained), float(np.percentile(shuffled, 95)), p_value, len(z))


def unpopulated(z: np.ndarray, points: np.ndarray, sample: int = 5000) -> np.ndarray:  # (N, zdim), (P, zdim) -> (P,)
    """Whether each point lies where there are hardly any particles (see ISOLATED_PERCENTILE), bool.

    ``sample``: particles from which the limit is estimated.
    """
    return isolation(z, points, sample) > 1.0


def isolation(
    z: np.ndarray, points: np.ndarray, sample: int = 5000, limit: float | None = None
) -> np.ndarray:  # (N, zdim), (P, zdim) -> (P,)
    """Distance from each point to the 20th nearest particle, in units of ``limit``; None takes that of
    :func:`isolation_limit`."""
    limit = isolation_limit(z, sample) if limit is None else limit
    return neighbour_distance(z, points, _nearest(z)) / max(limit, 1e-12)


def isolation_limit(z: np.ndarray, sample: int = 5000) -> float:
    """Distance to the 20th nearest particle, in latent units, beyond which a point of the latent space is unpopulated
    (see ISOLATED_PERCENTILE). ``z``: (N, zdim)."""
    own = neighbour_distance(z, z[:: max(1, len(z) // sample)], _nearest(z) + 1)  # a particle is its own nearest
    return float(np.percentile(own, ISOLATED_PERCENTILE))


def _nearest(z: np.ndarray) -> int:
    return min(NEAREST, max(1, len(z) // 10))


def stretch_counts(z: np.ndarray, points: np.ndarray) -> np.ndarray:  # -> (P,)
    """Number of particles (of (N, zdim) latents) that are nearest to each point of a path (P, zdim)."""
    # by the difference of squared distances: memory stays at one row a particle
    nearest = (-2 * z.astype(np.float64) @ points.T + np.square(points).sum(axis=1)).argmin(axis=1)
    return np.bincount(nearest, minlength=len(points))


def outliers(fit: np.ndarray, sigma: float = OUTLIER_SIGMA) -> tuple[np.ndarray, str]:  # (N,) -> (N,) bool, how
    """Images that fit the model far worse than the others (junk, ice, another molecule), and the rule that found them.

    ``fit``: a figure of each image, larger where it fits better. Where it has two separate populations, with D > 2
    (Ashman, Bird and Zepf, Astron. J. 108, 1994) and the worse one smaller, they are cut where they cross; images more
    than ``sigma`` robust standard deviations below the median are flagged in any case. None is flagged of fewer than 50
    particles.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(fit, dtype=np.float64)
    median = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - median))
    if spread == 0 or len(values) < 50:
        return np.zeros(len(values), bool), "too few particles to tell"
    scaled = np.clip((values - median) / spread, -30, 30)[:, None]
    far = scaled[:, 0] < -sigma
    mixture = GaussianMixture(2, n_init=3, random_state=0).fit(scaled[:: max(1, len(scaled) // SAMPLE)])
    means, widths = mixture.means_[:, 0], np.sqrt(mixture.covariances_[:, 0, 0])
    worse = int(means.argmin())
    separation = np.sqrt(2) * abs(means[0] - means[1]) / np.sqrt(np.square(widths).sum())
    if separation > 2 and mixture.weights_[worse] < 0.5 and means[worse] < -2 * widths[1 - worse]:
        flagged = (mixture.predict_proba(scaled)[:, worse] > 0.5) & (scaled[:, 0] < means[1 - worse])
        return flagged | far, "two separate populations"
    return far, f"more than {sigma:g} robust standard deviations below the median"


@dataclass(frozen=True)
class HalfAgreement:
    """Agreement of two independently trained halves in one region (class) of the latent space.

    region : number of the class, from 0.
    fsc : (D/2,) between the halves' volumes.
    resolution_angstrom : where it falls below 0.143 (Rosenthal and Henderson, J. Mol. Biol. 333, 2003), or None.
    difference_correlation : of the volumes' differences from each half's mean volume, 1 for the same change, 0 for
        noise.
    """

    region: int
    fsc: np.ndarray
    resolution_angstrom: float | None
    difference_correlation: float


def half_agreement(
    region: int,
    first: torch.Tensor,
    second: torch.Tensor,
    first_mean: torch.Tensor,
    second_mean: torch.Tensor,
    pixel_size_angstrom: float,
) -> HalfAgreement:
    """Compare the halves' volumes of a region, and their differences from the halves' mean volumes, all (D, D, D)."""
    fsc = fourier_shell_correlation(first, second).cpu().numpy()
    below = np.flatnonzero(fsc[1:] < 0.143)
    box = first.shape[-1]
    limit = box * pixel_size_angstrom / (below[0] + 1) if len(below) else None
    changes = torch.stack([(first - first_mean).flatten(), (second - second_mean).flatten()])
    correlation = float(torch.nan_to_num(torch.corrcoef(changes))[0, 1])
    return HalfAgreement(region, fsc, limit, correlation)
