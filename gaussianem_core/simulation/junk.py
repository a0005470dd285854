"""Junk images of a simulation, which the particles file lists as particles: noise, fragments, another molecule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.options import Projector, SimulateOptions
from gaussianem_core.runtime.streams import stream
from gaussianem_core.simulation.ground_truth import Truth, frame_densities, point_positions
from gaussianem_core.simulation.population import check_reach, point_densities, point_sigmas
from gaussianem_core.simulation.rendering import project_points
from gaussianem_core.simulation.trajectory import Trajectory

NOISE, FRAGMENT, OTHER = 1, 2, 3
KINDS = {"noise": NOISE, "fragment": FRAGMENT, "other": OTHER}
FRAGMENT_SHARE = (0.3, 0.8)
"""Smallest and largest share of the points that a fragment keeps."""


@dataclass(frozen=True)
class Junk:
    """Which of N images are junk, and what they show.

    Attributes
    ----------
    kind : (N,) 0 where the image holds a particle, else a number of `KINDS`.
    rotations : (N, 3, 3) of the other molecule; the particles file has the particle's.
    normals : (N, 3), share : (N,) a fragment is the share of the points that lies farthest along the normal, in the
        particle's own pose.
    other : (G, B, 3) world units, other_densities : (B,), other_sigmas : (B,) the other molecule, or None.
    other_frame : (N,) its frame.
    """

    kind: np.ndarray
    rotations: np.ndarray
    normals: np.ndarray
    share: np.ndarray
    other: np.ndarray | None = None
    other_densities: np.ndarray | None = None
    other_sigmas: np.ndarray | None = None
    other_frame: np.ndarray | None = None


def draw_junk(options: SimulateOptions, trajectory: Trajectory, other: Trajectory | None) -> Junk | None:
    """Draw which images are junk and of which kind; None if none is asked for.

    Raises InputError for an unknown kind, or another molecule that is not given or does not fit the box.
    """
    if not options.junk:
        return None
    names = [name.strip() for name in options.junk_kinds.split(",") if name.strip()]
    if not names or set(names) - set(KINDS):
        raise InputError("option junk_kinds", f"must list some of {', '.join(KINDS)}", options.junk_kinds, "Mend it.")
    if "other" in names and other is None:
        raise InputError("option junk_model", "must be given with the kind other", "nothing", "Give --junk_model.")
    n, generator = options.particles, stream(options.seed, "junk")
    chosen = generator.random(n) < options.junk
    kind = np.where(chosen, generator.choice([KINDS[name] for name in names], n), 0).astype(np.int8)
    normals = generator.normal(size=(n, 3))
    junk = Junk(
        kind=kind,
        rotations=random_rotations(n, generator).astype(np.float32),
        normals=(normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        share=generator.uniform(*FRAGMENT_SHARE, n).astype(np.float32),
    )
    if "other" not in names or other is None:
        return junk
    xyz, mass = other.positions_angstrom, other.weights
    centre = np.average(xyz.mean(axis=0), axis=0, weights=mass)
    positions = (xyz - centre) * (2 / (options.box * options.apix))
    check_reach(positions, options)
    own, sigma = point_sigmas(trajectory, options), point_sigmas(other, options)
    return Junk(
        junk.kind,
        junk.rotations,
        junk.normals,
        junk.share,
        positions.astype(np.float32),
        point_densities(mass, sigma, trajectory.weights.mean(), own.mean()),
        sigma.astype(np.float32),
        generator.integers(0, len(xyz), n),
    )


def replace_junk(
    images: torch.Tensor,
    junk: Junk,
    truth: Truth,
    transfer: torch.Tensor,
    rows: torch.Tensor,
    factor: float,
    backend: Projector = "auto",
) -> torch.Tensor:  # (B, D, D), (N, 9), (B,) -> (B, D, D)
    """The clean images of ``rows`` with junk in place of particles; ``factor`` scales the other molecule's density.

    ``transfer``: CTF parameters of all images.
    """
    device, index = rows.device, rows.cpu().numpy()
    kind = torch.as_tensor(junk.kind[index], device=device)
    images = torch.where((kind > 0)[:, None, None], torch.zeros_like(images), images)
    for which, points in ((FRAGMENT, _fragments), (OTHER, _others)):
        places = torch.nonzero(kind == which).flatten()
        if len(places):
            chosen = index[places.cpu().numpy()]
            positions, densities, sigmas = points(junk, truth, chosen, factor, device)
            assert truth.shifts is not None and truth.rotations is not None
            rotations = truth.rotations if which == FRAGMENT else junk.rotations
            images[places] = project_points(
                positions,
                densities,
                sigmas,
                torch.as_tensor(rotations[chosen], device=device),
                torch.as_tensor(truth.shifts[chosen], device=device),
                transfer[torch.as_tensor(chosen, device=transfer.device)].to(device),
                truth.box,
                backend,
            )
    return images


def _fragments(
    junk: Junk, truth: Truth, rows: np.ndarray, factor: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Positions, densities with zeros for what broke off, and widths."""
    assert truth.sigmas is not None
    positions = point_positions(truth, rows, device)
    densities = frame_densities(truth, torch.ones(len(rows), dtype=torch.bool, device=device))
    along = (positions @ torch.as_tensor(junk.normals[rows], device=device)[:, :, None])[..., 0]
    rank = along.argsort(dim=1, descending=True).argsort(dim=1)
    keep = rank < (torch.as_tensor(junk.share[rows], device=device) * along.shape[1])[:, None]
    return positions, densities * keep, truth.sigmas


def _others(
    junk: Junk, truth: Truth, rows: np.ndarray, factor: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Positions, densities and widths of the other molecule."""
    assert junk.other is not None and junk.other_densities is not None and junk.other_frame is not None
    assert junk.other_sigmas is not None
    positions = torch.as_tensor(junk.other[junk.other_frame[rows]], device=device)
    densities = torch.as_tensor(junk.other_densities * factor, device=device).float()
    return positions, densities.expand(len(rows), -1), junk.other_sigmas
