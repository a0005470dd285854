"""Columns that change an image, used: prepared data against images of a simulator that knows nothing of the product.

Each set is prepared twice, as its file says and with the columns left out, as a program that ignores them would have
it: the model's images then fit the true ones ring by ring, or do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from optics_simulator import (
    Optics,
    Particles,
    beam_tilt,
    draw,
    even_zernike,
    lopsided_points,
    make_images,
    odd_zernike,
    ring_correlation,
    write_dataset,
)

from gaussianem_core.cli import main
from gaussianem_core.imaging.ctf import COLUMNS, EXTRA, apply_ctf, ctf, load_ctf
from gaussianem_core.imaging.pose import load_poses
from gaussianem_core.imaging.projection import project
from gaussianem_core.model.configuration import load_configuration
from gaussianem_core.model.gaussians import load_gaussians

COUNT = 60
EVERYONE = np.arange(COUNT)
MAGNIFICATION = np.array([[1.02, 0.008], [0.006, 0.985]])
EVEN = {4: 300.0, 8: -200.0, 7: 40.0, 3: 120.0, 5: -30.0, 1: -90.0, 6: 20.0, 2: 60.0, 0: 40.0}
ODD = {2: 120.0, 5: -90.0, 4: 40.0, 1: 80.0}


def listed(coefficients: dict[int, float], size: int) -> str:
    """As RELION writes them."""
    return "[" + ",".join(f"{coefficients.get(i, 0.0)}" for i in range(size)) + "]"


def prepare(folder: Path, *more: str) -> int:
    given = ["--star_file", "particles.star", "--consensus_map", "map.mrc", "--epoch", "0", "--device", "cpu"]
    return main(["preprocess", "-s", str(folder), "--job_dir", str(folder / "out"), *given, *more])


def model_images(out: Path) -> np.ndarray:
    """What training compares the written images with: projections of the Gaussians times their transfer."""
    configuration = load_configuration(out / "cfg.json")
    g = load_gaussians(out / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    rotations, shifts = (torch.from_numpy(a) for a in load_poses(out / "poses.npy"))
    box, sign = configuration.box, -1 if configuration.invert_contrast else 1
    images = project(g.positions, g.densities, g.sigmas, rotations, shifts, box, sigma_max=g.scale_max)
    transfer = ctf(torch.from_numpy(load_ctf(out / "ctf.npy")), box)
    return (sign * apply_ctf(images, transfer)).detach().numpy()


def written_images(out: Path) -> np.ndarray:
    return np.asarray(mrcfile.read(out / "img_stack.mrcs") / load_configuration(out / "cfg.json").extra["stack_scale"])


def undistorted(optics: Optics, particles: Particles) -> np.ndarray:
    """The same particles without magnification and odd phases, which move their places to M^-T of what they were."""
    plain = replace(optics, magnification=np.eye(2), odd=lambda kx, ky: 0 * kx)
    placed = replace(particles, origins=particles.origins @ np.linalg.inv(optics.magnification))
    return make_images(plain, placed, *lopsided_points(), 1.6, EVERYONE)


Case = tuple[Optics, dict[str, list[object]], float]
# optics, columns of the optics table, correlation in the outer third of the rings that ignoring them leaves at most
CASES: dict[str, Case] = {
    "anisotropic magnification": (
        Optics(magnification=MAGNIFICATION),
        {f"rlnMagMat{i}{j}": [MAGNIFICATION[i, j]] for i in (0, 1) for j in (0, 1)},
        0.97,
    ),
    "beam tilt": (
        Optics(odd=beam_tilt(1.8, -1.3)),
        {"rlnBeamTiltX": [1.8], "rlnBeamTiltY": [-1.3]},
        0.9,
    ),
    "odd aberrations": (Optics(odd=odd_zernike(ODD)), {"rlnOddZernike": [listed(ODD, 6)]}, 0.8),
    "even aberrations": (Optics(even=even_zernike(EVEN)), {"rlnEvenZernike": [listed(EVEN, 9)]}, 0.95),
}


@pytest.mark.parametrize("what", CASES)
def test_columns_of_the_optics_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    optics, columns, ignored_at_most = CASES[what]
    particles = draw(COUNT)
    truth = undistorted(optics, particles)
    outer = {}
    for name, given in (("used", columns), ("ignored", None)):
        write_dataset(tmp_path / name, [(optics, EVERYONE)], particles, snr=1000.0, optics_columns=given)
        assert prepare(tmp_path / name) == 0
        # model and images together: both are the undistorted ones, or the images are distorted and the model is not
        images, model = written_images(tmp_path / name / "out"), model_images(tmp_path / name / "out")
        outer[name] = ring_correlation(images, model)[20:28].min()
        if name == "used":
            assert ring_correlation(images, truth)[:28].min() > 0.985
            assert ring_correlation(model, truth)[:28].min() > 0.97
    assert outer["used"] > 0.97 and outer["ignored"] < ignored_at_most, outer
    said = capsys.readouterr().out
    words = {"beam tilt": "beam tilt and odd aberrations", "odd aberrations": "45 degrees of phase at"}
    assert words.get(what, what) in said and "taken so" not in said


def test_several_optics_groups_each_with_its_own(tmp_path: Path) -> None:
    """Voltage, Cs, amplitude contrast, phase shift, magnification and tilt by group, rows of the groups mixed."""
    groups = [
        (Optics(magnification=MAGNIFICATION, odd=beam_tilt(1.0, 0.5)), EVERYONE[::2]),
        (Optics(kilovolts=200, cs_mm=1.2, contrast=0.07, phase_shift_deg=70), EVERYONE[1::2]),
    ]
    columns: dict[str, list[object]] = {
        "rlnBeamTiltX": [1.0, 0.0],
        "rlnBeamTiltY": [0.5, 0.0],
        **{f"rlnMagMat{i}{j}": [MAGNIFICATION[i, j], float(i == j)] for i in (0, 1) for j in (0, 1)},
    }
    particles = draw(COUNT)
    write_dataset(tmp_path, groups, particles, snr=1000.0, optics_columns=columns)
    assert prepare(tmp_path) == 0
    images = written_images(tmp_path / "out")
    for optics, rows in groups:
        truth = undistorted(optics, particles)[rows]
        assert ring_correlation(images[rows], truth)[:28].min() > 0.95
        assert ring_correlation(model_images(tmp_path / "out")[rows], truth)[:28].min() > 0.97


def test_bfactor_and_scale_of_each_particle(tmp_path: Path) -> None:
    particles, r = draw(COUNT), np.random.default_rng(0)
    particles.bfactor[:], particles.scale[:] = r.uniform(0, 300, COUNT), r.uniform(0.3, 1, COUNT)
    columns = {"rlnCtfBfactor": particles.bfactor, "rlnCtfScalefactor": particles.scale}
    worst = {}
    for name, given in (("used", columns), ("ignored", None)):
        (clean,) = write_dataset(tmp_path / name, [(Optics(), EVERYONE)], particles, particle_columns=given)
        assert prepare(tmp_path / name) == 0
        worst[name] = ring_correlation(model_images(tmp_path / name / "out"), clean)[:28].min()
        assert np.load(tmp_path / name / "out/ctf.npy").shape == (COUNT, 9)
        assert (tmp_path / name / "out/aberrations.npz").exists() is (name == "used")
    assert worst["used"] > 0.97 and worst["ignored"] < 0.7, worst
    # WarpTools writes the same fall-off with a minus
    write_dataset(
        tmp_path / "warp",
        [(Optics(), EVERYONE)],
        particles,
        particle_columns={**columns, "rlnCtfBfactor": -particles.bfactor},
    )
    assert prepare(tmp_path / "warp") == 0
    np.testing.assert_array_equal(load_ctf(tmp_path / "warp/out/ctf.npy"), load_ctf(tmp_path / "used/out/ctf.npy"))


FLAGS = {
    "flipped": "rlnCtfDataArePhaseFlipped",
    "premultiplied": "rlnCtfDataAreCtfPremultiplied",
    "corrected": "rlnCtfDataAreCtfCorrected",
}
WORDS = {"flipped": "phase-flipped", "premultiplied": "premultiplied", "corrected": "corrected for their CTF"}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("state", FLAGS)
@pytest.mark.parametrize("snr", [0.2, 20.0])
def test_what_was_done_to_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, told: bool, snr: float
) -> None:
    """With the flag and without it: the images themselves show it."""
    optics, particles = Optics(state=state), draw(COUNT)
    flag: dict[str, list[object]] | None = {FLAGS[state]: [1]} if told else None
    (clean,) = write_dataset(tmp_path, [(optics, EVERYONE)], particles, snr=snr, optics_columns=flag)
    assert prepare(tmp_path) == 0
    found = ring_correlation(model_images(tmp_path / "out"), clean)[:24]
    assert found.min() > (0.95 if state != "corrected" else 0.97), found.round(2)
    said = capsys.readouterr().out
    assert WORDS[state] in said and ("as the particle file has them" in said) is told
    if state == "premultiplied":  # white again: no ring of the CTF is left in the noise
        assert load_ctf(tmp_path / "out/ctf.npy").shape == (COUNT, len(COLUMNS) + len(EXTRA))


def test_a_flag_that_the_images_contradict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag: dict[str, list[object]] = {"rlnCtfDataArePhaseFlipped": [1]}
    (clean,) = write_dataset(tmp_path, [(Optics(), EVERYONE)], draw(COUNT), snr=0.5, optics_columns=flag)
    assert prepare(tmp_path) == 0
    assert "as they were recorded, although the particle file has them phase-flipped" in capsys.readouterr().out
    assert ring_correlation(model_images(tmp_path / "out"), clean)[:28].min() > 0.97


def test_one_of_two_groups_is_flipped_and_dark(tmp_path: Path) -> None:
    """Each optics group is judged on its own; the contrast of the smaller one becomes a factor of -1."""
    rows = [np.arange(80), np.arange(80, 120)]
    particles = draw(120)
    groups = [(Optics(), rows[0]), (Optics(state="flipped"), rows[1])]
    clean = write_dataset(tmp_path, groups, particles, snr=1.0)
    with mrcfile.mmap(tmp_path / "group2.mrcs", "r+") as file:
        file.data[:] = -file.data
    assert prepare(tmp_path) == 0
    model = model_images(tmp_path / "out")
    assert ring_correlation(model[rows[0]], clean[0])[:28].min() > 0.97
    assert ring_correlation(model[rows[1]], -clean[1])[:28].min() > 0.95
    assert load_configuration(tmp_path / "out/cfg.json").invert_contrast


OTHER_WAY: dict[str, tuple[Optics, dict[str, Callable[[], list[object]]], str]] = {
    "inverse": (
        Optics(magnification=MAGNIFICATION),
        {f"rlnMagMat{i}{j}": (lambda i=i, j=j: [np.linalg.inv(MAGNIFICATION)[i, j]]) for i in (0, 1) for j in (0, 1)},  # type: ignore[misc]
        "the inverse of the magnification matrix",
    ),
    "minus": (
        Optics(odd=beam_tilt(1.8, -1.3)),
        {"rlnBeamTiltX": lambda: [-1.8], "rlnBeamTiltY": lambda: [1.3]},
        "the opposite sign of beam tilt",
    ),
}


@pytest.mark.parametrize("what", OTHER_WAY)
def test_matrices_and_signs_of_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """A converter that writes the inverse, or the opposite: the images tell, and it is said."""
    optics, columns, words = OTHER_WAY[what]
    particles = draw(COUNT)
    given = {name: make() for name, make in columns.items()}
    write_dataset(tmp_path, [(optics, EVERYONE)], particles, snr=20.0, optics_columns=given)
    assert prepare(tmp_path) == 0
    assert words in capsys.readouterr().out
    assert ring_correlation(model_images(tmp_path / "out"), undistorted(optics, particles))[:28].min() > 0.97
    images = written_images(tmp_path / "out")
    assert ring_correlation(images, undistorted(optics, particles))[:20].min() > 0.95  # the noise's share


@pytest.mark.parametrize("axis", [0, 2])
def test_a_map_of_the_other_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str], axis: int) -> None:
    """As a program flips it, about the middle of the box: it is turned back to what the poses belong to."""
    particles = draw(COUNT)
    (clean,) = write_dataset(tmp_path, [(Optics(), EVERYONE)], particles, snr=0.5)
    with mrcfile.mmap(tmp_path / "map.mrc", "r+") as file:
        right = file.data.copy()
        file.data[:] = np.flip(right, axis)
    assert prepare(tmp_path) == 0
    assert f"it is mirrored along {'zyx'[axis]}" in capsys.readouterr().out
    assert ring_correlation(model_images(tmp_path / "out"), clean)[:28].min() > 0.97
    np.testing.assert_allclose(mrcfile.read(tmp_path / "out/consensus_map.mrc"), right, atol=1e-6)


def test_a_wrong_pixel_size_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The CTF's rings are where another pixel size puts them."""
    write_dataset(tmp_path, [(Optics(), EVERYONE)], draw(COUNT), snr=1.0)
    star = (tmp_path / "particles.star").read_text()
    (tmp_path / "particles.star").write_text(star.replace(" 0.1 2.0 64 2", " 0.1 1.9 64 2"))
    with mrcfile.mmap(tmp_path / "map.mrc", "r+") as file:
        file.voxel_size = 1.9
    assert prepare(tmp_path) == 0
    assert "the CTF fits the images at 1.06 times the pixel size given" in capsys.readouterr().out


def test_plain_data_need_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neutral columns, as RELION writes them for everyone, change no byte."""
    neutral: dict[str, list[Any]] = {
        "rlnCtfDataAreCtfPremultiplied": [0],
        "rlnBeamTiltX": [0.0],
        "rlnBeamTiltY": [0.0],
        "rlnOddZernike": ["[0,0,0,0,0,0]"],
        "rlnEvenZernike": ["[0,0,0,0,0,0,0,0,0]"],
        **{f"rlnMagMat{i}{j}": [float(i == j)] for i in (0, 1) for j in (0, 1)},
    }
    particles = draw(COUNT)
    for name, given in (("neutral", neutral), ("none", None)):
        write_dataset(tmp_path / name, [(Optics(), EVERYONE)], particles, snr=0.3, optics_columns=given)
        assert prepare(tmp_path / name) == 0
        assert not (tmp_path / name / "out/aberrations.npz").exists()
    for file in ("img_stack.mrcs", "ctf.npy", "poses.npy", "point_cloud.ply"):
        assert (tmp_path / "neutral/out" / file).read_bytes() == (tmp_path / "none/out" / file).read_bytes()
    assert not any(word in capsys.readouterr().out for word in ("taken so", "although", "check the"))


@pytest.mark.parametrize("coarser", [2.01, 2.3])
def test_several_pixel_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str], coarser: float) -> None:
    """The map decides what all come to, also where most images have another size; the box is one that all can fill."""
    rows = [EVERYONE[:20], EVERYONE[20:]]
    other = Optics(pixel=coarser, box=60)
    particles = draw(COUNT)
    write_dataset(tmp_path, [(Optics(), rows[0]), (other, rows[1])], particles, snr=1000.0)
    assert prepare(tmp_path) == 0
    configuration = load_configuration(tmp_path / "out/cfg.json")
    box, pixel = configuration.box, configuration.pixel_size_angstrom
    assert box * pixel == pytest.approx(128.0) and pixel * 1.0201 > coarser and box == (64 if coarser < 2.04 else 56)
    truth = make_images(Optics(box=box, pixel=pixel), particles, *lopsided_points(), 1.6, EVERYONE)
    images = written_images(tmp_path / "out")
    assert ring_correlation(images, truth)[: int(0.42 * box)].min() > 0.99
    assert ring_correlation(images[rows[1]], truth[rows[1]])[: int(0.42 * box)].min() > 0.99
    assert set(np.load(tmp_path / "out/ctf.npy")[:, 1]) == {np.float32(pixel)}
    assert "all come to the map's" in capsys.readouterr().out
