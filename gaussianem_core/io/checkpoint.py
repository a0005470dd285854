"""Trained weights and latents on disk: plain tensors and numpy arrays, read without ever running code from a file."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import write_atomically

# What a published latents file needs: numpy arrays and nothing else (old and new module names of numpy).
_ARRAY_GLOBALS = {
    ("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"), ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of numpy arrays; any other global in the file is an error before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"the file wants to run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """A dictionary with ``epoch``, ``model_state_dict`` and, in ours, the refined Gaussians and the mask.

    Raises InputError if the file cannot be read, holds anything but plain tensors, or lacks the network.
    """
    return load_tensors(path, "model_weight", ("model_state_dict",), "Use a weights.N.pkl of train.")


def load_tensors(path: Path | str, argument: str, needed: Collection[str], remedy: str) -> dict[str, Any]:
    """A dictionary of plain tensors, numbers and strings that torch.save wrote, with the entries ``needed``.

    Raises InputError about ``argument`` if the file cannot be read, holds anything else, or lacks an entry.
    """
    import torch  # here, so that latents can be read without it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickles before it refuses or reads them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        # torch's own words advise to load the file unsafely.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"the file wants to run {wanted[1].rstrip('.')}" if wanted else error.strerror if isinstance(
            error, OSError) else "it is damaged, or something else"  # fmt: skip
        raise InputError(argument, "must be a checkpoint of plain tensors", path,
                         f"It was not loaded ({reason}). {remedy}") from error  # fmt: skip
    lacking = [name for name in needed if not isinstance(content, dict) or name not in content]
    if lacking:
        raise InputError(argument, f"must hold {lacking[0]}", path, remedy)
    return dict(content)


def save_checkpoint(content: dict[str, Any], path: Path | str) -> None:
    """Write plain tensors, numbers and strings with torch.save, atomically."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


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
        raise InputError("latent", "must be a file of numpy arrays", path,
                         f"It was not loaded ({error}). Use a weights.N.output.pkl of train.") from error  # fmt: skip
    arrays = {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}
    if "z_mu" not in arrays or arrays["z_mu"].ndim != 2:
        raise InputError("latent", "must hold z_mu of shape (N, zdim)", path, "Use a weights.N.output.pkl of train.")
    return arrays


def save_latents(path: Path | str, z_mu: np.ndarray, z_logvar: np.ndarray, **more: np.ndarray) -> None:
    """Write latents in row order, (N, zdim) each, in the published layout plus the log-variances, atomically."""
    content = {
        "z_mu": np.asarray(z_mu, dtype=np.float32), "ind": np.arange(len(z_mu))[:, None],
        "z_logvar": np.asarray(z_logvar, dtype=np.float32), **more,
    }  # fmt: skip
    write_atomically(path, pickle.dumps(content, protocol=4))
