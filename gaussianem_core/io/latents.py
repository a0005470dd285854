"""Files of latents: ``weights.N.output.pkl`` of the published code, and text or NumPy tables of rows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import atomic_write, write_atomically

# What a published latents file needs: numpy arrays and nothing else (old and new module names of numpy).
_ARRAY_GLOBALS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of numpy arrays; any other global in the file is an error before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"the file wants to run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_latents(path: Path | str) -> dict[str, np.ndarray]:
    """``z_mu`` (N, zdim), ``ind`` (N, 1) and, in ours, ``z_logvar`` (N, zdim), from ``weights.N.output.pkl``.

    Where a population of latents was their prior, ``image_mu`` and ``image_logvar`` are what each image says alone.

    Only numpy arrays are admitted: a file that names anything else is refused unread (InputError).
    """
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file).load()
    except Exception as error:
        # A hostile or damaged pickle can fail in any way; none of them may pass as a traceback.
        raise InputError(
            "latent",
            "must be a file of numpy arrays",
            path,
            f"It was not loaded ({error}). Use a weights.N.output.pkl of train.",
        ) from error
    arrays = {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}
    if "z_mu" not in arrays or arrays["z_mu"].ndim != 2:
        raise InputError("latent", "must hold z_mu of shape (N, zdim)", path, "Use a weights.N.output.pkl of train.")
    return arrays


def save_latents(path: Path | str, z_mu: np.ndarray, z_logvar: np.ndarray, **more: np.ndarray) -> None:
    """Write latents in row order, (N, zdim) each, in the published layout plus the log-variances, atomically."""
    content = {
        "z_mu": np.asarray(z_mu, dtype=np.float32),
        "ind": np.arange(len(z_mu))[:, None],
        "z_logvar": np.asarray(z_logvar, dtype=np.float32),
        **more,
    }
    write_atomically(path, pickle.dumps(content, protocol=4))


def read_latent_rows(path: Path) -> np.ndarray:  # -> (B, zdim)
    """Latents from .npy, or text with blanks or commas between the values, one row a volume; # starts a comment."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            text = path.read_text().replace(",", " ").splitlines()
            values = np.loadtxt(text, ndmin=2)
        return np.atleast_2d(np.asarray(values, dtype=np.float64))
    except (OSError, ValueError) as error:
        raise InputError(
            "z",
            "must be .npy or text with one row of numbers a volume",
            path,
            f"It was not read ({error}). Use z.txt of an analysis as a pattern.",
        ) from error


def write_latent_rows(z: np.ndarray, path: Path) -> None:
    """Latents as text, one row a volume."""
    with atomic_write(path) as file:
        np.savetxt(file, z, fmt="%.7g")
