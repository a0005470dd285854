"""The tables of a STAR file, and the rows of a .cs file, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QAbstractItemView, QComboBox, QTableWidget, QTableWidgetItem, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.star import iter_rows, scan_star
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import mono_font
from gaussianem_gui.views.toolkit.widgets import column, label, row

MOST_ROWS = 500  # shown of a table


@dataclass(frozen=True)
class Table:
    """The first rows of a table, as text, and how many rows there are."""

    name: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    count: int


def read_tables(path: Path) -> list[Table]:
    """The tables of a STAR file, or the one of a .cs file. Raises InputError."""
    if path.suffix.lower() == ".cs":
        values = load_cs(path, mmap=True)
        names = tuple(values.dtype.names or ())
        rows = [[_text(values[name][n]) for name in names] for n in range(min(len(values), MOST_ROWS))]
        return [Table(path.stem, names, rows, len(values))]
    found = []
    for table in scan_star(path):
        first = next(iter(iter_rows(table, MOST_ROWS)), []) if table.is_loop else [list(table.values)]
        rows = [[value.decode("utf-8", "replace") for value in values] for values in first]
        found.append(Table(table.name, table.columns, rows, table.n_rows))
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return " ".join(f"{part:.5g}" for part in value.reshape(-1)[:9])
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


class TableView(QWidget):
    """One table at a time; those of the file are in a menu."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("tableView")
        self._background = Background(self)
        self.tables: list[Table] = []
        self.which = QComboBox()
        self.which.setAccessibleName("Table of the file")
        self.which.currentIndexChanged.connect(self._fill)
        self.text = label("", "muted")
        self.grid = QTableWidget()
        self.grid.setAccessibleName("Rows of the table")
        self.grid.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.grid.setFont(mono_font(9))
        layout = column(spacing=8, margins=(14, 10, 14, 10))
        layout.addLayout(row(self.which, self.text, None))
        layout.addWidget(self.grid, 1)
        self.setLayout(layout)

    def show_file(self, path: Path) -> None:
        """Show the tables of a file, read in a worker; the longest is in front."""
        self.text.setText("Reading …")
        self._background.run("tables", lambda: read_tables(path), self._take, self._failed)

    def _take(self, tables: list[Table]) -> None:
        self.tables = tables
        self.which.blockSignals(True)
        self.which.clear()
        self.which.addItems([table.name or "(without a name)" for table in tables])
        longest = max(range(len(tables)), key=lambda n: tables[n].count, default=0)
        self.which.setCurrentIndex(longest)
        self.which.blockSignals(False)
        self.which.setVisible(len(tables) > 1)
        self._fill()

    def _fill(self) -> None:
        place = self.which.currentIndex()
        if not 0 <= place < len(self.tables):
            return
        table = self.tables[place]
        self.grid.clear()
        self.grid.setColumnCount(len(table.columns))
        self.grid.setRowCount(len(table.rows))
        self.grid.setHorizontalHeaderLabels([name.removeprefix("_") for name in table.columns])
        for y, values in enumerate(table.rows):
            for x, value in enumerate(values):
                self.grid.setItem(y, x, QTableWidgetItem(value))
        self.grid.resizeColumnsToContents()
        first = f"the first {len(table.rows):,} of " if len(table.rows) < table.count else ""
        self.text.setText(f"{first}{table.count:,} rows, {len(table.columns)} columns")

    def _failed(self, error: Exception) -> None:
        self.grid.setRowCount(0)
        self.text.setText(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
