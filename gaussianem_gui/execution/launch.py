"""Supervises one local run of a job: claims the run, starts the program, notes how it ended.

A process of its own session, so that it lives on when the desktop application or the runner is closed or killed. Only
the one that creates the claim file runs: two runners that start the same run by mistake start it once. Called as
``python -m gaussianem_gui.execution.launch ROOT JOB RUN -- PROGRAM ARGUMENT...``; never through a shell.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.job.last_word import END, LastWord, disk_full
from gaussianem_core.runtime.plain_files import append_regular
from gaussianem_core.runtime.processes import identity, start_ticks

EXIT, RECORD, OUT, ERR = ".gaussianem_exit.json", ".gaussianem_job.json", "run.out", "run.err"
ENDINGS = ("RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED")
MARK = "GAUSSIANEM_JOB"  # every process of the job carries this variable: so they are found, whatever they start
FAILURE, ABORTED, ABORT = ENDINGS[1], ENDINGS[2], "RELION_JOB_ABORT_NOW"


def claim(path: Path, content: dict[str, object]) -> bool:
    """Create ``path`` with ``content`` as JSON in one step; False if it exists. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content))
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        try:  # a file system without hard links
            with open(path, "x") as file:
                file.write(json.dumps(content))
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def main(argv: list[str]) -> int:
    """Run the program that follows ``--``; returns its exit code (128 + number if a signal killed it), 0 where another
    process has claimed the run."""
    root, directory, run = Path(argv[0]), Path(argv[0]) / argv[1], int(argv[2])
    command = argv[argv.index("--") + 1 :]
    path = directory / f".gaussianem_run_{run}.json"
    # A request to stop goes to the whole group: the program ends by itself, and this process notes how.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not claim(path, identity()):
        return 0
    last_word = LastWord(directory / EXIT)
    environment = {**os.environ, MARK: str(directory)}
    code, reason = 1, ""
    try:
        code = _run(command, root, directory, environment, path)
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = f"{command[0]} could not be started: {reason}"
    _note_end(directory, run, code, reason, last_word)
    return code if code >= 0 else 128 - code


def _run(command: list[str], root: Path, directory: Path, environment: dict[str, str], path: Path) -> int:
    """Start the program, note in ``path`` which process it is, and wait for it; its exit code."""
    with open(append_regular(directory / OUT), "ab") as out, open(append_regular(directory / ERR), "ab") as err:
        child = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            preexec_fn=_default_signals,
            env=environment,
        )
    who = {**identity(), "pid": child.pid, "ticks": start_ticks(child.pid)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps({**identity(), "child": who}))
        os.replace(temporary, path)
    except OSError:  # a full disk: its heartbeat names it too
        temporary.unlink(missing_ok=True)
    return child.wait()


def _default_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _note_end(directory: Path, run: int, code: int, reason: str, last_word: LastWord) -> None:
    """Keep the exit code, and an exit file where the program could not write one."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    try:
        if json.loads((directory / RECORD).read_text()).get("run") != run:
            last_word.drop()
            return  # another run was asked for meanwhile: these files are its
    except (OSError, ValueError, AttributeError):
        pass
    last_word.say(
        run=run,
        code=code,
        signal=-code if code < 0 else 0,
        ended=time.time(),
        max_memory_bytes=peak,
        reason=reason or (disk_full(directory) if code else ""),
    )
    with contextlib.suppress(OSError, InputError):
        if not any((directory / name).exists() for name in ENDINGS):
            stopped = (directory / ABORT).exists()
            ending = "RELION_JOB_EXIT_SUCCESS" if code == 0 else ABORTED if stopped else FAILURE
            os.close(append_regular(directory / ending))
    for name in (ABORT, "heartbeat.json") if code < 0 else (ABORT,):
        with contextlib.suppress(OSError):
            (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # room for the program's own last word, which it did not live to write
        if (directory / END).read_bytes().isspace():
            (directory / END).unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
