"""What the panels beside the 3D view have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtWidgets import QWidget

from gaussianem_gui.views.tasks import Background

if TYPE_CHECKING:
    from gaussianem_gui.decoding import Decoded
    from gaussianem_gui.views.explorer import Explorer
    from gaussianem_gui.views.explorer_plot import ExplorerPlot


class Panel(QWidget):
    """A tab of the explorer; it is told what happens and overrides what concerns it."""

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
