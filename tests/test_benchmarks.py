"""The accuracy benchmark runs from end to end; its figures at these sizes mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import accuracy, observer
from small_data import preprocess, simulate

SCRIPT = Path(accuracy.__file__)


def run(tmp_path: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], dict]:  # type: ignore[type-arg]
    command = [sys.executable, str(SCRIPT), "--quick", "--device", "cpu", "--json", str(tmp_path / "out.json"), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    return done, json.loads((tmp_path / "out.json").read_text())


@pytest.mark.slow
def test_quick_run_on_a_cpu(tmp_path: Path) -> None:
    done, report = run(tmp_path, "--case", "igg", "adk", "--adk", str(tmp_path / "absent.npz"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adk: left out, its data are absent" in done.stderr
    (line,) = report["runs"]
    assert line["case"] == "igg" and line["particles"] == 120 and line["box"] == 24
    limit = line["limit"]
    assert limit == pytest.approx(11 / 24)
    assert all(0 < line[f"area_{name}"] <= limit for name in ("model", "model_masked", "consensus", "mean_map"))
    assert line["latent_error"] > 0 and line["images_per_second"] > 0
    assert line["bound"]["particles"] == 20 and line["bound"]["posterior_width"] > 0
    assert set(line["seconds"]) == {"simulate", "preprocess", "train", "evaluate"}
    assert f"{line['area_model']:.3f}" in done.stdout and "images/s" in done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


def test_the_observer_knows_every_state_in_clear_images_and_none_in_noise(tmp_path: Path) -> None:
    found = {}
    for name, snr in (("clear", 20.0), ("noise", 1e-6)):
        source = simulate(tmp_path / name, "--missing", "arm", particles=60, snr=snr, frames=9)
        ctf = tmp_path / "clear" / "pre" / "ctf.npy"  # the same seed drew the same CTFs
        assert ctf.exists() or preprocess(source, ctf.parent) == 0
        found[name] = observer.observe(source, ctf, 60, torch.device("cpu"))
    # An absent arm says nothing of where it would be: the width of the rest is that of the truth, a few digits off.
    assert found["clear"]["occupancy_accuracy"] == 1.0
    assert found["clear"]["latent_error"] < 0.6 * found["noise"]["latent_error"]
    assert found["noise"]["posterior_width"] == pytest.approx(np.linspace(0, 1, 9).std(), rel=0.02)


def test_failed_step_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", xyz=np.zeros((2, 3)))
    done, report = run(tmp_path, "--case", "adk", "--adk", str(tmp_path / "bad.npz"), "--work", str(tmp_path / "work"))
    assert done.returncode == 1
    assert "must be an .npz with xyz and weight" in report["runs"][0]["error"]
    assert "must be an .npz with xyz and weight" in done.stdout
    assert (tmp_path / "work" / "adk_0" / "simulate.log").exists()


def test_table_has_a_line_a_run_and_a_mean() -> None:
    runs = [
        {"case": "adk", "seed": seed, "area_model": area, "seconds": {"train": 10.0 * seed}}
        for seed, area in ((1, 0.4), (2, 0.5))
    ]
    lines = accuracy.table([*runs, {"case": "igg", "seed": 1, "error": "train: too hot"}])
    assert len(lines) == 2 + 3 + 1
    assert "0.400" in lines[2] and "mean   0.450" in lines[4] and " 15 " in lines[4] and "too hot" in lines[5]


@pytest.mark.parametrize("published", [False, True])
def test_the_antibodys_arm_goes_round(published: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ply = str(request.getfixturevalue("shared_data") / "igg1d" / "point_cloud.ply") if published else ""
    with np.load(accuracy.write_antibody(tmp_path / "model.npz", ply)) as file:
        xyz, arm, periodic = file["xyz"], file["arm"], bool(file["periodic"])
    assert periodic and xyz.shape[0] == accuracy.FRAMES and 0.2 < arm.mean() < 0.5
    assert np.ptp(xyz[:, ~arm], axis=0).max() < 1e-4
    steps = np.linalg.norm(np.roll(xyz, -1, axis=0) - xyz, axis=-1)[:, arm]  # (F, arm): the last leads to the first
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), rtol=1e-2, atol=1e-2)
    half = np.linalg.norm(xyz[accuracy.FRAMES // 2] - xyz[0], axis=-1)[arm]
    assert half.mean() > 20  # Angstrom
    bonds = np.linalg.norm(xyz[:, arm][:, :-1] - xyz[:, arm][:, 1:], axis=-1)
    np.testing.assert_allclose(bonds, np.broadcast_to(bonds[0], bonds.shape), atol=1e-2)


def test_turn_is_right_handed() -> None:
    np.testing.assert_allclose(accuracy.turn(np.array([0, 0, 2.0]), np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
