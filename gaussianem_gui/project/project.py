"""A project: a directory with RELION's graph file, numbered job directories, aliases, trash.

The graph is changed only under the lock: read again, change, write to a temporary name, rename. A job's directory is
made before the graph names it, so that a crash between two writes leaves a project that opens.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussianem_core.errors import InputError, printable
from gaussianem_core.job.events import ABORT, ARTIFACTS, FAILURE, SUCCESS
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.plain_files import open_regular
from gaussianem_gui.project import inputs as _inputs
from gaussianem_gui.project import lock as _lock
from gaussianem_gui.project.containment import inside, leads_out, made_folder, touch
from gaussianem_gui.project.graph import GRAPH, Graph, Process, graph_text, job_number
from gaussianem_gui.project.graph_file import GOOD, OWN, load_graph, write_graph
from gaussianem_gui.project.inputs import Choice
from gaussianem_gui.project.job import EXIT_FILES, LABEL, PIPELINE_STAR, Job, State, Status, folder_of, job_type_of
from gaussianem_gui.project.lock import Holder
from gaussianem_gui.project.small_files import LARGEST_BYTES
from gaussianem_gui.project.user_folders import config_folder

MARKER, NODES, TRASH = ".gui_projectdir", ".Nodes", "Trash"
DELETED = "deleted_pipeline.star"
_ALIAS_FORBIDDEN = set("*?()/\"'\\|#<>&%{}$`;[]!~\n\r\t")
LONGEST_ALIAS = 200  # bytes; a file name has 255
RECENT = 20  # projects
_COARSE_NS = 2_000_000_000


@dataclass(frozen=True)
class JobInfo:
    """A row of the job list."""

    name: str
    number: int
    type_label: str
    job_type: str
    title: str
    alias: str
    status: Status
    missing: bool = False

    @property
    def ours(self) -> bool:
        """True for jobs of this program, False for RELION's and others'."""
        return bool(self.job_type)

    @property
    def has_options(self) -> bool:
        """True for a job that runs from options; False for one made at once (Select, Mask, Trajectory), for those of
        other programs, and of types that a later version knows."""
        return self.job_type in JOB_OPTIONS


@dataclass(frozen=True)
class Trashed:
    """A job in the trash: name, when it was deleted (Unix seconds), where it lies, whether it can come back."""

    name: str
    deleted: float
    path: Path
    restorable: bool


class Project:
    """A project. Made by ``Project.open``, ``create`` or ``find``. ``notes`` holds sentences for the user."""

    def __init__(self, root: Path, read_only: bool) -> None:
        self.root, self.read_only, self.notes = root, read_only, [] if not read_only else ["the project is read-only"]
        self._stamp: tuple[int, int, int] | None = None
        self._graph = Graph()
        self._finished: dict[str, tuple[str, Status]] = {}
        self._drafts: dict[str, tuple[tuple[int, str], Status]] = {}

    def __repr__(self) -> str:
        return f"Project({self.root})"

    # --- open ------------------------------------------------------------------------------------------------------

    @staticmethod
    def is_project(directory: Path | str) -> bool:
        """True if the directory holds a graph file, or this program's copy of one."""
        try:
            return (Path(directory) / GRAPH).is_file() or (Path(directory) / GOOD).is_file()
        except OSError:  # a folder that may not be looked into
            return False

    @classmethod
    def create(cls, directory: Path | str) -> Project:
        """Create a project (and the directory). Raises InputError if there is one already or nothing can be written."""
        root = Path(directory).expanduser().resolve()
        if cls.is_project(root):
            raise InputError("project", "must not exist yet", root, "Open it instead.")
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _lock.locked(root, "makes the project"):
                (root / OWN).mkdir(exist_ok=True)
                (root / NODES).mkdir(exist_ok=True)
                (root / TRASH).mkdir(exist_ok=True)
                (root / MARKER).touch()
                write_graph(root, Graph())
        except OSError as error:
            raise InputError("project", "must be a writable directory", root, f"{error.strerror}.") from error
        return cls.open(root)

    @classmethod
    def open(cls, directory: Path | str) -> Project:
        """Open a project of this program, RELION or ccpem-pipeliner.

        A damaged graph is restored from the last good copy (see ``notes``). Raises InputError if there is no project.
        """
        root = Path(directory).expanduser().resolve()
        if not cls.is_project(root):
            raise InputError(
                "project", f"must hold a {GRAPH}", root, "Make one with `gaussianem project new`, or choose another."
            )
        project = cls(root, not os.access(root, os.W_OK))
        project.graph()
        return project

    @classmethod
    def find(cls, start: Path | str = ".") -> Project:
        """The project that holds ``start``, looking upward. Raises InputError if there is none."""
        here = Path(start).expanduser().resolve()
        for directory in (here, *here.parents):
            if cls.is_project(directory):
                return cls.open(directory)
        raise InputError(
            "project",
            "must be this directory or one above it",
            here,
            "Change to the project, name it with --project, or make one with `gaussianem project new`.",
        )

    # --- the graph -------------------------------------------------------------------------------------------------

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = (self.root / GRAPH).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def changed(self) -> bool:
        """True if the graph file is not the one read last (by one ``stat``)."""
        return self._stat() != self._stamp

    def graph(self) -> Graph:
        """The graph, read again only if the file changed. It must be changed through the project's methods alone.

        Raises InputError as :func:`load_graph`.
        """
        stamp = self._stat()  # before reading: what is written meanwhile is read at the next look
        if stamp is None or stamp != self._stamp:
            graph, note = load_graph(self.root, self.read_only)
            if note:
                self.notes.append(note)
            self._graph, self._stamp = graph, stamp
        return self._graph

    @contextlib.contextmanager
    def change(self, doing: str) -> Iterator[Graph]:
        """Hold the lock while the graph is changed; it is written at the end if it differs. ``doing`` is the lock's
        message.

        Raises LockHeld if another program keeps the lock, InputError if the project is read-only.
        """
        if self.read_only:
            raise InputError("project", "must be writable", self.root, "Ask its owner, or work on a copy.")
        with _lock.locked(self.root, doing):
            stamp = self._stat()
            graph, note = load_graph(self.root, False, locked=True)
            if note:
                self.notes.append(note)
            before = graph_text(graph)
            yield graph
            if graph_text(graph) != before:
                write_graph(self.root, graph)
                stamp = self._stat()  # nobody else writes while the lock is held
            self._graph, self._stamp = graph, stamp

    # --- the list --------------------------------------------------------------------------------------------------

    def jobs(self, details: int = 50) -> list[JobInfo]:
        """All jobs in order of number.

        The state of unfinished jobs is read from their directories; that of finished ones from the graph, and at most
        ``details`` of these per call, newest first, are read for times and reasons (which are cached).
        """
        graph = self.graph()
        there = _directories(self.root, {name.split("/", 1)[0] for name in graph.processes})
        rows = []
        for process in sorted(graph.processes.values(), key=lambda p: -p.number):
            missing = process.name not in there
            state = _state(process.status)
            known = self._finished.get(process.name)
            if self._open(process):
                status = self._look(process)
                self._finished.pop(process.name, None)
            elif not state.finished:
                status = foreign_status(self.root, process)
                self._finished.pop(process.name, None)
            elif known is not None and known[0] == process.status and not missing:
                status = known[1]
            elif details > 0 and not missing and job_type_of(process.type_label):
                details -= 1
                status = self._job(process).status()
                self._finished[process.name] = (process.status, status)
            else:
                status = Status(state, "its directory is gone" if missing else foreign_word(process))
            rows.append(_info(process, status, missing))
        return rows[::-1]

    def _open(self, process: Process) -> bool:
        """True for a job of ours that is unfinished, or Failed without the file that says so.

        Such a one is Lost, and may be heard of again: its host, or the disk between, was silent for a while.
        """
        if not job_type_of(process.type_label):
            return False
        failed = process.status == State.FAILED.value
        return not _state(process.status).finished or (
            failed and not os.path.exists(f"{self.root}/{process.name}{FAILURE}")
        )

    def _look(self, process: Process) -> Status:
        """State of an unfinished job of ours; a draft is read again only when its directory was written to."""
        try:
            stamp = os.stat(f"{self.root}/{process.name}").st_mtime_ns
        except (OSError, ValueError):
            stamp = 0
        known = self._drafts.get(process.name)
        if known is not None and known[0] == (stamp, process.status):
            return known[1]
        job = self._job(process)
        status = job.status()
        # A time just now may stay the same over the next change: clocks of file systems are coarse.
        quiet = abs(time.time_ns() - stamp) > _COARSE_NS
        if status.state is State.SCHEDULED and quiet and not job.record().get("requested"):
            self._drafts[process.name] = (stamp, process.status), status
        else:
            self._drafts.pop(process.name, None)
        return status

    def info(self, job: Job | str | int) -> JobInfo:
        """One row of the list, read again. Raises InputError if there is no such job."""
        found = self.job(job)
        process = member(self.graph(), found.name)
        status = found.status() if found.job_type else foreign_status(self.root, process)
        return _info(process, status, not found.exists())

    def job(self, key: Job | str | int) -> Job:
        """The job with a name ("Train/job003/"), number (3, "3", "job003") or alias. Raises InputError if there is
        none."""
        graph = self.graph()
        if isinstance(key, Job):
            key = key.name
        word = str(key).strip().rstrip("/")
        process = graph.find(word)
        if process is None and (match := re.fullmatch(r"(?:job)?(\d+)", word)):
            number = int(match.group(1))
            process = next((p for p in graph.processes.values() if p.number == number), None)
        if process is None:
            named = [p for p in graph.processes.values() if p.alias.rstrip("/").endswith("/" + word)]
            process = named[0] if len(named) == 1 else None
        if process is None:
            raise InputError("job", "must be in the project", key, "See `gaussianem job list` for names and aliases.")
        return self._job(process)

    def _job(self, process: Process) -> Job:
        return Job(self.root, process.name, process.type_label, process.status)

    # --- new jobs --------------------------------------------------------------------------------------------------

    def fill(self, job_type: str, jobs: Sequence[Job | str], values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Options for a form of ``job_type`` whose inputs come from ``jobs`` (nearest first); nothing is written."""
        self._known(job_type)
        names = [self.job(job).name for job in jobs]
        return _inputs.fill(self.graph(), job_type, names, values or {}, self._values_of())

    def _values_of(self) -> Mapping[str, Mapping[str, Any]]:
        return _LazyValues(self)

    def _known(self, job_type: str) -> None:
        if job_type not in JOB_OPTIONS:
            raise InputError("job type", "must be one of " + ", ".join(JOB_OPTIONS), job_type, "Choose one of them.")

    def new_job(
        self,
        job_type: str,
        values: Mapping[str, Any] | None = None,
        *,
        inputs_from: Sequence[Job | str] = (),
        alias: str = "",
        note: str = "",
    ) -> Job:
        """Create a Scheduled job: number, directory, options, edges. ``values`` take precedence over ``inputs_from``.

        Raises InputError for an unknown job type, option, job or alias, and LockHeld.
        """
        self._known(job_type)
        filled = self.fill(job_type, inputs_from, values) if inputs_from else dict(values or {})
        with self._new(f"adds a {job_type} job", job_type, folder_of(job_type), alias) as (graph, job):
            self._add(graph, job, filled, note)
            if inputs_from:  # filled again when those jobs are done, except for what the user gave
                names = [self.job(other).name for other in inputs_from]
                same = _inputs.fill(graph, job_type, names, {}, self._values_of())
                given = sorted(k for k, v in (values or {}).items() if same.get(k) != v)
                job.write_record(inputs_from=names, given=given)
        return job

    def bind(self, job: Job | str) -> None:
        """Fill the inputs of a waiting job again, now that the jobs before it are done; what the user gave stays.

        A file that was expected under another name than the one that was written is found by its kind.
        """
        found = self.job(job)
        if found.model is None:
            return
        record, values, graph = found.record(), found.values(), self.graph()
        names = [name for name in record.get("inputs_from") or () if graph.find(name)]
        filled = dict(values)
        if names:
            given = set(record.get("given") or ())
            filled = self.fill(found.job_type, names, {k: v for k, v in values.items() if k in given})
        maker = {node: process for process, node in graph.output_edges}
        for option, kind in _inputs.input_fields(found.model).items():
            path = _inputs.in_project(filled, str(filled.get(option) or "."))
            if path in maker and not (self.root / path).exists():
                filled[option] = _inputs.output_of(graph, maker[path], kind, self.root) or filled[option]
        news = {k: v for k, v in filled.items() if values.get(k) != v}
        if news:
            self.update(found, news)

    def _add(self, graph: Graph, job: Job, values: Mapping[str, Any], note: str) -> None:
        nodes = _inputs.input_nodes(self.root, job.job_type, values)
        job.write_options(values)
        job.write_record(version=1, created=time.time())
        if note:
            job.add_note(note)
        for node, label in nodes.items():
            graph.add_input(job.name, node, label)
        self._expect(graph, job, values)
        self._write_part(graph, job)

    @contextlib.contextmanager
    def _new(self, doing: str, job_type: str, title: str, alias: str) -> Iterator[tuple[Graph, Job]]:
        """Give out a number and make the directory; the graph in memory gets the job.

        If what follows fails, nothing of the job stays: neither its directory nor its alias.
        """
        job, made = None, None
        try:
            with self.change(doing) as graph:
                job = self._numbered(graph, job_type, title)
                if alias:
                    _, made = self._link_alias(graph, job, alias)
                yield graph, job
        except BaseException:
            if made is not None:
                made.unlink(missing_ok=True)
            if job is not None:
                shutil.rmtree(job.directory, ignore_errors=True)
            raise

    def _numbered(self, graph: Graph, job_type: str, title: str) -> Job:
        number = graph.counter
        folders = [e.name for e in os.scandir(self.root) if e.is_dir() and not e.name.startswith(".")]
        if TRASH in folders:
            folders += [f"{TRASH}/{e.name}" for e in os.scandir(self.root / TRASH) if e.is_dir()]
        while any((self.root / f / f"job{number:03d}").exists() for f in folders):
            number += 1  # a directory that a crash left without an entry: never use its number again
        name = f"{title}/job{number:03d}/"
        job = Job(self.root, name, LABEL + job_type)
        if (self.root / title).is_symlink():
            raise InputError("job", "must be a directory inside the project", title, "Remove that link.")
        made_folder(self.root, job.directory.parent)
        job.directory.mkdir()
        graph.processes[name] = Process(name, job.type_label, State.SCHEDULED.value, "")
        graph.counter = number + 1
        return job

    def _write_part(self, graph: Graph, job: Job) -> None:
        part = Graph()
        part.counter = graph.counter
        part.processes[job.name] = graph.processes[job.name]
        part.input_edges = {e: None for e in graph.input_edges if e[1] == job.name}
        part.output_edges = {e: None for e in graph.output_edges if e[0] == job.name}
        touched = [n for n, _ in part.input_edges] + [n for _, n in part.output_edges]
        part.nodes = {n: graph.nodes[n] for n in touched if n in graph.nodes}
        write_atomically(job.file(PIPELINE_STAR), graph_text(part).encode(errors="surrogateescape"))

    def clone(self, job: Job | str, changes: Mapping[str, Any] | None = None) -> Job:
        """A new Scheduled job with the options of ``job``, some changed. Raises InputError as :meth:`new_job`, and for
        another program's job."""
        old = self.job(job)
        if old.model is None:
            raise InputError("job", "must be one of GaussianEM's", old.name, "Clone it in the program that made it.")
        values = {k: v for k, v in old.values().items() if k != "job_dir"}
        if values.get("resume"):
            values["resume"] = False
        return self.new_job(old.job_type, {**values, **(changes or {})}, note=f"Cloned from {old.name}")

    def update(self, job: Job | str, values: Mapping[str, Any], *, again: bool = False) -> None:
        """Change options of a job that does not run, and its inputs in the graph.

        ``again``: it is to run again, so that its expected outputs are entered though it has ended. Raises InputError
        for a running job and unknown options.
        """
        found = self.job(job)
        found.check_directory()
        if found.status().state is State.RUNNING:
            raise InputError("job", "must not be running", found.name, "Abort it first, or clone it.")
        with found.options_undone(), self.change(f"changes {found.name}") as graph:
            member(graph, found.name)
            merged = {**found.values(), **values}
            nodes = _inputs.input_nodes(self.root, found.job_type, merged)
            found.write_options(merged)
            maker = {node: process for process, node in graph.output_edges}
            makers = {maker[node] for node in graph.inputs(found.name) if node in maker}
            graph.drop_inputs(found.name)
            for node, label in nodes.items():
                graph.add_input(found.name, node, label)
            for name in makers:  # files that were expected of a finished job, and that nobody waits for any more
                if name in graph.processes and _state(graph.processes[name].status).finished:
                    graph.drop_outputs(name, keep=lambda node: (self.root / node).exists())
            if again or not found.exit_state():
                self._expect(graph, found, merged)
            self._write_part(graph, found)

    def _expect(self, graph: Graph, job: Job, values: Mapping[str, Any]) -> None:
        """Enter the files that a job will write; those expected before and read by nobody are forgotten."""
        graph.drop_outputs(job.name, keep=lambda node: (self.root / node).is_file())
        for output, kind in _inputs.expected_outputs(job.job_type, values).items():
            if kind:
                graph.add_output(job.name, job.name + output, ARTIFACTS[kind])

    def record(
        self,
        title: str,
        write: Callable[[Path], Sequence[tuple[str, str]]],
        *,
        inputs: Sequence[str] = (),
        note: str = "",
        alias: str = "",
    ) -> Job:
        """Create a job that is finished at once, e.g. a selection or a mask made by eye.

        ``write`` gets the new directory, writes files there and returns their (name, kind); they become outputs.
        ``inputs`` are the project-relative files that they were made from.
        """
        kind, place = title.lower().replace(" ", ""), title.replace(" ", "")
        with self._new(f"adds a {title} job", kind, place, alias) as (graph, job):
            made = list(write(job.directory))
            for node in inputs:
                graph.add_input(job.name, node, ARTIFACTS.get(_inputs.guess_kind(node), "ProcessData"))
            for name, kind in made:
                graph.add_output(job.name, job.name + name, ARTIFACTS[kind])
            if note:
                job.add_note(note)
            job.touch(SUCCESS)
            graph.processes[job.name].status = State.SUCCEEDED.value
            self._write_part(graph, job)
        return job

    # --- relations -------------------------------------------------------------------------------------------------

    def choices(self, kind: str) -> list[Choice]:
        """Files that can fill an input whose ``hints()["produces"]`` is ``kind``; newest job first."""
        return _inputs.choices(self.graph(), kind)

    def input_jobs(self, job_type: str) -> list[JobInfo]:
        """Jobs that fill every required input of ``job_type`` (with the jobs before them): the newest 200."""
        self._known(job_type)
        graph = self.graph()
        names = _inputs.sources(graph, job_type)
        return [_info(graph.processes[name], Status(_state(graph.processes[name].status)), False) for name in names]

    def suggestions(self, job: Job | str) -> list[str]:
        """Job types that can follow ``job`` (see ``inputs.next_types``)."""
        return _inputs.next_types(self.graph(), self.job(job).name)

    def inputs(self, job: Job | str) -> list[str]:
        """Files that ``job`` reads, as the graph has them."""
        return self.graph().inputs(self.job(job).name)

    def outputs(self, job: Job | str) -> list[Choice]:
        """Files that ``job`` made, as the graph has them."""
        graph, name = self.graph(), self.job(job).name
        return [
            Choice(n, _inputs.kind_of(graph.nodes.get(n, "")), graph.nodes.get(n, ""), name)
            for n in graph.outputs(name)
        ]

    def parents(self, job: Job | str) -> list[str]:
        """Jobs whose files ``job`` reads."""
        return self.graph().links()[0].get(self.job(job).name, [])

    def children(self, job: Job | str) -> list[str]:
        """Jobs that read files of ``job``."""
        return self.graph().links()[1].get(self.job(job).name, [])

    def dependents(self, job: Job | str) -> list[str]:
        """All jobs that depend on ``job``, directly or through others, in order of number."""
        return dependents(self.graph(), self.job(job).name)

    # --- names, states ---------------------------------------------------------------------------------------------

    def set_alias(self, job: Job | str, alias: str) -> None:
        """Give a job a readable name (a link beside its directory); "" removes it. Raises InputError if forbidden."""
        found = self.job(job)
        found.check_directory()
        old, made = None, None
        try:
            with self.change(f"names {found.name}") as graph:
                old, made = self._link_alias(graph, found, alias)
        except BaseException:
            if made is not None:
                made.unlink(missing_ok=True)
            raise
        if old is not None and old != made:  # last: a crash before leaves a link too many, never one too few
            old.unlink(missing_ok=True)

    def _link_alias(self, graph: Graph, job: Job, alias: str) -> tuple[Path | None, Path | None]:
        """Make the link of a name, and enter it into ``graph``; the old link, still there, and the new one."""
        process = member(graph, job.name)
        place = job.name.split("/", 1)[0]
        clean = check_alias(graph, job.name, alias) if alias else ""
        old = self.root / process.alias.rstrip("/") if process.alias else None
        if old is not None and not (old.is_symlink() and not leads_out(self.root, old)):
            old = None
        made = inside(self.root, self.root / place / clean) if clean else None
        if made is not None and made != old:
            try:
                if made.is_symlink() and job_number(os.path.basename(os.readlink(made).rstrip("/"))):
                    made.unlink()  # of a name that no job has any more: a crash left it
                os.symlink(f"../{job.name}", made)
            except FileExistsError:
                rule = f"must not be the name of something that is there, in {place}"
                raise InputError("alias", rule, alias, "Choose another name.") from None
            except OSError as error:
                raise InputError("alias", "must be a name that the disk takes", alias, f"{error.strerror}.") from error
        process.alias = f"{place}/{clean}/" if clean else ""
        return old, made if made != old else None

    def mark(self, job: Job | str, state: State) -> None:
        """Set the state of a job that does not run by hand, as RELION's "mark as finished" does.

        Raises InputError for a running job and for a state other than Succeeded, Failed and Aborted.
        """
        found = self.job(job)
        found.check_directory()
        if state not in EXIT_FILES or found.status().state is State.RUNNING:
            raise InputError(
                "state", "must be Succeeded, Failed or Aborted, of a job that does not run", state, "Abort it first."
            )
        found.write_record(requested=None, waiting=None, scheduler_state=None, token=None)
        with self.change(f"marks {found.name}") as graph:
            member(graph, found.name).status = state.value
        # Last: where a full disk does not take the graph, the files still say how it ended.
        found.touch(EXIT_FILES[state])
        found.remove(*({SUCCESS, FAILURE, EXIT_FILES[State.ABORTED], ABORT} - {EXIT_FILES[state]}))
        self._finished.pop(found.name, None)

    def sync(self) -> bool:
        """Update the graph by the directories of this program's unfinished jobs: states, and outputs of finished ones.

        Returns whether anything changed.
        """
        graph = self.graph()
        news: list[str] = []
        for process in graph.processes.values():
            if not self._open(process):
                continue
            if graph_state(self._look(process).state) != process.status and not self._job(process).outside():
                news.append(process.name)
        if not news:
            return False
        with self.change("notes states") as graph:
            for name in news:
                if name in graph.processes:
                    job = self._job(graph.processes[name])
                    # One look for both: a job may end after it was seen to run, and is not looked at again.
                    state = job.status().state
                    graph.processes[name].status = graph_state(state)
                    with contextlib.suppress(OSError, InputError):  # a job that cannot be written to; the others can
                        if state.finished:
                            self.add_outputs(graph, job)
                        if job.exists():
                            self._write_part(graph, job)
        return True

    def add_outputs(self, graph: Graph, job: Job) -> None:
        """Enter a finished job's files into ``graph`` and ``.Nodes``; folders are no nodes in RELION.

        Expected files that do not exist are removed, unless another job names them as its input.
        """
        graph.drop_outputs(job.name, keep=lambda node: (self.root / node).is_file())
        for artifact in job.artifacts():
            path = self.root / artifact.path
            known = artifact.kind in ARTIFACTS and artifact.kind not in _inputs.FOLDER_KINDS
            if known and not artifact.path.startswith("..") and path.is_file():
                graph.add_output(job.name, artifact.path, ARTIFACTS[artifact.kind])
                node = self.root / NODES / ARTIFACTS[artifact.kind].split(".")[0] / artifact.path
                made_folder(self.root, node.parent)
                touch(node)

    def lock_holder(self) -> Holder | None:
        """Holder of the project's lock, or None."""
        return _lock.holder(self.root)

    def break_lock(self) -> str:
        """Remove the lock, whoever holds it; returns a clause on the holder, "" if it was free."""
        return _lock.break_lock(self.root)

    def disk(self) -> tuple[int, int]:
        """Free and total bytes of the project's file system."""
        usage = shutil.disk_usage(self.root)
        return usage.free, usage.total


def member(graph: Graph, name: str) -> Process:
    """The job ``name`` of ``graph``. Raises InputError if it is gone: another program may have deleted it meanwhile."""
    if name not in graph.processes:
        raise InputError("job", "must be in the project", name, "See `gaussianem job list` for names and aliases.")
    return graph.processes[name]


class _LazyValues(dict[str, Mapping[str, Any]]):
    """Options of jobs of ours, read when asked for."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            try:
                job = self._project.job(name)
                self[name] = {"job_type": job.job_type, **job.values()} if job.model is not None else {}
            except InputError:
                self[name] = {}
        return self[name]


def graph_state(state: State) -> str:
    """RELION's word for a state: it has no Lost."""
    return State.FAILED.value if state is State.LOST else state.value


def _state(label: str) -> State:
    try:
        return State(label)
    except ValueError:
        return State.FAILED


def foreign_status(root: Path, process: Process) -> Status:
    """State of another program's job: its exit file, else what the graph says."""
    state = _state(process.status)
    if state is State.RUNNING:
        for candidate, name in EXIT_FILES.items():
            word = "FAILED" if candidate is State.FAILED else name.rsplit("_", 1)[-1]
            if any(os.path.exists(f"{root}/{process.name}{f}") for f in (name, f"PIPELINER_JOB_EXIT_{word}")):
                return Status(candidate)
    return Status(state, foreign_word(process))


def foreign_word(process: Process) -> str:
    """A state that is not one of RELION's, as a clause; "" for one that is."""
    return "" if process.status in State._value2member_map_ else f"its program calls it {process.status}"


def _info(process: Process, status: Status, missing: bool) -> JobInfo:
    job_type = job_type_of(process.type_label)
    alias = process.alias.rstrip("/").rsplit("/", 1)[-1]
    model = JOB_OPTIONS.get(job_type)
    title = model.title if model is not None else process.name.split("/", 1)[0]
    return JobInfo(process.name, process.number, process.type_label, job_type, title, alias, status, missing)


def _directories(root: Path, folders: set[str]) -> set[str]:
    """Names of the job directories that are there: one listing per type."""
    found: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError, ValueError), os.scandir(root / folder) as entries:
            found.update(f"{folder}/{entry.name}/" for entry in entries if entry.name.startswith("job"))
    return found


def dependents(graph: Graph, name: str) -> list[str]:
    """All jobs that depend on ``name``, in order of number."""
    _, children = graph.links()
    found: list[str] = []
    level = [name]
    while level:
        level = [c for n in level for c in children.get(n, ()) if c not in found and c != name]
        level = list(dict.fromkeys(level))
        found += level
    return sorted(found, key=lambda n: graph.processes[n].number)


def check_alias(graph: Graph, name: str, alias: str) -> str:
    """The alias in RELION's form (blanks become ``_``). Raises InputError naming the rule that it breaks."""
    clean = re.sub(r"\s+", "_", alias.strip())
    folder = name.split("/", 1)[0]
    rule = ""
    if len(clean) < 2:
        rule = "must have at least 2 characters"
    elif clean.startswith("job"):
        rule = "must not start with job"
    elif clean[0] in ".-" or set(clean) & _ALIAS_FORBIDDEN:
        rule = "must not hold any of * ? ( ) / \" ' \\ | # < > & % { } $ ; ` nor begin with . or -"
    elif len(os.fsencode(clean)) > LONGEST_ALIAS or printable(clean) != clean:
        rule = f"must have at most {LONGEST_ALIAS} characters, all of them printable"
    elif any(p.alias.rstrip("/") == f"{folder}/{clean}" for p in graph.processes.values() if p.name != name):
        rule = f"must be unique among the {folder} jobs"
    if rule:
        raise InputError("alias", rule, alias, "Choose another name.")
    return clean


def recent_projects() -> list[Path]:
    """Projects that this user opened recently, newest first; those that no longer exist are left out."""
    try:
        with open_regular(_recent_file()) as file:
            lines = os.fsdecode(file.read(LARGEST_BYTES)).split("\n")
    except OSError:
        return []
    return [Path(line) for line in lines[:RECENT] if os.path.isabs(line) and Project.is_project(line)]


def remember_project(path: Path | str) -> None:
    """Put a project at the head of the list of recent ones."""
    new = str(Path(path).resolve())
    lines = [new, *(str(p) for p in recent_projects() if str(p) != new)][:RECENT]
    with contextlib.suppress(OSError):
        _recent_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_recent_file(), os.fsencode("\n".join(lines) + "\n"))


def _recent_file() -> Path:
    return config_folder() / "recent.txt"
