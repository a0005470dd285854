"""Images of the selected particles, and their averages by view."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QRect, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QComboBox, QWidget

from gaussianem_gui.explorer import figures
from gaussianem_gui.explorer.particle_columns import LIKELIHOODS
from gaussianem_gui.explorer.particle_images import Average, Looks, averages_by_view, read_images, rows_of_latents
from gaussianem_gui.views.explorer.figure_file import ask_figure
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.plots.montage import grey_image
from gaussianem_gui.views.toolkit.controls import Switch, together, wrapping
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, column, icon_button, label, row

TILE, LEAST_TILE = 74, 44
CAPTION = 13  # pixels below a tile
NEAR = 64  # particles around the one clicked
LOW_PASS = (0.0, 8.0, 12.0, 20.0, 30.0)


class Tiles(QWidget):
    """Images in rows that fill the width; a click picks one."""

    picked = Signal(int)  # place in the list

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(TILE)
        self._tile = TILE
        self.images: list[QImage] = []
        self.titles: list[str] = []
        self.chosen = -1
        self.setAccessibleName("Images of the particles")
        theme.changed.connect(self.update)

    def set_images(self, images: np.ndarray, titles: list[str], *, fit: bool = False) -> None:  # (n, D, D)
        """Show other images with a title each; ``fit`` makes them smaller, down to LEAST_TILE pixels, until all have
        room."""
        self._tile = TILE
        while fit and len(images) > self.capacity() and self._tile > LEAST_TILE:
            self._tile -= 2
        self.images, self.titles, self.chosen = [grey_image(image) for image in images], titles, -1
        self.setAccessibleDescription(f"{len(images)} images")
        self.update()

    def capacity(self) -> int:
        """How many images of the present size have room."""
        return max(1, self._columns() * max(1, (self.height() + 2) // (self._tile + CAPTION)))

    def _columns(self) -> int:
        return max(1, self.width() // (self._tile + 3))

    def _rect(self, place: int) -> QRect:
        columns, tile = self._columns(), self._tile
        return QRect((place % columns) * (tile + 3), (place // columns) * (tile + CAPTION), tile, tile)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        font = painter.font()
        font.setPointSizeF(7)
        painter.setFont(font)
        for place, image in enumerate(self.images):
            box = self._rect(place)
            if box.top() > self.height():
                break
            painter.drawImage(box, image)
            painter.setPen(QColor(theme.colour("faint")))
            below = box.adjusted(0, self._tile, 0, CAPTION - 1)
            painter.drawText(below, Qt.AlignmentFlag.AlignCenter, self.titles[place])
            if place == self.chosen:
                painter.setPen(QPen(QColor(theme.colour("accent")), 2))
                painter.drawRect(box)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        for place in range(len(self.images)):
            if self._rect(place).contains(event.position().toPoint()):
                self.chosen = place
                self.update()
                self.picked.emit(place)


class ParticlesPanel(Panel):
    """A montage of the images of the selection or of the particles around the one clicked, or their averages by
    view."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__(session)
        self.which = QComboBox()
        self.which.setAccessibleName("Which particles")
        self.which.addItem("Selected particles", "selection")
        self.which.addItem("Around the one clicked", "near")
        self.which.currentIndexChanged.connect(self._restart)
        self.order = QComboBox()
        self.order.setAccessibleName("Order")
        self.order.currentIndexChanged.connect(self._restart)
        self.filter = QComboBox()
        self.filter.setAccessibleName("Low-pass filter")
        for value in LOW_PASS:
            self.filter.addItem(f"Low-pass {value:g} Å" if value else "Unfiltered", value)
        self.filter.currentIndexChanged.connect(self._again)
        self.ctf = Switch("CTF-corrected")
        self.ctf.setToolTip("Correct the CTF (Wiener filter)")
        self.ctf.toggled.connect(self._again)
        self.averages = Switch("Averages by view")
        self.averages.setToolTip("Averages of the chosen particles in groups of viewing directions")
        self.averages.toggled.connect(self._restart)
        self.tiles = Tiles()
        self.tiles.picked.connect(self._picked)
        self.text = Elided("", "hint")
        self.before = icon_button("chevron-left", "Earlier images", lambda: self._turn(-1))
        self.after = icon_button("chevron-right", "More images", lambda: self._turn(1))
        self.export = button("Figure …", "", "download", self.save, name="saveMontage")
        first = wrapping(
            self.which,
            self.order,
            self.filter,
            together(label("CTF-corrected", "muted"), self.ctf),
            together(label("Averages by view", "muted"), self.averages),
        )
        for box, width in ((self.which, 190), (self.order, 220), (self.filter, 150)):
            box.setMinimumWidth(width)
        last = row(spacing=4)
        last.addWidget(self.text, 1)
        for part in (self.before, self.after, self.export):
            last.addWidget(part)
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addWidget(first)
        layout.addWidget(self.tiles, 1)
        layout.addLayout(last)
        self.setLayout(layout)
        self._row, self._first = -1, 0
        self._rows = np.zeros(0, np.int64)
        self._latents = np.zeros(0, np.int64)
        self._shown: tuple[np.ndarray, list[str]] = (np.zeros((0, 1, 1)), [])
        session.selectionChanged.connect(self._selection_changed)
        session.particlePicked.connect(self._particle_picked)

    def opened(self) -> None:
        assert self.session.table is not None
        self.order.blockSignals(True)
        self.order.clear()
        self.order.addItem("File order", "")
        for name in [v for v in (*LIKELIHOODS.values(), "Uncertainty") if v in self.session.table.columns]:
            self.order.addItem(f"{name}, best first", f"-{name}" if name != "Uncertainty" else name)
            self.order.addItem(f"{name}, worst first", name if name != "Uncertainty" else f"-{name}")
        self.order.blockSignals(False)

    def closed(self) -> None:
        self._row, self._first = -1, 0
        self._rows = np.zeros(0, np.int64)
        self._latents = np.zeros(0, np.int64)
        self._show_none("")

    def _show_none(self, why: str) -> None:
        self._shown = (np.zeros((0, 1, 1)), [])
        self.tiles.set_images(*self._shown)
        self.text.setText(why)

    def shown(self) -> None:
        self._restart()

    def _selection_changed(self) -> None:
        if self.isVisible():
            self._restart()

    def _particle_picked(self, row: int) -> None:
        self._row = row
        if self.isVisible() and self.which.currentData() == "near":
            self._restart()

    def _restart(self) -> None:
        self._first = 0
        self._again()

    def _turn(self, pages: int) -> None:
        step = self.tiles.capacity()
        self._first = int(np.clip(self._first + pages * step, 0, max(len(self._rows) - 1, 0)))
        self._again()

    def rows(self) -> np.ndarray:
        """Rows (n,) in the table of the particles to show, in the chosen order; those around the one clicked, nearest
        first, are at most NEAR."""
        table, density = self.session.table, self.session.density
        if table is None:
            return np.zeros(0, np.int64)
        if self.which.currentData() == "near":
            if self._row < 0 or density is None:
                return np.zeros(0, np.int64)
            return density.nearest(table.z[self._row], NEAR)
        rows = np.flatnonzero(self.session.selections.mask)
        key = self.order.currentData()
        if key and len(rows):
            values = table.column(key.lstrip("-")).values[rows]
            rows = rows[np.argsort(-values if key.startswith("-") else values, kind="stable")]
        return rows

    def _again(self) -> None:
        sources = self.session.sources
        if sources is None or not self.isVisible():
            return
        self._rows, self._latents = rows_of_latents(sources, self.rows())
        rows = self._rows
        if not len(rows):
            self.background.cancel("images")
            self._show_none("Select particles in a plot, or click one.")
            return
        if self.averages.isChecked():
            self.text.setText("Averaging …")
            self.background.run("images", lambda: averages_by_view(sources, rows), self._take_averages, self._failed)
            return
        part = rows[self._first : self._first + self.tiles.capacity()]
        looks = Looks(float(self.filter.currentData()), self.ctf.isChecked())
        self.background.run(
            "images", lambda: (part, read_images(sources, part, looks)), self._take_images, self._failed
        )

    def _failed(self, error: Exception) -> None:
        self._show_none(str(error))

    def _take_images(self, found: tuple[np.ndarray, np.ndarray]) -> None:
        part, images = found
        latents = self._latents[self._first : self._first + len(part)]
        titles = [f"{i + 1:,}" for i in latents]  # of tilt series the particle's number, on each of its images
        self._shown = (images, titles)
        self.tiles.set_images(images, titles)
        sources = self.session.sources
        what = "tilt images" if sources is not None and sources.particles is not None else "particles"
        self.text.setText(f"{self._first + 1:,}–{self._first + len(part):,} of {len(self._rows):,} {what}")

    def _take_averages(self, found: list[Average]) -> None:
        images = np.stack([average.image for average in found])
        titles = [f"n = {average.count}" for average in found]
        self._shown = (images, titles)
        self.tiles.set_images(images, titles, fit=True)
        used = sum(average.count for average in found)
        text = f"{len(found)} views of {used:,} particles"
        self.text.setText(text + (f" (a random part of {len(self._rows):,})" if used < len(self._rows) else ""))

    def _picked(self, place: int) -> None:
        if not self.averages.isChecked() and self._first + place < len(self._rows):
            row_ = int(self._latents[self._first + place])
            table = self.session.table
            assert table is not None
            self.session.show_latent(table.z[row_].astype(np.float64), row_)

    def save(self) -> None:
        """Ask for a file and write the montage that is shown as a figure."""
        images, titles = self._shown
        if not len(images):
            return
        path = ask_figure(self, "particles.pdf")
        if path is not None:
            model = self.session.consensus
            pixel = model.box * model.pixel_size_angstrom / images.shape[-1] if model is not None else 0.0
            self.session.write_figure(lambda: figures.montage(path, images, titles, pixel_angstrom=pixel))
