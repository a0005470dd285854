"""Starting, watching and stopping jobs on this machine and on a cluster.

Whoever wants a job to run leaves a wish (``request``): in the user's own folder what decides what is run, in the job's
directory what others may see of it. A background process, one per user, project and machine, starts what can start:
inputs done, GPUs free, not too many at once. It follows the running jobs, keeps the graph up to date, and ends when
there is nothing left to do. Jobs are sessions of their own: neither closing the desktop application nor killing the
runner touches them, and a new runner finds them by their files. What a project's files ask for is never started.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ABORT, ABORTED, EVENTS, FAILURE, HEARTBEAT, OPTIONS
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.interpreter import distrust_working_directory, python
from gaussianem_core.runtime.plain_files import append_regular
from gaussianem_core.runtime.processes import alive, identity
from gaussianem_gui.execution import cluster as _cluster
from gaussianem_gui.execution.cluster import ClusterSettings
from gaussianem_gui.execution.gpus import (
    VISIBLE,
    Gpu,
    Zombie,
    allowed,
    choosing,
    gpus,
    kill_zombie,
    processes_of,
    reserve,
    zombies,
)
from gaussianem_gui.execution.launch import claim
from gaussianem_gui.project import wishes
from gaussianem_gui.project.containment import inside, made_folder
from gaussianem_gui.project.job import EXIT, Job, State, is_waiting
from gaussianem_gui.project.lock import LockHeld
from gaussianem_gui.project.project import Project, _state, member
from gaussianem_gui.project.small_files import JobRecord
from gaussianem_gui.project.user_folders import machine_folder
from gaussianem_gui.project.wishes import Wish

TICK_SECONDS = 1.0
IDLE_TICKS = 5  # looks without anything to do before the background runner ends
CLUSTER_SECONDS = 10.0  # between two questions to a scheduler
ENGINE = "GAUSSIANEM_ENGINE"
KILL_SECONDS = 10.0  # from SIGTERM to SIGKILL

__all__ = [
    "Gpu",
    "Launch",
    "Zombie",
    "abort",
    "continue_job",
    "ensure_runner",
    "gpus",
    "kill_zombie",
    "request",
    "runner_alive",
    "unrequest",
    "wait",
    "zombies",
]


@dataclass(frozen=True)
class Launch:
    """How to run a job: ``local`` or ``cluster``, on how many GPUs (None: by the options), after which jobs."""

    where: str = "local"
    gpus: int | None = None
    after: tuple[str, ...] = ()
    cluster: ClusterSettings | None = None


# --- what is asked of a job -----------------------------------------------------------------------------------------


def engine_command(job: Job, processes: int = 1, engine: str = "", nodes: int = 1) -> list[str]:
    """The argument list that runs ``job`` from the project's root, with ``processes`` on each of ``nodes`` of Slurm;
    it is not passed to a shell unquoted.

    ``engine`` replaces the program, e.g. by "apptainer exec --nv image.sif gaussianem": it is the environment variable
    GAUSSIANEM_ENGINE of the session that asked for the run. Raises InputError for several nodes with an ``engine``.
    """
    name = job.name.rstrip("/")
    arguments = ["--options", f"{name}/{OPTIONS}", "--job_dir", name]
    if job.job_type == "import":
        return python("-m", "gaussianem_gui.project.import_job", *arguments)
    module = ["-m", "gaussianem_core", job.job_type, *arguments]
    if words := shlex.split(engine):
        if nodes > 1:
            raise InputError("option nodes", f"must be 1 with {ENGINE}", nodes, "Unset it, or train on one node.")
        several = ["--gpus", ",".join(map(str, range(processes)))] if processes > 1 else []
        return [*words, job.job_type, *arguments, *several]
    if nodes > 1:
        return _cluster.command_on_nodes(module, nodes, processes)
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        # Its workers are started without -P, on a node that may not know our environment.
        return ["env", "PYTHONSAFEPATH=1", *python(*launcher, *module)]
    return python(*module)


def request(project: Project, job: Job | str, launch: Launch | None = None) -> None:
    """Request that a job is run as soon as its inputs, and a GPU if it needs one, are available. Returns at once.

    Raises InputError for options that are already known to be wrong, for a job that runs or waits already, and where
    the cluster refuses the job.
    """
    launch = launch or Launch()
    found = project.job(job)
    if found.model is None:
        raise InputError("job", "must be one of GaussianEM's", found.name, "Run it in the program that made it.")
    found.check_directory()
    record = found.record()
    state = found.status().state
    mine = found.wish(record) is not None or found.submitting(record) or record.get("scheduler_id")
    if state is State.RUNNING or (state is State.SCHEDULED and record.get("requested") and mine):
        raise InputError("job", "must not be running or waiting", found.name, "Wait for it, or abort it.")
    found.options()  # says what is wrong before anything is changed
    settings = launch.cluster or (_cluster.load_settings(project.root) if launch.where == "cluster" else None)
    if settings is not None:
        if launch.cluster is None and (said := _cluster.settings_of_the_project(project.root)):
            raise InputError("cluster settings", "must be given by you", "those of the project alone", said)
        _cluster.check(settings, project.root)
    after = sorted({project.job(name).name for name in launch.after} | set(_unfinished_parents(project, found)))
    command = found.command()
    _let_it_end(found)
    # A run that is stopped between these two writes is asked for again: the number goes up, nothing starts twice.
    size = (found.directory / EVENTS).stat().st_size if (found.directory / EVENTS).exists() else 0
    run = record.get("run", 0) + 1
    taken = InputError("job", "must not be running or waiting", found.name, "Another program asks for it just now.")
    if found.record() != record:
        raise taken
    while found.claim_path(run).exists():
        if alive(found.claim({"run": run}).get("submitting", {})):
            raise taken
        run += 1  # of a request that was killed before it was noted
    wish = Wish(
        project=str(project.root),
        job=found.name,
        run=run,
        where="cluster" if launch.where == "cluster" else "local",
        host=str(identity()["host"]) if launch.where != "cluster" else "",
        after=tuple(after),
        # Of the session that asks, not of the one that happened to start the runner.
        engine=os.environ.get(ENGINE, ""),
        visible=os.environ.get(VISIBLE),
        gpus_wanted=launch.gpus,
        cluster=settings.model_dump() if settings is not None else None,
        template=_cluster.template_text(settings, project.root) if settings is not None else "",
    )
    now = wish.where == "cluster" and not _not_ready(project, found, wish)
    # What a full disk does not take must fail before anything of the last run is removed.
    found.add_note(f"with the following command:\n{shlex.join(command)}")
    found.write_record(asked_by=f"{_user_name()} on {identity()['host']}")
    wishes.keep(wish)
    try:
        # Before the run is noted, so that no runner submits it too.
        if now and not claim(found.file(found.claim_path(run).name), {"submitting": identity()}):
            raise taken
        _note_wish(found, wish, size)
    except BaseException:
        wishes.forget(wish)
        raise
    if _state(member(project.graph(), found.name).status).finished:
        with project.change(f"schedules {found.name}") as graph:
            member(graph, found.name).status = State.SCHEDULED.value
    if now:
        try:
            _submit(project, found, wish)
        except InputError:
            found.write_record(requested=None, token=None)
            wishes.forget(wish)
            raise
    ensure_runner(project)


def _note_wish(job: Job, wish: Wish, events_from: int) -> None:
    """What others may see of a wish, in the job's directory; what an earlier run left there goes."""
    job.clear_control_files()
    job.write_record(
        run=wish.run,
        token=wish.token,
        requested=wish.requested,
        where=wish.where,
        host=wish.host or None,
        gpus=None,
        events_from=events_from,
        waiting=None,
        scheduler=None,
        scheduler_id=None,
        scheduler_state=None,
        scheduler_note=None,
        scheduler_gone_at=None,
        started_at=None,
        abort_at=None,
    )


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        return f"user {os.getuid()}"


def _let_it_end(job: Job, seconds: float = 10.0) -> None:
    """Wait until the processes of a run that is over are gone: they write their last files when they end.

    Raises InputError if they stay.
    """
    deadline = time.monotonic() + seconds
    while any(alive(who) for who in job.processes()):
        if time.monotonic() > deadline:
            raise InputError("job", "must not be running", job.name, "Its last process still lives: abort or end it.")
        time.sleep(0.05)


def _unfinished_parents(project: Project, job: Job) -> list[str]:
    before = [name for name in job.record().get("inputs_from") or () if project.graph().find(name)]
    before += project.parents(job)
    return [n for n in dict.fromkeys(before) if _state(project.graph().processes[n].status) is not State.SUCCEEDED]


def unrequest(project: Project, job: Job | str) -> None:
    """Withdraw the request for a waiting job, which stays Scheduled. Nothing happens if it does not wait."""
    found = project.job(job)
    record = found.record()
    if is_waiting(found, record) and _keep_from_starting(found):
        _take_back(found, record)


def _take_back(job: Job, record: JobRecord) -> None:
    wish = job.wish(record)
    job.write_record(requested=None, waiting=None, token=None)
    if wish is not None:
        wishes.forget(wish)


def _keep_from_starting(job: Job) -> bool:
    """Take the claim of a run that waits, so that no runner can start it; False if it has begun."""
    return claim(job.file(job.claim_path(job.record().get("run", 0)).name), {"withdrawn": time.time()})


def continue_job(
    project: Project, job: Job | str, changes: Mapping[str, Any] | None = None, launch: Launch | None = None
) -> None:
    """Run a finished job again in its directory: a training resumes from its last checkpoint, others start over.

    ``changes`` are options to change first, e.g. more epochs. Raises InputError as ``request``.
    """
    found = project.job(job)
    if found.model is None:
        raise InputError("job", "must be one of GaussianEM's", found.name, "Run it in the program that made it.")
    if found.status().state is State.RUNNING:
        raise InputError("job", "must not be running", found.name, "Wait for it, or abort it.")
    began = (found.directory / EVENTS).exists()
    resume = {"resume": True} if "resume" in found.model.model_fields and began else {}
    over = {} if resume else {"overwrite": True}
    project.update(found, {**(changes or {}), **resume, **over}, again=True)
    found.write_options(found.values(), is_continue=True)
    request(project, found, launch)


def abort(
    project: Project,
    job: Job | str,
    *,
    grace_seconds: float = 20.0,
    wait: bool = False,
) -> None:
    """Stop a job: first by the abort file, which it obeys at a safe point; after ``grace_seconds`` by SIGTERM, and
    KILL_SECONDS later by SIGKILL.

    Only processes that this program started are signalled. Returns at once (the runner continues) unless ``wait``. A
    waiting job is withdrawn and marked aborted. Raises InputError if the job neither runs nor waits, or was submitted
    to a cluster by someone else.
    """
    found = project.job(job)
    found.check_directory()
    record = found.record()
    status = found.status()
    if status.state.finished or not (record.get("requested") or status.state is State.RUNNING):
        rule = "must be running or waiting"
        raise InputError("job", rule, f"{found.name}, {status.state}", "There is nothing to stop.")
    if is_waiting(found, record) and _keep_from_starting(found):
        _take_back(found, record)
        found.touch(ABORTED)
        project.sync()
        return
    wish = found.wish(record)
    mine = wish is not None and bool(wish.scheduler_id)
    if record.get("scheduler_id") and not mine and status.state is State.SCHEDULED:
        rule = "must have been submitted by you from here to be cancelled"
        which = f"{found.name}, {status.detail}"
        raise InputError("job", rule, which, "If it is yours, cancel it with the scheduler's own command.")
    found.touch(ABORT)
    found.write_record(abort_at=time.time(), grace_seconds=grace_seconds)
    if wish is not None and mine:
        _cluster.cancel(wish)
    if not wait:
        ensure_runner(project)
        return
    looks = 0
    while not found.status().state.finished:
        press_abort(found)
        if wish is not None and mine and looks % 10 == 0:
            _cluster.refresh([(found, wish)])
        looks += 1
        time.sleep(0.2)
    project.sync()


def press_abort(job: Job) -> None:
    """Continue an abort that was requested: signals after the grace time, an exit file when all processes have ended.

    Raises InputError where a process that the job's files name still runs and was not started by this program.
    """
    record = job.record()
    asked = record.get("abort_at")
    if not asked or job.exit_state() is not None or is_waiting(job, record):
        return
    members = processes_of(job.directory).get(str(job.directory), [])
    waited = abs(time.time() - asked)  # a clock that jumped back must not wait for ever
    grace = record.get("grace_seconds", 20.0)
    number = signal.SIGKILL if waited > grace + KILL_SECONDS else signal.SIGTERM if waited > grace else None
    for process in members if number is not None else ():
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)  # psutil checks that the number was not given to another process
    here = [alive(who) for who in job.processes()]
    known = record.get("scheduler_id") or job.submitting(record)
    if not members and not any(here) and None not in here and not known:
        job.touch(ABORTED)
        job.remove(ABORT, HEARTBEAT)
        job.write_record(abort_at=None)
    elif number is signal.SIGKILL and not members and any(here) and not known:
        which = ", ".join(str(who["pid"]) for who, lives in zip(job.processes(), here) if lives)
        job.write_record(abort_at=None)
        raise InputError(
            "job",
            "must run in processes that this program started",
            f"{job.name}, process {which} of this machine",
            f"End that process by hand if it is the job's; if it is not, remove {job.path(HEARTBEAT)}.",
        )


def wait(project: Project, job: Job | str, timeout_seconds: float | None = None, poll_seconds: float = 0.3) -> State:
    """Wait until a job is finished; returns its state.

    Raises TimeoutError after ``timeout_seconds``, and InputError for a job that nobody asked to run.
    """
    found = project.job(job)
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        status = found.status()
        if status.state.finished:
            project.sync()
            return status.state
        if status.state is State.SCHEDULED:
            check_asked(found)
        if end is not None and time.monotonic() > end:
            raise TimeoutError(f"{found.name} is {status.state} after {timeout_seconds:g} s")
        if not runner_alive(project):
            ensure_runner(project)
        time.sleep(poll_seconds)


def check_asked(job: Job) -> None:
    """Raise InputError for a draft: a Scheduled job that nobody asked to run."""
    record, status = job.record(), job.status()
    if job.model is not None and not record.get("requested") and status.state is State.SCHEDULED:
        which = f"{job.name}, {status.detail}" if status.detail else job.name
        raise InputError("job", "must have been asked to run", which, "Use `gaussianem job run` first.")


# --- starting ---------------------------------------------------------------------------------------------------


def _not_ready(project: Project, job: Job, wish: Wish) -> str:
    """Why a waiting job cannot start yet, "" if it can. A job it needs that failed makes it fail."""
    for name in wish.after:
        process = project.graph().find(name)
        if process is None:
            return f"needs {name}, which was deleted"
        other = project.job(name)
        state = other.status().state if other.job_type else _state(process.status)
        if state is State.SUCCEEDED and _state(process.status) is State.SUCCEEDED:
            continue
        if state.finished and state is not State.SUCCEEDED:
            return f"!{name} {'was stopped' if state is State.ABORTED else 'did not succeed'}"
        return f"waits for {name}"
    return ""


def wanted_gpus(job: Job, asked: int | None, present: int) -> tuple[int, list[int]]:
    """Number of GPUs that a job needs (0 on the CPU), and their numbers if its options name them, else [].

    ``asked`` is the number given with the request; ``present`` that of usable GPUs. Raises InputError for options that
    are wrong.
    """
    values = job.options().model_dump()
    named = [int(word) for word in str(values.get("gpus") or "").split(",") if word]
    if job.job_type == "import" or values.get("device") == "cpu":
        return 0, []
    if named:
        return len(named), named
    if asked is not None:
        return asked, []
    return (1 if values.get("device") == "cuda" or present else 0), []


def submit(project: Project, job: Job, wish: Wish) -> None:
    """Submit a waiting job to the cluster's scheduler and note its id, unless another program is submitting it.

    Raises InputError with the scheduler's message.
    """
    if claim(job.file(job.claim_path(wish.run).name), {"submitting": identity()}):
        _submit(project, job, wish)


def _submit(project: Project, job: Job, wish: Wish) -> None:
    """The same for a run that this process has claimed; the claim is given back if the scheduler refuses."""
    try:
        project.bind(job)
        settings = ClusterSettings(**(wish.cluster or {}))
        count = max(1, settings.gpus) if job.job_type == "train" else 1
        nodes = settings.nodes if _cluster.on_all_nodes(settings, job) else 1
        identifier = _cluster.submit(settings, job, engine_command(job, count, wish.engine, nodes), wish.template)
    except BaseException:
        job.remove(job.claim_path(wish.run).name)
        raise
    wish = wish.model_copy(update={"scheduler": settings.preset, "scheduler_id": identifier})
    wishes.keep(wish)
    job.write_record(
        scheduler_id=identifier, scheduler=settings.preset, scheduler_state="pending", submitted_at=time.time()
    )
    if job.record().get("abort_at"):  # asked for meanwhile
        _cluster.cancel(wish)


def start_local(project: Project, job: Job, wish: Wish, indices: list[int]) -> None:
    """Start a waiting job on this machine with these GPUs. Raises InputError for a job whose directory is gone."""
    project.bind(job)
    job.check_directory()
    job.write_record(gpus=indices, started_at=time.time(), waiting=None)
    command = engine_command(job, 1, wish.engine)
    values = job.values()
    if len(indices) > 1 and not values.get("gpus") and "gpus" in values:
        command += ["--gpus", ",".join(str(i) for i in range(len(indices)))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if indices:
        environment[VISIBLE] = ",".join(str(i) for i in indices)
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's numbers, which are ours
    words = ["-m", "gaussianem_gui.execution.launch", str(project.root), job.name, str(wish.run), "--", *command]
    _children.append((job.directory, _detach(python(*words), project.root, environment, subprocess.DEVNULL)))


_children: list[tuple[Path, threading.Thread]] = []


def _detach(command: list[str], cwd: Path, environment: Mapping[str, str] | None, output: Any) -> threading.Thread:
    """Start a program as a session of its own, so that it outlives this one; a thread collects it if it ends first."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    thread = threading.Thread(target=process.wait, daemon=True, name=f"waits for {process.pid}")
    thread.start()
    return thread


class Runner:
    """Starts and follows the requested jobs of a project. ``max_jobs``: jobs without a GPU that run at once."""

    def __init__(self, project: Project, max_jobs: int | None = None) -> None:
        self.project = project
        self.max_jobs = max_jobs or max(2, (os.cpu_count() or 2) // 4)
        self._asked_cluster = -CLUSTER_SECONDS

    def tick(self) -> bool:
        """Start the jobs that can start and update the others; False if no job runs or waits."""
        _children[:] = [child for child in _children if child[1].is_alive()]
        asked = [(job, _cluster.with_found_id(job, wish)) for job, wish in asked_here(self.project)]
        here = identity()["host"]
        self._look_at_cluster([(job, wish) for job, wish in asked if wish.scheduler_id])
        for job, _ in asked:
            with _told(job.name):
                press_abort(job)
        with _told("states"):
            self.project.sync()
        running = [job for job, _ in asked if job.status().state is State.RUNNING or self._starting(job)]
        waiting = [(job, wish) for job, wish in asked if job not in running and is_waiting(job, job.record())]
        for job, wish in waiting:
            if wish.where == "local" and wish.host != here:
                continue  # the runner of that machine starts it
            with _told(job.name):
                try:
                    if self._start(job, wish, running):
                        running.append(job)
                except LockHeld:  # says nothing of the job: try again
                    continue
                except InputError as error:
                    self._fail(job, str(error))
        return bool(running or waiting or asked_here(self.project))

    @staticmethod
    def _starting(job: Job) -> bool:
        """True while a process that we started has not made its claim yet."""
        return any(directory == job.directory and thread.is_alive() for directory, thread in _children)

    def _start(self, job: Job, wish: Wish, running: list[Job]) -> bool:
        why = _not_ready(self.project, job, wish)
        if why.startswith("!"):
            job.write_record(requested=None, token=None, waiting=f"not started: {why[1:]}")
            wishes.forget(wish)
            return False
        if not why and wish.where == "cluster":
            submit(self.project, job, wish)
            return False
        with choosing():
            indices: list[int] = []
            if not why:
                indices, why = self._choose(job, wish, running)
            if why:
                if job.record().get("waiting") != why:
                    job.write_record(waiting=why)
                return False
            reserve(job, wish.run, indices)
        start_local(self.project, job, wish, indices)
        return True

    def _choose(self, job: Job, wish: Wish, running: list[Job]) -> tuple[list[int], str]:
        """GPUs for a job, or why it must wait. Raises InputError for GPUs that this machine does not have."""
        cards = gpus()
        usable = allowed(cards, wish.visible)
        count, named = wanted_gpus(job, wish.gpus_wanted, len(usable))
        if not count:
            busy = sum(1 for j in running if not j.record().get("gpus") and not j.record().get("scheduler_id"))
            if job.job_type != "import" and busy >= self.max_jobs:
                return [], f"waits for one of {busy} running jobs to end"
            return [], ""
        present = [card.index for card in cards]
        # A runner that was killed before the start has left a reservation for the job itself.
        mine = ("", str(job.directory))
        free = [card.index for card in sorted(cards, key=lambda c: c.memory_used) if card.job in mine]
        usable = named or usable
        if any(i not in present for i in named) or count > len(usable):
            raise InputError(
                "option gpus",
                f"must be among the {len((named and present) or usable)} GPUs of this machine",
                named or count,
                "Choose fewer or others, set device to cpu, or submit it to a cluster.",
            )
        chosen = named if all(i in free for i in named) and named else [i for i in free if i in usable][:count]
        if len(chosen) < count or (named and chosen != named):
            return [], f"waits for {count} free GPU{'s' if count > 1 else ''}"
        return chosen, ""

    def _fail(self, job: Job, reason: str) -> None:
        record = job.record()
        _take_back(job, record)
        write_atomically(job.file(EXIT), json.dumps({"run": record.get("run"), "reason": reason, "code": 1}))
        job.touch(FAILURE)
        self.project.sync()

    def _look_at_cluster(self, submitted: list[tuple[Job, Wish]]) -> None:
        if submitted and time.monotonic() - self._asked_cluster >= CLUSTER_SECONDS:
            self._asked_cluster = time.monotonic()
            _cluster.refresh(submitted)


def asked_here(project: Project) -> list[tuple[Job, Wish]]:
    """Unfinished jobs that this user asked to run, with the wish for each; the oldest wish first.

    Wishes whose run is over, or was replaced by another, are removed. Runs that only the project's files ask for are
    not among them.
    """
    found = []
    for wish in wishes.of_project(project.root):
        process = project.graph().processes.get(wish.job)
        if process is None:
            continue  # deleted, and perhaps restored some day
        job = project.job(wish.job)
        record = job.record()
        if not wish.matches(record):
            if record.get("run", 0) >= wish.run:  # otherwise it is being asked for just now
                wishes.forget(wish)
        elif not _state(process.status).finished:
            found.append((job, wish))
        elif wish.host in ("", identity()["host"]) and job.status().state.finished:
            wishes.forget(wish)
    return found


# --- the background process -----------------------------------------------------------------------------------------


def _lock_path(project: Project) -> Path:
    name = hashlib.sha256(str(project.root).encode()).hexdigest()[:16]
    return machine_folder() / f"runner-{name}.lock"


@contextlib.contextmanager
def _only_one(project: Project) -> Iterator[bool]:
    """Hold the runner's lock of this project on this machine; False if another process holds it."""
    with open(_lock_path(project), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def runner_alive(project: Project) -> bool:
    """True if a background runner of this user for this project is running on this machine."""
    with _only_one(project) as free:
        return not free


def ensure_runner(project: Project) -> None:
    """Start the background runner if a job that this user asked for waits or runs, and no runner does."""
    if project.read_only or not asked_here(project) or runner_alive(project):
        return
    log = made_folder(project.root, project.root / ".gaussianem") / "runner.log"
    with open(append_regular(inside(project.root, log)), "ab") as out:
        command = python("-m", "gaussianem_gui.execution.runner", "--project", str(project.root))
        _detach(command, project.root, None, out)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What goes wrong with one job is told in the log, and the others are looked after."""
    try:
        yield
    except (InputError, OSError) as error:
        _tell(f"{what}: {error}")


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the log may lie on a disk that is full
        print(f"{time.strftime('%F %T')} {text}", file=sys.stderr, flush=True)


def serve(project: Project, tick_seconds: float = TICK_SECONDS, stop: Callable[[], bool] = lambda: False) -> bool:
    """Run the jobs of a project until none is left. False if another runner does so already.

    ``stop``: checked before each look, to end earlier.
    """
    while True:
        with _only_one(project) as first:
            if not first:
                return False
            runner = Runner(project)
            idle = 0
            while idle < IDLE_TICKS and not stop():
                began = time.monotonic()
                with contextlib.suppress(OSError):  # kept young: old files of /tmp are swept away
                    os.utime(_lock_path(project))
                try:
                    idle = 0 if runner.tick() else idle + 1
                except (InputError, OSError) as error:  # a lock that is held, a disk that is full: try again
                    _tell(str(error))
                    idle += 1
                time.sleep(max(tick_seconds, 4 * (time.monotonic() - began)))  # thousands of jobs: a fifth of a core
        # A job asked for while this runner was ending found it still there: look once more.
        if stop() or (idle >= IDLE_TICKS and not asked_here(project)):
            return True


def main(argv: list[str] | None = None) -> int:
    """Entry point of the background process."""
    parser = argparse.ArgumentParser(prog="python -m gaussianem_gui.execution.runner", description=__doc__)
    parser.add_argument("--project", default=".", help="directory of the project")
    distrust_working_directory()
    serve(Project.open(parser.parse_args(argv).project))
    return 0


if __name__ == "__main__":
    sys.exit(main())
