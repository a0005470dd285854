"""Stacks of images written as a stream to a file that appears whole or not at all. No torch here."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import HEADER_BYTES, new_header
from gaussianem_core.runtime.files import check_free_space, disk_errors, publish, temporary_name


class StackWriter:
    """Write N images to one .mrcs file as a stream; the file appears, whole, when the ``with`` block ends well.

    Parameters
    ----------
    path : the .mrcs file. n_images, box_size : its size, known ahead.
    pixel_size_angstrom : goes into the header.
    float16 : half the space (MRC mode 12) instead of float32 (mode 2).

    The statistics do not depend on the order or the size of the parts in which the images come.

    Raises
    ------
    ResourceError : not enough disk, checked ahead and while writing. InputError : the directory cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_images: int,
        box_size: int,
        pixel_size_angstrom: float,
        float16: bool = False,
    ) -> None:
        self.path, self.n_images, self.box_size = Path(path), n_images, box_size
        self.pixel_size_angstrom = pixel_size_angstrom
        self.dtype = np.dtype("<f2" if float16 else "<f4")
        self._written = np.zeros(n_images, bool)
        self._lock = threading.Lock()
        self._next = 0
        self._sums, self._squares = np.zeros(n_images), np.zeros(n_images)  # of each image's pixels
        self._minimum, self._maximum = np.inf, -np.inf
        check_free_space(self.path.parent, self.n_bytes)
        self._temporary = temporary_name(self.path)
        with disk_errors(self.path):
            self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)

    @property
    def n_bytes(self) -> int:
        """Size of the finished file in bytes."""
        return HEADER_BYTES + self.n_images * self.box_size**2 * self.dtype.itemsize

    @property
    def std(self) -> float:
        """Standard deviation of the pixels written so far, in the precision of the file."""
        count = max(int(self._written.sum()), 1) * self.box_size**2
        return float(np.sqrt(max(self._squares.sum() / count - (self._sums.sum() / count) ** 2, 0.0)))

    def append(self, images: npt.NDArray[np.floating]) -> None:  # (n, D, D)
        """Write images behind those appended before. Raises as :meth:`write`."""
        self.write(np.arange(self._next, self._next + len(images)), images)
        self._next += len(images)

    def write(self, rows: npt.ArrayLike, images: npt.NDArray[np.floating]) -> None:  # (n,), (n, D, D)
        """Write images to the places ``rows``, from 0 (each place once, in any order, from any thread).

        Raises
        ------
        InputError : wrong shape, a place out of range or taken, values that are not finite in the stack's precision.
        ResourceError : the disk is full.
        """
        places = np.atleast_1d(np.asarray(rows, np.int64))
        if images.shape != (len(places), self.box_size, self.box_size):
            raise InputError(
                f"images for {self.path}",
                f"must be ({len(places)}, {self.box_size}, {self.box_size})",
                images.shape,
                "Crop them to the box first.",
            )
        if len(places) == 0:
            return
        if places.min() < 0 or places.max() >= self.n_images:
            raise InputError(
                f"images for {self.path}",
                f"must go to free places from 0 to {self.n_images - 1}",
                f"{places.min()} to {places.max()}",
                "Write every image once.",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.ascontiguousarray(images, dtype=self.dtype)
            flat = data.reshape(len(data), -1).astype(np.float32, copy=False)
            # Sums of one image in float32, of all images in float64: the error stays that of one image.
            sums = flat.sum(axis=1).astype(np.float64)
            suspects = np.flatnonzero(~np.isfinite(sums))
            sums[suspects] = flat[suspects].sum(axis=1, dtype=np.float64)  # a sum of large values may overflow
        if not np.isfinite(sums).all():
            raise InputError(
                f"images for {self.path}",
                f"must be finite in {self.dtype.itemsize * 8} bits",
                f"images {places[~np.isfinite(sums)][:5].tolist()}",
                "Normalise the images, or write them without --float16.",
            )
        squares = np.einsum("ij,ij->i", flat, flat)
        lowest, highest = flat.min(), flat.max()  # of float32: NumPy is forty times slower with float16
        with self._lock:
            if self._written[places].any():
                raise InputError(
                    f"images for {self.path}",
                    "must go to free places",
                    f"a place from {places.min()} to {places.max()} is taken",
                    "Write every image once.",
                )
            self._written[places] = True
            self._minimum, self._maximum = min(self._minimum, lowest), max(self._maximum, highest)
            self._sums[places], self._squares[places] = sums, squares
        size = self.box_size**2 * self.dtype.itemsize
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        with disk_errors(self.path):
            for run in np.split(np.arange(len(places)), breaks):
                self._write_bytes(data[run[0] : run[-1] + 1].data.cast("B"), HEADER_BYTES + int(places[run[0]]) * size)

    def _write_bytes(self, content: memoryview | bytes, offset: int) -> None:
        view = memoryview(content)
        while view:
            done = os.pwrite(self._file, view[: 1 << 30], offset)
            view, offset = view[done:], offset + done

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises
        ------
        InputError : images are missing. ResourceError : the disk is full. The temporary file is then removed.
        """
        if self._file < 0:
            return
        try:
            missing = int(self.n_images - self._written.sum())
            if missing or not self.n_images:
                raise InputError(
                    str(self.path), f"must receive {self.n_images} images", f"{missing} missing", "Write them all."
                )
            count = self.n_images * self.box_size**2
            mean, std = self._sums.sum() / count, self.std
            head = new_header(
                (self.n_images, self.box_size, self.box_size),
                self.dtype,
                self.pixel_size_angstrom,
                is_stack=True,
                statistics=(float(self._minimum), float(self._maximum), mean, std),
            )
            with disk_errors(self.path):
                self._write_bytes(head, 0)
                os.close(self._file)
                self._file = -1
                publish(self._temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Close and remove the temporary file, without a result."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> StackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
