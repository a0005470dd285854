"""What the actions of a job do: a callback for each of the table in ``gaussianem_gui.forms.actions``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from typing import Any

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication

from gaussianem_core.options import command_line
from gaussianem_gui.execution import runner
from gaussianem_gui.execution.cluster import load_settings
from gaussianem_gui.forms.actions import JOB_ACTIONS, Action
from gaussianem_gui.project import trash
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo, Project
from gaussianem_gui.units import count_text
from gaussianem_gui.views.project_model import ProjectModel, job_label
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.window.command import Command
from gaussianem_gui.views.window.context import WindowContext
from gaussianem_gui.views.window.dialog import ask_text

PARTED = ("clone", "command", "mark_succeeded", "delete")  # a line stands above these in the menu
MOST_LISTED = 12  # files in a question


class JobActions:
    """Acts on the jobs that the window's context says are chosen; ``commands`` are possible only when there are."""

    def __init__(self, context: WindowContext) -> None:
        self.context = context

    def commands(self) -> list[Command]:
        """The commands of all actions, in the order of the menu."""
        runs: dict[str, tuple[str, Callable[[], object]]] = {
            "run": ("play", self.run),
            "submit": ("queue", self.submit),
            "continue": ("continue", self.go_on),
            "abort": ("stop", self.abort),
            "unrequest": ("x", self.unrequest),
            "clone": ("clone", self.clone),
            "alias": ("tag", self.ask_alias),
            "note": ("note", self.edit_note),
            "command": ("copy", self.copy_command),
            "folder": ("external", self.open_folder),
            "mark_succeeded": ("check-circle", partial(self.mark, State.SUCCEEDED)),
            "mark_failed": ("x-circle", partial(self.mark, State.FAILED)),
            "mark_aborted": ("stop-circle", partial(self.mark, State.ABORTED)),
            "cleanup": ("broom", partial(self.clean_up, harsh=False)),
            "cleanup_harsh": ("broom", partial(self.clean_up, harsh=True)),
            "delete": ("trash", self.delete),
        }
        return [
            Command.of(action, *runs[action.id], partial(self._reason, action), parted=action.id in PARTED)
            for action in JOB_ACTIONS
        ]

    def _reason(self, action: Action) -> str:
        if action.id == "run" and self.context.draft_shown():
            return ""
        return self.context.reason(action)

    @property
    def _model(self) -> ProjectModel:
        assert self.context.model is not None
        return self.context.model

    @property
    def _info(self) -> JobInfo:
        info = self.context.current()
        assert info is not None
        return info

    def _each(self, what: str, function: Callable[[Project, str], object]) -> None:
        names = self.context.chosen()
        self._model.do(what, lambda project: [function(project, name) for name in names])

    # --- running ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the job; a form that is shown and was changed goes with it."""
        pane, info = self.context.pane, self.context.current()
        form = pane.parameters
        if form is not None and self.context.draft_shown():
            form.submit(run=True)
        elif (
            form is not None
            and info is not None
            and form.info is not None
            and form.info.name == info.name
            and (form.form.dirty() or pane.tab() == "Parameters")
        ):
            form.submit(run=True)
        else:
            self._each("Run the job", runner.request)

    def submit(self) -> None:
        """Hand the jobs to the cluster."""
        self._each(
            "Submit to the cluster",
            lambda p, name: runner.request(p, name, runner.Launch(where="cluster", cluster=load_settings(p.root))),
        )

    def go_on(self) -> None:
        """Show the form of a job that is to be run again in its directory."""
        self.context.jobWanted.emit(self._info.name, "Parameters")
        if self.context.pane.parameters is not None:
            self.context.pane.parameters.start_continue()

    def abort(self) -> None:
        """Stop the jobs, after a question; take them out of the queue if the first of them does not run yet."""
        info, names = self._info, self.context.chosen()
        if info.status.state is not State.RUNNING:
            self.unrequest()
            return
        which = job_label(info) if len(names) == 1 else f"{len(names)} jobs"
        text = (
            "It stops at the next safe point and keeps what it has written. "
            "A training can be continued from its last checkpoint."
        )
        if notices.ask(self.context.window, f"Abort {which}?", text, "Abort", danger=True):
            self._each("Abort the job", runner.abort)

    def unrequest(self) -> None:
        """Take the jobs out of the queue."""
        self._each("Take the job out of the queue", runner.unrequest)

    def clone(self) -> None:
        """Show the form of a new job with the same options."""
        info = self._info

        def show(values: dict[str, Any]) -> None:
            kept = {k: v for k, v in values.items() if k not in ("job_dir", "resume")}
            self.context.formWanted.emit(info.job_type, kept, [])

        self._model.do("Clone the job", lambda p: p.job(info.name).values(), show)

    # --- names, notes, files ---------------------------------------------------------------------------------------

    def ask_alias(self) -> None:
        """Ask for another alias of the job, and give it."""
        info = self._info
        text = ask_text(
            self.context.window,
            "Rename the job",
            "A readable name beside the number. Leave it empty to remove the name.",
            info.alias,
            "Rename",
        )
        if text is not None:
            self.rename(info.name, text)

    def rename(self, name: str, alias: str) -> None:
        """Give a job another alias, its blanks as "_"; "" takes the alias away."""
        if self.context.model is not None:
            self._model.do("Rename the job", lambda p: p.set_alias(name, alias.replace(" ", "_")))

    def edit_note(self) -> None:
        """Show the job's notes and put the cursor there."""
        self.context.jobWanted.emit(self._info.name, "Notes")
        self.context.pane.notes.edit.setFocus()

    def copy_command(self) -> None:
        """Copy the command that does the same in a terminal, with the change to the project's directory."""
        name, root = self._info.name, self._model.root

        def show(words: list[str]) -> None:
            QGuiApplication.clipboard().setText(f"cd {shlex.quote(str(root))} && {shlex.join(words)}")
            self.context.toasts.show_toast("success", "Command copied", "Paste it into a terminal.")

        self._model.do("Copy the command", lambda p: command_line(p.job(name).options()), show)

    def open_folder(self) -> None:
        """Show the job's files in the desktop's file manager."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._model.root / self._info.name)))

    def mark(self, state: State) -> None:
        """Treat the jobs as being in ``state`` from now on."""
        self._each("Mark the job", lambda p, name: p.mark(name, state))

    # --- away with it ----------------------------------------------------------------------------------------------

    def clean_up(self, *, harsh: bool) -> None:
        """Move what is superseded to the trash, after it was listed in a question; ``harsh`` the particle stacks,
        too."""
        names = self.context.chosen()

        def confirm(found: list[str]) -> None:
            if not found:
                text = "There are no superseded files in this job."
                self.context.toasts.show_toast("info", "Nothing to clean up", text)
                return
            more = f"\n… and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
            if notices.ask(
                self.context.window,
                f"Clean up {count_text(len(found), 'file')}?",
                "They are moved to the trash.",
                "Clean up",
                details="\n".join(found[:MOST_LISTED]) + more,
            ):
                self._each("Clean up", lambda p, name: trash.cleanup(p, name, harsh=harsh))

        self._model.do(
            "Clean up", lambda p: [f for n in names for f in trash.cleanup(p, n, harsh=harsh, dry_run=True)], confirm
        )

    def delete(self) -> None:
        """Move the jobs, and those made from them, to the trash, after a question."""
        names = self.context.chosen()
        dependents = sorted({d for n in names for d in self._dependents(n)} - set(names))
        which = job_label(self._info) if len(names) == 1 else f"{len(names)} jobs"
        text = f"{which} {'is' if len(names) == 1 else 'are'} moved to the trash and can be restored from there."
        if dependents:
            source = "it" if len(names) == 1 else "them"
            text += f" {count_text(len(dependents), 'job')} made from {source} will be moved as well:"
        listed = "\n".join(dependents)
        if not notices.ask(self.context.window, f"Delete {which}?", text, "Delete", danger=True, details=listed):
            return

        def work(project: Project) -> list[str]:
            moved: list[str] = []
            for name in names:
                if name not in moved:
                    moved += trash.delete(project, name, with_dependents=bool(dependents))
            return moved

        self._model.do("Delete the job", work, self._deleted)

    def _deleted(self, moved: list[str]) -> None:
        title = f"{count_text(len(moved), 'job')} moved to the trash"
        self.context.toasts.show_toast("success", title, "", 10, "Undo", lambda: self._undo_delete(moved))

    def _undo_delete(self, names: list[str]) -> None:
        if self.context.model is not None:
            self._model.do(
                "Restore the job",
                lambda p: [trash.restore(p, name) for name in sorted(names, key=lambda n: n.rsplit("/job", 1)[-1])],
            )

    def _dependents(self, name: str) -> set[str]:
        """Jobs that were made from a job, directly or not."""
        found: set[str] = set()
        open_names = [name]
        while open_names:
            for child in self._model.children(open_names.pop()):
                if child not in found:
                    found.add(child)
                    open_names.append(child)
        return found
