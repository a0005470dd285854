"""A field for one number with its unit."""

from __future__ import annotations

import re

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QLineEdit


class NumberField(QLineEdit):
    """A field for one number with its unit behind it, kept between bounds; Up and Down change it by 1. ``width`` in
    pixels."""

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
        """The number, in the field's unit."""
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
