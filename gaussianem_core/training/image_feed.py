"""Particle images for training: on the GPU when they fit, else in host memory, else from disk with read-ahead."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import torch

from gaussianem_core.errors import ResourceError

GPU_SHARE, HOST_SHARE = 0.5, 0.5
"""Share of the free memory that the images may take on the GPU and in the host."""

READERS = 16
"""Reading threads: a network disk answers many requests in the time of one, and pixels are converted in parallel."""

READ_AHEAD, AHEAD_BYTES = 16, 1 << 29
"""Most batches that are read ahead, and most bytes that they may take; two are read ahead in any case."""

LOADED_PIXELS = 1 << 22
"""Pixels that a thread loads at once: a few MB, for which the allocator keeps its memory. More is new memory each time,
whose pages the system zeroes one by one, and for that the threads wait for each other."""

PATIENCE_SECONDS = 5.0
"""Seconds without an image after which ``waits`` is called, and called again."""

LARGEST = 6e4
"""Largest pixel value kept, in units of the images' standard deviation: float16 ends at 65504."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Reader = Callable[[np.ndarray], np.ndarray]
"""Rows (n,) -> images (n, D, D), float32 or float16."""


class ImageFeed:
    """Batches of images (B, D, D) on the compute device.

    Parameters
    ----------
    read : reads images from the stack into memory of their own; called from several threads at once.
    count, box : number of images in the stack and their size D in pixels.
    invert : whether the pixels change their sign, as those of a stack with white protein do.
    device : where batches are needed.
    place : "gpu", "host" or "disk", where the images are kept; "auto" takes the first that has room.
    free_host_bytes : free memory of the host.
    progress : called with the number of images loaded.
    shown : (N,) which image each row shows, where rows share images (see ``image_rows``); None: row i shows image i.
    waits : called every PATIENCE_SECONDS in which no image comes, with the seconds waited; may raise.

    Raises
    ------
    ResourceError : ``place`` is "gpu" and the device is none.

    ``waited``: seconds spent waiting for images so far.
    """

    def __init__(
        self,
        read: Reader,
        count: int,
        box: int,
        invert: bool,
        device: torch.device,
        place: str,
        free_host_bytes: int,
        progress: Callable[[int], None] = lambda done: None,
        shown: np.ndarray | None = None,
        waits: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.waited, self._waits = 0.0, waits
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read-images")
        self._read, self.box, self.invert, self.device = read, box, invert, device
        self.count = count if shown is None else len(shown)
        self._shown = None if shown is None else torch.from_numpy(shown).to(device)
        half_size = 2 * count * box * box
        if place == "auto":
            place = "disk"
            if device.type == "cuda" and half_size < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
                place = "gpu"
            elif half_size * (1 if device.type == "cuda" else 2) < HOST_SHARE * free_host_bytes:
                place = "host"
        if place == "gpu" and device.type != "cuda":
            raise ResourceError("stack_in_memory gpu needs a GPU (got the CPU). Choose host or disk.")
        self.place = place
        # float16 keeps 3 digits of images of unit variance, far below their noise, in half the space.
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.stack: torch.Tensor | None = None
        if place in ("gpu", "host"):
            target = device if place == "gpu" else torch.device("cpu")
            self.stack = torch.empty(count, box, box, dtype=dtype, device=target)
            each = max(1, LOADED_PIXELS // box**2)
            parts = (np.arange(begin, min(begin + each, count)) for begin in range(0, count, each))
            done = 0
            for loaded in self._in_order(self._load, parts, READERS // 2):
                done += loaded
                progress(done)

    def _load(self, rows: np.ndarray) -> int:
        assert self.stack is not None
        self.stack[int(rows[0]) : int(rows[-1]) + 1] = self._from_stack(rows)
        return len(rows)

    def _from_stack(self, places: np.ndarray) -> torch.Tensor:  # (n,) -> (n, D, D)
        """Images read from the stack, in the type that they come in.

        By NumPy: each reader is one thread, while operations of torch would start threads of their own in each.
        """
        images = self._read(places)
        if self.invert:
            _negate(images)
        if images.dtype != np.float16:  # a broken image may be brighter than float16 can be
            np.clip(images, -LARGEST, LARGEST, out=images)
        return torch.from_numpy(images)

    def subset(self, rows: np.ndarray) -> ImageFeed:
        """A feed of the images of ``rows`` (n,) alone, kept in the same place."""
        part = copy.copy(self)
        part.count = len(rows)
        if self._shown is not None:
            part._shown = self._shown[torch.from_numpy(rows).to(self._shown.device)]
        elif self.stack is not None:
            part.stack = self.stack[torch.from_numpy(rows).to(self.stack.device)]
        else:
            part._read = lambda chosen: self._read(rows[chosen])
        return part

    def places(self, rows: torch.Tensor) -> torch.Tensor:  # (B,) -> (B,)
        """Numbers in the stack of the images of ``rows`` (a tensor on the device)."""
        return rows if self._shown is None else self._shown[rows]

    def _places(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._shown is None else self._shown[torch.from_numpy(rows).to(self._shown.device)].cpu().numpy()

    def get(self, rows: np.ndarray | torch.Tensor) -> torch.Tensor:  # (B,) -> (B, D, D) float32 on the device
        """The images of ``rows``, read without read-ahead."""
        if self.stack is not None:
            index = self.places(torch.as_tensor(rows, device=self.device)).to(self.stack.device)
            return self.stack[index].to(self.device, torch.float32)
        places = self._places(np.asarray(torch.as_tensor(rows).cpu()))
        parts = np.array_split(places, min(READERS, max(1, len(places))))
        return torch.cat(list(self._in_order(self._from_stack, parts, READERS))).to(self.device).float()

    def batches(self, order: np.ndarray, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Yield rows (B,) and their images (B, D, D), both on the device.

        The images are None where the whole stack is on the device: gather them with :meth:`get`. ``order`` is cut into
        whole batches; a rest shorter than ``batch`` is left out.
        """
        return self.chunks([order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)])

    def chunks(self, chunks: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """As :meth:`batches`, with the rows (B,) of each of ``chunks`` as a batch."""
        if chunks and (self.place == "gpu" or (self.stack is not None and self.device.type == "cpu")):
            for rows in torch.from_numpy(np.concatenate(chunks)).to(self.device).split([len(c) for c in chunks]):
                yield rows, None
            return
        yield from self._ahead(chunks)

    def images(self, chunks: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """As :meth:`chunks`, with the images wherever they are kept: gathered, or read ahead while others are used."""
        for rows, images in self.chunks(chunks):
            yield rows, self.get(rows) if images is None else images

    def _ahead(self, chunks: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Read into pinned memory, where there is a GPU, READ_AHEAD batches before they are needed."""

        def read(rows: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
            places = self._places(rows)
            images = self._from_stack(places) if self.stack is None else _taken(self.stack, places)
            return rows, images.pin_memory() if self.device.type == "cuda" else images

        largest = 4 * self.box**2 * max(map(len, chunks), default=1)
        for rows, images in self._in_order(read, chunks, int(np.clip(AHEAD_BYTES // largest, 2, READ_AHEAD))):
            yield (
                torch.from_numpy(np.ascontiguousarray(rows)).to(self.device, non_blocking=True),
                images.to(self.device, non_blocking=True).float(),
            )

    def _in_order(self, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
        """Results of ``work`` in the order of ``items``, of which the readers are at most so many ``ahead``."""
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(work, item))
                if len(waiting) > ahead:
                    yield self._wait(waiting.popleft())
            while waiting:
                yield self._wait(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def _wait(self, future: Future[Result]) -> Result:
        begin, times = time.monotonic(), 0
        while not wait([future], PATIENCE_SECONDS).done:
            times += 1
            self._waits(times * PATIENCE_SECONDS)
        self.waited += time.monotonic() - begin
        return future.result()


def _negate(images: np.ndarray) -> None:
    """Change the sign of images, in place."""
    if images.dtype == np.float16:  # its bit: NumPy has no arithmetic of float16, and takes 160 us an image of 128 px
        bits = images.view(np.uint16)
        np.bitwise_xor(bits, np.uint16(0x8000), out=bits)
    else:
        np.negative(images, out=images)


def _taken(stack: torch.Tensor, places: np.ndarray) -> torch.Tensor:  # (N, D, D), (n,) -> (n, D, D)
    return torch.from_numpy(np.take(stack.numpy(), places, axis=0))
