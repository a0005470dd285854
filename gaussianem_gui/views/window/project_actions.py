"""What the actions of a project do: open and make one, workflows, trash, repair, lock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QFileDialog

from gaussianem_core.errors import InputError
from gaussianem_gui.execution import workflow
from gaussianem_gui.forms.actions import PROJECT_ACTIONS
from gaussianem_gui.project import repair, trash
from gaussianem_gui.project.project import Project
from gaussianem_gui.units import bytes_text
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.window.command import Command
from gaussianem_gui.views.window.context import WindowContext
from gaussianem_gui.views.window.dialog import ask_text, pick_directory
from gaussianem_gui.views.window.leftovers_dialog import LeftoversDialog
from gaussianem_gui.views.window.settings_dialog import SettingsDialog
from gaussianem_gui.views.window.trash_dialog import TrashDialog
from gaussianem_gui.views.window.workflow_dialog import WorkflowDialog

PARTED = ("new_job", "trash", "cluster")  # a line stands above these in the menu
DEMO_TEXT = (
    "A project with 1,000 simulated particles of the spliceosome: its head and arm turn, and some lack the arm. "
    "It is made in this directory, takes a few megabytes, and runs in minutes without a GPU."
)


class ProjectActions(QObject):
    """Acts on the window's project. The directory of a project that is to be shown comes in ``chosen``; a demo is made
    between ``demoBegins`` and ``demoEnds``."""

    chosen = Signal(object)  # Path
    demoBegins = Signal()
    demoEnds = Signal()

    def __init__(self, context: WindowContext) -> None:
        super().__init__(context)
        self.context = context
        self._background = Background(self)

    def commands(self) -> list[Command]:
        """The commands of all actions, in the order of the menu."""
        new_form = self.context.formWanted.emit
        runs: dict[str, tuple[str, Callable[[], object]]] = {
            "new_project": ("folder-plus", self.ask_new),
            "open_project": ("folder", self.ask_open),
            "new_job": ("plus", lambda: new_form("", {}, None)),
            "import": ("job-import", lambda: new_form("import", {}, None)),
            "workflow": ("graph", self.show_workflow),
            "trash": ("trash", self.show_trash),
            "empty_trash": ("trash", self.empty_trash),
            "cluster": ("queue", self.show_cluster),
            "repair": ("settings", self.repair),
            "break_lock": ("lock", self.break_lock),
        }
        return [
            Command.of(action, *runs[action.id], partial(self.context.reason, action), parted=action.id in PARTED)
            for action in PROJECT_ACTIONS
        ]

    # --- open and make ---------------------------------------------------------------------------------------------

    def _start(self) -> Path:
        return self.context.model.root.parent if self.context.model is not None else Path.home()

    def ask_open(self) -> None:
        """Ask for a directory and open the project in it; offer to rebuild one whose list of jobs is gone, or to make
        one."""
        path = pick_directory(self.context.window, "Open a RELION or GaussianEM project", self._start())
        if path is None:
            return
        if Project.is_project(path):
            self.chosen.emit(path)
        elif any(path.glob("*/job[0-9][0-9][0-9]/job.star")):
            text = "There are jobs, but the file that lists them (default_pipeline.star) is gone. It can be made anew."
            if notices.ask(self.context.window, "Rebuild the project?", text, "Rebuild"):
                self._background.run(
                    "rebuild",
                    lambda: repair.rebuild(path),
                    lambda _p: self.chosen.emit(path),
                    lambda error: self.context.show_problem("Rebuild the project", error),
                )
        else:
            text = (
                f"{path} holds no project (no default_pipeline.star). A new one can be made there; "
                "files in it stay as they are."
            )
            if notices.ask(self.context.window, "Make a project here?", text, "Make a project"):
                self._create(path)

    def ask_new(self) -> None:
        """Ask for a directory and make a project in it; one that is there already is opened."""
        title = "Choose or make an empty directory for the project"
        path = pick_directory(self.context.window, title, self._start())
        if path is not None:
            self.chosen.emit(path) if Project.is_project(path) else self._create(path)

    def _create(self, path: Path) -> None:
        try:
            Project.create(path)
        except InputError as error:
            self.context.show_problem("Make the project", error)
            return
        self.chosen.emit(path)

    def ask_demo(self) -> None:
        """Ask for a directory, make the demo project in it in the background, and open it."""
        start = str(Path.home() / "gaussianem-demo")
        where = ask_text(self.context.window, "Make a demo project", DEMO_TEXT, start, "Make it")
        if where:
            self.create_demo(Path(where).expanduser())

    def create_demo(self, path: Path) -> None:
        """Make the demo project in ``path`` and open it; an existing one is opened."""
        if Project.is_project(path):
            self.chosen.emit(path)
            return
        from gaussianem_gui.demo import project as demo_project

        self.demoBegins.emit()
        self.context.toasts.show_toast("info", "Making the demo project", str(path), 4)
        self._background.run(
            "demo", lambda: demo_project.create(path), lambda job: self._demo_made(path, job), self._demo_failed
        )

    def _demo_made(self, path: Path, job: str) -> None:
        self.demoEnds.emit()
        self.chosen.emit(path)
        if self.context.model is not None:
            self.context.awaited.emit(job, "Progress")

    def _demo_failed(self, error: Exception) -> None:
        self.demoEnds.emit()
        self.context.show_problem("Make the demo project", error)

    # --- workflows -------------------------------------------------------------------------------------------------

    def show_workflow(self) -> None:
        """Show the dialog that starts several jobs that follow each other."""
        if self.context.model is not None:
            WorkflowDialog(self.context.window, self.context.model, self._workflow_started).exec()

    def _workflow_started(self, names: list[str]) -> None:
        self.context.awaited.emit(names[0], "Progress")
        text = "Each begins when the one before it has finished."
        self.context.toasts.show_toast("success", f"{len(names)} jobs started", text)

    def save_workflow(self) -> None:
        """Ask for a file and keep what the chosen jobs did as a workflow."""
        context, names = self.context, self.context.chosen()
        if context.model is None or not names:
            context.toasts.show_toast("info", "Select jobs first", "Those that belong together, in the list.")
            return
        path, _ = QFileDialog.getSaveFileName(context.window, "Save a workflow", "workflow.json", "Workflow (*.json)")
        if path:
            name = Path(path).stem
            done = f"{path}. Start it from New job, Workflow."
            context.model.do(
                "Save the workflow",
                lambda p: workflow.save(workflow.from_jobs(p, names, name), path),
                lambda _r: context.toasts.show_toast("success", "Workflow saved", done),
            )

    # --- order -----------------------------------------------------------------------------------------------------

    def show_trash(self) -> None:
        """Show the deleted jobs."""
        if self.context.model is not None:
            TrashDialog(self.context.window, self.context.model).exec()

    def empty_trash(self) -> None:
        """Delete what is in the trash for good, after a question."""
        context = self.context
        text = "All deleted jobs go for good. This cannot be undone."
        if context.model is not None and notices.ask(
            context.window, "Empty the trash?", text, "Delete for good", danger=True
        ):
            context.model.do(
                "Empty the trash",
                trash.empty,
                lambda freed: context.toasts.show_toast("success", "The trash is empty", f"{bytes_text(freed)} freed."),
            )

    def show_leftovers(self) -> None:
        """Show the processes that ended jobs have left behind."""
        if self.context.model is not None:
            LeftoversDialog(self.context.window, self.context.model).exec()

    def show_settings(self) -> None:
        """Show the settings of all projects, this one, and the cluster."""
        self._settings().exec()

    def show_cluster(self) -> None:
        """Show how jobs are submitted to the cluster."""
        dialog = self._settings()
        dialog.show_cluster()
        dialog.exec()

    def _settings(self) -> SettingsDialog:
        return SettingsDialog(self.context.window, self.context.settings, self.context.model, theme.apply)

    def repair(self) -> None:
        """Mend what a crash or a full disk has left, in a worker, and say what was done."""
        if self.context.model is not None:
            self.context.model.do("Repair the project", repair.repair, self._repaired)

    def _repaired(self, sentences: list[str]) -> None:
        title = "Project repaired" if sentences else "Nothing to repair"
        self.context.toasts.show_toast("success", title, "\n".join(sentences[:6]), 15)

    def break_lock(self) -> None:
        """Remove a lock that was left behind, after a question."""
        if self.context.model is None:
            return
        holder = self.context.model.project.lock_holder()
        text = f"{holder.text if holder else 'Nobody holds it now'}. Break it only if nothing writes to the project."
        if notices.ask(self.context.window, "Break the lock?", text, "Break the lock", danger=True):
            self.context.model.do("Break the lock", lambda p: p.break_lock())
