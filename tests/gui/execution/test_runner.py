"""The local runner with real processes: order, GPUs, abort, continue, reattach, zombies; the Import job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from running import ENGINE, add, kill_runners, project, until

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ABORT
from gaussianem_gui.execution import gpus as gpus_room
from gaussianem_gui.execution import runner
from gaussianem_gui.execution.gpus import Gpu, processes_of, reservations
from gaussianem_gui.execution.runner import Launch, Runner
from gaussianem_gui.project.job import Job, State
from gaussianem_gui.project.lock import Holder, LockHeld
from gaussianem_gui.project.project import Project

__all__ = ["project"]


def state(project: Project, job: Job) -> State:
    return project.job(job.name).status().state


def test_jobs_run_in_the_background_and_say_how_they_ended(project: Project) -> None:
    jobs = {does: add(project, does) for does in ("ok", "fail:no good", "memory", "kill", "exit:5")}
    for job in jobs.values():
        runner.request(project, job)
    assert runner.wait(project, jobs["ok"], 60) is State.SUCCEEDED
    for does, said in (
        ("fail:no good", "no good"),
        ("memory", "out of memory"),
        ("kill", "SIGKILL"),
        ("exit:5", "the last line of the error output"),
    ):
        assert runner.wait(project, jobs[does], 60) is State.FAILED and said in jobs[does].status().detail
    assert (jobs["ok"].directory / "run.out").read_text() == "simulate ok\n"
    assert "gaussianem simulate" in jobs["ok"].note()
    labels = {p.name: p.status for p in Project.open(project.root).graph().processes.values()}
    assert labels[jobs["ok"].name] == "Succeeded" and labels[jobs["kill"].name] == "Failed"
    assert [c.path for c in project.choices("map")] == ["Simulate/job001/consensus.mrc"]
    assert (project.root / ".Nodes/DensityMap/Simulate/job001/consensus.mrc").exists()
    assert not (project.root / "pwned").exists()
    until(lambda: not runner.runner_alive(project))  # nothing left to do: the runner goes


def test_scheduled_jobs_start_when_their_inputs_succeed(project: Project) -> None:
    first = add(project, "sleep:0.3", "preprocess")
    train = project.new_job("train", {"epoch": 2}, inputs_from=[first])
    analyze = project.new_job("analyze", {}, inputs_from=[train])
    for job in (analyze, train, first):
        runner.request(project, job)
    assert state(project, analyze) is State.SCHEDULED
    assert runner.wait(project, analyze, 60) is State.SUCCEEDED
    started = [job.status().started or 0.0 for job in (first, train, analyze)]
    assert started == sorted(started)
    assert project.parents(analyze) == [first.name, train.name] or set(project.parents(analyze)) == {
        first.name,
        train.name,
    }


def test_names_that_were_expected_give_way_to_those_written(project: Project) -> None:
    first = add(project, "ok", "preprocess")
    train = project.new_job("train", {}, inputs_from=[first])  # chooses its epochs itself: 2
    values = project.fill("analyze", [train])
    by_form = project.new_job("analyze", values, inputs_from=[train])
    by_hand = project.new_job("analyze", values)
    assert by_form.values()["model_weight"] == "Train/job002/weights.19.pkl"
    for job in (first, train, by_form, by_hand):
        runner.request(project, job)
    for job in (by_form, by_hand):
        assert runner.wait(project, job, 60) is State.SUCCEEDED
        assert job.values()["model_weight"] == "Train/job002/weights.1.pkl"
        assert job.values()["latent"] == "Train/job002/weights.1.output.pkl"
    assert not [n for n in project.graph().nodes if "weights.19" in n]


def test_what_depends_on_a_failed_job_does_not_start(project: Project) -> None:
    first = add(project, "fail:no", "preprocess")
    train = project.new_job("train", {}, inputs_from=[first])
    for job in (first, train):
        runner.request(project, job)
    until(lambda: "not started" in train.status().detail)
    assert state(project, train) is State.SCHEDULED and not (train.directory / "run.out").exists()
    with pytest.raises(InputError, match="asked to run"):
        runner.wait(project, train, 5)


def test_only_so_many_at_once_and_in_order(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [add(project, "sleep:0.5", device="cpu") for _ in range(3)]
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)  # this test is the runner
    for job in jobs:
        runner.request(project, job)
    mine = Runner(project, max_jobs=1)
    most = 0
    while mine.tick():
        living = [state(project, job) is State.RUNNING for job in jobs]
        most = max(most, sum(living))
        time.sleep(0.05)
    assert most == 1 and [state(project, job) for job in jobs] == [State.SUCCEEDED] * 3
    started = [job.status().started or 0.0 for job in jobs]
    assert started == sorted(started)


def test_each_job_gets_gpus_of_its_own(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards that do not exist: what is tested is who gets which, from reservations in real files."""
    held = gpus_room.reservations

    def cards() -> list[Gpu]:
        return [Gpu(i, "card", f"u{i}", 10**10, 0, 0.0, held().get(i, "")) for i in range(2)]

    monkeypatch.setattr(runner, "gpus", cards)
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    single = [add(project, "sleep:3", "preprocess", device="cuda") for _ in range(2)]
    double = add(project, "ok", "train", gpus="0,1")
    absent = add(project, "ok", "train", gpus="7")
    cpu = add(project, "ok", "preprocess", device="cpu")
    for job in (*single, double, absent, cpu):
        runner.request(project, job)
    mine = Runner(project)
    mine.tick()
    assert sorted(job.record()["gpus"] for job in single) == [[0], [1]]
    assert set(reservations()) == {0, 1}
    assert cpu.record()["gpus"] == [] and double.status().detail == "waits for 2 free GPUs"
    assert state(project, absent) is State.FAILED and "GPUs of this machine" in absent.status().detail
    until(lambda: single[0].status().state is State.RUNNING and bool(processes_of(single[0].directory)))
    child = processes_of(single[0].directory)[str(single[0].directory)][-1]
    assert child.environ()["CUDA_VISIBLE_DEVICES"] == str(single[0].record()["gpus"][0])
    assert child.environ()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    while mine.tick():
        time.sleep(0.05)
    assert double.record()["gpus"] == [0, 1] and state(project, double) is State.SUCCEEDED
    assert reservations() == {}


def test_who_holds_a_gpu(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose runner was killed between reservation and start gets its GPU; one that was taken back lets go."""
    cards = [Gpu(0, "card", "GPU-abc", 10**10, 0), Gpu(1, "card", "GPU-def", 10**10, 0)]
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    job, other = (add(project, "ok", "preprocess", device="cuda") for _ in range(2))
    for each in (job, other):
        runner.request(project, each)
        gpus_room.reserve(each, 1, [each.number - 1])
    assert gpus_room.reservations() == {0: str(job.directory), 1: str(other.directory)}

    def held() -> list[Gpu]:
        return [replace(card, job=reservations().get(card.index, "")) for card in cards]

    monkeypatch.setattr(runner, "gpus", held)
    mine = Runner(project)
    mine.tick()
    assert (job.record()["gpus"], other.record()["gpus"]) == ([0], [1])
    while mine.tick():
        time.sleep(0.05)
    third = add(project, "ok", "preprocess", device="cuda")
    runner.request(project, third)
    gpus_room.reserve(third, 1, [0])
    runner.unrequest(project, third)
    assert reservations() == {}
    for mask, indices in ((None, [0, 1]), ("1", [1]), ("GPU-ab", [0]), ("GPU-def,0", [0, 1]), ("", []), ("-1", [])):
        assert gpus_room.allowed(cards, mask) == indices
    assert runner.wanted_gpus(add(project, "ok", "preprocess"), None, 0) == (0, [])  # none left to it: the CPU


def test_the_session_that_asks_says_what_runs_on_which_gpus(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one whose runner happens to be there."""
    cards = [Gpu(i, "card", f"GPU-{i}", 10**10, 0) for i in range(2)]
    monkeypatch.setattr(runner, "gpus", lambda: cards)
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    job = add(project, "ok", "preprocess", device="cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    runner.request(project, job)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("GAUSSIANEM_ENGINE", "no_such_program")
    mine = Runner(project)
    while mine.tick():
        time.sleep(0.05)
    assert state(project, job) is State.SUCCEEDED and job.record()["gpus"] == [1]


def test_a_lock_that_is_held_fails_no_job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    job = add(project)
    runner.request(project, job)

    def held(project: Project, job: Job | str) -> None:
        raise LockHeld(project.root, Holder("held by a program that takes its time"))

    with monkeypatch.context() as patch:
        patch.setattr(Project, "bind", held)
        assert Runner(project).tick()
    assert state(project, job) is State.SCHEDULED and job.record()["requested"]
    mine = Runner(project)
    while mine.tick():
        time.sleep(0.05)
    assert state(project, job) is State.SUCCEEDED


def test_a_waiting_job_can_be_taken_back_or_aborted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    back, stopped = add(project), add(project)
    for job in (back, stopped):
        runner.request(project, job)
    with pytest.raises(InputError, match="running or waiting"):
        runner.request(project, back)
    runner.unrequest(project, back)
    runner.abort(project, stopped)
    assert not Runner(project).tick()
    assert state(project, back) is State.SCHEDULED and state(project, stopped) is State.ABORTED
    assert project.graph().processes[stopped.name].status == "Aborted"
    with pytest.raises(InputError, match="nothing to stop"):
        runner.abort(project, back)
    monkeypatch.undo()
    monkeypatch.setenv("GAUSSIANEM_ENGINE", ENGINE)
    runner.request(project, back)
    assert runner.wait(project, back, 60) is State.SUCCEEDED


def test_abort_is_obeyed_at_a_safe_point(project: Project) -> None:
    job = add(project, "sleep:100")
    runner.request(project, job)
    until(lambda: job.status().fraction is not None)
    runner.abort(project, job)
    assert runner.wait(project, job, 30) is State.ABORTED
    assert job.status().detail == "stopped on request" and not (job.directory / ABORT).exists()


def test_an_old_abort_does_not_stop_the_next_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    job = add(project, "sleep:100")
    runner.request(project, job)
    until(lambda: job.status().fraction is not None)
    runner.abort(project, job, wait=True)
    kill_runners(project)
    monkeypatch.setattr(runner, "ensure_runner", lambda project: None)
    runner.continue_job(project, job, {"output": "ok"})
    mine = Runner(project)
    while mine.tick():
        time.sleep(0.05)
    assert state(project, job) is State.SUCCEEDED


def test_a_job_that_is_deaf_is_killed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "KILL_SECONDS", 0.5)
    job = add(project, "deaf")
    runner.request(project, job)
    until(lambda: any(event.get("text") == "deaf" for event in job.last_events()))
    runner.abort(project, job, grace_seconds=0.3, wait=True)
    assert state(project, job) is State.ABORTED and not processes_of(job.directory)


def test_continue_goes_on_in_the_same_directory(project: Project) -> None:
    job = add(project, "ok", "train")
    runner.request(project, job)
    assert runner.wait(project, job, 60) is State.SUCCEEDED
    runner.continue_job(project, job, {"epoch": 9})
    assert runner.wait(project, job, 60) is State.SUCCEEDED
    values = job.values()
    assert values["resume"] is True and values["epoch"] == 9
    assert "_rlnJobIsContinue    1" in (job.directory / "job.star").read_text()
    assert (job.directory / "run.out").read_text() == "train ok\n" * 2 and job.record()["run"] == 2
    assert project.clone(job).values()["resume"] is False


def test_wrong_options_are_told_before_anything_starts(project: Project) -> None:
    job = project.new_job("preprocess", {"star_file": "p.star"})
    with pytest.raises(InputError, match="consensus_map"):
        runner.request(project, job)
    assert not job.record().get("requested")


def test_jobs_outlive_a_killed_runner_and_are_found_again(project: Project) -> None:
    job, next_one = add(project, "sleep:2"), add(project)
    runner.request(project, job)
    runner.request(project, next_one, Launch(after=(job.name,)))
    until(lambda: job.status().state is State.RUNNING)
    kill_runners(project)
    assert not runner.runner_alive(project) and state(project, job) is State.RUNNING
    runner.ensure_runner(project)
    assert runner.wait(project, next_one, 60) is State.SUCCEEDED
    assert state(project, job) is State.SUCCEEDED and (job.directory / "run.out").read_text() == "simulate sleep:2\n"


def test_a_killed_job_and_its_killed_overseer_are_lost(project: Project) -> None:
    job = add(project, "sleep:60")
    runner.request(project, job)
    until(lambda: job.status().fraction is not None)
    members = processes_of(job.directory)[str(job.directory)]
    overseer = int(job.processes()[0]["pid"])
    os.kill(overseer, signal.SIGKILL)
    until(lambda: ended(overseer))
    assert state(project, job) is State.RUNNING  # the program itself still lives
    assert [m.pid for m in members if m.pid != overseer]
    for member in members:
        if member.is_running():
            member.kill()
    until(lambda: state(project, job) is State.LOST)
    assert "gone without a word" in job.status().detail
    project.sync()
    assert project.graph().processes[job.name].status == "Failed"
    runner.continue_job(project, job, {"output": "ok"})
    assert runner.wait(project, job, 60) is State.SUCCEEDED


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only to be asked how it ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_zombies_are_found_and_only_they_can_be_killed(project: Project) -> None:
    job = add(project, "sleep:60")
    runner.request(project, job)
    until(lambda: job.status().fraction is not None)
    assert runner.zombies(project) == []
    overseer = int(job.processes()[0]["pid"])
    os.kill(overseer, signal.SIGKILL)
    until(lambda: ended(overseer))
    project.job(job.name).clear_control_files()
    (job.directory / "RELION_JOB_EXIT_FAILURE").touch()  # the job is over, its process is not
    found = runner.zombies(project)
    assert [z.job for z in found] == [job.name]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as foreign:
        fake = runner.Zombie(foreign.pid, gpus_room.start_ticks(foreign.pid), job.name, 0, "")
        with pytest.raises(InputError, match="must be one that a job"):
            runner.kill_zombie(project, fake)
        assert foreign.poll() is None
        foreign.kill()
    runner.kill_zombie(project, found[0])
    until(lambda: runner.zombies(project) == [])


def test_import_links_and_recognises(project: Project) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    import numpy as np

    raw = project.root / "raw data"
    raw.mkdir()
    (raw / "p.star").write_text("data_particles\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n")
    (raw / "model.star").write_text("data_model\n\n_rlnReferenceDimensionality 3\n")
    ball = np.zeros((8, 8, 8), np.float32)
    ball[2:6, 2:6, 2:6] = 1
    for name, data in (
        ("map.mrc", np.random.default_rng(0).normal(size=(8, 8, 8))),
        ("m.mrc", ball),
        ("flat.mrc", np.zeros((3, 8, 8))),
    ):
        with mrcfile.new(raw / name) as file:
            file.set_data(data.astype(np.float32))
    # older cryoDRGN's stamp of zeros, EMDB's 0x44 0x11, and no 'MAP ': what Preprocess reads is imported
    whole = (raw / "map.mrc").read_bytes()
    odd = {"zeros.mrc": b"MAP \0\0\0\0", "emdb.map": b"MAP \x44\x11\0\0", "nomap.mrc": b"\0\0\0\0\x44\x44\0\0"}
    for name, stamp in odd.items():
        (raw / name).write_bytes(whole[:208] + stamp + whole[216:])
    names = ("p.star", "map.mrc", "m.mrc", *odd)
    job = project.new_job("import", {"files": [f"raw data/{n}" for n in names]})
    runner.request(project, job)
    assert runner.wait(project, job, 60) is State.SUCCEEDED, job.status().detail
    assert {c.path: c.kind for c in project.outputs(job)} == {
        "Import/job001/p.star": "particles",
        "Import/job001/map.mrc": "map",
        "Import/job001/m.mrc": "mask",
        **{f"Import/job001/{name}": "map" for name in odd},
    }
    assert os.readlink(job.directory / "p.star") == "../../raw data/p.star"
    assert project.fill("preprocess", [job])["star_file"] == "Import/job001/p.star"
    for files, said in (
        ([str(raw / "model.star")], "rlnImageName"),
        ([str(raw / "flat.mrc")], "cubic"),
        (["raw data/absent.mrc"], "exist"),
        (["raw data/p.star", str(raw / "p.star")], "different"),
    ):
        bad = project.new_job("import", {"files": files})
        runner.request(project, bad)
        assert runner.wait(project, bad, 60) is State.FAILED and said in bad.status().detail
