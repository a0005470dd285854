"""The demo's molecule: the spliceosome before its catalysis (PDB 5NRL, CC0) with a head and an arm that turn.

``resources/demo/spliceosome.npz`` holds every 36th atom of the entry, which stands for 36: ``xyz`` (A, 3) in Angstrom
about the mean, ``weight`` (A,), masks ``head`` and ``arm`` (A,), and for each ``..._axis`` (3,) and ``..._hinge`` (3,),
the line about which it turns. ``tests/benchmarks/molecules.py`` makes it from the entry. Structure: Plaschka, Lin,
Nagai, Nature 546, 2017.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

PARTS = ("head", "arm")
SWING_DEGREES = 15.0  # to either side
FRAMES = 25


def molecule() -> dict[str, np.ndarray]:
    """The arrays of ``spliceosome.npz`` by name, as the module says: points at rest (A, 3) in Angstrom, weights, parts,
    and their axes and hinges."""
    file = resources.files("gaussianem_resources") / "demo" / "spliceosome.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
        return dict(content)


def motion(frames: int = FRAMES) -> dict[str, np.ndarray]:
    """What ``simulate --model`` reads: ``xyz`` (F, A, 3) in Angstrom from one end of the swing to the other, ``weight``
    (A,), each part as a mask (A,), and its angle by frame in degrees (F,) (``head_degrees``, ``arm_degrees``)."""
    still = molecule()
    xyz = np.repeat(still["xyz"][None].astype(np.float64), frames, axis=0)
    degrees = np.linspace(-SWING_DEGREES, SWING_DEGREES, frames)
    content = {"weight": still["weight"]}
    for name in PARTS:
        part, axis, hinge = (still[key] for key in (name, f"{name}_axis", f"{name}_hinge"))
        turns = Rotation.from_rotvec(np.radians(degrees)[:, None] * axis / np.linalg.norm(axis))
        for frame, turn in zip(xyz, turns):
            frame[part] = hinge + turn.apply(frame[part] - hinge)
        content |= {name: part, f"{name}_degrees": degrees.astype(np.float32)}
    return content | {"xyz": xyz.astype(np.float32)}


def write_molecule(path: Path) -> int:
    """Write the motion to ``path`` (.npz) and return the number of points A."""
    content = motion()
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
    return len(content["weight"])
