"""What the panels beside the 3D view have in common."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.toolkit.tasks import Background


class Panel(QWidget):
    """A tab of the explorer: it follows the session's signals."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__()
        self.session = session
        self.background = Background(self)
        session.opened.connect(self.opened)
        session.closed.connect(self._close)

    def opened(self) -> None:
        """A job's particles are there."""

    def _close(self) -> None:
        self.background.cancel_all()
        self.closed()

    def closed(self) -> None:
        """The job is left: forget everything that was of it."""

    def shown(self) -> None:
        """The tab came to the front, or a job was opened while it was there."""
