"""A series of volumes as a movie: each is drawn as it is looked at now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Signal

from gaussianem_gui.explorer.movies import Frame, export_movie
from gaussianem_gui.views.toolkit.tasks import Background

if TYPE_CHECKING:
    from gaussianem_gui.views.plots.viewer import Viewer

RATE = 8  # volumes a second, as the series plays


class SeriesMovie(QObject):
    """``written`` comes with the file, ``failed`` with the error."""

    written = Signal(object)
    failed = Signal(object)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer)
        self._viewer = viewer
        self._background = Background(self)
        self._target: Path | None = None
        self._pictures: list[Frame] = []
        self._asked = False  # a picture is awaited
        viewer.drawn.connect(self._drawn)

    def record(self, target: Path) -> None:
        """Draw every volume, to and fro, and write an MP4 or GIF in a worker. Nothing while one is being recorded, for
        fewer than two volumes, or where 3D is not in front."""
        viewer = self._viewer
        if self._target is not None or viewer.series.count < 2 or not viewer.is_3d():
            return
        viewer.series.stop()
        self._target, self._pictures = target, []
        self._show(0)

    def _show(self, frame: int) -> None:
        self._asked = True
        if self._viewer.series.frame.value() == frame:
            self._drawn()
        else:
            self._viewer.set_frame(frame)

    def _drawn(self) -> None:
        if self._asked and self._viewer.series.frame.value() == len(self._pictures):
            self._asked = False
            QTimer.singleShot(0, self, self._grab)

    def _grab(self) -> None:
        target, viewer = self._target, self._viewer
        if target is None or not viewer.is_3d():
            self._target = None
            return
        self._pictures.append(viewer.canvas.on_white()[0])
        if len(self._pictures) < viewer.series.count:
            self._show(len(self._pictures))
            return
        pictures, self._target = self._pictures, None
        self._background.run(
            "movie", lambda: export_movie(target, pictures, RATE, True), self.written.emit, self.failed.emit
        )
