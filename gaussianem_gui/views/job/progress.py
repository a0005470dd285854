"""The Progress tab: figures, loss curves, example images against renderings, latents of probe particles, messages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QComboBox, QLabel, QProgressBar, QSlider, QSplitter, QTabWidget, QVBoxLayout, QWidget

from gaussianem_gui.execution.history import History
from gaussianem_gui.forms.stage_words import message_words, stage_words
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.units import bytes_text, seconds_text
from gaussianem_gui.views.job.stage_list import StageList, stages_of
from gaussianem_gui.views.plots.convergence_plot import ConvergencePlot, read_probe
from gaussianem_gui.views.plots.loss_plot import LossPlot
from gaussianem_gui.views.plots.montage import Montage
from gaussianem_gui.views.plots.scatter import Scatter
from gaussianem_gui.views.project_model import Load, ProjectModel, job_label, state_word
from gaussianem_gui.views.toolkit.controls import Value
from gaussianem_gui.views.toolkit.notices import Banner, EmptyState
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import clear, column, frame, icon_button, label, plain, restyle, row

MESSAGES = 200  # last messages shown
ROOM_FOR_BOTH = 430  # pixels of height from which latents and images are shown above each other


def principal_axes(z: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:  # (K, zdim) -> (K, 2)
    """Latents along the first two principal components of ``of`` (or of themselves), with a fixed sign."""
    reference = z if of is None or of.shape[1] != z.shape[1] else of
    centre = reference.mean(axis=0)
    if z.shape[1] == 1:
        return np.column_stack([z[:, 0] - centre[0], np.zeros(len(z))])
    _, _, axes = np.linalg.svd(reference - centre, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, np.argmax(np.abs(axes[:2]), axis=1)].diagonal())[:, None]
    return (z - centre) @ axes.T


class ProbePanel(QWidget):
    """Latents of the probe particles by epoch, and images beside their renderings."""

    def __init__(self) -> None:
        super().__init__()
        self._background = Background(self)
        self._probes: list[tuple[str, Path]] = []
        self._seen: object = None
        self.scatter = Scatter("PC 1", "PC 2")
        self.montage = Montage()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName("Epoch of the probe")
        self.epoch = label("", "hint")
        self.slider.valueChanged.connect(self._show)
        self.which = QComboBox()
        self.which.setAccessibleName("Latents or images")
        self.which.addItems(["Latents", "Images"])
        self.which.currentIndexChanged.connect(lambda _i: self._arrange())
        self.latents, self.images = frame("card"), frame("card")
        inside = column(spacing=4, margins=(14, 10, 14, 8))
        inside.addLayout(row(label("Latents of fixed particles", "label"), None, self.epoch))
        inside.addWidget(self.scatter, 1)
        inside.addWidget(self.slider)
        self.latents.setLayout(inside)
        self.images.setLayout(
            column(label("Images and renderings", "label"), self.montage, spacing=6, margins=(14, 10, 14, 10))
        )
        layout = column(self.which, spacing=8)
        layout.addWidget(self.latents, 3)
        layout.addWidget(self.images, 2)
        self.setLayout(layout)
        self.setMinimumWidth(230)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """Both above each other where there is room, else one of them."""
        room = self.height() > ROOM_FOR_BOTH
        self.which.setVisible(not room)
        self.latents.setVisible(room or self.which.currentIndex() == 0)
        self.images.setVisible(room or self.which.currentIndex() == 1)

    def clear(self) -> None:
        """Forget the job that was shown."""
        self._background.cancel("probe")
        self._probes, self._seen = [], None
        self.slider.setRange(0, 0)
        self.scatter.set_points(np.zeros((0, 2)), None)
        self.montage.set_images([])
        self.epoch.setText("")

    def set_probes(self, artifacts: list[dict[str, Any]], directory: Path) -> None:
        """Offer these probe files; the last is shown unless the user looks at an earlier one."""
        probes = [(str(a.get("label") or a["path"]), directory / str(a["path"])) for a in artifacts]
        state = (probes, artifacts[-1].get("t") if artifacts else None)
        if state == self._seen:
            return
        self._seen = state
        last = self.slider.value() >= self.slider.maximum()
        self._probes = probes
        self.slider.setVisible(len(probes) > 1)
        self.slider.setRange(0, max(len(probes) - 1, 0))
        if last:
            self.slider.setValue(len(probes) - 1)
        self._show()

    def _show(self) -> None:
        if not self._probes:
            return
        _, path = self._probes[min(self.slider.value(), len(self._probes) - 1)]
        last = self._probes[-1][1]
        self._background.run("probe", lambda: _prepare(path, last), self._take, lambda _error: None)

    def _take(self, found: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]) -> None:
        points, values, probe = found
        self.scatter.set_points(points, values if len(points) > 1 else None)
        images, drawn = probe.get("images"), probe.get("renderings")
        rows = [("Images", images)] if images is not None else []
        if images is not None and drawn is not None and images.shape == drawn.shape:
            if float((images * (drawn - drawn.mean())).sum()) < 0:  # particles are dark in the images as they are
                rows = [("Images, contrast inverted as the renderings are", -images)]
            rows.append(("Renderings", drawn))
        self.montage.set_images(rows)
        self.epoch.setText(f"epoch {int(probe['epoch'])}" if "epoch" in probe else "")


def _prepare(path: Path, last: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Latents of an epoch on the axes of the last one, and each particle's place there as its colour."""
    probe = read_probe(path)
    z, end = np.asarray(probe["z"], dtype=float), np.asarray(read_probe(last)["z"], dtype=float)
    values = principal_axes(end)[:, 0] if len(end) == len(z) else np.arange(len(z))
    return principal_axes(z, end), values, probe


def has_curves(info: JobInfo) -> bool:
    """True for a job whose curves are worth laying over another's: it runs, or came to its end."""
    return info.status.state in (State.RUNNING, State.SUCCEEDED) and not info.missing


class Progress(QWidget):
    """A job while it runs, and how it went afterwards."""

    compareRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("progressView")
        self.history: History | None = None
        self._model: ProjectModel | None = None
        self._info: JobInfo | None = None
        self._drawn: object = None
        self._message_count: object = -1

        self.values = {
            name: Value(name) for name in ("Stage", "Done", "Time left", "Elapsed", "Epoch", "Images/s", "GPU")
        }
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of the job")
        self.stages = StageList()
        self._notice = column(spacing=0)
        self.plot = LossPlot()
        self.overlay = QComboBox()
        self.overlay.setAccessibleName("Compare with another job")
        self.overlay.setFixedWidth(self.overlay.fontMetrics().horizontalAdvance("Lay over …") + 80)
        self.overlay.setToolTip("Lay the curves of another job over these")
        self.overlay.activated.connect(self._overlay_chosen)
        self._overlaid: list[str] = []
        curves = frame("card")
        self.clear_overlay = icon_button("x", "Take the other jobs off the plot", self._clear_overlay, size=14)
        self.clear_overlay.hide()
        self.plot.tools.insertWidget(0, self.overlay)
        self.plot.tools.insertWidget(1, self.clear_overlay)
        self.plot.tools.insertSpacing(2, 4)
        self.convergence = ConvergencePlot()
        self.curve_tabs = QTabWidget()
        self.curve_tabs.setDocumentMode(True)
        self.plot.heading.hide()  # the tab says it
        self.curve_tabs.addTab(self.plot, "Loss")
        self.curve_tabs.addTab(self.convergence, "Has it converged?")
        inside = column(spacing=8, margins=(14, 6, 14, 8))
        inside.addWidget(self.curve_tabs, 1)
        curves.setLayout(inside)
        self.curves = curves
        self.probe = ProbePanel()
        self.messages = frame("card")
        self._message_list: QVBoxLayout = column(spacing=6)
        self._message_head = label("What happened", "heading")
        box = column(self._message_head, spacing=8, margins=(14, 9, 14, 9))
        box.addLayout(self._message_list)
        box.addStretch(1)
        self.messages.setLayout(box)
        self.empty = EmptyState(
            "chart", "Nothing reported yet", "Curves appear here as soon as the job reports its first numbers."
        )

        self.split = QSplitter()
        self.split.addWidget(curves)
        self.split.addWidget(self.probe)
        self.split.setStretchFactor(0, 5)
        self.split.setStretchFactor(1, 3)
        self.split.setHandleWidth(12)
        self.split.setStyleSheet("QSplitter::handle { background: transparent; }")
        layout = column(spacing=10, margins=(20, 12, 20, 12))
        layout.addLayout(self._notice)
        figures = row(*self.values.values(), spacing=10)
        figures.setStretch(0, 1)  # the stage's words are longer than numbers
        layout.addLayout(figures)
        layout.addWidget(self.bar)
        layout.addWidget(self.stages)
        layout.addWidget(self.split, 1)
        layout.addWidget(self.messages)
        layout.addWidget(self.empty, 1)
        self.setLayout(layout)
        theme.changed.connect(self._restart)

    def set_job(self, model: ProjectModel, info: JobInfo) -> None:
        """Show another job."""
        self._model, self._info = model, info
        self.history = model.history(info.name)
        self._overlaid = []
        self._restart()
        self.probe.clear()
        self.plot.set_jobs([(job_label(info), self.history)])
        self._fill_overlay()
        self.refresh()

    def _restart(self) -> None:
        self._drawn, self._message_count = None, -1

    def overlay_jobs(self, names: list[str]) -> None:
        """Lay the curves of other jobs over this one's."""
        assert self._model is not None and self._info is not None and self.history is not None
        self._overlaid = [n for n in names if n != self._info.name]
        jobs = [(job_label(self._info), self.history)]
        for name in self._overlaid:
            info = self._model.info(name)
            if info is not None:
                jobs.append((job_label(info), self._model.history(name)))
        self.plot.set_jobs(jobs)
        self.clear_overlay.setVisible(bool(self._overlaid))

    def followed(self) -> list[str]:
        """Jobs whose events this view needs."""
        return [*([self._info.name] if self._info is not None else []), *self._overlaid]

    def _fill_overlay(self) -> None:
        assert self._model is not None and self._info is not None
        self.overlay.clear()
        self.overlay.addItem("Lay over …", "")
        for info in reversed(self._model.jobs):
            if info.job_type == self._info.job_type and info.name != self._info.name and has_curves(info):
                self.overlay.addItem(job_label(info), info.name)
        self.overlay.setEnabled(self.overlay.count() > 1)

    def _overlay_chosen(self) -> None:
        name = self.overlay.currentData()
        if name:
            self.overlay_jobs([*self._overlaid, name])
        self.overlay.setCurrentIndex(0)

    def _clear_overlay(self) -> None:
        self.overlay_jobs([])

    def refresh(self, load: Load | None = None) -> bool:
        """Redraw what has changed; call from a timer. True if anything was drawn."""
        history, info = self.history, self._info
        if history is None or info is None or self._model is None:
            return False
        info = self._model.info(info.name) or info
        self._info = info
        self._figures(history, info)
        drawn = self.plot.refresh()
        state = (history.version, info.status)
        if state == self._drawn:
            return drawn
        self._drawn = state
        has_curves = bool(history.names())
        probes = history.artifacts_of("probe")
        self.split.setVisible(has_curves or bool(probes))
        self.curves.setVisible(has_curves)
        self.probe.setVisible(bool(probes))
        self.probe.set_probes(probes, history.directory)
        self.curve_tabs.setTabVisible(1, bool(probes))
        paths = [history.directory / str(probe["path"]) for probe in probes]
        self.convergence.set_probes(paths, (info.name, len(probes), probes[-1].get("t") if probes else None))
        self._show_messages(history, compact=has_curves)
        self.layout().setStretchFactor(self.messages, 0 if self.split.isVisibleTo(self) else 1)
        self.empty.setVisible(not (has_curves or probes or history.messages or history.artifacts))
        if self.empty.isVisibleTo(self):
            self._explain_empty(info)
        self._show_notice(history, info)
        return True

    def _explain_empty(self, info: JobInfo) -> None:
        state = info.status.state
        if state is State.SCHEDULED:
            self.empty.set_text("Not started yet", info.status.detail or "Run it from the Parameters tab.")
        elif state is State.RUNNING:
            self.empty.set_text("Starting", "The first numbers appear here in a moment.")
        else:
            self.empty.set_text("Nothing was reported", info.status.detail or "The log may say more.")

    def _figures(self, history: History, info: JobInfo) -> None:
        status, running = info.status, info.status.state is State.RUNNING
        progress = history.progress or {}
        done, total = progress.get("done"), progress.get("total")
        stage = str(progress.get("stage") or status.stage or "–")
        finished = status.state is State.SUCCEEDED
        self.values["Stage"].set("Finished" if finished else stage_words(stage))
        self.stages.show_stages(stages_of(history, info.status.state is State.SUCCEEDED))
        names = history.names()
        # stages before the training count steps of their own: the longest curve is the training's
        epoch = max((history.curve(*name).epoch for name in names), key=len, default=np.empty(0))
        self.values["Epoch"].set(f"{epoch[-1]:.2f}" if len(epoch) else "–")
        rate = history.latest("images_per_second")
        if rate is None and progress.get("unit") == "images":
            rate = progress.get("rate")
        self.values["Images/s"].set(f"{rate:,.0f}" if rate else "–")
        planned = "job_fraction" in progress
        left = progress.get("job_left_seconds" if planned else "left_seconds")
        share = "100 %" if finished else f"{100 * progress['job_fraction']:.0f} %" if running and planned else "–"
        self.values["Done"].set(share)
        self.values["Time left"].set(seconds_text(left) if running and left is not None else "–")
        started = status.started or (history.starts[-1]["t"] if history.starts else None)
        ended = status.ended or (time.time() if running else None)
        self.values["Elapsed"].set(seconds_text(ended - started) if started and ended else "–")
        self.values["GPU"].set(self._gpu_text(info))
        fraction = float(done) / float(total) if done is not None and total else 0.0
        if planned:
            fraction = float(progress["job_fraction"])
        if info.status.state is State.SUCCEEDED:
            fraction = 1.0
        self.bar.setValue(round(1000 * fraction))
        restyle(self.bar, state=state_word(info))
        self.bar.setVisible(info.status.state is not State.SCHEDULED)

    def _gpu_text(self, info: JobInfo) -> str:
        assert self._model is not None
        mine = [g for g in self._model.load.gpus if g.index in info.status.gpus]
        if mine and info.status.state is State.RUNNING:
            load = [g.load for g in mine if g.load is not None]
            shown = f"{100 * sum(load) / len(load):.0f} %, " if load else ""
            return f"{shown}{bytes_text(sum(g.memory_used for g in mine))}"
        return ", ".join(map(str, info.status.gpus)) or "not used"

    def _show_messages(self, history: History, *, compact: bool) -> None:
        count = (len(history.messages), compact)
        if count == self._message_count:
            return
        self._message_count = count
        clear(self._message_list)
        shown = history.messages[-MESSAGES:]
        self._message_head.setVisible(not compact)
        if compact:
            shown = [m for m in shown if m.get("level") != "info"][-2:] or shown[-1:]
        for message in shown:
            icon, tint = {"warning": ("warning", "warning"), "error": ("x-circle", "danger")}.get(
                str(message.get("level")), ("info", "muted")
            )
            picture = QLabel(alignment=Qt.AlignmentFlag.AlignTop)
            picture.setPixmap(theme.pixmap(icon, tint, 16))
            when = label(time.strftime("%H:%M:%S", time.localtime(float(message.get("t", 0)))), "faint")
            said = str(message.get("text", ""))
            words = label(message_words(said), wrap=True, selectable=True)
            words.setToolTip(plain(said) if words.text() != said else "")
            line = row(picture, words, when, spacing=8)
            line.setStretch(1, 1)
            self._message_list.addLayout(line)
        self.messages.setVisible(bool(shown))

    def _show_notice(self, history: History, info: JobInfo) -> None:
        clear(self._notice)
        if info.status.state in (State.FAILED, State.LOST) and info.status.detail:
            text = info.status.detail[:1].upper() + info.status.detail[1:]
            self._notice.addWidget(Banner("danger" if info.status.state is State.FAILED else "warning", text))
