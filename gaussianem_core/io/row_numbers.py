"""Row numbers of particles, read from a text file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import read_text


def read_row_numbers(path: Path, count: int, argument: str) -> np.ndarray:  # -> (B,) int64
    """Row numbers from 0 in a text file: numbers or ranges such as 10-20 (both ends), blanks or commas between.

    Raises InputError about ``argument`` for other text, numbers at or above ``count``, or an empty file.
    """
    lines = read_text(path, argument, "Write numbers such as 7 or ranges such as 10-20.").splitlines()
    rows: list[int] = []
    for number, line in enumerate(lines, start=1):
        for word in line.partition("#")[0].replace(",", " ").split():
            match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", word)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if match is None or first > last or last >= count:
                raise InputError(
                    f"{argument}, line {number}",
                    f"must be numbers or ranges from 0 to {count - 1}",
                    word,
                    "Write numbers such as 7 or ranges such as 10-20.",
                )
            rows.extend(range(first, last + 1))
    if not rows:
        raise InputError(argument, "must name at least one particle", path, "Write numbers or ranges.")
    return np.array(rows, dtype=np.int64)
