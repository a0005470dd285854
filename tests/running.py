"""A project whose jobs really run, with a quick engine, and what tests of running jobs share."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gaussianem_core.runtime.processes import identity
from gaussianem_gui.execution.gpus import processes_of
from gaussianem_gui.project import wishes
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project
from gaussianem_gui.project.wishes import Wish

ENGINE = f"'{sys.executable}' '{Path(__file__).with_name('tiny_engine.py')}'"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with an unkind name; what still runs at the end is ended."""
    monkeypatch.setenv("GAUSSIANEM_ENGINE", ENGINE)
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(tmp_path))
    # Jobs import the checkout wherever they run.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    project = Project.create(tmp_path / "a project; $(touch pwned) 'x'")
    yield project
    kill_runners(project)
    kill_jobs(project)


def kill_runners(project: Project) -> None:
    """kill -9 of the background runner of this project."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "gaussianem_gui.execution.runner" in words and str(project.root) in words:
                process.kill()
                process.wait(5)


def kill_jobs(project: Project) -> None:
    """kill -9 of all that jobs of this project started."""
    for directory, members in processes_of().items():
        for member in members if directory.startswith(str(project.root)) else ():
            with contextlib.suppress(psutil.Error):
                member.kill()


def add(project: Project, does: str = "ok", job_type: str = "simulate", **values: object) -> Job:
    """A job that does what ``tiny_engine`` knows."""
    required = {"simulate": {"model": "m.pdb"}, "preprocess": {"star_file": "p.star", "consensus_map": "m.mrc"}}
    return project.new_job(job_type, {**required.get(job_type, {}), "output": does, **values})


def asked(job: Job, **record: object) -> Wish:
    """As ``runner.request`` notes a wish to run, without a runner."""
    run = job.record().get("run", 0) + 1
    wish = Wish(project=str(job.root), job=job.name, run=run, where="local", host=str(identity()["host"]))
    wishes.keep(wish)
    job.write_record(run=run, token=wish.token, requested=wish.requested, where="local", **record)
    return wish


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
