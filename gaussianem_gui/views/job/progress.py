"""The Progress tab: figures, stages, curves beside what fixed particles do, messages, and what was made."""

from __future__ import annotations

import time

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QLabel, QProgressBar, QSplitter, QTabWidget, QVBoxLayout, QWidget

from gaussianem_gui.execution.history import History
from gaussianem_gui.forms.stage_words import message_words, stage_words
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.units import bytes_text, seconds_text
from gaussianem_gui.views.job.made_list import MadeList
from gaussianem_gui.views.job.probe_panel import ProbePanel
from gaussianem_gui.views.job.stage_list import StageList, stages_of
from gaussianem_gui.views.plots.convergence_plot import ConvergencePlot
from gaussianem_gui.views.plots.loss_plot import CHIP, LossPlot
from gaussianem_gui.views.project_model import Load, ProjectModel, job_label, state_word
from gaussianem_gui.views.toolkit.controls import Value
from gaussianem_gui.views.toolkit.notices import Banner, EmptyState
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import (
    Elided,
    clear,
    column,
    frame,
    icon_button,
    label,
    plain,
    restyle,
    row,
    scrolled,
)

NO_GPU = "not used"
MESSAGES = 200  # last messages shown


def has_curves(info: JobInfo) -> bool:
    """True for a job whose curves are worth laying over another's: it runs, or came to its end."""
    return info.status.state in (State.RUNNING, State.SUCCEEDED) and not info.missing


class Progress(QWidget):
    """A job while it runs, and how it went afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("progressView")
        self.history: History | None = None
        self._model: ProjectModel | None = None
        self._info: JobInfo | None = None
        self._drawn: object = None
        self._offered: list[tuple[str, str]] | None = None  # titles and names of the jobs to lay over
        self._message_count: object = -1

        names = ("Stage", "Done", "Time left", "Elapsed", "Epoch", "Images/s", "GPU")
        self.values = {name: Value(name, elided=name == "Stage") for name in names}
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of the job")
        self.stages = StageList()
        self._notice = column(spacing=0)
        self.plot = LossPlot()
        self.overlay = QComboBox()
        self.overlay.setAccessibleName("Compare with another job")
        self.overlay.setFixedWidth(self.overlay.fontMetrics().horizontalAdvance("Lay over …") + 50)
        self.overlay.setToolTip("Lay the curves of another job over these")
        self.overlay.activated.connect(self._overlay_chosen)
        self.overlay.setStyleSheet(CHIP)
        self._overlaid: list[str] = []
        curves = frame("card")
        self.clear_overlay = icon_button("x", "Take the other jobs off the plot", self._clear_overlay, size=14)
        self.clear_overlay.hide()
        for part in (self.clear_overlay, self.overlay):
            self.plot.names.addWidget(part)
        self.convergence = ConvergencePlot()
        self.curve_tabs = QTabWidget()
        self.curve_tabs.setDocumentMode(True)
        self.plot.heading.hide()  # the tab says it
        self.curve_tabs.addTab(self.plot, "Loss")
        self.curve_tabs.addTab(self.convergence, "Has it converged?")
        self.curve_tabs.setCornerWidget(self.plot.tools)
        self.curve_tabs.currentChanged.connect(lambda tab: self.plot.tools.setVisible(tab == 0))
        inside = column(spacing=8, margins=(14, 6, 14, 8))
        inside.addWidget(self.curve_tabs, 1)
        curves.setLayout(inside)
        self.curves = curves
        self.probe = ProbePanel()
        self._last_words, self._all_words = frame("card"), frame("card")  # below curves, and where there are none
        self._last_list: QVBoxLayout = column(spacing=6)
        self._message_list: QVBoxLayout = column(spacing=6, margins=(0, 0, 6, 0))
        self._last_words.setLayout(column(margins=(14, 9, 14, 9)))
        self._last_words.layout().addLayout(self._last_list)
        lines = QWidget()
        lines.setLayout(column(spacing=0))
        lines.layout().addLayout(self._message_list)
        lines.layout().addStretch(1)
        head = label("What happened", "heading")
        self._all_words.setLayout(column(head, scrolled(lines), spacing=8, margins=(14, 9, 8, 9)))
        self.messages = QWidget()
        self.messages.setLayout(column(self._last_words, self._all_words, spacing=0))
        self.made = MadeList()
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
        layout = column(spacing=8, margins=(20, 10, 20, 10))
        layout.addLayout(self._notice)
        figures = row(*self.values.values(), spacing=10)
        figures.setStretch(0, 1)  # the stage's words are longer than numbers
        layout.addLayout(figures)
        layout.addWidget(self.bar)
        layout.addWidget(self.stages)
        layout.addWidget(self.split, 1)
        self._told = row(self.messages, self.made, spacing=12)
        layout.addLayout(self._told)
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
        self.refresh()

    def _restart(self) -> None:
        self._drawn, self._message_count = None, -1

    def overlay_jobs(self, names: list[str]) -> None:
        """Lay the curves of the jobs of these names over this one's, in place of those laid over before."""
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
        """Names of the jobs whose reports this view needs."""
        return [*([self._info.name] if self._info is not None else []), *self._overlaid]

    def _fill_overlay(self) -> None:
        """Offer the jobs whose curves may be laid over these, as they are now; never under an open list."""
        assert self._model is not None and self._info is not None
        offered = [
            (job_label(info), info.name)
            for info in reversed(self._model.jobs)
            if info.job_type == self._info.job_type and info.name != self._info.name and has_curves(info)
        ]
        if offered == self._offered or self.overlay.view().isVisible():
            return
        self._offered = offered
        self.overlay.clear()
        self.overlay.addItem("Lay over …", "")
        for title, name in offered:
            self.overlay.addItem(title, name)
        self.overlay.setEnabled(bool(offered))

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
        self._fill_overlay()
        self._figures(history, info)
        drawn = self.plot.refresh()
        state = (history.version, info.status)
        if state == self._drawn:
            return drawn
        self._drawn = state
        has_curves = history.has_curves()
        probes = history.artifacts_of("probe")
        self.split.setVisible(has_curves or bool(probes))
        self.curves.setVisible(has_curves)
        self.probe.setVisible(bool(probes))
        self.probe.set_probes(probes, history.directory)
        self.curve_tabs.setTabVisible(1, bool(probes))
        paths = [history.directory / str(probe["path"]) for probe in probes]
        self.convergence.set_probes(paths, (info.name, len(probes), probes[-1].get("t") if probes else None))
        self._show_messages(history, compact=has_curves)
        whole = not self.split.isVisibleTo(self)  # without curves what was said and made has all the room
        self.made.show_made(history.made() if whole else [], history.directory)
        self.layout().setStretchFactor(self._told, 1 if whole else 0)
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
        used = self._gpu_text(info)
        self.values["GPU"].set(used)
        self.values["GPU"].setVisible(used != NO_GPU)  # elsewhere the stage's words have its room
        fraction = float(done) / float(total) if done is not None and total else 0.0
        if planned:
            fraction = float(progress["job_fraction"])
        if info.status.state is State.SUCCEEDED:
            fraction = 1.0
        self.bar.setValue(round(1000 * fraction))
        restyle(self.bar, state=state_word(info))
        self.bar.setVisible(info.status.state not in (State.SCHEDULED, State.SUCCEEDED))

    def _gpu_text(self, info: JobInfo) -> str:
        assert self._model is not None
        mine = [g for g in self._model.load.gpus if g.index in info.status.gpus]
        if mine and info.status.state is State.RUNNING:
            load = [g.load for g in mine if g.load is not None]
            shown = f"{100 * sum(load) / len(load):.0f} %, " if load else ""
            return f"{shown}{bytes_text(sum(g.memory_used for g in mine))}"
        return ", ".join(map(str, info.status.gpus)) or NO_GPU

    def _show_messages(self, history: History, *, compact: bool) -> None:
        count = (len(history.messages), compact)
        if count == self._message_count:
            return
        self._message_count = count
        for lines in (self._last_list, self._message_list):
            clear(lines)
        shown = history.messages[-MESSAGES:]
        self._last_words.setVisible(compact)
        self._all_words.setVisible(not compact)
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
            if compact:  # the room is the curves'
                words: QLabel = Elided(message_words(said))
            else:
                words = label(message_words(said), wrap=True, selectable=True)
                words.setToolTip(plain(said) if words.text() != said else "")
            line = row(picture, words, when, spacing=8)
            line.setStretch(1, 1)
            (self._last_list if compact else self._message_list).addLayout(line)
        self.messages.setVisible(bool(shown))

    def _show_notice(self, history: History, info: JobInfo) -> None:
        clear(self._notice)
        if info.status.state in (State.FAILED, State.LOST) and info.status.detail:
            text = info.status.detail[:1].upper() + info.status.detail[1:]
            self._notice.addWidget(Banner("danger" if info.status.state is State.FAILED else "warning", text))
