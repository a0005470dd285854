"""Motion undone: one map to which every image contributes along its own displacement field.

The molecule is cut into parts that move nearly rigidly (`analysis.rigid_domains`), as many as the motion needs. Each
part is seen by every image in a pose of its own (`rigid_motion`), so that the sums of `imaging.backprojection`, one set
a part, hold its exact weighted reconstruction: nothing is interpolated in real space, and CTF and noise keep their
weights. The parts' maps are blended with windows that add up to 1. An image in which a part is absent has weight 0 for
that part. DynaMight bends the rays instead and weights approximately (Schwab et al., Nat. Methods 21, 2024); 3DFlex
searches the map by gradients (Punjani and Fleet, Nat. Methods 20, 2023).

Between the parts the displacement of a point x is that of its windows w, a smooth field with an inverse:

    y(x) = sum_p w_p(x) (R_p (x - c_p) + c_p + t_p)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.analysis.rigid_domains import find_domains
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.backprojection import accumulate, empty_sums
from gaussianem_core.imaging.fourier import frequency_grid
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.options import Projector
from gaussianem_core.reconstruction.rigid_motion import LEAST_GAUSSIANS, RigidMotions, fit_motions, part_poses
from gaussianem_core.runtime.neighbours import neighbour_tree

CONFORMATIONS, SAMPLED_GAUSSIANS = 32, 1500
"""Particles' states, and Gaussians, by which the parts are found."""
TRIED = (2, 3, 4, 6, 8, 12, 16)
"""Numbers of parts."""
LEAST_GAIN = 0.1
"""Share of the motion still unexplained that a larger number of parts must explain."""
SEAM_PIXELS = 3.0
"""A part's window falls to 0 where its Gaussians are so much farther (pixels of the training box) than the nearest."""
COARSE = 48
"""Voxels across of the grid on which windows are computed: they are smooth."""
SLOPES_FROM, LEAST_WIDTH = 64, 1e-3
"""Particles from which the displacements' slopes are taken, and the least step of their latents."""
LEAST_FALL, BLURS = 0.1, 4096
"""A shell whose amplitude falls below this is not restored; particles that tell how much is left of it."""
NEIGHBOURS, SETTLING_ROUNDS = 12, 4
NEWTON_STEPS, DAMPING = 30, 0.5


# ---- parts -------------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """K parts that move nearly rigidly.

    Attributes
    ----------
    labels : (M,) part of each Gaussian, from 0. weights : (K, M) of the Gaussians in each part's motion, for
        `rigid_motion.particle_motions`.
    misfit_pixels : root mean square distance of the Gaussians from where the motions take them, pixels of the training
        box.
    """

    labels: np.ndarray
    weights: Tensor
    misfit_pixels: float


def find_parts(
    model: TrainedModel,
    z: np.ndarray,
    reference: Tensor,
    tolerance_pixels: float = 0.1,
    most: int = 8,
    seed: int = 0,
) -> Parts:  # (N, zdim), (M, 3)
    """Cut the molecule into parts that move nearly rigidly.

    One part where nothing moves. More parts are tried while each larger number explains a share LEAST_GAIN of the
    motion still unexplained.

    Parameters
    ----------
    z : latents of the particles. reference : Gaussians at the chosen state, world units.
    tolerance_pixels : no more parts are tried once the Gaussians are within this distance (root mean square, pixels of
        the training box) of where the rigid motions take them. most : no more parts than this.
    """
    generator = np.random.default_rng(seed)
    states = generator.choice(len(z), min(CONFORMATIONS, len(z)), replace=False)
    moved = torch.cat([deformed.positions for _, deformed in model.chunks(z[states])])
    rest, frames = reference.cpu().double().numpy(), moved.cpu().double().numpy()
    density = (model.gaussians.densities * model.gaussians.sigmas**3).detach()
    mass = density.cpu().double().numpy()
    chosen = generator.choice(len(rest), min(SAMPLED_GAUSSIANS, len(rest)), replace=False)
    pixel = 2 / model.configuration.box
    labels, left = np.zeros(len(chosen), np.int64), 0.0
    if (frames != rest).any() and len(frames) > 1:
        few = find_domains(rest[chosen], frames[:, chosen], mass[chosen], 1)
        left = _mean_square(few.misfit, mass[chosen])
        for count in TRIED:
            if left <= (tolerance_pixels * pixel) ** 2 or 4 * count > len(chosen) or count > most:
                break
            more = find_domains(rest[chosen], frames[:, chosen], mass[chosen], count, seed=seed)
            now = _mean_square(more.misfit, mass[chosen])
            if now > (1 - LEAST_GAIN) * left:
                break
            labels, left = more.labels, now
    label = torch.from_numpy(labels[neighbour_tree(rest[chosen]).query(rest)[1]]).to(reference.device)
    near = torch.from_numpy(neighbour_tree(rest).query(rest, k=min(NEIGHBOURS, len(rest)))[1]).to(reference.device)
    return _settle(reference, moved, density, label, near.view(len(rest), -1), 0.05 * pixel, pixel)


def _settle(
    reference: Tensor, moved: Tensor, mass: Tensor, label: Tensor, near: Tensor, least: float, pixel: float
) -> Parts:  # (M, 3), (F, M, 3), (M,), (M,), (M, neighbours)
    """Each Gaussian goes to the part of itself or a neighbour whose motion carries it best; those that move otherwise
    than their part count less for its motion (Geman and McClure's weights)."""
    parts = torch.arange(int(label.max()) + 1, device=label.device)
    trust = torch.ones_like(mass)
    for _ in range(SETTLING_ROUNDS):
        own = label == parts[:, None]
        rotations, translations, centres, _ = fit_motions(reference, moved, own * (mass * trust))
        carried = (reference - centres[:, None]) @ rotations.mT + (centres[:, None] + translations[:, :, None])
        missed = (carried - moved[:, None]).square().sum(-1).mean(0)  # (K, M)
        around = (label[near][:, None] == parts[:, None]).any(-1).T  # (K, M)
        settled = torch.where(around, missed, torch.inf).argmin(0)
        if len(parts) > 1 and bool((torch.bincount(settled, minlength=len(parts)) >= LEAST_GAUSSIANS).all()):
            label = settled
        misfit = missed.gather(0, label[None])[0]
        scale = torch.stack([misfit[label == part].median() for part in parts]).clamp_min(least**2)
        trust = 1 / (1 + misfit / scale[label]).square()
    own = label == parts[:, None]
    root = float((mass * misfit).sum() / mass.sum()) ** 0.5
    return Parts(label.cpu().numpy(), own * (mass * trust), root / pixel)


def _mean_square(misfit: np.ndarray, mass: np.ndarray) -> float:
    return float((mass * np.square(misfit)).sum() / mass.sum())


def part_windows(reference: np.ndarray, labels: np.ndarray, box: int, seam: float) -> Tensor:  # -> (K, D, D, D)
    """Windows of the parts, which add up to 1 at each voxel, by the distance from each part's nearest Gaussian.

    Parameters
    ----------
    reference : (M, 3) Gaussians at the chosen state, world units. labels : (M,), -1 is in no part.
    box : D, voxels a side.
    seam : a window falls to 0, as a raised cosine, where its part is this much farther than the nearest; world units.
    """
    size = min(box, COARSE)
    axis = (np.arange(size) - size // 2) * (2 / size)
    zz, yy, xx = np.meshgrid(axis, axis, axis, indexing="ij")
    grid = np.stack([xx, yy, zz], axis=-1).reshape(-1, 3)
    distances = [neighbour_tree(reference[labels == part]).query(grid)[0] for part in range(int(labels.max()) + 1)]
    coarse = torch.from_numpy(np.stack(distances)).float().view(-1, size, size, size)
    if size != box:
        fine = (torch.arange(box) - box // 2) * (2 / box)
        coarse = sample(coarse, torch.stack(torch.meshgrid(fine, fine, fine, indexing="ij")[::-1], dim=-1))
    farther = ((coarse - coarse.amin(0)) / seam).clamp(0, 1)
    window = 0.5 + 0.5 * torch.cos(torch.pi * farther)
    return window / window.sum(0)


def sample(volumes: Tensor, places: Tensor) -> Tensor:  # (K, D, D, D), (..., 3) -> (K, ...)
    """Values of volumes at places x, y, z in world units, trilinear; beyond the box those of its border."""
    box = volumes.shape[-1]
    voxel = places * (box / 2) + box // 2
    grid = (2 * voxel / (box - 1) - 1).view(1, -1, 1, 1, 3)
    found = torch.nn.functional.grid_sample(
        volumes[None], grid.to(volumes), mode="bilinear", padding_mode="border", align_corners=True
    )
    return found.view(len(volumes), *places.shape[:-1])


# ---- back-projection ---------------------------------------------------------------------------------------------


def empty_part_sums(box: int, parts: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Sums of no images for each part (see `imaging.backprojection.empty_sums`)."""
    return [empty_sums(box, device) for _ in range(parts)]


def accumulate_parts(
    sums: Sequence[Tensor],
    images: Tensor,
    rotations: Tensor,
    shifts: Tensor,
    ctf: Tensor,
    motions: RigidMotions,
    weights: Tensor | None = None,
    blur: Tensor | None = None,
    *,
    backend: Projector = "auto",
) -> None:
    """Add images to the sums of each part, in place, as the part is seen in the reference.

    Parameters
    ----------
    sums : K of `empty_part_sums`. images, rotations, shifts, ctf, weights : B images as for
        `imaging.backprojection.accumulate`; where the contrast varies, ctf is multiplied by it.
    motions : of these B particles. A part that is absent from the reference takes the particles that lack it too.
    blur : (B, K) uncertainty of the parts' places, root mean square along an axis, pixels of these images: the CTF is
        multiplied by exp(-2 pi^2 blur^2 k^2), k in cycles per pixel, and LEAST_FALL at least (see `restored`).
    """
    box = images.shape[-1]
    turned, moved = part_poses(rotations, shifts, motions, box)
    share = torch.where(motions.present, motions.occupancy, 1 - motions.occupancy)
    fall = None if blur is None else -2 * torch.pi**2 * frequency_grid(box, 2, images.device).square()
    for part, own in enumerate(sums):
        transfer = ctf * share[:, part, None, None]
        if fall is not None and blur is not None:
            transfer = transfer * (fall * blur[:, part, None, None].square()).exp().clamp_min(LEAST_FALL)
        accumulate(own, images, turned[:, part], moved[:, part], transfer, weights, backend=backend)


def restored(blur: Tensor, box: int) -> Tensor:  # (N, K) -> (K, D/2)
    """Factors of the shells of each part's map, whose places are uncertain by ``blur`` (see :func:`accumulate_parts`).

    Solving for the map divides by what the uncertainty leaves of a shell. Where that is next to nothing it would be
    noise, which windows spread over all shells of the blended map. So the factor is Wiener's, in proportion to F^2 /
    (F^2 + LEAST_FALL^2), with F^2 the power that is left, mean over the particles; it is 1 where nothing is uncertain.
    """
    frequency = torch.arange(box // 2, device=blur.device) / box
    some = blur[:: max(1, len(blur) // BLURS), :, None]
    power = (-4 * torch.pi**2 * (some * frequency).square()).exp().mean(0)
    return power * (1 + LEAST_FALL**2) / (power + LEAST_FALL**2)


def blend(volumes: Sequence[Tensor], windows: Tensor) -> Tensor:  # K x (D, D, D), (K, D, D, D) -> (D, D, D)
    """One map, the sum of the parts' maps times their windows."""
    whole = torch.zeros_like(volumes[0])
    for volume, window in zip(volumes, windows, strict=True):
        whole += volume * window.to(volume)
    return whole


def position_uncertainty(
    model: TrainedModel, z: np.ndarray, variance: np.ndarray, weights: Tensor, seed: int = 0
) -> Tensor:  # (N, zdim) x 2, (K, M) -> (N, K)
    """Uncertainty of each part's place by the variance of the latents: rms along an axis, world units.

    Displacements are taken as linear in the latents, with the slopes that they have, root mean square over a sample of
    the particles, across the width of each one's posterior. (A regression on the particles' latents would give large
    slopes to latents that hardly vary but are as uncertain as the prior, which the decoder does not use at all.)

    Parameters
    ----------
    z, variance : mean and variance of the latents. weights : of the Gaussians in each part.
    """
    chosen = np.random.default_rng(seed).choice(len(z), min(len(z), SLOPES_FROM), replace=False)
    share = weights / weights.sum(1, keepdim=True)
    square = torch.zeros(z.shape[1], weights.shape[1], device=model.device)
    for row in chosen:
        width = np.sqrt(variance[row]).clip(LEAST_WIDTH)
        up, down = (model.deform(z[row] + sign * np.diag(width)).displacement for sign in (1, -1))  # (zdim, M, 3)
        across = 2 * torch.as_tensor(width, dtype=torch.float32, device=model.device)
        square += ((up - down) / across[:, None, None]).square().sum(-1) / (3 * len(chosen))
    spread = torch.as_tensor(variance, dtype=torch.float32, device=model.device)
    return (spread @ (square @ share.T)).sqrt()


# ---- the displacement field and its inverse ----------------------------------------------------------------------


class DisplacementField(NamedTuple):
    """Displacement field y(x) of one particle (see the module's formula): ``windows`` (K, D, D, D), and the parts'
    ``rotations`` (K, 3, 3), ``translations`` (K, 3) and ``centres`` (K, 3), world units."""

    windows: Tensor
    rotations: Tensor
    translations: Tensor
    centres: Tensor

    def forward(self, points: Tensor) -> Tensor:  # (P, 3) -> (P, 3)
        """Places in the particle of points of the reference, world units."""
        share = sample(self.windows, points)  # (K, P)
        return (share[..., None] * self._carried(points)).sum(0)

    def inverse(self, places: Tensor, tolerance: float = 1e-4) -> Tensor:  # (P, 3) -> (P, 3)
        """Points of the reference that :meth:`forward` takes to ``places``, to the tolerance (world units).

        Each part's own inverse is exact within it; in the seams between them Newton's method goes on from the best of
        these, by halves where a step would lead away. Where parts collide no point may lead to a place: the nearest
        that is found is returned.
        """
        back = self.rotations.mT[:, None] @ (places - self.centres[:, None] - self.translations[:, None])[..., None]
        starts = back[..., 0] + self.centres[:, None]  # (K, P, 3)
        missed = torch.stack([(self.forward(start) - places).norm(dim=-1) for start in starts])
        best = missed.argmin(0)
        points = starts[best, torch.arange(len(places), device=places.device)]
        error = missed.amin(0)
        for _ in range(NEWTON_STEPS):
            if float(error.amax()) < tolerance:
                break
            step = torch.linalg.lstsq(self._slopes(points), (places - self.forward(points))[..., None])[0][..., 0]
            size = torch.ones_like(error)
            for _ in range(6):
                tried = points + size[:, None] * step
                now = (self.forward(tried) - places).norm(dim=-1)
                closer = now < error
                points, error = torch.where(closer[:, None], tried, points), torch.where(closer, now, error)
                size = torch.where(closer, torch.zeros_like(size), size * DAMPING)
        return points

    def _carried(self, points: Tensor) -> Tensor:  # (P, 3) -> (K, P, 3)
        return (points - self.centres[:, None]) @ self.rotations.mT + (self.centres + self.translations)[:, None]

    def _slopes(self, points: Tensor) -> Tensor:  # (P, 3) -> (P, 3, 3)
        """Derivative of the places by the points: central differences of half a voxel."""
        reach = 0.5 * 2 / self.windows.shape[-1]
        columns = []
        for axis in torch.eye(3, device=points.device) * reach:
            columns.append((self.forward(points + axis) - self.forward(points - axis)) / (2 * reach))
        return torch.stack(columns, dim=-1)


def displacement_field(motions: RigidMotions, windows: Tensor, particle: int) -> DisplacementField:
    """The field of one particle, by its row. Raises InputError unless ``windows`` (K, D, D, D) are of as many parts."""
    if len(windows) != len(motions.centres):
        raise InputError("windows", f"must be of {len(motions.centres)} parts", len(windows), "Make both of one cut.")
    return DisplacementField(windows, motions.rotations[particle], motions.translations[particle], motions.centres)


def round_trip(field: DisplacementField, points: Tensor) -> Tensor:  # (P, 3) -> (P,)
    """Distance of points from their inverse image after :meth:`DisplacementField.forward`, in world units."""
    return (field.inverse(field.forward(points)) - points).norm(dim=-1)
