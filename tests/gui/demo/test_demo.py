"""The demo: its molecule, and the whole of it as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from gaussianem_core.simulation.trajectory import read_trajectory
from gaussianem_gui.demo.molecule import FRAMES, PARTS, SWING_DEGREES, molecule, write_molecule
from gaussianem_gui.demo.run import DEMO, RECOVERED, scores
from gaussianem_gui.execution import workflow
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project


def test_head_and_arm_turn_as_rigid_bodies_and_nothing_else_moves(tmp_path: Path) -> None:
    still = molecule()
    count = write_molecule(tmp_path / "m.npz")
    read = read_trajectory(tmp_path / "m.npz")
    xyz = read.positions_angstrom
    assert xyz.shape == (FRAMES, count, 3) and np.array_equal(read.weights, still["weight"])
    np.testing.assert_allclose(xyz[FRAMES // 2], still["xyz"], atol=1e-3)  # the middle of the swing is the entry
    moving = still["head"] | still["arm"]
    assert not (still["head"] & still["arm"]).any() and np.ptp(xyz[:, ~moving], axis=0).max() < 1e-3
    for name in PARTS:
        part = xyz[:, still[name]] - xyz[:, still[name]].mean(axis=1, keepdims=True)
        turn, left_over = Rotation.align_vectors(part[-1], part[0])
        assert np.degrees(turn.magnitude()) == pytest.approx(2 * SWING_DEGREES, abs=0.01) and left_over < 0.1
        np.testing.assert_allclose(read.curves[name][[0, -1]], [-SWING_DEGREES, SWING_DEGREES])


def test_the_molecule_is_the_spliceosome(shared_data: Path) -> None:
    """Every third of the reference's points, which are of the same entry, with the parts that do not move in place."""
    still = molecule()
    with np.load(shared_data / "spliceosome" / "spliceosome_motion.npz", allow_pickle=False) as reference:
        xyz = reference["xyz"][0, ::3].astype(float)
        for name in PARTS:
            np.testing.assert_array_equal(still[name], reference[name][::3])
        np.testing.assert_allclose(still["weight"], 3 * reference["weight"][::3])
    for part in (still["head"], still["arm"], ~(still["head"] | still["arm"])):
        np.testing.assert_allclose(pdist(still["xyz"][part].astype(float)), pdist(xyz[part]), atol=2e-3)


def test_the_workflow_needs_nothing_from_the_user() -> None:
    assert workflow.check(DEMO).needs() == []


@pytest.mark.slow
def test_the_truth_is_recovered(finished_demo: Path) -> None:
    said = (finished_demo.parent / "demo.out").read_text()
    assert "The truth was recovered" in said
    found = scores(json.loads((finished_demo / "Evaluate/job005/evaluate.json").read_text()))
    assert all(found[name] >= least for name, least in RECOVERED.items())
    assert f"angle of the head                          R2 {found['head']:.2f}" in said
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
