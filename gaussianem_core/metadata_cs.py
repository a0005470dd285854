"""cryoSPARC datasets (.cs): structured arrays, passthrough files joined on uid, poses turned to RELION's angles.

A .cs file is a numpy .npy file of a structured array; pickled objects in it are refused. cryoSPARC's
``alignments3D/pose`` is the axis-angle vector of a rotation matrix R (r' = R r, right-handed); the rotation that
takes the volume into the image frame in RELION's sense is its transpose, and ``alignments3D/shift`` (pixels of
``alignments3D/psize_A``) has the sign of rlnOrigin (checked against pyem's and cryoDRGN's conversions).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError
from gaussianem_core.pose import angles_from_rotations

POSE_FIELDS = ("alignments3D/pose", "alignments3D/shift")
CTF_FIELDS = (
    "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast",
)  # fmt: skip
_CSDAT_MAGIC = b"\x94CSDAT"


def load_cs(path: str | os.PathLike[str], mmap: bool = False) -> npt.NDArray[np.void]:
    """Load a .cs file as a structured array (N,), memory-mapped if asked for.

    Raises
    ------
    InputError : not readable, not a structured array, pickled objects in it, or repeated uids.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise InputError(str(path), "must be a readable .cs file", error.strerror, "Check the path.") from None
    if magic == _CSDAT_MAGIC:
        raise InputError(
            str(path), "must be in cryoSPARC's numpy format", "its CSDAT stream format",
            "Save it again with cryosparc-tools: Dataset.load(file).save(file, format=1).",
        )
    try:
        data = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            str(path), "must be a cryoSPARC dataset (structured numpy array without objects)",
            str(error).partition("\n")[0],
            "Export the particles again; the file may be cut off.",
        ) from None
    if not isinstance(data, np.ndarray) or data.dtype.names is None or data.ndim != 1 or "uid" not in data.dtype.names:
        raise InputError(str(path), "must be a table with the field uid", "another array", "Give a particles .cs file.")
    if len(np.unique(data["uid"])) != len(data):
        raise InputError(str(path), "must name each uid once", "repeated uids", "Remove duplicate particles.")
    return data


def join_passthrough(
    particles: str | os.PathLike[str], passthrough: Sequence[str | os.PathLike[str]], wanted: Sequence[str]
) -> dict[str, npt.NDArray[np.generic]]:
    """Gather the wanted fields (and uid) from a particles file and, where it lacks them, its passthrough files.

    Returns
    -------
    Field name -> (N, ...) in the order of the particles file; fields that no file has are absent.

    Raises
    ------
    InputError : a passthrough file lacks particles.
    """
    data = load_cs(particles)
    fields = {name: data[name] for name in ("uid", *wanted) if name in (data.dtype.names or ())}
    for path in passthrough:
        extra = load_cs(path)
        new = [name for name in wanted if name not in fields and name in (extra.dtype.names or ())]
        if not new:
            continue
        order = np.argsort(extra["uid"])
        place = np.searchsorted(extra["uid"], data["uid"], sorter=order)
        place = order[np.minimum(place, len(order) - 1)]
        lacking = extra["uid"][place] != data["uid"]
        if lacking.any():
            raise InputError(
                f"passthrough {path}", f"must hold every particle of {particles} (joined on uid)",
                f"{int(lacking.sum())} of {len(data)} uids lacking", "Give the passthrough file of the same job.",
            )
        fields.update({name: extra[name][place] for name in new})
    return fields


def shortest_decimals(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:  # (N,) -> (N,)
    """Float32 constants as the decimals they were meant to be (2.95, not 2.9500000477)."""
    unique, inverse = np.unique(values, return_inverse=True)
    return np.array([float(str(value)) for value in unique])[inverse.reshape(-1)]


def field_text(values: npt.NDArray[np.generic]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Unique strings of a text field, in order of appearance, and each row's index into them (N,)."""
    unique, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    strings = [os.fsdecode(value) if isinstance(value, bytes) else str(value) for value in unique[order]]
    return strings, rank[inverse.reshape(-1)]


def pose_to_angles(pose: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:  # (N, 3) -> (N, 3)
    """cryoSPARC axis-angle vectors (radians) -> RELION's rot, tilt, psi in degrees."""
    rotations = Rotation.from_rotvec(np.asarray(pose, np.float64)).as_matrix().reshape(-1, 3, 3)
    return angles_from_rotations(rotations.swapaxes(-1, -2))
