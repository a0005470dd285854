"""Projects: graph, lock, aliases, trash, repair, faults; ccpem-pipeliner reads ours, and we read its."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ABORT, HEARTBEAT, SUCCESS
from gaussianem_core.runtime.processes import identity
from gaussianem_gui.execution import runner
from gaussianem_gui.project import lock as lock_room
from gaussianem_gui.project import repair, trash
from gaussianem_gui.project.graph import (
    GRAPH,
    Graph,
    Process,
    Table,
    damage,
    graph_from_text,
    graph_text,
    parse,
    quote,
    render,
)
from gaussianem_gui.project.graph_file import GOOD
from gaussianem_gui.project.job import Job, State, Status
from gaussianem_gui.project.job_star import job_star_text, read_job_star
from gaussianem_gui.project.lock import LOCK, MESSAGE, LockHeld, locked
from gaussianem_gui.project.project import Project, recent_projects, remember_project
from gaussianem_gui.project.repair import rebuild

INPUT = {"star_file": "raw/run_data.star", "consensus_map": "raw/map.mrc"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "a project")


def finish(project: Project, job: Job, files: dict[str, str]) -> None:
    """What a run of the engine leaves."""
    with (job.directory / "events.jsonl").open("a") as log:
        for name, kind in files.items():
            (job.directory / name).write_text("x")
            log.write(json.dumps({"t": 1.0, "type": "artifact", "kind": kind, "path": name, "label": name}) + "\n")
    job.write_record(requested=1.0, run=1)
    (job.directory / SUCCESS).touch()
    assert project.sync()


PREPARED = {
    "img_stack.mrcs": "stack",
    "poses.npy": "poses",
    "ctf.npy": "ctf",
    "point_cloud.ply": "gaussians",
    "cfg.json": "configuration",
    "particles.star": "particles",
}


# --- STAR -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "a",
        "",
        "a b",
        'say "hi"',
        "it's",
        "#1",
        "_x",
        "data_x",
        "loop_",
        "x;y",
        "$(rm -rf)",
        "[1]",
        "a#b",
        ".",
        "?",
        "'",
        '"',
        "a'b\"c",
        "ü b",
        "`x`",
        "{}",
        "a\\b",
    ],
)
def test_a_word_survives_star_here_and_in_gemmi(word: str) -> None:
    from gemmi import cif

    text = render({"t": Table(["a", "b"], [[word, "end"], ["x", word]]), "p": Table(["v"], [[word]], True)})
    assert parse(text)["t"].rows == [[word, "end"], ["x", word]]
    assert parse(text)["p"].get("v") == word
    block = cif.read_string(text).find_block("t")
    assert [cif.as_string(v) for v in block.find_values("_a")] == [word, "x"]


def test_a_word_that_star_cannot_hold_is_refused() -> None:
    for bad in ("a\nb", "both ' and \" here"):
        with pytest.raises(InputError, match="must"):
            quote(bad)


def test_rows_as_relion_writes_them() -> None:
    (row,) = parse('data_a\nloop_\n_b\n_c\n  fn_exe "my program --x"  # comment\n')["a"].rows
    assert row == ["fn_exe", "my program --x"]
    with pytest.raises(ValueError, match="line 5 holds 1 words for 2 columns"):
        parse("data_a\nloop_\n_x #1\n_y #2\n1\n")


def test_foreign_columns_blocks_and_types_are_kept(project: Project) -> None:
    path = project.root / GRAPH
    path.write_text("""
# version 50001

data_pipeline_general

_rlnPipeLineJobCounter                       8
_rlnMyOwn      kept

# version 50001

data_pipeline_processes

loop_
_rlnPipeLineProcessName #1
_rlnPipeLineProcessAlias #2
_rlnPipeLineProcessTypeLabel #3
_myColour #4
_rlnPipeLineProcessStatusLabel #5
Refine3D/job007/  Refine3D/best/  relion.refine3d.tomo   blue   Succeeded

# version 50001

data_pipeline_nodes

loop_
_rlnPipeLineNodeName #1
_rlnPipeLineNodeTypeLabel #2
_rlnPipeLineNodeTypeLabelDepth #3
Refine3D/job007/run_data.star ParticleGroupMetadata.star.relion.refine3d 1
Refine3D/job007/run_half1_class001_unfil.mrc DensityMap.mrc.relion.halfmap.refine3d 1
Refine3D/job007/run_class001.mrc DensityMap.mrc.relion.refine3d 1

# version 50001

data_pipeline_output_edges

loop_
_rlnPipeLineEdgeProcess #1
_rlnPipeLineEdgeToNode #2
Refine3D/job007/ Refine3D/job007/run_data.star
Refine3D/job007/ Refine3D/job007/run_half1_class001_unfil.mrc
Refine3D/job007/ Refine3D/job007/run_class001.mrc

data_of_somebody

_thing  "two words"

""")
    job = project.new_job("preprocess", inputs_from=["best"])
    assert job.name == "Preprocess/job008/"
    values = job.values()
    assert values["star_file"] == "Refine3D/job007/run_data.star"
    assert values["consensus_map"] == "Refine3D/job007/run_class001.mrc"  # not the half map
    assert [c.path for c in project.choices("particles")] == [
        "Preprocess/job008/particles.star",
        "Refine3D/job007/run_data.star",
    ]
    blocks = parse(path.read_text())
    processes = blocks["pipeline_processes"]
    assert processes.columns[-1] == "rlnPipeLineProcessStatusLabel"
    assert dict(zip(processes.columns, processes.rows[0]))["myColour"] == "blue"
    assert processes.rows[0][2] == "relion.refine3d.tomo"
    assert blocks["pipeline_general"].get("rlnMyOwn") == "kept"
    assert blocks["of_somebody"].get("thing") == "two words"
    assert blocks["pipeline_nodes"].rows[0][2] == "1"
    infos = project.jobs()
    assert [i.title for i in infos] == ["Refine3D", "Preprocess"] and infos[0].missing and not infos[0].ours
    assert project.parents(job) == ["Refine3D/job007/"]


def test_a_job_whose_state_nobody_knows_can_be_deleted_and_restored(project: Project) -> None:
    with project.change("tests") as graph:
        graph.processes["Weird/job001/"] = Process("Weird/job001/", "some.unknown.type", "Pondering")
        graph.processes["Class2D/job002/"] = Process("Class2D/job002/", "relion.class2d", "Running")
        graph.counter = 3
    for name in ("Weird/job001", "Class2D/job002"):
        (project.root / name).mkdir(parents=True)
    info = project.jobs()[0]
    assert info.status.state is State.FAILED and info.status.detail == "its program calls it Pondering"
    with pytest.raises(InputError, match="must not be running"):
        trash.delete(project, 2)
    (project.root / "Class2D/job002/RELION_JOB_EXIT_SUCCESS").touch()
    assert trash.delete(project, 1) == ["Weird/job001/"] and trash.delete(project, 2) == ["Class2D/job002/"]
    assert trash.restore(project, "1").name == "Weird/job001/"
    assert "Pondering" in (project.root / GRAPH).read_text()


def test_a_project_of_relion_3_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_text(
        "data_pipeline_general\n_rlnPipeLineJobCounter 2\n\ndata_pipeline_processes\nloop_\n"
        "_rlnPipeLineProcessName #1\n_rlnPipeLineProcessAlias #2\n_rlnPipeLineProcessType #3\n"
        "_rlnPipeLineProcessStatus #4\nImport/job001/ None 0 2\n\n"
    )
    with pytest.raises(InputError, match="RELION 3") as caught:
        Project.open(tmp_path)
    assert "Make a new project beside it" in caught.value.remedy and "cannot be undone" in caught.value.remedy


# --- jobs, inputs ---------------------------------------------------------------------------------------------------


def test_a_new_job_has_relions_files(project: Project) -> None:
    job = project.new_job("preprocess", {**INPUT, "float16": True}, alias="first try", note="why")
    assert (project.root / "Preprocess" / "first_try").resolve() == job.directory.resolve()
    assert os.readlink(project.root / "Preprocess" / "first_try") == "../Preprocess/job001/"
    label, pairs = read_job_star(job.directory / "job.star")
    assert label == "relion.external.gaussianem.preprocess"
    assert pairs["float16"] == "Yes" and pairs["size"] == "" and pairs["fn_exe"]
    assert job.options().model_dump()["float16"] is True
    assert "why" in job.note()
    assert (project.root / ".gui_projectdir").exists() and (project.root / ".pipeline_has_changed").exists()
    part = graph_from_text((job.directory / "job_pipeline.star").read_text())
    assert part.inputs(job.name) == ["raw/run_data.star", "raw/map.mrc"]


def test_options_come_back_from_job_star_alone(project: Project) -> None:
    job = project.new_job("preprocess", {**INPUT, "apix": 1.5, "passthrough": ["a.cs", "b c.cs"], "no_invert": True})
    (job.directory / "options.json").unlink()
    values = job.options().model_dump()
    assert (values["apix"], values["passthrough"], values["no_invert"], values["size"], values["source_dir"]) == (
        1.5,
        ["a.cs", "b c.cs"],
        True,
        None,
        ".",
    )


def test_numbers_have_four_digits_from_1000_on(project: Project) -> None:
    with project.change("tests") as graph:
        graph.counter = 999
    assert [project.new_job("simulate", {"model": "m"}).name for _ in range(2)] == [
        "Simulate/job999/",
        "Simulate/job1000/",
    ]
    assert project.job(1000).number == project.job("job1000").number == 1000


def test_choosing_a_job_fills_the_next(project: Project) -> None:
    prepared = project.new_job("preprocess", INPUT)
    finish(project, prepared, PREPARED)
    train = project.new_job("train", {"mask": "raw/mask.mrc", "epoch": 3}, inputs_from=[prepared])
    values = train.values()
    assert {k: values[k] for k in ("source_dir", "particle_name", "pose", "ctf", "point", "cfg")} == {
        "source_dir": ".",
        "particle_name": "Preprocess/job001/img_stack.mrcs",
        "pose": "Preprocess/job001/poses.npy",
        "ctf": "Preprocess/job001/ctf.npy",
        "point": "Preprocess/job001/point_cloud.ply",
        "cfg": "Preprocess/job001/cfg.json",
    }
    # Before it ran, its files are expected ones; afterwards those that it wrote, the last of each kind.
    assert project.fill("analyze", [train])["model_weight"] == "Train/job002/weights.2.pkl"
    assert [c.ready for c in project.choices("checkpoint")] == [False]
    finish(
        project,
        train,
        {
            "weights.0.pkl": "checkpoint",
            "weights.0.output.pkl": "latents",
            "weights.1.pkl": "checkpoint",
            "weights.1.output.pkl": "latents",
        },
    )
    filled = project.fill("analyze", [train])
    assert filled["model_weight"] == "Train/job002/weights.1.pkl"
    assert filled["latent"] == "Train/job002/weights.1.output.pkl"
    assert filled["gaussians"] == "Preprocess/job001/point_cloud.ply"  # from the job before
    assert filled["star_file"] == "Preprocess/job001/particles.star"
    assert filled["mask"] == "raw/mask.mrc"  # the mask that the training used
    assert project.fill("analyze", [train], {"mask": ""})["mask"] == ""  # what the user gives wins
    assert "Train/job002/weights.2.pkl" not in project.graph().nodes
    assert project.suggestions(train)[0] == "analyze" and project.suggestions(prepared) == ["train", "reconstruct"]
    assert [i.name for i in project.input_jobs("train")] == [prepared.name]
    assert project.dependents(prepared) == [train.name] and project.parents(train) == [prepared.name]


def test_inputs_must_not_leave_the_project_by_dots(project: Project) -> None:
    with pytest.raises(InputError, match="out of the project"):
        project.new_job("preprocess", {**INPUT, "star_file": "../other/run.star"})
    assert project.jobs() == [] and project.new_job("preprocess", {**INPUT, "star_file": "/data/run.star"}).number == 1


def test_an_unknown_option_or_type_is_named(project: Project) -> None:
    with pytest.raises(InputError, match="colour"):
        project.new_job("train", {"colour": "red"})
    with pytest.raises(InputError, match="must be one of"):
        project.new_job("bake", {})
    assert graph_from_text((project.root / GRAPH).read_text()).processes == {}


def test_a_job_done_at_once(project: Project) -> None:
    def write(directory: Path) -> list[tuple[str, str]]:
        (directory / "particles.star").write_text("x")
        return [("particles.star", "particles")]

    job = project.record("Select", write, inputs=["raw/run_data.star"], note="lasso")
    assert job.name == "Select/job001/" and project.info(job).status.state is State.SUCCEEDED
    assert [c.path for c in project.choices("particles")] == ["Select/job001/particles.star", "raw/run_data.star"]
    with pytest.raises(ZeroDivisionError):
        project.record("Select", lambda directory: 1 / 0)  # type: ignore[arg-type, return-value]
    assert [i.name for i in project.jobs()] == ["Select/job001/"] and not (project.root / "Select/job002").exists()


def test_clone_and_update(project: Project) -> None:
    job = project.new_job("preprocess", INPUT)
    other = project.clone(job, {"epoch": 7})
    assert other.values()["epoch"] == 7 and other.values()["star_file"] == INPUT["star_file"]
    assert other.values()["job_dir"] == "Preprocess/job002"
    project.update(other, {"consensus_map": "raw/better.mrc"})
    assert project.inputs(other) == ["raw/run_data.star", "raw/better.mrc"]


# --- aliases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alias",
    ["x", "jobby", "a*b", "a/b", "a(b)", "a|b", "a#b", "a$b", "a;b", "a`b", "../x", "-rf", "a'b", 'a"b', "a\\b"],
)
def test_a_forbidden_alias_is_refused(project: Project, alias: str) -> None:
    job = project.new_job("simulate", {"model": "m"})
    with pytest.raises(InputError, match="alias"):
        project.set_alias(job, alias)
    assert sorted(os.listdir(project.root / "Simulate")) == ["job001"]


def test_aliases_are_unique_change_and_go(project: Project) -> None:
    first, second = (project.new_job("simulate", {"model": "m"}) for _ in range(2))
    project.set_alias(first, "good one")
    with pytest.raises(InputError, match="unique"):
        project.set_alias(second, "good_one")
    assert project.job("good_one").name == project.job("Simulate/good_one").name == first.name
    project.set_alias(first, "better")
    assert sorted(os.listdir(project.root / "Simulate")) == ["better", "job001", "job002"]
    project.set_alias(first, "")
    assert project.info(first).alias == "" and not (project.root / "Simulate/better").is_symlink()


# --- trash, cleanup -------------------------------------------------------------------------------------------------


def test_delete_names_dependents_and_restore_brings_edges_back(project: Project) -> None:
    prepared = project.new_job("preprocess", INPUT, alias="prep")
    finish(project, prepared, PREPARED)
    train = project.new_job("train", inputs_from=[prepared])
    with pytest.raises(InputError, match="Train/job002/"):
        trash.delete(project, prepared)
    before = graph_text(project.graph())
    assert trash.delete(project, prepared, with_dependents=True) == [train.name, prepared.name]
    assert project.jobs() == [] and not prepared.exists() and not (project.root / "Preprocess/prep").is_symlink()
    assert (project.root / "Trash/Preprocess/job001/deleted_pipeline.star").is_file()
    assert {t.name for t in trash.contents(project)} == {prepared.name, train.name}
    assert project.new_job("simulate", {"model": "m"}).number == 3  # numbers are not used again
    trash.delete(project, 3)
    trash.restore(project, prepared.name)
    trash.restore(project, "Train/job002")
    after, old = project.graph(), graph_from_text(before)
    assert set(after.processes) == set(old.processes) and set(after.nodes) == set(old.nodes)
    assert set(after.input_edges) == set(old.input_edges) and set(after.output_edges) == set(old.output_edges)
    assert project.job("prep").name == prepared.name and prepared.exists()
    with pytest.raises(InputError, match="trash"):
        trash.restore(project, "Train/job099")
    assert [t.name for t in trash.contents(project)] == ["Simulate/job003/"]
    assert trash.empty(project) > 0 and trash.contents(project) == []


def test_cleanup_takes_superseded_checkpoints_of_succeeded_jobs(project: Project) -> None:
    job = project.new_job("train", {})
    with pytest.raises(InputError, match="succeeded"):
        trash.cleanup(project, job)
    finish(project, job, {"weights.0.pkl": "checkpoint", "weights.1.pkl": "checkpoint", "weights.2.pkl": "checkpoint"})
    user = project.new_job("analyze", {"model_weight": "Train/job001/weights.1.pkl", "latent": "x"})
    assert trash.cleanup(project, job, dry_run=True) == ["Train/job001/weights.0.pkl"]  # 1 is an input, 2 the last
    trash.cleanup(project, job)
    assert (project.root / "Trash/Train/job001/weights.0.pkl").exists()
    assert sorted(p.name for p in job.directory.glob("*.pkl")) == ["weights.1.pkl", "weights.2.pkl"]
    assert "Train/job001/weights.0.pkl" not in project.graph().nodes
    trash.delete(project, user)
    trash.delete(project, job)  # what was cleaned up before comes along
    assert len(list((project.root / "Trash/Train/job001").glob("*.pkl"))) == 3


# --- links and paths ------------------------------------------------------------------------------------------------


def test_links_out_of_the_project_are_not_followed(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    job = project.new_job("simulate", {"model": "m"})
    job.directory.rename(outside / "job001")
    job.directory.symlink_to(outside / "job001")
    for act in (
        lambda j: trash.delete(project, j),
        lambda j: project.set_alias(j, "name"),
        lambda j: project.mark(j, State.FAILED),
        lambda j: j.add_note("x"),
        lambda j: j.change_note("", "x"),
    ):
        with pytest.raises(InputError, match="inside the project"):
            act(job)
    (project.root / "Train").symlink_to(outside)
    with pytest.raises(InputError, match="inside the project"):
        project.new_job("train", {})
    assert sorted(os.listdir(outside)) == ["job001", "precious"]
    for key in ("../outside/", "/etc", "Simulate/../../x"):
        with pytest.raises(InputError, match="must be in the project"):
            project.job(key)


def test_wild_paths_in_options_survive_as_they_are(project: Project) -> None:
    wild = "my data; rm -rf $(HOME) `x` 'quoted' & \"more\"/p.star"
    job = project.new_job("preprocess", {"star_file": wild, "consensus_map": "m.mrc"})
    assert Project.open(project.root).job(job.name).values()["star_file"] == wild
    assert project.inputs(job)[0] == wild
    assert read_job_star(job.directory / "job.star")[1]["star_file"] == wild


# --- lock -----------------------------------------------------------------------------------------------------------


def test_a_lock_of_a_living_program_is_waited_for_and_named(project: Project) -> None:
    with locked(project.root, "does something long"):
        with pytest.raises(LockHeld) as caught, locked(project.root, "wants too", wait_seconds=0.2):
            pass
        holder = caught.value.holder
        assert holder.pid == os.getpid() and holder.dead is False and "does something long" in holder.text
    assert project.lock_holder() is None


def test_a_lock_of_a_dead_process_is_told_at_once_and_broken_on_request(project: Project) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (project.root / LOCK).mkdir()
    who = {**identity(), "pid": dead.pid, "ticks": 1}
    (project.root / LOCK / MESSAGE).write_text(f"GaussianEM, adds a job\n{json.dumps(who)}\n")
    began = time.monotonic()
    with pytest.raises(LockHeld, match="gone") as caught:
        project.new_job("simulate", {"model": "m"})
    assert caught.value.holder.dead is True and time.monotonic() - began < 30
    assert "was broken" in repair.repair(project, break_lock=True)[0]
    assert project.new_job("simulate", {"model": "m"}).number == 1


def test_a_lock_that_has_no_name_yet_is_not_replaced(project: Project) -> None:
    (project.root / LOCK).mkdir()  # as RELION takes it, before it has written its name
    with pytest.raises(LockHeld, match="unknown"), locked(project.root, "must not replace it", wait_seconds=0.2):
        pass
    assert sorted(path.name for path in project.root.glob(f"{LOCK}*")) == [LOCK]


def test_a_lock_where_the_file_system_cannot_rename_with_care(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_room, "_renameat2", lambda: None)
    with locked(project.root, "first"):
        assert (project.root / LOCK / MESSAGE).is_file()
        with pytest.raises(LockHeld, match="first"), locked(project.root, "second", wait_seconds=0.2):
            pass
    assert not list(project.root.glob(f"{LOCK}*"))


def test_a_lock_that_was_broken_and_taken_by_another_stays_the_others(project: Project) -> None:
    with locked(project.root, "is slow"):
        project.break_lock()
        (project.root / LOCK).mkdir()
        (project.root / LOCK / MESSAGE).write_text("lock mainGUI scheduling job\n")
    found = project.lock_holder()
    assert found is not None and "mainGUI" in found.text


def test_a_lock_of_relion_has_a_holder_that_is_not_known(project: Project) -> None:
    (project.root / LOCK).mkdir()
    (project.root / LOCK / MESSAGE).write_text("lock mainGUI scheduling job\n")
    holder = project.lock_holder()
    assert holder is not None and "mainGUI" in holder.text and holder.dead is None
    assert "mainGUI" in project.break_lock() and project.lock_holder() is None


def _add_jobs(root: str, count: int) -> list[str]:
    project = Project.open(root)
    return [project.new_job("simulate", {"model": "m"}).name for _ in range(count)]


def test_eight_processes_add_25_jobs_each(project: Project) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(8) as pool:
        names = [n for part in pool.starmap(_add_jobs, [(str(project.root), 25)] * 8) for n in part]
    assert len(set(names)) == 200
    assert {i.name for i in project.jobs()} == set(names)
    assert sorted(i.number for i in project.jobs()) == list(range(1, 201))
    assert project.graph().counter == 201 and project.lock_holder() is None


# --- faults ---------------------------------------------------------------------------------------------------------


def whole_project(project: Project) -> Job:
    prepared = project.new_job("preprocess", INPUT)
    finish(project, prepared, PREPARED)
    project.new_job("train", inputs_from=[prepared])
    return prepared


def test_a_graph_cut_anywhere_is_restored(project: Project) -> None:
    whole_project(project)
    whole = (project.root / GRAPH).read_bytes()
    expected = graph_text(graph_from_text(whole.decode()))
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    good = graph_from_text(whole.decode())
    for length in [*range(len(whole) - 60), *line_ends[:-3]]:
        assert damage(whole[:length].decode(), good), length
    for length in (0, 500, line_ends[-5]):
        (project.root / GRAPH).write_bytes(whole[:length])
        opened = Project.open(project.root)
        assert graph_text(opened.graph()) == expected, length
        assert "damaged" in opened.notes[0] and (project.root / GRAPH).read_bytes() == whole
    assert list(project.root.glob(f"{GRAPH}.damaged-*"))


def test_jobs_that_another_program_deleted_are_no_damage(project: Project) -> None:
    whole_project(project)
    graph = graph_from_text((project.root / GRAPH).read_text())
    for name in list(graph.processes):
        graph.remove(name)
        (project.root / name).rename(project.root / "Trash" / name.replace("/", "_"))
    (project.root / GRAPH).write_text(graph_text(graph))
    assert Project.open(project.root).jobs() == [] and Project.open(project.root).notes == []


def test_a_graph_that_is_gone_is_restored_or_rebuilt(project: Project) -> None:
    prepared = whole_project(project)
    (project.root / GRAPH).unlink()
    assert [i.name for i in Project.open(project.root).jobs()] == ["Preprocess/job001/", "Train/job002/"]
    (project.root / GRAPH).write_text("rubbish")
    (project.root / GOOD).unlink()
    with pytest.raises(InputError, match="repair"):
        Project.open(project.root)
    again = rebuild(project.root)
    assert {i.name: i.status.state for i in again.jobs()} == {
        prepared.name: State.SUCCEEDED,
        "Train/job002/": State.SCHEDULED,
    }
    assert again.parents("Train/job002/") == [prepared.name] and again.graph().counter == 3


def test_a_crash_between_directory_and_graph_is_repaired(project: Project) -> None:
    project.new_job("simulate", {"model": "m"})
    before = (project.root / GRAPH).read_text()
    lost = project.new_job("simulate", {"model": "m"}, alias="lost one")
    (project.root / GRAPH).write_text(before)  # as if the process had died before the second write
    (project.root / GOOD).write_text(before)
    assert [i.number for i in project.jobs()] == [1]
    assert project.new_job("simulate", {"model": "m"}).number == 3  # the number on disk is never used again
    assert any(lost.name in line for line in repair.repair(project))
    assert [i.number for i in project.jobs()] == [1, 2, 3] and project.job("lost_one").name == lost.name
    assert project.graph().counter == 4


def test_what_a_crash_left_without_a_job_star(project: Project) -> None:
    job = project.new_job("simulate", {"model": "m"})
    with project.change("forgets it") as graph:
        del graph.processes[job.name]
    (job.directory / "job.star").unlink()  # its options are there: it comes back
    (project.root / "Train/job007").mkdir(parents=True)
    (project.root / "Train/job007/.options.json.1.tmp").touch()
    (project.root / "Train/job008").mkdir()
    (project.root / "Train/job008/precious").touch()
    told = "\n".join(repair.repair(project))
    assert f"{job.name} was not in the graph" in told and "job007/, left empty by a crash" in told
    assert "job008/ holds no readable job.star" in told and (project.root / "Train/job008/precious").exists()
    assert project.job(1).values()["model"] == "m" and project.graph().counter == 9


def test_a_draft_is_looked_at_again_when_its_directory_changes(project: Project) -> None:
    job = project.new_job("simulate", {"model": "m"})
    long_ago = time.time() - 3600
    os.utime(job.directory, (long_ago, long_ago))
    assert project.jobs()[0].status.state is State.SCHEDULED and runner.asked_here(project) == []
    (job.directory / SUCCESS).touch()  # RELION ran it
    assert project.jobs()[0].status.state is State.SUCCEEDED
    assert project.sync() and project.graph().processes[job.name].status == "Succeeded"


def test_a_job_that_was_lost_may_be_heard_of_again(project: Project) -> None:
    """Its host, or the network disk, was silent for a while; the graph, which calls it Failed, follows."""
    job = project.new_job("train", {})
    beat = {"host": "elsewhere", "pid": 1, "started": 1.0, "t": 1.0}
    (job.directory / HEARTBEAT).write_text(json.dumps(beat))
    os.utime(job.directory / HEARTBEAT, (1.0, 1.0))
    assert project.jobs()[0].status.state is State.LOST
    assert project.sync() and project.graph().processes[job.name].status == "Failed"
    (job.directory / HEARTBEAT).write_text(json.dumps({**beat, "t": time.time()}))
    assert project.jobs()[0].status.state is State.RUNNING
    assert project.sync() and project.graph().processes[job.name].status == "Running"
    (job.directory / HEARTBEAT).unlink()
    (job.directory / SUCCESS).touch()
    assert project.sync() and project.graph().processes[job.name].status == "Succeeded"


def test_a_crash_while_deleting_is_completed_by_repair(project: Project) -> None:
    job = project.new_job("simulate", {"model": "m"})
    before = (project.root / GRAPH).read_text()
    trash.delete(project, job)
    (project.root / GRAPH).write_text(before)
    (project.root / GOOD).write_text(before)
    assert project.jobs()[0].missing
    assert "trash" in repair.repair(project)[0] and project.jobs() == []
    assert trash.restore(project, job.name).exists()


def test_a_directory_deleted_by_hand(project: Project) -> None:
    import shutil

    job = project.new_job("simulate", {"model": "m"})
    shutil.rmtree(job.directory)
    info = project.jobs()[0]
    assert info.missing and info.status.detail == "its directory is gone"
    for act in (
        Project.clone,
        runner.request,
        runner.continue_job,
        lambda p, j: p.set_alias(j, "name"),
        lambda p, j: p.mark(j, State.FAILED),
        lambda p, j: j.add_note("x"),
        lambda p, j: trash.cleanup(p, j),
    ):
        with pytest.raises(InputError, match="must have its directory"):
            act(project, job)
    assert "directory is gone" in repair.repair(project)[0]
    assert trash.delete(project, job) == [job.name] and project.jobs() == []


def test_a_read_only_project_can_be_looked_at() -> None:
    script = (
        "import os, sys\nfrom gaussianem_gui.project.project import Project\n"
        "from gaussianem_core.errors import InputError\n"
        "os.setuid(65534) if os.getuid() == 0 else None\np = Project.open(sys.argv[1])\n"
        "print(p.read_only, len(p.jobs()), p.notes[0])\n"
        "try:\n    p.new_job('train', {})\nexcept InputError as error:\n    print(error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # open to the other user that a test run by root becomes
        os.chmod(folder, 0o755)
        project = Project.create(Path(folder) / "p")
        whole_project(project)
        everything = (project.root, *project.root.rglob("*"))
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", script, str(project.root)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            check=False,
        )
        for path in everything:
            path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "True 2 the project is read-only" in done.stdout and "must be writable" in done.stdout


def test_ten_thousand_jobs_are_listed(project: Project) -> None:
    graph = Graph()
    for number in range(1, 10_001):
        name = f"Simulate/job{number:03d}/"
        graph.processes[name] = Process(name, "relion.external.gaussianem.simulate", "Succeeded")
        graph.add_output(name, name + "particles.star", "ParticleGroupMetadata.star.relion")
        graph.add_input(name, f"Simulate/job{number - 1:03d}/particles.star", "ParticleGroupMetadata.star.relion")
        graph.counter = number + 1
    (project.root / GRAPH).write_text(graph_text(graph))
    rows = Project.open(project.root).jobs()
    assert len(rows) == 10_000 and rows[-1].number == 10_000
    assert len(project.dependents("Simulate/job9000/")) == 1000


def test_recent_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first, second = Project.create(tmp_path / "a"), Project.create(tmp_path / "b")
    for project in (first, second, first):
        remember_project(project.root)
    assert recent_projects() == [first.root, second.root]


# --- ccpem-pipeliner ------------------------------------------------------------------------------------------------


def in_pipeliner(root: Path, script: str) -> str:
    """Run a script with ccpem-pipeliner in the project, as its user would; its output."""
    pytest.importorskip("pipeliner", reason="ccpem-pipeliner is not installed")
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pipeliner_reads_our_project(project: Project) -> None:
    prepared = project.new_job("preprocess", {**INPUT, "star_file": "raw data/run.star"}, alias="my prep")
    finish(project, prepared, PREPARED)
    train = project.new_job("train", {"epoch": 3}, inputs_from=[prepared])
    read = json.loads(
        in_pipeliner(
            project.root,
            """
import json
from pipeliner.project_graph import ProjectGraph
from pipeliner.starfile_handler import JobStar
g = ProjectGraph(name="default", pipeline_dir=".", read_only=True)
inputs, outputs = g.get_pipeline_edges()
print(json.dumps({
    "counter": g.job_counter, "found": g.find_process("Preprocess/my_prep/").name,
    "jobs": [[p.name, p.type, p.status, p.alias] for p in g.process_list],
    "nodes": {n.name: n.type for n in g.node_list}, "inputs": inputs, "outputs": outputs,
    "up": sorted(n.name for n in g.find_process("Train/job002/").input_nodes),
    "star": JobStar("Train/job002/job.star").all_options_as_dict(),
    "prep": JobStar("Preprocess/job001/job.star").all_options_as_dict(),
}))""",
        )
    )
    assert read["counter"] == 3 and read["found"] == prepared.name
    assert read["jobs"] == [
        [prepared.name, "relion.external.gaussianem.preprocess", "Succeeded", "Preprocess/my_prep/"],
        [train.name, "relion.external.gaussianem.train", "Scheduled", None],
    ]
    assert set(map(tuple, read["inputs"])) == set(project.graph().input_edges)
    assert set(map(tuple, read["outputs"])) == set(project.graph().output_edges)
    assert read["nodes"]["Preprocess/job001/particles.star"] == "ParticleGroupMetadata.star.relion"
    assert read["up"] == sorted(project.inputs(train))
    assert read["star"]["epoch"] == "3" and read["star"]["source_dir"] == "." and read["star"]["half_sets"] == "No"
    assert read["prep"]["star_file"] == "raw data/run.star"


def test_we_read_what_pipeliner_ran_and_it_goes_on_with_ours(tmp_path: Path) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    import numpy as np

    with mrcfile.new(tmp_path / "in.mrc") as file:
        file.set_data(np.random.default_rng(0).random((16, 16, 16), dtype=np.float32))
        file.voxel_size = 2.0
    in_pipeliner(
        tmp_path,
        """
from pipeliner.api.manage_project import PipelinerProject
PipelinerProject(make_new_project=True).run_job(
    {"_rlnJobTypeLabel": "ccpem_utils.map_utilities.crop_pad_mask_map", "input_map": "in.mrc", "pad_map": "Yes",
     "croppad_x": "20", "croppad_y": "20", "croppad_z": "20"}, alias="padded", run_in_foreground=True)""",
    )
    project = Project.open(tmp_path)
    info = project.jobs()[0]
    assert (info.number, info.alias, info.status.state, info.ours) == (1, "padded", State.SUCCEEDED, False)
    made = [c.path for c in project.choices("map") if c.job]
    assert made and made[0].startswith("CropPadMaskMap/job001/")
    job = project.new_job("preprocess", {"star_file": "raw/p.star"}, inputs_from=[info.name])
    assert job.number == 2 and job.values()["consensus_map"] == made[0]
    in_pipeliner(
        tmp_path,
        """
from pipeliner.api.manage_project import PipelinerProject
p = PipelinerProject()
p.set_alias("Preprocess/job002/", "renamed")
p.delete_job("CropPadMaskMap/job001/")""",
    )
    project = Project.open(tmp_path)  # it deletes what depends on the job as well
    assert project.jobs() == [] and {t.name for t in trash.contents(project)} == {"CropPadMaskMap/job001/", job.name}
    assert trash.restore(project, info.name).exists() and trash.restore(project, job.name).exists()
    assert project.job("renamed").name == job.name and project.parents(job) == [info.name]
    assert project.new_job("simulate", {"model": "m"}).number == 3


def test_job_star_of_another_hand(tmp_path: Path) -> None:
    (tmp_path / "job.star").write_text(job_star_text("relion.external.gaussianem.train", {"epoch": 5, "resume": True}))
    label, pairs = read_job_star(tmp_path / "job.star")
    assert label.endswith("train") and pairs["epoch"] == "5" and pairs["resume"] == "Yes"
    (tmp_path / "job.star").write_text("data_job\n\n_x 1\n")
    with pytest.raises(InputError, match=r"job\.star"):
        read_job_star(tmp_path / "job.star")


def test_marking_by_hand(project: Project) -> None:
    job = project.new_job("simulate", {"model": "m"})
    (job.directory / HEARTBEAT).write_text("{}")
    (job.directory / ABORT).touch()
    project.mark(job, State.SUCCEEDED)
    assert project.jobs()[0].status.state is State.SUCCEEDED
    with pytest.raises(InputError, match="must be Succeeded, Failed or Aborted"):
        project.mark(job, State.RUNNING)


def test_a_job_that_ends_while_its_state_is_noted_gets_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.create(tmp_path / "p")
    (project.root / "m.pdb").write_text("END\n")
    job = project.new_job("simulate", {"model": "m.pdb"})
    assert any(path.endswith("consensus.mrc") for path in project.graph().outputs(job.name)), "expected of it"
    (job.directory / "particles.star").write_text("data_particles\n\nloop_\n_rlnImageName\n")
    job.touch(SUCCESS)
    # The look that found it running is older than the end of the job.
    monkeypatch.setattr(project, "_look", lambda process: Status(State.RUNNING))
    assert project.sync()
    assert project.graph().processes[job.name].status == "Succeeded"
    names = {path.rsplit("/", 1)[-1] for path in project.graph().outputs(job.name)}
    assert "particles.star" in names and "consensus.mrc" not in names
