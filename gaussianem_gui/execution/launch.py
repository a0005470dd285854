"""Stands above one local run of a job: claims the run, starts the program, notes how it ended.

A process of its own session, so that it lives on when the desktop application or the runner is closed or killed. Only
the one that creates the claim file runs: two runners that start the same run by mistake start it once. Called as
``python -m gaussianem_gui.execution.launch ROOT JOB RUN -- PROGRAM ARGUMENT...``; never through a shell.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from gaussianem_core.runtime.processes import identity, start_ticks

EXIT, RECORD, OUT, ERR = ".gaussianem_exit.json", ".gaussianem_job.json", "run.out", "run.err"
ENDINGS = ("RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED")
MARK = "GAUSSIANEM_JOB"  # every process of the job carries this variable: so they are found, whatever they start
FAILURE, ABORTED, ABORT = ENDINGS[1], ENDINGS[2], "RELION_JOB_ABORT_NOW"


def claim(path: Path, content: dict[str, object]) -> bool:
    """Create ``path`` whole or not at all; False if it is there already."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with open(path, "x") as file:
                file.write(json.dumps(content))
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def main(argv: list[str]) -> int:
    """Run the program that follows ``--`` and return its exit code."""
    root, directory, run = Path(argv[0]), Path(argv[0]) / argv[1], int(argv[2])
    command = argv[argv.index("--") + 1 :]
    path = directory / f".gaussianem_run_{run}.json"
    if not claim(path, identity()):
        return 0
    # A request to stop goes to the whole group: the program ends by itself, and this process notes how.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    environment = {**os.environ, MARK: str(directory)}
    reason, code = "", 1
    with open(directory / OUT, "ab") as out, open(directory / ERR, "ab") as err:
        try:
            child = subprocess.Popen(
                command,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=_default_signals,
                env=environment,
            )
        except OSError as error:
            reason = f"{command[0]} could not be started: {error.strerror}"
        else:
            who = {**identity(), "pid": child.pid, "ticks": start_ticks(child.pid)}
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps({**identity(), "child": who}))
            os.replace(temporary, path)
            code = child.wait()
    _note_end(directory, run, code, reason)
    return code if code >= 0 else 128 - code


def _default_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _note_end(directory: Path, run: int, code: int, reason: str) -> None:
    """Keep the exit code, and an exit file where the program could not write one."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    note = {
        "run": run,
        "code": code,
        "signal": -code if code < 0 else 0,
        "ended": time.time(),
        "max_memory_bytes": peak,
        "reason": reason,
    }
    with contextlib.suppress(OSError, ValueError):
        if json.loads((directory / RECORD).read_text()).get("run") != run:
            return  # another run was asked for meanwhile: these files are its
        temporary = directory / f"{EXIT}.tmp"
        temporary.write_text(json.dumps(note))
        os.replace(temporary, directory / EXIT)
        if not any((directory / name).exists() for name in ENDINGS):
            stopped = (directory / ABORT).exists()
            (directory / ("RELION_JOB_EXIT_SUCCESS" if code == 0 else ABORTED if stopped else FAILURE)).touch()
        (directory / ABORT).unlink(missing_ok=True)
        if code < 0:
            (directory / "heartbeat.json").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
