"""Projects from elsewhere: what their files name is never run, whatever is opened, listed, watched or looked after."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import add, asked, project, until

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import HEARTBEAT
from gaussianem_core.runtime.processes import identity, start_ticks
from gaussianem_gui.execution import cluster, runner
from gaussianem_gui.execution.cluster import ClusterSettings, is_identifier
from gaussianem_gui.execution.runner import Launch, Runner
from gaussianem_gui.project import trash, user_folders, wishes
from gaussianem_gui.project.graph import Graph, Process
from gaussianem_gui.project.graph_file import write_graph
from gaussianem_gui.project.job import LABEL, RECORD, Job, State
from gaussianem_gui.project.project import Project
from gaussianem_gui.terminal.commands import job_main, project_main

__all__ = ["project"]


@pytest.fixture
def trap(tmp_path: Path, project: Project) -> Path:
    """A file that appears if anything of the project is run: a script, and Python modules of well-known names."""
    sprung = tmp_path / "sprung"
    script = project.root / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(sprung))}\n: XXXcommandXXX\n")
    script.chmod(0o755)
    for name in (
        "gaussianem_core",
        "gaussianem_gui",
        "numpy",
        "pydantic",
        "psutil",
        "mrcfile",
        "json",
        "sitecustomize",
    ):
        (project.root / f"{name}.py").write_text(f"open({str(sprung)!r}, 'w')\n")
    return sprung


def plant(job: Job, **record: Any) -> None:
    """Notes on a job as they come with a project, without the user's wish."""
    (job.directory / RECORD).write_text(json.dumps({"run": 1, "requested": 1.0, **record}))


RECORDS: dict[str, dict[str, Any]] = {
    "engine": {"where": "local", "engine": "./evil.sh"},
    "no place": {"where": "anything", "engine": "sh -c 'touch sprung'"},
    "template": {"where": "cluster", "cluster": {"preset": "slurm", "template": "evil.sh", "submit": "/bin/sh"}},
    "submit": {"where": "cluster", "cluster": {"preset": "lsf", "submit": "./evil.sh"}},
    "token": {"where": "local", "token": "0" * 32},
    "path as token": {"where": "local", "token": "../../../../../evil"},
    "not a token": {"where": "local", "token": ["x"], "host": str(identity()["host"])},
    "adopted": {"where": "cluster", "scheduler": "slurm", "scheduler_id": "-h", "scheduler_state": "pending"},
}


@pytest.mark.parametrize("kind", RECORDS)
def test_what_a_record_asks_for_is_not_started(project: Project, trap: Path, kind: str) -> None:
    job = add(project)
    plant(job, **RECORDS[kind])
    assert project_main(["open", str(project.root)]) == 0 and job_main(["--project", str(project.root), "list"]) == 0
    runner.ensure_runner(project)
    assert not runner.runner_alive(project)
    mine = Runner(project)
    assert not mine.tick() and not mine.tick()
    status = job.status()
    assert status.state is State.SCHEDULED and not trap.exists()
    if "scheduler_id" not in RECORDS[kind]:
        assert "wants to run" in status.detail and "start it yourself" in status.detail
    assert not [name for name in os.listdir(job.directory) if name.startswith("run")]


def test_the_user_starts_it_with_what_is_the_users_own(project: Project, trap: Path) -> None:
    job = add(project)
    plant(job, where="local", engine="./evil.sh", asked_by="someone on a machine", after=["Train/job099/"])
    assert "asked for by someone on a machine" in job.status().detail
    runner.request(project, job)
    assert runner.wait(project, job, 60) is State.SUCCEEDED, job.status().detail
    assert not trap.exists() and (job.directory / "run.out").read_text() == "simulate ok\n"
    assert wishes.find(project.root, job.name, job.record()) is None or runner.asked_here(project) == []


def test_python_takes_no_modules_from_the_project(project: Project, trap: Path) -> None:
    """The runner, the process above a job and the job itself all work in the project's root."""
    (project.root / "model.pdb").write_text("END\n")
    job = project.new_job("import", {"files": ["model.pdb"]})
    runner.request(project, job)
    assert runner.wait(project, job, 60) is State.SUCCEEDED, job.status().detail
    assert not trap.exists()
    command = runner.engine_command(add(project, "ok", "train"), 2)
    assert command[:4] == ["env", "PYTHONSAFEPATH=1", sys.executable, "-P"]


def test_the_program_reads_no_settings_of_libraries_from_the_project(tmp_path: Path) -> None:
    """numba's file could name a folder of pickled code as its cache; an empty word in PYTHONPATH means "here"."""
    (tmp_path / ".numba_config.yaml").write_text(f"CACHE_DIR: {tmp_path / 'poison'}\n")
    (tmp_path / "psutil.py").write_text("raise SystemExit('taken from the working directory')\n")
    look = (
        "import subprocess, sys; from gaussianem_core.cli import main; main(['--version'])\n"
        "from numba.core import config; print(repr(config.CACHE_DIR), flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import psutil; print(psutil.__name__)'], check=True)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    # The empty word counts for this first process too, whose path is cleared of it by hand.
    environment["PYTHONPATH"] = str(Path(__file__).parents[3]) + os.pathsep
    first = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path = [p for p in sys.path if p != {str(tmp_path)!r}]\n{look}",
    ]
    done = subprocess.run(first, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[1:] == ["''", "psutil"], done.stdout + done.stderr


def test_a_wish_belongs_to_one_run_of_one_job_of_one_project(project: Project, tmp_path: Path) -> None:
    job, other = add(project), add(project)
    wish = asked(job)
    assert [w for _, w in runner.asked_here(project)] == [wish] and job.wish() == wish
    plant(other, token=wish.token)
    assert other.wish() is None
    path = next(user_folders.state_folder().glob("wishes/*/*.json"))
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o666)  # anyone could have written it
    assert job.wish() is None and runner.asked_here(project) == []
    path.chmod(0o600)
    job.write_record(run=2)
    assert job.wish() is None
    job.write_record(run=1)
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-a", str(project.root), str(copied)], check=True)
    elsewhere = Project.open(copied)
    assert elsewhere.job(job.name).wish() is None and runner.asked_here(elsewhere) == []
    wishes.forget(wish)
    assert job.wish() is None


def test_only_jobs_that_this_user_submitted_are_cancelled(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("squeue", "scancel", "sbatch", "sacct"):
        (programs / name).write_text(
            f"#!/bin/sh\necho \"{name} $@\" >> '{tmp_path}/calls'\necho Submitted batch job 7\n"
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    job = add(project)
    for identifier in ("4711", "--user=root", "-u root", "1;touch x", "$(touch x)"):
        plant(job, where="cluster", scheduler="slurm", scheduler_id=identifier, scheduler_state="pending")
        with pytest.raises(InputError, match="submitted by you from here"):
            runner.abort(project, job)
    Runner(project).tick()
    assert not (tmp_path / "calls").exists()
    mine = add(project)
    runner.request(project, mine, Launch("cluster", cluster=ClusterSettings()))
    mine.write_record(scheduler_id="4711", scheduler="lsf")  # somebody changes what the project says
    runner.abort(project, mine)
    assert (tmp_path / "calls").read_text().splitlines() == [f"sbatch {mine.path(cluster.SCRIPT)}", "scancel 7"]


def test_what_schedulers_call_a_job() -> None:
    for word in ("4711", "4711.server", "4711[]", "4711[3].server-2.example.org", "4711_3"):
        assert is_identifier(word)
    for word in ("", "-u", "--help", "all", "1 2", "1;x", "$(x)", "1\n2", "../1", "1" * 300):
        assert not is_identifier(word)


def test_a_run_that_was_submitted_in_vain_takes_no_other_id(project: Project) -> None:
    """An id in the heartbeat counts for a run of this user's own alone, and only if it can be one."""
    job = add(project)
    claim = {"submitting": {**identity(), "ticks": 1}}
    for owner, identifier in ((False, "4711"), (True, "-u root")):
        if owner:
            wish = asked(job)
            wishes.keep(wish.model_copy(update={"where": "cluster", "cluster": ClusterSettings().model_dump()}))
        else:
            plant(job, where="cluster")
        job.claim_path(job.record()["run"]).write_text(json.dumps(claim))
        (job.directory / HEARTBEAT).write_text(json.dumps({"host": "node1", "pid": 1, "scheduler_id": identifier}))
        Runner(project).tick()
        assert "scheduler_id" not in job.record()


def test_no_process_is_ended_because_a_file_names_it(project: Project) -> None:
    job = add(project)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as foreign:
        try:
            who = {**identity(), "pid": foreign.pid, "ticks": start_ticks(foreign.pid), "t": time.time()}
            (job.directory / HEARTBEAT).write_text(json.dumps(who))
            plant(job, abort_at=1.0, grace_seconds=0)
            job.claim_path(1).write_text(json.dumps({**who, "child": who}))
            assert job.status().state is State.RUNNING
            with pytest.raises(InputError, match=f"process {foreign.pid}"):
                runner.press_abort(job)
            Runner(project).tick()
            assert runner.zombies(project) == [] and foreign.poll() is None
        finally:
            foreign.kill()


def test_links_in_place_of_logs_and_control_files_are_not_written_through(project: Project, tmp_path: Path) -> None:
    secret = tmp_path / "profile"
    secret.write_text("mine\n")
    for name in ("run.out", "run.err", "events.jsonl", "note.txt", "RELION_JOB_ABORT_NOW", "heartbeat.json"):
        job = add(project)
        (job.directory / name).symlink_to(secret)
        try:
            runner.request(project, job)
            runner.wait(project, job, 60)
        except InputError as error:
            assert "plain file" in str(error) or "not be running" in str(error)
        assert secret.read_text() == "mine\n", name
    (project.root / ".gaussianem" / "runner.log").unlink(missing_ok=True)
    until(lambda: not runner.runner_alive(project))
    (project.root / ".gaussianem" / "runner.log").symlink_to(secret)
    with pytest.raises(InputError, match="plain file"):
        runner.request(project, add(project))
    assert secret.read_text() == "mine\n"


def test_names_that_commands_would_read_as_more_are_none_of_a_job(project: Project) -> None:
    for folder in ("--wrap=id", "-x", "a b", "a;b", "$(x)", "..", ".Nodes", "Trash", "'a'", "a\tb", "a\x1b[2J"):
        graph = Graph()
        graph.processes[f"{folder}/job001/"] = Process(f"{folder}/job001/", LABEL + "simulate", "Scheduled")
        write_graph(project.root, graph)
        found = Project.open(project.root)
        (info,) = found.jobs()
        assert info.name == f"{folder}/job001/" and "none of a job" in info.status.detail
        for act in (runner.request, runner.continue_job, runner.abort):
            with pytest.raises(InputError, match="must"):
                act(found, info.name)
        assert trash.delete(found, info.name) == [info.name]
