"""What the actions of a job do: the handlers ``_do_<id>`` of the tables in ``gaussianem_gui.forms.actions``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication

from gaussianem_core.options import command_line
from gaussianem_gui.execution import runner
from gaussianem_gui.execution.cluster import load_settings
from gaussianem_gui.project import trash
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project
from gaussianem_gui.units import count_text
from gaussianem_gui.views.project_model import job_label
from gaussianem_gui.views.toolkit import widgets
from gaussianem_gui.views.window import dialogs

_Window: Any = object  # the main window; mixed in, so its attributes are there


class JobActions(_Window):
    """Mixed into the main window: acts on the jobs that ``chosen`` names."""

    def _each(
        self, what: str, function: Callable[[Project, str], Any], on_done: Callable[[Any], object] | None = None
    ) -> None:
        assert self.model is not None
        names = self.chosen()
        self.model.do(what, lambda project: [function(project, name) for name in names], on_done)

    def _do_run(self) -> None:
        parameters = self.pane.parameters
        info = self._current()
        if (
            parameters is not None
            and info is not None
            and parameters.info is not None
            and parameters.info.name == info.name
            and (parameters.form.dirty() or self.pane.tab() == "Parameters")
        ):
            parameters.submit(run=True)
        else:
            self._each("Run the job", lambda p, name: runner.request(p, name))

    def _do_submit(self) -> None:
        self._each(
            "Submit to the cluster",
            lambda p, name: runner.request(p, name, runner.Launch(where="cluster", cluster=load_settings(p.root))),
        )

    def _do_continue(self) -> None:
        info = self._current()
        if info is not None:
            self.open_job(info.name, "Parameters")
            if self.pane.parameters is not None:
                self.pane.parameters.start_continue()

    def _do_abort(self) -> None:
        info = self._current()
        assert info is not None
        names = self.chosen()
        if info.status.state is not State.RUNNING:
            self._do_unrequest()
            return
        which = job_label(info) if len(names) == 1 else f"{len(names)} jobs"
        text = (
            "It stops at the next safe point and keeps what it has written. "
            "A training can be continued from its last checkpoint."
        )
        if widgets.ask(self, f"Abort {which}?", text, "Abort", danger=True):
            self._each("Abort the job", lambda p, name: runner.abort(p, name))

    def _do_unrequest(self) -> None:
        self._each("Take the job out of the queue", lambda p, name: runner.unrequest(p, name))

    def _do_clone(self) -> None:
        info = self._current()
        assert info is not None and self.model is not None

        def show(values: dict[str, Any] | None) -> None:
            if values is not None:
                self.new_job(info.job_type, {k: v for k, v in values.items() if k not in ("job_dir", "resume")}, [])

        self.model.ask("clone", lambda p: p.job(info.name).values(), show)

    def _do_alias(self) -> None:
        info = self._current()
        assert info is not None
        text = dialogs.ask_text(
            self,
            "Rename the job",
            "A readable name beside the number. Leave it empty to remove the name.",
            info.alias,
            "Rename",
        )
        if text is not None:
            self._rename(info.name, text)

    def _rename(self, name: str, alias: str) -> None:
        if self.model is not None:
            self.model.do("Rename the job", lambda p: p.set_alias(name, alias.replace(" ", "_")))

    def _do_note(self) -> None:
        info = self._current()
        if info is not None:
            self.open_job(info.name, "Notes")
            self.pane.notes.edit.setFocus()

    def _do_command(self) -> None:
        info = self._current()
        assert info is not None and self.model is not None
        root = self.model.root

        def show(words: list[str] | None) -> None:
            if words:
                QGuiApplication.clipboard().setText(f"cd {shlex.quote(str(root))} && {shlex.join(words)}")
                self.toasts.show_toast("success", "Command copied", "Paste it into a terminal.")

        self.model.ask("command", lambda p: command_line(p.job(info.name).options()), show)

    def _do_folder(self) -> None:
        info = self._current()
        if info is not None and self.model is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.model.root / info.name)))

    def _do_mark_succeeded(self) -> None:
        self._each("Mark the job", lambda p, name: p.mark(name, State.SUCCEEDED))

    def _do_mark_failed(self) -> None:
        self._each("Mark the job", lambda p, name: p.mark(name, State.FAILED))

    def _do_mark_aborted(self) -> None:
        self._each("Mark the job", lambda p, name: p.mark(name, State.ABORTED))

    def _do_cleanup(self) -> None:
        self._cleanup(harsh=False)

    def _do_cleanup_harsh(self) -> None:
        self._cleanup(harsh=True)

    def _cleanup(self, *, harsh: bool) -> None:
        assert self.model is not None
        names = self.chosen()

        def confirm(found: list[str] | None) -> None:
            if not found:
                self.toasts.show_toast("info", "Nothing to clean up", "There are no superseded files in this job.")
                return
            listed = "\n".join(found[:12]) + (f"\n… and {len(found) - 12} more" if len(found) > 12 else "")
            if widgets.ask(
                self,
                f"Clean up {count_text(len(found), 'file')}?",
                "They are moved to the trash.",
                "Clean up",
                details=listed,
            ):
                self._each("Clean up", lambda p, name: trash.cleanup(p, name, harsh=harsh))

        self.model.ask(
            "cleanup", lambda p: [f for n in names for f in trash.cleanup(p, n, harsh=harsh, dry_run=True)], confirm
        )

    def _do_delete(self) -> None:
        assert self.model is not None
        names = self.chosen()
        dependents = sorted({d for n in names for d in self._dependents(n)} - set(names))
        which = self._which(names)
        text = f"{which} {'is' if len(names) == 1 else 'are'} moved to the trash and can be restored from there."
        if dependents:
            source = "it" if len(names) == 1 else "them"
            text += f" {count_text(len(dependents), 'job')} made from {source} will be moved as well:"
        if not widgets.ask(self, f"Delete {which}?", text, "Delete", danger=True, details="\n".join(dependents)):
            return

        def work(project: Project) -> list[str]:
            moved: list[str] = []
            for name in names:
                if name not in moved:
                    moved += trash.delete(project, name, with_dependents=bool(dependents))
            return moved

        self.model.do("Delete the job", work, self._deleted)

    def _deleted(self, moved: list[str]) -> None:
        self.toasts.show_toast(
            "success",
            f"{count_text(len(moved), 'job')} moved to the trash",
            "",
            10,
            "Undo",
            lambda: self._undo_delete(moved),
        )

    def _undo_delete(self, names: list[str]) -> None:
        if self.model is not None:
            self.model.do(
                "Restore the job",
                lambda p: [trash.restore(p, name) for name in sorted(names, key=lambda n: n.rsplit("/job", 1)[-1])],
            )

    def _dependents(self, name: str) -> set[str]:
        assert self.model is not None
        found: set[str] = set()
        open_names = [name]
        while open_names:
            for child in self.model.children(open_names.pop()):
                if child not in found:
                    found.add(child)
                    open_names.append(child)
        return found

    def _which(self, names: list[str]) -> str:
        info = self.model.info(names[0]) if self.model is not None and names else None
        return job_label(info) if len(names) == 1 and info is not None else f"{len(names)} jobs"
