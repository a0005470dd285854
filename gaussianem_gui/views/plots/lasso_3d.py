"""A free outline drawn over the 3D view, and where points of the molecule are seen on the screen."""

from __future__ import annotations

from typing import Any

import numpy as np
from PySide6.QtCore import QEvent, QObject, QPointF, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QWidget

from gaussianem_gui.explorer.picking import inside_polygon
from gaussianem_gui.views.toolkit.theme import theme

REACH_PIXELS = 9  # of the pointer, for the point under it


def on_screen(view: Any, layer: Any) -> np.ndarray:  # (N, 2) pixels of the canvas
    """Where the points of a napari layer are seen."""
    node = view.canvas.layer_to_visual[layer].node
    seen = node.get_transform("visual", "canvas").map(np.asarray(layer.data)[:, ::-1])
    return np.asarray(seen[:, :2] / seen[:, 3:])


def point_under(places: np.ndarray, x: float, y: float) -> int | None:  # (N, 2)
    """Row of the place nearest to the pointer at x, y (pixels); None if none is within REACH_PIXELS."""
    if not len(places):
        return None
    distance = np.hypot(places[:, 0] - x, places[:, 1] - y)
    nearest = int(distance.argmin())
    return nearest if distance[nearest] <= REACH_PIXELS else None


class Lasso3D(QWidget):
    """Lies over the canvas while an outline is drawn; ``drawn`` comes with the outline, ``given_up`` where Esc was
    pressed, and it hides."""

    drawn = Signal(object)  # (V, 2) pixels of the canvas
    given_up = Signal()

    def __init__(self, canvas: QWidget) -> None:
        super().__init__(canvas)
        self.setObjectName("lasso3d")
        self.setAccessibleName("Draw around Gaussians; Esc gives up")
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._outline: list[QPointF] = []
        canvas.installEventFilter(self)
        self.hide()

    def begin(self) -> None:
        """Wait for an outline."""
        self._outline = []
        self.setGeometry(self.parentWidget().rect())
        self.show()
        self.raise_()
        self.setFocus()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the canvas's size."""
        if event.type() == QEvent.Type.Resize and watched is self.parentWidget():
            self.setGeometry(self.parentWidget().rect())
        return super().eventFilter(watched, event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._outline = [event.position()]

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._outline:
            self._outline.append(event.position())
            self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        outline = np.array([(point.x(), point.y()) for point in self._outline]).reshape(-1, 2)
        self._outline = []
        self.hide()
        self.drawn.emit(outline)

    def keyPressEvent(self, event: Any) -> None:
        if event.key() == Qt.Key.Key_Escape:
            self.hide()
            self.given_up.emit()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colour = QColor(theme.colour("accent"))
        painter.setPen(QPen(colour, 2))
        colour.setAlpha(40)
        painter.setBrush(colour)
        painter.drawPolygon(QPolygonF(self._outline))


def encircled(view: Any, layer: Any, outline: np.ndarray) -> np.ndarray:  # (V, 2) -> (N,) bool
    """True for the points of a napari layer that are seen inside an outline (pixels of the canvas), at any depth."""
    return inside_polygon(on_screen(view, layer), outline)
