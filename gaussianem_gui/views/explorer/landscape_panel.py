"""The conformational landscape: density corrected for uncertainty, stable states, the profile along the path."""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QRectF
from PySide6.QtWidgets import QComboBox, QListWidget, QListWidgetItem, QSplitter

from gaussianem_core.analysis import landscape
from gaussianem_gui.explorer import figures
from gaussianem_gui.views.explorer.figure_file import ask_figure
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.plots.plot_style import style_plot
from gaussianem_gui.views.toolkit.controls import wrapping
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, column, frame, label, row, scrolled

Found = tuple[landscape.Landscape, list[landscape.StableState], np.ndarray, np.ndarray]  # ..., basins, places


class LandscapePanel(Panel):
    """Works out the landscape of two components, or the profile along the trajectory's path."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__(session)
        self.axes = QComboBox()
        self.axes.setAccessibleName("Axes of the landscape")
        self.go = button("Work out", "primary", "", self.start, name="landscapeGo")
        self.profile_button = button(
            "Profile along the path",
            "",
            "",
            self.start_profile,
            "Energy-like profile along the trajectory's path",
            name="profileGo",
        )
        self.plot = pg.PlotWidget()
        self.plot.setMenuEnabled(False)
        self.plot.setMinimumSize(150, 120)
        self.plot.setAccessibleName("Landscape")
        style_plot(self.plot)
        self.image = pg.ImageItem()
        self.places = pg.ScatterPlotItem(size=11)
        self.list = QListWidget()
        self.list.setAccessibleName("Stable states")
        self.list.itemClicked.connect(self._chosen)
        self.words = label("", "hint", wrap=True, selectable=True)
        self.progress = Elided("", "hint")
        self.save = button("Figure …", "", "download", self.save_figure, name="saveLandscape")
        side = frame("")
        inner = column(self.list, spacing=4)
        inner.addWidget(scrolled(self.words), 1)
        side.setLayout(inner)
        split = QSplitter()
        split.addWidget(self.plot)
        split.addWidget(side)
        split.setSizes([260, 220])
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addWidget(wrapping(self.axes, self.go, self.profile_button))
        layout.addWidget(split, 1)
        last = row(spacing=6)
        last.addWidget(self.progress, 1)
        last.addWidget(self.save)
        layout.addLayout(last)
        self.setLayout(layout)
        self.result: landscape.Landscape | None = None
        self.states: list[landscape.StableState] = []
        self.basins: np.ndarray | None = None
        self.measured = np.zeros((0, 2))  # (N, d) places of the particles on the landscape
        self.profile: landscape.Profile | None = None
        self._used = (0, 1)
        theme.changed.connect(self._draw)
        self.save.setEnabled(False)

    def opened(self) -> None:
        table = self.session.table
        assert table is not None
        dims = min(table.components.used, 4)
        for i in range(dims):
            for j in range(i + 1, dims):
                self.axes.addItem(f"PC {i + 1} × PC {j + 1}", (i, j))
        for i in range(dims):
            self.axes.addItem(f"PC {i + 1} alone", (i,))
        without = table.log_variance is None
        self.words.setText("These latents have no uncertainties: the density is that of the means." if without else "")

    def closed(self) -> None:
        self.result = self.profile = self.basins = None
        self.states, self.measured = [], np.zeros((0, 2))
        self.axes.clear()
        self.list.clear()
        self._fit_list()
        self.plot.clear()
        for text in (self.words, self.progress):
            text.setText("")
        for item in (self.go, self.profile_button):
            item.setEnabled(True)
        self.save.setEnabled(False)

    def start(self) -> None:
        """Estimate the landscape of the chosen components and its stable states, in a worker."""
        table = self.session.table
        if table is None:
            return
        mean, log_variance = table.alone
        used = tuple(self.axes.currentData())
        axes = table.components.axes[list(used)]
        self.progress.setText("Working …")
        self.go.setEnabled(False)

        def work() -> Found:
            data = landscape.measurements(mean, log_variance, axes, table.components.mean)
            found = landscape.estimate(data)
            return (found, *landscape.states(found), data.places)

        self._used = used
        self.background.run("landscape", work, self._take, self._failed)

    def _failed(self, error: Exception) -> None:
        self.go.setEnabled(True)
        self.profile_button.setEnabled(True)
        self.progress.setText("")
        self.session.say_error(error)

    def _take(self, found: Found) -> None:
        self.result, self.states, self.basins, self.measured = found
        self.profile = None
        self.go.setEnabled(True)
        self.save.setEnabled(True)
        self.progress.setText(f"{self.result.particles:,} particles · {self.result.iterations} iterations")
        self.words.setText("\n".join(landscape.statement(self.result, self.states)))
        self.list.clear()
        for number, state in enumerate(self.states, start=1):
            item = QListWidgetItem(f"State {number}   {100 * state.share:.0f} ± {100 * state.share_error:.0f} %")
            item.setToolTip("Click: its volume in 3D, and its particles selected")
            self.list.addItem(item)
        self._fit_list()
        self._draw()

    def _fit_list(self) -> None:
        """As high as its states, up to four: the room below is for the words."""
        rows = min(self.list.count(), 4)
        self.list.setFixedHeight(rows * max(self.list.sizeHintForRow(0), 0) + 6 if rows else 0)

    def _draw(self) -> None:
        self.plot.clear()
        style_plot(self.plot)
        muted = theme.colour("muted")
        if self.profile is not None:
            p = self.profile
            upper = pg.PlotCurveItem(p.position, p.energy + p.error, pen=pg.mkPen(None))
            lower = pg.PlotCurveItem(p.position, p.energy - p.error, pen=pg.mkPen(None))
            tint = theme.colour("accent_soft")
            self.plot.addItem(pg.FillBetweenItem(upper, lower, brush=pg.mkBrush(tint)))
            for curve in (upper, lower):
                self.plot.addItem(curve)
            self.plot.plot(p.position, p.energy, pen=pg.mkPen(theme.colour("accent"), width=2))
            self.plot.setLabel("bottom", "Along the path", color=muted)
            self.plot.setLabel("left", "Energy-like (kT)", color=muted)
            self.plot.enableAutoRange()
            return
        if self.result is None:
            return
        names = [f"PC {i + 1}" for i in self._used]
        self.plot.setLabel("bottom", names[0], color=muted)
        if len(self._used) == 1:
            x, energy = self.result.centres[0], np.minimum(self.result.energy, 8.0)
            self.plot.plot(x, energy, pen=pg.mkPen(theme.colour("accent"), width=2))
            self.plot.setLabel("left", "−log density (kT)", color=muted)
        else:
            self.plot.setLabel("left", names[1], color=muted)
            energy = np.minimum(self.result.energy, 6.0)
            self.image.setImage(-energy, autoLevels=True)
            self.image.setLookupTable(pg.colormap.get("viridis").getLookupTable(0.0, 1.0, 256))
            x, y = self.result.edges
            self.image.setRect(QRectF(x[0], y[0], x[-1] - x[0], y[-1] - y[0]))
            self.plot.addItem(self.image)
            self.places.setData([s.place[0] for s in self.states], [s.place[1] for s in self.states])
            self.places.setPen(pg.mkPen("#000000"))
            self.places.setBrush(pg.mkBrush("#ffffff"))
            self.plot.addItem(self.places)
            for number, state in enumerate(self.states, start=1):
                text = pg.TextItem(str(number), color="#ffffff", anchor=(-0.4, 1.1))
                text.setPos(*state.place)
                self.plot.addItem(text)
        self.plot.enableAutoRange()

    def members(self, number: int) -> np.ndarray:  # -> (N,) bool
        """True for particles that lie in the basin of state ``number``, counted from 0."""
        assert self.result is not None and self.basins is not None
        scores = self.measured
        cells = []
        inside = np.ones(len(scores), bool)
        for i, edges in enumerate(self.result.edges):
            cell = np.digitize(scores[:, i], edges) - 1
            inside &= (cell >= 0) & (cell < len(edges) - 1)
            cells.append(np.clip(cell, 0, len(edges) - 2))
        return inside & (self.basins[tuple(cells)] == number)

    def _chosen(self, item: QListWidgetItem) -> None:
        number, table = self.list.row(item), self.session.table
        assert table is not None
        state = self.states[number]
        mask = self.members(number)
        names = " / ".join(f"PC {i + 1}" for i in self._used)
        self.session.select(mask, {"shape": f"state {number + 1} of the landscape in {names}"}, "replace")
        scores = self.measured
        near = np.argsort(np.square(scores - state.place).sum(axis=1))[: max(16, len(scores) // 200)]
        self.session.show_latent(table.z[near].mean(axis=0).astype(np.float64))

    def start_profile(self) -> None:
        """Estimate the energy-like profile along the session's path, in a worker."""
        table, path = self.session.table, self.session.path.copy()
        if table is None:
            return
        if not len(path):
            self.progress.setText("Make a path first, in the tab Trajectory.")
            return
        mean, log_variance = table.alone
        self.progress.setText("Working …")
        self.profile_button.setEnabled(False)
        self.background.run(
            "profile", lambda: landscape.along_path(mean, log_variance, path), self._take_profile, self._failed
        )

    def _take_profile(self, found: landscape.Profile) -> None:
        self.profile = found
        self.profile_button.setEnabled(True)
        self.save.setEnabled(True)
        high = int(found.energy.argmax())
        self.progress.setText("")
        self.words.setText(
            f"Highest point: {found.energy[high]:.1f} ± {found.error[high]:.1f} kT above the lowest, over "
            f"{int(found.particles.sum()):,} particles. The band is one standard error of resampling the particles. "
            "It is a free energy only if freezing kept the equilibrium and the latents measure the motion evenly."
        )
        self._draw()

    def save_figure(self) -> None:
        """Ask for a file and write the landscape, or the profile if that is shown, as a figure."""
        path = ask_figure(self, "landscape.pdf")
        if path is None:
            return
        if self.profile is not None or len(self._used) == 1:
            if self.profile is not None:
                p = self.profile
                x, y, e = p.position, p.energy, p.error
                names = ("position along the path", "energy-like profile (kT)")
            else:
                assert self.result is not None
                x, y = self.result.centres[0], np.minimum(self.result.energy, 8.0)
                e, names = self.result.error, (f"PC {self._used[0] + 1}", "-log density (kT)")
            self.session.write_figure(lambda: figures.profile(path, x, y, y - e, y + e, names))
            return
        assert self.result is not None
        found, states, used = self.result, self.states, self._used
        (x0, x1), (y0, y1) = ((float(e[0]), float(e[-1])) for e in found.edges)
        marks = [(float(s.place[0]), float(s.place[1]), f"{i + 1}") for i, s in enumerate(states)]
        self.session.write_figure(
            lambda: figures.plane(
                path,
                -np.minimum(found.energy, 6.0),
                (x0, x1, y0, y1),
                (f"PC {used[0] + 1}", f"PC {used[1] + 1}"),
                "log density (kT)",
                marks,
            )
        )
