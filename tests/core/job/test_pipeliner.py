"""Our jobs in the real ccpem-pipeliner: options, commands, output nodes and results."""

from __future__ import annotations

import configparser
import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from small_data import write_molecule

from gaussianem_core.cli import main
from gaussianem_core.options import JOB_OPTIONS, TrainOptions

pytest.importorskip("pipeliner")
jobs = importlib.import_module("gaussianem_core.job.pipeliner")
pytestmark = pytest.mark.filterwarnings("ignore")  # pipeliner's own


def test_entry_points_name_every_job() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[3] / "setup.cfg")
    lines = setup["options.entry_points"]["ccpem_pipeliner.jobs"].split("\n")
    found = dict(line.split(" = ") for line in lines if line)
    wanted = {f"gaussianem.{name}": name for name in JOB_OPTIONS if name != "import"}
    assert found == {key: f"gaussianem_core.job.pipeliner:{name}_job" for key, name in wanted.items()}
    for key, name in wanted.items():
        assert getattr(jobs, f"{name}_job").PROCESS_NAME == key


@pytest.mark.parametrize("name", [name for name in JOB_OPTIONS if name != "import"])
def test_every_option_is_offered_with_its_default(name: str) -> None:
    model = JOB_OPTIONS[name]
    job = getattr(jobs, f"{name}_job")()
    assert set(model.model_fields) - set(job.joboptions) == {"job_dir", "output", "overwrite"} & set(model.model_fields)
    required = {n: "given" for n, field in model.model_fields.items() if field.is_required()}
    required |= {"z": "z.txt"} if name == "decode" else {}
    for option, value in required.items():
        job.joboptions[option].value = value
    assert job.options() == model(**required)


def test_what_is_entered_becomes_the_command() -> None:
    job = jobs.train_job()
    job.output_dir = "Train/job007/"
    job.joboptions["epoch"].value = 3
    job.joboptions["half_sets"].value = "Yes"
    words = job.get_commands()[0].cmd
    assert words[:2] == ["gaussianem", "train"] and words[-2:] == ["--job_dir", "Train/job007/"]
    assert "--half_sets" in words and words[words.index("--epoch") + 1] == "3"
    assert job.options() == TrainOptions(epoch=3, half_sets=True)
    job.joboptions["epoch"].value = -1
    assert job.additional_joboption_validation()[0].type == "error"


def test_a_run_leaves_nodes_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_molecule(tmp_path / "molecule.npz")
    job = jobs.simulate_job()
    job.output_dir = "Simulate/job001/"
    for name, value in {"model": "molecule.npz", "particles": 8, "box": 32, "apix": 4.0}.items():
        job.joboptions[name].value = value
    assert main(job.get_commands()[0].cmd[1:]) == 0
    job.create_post_run_output_nodes()
    kinds = {Path(node.name).name: node.type for node in job.output_nodes}
    assert kinds["particles.star"].startswith("ParticleGroupMetadata.star.relion")
    assert kinds["truth.npz"] == "ProcessData.npz.truth.gaussianem"
    assert kinds["consensus.mrc"].startswith("DensityMap.mrc")
    assert {type(shown).__name__ for shown in job.create_results_display()} & {"ResultsDisplayMapModel"}
