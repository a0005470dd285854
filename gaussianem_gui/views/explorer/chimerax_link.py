"""What is shown in 3D, shown in a running ChimeraX too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from gaussianem_gui.explorer.chimerax_live import ChimeraX
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.toolkit.tasks import Background


class ChimeraXLink(QObject):
    """While ``on``, ChimeraX shows each picture that is decoded for the 3D view. A failure turns it off.

    ``contour``: gives the 3D view's contour level, in the map's units.
    """

    turnedOff = Signal()

    def __init__(self, session: ExplorerSession, contour: Callable[[], float]) -> None:
        super().__init__(session)
        self.contour = contour
        self.session = session
        self.chimerax = ChimeraX()
        self.on = False
        self._background = Background(self)
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def set_on(self, on: bool) -> None:
        """Turn the link on or off; on, it shows at once what the 3D view shows."""
        self.on = on
        if on:
            self.send()

    def send(self) -> None:
        """Show the picture of the 3D view in ChimeraX, contoured as there; nothing while the link is off."""
        picture, model = self.session.picture, self.session.consensus
        if not self.on or picture is None or picture.volume is None or model is None:
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="gaussianem-chimerax-")
        volume, folder = picture.volume, Path(self._folder.name)
        pixel = model.pixel_size_angstrom * model.box / volume.shape[0]
        contour, origin = self.contour(), model.origin_angstrom
        self._background.run(
            "chimerax",
            lambda: self.chimerax.follow(volume, pixel, origin, contour, folder),
            lambda _r: self.session.said.emit("Shown in ChimeraX too."),
            self._failed,
        )

    def shut_down(self) -> None:
        """Turn the link off and delete the files that ChimeraX was handed."""
        self.on = False
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _failed(self, error: Exception) -> None:
        self.on = False
        self.turnedOff.emit()
        self.session.say_error(error)
