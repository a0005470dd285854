"""Workflows: files, needs, start, and one made from jobs run on another data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import project, until

from gaussianem_core.errors import InputError
from gaussianem_gui.execution import runner, workflow
from gaussianem_gui.execution.workflow import OUTSIDE, Step, Workflow
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project

__all__ = ["project"]
FILES = {"preprocess.star_file": "raw/p.star", "preprocess.consensus_map": "raw/m.mrc"}


def test_the_whole_chain_in_one_go(project: Project) -> None:
    chain = workflow.builtin()["preprocess-train-analyze"]
    assert chain.needs() == ["preprocess.star_file", "preprocess.consensus_map"]
    jobs = workflow.start(project, chain, {**FILES, "train.epoch": 2})
    assert [job.name for job in jobs] == ["Preprocess/job001/", "Train/job002/", "Analyze/job003/"]
    assert runner.wait(project, jobs[-1], 60) is State.SUCCEEDED
    assert [job.status().state for job in jobs] == [State.SUCCEEDED] * 3
    assert jobs[1].values()["particle_name"] == "Preprocess/job001/img_stack.mrcs"
    assert "workflow Preprocess, train, analyze" in jobs[2].note()


def test_nothing_is_made_when_something_is_missing(project: Project) -> None:
    chain = workflow.builtin()["preprocess-train-analyze"]
    with pytest.raises(InputError, match=r"needs preprocess\.consensus_map"):
        workflow.start(project, chain, {"preprocess.star_file": "raw/p.star"})
    with pytest.raises(InputError, match=r"needs preprocess\.star_file, preprocess\.consensus_map"):
        workflow.start(project, chain)
    for name in ("train.colour", "bake.epoch", "epoch"):
        with pytest.raises(InputError, match=r"step\.option"):
            workflow.start(project, chain, {**FILES, name: 1})
    assert project.jobs() == []


def test_done_jobs_become_a_workflow_for_another_data_set(project: Project, tmp_path: Path) -> None:
    first = project.new_job("preprocess", {"star_file": "a.star", "consensus_map": "a.mrc", "float16": True})
    train = project.new_job("train", {"epoch": 7}, inputs_from=[first])
    analyze = project.new_job("analyze", {"nclass": 4}, inputs_from=[train])
    made = workflow.from_jobs(project, [analyze, first, train], "mine")
    assert [step.id for step in made.steps] == ["preprocess1", "train2", "analyze3"]
    assert made.steps[0].values == {"float16": True} and made.steps[0].inputs_from == [OUTSIDE]
    assert made.steps[1].values == {"epoch": 7} and made.steps[1].inputs_from == ["preprocess1"]
    assert made.steps[2].values == {"nclass": 4} and made.steps[2].inputs_from == ["train2", "preprocess1"]
    workflow.save(made, tmp_path / "mine.json")
    again = workflow.load(tmp_path / "mine.json")
    assert again == made and again.needs() == ["preprocess1.star_file", "preprocess1.consensus_map"]
    simulated = project.new_job("simulate", {"model": "m.pdb"})
    runner.request(project, simulated)
    assert runner.wait(project, simulated, 60) is State.SUCCEEDED
    jobs = workflow.start(project, again, inputs=[simulated])
    assert jobs[0].values()["consensus_map"] == f"{simulated.name}consensus.mrc"
    assert jobs[1].values()["epoch"] == 7 and jobs[0].values()["float16"] is True
    assert runner.wait(project, jobs[-1], 60) is State.SUCCEEDED


def test_a_job_that_ended_without_files_still_leads_to_the_next(project: Project) -> None:
    """Stopped before its first checkpoint, continued: what is made from it waits for the files to come."""
    train = project.new_job("train", {"epoch": 2, "output": "sleep:100"})
    runner.request(project, train)
    until(lambda: train.status().fraction is not None)
    runner.abort(project, train, wait=True)
    assert project.outputs(train) == []
    runner.continue_job(project, train, {"output": "sleep:0.5"})
    analyze = project.new_job("analyze", inputs_from=[train])
    assert analyze.values()["model_weight"] == f"{train.name}weights.1.pkl"
    runner.request(project, analyze)
    assert runner.wait(project, analyze, 60) is State.SUCCEEDED
    outputs = [choice.path for choice in project.outputs(train)]
    runner.continue_job(project, train, {"output": "sleep:0.5"})
    assert set(outputs) <= {choice.path for choice in project.outputs(train)}  # what is there stays
    assert runner.wait(project, train, 60) is State.SUCCEEDED
    stopped = project.new_job("train", {})
    later = project.new_job("analyze", {"model_weight": "m", "latent": "l"}, inputs_from=[stopped])
    assert workflow.from_jobs(project, [stopped, later]).steps[1].inputs_from[0] == f"train{stopped.number}"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "must have steps"),
        ([{"id": "a", "job_type": "bake"}], "must be one of"),
        ([{"id": "a", "job_type": "train", "values": {"colour": 1}}], "colour"),
        ([{"id": "a", "job_type": "train", "inputs_from": ["b"]}, {"id": "b", "job_type": "preprocess"}], "before it"),
        ([{"id": "a", "job_type": "train"}, {"id": "a", "job_type": "train"}], "id of its own"),
        ([{"id": "a", "job_type": "train", "more": 1}], "more"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, steps: list[dict[str, object]], said: str) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"name": "w", "steps": steps}))
    with pytest.raises(InputError, match=said):
        workflow.load(tmp_path / "w.json")
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        workflow.load(tmp_path / "w.json")


def test_a_step_may_need_nothing() -> None:
    made = Workflow(name="x", steps=[Step(id="s", job_type="simulate", values={"model": "m.pdb"})])
    assert workflow.check(made).needs() == []
