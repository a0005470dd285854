"""Latents of other programs through Import: what the explorer, comparison, checks and Reconstruct then take."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.analysis.latent_alignment import align
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.particle_table import read_particle_column, row_count
from gaussianem_gui.explorer.particle_columns import load_table
from gaussianem_gui.explorer.reconstruct_job import state_values
from gaussianem_gui.explorer.select_job import export_selection
from gaussianem_gui.explorer.sources import Sources, find_sources
from gaussianem_gui.project import import_job
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.explorer.diagnostics_panel import judge


def imported(project: Project, latents: str, **more: str) -> Sources:
    job = project.new_job("import", {"files": ["particles.star"], "latents": latents, **more})
    assert import_job.main(["--options", str(job.directory / "options.json"), "--job_dir", str(job.directory)]) == 0
    return find_sources(project, job.name)


@pytest.fixture
def project(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    shutil.copytree(data / "other_programs", root)
    monkeypatch.chdir(root)
    return Project.create(root)


def test_two_programs_latents_are_explored_and_compared(project: Project) -> None:
    drgn = imported(project, "z.2.pkl", indices="ind.pkl")
    assert drgn.program == "cryoDRGN" and drgn.weights is None and drgn.original is not None
    assert row_count(drgn.original) == 50
    own = np.asarray(read_particle_column(drgn.original, "rlnImageName"))
    whole = np.asarray(read_particle_column(project.root / "particles.star", "rlnImageName"))
    assert np.array_equal(own, whole[5:55])
    table = load_table(drgn)
    assert table.log_variance is not None and {"PC 1", "z 2", "Rot (°)", "Defocus (µm)"} <= set(table.columns)
    said = [text for _, text in judge(table, drgn)]
    assert any("the defocus" in text for text in said) and any("their own uncertainty" in text for text in said)

    recovar = imported(project, "latent_coords.npy")
    z = load_latents(recovar.latents)["z_mu"]
    assert z.shape == (60, 2)
    turned = align(z, z @ np.array([[0.6, 0.8], [-0.8, 0.6]]) * 7 + 3)
    assert turned.correlations == pytest.approx([1, 1])


def test_selections_and_states_of_imported_latents(project: Project) -> None:
    sources = imported(project, "z.2.pkl", indices="ind.pkl")
    made = export_selection(project, sources, np.arange(50) < 7)
    assert [count for _, count in made.files] == [7]
    values = state_values(project, sources, np.zeros((1, 2)), 50)
    assert set(values) == {"star_file", "around", "latent"}
    assert all((project.root / path).is_file() for path in values.values())
