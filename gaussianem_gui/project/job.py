"""A job directory as files: options, job.star, state, artifacts, reasons of failure, live tail.

Nothing here keeps state: everything is read from the directory, so that the application can be closed at any time.
Names of control files and the event lines are in ``gaussianem_core.job.events``; job.star is RELION's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaussianem_core.errors import InputError, printable
from gaussianem_core.job import events
from gaussianem_core.job.last_word import END, disk_full
from gaussianem_core.options import JOB_OPTIONS, JobOptions, command_line, explain, load_options, options_json
from gaussianem_core.runtime import files
from gaussianem_core.runtime.plain_files import append_regular, open_regular
from gaussianem_core.runtime.processes import alive
from gaussianem_gui.project import small_files, wishes
from gaussianem_gui.project.containment import inside, leads_out, touch
from gaussianem_gui.project.graph import job_number
from gaussianem_gui.project.job_star import job_star_text, read_job_star, values_from_star, wrong_type
from gaussianem_gui.project.small_files import Claim, ExitNote, JobRecord, ProcessName
from gaussianem_gui.project.wishes import Wish

LABEL = "relion.external.gaussianem."
JOB_STAR, PIPELINE_STAR, NOTE, OUT, ERR = "job.star", "job_pipeline.star", "note.txt", "run.out", "run.err"
RECORD, EXIT = ".gaussianem_job.json", ".gaussianem_exit.json"
TAIL_BYTES = 256_000
LOST_SECONDS = 120.0  # a heartbeat comes every 5 s; network disks show a file late by up to a minute

# A name becomes a word of commands and of scripts: nothing that those would read as more than a name.
_NAME = re.compile(r"(?!Trash/)[A-Za-z0-9_][\w.+-]*/job\d{3,}/", re.ASCII)


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
        """True if the job neither runs nor waits to run."""
        return self not in (State.SCHEDULED, State.RUNNING)


EXIT_FILES = {State.SUCCEEDED: events.SUCCESS, State.FAILED: events.FAILURE, State.ABORTED: events.ABORTED}


@dataclass(frozen=True)
class Status:
    """State of a job, a clause on it (``detail``), progress (0..1), seconds left, and times in Unix seconds."""

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


NOTE_BYTES = 1_000_000  # of note.txt where it may be changed


def tail(path: Path, offset: int = 0, limit: int = 1_000_000) -> tuple[str, int]:
    """Text of a growing file from byte ``offset`` (at most the last ``limit`` bytes), and the offset to go on from.

    An absent file gives ``("", 0)``; a file that became shorter is read from its start.
    """
    try:
        with open_regular(path) as file:
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

    @property
    def well_named(self) -> bool:
        """True for a name of the form ``Type/jobNNN/``."""
        return _NAME.fullmatch(self.name) is not None

    def outside(self) -> str:
        """Why the directory is not one of the project's own, as a clause; "" if it is one."""
        if not self.well_named:
            return "its name is none of a job"
        if self.directory.parent.is_symlink() or self.directory.is_symlink() or leads_out(self.root, self.directory):
            return "its directory is a link, or lies behind one"
        return ""

    def check_directory(self) -> None:
        """Raise InputError if the directory is gone, or is not inside the project (a link that leads out)."""
        if self.outside():
            rule = "must be a directory inside the project"
            raise InputError("job", rule, f"{self.name}: {self.outside()}", "Move it back into the project.")
        if not self.exists():
            raise InputError(
                "job",
                "must have its directory",
                f"{self.name}, which is gone",
                "Put it back, or delete the job to take it out of the list.",
            )

    def file(self, name: str) -> Path:
        """A file of this job that is to be written, moved or deleted. Raises InputError if that leads elsewhere."""
        if why := self.outside():
            rule = "must be a directory inside the project"
            raise InputError("job", rule, f"{self.name}: {why}", "Move it back into the project.")
        return inside(self.root, self.directory / name)

    def touch(self, name: str) -> None:
        """Create an empty control file. Raises InputError where a link leads out of the project, OSError."""
        touch(self.file(name))

    def remove(self, *names: str) -> None:
        """Remove files of this job, those that are there. Raises InputError, OSError."""
        for name in names:
            self.file(name).unlink(missing_ok=True)

    # --- options -----------------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """Options as a plain dict, from options.json or else job.star. Raises InputError if neither can be read."""
        self.check_directory()
        if self.model is None:
            return dict(read_job_star(self.directory / JOB_STAR)[1])
        if (self.directory / events.OPTIONS).exists():
            return _of_right_type(self.model, load_options(self.model, self.directory / events.OPTIONS))
        return values_from_star(self.model, read_job_star(self.directory / JOB_STAR)[1])

    def options(self) -> JobOptions:
        """Options as the checked model. Raises InputError naming the first that is wrong."""
        if self.model is None:
            raise InputError("job", "must be one of GaussianEM's", self.name, "Run it in the program that made it.")
        try:
            return self.model(**{**self.values(), "job_dir": self.name.rstrip("/")})
        except ValidationError as error:
            raise explain(error) from None

    def write_options(self, values: Mapping[str, Any], is_continue: bool = False) -> None:
        """Write options.json and job.star; only the names of ``values`` are checked. Raises InputError for an unknown
        name, OSError."""
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
            self.file(events.OPTIONS), json.dumps({"job_type": self.job_type, **full}, indent=1) + "\n"
        )
        files.write_atomically(self.file(JOB_STAR), star)

    @contextlib.contextmanager
    def options_undone(self) -> Iterator[None]:
        """If the block fails, options.json, job.star and job_pipeline.star are restored to what they were before."""
        texts: dict[Path, bytes | None] = {}
        for path in map(self.file, (events.OPTIONS, JOB_STAR, PIPELINE_STAR)):
            with contextlib.suppress(OSError):
                texts[path] = path.read_bytes() if path.exists() else None
        try:
            yield
        except BaseException:
            for path, text in texts.items():
                with contextlib.suppress(OSError):
                    if text is None:
                        path.unlink(missing_ok=True)
                    elif path.read_bytes() != text:
                        files.write_atomically(path, text)
            raise

    def command(self) -> list[str]:
        """The equivalent command of a terminal, as a list of words (to be quoted). Raises InputError as ``options``."""
        options = self.options()
        return [*command_line(options)]

    # --- what the directory says -------------------------------------------------------------------------------

    def exists(self) -> bool:
        """True if the directory is there."""
        return self.directory.is_dir()

    def record(self) -> JobRecord:
        """This program's notes on the job (``small_files.JobRecord``) without damaged fields; {} if there are none."""
        return small_files.read(self.directory / RECORD, small_files.RECORD)[0]

    def damage(self) -> str:
        """Which of the job's small files are damaged, as clauses; "" if none is."""
        found = [
            small_files.read(self.directory / RECORD, small_files.RECORD)[1],
            small_files.read(self.directory / EXIT, small_files.EXIT)[1],
            small_files.read(self.directory / events.HEARTBEAT, small_files.HEARTBEAT)[1],
        ]
        if self.model is not None and (self.directory / events.OPTIONS).exists():
            try:
                _of_right_type(self.model, load_options(self.model, self.directory / events.OPTIONS))
            except InputError as error:
                found.append(f"{events.OPTIONS} is damaged ({error.argument} {error.rule})")
        return "; ".join(clause for clause in found if clause)

    def wish(self, record: JobRecord | None = None) -> Wish | None:
        """This user's wish for the run that the record names; None if the run was not asked for by this user here."""
        return wishes.find(self.root, self.name, self.record() if record is None else record)

    def write_record(self, **changes: Any) -> dict[str, Any]:
        """Change some notes of the record (None removes one); returns all. Concurrent changes by others are kept."""
        path = self.file(RECORD)
        with self._alone():
            record = {k: v for k, v in {**self.record(), **changes}.items() if v is not None}
            files.write_atomically(path, json.dumps(record, indent=1) + "\n")
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
        """File that the process of run number ``run`` creates; only the process that creates it runs the job."""
        return self.directory / f".gaussianem_run_{run}.json"

    def processes(self, record: JobRecord | None = None) -> list[ProcessName]:
        """Identities (see ``lock.identity``) of the processes that should be working on this job."""
        record = self.record() if record is None else record
        claim = self.claim(record)
        beat = small_files.read(self.directory / events.HEARTBEAT, small_files.HEARTBEAT)[0]
        return [who for who in (claim, claim.get("child", {}), beat) if who.get("pid")]

    def claim(self, record: JobRecord) -> Claim:
        """The claim on the run that the record names; {} if no process has begun it."""
        return small_files.read(self.claim_path(record.get("run", 0)), small_files.CLAIM)[0]

    def submitting(self, record: JobRecord) -> bool | None:
        """True while a process submits this run to a scheduler, False if it was killed meanwhile, None if there is
        none."""
        path = self.claim_path(record.get("run", 0))
        who = self.claim(record).get("submitting")
        if record.get("scheduler_id") or who is None:
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
        self.remove(*events.CONTROL_FILES, events.HEARTBEAT, EXIT, END)

    def last_events(self, record: JobRecord | None = None) -> list[dict[str, Any]]:
        """Events of the last run near the end of events.jsonl (the last ``TAIL_BYTES``)."""
        try:
            size = (self.directory / events.EVENTS).stat().st_size
        except OSError:
            return []
        record = self.record() if record is None else record
        before = record.get("events_from", 0)  # what earlier runs wrote says nothing of this one
        start = before if before <= size else 0
        return events.read_events(self.directory / events.EVENTS, max(start, size - TAIL_BYTES))[0]

    def artifacts(self) -> list[Artifact]:
        """The job's artifacts in order; a file that was written again is listed once, at its last place.

        A file may have two kinds (cfg.json is the configuration, and stands for all prepared data).
        """
        found: dict[tuple[str, str], Artifact] = {}
        for event in events.read_events(self.directory / events.EVENTS)[0]:
            if (artifact := _artifact(self, event)) is not None:
                found.pop((artifact.kind, artifact.path), None)
                found[artifact.kind, artifact.path] = artifact
        return list(found.values())

    def status(self) -> Status:
        """State derived from exit files, heartbeat, processes and the record; a few small reads."""
        return derive_status(self)

    def note(self) -> str:
        """The user's and the program's notes (note.txt), as far as they can be shown."""
        return tail(self.directory / NOTE)[0]

    def note_to_edit(self) -> str:
        """The whole of note.txt as it stands there, "" without one: what is made of it may take its place.

        Raises InputError where the file cannot be read, is no UTF-8 text, or has more than NOTE_BYTES.
        """
        try:
            with open_regular(self.directory / NOTE) as file:
                data = file.read(NOTE_BYTES + 1)
            if len(data) > NOTE_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), NOTE)
            return data.decode()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            rule, remedy = "must be readable UTF-8 text of at most 1 MB", f"It stays as it is ({error})."
            raise InputError(NOTE, rule, self.name, remedy) from error

    def change_note(self, before: str, after: str) -> str:
        """Replace note.txt, which was read as ``before``, by ``after``; what was added to it since stays at its end.

        Returns what stands there now. Raises InputError where the directory is gone or the file was changed otherwise
        meanwhile, and as ``note_to_edit``; OSError.
        """
        self.check_directory()
        now = self.note_to_edit()
        if not now.startswith(before):
            raise InputError(NOTE, "must be as it was read", self.name, "Copy what you typed, and open the notes anew.")
        whole = after + now[len(before) :]
        files.write_atomically(self.file(NOTE), whole)
        return whole

    def add_note(self, text: str) -> None:
        """Append a dated block to note.txt. Raises InputError where the directory is gone, OSError; the file is then
        as before."""
        self.check_directory()
        path = self.file(NOTE)
        before = path.stat().st_size if path.exists() else None
        block = f" ++++ {time.strftime('%Y-%m-%d %H:%M:%S')}\n{text.rstrip()}\n ++++\n"
        try:
            with open(append_regular(path), "ab", buffering=0) as file:
                if file.write(block.encode(errors="surrogateescape")) < len(block.encode(errors="surrogateescape")):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            if before is None:
                path.unlink(missing_ok=True)
            else:
                os.truncate(path, before)
            raise

    def size_bytes(self) -> int:
        """Bytes in the directory; links are not followed."""
        total = 0
        if self.outside():
            return 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


def _of_right_type(model: type[JobOptions], values: dict[str, Any]) -> dict[str, Any]:
    """``values`` if each is of its option's type, or empty as in a draft. Raises InputError."""
    for name, value in values.items():
        if rule := wrong_type(model, name, value):
            raise InputError(f"option {name}", rule, value, f"Correct it in {events.OPTIONS}.")
    return values


def _artifact(job: Job, event: Mapping[str, Any]) -> Artifact | None:
    if event.get("type") != "artifact" or not isinstance(event.get("path"), str):
        return None
    return Artifact(
        str(event.get("kind", "")),
        os.path.normpath(job.name + event["path"]),
        str(event.get("label", "")),
        event.get("info", {}),
        event.get("t", 0.0),
    )


# --- state ------------------------------------------------------------------------------------------------------

_GONE = "its process is gone without a word: killed, or the machine was restarted"
_SUBMITTING = {
    True: "is being submitted",
    False: "the program that submitted it was killed: look whether the scheduler has it, abort it here if not",
}
_MEMORY = re.compile(r"out of memory|outofmemory|MemoryError|oom.?kill|cannot allocate memory|bad_alloc", re.IGNORECASE)


def derive_status(job: Job) -> Status:
    """State of a job of this program from its files (see ``Job.status``); damaged files are named in ``detail``."""
    if why := job.outside():
        return Status(_label_state(job.label), f"{why}: nothing of it is read or written")
    record = job.record()
    status = _derive(job, record)
    if status.state is State.LOST and (now := job.record()) != record:  # another run was asked for while we looked
        status = _derive(job, now)
    damage = job.damage()
    return replace(status, detail="; ".join(clause for clause in (status.detail, damage) if clause))


def _derive(job: Job, record: JobRecord) -> Status:
    if not job.exists():
        state = _label_state(job.label)
        return Status(State.LOST if state is State.RUNNING else state, "its directory is gone")
    last = job.last_events(record)
    gpus = tuple(record.get("gpus", ()))
    scheduler_id = record.get("scheduler_id", "")
    began: dict[str, Any] = next((e for e in reversed(last) if e.get("type") == "start"), {})
    common: dict[str, Any] = {
        "started": began.get("t") or record.get("started_at"),
        "gpus": gpus,
        "scheduler_id": scheduler_id,
        "host": began.get("host") or record.get("host", ""),
    }
    finished = _finished(job, record, last, common)
    if finished is not None:
        return finished
    waits = is_waiting(job, record)  # before the processes: one that starts between the two looks is not Lost
    living = [alive(who) for who in job.processes(record)]
    if any(living):
        return _running(job, last, common)
    if waits:
        if job.wish(record) is None:
            return Status(State.SCHEDULED, _foreign_wish(record), **common)
        return Status(State.SCHEDULED, record.get("waiting", "") or "waits for its turn", **common)
    finished = _finished(job, record, job.last_events(record), common)  # it may have ended while we looked
    if finished is not None:
        return finished
    unseen = _unseen_seconds(job, record) if scheduler_id and record.get("scheduler_state") == "running" else 0.0
    if unseen > LOST_SECONDS and job.wish(record) is None:  # nobody here asks its scheduler
        name = f"{record.get('scheduler', 'the queue')} as {scheduler_id}"
        return Status(State.LOST, f"ran in {name}; no sign of life for {unseen / 60:.0f} minutes", **common)
    if scheduler_id and record.get("scheduler_state") in ("pending", "running", "unknown"):
        return _on_cluster(job, record, last, common)
    if record.get("scheduler_state") == "gone":
        return Status(State.LOST, record.get("scheduler_note", ""), **common)
    if (submitting := job.submitting(record)) is not None:
        return Status(State.SCHEDULED, _SUBMITTING[submitting], **common)
    if None in living:  # on another host, not started by a scheduler that we know
        silent = silence_seconds(job)
        if silent < LOST_SECONDS:
            return _running(job, last, common)
        return Status(State.LOST, f"no sign of life from {common['host']} for {silent / 60:.0f} minutes", **common)
    if living or record.get("requested") or began:
        full = disk_full(job.directory)
        return Status(State.LOST, (f"{full}, and " if full else "") + _GONE, **common)
    state = _label_state(job.label)
    if state is State.RUNNING and job.job_type:
        return Status(State.LOST, "the graph says Running, but there is no process and no file of one", **common)
    return Status(state, record.get("waiting", "") if state is State.SCHEDULED else "")


def _foreign_wish(record: JobRecord) -> str:
    """What to say of a job that a project's files want to run, and this user did not ask for."""
    who = record.get("asked_by", "")
    return f"wants to run{f' (asked for by {who})' if who else ''}, but not by you from here: start it yourself"


def is_waiting(job: Job, record: JobRecord) -> bool:
    """True if a run was asked for and has not begun (begun: its claim file is there, or a scheduler has it)."""
    if not record.get("requested") or record.get("scheduler_id"):
        return False
    return not job.claim_path(record.get("run", 0)).exists()


def silence_seconds(job: Job) -> float:
    """Seconds since the last heartbeat, by the newer of its own clock and the file's; 0 for a clock that is ahead."""
    path = job.directory / events.HEARTBEAT
    beat = small_files.read(path, small_files.HEARTBEAT)[0].get("t", 0.0)
    written = 0.0
    with contextlib.suppress(OSError):
        written = path.stat().st_mtime
    return max(0.0, time.time() - max(beat, written))


def _unseen_seconds(job: Job, record: JobRecord) -> float:
    """Seconds since the last sign of a job on a cluster: its heartbeat, or a note on it."""
    noted = record.get("submitted_at", 0.0)
    with contextlib.suppress(OSError):
        noted = max(noted, (job.directory / RECORD).stat().st_mtime)
    return min(silence_seconds(job), max(0.0, time.time() - noted))


def _label_state(label: str) -> State:
    try:
        return State(label)
    except ValueError:
        return State.FAILED


def _exit_note(job: Job, record: JobRecord) -> ExitNote:
    """How the run ended by the word of the process above it; {} of another run."""
    note = small_files.read(job.directory / EXIT, small_files.EXIT)[0]
    return note if note.get("run", record.get("run")) == record.get("run") else {}


def _end(job: Job, last: list[dict[str, Any]]) -> dict[str, Any]:
    """The program's own last event: in the list of events, or where a full disk left no room for it there."""
    end: dict[str, Any] = next((e for e in reversed(last) if e.get("type") in ("end", "start")), {})
    if end.get("type") == "end":
        return end
    left = events.read_events(job.directory / END)[0]
    return left[0] if left and left[0].get("type") == "end" else {}


def _finished(job: Job, record: JobRecord, last: list[dict[str, Any]], common: dict[str, Any]) -> Status | None:
    state = job.exit_state()
    end, note = _end(job, last), _exit_note(job, record)
    if state is None and end:
        word = end.get("status", "").capitalize()
        state = State(word) if word in (State.SUCCEEDED, State.FAILED, State.ABORTED) else None
    if state is None and "code" in note:  # the disk had no room for an exit file
        stopped = (job.directory / events.ABORT).exists()
        state = State.SUCCEEDED if note["code"] == 0 else State.ABORTED if stopped else State.FAILED
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
        detail = end.get("reason", "") or note.get("reason", "") or "stopped"
    return Status(state, detail, ended=ended, **common)


def failure_reason(job: Job, last: list[dict[str, Any]] | None = None) -> str:
    """Why a job failed, in one sentence: the program's last error, too little memory, or the signal that killed it."""
    last = job.last_events() if last is None else last
    if reason := _end(job, last).get("reason"):
        return _memory_hint(_sentence(reason))
    left = _exit_note(job, job.record())
    errors = tail(job.directory / ERR, 0, 20_000)[0].strip()
    if number := left.get("signal"):
        name = signal.Signals(number).name if number in signal.Signals._value2member_map_ else str(number)
        if left.get("reason"):
            return f"killed by signal {name}: {_sentence(left['reason'])}"
        if number == signal.SIGKILL:
            peak = left.get("max_memory_bytes", 0)
            used = f" (it used {peak / 2**30:.1f} GiB)" if peak > 2**28 else ""
            return f"killed by signal {name}{used}: by hand, by the scheduler, or because memory ran out"
        return f"killed by signal {name}"
    for event in reversed(last):
        if event.get("type") == "start":
            break
        if event.get("type") == "message" and event.get("level") == "error":
            return _memory_hint(_sentence(event.get("text", "")))
    if left.get("reason"):
        return _sentence(left["reason"])
    if errors:
        return _memory_hint(_sentence(printable(errors.splitlines()[-1])))
    code = left.get("code")
    return f"it ended with exit code {code} and no message" if code else "it failed without a message"


def _sentence(text: str, limit: int = 400) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _memory_hint(text: str) -> str:
    return f"out of memory: {text}" if _MEMORY.search(text) and "out of memory" not in text.lower() else text


def _running(job: Job, last: list[dict[str, Any]], common: dict[str, Any]) -> Status:
    event: dict[str, Any] = {}
    for candidate in reversed(last):
        if candidate.get("type") == "start":
            break
        if candidate.get("type") == "progress":
            event = candidate
            break
    aborting = (job.directory / events.ABORT).exists()
    done, total = event.get("done"), event.get("total")
    fraction = min(max(done / total, 0.0), 1.0) if done is not None and total else None
    left = event.get("left_seconds")
    if "job_fraction" in event:  # of the whole job, where its stages are known
        fraction, left = event["job_fraction"], event.get("job_left_seconds")
    detail = "is stopping" if aborting else ""
    return Status(State.RUNNING, detail, event.get("stage", ""), fraction, left, **common)


def _on_cluster(job: Job, record: JobRecord, last: list[dict[str, Any]], common: dict[str, Any]) -> Status:
    name = f"{record.get('scheduler', 'the queue')} as {record['scheduler_id']}"
    if record["scheduler_state"] == "pending":
        return Status(State.SCHEDULED, f"queued in {name}", **common)
    status = _running(job, last, common)
    return replace(status, detail=status.detail or f"runs in {name}")


__all__ = ["Artifact", "Job", "State", "Status", "options_json", "tail"]
