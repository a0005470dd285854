"""Files of latents: ``weights.N.output.pkl`` of the published code, and text or NumPy tables of rows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError, ResultError
from gaussianem_core.runtime.files import atomic_write, write_atomically
from gaussianem_core.runtime.plain_pickle import load_plain, load_plain_each
from gaussianem_core.runtime.readers import NUMBERS, open_file, read_npy, read_rows, refusing


class _Kind:
    """A dtype in a pickle: its letters, and the byte order that stands in its state."""

    def __init__(self, letters: str, *flags: bool) -> None:
        self.dtype = np.dtype(letters)
        if self.dtype.kind not in NUMBERS or self.dtype.itemsize > 16:
            raise ValueError(f"it holds values of type {letters[:20]}")

    def take_state(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array in a pickle, empty until its state comes: version, shape, dtype, Fortran's order, bytes."""

    def __init__(self, *of_an_empty_one: Any) -> None:
        self.values = np.zeros(0)

    def take_state(self, state: tuple[int, tuple[int, ...], _Kind, bool, bytes]) -> None:
        _, shape, kind, in_columns, data = state
        flat = np.frombuffer(data, kind.dtype).copy()
        self.values = flat.reshape(shape, order="F" if in_columns else "C")


def _from_buffer(data: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.take_state((1, shape, kind, order == "F", data))
    return array


def _latin(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes bytes as {encoding[:20]}")
    return text.encode("latin1")


# What a published latents file names (numpy before and after 2.0): arrays and nothing else.
_NAMES = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Kind,
    "_codecs.encode": _latin,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": lambda kind, data: None for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
_REMEDY = "Use a weights.N.output.pkl of train."


def load_latents(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of ``weights.N.output.pkl``: ``z_mu`` (N, zdim), ``ind`` (N, 1) and, from this program, ``z_logvar``.

    ``z_logvar`` (N, zdim) is the logarithm of the posterior variances. Where the prior was a population estimated from
    all latents, ``image_mu`` and ``image_logvar`` (N, zdim) are mean and log-variance by each particle's images alone.

    Raises InputError if the file holds anything but arrays of numbers (what it names is never looked up), if they are
    not of one number of particles, or if latents are not finite.
    """
    what = "a file of numpy arrays"
    with open_file(path, "latent", what, _REMEDY) as file, refusing(path, "latent", what, _REMEDY):
        content = load_plain(file.read(), _NAMES)
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        arrays = {name: value.values for name, value in content.items() if isinstance(value, _Array)}
    if "z_mu" not in arrays or arrays["z_mu"].ndim != 2 or not arrays["z_mu"].size:
        raise InputError("latent", "must hold z_mu of shape (N, zdim)", path, _REMEDY)
    z = arrays["z_mu"]
    for name, values in arrays.items():
        if name in ("z_logvar", "image_mu", "image_logvar") and values.shape != z.shape:
            rule = f"must hold {name} of the shape of z_mu, {z.shape}"
            raise InputError("latent", rule, f"{values.shape} in {path}", _REMEDY)
        if name in ("z_mu", "z_logvar") and not np.isfinite(values).all():
            raise InputError("latent", f"must hold finite {name}", path, "Train again: these came of a failed run.")
    if "ind" in arrays and arrays["ind"].size != len(z):
        raise InputError("latent", f"must hold ind for each of the {len(z)} particles", path, _REMEDY)
    return arrays


def read_pickled_groups(path: Path, argument: str, remedy: str) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of numbers in a pickled dictionary of dictionaries; {} where the pickle holds no such dictionary.

    Raises InputError, as :func:`load_latents`, if the file holds anything but arrays of numbers.
    """
    what = "a pickle of numpy arrays and nothing else"
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        content = load_plain_each(file.read(), _NAMES)[0]
        if not isinstance(content, dict) or not any(isinstance(group, dict) for group in content.values()):
            return {}
        return {
            str(name): {str(key): value.values for key, value in group.items() if isinstance(value, _Array)}
            for name, group in content.items()
            if isinstance(group, dict)
        }


def read_pickled_arrays(path: Path, argument: str, remedy: str) -> list[np.ndarray]:
    """The arrays of numbers in a pickle, and in those behind it: alone, in a tuple or list, or in a dictionary.

    Raises InputError, as :func:`load_latents`, if there is none or if the file holds anything else.
    """
    what = "a pickle of numpy arrays and nothing else"
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        found: list[np.ndarray] = []
        for content in load_plain_each(file.read(), _NAMES):
            members = content.values() if isinstance(content, dict) else content
            for value in members if isinstance(members, list | tuple | type({}.values())) else [content]:
                if not isinstance(value, _Array):
                    raise ValueError(f"it holds a value of type {type(value).__name__}")
                found.append(value.values)
        if not found:
            raise ValueError("it holds no array")
    return found


def save_latents(path: Path | str, z_mu: np.ndarray, z_logvar: np.ndarray | None, **more: np.ndarray) -> None:
    """Write latents in row order, (N, zdim) each, in the published layout plus the log-variances, atomically.

    ``z_logvar`` : None where the uncertainty of the latents is not known.

    Raises ResultError if one is NaN or infinite, OSError if the file cannot be written; a file at ``path`` then stays
    as it was.
    """
    content: dict[str, np.ndarray] = {
        "z_mu": np.asarray(z_mu, dtype=np.float32),
        "ind": np.arange(len(z_mu))[:, None],
        **({} if z_logvar is None else {"z_logvar": np.asarray(z_logvar, dtype=np.float32)}),
        **more,
    }
    for name in ("z_mu", "z_logvar"):
        if name in content and not np.isfinite(content[name]).all():
            raise ResultError(
                f"{path}: latents are NaN or infinite ({name}). Nothing was written; check the input for values far "
                "beyond the others', or lower the learning rate."
            )
    write_atomically(path, pickle.dumps(content, protocol=4))


def read_latent_rows(path: Path) -> np.ndarray:  # -> (B, zdim)
    """Latents from .npy, or text with blanks or commas between the values, one row a volume; # starts a comment.

    Raises InputError if the file cannot be read. Values may be NaN: the model refuses them (``check_latents``).
    """
    remedy = "Use z.txt of an analysis as a pattern."
    values = read_npy(path, "z", remedy) if path.suffix == ".npy" else read_rows(path, "z", remedy)
    with np.errstate(invalid="ignore"):  # signalling NaN; values that are not finite are refused by the model
        return np.atleast_2d(np.asarray(values, dtype=np.float64))


def write_latent_rows(z: np.ndarray, path: Path) -> None:
    """Write latents (B, zdim) as text, one row a volume, atomically. Raises as :func:`atomic_write`."""
    with atomic_write(path) as file:
        np.savetxt(file, z, fmt="%.7g")
