"""The bar at the top of the window: project, search, theme, settings, guide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QLabel, QMenu, QPushButton, QToolBar

from gaussianem_gui.project.project import recent_projects
from gaussianem_gui.views.toolkit.theme import logo, theme
from gaussianem_gui.views.toolkit.widgets import button, icon_button, keep_icon, label, row
from gaussianem_gui.views.window.command import Commands

MOST_RECENT = 8
LONGEST_PATH = 48  # letters


class ProjectBar(QToolBar):
    """``opened`` is called with the directory of a recent project that is chosen."""

    def __init__(self, commands: Commands, opened: Callable[[Path], object]) -> None:
        super().__init__("Project bar")
        self._commands, self._opened = commands, opened
        self._root: Path | None = None
        self.setObjectName("projectBar")
        self.setMovable(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        mark = QLabel()
        mark.setPixmap(logo(26))
        self.project = QPushButton("GaussianEM")
        self.project.setProperty("kind", "ghost")
        self.project.setProperty("menu", True)
        self.project.setObjectName("projectButton")
        self.project.setStyleSheet("font-weight: 600; font-size: 11pt;")
        self.menu = QMenu(self.project)
        self.menu.aboutToShow.connect(self._fill)
        self.project.setMenu(self.menu)
        self.path = label("", "faint")
        search = button(
            "Jump to a job or action …          Ctrl+K",
            "search",
            "search",
            commands["palette"].run,
            name="searchButton",
        )
        keep_icon(search, "search", "faint")
        search.setMinimumWidth(310)
        search.setAccessibleName("Command palette")
        self.theme = icon_button("sun", "Dark or light (Ctrl+Shift+L)", commands["theme"].run, name="themeButton")
        layout = row(
            mark,
            self.project,
            self.path,
            None,
            search,
            None,
            self.theme,
            icon_button("settings", "Settings (Ctrl+,)", commands["settings"].run, name="settingsButton"),
            icon_button("book", "Guide (F1)", commands["guide"].run, name="guideButton"),
            spacing=8,
            margins=(14, 7, 12, 7),
        )
        holder = QFrame()
        holder.setProperty("role", "topbar")
        holder.setLayout(layout)
        self.addWidget(holder)
        holder.setSizePolicy(holder.sizePolicy().horizontalPolicy().Expanding, holder.sizePolicy().verticalPolicy())
        self.layout().setContentsMargins(0, 0, 0, 0)
        theme.changed.connect(self._restyle)

    def show_project(self, root: Path | None) -> None:
        """Name the open project; None for no project."""
        self._root = root
        self.project.setText(root.name if root is not None else "GaussianEM")
        self.path.setText(short_path(root) if root is not None else "no project open")

    def _fill(self) -> None:
        menu, actions = self.menu, self._commands.actions
        menu.clear()
        for identifier in ("open_project", "new_project", "demo"):
            menu.addAction(actions[identifier])
        recent = [path for path in recent_projects() if path != self._root][:MOST_RECENT]
        if recent:
            menu.addSeparator()
            menu.addAction("Recent").setEnabled(False)
            for path in recent:
                menu.addAction(theme.icon("folder"), str(path), lambda p=path: self._opened(p))
        if self._root is not None:
            menu.addSeparator()
            for identifier in ("import", "workflow", "trash", "cluster", "repair", "close_project"):
                menu.addAction(actions[identifier])

    def _restyle(self) -> None:
        keep_icon(self.theme, "sun" if theme.name == "dark" else "moon", "muted")


def short_path(path: Path) -> str:
    """A path with the home directory as ~, its middle left out from LONGEST_PATH letters on."""
    text, home = str(path), str(Path.home())
    text = "~" + text[len(home) :] if text.startswith(home + "/") else text
    return text if len(text) < LONGEST_PATH else f"{text[:20]} … {text[-24:]}"
