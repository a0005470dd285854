"""Identity of a process on this machine, and whether it still runs. No torch here."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot (a changed clock does not move it); 0 if it is gone.

    A zombie that only waits for its parent counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def identity() -> dict[str, object]:
    """Host, boot, pid and start of this process, which together are unique (a pid alone may be used again)."""
    pid = os.getpid()
    started = psutil.Process().create_time()  # for systems that count no ticks
    return {"host": socket.gethostname(), "boot": boot_id(), "pid": pid, "ticks": start_ticks(pid), "started": started}


def scheduler_id() -> str:
    """The job id that the cluster's scheduler gave this process; "" outside a cluster job."""
    variables = ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID", "LSB_JOBID")
    return next((os.environ[name] for name in variables if name in os.environ), "")


def boot_id() -> str:
    """A name of this boot of this machine; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def alive(who: Mapping[str, object]) -> bool | None:
    """Whether the process that ``identity`` described still runs; None if it is on another host."""
    pid, ticks = who.get("pid"), who.get("ticks")
    if who.get("host") != socket.gethostname() or not isinstance(pid, int) or not 0 < pid < 2**31:
        return None
    if who.get("boot") and who["boot"] != boot_id():
        return False
    if ticks:
        return start_ticks(pid) == ticks
    started = who.get("started")  # seconds; a clock that jumped moves it
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return not isinstance(started, int | float) or abs(process.create_time() - started) < 60.0
    except psutil.Error:
        return False
