"""GPUs of this machine: memory, load, the jobs that hold them, and processes that outlived their job."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.processes import alive, start_ticks
from gaussianem_gui.execution.launch import MARK
from gaussianem_gui.project.job import Job, State, is_waiting
from gaussianem_gui.project.small_files import read_json
from gaussianem_gui.project.user_folders import machine_folder

if TYPE_CHECKING:
    from gaussianem_gui.project.project import Project

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """A GPU: memory in bytes, load 0..1 (None if unknown), and the job that holds it ("" for none)."""

    index: int
    name: str
    uuid: str
    memory_total: int
    memory_used: int
    load: float | None = None
    job: str = ""


@dataclass(frozen=True)
class Zombie:
    """A process of a job that still runs though the job has ended; ``ticks``: its start (``processes.start_ticks``)."""

    pid: int
    ticks: int
    job: str
    gpu_bytes: int
    command: str


def _nvml() -> Any:
    """The nvml module, started; None where there is no NVIDIA driver or nvidia-ml-py is not installed."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the module raises classes of its own, and OSError for a missing library
        return None
    return pynvml


def gpus() -> list[Gpu]:
    """GPUs of this machine, with the job of this program that holds each; [] where there is none."""
    nvml = _nvml()
    if nvml is None:
        return []
    held = reservations()
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        load = None
        with contextlib.suppress(nvml.NVMLError):
            load = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0
        name, uuid = nvml.nvmlDeviceGetName(device), nvml.nvmlDeviceGetUUID(device)
        found.append(Gpu(index, str(name), str(uuid), int(memory.total), int(memory.used), load, held.get(index, "")))
    return found


def gpu_memory_by_pid() -> dict[int, int]:
    """Bytes of GPU memory that each process holds, by pid, as far as the driver reports it."""
    nvml = _nvml()
    held: dict[int, int] = {}
    for index in range(nvml.nvmlDeviceGetCount()) if nvml is not None else ():
        with contextlib.suppress(nvml.NVMLError):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                held[process.pid] = held.get(process.pid, 0) + int(process.usedGpuMemory or 0)
    return held


def allowed(cards: Sequence[Gpu], mask: str | None) -> list[int]:
    """Numbers of the GPUs that ``mask``, a CUDA_VISIBLE_DEVICES of numbers or UUIDs, allows; all if it is None."""
    if mask is None:
        return [card.index for card in cards]
    words = [word.strip() for word in mask.split(",") if word.strip()]
    return [c.index for c in cards if any(w == str(c.index) or (w[0] == "G" and c.uuid.startswith(w)) for w in words)]


# --- reservations: who of all our runners on this machine has given which GPU to which job ---------------------------


def reservations() -> dict[int, str]:
    """GPUs held by unfinished jobs: index -> job directory. Reservations of jobs that ended are removed."""
    held = {}
    for path in machine_folder().glob("gpu-*.json"):
        record = read_json(path)
        directory = Path(str(record.get("directory", "")))
        job = Job(directory.parent.parent, f"{directory.parent.name}/{directory.name}/", str(record.get("type", "")))
        now = job.record()
        holds = any(alive(who) for who in job.processes(now)) or is_waiting(job, now)
        holds = holds or job.status().state is State.RUNNING
        if now.get("run") != record.get("run") or not holds:
            path.unlink(missing_ok=True)
            continue
        with contextlib.suppress(OSError):  # kept young: old files of /tmp are swept away
            os.utime(path)
        held[int(path.stem.split("-")[1])] = str(directory)
    return held


@contextlib.contextmanager
def choosing() -> Iterator[None]:
    """A lock to hold while GPUs are chosen and reserved, as runners of several projects share the machine."""
    with open(machine_folder() / "gpus.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def reserve(job: Job, run: int, indices: Iterable[int]) -> None:
    """Write reservations of these GPUs for run number ``run`` of ``job``; they hold until it ends."""
    for index in indices:
        record = {"directory": str(job.directory), "type": job.type_label, "run": run}
        write_atomically(machine_folder() / f"gpu-{index}.json", json.dumps(record))


# --- zombies ----------------------------------------------------------------------------------------------------


def processes_of(directory: Path | None = None) -> dict[str, list[psutil.Process]]:
    """Running processes that jobs of this program started, by job directory (of one job, if given).

    Recognised by the environment variable that ``launch`` gives to every process of a job, torchrun's workers included.
    """
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK, "")
            if mark and (directory is None or mark == str(directory)) and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(mark, []).append(process)
    return found


def zombies(project: Project) -> list[Zombie]:
    """Processes on this machine of jobs of this project that have finished or are lost."""
    by_pid = gpu_memory_by_pid()
    found = []
    for mark, members in processes_of().items():
        directory = Path(mark)
        name = f"{directory.parent.name}/{directory.name}/"
        if directory.parent.parent != project.root or name not in project.graph().processes:
            continue
        job = project.job(name)
        leader = job.claim(job.record())
        # While the process above them lives, the job is only about to end.
        if not job.status().state.finished or alive(leader):
            continue
        for member in members:
            with contextlib.suppress(psutil.Error):
                command = " ".join(member.cmdline())[:200]
                held = by_pid.get(member.pid, 0)
                found.append(Zombie(member.pid, start_ticks(member.pid), name, held, command))
    return found


def kill_zombie(project: Project, zombie: Zombie) -> None:
    """Kill a process of :func:`zombies`; nothing happens if it has ended. Raises InputError for another process."""
    if zombie not in zombies(project) and start_ticks(zombie.pid) == zombie.ticks:
        raise InputError("process", "must be one that a job of this project left", zombie.pid, "End it by hand.")
    if start_ticks(zombie.pid) == zombie.ticks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(zombie.pid, signal.SIGKILL)
