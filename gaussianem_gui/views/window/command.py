"""Commands of the window: what a menu entry, a shortcut and the palette do, as one value with its callback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QMenuBar, QWidget

from gaussianem_gui.forms.actions import Action
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import plain
from gaussianem_gui.views.window.palette import PaletteEntry

MENUS = ("Project", "Job", "View", "Help")


def always() -> str:
    """The reason of a command that is always possible: ""."""
    return ""


@dataclass(frozen=True)
class Command:
    """``run`` does it; ``reason`` says why it is not possible now, "" if it is. ``menu``: "Job", or "Job/Mark".
    ``parted``: a line stands above it in the menu."""

    id: str
    text: str
    shortcut: str
    tip: str
    menu: str
    icon: str
    run: Callable[[], object]
    reason: Callable[[], str] = always
    parted: bool = False

    @classmethod
    def of(
        cls, action: Action, icon: str, run: Callable[[], object], reason: Callable[[], str], *, parted: bool = False
    ) -> Command:
        """The command that does an action of a job or project."""
        return cls(action.id, action.text, action.shortcut, action.tip, action.menu, icon, run, reason, parted)

    def entry(self) -> PaletteEntry:
        """The command as an entry of the palette, with why it is not possible now."""
        return PaletteEntry(self.text, self.tip, self.icon, self.run, self.shortcut, self.reason())


class Commands(QObject):
    """All commands by id, with their menus. One that is not possible says why: ``refused`` is called with it."""

    def __init__(self, window: QWidget, refused: Callable[[Command, str], object]) -> None:
        super().__init__(window)  # and dies with it: icons follow the theme only as long as their actions live
        self._window, self._refused = window, refused
        theme.changed.connect(self._restyle)
        self._by_id: dict[str, Command] = {}
        self.actions: dict[str, QAction] = {}
        self.menus: dict[str, QMenu] = {}

    def __iter__(self) -> Iterator[Command]:
        return iter(self._by_id.values())

    def __getitem__(self, identifier: str) -> Command:
        return self._by_id[identifier]

    def add(self, commands: Iterable[Command]) -> None:
        """Add commands, each with a QAction that has its shortcut."""
        for command in commands:
            item = QAction(theme.icon(command.icon), command.text, self._window)
            if command.shortcut:
                item.setShortcut(QKeySequence(command.shortcut))
            item.setStatusTip(command.tip)
            item.setToolTip(command.tip)
            item.triggered.connect(lambda _c=False, i=command.id: self.trigger(i))
            self._window.addAction(item)
            self._by_id[command.id], self.actions[command.id] = command, item

    def fill(self, bar: QMenuBar) -> None:
        """Put all commands into the menus of a menu bar."""
        for title in MENUS:
            self.menus[title] = bar.addMenu(title)
            self.menus[title].aboutToShow.connect(self._explain)
            self.menus[title].aboutToHide.connect(self._enable)
        for command in self._by_id.values():
            parent, _, child = command.menu.partition("/")
            if command.menu not in self.menus:
                self.menus[command.menu] = self.menus[parent].addMenu(child)
            if command.parted:
                self.menus[parent].addSeparator()
            self.menus[command.menu].addAction(self.actions[command.id])

    def trigger(self, identifier: str) -> None:
        """Do a command by its id, or say why it is not possible now. KeyError for an unknown id."""
        command = self._by_id[identifier]
        if reason := command.reason():
            self._refused(command, reason)
        else:
            command.run()

    def _explain(self) -> None:
        """While a menu is open, what is not possible is grey and says why."""
        for command in self._by_id.values():
            reason, item = command.reason(), self.actions[command.id]
            item.setToolTip(plain(f"{command.tip}\nNot now: {reason}" if reason else command.tip))
            item.setEnabled(not reason)

    def _enable(self) -> None:
        # A shortcut of a disabled action is dead and mute: the action stays on and says why it cannot be done.
        for item in self.actions.values():
            item.setEnabled(True)

    def _restyle(self) -> None:
        """Icons in the theme's colours."""
        for command in self._by_id.values():
            self.actions[command.id].setIcon(theme.icon(command.icon))
