"""Forms made from the option models: what one types is what would run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import LONG, cut_off
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton

from gaussianem_core.errors import InputError
from gaussianem_core.options import JOB_OPTIONS, command_line, hints
from gaussianem_gui.forms import validation
from gaussianem_gui.project.project import Project
from gaussianem_gui.terminal.commands import parse_values
from gaussianem_gui.views.job import editors, fields
from gaussianem_gui.views.job.editors import Context, OfferedFile
from gaussianem_gui.views.job.form import OptionForm


@pytest.fixture
def make(themed, qtbot, tmp_path: Path):
    def build(job_type: str, **context) -> OptionForm:
        settled = {"choices": lambda kind: [], "gpus": list, **context}
        form = OptionForm(JOB_OPTIONS[job_type], Context(tmp_path, **settled))
        qtbot.addWidget(form)
        form.resize(800, 900)
        form.show()
        return form

    return build


@pytest.mark.parametrize("job_type", JOB_OPTIONS)
def test_every_option_has_a_field_with_help_and_a_name(make, job_type: str) -> None:
    form = make(job_type)
    model = JOB_OPTIONS[job_type]
    assert set(form.rows) == set(model.model_fields) - set(validation.HIDDEN)
    for name, row in form.rows.items():
        assert row.help.text()
        assert row.help.isVisibleTo(row) != (row.help.text().lower() == fields.field_label(name).lower()), "said once"
        focus = row.editor.focusProxy() or row.editor
        assert focus.accessibleName(), name
        assert focus.focusPolicy() & Qt.FocusPolicy.TabFocus, name


@pytest.mark.parametrize("job_type", JOB_OPTIONS)
def test_defaults_go_in_and_come_out(make, job_type: str) -> None:
    model = JOB_OPTIONS[job_type]
    required = {n: (["a.star"] if n == "files" else "a.pkl") for n, f in model.model_fields.items() if f.is_required()}
    if job_type == "decode":
        required["z"] = "z.txt"
    form = make(job_type)
    form.set_values(required)
    assert form.errors() == {}
    options = validation.complete(model, form.values(), "X/job001")
    assert options == model(**required, job_dir="X/job001")


def test_values_of_a_finished_job_come_back_whole(make) -> None:
    values = {
        "batch": 7,
        "epoch": 3,
        "recipe": "published",
        "lr": 2e-5,
        "gpus": "0,1",
        "half_sets": True,
        "mask": "m.npy",
    }
    form = make("train", gpus=lambda: [(0, "GPU 0"), (1, "GPU 1")])
    form.set_values(values)
    assert validation.complete(JOB_OPTIONS["train"], form.values(), "T") == JOB_OPTIONS["train"](**values, job_dir="T")


@pytest.mark.parametrize("value", [0.8234567, 1e-4, 1.0, 0.1, 1.23456789012e-7])
def test_a_number_of_many_digits_comes_back_whole(make, value: float) -> None:
    form = make("preprocess")
    form.set_values({"apix": value})
    text = form.values()["apix"]
    assert float(text) == value and len(text) <= len(str(value)), "nor are there more digits than were given"


def test_an_error_is_shown_at_the_field_as_one_types(make, qtbot) -> None:
    form = make("train")
    row = form.rows["batch"]
    row.editor.edit.clear()
    qtbot.keyClicks(row.editor.edit, "0")
    assert row.error.isVisible() and row.error.text() == "Must be at least 1"
    assert row.editor.edit.property("invalid") is True
    qtbot.keyClicks(row.editor.edit, "x")
    assert row.error.text() == "Must be a whole number"
    row.editor.edit.clear()
    qtbot.keyClicks(row.editor.edit, "12")
    assert not row.error.isVisible() and form.errors() == {}


@pytest.mark.parametrize("text", ["", "None", "8", "8.0", "many", "-1", "inf", "yes"])
def test_form_and_terminal_take_the_same_words(make, tmp_path: Path, text: str) -> None:
    model, form = JOB_OPTIONS["train"], make("train")
    for name in ("epoch", "lr", "batch"):
        form.set_values({})
        form.rows[name].editor.edit.setText(text)
        entered = {name: form.values()[name]}
        try:
            there = parse_values(model, [f"--{name}={text}"], Project.create(tmp_path / name), "test")
        except InputError:
            assert name in form.errors(), name
        else:
            assert form.errors() == {} and validation.typed(model, entered) == there, name


def test_what_is_missing_is_said_when_one_wants_to_run(make) -> None:
    form = make("preprocess")
    assert not form.rows["star_file"].error.isVisible()
    assert set(form.errors()) == {"star_file", "consensus_map"}
    form.require()
    assert form.rows["star_file"].error.text() == "Needed"


def test_a_path_that_is_not_there_is_said_at_its_field(make, qtbot, tmp_path: Path) -> None:
    form = make("preprocess")
    form.rows["star_file"].editor.edit.setText("particles.star")
    qtbot.waitUntil(lambda: form.rows["star_file"].error.text().startswith("Not found"), timeout=LONG)
    (tmp_path / "particles.star").touch()
    form.check()
    qtbot.waitUntil(lambda: not form.rows["star_file"].error.isVisible(), timeout=LONG)


def test_advanced_options_are_folded_and_unfold_when_they_are_needed(make, qtbot) -> None:
    form = make("train")
    assert not form.rows["warmup_steps"].isVisible()
    head = form.findChild(type(form.filter).__mro__[1], "advanced-Training")
    qtbot.mouseClick(head, Qt.MouseButton.LeftButton)
    assert form.rows["warmup_steps"].isVisible()
    form.set_values({"beta": 0.5})
    assert form.rows["beta"].isVisible() and not form.rows["warmup_steps"].isVisible()
    form.focus_field("seed")
    assert form.rows["seed"].isVisible()


def test_options_can_be_searched(make, qtbot) -> None:
    form = make("train")
    qtbot.keyClicks(form.filter, "learning rate latents")
    shown = [name for name, row in form.rows.items() if row.isVisible()]
    assert shown == ["lr_latent"]
    form.filter.clear()
    assert form.rows["batch"].isVisible()


def test_several_values_make_a_sweep(make, qtbot) -> None:
    form = make("train")
    row = form.rows["lr"]
    form.focus_field("lr")
    qtbot.mouseClick(row.sweep_button, Qt.MouseButton.LeftButton)
    qtbot.keyClicks(row.editor.edit, "1e-3, 1e-4")
    form.rows["recipe"].sweep_button.click()
    form.rows["recipe"].editor.several.setText("default, published")
    assert form.errors() == {}
    assert form.sweeps() == {"lr": ["1e-3", "1e-4"], "recipe": ["default", "published"]}
    assert len(validation.expand(form.values(), form.sweeps())) == 4
    qtbot.keyClicks(row.editor.edit, ", -1")
    assert form.errors()["lr"] == "-1: Must be more than 0"


def test_an_input_is_taken_from_an_earlier_job(make) -> None:
    offered = [OfferedFile("Preprocess/job001/poses.npy", "bin2 (job001): poses.npy")]
    form = make("train", choices=lambda kind: offered if kind == "poses" else [])
    form.rows["pose"].editor.earlier.click()
    popup = form.rows["pose"].editor.popup
    assert [a.text() for a in popup.actions()] == ["bin2 (job001): poses.npy"]
    popup.actions()[0].trigger()
    popup.close()
    assert form.values()["pose"] == "Preprocess/job001/poses.npy"
    form.rows["ctf"].editor.earlier.click()
    popup = form.rows["ctf"].editor.popup
    assert [a.text() for a in popup.actions()] == ["No earlier job has made this yet"]
    popup.close()


def test_a_file_picker_has_the_filter_of_the_option_and_gives_a_project_path(make, monkeypatch, tmp_path: Path) -> None:
    form = make("preprocess")
    seen = {}

    def answer(_parent, _title, start, kinds):
        seen.update(start=start, kinds=kinds)
        return str(tmp_path / "Refine3D" / "run_data.star"), ""

    monkeypatch.setattr(editors, "QFileDialog", type("Picker", (), {"getOpenFileName": staticmethod(answer)}))
    form.rows["star_file"].editor.browse.click()
    assert "*.star *.cs" in seen["kinds"] and seen["start"] == str(tmp_path)
    assert form.values()["star_file"] == "Refine3D/run_data.star"


def test_gpus_are_chosen_by_buttons(make, qtbot) -> None:
    form = make("train", gpus=lambda: [(0, "GPU 0"), (1, "GPU 1"), (2, "GPU 2")])
    editor = form.rows["gpus"].editor
    for index in (2, 0):
        qtbot.mouseClick(editor._buttons[index], Qt.MouseButton.LeftButton)
    assert form.values()["gpus"] == "0,2"


@pytest.mark.parametrize("job_type", JOB_OPTIONS)
def test_nothing_is_cut_off_in_a_narrow_form(make, qtbot, job_type: str) -> None:
    form = make(job_type, gpus=lambda: [(n, f"GPU {n} · 77 GiB free") for n in range(8)])
    form.resize(560, 900)
    for head in form.findChildren(QAbstractButton):
        if head.objectName().startswith("advanced-"):
            head.click()
    form.require()
    qtbot.waitUntil(lambda: not cut_off(form), timeout=LONG)
    assert form.area.widget().width() <= form.area.viewport().width(), "it is as wide as its window"


def test_the_command_of_the_form_reads_back_as_the_same_options(make) -> None:
    form = make("train")
    form.rows["batch"].editor.edit.setText("5")
    form.rows["lr"].editor.edit.setText("0.0003")
    form.rows["half_sets"].editor.switch.setChecked(True)
    form.rows["mask"].editor.edit.setText("a mask.mrc")
    options = validation.complete(JOB_OPTIONS["train"], form.values(), "Train/job009")
    words = command_line(options)
    assert ["--batch", "5"] == words[words.index("--batch") : words.index("--batch") + 2]
    assert "--half_sets" in words and "a mask.mrc" in words
    again = JOB_OPTIONS["train"](**json.loads(options.model_dump_json()))
    assert again == options


def test_units_and_bounds_are_shown(make) -> None:
    form = make("simulate")
    assert form.rows["box"].editor.unit.text() == hints(JOB_OPTIONS["simulate"], "box")["unit"] == "px"
    assert "at least 8, at most 1024" in form.rows["box"].editor.toolTip()
