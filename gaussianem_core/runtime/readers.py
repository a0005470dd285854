"""Readers of files that are not trusted: JSON, text, NumPy arrays and archives of them. No torch here.

One reader a format. Whatever is wrong with a file (absent, a pipe, cut off, damaged, malicious), the reader raises an
InputError that names it, and takes no more memory than the file's own size accounts for: what a header declares is
compared with what is there before anything is allocated. Nothing that a file names is run.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.plain_files import open_regular

NUMBERS = "biuf"
"""Kinds of dtype (``numpy.dtype.kind``) that are real numbers."""

LARGEST_TEXT = 64 << 20
"""Bytes of a JSON or text file, at most: in memory it takes some twenty times its size."""

LARGEST_HEADER = 1 << 20
"""Bytes of a .npy header, at most; each class of a 3D classification adds fields to those of cryoSPARC."""

SMALL_ARCHIVE, LARGEST_EXPANSION, MOST_MEMBERS = 64 << 20, 64, 4096
"""An archive may hold SMALL_ARCHIVE bytes, or LARGEST_EXPANSION times its own size; data never shrink that far."""


def exists(path: Path) -> bool:
    """Whether ``path`` exists; False for a name that no file can have (too long, with a NUL)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; False for a name that no file can have."""
    return exists(path) and path.is_file()


def open_file(path: str | os.PathLike[str], argument: str, what: str, remedy: str) -> BinaryIO:
    """Open a regular file for reading bytes. Raises InputError about ``argument``; a named pipe does not block."""
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise InputError(argument, f"must be {what}", path, f"It was not opened ({reason}). {remedy}") from error


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str], argument: str, what: str, remedy: str) -> Iterator[None]:
    """Turn every fault of reading ``path`` into an InputError: hostile bytes can make a parser fail in any way."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn of what they then read or refuse
            yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise InputError(argument, f"must be {what}", path, f"It was not read ({reason}). {remedy}") from error


def read_text(path: str | os.PathLike[str], argument: str, remedy: str, what: str = "a readable text file") -> str:
    """The text (UTF-8) of a file. Raises InputError if it cannot be read or is longer than LARGEST_TEXT bytes."""
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        data = file.read(LARGEST_TEXT + 1)
        if len(data) > LARGEST_TEXT:
            raise ValueError(f"it is longer than {LARGEST_TEXT:,} bytes")
        return data.decode()


def read_json(path: str | os.PathLike[str], argument: str, remedy: str) -> Any:
    """The content of a JSON file. Raises InputError if it cannot be read or is no JSON."""
    text = read_text(path, argument, remedy, "a readable JSON file")
    with refusing(path, argument, "a readable JSON file", remedy):
        return json.loads(text)


def read_json_object(path: str | os.PathLike[str], argument: str, remedy: str) -> dict[str, Any]:
    """The content of a JSON file that holds an object. Raises InputError if it cannot be read or holds none."""
    content = read_json(path, argument, remedy)
    if not isinstance(content, dict):
        raise InputError(argument, "must hold a JSON object", path, remedy)
    return content


def read_rows(
    path: str | os.PathLike[str], argument: str, remedy: str, ndmin: Literal[1, 2] = 2
) -> npt.NDArray[np.float64]:
    """Numbers of a text file (rows, columns), blanks or commas between; # starts a comment.

    Raises InputError if it cannot be read, holds other text, or has rows of different lengths.
    """
    text = read_text(path, argument, remedy, "readable text with numbers").replace(",", " ")
    with refusing(path, argument, "readable text with numbers", remedy):
        return np.loadtxt(text.splitlines(), ndmin=ndmin)


def read_npy(
    path: str | os.PathLike[str], argument: str, remedy: str, kinds: str = NUMBERS, *, mapped: bool = False
) -> npt.NDArray[Any]:
    """The array of a .npy file whose dtype is of one of ``kinds``; ``mapped`` leaves it on the disk, read only.

    Raises InputError, also where the file is not as long as its header says.
    """
    what = "a readable .npy file (an array without objects)"
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        shape, in_columns, dtype = _npy_header(file, os.fstat(file.fileno()).st_size, kinds)
        order: Any = "F" if in_columns else "C"
        count: int = math.prod(shape)
        if mapped and count:
            return np.memmap(file, dtype, "r", file.tell(), shape, order)
        return np.fromfile(file, dtype, count).reshape(shape, order=order)


def read_npz(
    path: str | os.PathLike[str],
    argument: str,
    remedy: str,
    wanted: frozenset[str] | None = None,
    kinds: str = NUMBERS + "SU",
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a .npz file by name, those ``wanted`` or all.

    Raises InputError, also for an archive that expands far beyond its size, for a member that is not as long as its
    header says, and for one whose checksum is wrong.
    """
    what = "a readable .npz file (arrays without objects)"
    arrays: dict[str, npt.NDArray[Any]] = {}
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        if file.read(6) == b"\x93NUMPY":
            raise ValueError("it is a single array, as of a .npy file")
        with open_archive(file) as archive:
            for member in archive.infolist():
                name, ending, rest = member.filename.rpartition(".npy")
                if not ending or rest or (wanted is not None and name not in wanted):
                    continue
                data = archive.read(member)  # checks the CRC
                opened = io.BytesIO(data)
                shape, in_columns, dtype = _npy_header(opened, len(data), kinds)
                flat = np.frombuffer(data, dtype, math.prod(shape), opened.tell()).copy()
                arrays[name] = flat.reshape(shape, order="F" if in_columns else "C")
    return arrays


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """A zip archive of at most MOST_MEMBERS members with different names, stored or deflated, of a bounded total size.

    Raises ValueError for another archive, and what zipfile raises.
    """
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    expanded = sum(member.file_size for member in members)
    limit = max(SMALL_ARCHIVE, LARGEST_EXPANSION * os.fstat(file.fileno()).st_size)
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"it has {len(members):,} members, more than {MOST_MEMBERS:,}")
    if expanded > limit:
        raise ValueError(f"it would expand to {expanded:,} bytes, more than {limit:,}")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have one name")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("its compression is none that NumPy writes")
    return archive


def unpacked(data: bytes) -> bytes:
    """The content of a gzip file. Raises ValueError if it expands far beyond its size, and zlib.error."""
    limit = max(SMALL_ARCHIVE, LARGEST_EXPANSION * len(data))
    machine = zlib.decompressobj(wbits=31)
    content = machine.decompress(data, limit)
    if not machine.eof:
        raise ValueError(f"it is cut off, or would expand to more than {limit:,} bytes")
    return content


def _npy_header(file: BinaryIO, size: int, kinds: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype; the file stands at the data then. ``size``: bytes of the file."""
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is not known")
    found: Any = readers[version](file, max_header_size=LARGEST_HEADER)  # type: ignore[no-untyped-call]
    shape, in_columns, dtype = found
    if dtype.kind not in kinds or dtype.hasobject:
        raise ValueError(f"it holds {'Python objects' if dtype.hasobject else f'values of type {dtype}'[:80]}")
    if dtype.itemsize == 0 or any(side < 0 for side in shape):
        raise ValueError("its header makes no sense")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise ValueError(f"it is {size:,} bytes long where its header says {expected:,}: cut off, or damaged")
    return shape, in_columns, dtype
