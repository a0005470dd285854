"""``gaussianem project`` and ``gaussianem job`` as a user types them, in processes of their own; the action table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import asked, project

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.forms.actions import JOB_ACTIONS, PROJECT_ACTIONS, action
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.terminal import commands

__all__ = ["project"]


def gaussianem(cwd: Path, *words: str, code: int = 0) -> str:
    """Run the program; its output. The exit code must be ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "gaussianem_core", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CONFIG_HOME": str(cwd / ".config")},
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def test_a_session_on_a_login_node(project: Project, tmp_path: Path) -> None:
    root = project.root
    assert gaussianem(tmp_path, "project", "new", "other").strip() == str(tmp_path / "other")
    assert str(tmp_path / "other") in gaussianem(tmp_path, "project", "list")
    (root / "raw").mkdir()
    (root / "raw" / "p.star").write_text("x")
    name = gaussianem(
        root / "raw",
        "job",
        "new",
        "preprocess",
        "--star_file",
        "p.star",
        "--consensus_map",
        "m.mrc",
        "--output",
        "sleep:0.2",
        "--alias",
        "first one",
        code=2,
    )
    assert "output" in name  # the job's own place is not the user's to choose
    name = gaussianem(
        root / "raw",
        "job",
        "new",
        "preprocess",
        "--star_file",
        "p.star",
        "--consensus_map",
        "m.mrc",
        "--float16",
        "--alias",
        "first one",
    ).strip()
    assert name == "Preprocess/job001/"
    values = project.job(1).values()
    assert values["star_file"] == "raw/p.star" and values["float16"] is True  # named from where the user stood
    train = gaussianem(root, "job", "new", "train", "--from", "first_one", "--epoch", "2").strip()
    gaussianem(root, "job", "run", "1")
    out = gaussianem(root, "job", "run", train, "--batch", "8", "--wait")
    assert "Train/job002/ Succeeded" in out and project.job(2).values()["batch"] == 8
    rows = json.loads(gaussianem(root, "job", "list", "--json"))
    assert [(r["name"], r["alias"], r["state"]) for r in rows] == [
        (name, "first_one", "Succeeded"),
        ("Train/job002/", "", "Succeeded"),
    ]
    assert "Train/job002/" in gaussianem(root, "job", "list", "--state", "succeeded")
    assert gaussianem(root, "job", "log", "2") == "train train\n"
    about = json.loads(gaussianem(root, "job", "show", "2", "--json"))
    assert about["parents"] == [name] and about["next"][0] == "analyze"
    assert "gaussianem train" in gaussianem(root, "job", "show", "2")
    gaussianem(root, "job", "alias", "2", "best one")
    gaussianem(root, "job", "note", "best_one", "looks", "good")
    assert "looks good" in gaussianem(root, "job", "note", "best_one")
    assert "needed by Train/job002/" in gaussianem(root, "job", "delete", "1", code=2)
    gaussianem(root, "job", "delete", "1", "--with_dependents")
    assert len(json.loads(gaussianem(root, "job", "list", "--trash", "--json"))) == 2
    assert gaussianem(root, "job", "restore", "Train/job002").strip() == "Train/job002/"
    summary = json.loads(gaussianem(tmp_path, "project", "open", str(root), "--json"))
    assert summary["jobs"] == 1 and summary["states"]["Succeeded"] == 1
    assert gaussianem(root, "project", "repair").strip() == "nothing was wrong"


def test_following_stopping_continuing(project: Project) -> None:
    root = project.root
    job = project.new_job("simulate", {"model": "m", "output": "sleep:60"})
    assert "asked to run" in gaussianem(root, "job", "log", "-f", "1", code=2)  # a draft: nothing to follow
    gaussianem(root, "job", "run", "1")
    follower = subprocess.Popen(
        [sys.executable, "-m", "gaussianem_core", "job", "log", "-f", "1"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 30
    while job.status().fraction is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "is Running after 0.2 s" in gaussianem(root, "job", "wait", "1", "--timeout", "0.2", code=4)
    gaussianem(root, "job", "abort", "1")
    assert "Simulate/job001/ Aborted: stopped on request" in gaussianem(root, "job", "wait", "1", code=3)
    out, errors = follower.communicate(timeout=30)
    assert out == "simulate sleep:60\n" and "Aborted" in errors
    project.update(job, {"output": "fail:broken"})
    assert "Failed: option output: must be good (got bad). broken" in gaussianem(
        root, "job", "continue", "1", "--wait", code=1
    )
    clone = gaussianem(root, "job", "clone", "1", "--particles", "7", "--alias", "again").strip()
    assert project.job("again").name == clone and project.job("again").values()["particles"] == 7
    gaussianem(root, "job", "mark", "again", "succeeded")
    assert project.job("again").status().state is State.SUCCEEDED
    assert "must be running or waiting" in gaussianem(root, "job", "abort", "again", code=2)


def test_relion_can_start_a_job_of_ours(project: Project) -> None:
    """RELION's External calls: EXECUTABLE --o Type/jobNNN/ --j THREADS, from the project's directory."""
    from gaussianem_gui.project.job_star import read_job_star

    job = project.new_job("simulate", {"model": "m", "output": "ok"})
    executable = read_job_star(job.directory / "job.star")[1]["fn_exe"].split()
    assert executable[0] == "gaussianem"
    gaussianem(project.root, *executable[1:], "--o", job.name, "--j", "4")
    assert project.job(job.name).status().state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["job", "new", "bake"], "must be one of import, preprocess"),
        (["job", "new", "train", "--colour", "red"], "unknown option --colour"),
        (["job", "new", "train", "--epoch", "many"], "option epoch"),
        (["job", "run", "99"], "must be in the project"),
        (["job", "list", "--colour"], "unrecognized arguments"),
        (["job", "mark", "1", "green"], "succeeded, failed or aborted"),
        (["job", "--project", "/", "list"], "must hold a default_pipeline.star"),
        (["project", "open", "/"], "must hold a default_pipeline.star"),
        (["project", "new", "."], "must not exist yet"),
        (["project", "cluster", "--queue", "a;b"], "must hold letters"),
        (["job", "workflow", "preprocess-train-analyze"], "needs preprocess.star_file"),
        (["job", "workflow", "train-analyze", "--set", "train.colour=1"], "STEP.OPTION=VALUE"),
    ],
)
def test_mistakes_are_named_in_a_sentence(project: Project, words: list[str], said: str) -> None:
    out = gaussianem(project.root, *words, code=2)
    assert said in out and "Traceback" not in out


def test_cluster_settings_from_the_command_line(project: Project) -> None:
    gaussianem(project.root, "project", "cluster", "--preset", "pbs", "--queue", "long", "--gpus", "4")
    settings = json.loads(gaussianem(project.root, "project", "cluster", "--json"))
    assert (settings["preset"], settings["queue"], settings["gpus"], settings["threads"]) == ("pbs", "long", 4, 4)


def test_every_option_of_every_type_can_be_given(project: Project) -> None:
    """The command line is made from the models: nothing of theirs collides with the commands' own options."""
    for job_type, model in JOB_OPTIONS.items():
        for name, field in model.model_fields.items():
            if name in ("job_dir", "output"):
                continue
            default = field.get_default(call_default_factory=True)
            number = isinstance(default, int | float)
            word = [] if field.annotation is bool else [str(default) if number else "x.star"]
            try:
                values = commands.parse_values(model, [f"--{name}", *word], project, "test")
            except ValueError as error:
                assert name in str(error), job_type  # refused for its value, not for its name
            else:
                assert list(values) == [name], job_type


def test_numbers_are_numbers_while_options_that_others_need_are_missing(project: Project) -> None:
    """A rule between options, as that decode needs z or particle_indices, is asked when the job is complete."""
    for job_type, words, values in (
        ("decode", ["--box", "64"], {"box": 64}),
        ("train", ["--epoch", "5", "--beta", "0.5", "--resume"], {"epoch": 5, "beta": 0.5, "resume": True}),
        ("train", ["--lr", "None"], {"lr": None}),
    ):
        assert commands.parse_values(JOB_OPTIONS[job_type], words, project, "test") == values


def test_actions_say_why_not(project: Project) -> None:
    job = project.new_job("simulate", {"model": "m"})
    info = project.info(job)
    assert action("run").reason(info, project) == "" and action("run").reason(None, project) == "choose a job first"
    assert action("run").reason(info, None) == "open a project first"
    assert action("abort").reason(info, project) == "it does not wait to be started"
    assert "scheduled" in action("cleanup").reason(info, project)
    job.write_record(requested=1.0, run=1)  # by the project's files alone: the user may start it, or take it back
    assert action("run").reason(info, project) == "" == action("unrequest").reason(info, project)
    asked(job)
    assert action("run").reason(info, project) == "it waits to be started already"
    assert action("abort").reason(info, project) == "" == action("unrequest").reason(info, project)
    project.mark(job, State.SUCCEEDED)
    done = project.info(job)
    assert [a.id for a in JOB_ACTIONS if not a.reason(done, project)] == [
        "continue",
        "clone",
        "alias",
        "note",
        "command",
        "folder",
        "mark_succeeded",
        "mark_failed",
        "mark_aborted",
        "cleanup",
        "cleanup_harsh",
        "delete",
    ]
    assert action("break_lock").reason(None, project) == "the project is not locked"


def test_actions_are_told_apart() -> None:
    every = [*JOB_ACTIONS, *PROJECT_ACTIONS]
    assert len({a.id for a in every}) == len(every) and len({a.text for a in every}) == len(every)
    shortcuts = [a.shortcut for a in every if a.shortcut]
    assert len(set(shortcuts)) == len(shortcuts) and all(a.tip and not a.tip.endswith(".") for a in every)


def test_what_a_job_needs_is_said_before_it_runs(project: Project) -> None:
    root = project.root
    said = gaussianem(root, "job", "check", "preprocess", "--star_file", "none.star", code=2)
    assert "--star_file: not found" in said and "--consensus_map: needed" in said
    said = gaussianem(root, "job", "check", "simulate", "--model", "none.pdb", code=2)
    assert "error    --model: not found" in said
    (root / "m.pdb").write_text("MODEL\n")
    said = gaussianem(root, "job", "check", "simulate", "--model", "m.pdb", "--particles", "50", "--box", "32")
    assert "info     50 images of 32 px" in said and "ok       Disk: needs about" in said
    job = project.new_job("simulate", {"model": "m.pdb", "box": 64})
    assert "500 images of 64 px" in gaussianem(root, "job", "check", str(job.number), "--particles", "500")
    assert project.job(job.number).values().get("particles") != 500, "a check changes nothing"
    about = json.loads(gaussianem(root, "job", "show", str(job.number), "--json"))
    assert about["size_bytes"] == job.size_bytes() > 0
    assert "disk: " in gaussianem(root, "job", "show", str(job.number))


def test_settings_are_the_same_in_the_terminal_and_in_the_application(project: Project) -> None:
    root = project.root
    gaussianem(root, "project", "settings", "--set", "where=cluster", "train.batch=64", "train.epoch=5")
    gaussianem(root, "project", "settings", "--all_projects", "--set", "disk_warning_gb=50", "notify=no")
    found = json.loads(gaussianem(root, "project", "settings", "--set", "train.epoch=", "--json"))
    assert (found["where"], found["disk_warning_gb"], found["notify"]) == ("cluster", 50.0, False)
    assert found["defaults"] == {"train": {"batch": 64}}
    kept = Settings(root, root / ".config/gaussianem/settings.json")
    assert kept.layer("where") == "project" and kept.layer("notify") == "program"
    assert kept.defaults("train") == {"batch": 64}
    gaussianem(root, "project", "settings", "--set", "train.lr=None", "decode.box=64", "import.files=a, b.mrc")
    kept = Settings(root, root / ".config/gaussianem/settings.json")
    assert kept.defaults("train") == {"batch": 64, "lr": None} and kept.defaults("decode") == {"box": 64}
    assert kept.defaults("import") == {"files": ["a, b.mrc"]}
    gaussianem(root, "project", "settings", "--set", "where=")
    lines = [line.split() for line in gaussianem(root, "project", "settings").splitlines()]
    assert ["where", "local", "shipped"] in lines and ["train.batch", "64"] in lines
    assert "must be local or cluster" in gaussianem(root, "project", "settings", "--set", "where=moon", code=2)
    assert "Names: theme" in gaussianem(root, "project", "settings", "--set", "colour=red", code=2)
    assert "must be yes or no" in gaussianem(root, "project", "settings", "--set", "notify=maybe", code=2)
    assert "batch" in gaussianem(root, "project", "settings", "--set", "train.batch=many", code=2)
