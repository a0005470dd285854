"""The molecule follows the selection: its mean is shown, and how much the Gaussians vary among the selected."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QObject, QTimer, Signal

from gaussianem_gui.explorer.decoder_client import Decoded
from gaussianem_gui.views.explorer.session import ExplorerSession

SAMPLE = 24  # selected particles that the variation is taken from
REST_MILLISECONDS = 150  # without a change of the selection before its mean is shown


class SelectionMean(QObject):
    """While ``on``, a change of the selection shows the mean of its latents. ``varied`` comes with the root mean square
    distance in A of the Gaussians from their mean places, weighted by density, over up to SAMPLE of the selected
    particles."""

    varied = Signal(float)

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__(session)
        self.session = session
        self.on = True
        self._number = -1
        self._places: dict[int, np.ndarray] = {}
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MILLISECONDS)
        self._rest.timeout.connect(self.show)
        session.selectionChanged.connect(self._selection_changed)
        session.closed.connect(self._rest.stop)
        session.decoded.connect(self._take)

    def set_on(self, on: bool) -> None:
        """Follow the selection or not; on, its mean is shown at once."""
        self.on = on
        if on:
            self.show()

    def _selection_changed(self) -> None:
        if self.on and self.session.selections.selected:
            self._rest.start()
        else:
            self._rest.stop()

    def show(self) -> None:
        """Show the mean latent of the selected particles; nothing where none is selected or no latent dimension
        varies."""
        session, table = self.session, self.session.table
        if table is None or not table.varies or not session.selections.selected:
            return
        z = table.z[session.selections.mask].astype(np.float64)
        session.show_latent(z.mean(axis=0), mean_of=len(z))
        chosen = np.random.default_rng(0).permutation(len(z))[:SAMPLE]
        self._places = {}
        self._number = session.request(z[chosen], channel="spread", volumes=False) if len(z) > 1 else -1

    def _take(self, answer: Decoded) -> None:
        model = self.session.consensus
        if answer.channel != "spread" or answer.id != self._number or answer.positions is None or model is None:
            return
        self._places[answer.index] = answer.positions
        if len(self._places) < answer.count or not self.session.mean_of:
            return
        places = np.stack([self._places[index] for index in sorted(self._places)])
        away = np.square(places - places.mean(axis=0)).sum(axis=2).mean(axis=0)  # (N,)
        self.varied.emit(float(np.sqrt(np.average(away, weights=model.densities))) * model.half_angstrom)
