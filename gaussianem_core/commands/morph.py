"""Morph: an atomic model fitted to the consensus map follows the Gaussians along a trajectory.

Each atom moves as the Gaussians around it: the weighted rigid motion that carries the nearest Gaussians best (moving
least squares, Schaefer et al., SIGGRAPH 2006; Kabsch, Acta Cryst. A32, 1976). The weights fall smoothly to zero at
the last neighbour, so that the motion has no jumps. Then bond lengths and angles are brought back to the model's own
(position-based projection of 1-2 and 1-3 distances, Mueller et al., J. Vis. Commun. 18, 2007).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gemmi
import numpy as np
import torch
from scipy.spatial import cKDTree

from gaussianem_core.errors import InputError
from gaussianem_core.io.atomic_model import read_structure
from gaussianem_core.io.latents import read_latent_rows
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.model.trained_model import TrainedModel, check_latents, load_model_of
from gaussianem_core.options import MorphOptions
from gaussianem_core.runtime.device import choose_device
from gaussianem_core.runtime.files import replacing
from gaussianem_core.runtime.neighbours import neighbour_tree

ROTATION_NEIGHBOURS = 6
"""The local rotation is taken from this many times the Gaussians that carry an atom: it is noisier than the shift."""
NEAR_ANGSTROM = 15.0
"""An atom farther than this from every Gaussian is not part of the map."""
BOND_ANGSTROM, ANGLE_ANGSTROM = 2.1, 2.9
"""Atoms nearer than these in the model are taken as bonded, and as two bonds apart."""
RESTRAINT_STEPS = 50
ANGLE_WEIGHT = 0.3


def run(options: MorphOptions, log: JobLog) -> None:
    """Write the multi-model file and report how far the atoms move (Angstrom RMSD).

    Raises InputError for a model that lies outside the map, latents of another dimension, or a format that cannot hold
    the model.
    """
    device = choose_device(options.device, threads=options.threads)
    model = load_model_of(options, None, device, log)
    z = check_latents(read_latent_rows(resolve_input(options, "z")), model, "z")
    path = resolve_input(options, "model")
    structure = read_structure(path)
    name = f"morph.{options.format}"
    refuse_existing(log.directory, [name], options.overwrite)
    while len(structure) > 1:
        del structure[1]
    atoms = np.array([site.atom.pos.tolist() for site in structure[0].all()])
    centres = gaussian_positions(model, model.gaussians.positions)
    far = neighbour_tree(centres).query(atoms)[0] > NEAR_ANGSTROM
    if far.all():
        raise InputError(
            "model",
            "must be fitted to the consensus map",
            f"no atom is within {NEAR_ANGSTROM:g} A of it",
            "Fit it to the map (ChimeraX: fitmap) and save it in the map's frame.",
        )
    if far.any():
        log.message(f"{int(far.sum())} of {len(atoms)} atoms lie outside the map; they follow what is near.", "warning")
    densities = model.gaussians.densities.cpu().numpy().astype(np.float64)
    frames: list[np.ndarray] = []
    for _, deformed in model.chunks(z):
        for positions in deformed.positions:
            moved = follow(atoms, centres, gaussian_positions(model, positions), options.neighbours, densities)
            frames.append(restore_geometry(moved, atoms))
            log.progress("morph", len(frames), len(z), "models")
    write_models(structure, frames, log.directory / name, options.format)
    steps = [float(np.sqrt(np.square(b - a).sum(axis=1).mean())) for a, b in pairwise(frames)]
    ends = float(np.sqrt(np.square(frames[-1] - frames[0]).sum(axis=1).mean()))
    log.artifact("model", name, f"{len(z)} models along the trajectory", models=len(z), rmsd_of_ends_angstrom=ends)
    log.message(
        f"{len(atoms)} atoms, {len(z)} models; first to last {ends:.2f} A RMSD"
        + (f", largest step {max(steps):.2f} A" if steps else "")
    )


def gaussian_positions(model: TrainedModel, positions: torch.Tensor) -> np.ndarray:  # (N, 3) world -> (N, 3) A
    """World coordinates ([-1, 1] across the box) in Angstrom, in the frame of the maps that analyze writes."""
    box, pixel = model.configuration.box, model.configuration.pixel_size_angstrom
    world = positions.detach().cpu().numpy().astype(np.float64)
    return (box // 2 + world * box / 2) * pixel + np.array(model.origin(box))


def follow(
    atoms: np.ndarray, before: np.ndarray, after: np.ndarray, neighbours: int = 16, mass: np.ndarray | None = None
) -> np.ndarray:  # (A, 3), (N, 3), (N, 3) -> (A, 3)
    """Move atoms by the local rigid motion of the Gaussians ``before`` -> ``after``. All in Angstrom.

    The shift is the weighted mean of the ``neighbours`` nearest Gaussians; the rotation comes from a wider circle.
    ``mass`` (N,) says how much each Gaussian counts (its density): faint ones wander.
    """
    tree = neighbour_tree(before)
    mass = np.ones(len(before)) if mass is None else mass / mass.mean()
    wide = min(len(before), neighbours * ROTATION_NEIGHBOURS)
    turn = _local_rotations(atoms, before, after, tree, wide, mass)
    index, weight = _weights(atoms, tree, min(len(before), neighbours), mass)
    # the carriers' mean shift, each corrected for where it sits relative to the atom: p' = q' + R (p - q)
    arms = atoms[:, None] - before[index]
    carried = after[index] + np.einsum("aij,akj->aki", turn, arms)
    return np.einsum("ak,aki->ai", weight, carried)


def _weights(
    points: np.ndarray, tree: cKDTree, count: int, mass: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # (A, k), (A, k)
    """The nearest Gaussians of each point and weights that fall smoothly to 0 at the next one."""
    distance, index = tree.query(points, k=list(range(1, min(count + 1, tree.n) + 1)), workers=-1)
    reach = distance[:, -1:] if distance.shape[1] > count else distance[:, -1:] * 1.01
    weight = np.square(np.clip(1 - np.square(distance / np.maximum(reach, 1e-9)), 0, None))[:, :count]
    weight = weight * mass[index[:, :count]] + 1e-12  # never nothing, should all be at one distance
    return index[:, :count], weight / weight.sum(axis=1, keepdims=True)


def _local_rotations(
    points: np.ndarray, before: np.ndarray, after: np.ndarray, tree: cKDTree, count: int, mass: np.ndarray
) -> np.ndarray:  # -> (A, 3, 3)
    """Weighted Kabsch rotation of the Gaussians around each point; the identity where there are fewer than three."""
    if count < 3:
        return np.broadcast_to(np.eye(3), (len(points), 3, 3))
    rotations = np.empty((len(points), 3, 3))
    for part in np.array_split(np.arange(len(points)), max(1, len(points) * count // 2_000_000)):
        index, weight = _weights(points[part], tree, count, mass)
        p, q = before[index], after[index]
        p = p - np.einsum("ak,aki->ai", weight, p)[:, None]
        q = q - np.einsum("ak,aki->ai", weight, q)[:, None]
        u, _, vt = np.linalg.svd(np.einsum("ak,aki,akj->aij", weight, q, p))
        flip = np.linalg.det(u @ vt)
        u[:, :, 2] *= flip[:, None]
        rotations[part] = u @ vt
    return rotations


def restore_geometry(moved: np.ndarray, model: np.ndarray) -> np.ndarray:  # (A, 3), (A, 3) -> (A, 3)
    """Bring 1-2 and 1-3 distances of ``moved`` back to those of ``model``, in Angstrom; nothing else is restrained.

    Jacobi iterations of position-based dynamics (Mueller et al., J. Vis. Commun. 18, 2007).
    """
    pairs = neighbour_tree(model).query_pairs(ANGLE_ANGSTROM, output_type="ndarray")
    if not len(pairs):
        return moved
    first, second = pairs.T
    rest = np.linalg.norm(model[first] - model[second], axis=1)
    stiffness = np.where(rest < BOND_ANGSTROM, 1.0, ANGLE_WEIGHT)
    share = np.bincount(np.concatenate([first, second]), np.concatenate([stiffness] * 2), len(model))
    share = np.maximum(share, 1e-12)[:, None]
    positions = moved.copy()
    for _ in range(RESTRAINT_STEPS):
        arm = positions[second] - positions[first]
        length = np.linalg.norm(arm, axis=1)
        push = (0.5 * stiffness * (length - rest) / np.maximum(length, 1e-9))[:, None] * arm
        change = np.zeros_like(positions)
        np.add.at(change, first, push)
        np.add.at(change, second, -push)
        # averaged over an atom's restraints, over-relaxed as is usual for such Jacobi steps
        positions += 1.5 * change / share
    return positions


def write_models(structure: gemmi.Structure, frames: list[np.ndarray], path: Path, kind: str) -> None:
    """Write the structure with a model for each frame (A, 3; Angstrom), as mmCIF or PDB, atomically.

    Raises InputError where PDB cannot hold the atoms or chain names.
    """
    result = structure.clone()
    template = result[0].clone()
    del result[0]
    for number, frame in enumerate(frames, start=1):
        one = template.clone()
        one.num = number
        for site, (x, y, z) in zip(one.all(), frame):
            site.atom.pos = gemmi.Position(x, y, z)
            site.atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        result.add_model(one)
    if kind == "pdb" and (len(frames[0]) > 99_999 or max(len(chain.name) for chain in template) > 2):
        raise InputError(
            "option format",
            "must be cif for models of more than 99,999 atoms or long chain names",
            "pdb",
            "Give --format cif.",
        )
    with replacing(path) as temporary:
        if kind == "pdb":
            result.write_pdb(str(temporary))
        else:
            result.make_mmcif_document().write_file(str(temporary))
