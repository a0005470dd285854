"""STAR files that hold no particles to be used are named for what they are, and the remedy is another file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gaussianem_core.errors import InputError
from gaussianem_core.io.particle_table import read_particles

PARTICLES = "data_particles\nloop_\n_rlnImageName #1\n_rlnAngleRot #2\n000001@a.mrcs 0\n"
OTHER = {
    "run_it025_model.star": ("data_model_general\n_rlnReferenceDimensionality 3\n", "the model of a refinement"),
    "run_optimiser.star": ("data_optimiser_general\n_rlnOutputRootName a\n", "the settings of a refinement"),
    "micrographs.star": (
        "data_micrographs\nloop_\n_rlnMicrographName\n_rlnDefocusU\na.mrc 1\n",
        "a list of micrographs",
    ),
    "picks.star": ("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n", "picked coordinates"),
    "classes.star": ("data_model_classes\nloop_\n_rlnReferenceImage\na.mrc\n", "the model of a refinement"),
    "default_pipeline.star": (
        "data_pipeline_general\n_rlnPipeLineJobCounter 2\n",
        "the list of a RELION project's jobs",
    ),
    "job.star": ("data_joboptions_values\nloop_\n_rlnJobOptionVariable\na\n", "a RELION job's options"),
}
TOMOGRAPHY = {
    "subtomograms of tilt series (rlnTomoSubTomosAre2DStacks 1": "data_general\n_rlnTomoSubTomosAre2DStacks 1\n"
    + PARTICLES,
    "subtomograms of tilt series (rlnTomoName": PARTICLES.replace("_rlnAngleRot #2", "_rlnTomoName #2"),
    "3D subtomograms": PARTICLES.replace("_rlnAngleRot #2", "_rlnTomoName #2\n_rlnCtfImage #3").replace(
        " 0\n", " a b\n"
    ),
    "a list of tilt series": "data_global\nloop_\n_rlnTomoName\n_rlnTomoTiltSeriesStarFile\na b\n",
    "a list of tomograms": "data_global\nloop_\n_rlnTomoName\n_rlnTomoSizeX\na 3\n",
    "picked coordinates": "data_particles\nloop_\n_rlnTomoName\n_rlnCenteredCoordinateXAngst\na 3\n",
    "places in tomograms": "data_\nloop_\n_rlnTomoName\n_rlnTomoManifoldIndex\na 3\n",
}


@pytest.mark.parametrize("name", OTHER)
def test_another_file_is_named(tmp_path: Path, name: str) -> None:
    text, words = OTHER[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="rlnImageName") as caught:
        read_particles(tmp_path / name)
    assert words in str(caught.value.value)


def test_the_particles_beside_a_model_are_offered(tmp_path: Path) -> None:
    for name, text in (("run_it025_model.star", OTHER["run_it025_model.star"][0]), ("run_it025_data.star", PARTICLES)):
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_particles(tmp_path / "run_it025_model.star")
    assert caught.value.remedy == f"Give {tmp_path / 'run_it025_data.star'}."


@pytest.mark.parametrize("what", TOMOGRAPHY)
def test_tomography_is_refused_as_such(tmp_path: Path, what: str) -> None:
    (tmp_path / "run_data.star").write_text(TOMOGRAPHY[what])
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        read_particles(tmp_path / "run_data.star")
    assert "run_data.star" not in caught.value.remedy


def test_the_mark_of_single_particles_is_none_of_tomography(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text("data_general\n_rlnTomoSubTomosAre2DStacks 0\n" + PARTICLES)
    table = read_particles(tmp_path / "p.star", require_pose=False, require_ctf=False, find_stacks=False)
    assert len(table) == 1
