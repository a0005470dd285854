"""Trained weights and latents on disk: plain tensors and numpy arrays, read without ever running code from a file."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically


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
        reason = (
            f"the file wants to run {wanted[1].rstrip('.')}"
            if wanted
            else error.strerror
            if isinstance(error, OSError)
            else "it is damaged, or something else"
        )
        raise InputError(
            argument, "must be a checkpoint of plain tensors", path, f"It was not loaded ({reason}). {remedy}"
        ) from error
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
