"""Files of a project that are damaged, or made to harm: one bad job says so in its row, and nothing leads outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import asked

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import EVENTS, HEARTBEAT, OPTIONS, SUCCESS
from gaussianem_gui.project import project as project_room
from gaussianem_gui.project import repair, trash, user_folders
from gaussianem_gui.project.graph import Graph, Process
from gaussianem_gui.project.graph_file import write_graph
from gaussianem_gui.project.job import EXIT, LABEL, RECORD, Job, State
from gaussianem_gui.project.lock import LOCK, LockHeld, locked
from gaussianem_gui.project.project import Project, recent_projects, remember_project
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.terminal.commands import job_main, project_main


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "p")


NOT_JSON: dict[str, bytes] = {
    "no text": b"\xff\xfe{",
    "cut": b'{"run": 1',
    "a list": b"[1]",
    "deep": b"[" * 100_000,
    "empty": b"",
    "large": b'{"run": "' + b"x" * (5 << 20) + b'"}',
    "NaN": b'{"run": NaN, "t": NaN, "signal": NaN, "requested": NaN, "epoch": NaN}',
    "wrong kinds": b'{"run": "x", "t": [], "signal": {}, "requested": "now", "epoch": [1], "gpus": 5, "pid": -1}',
    "huge": b'{"run": 1e400, "t": 1e300, "signal": 99999999999999999999999, "pid": 99999999999, "requested": 1e99}',
}


@pytest.mark.parametrize("name", [RECORD, OPTIONS, HEARTBEAT, EXIT, EVENTS])
@pytest.mark.parametrize("kind", [*NOT_JSON, "a folder", "a pipe", "a link to nothing", "a device"])
def test_one_bad_file_hides_no_job(project: Project, name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = (project.new_job("train", {"epoch": 3}) for _ in range(2))
    path = bad.directory / name
    path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to nothing":
        path.symlink_to("nowhere")
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(NOT_JSON[kind] + b"\n" * (name == EVENTS))
    (good.directory / SUCCESS).touch()
    for words in (["list"], ["list", "--full", "--json"], ["show", "2"], ["log", "1"]):
        assert job_main(["--project", str(project.root), *words]) == 0
    rows = {info.number: info for info in Project.open(project.root).jobs()}
    assert rows[2].status.state is State.SUCCEEDED and rows[1].status.state in (State.SCHEDULED, State.RUNNING)
    if name in (RECORD, HEARTBEAT, EXIT) and kind not in ("a link to nothing", "NaN", "huge"):
        assert f"{name} " in rows[1].status.detail  # is damaged, or cannot be read
    if name == OPTIONS and kind not in ("a link to nothing", "empty"):
        assert "options.json is damaged" in rows[1].status.detail
    assert "Traceback" not in capsys.readouterr().err


def test_damaged_fields_are_left_out_and_the_rest_counts(project: Project) -> None:
    job = project.new_job("train", {})
    record = {"run": 2, "gpus": 5, "requested": 1.0, "asked_by": "an\x1b[31mna", "new": 7}
    (job.directory / RECORD).write_text(json.dumps(record))
    assert job.record() == {"run": 2, "requested": 1.0, "asked_by": "an\\x1b[31mna", "new": 7}
    assert "gpus" in job.damage() and "run" not in job.damage().replace("run.", "")
    job.write_record(gpus=[1])
    assert job.damage() == "" and job.record()["gpus"] == [1]


def test_settings_and_recent_projects_are_read_with_care(project: Project, tmp_path: Path) -> None:
    settings = project.root / ".gaussianem/settings.json"
    for text in ("[", '{"where": 5, "gpus": "x", "disk_warning_gb": {}, "theme": "pink", "defaults": {"train": 3}}'):
        settings.write_text(text)
        found = Settings(project.root)
        assert (found.get("where"), found.get("gpus"), found.get("theme")) == ("local", 0, "dark")
        assert found.defaults("train") == {}
    settings.write_text(
        '{"gpus": 2, "where": "moon", "defaults": {"train": {"epoch": [1], "batch": 4, "nonsense": 1}}}'
    )
    found = Settings(project.root)
    assert (found.get("gpus"), found.get("where"), found.defaults("train")) == (2, "local", {"batch": 4})
    remember_project(project.root)
    recent = tmp_path / "config/gaussianem/recent.txt"
    recent.write_bytes(b"\xff\xfe\n/root/\x00\nrelative\n" + b"x" * 10_000 + b"\n" + recent.read_bytes())
    assert recent_projects() == [project.root] and project_main(["list"]) == 0


# --- what leads outside -----------------------------------------------------------------------------------------------


def test_a_graph_that_names_folders_outside_changes_nothing_there(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "o" / "job001"
    outside.mkdir(parents=True)
    (outside / SUCCESS).touch()
    for name in ("../o/job001/", f"{outside}/", "Train/../../o/job001/"):
        graph = Graph()
        graph.processes[name] = Process(name, LABEL + "train", "Running")
        write_graph(project.root, graph)
        for words in (["list"], ["show", name], ["note", name, "x"], ["mark", name, "failed"], ["abort", name]):
            job_main(["--project", str(project.root), *words])
        job_main(["--project", str(project.root), "alias", name, "good"])
        assert os.listdir(outside) == [SUCCESS]
        assert trash.delete(Project.open(project.root), name) == [name]
        assert os.listdir(outside) == [SUCCESS]


def test_links_in_a_project_lead_no_write_out(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    job = project.new_job("simulate", {"model": "m"})
    (job.directory / "consensus.mrc").write_text("x")
    event = {"t": 1.0, "type": "artifact", "kind": "map", "path": "consensus.mrc", "label": "Map"}
    (job.directory / EVENTS).write_text(json.dumps(event) + "\n")
    for name in (".Nodes", "Trash"):
        (project.root / name).rmdir()
        (project.root / name).symlink_to(outside)
    (job.directory / SUCCESS).touch()
    project.sync()
    with pytest.raises(InputError, match=r"Trash|inside the project"):
        trash.delete(project, job)
    with pytest.raises(InputError, match="Trash"):
        trash.empty(project)
    assert os.listdir(outside) == [] and job.exists()
    (project.root / "Trash").unlink()
    inner = job.directory / "weights"
    inner.symlink_to(outside)
    (outside / "old.pkl").write_text("mine")
    (outside / "leftover.tmp").write_text("mine")
    lines = [{**event, "kind": "checkpoint", "path": f"weights/{n}.pkl"} for n in ("old", "new")]
    (job.directory / EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (outside / "new.pkl").write_text("mine")
    trash.cleanup(project, job, harsh=True)
    assert sorted(os.listdir(outside)) == ["leftover.tmp", "new.pkl", "old.pkl"]
    for name in ("note.txt", "job.star", OPTIONS, RECORD):
        (job.directory / name).unlink(missing_ok=True)
        (job.directory / name).symlink_to(outside / "old.pkl")
    for act in (lambda: job.add_note("x"), lambda: job.write_options({"model": "n"}), lambda: job.write_record(run=1)):
        try:
            act()
        except InputError as error:
            assert "plain file" in str(error)
    assert (outside / "old.pkl").read_text() == "mine"


def test_links_in_the_trash_go_and_what_they_lead_to_stays(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "w"
    (outside / "job009").mkdir(parents=True)
    (outside / "job009" / "precious").touch()
    (project.root / "Trash" / "Train").mkdir()
    (project.root / "Trash/Train/job009").symlink_to(outside / "job009")
    (project.root / "Trash/Decode").symlink_to(outside)
    assert trash.contents(project) == [] and trash.empty(project) == 0
    assert (outside / "job009" / "precious").exists()
    assert os.listdir(project.root / "Trash") == ["Train"] and os.listdir(project.root / "Trash/Train") == []


def test_the_projects_own_folder_may_be_no_link(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (project.root / ".gaussianem").rename(outside)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    (project.root / ".gaussianem").symlink_to(outside)
    with pytest.raises(InputError, match="inside the project"):
        project.new_job("train", {})
    with pytest.raises(InputError, match="inside the project"):
        Settings(project.root).set("gpus", 1, "project")
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


def test_a_lock_that_is_a_link_is_reported_and_broken(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (project.root / LOCK).symlink_to(outside)
    with pytest.raises(LockHeld), locked(project.root, "tests", wait_seconds=0.1):
        pass
    assert project.break_lock() and os.listdir(outside) == ["precious"]
    assert not [name for name in os.listdir(project.root) if name.startswith(LOCK)]
    project.new_job("train", {})


# --- names and races --------------------------------------------------------------------------------------------------


def test_an_alias_that_cannot_be_made_leaves_the_old_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    job = project.new_job("train", {}, alias="good")
    (project.root / "Train" / "taken").mkdir()
    for bad in ("x" * 300, "taken", "a\x1b[2J", "ö" * 150):
        with pytest.raises(InputError, match="alias"):
            project.set_alias(job, bad)

    def full(root: Path, graph: Graph) -> None:
        raise InputError("project", "must be writable", root, "No space left on device.")

    with monkeypatch.context() as patch:  # what a full disk does to the graph
        patch.setattr(project_room, "write_graph", full)
        for act in (
            lambda: project.set_alias(job, "other"),
            lambda: project.new_job("train", {}, alias="fresh"),
            lambda: trash.delete(project, job),
            lambda: project.update(job, {"epoch": 7}),
        ):
            with pytest.raises(InputError, match="writable"):
                act()
        # options that the graph does not know of would be another job's than the one it shows
        patch.setattr(project_room, "write_atomically", lambda path, text: full(project.root, Graph()))
        before = {path.name: path.read_bytes() for path in job.directory.iterdir()}
        with pytest.raises(InputError, match="writable"):
            project.update(job, {"source_dir": "elsewhere", "epoch": 7})
        assert {path.name: path.read_bytes() for path in job.directory.iterdir()} == before
        assert job.values()["epoch"] != 7
    assert sorted(os.listdir(project.root / "Train")) == ["good", "job001", "taken"]
    assert Project.open(project.root).job("good").name == job.name and repair.repair(project) == []
    project.set_alias(job, "other")
    os.symlink("../Train/job001/", project.root / "Train" / "left")  # by a crash, of a name that no job has
    project.set_alias(job, "left")
    assert sorted(os.listdir(project.root / "Train")) == ["job001", "left", "taken"]


def test_what_another_program_writes_while_we_read_is_seen(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.new_job("train", {})
    mine, other = Project.open(project.root), Project.open(project.root)
    other.new_job("train", {})
    real, once = project_room.load_graph, [True]

    def load(*words: object, **more: object) -> tuple[Graph, str]:
        found = real(*words, **more)  # type: ignore[arg-type]
        if once:
            once.clear()
            trash.delete(other, "1")
        return found

    monkeypatch.setattr(project_room, "load_graph", load)
    assert "Train/job001/" in mine.graph().processes  # as it was a moment ago
    assert mine.changed() and "Train/job001/" not in mine.graph().processes
    with pytest.raises(InputError, match="must be in the project"):
        trash.delete(mine, "1")


@pytest.mark.parametrize("what", ["delete", "alias", "mark", "note", "update"])
def test_a_job_that_another_program_has_just_deleted_is_a_sentence(
    project: Project, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = project.new_job("train", {}), Project.open(project.root)
    acts: dict[str, Callable[[], object]] = {
        "delete": lambda: trash.delete(project, job),
        "alias": lambda: project.set_alias(job, "name"),
        "mark": lambda: project.mark(job, State.FAILED),
        "note": lambda: job.add_note("x"),
        "update": lambda: project.update(job, {"epoch": 2}),
    }
    real = Job.check_directory

    def then_it_goes(self: Job) -> None:
        real(self)
        monkeypatch.undo()
        trash.delete(other, job.name)

    if what in ("alias", "mark", "update"):
        monkeypatch.setattr(Job, "check_directory", then_it_goes)
    else:
        trash.delete(other, job.name)
    with pytest.raises((InputError, FileNotFoundError)) as told:
        acts[what]()
    assert not isinstance(told.value, KeyError)


# --- the user's own folders -------------------------------------------------------------------------------------------


def test_somebody_elses_folder_stops_no_jobs(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "shared"
    taken.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(taken))
    own = taken / f"gaussianem-{os.getuid()}"
    own.symlink_to(tmp_path)  # a trap: a link, or a folder of another user
    for folder in (user_folders.machine_folder, user_folders.state_folder):
        assert folder().is_relative_to(tmp_path / "state") and folder().stat().st_mode & 0o777 == 0o700
    own.unlink()
    own.write_text("")
    assert user_folders.machine_folder().is_relative_to(tmp_path / "state")
    if os.getuid() == 0:
        own.unlink()
        own.mkdir()
        os.chown(own, 65534, 65534)
        assert user_folders.machine_folder().is_relative_to(tmp_path / "state")
        os.chown(own, 0, 0)
        own.chmod(0o777)
        assert user_folders.machine_folder() == own and own.stat().st_mode & 0o777 == 0o700
    job = project.new_job("train", {})
    assert asked(job) == job.wish()


def test_a_log_is_printed_piece_by_piece_and_steers_no_terminal(project: Project) -> None:
    """A log of 128 MiB is printed by a process that may not take so much; escape sequences are taken out."""
    job = project.new_job("train", {})
    with (job.directory / "run.out").open("wb") as log:
        log.write(b"first\r\x1b]0;title\x07\x1b[31mred\x1b[0m \x1b[2J\x9b\n")
        for _ in range(128):
            log.write(b"a line of a log\n" * (1 << 16))
        log.write("\nGröße\n".encode())
    limited = (
        "import resource, sys; from gaussianem_gui.terminal.commands import job_main;"
        "used = int(open('/proc/self/statm').read().split()[5]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20),) * 2); sys.exit(job_main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", limited, "--project", str(project.root), "log", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    head, tail = process.stdout.read(100), b""
    while data := process.stdout.read(1 << 20):
        tail = data
    process.stdout.close()
    assert process.wait() == 0
    assert head.startswith(b"first\rred \xef\xbf\xbd\n") and b"\x1b" not in head
    assert tail.endswith("\nGröße\n".encode())


def test_what_files_say_steers_no_terminal(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    job = project.new_job("train", {})
    (job.directory / EXIT).write_text(json.dumps({"reason": "bad\x1b]52;c;eA==\x07\u202e", "code": 1}))
    (job.directory / "RELION_JOB_EXIT_FAILURE").touch()
    (job.directory / "note.txt").write_bytes(b"a \x1b[31m note \xff\n")
    for main, words in ((job_main, ["list"]), (job_main, ["show", "1"]), (job_main, ["note", "1"])):
        main(["--project", str(project.root), *words])
    (project.root / LOCK).mkdir()
    (project.root / LOCK / "lock_default_pipeline.star").write_text("\x1b[2Jsomeone\n")
    project_main(["open", str(project.root)])
    said = capsys.readouterr()
    assert "bad" in said.out and "someone" in said.out
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(said.out + said.err)
