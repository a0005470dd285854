"""Two trainings of the same particles: latents aligned, the same particles highlighted, options that differ."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QComboBox, QHeaderView, QSplitter, QTableWidget, QTableWidgetItem

from gaussianem_core.analysis.latent_alignment import Alignment, align
from gaussianem_core.io.latents import load_latents
from gaussianem_gui.explorer import figures
from gaussianem_gui.explorer.sources import explorable, find_sources, newest_weights
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.views.explorer.colours import Colouring
from gaussianem_gui.views.explorer.figure_file import ask_figure
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.plot import ExplorerPlot
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.project_model import job_label
from gaussianem_gui.views.toolkit.controls import wrapping
from gaussianem_gui.views.toolkit.widgets import button, column, label

PURPOSE = "Choose another training, or another program's latents, of the same particles."


# How the other's latents are laid over this job's.
STRETCHED, TURNED = "Stretched to fit", "Turned only"


class ComparePanel(Panel):
    """Chooses another job, plots its latents aligned with this one's, and lists the options in which the two differ."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__(session)
        self.job = QComboBox()
        self.job.setAccessibleName("Job to compare with")
        self.job.setMinimumWidth(160)
        self.map = QComboBox()
        self.map.setAccessibleName("How the other's latents are laid over this job's")
        self.map.addItems([STRETCHED, TURNED])
        self.map.setToolTip(
            "Stretched to fit: the least-squares linear map, which scales each direction by itself.\n"
            "Turned only: a rotation or mirror image and one scale (orthogonal Procrustes), which keeps the shape."
        )
        self.map.currentIndexChanged.connect(self._draw)
        self.go = button("Compare", "primary", "compare", self.start, name="compareGo")
        self.text = label(PURPOSE, "hint", wrap=True)
        self.plot = ExplorerPlot()
        self.plot.set_histograms(False)
        self._name_plot()
        self.map.currentIndexChanged.connect(self._name_plot)
        self.plot.canvas.shaped.connect(self._shaped)
        self.plot.save.clicked.connect(self.save)
        self.table = QTableWidget(0, 3)
        self.table.setAccessibleName("Options that differ")
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        split = QSplitter()
        split.addWidget(self.plot)
        split.addWidget(self.table)
        split.setSizes([260, 220])
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addWidget(wrapping(self.job, self.map, self.go))
        layout.addWidget(split, 1)
        layout.addWidget(self.text)
        self.setLayout(layout)
        self.found: Alignment | None = None
        session.selectionChanged.connect(self._selection_changed)

    def closed(self) -> None:
        self.found = None
        self.table.setRowCount(0)
        self.plot.set_mask(None)
        self.plot.set_colouring(Colouring())
        self.plot.set_points(np.zeros((0, 2), np.float32), "PC 1", "PC 2")
        self.job.clear()
        self.text.setText(PURPOSE)

    def shown(self) -> None:
        model, sources = self.session.model, self.session.sources
        assert model is not None and sources is not None
        others = [
            info
            for info in model.jobs
            if info.job_type in ("train", "import")
            and info.status.state is not State.FAILED
            and info.name not in (sources.job, sources.train_job)
        ]

        def with_latents() -> list[JobInfo]:
            return [
                info
                for info in others
                if explorable(model.project, info.name, info.job_type)
                and (info.job_type == "import" or newest_weights(model.root / info.name)[0].is_file())
            ]

        self.background.run("jobs", with_latents, self._offer, self.session.say_error)

    def _offer(self, jobs: list[JobInfo]) -> None:
        """Offer the jobs that have latents: trainings that have written a model, and imports."""
        chosen = self.job.currentData()
        self.job.clear()
        for info in jobs:
            self.job.addItem(job_label(info), info.name)
        if chosen is not None and self.job.findData(chosen) >= 0:
            self.job.setCurrentIndex(self.job.findData(chosen))
        self.go.setEnabled(self.job.count() > 0)
        if not self.job.count():
            self.text.setText(
                "There is no other job with latents in this project: train again, or import those of another program."
            )

    def _selection_changed(self) -> None:
        if self.found is not None:
            self.plot.set_mask(self.session.selections.mask)

    def start(self) -> None:
        """Read the chosen job's latents and align them with this one's, in a worker."""
        session, name = self.session, self.job.currentData()
        model, sources, table = session.model, session.sources, session.table
        if model is None or sources is None or table is None or not name:
            return
        project, z, own = model.project, table.z, sources.train_job or sources.job

        def work() -> tuple[Alignment, dict[str, tuple[object, object]]]:
            other = find_sources(project, name)
            latents = np.asarray(load_latents(other.latents)["z_mu"])
            first, second = project.job(own).values(), project.job(name).values()
            differ = {
                key: (first.get(key), second.get(key))
                for key in sorted({*first, *second})
                if first.get(key) != second.get(key) and key not in ("job_dir",)
            }
            return align(z, latents), differ

        self.background.run("compare", work, self._take, session.say_error)

    def _take(self, found: tuple[Alignment, dict[str, tuple[object, object]]]) -> None:
        self.found, differ = found
        self._draw()
        self.plot.canvas.set_tool("lasso")
        best = ", ".join(f"{c:.2f}" for c in self.found.correlations[:4])
        word = (
            "agree"
            if self.found.correlations[0] > 0.8
            else "agree in part"
            if (self.found.correlations[0] > 0.5)
            else "hardly agree"
        )
        self.text.setText(
            f"The two {word}: canonical correlations {best}; turned only, {self.found.explained:.0%} of the variance "
            "is explained. Lasso here selects in all plots."
        )
        self.table.setHorizontalHeaderLabels(["Option", "This job", "Other"])
        self.table.setRowCount(len(differ))
        for place, (key, values) in enumerate(differ.items()):
            for number, text in enumerate((key.replace("_", " "), *map(str, values))):
                self.table.setItem(place, number, QTableWidgetItem(text))

    def _name_plot(self) -> None:
        turned = self.map.currentText() == TURNED
        self.plot.fix_axes(f"The other, {'turned' if turned else 'stretched'} onto this one")

    def _draw(self) -> None:
        if self.found is None:
            return
        scores = self.found.turned if self.map.currentText() == TURNED else self.found.scores
        columns = [scores[:, 0], scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores))]
        self.plot.set_points(np.stack(columns, axis=1), "PC 1", "PC 2")
        self.plot.set_colouring(self.session.colouring)
        self.plot.set_mask(self.session.selections.mask)

    def _shaped(self, kind: str, outline: np.ndarray) -> None:
        plane = {"x": "PC 1", "y": f"PC 2 of {self.job.currentText()}"}
        step = {"shape": kind, "map": self.map.currentText().lower(), **plane, "outline": np.round(outline, 6).tolist()}
        self.session.select(self.plot.inside(kind, outline), step)

    def save(self) -> None:
        """Ask for a file and write the plot of the aligned latents as a figure."""
        path = ask_figure(self, "comparison.pdf")
        if path is not None and self.found is not None:
            points, column_ = self.plot.points, self.session.colouring.column
            mask = self.session.selections.mask.copy()
            self.session.write_figure(
                lambda: figures.scatter(
                    path, points, ("PC 1", "PC 2"), column_, mask if mask.any() else None, title=self.job.currentText()
                )
            )
