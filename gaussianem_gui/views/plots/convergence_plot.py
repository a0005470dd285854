"""Has a training settled? What an epoch still changes in fixed particles, and how well their images are met."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyqtgraph as pg
from PySide6.QtWidgets import QFrame, QLabel, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import NUMBERS, read_npz
from gaussianem_gui.views.plots.plot_style import dot, style_plot
from gaussianem_gui.views.toolkit.controls import together, wrapping
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import column, label, plain

MOST_PROBES = 200  # epochs read, the latest
CURVES = (  # name, what it is, number of its colour
    ("Renderings change", "From the epoch before, in % of their contrast", 1),
    ("Latents change", "From the epoch before, in % of their spread", 0),
    ("Images agree", "Correlation of images with renderings, in %", 2),
)


@dataclass(frozen=True)
class Settling:
    """By epoch, (E,) each, NaN where there is none: ``changed``, how far the renderings of example particles are
    from those of the epoch before, as a share of their contrast; ``moved``, the same of the fixed particles'
    latents, as a share of their spread; ``agreement``, the mean size of the correlation of the example images with
    their renderings."""

    epochs: np.ndarray
    changed: np.ndarray
    moved: np.ndarray
    agreement: np.ndarray


def read_probe(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a probe file: z (K, zdim), images and renderings (M, D, D). Raises InputError (a ValueError)."""
    return read_npz(path, "probe", "It is written anew after each epoch.", kinds=NUMBERS)


def settling(paths: list[Path]) -> Settling:
    """What the latest MOST_PROBES probes, one an epoch and in order, say; those that cannot be read are left out. For a
    worker."""
    epochs: list[float] = []
    curves: list[tuple[float, float, float]] = []
    before: dict[str, np.ndarray] = {}
    for number, path in enumerate(paths[-MOST_PROBES:], start=max(len(paths) - MOST_PROBES, 0) + 1):
        try:
            probe = read_probe(path)
        except InputError:
            continue
        epochs.append(float(probe["epoch"]) if "epoch" in probe else float(number))
        curves.append((_change(before, probe, "renderings"), _change(before, probe, "z"), _agreement(probe)))
        before = probe
    changed, moved, agreement = np.array(curves).reshape(-1, 3).T
    return Settling(np.array(epochs), changed, moved, agreement)


def _change(before: dict[str, np.ndarray], now: dict[str, np.ndarray], name: str) -> float:
    """Root mean square change of an array, a row for each particle, over its spread: among the particles for latents,
    within each picture for renderings. NaN where it cannot be told."""
    first, second = before.get(name), now.get(name)
    if first is None or second is None or first.shape != second.shape or not len(second):
        return float("nan")
    values = np.asarray(second, float).reshape(len(second), -1)
    middle = values.mean(axis=0) if name == "z" else values.mean(axis=1, keepdims=True)
    spread = float(np.square(values - middle).sum())
    change = float(np.square(values - np.asarray(first, float).reshape(values.shape)).sum())
    return float(np.sqrt(change / spread)) if spread > 0 else float("nan")


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
    """The three curves, and in words what the last epoch changed."""

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
        self.plot.setAccessibleName("What an epoch changes in fixed particles")
        self.plot.setLabel("bottom", "Epoch")
        self.plot.setLabel("left", "% ")
        self.text = label("", "hint", wrap=True)
        self.text.setToolTip(plain("At the end of a training it is little also because the learning rate is."))
        self._signs = [QLabel() for _ in CURVES]
        entries = []
        for sign, (name, meaning, _) in zip(self._signs, CURVES):
            entry = together(sign, label(name, "muted"))
            entry.setToolTip(plain(meaning))
            entries.append(entry)
        layout = column(wrapping(*entries, spacing=12), spacing=6)
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
        """What the last epoch changed, and the most that any did; until there are two epochs, what will be shown."""
        found = self.found
        if found is None or len(found.epochs) < 2:
            return "From the second epoch on: what an epoch still changes in example particles."
        parts = []
        for what, values, of in (
            ("the renderings of the example particles changed by", found.changed, "contrast"),
            ("the latents of the fixed particles moved by", found.moved, "spread"),
        ):
            told = np.flatnonzero(np.isfinite(values))
            if len(told):
                most = told[np.argmax(values[told])]
                last = f"{what} {100 * values[told[-1]]:.1f} % of their {of}"
                parts.append(f"{last} (at most {100 * values[most]:.1f} %, in epoch {found.epochs[most]:g})")
        return f"In epoch {found.epochs[-1]:g} {' and '.join(parts)}. Where that is still much, train longer."

    def _draw(self) -> None:
        style_plot(self.plot)
        self.plot.clear()
        for sign, (_, _, colour) in zip(self._signs, CURVES):
            sign.setPixmap(dot(theme.series(colour)).pixmap(14, 14))
        self.text.setText(self.words())
        if self.found is None:
            return
        values_of = (self.found.changed, self.found.moved, self.found.agreement)
        for values, (name, _, colour) in zip(values_of, CURVES):
            there = np.isfinite(values)
            if there.any():
                pen = pg.mkPen(theme.series(colour), width=2)
                dots = {"symbol": "o", "symbolSize": 6, "symbolBrush": theme.series(colour), "symbolPen": None}
                self.plot.plot(self.found.epochs[there], 100 * values[there], pen=pen, name=name, **dots)
        self.plot.setYRange(0, max(5.0, self._highest()), padding=0.05)

    def _highest(self) -> float:
        assert self.found is not None
        values = np.concatenate([self.found.changed, self.found.moved, self.found.agreement])
        return float(100 * np.nanmax(values)) if np.isfinite(values).any() else 0.0
