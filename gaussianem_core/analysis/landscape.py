"""Conformational density over latents, corrected for their uncertainty; stable states; the profile along a path.

The posterior of each particle's latent has a width, which blurs the plain density of the posterior means (and the prior
draws them together). Here the density p is estimated whose blurred version fits the data best: the
expectation-maximisation of Richardson (J. Opt. Soc. Am. 62, 1972) and Lucy (Astron. J. 79, 1974) with one kernel for
each class of widths, stopped as soon as held-out particles are explained as well as at any iteration. No torch.

With the prior N(0, 1) a posterior of mean m and variance v is a measurement m / (1 - v) with variance v / (1 - v).
Latents under a prior estimated from all particles must not be given: their density would count the others twice.
The widths themselves may be wrong by a factor: the weight of the prior in training scales them, and a refined latent is
better known than the encoder's width says. Widths taken too large make states out of noise, so the factor is chosen by
held-out particles (:data:`SCALES`).

Errors are those of resampling the particles (Poisson bootstrap, the density estimated anew each time): they say how
much another dataset of this size would differ, not whether the latents describe the molecule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from gaussianem_core.errors import InputError

GRID = {1: 128, 2: 64}
WIDTH_CLASSES = 4
LARGEST_VARIANCE = 0.8
"""Largest variance of a posterior that is used, with the prior's as 1; larger ones are cut to it."""
MOST_ITERATIONS = 120
SCALES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.35, 0.25)
"""Factors of the widths that are tried; the largest that explains held-out particles as well as the best is taken."""
RESAMPLED = 16
MARGIN = 0.08


@dataclass(frozen=True)
class Measurements:
    """Particles as measurements along d axes: ``places`` and standard deviations ``sigmas`` (N, d), latent units."""

    places: np.ndarray
    sigmas: np.ndarray

    def __len__(self) -> int:
        return len(self.places)


def measurements(
    mean: np.ndarray, log_variance: np.ndarray | None, axes: np.ndarray, origin: np.ndarray, *, unshrink: bool = True
) -> Measurements:  # (N, zdim), (N, zdim), (d, zdim), (zdim,)
    """Coordinates of latents along unit ``axes`` from ``origin``, with their errors.

    ``log_variance``: None for exact latents. ``unshrink`` undoes the pull of the prior N(0, 1); where variances exceed
    1 the prior was another one, and nothing is undone.
    """
    mean = np.asarray(mean, np.float64)
    variance = np.exp(log_variance).astype(np.float64) if log_variance is not None else np.full_like(mean, 1e-6)
    if unshrink and log_variance is not None and np.percentile(variance, 99) <= 1.0 + 1e-3:
        kept = np.minimum(variance, LARGEST_VARIANCE)
        mean, variance = mean / (1 - kept), kept / (1 - kept)
    places = (mean - origin) @ axes.T
    return Measurements(places, np.sqrt(variance @ np.square(axes.T)))


@dataclass(frozen=True)
class Landscape:
    """Density of the particles on a grid of d axes with G cells each.

    edges : d arrays (G + 1,) of cell edges, latent units.
    density : (G, ...), probability of each cell; the sum is 1.
    error : (G, ...), standard deviation of the density's natural logarithm under resampling.
    replicates : (R, G, ...), the resampled densities.
    iterations : of the deconvolution, chosen by held-out particles.
    blur : (d,), median measurement error on each axis, latent units, times ``scale``.
    particles : number on the grid.
    scale : factor of the measurement errors, of SCALES.
    """

    edges: tuple[np.ndarray, ...]
    density: np.ndarray
    error: np.ndarray
    replicates: np.ndarray
    iterations: int
    blur: np.ndarray
    particles: int
    scale: float = 1.0

    @property
    def centres(self) -> tuple[np.ndarray, ...]:
        """Cell centres (G,) of each axis, latent units."""
        return tuple(0.5 * (e[1:] + e[:-1]) for e in self.edges)

    @property
    def energy(self) -> np.ndarray:
        """-log density above its minimum (G, ...), in units of kT if the particles were at equilibrium.

        It ends at log N: N particles do not distinguish lower densities from 0.
        """
        return -np.log(np.maximum(self.density, self.floor) / self.density.max())

    @property
    def floor(self) -> float:
        """Least density that N particles distinguish from 0: the greatest over N."""
        return float(self.density.max()) / self.particles


def estimate(
    data: Measurements,
    *,
    grid: int = 0,
    resampled: int = RESAMPLED,
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Landscape:
    """Estimate the landscape of measurements along d = 1 or 2 axes.

    Parameters
    ----------
    grid : cells an axis; 0 takes GRID.
    resampled : number of bootstrap replicates.
    seed : of the held-out halves and the resampling.
    progress : called with the share, 0 to 1, of the replicates that are done.

    Raises
    ------
    InputError : fewer than 50 particles, or other dimensions.
    """
    count, d = data.places.shape
    if d not in GRID:
        raise InputError("axes", "must be one or two", d, "Choose one or two components.")
    if count < 50:
        raise InputError("particles", "must be at least 50", count, "Use more particles.")
    generator = np.random.default_rng(seed)
    size = grid or GRID[d]
    edges = tuple(_edges(data.places[:, i], size) for i in range(d))
    steps = np.array([e[1] - e[0] for e in edges])
    # the few beyond the grid are left out: put into its last cells they would pass for a state
    inside = np.all([(data.places[:, i] >= e[0]) & (data.places[:, i] < e[-1]) for i, e in enumerate(edges)], axis=0)
    data = Measurements(data.places[inside], data.sigmas[inside])
    count = len(data)
    classes, sigmas = _width_classes(data.sigmas, generator)
    cells = np.stack([np.clip(np.digitize(data.places[:, i], edges[i]) - 1, 0, size - 1) for i in range(d)], axis=1)
    flat = np.ravel_multi_index(tuple(cells.T), (size,) * d)

    def kernels_of(scale: float) -> list[np.ndarray]:
        # a cell is itself a blur of step / sqrt(12)
        return [_transfer(np.hypot(scale * s / steps, np.sqrt(1 / 12)), size, d) for s in sigmas]

    def histograms(weights: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                np.bincount(flat[classes == c], weights[classes == c], minlength=size**d).reshape((size,) * d)
                for c in range(len(sigmas))
            ]
        )

    half = generator.random(count) < 0.5
    halves = [(histograms(part.astype(float)), histograms((~part).astype(float))) for part in (half, ~half)]
    tried = [[_best_iteration(*pair, kernels_of(scale)) for pair in halves] for scale in SCALES]
    chosen = _first_as_good(
        [np.concatenate([fit.gain for fit in fits]) for fits in tried], np.concatenate([fit.counts for fit in tried[0]])
    )
    best = max(1, round(0.5 * sum(fit.iterations for fit in tried[chosen])))
    scale = SCALES[chosen]
    kernels = kernels_of(scale)
    density = deconvolve(histograms(np.ones(count)), kernels, best)
    replicates = []
    for i in range(resampled):
        replicates.append(deconvolve(histograms(generator.poisson(1.0, count).astype(float)), kernels, best))
        progress((i + 1) / resampled)
    stack = np.array(replicates) if replicates else density[None]
    error = np.log(np.maximum(stack, density.max() / count)).std(axis=0)
    return Landscape(edges, density, error, stack, best, scale * np.median(data.sigmas, axis=0), count, scale)


def deconvolve(histograms: np.ndarray, kernels: list[np.ndarray], iterations: int) -> np.ndarray:
    """The density (G, ...) behind histograms (C, G, ...) of C width classes, with one blur a class.

    ``kernels``: the blurs' Fourier transforms on a grid of twice the size, (2 G, ..., G + 1).

    Richardson and Lucy's iteration (J. Opt. Soc. Am. 62, 1972; Astron. J. 79, 1974) over all classes at once.
    """
    total = histograms.sum()
    density = np.full(histograms.shape[1:], 1.0 / histograms[0].size)
    for _ in range(iterations):
        density = _step(density, histograms, kernels, total)
    return density


def _step(density: np.ndarray, histograms: np.ndarray, kernels: list[np.ndarray], total: float) -> np.ndarray:
    ratio = np.zeros_like(density)
    for counts, kernel in zip(histograms, kernels):
        if counts.any():
            ratio += _blur(counts / np.maximum(_blur(density, kernel), 1e-15), kernel)
    density = density * ratio / total
    return density / density.sum()


@dataclass(frozen=True)
class _Fit:
    """Where to stop, and the log-likelihood (M,) there of each occupied cell of the left-out particles (``counts``)."""

    iterations: int
    counts: np.ndarray
    gain: np.ndarray


def _first_as_good(gains: list[np.ndarray], counts: np.ndarray) -> int:
    """The first of several fits that explains the left-out particles as well as the best one does, within a standard
    error of the difference."""
    best = int(np.argmax([counts @ gain for gain in gains]))
    for i in range(best):
        difference = gains[best] - gains[i]
        mean = counts @ difference / counts.sum()
        spread = np.sqrt(counts @ np.square(difference - mean) / counts.sum() ** 2)
        if mean < spread:
            return i
    return best


def _best_iteration(fit: np.ndarray, left_out: np.ndarray, kernels: list[np.ndarray]) -> _Fit:
    """The first iteration on ``fit`` that is as good as the best: further ones deepen valleys without evidence."""
    density = np.full(fit.shape[1:], 1.0 / fit[0].size)
    total = fit.sum()
    used = left_out.reshape(-1) > 0
    counts = left_out.reshape(-1)[used]
    history: list[np.ndarray] = []
    scores: list[float] = []
    for i in range(MOST_ITERATIONS):
        density = _step(density, fit, kernels, total)
        blurred = np.stack([_blur(density, kernel) for kernel in kernels])
        history.append(np.log(np.maximum(blurred.reshape(-1)[used], 1e-15)).astype(np.float32))
        scores.append(float(counts @ history[-1]))
        if i > int(np.argmax(scores)) + 10:
            break
    chosen = _first_as_good(history, counts)
    return _Fit(chosen + 1, counts, history[chosen])


def _edges(values: np.ndarray, size: int) -> np.ndarray:
    low, high = np.percentile(values, [0.1, 99.9])
    pad = MARGIN * max(high - low, 1e-9)
    return np.linspace(low - pad, high + pad, size + 1)


def _width_classes(sigmas: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Class of each particle's widths and the classes' widths (C, d): quantiles of the product of the widths."""
    order = np.log(np.maximum(sigmas, 1e-12)).sum(axis=1)
    cuts = np.quantile(order, np.linspace(0, 1, WIDTH_CLASSES + 1)[1:-1])
    member = np.searchsorted(cuts, order)
    used = np.unique(member)
    widths = np.array([np.sqrt(np.square(sigmas[member == c]).mean(axis=0)) for c in used])
    return np.searchsorted(used, member), widths


def _transfer(sigma_cells: np.ndarray, size: int, d: int) -> np.ndarray:
    """Fourier transform of a Gaussian on a grid padded to twice its size."""
    axes = [np.fft.fftfreq(2 * size)] * (d - 1) + [np.fft.rfftfreq(2 * size)]
    exponent = sum(
        np.square(f * s).reshape([-1 if i == j else 1 for j in range(d)])
        for i, (f, s) in enumerate(zip(axes, sigma_cells))
    )
    return np.asarray(np.exp(-2 * np.pi**2 * exponent))


def _blur(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution with a Gaussian; what lies outside the grid counts as nothing."""
    shape = tuple(2 * n for n in values.shape)
    axes = tuple(range(values.ndim))
    full = fft.irfftn(fft.rfftn(values, shape, axes) * kernel, shape, axes)
    return np.maximum(full[tuple(slice(0, n) for n in values.shape)], 0.0)


# --- states ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StableState:
    """A maximum of the density.

    cell, place : its cell, and its coordinates (d,) in latent units.
    share, share_error : of the particles in its basin, 0 to 1.
    barrier, barrier_error : between it and a denser state in kT; infinite for the densest.
    """

    cell: tuple[int, ...]
    place: np.ndarray
    share: float
    share_error: float
    barrier: float
    barrier_error: float

    @property
    def sure(self) -> bool:
        """Whether the barrier exceeds twice its error; True for the densest."""
        return not np.isfinite(self.barrier) or self.barrier > 2 * self.barrier_error


def states(landscape: Landscape, least_barrier: float = 0.2) -> tuple[list[StableState], np.ndarray]:
    """The stable states, most populated first, and for each cell (G, ...) the number of its state, from 0.

    Maxima are joined from the highest pass down (topological persistence: Edelsbrunner, Letscher and Zomorodian,
    Discrete Comput. Geom. 28, 2002). One is kept if it lies more than ``least_barrier`` kT, and more than twice the
    error of this barrier, above the pass to a denser one.
    """
    density = landscape.density
    basins, merges = _merge_tree(density)
    peaks = {label: int(np.flatnonzero(basins.reshape(-1) == label)[0]) for label in np.unique(basins)}
    flat = np.maximum(density.reshape(-1), landscape.floor)
    for label in peaks:
        members = np.flatnonzero(basins.reshape(-1) == label)
        peaks[label] = int(members[flat[members].argmax()])
    replicates = np.log(np.maximum(landscape.replicates.reshape(len(landscape.replicates), -1), landscape.floor))
    component = {label: label for label in peaks}  # joined at every pass, known by its highest peak
    state = {label: label for label in peaks}  # joined where the pass is too high to separate
    barrier = dict.fromkeys(peaks, (np.inf, 0.0))

    def root(tree: dict[int, int], label: int) -> int:
        while tree[label] != label:
            label = tree[label]
        return label

    for first, second, saddle in merges:  # from the highest pass down
        a, b = root(component, first), root(component, second)
        if a == b:
            continue
        lower, higher = (a, b) if flat[peaks[a]] < flat[peaks[b]] else (b, a)
        component[lower] = higher
        height = float(np.log(flat[peaks[lower]] / flat[saddle]))
        error = float((replicates[:, peaks[lower]] - replicates[:, saddle]).std())
        if height > max(least_barrier, 2 * error):
            barrier[lower] = (height, error)
        else:
            state[root(state, lower)] = root(state, second if a == lower else first)
    kept = sorted({root(state, label) for label in peaks}, key=lambda label: -flat[peaks[label]])
    number = {label: i for i, label in enumerate(kept)}
    final = np.array([number[root(state, label)] for label in range(len(peaks))])[basins]
    total = landscape.replicates.reshape(len(landscape.replicates), -1)
    found = []
    for label in kept:
        inside = final.reshape(-1) == number[label]
        cell = tuple(int(i) for i in np.unravel_index(peaks[label], density.shape))
        place = np.array([c[i] for c, i in zip(landscape.centres, cell)])
        shares = total[:, inside].sum(axis=1)
        found.append(
            StableState(cell, place, float(density.reshape(-1)[inside].sum()), float(shares.std()), *barrier[label])
        )
    order = sorted(range(len(found)), key=lambda i: -found[i].share)
    return [found[i] for i in order], np.argsort(order)[final]


def _merge_tree(density: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Basin of attraction of each cell, and (basin, basin, saddle cell) for all touching basins, highest pass first."""
    padded = np.pad(density, 1, constant_values=-1.0)
    best = ndimage.maximum_filter(padded, size=3)
    shape = padded.shape
    flat, target = padded.reshape(-1), np.arange(padded.size)
    offsets = list(np.ndindex(*(3,) * density.ndim))
    for offset in offsets:
        shift = tuple(o - 1 for o in offset)
        moved = np.roll(padded, [-s for s in shift], axis=range(density.ndim)).reshape(-1)
        step = int(np.dot(shift, [int(np.prod(shape[i + 1 :])) for i in range(density.ndim)]))
        uphill = (moved == best.reshape(-1)) & (moved > flat) & (target == np.arange(padded.size))
        target[uphill] = np.flatnonzero(uphill) + step
    while True:  # follow the way up to its end
        further = target[target]
        if np.array_equal(further, target):
            break
        target = further
    inner = tuple(slice(1, -1) for _ in range(density.ndim))
    labels = target.reshape(shape)[inner]
    basins = np.unique(labels, return_inverse=True)[1]
    basins = basins.reshape(density.shape)
    passes: dict[tuple[int, int], tuple[float, int]] = {}
    index = np.arange(density.size).reshape(density.shape)
    for offset in offsets:
        shift = tuple(o - 1 for o in offset)
        if shift <= (0,) * density.ndim:
            continue
        here = tuple(slice(max(0, -s), density.shape[i] - max(0, s)) for i, s in enumerate(shift))
        there = tuple(slice(max(0, s), density.shape[i] - max(0, -s)) for i, s in enumerate(shift))
        differ = basins[here] != basins[there]
        lower = np.where(density[here] < density[there], index[here], index[there])[differ]
        for a, b, cell in zip(basins[here][differ], basins[there][differ], lower):
            key = (min(a, b), max(a, b))
            height = float(density.reshape(-1)[cell])
            if key not in passes or height > passes[key][0]:
                passes[key] = (height, int(cell))
    merges = [(int(a), int(b), cell) for (a, b), (height, cell) in sorted(passes.items(), key=lambda item: -item[1][0])]
    return basins, merges


# --- the profile along a path ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """Energy along a path.

    position : (G,), arc length from the path's start, latent units.
    energy, error : (G,), kT above its minimum, and the error of this difference.
    particles : (G,), number nearest to each stretch, before any correction.
    length : of the path, latent units.
    """

    position: np.ndarray
    energy: np.ndarray
    error: np.ndarray
    particles: np.ndarray
    length: float


def along_path(
    mean: np.ndarray,
    log_variance: np.ndarray | None,
    path: np.ndarray,
    *,
    grid: int = 64,
    seed: int = 0,
    resampled: int = RESAMPLED,
    unshrink: bool = True,
) -> Profile:  # (N, zdim), (N, zdim), (P, zdim)
    """Energy profile along a path through the latent space.

    Each particle is projected onto the nearest point of the path (prolonged straight at both ends); its error is that
    of its posterior in the path's direction. The rest is :func:`estimate` in one dimension, with about ``grid`` cells
    along the path.

    Raises InputError for a path without length, or fewer than 50 particles near it.
    """
    points = measurements(mean, log_variance, np.eye(mean.shape[1]), np.zeros(mean.shape[1]), unshrink=unshrink)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    if len(path) < 2 or steps.sum() == 0:
        raise InputError("path", "must have length", len(path), "Make a path first.")
    place, direction = _nearest_on_path(points.places, path)
    sigma = np.sqrt(np.square(points.sigmas * direction).sum(axis=1))
    length = float(steps.sum())
    # the grid ends far from the path's ends: next to its borders the estimate rings
    reach = max(0.5 * length, 6 * float(np.median(sigma)))
    near = (place > -reach) & (place < length + reach)
    cells = int(np.clip(grid * np.ptp(place[near]) / length, grid, 8 * grid))
    landscape = estimate(Measurements(place[near, None], sigma[near, None]), grid=cells, resampled=resampled, seed=seed)
    centres = landscape.centres[0]
    shown = (centres >= -0.02 * length) & (centres <= 1.02 * length)
    relative = np.log(np.maximum(landscape.replicates, landscape.floor))
    energy = landscape.energy[shown]
    lowest = int(np.flatnonzero(shown)[energy.argmin()])
    # the error of a difference of energies: against the minimum, not of each alone
    error = (relative - relative[:, [lowest]]).std(axis=0)[shown]
    counts = np.histogram(place[near], landscape.edges[0])[0]
    return Profile(centres[shown], energy - energy.min(), error, counts[shown], length)


def _nearest_on_path(z: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arc length of the nearest place (negative before the start) and the path's direction there, for each row."""
    steps = np.diff(path, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    keep = lengths > 0
    starts, lengths = path[:-1][keep], lengths[keep]
    units = steps[keep] / lengths[:, None]
    begin = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    best = np.full(len(z), np.inf)
    place, direction = np.zeros(len(z)), np.zeros_like(z)
    for i, (start, unit, length) in enumerate(zip(starts, units, lengths)):
        along = (z - start) @ unit
        low = -np.inf if i == 0 else 0.0
        high = np.inf if i == len(starts) - 1 else length
        along = np.clip(along, low, high)
        distance = np.square(z - start - along[:, None] * unit).sum(axis=1)
        nearer = distance < best
        best[nearer] = distance[nearer]
        place[nearer] = begin[i] + along[nearer]
        direction[nearer] = unit
    return place, direction


def statement(landscape: Landscape, found: list[StableState]) -> list[str]:
    """Sentences about the states ``found`` in a landscape, their errors and their limits."""
    sentences = []
    for number, state in enumerate(found, start=1):
        text = f"State {number}: {100 * state.share:.0f} ± {100 * state.share_error:.0f} % of the particles"
        if np.isfinite(state.barrier):
            most = np.log(landscape.density[state.cell] / landscape.floor)
            empty = state.barrier > most - 0.1
            text += (
                f", behind a barrier of more than {state.barrier:.0f} kT (no particle tells what lies between)"
                if empty
                else f", behind a barrier of {state.barrier:.1f} ± {state.barrier_error:.1f} kT"
            )
        sentences.append(text + ".")
    if len(found) == 1:
        sentences.append(
            "One basin: the data do not show separate states along these axes. A continuous motion, or "
            "states that the uncertainty of the latents hides."
        )
    spans = [float(e[-1] - e[0]) for e in landscape.edges]
    worst = max(b / s for b, s in zip(landscape.blur, spans))
    if worst > 0.15:
        sentences.append(
            f"A particle's place is known to {100 * worst:.0f} % of the width of the plot only: details finer than "
            "that are guesses."
        )
    if landscape.scale < 1:
        sentences.append(
            f"The network's own error bars are too wide for these particles: they were taken at "
            f"{100 * landscape.scale:.0f} % of their width, as particles that were left out tell."
        )
    sentences.append(
        "Errors are those of resampling the particles. Populations are of the particles picked and of the latent space "
        "as it was learned; energies in kT assume that freezing kept the equilibrium."
    )
    return sentences
