"""Maps from tilt series: every image with its own pose, CTF and dose; half sets, selections and kernels by particle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import starfile
import torch
from small_data import preprocess, simulate
from trained import BOX, write_model, write_particles

from gaussianem_core.cli import main
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.io.latents import save_latents
from gaussianem_core.io.mrc import read_map
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.simulation.ground_truth import load_truth

PARTICLES, TILTS = 48, 5
GROUPED = ("--group_by", "rlnGroupName")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two states, in particles of five tilts with up to 60 e/A^2 before them."""
    folder = tmp_path_factory.mktemp("tilts")
    words = ["--tilts", str(TILTS), "--tilt_dose", "15", "--states", "endpoints", "--defocus_max", "9000"]
    return simulate(folder, *words, "--defocus_min", "3000", particles=PARTICLES, snr=2)


def reconstruct(place: Path, out: Path, *more: str, star: str = "particles.star") -> int:
    words = ["-s", str(place), "--star_file", star, "--no_local", "--device", "cpu", "--job_dir", str(out)]
    return main(["reconstruct", *words, *more])


def volume(path: Path) -> npt.NDArray[np.float32]:
    return read_map(path).values


def amplitude(found: npt.NDArray[np.float32], true: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each shell, how much of the true signal the map has."""
    one, other = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(v))) for v in (found, true))
    axis = np.arange(len(found)) - len(found) // 2
    shell = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).round().astype(int).ravel()
    products = [np.bincount(shell, weights=(a * other.conj()).real.ravel()) for a in (one, other)]
    return products[0] / products[1]


def test_what_the_dose_took_is_given_back(place: Path, tmp_path: Path) -> None:
    text = (place / "particles.star").read_text()
    (place / "no_dose.star").write_text(text.replace("rlnMicrographPreExposure", "rlnOther"))
    true = volume(place / "consensus.mrc")
    assert reconstruct(place, tmp_path / "with", *GROUPED) == 0
    assert reconstruct(place, tmp_path / "without", *GROUPED, star="no_dose.star") == 0
    own, other = (amplitude(volume(tmp_path / name / "map_unsharpened.mrc"), true)[1:9] for name in ("with", "without"))
    np.testing.assert_allclose(own, 1, atol=0.06)
    assert other[-1] < 0.7, "taken as undamaged, the images show fine detail too weak"
    figures = json.loads((tmp_path / "with" / "results.json").read_text())["particles"]
    assert figures["used"] == PARTICLES and figures["images"] == PARTICLES * TILTS
    assert f"{PARTICLES} particles in {PARTICLES * TILTS} tilt images" in (tmp_path / "with/report.md").read_text()


def test_half_sets_are_drawn_by_particle(place: Path, tmp_path: Path) -> None:
    table = starfile.read(place / "particles.star", always_dict=True)
    table["particles"]["rlnRandomSubset"] = 1 + np.arange(PARTICLES * TILTS) % 2  # parts the images of a particle
    starfile.write(table, place / "parted.star")
    assert reconstruct(place, tmp_path, *GROUPED, star="parted.star") == 0
    halves = starfile.read(tmp_path / "half_sets.star", always_dict=True)["particles"].groupby("rlnGroupName")
    assert (halves.rlnRandomSubset.nunique() == 1).all()
    assert sorted(halves.rlnRandomSubset.first().value_counts()) == [PARTICLES // 2] * 2


def test_a_selection_names_particles(place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.arange(0, PARTICLES, 3))
    table = starfile.read(place / "particles.star", always_dict=True)
    particle = load_truth(place / "truth.npz").particle
    assert particle is not None
    table["particles"] = table["particles"][particle % 3 == 0]
    starfile.write(table, tmp_path / "few.star")
    (tmp_path / "few.star").rename(place / "few.star")
    assert reconstruct(place, tmp_path / "numbers", *GROUPED, "--select", str(tmp_path / "few.npy")) == 0
    assert reconstruct(place, tmp_path / "rows", *GROUPED, "--select", str(place / "few.star")) == 0
    assert reconstruct(place, tmp_path / "file", *GROUPED, star="few.star") == 0
    maps = [volume(tmp_path / name / "half_map_1.mrc") for name in ("numbers", "rows", "file")]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-4 * np.abs(maps[0]).max())
    np.save(tmp_path / "rows.npy", np.ones(PARTICLES * TILTS, bool))
    assert reconstruct(place, tmp_path / "images", *GROUPED, "--select", str(tmp_path / "rows.npy")) == 2


def test_the_map_of_a_state_is_of_its_particles(place: Path, tmp_path: Path) -> None:
    """A prepared series tells its particles itself, and latents have a row for each of them."""
    assert preprocess(place, tmp_path / "pre", *GROUPED) == 0
    label = load_truth(place / "truth.npz").label
    assert label is not None and len(label) == PARTICLES
    z = np.random.default_rng(0).normal(0, 0.1, (PARTICLES, 1)) + label[:, None]
    save_latents(tmp_path / "z.pkl", z, np.full_like(z, -4.0))
    words = ["-s", str(tmp_path / "pre"), "--no_local", "--device", "cpu"]
    maps = []
    for state in (0, 1):
        (tmp_path / f"{state}.txt").write_text(f"{state}\n")
        np.save(tmp_path / f"{state}.npy", np.flatnonzero(label == state))
        around = ["--latent", str(tmp_path / "z.pkl"), "--around", str(tmp_path / f"{state}.txt"), "--width", "20"]
        for name, more in (("around", around), ("chosen", ["--select", str(tmp_path / f"{state}.npy")])):
            out = tmp_path / f"{name}{state}"
            assert main(["reconstruct", *words, "--job_dir", str(out), *more]) == 0
            maps.append(torch.from_numpy(volume(out / "map_unsharpened.mrc")))
        found = json.loads((tmp_path / f"around{state}" / "results.json").read_text())
        assert found["state"]["chosen_particles"] == found["particles"]["used"] <= 21
        assert found["particles"]["images"] == TILTS * found["particles"]["used"]
    (near, true), (far, other) = maps[:2], maps[2:]

    def score(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(fourier_shell_correlation(a, b)[1:8].mean())

    assert score(near, true) > score(near, other) + 0.02 and score(far, other) > score(far, true) + 0.02


def test_motion_is_undone_in_every_image_of_a_particle(tmp_path: Path) -> None:
    """The part that moves most is sharper with its motion undone: not where it lies, which is the mean place in both.

    A latent has as many images as its particle has tilts, each with its own pose, CTF and dose.
    """
    generator = np.random.default_rng(3)
    z = np.zeros((160, 3), np.float32)
    z[:, 0] = generator.uniform(-1.5, 1.5, len(z))
    write_model(tmp_path, z, motion=0.12)
    model = load_model(*(tmp_path / name for name in ("cfg.json", "weights.0.pkl", "point_cloud.ply")), device="cpu")
    write_particles(tmp_path, model, z, 1.0, generator, dose=(30.0, 10.0, 0.0, 20.0))
    words = ["-s", str(tmp_path), "--star_file", "particles_in.star", *GROUPED, "--no_local", "--device", "cpu"]
    undo = ["--latent", "weights.0.output.pkl", "--model_weight", "weights.0.pkl", "--undo_motion"]
    true, gaussians = model.consensus_volume(), model.gaussians.positions
    spread = (model.deform(z).positions - gaussians).square().sum(-1).mean(0)
    centres = (gaussians * (BOX / 2) + BOX // 2)[spread.argsort(descending=True)[:15]]
    grid = torch.stack(torch.meshgrid(*[torch.arange(BOX)] * 3, indexing="ij")[::-1], dim=-1).float()
    region = (torch.cdist(grid.view(-1, 3), centres).amin(1) < 2.5).view(true.shape)
    found = {}
    for name, more in {"plain": [], "undone": undo}.items():
        assert main(["reconstruct", *words, "--job_dir", str(tmp_path / name), *more]) == 0
        made = torch.from_numpy(volume(tmp_path / name / "map_unsharpened.mrc"))
        found[name] = float(torch.corrcoef(torch.stack([made[region], true[region]]))[0, 1])
    assert found["undone"] > found["plain"] + 0.05
    figures = json.loads((tmp_path / "undone" / "results.json").read_text())
    assert figures["particles"]["images"] == 4 * figures["particles"]["used"] == 4 * len(z)
    assert figures["motion_undone"]["parts"] > 1
