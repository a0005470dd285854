"""The latent explorer: linked plots of all particles at the left, the molecule in 3D at the right, and below it what
can be done with a selection or a path. Decoding runs in a process of its own; the window never waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from PySide6.QtCore import QSettings, Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QFrame, QScrollArea, QSplitter, QStackedWidget, QTabWidget, QWidget

from gaussianem_gui.explorer.particle_columns import NOTHING_VARIES
from gaussianem_gui.views.explorer.compare_panel import ComparePanel
from gaussianem_gui.views.explorer.diagnostics_panel import TrustPanel
from gaussianem_gui.views.explorer.domains_panel import DomainsPanel
from gaussianem_gui.views.explorer.landscape_panel import LandscapePanel
from gaussianem_gui.views.explorer.mask_panel import MaskPanel
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.particles_panel import ParticlesPanel
from gaussianem_gui.views.explorer.plot_grid import TOOLS, PlotGrid
from gaussianem_gui.views.explorer.scene import Scene
from gaussianem_gui.views.explorer.selections_panel import SelectionsPanel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.explorer.trajectory_panel import TrajectoryPanel
from gaussianem_gui.views.plots.viewer_actions import viewer_actions
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.notices import Banner, EmptyState
from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry
from gaussianem_gui.views.toolkit.widgets import Elided, button, column, icon_button, label, row, scrolled

PANEL_SHARE = 0.46  # of the right half's height for the panels, until the user moves the border; the same for all tabs
LEAST_PANEL = 44  # pixels high, with all tools of the 3D view unfolded in the smallest window
OF_LATENTS = ("Trajectory", "Landscape", "Domains", "Trust")  # tabs that are about what varies
OF_MODELS = ("Domains", "Mask")  # tabs that need a network of ours


class Explorer(QWidget):
    """A page of the main window, built by ``parts``. ``open`` shows a job; what it shows is its ``session``'s."""

    closed = Signal(str)  # job that was shown

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("explorer")
        self.session = ExplorerSession(self)
        self.setLayout(column(spacing=0))

    # --- building --------------------------------------------------------------------------------------------------

    def parts(self) -> Iterator[None]:
        """Build the page, a part at each step, so that the window can do other work between them. To be run to its end
        before anything else is called."""
        session = self.session
        self.grid = PlotGrid(session)
        yield
        self.scene = Scene(session)
        viewer = self.scene.viewer
        yield
        self.selections, self.trajectory = SelectionsPanel(session), TrajectoryPanel(session, viewer)
        self.panels: dict[str, Panel] = {"Selections": self.selections, "Trajectory": self.trajectory}
        yield
        others: dict[str, Callable[[], Panel]] = {
            "Particles": partial(ParticlesPanel, session),
            "Mask": partial(MaskPanel, session, viewer),
            "Landscape": partial(LandscapePanel, session),
            "Domains": partial(DomainsPanel, session, viewer),
            "Compare": partial(ComparePanel, session),
            "Trust": partial(TrustPanel, session),
        }
        for name, make in others.items():
            self.panels[name] = make()
            yield
        self._make_tabs()
        self._areas: dict[Panel, QScrollArea] = {}
        for name, panel in self.panels.items():
            self._areas[panel] = scrolled(panel)  # where the window is low they scroll
            self._areas[panel].setMinimumHeight(LEAST_PANEL)
            self.tabs.addTab(self._areas[panel], name)
            yield
        right = self._right()
        yield
        self.split = QSplitter()
        self.split.addWidget(self.grid)
        yield
        self.split.addWidget(right)
        self.split.setSizes([500, 500])
        self.split.setHandleWidth(6)
        self.split.setChildrenCollapsible(False)
        yield
        self.pages = QStackedWidget()
        self.empty = EmptyState("explore", "Reading the latents", "")
        self.pages.addWidget(self.empty)
        self.pages.addWidget(self.split)
        yield
        self.layout().addWidget(self._head())
        yield
        self.nothing = QWidget()
        self.nothing.setLayout(column(Banner("info", NOTHING_VARIES), margins=(12, 8, 12, 0)))
        self.nothing.hide()
        for part in (self.nothing, self.pages):
            self.layout().addWidget(part)
        self._connect()
        self._shortcuts()
        self._panel_shown()

    def _head(self) -> QFrame:
        session = self.session
        self.title = label("", "heading")
        self.subtitle = Elided("", "muted")
        back = icon_button("chevron-left", "Back to the job (Esc)", self._leave, name="explorerBack")
        self.count_text = label("", "label")
        self.count_text.setObjectName("selectionCount")
        self.undo_button = icon_button("undo", "Undo the last selection (Ctrl+Z)", session.undo, name="undoSelection")
        self.redo_button = icon_button("redo", "Redo (Ctrl+Shift+Z)", session.redo, name="redoSelection")
        tip = "Write the selected particles as a Select job"
        self.export = button("Export …", "primary", "download", self.selections.ask_export, tip, name="exportSelection")
        tip = "A map from the original images of the selected particles, or of those around the point in 3D"
        self.reconstruct = button(
            "Reconstruct these …", "", "job-reconstruct", lambda: session.reconstruct(), tip, name="reconstructThese"
        )
        self.reconstruct.setEnabled(False)
        first = row(back, self.title, 6, spacing=6)
        first.addWidget(self.subtitle, 1)
        for part in (self.count_text, self.undo_button, self.redo_button, self.reconstruct, self.export):
            first.addWidget(part)
        head = QFrame()
        head.setProperty("role", "header")
        inside = column(spacing=6, margins=(12, 8, 12, 8))
        inside.addLayout(first)
        head.setLayout(inside)
        return head

    def _make_tabs(self) -> None:
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setExpanding(False)
        self.tabs.tabBar().setUsesScrollButtons(True)
        slim = "QTabBar::tab { font-size: 9pt; padding: 8px 1px 6px 1px; margin: 0 6px 0 4px; }"
        self.tabs.tabBar().setStyleSheet(slim)
        self.tabs.tabBar().setAccessibleName("What to do")
        self.tabs.currentChanged.connect(lambda _i: self._panel_shown())

    def _right(self) -> QSplitter:
        bottom = QFrame()
        bottom.setProperty("role", "card")
        bottom.setLayout(column(self.tabs, margins=(6, 0, 6, 6)))
        self.right = QSplitter(Qt.Orientation.Vertical)
        self.right.addWidget(self.scene)
        self.right.addWidget(bottom)
        share = float(str(QSettings().value("explorer/panel_share", PANEL_SHARE)))
        self.right.setSizes([round(1000 * (1 - share)), round(1000 * share)])
        self.right.splitterMoved.connect(lambda _p, _i: self._remember_share())
        self.right.setHandleWidth(8)
        self.right.setChildrenCollapsible(False)
        self.right.setContentsMargins(4, 8, 12, 10)
        return self.right

    def _connect(self) -> None:
        session = self.session
        session.opened.connect(self._opened)
        session.notOpened.connect(lambda why: self.empty.set_text("This job cannot be explored", why))
        session.selectionChanged.connect(self._count_selected)
        session.latentChanged.connect(self._count_selected)
        self.grid.toolChosen.connect(self._tool_chosen)
        self.grid.anchored.connect(self.trajectory.add_anchor)

    def _shortcuts(self) -> None:
        def add(keys: str, run: Callable[[], object]) -> None:
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(run)

        add("Ctrl+Z", self.session.undo)
        add("Ctrl+Shift+Z", self.session.redo)

    # --- the job ---------------------------------------------------------------------------------------------------

    def open(self, model: ProjectModel, name: str) -> None:
        """Show a Train, Analyze or Decode job, or an Import job with latents."""
        if self.session.job == name and self.session.model is model:
            return
        self.title.setText("Explore")
        self.subtitle.setText(name)
        self.nothing.hide()
        self.empty.set_text("Reading the latents", "")
        self.pages.setCurrentWidget(self.empty)
        self.session.open(model, name)

    def _opened(self) -> None:
        table, sources = self.session.table, self.session.sources
        assert table is not None and sources is not None
        self.title.setText(f"Explore {sources.title}")
        original = sources.original.name if sources.original is not None else "no particle file"
        latents = f"{table.z.shape[1]} latent dimensions" if table.varies else "no latent dimension varies"
        self.subtitle.setText(f"{len(table):,} particles · {latents} · {original}")
        self.nothing.setVisible(not table.varies)
        for place, name in enumerate(self.panels):
            shown = (table.varies or name not in OF_LATENTS) and (sources.weights is not None or name not in OF_MODELS)
            self.tabs.setTabVisible(place, shown)
        self.pages.setCurrentWidget(self.split)
        self._panel_shown()

    def _leave(self) -> None:
        self.closed.emit(self.session.job)

    def shut_down(self) -> None:
        """End the worker and let go of the canvases; call before the window goes."""
        self.session.shut_down()
        for panel in self.panels.values():
            panel.closed()
        self.scene.shut_down()

    # --- what follows the session ----------------------------------------------------------------------------------

    def _count_selected(self) -> None:
        book = self.session.selections
        count = book.selected
        share = f" ({100 * count / book.count:.1f} %)" if book.count else ""
        self.count_text.setText(f"{count:,} selected{share}" if count else "nothing selected")
        self.undo_button.setEnabled(book.can_undo())
        self.redo_button.setEnabled(book.can_redo())
        self.export.setEnabled(bool(count))
        self.reconstruct.setEnabled(bool(count) or self.session.latent is not None)

    def _tool_chosen(self, tool: str) -> None:
        if tool == "anchor":
            self.show_panel(self.trajectory)

    def actions(self) -> list[PaletteEntry]:
        """What can be done here, for the palette."""
        grid, session, scene = self.grid, self.session, self.scene
        if session.table is None:
            return []
        where = "Explorer"
        tools = [
            PaletteEntry(f"{text} tool", tip, icon, partial(grid.set_tool, key), str(number))
            for number, (key, icon, text, tip) in enumerate(TOOLS, start=1)
        ]
        tabs = [
            PaletteEntry(f"Show {name}", where, "chevron-right", partial(self.show_panel, panel))
            for place, (name, panel) in enumerate(self.panels.items())
            if self.tabs.isTabVisible(place)
        ]
        colours = [
            PaletteEntry(f"Colour particles by {name}", where, "palette", partial(grid.colour_by, name))
            for names in session.table.names().values()
            for name in names
        ]
        plots = [
            PaletteEntry(f"{text} of the particles", where, f"plots-{count}", partial(grid.set_plots, count))
            for count, text in ((1, "One plot"), (2, "Two plots"), (4, "Four plots"))
        ]
        return [
            *tools,
            PaletteEntry("Invert the selection", where, "set-invert", session.invert, "I"),
            PaletteEntry("Select nothing", where, "x", session.clear_selection, "Backspace"),
            PaletteEntry("Undo the last selection", where, "undo", session.undo, "Ctrl+Z"),
            PaletteEntry("Redo the selection", where, "redo", session.redo, "Ctrl+Shift+Z"),
            PaletteEntry("Export the selection", "As a Select job", "download", self.selections.ask_export),
            PaletteEntry("Keep this state beside", "A second view", "pin", scene.keep_state),
            PaletteEntry(
                "Show the difference", "To the kept state or the consensus", "compare", scene.difference.toggle
            ),
            PaletteEntry("Follow the selection", "Show its mean at once", "set-new", scene.follow.toggle),
            PaletteEntry("Lay a map or model over", "3D view", "folder", scene.ask_reference),
            PaletteEntry("Save the 3D view as a figure", "PNG, SVG or PDF", "download", scene.save_view),
            *plots,
            *tabs,
            *viewer_actions(scene.viewer),
            *colours,
        ]

    def panel(self) -> Panel:
        """The panel whose tab is in front."""
        return list(self.panels.values())[self.tabs.currentIndex()]

    def show_panel(self, panel: Panel) -> None:
        """Bring a panel to the front."""
        self.tabs.setCurrentWidget(self._areas[panel])

    def _panel_shown(self) -> None:
        if self.session.table is not None:
            self.panel().shown()

    def _remember_share(self) -> None:
        top, bottom = self.right.sizes()
        QSettings().setValue("explorer/panel_share", bottom / max(top + bottom, 1))
