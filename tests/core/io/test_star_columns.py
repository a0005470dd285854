"""Columns of a STAR table, whose plain rows are split together: values and errors are those of single rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.io.star import read_columns, scan_star, split_row

HEAD = "data_particles\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnMicrographName\n"
LETTERS = list("ab1@#'\"\x01\x1f\x85\xa0é.")
BLANKS = [" ", "  ", "\t", " \x0b", "\x0c"]


def written(path: Path, rows: str) -> Path:
    path.write_text(HEAD + rows + "\n\ndata_optics\n\n_rlnVoltage 300\n", newline="")
    return path


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_rows_are_split_together_as_one_by_one(tmp_path: Path, whole: bool, marks: bool) -> None:
    """Rows of ``whole`` tables have as many words as there are columns; ``marks``: of quotes and comments."""
    generator = np.random.default_rng(0)
    letters = [letter for letter in LETTERS if marks or letter not in "#'\""]
    read = refused = 0
    for _ in range(300):
        lines = []
        for _ in range(generator.integers(1, 5)):
            words = ["".join(generator.choice(letters, generator.integers(1, 4))) for _ in range(3)]
            words = words[: 3 if whole else generator.integers(1, 4)] + ([] if whole else ["a"])
            lines.append("".join(word + generator.choice(BLANKS) for word in words))
        lines = [line for line in lines if not line.startswith("#")] or ["a b c"]
        path = written(tmp_path / "a.star", "\n \n".join(lines))
        (table,) = (t for t in scan_star(path) if t.name == "particles")
        expected = [[value.decode() for value in split_row(line.encode())] for line in lines]
        wrong = [number for number, row in enumerate(expected, start=1) if len(row) != 3]
        if wrong:
            with pytest.raises(InputError, match=f"row {wrong[0]}: must hold 3 values"):
                read_columns(table, text=table.columns)
            refused += 1
            continue
        texts = read_columns(table, text=table.columns)[1]
        for column, name in enumerate(table.columns):
            strings, index = texts[name]
            assert [strings[i] for i in index] == [row[column] for row in expected]
        read += 1
    assert read > 10 and (refused > 10 or whole)


def test_rows_that_make_up_for_each_other_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.star", "1@a 1 m\n2@a 1\n3@a 1 m m\n4@a 1 m")
    with pytest.raises(InputError, match="row 2: must hold 3 values"):
        read_columns(scan_star(path)[0], numeric=["rlnDefocusU"])


def test_numbers_names_and_comments(tmp_path: Path) -> None:
    rows = ["1@a.mrcs 1.5 m", "  2@a.mrcs\tNone 'm n' # seen twice", "# not a row", "", 'b.mrcs 3e2 ""']
    path = written(tmp_path / "a.star", "\n".join(rows))
    numbers, texts = read_columns(scan_star(path)[0], ["rlnDefocusU"], ["rlnMicrographName"], ["rlnImageName"])
    assert np.array_equal(numbers["rlnDefocusU"], [1.5, np.nan, 300], equal_nan=True)
    assert np.array_equal(numbers["rlnImageName"], [1, 2, np.nan], equal_nan=True)
    assert texts["rlnImageName"][0] == ["a.mrcs", "b.mrcs"]
    assert texts["rlnMicrographName"][0] == ["m", "m n", ""]
