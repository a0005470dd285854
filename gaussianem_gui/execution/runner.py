"""Starting, watching and stopping jobs on this machine and on a cluster.

Whoever wants a job to run writes that wish into the job's directory (``request``). A background process, one per
project and machine, starts what can start: inputs done, GPUs free, not too many at once. It follows the running jobs,
keeps the graph up to date, and ends when there is nothing left to do. Jobs are sessions of their own: neither closing
the desktop application nor killing the runner touches them, and a new runner finds them by their files.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
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
from gaussianem_gui.execution.gpus import state_folder as _state_folder
from gaussianem_gui.execution.launch import claim
from gaussianem_gui.project.job import EXIT, Job, State, is_waiting, read_json
from gaussianem_gui.project.lock import LockHeld
from gaussianem_gui.project.project import Project, _state

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
    """How to run a job: here or on a cluster, on how many GPUs (None: what the options say), after which jobs."""

    where: str = "local"
    gpus: int | None = None
    after: tuple[str, ...] = ()
    cluster: ClusterSettings | None = None


# --- what is asked of a job -----------------------------------------------------------------------------------------


def engine_command(job: Job, processes: int = 1) -> list[str]:
    """The argument list that runs ``job`` from the project's root; never handed to a shell as it is.

    The environment variable GAUSSIANEM_ENGINE replaces the program, e.g. by "apptainer exec --nv image.sif gaussianem";
    what it was where the run was asked for counts.
    """
    name = job.name.rstrip("/")
    arguments = ["--options", f"{name}/{OPTIONS}", "--job_dir", name]
    if job.job_type == "import":
        return [sys.executable, "-m", "gaussianem_gui.project.import_job", *arguments]
    module = ["-m", "gaussianem_core", job.job_type, *arguments]
    if engine := shlex.split(str(job.record().get("engine", os.environ.get(ENGINE, "")))):
        several = ["--gpus", ",".join(map(str, range(processes)))] if processes > 1 else []
        return [*engine, job.job_type, *arguments, *several]
    if processes > 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *module]
    return [sys.executable, *module]


def request(project: Project, job: Job | str, launch: Launch | None = None) -> None:
    """Run a job as soon as its inputs, and a GPU if it wants one, are there. Returns at once.

    Raises InputError for options that are wrong now and can be told now, for a job that runs already, and for a
    cluster's answer that it does not take the job.
    """
    launch = launch or Launch()
    found = project.job(job)
    if found.model is None:
        raise InputError("job", "must be one of GaussianEM's", found.name, "Run it in the program that made it.")
    found.check_directory()
    record = found.record()
    state = found.status().state
    if state is State.RUNNING or (state is State.SCHEDULED and record.get("requested")):
        raise InputError("job", "must not be running or waiting", found.name, "Wait for it, or abort it.")
    found.options()  # says what is wrong before anything is changed
    settings = launch.cluster or (_cluster.load_settings(project.root) if launch.where == "cluster" else None)
    if settings is not None:
        _cluster.check(settings, project.root)
    after = sorted({project.job(name).name for name in launch.after} | set(_unfinished_parents(project, found)))
    command = found.command()
    _let_it_end(found)
    # A run that is stopped between these two writes is asked for again: the number goes up, nothing starts twice.
    size = (found.directory / EVENTS).stat().st_size if (found.directory / EVENTS).exists() else 0
    run = int(record.get("run", 0)) + 1
    taken = InputError("job", "must not be running or waiting", found.name, "Another program asks for it just now.")
    if found.record() != record:
        raise taken
    while found.claim_path(run).exists():
        if alive(read_json(found.claim_path(run)).get("submitting", {})):
            raise taken
        run += 1  # of a request that was killed before it was noted
    now = launch.where == "cluster" and not _not_ready(project, found, {"after": after})
    # Before the wish is noted, so that no runner submits it too.
    if now and not claim(found.claim_path(run), {"submitting": identity()}):
        raise taken
    found.clear_control_files()
    found.write_record(
        run=run,
        requested=time.time(),
        after=after,
        where=launch.where,
        # Of the session that asks, not of the one that happened to start the runner.
        engine=os.environ.get(ENGINE, ""),
        visible=os.environ.get(VISIBLE),
        host=identity()["host"] if launch.where == "local" else None,
        gpus_wanted=launch.gpus,
        gpus=None,
        events_from=size,
        waiting=None,
        scheduler=None,
        scheduler_id=None,
        scheduler_state=None,
        scheduler_note=None,
        cluster=settings.model_dump() if settings is not None else None,
        started_at=None,
        abort_at=None,
    )
    found.add_note(f"with the following command:\n{shlex.join(command)}")
    if _state(project.graph().processes[found.name].status).finished:
        with project.change(f"schedules {found.name}") as graph:
            graph.processes[found.name].status = State.SCHEDULED.value
    if now:
        try:
            _submit(project, found)
        except InputError:
            found.write_record(requested=None)
            raise
    ensure_runner(project)


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
    """Take a job that waits out of the queue again; it stays Scheduled. Nothing happens if it does not wait."""
    found = project.job(job)
    if is_waiting(found, found.record()) and _keep_from_starting(found):
        found.write_record(requested=None, waiting=None)


def _keep_from_starting(job: Job) -> bool:
    """Take the claim of a run that waits, so that no runner can start it; False if it has begun."""
    return claim(job.claim_path(int(job.record().get("run", 0))), {"withdrawn": time.time()})


def continue_job(
    project: Project, job: Job | str, changes: Mapping[str, Any] | None = None, launch: Launch | None = None
) -> None:
    """Run a finished job again in its directory: a training goes on from its last checkpoint, others do over.

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
    """Stop a job: first the abort file, which it obeys at a safe point; then SIGTERM, then SIGKILL to its processes.

    Only processes that this program started are signalled. Returns at once (the runner goes on with it) unless
    ``wait``. A job that waits is taken out of the queue and marked aborted. InputError if it is not running.
    """
    found = project.job(job)
    found.check_directory()
    record = found.record()
    status = found.status()
    if status.state.finished or not (record.get("requested") or status.state is State.RUNNING):
        rule = "must be running or waiting"
        raise InputError("job", rule, f"{found.name}, {status.state}", "There is nothing to stop.")
    if is_waiting(found, record) and _keep_from_starting(found):
        found.write_record(requested=None, waiting=None)
        (found.directory / ABORTED).touch()
        project.sync()
        return
    (found.directory / ABORT).touch()
    found.write_record(abort_at=time.time(), grace_seconds=grace_seconds)
    if record.get("scheduler_id"):
        _cluster.cancel(found)
    if not wait:
        ensure_runner(project)
        return
    looks = 0
    while not found.status().state.finished:
        press_abort(found)
        if record.get("scheduler_id") and looks % 10 == 0:
            _cluster.refresh([found])
        looks += 1
        time.sleep(0.2)
    project.sync()


def press_abort(job: Job) -> None:
    """Go on with an abort that was asked for: signals after the time of grace, an exit file when all is over."""
    record = job.record()
    asked = record.get("abort_at")
    if not asked or job.exit_state() is not None or is_waiting(job, record):
        return
    members = processes_of(job.directory).get(str(job.directory), [])
    waited = abs(time.time() - asked)  # a clock that jumped back must not wait for ever
    grace = float(record.get("grace_seconds", 20.0))
    number = signal.SIGKILL if waited > grace + KILL_SECONDS else signal.SIGTERM if waited > grace else None
    if number is not None:
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)  # psutil checks that the number was not given to another process
    here = [alive(who) for who in job.processes()]
    known = record.get("scheduler_id") or job.submitting(record)
    if not members and not any(here) and None not in here and not known:
        (job.directory / ABORTED).touch()
        (job.directory / ABORT).unlink(missing_ok=True)
        (job.directory / HEARTBEAT).unlink(missing_ok=True)
        job.write_record(abort_at=None)


def wait(project: Project, job: Job | str, timeout_seconds: float | None = None, poll_seconds: float = 0.3) -> State:
    """Wait until a job is finished; its state. Raises TimeoutError, and InputError for a job nobody asked to run."""
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
    """Raise InputError for a draft, which nobody asked to run: there is nothing to wait for."""
    record, status = job.record(), job.status()
    if job.model is not None and not record.get("requested") and status.state is State.SCHEDULED:
        which = f"{job.name}, {status.detail}" if status.detail else job.name
        raise InputError("job", "must have been asked to run", which, "Use `gaussianem job run` first.")


# --- starting ---------------------------------------------------------------------------------------------------


def _not_ready(project: Project, job: Job, record: Mapping[str, Any]) -> str:
    """Why a waiting job cannot start yet, "" if it can. A job it needs that failed makes it fail."""
    for name in record.get("after") or ():
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


def wanted_gpus(job: Job, record: Mapping[str, Any], present: int) -> tuple[int, list[int]]:
    """How many GPUs a job wants, and which if its options name them. 0 where it computes on the CPU."""
    values = job.values()
    named = [int(word) for word in str(values.get("gpus") or "").split(",") if word]
    if job.job_type == "import" or values.get("device") == "cpu":
        return 0, []
    if named:
        return len(named), named
    asked = record.get("gpus_wanted")
    if asked is not None:
        return int(asked), []
    return (1 if values.get("device") == "cuda" or present else 0), []


def submit(project: Project, job: Job) -> None:
    """Hand a waiting job to the cluster's scheduler, unless another program does so already.

    Its id is kept. Raises InputError with the scheduler's own words.
    """
    if claim(job.claim_path(int(job.record()["run"])), {"submitting": identity()}):
        _submit(project, job)


def _submit(project: Project, job: Job) -> None:
    """The same for a run that this process has claimed; the claim is given back if the scheduler refuses."""
    record = job.record()
    try:
        project.bind(job)
        settings = ClusterSettings(**record["cluster"])
        count = max(1, settings.gpus) if job.job_type == "train" else 1
        identifier = _cluster.submit(settings, job, engine_command(job, count), project.root)
    except BaseException:
        job.claim_path(int(record["run"])).unlink(missing_ok=True)
        raise
    job.write_record(
        scheduler_id=identifier, scheduler=settings.preset, scheduler_state="pending", submitted_at=time.time()
    )
    if job.record().get("abort_at"):  # asked for meanwhile
        _cluster.cancel(job)


def start_local(project: Project, job: Job, indices: list[int]) -> None:
    """Start a waiting job on this machine with these GPUs."""
    project.bind(job)
    run = int(job.record()["run"])
    job.write_record(gpus=indices, started_at=time.time(), waiting=None)
    command = engine_command(job)
    values = job.values()
    if len(indices) > 1 and not values.get("gpus") and "gpus" in values:
        command += ["--gpus", ",".join(str(i) for i in range(len(indices)))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if indices:
        environment[VISIBLE] = ",".join(str(i) for i in indices)
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's numbers, which are ours
    above = [
        sys.executable,
        "-m",
        "gaussianem_gui.execution.launch",
        str(project.root),
        job.name,
        str(run),
        "--",
        *command,
    ]
    _children.append((job.directory, _detach(above, project.root, environment, subprocess.DEVNULL)))


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
    """One look after another at what waits and what runs. ``max_jobs``: how many at once that use no GPU."""

    def __init__(self, project: Project, max_jobs: int | None = None) -> None:
        self.project = project
        self.max_jobs = max_jobs or max(2, (os.cpu_count() or 2) // 4)
        self._asked_cluster = -CLUSTER_SECONDS

    def tick(self) -> bool:
        """Start what can start, look after the rest; False if there was nothing that runs or waits."""
        _children[:] = [child for child in _children if child[1].is_alive()]
        jobs = self.project.asked()
        here = identity()["host"]
        for job in jobs:
            _cluster.adopt(job)
        self._look_at_cluster([job for job in jobs if job.record().get("scheduler_id")])
        for job in jobs:
            press_abort(job)
        self.project.sync()
        running = [j for j in jobs if j.status().state is State.RUNNING or self._starting(j)]
        waiting = [j for j in jobs if j not in running and is_waiting(j, j.record())]
        for job in sorted(waiting, key=lambda j: (j.record().get("requested", 0.0), j.number)):
            record = job.record()
            if record.get("where") == "local" and record.get("host") != here:
                continue  # the runner of that machine starts it
            try:
                if self._start(job, record, running):
                    running.append(job)
            except LockHeld:  # says nothing of the job: try again
                continue
            except InputError as error:
                self._fail(job, str(error))
        return bool(running or waiting or [j for j in jobs if j.record().get("requested")])

    @staticmethod
    def _starting(job: Job) -> bool:
        """True while a process that we started has not made its claim yet."""
        return any(directory == job.directory and thread.is_alive() for directory, thread in _children)

    def _start(self, job: Job, record: dict[str, Any], running: list[Job]) -> bool:
        why = _not_ready(self.project, job, record)
        if why.startswith("!"):
            job.write_record(requested=None, waiting=f"not started: {why[1:]}")
            return False
        if not why and record.get("where") == "cluster":
            submit(self.project, job)
            return False
        with choosing():
            indices: list[int] = []
            if not why:
                indices, why = self._choose(job, record, running)
            if why:
                if record.get("waiting") != why:
                    job.write_record(waiting=why)
                return False
            reserve(job, int(record["run"]), indices)
        start_local(self.project, job, indices)
        return True

    def _choose(self, job: Job, record: dict[str, Any], running: list[Job]) -> tuple[list[int], str]:
        """GPUs for a job, or why it must wait. Raises InputError for GPUs that this machine does not have."""
        cards = gpus()
        usable = allowed(cards, record.get("visible"))
        count, named = wanted_gpus(job, record, len(usable))
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
        write_atomically(job.directory / EXIT, json.dumps({"reason": reason, "code": 1}))
        job.write_record(requested=None, waiting=None)
        (job.directory / FAILURE).touch()
        self.project.sync()

    def _look_at_cluster(self, jobs: list[Job]) -> None:
        if jobs and time.monotonic() - self._asked_cluster >= CLUSTER_SECONDS:
            self._asked_cluster = time.monotonic()
            _cluster.refresh(jobs)


# --- the background process -----------------------------------------------------------------------------------------


def _lock_path(project: Project) -> Path:
    name = hashlib.sha256(str(project.root).encode()).hexdigest()[:16]
    return _state_folder() / f"runner-{name}.lock"


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
    """True if a background runner looks after this project on this machine."""
    with _only_one(project) as free:
        return not free


def _has_work(project: Project) -> bool:
    return bool(project.asked())


def ensure_runner(project: Project) -> None:
    """Start the background runner if something waits or runs and none is there."""
    if project.read_only or not _has_work(project) or runner_alive(project):
        return
    log = project.root / ".gaussianem" / "runner.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        command = [sys.executable, "-m", "gaussianem_gui.execution.runner", "--project", str(project.root)]
        _detach(command, project.root, None, out)


def serve(project: Project, tick_seconds: float = TICK_SECONDS, stop: Callable[[], bool] = lambda: False) -> bool:
    """Look after a project until nothing is left to do. False if another runner does it already."""
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
                    print(f"{time.strftime('%F %T')} {error}", file=sys.stderr, flush=True)
                    idle += 1
                time.sleep(max(tick_seconds, 4 * (time.monotonic() - began)))  # thousands of jobs: a fifth of a core
        # A job asked for while this runner was ending found it still there: look once more.
        if stop() or (idle >= IDLE_TICKS and not _has_work(project)):
            return True


def main(argv: list[str] | None = None) -> int:
    """The background process itself."""
    parser = argparse.ArgumentParser(prog="python -m gaussianem_gui.execution.runner", description=__doc__)
    parser.add_argument("--project", default=".", help="directory of the project")
    serve(Project.open(parser.parse_args(argv).project))
    return 0


if __name__ == "__main__":
    sys.exit(main())
