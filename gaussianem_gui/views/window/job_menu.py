"""What can be done with the jobs chosen, as a menu."""

from __future__ import annotations

from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QMenu, QWidget

from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import plain
from gaussianem_gui.views.window.command import Command, Commands


def job_menu(commands: Commands, of_jobs: list[Command], parent: QWidget, *, several: bool) -> QMenu:
    """The commands of jobs, each with the reason where it is not possible now; ``several`` jobs can be compared."""
    menu = QMenu(parent)
    marks = QMenu("Mark as", menu)
    for command in of_jobs:
        if command.id == "delete":
            if several:
                menu.addAction(commands.actions["compare"])
            menu.addMenu(marks)
            menu.addSeparator()
        tint = "danger" if command.id == "delete" else "muted"
        item = (marks if "/" in command.menu else menu).addAction(theme.icon(command.icon, tint), command.text)
        item.setShortcut(QKeySequence(command.shortcut))
        reason = command.reason()
        item.setEnabled(not reason)
        item.setToolTip(plain(reason or command.tip))
        item.triggered.connect(lambda _c=False, c=command: commands.trigger(c.id))
        if command.id in ("unrequest", "note", "folder"):
            menu.addSeparator()
    menu.setToolTipsVisible(True)
    return menu
