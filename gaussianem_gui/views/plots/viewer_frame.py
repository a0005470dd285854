"""What stands around a volume: its controls, the canvas with what takes its place, a line for remarks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QImage, QKeySequence, QShortcut
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QStackedWidget, QWidget

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.plots.canvas3d import Canvas3D
from gaussianem_gui.views.plots.canvas_starter import CanvasStarter
from gaussianem_gui.views.plots.colour_bar import ColourBar
from gaussianem_gui.views.plots.cut_control import CutControl
from gaussianem_gui.views.plots.level_bar import LevelBar
from gaussianem_gui.views.plots.map_list import MapList
from gaussianem_gui.views.plots.maps_drawn import MapsDrawn
from gaussianem_gui.views.plots.series_bar import SeriesBar
from gaussianem_gui.views.plots.slices import Slices
from gaussianem_gui.views.plots.surface_maker import SurfaceMaker
from gaussianem_gui.views.toolkit.controls import Switch, together, wrapping
from gaussianem_gui.views.toolkit.full_window import FullWindow
from gaussianem_gui.views.toolkit.notices import Banner, EmptyState
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import Elided, clear, column, icon_button, label, plain, row


class ViewerFrame(QWidget):
    """The canvas and its controls; what they do is the viewer's. ``drawn`` comes when something new is shown."""

    drawn = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("viewer")
        self._background = Background(self)
        self._paths: list[Path] = []  # of the series that is shown
        self.picture: Picture | None = None  # the volume that is shown
        self._fresh = True  # the camera has still to be turned to what is shown
        self.surfaces = SurfaceMaker(self)
        self.canvas = Canvas3D()
        self.starter = CanvasStarter(self, self.canvas)
        self.starter.warned.connect(self._warn)
        self.map_list = MapList()
        self.maps = MapsDrawn(self, self.canvas, self.map_list)
        self._build_controls()
        self._build_pages()

    # --- building --------------------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        self.mode = QComboBox()
        self.mode.setAccessibleName("How to draw")
        for text, key in (("Surface", "surface"), ("Projection", "mip"), ("Slices", "slices")):
            self.mode.addItem(text, key)
        self.level = LevelBar()
        self.cuts = CutControl(self.canvas.towards)
        self.colour_by = QComboBox()
        self.colour_by.setAccessibleName("Colour of the surface")
        self.colour_by.addItem("One colour", "")
        self.colour_by.addItem("By a map …", "map")
        self.colour_by.setToolTip("Colour the surface by the values of another map, such as one of local resolution")
        self.points = Switch("Show Gaussians")
        self.points.setToolTip("Show the Gaussians as points")
        self._points_label = label("Gaussians", "muted")
        self.gaussians = together(self._points_label, self.points, spacing=8)
        self.colours = together(label("Colour", "muted"), self.colour_by, spacing=8)
        self.full = FullWindow(self)
        tip = "All volumes of the series side by side, under one camera"
        self.grid_button = icon_button("plots-4", tip, checkable=True, name="mapGrid")
        self.grid_button.hide()
        self.maps_button = icon_button("compare", "Lay other maps over it, or show a difference", checkable=True)
        self.maps_button.setObjectName("mapsButton")
        self.maps_button.toggled.connect(self.map_list.setVisible)
        tip = "The whole window for this view (F11; Esc to go back)"
        self.full_button = icon_button("external", tip, self.full.toggle, name="fullWindow")
        for keys, run in (("F11", self.full.toggle), ("Esc", lambda: self.full.toggle() if self.full.on else None)):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(run)
        self.buttons = together(
            self.grid_button,
            self.maps_button,
            icon_button("fit", "Show all of it (reset the view)", self.reset_view, name="resetView"),
            self.full_button,
            icon_button("camera", "Save a picture", self.save_picture, name="savePicture"),
        )
        self.bar = wrapping(
            self.mode,
            self.level,
            self.colours,
            self.gaussians,
            self.cuts,
            self.buttons,
            spacing=8,
            margins=(12, 6, 8, 6),
        )
        self.bar.setProperty("role", "header")
        self.bar.setEnabled(False)

    def _build_pages(self) -> None:
        self.remark = Elided("", "hint")
        self.remark.setContentsMargins(12, 2, 12, 2)
        self.remark.hide()
        self.colour_bar = ColourBar()
        self.series = SeriesBar(lambda: self._background.busy("volume") or self.surfaces.busy())
        self.stack = QStackedWidget()
        self.stack.setMinimumSize(160, 110)
        self.empty = EmptyState("cube", "No volume chosen", "Choose one at the left and it appears here.")
        self.loading = EmptyState("clock", "Loading the 3D view", "This takes a moment the first time.")
        for page in (self.empty, self.loading, self.canvas):
            self.stack.addWidget(page)
        self._notice = column(spacing=0)
        self._middle: QHBoxLayout = row(spacing=0)
        self._middle.addWidget(self.stack, 1)
        self._middle.addWidget(self.map_list)
        layout = column(spacing=0)
        layout.addWidget(self.bar)
        layout.addLayout(self._notice)
        layout.addLayout(self._middle, 1)
        for part in (self.colour_bar, self.remark, self.series):
            layout.addWidget(part)
        self.setLayout(layout)

    @cached_property
    def slices(self) -> Slices:
        """The page of slices, made when it is first looked at."""
        page = Slices()
        self.stack.addWidget(page)
        return page

    def is_3d(self) -> bool:
        """True if the napari canvas is what is shown."""
        return self.stack.currentWidget() is self.canvas

    def layers(self) -> list[str]:
        """Names of the visible layers in 3D."""
        return self.canvas.names()

    def longest(self) -> int:
        """Voxels a side that a picture may have here."""
        return self.starter.longest()

    def _start_3d(self) -> bool:
        """True if the canvas is there or never will be; else it is being made, and what waits is shown then."""
        if self.starter.start():
            return True
        self.stack.setCurrentWidget(self.loading)
        return False

    # --- in words ------------------------------------------------------------------------------------------------

    def _warn(self, text: str, more: str = "") -> None:
        clear(self._notice)
        holder = QWidget()
        banner = Banner("warning", text, "Hide", lambda: clear(self._notice))
        banner.setToolTip(plain(more))
        holder.setLayout(column(banner, margins=(12, 8, 12, 4)))
        self._notice.addWidget(holder)

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.empty.set_text("This could not be shown", text)
        self.stack.setCurrentWidget(self.empty)

    def _map_failed(self, error: Exception) -> None:
        """A map that was to be laid over, or to colour by, could not be read: what is shown stays."""
        self.remark.setText(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
        self.remark.show()

    def _say(self, text: str) -> None:
        self.remark.setText(text)
        self.remark.setVisible(bool(text))

    # --- the picture ---------------------------------------------------------------------------------------------

    def _shown(self) -> None:
        self.canvas.let_see(inside=self._something_inside())
        self.stack.setCurrentWidget(self.canvas)
        if self._fresh:
            self._fresh = False
            self.reset_view()
        self.drawn.emit()

    def _something_inside(self) -> bool:
        """True if something is drawn that lies inside the surface."""
        return self.maps.differing() or "gaussians" in self.canvas.names()

    def reset_view(self) -> None:
        """Centre and fit what is shown."""
        self.canvas.reset_view()

    def picture_of_view(self) -> QImage:
        """What is on the screen, with what its colours mean below it in 3D."""
        return (
            self.colour_bar.below(self.canvas.image()) if self.is_3d() else self.stack.currentWidget().grab().toImage()
        )

    def save_picture(self) -> None:
        """Ask for a file name and save what is shown."""
        path, _ = QFileDialog.getSaveFileName(self, "Save a picture", "view.png", "PNG (*.png)")
        if path:
            self.picture_of_view().save(path)
