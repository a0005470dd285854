"""The latent explorer: linked plots of all particles at the left, the molecule in 3D at the right, and beside it what
can be done with a selection or a path. Decoding runs in a process of its own; the window never waits for it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QObject, QSettings, Qt, QTimer, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QSplitter,
    QStackedWidget,
    QTabWidget,
    QToolButton,
    QWidget,
)

from gaussianem_core.analysis.latent_paths import Crowd
from gaussianem_core.errors import InputError
from gaussianem_gui.explorer import figures
from gaussianem_gui.explorer.decoder_client import Callbacks, Consensus, Decoded, Decoder
from gaussianem_gui.explorer.particle_columns import Table, load_table
from gaussianem_gui.explorer.select_job import Exported
from gaussianem_gui.explorer.selections import Selections, class_step
from gaussianem_gui.explorer.sources import Sources, find_sources
from gaussianem_gui.views.explorer.live_viewer import LiveViewer, binned, surface_of
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.particles_panel import ParticlesPanel
from gaussianem_gui.views.explorer.plot import Colouring, ColourLegend, ExplorerPlot
from gaussianem_gui.views.explorer.selections_panel import SelectionsPanel
from gaussianem_gui.views.explorer.trajectory_panel import TrajectoryPanel
from gaussianem_gui.views.plots.slices import PLANES
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import (
    Elided,
    EmptyState,
    button,
    column,
    icon_button,
    label,
    line,
    row,
)

TOOLS = (
    ("decode", "tool-show", "Show", "Click or drag: the molecule at that place appears in 3D"),
    ("lasso", "tool-lasso", "Lasso", "Draw around particles to select them"),
    ("polygon", "tool-polygon", "Polygon", "Click corners to select; double click or Enter closes"),
    ("rectangle", "tool-rectangle", "Box", "Drag a rectangle to select"),
    ("anchor", "tool-path", "Path", "Click places for a trajectory through them"),
    ("pan", "tool-pan", "Move", "Drag to move the plot (with every tool: right button moves, wheel zooms)"),
)
MODES = (
    ("replace", "set-new", "New selection"),
    ("add", "set-add", "Add to the selection"),
    ("subtract", "set-subtract", "Take out of the selection"),
    ("intersect", "set-intersect", "Keep what is in both"),
)
PLACES = {"nearest": "Particle", "exact": "Place", "mean": "Mean of 32"}
MODEL_FILES = "Maps and models (*.mrc *.map *.cif *.mmcif *.pdb *.ent)"
NEIGHBOURS = 32
MOST_WIDTH = 16_777_215  # Qt's own limit of a widget
FIGURE_SCALE = 3.0  # pixels of a written view a pixel of the screen
LARGEST_LIVE = {"cpu": 96, "cuda": 256}
QUICK_LIVE = 96  # voxels a side of the first picture after a click; a finer one follows where it is possible
REST_MILLISECONDS = 300  # without a click or drag before it follows


class _Bridge(QObject):
    """Carries the decoder's answers to the window's thread; it outlives the reader thread that emits."""

    ready = Signal(object)
    decoded = Signal(object)
    failed = Signal(str)
    refused = Signal(int, str)


class Explorer(QWidget):
    """A page of the main window. ``open`` shows a job."""

    closed = Signal(str)  # job that was shown
    jobOpened = Signal(str)
    noted = Signal(str, str, str)  # kind, title, text
    selectionChanged = Signal()
    decodedShown = Signal()
    tableLoaded = Signal()
    morphRequested = Signal(str)  # job that holds z.txt

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("explorer")
        self.model: ProjectModel | None = None
        self.sources: Sources | None = None
        self.table: Table | None = None
        self.selections = Selections(0)
        self.crowd: Crowd | None = None
        self.consensus: Consensus | None = None
        self.decoder: Decoder | None = None
        self.latent: np.ndarray | None = None  # (zdim,) shown in 3D
        self.kept: np.ndarray | None = None
        self.particle = -1
        self.latency: list[float] = []
        self._bridge: _Bridge | None = None
        self._background = Background(self)
        self._asked = 0.0
        self._shares: dict[str, float] = {}  # of the height, where the user moved the border of a tab
        self._meaning = ""  # what the colours of the difference mean, while it is shown
        self._difference_waits = False  # for the one that is being worked out
        self._finer = -1  # the request of a finer picture of what is shown
        self._undrawn = False  # an answer has come whose picture is not on the screen yet
        self._last: Decoded | None = None
        self._kept_picture: Decoded | None = None
        self.colouring = Colouring()
        self.exported: Exported | None = None

        self.plots = [ExplorerPlot() for _ in range(4)]
        self.viewer = LiveViewer()
        self.second = LiveViewer()
        self._build()
        self._panel_shown()
        self._shortcuts()
        self.set_tool("decode")
        self.set_plots(int(str(QSettings().value("explorer/plots", 1))))

    # --- building --------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.title = label("", "heading")
        self.subtitle = Elided("", "muted")
        back = icon_button("chevron-left", "Back to the job (Esc)", self._leave, name="explorerBack")
        self.count_text = label("", "label")
        self.count_text.setObjectName("selectionCount")
        self.undo_button = icon_button("undo", "Undo the last selection (Ctrl+Z)", self.undo, name="undoSelection")
        self.redo_button = icon_button("redo", "Redo (Ctrl+Shift+Z)", self.redo, name="redoSelection")
        head = QFrame()
        head.setProperty("role", "header")
        first = row(back, self.title, 6, spacing=6)
        first.addWidget(self.subtitle, 1)
        first.addWidget(self.count_text)
        for part in (self.undo_button, self.redo_button):
            first.addWidget(part)
        self.export = button(
            "Export …",
            "primary",
            "download",
            self.export_selection,
            "Write the selected particles as a Select job",
            name="exportSelection",
        )
        first.addWidget(self.export)

        self.tool_buttons: dict[str, QToolButton] = {}
        self.mode_buttons: dict[str, QToolButton] = {}
        tools = row(spacing=3)
        group = QButtonGroup(self)
        for number, (key, icon, text, tip) in enumerate(TOOLS, start=1):
            item = self._tool(icon, text, f"{tip} ({number})")
            item.setObjectName(f"tool-{key}")
            item.clicked.connect(lambda _c=False, k=key: self.set_tool(k))
            group.addButton(item)
            self.tool_buttons[key] = item
            tools.addWidget(item)
        tools.addSpacing(8)
        modes = QButtonGroup(self)
        for key, icon, tip in MODES:
            item = self._tool(icon, "", tip)
            item.setObjectName(f"mode-{key}")
            modes.addButton(item)
            self.mode_buttons[key] = item
            tools.addWidget(item)
        self.mode_buttons["replace"].setChecked(True)
        tools.addWidget(icon_button("set-invert", "Invert the selection (I)", self.invert, name="invertSelection"))
        tools.addWidget(icon_button("x", "Select nothing (Backspace)", self.clear_selection, name="clearSelection"))
        tools.addStretch(1)

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
        self.layouts: dict[int, QToolButton] = {}
        layouts = QButtonGroup(self)
        second = row(
            label("Colour", "muted"), self.colour, 4, label("Click", "muted"), self.place_kind, None, spacing=5
        )
        for count, name in ((1, "One plot"), (2, "Two plots"), (4, "Four plots")):
            item = self._tool(f"plots-{count}", "", name)
            item.setObjectName(f"plots-{count}")
            item.clicked.connect(lambda _c=False, n=count: self.set_plots(n))
            layouts.addButton(item)
            self.layouts[count] = item
            second.addWidget(item)
        self.sides = self._tool("histogram", "", "Histograms at the sides")
        self.sides.setChecked(True)
        self.sides.toggled.connect(lambda on: [p.set_histograms(on) for p in self.plots])
        second.addWidget(self.sides)
        inside = column(spacing=6, margins=(12, 8, 12, 8))
        inside.addLayout(first)
        head.setLayout(inside)

        self.grid = QGridLayout()
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setSpacing(2)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MILLISECONDS)
        self._rest.timeout.connect(self._refine)
        self.legend = ColourLegend()
        self.legend.classPicked.connect(self._class_picked)
        cards = QFrame()
        cards.setProperty("role", "card")
        filled = column(spacing=0)
        filled.addLayout(self.grid, 1)
        filled.addWidget(self.legend)
        cards.setLayout(filled)
        for place, plot in enumerate(self.plots):
            self.grid.addWidget(plot, place // 2, place % 2)
            plot.axesChanged.connect(self._axes_changed)
            plot.canvas.placed.connect(lambda x, y, done, p=plot: self._placed(p, x, y, done))
            plot.canvas.shaped.connect(lambda kind, outline, p=plot: self._shaped(p, kind, outline))
            plot.canvas.anchored.connect(lambda x, y, p=plot: self._anchored(p, x, y))
            plot.save.clicked.connect(lambda _c=False, p=plot: self.save_plot(p))
        left = QWidget()
        left_layout = column(spacing=6, margins=(12, 8, 4, 10))
        left_layout.addLayout(tools)
        left_layout.addLayout(second)
        left_layout.addWidget(cards, 1)
        left.setLayout(left_layout)

        self.status = Elided("", "hint")
        self.status.setObjectName("decodeStatus")
        self.trust = Elided("", "hint")
        self.trust.setObjectName("populationStatus")
        tip = "Keep this state in a second view with the same camera"
        self.keep_button = button("Keep beside", "", "pin", self.keep_state, tip, name="keepState")
        self.difference = self._tool("compare", "", "Difference to the kept state (or to the consensus)")
        self.difference.setObjectName("showDifference")
        self.difference.toggled.connect(lambda _on: self._draw_difference())
        tip = "Lay a map (.mrc) or atomic model (.cif, .pdb) over it; again takes it away"
        self.reference = icon_button("folder", tip, self.ask_reference, checkable=True, name="referenceMap")
        self.view_save = icon_button("download", "Save the 3D view as PNG, SVG or PDF", self.save_view, name="saveView")
        under = row(spacing=4, margins=(12, 4, 8, 4))
        under.addLayout(column(self.status, self.trust, spacing=1), 1)
        under.addWidget(self.keep_button)
        for part in (self.difference, self.reference, self.view_save):
            under.addWidget(part)
        self.second.hide_controls()
        self.views = QSplitter()
        self.views.addWidget(self.viewer)
        self.views.addWidget(self.second)
        self.second.hide()
        top = QFrame()
        top.setProperty("role", "card")
        top_layout = column(spacing=0, margins=(1, 1, 1, 1))
        for control in (self.viewer.bar, self.viewer.tools, self.viewer.note):  # above both views
            top_layout.addWidget(control)
        top_layout.addWidget(self.views, 1)
        top_layout.addWidget(line())
        top_layout.addLayout(under)
        top.setLayout(top_layout)
        self.viewer.drawn.connect(self._picture_drawn)

        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setExpanding(False)
        self.tabs.tabBar().setUsesScrollButtons(True)
        slim = "QTabBar::tab { font-size: 9pt; padding: 8px 1px 6px 1px; margin: 0 6px 0 4px; }"
        self.tabs.tabBar().setStyleSheet(slim)
        self.tabs.tabBar().setAccessibleName("What to do")
        self.panels: dict[str, Panel] = {}
        for name, panel in self._make_panels():
            self.panels[name] = panel
            self.tabs.addTab(panel, name)
        self.tabs.currentChanged.connect(lambda _i: self._panel_shown())
        bottom = QFrame()
        bottom.setProperty("role", "card")
        bottom.setLayout(column(self.tabs, margins=(6, 0, 6, 6)))
        self.right = QSplitter(Qt.Orientation.Vertical)
        self.right.addWidget(top)
        self.right.addWidget(bottom)
        self.right.splitterMoved.connect(lambda _p, _i: self._remember_room())
        self.right.setHandleWidth(8)
        self.right.setChildrenCollapsible(False)
        self.right.setContentsMargins(4, 8, 12, 10)
        self.split = QSplitter()
        self.split.addWidget(left)
        self.split.addWidget(self.right)
        self.split.setSizes([520, 480])
        self.split.setHandleWidth(6)
        self.split.setChildrenCollapsible(False)
        self.pages = QStackedWidget()
        self.empty = EmptyState("explore", "Reading the latents", "")
        self.pages.addWidget(self.empty)
        self.pages.addWidget(self.split)
        layout = column(head, spacing=0)
        layout.addWidget(self.pages, 1)
        self.setLayout(layout)

    def _make_panels(self) -> list[tuple[str, Panel]]:
        from gaussianem_gui.views.explorer.compare_panel import ComparePanel
        from gaussianem_gui.views.explorer.diagnostics_panel import TrustPanel
        from gaussianem_gui.views.explorer.domains_panel import DomainsPanel
        from gaussianem_gui.views.explorer.landscape_panel import LandscapePanel
        from gaussianem_gui.views.explorer.mask_panel import MaskPanel

        return [
            ("Selections", SelectionsPanel(self)),
            ("Trajectory", TrajectoryPanel(self)),
            ("Particles", ParticlesPanel(self)),
            ("Mask", MaskPanel(self)),
            ("Landscape", LandscapePanel(self)),
            ("Domains", DomainsPanel(self)),
            ("Compare", ComparePanel(self)),
            ("Trust", TrustPanel(self)),
        ]

    @staticmethod
    def _tool(icon: str, text: str, tip: str) -> QToolButton:
        item = icon_button(icon, tip, checkable=True, size=18)
        if text:
            item.setText(text)
            item.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
            item.setAccessibleName(text)
            item.setStyleSheet("font-size: 8pt; padding: 3px 1px; min-width: 44px; min-height: 36px;")
        return item

    def _shortcuts(self) -> None:
        def add(keys: str, run: Any) -> None:
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(run)

        for number, (key, *_rest) in enumerate(TOOLS, start=1):
            add(str(number), lambda k=key: self.set_tool(k))
        add("Ctrl+Z", self.undo)
        add("Ctrl+Shift+Z", self.redo)
        add("I", self.invert)
        add("Backspace", self.clear_selection)

    # --- opening ---------------------------------------------------------------------------------------------------

    def open(self, model: ProjectModel, name: str) -> None:
        """Show a Train, Analyze or Decode job."""
        if self.sources is not None and self.sources.job == name and self.model is model:
            return
        self._forget()
        self.model = model
        self.title.setText("Explore")
        self.subtitle.setText(name)
        self.empty.set_text("Reading the latents", "")
        self.pages.setCurrentWidget(self.empty)
        project = model.project

        def read() -> tuple[Sources, Table]:
            sources = find_sources(project, name)
            return sources, load_table(sources)

        self._background.run("table", read, self._take_table, self._table_failed)

    def _table_failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.empty.set_text("This job cannot be explored", text)

    def _take_table(self, found: tuple[Sources, Table]) -> None:
        self.sources, self.table = found
        table, sources = self.table, self.sources
        self.selections = Selections(len(table), sources.directory, sources.job)
        self.title.setText(f"Explore {sources.title}")
        original = sources.original.name if sources.original is not None else "no particle file"
        self.subtitle.setText(f"{len(table):,} particles · {table.z.shape[1]} latent dimensions · {original}")
        self._fill_colours()
        pairs = self._first_axes()
        names = table.axes()
        for plot, (x, y) in zip(self.plots, pairs):
            plot.set_axes(names, x, y)
            plot.set_points(table.plane(x, y), x, y)
        if "Class" in table.columns:
            self.colour.setCurrentText("Class")
        self._recolour()
        self.pages.setCurrentWidget(self.split)
        self._start_decoder(sources)
        self._background.run("crowd", lambda: Crowd(table.z), self._take_crowd)
        for panel in self.panels.values():
            panel.opened()
        self._selection_news()
        if self.selections.problem:
            self.noted.emit("warning", "Selections", self.selections.problem)
        self._panel_shown()
        self.tableLoaded.emit()

    def _first_axes(self) -> list[tuple[str, str]]:
        assert self.table is not None
        dims = self.table.components.used
        if dims == 1:
            return [("PC 1", "Uncertainty" if "Uncertainty" in self.table.columns else "PC 1")] * 4
        umap = ("UMAP 1", "UMAP 2") if "UMAP 1" in self.table.columns else ("z 1", "z 2")
        last = ("PC 1", "PC 3") if dims > 2 else ("z 1", "z 2")
        return [("PC 1", "PC 2"), umap, last, ("PC 2", "PC 3") if dims > 2 else ("PC 2", "PC 1")]

    def _take_crowd(self, crowd: Crowd) -> None:
        self.crowd = crowd
        for panel in self.panels.values():
            panel.crowd_ready()

    def _start_decoder(self, sources: Sources) -> None:
        bridge = _Bridge()
        bridge.ready.connect(self._model_ready, Qt.ConnectionType.QueuedConnection)
        bridge.decoded.connect(self._take_decoded, Qt.ConnectionType.QueuedConnection)
        bridge.failed.connect(self._decoder_failed, Qt.ConnectionType.QueuedConnection)
        bridge.refused.connect(lambda _n, text: self._say(text), Qt.ConnectionType.QueuedConnection)
        self._bridge = bridge
        self.decoder = Decoder(
            Callbacks(bridge.ready.emit, bridge.decoded.emit, bridge.failed.emit, bridge.refused.emit)
        )
        self.status.setText("Loading the model …")
        decoder = self.decoder
        self._background.run("start", lambda: decoder.start(sources), lambda _r: None)

    def _model_ready(self, consensus: Consensus) -> None:
        if self.sender() is not None and self.sender() is not self._bridge:
            return
        self.consensus = consensus
        self.viewer.set_model(consensus)
        self.second.model = consensus
        movable = f"{len(consensus.positions):,} Gaussians"
        self.status.setText(f"Consensus · {movable} · decodes on {consensus.device}. Click in a plot.")
        for panel in self.panels.values():
            panel.model_ready()

    def _decoder_failed(self, text: str) -> None:
        if self.sender() is not None and self.sender() is not self._bridge:
            return
        self._end_decoder()
        self.status.setText("The decoder stopped. Click in a plot to start it again.")
        self.noted.emit("danger", "The decoder stopped", text)

    def _end_decoder(self) -> None:
        """Close the worker, in the background; the bridge lives until the reader thread has ended."""
        decoder, bridge = self.decoder, self._bridge
        self.decoder = self._bridge = None
        if decoder is not None:
            self._background.run(f"close-{id(decoder)}", lambda: (decoder.close(), bridge)[0], lambda _r: None)

    def _forget(self) -> None:
        """Let go of the job that was shown."""
        for panel in self.panels.values():
            panel.closed()
        self._rest.stop()
        self._end_decoder()
        self.consensus = self.sources = self.table = None
        self.crowd = self.latent = self.kept = self._last = self._kept_picture = None
        self.particle = -1
        self._fold_second()
        self.keep_button.setText("Keep beside")

    def shut_down(self) -> None:
        """End the worker and let go of the canvases; call before the window goes."""
        decoder, self.decoder = self.decoder, None
        if decoder is not None:
            decoder.close()
        for panel in self.panels.values():
            panel.closed()
        self.viewer.shut_down()
        self.second.shut_down()

    @property
    def job(self) -> str:
        """Job that is shown, "" if none."""
        return self.sources.job if self.sources is not None else ""

    def leave(self) -> None:
        """Let go of the job: the project is closed."""
        self._forget()
        self.model = None

    def _leave(self) -> None:
        self.closed.emit(self.sources.job if self.sources is not None else "")

    # --- plots -----------------------------------------------------------------------------------------------------

    def set_tool(self, tool: str) -> None:
        """What the left mouse button does."""
        self.tool = tool
        self.tool_buttons[tool].setChecked(True)
        for plot in self.plots:
            plot.canvas.set_tool(tool)
        if tool == "anchor" and hasattr(self, "panels"):
            self.tabs.setCurrentWidget(self.panels["Trajectory"])

    def set_plots(self, count: int) -> None:
        """Show one, two or four plots."""
        count = count if count in (1, 2, 4) else 1
        self.layouts[count].setChecked(True)
        QSettings().setValue("explorer/plots", count)
        for place, plot in enumerate(self.plots):
            # two plots stand one above the other: the plots' half of the window is narrow
            self.grid.addWidget(plot, *((place, 0) if count == 2 else (place // 2, place % 2)))
            plot.setVisible(place < count)

    def shown_plots(self) -> list[ExplorerPlot]:
        """Plots that are visible."""
        return [plot for plot in self.plots if not plot.isHidden()]

    def _axes_changed(self, plot: ExplorerPlot) -> None:
        self.set_axes(plot, plot.x_menu.currentText(), plot.y_menu.currentText())

    def set_axes(self, plot: ExplorerPlot, x: str, y: str) -> None:
        """Show other columns in a plot; those of the particle file are read in a worker."""
        table = self.table
        if table is None:
            return

        def done(points: np.ndarray) -> None:
            plot.set_points(points, x, y)
            plot.set_mask(self.selections.mask)
            self._draw_markers(plot)

        if table.loaded(x) and table.loaded(y):
            done(table.plane(x, y))
        else:
            self._background.run(f"axes-{id(plot)}", lambda: table.plane(x, y), done, self._say_error)

    def _fill_colours(self) -> None:
        assert self.table is not None
        self.colour.clear()
        self.colour.addItem("Density", "")
        for names in self.table.names().values():
            self.colour.insertSeparator(self.colour.count())
            for name in names:
                self.colour.addItem(name, name)

    def _recolour(self) -> None:
        name, table = self.colour.currentData(), self.table
        if table is None:
            return
        if not name:
            self._take_colouring(Colouring())
        else:
            self._background.run(
                "colour", lambda: Colouring.of(table.column(name)), self._take_colouring, self._say_error
            )

    def _take_colouring(self, colouring: Colouring) -> None:
        self.colouring = colouring
        self.legend.set_colouring(colouring)
        for plot in self.plots:
            plot.set_colouring(colouring)

    def _class_picked(self, code: int) -> None:
        """A class was clicked in the legend: select its particles."""
        found = self.colouring.column
        if found is not None and self.sources is not None:
            self.select(found.values == code, class_step(found, code, self.sources.job))

    def _anchored(self, plot: ExplorerPlot, x: float, y: float) -> None:
        if self.table is None:
            return
        found = plot.nearest(x, y)
        if found >= 0:
            panel = self.panels["Trajectory"]
            assert isinstance(panel, TrajectoryPanel)
            panel.add_anchor(self.latent_of(plot, x, y, found))

    def save_plot(self, plot: ExplorerPlot) -> None:
        """Ask for a file and write the plot as a figure for a paper."""
        if self.table is None:
            return
        name = re.sub(r"\W+", "_", f"{plot.x_name}_{plot.y_name}")
        path = self.ask_figure(f"{name}.pdf")
        if path is None:
            return
        column_, points = self.colouring.column, plot.points
        mask = self.selections.mask.copy() if self.selections.selected else None
        way = self.panels["Trajectory"].way_in(plot)
        self.save_figure(lambda: figures.scatter(path, points, (plot.x_name, plot.y_name), column_, mask, way))

    def ask_figure(self, name: str) -> Path | None:
        """Ask where to write a figure."""
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the figure", name, "PDF, SVG or PNG (*.pdf *.svg *.png)")
        return Path(chosen) if chosen else None

    def save_figure(self, write: Any) -> None:
        """Write a figure in a worker and say where it is."""
        self._background.run(
            f"figure-{time.monotonic_ns()}",
            write,
            lambda path: self.noted.emit("success", "Saved", str(path)),
            self._say_error,
        )

    # --- decoding --------------------------------------------------------------------------------------------------

    def _placed(self, plot: ExplorerPlot, x: float, y: float, _done: bool) -> None:
        if self.table is None:
            return
        found = plot.nearest(x, y)
        if found < 0:
            return
        z = self.latent_of(plot, x, y, found)
        self.particle = found if self.place_kind.currentData() == "nearest" else -1
        self.show_latent(z)
        self.panels["Particles"].particle_changed(found)

    def latent_of(self, plot: ExplorerPlot, x: float, y: float, nearest: int) -> np.ndarray:  # -> (zdim,)
        """The latent that a place of a plot stands for, as the menu says."""
        assert self.table is not None
        z = self.table.z[nearest].astype(np.float64)
        kind = self.place_kind.currentData()
        if kind == "exact":
            exact = self.table.latent_at(plot.x_name, plot.y_name, (x, y), z)
            return z if exact is None else exact
        if kind == "mean" and self.crowd is not None:
            return np.asarray(self.table.z[self.crowd.nearest(z, NEIGHBOURS)].mean(axis=0), np.float64)
        return z

    def show_latent(self, z: np.ndarray) -> None:  # (zdim,)
        """Decode a latent and show it in 3D as soon as it is there."""
        self.latent = z
        self._asked = time.perf_counter()
        for plot in self.plots:
            self._draw_markers(plot)
        if self.decoder is None and self.sources is not None and self.table is not None:
            self._start_decoder(self.sources)  # it had stopped
        if self.decoder is not None:
            self.panels["Trajectory"].stop()
            self._finer = -1
            self._rest.stop()
            self.decoder.request(z, longest=min(QUICK_LIVE, self.longest()))

    def _refine(self) -> None:
        """The picture at rest, as fine as it can be shown."""
        if self.decoder is not None and self.latent is not None:
            self._finer = self.decoder.request(self.latent, longest=self.longest())

    def longest(self) -> int:
        """Voxels a side of pictures decoded live."""
        device = self.consensus.device if self.consensus is not None else "cpu"
        return min(self.viewer.longest(), LARGEST_LIVE["cuda" if device.startswith("cuda") else "cpu"])

    def _take_decoded(self, answer: Decoded) -> None:
        if self.sender() is not None and self.sender() is not self._bridge:
            return
        if answer.channel != "live":
            for panel in self.panels.values():
                panel.decoded(answer)
            return
        self._last = answer
        self._undrawn = True
        name = f"particle {self.particle + 1:,}" if self.particle >= 0 else "latent"
        self.viewer.show_decoded(answer.volume, answer.positions, answer.densities, name)
        self._draw_difference()

    def _picture_drawn(self) -> None:
        """The canvas has the picture: only now a click is answered."""
        if not self._undrawn or self._last is None:
            return
        self._undrawn = False
        if self._last.id == self._finer:
            return
        if self.consensus is not None and min(self.longest(), self.consensus.box) > QUICK_LIVE:
            self._rest.start()
        took = time.perf_counter() - self._asked
        self.latency.append(took)
        del self.latency[:-1000]
        self._tell(self._last, took)
        self.decodedShown.emit()

    def _tell(self, answer: Decoded, took: float) -> None:
        assert self.table is not None and self.latent is not None
        words = [f"Particle {self.particle + 1:,}" if self.particle >= 0 else "A place in latent space"]
        if self.particle >= 0 and self.table.labels is not None:
            words.append(f"class {self.table.labels[self.particle] + 1}")
        if self.consensus is not None and answer.positions is not None:
            moved = np.linalg.norm(answer.positions - self.consensus.positions, axis=1)
            words.append(f"moves up to {np.percentile(moved, 99) * self.consensus.half_angstrom:.1f} Å")
        words.append(f"{1000 * took:.0f} ms")
        self.status.setText(self._meaning or " · ".join(words))
        self.tell_population(self.latent)

    def tell_population(self, z: np.ndarray) -> None:
        """How populated the place is, in words; a warning where the network had nothing to learn from."""
        if self.crowd is None:
            self.trust.setText("")
            return
        lonely = float(self.crowd.loneliness(z)[0]) > 1.0
        if not lonely:
            text = f"Denser here than around {100 * float(self.crowd.standing(z)[0]):.0f} % of the particles"
        elif self.particle >= 0:
            text = "⚠ An outlier: hardly any other particle is like it"
        else:
            text = "⚠ Hardly any particle is here: the network's guess"
        self.trust.setText(text)
        if self.trust.property("role") != (role := "warning" if lonely else "hint"):
            self.trust.setProperty("role", role)
            self.trust.style().unpolish(self.trust)
            self.trust.style().polish(self.trust)

    def _draw_markers(self, plot: ExplorerPlot) -> None:
        if self.table is None:
            return
        for z, draw in ((self.latent, plot.set_marker), (self.kept, plot.set_other)):
            if z is None:
                draw(None)
                continue
            place = self.table.project(plot.x_name, plot.y_name, z)
            if place is not None:
                draw(place[0])
            else:
                near = int(np.square(self.table.z - z).sum(axis=1).argmin())
                draw(plot.points[near])
        self.panels["Trajectory"].draw_in(plot)

    def keep_state(self) -> None:
        """Keep what is shown in a second view, with linked cameras; again lets go of it."""
        if self.kept is not None:
            self._fold_second()
            self.kept = self._kept_picture = None
            self.keep_button.setText("Keep beside")
        elif self._last is not None and self.latent is not None:
            self.kept, self._kept_picture = self.latent.copy(), self._last
            self.second.setMaximumWidth(MOST_WIDTH)
            self.second.show()
            self.views.setSizes([500, 500])
            self.second.level.setValue(self.viewer.level.value())
            self.second.show_decoded(self._last.volume, self._last.positions, self._last.densities, "kept")
            self.second.drawn.connect(self._link_cameras, Qt.ConnectionType.SingleShotConnection)
            self.keep_button.setText("Let go")
        for plot in self.plots:
            self._draw_markers(plot)
        self._draw_difference()

    def _fold_second(self) -> None:
        """No room for the second view; its canvas stays as it is."""
        self.second.setMaximumWidth(0)
        self.views.setSizes([1000, 0])

    def _link_cameras(self) -> None:
        if not self.second.property("linked"):
            self.second.setProperty("linked", True)
            self.second.follow(self.viewer)
            self.viewer.level.valueChanged.connect(self.second.level.setValue)

    def _draw_difference(self) -> None:
        """Surfaces of what is more and what is less than in the kept state, or the consensus; made in a worker."""
        model, kept = self.consensus, self._kept_picture
        if model is None or self._last is None or self._last.volume is None or not self.difference.isChecked():
            self._meaning = ""
            if "gain" in self.viewer._extra:
                for key in ("gain", "loss"):
                    self.viewer.show_surface(key, None, "", 0)
            return
        if self._background.busy("difference"):
            self._difference_waits = True
            return
        now = self._last.volume
        before = kept.volume if kept is not None else model.volume
        than = "the kept state" if kept is not None else "the consensus"
        assert before is not None

        def work() -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
            coarse = min(before.shape[0], now.shape[0])  # one may be the quick picture, the other the fine one
            first, second = (binned(values, values.shape[0] // coarse) for values in (before, now))
            if first.shape != second.shape:
                return [], ""  # grids that do not divide: the fine picture follows
            change = second - first
            level = max(1.5 * model.sigma, 0.25 * float(np.abs(change).max()))
            text = f"Blue: more density than in {than}; red: less (from {level / model.sigma:.1f} σ)"
            return [surface_of(sign * change, level, model) for sign in (1, -1)], text

        self._background.run("difference", work, self._take_difference, self._say_error)

    def _take_difference(self, found: tuple[list[tuple[np.ndarray, np.ndarray]], str]) -> None:
        meshes, text = found
        if self.difference.isChecked() and self._last is not None:
            for key, colour, mesh in zip(("gain", "loss"), ("info", "danger"), meshes):
                self.viewer.show_surface(key, mesh, theme.colour(colour), 0.75)
            if text:
                self._meaning = text
                self.status.setText(text)
        if self._difference_waits:
            self._difference_waits = False
            self._draw_difference()

    def ask_reference(self) -> None:
        """Ask for a map or model and lay it over the picture; again removes it."""
        if self.viewer.segments is not None or "reference" in self.viewer._extra:
            self.hide_reference()
            return
        chosen, _ = QFileDialog.getOpenFileName(self, "A map or model to lay over", str(self._root()), MODEL_FILES)
        if chosen:
            self.show_reference(Path(chosen))
        else:
            self.reference.setChecked(False)

    def hide_reference(self) -> None:
        """Take the map or model away again."""
        self.reference.setChecked(False)
        if self.viewer.model is not None:
            self.viewer.show_surface("reference", None, "", 0)
            self.viewer.show_model(None)

    def show_reference(self, path: Path) -> None:
        """Lay the surface of a map, at the contour in use, or the trace of an atomic model over the picture."""
        from gaussianem_core.io.atomic_model import place_in_box, read_backbone
        from gaussianem_gui.explorer.volumes import load_volume, surface

        model, longest, level = self.consensus, self.viewer.longest(), self.viewer.contour()
        if model is None:
            return
        self.reference.setChecked(True)

        def failed(error: Exception) -> None:
            self.reference.setChecked(False)
            self._say_error(error)

        if path.suffix.lower() in (".mrc", ".map"):
            self._background.run(
                "reference",
                lambda: surface(load_volume(path, longest), level),
                lambda mesh: self.viewer.show_surface("reference", mesh, theme.colour("muted"), 0.35),
                failed,
            )
        else:
            self._background.run(
                "reference",
                lambda: place_in_box(read_backbone(path), model.box, model.pixel_size_angstrom, model.origin_angstrom),
                self.viewer.show_model,
                failed,
            )

    def save_view(self) -> None:
        """Ask for a file and write the 3D view on white with a scale bar."""
        path = self.ask_figure("view.png")
        if path is not None:
            self.write_view(path)

    def write_view(self, path: Path) -> None:
        """Write the 3D view (both views, if a state is kept beside) or the slices as PNG, SVG or PDF."""
        shown = self.viewer.picture
        if not self.viewer.is_3d() and shown is not None:
            planes = [self.viewer.slices.shown(i) for i in range(len(PLANES))]
            drawn = [(name, plane) for (name, _), plane in zip(PLANES, planes) if plane is not None]
            self.save_figure(lambda: figures.planes(path, drawn, shown.voxel_angstrom))
            return
        pixels, scale = self.viewer.pixels_on_white(FIGURE_SCALE)
        if self.kept is not None and self.second.is_3d():
            other = self.second.pixels_on_white(FIGURE_SCALE)[0]
            high = min(len(pixels), len(other))
            pixels = np.concatenate([pixels[:high], other[:high]], axis=1)
        self.save_figure(lambda: figures.picture(path, pixels, scale))

    # --- selections ------------------------------------------------------------------------------------------------

    def mode(self) -> str:
        """How the next shape combines with the selection."""
        return next(key for key, item in self.mode_buttons.items() if item.isChecked())

    def _shaped(self, plot: ExplorerPlot, kind: str, outline: np.ndarray) -> None:
        if self.sources is None:
            return
        mask = plot.inside(kind, outline)
        step = {
            "shape": kind,
            "x": plot.x_name,
            "y": plot.y_name,
            "outline": np.round(outline, 6).tolist(),
            "job": self.sources.job,
            "time": time.time(),
        }
        self.select(mask, step)

    def select(self, mask: np.ndarray, step: dict[str, Any], mode: str = "") -> None:
        """Combine particles with the selection."""
        self.selections.apply(mask, mode or self.mode(), step)
        self._selection_news()

    def undo(self) -> None:
        """Undo the last change of the selection."""
        if self.selections.undo():
            self._selection_news()

    def redo(self) -> None:
        """Do it again."""
        if self.selections.redo():
            self._selection_news()

    def invert(self) -> None:
        """Select the others."""
        if self.table is not None:
            self.selections.invert()
            self._selection_news()

    def clear_selection(self) -> None:
        """Select nothing."""
        self.selections.clear()
        self._selection_news()

    def _selection_news(self) -> None:
        book = self.selections
        count = book.selected
        share = f" ({100 * count / book.count:.1f} %)" if book.count else ""
        self.count_text.setText(f"{count:,} selected{share}" if count else "nothing selected")
        self.undo_button.setEnabled(book.can_undo())
        self.redo_button.setEnabled(book.can_redo())
        self.export.setEnabled(bool(count))
        for plot in self.plots:
            plot.set_mask(book.mask)
        for panel in self.panels.values():
            panel.selection_changed()
        self.selectionChanged.emit()

    def export_selection(self) -> None:
        """Ask what to write, then make the Select job."""
        panel = self.panels["Selections"]
        assert isinstance(panel, SelectionsPanel)
        panel.ask_export()

    # --- small -----------------------------------------------------------------------------------------------------

    def _panel_shown(self) -> None:
        panel = self.tabs.currentWidget()
        if isinstance(panel, Panel):
            self._give_room(panel)
            if self.table is not None:
                panel.shown()

    def _give_room(self, panel: Panel) -> None:
        """Share the height between the molecule and a panel, as the panel likes it or the user last made it."""
        share = self._shares.get(self.tabs.tabText(self.tabs.indexOf(panel)), panel.room)
        self.right.setSizes([round(1000 * (1 - share)), round(1000 * share)])

    def _remember_room(self) -> None:
        top, bottom = self.right.sizes()
        self._shares[self.tabs.tabText(self.tabs.currentIndex())] = bottom / max(top + bottom, 1)

    def _root(self) -> Path:
        return self.model.root if self.model is not None else Path.cwd()

    def _say(self, text: str) -> None:
        self.status.setText(text)

    def _say_error(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.noted.emit("danger", "That did not work", text)


__all__ = ["PLACES", "TOOLS", "Explorer"]
