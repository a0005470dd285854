"""What fixed particles do while a model is trained: their latents by epoch, their images beside the renderings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QComboBox, QSlider, QWidget

from gaussianem_gui.views.plots.convergence_plot import read_probe
from gaussianem_gui.views.plots.montage import Montage
from gaussianem_gui.views.plots.scatter import Scatter
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import Elided, column, frame, label, row

ROOM_FOR_BOTH = 430  # pixels of height from which latents and images are shown above each other


def principal_axes(z: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:  # (K, zdim) -> (K, 2)
    """Latents along the first two principal components of ``of`` (or of themselves), about its mean and with a fixed
    sign; 0 for a second of one dimension."""
    reference = z if of is None or of.shape[1] != z.shape[1] else of
    centre = reference.mean(axis=0)
    if z.shape[1] == 1:
        return np.column_stack([z[:, 0] - centre[0], np.zeros(len(z))])
    _, _, axes = np.linalg.svd(reference - centre, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, np.argmax(np.abs(axes[:2]), axis=1)].diagonal())[:, None]
    return (z - centre) @ axes.T


class ProbePanel(QWidget):
    """Latents of the probe particles by epoch, and their images beside the renderings."""

    def __init__(self) -> None:
        super().__init__()
        self._background = Background(self)
        self._probes: list[tuple[str, Path]] = []
        self._seen: object = None
        self.scatter = Scatter("PC 1", "PC 2")
        self.montage = Montage()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName("Epoch of the probe")
        self.epoch = label("", "hint")
        self.slider.valueChanged.connect(self._show)
        self.which = QComboBox()
        self.which.setAccessibleName("Latents or images")
        self.which.addItems(["Latents", "Images"])
        self.which.currentIndexChanged.connect(lambda _i: self._arrange())
        self.latents, self.images = frame("card"), frame("card")
        inside = column(spacing=4, margins=(14, 10, 14, 8))
        head = row(Elided("Latents of fixed particles", "label"), self.epoch)
        head.setStretch(0, 1)
        inside.addLayout(head)
        inside.addWidget(self.scatter, 1)
        inside.addWidget(self.slider)
        self.latents.setLayout(inside)
        self.images.setLayout(
            column(label("Images and renderings", "label"), self.montage, spacing=6, margins=(14, 10, 14, 10))
        )
        layout = column(self.which, spacing=8)
        layout.addWidget(self.latents, 3)
        layout.addWidget(self.images, 2)
        self.setLayout(layout)
        self.setMinimumWidth(230)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """Both above each other where there is room, else one of them."""
        room = self.height() > ROOM_FOR_BOTH
        self.which.setVisible(not room)
        self.latents.setVisible(room or self.which.currentIndex() == 0)
        self.images.setVisible(room or self.which.currentIndex() == 1)

    def clear(self) -> None:
        """Forget the job that was shown."""
        self._background.cancel("probe")
        self._probes, self._seen = [], None
        self.slider.setRange(0, 0)
        self.scatter.set_points(np.zeros((0, 2)), None)
        self.montage.set_images([])
        self.epoch.setText("")

    def set_probes(self, artifacts: list[dict[str, Any]], directory: Path) -> None:
        """Offer these probe files (paths from ``directory``); the last is shown unless the user looks at an earlier
        one."""
        probes = [(str(a.get("label") or a["path"]), directory / str(a["path"])) for a in artifacts]
        state = (probes, artifacts[-1].get("t") if artifacts else None)
        if state == self._seen:
            return
        self._seen = state
        last = self.slider.value() >= self.slider.maximum()
        self._probes = probes
        self.slider.setVisible(len(probes) > 1)
        self.slider.setRange(0, max(len(probes) - 1, 0))
        if last:
            self.slider.setValue(len(probes) - 1)
        self._show()

    def _show(self) -> None:
        if not self._probes:
            return
        _, path = self._probes[min(self.slider.value(), len(self._probes) - 1)]
        last = self._probes[-1][1]
        self._background.run("probe", lambda: _prepare(path, last), self._take, lambda _error: None)

    def _take(self, found: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]) -> None:
        points, values, probe = found
        self.scatter.set_points(points, values if len(points) > 1 else None)
        images, drawn = probe.get("images"), probe.get("renderings")
        rows = [("Images", images)] if images is not None else []
        if images is not None and drawn is not None and images.shape == drawn.shape:
            if float((images * (drawn - drawn.mean())).sum()) < 0:  # particles are dark in the images as they are
                rows = [("Images, contrast inverted as the renderings are", -images)]
            rows.append(("Renderings", drawn))
        self.montage.set_images(rows)
        self.epoch.setText(f"epoch {int(probe['epoch'])}" if "epoch" in probe else "")


def _prepare(path: Path, last: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Latents of an epoch on the axes of the last one, and each particle's place there as its colour."""
    probe = read_probe(path)
    z, end = np.asarray(probe["z"], dtype=float), np.asarray(read_probe(last)["z"], dtype=float)
    values = principal_axes(end)[:, 0] if len(end) == len(z) else np.arange(len(z))
    return principal_axes(z, end), values, probe
