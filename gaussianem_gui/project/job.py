"""A job directory as files: options, job.star, state, artifacts, reasons of failure, live tail.

Nothing here keeps state: everything is read from the directory, so a program can be closed and opened at will.
Names of control files and the event lines are in ``gaussianem_core.job.events``; job.star is RELION's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.job import events
from gaussianem_core.options import JOB_OPTIONS, JobOptions, command_line, explain, load_options, options_json
from gaussianem_core.runtime import files
from gaussianem_core.runtime.processes import alive
from gaussianem_gui.project.graph import job_number
from gaussianem_gui.project.job_star import job_star_text, read_job_star, values_from_star

LABEL = "relion.external.gaussianem."
JOB_STAR, PIPELINE_STAR, NOTE, OUT, ERR = "job.star", "job_pipeline.star", "note.txt", "run.out", "run.err"
RECORD, EXIT = ".gaussianem_job.json", ".gaussianem_exit.json"
TAIL_BYTES = 256_000
LOST_SECONDS = 120.0  # a heartbeat comes every 5 s; network disks show a file late by up to a minute

# Options of a job.star that are not the engine's: what RELION's External job needs to find.
_NAME = re.compile(r"[^/\x00-\x1f]+/job\d{3,}/\Z")


class State(StrEnum):
    """State of a job; the first five are RELION's words."""

    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ABORTED = "Aborted"
    LOST = "Lost"

    @property
    def finished(self) -> bool:
        """True if nothing of it runs or waits to run."""
        return self not in (State.SCHEDULED, State.RUNNING)


EXIT_FILES = {State.SUCCEEDED: events.SUCCESS, State.FAILED: events.FAILURE, State.ABORTED: events.ABORTED}


@dataclass(frozen=True)
class Status:
    """What is known of a job: its state and a sentence, progress (0..1) and seconds left, times in Unix seconds."""

    state: State
    detail: str = ""
    stage: str = ""
    fraction: float | None = None
    left_seconds: float | None = None
    started: float | None = None
    ended: float | None = None
    host: str = ""
    gpus: tuple[int, ...] = ()
    scheduler_id: str = ""


@dataclass(frozen=True)
class Artifact:
    """A file (or folder) that a job made: kind as in ``events.ARTIFACTS``, path relative to the project."""

    kind: str
    path: str
    label: str
    info: dict[str, Any]
    time: float


def folder_of(job_type: str) -> str:
    """Name of the directory that holds the jobs of a type: "Train" for "train"."""
    model = JOB_OPTIONS.get(job_type)
    return model.title.replace(" ", "") if model is not None else job_type.capitalize()


def job_type_of(type_label: str) -> str:
    """ "train" for ``relion.external.gaussianem.train``; "" for another program's label."""
    return type_label[len(LABEL) :].split(".")[0] if type_label.startswith(LABEL) else ""


def tail(path: Path, offset: int = 0, limit: int = 1_000_000) -> tuple[str, int]:
    """Text of a growing file from byte ``offset`` (at most the last ``limit`` bytes), and the offset to go on from.

    An absent file gives ``("", 0)``; a file that became shorter is read from its start.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = 0 if size < offset else offset
            start = max(start, size - limit)
            file.seek(start)
            data = file.read(size - start)
    except OSError:
        return "", 0
    keep = len(data)
    for back in range(1, min(4, keep) + 1):  # do not cut a character that is still being written
        byte = data[keep - back]
        if byte & 0xC0 != 0x80:
            need = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            keep = keep - back if need > back else keep
            break
    return data[:keep].decode(errors="replace"), start + keep


class Job:
    """A job directory ``root/name``; reads files at every call and remembers nothing.

    ``label`` is the state that the graph has, used where the files say nothing (jobs of other programs).
    """

    def __init__(self, root: Path, name: str, type_label: str, label: str = "Scheduled") -> None:
        self.root, self.name, self.type_label, self.label = root, name.rstrip("/") + "/", type_label, label
        self.directory = root / name
        self.number = job_number(name)
        self.job_type = job_type_of(type_label)
        self.model = JOB_OPTIONS.get(self.job_type)

    def __repr__(self) -> str:
        return f"Job({self.name})"

    def path(self, name: str) -> str:
        """Project-relative path of a file of this job."""
        return self.name + name

    def check_directory(self) -> None:
        """Raise InputError if the directory is gone, or is no plain one inside the project (a link that leads out)."""
        folder = self.root / self.name.split("/", 1)[0]
        if (
            not _NAME.match(self.name)
            or ".." in self.name.split("/")
            or folder.is_symlink()
            or (self.directory.is_symlink() or not self.directory.resolve().is_relative_to(self.root.resolve()))
        ):
            rule = "must be a directory inside the project"
            raise InputError("job", rule, self.name, "Move it back into the project.")
        if not self.exists():
            raise InputError(
                "job",
                "must have its directory",
                f"{self.name}, which is gone",
                "Put it back, or delete the job to take it out of the list.",
            )

    # --- options -----------------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """Options as a plain dict, from options.json or else job.star. Raises InputError if neither can be read."""
        if not self.exists():
            self.check_directory()
        if self.model is None:
            return dict(read_job_star(self.directory / JOB_STAR)[1])
        if (self.directory / events.OPTIONS).exists():
            return load_options(self.model, self.directory / events.OPTIONS)
        return values_from_star(self.model, read_job_star(self.directory / JOB_STAR)[1])

    def options(self) -> JobOptions:
        """Options, checked. Raises InputError naming the first that is wrong."""
        if self.model is None:
            raise InputError("job", "must be one of GaussianEM's", self.name, "Run it in the program that made it.")
        try:
            return self.model(**{**self.values(), "job_dir": self.name.rstrip("/")})
        except ValidationError as error:
            raise explain(error) from None

    def write_options(self, values: Mapping[str, Any], is_continue: bool = False) -> None:
        """Write options.json and job.star; ``values`` are checked only for their names."""
        assert self.model is not None
        unknown = sorted(set(values) - set(self.model.model_fields))
        if unknown:
            remedy = f"{self.model.title} has no such option."
            raise InputError(f"option {unknown[0]}", "is unknown", values[unknown[0]], remedy)
        values = {name: value for name, value in values.items() if name != "job_dir"}
        full = {
            n: values[n] if n in values else f.get_default(call_default_factory=True)
            for n, f in self.model.model_fields.items()
            if n in values or not f.is_required()
        }
        full = json.loads(json.dumps({**full, "job_dir": self.name.rstrip("/")}, default=str))
        star = job_star_text(self.type_label, full, is_continue)
        files.write_atomically(
            self.directory / events.OPTIONS, json.dumps({"job_type": self.job_type, **full}, indent=1) + "\n"
        )
        files.write_atomically(self.directory / JOB_STAR, star)

    def command(self) -> list[str]:
        """The command that does the same in a terminal, as a list of words (quote them before pasting)."""
        options = self.options()
        return [*command_line(options)]

    # --- what the directory says -------------------------------------------------------------------------------

    def exists(self) -> bool:
        """True if the directory is there."""
        return self.directory.is_dir()

    def record(self) -> dict[str, Any]:
        """Our own notes on the job (run number, where it was started, GPUs, scheduler's id); {} if there are none."""
        return read_json(self.directory / RECORD)

    def write_record(self, **changes: Any) -> dict[str, Any]:
        """Change some of our notes; None removes one. What other processes change at the same time is kept."""
        with self._alone():
            record = {k: v for k, v in {**self.record(), **changes}.items() if v is not None}
            files.write_atomically(self.directory / RECORD, json.dumps(record, indent=1) + "\n")
        return record

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock on the directory for a moment, if the file system has locks (some network disks do not)."""
        handle = os.open(self.directory, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def claim_path(self, run: int) -> Path:
        """File that the process of run number ``run`` creates; whoever creates it is the only one to run."""
        return self.directory / f".gaussianem_run_{run}.json"

    def processes(self, record: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Identities (see ``lock.identity``) of the processes that should be working on this job."""
        record = self.record() if record is None else record
        claim = read_json(self.claim_path(int(record.get("run", 0))))
        found = [claim, claim.get("child", {}), read_json(self.directory / events.HEARTBEAT)]
        return [who for who in found if isinstance(who, dict) and who.get("pid")]

    def submitting(self, record: Mapping[str, Any]) -> bool | None:
        """True while a process hands this run to a scheduler, False if it was killed at that, None if there is none."""
        path = self.claim_path(int(record.get("run", 0)))
        who = read_json(path).get("submitting")
        if record.get("scheduler_id") or not isinstance(who, dict):
            return None
        living = alive(who)
        if living is None:  # on another host
            with contextlib.suppress(OSError):
                living = abs(time.time() - path.stat().st_mtime) < LOST_SECONDS
        return bool(living)

    def exit_state(self) -> State | None:
        """State that an exit file gives, or None if there is no such file."""
        found = []
        for state, name in EXIT_FILES.items():
            with contextlib.suppress(OSError):
                found.append(((self.directory / name).stat().st_mtime_ns, state))
        return max(found)[1] if found else None

    def clear_control_files(self) -> None:
        """Remove abort and exit files and the heartbeat, as before every run."""
        for name in (*events.CONTROL_FILES, events.HEARTBEAT, EXIT):
            (self.directory / name).unlink(missing_ok=True)

    def last_events(self, record: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Events of the last run near the end of events.jsonl (the last ``TAIL_BYTES``)."""
        try:
            size = (self.directory / events.EVENTS).stat().st_size
        except OSError:
            return []
        record = self.record() if record is None else record
        before = record.get("events_from", 0)  # what earlier runs wrote says nothing of this one
        start = before if isinstance(before, int) and before <= size else 0
        return events.read_events(self.directory / events.EVENTS, max(start, size - TAIL_BYTES))[0]

    def artifacts(self) -> list[Artifact]:
        """What the job has made, in order; a file that was written again counts once, at its last place.

        A file may be two things (cfg.json is the configuration, and stands for all that was prepared).
        """
        found: dict[tuple[str, str], Artifact] = {}
        for event in events.read_events(self.directory / events.EVENTS)[0]:
            if (artifact := _artifact(self, event)) is not None:
                found.pop((artifact.kind, artifact.path), None)
                found[artifact.kind, artifact.path] = artifact
        return list(found.values())

    def status(self) -> Status:
        """State derived from exit files, heartbeat, processes and our notes; a few small reads, no network."""
        return derive_status(self)

    def note(self) -> str:
        """The user's and the program's notes (note.txt)."""
        with contextlib.suppress(OSError):
            return (self.directory / NOTE).read_text(errors="replace")
        return ""

    def set_note(self, text: str) -> None:
        """Replace note.txt."""
        self.check_directory()
        files.write_atomically(self.directory / NOTE, text)

    def add_note(self, text: str) -> None:
        """Append a dated block to note.txt."""
        self.check_directory()
        with (self.directory / NOTE).open("a") as file:
            file.write(f" ++++ {time.strftime('%Y-%m-%d %H:%M:%S')}\n{text.rstrip()}\n ++++\n")

    def size_bytes(self) -> int:
        """Bytes in the directory; links are not followed."""
        total = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if it is absent or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _artifact(job: Job, event: Mapping[str, Any]) -> Artifact | None:
    if event.get("type") != "artifact" or not isinstance(event.get("path"), str):
        return None
    info = event.get("info")
    return Artifact(
        str(event.get("kind", "")),
        os.path.normpath(job.name + event["path"]),
        str(event.get("label", "")),
        info if isinstance(info, dict) else {},
        float(event.get("t", 0.0)),
    )


# --- state ------------------------------------------------------------------------------------------------------

_SUBMITTING = {
    True: "is being submitted",
    False: "the program that submitted it was killed: look whether the scheduler has it, abort it here if not",
}
_MEMORY = re.compile(r"out of memory|outofmemory|MemoryError|oom.?kill|cannot allocate memory|bad_alloc", re.IGNORECASE)


def derive_status(job: Job) -> Status:
    """State of one of our jobs from its files (see ``Job.status``)."""
    record = job.record()
    status = _derive(job, record)
    if status.state is State.LOST and (now := job.record()) != record:  # another run was asked for while we looked
        return _derive(job, now)
    return status


def _derive(job: Job, record: dict[str, Any]) -> Status:
    if not job.exists():
        state = _label_state(job.label)
        return Status(State.LOST if state is State.RUNNING else state, "its directory is gone")
    last = job.last_events(record)
    gpus = tuple(record.get("gpus") or ())
    scheduler_id = str(record.get("scheduler_id", ""))
    began: dict[str, Any] = next((e for e in reversed(last) if e.get("type") == "start"), {})
    common: dict[str, Any] = {
        "started": began.get("t") or record.get("started_at"),
        "gpus": gpus,
        "scheduler_id": scheduler_id,
        "host": str(began.get("host", "") or record.get("host", "")),
    }
    finished = _finished(job, last, common)
    if finished is not None:
        return finished
    waits = is_waiting(job, record)  # before the processes: one that starts between the two looks is not Lost
    living = [alive(who) for who in job.processes(record)]
    if any(living):
        return _running(job, last, common)
    if waits:
        return Status(State.SCHEDULED, str(record.get("waiting", "")) or "waits for its turn", **common)
    finished = _finished(job, job.last_events(record), common)  # it may have ended while we looked
    if finished is not None:
        return finished
    if scheduler_id and record.get("scheduler_state") in ("pending", "running", "unknown"):
        return _on_cluster(job, record, last, common)
    if record.get("scheduler_state") == "gone":
        return Status(State.LOST, str(record.get("scheduler_note", "")), **common)
    if (submitting := job.submitting(record)) is not None:
        return Status(State.SCHEDULED, _SUBMITTING[submitting], **common)
    if None in living:  # on another host, not started by a scheduler that we know
        silent = silence_seconds(job)
        if silent < LOST_SECONDS:
            return _running(job, last, common)
        return Status(State.LOST, f"no sign of life from {common['host']} for {silent / 60:.0f} minutes", **common)
    if living or record.get("requested") or began:
        return Status(State.LOST, "its process is gone without a word: killed, or the machine was restarted", **common)
    state = _label_state(job.label)
    if state is State.RUNNING and job.job_type:
        return Status(State.LOST, "the graph says Running, but there is no process and no file of one", **common)
    return Status(state, str(record.get("waiting", "")) if state is State.SCHEDULED else "")


def is_waiting(job: Job, record: Mapping[str, Any]) -> bool:
    """True if a run was asked for and has not begun (begun: its claim file is there, or a scheduler has it)."""
    if not record.get("requested") or record.get("scheduler_id"):
        return False
    return not job.claim_path(int(record.get("run", 0))).exists()


def silence_seconds(job: Job) -> float:
    """Seconds since the last heartbeat, by the newer of its own clock and the file's; 0 for a clock that is ahead."""
    path = job.directory / events.HEARTBEAT
    beat = read_json(path).get("t", 0.0)
    written = 0.0
    with contextlib.suppress(OSError):
        written = path.stat().st_mtime
    return max(0.0, time.time() - max(float(beat), written))


def _label_state(label: str) -> State:
    try:
        return State(label)
    except ValueError:
        return State.FAILED


def _finished(job: Job, last: list[dict[str, Any]], common: dict[str, Any]) -> Status | None:
    state = job.exit_state()
    end: dict[str, Any] = next((e for e in reversed(last) if e.get("type") in ("end", "start")), {})
    end = end if end.get("type") == "end" else {}
    if state is None and end:
        word = str(end.get("status", "")).capitalize()
        state = State(word) if word in (State.SUCCEEDED, State.FAILED, State.ABORTED) else None
    if state is None:
        return None
    ended = end.get("t")
    if ended is None:
        with contextlib.suppress(OSError):
            ended = (job.directory / EXIT_FILES[state]).stat().st_mtime
    detail = ""
    if state is State.FAILED:
        detail = failure_reason(job, last)
    elif state is State.ABORTED:
        detail = str(end.get("reason", "")) or str(read_json(job.directory / EXIT).get("reason", "")) or "stopped"
    return Status(state, detail, ended=ended, **common)


def failure_reason(job: Job, last: list[dict[str, Any]] | None = None) -> str:
    """Why a job failed, in one sentence: the program's own last error, memory, or the signal that killed it."""
    last = job.last_events() if last is None else last
    for event in reversed(last):
        if event.get("type") == "start":
            break
        if event.get("type") == "end" and event.get("reason"):
            return _memory_hint(_sentence(str(event["reason"])))
    left = read_json(job.directory / EXIT)
    errors = tail(job.directory / ERR, 0, 20_000)[0].strip()
    number = left.get("signal")
    if isinstance(number, int) and number:
        name = signal.Signals(number).name if number in signal.Signals._value2member_map_ else str(number)
        if number == signal.SIGKILL:
            peak = left.get("max_memory_bytes")
            used = f" (it used {peak / 2**30:.1f} GiB)" if isinstance(peak, int) and peak > 2**28 else ""
            return f"killed by signal {name}{used}: by hand, by the scheduler, or because memory ran out"
        return f"killed by signal {name}"
    for event in reversed(last):
        if event.get("type") == "start":
            break
        if event.get("type") == "message" and event.get("level") == "error":
            return _memory_hint(_sentence(str(event.get("text", ""))))
    if left.get("reason"):
        return str(left["reason"])
    if errors:
        return _memory_hint(_sentence(errors.splitlines()[-1]))
    code = left.get("code")
    return f"it ended with exit code {code} and no message" if code else "it failed without a message"


def _sentence(text: str, limit: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _memory_hint(text: str) -> str:
    return f"out of memory: {text}" if _MEMORY.search(text) and "out of memory" not in text.lower() else text


def _running(job: Job, last: list[dict[str, Any]], common: dict[str, Any]) -> Status:
    event = {}
    for candidate in reversed(last):
        if candidate.get("type") == "start":
            break
        if candidate.get("type") == "progress":
            event = candidate
            break
    aborting = (job.directory / events.ABORT).exists()
    done, total = event.get("done"), event.get("total")
    fraction = None
    if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
        fraction = min(max(done / total, 0.0), 1.0)
    stage = str(event.get("stage", ""))
    return Status(
        State.RUNNING, "is stopping" if aborting else "", stage, fraction, event.get("left_seconds"), **common
    )


def _on_cluster(job: Job, record: dict[str, Any], last: list[dict[str, Any]], common: dict[str, Any]) -> Status:
    name = f"{record.get('scheduler', 'the queue')} as {record['scheduler_id']}"
    if record["scheduler_state"] == "pending":
        return Status(State.SCHEDULED, f"queued in {name}", **common)
    status = _running(job, last, common)
    return Status(**{**status.__dict__, "detail": status.detail or f"runs in {name}"})


# --- live view --------------------------------------------------------------------------------------------------


class Monitor:
    """Follows one job's files; ``poll`` reads only what was added since the last time."""

    def __init__(self, job: Job, log_characters: int = 400_000) -> None:
        self.job, self._keep = job, log_characters
        self._offsets = {"events": 0, OUT: 0, ERR: 0}
        self.events: list[dict[str, Any]] = []
        self.progress: dict[str, Any] | None = None
        self.progress_by_stage: dict[str, dict[str, Any]] = {}
        self.metrics: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.artifacts: list[Artifact] = []
        self.messages: list[dict[str, Any]] = []
        self.log = self.errors = ""
        self.runs = 0

    def poll(self) -> bool:
        """Read what is new; True if anything was."""
        new, offset = events.read_events(self.job.directory / events.EVENTS, self._offsets["events"])
        if offset < self._offsets["events"]:  # the file was replaced: begin again
            self.__init__(self.job, self._keep)  # type: ignore[misc]
        self._offsets["events"] = offset
        for event in new:
            self._take(event)
        changed = bool(new)
        for name, attribute in ((OUT, "log"), (ERR, "errors")):
            text, after = tail(self.job.directory / name, self._offsets[name], self._keep)
            if after < self._offsets[name]:
                setattr(self, attribute, "")
            self._offsets[name] = after
            if text:
                setattr(self, attribute, (getattr(self, attribute) + text)[-self._keep :])
                changed = True
        return changed

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "progress":
            self.progress = event
            self.progress_by_stage[str(event.get("stage", ""))] = event
            return  # many, and only the last counts
        if kind == "metric":
            values = event.get("values")
            for name, value in values.items() if isinstance(values, dict) else ():
                if value is not None:
                    curve = self.metrics.setdefault((str(event.get("stage", "")), name), [])
                    curve.append((float(event.get("epoch") or 0.0), float(value)))
            return
        self.events.append(event)
        if kind == "start":
            self.runs += 1
            self.progress = None
            self.progress_by_stage = {}
        elif kind == "message":
            self.messages.append(event)
        elif kind == "artifact" and (artifact := _artifact(self.job, event)) is not None:
            same = (artifact.kind, artifact.path)
            self.artifacts = [a for a in self.artifacts if (a.kind, a.path) != same] + [artifact]


def new_directory_job(root: Path, name: str, job_type: str, label: str = "") -> Job:
    """A Job for a directory of one of our types, without looking at the graph."""
    return Job(root, name, label or LABEL + job_type)


__all__ = ["Artifact", "Job", "Monitor", "State", "Status", "options_json", "tail"]
