"""Consensus Gaussians: placed where the map is dense, scaled and fitted to images whose answer is known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.job.events import JobLog, read_events
from gaussianem_core.model.gaussians import Gaussians, inverse_softplus
from gaussianem_core.training import consensus_fit
from gaussianem_core.training.forward_model import Views

BOX, COUNT, POINTS = 24, 160, 40
BOUNDS = (1.0 / BOX, 3.0 / BOX)
PIXEL = 3.0


def molecule() -> Gaussians:
    """40 Gaussians of different heights, all of the middle width."""
    generator = torch.Generator().manual_seed(0)
    positions = (torch.rand(POINTS, 3, generator=generator) - 0.5) * 1.1
    raw_density = inverse_softplus(torch.rand(POINTS, generator=generator) * 6 + 3)
    return Gaussians(positions, raw_density, torch.zeros(POINTS), *BOUNDS)


def make_data(truth: Gaussians, noise: float) -> consensus_fit.ConsensusData:
    """Images of ``truth`` with a contrast transfer that changes from image to image, and white noise."""
    generator = np.random.default_rng(0)
    rotations = torch.from_numpy(random_rotations(COUNT, generator)).float()
    shifts = torch.from_numpy(generator.normal(0, 1, (COUNT, 2))).float()
    ctf = np.zeros((COUNT, 9), np.float32)
    ctf[:, :2], ctf[:, 2], ctf[:, 5:8] = (BOX, 4.0), generator.uniform(8000, 20000, COUNT), (300, 2.7, 0.1)
    ctf[:, 3] = ctf[:, 2]
    data = consensus_fit.ConsensusData(torch.zeros(COUNT, BOX, BOX), Views(rotations, shifts, torch.from_numpy(ctf)))
    clean, _ = consensus_fit.spectra(truth, data, torch.arange(COUNT), "reference")
    images = torch.fft.irfft2(clean, s=(BOX, BOX), norm="ortho")
    images = images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return consensus_fit.ConsensusData(images, data.views)


def blob_map(box: int) -> np.ndarray:
    """A dense core and a weak arm, nothing elsewhere; maximum about 1."""
    axis = (np.arange(box) - box // 2) / (box / 2)
    z, y, x = axis[:, None, None], axis[:, None], axis
    core = np.exp(-(x**2 + y**2 + z**2) / (2 * 0.2**2))
    arm = 0.35 * np.exp(-((x - 0.5) ** 2 + y**2 + z**2) / (2 * 0.1**2))
    return (core + arm).astype(np.float32)


# ---- placing -----------------------------------------------------------------------------------------------------


def test_gaussians_sit_on_the_voxels() -> None:
    density = np.zeros((16, 16, 16), np.float32)
    density[5, 9, 12] = 2.0  # z, y, x
    density[8, 8, 8] = 1.0
    gaussians, contour, spacing = consensus_fit.place_gaussians(density, "0.5", 1, 100, 16, *BOUNDS, PIXEL)
    assert contour.level == 0.5 and contour.density is density and spacing == 1
    placed = {tuple(p): float(d) for p, d in zip(gaussians.positions.tolist(), gaussians.densities)}
    # coordinate = (index - D//2) / (D/2), in the order x, y, z
    assert placed == {(0.5, 0.125, -0.375): pytest.approx(2), (0.0, 0.0, 0.0): pytest.approx(1)}
    assert (gaussians.raw_scale == 0).all()


@pytest.mark.parametrize(
    ("box", "target", "interval", "expected"),
    [
        (96, 96, None, 1.0),  # every voxel
        (96, 48, None, 2.0),  # no finer than the pixel after downsampling
        (288, 288, None, 2.0),  # the manual's rule above a box of 256
        (288, 96, None, 3.0),
        (96, 48, 1, 1.0),  # as told
        (96, 96, 3, 3.0),
    ],
)
def test_grid_spacing(box: int, target: int, interval: int | None, expected: float) -> None:
    density = np.zeros((box, box, box), np.float32)
    density[box // 2 - 6 : box // 2 + 7, box // 2 - 6 : box // 2 + 7, box // 2 - 6 : box // 2 + 7] = 1
    gaussians, _, spacing = consensus_fit.place_gaussians(density, "0.5", interval, 10_000, target, *BOUNDS, PIXEL)
    assert spacing == expected
    assert len(gaussians) == (2 * int(6 / expected) + 1) ** 3
    steps = np.diff(np.unique(gaussians.positions[:, 0].numpy())) * box / 2
    np.testing.assert_allclose(steps, expected, rtol=1e-4)


def test_cap() -> None:
    density = blob_map(32)
    gaussians, contour, spacing = consensus_fit.place_gaussians(density, "auto", None, 200, 32, *BOUNDS, PIXEL)
    level = contour.level
    assert 100 < len(gaussians) <= 200 and spacing > 1
    # A spacing or a level that the user asked for is not changed behind his back.
    for threshold, interval in (("auto", 1), (str(level), None)):
        with pytest.raises(InputError, match=r"over the cap of 200.*Give a level from") as error:
            consensus_fit.place_gaussians(density, threshold, interval, 200, 32, *BOUNDS, PIXEL)
        assert f"{100 * (density <= level).mean():.2f}th percentile" in str(error.value)
    with pytest.raises(InputError, match="no Gaussians"):
        consensus_fit.place_gaussians(density, "5", None, 200, 32, *BOUNDS, PIXEL)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_automatic_level_keeps_the_weak_arm_and_no_noise(noise: float) -> None:
    clean = blob_map(48)
    density = clean + gaussian_filter(np.random.default_rng(0).normal(size=clean.shape), 1.0).astype(np.float32) * (
        noise / 0.15
    )  # the filter leaves 0.15 of the deviation
    gaussians, contour, _ = consensus_fit.place_gaussians(density, "auto", 1, 20_000, 48, *BOUNDS, PIXEL)
    level = contour.level
    assert (contour.resolution_angstrom is None) == (noise < 0.05)
    index = (24 + gaussians.positions.numpy() * 24).round().astype(int)
    chosen = np.zeros(clean.shape, bool)
    chosen[index[:, 2], index[:, 1], index[:, 0]] = True
    assert noise < level < 0.35
    assert chosen[24, 24, 36]  # the peak of the arm, a third of the core's
    assert chosen[clean > level + 5 * noise].all()
    solvent = clean < 0.5 * level - 0.01
    assert chosen[solvent].mean() < 1e-4


@pytest.mark.parametrize("noise", [0.15, 0.4])
def test_an_arm_fainter_than_the_noise_of_a_fine_voxel_gets_gaussians(noise: float) -> None:
    """The solvent reaches 0.75 and 2 at five sigmas: more than the arm (a third) and the core (1)."""
    clean = blob_map(96)
    density = clean + noise * np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
    gaussians, contour, _ = consensus_fit.place_gaussians(density, "auto", 1, 100_000, 96, *BOUNDS, 1.5)
    assert contour.resolution_angstrom is not None and 4 <= contour.resolution_angstrom <= 20
    assert contour.level < 0.3
    index = (48 + gaussians.positions.numpy() * 48).round().astype(int)
    chosen = np.zeros(clean.shape, bool)
    chosen[index[:, 2], index[:, 1], index[:, 0]] = True
    assert chosen[clean > 0.3].mean() > 0.99  # all of the arm's and the core's middle
    assert chosen[clean < 0.01].mean() < 1e-3
    # The levels that an error names are those of the map as it is, for which they would be given.
    with pytest.raises(InputError, match="over the cap of 500") as error:
        consensus_fit.place_gaussians(density, "auto", 1, 500, 96, *BOUNDS, 1.5)
    level = re.search(r"Give a level from (\S+) to", str(error.value))
    assert level is not None
    given, _, _ = consensus_fit.place_gaussians(density, f"{1.01 * float(level[1])}", 1, 500, 96, *BOUNDS, 1.5)
    assert 300 < len(given) <= 500


# ---- scaling and fitting -----------------------------------------------------------------------------------------


def test_amplitude_is_found_with_its_sign() -> None:
    truth = molecule()
    data = make_data(truth, noise=1.0)
    weak = consensus_fit.scale_densities(truth, 0.2)
    torch.testing.assert_close(weak.densities, 0.2 * truth.densities)
    amplitude, sigmas = consensus_fit.fit_amplitude(weak, data, "reference")
    assert amplitude == pytest.approx(5.0, rel=0.05) and sigmas > 20
    inverted = consensus_fit.ConsensusData(-data.images, data.views)
    assert consensus_fit.fit_amplitude(weak, inverted, "reference") == pytest.approx((-amplitude, -sigmas), rel=1e-4)
    noise = torch.randn(data.images.shape, generator=torch.Generator().manual_seed(5))
    alone = consensus_fit.ConsensusData(noise, data.views)
    assert abs(consensus_fit.fit_amplitude(weak, alone, "reference")[1]) < 4


def disturbed(truth: Gaussians) -> Gaussians:
    """Positions off by half a pixel, densities all alike."""
    generator = torch.Generator().manual_seed(2)
    moved = truth.positions + torch.randn(truth.positions.shape, generator=generator) * (0.5 * 2 / BOX)
    return Gaussians(moved, torch.full((POINTS,), float(truth.raw_density.mean())), truth.raw_scale, *BOUNDS)


def fitted(folder: Path, start: Gaussians, data: consensus_fit.ConsensusData, epochs: int, recipe: str = "default"):  # type: ignore[no-untyped-def]
    with JobLog(folder, ["fit"]) as log:
        result = consensus_fit.fit(start, data, log, epochs=epochs, batch=4, recipe=recipe, backend="reference", seed=0)
    events = read_events(folder / "events.jsonl")[0]
    return result, [e["values"]["held_out"] for e in events if e["type"] == "metric"]


def clean_error(gaussians: Gaussians, truth: Gaussians, data: consensus_fit.ConsensusData) -> float:
    """Mean squared difference of the images that the Gaussians and the true ones would give, mean values aside."""
    rows, weight = torch.arange(COUNT), consensus_fit.plane_weight(BOX, torch.device("cpu"))
    made, true = (consensus_fit.spectra(g, data, rows, "reference")[0] for g in (gaussians, truth))
    return float(((made - true).abs().square() * weight).sum()) / data.images.numel()


def test_fit_to_the_map_comes_near_it_in_any_units(tmp_path: Path) -> None:
    """From densities all alike, and from a wrong scale; the Gaussians stay where they are spread out."""
    truth = molecule()
    start = Gaussians(truth.positions, torch.full((POINTS,), 2.0), truth.raw_scale, *BOUNDS)

    def volume(g: Gaussians) -> torch.Tensor:
        return voxelize(g.positions, g.densities, g.sigmas, BOX, sigma_max=g.scale_max)

    target, found = volume(truth), []
    for units in (1.0, 1e-3):
        with JobLog(tmp_path / str(units), ["fit"]) as log:
            found.append(consensus_fit.fit_to_map(start, units * target, log))
    torch.testing.assert_close(found[1].densities, found[0].densities, rtol=0.02, atol=0.02)
    before, after = (fourier_shell_correlation(volume(g), target)[1:].mean() for g in (start, found[0]))
    assert after > 0.5 * (1 + before)
    assert np.corrcoef(found[0].densities, truth.densities)[0, 1] > 0.9
    assert (found[0].positions - start.positions).norm(dim=1).max() < 0.3 * 2 / BOX


def test_fit_comes_nearer_to_the_truth(tmp_path: Path) -> None:
    truth = molecule()
    data = make_data(truth, noise=0.2)
    start = disturbed(truth)
    result, errors = fitted(tmp_path, start, data, epochs=6)
    assert min(errors) < errors[0]
    # Rates are made for thousands of steps: in these 228 the positions go part of the way.
    assert clean_error(result, truth, data) < 0.62 * clean_error(start, truth, data)
    assert len(result) == POINTS and not result.positions.requires_grad
    assert (result.scale_min, result.scale_max) == BOUNDS
    once, twice = (fitted(tmp_path / name, start, data, epochs=1)[0] for name in ("once", "twice"))
    assert torch.equal(once.positions, twice.positions), "one seed, one result"


def test_fit_never_gives_a_worse_state_back(tmp_path: Path) -> None:
    """From the truth itself nothing but noise can be learned: the held-out error decides, and the fit ends early."""
    truth = molecule()
    data = make_data(truth, noise=5.0)
    result, errors = fitted(tmp_path, truth, data, epochs=12)
    assert clean_error(result, truth, data) <= clean_error(disturbed(truth), truth, data)
    texts = [e["text"] for e in read_events(tmp_path / "events.jsonl")[0] if e["type"] == "message"]
    assert len(errors) < 1 + 12 * consensus_fit.CHECKS and any("converged on held-out images" in text for text in texts)
    assert fitted(tmp_path / "none", truth, data, epochs=0)[0] is truth


def test_published_recipe_leaves_positions(tmp_path: Path) -> None:
    truth = molecule()
    data = make_data(truth, noise=0.5)
    start = disturbed(truth)
    result, errors = fitted(tmp_path, start, data, epochs=2, recipe="published")
    assert torch.equal(result.positions, start.positions)
    assert not torch.equal(result.raw_density, start.raw_density) and errors[-1] < errors[0]
