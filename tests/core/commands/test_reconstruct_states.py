"""Maps of states, motion undone and poses of a domain, from a network with a known answer and images that it made."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from trained import BOX, PIXEL, write_model, write_particles

from gaussianem_core.cli import main
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.mrc import read_map
from gaussianem_core.job.events import EVENTS, read_events
from gaussianem_core.model.trained_model import TrainedModel, load_model

COUNT = 1600
STATES = np.array([[-1.2, 0.0, 0.0], [1.2, 0.0, 0.0]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, latents along one line, and the noisy images of the molecule at them."""
    folder = tmp_path_factory.mktemp("states")
    generator = np.random.default_rng(8)
    z = np.zeros((COUNT, 3), np.float32)
    z[:, 0] = generator.uniform(-1.5, 1.5, COUNT)
    write_model(folder, z, motion=0.1)
    write_particles(folder, model_of(folder), z, 1.5, generator)
    np.savetxt(folder / "states.txt", STATES)
    np.savetxt(folder / "one.txt", STATES[:1])
    return folder


def model_of(folder: Path) -> TrainedModel:
    return load_model(folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", device="cpu")


def reconstruct(folder: Path, out: Path, *more: str) -> int:
    given = ["-s", str(folder), "--star_file", "particles_in.star", "--latent", "weights.0.output.pkl"]
    return main(["reconstruct", *given, "--no_local", "--device", "cpu", "--job_dir", str(out), *more])


def volume(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_map(path).values)


def score(found: torch.Tensor, true: torch.Tensor) -> float:
    return float(fourier_shell_correlation(found, true)[1 : BOX // 3].mean())


def test_maps_of_states_from_the_particles_around_them(place: Path, tmp_path: Path) -> None:
    assert reconstruct(place, tmp_path, "--around", "states.txt", "--model_weight", "weights.0.pkl") == 0
    truths = list(model_of(place).volumes(STATES.astype(np.float32)))
    found = json.loads((tmp_path / "results.json").read_text())["states"]
    for number, (true, other) in enumerate(zip(truths, truths[::-1]), start=1):
        folder = tmp_path / f"state_{number:03d}"
        own = volume(folder / "map_unsharpened.mrc")
        assert score(own, true) > score(own, other) + 0.02
        combined = volume(folder / "map_state.mrc")
        assert score(combined, true) > score(combined, other) + 0.02
        state = found[number - 1]["state"]
        assert state["z"] == pytest.approx(STATES[number - 1].tolist())
        assert state["chosen_particles"] in state["widths_particles"] and state["widths_particles"][-1] == COUNT
        assert state["chosen_particles"] < COUNT
        assert found[number - 1]["particles"]["used"] == state["chosen_particles"]
        assert found[number - 1]["decoded"]["fsc"][2] > 0.9
        assert f"{state['chosen_particles']:,} particles nearest" in (folder / "report.md").read_text()
        assert (tmp_path / f"vol_{number:03d}.mrc").exists()
    artifacts = [e for e in read_events(tmp_path / EVENTS)[0] if e["type"] == "artifact"]
    assert [a["info"]["count"] for a in artifacts if a["kind"] == "volume_series"] == [2]
    np.testing.assert_allclose(np.loadtxt(tmp_path / "z.txt"), STATES)


def test_one_pass_gives_what_states_give_alone(place: Path, tmp_path: Path) -> None:
    assert reconstruct(place, tmp_path / "both", "--around", "states.txt") == 0
    assert reconstruct(place, tmp_path / "one", "--around", "one.txt") == 0
    for name in ("half_map_1.mrc", "half_map_2.mrc", "map.mrc"):
        torch.testing.assert_close(volume(tmp_path / "both" / "state_001" / name), volume(tmp_path / "one" / name))
    (tmp_path / "both" / "state_001" / "mine.txt").write_text("a note")
    assert reconstruct(place, tmp_path / "both", "--around", "one.txt", "--overwrite") == 0
    assert [path.name for path in (tmp_path / "both").glob("state_*/*.*")] == ["mine.txt"]
    assert not [*(tmp_path / "both").glob("vol_*.mrc"), *(tmp_path / "both").glob("state_*/*.mrc")]
    assert reconstruct(place, tmp_path / "one", "--around", "states.txt", "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "one").glob("*.mrc")) == ["vol_001.mrc", "vol_002.mrc"]


def test_a_width_that_is_given(place: Path, tmp_path: Path) -> None:
    assert reconstruct(place, tmp_path / "kernel", "--around", "one.txt", "--width", "300") == 0
    z = np.abs(model_latents(place)[:, 0] - STATES[0, 0])
    nearest = np.concatenate(
        [rows[np.argsort(z[rows])][:150] for rows in (np.arange(0, COUNT, 2), np.arange(1, COUNT, 2))]
    )
    np.save(tmp_path / "rows.npy", np.sort(nearest))
    words = ["-s", str(place), "--star_file", "particles_in.star", "--select", str(tmp_path / "rows.npy"), "--no_local"]
    assert main(["reconstruct", *words, "--device", "cpu", "--job_dir", str(tmp_path / "selected")]) == 0
    for name in ("half_map_1.mrc", "map_unsharpened.mrc"):
        a, b = volume(tmp_path / "kernel" / name), volume(tmp_path / "selected" / name)
        assert fourier_shell_correlation(a, b)[1:].min() > 0.999


def model_latents(place: Path) -> np.ndarray:
    from gaussianem_core.io.latents import load_latents

    return load_latents(place / "weights.0.output.pkl")["z_mu"]


def test_motion_undone_brings_all_particles_to_one_state(place: Path, tmp_path: Path) -> None:
    base = ["--undo_motion", "--model_weight", "weights.0.pkl"]
    assert reconstruct(place, tmp_path / "consensus", *base) == 0
    assert reconstruct(place, tmp_path / "state", *base, "--around", "one.txt") == 0
    words = ["-s", str(place), "--star_file", "particles_in.star", "--no_local", "--device", "cpu"]
    assert main(["reconstruct", *words, "--job_dir", str(tmp_path / "plain")]) == 0
    model = model_of(place)
    here = next(model.volumes(STATES[:1].astype(np.float32)))
    plain, state = (volume(tmp_path / name / "map_unsharpened.mrc") for name in ("plain", "state"))
    assert score(state, here) > score(plain, here) + 0.02
    found = json.loads((tmp_path / "state" / "results.json").read_text())["motion_undone"]
    assert found["parts"] > 1 and not found["half_sets_independent"]
    assert "not independent" in (tmp_path / "state" / "report.md").read_text()


def test_half_sets_with_models_of_their_own(place: Path, tmp_path: Path) -> None:
    """As train --half_sets leaves them: each half map knows nothing of the other's particles."""
    folder = tmp_path / "trained"
    z = model_latents(place)
    write_model(folder, z, motion=0.1, store_gaussians=True)
    for half in (1, 2):
        rows = np.arange(half - 1, COUNT, 2)
        write_model(folder / f"half{half}", z[rows], motion=0.1, store_gaussians=True, ind=rows[:, None])
    words = ["-s", str(place), "--star_file", "particles_in.star", "--no_local", "--device", "cpu", "--undo_motion"]
    words += ["--latent", str(folder / "weights.0.output.pkl"), "--model_weight", str(folder / "weights.0.pkl")]
    assert main(["reconstruct", *words, "--job_dir", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["motion_undone"]["half_sets_independent"]
    assert "saw no other particles" in (tmp_path / "out" / "report.md").read_text()
    told = [e for e in read_events(tmp_path / "out" / EVENTS)[0] if e.get("stage") == "motions"]
    assert [e["done"] for e in told if e["done"] == e["total"]] == [COUNT // 2] * 2  # of each network's own particles
    consensus = model_of(place).consensus_volume()
    assert score(volume(tmp_path / "out" / "map_unsharpened.mrc"), consensus) > 0.5


def test_poses_and_mask_of_a_domain_and_the_images_without_the_rest(place: Path, tmp_path: Path) -> None:
    model = model_of(place)
    mask = np.zeros((BOX,) * 3, np.float32)
    mask[:, :, BOX // 2 + 2 :] = 1
    with mrcfile.new(tmp_path / "domain.mrc") as file:
        file.set_data(mask)
        file.voxel_size = PIXEL
    words = ["--model_weight", "weights.0.pkl", "--domain_poses", str(tmp_path / "domain.mrc"), "--subtract"]
    assert reconstruct(place, tmp_path / "out", *words) == 0
    before = starfile.read(place / "particles_in.star")["particles"]
    after = starfile.read(tmp_path / "out" / "domain_particles.star")["particles"]
    assert list(after.columns) == list(before.columns) and (after["rlnImageName"] == before["rlnImageName"]).all()
    names = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    first, second = (rotations_from_angles(table[names].to_numpy()) for table in (before, after))
    turned = np.rad2deg(np.arccos(np.clip((np.einsum("nij,nij->n", first, second) - 1) / 2, -1, 1)))
    assert 0.05 < np.sqrt(np.mean(turned**2)) < 60
    made = read_map(tmp_path / "out" / "domain_mask.mrc")
    assert made.values.shape == (BOX,) * 3 and made.values.max() == 1
    # What is left of an image is the domain, and the noise as it was.
    listed = starfile.read(tmp_path / "out" / "subtracted.star")["particles"]
    assert listed["rlnImageName"].str.endswith("subtracted.mrcs").all()
    left = mrcfile.read(tmp_path / "out" / "subtracted.mrcs")
    images = mrcfile.read(place / "particles.mrcs")
    gaussians = model.gaussians.positions[:, 0] * (BOX / 2) + BOX // 2
    assert 0 < int((gaussians.round() >= BOX // 2 + 2).sum()) < len(gaussians)
    taken = images - left
    assert taken.std() > 0.1 * images.std() and left.std() < images.std()
    told = [e for e in read_events(tmp_path / "out" / EVENTS)[0] if e.get("stage") == "motions"]
    assert told and told[-1]["done"] == told[-1]["total"]


def test_a_domain_that_leaves_only_two_gaussians_has_poses(place: Path, tmp_path: Path) -> None:
    """The rest is too small for a motion of its own."""
    model = model_of(place)
    voxels = (model.gaussians.positions.flip(1) * (BOX / 2)).round().long().numpy() + BOX // 2  # z, y, x
    names, counts = np.unique(voxels, axis=0, return_counts=True)
    mask = np.ones((BOX,) * 3, np.float32)
    mask[tuple(names[counts == 1][:2].T)] = 0
    assert (mask[tuple(voxels.T)] == 0).sum() == 2
    with mrcfile.new(tmp_path / "domain.mrc") as file:
        file.set_data(mask)
        file.voxel_size = PIXEL
    words = ["--model_weight", "weights.0.pkl", "--domain_poses", str(tmp_path / "domain.mrc")]
    assert reconstruct(place, tmp_path / "out", *words) == 0
    assert (tmp_path / "out" / "domain_particles.star").is_file()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--undo_motion"], "undo_motion: changes nothing without a network"),
        (["--around", "bad.txt"], "around: must hold 3 finite values a row"),
        (["--around", "states.txt", "--undo_motion", "--model_weight", "weights.0.pkl"], "must be one row"),
        ([], "latent: changes nothing where no state is asked for"),
    ],
)
def test_what_does_not_fit_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    np.savetxt(place / "bad.txt", [[1.0, 2.0]])
    assert reconstruct(place, tmp_path, *more) == 2
    assert told in capsys.readouterr().err
