"""Particle rows written back: a copy of the source in which rows are left out or columns appended.

Copying bytes instead of writing values keeps columns, order, number formats, optics tables and comments that nobody
here knows about as they were, so that RELION and cryoSPARC take the selection as their own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.star import (
    CHUNK_ROWS,
    StarTable,
    find_particle_table,
    is_row,
    open_star,
    quote,
    scan_star,
    texts,
    value_span,
    values_end,
)
from gaussianem_core.runtime.files import atomic_write
from gaussianem_core.runtime.sources import refuse_source


def write_star_rows(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rows: npt.ArrayLike | None = None,
    columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic]] | None = None,
    *,
    renew: bool = False,
) -> int:
    """Copy a STAR file with a selection of its particle rows, and columns appended to them.

    Everything else (other tables, comments, number formats, line ends) is copied as it is, and the kept rows stay in
    the order of the source. The target appears whole or not at all.

    Parameters
    ----------
    rows : numbers of particle rows (from 0, any order, repeats ignored) or a boolean mask (N,); None keeps all.
    columns : name (with or without underscore) -> one value per particle of the SOURCE (N,).
    renew : columns that the source has already get the new values, in their old place.

    Returns
    -------
    Number of rows written.

    Raises
    ------
    InputError : empty selection, row out of range, column of the wrong length, or present already without ``renew``.
    """
    source, target = Path(source), Path(target)
    refuse_source(target, [source])
    table = find_particle_table(scan_star(source))
    keep = selection_mask(rows, table.n_rows, str(source))
    added = {name.removeprefix("_"): values for name, values in (columns or {}).items()}
    for name, values in added.items():
        if (name in table and not (renew and table.is_loop)) or not re.fullmatch(r"\w[\w.\-/]*", name):
            raise InputError(f"column {name}", "must be a new name without blanks", name, "Choose another name.")
        if len(values) != table.n_rows:
            raise InputError(f"column {name}", f"must hold {table.n_rows} values", len(values), "One per particle.")
    kept = np.flatnonzero(keep)
    places, renewed = _renewals(table, {name: values for name, values in added.items() if name in table}, kept)
    added = {name: values for name, values in added.items() if name not in table}
    suffixes = map(b" ".join, _row_texts(list(added.values()), kept)) if added else None
    with open_star(source) as file, atomic_write(target) as out:
        _copy_bytes(file, out, table.header_end)
        if added:
            out.write(_header_lines(table, added, ends_line=_ends_line(file, table.header_end)))
        if table.is_loop:
            _copy_bytes(file, out, table.rows_start - table.header_end)
            _copy_rows(file, out, keep, suffixes, places, renewed)
        shutil.copyfileobj(file, out, 1 << 20)
    return int(keep.sum())


def selection_mask(rows: npt.ArrayLike | None, n_rows: int, what: str) -> npt.NDArray[np.bool_]:
    """Turn row numbers (n,), a mask (n_rows,) or None (all) into a mask (n_rows,); ``what`` names the source.

    Raises InputError for an empty selection, rows out of range, or a mask of another length.
    """
    if rows is None:
        return np.ones(n_rows, bool)
    chosen = np.asarray(rows)
    if chosen.dtype == bool:
        if chosen.shape != (n_rows,):
            raise InputError(f"selection from {what}", f"must be a mask of {n_rows} rows", chosen.shape, "Remake it.")
        mask = chosen.copy()
    else:
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise InputError(f"selection from {what}", "must be a list of row numbers", chosen.dtype, "Give integers.")
        if chosen.size and (chosen.min() < 0 or chosen.max() >= n_rows):
            raise InputError(
                f"selection from {what}",
                f"must hold row numbers from 0 to {n_rows - 1}",
                f"{chosen.min()} to {chosen.max()}",
                "Select rows of this very file.",
            )
        mask = np.zeros(n_rows, bool)
        mask[chosen.astype(np.int64)] = True
    if not mask.any():
        raise InputError(f"selection from {what}", "must hold at least one particle", "none", "Select particles first.")
    return mask


def write_star(
    target: str | os.PathLike[str], tables: Mapping[str, Mapping[str, Sequence[object] | npt.NDArray[np.generic]]]
) -> None:
    """Write tables from scratch as loops, atomically: table name -> column name -> values of equal length.

    Raises InputError for columns of unequal length.
    """
    with atomic_write(target) as out:
        for name, columns in tables.items():
            lengths = {len(values) for values in columns.values()}
            if len(lengths) != 1:
                raise InputError(f"table data_{name}", "must have columns of one length", sorted(lengths), "Even them.")
            head = [f"_{column} #{i + 1}\n" for i, column in enumerate(columns)]
            out.write(f"\n# version 30001\n\ndata_{name}\n\nloop_\n{''.join(head)}".encode())
            for values in _row_texts(list(columns.values()), np.arange(lengths.pop())):
                out.write(b" ".join(values) + b"\n")
            out.write(b"\n")


def _row_texts(
    columns: Sequence[Sequence[object] | npt.NDArray[np.generic]], rows: npt.NDArray[np.integer]
) -> Iterator[tuple[bytes, ...]]:
    """The columns' values in each of ``rows``."""
    for begin in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[begin : begin + CHUNK_ROWS]
        chosen = [v[chunk] if isinstance(v, np.ndarray) else [v[row] for row in chunk] for v in columns]
        yield from zip(*map(texts, chosen))


def _renewals(
    table: StarTable,
    columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic]],
    rows: npt.NDArray[np.integer],
) -> tuple[list[int], Iterator[tuple[bytes, ...]]]:
    """Places of the table's ``columns``, ascending, and their values in each of ``rows``."""
    present = sorted((table.columns.index(name), name) for name in columns)
    return [place for place, _ in present], _row_texts([columns[name] for _, name in present], rows)


_BLANKS = re.compile(rb"(\s+)")


def _replaced(line: bytes, places: Sequence[int], values: Sequence[bytes]) -> bytes:
    """A row with other ``values`` at ``places`` (ascending); all else stays as it is."""
    if not (b'"' in line or b"'" in line or b"#" in line):  # else a value may hold blanks, or be none
        pieces = _BLANKS.split(line)  # value, blanks, value ...; the first is empty where the line begins with blanks
        first = 0 if pieces[0] else 2
        if first + 2 * places[-1] < len(pieces):
            for place, value in zip(places, values):
                pieces[first + 2 * place] = value
            return b"".join(pieces)
    for place, value in zip(reversed(places), reversed(values)):  # places before it stay where they were
        begin, end = value_span(line, place)
        line = line[:begin] + value + line[end:]
    return line


def _header_lines(
    table: StarTable, added: Mapping[str, Sequence[object] | npt.NDArray[np.generic]], ends_line: bool
) -> bytes:
    lines = []
    for number, (name, values) in enumerate(added.items(), start=len(table.columns) + 1):
        tail = (f" #{number}" if table.numbered else "") if table.is_loop else f" {quote(values[0])}"
        lines.append(f"_{name}{tail}\n")
    return ("" if ends_line else "\n").encode() + "".join(lines).encode("utf-8", "surrogateescape")


def _ends_line(file: BinaryIO, position: int) -> bool:
    file.seek(position - 1)
    return file.read(1) == b"\n"


def _copy_rows(
    file: BinaryIO,
    out: BinaryIO,
    keep: npt.NDArray[np.bool_],
    suffixes: Iterator[bytes] | None,
    places: Sequence[int],
    renewed: Iterator[tuple[bytes, ...]],
) -> None:
    """Copy the rows to ``keep`` with new values at ``places`` and ``suffixes``, both of the kept rows in their
    order."""
    row = 0
    last = b"\n"
    while row < len(keep):
        line = file.readline()
        if not line:
            raise InputError("STAR file", "changed while it was copied", f"{row} rows", "Start again.")
        if is_row(line):
            row += 1
            if not keep[row - 1]:
                continue
            if places:
                line = _replaced(line, places, next(renewed))
            if suffixes is not None:
                end = values_end(line)
                line = line[:end] + b" " + next(suffixes) + (line[end:] or b"\n")
        if not last.endswith(b"\n"):
            out.write(b"\n")
        out.write(line)
        last = line


def _copy_bytes(file: BinaryIO, out: BinaryIO, count: int) -> None:
    while count:
        piece = file.read(min(count, 1 << 20))
        if not piece:
            raise InputError("STAR file", "changed while it was copied", "cut short", "Start again.")
        out.write(piece)
        count -= len(piece)


def write_cs_rows(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rows: npt.ArrayLike | None = None,
    uids: npt.NDArray[np.uint64] | None = None,
) -> int:
    """Copy a cryoSPARC dataset with a selection of its rows: all fields, uids and the order as they were.

    Parameters
    ----------
    rows : row numbers (from 0) or a mask; None keeps all.
    uids : keep the rows with these uids instead (for passthrough files, whose order may differ).

    Returns
    -------
    Number of rows written.

    Raises
    ------
    InputError : empty selection, row out of range, or a uid that the file lacks.
    """
    refuse_source(target, [source])
    data = load_cs(source, mmap=True)
    if uids is not None:
        lacking = ~np.isin(uids, data["uid"])
        if lacking.any():
            raise InputError(
                f"selection from {source}",
                "must hold uids of the file",
                f"{int(lacking.sum())} uids not in it",
                "Give the passthrough file of the same job.",
            )
        rows = np.isin(data["uid"], uids)
    keep = selection_mask(rows, len(data), str(source))
    with atomic_write(target) as out:
        np.save(out, np.asarray(data[keep]), allow_pickle=False)
    return int(keep.sum())


def write_star_copies(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rows: npt.NDArray[np.integer],
    columns: Mapping[str, npt.NDArray[np.generic]],
) -> int:
    """Copy a STAR file with rows repeated, as a symmetry expansion has them, each copy with values of its own.

    Parameters
    ----------
    rows : (M,) number of the source's row that each row is a copy of, in ascending order, none left out.
    columns : columns of the source -> value of each copy (M,).

    Returns
    -------
    Number of rows written. Raises InputError for a file that changes while it is read.
    """
    source, target = Path(source), Path(target)
    table = find_particle_table(scan_star(source))
    places, renewed = _renewals(table, columns, np.arange(len(rows)))
    ends = np.searchsorted(rows, np.arange(table.n_rows), side="right")
    with open_star(source) as file, atomic_write(target) as out:
        _copy_bytes(file, out, table.rows_start)
        row = copy = 0
        while row < table.n_rows:
            line = file.readline()
            if not line:
                raise InputError(str(source), "changed while it was copied", f"{row} rows", "Start again.")
            if not is_row(line):
                out.write(line)
                continue
            line = line if line.endswith(b"\n") else line + b"\n"
            for _ in range(copy, int(ends[row])):
                out.write(_replaced(line, places, next(renewed)) if places else line)
            row, copy = row + 1, int(ends[row])
        shutil.copyfileobj(file, out, 1 << 20)
    return copy
