"""The guide's option tables say what the models say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.job import option_table
from gaussianem_core.options import JOB_OPTIONS, TrainOptions

PAGE = Path(__file__).parents[3] / "resources" / "guide" / "options.md"


def test_the_guides_tables_are_the_models() -> None:
    text = PAGE.read_text()
    assert text.count(option_table.BEGIN) == text.count(option_table.END) == 1
    inside = text.partition(option_table.BEGIN)[2].partition(option_table.END)[0]
    assert inside.strip() == option_table.tables().strip(), (
        "renew them: python -m gaussianem_core.job.option_table resources/guide/options.md"
    )


def test_every_option_has_a_row() -> None:
    for name, model in JOB_OPTIONS.items():
        table = option_table.job_table(model)
        rows = re.findall(r"^\| `--(\w+)`", table, flags=re.MULTILINE)
        assert sorted(rows) == sorted(model.model_fields), name
        assert all(line.count(" | ") == 3 for line in table.splitlines() if line.startswith("| `"))


def test_what_a_row_says() -> None:
    table = option_table.job_table(TrainOptions)
    assert "| `--source_dir`, `-s` |" in table
    assert "| `--batch` | images per step | `32` | whole number ≥ 1 ≤ 65536 |" in table
    assert re.search(r"\| `--resume` \| .* \| no \| flag \|", table)
    assert re.search(r"\| `--lr` \| .* \|  \| number > 0 ≤ 10 \|", table)
    assert "| `default` | `default`, `published` |" in table


def test_renewing_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{option_table.BEGIN}\nstale words\n{option_table.END}\nafter\n")
    assert option_table.main([str(file)]) == 0
    text = file.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale words" not in text
    assert option_table.tables().strip() in text
    assert option_table.main([str(file)]) == 0 and file.read_text() == text
    assert option_table.main([]) == 0 and capsys.readouterr().out.strip() == option_table.tables().strip()
    file.write_text("nothing")
    with pytest.raises(InputError, match="must hold the lines"):
        option_table.renew(file)
