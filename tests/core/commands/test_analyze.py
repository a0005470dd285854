"""An analysis writes what it says, of the right particles, in the right place; its warnings mean what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from trained import BOX, CONFIGURATION, PIXEL, make_gaussians, write_model

from gaussianem_core.commands import analyze
from gaussianem_core.commands.volume_series import contour_level
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import pack_poses, random_rotations
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.checkpoint import save_checkpoint
from gaussianem_core.io.latents import load_latents, save_latents
from gaussianem_core.io.particle_table import read_particle_column, write_star
from gaussianem_core.job.events import JobLog, read_events
from gaussianem_core.model.gaussians import load_gaussians
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.options import AnalyzeOptions
from gaussianem_core.runtime.sources import sources_kept

N = 300


def latents() -> np.ndarray:
    """Most of the variance along one direction."""
    return (np.random.default_rng(0).normal(size=(N, 3)) * [2, 0.5, 0.3]).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    z = latents()
    folder = write_model(tmp_path / "model", z, density=True)
    generator = np.random.default_rng(1)
    np.save(folder / "poses.npy", pack_poses(random_rotations(N, generator), generator.normal(size=(N, 2))))
    ctf = np.tile([BOX, PIXEL, 0, 0, 0, 300, 2.7, 0.1, 0], (N, 1))
    ctf[:, 2:4] = generator.uniform(8000, 20000, (N, 1))
    np.save(folder / "ctf.npy", ctf)
    names = [f"{i + 1:06d}@Extract/some stack.mrcs" for i in range(N)]
    write_star(folder / "particles.star", {"particles": {"rlnImageName": names, "rlnDefocusU": ctf[:, 2]}})
    return folder


def run(folder: Path, **values) -> tuple[Path, dict]:  # type: ignore[no-untyped-def]
    options = AnalyzeOptions(
        **{
            "source_dir": str(folder),
            "model_weight": "weights.0.pkl",
            "latent": "weights.0.output.pkl",
            "nclass": 4,
            "components": 2,
            "trajectory_points": 4,
            "device": "cpu",
            "job_dir": str(folder / "analyze"),
            "no_umap": True,
            **values,
        }
    )
    with JobLog(options.output_directory(), ["analyze"]) as log:
        analyze.run(options, log)
    return folder / "analyze", json.loads((folder / "analyze" / "summary.json").read_text())


def test_layout_and_events(folder: Path) -> None:
    out, summary = run(folder)
    expected = {
        "kmeans/vol_001.mrc",
        "kmeans/vol_004.mrc",
        "kmeans/gaussians_004.ply",
        "kmeans/class_001.star",
        "kmeans/z.txt",
        "kmeans/view.cxc",
        "pc1/vol_004.mrc",
        "pc2/z.txt",
        "pc2/play.cxc",
        "plots/components.png",
        "plots/classes.png",
        "plots/trajectories.png",
        "plots/class_volumes.png",
        "plots/trust.png",
        "summary.json",
        "report.md",
        "particles.star",
        "analysis.npz",
    }
    present = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert expected <= present and "pc3/z.txt" not in present
    assert not [name for name in present if name.endswith(".tmp")]
    artifacts = [e for e in read_events(out / "events.jsonl")[0] if e["type"] == "artifact"]
    assert all((out / e["path"]).exists() for e in artifacts)
    kinds = {e["kind"] for e in artifacts}
    assert {"volume", "volume_series", "trajectory", "script", "plot", "summary", "particles"} <= kinds
    for png in out.rglob("*.png"):
        assert png.read_bytes().startswith(b"\x89PNG")
    assert summary["particles"] == N and len(summary["trajectories"]) == 2


def test_class_volumes_are_of_the_nearest_particles(folder: Path) -> None:
    out, summary = run(folder)
    z, gaussians = load_latents(folder / "weights.0.output.pkl")["z_mu"], make_gaussians()
    model = load_model(folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", device="cpu")
    content = np.load(out / "analysis.npz")
    assert sum(entry["particles"] for entry in summary["classes"]) == N
    for entry in summary["classes"]:
        members = np.flatnonzero(content["labels"] == entry["class"])
        centre = z[members].mean(axis=0)
        assert entry["shown_particle"] == np.linalg.norm(z - centre, axis=1).argmin()
        assert entry["particles"] == len(members)
        moved = model.deform(z[[entry["shown_particle"]]])
        volume = voxelize(moved.positions[0], moved.densities[0], gaussians.sigmas, BOX)
        with mrcfile.open(out / entry["volume"], permissive=False) as file:
            np.testing.assert_allclose(file.data, volume, atol=1e-4)
            assert float(file.voxel_size.x) == pytest.approx(PIXEL) and float(file.header.origin.x) == 0
        ply = load_gaussians(out / entry["gaussians"], CONFIGURATION.scale_min, CONFIGURATION.scale_max)
        torch.testing.assert_close(ply.positions, moved.positions[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(ply.densities, moved.densities[0], atol=1e-4, rtol=0)
    # classes are ordered along the first component
    first = [content["scores"][content["labels"] == i + 1, 0].mean() for i in range(4)]
    assert first == sorted(first)


def test_trajectories_follow_their_component(folder: Path) -> None:
    # The published code wrote the class centres into every pc folder.
    out, summary = run(folder)
    z = latents().astype(np.float64)
    axes = np.linalg.svd(z - z.mean(0), full_matrices=False)[2]
    for i in range(2):
        path = np.loadtxt(out / f"pc{i + 1}" / "z.txt")
        assert path.shape == (4, 3) and summary["trajectories"][i]["path"] == "line"
        along = (path - z.mean(0)) @ axes[i]
        np.testing.assert_allclose(path - z.mean(0), np.outer(along, axes[i]), atol=1e-5)
        scores = (z - z.mean(0)) @ axes[i]
        np.testing.assert_allclose(sorted(along[[0, -1]]), np.percentile(scores, [5, 95]), atol=1e-4)
        assert sum(summary["trajectories"][i]["particles_per_point"]) == N
    assert not np.allclose(np.loadtxt(out / "pc1" / "z.txt"), np.loadtxt(out / "pc2" / "z.txt"))
    script = (out / "pc1" / "play.cxc").read_text()
    assert "vseries play" in script and f"level {summary['contour_level']:.6g}" in script
    opened = next(line for line in script.splitlines() if line.startswith("open")).split()[1:-2]
    assert opened == [f"vol_00{i}.mrc" for i in range(1, 5)]


def test_dimensions_without_use_have_no_trajectory(folder: Path) -> None:
    z = latents()
    z[:, 1:] = 0.0
    save_latents(folder / "weights.0.output.pkl", z, np.zeros_like(z))
    out, summary = run(folder, components=3)
    assert len(summary["trajectories"]) == 1 and (out / "pc1").is_dir() and not (out / "pc2").exists()
    report = (out / "report.md").read_text()
    assert "Component 1" in report and "Component 2" not in report


def test_labels_go_to_the_input_rows(folder: Path) -> None:
    out, summary = run(folder)
    classes = np.load(out / "analysis.npz")["labels"]
    np.testing.assert_array_equal(read_particle_column(out / "particles.star", "gaussianemClass"), classes)
    np.testing.assert_array_equal(read_particle_column(out / "particles.star", "rlnClassNumber"), classes)
    names = read_particle_column(folder / "particles.star", "rlnImageName")
    np.testing.assert_array_equal(read_particle_column(out / "particles.star", "rlnImageName"), names)
    z = np.stack([read_particle_column(out / "particles.star", f"gaussianemLatent{i + 1}") for i in range(3)], axis=1)
    np.testing.assert_allclose(z.astype(float), latents(), atol=1e-6)
    chosen = read_particle_column(out / summary["classes"][1]["particles_star"], "rlnImageName")
    np.testing.assert_array_equal(chosen, names[classes == 2])
    assert not (out / "kmeans" / "classes.star").exists()


def test_labels_of_an_earlier_analysis_are_renewed(folder: Path) -> None:
    out, _ = run(folder)
    (out / "particles.star").replace(folder / "particles.star")
    out, _ = run(folder, nclass=2, overwrite=True)
    classes = np.load(out / "analysis.npz")["labels"]
    assert set(classes) == {1, 2}
    np.testing.assert_array_equal(read_particle_column(out / "particles.star", "gaussianemClass"), classes)


def test_without_a_star(folder: Path) -> None:
    (folder / "particles.star").unlink()
    out, _ = run(folder)
    classes = np.load(out / "analysis.npz")["labels"]
    table = starfile.read(out / "kmeans" / "classes.star")
    np.testing.assert_array_equal(table["gaussianemClass"], classes)
    np.testing.assert_array_equal(table["gaussianemParticle"], np.arange(N))


def test_star_of_other_particles(folder: Path) -> None:
    write_star(folder / "other.star", {"particles": {"rlnImageName": ["1@a.mrcs"]}})
    with pytest.raises(InputError, match="must have the 300 particles"):
        run(folder, star_file="other.star")
    assert not (folder / "analysis" / "kmeans").exists()


def test_larger_and_odd_boxes_overlay(folder: Path) -> None:
    # The molecule stays where it is in Angstrom, whatever the box.
    def centre(out: Path) -> np.ndarray:
        with mrcfile.open(out / "kmeans" / "vol_001.mrc") as file:
            axis = np.arange(len(file.data)) * float(file.voxel_size.x) + float(file.header.origin.x)
            return np.array([np.average(axis, weights=file.data.sum(axis=axes)) for axes in ((0, 1), (0, 2), (1, 2))])

    found = []
    for box in (BOX, 2 * BOX, 2 * BOX + 1):
        target = folder / f"box{box}"
        options_of_box = AnalyzeOptions(
            source_dir=str(folder),
            model_weight="weights.0.pkl",
            latent="weights.0.output.pkl",
            nclass=2,
            box=box,
            job_dir=str(target),
            no_umap=True,
            device="cpu",
            components=0,
        )
        with JobLog(target, ["analyze"]) as log:
            analyze.run(options_of_box, log)
        found.append(centre(target))
    np.testing.assert_allclose(found[1], found[0], atol=0.02)
    np.testing.assert_allclose(found[2], found[0], atol=0.02)


def test_mask_keeps_gaussians(folder: Path) -> None:
    mask = np.arange(60) < 20
    np.save(folder / "mask.npy", mask.astype(int))
    out, _ = run(folder, mask="mask.npy")
    ply = load_gaussians(out / "pc1" / "gaussians_001.ply", CONFIGURATION.scale_min, CONFIGURATION.scale_max)
    moved = (ply.positions - make_gaussians().positions).norm(dim=1).numpy()
    assert (moved[~mask] == 0).all() and (moved[mask] > 0).all()


def test_checkpoint_carries_its_gaussians_and_mask(folder: Path) -> None:
    write_model(folder, latents(), store_gaussians=True)
    content = torch.load(folder / "weights.0.pkl", weights_only=True)
    content["movable"] = torch.arange(60) < 10
    save_checkpoint(content, folder / "weights.0.pkl")
    (folder / "point_cloud.ply").unlink()
    out, _ = run(folder)
    ply = load_gaussians(out / "pc1" / "gaussians_001.ply", CONFIGURATION.scale_min, CONFIGURATION.scale_max)
    moved = (ply.positions - make_gaussians().positions).norm(dim=1)
    assert (moved[10:] == 0).all() and (moved[:10] > 0).all()


def test_curved_latents_get_a_curved_path(folder: Path) -> None:
    # Latents on three quarters of a circle: the line through the mean crosses the empty middle.
    angle = np.random.default_rng(0).uniform(0, 1.5 * np.pi, N)
    z = np.stack([3 * np.cos(angle), 3 * np.sin(angle), 0 * angle], axis=1)
    z = (z + 0.1 * np.random.default_rng(1).normal(size=z.shape)).astype(np.float32)
    save_latents(folder / "weights.0.output.pkl", z, z)
    out, summary = run(folder, components=1, trajectory_points=8)
    entry = summary["trajectories"][0]
    path = np.loadtxt(out / "pc1" / "z.txt")
    assert entry["path"] == "populated"
    assert "a curve through the populated region" in (out / "report.md").read_text()
    assert np.median(np.abs(np.linalg.norm(path[:, :2], axis=1) - 3)) < 0.5


def test_empty_gap_is_flagged(folder: Path) -> None:
    z = latents()
    z[:, 0] = np.where(np.arange(N) % 2, 8, -8) + 0.1 * z[:, 0]
    save_latents(folder / "weights.0.output.pkl", z, z)
    out, summary = run(folder, components=1, trajectory_points=7)
    assert {3, 4, 5} <= set(summary["trajectories"][0]["unpopulated_points"])
    assert not {1, 7} & set(summary["trajectories"][0]["unpopulated_points"])
    assert "network's guess" in (out / "report.md").read_text()


def test_latents_that_follow_defocus_are_reported(folder: Path) -> None:
    assert run(folder)[1]["trust"]["dependence"]["defocus"]["level"] == "fine"
    defocus = np.load(folder / "ctf.npy")[:, 2]
    z = latents()
    z[:, 1] = (defocus - defocus.mean()) / defocus.std() * 3
    save_latents(folder / "weights.0.output.pkl", z, z)
    out, summary = run(folder, overwrite=True)
    levels = {what: entry["level"] for what, entry in summary["trust"]["dependence"].items()}
    assert levels == {
        "viewing direction": "fine",
        "in-plane rotation": "fine",
        "particle offset": "fine",
        "defocus": "warning",
    }
    assert "strong link" in (out / "report.md").read_text()


def with_outliers(folder: Path) -> np.ndarray:
    """Latents with a likelihood, of which 30 particles have far less; returns their numbers."""
    generator = np.random.default_rng(2)
    likelihood = generator.normal(-1000, 10, N)
    junk = generator.choice(N, 30, replace=False)
    likelihood[junk] -= 120
    z = latents()
    save_latents(folder / "weights.0.output.pkl", z, z, log_likelihood=likelihood)
    return junk


def test_outliers_become_a_star(folder: Path) -> None:
    junk = with_outliers(folder)
    out, summary = run(folder)
    names = read_particle_column(folder / "particles.star", "rlnImageName")
    found = read_particle_column(out / "outliers.star", "rlnImageName")
    np.testing.assert_array_equal(found, names[np.sort(junk)])
    assert summary["trust"]["outliers"]["flagged"] == 30
    kept = read_particle_column(out / "without_outliers.star", "rlnImageName")
    assert len(kept) == N - 30 and not set(kept) & set(found)


def test_half_sets_are_compared(folder: Path) -> None:
    z = latents()
    order = np.random.default_rng(0).permutation(N)
    for half in (1, 2):
        directory = write_model(folder / f"half{half}", z, density=True)
        rows = np.sort(order[half - 1 :: 2])
        save_latents(directory / "weights.0.output.pkl", z[rows], z[rows], ind=rows[:, None])
    last = folder / "half2" / "weights.3.pkl"  # fewer images took more epochs: its first network has no latents
    shutil.copy(last.with_name("weights.0.pkl"), last)
    last.with_name("weights.0.output.pkl").rename(last.with_name("weights.3.output.pkl"))
    out, summary = run(folder)
    halves = summary["trust"]["half_sets"]
    assert len(halves) == 4
    for entry in halves:  # the same network: the classes' changes agree but for the draw of particles
        assert entry["fsc"][1] > 0.95 and entry["difference_correlation"] > 0.5
    assert "trained independently, show the same change" in (out / "report.md").read_text()
    # another network for half 2: its changes have nothing to do with those of half 1
    torch.manual_seed(7)
    content = torch.load(last, weights_only=True)
    state = content["model_state_dict"]
    state["d_xyz.2.weight"] = torch.randn_like(state["d_xyz.2.weight"]) * state["d_xyz.2.weight"].std()
    state["d_density.2.weight"] = torch.randn_like(state["d_density.2.weight"]) * state["d_density.2.weight"].std()
    save_checkpoint(content, last)
    agreement = [e["difference_correlation"] for e in run(folder, overwrite=True)[1]["trust"]["half_sets"]]
    assert max(agreement) < min(e["difference_correlation"] for e in halves)


def test_umap(folder: Path) -> None:
    pytest.importorskip("umap")
    out, _ = run(folder, no_umap=False, components=0, trajectory_points=10)
    content = np.load(out / "analysis.npz")
    assert content["umap"].shape == (N, 2) and np.isfinite(content["umap"]).all()
    assert (out / "plots" / "umap.png").exists()
    # neighbours along the main direction stay neighbours
    near = np.abs(latents()[:, 0][:, None] - latents()[:, 0]) < 0.1
    distance = np.linalg.norm(content["umap"][:, None] - content["umap"], axis=-1)
    assert distance[near].mean() < 0.5 * distance.mean()


def test_overwrite_leaves_no_old_volumes(folder: Path) -> None:
    run(folder)
    with pytest.raises(InputError, match="must not hold results already"):
        run(folder)
    out, _ = run(folder, nclass=2, overwrite=True)
    assert sorted(p.name for p in (out / "kmeans").glob("vol_*.mrc")) == ["vol_001.mrc", "vol_002.mrc"]


def test_overwrite_leaves_no_figure_of_an_earlier_analysis(folder: Path) -> None:
    pytest.importorskip("umap")
    out, _ = run(folder, no_umap=False)
    assert (out / "plots" / "umap.png").exists() and 'alt="umap"' in (out / "report.html").read_text()
    out, _ = run(folder, overwrite=True)
    assert not (out / "plots" / "umap.png").exists() and 'alt="umap"' not in (out / "report.html").read_text()


def test_overwrite_leaves_no_component_or_outlier_of_an_earlier_analysis(folder: Path) -> None:
    with_outliers(folder)
    out, _ = run(folder)
    old = ["outliers.txt", "outliers.star", "without_outliers.star", "pc2/vol_001.mrc", "pc2/z.txt", "pc2/play.cxc"]
    assert all((out / name).exists() for name in old)
    (out / "pc2" / "mine.txt").write_text("a note")
    save_latents(folder / "weights.0.output.pkl", latents(), latents())
    with (
        pytest.raises(InputError, match="must not be a file that is read for it"),
        sources_kept([out / "outliers.txt"]),
    ):
        run(folder, components=1, overwrite=True)
    assert all((out / name).exists() for name in old), "a refusal loses nothing"
    run(folder, components=1, overwrite=True)
    assert not [name for name in old if (out / name).exists()]
    assert (out / "pc1" / "vol_001.mrc").exists() and (out / "pc2" / "mine.txt").exists()


def test_more_classes_than_particles(folder: Path) -> None:
    with pytest.raises(InputError, match="must not exceed the 300 particles"):
        run(folder, nclass=301)


def test_published_model(shared_data: Path, tmp_path: Path) -> None:
    options = AnalyzeOptions(
        source_dir=str(shared_data / "legacy_model"),
        model_weight="weights.0.pkl",
        latent="weights.0.output.pkl",
        nclass=5,
        trajectory_points=3,
        device="cpu",
        no_umap=True,
        job_dir=str(tmp_path),
    )
    with JobLog(tmp_path, ["analyze"]) as log:
        analyze.run(options, log)
    with mrcfile.open(tmp_path / "pc3" / "vol_003.mrc") as file:
        assert file.data.shape == (32, 32, 32) and float(file.voxel_size.x) == pytest.approx(12.0)


def test_contour_level_encloses_its_share() -> None:
    volume = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.2
    level = contour_level(volume, 0.8)
    positive = volume[volume > 0]
    assert positive[positive >= level].sum() / positive.sum() == pytest.approx(0.8, abs=0.01)


def test_nothing_found_is_said(folder: Path) -> None:
    """Latents that all rest at the prior: no classes, no trajectories, and the report says that there is nothing."""
    z = np.zeros((N, 3), np.float32)
    save_latents(folder / "weights.0.output.pkl", z, z, active=np.zeros(3, bool))
    out, summary = run(folder, nclass=3)
    assert len(summary["classes"]) == 1 and summary["classes"][0]["particles"] == N and not summary["trajectories"]
    assert summary["active_dimensions"] == 0 and "dependence" not in summary["trust"]
    text = (out / "report.md").read_text()
    assert "Nothing stands above the noise" in text and "## Classes" not in text and "Component" not in text
    messages = [event["text"] for event in read_events(out / "events.jsonl")[0] if event["type"] == "message"]
    assert any("Nothing stands above the noise" in text for text in messages)
    assert not list(out.glob("pc*")) and len(list((out / "kmeans").glob("vol_*.mrc"))) == 1
