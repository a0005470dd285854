"""Calibration of the model's motions of parts by the images.

A network regularised towards smooth motion shows parts that move slightly too little, about slightly wrong axes. The
error is taken to be the same linear map for all particles, so that all images together determine it. With f the six
numbers of a part's motion in a particle (turn and shift, less their mean over the particles), the true motion is taken
to be f + B f, with one matrix B (6, 6) for each part, the most likely under the images' noise and a normal prior:

    log L = sum over images  b . q - 1/2 q^T J q,     q = B f

J and b are the inner products of the derivatives of the image by the parts' turns and shifts, with each other and with
the residual of the image (as in `training.nuisances` for the whole molecule). They are taken at latents drawn from the
particles' posteriors: the posterior means spread less than the latents do, so that motions at them would seem small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.imaging.fourier import fourier_crop, half_plane_weight, shells
from gaussianem_core.imaging.likelihood import image_scale
from gaussianem_core.imaging.projection import project
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.reconstruction.rigid_motion import RigidMotions, fit_motions
from gaussianem_core.training import nuisances
from gaussianem_core.training.forward_model import spectrum

PRIOR_WIDTH = 0.3
"""Standard deviation of the prior of B's entries, with each motion measured in its own spread over the particles."""
LEAST_TURN, LEAST_SHIFT_PIXELS = np.deg2rad(0.05), 0.02
"""Spread (radians, pixels of the training box) below which a component of a motion is taken as 0."""
IMAGES = 2000
"""Images that are used, which suffice for a few dozen numbers."""
SCALE_WIDTH = 1.0
"""Of the prior about 1 of each image's scale."""
ROUNDS = 2
"""The derivatives hold for small motions: the second round is taken at the first's result."""


class ImageBatch(NamedTuple):
    """B particles: ``rows`` (B,) of the latents; images, rotations, shifts, CTF and weights as for
    `imaging.backprojection.accumulate`, in any box that spans the model's length."""

    rows: np.ndarray
    images: Tensor
    rotations: Tensor
    shifts: Tensor
    ctf: Tensor
    weights: Tensor  # (B, D//2+1)

    def cropped(self, box: int) -> ImageBatch:
        """The batch cropped in Fourier space to a smaller ``box`` (px) of the same length; else as it is."""
        own = self.images.shape[-1]
        if own <= box:
            return self
        half = box // 2
        ctf = torch.cat([self.ctf[:, :half], self.ctf[:, own - half :]], dim=1)[..., : half + 1]
        images = fourier_crop(self.images, box)
        return ImageBatch(self.rows, images, self.rotations, self.shifts * box / own, ctf, self.weights[:, : half + 1])


class Calibration(NamedTuple):
    """``mean`` (K, 6) and ``matrix`` B (K, 6, 6) of the parts' motions (turns in radians, shifts in world units), and
    ``gain``, nats an image by which the calibrated motions are more likely than the model's."""

    mean: Tensor
    matrix: Tensor
    gain: float

    def apply(self, motions: RigidMotions) -> RigidMotions:
        """The motions corrected by B (f + B f)."""
        change = torch.einsum("kab,nkb->nka", self.matrix, motion_numbers(motions) - self.mean)
        turn = nuisances.rotation_matrix(change[..., :3].flatten(0, 1)).unflatten(0, change.shape[:2])
        return motions._replace(rotations=turn @ motions.rotations, translations=motions.translations + change[..., 3:])


def sampled(count: int, used: np.ndarray, seed: int = 0) -> np.ndarray:  # (N,) bool -> (N,) bool
    """A random choice of ``count`` of the particles that are ``used``, for :func:`calibrate`."""
    rows = np.flatnonzero(used)
    chosen = np.zeros(len(used), bool)
    chosen[np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)] = True
    return chosen


def motion_numbers(motions: RigidMotions) -> Tensor:  # -> (N, K, 6)
    """Rotation vectors (radians) and translations (world units)."""
    return torch.cat([rotation_vector(motions.rotations), motions.translations], dim=-1)


def rotation_vector(rotations: Tensor) -> Tensor:  # (..., 3, 3) -> (..., 3)
    """The inverse of `training.nuisances.rotation_matrix`, for turns by less than half a circle."""
    twice = torch.stack(
        [
            rotations[..., 2, 1] - rotations[..., 1, 2],
            rotations[..., 0, 2] - rotations[..., 2, 0],
            rotations[..., 1, 0] - rotations[..., 0, 1],
        ],
        dim=-1,
    )
    sine = twice.norm(dim=-1, keepdim=True) / 2
    cosine = (rotations.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    angle = torch.atan2(sine, cosine)
    return twice / 2 * torch.where(sine > 1e-6, angle / sine.clamp_min(1e-6), torch.ones_like(sine))


@torch.no_grad()
def calibrate(
    model: TrainedModel,
    z: np.ndarray,
    variance: np.ndarray,
    labels: np.ndarray,
    weights: Tensor,
    reference: Tensor,
    motions: RigidMotions,
    batches: Callable[[], Iterable[ImageBatch]],
    seed: int = 0,
) -> Calibration:
    """Find the matrices B that the images of some thousand particles make most likely (see the module's formula).

    Parameters
    ----------
    z, variance : (N, zdim) posteriors of all particles. labels, weights, reference, motions : the parts, as
        `motion.find_parts` and `rigid_motion.particle_motions` gave them for these particles.
    batches : gives the images, anew each time it is called; IMAGES of them are enough (:func:`sampled`).
    """
    numbers = motion_numbers(motions)
    mean = numbers.mean(0)
    pixel = 2 / model.configuration.box
    least = torch.tensor([LEAST_TURN] * 3 + [LEAST_SHIFT_PIXELS * pixel] * 3, device=mean.device)
    spread = numbers.std(0)
    # In its own spread; a component that is none counts for nothing.
    scale = torch.where(spread > least, 1 / spread, torch.zeros_like(spread))
    drawn = z + np.sqrt(variance) * np.random.default_rng(seed).normal(size=z.shape)
    found = Calibration(mean, torch.zeros(len(mean), 6, 6, device=mean.device), 0.0)
    size = 36 * len(mean)
    for _ in range(ROUNDS):
        normal = torch.zeros(size, size, device=mean.device, dtype=torch.float64)
        right = torch.zeros(size, device=mean.device, dtype=torch.float64)
        count = 0
        for batch in batches():
            feature, linear, information = _measure(
                model,
                drawn[batch.rows].astype(np.float32),
                labels,
                weights,
                reference,
                found,
                batch.cropped(model.configuration.box),
            )
            feature = feature * scale
            information = information.unflatten(1, (-1, 6)).unflatten(3, (-1, 6))
            normal += torch.einsum("nka,nlb,nkilj->kailbj", feature, feature, information).reshape(size, size)
            right += torch.einsum("nka,nki->kai", feature, linear.unflatten(1, (-1, 6))).flatten()
            count += len(feature)
        unit = (spread.clamp_min(1e-9) * PRIOR_WIDTH)[:, None, :].expand(-1, 6, -1).flatten()  # of q's own numbers
        normal += torch.diag(unit.double() ** -2)
        step = torch.linalg.solve(normal, right)
        gain = float(right @ step - 0.5 * step @ normal @ step) / max(count, 1)
        change = step.float().view(-1, 6, 6).mT * scale[:, None]  # (K, i, a)
        found = Calibration(mean, found.matrix + change, found.gain + gain)
    return found


def _measure(
    model: TrainedModel,
    z: np.ndarray,
    labels: np.ndarray,
    weights: Tensor,
    reference: Tensor,
    found: Calibration,
    batch: ImageBatch,
) -> tuple[Tensor, Tensor, Tensor]:
    """Motions f (B, K, 6) at the latents ``z``, and what the images say of their changes: b (B, 6K), J (B, 6K, 6K)."""
    gaussians, box = model.gaussians, batch.images.shape[-1]
    deformed = model.deform(z)
    rotations, translations, centres, _ = fit_motions(reference, deformed.positions, weights)
    blank = rotations.new_zeros(())
    present = RigidMotions(rotations, translations, centres, blank, blank, blank)
    feature = motion_numbers(present) - found.mean
    change = torch.einsum("kab,nkb->nka", found.matrix, feature)
    turn = nuisances.rotation_matrix(change[..., :3].flatten(0, 1)).unflatten(0, change.shape[:2])
    middle = centres + translations  # (B, K, 3), of the parts in the particle
    label = torch.as_tensor(labels, device=reference.device)
    placed = deformed.positions.clone()
    for part in range(len(centres)):
        own = label == part
        about = deformed.positions[:, own] - middle[:, part, None]
        placed[:, own] = about @ turn[:, part].mT + (middle + change[..., 3:])[:, part, None]
    middle = middle + change[..., 3:]

    deep = nuisances.depths(placed, batch.rotations, box)
    whole: Tensor | float = 0.0
    slopes = []
    for part in range(len(centres)):
        own = label == part
        shown = [
            spectrum(
                project(
                    placed[:, own],
                    values,
                    gaussians.sigmas[own],
                    batch.rotations,
                    batch.shifts,
                    box,
                    backend=model.backend,
                    sigma_max=gaussians.scale_max,
                )
            )
            for values in (deformed.densities[:, own], (deformed.densities * deep)[:, own])
        ]
        whole = whole + shown[0]
        of_view = nuisances.pose_derivatives(shown[0], shown[1], batch.shifts)
        slopes.append(_of_motion(of_view, batch.rotations, middle[:, part], box))
    weight = batch.weights[:, shells(box, reference.device)] * half_plane_weight(box, reference.device)
    seen, image = whole * batch.ctf, spectrum(batch.images)
    scale = image_scale(seen, image, weight, SCALE_WIDTH)[:, None, None]
    root = weight.sqrt()
    left = torch.view_as_real((image - scale * seen) * root).flatten(1)
    by_motion = torch.cat(slopes, dim=1) * (scale * batch.ctf * root)[:, None]  # (B, 6K, D, D//2+1)
    flat = torch.view_as_real(by_motion).flatten(2)
    return feature, (flat @ left[..., None])[..., 0], flat @ flat.mT


def _of_motion(of_view: Tensor, rotations: Tensor, middle: Tensor, box: int) -> Tensor:
    """Derivatives by a part's turn about its own centre and its shift, in the molecule's frame and world units.

    ``of_view`` (B, 5, D, D//2+1): by the turn of its pose about the box's centre, in the image's frame, and by the two
    shifts in pixels. A motion r -> r + w x (r - c) + u is the turn A w, and the shift -(D/2) (A (u - w x c)) of the
    image's frame. Returns (B, 6, D, D//2+1).
    """
    x, y, z = middle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))  # c x w = -(w x c)
    across = -(box / 2) * rotations[:, :2]
    to_view = torch.cat(
        [
            torch.cat([rotations, torch.zeros_like(rotations)], dim=2),
            torch.cat([across @ cross, across], dim=2),
        ],
        dim=1,
    )  # (B, 5, 6)
    return torch.einsum("bva,bvyx->bayx", to_view.to(of_view.dtype), of_view)
