"""The guide: its pages at the left, the text at the right."""

from __future__ import annotations

from importlib import resources

from PySide6.QtWidgets import (
    QDialog,
    QListWidget,
    QSplitter,
    QTextBrowser,
    QWidget,
)

from gaussianem_gui.views.toolkit.widgets import column


def guide_pages() -> list[tuple[str, str]]:
    """(title, Markdown) of every page of the guide, in the order of the files' names; the title is a page's first
    line."""
    folder = resources.files("gaussianem_resources") / "guide"
    pages = []
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".md")), key=lambda f: f.name):
        text = file.read_text(encoding="utf-8")
        pages.append((text.splitlines()[0].lstrip("# ").strip(), text))
    return pages


class Guide(QDialog):
    """The short guide: pages at the left, text at the right. Not modal, so that one can follow it."""

    def __init__(self, parent: QWidget | None) -> None:
        super().__init__(parent)
        self.setObjectName("guide")
        self.setWindowTitle("Guide")
        self.resize(860, 620)
        self.pages = guide_pages()
        self.list = QListWidget()
        self.list.setAccessibleName("Pages of the guide")
        self.list.setMaximumWidth(230)
        self.list.setSpacing(2)
        self.list.ensurePolished()
        self.list.addItems([title for title, _ in self.pages])
        self.text = QTextBrowser()
        self.text.setOpenExternalLinks(True)
        self.text.setProperty("role", "plain")
        self.text.setAccessibleName("Text of the guide")
        self.text.document().setDocumentMargin(20)
        self.list.currentRowChanged.connect(self._show)
        split = QSplitter()
        split.addWidget(self.list)
        split.addWidget(self.text)
        split.setStretchFactor(1, 1)
        self.setLayout(column(split, margins=(8, 8, 8, 8)))
        self.list.setCurrentRow(0)

    def _show(self, number: int) -> None:
        if 0 <= number < len(self.pages):
            self.text.setMarkdown(self.pages[number][1])
