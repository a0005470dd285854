"""Atomic models read with gemmi, and their trace to lay over a map. No torch."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import open_file, refusing, unpacked

TRACE = {"CA": 4.5, "P": 8.5}
"""Atoms that stand for residues, and how far (A) the next one of an unbroken chain lies at most."""
BOND_ANGSTROM = 2.1
FARTHEST_ANGSTROM = 1e6
_ASCII = bytes(range(128)) + b"?" * 128
"""Both formats are ASCII: another byte in an atom's name would fail later, when the name is looked at."""
_FORMATS = {
    ".pdb": gemmi.CoorFormat.Pdb,
    ".ent": gemmi.CoorFormat.Pdb,
    ".cif": gemmi.CoorFormat.Mmcif,
    ".mmcif": gemmi.CoorFormat.Mmcif,
}


def read_structure(path: Path | str) -> gemmi.Structure:
    """Read .pdb or .cif with gemmi, packed (.gz) or not. Raises InputError if it cannot be read or holds no atoms."""
    what, remedy = "a readable PDB or mmCIF file", "Give a coordinate file."
    with open_file(path, "model", what, remedy) as file, refusing(path, "model", what, remedy):
        data, ending = file.read(), Path(path).suffix.lower()
        if ending == ".gz":
            data, ending = unpacked(data), Path(Path(path).stem).suffix.lower()
        structure = gemmi.read_structure_string(
            data.translate(_ASCII), format=_FORMATS.get(ending, gemmi.CoorFormat.Detect)
        )
        structure.setup_entities()
        places = np.asarray(gemmi.FlatStructure(structure).pos)
    if not len(structure) or not any(True for _ in structure[0].all()):
        raise InputError("model", "must hold atoms", path, remedy)
    if not (np.abs(places) < FARTHEST_ANGSTROM).all():  # NaN neither
        rule = f"must hold coordinates of all atoms, within {FARTHEST_ANGSTROM:,.0f} A"
        raise InputError("model", rule, path, "Remove the atoms without.")
    return structure


def read_backbone(path: Path | str) -> np.ndarray:  # -> (S, 2, 3)
    """Ends x, y, z (A) of line segments that show a model: C-alpha or phosphate traces of the first model's chains.

    Chains without either (ligands, sugars) are drawn atom to atom. Raises InputError if the file cannot be read or
    nothing in it can be drawn.
    """
    found: list[np.ndarray] = []
    for chain in read_structure(path)[0]:
        pieces = [_linked(_places(chain, name), most) for name, most in TRACE.items()]
        if not any(len(piece) for piece in pieces):
            pieces = [_linked(_places(chain, ""), BOND_ANGSTROM)]
        found += pieces
    segments = np.concatenate(found) if found else np.zeros((0, 2, 3))
    if not len(segments):
        raise InputError("model", "must hold a chain of atoms", path, "Give a model with C-alpha or phosphorus atoms.")
    return segments


def _places(chain: gemmi.Chain, name: str) -> np.ndarray:  # -> (A, 3)
    atoms = [a.pos.tolist() for residue in chain for a in residue if not name or a.name == name]
    return np.array(atoms, np.float64).reshape(-1, 3)


def _linked(places: np.ndarray, most: float) -> np.ndarray:  # (A, 3) -> (S, 2, 3)
    pairs = np.stack([places[:-1], places[1:]], axis=1)
    return pairs[np.linalg.norm(pairs[:, 1] - pairs[:, 0], axis=1) <= most]


def place_in_box(
    segments: np.ndarray, box: int, pixel_size_angstrom: float, origin_angstrom: tuple[float, float, float]
) -> np.ndarray:  # (S, 2, 3) -> (S, 2, 3)
    """Coordinates (A) relative to the centre (voxel D//2) of a map's box.

    A model fitted to the map has the map's coordinates; one that was built around zero is taken to be centred in the
    box. The reading that puts more of the model inside the box is taken.
    """
    centre = np.asarray(origin_angstrom) + box // 2 * pixel_size_angstrom
    half = box * pixel_size_angstrom / 2
    fitted, centred = segments - centre, segments
    inside = [np.all(np.abs(placed) <= half, axis=-1).mean() for placed in (fitted, centred)]
    return np.asarray(fitted if inside[0] >= inside[1] else centred)
