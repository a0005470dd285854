"""Maps of states, each from the particles around a point of the latent space, and of all with their motion undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_shell_correlation, weight_shells
from gaussianem_core.io.latents import load_latents
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.options import Projector
from gaussianem_core.reconstruction.half_volumes import HalfVolumes, half_maps, image_batches, whole_map
from gaussianem_core.reconstruction.latent_kernel import (
    Rings,
    StateMap,
    combine_widths,
    cross_validated_width,
    effective_number,
    expected_distances,
    latent_metric,
    nested_sets,
    volume_metric,
)
from gaussianem_core.reconstruction.motion import (
    SEAM_PIXELS,
    accumulate_parts,
    blend,
    empty_part_sums,
    find_parts,
    part_windows,
    position_uncertainty,
    restored,
)
from gaussianem_core.reconstruction.part_calibration import IMAGES, ImageBatch, calibrate, sampled
from gaussianem_core.reconstruction.particle_images import Background, ParticleImages
from gaussianem_core.reconstruction.rigid_motion import RigidMotions, particle_motions
from gaussianem_core.reconstruction.solvent_mask import automatic_mask


class Latents(NamedTuple):
    """``mean`` and ``variance`` (N, zdim) of each particle's latent."""

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]


def read_latents(path: Path, count: int) -> Latents:
    """Latents of ``count`` particles; variances are 0 where the file has none. Raises InputError for another number."""
    arrays = load_latents(path)
    mean = arrays["z_mu"].astype(np.float64)
    if len(mean) != count:
        raise InputError(
            "latent",
            f"must have a row for each of the {count} particles",
            len(mean),
            "Give the latents of these very particles.",
        )
    variance = np.exp(arrays["z_logvar"].astype(np.float64)) if "z_logvar" in arrays else np.zeros_like(mean)
    return Latents(mean, variance)


def state_rings(
    latents: Latents,
    point: npt.NDArray[np.float64],
    half: npt.NDArray[np.int64],
    used: npt.NDArray[np.bool_],
    model: TrainedModel | None,
    width: int | None,
) -> Rings:
    """Nested sets of the particles nearest to a state; one set of ``width`` particles where that is given.

    Parameters
    ----------
    point : (zdim,) the state. half : (N,) 1 or 2. used : (N,) particles that may be used.
    model : where given, the metric is `latent_kernel.volume_metric`, else `latent_kernel.latent_metric`.

    Raises
    ------
    InputError : a half set without particles.
    """
    if model is None:
        spread = np.maximum(latents.variance, 1e-6 * latents.mean.var(0) + 1e-12)
        metric = latent_metric(spread)
    else:
        metric = volume_metric(model, point, latents.mean.std(0))
    distances = expected_distances(latents.mean, latents.variance, point, metric)
    if width is None:
        return nested_sets(distances, half, used)
    share = min(1.0, width / int(used.sum()))
    ring = np.full(len(half), -1)
    counts = 0
    for value in (1, 2):
        rows = np.flatnonzero(used & (half == value))
        nearest = rows[np.argsort(distances[rows], kind="stable")][: max(1, round(share * len(rows)))]
        ring[nearest] = 0
        counts += len(nearest)
    return Rings(ring, np.array([counts]))


class StateVolumes(NamedTuple):
    """The maps of a state.

    Attributes
    ----------
    halves : independent half maps of the particles within the chosen width.
    combined : (D, D, D) map of all widths (see `latent_kernel.combine_widths`); None where there is one width.
    counts : (S,) particles within each width. chosen : index of the width chosen.
    errors : (S,) of the cross-validation.
    effective : (bands,) effective number of particles in the combined map; (1,) where there is one width.
    """

    halves: HalfVolumes
    combined: Tensor | None
    counts: npt.NDArray[np.int64]
    chosen: int
    errors: npt.NDArray[np.float64]
    effective: npt.NDArray[np.float64]


def solve_state(
    sums: Sequence[Sequence[Tensor]], counts: npt.NDArray[np.int64], pixel_size_angstrom: float
) -> StateVolumes:
    """Maps of a state from the sums of its rings, [ring][half set], narrowest first; the sums are changed.

    ``counts`` (S,): particles within each width. Raises InputError where the widest map shows no molecule to mask.
    """
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, (first, second) in enumerate(sums):
        if number:
            first += sums[number - 1][0]
            second += sums[number - 1][1]
        pairs.append(half_maps(first, second))
    firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    combined: StateMap | None = None
    chosen, errors = 0, np.zeros(1)
    effective = np.array([effective_number(np.ones(1), counts[:1])])
    if len(pairs) > 1:
        widest = 0.5 * (firsts[-1] + seconds[-1])
        mask = torch.from_numpy(automatic_mask(widest, pixel_size_angstrom, 0.0)).to(widest)
        chosen, errors = cross_validated_width(firsts, seconds, mask)
        combined = combine_widths(firsts, seconds, counts, mask)
        effective = combined.effective
    whole = whole_map(sums[chosen][0], sums[chosen][1], pairs[chosen][2])
    halves = HalfVolumes(firsts[chosen], seconds[chosen], whole, pairs[chosen][2])
    mean = None if combined is None else 0.5 * (combined.first + combined.second)
    return StateVolumes(halves, mean, counts, chosen, errors, effective)


# ---- motion undone -----------------------------------------------------------------------------------------------


class MotionUndone(NamedTuple):
    """Half maps of all particles at one state.

    Attributes
    ----------
    parts : their number. misfit_pixels : of their rigid motions, root mean square, pixels of the training box.
    left_out : number of broken images. gain : nats an image by which the calibrated motions are more likely.
    """

    halves: HalfVolumes
    parts: int
    misfit_pixels: float
    left_out: int
    gain: float


def calibration_images(
    particles: ParticleImages,
    weights: npt.NDArray[np.float32],
    place: npt.NDArray[np.int64],
    found: Background,
    device: torch.device,
    seed: int,
) -> Callable[[], Iterator[ImageBatch]]:
    """A function that reads a random choice of images, for `part_calibration.calibrate`.

    ``place`` (N,): number of each row's particle among the latents, -1 for rows that are left out.
    """
    some = sampled(IMAGES, (weights > 0) & (place >= 0), seed)

    def read() -> Iterator[ImageBatch]:
        for batch in image_batches(particles, some, weights, found, device, lambda _: None):
            yield ImageBatch(place[batch.rows], *batch[1:6])

    return read


class HalfModel(NamedTuple):
    """A model that was trained on a half set alone: ``rows`` (n,) of its particles, ``latents`` of these."""

    model: TrainedModel
    rows: npt.NDArray[np.int64]
    latents: Latents


class _Moved(NamedTuple):
    """Motions of some particles, how uncertain the parts' places are (n, K; pixels), and the place of the particle of
    each of all images (N,) among them; the ``gain`` of motions that the images put right."""

    motions: RigidMotions
    blur: Tensor
    place: npt.NDArray[np.int64]
    gain: float


def undo_motion(
    particles: ParticleImages,
    weights: npt.NDArray[np.float32],
    latents: Latents,
    model: TrainedModel,
    state: npt.NDArray[np.float64] | None,
    half_models: Sequence[HalfModel],
    found: Background,
    backend: Projector,
    seed: int,
    report_motions: Callable[[int, int], None],
    report: Callable[[int], None],
) -> MotionUndone:
    """All particles brought to one state: the latent ``state`` (zdim,), or the consensus. See `motion`.

    Parameters
    ----------
    weights : (N,) of each row. latents : of all particles, by ``model``.
    half_models : of half sets 1 and 2, for the motion of their own particles to the consensus; with none, ``model``
        gives the motion of all. The cut into parts is ``model``'s in either case.
    report_motions : called with the number of particles, of those of one network, whose motion is known so far, and
        of all.
    report : called with the number of images read so far.
    """
    box, device = particles.box, model.device
    if state is None:
        reference, densities = model.gaussians.positions, model.gaussians.densities
    else:
        deformed = model.deform(state[None])
        reference, densities = deformed.positions[0], deformed.densities[0]
    used = np.unique(particles.particle[weights > 0])
    parts = find_parts(model, latents.mean[used], reference, seed=seed)

    def moved(by: TrainedModel, own: Latents, rows: npt.NDArray[np.int64], rest: Tensor, mass: Tensor) -> _Moved:
        place = np.full(len(latents.mean), -1)
        place[rows] = np.arange(len(rows))
        place = place[particles.particle]
        motions = particle_motions(
            by, own.mean, parts.weights, rest, mass, lambda done: report_motions(done, len(own.mean))
        )
        sample = calibration_images(particles, weights, place, found, device, seed)
        right = calibrate(by, own.mean, own.variance, parts.labels, parts.weights, rest, motions, sample, seed)
        blur = position_uncertainty(by, own.mean, own.variance, parts.weights, seed) * (box / 2)
        return _Moved(right.apply(motions), blur, place, right.gain)

    if half_models:
        told = [
            moved(h.model, h.latents, h.rows, h.model.gaussians.positions, h.model.gaussians.densities)
            for h in half_models
        ]
    else:
        told = [moved(model, latents, np.arange(len(latents.mean)), reference, densities)] * 2
    count = len(parts.weights)
    sums = [empty_part_sums(box, count, device) for _ in range(2)]
    left_out = 0
    for batch in image_batches(particles, weights > 0, weights, found, device, report):
        left_out += batch.left_out
        for half, (own, by) in enumerate(zip(sums, told), start=1):
            chosen = np.flatnonzero((particles.half[batch.rows] == half) & (by.place[batch.rows] >= 0))
            if not len(chosen):
                continue
            index = torch.from_numpy(chosen).to(device)
            places = torch.from_numpy(by.place[batch.rows[chosen]]).to(device)
            accumulate_parts(
                own,
                batch.images[index],
                batch.rotations[index],
                batch.shifts[index],
                batch.transfer[index],
                by.motions.rows(places),
                batch.weights[index],
                by.blur[places],
                backend=backend,
            )
    seam = SEAM_PIXELS * 2 / model.configuration.box
    windows = part_windows(reference.cpu().double().numpy(), parts.labels, box, seam).to(device)
    shown = restored(torch.cat([by.blur for by in told]), box)
    volumes: list[list[Tensor]] = []
    for first, second, factors in zip(*sums, shown):
        one, two, fsc = half_maps(first, second)
        of_part = (one, two, whole_map(first, second, fsc))
        volumes.append([weight_shells(volume, factors.to(volume)) for volume in of_part])
    one, two, whole = (blend(of_all, windows) for of_all in zip(*volumes))
    halves = HalfVolumes(one, two, whole, fourier_shell_correlation(one, two))
    return MotionUndone(halves, count, parts.misfit_pixels, left_out, 0.5 * (told[0].gain + told[1].gain))
