"""What the panels beside the 3D view have in common."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from gaussianem_gui.views.toolkit.tasks import Background

if TYPE_CHECKING:
    from gaussianem_gui.explorer.decoder_client import Decoded
    from gaussianem_gui.views.explorer.page import Explorer
    from gaussianem_gui.views.explorer.plot import ExplorerPlot


class Number(QLineEdit):
    """A field for one number with its unit behind it, kept between bounds; Up and Down change it."""

    valueChanged = Signal(float)

    def __init__(self, name: str, low: float, high: float, value: float, unit: str, width: int) -> None:
        super().__init__()
        self._low, self._high, self._unit, self._value = low, high, unit, value
        self.setAccessibleName(name)
        self.setToolTip(f"{name}, from {low:g} to {high:g} {unit}")
        self.setFixedWidth(width)
        self.setStyleSheet("padding: 6px 7px;")
        self.editingFinished.connect(self._read)
        self._show()

    def value(self) -> float:
        """The number."""
        return self._value

    def setValue(self, value: float) -> None:
        """Set the number; out of bounds it becomes the nearest bound."""
        value = min(max(value, self._low), self._high)
        changed, self._value = value != self._value, value
        self._show()
        if changed:
            self.valueChanged.emit(value)

    def _show(self) -> None:
        self.setText(f"{self._value:g} {self._unit}")

    def _read(self) -> None:
        match = re.match(r"\s*([-+]?\d*\.?\d+)", self.text())
        self.setValue(float(match[1]) if match else self._value)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._read()
            self.setValue(self._value + (1 if event.key() == Qt.Key.Key_Up else -1))
        else:
            super().keyPressEvent(event)


class Panel(QWidget):
    """A tab of the explorer; it is told what happens and overrides what concerns it.

    ``room``: share of the right half's height that it would like.
    """

    room = 0.4

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.explorer: Any = explorer
        self.background = Background(self)

    def opened(self) -> None:
        """Another job's table is there."""

    def closed(self) -> None:
        """The job is left."""

    def shown(self) -> None:
        """The tab came to the front, or a job was opened while it was there."""

    def model_ready(self) -> None:
        """The decoder has loaded its model."""

    def crowd_ready(self) -> None:
        """Densities can be asked."""

    def selection_changed(self) -> None:
        """The current selection or the named ones changed."""

    def decoded(self, answer: Decoded) -> None:
        """A picture of a channel other than "live"."""

    def particle_changed(self, row: int) -> None:
        """A particle was clicked."""

    def stop(self) -> None:
        """Stop what plays."""

    def draw_in(self, plot: ExplorerPlot) -> None:
        """Draw the panel's marks into a plot."""

    def way_in(self, plot: ExplorerPlot) -> np.ndarray | None:
        """The panel's path in a plot's axes (P, 2)."""
        return None

    def say_error(self, error: Exception) -> None:
        """Show what went wrong."""
        self.explorer._say_error(error)
