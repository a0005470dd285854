"""The drawing area of an explorer plot, and what the mouse does there.

Left button: what the chosen tool does. Wheel: zoom. Middle button: move. Right button, dragged: stretch each axis.
"""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QObject, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainterPath, QPen, QResizeEvent
from PySide6.QtWidgets import QFrame, QGraphicsPathItem

from gaussianem_gui.views.toolkit.theme import theme

CLOSE_PIXELS = 12  # a polygon ends with a click this near to its first corner


class Canvas(pg.PlotWidget):
    """A plot that says where the mouse clicked, dragged or drew, in the plot's units."""

    placed = Signal(float, float, bool)  # decode tool: place, True when the button was released
    anchored = Signal(float, float)
    shaped = Signal(str, object)  # kind, outline (V, 2)
    resized = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setMenuEnabled(False)
        self.setMinimumSize(150, 120)
        self.setAccessibleName("Plot of the particles")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.tool = "decode"
        self._outline: list[QPointF] = []
        self._pressed = False
        self._sketch = QGraphicsPathItem()
        self._sketch.setZValue(50)
        self.getPlotItem().vb.addItem(self._sketch, ignoreBounds=True)
        self.viewport().installEventFilter(self)

    def set_tool(self, tool: str) -> None:
        """Choose what the left button does: decode, lasso, polygon, rectangle, anchor or pan. A shape begun is given
        up."""
        self.tool = tool
        self._abandon()
        shape = {"pan": Qt.CursorShape.OpenHandCursor, "decode": Qt.CursorShape.PointingHandCursor}
        self.viewport().setCursor(shape.get(tool, Qt.CursorShape.CrossCursor))

    def place(self, position: QPointF) -> QPointF:
        """The place in the plot's units of a position on the widget (pixels)."""
        return self.getPlotItem().vb.mapSceneToView(self.mapToScene(position.toPoint()))

    def position(self, x: float, y: float) -> QPointF:
        """The position on the widget (pixels) of a place in the plot's units."""
        return QPointF(self.mapFromScene(self.getPlotItem().vb.mapViewToScene(QPointF(x, y))))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.viewport() and isinstance(event, QMouseEvent) and self.tool != "pan":
            return self._mouse(event)
        return super().eventFilter(watched, event)

    def _mouse(self, event: QMouseEvent) -> bool:
        kind, left = event.type(), event.button() == Qt.MouseButton.LeftButton
        inside = self.getPlotItem().vb.sceneBoundingRect().contains(self.mapToScene(event.position().toPoint()))
        if kind == QEvent.Type.MouseButtonPress and left and inside:
            self.setFocus()
            self._press(event)
            return True
        if kind == QEvent.Type.MouseButtonDblClick and left:
            if self.tool == "polygon":
                self._finish()
            return True
        if kind == QEvent.Type.MouseMove and (self._pressed or (self.tool == "polygon" and self._outline)):
            self._move(event)
            return True
        if kind == QEvent.Type.MouseButtonRelease and left and self._pressed:
            self._pressed = False
            self._release(event)
            return True
        return False

    def _press(self, event: QMouseEvent) -> None:
        place = self.place(event.position())
        self._pressed = True
        if self.tool == "decode":
            self.placed.emit(place.x(), place.y(), False)
        elif self.tool == "anchor":
            self.anchored.emit(place.x(), place.y())
        elif self.tool == "polygon":
            first = self.position(self._outline[0].x(), self._outline[0].y()) if len(self._outline) > 2 else None
            if first is not None and (first - event.position()).manhattanLength() < CLOSE_PIXELS:
                self._finish()
            else:
                self._outline.append(place)
                self._draw_sketch(place)
        else:
            self._outline = [place]

    def _move(self, event: QMouseEvent) -> None:
        place = self.place(event.position())
        if self.tool == "decode":
            self.placed.emit(place.x(), place.y(), False)
        elif self.tool == "lasso":
            self._outline.append(place)
            self._draw_sketch()
        elif self.tool in ("rectangle", "polygon"):
            self._draw_sketch(place)

    def _release(self, event: QMouseEvent) -> None:
        place = self.place(event.position())
        if self.tool == "decode":
            self.placed.emit(place.x(), place.y(), True)
        elif self.tool == "rectangle" and self._outline:
            self._outline.append(place)
            self._finish()
        elif self.tool == "lasso":
            self._finish()

    def _finish(self) -> None:
        outline = np.array([[p.x(), p.y()] for p in self._outline])
        self._abandon()
        if self.tool == "rectangle" and len(outline) == 2 and (outline[0] != outline[1]).all():
            self.shaped.emit("rectangle", outline)
        elif self.tool in ("lasso", "polygon") and len(outline) > 2:
            self.shaped.emit(self.tool, outline)

    def _abandon(self) -> None:
        self._outline, self._pressed = [], False
        self._sketch.setPath(QPainterPath())

    def _draw_sketch(self, hover: QPointF | None = None) -> None:
        path = QPainterPath()
        if self.tool == "rectangle" and self._outline and hover is not None:
            path.addRect(QRectF(self._outline[0], hover).normalized())
        elif self._outline:
            path.moveTo(self._outline[0])
            for point in self._outline[1:]:
                path.lineTo(point)
            if hover is not None:
                path.lineTo(hover)
            if self.tool == "lasso":
                path.closeSubpath()
        pen = QPen(QColor(theme.colour("text")), 1.6)
        pen.setCosmetic(True)
        self._sketch.setPen(pen)
        fill = QColor(theme.colour("accent"))
        fill.setAlpha(40)
        self._sketch.setBrush(fill)
        self._sketch.setPath(path)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self._outline:
            self._abandon()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.tool == "polygon" and self._outline:
            self._finish()
        else:
            event.ignore()  # the plots above know more keys

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.resized.emit()
