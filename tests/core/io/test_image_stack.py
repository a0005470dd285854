"""Image stacks: every mode and byte order against mrcfile, streaming, damage, and writing that leaves no half file."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gaussianem_core.errors import InputError, ResourceError, ResultError
from gaussianem_core.imaging.window import background_statistics, window_mask
from gaussianem_core.io import image_stack
from gaussianem_core.io.image_stack import ImageStack, StackWriter
from gaussianem_core.io.mrc import new_header, read_header, read_map, write_map
from gaussianem_core.io.particle_table import read_particles
from gaussianem_core.runtime import files


def images_of(n: int, box: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (n, box, box)).astype(np.float32)


def write_stack(path: Path, values: np.ndarray, pixel_size: float = 1.5) -> Path:
    with mrcfile.new(path, values, overwrite=True) as file:
        file.set_image_stack()
        file.voxel_size = pixel_size
    return path


def several_stacks(folder: Path, counts: tuple[int, ...], box: int = 8) -> tuple[ImageStack, np.ndarray]:
    """Stacks and a shuffled list of their images, some of them twice."""
    contents = [images_of(n, box, seed) for seed, n in enumerate(counts)]
    headers = [read_header(write_stack(folder / f"{i}.mrcs", values)) for i, values in enumerate(contents)]
    pairs = [(s, i) for s, n in enumerate(counts) for i in range(n)]
    order = np.random.default_rng(1).permutation([*pairs, *pairs[::3]])
    images = np.stack([contents[s][i] for s, i in order])
    return ImageStack(headers, order[:, 0], order[:, 1], np.full(len(order), 1.5)), images


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint16", "int8"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_modes_and_byte_orders(tmp_path: Path, dtype: str, big_endian: bool) -> None:
    low = 0 if dtype == "uint16" else -100
    values = np.random.default_rng(0).integers(low, 100, (3, 6, 6)).astype(dtype)
    path = write_stack(tmp_path / "a.mrcs", values)
    if big_endian:
        swapped = values.astype(values.dtype.newbyteorder(">"))
        header = np.frombuffer(path.read_bytes()[:1024], mrcfile.dtypes.HEADER_DTYPE)
        header = header.astype(header.dtype.newbyteorder(">"))
        header["machst"] = (0x11, 0x11, 0, 0)
        path.write_bytes(header.tobytes() + swapped.tobytes())
        with mrcfile.open(path) as file:  # the authority agrees that this is such a file
            np.testing.assert_array_equal(file.data, values)
    stack = ImageStack.from_file(path)
    for half in (False, True):
        images = stack.read(half=half)
        assert images.dtype == ("float16" if half and dtype == "float16" else "float32")
        np.testing.assert_array_equal(images, values.astype(np.float32))


def test_imod_unsigned_bytes(tmp_path: Path) -> None:
    values = np.array([[[0, 200], [127, 255]]], np.uint8)
    head = bytearray(new_header((1, 2, 2), np.int8, 1.0, is_stack=True))
    for flags, expected in ((0, values), (1, values.view(np.int8))):
        head[152:160] = np.array([1146047817, flags], "<i4").tobytes()
        (tmp_path / "a.mrcs").write_bytes(bytes(head) + values.tobytes())
        np.testing.assert_array_equal(ImageStack.from_file(tmp_path / "a.mrcs").read(), expected.astype(np.float32))


def test_extended_header_missing_stamp_and_trailing_bytes(tmp_path: Path) -> None:
    values = images_of(4)
    path = tmp_path / "a.mrcs"
    with mrcfile.new(path, values) as file:
        file.set_extended_header(np.frombuffer(b"SERI" * 40, "V160"))
    content = bytearray(path.read_bytes())
    content[208:216] = bytes(8)  # no MAP, no machine stamp
    path.write_bytes(bytes(content) + b"tail")
    header = read_header(path)
    assert header.offset == 1024 + 160 and header.shape == (4, 8, 8)
    np.testing.assert_array_equal(ImageStack.from_file(path).read(), values)


def test_reading_in_any_order(tmp_path: Path) -> None:
    images, truth = several_stacks(tmp_path, (7, 3, 12))
    with images:
        np.testing.assert_array_equal(images.read(), truth)
        for rows in ([5], [3, 3, 0], np.arange(len(truth))[::-1], [], np.arange(len(truth)) % 4 == 1):
            np.testing.assert_array_equal(images.read(rows), truth[np.asarray(rows, int) if len(rows) < 1 else rows])
        np.testing.assert_array_equal(images.read(slice(2, 9, 3)), truth[2:9:3])
        assert images.read([]).shape == (0, 8, 8)
        np.testing.assert_array_equal(images.read(np.array([2, 21], np.uint8)), truth[[2, 21]])
        np.testing.assert_array_equal(images.read([-1, 3]), truth[[-1, 3]])
        for beyond in ([len(truth)], [0, -len(truth) - 1]):
            with pytest.raises(IndexError, match="below 30"):
                images.read(beyond)
        with pytest.raises(TypeError):
            images.read([0.5])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches(tmp_path: Path, workers: int) -> None:
    images, truth = several_stacks(tmp_path, (7, 3, 12))
    rows = np.random.default_rng(2).permutation(len(truth))[:20]
    batches = list(images.iter_batches(6, rows, workers))
    assert [len(part) for part, _ in batches] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), rows)
    np.testing.assert_array_equal(np.concatenate([values for _, values in batches]), truth[rows])


def test_batches_are_read_ahead_but_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = several_stacks(tmp_path, (30,))
    real, seen, enough = images.read, [], threading.Event()

    def counted(rows: object) -> np.ndarray:
        seen.append(rows)
        if len(seen) == 3:
            enough.set()
        return real(rows)

    monkeypatch.setattr(images, "read", counted)
    batches = images.iter_batches(2, workers=2)
    next(batches)
    assert enough.wait(10)  # two more while the first is in use
    batches.close()
    assert len(seen) == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-images")]


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_stack, "_OPEN_FILES", 4)
    images, truth = several_stacks(tmp_path, (2,) * 12)
    before = len(os.listdir("/proc/self/fd"))
    np.testing.assert_array_equal(np.concatenate([v for _, v in images.iter_batches(5, workers=2)]), truth)
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    with images._opened(0) as descriptor:  # a file in use is never closed under its reader
        np.testing.assert_array_equal(images.read(images.stack_index > 0), truth[images.stack_index > 0])
        assert os.fstat(descriptor).st_ino == images.headers[0].path.stat().st_ino
    images.close()
    assert len(os.listdir("/proc/self/fd")) == before
    np.testing.assert_array_equal(images.read([0]), truth[:1])  # opens again


def test_groups_of_box_and_pixel_size(tmp_path: Path) -> None:
    paths = [write_stack(tmp_path / "a.mrcs", images_of(3, 8)), write_stack(tmp_path / "b.mrcs", images_of(2, 12))]
    pixel_size = np.array([1.0, 2.0, 1.0, 1.5, 1.5])
    headers = [read_header(path) for path in paths]
    images = ImageStack(headers, np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1]), pixel_size)
    found = [(g.rows.tolist(), g.box_size, g.pixel_size_angstrom) for g in images.groups()]
    assert sorted(found) == [([0, 2], 8, 1.0), ([1], 8, 2.0), ([3, 4], 12, 1.5)]
    with pytest.raises(InputError, match=r"one box.*\[8, 12\]"):
        images.read([0, 3])


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_nan_images_are_named(tmp_path: Path, dtype: str) -> None:
    values = images_of(6).astype(dtype)
    values[2, 1, 1], values[4, 0, 0], values[0, 3, 3] = np.nan, -np.inf, np.finfo(dtype).max
    (tmp_path / "a.mrcs").write_bytes(new_header(values.shape, dtype, 1.0, is_stack=True) + values.tobytes())
    images = ImageStack.from_file(tmp_path / "a.mrcs")
    for half in (False, True):
        with pytest.raises(InputError, match=r"row 3 \(3@.*a.mrcs\), 5 \(5@"):
            images.read(half=half)
    with pytest.raises(InputError, match="row 5"):
        list(images.iter_batches(2, [0, 1, 4], workers=1))
    huge = np.full((1, 8, 8), 3e38, np.float32)  # finite, though its sum overflows float32
    (tmp_path / "b.mrcs").write_bytes(new_header(huge.shape, "f4", 1.0, is_stack=True) + huge.tobytes())
    np.testing.assert_array_equal(ImageStack.from_file(tmp_path / "b.mrcs").read(), huge)


# ---- damage --------------------------------------------------------------------------------------------------------


def test_truncated_stack_names_bytes(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "a.mrcs", images_of(5))
    whole = path.stat().st_size
    os.truncate(path, whole - 1)
    with pytest.raises(InputError, match=rf"a\.mrcs.*{whole:,} bytes.*{whole - 1:,} bytes"):
        ImageStack.from_file(path)


def test_stack_cut_off_while_reading(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "a.mrcs", images_of(5))
    images = ImageStack.from_file(path)
    os.truncate(path, 1024 + 3 * 256)
    np.testing.assert_array_equal(images.read([2]), images_of(5)[2:3])
    with pytest.raises(InputError, match="cut off while it was read"):
        images.read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "MRC header"),
        (b"\x1f\x8b" + bytes(2000), "compressed"),
        (bytes(2000), "no sensible size"),
        (b"text, not an image " * 100, "no sensible size"),
    ],
)
def test_not_mrc(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mrcs").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(tmp_path / "a.mrcs")


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "absent.mrcs")
    with mrcfile.new(tmp_path / "complex.mrc", np.zeros((2, 4, 4), np.complex64)):
        pass
    with pytest.raises(InputError, match="mode 4"):
        read_header(tmp_path / "complex.mrc")
    with pytest.raises(InputError, match=r"square.*6 x 4"):
        ImageStack.from_file(write_stack(tmp_path / "flat.mrcs", np.zeros((2, 4, 6), np.float32)))
    header = read_header(write_stack(tmp_path / "a.mrcs", images_of(3)))
    with pytest.raises(InputError, match=r"row 2.*3 images.*image 4"):
        ImageStack([header], np.zeros(2, int), np.array([0, 3]), np.ones(2))


# ---- the real stacks -----------------------------------------------------------------------------------------------


def test_real_stacks(shared_data: Path) -> None:
    folder = shared_data / "empiar10076_two_state"
    table = read_particles(folder / "10076_both_32_sim.star", data_dir=folder)
    with ImageStack.from_table(table) as images:
        rows = np.random.default_rng(0).permutation(len(images))[:50]
        truth = [np.fromfile(path, "<f4", offset=1024).reshape(-1, 32, 32) for path in table.stacks]
        expected = np.stack([truth[table.stack_index[row]][table.image_index[row]] for row in rows])
        np.testing.assert_array_equal(images.read(rows), expected)
    mrc = read_header(shared_data / "star/empiar_10076_7.mrc")
    assert mrc.shape == (7, 320, 320) and np.isnan(mrc.pixel_size_angstrom).all()
    toy = ImageStack.from_file(shared_data / "star/toy_datadir/toy_images_b.mrcs")
    assert len(toy) == 900 and set(toy.box_size) == {30}
    np.testing.assert_array_equal(toy.read([899]), mrcfile.read(toy.headers[0].path)[899:])


# ---- windows and statistics ----------------------------------------------------------------------------------------


def test_window() -> None:
    window = window_mask(64)
    assert window.shape == (64, 64) and window.dtype == np.float32
    radius = np.hypot(*np.meshgrid((np.arange(64) - 32) / 32, (np.arange(64) - 32) / 32))
    np.testing.assert_array_equal(window[radius < 0.85], 1)
    np.testing.assert_array_equal(window[radius > 0.99], 0)
    assert window[32, 32 + 30] == pytest.approx((0.99 - 30 / 32) / 0.14, rel=1e-5)  # linear in the radius
    cosine = window_mask(64, edge="cosine")
    assert cosine[32, 62] == pytest.approx(0.5 + 0.5 * np.cos(np.pi * (30 / 32 - 0.85) / 0.14), rel=1e-5)
    np.testing.assert_array_equal(window[1:, 1:], window[1:, 1:][::-1, ::-1])  # centred on D // 2
    with pytest.raises(InputError, match="0 < inner < outer"):
        window_mask(64, inner=1.0, outer=0.5)


def test_background() -> None:
    images = np.random.default_rng(0).normal(5, 3, (4, 64, 64))
    images[:, 20:45, 20:45] += 1000  # the particle
    mean, std = background_statistics(images)
    np.testing.assert_allclose(mean, 5, atol=0.4)  # 1,750 pixels: standard error 0.07
    np.testing.assert_allclose(std, 3, atol=0.3)


# ---- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("float16", [False, True])
def test_written_stack_read_by_mrcfile(tmp_path: Path, float16: bool) -> None:
    values = images_of(11, 6)
    path = tmp_path / "out.mrcs"
    with StackWriter(path, 11, 6, 1.37, float16=float16) as writer:
        writer.append(values[:4])
        assert not path.exists()
        writer.write([10, 5, 6], values[[10, 5, 6]])
        writer.append(values[4:5])
        writer.write([7, 8, 9], values[7:10])
    assert path.stat().st_size == writer.n_bytes and list(tmp_path.iterdir()) == [path]
    expected = values.astype(np.float16 if float16 else np.float32)
    with mrcfile.open(path) as file:  # strict
        np.testing.assert_array_equal(file.data, expected)
        assert file.is_image_stack() and file.header.ispg == 0
        assert float(file.voxel_size.x) == pytest.approx(1.37) == float(file.voxel_size.z)
        wide = expected.astype(float)
        assert float(file.header.dmin) == wide.min() and float(file.header.dmax) == wide.max()
        assert float(file.header.dmean) == pytest.approx(wide.mean())
        assert float(file.header.rms) == pytest.approx(wide.std())
    np.testing.assert_array_equal(ImageStack.from_file(path).read(), expected.astype(np.float32))
    assert ImageStack.from_file(path).pixel_size_angstrom[0] == pytest.approx(1.37)


@pytest.mark.parametrize("float16", [False, True])
def test_parts_in_any_order_give_one_file(tmp_path: Path, float16: bool) -> None:
    """Header too: mean and deviation are summed in the order of the images, not in that of the parts."""
    values = images_of(40, 6) * np.geomspace(1e-3, 1e3, 40, dtype=np.float32)[:, None, None]
    generator = np.random.default_rng(0)
    with StackWriter(tmp_path / "whole.mrcs", 40, 6, 1.37, float16=float16) as whole:
        whole.append(values)
    with StackWriter(tmp_path / "parts.mrcs", 40, 6, 1.37, float16=float16) as parts:
        for rows in np.array_split(generator.permutation(40), 7):
            parts.write(rows, values[rows].astype(parts.dtype))  # in the file's precision already
    assert parts.std == whole.std
    assert (tmp_path / "parts.mrcs").read_bytes() == (tmp_path / "whole.mrcs").read_bytes()


def test_written_stack_is_valid_mrc2014(tmp_path: Path) -> None:
    with StackWriter(tmp_path / "out.mrcs", 3, 6, 1.37) as writer:
        writer.append(images_of(3, 6))
    assert mrcfile.validate(tmp_path / "out.mrcs")


def test_writer_refusals_leave_nothing(tmp_path: Path) -> None:
    values = images_of(3)
    for action, message in (
        (lambda w: w.append(values[:2]), "must receive 3 images.*1 missing"),
        (lambda w: w.append(images_of(3, 6)), r"must be \(3, 8, 8\)"),
        (lambda w: w.append(np.concatenate([values, values])), "free places"),
        (lambda w: (w.write([1], values[:1]), w.write([1], values[:1])), "free places"),
        (lambda w: w.append(values * np.nan), "finite in 16 bits"),
        (lambda w: w.append(values * 1e5), "without --float16"),
    ):
        with pytest.raises(InputError, match=message), StackWriter(tmp_path / "out.mrcs", 3, 8, 1.0, True) as writer:
            action(writer)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="must be writable"):
        StackWriter(tmp_path / "absent/out.mrcs", 3, 8, 1.0)


def test_full_disk_is_seen_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(ResourceError, match=r"26,624 bytes are needed but only 5,000 are free"):
        StackWriter(tmp_path / "out.mrcs", 100, 8, 1.0)
    assert list(tmp_path.iterdir()) == []
    assert files.free_bytes(tmp_path / "not/yet/there") == 5000


def test_full_disk_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full fails as a full disk does, in the kernel."""
    (tmp_path / "out.mrcs").write_text("old")
    with open("/dev/full", "wb") as full, pytest.raises(ResourceError, match=r"out.mrcs: the disk is full"):
        with StackWriter(tmp_path / "out.mrcs", 3, 8, 1.0) as writer:
            os.dup2(full.fileno(), writer._file)
            writer.append(images_of(3))
    assert (tmp_path / "out.mrcs").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "out.mrcs"]


# ---- maps ----------------------------------------------------------------------------------------------------------


def test_map_round_trip(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    path = tmp_path / "map.mrc"
    write_map(path, values, 1.06, (10.0, -20.0, 30.5), (-3, 4, 5))
    volume = read_map(path)
    np.testing.assert_array_equal(volume.values, values)
    assert volume.pixel_size_angstrom == pytest.approx(1.06)
    assert volume.origin_angstrom == (10.0, -20.0, 30.5) and volume.start_voxels == (-3, 4, 5)
    assert mrcfile.validate(path) and list(tmp_path.iterdir()) == [path]
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, values)
        assert file.is_volume() and float(file.voxel_size.z) == pytest.approx(1.06)
        assert float(file.header.origin.y) == -20.0 and int(file.header.nzstart) == 5


def test_map_with_other_axis_order(tmp_path: Path) -> None:
    """Columns along z, rows along x, sections along y: [z, y, x] comes out all the same."""
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)  # z, y, x
    with mrcfile.new(tmp_path / "map.mrc", np.ascontiguousarray(values.transpose(1, 2, 0))) as file:  # y, x, z
        file.header.mapc, file.header.mapr, file.header.maps = 3, 1, 2
        file.header.mx, file.header.my, file.header.mz = 6, 5, 4
        file.header.cella = (6.6, 5.5, 4.4)
        file.header.nxstart, file.header.nystart, file.header.nzstart = 30, 10, 20  # of columns, rows, sections
    volume = read_map(tmp_path / "map.mrc")
    np.testing.assert_array_equal(volume.values, values)
    assert volume.pixel_size_angstrom == pytest.approx(1.1) and volume.start_voxels == (10, 20, 30)


def test_maps_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    write_map(path, np.zeros((1, 4, 4)), 1.0)
    with pytest.raises(InputError, match="must be a volume"):
        read_map(path)
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 2, 3] = np.nan
    with mrcfile.new(path, np.nan_to_num(values), overwrite=True) as file:
        file.voxel_size = (1.0, 1.0, 1.2)
    with pytest.raises(InputError, match="cubic"):
        read_map(path)
    with pytest.raises(ResultError, match="NaN or infinite"):
        write_map(path, values, 1.0)
    write_map(path, np.zeros((4, 4, 4)), 1.0)
    np.memmap(path, np.float32, "r+", 1024)[5] = np.nan
    with pytest.raises(InputError, match="1 NaN or infinite"):
        read_map(path)
    with pytest.raises(InputError, match="three dimensions"):
        write_map(path, np.zeros((4, 4)), 1.0)
    with pytest.raises(InputError, match="must be writable"):
        write_map(tmp_path / "absent/map.mrc", np.zeros((4, 4, 4)), 1.0)


def test_real_map(shared_data: Path) -> None:
    volume = read_map(shared_data / "empiar10076_two_state/10076_classD_32.mrc")
    assert volume.values.shape == (32, 32, 32) and volume.pixel_size_angstrom == 1.0  # its header's, not the truth's
