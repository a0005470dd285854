"""Deleting jobs into ``Trash/`` and bringing them back; clearing files that a finished job no longer needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically
from gaussianem_gui.project.graph import Graph, graph_text, job_number, read_graph
from gaussianem_gui.project.job import PIPELINE_STAR, Job, State
from gaussianem_gui.project.project import (
    DELETED,
    NODES,
    TRASH,
    Project,
    Trashed,
    dependents,
    foreign_status,
    graph_state,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def delete(project: Project, job: Job | str | int, *, with_dependents: bool = False) -> list[str]:
    """Move ``job`` (and what depends on it) to the trash; the names moved, last job first.

    Raises InputError where other jobs depend on it and that was not asked for, or where one of them runs.
    """
    job = project.job(job)
    with project.change(f"deletes {job.name}") as graph:
        below = dependents(graph, job.name)
        if below and not with_dependents:
            raise InputError(
                "job",
                "must have no jobs that depend on it",
                f"{job.name}, needed by {', '.join(below)}",
                "Delete those too (--with_dependents), or keep it.",
            )
        names = [job.name, *below][::-1]
        jobs = [project.job(name) for name in names]
        for each in jobs:
            if each.exists():
                each.check_directory()
            process = graph.processes[each.name]
            state = (each.status() if each.job_type else foreign_status(project.root, process)).state
            if state is State.RUNNING or (each.record().get("scheduler_id") and not state.finished):
                raise InputError("job", "must not be running", each.name, "Abort it first.")
        for each in jobs:
            _unlink_alias(project.root, graph, each.name)
            part = graph.remove(each.name)
            if each.exists():
                write_atomically(each.directory / DELETED, graph_text(part))
                target = project.root / TRASH / each.name.rstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():  # what a cleanup moved there earlier comes along
                    _merge(target, each.directory)
                    shutil.rmtree(target)
                os.rename(each.directory, target)
            _forget_nodes(project.root, part, each.name)
    return names


def _merge(source: Path, target: Path) -> None:
    """Move files of ``source`` that ``target`` does not have into it."""
    for folder, _, names in os.walk(source):
        for name in names:
            origin = Path(folder) / name
            place = target / origin.relative_to(source)
            if not place.exists() and not place.is_symlink():
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(origin, place)


def _unlink_alias(root: Path, graph: Graph, name: str) -> None:
    alias = graph.processes[name].alias.rstrip("/")
    if alias and (root / alias).is_symlink():
        (root / alias).unlink()


def _forget_nodes(root: Path, part: Graph, name: str) -> None:
    for node in part.outputs(name):
        with contextlib.suppress(OSError):
            (root / NODES / part.nodes[node].split(".")[0] / node).unlink(missing_ok=True)


def contents(project: Project) -> list[Trashed]:
    """Jobs in the trash, newest first. A folder with only cleared files of a living job is not one of them."""
    found = []
    for path in _folders(project.root / TRASH):
        record = _record(path)
        if record is not None:
            name = f"{path.parent.name}/{path.name}/"
            free = not (project.root / name).exists()
            found.append(Trashed(name, record.stat().st_mtime, path, free))
    return sorted(found, key=lambda item: (-item.deleted, -job_number(item.name)))


def _record(path: Path) -> Path | None:
    """The file that says what the job in ``path`` was: RELION's, or the one that ccpem-pipeliner leaves."""
    return next((path / name for name in (DELETED, PIPELINE_STAR) if (path / name).is_file()), None)


def _folders(trash: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for folder in trash.iterdir():
            if folder.is_dir() and not folder.is_symlink():
                yield from (path for path in folder.iterdir() if path.is_dir() and job_number(path.name))


def restore(project: Project, name: str) -> Job:
    """Bring a job back with its edges. Raises InputError if it is not in the trash or its place is taken."""
    wanted = name.strip().rstrip("/") + "/"
    found = contents(project)
    item = next((t for t in found if wanted in (t.name, f"{t.path.name}/", f"{TRASH}/{t.name}")), None)
    if item is None and wanted[:-1].isdigit():
        item = next((t for t in found if job_number(t.name) == int(wanted[:-1])), None)
    if item is None:
        raise InputError("job", "must be in the trash", name, "See `gaussianem job list --trash`.")
    with project.change(f"restores {item.name}") as graph:
        if item.name in graph.processes and (project.root / item.name).exists():
            raise InputError("job", "must not exist already", item.name, "It is in the project.")
        part = read_graph(_record(item.path) or item.path / DELETED)
        part.processes = {name: process for name, process in part.processes.items() if name == item.name}
        for process in part.processes.values():
            folder, alias = item.name.split("/", 1)[0], process.alias.rstrip("/").rsplit("/", 1)[-1]
            taken = any(p.alias == process.alias and p.name != item.name for p in graph.processes.values())
            process.alias = "" if taken else process.alias
            link = project.root / folder / alias
            if process.alias and not link.is_symlink() and not link.exists():
                link.parent.mkdir(exist_ok=True)
                os.symlink(f"../{item.name}", link)
        (project.root / item.name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(item.path, project.root / item.name.rstrip("/"))
        # An input whose maker is still in the trash comes back with that job, not before.
        part.counter = 0
        graph.merge(part)
        (project.root / item.name / DELETED).unlink(missing_ok=True)
        process = graph.processes[item.name]
        if process.status == State.RUNNING.value:
            process.status = graph_state(foreign_status(project.root, process).state)
            process.status = State.FAILED.value if process.status == State.RUNNING.value else process.status
    return project.job(item.name)


def empty(project: Project) -> int:
    """Delete everything in the trash for good; bytes freed."""
    if project.read_only:
        raise InputError("project", "must be writable", project.root, "Ask its owner.")
    freed = 0
    trash = project.root / TRASH
    for path in list(_folders(trash)):
        freed += Job(trash, f"{path.parent.name}/{path.name}", "").size_bytes()
        shutil.rmtree(path)
    return freed


def cleanup(project: Project, job: Job | str | int, *, harsh: bool = False, dry_run: bool = False) -> list[str]:
    """Files of a succeeded job that can go: superseded checkpoints and latents, leftovers of writing.

    ``harsh`` takes the particle stack too: Continue makes it again. Returned are project-relative paths.
    """
    job = project.job(job)
    job.check_directory()
    if job.status().state is not State.SUCCEEDED:
        raise InputError("job", "must have succeeded", job.name, "Clean up finished jobs only.")
    artifacts = job.artifacts()
    going: list[str] = []
    for kind in ("checkpoint", "latents"):
        of_kind = [a for a in artifacts if a.kind == kind]
        # Half-set runs report checkpoints of their own: the last of each folder stays.
        last = {os.path.dirname(a.path): a.path for a in of_kind}
        going += [a.path for a in of_kind if a.path not in last.values()]
    if harsh:
        going += [a.path for a in artifacts if a.kind == "stack"]
    leftovers = job.directory.rglob("*.tmp") if job.exists() else ()
    going += [str(path.relative_to(project.root)) for path in leftovers]
    read_by_others = {n for n, p in project.graph().input_edges if p != job.name}
    if not harsh:
        going = [path for path in going if path not in read_by_others]
    going = [p for p in dict.fromkeys(going) if p.startswith(job.name) and (project.root / p).is_file()]
    if dry_run or not going:
        return going
    with project.change(f"cleans {job.name}") as graph:
        for path in going:
            target = project.root / TRASH / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(project.root / path, target)
            if path not in read_by_others:
                graph.output_edges.pop((job.name, path), None)
                graph.nodes.pop(path, None)
        job.add_note(f"Cleaned up at {time.strftime('%H:%M')}: {len(going)} files moved to {TRASH}/")
    return going
