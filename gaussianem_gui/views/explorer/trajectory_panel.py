"""Trajectories: chosen along components, through anchors or classes, or through populated space; decoded in the
background, played in 3D with the particles per frame below the time slider, and exported."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, Qt, QTimer
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QMenu, QSlider, QWidget

from gaussianem_core.analysis import latent_paths
from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.decoder_client import Decoded
from gaussianem_gui.explorer.movies import Frame, export_movie, export_series
from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.explorer.live_viewer import Prepared, picture_of, prepare
from gaussianem_gui.views.explorer.panel import Number, Panel
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, column, icon_button, keep_icon, label, row

KINDS = {
    "anchors": "Through my points",
    "geodesic": "Points, populated",
    "component": "Along a component",
    "populated": "Component, populated",
    "classes": "Through the classes",
    "selections": "Between selections",
}
SPEEDS = (5, 10, 20, 30)
SOFTWARE_FACES = 25_000  # of a surface that plays where the processor draws; beyond it a coarser one plays


class CountBar(QWidget):
    """Particles nearest to each frame; frames where hardly any particle is stand out."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(44)
        self.setMaximumHeight(150)
        self.counts = np.zeros(0, int)
        self.lonely = np.zeros(0, bool)
        self.frame = 0
        self.setAccessibleName("Particles per frame")

    def set_counts(self, counts: np.ndarray, lonely: np.ndarray) -> None:  # (P,), (P,) bool
        """Show other counts."""
        self.counts, self.lonely = counts, lonely
        self.setToolTip(f"{int(counts.sum()):,} particles along the path; red: hardly any particle is near")
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not len(self.counts):
            return
        painter = QPainter(self)
        margin = 7.0  # the handle's half width, so that bars stand below their frame
        step = (self.width() - 2 * margin) / max(len(self.counts) - 1, 1)
        top, foot = max(int(self.counts.max()), 1), 15
        for i, count in enumerate(self.counts):
            colour = QColor(theme.colour("danger" if self.lonely[i] else "accent"))
            colour.setAlpha(255 if i == self.frame else 130)
            high = max(1.0, count / top * (self.height() - foot - 2))
            painter.fillRect(
                int(margin + i * step - max(step * 0.38, 1)),
                int(self.height() - foot - high),
                int(max(step * 0.76, 2)),
                int(high) + 1,
                colour,
            )
        painter.setPen(QColor(theme.colour("muted")))
        font = painter.font()
        font.setPointSizeF(8)
        painter.setFont(font)
        text = f"{int(self.counts[self.frame]):,} of {int(self.counts.sum()):,} particles are nearest to this frame"
        painter.drawText(QPointF(margin, self.height() - 3), text)


class TrajectoryPanel(Panel):
    """Makes, plays and writes trajectories."""

    def __init__(self, explorer) -> None:  # type: ignore[no-untyped-def]
        super().__init__(explorer)
        self.anchors: list[np.ndarray] = []
        self.path = np.zeros((0, 0))
        self.frames: dict[int, Decoded] = {}
        self.pictures: dict[int, Picture] = {}
        self.meshes: dict[tuple[int, float], Prepared] = {}
        self.number = -1
        self.shown_at: list[float] = []
        self._step = 1
        self._timer = QTimer(self)
        self.kind = QComboBox()
        self.kind.setObjectName("pathKind")
        self.kind.setAccessibleName("Kind of path")
        for key, text in KINDS.items():
            self.kind.addItem(text, key)
        self.kind.currentIndexChanged.connect(self._kind_changed)
        self.component = QComboBox()
        self.component.setAccessibleName("Component")
        self.count = Number("Number of frames", 2, 200, 30, "frames", 92)
        self.make = button("Decode", "primary", "", self.start, "Decode the path", name="decodePath")
        self.clear_button = icon_button("x", "Remove the points", self.clear_anchors, name="clearAnchors")
        self.text = Elided("", "hint")
        self.play = icon_button("play", "Play or stop (Space)", self.toggle, name="playPath")
        self.loop = QComboBox()
        self.loop.setAccessibleName("At the end")
        for key, name in (("swing", "To and fro"), ("loop", "Loop"), ("once", "Once")):
            self.loop.addItem(name, key)
        self.speed = QComboBox()
        self.speed.setAccessibleName("Speed")
        for rate in SPEEDS:
            self.speed.addItem(f"{rate} frames/s", rate)
        self.speed.setCurrentIndex(2)
        self.speed.currentIndexChanged.connect(lambda _i: self._timer.setInterval(1000 // self.speed.currentData()))
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setObjectName("pathFrame")
        self.slider.setAccessibleName("Frame of the trajectory")
        self.slider.valueChanged.connect(self.show_frame)
        self.counts = CountBar()
        self.warning = label("", "hint", wrap=True)
        self.export = button("Export", "", "download", name="exportPath")
        self.export.setProperty("menu", True)
        menu = QMenu(self.export)
        menu.addAction("MRC series and ChimeraX script (new job)", self.export_volumes)
        menu.addAction("Movie (MP4 or GIF) …", self.ask_movie)
        menu.addAction("Morph an atomic model along it …", self.morph)
        menu.addAction("Particles per frame as a figure …", self.save_counts)
        self.export.setMenu(menu)
        self.kind.setMinimumWidth(206)
        self.component.setMinimumWidth(130)
        self.speed.setMinimumWidth(120)
        first = row(self.kind, self.component, None, self.clear_button, self.count, self.make, spacing=6)
        player = row(self.play, spacing=6)
        player.addWidget(self.slider, 1)
        last = row(self.loop, self.speed, None, self.export, spacing=6)
        layout = column(spacing=4, margins=(6, 8, 6, 4))
        layout.addLayout(first)
        layout.addWidget(self.text)
        layout.addLayout(player)
        layout.addWidget(self.counts, 1)
        layout.addWidget(self.warning)
        layout.addLayout(last)
        self.setLayout(layout)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(1000 // SPEEDS[2])
        self._timer.timeout.connect(self._next)
        self._moving = pg.ScatterPlotItem()
        self._kind_changed()
        self._enable()

    # --- the path --------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        self.anchors, self.path = [], np.zeros((0, 0))
        self.frames, self.pictures, self.meshes = {}, {}, {}
        self.component.clear()
        components = self.explorer.table.components
        for i, share in enumerate(components.ratios[: min(components.used, 20)]):
            self.component.addItem(f"PC {i + 1}, {100 * share:.0f} %", i)
        self._kind_changed()

    def closed(self) -> None:
        self.stop()

    def _kind_changed(self) -> None:
        kind = self.kind.currentData()
        self.component.setVisible(kind in ("component", "populated"))
        self.clear_button.setVisible(kind in ("anchors", "geodesic"))
        tips = {
            "anchors": "Take the tool “Path” and click places in a plot.",
            "geodesic": "Take the tool “Path” and click places: the way keeps to where particles are.",
            "component": "From the 5th to the 95th percentile, straight through the mean.",
            "populated": "From the 5th to the 95th percentile, through the dense middle.",
            "classes": "Through the middles of the classes in their shortest order.",
            "selections": "Through the middles of the named selections, in their order.",
        }
        if kind in ("anchors", "geodesic") and self.anchors:
            tips[kind] = f"{len(self.anchors)} point{'s' * (len(self.anchors) > 1)}" + (
                "" if len(self.anchors) > 1 else ": click one more place in a plot."
            )
        self.text.setText(self._missing(kind) or tips[kind])
        self._enable()

    def _missing(self, kind: str) -> str:
        """What a kind of path still needs, in words; "" if nothing."""
        table = getattr(self.explorer, "table", None)
        if table is None:
            return ""
        if kind == "classes" and table.centres is None:
            return "There are no classes yet: run Analyze, then explore its job."
        if kind == "selections" and sum(s.count > 0 for s in self.explorer.selections.named) < 2:
            return "Save two selections first, in the tab Selections."
        return ""

    def selection_changed(self) -> None:
        if self.kind.currentData() == "selections":
            self._kind_changed()

    def add_anchor(self, z: np.ndarray) -> None:  # (zdim,)
        """A place to go through."""
        if self.kind.currentData() not in ("anchors", "geodesic"):
            self.kind.setCurrentIndex(self.kind.findData("anchors"))
        self.anchors.append(np.asarray(z, np.float64))
        self._kind_changed()
        self._redraw_marks()

    def clear_anchors(self) -> None:
        """No places."""
        self.anchors = []
        self._kind_changed()
        self._redraw_marks()

    def make_path(self) -> np.ndarray:  # -> (P, zdim)
        """The path that the fields describe. Raises InputError in words if something is missing."""
        table, count, kind = self.explorer.table, int(self.count.value()), self.kind.currentData()
        number = int(self.component.currentData() or 0)
        if kind == "component":
            return latent_paths.along_component(table.z, number, count)
        if kind == "populated":
            return latent_paths.along_populated(table.z, number, count)
        if kind == "anchors":
            return latent_paths.through(np.array(self.anchors), count)
        if kind == "geodesic":
            return latent_paths.geodesic(table.z, np.array(self.anchors), count)
        if kind == "selections":
            middles = [table.z[s.mask].mean(axis=0) for s in self.explorer.selections.named if s.count]
            return latent_paths.through(np.array(middles), count)
        if table.centres is None:
            raise InputError("classes", "must be there", "none", "Run Analyze first, then explore again.")
        return latent_paths.through(table.centres[latent_paths.class_order(table.centres)], count)

    def start(self) -> None:
        """Work out the path and decode it, without stopping the window."""
        if self.explorer.table is None or self.explorer.decoder is None:
            return
        self.make.setEnabled(False)
        crowd = self.explorer.crowd

        def work() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            path = self.make_path()
            if crowd is None:
                return path, np.zeros(len(path), int), np.zeros(len(path), bool)
            counts = crowd.counts(path)
            return path, counts, crowd.deserted(path, counts)

        self.background.run("path", work, self._take_path, self._path_failed)

    def _path_failed(self, error: Exception) -> None:
        self._enable()
        self.say_error(error)

    def _take_path(self, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        self.stop()
        self.path, counts, lonely = found
        self.frames, self.pictures, self.meshes = {}, {}, {}
        self.counts.set_counts(counts, lonely)
        empty = np.flatnonzero(lonely) + 1
        self.warning.setText(
            f"⚠ Hardly any particle is near frame{'s' * (len(empty) > 1)} {_ranges(empty)}: the network's guess."
            if len(empty)
            else ""
        )
        self.slider.blockSignals(True)
        self.slider.setRange(0, len(self.path) - 1)
        self.slider.setValue(0)
        self.slider.blockSignals(False)
        explorer = self.explorer
        self.number = explorer.decoder.request(self.path, channel="series", longest=self._longest())
        self.text.setText("Decoding …")
        self._redraw_marks()
        self._enable()

    def _longest(self) -> int:
        return self.explorer.viewer.longest()

    def decoded(self, answer: Decoded) -> None:
        if answer.channel != "series" or answer.id != self.number:
            return
        explorer = self.explorer
        self.frames[answer.index] = answer
        assert answer.volume is not None
        self.pictures[answer.index] = picture_of(answer.volume, explorer.consensus, f"path/{answer.id}/{answer.index}")
        self.text.setText(f"{len(self.frames)} of {answer.count} frames decoded")
        if answer.index == self.slider.value():
            self.show_frame(answer.index)
        if len(self.frames) == answer.count:
            self._prepare()
        self._enable()

    def _prepare(self) -> None:
        """Surfaces of all frames at the present contour level, in a worker: then playing only draws."""
        viewer = self.explorer.viewer
        level, pictures = viewer.contour(), dict(self.pictures)
        most = SOFTWARE_FACES if viewer.opengl is not None and viewer.opengl.software else 0

        def work() -> dict[tuple[int, float], Prepared]:
            return {(i, level): prepare(picture, level, most) for i, picture in pictures.items()}

        self.background.run("meshes", work, self._take_meshes, self.say_error)

    def _take_meshes(self, meshes: dict[tuple[int, float], Prepared]) -> None:
        if len(meshes) == len(self.pictures):
            self.meshes = meshes
            self.text.setText(f"{len(meshes)} frames ready")

    # --- playing ---------------------------------------------------------------------------------------------------

    def toggle(self) -> None:
        """Play or stop."""
        if self._timer.isActive():
            self.stop()
        elif self.frames:
            if self.explorer.viewer.mode.currentData() == "surface" and (
                (0, self.explorer.viewer.contour()) not in self.meshes
            ):
                self._prepare()
            self.shown_at = []
            self._timer.start()
            keep_icon(self.play, "stop", "accent")

    def stop(self) -> None:
        self._timer.stop()
        keep_icon(self.play, "play", "muted")

    def playing(self) -> bool:
        """True while it plays."""
        return self._timer.isActive()

    def _next(self) -> None:
        last = self.slider.maximum()
        now, mode = self.slider.value(), self.loop.currentData()
        if mode == "swing":
            if not 0 <= now + self._step <= last:
                self._step = -self._step
            following = now + self._step
        else:
            following = now + 1
            if following > last:
                if mode == "once":
                    self.stop()
                    return
                following = 0
        if following in self.frames:
            self.slider.setValue(following)

    def show_frame(self, index: int) -> None:
        """Show one frame in 3D and mark it in the plots."""
        self.counts.frame = index
        self.counts.update()
        if index not in self.pictures:
            return
        explorer, answer = self.explorer, self.frames[index]
        viewer = explorer.viewer
        if answer.positions is not None:
            viewer.positions = answer.positions
            viewer._gaussians = (np.ascontiguousarray(answer.positions[:, ::-1]), answer.densities)
        ready = self.meshes.get((index, viewer.contour()))
        viewer.show_picture(self.pictures[index], f"frame {index + 1}", ready)
        explorer.latent, explorer.particle = self.path[index], -1
        explorer._last = answer
        explorer.status.setText(f"Frame {index + 1} of {len(self.path)}")
        explorer.tell_population(self.path[index])
        for plot in explorer.shown_plots():
            place = explorer.table.project(plot.x_name, plot.y_name, self.path[index])
            plot.set_marker(place[0] if place is not None else None)
        self.shown_at.append(time.perf_counter())
        del self.shown_at[:-500]

    # --- marks -----------------------------------------------------------------------------------------------------

    def _redraw_marks(self) -> None:
        for plot in self.explorer.plots:
            self.draw_in(plot)

    def draw_in(self, plot) -> None:  # type: ignore[no-untyped-def]
        table = self.explorer.table
        anchors = table.project(plot.x_name, plot.y_name, np.array(self.anchors)) if self.anchors else None
        plot.set_way(self.way_in(plot), anchors)

    def way_in(self, plot) -> np.ndarray | None:  # type: ignore[no-untyped-def]
        table = self.explorer.table
        return table.project(plot.x_name, plot.y_name, self.path) if table is not None and len(self.path) else None

    def _enable(self) -> None:
        kind = self.kind.currentData()
        enough = not self._missing(kind) and (kind not in ("anchors", "geodesic") or len(self.anchors) > 1)
        self.make.setEnabled(enough and self.explorer.table is not None if hasattr(self.explorer, "table") else False)
        self.play.setEnabled(len(self.frames) > 1)
        self.slider.setEnabled(len(self.frames) > 1)
        self.export.setEnabled(bool(len(self.path)))

    # --- export ----------------------------------------------------------------------------------------------------

    def export_volumes(self) -> None:
        """A Trajectory job: MRC series at the full box, Gaussians, z.txt and a ChimeraX script that plays them."""
        explorer, path = self.explorer, self.path.copy()
        if not len(path) or explorer.model is None:
            return
        sources = explorer.sources
        level = explorer.consensus.mean + explorer.viewer.contour() * explorer.consensus.sigma
        note = f"{self.kind.currentText()}, {len(path)} frames, from the explorer of {sources.job}"
        self.text.setText("Writing the series …")
        explorer.model.do(
            "Write the trajectory",
            lambda project: export_series(project, sources, path, level, note),
            lambda job: (
                self.text.setText(f"Written: {job.name}"),
                explorer.noted.emit(
                    "success",
                    f"{job.name} written",
                    f"{len(path)} volumes and play.cxc, which ChimeraX opens and plays.",
                ),
            ),
        )

    def ask_movie(self) -> None:
        """Ask for a file and record what the 3D view shows."""
        if not self.frames:
            return
        chosen, _ = QFileDialog.getSaveFileName(self, "Save a movie", "trajectory.mp4", "Movie (*.mp4 *.gif)")
        if chosen:
            self.record(Path(chosen))

    def record(self, target: Path) -> None:
        """Draw every frame and write an MP4 or GIF in a worker."""
        self.stop()
        pictures: list[Frame] = []
        viewer = self.explorer.viewer
        order = sorted(self.frames)
        self._recording = list(order)

        def step() -> None:
            if not self._recording:
                rate = int(self.speed.currentData())
                swing = self.loop.currentData() == "swing"
                self.background.run(
                    "movie",
                    lambda: export_movie(target, pictures, rate, swing),
                    lambda path: self.explorer.noted.emit("success", "Movie saved", str(path)),
                    self.say_error,
                )
                return
            index = self._recording.pop(0)
            self.slider.setValue(index)
            self.show_frame(index)
            pictures.append(viewer.pixels_on_white()[0])
            self.text.setText(f"Drawing frame {len(pictures)} of {len(order)}")
            QTimer.singleShot(0, self, step)

        step()

    def morph(self) -> None:
        """A Morph job of the path: its form with the latents filled in."""
        explorer, path = self.explorer, self.path.copy()
        if not len(path) or explorer.model is None:
            return
        sources = explorer.sources
        level = explorer.consensus.mean + explorer.viewer.contour() * explorer.consensus.sigma
        explorer.model.do(
            "Write the trajectory",
            lambda project: export_series(project, sources, path, level, "For a morph", volumes=False),
            lambda job: explorer.morphRequested.emit(job.name),
        )

    def save_counts(self) -> None:
        """The particles per frame as a figure."""
        from gaussianem_gui.explorer import figures

        path = self.explorer.ask_figure("particles_per_frame.pdf")
        if path is not None:
            counts, lonely = self.counts.counts, self.counts.lonely
            self.explorer.save_figure(lambda: figures.bars(path, counts, ("frame", "nearest particles"), lonely))


def _ranges(numbers: np.ndarray) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
