"""STAR text: find the tables of a file and read columns of them in chunks.

Rows are never held as text: a table is a byte range of its file, read 65,536 rows at a time. The grammar is the
subset that RELION 1.3 to 5 reads and writes (one row per line), with STAR's quotes and comments.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import open_file

CHUNK_ROWS = 65536
EMPTY_VALUES = frozenset((b"", b"None", b"none", b"<NA>", b"?", b"."))
_MARKS = (b'"', b"'", b"#")  # of quotes and comments
_WORD = re.compile(rb"\s*(\S+)")
_CLOSING = {quote: re.compile(quote + rb"(?=\s|$)") for quote in (b'"', b"'")}


@dataclass(frozen=True)
class StarTable:
    """One table of a STAR file: its columns, and where its rows lie in the file.

    ``columns`` lack the leading underscore. For a loop, ``header_end`` and ``rows_start`` are byte offsets behind the
    last column name and of the first row; for a simple list, ``values`` holds its one row. ``numbered``: column names
    are followed by #1, #2, ...
    """

    path: Path
    name: str
    columns: tuple[str, ...]
    is_loop: bool
    n_rows: int
    header_end: int
    rows_start: int
    numbered: bool
    values: tuple[bytes, ...] = ()

    def __contains__(self, column: str) -> bool:
        return column in self.columns


def split_row(line: bytes) -> list[bytes]:
    """Split one line into its values: quotes taken off, an empty string kept as a value, comments dropped."""
    if not any(mark in line for mark in _MARKS):
        return line.split()
    return [value for _, _, value in _tokens(line)]


def _tokens(line: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Begin and end of each value in a line, quotes included, and the value without them.

    A quoted value ends at a quote that white space (or the line's end) follows; '#' opens a comment only at a word's
    start (Hall, J. Chem. Inf. Comput. Sci. 31, 326 (1991)). Time grows with the line's length, whatever is in it: a
    quote that is not closed behind one word is not looked for behind the next.
    """
    line, position = line.rstrip(), 0
    unclosed: set[bytes] = set()
    while (word := _WORD.match(line, position)) is not None:
        begin, first = word.start(1), word[1][:1]
        if first == b"#":
            return
        close = _CLOSING[first].search(line, begin + 1) if first in _CLOSING and first not in unclosed else None
        if close is not None:
            position = close.end()
            yield begin, position, line[begin + 1 : close.start()]
        else:
            unclosed.add(first)
            position = word.end()
            yield begin, position, word[1]


def values_end(line: bytes) -> int:
    """Offset behind the last value of a row, before a comment, blanks and the line's end."""
    if b"#" in line:
        return max((end for _, end, _ in _tokens(line)), default=0)
    return len(line.rstrip())


def value_span(line: bytes, place: int) -> tuple[int, int]:
    """Offsets of the begin and end of value number ``place`` (from 0) of a row, quotes included."""
    begin, end, _ = next(itertools.islice(_tokens(line), place, None))
    return begin, end


def scan_star(path: str | os.PathLike[str]) -> tuple[StarTable, ...]:
    """Find every table of a STAR file in one pass; a file that has not changed since is not read again.

    Raises
    ------
    InputError : no such file, no ``data_`` block in it, a repeated column.
    """
    path = Path(path)
    try:
        state = path.stat()
    except OSError:
        return _scan(path)  # says why
    return _known_tables(path, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


@functools.lru_cache(maxsize=8)
def _known_tables(path: Path, state: tuple[int, ...]) -> tuple[StarTable, ...]:
    return _scan(path)


def _scan(path: Path) -> tuple[StarTable, ...]:
    tables: list[StarTable] = []
    block: _OpenBlock | None = None
    position = 0
    with open_star(path) as file:
        for line in file:
            start, position = position, position + len(line)
            if block is not None and block.in_rows:
                # A row may begin with anything; only a lone word can open the next block.
                if line.isspace() or line.startswith(b"#"):
                    continue
                if not line.startswith((b"data_", b"loop_")) or len(line.split()) > 1:
                    block.n_rows += 1
                    continue
            words = line.split(None, 1)
            if not words or words[0].startswith(b"#"):
                continue
            word = words[0]
            if word.startswith(b"data_"):
                if block is not None:
                    tables.extend(block.close(path))
                block = _OpenBlock(_text(word[5:]))
            elif block is None:
                raise InputError(
                    str(path), "must begin with a data_ block", _text(line.strip()[:60]), "Give a STAR file."
                )
            elif word == b"loop_":
                if block.columns:
                    tables.extend(block.close(path))
                block = _OpenBlock(block.name, is_loop=True)
            elif word.startswith(b"_"):
                values = split_row(words[1]) if len(words) > 1 else []
                block.columns.append(_text(word[1:]))
                block.header_end = position
                if not block.is_loop:
                    block.values.append(values[0] if values else b"")
                else:
                    block.numbered = len(words) > 1
            elif block.is_loop and block.columns:
                block.in_rows, block.rows_start, block.n_rows = True, start, 1
            else:
                raise InputError(
                    f"{path}, table data_{block.name}",
                    "must hold columns before rows",
                    _text(line.strip()[:60]),
                    "Repair the file or write it again with RELION.",
                )
    if block is not None:
        tables.extend(block.close(path))
    if not tables:
        raise InputError(str(path), "must hold at least one table", "none", "Give a STAR file with particles.")
    return tuple(tables)


class _OpenBlock:
    """A table that the scanner is still inside of."""

    def __init__(self, name: str, is_loop: bool = False) -> None:
        self.name, self.is_loop = name, is_loop
        self.columns: list[str] = []
        self.values: list[bytes] = []
        self.header_end = self.rows_start = self.n_rows = 0
        self.in_rows = self.numbered = False

    def close(self, path: Path) -> list[StarTable]:
        if not self.columns:
            return []
        repeated = {name for name, count in Counter(self.columns).items() if count > 1}
        if repeated:
            raise InputError(
                f"{path}, table data_{self.name}",
                "must name each column once",
                ", ".join(sorted(repeated)),
                "Remove the repeated columns.",
            )
        rows = self.n_rows if self.is_loop else 1
        return [
            StarTable(
                path,
                self.name,
                tuple(self.columns),
                self.is_loop,
                rows,
                self.header_end,
                self.rows_start if self.n_rows else self.header_end,
                self.numbered,
                tuple(self.values),
            )
        ]


def find_particle_table(tables: Sequence[StarTable], kind: str = "") -> StarTable:
    """The table with ``rlnImageName``: the one named particles, else the first.

    ``kind`` says in words what the file is, should it hold no particles.

    Raises
    ------
    InputError : no table has image names, or it has no rows.
    """
    candidates = [table for table in tables if "rlnImageName" in table]
    if not candidates:
        found = "; ".join(f"data_{t.name} with {len(t.columns)} columns" for t in tables)
        raise InputError(
            str(tables[0].path),
            "must hold a table with the column rlnImageName",
            f"{kind}: {found}" if kind else found,
            _particles_beside(tables[0].path),
        )
    table = next((t for t in candidates if t.name == "particles"), candidates[0])
    if table.n_rows == 0:
        raise InputError(f"{table.path}, table data_{table.name}", "must hold particles", "0 rows", "Give another one.")
    return table


def _particles_beside(path: Path) -> str:
    """Which file to give instead of one that holds no particles: the refinement's own, where it lies beside."""
    for ending in ("_model.star", "_optimiser.star", "_sampling.star"):
        beside = path.with_name(path.name.replace(ending, "_data.star"))
        if beside != path and beside.is_file():
            return f"Give {beside}."
    return "Give a file that lists particles (Refine3D's run_data.star, Extract's particles.star)."


def find_optics_table(tables: Sequence[StarTable]) -> StarTable | None:
    """The table ``data_optics`` (RELION 3.1 and later), or None."""
    return next((table for table in tables if table.name == "optics"), None)


def iter_rows(table: StarTable, chunk_rows: int = CHUNK_ROWS) -> Iterator[list[list[bytes]]]:
    """Yield the table's rows, split into values, at most ``chunk_rows`` at a time.

    Raises
    ------
    InputError : a row with too few or too many values (named with its number, counted from 1).
    """
    done = 0
    for lines in _iter_row_lines(table, chunk_rows):
        yield _split_rows(lines, table, done)
        done += len(lines)


def _split_rows(lines: list[bytes], table: StarTable, first: int) -> list[list[bytes]]:
    """The values of lines, which hold the table's rows from number ``first`` on. InputError as :func:`iter_rows`."""
    width, rows = len(table.columns), [split_row(line) for line in lines]
    for number, row in enumerate(rows, start=first + 1):
        if len(row) != width:
            raise InputError(
                f"{table.path}, table data_{table.name}, row {number}",
                f"must hold {width} values, one for each column",
                f"{len(row)} values",
                "The file may be cut off, or a value with a blank in it may lack quotes.",
            )
    return rows


def _iter_columns(table: StarTable, places: Sequence[int]) -> Iterator[tuple[int, list[list[bytes]]]]:
    """Yield a number of rows, CHUNK_ROWS at most, and their values in the columns ``places``, a list a column.

    Lines without quotes and comments are split together, which is faster than one by one. Raises InputError as
    :func:`iter_rows`.
    """
    width, done = len(table.columns), 0
    for lines in _iter_row_lines(table, CHUNK_ROWS):
        block = b"".join(lines)
        if not any(mark in block for mark in _MARKS) and _words_spread_evenly(block, lines, width):
            values = block.split()
            columns = [values[place::width] for place in places]
        else:
            rows = _split_rows(lines, table, done)
            columns = [[row[place] for row in rows] for place in places]
        yield len(lines), columns
        done += len(lines)


def _words_spread_evenly(block: bytes, lines: list[bytes], width: int) -> bool:
    """Whether each of ``lines``, joined in ``block``, holds ``width`` words."""
    letters = np.frombuffer(block, np.uint8)
    white = (letters == ord(" ")) | (letters - np.uint8(9) <= 4)  # as bytes.split has it: a blank, or \t \n \v \f \r
    begins = ~white
    begins[1:] &= white[:-1]
    found = np.flatnonzero(begins)
    ends = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)))
    if len(found) != width * len(lines):
        return False
    first, last = found[::width], found[width - 1 :: width]
    return bool((first[1:] >= ends[:-1]).all() and (last < ends).all())


def read_columns(
    table: StarTable, numeric: Sequence[str] = (), text: Sequence[str] = (), images: Sequence[str] = ()
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, tuple[list[str], npt.NDArray[np.int32]]]]:
    """Read columns of a table in one pass.

    Parameters
    ----------
    numeric : names to read as numbers; empty strings, None, ``?`` and ``.`` become NaN.
    text : names to read as text.
    images : names of columns like ``000012@stack.mrcs``: the number (NaN if there is none) goes to ``numbers``, the
        stack to ``texts``.

    Returns
    -------
    numbers : name -> (N,) float64
    texts : name -> (unique strings in order of appearance, (N,) int32 index into them)

    Raises
    ------
    InputError : a value of a numeric column is not a number; a malformed row.
    """
    numbers = {name: np.empty(table.n_rows) for name in (*numeric, *images)}
    texts: dict[str, tuple[dict[bytes, int], npt.NDArray[np.int32]]] = {
        name: ({}, np.empty(table.n_rows, np.int32)) for name in (*text, *images)
    }
    names = list(dict.fromkeys((*numbers, *texts)))
    done = 0
    for count, columns in _iter_columns(table, [table.columns.index(name) for name in names]):
        values = dict(zip(names, columns))
        part = slice(done, done + count)
        for name in images:
            pairs = [value.partition(b"@") for value in values[name]]
            numbers[name][part] = _to_numbers([n if at else b"?" for n, at, _ in pairs], table, name, done)
            values[name] = [stack if at else whole for whole, at, stack in pairs]
        for name in numeric:
            numbers[name][part] = _to_numbers(values[name], table, name, done)
        for name, (known, index) in texts.items():
            index[part] = [known.setdefault(value, len(known)) for value in values[name]]
        done = part.stop
    return numbers, {name: ([_text(key) for key in known], index) for name, (known, index) in texts.items()}


def read_column(table: StarTable, name: str) -> npt.NDArray[np.float64] | npt.NDArray[np.str_]:
    """One column: float64 (N,) when every value is a number or empty (NaN), else str (N,).

    Raises InputError for a malformed row.
    """
    strings, index = read_columns(table, text=[name])[1][name]
    try:
        return np.array([_number(value.encode()) for value in strings], np.float64)[index]
    except ValueError:
        return np.array(strings, dtype=np.str_)[index]


def _to_numbers(values: list[bytes], table: StarTable, name: str, first: int) -> npt.NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        result = np.empty(len(values))
        for i, value in enumerate(values):
            try:
                result[i] = _number(value)
            except ValueError:
                raise InputError(
                    f"{table.path}, column {name}, row {first + i + 1}",
                    "must be a number",
                    _text(value),
                    "Repair the row.",
                ) from None
        return result


def _number(value: bytes) -> float:
    return np.nan if value in EMPTY_VALUES else float(value)


def _iter_row_lines(table: StarTable, chunk_rows: int) -> Iterator[list[bytes]]:
    if not table.is_loop:
        yield [b" ".join(quote(_text(value)).encode("utf-8", "surrogateescape") for value in table.values)]
        return
    left = table.n_rows
    with open_star(table.path) as file:
        file.seek(table.rows_start)
        while left and (lines := list(itertools.islice(file, min(left, chunk_rows)))):
            if rows := [line for line in lines if is_row(line)]:
                yield rows
            left -= len(rows)
    if left:
        raise InputError(str(table.path), "changed while it was read", f"{left} rows missing", "Start again.")


def is_row(line: bytes) -> bool:
    """Whether a line behind a loop's header holds values (blank lines and comment lines do not)."""
    return not (line.isspace() or line.startswith(b"#"))


_PLAIN = re.compile(r"""[^\s"'#_;$]\S*""")
"""Text that a STAR reader takes for one value without quotes."""


def quote(value: object) -> str:
    """The text of one value as a STAR reader gets it back: quotes around blanks, ``""`` for an empty string.

    Raises InputError for line breaks, and for text that no quotes can hold.
    """
    text = repr(float(value)) if isinstance(value, float | np.floating) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    if "\n" in text or "\r" in text:
        raise InputError("STAR value", "must fit on one line", repr(text), "Remove the line break.")
    if not re.search(r'"(\s|$)', text):
        return f'"{text}"'
    if not re.search(r"'(\s|$)", text):
        return f"'{text}'"
    raise InputError("STAR value", "must not mix both kinds of quotes before blanks", text, "Rename it.")


def texts(values: Sequence[object] | npt.NDArray[np.generic]) -> list[bytes]:
    """:func:`quote` of each value, as bytes. Raises InputError as that."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return [repr(value).encode() for value in values.tolist()]
    return [quote(value).encode("utf-8", "surrogateescape") for value in values]


def open_star(path: Path) -> BinaryIO:
    """Open a STAR file for reading bytes. Raises InputError if it cannot be opened."""
    return open_file(path, str(path), "a readable STAR file", "Check the path.")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
