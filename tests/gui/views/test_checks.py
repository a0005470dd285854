"""Checks before submission, settings in layers, next steps: all without a window."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import write_map
from gaussianem_core.options import JOB_OPTIONS, DecodeOptions, PreprocessOptions, TrainOptions, command_line
from gaussianem_gui.execution import estimates
from gaussianem_gui.execution.estimates import GIB, Machine
from gaussianem_gui.forms import validation
from gaussianem_gui.forms.actions import JOB_ACTIONS
from gaussianem_gui.forms.next_steps import next_steps
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project
from gaussianem_gui.project.settings import Settings
from gaussianem_gui.units import ago_text, bytes_text, seconds_text


def test_every_error_names_its_field() -> None:
    wrong = {"star_file": "p.star", "consensus_map": "m.mrc", "downsample_size": "63", "epoch": "-1", "apix": "wide"}
    errors = validation.field_errors(PreprocessOptions, wrong)
    assert errors["epoch"] == "Must be at least 0"
    assert errors["apix"] == "Must be a number"
    del wrong["epoch"], wrong["apix"]
    assert validation.field_errors(PreprocessOptions, wrong)["downsample_size"] == "Must be even"
    found = validation.field_errors(DecodeOptions, {"model_weight": "w"})
    assert found["z"] == "Must be given, or particle indices, and not both"
    assert validation.field_errors(TrainOptions, {"gpus": "0 1"})["gpus"].startswith("Must be GPU numbers")
    assert validation.required_errors(PreprocessOptions, {"star_file": ""}) == {
        "star_file": "Needed",
        "consensus_map": "Needed",
    }


def test_inputs_must_exist_unless_a_job_will_write_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "img_stack.mrcs").touch()
    values = {"source_dir": "data", "particle_name": "img_stack", "pose": "poses.npy", "ctf": "no/ctf.npy"}
    errors = validation.path_errors(TrainOptions, values, tmp_path, frozenset({"data/poses.npy"}))
    assert set(errors) == {"ctf"}
    assert "does not exist" in errors["ctf"]
    assert validation.path_errors(TrainOptions, {"source_dir": "data/img_stack.mrcs"}, tmp_path) == {
        "source_dir": "Is a file, not a folder"
    }


def test_a_sweep_is_one_set_of_values_for_each_combination() -> None:
    found = validation.expand({"lr": 1, "epoch": 5}, {"lr": [1, 2], "batch": [8, 16, 32]})
    assert len(found) == 6 and {(v["lr"], v["batch"]) for v in found} == {(a, b) for a in (1, 2) for b in (8, 16, 32)}
    assert validation.sweep_alias("", {"lr": "1e-3", "recipe": "a b"}) == "lr_1e-3_recipe_a_b"


def test_the_command_shown_is_the_command_of_the_options() -> None:
    options = validation.complete(
        TrainOptions, {"batch": "64", "mask": "my mask.npy", "output": "ignored"}, "Train/job004"
    )
    text = validation.command_text(options)
    assert text == "gaussianem train --job_dir Train/job004 --mask 'my mask.npy' --batch 64"
    assert command_line(options)[-1] == "64"


def test_what_is_typed_becomes_a_value_by_the_rules_of_its_option() -> None:
    given = {"batch": "64", "lr": "1e-3", "beta": "0.5", "epoch": "", "mask": "None", "resume": "yes"}
    values = {"batch": 64, "lr": 1e-3, "beta": 0.5, "epoch": None, "mask": "None", "resume": True}
    assert validation.typed(TrainOptions, given) == values, "beta has no use here, which is said when the job is made"
    assert validation.typed(PreprocessOptions, {"star_file": "", "passthrough": []}) == {
        "star_file": "",
        "passthrough": [],
    }, "what is missing may still come"
    for model, name, text in (
        (TrainOptions, "lr", "inf"),
        (TrainOptions, "batch", "many"),
        (PreprocessOptions, "downsample_size", "17"),
        (PreprocessOptions, "map_thres", "low"),
        (TrainOptions, "colour", "red"),
    ):
        with pytest.raises(InputError, match=f"option {name}.*{text}"):
            validation.typed(model, {name: text})


def _stack(path: Path, count: int, box: int) -> None:
    import mrcfile

    with mrcfile.new(path) as file:
        file.set_data(np.zeros((count, box, box), np.float32))
        file.set_image_stack()


def _ply(path: Path, count: int) -> None:
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex %d\nend_header\n" % count)


def test_training_that_cannot_fit_the_gpu_says_what_would(tmp_path: Path) -> None:
    _stack(tmp_path / "img_stack.mrcs", 10, 32)
    _ply(tmp_path / "point_cloud.ply", 10_000)
    values = {"batch": "4096", "epoch": "2"} | {"point": "point_cloud.ply", "particle_name": "img_stack"}
    machine = Machine(gpus=((8 * GIB, 8 * GIB),))
    found = {c.field: c for c in estimates.checks("train", values, tmp_path, machine)}
    assert found["batch"].level in ("error", "warning")
    errors = [c for c in estimates.checks("train", values, tmp_path, machine) if c.level == "error"]
    assert errors and "would fit" in errors[0].text
    fits = int(errors[0].text.split("a batch of ")[1].split()[0])
    assert not [
        c for c in estimates.checks("train", {**values, "batch": fits}, tmp_path, machine) if c.level == "error"
    ]


def test_time_is_taken_from_the_last_run_if_there_was_one(tmp_path: Path) -> None:
    _stack(tmp_path / "img_stack.mrcs", 100, 16)
    _ply(tmp_path / "point_cloud.ply", 500)
    values = {"batch": 4, "epoch": 6, "point": "point_cloud.ply", "particle_name": "img_stack"}
    texts = [c.text for c in estimates.checks("train", values, tmp_path, Machine(), rate=10.0)]
    assert "100 particles of 16 px" in texts and "500 Gaussians" in texts
    assert any(t.startswith("About 1 min 0 s for 6 epochs (at the speed of the last") for t in texts)


@pytest.mark.parametrize(
    ("level", "expected"), [("0.5", "About 1,000 Gaussians"), ("9", "No voxel"), ("-1", "only 900")]
)
def test_the_threshold_is_counted_on_the_map(tmp_path: Path, level: str, expected: str) -> None:
    values = np.zeros((20, 20, 20), np.float32)
    values[5:15, 5:15, 5:15] = 1.0
    write_map(tmp_path / "m.mrc", values, 2.0)
    options = {"consensus_map": "m.mrc", "map_thres": level, "max_gaussians": 900 if level == "-1" else 20000}
    texts = [c.text for c in estimates.checks("preprocess", options, tmp_path, Machine())]
    assert any(expected in t for t in texts), texts


def test_particles_of_real_files_are_counted(shared_data: Path, tmp_path: Path) -> None:
    values = {"star_file": "star/relion31.star"}
    assert estimates.particles(values, shared_data) == (5, 256)
    options = {"star_file": str(shared_data / "star" / "relion31.star"), "downsample_size": 4096}
    found = estimates.checks("preprocess", options, tmp_path, Machine())
    assert any(c.field == "downsample_size" and c.level == "error" for c in found)


def test_what_would_stop_preprocess_is_no_ok(data: Path, tmp_path: Path) -> None:
    """Images that are not found, columns that are not there."""
    (tmp_path / "p.star").write_text((data / "star/relion31_optics_last.star").read_text())
    (found, *_) = estimates.checks("preprocess", {"star_file": "p.star"}, tmp_path, Machine())
    assert found.level == "error" and found.field == "star_file" and "must name stacks that exist" in found.text
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n000001@a.mrcs\n")
    (found, *_) = estimates.checks("preprocess", {"star_file": "p.star"}, tmp_path, Machine())
    assert found.level == "error" and "must have the columns of poses" in found.text


def test_a_disk_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    found = estimates.checks("simulate", {"box": 1024, "particles": 10**9}, tmp_path, Machine())
    assert any(c.level == "error" and c.text.startswith("Disk: needs about") for c in found)
    assert estimates.disk_warning(10**9, 10**12) and not estimates.disk_warning(9 * 10**11, 10**12)


def test_settings_come_from_the_nearest_layer(tmp_path: Path) -> None:
    program = tmp_path / "settings.json"
    settings = Settings(tmp_path / "project", program)
    assert settings.get("where") == "local" and settings.layer("where") == "shipped"
    settings.set("where", "cluster")
    settings.set_defaults("train", {"batch": 64, "epoch": 5}, "program")
    settings.set("where", "local", "project")
    settings.set_defaults("train", {"epoch": 9}, "project")
    again = Settings(tmp_path / "project", program)
    assert (again.get("where"), again.layer("where")) == ("local", "project")
    assert again.defaults("train") == {"batch": 64, "epoch": 9}
    again.set("where", None, "project")
    assert Settings(tmp_path / "project", program).get("where") == "cluster"
    program.write_text("{damaged")
    assert Settings(None, program).get("theme") == "dark"
    assert json.loads((tmp_path / "project/.gaussianem/settings.json").read_text())["defaults"] == {
        "train": {"epoch": 9}
    }


def test_every_state_can_be_left_by_an_action(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.new_job("train", {})
    info = project.jobs()[0]
    ways = {
        State.SCHEDULED: {"run", "submit", "delete", "mark_failed"},
        State.RUNNING: {"abort"},
        State.SUCCEEDED: {"continue", "delete", "mark_failed", "cleanup"},
        State.FAILED: {"continue", "delete", "mark_succeeded"},
        State.ABORTED: {"continue", "delete", "mark_succeeded"},
        State.LOST: {"continue", "delete", "mark_failed"},
    }
    assert set(ways) == set(State)
    for state, expected in ways.items():
        there = replace(info, status=replace(info.status, state=state))
        assert expected <= {a.id for a in JOB_ACTIONS if not a.reason(there, project)}, state


def test_each_state_has_its_next_steps() -> None:
    found = next_steps("train", State.SUCCEEDED, ["decode", "analyze", "morph"])
    assert [s.job_type for s in found if s.kind == "job"] == ["analyze", "decode"]
    assert "results" in [s.kind for s in next_steps("analyze", State.SUCCEEDED, ["decode"])]
    assert [s.kind for s in next_steps("train", State.ABORTED, [])] == ["continue", "clone"]
    assert next_steps("train", State.FAILED, [])[0].kind == "log"
    assert next_steps("train", State.SCHEDULED, []) == []
    assert all(s.title and s.why for t in JOB_OPTIONS for s in next_steps(t, State.SUCCEEDED, list(JOB_OPTIONS)))


def test_numbers_read_as_people_say_them() -> None:
    assert [seconds_text(s) for s in (None, 5, 200, 4000, 100_000)] == [
        "–",
        "5 s",
        "3 min 20 s",
        "1 h 6 min",
        "1 d 3 h",
    ]
    assert [bytes_text(b) for b in (5, 3_400_000, 1.2e12)] == ["5 B", "3.4 MB", "1.2 TB"]
    assert ago_text(1000.0, 1030.0) == "just now" and ago_text(1000.0, 1000.0 + 7200) == "2 h ago"
