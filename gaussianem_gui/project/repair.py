"""Repair of a project after a crash, a full disk or manual changes: nothing is deleted, every step is reported."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import OPTIONS
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.project import lock as _lock
from gaussianem_gui.project.containment import inside, leads_out, made_folder
from gaussianem_gui.project.graph import GRAPH, Graph, Process, job_number, read_graph
from gaussianem_gui.project.graph_file import write_graph
from gaussianem_gui.project.inputs import input_nodes
from gaussianem_gui.project.job import JOB_STAR, LABEL, PIPELINE_STAR, Job, State
from gaussianem_gui.project.job_star import read_job_star
from gaussianem_gui.project.project import DELETED, TRASH, Project, graph_state
from gaussianem_gui.project.small_files import read_json

_STALE_SECONDS = 3600.0


def repair(project: Project, break_lock: bool = False) -> list[str]:
    """Repair the project; returns a sentence for each thing done or noticed.

    Enters job directories that the graph lacks, corrects the job counter, restores links of aliases, and moves
    leftovers of crashes to the trash. Raises LockHeld if the project is locked and ``break_lock`` is not given.
    """
    told: list[str] = []
    holder = project.lock_holder()
    if holder is not None and break_lock:
        told.append(f"the lock was broken: {_lock.break_lock(project.root)}")
    project.notes.clear()
    with project.change("repairs the project") as graph:
        told += project.notes
        told += _adopt(project, graph)
        told += _missing(project, graph)
        told += _counter(project.root, graph)
        told += _aliases(project.root, graph)
        told += _leftovers(project.root)
    if project.sync():
        told.append("states of jobs were brought up to date")
    return told


def rebuild(root: Path) -> Project:
    """Rebuild the graph from the job directories, where it is lost with its copy; a project that opens is returned as
    it is.

    Raises LockHeld if the project is locked.
    """
    try:
        return Project.open(root)
    except InputError:
        pass
    with _lock.locked(root, "rebuilds the graph"):
        damaged = root / GRAPH
        if damaged.exists():
            os.replace(damaged, root / f"{GRAPH}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        write_graph(root, Graph())
    project = Project.open(root)
    repair(project)
    return project


def _job_directories(root: Path) -> list[str]:
    names = []
    for folder in sorted(os.scandir(root), key=lambda entry: entry.name):
        if folder.name == TRASH or folder.name.startswith(".") or not folder.is_dir(follow_symlinks=False):
            continue
        names += [
            f"{folder.name}/{entry.name}/"
            for entry in os.scandir(folder.path)
            if job_number(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    return sorted(names, key=job_number)


def _adopt(project: Project, graph: Graph) -> list[str]:
    """Enter job directories that the graph does not name: a crash came before the entry, or an old graph came back."""
    told = []
    for name in _job_directories(project.root):
        if name in graph.processes:
            continue
        directory = project.root / name
        label = _label(directory)
        if not label and all(entry.endswith(".tmp") for entry in os.listdir(directory)):
            target = _free(project.root / TRASH / name.rstrip("/"))
            made_folder(project.root, target.parent)
            os.rename(inside(project.root, directory), target)
            told.append(f"{name}, left empty by a crash, was moved to {TRASH}/")
            continue
        if not label:
            told.append(f"{name} holds no readable {JOB_STAR} and stays outside the graph")
            continue
        try:
            part = read_graph(directory / PIPELINE_STAR)
        except (OSError, ValueError):
            part = Graph()
        job = Job(project.root, name, label)
        part.counter = 0
        part.processes = {name: part.processes.get(name, Process(name, label, State.SCHEDULED.value))}
        alias = part.processes[name].alias.rstrip("/")
        if alias and any(p.alias.rstrip("/") == alias for p in graph.processes.values()):
            part.processes[name].alias = ""
        graph.merge(part)
        if job.job_type:
            if job.model is not None:
                try:
                    for node, node_label in input_nodes(project.root, job.job_type, job.values()).items():
                        graph.add_input(name, node, node_label)
                except InputError as error:
                    told.append(f"{name}: {error}")
            status = job.status()
            graph.processes[name].status = graph_state(status.state)
            if status.state.finished:
                project.add_outputs(graph, job)
        told.append(f"{name} was not in the graph and was entered as {graph.processes[name].status}")
    return told


def _label(directory: Path) -> str:
    """Type label of a job directory by its own files; "" if none of them says it."""
    try:
        return read_job_star(directory / JOB_STAR)[0]
    except InputError:
        job_type = str(read_json(directory / OPTIONS).get("job_type"))
        return f"{LABEL}{job_type}" if job_type in JOB_OPTIONS else ""


def _free(path: Path) -> Path:
    """``path``, or with a number after it where something lies there."""
    found, number = path, 0
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _missing(project: Project, graph: Graph) -> list[str]:
    told = []
    for name in list(graph.processes):
        if (project.root / name).is_dir():
            continue
        if (project.root / TRASH / name / DELETED).is_file():
            graph.remove(name)
            told.append(f"{name} lies in the trash; its deletion was completed")
        else:
            told.append(f"{name}: its directory is gone; delete the job to take it out of the list")
    return told


def _counter(root: Path, graph: Graph) -> list[str]:
    numbers = [p.number for p in graph.processes.values()]
    numbers += [job_number(name) for name in _job_directories(root)]
    if (root / TRASH).is_dir() and not (root / TRASH).is_symlink():
        numbers += [job_number(e.name) for f in os.scandir(root / TRASH) if f.is_dir() for e in os.scandir(f.path)]
    least = max(numbers, default=0) + 1
    if graph.counter >= least:
        return []
    told = f"the job counter was {graph.counter} and is now {least}"
    graph.counter = least
    return [told]


def _aliases(root: Path, graph: Graph) -> list[str]:
    told = []
    for process in graph.processes.values():
        link = root / process.alias.rstrip("/")
        there = not process.alias or link.is_symlink() or link.exists()
        if not there and (root / process.name).is_dir() and not leads_out(root, link):
            os.symlink(f"../{process.name}", link)
            told.append(f"the link {process.alias} was made again")
    return told


def _leftovers(root: Path) -> list[str]:
    told = []
    now = time.time()
    for path in [*root.glob(f".{GRAPH}*.tmp"), *root.glob(f"{_lock.LOCK}.*")]:
        if now - path.lstat().st_mtime > _STALE_SECONDS and (root / TRASH).is_dir():
            path.rename(inside(root, root / TRASH / path.name))
            told.append(f"{path.name}, left by a crash, was moved to {TRASH}/")
    return told
