"""Dialogs: guide, about, versions, settings, trash, workflow, and a question for a name."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import shiboken6
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QFileDialog,
    QFrame,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPlainTextEdit,
    QSplitter,
    QTabWidget,
    QTextBrowser,
    QWidget,
)

from gaussianem_core import __version__
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.execution import cluster, runner, workflow
from gaussianem_gui.project import trash
from gaussianem_gui.project.project import Project, Trashed
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.units import ago_text, bytes_text, count_text
from gaussianem_gui.views.job.fields import Context, FieldRow
from gaussianem_gui.views.job.form import OptionForm, form_row
from gaussianem_gui.views.plots.opengl_probe import OpenGL
from gaussianem_gui.views.project_model import ProjectModel, job_label
from gaussianem_gui.views.toolkit.tasks import Background, while_alive
from gaussianem_gui.views.toolkit.theme import logo, mono_font, theme
from gaussianem_gui.views.toolkit.widgets import Switch, ask, button, clear, column, frame, label, row, scrolled

PACKAGES = ("PySide6", "pyqtgraph", "napari", "vispy", "numpy", "torch", "triton", "umap-learn", "nvidia-ml-py")


class Dialog(QDialog):
    """A dialog with a heading, a body, and buttons in a row."""

    def __init__(self, parent: QWidget | None, title: str, width: int = 560) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setMinimumWidth(width)
        self.body = column(spacing=12)
        self.buttons = row(None, spacing=10)
        layout = column(spacing=16, margins=(24, 20, 24, 18))
        layout.addWidget(label(title, "heading"))
        layout.addLayout(self.body, 1)
        layout.addLayout(self.buttons)
        self.setLayout(layout)
        self.background = Background(self)

    def add_close(self, text: str = "Close") -> None:
        """A button that closes."""
        close = button(text, "primary", "", self.accept, name="close")
        close.setDefault(True)
        self.buttons.addWidget(close)


def guide_pages() -> list[tuple[str, str]]:
    """(title, Markdown) of every page of the guide, in order."""
    folder = resources.files("gaussianem_resources") / "guide"
    pages = []
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".md")), key=lambda f: f.name):
        text = file.read_text(encoding="utf-8")
        pages.append((text.splitlines()[0].lstrip("# ").strip(), text))
    return pages


class Guide(QDialog):
    """The short guide: pages at the left, text at the right. Not modal, so that one can follow it."""

    def __init__(self, parent: QWidget | None) -> None:
        super().__init__(parent)
        self.setObjectName("guide")
        self.setWindowTitle("Guide")
        self.resize(860, 620)
        self.pages = guide_pages()
        self.list = QListWidget()
        self.list.setAccessibleName("Pages of the guide")
        self.list.setMaximumWidth(230)
        self.list.setSpacing(2)
        self.list.ensurePolished()
        self.list.addItems([title for title, _ in self.pages])
        self.text = QTextBrowser()
        self.text.setOpenExternalLinks(True)
        self.text.setProperty("role", "plain")
        self.text.setAccessibleName("Text of the guide")
        self.text.document().setDocumentMargin(20)
        self.list.currentRowChanged.connect(self._show)
        split = QSplitter()
        split.addWidget(self.list)
        split.addWidget(self.text)
        split.setStretchFactor(1, 1)
        self.setLayout(column(split, margins=(8, 8, 8, 8)))
        self.list.setCurrentRow(0)

    def _show(self, number: int) -> None:
        if 0 <= number < len(self.pages):
            self.text.setMarkdown(self.pages[number][1])


def versions(opengl: OpenGL | None) -> str:
    """Versions of everything that matters for a report, one a line."""
    lines = [
        f"GaussianEM {__version__}",
        f"Python {sys.version.split()[0]}",
        f"{platform.system()} {platform.release()}",
        f"Qt platform {QGuiApplication.platformName()}",
    ]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    if opengl is None:
        lines.append("OpenGL: not asked yet")
    elif opengl.available:
        lines.append(f"OpenGL {opengl.version}, {opengl.renderer}" + (" (software)" if opengl.software else ""))
    else:
        lines.append(f"OpenGL: none, {opengl.reason}")
    return "\n".join(lines)


def about(parent: QWidget | None, opengl: OpenGL | None) -> Dialog:
    """Who this is, and what it runs on."""
    dialog = Dialog(parent, "About GaussianEM", 520)
    mark = QLabel()
    mark.setPixmap(logo(56))
    words = column(
        label(f"GaussianEM {__version__}", "title"),
        label(
            "Continuous and discrete motion in cryo-EM, with 3D Gaussians (He et al., arXiv 2512.21599).",
            "muted",
            wrap=True,
        ),
        spacing=4,
    )
    head = row(mark, spacing=16)
    head.addLayout(words, 1)
    text = QPlainTextEdit(versions(opengl))
    text.setReadOnly(True)
    text.setFont(mono_font(9))
    text.setMinimumHeight(230)
    text.setAccessibleName("Versions")
    dialog.body.addLayout(head)
    dialog.body.addWidget(label("Versions and graphics, for a report", "section"))
    dialog.body.addWidget(text)
    dialog.buttons.addWidget(
        button("Copy", "", "copy", lambda: QGuiApplication.clipboard().setText(text.toPlainText()))
    )
    dialog.add_close()
    return dialog


def ask_text(parent: QWidget, title: str, text: str, value: str, yes: str) -> str | None:
    """Ask for one line of text; None if the user cancels."""
    dialog = Dialog(parent, title, 420)
    edit = QLineEdit(value)
    edit.setAccessibleName(title)
    edit.selectAll()
    dialog.body.addWidget(label(text, "muted", wrap=True))
    dialog.body.addWidget(edit)
    dialog.buttons.addWidget(button("Cancel", "", "", dialog.reject))
    accept = button(yes, "primary", "", dialog.accept, name="confirm")
    accept.setDefault(True)
    dialog.buttons.addWidget(accept)
    return edit.text().strip() if dialog.exec() == QDialog.DialogCode.Accepted else None


class TrashDialog(Dialog):
    """Deleted jobs: restore one, or delete all for good."""

    def __init__(self, parent: QWidget, model: ProjectModel) -> None:
        super().__init__(parent, "Trash", 600)
        self.model = model
        self.list = QListWidget()
        self.list.setMinimumHeight(260)
        self.list.setAccessibleName("Deleted jobs")
        self.note = label("", "muted", wrap=True)
        self.body.addWidget(self.note)
        self.body.addWidget(self.list, 1)
        self.restore = button("Restore", "", "restore", self._restore, name="restoreJob")
        self.empty = button("Delete all for good …", "danger", "trash", self._empty, name="emptyTrash")
        self.buttons.insertWidget(0, self.empty)
        self.buttons.addWidget(self.restore)
        self.add_close()
        self.list.itemDoubleClicked.connect(lambda _i: self._restore())
        model.jobsChanged.connect(self._load)
        self.finished.connect(self.deleteLater)
        self._load()

    def _load(self, _result: object = None) -> None:
        self.model.ask("trash", lambda p: trash.contents(p), self._take, self.background)

    def _take(self, found: list[Trashed] | None) -> None:
        chosen = self.list.currentRow()
        self.list.clear()
        for item in found or []:
            entry = QListWidgetItem(theme.icon("trash"), f"{item.name.rstrip('/')}   deleted {ago_text(item.deleted)}")
            entry.setData(Qt.ItemDataRole.UserRole, item)
            if not item.restorable:
                entry.setFlags(Qt.ItemFlag.NoItemFlags)
                entry.setToolTip("Something else has its place now")
            self.list.addItem(entry)
        count = self.list.count()
        self.note.setText(
            f"{count_text(count, 'job')} in the trash. Restored jobs come back where they were."
            if count
            else "The trash is empty."
        )
        self.restore.setEnabled(bool(count))
        self.empty.setEnabled(bool(count))
        self.list.setCurrentRow(min(max(chosen, 0), count - 1))

    def _restore(self) -> None:
        item = self.list.currentItem()
        if item is not None:
            name = item.data(Qt.ItemDataRole.UserRole).name
            self.model.do("Restore the job", lambda p: trash.restore(p, name), while_alive(self, self._load))

    def _empty(self) -> None:
        count = self.list.count()
        text = f"{count_text(count, 'job')} will be deleted for good. This cannot be undone."
        if ask(self, "Empty the trash?", text, "Delete for good", danger=True):
            self.model.do("Empty the trash", lambda p: trash.empty(p), while_alive(self, self._emptied))

    def _emptied(self, freed: int) -> None:
        self._load()
        self.note.setText(f"The trash is empty; {bytes_text(freed)} freed.")


class LeftoversDialog(Dialog):
    """Processes of jobs that are over: end those that hold memory."""

    def __init__(self, parent: QWidget, model: ProjectModel) -> None:
        super().__init__(parent, "Leftover processes", 640)
        self.model = model
        self.note = label("Looking …", "muted", wrap=True)
        self.list = QListWidget()
        self.list.setAccessibleName("Leftover processes")
        self.list.setMinimumHeight(200)
        self.body.addWidget(self.note)
        self.body.addWidget(self.list, 1)
        self.end = button("End it", "danger", "x", self._end, name="endProcess")
        self.buttons.addWidget(self.end)
        self.add_close()
        self.finished.connect(self.deleteLater)
        self._load()

    def _load(self, _result: object = None) -> None:
        self.model.ask("leftovers", runner.zombies, self._take, self.background)

    def _take(self, found: list[runner.Zombie] | None) -> None:
        self.list.clear()
        for zombie in found or []:
            memory = f", {bytes_text(zombie.gpu_bytes)} of GPU memory" if zombie.gpu_bytes else ""
            item = QListWidgetItem(theme.icon("gpu"), f"{zombie.job.rstrip('/')}: process {zombie.pid}{memory}")
            item.setToolTip(zombie.command)
            item.setData(Qt.ItemDataRole.UserRole, zombie)
            self.list.addItem(item)
        count = self.list.count()
        self.note.setText(
            f"{count} process{'es' if count > 1 else ''} of jobs that are over."
            if count
            else "None: every ended job has left nothing."
        )
        self.end.setEnabled(bool(count))
        self.list.setCurrentRow(0)

    def _end(self) -> None:
        item = self.list.currentItem()
        if item is not None:
            zombie = item.data(Qt.ItemDataRole.UserRole)
            self.model.do("End the process", lambda p: runner.kill_zombie(p, zombie), while_alive(self, self._load))


class SettingsDialog(Dialog):
    """Settings in layers: for all projects, for this project, and how its jobs are submitted to a cluster."""

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


def stamp() -> str:
    """Date and time for a file name."""
    return time.strftime("%Y-%m-%d_%H%M%S")


def pick_directory(parent: QWidget, title: str, start: Path) -> Path | None:
    """Ask for a directory; None if the user cancels."""
    path = QFileDialog.getExistingDirectory(parent, title, str(start))
    return Path(path) if path else None
