"""kill -9 of the user's program, of the runner, of jobs, at random moments: nothing is lost, counted twice or wrong."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import kill_jobs, kill_runners, project

from gaussianem_core.job.events import read_events
from gaussianem_gui.execution import runner
from gaussianem_gui.execution.gpus import processes_of
from gaussianem_gui.project import repair, trash
from gaussianem_gui.project.graph import job_number
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import TRASH, Project

__all__ = ["project"]
ROUNDS = 50

HELPERS = Path(__file__).parents[2]


def promised(journal: Path) -> dict[str, list[str]]:
    """What the users wrote down: jobs made (by a window too), those being deleted or stopped at some time."""
    found: dict[str, list[str]] = {"made": [], "window": [], "deletes": [], "aborts": []}
    for line in journal.read_text().splitlines():
        what, _, name = line.partition(" ")
        if name.endswith("/"):
            found.setdefault(what, []).append(name)
    return found


def mended(root: Path) -> Project:
    """Open the project as after a restart, and break the lock if its holder is dead."""
    project = Project.open(root)
    holder = project.lock_holder()
    assert holder is None or holder.dead is not None
    repair.repair(project, break_lock=holder is not None and holder.dead is True)
    return project


def check(project: Project, journal: Path, killed: set[str]) -> None:
    said = promised(journal)
    made, deleted, stopped = said["made"], said["deletes"], said["aborts"]
    assert len({job_number(name) for name in made}) == len(made), "a number was given twice"
    here = {info.name: info for info in project.jobs(details=10_000)}
    trashed = {item.name for item in trash.contents(project)}
    for name in made:
        assert name in here or (name in trashed and name in deleted), f"{name} is lost"
        assert not (name in here and here[name].missing), f"{name} has no directory"
    directories = [
        entry.name
        for folder in project.root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
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
        elif state is State.ABORTED:
            assert name in stopped, f"{name}: {info.status.detail}"
        else:
            assert state in (State.SCHEDULED, State.RUNNING), f"{name} is {state}"
        assert not ends or state is not State.RUNNING or job.exit_state() is not None, name


def test_a_crash_at_any_moment_leaves_a_project_that_opens(tmp_path: Path) -> None:
    """Every act, ended at its first change of the file system, its second, and so on."""
    done = subprocess.run(
        [sys.executable, str(HELPERS / "crash_points.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tried = dict(line.split() for line in done.stdout.splitlines())
    assert len(tried) == 10 and sum(map(int, tried.values())) > 150, tried


@pytest.mark.slow
def test_fifty_rounds_of_kill_9(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each round a window is killed, every other time a user of the command line; runner and jobs by chance."""
    pytest.importorskip("PySide6")
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    (project.root / "m.pdb").write_text("END\n")
    journal = tmp_path / "journal"
    journal.touch()
    here = HELPERS
    windows = subprocess.Popen(
        [sys.executable, str(here / "busy_window.py"), str(project.root), str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    )
    try:
        _rounds(project, journal, windows)
    finally:
        windows.communicate()


def _open_window(windows: subprocess.Popen[str], seed: int) -> psutil.Process:
    assert windows.stdin is not None and windows.stdout is not None
    windows.stdin.write(f"{seed}\n")
    return psutil.Process(int(windows.stdout.readline()))


def _running(root: Path, patience_seconds: float) -> list[tuple[str, psutil.Process]]:
    """Processes of jobs with the jobs' directories, as soon as there are any."""
    end = time.monotonic() + patience_seconds
    while True:
        found = [(d, m) for d, members in processes_of().items() if d.startswith(str(root)) for m in members]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)


def _rounds(project: Project, journal: Path, windows: subprocess.Popen[str]) -> None:
    chance = random.Random(20261122)
    killed: set[str] = set()
    root, jobs_killed, runners_killed = project.root, 0, 0
    assert windows.stdout is not None and windows.stdout.readline() == "ready\n"
    for round_number in range(ROUNDS):
        user = None
        window = _open_window(windows, round_number)
        if round_number % 2:
            words = [str(HELPERS / "busy_user.py"), str(root), str(journal), str(round_number)]
            user = subprocess.Popen([sys.executable, *words], start_new_session=True)
        time.sleep(chance.uniform(0.5, 2.5))
        if chance.random() < 0.5:
            kill_runners(project)
            runners_killed += 1
        running = _running(root, 5.0) if chance.random() < 0.5 else []
        if running:
            directory, member = chance.choice(running)
            killed.add(str(Path(directory).relative_to(root)) + "/")
            jobs_killed += 1
            with contextlib.suppress(psutil.Error):
                member.kill()
        window.kill()
        window.wait(30)
        if user is not None:
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
    said = promised(journal)
    assert len(said["made"]) > ROUNDS and jobs_killed > 5 and runners_killed > 5
    assert len(said["window"]) > 5, "the windows made no jobs"
    # How many end well is chance, and hangs on the load of the machine; each round offers at least one job.
    assert sum(info.status.state is State.SUCCEEDED for info in project.jobs()) > ROUNDS // 4
