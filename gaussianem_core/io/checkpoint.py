"""Trained weights on disk: plain tensors, numbers and text as torch.save lays them out, read without torch.load.

The file is a zip archive: a pickle that says how the tensors lie in it, and their bytes, one member a storage. Here
the pickle is read as data (see ``plain_pickle``), every member's checksum is verified, and a tensor must lie within
its storage. torch.load does neither, with ``weights_only`` either: a flipped bit passes, and so does a size that
reaches beyond what is there.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaussianem_core.errors import InputError, ResultError
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.plain_pickle import PlainDict, load_plain
from gaussianem_core.runtime.readers import open_archive, open_file, refusing

if TYPE_CHECKING:
    import torch

_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
"""Names of torch's typed storages (``torch.FloatStorage``) and their dtypes."""


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """A dictionary with ``epoch``, ``model_state_dict`` and, from this program, the refined Gaussians and the mask.

    Raises InputError if the file cannot be read, holds anything but plain tensors, or lacks the network.
    """
    return load_tensors(path, "model_weight", ("model_state_dict",), "Use a weights.N.pkl of train.")


def load_tensors(path: Path | str, argument: str, needed: Collection[str], remedy: str) -> dict[str, Any]:
    """A dictionary of plain tensors, numbers and strings that torch.save wrote, with the entries ``needed``.

    Raises InputError about ``argument`` if the file cannot be read, is damaged, holds anything else, or lacks an
    entry.
    """
    what = "a checkpoint of plain tensors"
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("it is no archive as torch.save has written them since torch 1.6")
        with open_archive(file) as archive:
            content = _read(archive)
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
    lacking = [name for name in needed if name not in content]
    if lacking:
        raise InputError(argument, f"must hold {lacking[0]}", path, remedy)
    return dict(content)


def _read(archive: zipfile.ZipFile) -> Any:
    import torch  # here, so that latents can be read without it

    members = archive.namelist()
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it holds no tensors of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are of a big-endian machine")
    storages: dict[str, torch.Tensor] = {}

    def storage(pid: Any) -> torch.Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError("it refers to something else than tensors")
        if key not in storages:
            data = archive.read(f"{folder}data/{key}")
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"storage {key} is not as long as it should be: it is damaged")
            storages[key] = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if storages[key].dtype != dtype:
            raise ValueError(f"storage {key} is of two types")
        return storages[key]

    def tensor(flat: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
        if math.prod(size) > len(flat):
            raise ValueError("a tensor is larger than its storage: it is damaged")
        return flat.as_strided(size, stride, offset)  # refuses what lies beyond

    names: dict[str, Any] = {
        "collections.OrderedDict": PlainDict,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch.Size": tuple,
    }
    names |= {f"torch.{name}Storage": getattr(torch, dtype) for name, dtype in _STORAGES.items()}
    content = load_plain(archive.read(pickles[0]), names, storage)
    for name in set(members) - {f"{folder}data/{key}" for key in storages}:
        archive.read(name)  # reading checks a member's CRC: those, too, that no tensor uses
    return content


def save_checkpoint(content: dict[str, Any], path: Path | str) -> None:
    """Write plain tensors, numbers and strings with torch.save, atomically.

    Raises ResultError if a tensor holds NaN or infinite values, OSError if the file cannot be written; a file at
    ``path`` then stays as it was.
    """
    import torch

    faulty = _not_finite(content, "")
    if faulty:
        raise ResultError(
            f"{path}: {faulty} holds NaN or infinite values. Nothing was written; check the input for values far "
            "beyond the others', or lower the learning rate."
        )
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def _not_finite(value: Any, name: str) -> str:
    """Name of the first tensor with NaN or infinite values in nested containers, or nothing."""
    import torch

    if isinstance(value, torch.Tensor):
        return "" if not value.is_floating_point() or bool(torch.isfinite(value).all()) else name
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        found = (_not_finite(inner, f"{name}.{key}" if name else str(key)) for key, inner in parts)
        return next(filter(None, found), "")
    return ""
