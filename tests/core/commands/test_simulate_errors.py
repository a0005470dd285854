"""Wrong metadata, junk, noise and motions of a simulation are as large as asked, and the truth file tells them all."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_data import write_molecule

from gaussianem_core.commands import simulate
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import (
    centred_rfftn,
    fourier_shell_correlation,
    fsc_weight,
    radial_power,
    shell_sum,
)
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import read_particles, write_star
from gaussianem_core.job.events import JobLog
from gaussianem_core.options import SimulateOptions
from gaussianem_core.simulation.acquisition import not_simulated
from gaussianem_core.simulation.ground_truth import Truth, load_truth, mean_volume, true_volumes
from gaussianem_core.simulation.rendering import clean_images

COUNT = 400


def simulated(folder: Path, model: Path, **values) -> tuple[Path, Truth]:  # type: ignore[no-untyped-def]
    given = {"particles": COUNT, "box": 32, "apix": 4.0, "snr": 0.5, "device": "cpu", **values}
    options = SimulateOptions(model=str(model), job_dir=str(folder), **given)
    with JobLog(options.output_directory(), ["simulate"]) as log:
        simulate.run(options, log)
    return folder, load_truth(folder / "truth.npz")


def images_of(folder: Path) -> torch.Tensor:
    return torch.from_numpy(ImageStack.from_file(folder / "particles.mrcs").read().astype(np.float32))


def clean(truth: Truth) -> torch.Tensor:
    return clean_images(truth, torch.from_numpy(truth.ctf), torch.arange(COUNT))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body of 60 points, an arm of 20 in nine places with an angle for each, and ten points of the body as a leg."""
    path = write_molecule(tmp_path_factory.mktemp("model") / "plain.npz", frames=9)
    with np.load(path) as file:
        content = dict(file)
    leg = np.arange(80) < 10
    content["xyz"] = content["xyz"] + leg[:, None] * np.linspace(0, 8, 9)[:, None, None]
    np.savez(path.with_name("model.npz"), **content, leg=leg, arm_degrees=np.linspace(-34, 34, 9))
    return path.with_name("model.npz")


@pytest.fixture(scope="module")
def wrong(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    errors = {"pose_error": 3.0, "shift_error": 0.4, "defocus_error": 200.0}
    return simulated(tmp_path_factory.mktemp("wrong"), model, **errors)


@pytest.fixture(scope="module")
def exact(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    return simulated(tmp_path_factory.mktemp("exact"), model)


def test_the_file_is_wrong_by_as_much_as_asked(wrong: tuple[Path, Truth]) -> None:
    folder, truth = wrong
    table = read_particles(folder / "particles.star")
    turned = rotations_from_angles(table.angles_deg) @ truth.rotations.transpose(0, 2, 1)
    turns = Rotation.from_matrix(turned).as_rotvec(degrees=True)
    assert np.sqrt((turns**2).sum(1).mean()) == pytest.approx(3.0, rel=0.1)
    np.testing.assert_allclose(turns.std(0), 3 / np.sqrt(3), rtol=0.15)  # no axis is favoured
    moved = table.shifts_angstrom / 4 - truth.shifts
    np.testing.assert_allclose(moved.std(0), 0.4, rtol=0.15)
    for column, ours in ((table.defocus_u_angstrom, 2), (table.defocus_v_angstrom, 3)):
        assert (column - truth.ctf[:, ours]).std() == pytest.approx(200, rel=0.15)
    np.testing.assert_allclose(rotations_from_angles(table.angles_deg), truth.given_rotations, atol=1e-5)
    np.testing.assert_allclose(table.shifts_angstrom / 4, truth.given_shifts, atol=1e-5)
    given = (table.defocus_u_angstrom + table.defocus_v_angstrom) / 2
    np.testing.assert_allclose(given, truth.given_defocus_angstrom, atol=0.01)


def test_errors_change_the_file_and_not_the_images(wrong: tuple[Path, Truth], exact: tuple[Path, Truth]) -> None:
    assert (wrong[0] / "particles.mrcs").read_bytes() == (exact[0] / "particles.mrcs").read_bytes()
    noise = images_of(wrong[0]) - clean(wrong[1])  # the true poses and CTFs rebuild the images
    assert noise.var() == pytest.approx(1.0, rel=0.02)
    np.testing.assert_array_equal(exact[1].given_rotations, exact[1].rotations)


def test_contrast_multiplies_each_particles_signal(exact: tuple[Path, Truth], model: Path, tmp_path: Path) -> None:
    folder, truth = simulated(tmp_path, model, contrast_spread=0.2)
    assert np.log(truth.contrast).std() == pytest.approx(0.2, rel=0.1)
    expected = clean(truth) * (torch.from_numpy(truth.contrast) - 1)[:, None, None]
    np.testing.assert_allclose(images_of(folder) - images_of(exact[0]), expected, atol=2e-5)


def test_junk_holds_noise_fragments_or_another_molecule(exact: tuple[Path, Truth], model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "dot.npz", xyz=np.zeros((1, 1, 3)), weight=np.full(1, 80.0))
    kinds = {"junk_kinds": "noise,fragment,other", "junk_model": str(tmp_path / "dot.npz")}
    folder, truth = simulated(tmp_path / "junk", model, junk=0.3, no_ctf=True, shift=0.0, snr=20.0, **kinds)
    assert 0.2 < (truth.junk > 0).mean() < 0.4 and set(truth.junk) == {0, 1, 2, 3}
    images, signal = images_of(folder), clean(truth)
    assert (images - signal)[truth.junk == 0].var() == pytest.approx(1.0, rel=0.05)
    assert images[truth.junk == 1].var() == pytest.approx(1.0, rel=0.05)
    mass = signal.sum((1, 2)).mean()
    share = images[truth.junk == 2].sum((1, 2)) / mass
    assert 0.2 < share.min() and share.max() < 0.9 and 0.45 < share.mean() < 0.65  # 30 to 80 % of the points
    # What is left of a broken particle lies where the particle would.
    fragments, whole = images[truth.junk == 2].flatten(1), signal[truth.junk == 2].flatten(1)
    assert torch.corrcoef(torch.stack([fragments.flatten(), whole.flatten()]))[0, 1] > 0.6
    dots = images[truth.junk == 3].mean(0)  # one point as heavy as the molecule, in the middle
    assert dots.argmax() == 16 * 32 + 16 and dots.sum() == pytest.approx(float(mass), rel=0.05)
    # Junk has no volume: the mean of the truth is that of the particles.
    mean = true_volumes(truth, np.flatnonzero(truth.junk == 0), 32).mean(0)
    np.testing.assert_allclose(mean_volume(truth), mean, atol=float(mean.max()) * 1e-4)


def test_noise_has_the_spectrum_that_was_asked_for(model: Path, tmp_path: Path) -> None:
    table = np.stack([np.linspace(0, 0.125, 20), np.linspace(9, 1, 20)], axis=1)
    np.savetxt(tmp_path / "noise.txt", table)
    for noise, steepness in (("coloured", 2.0), (str(tmp_path / "noise.txt"), 5.0)):
        folder, truth = simulated(tmp_path / noise.replace("/", "_"), model, noise=noise)
        noise_images = images_of(folder) - clean(truth)
        assert noise_images.var() == pytest.approx(1.0, rel=0.02)
        power = radial_power(noise_images).mean(0)
        np.testing.assert_allclose(power[1:], truth.noise_power[1:16], rtol=0.1)  # 400 images, 6 components at least
        assert truth.noise_power[0] > steepness * truth.noise_power[-1]


def test_a_gradient_is_a_plane(model: Path, exact: tuple[Path, Truth], tmp_path: Path) -> None:
    folder, truth = simulated(tmp_path, model, gradient=2.0)
    background = (images_of(folder) - clean(truth)).mean(1)  # over y
    axis = torch.arange(32.0) / 16 - 1
    slopes = (background * (axis - axis.mean())).sum(1) / (axis - axis.mean()).square().sum()
    assert slopes.std() == pytest.approx(2.0, rel=0.15)


def test_views_of_a_file(model: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    angles = generator.uniform(0, 90, (30, 3))
    defocus = generator.uniform(8000, 20000, 30)
    optics = {"rlnOpticsGroup": [1, 2], "rlnVoltage": [200.0, 300.0]}
    optics |= {"rlnSphericalAberration": [1.4, 2.7], "rlnAmplitudeContrast": [0.1, 0.07]}
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    rows = {name: angles[:, i] for i, name in enumerate(names)}
    rows |= {"rlnDefocusU": defocus, "rlnDefocusV": defocus - 100, "rlnDefocusAngle": defocus / 200}
    write_star(tmp_path / "views.star", {"optics": optics, "particles": {**rows, "rlnOpticsGroup": [1, 2] * 15}})
    folder, truth = simulated(tmp_path / "out", model, poses=str(tmp_path / "views.star"), particles=45)
    table = read_particles(folder / "particles.star")
    row = np.abs(table.defocus_u_angstrom[:, None] - defocus).argmin(1)
    assert set(np.bincount(row, minlength=30)) <= {1, 2, 3, 4} and len(set(row)) == 30  # each once, then again
    np.testing.assert_allclose(table.voltage_kv, np.where(row % 2, 300, 200))
    np.testing.assert_allclose(table.amplitude_contrast, np.where(row % 2, 0.07, 0.1), atol=1e-6)
    np.testing.assert_allclose(truth.rotations, rotations_from_angles(angles[row]), atol=1e-5)
    assert not_simulated(tmp_path / "views.star") == []
    optics |= {"rlnBeamTiltX": [0.0, 0.3], "rlnMagMat00": [1.0, 1.0], "rlnOddZernike": ["[0,0,0]", "[0,0.1,0]"]}
    rows |= {"rlnCtfBfactor": np.zeros(30), "rlnCtfScalefactor": np.full(30, 0.9)}
    write_star(tmp_path / "more.star", {"optics": optics, "particles": {**rows, "rlnOpticsGroup": [1, 2] * 15}})
    assert not_simulated(tmp_path / "more.star") == ["rlnBeamTiltX", "rlnOddZernike", "rlnCtfScalefactor"]
    with pytest.raises(InputError, match="columns of poses"):
        write_star(tmp_path / "none.star", {"particles": {"rlnImageName": ["1@a.mrcs"]}})
        simulated(tmp_path / "none", model, poses=str(tmp_path / "none.star"))


def test_two_parts_move_independently(model: Path, tmp_path: Path) -> None:
    _, truth = simulated(tmp_path, model, motions="arm; leg", missing="arm", missing_fraction=0.25)
    assert truth.motion_names.tolist() == ["arm", "leg"] and truth.frame.shape == (COUNT, 2)
    assert abs(np.corrcoef(truth.frame.T)[0, 1]) < 0.15
    np.testing.assert_allclose(truth.motions[truth.present, 0], np.linspace(-34, 34, 9)[truth.frame[truth.present, 0]])
    assert np.isnan(truth.motions[~truth.present, 0]).all() and np.isfinite(truth.motions[:, 1]).all()
    # Swapping the frames of two particles' legs alone swaps their legs: parts are where their own motion is.
    with np.load(model) as file:
        xyz, arm, leg = file["xyz"], file["arm"], file["leg"]
    from gaussianem_core.simulation.ground_truth import point_positions

    placed = point_positions(truth, np.arange(COUNT)).numpy() * 64 + truth.offset_angstrom
    np.testing.assert_allclose(placed[:, arm], xyz[truth.frame[:, 0]][:, arm], atol=1e-4)
    np.testing.assert_allclose(placed[:, leg], xyz[truth.frame[:, 1]][:, leg], atol=1e-4)
    rest = ~(arm | leg)
    np.testing.assert_allclose(placed[:, rest], np.broadcast_to(xyz[0][rest], (COUNT, rest.sum(), 3)), atol=1e-4)
    mean = true_volumes(truth, np.arange(COUNT), 32).mean(0)
    np.testing.assert_allclose(mean_volume(truth), mean, atol=float(mean.max()) * 1e-4)


def test_basins(model: Path, tmp_path: Path) -> None:
    _, truth = simulated(tmp_path, model, basins="0.25:0.02:3, 0.75:0.02:1")
    assert truth.motion_names.tolist() == ["arm"]
    near = np.abs(truth.state[:, None] - [0.25, 0.75]) <= 0.13
    assert near.any(1).all() and near[:, 0].mean() == pytest.approx(0.75, abs=0.08)


def test_a_reconstructed_consensus_is_what_a_refinement_leaves(model: Path, tmp_path: Path) -> None:
    given = {"consensus": "reconstructed", "snr": 2.0, "particles": 600}
    maps = {}
    for name, errors in (("exact", {}), ("wrong", {"pose_error": 12.0, "shift_error": 0.8, "junk": 0.2})):
        folder, truth = simulated(tmp_path / name, model, **given, **errors)
        files = ("consensus.mrc", "consensus_half1.mrc", "consensus_half2.mrc")
        whole, *halves = (torch.from_numpy(read_map(folder / file).values) for file in files)
        true = mean_volume(truth) * (2 / 32)
        halves_fsc, true_fsc = fourier_shell_correlation(*halves), fourier_shell_correlation(whole, true)
        maps[name] = halves_fsc, true_fsc
        # The half maps foretell the correlation with the truth where nothing but noise is wrong.
        if name == "exact":
            np.testing.assert_allclose(true_fsc[1:10], fsc_weight(halves_fsc)[1:10], atol=0.12)
            mean = (halves[0] + halves[1]) / 2
            first, second = centred_rfftn(mean, 3), centred_rfftn(true, 3)
            scale = shell_sum((first * second.conj()).real, 32, 3) / shell_sum(second.abs().square(), 32, 3)
            np.testing.assert_allclose(scale[1:12], 1, atol=0.04)  # RELION's scale; the CTF hides shell 0 in noise
            weights = (torch.fft.rfftn(whole).abs() / torch.fft.rfftn(mean).abs())[0, 0, 1:14]
            np.testing.assert_allclose(weights, fsc_weight(halves_fsc)[1:14], atol=0.02)
    assert maps["wrong"][1][5:9].mean() < maps["exact"][1][5:9].mean() - 0.1  # errors cost the fine shells
    assert maps["wrong"][1][1] > 0.9
    with pytest.raises(InputError, match="must not hold results already"):
        simulated(folder, model, **given)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"basins": "0.2:0.1"}, "must list centre:width:share"),
        ({"basins": "1.2:0.1:1"}, "must list centre:width:share"),
        ({"motions": "arm; wing"}, r"motions: must be residues .* mask of the file \(arm, leg\)"),
        ({"motions": "arm; 70-75"}, "share no points"),
        ({"junk": 0.1, "junk_kinds": "ice"}, "must list some of noise, fragment, other"),
        ({"junk": 0.1, "junk_kinds": "other"}, "must be given with the kind other"),
        ({"noise": "pink"}, "white, coloured or a table"),
    ],
)
def test_mistakes_leave_nothing(model: Path, tmp_path: Path, values: dict, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        simulated(tmp_path / "out", model, **values)
    assert not list((tmp_path / "out").glob("*particles*"))


def test_basins_and_endpoints_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="basins must be left out"):
        SimulateOptions(model="m", basins="0.5:0.1:1", states="endpoints")


def test_the_guides_motion_can_be_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "resources/guide/07-could-my-data-show-it.md").read_text()
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    for name, place in (("A", 0.0), ("K", 30.0)):
        chain = gemmi.Chain(name)
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(1, " ")
        for i in range(60):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(place + i / 6, i % 7, i % 5)
            residue.add_atom(atom)
        chain.add_residue(residue)
        structure[0].add_chain(chain)
    structure.make_mmcif_document().write_file(str(tmp_path / "complex.cif"))
    monkeypatch.chdir(tmp_path)
    exec(page.split("```python")[1].split("```")[0], {})
    words = page.split("```\ngaussianem simulate ")[1].split("```")[0].replace("\\\n", " ").split()
    given = dict(zip(words[::2], words[1::2]))
    assert all(word.removeprefix("--") in SimulateOptions.model_fields for word in given)
    small = {"--particles": "30", "--box": "32", "--apix": "6", "--poses": ""}
    options = {name.removeprefix("--"): small.get(name, value) for name, value in given.items()}
    with JobLog(tmp_path / "out", ["simulate"]) as log:
        simulate.run(SimulateOptions(**options, job_dir="out", device="cpu"), log)
    truth = load_truth(tmp_path / "out" / "truth.npz")
    assert truth.motion_names.tolist() == ["arm"] and np.nanmax(truth.motions) > 10
