"""What can be done with a job or a project, as a table: the menus of the application and the help of the command line
say the same sentences, and both ask here whether something is possible now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import JobInfo, Project

Rule = Callable[[JobInfo | None, Project | None], str]


@dataclass(frozen=True)
class Action:
    """Something to do: ``text`` for a menu ("…" asks more first), ``tip`` one sentence, ``menu`` "Job" or "Job/Mark",
    ``rule`` gives why it is not possible now, "" if it is."""

    id: str
    text: str
    shortcut: str
    tip: str
    menu: str
    rule: Rule

    def reason(self, info: JobInfo | None, project: Project | None) -> str:
        """Why the action is not possible now; "" if it is."""
        return self.rule(info, project)


def _project(info: JobInfo | None, project: Project | None) -> str:
    return "" if project is not None else "open a project first"


def _writable(info: JobInfo | None, project: Project | None) -> str:
    if project is None:
        return "open a project first"
    return "the project is read-only" if project.read_only else ""


def _selected(info: JobInfo | None, project: Project | None) -> str:
    return _project(info, project) or ("" if info is not None else "choose a job first")


def _any(info: JobInfo | None, project: Project | None) -> str:
    return ""


def _needs(*states: State, ours: bool = True, present: bool = True, options: bool = False) -> Rule:
    """A job, writable, in one of these states (none: all); with ``options`` one that runs from options."""

    def rule(info: JobInfo | None, project: Project | None) -> str:
        if why := _writable(info, project) or _selected(info, project):
            return why
        assert info is not None
        if ours and not info.ours:
            return f"{info.title} belongs to another program"
        if options and not info.has_options:
            return f"{info.title} jobs are made in the window and have no options to run"
        if present and info.missing:
            return "its directory is gone"
        if states and info.status.state not in states:
            return f"not for a job that is {info.status.state.value.lower()}"
        return ""

    return rule


def _runs(info: JobInfo | None, project: Project | None) -> str:
    if why := _selected(info, project):
        return why
    assert info is not None
    return "" if info.has_options else f"{info.title} jobs have no command"


def _waiting(info: JobInfo | None, project: Project | None) -> str:
    if why := _needs(State.SCHEDULED, options=True)(info, project):
        return why
    assert info is not None and project is not None
    return "" if project.job(info.name).record().get("requested") else "it does not wait to be started"


def _stoppable(info: JobInfo | None, project: Project | None) -> str:
    if why := _needs(State.RUNNING, State.SCHEDULED, options=True)(info, project):
        return why
    return "" if info is not None and info.status.state is State.RUNNING else _waiting(info, project)


def _startable(info: JobInfo | None, project: Project | None) -> str:
    if why := _needs(State.SCHEDULED, options=True)(info, project):
        return why
    assert info is not None and project is not None
    job = project.job(info.name)
    record = job.record()
    # What only the project's files ask for starts nothing: the user may.
    waits = record.get("requested") and (record.get("scheduler_id") or job.wish(record) is not None)
    return "it waits to be started already" if waits else ""


_DONE = (State.SUCCEEDED, State.FAILED, State.ABORTED, State.LOST)

JOB_ACTIONS: tuple[Action, ...] = (
    Action("run", "Run", "Ctrl+R", "Run the job here, as soon as its inputs and a GPU are there", "Job", _startable),
    Action(
        "submit", "Submit to cluster …", "Ctrl+Shift+R", "Hand the job to the cluster's scheduler", "Job", _startable
    ),
    Action(
        "continue",
        "Continue …",
        "Ctrl+Return",
        "Run the job again in its directory; a training goes on from its last checkpoint",
        "Job",
        _needs(*_DONE, options=True),
    ),
    Action(
        "abort",
        "Abort",
        "Ctrl+.",
        "Stop the job: at a safe point first, by force if it does not obey",
        "Job",
        _stoppable,
    ),
    Action("unrequest", "Take out of the queue", "", "Do not start the job; it stays scheduled", "Job", _waiting),
    Action(
        "clone",
        "Clone …",
        "Ctrl+D",
        "Make a new job with the same options, some of them changed",
        "Job",
        _needs(options=True),
    ),
    Action("alias", "Rename …", "F2", "Give the job a readable name beside its number", "Job", _needs(ours=False)),
    Action("note", "Edit note …", "Ctrl+E", "Write down what the job was for", "Job", _needs(ours=False)),
    Action(
        "command", "Copy command", "Ctrl+Shift+C", "Copy the command that does the same in a terminal", "Job", _runs
    ),
    Action("folder", "Open folder", "Ctrl+Shift+O", "Show the job's files", "Job", _selected),
    Action(
        "mark_succeeded",
        "Mark as succeeded",
        "",
        "Treat the job as succeeded from now on",
        "Job/Mark",
        _needs(*_DONE, State.SCHEDULED),
    ),
    Action(
        "mark_failed",
        "Mark as failed",
        "",
        "Treat the job as failed from now on",
        "Job/Mark",
        _needs(*_DONE, State.SCHEDULED),
    ),
    Action(
        "mark_aborted",
        "Mark as aborted",
        "",
        "Treat the job as aborted from now on",
        "Job/Mark",
        _needs(*_DONE, State.SCHEDULED),
    ),
    Action(
        "cleanup",
        "Clean up",
        "",
        "Move superseded checkpoints and leftovers of a succeeded job to the trash",
        "Job",
        _needs(State.SUCCEEDED),
    ),
    Action(
        "cleanup_harsh",
        "Clean up harshly",
        "",
        "Move its particle stack to the trash as well; Continue makes it again",
        "Job",
        _needs(State.SUCCEEDED),
    ),
    Action(
        "delete",
        "Delete",
        "Del",
        "Move the job to the trash, from where it can be restored",
        "Job",
        _needs(*_DONE, State.SCHEDULED, ours=False, present=False),
    ),
)

PROJECT_ACTIONS: tuple[Action, ...] = (
    Action("new_project", "New project …", "Ctrl+Shift+N", "Make a project in a directory", "Project", _any),
    Action("open_project", "Open project …", "Ctrl+O", "Open a project of this program or of RELION", "Project", _any),
    Action("new_job", "New job …", "Ctrl+N", "Add a job to the project", "Project", _writable),
    Action(
        "import",
        "Import files …",
        "Ctrl+I",
        "Bring particles, maps, masks or models into the project",
        "Project",
        _writable,
    ),
    Action(
        "workflow",
        "Start workflow …",
        "Ctrl+Shift+W",
        "Preprocess, train and analyze in one go, or steps of your own",
        "Project",
        _writable,
    ),
    Action("trash", "Trash …", "", "Look at deleted jobs and restore them", "Project", _project),
    Action("empty_trash", "Empty trash", "", "Delete what is in the trash for good", "Project", _writable),
    Action("cluster", "Cluster settings …", "", "How jobs are submitted to your cluster", "Project", _writable),
    Action(
        "repair",
        "Repair project",
        "",
        "Mend what a crash or a full disk has left; nothing is deleted",
        "Project",
        _writable,
    ),
    Action(
        "break_lock",
        "Break lock",
        "",
        "Remove the lock that a program which is gone has left",
        "Project",
        lambda info, project: (
            _writable(info, project)
            or ("" if project is not None and project.lock_holder() else "the project is not locked")
        ),
    ),
)


def action(identifier: str) -> Action:
    """The action with that id; KeyError if there is none."""
    return {each.id: each for each in (*JOB_ACTIONS, *PROJECT_ACTIONS)}[identifier]
