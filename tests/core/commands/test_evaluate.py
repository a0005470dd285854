"""Figures against known truth: perfect models get perfect scores, ignorant ones get chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from trained import BOX, PIXEL, make_gaussians, write_model

from gaussianem_core.commands import evaluate
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_shell_correlation, fsc_area
from gaussianem_core.imaging.pose import angles_from_rotations, random_rotations
from gaussianem_core.io.mrc import write_map
from gaussianem_core.io.particle_table import write_star
from gaussianem_core.job.events import JobLog, read_events
from gaussianem_core.model.detail import soft_mask
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.options import EvaluateOptions
from gaussianem_core.runtime.files import null_for_nan, write_json
from gaussianem_core.simulation import latent_scores, volume_scores
from gaussianem_core.simulation.ground_truth import Truth, load_truth, mean_volume, save_truth

N = 60


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    """A model, and a truth whose frames are exactly what the model decodes."""
    generator = np.random.default_rng(0)
    state = np.linspace(0, 1, N)
    z = np.stack([6 * state - 3, np.zeros(N), np.zeros(N)], axis=1) + 0.01 * generator.normal(size=(N, 3))
    folder = write_model(tmp_path / "model", z.astype(np.float32), motion=0.25)
    model = load_model(folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", device="cpu")
    moved = model.deform(z)
    gaussians = make_gaussians()
    truth = Truth(
        state=state.astype(np.float32),
        frame=np.arange(N),
        positions=moved.positions.numpy(),
        densities=gaussians.densities.numpy(),
        sigmas=gaussians.sigmas.numpy(),
        present=np.arange(N) % 3 > 0,
        label=(np.arange(N) % 2).astype(np.int32),
        box=BOX,
        apix=PIXEL,
        snr=1.0,
    )
    save_truth(truth, folder / "truth.npz")
    return folder


def run(folder: Path, **values) -> dict:  # type: ignore[no-untyped-def]
    options = EvaluateOptions(
        **{
            "source_dir": str(folder),
            "truth": "truth.npz",
            "model_weight": "weights.0.pkl",
            "latent": "weights.0.output.pkl",
            "volumes": 12,
            "device": "cpu",
            "job_dir": str(folder / "evaluate"),
            "overwrite": True,
            **values,
        }
    )
    with JobLog(options.output_directory(), ["evaluate"]) as log:
        evaluate.run(options, log)
    return json.loads((folder / "evaluate" / "evaluate.json").read_text())


def test_perfect_model_reaches_the_limit(perfect: Path) -> None:
    result = run(perfect)
    limit = (BOX // 2 - 1) / BOX
    assert result["fsc"]["limit"] == pytest.approx(limit)
    for name in ("model", "model_masked"):
        assert result["fsc"][name]["area"] == pytest.approx(limit, abs=1e-4)
        assert result["fsc"][name]["resolution_angstrom"] is None
    assert result["fsc"]["gaussians"]["area"] == result["fsc"]["model"]["area"]  # this model has no detail
    for name in ("consensus", "mean_map"):
        assert 0.05 < result["fsc"][name]["area"] < limit - 0.05
        assert result["fsc"][name]["resolution_angstrom"] > 2 * PIXEL
    assert result["latent_error"] < 0.1
    assert (perfect / "evaluate" / "fsc.png").read_bytes().startswith(b"\x89PNG")
    events, _ = read_events(perfect / "evaluate" / "events.jsonl")
    assert any("decoded volumes" in e["text"] for e in events if e["type"] == "message")


def test_ignorant_latents_get_the_consensus(perfect: Path) -> None:
    # The latents of other particles: the state is not recovered and neither is the volume.
    from gaussianem_core.io.latents import load_latents, save_latents

    latents = load_latents(perfect / "weights.0.output.pkl")
    order = np.random.default_rng(1).permutation(N)
    save_latents(perfect / "shuffled.pkl", latents["z_mu"][order], latents["z_logvar"])
    good, bad = run(perfect), run(perfect, latent="shuffled.pkl")
    assert bad["fsc"]["model"]["area"] < good["fsc"]["model"]["area"] - 0.05
    assert bad["fsc"]["consensus"]["area"] == pytest.approx(good["fsc"]["consensus"]["area"])


def test_latent_error_limits() -> None:
    generator = np.random.default_rng(0)
    state = generator.random(4000).astype(np.float32)
    z = np.stack([state, 0 * state], axis=1)
    perfect = latent_scores.latent_error(z, state, False, generator)
    # 100 of 4000 neighbours on a line lie within 1/80 of the state: mean 1/160, against 1/3 for random pairs
    assert perfect == pytest.approx(3 / 160, rel=0.1)
    ignorant = latent_scores.latent_error(generator.normal(size=(4000, 2)), state, False, generator)
    assert ignorant == pytest.approx(1, abs=0.03)
    circle = np.stack([np.cos(2 * np.pi * state), np.sin(2 * np.pi * state)], axis=1)
    assert latent_scores.latent_error(circle, state, True, generator) == pytest.approx(4 / 160, rel=0.1)
    assert latent_scores.latent_error(circle, state, False, generator) > 1.2 * 3 / 160  # the ends are neighbours
    same = latent_scores.latent_error(np.zeros((3000, 2)), state[:3000], False, generator)
    assert np.isfinite(same) and same > 0.8


def test_probe_is_held_out() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 600)
    z = generator.normal(size=(600, 40))
    assert latent_scores.probe_accuracy(z, labels, 0) == pytest.approx(0.5, abs=0.08)  # a fit would reach 0.6
    z[:, 0] += 10 * labels
    assert latent_scores.probe_accuracy(z, labels, 0) == 1.0


def test_figures_that_the_data_do_not_tell_are_null_in_valid_json(perfect: Path, tmp_path: Path) -> None:
    """A motion of the junk alone is none to score; NaN is no JSON, and where it stood is told."""
    state, junk = np.full((N, 1), 0.5), np.zeros(N, np.int8)
    state[:3, 0], junk[:3] = (0.1, 0.2, 0.3), 1
    save_truth(Truth(state=state, junk=junk, label=(np.arange(N) > 30).astype(int)), perfect / "still.npz")
    result = run(perfect, truth="still.npz")
    assert "motion_r2" not in result and 0.8 < result["label_accuracy"] <= 1
    figures, missing = null_for_nan(
        {"a": {"b": [1.0, float("nan"), float("inf")], "c": 2}, "d": float("-inf"), "e": "x"}
    )
    assert missing == ["a.b", "d"]
    write_json(tmp_path / "figures.json", figures)
    text = (tmp_path / "figures.json").read_text()
    assert json.loads(text) == {"a": {"b": [1.0, None, None], "c": 2}, "d": None, "e": "x"} and "NaN" not in text


def test_labels_and_maps_alone(perfect: Path) -> None:
    # Real data with class labels and a map per class (two assembly states): no frames, no states.
    generator = np.random.default_rng(3)
    maps = generator.normal(size=(2, 2 * BOX, 2 * BOX, 2 * BOX)).astype(np.float32)
    save_truth(Truth(label=(np.arange(N) > 30).astype(int), volumes=maps), perfect / "labels.npz")
    result = run(perfect, truth="labels.npz", volumes=4)
    assert result["label_accuracy"] > 0.9 and "latent_error" not in result
    assert abs(result["fsc"]["model"]["area"]) < 0.1
    save_truth(Truth(label=(np.arange(N) > 30).astype(int)), perfect / "only.npz")
    assert "fsc" not in run(perfect, truth="only.npz")


def test_the_consensus_map_is_scored_shell_by_shell(perfect: Path) -> None:
    assert "consensus_map" not in run(perfect)["fsc"]
    truth = load_truth(perfect / "truth.npz")
    mean = mean_volume(truth).numpy()
    write_map(perfect / "consensus.mrc", mean, PIXEL)  # beside the truth: found without being named
    fsc = run(perfect)["fsc"]
    assert fsc["consensus_map_masked"]["curve"] == pytest.approx(fsc["mean_map_masked"]["curve"], abs=1e-4)
    assert len(fsc["shells_angstrom"]) == len(fsc["model"]["curve"]) == BOX // 2
    assert fsc["shells_angstrom"][4] == pytest.approx(BOX * PIXEL / 4)
    words = [e["text"] for e in read_events(perfect / "evaluate" / "events.jsonl")[0] if e["type"] == "message"]
    assert any("worse than the consensus map in no shell" in text for text in words)
    assert any(text.startswith("masked FSC by shell, in A") for text in words)
    noise = np.random.default_rng(0).normal(size=(2 * BOX,) * 3).astype(np.float32)
    write_map(perfect / "finer.mrc", noise, PIXEL / 2)
    with pytest.raises(InputError, match="consensus_map: must have the box"):
        run(perfect, consensus_map="finer.mrc")


def test_the_corrected_particles_are_scored(perfect: Path) -> None:
    generator = np.random.default_rng(0)
    truth = load_truth(perfect / "truth.npz")
    rotations, shifts = random_rotations(N, generator), generator.normal(0, 1, (N, 2))
    turns = Rotation.from_rotvec(generator.normal(0, 1, (N, 3)), degrees=True).as_matrix()
    given = {"given_rotations": turns @ rotations, "given_shifts": shifts + 0.5}
    save_truth(replace(truth, rotations=rotations, shifts=shifts, **given), perfect / "truth.npz")
    before = run(perfect)["poses"]
    assert set(before) == {"before"} and 1.2 < before["before"]["rotation_deg"] < 2.2
    rot, tilt, psi = angles_from_rotations(rotations).T
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [PIXEL], "rlnImageSize": [BOX], "rlnVoltage": [300.0]}
    optics |= {"rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
    rows = {"rlnImageName": [f"{i + 1}@none.mrcs" for i in range(N)], "rlnOpticsGroup": [1] * N}
    rows |= {"rlnAngleRot": rot, "rlnAngleTilt": tilt, "rlnAnglePsi": psi}
    rows |= {"rlnOriginXAngst": shifts[:, 0] * PIXEL, "rlnOriginYAngst": shifts[:, 1] * PIXEL}
    rows |= {"rlnDefocusU": np.full(N, 1e4), "rlnDefocusV": np.full(N, 1e4), "rlnDefocusAngle": np.zeros(N)}
    write_star(perfect / "particles.star", {"optics": optics, "particles": rows})  # where train leaves it
    after = run(perfect)["poses"]
    assert after["before"] == before["before"]
    assert after["after"]["rotation_deg"] < 0.01 and after["after"]["shift_px"] < 0.01
    write_star(perfect / "few.star", {"optics": optics, "particles": {k: v[:9] for k, v in rows.items()}})
    with pytest.raises(InputError, match="a row for each of the 60 images"):
        run(perfect, particles="few.star")


def test_mask_restricts(perfect: Path) -> None:
    everything = np.ones((BOX, BOX, BOX), np.float32)
    write_map(perfect / "all.mrc", everything, PIXEL)
    result = run(perfect, mask="all.mrc")
    assert result["fsc"]["consensus_masked"]["area"] == pytest.approx(result["fsc"]["consensus"]["area"], abs=1e-6)
    made = run(perfect)["fsc"]
    assert 0.005 < made["mask_share_of_box"] < 0.9
    write_map(perfect / "other.mrc", everything[:20, :20, :20], PIXEL)
    with pytest.raises(InputError, match="must have the model's box 24"):
        run(perfect, mask="other.mrc")


def test_soft_mask_covers_the_molecule() -> None:
    volume = torch.zeros(32, 32, 32)
    volume[12:20, 12:20, 12:20] = 1
    mask = soft_mask(volume)
    assert (mask[12:20, 12:20, 12:20] == 1).all() and mask[0, 0, 0] == 0
    assert ((mask > 0) & (mask < 1)).any()


def test_resolution() -> None:
    curve = torch.linspace(1, 0, 11)[:10]
    # FSC 0.5 at shell 5 of 10, box 20, 2 A/px: 20 * 2 / 5
    assert volume_scores.resolution(curve, 2.0) == pytest.approx(8.0)
    assert volume_scores.resolution(torch.ones(10), 2.0) is None


def test_area_of_known_pair() -> None:
    volume = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert fsc_area(fourier_shell_correlation(volume, volume), 16) == pytest.approx(7 / 16)


def test_truth_of_other_particles(perfect: Path) -> None:
    truth = load_truth(perfect / "truth.npz")
    assert truth.state is not None
    save_truth(Truth(state=truth.state[:-1]), perfect / "short.npz")
    with pytest.raises(InputError, match="one state for each of the 60 latents"):
        run(perfect, truth="short.npz")
    np.savez(perfect / "odd.npz", nothing=np.zeros(3))
    with pytest.raises(InputError, match="must hold state or label"):
        run(perfect, truth="odd.npz")


def test_damaged_truth(perfect: Path) -> None:
    whole = (perfect / "truth.npz").read_bytes()
    for content in (whole[:-100], b"no archive", b""):
        (perfect / "truth.npz").write_bytes(content)
        with pytest.raises(InputError, match="truth: must be a readable"):
            run(perfect)
    np.save(perfect / "truth.npy", np.zeros(3))
    with pytest.raises(InputError, match="a single array"):
        run(perfect, truth="truth.npy")
