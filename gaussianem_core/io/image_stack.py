"""Particle images, read when asked for from many stacks. No torch here.

Memory is bounded by the batch: images are read with positioned reads (not memory maps, whose pages would count
against the process), grouped by file and sorted by place, and at most ``workers + 1`` batches are held.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import TracebackType

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.window import Images, background_statistics, window_mask
from gaussianem_core.io.mrc import MrcHeader, Volume, read_header, read_map, write_map
from gaussianem_core.io.particle_table import ParticleTable
from gaussianem_core.io.stack_writer import StackWriter

__all__ = [
    "ImageGroup",
    "ImageStack",
    "StackWriter",
    "Volume",
    "background_statistics",
    "read_map",
    "window_mask",
    "write_map",
]

_OPEN_FILES = 64
_PARTS = 512  # of memory that one call fills; Linux takes 1,024


@dataclass(frozen=True)
class ImageGroup:
    """Particles whose images have one box and one pixel size; ``rows`` (n,) are row numbers of the stack."""

    rows: npt.NDArray[np.int64]
    box_size: int
    pixel_size_angstrom: float


class ImageStack:
    """Images of N particles, read when asked for.

    Parameters
    ----------
    headers : one per file of images.
    stack_index, image_index : (N,) which file, which image in it (from 0).
    pixel_size_angstrom : (N,)

    Reading is safe from several threads. Close it, or use it in a ``with`` block, to close its files.

    Raises
    ------
    InputError : images that are not square, or numbers beyond those of their stack.
    """

    def __init__(
        self,
        headers: Sequence[MrcHeader],
        stack_index: npt.NDArray[np.integer],
        image_index: npt.NDArray[np.integer],
        pixel_size_angstrom: npt.NDArray[np.floating],
    ) -> None:
        self.headers = tuple(headers)
        self.stack_index = np.asarray(stack_index)
        self.image_index = np.asarray(image_index)
        self.pixel_size_angstrom = np.asarray(pixel_size_angstrom, np.float64)
        for header in self.headers:
            if header.shape[1] != header.shape[2]:
                raise InputError(
                    str(header.path),
                    "must hold square images",
                    f"{header.shape[2]} x {header.shape[1]}",
                    "Extract the particles again.",
                )
        self.box_size = np.array([header.shape[1] for header in self.headers], np.int64)[self.stack_index]
        counts = np.array([header.shape[0] for header in self.headers], np.int64)[self.stack_index]
        beyond = np.flatnonzero((self.image_index >= counts) | (self.image_index < 0))
        if len(beyond):
            row = beyond[0]
            raise InputError(
                f"row {row + 1}",
                f"must name one of the {counts[row]} images of {self._header(row).path}",
                f"image {self.image_index[row] + 1}",
                "The stack is incomplete or belongs to another particle file.",
            )
        self._files: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_table(cls, table: ParticleTable) -> ImageStack:
        """Images of a table whose stacks were found. Raises InputError as the class and :func:`read_header`."""
        headers = table.stack_headers or tuple(read_header(path) for path in table.stacks)
        return cls(headers, table.stack_index, table.image_index, table.pixel_size_angstrom)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], pixel_size_angstrom: float | None = None) -> ImageStack:
        """All images of one stack, in its order; the pixel size is the header's unless given.

        Raises InputError as the class and :func:`read_header`.
        """
        header = read_header(path)
        n = header.shape[0]
        size = header.pixel_size_angstrom[0] if pixel_size_angstrom is None else pixel_size_angstrom
        return cls((header,), np.zeros(n, np.int32), np.arange(n), np.full(n, size))

    def __len__(self) -> int:
        return len(self.stack_index)

    def __enter__(self) -> ImageStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the open files; reading again opens them again."""
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def _header(self, row: int | np.integer) -> MrcHeader:
        return self.headers[self.stack_index[row]]

    def groups(self) -> list[ImageGroup]:
        """Rows by box and pixel size, largest group first."""
        keys = np.stack([self.box_size.astype(np.float64), self.pixel_size_angstrom.round(6)], axis=1)
        unique, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        return [
            ImageGroup(np.flatnonzero(inverse == i), int(unique[i, 0]), float(unique[i, 1]))
            for i in np.argsort(-counts, kind="stable")
        ]

    def read(self, rows: npt.ArrayLike | slice | None = None, *, half: bool = False) -> Images:  # -> (n, D, D)
        """Read images in the order of ``rows`` (numbers, slice or mask; None: all), as float32.

        With ``half`` as float16 where they are stored so, which spares the conversion: most of the time of reading.

        Raises
        ------
        InputError : images of several boxes at once (see ``groups``), or NaN or infinite pixels (rows named, from 1).
        """
        chosen = self._numbers(rows)
        boxes = np.unique(self.box_size[chosen] if len(chosen) else self.box_size[:1])
        if len(boxes) > 1:
            raise InputError("images", "must have one box to be read together", boxes.tolist(), "Read group by group.")
        box = int(boxes[0]) if len(boxes) else 0
        stacks, numbers = self.stack_index[chosen], self.image_index[chosen]
        half = half and all(self.headers[i].dtype.newbyteorder("=") == np.float16 for i in np.unique(stacks))
        images = np.empty((len(chosen), box, box), np.float16 if half else np.float32)
        whole = images.reshape(-1).view(np.uint8).data
        for stack, runs in _runs(stacks, numbers):
            header = self.headers[stack]
            with self._opened(stack) as descriptor:
                for first, places in runs:
                    if header.dtype == images.dtype:
                        _fill(descriptor, header, first, _parts(whole, header.section_bytes, places))
                    else:
                        buffer = np.empty((len(places), *header.shape[1:]), header.dtype)
                        _fill(descriptor, header, first, [buffer.reshape(-1).view(np.uint8).data])
                        images[places] = buffer
        self._refuse_infinite(images, chosen)
        return images

    def _numbers(self, rows: npt.ArrayLike | slice | None) -> npt.NDArray[np.int64]:
        """Row numbers (n,) from 0, of numbers, a slice or a mask; of a few of 10^6 rows in the time of a few."""
        if rows is None:
            rows = slice(None)
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)), dtype=np.int64)
        wanted = np.atleast_1d(np.asarray(rows))
        if wanted.dtype == bool:
            return np.arange(len(self), dtype=np.int64)[wanted]
        numbers = wanted.astype(np.int64, casting="same_kind" if len(wanted) else "unsafe")
        if len(numbers) and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows must be below {len(self)} (got {numbers.min()} to {numbers.max()})")
        return np.where(numbers < 0, numbers + len(self), numbers)

    def iter_batches(
        self, batch: int, rows: npt.ArrayLike | None = None, workers: int = 1
    ) -> Iterator[tuple[npt.NDArray[np.int64], Images]]:
        """Yield (rows (n,), images (n, D, D)) in the order of ``rows``, reading ahead in threads. Raises as ``read``.

        Parameters
        ----------
        batch : images at a time (the last batch may be smaller).
        rows : row numbers of one box (None: all).
        workers : reading threads; 0 reads in the caller's thread. At most ``workers + 1`` batches are in memory.
        """
        chosen = self._numbers(rows)
        parts = [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
        if workers <= 0:
            for part in parts:
                yield part, self.read(part)
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="read-images")
        ahead: deque[tuple[npt.NDArray[np.int64], Future[Images]]] = deque()
        try:
            for part in parts:
                ahead.append((part, pool.submit(self.read, part)))
                if len(ahead) > workers:
                    rows_done, future = ahead.popleft()
                    yield rows_done, future.result()
                    del future
            while ahead:
                rows_done, future = ahead.popleft()
                yield rows_done, future.result()
                del future
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _opened(self, stack: int) -> _OpenFile:
        return _OpenFile(self, stack)

    def _refuse_infinite(self, images: Images, rows: npt.NDArray[np.int64]) -> None:
        if images.dtype == np.float16:  # the exponent of what is not finite has all its bits
            suspects = np.flatnonzero((images.view(np.uint16) & 0x7FFF).max(axis=(1, 2), initial=0) >= 0x7C00)
        else:
            # A sum is finite only when all its terms are; one that is not (it may just have overflowed) is looked into.
            with np.errstate(invalid="ignore", over="ignore"):
                suspects = np.flatnonzero(~np.isfinite(images.sum(axis=(1, 2))))
        bad = rows[[i for i in suspects if not np.isfinite(images[i]).all()]]
        if len(bad):
            shown = ", ".join(f"{row + 1} ({self.image_index[row] + 1}@{self._header(row).path})" for row in bad[:5])
            raise InputError(
                "particle images",
                "must hold finite values",
                f"NaN or infinite pixels in row {shown}" + (f" and {len(bad) - 5} more" if len(bad) > 5 else ""),
                "Remove these particles or extract them again.",
            )


def _runs(
    stacks: npt.NDArray[np.integer], numbers: npt.NDArray[np.integer]
) -> Iterator[tuple[int, Iterator[tuple[int, npt.NDArray[np.integer]]]]]:
    """Images that follow each other on disk, as (first number, places in ``numbers`` (n,)), file by file."""
    order = np.lexsort((numbers, stacks))
    stacks, numbers = stacks[order], numbers[order]
    breaks = np.flatnonzero((np.diff(stacks) != 0) | (np.diff(numbers) != 1)) + 1
    bounds = [0, *breaks.tolist(), len(order)] if len(order) else []
    for stack, runs in groupby(pairwise(bounds), key=lambda bound: int(stacks[bound[0]])):
        yield stack, ((int(numbers[begin]), order[begin:end]) for begin, end in runs)


def _parts(whole: memoryview, size: int, places: npt.NDArray[np.integer]) -> list[memoryview]:
    """Pieces of ``size`` bytes of ``whole`` at ``places`` (n,); one where these follow each other."""
    begin, count = int(places[0]), len(places)
    if count == 1 or (places[-1] - begin == count - 1 and (np.diff(places) == 1).all()):
        return [whole[begin * size : (begin + count) * size]]
    return [whole[place * size : (place + 1) * size] for place in places.tolist()]


def _fill(descriptor: int, header: MrcHeader, first: int, parts: list[memoryview]) -> None:
    """Read what follows in a file from image ``first`` on into ``parts``, one after the other."""
    start = header.offset + first * header.section_bytes
    while parts:
        got = os.preadv(descriptor, parts[:_PARTS], start)
        if got <= 0:
            raise InputError(
                str(header.path),
                f"must hold {header.shape[0]} images",
                f"only {start:,} bytes",
                "The file was cut off while it was read.",
            )
        start += got
        while parts and got >= len(parts[0]):
            got -= len(parts.pop(0))
        if got:
            parts[0] = parts[0][got:]


class _OpenFile:
    """One open stack for the time of a read; the least recently used of the idle ones are closed."""

    def __init__(self, images: ImageStack, stack: int) -> None:
        self.images, self.stack = images, stack

    def __enter__(self) -> int:
        own = self.images
        with own._lock:
            if self.stack not in own._files:
                path = own.headers[self.stack].path
                try:
                    own._files[self.stack] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise InputError(str(path), "must be readable", error.strerror, "Check the path.") from None
            own._files.move_to_end(self.stack)
            own._users[self.stack] = own._users.get(self.stack, 0) + 1
            return own._files[self.stack]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        own = self.images
        with own._lock:
            own._users[self.stack] -= 1
            if not own._users[self.stack]:
                del own._users[self.stack]
            idle = [stack for stack in own._files if stack not in own._users]
            for stack in idle[: max(0, len(own._files) - _OPEN_FILES)]:
                os.close(own._files.pop(stack))
