"""Live curves of a job's metrics: every term, log scale, smoothing, epoch marks, other jobs laid over."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QSettings, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QComboBox, QFrame, QMenu, QPushButton, QSizePolicy, QSlider, QVBoxLayout, QWidget

from gaussianem_gui.execution.history import Curve, History, average, smooth, thin
from gaussianem_gui.views.plots.plot_style import ValueAxis, dot, quantity_name, style_plot
from gaussianem_gui.views.toolkit.controls import Flow, Switch
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, column, label, plain, row

NOT_LOSSES = ("lr", "lr_latent", "images_per_second", "gpu_memory", "gpu_memory_bytes", "learning_rate")
AXES = {"epoch": "Epoch", "step": "Step", "time": "Minutes"}
DASHES = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine, Qt.PenStyle.DashDotLine)
# Drawn at first: the first of these groups of which a job reports anything.
MAIN_TERMS = (("unexplained",), ("held_out",), ("loss", "total", "data", "image"))
EXPLAINED = {
    "unexplained": "Share of the images' power that the model leaves unexplained; comparable over epochs and jobs",
    "held_out": "Error on images that the fit does not see: it has converged when this no longer falls",
    "loss": "Sum of all terms; its unit follows the noise as measured last, so it may step up after an epoch",
}
CHIP = "padding: 2px 7px; font-size: 9pt; min-height: 15px;"
FEW = 4  # quantities whose names are all shown; of more, those drawn
MARKS = 60  # epoch marks shown at most
SMOOTH_LINES = 400  # points up to which lines are drawn without steps


def main_terms(names: set[str]) -> set[str]:
    """Of the quantities that a job reports, those that say most: drawn until the user chooses others."""
    return next((names & set(group) for group in MAIN_TERMS if names & set(group)), names - set(NOT_LOSSES))


class LossPlot(QWidget):
    """Curves of one or several histories. ``refresh`` redraws if something is new."""

    def __init__(self, title: str = "Loss") -> None:
        super().__init__()
        self.setObjectName("lossPlot")
        self.heading = label(title, "heading")
        self._jobs: list[tuple[str, History]] = []
        self._drawn: object = None
        self._curves: dict[tuple[int, str, str, bool], pg.PlotCurveItem] = {}
        self._marks: list[pg.InfiniteLine] = []
        self._hidden: set[str] = set(_stored("plot/hidden", []))
        self._asked: set[str] = set(_stored("plot/shown", []))
        self._compared: set[str] | None = None  # quantities drawn of several jobs, once the user has chosen
        self._chips: dict[str, QPushButton] = {}
        self._legend: list[QPushButton] = []

        self._values = ValueAxis("left")
        self.plot = pg.PlotWidget(axisItems={"left": self._values, "bottom": ValueAxis("bottom")})
        self.plot.setMinimumHeight(110)
        self.plot.setAccessibleName("Loss curves")
        self.plot.setMenuEnabled(False)
        self.plot.setFrameShape(QFrame.Shape.NoFrame)
        self.log = Switch("Logarithmic scale")
        self.log.setChecked(bool(int(str(QSettings().value("plot/log", 1)))))
        self.log.setObjectName("logScale")
        self.smoothing = QSlider(Qt.Orientation.Horizontal)
        self.smoothing.setRange(0, 20)
        self.smoothing.setFixedWidth(64)
        self.smoothing.setAccessibleName("Smoothing")
        self.smoothing.setToolTip("Smoothing: moving average over more and more reports, the raw curve faint behind it")
        self.smoothing.setValue(int(str(QSettings().value("plot/smoothing", 6))))
        self.axis = QComboBox()
        self.axis.setAccessibleName("Horizontal axis")
        for key, text in AXES.items():
            self.axis.addItem(text, key)
        self.axis.setFixedWidth(self.axis.fontMetrics().horizontalAdvance("Minutes") + 62)
        self.readout = Elided("", "hint")
        self.readout.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.more = QPushButton()
        self.more.setObjectName("moreQuantities")
        self.more.setProperty("kind", "ghost")
        self.more.setStyleSheet(f"{CHIP} padding-right: 20px;")
        self.more.setToolTip("The other quantities that the job reports")
        self._others = QMenu(self.more)
        self._others.aboutToShow.connect(self._list_others)
        self.more.setMenu(self._others)
        self.more.hide()
        self._chip_flow = Flow(2)
        chips = QWidget()
        chips.setLayout(self._chip_flow)
        policy = chips.sizePolicy()
        policy.setHeightForWidth(True)
        chips.setSizePolicy(policy)
        self.tools = QWidget()
        parts = (label("Log", "muted"), self.log, 4, self.axis)
        self.tools.setLayout(row(*parts, spacing=6))
        self.names = row(chips, self.smoothing, spacing=8)
        self.names.setStretch(0, 1)
        head = row(self.heading, None, self.tools, spacing=8)
        layout: QVBoxLayout = column(spacing=6)
        layout.addLayout(head)
        layout.addLayout(self.names)
        layout.addWidget(self.plot, 1)
        self.readout.setParent(self.plot)
        self.readout.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.readout.hide()
        self.setLayout(layout)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

        self._cross = pg.InfiniteLine(angle=90, movable=False)
        self._cross.setVisible(False)
        self.plot.addItem(self._cross, ignoreBounds=True)
        self._proxy = pg.SignalProxy(self.plot.scene().sigMouseMoved, rateLimit=30, slot=self._hover)
        self.log.toggled.connect(self._change)
        self.smoothing.valueChanged.connect(self._change)
        self.axis.currentIndexChanged.connect(self._change)
        theme.changed.connect(self._restyle)
        self._restyle()

    def set_jobs(self, jobs: list[tuple[str, History]], *, legend: bool = True) -> None:
        """Show these (label, history) pairs; the first is the job of the pane, the rest are laid over it. Without
        ``legend`` what stands beside the plot says which colour is whose."""
        for curve in self._curves.values():
            self.plot.removeItem(curve)
        self._curves.clear()
        self._jobs = jobs
        self._drawn = None
        self.readout.hide()  # it spoke of the curves that were there
        for chip in self._chips.values():
            chip.hide()
            chip.deleteLater()
        while self._chip_flow.takeAt(0) is not None:
            pass
        self._chips = {}
        for old in self._legend:
            old.deleteLater()
        self._legend = (
            [self._legend_entry(n, name) for n, (name, _) in enumerate(jobs)] if legend and len(jobs) > 1 else []
        )
        self._chip_flow.addWidget(self.more)
        self.refresh()
        self.plot.getPlotItem().enableAutoRange()

    def _legend_entry(self, number: int, name: str) -> QPushButton:
        """A job's colour and name, beside the chips of the quantities."""
        entry = QPushButton(name)
        entry.setProperty("kind", "ghost")
        entry.setStyleSheet(f"{CHIP} font-weight: 600;")
        entry.setIcon(dot(theme.series(number)))
        entry.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        entry.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        entry.setAccessibleName(f"Curve of {name}")
        self._chip_flow.addWidget(entry)
        return entry

    def jobs(self) -> list[str]:
        """Labels of the jobs shown."""
        return [name for name, _ in self._jobs]

    def refresh(self) -> bool:
        """Redraw if a history has grown or a control has changed; True if it did."""
        state = (
            tuple(history.version for _, history in self._jobs),
            self.log.isChecked(),
            self.smoothing.value(),
            self.axis.currentData(),
            frozenset(self._concealed()),
            theme.name,
        )
        if state == self._drawn:
            return False
        self._drawn = state
        used: set[tuple[int, str, str, bool]] = set()
        names: list[str] = []
        for index, (_, history) in enumerate(self._jobs):
            for stage, name in history.names():
                if name not in names:
                    names.append(name)
                if name in self._concealed() or name == "images_per_second":
                    continue
                self._draw(index, history.curve(stage, name), names.index(name), used)
        for key in set(self._curves) - used:
            self.plot.removeItem(self._curves.pop(key))
        names = [n for n in names if n != "images_per_second"]
        self._draw_chips(self._comparable(names))
        self._draw_marks()
        return True

    def _comparable(self, names: list[str]) -> list[str]:
        """Quantities worth a chip: of several jobs what is drawn and what two of them report."""
        if len(self._jobs) < 2:
            return names
        reported = [{name for _, name in history.names()} for _, history in self._jobs]
        concealed = self._concealed()
        return [name for name in names if name not in concealed or sum(name in own for own in reported) > 1]

    def shown(self) -> dict[str, np.ndarray]:
        """What is on the screen: quantity -> (n, 2) points of the first job, in data units."""
        result = {}
        for (job, _, name, raw), item in self._curves.items():
            if job == 0 and not raw:
                x, y = item.getData()
                if x is None:
                    continue
                result[name] = np.column_stack([x, 10.0**y if self.log.isChecked() else y])
        return result

    def _concealed(self) -> set[str]:
        """Quantities not drawn. At first the main ones alone are: small terms would squeeze them into a flat line."""
        names = {name for _, history in self._jobs for _, name in history.names()}
        if len(self._jobs) > 1:
            return names - (self._compared if self._compared is not None else main_terms(names))
        return names - ((main_terms(names) | self._asked) - self._hidden)

    def _x(self, curve: Curve) -> np.ndarray:
        key = self.axis.currentData()
        if key == "time":
            return (curve.time - curve.time[0]) / 60 if len(curve.time) else curve.time
        return curve.step if key == "step" else curve.epoch

    def _draw(self, job: int, curve: Curve, term: int, used: set[tuple[int, str, str, bool]]) -> None:
        x = self._x(curve)
        several = len(self._jobs) > 1
        colour = QColor(theme.series(job if several else term))
        style = DASHES[term % len(DASHES)] if several else Qt.PenStyle.SolidLine
        steps = self.smoothing.value()
        window = min(round(1.45**steps), max(len(curve.value) // 4, 1))
        smoothed = window > 1
        for raw in (True, False) if smoothed else (False,):
            if raw or not smoothed:
                tx, ty = thin(x, curve.value)
            else:
                tx, ty = average(x, curve.value)
                ty = smooth(ty, max(round(window * len(tx) / max(len(x), 1)), 1))
            if self.log.isChecked():
                positive = ty > 0  # not-a-number compares false
                ty = np.log10(np.where(positive, ty, 1.0))
                ty[~positive] = np.nan
            if len(tx) and not np.isfinite(ty).any():  # nothing to draw, e.g. a negative term on a log scale
                continue
            key = (job, curve.stage, curve.name, raw)
            used.add(key)
            item = self._curves.get(key)
            if item is None:
                item = self._curves[key] = pg.PlotCurveItem(skipFiniteCheck=False, connect="finite")
                item.setZValue(-1 if raw else 1)
                self.plot.addItem(item)
            pen = QColor(colour)
            pen.setAlphaF(0.28 if raw else 1.0)
            solid = style == Qt.PenStyle.SolidLine
            # Qt takes seconds for one thick path of thousands of points, but is quick with as many thick lines.
            item.setSegmentedLineMode("on" if solid else "off")
            wide = 2 if solid and not raw else 1
            item.setData(tx, ty, pen=pg.mkPen(pen, width=wide, style=style), antialias=len(tx) < SMOOTH_LINES)

    def _draw_chips(self, names: list[str]) -> None:
        several = len(self._jobs) > 1
        for index, name in enumerate(names):
            chip = self._chips.get(name)
            if chip is None:
                chip = QPushButton(quantity_name(name))
                chip.setProperty("kind", "ghost")
                chip.setStyleSheet(CHIP)
                chip.setCheckable(True)
                chip.setChecked(name not in self._concealed())
                chip.setToolTip(EXPLAINED.get(name, plain(f"Show or hide {quantity_name(name)}")))
                chip.setAccessibleName(f"Show {quantity_name(name)}")
                chip.setObjectName(f"chip-{name}")
                chip.toggled.connect(lambda on, n=name: self._toggle(n, on))
                self._chips[name] = chip
                self._chip_flow.insert(self._chip_flow.count() - 1, chip)
            colour = theme.colour("muted") if several else theme.series(index)
            chip.setIcon(dot(colour, hollow=name in self._concealed()))
        self._fold_chips()

    def _fold_chips(self) -> None:
        """Many names would take the curves' room: those that are not drawn are in a menu."""
        folded = self._folded()
        for name, chip in self._chips.items():
            chip.setVisible(name not in folded)
        self.more.setText(f"{len(folded)} more")
        self.more.setVisible(bool(folded))

    def _folded(self) -> list[str]:
        concealed = self._concealed()
        return [name for name in self._chips if name in concealed] if len(self._chips) > FEW else []

    def _list_others(self) -> None:
        self._others.clear()
        for name in self._folded():
            chip = self._chips[name]
            self._others.addAction(chip.icon(), chip.text(), lambda c=chip: c.setChecked(True))

    def _draw_marks(self) -> None:
        for mark in self._marks:
            self.plot.removeItem(mark)
        self._marks.clear()
        if not self._jobs or self.axis.currentData() == "epoch":
            return  # the grid already falls on epochs
        names = self._jobs[0][1].names()
        if not names:
            return
        curve = self._jobs[0][1].curve(*names[0])
        places = np.flatnonzero(np.diff(np.floor(curve.epoch)) > 0) + 1
        x = self._x(curve)[places]
        for value in x[:: max(len(x) // MARKS + (len(x) % MARKS > 0), 1)]:
            mark = pg.InfiniteLine(
                float(value), angle=90, pen=pg.mkPen(theme.colour("strong"), style=Qt.PenStyle.DotLine)
            )
            self.plot.addItem(mark, ignoreBounds=True)
            self._marks.append(mark)

    def _toggle(self, name: str, on: bool) -> None:
        if len(self._jobs) > 1:
            if self._compared is None:
                self._compared = main_terms({n for _, history in self._jobs for _, n in history.names()})
            (self._compared.add if on else self._compared.discard)(name)
        else:
            (self._hidden.discard if on else self._hidden.add)(name)
            (self._asked.add if on else self._asked.discard)(name)
            QSettings().setValue("plot/hidden", sorted(self._hidden))
            QSettings().setValue("plot/shown", sorted(self._asked))
        self.refresh()
        self.plot.getPlotItem().enableAutoRange()

    def _change(self) -> None:
        QSettings().setValue("plot/log", int(self.log.isChecked()))
        QSettings().setValue("plot/smoothing", self.smoothing.value())
        self._values.log = self.log.isChecked()
        self._values.picture = None
        self.plot.setLabel("bottom", AXES[self.axis.currentData()], color=theme.colour("muted"))
        self.refresh()
        self.plot.getPlotItem().enableAutoRange()

    def _restyle(self) -> None:
        style_plot(self.plot)
        self._cross.setPen(pg.mkPen(theme.colour("strong")))
        self._drawn = None
        self._change()

    def _hover(self, arguments: tuple) -> None:
        place = arguments[0]
        box = self.plot.getPlotItem().vb
        inside = self.plot.sceneBoundingRect().contains(place)
        self._cross.setVisible(inside)
        if not inside:
            self.readout.hide()
            return
        x = box.mapSceneToView(place).x()
        self._cross.setPos(x)
        parts = [f"{AXES[self.axis.currentData()]} {x:.2f}"]
        for (job, _, name, raw), item in self._curves.items():
            xs, ys = item.getData()
            if raw or xs is None or not len(xs):
                continue
            value = ys[min(int(np.searchsorted(xs, x)), len(xs) - 1)]
            prefix = f"{self._jobs[job][0]} " if len(self._jobs) > 1 else ""
            parts.append(f"{prefix}{quantity_name(name)} {10.0**value if self.log.isChecked() else value:.4g}")
        self.readout.setText("   ".join(parts))
        self.readout.setGeometry(60, 4, max(self.plot.width() - 72, 40), 20)
        self.readout.show()


def _stored(key: str, default: list[str]) -> list[str]:
    value = QSettings().value(key, default)
    if isinstance(value, list | tuple):
        return [str(v) for v in value]
    return [str(value)] if value else []
