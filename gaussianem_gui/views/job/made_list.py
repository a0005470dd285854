"""What a job has made, one line each; a click shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import QFrame, QHeaderView, QTreeWidget, QTreeWidgetItem

from gaussianem_gui.views.job.fields import sentence
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column, label

PATH = Qt.ItemDataRole.UserRole
ICONS = {"volume": "cube", "volume_series": "cube", "map": "cube", "half_map": "cube", "mask": "cube", "plot": "image"}
ICONS |= {"stack": "image", "particles": "image", "gaussians": "points", "latents": "job-analyze", "report": "list"}


class MadeList(QFrame):
    """The files that a job has reported, with what they are; hidden while there are none. ``chosen`` comes with one
    that is clicked."""

    chosen = Signal(object)  # Path

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "card")
        self._shown: object = None
        self.list = QTreeWidget()
        self.list.setObjectName("madeList")
        self.list.setAccessibleName("What the job has made")
        self.list.setColumnCount(2)
        self.list.setHeaderHidden(True)
        self.list.setRootIsDecorated(False)
        self.list.header().setStretchLastSection(False)
        self.list.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.list.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.list.itemClicked.connect(lambda item, _column: self.chosen.emit(item.data(0, PATH)))
        self.list.itemActivated.connect(lambda item, _column: self.chosen.emit(item.data(0, PATH)))
        self.setLayout(column(label("What it made", "heading"), self.list, spacing=8, margins=(14, 9, 8, 9)))
        theme.changed.connect(lambda: self.show_made([], Path()))

    def show_made(self, artifacts: list[dict[str, Any]], directory: Path) -> None:
        """List artifacts (kind, label, and path from ``directory``); nothing is redrawn while they are the same."""
        lines = [(str(a["kind"]), str(a.get("label") or a["path"]), str(a["path"])) for a in artifacts]
        if (lines, directory) == self._shown:
            return
        self._shown = (lines, directory)
        self.list.clear()
        faint = QBrush(QColor(theme.colour("faint")))
        for kind, text, path in lines:
            item = QTreeWidgetItem([sentence(text), path])
            item.setIcon(0, theme.icon(ICONS.get(kind, "list")))
            item.setForeground(1, faint)
            item.setToolTip(0, sentence(text))
            item.setData(0, PATH, directory / path)
            self.list.addTopLevelItem(item)
        self.setVisible(bool(lines))
