"""The accuracy benchmark runs from end to end; its figures at these sizes mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import accuracy, molecules, observer, tilts
from small_data import preprocess, simulate

from gaussianem_core.simulation.ground_truth import load_truth

SCRIPT = Path(accuracy.__file__)


def run(tmp_path: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], dict]:  # type: ignore[type-arg]
    command = [sys.executable, str(SCRIPT), "--quick", "--device", "cpu", "--json", str(tmp_path / "out.json"), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert (tmp_path / "out.json").is_file(), done.stdout + done.stderr
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


def test_the_signal_of_a_series_is_what_dose_and_path_leave(tmp_path: Path) -> None:
    left = []
    for name, words in (("whole", "--tilt_dose 0 --thickness 0"), ("path", "--tilt_dose 0"), ("dose", "--thickness 0")):
        source = simulate(tmp_path / name, "--tilts", "3", "--tilt_range", "60", *words.split(), particles=5)
        left.append(tilts.signal_left(load_truth(source / "truth.npz"), torch.device("cpu")))
    assert left[0] == pytest.approx(3, rel=1e-4)
    # At 60 degrees the path is twice as long: both tilted images lose exp(-1500 / 3000) of their amplitude.
    assert left[1] == pytest.approx(1 + 2 * np.exp(-1), rel=0.2) and 1 < left[2] < 3


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
    with np.load(molecules.write_antibody(tmp_path / "model.npz", ply)) as file:
        xyz, arm, periodic = file["xyz"], file["arm"], bool(file["periodic"])
    assert periodic and xyz.shape[0] == molecules.FRAMES and 0.2 < arm.mean() < 0.5
    assert np.ptp(xyz[:, ~arm], axis=0).max() < 1e-4
    steps = np.linalg.norm(np.roll(xyz, -1, axis=0) - xyz, axis=-1)[:, arm]  # (F, arm): the last leads to the first
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), rtol=1e-2, atol=1e-2)
    half = np.linalg.norm(xyz[molecules.FRAMES // 2] - xyz[0], axis=-1)[arm]
    assert half.mean() > 20  # Angstrom
    bonds = np.linalg.norm(xyz[:, arm][:, :-1] - xyz[:, arm][:, 1:], axis=-1)
    np.testing.assert_allclose(bonds, np.broadcast_to(bonds[0], bonds.shape), atol=1e-2)


def test_an_observer_of_two_motions_among_errors(tmp_path: Path) -> None:
    words = ("--motions", "arm; 0-9", "--missing", "arm", "--missing_fraction", "0.3", "--noise", "coloured")
    words += ("--contrast_spread", "0.2", "--junk", "0.2", "--pose_error", "3", "--shift_error", "0.5")
    found = {}
    for snr in (0.001, 20.0):
        source = simulate(tmp_path / str(snr), *words, particles=80, snr=snr, frames=3)
        found[snr] = observer.observe(source, tmp_path / "unused.npy", 60, torch.device("cpu"))
    low, high = found[0.001], found[20.0]
    assert high["particles"] == 60 and "latent_error" not in high
    assert high["motion_r2_arm"] > 0.9 > low["motion_r2_arm"] and high["occupancy_roc"] > 0.99
    assert {"motion_r2_arm", "motion_r2_0-9"} <= set(high)
    # Who does not know the poses knows less, but in clear images nearly all.
    assert 0.9 < high["motion_r2_arm_poses_unknown"] < high["motion_r2_arm"] + 0.01
    # Noisy images leave the errors of the file, clear ones little: the width falls as the signal rises.
    assert 0.1 < high["rotation_deg"] < 0.5 * low["rotation_deg"] and 1.5 < low["rotation_deg"] < 3.6
    assert high["shift_px"] < 0.1 < low["shift_px"] < 0.6


def test_the_spliceosomes_motion_can_be_made_again(shared_data: Path) -> None:
    with np.load(shared_data / "spliceosome" / "spliceosome_motion.npz") as file:
        given = dict(file)
    rest = given["xyz"][0].astype(np.float64)  # there the head has turned by -10 degrees, the arm is at rest
    head = given["head"]
    back = molecules.turn(np.array(molecules.HEAD_AXIS), np.radians(10))
    rest[head] = molecules.HEAD_HINGE + (rest[head] - molecules.HEAD_HINGE) @ back.T
    made = molecules.spliceosome_motion(rest)
    for name, values in made.items():
        np.testing.assert_allclose(values.astype(float), given[name], atol=2e-3, err_msg=name)


def test_the_microscopes_table() -> None:
    errors = {"rotation_deg": 1.5, "shift_px": 0.35}
    names = ("model", "consensus_map", "mean_map")
    curves = {f"curve_{name}_masked": np.linspace(1, 0.3, 24).tolist() for name in names}
    areas = {f"area_{name}{kind}": 0.4 for name in names for kind in ("", "_masked")}
    run = {
        "case": "spliceosome",
        "seed": 0,
        "motion_r2": {"head": 0.93},
        "occupancy_roc": 0.9,
        "seconds": {"train": 90},
    }
    run |= {"junk_roc": {"signal_fit": 0.84}, "poses": {"before": errors}, "bound": {"motion_r2_head": 0.98}}
    run |= {"shells_angstrom": [None, *(500 / np.arange(1, 24))], **curves, **areas}
    lines = accuracy.microscope_table([run, {"case": "igg", "seed": 0}])
    text = "\n".join(lines)
    assert "head, R2" in text and "0.930" in text and "0.980" in text and "1.500" in text
    assert any(line.startswith("   decoded") and line.rstrip().endswith("0.30") for line in lines)
    assert accuracy.microscope_table([{"case": "igg", "seed": 0}]) == []


def test_turn_is_right_handed() -> None:
    np.testing.assert_allclose(molecules.turn(np.array([0, 0, 2.0]), np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
