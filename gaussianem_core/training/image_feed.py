"""Particle images for training: on the GPU when they fit, else in host memory, else from disk with read-ahead."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from gaussianem_core.errors import ResourceError

GPU_SHARE, HOST_SHARE = 0.5, 0.5
"""Share of the free memory that the images may take on the GPU and in the host."""

READ_AHEAD = 6

LARGEST = 6e4
"""Of a pixel's value, in units of the images' standard deviation: float16 holds little more."""

Reader = Callable[[np.ndarray], np.ndarray]
"""Rows (n,) -> images (n, D, D) float32."""


class ImageFeed:
    """Batches of images on the compute device.

    Parameters
    ----------
    read : reads images from the stack. count, box : number and size of the images. sign : -1 for white protein.
    device : where batches are needed. place : auto | gpu | host | disk. free_host_bytes : memory left in the host.
    progress : called with the number of images loaded.
    shown : (N,) which image each row shows, where rows share images (see ``image_rows``); None: row i shows image i.
    """

    def __init__(
        self,
        read: Reader,
        count: int,
        box: int,
        sign: float,
        device: torch.device,
        place: str,
        free_host_bytes: int,
        progress: Callable[[int], None] = lambda done: None,
        shown: np.ndarray | None = None,
    ) -> None:
        self._read, self.box, self.sign, self.device = read, box, sign, device
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
            for begin in range(0, count, 4096):
                rows = np.arange(begin, min(begin + 4096, count))
                images = torch.from_numpy(read(rows) * np.float32(sign))
                # A broken image may be brighter than float16 can be.
                self.stack[begin : begin + len(rows)] = images.clamp_(-LARGEST, LARGEST).to(dtype)
                progress(begin + len(rows))

    def subset(self, rows: np.ndarray) -> ImageFeed:
        """The images of ``rows`` alone, kept in the same place."""
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
        """Where the images of rows (on the device) stand in the stack."""
        return rows if self._shown is None else self._shown[rows]

    def _places(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._shown is None else self._shown[torch.from_numpy(rows).to(self._shown.device)].cpu().numpy()

    def get(self, rows: np.ndarray | torch.Tensor) -> torch.Tensor:  # (B,) -> (B, D, D) float32 on the device
        """One batch, at once."""
        if self.stack is not None:
            index = self.places(torch.as_tensor(rows, device=self.device)).to(self.stack.device)
            return self.stack[index].to(self.device, torch.float32)
        images = self._read(self._places(np.asarray(torch.as_tensor(rows).cpu()))) * np.float32(self.sign)
        return torch.from_numpy(images).to(self.device)

    def batches(self, order: np.ndarray, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Rows (B,) on the device, and images, or None where the stack is on the GPU (gather them there).

        ``order`` is cut into whole batches; a rest shorter than ``batch`` is left out.
        """
        return self.chunks([order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)])

    def chunks(self, chunks: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """:meth:`batches` of the rows of each of ``chunks``."""
        if chunks and (self.place == "gpu" or (self.stack is not None and self.device.type == "cpu")):
            for rows in torch.from_numpy(np.concatenate(chunks)).to(self.device).split([len(c) for c in chunks]):
                yield rows, None
            return
        yield from self._ahead(chunks)

    def _ahead(self, chunks: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Read in a thread, into pinned memory where there is a GPU, READ_AHEAD batches before they are needed."""
        ready: queue.Queue[tuple[np.ndarray, torch.Tensor] | BaseException | None] = queue.Queue(READ_AHEAD)
        stop = threading.Event()

        def put(item: tuple[np.ndarray, torch.Tensor] | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for rows in chunks:
                    if stop.is_set():
                        return
                    if self.stack is not None:
                        images = self.stack[torch.from_numpy(np.ascontiguousarray(self._places(rows)))]
                    else:
                        images = torch.from_numpy(self._read(self._places(rows)) * np.float32(self.sign))
                    put((rows, images.pin_memory() if self.device.type == "cuda" else images))
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                rows, images = item
                yield (
                    torch.from_numpy(np.ascontiguousarray(rows)).to(self.device, non_blocking=True),
                    images.to(self.device, non_blocking=True).float(),
                )
        finally:
            stop.set()
            thread.join()
