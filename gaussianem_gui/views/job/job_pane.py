"""The middle of the window: one job with its header, tabs and next steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QLabel, QLineEdit, QTabWidget, QWidget

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.forms.next_steps import NextStep, next_steps, picture, purpose
from gaussianem_gui.project.import_latents import LATENTS
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.views.job.files_notes import Files, Notes
from gaussianem_gui.views.job.job_list import subtitle
from gaussianem_gui.views.job.log_view import LogView
from gaussianem_gui.views.job.made_page import MadePage
from gaussianem_gui.views.job.parameters import Parameters
from gaussianem_gui.views.job.progress import Progress
from gaussianem_gui.views.job.results import Results
from gaussianem_gui.views.job.steps_bar import StepsBar
from gaussianem_gui.views.project_model import ProjectModel, state_word
from gaussianem_gui.views.toolkit.controls import Badge
from gaussianem_gui.views.toolkit.notices import EmptyState, Waiting
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, clear, column, icon_button, label, row

WITH_RESULTS = (
    "analyze",
    "decode",
    "preprocess",
    "simulate",
    "mask",
    "trajectory",
)  # one looks at results first
TABS = ("Parameters", "Progress", "Results", "Files", "Notes", "Log")


class JobPane(QWidget):
    """A job of the project, or the form of a new one (then only Parameters is there)."""

    actionRequested = Signal(str)  # id of an action on the job shown
    stepRequested = Signal(object)  # NextStep
    renamed = Signal(str, str)
    moreRequested = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("jobPane")
        self.model: ProjectModel | None = None
        self.name = ""
        self.draft = ""
        self._form: Parameters | None = None
        self._values: dict[str, Any] | None = None  # options of the job shown, once they are read
        self._make_form: Callable[[], None] | None = None  # a form takes long to build: after what is quick
        self._steps_state: object = None
        self._state: State | None = None

        self.picture = QLabel()
        self.title = label("", "title")
        self.alias = QLineEdit()
        self.alias.setObjectName("alias")
        self.alias.setPlaceholderText("name this job")
        self.alias.setAccessibleName("Name of the job")
        self.alias.setToolTip("A readable name (alias) beside the number; Enter keeps it")
        self.alias.setMaximumWidth(220)
        self.alias.setMinimumWidth(80)
        self.alias.editingFinished.connect(self._rename)
        self.badge = Badge()
        self.line = Elided("", "muted")
        self.stop = button(
            "Abort",
            "danger",
            "stop",
            lambda: self.actionRequested.emit("abort"),
            "Stop the job at a safe point",
            name="stopButton",
        )
        self.go = button("Run", "primary", "play", lambda: self.actionRequested.emit("run"), name="headerRun")
        self.again = button(
            "Continue",
            "",
            "continue",
            lambda: self.actionRequested.emit("continue"),
            "Run it again in its directory",
            name="continueButton",
        )
        self.copy = button(
            "Clone",
            "",
            "clone",
            lambda: self.actionRequested.emit("clone"),
            "A new job with the same options",
            name="cloneButton",
        )
        self.more = icon_button(
            "more",
            "More actions",
            lambda: self.moreRequested.emit(self.more.mapToGlobal(self.more.rect().bottomLeft())),
        )
        top = row(
            self.picture,
            self.title,
            self.badge,
            4,
            self.alias,
            None,
            self.stop,
            self.go,
            self.again,
            self.copy,
            self.more,
            spacing=10,
        )
        head = QFrame()
        head.setProperty("role", "header")
        inside = column(spacing=4, margins=(20, 11, 16, 9))
        inside.addLayout(top)
        inside.addWidget(self.line)
        head.setLayout(inside)

        self._parameters_page = QWidget()
        self._parameters_layout = column(spacing=0)
        self._parameters_page.setLayout(self._parameters_layout)
        self.progress, self.results, self.files, self.notes, self.log = (
            Progress(),
            Results(),
            Files(),
            Notes(),
            LogView(),
        )
        self.files.volumeChosen.connect(self._show_volume)
        self.progress.made.chosen.connect(self._show_made)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setExpanding(False)
        self.tabs.tabBar().setAccessibleName("Parts of the job")
        for name, page in zip(
            TABS, (self._parameters_page, self.progress, self.results, self.files, self.notes, self.log)
        ):
            self.tabs.addTab(page, name)
        self.tabs.currentChanged.connect(lambda _i: self.refresh())

        self.steps = StepsBar()
        self.steps.chosen.connect(self.stepRequested)
        layout = column(spacing=0)
        layout.addWidget(head)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.steps)
        self.setLayout(layout)
        theme.changed.connect(self._restyle)

    # --- what is shown ---------------------------------------------------------------------------------------------

    def show_new(self, model: ProjectModel, job_type: str, values: dict[str, Any], inputs_from: list[str]) -> None:
        """Show the form of a new job, filled with ``values`` and with the files of the jobs ``inputs_from``."""
        self._leave()
        self.model, self.name, self.draft = model, "", job_type
        self._form_later(partial(self._new_form, model, job_type, values, inputs_from))
        self.tabs.setCurrentIndex(0)
        for place in range(1, len(TABS)):
            self.tabs.setTabVisible(place, False)
        self.title.setText(f"New {JOB_OPTIONS[job_type].title} job")
        self.badge.set_state("draft")
        self.line.setText(purpose(job_type))
        for part in (self.stop, self.go, self.again, self.copy, self.more, self.alias):
            part.hide()
        self.steps.hide()
        self._restyle()

    def show_job(self, model: ProjectModel, info: JobInfo, tab: str = "") -> None:
        """Show a job of the project; the tab stays unless ``tab`` names another. Where no job was shown before, it is
        the tab that suits the job's state."""
        if self.name == info.name and self.model is model and self.parameters_fit(info):
            if tab:
                self.show_tab(tab)
            self.refresh()
            return
        fresh = not self.name
        if info.has_options:
            self._read_form(model, info)
        else:
            self._set_page(self._page_without_options(model, info))
        self._leave()
        self.model, self.name, self.draft = model, info.name, ""
        self._state, self._steps_state = info.status.state, None
        for place in range(len(TABS)):
            self.tabs.setTabVisible(place, True)
        for part in (self.alias, self.more):
            part.show()
        self.alias.setText(info.alias)
        self.alias.setReadOnly(model.project.read_only)
        self.title.setText(f"{info.title} {info.name.rstrip('/').rsplit('/', 1)[-1]}")
        self.progress.set_job(model, info)
        self.results.set_job(model, info)
        self.files.set_job(model, info)
        self.notes.set_job(model, info)
        self.log.set_logs(model.logs(info.name))
        self._restyle()
        if tab or fresh:
            self.show_tab(tab or self._natural_tab(info))
        self.refresh()

    def parameters_fit(self, info: JobInfo) -> bool:
        """True if the page of parameters belongs to this job."""
        if self._make_form is not None:
            return self.name == info.name
        form = self._form
        if not info.has_options:
            return form is None
        return form is not None and form.info is not None and form.info.name == info.name

    @property
    def parameters(self) -> Parameters | None:
        """The form shown, built now if it has not been; None for a job without options."""
        if self._make_form is not None:
            make, self._make_form = self._make_form, None
            make()
        return self._form

    def _form_later(self, make: Callable[[], None]) -> None:
        """Build a form when it is looked at or asked for, and not before the window has said that it is coming."""
        waiting = Waiting("Reading the options …")
        waiting.drawn.connect(lambda: self.parameters)
        self._set_page(waiting)
        self._make_form = make

    def _new_form(self, model: ProjectModel, job_type: str, values: dict[str, Any], inputs_from: list[str]) -> None:
        form = Parameters(model, job_type)
        self._set_page(form)
        form.start_new(values, inputs_from)

    def _job_form(self, model: ProjectModel, info: JobInfo) -> None:
        form = Parameters(model, info.job_type)
        self._set_page(form)
        form.update_state(info)
        if self._values is not None:
            form.show_job(info, self._values)

    @staticmethod
    def _page_without_options(model: ProjectModel, info: JobInfo) -> QWidget:
        """How a job came about that has no form."""
        if info.ours:
            return MadePage(model, info)
        text = "Its options are shown in the program that made it. Its files can be inputs here."
        return EmptyState("external", f"{info.title} belongs to another program", text)

    def reload_parameters(self) -> None:
        """Read the job's options and build its form anew, after it was changed or a continue was given up."""
        info = self.info()
        if info is not None and self.model is not None and info.has_options:
            self._read_form(self.model, info)

    def _read_form(self, model: ProjectModel, info: JobInfo) -> None:
        """The form of a job; what it holds is read meanwhile."""
        self._values = None
        self._form_later(partial(self._job_form, model, info))
        model.ask("values", lambda p: (info.name, p.job(info.name).values()), self._take_values)

    def info(self) -> JobInfo | None:
        """The job shown, as it was at the last look; None for a new one."""
        return self.model.info(self.name) if self.model is not None and self.name else None

    def tab(self) -> str:
        """Name of the tab shown."""
        return TABS[self.tabs.currentIndex()]

    def show_tab(self, name: str) -> None:
        """Bring a tab to the front. ValueError for a name that is not in TABS."""
        self.tabs.setCurrentIndex(TABS.index(name))

    def take_keyboard(self) -> None:
        """Give the keyboard to the tabs: the arrow keys go through them, Tab goes on to what the one in front holds."""
        self.tabs.tabBar().setFocus(Qt.FocusReason.TabFocusReason)

    def _show_volume(self, path: Path, kind: str) -> None:
        """A file of the Files tab that is a volume, or Gaussians: in the 3D view of the results."""
        self.show_tab("Results")
        self.results.show_file(path, kind)

    def _show_made(self, path: Path) -> None:
        """A file of the list in Progress: among the results, or, where they do not show it, among the files."""
        self.show_tab("Results")
        self.results.refresh()
        if not self.results.choose(lambda item: path in item.paths):
            self.show_tab("Files")

    def _natural_tab(self, info: JobInfo) -> str:
        state = info.status.state
        if state is State.SUCCEEDED and info.job_type in WITH_RESULTS:
            return "Results"
        if not info.has_options:
            return "Parameters"
        return "Parameters" if state is State.SCHEDULED and not info.status.detail else "Progress"

    def _leave(self) -> None:
        self.notes.keep()
        if self.model is not None and self.name:
            self.model.release(self.name)
            for name in self.progress.followed():
                self.model.release(name)

    def _set_page(self, page: QWidget) -> None:
        self._make_form = None
        self._form = page if isinstance(page, Parameters) else None
        if isinstance(page, Parameters):
            page.cloneRequested.connect(lambda _n: self.actionRequested.emit("clone"))
            page.firstRequested.connect(self._job_first)
        clear(self._parameters_layout)
        self._parameters_layout.addWidget(page)
        page.show()  # now, not with the next event: it may be asked for what it shows

    def _job_first(self, job_type: str) -> None:
        self.stepRequested.emit(NextStep("job", "", "", job_type))

    def _take_values(self, found: tuple[str, dict[str, Any]] | None) -> None:
        info = self.info()
        if found is not None and info is not None and found[0] == self.name:
            self._values = found[1]
            if self._form is not None:
                self._form.show_job(info, found[1])

    # --- live ------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Follow the job; call from a timer. Beside the header only the tab in front is redrawn."""
        info = self.info()
        if info is None or self.model is None:
            return
        word = state_word(info)
        self.badge.set_state(word) if self.badge.state != word else None
        self.line.setText(subtitle(info, self.model.sizes.get(info.name)))
        if not self.alias.hasFocus() and self.alias.text() != info.alias:
            self.alias.setText(info.alias)
        self._buttons(info)
        if self._form is not None and (self._form.info is None or self._form.info.status != info.status):
            self._form.update_state(info)
        if self._state is not info.status.state:
            self._state = info.status.state
            self.notes.reload()
        self._show_steps(info)
        page = self.tabs.currentWidget()
        if page is self.progress:
            self.progress.refresh()
        elif page is self.results:
            self.results.refresh()
        elif page is self.log:
            self.log.refresh()

    def _buttons(self, info: JobInfo) -> None:
        state, waits = info.status.state, bool(info.status.detail)
        writable = self.model is not None and not self.model.project.read_only and info.ours and not info.missing
        self.stop.setVisible(writable and (state is State.RUNNING or (state is State.SCHEDULED and waits)))
        self.stop.setText("Abort" if state is State.RUNNING else "Take out of the queue")
        self.go.setVisible(writable and state is State.SCHEDULED and not waits and self.tab() != "Parameters")
        self.again.setVisible(writable and state.finished and info.has_options)
        self.copy.setVisible(writable and state is not State.SCHEDULED and info.has_options)

    def _show_steps(self, info: JobInfo) -> None:
        state = (info.name, info.status.state, theme.name)
        if state == self._steps_state or self.model is None:
            return
        self._steps_state = state
        if not info.ours:
            self._take_steps(info, [])
            return
        self.model.ask("steps", lambda p: p.suggestions(info.name), lambda found: self._take_steps(info, found or []))

    def _take_steps(self, info: JobInfo, following: list[str]) -> None:
        if info.name != self.name:
            return
        has_latents = self.model is not None and (self.model.root / info.name / LATENTS).is_file()
        steps = next_steps(info.job_type, info.status.state, following, has_latents) if info.ours else []
        self.steps.show_steps(steps, first_is_next=info.status.state.finished)

    def _rename(self) -> None:
        info = self.info()
        if info is not None and self.alias.text().strip() != info.alias:
            self.renamed.emit(info.name, self.alias.text().strip())

    def _restyle(self) -> None:
        info = self.info()
        job_type = info.job_type if info is not None else self.draft
        self.picture.setPixmap(theme.pixmap(picture(job_type), "accent", 24))
        self._steps_state = None

    def shut_down(self) -> None:
        """Keep the notes and let go of the 3D view."""
        self._leave()
        self.results.viewer.shut_down()


__all__ = ["TABS", "JobPane", "NextStep"]
