"""The whole window for one view: everything beside it and beside the widgets that hold it is hidden for a while."""

from __future__ import annotations

from PySide6.QtCore import QObject
from PySide6.QtWidgets import (
    QDockWidget,
    QMainWindow,
    QMenuBar,
    QSplitterHandle,
    QStackedWidget,
    QStatusBar,
    QTabWidget,
    QToolBar,
    QWidget,
)

BARS = (QDockWidget, QMenuBar, QStatusBar, QToolBar)  # of a main window; what else lies there floats above it


class FullWindow(QObject):
    """``toggle`` gives ``view`` the window, or gives back what was hidden for it. The view is not moved: an OpenGL
    canvas that changes its window loses its context on some drivers."""

    def __init__(self, view: QWidget) -> None:
        super().__init__(view)
        self.view = view
        self._hidden: list[QWidget] = []

    @property
    def on(self) -> bool:
        """True while the view has the whole window."""
        return bool(self._hidden)

    def toggle(self) -> None:
        """Hide everything beside the view, or show again what was hidden for it."""
        hidden, self._hidden = self._hidden, []
        if hidden:
            for widget in hidden:
                widget.show()
        else:
            self._hidden = self._beside()
            for widget in self._hidden:
                widget.hide()

    def _beside(self) -> list[QWidget]:
        """What is visible beside the view and beside each of its ancestors, up to the window."""
        found: list[QWidget] = []
        inner = self.view
        while (outer := inner.parentWidget()) is not None and not inner.isWindow():
            if isinstance(outer, QTabWidget):
                found.append(outer.tabBar())
            elif not isinstance(outer, QStackedWidget):
                found += [child for child in outer.children() if isinstance(child, QWidget) and _beside(child, inner)]
            inner = outer
        return found


def _beside(child: QWidget, inner: QWidget) -> bool:
    if child is inner or child.isHidden() or child.isWindow() or isinstance(child, QSplitterHandle):
        return False
    return not isinstance(child.parentWidget(), QMainWindow) or isinstance(child, BARS)
