"""Job directories: state from files, reasons of failure, live view. The writer is the engine's own JobLog."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from running import asked

from gaussianem_core.errors import AbortRequested, InputError
from gaussianem_core.job.events import ABORT, ABORTED, EVENTS, FAILURE, HEARTBEAT, SUCCESS, JobLog
from gaussianem_core.runtime.processes import identity
from gaussianem_gui.execution.launch import claim
from gaussianem_gui.project.job import EXIT, LOST_SECONDS, Job, State, failure_reason, tail
from gaussianem_gui.project.project import Project


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Project.create(tmp_path).new_job("train", {})


def dead_process() -> dict[str, object]:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return {**identity(), "pid": process.pid, "ticks": 1}


def test_a_draft_and_a_waiting_job_are_scheduled(job: Job) -> None:
    assert job.status().state is State.SCHEDULED and job.status().detail == ""
    asked(job, waiting="waits for 2 free GPUs")
    assert job.status().state is State.SCHEDULED and job.status().detail == "waits for 2 free GPUs"


def test_states_follow_what_the_engine_writes(job: Job) -> None:
    with JobLog(job.directory, ["gaussianem", "train"]) as log:
        log.progress("train", 0, 200)
        time.sleep(0.05)
        log.progress("train", 50, 200, every=0)
        status = job.status()
        assert (status.state, status.stage, status.fraction) == (State.RUNNING, "train", 0.25)
        assert status.left_seconds is not None and status.left_seconds > 0 and status.started is not None
        (job.directory / ABORT).touch()
        assert job.status().detail == "is stopping"
        (job.directory / ABORT).unlink()
        log.artifact("checkpoint", "weights.0.pkl")
        log.artifact("checkpoint", "weights.1.pkl")
        log.artifact("checkpoint", "weights.0.pkl")  # written again: counts at its last place
    status = job.status()
    assert status.state is State.SUCCEEDED and status.ended is not None and status.ended >= (status.started or 0)
    assert [a.path for a in job.artifacts()] == ["Train/job001/weights.1.pkl", "Train/job001/weights.0.pkl"]


def test_failed_and_aborted_say_why(job: Job) -> None:
    with pytest.raises(InputError), JobLog(job.directory, ["x"]):
        raise InputError("star_file", "must exist", "a.star", "Correct the path.")
    assert job.status().state is State.FAILED and "star_file: must exist" in job.status().detail
    with pytest.raises(AbortRequested), JobLog(job.directory, ["x"]) as log:
        (job.directory / ABORT).touch()
        log.check_abort()
    assert job.status().state is State.ABORTED and job.status().detail == "stopped on request"
    with pytest.raises(RuntimeError), JobLog(job.directory, ["x"]):
        raise RuntimeError("CUDA error: cannot allocate memory")
    assert job.status().detail.startswith("out of memory: CUDA error")


def test_a_job_that_starts_while_we_look_is_not_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(job)
    plain = Job.processes

    def then_it_starts(self: Job, *words: object) -> list[dict[str, object]]:
        found = plain(self, *words)  # type: ignore[arg-type]
        claim(self.claim_path(int(self.record()["run"])), identity())
        return found

    monkeypatch.setattr(Job, "processes", then_it_starts)
    assert job.status().state is State.SCHEDULED and job.status().state is State.RUNNING


def test_a_run_that_is_asked_for_while_we_look_is_not_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(job)
    claim(job.claim_path(1), dead_process())
    plain = Job.processes

    def then_it_is_asked_for(self: Job, *words: object) -> list[dict[str, object]]:
        found = plain(self, *words)  # type: ignore[arg-type]
        if self.record()["run"] == 1:
            asked(self)
        return found

    monkeypatch.setattr(Job, "processes", then_it_is_asked_for)
    assert job.status().state is State.SCHEDULED


def test_what_several_write_into_the_record_at_once_is_kept(job: Job) -> None:
    def write(who: int) -> None:
        for number in range(40):
            Job(job.root, job.name, job.type_label).write_record(**{f"of_{who}_{number}": True})

    writers = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sum(key.startswith("of_") for key in job.record()) == 160


def test_an_end_without_its_exit_file_counts(job: Job) -> None:
    with JobLog(job.directory, ["x"]):
        pass
    (job.directory / SUCCESS).unlink()  # killed between the last event and the file
    assert job.status().state is State.SUCCEEDED


def test_the_newest_exit_file_counts(job: Job) -> None:
    for name, age in ((SUCCESS, 20), (FAILURE, 10)):
        (job.directory / name).touch()
        os.utime(job.directory / name, (time.time() - age,) * 2)
    assert job.status().state is State.FAILED


@pytest.mark.parametrize(
    ("left", "errors", "said"),
    [
        ({"signal": 9, "max_memory_bytes": 3 * 2**30}, "", "killed by signal SIGKILL (it used 3.0 GiB)"),
        ({"signal": 11}, "", "killed by signal SIGSEGV"),
        ({"code": 1}, "Traceback ...\nMemoryError: 3 TiB\n", "out of memory: MemoryError: 3 TiB"),
        ({"code": 1}, "No module named torch\n", "No module named torch"),
        ({"code": 7}, "", "exit code 7"),
        ({"reason": "python could not be started: No such file or directory"}, "", "could not be started"),
        ({}, "", "without a message"),
    ],
)
def test_reasons_where_the_engine_could_say_nothing(job: Job, left: dict, errors: str, said: str) -> None:
    (job.directory / EXIT).write_text(json.dumps(left))
    (job.directory / "run.err").write_text(errors)
    (job.directory / FAILURE).touch()
    assert said in failure_reason(job) and said in job.status().detail


def test_a_killed_process_makes_the_job_lost(job: Job) -> None:
    asked(job)
    assert claim(job.claim_path(1), dead_process())
    assert not claim(job.claim_path(1), identity())  # a run is claimed once
    assert job.status().state is State.LOST and "gone without a word" in job.status().detail


def test_a_number_used_by_another_process_is_not_the_job(job: Job) -> None:
    asked(job)
    claim(job.claim_path(1), {**identity(), "ticks": 1})  # our own number, but another start
    assert job.status().state is State.LOST


def test_another_boot_means_gone(job: Job) -> None:
    asked(job)
    claim(job.claim_path(1), {**identity(), "boot": "another"})
    assert job.status().state is State.LOST


def test_a_job_on_another_host_lives_as_long_as_its_heart_beats(job: Job) -> None:
    beat = {"host": "elsewhere", "pid": 1, "started": 1.0, "t": time.time()}
    (job.directory / HEARTBEAT).write_text(json.dumps(beat))
    assert job.status().state is State.RUNNING
    old = time.time() - LOST_SECONDS - 60
    (job.directory / HEARTBEAT).write_text(json.dumps({**beat, "t": old}))
    os.utime(job.directory / HEARTBEAT, (old, old))
    assert job.status().state is State.LOST and "no sign of life" in job.status().detail
    # A clock that jumped ahead there must not make it lost here, nor crash.
    (job.directory / HEARTBEAT).write_text(json.dumps({**beat, "t": time.time() + 86400}))
    assert job.status().state is State.RUNNING


def test_a_clock_jump_does_not_lose_a_job_of_this_machine(job: Job) -> None:
    asked(job)
    claim(job.claim_path(1), identity())
    (job.directory / HEARTBEAT).write_text(json.dumps({**identity(), "t": time.time() - 86400}))
    assert job.status().state is State.RUNNING


def test_an_earlier_run_says_nothing_of_this_one(job: Job) -> None:
    with pytest.raises(InputError), JobLog(job.directory, ["x"]):
        raise InputError("a", "b", "c", "d")
    job.clear_control_files()
    asked(job, events_from=(job.directory / EVENTS).stat().st_size)
    assert job.status().state is State.SCHEDULED
    claim(job.claim_path(1), identity())
    assert job.status().state is State.RUNNING and job.status().started is None


def test_the_directory_is_gone(job: Job) -> None:
    job.directory.rename(job.directory.with_name("elsewhere"))
    job.label = "Running"
    assert job.status().state is State.LOST and job.status().detail == "its directory is gone"


def test_damaged_files_are_no_accident(job: Job) -> None:
    for name in (HEARTBEAT, ".gaussianem_job.json", EXIT):
        (job.directory / name).write_bytes(b"{\xff")
    (job.directory / EVENTS).write_bytes(b'{"type": "start"\n\xff\xfe\n[1]\n{"t": 1, "type": "artifact", "path": 3}\n')
    assert job.status().state is State.SCHEDULED and job.artifacts() == []


def test_tail_follows_a_growing_file_and_keeps_letters_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.out"
    assert tail(path) == ("", 0)
    whole = "Größe: 3 Å\n".encode() * 200
    pieces: list[str] = []

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for i in range(0, len(whole), 7):
                file.write(whole[i : i + 7])

    writer = threading.Thread(target=write)
    writer.start()
    offset = 0
    while writer.is_alive() or offset < len(whole):
        text, offset = tail(path, offset)
        pieces.append(text)
    writer.join()
    assert "".join(pieces).encode() == whole
    assert tail(path, 0, limit=12)[0].endswith("3 Å\n") and tail(path, len(whole) + 5)[1] == len(whole)


def test_notes_and_size(job: Job) -> None:
    assert job.change_note(job.note(), "mine\n") == job.note() == "mine\n"
    job.add_note("added")
    assert job.note().startswith("mine\n ++++ ") and "added" in job.note()
    before = job.size_bytes()
    (job.directory / "big").write_bytes(b"x" * 1000)
    (job.directory / "link").symlink_to("big")
    assert job.size_bytes() - before in range(1000, 1010)


def test_a_note_is_changed_only_where_nothing_of_it_is_lost(job: Job) -> None:
    (job.directory / "note.txt").unlink(missing_ok=True)
    assert job.note_to_edit() == "" and job.change_note("", "mine\n") == "mine\n"
    job.add_note("by a run")
    added = job.note()[len("mine\n") :]
    assert job.change_note("mine\n", "mine, longer\n") == "mine, longer\n" + added == job.note()
    with pytest.raises(InputError, match="as it was read"):
        job.change_note("what stood there once", "x")
    for data in (b"caf\xe9\n", b"x" * 1_000_001):
        (job.directory / "note.txt").write_bytes(data)
        for act in (job.note_to_edit, lambda: job.change_note(job.note(), "x")):
            with pytest.raises(InputError, match="must be readable UTF-8"):
                act()
        assert (job.directory / "note.txt").read_bytes() == data


def test_options_are_checked_by_name_when_written(job: Job) -> None:
    with pytest.raises(InputError, match="colour"):
        job.write_options({"colour": 1})
    job.write_options({"epoch": 0})
    with pytest.raises(InputError, match="epoch"):
        job.options()
    job.write_options({"epoch": 4})
    assert job.command()[:2] == ["gaussianem", "train"] and "--epoch" in job.command()


def test_a_user_mark_stays(job: Job) -> None:
    (job.directory / ABORTED).touch()
    assert job.status().state is State.ABORTED and job.status().detail == "stopped"
