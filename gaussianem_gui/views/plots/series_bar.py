"""Below a series of volumes: a slider over them, a play button, and which one is shown."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QSlider

from gaussianem_gui.views.toolkit.widgets import icon_button, keep_icon, label, row

PLAY_MILLISECONDS = 120


class SeriesBar(QFrame):
    """``changed`` comes with the number of another volume. ``busy`` says whether the one before is still awaited."""

    changed = Signal(int)
    movieWanted = Signal()

    def __init__(self, busy: Callable[[], bool]) -> None:
        super().__init__()
        self._busy = busy
        self.count = 0
        self.play = icon_button("play", "Play the series (Space)", self.toggle, name="playSeries")
        self.frame = QSlider(Qt.Orientation.Horizontal)
        self.frame.setAccessibleName("Volume of the series")
        self.text = label("", "muted")
        self.text.setMinimumWidth(150)
        self.setProperty("role", "footer")
        self.movie = icon_button("download", "Save the series as a movie", self.movieWanted.emit, name="saveMovie")
        self.setLayout(row(self.play, self.frame, self.text, self.movie, spacing=10, margins=(8, 6, 10, 6)))
        self.hide()
        self._timer = QTimer(self)
        self._timer.setInterval(PLAY_MILLISECONDS)
        self._timer.timeout.connect(self._next)
        self.frame.valueChanged.connect(self.changed.emit)

    def set_count(self, count: int, start: int = 0) -> None:
        """Stand for a series of so many volumes, at number ``start`` from 0; ``changed`` does not come."""
        self.stop()
        self.count = count
        self.frame.blockSignals(True)
        self.frame.setRange(0, max(count - 1, 0))
        self.frame.setValue(start)
        self.frame.blockSignals(False)
        self.setVisible(count > 1)

    def toggle(self) -> None:
        """Play, or stop playing."""
        if self._timer.isActive():
            self.stop()
        else:
            self._timer.start()
            keep_icon(self.play, "stop", "accent")

    def stop(self) -> None:
        """Stop playing."""
        self._timer.stop()
        keep_icon(self.play, "play", "muted")

    def _next(self) -> None:
        if not self._busy():  # else the picture before is not there yet: skip rather than pile up
            self.frame.setValue((self.frame.value() + 1) % max(self.count, 1))
