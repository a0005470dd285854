"""The explorer's linked plots of all particles, with their tools, colours and legend."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
from PySide6.QtCore import QSettings, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QApplication,
    QButtonGroup,
    QComboBox,
    QFrame,
    QGridLayout,
    QToolButton,
    QWidget,
)

from gaussianem_gui.explorer import figures
from gaussianem_gui.explorer.particle_columns import ParticleColumns
from gaussianem_gui.explorer.selections import class_step
from gaussianem_gui.views.explorer.colours import Colouring, ColourLegend
from gaussianem_gui.views.explorer.figure_file import ask_figure
from gaussianem_gui.views.explorer.plot import ExplorerPlot
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.toolkit.controls import together, wrapping
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import column, icon_button, label, tool_button

TOOLS = (
    ("decode", "tool-show", "Show", "Click or drag: the molecule at that place appears in 3D"),
    ("lasso", "tool-lasso", "Lasso", "Draw around particles to select them"),
    ("polygon", "tool-polygon", "Polygon", "Click corners to select; double click or Enter closes"),
    ("rectangle", "tool-rectangle", "Box", "Drag a rectangle to select"),
    ("anchor", "tool-path", "Path", "Click places for a trajectory through them"),
    ("pan", "tool-pan", "Move", "Drag to move the plot (always: middle button moves, right stretches, wheel zooms)"),
)
MODES = (
    ("replace", "set-new", "New selection"),
    ("add", "set-add", "Add to the selection"),
    ("subtract", "set-subtract", "Take out of the selection"),
    ("intersect", "set-intersect", "Keep what is in both"),
)
PLACES = {"nearest": "Particle", "exact": "Place", "mean": "Mean of 32"}
NEIGHBOURS = 32


class PlotGrid(QWidget):
    """One, two or four plots; a click shows a latent, a shape selects."""

    toolChosen = Signal(str)
    anchored = Signal(object)  # latent (zdim,) of a place clicked for a path

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__()
        self.session = session
        self.tool = ""
        self._background = Background(self)
        self.plots = [ExplorerPlot()]  # the others are made when they are first asked for
        self.tool_buttons: dict[str, QToolButton] = {}
        self.mode_buttons: dict[str, QToolButton] = {}
        self.layouts: dict[int, QToolButton] = {}
        layout = column(spacing=6, margins=(12, 8, 4, 10))
        layout.addWidget(wrapping(self._tools(), self._modes(), *self._choices(), self._layout_buttons()))
        layout.addWidget(self._plots(), 1)
        self.setLayout(layout)
        session.opened.connect(self._fill)
        session.closed.connect(self._forget)
        session.selectionChanged.connect(self._draw_selection)
        session.latentChanged.connect(self._draw_all_markers)
        session.pathChanged.connect(self._draw_paths)
        session.colouringChanged.connect(self._draw_colours)
        self.set_tool("decode")
        self.set_plots(int(str(QSettings().value("explorer/plots", 1))))

    # --- building --------------------------------------------------------------------------------------------------

    def _tools(self) -> QWidget:
        group = QButtonGroup(self)
        for number, (key, icon, text, tip) in enumerate(TOOLS, start=1):
            item = tool_button(icon, text, f"{tip} ({number})")
            item.setObjectName(f"tool-{key}")
            item.clicked.connect(lambda _c=False, k=key: self.set_tool(k))
            group.addButton(item)
            self.tool_buttons[key] = item
        return together(*self.tool_buttons.values(), spacing=3)

    def _modes(self) -> QWidget:
        modes = QButtonGroup(self)
        for key, icon, tip in MODES:
            item = tool_button(icon, "", tip)
            item.setObjectName(f"mode-{key}")
            item.toggled.connect(lambda on, k=key: self._mode_toggled(k, on))
            modes.addButton(item)
            self.mode_buttons[key] = item
        self.mode_buttons["replace"].setChecked(True)
        session = self.session
        invert = icon_button("set-invert", "Invert the selection (I)", session.invert, name="invertSelection")
        nothing = icon_button("x", "Select nothing (Backspace)", session.clear_selection, name="clearSelection")
        return together(*self.mode_buttons.values(), invert, nothing, spacing=3)

    def _mode_toggled(self, mode: str, on: bool) -> None:
        if on:
            self.session.mode = mode

    def _choices(self) -> list[QWidget]:
        self.colour = QComboBox()
        self.colour.setObjectName("colourBy")
        self.colour.setAccessibleName("Colour of the points")
        self.colour.setMinimumWidth(104)
        self.colour.setMaximumWidth(170)
        self.colour.activated.connect(lambda _i: self._recolour())
        self.place_kind = QComboBox()
        self.place_kind.setAccessibleName("What a click shows")
        self.place_kind.setMinimumWidth(132)
        self.place_kind.setToolTip("The particle nearest to the click, exactly that place, or the mean of 32 around it")
        for key, text in PLACES.items():
            self.place_kind.addItem(text, key)
        return [
            together(label("Colour", "muted"), self.colour),
            together(label("Click", "muted"), self.place_kind),
        ]

    def _layout_buttons(self) -> QWidget:
        layouts = QButtonGroup(self)
        for count, name in ((1, "One plot"), (2, "Two plots"), (4, "Four plots")):
            item = tool_button(f"plots-{count}", "", name)
            item.setObjectName(f"plots-{count}")
            item.clicked.connect(lambda _c=False, n=count: self.set_plots(n))
            layouts.addButton(item)
            self.layouts[count] = item
        self.sides = tool_button("histogram", "", "Histograms at the sides")
        self.sides.setChecked(True)
        self.sides.toggled.connect(lambda on: [p.set_histograms(on) for p in self.plots])
        return together(*self.layouts.values(), self.sides, spacing=3)

    def _plots(self) -> QFrame:
        self.legend = ColourLegend()
        self.legend.classPicked.connect(self._class_picked)
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(2)
        self._listen(self.plots[0])
        cards = QFrame()
        cards.setProperty("role", "card")
        filled = column(spacing=0)
        filled.addLayout(self._grid, 1)
        filled.addWidget(self.legend)
        cards.setLayout(filled)
        return cards

    def _listen(self, plot: ExplorerPlot) -> None:
        plot.axesChanged.connect(self._axes_changed)
        plot.canvas.placed.connect(lambda x, y, _done, p=plot: self.click(p, x, y))
        plot.canvas.shaped.connect(lambda kind, outline, p=plot: self._shaped(p, kind, outline))
        plot.canvas.anchored.connect(lambda x, y, p=plot: self._anchored(p, x, y))
        plot.save.clicked.connect(lambda _c=False, p=plot: self.save_plot(p))

    def _add_plot(self) -> None:
        """One more plot, with all that the others show."""
        plot, table = ExplorerPlot(), self.session.table
        self.plots.append(plot)
        self._listen(plot)
        plot.canvas.set_tool(self.tool)
        plot.set_histograms(self.sides.isChecked())
        if table is not None:
            x, y = self._first_axes()[len(self.plots) - 1]
            plot.set_axes(table.axes(), x, y)
            plot.set_points(table.plane(x, y), x, y)
            for draw in (self._draw_colours, self._draw_selection, self._draw_all_markers, self._draw_paths):
                draw()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Single keys act while the plots or their tools have the keyboard: elsewhere they are typed."""
        keys: dict[int, Callable[[], object]] = {
            Qt.Key.Key_I: self.session.invert,
            Qt.Key.Key_Backspace: self.session.clear_selection,
        }
        for number, (tool, *_rest) in enumerate(TOOLS):
            keys[Qt.Key.Key_1 + number] = partial(self.set_tool, tool)
        run = keys.get(event.key())
        typing = isinstance(QApplication.focusWidget(), QComboBox)
        if run is None or typing or event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier:
            super().keyPressEvent(event)
        else:
            run()

    # --- what is shown ---------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        table = self.session.table
        assert table is not None
        self.fill_colours()
        names = table.axes()
        for plot, (x, y) in zip(self.plots, self._first_axes()):
            plot.set_axes(names, x, y)
            plot.set_points(table.plane(x, y), x, y)
        if "Class" in table.columns:
            self.colour.setCurrentText("Class")
        self._recolour()
        self.plots[0].canvas.setFocus()

    def _forget(self) -> None:
        self._background.cancel_all()
        self.colour.clear()
        self._draw_colours()
        for plot in self.plots:
            plot.set_mask(None)
            plot.set_points(np.zeros((0, 2), np.float32), "", "")
            plot.set_marker(None)
            plot.set_other(None)
            plot.set_way(None, None)

    def _first_axes(self) -> list[tuple[str, str]]:
        table = self.session.table
        assert table is not None
        if not table.varies:
            return self._other_axes(table)
        dims = table.components.used
        if dims == 1:
            return [("PC 1", "Uncertainty" if "Uncertainty" in table.columns else "PC 1")] * 4
        latents = [name for name in table.columns if name.startswith("z ")]
        plane = (latents[0], latents[1]) if len(latents) > 1 else ("PC 1", "PC 2")
        umap = ("UMAP 1", "UMAP 2") if "UMAP 1" in table.columns else plane
        last = ("PC 1", "PC 3") if dims > 2 else plane
        return [("PC 1", "PC 2"), umap, last, ("PC 2", "PC 3") if dims > 2 else ("PC 2", "PC 1")]

    @staticmethod
    def _other_axes(table: ParticleColumns) -> list[tuple[str, str]]:
        """Where no latent says anything: what else is known of each particle, fit and defocus before poses."""
        order = ("Fit", "CTF", "Pose", "Order in the file")
        names = [name for group in order for name in table.axes().get(group, [])]
        return [(names[place % len(names)], names[(place + 1) % len(names)]) for place in range(4)]

    def set_tool(self, tool: str) -> None:
        """Choose what the left mouse button does in all plots, by its name in TOOLS. KeyError for another."""
        self.tool = tool
        self.tool_buttons[tool].setChecked(True)
        for plot in self.plots:
            plot.canvas.set_tool(tool)
        self.toolChosen.emit(tool)

    def set_plots(self, count: int) -> None:
        """Show one, two or four plots; one for any other number. The number is remembered."""
        count = count if count in (1, 2, 4) else 1
        self.layouts[count].setChecked(True)
        QSettings().setValue("explorer/plots", count)
        while len(self.plots) < count:
            self._add_plot()
        for place, plot in enumerate(self.plots):
            # two plots stand one above the other: the plots' half of the window is narrow
            self._grid.addWidget(plot, *((place, 0) if count == 2 else (place // 2, place % 2)))
            plot.setVisible(place < count)

    def shown_plots(self) -> list[ExplorerPlot]:
        """Plots that are visible."""
        return [plot for plot in self.plots if not plot.isHidden()]

    def _axes_changed(self, plot: ExplorerPlot) -> None:
        self.set_axes(plot, plot.x_menu.currentText(), plot.y_menu.currentText())

    def set_axes(self, plot: ExplorerPlot, x: str, y: str) -> None:
        """Show other columns in a plot; those of the particle file are read in a worker."""
        table = self.session.table
        if table is None:
            return

        def done(points: np.ndarray) -> None:
            plot.set_points(points, x, y)
            plot.set_mask(self.session.selections.mask)
            self._draw_markers(plot)
            self._draw_path(plot)

        if table.loaded(x) and table.loaded(y):
            done(table.plane(x, y))
        else:
            self._background.run(f"axes-{id(plot)}", lambda: table.plane(x, y), done, self.session.say_error)

    def fill_colours(self) -> None:
        """Fill the menu of columns that can colour the points."""
        assert self.session.table is not None
        self.colour.clear()
        self.colour.addItem("Density", "")
        for names in self.session.table.names().values():
            self.colour.insertSeparator(self.colour.count())
            for name in names:
                self.colour.addItem(name, name)

    def colour_by(self, name: str) -> None:
        """Colour the points of all plots by the column of that name."""
        self.colour.setCurrentText(name)
        self._recolour()

    def _recolour(self) -> None:
        name, table, session = self.colour.currentData(), self.session.table, self.session
        if table is None:
            return
        if not name:
            session.set_colouring(Colouring())
        else:
            self._background.run(
                "colour", lambda: Colouring.of(table.column(name)), session.set_colouring, session.say_error
            )

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _draw_colours(self) -> None:
        self.legend.set_colouring(self.session.colouring)
        for plot in self.plots:
            plot.set_colouring(self.session.colouring)

    def _draw_selection(self) -> None:
        for plot in self.plots:
            plot.set_mask(self.session.selections.mask)

    def _draw_all_markers(self) -> None:
        playing = self.session.frame >= 0
        for plot in self.shown_plots() if playing else self.plots:
            self._draw_markers(plot)

    def _draw_markers(self, plot: ExplorerPlot) -> None:
        session = self.session
        if session.table is None:
            return
        for z, draw in ((session.latent, plot.set_marker), (session.kept, plot.set_other)):
            if z is None:
                draw(None)
                continue
            place = session.table.project(plot.x_name, plot.y_name, z)
            if place is not None:
                draw(place[0])
            elif session.frame >= 0 and z is session.latent:
                draw(None)  # a frame of a path is no particle's
            else:
                near = int(np.square(session.table.z - z).sum(axis=1).argmin())
                draw(plot.points[near])

    def _draw_paths(self) -> None:
        for plot in self.plots:
            self._draw_path(plot)

    def _draw_path(self, plot: ExplorerPlot) -> None:
        session = self.session
        if session.table is None:
            plot.set_way(None, None)
            return
        anchors = np.array(session.anchors)
        placed = session.table.project(plot.x_name, plot.y_name, anchors) if len(anchors) else None
        plot.set_way(self._path_in(plot), placed)

    def _path_in(self, plot: ExplorerPlot) -> np.ndarray | None:  # -> (P, 2)
        table, path = self.session.table, self.session.path
        return table.project(plot.x_name, plot.y_name, path) if table is not None and len(path) else None

    # --- the mouse -------------------------------------------------------------------------------------------------

    def click(self, plot: ExplorerPlot, x: float, y: float) -> None:
        """Show in 3D what a place of a plot (in its units) stands for: the nearest particle, or the latent that the
        menu says."""
        found = plot.nearest(x, y) if self.session.table is not None else -1
        if found >= 0:
            particle = self.place_kind.currentData() == "nearest"
            self.session.pick_particle(found, None if particle else self._latent_of(plot, x, y, found))

    def _latent_of(self, plot: ExplorerPlot, x: float, y: float, nearest: int) -> np.ndarray:  # -> (zdim,)
        """The latent that a place of a plot stands for, as the menu says."""
        table, density = self.session.table, self.session.density
        assert table is not None
        z = table.z[nearest].astype(np.float64)
        kind = self.place_kind.currentData()
        if kind == "exact":
            exact = table.latent_at(plot.x_name, plot.y_name, (x, y), z)
            return z if exact is None else exact
        if kind == "mean" and density is not None:
            return np.asarray(table.z[density.nearest(z, NEIGHBOURS)].mean(axis=0), np.float64)
        return z

    def _anchored(self, plot: ExplorerPlot, x: float, y: float) -> None:
        found = plot.nearest(x, y) if self.session.table is not None else -1
        if found >= 0:
            self.anchored.emit(self._latent_of(plot, x, y, found))

    def _shaped(self, plot: ExplorerPlot, kind: str, outline: np.ndarray) -> None:
        if self.session.table is not None:
            step = {"shape": kind, "x": plot.x_name, "y": plot.y_name, "outline": np.round(outline, 6).tolist()}
            self.session.select(plot.inside(kind, outline), step)

    def _class_picked(self, code: int) -> None:
        """A class was clicked in the legend: select its particles."""
        found = self.session.colouring.column
        if found is not None and self.session.table is not None:
            self.session.select(found.values == code, class_step(found, code))

    # --- figures ---------------------------------------------------------------------------------------------------

    def save_plot(self, plot: ExplorerPlot) -> None:
        """Ask for a file and write the plot as a figure for a paper."""
        session = self.session
        if session.table is None:
            return
        name = re.sub(r"\W+", "_", f"{plot.x_name}_{plot.y_name}")
        path = ask_figure(self, f"{name}.pdf")
        if path is None:
            return
        column_, points = session.colouring.column, plot.points
        mask = session.selections.mask.copy() if session.selections.selected else None
        way = self._path_in(plot)
        session.write_figure(lambda: figures.scatter(path, points, (plot.x_name, plot.y_name), column_, mask, way))
