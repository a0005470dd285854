"""What dialogs have in common, and the questions for a name and a directory."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import (
    QDialog,
    QFileDialog,
    QLineEdit,
    QWidget,
)

from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import button, column, label, row


class Dialog(QDialog):
    """A dialog with a heading, a body, and buttons in a row."""

    def __init__(self, parent: QWidget | None, title: str, width: int = 560) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setMinimumWidth(width)
        self.body = column(spacing=12)
        self.buttons = row(None, spacing=10)
        layout = column(spacing=16, margins=(24, 20, 24, 18))
        layout.addWidget(label(title, "heading"))
        layout.addLayout(self.body, 1)
        layout.addLayout(self.buttons)
        self.setLayout(layout)
        self.background = Background(self)

    def add_close(self, text: str = "Close") -> None:
        """Add a button that closes the dialog, the one that Enter presses."""
        close = button(text, "primary", "", self.accept, name="close")
        close.setDefault(True)
        self.buttons.addWidget(close)


def ask_text(parent: QWidget, title: str, text: str, value: str, yes: str) -> str | None:
    """Ask for one line of text, ``value`` offered and ``yes`` on the button; without blanks around it, None if the user
    cancels."""
    dialog = Dialog(parent, title, 420)
    edit = QLineEdit(value)
    edit.setAccessibleName(title)
    edit.selectAll()
    dialog.body.addWidget(label(text, "muted", wrap=True))
    dialog.body.addWidget(edit)
    dialog.buttons.addWidget(button("Cancel", "", "", dialog.reject))
    accept = button(yes, "primary", "", dialog.accept, name="confirm")
    accept.setDefault(True)
    dialog.buttons.addWidget(accept)
    return edit.text().strip() if dialog.exec() == QDialog.DialogCode.Accepted else None


def pick_directory(parent: QWidget, title: str, start: Path) -> Path | None:
    """Ask for a directory; None if the user cancels."""
    path = QFileDialog.getExistingDirectory(parent, title, str(start))
    return Path(path) if path else None
