"""What the panels below the 3D view have in common."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.toolkit.tasks import Background


class Panel(QWidget):
    """A tab of the explorer that follows the session's signals; ``background`` runs its work, which is dropped when the
    job is left."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__()
        self.session = session
        self.background = Background(self)
        session.opened.connect(self.opened)
        session.closed.connect(self._close)

    def opened(self) -> None:
        """Called when the particles of a job have been read."""

    def _close(self) -> None:
        self.background.cancel_all()
        self.closed()

    def closed(self) -> None:
        """Called when the job is left: forget everything that was of it."""

    def shown(self) -> None:
        """Called when the tab comes to the front, or a job is opened while it is there."""
