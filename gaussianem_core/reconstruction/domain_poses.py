"""Poses of a domain, for focused or local refinement elsewhere; and images with everything else subtracted.

A domain that moves against the rest is seen in poses of its own: the particle's pose composed with the domain's rigid
motion from the reference, where the mask is, to the particle's own state (`rigid_motion`). Refined from there with the
domain's mask, RELION (focused refinement, multi-body: Nakane et al., eLife 7:e36861, 2018) and cryoSPARC (local
refinement) need search little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.analysis.rigid_domains import domain_mask
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.fourier import centred_irfftn, centred_rfftn
from gaussianem_core.imaging.projection import project
from gaussianem_core.io.corrected_particles import write_corrected_star
from gaussianem_core.io.mrc import write_map
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.reconstruction.part_calibration import ImageBatch, calibrate
from gaussianem_core.reconstruction.rigid_motion import RigidMotions, part_poses, part_weights, particle_motions
from gaussianem_core.reconstruction.states import Latents

MASK_REACH_ANGSTROM, MASK_EDGE_ANGSTROM = 8.0, 12.0
"""The mask is 1 within this reach of the domain's Gaussians, and falls to 0 over the edge."""


class DomainPoses(NamedTuple):
    """Poses of a domain in N particles.

    Attributes
    ----------
    rotations : (N, 3, 3) of the domain. shift_angstrom : (N, 2) its origins less the particle's.
    occupancy : (N,) 0 where the domain is absent, 1 where it is whole.
    centre_voxels : (3,) x, y, z of the domain's centre in the reference's box.
    misfit_angstrom : root mean square distance of its Gaussians from where the rigid motions take them.
    """

    rotations: np.ndarray
    shift_angstrom: np.ndarray
    occupancy: np.ndarray
    centre_voxels: np.ndarray
    misfit_angstrom: float


def inside_mask(model: TrainedModel, mask: np.ndarray, state: np.ndarray | None = None) -> np.ndarray:
    """Labels (M,): 0 for the Gaussians that lie inside a mask (D, D, D), where it is at least half; -1 for the others.

    ``state``: the latent (zdim,) at which they are looked up; None is the consensus. Raises InputError for fewer than
    three.
    """
    positions = _reference(model, state)[0].cpu().numpy()
    box = len(mask)
    voxel = np.rint(positions[:, ::-1] * (box / 2)).astype(int) + box // 2  # z, y, x
    inside = ((voxel >= 0) & (voxel < box)).all(axis=1)
    voxel = voxel.clip(0, box - 1)
    labels = np.where(inside & (mask[voxel[:, 0], voxel[:, 1], voxel[:, 2]] >= 0.5), 0, -1)
    if (labels == 0).sum() < 3:
        raise InputError("mask", "must hold three Gaussians or more", int((labels == 0).sum()), "Take a wider mask.")
    return labels


def domain_poses(
    model: TrainedModel, motions: RigidMotions, rotations: np.ndarray, domain: int, *, recentre: bool = False
) -> DomainPoses:
    """Each particle's pose of one domain.

    Parameters
    ----------
    motions : of the domains in these N particles (:func:`domain_motions`); ``domain``: which of them.
    rotations : (N, 3, 3) the particles' poses that their latents belong to (the corrected ones, where the training
        corrected them).
    recentre : the reference is moved, by whole voxels, so that the domain's centre comes to the box's (RELION's
        ``--recenter_on_mask``); the origins then put it into the image's centre.
    """
    configuration = model.configuration
    device, half = model.device, configuration.box / 2
    pose = torch.as_tensor(rotations, dtype=torch.float32, device=device)
    parts = part_poses(pose, torch.zeros(len(pose), 2, device=device), motions, configuration.box)
    turned, shift = (values[:, domain].cpu().double().numpy() for values in parts)
    whole = np.rint(motions.centres[domain].cpu().double().numpy() * half)
    if recentre:
        shift = shift - (turned @ whole)[:, :2]
    return DomainPoses(
        turned,
        shift * configuration.pixel_size_angstrom,
        motions.occupancy[:, domain].cpu().numpy(),
        whole + configuration.box // 2,
        float(motions.misfit[domain]) * half * configuration.pixel_size_angstrom,
    )


def domain_motions(
    model: TrainedModel,
    latents: Latents,
    labels: np.ndarray,
    batches: Callable[[], Iterable[ImageBatch]] | None = None,
    *,
    state: np.ndarray | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> RigidMotions:
    """Each particle's motions of the domains, put right by the images (see `part_calibration.calibrate`).

    Parameters
    ----------
    latents : of N particles.
    labels : (M,) domain of each Gaussian (`analysis.rigid_domains`, :func:`inside_mask`), from 0. To be put right,
        every Gaussian must be in one (where :func:`inside_mask` gives -1, the rest of the molecule may be one).
    batches : gives the images, anew at each call; with None the motions are the model's.
    state : (zdim,) the reference in which mask and map show the domains; None is the consensus.
    report : called with the number of particles done so far.

    Raises
    ------
    InputError : a domain of fewer than three Gaussians.
    """
    reference, densities = _reference(model, state)
    weights = part_weights(labels, model.gaussians.densities, model.gaussians.sigmas)
    motions = particle_motions(model, latents.mean, weights, reference, densities, report)
    if batches is None:
        return motions
    right = calibrate(model, latents.mean, latents.variance, labels, weights, reference, motions, batches)
    return right.apply(motions)


def _reference(model: TrainedModel, state: np.ndarray | None) -> tuple[Tensor, Tensor]:
    """Positions (M, 3) and densities (M,) of the Gaussians at a latent, or of the consensus."""
    if state is None:
        return model.gaussians.positions, model.gaussians.densities
    deformed = model.deform(np.asarray(state)[None])
    return deformed.positions[0], deformed.densities[0]


def write_domain_star(source: Path, target: Path, rows: np.ndarray | None, poses: DomainPoses) -> int:
    """Copy a particles file (STAR) with the domain's angles and origins in place of the particle's.

    ``source``: the file that holds the poses that went into :func:`domain_poses`; ``rows`` (N,): numbers of its rows
    that the poses belong to, None for all. All other columns stay as they are. Returns the number of rows written.
    Raises InputError for a file that cannot be read.
    """
    return write_corrected_star(source, target, rows, poses.rotations, poses.shift_angstrom, None)


def write_domain_mask(
    model: TrainedModel,
    labels: np.ndarray,
    domain: int,
    target: Path,
    box: int,
    *,
    state: np.ndarray | None = None,
    recentre: DomainPoses | None = None,
) -> np.ndarray:  # -> (box, box, box) float32
    """Write the domain's soft mask, in the reference's frame, to an MRC file; ``box`` voxels across the same length.

    ``recentre``: poses that were made with it; the mask is moved to the box's centre with them.
    """
    pixel = model.pixel_size(box)
    places = _reference(model, state)[0].cpu().double().numpy() * (box / 2) + box // 2
    if recentre is not None:
        own = model.configuration.box
        places = places - (recentre.centre_voxels - own // 2) * box / own
    mask = domain_mask(
        places,
        labels,
        domain,
        box,
        reach_voxels=MASK_REACH_ANGSTROM / pixel,
        edge_voxels=MASK_EDGE_ANGSTROM / pixel,
    )
    write_map(target, mask, pixel, model.origin(box))
    return mask


@torch.no_grad()
def subtract_rest(
    model: TrainedModel,
    keep: np.ndarray,
    batches: Iterable[tuple[Tensor, np.ndarray, Tensor, Tensor, Tensor, Tensor | None]],
) -> Iterator[Tensor]:  # yields (B, D, D)
    """Images from which all but one domain is subtracted, each at its particle's own state, with its CTF.

    Parameters
    ----------
    keep : (M,) bool or shares from 0 to 1: what of each Gaussian stays in the images.
    batches : of images (B, D, D), with white protein, of any box that spans the model's length; latents (B, zdim);
        rotations (B, 3, 3); shifts (B, 2) in pixels of these images; CTF parameters (B, 9) for this box, in whose sign
        protein is dark; contrast (B,) or None where it is 1.

    Yields
    ------
    The images, in the same order, with white protein.
    """
    gaussians = model.gaussians
    leave = 1 - torch.as_tensor(np.asarray(keep, np.float32), device=model.device)
    for images, z, rotations, shifts, parameters, contrast in batches:
        box = images.shape[-1]
        deformed = model.deform(z)
        rest = project(
            deformed.positions,
            deformed.densities * leave,
            gaussians.sigmas,
            rotations,
            # The same place in a finer box: Gaussians are in world units, and shifts in pixels.
            shifts,
            box,
            backend=model.backend,
            sigma_max=gaussians.scale_max,
        )
        # A projection sums along the beam in world units: its values do not depend on the box.
        spectrum = centred_rfftn(rest, 2) * -ctf(parameters, box)
        if contrast is not None:
            spectrum = spectrum * contrast[:, None, None]
        yield images - centred_irfftn(spectrum, 2, box)
