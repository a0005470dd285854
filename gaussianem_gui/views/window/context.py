"""What the window's commands work on: the open project, and which of its jobs are chosen."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QStackedWidget, QWidget

from gaussianem_core.errors import InputError
from gaussianem_gui.forms.actions import Action
from gaussianem_gui.project.lock import LockHeld
from gaussianem_gui.project.project import JobInfo
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.views.job.job_pane import JobPane
from gaussianem_gui.views.job.jobs_panel import JobsPanel
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.toolkit.notices import ToastStack
from gaussianem_gui.views.window.errors import Guard, explain


class WindowContext(QObject):
    """What the window and its commands share: project, settings, and the widgets that show jobs. ``model`` is None
    while no project is open."""

    jobWanted = Signal(str, str)  # show this job, and this tab of it
    awaited = Signal(str, str)  # the same, as soon as the list has it
    formWanted = Signal(str, dict, object)  # form of a new job: type, values, inputs_from (None: the likely ones)

    def __init__(self, window: QWidget, settings: Settings) -> None:
        super().__init__(window)
        self.window, self.settings = window, settings
        self.model: ProjectModel | None = None
        self.guard = Guard(window)
        self.toasts = ToastStack(window)
        self.jobs, self.pane, self.middle = JobsPanel(), JobPane(), QStackedWidget()

    def job_shown(self) -> str:
        """The job in the middle of the window, "" if there is none."""
        return self.pane.name if self.middle.currentWidget() is self.pane else ""

    def draft_shown(self) -> bool:
        """True while the form of a new job is in the middle of the window."""
        return self.middle.currentWidget() is self.pane and bool(self.pane.draft)

    def chosen(self) -> list[str]:
        """Jobs that an action concerns: the selection in the list if it holds the job shown or none is shown, else that
        job."""
        selected, shown = self.jobs.list.selected(), self.job_shown()
        return selected if shown in selected or not shown else [shown]

    def current(self) -> JobInfo | None:
        """The first of the chosen jobs; None if there is none."""
        names = self.chosen()
        return self.model.info(names[0]) if names and self.model is not None else None

    def reason(self, action: Action) -> str:
        """Why an action of a job or project is not possible now; "" if it is."""
        try:
            return action.reason(self.current(), self.model.project if self.model is not None else None)
        except (InputError, OSError) as error:
            return str(error)

    def no_project(self) -> str:
        """The reason why a view of the project cannot be shown, "" while one is open."""
        return "" if self.model is not None else "open a project first"

    def show_problem(self, what: str, error: object) -> None:
        """Say what went wrong while doing ``what`` and how to mend it; for a held lock, ask whether to break it."""
        assert isinstance(error, BaseException)
        if isinstance(error, LockHeld) and self.model is not None:
            holder = error.holder
            gone = " That program is gone." if holder.dead else ""
            if notices.ask(
                self.window,
                "The project is locked",
                f"{holder.text}.{gone} Wait for it, or break the lock if nothing else writes to the project.",
                "Break the lock",
                danger=True,
            ):
                self.model.do("Break the lock", lambda p: p.break_lock())
            return
        message, details = explain(what, error)
        if details:
            self.guard.caught += 1
        self.guard.tell(what, message, details)
