"""The device that a job computes on, and the processes that train together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.distributed

from gaussianem_core.errors import ResourceError


def choose_device(wanted: str, index: int = 0, threads: int = 0, tf32: bool = True) -> torch.device:
    """The device for "auto", "cpu" or "cuda" (GPU number ``index``); sets the number of CPU ``threads`` unless it is 0.

    ``tf32``: plain float32 products on a GPU (encoder, exact decoding) may be taken in TF32, 1e-3 relative, far below
    the noise of images.

    Raises ResourceError if CUDA is asked for and absent.
    """
    if threads:
        torch.set_num_threads(threads)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            "--device cuda: no usable CUDA GPU was found on this machine. "
            "Check nvidia-smi and that torch is a CUDA build, or use --device cpu."
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        # Adam's moments of units at rest decay into denormal numbers, which CPUs multiply a hundred times slower.
        torch.set_flush_denormal(True)
        return torch.device("cpu")
    torch.cuda.set_device(index)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return torch.device("cuda", index)


class Aside:
    """A CUDA stream for work beside the current one's, of operations too small to fill a GPU. In a CUDA graph it
    becomes a branch. Elsewhere than on CUDA nothing changes.

    What is done in ``with aside:`` comes after what was begun in the current stream before the last :meth:`fork`; what
    the current stream does after :meth:`join` comes after that. Gradients run in the streams of their operations.
    Tensors that cross are named: else their memory, once they are dropped, would be given to others while the stream
    that they were not made in still reads them.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._inside = contextlib.ExitStack()

    def fork(self, *used: Any) -> Aside:
        """Let what comes next here wait for all that was begun in the current stream; returns itself.

        ``used``: what was made elsewhere and is used here, tensors in tuples and lists.
        """
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            for tensor in _tensors(used):
                tensor.record_stream(self._stream)
        return self

    def __enter__(self) -> None:
        if self._stream is not None:
            self._inside.enter_context(torch.cuda.stream(self._stream))

    def __exit__(self, *error: object) -> None:
        self._inside.close()

    def join(self, *made: Any) -> None:
        """Let what comes next in the current stream wait for all that was begun here.

        ``made``: what was made here and is used there, tensors in tuples and lists.
        """
        if self._stream is not None:
            current = torch.cuda.current_stream(self._stream.device)
            current.wait_stream(self._stream)
            for tensor in _tensors(made):
                tensor.record_stream(current)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples and lists, and in the fields of a dataclass."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name))


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:  # (B, ...) -> (world * B, ...)
        """The tensors of all processes, concatenated in the order of ranks; every process gets them."""
        if self.world == 1:
            return tensor
        together = tensor.new_empty(self.world * tensor.shape[0], *tensor.shape[1:])
        torch.distributed.all_gather(list(together.chunk(self.world)), tensor.contiguous())
        return together

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over all processes, in place."""
        if self.world == 1:
            return tensor
        if torch.distributed.get_backend() == "nccl":  # which divides on the way
            torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.AVG)
            return tensor
        return self.sum_(tensor).div_(self.world)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over all processes."""
        return self.mean_(tensor.clone())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all get the same answer."""
        if self.world == 1:
            return flag
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        return bool(self.sum_(torch.tensor(float(flag), device=device)) > 0)

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Give every process rank 0's tensors, in place."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)


def distributed(wanted: str = "auto") -> Ranks:
    """Ranks from the variables that torchrun sets; joins the group at the first call.

    ``wanted`` is the device option: NCCL joins GPUs, gloo CPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.distributed.is_initialized():
        cuda = torch.cuda.is_available() and wanted != "cpu"
        if cuda:
            torch.cuda.set_device(local)
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return Ranks(int(os.environ["RANK"]), world, local)


@contextlib.contextmanager
def gpu_memory_advice(batch: int, option: str, other: str) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into one that names the batch (``option``) that would fit.

    Raises ResourceError in its place.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        total = torch.cuda.mem_get_info()[1]
        peak = torch.cuda.max_memory_allocated()
        fits = max(1, int(batch * 0.8 * total / max(peak * 1.25, 1)))
        raise ResourceError(
            f"GPU memory is full: {peak / 2**30:.1f} GiB were in use of {total / 2**30:.1f} GiB. "
            f"Try {option} {min(fits, max(1, batch // 2))}, or {other}."
        ) from error


@contextlib.contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into ResourceError that says what to make smaller."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
        raise ResourceError(
            f"GPU memory is full: {free:.1f} of {total:.1f} GiB are free. {remedy}, or use --device cpu."
        ) from error
