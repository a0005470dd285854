"""Workflows: several jobs, each of which starts when the jobs that give its inputs have succeeded.

A workflow is a JSON file: steps with a job type, options, and the steps that give their inputs. Files of a data set
are not part of it, so that it can be run on another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ARTIFACTS
from gaussianem_core.options import JOB_OPTIONS, explain
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.readers import read_json_object
from gaussianem_gui.execution import runner
from gaussianem_gui.project.graph import Graph, Process
from gaussianem_gui.project.inputs import expected_outputs, fill, in_project, input_fields, is_path_field
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project

OUTSIDE = "inputs"  # in ``inputs_from``: jobs that are named when the workflow is started


class Step(BaseModel):
    """One job: options, and the steps (or OUTSIDE) whose files fill its inputs, nearest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    job_type: str
    values: dict[str, Any] = {}
    inputs_from: list[str] = []


class Workflow(BaseModel):
    """A named list of steps, each behind those that give its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    steps: list[Step]

    def needs(self) -> list[str]:
        """Required options that no step fills, as ``step.option``: they must be given at the start."""
        missing = []
        graph = Graph()
        for step in self.steps:
            name_here = _play(graph, step)
            model = JOB_OPTIONS[step.job_type]
            sources = [f"Any/{_number(self, s)}/" for s in step.inputs_from if s != OUTSIDE]
            filled = fill(graph, step.job_type, sources, step.values, {})
            for option in input_fields(model):
                if filled.get(option) in graph.nodes:
                    graph.add_input(name_here, filled[option], "")
            for name, field in model.model_fields.items():
                if field.is_required() and not filled.get(name):
                    missing.append(f"{step.id}.{name}")
        return missing


def _number(workflow: Workflow, identifier: str) -> str:
    return f"job{[s.id for s in workflow.steps].index(identifier) + 1:03d}"


def _play(graph: Graph, step: Step) -> str:
    """Enter a step into a graph with the files that it will make, as a project would; the job's name there."""

    name = f"Any/job{len(graph.processes) + 1:03d}/"
    graph.processes[name] = Process(name, "", "Scheduled")
    for file, kind in expected_outputs(step.job_type, step.values).items():
        if kind:
            graph.add_output(name, name + file, ARTIFACTS[kind])
    return name


def check(workflow: Workflow) -> Workflow:
    """Return the workflow if it is valid. Raises InputError naming the step that is not."""
    seen: set[str] = {OUTSIDE}
    for step in workflow.steps:
        remedy = f"Correct step {step.id} of {workflow.name}."
        if step.job_type not in JOB_OPTIONS:
            raise InputError("job_type", "must be one of " + ", ".join(JOB_OPTIONS), step.job_type, remedy)
        if step.id in seen or not step.id or "." in step.id:
            raise InputError("step", "must have an id of its own, without a dot", step.id, remedy)
        for other in step.inputs_from:
            if other not in seen:
                raise InputError("inputs_from", "must name a step before it", other, remedy)
        unknown = sorted(set(step.values) - set(JOB_OPTIONS[step.job_type].model_fields))
        if unknown:
            raise InputError(f"option {unknown[0]}", "is unknown", step.values[unknown[0]], remedy)
        seen.add(step.id)
    if not workflow.steps:
        raise InputError("workflow", "must have steps", workflow.name, "Add one.")
    return workflow


def load(path: Path | str) -> Workflow:
    """Read a workflow file. Raises InputError if it cannot be read or is not valid (see :func:`check`)."""
    try:
        return check(Workflow(**read_json_object(path, "workflow", "Choose a workflow that was saved here.")))
    except ValidationError as error:
        raise explain(error) from error


def save(workflow: Workflow, path: Path | str) -> None:
    """Write a workflow file, atomically. Raises OSError."""
    write_atomically(path, json.dumps(workflow.model_dump(), indent=1) + "\n")


def builtin() -> dict[str, Workflow]:
    """Workflows that come with the program, by name."""
    chain = Workflow(
        name="Preprocess, train, analyze",
        steps=[
            Step(id="preprocess", job_type="preprocess", inputs_from=[OUTSIDE]),
            Step(id="train", job_type="train", inputs_from=["preprocess"]),
            Step(id="analyze", job_type="analyze", inputs_from=["train"]),
        ],
    )
    rest = Workflow(
        name="Train, analyze",
        steps=[
            Step(id="train", job_type="train", inputs_from=[OUTSIDE]),
            Step(id="analyze", job_type="analyze", inputs_from=["train"]),
        ],
    )
    return {"preprocess-train-analyze": chain, "train-analyze": rest}


def from_jobs(project: Project, jobs: Sequence[Job | str], name: str = "Workflow") -> Workflow:
    """A workflow that repeats these jobs; files that none of them made are left out, to be given at the start.

    Raises InputError for a job of another program.
    """
    chosen = sorted((project.job(job) for job in jobs), key=lambda job: job.number)
    ids = {job.name: f"{job.job_type}{job.number}" for job in chosen}
    steps = []
    for job in chosen:
        if job.model is None:
            raise InputError("job", "must be one of GaussianEM's", job.name, "Leave it out.")
        values = job.values()
        before = [n for n in job.record().get("inputs_from") or () if project.graph().find(n)]
        before = list(dict.fromkeys([*before, *project.parents(job)]))
        parents = [name for name in before if name in ids]
        outside = any(name not in ids for name in before)
        kept = {}
        for option, value in values.items():
            field = job.model.model_fields[option]
            if option in ("job_dir", "overwrite", "resume", "source_dir") or (
                not field.is_required() and value == field.get_default(call_default_factory=True)
            ):
                continue
            if is_path_field(job.model, option) and value:
                words = value if isinstance(value, list) else [value]
                made_here = [in_project(values, str(word)).startswith(tuple(ids)) for word in words]
                if all(made_here) and option in input_fields(job.model):
                    continue  # its maker is a step: filled again
                outside = outside or not any(made_here)
                continue
            kept[option] = value
        # Nearest first: the job made last knows the others through its own inputs.
        sources = [ids[n] for n in sorted(parents, key=lambda n: -project.job(n).number)]
        steps.append(
            Step(
                id=ids[job.name],
                job_type=job.job_type,
                values=kept,
                inputs_from=sources + ([OUTSIDE] if outside else []),
            )
        )
    return check(Workflow(name=name, steps=steps))


def start(
    project: Project,
    workflow: Workflow,
    values: Mapping[str, Any] | None = None,
    *,
    inputs: Sequence[Job | str] = (),
    launch: runner.Launch | None = None,
) -> list[Job]:
    """Create all jobs of a workflow and request their run; returns them. ``values`` are ``{"step.option": value}``.

    ``inputs`` are jobs that give the inputs that steps take from OUTSIDE. Raises InputError before any job is created
    if a required input is missing or a name is unknown.
    """
    check(workflow)
    given: dict[str, dict[str, Any]] = {step.id: dict(step.values) for step in workflow.steps}
    for key, value in (values or {}).items():
        step_id, _, option = key.partition(".")
        step = next((s for s in workflow.steps if s.id == step_id), None)
        if step is None or option not in JOB_OPTIONS[step.job_type].model_fields:
            raise InputError("value", "must be named step.option", key, f"Steps: {', '.join(given)}.")
        given[step_id][option] = value
    outside = [project.job(job).name for job in inputs]
    missing = []
    for need in workflow.needs():
        step_id, _, option = need.partition(".")
        step = next(s for s in workflow.steps if s.id == step_id)
        found = project.fill(step.job_type, outside, {}) if OUTSIDE in step.inputs_from and outside else {}
        if not given[step_id].get(option) and not found.get(option):
            missing.append(need)
    if missing:
        remedy = f"Give {'=FILE and '.join(missing)}=FILE, or a job that has such files."
        raise InputError("workflow", f"needs {', '.join(missing)}", "nothing", remedy)
    made: dict[str, Job] = {}
    for step in workflow.steps:
        sources = [name for s in step.inputs_from for name in (outside if s == OUTSIDE else [made[s].name])]
        made[step.id] = project.new_job(
            step.job_type, given[step.id], inputs_from=sources, note=f"Step {step.id} of workflow {workflow.name}"
        )
    for step in workflow.steps:
        after = tuple(made[s].name for s in step.inputs_from if s != OUTSIDE)
        base = launch or runner.Launch()
        runner.request(project, made[step.id], runner.Launch(base.where, base.gpus, after, base.cluster))
    return list(made.values())


__all__ = ["OUTSIDE", "Step", "Workflow", "builtin", "check", "from_jobs", "load", "save", "start"]
