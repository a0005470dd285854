"""MRC files: headers checked against the file, volumes written atomically. No torch here.

The header follows Cheng et al., J. Struct. Biol. 192, 146 (2015) (MRC2014), with mode 12 (float16) and IMOD's mark
for signed bytes. Stacks without the MAP stamp or with extended headers, of either byte order, are read: what counts
is that size, mode and file length agree.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from mrcfile.dtypes import HEADER_DTYPE

from gaussianem_core.errors import InputError, ResultError
from gaussianem_core.runtime.files import atomic_write
from gaussianem_core.runtime.readers import open_file

HEADER_BYTES = 1024
_MODES: dict[int, np.dtype[Any]] = {
    0: np.dtype("i1"),
    1: np.dtype("i2"),
    2: np.dtype("f4"),
    6: np.dtype("u2"),
    12: np.dtype("f2"),
}
_IMOD_STAMP = 1146047817
_LARGEST_SIDE = 1 << 24
_TEMPLATE = np.dtype(HEADER_DTYPE)


@dataclass(frozen=True)
class MrcHeader:
    """What a reader needs of one MRC file.

    ``shape`` is (sections, rows, columns); ``dtype`` knows the byte order; ``offset`` is where the data begin.
    ``pixel_size_angstrom`` is that of x, y, z (NaN where the header has none); ``origin_angstrom`` and
    ``start_voxels`` are x, y, z; ``axes`` is (mapc, mapr, maps).
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    pixel_size_angstrom: tuple[float, float, float]
    origin_angstrom: tuple[float, float, float]
    start_voxels: tuple[int, int, int]
    axes: tuple[int, int, int]
    is_stack: bool

    @property
    def section_bytes(self) -> int:
        """Bytes of one section (image)."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize


def read_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read and check the header of an MRC file against the file's size.

    Raises
    ------
    InputError : no such file, not an MRC file, a mode that holds no real images, or a file shorter than its header
        says (names the bytes expected and found).
    """
    path = Path(path)
    with open_file(path, str(path), "a readable MRC file", "Check the path.") as file:
        head = file.read(HEADER_BYTES)
        actual = os.fstat(file.fileno()).st_size
    if head[:2] in (b"\x1f\x8b", b"BZ"):
        raise InputError(str(path), "must not be compressed", "gzip or bzip2", "Decompress it first.")
    if len(head) < HEADER_BYTES:
        raise InputError(
            str(path),
            f"must hold an MRC header of {HEADER_BYTES} bytes",
            f"{len(head)} bytes",
            "The file is cut off or no MRC file.",
        )
    fields, order = _parse(head, path)
    nx, ny, nz, mode = (int(fields[name]) for name in ("nx", "ny", "nz", "mode"))
    if mode not in _MODES:
        raise InputError(
            str(path),
            "must be of mode 0, 1, 2, 6 or 12 (8 or 16 bit integers, 32 or 16 bit floats)",
            f"mode {mode}",
            "Convert it, for example with relion_image_handler.",
        )
    dtype = _MODES[mode].newbyteorder(order)
    imod = np.frombuffer(head, f"{order}i4", 2, 152)
    if mode == 0 and imod[0] == _IMOD_STAMP and not imod[1] & 1:
        dtype = np.dtype("u1")
    offset = HEADER_BYTES + int(fields["nsymbt"])
    expected = offset + nx * ny * nz * dtype.itemsize
    if actual < expected:
        raise InputError(
            str(path),
            f"must be {expected:,} bytes long ({nz} x {ny} x {nx} values of {dtype.itemsize} bytes "
            f"behind {offset} bytes of header)",
            f"{actual:,} bytes",
            "The file is cut off: copy or extract it again.",
        )
    intervals = [int(fields[name]) for name in ("mx", "my", "mz")]
    cell = [float(fields["cella"][axis]) for axis in "xyz"]
    sizes = [c / m if m > 0 and 0 < c < np.inf else float("nan") for c, m in zip(cell, intervals, strict=True)]
    axes = tuple(int(fields[name]) for name in ("mapc", "mapr", "maps"))
    starts = tuple(int(fields[name]) for name in ("nxstart", "nystart", "nzstart"))
    origin = tuple(float(fields["origin"][axis]) for axis in "xyz")
    return MrcHeader(
        path,
        (nz, ny, nx),
        dtype,
        offset,
        (sizes[0], sizes[1], sizes[2]),
        (origin[0], origin[1], origin[2]),
        (starts[0], starts[1], starts[2]),
        (axes[0], axes[1], axes[2]) if sorted(axes) == [1, 2, 3] else (1, 2, 3),
        int(fields["ispg"]) == 0,
    )


def _parse(head: bytes, path: Path) -> tuple[np.void, Literal["<", ">"]]:
    """Find the byte order in which size, mode and extended header make sense (the stamp may be wrong or absent)."""
    orders: tuple[Literal["<", ">"], ...] = (">", "<") if head[212] == 0x11 else ("<", ">")
    for order in orders:
        fields = np.frombuffer(head, _TEMPLATE.newbyteorder(order))[0]
        sides = (int(fields["nx"]), int(fields["ny"]), int(fields["nz"]))
        if all(0 < side < _LARGEST_SIDE for side in sides) and 0 <= int(fields["mode"]) < 256 and fields["nsymbt"] >= 0:
            return fields, order
    raise InputError(str(path), "must be an MRC file", "no sensible size in its header", "Give .mrc or .mrcs files.")


def new_header(
    shape: tuple[int, int, int],
    dtype: npt.DTypeLike,
    pixel_size_angstrom: float,
    *,
    is_stack: bool,
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
    start_voxels: tuple[int, int, int] = (0, 0, 0),
    statistics: tuple[float, float, float, float] = (0.0, -1.0, -2.0, -1.0),
) -> bytes:
    """Make the 1,024 bytes of a header (little endian, MAP stamp).

    Parameters
    ----------
    shape : (sections, rows, columns)
    statistics : minimum, maximum, mean, standard deviation; the default says "not known" as MRC2014 has it.
    """
    mode = next(mode for mode, known in _MODES.items() if known == np.dtype(dtype))
    nz, ny, nx = shape
    fields = np.zeros((), _TEMPLATE.newbyteorder("<"))
    for name, value in (("nx", nx), ("ny", ny), ("nz", nz), ("mode", mode), ("nversion", 20141), ("nlabl", 1)):
        fields[name] = value
    for name, value in (("mx", nx), ("my", ny), ("mz", 1 if is_stack else nz), ("ispg", 0 if is_stack else 1)):
        fields[name] = value
    intervals = (nx, ny, 1 if is_stack else nz)
    for axis, size, origin, start in zip("xyz", intervals, origin_angstrom, start_voxels, strict=True):
        fields["cella"][axis] = size * pixel_size_angstrom
        fields["origin"][axis] = origin
        fields[f"n{axis}start"] = start
    for axis in ("alpha", "beta", "gamma"):
        fields["cellb"][axis] = 90.0
    fields["mapc"], fields["mapr"], fields["maps"] = 1, 2, 3
    fields["dmin"], fields["dmax"], fields["dmean"], fields["rms"] = statistics
    fields["map"], fields["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    fields["label"][0] = b"GaussianEM"
    return fields.tobytes()


@dataclass(frozen=True)
class Volume:
    """A map: ``values`` (D, D, D) float32 as [z, y, x], its pixel size (NaN if the file has none) and its place.

    ``origin_angstrom`` and ``start_voxels`` are x, y, z, kept as they were so that derived maps overlay the source.
    """

    values: npt.NDArray[np.float32]
    pixel_size_angstrom: float
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start_voxels: tuple[int, int, int] = (0, 0, 0)


def read_map(path: str | os.PathLike[str]) -> Volume:
    """Read a volume as [z, y, x] float32, whatever the axis order of the file.

    Raises
    ------
    InputError : unreadable or truncated file, one section only, voxels that are not cubic, values that are not finite.
    """
    header = read_header(path)
    if header.shape[0] == 1:
        raise InputError(str(path), "must be a volume", "one section", "Give a 3D map.")
    sizes = np.array(header.pixel_size_angstrom)
    if np.ptp(sizes) > 1e-3 * sizes.max():  # headers round the cell to float32, programs to 3 decimals
        raise InputError(
            str(path), "must have cubic voxels", f"{sizes.round(4).tolist()} A", "Resample the map or mend its header."
        )
    count = int(np.prod(header.shape))
    values = np.fromfile(header.path, header.dtype, count, offset=header.offset).reshape(header.shape)
    # section, row, column -> z, y, x
    order = [header.axes[::-1].index(axis) for axis in (3, 2, 1)]
    values = np.ascontiguousarray(values.transpose(order), dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            str(path),
            "must hold finite values",
            f"{np.count_nonzero(~np.isfinite(values))} NaN or infinite voxels",
            "Make the map again.",
        )
    starts = dict(zip(header.axes, header.start_voxels, strict=True))
    return Volume(values, float(sizes[0]), header.origin_angstrom, (starts[1], starts[2], starts[3]))


def write_map(
    path: str | os.PathLike[str],
    values: npt.NDArray[np.floating],
    pixel_size_angstrom: float,
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
    start_voxels: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Write a volume (Z, Y, X) as [z, y, x] float32, atomically.

    Parameters
    ----------
    origin_angstrom, start_voxels : x, y, z, as ``read_map`` gives them.

    Raises
    ------
    InputError : the path cannot be written. ResourceError : the disk is full. ResultError : voxels that are not
        finite; what stands at ``path`` stays.
    """
    data = np.ascontiguousarray(values, dtype="<f4")
    if data.ndim != 3:
        raise InputError("volume", "must have three dimensions", data.shape, "Give an array [z, y, x].")
    if not np.isfinite(data).all():
        raise ResultError(f"{path}: the volume holds NaN or infinite values. Nothing was written; check the model.")
    wide = data.astype(np.float64)
    statistics = (float(data.min()), float(data.max()), float(wide.mean()), float(wide.std()))
    head = new_header(
        (data.shape[0], data.shape[1], data.shape[2]),
        np.float32,
        pixel_size_angstrom,
        is_stack=False,
        origin_angstrom=origin_angstrom,
        start_voxels=start_voxels,
        statistics=statistics,
    )
    with atomic_write(path) as file:
        file.write(head)
        file.write(data.data)
