"""Tilt series through analysis: classes and selections are the particles', with all rows of their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import starfile
from small_data import preprocess, simulate
from trained import write_model

from gaussianem_core.cli import main
from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.io.image_rows import PARTICLES
from gaussianem_core.simulation.ground_truth import load_truth

TILTS, COUNT = 4, 12


def test_classes_hold_all_images_of_their_particles(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(COUNT, 3)) + 4 * (np.arange(COUNT) % 2)[:, None]
    folder = write_model(tmp_path / "model", z)
    particle = np.repeat(np.arange(COUNT), TILTS)[np.random.default_rng(1).permutation(COUNT * TILTS)]
    particle = np.unique(particle, return_index=True)[1].argsort().argsort()[particle]  # in order of appearance
    np.save(tmp_path / "model" / PARTICLES, particle)
    rows = "\n".join(f"{i + 1}@s.mrcs g{p}" for i, p in enumerate(particle))
    (tmp_path / "model" / "particles.star").write_text(f"data_\nloop_\n_rlnImageName\n_rlnGroupName\n{rows}\n")
    words = ["-s", str(tmp_path / "model"), "--model_weight", str(next(folder.parent.rglob("weights.0.pkl")))]
    words += ["--latent", str(next(folder.parent.rglob("weights.0.output.pkl"))), "--job_dir", str(tmp_path / "out")]
    small = ["--no_umap", "--nclass", "2", "--components", "0", "--device", "cpu"]
    assert main(["analyze", *words, *small]) == 0
    table = starfile.read(tmp_path / "out" / "particles.star")
    assert len(table) == COUNT * TILTS
    by_group = table.groupby("rlnGroupName").gaussianemClass
    assert (by_group.nunique() == 1).all() and len(set(by_group.first())) == 2
    parts = [starfile.read(path) for path in sorted((tmp_path / "out" / "kmeans").glob("class_*.star"))]
    assert [len(part) for part in parts] == [TILTS * len(set(part.rlnGroupName)) for part in parts]
    assert sum(len(part) for part in parts) == COUNT * TILTS


def test_a_simulated_series_has_its_geometry_and_its_damage(tmp_path: Path) -> None:
    folder = simulate(tmp_path / "sim", "--tilts", "3", "--tilt_range", "40", "--tilt_dose", "30", particles=6)
    truth = load_truth(folder / "truth.npz")
    assert truth.particle is not None and truth.rotations is not None
    assert truth.particle.tolist() == np.repeat(range(6), 3).tolist()
    relative = truth.rotations[1::3] @ truth.rotations[::3].transpose(0, 2, 1)
    np.testing.assert_allclose(np.trace(relative, axis1=1, axis2=2), 1 + 2 * np.cos(np.deg2rad(40)), atol=1e-5)
    assert preprocess(folder, tmp_path / "pre", "--group_by", "rlnGroupName") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "pre" / PARTICLES), truth.particle)
    parameters = load_ctf(tmp_path / "pre" / "ctf.npy")
    assert parameters[:3, 13].tolist() == [0, 30, 60], "doses, least tilted first"
    path = 1500 * (1 / np.cos(np.deg2rad(40)) - 1)
    np.testing.assert_allclose(parameters[:3, 10], [1, *[np.exp(-path / 3000)] * 2], rtol=1e-5)
