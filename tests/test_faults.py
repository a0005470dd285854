"""kill -9 of the user's program, of the runner, of jobs, at random moments: nothing is lost, counted twice or wrong."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import kill_jobs, kill_runners, project

from gaussianem_core.events import read_events
from gaussianem_gui import runner
from gaussianem_gui.gpus import processes_of
from gaussianem_gui.job import State
from gaussianem_gui.pipeline_star import job_number
from gaussianem_gui.project import TRASH, Project

__all__ = ["project"]
ROUNDS = 50


def promised(journal: Path) -> tuple[list[str], set[str]]:
    """Jobs that were reported as made, and those that were being deleted at some time."""
    words = [line.split(" ", 1) for line in journal.read_text().splitlines() if line.endswith(("/", "/\n"))]
    return [name for what, name in words if what == "made"], {name for what, name in words if what == "deletes"}


def mended(root: Path) -> Project:
    """Open the project as after a restart, and break the lock if its holder is dead."""
    project = Project.open(root)
    holder = project.lock_holder()
    assert holder is None or holder.dead is not None
    project.repair(break_lock=holder is not None and holder.dead is True)
    return project


def check(project: Project, journal: Path, killed: set[str]) -> None:
    made, deleted = promised(journal)
    assert len({job_number(name) for name in made}) == len(made), "a number was given twice"
    here = {info.name: info for info in project.jobs(details=10_000)}
    trashed = {item.name for item in project.trash()}
    for name in made:
        assert name in here or (name in trashed and name in deleted), f"{name} is lost"
        assert not (name in here and here[name].missing), f"{name} has no directory"
    directories = [
        entry.name for folder in project.root.iterdir() if folder.is_dir() and not folder.name.startswith(".")
        for entry in (folder.rglob("job*") if folder.name == TRASH else folder.iterdir())
        if job_number(entry.name) and entry.is_dir() and not entry.is_symlink()
    ]
    assert len(set(directories)) == len(directories), "two directories have one number"
    assert project.graph().counter > max(map(job_number, directories), default=0)
    for name, info in here.items():
        job = project.job(name)
        events = read_events(job.directory / "events.jsonl")[0]
        ends = [event["status"] for event in events if event["type"] == "end"]
        assert sum(event["type"] == "start" for event in events) <= 1, f"{name} was started twice"
        state = info.status.state
        if state is State.SUCCEEDED:
            assert ends == ["succeeded"], name
        elif state in (State.FAILED, State.LOST):
            assert name in killed, f"{name}: {info.status.detail}"
        else:
            assert state in (State.SCHEDULED, State.RUNNING), f"{name} is {state}"
        assert not ends or state is not State.RUNNING or job.exit_state() is not None, name


@pytest.mark.slow
def test_fifty_rounds_of_kill_9(project: Project, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    chance = random.Random(20261122)
    killed: set[str] = set()
    root, jobs_killed, runners_killed = project.root, 0, 0
    for round_number in range(ROUNDS):
        user = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("busy_user.py")), str(root), str(journal), str(round_number)],
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.5, 1.2))
        if chance.random() < 0.5:
            kill_runners(project)
            runners_killed += 1
        running = [(d, m) for d, members in processes_of().items() if d.startswith(str(root)) for m in members]
        if running and chance.random() < 0.5:
            directory, member = chance.choice(running)
            killed.add(str(Path(directory).relative_to(root)) + "/")
            jobs_killed += 1
            with contextlib.suppress(psutil.Error):
                member.kill()
        user.kill()
        user.wait()
        if chance.random() < 0.3:
            kill_runners(project)
        project = mended(root)
        check(project, journal, killed)
        runner.ensure_runner(project)
    kill_runners(project)
    project = mended(root)
    waiting = [n for n in project.graph().processes if project.job(n).record().get("requested")]
    runner.ensure_runner(project)
    for name in waiting:
        assert runner.wait(project, name, 120).finished
    kill_jobs(project)
    project = mended(root)
    check(project, journal, killed)
    made, _ = promised(journal)
    assert len(made) > ROUNDS and jobs_killed > 5 and runners_killed > 10
    assert sum(info.status.state is State.SUCCEEDED for info in project.jobs()) > ROUNDS // 2
