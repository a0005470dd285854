"""The consensus Gaussians: placed where the consensus map is dense, fitted to it, then to the images (homogeneous
stage)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from gaussianem_core.errors import InputError
from gaussianem_core.imaging import fourier, likelihood
from gaussianem_core.imaging.projection import Projector
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.gaussians import Gaussians, inverse_softplus, scale_densities
from gaussianem_core.runtime.streams import torch_stream
from gaussianem_core.training import regularisers
from gaussianem_core.training.forward_model import Views, project_gaussians, spectrum
from gaussianem_core.training.junk import broken

SOLVENT_RADIUS = 0.9  # of half the box: outside it a consensus map shows solvent alone
SOLVENT_SIGMAS = 5.0
STRONG_PERCENTILE, STRONG_SHARE = 99.9, 0.1  # flexible parts are blurred to a fraction of the rigid core's density
MOST_NOISE = 0.2
"""Share of the strong density below which the noise's level loses no flexible part."""
SMOOTHEST_ANGSTROM = 20.0
"""Resolution at which the smoothest map has lost half its amplitude; more would blur the parts themselves."""
FINE_BOX = 256  # largest box whose every voxel may have a Gaussian (the published manual's rule)
HELD_OUT = 0.05
PATIENCE = 3  # checks without improvement on the held-out images before the fit stops
FIT_IMAGES = 4000
"""Most images that the fit uses: the map it starts from already holds what all of them say."""

CHECKS = 4
"""Checks of the held-out error in each epoch."""

MAP_STEPS, MAP_RATE, MAP_STEP = 200, 1e-2, 1e-3
"""Adam steps of the fit to the map; rate of raw density and raw scale; rate of positions in voxels. With more freedom
the Gaussians gather in clumps, and the terms of neighbours no longer describe the molecule's motion."""


class Contour(NamedTuple):
    """A contour that holds the molecule: ``level``, in the map's own units, of the map ``density`` (D, D, D), which is
    smoothed to ``resolution_angstrom`` (half of the amplitude is left there; None: as it was)."""

    level: float
    density: np.ndarray
    resolution_angstrom: float | None = None


def automatic_contour(density: np.ndarray, pixel_size_angstrom: float) -> Contour:  # (D, D, D)
    """Contour between solvent and the weakest density worth a Gaussian.

    The level is the larger of five standard deviations of the solvent (voxels outside the inscribed sphere) and a tenth
    of the strong density (99.9th percentile): blurred, flexible parts stay in, noise stays out. In a map with fine
    voxels the noise of a voxel may be as strong as a flexible part. The map is then smoothed, from 2.7 voxels by steps
    of the square root of 2 up to 20 A, until the noise's level is below a fifth of the strong density.
    """
    box = density.shape[-1]
    axis = (np.arange(box) - box // 2) / (box / 2)
    outside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > SOLVENT_RADIUS**2

    def levels(values: np.ndarray) -> tuple[float, float]:
        solvent = values[outside]
        noise = float(solvent.mean() + SOLVENT_SIGMAS * solvent.std())
        return noise, float(np.percentile(values, STRONG_PERCENTILE))

    noise, strong = levels(density)
    found, resolution = Contour(max(noise, STRONG_SHARE * strong), density), 8 / 3 * pixel_size_angstrom
    while noise > MOST_NOISE * strong and resolution <= SMOOTHEST_ANGSTROM:
        smooth = fourier.lowpass(torch.from_numpy(density), pixel_size_angstrom, resolution).numpy()
        noise, strong = levels(smooth)
        found = Contour(max(noise, STRONG_SHARE * strong), smooth, resolution)
        resolution *= 2**0.5
    return found


def sample_positions(
    density: np.ndarray, level: float, interval: float
) -> tuple[np.ndarray, np.ndarray]:  # -> (N, 3), (N,)
    """Grid points ``interval`` voxels apart whose (trilinearly interpolated) density exceeds ``level``.

    Returns x, y, z in world units (the box is [-1, 1]) and the density at each point.
    """
    box = density.shape[-1]
    # The grid is laid through the centre voxel, so that an interval of 1 meets the voxels themselves.
    half = np.arange(0, box // 2, interval)
    axis = box // 2 + np.concatenate([-half[:0:-1], half])
    if float(interval).is_integer():
        index = axis.astype(int)
        values = density[np.ix_(index, index, index)]
    else:
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
        values = map_coordinates(density, grid, order=1)
    z, y, x = np.nonzero(values > level)
    positions = (np.stack([axis[x], axis[y], axis[z]], axis=1) - box // 2) / (box / 2)
    return positions.astype(np.float32), values[z, y, x].astype(np.float32)


def place_gaussians(
    density: np.ndarray,
    threshold: str,
    interval: int | None,
    cap: int,
    target_box: int,
    scale_min: float,
    scale_max: float,
    pixel_size_angstrom: float,
) -> tuple[Gaussians, Contour, float]:
    """Initial Gaussians above the contour level, with the map's own values as densities (unscaled).

    Parameters
    ----------
    density : (D, D, D) consensus map.
    threshold : contour level in the map's units, or "auto" (:func:`automatic_contour`).
    interval : grid spacing in voxels. None takes 1, or 2 above a box of 256 (the published manual's rule), but no less
        than the training pixel; at the automatic level the spacing grows until the cap is met.
    cap : largest number of Gaussians.
    target_box : box of the training images in pixels.
    scale_min, scale_max : bounds of sigma in world units. pixel_size_angstrom : of the map's voxels.

    Returns
    -------
    Gaussians, the contour, the grid spacing in voxels.

    Raises
    ------
    InputError : the map holds no density, or there is no Gaussian or more than the cap (the message gives the level's
        percentile and a usable range).
    """
    if not density.max() > max(0.0, float(density.min())):
        found = f"values from {density.min():.4g} to {density.max():.4g}"
        raise InputError("consensus_map", "must hold density", found, "Give the map of the refinement.")
    automatic = threshold == "auto"
    contour = automatic_contour(density, pixel_size_angstrom) if automatic else Contour(float(threshold), density)
    level, box = contour.level, density.shape[-1]
    spacing = float(interval) if interval else max(2.0 if box > FINE_BOX else 1.0, box / target_box)
    positions, values = sample_positions(contour.density, level, spacing)
    while automatic and interval is None and len(positions) > cap:
        spacing *= (len(positions) / cap) ** (1 / 3) * 1.02
        positions, values = sample_positions(contour.density, level, spacing)
    if not 0 < len(positions) <= cap:
        share = 100 * float((contour.density <= level).mean())
        # A level that is given counts for the map as it is.
        usable = f"{level_for(density, spacing, cap):.4g} to {level_for(density, spacing, min(100, cap)):.4g}"
        found = "no Gaussians" if len(positions) == 0 else f"{len(positions)} Gaussians, over the cap of {cap}"
        raise InputError(
            "--map_thres",
            "must leave a usable number of Gaussians",
            f"level {level:.4g}, the map's {share:.2f}th percentile: {found}",
            "The map does not rise above its own solvent: check that it is the refined map, or give a level from "
            f"{usable}."
            if automatic and len(positions) == 0
            else f"Give a level from {usable}{'' if automatic else ', or auto'}"
            + ("." if len(positions) == 0 else "; a larger --sample_interval or --max_gaussians serves too."),
        )
    raw_scale = torch.zeros(len(positions))
    raw_density = inverse_softplus(torch.from_numpy(np.maximum(values, 1e-6)))
    return Gaussians(torch.from_numpy(positions), raw_density, raw_scale, scale_min, scale_max), contour, spacing


def level_for(density: np.ndarray, spacing: float, count: int) -> float:
    """Contour level of ``density`` (D, D, D) above which about ``count`` grid points ``spacing`` voxels apart lie."""
    points = density.size / spacing**3
    return float(np.quantile(density, 1 - min(1.0, count / points)))


@dataclass
class ConsensusData:
    """Images (n, D, D) and the poses and CTFs of their particles, on the compute device."""

    images: torch.Tensor  # (n, D, D)
    views: Views

    def __len__(self) -> int:
        return len(self.images)

    @property
    def box(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[-1]

    @property
    def whole(self) -> torch.Tensor:  # (k,)
        """Rows of the images that are not broken (see ``junk.broken``)."""
        power = torch.cat([part.float().square().mean((1, 2)) for part in self.images.split(256)])
        return torch.nonzero(~broken(power))[:, 0]


def spectra(
    gaussians: Gaussians, data: ConsensusData, rows: torch.Tensor, backend: Projector
) -> tuple[torch.Tensor, torch.Tensor]:  # 2 x (B, D, D//2+1)
    """Orthonormal spectra of the CTF-filtered projections and of the images of ``rows``."""
    views = data.views.rows(rows)
    model = project_gaussians(gaussians, gaussians.positions, gaussians.densities, views, data.box, backend)
    return spectrum(model) * views.transfer(data.box), spectrum(data.images[rows].float())


def plane_weight(box: int, device: torch.device) -> torch.Tensor:  # (D, D//2+1)
    """Multiplicity of each component, without the mean value, which normalisation leaves arbitrary."""
    weight = fourier.half_plane_weight(box, device).repeat(box, 1)
    weight[0, 0] = 0.0
    return weight


@torch.no_grad()
def fit_amplitude(
    gaussians: Gaussians, data: ConsensusData, backend: Projector, count: int = 512
) -> tuple[float, float]:
    """Factor of all densities that fits the images best (least squares, closed form), and its significance in sigmas.

    ``count``: images used at most. A negative factor means that the images' contrast is inverted.

    Raises InputError if the Gaussians project to nothing.
    """
    weight = plane_weight(data.box, data.images.device)
    rows = data.whole[:count]
    cross, power, noise = [], 0.0, 0.0
    for part in rows.split(32):
        model, image = spectra(gaussians, data, part, backend)
        cross.append(((model.conj() * image).real * weight).sum(dim=(-2, -1)).double().cpu())
        power += float((model.abs().square() * weight).sum())
        noise += float((image.abs().square() * weight).sum())
    if power == 0:
        raise InputError("consensus_map", "must project into the images", "empty projections", "Check map and poses.")
    each = torch.cat(cross)
    total = float(each.sum())
    # The spread over views counts beside the noise: a wrong map fits some views by chance.
    white = np.sqrt(power * noise / (len(rows) * data.box**2))
    spread = np.sqrt(len(rows)) * float(each.std(correction=0))
    return total / power, total / max(white, spread, 1e-30)


def fit_to_map(gaussians: Gaussians, density: torch.Tensor, log: JobLog) -> Gaussians:  # (D, D, D)
    """Fit densities, widths and positions to the consensus map, by the squared error over its voxels.

    ``density`` is the map in any units. The densities returned have a median about 1; :func:`fit_amplitude` finds the
    images' scale. The map holds what all images say, so that :func:`fit` then changes little and fits little noise.
    """
    box, bounds = density.shape[-1], (gaussians.scale_min, gaussians.scale_max)

    def volume(g: Gaussians) -> torch.Tensor:
        return voxelize(g.positions, g.densities, g.sigmas, box, sigma_max=g.scale_max)

    with torch.no_grad():  # to densities about 1, whatever the map's units
        made, typical = volume(gaussians), gaussians.densities.median()
        target = density * (made.square().sum() / ((made * density).sum().clamp_min(1e-30) * typical))
        gaussians = scale_densities(gaussians, float(1 / typical))
    positions, raw_density, raw_scale = (
        t.clone().requires_grad_() for t in (gaussians.positions, gaussians.raw_density, gaussians.raw_scale)
    )
    groups = [{"params": [positions], "lr": MAP_STEP * 2 / box}, {"params": [raw_density, raw_scale], "lr": MAP_RATE}]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, MAP_STEPS)
    for step in range(MAP_STEPS):
        error = (volume(Gaussians(positions, raw_density, raw_scale, *bounds)) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        schedule.step()
        log.progress("fit to the map", step + 1, MAP_STEPS, "steps")
    return Gaussians(positions.detach(), raw_density.detach(), raw_scale.detach(), *bounds)


def fit(
    gaussians: Gaussians,
    data: ConsensusData,
    log: JobLog,
    *,
    epochs: int,
    batch: int,
    recipe: str,
    backend: Projector,
    seed: int,
) -> Gaussians:
    """Fit densities, widths and positions of the consensus Gaussians to the images.

    Adam with rates that fall exponentially to a hundredth. The loss is the squared error with the prior of
    ``regularisers.anchor_term`` about ``gaussians`` (recipe "published": L1 without a prior, positions kept). Of the
    FIT_IMAGES images drawn at most, as many as a twentieth of the dataset, up to 1,000, are held out: the Gaussians
    with the least error on them are returned, and the fit stops after PATIENCE checks without improvement. The number
    of Gaussians stays the same. With ``epochs`` 0 the Gaussians are returned as they are.
    """
    device = data.images.device
    generator = torch_stream(seed, "consensus fit")
    whole = data.whole.cpu()
    order = whole[torch.randperm(len(whole), generator=generator)[:FIT_IMAGES]]
    held = order[: max(1, min(1000, int(HELD_OUT * len(whole))))].to(device)
    train = order[len(held) :]
    if epochs == 0 or len(train) == 0:
        return gaussians
    published = recipe == "published"
    raw_density, raw_scale, positions = (
        t.clone().requires_grad_() for t in (gaussians.raw_density, gaussians.raw_scale, gaussians.positions)
    )
    # A density's rate is relative to its typical size, so that any unit of the map converges alike.
    typical = float(gaussians.densities.median().clamp(0.05, 5.0))
    groups = [
        {"params": [raw_density], "lr": 1e-3 if published else 1e-2 * typical},
        {"params": [raw_scale], "lr": 1e-3 if published else 1e-2},
        {"params": [positions], "lr": 0.0 if published else 1e-4},
    ]
    optimiser = torch.optim.Adam(groups)
    batch = min(batch, len(train))
    steps = epochs * (len(train) // batch)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1 / max(steps, 1)))
    weight = plane_weight(data.box, device)
    anchor, bounds = regularisers.find_anchor(gaussians), (gaussians.scale_min, gaussians.scale_max)
    state = (positions, raw_density, raw_scale)

    def current() -> Gaussians:
        position, density, scale = (value.detach().clone() for value in state)
        return Gaussians(position, density, scale, *bounds)

    @torch.no_grad()
    def held_out_error() -> float:
        g, total = current(), 0.0
        for rows in held.split(64):
            model, image = spectra(g, data, rows, backend)
            total += float(likelihood.squared_error(model, image, weight).sum())
        return total / (len(held) * data.box**2)

    best, best_error, stale, step = gaussians, held_out_error(), 0, 0
    variance = 2 * best_error  # of the images' noise, of which nearly all of the error is
    log.metric("consensus", 0, 0.0, held_out=best_error)
    check_every = max(1, steps // (CHECKS * epochs))
    for _ in range(epochs):
        shuffled = train[torch.randperm(len(train), generator=generator)].to(device)
        for rows in shuffled[: len(shuffled) // batch * batch].split(batch):
            fitted = Gaussians(*state, *bounds)
            model, image = spectra(fitted, data, rows, backend)
            if published:
                loss = torch.fft.irfft2(model - image, s=(data.box, data.box), norm="ortho").abs().mean()
            else:
                prior = variance * regularisers.anchor_term(fitted, anchor) / len(train)
                loss = (likelihood.squared_error(model, image, weight).mean() + prior) / data.box**2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            log.progress("fit consensus", step * batch, steps * batch)
            if step % check_every == 0 or step == steps:
                error = held_out_error()
                log.metric("consensus", step, step * epochs / steps, held_out=error, loss=float(loss.detach()))
                stale = 0 if error < best_error else stale + 1
                if error < best_error:
                    best, best_error = current(), error
                if stale >= PATIENCE:
                    log.message(f"consensus fit converged on held-out images after {step * batch:,} images")
                    return best
    return best
