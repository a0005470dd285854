"""Settings for all projects, for this one, and for the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import (
    QComboBox,
    QLineEdit,
    QTabWidget,
    QWidget,
)

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution import cluster
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.views.job.editors import Context
from gaussianem_gui.views.job.form import OptionForm, form_row
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.controls import Switch
from gaussianem_gui.views.toolkit.tasks import while_alive
from gaussianem_gui.views.toolkit.widgets import button, column, frame, label, row, scrolled
from gaussianem_gui.views.window.dialog import Dialog


class SettingsDialog(Dialog):
    """Settings in layers: for all projects and, where one is open, for this project and how its jobs are submitted to a
    cluster. ``on_theme`` is called with a theme that is chosen."""

    def __init__(
        self, parent: QWidget, settings: Settings, model: ProjectModel | None, on_theme: Callable[[str], None]
    ) -> None:
        super().__init__(parent, "Settings", 720)
        self.setMinimumHeight(560)
        self.settings, self.model, self._on_theme = settings, model, on_theme
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(self._page("program"), "All projects")
        if model is not None:
            self.tabs.addTab(self._page("project"), "This project")
            self.tabs.addTab(self._cluster_page(model), "Cluster")
        self.body.addWidget(self.tabs, 1)
        self.add_close()
        self.finished.connect(self.deleteLater)

    def show_cluster(self) -> None:
        """Open the page of the cluster."""
        self.tabs.setCurrentIndex(self.tabs.count() - 1)

    def _page(self, layer: str) -> QWidget:
        rows = column(spacing=18, margins=(4, 16, 12, 12))
        if layer == "program":
            rows.addWidget(
                form_row(
                    "Theme",
                    self._choice("theme", layer, {"dark": "Dark", "light": "Light", "system": "As the system"}),
                    "Dark, light, or as your desktop is set.",
                )
            )
            rows.addWidget(
                form_row(
                    "Notify when a job ends",
                    self._switch("notify", layer),
                    "A note in the corner of the desktop, and in this window.",
                )
            )
        else:
            rows.addWidget(
                label(
                    "What is set here counts for this project only and wins over the settings for all projects.",
                    "muted",
                    wrap=True,
                )
            )
        rows.addWidget(
            form_row(
                "New jobs run on",
                self._choice("where", layer, {"local": "This computer", "cluster": "Cluster queue"}),
                "Can be changed for each job.",
            )
        )
        rows.addWidget(
            form_row(
                "GPUs of a training",
                self._number("gpus", layer, "(0 is automatic)"),
                "For jobs whose form names no GPU. More than one trains in parallel.",
            )
        )
        rows.addWidget(
            form_row(
                "Warn when the disk has less than",
                self._number("disk_warning_gb", layer, "GB"),
                "The warning is shown at the bottom of the window.",
            )
        )
        rows.addWidget(label("Options of new jobs that differ from the program's defaults", "section"))
        rows.addWidget(self._defaults(layer))
        rows.addStretch(1)
        page = QWidget()
        page.setLayout(rows)
        return scrolled(page)

    def _keep(self, name: str, value: Any, layer: str) -> None:
        self.settings.set(name, value, layer)
        if name == "theme":
            self._on_theme(str(value))

    def _value(self, name: str, layer: str) -> Any:
        return (
            self.settings.get(name) if layer == "project" else self.settings.program.get(name, self.settings.get(name))
        )

    def _choice(self, name: str, layer: str, words: dict[str, str]) -> QComboBox:
        combo = QComboBox()
        combo.setObjectName(f"{layer}-{name}")
        for key, text in words.items():
            combo.addItem(text, key)
        combo.setCurrentIndex(max(combo.findData(self._value(name, layer)), 0))
        combo.activated.connect(lambda _i: self._keep(name, combo.currentData(), layer))
        return combo

    def _switch(self, name: str, layer: str) -> QWidget:
        switch = Switch()
        switch.setObjectName(f"{layer}-{name}")
        switch.setChecked(bool(self._value(name, layer)))
        switch.toggled.connect(lambda on: self._keep(name, bool(on), layer))
        return switch

    def _number(self, name: str, layer: str, unit: str) -> QWidget:
        edit = QLineEdit(f"{float(self._value(name, layer)):g}")
        edit.setMaximumWidth(120)
        edit.setAccessibleName(name)

        def keep() -> None:
            try:
                self._keep(name, float(edit.text()), layer)
            except ValueError:
                edit.setText(f"{float(self._value(name, layer)):g}")

        edit.editingFinished.connect(keep)
        holder = QWidget()
        holder.setLayout(row(edit, label(unit, "muted"), None))
        return holder

    def _defaults(self, layer: str) -> QWidget:
        values = (self.settings.project if layer == "project" else self.settings.program).get("defaults") or {}
        box = frame("inset")
        inside = column(spacing=6, margins=(12, 10, 12, 10))
        for job_type, options in values.items():
            if job_type not in JOB_OPTIONS or not options:
                continue
            text = ", ".join(f"{name} = {value}" for name, value in options.items())
            remove = button("Remove", "ghost", "x")
            line = row(
                label(JOB_OPTIONS[job_type].title, "label"), label(text, "muted", wrap=True), None, remove, spacing=10
            )
            inside.addLayout(line)
            remove.clicked.connect(
                lambda _c=False, t=job_type, b=remove: (self.settings.set_defaults(t, {}, layer), b.setEnabled(False))
            )
        if not inside.count():
            inside.addWidget(
                label("None. In the form of a job, “Keep as my defaults” puts them here.", "muted", wrap=True)
            )
        box.setLayout(inside)
        return box

    def _cluster_page(self, model: ProjectModel) -> QWidget:
        current = cluster.load_settings(model.root)
        context = Context(model.root, lambda _k: [], list, sweeps=False)
        form = OptionForm(cluster.ClusterSettings, context)  # type: ignore[arg-type]
        form.set_values(current.model_dump())
        form.setObjectName("clusterForm")
        state = label("", "hint")
        pause = QTimer(form)
        pause.setSingleShot(True)
        pause.setInterval(500)

        def keep() -> None:
            if form.errors():
                state.setText("Not kept: correct what is marked red.")
                return
            chosen = cluster.ClusterSettings.model_validate(form.values())
            if chosen != cluster.load_settings(model.root):
                model.do(
                    "Keep the cluster settings",
                    lambda p: cluster.save_settings(p.root, chosen),
                    while_alive(state, lambda _r: state.setText("Kept.")),
                )

        pause.timeout.connect(keep)
        form.changed.connect(pause.start)
        self.finished.connect(lambda _code: keep() if pause.isActive() else None)
        page = QWidget()
        layout = column(
            label(
                "How this project's jobs are handed to your cluster. The template may be the one you use for RELION.",
                "muted",
                wrap=True,
            ),
            margins=(4, 12, 4, 0),
        )
        layout.addWidget(form, 1)
        layout.addWidget(state)
        page.setLayout(layout)
        return page
