"""Preprocess: what it writes, the physics of rescaling, and every bad input refused with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from small_data import BOX, COUNT, PIXEL, RESULTS, preprocess, simulate

from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.imaging.pose import load_poses, rotations_from_angles
from gaussianem_core.io.image_stack import ImageStack, StackWriter
from gaussianem_core.io.mrc import read_header, read_map, write_map
from gaussianem_core.io.particle_table import read_particles, write_star
from gaussianem_core.job.events import EVENTS, FAILURE, OPTIONS, SUCCESS, JobLog, read_events
from gaussianem_core.model.configuration import load_configuration
from gaussianem_core.model.gaussians import load_gaussians


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 particles of 32 px at 4 A/px."""
    return simulate(tmp_path_factory.mktemp("source"))


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    """A copy of the particles that a test may spoil."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("particles.star", "particles.mrcs", "consensus.mrc"):
        shutil.copy(source / name, folder / name)
    return folder


def leftovers(out: Path) -> list[str]:
    """Everything in a job directory that only a successful run may leave."""
    if not out.is_dir():
        return []
    told = ".gaussianem_end.json"  # the last word of a job that could write nothing else
    found = (p.name for p in out.iterdir() if p.name != told)
    return [name for name in found if name in RESULTS or name.startswith(".") or name.endswith(".tmp")]


def rewrite(star: Path, column: str, value: Callable[[int, str], str]) -> None:
    """Change one column of the particles of a STAR file."""
    head, _, body = star.read_text().partition("data_particles")
    names = re.findall(r"_(\w+) #", body)
    lines, row = [], 0
    for line in body.splitlines():
        words = line.split()
        if len(words) == len(names):
            words[names.index(column)] = value(row, words[names.index(column)])
            line, row = " ".join(words), row + 1
        lines.append(line)
    assert row == COUNT
    star.write_text(head + "data_particles" + "\n".join(lines) + "\n")


# ---- what is written ---------------------------------------------------------------------------------------------


def test_written_files(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert preprocess(source, out, "--downsample_size", "24", "--downsample_batch", "7") == 0
    assert {p.name for p in out.iterdir()} == {*RESULTS, EVENTS, OPTIONS, SUCCESS}
    configuration = load_configuration(out / "cfg.json")
    pixel = BOX * PIXEL / 24
    assert configuration.box == 24 and configuration.pixel_size_angstrom == pytest.approx(pixel)
    assert configuration.invert_contrast and configuration.window
    assert configuration.scale_min == pytest.approx(2 * 0.5 / 24) and configuration.network["zdim"] == 2

    original = ImageStack.from_file(source / "particles.mrcs").read()
    expected = fourier_crop(torch.from_numpy(original), 24).numpy() * configuration.extra["stack_scale"]
    with mrcfile.open(out / "img_stack.mrcs", header_only=False) as file:
        assert file.data is not None and file.data.dtype == np.float32 and file.is_image_stack()
        assert float(file.voxel_size.x) == pytest.approx(pixel, rel=1e-6)
        np.testing.assert_allclose(file.data, expected, atol=1e-5)
        assert configuration.std == pytest.approx(file.data.std(), rel=1e-5)
    assert configuration.std == pytest.approx(1, abs=1e-3)  # all images were in the sample that sets the scale

    table = read_particles(source / "particles.star")
    rotations, shifts = load_poses(out / "poses.npy")
    np.testing.assert_allclose(rotations, rotations_from_angles(table.angles_deg), atol=1e-6)
    np.testing.assert_allclose(shifts, table.shifts_angstrom / pixel, atol=1e-5)
    ctf = np.load(out / "ctf.npy")
    assert ctf.shape == (COUNT, 9) and (ctf[:, 0] == 24).all()
    np.testing.assert_allclose(ctf[:, 1], pixel, rtol=1e-6)
    np.testing.assert_allclose(ctf[:, 2], table.defocus_u_angstrom, rtol=1e-6)
    np.testing.assert_allclose(ctf[:, 5:], [[300, 2.7, 0.1, 0]] * COUNT, rtol=1e-6)
    assert (out / "particles.star").read_bytes() == (source / "particles.star").read_bytes()

    raw, small = read_map(source / "consensus.mrc"), read_map(out / "consensus_map.mrc")
    np.testing.assert_allclose(small.values, fourier_crop(torch.from_numpy(raw.values), 24, dims=3), atol=1e-5)
    assert small.pixel_size_angstrom == pytest.approx(pixel, rel=1e-6)

    gaussians = load_gaussians(out / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    events = read_events(out / EVENTS)[0]
    artifacts = {e["kind"]: e for e in events if e["type"] == "artifact"}
    assert artifacts["preprocessed"]["info"] == {"particles": COUNT, "gaussians": len(gaussians), "box": 24}
    text = " ".join(e["text"] for e in events if e["type"] == "message")
    assert f"gives {len(gaussians):,} Gaussians" in text and "FSC 0.5 at" in text
    assert events[0]["type"] == "start" and events[-1]["status"] == "succeeded"
    done = [e["done"] for e in events if e["type"] == "progress" and e["stage"] == "crop images"]
    assert done[-1] == COUNT and done == sorted(done)


def test_half_precision_and_any_number_of_threads(source: Path, tmp_path: Path) -> None:
    assert preprocess(source, tmp_path / "one", "--threads", "1") == 0
    assert preprocess(source, tmp_path / "three", "--threads", "3", "--downsample_batch", "4") == 0
    assert preprocess(source, tmp_path / "half", "--float16") == 0
    for name in ("img_stack.mrcs", "cfg.json", "point_cloud.ply"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    header = read_header(tmp_path / "half/img_stack.mrcs")
    assert header.dtype == np.float16 and header.shape == (COUNT, BOX, BOX)
    half, full = (ImageStack.from_file(tmp_path / name / "img_stack.mrcs").read() for name in ("half", "one"))
    np.testing.assert_array_equal(half, full.astype(np.float16))
    np.testing.assert_array_equal(np.load(tmp_path / "half/poses.npy"), np.load(tmp_path / "one/poses.npy"))


PEAK_MEMORY = """
import resource, sys
from gaussianem_core import cli
from gaussianem_core.commands import preprocess
preprocess.BLOCK_BYTES = 1 << 20
assert cli.main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_particles(source: Path, tmp_path: Path) -> None:
    """Ten times the images, 142 MB more of them; the same stack serves all rows."""
    head, _, body = (source / "particles.star").read_text().partition("000001@")
    peaks = []
    for times in (96, 960):
        folder = tmp_path / str(times)
        folder.mkdir()
        (folder / "particles.star").write_text(head + ("000001@" + body.rstrip() + "\n") * times)
        given = [
            "preprocess",
            "-s",
            str(folder),
            "--star_file",
            "particles.star",
            "--data_dir",
            str(source),
            "--consensus_map",
            str(source / "consensus.mrc"),
            "--epoch",
            "0",
            "--device",
            "cpu",
        ]
        done = subprocess.run([sys.executable, "-c", PEAK_MEMORY, *given], capture_output=True, text=True, check=True)
        assert read_header(folder / "preprocess" / "img_stack.mrcs").shape[0] == COUNT * times
        peaks.append(int(done.stdout.split()[-1]) * 1024)
        shutil.rmtree(folder / "preprocess")
    # What grows: the table, poses and CTF, some 200 bytes a row, and their copies.
    assert peaks[1] - peaks[0] < 60e6


def test_rows_keep_their_order_over_stacks(source: Path, tmp_path: Path) -> None:
    """Particles of two stacks, in mixed order and one of them twice: row i of every file is row i of the STAR file."""
    images = ImageStack.from_file(source / "particles.mrcs").read()
    places = [(row % 2, row // 2) for row in range(COUNT)]
    for half in (0, 1):
        with StackWriter(tmp_path / f"s{half}.mrcs", COUNT // 2, BOX, PIXEL) as writer:
            writer.append(images[half::2])
    shutil.copy(source / "consensus.mrc", tmp_path)
    shutil.copy(source / "particles.star", tmp_path)
    order = np.random.default_rng(0).permutation(COUNT)
    order[-1] = order[0]
    table = read_particles(source / "particles.star", find_stacks=False)
    star = {
        name: [f"{v:.6f}" for v in values[order]]
        for name, values in {
            "rlnAngleRot": table.angles_deg[:, 0],
            "rlnAngleTilt": table.angles_deg[:, 1],
            "rlnAnglePsi": table.angles_deg[:, 2],
            "rlnOriginXAngst": table.shifts_angstrom[:, 0],
            "rlnOriginYAngst": table.shifts_angstrom[:, 1],
            "rlnDefocusU": table.defocus_u_angstrom,
            "rlnDefocusV": table.defocus_v_angstrom,
            "rlnDefocusAngle": table.defocus_angle_deg,
        }.items()
    }
    names = [f"{places[i][1] + 1:06d}@s{places[i][0]}.mrcs" for i in order]
    constant = {
        "rlnVoltage": [300] * COUNT,
        "rlnSphericalAberration": [2.7] * COUNT,
        "rlnAmplitudeContrast": [0.1] * COUNT,
        "rlnImagePixelSize": [PIXEL] * COUNT,
    }
    write_star(tmp_path / "mixed.star", {"particles": {"rlnImageName": names, **star, **constant}})
    assert preprocess(tmp_path, tmp_path / "out", "--star_file", "mixed.star", "--downsample_batch", "3") == 0
    scale = load_configuration(tmp_path / "out/cfg.json").extra["stack_scale"]
    written = ImageStack.from_file(tmp_path / "out/img_stack.mrcs").read()
    np.testing.assert_allclose(written, images[order] * scale, rtol=1e-6)
    rotations = load_poses(tmp_path / "out/poses.npy")[0]
    np.testing.assert_allclose(rotations, rotations_from_angles(table.angles_deg)[order], atol=1e-6)


def write_point_groups(folder: Path, groups: list[tuple[int, float, int]]) -> np.ndarray:  # -> (N, 2) Angstrom
    """Images (box, A/px, count a group) of one wide point off centre without CTF, its map, and where it appears."""
    generator = np.random.default_rng(3)
    count = sum(n for _, _, n in groups)
    angles = generator.uniform(0, 180, (count, 3))
    shifts = generator.normal(0, 5, (count, 2))
    place = np.array([22.0, -14.0, 9.0])
    seen = (rotations_from_angles(angles) @ place)[:, :2] - shifts
    sigma, row = 9.0, 0
    names, group_of = [], []
    for number, (box, pixel, n) in enumerate(groups, start=1):
        axis = (np.arange(box) - box // 2) * pixel
        spots = [np.exp(-((axis - seen[row : row + n, i, None]) ** 2) / (2 * sigma**2)) for i in (0, 1)]
        with StackWriter(folder / f"group{number}.mrcs", n, box, pixel) as writer:
            writer.append(np.einsum("ny,nx->nyx", spots[1], spots[0]).astype(np.float32))
        names += [f"{i + 1:06d}@group{number}.mrcs" for i in range(n)]
        group_of += [number] * n
        row += n
    box, pixel, _ = groups[0]
    axis = (np.arange(box) - box // 2) * pixel
    x, y, z = (np.exp(-((axis - p) ** 2) / (2 * sigma**2)) for p in place)
    write_map(folder / "consensus.mrc", np.einsum("z,y,x->zyx", z, y, x).astype(np.float32), pixel)
    several = len(groups)
    optics = {
        "rlnOpticsGroup": list(range(1, several + 1)),
        "rlnOpticsGroupName": [f"o{i}" for i in range(several)],
        "rlnVoltage": [300.0] * several,
        "rlnSphericalAberration": [0.0] * several,
        "rlnAmplitudeContrast": [1.0] * several,
        "rlnImagePixelSize": [g[1] for g in groups],
        "rlnImageSize": [g[0] for g in groups],
        "rlnImageDimensionality": [2] * several,
    }
    zero = [0.0] * count
    particles = {
        "rlnImageName": names,
        "rlnOpticsGroup": group_of,
        "rlnAngleRot": angles[:, 0],
        "rlnAngleTilt": angles[:, 1],
        "rlnAnglePsi": angles[:, 2],
        "rlnOriginXAngst": shifts[:, 0],
        "rlnOriginYAngst": shifts[:, 1],
        "rlnDefocusU": zero,
        "rlnDefocusV": zero,
        "rlnDefocusAngle": zero,
    }
    write_star(folder / "particles.star", {"optics": optics, "particles": particles})
    return seen


def test_optics_groups_come_to_one_pixel_size(tmp_path: Path) -> None:
    # 144 A and 4.5 A/px after cropping; the second group has another sampling of that length, the third a smaller
    # box that must be padded, the fourth a larger one that must be cut.
    groups = [(48, 3.0, 12), (36, 4.0, 8), (40, 3.3, 8), (64, 2.5, 8)]
    seen = write_point_groups(tmp_path, groups)
    assert preprocess(tmp_path, tmp_path / "out", "--downsample_size", "32", "--map_thres", "0.3") == 0
    written = ImageStack.from_file(tmp_path / "out/img_stack.mrcs")
    assert written.box_size[0] == 32 and written.pixel_size_angstrom[0] == pytest.approx(4.5)
    ctf = np.load(tmp_path / "out/ctf.npy")
    images = written.read().astype(np.float64)
    images /= load_configuration(tmp_path / "out/cfg.json").extra["stack_scale"]
    assert set(ctf[:, 0]) == {32.0}
    np.testing.assert_allclose(ctf[:, 1], 4.5, rtol=5e-4)
    shifts = load_poses(tmp_path / "out/poses.npy")[1]
    table = read_particles(tmp_path / "particles.star")
    np.testing.assert_allclose(shifts * 4.5, table.shifts_angstrom, atol=1e-4)
    # Each image is the point again, sampled at the pixel size that ctf.npy gives for it. 2 % of the peak: the mean
    # that pads the third group's border is not quite the point's own tail.
    axis = np.arange(32) - 16
    for image, place, pixel in zip(images, seen, ctf[:, 1]):
        x, y = (np.exp(-((axis * pixel - p) ** 2) / (2 * 9.0**2)) for p in place)
        np.testing.assert_allclose(image, np.outer(y, x), atol=0.02)


def test_optics_groups_that_cannot_meet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_point_groups(tmp_path, [(48, 3.0, 12), (36, 4.0, 8)])
    assert preprocess(tmp_path, tmp_path / "out", "--downsample_size", "48") == 2
    assert "must be rescalable to 3 A/px in a box of 48 (got 36 px at 4 A/px)" in capsys.readouterr().err
    assert leftovers(tmp_path / "out") == []


def test_cryosparc_input(source: Path, tmp_path: Path) -> None:
    """The same particles as a .cs file with a passthrough file in another order: the same poses, CTF and images."""
    table = read_particles(source / "particles.star")
    n = len(table)
    uid = np.random.default_rng(0).permutation(10_000)[:n].astype(np.uint64)
    matrices = rotations_from_angles(table.angles_deg).transpose(0, 2, 1)
    particles = np.zeros(
        n,
        [
            ("uid", "u8"),
            ("blob/path", "S64"),
            ("blob/idx", "u4"),
            ("blob/shape", "u4", (2,)),
            ("blob/psize_A", "f4"),
            ("blob/sign", "f4"),
            ("alignments3D/pose", "f4", (3,)),
            ("alignments3D/shift", "f4", (2,)),
            ("alignments3D/psize_A", "f4"),
            ("alignments3D/split", "u4"),
        ],
    )
    particles["uid"], particles["blob/path"] = uid, b">particles.mrcs"
    particles["blob/idx"], particles["blob/shape"], particles["blob/psize_A"] = np.arange(n), BOX, PIXEL
    particles["blob/sign"] = -1
    particles["alignments3D/pose"] = Rotation.from_matrix(matrices).as_rotvec()
    particles["alignments3D/shift"] = table.shifts_angstrom / 2.0
    particles["alignments3D/psize_A"] = 2.0
    passed = np.zeros(
        n,
        [
            ("uid", "u8"),
            ("ctf/df1_A", "f4"),
            ("ctf/df2_A", "f4"),
            ("ctf/df_angle_rad", "f4"),
            ("ctf/accel_kv", "f4"),
            ("ctf/cs_mm", "f4"),
            ("ctf/amp_contrast", "f4"),
            ("ctf/phase_shift_rad", "f4"),
        ],
    )
    passed["uid"], passed["ctf/df1_A"], passed["ctf/df2_A"] = uid, table.defocus_u_angstrom, table.defocus_v_angstrom
    passed["ctf/df_angle_rad"] = np.radians(table.defocus_angle_deg)
    passed["ctf/accel_kv"], passed["ctf/cs_mm"], passed["ctf/amp_contrast"] = 300, 2.7, 0.1
    for name, array in (("particles.cs", particles), ("passed.cs", passed[np.random.default_rng(1).permutation(n)])):
        with open(tmp_path / name, "wb") as file:
            np.save(file, array)
    arguments = ["--star_file", str(tmp_path / "particles.cs"), "--passthrough", str(tmp_path / "passed.cs")]
    # blob/sign -1: the protein is dark, says cryoSPARC's sign; the images show that it is white.
    assert preprocess(source, tmp_path / "cs", *arguments) == 0
    assert preprocess(source, tmp_path / "star") == 0
    np.testing.assert_allclose(np.load(tmp_path / "cs/poses.npy"), np.load(tmp_path / "star/poses.npy"), atol=2e-5)
    np.testing.assert_allclose(np.load(tmp_path / "cs/ctf.npy"), np.load(tmp_path / "star/ctf.npy"), rtol=1e-5)
    assert (tmp_path / "cs/img_stack.mrcs").read_bytes() == (tmp_path / "star/img_stack.mrcs").read_bytes()
    again = read_particles(tmp_path / "cs/particles.star", source)
    np.testing.assert_allclose(again.shifts_angstrom, table.shifts_angstrom, atol=1e-4)
    assert again.image_index.tolist() == list(range(n))


def test_real_cryosparc_and_relion_files(shared_data: Path, tmp_path: Path) -> None:
    """Files from the wild, read as far as their images allow: they are refused for what they lack, by name."""
    from gaussianem_core.commands.preprocess import read_table
    from gaussianem_core.errors import InputError
    from gaussianem_core.options import PreprocessOptions

    star = shared_data / "star"
    given = {"consensus_map": "m.mrc", "data_dir": str(star)}
    log = JobLog(tmp_path, ["preprocess"], "0")
    with pytest.raises(InputError, match="poses"):
        read_table(PreprocessOptions(star_file=str(star / "empiar_10076_7.cs"), **given), log)
    table, _ = read_table(PreprocessOptions(star_file=str(star / "relion31.star"), **given), log)
    images = ImageStack.from_table(table)
    assert len(table) == len(images) == 5 and images.read().shape == (5, 256, 256)


@pytest.mark.parametrize(
    ("origin", "start", "expected"),
    [
        ((0, 0, 0), (-16, -8, 4), [-64, -32, 16]),
        ((12.5, -3, 1), (0, 0, 0), [12.5, -3, 1]),
        ((-64, -32, 16), (-16, -8, 4), [-64, -32, 16]),
        ((0, 0, 0), (0, 0, 0), [0, 0, 0]),
    ],
)
def test_volumes_will_lie_on_the_consensus_map(
    copy: Path, origin: tuple[float, ...], start: tuple[int, ...], expected: list[float]
) -> None:
    values = read_map(copy / "consensus.mrc").values
    write_map(copy / "consensus.mrc", values, PIXEL, origin, start)  # type: ignore[arg-type]
    assert preprocess(copy, copy / "out") == 0
    assert load_configuration(copy / "out/cfg.json").extra["origin_angstrom"] == pytest.approx(expected)


# ---- bad input ---------------------------------------------------------------------------------------------------


def drop_column(star: Path, *names: str) -> None:
    rewritten = star.read_text()
    for name in names:
        rewritten = rewritten.replace(f"_{name} ", f"_other{name} ")
    star.write_text(rewritten)


def spoil_image(folder: Path) -> None:
    with open(folder / "particles.mrcs", "r+b") as file:
        file.seek(1024 + 4 * (BOX * BOX * 30 + 77))
        file.write(np.float32("nan").tobytes())


def truncate(folder: Path) -> None:
    with open(folder / "particles.mrcs", "r+b") as file:
        file.truncate(1024 + 4 * BOX * BOX * COUNT - 100)


def odd_boxes(folder: Path) -> None:
    images = ImageStack.from_file(folder / "particles.mrcs").read()
    with StackWriter(folder / "particles.mrcs", COUNT, BOX - 1, PIXEL) as writer:
        writer.append(images[:, 1:, 1:])
    text = (folder / "particles.star").read_text()
    (folder / "particles.star").write_text(re.sub(r" 32 2 0\n", " 31 2 0\n", text))


def other_map(folder: Path, box: int, pixel: float) -> None:
    values = torch.from_numpy(read_map(folder / "consensus.mrc").values)
    write_map(folder / "consensus.mrc", fourier_crop(values, box, 3).numpy(), pixel)


def noise_map(folder: Path) -> None:
    values = np.random.default_rng(0).normal(size=(BOX, BOX, BOX)).astype(np.float32)
    write_map(folder / "consensus.mrc", values, PIXEL)


STAR = "particles.star"
BAD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no star file": (lambda f: (f / STAR).unlink(), [], "option star_file: must name something that exists"),
    "no stack": (lambda f: (f / "particles.mrcs").unlink(), [], "must name stacks that exist.*--data_dir"),
    "truncated stack": (truncate, [], r"particles.mrcs: must be 164,864 bytes long.*got 164,764 bytes"),
    "index beyond the stack": (
        lambda f: rewrite(f / STAR, "rlnImageName", lambda r, v: v.replace("000040@", "000041@")),
        [],
        "image number: must not exceed the 40 images",
    ),
    "no poses": (lambda f: drop_column(f / STAR, "rlnAngleRot"), [], "rlnAngleRot"),
    "no CTF": (lambda f: drop_column(f / STAR, "rlnDefocusU", "rlnDefocusV"), [], "rlnDefocusU"),
    "NaN defocus": (
        lambda f: rewrite(f / STAR, "rlnDefocusU", lambda r, v: "nan" if r == 4 else v),
        [],
        "defocus_u_angstrom: must be a finite number.*row 5|row 5",
    ),
    "NaN in an image": (spoil_image, [], r"must hold finite values \(got NaN or infinite pixels in row 31"),
    "odd box": (odd_boxes, ["--consensus_map", "consensus.mrc"], "must have an even box"),
    "larger than the box": (lambda f: None, ["--downsample_size", "64"], "must not exceed the images' box, 32"),
    "contour level not a number": (lambda f: None, ["--map_thres", "nan"], "must be a number or auto"),
    "sizes against each other": (
        lambda f: None,
        ["--size", "32", "--downsample_size", "48"],
        r"must not exceed size, 32 \(got 48\)",
    ),
    "empty map": (
        lambda f: write_map(f / "consensus.mrc", np.zeros((BOX,) * 3, np.float32), PIXEL),
        [],
        r"consensus_map: must hold density \(got values from 0 to 0\)",
    ),
    "odd downsample size": (lambda f: None, ["--downsample_size", "25"], "must be even"),
    "another size": (lambda f: None, ["--size", "64"], "--size: must be the images' box, 32"),
    "another pixel size": (lambda f: None, ["--apix", "3.5"], "must agree with the 3.5 A/px given"),
    "map of another box": (
        lambda f: other_map(f, 24, PIXEL),
        [],
        r"must span the images' 32 x 4 A = 128.0 A \(got 24 x 4 A\)",
    ),
    "map of another pixel size": (lambda f: other_map(f, 32, 3.0), [], r"got 32 x 3 A"),
    "no map": (lambda f: (f / "consensus.mrc").unlink(), [], "option consensus_map"),
    "level too high": (lambda f: None, ["--map_thres", "1e9"], "no Gaussians.*Give a level from"),
    "level too low": (
        lambda f: None,
        ["--map_thres", "-1e9", "--max_gaussians", "500"],
        r"0.00th percentile: \d+ Gaussians, over the cap of 500.*Give a level from",
    ),
    "level no number": (lambda f: None, ["--map_thres", "high"], "must be a number or auto"),
    "map of nothing": (noise_map, ["--map_thres", "3"], "consensus_map: must show in the images"),
    "scales": (lambda f: None, ["--scale_min", "2"], "scale_max: must exceed scale_min"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(copy: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    spoil, arguments, message = BAD[what]
    spoil(copy)
    assert preprocess(copy, copy / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert leftovers(copy / "out") == []
    if (copy / "out").exists():  # the job had begun
        assert (copy / "out" / FAILURE).exists() and not (copy / "out" / SUCCESS).exists()
        end = read_events(copy / "out" / EVENTS)[0][-1]
        assert end["status"] == "failed" and end["reason"] in error


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("said", [False, True])
def test_images_tell_their_contrast(copy: Path, capsys: pytest.CaptureFixture[str], dark: bool, said: bool) -> None:
    """Whatever the option says, the sign of the images is taken as they show it, and a contradiction is said."""
    images = ImageStack.from_file(copy / "particles.mrcs").read()
    with StackWriter(copy / "particles.mrcs", COUNT, BOX, PIXEL) as writer:
        writer.append(-images if dark else images)
    assert preprocess(copy, copy / "out", *(["--no_invert"] if said else [])) == 0
    assert load_configuration(copy / "out/cfg.json").invert_contrast is not dark
    words = f"the protein is {'dark' if dark else 'white'} in the images"
    assert (words in capsys.readouterr().out) is (dark is not said)


def test_levels_that_the_message_offers_work(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for level in ("1e9", "-1e9"):
        assert preprocess(source, tmp_path / "out", "--map_thres", level, "--max_gaussians", "500") == 2
        found = re.search(r"Give a level from (\S+) to (\S+), or auto", capsys.readouterr().err)
        assert found is not None
        for i, usable in enumerate(found.groups()):
            # The border itself may round to one Gaussian too many: a thousandth inside it.
            inside = float(usable) + 1e-3 * (float(found[2]) - float(found[1])) * (1 - 2 * i)
            out = tmp_path / f"{level}_{i}"
            assert preprocess(source, out, f"--map_thres={inside}", "--max_gaussians", "500") == 0
            artifacts = [e for e in read_events(out / EVENTS)[0] if e["type"] == "artifact"]
            assert 0 < artifacts[-1]["info"]["gaussians"] <= 500


def test_cuda_absent(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert preprocess(source, tmp_path / "out", "--device", "cuda") == 1
    assert "no usable CUDA GPU was found" in capsys.readouterr().err
    assert leftovers(tmp_path / "out") == []


def test_unwritable_output(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert preprocess(source, tmp_path / "file" / "out") == 2
    assert "output: must be a writable directory" in capsys.readouterr().err


def snapshot(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (*RESULTS, OPTIONS)}


def test_existing_output_is_kept(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = copy / "out"
    assert preprocess(copy, out) == 0
    before = snapshot(out)
    assert preprocess(copy, out, "--downsample_size", "16") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert snapshot(out) == before and (out / SUCCESS).exists() and not (out / FAILURE).exists()
    # A run that may overwrite and fails half way through the images loses nothing either.
    spoil_image(copy)
    assert preprocess(copy, out, "--downsample_size", "16", "--overwrite") == 2
    assert snapshot(out) == before and not (out / ".preprocess").exists()
    # Results without the mark of success, as after a crash, are not overwritten unasked either.
    (out / SUCCESS).unlink(missing_ok=True)
    assert preprocess(copy, out) == 2
    assert "must not hold results already" in capsys.readouterr().err
    with open(copy / "particles.mrcs", "r+b") as file:
        file.seek(1024 + 4 * (BOX * BOX * 30 + 77))
        file.write(np.float32(0).tobytes())
    assert preprocess(copy, out, "--downsample_size", "16", "--overwrite") == 0
    assert load_configuration(out / "cfg.json").box == 16
    assert json.loads((out / OPTIONS).read_text())["downsample_size"] == 16


@contextlib.contextmanager
def small_disk(folder: Path, settings: str) -> Iterator[Path]:
    """A file system of its own; skips where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", settings, "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        # lazily: a worker that is still ending may hold a file
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_is_seen_ahead(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", "size=100k") as disk:
        assert preprocess(source, disk / "out") == 1
        assert re.search(r"335,872 bytes are needed but only \d\d,\d+ are free", capsys.readouterr().err)
        assert leftovers(disk / "out") == []


def test_full_disk_on_the_way(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Room for so many files: the disk is full at every possible moment in turn. Never a traceback, never a part."""
    codes = []
    for files in range(3, 20):
        with small_disk(tmp_path / f"disk{files}", f"size=10m,nr_inodes={files}") as disk:
            codes.append(preprocess(source, disk / "out"))
            error = capsys.readouterr().err
            if codes[-1] == 0:
                break
            assert "No space left on device" in error or "the disk is full" in error, error
            assert leftovers(disk / "out") == []
    assert codes[-1] == 0 and codes.count(1) >= 4, codes
