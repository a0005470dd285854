"""Atoms (or Gaussians) in motion: frames of positions, read from PDB, mmCIF, NumPy or PLY files."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.atomic_model import read_structure
from gaussianem_core.model.configuration import load_configuration
from gaussianem_core.model.gaussians import load_gaussians
from gaussianem_core.runtime.readers import NUMBERS, read_npz

CURVE_ENDING = "_degrees"


@dataclass(frozen=True)
class Trajectory:
    """F frames of A points.

    Attributes
    ----------
    positions_angstrom : (F, A, 3) x, y, z; any origin.
    weights : (A,) mass of a point (electrons); only ratios count.
    sigmas_angstrom : (A,) sigma of a point, or None where the file has none.
    residues : (A,) residue numbers and chains : (A,) chain names, or None.
    masks : named boolean arrays (A,), parts of the molecule.
    curves : (F,) angle of a motion in each frame, in degrees, by the name of the part that moves; ``arm_degrees`` in
        a .npz is the curve of ``arm``.
    periodic : the last frame leads back to the first (a full turn).
    """

    positions_angstrom: np.ndarray
    weights: np.ndarray
    sigmas_angstrom: np.ndarray | None = None
    residues: np.ndarray | None = None
    chains: np.ndarray | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    periodic: bool = False


def read_trajectory(path: Path | str) -> Trajectory:
    """Read a multi-model .pdb/.cif (gemmi), a .npz with ``xyz`` and ``weight``, or a Gaussian .ply.

    An .npz holds xyz (F, A, 3) in Angstrom and weight (A,); it may hold resid (A,), sigma (A,) in Angstrom, boolean
    arrays (A,) that name parts, ``PART_degrees`` (F,), the angle of a part in each frame, and ``periodic``. A .ply
    takes its pixel size and widths from a cfg.json beside it.

    Raises InputError for another kind of file, frames with different atoms, or values that are not finite.
    """
    path = Path(path)
    readers = {
        ".npz": _read_npz,
        ".ply": _read_ply,
        ".pdb": _read_model,
        ".cif": _read_model,
        ".ent": _read_model,
        ".mmcif": _read_model,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError("model", "must end in .pdb, .cif, .npz or .ply", path.name, "Give a file of one of these.")
    trajectory = reader(path)
    xyz, weights = trajectory.positions_angstrom, trajectory.weights
    if xyz.ndim != 3 or xyz.shape[2] != 3 or not xyz.shape[0] or weights.shape != xyz.shape[1:2] or not weights.size:
        raise InputError(
            "model",
            "must hold frames (F, A, 3) and weights (A,)",
            (xyz.shape, weights.shape),
            "Check the arrays of the file.",
        )
    if not (np.isfinite(xyz).all() and np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
        raise InputError("model", "must hold finite positions and weights, none negative", path, "Repair the file.")
    return trajectory


def _read_npz(path: Path) -> Trajectory:
    remedy = "Give xyz (frames, atoms, 3) in Angstrom and weight (atoms)."
    arrays = read_npz(path, "model", remedy)
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in NUMBERS}
    if not {"xyz", "weight"} <= numbers.keys():
        raise InputError("model", "must be an .npz with xyz and weight", path, remedy)
    xyz, weight = (numbers[name].astype(np.float64) for name in ("xyz", "weight"))
    sigma, residues = numbers.get("sigma"), numbers.get("resid")
    if sigma is not None and (
        (sigma.ndim and sigma.shape != weight.shape) or not (np.isfinite(sigma) & (sigma > 0)).all()
    ):
        raise InputError("model", "must hold sigma as positive widths, one an atom", path, "Repair or remove it.")
    if residues is not None and residues.shape != weight.shape:
        raise InputError("model", "must hold resid for each atom", path, "Repair or remove it.")
    masks = {name: array for name, array in arrays.items() if array.dtype == bool and array.shape == weight.shape}
    curves = {
        name.removesuffix(CURVE_ENDING): np.asarray(array, np.float64)
        for name, array in numbers.items()
        if name.endswith(CURVE_ENDING) and array.shape == xyz.shape[:1]
    }
    return Trajectory(
        xyz,
        weight,
        None if sigma is None else np.broadcast_to(np.asarray(sigma, np.float64), weight.shape),
        residues,
        None,
        masks,
        curves,
        bool(np.any(arrays.get("periodic", False))),
    )


def _read_ply(path: Path) -> Trajectory:
    cfg = path.with_name("cfg.json")
    if not cfg.exists():
        raise InputError(
            "model",
            "must have a cfg.json beside it (pixel size and widths of the Gaussians)",
            path,
            "Copy the cfg.json of the same model there.",
        )
    configuration = load_configuration(cfg)
    gaussians = load_gaussians(path, configuration.scale_min, configuration.scale_max)
    angstrom = configuration.box * configuration.pixel_size_angstrom / 2  # of one world unit
    sigma = gaussians.sigmas.double().numpy() * angstrom
    weight = gaussians.densities.double().numpy() * sigma**3
    return Trajectory(gaussians.positions.double().numpy()[None] * angstrom, weight / weight.mean(), sigma)


def _read_model(path: Path) -> Trajectory:
    structure = read_structure(path)
    structure.remove_alternative_conformations()
    structure.remove_waters()
    frames, labels = [], []
    for model in structure:
        atoms = list(model.all())
        frames.append([atom.atom.pos.tolist() for atom in atoms])
        labels.append([(a.chain.name, a.residue.seqid.num, a.residue.name, a.atom.name) for a in atoms])
    for number, label in enumerate(labels[1:], start=2):
        if label != labels[0]:
            raise InputError(
                "model",
                "must have the same atoms in every model",
                f"model {number} differs from the first",
                "Keep the common atoms only.",
            )
    atoms = list(structure[0].all())
    weight = np.array([atom.atom.element.atomic_number * atom.atom.occ for atom in atoms], np.float64)
    residues = np.array([label[1] for label in labels[0]])
    return Trajectory(np.array(frames), weight, None, residues, np.array([label[0] for label in labels[0]]))


def select_part(trajectory: Trajectory, text: str, option: str = "missing") -> np.ndarray:  # -> (A,) bool
    """The points that ``text`` names: a mask of the file, or residues as ``122-159,170`` or ``B:10-20``.

    Raises InputError naming the masks there are, if the text is neither, or selects nothing.
    """
    if text in trajectory.masks:
        chosen = trajectory.masks[text].copy()
    else:
        chosen = np.zeros(len(trajectory.weights), bool)
        for word in text.split(","):
            match = re.fullmatch(r"\s*(?:(\w+):)?(-?\d{1,9})(?:-(-?\d{1,9}))?\s*", word)
            if match is None or trajectory.residues is None or (match[1] and trajectory.chains is None):
                known = ", ".join(sorted(trajectory.masks)) or "none"
                raise InputError(
                    option,
                    f"must be residues as 122-159, or a mask of the file ({known})",
                    text,
                    "Name a part that the model has.",
                )
            first, last = int(match[2]), int(match[3] or match[2])
            part = (trajectory.residues >= first) & (trajectory.residues <= last)
            if match[1] and trajectory.chains is not None:
                part &= trajectory.chains == match[1]
            chosen |= part
    if not chosen.any() or chosen.all():
        raise InputError(
            option,
            "must name a part of the model, neither nothing nor all of it",
            text,
            f"It selects {chosen.sum()} of {chosen.size} atoms.",
        )
    return chosen


def sigma_of_resolution(resolution_angstrom: float) -> float:
    """Sigma (A) of an atom at a resolution d (A): its transform falls to 1/e at 1/d, sigma = d / (pi sqrt 2)."""
    return resolution_angstrom / (math.pi * math.sqrt(2))
