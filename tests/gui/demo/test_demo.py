"""The demo: its molecule, and the whole of it as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest

from gaussianem_gui.demo.molecule import CORE_RADIUS_ANGSTROM, SWING_DEGREES, frames, write_molecule
from gaussianem_gui.demo.run import DEMO
from gaussianem_gui.execution import workflow
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project


def test_the_arm_swings_about_its_hinge_and_nothing_else_moves(tmp_path: Path) -> None:
    xyz, chains = frames(9)
    assert np.ptp(xyz[:, chains != "B"], axis=0).max() == 0
    arm = xyz[:, chains == "B"]
    rigid = np.linalg.norm(arm[0, ::50, None] - arm[0, None, ::50], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(arm[-1, ::50, None] - arm[-1, None, ::50], axis=-1), rigid, atol=1e-9)
    tip = np.linalg.norm(arm.mean(axis=1)[-1] - arm.mean(axis=1)[0])
    lever = np.linalg.norm(arm.mean(axis=1)[4] - xyz[0, chains == "A"].mean(axis=0)) - CORE_RADIUS_ANGSTROM + 2.0
    assert tip == pytest.approx(2 * lever * np.sin(np.radians(SWING_DEGREES)), rel=0.1)
    # No two residues closer than C-alphas of neighbouring helices come: the parts touch and do not overlap much.
    near = np.linalg.norm(xyz[4, :, None] - xyz[4, None], axis=-1) + 99 * np.eye(len(chains))
    assert np.mean(near.min(axis=1) > 3.0) > 0.95
    count = write_molecule(tmp_path / "m.cif", 3)
    structure = gemmi.read_structure(str(tmp_path / "m.cif"))
    assert len(structure) == 3 and structure[0].count_atom_sites() == count == len(chains)


def test_the_workflow_needs_nothing_from_the_user() -> None:
    assert workflow.check(DEMO).needs() == []


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_the_truth_is_recovered(finished_demo: Path) -> None:
    assert "The truth was recovered" in (finished_demo.parent / "demo.out").read_text()
    project = Project.open(finished_demo)
    states = {info.name: info.status.state for info in project.jobs()}
    made = ("Simulate/job001/", "Preprocess/job002/", "Train/job003/", "Analyze/job004/", "Evaluate/job005/")
    assert [states[name] for name in made] == [State.SUCCEEDED] * 5
    maps = next(name for name in states if name.startswith("Reconstruct/"))
    assert states[maps] is State.SUCCEEDED and "Train/job003/" in project.parents(maps)
    for state in json.loads((project.root / maps / "results.json").read_text())["states"]:
        assert 100 < state["state"]["chosen_particles"] <= 1000 and state["fsc"]["corrected"][2] > 0.8
    assert (project.root / "demo.png").stat().st_size > 20_000
    assert project.parents("Evaluate/job005/") and "Train/job003/" in project.parents("Analyze/job004/")
    again = subprocess.run(
        [sys.executable, "-m", "gaussianem_core", "demo", "demo"],
        cwd=finished_demo.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2 and "must not exist yet" in again.stderr
