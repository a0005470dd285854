"""Plays the session's path in 3D: every frame is decoded in the background, then its surface is worked out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QSlider, QWidget

from gaussianem_gui.explorer.decoder_client import Decoded
from gaussianem_gui.explorer.movies import Frame, export_movie
from gaussianem_gui.explorer.painting import Paint
from gaussianem_gui.explorer.volumes import Picture
from gaussianem_gui.views.explorer.count_bar import CountBar
from gaussianem_gui.views.explorer.live_viewer import LiveViewer
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.explorer.surfaces import picture_of
from gaussianem_gui.views.plots.surfaces import Prepared, prepare
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.widgets import column, icon_button, keep_icon, row

SPEEDS = (5, 10, 20, 30)  # frames a second
SOFTWARE_FACES = 25_000  # of a surface that plays where the processor draws; beyond it a coarser one plays


class PathPlayer(QWidget):
    """A slider over the frames with a play button, and below it the particles per frame."""

    told = Signal(str)  # how far decoding is
    framesChanged = Signal()

    def __init__(self, session: ExplorerSession, viewer: LiveViewer) -> None:
        super().__init__()
        self.session, self.viewer = session, viewer
        self._background = Background(self)
        self.frames: dict[int, Decoded] = {}
        self.pictures: dict[int, Picture] = {}
        self.meshes: dict[tuple[int, object], Prepared] = {}
        self.shown_at: list[float] = []
        self._number = -1  # of the request
        self._step = 1
        self._recording: list[int] = []
        self._timer = QTimer(self)
        self.play = icon_button("play", "Play or stop (Space)", self.toggle, name="playPath")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setObjectName("pathFrame")
        self.slider.setAccessibleName("Frame of the trajectory")
        self.slider.valueChanged.connect(self.show_frame)
        self.counts = CountBar()
        self.loop = QComboBox()
        self.loop.setAccessibleName("At the end")
        for key, name in (("swing", "To and fro"), ("loop", "Loop"), ("once", "Once")):
            self.loop.addItem(name, key)
        self.speed = QComboBox()
        self.speed.setAccessibleName("Speed")
        self.speed.setMinimumWidth(120)
        for rate in SPEEDS:
            self.speed.addItem(f"{rate} frames/s", rate)
        self.speed.setCurrentIndex(2)
        self.speed.currentIndexChanged.connect(lambda _i: self._timer.setInterval(1000 // self.speed.currentData()))
        player = row(self.play, spacing=6)
        player.addWidget(self.slider, 1)
        layout = column(spacing=4)
        layout.addLayout(player)
        layout.addWidget(self.counts, 1)
        self.setLayout(layout)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(1000 // SPEEDS[2])
        self._timer.timeout.connect(self._next)
        session.decoded.connect(self._take_decoded)
        session.unanswered.connect(self._unanswered)
        session.pictureWanted.connect(self.stop)
        self._enable()

    def forget(self) -> None:
        """Stop, and drop all frames and what still comes of them."""
        self.stop()
        self._background.cancel_all()
        self._number = -1
        self.frames, self.pictures, self.meshes = {}, {}, {}
        self._recording = []
        self.counts.set_counts(np.zeros(0, int), np.zeros(0, bool))
        self.slider.blockSignals(True)
        self.slider.setRange(0, 0)
        self.slider.blockSignals(False)
        self._enable()

    def start(self, counts: np.ndarray, unpopulated: np.ndarray) -> None:  # (P,), (P,) bool
        """Decode the session's path of P latents; ``counts`` and ``unpopulated`` are shown below the slider."""
        self.forget()
        self.counts.set_counts(counts, unpopulated)
        self.slider.setRange(0, len(self.session.path) - 1)
        self._number = self.session.request(self.session.path, channel="series", longest=self.viewer.longest())
        self.told.emit("Decoding …" if self._number >= 0 else "Not decoded")

    def _unanswered(self, number: int) -> None:
        if self._number >= 0 and number in (-1, self._number) and len(self.frames) <= self.slider.maximum():
            self._number = -1
            self.told.emit(f"Decoding stopped after {len(self.frames)} of {self.slider.maximum() + 1} frames")

    def _take_decoded(self, answer: Decoded) -> None:
        model = self.session.consensus
        if answer.channel != "series" or answer.id != self._number or answer.volume is None or model is None:
            return
        self.frames[answer.index] = answer
        self.pictures[answer.index] = picture_of(answer.volume, model, f"path/{answer.id}/{answer.index}")
        self.told.emit(f"{len(self.frames)} of {answer.count} frames decoded")
        if answer.index == self.slider.value():
            self.show_frame(answer.index)
        if len(self.frames) == answer.count:
            self._prepare()
        self._enable()

    def _prepare(self) -> None:
        """Surfaces of all frames as they are looked at now, in a worker: then playing only draws."""
        viewer, key = self.viewer, self._key()
        opengl = viewer.starter.opengl
        most = SOFTWARE_FACES if opengl is not None and opengl.software else 0
        for _ in range(2):  # the ramp of colours spans what all frames need once each was asked for
            looks = {i: replace(viewer.look(), paint=self._paint_of(i)) for i in self.pictures}
        pictures = dict(self.pictures)

        def work() -> dict[tuple[int, object], Prepared]:
            return {(i, key): prepare(picture, looks[i], most) for i, picture in pictures.items()}

        self._background.run("meshes", work, self._take_meshes, self.session.say_error)

    def _key(self) -> object:
        """How surfaces look now, whatever the Gaussians that they are coloured by."""
        return replace(self.viewer.look(), paint=None), self.viewer.colour_by.currentIndex()

    def _paint_of(self, index: int) -> Paint | None:
        answer, paint = self.frames[index], self.viewer.paint
        if paint is None or answer.positions is None or answer.densities is None:
            return None
        return self.viewer.paint_of(answer.positions, answer.densities) or paint

    def _take_meshes(self, meshes: dict[tuple[int, object], Prepared]) -> None:
        if len(meshes) == len(self.pictures):
            self.meshes = meshes
            self.told.emit(f"{len(meshes)} frames ready")

    def _enable(self) -> None:
        for part in (self.play, self.slider):
            part.setEnabled(len(self.frames) > 1)
        self.framesChanged.emit()

    # --- playing ---------------------------------------------------------------------------------------------------

    def toggle(self) -> None:
        """Play or stop."""
        if self._timer.isActive():
            self.stop()
        elif self.frames:
            if self.viewer.mode.currentData() == "surface" and (0, self._key()) not in self.meshes:
                self._prepare()
            self.shown_at = []
            self._timer.start()
            keep_icon(self.play, "stop", "accent")

    def stop(self) -> None:
        """Stop playing."""
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
        """Show a frame, counted from 0, in 3D and mark it in the plots; before it is decoded it is marked below the
        slider alone."""
        self.counts.set_frame(index)
        if index not in self.pictures:
            return
        answer = self.frames[index]
        if answer.positions is not None and answer.densities is not None:
            self.viewer.set_gaussians(answer.positions, answer.densities)
        ready = self.meshes.get((index, self._key()))
        self.viewer.show_picture(self.pictures[index], f"frame {index + 1}", ready)
        self.session.show_frame(index, answer)
        self.shown_at.append(time.perf_counter())
        del self.shown_at[:-500]

    def record(self, target: Path) -> None:
        """Draw every frame that is decoded and write them as a movie, in a worker; the ending of ``target`` (.mp4 or
        .gif) says which."""
        self.stop()
        pictures: list[Frame] = []
        order = sorted(self.frames)
        self._recording = list(order)

        def step() -> None:
            if not self.frames:
                return  # the job was left
            if not self._recording:
                rate = int(self.speed.currentData())
                swing = self.loop.currentData() == "swing"
                self._background.run(
                    "movie",
                    lambda: export_movie(target, pictures, rate, swing),
                    lambda path: self._saved(path, len(pictures)),
                    self.session.say_error,
                )
                return
            index = self._recording.pop(0)
            self.slider.setValue(index)
            self.show_frame(index)
            pictures.append(self.viewer.pixels_on_white()[0])
            self.told.emit(f"Drawing frame {len(pictures)} of {len(order)}")
            QTimer.singleShot(0, self, step)

        step()

    def _saved(self, path: Path, frames: int) -> None:
        whole = self.slider.maximum() + 1
        self.told.emit(f"{frames} frames in {path.name}")
        if frames < whole:
            text = f"{path}: {frames} of {whole} frames; the others were not decoded yet"
            self.session.noted.emit("warning", "Part of a movie saved", text)
        else:
            self.session.noted.emit("success", "Movie saved", str(path))
