"""cryoSPARC datasets (.cs): structured arrays, passthrough files joined on uid, poses turned to RELION's angles.

A .cs file is a numpy .npy file of a structured array; pickled objects in it are refused. cryoSPARC's
``alignments3D/pose`` is the axis-angle vector of a rotation matrix R (r' = R r, right-handed); the rotation that
takes the volume into the image frame in RELION's sense is its transpose, and ``alignments3D/shift`` (pixels of
``alignments3D/psize_A``) has the sign of rlnOrigin (checked against pyem's and cryoDRGN's conversions).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import Aberrations
from gaussianem_core.imaging.pose import angles_from_rotations
from gaussianem_core.io.aberration_columns import CRYOSPARC_FIELDS, cryosparc_aberrations
from gaussianem_core.io.columns import check_cs_fields
from gaussianem_core.ranges import refuse_outside, refuse_rows
from gaussianem_core.runtime.readers import NUMBERS, open_file, read_npy

Numbers = npt.NDArray[np.float64]
Texts = tuple[list[str], npt.NDArray[np.int32]]

POSE_FIELDS = ("alignments3D/pose", "alignments3D/shift")
CTF_FIELDS = (
    "ctf/df1_A",
    "ctf/df2_A",
    "ctf/df_angle_rad",
    "ctf/accel_kv",
    "ctf/cs_mm",
    "ctf/amp_contrast",
)
_PASSED_ON = {
    "ctf/df1_A": "defocus_u_angstrom",
    "ctf/df2_A": "defocus_v_angstrom",
    "ctf/accel_kv": "voltage_kv",
    "ctf/cs_mm": "cs_mm",
    "ctf/amp_contrast": "amplitude_contrast",
    "ctf/exp_group_id": "optics_group",
    "blob/psize_A": "pixel_size_angstrom",
}
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "uid": ("ui", ()),
    "blob/path": ("SU", ()),
    "blob/idx": ("ui", ()),
    "blob/shape": ("ui", (2,)),
    "blob/sign": ("iuf", ()),
    "alignments3D/pose": ("f", (3,)),
    "alignments3D/shift": ("f", (2,)),
    "alignments3D/psize_A": ("f", ()),
    "alignments3D/split": ("iu", ()),
    "ctf/df_angle_rad": ("f", ()),
    "ctf/phase_shift_rad": ("f", ()),
    "location/micrograph_path": ("SU", ()),
    **dict.fromkeys(_PASSED_ON, ("iuf", ())),
    **{name: ("iuf", (4,) if name in ("ctf/tetra_A", "ctf/anisomag") else (2,)) for name in CRYOSPARC_FIELDS},
    "ctf/bfactor": ("iuf", ()),
    "ctf/scale": ("iuf", ()),
}
"""Fields that are read: kinds of their dtype, and the shape of one row's value."""
_GIVEN_OPTIONS = {
    "ctf/accel_kv": "--voltage",
    "ctf/cs_mm": "--cs",
    "ctf/amp_contrast": "--amplitude_contrast",
}
_NOTHING: Mapping[str, float] = {}
_CSDAT_MAGIC = b"\x94CSDAT"


def load_cs(path: str | os.PathLike[str], mmap: bool = False) -> npt.NDArray[np.void]:
    """Load a .cs file as a structured array (N,), memory-mapped if asked for.

    Raises
    ------
    InputError : not readable, not a structured array, pickled objects in it, or repeated uids.
    """
    path = Path(path)
    remedy = "Export the particles again; the file may be cut off."
    with open_file(path, str(path), "a cryoSPARC dataset", "Check the path.") as file:
        magic = file.read(6)
    if magic == _CSDAT_MAGIC:
        raise InputError(
            str(path),
            "must be in cryoSPARC's numpy format",
            "its CSDAT stream format",
            "Save it again with cryosparc-tools: Dataset.load(file).save(file, format=1).",
        )
    data = read_npy(path, str(path), remedy, "V" + NUMBERS, mapped=mmap)
    if data.dtype.names is None or data.ndim != 1 or "uid" not in data.dtype.names or not len(data):
        raise InputError(str(path), "must be a table with the field uid", "another array", "Give a particles .cs file.")
    for name, (kinds, shape) in _FIELDS.items():
        if name in data.dtype.names and (data[name].dtype.kind not in kinds or data[name].shape[1:] != shape):
            rule = f"must hold {'text' if kinds == 'SU' else 'numbers'}" + (f", {shape[0]} a row" if shape else "")
            raise InputError(f"{path}, field {name}", rule, data.dtype[name], remedy)
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
                f"passthrough {path}",
                f"must hold every particle of {particles} (joined on uid)",
                f"{int(lacking.sum())} of {len(data)} uids lacking",
                "Give the passthrough file of the same job.",
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
    rotations = scipy.spatial.transform.Rotation.from_rotvec(np.asarray(pose, np.float64)).as_matrix().reshape(-1, 3, 3)
    return angles_from_rotations(rotations.swapaxes(-1, -2))


def _source_of(
    missing: Sequence[str], path: str | os.PathLike[str], passthrough: Sequence[str | os.PathLike[str]]
) -> str:
    """Where missing fields come from."""
    if all(name in _GIVEN_OPTIONS for name in missing):
        return f"Give {' and '.join(_GIVEN_OPTIONS[name] for name in missing)}."
    if any(name in POSE_FIELDS for name in missing) and "alignments2D/pose" in (load_cs(path, True).dtype.names or ()):
        return "These particles were aligned in 2D alone: refine them in 3D, and give what that writes."
    if not passthrough:
        return "They may be in the same job's passthrough file: give it with --passthrough."
    return "Neither file has them: export the particles of a 3D refinement with its passthrough file."


def read_cryosparc(
    path: str | os.PathLike[str],
    passthrough: Sequence[str | os.PathLike[str]],
    require_pose: bool,
    require_ctf: bool,
    given: Mapping[str, float] = _NOTHING,
) -> tuple[dict[str, Numbers], Texts, Texts | None, Aberrations, tuple[str, ...], npt.NDArray[np.uint64]]:
    """Read a particles file and its passthrough files; ``given`` holds columns that they may lack.

    Returns
    -------
    columns : name of a ``ParticleTable`` column -> (N,) or (N, k); absent where no file has such a thing.
    stacks, micrographs : unique names and each row's index (N,) into them; micrographs None without.
    aberrations : of the N particles. notes : sentences for the user.
    uid : (N,)

    Raises
    ------
    InputError : fields missing (all named), poses that are not finite, images that are not square, fields that would
        change the images and are not supported.
    """
    blob = ("blob/path", "blob/idx")
    optional = ("blob/shape", "blob/sign", "alignments3D/psize_A", "alignments3D/split", "ctf/phase_shift_rad")
    aberrations = (*CRYOSPARC_FIELDS, "ctf/bfactor", "ctf/scale")
    wanted = (*blob, *optional, *POSE_FIELDS, *CTF_FIELDS, *_PASSED_ON, *aberrations, "location/micrograph_path")
    fields = join_passthrough(path, passthrough, tuple(dict.fromkeys(wanted)))
    needed = (*blob, *(POSE_FIELDS if require_pose else ()), *(CTF_FIELDS if require_ctf else ()))
    missing = [name for name in needed if name not in fields and _PASSED_ON.get(name) not in given]
    if missing:
        raise InputError(
            str(path),
            "must have the fields of images, poses and CTF",
            f"no {', '.join(missing)}",
            _source_of(missing, path, passthrough),
        )
    n = len(fields["uid"])
    columns = {ours: fields[theirs].astype(np.float64) for theirs, ours in _PASSED_ON.items() if theirs in fields}
    for name in ("blob/psize_A", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast"):
        if name in fields:
            columns[_PASSED_ON[name]] = shortest_decimals(fields[name])
    columns["image_index"] = fields["blob/idx"].astype(np.float64)
    for name, ours in (("ctf/df_angle_rad", "defocus_angle_deg"), ("ctf/phase_shift_rad", "phase_shift_deg")):
        if name in fields:
            columns[ours] = np.degrees(fields[name].astype(np.float64))
    if "blob/shape" in fields:
        shape = fields["blob/shape"].astype(np.float64).reshape(n, -1)
        refuse_rows(shape[:, 0] != shape[:, -1], path, "blob/shape", "must be square", shape[:, 0], "Extract again.")
        columns["box_size"] = shape[:, 0]
    if "blob/sign" in fields:
        columns["data_sign"] = np.sign(fields["blob/sign"].astype(np.float64))
    if "alignments3D/split" in fields:
        columns["random_subset"] = fields["alignments3D/split"].astype(np.float64) + 1
    if all(name in fields for name in POSE_FIELDS):
        pose = fields["alignments3D/pose"].astype(np.float64)
        refuse_outside("rotation vector", pose, path, "alignments3D/pose")
        columns["angles_deg"] = pose_to_angles(pose)
        shift = fields["alignments3D/shift"].astype(np.float64)
        if "alignments3D/psize_A" in fields:
            columns["shifts_angstrom"] = shift * fields["alignments3D/psize_A"].astype(np.float64)[:, None]
        else:
            columns["shifts_pixels"] = shift
    micrographs = fields.get("location/micrograph_path")
    texts = None if micrographs is None else field_text(micrographs)
    if "voltage_kv" in given:
        fields.setdefault("ctf/accel_kv", np.full(n, given["voltage_kv"]))
    found, notes = cryosparc_aberrations(path, fields, n)
    for file in (path, *passthrough):
        notes += check_cs_fields(file, load_cs(file, mmap=True))
    return columns, field_text(fields["blob/path"]), texts, found, notes, fields["uid"].astype(np.uint64)
