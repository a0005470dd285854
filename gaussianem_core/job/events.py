"""A job directory as files: names, control files, heartbeat, and JSON lines of progress, metrics and artifacts.

The engine writes; readers (command line, desktop application) poll these files and never ask the process. The control
files have RELION's names. No torch here.

One line of ``events.jsonl`` is one JSON object with ``t`` (Unix seconds) and ``type``:

``start``     command (list of str), version, host, pid
``plan``      stages (list of names, in order)
``progress``  stage, done, total, unit, rate (per second), left_seconds; with a plan job_fraction, job_left_seconds
``metric``    stage, step, epoch (float), values {name: float}
``artifact``  kind (see ARTIFACTS), path (relative to the job directory), label, info {}
``message``   level (info | warning | error), text
``end``       status (succeeded | failed | aborted), reason, seconds
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from gaussianem_core.errors import AbortRequested, InputError, printable
from gaussianem_core.job.last_word import END, LastWord
from gaussianem_core.job.plan import JobPlan
from gaussianem_core.runtime.files import remove_left_overs, write_atomically
from gaussianem_core.runtime.plain_files import append_regular, open_regular
from gaussianem_core.runtime.processes import identity, scheduler_id
from gaussianem_core.runtime.sources import refuse_source

EVENTS = "events.jsonl"
OPTIONS = "options.json"
HEARTBEAT = "heartbeat.json"
ABORT = "RELION_JOB_ABORT_NOW"
SUCCESS = "RELION_JOB_EXIT_SUCCESS"
FAILURE = "RELION_JOB_EXIT_FAILURE"
ABORTED = "RELION_JOB_EXIT_ABORTED"
CONTROL_FILES = (ABORT, SUCCESS, FAILURE, ABORTED)
HEARTBEAT_SECONDS = 5.0
LAST_SECOND = 1e11  # Unix seconds; later times are beyond the C library's calendar

EXIT_SUCCESS, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_ABORTED = 0, 1, 2, 3

WITH_IMAGES = "GaussianEM images"
"""Text key of a PNG whose greys are measured values: a dark theme must not invert its brightness."""

# Artifact kinds and the node label that RELION's graph knows them by.
ARTIFACTS = {
    "particles": "ParticleGroupMetadata.star.relion",
    "map": "DensityMap.mrc",
    "half_map": "DensityMap.mrc.relion.halfmap",
    "mask": "Mask3D.mrc",
    "volume": "DensityMap.mrc",
    "volume_series": "DensityMap.mrc",
    "preprocessed": "ProcessData.json.gaussianem.preprocessed",
    "stack": "Image2DStack.mrc",
    "poses": "ProcessData.npy.gaussianem.poses",
    "ctf": "ProcessData.npy.gaussianem.ctf",
    "gaussians": "ProcessData.ply.gaussianem.gaussians",
    "configuration": "ProcessData.json.gaussianem.configuration",
    "checkpoint": "MlModel.pkl.gaussianem.checkpoint",
    "latents": "ProcessData.pkl.gaussianem.latents",
    "trajectory": "ProcessData.txt.gaussianem.trajectory",
    "plot": "LogFile.png.gaussianem.plot",
    "report": "LogFile.html.gaussianem.report",
    "summary": "ProcessData.json.gaussianem.summary",
    "truth": "ProcessData.npz.gaussianem.truth",
    "model": "AtomCoords.cif",
    "script": "ProcessData.cxc.chimerax",
    "probe": "ProcessData.npz.gaussianem.probe",
}


def refuse_existing(directory: Path, names: list[str], overwrite: bool) -> None:
    """Raise InputError if ``directory`` holds one of the results ``names`` and ``overwrite`` is not given.

    A file that the run reads is refused all the same.
    """
    for name in names:
        refuse_source(directory / name)
    present = [name for name in names if (directory / name).exists()]
    if present and not overwrite:
        raise InputError(
            "output",
            "must not hold results already",
            directory / present[0],
            "Choose another --output, or give --overwrite to replace them.",
        )


class JobLog:
    """The engine's side of a job directory. Use as a context manager: it writes start, heartbeat, end and exit files.

    ``directory`` is created. ``echo`` receives each event too (a progress bar, say). An exception inside the block
    is recorded as failed (or aborted, for AbortRequested) and raised again.

    Raises InputError on entry where the directory cannot be written.
    """

    def __init__(
        self,
        directory: Path | str,
        command: list[str],
        version: str = "",
        echo: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._command, self._version, self._echo = command, version, echo
        self._stop = threading.Event()
        self._terminated = threading.Event()
        self._lock = threading.Lock()
        self._progress_at = 0.0
        self._stage_start: dict[str, tuple[float, float]] = {}
        self._plan: JobPlan | None = None

    def __enter__(self) -> JobLog:
        self._old_handlers = {}
        if threading.current_thread() is threading.main_thread():  # before anything is written: no job ends unnoted
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old_handlers[number] = signal.signal(number, self._terminate)
        try:
            self._begin()
        except BaseException:
            self._restore_handlers()
            raise
        return self

    def _begin(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in (SUCCESS, FAILURE, ABORTED):
                (self.directory / name).unlink(missing_ok=True)
            for folder in (self.directory, *filter(Path.is_dir, self.directory.iterdir())):
                remove_left_overs(folder)
            self._file = open(append_regular(self.directory / EVENTS), "a", buffering=1)
            if not _ends_whole(self.directory / EVENTS):  # cut by a crash: what follows must not be taken for its end
                self._file.write("\n")
        except OSError as error:
            raise InputError(
                "output",
                "must be a writable directory",
                f"{self.directory}: {error.strerror}",
                "Choose a directory that you may write to.",
            ) from error
        self._last_word = LastWord(self.directory / END)
        self._began = time.time()
        who = {**identity(), "scheduler_id": scheduler_id()}
        self._beat(who)
        try:
            self.emit("start", command=self._command, version=self._version, **who)
        except OSError as error:
            self._leave("failed", FAILURE, _reason(error, self.directory))
            raise
        self._thread = threading.Thread(target=self._beat_forever, args=(who,), daemon=True)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._old_handlers:  # too late to stop; the end must be written
            signal.signal(number, signal.SIG_IGN)
        self._stop.set()
        self._thread.join()
        if error is None:
            status, name, reason = "succeeded", SUCCESS, ""
        elif isinstance(error, AbortRequested | KeyboardInterrupt):
            status, name, reason = "aborted", ABORTED, str(error)
        else:
            status, name, reason = "failed", FAILURE, _reason(error, self.directory)
        self._leave(status, name, reason)
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _leave(self, status: str, name: str, reason: str) -> None:
        """Say how it ended, as the last event and by the exit file ``name``; a full disk cannot hide it."""
        end = {"status": status, "reason": reason, "seconds": time.time() - self._began}
        try:
            self.emit("end", **end)
            self._file.close()
            os.close(append_regular(self.directory / name))
        except (OSError, InputError):
            self._last_word.say(t=time.time(), type="end", **end)
        else:
            self._last_word.drop()
        with contextlib.suppress(OSError):
            self._file.close()
        for left in (HEARTBEAT, ABORT):
            with contextlib.suppress(OSError):
                (self.directory / left).unlink(missing_ok=True)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._terminated.is_set():  # a second signal does not wait for a safe point
            raise AbortRequested(f"stopped by signal {signal.Signals(number).name}")
        self._terminated.set()

    def _beat(self, who: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # a heartbeat missed on a full disk is no reason to die
            write_atomically(self.directory / HEARTBEAT, json.dumps({**who, "t": time.time()}))

    def _beat_forever(self, who: dict[str, object]) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._beat(who)

    def emit(self, type: str, **fields: Any) -> None:
        """Append one event of this type to events.jsonl. Raises OSError, on a full disk for example."""
        event = {"t": time.time(), "type": type, **fields}
        line = json.dumps(event, default=str)
        with self._lock:
            self._file.write(line + "\n")
        if self._echo is not None:
            self._echo(event)

    def plan(
        self, shares: Mapping[str, float], repeated: Collection[str] = (), part: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        """Report the stages of the job (or of a ``part`` of it, from 0 to 1) with their usual shares of its time.

        From now on progress events hold the whole job's progress too. ``repeated``: stages that run several times.
        """
        self._plan = JobPlan(shares, repeated, part, self._began if part[0] == 0.0 else time.time())
        self.emit("plan", stages=list(shares))

    def progress(self, stage: str, done: float, total: float, unit: str = "images", every: float = 0.5) -> None:
        """Report ``done`` of ``total``; at most one event per ``every`` seconds, the last always.

        Raises AbortRequested if the user asked to stop.
        """
        now = time.time()
        begin_time, begin_done = self._stage_start.setdefault(stage, (now, done))
        if done <= begin_done:  # the stage begins, perhaps again
            begin_time, begin_done = self._stage_start[stage] = (now, done)
        if now - self._progress_at >= every or done >= total:
            self._progress_at = now
            elapsed = now - begin_time
            rate = (done - begin_done) / elapsed if elapsed > 0 and done > begin_done else 0.0
            left = (total - done) / rate if rate > 0 else None
            whole: dict[str, Any] = {}
            if self._plan is not None:
                self._plan.update(stage, done, total, left, now)
                whole = {"job_fraction": self._plan.fraction, "job_left_seconds": self._plan.left_seconds}
            self.emit("progress", stage=stage, done=done, total=total, unit=unit, rate=rate, left_seconds=left, **whole)
            self.check_abort()

    def metric(self, stage: str, step: int, epoch: float, **values: float) -> None:
        """Report numbers of a step; not-a-number is written as null."""
        clean = {name: (float(v) if math.isfinite(v) else None) for name, v in values.items()}
        self.emit("metric", stage=stage, step=step, epoch=epoch, values=clean)

    def artifact(self, kind: str, path: Path | str, label: str = "", **info: Any) -> None:
        """Report a finished file (or a directory, for a series); ``path`` may be absolute or relative to the job."""
        assert kind in ARTIFACTS, kind
        path = Path(path)
        relative = path.relative_to(self.directory) if path.is_absolute() or self.directory in path.parents else path
        self.emit("artifact", kind=kind, path=str(relative), label=label or relative.name, info=info)

    def message(self, text: str, level: str = "info") -> None:
        """Report a sentence for the user."""
        self.emit("message", level=level, text=printable(text))

    def abort_requested(self) -> bool:
        """True once the abort file stands in the directory or SIGTERM/SIGINT came."""
        return self._terminated.is_set() or (self.directory / ABORT).exists()

    def check_abort(self) -> None:
        """Raise AbortRequested if the user asked to stop."""
        if self.abort_requested():
            raise AbortRequested("stopped on request")


class NullLog(JobLog):
    """The log of a process of a training that is not rank 0: it writes nothing and watches for nothing."""

    def __init__(self, directory: Path | str) -> None:
        super().__init__(directory, [])

    def emit(self, type: str, **fields: Any) -> None:
        """Nothing: rank 0 reports."""

    def plan(
        self, shares: Mapping[str, float], repeated: Collection[str] = (), part: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        """Nothing: rank 0 tells how far the job is."""

    def abort_requested(self) -> bool:
        """False: rank 0 watches for requests and tells the others."""
        return False


def _reason(error: BaseException, directory: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full (while writing {error.filename or directory}). Free some space and run it again."
    return printable(error).strip() or type(error).__name__


def _ends_whole(path: Path) -> bool:
    with contextlib.suppress(OSError), open_regular(path) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    return True


def read_events(path: Path | str, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Events in ``path`` from byte ``offset``, and the offset after the last whole line.

    A line that is still being written stays for the next call; a damaged line is skipped. A file that cannot be read
    gives ``([], offset)``; a file shorter than ``offset`` (it was replaced) is read from its start.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < offset:
                offset = 0
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return parse_events(data[:end]), offset + end


_NEEDED = {
    "progress": ("stage", "done", "total"),
    "metric": ("stage", "step", "epoch", "values"),
    "artifact": ("kind", "path"),
    "message": ("text",),
    "end": ("status",),
}
_TEXTS = ("stage", "unit", "kind", "path", "label", "level", "text", "status", "reason", "version", "host")
_NUMBERS = ("done", "total", "rate", "step", "epoch", "seconds")


def parse_events(data: bytes) -> list[dict[str, Any]]:
    """The events in whole lines of JSON; a line that is no event of the module's form is left out."""
    events = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and _well_formed(event):
                events.append(event)
    return events


def _well_formed(event: dict[str, Any]) -> bool:
    kind, values = event.get("type"), event.get("values", {})
    return (
        isinstance(kind, str)
        and all(name in event for name in _NEEDED.get(kind, ()))
        and all(isinstance(event.get(name, ""), str) for name in _TEXTS)
        and all(_is_number(event.get(name, 0)) for name in _NUMBERS)
        and _is_number(event.get("t", 0))
        and 0 <= event.get("t", 0) < LAST_SECOND
        and (event.get("left_seconds") is None or _is_number(event["left_seconds"]))
        and isinstance(event.get("info", {}), dict)
        and isinstance(event.get("command", []), list)
        and isinstance(values, dict)
        and all(value is None or _is_number(value) for value in values.values())
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # neither NaN nor infinite
