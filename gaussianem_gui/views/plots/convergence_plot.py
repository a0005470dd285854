"""Has a training settled? How far fixed particles still move from epoch to epoch, and how well their images are met."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyqtgraph as pg
from PySide6.QtWidgets import QFrame, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import NUMBERS, read_npz
from gaussianem_gui.views.plots.loss_plot import style_plot
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column, label

MOST_PROBES = 200  # epochs read, the latest


@dataclass(frozen=True)
class Settling:
    """By epoch: ``moved``, how far the fixed particles' latents are from those of the epoch before, as a share of their
    spread (NaN for the first); ``agreement``, the correlation of example images with their renderings (NaN without)."""

    epochs: np.ndarray
    moved: np.ndarray
    agreement: np.ndarray


def read_probe(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a probe file: z (K, zdim), images and renderings (M, D, D). Raises InputError (a ValueError)."""
    return read_npz(path, "probe", "It is written anew after each epoch.", kinds=NUMBERS)


def settling(paths: list[Path]) -> Settling:
    """What probes of several epochs, in order, say; those that cannot be read are left out."""
    epochs, moved, agreement = [], [], []
    before: np.ndarray | None = None
    for number, path in enumerate(paths[-MOST_PROBES:], start=1):
        try:
            probe = read_probe(path)
        except InputError:
            continue
        z = np.asarray(probe["z"], float)
        spread = float(np.sqrt(np.square(z - z.mean(axis=0)).sum(axis=1).mean()))
        same = before is not None and before.shape == z.shape and spread > 0
        change = float(np.sqrt(np.square(z - before).sum(axis=1).mean())) / spread if same else np.nan
        epochs.append(float(probe["epoch"]) if "epoch" in probe else float(number))
        moved.append(change)
        agreement.append(_agreement(probe))
        before = z
    return Settling(np.array(epochs), np.array(moved), np.array(agreement))


def _agreement(probe: dict[str, np.ndarray]) -> float:
    """Mean correlation of images with renderings; NaN where there are none."""
    images, drawn = probe.get("images"), probe.get("renderings")
    if images is None or drawn is None or images.shape != drawn.shape or not len(images):
        return float("nan")
    found = []
    for image, rendering in zip(images, drawn):
        if image.std() > 0 and rendering.std() > 0:
            found.append(abs(float(np.corrcoef(image.reshape(-1), rendering.reshape(-1))[0, 1])))
    return float(np.mean(found)) if found else float("nan")


class ConvergencePlot(QWidget):
    """The two curves, and in words what the last epoch changed."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("convergencePlot")
        self._background = Background(self)
        self._seen: object = None
        self.found: Settling | None = None
        self.plot = pg.PlotWidget()
        self.plot.setFrameShape(QFrame.Shape.NoFrame)
        self.plot.setMenuEnabled(False)
        self.plot.setMinimumHeight(110)
        self.plot.setAccessibleName("How far fixed particles move from epoch to epoch")
        self.plot.setLabel("bottom", "Epoch")
        self.plot.setLabel("left", "% ")
        self.plot.addLegend(offset=(-10, 8))
        self.text = label("", "muted", wrap=True)
        layout = column(spacing=6)
        layout.addWidget(self.plot, 1)
        layout.addWidget(self.text)
        self.setLayout(layout)
        theme.changed.connect(self._draw)

    def set_probes(self, paths: list[Path], state: object) -> None:
        """Take up the probes of a job; ``state`` differs when there is something new."""
        if state != self._seen:
            self._seen = state
            self._background.run("probes", lambda: settling(paths), self._take, lambda _e: None)

    def _take(self, found: Settling) -> None:
        self.found = found
        self._draw()

    def words(self) -> str:
        """What the last epoch changed, and the first."""
        found = self.found
        told = np.flatnonzero(np.isfinite(found.moved)) if found is not None else np.zeros(0, int)
        if found is None or not len(told):
            return "From the second epoch on: how far fixed particles move in latent space from epoch to epoch."
        first, last = found.moved[told[0]], found.moved[told[-1]]
        earlier = f", by {100 * first:.1f} % in epoch {found.epochs[told[0]]:g}" if len(told) > 1 else ""
        return (
            f"In epoch {found.epochs[told[-1]]:g} the fixed particles moved by {100 * last:.1f} % of their spread in "
            f"latent space{earlier}. A training has settled when this no longer falls and is small."
        )

    def _draw(self) -> None:
        style_plot(self.plot)
        self.plot.clear()
        self.text.setText(self.words())
        if self.found is None:
            return
        curves = (
            ("Latents moved since the epoch before (% of their spread)", self.found.moved, 0),
            ("Images met by renderings (correlation, %)", self.found.agreement, 2),
        )
        for name, values, colour in curves:
            there = np.isfinite(values)
            if there.any():
                pen = pg.mkPen(theme.series(colour), width=2)
                dots = {"symbol": "o", "symbolSize": 6, "symbolBrush": theme.series(colour), "symbolPen": None}
                self.plot.plot(self.found.epochs[there], 100 * values[there], pen=pen, name=name, **dots)
        self.plot.setYRange(0, max(5.0, self._highest()), padding=0.05)

    def _highest(self) -> float:
        assert self.found is not None
        values = np.concatenate([self.found.moved, self.found.agreement])
        return float(100 * np.nanmax(values)) if np.isfinite(values).any() else 0.0
