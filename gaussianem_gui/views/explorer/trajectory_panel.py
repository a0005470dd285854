"""Trajectories: chosen along components, through anchors or classes, or through populated space; decoded in the
background, played in 3D with the particles per frame below the time slider, and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QComboBox, QFileDialog, QMenu

from gaussianem_gui.explorer import figures, path_kinds
from gaussianem_gui.explorer.movies import export_series
from gaussianem_gui.explorer.path_kinds import BY_COMPONENT, BY_HAND, KINDS, TIPS
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.explorer.figure_file import ask_figure
from gaussianem_gui.views.explorer.live_viewer import LiveViewer
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.path_player import PathPlayer
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.toolkit.controls import wrapping
from gaussianem_gui.views.toolkit.number_field import NumberField
from gaussianem_gui.views.toolkit.widgets import button, column, icon_button, label

MOST_COMPONENTS = 20  # offered


class TrajectoryPanel(Panel):
    """Makes a path, has it played, and writes it."""

    def __init__(self, session: ExplorerSession, viewer: LiveViewer) -> None:
        super().__init__(session)
        self.viewer = viewer
        self.kind = QComboBox()
        self.kind.setObjectName("pathKind")
        self.kind.setAccessibleName("Kind of path")
        for key, text in KINDS.items():
            self.kind.addItem(text, key)
        self.kind.currentIndexChanged.connect(self._kind_changed)
        self.component = QComboBox()
        self.component.setAccessibleName("Component")
        self.count = NumberField("Number of frames", 2, 200, 30, "frames", 92)
        self.make = button("Decode", "primary", "", self.start, "Decode the path", name="decodePath")
        self.clear_button = icon_button("x", "Remove the points", self.clear_anchors, name="clearAnchors")
        self.text = label("", "hint", wrap=True)
        self.player = PathPlayer(session, viewer)
        self.warning = label("", "hint", wrap=True)
        self.export = button("Export", "", "download", name="exportPath")
        self.export.setProperty("menu", True)
        menu = QMenu(self.export)
        menu.addAction("MRC series and ChimeraX script (new job)", self.export_volumes)
        menu.addAction("Movie (MP4 or GIF) …", self.ask_movie)
        menu.addAction("Morph an atomic model along it …", self.morph)
        menu.addAction("Reconstruct its frames from the images …", lambda: session.reconstruct(session.path))
        menu.addAction("Particles per frame as a figure …", self.save_counts)
        self.export.setMenu(menu)
        self.kind.setMinimumWidth(206)
        self.component.setMinimumWidth(130)
        layout = column(spacing=4, margins=(6, 8, 6, 4))
        layout.addWidget(wrapping(self.kind, self.component, self.clear_button, self.count, self.make))
        layout.addWidget(self.text)
        layout.addWidget(self.player, 1)
        layout.addWidget(self.warning)
        layout.addWidget(wrapping(self.player.loop, self.player.speed, self.export))
        self.setLayout(layout)
        self.player.told.connect(self.text.setText)
        self.player.framesChanged.connect(self._enable)
        session.namedChanged.connect(self._named_changed)
        self._kind_changed()

    # --- the path --------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        assert self.session.table is not None
        components = self.session.table.components
        for i, share in enumerate(components.ratios[: min(components.used, MOST_COMPONENTS)]):
            self.component.addItem(f"PC {i + 1}, {100 * share:.0f} %", i)
        self._kind_changed()

    def closed(self) -> None:
        self.player.forget()
        self.component.clear()
        self.warning.setText("")
        self._kind_changed()

    def _kind_changed(self) -> None:
        kind, anchors = str(self.kind.currentData()), self.session.anchors
        self.component.setVisible(kind in BY_COMPONENT)
        self.clear_button.setVisible(kind in BY_HAND)
        text = TIPS[kind]
        if kind in BY_HAND and anchors:
            more = "" if len(anchors) > 1 else ": click one more place in a plot."
            text = f"{len(anchors)} point{'s' * (len(anchors) > 1)}{more}"
        self.text.setText(self._missing() or text)
        self._enable()

    def _missing(self) -> str:
        table = self.session.table
        if table is None:
            return ""
        return path_kinds.missing(str(self.kind.currentData()), table, self.session.selections.named)

    def _named_changed(self) -> None:
        if self.kind.currentData() == "selections":
            self._kind_changed()

    def _enable(self) -> None:
        enough = self.kind.currentData() not in BY_HAND or len(self.session.anchors) > 1
        self.make.setEnabled(self.session.table is not None and enough and not self._missing())
        self.export.setEnabled(bool(len(self.session.path)))

    def add_anchor(self, z: np.ndarray) -> None:  # (zdim,)
        """Add a latent through which the path is to go, and choose a kind of path that has such points."""
        if self.kind.currentData() not in BY_HAND:
            self.kind.setCurrentIndex(self.kind.findData("anchors"))
        self.session.set_anchors([*self.session.anchors, np.asarray(z, np.float64)])
        self._kind_changed()

    def clear_anchors(self) -> None:
        """Remove all latents through which the path was to go."""
        self.session.set_anchors([])
        self._kind_changed()

    def start(self) -> None:
        """Work out the path of the chosen kind in a worker, then decode it."""
        session, table, density = self.session, self.session.table, self.session.density
        if table is None:
            return
        self.make.setEnabled(False)
        kind, count = str(self.kind.currentData()), int(self.count.value())
        component, anchors = int(self.component.currentData() or 0), list(session.anchors)
        named = list(session.selections.named)

        def work() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            path = path_kinds.make_path(kind, table, count, component=component, anchors=anchors, named=named)
            if density is None:
                return path, np.zeros(len(path), int), np.zeros(len(path), bool)
            counts = density.counts(path)
            return path, counts, density.unpopulated(path, counts)

        self.background.run("path", work, self._take_path, self._path_failed)

    def _path_failed(self, error: Exception) -> None:
        self._enable()
        self.session.say_error(error)

    def _take_path(self, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        path, counts, unpopulated = found
        empty = np.flatnonzero(unpopulated) + 1
        self.warning.setText(
            f"⚠ Hardly any particle is near frame{'s' * (len(empty) > 1)} {_ranges(empty)}: the network's guess."
            if len(empty)
            else ""
        )
        self.session.set_path(path)
        self.player.start(counts, unpopulated)

    # --- export ----------------------------------------------------------------------------------------------------

    def export_volumes(self) -> None:
        """Write a Trajectory job, in a worker: MRC series at the full box, z.txt, and a ChimeraX script that plays the
        series."""
        session, path = self.session, self.session.path.copy()
        sources, model, level = session.sources, session.model, self.viewer.contour()
        if not len(path) or model is None or sources is None:
            return
        note = f"{self.kind.currentText()}, {len(path)} frames, from the explorer of {sources.job}"
        self.text.setText("Writing the series …")

        def written(job: Job) -> None:
            if session.sources is sources:
                self.text.setText(f"Written: {job.name}")
            text = f"{len(path)} volumes and play.cxc, which ChimeraX opens and plays."
            session.noted.emit("success", f"{job.name} written", text)

        def write(project: Project) -> Job:
            return export_series(project, sources, path, level, note)

        model.do("Write the trajectory", write, written, lambda _e: self.text.setText("Not written"))

    def morph(self) -> None:
        """Write the path's latents as a Trajectory job and ask for the form of a Morph job that reads them."""
        session, path = self.session, self.session.path.copy()
        sources, model, level = session.sources, session.model, self.viewer.contour()
        if not len(path) or model is None or sources is None:
            return
        model.do(
            "Write the trajectory",
            lambda project: export_series(project, sources, path, level, "For a morph", volumes=False),
            lambda job: session.morphRequested.emit(job.name),
        )

    def ask_movie(self) -> None:
        """Ask for a file and record the frames as the 3D view shows them."""
        if not self.player.frames:
            return
        chosen, _ = QFileDialog.getSaveFileName(self, "Save a movie", "trajectory.mp4", "Movie (*.mp4 *.gif)")
        if chosen:
            self.player.record(Path(chosen))

    def save_counts(self) -> None:
        """Ask for a file and write the particles per frame as a figure."""
        path = ask_figure(self, "particles_per_frame.pdf")
        if path is not None:
            counts, empty = self.player.counts.counts, self.player.counts.unpopulated
            self.session.write_figure(lambda: figures.bars(path, counts, ("frame", "nearest particles"), empty))


def _ranges(numbers: np.ndarray) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
