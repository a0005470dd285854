"""Latents estimated by other programs, and the particles that they belong to.

============================  ============================================================================
cryoDRGN ``z.N.pkl``          two pickles, one behind the other: means (N, zdim), log-variances (N, zdim)
RECOVAR ``latent_coords.npy`` an array (N, zdim) for each zdim, in ``model/zdim_N/``; beside it
                              ``latent_precision.npy``, the inverse covariance (N, zdim, zdim) of each latent
RECOVAR ``embeddings.pkl``    what it wrote before: dictionaries ``latent_coords`` and ``latent_precision`` of such
                              arrays by zdim; ``columns`` names the zdim where there are several
cryoSPARC ``.cs``             3D Variability and 3D Flex: a field ``components_mode_K/value`` a dimension, with uid
any table                     .npy, .csv, .txt or .star: a column a dimension; with a column ``uid``, or in a STAR file
                              rlnImageName, rows are joined on it
============================  ============================================================================

(cryoDRGN 4.3's ``commands/train_vae.py``, RECOVAR 1's ``output/output.py``, cryosparc-tools 5's ``spec.py``.)
Pickles are read as data: nothing that they name is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.latents import read_pickled_arrays, read_pickled_groups
from gaussianem_core.io.particle_table import column_names, read_particle_column
from gaussianem_core.io.row_numbers import read_row_numbers
from gaussianem_core.runtime.readers import is_file, read_npy, read_text

_REMEDY = "Give a z.N.pkl of cryoDRGN, latent_coords.npy of RECOVAR, a .cs of 3D Variability, or a table."
_MODE = re.compile(r"components_mode_([0-9]{1,6})/value")
_NUMBERED = re.compile(r"(?i)(?:gaussianemLatent|.*latent.*?|.*component.*?|z|pc)_?([0-9]{1,6})")


@dataclass(frozen=True)
class OtherLatents:
    """Latents of N particles by another program.

    Attributes
    ----------
    program : its name, as far as the file tells. z : (N, zdim) in that program's units.
    log_variance : (N, zdim), or None. keys : (N,) uid or image name of each row's particle, or None.
    """

    program: str
    z: np.ndarray
    log_variance: np.ndarray | None = None
    keys: np.ndarray | None = None


def read_other_latents(path: Path, columns: Sequence[str] = ()) -> OtherLatents:
    """Latents of another program. ``columns`` names those of a table that are latent dimensions.

    Raises
    ------
    InputError : the file cannot be read, is none of those above, lacks a column, or holds values that are not finite.
    """
    readers = {".pkl": _pickle, ".npy": _array, ".cs": _cryosparc, ".star": _star}
    suffix = path.suffix.lower()
    if suffix == ".npy" and columns:
        raise InputError("option columns", "must not be given for a file without names of columns", path, "Drop it.")
    found = readers[suffix](path, columns) if suffix in readers else _text(path, columns)
    if found.z.ndim != 2 or not found.z.size:
        raise InputError("latents", "must have a row for each particle", f"{found.z.shape} in {path}", _REMEDY)
    if not np.isfinite(found.z).all():
        lacking = int((~np.isfinite(found.z).all(axis=1)).sum())
        raise InputError("latents", "must be finite", f"{lacking} rows of {path} that are not", "Leave these rows out.")
    return found


def _pickle(path: Path, columns: Sequence[str]) -> OtherLatents:
    if groups := read_pickled_groups(path, "latents", _REMEDY):
        return _embeddings(path, groups, columns)
    if columns:
        raise InputError("option columns", "must not be given for a file without names of columns", path, "Drop it.")
    arrays = [array for array in read_pickled_arrays(path, "latents", _REMEDY) if array.ndim == 2]
    if not arrays:
        raise InputError("latents", "must hold an array (N, zdim)", path, _REMEDY)
    own = len(arrays) == 2 and arrays[0].shape == arrays[1].shape
    return OtherLatents("cryoDRGN" if own else "another program", arrays[0], arrays[1] if own else None)


def _embeddings(path: Path, groups: dict[str, dict[str, np.ndarray]], columns: Sequence[str]) -> OtherLatents:
    """RECOVAR's: arrays by zdim in the dictionary ``latent_coords``, and ``zs`` before that."""
    coords = groups.get("latent_coords") or groups.get("zs") or {}
    if not coords:
        raise InputError("latents", "must hold latent_coords by zdim", path, _REMEDY)
    chosen = list(columns) or list(coords)
    if len(chosen) != 1 or chosen[0] not in coords:
        rule = f"must name one of the zdim of {path}"
        raise InputError("option columns", rule, " ".join(chosen), f"It has {', '.join(coords)}.")
    z = coords[chosen[0]]
    precision = groups.get("latent_precision", {}).get(chosen[0])
    return OtherLatents("RECOVAR", z, None if precision is None else _log_variances(path, z, precision))


def _log_variances(path: Path, z: np.ndarray, precision: np.ndarray) -> np.ndarray:  # (N, k), (N, k, k) -> (N, k)
    """Of RECOVAR's inverse covariances."""
    if precision.shape != (*z.shape, z.shape[-1]):
        rule = f"must hold a matrix of {z.shape[-1]} x {z.shape[-1]} for each of the {len(z)} latents"
        raise InputError(str(path), rule, precision.shape, "Give latents and precision of one run.")
    if not np.isfinite(precision).all():
        raise InputError(str(path), "must hold finite precisions", path, "Write it again.")
    variances = np.diagonal(np.linalg.pinv(precision.astype(np.float64), hermitian=True), axis1=1, axis2=2)
    return np.log(np.maximum(variances, np.finfo(np.float32).tiny))


def _array(path: Path, columns: Sequence[str]) -> OtherLatents:
    z = read_npy(path, "latents", _REMEDY)
    if not path.name.startswith("latent_coords"):
        return OtherLatents("another program", z)
    beside = path.with_name(path.name.replace("latent_coords", "latent_precision"))
    if not is_file(beside):
        return OtherLatents("RECOVAR", z)
    precision = read_npy(beside, "latents", "Restore it, or move it away to go without uncertainties.")
    return OtherLatents("RECOVAR", z, _log_variances(beside, z, precision))


def _cryosparc(path: Path, columns: Sequence[str]) -> OtherLatents:
    data = load_cs(path)
    names = list(data.dtype.names or ())
    modes = sorted((name for name in names if _MODE.fullmatch(name)), key=lambda n: int(_MODE.fullmatch(n)[1]))  # type: ignore[index]
    chosen = _chosen(path, names, columns or modes)
    z = np.concatenate([_numbers(path, data[name]).reshape(len(data), -1) for name in chosen], axis=1)
    return OtherLatents("cryoSPARC", z, keys=np.asarray(data["uid"]))


def _star(path: Path, columns: Sequence[str]) -> OtherLatents:
    names = column_names(path)
    chosen = _chosen(path, names, columns or _numbered(names))
    z = np.stack([_numbers(path, read_particle_column(path, name)) for name in chosen], axis=1)
    keys = np.asarray(read_particle_column(path, "rlnImageName")) if "rlnImageName" in names else None
    return OtherLatents("another program", z, keys=keys)


def _text(path: Path, columns: Sequence[str]) -> OtherLatents:
    """A table with commas, tabs or blanks between its values; the first line may name the columns."""
    lines = [line for line in read_text(path, "latents", _REMEDY).splitlines() if line.strip()]
    rows = [re.split(r"[,;\t]\s*|\s+", line.strip().removeprefix("#").strip()) for line in lines]
    names = [] if not rows or _is_number(rows[0][0]) else [word.strip("\"'") for word in rows.pop(0)]
    width = len(rows[0]) if rows else 0
    if not width or any(len(row) != width for row in rows) or (names and len(names) != width):
        raise InputError("latents", "must be a table with as many values in each row", path, _REMEDY)
    keys = _numbers(path, [row[names.index("uid")] for row in rows], np.uint64) if "uid" in names else None
    chosen = columns or _numbered(names) or [name for name in names if name != "uid"]
    places = [names.index(name) for name in _chosen(path, names, chosen)] if names else range(width)
    z = _numbers(path, [[row[place] for place in places] for row in rows])
    return OtherLatents("another program", z, keys=keys)


def _numbers(path: Path, values: npt.ArrayLike, kind: npt.DTypeLike = np.float64) -> np.ndarray:
    """Values of a file as numbers; InputError if one is none."""
    try:
        return np.asarray(values).astype(kind)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError("latents", "must hold numbers", f"{path}: {error}", "Name the columns to take.") from None


def _numbered(names: Sequence[str]) -> list[str]:
    """Columns of one name with numbers, such as latent_1, latent_2, in the order of the numbers."""
    found = [(int(match[1]), name) for name in names if (match := _NUMBERED.fullmatch(name))]
    stems = {name.rstrip("0123456789") for _, name in found}
    return [name for _, name in sorted(found)] if len(stems) == 1 else []


def _chosen(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    lacking = [name for name in wanted if name not in names]
    if lacking or not wanted:
        offered = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        rule = "must name columns of the latents" if lacking else "must name the columns that are latent dimensions"
        raise InputError("option columns", rule, lacking[0] if lacking else path, f"It has {offered}.")
    return list(wanted)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_indices(path: Path, count: int) -> np.ndarray:  # -> (M,) int64
    """Row numbers among ``count`` particles: from a pickle or array of numbers or of booleans, or text with ranges.

    Raises InputError if it cannot be read, a number is beyond the particles, or one comes twice.
    """
    argument, remedy = "indices", "Give the .pkl that the other program was given, an .npy, or text."
    suffix = path.suffix.lower()
    if suffix not in (".pkl", ".npy"):
        rows = read_row_numbers(path, count, argument)
    else:
        found = read_pickled_arrays(path, argument, remedy)[0] if suffix == ".pkl" else read_npy(path, argument, remedy)
        if found.dtype == bool and found.shape == (count,):
            found = np.flatnonzero(found)
        if found.ndim != 1 or found.dtype.kind not in "iu" or not found.size:
            raise InputError(argument, "must be a list of row numbers", f"{found.dtype} {found.shape}", remedy)
        rows = found.astype(np.int64)
    if rows.min() < 0 or rows.max() >= count or len(np.unique(rows)) != len(rows):
        rule = f"must name each of the {count} particles once at most"
        raise InputError(argument, rule, f"{rows.min()} to {rows.max()}", "Give the rows of this very particle file.")
    return rows


def rows_of_latents(latents: OtherLatents, particles: Path, count: int, indices: Path | None) -> np.ndarray:
    """The row in the particle file (``count`` rows) of each latent, (N,); -1 for one whose particle is not there.

    Matched by ``indices`` where they are given, else by uid or image name where both have them, else row by row.

    Raises InputError where numbers do not fit or no latent is of a particle of the file.
    """
    n = len(latents.z)
    if indices is not None:
        rows = read_indices(indices, count)
        if len(rows) != n:
            raise InputError("indices", f"must name a particle for each of the {n} latents", len(rows), "Give its own.")
        return rows
    name = "uid" if particles.suffix.lower() == ".cs" else "rlnImageName"
    keys = latents.keys
    if keys is not None and (keys.dtype.kind in "iu") == (name == "uid") and name in column_names(particles):
        own = np.asarray(read_particle_column(particles, name)).astype(keys.dtype if name == "uid" else str)
        known, first, times = np.unique(own, return_index=True, return_counts=True)
        if len(np.unique(keys)) == n and times.max() == 1:
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            rows = np.where(known[place] == keys, first[place], -1)
            if (rows >= 0).any():
                return rows
            raise InputError(
                "latents", f"must share {name} with {particles}", "none", "Give the particles they are of."
            )
    if n != count:
        remedy = "Give the particles that the other program was given, or its indices too."
        raise InputError("latents", f"must have the {count} rows of {particles}", f"{n} rows", remedy)
    return np.arange(n)
