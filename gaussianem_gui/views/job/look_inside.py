"""What is in a file of a job, in a window of its own: images, tables, pictures, text. Volumes go to the 3D view."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QPlainTextEdit, QTextBrowser, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import read_header
from gaussianem_gui.views.plots.image_view import ImageView, read_image
from gaussianem_gui.views.plots.stack_view import StackView
from gaussianem_gui.views.plots.table_view import TableView
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import mono_font
from gaussianem_gui.views.toolkit.widgets import column, label

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".bmp")
TEXTS = (".txt", ".json", ".jsonl", ".log", ".out", ".err", ".cxc", ".csv", ".sh", ".job", ".yml", ".yaml")
MOST_TEXT = 300_000  # bytes shown of a text file


def kind_of(path: Path) -> str:
    """What a file is by its name, and an MRC file by its header: volume, gaussians, stack, table, picture, report or
    text; "" for what cannot be shown here. Raises InputError for an MRC file that is none."""
    suffix = path.suffix.lower()
    if suffix in (".mrc", ".map", ".mrcs"):
        header = read_header(path)
        return "volume" if suffix != ".mrcs" and header.shape[0] == header.shape[1] else "stack"
    if suffix == ".ply":
        return "gaussians"
    if suffix in (".star", ".cs"):
        return "table"
    if suffix in PICTURES:
        return "picture"
    if suffix == ".md":
        return "report"
    return "text" if suffix in TEXTS or path.name.startswith("RELION") else ""


class LookInside(QDialog):
    """A file in a window beside the main one, shown by its ``kind``: stack, table, picture, report or text. KeyError
    for another."""

    def __init__(self, parent: QWidget | None, path: Path, kind: str) -> None:
        super().__init__(parent)
        self.setObjectName("lookInside")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(path.name)
        self.resize(820, 600)
        self._background = Background(self)
        self.page = {
            "stack": self._stack,
            "table": self._table,
            "picture": self._picture,
            "report": self._report,
            "text": self._text,
        }[kind](path)
        where = label(str(path), "hint", selectable=True)
        where.setContentsMargins(14, 8, 14, 0)
        layout = column(where, spacing=4)
        layout.addWidget(self.page, 1)
        self.setLayout(layout)

    def _stack(self, path: Path) -> QWidget:
        view = StackView()
        view.show_stack(path)
        return view

    def _table(self, path: Path) -> QWidget:
        view = TableView()
        view.show_file(path)
        return view

    def _picture(self, path: Path) -> QWidget:
        view = ImageView()
        self._background.run("picture", lambda: read_image(path), view.set_image)
        return view

    def _report(self, path: Path) -> QWidget:
        view = QTextBrowser()
        view.setAccessibleName("Report")
        view.document().setDocumentMargin(20)
        view.setOpenLinks(False)
        self._background.run("text", lambda: read_text(path), view.setMarkdown)
        return view

    def _text(self, path: Path) -> QWidget:
        view = QPlainTextEdit()
        view.setAccessibleName("Text of the file")
        view.setReadOnly(True)
        view.setFont(mono_font(9.5))
        self._background.run("text", lambda: read_text(path), view.setPlainText)
        return view


def read_text(path: Path) -> str:
    """The first MOST_TEXT bytes of a text file, with "…" where there is more. Raises InputError for one that cannot be
    read."""
    try:
        with path.open("rb") as file:
            found = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise InputError(
            str(path), "must be readable", error.strerror or "no access", "Check its permissions."
        ) from error
    more = "\n…" if len(found) > MOST_TEXT else ""
    return found[:MOST_TEXT].decode("utf-8", "replace") + more
