"""Several jobs that follow each other, started in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFrame,
    QWidget,
)

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution import workflow
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.job.editors import Context
from gaussianem_gui.views.job.fields import FieldRow
from gaussianem_gui.views.job.form import form_row
from gaussianem_gui.views.project_model import ProjectModel, job_label
from gaussianem_gui.views.toolkit.tasks import while_alive
from gaussianem_gui.views.toolkit.widgets import button, clear, column, label
from gaussianem_gui.views.window.dialog import Dialog


class WorkflowDialog(Dialog):
    """Choose a workflow, give what it needs, start it."""

    def __init__(self, parent: QWidget, model: ProjectModel, on_started: Callable[[list[str]], None]) -> None:
        super().__init__(parent, "Start a workflow", 680)
        self.model, self._on_started = model, on_started
        self._flows = dict(workflow.builtin())
        self.choice = QComboBox()
        self.choice.setAccessibleName("Workflow")
        for key, flow in self._flows.items():
            self.choice.addItem(flow.name, key)
        self.source = QComboBox()
        self.source.setAccessibleName("Take inputs from job")
        self.steps = label("", "muted", wrap=True)
        self._fields = column(spacing=14)
        self.rows: dict[str, FieldRow] = {}
        self.body.addWidget(form_row("Workflow", self.choice))
        self.body.addWidget(self.steps)
        self.body.addWidget(form_row("Inputs from job", self.source, "A job that has the files it needs, or none."))
        holder = QFrame()
        holder.setLayout(self._fields)
        self.body.addWidget(holder, 1)
        self.problem = label("", "error", wrap=True)
        self.body.addWidget(self.problem)
        self.buttons.insertWidget(0, button("Open a file …", "ghost", "folder", self._open))
        self.buttons.addWidget(button("Cancel", "", "", self.reject))
        self.start = button("Start", "primary", "play", self._start, name="startWorkflow")
        self.buttons.addWidget(self.start)
        self.choice.currentIndexChanged.connect(self._chosen)
        self.finished.connect(self.deleteLater)
        self._chosen()

    def _flow(self) -> workflow.Workflow:
        return self._flows[self.choice.currentData()]

    def _chosen(self) -> None:
        flow = self._flow()
        self.steps.setText("  →  ".join(JOB_OPTIONS[s.job_type].title for s in flow.steps))
        clear(self._fields)
        self.rows = {}
        context = Context(self.model.root, lambda _k: [], list)
        for need in flow.needs():
            step_id, _, name = need.partition(".")
            job_type = next(s.job_type for s in flow.steps if s.id == step_id)
            field = FieldRow(JOB_OPTIONS[job_type], name, context)
            self.rows[need] = field
            self._fields.addWidget(field)
        self._fields.addStretch(1)
        first = flow.steps[0].job_type
        self.model.ask("inputs", lambda p: p.input_jobs(first), self._take_sources, self.background)

    def _take_sources(self, jobs: list[Any] | None) -> None:
        self.source.clear()
        self.source.addItem("none", "")
        for info in jobs or []:
            self.source.addItem(job_label(info), info.name)

    def _open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a workflow", str(self.model.root), "Workflow (*.json)")
        if path:
            try:
                flow = workflow.load(path)
            except ValueError as error:
                self.problem.setText(str(error))
                return
            self._flows[path] = flow
            self.choice.addItem(flow.name, path)
            self.choice.setCurrentIndex(self.choice.count() - 1)

    def _start(self) -> None:
        flow, source = self._flow(), self.source.currentData()
        values = {need: field.editor.value() for need, field in self.rows.items() if field.editor.value()}
        missing = [need for need in self.rows if need not in values]
        if missing and not source:
            self.problem.setText("Give what is still empty, or a job that has it.")
            return
        self.problem.setText("")
        self.start.setEnabled(False)

        def work(project: Project) -> list[str]:
            return [job.name for job in workflow.start(project, flow, values, inputs=[source] if source else [])]

        again = while_alive(self, lambda _error: self.start.setEnabled(True))
        self.model.do("Start the workflow", work, self._done, again)

    def _done(self, names: list[str]) -> None:
        if shiboken6.isValid(self):
            self.accept()
        self._on_started(names)
