"""Deleting jobs into ``Trash/`` and restoring them; removing files that a finished job no longer needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically
from gaussianem_gui.project.containment import inside, leads_out, made_folder
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
    member,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def delete(project: Project, job: Job | str | int, *, with_dependents: bool = False) -> list[str]:
    """Move ``job`` (and, on request, those that depend on it) to the trash; returns the names moved, last job first.

    Raises InputError where other jobs depend on it and that was not asked for, or where one of them runs.
    """
    job = project.job(job)
    forgotten: list[tuple[str, Graph]] = []
    with _moves() as move, project.change(f"deletes {job.name}") as graph:
        member(graph, job.name)
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
            if each.exists() and each.well_named:
                each.check_directory()
            process = graph.processes[each.name]
            state = (each.status() if each.job_type else foreign_status(project.root, process)).state
            queued = each.job_type and each.record().get("scheduler_id") and not state.finished
            if each.exists() and each.well_named and (state is State.RUNNING or queued):
                raise InputError("job", "must not be running", each.name, "Abort it first.")
        for each in jobs:
            part = graph.remove(each.name)
            if each.exists() and each.well_named:  # what lies elsewhere stays there
                write_atomically(each.file(DELETED), graph_text(part).encode(errors="surrogateescape"))
                target = _place(project.root, each.name.rstrip("/"))
                if target.exists():  # what a cleanup moved there earlier comes along
                    _merge(project.root, target, each.directory)
                    shutil.rmtree(target)
                move(each.directory, target)
            forgotten.append((each.name, part))
    for name, part in forgotten:
        _unlink_alias(project.root, part, name)
        _forget_nodes(project.root, part, name)
    return names


@contextlib.contextmanager
def _moves() -> Iterator[Callable[[Path, Path], None]]:
    """A rename that is taken back if what follows fails, as where a full disk does not take the new graph."""
    done: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.rename(source, target)
        done.append((source, target))

    try:
        yield move
    except BaseException:
        for source, target in reversed(done):
            with contextlib.suppress(OSError):
                os.rename(target, source)
        raise


def _place(root: Path, name: str) -> Path:
    """Where ``name`` lies in the trash; the folders above it are made. Raises InputError where a link leads out."""
    _check_trash(root)
    target = root / TRASH / name
    made_folder(root, target.parent)
    return inside(root, target)


def _check_trash(root: Path) -> None:
    """Raise InputError if the trash is a link: what lies behind it belongs to something else."""
    if (root / TRASH).is_symlink():
        raise InputError(TRASH, "must be a folder of the project", "a link", "Remove that link.")


def _merge(root: Path, source: Path, target: Path) -> None:
    """Move files of ``source`` that ``target`` does not have into it."""
    for folder, _, names in os.walk(source):
        for name in names:
            origin = Path(folder) / name
            place = target / origin.relative_to(source)
            if not place.exists() and not place.is_symlink():
                made_folder(root, place.parent)
                os.rename(inside(root, origin), inside(root, place))


def _unlink_alias(root: Path, graph: Graph, name: str) -> None:
    alias = graph.processes[name].alias.rstrip("/")
    if alias and (root / alias).is_symlink() and not leads_out(root, root / alias):
        (root / alias).unlink()


def _forget_nodes(root: Path, part: Graph, name: str) -> None:
    for node in part.outputs(name):
        with contextlib.suppress(OSError, InputError):
            inside(root, root / NODES / part.nodes.get(node, "").split(".")[0] / node).unlink(missing_ok=True)


def contents(project: Project) -> list[Trashed]:
    """Jobs in the trash, newest first. A folder with files that ``cleanup`` moved is not one of them.

    Raises InputError if the trash is a link.
    """
    _check_trash(project.root)
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
    """Job folders in the trash; what is a link there is none."""
    with contextlib.suppress(OSError):
        for folder in trash.iterdir():
            if folder.is_dir() and not folder.is_symlink():
                yield from (p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and job_number(p.name))


def restore(project: Project, name: str) -> Job:
    """Restore a job with its edges. Raises InputError if it is not in the trash or a job of that name exists."""
    wanted = name.strip().rstrip("/") + "/"
    found = contents(project)
    item = next((t for t in found if wanted in (t.name, f"{t.path.name}/", f"{TRASH}/{t.name}")), None)
    if item is None and wanted[:-1].isdigit():
        item = next((t for t in found if job_number(t.name) == int(wanted[:-1])), None)
    if item is None:
        raise InputError("job", "must be in the trash", name, "See `gaussianem job list --trash`.")
    with _moves() as move, project.change(f"restores {item.name}") as graph:
        if item.name in graph.processes and (project.root / item.name).exists():
            raise InputError("job", "must not exist already", item.name, "It is in the project.")
        part = _part(item)
        part.processes = {name: process for name, process in part.processes.items() if name == item.name}
        for process in part.processes.values():
            folder, alias = item.name.split("/", 1)[0], process.alias.rstrip("/").rsplit("/", 1)[-1]
            taken = any(p.alias == process.alias and p.name != item.name for p in graph.processes.values())
            process.alias = "" if taken else process.alias
            link = project.root / folder / alias
            process.alias = f"{folder}/{alias}/" if process.alias and _is_name(alias) else ""
            if process.alias and not link.is_symlink() and not link.exists():
                made_folder(project.root, link.parent)
                os.symlink(f"../{item.name}", link)
        target = project.root / item.name.rstrip("/")
        made_folder(project.root, target.parent)
        move(inside(project.root, item.path), inside(project.root, target))
        # An input whose maker is still in the trash comes back with that job, not before.
        part.counter = 0
        graph.merge(part)
        process = member(graph, item.name)
        if process.status == State.RUNNING.value:
            process.status = graph_state(foreign_status(project.root, process).state)
            process.status = State.FAILED.value if process.status == State.RUNNING.value else process.status
    job = project.job(item.name)
    job.remove(DELETED)
    return job


def _part(item: Trashed) -> Graph:
    """What the graph said of a job in the trash. Raises InputError if the file that says it is damaged."""
    path = _record(item.path) or item.path / DELETED
    try:
        part = read_graph(path)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path.name, "must be whole", f"{path}: {error}", "Take the files out by hand.") from error
    if item.name not in part.processes:
        raise InputError(path.name, f"must name {item.name}", path, "Take the files out by hand.")
    return part


def _is_name(alias: str) -> bool:
    return bool(alias) and "/" not in alias and alias not in (".", "..")


def empty(project: Project) -> int:
    """Delete the jobs in the trash permanently; returns the bytes freed.

    Raises InputError if the project is read-only or the trash is a link.
    """
    if project.read_only:
        raise InputError("project", "must be writable", project.root, "Ask its owner.")
    _check_trash(project.root)
    freed = 0
    trash = project.root / TRASH
    for path in list(_folders(trash)):
        freed += Job(trash, f"{path.parent.name}/{path.name}", "").size_bytes()
        shutil.rmtree(path)
    for path in _links(trash):  # the link goes, what lies behind it stays
        path.unlink(missing_ok=True)
    return freed


def _links(trash: Path) -> list[Path]:
    """Links in the trash in the place of job types and of jobs."""
    found = []
    with contextlib.suppress(OSError):
        for path in trash.iterdir():
            if path.is_symlink():
                found.append(path)
            elif path.is_dir():
                found += [inner for inner in path.iterdir() if inner.is_symlink()]
    return found


def cleanup(project: Project, job: Job | str | int, *, harsh: bool = False, dry_run: bool = False) -> list[str]:
    """Move files that a succeeded job no longer needs to the trash: old checkpoints and latents, temporary files.

    ``harsh`` takes the particle stack too, which Continue makes again. Returns project-relative paths; ``dry_run``
    moves nothing. Raises InputError for a job that has not succeeded.
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
    going = [
        path
        for path in dict.fromkeys(going)
        if path.startswith(job.name)
        and (project.root / path).is_file()
        and not leads_out(project.root, project.root / path)
    ]
    if dry_run or not going:
        return going
    with _moves() as move, project.change(f"cleans {job.name}") as graph:
        for path in going:
            move(inside(project.root, project.root / path), _place(project.root, path))
            if path not in read_by_others:
                graph.output_edges.pop((job.name, path), None)
                graph.nodes.pop(path, None)
        job.add_note(f"Cleaned up at {time.strftime('%H:%M')}: {len(going)} files moved to {TRASH}/")
    return going
