"""Works out surfaces in the background, one at a time, and keeps those that were used last."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from gaussianem_gui.explorer.volumes import Look, Picture
from gaussianem_gui.views.plots.recent import Recent
from gaussianem_gui.views.plots.surfaces import Prepared, prepare
from gaussianem_gui.views.toolkit.tasks import Background

MOST_BYTES = 256 * 2**20  # of surfaces kept in memory


class SurfaceMaker(QObject):
    """``made`` comes with each surface asked for, its look, and whether a newer one is already being worked out: a
    drag neither piles surfaces up nor waits for the last."""

    made = Signal(object, object, bool)  # Prepared, Look
    failed = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._background = Background(self)
        self.kept: Recent[tuple[Path, Look], Prepared] = Recent(MOST_BYTES, Prepared.bytes)
        self._awaited: tuple[Picture, Look] | None = None  # the newest that still needs its surface

    def keep(self, picture: Picture, look: Look, ready: Prepared) -> None:
        """Keep a surface that was worked out elsewhere."""
        self.kept.keep((picture.path, look), ready)

    def ask(self, picture: Picture, look: Look) -> None:
        """Want the surface of a picture: ``made`` comes at once if it is kept, else when it has been worked out."""
        ready = self.kept.get((picture.path, look))
        self._awaited = None
        if ready is not None:
            self.made.emit(ready, look, False)
        elif self.busy():
            self._awaited = (picture, look)
        else:
            self._work(picture, look)

    def busy(self) -> bool:
        """True while a surface is being worked out."""
        return self._background.busy("mesh")

    def forget(self) -> None:
        """Drop all surfaces, and what is being worked out."""
        self._background.cancel_all()
        self._awaited = None
        self.kept.clear()

    def _work(self, picture: Picture, look: Look) -> None:
        self._background.run(
            "mesh", lambda: prepare(picture, look), lambda ready: self._take(picture, look, ready), self.failed.emit
        )

    def _take(self, picture: Picture, look: Look, ready: Prepared) -> None:
        self.keep(picture, look, ready)
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            self._work(*awaited)
        self.made.emit(ready, look, awaited is not None)
