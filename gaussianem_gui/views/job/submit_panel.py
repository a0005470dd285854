"""Beside a job's form: what the checks say, the command line that will run, and the buttons."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication, QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QComboBox, QLabel, QPlainTextEdit, QWidget

from gaussianem_gui.execution.estimates import Check
from gaussianem_gui.views.toolkit.theme import mono_font, theme
from gaussianem_gui.views.toolkit.widgets import button, clear, column, frame, icon_button, label, row, scrolled

LOOKING = Check("info", "Looking at the options …")
LEVELS = {
    "ok": ("check", "success"),
    "info": ("info", "muted"),
    "warning": ("warning", "warning"),
    "error": ("x-circle", "danger"),
}


class SubmitPanel(QWidget):
    """Checks, command line and buttons. ``fieldRequested`` comes with the option of a check that is clicked."""

    runRequested = Signal()
    saveRequested = Signal()
    keepRequested = Signal()
    fieldRequested = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("submitPanel")
        self._checks = column(spacing=8)
        self.checks: list[Check] = []
        self.show_checks([LOOKING])
        checks = frame("card")
        inside = column(label("Before it runs", "heading"), spacing=10, margins=(16, 14, 16, 14))
        inside.addLayout(self._checks)
        checks.setLayout(inside)

        self.command = QPlainTextEdit()
        self.command.setReadOnly(True)
        self.command.setProperty("role", "plain")
        self.command.setFont(mono_font(8.5))
        self.command.setAccessibleName("Command line that will run")
        self.command.setMinimumHeight(96)
        self.command.setMaximumHeight(180)
        self.copied = label("", "hint")
        command = frame("card")
        top = row(
            label("What will run", "heading"),
            None,
            self.copied,
            icon_button("copy", "Copy the command line for a terminal", self.copy, size=16, name="copyCommand"),
        )
        below = column(spacing=4, margins=(16, 12, 12, 12))
        below.addLayout(top)
        below.addWidget(self.command)
        command.setLayout(below)
        self.keep = button(
            "Keep these values as my defaults",
            "ghost",
            "",
            self.keepRequested.emit,
            "New jobs of this type start with them; see Settings",
            name="keepDefaults",
        )

        self.where = QComboBox()
        self.where.addItem("This computer", "local")
        self.where.addItem("Cluster queue", "cluster")
        self.where.setAccessibleName("Where to run")
        self.where.setObjectName("where")
        self.run = button("Run", "primary", "play", self.runRequested.emit, "Run it (Ctrl+R)", name="runButton")
        self.run.setMinimumHeight(26)
        self.save = button(
            "Save for later",
            "",
            "",
            self.saveRequested.emit,
            "Put it in the list without running it",
            name="saveButton",
        )
        self.note = label("", "hint", wrap=True)
        self.note.hide()
        self.buttons = QWidget()
        buttons = column(spacing=10)
        buttons.addLayout(row(label("Run on", "muted"), self.where, spacing=10))
        buttons.itemAt(0).layout().setStretch(1, 1)
        buttons.addWidget(self.run)
        buttons.addWidget(self.save)
        buttons.addWidget(self.note)
        self.buttons.setLayout(buttons)

        self._content = column(self.buttons, checks, command, self.keep, spacing=14, margins=(8, 16, 20, 24))
        self._content.addStretch(1)
        content = QWidget()
        content.setObjectName("page")
        content.setLayout(self._content)
        layout = column(spacing=0)
        layout.addWidget(scrolled(content))
        self.setLayout(layout)
        self.setMinimumWidth(290)
        self._root = ""

    def say(self, text: str) -> None:
        """Show a sentence below the buttons; "" for none."""
        self.note.setText(text)
        self.note.setVisible(bool(text))

    def show_checks(self, checks: list[Check]) -> None:
        """List the checks, worst first and what is only told last."""
        order = ["error", "warning", "ok", "info"]
        checks = sorted(checks, key=lambda c: order.index(c.level))
        if checks == self.checks and self._checks.count():
            return
        self.checks = checks
        clear(self._checks)
        for check in checks:
            icon, colour = LEVELS[check.level]
            picture = QLabel()
            picture.setPixmap(theme.pixmap(icon, colour, 16))
            picture.setFixedWidth(18)
            picture.setAccessibleName(check.level)
            text = (
                _Link(check.text, lambda f=check.field: self.fieldRequested.emit(f))
                if check.field
                else label(check.text, "muted" if check.level == "info" else "", wrap=True)
            )
            line = row(picture, text, spacing=8)
            line.setStretch(1, 1)
            self._checks.addLayout(line)

    def show_command(self, text: str, root: str) -> None:
        """Show the command line; ``root`` is the directory where it is to be run, "" if the text is no command."""
        self._root = root
        if self.command.toPlainText() != text:
            self.command.setPlainText(text)
        self.copied.setText("")

    def copy(self) -> None:
        """Put ``cd PROJECT && COMMAND`` on the clipboard."""
        text = self.command.toPlainText()
        QGuiApplication.clipboard().setText(f"cd {shlex.quote(self._root)} && {text}" if self._root else text)
        self.copied.setText("copied")
        QTimer.singleShot(2000, self.copied, lambda: self.copied.setText(""))


class _Link(QLabel):
    """Wrapped text that is clicked or entered to go somewhere."""

    def __init__(self, text: str, on_click: Callable[[], object]) -> None:
        super().__init__(text)
        self.setWordWrap(True)
        self._on_click = on_click
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName(f"{text}. Go to the field")
        self.setToolTip("Go to the field")
        self.setStyleSheet(f"color: {theme.colour('accent')};")

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._on_click()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self._on_click()
        else:
            super().keyPressEvent(event)
