"""What a crash at any moment leaves: each act on a project is done again and again, and dies one write later each time.

Called with a folder. Every child is a fork that ends, as by kill -9, at its n-th change of the file system; the parent
then opens the project as after a restart. Prints one line an act: its name and the number of moments tried.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from gaussianem_gui.execution import runner
from gaussianem_gui.project import repair, trash
from gaussianem_gui.project.graph import job_number
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
_left = [0]


def _die_in_time(event: str, arguments: tuple) -> None:
    if _left[0] and (event in CHANGES or (event == "open" and _writes(arguments[1], arguments[2]))):
        _left[0] -= 1
        if _left[0] == 0:
            os._exit(9)


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _names(project: Project) -> set[str]:
    return {info.name for info in project.jobs()} | {item.name for item in trash.contents(project)}


def prepare(root: Path) -> None:
    """A project with a chain of two jobs, one in the trash, and one that is done but not yet noted in the graph."""
    project = Project.create(root)
    first = project.new_job("preprocess", {"star_file": "p.star", "consensus_map": "m.mrc"}, alias="first")
    project.new_job("train", inputs_from=[first])
    trash.delete(project, project.new_job("simulate", {"model": "m"}, alias="gone"))
    done = project.new_job("simulate", {"model": "m"})
    done.write_record(run=1, requested=1.0)
    (done.directory / "consensus.mrc").write_text("x")
    event = {"t": 1.0, "type": "artifact", "kind": "map", "path": "consensus.mrc", "label": "Map"}
    (done.directory / "events.jsonl").write_text(json.dumps(event) + "\n")
    (done.directory / "RELION_JOB_EXIT_SUCCESS").touch()


ACTS: dict[str, Callable[[Project], object]] = {
    "new": lambda p: p.new_job("simulate", {"model": "m"}, alias="new one", note="why"),
    "clone": lambda p: p.clone(1),
    "update": lambda p: p.update(2, {"epoch": 7}),
    "alias": lambda p: p.set_alias(1, "other"),
    "mark": lambda p: p.mark(2, State.FAILED),
    "sync": lambda p: p.sync(),
    "delete": lambda p: trash.delete(p, 1, with_dependents=True),
    "restore": lambda p: trash.restore(p, "Simulate/job003"),
    "request": lambda p: runner.request(p, 1),
    "repair": lambda p: repair.repair(p),
}


def check(root: Path, name: str) -> None:
    """The project opens, nothing is lost, and it can be worked with."""
    project = Project.open(root)
    assert not project.notes, project.notes
    holder = project.lock_holder()
    assert holder is None or holder.dead, holder
    repair.repair(project, break_lock=True)
    names = _names(project)
    kept = {"Preprocess/job001/", "Train/job002/", "Simulate/job003/", "Simulate/job004/"}
    assert kept <= names, kept - names
    assert not [info for info in project.jobs() if info.missing]
    for info in project.jobs():
        job = project.job(info.name)
        assert job.values() and (not info.alias or project.job(info.alias).name == info.name)
        wanted = State.SUCCEEDED if info.number == 4 else State.SCHEDULED
        assert info.status.state is wanted or (name == "mark" and info.status.state is State.FAILED), info
    numbers = [job_number(n) for n in names]
    assert len(set(numbers)) == len(numbers)
    fresh = project.new_job("simulate", {"model": "m"})
    assert fresh.number > max(numbers) and project.jobs()[-1].name == fresh.name
    if {"Preprocess/job001/", "Train/job002/"} <= {info.name for info in project.jobs()}:
        assert project.parents(2) == ["Preprocess/job001/"]
    again = Project.open(root)
    assert (told := repair.repair(again)) == [], told


def main(folder: Path) -> None:
    sys.addaudithook(_die_in_time)
    runner.ensure_runner = lambda project: None
    prepare(folder / "start")
    for name, act in ACTS.items():
        moment = 0
        while True:
            moment += 1
            root = folder / name
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(folder / "start", root, symlinks=True)
            child = os.fork()
            if child == 0:
                project = Project.open(root)
                _left[0] = moment
                act(project)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, 9), f"{name}: exit code {code}"
            try:
                check(root, name)
            except BaseException as error:
                error.add_note(f"{name}, killed at its change number {moment}")
                raise
            if code == 0:
                break
        print(name, moment - 1, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
