"""Points in PLY files, read with plyfile once the header agrees with the file's size. No torch here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gaussianem_core.runtime.files import atomic_write
from gaussianem_core.runtime.readers import open_file, refusing

_LONGEST_HEADER = 1 << 16


def read_points(
    path: Path | str, argument: str, names: Sequence[str], remedy: str, optional: Sequence[str] = ()
) -> dict[str, npt.NDArray[np.float32]]:
    """Properties ``names`` of the vertices, (N,) each, and those of ``optional`` that are there.

    Raises InputError about ``argument`` if the file is no PLY, is shorter than its header says, or lacks a property.
    """
    from plyfile import PlyData

    what = f"a PLY file with {' '.join(names)}"
    with open_file(path, argument, what, remedy) as file, refusing(path, argument, what, remedy):
        _check_length(file.read(_LONGEST_HEADER), os.fstat(file.fileno()).st_size)
        file.seek(0)
        vertex = PlyData.read(file)["vertex"]  # mapped: else plyfile reads number by number
        present = [p.name for p in vertex.properties]
        wanted = [*names, *(name for name in optional if name in present)]
        return {name: np.array(vertex[name], dtype=np.float32) for name in wanted}


def _check_length(head: bytes, size: int) -> None:
    """Refuse a header that promises more rows than the file has bytes for: plyfile makes room for them first."""
    lines = head.partition(b"end_header")[0].split(b"\n")
    rows, properties = 0, 0
    for line in reversed(lines):
        words = line.split()
        if words[:1] == [b"property"]:
            properties += 1
        elif words[:1] == [b"element"]:
            rows += int(words[2]) * max(1, properties)  # a value takes a byte at least, as does a row
            properties = 0
    if rows > size:
        raise ValueError(f"its header promises {rows:,} values, and it is {size:,} bytes long")


def write_points(path: Path | str, table: npt.NDArray[np.void]) -> None:
    """Write a structured array (N,) as the vertices of a binary PLY, atomically. Raises as :func:`atomic_write`."""
    from plyfile import PlyData, PlyElement

    with atomic_write(path) as file:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(file)
