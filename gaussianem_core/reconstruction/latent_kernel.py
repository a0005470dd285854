"""The map of a state from the images around it in latent space, from as few of them as each region and shell allow.

*Distance.* A particle whose latent has the posterior N(m, Sigma) lies, on average over it, at a squared distance

    d = (m - p)^T S (m - p) + tr(S Sigma)

from a point p: an uncertain latent is farther away. The metric S says how much the volume changes along the latents
there (:func:`volume_metric`), so that particles are compared by their volumes.

*Widths.* The nearest particles form nested sets, each half as large as the next (kernels as RECOVAR has them: Gilles
and Singer, PNAS 122, 2025, with widths told in particles). An image is inserted once, into the sums of the ring between
two sets; sums of sets are sums of rings. So one pass over the images serves all widths.

*Cross-validation.* A narrower set knows the state better and is noisier. RECOVAR chooses the width by which one half
set predicts the other (:func:`cross_validated_width`). Here each step to a narrower set, M_k - M_(k+1), is taken as far
as the half sets a, b agree on it, region by region and band by band:

    V = M_K + sum_k g_k (M_k - M_(k+1))       g = 2 c / (1 + c),  c = <a b> / <(a^2 + b^2) / 2> smoothed in space

The noise of the steps is independent (the sets are nested), so that this is Wiener's filter in a sequence of steps: a
body that does not move keeps the resolution of all particles while an arm follows the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import centred_irfftn, centred_rfftn, frequency_grid
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.model.trained_model import TrainedModel

MOST_WIDTHS, LEAST_IMAGES = 7, 100
"""Nested sets, and images of a half set in the smallest of them."""
STEP = 0.5
"""Step of the finite differences of the volume, in standard deviations of the latents."""
METRIC_BOX = 64
"""Voxels a side of the volumes from which the metric is computed, at most."""
LEAST_BAND, BANDS = 3, 16
"""Shells of a band, at least, and bands to Nyquist's frequency, at most."""
SMOOTHING = 1 / 12
"""Of the box: standard deviation over which the agreement of the half sets is averaged in space."""


# ---- which particles ---------------------------------------------------------------------------------------------


def expected_distances(
    z: np.ndarray, variance: np.ndarray, point: np.ndarray, metric: np.ndarray
) -> np.ndarray:  # (N, zdim), (N, zdim) or (N, zdim, zdim), (zdim,), (zdim, zdim) -> (N,)
    """Expected squared distances of particles' states from a point.

    Parameters
    ----------
    z, variance : mean, and variances or covariances, of each particle's posterior (exp of ``z_logvar``).
    metric : positive semi-definite (:func:`volume_metric`, :func:`latent_metric`).

    Raises
    ------
    InputError : a point of another number of latents, or that is not finite.
    """
    point = np.asarray(point, np.float64)
    if point.shape != z.shape[1:] or not np.isfinite(point).all():
        raise InputError("point", f"must hold {z.shape[1]} finite latents", point, "Give a row of the latents.")
    apart = z - point
    spread = variance @ np.diag(metric) if variance.ndim == 2 else np.einsum("nij,ji->n", variance, metric)
    return np.asarray(((apart @ metric) * apart).sum(1) + spread)


def latent_metric(variance: np.ndarray) -> np.ndarray:  # (N, zdim) -> (zdim, zdim)
    """A metric for use without a model: diagonal, the inverse mean variance of each latent."""
    return np.diag(1 / variance.mean(0))


@torch.no_grad()
def volume_metric(model: TrainedModel, point: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How much the volume changes along the latents at a ``point`` (zdim,): (zdim, zdim).

    S_kl = sum over voxels of dV/dz_k dV/dz_l (:func:`volume_slopes`), brought to tr(S diag(spread^2)) = 1.
    """
    slopes = volume_slopes(model, point, spread).flatten(1)
    return unit_metric((slopes @ slopes.T).cpu().numpy(), spread)


@torch.no_grad()
def volume_slopes(model: TrainedModel, point: np.ndarray, spread: np.ndarray) -> Tensor:
    """Derivatives of the volume by the latents at a ``point`` (zdim,): (zdim, D, D, D), D at most METRIC_BOX.

    By central differences of half a standard deviation of the latents, ``spread`` (zdim,).
    """
    box = min(model.configuration.box, METRIC_BOX)
    steps = STEP * np.maximum(spread, 1e-6)
    ends = np.concatenate([point + np.diag(steps), point - np.diag(steps)]).astype(np.float32)
    sigmas = model.gaussians.sigmas.clamp_min(2.0 / box)  # not sharper than a coarser grid shows
    volumes = []
    for _, deformed in model.chunks(ends):
        for positions, densities in zip(deformed.positions, deformed.densities):
            volumes.append(voxelize(positions, densities, sigmas, box, backend=model.backend))
    upper, lower = torch.stack(volumes).double().chunk(2)
    return (upper - lower) / torch.as_tensor(2 * steps, device=upper.device)[:, None, None, None]


def unit_metric(metric: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The metric S (zdim, zdim) brought to tr(S diag(spread^2)) = 1, ``spread`` (zdim,); zeros stay."""
    size = float(np.diag(metric) @ np.square(spread))
    return metric / size if size > 0 else metric


class Rings(NamedTuple):
    """Nested sets of the nearest particles, S of them, narrowest first. ``ring`` (N,): the narrowest set that holds a
    particle, or -1 for those that are left out; ``counts`` (S,): particles in each set, both half sets together."""

    ring: np.ndarray
    counts: np.ndarray


def nested_sets(distances: np.ndarray, half: np.ndarray, used: np.ndarray | None = None) -> Rings:
    """The nearest particles in nested sets, each half of the next, in each half set alike.

    Parameters
    ----------
    distances : (N,) of `expected_distances`. half : (N,) half set of each particle, two different values.
    used : (N,) bool, particles that may be used (no junk); None takes all.

    Raises
    ------
    InputError : a half set without particles.
    """
    allowed = np.isfinite(distances) if used is None else used & np.isfinite(distances)
    ring = np.full(len(distances), -1)
    members = [np.flatnonzero(allowed & (half == value)) for value in np.unique(half)]
    fewest = min((len(rows) for rows in members), default=0)
    if len(members) != 2 or not fewest:
        raise InputError("half sets", "must be two, with particles", len(members), "Give rlnRandomSubset 1 and 2.")
    widths = int(np.clip(np.floor(np.log2(max(fewest / LEAST_IMAGES, 1))) + 1, 1, MOST_WIDTHS))
    counts = np.zeros(widths, np.int64)
    for rows in members:
        nearest = rows[np.argsort(distances[rows], kind="stable")]
        sizes = np.ceil(len(rows) / 2.0 ** np.arange(widths)[::-1]).astype(np.int64)
        ring[nearest] = np.searchsorted(sizes, np.arange(len(rows)), side="right")
        counts += sizes
    return Rings(ring, counts)


# ---- sums and maps -----------------------------------------------------------------------------------------------


def cross_validated_width(
    first: Sequence[Tensor], second: Sequence[Tensor], mask: Tensor
) -> tuple[int, np.ndarray]:  # S x (D, D, D) twice -> S errors
    """Index of the width at which each half set predicts the other's narrowest map best, and the errors (S,) of all.

    Mean square differences inside the mask, both ways. The narrowest map has the least bias, and its noise is the same
    for all widths (Gilles and Singer, PNAS 122, 2025).
    """
    errors = np.array(
        [
            float(((one - second[0]).square() * mask).sum() + ((two - first[0]).square() * mask).sum())
            for one, two in zip(first, second)
        ]
    ) / (2 * float(mask.sum()))
    return int(errors.argmin()), errors


class StateMap(NamedTuple):
    """``first``, ``second`` (D, D, D): maps of the half sets, with the same gains; their mean is the map of the state.
    ``effective`` (bands,): effective number of particles of both half sets in it, at ``frequencies`` (bands,) in cycles
    per pixel."""

    first: Tensor
    second: Tensor
    effective: np.ndarray
    frequencies: np.ndarray


def combine_widths(
    first: Sequence[Tensor], second: Sequence[Tensor], counts: np.ndarray, mask: Tensor | None = None
) -> StateMap:
    """The map of the state from those of the nested sets, each step weighted by the agreement of the half sets.

    The formula is the module's (V, g and c).

    Parameters
    ----------
    first, second : maps (D, D, D) of each half set, narrowest first. counts : particles in each (`Rings.counts`).
    mask : (D, D, D) where the effective number of particles is averaged; None is everywhere.
    """
    box, device = first[0].shape[-1], first[0].device
    reach = frequency_grid(box, 3, device)
    smooth = torch.exp(-2 * torch.pi**2 * (SMOOTHING * box) ** 2 * reach.square())

    def averaged(values: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(values) * smooth, s=values.shape)

    spectra = [[centred_rfftn(volume, 3) for volume in half] for half in (first, second)]
    total = [torch.zeros_like(first[0]) for _ in range(2)]
    effective, centres = [], _band_centres(box)
    inside = torch.ones_like(first[0]) if mask is None else mask
    for number in range(len(centres)):
        band = _band(reach * box, centres, number)
        wide = [centred_irfftn(half[-1] * band, 3, box) for half in spectra]
        for whole, part in zip(total, wide):
            whole += part
        gains = [1.0]
        for width in range(len(first) - 2, -1, -1):
            narrow = [centred_irfftn(half[width] * band, 3, box) for half in spectra]
            a, b = (n - w for n, w in zip(narrow, wide))
            power = averaged(a.square() + b.square()) / 2
            agreement = (averaged(a * b) / power.clamp_min(torch.finfo(power.dtype).tiny)).clamp(0, 1)
            gain = 2 * agreement / (1 + agreement)
            total[0] += gain * a
            total[1] += gain * b
            gains.append(float((gain * power * inside).sum() / (power * inside).sum().clamp_min(1e-30)))
            wide = narrow
        effective.append(effective_number(np.array(gains[::-1]), counts))
    return StateMap(total[0], total[1], np.array(effective), np.array(centres) / box)


def effective_number(gains: np.ndarray, counts: np.ndarray) -> float:  # (S,), (S,)
    """Effective number of particles, (sum w)^2 / sum w^2 (Kish, Survey Sampling, 1965), of a map made with these
    ``gains`` of the nested sets, narrowest first (the widest set's is 1), of ``counts`` particles each."""
    coefficient = gains - np.concatenate([[0.0], gains[:-1]])  # of each set's own map
    weight = np.cumsum((coefficient / counts)[::-1])[::-1]  # of a particle in each ring
    inside = np.diff(counts, prepend=0)
    return float((inside * weight).sum() ** 2 / (inside * weight**2).sum())


def _band_centres(box: int) -> list[float]:
    """Shells at the middle of bands of equal width up to Nyquist's frequency."""
    count = int(np.clip(box // 2 // LEAST_BAND, 1, BANDS))
    return [box / 2 / count * (number + 0.5) for number in range(count)]


def _band(shell: Tensor, centres: Sequence[float], number: int) -> Tensor:
    """A band's share of each component: raised cosines that add up to 1, to Nyquist's frequency."""
    centre = centres[number]
    share = torch.ones_like(shell)
    if number:
        away = ((centre - shell) / (centre - centres[number - 1])).clamp(0, 1)
        share = share * torch.cos(torch.pi / 2 * away).square()
    if number + 1 < len(centres):
        away = ((shell - centre) / (centres[number + 1] - centre)).clamp(0, 1)
        return share * torch.cos(torch.pi / 2 * away).square()
    return share * (shell < len(shell) / 2)
