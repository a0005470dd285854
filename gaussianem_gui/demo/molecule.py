"""A molecule that never was: a core, an arm that swings at a hinge, and a lid that some particles lack.

Each part is a bundle of helices (C-alpha atoms alone), so that a map of it looks like protein.
"""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np

HELIX_RADIUS_ANGSTROM, RISE_ANGSTROM, TURN_DEGREES = 2.3, 1.5, 100.0
BUNDLE_SPACING_ANGSTROM = 10.0
CORE_RADIUS_ANGSTROM, ARM_RADIUS_ANGSTROM, LID_RADIUS_ANGSTROM = 31.0, 24.0, 16.0
SWING_DEGREES = 20.0  # to either side
LID = "C:1-999"  # as ``simulate --missing`` names it


def bundle(radius_angstrom: float, axis: np.ndarray, seed: int) -> np.ndarray:  # axis (3,) -> (A, 3)
    """C-alpha positions of parallel helices that fill a ball around the origin, in Angstrom."""
    generator = np.random.default_rng(seed)
    axis = np.asarray(axis / np.linalg.norm(axis), dtype=np.float64)
    side = np.cross(axis, np.array([0.3, 0.5, 0.8]))
    side = side / np.linalg.norm(side)
    frame = np.stack([side, np.cross(axis, side), axis])  # (3, 3) rows
    reach = int(radius_angstrom / BUNDLE_SPACING_ANGSTROM) + 1
    atoms = []
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            centre = BUNDLE_SPACING_ANGSTROM * np.array([i + j / 2, j * np.sqrt(3) / 2])
            height = max(radius_angstrom**2 - float(centre @ centre), 0.0) ** 0.5
            along = np.arange(-height, height, RISE_ANGSTROM)
            if len(along) < 8:
                continue
            angle = np.radians(TURN_DEGREES) * np.arange(len(along)) + generator.uniform(0, 2 * np.pi)
            helix = np.stack(
                [
                    centre[0] + HELIX_RADIUS_ANGSTROM * np.cos(angle),
                    centre[1] + HELIX_RADIUS_ANGSTROM * np.sin(angle),
                    along,
                ],
                axis=1,
            )
            atoms.append(helix @ frame)
    return np.concatenate(atoms)


def frames(count: int) -> tuple[np.ndarray, np.ndarray]:  # -> (F, A, 3) Angstrom, (A,) chain names
    """Positions along the swing from one end to the other, centred on the mean."""
    core = bundle(CORE_RADIUS_ANGSTROM, np.array([0.0, 0.2, 1.0]), 0)
    arm = bundle(ARM_RADIUS_ANGSTROM, np.array([1.0, 0.3, 0.2]), 1)
    lid = bundle(LID_RADIUS_ANGSTROM, np.array([0.2, 0.1, 1.0]), 2)
    hinge = np.array([CORE_RADIUS_ANGSTROM - 2.0, 0.0, 0.0])
    arm = arm + hinge + np.array([ARM_RADIUS_ANGSTROM, 0.0, 0.0])
    lid = lid + np.array([-0.5, -0.86, 0.0]) * (CORE_RADIUS_ANGSTROM + LID_RADIUS_ANGSTROM - 3.0)
    positions = []
    for angle in np.radians(np.linspace(-SWING_DEGREES, SWING_DEGREES, count)):
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
        positions.append(np.concatenate([core, (arm - hinge) @ turn.T + hinge, lid]))
    xyz = np.stack(positions)
    chains = np.repeat(["A", "B", "C"], [len(core), len(arm), len(lid)])
    return xyz - xyz.mean(axis=(0, 1)), chains


def write_molecule(path: Path, count: int = 25) -> int:
    """Write the swing as a multi-model mmCIF of ``count`` models; the number of atoms."""
    xyz, chains = frames(count)
    structure = gemmi.Structure()
    structure.name = "demo"
    for number, positions in enumerate(xyz, start=1):
        model = gemmi.Model(number)
        for name in ("A", "B", "C"):
            chain = gemmi.Chain(name)
            for index, position in enumerate(positions[chains == name], start=1):
                residue = gemmi.Residue()
                residue.name, residue.seqid = "ALA", gemmi.SeqId(index, " ")
                atom = gemmi.Atom()
                atom.name, atom.element = "CA", gemmi.Element("C")
                atom.pos = gemmi.Position(*map(float, position))
                residue.add_atom(atom)
                chain.add_residue(residue)
            model.add_chain(chain)
        structure.add_model(model)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return len(chains)
