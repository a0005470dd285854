"""A disk that fills, and a project that may not be written: reading goes on, the rest is told, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import asked, kill_jobs, kill_runners, until

from gaussianem_core.job.events import ABORTED, EVENTS, FAILURE, SUCCESS, JobLog
from gaussianem_core.job.last_word import END, ROOM_BYTES, LastWord
from gaussianem_gui.execution import launch, runner
from gaussianem_gui.project.job import EXIT, State
from gaussianem_gui.project.project import Project
from gaussianem_gui.terminal.commands import job_main, project_main


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB; only root can have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk of its own can be mounted here (root can)")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    if not file.write(b"x" * size):
                        break
                except OSError:
                    break
    return filler


def test_a_full_disk_stops_what_writes_with_a_sentence(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.create(small_disk / "p")
    done, waiting = (project.new_job("simulate", {"model": "m"}, alias=name) for name in ("done", "draft"))
    done.write_record(run=1)
    (done.directory / SUCCESS).touch()
    filler = fill(small_disk)
    place = ["--project", str(project.root)]
    for words in (
        ["list"],
        ["list", "--full", "--json"],
        ["show", "1"],
        ["log", "1"],
        ["note", "1"],
        ["list", "--trash"],
    ):
        assert job_main([*place, *words]) == 0, words
    assert project_main(["open", str(project.root)]) == 0
    before = sorted(os.listdir(done.directory))
    capsys.readouterr()
    for words in (
        ["new", "train"],
        ["note", "1", "x" * 9000],
        ["delete", "1"],
        ["mark", "1", "failed"],
        ["run", "2"],
        ["alias", "1", "another"],
        ["clone", "1"],
    ):
        assert job_main([*place, *words]) in (1, 2), words
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and ("full" in said[0] or "space" in said[0]), said
    filler.unlink()
    again = Project.open(project.root)
    assert not again.notes and sorted(os.listdir(done.directory)) == before
    assert [info.alias for info in again.jobs()] == ["done", "draft"]
    assert again.job(1).status().state is State.SUCCEEDED and again.job(2).status().state is State.SCHEDULED
    assert not list(project.root.rglob("*.tmp")) and runner.asked_here(again) == []
    assert job_main([*place, "delete", "1"]) == 0 and waiting.exists()


def test_the_last_word_of_a_program_is_heard_on_a_full_disk(small_disk: Path) -> None:
    job = Project.create(small_disk / "p").new_job("train", {})
    asked(job)
    with pytest.raises(OSError, match="No space"), JobLog(job.directory, ["x"]) as log:
        fill(small_disk)
        while True:
            log.message("x" * 500)
    status = job.status()
    assert status.state is State.FAILED and "the disk is full" in status.detail, status
    assert not [path for path in job.directory.iterdir() if path.suffix == ".tmp"]
    (small_disk / "filler").unlink()
    with JobLog(job.directory, ["x"]):  # and the next run is told by its own events
        pass
    assert job.status().state is State.SUCCEEDED and not (job.directory / END).exists()
    assert [event["type"] for event in job.last_events()][-2:] == ["start", "end"]


@pytest.mark.parametrize(("code", "signal", "said"), [(1, 0, "the disk is full"), (0, 7, "SIGBUS: the disk is full")])
def test_the_process_above_says_that_the_disk_is_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, code: int, signal: int, said: str
) -> None:
    """For a program that could say nothing: it just ended, or a mapped page that had no room killed it."""
    project = Project.create(small_disk / "p")
    job = project.new_job("simulate", {"model": "m"})
    wish = asked(job)
    end = f"kill -{signal} $$" if signal else f"exit {code}"
    words = ["sh", "-c", f"cat /dev/zero > {small_disk}/filler 2>/dev/null; {end}"]
    handlers = monkeypatch.setattr(launch.signal, "signal", lambda *_: None)  # this process keeps its own
    assert handlers is None
    launch.main([str(project.root), job.name, str(wish.run), "--", *words])
    status = job.status()
    assert status.state is State.FAILED and said in status.detail, status
    assert not [path for path in job.directory.iterdir() if path.suffix == ".tmp"]


def test_a_real_job_dies_of_a_full_disk_and_says_so(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from running import ENGINE, add

    monkeypatch.setenv("GAUSSIANEM_ENGINE", ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    project = Project.create(small_disk / "p")
    job = add(project, "sleep:60")
    runner.request(project, job)
    try:
        until(lambda: job.status().fraction is not None)
        fill(small_disk)
        until(lambda: job.status().state.finished)
        status = job.status()
        assert status.state is State.FAILED and "the disk is full" in status.detail, status
    finally:
        kill_runners(project)
        kill_jobs(project)


def test_a_project_that_may_not_be_written_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.create(tmp_path / "p")
    job = project.new_job("train", {})
    (job.directory / SUCCESS).touch()
    bind = subprocess.run(["mount", "--bind", project.root, project.root], check=False, capture_output=True)
    if bind.returncode:
        pytest.skip("no read-only disk can be mounted here (root can)")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", project.root], check=True)
        place = ["--project", str(project.root)]
        for words in (["list"], ["show", "1"], ["log", "1"], ["note", "1"], ["check", "1"]):
            assert job_main([*place, *words]) in (0, 2), words
        capsys.readouterr()
        for words in (["new", "train"], ["note", "1", "x"], ["delete", "1"], ["run", "1"], ["alias", "1", "xx"]):
            assert job_main([*place, *words]) in (1, 2), words
            said = capsys.readouterr().err.strip().splitlines()
            assert len(said) == 2 and "read-only" in said[0], said  # the note on the project, and why not
        assert project_main(["empty_trash", str(project.root)]) == 2
    finally:
        subprocess.run(["umount", "--lazy", project.root], check=True)


def test_room_for_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / END
    word = LastWord(path)
    assert path.stat().st_size == ROOM_BYTES and path.read_bytes().isspace()
    word.say(reason="x" * 10_000, code=1)
    assert path.stat().st_size == ROOM_BYTES and json.loads(path.read_text())["code"] == 1
    later = LastWord(path)  # of the next run
    word.drop()
    assert path.exists()
    later.drop()
    assert not path.exists()
    path.symlink_to(tmp_path / "elsewhere")
    LastWord(path).say(code=2)
    assert not (tmp_path / "elsewhere").exists() and json.loads(path.read_text()) == {"code": 2}


def test_an_exit_note_alone_says_how_it_ended(tmp_path: Path) -> None:
    job = Project.create(tmp_path / "p").new_job("train", {})
    asked(job)
    (job.directory / EXIT).write_bytes(b" " * ROOM_BYTES)  # it runs
    assert job.status().state is State.SCHEDULED and job.damage() == ""
    for note, state in (({"code": 0}, State.SUCCEEDED), ({"code": 1, "reason": "x"}, State.FAILED)):
        (job.directory / EXIT).write_text(json.dumps({"run": 1, **note}))
        assert job.status().state is state
    (job.directory / EXIT).write_text(json.dumps({"run": 7, "code": 1}))  # of another run
    assert job.status().state is State.SCHEDULED


def test_a_line_that_a_crash_cut_spoils_no_later_one(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text('{"t": 1.0, "type": "progr')
    with JobLog(tmp_path, ["x"]) as log:
        log.message("hello")
    kinds = [json.loads(line)["type"] for line in (tmp_path / EVENTS).read_text().splitlines()[1:]]
    assert kinds == ["start", "message", "end"]
    assert not (tmp_path / FAILURE).exists() and not (tmp_path / ABORTED).exists()
