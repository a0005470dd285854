"""Point groups in RELION's orientation, and the poses of an image's symmetry mates. Plain NumPy.

Axes as RELION has them (its ``--sym``): C and D turn about z, D's twofold axis is x; T has its threefold axis along z;
O its fourfold one; I is I2, with twofold axes along x, y and z and the fivefold one in the xz plane.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import scipy

from gaussianem_core.errors import InputError

_GOLDEN = (1 + 5**0.5) / 2
# fold, axis
_POLYHEDRAL: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0, 0, 1)), (2, (0, 2**0.5, 1))),
    "O": ((3, (1, 1, 1)), (4, (0, 0, 1))),
    "I1": ((2, (1, 0, 0)), (5, (_GOLDEN, 0, -1))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN))),
    "I3": ((2, (-1, 0, _GOLDEN)), (5, (0, 0, 1))),
    "I4": ((2, (1, 0, _GOLDEN)), (5, (2, 0, 1))),
}
MOST = 999  # operators of a group: more are a typing mistake, not a molecule


def symmetry_operators(name: str) -> npt.NDArray[np.float64]:  # -> (n, 3, 3)
    """Rotations of a point group such as C4, D2, T, O or I, the identity first: density(S r) = density(r).

    Raises InputError for another name.
    """
    word = name.strip().upper()
    word = {"I": "I2"}.get(word, word)
    cyclic = re.fullmatch(r"([CD])([1-9]\d*)", word)
    if cyclic and int(cyclic[2]) * (2 if cyclic[1] == "D" else 1) <= MOST:
        fold = int(cyclic[2])
        generators = [(fold, (0.0, 0.0, 1.0))] if fold > 1 else []
        generators += [(2, (1.0, 0.0, 0.0))] if cyclic[1] == "D" else []
    elif word in _POLYHEDRAL:
        generators = list(_POLYHEDRAL[word])
    else:
        raise InputError(
            "--symmetry", "must be a point group of rotations", name, "Give C1, C2, ..., D2, ..., T, O, I (I1 to I4)."
        )
    turns = [
        scipy.spatial.transform.Rotation.from_rotvec(
            2 * np.pi / fold * np.asarray(axis) / np.linalg.norm(axis)
        ).as_matrix()
        for fold, axis in generators
    ]
    found = [np.eye(3)]
    for known in found:  # grows until products bring nothing new
        for turn in turns:
            product = turn @ known
            if all(np.abs(product - other).max() > 1e-6 for other in found):
                found.append(product)
    return np.array(found)


def symmetry_mates(
    rotations: npt.NDArray[np.floating], operators: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:  # (N, 3, 3), (n, 3, 3) -> (N, n, 3, 3)
    """Rotations r_image = A S r_volume that see the same image as A, S running through the group."""
    return np.einsum("aij,sjk->asik", np.asarray(rotations, np.float64), operators)
