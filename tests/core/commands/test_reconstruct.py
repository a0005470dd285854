"""Maps from particle images: against the analytic truth of an independent simulator, and real particles."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gemmi
import mrcfile
import numpy as np
import pytest
import starfile
import torch
from optics_simulator import Optics, beam_tilt, density, draw, lopsided_points, write_dataset
from PIL import Image
from small_data import preprocess, simulate

from gaussianem_core.cli import main
from gaussianem_core.imaging.backprojection import accumulate, empty_sums, solve
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.imaging.symmetry import symmetry_operators
from gaussianem_core.io.corrected_images import CorrectedImages, ctf_parameters
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import read_particles
from gaussianem_core.job.events import EVENTS, read_events
from gaussianem_core.reconstruction import particle_images
from gaussianem_core.reconstruction.particle_images import half_sets

BOX, PIXEL, WIDTH, COUNT = 40, 3.0, 2.8, 500
EVERYONE = np.arange(COUNT)
PLAIN = Optics(pixel=PIXEL, box=BOX)
MATRIX = np.array([[1.04, 0.02], [0.015, 0.965]])
MAGNIFIED = {f"rlnMagMat{i}{j}": [MATRIX[i, j]] for i in (0, 1) for j in (0, 1)}


def reconstruct(star: Path, out: Path, *more: str) -> int:
    words = ["--star_file", str(star), "--job_dir", str(out), "--device", "cpu"]
    return main(["reconstruct", *words, *more])


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text()))


def said(out: Path) -> str:
    return "\n".join(event["text"] for event in read_events(out / EVENTS)[0] if event["type"] == "message")


def unsharpened(out: Path) -> torch.Tensor:
    return torch.from_numpy(read_map(out / "map_unsharpened.mrc").values)


def truth(box: int = BOX, pixel: float = PIXEL) -> torch.Tensor:
    return torch.from_numpy(density(*lopsided_points(), WIDTH, box, pixel).astype(np.float32))


def noise_free(folder: Path, optics: Optics = PLAIN, **more: Any) -> Path:
    write_dataset(folder, [(optics, EVERYONE)], draw(COUNT, origin=2.0), snr=1e12, width=WIDTH, **more)
    return folder / "particles.star"


def nine_tenths(fsc: torch.Tensor) -> torch.Tensor:
    return fsc[1 : int(0.9 * len(fsc)) + 1]


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without noise, white protein, one optics group."""
    return noise_free(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def plain(star: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their reconstruction."""
    out = tmp_path_factory.mktemp("maps")
    assert reconstruct(star, out) == 0
    return out


def test_nothing_is_lost_to_the_reference_in_double_precision(star: Path, plain: Path) -> None:
    table = read_particles(star)
    images = torch.from_numpy(mrcfile.read(star.parent / "group1.mrcs")).double()
    rotations = torch.from_numpy(rotations_from_angles(table.angles_deg))
    shifts = torch.from_numpy(table.shifts_angstrom / PIXEL)
    transfer = -ctf(torch.from_numpy(ctf_parameters(table, table.aberrations, BOX, PIXEL)), BOX).double()
    sums = accumulate(empty_sums(BOX, dtype=torch.float64), images, rotations, shifts, transfer, backend="reference")
    reference, found = solve(sums), unsharpened(plain).double()
    assert nine_tenths(fourier_shell_correlation(found, reference)).min() > 0.999
    # Amplitudes too: shells are not filtered, whatever the FSC.
    assert (found * reference).sum() / reference.square().sum() == pytest.approx(1, abs=0.01)


def test_the_truth_comes_back_with_its_hand_and_place(plain: Path) -> None:
    true, found = truth(), unsharpened(plain)
    fsc = fourier_shell_correlation(found, true)
    # The images end at the box, and with them what the CTF spreads beyond it. Half a pixel aside would leave 0.7.
    assert nine_tenths(fsc)[:-1].min() > 0.999 and nine_tenths(fsc)[-1] > 0.997
    assert fourier_shell_correlation(found.flip(2).roll(1, 2), true)[8:].max() < 0.6
    for name in ("half_map_1.mrc", "half_map_2.mrc", "map.mrc", "map_local.mrc"):
        volume = read_map(plain / name)
        assert volume.pixel_size_angstrom == pytest.approx(PIXEL)
        assert fourier_shell_correlation(torch.from_numpy(volume.values), true)[1:13].min() > 0.99
    assert results(plain)["at_nyquist"] and "up to Nyquist" in said(plain)


@pytest.mark.parametrize(
    ("what", "optics", "columns"),
    [
        ("anisotropic magnification", Optics(pixel=PIXEL, box=BOX, magnification=MATRIX), MAGNIFIED),
        (
            "beam tilt",
            Optics(pixel=PIXEL, box=BOX, odd=beam_tilt(6, -4)),
            {"rlnBeamTiltX": [6.0], "rlnBeamTiltY": [-4.0]},
        ),
        ("odd box", Optics(pixel=PIXEL, box=BOX + 1), {}),
        ("phase-flipped", Optics(pixel=PIXEL, box=BOX, state="flipped"), {"rlnCtfDataArePhaseFlipped": [1]}),
        ("premultiplied", Optics(pixel=PIXEL, box=BOX, state="premultiplied"), {"rlnCtfDataAreCtfPremultiplied": [1]}),
    ],
)
def test_images_of_every_kind(tmp_path: Path, what: str, optics: Optics, columns: dict[str, list[object]]) -> None:
    star = noise_free(tmp_path, optics, optics_columns=columns)
    assert reconstruct(star, tmp_path / "out", "--no_local") == 0
    fsc = fourier_shell_correlation(unsharpened(tmp_path / "out"), truth())
    assert nine_tenths(fsc).min() > 0.99, what
    if what in ("anisotropic magnification", "beam tilt"):  # ignored, they would cost what is not lost above
        star = noise_free(tmp_path / "ignored", optics)
        assert reconstruct(star, tmp_path / "without", "--no_local") == 0
        assert nine_tenths(fourier_shell_correlation(unsharpened(tmp_path / "without"), truth())).min() < 0.97


def test_optics_groups_of_other_boxes_and_pixel_sizes(tmp_path: Path) -> None:
    fine = Optics(pixel=2.4, box=50)
    halves = [(PLAIN, EVERYONE[::2]), (fine, EVERYONE[1::2])]
    write_dataset(tmp_path, halves, draw(COUNT, origin=2.0), snr=1e12, width=WIDTH)
    assert reconstruct(tmp_path / "particles.star", tmp_path / "out", "--no_local") == 0
    assert nine_tenths(fourier_shell_correlation(unsharpened(tmp_path / "out"), truth())).min() > 0.995


@pytest.mark.parametrize(
    ("more", "box", "pixel"),
    [
        (["--box", "32"], 32, BOX * PIXEL / 32),
        (["--apix", "3.6"], 34, 3.6),
        (["--apix", "3.6", "--box", "30"], 30, 3.6),
        (["--apix", "3.6", "--box", "38"], 38, 3.6),
    ],
)
def test_box_and_pixel_size_as_asked_for(star: Path, tmp_path: Path, more: list[str], box: int, pixel: float) -> None:
    assert reconstruct(star, tmp_path / "out", "--no_local", *more) == 0
    volume = read_map(tmp_path / "out" / "map_unsharpened.mrc")
    assert volume.values.shape == (box,) * 3 and volume.pixel_size_angstrom == pytest.approx(pixel, rel=1e-4)
    fsc = fourier_shell_correlation(torch.from_numpy(volume.values), truth(box, pixel))
    assert nine_tenths(fsc).min() > 0.98


def test_a_finer_sampling_than_the_images_is_refused(
    star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconstruct(star, tmp_path / "a", "--apix", "1.2") == 2
    assert reconstruct(star, tmp_path / "b", "--box", "64") == 2
    told = capsys.readouterr().err
    assert "--apix: must not be finer than the images' 3 A (got 1.2)" in told
    assert "--box: must not exceed 40" in told


@pytest.mark.parametrize("symmetry", ["C3", "D2", "T", "O"])
def test_symmetry(tmp_path: Path, symmetry: str) -> None:
    # An asymmetric unit of 40 points; images of 60 views, of which each stands for all its mates.
    operators = symmetry_operators(symmetry)
    unit = np.random.default_rng(5).normal(size=(40, 3)) * 5 + [14, 9, 16]
    points = np.concatenate([unit @ operator for operator in operators])
    weights = np.tile(np.random.default_rng(6).uniform(1, 2, 40), len(operators))
    rows = np.arange(120)
    write_dataset(
        tmp_path,
        [(PLAIN, rows)],
        draw(120, origin=2.0),
        snr=1e12,
        width=WIDTH,
        points=(points, weights),
    )
    assert reconstruct(tmp_path / "particles.star", tmp_path / "out", "--no_local", "--symmetry", symmetry) == 0
    true = torch.from_numpy(density(points, weights, WIDTH, BOX, PIXEL).astype(np.float32))
    assert nine_tenths(fourier_shell_correlation(unsharpened(tmp_path / "out"), true)).min() > 0.99
    assert results(tmp_path / "out")["symmetry"] == symmetry


def test_a_split_that_is_drawn_is_written_down_and_can_be_given_back(star: Path, plain: Path, tmp_path: Path) -> None:
    drawn = starfile.read(plain / "half_sets.star")["particles"]
    half = drawn["rlnRandomSubset"].to_numpy()
    assert np.bincount(half).tolist() == [0, COUNT // 2, COUNT // 2]
    assert "drawn at random" in said(plain)
    text = (plain / "half_sets.star").read_text()
    (star.parent / "half_sets.star").write_text(text)
    assert reconstruct(star.parent / "half_sets.star", tmp_path / "again") == 0
    for name in ("half_map_1.mrc", "half_map_2.mrc"):
        np.testing.assert_allclose(mrcfile.read(tmp_path / "again" / name), mrcfile.read(plain / name), atol=1e-6)
    assert "as the particle file has them" in said(tmp_path / "again")
    assert not (tmp_path / "again" / "half_sets.star").exists()


def test_each_half_map_is_made_of_its_half_alone(plain: Path, star: Path, tmp_path: Path) -> None:
    half = starfile.read(plain / "half_sets.star")["particles"]["rlnRandomSubset"].to_numpy()
    (star.parent / "halves.star").write_text((plain / "half_sets.star").read_text())
    stack = mrcfile.read(star.parent / "group1.mrcs").copy()
    kept = stack.copy()
    stack[half == 2] = np.random.default_rng(0).normal(0, stack.std(), stack[half == 2].shape)
    try:
        with mrcfile.open(star.parent / "group1.mrcs", "r+") as file:
            file.data[:] = stack
        assert reconstruct(star.parent / "halves.star", tmp_path / "out", "--no_local") == 0
    finally:
        with mrcfile.open(star.parent / "group1.mrcs", "r+") as file:
            file.data[:] = kept
    first, second = (torch.from_numpy(read_map(tmp_path / "out" / f"half_map_{i}.mrc").values) for i in (1, 2))
    assert nine_tenths(fourier_shell_correlation(first, truth()))[:13].min() > 0.9
    assert fourier_shell_correlation(second, truth())[3:].abs().max() < 0.3


def test_a_selection_is_named_by_rows_by_a_mask_by_ranges_or_by_a_particle_file(star: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(20, 140))
    mask = np.zeros(COUNT, bool)
    mask[20:140] = True
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "rows.txt").write_text("20-100, 101 102-139  # a part\n")
    table = starfile.read(star)
    table["particles"] = table["particles"].iloc[20:140]
    starfile.write(table, tmp_path / "part.star")
    found = []
    for name in ("rows.npy", "mask.npy", "rows.txt", "part.star"):
        out = tmp_path / name.replace(".", "_")
        assert reconstruct(star, out, "--no_local", "--select", str(tmp_path / name)) == 0
        assert results(out)["particles"]["used"] == 120
        found.append(unsharpened(out))
    assert all(torch.equal(volume, found[0]) for volume in found)
    np.save(tmp_path / "weights.npy", mask * 3.0)
    assert reconstruct(star, tmp_path / "weighted", "--no_local", "--weights", str(tmp_path / "weights.npy")) == 0
    assert results(tmp_path / "weighted")["particles"]["effective"] == pytest.approx(120)
    assert fourier_shell_correlation(unsharpened(tmp_path / "weighted"), found[0])[1:19].min() > 0.9999


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("select", np.array([5, COUNT]), f"must hold row numbers from 0 to {COUNT - 1}"),
        ("select", np.zeros(COUNT, bool), "must hold at least one particle"),
        ("weights", np.ones(COUNT - 1), f"must hold {COUNT} numbers"),
        ("weights", -np.ones(COUNT), "must be finite and not negative"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(
    star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: np.ndarray, told: str
) -> None:
    np.save(tmp_path / "given.npy", content)
    assert reconstruct(star, tmp_path / "out", f"--{name}", str(tmp_path / "given.npy")) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "map.mrc").exists()


def test_prepared_particles_go_by_their_original_images(tmp_path: Path) -> None:
    simulate(tmp_path / "sim", particles=120, box=32, snr=2.0)
    stack = tmp_path / "sim" / "particles.mrcs"
    with mrcfile.open(stack, "r+") as file:
        file.data[:] = -file.data  # dark protein, which preprocess finds out
    assert preprocess(tmp_path / "sim", tmp_path / "pre", "--downsample_size", "20") == 0
    base = ["reconstruct", "--device", "cpu", "--no_local"]
    assert main([*base, "-s", str(tmp_path / "pre"), "--job_dir", str(tmp_path / "prepared")]) == 0
    assert reconstruct(tmp_path / "sim" / "particles.star", tmp_path / "given", "--no_local", "--no_invert") == 0
    assert torch.equal(unsharpened(tmp_path / "prepared"), unsharpened(tmp_path / "given"))
    volume = read_map(tmp_path / "prepared" / "map.mrc")
    assert volume.values.shape == (32,) * 3
    consensus = torch.from_numpy(read_map(tmp_path / "sim" / "consensus.mrc").values)
    assert fourier_shell_correlation(unsharpened(tmp_path / "prepared"), consensus)[1:5].min() > 0.8


def test_corrected_poses_take_the_place_of_the_files(star: Path, plain: Path, tmp_path: Path) -> None:
    table = starfile.read(star)
    wrong = {**table, "particles": table["particles"].copy()}
    wrong["particles"]["rlnAngleRot"] += 40.0
    starfile.write(wrong, star.parent / "wrong.star")
    assert reconstruct(star.parent / "wrong.star", tmp_path / "wrong", "--no_local") == 0
    assert reconstruct(star.parent / "wrong.star", tmp_path / "right", "--no_local", "--poses", str(star)) == 0
    assert fourier_shell_correlation(unsharpened(tmp_path / "wrong"), truth())[8:].max() < 0.9
    assert fourier_shell_correlation(unsharpened(tmp_path / "right"), truth())[1:18].min() > 0.999


def test_backgrounds_of_unnormalised_images(tmp_path: Path) -> None:
    write_dataset(tmp_path, [(PLAIN, EVERYONE)], draw(COUNT, origin=2.0), snr=0.3, width=WIDTH)
    assert reconstruct(tmp_path / "particles.star", tmp_path / "normal", "--no_local") == 0
    generator = np.random.default_rng(2)
    with mrcfile.open(tmp_path / "group1.mrcs", "r+") as file:
        gains = np.exp(generator.normal(0, 0.6, (COUNT, 1, 1)))
        file.data[:] = gains * (file.data + 50 * file.data.std() * generator.normal(1, 0.3, (COUNT, 1, 1)))
    assert reconstruct(tmp_path / "particles.star", tmp_path / "raw", "--no_local") == 0
    told = said(tmp_path / "raw")
    assert "each image's own is taken off" in told and "each is scaled" in told
    fsc = fourier_shell_correlation(unsharpened(tmp_path / "raw"), unsharpened(tmp_path / "normal"))
    assert fsc[1:18].min() > 0.99


def test_broken_images_are_left_out_and_said(tmp_path: Path) -> None:
    write_dataset(tmp_path, [(PLAIN, EVERYONE)], draw(COUNT, origin=2.0), snr=0.3, width=WIDTH)
    with mrcfile.open(tmp_path / "group1.mrcs", "r+") as file:
        file.data[7] *= 1e4
        file.data[11] = 0
    assert reconstruct(tmp_path / "particles.star", tmp_path / "out", "--no_local") == 0
    assert results(tmp_path / "out")["particles"]["broken"] == 2
    assert "2 images whose noise is far from the others' are not used" in said(tmp_path / "out")
    assert fourier_shell_correlation(unsharpened(tmp_path / "out"), truth())[1:6].min() > 0.8


def test_a_mask_and_a_b_factor_that_are_given(star: Path, plain: Path, tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "mask.mrc") as file:
        file.set_data(np.ones((BOX,) * 3, np.float32))
    given = ["--mask", str(tmp_path / "mask.mrc"), "--bfactor", "-100", "--no_local"]
    assert reconstruct(star, tmp_path / "out", *given) == 0
    found = results(tmp_path / "out")
    assert not found["mask_made"] and found["bfactor_angstrom2"] == -100
    assert found["fsc"]["masked"] == pytest.approx(found["fsc"]["unmasked"], abs=1e-5)
    with mrcfile.new(tmp_path / "other.mrc") as file:
        file.set_data(np.ones((BOX - 2,) * 3, np.float32))
    assert reconstruct(star, tmp_path / "refused", "--mask", str(tmp_path / "other.mrc")) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_makes_the_same_maps(star: Path, plain: Path, tmp_path: Path) -> None:
    words = ["--star_file", str(star), "--job_dir", str(tmp_path), "--device", "cuda"]
    assert main(["reconstruct", *words]) == 0
    for name in ("half_map_1.mrc", "half_map_2.mrc", "map_unsharpened.mrc", "map.mrc"):
        a, b = (torch.from_numpy(read_map(folder / name).values) for folder in (tmp_path, plain))
        assert fourier_shell_correlation(a, b)[1:18].min() > 0.9999
    assert results(tmp_path)["resolution_angstrom"] == pytest.approx(results(plain)["resolution_angstrom"], rel=1e-2)


def test_memory_is_bounded_by_blocks(star: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many particles there are, no more than the readers' blocks and the one in use are held."""
    table = read_particles(star)
    half, _ = half_sets(table, EVERYONE, 0)
    particles = particle_images.particle_images(table, table.aberrations, half, BOX, PIXEL, True)
    monkeypatch.setattr(particle_images, "BLOCK_IMAGES", 16)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    read, most, seen = CorrectedImages.read_block, 0, []

    def counted(self: CorrectedImages, block: Any) -> torch.Tensor:
        made = read(self, block)
        alive.add(made)
        return made

    monkeypatch.setattr(CorrectedImages, "read_block", counted)
    for rows, _images in particle_images.read_ahead(particles, np.ones(COUNT, bool), lambda done: None):
        most = max(most, len(alive))
        seen.append(rows)
    assert np.array_equal(np.sort(np.concatenate(seen)), EVERYONE) and len(seen) == -(-COUNT // 16)
    assert most <= particle_images.READERS + 2


def test_real_particles(shared_data: Path, tmp_path: Path) -> None:
    """Beta-galactosidase, 1,211 particles with a refinement's own half sets; shells at 8.7 and 7.6 A."""
    at = {}
    for symmetry in ("C1", "D2"):
        out = tmp_path / symmetry
        assert reconstruct(shared_data / "betagal" / "betagal_64.star", out, "--symmetry", symmetry, "--no_local") == 0
        fsc = results(out)["fsc"]
        at[symmetry] = {name: (fsc[name][26], fsc[name][30]) for name in ("unmasked", "corrected")}
    # Measured: corrected 0.60 and 0.42, with D2 0.83 and 0.72; without mask 0.16 and 0.08, with D2 0.41 and 0.22.
    assert at["C1"]["corrected"][0] > 0.55 and at["C1"]["corrected"][1] > 0.37
    assert at["D2"]["corrected"][0] > 0.78 and at["D2"]["corrected"][1] > 0.65
    assert all(at["D2"][name][i] > at["C1"][name][i] for name in ("unmasked", "corrected") for i in (0, 1))


def test_the_folder_for_deposition_reads_back(star: Path, tmp_path: Path) -> None:
    assert reconstruct(star, tmp_path / "out", "--deposit") == 0
    folder, found = tmp_path / "out" / "deposition", results(tmp_path / "out")
    for name in ("map.mrc", "half_map_1.mrc", "half_map_2.mrc", "mask.mrc"):
        assert mrcfile.validate(folder / name)
        with mrcfile.open(folder / name) as file:
            assert file.data.shape == (BOX,) * 3 and file.data.dtype == np.float32 and file.is_volume()
            assert float(file.voxel_size.x) == pytest.approx(PIXEL)
        grid = gemmi.read_ccp4_map(str(folder / name)).grid
        assert (grid.nu, grid.nv, grid.nw) == (BOX,) * 3
        assert grid.unit_cell.a == grid.unit_cell.c == pytest.approx(BOX * PIXEL)
    # Half maps as they came: not masked, no shell taken away.
    with mrcfile.open(folder / "half_map_1.mrc") as file:
        assert np.count_nonzero(file.data) == file.data.size
    document = ElementTree.parse(folder / "fsc.xml").getroot()
    assert document.tag == "fsc" and set(document.attrib) == {"title", "xaxis", "yaxis"}
    assert document.attrib["xaxis"] == "Resolution (A-1)"
    points = [(float(c.findtext("x", "")), float(c.findtext("y", ""))) for c in document.findall("coordinate")]
    assert len(points) == BOX // 2
    assert [x for x, _ in points] == pytest.approx([i / (BOX * PIXEL) for i in range(BOX // 2)], abs=1e-6)
    assert [y for _, y in points[1:]] == pytest.approx(found["fsc"]["corrected"][1:], abs=1e-5)
    with Image.open(folder / "picture.png") as picture:
        assert picture.size == (500, 500)
        shades = np.asarray(picture.convert("L"))
        assert shades[0].min() == 255 and 0.1 < (shades < 250).mean() < 0.9
    text = (folder / "how_it_was_made.txt").read_text()
    assert f"{COUNT} ({COUNT // 2} and {COUNT // 2}" in text and f"{BOX} voxels" in text
