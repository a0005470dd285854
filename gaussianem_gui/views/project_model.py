"""The open project as the views see it: a snapshot of its jobs, refreshed from files by a worker; changes in a worker.

Views never touch files of the project themselves. They read ``jobs`` and listen to ``jobsChanged``; what the user does
goes through ``do``, which runs off the window's thread and reports errors in ``failed``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from PySide6.QtCore import QObject, QTimer, Signal

from gaussianem_gui.execution import runner
from gaussianem_gui.execution.estimates import Machine
from gaussianem_gui.execution.history import History, Watcher
from gaussianem_gui.execution.logfile import LogFile
from gaussianem_gui.project.job import State, Status
from gaussianem_gui.project.project import JobInfo, Project
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.views.toolkit.tasks import Background, Result

JOBS_MILLISECONDS = 1000
MACHINE_MILLISECONDS = 2500
SIZE_SECONDS = 60  # how often the disk use of jobs is walked
PATIENCE = 3  # looks that may fail one after the other before it is told: network disks have hiccups


def state_word(info: JobInfo) -> str:
    """A job's state as a key of the theme's STATES: a waiting one is queued, one that was asked to stop is stopping."""
    state = info.status.state
    if state is State.SCHEDULED:
        return "queued" if info.status.detail else "scheduled"
    if state is State.RUNNING and "stop" in info.status.detail.lower():
        return "stopping"
    return state.value.lower()


def job_label(info: JobInfo) -> str:
    """A job's name as people read it: alias if there is one, with the number."""
    number = info.name.rstrip("/").rsplit("/", 1)[-1]
    return f"{info.alias} ({number})" if info.alias else f"{info.title} {number}"


@dataclass
class Load:
    """What the machine is doing: GPUs, CPU share (0 to 1), memory (bytes used, total), disk (bytes free, total; 0, 0 if
    unknown)."""

    gpus: list[Any] = field(default_factory=list)
    cpu: float = 0.0
    memory: tuple[int, int] = (0, 1)
    disk: tuple[int, int] = (0, 0)

    def machine(self) -> Machine:
        """The machine as the checks before submission take it."""
        return Machine.of(self.gpus)


class ProjectModel(QObject):
    """State of the open project, followed by looking at its files. ``watcher`` polls the reports and logs that views
    show."""

    jobsChanged = Signal()
    loadChanged = Signal()
    sizesChanged = Signal()
    jobEnded = Signal(object)  # JobInfo
    submitted = Signal(list, bool)  # names of the jobs that a form made or changed, and whether they were asked to run
    failed = Signal(str, object)  # what was attempted, the exception
    noted = Signal(str)

    def __init__(self, project: Project, watcher: Watcher, settings: Settings, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.project, self.watcher, self.settings = project, watcher, settings
        self.jobs: list[JobInfo] = []
        self.loaded = False
        self.links: dict[str, list[str]] = {}  # job -> its parents
        self.expected: frozenset[str] = frozenset()  # files that the graph names, there or still to come
        self.counter = 1  # number that the next job gets
        self.load = Load()
        self.sizes: dict[str, int] = {}
        self._statuses: dict[str, Status] = {}
        self._histories: dict[str, History] = {}
        self._logs: dict[str, dict[str, LogFile]] = {}
        self._lock = threading.Lock()  # one writer of the project at a time
        self._background = Background(self)
        self._notes_seen = 0
        self._failed_looks = 0
        self._count = 0
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(JOBS_MILLISECONDS)
        self._machine_timer = QTimer(self)
        self._machine_timer.timeout.connect(self._refresh_machine)
        self._machine_timer.start(MACHINE_MILLISECONDS)
        self._sizes_timer = QTimer(self)
        self._sizes_timer.timeout.connect(self.refresh_sizes)
        self._sizes_timer.start(SIZE_SECONDS * 1000)
        self.refresh()
        self._refresh_machine()
        self.refresh_sizes()
        if not project.read_only:
            self._background.run("runner", lambda: runner.ensure_runner(project), lambda _r: None, self._no_runner)

    @property
    def root(self) -> Path:
        """The project's directory."""
        return self.project.root

    def close(self) -> None:
        """Stop looking; jobs go on."""
        for timer in (self._timer, self._machine_timer, self._sizes_timer):
            timer.stop()
        for history in self._histories.values():
            self.watcher.remove(history)
        for logs in self._logs.values():
            for log in logs.values():
                self.watcher.remove(log)

    # --- reading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at the jobs again, unless a look is under way."""
        if not self._background.busy("jobs"):
            self._background.run("jobs", self._read, self._take, self._not_read)

    def _read(self) -> tuple[list[JobInfo], dict[str, list[str]], frozenset[str], list[str], int]:
        counter = self.project.graph().counter  # read first: every job with a smaller number is in the list, or gone
        jobs = self.project.jobs()
        graph = self.project.graph()
        parents = graph.links()[0]
        links = {info.name: parents.get(info.name, []) for info in jobs}
        return jobs, links, frozenset(graph.nodes), list(self.project.notes), counter

    def _take(self, found: tuple[list[JobInfo], dict[str, list[str]], frozenset[str], list[str], int]) -> None:
        jobs, links, expected, notes, counter = found
        self.expected, self._failed_looks = expected, 0
        ended = [info for info in jobs if self._has_ended(info)]
        self.counter = counter
        self._statuses = {info.name: info.status for info in jobs}
        if not self.loaded:
            QTimer.singleShot(300, self, self.refresh_sizes)
        changed = jobs != self.jobs or links != self.links or not self.loaded
        self.jobs, self.links, self.loaded = jobs, links, True
        for note in notes[self._notes_seen :]:
            self.noted.emit(note)
        self._notes_seen = len(notes)
        if changed:
            self.jobsChanged.emit()
        for info in ended:
            self.jobEnded.emit(info)
        if ended:
            self.refresh_sizes()

    def _has_ended(self, info: JobInfo) -> bool:
        """True if the job has ended since the last look; one made and ended in between is new by its number, and one
        that was run again and ended by the time of its start."""
        status, before = info.status, self._statuses.get(info.name)
        if not status.state.finished or not status.started:
            return False
        if before is None:
            return self.loaded and info.number >= self.counter
        return not before.state.finished or status.started > (before.started or 0.0)

    def _not_read(self, error: Exception) -> None:
        self._failed_looks += 1
        if self._failed_looks == PATIENCE:
            self.failed.emit("Read the jobs", error)

    def info(self, name: str) -> JobInfo | None:
        """The row of one job in the last snapshot; None if it is not there."""
        return next((info for info in self.jobs if info.name == name), None)

    def gone(self, name: str) -> bool:
        """True if a job of this name was there and is not any more; False for one that the list has yet to show."""
        number = name.rstrip("/").rsplit("/job", 1)[-1]
        return self.loaded and self.info(name) is None and number.isdecimal() and int(number) < self.counter

    def history(self, name: str) -> History:
        """What a job reports, followed from now on."""
        if name not in self._histories:
            self._histories[name] = History(self.root / name)
        self.watcher.add(self._histories[name])
        return self._histories[name]

    def logs(self, name: str) -> dict[str, LogFile]:
        """A job's run.out and run.err, followed from now on."""
        if name not in self._logs:
            self._logs[name] = {n: LogFile(self.root / name / n) for n in ("run.out", "run.err")}
        for log in self._logs[name].values():
            self.watcher.add(log)
        return self._logs[name]

    def release(self, name: str, *, keep: tuple[str, ...] = ()) -> None:
        """Follow a job no longer, unless it is in ``keep``; what was read so far stays in memory."""
        if name not in keep:
            if name in self._histories:
                self.watcher.remove(self._histories[name])
            for log in self._logs.get(name, {}).values():
                self.watcher.remove(log)

    def children(self, name: str) -> list[str]:
        """Jobs that read what ``name`` made."""
        return [child for child, parents in self.links.items() if name in parents]

    def counts(self) -> dict[State, int]:
        """Number of jobs in each state that any has."""
        found: dict[State, int] = {}
        for info in self.jobs:
            found[info.status.state] = found.get(info.status.state, 0) + 1
        return found

    def _refresh_machine(self) -> None:
        if not self._background.busy("machine"):
            self._background.run("machine", self._read_machine, self._take_machine, lambda _e: None)

    def _read_machine(self) -> Load:
        memory = psutil.virtual_memory()
        return Load(
            runner.gpus(),
            psutil.cpu_percent() / 100,
            (memory.total - memory.available, memory.total),
            self.project.disk(),
        )

    def _take_machine(self, load: Load) -> None:
        self.load = load
        self.loadChanged.emit()

    def refresh_sizes(self) -> None:
        """Measure the disk use of every job in bytes (slow; in a worker); ``sizesChanged`` comes then."""
        if self._background.busy("sizes"):
            return
        names = [info.name for info in self.jobs if not info.missing]
        project = self.project

        def measure() -> dict[str, int]:
            return {name: project.job(name).size_bytes() for name in names}

        self._background.run("sizes", measure, self._take_sizes, lambda _e: None)

    def _take_sizes(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.sizesChanged.emit()

    # --- doing -----------------------------------------------------------------------------------------------------

    def do(
        self,
        what: str,
        function: Callable[[Project], Result],
        on_done: Callable[[Result], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        """Run ``function(project)`` in a worker, one at a time, then look at the jobs again. An error goes to
        ``on_error`` and, with ``what``, to ``failed``.

        A view that may be deleted meanwhile wraps its ``on_done`` and ``on_error`` in ``tasks.while_alive``.
        """

        def work() -> Result:
            with self._lock:
                return function(self.project)

        def done(result: Result) -> None:
            self.refresh()
            if on_done is not None:
                on_done(result)

        def error(problem: Exception) -> None:
            self.refresh()
            if on_error is not None:
                on_error(problem)
            self.failed.emit(what, problem)

        self._count += 1
        self._background.run(f"do-{self._count}", work, done, error)

    def ask(
        self,
        key: str,
        function: Callable[[Project], Result],
        on_done: Callable[[Result | None], object],
        background: Background | None = None,
    ) -> None:
        """Read something of the project in a worker; the newest question under ``key`` wins, errors give None.

        A view that may be deleted before the answer comes gives its own ``background``: the answer is then dropped.
        """
        project = self.project
        owner = background or self._background
        owner.run(f"ask-{key}", lambda: function(project), on_done, lambda _e: on_done(None))

    def _no_runner(self, error: Exception) -> None:
        self.failed.emit("Start the background runner", error)
