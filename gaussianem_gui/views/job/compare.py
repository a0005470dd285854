"""Several jobs side by side: their curves laid over each other and the options in which they differ."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QSplitter, QTableWidget, QTableWidgetItem, QWidget

from gaussianem_gui.project.project import JobInfo, Project
from gaussianem_gui.views.job.fields import field_label
from gaussianem_gui.views.plots.loss_plot import LossPlot, main_terms
from gaussianem_gui.views.plots.plot_style import dot, quantity_name
from gaussianem_gui.views.project_model import ProjectModel, job_label, state_word
from gaussianem_gui.views.toolkit.theme import STATES, theme
from gaussianem_gui.views.toolkit.widgets import button, column, frame, label, row

SAME = ("job_dir", "output", "source_dir", "resume", "overwrite")


def differences(values: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Options whose values are not the same in all jobs: name -> the value of each job, in order."""
    names = dict.fromkeys(name for options in values.values() for name in options)
    found = {name: [options.get(name) for options in values.values()] for name in names if name not in SAME}
    return {name: column_ for name, column_ in found.items() if any(v != column_[0] for v in column_)}


class Compare(QWidget):
    """Curves and differences of some jobs. ``opened`` comes with a job that is double-clicked, ``closed`` when the user
    is done."""

    opened = Signal(str)
    closed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("compareView")
        self.names: list[str] = []
        self._model: ProjectModel | None = None
        self._states: object = None
        self._differences: dict[str, list[Any]] = {}
        self.title = label("Comparison", "title")
        self.plot = LossPlot()
        curves = frame("card")
        curves.setLayout(column(self.plot, margins=(14, 12, 14, 10)))
        self.table = QTableWidget()
        self.table.setAccessibleName("Differences")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setShowGrid(False)
        self.table.cellDoubleClicked.connect(lambda row_, _c: self.opened.emit(self.names[row_]))
        card = frame("card")
        card.setLayout(column(label("Where they differ", "heading"), self.table, spacing=8, margins=(16, 12, 8, 8)))
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(curves)
        split.addWidget(card)
        split.setSizes([420, 220])
        split.setHandleWidth(12)
        split.setStyleSheet("QSplitter::handle { background: transparent; }")
        layout = column(spacing=14, margins=(20, 16, 20, 16))
        layout.addLayout(row(self.title, None, button("Close", "ghost", "x", self.closed.emit)))
        layout.addWidget(split, 1)
        self.setLayout(layout)
        theme.changed.connect(self._again)

    def set_jobs(self, model: ProjectModel, names: list[str]) -> None:
        """Compare the jobs of these names; those compared before are followed no longer."""
        for name in self.names:
            if self._model is not None:
                self._model.release(name)
        self._model, self.names, self._states = model, names, None
        self.title.setText(f"Comparison of {len(names)} jobs")
        infos = [info for name in names if (info := model.info(name)) is not None]
        curves = [(job_label(info), model.history(info.name)) for info in infos]
        self.plot.set_jobs(curves, legend=False)  # the table is the legend

        def read(project: Project) -> dict[str, dict[str, Any]]:
            return {name: project.job(name).values() for name in names}

        model.ask("compare", read, self._take)
        self.refresh()

    def _take(self, values: dict[str, dict[str, Any]] | None) -> None:
        self._differences = differences(values or {})
        self._states = None
        self.refresh()

    def _again(self) -> None:
        self._states = None

    def refresh(self) -> None:
        """Redraw what has changed in the jobs; call from a timer."""
        if self._model is None:
            return
        self.plot.refresh()
        infos = [(name, self._model.info(name)) for name in self.names]
        reported = {name for job in self.names for _, name in self._model.history(job).names()}
        main = sorted(main_terms(reported))[:1]
        self._main = main[0] if main else "loss"
        finals = [self._model.history(name).latest(self._main) for name in self.names]
        state = (
            tuple(i.status if i is not None else None for _, i in infos),
            tuple(finals),
            len(self._differences),
            theme.name,
        )
        if state == self._states:
            return
        self._states = state
        heads = ["Job", "State", *(field_label(n) for n in self._differences), quantity_name(self._main)]
        self.table.setColumnCount(len(heads))
        self.table.setHorizontalHeaderLabels(heads)
        self.table.verticalHeader().hide()
        self.table.setRowCount(len(infos))
        for place, (name, info) in enumerate(infos):
            self._row(place, name, info, finals[place])
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)

    def _row(self, place: int, name: str, info: JobInfo | None, final: float | None) -> None:
        cells = [
            job_label(info) if info is not None else name,
            STATES[state_word(info)][2] if info is not None else "",
            *("automatic" if v[place] is None else str(v[place]) for v in self._differences.values()),
            f"{final:.4g}" if final is not None else "–",
        ]
        for number, text in enumerate(cells):
            item = QTableWidgetItem(text)
            if number == 0:
                item.setIcon(dot(theme.series(place)))
            self.table.setItem(place, number, item)
